-- end: the last write of a job's life: its state, its delivery, its events, in one step.
-- KEYS   1 record   2 events   3 claims of the instance   4 dead   5 spec   6 large result
-- ARGV   1 token   2 seq   3 id   4 state (done, dead, cancelled)   5 keep, seconds (0: the bare id only)
--        6... as in owned
-- GIVES  {word, request id of the record or '', now}; word: ok, stale, gone
-- CALLER Store::end
local seq, id, state, keep = tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local word, request = owner(KEYS[1], ARGV[1], seq)
local now = now_ms()
if word == 'repeat' then return {'ok', request or '', now} end
if word ~= 'ok' then return {word, request or '', now} end
redis.call('HDEL', KEYS[3], id) -- allowed without memory; so is the rest, then
apply(KEYS[1], KEYS[2], 6, now, seq)
redis.call('HSET', KEYS[1], 'state', state, 'ended_at', now)
redis.call('HDEL', KEYS[1], 'phase', 'due_at', 'doubt', 'tries')
redis.call('DEL', KEYS[6])
if state == 'dead' and keep > 0 then
  redis.call('ZADD', KEYS[4], now, id)
  redis.call('EXPIRE', KEYS[5], keep)
else
  redis.call('DEL', KEYS[5])
end
if keep > 0 then
  redis.call('EXPIRE', KEYS[1], keep)
else
  -- A repeated LPUSH of this id must stay a duplicate, not become a payment.
  local bare = redis.call('HMGET', KEYS[1], 'v', 'charged', 'kind')
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'v', bare[1] or 1, 'state', state, 'charged', bare[2] or 'no', 'token', ARGV[1], 'seq', seq)
  redis.call('EXPIRE', KEYS[1], 86400)
end
return {'ok', request or '', now}
