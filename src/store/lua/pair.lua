-- pair: shared by the scripts whose commands have arguments that may be missing.

-- A pair, if there is a value, in front of others: `f(a, pair('x', x, pair('y', y)))`. Unlike a table that grows,
-- the arguments of a command made so cost nothing but themselves.
local function pair(name, value, ...)
  if value then return name, value, ... end
  return ...
end
