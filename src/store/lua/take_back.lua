-- take_back: makes the claims of a dead instance ready again, some hundred a call.
-- KEYS   1 claims of the dead   2 later   3 bell   4 resume   5 hash of the dead   6 gone   7 its taken
--        8 inbox   9 high   10 default   11 low   12 taken of who asks
-- ARGV   1 namespace   2 the dead instance   3 jobs at most   4 wait before a new submit, ms
--        5 crash limit   6 that wait where its process is gone: whoever buried it said so, and may have died
--        before he came here   7 crash limit where a step file tells whose step it was
-- MAKES  records of the ids, turns and slots of their users (same slot on a cluster)
-- GIVES  {word, moved, left}; word: ok, alive (it is not marked dead: nothing was done)
-- CALLER Session::take_back
local ns, dead, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local w = redis.call('HMGET', KEYS[5], 'dead', 'cause', 'steps', 'death')
if not w[1] and not redis.call('ZSCORE', KEYS[6], dead) then return {'alive', 0, 0} end
local wait = tonumber(w[2] == 'process_gone' and ARGV[6] or ARGV[4])
local steps = w[3]
local limit = tonumber(steps and ARGV[7] or ARGV[5])
local now = now_ms()
local k = {later = KEYS[2], resume = KEYS[4], high = KEYS[9], default = KEYS[10], low = KEYS[11]}
local moved = 0
-- The scan goes on over places that earlier calls have emptied: one page of them alone brings nothing.
local page, cursor = {}, '0'
repeat
  local scan = redis.call('HSCAN', KEYS[1], cursor, 'COUNT', most)
  cursor = scan[1]
  for i = 1, #scan[2] do page[#page + 1] = scan[2][i] end
until cursor == '0' or #page >= 2 * most
-- The latest claims first: what goes to the front of its list last stood in front before.
local claims = {}
for i = 1, #page, 2 do
  claims[#claims + 1] = {page[i], page[i + 1], tonumber(string.match(page[i + 1], '%d+$')) or 0}
end
table.sort(claims, function(a, b) return a[3] > b[3] end)
for _, claim in ipairs(claims) do
  if moved >= most then break end
  local id, token = claim[1], claim[2]
  redis.call('HDEL', KEYS[1], id) -- allowed without memory; so is the rest, then
  local job = ns .. ':job:' .. id
  local r = fields_of(job, 'state', 'token', 'phase', 'request_id', 'attempt', 'max_attempts', 'priority',
    'via', 'charged', 'crashes', 'crashes_from', 'waits')
  -- The token is looked at again for each id: what somebody else owns by now is not ours to move.
  if r[1] == 'running' and r[2] == token then
    local step = step_of(steps, token)
    -- What stands in line for a transfer thread was not begun.
    if not step and r[12] == token and (r[3] or 'submitting') == 'submitting' and not r[4] then step = 'idle' end
    requeue(k, job, id, r, now, wait, limit, step, steps and tonumber(w[4]))
  end
  moved = moved + 1
end
-- An entry that the dead one still moved after it was marked.
put_back(KEYS[7], KEYS[8], KEYS[12])
if moved > 0 then ring(KEYS[3]) end
local left = redis.call('HLEN', KEYS[1])
return {'ok', moved, left}
