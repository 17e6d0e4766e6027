-- delete: takes one job out of every place and leaves the bare id, whose repeated LPUSH must stay a duplicate.
-- What a worker holds, or what runs at fal, is to be cancelled first. A life that had not ended ends here, with an
-- event that says whose it was to nobody: the id and what it cost, no more.
-- KEYS   1 record   2 spec   3 large result   4 later   5 dead   6 held by a rate   7 resume   8 events   9 suspects
-- ARGV   1 namespace   2 id   3 format   4 how long the bare id stays, seconds   5 only look (0, 1)
-- MAKES  list, line, turn and slots of its user, places at fal (same slot on a cluster)
-- GIVES  {word, state, charged, ms since when it is known}; word: ok, bare (there was no more than the id), running, newer (another
--        version's), gone
-- CALLER View::delete
local ns, id = ARGV[1], ARGV[2]
local r = redis.call('HMGET', KEYS[1], 'state', 'phase', 'request_id', 'priority', 'kind', 'v', 'user', 'behind',
  'charged', 'doubt', 'attempt', 'at_fal', 'redelivers', 'token', 'seq', 'queued_at', 'first_queued_at')
local was, phase, kind, user = r[1], r[2] or 'submitting', r[5], r[7]
local state = was
local charged, since = r[9] or 'no', tonumber(r[17] or r[16] or '') or 0
if not state then return {'gone', '', '', 0} end
if (tonumber(r[6] or '0') or 0) > tonumber(ARGV[3]) then return {'newer', state, charged, since} end
local ended = state == 'done' or state == 'dead' or state == 'cancelled'
if not ended and (state == 'running' or phase == 'polling' or phase == 'collecting'
  or (phase == 'submitting' and r[3])) then
  return {'running', state, charged, since}
end
local word = (ended and not r[16]) and 'bare' or 'ok'
if r[10] == 'submit' then charged = worse(charged, 'unknown') end
if ARGV[5] == '1' then return {word, state, charged, since} end
look_at_events(KEYS[8])
redis.call('ZREM', KEYS[5], id) -- allowed without memory; so is the rest, then
redis.call('ZREM', KEYS[9], id)
redis.call('DEL', KEYS[2], KEYS[3])
if word == 'bare' then return {word, state, charged, since} end
local bare = {'v', r[6] or ARGV[3], 'charged', charged}
local function put(field, value)
  if value then bare[#bare + 1] = field; bare[#bare + 1] = value end
end
if ended then
  -- So that a repeat of its end is known as one.
  put('token', r[14])
  put('seq', r[15])
else
  if state == 'waiting' then
    leave_line(ns, standing_in(r[4] or 'default', r[8]), user, id)
  elseif state == 'queued' and phase ~= 'submitting' then
    redis.call('LREM', KEYS[7], 0, id)
  elseif state == 'queued' then
    local p = standing_in(r[4] or 'default', r[8])
    redis.call('LREM', ns .. ':ready:' .. p, -1, id)
    if user then pass_turn(ns, p, user, id, not r[8] and is_full(ns, user, (turn_settings(ns)))) end
  end
  redis.call('ZREM', KEYS[4], id)
  redis.call('ZREM', KEYS[6], id)
  leave_slot(ns, user, id)
  leave_fal(ns, id, r[12])
  local name = 'cancelled'
  state = 'cancelled'
  if phase == 'telling' and kind ~= 'cancelled' then
    name, state = 'failed', 'dead'
  else
    kind = 'cancelled'
  end
  if not r[13] then
    redis.call('XADD', KEYS[8], '*', 'event', name, 'at', now_ms(), 'job', id, 'attempt', r[11] or 0, 'kind', kind,
      'error', 'deleted', 'charged', charged)
  end
end
put('kind', kind)
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'state', state, unpack(bare))
redis.call('EXPIRE', KEYS[1], ARGV[4])
return {word, was, charged, since}
