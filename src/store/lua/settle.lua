-- settle: nobody pulls for at most so long, while all instances write down again what they hold.
-- KEYS   1 settling
-- ARGV   1 ms
-- GIVES  1
-- CALLER Session::settle
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[1]) -- allowed without memory; so is the rest, then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[1]) -- see settling
end
return 1
