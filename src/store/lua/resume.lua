-- resume: ends a pause, whoever made it, and wakes a puller. Twice is the same as once.
-- KEYS   1 paused   2 bell
-- ARGV   none
-- GIVES  {paused before (0, 1), reason or '', by or '', a person's (0, 1)}
-- CALLER View::resume
local was = redis.call('HMGET', KEYS[1], 'reason', 'by', 'person')
if redis.call('DEL', KEYS[1]) == 0 then return {0, '', '', 0} end
ring(KEYS[2])
return {1, was[1] or '', was[2] or '', was[3] and 1 or 0}
