-- ask: leaves a question for one instance, which its next beat sees: what its threads do, or where a job is.
-- Nothing is asked of one that is marked dead, or was never here.
-- KEYS   1 hash of the instance
-- ARGV   1 `*` for its threads, or the id of a job
-- GIVES  now; 0: nobody is there to be asked
-- CALLER View::ask_worker
local r = redis.call('HMGET', KEYS[1], 'dead', 'name', 'asked')
if r[1] or not r[2] then return 0 end
local asked = r[3] or ''
-- Changes nothing, but is allowed when Redis is out of memory, and with it the rest.
redis.call('HDEL', KEYS[1], '')
-- Several may ask between two beats; a page of questions is enough for people.
if #asked < 4096 and not string.find(' ' .. asked .. ' ', ' ' .. ARGV[1] .. ' ', 1, true) then
  redis.call('HSET', KEYS[1], 'asked', asked == '' and ARGV[1] or asked .. ' ' .. ARGV[1])
end
return (now_ms())
