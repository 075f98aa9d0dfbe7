-- Removes dead letters for good.
--
-- KEYS: those of a journal
-- ARGV: ids
-- Returns how many there were

local count = 0
for i = 1, #ARGV do
  local found = redis.call('XRANGE', KEYS[7], ARGV[i], ARGV[i])[1]
  if found then
    local key, version = found[2][2], version_of(found[2][4])
    if redis.call('HGET', KEYS[8], key) == version then
      redis.call('HDEL', KEYS[8], key)
      note_graves(KEYS)
    end
    count = count + redis.call('XDEL', KEYS[7], ARGV[i])
  end
end
return count
