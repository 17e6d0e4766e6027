-- promote: moves what is due in `later` to the ready lists: paid jobs to `resume`, a first `not_before`
-- to the back of its priority or of its user's line, everything else to the front.
-- KEYS   1 later   2 bell   3 resume   4 high   5 default   6 low
-- ARGV   1 namespace   2 jobs at most
-- MAKES  records of the ids, turns of their users (same slot on a cluster)
-- GIVES  number of jobs moved
-- CALLER Session::promote
local ns = ARGV[1]
local list = {high = KEYS[4], default = KEYS[5], low = KEYS[6]}
local now = now_ms()
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, tonumber(ARGV[2]))
local moved, first = 0, {}
for i = #ids, 1, -1 do -- the longest due is pushed to the front last, so it is served first
  local id = ids[i]
  local job = ns .. ':job:' .. id
  local r = redis.call('HMGET', job, 'state', 'priority', 'request_id', 'phase', 'not_before', 'user', 'deferred_at')
  redis.call('ZREM', KEYS[1], id)
  if r[7] then redis.call('ZREM', ns .. ':rate:held', id) end
  if r[1] == 'later' then
    moved = moved + 1
    redis.call('HSET', job, 'state', 'queued')
    redis.call('HDEL', job, 'due_at', 'not_before')
    if r[5] then redis.call('HSET', job, 'ready_at', now) end -- since when it waits
    if r[3] or (r[4] and r[4] ~= 'submitting') then
      redis.call('RPUSH', KEYS[3], id)
    elseif r[5] then
      first[#first + 1] = {r[2] or 'default', r[6], id}
    else
      redis.call('RPUSH', list[r[2] or 'default'], id)
    end
  end
end
-- At the back they keep the order of their times: the longest due goes in first.
if #first > 0 then
  local _, fair = turn_settings(ns)
  for i = #first, 1, -1 do enter(ns, first[i][1], first[i][2], first[i][3], fair) end
end
if moved > 0 then ring(KEYS[2]) end
return moved
