-- head: put in front of every script. No command newer than Redis 6.0.16.

-- Milliseconds of Redis's own clock: workers' clocks never decide anything. Also as text, which is what goes into
-- commands: a number is printed anew for each of them, with seventeen digits.
local function now_ms()
  local t = redis.call('TIME')
  local text = t[1] .. string.sub('00000' .. t[2], -6, -4)
  return tonumber(text), text
end

-- Refuses, before anything is written, what has events to add while another type lies under their key.
-- By a range that is empty, for which every rule of README's so far has granted the command.
local function look_at_events(events) redis.call('XRANGE', events, '+', '-', 'COUNT', 1) end

-- Wakes one blocked puller. The bell is capped: rings say "look", never what to find. It is full while many pull.
local function ring(bell)
  if redis.call('LLEN', bell) < 64 then redis.call('LPUSH', bell, '1') end
end

-- A pair, if there is a value, in front of others: `f(a, pair('x', x, pair('y', y)))`. Unlike a table that grows,
-- the arguments of a command made so cost nothing but themselves.
local function pair(name, value, ...)
  if value then return name, value, ... end
  return ...
end
