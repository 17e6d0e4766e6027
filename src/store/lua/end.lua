-- end: the last write of a job's life: its state, its delivery, its events, in one step.
-- KEYS   1 record
-- ARGV   as in owned; 1: token, seq, request id that the owner knows ('' none), events, id, state (done, dead,
--        cancelled), keep in seconds (0: the bare id only), claims of the instance, dead, spec, large result ('' none),
--        start of the names of unreachable chats ('' none)
-- MAKES  events, claims, dead, spec, large result, the name of its chat, turns and slots of the user, places at fal,
--        its id and the sign of such ids (same slot on a cluster)
-- GIVES  {word, request id of the record or '', now}; word: ok, stale, gone, adopted (see owned); where it is ok
--        mostly now alone: a list costs both sides several times as much
-- CALLER Session::prepare_end
local job = KEYS[1]
local token, seq, known, events, id, state, keep, claims, dead, spec, result, marks = cmsgpack.unpack(ARGV[1])
local word, request, at_fal, slot, chat
if marks == '' then
  word, request, at_fal, slot = owner(job, token, seq, known, true, 'slot')
else
  word, request, at_fal, slot, chat = owner(job, token, seq, known, true, 'slot', 'chat')
end
local now, now_text = now_ms()
if word == 'repeat' then return {'ok', request or '', now} end
if word ~= 'ok' then return {word, request or '', now} end
local seconds = keep + 0
redis.call('HDEL', claims, id) -- allowed without memory; so is the rest, then
add_events(job, events, now, now_text, true)
redis.call('HDEL', job, 'phase', 'cancel_asked', cmsgpack.unpack(ARGV[3]))
redis.call('HSET', job, 'seq', seq, 'state', state, 'ended_at', now_text, stamped(now_text, cmsgpack.unpack(ARGV[2])))
-- What arrived in a chat shows that it can be reached. Not so what was told of the mark itself, by an edit: whether
-- Telegram refuses those where the bot is blocked nobody knows.
local reached = chat and state == 'done'
if chat and not reached then
  local said = redis.call('HMGET', job, 'told', 'kind')
  reached = said[1] == 'yes' and said[2] ~= 'chat_unreachable'
end
local mark = reached and marks .. ':' .. chat or nil
if result == '' then result = nil end
if seconds >= 86400 and state ~= 'dead' and not slot and not at_fal then
  -- Each key costs as much as a command of its own, and mostly there is but one.
  if result or mark then redis.call('DEL', spec, result or spec, mark or spec) else redis.call('DEL', spec) end
  redis.call('EXPIRE', job, keep)
  return now
end
