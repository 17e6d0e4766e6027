-- promote: moves what is due in `later` to the ready lists: paid jobs to `resume`, a first `not_before`
-- to the back of its priority or of its user's line, everything else to the front. An id under whose key another type
-- lies is taken off, told of and counted: nobody can claim it, and here it would be due for ever.
-- KEYS   1 later   2 bell   3 resume   4 high   5 default   6 low   7 stats
-- ARGV   1 namespace   2 jobs at most
-- MAKES  records of the ids, turns of their users (same slot on a cluster)
-- GIVES  {number of jobs moved, id that was taken off...}
-- CALLER Session::promote
local ns = ARGV[1]
local list = {high = KEYS[4], default = KEYS[5], low = KEYS[6]}
local now = now_ms()
-- All is read before anything is written, and each job is moved whole: a call that is refused half-way has left none
-- between two places. So a list that is none must show itself first.
for i = 3, 6 do redis.call('LLEN', KEYS[i]) end
local ids, records, displaced = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, tonumber(ARGV[2])), {}, {}
for i, id in ipairs(ids) do
  local r, is_other = fields_of(ns .. ':job:' .. id, 'state', 'priority', 'request_id', 'phase', 'not_before', 'user',
    'deferred_at')
  records[i] = r
  if is_other then displaced[#displaced + 1] = id end
end
local moved, first = 0, {}
local function leave(id, r)
  redis.call('ZREM', KEYS[1], id) -- allowed without memory; so is the rest, then
  if r[7] then redis.call('ZREM', ns .. ':rate:held', id) end
end
local function ready(job, r)
  redis.call('HDEL', job, 'due_at', 'not_before')
  if r[5] then redis.call('HSET', job, 'ready_at', now) end -- since when it waits
  moved = moved + 1
end
for i = #ids, 1, -1 do -- the longest due is pushed to the front last, so it is served first
  local id, r = ids[i], records[i]
  local job = ns .. ':job:' .. id
  local paid = r[3] or (r[4] and r[4] ~= 'submitting')
  if r[1] == 'later' and r[5] and not paid then
    first[#first + 1] = i
  else
    leave(id, r)
    if r[1] == 'later' then
      redis.call('HSET', job, 'state', 'queued')
      redis.call('RPUSH', paid and KEYS[3] or list[r[2] or 'default'] or KEYS[5], id)
      ready(job, r)
    end
  end
end
-- At the back they keep the order of their times: the longest due goes in first.
if #first > 0 then
  local _, fair = turn_settings(ns)
  for i = #first, 1, -1 do
    local id, r = ids[first[i]], records[first[i]]
    leave(id, r)
    enter(ns, r[2] or 'default', r[6], id, fair)
    ready(ns .. ':job:' .. id, r)
  end
end
if moved > 0 then ring(KEYS[2]) end
if #displaced > 0 then redis.call('HINCRBY', KEYS[7], 'repairs:displaced', #displaced) end
return {moved, unpack(displaced)}
