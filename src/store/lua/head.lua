-- head: put in front of every script. No command newer than Redis 6.0.16.

-- Milliseconds of Redis's own clock: workers' clocks never decide anything.
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Wakes one blocked puller. The bell is capped: rings say "look", never what to find.
local function ring(bell)
  if redis.call('LPUSH', bell, '1') > 64 then
    redis.call('LTRIM', bell, 0, 63)
  end
end

-- `no` < `unknown` < `yes`: over several attempts the worst counts.
local function worse(a, b)
  if a == 'yes' or b == 'yes' then return 'yes' end
  if a == 'unknown' or b == 'unknown' then return 'unknown' end
  return 'no'
end

-- Whether the request id stands in `tried` (ids separated by spaces).
local function was_tried(tried, request)
  return tried and string.find(' ' .. tried .. ' ', ' ' .. request .. ' ', 1, true) ~= nil
end

-- After a write whose author did not know what had been noted in `tried` meanwhile: no id vanishes.
local function keep_tried(job, before)
  if not before then return end
  local now = redis.call('HGET', job, 'tried') or ''
  for request in string.gmatch(before, '%S+') do
    if not was_tried(now, request) then now = request .. (now == '' and '' or ' ' .. now) end
  end
  redis.call('HSET', job, 'tried', now)
end
