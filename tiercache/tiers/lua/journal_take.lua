-- Gives a worker tickets: what is due again, what others have held for too long, what is free.
--
-- KEYS: those of a journal
-- ARGV: format, worker, most, ms after which a ticket that is held counts as abandoned, ms that
--       free tickets wait for more of them, records per key or '' for the newest only
-- Returns {0, ms until it is worth while to ask again or -1, tickets} | {-1, format}
-- A ticket is one string, which is quicker to read than a list: its id, 1 if it was abandoned,
-- attempts, the length of its key and of each record, with blanks between; a line's end; the key and
-- the records.

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

local found = {} -- tickets: id, key, 1 if abandoned

local function note(tickets, suspect)
  for _, ticket in ipairs(tickets) do
    if ticket and ticket[2] then
      found[#found + 1] = {ticket[1], ticket[2][2], suspect}
    end
  end
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
note(claimed[2], 1)

-- Returns how many ms the free tickets still have to wait; nil: there are none.
local function patience()
  local free = redis.call('XLEN', KEYS[3]) - redis.call('XPENDING', KEYS[3], GROUP)[1]
  if free <= 0 then
    return nil
  end
  if free >= most or (ARGV[6] ~= '' and redis.call('ZCARD', KEYS[6]) >= most) then
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
if wait == 0 and #found < most then
  local read = redis.call(
    'XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', most - #found, 'STREAMS', KEYS[3], '>'
  )
  note(read and read[1][2] or {}, 0)
  wait = patience()
end

local names = {}
for i, ticket in ipairs(found) do
  names[i] = ticket[2]
end
local newest = call_many('HMGET', {KEYS[1]}, fields_of(names))
local attempts = call_many('HMGET', {KEYS[5]}, names)

-- Returns the records that come with a ticket: the newest, or all, the oldest first.
local function records_of(key, record)
  if ARGV[6] == '' then
    return {record}
  end
  local prefix = prefix_of(key)
  local members = redis.call(
    'ZRANGEBYLEX', KEYS[6], '[' .. prefix, '[' .. prefix .. '\255', 'LIMIT', 0, ARGV[6]
  )
  for i, member in ipairs(members) do
    members[i] = string.sub(member, #prefix + 17)
  end
  members[1] = members[1] or record
  return members
end

local tickets = {}
for i, ticket in ipairs(found) do
  local key, suspect = ticket[2], ticket[3]
  if newest[i] then
    local records, tried = records_of(key, newest[i]), 0
    local version = version_of(records[1])
    if attempts[i] and string.sub(attempts[i], 1, 16) == version then
      tried = tonumber(string.sub(attempts[i], 18))
    end
    if suspect == 1 then -- whoever held it may have died of it
      tried = tried + 1
      redis.call('HSET', KEYS[5], key, version .. ':' .. tried)
    end
    local head = {ticket[1], suspect, tried, #key}
    for n, record in ipairs(records) do
      head[4 + n] = #record
    end
    tickets[#tickets + 1] = table.concat(head, ' ') .. '\n' .. key .. table.concat(records)
  else
    end_ticket(KEYS, ticket[1])
  end
end

local later = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')[2]
if later then
  wait = math.min(wait or math.huge, math.max(0, tonumber(later) - now))
end
return {0, wait or -1, tickets}
