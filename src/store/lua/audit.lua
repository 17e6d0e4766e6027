-- audit: walks the store a page at a time and mends what no script of ours leaves behind: a Redis that
-- lost its tail, a late call, a person with redis-cli, or a bug. Where the keys stand and what is
-- suspected lies in Redis, so any keeper goes on where another stopped. Each script is atomic, so what is
-- checked here holds between any two of them. Only what two looks agree on is taken from an owner or
-- deleted, and what a newer format wrote is left alone: a leak is better than a second payment.
-- KEYS   1 audit   2 suspects   3 workers   4 gone   5 settling   6 stats   7 bell   8 resume   9 high
--        10 default   11 low   12 later   13 dead   14 inbox   15 paused
-- ARGV   1 namespace   2 format   3 tick, ms   4 time between the pages of one walk, ms
--        5 how long a queued record is suspected before it is searched for, ms   6 keys a page
--        7 wait before a new submit, ms   8 lease, ms   9 crash limit   10 keep of done ones, seconds
--        11 keep of dead ones, seconds
-- MAKES  records, specs, results, claims, taken entries, turns, lines and slots that a page brings (same slot on a cluster)
-- GIVES  {ms to the next call, kind, count...}; nothing is looked at while Redis settles or is full, or when another
--        keeper has just been here
-- CALLER Session::audit_pages
local ns, format, tick, gap, patience = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local page, wait, lease = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local ready = {KEYS[8], KEYS[9], KEYS[10], KEYS[11]}
local priority = {high = KEYS[9], default = KEYS[10], low = KEYS[11]}
local keep = {done = tonumber(ARGV[10]), cancelled = tonumber(ARGV[10]), dead = tonumber(ARGV[11])}

-- What is not written down again yet looks like a leak.
if is_settling(KEYS[5]) then return {tick} end
local now, a = now_ms(), {}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do a[flat[i]] = flat[i + 1] end
local at, due = tonumber(a.at or '0'), tonumber(a.due or '0')
-- A clock that went back must not stop the audit until it has caught up.
if at <= now and now < due then return {due - now} end
-- A full Redis refuses this one: upkeep asks nothing of it, and no repair stops half-way. That is no
-- outage, so it is no error either.
local begun = redis.pcall('HSET', KEYS[1], 'at', now)
if type(begun) == 'table' and begun.err then
  if string.find(begun.err, 'OOM', 1, true) then return {tick} end
  return begun
end

-- Redis's clock went back. Suspected in a time that is yet to come: the walk sees them again. Who died beats in
-- that time, and would be nobody's longest silence; and what waits for its backoff would wait so much longer.
if at > now then
  redis.call('DEL', KEYS[2])
  for _, instance in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. now, '+inf')) do
    redis.call('ZADD', KEYS[3], now, instance)
  end
  local behind = redis.call('ZRANGE', KEYS[12], 0, 4999, 'WITHSCORES')
  for i = 1, #behind, 2 do
    local job, to = ns .. ':job:' .. behind[i], string.format('%d', behind[i + 1] - (at - now))
    -- The bot's own time is one of the clock. What another type lies under is no record of ours.
    local r = redis.pcall('HMGET', job, 'not_before', 'state')
    if not r.err and not r[1] and r[2] == 'later' then
      redis.call('ZADD', KEYS[12], to, behind[i])
      redis.call('HSET', job, 'due_at', to)
    end
  end
  -- A worker's pause, which is to be made anew where its reason lasts (see pause), lasts no longer than it was made
  -- for. A person's ends at the moment that was said.
  local p = redis.pcall('HMGET', KEYS[15], 'for', 'person', 'since')
  local long = not p.err and not p[2] and tonumber(p[1])
  if long and redis.call('PTTL', KEYS[15]) > long then
    redis.call('HSET', KEYS[15], 'until', now + long, 'since', math.min(now, tonumber(p[3]) or now))
    redis.call('PEXPIRE', KEYS[15], long)
    redis.call('HDEL', KEYS[6], 'pause:kind', 'pause:since', 'pause:until')
  end
end

