-- Forgets a worker that holds nothing, and others that have long held nothing.
--
-- KEYS: those of a journal
-- ARGV: worker, ms
-- Returns how many were forgotten

local workers = redis.pcall('XINFO', 'CONSUMERS', KEYS[3], GROUP)
local count = 0
if workers.err then -- there is no journal
  return count
end
for _, fields in ipairs(workers) do
  local worker = {}
  for i = 1, #fields, 2 do
    worker[fields[i]] = fields[i + 1]
  end
  if worker.pending == 0 and (worker.name == ARGV[1] or worker.idle > tonumber(ARGV[2])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[3], GROUP, worker.name)
    count = count + 1
  end
end
return count
