-- submitted_full: the rest of submitted, for all that is not so plain.
local r = redis.call('HMGET', KEYS[1], 'state', 'token', 'seq', 'request_id', 'phase', 'tried')
local state, tried = r[1], r[6]
if not state then return {'gone', '', now} end
local mine = r[2] == token
-- Written down again after a Redis that forgot: its event is missing.
local asserted = r[4] == request and mine and state == 'running' and tonumber(r[3] or '0') < seq
if r[4] == request and not asserted then
  return {(mine and state == 'running') and 'ok' or 'adopted', request, now}
end
-- Given up before, by the owner or by us: a late original of its own write must not bring it back.
local noted = tried and not asserted and aside().was_tried(tried, request)
-- A claim of the life before this one has asked for it. Any other that the record does not know may be one that
-- Redis forgot: it is paid for, and nobody else will bring it.
local old_life = not mine and redis.call('HGET', KEYS[1], 'past') == token
if not asserted and (r[4] or noted or old_life or state == 'done' or state == 'dead' or state == 'cancelled') then
  -- Noted beside the record's own: whoever looks for a strange bill finds it here.
  if not noted and (state == 'running' or state == 'queued' or state == 'later' or state == 'waiting') then
    redis.call('PERSIST', KEYS[1])
    redis.call('HSET', KEYS[1], 'tried', (tried and (tried .. ' ') or '') .. request)
  end
  if mine and r[4] and state == 'running' then return {'other', r[4], now} end
  return {'cancel', r[4] or '', now}
end
if mine and state == 'running' and tonumber(r[3] or '0') >= seq then return {'ok', '', now} end
if not asserted and r[5] and r[5] ~= 'submitting' then return {'cancel', '', now} end

-- Allowed when Redis is out of memory, and what follows it in a script then is too.
redis.call('HDEL', KEYS[1], 'doubt', 'tries', 'crashes')
if mine and state == 'running' then
  redis.call('XADD', KEYS[2], '*', 'event', 'submitted', 'at', now_text, 'attempt', ARGV[6], 'request_id', request,
    unpack(ARGV, 7))
  redis.call('HSET', KEYS[1], 'request_id', request, 'phase', 'polling', 'attempt', ARGV[6], 'submitted_at', now_text,
    'seq', ARGV[3], pair('path', ARGV[5] ~= '' and ARGV[5]))
  return {'ok', request, now}
end
local o = redis.call('HMGET', KEYS[1], 'attempt', 'priority', 'user', 'model', 'at_fal', 'behind')
-- The takeover, if there was one, has counted the attempt.
local attempt = mine and ARGV[6] or math.max(1, tonumber(o[1] or '1'))
redis.call('XADD', KEYS[2], '*', 'event', 'submitted', 'at', now_text, 'attempt', attempt, 'request_id', request,
  unpack(ARGV, 7))
redis.call('HSET', KEYS[1], 'request_id', request, 'phase', 'polling', 'attempt', attempt, 'submitted_at', now_text,
  pair('path', ARGV[5] ~= '' and ARGV[5]))
if state ~= 'running' then
  -- It waits for a new submit somewhere: it is paid now, so it is served first.
  local others, ns = aside(), string.sub(KEYS[1], 1, -#id - 6) -- without `:job:<id>`
  local p, user = others.standing_in(o[2] or 'default', o[6]), o[3]
  redis.call('ZREM', ns .. ':later', id)
  redis.call('ZREM', ns .. ':rate:held', id)
  local slots = others.turn_settings(ns)
  if user and slots > 0 then others.take_slot(ns, user, id) end -- paid ones pass every limit
  others.enter_fal(ns, others.fal_settings(ns), id, o[4], o[5])
  if state == 'queued' then
    redis.call('LREM', ns .. ':ready:' .. p, -1, id)
    if user then others.pass_turn(ns, p, user, id, not o[6] and others.is_full(ns, user, slots)) end
  elseif state == 'waiting' and user then
    redis.call('LREM', ns .. ':waiting:' .. p .. ':' .. user, -1, id)
  end
  redis.call('HSET', KEYS[1], 'state', 'queued')
  redis.call('HDEL', KEYS[1], 'due_at', 'behind')
  redis.call('RPUSH', ns .. ':ready:resume', id)
  others.ring(ns .. ':bell')
end
return {'adopted', request, now}