local counts, kinds, moved = {}, {}, false
local function mended(kind)
  if not counts[kind] then
    counts[kind] = 0
    kinds[#kinds + 1] = kind
  end
  counts[kind] = counts[kind] + 1
end

-- What holds at fal, once it was applied to all that was there before.
local window = fal_settings(ns)
local set = redis.call('HMGET', ns .. ':config', 'fal_concurrency', 'applied:fal_concurrency', 'model_limits',
  'applied:model_limits')
local counts_all = set[1] == set[2] and set[3] == set[4]

-- Places looked through in long lists by this call: a bound, since each costs time that others wait.
local spent, budget = 0, 200000

-- Fields of a record, nil where there is none or where another type lies.
local function fields(id, ...)
  local r = redis.pcall('HMGET', ns .. ':job:' .. id, 'state', 'v', ...)
  if r.err then return {false, tostring(format + 1)} end
  return r
end
local function newer(v) return (tonumber(v or '0') or 0) > format end
local function has_ended(state) return state == 'done' or state == 'dead' or state == 'cancelled' end

local known = {}
local function lives(instance)
  if known[instance] == nil then known[instance] = redis.call('ZSCORE', KEYS[3], instance) ~= false end
  return known[instance]
end
-- Judged dead by a keeper: take_back is on its way to the claims.
local function is_gone(instance)
  return redis.call('ZSCORE', KEYS[4], instance) ~= false
    or redis.call('HEXISTS', ns .. ':worker:' .. instance, 'dead') == 1
end
-- Not on the list of the living, and not the last time either: who is about to re-assert is there by now.
local sure = math.floor(tick * 0.9)
local function is_lost(instance)
  if lives(instance) then return false end
  local since = tonumber(a['i:' .. instance])
  if since then return now - since >= sure end
  a['i:' .. instance] = now
  redis.call('HSET', KEYS[1], 'i:' .. instance, now)
  return false
end

-- Where a queued or waiting record belongs: paid ones and those to be told of are served first.
local function list_of(p, request, phase, state, user, behind)
  if state == 'waiting' then return ns .. ':waiting:' .. standing_in(p or 'default', behind) .. ':' .. (user or '') end
  if request or (phase and phase ~= 'submitting') then return KEYS[8] end
  if behind then return ns .. ':ready:' .. model_priority(p or 'default', behind) end
  return priority[p or 'default'] or KEYS[10]
end

-- An expiry that an ended job's key lacks. Without one it would stay for ever.
local function expire(key, state)
  local seconds = keep[state]
  redis.call('EXPIRE', key, seconds > 0 and seconds or 86400)
  mended('expiry')
end

-- ---- what an earlier call suspected

local notes = 0
for field, since in pairs(a) do
  local kind, rest = string.sub(field, 1, 2), string.sub(field, 3)
  local age = now - (tonumber(since) or now)
  if kind == 'i:' and (lives(rest) or age > 3600000 or age < 0) then
    redis.call('HDEL', KEYS[1], field)
    a[field] = nil
  elseif kind == 'k:' then
    notes = notes + 1
    if age >= sure or age < 0 then
      local key, id = ns .. ':' .. rest, string.match(rest, '^%a+:(.*)$')
      if age >= sure and redis.call('EXISTS', ns .. ':job:' .. id) == 0 and redis.call('TTL', key) == -1 then
        redis.call('UNLINK', key)
        mended('orphan')
      end
      redis.call('HDEL', KEYS[1], field)
      notes = notes - 1
    end
  end
end

-- A search costs as much as its list is long: one a second.
local searches = math.max(1, math.min(5, math.floor((now - at + 200) / 1000)))
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - patience, 'LIMIT', 0, 100)) do
  local r = fields(id, 'priority', 'request_id', 'phase', 'user', 'behind')
  if (r[1] ~= 'queued' and r[1] ~= 'waiting') or newer(r[2]) then
    redis.call('ZREM', KEYS[2], id)
  else
    local list = list_of(r[3], r[4], r[5], r[1], r[6], r[7])
    local size = redis.call('LLEN', list)
    if searches == 0 or (spent > 0 and spent + size > budget) then break end
    searches, spent = searches - 1, spent + size
    redis.call('ZREM', KEYS[2], id)
    if not redis.call('LPOS', list, id, 'RANK', -1) then
      -- In a wrong list, if anywhere: the walk takes it out there. One place too many pays nothing, since
      -- only a queued record can be claimed.
      redis.call('RPUSH', list, id) -- of a line that was empty the walk sees that it has no turn
      mended('unlisted')
      moved = true
    end
  end
end

-- ---- one page of everything that the walk has not seen yet

