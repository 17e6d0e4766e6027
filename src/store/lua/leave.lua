-- leave: an instance that stops takes its name off the list, if it holds nothing any more. For a while
-- it counts as dead: a beat or a claim that is still on its way must not bring it back, and what a
-- BRPOPLPUSH of it still moves goes back to the inbox (take_back).
-- KEYS   1 workers   2 hash of the instance   3 its claims   4 its taken   5 inbox   6 its cancels   7 gone
-- ARGV   1 instance   2 how long, seconds
-- GIVES  jobs it still holds (then it stays, and its lease lapses)
-- CALLER Session::leave
while true do
  local entry = redis.call('LPOP', KEYS[4])
  if not entry then break end
  redis.call('RPUSH', KEYS[5], entry)
end
local held = redis.call('HLEN', KEYS[3])
if held == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('DEL', KEYS[2], KEYS[6])
  local now = now_ms()
  redis.call('HSET', KEYS[2], 'dead', now)
  redis.call('EXPIRE', KEYS[2], ARGV[2])
  redis.call('ZADD', KEYS[7], now, ARGV[1])
end
return held
