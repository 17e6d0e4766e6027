-- saves: what steps of several jobs of one instance brought, each recorded as `save` does it. Only such as most are: of
-- jobs that count nothing, hold no place that others wait for, and whose records know their requests. The others are
-- left to `save`.
-- KEYS   the records
-- ARGV   1 their number; then for each the number of its arguments, and these as `save` takes them
-- MAKES  events (same slot on a cluster)
-- GIVES  {for each 1 (it stands) or 0 (nothing was written), now, ms until any silence ends}
-- CALLER Session::write_together
local now, now_text = now_ms()
local stand, rows, at, first, silent = {}, {}, 2, nil, ''
for i = 1, ARGV[1] do
  local token, seq, known, _, events, silence, count, _, large = cmsgpack.unpack(ARGV[at + 1])
  local word, request, at_fal = owner(KEYS[i], token, seq, known, false)
  local behind = at + 1 + ARGV[at]
  if word == 'ok' and not at_fal and count == '' and large == '' and (request or known == '') then
    first, silent, stand[i] = first or KEYS[i], silence, '1'
    rows[#rows + 1] = {KEYS[i], seq, events, at + 2, behind - 1}
  else
    stand[i] = word == 'repeat' and '1' or '0'
  end
  at = behind
end
if first then
  redis.call('PERSIST', first) -- allowed without memory; so is the rest, then
  for _, r in ipairs(rows) do
    local job, patch = r[1], r[4]
    for i = patch + 2, r[5] do add_event(redis.call, r[3], now, now_text, cmsgpack.unpack(ARGV[i])) end
    if ARGV[patch + 1] ~= '' then redis.call('HDEL', job, cmsgpack.unpack(ARGV[patch + 1])) end
    redis.call('HSET', job, 'seq', r[2], stamped(now_text, cmsgpack.unpack(ARGV[patch])))
  end
end
local left = silent ~= '' and redis.call('PTTL', silent) or 0
return {table.concat(stand), now, left > 0 and left or 0}
