-- Takes out operations that were written, where their tickets are still the worker's; and mends the
-- entries of keys of which nothing newer is pending: see mend.lua.
--
-- KEYS: those of a journal; then, where entries are on this node and are to be mended: the log, and
--       for each ticket the entry and the lease
-- ARGV: worker, 1 if all operations are kept, length of the log; then for each ticket: id, key,
--       version of the last operation written, 1 if the row exists now, bytes of its payload
-- Returns the ids of the tickets that were not the worker's

local held, lost = held_by(KEYS, ARGV[1]), {}
local tickets, names, versions, exist, places = {}, {}, {}, {}, {}
for i = 4, #ARGV, 5 do
  if held[ARGV[i]] then
    local n = #tickets + 1
    tickets[n], names[n], versions[n], exist[n] = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    places[n] = i
  else
    lost[#lost + 1] = ARGV[i]
  end
end
call_many('XACK', {KEYS[3], GROUP}, tickets)
call_many('XDEL', {KEYS[3]}, tickets)
local answers, records = settle(KEYS, names, versions, exist, ARGV[2] == '1')
for n, at in ipairs(#KEYS > 8 and places or {}) do
  if answers[n] == 1 then
    local size, place = tonumber(ARGV[at + 4]), 10 + (at - 4) / 5 * 2
    local payload = size > 0 and records[n] and string.sub(records[n], -size) or ''
    local kind = mend(KEYS[place], KEYS[place + 1], payload)
    if kind then
      tell(KEYS[9], ARGV[3], '', kind, names[n])
    end
  end
end
return lost
