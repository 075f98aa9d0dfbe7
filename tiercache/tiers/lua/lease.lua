-- What the scripts share. A lease, or a lock, is a string: its mode (x exclusive, s shared), the
-- generation of the namespace it was claimed under (8 bytes), the nonce of its holder (8 bytes),
-- and a w once somebody was told to wait for it.

local function nonce_of(lease)
  return lease and string.sub(lease, 10, 17)
end

local function has_waiters(lease)
  return lease and #lease > 17
end

-- Appends a message; where the log is on another node there is no key, and the caller does it.
local function tell(log, length, origin, kind, name)
  if log then
    redis.call('XADD', log, 'MAXLEN', '~', length, '*', 'o', origin, kind, name)
  end
end

-- Stores a frame and ends the lease, unless it is shared. Returns 1, or 2 where somebody is still
-- to be told by the caller.
local function put(keys, lease, frame, life, ends_lease, announce, length, origin, name)
  if life == '' then
    redis.call('SET', keys[1], frame)
  else
    redis.call('SET', keys[1], frame, 'PX', life)
  end
  if lease and ends_lease then
    redis.call('DEL', keys[2])
  end
  local kind = announce
  if kind == '' and has_waiters(lease) then
    kind = 'l'
  end
  if kind == '' then
    return 1
  end
  tell(keys[3], length, origin, kind, name)
  return keys[3] and 1 or 2
end
