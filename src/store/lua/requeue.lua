-- requeue: shared by the scripts that take a job from an owner who did not end it. A submit without a
-- request id is of unknown outcome: an attempt and possibly a payment; everything else goes on where it
-- stood. A crash is charged only to a job whose step was executing, where the owner's step file tells;
-- without one, to a job that stood in a submit.

-- What the step file of the owner (' token:a token:b ', or nil: there is none) says of a claim: 'acting'
-- (it was paying or sending), 'begun' (its step had only begun), 'idle' (no thread worked on it), or nil.
local function step_of(steps, token)
  if not steps then return nil end
  if string.find(steps, ' ' .. token .. ':a ', 1, true) then return 'acting' end
  if string.find(steps, ' ' .. token .. ':b ', 1, true) then return 'begun' end
  return 'idle'
end

-- Deaths since the job's first crash that it had no part in. Where workers die without it too, dying with
-- it proves less: each such death gives it one more crash.
local function strangers(from, death, crashes)
  return math.min(7, math.max(0, death - from + 1 - crashes))
end

-- A delivery is given up. What it has left in the chat: its telling must not write over it, and a retry says so.
-- Of a redelivery the next owner says it, from its progress, which stays; its `file_ids` are what it sends.
local function keep_what_went(job)
  if redis.call('HEXISTS', job, 'redelivers') == 1 then return end
  local is_json, rung = pcall(cjson.decode, redis.call('HGET', job, 'rung') or '')
  redis.call('HDEL', job, 'rung')
  if not is_json or type(rung) ~= 'table' or type(rung.m) ~= 'table' or #rung.m == 0 then return end
  local function list(of) return type(of) == 'table' and #of > 0 and cjson.encode(of) or '[]' end
  redis.call('HSET', job, 'message_ids', list(rung.m), 'file_ids', list(rung.f), 'file_kinds', list(rung.fk))
end

-- One job whose owner is gone. `r`: state, token, phase, request_id, attempt, max_attempts, priority,
-- via, charged, crashes, crashes_from (HMGET in this order). Keys by name in `k`. `wait`: ms before a new submit of
-- unknown outcome. `crash_limit`: nil where nobody crashed. `step`: see step_of; an idle or begun one also needs the
-- ready lists in `k`. `death`: its owner's place among all deaths. Counts in `k.suspects` whom it held back.
local function requeue(k, job, id, r, now, wait, crash_limit, step, death)
  local phase, attempt = r[3] or 'submitting', tonumber(r[5] or '0')
  local crashes = tonumber(r[10] or '0')
  local submits = phase == 'submitting' and not r[4]
  local sends = phase == 'delivering' or phase == 'telling'
  -- Its files are on their way to fal's storage: the submit comes only once that has been recorded.
  local bringing = submits and redis.call('HGET', job, 'inputs') == 'uploading'
  local unsure = step == 'acting' or (not step and not bringing)
  local crashed = crash_limit and (step == 'acting' or step == 'begun' or (not step and submits))
  local set = {'HSET', job, 'state', 'queued'}
  local function put(field, value) set[#set + 1] = field; set[#set + 1] = value end
  if crashed then
    crashes = crashes + 1
    put('crashes', crashes)
    if death then
      local from = crashes > 1 and tonumber(r[11]) or death
      if from == death then put('crashes_from', death) end
      crash_limit = crash_limit + strangers(from, death, crashes)
    end
  end
  local over = nil
  if crashed and crashes >= crash_limit then
    over = {'crashed', 'the worker died ' .. crashes .. ' times during a step of this job'}
  end
  if submits and unsure then
    attempt = attempt + 1
    put('attempt', attempt)
    put('charged', worse(r[9], 'unknown'))
    if not over and r[8] == 'direct' then
      over = {'unavailable', 'the direct call was cut off and fal may have run it'}
    elseif not over and attempt >= tonumber(r[6] or '1') then
      over = {'unavailable', 'the submit was cut off and fal may have run it; no attempt is left'}
    end
  elseif over and r[4] and not sends then
    put('charged', worse(r[9], 'unknown'))
  end
  if over and phase == 'telling' then
    -- Telling itself is what fails: the next owner ends it untold, for what it failed of before.
    put('told', 'no')
  elseif over then
    put('phase', 'telling'); put('kind', over[1]); put('error', over[2])
  end
  -- What is paid runs on at fal, between two owners too; what is over, or is not paid, does not.
  if over or submits then
    local ns, its = namespace_of(job, id), redis.call('HMGET', job, 'user', 'at_fal')
    leave_slot(ns, its[1], id)
    leave_fal(ns, id, its[2])
  end
  if over then
    if phase == 'delivering' then keep_what_went(job) else redis.call('HDEL', job, 'rung') end
    redis.call(unpack(set))
    redis.call('HDEL', job, 'doubt', 'worker')
    redis.call('LPUSH', k.resume, id)
    return
  end
  if submits and unsure then
    put('doubt', 'submit'); put('due_at', now + wait)
    set[4] = 'later'
    redis.call(unpack(set))
    redis.call('HDEL', job, 'phase', 'worker')
    redis.call('ZADD', k.later, now + wait, id)
    return
  end
  -- A message may have gone out unrecorded: the next owner must know.
  if sends and unsure then put('doubt', 'send') end
  if crashed and step and crashes > 1 then
    -- Twice in a row: one of those that were executing did it. Each comes back at a moment of its own, so
    -- that the third time hits the guilty one alone.
    local due = now + 500 + 500 * (k.suspects or 0)
    k.suspects = (k.suspects or 0) + 1
    put('due_at', due)
    set[4] = 'later'
    redis.call(unpack(set))
    redis.call('HDEL', job, 'worker')
    redis.call('ZADD', k.later, due, id)
    return
  end
  if submits and not step then
    -- Never sent, and these callers have no ready lists.
    put('due_at', now + 500)
    set[4] = 'later'
    redis.call(unpack(set))
    redis.call('HDEL', job, 'phase', 'worker')
    redis.call('ZADD', k.later, now + 500, id)
    return
  end
  if submits then
    -- Never sent: as if it had never been claimed.
    redis.call(unpack(set))
    redis.call('HDEL', job, 'phase', 'worker')
    redis.call('RPUSH', k[r[7] or 'default'], id)
    return
  end
  redis.call(unpack(set))
  redis.call('HDEL', job, 'worker')
  redis.call('LPUSH', k.resume, id)
end
