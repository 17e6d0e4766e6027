-- depths: how much waits where, and for how long, for those who watch; a piece of the walk over users' lines
-- beside it, since only that walk knows how many wait behind their turns.
-- KEYS   1 inbox   2 resume   3 high   4 default   5 low   6 later   7 dead   8 workers
-- ARGV   1 namespace   2 lane to go on with, 1 at first   3 cursor in it, '0' at first   4 users to look at
-- READS  lines and turns of users, records of the first in line (same slot on a cluster)
-- GIVES  {now, inbox, later, dead, workers, {depth, since} of resume, high, default, low, lane to go on with (0: the
--        walk is complete), cursor, jobs of this piece, since}; since: when the one that waits longest became
--        ready (of a list: of the four to be served next), 0 where nobody waits
-- CALLER Session::depths
local ns, lane, cursor, left = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

local function earlier(a, b)
  if a == 0 or (b > 0 and b < a) then return b end
  return a
end

local function since(id)
  local r = redis.call('HMGET', ns .. ':job:' .. id, 'ready_at', 'queued_at')
  return tonumber(r[1] or r[2] or '') or 0
end

local out = {now_ms(), redis.call('LLEN', KEYS[1])}
for i = 6, 7 do out[#out + 1] = redis.call('ZCARD', KEYS[i]) end
out[#out + 1] = redis.call('ZCARD', KEYS[8])
for i = 2, 5 do
  local first, next_ones = 0, redis.call('LRANGE', KEYS[i], -4, -1)
  for _, id in ipairs(next_ones) do first = earlier(first, since(id)) end
  local depth = #next_ones
  if depth == 4 then depth = redis.call('LLEN', KEYS[i]) end
  out[#out + 1] = {depth, first}
end

-- The lanes: the three priorities, and in each those that a limit of their model holds back.
local lanes = {'high', 'default', 'low'}
for _, limit in ipairs(fal_settings(ns).limits) do
  for i = 1, 3 do lanes[#lanes + 1] = model_priority(lanes[i], limit.pattern) end
end
-- An idle store is asked once for all three.
if lane == 1 and redis.call('EXISTS', ns .. ':turns:high', ns .. ':turns:default', ns .. ':turns:low') == 0 then
  lane = 4
end
local jobs, first = 0, 0
while lane > 0 and left > 0 do
  local p = lanes[lane]
  if not p then
    lane = 0
  else
    if lane > 3 and cursor == '0' then
      jobs = jobs + redis.call('LLEN', ns .. ':ready:' .. p)
      local id = redis.call('LINDEX', ns .. ':ready:' .. p, -1)
      if id then first = earlier(first, since(id)) end
    end
    local page = redis.call('HSCAN', ns .. ':turns:' .. p, cursor, 'COUNT', left)
    for i = 1, #page[2], 2 do
      local line = ns .. ':waiting:' .. p .. ':' .. page[2][i]
      local n = redis.call('LLEN', line)
      if n > 0 then
        jobs = jobs + n
        first = earlier(first, since(redis.call('LINDEX', line, -1)))
      end
      left = left - 1
    end
    left = left - 1
    cursor = page[1]
    if cursor == '0' then lane = lane + 1 end
  end
end
out[#out + 1] = lane
out[#out + 1] = cursor
out[#out + 1] = jobs
out[#out + 1] = first
return out
