-- resize: the submit window from now on, by the one whose turn it was to decide.
-- KEYS   1 window   2 bell
-- ARGV   1 namespace   2 size   3 slots   4 calm
-- GIVES  size before, or ''
-- CALLER Session::resize_window
local before = redis.call('HGET', KEYS[1], 'size') or ''
redis.call('HDEL', KEYS[1], '') -- changes nothing, but is allowed without memory; so is the rest, then
redis.call('HSET', KEYS[1], 'size', ARGV[2], 'slots', ARGV[3], 'calm', ARGV[4])
if (tonumber(before) or 0) < tonumber(ARGV[2]) and is_claimable(ARGV[1], fal_settings(ARGV[1])) then ring(KEYS[2]) end
return before
