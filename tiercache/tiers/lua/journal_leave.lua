-- Gives back what a worker holds, and forgets it, and others that have long held nothing.
--
-- KEYS: those of a journal
-- ARGV: worker, ms
-- Returns how many were forgotten

local workers = redis.pcall('XINFO', 'CONSUMERS', KEYS[3], GROUP)
local count = 0
if workers.err then -- there is no journal
  return count
end
local now = math.floor(now_us() / 1000)
for id in pairs(held_by(KEYS, ARGV[1])) do
  local ticket = redis.call('XRANGE', KEYS[3], id, id)[1]
  end_ticket(KEYS, id)
  if ticket then
    redis.call('ZADD', KEYS[4], now, ticket[2][2])
  end
end
for _, fields in ipairs(workers) do
  local worker = {}
  for i = 1, #fields, 2 do
    worker[fields[i]] = fields[i + 1]
  end
  local is_idle = worker.pending == 0 and worker.idle > tonumber(ARGV[2])
  if worker.name == ARGV[1] or is_idle then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[3], GROUP, worker.name)
    count = count + 1
  end
end
return count
