-- remind: a Redis that forgot knows nothing of a submit after which its owner let go of the job, though fal may have
-- taken it. So that nobody submits it as if for the first time, the attempt and what it may have cost are noted where
-- the job still waits. Whoever has it in hand by now is not disturbed, and who knows of that attempt knows better.
-- KEYS   1 record   2 later
-- ARGV   1 id   2 attempt   3 charged   4 doubt ('' none)   5 tried ('' none)   6 queued_at   7 wait before the next
--        submit, ms   8 format
-- GIVES  1 when it was noted
-- CALLER Session::remind
local job, attempt = KEYS[1], tonumber(ARGV[2])
local r = redis.call('HMGET', job, 'state', 'attempt', 'charged', 'request_id', 'phase', 'queued_at', 'life', 'tried', 'v')
local state = r[1]
if state ~= 'queued' and state ~= 'waiting' and state ~= 'later' then return 0 end
if (tonumber(r[9]) or 0) > tonumber(ARGV[8]) or (tonumber(r[2]) or 0) >= attempt then return 0 end
if r[4] or (r[5] or 'submitting') ~= 'submitting' then return 0 end
-- A retry begins to count anew. An intake that was made again is of the same life, under another time.
if (tonumber(r[7]) or 1) > 1 and r[6] ~= ARGV[6] then return 0 end
redis.call('PERSIST', job) -- allowed without memory; so is the rest, then
redis.call('HSET', job, 'attempt', attempt, 'charged', worse(r[3], ARGV[3]), pair('doubt', ARGV[4] ~= '' and ARGV[4],
  pair('tried', ARGV[5] ~= '' and ARGV[5])))
keep_tried(job, r[8])
-- Its place in a ready list stays: whoever finds it there sees that it waits.
if state == 'queued' then
  local due = now_ms() + tonumber(ARGV[7])
  redis.call('HSET', job, 'state', 'later', 'due_at', due)
  redis.call('ZADD', KEYS[2], due, ARGV[1])
end
return 1
