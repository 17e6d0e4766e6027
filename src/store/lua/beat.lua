-- beat: says that an instance lives, and asks in the same trip all that its keeper must know.
-- KEYS   1 workers   2 hash of the instance   3 paused   4 its claims   5 its cancels   6 run   7 later
--        8 stats   9 resume   10 high   11 default   12 low   13 bell   14 store   15 settling   16 config
--        17 start of the names of unreachable chats, perhaps
-- ARGV   1 instance   2 a random id (for run, where it is missing)   3 done since the last beat
--        4 failed since   5 jobs in flight   6 number of the beat, whose repeat has the same
--        7 id for a store that has none   8... field, value: what the hash says of the process
-- GIVES  {word, now, run, fresh (1: the hash was not there), paused, claims, cancels, due, oldest
--        instance, its beat, store (where fresh, else ''), waiting (ids may be claimed), changed
--        (limits differ from what was last applied to those who wait), auto (the submit window is found out),
--        asked (what people ask of this instance, see ask; else ''), marked (there are unreachable chats)};
--        word: ok, buried
-- CALLER Session::beat
-- Every call in here counts as one of Redis's commands: a worker that has nothing to do asks for no detail.
local known = redis.call('HMGET', KEYS[2], 'dead', 'name', 'beat', 'asked', 'in_flight')
local now = now_ms()
if known[1] then return {'buried', now} end
-- A full Redis is nobody's death: it refuses a script's first ZADD, but not PERSIST, and nothing after that.
if type(redis.pcall('ZADD', KEYS[1], now, ARGV[1])) == 'table' then
  redis.call('PERSIST', KEYS[1])
  redis.call('ZADD', KEYS[1], now, ARGV[1])
end
local ended = ARGV[3] ~= '0' or ARGV[4] ~= '0'
local fresh = 0
if not known[2] then
  fresh = 1
  local set = {'HSET', KEYS[2], 'in_flight', ARGV[5], 'beat', ARGV[6]}
  for i = 8, #ARGV do set[#set + 1] = ARGV[i] end
  redis.call(unpack(set))
elseif ended or known[5] ~= ARGV[5] then
  redis.call('HSET', KEYS[2], 'in_flight', ARGV[5], 'beat', ARGV[6])
end
local run = redis.call('GET', KEYS[6])
if not run then
  run = ARGV[2]
  redis.call('SET', KEYS[6], run)
end
local store = ''
if fresh == 1 then
  redis.call('SETNX', KEYS[14], ARGV[7])
  store = redis.call('GET', KEYS[14])
end
if ended and known[3] ~= ARGV[6] then
  -- An hour of minutes, each in a place of its own: bounded.
  local minute = math.floor(now / 60000)
  local place = minute % 60
  if redis.call('HGET', KEYS[8], 'minute:' .. place) ~= tostring(minute) then
    redis.call('HSET', KEYS[8], 'minute:' .. place, minute, 'done:' .. place, 0, 'failed:' .. place, 0)
  end
  redis.call('HINCRBY', KEYS[8], 'done:' .. place, ARGV[3])
  redis.call('HINCRBY', KEYS[8], 'failed:' .. place, ARGV[4])
end
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local c = redis.call('HMGET', KEYS[16], 'user_concurrency', 'applied:user_concurrency', 'user_rate',
  'applied:user_rate', 'fal_concurrency', 'applied:fal_concurrency', 'model_limits', 'applied:model_limits')
local changed = (c[1] ~= c[2] or c[3] ~= c[4] or c[5] ~= c[6] or c[7] ~= c[8]) and 1 or 0
local paused, claims, cancels, due, waiting, marked = 0, 0, 0, 0, 0, 0
local busy = redis.call('EXISTS', KEYS[3], KEYS[4], KEYS[5], KEYS[7], KEYS[9], KEYS[10], KEYS[11], KEYS[12],
  unpack(KEYS, 17)) > 0
if busy then
  if KEYS[17] then marked = redis.call('EXISTS', KEYS[17]) end
  paused, claims, cancels = redis.call('EXISTS', KEYS[3]), redis.call('HLEN', KEYS[4]), redis.call('EXISTS', KEYS[5])
  if #redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', now, 'LIMIT', 0, 1) > 0 then due = 1 end
end
-- A lost ring costs at most one beat. What waits for a place of its model stands in lists of its own.
if busy or (c[7] or '') ~= '' then
  local ns = string.sub(KEYS[16], 1, -8) -- without `:config`
  waiting = redis.call('EXISTS', KEYS[9])
  if waiting == 0 and is_claimable(ns, fal_settings(ns)) then waiting = 1 end
  if waiting > 0 then ring(KEYS[13]) end
end
return {'ok', now, run, fresh, paused, claims, cancels, due, oldest[1], tonumber(oldest[2]), store, waiting, changed,
  c[5] == 'auto' and 1 or 0, known[4] or '', marked}
