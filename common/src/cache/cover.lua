#!lua flags=allow-oom
-- KEYS: copies of several things; ARGV: life in ms. Takes copies and leases away, and lets nobody put new ones there for a while.
for _, key in ipairs(KEYS) do
    redis.call('DEL', key)
    redis.call('HSET', key, '!', '')
    redis.call('PEXPIRE', key, ARGV[1])
end
