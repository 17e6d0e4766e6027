-- take: moves more entries from the inbox to `taken` of one instance, oldest first, and gives back
-- all that lies there now: what an earlier batch left (its answer was lost, or the process died) too.
-- KEYS   1 inbox   2 taken of the instance   3 its hash
-- ARGV   1 entries at most   2 bytes at most   3 bytes of what is too large to be given whole
-- GIVES  {word, entry...}, oldest first; word: ok, buried, unregistered; of an entry that is huge (see unread)
--        {bytes, digest, beginning}
-- CALLER Session::take
local most, bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local w = redis.call('HMGET', KEYS[3], 'dead', 'name')
if w[1] then return {'buried'} end
if not w[2] then return {'unregistered'} end
local out, size = {'ok'}, 0
local function give(entry)
  size = size + #entry
  out[#out + 1] = #entry <= huge and entry or {#entry, redis.sha1hex(entry), string.sub(entry, 1, tonumber(ARGV[3]))}
end
local have = redis.call('LRANGE', KEYS[2], -most, -1)
for i = #have, 1, -1 do
  if size < bytes then give(have[i]) end
end
-- Only when nothing else lies in `taken` may newer entries follow: the batch is always its right end.
if #out - 1 == #have then
  while #out - 1 < most and size < bytes do
    local entry = redis.call('RPOPLPUSH', KEYS[1], KEYS[2])
    if not entry then break end
    give(entry)
  end
end
return out
