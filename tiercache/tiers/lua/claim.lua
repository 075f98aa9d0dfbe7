-- Gives the lease of a key, unless a valid entry stands there or another holds it.
-- Compares: the entry's generation and tag tokens with those the caller knows, and the holder's
-- generation with the caller's: a load that a clear has made obsolete holds nobody up.
--
-- KEYS: entry, lease
-- ARGV: nonce, mode (x, s, or r: take it from whoever holds it), life in ms, generation,
--       1 to ignore the entry, head of an entry known to be invalid, then tags and their tokens
-- Returns {0, nonce, 1 if shared} | {1, entry} | {2, ms until the holder's ends}

local nonce, mode, life, generation = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function carries_outdated_tag(frame)
  local count, at = struct.unpack('>I2', frame, 17)
  for _ = 1, count do
    local tag, token
    local length = struct.unpack('>I2', frame, at)
    tag = string.sub(frame, at + 2, at + 1 + length)
    token = string.sub(frame, at + 2 + length, at + 9 + length)
    at = at + 10 + length
    for i = 7, #ARGV, 2 do
      if ARGV[i] == tag and ARGV[i + 1] ~= token then
        return true
      end
    end
  end
  return false
end

local function is_outdated(frame)
  if string.byte(frame, 2) ~= 3 then -- the mark of an entry with tags: see _redis_wire.py
    return false
  end
  local is_sound, outdated = pcall(carries_outdated_tag, frame)
  return not is_sound or outdated
end

if ARGV[5] == '' then
  local head = redis.pcall('GETRANGE', KEYS[1], 0, 15)
  if type(head) == 'string' -- else a value of another type, not ours: a fill replaces it
    and string.sub(head, 9, 16) == generation and head ~= ARGV[6] then
    local frame = redis.call('GET', KEYS[1])
    if not is_outdated(frame) then
      return {1, frame}
    end
  end
end

local lease = redis.call('GET', KEYS[2])
local is_held = lease and #lease >= 17 and string.sub(lease, 2, 9) == generation
if not is_held or mode == 'r' then
  local value = (mode == 's' and 's' or 'x') .. generation .. nonce
  if has_waiters(lease) then
    value = value .. 'w'
  end
  redis.call('SET', KEYS[2], value, 'PX', life)
  return {0, nonce, mode == 's' and 1 or 0}
end
if mode == 's' or string.sub(lease, 1, 1) == 's' then
  if string.sub(lease, 1, 1) == 's' and redis.call('PTTL', KEYS[2]) < tonumber(life) then
    redis.call('PEXPIRE', KEYS[2], life)
  end
  return {0, nonce_of(lease), 1}
end
if not has_waiters(lease) then
  redis.call('APPEND', KEYS[2], 'w')
end
return {2, redis.call('PTTL', KEYS[2])}
