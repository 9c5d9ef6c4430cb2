-- KEYS[1]: copies of one thing; ARGV: reader, mark, copy.
-- Puts it there if the lease is still this one. The lease goes last: a hash without fields is gone, and its end with it.
if redis.call('HGET', KEYS[1], '?' .. ARGV[1]) ~= ARGV[2] then
    return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('HDEL', KEYS[1], '?' .. ARGV[1])
return 1
