#!lua flags=allow-oom
-- KEYS: copies of several things; ARGV: mark, life in ms. Takes copies and leases away, and lets nobody put new ones there.
for _, key in ipairs(KEYS) do
    redis.call('DEL', key)
    redis.call('HSET', key, '!', ARGV[1])
    redis.call('PEXPIRE', key, ARGV[2])
end
