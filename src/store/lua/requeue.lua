-- requeue: shared by the scripts that take a job from an owner who did not end it. A submit without a
-- request id is of unknown outcome: an attempt, possibly a payment, and a crash; everything else goes
-- on where it stood, at no cost.

-- One job whose owner is gone. `r`: state, token, phase, request_id, attempt, max_attempts, priority,
-- via, charged, crashes (HMGET in this order). Keys by name in `k`. `wait`: ms before a new submit.
local function requeue(k, job, id, r, now, wait, crash_limit)
  local phase, attempt = r[3] or 'submitting', tonumber(r[5] or '0')
  local set = {'HSET', job, 'state', 'queued'}
  if phase == 'submitting' and not r[4] then
    local crashes = tonumber(r[10] or '0') + 1
    attempt = attempt + 1
    local charged = worse(r[9], 'unknown')
    for _, v in ipairs({'attempt', attempt, 'charged', charged, 'crashes', crashes}) do set[#set + 1] = v end
    local over = nil
    if crashes >= crash_limit then
      over = {'crashed', 'the worker died ' .. crashes .. ' times during the submit of this job'}
    elseif attempt >= tonumber(r[6] or '1') or r[8] == 'direct' then
      over = {'unavailable', 'the submit was cut off and fal may have run it; no attempt is left'}
      if r[8] == 'direct' then
        over[2] = 'the direct call was cut off and fal may have run it'
      end
    end
    if over then
      for _, v in ipairs({'phase', 'telling', 'kind', over[1], 'error', over[2]}) do set[#set + 1] = v end
      redis.call(unpack(set))
      redis.call('LPUSH', k.resume, id)
      return
    end
    for _, v in ipairs({'doubt', 'submit', 'due_at', now + wait}) do set[#set + 1] = v end
    set[4] = 'later'
    redis.call(unpack(set))
    redis.call('HDEL', job, 'phase', 'worker')
    redis.call('ZADD', k.later, now + wait, id)
    return
  end
  if phase == 'delivering' or phase == 'telling' then
    -- A message may have gone out unrecorded: the next owner must know.
    for _, v in ipairs({'doubt', 'send'}) do set[#set + 1] = v end
  end
  redis.call(unpack(set))
  redis.call('HDEL', job, 'worker')
  redis.call('LPUSH', k.resume, id)
end