local part = math.ceil(page / 2) -- of each: the keys are the most
local parts = {'keys', 'l1', 'l2', 'l3', 'l4', 'later', 'dead', 'held', 'high', 'default', 'low', 'at_fal'}
local cursors = {}
local pages = a.open and tonumber(a.pages) or 0
for _, name in ipairs(parts) do cursors[name] = a.open and a['p:' .. name] or (not a.open and '0') end
pages = pages + 1

-- When the one to be served next in a list came in: of older ones that still wait some may be missing
-- there. Of younger ones a few are looked for, since behind a long backlog nearly all are well.
local next_in = {}
local function served_after(list)
  if next_in[list] == nil then
    local id = redis.call('LINDEX', list, -1)
    local since = id and fields(id, 'queued_at')[3]
    next_in[list] = since and tonumber(since) or math.huge
  end
  return next_in[list]
end

-- Whoever claims ends what is too old; but nobody claims what is unpaid while pulling is paused, fal is away or its
-- user's slots are in use, and its user waits. It is looked for where the oldest stand, and no more of them lie in
-- `resume` at a time than a few, since what is paid is served from there.
local ends = 16 - redis.call('LLEN', KEYS[8])
local function end_late(id, state, p, user, behind)
  local list = list_of(p, nil, nil, state, user, behind)
  if ends <= 0 or spent >= budget or not redis.call('LPOS', list, id, 'RANK', -1, 'MAXLEN', 2000) then return false end
  ends, spent, moved = ends - 1, spent + 2000, true
  to_tell(ns, id, {state = state, priority = p, user = user, behind = behind}, KEYS[8], 'expired',
    'too old to be paid for: it waited beyond expires_at')
  return true
end

local suspects
local slots, fair = turn_settings(ns)
local c = redis.call('HMGET', ns .. ':config', 'user_concurrency', 'applied:user_concurrency')
local k = {later = KEYS[12], resume = KEYS[8]}
local function look_at_job(id, key)
  local r = fields(id, 'worker', 'token', 'queued_at', 'priority', 'request_id', 'phase', 'due_at',
    'user', 'model', 'at_fal', 'behind', 'expires_at')
  local state = r[1]
  if not state or newer(r[2]) then return end
  local ttl = redis.call('TTL', key)
  if has_ended(state) then
    if ttl == -1 then expire(key, state) end
    return
  end
  if ttl >= 0 and (state == 'running' or state == 'queued' or state == 'later' or state == 'waiting') then
    redis.call('PERSIST', key) -- it would vanish under its owner
    mended('expiry')
  end
  if state == 'running' then
    local owner = r[4] and r[3] or ''
    local claims = ns .. ':claims:' .. owner
    local claimed = redis.call('HGET', claims, id)
    if lives(owner) then
      if claimed ~= r[4] then
        -- He decides: what he does not know he gives back.
        redis.call('HSET', claims, id, r[4])
        mended('claim')
      end
      if slots > 0 and c[1] == c[2] and r[10] and r[8] ~= 'telling' and take_slot(ns, r[10], id) then mended('slot') end
      if window.any and is_at_fal(r[8]) and counts_all then
        local before = redis.call('SISMEMBER', ns .. ':at_fal', id)
        enter_fal(ns, window, id, r[11], r[12])
        if redis.call('SISMEMBER', ns .. ':at_fal', id) ~= before then mended('at_fal') end
      end
      return
    end
    local gone = is_gone(owner)
    if (gone and claimed and claimed == r[4]) or not is_lost(owner) then return end
    redis.call('HDEL', claims, id)
    local o = redis.call('HMGET', key, 'state', 'token', 'phase', 'request_id', 'attempt', 'max_attempts', 'priority',
      'via', 'charged', 'crashes')
    -- Whom nobody has judged dead may believe in his lease and begin a submit until it is over.
    requeue(k, key, id, o, now, gone and wait or wait + lease, tonumber(ARGV[9]))
    mended('owner')
    moved = true
  elseif state == 'later' then
    if not redis.call('ZSCORE', KEYS[12], id) then
      redis.call('ZADD', KEYS[12], tonumber(r[9] or '') or now, id)
      mended('unscheduled')
    end
  elseif state == 'queued' or state == 'waiting' then
    local unpaid = not r[7] and (r[8] or 'submitting') == 'submitting'
    if unpaid and now > (tonumber(r[14] or '') or math.huge) and end_late(id, state, r[6], r[10], r[13]) then return end
    suspects = suspects or redis.call('ZCARD', KEYS[2])
    local likely = (tonumber(r[5] or '0') or 0) < served_after(list_of(r[6], r[7], r[8], state, r[10], r[13]))
    if suspects < (likely and 400 or 50) then
      suspects = suspects + redis.call('ZADD', KEYS[2], 'NX', now, id)
    end
  end
