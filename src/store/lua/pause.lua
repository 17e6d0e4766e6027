-- pause: stops pulling new jobs on all workers for a while. A pause without an end, or with a later one,
-- is a person's and stays as it is.
-- KEYS   1 paused
-- ARGV   1 reason   2 by   3 ms
-- GIVES  1 when it was written
-- CALLER Store::pause
local long = tonumber(ARGV[3])
local left = redis.call('PTTL', KEYS[1])
if left == -1 or left > long then return 0 end
local now = now_ms()
redis.call('HSET', KEYS[1], 'reason', ARGV[1], 'by', ARGV[2], 'until', now + long)
redis.call('HSETNX', KEYS[1], 'since', now)
redis.call('PEXPIRE', KEYS[1], long)
return 1
