-- models: adds what a worker learnt of the pace of models to what all know, and tells what that is.
-- KEYS   1 models
-- ARGV   1 times kept of a model   2 models kept   3... model, its new times ('' only asks) (none: tell all)
-- GIVES  {times of each model named, ...}, or {model, second of its last change and times, ...}
-- CALLER Session::paces_call
local keep, most = tonumber(ARGV[1]), tonumber(ARGV[2])
-- More than any script of ours leaves behind is not read, and learnt anew.
if redis.call('HLEN', KEYS[1]) > 2 * most then redis.call('UNLINK', KEYS[1]) end
if #ARGV == 2 then return redis.call('HGETALL', KEYS[1]) end
local now = math.floor(now_ms() / 1000)
local gives = {}
for i = 3, #ARGV, 2 do
  local model, known = ARGV[i], ''
  if redis.call('HSTRLEN', KEYS[1], model) < 4096 then
    known = string.match(redis.call('HGET', KEYS[1], model) or '', '^%d+ ([%d ]*)$') or ''
  end
  if ARGV[i + 1] ~= '' then
    local times = {}
    for time in string.gmatch(known .. ' ' .. ARGV[i + 1], '%d+') do times[#times + 1] = time end
    known = table.concat(times, ' ', math.max(1, #times - keep + 1))
    redis.call('HSET', KEYS[1], model, now .. ' ' .. known)
  end
  gives[#gives + 1] = known
end
local surplus = redis.call('HLEN', KEYS[1]) - most
if surplus > 0 then
  local all, ages = redis.call('HGETALL', KEYS[1]), {}
  for i = 1, #all, 2 do
    ages[#ages + 1] = {tonumber(string.match(all[i + 1], '^%d+')) or 0, all[i]}
  end
  table.sort(ages, function(a, b) return a[1] < b[1] end)
  -- Some more than must be, so that this is not done for each new model.
  for i = 1, surplus + math.floor(most / 10) do redis.call('HDEL', KEYS[1], ages[i][2]) end
end
return gives
