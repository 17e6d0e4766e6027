-- retry: gives dead letters a new life, some a call; whoever comes second finds the job open. What fal's result
-- is still known of goes on from there, free; all else waits for a new submit, as if it had just come in. Of the
-- old life stay its cost in words (the caller says them), its request ids in `tried` and its last token in `past`:
-- no late write of it touches the new one.
-- KEYS   1 dead   2 config   3 events   4 resume   5 bell
-- ARGV   1 namespace   2 format   3 only look (0, 1)   4 how long fal keeps a result, ms   5... ids
-- MAKES  records and specs of the ids; lists, lines and turns of their users (same slot on a cluster)
-- GIVES  {word, state, kind, charged before, messages it left (JSON) or ''} for each; word: deliver (its result is
--        known), fetch (fal may have it still), generate (paid), open (it has not ended), done, cancelled, invalid
--        (it never was a job), redelivery, bare (only its id is kept), newer (another version's), gone
-- CALLER View::retry
local ns, format, only_look, kept_at_fal = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])
local now, out, moved = now_ms(), {}, false
local c = redis.call('HGET', KEYS[2], 'max_wait')
local max_wait = tonumber(c or '') or 86400000
local _, fair = turn_settings(ns)

local function word_of(id, r)
  if not r.state then return 'gone' end
  if (tonumber(r.v) or 0) > format then return 'newer' end
  if r.state == 'done' or r.state == 'cancelled' then return r.redelivers and 'redelivery' or r.state end
  if r.state ~= 'dead' then return 'open' end
  if r.redelivers then return 'redelivery' end
  if r.kind == 'invalid_job' then return 'invalid' end
  if redis.call('EXISTS', ns .. ':spec:' .. id) == 0 or not r.model then return 'bare' end
  if r.result then return 'deliver' end
  -- It failed after fal's part, or the worker did, or what came could not be read: what fal has is what was paid
  -- for. Where fal itself has said that there is nothing (`unavailable`), or was told to stop, a new request is the
  -- only way.
  local since = tonumber(r.completed_at or r.submitted_at or '')
  local ours = r.kind == 'crashed' or r.kind == 'telegram' or r.kind == 'file_too_big'
    or r.kind == 'bad_answer' or (r.kind == 'chat_unreachable' and r.completed_at)
  if ours and r.request_id and r.via ~= 'direct' and since and now - since < kept_at_fal then return 'fetch' end
  return 'generate'
end

-- What the new life knows: what the entry said, and what was paid for already.
local kept = {'v', 'model', 'priority', 'max_attempts', 'user', 'meta', 'via', 'chat', 'first_queued_at'}
local paid = {'request_id', 'path', 'submitted_at', 'charged'}
local function revive(id, r, word)
  local job = ns .. ':job:' .. id
  local life = (tonumber(r.life) or 1) + 1
  local tried = r.tried or ''
  if word == 'generate' and r.request_id and not was_tried(tried, r.request_id) then
    tried = (tried == '' and '' or tried .. ' ') .. r.request_id
  end
  -- Without memory Redis refuses this, and nothing has happened.
  local set = {'HSET', job, 'state', 'queued', 'life', life, 'attempt', 0, 'queued_at', now, 'retried_at', now,
    'first_queued_at', r.first_queued_at or r.queued_at or now}
  local function put(field, value)
    if value and value ~= '' then set[#set + 1] = field; set[#set + 1] = value end
  end
  put('tried', tried)
  put('past', r.token)
  if max_wait > 0 then put('expires_at', now + max_wait) end
  if r.aged_at then put('priority', 'low') end
  if word ~= 'generate' then put('free', 1) end -- whatever becomes of it, nothing new is submitted
  if word == 'deliver' then put('phase', 'delivering'); put('completed_at', now); put('started_at', now) end
  if word == 'fetch' then put('phase', r.completed_at and 'collecting' or 'polling'); put('started_at', now) end
  redis.call(unpack(set))
  local stays = {}
  for i = 3, #set, 2 do stays[set[i]] = true end
  for _, field in ipairs(kept) do stays[field] = true end
  if word ~= 'generate' then for _, field in ipairs(paid) do stays[field] = true end end
  if word == 'deliver' then stays.result, stays.echoes = true, true end
  local del = {'HDEL', job}
  for field in pairs(r) do
    if not stays[field] then del[#del + 1] = field end
  end
  if #del > 2 then redis.call(unpack(del)) end
  redis.call('PERSIST', job)
  redis.call('PERSIST', ns .. ':spec:' .. id)
  redis.call('ZREM', KEYS[1], id)
  local e = {'XADD', KEYS[3], '*', 'event', 'queued', 'at', now, 'attempt', 0, 'job', id, 'life', life}
  for _, field in ipairs({'user', 'model', 'meta'}) do
    if r[field] then e[#e + 1] = field; e[#e + 1] = r[field] end
  end
  redis.call(unpack(e))
  if word == 'generate' then
    enter(ns, r.aged_at and 'low' or r.priority or 'default', r.user, id, fair)
  else
    redis.call('LPUSH', KEYS[4], id)
  end
  moved = true
end

if not only_look then look_at_events(KEYS[3]) end
for i = 5, #ARGV do
  local id = ARGV[i]
  local flat, r = redis.call('HGETALL', ns .. ':job:' .. id), {}
  for f = 1, #flat, 2 do r[flat[f]] = flat[f + 1] end
  local word = word_of(id, r)
  out[#out + 1] = {word, r.state or '', r.kind or '', r.charged or 'no', r.message_ids or ''}
  if not only_look and (word == 'deliver' or word == 'fetch' or word == 'generate') then revive(id, r, word) end
end
if moved then ring(KEYS[5]) end
return out
