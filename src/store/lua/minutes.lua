-- minutes: adds what ended on one worker to the buckets of minutes, each batch once.
-- KEYS   1 hash of the instance   2... a bucket each: model to counts
-- ARGV   1 number of the batch   2 models of a bucket at most   3 name of the rest   4 seconds a bucket stays
--        5... place of the bucket among KEYS, model, its counts (done, failed, cancelled, then class:number
--        for each class of delays)
-- GIVES  word: ok, known
-- CALLER Session::add_minutes
local most, rest, stays = tonumber(ARGV[2]), ARGV[3], ARGV[4]
if redis.call('HGET', KEYS[1], 'minutes') == ARGV[1] then return 'known' end

local function add(sum, text)
  local place = 0
  for word in string.gmatch(text, '%S+') do
    local class, number = string.match(word, '^(%d+):(%d+)$')
    if class then
      class = tonumber(class)
      if class < 256 then sum[class] = (sum[class] or 0) + tonumber(number) end
    else
      place = place + 1
      sum.plain[place] = (sum.plain[place] or 0) + (tonumber(string.match(word, '^%d+$')) or 0)
    end
  end
end

local function whole(number) return string.format('%.0f', number or 0) end

for i = 5, #ARGV, 3 do
  local bucket, model = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  if redis.call('HLEN', bucket) >= most and redis.call('HEXISTS', bucket, model) == 0 then model = rest end
  local sum = {plain = {}}
  -- More than any script of ours leaves behind is not read.
  if redis.call('HSTRLEN', bucket, model) < 4096 then add(sum, redis.call('HGET', bucket, model) or '') end
  add(sum, ARGV[i + 2])
  local words = {whole(sum.plain[1]), whole(sum.plain[2]), whole(sum.plain[3])}
  for class = 0, 255 do
    if sum[class] then words[#words + 1] = class .. ':' .. whole(sum[class]) end
  end
  redis.call('HSET', bucket, model, table.concat(words, ' '))
  redis.call('EXPIRE', bucket, stays)
end
-- An instance that Redis forgot is not made up again.
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'minutes', ARGV[1]) end
return 'ok'
