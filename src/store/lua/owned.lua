-- owned: shared by the scripts that a job's owner calls (save, later, end). They are idempotent:
-- each write of one claim has a number (seq), the record keeps the last one, and a repeat changes
-- nothing and adds no event.
--
-- ARGV from `at` on: n, n x (field, value) to set | n, n x field to stamp with now | n, n x field to
-- delete, none of those that are set | n, n x event: (name, since ms or '', pairs, pairs x (field, value)).

-- Who owns the record: 'ok' (write it), 'repeat' (written already), 'adopted' (nothing was written: the
-- record has a request id, brought late by a frozen predecessor, that the owner does not know and must
-- go on with), 'stale', 'gone'; the record's request id, and with 'ok' its user, place at fal and chat. `last`: the write ends the
-- claim, so while the owner still has it, it cannot have happened, whatever number a reassert has put there.
local function owner(job, token, seq, known, last)
  local r = redis.call('HMGET', job, 'state', 'token', 'seq', 'request_id', 'user', 'at_fal', 'chat')
  if not r[1] then return 'gone', r[4] end
  if r[2] ~= token then return 'stale', r[4] end
  local done = tonumber(r[3] or '0') >= seq
  if r[1] ~= 'running' then return done and 'repeat' or 'stale', r[4] end
  if r[4] and r[4] ~= known then return 'adopted', r[4] end
  if done and not last then return 'repeat', r[4] end
  return 'ok', r[4], r[5], r[6], r[7]
end

-- Writes the fields and events of ARGV from place `at` on. `set`, `del`: pairs that are set and fields that are
-- deleted beside those, or nil. Its first write is one that Redis takes without memory; so is the rest, then.
local function apply(job, events, at, now, seq, set, del)
  local sets = {'HSET', job, 'seq', seq, unpack(set or {})}
  local n = tonumber(ARGV[at])
  for i = at + 1, at + 2 * n do sets[#sets + 1] = ARGV[i] end
  at = at + 1 + 2 * n
  n = tonumber(ARGV[at])
  for i = at + 1, at + n do
    sets[#sets + 1] = ARGV[i]
    sets[#sets + 1] = now
  end
  at = at + 1 + n
  n = tonumber(ARGV[at])
  if n > 0 or del then
    local dels = {'HDEL', job, unpack(del or {})}
    for i = at + 1, at + n do dels[#dels + 1] = ARGV[i] end
    redis.call(unpack(dels))
  else
    redis.call('PERSIST', job)
  end
  redis.call(unpack(sets))
  at = at + 1 + n
  n = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, n do
    local e = {'XADD', events, '*', 'event', ARGV[at], 'at', now}
    if ARGV[at + 1] ~= '' then
      e[#e + 1] = 'ms'
      e[#e + 1] = now - tonumber(ARGV[at + 1])
    end
    local pairs_ = tonumber(ARGV[at + 2])
    for i = at + 3, at + 2 + 2 * pairs_ do e[#e + 1] = ARGV[i] end
    redis.call(unpack(e))
    at = at + 3 + 2 * pairs_
  end
end
