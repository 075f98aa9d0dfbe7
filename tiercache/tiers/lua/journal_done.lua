-- Takes out operations that were written, where their tickets are still the worker's.
--
-- KEYS: those of a journal
-- ARGV: worker, 1 if all operations are kept; then for each ticket: id, key, version of the last
--       operation written, 1 if the row exists now
-- Returns how many tickets were not the worker's

local lost = 0
for i = 3, #ARGV, 4 do
  if holds(KEYS, ARGV[1], ARGV[i]) then
    end_ticket(KEYS, ARGV[i])
    settle(KEYS, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[2] == '1')
  else
    lost = lost + 1
  end
end
return lost
