-- bell: shared by the scripts that put ids where they may be claimed.

-- Wakes one blocked puller. The bell is capped: rings say "look", never what to find. It is full while many pull.
local function ring(bell)
  if redis.call('LLEN', bell) < 64 then redis.call('LPUSH', bell, '1') end
end
