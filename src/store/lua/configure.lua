-- configure: values that hold for all workers of the store. The last one who is given a flag sets it; who
-- only finds that the store forgot writes his own where there is none.
-- KEYS   1 config
-- ARGV   1 instance   2 only where there is none (0, 1)   3... name, value
-- GIVES  {name, value before or '', who had set it or ''} for each that differed and was changed
-- CALLER Session::configure
local now, out = now_ms(), {}
for i = 3, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  local before = redis.call('HMGET', KEYS[1], name, name .. ':by')
  if before[1] ~= value and not (before[1] and ARGV[2] == '1') then
    redis.call('HSET', KEYS[1], name, value, name .. ':by', ARGV[1], name .. ':at', now)
    if before[1] then
      for _, word in ipairs({name, before[1], before[2] or ''}) do out[#out + 1] = word end
    end
  end
end
return out
