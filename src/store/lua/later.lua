-- later: the owner lets go of a job that waits for a new submit.
-- KEYS   1 record
-- ARGV   as in owned; 1: token, seq, request id that the owner knows ('' none), events, id, wait in ms, claims of the
--        instance, later
-- GIVES  {word, request id of the record or '', now}; word: ok, stale, gone, adopted (see owned)
-- MAKES  events, claims, later, turns and slots of the user, places at fal (same slot on a cluster)
-- CALLER Session::prepare
local job = KEYS[1]
local token, seq, known, events, id, wait, claims, list = cmsgpack.unpack(ARGV[1])
local word, request, at_fal, user, tried = owner(job, token, seq, known, true, 'user', 'tried')
local now, now_text = now_ms()
if word == 'repeat' then return {'ok', '', now} end
if word ~= 'ok' then return {word, request or '', now} end
local due = now + tonumber(wait)
redis.call('HDEL', claims, id) -- allowed without memory; so is the rest, then
add_events(job, events, now, now_text, true)
redis.call('HDEL', job, 'phase', 'worker', cmsgpack.unpack(ARGV[3]))
redis.call('HSET', job, 'seq', seq, 'state', 'later', 'due_at', due, stamped(now_text, cmsgpack.unpack(ARGV[2])))
keep_tried(job, tried)
redis.call('ZADD', list, due, id)
local ns = namespace_of(job, id)
leave_slot(ns, user, id)
leave_fal(ns, id, at_fal)
return {'ok', '', now}
