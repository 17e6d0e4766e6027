-- owned: shared by the scripts that a job's owner calls (save, later, end). They are idempotent:
-- each write of one claim has a number (seq), the record keeps the last one, and a repeat changes
-- nothing and adds no event.
--
-- ARGV from `at` on: pairs of field and value to set | fields to stamp with now | fields to delete, none of those that
-- are set | then for each event: name, since ms or '', pairs of field and value. Pairs and fields are packed.
-- Packed: strings as MessagePack, one behind the other, in one argument; cmsgpack.unpack gives each as a value of
-- its own. As arguments they would cost three times as much, and twice that where a table is made of them.

-- Who owns the record: 'ok' (write it), 'repeat' (written already), 'adopted' (nothing was written: the
-- record has a request id, brought late by a frozen predecessor, that the owner does not know and must
-- go on with), 'stale', 'gone'; the record's request id, its place at fal, and the further fields that are named.
-- `last`: the write ends the claim, so while the owner still has it, it cannot have happened, whatever number a
-- reassert has put there.
local function owner(job, token, seq, known, last, ...)
  local r = redis.call('HMGET', job, 'state', 'token', 'seq', 'request_id', 'at_fal', ...)
  if not r[1] then return 'gone', r[4] end
  if r[2] ~= token then return 'stale', r[4] end
  local done = tonumber(r[3] or '0') >= seq
  if r[1] ~= 'running' then return done and 'repeat' or 'stale', r[4] end
  if r[4] and r[4] ~= known then return 'adopted', r[4] end
  if done and not last then return 'repeat', r[4] end
  return 'ok', r[4], r[5], r[6], r[7]
end

-- The fields named, each with the time, and behind them what is packed.
local function stamped(now_text, packed, name, ...)
  if name then return name, now_text, stamped(now_text, packed, ...) end
  return cmsgpack.unpack(packed)
end

-- Writes the fields and events of ARGV from place `at` on. `set` and `del` are called with the pairs and fields of
-- the record and add those of the script; without `del` the script deletes none. `now` as now_ms gives it, twice. The
-- first write is one that Redis takes without memory; so is the rest, then.
local function apply(job, events, at, now, now_text, set, del)
  local dels = ARGV[at + 2]
  if del then
    del(cmsgpack.unpack(dels))
  elseif dels ~= '' then
    redis.call('HDEL', job, cmsgpack.unpack(dels))
  else
    redis.call('PERSIST', job)
  end
  set(stamped(now_text, ARGV[at], cmsgpack.unpack(ARGV[at + 1])))
  for i = at + 3, #ARGV, 3 do
    local ms = ARGV[i + 1] ~= '' and string.format('%d', now - tonumber(ARGV[i + 1]))
    redis.call('XADD', events, '*', 'event', ARGV[i], 'at', now_text, pair('ms', ms, cmsgpack.unpack(ARGV[i + 2])))
  end
end
