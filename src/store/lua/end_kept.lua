-- end_kept: the rest of end, where more than that is to be done.
local user = slot and redis.call('HGET', job, 'user') -- before the record may be cut down to its id
let_go({record = job, dead = dead, spec = spec, result = result, mark = mark}, id, state, seconds, now_text)
if slot or at_fal then
  local others, ns = aside(), string.sub(job, 1, -#id - 6) -- without `:job:<id>`
  if slot then others.leave_slot(ns, user, id) end
  others.leave_fal(ns, id, at_fal)
end
return {'ok', request or '', now}
