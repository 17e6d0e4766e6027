-- finish: shared by the scripts that end a job's life (end, crash).

-- A record that goes before a day is over leaves its id, as one that is not kept at all does: a repeated LPUSH must
-- stay a duplicate. In a key of its own, which goes by itself; that there are any is told by another one.
local function keep_id(record, id, state)
  if redis.call('HGET', record, 'kind') == 'invalid_job' then return end
  local ns = string.sub(record, 1, -#id - 6) -- without `:job:<id>`
  redis.call('SET', ns .. ':id:' .. id, state, 'EX', 86400)
  redis.call('SET', ns .. ':ids', '1', 'EX', 86400)
end

-- Lets the keys of an ended job go. Keys by name in `k`: record, dead, spec, perhaps result, and perhaps one more that
-- is to go (`mark`); `keep`: seconds, 0 for the bare id only. Token and seq stay, so that a repeat of the end is known as
-- one.
local function let_go(k, id, state, keep, now)
  local gone = {'DEL'}
  if k.result then gone[2] = k.result end
  if k.mark then gone[#gone + 1] = k.mark end
  if state == 'dead' and keep > 0 then
    redis.call('ZADD', k.dead, now, id)
    redis.call('EXPIRE', k.spec, keep)
  else
    gone[#gone + 1] = k.spec
  end
  if #gone > 1 then redis.call(unpack(gone)) end
  if keep > 0 then
    if keep < 86400 then keep_id(k.record, id, state) end
    redis.call('EXPIRE', k.record, keep)
    return
  end
  -- A repeated LPUSH of this id must stay a duplicate, not become a payment; that of an invalid job may.
  local names = {'v', 'charged', 'kind', 'token', 'seq'}
  local bare = redis.call('HMGET', k.record, unpack(names))
  local set = {'HSET', k.record, 'state', state}
  for i, name in ipairs(names) do
    if bare[i] then set[#set + 1] = name; set[#set + 1] = bare[i] end
  end
  redis.call('DEL', k.record)
  redis.call(unpack(set))
  redis.call('EXPIRE', k.record, 86400)
end

-- Makes the record one of an ended job and lets its keys go.
local function finish(k, id, state, keep, now)
  redis.call('HSET', k.record, 'state', state, 'ended_at', now)
  redis.call('HDEL', k.record, 'phase', 'due_at', 'doubt', 'tries', 'inputs', 'cancel_asked')
  let_go(k, id, state, keep, now)
end
