-- Gives a worker tickets: what is due again, what others have held for too long, what is free.
--
-- KEYS: those of a journal
-- ARGV: format, worker, most, ms after which a ticket that is held counts as abandoned, ms that
--       free tickets wait for more of them, records per key or '' for the newest only
-- Returns {0, ms until it is worth while to ask again or -1, tickets} | {-1, format}
-- A ticket: {id, key, 1 if it was abandoned, attempts, records...}

local format = foreign_format(KEYS, ARGV[1])
if format then
  return {-1, format}
end
local worker, most = ARGV[2], tonumber(ARGV[3])
local now = math.floor(now_us() / 1000)

local due = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, most)
for _, key in ipairs(due) do
  redis.call('ZREM', KEYS[4], key)
  give_ticket(KEYS, key)
end

local tickets = {}

local function add(ticket, suspect)
  local key = ticket[2] and ticket[2][2]
  local newest = key and redis.call('HGET', KEYS[1], 'k' .. key)
  if not newest then
    return end_ticket(KEYS, ticket[1])
  end
  local records = {newest}
  if ARGV[6] ~= '' then
    local prefix = prefix_of(key)
    records = redis.call(
      'ZRANGEBYLEX', KEYS[6], '[' .. prefix, '[' .. prefix .. '\255', 'LIMIT', 0, ARGV[6]
    )
    for i, member in ipairs(records) do
      records[i] = string.sub(member, #prefix + 17)
    end
    records[1] = records[1] or newest
  end
  local attempts = redis.call('HGET', KEYS[5], key)
  local tried = 0
  if attempts and string.sub(attempts, 1, 16) == version_of(records[1]) then
    tried = tonumber(string.sub(attempts, 18))
  end
  if suspect == 1 then -- whoever held it may have died of it
    tried = tried + 1
    redis.call('HSET', KEYS[5], key, version_of(records[1]) .. ':' .. tried)
  end
  tickets[#tickets + 1] = {ticket[1], key, suspect, tried, unpack(records)}
end

local function claim()
  return redis.pcall('XAUTOCLAIM', KEYS[3], GROUP, worker, ARGV[4], '0-0', 'COUNT', most)
end

local claimed = claim()
if claimed.err then -- the queue is lost (it was deleted, or evicted): every dirty key needs a ticket
  make_journal(KEYS, ARGV[1])
  for _, key in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if not redis.call('ZSCORE', KEYS[4], key) then
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

-- Returns how many ms the free tickets still have to wait; nil: there are none.
local function patience()
  local free = redis.call('XLEN', KEYS[3]) - redis.call('XPENDING', KEYS[3], GROUP)[1]
  if free <= 0 then
    return nil
  end
  if free >= most then
    return 0
  end
  local group = redis.call('XINFO', 'GROUPS', KEYS[3])[1]
  local last = '0-0'
  for i = 1, #group, 2 do
    last = group[i] == 'last-delivered-id' and group[i + 1] or last
  end
  local first = redis.call('XRANGE', KEYS[3], '(' .. last, '+', 'COUNT', 1)[1]
  local age = first and now - tonumber(string.match(first[1], '^%d+')) or 0
  return math.max(0, tonumber(ARGV[5]) - age)
end

local wait = #due > 0 and 0 or patience()
if wait == 0 and #tickets < most then
  local read = redis.call(
    'XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', most - #tickets, 'STREAMS', KEYS[3], '>'
  )
  for _, ticket in ipairs(read and read[1][2] or {}) do
    add(ticket, 0)
  end
  wait = patience()
end

local later = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')[2]
if later then
  wait = math.min(wait or math.huge, math.max(0, tonumber(later) - now))
end
return {0, wait or -1, tickets}
