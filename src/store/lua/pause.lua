-- pause: stops pulling new jobs on all workers for a while. A person's pause (see hold), and one with a later
-- end, stays as it is: who ends it meets the same trouble, and then pauses again.
-- KEYS   1 paused
-- ARGV   1 reason   2 by   3 ms
-- GIVES  1 when it was written
-- CALLER Session::pause
local long = tonumber(ARGV[3])
local left = redis.call('PTTL', KEYS[1])
if left == -1 or left > long or redis.call('HEXISTS', KEYS[1], 'person') == 1 then return 0 end
local now = now_ms()
redis.call('HSET', KEYS[1], 'reason', ARGV[1], 'by', ARGV[2], 'until', now + long)
redis.call('HSETNX', KEYS[1], 'since', now)
redis.call('PEXPIRE', KEYS[1], long)
return 1
