-- window: shared by the scripts by which a job comes to fal or away from there. How many requests all workers
-- together keep at fal (the submit window), and how many of some models.
--   at_fal               set of the ids of jobs that are at fal, or in the hands of somebody who submits them
--   at_fal:<pattern>     those of them whose model a limit counts (config `model_limits`, the first that matches)
--   window               hash: `size` of the window where it is found out (config `fal_concurrency` is `auto`); whose
--                        turn it is (see claim_full)
-- A record's field `at_fal` says that it stands there: the pattern, or '' for none. So leaving costs nothing
-- where no such limit is set. What waits for a place of its model has `behind`, the pattern; it stands in lists
-- of a priority of its own (`ready:model:<priority>:<pattern>`, with turns and lines as in any other), which a
-- claim serves in turn with those of its priority as soon as there is a place, and never looks at before.

-- Requests kept waiting at fal, so that no slot stands idle between an end and the next submit; and the size of a
-- window of which nothing is known (job::window says the same).
local overhang, unknown_size = 2, 4

-- What `config` says: {size (nil: any number), auto, limits of models {pattern, most} in their order}. A pattern that
-- is given once more counts nothing, as the first that matches counts: it would find places where the first has none.
local function fal_settings(ns)
  local c = redis.call('HMGET', ns .. ':config', 'fal_concurrency', 'model_limits')
  local w = {auto = c[1] == 'auto', limits = {}}
  if w.auto then
    w.size = tonumber(redis.call('HGET', ns .. ':window', 'size') or '') or unknown_size
  else
    local n = tonumber(c[1] or '') or 0
    if n > 0 then w.size = n + overhang end
  end
  local seen = {}
  for pattern, most in string.gmatch(c[2] or '', '([^=,]+)=(%d+)') do
    if not seen[pattern] then w.limits[#w.limits + 1] = {pattern = pattern, most = tonumber(most)} end
    seen[pattern] = true
  end
  w.any = w.size ~= nil or #w.limits > 0
  return w
end

-- Whether a pattern describes a model: `*` stands for any characters (job::pattern says the same).
local function describes(pattern, model)
  local parts = {}
  for part in string.gmatch(pattern .. '*', '([^*]*)%*') do parts[#parts + 1] = part end
  if #parts == 1 then return model == pattern end
  local first, last = parts[1], parts[#parts]
  if string.sub(model, 1, #first) ~= first then return false end
  local at = #first + 1
  for i = 2, #parts - 1 do
    local from, to = string.find(model, parts[i], at, true)
    if not from then return false end
    at = to + 1
  end
  return #model - at + 1 >= #last and (last == '' or string.sub(model, -#last) == last)
end

-- The limit that counts a model; nil: none.
local function limit_of(w, model)
  for _, limit in ipairs(w.limits) do
    if model and describes(limit.pattern, model) then return limit end
  end
  return nil
end

-- The priority of its own in which those wait that a limit of their model holds back.
local function model_priority(p, pattern) return 'model:' .. p .. ':' .. pattern end

-- The priority whose lists a record stands in.
local function standing_in(p, behind) return behind and model_priority(p, behind) or p end

local function has_place(ns, limit)
  return redis.call('SCARD', ns .. ':at_fal:' .. limit.pattern) < limit.most
end

local function window_is_full(ns, w)
  return w.size ~= nil and redis.call('SCARD', ns .. ':at_fal') >= w.size
end

-- Whether an unpaid job waits that a claim might take.
local function is_claimable(ns, w)
  if window_is_full(ns, w) then return false end
  local ready = ns .. ':ready:'
  if redis.call('EXISTS', ready .. 'high', ready .. 'default', ready .. 'low') > 0 then return true end
  for _, limit in ipairs(w.limits) do
    local at = ready .. 'model:'
    if redis.call('EXISTS', at .. 'high:' .. limit.pattern, at .. 'default:' .. limit.pattern,
      at .. 'low:' .. limit.pattern) > 0 and has_place(ns, limit) then
      return true
    end
  end
  return false
end

-- A job is at fal from now on, or will be. `was`: its field `at_fal`.
local function enter_fal(ns, w, id, model, was)
  local limit = limit_of(w, model)
  local pattern = limit and limit.pattern or ''
  if was and was ~= '' and was ~= pattern then redis.call('SREM', ns .. ':at_fal:' .. was, id) end
  if w.size == nil and not limit then
    if was then
      redis.call('SREM', ns .. ':at_fal', id)
      redis.call('HDEL', ns .. ':job:' .. id, 'at_fal')
    end
    return
  end
  redis.call('SADD', ns .. ':at_fal', id)
  if limit then redis.call('SADD', ns .. ':at_fal:' .. pattern, id) end
  if was ~= pattern then redis.call('HSET', ns .. ':job:' .. id, 'at_fal', pattern) end
end

-- fal has nothing more to do for it. `was`: its field `at_fal`.
local function leave_fal(ns, id, was)
  if not was then return end
  redis.call('SREM', ns .. ':at_fal', id)
  if was ~= '' then redis.call('SREM', ns .. ':at_fal:' .. was, id) end
  redis.call('HDEL', ns .. ':job:' .. id, 'at_fal')
  local w = fal_settings(ns)
  if w.any and is_claimable(ns, w) then ring(ns .. ':bell') end
end

-- Whether a record of this phase has something at fal, or is about to.
local function is_at_fal(phase)
  return not phase or phase == 'submitting' or phase == 'polling' or phase == 'collecting'
end
