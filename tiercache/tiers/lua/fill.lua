-- Stores a loaded value where the lease of its load still stands: compare-and-set on the nonce.
-- The frame holds the tokens as they were before the load, so what was invalidated since is not
-- valid once it stands there.
--
-- KEYS: entry, lease, log (left out where it is on another node)
-- ARGV: nonce, life in ms or '', frame, kind to announce or '', length of the log, origin, key
-- Returns 0 refused | 1 stored | 2 stored, and the caller is to announce it

local lease = redis.call('GET', KEYS[2])
if nonce_of(lease) ~= ARGV[1] then
  return 0
end
local is_shared = string.sub(lease, 1, 1) == 's'
return put(KEYS, lease, ARGV[3], ARGV[2], not is_shared, ARGV[4], ARGV[5], ARGV[6], ARGV[7])
