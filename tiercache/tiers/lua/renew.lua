-- Prolongs a lease, or a lock, that is still its holder's: compares the nonce.
--
-- KEYS: lease
-- ARGV: nonce, life in ms
-- Returns 0 not held | 1 prolonged

if nonce_of(redis.call('GET', KEYS[1])) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
