-- Accepts an operation, and brings the key's entry in line, in one step; see journal.lua and, for
-- the tags of entries, seal.lua. Compares the journal's format and its depth.
--
-- KEYS: those of a journal; then, where the entry is on this node: log, generation, entry, lease,
--       token of each tag
-- ARGV: format, 1 if all operations are kept, length of the log, origin; then: most, what to do and
--       whether a row is known (s: put, and store the entry; x: put, and remove the entry; d:
--       delete; 0 or 1), key, head of the body, payload, the server's time in us as the caller
--       knows it, in 16 digits, life in ms or '', header, fresh token, tags
-- Returns {1, version, position in the log or ''} | {0, depth}: full | {-1, format}

local key, payload = ARGV[7], ARGV[9]
local found = redis.call('HMGET', KEYS[1], 'format', 'last', 'graves', 'k' .. key)
if found[1] ~= ARGV[1] then
  if found[1] then
    return {-1, found[1]}
  end
  make_journal(KEYS, ARGV[1])
end

local keeps_all, old = ARGV[2] == '1', found[4]
if keeps_all or not old then
  local depth = redis.call('ZCARD', keeps_all and KEYS[6] or KEYS[2])
  if depth >= tonumber(ARGV[5]) then
    return {0, depth}
  end
end

local how = string.sub(ARGV[6], 1, 1)
local exists = string.sub(ARGV[6], 2) == '1'
if old and keeps_all then
  exists = string.sub(old, 1, 1) ~= 'd'
elseif old then
  exists = string.sub(old, 2, 2) == '1'
elseif #KEYS > 8 and not exists then
  exists = redis.call('EXISTS', KEYS[11]) == 1
end
local version = ARGV[10]
if found[2] and found[2] >= version then
  version = digits(tonumber(found[2]) + 1)
end
local kind = how == 'd' and 'd' or exists and 'u' or 'c'
local record = kind .. (exists and '1' or '0') .. version .. ARGV[8] .. payload

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
if how == 's' then
  local standing, life, block = redis.call('MGET', KEYS[10], KEYS[12]), ARGV[11], ''
  local generation = standing[1]
  if not generation then
    generation = ARGV[13]
    redis.call('SET', KEYS[10], generation)
  end
  if #KEYS > 12 then
    local tokens = tokens_for(KEYS[9], KEYS, 13, ARGV, 14, '', life, ARGV[13])
    block = struct.pack('>I2', #tokens)
    for i, token in ipairs(tokens) do
      local tag = ARGV[13 + i]
      block = block .. struct.pack('>I2', #tag) .. tag .. token
    end
  end
  local frame = ARGV[12] .. generation .. block .. payload
  if life == '' then
    redis.call('SET', KEYS[11], frame)
  else
    redis.call('SET', KEYS[11], frame, 'PX', life)
  end
  if standing[2] then
    redis.call('DEL', KEYS[12])
  end
else
  redis.call('UNLINK', KEYS[11], KEYS[12])
end
local position = redis.call(
  'XADD', KEYS[9], 'MAXLEN', '~', ARGV[3], '*', 'o', ARGV[4], how == 's' and 's' or 'd', key
)
return {1, version, position}
