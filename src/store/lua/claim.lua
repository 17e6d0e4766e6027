-- claim: takes up to n ids from the ready lists and gives the jobs to one instance under tokens that
-- the worker made: a repeated claim gives the same jobs, so a lost answer loses nothing.
-- KEYS   1 resume   2 high   3 default   4 low   5 bell   6 claims of the instance   7 later   8 events
--        9 hash of the instance   10 paused   11 settling   12 start of the names of unreachable chats, perhaps
-- ARGV   1 namespace   2 instance   3 n   4 paid only (0, 1)   5 format   6 repeated (0, 1)
--        7 number of this claim, rising within the instance; its repeat has the same   8... n tokens
-- MAKES  records of the ids, names of their chats; lists, lines, turns, slots and rates of their users, places at
--        fal (same slot on a cluster)
-- GIVES  {word, more (0, 1; 2 more where a record of a newer version was met), now, jobs newly deferred,
--        {id, token, spec or '', field, value...}...}
--        word: ok, buried, unregistered, settling
-- CALLER Store::claim
local ns, me, n, format = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
local number, again = tonumber(ARGV[7]), ARGV[6] == '1'
local w = redis.call('HMGET', KEYS[9], 'dead', 'name', 'claim')
if w[1] then return {'buried', 0, 0, 0} end
if not w[2] then return {'unregistered', 0, 0, 0} end
-- A call that comes after its own repeat, or after a newer one: nobody waits for its answer any more,
-- and a second job under a token in use would stay unseen until the first one has ended.
local last = tonumber(w[3] or '0')
if number < last or (number == last and not again) then return {'ok', 0, 0, 0} end
local lists = 4
if ARGV[4] == '1' then lists = 1 end
if redis.call('EXISTS', KEYS[10], KEYS[11]) > 0 then
  if redis.call('EXISTS', KEYS[11]) > 0 then return {'settling', 0, 0, 0} end
  lists = 1
end
local now = now_ms()
-- First a write that Redis refuses when it is out of memory: so nothing is taken that could not be kept.
redis.call('HSET', KEYS[9], 'pulled_at', now, 'claim', number)

