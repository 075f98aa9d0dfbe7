-- Gives a lock with a fence, a number greater than that of every grant before, whatever its lock.
-- One counter serves all locks of a namespace, so none leaves a key behind. Should it be lost (an
-- empty restart, a failover), it goes on from the server's clock in microseconds, which is ahead
-- of any count of grants.
--
-- KEYS: lock, fence
-- ARGV: nonce, life in ms
-- Returns {1, fence} | {0, ms until the holder's ends}

local held = redis.call('GET', KEYS[1])
if held and nonce_of(held) ~= ARGV[1] then
  if not has_waiters(held) then
    redis.call('APPEND', KEYS[1], 'w')
  end
  return {0, redis.call('PTTL', KEYS[1])}
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = tonumber(redis.call('GET', KEYS[2]) or 0)
local fence = string.format('%.0f', math.max(last + 1, now))
redis.call('SET', KEYS[2], fence)
local waiters = has_waiters(held) and 'w' or ''
redis.call('SET', KEYS[1], 'x' .. string.rep('\0', 8) .. ARGV[1] .. waiters, 'PX', ARGV[2])
return {1, fence}
