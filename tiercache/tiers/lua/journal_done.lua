-- Takes out operations that were written, where their tickets are still the worker's.
--
-- KEYS: those of a journal
-- ARGV: worker, 1 if all operations are kept; then for each ticket: id, key, version of the last
--       operation written, 1 if the row exists now
-- Returns how many tickets were not the worker's

local held, lost = held_by(KEYS, ARGV[1]), 0
local tickets, names, versions, exist = {}, {}, {}, {}
for i = 3, #ARGV, 4 do
  if held[ARGV[i]] then
    local n = #tickets + 1
    tickets[n], names[n], versions[n], exist[n] = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  else
    lost = lost + 1
  end
end
call_many('XACK', {KEYS[3], GROUP}, tickets)
call_many('XDEL', {KEYS[3]}, tickets)
settle(KEYS, names, versions, exist, ARGV[2] == '1')
return lost
