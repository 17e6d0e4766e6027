-- intake: turns a batch of parsed inbox entries into records, ready ids, events and one ring, and
-- takes the batch off `taken` last. Fenced: the batch has a number, and nothing happens unless the
-- instance lives and `taken` ends with exactly these entries; so neither a repeat nor a late call can
-- swallow or double an entry.
-- KEYS   1 taken of the instance   2 its hash   3 events   4 bell   5 resume   6 high   7 default
--        8 low   9 later   10 dead   11 inbox
-- ARGV   1 namespace   2 batch number   3 n   4 format   5 keep dead, seconds   6 max wait, ms (0 none)
--        then n times 14: raw entry, verdict ('job', 'bad'), id, user, model, meta, priority,
--        not_before ms, expires_at ms, max_attempts, via, tell (of a job: its chat), error, excerpt
--        ('' for none)
-- MAKES  records and specs of the ids, lines and turns of their users (same slot on a cluster)
-- GIVES  {word, entries left in the inbox, made, dead, duplicates, marks}; marks: a letter an entry, m made,
--        d dead, t dead once its user is told, u duplicate; word: ok, known, buried,
--        unregistered, mismatch
-- CALLER Store::intake
local ns, batch, n, format = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local keep_dead, max_wait = tonumber(ARGV[5]), tonumber(ARGV[6])
local w = redis.call('HMGET', KEYS[2], 'dead', 'batch', 'name')
if w[1] then return {'buried', 0, 0, 0, 0, ''} end
if not w[3] then return {'unregistered', 0, 0, 0, 0, ''} end
if tonumber(w[2] or '0') >= batch then return {'known', redis.call('LLEN', KEYS[11]), 0, 0, 0, ''} end
local have = redis.call('LRANGE', KEYS[1], -n, -1)
if #have ~= n then return {'mismatch', 0, 0, 0, 0, ''} end
for i = 1, n do
  if have[n - i + 1] ~= ARGV[7 + (i - 1) * 14] then return {'mismatch', 0, 0, 0, 0, ''} end
end