end

-- A spec or a large result lives as long as its record.
local function look_at_companion(word, id, key)
  local r = fields(id)
  if newer(r[2]) or (r[1] and not has_ended(r[1])) then return end
  if redis.call('TTL', key) ~= -1 then return end
  if r[1] then
    expire(key, r[1])
  elseif notes < 200 and not a['k:' .. word .. ':' .. id] and redis.call('EXISTS', ns .. ':job:' .. id) == 0 then
    notes = notes + 1
    redis.call('HSET', KEYS[1], 'k:' .. word .. ':' .. id, now)
  end
end

local function look_at_claims(instance, key)
  local scan = redis.pcall('HSCAN', key, a['c:' .. instance] or '0', 'COUNT', page)
  if scan.err then return end
  for i = 1, #scan[2], 2 do
    local id, token = scan[2][i], scan[2][i + 1]
    local r = fields(id, 'token', 'worker')
    if newer(r[2]) then
      -- not ours to judge
    elseif r[1] == 'running' and r[4] == instance and r[3] then
      if r[3] ~= token then
        redis.call('HSET', key, id, r[3])
        mended('claim')
      end
    else
      redis.call('HDEL', key, id)
      mended('stale_claim')
    end
  end
  if scan[1] == '0' then
    if a['c:' .. instance] then redis.call('HDEL', KEYS[1], 'c:' .. instance) end
  else
    redis.call('HSET', KEYS[1], 'c:' .. instance, scan[1]) -- a large one is read on in the next walk
  end
end

-- Unread entries of an instance that nobody buried: to the inbox, in their old order. Its own intake, if
-- it still came, finds other entries at the right end and does nothing. What the buried still move is no
-- leak: take_back comes again and again.
local function look_at_taken(instance, key)
  if is_gone(instance) or not is_lost(instance) then return end
  while true do
    local entry = redis.call('LPOP', key)
    if not entry then return end
    redis.call('RPUSH', KEYS[14], entry)
    mended('taken')
  end
end

-- A priority and what stands behind it in a key; of those that wait for a place of their model it is `model:`, the
-- priority and the pattern.
local function parts_of(rest)
  local p, user = string.match(rest, '^(model:%a+:[^:]+):(.*)$')
  if not p then p, user = string.match(rest, '^(%a+):(.*)$') end
  return p, user
end
local function is_priority(p)
  return priority[p] ~= nil or priority[string.match(p, '^model:(%a+):') or ''] ~= nil
end

-- Whose line is not empty has a turn, or waits for a slot.
local function look_at_line(rest, key)
  local p, user = parts_of(rest)
  if not p or not is_priority(p) or redis.call('HEXISTS', ns .. ':turns:' .. p, user) == 1 then return end
  if redis.call('EXISTS', key) == 0 then return end -- its last one has just been taken out
  if priority[p] and is_full(ns, user, slots) then
    redis.call('HSET', ns .. ':turns:' .. p, user, '')
    redis.call('SADD', ns .. ':waiters', user)
  else
    call_next(ns, p, user, not fair)
    moved = true
  end
  mended('turn')
end

-- And a turn is a job that stands in the list, or the sign of one who waits for a slot.
local function look_at_turn(p, user, id)
  if id == '' then
    if not is_full(ns, user, slots) then
      if free_slot(ns, user) and c[1] == c[2] then mended('turn') end
    elseif redis.call('SADD', ns .. ':waiters', user) == 1 then
      mended('turn')
    end
    return
  end
  local r = fields(id, 'priority', 'request_id', 'phase', 'user', 'behind')
  if newer(r[2]) or (r[1] == 'queued' and r[6] == user
    and list_of(r[3], r[4], r[5], r[1], user, r[7]) == ns .. ':ready:' .. p) then
    return
  end
  pass_turn(ns, p, user, id, priority[p] and is_full(ns, user, slots))
  mended('turn')
  moved = true
end
local function page_of_turns(p, cursor)
  local scan = redis.call('HSCAN', ns .. ':turns:' .. p, cursor, 'COUNT', part)
  for i = 1, #scan[2], 2 do look_at_turn(p, scan[2][i], scan[2][i + 1]) end
  return scan[1]
