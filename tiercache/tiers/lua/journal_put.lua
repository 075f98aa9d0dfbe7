-- Accepts an operation, and brings the key's entry in line, in one step; see journal.lua and, for
-- entries, store.lua. Compares the journal's format and its depth.
--
-- KEYS: those of a journal; then, where the entry is on this node: entry, lease, log, generation,
--       token of each tag
-- ARGV: format, most, 1 if all operations are kept, 1 for a delete, 1 if a row is known, key,
--       head of the body, payload, the server's time in us as the caller knows it; then: what to do with the entry (s or d), life in ms or '',
--       header, length of the log, origin, fresh token, tags
-- Returns {1, version, position in the log or ''} | {0, depth}: full | {-1, format}

local key = ARGV[6]
local found = redis.call('HMGET', KEYS[1], 'format', 'last', 'graves', 'k' .. key)
if found[1] ~= ARGV[1] then
  if found[1] then
    return {-1, found[1]}
  end
  make_journal(KEYS, ARGV[1])
end

local keeps_all, deletes, old = ARGV[3] == '1', ARGV[4] == '1', found[4]
if keeps_all or not old then
  local depth = redis.call('ZCARD', keeps_all and KEYS[6] or KEYS[2])
  if depth >= tonumber(ARGV[2]) then
    return {0, depth}
  end
end

local exists = ARGV[5] == '1'
if old and keeps_all then
  exists = string.sub(old, 1, 1) ~= 'd'
elseif old then
  exists = string.sub(old, 2, 2) == '1'
elseif #KEYS > 8 and not exists then
  exists = redis.call('EXISTS', KEYS[9]) == 1
end
local version = digits(math.max(tonumber(ARGV[9]), tonumber(found[2] or 0) + 1))
local kind = deletes and 'd' or (exists and 'u' or 'c')
local record = kind .. (exists and '1' or '0') .. version .. ARGV[7] .. ARGV[8]

redis.call('HSET', KEYS[1], 'last', version, 'k' .. key, record)
if keeps_all then
  redis.call('ZADD', KEYS[6], 0, prefix_of(key) .. version .. record)
end
if not old then
  redis.call('ZADD', KEYS[2], version, key)
  give_ticket(KEYS, key)
end
if found[3] and found[3] ~= '0' then
  redis.call('HDEL', KEYS[8], key)
  note_graves(KEYS)
end

if #KEYS == 8 then
  return {1, version, ''}
end
if ARGV[10] == 's' then
  local generation, block, life = generation_of(KEYS[12], ARGV[15]), '', ARGV[11]
  if #KEYS > 12 then
    local tokens = tokens_for(KEYS[11], KEYS, 13, ARGV, 16, '', life, ARGV[15])
    block = struct.pack('>I2', #tokens)
    for i, token in ipairs(tokens) do
      local tag = ARGV[15 + i]
      block = block .. struct.pack('>I2', #tag) .. tag .. token
    end
  end
  local frame = ARGV[12] .. generation .. block .. ARGV[8]
  if life == '' then
    redis.call('SET', KEYS[9], frame)
  else
    redis.call('SET', KEYS[9], frame, 'PX', life)
  end
  redis.call('DEL', KEYS[10])
else
  redis.call('UNLINK', KEYS[9], KEYS[10])
end
local position = redis.call(
  'XADD', KEYS[11], 'MAXLEN', '~', ARGV[13], '*', 'o', ARGV[14], ARGV[10], key
)
return {1, version, position}
