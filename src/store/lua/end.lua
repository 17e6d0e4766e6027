-- end: the last write of a job's life: its state, its delivery, its events, in one step.
-- KEYS   1 record   2 events   3 claims of the instance   4 dead   5 spec   6 large result
--        7 start of the names of unreachable chats, perhaps
-- MAKES  the name of its chat there (same slot on a cluster)
-- ARGV   1 token   2 seq   3 id   4 state (done, dead, cancelled)   5 keep, seconds (0: the bare id only)
--        6 request id that the owner knows ('' none)   7... as in owned
-- GIVES  {word, request id of the record or '', now}; word: ok, stale, gone, adopted (see owned)
-- MAKES  turns and slots of the user, places at fal (same slot on a cluster)
-- CALLER Store::end
local id, state, keep = ARGV[3], ARGV[4], tonumber(ARGV[5])
local word, request, at_fal, slot, chat = owner(KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[6], true, 'slot',
  'chat')
local now, now_text = now_ms()
if word == 'repeat' then return {'ok', request or '', now} end
if word ~= 'ok' then return {word, request or '', now} end
redis.call('HDEL', KEYS[3], id) -- allowed without memory; so is the rest, then
apply(KEYS[1], KEYS[2], 7, now, now_text,
  function(...) redis.call('HSET', KEYS[1], 'seq', ARGV[2], 'state', state, 'ended_at', now_text, ...) end,
  function(...) forget_life(KEYS[1], ...) end)
local user = slot and redis.call('HGET', KEYS[1], 'user') -- before the record may be cut down to its id
-- What arrived in a chat shows that it can be reached.
local reached = KEYS[7] and chat and (state == 'done' or redis.call('HGET', KEYS[1], 'told') == 'yes')
local mark = reached and KEYS[7] .. ':' .. chat or nil
let_go({record = KEYS[1], dead = KEYS[4], spec = KEYS[5], result = KEYS[6], mark = mark}, id, state, keep, now_text)
if slot or at_fal then
  local others, ns = aside(), string.sub(KEYS[1], 1, -#id - 6) -- without `:job:<id>`
  if slot then others.leave_slot(ns, user, id) end
  others.leave_fal(ns, id, at_fal)
end
return {'ok', request or '', now}
