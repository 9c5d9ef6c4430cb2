#!lua
-- Adds ids to `wait` unless they already wait or are leased, and answers with the ids it refused.
-- KEYS: wait, leased, lanes · ARGV: wake channel, step, minute, then (id, due ms, priority, lane) for each, <= 500.
-- The one script that a full Redis refuses: the ledger keeps the job, and the relay tries again.
local step, minute = tonumber(ARGV[2]), tonumber(ARGV[3])
local ids, fields, known, lanes = {}, {}, {}, {}
for i = 4, #ARGV, 4 do
    ids[#ids + 1] = ARGV[i]
    -- Lanes of different priority do not wait for each other.
    local field = ARGV[i + 2] .. ARGV[i + 3]
    if known[field] == nil then
        known[field] = false
        fields[#fields + 1] = field
    end
end
local waiting = redis.call('ZMSCORE', KEYS[1], unpack(ids))
local leased = redis.call('ZMSCORE', KEYS[2], unpack(ids))
local tags = redis.call('HMGET', KEYS[3], unpack(fields))
for i, field in ipairs(fields) do
    known[field] = tonumber(tags[i])
end

local refused, added, seen = {}, {}, {}
for i, id in ipairs(ids) do
    if waiting[i] or leased[i] or seen[id] then
        refused[#refused + 1] = id
    else
        seen[id] = true
        local at = 4 + (i - 1) * 4
        local priority = tonumber(ARGV[at + 2])
        local field = ARGV[at + 2] .. ARGV[at + 3]
        local tag = tonumber(ARGV[at + 1])
        if known[field] and known[field] + step > tag then
            tag = known[field] + step
        end
        known[field] = tag
        lanes[field] = true
        added[#added + 1] = tag + priority * minute
        added[#added + 1] = id
    end
end
if #added == 0 then
    return refused
end
redis.call('ZADD', KEYS[1], unpack(added))

local set = {}
for field in pairs(lanes) do
    set[#set + 1] = field
    set[#set + 1] = known[field]
end
redis.call('HSET', KEYS[3], unpack(set))
-- A lane whose last tag lies before the head of the line has nothing waiting. Looking at twice as many lanes as
-- were touched keeps the hash within about twice of those that matter.
local head = tonumber(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2])
local sample, past = redis.call('HRANDFIELD', KEYS[3], 2 * #fields + 4, 'WITHVALUES'), {}
for i = 1, #sample, 2 do
    if tonumber(sample[i + 1]) + tonumber(string.sub(sample[i], 1, 1)) * minute < head then
        past[#past + 1] = sample[i]
    end
end
if #past > 0 then
    redis.call('HDEL', KEYS[3], unpack(past))
end
redis.call('PUBLISH', ARGV[1], #added / 2)
return refused
