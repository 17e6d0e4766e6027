-- later: the owner lets go of a job that waits for a new submit.
-- KEYS   1 record   2 events   3 claims of the instance   4 later
-- ARGV   1 token   2 seq   3 id   4 wait, ms   5 request id that the owner knows ('' none)   6... as in owned
-- GIVES  {word, request id of the record or '', now}; word: ok, stale, gone, adopted (see owned)
-- MAKES  turns and slots of the user, places at fal (same slot on a cluster)
-- CALLER Store::later
local word, request, at_fal, user, tried = owner(KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[5], true, 'user', 'tried')
local now, now_text = now_ms()
if word == 'repeat' then return {'ok', '', now} end
if word ~= 'ok' then return {word, request or '', now} end
local due = now + tonumber(ARGV[4])
redis.call('HDEL', KEYS[3], ARGV[3])
apply(KEYS[1], KEYS[2], 6, now, now_text,
  function(...) redis.call('HSET', KEYS[1], 'seq', ARGV[2], 'state', 'later', 'due_at', due, ...) end,
  function(...) redis.call('HDEL', KEYS[1], 'phase', 'worker', ...) end)
keep_tried(KEYS[1], tried)
redis.call('ZADD', KEYS[4], due, ARGV[3])
local ns = namespace_of(KEYS[1], ARGV[3])
leave_slot(ns, user, ARGV[3])
leave_fal(ns, ARGV[3], at_fal)
return {'ok', '', now}