-- First a write that Redis refuses when it is out of memory: then nothing at all has happened.
redis.call('HSET', KEYS[2], 'batch', batch)
local now = now_ms()
local made, dead, duplicates, marks = 0, 0, 0, {}
local push = {high = {'LPUSH', KEYS[6]}, default = {'LPUSH', KEYS[7]}, low = {'LPUSH', KEYS[8]}}
local resume = {'LPUSH', KEYS[5]}
-- Who has a turn already, as far as this batch knows, and what goes into the lines.
local _, fair = turn_settings(ns)
local has_turn, lines = {}, {}
local function place(p, user, id)
  local who = p .. ':' .. user
  local state = has_turn[who]
  if not state then
    state = place_of_new(ns, p, user, id, fair)
    has_turn[who] = (fair or state == 'waiting') and 'waiting' or 'queued'
  end
  if state == 'waiting' then
    local line = lines[who]
    if not line then
      line = {'LPUSH', ns .. ':waiting:' .. who}
      lines[who] = line
      lines[#lines + 1] = line
    end
    line[#line + 1] = id
  end
  return state
end
for i = 1, n do
  local a = 6 + (i - 1) * 14
  local raw, verdict, id = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  local user, model, meta, priority = ARGV[a + 4], ARGV[a + 5], ARGV[a + 6], ARGV[a + 7]
  local not_before, expires_at = ARGV[a + 8], ARGV[a + 9]
  local job = ns .. ':job:' .. id
  local known = redis.call('HMGET', job, 'state', 'kind', 'worker', 'phase')
  local who = {'job', id}
  if user ~= '' then who[#who + 1] = 'user'; who[#who + 1] = user end
  if model ~= '' then who[#who + 1] = 'model'; who[#who + 1] = model end
  if meta ~= '' then who[#who + 1] = 'meta'; who[#who + 1] = meta end
  local replaces = verdict == 'job' and known[2] == 'invalid_job'
    and (known[1] == 'dead' or known[4] == 'telling')
  if known[1] and not replaces then
    duplicates = duplicates + 1
    marks[i] = 'u'
    redis.call('XADD', KEYS[3], '*', 'event', 'duplicate', 'at', now, 'attempt', 0, 'state', known[1], unpack(who))
  elseif verdict == 'job' then
    made = made + 1
    marks[i] = 'm'
    if replaces then
      if known[1] ~= 'dead' then
        -- Its user is still being told: that life ends here, and its owner's last write finds nothing.
        local old = redis.call('HGET', job, 'error')
        redis.call('XADD', KEYS[3], '*', 'event', 'failed', 'at', now, 'attempt', 0, 'kind', 'invalid_job',
          'error', old or '', 'charged', 'no', unpack(who))
        if known[3] then redis.call('HDEL', ns .. ':claims:' .. known[3], id) end
        redis.call('LREM', KEYS[5], 0, id)
      end
      redis.call('DEL', job)
      redis.call('ZREM', KEYS[10], id)
    end
    local state = 'queued'
    local from = now
    if not_before ~= '' and tonumber(not_before) > now then
      state = 'later'
      from = tonumber(not_before)
    end
    if state == 'queued' and user ~= '' then state = place(priority, user, id) end
    if expires_at == '' and max_wait > 0 then expires_at = from + max_wait end
    local set = {'HSET', job, 'v', format, 'state', state, 'model', model, 'priority', priority,
      'attempt', 0, 'life', 1, 'queued_at', now, 'max_attempts', ARGV[a + 10]}
    if user ~= '' then set[#set + 1] = 'user'; set[#set + 1] = user end
    if meta ~= '' then set[#set + 1] = 'meta'; set[#set + 1] = meta end
    if expires_at ~= '' then set[#set + 1] = 'expires_at'; set[#set + 1] = expires_at end
    if ARGV[a + 11] ~= '' then set[#set + 1] = 'via'; set[#set + 1] = ARGV[a + 11] end
    if ARGV[a + 12] ~= '' then set[#set + 1] = 'chat'; set[#set + 1] = ARGV[a + 12] end
    if state == 'later' then
      set[#set + 1] = 'due_at'; set[#set + 1] = from
      set[#set + 1] = 'not_before'; set[#set + 1] = from
    end
    redis.call(unpack(set))
    redis.call('SET', ns .. ':spec:' .. id, raw)
    redis.call('XADD', KEYS[3], '*', 'event', 'queued', 'at', now, 'attempt', 0, unpack(who))
    if state == 'later' then
      redis.call('ZADD', KEYS[9], from, id)
    elseif state == 'queued' then
      local list = push[priority]
      list[#list + 1] = id
    end
  else
    dead = dead + 1
    marks[i] = ARGV[a + 12] ~= '' and 't' or 'd'
    local set = {'HSET', job, 'v', format, 'kind', 'invalid_job', 'error', ARGV[a + 13], 'attempt', 0,
      'life', 1, 'queued_at', now, 'charged', 'no', 'raw', ARGV[a + 14], 'priority', 'default'}
    if user ~= '' then set[#set + 1] = 'user'; set[#set + 1] = user end
    if model ~= '' then set[#set + 1] = 'model'; set[#set + 1] = model end
    if meta ~= '' then set[#set + 1] = 'meta'; set[#set + 1] = meta end
    if ARGV[a + 12] ~= '' then
      -- Somebody can be told: an owner tells him, and then ends the job with its one event.
      set[#set + 1] = 'tell'; set[#set + 1] = ARGV[a + 12]
      set[#set + 1] = 'state'; set[#set + 1] = 'queued'
      set[#set + 1] = 'phase'; set[#set + 1] = 'telling'
      redis.call(unpack(set))
      resume[#resume + 1] = id
    else
      set[#set + 1] = 'state'; set[#set + 1] = 'dead'
      set[#set + 1] = 'ended_at'; set[#set + 1] = now
      if keep_dead > 0 then
        redis.call(unpack(set))
        redis.call('EXPIRE', job, keep_dead)
        redis.call('ZADD', KEYS[10], now, id)
      else
        redis.call('HSET', job, 'v', format, 'state', 'dead', 'kind', 'invalid_job', 'charged', 'no')
        redis.call('EXPIRE', job, 86400)
      end
      redis.call('XADD', KEYS[3], '*', 'event', 'failed', 'at', now, 'attempt', 0, 'kind', 'invalid_job',
        'error', ARGV[a + 13], 'charged', 'no', unpack(who))
    end
  end
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
return {'ok', redis.call('LLEN', KEYS[11]), made, dead, duplicates, table.concat(marks)}