local out, given = {'ok', 0, now, 0}, {}
local function give(id, token, flat)
  local one = {id, token, redis.call('GET', ns .. ':spec:' .. id) or ''}
  for i = 1, #flat do one[#one + 1] = flat[i] end
  out[#out + 1] = one
end

if again then
  local mine = {}
  for i = 8, 7 + n do mine[ARGV[i]] = true end
  local claims = redis.call('HGETALL', KEYS[6])
  for i = 1, #claims, 2 do
    local id, token = claims[i], claims[i + 1]
    local job = ns .. ':job:' .. id
    local r = mine[token] and redis.call('HMGET', job, 'state', 'token')
    if r and r[1] == 'running' and r[2] == token then
      given[token] = true
      give(id, token, redis.call('HGETALL', job))
    end
  end
end

local c = redis.call('HMGET', ns .. ':config', 'user_concurrency', 'user_rate', 'low_after', 'fair')
local slots, fair = tonumber(c[1] or '') or 0, c[4] ~= 'off'
local rate, per = string.match(c[2] or '', '^(%d+)/(%d+)$')
rate, per = tonumber(rate or '0'), tonumber(per or '0')
local low_after = tonumber(c[3] or '') or 600000
local names = {false, 'high', 'default', 'low'}

-- What waited in `low` for so long counts as `default` from now on, as if it had come in there now. The
-- head of the list tells, since nobody passes it; where `default` is empty it is served all the same.
local function age_low()
  for _ = 1, n do
    local id = redis.call('LINDEX', KEYS[4], -1)
    if not id then return end
    local job = ns .. ':job:' .. id
    local r = redis.call('HMGET', job, 'state', 'queued_at', 'ready_at', 'user', 'v')
    if r[1] ~= 'queued' or (tonumber(r[5]) or 0) > format then return end
    if now - (tonumber(r[3] or r[2] or '') or now) <= low_after then return end
    redis.call('RPOP', KEYS[4])
    redis.call('HSET', job, 'priority', 'default', 'aged_at', now)
    if r[4] then pass_turn(ns, 'low', r[4], id, is_full(ns, r[4], slots)) end
    enter(ns, 'default', r[4], id, fair)
  end
end

-- Of each limit of models, how many more may come to fal; asked once.
local window = fal_settings(ns)
local function places(limit)
  limit.free = limit.free or limit.most - redis.call('SCARD', ns .. ':at_fal:' .. limit.pattern)
  return limit.free
end

-- The next of a list; of a priority those first that waited for a place of their model, where there is one.
local function next_id(l, p)
  if p then
    for _, limit in ipairs(window.limits) do
      if places(limit) > 0 then
        local id = first_of_model(ns, p, limit.pattern)
        if id then return id, true end
      end
    end
  end
  return redis.call('RPOP', KEYS[l])
end

-- Whether a limit of its model or its user holds an unpaid job back; then it stands where it waits for that.
local function held_back(id, job, p, r, waited)
  local user = r.user
  if user and is_full(ns, user, slots) then
    local turn = redis.call('HGET', ns .. ':turns:' .. p, user)
    redis.call('HSET', job, 'state', 'waiting')
    -- In front, if it stood there before; one that comes for the first time stands behind those.
    local front = turn == id or r.started_at or waited
    redis.call(front and 'RPUSH' or 'LPUSH', ns .. ':waiting:' .. p .. ':' .. user, id)
    if not turn or turn == id then
      redis.call('HSET', ns .. ':turns:' .. p, user, '')
      redis.call('SADD', ns .. ':waiters', user)
    end
    return true
  end
  local limit = limit_of(window, r.model)
  if limit and places(limit) <= 0 then
    hold_for_model(ns, p, user, id, limit.pattern, fair)
    if user then pass_turn(ns, p, user, id, false) end
    return true
  end
  if not user or rate == 0 or per == 0 or r.rated then return false end
  -- GCRA: the bucket's time in one key. What must wait takes its own time from it now and is never asked
  -- again, so a long line costs two claims a job.
  local bucket = ns .. ':rate:user:' .. user
  local step = per / rate
  local tat = math.max(tonumber(redis.call('GET', bucket) or '') or 0, now)
  local due = math.ceil(tat - (per - step))
  local expires_at = tonumber(r.expires_at or '')
  if due > now and expires_at and due > expires_at then
    due = expires_at + 1 -- it will not live to see its time, so it takes nobody's
  else
    tat = tat + step
    redis.call('SET', bucket, string.format('%.3f', tat), 'PX', math.ceil(tat - now))
    redis.call('HSET', job, 'rated', 1)
  end
  if due <= now then return false end
  redis.call('HSET', job, 'state', 'later', 'due_at', due)
  redis.call('ZADD', KEYS[7], due, id)
  redis.call('ZADD', ns .. ':rate:held', due, id)
  if redis.call('HSETNX', job, 'deferred_at', now) == 1 then
    local e = {'XADD', KEYS[8], '*', 'event', 'deferred', 'job', id, 'user', user, 'at', now, 'attempt',
      r.attempt or 0, 'kind', 'rate_limited'}
    if r.model then e[#e + 1] = 'model'; e[#e + 1] = r.model end
    if r.meta then e[#e + 1] = 'meta'; e[#e + 1] = r.meta end
    redis.call(unpack(e))
    out[4] = out[4] + 1
  end
  pass_turn(ns, p, user, id, false)
  return true
end

local next_token, looked, size, newer = 8, 0, nil, 0
if lists > 1 and window.size then
  size = redis.call('SCARD', ns .. ':at_fal')
end
for l = 1, lists do
  local p = names[l]
  if p == 'default' and low_after > 0 and redis.call('EXISTS', KEYS[4], KEYS[3]) == 2 then age_low() end
  while #out - 4 < n and looked < 64 do
    if p and size and size >= window.size then break end
    while given[ARGV[next_token]] do next_token = next_token + 1 end
    local id, waited = next_id(l, p)
    if not id then break end
    looked = looked + 1
    local job = ns .. ':job:' .. id
    local flat = redis.call('HGETALL', job)
    local r = {}
    for i = 1, #flat, 2 do r[flat[i]] = flat[i + 1] end
    local user = p and r.user
    local unpaid = (r.phase or 'submitting') == 'submitting' and not r.request_id
    local late = unpaid and r.expires_at and now > (tonumber(r.expires_at) or math.huge)
    -- A person who retried it has seen to that the chat can be reached.
    local lost = unpaid and not late and r.chat and not r.retried_at and KEYS[12]
      and redis.call('EXISTS', KEYS[12] .. ':' .. r.chat) == 1
    if r.state ~= 'queued' then
      -- Somebody holds it, or nobody knows it: it stands here no more.
      if user then pass_turn(ns, p, user, id, is_full(ns, user, slots)) end
    elseif (tonumber(r.v) or 0) > format then
      -- A newer version wrote this: leave it to its kind, look again later, and let people know.
      redis.call('HSET', job, 'state', 'later', 'due_at', now + 5000)
      redis.call('ZADD', KEYS[7], now + 5000, id)
      redis.call('ZADD', ns .. ':newer', now, id)
      redis.call('PEXPIRE', ns .. ':newer', 60000)
      newer = 2
      if user then pass_turn(ns, p, user, id, is_full(ns, user, slots)) end
    elseif not (p and unpaid and not late and not lost and held_back(id, job, p, r, waited)) then
      local token = ARGV[next_token]
      next_token = next_token + 1
      local phase = r.phase or 'submitting'
      if phase == 'submitting' and r.request_id then phase = 'polling' end -- a late id came: it is paid
      local set = {'HSET', job, 'state', 'running', 'token', token, 'seq', 0, 'worker', me}
      if late then
        phase = 'telling'
        set[#set + 1] = 'kind'; set[#set + 1] = 'expired'
        set[#set + 1] = 'error'; set[#set + 1] = 'too old to be paid for: it waited beyond expires_at'
      elseif lost then
        phase = 'telling' -- which is what nobody tries there
        set[#set + 1] = 'kind'; set[#set + 1] = 'chat_unreachable'
        set[#set + 1] = 'error'; set[#set + 1] = 'not paid for: an earlier message could not reach this chat'
        set[#set + 1] = 'told'; set[#set + 1] = 'no'
      end
      set[#set + 1] = 'phase'; set[#set + 1] = phase
      if not r.started_at and phase ~= 'telling' then
        set[#set + 1] = 'started_at'; set[#set + 1] = now
        local e = {'XADD', KEYS[8], '*', 'event', 'started', 'job', id, 'at', now, 'attempt', r.attempt or 0}
        if r.user then e[#e + 1] = 'user'; e[#e + 1] = r.user end
        if r.model then e[#e + 1] = 'model'; e[#e + 1] = r.model end
        if r.meta then e[#e + 1] = 'meta'; e[#e + 1] = r.meta end
        redis.call(unpack(e))
      end
      redis.call(unpack(set))
      redis.call('HSET', KEYS[6], id, token)
      if window.any and is_at_fal(phase) then
        enter_fal(ns, window, id, r.model, r.at_fal)
        local limit = limit_of(window, r.model)
        if limit and limit.free and not r.at_fal then limit.free = limit.free - 1 end
        if size and not r.at_fal then size = size + 1 end
      end
      if r.user and phase ~= 'telling' then
        redis.call('SADD', ns .. ':user:' .. r.user .. ':running', id)
      end
      if user then pass_turn(ns, p, user, id, is_full(ns, user, slots)) end
      for i = 3, #set do flat[#flat + 1] = tostring(set[i]) end
      give(id, token, flat)
    end
  end
end

-- What no claim may take now is no reason to come again: who makes room for it rings.
local more = redis.call('EXISTS', KEYS[1])
if more == 0 and lists > 1 and is_claimable(ns, window) then more = 1 end
out[2] = more + newer
if lists == 4 then
  -- A claim that leaves ids behind rings for the next puller; one that emptied the lists silences the bell.
  if more == 1 then ring(KEYS[5]) else redis.call('DEL', KEYS[5]) end
end
return out
