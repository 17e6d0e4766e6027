-- ends: last writes of several lives of one instance at once, each as `end` makes it. Only such as most are: of jobs
-- that ended well, are kept for a day or longer, and hold no place that others wait for. The others are left to `end`.
-- KEYS   the records
-- ARGV   1 their number; then for each the number of its arguments, and these as `end` takes them
-- MAKES  events, claims, specs, large results, names of their chats (same slot on a cluster)
-- GIVES  {for each 1 (it stands) or 0 (nothing was written), now, 0}
-- CALLER Session::write_together
local now, now_text = now_ms()
local stand, rows, ids, gone, at = {}, {}, {}, {}, 2
local from -- whose claims they are
for i = 1, ARGV[1] do
  local token, seq, known, events, id, state, keep, claims, _, spec, result, marks = cmsgpack.unpack(ARGV[at + 1])
  local word, _, at_fal, slot, chat = owner(KEYS[i], token, seq, known, true, 'slot', marks == '' and 'slot' or 'chat')
  local is_plain = word == 'ok' and state == 'done' and keep + 0 >= 86400 and not slot and not at_fal
  local behind = at + 1 + ARGV[at]
  if is_plain and claims == (from or claims) then
    from, stand[i] = claims, '1'
    rows[#rows + 1], ids[#ids + 1], gone[#gone + 1] = {KEYS[i], seq, keep, events, at + 2, behind - 1}, id, spec
    if result ~= '' then gone[#gone + 1] = result end
    if chat then gone[#gone + 1] = marks .. ':' .. chat end
  else
    stand[i] = word == 'repeat' and '1' or '0'
  end
  at = behind
end
if from then
  redis.call('HDEL', from, unpack(ids)) -- allowed without memory; so is the rest, then
  for _, r in ipairs(rows) do
    local job, patch = r[1], r[5]
    for i = patch + 2, r[6] do add_event(redis.call, r[4], now, now_text, cmsgpack.unpack(ARGV[i])) end
    redis.call('HDEL', job, 'phase', 'cancel_asked', cmsgpack.unpack(ARGV[patch + 1]))
    redis.call('HSET', job, 'seq', r[2], 'state', 'done', 'ended_at', now_text,
      stamped(now_text, cmsgpack.unpack(ARGV[patch])))
    redis.call('EXPIRE', job, r[3])
  end
  redis.call('DEL', unpack(gone))
end
return {table.concat(stand), now, 0}
