-- Moves the first operation of tickets that are still the worker's to the dead letters.
--
-- KEYS: those of a journal
-- ARGV: worker, 1 if all operations are kept, most dead letters; then for each: ticket, key,
--       record, attempts, error
-- Returns for each 1: nothing else is pending for its key | 0: something is | -1: not moved

local answers, keeps_all, held = {}, ARGV[2] == '1', held_by(KEYS, ARGV[1])
for i = 4, #ARGV, 5 do
  local key, record, answer = ARGV[i + 1], ARGV[i + 2], -1
  if redis.call('XLEN', KEYS[7]) < tonumber(ARGV[3]) and held[ARGV[i]] then
    local version = version_of(record)
    local newest = redis.call('HGET', KEYS[1], 'k' .. key)
    if keeps_all or not newest or version_of(newest) == version then -- else: merged into it
      redis.call('XADD', KEYS[7], '*', 'k', key, 'r', record, 'n', ARGV[i + 3], 'e', ARGV[i + 4])
    end
    end_ticket(KEYS, ARGV[i])
    answer = settle(KEYS, {key}, {version}, {string.sub(record, 2, 2)}, keeps_all)[1]
    if answer == 1 then
      redis.call('HSET', KEYS[8], key, version)
      note_graves(KEYS)
    end
  end
  answers[#answers + 1] = answer
end
return answers