end

local function look_at_model_turns(rest)
  if not is_priority(rest) or priority[rest] then return end
  local all = redis.pcall('HSCAN', ns .. ':turns:' .. rest, '0', 'COUNT', page)
  if all.err then return end
  for i = 1, #all[2], 2 do look_at_turn(rest, all[2][i], all[2][i + 1]) end
end

-- What waits for a place of its model stands there once, and the limit exists.
local function look_at_model_list(rest, key)
  local p, pattern = string.match(rest, '^model:(%a+):([^:]+)$')
  if not p or not priority[p] then return end
  local exists = not counts_all
  for _, limit in ipairs(window.limits) do exists = exists or limit.pattern == pattern end
  if not exists then
    for _ = 1, release(ns, p, pattern, fair, page) do mended('model_line') end
    moved = true
    return
  end
  local ids = redis.pcall('LRANGE', key, 0, page - 1)
  if ids.err then return end
  for _, id in ipairs(ids) do
    local r = fields(id, 'priority', 'user', 'behind')
    if not newer(r[2]) and (r[1] ~= 'queued' or (r[3] or 'default') ~= p or r[5] ~= pattern) then
      redis.call('LREM', key, 1, id)
      if r[4] then pass_turn(ns, 'model:' .. rest, r[4], id, false) end
      mended('ready')
    end
  end
end

-- At fal is a job in somebody's hands that has not come to its delivery, or one that is paid and will be in
-- somebody's again.
local function page_of_at_fal(key, cursor, pattern)
  local scan = redis.pcall('SSCAN', key, cursor, 'COUNT', part)
  if scan.err then return '0' end
  for _, id in ipairs(scan[2]) do
    local r = fields(id, 'request_id', 'phase', 'at_fal')
    local paid = r[3] or (r[4] and r[4] ~= 'submitting')
    local there = is_at_fal(r[4]) and (r[1] == 'running' or ((r[1] == 'queued' or r[1] == 'later') and paid))
    if newer(r[2]) then
      -- not ours to judge
    elseif not there then
      redis.call('SREM', key, id)
      leave_fal(ns, id, r[5] or '')
      mended('at_fal')
    elseif pattern and r[5] ~= pattern then
      redis.call('SREM', key, id)
      mended('at_fal')
      moved = true
    elseif not r[5] then
      redis.call('HSET', ns .. ':job:' .. id, 'at_fal', '')
      mended('at_fal')
    end
  end
  return scan[1]
end

-- A slot is used by a job in somebody's hands, or by one that is paid and comes into somebody's again.
local function look_at_slots(rest, key)
  local user = string.match(rest, '^(.*):running$')
  if not user then return end
  local note = 's:' .. user
  local scan = redis.pcall('SSCAN', key, a[note] or '0', 'COUNT', page)
  if scan.err then return end
  for _, id in ipairs(scan[2]) do
    local r = fields(id, 'request_id', 'phase', 'user')
    local paid = r[3] or (r[4] and r[4] ~= 'submitting')
    local uses = r[1] == 'running' or ((r[1] == 'queued' or r[1] == 'later') and paid)
    if not newer(r[2]) and not (uses and r[5] == user) then
      leave_slot(ns, user, id)
      mended('slot')
    end
  end
  if scan[1] == '0' then
    if a[note] then redis.call('HDEL', KEYS[1], note) end
  else
    redis.call('HSET', KEYS[1], note, scan[1])
  end
end

-- Another namespace may live below one of our words (`a` and `a:job`): those keys are not ours.
local ours = {claims = true, taken = true}
local function is_ours(word)
  if ours[word] == nil then
    ours[word] = (word == 'job' or word == 'spec' or word == 'result' or word == 'waiting' or word == 'user'
        or word == 'ready' or word == 'turns' or word == 'at_fal')
      and redis.call('TYPE', ns .. ':' .. word .. ':events').ok ~= 'stream'
  end
  return ours[word]
