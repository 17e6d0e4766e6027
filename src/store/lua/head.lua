-- head: put in front of every script. No command newer than Redis 6.0.16.

-- Milliseconds of Redis's own clock: workers' clocks never decide anything. Also as text, which is what goes into
-- commands: a number is printed anew for each of them, with seventeen digits. (`+ 0`: tonumber reads it twice.)
local function now_ms()
  local t = redis.call('TIME')
  local text = t[1] .. string.sub('00000' .. t[2], -6, -4)
  return text + 0, text
end
