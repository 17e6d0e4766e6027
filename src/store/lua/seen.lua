-- seen: what an instance last heard of its requests at fal, for a submit window that is found out; once a second
-- one of the callers is told what all heard, and gives the window that follows from it (see resize).
-- KEYS   1 window   2 at_fal
-- ARGV   1 instance   2 running   3 queued   4 unknown   5 size that it knew ('' none)   6 slots   7 calm
--        8 when the latest of those it saw running was submitted, ms ('' none)
-- GIVES  {turn (1: the caller decides now), size or '', slots, calm, running, queued, unknown, at_fal: how many stand
--        there, when the latest that anybody ever saw running was submitted, or ''}
-- CALLER Session::tell_seen
local now = now_ms()
redis.call('HDEL', KEYS[1], '') -- changes nothing, but is allowed without memory; so is the rest, then
redis.call('HSET', KEYS[1], 'seen:' .. ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. now)
local all, sums = redis.call('HGETALL', KEYS[1]), {0, 0, 0}
local w = {}
for i = 1, #all, 2 do
  local name, value = all[i], all[i + 1]
  w[name] = value
  if string.sub(name, 1, 5) == 'seen:' then
    local running, queued, unknown, at = string.match(value, '^(%d+) (%d+) (%d+) (%d+)$')
    local age = now - (tonumber(at or '') or 0)
    if age >= 0 and age <= 3000 then
      sums = {sums[1] + running, sums[2] + queued, sums[3] + unknown}
    else
      redis.call('HDEL', KEYS[1], name)
    end
  end
end
if not w.size and ARGV[5] ~= '' then
  -- A store that forgot, or lost its window with somebody's hand.
  redis.call('HSET', KEYS[1], 'size', ARGV[5], 'slots', ARGV[6], 'calm', ARGV[7])
  w.size, w.slots, w.calm = ARGV[5], ARGV[6], ARGV[7]
end
-- Not what lies ahead of a clock that was set back: it would hide all that waits until then.
local ran = math.max(tonumber(w.ran or '') or 0, tonumber(ARGV[8]) or 0)
if ran > now then ran = tonumber(ARGV[8]) or 0 end
if ran > now then ran = 0 end
ran = ran > 0 and string.format('%d', ran) or ''
if ran ~= (w.ran or '') then redis.call('HSET', KEYS[1], 'ran', ran) end
local at = tonumber(w.at or '0') or 0
local turn = (at > now or now - at >= 900) and 1 or 0
if turn == 1 then redis.call('HSET', KEYS[1], 'at', now) end
return {turn, w.size or '', tonumber(w.slots or '') or 0, tonumber(w.calm or '') or 0, sums[1], sums[2], sums[3],
  turn == 1 and redis.call('SCARD', KEYS[2]) or 0, ran}
