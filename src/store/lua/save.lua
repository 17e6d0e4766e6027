-- save: the owner records what a step brought; the job stays his.
-- KEYS   1 record
-- ARGV   as in owned; 1: token, seq, request id that the owner knows ('' none), its attempt, events, the bot's wishes
--        for silence (see rate; '' none), counter to raise in stats ('' none), stats, large result ('' none), its key
-- GIVES  {word, request id of the record or '', now, ms until any silence ends}; word: ok, stale, gone,
--        adopted (see owned); where it is ok and nobody wants silence mostly now alone
-- MAKES  events, stats, large result, places at fal (same slot on a cluster)
-- CALLER Session::prepare
local job = KEYS[1]
local token, seq, known, attempt, events, silence, count, stats, large, result = cmsgpack.unpack(ARGV[1])
local word, request, at_fal = owner(job, token, seq, known, false)
local now, now_text = now_ms()
if word == 'repeat' then return {'ok', request or '', now} end
if word ~= 'ok' then return {word, request or '', now} end
add_events(job, events, now, now_text, false)
-- A full Redis refuses the first HSET, but neither HDEL nor PERSIST, and nothing after those.
if ARGV[3] ~= '' then redis.call('HDEL', job, cmsgpack.unpack(ARGV[3])) end
if type(redis.pcall('HSET', job, 'seq', seq, stamped(now_text, cmsgpack.unpack(ARGV[2])))) == 'table' then
  redis.call('PERSIST', job)
  redis.call('HSET', job, 'seq', seq, stamped(now_text, cmsgpack.unpack(ARGV[2])))
end
-- A Redis that forgot it hears of the submit again.
if not request and known ~= '' then redis.call('HSET', job, 'request_id', known, 'attempt', attempt) end
if count ~= '' then redis.call('HINCRBY', stats, count, 1) end
if large ~= '' then redis.call('SET', result, large) end
local left = silence ~= '' and redis.call('PTTL', silence) or 0
if not at_fal then
  if left > 0 then return {'ok', request or '', now, left} end
  return now
end
