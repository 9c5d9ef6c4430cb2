#!lua flags=allow-oom
-- Forgets ids that need no worker any more; answers how many were leased.
-- KEYS: wait, leased · ARGV: ids, <= 500.
redis.call('ZREM', KEYS[1], unpack(ARGV))
return redis.call('ZREM', KEYS[2], unpack(ARGV))
