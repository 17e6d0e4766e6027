-- rate: gives a send its time within what bot and chat may send. The time is reserved: whoever was told
-- to wait comes back once, when it is due, to hear that Telegram has not asked for silence meanwhile.
-- The bot has so many places in every span of the clock; a later message may take an earlier place that
-- a waiting chat leaves free. Of the chat it is known when its bucket is full again (GCRA), in the time
-- of the sends, not of the asking.
-- KEYS   1 the bot (hash: held, any, and of the last one who was to be silent: by, at, till; now)
--        2 the chat (hash: held, full, now)
-- ARGV   1 verb: take; keep (a time given before); hold (Telegram wants silence; takes the next time, too);
--        try, act (now or not at all: an edit, a chat action that may be left out)
--        2 messages   3 places of the bot in a span, 0: no limits of our own   4 span, ms
--        5 of the chat: ms a message   6 and at once   7 chat   8 keep: ms since the time that was
--        given; hold: ms of silence   9 names of spans begin so
-- MAKES  spans, strings that count their places (same slot on a cluster)
-- GIVES  {ms to wait, silence: 0 none, 1 of the chat, 2 of the bot, began now (0, 1), ms until any ends}
-- CALLER Session::rate
local verb, n, places, span = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local gap, burst, ms = tonumber(ARGV[5]), math.max(tonumber(ARGV[6]), n), tonumber(ARGV[8])
local now = now_ms()

-- A time noted at `seen`. If the clock was set back since, it goes back with it.
local function noted(text, seen)
  return (tonumber(text) or 0) - math.max(0, (tonumber(seen) or 0) - now)
end
local b = redis.call('HMGET', KEYS[1], 'held', 'any', 'by', 'at', 'till', 'now')
local c = redis.call('HMGET', KEYS[2], 'held', 'full', 'now')
local bot_held, any = noted(b[1], b[6]), noted(b[2], b[6])
local held, full = noted(c[1], c[3]), noted(c[2], c[3])

-- First a write that Redis allows when it is out of memory; so is the rest, then: results are paid.
redis.call('DEL', ARGV[9] .. string.format('%d', math.floor(now / span) - 2))
local began = 0
if verb == 'hold' then
  local till = now + ms
  if held <= now and bot_held <= now then began = 1 end
  held = math.max(held, till)
  -- One message then, the next ones as the bucket fills.
  full = math.max(full, held + (tonumber(ARGV[6]) - 1) * gap)
  if b[3] and b[3] ~= ARGV[7] and now - noted(b[4], b[6]) <= 1000 then
    -- Two chats within a second: it is the bot.
    if bot_held <= now then began = 1 end
    bot_held = math.max(bot_held, till, noted(b[5], b[6]))
  end
  any = math.max(any, till)
  redis.call('HSET', KEYS[1], 'held', bot_held, 'any', any, 'by', ARGV[7], 'at', now, 'till', till, 'now', now)
  redis.call('PEXPIRE', KEYS[1], math.max(bot_held, any) - now + 2000)
end
local silence = 0
if held > now then silence = 1 end
if bot_held > now then silence = 2 end
local rest = math.max(0, math.max(held, bot_held, any) - now)
if verb == 'try' or verb == 'act' then
  -- Only what nobody else wants now: half of the places are always left for results.
  local free = math.max(now, held, bot_held)
  if verb == 'try' then free = math.max(free, full + (1 - burst) * gap) end
  if free > now then return {free - now, silence, 0, rest} end
  if places == 0 then return {0, 0, 0, rest} end
  local this = math.floor(now / span)
  local name = ARGV[9] .. string.format('%d', this)
  if tonumber(redis.call('GET', name) or '0') >= math.max(1, math.floor(places / 2)) then
    return {math.max(1, (this + 1) * span - now), 0, 0, rest}
  end
  redis.call('INCRBY', name, 1)
  redis.call('PEXPIRE', name, 2 * span + 1000)
  if verb == 'try' then
    full = math.max(full, now) + gap
    redis.call('HSET', KEYS[2], 'held', held, 'full', full, 'now', now)
    redis.call('PEXPIRE', KEYS[2], math.max(held, full) - now + 1000)
  end
  return {0, 0, 0, rest}
end
if silence == 0 then
  if verb == 'keep' and ms <= 2000 then return {0, 0, 0, rest} end
  if places == 0 and full <= now then return {0, 0, 0, rest} end
end
-- After a silence at the usual pace, whatever our own limits are.
if places == 0 then places, span = 30, 1000 end

local at = math.max(now, held, bot_held, full + (n - burst) * gap)
local need = math.min(n, places)
local first, chunk, found, used, before = math.floor(at / span), 1, nil, 0, 0
while not found do
  local names = {}
  for i = first - 1, first + chunk - 1 do names[#names + 1] = ARGV[9] .. string.format('%d', i) end
  local counts = redis.call('MGET', unpack(names))
  for i = 2, #names do
    used, before = tonumber(counts[i] or '0'), tonumber(counts[i - 1] or '0')
    -- A day ahead nobody counts any more.
    if used + need <= places or (first + i) * span > at + 86400000 then
      found = first + i - 2
      break
    end
  end
  first, chunk = first + chunk, 64
end
-- A burst only as far as the span before has left places: over any time it is the bot's rate.
local over = math.max(0, used + need - math.max(0, places - before))
at = math.max(at, math.floor(found * span + over * span / places))
local name = ARGV[9] .. string.format('%d', found)
redis.call('INCRBY', name, need)
redis.call('PEXPIRE', name, (found + 2) * span - now + 1000)
if ARGV[7] ~= '' then
  full = math.max(full, at) + n * gap
  redis.call('HSET', KEYS[2], 'held', held, 'full', full, 'now', now)
  redis.call('PEXPIRE', KEYS[2], math.max(held, full) - now + 1000)
end
return {at - now, silence, began, rest}
