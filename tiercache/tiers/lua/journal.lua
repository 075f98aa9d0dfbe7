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

local function make_journal(keys, format)
  redis.call('HSET', keys[1], 'format', format)
  redis.pcall('XGROUP', 'CREATE', keys[3], GROUP, '0', 'MKSTREAM')
end

local function digits(version)
  return string.format('%016.0f', version)
end

-- What a key's members of the backlog begin with.
local function prefix_of(key)
  return #key .. ':' .. key .. ':'
end

local function give_ticket(keys, key)
  redis.call('XADD', keys[3], '*', 'k', key)
end

local function note_graves(keys)
  redis.call('HSET', keys[1], 'graves', redis.call('HLEN', keys[8]))
end
