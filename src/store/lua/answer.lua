-- answer: an instance says what was asked of it. A question that came meanwhile stays for the next beat.
-- KEYS   1 hash of the instance
-- ARGV   1 what was asked   2 the answer, JSON
-- GIVES  nothing
-- CALLER Session::answer
local is_all = redis.call('HGET', KEYS[1], 'asked') == ARGV[1]
-- Allowed when Redis is out of memory, and with it the rest.
redis.call('HDEL', KEYS[1], is_all and 'asked' or '')
redis.call('HSET', KEYS[1], 'answer', ARGV[2], 'answer_at', (now_ms()))
