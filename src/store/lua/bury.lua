-- bury: marks a silent instance dead, puts its unread entries back into the inbox in their old order
-- and announces the takeover. Its claims follow in batches (take_back).
-- KEYS   1 workers   2 hash of the instance   3 its taken   4 inbox   5 events   6 its claims   7 gone
--        8 stats   9 taken of who asks
-- ARGV   1 instance   2 its beat as last seen   3 lease of who asks, ms   4 cause: lapsed, process_gone   5 by
--        6 what its step file says (see requeue), if there is one
-- GIVES  a word: ok, alive, gone
-- CALLER Session::bury
local beat = redis.call('ZSCORE', KEYS[1], ARGV[1])
local now = now_ms()
if not beat then
  -- Its answer was lost: who buried goes on with the claims.
  local w = redis.call('HMGET', KEYS[2], 'dead', 'by')
  if w[1] and w[2] == ARGV[5] then return 'ok' end
  return 'gone'
end
if ARGV[4] == 'lapsed' then
  -- Until its own lease is over it may submit and send. Versions before this one did not say how long that is.
  local own = tonumber(redis.call('HGET', KEYS[2], 'lease') or '') or 0
  if tonumber(beat) ~= tonumber(ARGV[2]) or now - tonumber(beat) < math.max(tonumber(ARGV[3]), own) then
    return 'alive'
  end
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[2], 'dead', now, 'by', ARGV[5], 'cause', ARGV[4], 'death',
  redis.call('HINCRBY', KEYS[8], 'deaths', 1))
-- Beside the mark, since whoever sweeps takes the claims back, not only who has read the file.
-- One that could not be written any more, nor say so itself, proves nothing: its owner said so here.
if ARGV[6] and redis.call('HEXISTS', KEYS[2], 'torn') == 0 then redis.call('HSET', KEYS[2], 'steps', ARGV[6]) end
redis.call('EXPIRE', KEYS[2], 86400)
redis.call('ZADD', KEYS[7], now, ARGV[1])
put_back(KEYS[3], KEYS[4], KEYS[9])
local jobs = redis.call('HLEN', KEYS[6])
redis.call('XADD', KEYS[5], '*', 'event', 'taken_over', 'at', now, 'instance', ARGV[1], 'jobs', jobs, 'by', ARGV[5],
  'cause', ARGV[4])
return 'ok'
