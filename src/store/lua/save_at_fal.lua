-- save_at_fal: the rest of save, where places at fal are counted.
local others = aside()
if not others.is_at_fal(redis.call('HGET', job, 'phase')) then
  -- fal has finished, or failed: its place is another's while this one is delivered.
  local ns = string.sub(events, 1, -8) -- without `:events`
  others.leave_fal(ns, string.sub(job, #ns + 6), at_fal)
end
return {'ok', request or '', now, left}
