-- depth: how many jobs wait to be started. Reads only.
-- KEYS   1 inbox   2 resume   3 later
-- ARGV   1 namespace   2 users whose lines are looked at, at most
-- MAKES  ready lists, turns and lines of users (same slot on a cluster)
-- GIVES  {in the inbox, ready or behind a turn, later, all were counted (0, 1)}
-- CALLER Session::depth
local ns, most, all = ARGV[1], tonumber(ARGV[2]), 1
local lists = {'high', 'default', 'low'}
for _, limit in ipairs(fal_settings(ns).limits) do
  for i = 1, 3 do lists[#lists + 1] = 'model:' .. lists[i] .. ':' .. limit.pattern end
end
local ready = redis.call('LLEN', KEYS[2])
for _, list in ipairs(lists) do
  ready = ready + redis.call('LLEN', ns .. ':ready:' .. list)
  local turns = ns .. ':turns:' .. list
  local users = redis.call('HLEN', turns)
  most = most - users
  if most < 0 then
    all = 0
  elseif users > 0 then
    for _, user in ipairs(redis.call('HKEYS', turns)) do
      ready = ready + redis.call('LLEN', ns .. ':waiting:' .. list .. ':' .. user)
    end
  end
end
return {redis.call('LLEN', KEYS[1]), ready, redis.call('ZCARD', KEYS[3]), all}
