-- Removes dead letters for good.
--
-- KEYS: those of a journal
-- ARGV: ids
-- Returns how many there were

local count = 0
for i = 1, #ARGV do
  local found = redis.call('XRANGE', KEYS[8], ARGV[i], ARGV[i])[1]
  if found then
    local key, version = found[2][2], version_of(found[2][4])
    if redis.call('HGET', KEYS[9], key) == version then
      redis.call('HDEL', KEYS[9], key)
    end
    count = count + redis.call('XDEL', KEYS[8], ARGV[i])
  end
end
return count
