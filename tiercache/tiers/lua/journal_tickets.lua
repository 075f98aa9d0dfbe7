-- What the scripts of a journal share beside journal.lua, all but that of put: each run makes its
-- functions anew, which takes longer than most commands.

local function now_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- Returns the format of a journal that is not ours, or nil; makes one where there is none.
local function foreign_format(keys, format)
  local found = redis.call('HGET', keys[1], 'format')
  if not found then
    make_journal(keys, format)
  elseif found ~= format then
    return found
  end
end

local function version_of(record)
  return string.sub(record, 3, 18)
end

-- Returns the tickets that a worker holds, as a set.
local function held_by(keys, worker)
  local held = {}
  for _, ticket in ipairs(redis.call('XPENDING', keys[3], GROUP, '-', '+', 100000, worker)) do
    held[ticket[1]] = true
  end
  return held
end

local function end_ticket(keys, ticket)
  redis.call('XACK', keys[3], GROUP, ticket)
  redis.call('XDEL', keys[3], ticket)
end

-- Calls a command with what is the same for all and then many arguments, some at a time: Lua's stack
-- is not endless. Returns all that the calls return, if they return lists.
local function call_many(command, first, rest)
  local results = {}
  for start = 1, #rest, 1000 do
    local args = {unpack(first)}
    for i = start, math.min(start + 999, #rest) do
      args[#args + 1] = rest[i]
    end
    local result = redis.call(command, unpack(args))
    for i = 1, type(result) == 'table' and math.min(1000, #rest - start + 1) or 0 do
      results[start + i - 1] = result[i]
    end
  end
  return results
end

-- The fields of the state in which the records of keys are.
local function fields_of(names)
  local fields = {}
  for i, key in ipairs(names) do
    fields[i] = 'k' .. key
  end
  return fields
end

local function drop_backlog(keys, key, version)
  local prefix = prefix_of(key)
  redis.call('ZREMRANGEBYLEX', keys[6], '[' .. prefix, '[' .. prefix .. version .. '\255')
end

-- Gives a key another ticket, whose operations up to a version are out and whose record is newer.
-- Whether its row exists now is told.
local function renew(keys, key, record, version, exists, keeps_all)
  if not keeps_all then
    local kind = string.sub(record, 1, 1)
    if kind ~= 'd' then
      kind = exists == '1' and 'u' or 'c'
    end
    redis.call('HSET', keys[1], 'k' .. key, kind .. exists .. string.sub(record, 3))
  end
  redis.call('ZADD', keys[2], 'XX', tonumber(version) + 1, key)
  give_ticket(keys, key)
end

-- Takes out operations up to a version of each of some keys; whether their rows exist now is told.
-- Returns for each 1 if nothing newer is pending, else 0; and the newest records there were.
local function settle(keys, names, versions, exist, keeps_all)
  call_many('HDEL', {keys[5]}, names)
  local records = call_many('HMGET', {keys[1]}, fields_of(names))
  local has_backlog = redis.call('EXISTS', keys[6]) == 1 -- even if only the newest are kept by now
  local over, answers = {}, {}
  for i, key in ipairs(names) do
    if has_backlog then
      drop_backlog(keys, key, versions[i])
    end
    local record = records[i]
    if record and version_of(record) > versions[i] then
      renew(keys, key, record, versions[i], exist[i], keeps_all)
      answers[i] = 0
    else
      over[#over + 1] = key
      answers[i] = 1
    end
  end
  call_many('HDEL', {keys[1]}, fields_of(over))
  call_many('ZREM', {keys[2]}, over)
  return answers, records
end
