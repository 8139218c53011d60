-- Sends the bodies of a directory in turn and prints what wrk measured as one line of JSON.
-- Arguments: directory, number of bodies, then each header as "Name: value".

local requests = {}
local turn = 0

function init(arguments)
  local directory, count = arguments[1], tonumber(arguments[2])
  for i = 3, #arguments do
    local name, value = arguments[i]:match("^(.-): (.*)$")
    wrk.headers[name] = value
  end
  for i = 0, count - 1 do
    local file = assert(io.open(directory .. "/" .. i, "rb"))
    requests[i] = wrk.format("POST", nil, nil, file:read("*a"))
    file:close()
  end
  turn = count
end

local next = 0

function request()
  next = (next + 1) % turn
  return requests[next]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "max_ms": %.4f, ' ..
    '"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3,
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
