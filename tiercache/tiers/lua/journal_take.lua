-- Gives a worker tickets: what is due again, what others have held for too long, what is free.
--
-- KEYS: those of a journal
-- ARGV: format, worker, most, ms after which a ticket that is held counts as abandoned, records
--       per key or '' for the newest only
-- Returns {0, free tickets, ms until the next is due or -1, tickets} | {-1, format}
-- A ticket: {id, key, 1 if it was abandoned, attempts, records...}

local format = foreign_format(KEYS, ARGV[1])
if format then
  return {-1, format}
end
local worker, most = ARGV[2], tonumber(ARGV[3])
local now = math.floor(now_us() / 1000)

for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now, 'LIMIT', 0, most)) do
  redis.call('ZREM', KEYS[5], key)
  give_ticket(KEYS, key)
end

local tickets = {}

local function add(ticket, suspect)
  local key = ticket[2] and ticket[2][2]
  local newest = key and redis.call('HGET', KEYS[2], key)
  if not newest then
    return end_ticket(KEYS, ticket[1])
  end
  local records = {newest}
  if ARGV[5] ~= '' then
    local prefix = prefix_of(key)
    records = redis.call(
      'ZRANGEBYLEX', KEYS[7], '[' .. prefix, '[' .. prefix .. '\255', 'LIMIT', 0, ARGV[5]
    )
    for i, member in ipairs(records) do
      records[i] = string.sub(member, #prefix + 17)
    end
    records[1] = records[1] or newest
  end
  local attempts = redis.call('HGET', KEYS[6], key)
  local tried = 0
  if attempts and string.sub(attempts, 1, 16) == version_of(records[1]) then
    tried = tonumber(string.sub(attempts, 18))
  end
  if suspect == 1 then -- whoever held it may have died of it
    tried = tried + 1
    redis.call('HSET', KEYS[6], key, version_of(records[1]) .. ':' .. tried)
  end
  tickets[#tickets + 1] = {ticket[1], key, suspect, tried, unpack(records)}
end

local function claim()
  return redis.pcall('XAUTOCLAIM', KEYS[4], GROUP, worker, ARGV[4], '0-0', 'COUNT', most)
end

local claimed = claim()
if claimed.err then -- the queue is lost (it was deleted, or evicted): every dirty key needs a ticket
  make_journal(KEYS, ARGV[1])
  for _, key in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
    if not redis.call('ZSCORE', KEYS[5], key) then
      give_ticket(KEYS, key)
    end
  end
  claimed = claim()
end
for _, ticket in ipairs(claimed[2]) do
  if ticket then
    add(ticket, 1)
  end
end
if #tickets < most then
  local read = redis.call(
    'XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', most - #tickets, 'STREAMS', KEYS[4], '>'
  )
  for _, ticket in ipairs(read and read[1][2] or {}) do
    add(ticket, 0)
  end
end

local free = redis.call('XLEN', KEYS[4]) - redis.call('XPENDING', KEYS[4], GROUP)[1]
local due = redis.call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')[2]
return {0, free, due and math.max(0, tonumber(due) - now) or -1, tickets}
