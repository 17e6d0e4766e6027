-- intake: turns a batch of parsed inbox entries into records, ready ids, events and one ring, and
-- takes the batch off `taken` last. Fenced: the batch has a number, and nothing happens unless the
-- instance lives and `taken` ends with exactly these entries; so neither a repeat nor a late call can
-- swallow or double an entry.
-- KEYS   1 taken of the instance   2 its hash   3 events   4 bell   5 resume   6 high   7 default
--        8 low   9 later   10 dead   11 inbox
-- ARGV   1 namespace   2 batch number   3 n   4 format   5 keep dead, seconds   6 max wait, ms (0 none)
--        then n times 2: raw entry, and packed (see owned): id, user, priority (of a bad one: its error), verdict ('job',
--        'bad'), not_before ms, expires_at ms, whom to tell of a bad one ('' for none), whose events they are and what
--        its record says besides: pairs of field and value, packed once more; of a huge entry, of which take gave only
--        the beginning, that and its digest behind the rest
-- MAKES  records and specs of the ids, ids without records, lines and turns of their users (same slot on a cluster)
-- GIVES  {word, entries left in the inbox, marks}; marks: a letter an entry, m made, d dead, t dead once its
--        user is told, u duplicate; word: ok, known, buried, unregistered, mismatch, displaced (nothing
--        was done: another type lies under the keys of the records that are marked x, so those entries need other ids)
-- CALLER Session::intake
local ns, batch, n, format = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local keep_dead, max_wait = tonumber(ARGV[5]), tonumber(ARGV[6])
local w = redis.call('HMGET', KEYS[2], 'dead', 'batch', 'name')
if w[1] then return {'buried', 0, ''} end
if not w[3] then return {'unregistered', 0, ''} end
if tonumber(w[2] or '0') >= batch then return {'known', redis.call('LLEN', KEYS[11]), ''} end
local have = redis.call('LRANGE', KEYS[1], -n, -1)
if #have ~= n then return {'mismatch', 0, ''} end
for i = 1, n do
  local entry = have[n - i + 1]
  if entry ~= ARGV[5 + 2 * i] then
    -- Only its beginning was given: then it is the one whose digest was.
    local digest = select(10, cmsgpack.unpack(ARGV[6 + 2 * i]))
    if not digest or redis.sha1hex(entry) ~= digest then return {'mismatch', 0, ''} end
  end
end

-- Mostly no id is known: then one look at all of them is enough, but for one that comes twice in the batch. It comes
-- before the first write: where a record cannot be read, none of the others may be half made.
local rows, all, seen, looked, nobody = {}, {}, {}, {}, {}
for i = 1, n do
  rows[i] = {cmsgpack.unpack(ARGV[6 + 2 * i])}
  all[i] = ns .. ':job:' .. rows[i][1]
end
-- And of those whose record was kept for less than a day (see finish) a sign says whether there are any.
all[n + 1] = ns .. ':ids'
local some_are_gone = false
if redis.call('EXISTS', unpack(all)) > 0 then
  some_are_gone = redis.call('EXISTS', all[n + 1]) == 1
  local others, any = {}, false
  for i = 1, n do
    local r, is_other = fields_of(all[i], 'state', 'kind', 'worker', 'phase')
    looked[i], others[i], any = r, is_other and 'x' or '-', any or is_other
  end
  if any then return {'displaced', 0, table.concat(others)} end
end

look_at_events(KEYS[3])
-- First a write that Redis refuses when it is out of memory: then nothing at all has happened.
redis.call('HSET', KEYS[2], 'batch', batch)
local now, now_text = now_ms()
local marks = {}
local push = {high = {'LPUSH', KEYS[6]}, default = {'LPUSH', KEYS[7]}, low = {'LPUSH', KEYS[8]}}
local resume = {'LPUSH', KEYS[5]}
local until_then = string.format('%d', now + max_wait)

