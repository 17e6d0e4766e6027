-- crash: a step of one job panicked. One crash of that job; the third ends it. The step is repeated
-- from the record; a submit or a send that may have gone out is of unknown outcome. Where telling the
-- user is what fails, the third ends the job untold.
-- KEYS   1 record   2 claims of the instance   3 later   4 bell   5 resume   6 events   7 dead   8 spec
--        9 large result
-- ARGV   1 id   2 token   3 wait before a new submit, ms   4 crash limit (0: it is no crash, but Redis forgot what
--        the owner wrote, and he knows no more of the job)   5 keep of dead ones, seconds
-- GIVES  {word, crashes}; word: ok, stale
-- MAKES  turns and slots of the user, places at fal, its id and the sign of such ids (same slot on a cluster)
-- CALLER Session::broke_off
local id = ARGV[1]
local r = redis.call('HMGET', KEYS[1], 'state', 'token', 'phase', 'request_id', 'attempt', 'max_attempts', 'priority',
  'via', 'charged', 'crashes', 'kind', 'error', 'user', 'model', 'meta', 'at_fal')
if r[1] ~= 'running' or r[2] ~= ARGV[2] then return {'stale', 0} end
local now, limit = now_ms(), tonumber(ARGV[4])
local crashes = tonumber(r[10] or '0') + 1
look_at_events(KEYS[6])
redis.call('HDEL', KEYS[2], id)
local k = {later = KEYS[3], resume = KEYS[5]}
if limit == 0 then
  requeue(k, KEYS[1], id, r, now, tonumber(ARGV[3]))
  ring(KEYS[4])
  return {'ok', crashes - 1}
end
if (r[3] or 'submitting') == 'submitting' and not r[4] then
  requeue(k, KEYS[1], id, r, now, tonumber(ARGV[3]), limit)
elseif crashes >= limit and r[3] == 'telling' then
  local kind, charged = r[11] or 'crashed', r[9] or 'no'
  local name, state = 'failed', 'dead'
  if kind == 'cancelled' then name, state = kind, kind end
  redis.call('HSET', KEYS[1], 'crashes', crashes, 'kind', kind, 'charged', charged, 'told', 'no')
  redis.call('HDEL', KEYS[1], 'rung', 'telling_at')
  local e = {'XADD', KEYS[6], '*', 'event', name, 'at', now, 'job', id, 'attempt', r[5] or 0, 'kind', kind,
    'error', r[12] or '', 'charged', charged}
  for i, field in ipairs({'user', 'model', 'meta', 'request_id'}) do
    local value = ({r[13], r[14], r[15], r[4]})[i]
    if value then e[#e + 1] = field; e[#e + 1] = value end
  end
  redis.call(unpack(e))
  finish({record = KEYS[1], dead = KEYS[7], spec = KEYS[8], result = KEYS[9]}, id, state, tonumber(ARGV[5]), now)
  leave_slot(namespace_of(KEYS[1], id), r[13], id)
  leave_fal(namespace_of(KEYS[1], id), id, r[16])
  return {'ok', crashes}
elseif crashes >= limit then
  local charged = r[9] or 'no'
  if r[4] then charged = worse(charged, 'unknown') end
  if r[3] == 'delivering' then keep_what_went(KEYS[1]) else redis.call('HDEL', KEYS[1], 'rung') end
  redis.call('HSET', KEYS[1], 'state', 'queued', 'phase', 'telling', 'crashes', crashes, 'kind', 'crashed', 'charged',
    charged, 'error', 'a step of this job failed inside the worker ' .. crashes .. ' times')
  redis.call('HDEL', KEYS[1], 'doubt')
  redis.call('LPUSH', KEYS[5], id)
  leave_slot(namespace_of(KEYS[1], id), r[13], id)
  leave_fal(namespace_of(KEYS[1], id), id, r[16])
else
  redis.call('HSET', KEYS[1], 'crashes', crashes)
  requeue(k, KEYS[1], id, r, now, tonumber(ARGV[3]), limit)
end
ring(KEYS[4])
return {'ok', crashes}
