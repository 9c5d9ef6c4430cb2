#!lua flags=allow-oom
-- Returns expired leases to `wait`, scored by when they expired, then leases the first ids and answers with
-- them and their scores.
-- KEYS: wait, leased, lanes · ARGV: how many (<= 500), lease ms.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'WITHSCORES', 'LIMIT', 0, 500)
if #expired > 0 then
    local back, ids = {}, {}
    for i = 1, #expired, 2 do
        back[#back + 1] = tonumber(expired[i + 1])
        back[#back + 1] = expired[i]
        ids[#ids + 1] = expired[i]
    end
    redis.call('ZADD', KEYS[1], 'NX', unpack(back))
    redis.call('ZREM', KEYS[2], unpack(ids))
end

local fetched = redis.call('ZPOPMIN', KEYS[1], tonumber(ARGV[1]))
if #fetched == 0 then
    return fetched
end
local leases, expiry = {}, now + tonumber(ARGV[2])
for i = 1, #fetched, 2 do
    leases[#leases + 1] = expiry
    leases[#leases + 1] = fetched[i]
end
redis.call('ZADD', KEYS[2], unpack(leases))
-- Where nothing waits, no lane has had its share yet.
if redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('UNLINK', KEYS[3])
end
return fetched
