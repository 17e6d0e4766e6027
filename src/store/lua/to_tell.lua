-- to_tell: shared by the scripts that end a job which nobody owns and nobody has paid for (cancel, audit). It is not
-- to be submitted any more: it goes to `resume`, whose next owner tells its user and ends it.

-- Takes it out of where it stands. `r`: its state, priority, user and whom it stands behind, by name.
local function to_tell(ns, id, r, resume, kind, error)
  local job, p, user = ns .. ':job:' .. id, standing_in(r.priority or 'default', r.behind), r.user
  if r.state == 'queued' then
    redis.call('LREM', ns .. ':ready:' .. p, -1, id)
    if user then pass_turn(ns, p, user, id, not r.behind and is_full(ns, user, (turn_settings(ns)))) end
  elseif r.state == 'waiting' then
    leave_line(ns, p, user, id)
  end
  redis.call('ZREM', ns .. ':later', id)
  redis.call('ZREM', ns .. ':rate:held', id)
  redis.call('HSET', job, 'state', 'queued', 'phase', 'telling', 'kind', kind, 'error', error)
  redis.call('HDEL', job, 'behind', 'due_at', 'not_before', 'doubt', 'rung', 'telling_at', 'crashes', 'cancel_asked')
  redis.call('LPUSH', resume, id)
end
