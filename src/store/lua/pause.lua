-- pause: stops pulling new jobs on all workers for a while. A person's pause (see hold), and one with a later
-- end, stays as it is: who ends it meets the same trouble, and then pauses again. One that is made anew for the same
-- reason, within two minutes of the end of the last, began when that one did.
-- KEYS   1 paused   2 stats
-- ARGV   1 reason, which begins with its kind and a colon   2 by   3 ms
-- GIVES  1 when it was written
-- CALLER Session::pause
local long = tonumber(ARGV[3])
local left = redis.call('PTTL', KEYS[1])
if left == -1 or left > long or redis.call('HEXISTS', KEYS[1], 'person') == 1 then return 0 end
local now = now_ms()
local kind = string.match(ARGV[1], '^[^:]*')
local last = redis.call('HMGET', KEYS[2], 'pause:kind', 'pause:since', 'pause:until')
local since = last[1] == kind and now - tonumber(last[3]) < 120000 and last[2] or now
redis.call('HSET', KEYS[1], 'reason', ARGV[1], 'by', ARGV[2], 'until', now + long, 'for', long)
if redis.call('HSETNX', KEYS[1], 'since', since) == 0 then since = redis.call('HGET', KEYS[1], 'since') end
redis.call('PEXPIRE', KEYS[1], long)
redis.call('HSET', KEYS[2], 'pause:kind', kind, 'pause:since', since, 'pause:until', now + long)
return 1
