#!lua flags=allow-oom
-- Gives ids back to `wait`, each with the score it had.
-- KEYS: wait, leased · ARGV: wake channel, then (score, id) for each, <= 500.
local back, ids = {}, {}
for i = 2, #ARGV, 2 do
    back[#back + 1] = tonumber(ARGV[i])
    back[#back + 1] = ARGV[i + 1]
    ids[#ids + 1] = ARGV[i + 1]
end
redis.call('ZREM', KEYS[2], unpack(ids))
redis.call('ZADD', KEYS[1], unpack(back))
return redis.call('PUBLISH', ARGV[1], #ids)
