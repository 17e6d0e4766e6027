-- claim_full: the rest of claim, for all that is not so plain.
local deferred, given, jobs = 0, {}, {}
local claims, specs = {'HSET', KEYS[6]}, {'MGET'}
local function give(id, token, fields, set)
  jobs[#jobs + 1] = {id, token, fields, set}
  specs[#specs + 1] = ns .. ':spec:' .. id
end

if again then
  local mine = {}
  for i = 8, 7 + n do mine[ARGV[i]] = true end
  local all = redis.call('HGETALL', KEYS[6])
  for i = 1, #all, 2 do
    local id, token = all[i], all[i + 1]
    local job = ns .. ':job:' .. id
    local r = mine[token] and redis.call('HMGET', job, 'state', 'token')
    if r and r[1] == 'running' and r[2] == token then
      given[token] = true
      give(id, token, redis.call('HGETALL', job))
    end
  end
end

local others = limited and aside()
local window = limited and others.fal_settings(ns)

-- Users and ids that left the list of this priority, in turns still to be passed on.
local left_list = {}
local function leaves(p, user, id)
  if limited then
    others.pass_turn(ns, p, user, id, others.is_full(ns, user, slots))
  else
    left_list[#left_list + 1] = user
    left_list[#left_list + 1] = id
  end
end

-- What `pass_turn` does, for all of them: where nobody waits in their lines, as it mostly is, in three commands.
local function pass_turns(p)
  local turns, users = ns .. ':turns:' .. p, {}
  for i = 1, #left_list, 2 do users[#users + 1] = left_list[i] end
  local ids = redis.call('HMGET', turns, unpack(users))
  local theirs, lines = {}, {}
  for i, user in ipairs(users) do
    if ids[i] == left_list[2 * i] then
      theirs[#theirs + 1] = user
      lines[#lines + 1] = ns .. ':waiting:' .. p .. ':' .. user
    end
  end
  if #theirs > 0 and redis.call('EXISTS', unpack(lines)) == 0 then
    redis.call('HDEL', turns, unpack(theirs))
  elseif #theirs > 0 then
    others = others or aside()
    for i, user in ipairs(users) do others.pass_turn(ns, p, user, left_list[2 * i], false) end
  end
  left_list = {}
end

-- What waited in `low` for so long counts as `default` from now on, as if it had come in there now. The
-- head of the list tells, since nobody passes it; where `default` is empty it is served all the same. `pattern`: of
-- those that wait for a place of their model, who wait for it in `default` then.
local function age_low(pattern)
  local from = pattern and others.standing_in('low', pattern) or 'low'
  local list = ns .. ':ready:' .. from
  for _ = 1, n do
    local id = redis.call('LINDEX', list, -1)
    if not id then return end
    local job = ns .. ':job:' .. id
    local r = redis.call('HMGET', job, 'state', 'queued_at', 'ready_at', 'user', 'v')
    if r[1] ~= 'queued' or (tonumber(r[5]) or 0) > format then return end
    if now - (tonumber(r[3] or r[2] or '') or now) <= low_after then return end
    redis.call('RPOP', list)
    redis.call('HSET', job, 'priority', 'default', 'aged_at', now_text)
    others = others or aside()
    -- In the lines of a model nobody waits for a slot of his own.
    if r[4] then others.pass_turn(ns, from, r[4], id, not pattern and others.is_full(ns, r[4], slots)) end
    if pattern then
      others.hold_for_model(ns, 'default', r[4], id, pattern, fair)
    else
      others.enter(ns, 'default', r[4], id, fair)
    end
  end
end

-- Of each limit of models, how many more may come to fal; asked once.
local function places(limit)
  limit.free = limit.free or limit.most - redis.call('SCARD', ns .. ':at_fal:' .. limit.pattern)
  return limit.free
end

-- In each priority those who wait for a place of their model and the rest of it take turns, and so do the models: where
-- the window has no room for all of them, the backlog of one would keep the others waiting until it is gone. Kept in
-- `window` as `turn:<priority>`: the number of the limit that was served last, doubled, and 1 if the rest is next.
local turn_of, turn_was = {}, {}
local function turn_in(p)
  if not turn_of[p] then
    turn_was[p] = tonumber(redis.call('HGET', ns .. ':window', 'turn:' .. p) or '') or 0
    turn_of[p] = turn_was[p]
  end
  return turn_of[p]
end

-- The next ones of a list, the last of them first; whether more stand there, if that is known; whether they waited for
-- a place of their model.
local function next_ids(l, p, most)
  local all = p and limited and window.limits or {}
  for i = 1, #all do
    local at = (math.floor(turn_in(p) / 2) + i - 1) % #all + 1
    local limit = all[at]
    if places(limit) > 0 then
      local rest_is_next = turn_of[p] % 2 == 1
      if rest_is_next and redis.call('EXISTS', ns .. ':ready:' .. others.standing_in(p, limit.pattern)) == 1 then
        local id = redis.call('RPOP', KEYS[l])
        if id then
          turn_of[p] = turn_of[p] - 1
          return {id}
        end
        rest_is_next = false
      end
      local id = not rest_is_next and others.first_of_model(ns, p, limit.pattern)
      if id then
        turn_of[p] = 2 * at + 1
        return {id}, false, true
      end
    end
  end
  if limited or most == 1 then return {redis.call('RPOP', KEYS[l]) or nil} end
  local ids = redis.call('LRANGE', KEYS[l], -most - 1, -1)
  local more = #ids > most
  if more then table.remove(ids, 1) end
  if #ids > 0 then redis.call('LTRIM', KEYS[l], 0, -#ids - 1) end
  return ids, more
end

-- The stream is told once in a life that a limit holds a job back.
local function say_deferred(id, r)
  redis.call('XADD', KEYS[8], '*', 'event', 'deferred', 'job', id, 'at', now_text, 'attempt', r.attempt or '0', 'kind',
    'rate_limited', pair('user', r.user, pair('model', r.model, pair('meta', r.meta))))
  deferred = deferred + 1
end
local function put_aside(id, job, r)
  if r.aside_at or r.deferred_at then return end
  redis.call('HSET', job, 'aside_at', now_text)
  say_deferred(id, r)
end

-- Whether a limit of its model or its user holds an unpaid job back; then it stands where it waits for that.
local function held_back(id, job, p, r, waited)
  local user = r.user
  if user and others.is_full(ns, user, slots) then
    put_aside(id, job, r)
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
  local limit = others.limit_of(window, r.model)
  local begun = r.started_at or r.rated
  -- Behind those who wait already: its list has its turn before them, not it.
  if limit and (places(limit) <= 0 or (turn_of[p] and not waited and not begun
    and redis.call('EXISTS', ns .. ':ready:' .. others.standing_in(p, limit.pattern)) == 1)) then
    put_aside(id, job, r)
    others.hold_for_model(ns, p, user, id, limit.pattern, fair, begun)
    if user then others.pass_turn(ns, p, user, id, false) end
    return true
  end
  if not user or rate == 0 or per == 0 or r.rated then return false end
  -- GCRA: the bucket's time in one key. What must wait takes its own time from it now and is never asked
  -- again, so a long line costs two claims a job.
  local bucket = ns .. ':rate:user:' .. user
  local step = per / rate
  local tat = math.max(others.filled(redis.call('GET', bucket), now), now)
  local due = math.ceil(tat - (per - step))
  local expires_at = tonumber(r.expires_at or '')
  if due > now and expires_at and due > expires_at then
    due = expires_at + 1 -- it will not live to see its time, so it takes nobody's
  else
    tat = tat + step
    redis.call('SET', bucket, string.format('%.3f %s', tat, now_text), 'PX', math.ceil(tat - now))
    redis.call('HSET', job, 'rated', 1)
  end
  if due <= now then return false end
  redis.call('HSET', job, 'state', 'later', 'due_at', due)
  redis.call('ZADD', KEYS[7], due, id)
  redis.call('ZADD', ns .. ':rate:held', due, id)
  if redis.call('HSETNX', job, 'deferred_at', now_text) == 1 and not r.aside_at then say_deferred(id, r) end
  others.pass_turn(ns, p, user, id, false)
  return true
end

-- Whether a job says that the bot has sent a status message for it.
local function has_status(id)
  local text = redis.pcall('GET', ns .. ':spec:' .. id)
  -- Most say no such thing, and taking a large one apart is dear.
  if type(text) ~= 'string' or not string.find(text, 'status_message_id', 1, true) then return false end
  local is_json, entry = pcall(cjson.decode, text)
  local to = is_json and type(entry) == 'table' and entry.telegram
  return type(to) == 'table' and type(to.status_message_id) == 'number'
end

-- Whether nobody is to pay for what goes to this chat, and whether its user can be told of that all the same, by
-- an edit of the status message: the chat may be well again.
local function is_lost(id, r)
  local mark = redis.pcall('GET', KEYS[12] .. ':' .. r.chat)
  if not mark then return false end
  -- An hour it is remembered at most (see mark_unreachable): so also where Redis's clock went back since.
  if redis.call('TTL', KEYS[12] .. ':' .. r.chat) > 3600 then redis.call('EXPIRE', KEYS[12] .. ':' .. r.chat, 3600) end
  if not has_status(id) then return true end
  -- What came in after the mark has a status message that was sent after it, most likely. A mark of an older version
  -- is 1, and older than nothing.
  local at = tonumber(mark) or 1
  return at == 1 or (tonumber(r.queued_at or '') or 0) <= at, true
end

local size = lists > 1 and limited and window.size and redis.call('SCARD', ns .. ':at_fal')

-- One that was taken out of a list; p: its priority, false in `resume`. Gives whether it is claimed under the token.
local newer = 0
local function look_at(id, p, token, waited)
  local job = ns .. ':job:' .. id
  local flat = redis.pcall('HGETALL', job)
  if flat.err then return false end -- no record of ours: it takes none of the others with it
  local r = {}
  for i = 1, #flat, 2 do r[flat[i]] = flat[i + 1] end
  local user = p and r.user
  local unpaid = (r.phase or 'submitting') == 'submitting' and not r.request_id
  local late = unpaid and r.expires_at and now > (tonumber(r.expires_at) or math.huge)
  local lost, can_tell = false, false
  -- A person who retried it has seen to that the chat can be reached.
  if marks and r.state == 'queued' and unpaid and not late and r.chat and not r.retried_at then lost, can_tell = is_lost(id, r) end
  if r.state ~= 'queued' then
    -- Somebody holds it, or nobody knows it: it stands here no more.
    if user then leaves(p, user, id) end
    return false
  elseif r.v ~= ARGV[5] and (tonumber(r.v) or 0) > format then
    -- A newer version wrote this: leave it to its kind, look again later, and let people know.
    redis.call('HSET', job, 'state', 'later', 'due_at', now + 5000)
    redis.call('ZADD', KEYS[7], now + 5000, id)
    redis.call('ZADD', ns .. ':newer', now, id)
    redis.call('PEXPIRE', ns .. ':newer', 60000)
    newer = 2
    if user then leaves(p, user, id) end
    return false
  elseif limited and p and unpaid and not late and not lost and held_back(id, job, p, r, waited) then
    return false
  end
  local phase = r.phase or 'submitting'
  if phase == 'submitting' and r.request_id then phase = 'polling' end -- a late id came: it is paid
  if late or lost then phase = 'telling' end -- which nobody tries where the chat is lost and there is nothing to edit
  local starts = not r.started_at and phase ~= 'telling'
  local set = {'state', 'running', 'token', token, 'seq', '0', 'worker', me, 'phase', phase,
    pair('started_at', starts and now_text, pair('told', lost and not can_tell and 'no',
      pair('kind', late and 'expired' or lost and 'chat_unreachable',
      pair('error', late and 'too old to be paid for: it waited beyond expires_at'
        or lost and 'not paid for: an earlier message could not reach this chat'))))}
  if starts then
    redis.call('XADD', KEYS[8], '*', 'event', 'started', 'job', id, 'at', now_text, 'attempt', r.attempt or '0',
      pair('user', r.user, pair('model', r.model, pair('meta', r.meta))))
  end
  if limited and slots > 0 and r.user and phase ~= 'telling' then
    redis.call('SADD', ns .. ':user:' .. r.user .. ':running', id)
    set[#set + 1] = 'slot'
    set[#set + 1] = '1'
  elseif r.started_at and r.user and not r.slot then
    -- Claimed before, perhaps by a version that keeps the set always.
    redis.call('SREM', ns .. ':user:' .. r.user .. ':running', id)
  end
  redis.call('HSET', job, unpack(set))
  claims[#claims + 1] = id
  claims[#claims + 1] = token
  if limited and window.any and others.is_at_fal(phase) then
    others.enter_fal(ns, window, id, r.model, r.at_fal)
    local limit = others.limit_of(window, r.model)
    if limit and limit.free and not r.at_fal then limit.free = limit.free - 1 end
    if size and not r.at_fal then size = size + 1 end
  end
  if user then leaves(p, user, id) end
  give(id, token, flat, set)
  return true
end

local only_default = lists == 4 and not limited and redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[4]) == 0
local limits = lists == 4 and limited and window.limits or {}
local next_token, looked, more = 8, 0, false

local function take(id, p, waited)
  while given[ARGV[next_token]] do next_token = next_token + 1 end
  if look_at(id, p, ARGV[next_token], waited) then next_token = next_token + 1 end
  looked = looked + 1
end

-- Who waits for a place of this model and is first there comes out when his time is over, place or not: while the
-- places go to others nobody else looks there. So does what does not wait any more. `most`: with how many jobs in all
-- it is enough. Gives whether some are left.
local function take_lapsed(limit, most)
  for l = 2, 4 do
    local list = ns .. ':ready:' .. others.standing_in(names[l], limit.pattern)
    while true do
      local id = redis.call('LINDEX', list, -1)
      local r = id and redis.pcall('HMGET', ns .. ':job:' .. id, 'state', 'expires_at')
      if not id or r.err or (r[1] == 'queued' and now <= (tonumber(r[2] or '') or math.huge)) then break end
      if #jobs >= most or looked >= 64 then return true end
      others.first_of_model(ns, names[l], limit.pattern)
      take(id, names[l], true)
    end
  end
  return false
end

local lapsed = false
for l = 1, lists do
  local p = names[l]
  if l == 2 then
    -- It needs no more than to be told, and one a claim goes first; not a whole night's: `high` would wait for them.
    local most = math.min(n, #jobs + 1)
    for _, limit in ipairs(limits) do take_lapsed(limit, most) end
  elseif p == 'default' and low_after > 0 and not only_default then
    -- Those of a model that is full keep others waiting whom `default` does not show.
    if #limits > 0 or redis.call('EXISTS', KEYS[4], KEYS[3]) == 2 then age_low() end
    for _, limit in ipairs(limits) do age_low(limit.pattern) end
  end
  while #jobs < n and looked < 64 and (l == 3 or not only_default) do
    if p and size and size >= window.size then break end
    local ids, left, waited = next_ids(l, p, math.min(n - #jobs, 64 - looked))
    more = left or false
    if #ids == 0 then break end
    for i = #ids, 1, -1 do take(ids[i], p, waited) end
    if #left_list > 0 then pass_turns(p) end
  end
end
for _, limit in ipairs(limits) do lapsed = take_lapsed(limit, n) or lapsed end
more = more or lapsed
for p, turn in pairs(turn_of) do
  if turn ~= turn_was[p] then redis.call('HSET', ns .. ':window', 'turn:' .. p, turn) end
end
if #claims > 2 then redis.call(unpack(claims)) end

-- What no claim may take now is no reason to come again: who makes room for it rings.
if limited and not more then
  more = redis.call('EXISTS', KEYS[1]) == 1 or (lists > 1 and others.is_claimable(ns, window))
elseif not more then
  more = redis.call('EXISTS', unpack(KEYS, 1, lists)) > 0
end
if lists == 4 then
  -- A claim that leaves ids behind rings for the next puller; one that emptied the lists silences the bell.
  if more then ring(KEYS[5]) else redis.call('DEL', KEYS[5]) end
end
more = (more and 1 or 0) + newer
if #jobs == 0 then return {'ok', more, now, deferred} end
return {'ok', more, now, deferred, cmsgpack.pack(jobs), unpack(redis.call(unpack(specs)))}
