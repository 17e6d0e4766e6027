-- limits: applies limits that have changed to those who wait under the old ones, a page a call: who has a
-- free slot now gets his turn, what was given a time of its own comes in once more, with its share of the rate
-- given back, and what is at fal is counted.
-- KEYS   1 config   2 waiters   3 held by a rate   4 later   5 bell
-- ARGV   1 namespace   2 of each at most
-- MAKES  records; lists, lines, turns, slots and rates of their users, places at fal (same slot on a cluster)
-- GIVES  1 when all is done, else 0
-- CALLER Session::apply_limits
local ns, most = ARGV[1], tonumber(ARGV[2])
redis.call('HDEL', KEYS[1], '') -- changes nothing, but is allowed without memory; so is the rest, then
local c = redis.call('HMGET', KEYS[1], 'user_concurrency', 'applied:user_concurrency', 'user_rate', 'applied:user_rate',
  'applying', 'applying:at', 'fair', 'fal_concurrency', 'applied:fal_concurrency', 'model_limits', 'applied:model_limits',
  'entering', 'entering:at', 'taking')
local function applied(name, value)
  if value then
    redis.call('HSET', KEYS[1], 'applied:' .. name, value)
  else
    redis.call('HDEL', KEYS[1], 'applied:' .. name)
  end
end

-- Of the instances, in the order of their names, the one behind `last`; nil: there is no more.
local function instance_after(last)
  local found
  for _, name in ipairs(redis.call('ZRANGE', ns .. ':workers', 0, -1)) do
    if name > last and (not found or name < found) then found = name end
  end
  return found
end

local done = 1
local slots = tonumber(c[1] or '') or 0
if c[1] ~= c[2] and slots > 0 and (tonumber(c[2] or '') or 0) == 0 and c[14] ~= 'all' then
  -- Without a limit nobody's slots were kept: what runs takes them first, the jobs of one instance a call. Who was
  -- claimed since has his already.
  local instance = instance_after(c[14] or '')
  for _, id in ipairs(instance and redis.call('HKEYS', ns .. ':claims:' .. instance) or {}) do
    local r = fields_of(ns .. ':job:' .. id, 'state', 'phase', 'user')
    if r[1] == 'running' and r[3] and r[2] ~= 'telling' then take_slot(ns, r[3], id) end
  end
  redis.call('HSET', KEYS[1], 'taking', instance or 'all')
  done = 0
elseif c[1] ~= c[2] then
  local value = c[1] or ''
  local scan = redis.call('SSCAN', KEYS[2], c[5] == value and c[6] or '0', 'COUNT', most)
  for _, user in ipairs(scan[2]) do free_slot(ns, user) end
  if scan[1] == '0' then
    applied('user_concurrency', c[1])
    redis.call('HDEL', KEYS[1], 'applying', 'applying:at', 'taking')
  else
    redis.call('HSET', KEYS[1], 'applying', value, 'applying:at', scan[1])
    done = 0
  end
end

if c[3] ~= c[4] then
  local rate, per = string.match(c[4] or '', '^(%d+)/(%d+)$')
  local step = rate and tonumber(rate) > 0 and tonumber(per) / tonumber(rate) or 0
  local fair, now = c[7] ~= 'off', now_ms()
  local ids = redis.call('ZRANGE', KEYS[3], 0, most - 1)
  for _, id in ipairs(ids) do
    local job = ns .. ':job:' .. id
    local r = fields_of(job, 'state', 'deferred_at', 'user', 'priority', 'rated')
    redis.call('ZREM', KEYS[3], id)
    if r[1] == 'later' and r[2] and r[3] then
      if r[5] then
        local bucket = ns .. ':rate:user:' .. r[3]
        local tat = filled(redis.call('GET', bucket), now) - step
        if tat > now then
          redis.call('SET', bucket, string.format('%.3f %d', tat, now), 'PX', math.ceil(tat - now))
        else
          redis.call('DEL', bucket)
        end
      end
      redis.call('ZREM', KEYS[4], id)
      redis.call('HDEL', job, 'rated', 'due_at')
      enter(ns, r[4] or 'default', r[3], id, fair)
    end
  end
  if #ids > 0 then ring(KEYS[5]) end
  if #ids < most then
    applied('user_rate', c[3])
  else
    done = 0
  end
end

if c[8] ~= c[9] or c[10] ~= c[11] then
  local w, left, current = fal_settings(ns), most, {}
  -- Who waits behind a limit that is no more waits for it no longer.
  for _, limit in ipairs(w.limits) do current[limit.pattern] = true end
  for pattern in string.gmatch(c[11] or '', '([^=,]+)=%d+') do
    if not current[pattern] then
      for _, p in ipairs(priorities) do left = left - release(ns, p, pattern, c[7] ~= 'off', left) end
    end
  end
  -- What is at fal already is counted: the jobs of one instance a call, in the order of their names.
  local value = (c[8] or '') .. ' ' .. (c[10] or '')
  local last = c[12] == value and c[13] or ''
  local worker = instance_after(last)
  for _, id in ipairs(worker and redis.call('HKEYS', ns .. ':claims:' .. worker) or {}) do
    local r = fields_of(ns .. ':job:' .. id, 'state', 'phase', 'model', 'at_fal')
    if r[1] == 'running' and is_at_fal(r[2]) then enter_fal(ns, w, id, r[3], r[4]) end
  end
  if left <= 0 or worker then
    redis.call('HSET', KEYS[1], 'entering', value, 'entering:at', worker or last)
    done = 0
  else
    applied('fal_concurrency', c[8])
    applied('model_limits', c[10])
    redis.call('HDEL', KEYS[1], 'entering', 'entering:at')
    if is_claimable(ns, w) then ring(KEYS[5]) end
  end
end
return done
