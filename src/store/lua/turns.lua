-- turns: shared by the scripts that bring a job into a ready list or a claim, or out of one. Within a
-- priority users take turns: one id of a user stands in the ready list as his turn, the rest in his line
-- (`waiting:<priority>:<user>`), and when the turn is claimed his next one takes it at the list's end. So
-- the list is never short while somebody waits, and a claim costs no more than its own job.
--   turns:<priority>      hash, user to the id that is his turn, or to '' where all his slots are in use
--   waiters               set of the users with a '' there
--   user:<user>:running   set of his job ids that use a slot: claimed ones, and paid ones between two owners. Kept only
--                         while slots are limited; a record's field `slot` says that it stands there. Versions
--                         before this one kept it always and knew no such field.
-- A line with somebody in it always has a turn; a '' has always a full set of slots beside it. Jobs without
-- a user stand in the list, each for himself; so do those that come back, in front, beside their user's turn.

local priorities = {'high', 'default', 'low'}

-- The namespace of a record.
local function namespace_of(job, id) return string.sub(job, 1, #job - #id - 5) end

-- Fields of a record, in the order of their names; none, and true, where another type lies under its key. That is
-- somebody's own doing, and concerns nobody else: a script that broke off there would leave what it had begun half
-- done, and be called for it again and again.
local function fields_of(job, ...)
  local r = redis.pcall('HMGET', job, ...)
  if not r.err then return r end
  if not string.find(r.err, 'WRONGTYPE', 1, true) then return redis.call('HMGET', job, ...) end
  return {}, true
end

-- What `config` says: slots of a user (0: any number), whether users take turns.
local function turn_settings(ns)
  local c = redis.call('HMGET', ns .. ':config', 'user_concurrency', 'fair')
  return tonumber(c[1] or '') or 0, c[2] ~= 'off'
end

local function is_full(ns, user, slots)
  return slots > 0 and redis.call('SCARD', ns .. ':user:' .. user .. ':running') >= slots
end

-- When a user's rate is all there again, by the text of its key: that time, and when it was written (versions before
-- this one left that out). If the clock was set back since, it goes back with it.
local function filled(text, now)
  local tat, seen = string.match(text or '', '^(%S+) ?(%S*)$')
  return (tonumber(tat) or 0) - math.max(0, (tonumber(seen) or 0) - now)
end

-- The first in a user's line, ready from now on in the list's front or at its end; nil: nobody is left.
-- What does not wait any more (a late request id, a Redis that forgot) only stood there.
local function call_next(ns, p, user, front)
  local line = ns .. ':waiting:' .. p .. ':' .. user
  while true do
    local id = redis.call('RPOP', line)
    if not id then return nil end
    if fields_of(ns .. ':job:' .. id, 'state')[1] == 'waiting' then
      redis.call('HSET', ns .. ':job:' .. id, 'state', 'queued')
      redis.call(front and 'RPUSH' or 'LPUSH', ns .. ':ready:' .. p, id)
      redis.call('HSET', ns .. ':turns:' .. p, user, id)
      return id
    end
  end
end

-- `id` has left the ready list: if it was its user's turn, his next one takes it. `full`: no slot is free,
-- so the next one waits for that instead.
local function pass_turn(ns, p, user, id, full)
  local turns = ns .. ':turns:' .. p
  if redis.call('HGET', turns, user) ~= id then return end
  if full and redis.call('EXISTS', ns .. ':waiting:' .. p .. ':' .. user) == 1 then
    redis.call('HSET', turns, user, '')
    redis.call('SADD', ns .. ':waiters', user)
  elseif full or not call_next(ns, p, user) then
    redis.call('HDEL', turns, user)
  end
end

-- Where a job belongs that comes for the first time: 'queued' (the caller puts it at the list's end) or
-- 'waiting' (at the end of its user's line).
local function place_of_new(ns, p, user, id, fair)
  local turns = ns .. ':turns:' .. p
  local first
  if fair then
    first = redis.call('HSETNX', turns, user, id) == 1
  else
    first = not redis.call('HGET', turns, user)
  end
  return first and 'queued' or 'waiting'
end

-- Puts a job there. Its record says so.
local function enter(ns, p, user, id, fair)
  local state = user and place_of_new(ns, p, user, id, fair) or 'queued'
  redis.call('HSET', ns .. ':job:' .. id, 'state', state)
  if state == 'queued' then
    redis.call('LPUSH', ns .. ':ready:' .. p, id)
  else
    redis.call('LPUSH', ns .. ':waiting:' .. p .. ':' .. user, id)
  end
end

-- `id` waits no more: it is over.
local function leave_line(ns, p, user, id)
  local line, turns = ns .. ':waiting:' .. p .. ':' .. user, ns .. ':turns:' .. p
  redis.call('LREM', line, -1, id)
  if redis.call('EXISTS', line) == 1 or redis.call('HGET', turns, user) ~= '' then return end
  redis.call('HDEL', turns, user)
  for _, other in ipairs(priorities) do
    if redis.call('HGET', ns .. ':turns:' .. other, user) == '' then return end
  end
  redis.call('SREM', ns .. ':waiters', user)
end

-- A user who waited for a slot, and one may be free: in every priority his next one gets a turn. Gives
-- whether one did.
local function free_slot(ns, user)
  local slots, fair = turn_settings(ns)
  if is_full(ns, user, slots) then return false end
  local moved = false
  for _, p in ipairs(priorities) do
    if redis.call('HGET', ns .. ':turns:' .. p, user) == '' then
      -- First in, first out: its turn has been there before. With turns the others come first.
      if call_next(ns, p, user, not fair) then
        moved = true
      else
        redis.call('HDEL', ns .. ':turns:' .. p, user)
      end
    end
  end
  redis.call('SREM', ns .. ':waiters', user)
  if moved then ring(ns .. ':bell') end
  return moved
end

-- A job uses a slot of its user, whose slots are limited. Gives whether that is new.
local function take_slot(ns, user, id)
  redis.call('HSETNX', ns .. ':job:' .. id, 'slot', '1')
  return redis.call('SADD', ns .. ':user:' .. user .. ':running', id) == 1
end

-- A job uses its user's slot no more.
local function leave_slot(ns, user, id)
  redis.call('HDEL', ns .. ':job:' .. id, 'slot')
  if user and redis.call('SREM', ns .. ':user:' .. user .. ':running', id) == 1
    and redis.call('SISMEMBER', ns .. ':waiters', user) == 1 then
    free_slot(ns, user)
  end
end
