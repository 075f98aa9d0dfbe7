-- Stores a value under the tokens of its tags, found in the same step; see seal.lua. With a nonce
-- it is a fill, refused where the lease is gone; without, it is a write, which ends the lease.
--
-- KEYS: entry, lease, log, generation, token of each tag
-- ARGV: nonce or '', generation as it was before the load or '', since or '', life in ms or '',
--       header, payload, kind to announce or '', length of the log, origin, key, fresh token, tags
-- Returns 0 refused | 1 stored

local nonce, generation, life = ARGV[1], ARGV[2], ARGV[4]
local lease = redis.call('GET', KEYS[2])
if nonce ~= '' and nonce_of(lease) ~= nonce then
  return 0
end
local ends_lease = nonce == '' or string.sub(lease, 1, 1) ~= 's'
if generation == '' then
  generation = generation_of(KEYS[4], ARGV[11])
end

local block = ''
if #KEYS > 4 then
  local tokens = tokens_for(KEYS[3], KEYS, 5, ARGV, 12, ARGV[3], life, ARGV[11])
  if not tokens then
    if ends_lease then
      redis.call('DEL', KEYS[2])
    end
    if has_waiters(lease) then
      tell(KEYS[3], ARGV[8], ARGV[9], 'l', ARGV[10])
    end
    return 0
  end
  block = struct.pack('>I2', #tokens)
  for i, token in ipairs(tokens) do
    local tag = ARGV[11 + i]
    block = block .. struct.pack('>I2', #tag) .. tag .. token
  end
end

local frame = ARGV[5] .. generation .. block .. ARGV[6]
return put(KEYS, lease, frame, life, ends_lease, ARGV[7], ARGV[8], ARGV[9], ARGV[10])
