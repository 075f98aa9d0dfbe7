-- Has dead letters written after all, where nothing newer of their key was accepted since.
--
-- KEYS: those of a journal
-- ARGV: format, 1 if all operations are kept, ids
-- Returns {0, ids of those that will be} | {-1, format}

local format = foreign_format(KEYS, ARGV[1])
if format then
  return {-1, format}
end
local revived = {}
for i = 3, #ARGV do
  local found = redis.call('XRANGE', KEYS[7], ARGV[i], ARGV[i])[1]
  local key, record = found and found[2][2], found and found[2][4]
  if found and redis.call('HGET', KEYS[8], key) == version_of(record) then
    redis.call('XDEL', KEYS[7], ARGV[i])
    redis.call('HDEL', KEYS[8], key)
    note_graves(KEYS)
    local last = tonumber(redis.call('HGET', KEYS[1], 'last') or 0)
    local since = digits(math.max(now_us(), last + 1)) -- so that a flush from now on waits for it
    redis.call('HSET', KEYS[1], 'last', since)
    redis.call('HSET', KEYS[1], 'k' .. key, record)
    redis.call('ZADD', KEYS[2], since, key)
    if ARGV[2] == '1' then
      redis.call('ZADD', KEYS[6], 0, prefix_of(key) .. version_of(record) .. record)
    end
    give_ticket(KEYS, key)
    revived[#revived + 1] = ARGV[i]
  end
end
return {0, revived}
