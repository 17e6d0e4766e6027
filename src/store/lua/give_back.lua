-- give_back: an owner returns jobs with all that he knows: paid ones to `resume`, unpaid ones to the
-- front of their priority, as if never claimed, the last of them in front. A job that has another owner
-- or has ended is left alone.
-- KEYS   1 claims of the instance   2 bell   3 resume   4 high   5 default   6 low
-- ARGV   1 namespace   2 n   then n times: id, token, pairs, pairs x (field, value)
-- MAKES  records of the ids, turns and slots of their users, places at fal (same slot on a cluster)
-- GIVES  number of jobs given back
-- CALLER Session::give_back, Session::disown
local ns, n = ARGV[1], tonumber(ARGV[2])
local list = {high = KEYS[4], default = KEYS[5], low = KEYS[6]}
local at, given = 3, 0
for _ = 1, n do
  local id, token, fields = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local job = ns .. ':job:' .. id
  local r, is_other = fields_of(job, 'state', 'token', 'phase', 'priority', 'request_id', 'tried', 'user', 'at_fal')
  if is_other and redis.call('HGET', KEYS[1], id) == token then
    redis.call('HDEL', KEYS[1], id) -- there is nothing to give back
  elseif r[2] == token then
    redis.call('HDEL', KEYS[1], id)
    if r[1] == 'running' then
      given = given + 1
      local set = {'HSET', job, 'state', 'queued'}
      for i = at + 3, at + 2 + 2 * fields do set[#set + 1] = ARGV[i] end
      redis.call(unpack(set))
      keep_tried(job, r[6])
      if (r[3] or 'submitting') == 'submitting' and not r[5] then
        redis.call('HDEL', job, 'phase', 'worker')
        redis.call('RPUSH', list[r[4] or 'default'], id)
        leave_slot(ns, r[7], id)
        leave_fal(ns, id, r[8])
      else
        redis.call('HDEL', job, 'worker')
        redis.call('LPUSH', KEYS[3], id)
      end
    end
  end
  at = at + 3 + 2 * fields
end
if given > 0 then ring(KEYS[2]) end
return given
