-- hold: a person's pause, of all workers. It takes the place of any other, and no worker changes it (see pause).
-- KEYS   1 paused
-- ARGV   1 reason   2 by   3 ms ('' until somebody resumes)
-- GIVES  1
-- CALLER View::hold
local before = redis.call('HMGET', KEYS[1], 'person', 'since')
-- Allowed when Redis is out of memory, and with it the rest: that is when a person wants to pause.
redis.call('HDEL', KEYS[1], 'until', 'for')
local now = now_ms()
redis.call('HSET', KEYS[1], 'reason', ARGV[1], 'by', ARGV[2], 'person', 1,
  'since', before[1] and before[2] or now)
if ARGV[3] == '' then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'until', now + tonumber(ARGV[3]))
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
