-- What the scripts of a journal share. See tiercache/tiers/journal.py.
--
-- Keys, the same for all of them:
--   1 state     hash: format; last, the last version given; graves, how many there are; and k and
--               a dirty key -> its newest record
--   2 dirty     zset: dirty key -> version of its first operation that is not written
--   3 queue     stream of tickets with the consumer group "writers": pending ones are held
--   4 later     zset: key whose ticket is put off -> ms of the server's clock
--   5 attempts  hash: key -> version of the operation that failed, a colon, how often
--   6 backlog   zset, of score 0: where all operations are kept, each of them, in order of keys
--               and versions
--   7 dead      stream of dead letters
--   8 graves    hash: key -> version of its newest dead letter, until something newer is accepted
--
-- A record is its kind (c, u or d), 1 if the row exists without the pending operations, else 0,
-- its version in 16 digits, and a body.

local GROUP = 'writers'

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function make_journal(keys, format)
  redis.call('HSET', keys[1], 'format', format)
  redis.pcall('XGROUP', 'CREATE', keys[3], GROUP, '0', 'MKSTREAM')
end

-- Returns the format of a journal that is not ours, or nil; makes one where there is none.
local function foreign_format(keys, format)
  local found = redis.call('HGET', keys[1], 'format')
  if not found then
    make_journal(keys, format)
  elseif found ~= format then
    return found
  end
end

local function digits(version)
  return string.format('%016.0f', version)
end

local function version_of(record)
  return string.sub(record, 3, 18)
end

-- What a key's members of the backlog begin with.
local function prefix_of(key)
  return #key .. ':' .. key .. ':'
end

local function give_ticket(keys, key)
  redis.call('XADD', keys[3], '*', 'k', key)
end

local function holds(keys, worker, ticket)
  return #redis.call('XPENDING', keys[3], GROUP, ticket, ticket, 1, worker) == 1
end

local function end_ticket(keys, ticket)
  redis.call('XACK', keys[3], GROUP, ticket)
  redis.call('XDEL', keys[3], ticket)
end

local function note_graves(keys)
  redis.call('HSET', keys[1], 'graves', redis.call('HLEN', keys[8]))
end

-- Takes out a key's operations up to a version; whether its row exists now is told. Gives the key
-- another ticket where newer ones are pending, and returns 0 then, else 1.
local function settle(keys, key, version, exists, keeps_all)
  redis.call('HDEL', keys[5], key)
  local prefix = prefix_of(key) -- always: the option may have been another before
  redis.call('ZREMRANGEBYLEX', keys[6], '[' .. prefix, '[' .. prefix .. version .. '\255')
  local record = redis.call('HGET', keys[1], 'k' .. key)
  if not record or version_of(record) <= version then
    redis.call('HDEL', keys[1], 'k' .. key)
    redis.call('ZREM', keys[2], key)
    return 1
  end
  if not keeps_all then
    local kind = string.sub(record, 1, 1)
    if kind ~= 'd' then
      kind = exists == '1' and 'u' or 'c'
    end
    redis.call('HSET', keys[1], 'k' .. key, kind .. exists .. string.sub(record, 3))
  end
  redis.call('ZADD', keys[2], 'XX', tonumber(version) + 1, key)
  give_ticket(keys, key)
  return 0
end