-- Who has a turn already, as far as this batch knows, and what goes into the lines: of each priority that comes.
local _, fair = turn_settings(ns)
local has_turn, new_turns, lines = {}, {}, {}
local function look_at_turns(p)
  local users = {}
  for _, row in ipairs(rows) do
    if row[4] == 'job' and row[2] ~= '' and row[3] == p then users[#users + 1] = row[2] end
  end
  local ids, known = redis.call('HMGET', ns .. ':turns:' .. p, unpack(users)), {}
  for i, user in ipairs(users) do known[user] = ids[i] and true end
  has_turn[p], new_turns[p] = known, {'HSET', ns .. ':turns:' .. p}
end
local function place(p, user, id)
  if not has_turn[p] then look_at_turns(p) end
  if not has_turn[p][user] then
    if fair then
      has_turn[p][user] = true
      local turns = new_turns[p]
      turns[#turns + 1] = user
      turns[#turns + 1] = id
    end
    return 'queued'
  end
  local who = p .. ':' .. user
  local line = lines[who]
  if not line then
    line = {'LPUSH', ns .. ':waiting:' .. who}
    lines[who] = line
    lines[#lines + 1] = line
  end
  line[#line + 1] = id
  return 'waiting'
end
for i = 1, n do
  local raw = ARGV[5 + 2 * i]
  local id, user, priority, verdict, not_before, expires_at, tell, who, fields = unpack(rows[i])
  local job = all[i]
  local known = looked[i] or nobody
  if seen[id] then known = redis.call('HMGET', job, 'state', 'kind', 'worker', 'phase') end
  if some_are_gone and not known[1] then known = {redis.call('GET', ns .. ':id:' .. id)} end
  seen[id] = true
  local replaces = verdict == 'job' and known[2] == 'invalid_job'
    and (known[1] == 'dead' or known[4] == 'telling')
  if known[1] and not replaces then
    marks[i] = 'u'
    redis.call('XADD', KEYS[3], '*', 'event', 'duplicate', 'at', now_text, 'attempt', '0', 'state', known[1],
      cmsgpack.unpack(who))
  elseif verdict == 'job' then
    marks[i] = 'm'
    if replaces then
      if known[1] ~= 'dead' then
        -- Its user is still being told: that life ends here, and its owner's last write finds nothing.
        local old = redis.call('HMGET', job, 'error', 'queued_at')
        redis.call('XADD', KEYS[3], '*', 'event', 'failed', 'at', now_text, 'attempt', '0', 'kind', 'invalid_job',
          'error', old[1] or '', 'charged', 'no', 'ms', string.format('%d', math.max(0, now - (tonumber(old[2]) or now))),
          cmsgpack.unpack(who))
        if known[3] then redis.call('HDEL', ns .. ':claims:' .. known[3], id) end
        redis.call('LREM', KEYS[5], 0, id)
        -- Of this very batch: it is on its way there.
        for other = #resume, 3, -1 do
          if resume[other] == id then table.remove(resume, other) end
        end
      end
      redis.call('DEL', job)
      redis.call('ZREM', KEYS[10], id)
    end
    local later = not_before ~= '' and tonumber(not_before) > now
    local state = later and 'later' or 'queued'
    if not later and user ~= '' then state = place(priority, user, id) end
    if expires_at == '' and max_wait > 0 then
      expires_at = later and string.format('%d', tonumber(not_before) + max_wait) or until_then
    end
    -- The entry first: where Redis refuses one of the two (a right that is gone), no record may count as the job.
    redis.call('SET', ns .. ':spec:' .. id, raw)
    redis.call('HSET', job, 'v', format, 'state', state, 'attempt', '0', 'life', '1', 'queued_at', now_text,
      pair('expires_at', expires_at ~= '' and expires_at, pair('due_at', later and not_before,
      pair('not_before', later and not_before, cmsgpack.unpack(fields)))))
    redis.call('XADD', KEYS[3], '*', 'event', 'queued', 'at', now_text, 'attempt', '0', cmsgpack.unpack(who))
    if later then
      redis.call('ZADD', KEYS[9], not_before, id)
    elseif state == 'queued' then
      local list = push[priority]
      list[#list + 1] = id
    end
  else
    marks[i] = tell ~= '' and 't' or 'd'
    if tell ~= '' then
      -- Somebody can be told: an owner tells him, and then ends the job with its one event.
      redis.call('HSET', job, 'v', format, 'state', 'queued', 'phase', 'telling', 'attempt', '0', 'life', '1',
        'queued_at', now_text, 'tell', tell, cmsgpack.unpack(fields))
      resume[#resume + 1] = id
    else
      if keep_dead > 0 then
        redis.call('HSET', job, 'v', format, 'state', 'dead', 'attempt', '0', 'life', '1', 'queued_at', now_text,
          'ended_at', now_text, cmsgpack.unpack(fields))
        redis.call('EXPIRE', job, keep_dead)
        redis.call('ZADD', KEYS[10], now_text, id)
      else
        redis.call('HSET', job, 'v', format, 'state', 'dead', 'kind', 'invalid_job', 'charged', 'no')
        redis.call('EXPIRE', job, 86400)
      end
      redis.call('XADD', KEYS[3], '*', 'event', 'failed', 'at', now_text, 'attempt', '0', 'kind', 'invalid_job',
        'error', priority, 'charged', 'no', 'ms', '0', cmsgpack.unpack(who))
    end
  end
end
for _, p in ipairs(priorities) do
  if new_turns[p] and #new_turns[p] > 2 then redis.call(unpack(new_turns[p])) end
end
for _, line in ipairs(lines) do redis.call(unpack(line)) end
-- The order of pushes decides who is woken: high before default before low.
local any = false
for _, list in ipairs({resume, push.high, push.default, push.low}) do
  if #list > 2 then
    redis.call(unpack(list))
    any = true
  end
end
if any then ring(KEYS[4]) end
redis.call('LTRIM', KEYS[1], 0, -(n + 1))
return {'ok', redis.call('LLEN', KEYS[11]), table.concat(marks)}