end
local function page_of_keys(cursor)
  local pattern = string.gsub(ns, '[%*%?%[%]%^\\]', '\\%0') .. ':*'
  local scan = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', page)
  for _, key in ipairs(scan[2]) do
    local word, rest = string.match(string.sub(key, #ns + 2), '^([%a_]+):(.+)$')
    if word and is_ours(word) then
      if word == 'job' then look_at_job(rest, key)
      elseif word == 'claims' then look_at_claims(rest, key)
      elseif word == 'taken' then look_at_taken(rest, key)
      elseif word == 'waiting' then look_at_line(rest, key)
      elseif word == 'user' then look_at_slots(rest, key)
      elseif word == 'ready' then look_at_model_list(rest, key)
      elseif word == 'turns' then look_at_model_turns(rest)
      elseif word == 'at_fal' then page_of_at_fal(key, '0', rest)
      else look_at_companion(word, rest, key) end
    end
  end
  return scan[1]
end

-- From the side where ids come in: what is taken at the other end moves nothing out of the page.
local function page_of_list(list, cursor)
  local from, long = tonumber(cursor), nil
  local ids, seen, removed = redis.call('LRANGE', list, from, from + part - 1), {}, 0
  for i, id in ipairs(ids) do
    local r = fields(id, 'priority', 'request_id', 'phase', 'behind')
    local wrong = seen[id]
      or (not newer(r[2]) and (r[1] ~= 'queued' or list_of(r[3], r[4], r[5], r[1], nil, r[6]) ~= list))
    seen[id] = true
    if wrong then
      local place = from + i
      long = long or redis.call('LLEN', list)
      local cost = math.min(place, long - place)
      if spent > 0 and spent + cost > budget then return tostring(place - 1 - removed) end
      spent = spent + cost
      redis.call('LREM', list, place <= long - place and 1 or -1, id)
      removed = removed + 1
      mended('ready')
      -- In a wrong list: whether it stands in the right one is looked at next time.
      if r[1] == 'queued' then redis.call('ZADD', KEYS[2], now - patience, id) end
    end
  end
  return #ids < part and '0' or tostring(from + #ids - removed)
end

local function page_of_zset(set, cursor, state, kind)
  local scan = redis.call('ZSCAN', set, cursor, 'COUNT', part)
  for i = 1, #scan[2], 2 do
    local id = scan[2][i]
    local r = fields(id)
    if r[1] ~= state and not newer(r[2]) then
      redis.call('ZREM', set, id)
      -- A dead record is forgotten in its time, its id by the next trim.
      if state ~= 'dead' or r[1] or tonumber(scan[2][i + 1]) + keep.dead * 1000 > now then mended(kind or state) end
    end
  end
  return scan[1]
end

-- Where nothing waits and nothing has died, one look says so.
local held = ns .. ':rate:held'
local empty = redis.call('EXISTS', KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13], held,
  ns .. ':turns:high', ns .. ':turns:default', ns .. ':turns:low', ns .. ':at_fal') == 0
local open = 0
for i, name in ipairs(parts) do
  local cursor = cursors[name]
  if cursor then
    local rest = '0'
    if name == 'keys' then rest = page_of_keys(cursor)
    elseif empty then -- nothing to see
    elseif i <= 5 then rest = page_of_list(ready[i - 1], cursor)
    elseif name == 'later' then rest = page_of_zset(KEYS[12], cursor, 'later')
    elseif name == 'held' then rest = page_of_zset(held, cursor, 'later', 'held')
    elseif priority[name] then rest = page_of_turns(name, cursor)
    elseif name == 'at_fal' then rest = page_of_at_fal(ns .. ':at_fal', cursor)
    else rest = page_of_zset(KEYS[13], cursor, 'dead') end
    if rest ~= '0' then
      redis.call('HSET', KEYS[1], 'p:' .. name, rest)
      open = open + 1
    elseif a['p:' .. name] then
      redis.call('HDEL', KEYS[1], 'p:' .. name)
    end
  end
end

-- After a walk of a large store as many calls are spared as it took: what grows with the store is how
-- long a walk takes, not what an idle worker costs.
local pause = gap
if open == 0 then
  pause = math.max(tick, pages * gap)
  if a.open then redis.call('HDEL', KEYS[1], 'open') end
else
  redis.call('HSET', KEYS[1], 'open', open)
end
-- A little less, since a caller comes with his own beat.
redis.call('HSET', KEYS[1], 'pages', pages, 'due', now + pause - math.floor(gap / 5))
if moved then ring(KEYS[7]) end
local out = {pause}
for _, kind in ipairs(kinds) do
  redis.call('HINCRBY', KEYS[6], 'repairs:' .. kind, counts[kind])
  out[#out + 1] = kind
  out[#out + 1] = counts[kind]
end
return out
