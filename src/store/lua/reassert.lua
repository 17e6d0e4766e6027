-- reassert: after a Redis that forgot, an instance writes down again what it holds, unless the record
-- knows as much or more.
-- KEYS   1 claims of the instance   2 hash of the instance
-- ARGV   1 namespace   2 instance   3 format   4 n   then n times: id, token, seq, spec ('' none), '1' if it gives way
--        to whatever another owner wrote, pairs, pairs x (field, value)
-- MAKES  records and specs of the ids, dead, slots of their users, places at fal (same slot on a cluster)
-- GIVES  {word, answer...}: one of kept (the record knew), closed (it knew, and has ended so), written, lost (another
--        owner has it, it has ended, or it was retried since) for each; word: ok, buried
-- CALLER Session::reassert_rows
local ns, me, format, n = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call('HGET', KEYS[2], 'dead') then return {'buried'} end
redis.call('PERSIST', KEYS[1]) -- allowed without memory; so is the rest, then
local out, at = {'ok'}, 5
local window, slots = fal_settings(ns), turn_settings(ns)
for i = 1, n do
  local id, token, seq, spec, gives_way = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3], ARGV[at + 4] == '1'
  local fields = tonumber(ARGV[at + 5])
  local job = ns .. ':job:' .. id
  local r = redis.call('HMGET', job, 'state', 'token', 'seq', 'request_id', 'tried', 'past', 'queued_at',
    'ended_at', 'life')
  local mine, request, queued = r[2] == token, nil, nil
  for f = at + 6, at + 5 + 2 * fields, 2 do
    if ARGV[f] == 'request_id' then request = ARGV[f + 1] end
    if ARGV[f] == 'queued_at' then queued = ARGV[f + 1] end
  end
  if r[1] == 'dead' and not mine and r[8] and queued and queued ~= r[7] and tonumber(queued) > tonumber(r[8]) then
    -- A retry that Redis forgot too: the record is of the life before. Of that stays what the retry had kept.
    redis.call('DEL', job)
    redis.call('PERSIST', ns .. ':spec:' .. id)
    redis.call('ZREM', ns .. ':dead', id)
    redis.call('HSET', job, 'life', (tonumber(r[9]) or 1) + 1, 'retried_at', queued, 'past', r[2] or '')
    if r[4] and r[4] ~= request then r[5] = (r[5] and r[5] .. ' ' or '') .. r[4] end
    r = {false, false, false, false, r[5], r[2]}
  end
  -- Of two request ids the recorded one wins; the owner learns of it with his next write.
  local other = r[4] and r[4] ~= request
  local answer = 'written'
  local ended = r[1] == 'done' or r[1] == 'dead' or r[1] == 'cancelled'
  -- An end under this very token is its last word, whatever number its owner thought of afterwards.
  if mine and (other or ended or tonumber(r[3] or '0') >= seq) then
    answer = ended and 'closed' or 'kept'
    if r[1] == 'running' then redis.call('HSET', KEYS[1], id, token) end
  elseif not mine and (r[1] == 'running' or ended or r[6] == token or (gives_way and r[2])) then
    answer = 'lost'
  elseif not mine and (other or (request and was_tried(r[5], request))) then
    -- It is paid under another request, and that one is recorded; or this one has been given up since.
    answer = 'lost'
  else
    redis.call('PERSIST', job)
    redis.call('HDEL', job, 'waits') -- it may have been begun since
    local set = {'HSET', job, 'v', format, 'state', 'running', 'token', token, 'seq', seq, 'worker', me}
    for f = at + 6, at + 5 + 2 * fields do set[#set + 1] = ARGV[f] end
    redis.call(unpack(set))
    keep_tried(job, r[5])
    redis.call('HDEL', job, 'due_at')
    local w = redis.call('HMGET', job, 'user', 'phase', 'model', 'at_fal')
    if w[1] and w[2] ~= 'telling' and slots > 0 then take_slot(ns, w[1], id) end
    if window.any and is_at_fal(w[2]) then enter_fal(ns, window, id, w[3], w[4]) end
    if spec ~= '' then redis.call('SETNX', ns .. ':spec:' .. id, spec) end
    redis.call('HSET', KEYS[1], id, token)
  end
  out[i + 1] = answer
  at = at + 6 + 2 * fields
end
return out
