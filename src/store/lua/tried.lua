-- tried: shared by the scripts that note what a job has cost, and which requests at fal it has given up.

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
