-- leave: an instance that stops takes its name off the list, if it holds nothing any more.
-- KEYS   1 workers   2 hash of the instance   3 its claims   4 its taken   5 inbox   6 its cancels
-- ARGV   1 instance
-- GIVES  jobs it still holds (then it stays, and its lease lapses)
-- CALLER Store::leave
while true do
  local entry = redis.call('LPOP', KEYS[4])
  if not entry then break end
  redis.call('RPUSH', KEYS[5], entry)
end
local held = redis.call('HLEN', KEYS[3])
if held == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('DEL', KEYS[2], KEYS[6])
end
return held
