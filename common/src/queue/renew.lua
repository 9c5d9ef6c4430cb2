#!lua flags=allow-oom
-- Leases ids from now on. Recreates leases that Redis lost; what is leased does not wait.
-- KEYS: wait, leased · ARGV: lease ms, then ids, <= 500.
local time = redis.call('TIME')
local expiry = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1])
local leases = {}
for i = 2, #ARGV do
    leases[#leases + 1] = expiry
    leases[#leases + 1] = ARGV[i]
end
redis.call('ZADD', KEYS[2], unpack(leases))
return redis.call('ZREM', KEYS[1], unpack(ARGV, 2))
