-- save: the owner records what a step brought; the job stays his.
-- KEYS   1 record   2 events   3 stats   4 large result   5 the bot's wishes for silence (see rate), perhaps
-- ARGV   1 token   2 seq   3 counter to raise in stats ('' none)   4 large result ('' none)
--        5 request id that the owner knows ('' none)   6... as in owned
-- GIVES  {word, request id of the record or '', now, ms until any silence ends}; word: ok, stale, gone,
--        adopted (see owned)
-- MAKES  places at fal (same slot on a cluster)
-- CALLER Store::save
local word, request, at_fal = owner(KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[5], false)
local now, now_text = now_ms()
if word == 'repeat' then return {'ok', request or '', now} end
if word ~= 'ok' then return {word, request or '', now} end
apply(KEYS[1], KEYS[2], 6, now, now_text, function(...) redis.call('HSET', KEYS[1], 'seq', ARGV[2], ...) end)
if ARGV[3] ~= '' then redis.call('HINCRBY', KEYS[3], ARGV[3], 1) end
if ARGV[4] ~= '' then redis.call('SET', KEYS[4], ARGV[4]) end
if at_fal then
  local others = aside()
  if not others.is_at_fal(redis.call('HGET', KEYS[1], 'phase')) then
    -- fal has finished, or failed: its place is another's while this one is delivered.
    local ns = string.sub(KEYS[2], 1, -8) -- without `:events`
    others.leave_fal(ns, string.sub(KEYS[1], #ns + 6), at_fal)
  end
end
local silence = KEYS[5] and redis.call('PTTL', KEYS[5]) or 0
return {'ok', request or '', now, silence}
