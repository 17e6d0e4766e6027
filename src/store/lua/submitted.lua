-- submitted: records the request id that fal gave. Never refused: it is paid for. The owner's write
-- moves the job on; a late one of a former owner is adopted where nobody has submitted since, and
-- otherwise the caller is told to cancel it at fal.
-- KEYS   1 record   2 events   3, 4 (perhaps) later, resume: the record may have fields of a try before this one
-- ARGV   1 id   2 token   3 seq   4 request id   5 path at fal ('' for the stem form)   6 attempt
--        7... pairs of the event `submitted` without at, attempt and request_id
-- GIVES  {word, request id of the record or '', now}; of its owner mostly now alone: recorded
--        ok: recorded, or was already; adopted: a former owner's id now belongs to the record;
--        other: the record has another id, which wins; cancel: nobody needs this one; gone: no record
-- MAKES  lists, turns and slots of the user, places at fal (same slot on a cluster)
-- CALLER Session::prepare
local id, token, seq, request = ARGV[1], ARGV[2], ARGV[3] + 0, ARGV[4]
local now, now_text = now_ms()
-- Its owner, who has written nothing of the kind before: neither this id nor any other can be known.
if not KEYS[4] then
  local r = redis.call('HMGET', KEYS[1], 'state', 'token', 'seq', 'phase', 'request_id')
  if r[1] == 'running' and r[2] == token and r[4] == 'submitting' and not r[5] and (r[3] or 0) - seq < 0 then
    -- The event first: where another type lies under its key nothing is written, and the repeat finds nothing done.
    if type(redis.pcall('XADD', KEYS[2], '*', 'event', 'submitted', 'at', now_text, 'attempt', ARGV[6], 'request_id',
      request, unpack(ARGV, 7))) == 'table' then
      redis.call('PERSIST', KEYS[1]) -- allowed without memory; so is the rest, then
      redis.call('XADD', KEYS[2], '*', 'event', 'submitted', 'at', now_text, 'attempt', ARGV[6], 'request_id', request,
        unpack(ARGV, 7))
    end
    redis.call('HSET', KEYS[1], 'request_id', request, 'phase', 'polling', 'attempt', ARGV[6], 'submitted_at',
      now_text, 'seq', ARGV[3], pair('path', ARGV[5] ~= '' and ARGV[5]))
    return now
  end
end
