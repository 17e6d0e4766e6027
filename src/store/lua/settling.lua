-- settling: shared by the scripts that do nothing while others write down again what they hold (claim, audit).

-- Whether that is so. An expiry is a moment of Redis's clock: where that was ahead and is right again, the key would
-- stay for as long as it was wrong. So what stays longer than it was set for begins anew: whether all have written is
-- not known, and this long they have at most.
local function is_settling(key)
  local left = redis.call('PTTL', key)
  -- How long it was set for. Versions before this one set a 1.
  local most = left > 2000 and math.max(2000, tonumber(redis.call('GET', key)) or 0)
  if most and left > most then redis.call('PEXPIRE', key, most) end -- a full Redis allows it
  return left ~= -2
end
