-- unpause: ends a pause that a worker began for a reason that is gone. A person's (see hold), and one without an
-- end, stays.
-- KEYS   1 paused
-- ARGV   1 how the reason begins
-- GIVES  1 when there was such a pause
-- CALLER Session::unpause
if redis.call('PTTL', KEYS[1]) < 0 or redis.call('HEXISTS', KEYS[1], 'person') == 1 then return 0 end
local reason = redis.call('HGET', KEYS[1], 'reason') or ''
if string.sub(reason, 1, string.len(ARGV[1])) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
