-- Accepts an operation, and brings the key's entry in line, in one step; see journal.lua and, for
-- entries, store.lua. Compares the journal's format and its depth.
--
-- KEYS: those of a journal; then, where the entry is on this node: entry, lease, log, generation,
--       token of each tag
-- ARGV: format, most, 1 if all operations are kept, 1 for a delete, 1 if a row is known, key,
--       head of the body, payload; then: what to do with the entry (s or d), life in ms or '',
--       header, length of the log, origin, fresh token, tags
-- Returns {1, version, position in the log or ''} | {0, depth}: full | {-1, format}

local found = redis.call('HMGET', KEYS[1], 'format', 'last')
if found[1] ~= ARGV[1] then
  if found[1] then
    return {-1, found[1]}
  end
  make_journal(KEYS, ARGV[1])
end

local keeps_all, deletes, key = ARGV[3] == '1', ARGV[4] == '1', ARGV[6]
local old = redis.call('HGET', KEYS[2], key)
local depth = 0
if keeps_all or not old then
  depth = redis.call('ZCARD', keeps_all and KEYS[7] or KEYS[3])
  if depth >= tonumber(ARGV[2]) then
    return {0, depth}
  end
end

local exists = ARGV[5] == '1'
if old and keeps_all then
  exists = string.sub(old, 1, 1) ~= 'd'
elseif old then
  exists = string.sub(old, 2, 2) == '1'
elseif #KEYS > 9 and not exists then
  exists = redis.call('EXISTS', KEYS[10]) == 1
end
local version = digits(math.max(now_us(), tonumber(found[2] or 0) + 1))
local kind = deletes and 'd' or (exists and 'u' or 'c')
local record = kind .. (exists and '1' or '0') .. version .. ARGV[7] .. ARGV[8]

redis.call('HSET', KEYS[1], 'last', version)
redis.call('HSET', KEYS[2], key, record)
if keeps_all then
  redis.call('ZADD', KEYS[7], 0, prefix_of(key) .. version .. record)
end
if not old then
  redis.call('ZADD', KEYS[3], version, key)
  give_ticket(KEYS, key)
end
if redis.call('EXISTS', KEYS[9]) == 1 then
  redis.call('HDEL', KEYS[9], key)
end

if #KEYS == 9 then
  return {1, version, ''}
end
if ARGV[9] == 's' then
  local generation, block, life = generation_of(KEYS[13], ARGV[14]), '', ARGV[10]
  if #KEYS > 13 then
    local tokens = tokens_for(KEYS[12], KEYS, 14, ARGV, 15, '', life, ARGV[14])
    block = struct.pack('>I2', #tokens)
    for i, token in ipairs(tokens) do
      local tag = ARGV[14 + i]
      block = block .. struct.pack('>I2', #tag) .. tag .. token
    end
  end
  local frame = ARGV[11] .. generation .. block .. ARGV[8]
  if life == '' then
    redis.call('SET', KEYS[10], frame)
  else
    redis.call('SET', KEYS[10], frame, 'PX', life)
  end
  redis.call('DEL', KEYS[11])
else
  redis.call('UNLINK', KEYS[10], KEYS[11])
end
local position = redis.call(
  'XADD', KEYS[12], 'MAXLEN', '~', ARGV[12], '*', 'o', ARGV[13], ARGV[9], key
)
return {1, version, position}
