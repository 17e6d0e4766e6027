-- owned: shared by the scripts that a job's owner calls (save, later, end). They are idempotent:
-- each write of one claim has a number (seq), the record keeps the last one, and a repeat changes
-- nothing and adds no event.
--
-- ARGV   1 what the script says   2 a field to stamp with now ('' none), then pairs of field and value to set
--        3 fields to delete, none of those that are set   then for each event: since ms or '', name, pairs of field
--        and value
-- Each of them is packed: strings as MessagePack, one behind the other, in one argument; cmsgpack.unpack gives each as
-- a value of its own. As arguments they would cost three times as much, and twice that where a table is made of them.
-- Names of keys beside the record's are packed too.

-- Who owns the record: 'ok' (write it), 'repeat' (written already), 'adopted' (nothing was written: the
-- record has a request id, brought late by a frozen predecessor, that the owner does not know and must
-- go on with), 'stale', 'gone'; the record's request id, its place at fal, and the further fields that are named.
-- `last`: the write ends the claim, so while the owner still has it, it cannot have happened, whatever number a
-- reassert has put there.
local function owner(job, token, seq, known, last, ...)
  local r = redis.call('HMGET', job, 'state', 'token', 'seq', 'request_id', 'at_fal', ...)
  if not r[1] then return 'gone', r[4] end
  if r[2] ~= token then return 'stale', r[4] end
  local done = (r[3] or 0) - seq >= 0
  if r[1] ~= 'running' then return done and 'repeat' or 'stale', r[4] end
  if r[4] and r[4] ~= known then return 'adopted', r[4] end
  if done and not last then return 'repeat', r[4] end
  return 'ok', r[4], r[5], r[6], r[7]
end

-- The field to stamp with the time, if there is one, and the pairs behind it.
local function stamped(now_text, name, ...)
  if name ~= '' then return name, now_text, ... end
  return ...
end

-- `since` may lie ahead: a worker's idea of this clock is a millisecond off, and the clock may have been set back.
local function add_event(call, events, now, now_text, since, name, ...)
  return call('XADD', events, '*', 'event', name, 'at', now_text,
    pair('ms', since ~= '' and (now - since > 0 and string.format('%d', now - since) or '0'), ...))
end

-- The events of what is about to be written, before it: where another type lies under their key nothing is written,
-- and the repeat finds nothing done. `free`: a write came before that a full Redis allows.
local function add_events(job, events, now, now_text, free)
  for i = 4, #ARGV do
    if free then
      add_event(redis.call, events, now, now_text, cmsgpack.unpack(ARGV[i]))
    elseif type(add_event(redis.pcall, events, now, now_text, cmsgpack.unpack(ARGV[i]))) == 'table' then
      redis.call('PERSIST', job) -- allowed without memory; so is the rest, then
      add_event(redis.call, events, now, now_text, cmsgpack.unpack(ARGV[i]))
    end
    free = true
  end
end
