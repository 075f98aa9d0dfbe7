-- Has nothing but a write's own entry stand under its key, once its row is in the database.
--
-- A process that does not know of pending writes may have brought the older row into the store, or
-- be about to: its load began before the write. So the lease ends in any case, and whatever is not
-- the write's own payload goes. Everybody is told, the caller's process too: it may have read it.

-- Returns where the payload of a frame begins: see _redis_wire.py.
local function payload_begin(frame)
  if string.byte(frame, 2) ~= 3 then
    return 17
  end
  local count, at = struct.unpack('>I2', frame, 17)
  for _ = 1, count do
    at = at + 10 + struct.unpack('>I2', frame, at)
  end
  return at
end

local function is_own(frame, payload)
  if type(frame) ~= 'string' or payload == '' then
    return false
  end
  local is_sound, at = pcall(payload_begin, frame)
  return is_sound and string.sub(frame, at) == payload
end

-- Removes the lease of a key, and its entry unless that is the write's own. Returns the kind of the
-- message that is to tell of it, or nil.
local function mend(entry, lease, payload)
  local had_waiters = has_waiters(redis.call('GET', lease))
  redis.call('DEL', lease)
  if not is_own(redis.pcall('GET', entry), payload) then
    redis.call('UNLINK', entry)
    return 'd'
  end
  return had_waiters and 'l' or nil
end
