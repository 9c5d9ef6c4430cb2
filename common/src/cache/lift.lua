-- KEYS: copies of several things; ARGV: mark. Takes a cover away, unless it is somebody else's by now.
for _, key in ipairs(KEYS) do
    if redis.call('HGET', key, '!') == ARGV[1] then
        redis.call('DEL', key)
    end
end
