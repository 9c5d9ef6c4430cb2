-- KEYS[1]: copies of one thing; ARGV: reader, mark, life in ms.
-- Answers 1 if the reader may put its copy there, until somebody changes the thing; 0 while somebody does.
if redis.call('HEXISTS', KEYS[1], '!') == 1 then
    return 0
end
redis.call('HSET', KEYS[1], '?' .. ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3], 'NX')
return 1
