-- save: the owner records what a step brought; the job stays his.
-- KEYS   1 record
-- ARGV   as in owned; 1: token, seq, request id that the owner knows ('' none), events, the bot's wishes for silence
--        (see rate; '' none), counter to raise in stats ('' none), stats, large result ('' none), its key
-- GIVES  {word, request id of the record or '', now, ms until any silence ends}; word: ok, stale, gone,
--        adopted (see owned); where it is ok and nobody wants silence mostly now alone
-- MAKES  events, stats, large result, places at fal (same slot on a cluster)
-- CALLER Store::save
local job = KEYS[1]
local token, seq, known, events, silence, count, stats, large, result = cmsgpack.unpack(ARGV[1])
local word, request, at_fal = owner(job, token, seq, known, false)
local now, now_text = now_ms()
if word == 'repeat' then return {'ok', request or '', now} end
if word ~= 'ok' then return {word, request or '', now} end
-- The first write is one that Redis takes without memory; so is the rest, then.
if ARGV[3] ~= '' then redis.call('HDEL', job, cmsgpack.unpack(ARGV[3])) else redis.call('PERSIST', job) end
redis.call('HSET', job, 'seq', seq, stamped(now_text, cmsgpack.unpack(ARGV[2])))
for i = 4, #ARGV do add_event(events, now, now_text, cmsgpack.unpack(ARGV[i])) end
if count ~= '' then redis.call('HINCRBY', stats, count, 1) end
if large ~= '' then redis.call('SET', result, large) end
local left = silence ~= '' and redis.call('PTTL', silence) or 0
if not at_fal then
  if left > 0 then return {'ok', request or '', now, left} end
  return now_text
end
