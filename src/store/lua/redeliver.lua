-- redeliver: makes the redelivery of an ended job: a record of its own, in phase `delivering` and in
-- `resume`, so that it is claimed, sent, taken over and counted as any delivery is. A repeat does nothing.
-- KEYS   1 record   2 record of the redelivery   3 resume   4 bell
-- ARGV   1 format   2 id   3 id of the redelivery   4 where to   5 name of its chat
-- GIVES  a word: ok, open (it has not ended), newer (another version's), nothing (neither a
--        file nor a result of it is known), gone
-- CALLER View::redeliver
local r = redis.call('HMGET', KEYS[1], 'state', 'v', 'file_ids', 'file_kinds', 'result', 'model', 'user', 'meta',
  'echoes', 'attempt')
local state = r[1]
if not state then return 'gone' end
if redis.call('EXISTS', KEYS[2]) == 1 then return 'ok' end
if (tonumber(r[2] or '0') or 0) > tonumber(ARGV[1]) then return 'newer' end
if state ~= 'done' and state ~= 'dead' and state ~= 'cancelled' then return 'open' end
if not r[5] and (not r[3] or r[3] == '[]') then return 'nothing' end
-- Without memory Redis refuses this, and nothing has happened.
local now = now_ms()
local set = {'HSET', KEYS[2], 'v', ARGV[1], 'state', 'queued', 'phase', 'delivering', 'redelivers', ARGV[2],
  'sent_to', ARGV[4], 'priority', 'default', 'attempt', r[10] or 0, 'life', 1, 'max_attempts', 1, 'charged', 'no',
  'queued_at', now, 'started_at', now, 'completed_at', now, 'chat', ARGV[5]}
for i, field in ipairs({'file_ids', 'file_kinds', 'result', 'model', 'user', 'meta', 'echoes'}) do
  local value = r[i + 2]
  if value then set[#set + 1] = field; set[#set + 1] = value end
end
redis.call(unpack(set))
redis.call('LPUSH', KEYS[3], ARGV[3])
ring(KEYS[4])
return 'ok'
