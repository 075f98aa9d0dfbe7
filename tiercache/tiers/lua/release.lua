-- Ends a lease, or a lock, that is still its holder's: compares the nonce.
--
-- KEYS: lease, log (left out where it is on another node)
-- ARGV: nonce, kind to tell those who wait, length of the log, origin, name
-- Returns 0 not held | 1 ended | 2 ended, and the caller is to announce it

local lease = redis.call('GET', KEYS[1])
if nonce_of(lease) ~= ARGV[1] or string.sub(lease, 1, 1) == 's' then
  return 0
end
redis.call('DEL', KEYS[1])
if not has_waiters(lease) then
  return 1
end
tell(KEYS[2], ARGV[3], ARGV[4], ARGV[2], ARGV[5])
return KEYS[2] and 1 or 2
