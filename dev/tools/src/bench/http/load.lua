-- Sends the requests of the file BENCH_REQUESTS, which stand there whole with a NUL between them, in random order.
-- `########` in one becomes a number that differs from request to request.
local requests, number = {}, os.time() % 1000000 * 100

function init()
  local file = assert(io.open(os.getenv("BENCH_REQUESTS"), "rb"))
  for text in file:read("*a"):gmatch("([^%z]+)") do
    local at = text:find("########", 1, true)
    requests[#requests + 1] = at and { text:sub(1, at - 1), text:sub(at + 8) } or text
  end
  file:close()
end

function request()
  local chosen = requests[math.random(#requests)]
  if type(chosen) == "string" then return chosen end
  number = (number + 1) % 100000000
  return chosen[1] .. string.format("%08d", number) .. chosen[2]
end

-- One line for the program: requests, microseconds, and of the latencies the median and the 99th percentile.
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
