-- claim: takes up to n ids from the ready lists and gives the jobs to one instance under tokens that
-- the worker made: a repeated claim gives the same jobs, so a lost answer loses nothing.
-- KEYS   1 resume   2 high   3 default   4 low   5 bell   6 claims of the instance   7 later   8 events
--        9 hash of the instance   10 paused   11 settling   12 start of the names of unreachable chats, perhaps
-- ARGV   1 namespace   2 instance   3 n   4 paid only (0, 1)   5 format   6 repeated (0, 1)
--        7 number of this claim, rising within the instance; its repeat has the same   8... n tokens
-- MAKES  records and specs of the ids, names of their chats; lists, lines, turns, slots and rates of their users,
--        places at fal (same slot on a cluster)
-- GIVES  {word, more (0, 1; 2 more where a record of a newer version was met), now, jobs newly deferred,
--        {{id, token, {field, value...}, {field, new value...}}...} packed, spec or nil...}; the last two only with jobs
--        word: ok, buried, unregistered, settling; fresh: the jobs are such as never were claimed, under the tokens in
--        their order, and of each comes {queued_at, expires_at, max_attempts, user, model, meta, id}, false for what
--        it has not
-- CALLER Session::claim
local ns, me, n, format = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
local number, again = tonumber(ARGV[7]), ARGV[6] == '1'
local w = redis.call('HMGET', KEYS[9], 'dead', 'name', 'claim')
if w[1] then return {'buried', 0, 0, 0} end
if not w[2] then return {'unregistered', 0, 0, 0} end
-- A call that comes after its own repeat, or after a newer one: nobody waits for its answer any more,
-- and a second job under a token in use would stay unseen until the first one has ended.
local last = tonumber(w[3] or '0')
if number < last or (number == last and not again) then return {'ok', 0, 0, 0} end
local plain = ARGV[4] ~= '1' and not again
local lists, marks = ARGV[4] == '1' and 1 or 4, false
-- The common case in one look: only `default` has ids, and there is no pause, no settling, no unreachable chat.
if not plain or redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[4], unpack(KEYS, 10)) > 0 then
  plain = false
  if is_settling(KEYS[11]) then return {'settling', 0, 0, 0} end
  if redis.call('EXISTS', KEYS[10]) > 0 then lists = 1 end
  marks = KEYS[12] and redis.call('EXISTS', KEYS[12]) > 0
end
local now, now_text = now_ms()
look_at_events(KEYS[8])
-- First a write that Redis refuses when it is out of memory: so nothing is taken that could not be kept.
redis.call('HSET', KEYS[9], 'pulled_at', now_text, 'claim', ARGV[7])

local c = redis.call('HMGET', ns .. ':config', 'user_concurrency', 'user_rate', 'low_after', 'fair', 'fal_concurrency',
  'model_limits')
local slots, fair = tonumber(c[1] or '') or 0, c[4] ~= 'off'
local rate, per = string.match(c[2] or '', '^(%d+)/(%d+)$')
rate, per = tonumber(rate or '0'), tonumber(per or '0')
local low_after = tonumber(c[3] or '') or 600000
local names = {false, 'high', 'default', 'low'}
-- Under a limit each id is claimed as it comes; without one several go through the same commands.
local limited = slots > 0 or rate > 0 or c[5] == 'auto' or (tonumber(c[5] or '') or 0) > 0
  or string.find(c[6] or '', '=', 1, true)

-- Jobs that came in and were never claimed since, of the middle priority, where nothing is limited.
if plain and not limited then
  local turns, prefix = ns .. ':turns:default', ns .. ':job:'
  local jobs, claims, specs = {}, {'HSET', KEYS[6]}, {'MGET'}
  local more, moved
  repeat
    local ids = redis.call('LRANGE', KEYS[3], #jobs - n - 1, -1)
    more, moved = #ids > n - #jobs, false
    local round, seen, users, theirs, lines = {}, {}, {}, {}, {}
    for i = #ids, more and 2 or 1, -1 do
      local id = ids[i]
      local r = redis.pcall('HMGET', prefix .. id, 'queued_at', 'expires_at', 'max_attempts', 'user', 'model', 'meta',
        'chat', 'state', 'v')
      local fields = 3 -- attempt, life, priority
      for f = 1, 9 do
        if r[f] then fields = fields + 1 end
      end
      -- What else a record may say makes it none of these.
      if seen[id] or r[8] ~= 'queued' or r[9] ~= ARGV[5] or (r[2] and now > (tonumber(r[2]) or math.huge))
        or redis.call('HLEN', prefix .. id) ~= fields then
        plain = false
        break
      end
      seen[id] = true
      r[7], r[8], r[9] = id, nil, nil
      round[#round + 1] = r
    end
    if not plain or #round == 0 then break end
    redis.call('LTRIM', KEYS[3], 0, -#round - 1)
    for _, r in ipairs(round) do
      local user, id, at = r[4], r[7], #jobs + 1
      local token = ARGV[7 + at]
      redis.call('XADD', KEYS[8], '*', 'event', 'started', 'job', id, 'at', now_text, 'attempt', '0',
        pair('user', user, pair('model', r[5], pair('meta', r[6]))))
      redis.call('HSET', prefix .. id, 'state', 'running', 'token', token, 'seq', '0', 'worker', me, 'phase',
        'submitting', 'started_at', now_text)
      jobs[at], claims[2 * at + 1], claims[2 * at + 2], specs[at + 1] = r, id, token, ns .. ':spec:' .. id
      if user then users[#users + 1] = user end
    end
    -- What `pass_turn` does, for all of them: where nobody waits in their lines, as it mostly is, in three commands.
    local turn = #users > 0 and redis.call('HMGET', turns, unpack(users)) or {}
    for i, user in ipairs(users) do
      if turn[i] and seen[turn[i]] then
        theirs[#theirs + 1] = user
        lines[#lines + 1] = ns .. ':waiting:default:' .. user
      end
    end
    if #theirs > 0 and redis.call('EXISTS', unpack(lines)) == 0 then
      redis.call('HDEL', turns, unpack(theirs))
    elseif #theirs > 0 then
      moved = true -- their next ones
      local others = aside()
      for _, r in ipairs(round) do
        if r[4] then others.pass_turn(ns, 'default', r[4], r[7], false) end
      end
    end
  until not moved or #jobs == n
  if plain or #jobs > 0 then
    more = more or moved or not plain
    if more then ring(KEYS[5]) else redis.call('DEL', KEYS[5]) end
    if #jobs == 0 then return {'ok', 0, now, 0} end
    redis.call(unpack(claims))
    return {'fresh', more and 1 or 0, now, 0, cmsgpack.pack(jobs), unpack(redis.call(unpack(specs)))}
  end
end
