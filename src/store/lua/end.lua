-- end: the last write of a job's life: its state, its delivery, its events, in one step.
-- KEYS   1 record   2 events   3 claims of the instance   4 dead   5 spec   6 large result
--        7 start of the names of unreachable chats, perhaps
-- MAKES  the name of its chat there (same slot on a cluster)
-- ARGV   1 token   2 seq   3 id   4 state (done, dead, cancelled)   5 keep, seconds (0: the bare id only)
--        6 request id that the owner knows ('' none)   7... as in owned
-- GIVES  {word, request id of the record or '', now}; word: ok, stale, gone, adopted (see owned)
-- MAKES  turns and slots of the user, places at fal (same slot on a cluster)
-- CALLER Store::end
local seq, id, state, keep = tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local word, request, user, at_fal, chat = owner(KEYS[1], ARGV[1], seq, ARGV[6], true)
local now = now_ms()
if word == 'repeat' then return {'ok', request or '', now} end
if word ~= 'ok' then return {word, request or '', now} end
redis.call('HDEL', KEYS[3], id) -- allowed without memory; so is the rest, then
apply(KEYS[1], KEYS[2], 7, now, seq, {'state', state, 'ended_at', now}, life_fields)
if KEYS[7] and chat and (state == 'done' or redis.call('HGET', KEYS[1], 'told') == 'yes') then
  -- What arrived in a chat shows that it can be reached.
  redis.call('DEL', KEYS[7] .. ':' .. chat)
end
let_go({record = KEYS[1], dead = KEYS[4], spec = KEYS[5], result = KEYS[6]}, id, state, keep, now)
local ns = namespace_of(KEYS[1], id)
leave_slot(ns, user, id)
leave_fal(ns, id, at_fal)
return {'ok', request or '', now}
