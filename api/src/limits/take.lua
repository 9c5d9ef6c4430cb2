#!lua flags=allow-oom
-- Counts a call if fewer than the limit were counted in the window before it.
-- KEYS[1] the caller's log   ARGV[1] limit   ARGV[2] window, in microseconds
-- Answers after how many microseconds the next call will be counted (0: this one was), how many more there may be now,
-- and after how many microseconds there may be one more than that.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - window))
local count = redis.call('ZCARD', KEYS[1])
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local first = oldest[2] and tonumber(oldest[2]) or now
local reset = math.max(1, first + window - now)
if count >= limit then
    return {reset, 0, reset}
end
-- Two calls in one microsecond are two members.
redis.call('ZADD', KEYS[1], string.format('%.0f', now), string.format('%.0f-%d', now, count))
redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000))
return {0, limit - count - 1, reset}
