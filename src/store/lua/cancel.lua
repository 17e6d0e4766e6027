-- cancel: asks, from anywhere, for the end of one job; twice is the same as once. What nobody owns and
-- nobody has paid for is not to be submitted any more: it goes to `resume`, whose next owner tells the user
-- and ends it. All else is marked. An owner learns it with his next beat and cancels at fal, or, where a
-- submit is under way, once its answer is there; whoever takes the job over finds the mark in the record.
-- KEYS   1 record   2 later   3 resume   4 high   5 default   6 low   7 bell
-- ARGV   1 namespace   2 id   3 format
-- MAKES  cancels of the owner; list, line, turn and slots of its user (same slot on a cluster)
-- GIVES  {word, state}; word: ended (nobody will pay for it any more), asked, late (its result
--        is on its way to the chat, or its failure is), over (it has ended before), newer (another
--        version's), gone
-- CALLER View::cancel
local ns, id = ARGV[1], ARGV[2]
local r = redis.call('HMGET', KEYS[1], 'state', 'phase', 'request_id', 'priority', 'worker', 'token', 'kind', 'v',
  'user', 'behind')
local state, phase = r[1], r[2]
if not state then return {'gone', ''} end
if state == 'done' or state == 'dead' or state == 'cancelled' then return {'over', state} end
if (tonumber(r[8] or '0') or 0) > tonumber(ARGV[3]) then return {'newer', state} end
if phase == 'telling' and r[7] == 'cancelled' then return {'asked', state} end
if phase == 'delivering' or phase == 'telling' then return {'late', state} end
redis.call('PERSIST', KEYS[1]) -- allowed without memory; so is the rest, then
if state == 'running' or r[3] or phase == 'polling' or phase == 'collecting' then
  redis.call('HSETNX', KEYS[1], 'cancel_asked', (now_ms()))
  if state == 'running' then
    local cancels = ns .. ':cancels:' .. (r[5] or '')
    redis.call('HSET', cancels, id, r[6] or '')
    redis.call('EXPIRE', cancels, 3600) -- an owner that died does not come for them
  end
  return {'asked', state}
end
to_tell(ns, id, {state = state, priority = r[4], user = r[9], behind = r[10]}, KEYS[3], 'cancelled',
  'cancelled by request')
ring(KEYS[7])
return {'ended', state}
