-- Puts tickets off that are still the worker's.
--
-- KEYS: those of a journal
-- ARGV: worker; then for each ticket: id, key, version of its first operation, attempts, ms
-- Returns how many tickets were not the worker's

local held, now, lost = held_by(KEYS, ARGV[1]), math.floor(now_us() / 1000), 0
for i = 2, #ARGV, 5 do
  if held[ARGV[i]] then
    local key = ARGV[i + 1]
    end_ticket(KEYS, ARGV[i])
    redis.call('HSET', KEYS[5], key, ARGV[i + 2] .. ':' .. ARGV[i + 3])
    redis.call('ZADD', KEYS[4], now + tonumber(ARGV[i + 4]), key)
  else
    lost = lost + 1
  end
end
return lost
