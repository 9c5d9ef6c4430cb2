#!lua flags=allow-oom
-- Counts a call if fewer than the limit were counted in the window before it.
-- KEYS[1] the caller's log   ARGV[1] limit   ARGV[2] window, in microseconds
-- Answers 0 if it was counted, else after how many microseconds the next one will be.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - window))
local count = redis.call('ZCARD', KEYS[1])
if count >= limit then
    local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
    return math.max(1, tonumber(first[2]) + window - now)
end
-- Two calls in one microsecond are two members.
redis.call('ZADD', KEYS[1], string.format('%.0f', now), string.format('%.0f-%d', now, count))
redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
return 0
