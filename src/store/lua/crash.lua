-- crash: a step of one job panicked. One crash of that job; the third ends it. The step is repeated
-- from the record; a submit or a send that may have gone out is of unknown outcome.
-- KEYS   1 record   2 claims of the instance   3 later   4 bell   5 resume   6 high   7 default   8 low
-- ARGV   1 id   2 token   3 wait before a new submit, ms   4 crash limit
-- GIVES  {word, crashes}; word: ok, stale
-- CALLER Store::crash
local id = ARGV[1]
local r = redis.call('HMGET', KEYS[1], 'state', 'token', 'phase', 'request_id', 'attempt', 'max_attempts', 'priority',
  'via', 'charged', 'crashes')
if r[1] ~= 'running' or r[2] ~= ARGV[2] then return {'stale', 0} end
local now, limit = now_ms(), tonumber(ARGV[4])
local crashes = tonumber(r[10] or '0') + 1
redis.call('HDEL', KEYS[2], id)
local k = {later = KEYS[3], resume = KEYS[5]}
if (r[3] or 'submitting') == 'submitting' and not r[4] then
  requeue(k, KEYS[1], id, r, now, tonumber(ARGV[3]), limit)
elseif crashes >= limit then
  local charged = r[9] or 'no'
  if r[4] then charged = worse(charged, 'unknown') end
  redis.call('HSET', KEYS[1], 'state', 'queued', 'phase', 'telling', 'crashes', crashes, 'kind', 'crashed', 'charged',
    charged, 'error', 'a step of this job failed inside the worker ' .. crashes .. ' times')
  redis.call('HDEL', KEYS[1], 'rung', 'doubt')
  redis.call('LPUSH', KEYS[5], id)
else
  redis.call('HSET', KEYS[1], 'crashes', crashes)
  requeue(k, KEYS[1], id, r, now, tonumber(ARGV[3]), limit)
end
ring(KEYS[4])
return {'ok', crashes}
