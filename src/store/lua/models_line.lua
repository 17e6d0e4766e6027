-- models_line: shared by the scripts that move jobs into the lists of a limit of models, or out of them (see window).

-- Puts a job where it waits for a place of its model; in its own priority it stands no more. `front`: it has had its
-- turn before, and stands beside its user's as whatever comes back.
local function hold_for_model(ns, p, user, id, pattern, fair, front)
  redis.call('HSET', ns .. ':job:' .. id, 'behind', pattern)
  if front then
    redis.call('RPUSH', ns .. ':ready:' .. model_priority(p, pattern), id)
    return
  end
  enter(ns, model_priority(p, pattern), user, id, fair)
end

-- Takes the first out there; nil: nobody waits. Its user's next one has the turn now.
local function first_of_model(ns, p, pattern)
  local there = model_priority(p, pattern)
  local id = redis.call('RPOP', ns .. ':ready:' .. there)
  if not id then return nil end
  local job = ns .. ':job:' .. id
  local r = redis.call('HMGET', job, 'user', 'behind')
  if r[1] then pass_turn(ns, there, r[1], id, false) end
  if r[2] then redis.call('HDEL', job, 'behind') end
  return id
end

-- Nobody waits for this limit any more: `most` of them come into their priority as if they were new, in turns.
-- Gives how many.
local function release(ns, p, pattern, fair, most)
  for n = 1, most do
    local id = first_of_model(ns, p, pattern)
    if not id then return n - 1 end
    local r = redis.call('HMGET', ns .. ':job:' .. id, 'state', 'user')
    if r[1] == 'queued' then enter(ns, p, r[2], id, fair) end
  end
  return math.max(0, most)
end
