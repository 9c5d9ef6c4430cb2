#!lua flags=allow-oom,no-writes
-- Answers which of these ids Redis does not hold.
-- KEYS: wait, leased · ARGV: ids, <= 500.
local waiting = redis.call('ZMSCORE', KEYS[1], unpack(ARGV))
local leased = redis.call('ZMSCORE', KEYS[2], unpack(ARGV))
local unknown = {}
for i, id in ipairs(ARGV) do
    if not waiting[i] and not leased[i] then
        unknown[#unknown + 1] = id
    end
end
return unknown
