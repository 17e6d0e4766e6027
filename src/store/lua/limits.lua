-- limits: applies limits that have changed to those who wait under the old ones, a page a call: who has a
-- free slot now gets his turn, and what was given a time of its own comes in once more, with its share of
-- the rate given back.
-- KEYS   1 config   2 waiters   3 held by a rate   4 later   5 bell
-- ARGV   1 namespace   2 of each at most
-- MAKES  records; lines, turns, slots and rates of their users (same slot on a cluster)
-- GIVES  1 when all is done, else 0
-- CALLER Store::apply_limits
local ns, most = ARGV[1], tonumber(ARGV[2])
local c = redis.call('HMGET', KEYS[1], 'user_concurrency', 'applied:user_concurrency', 'user_rate', 'applied:user_rate',
  'applying', 'applying:at', 'fair')
local function applied(name, value)
  if value then
    redis.call('HSET', KEYS[1], 'applied:' .. name, value)
  else
    redis.call('HDEL', KEYS[1], 'applied:' .. name)
  end
end

local done = 1
if c[1] ~= c[2] then
  local value = c[1] or ''
  local scan = redis.call('SSCAN', KEYS[2], c[5] == value and c[6] or '0', 'COUNT', most)
  for _, user in ipairs(scan[2]) do free_slot(ns, user) end
  if scan[1] == '0' then
    applied('user_concurrency', c[1])
    redis.call('HDEL', KEYS[1], 'applying', 'applying:at')
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
    local r = redis.call('HMGET', job, 'state', 'deferred_at', 'user', 'priority', 'rated')
    redis.call('ZREM', KEYS[3], id)
    if r[1] == 'later' and r[2] and r[3] then
      if r[5] then
        local bucket = ns .. ':rate:user:' .. r[3]
        local tat = (tonumber(redis.call('GET', bucket) or '') or 0) - step
        if tat > now then
          redis.call('SET', bucket, string.format('%.3f', tat), 'PX', math.ceil(tat - now))
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
return done
