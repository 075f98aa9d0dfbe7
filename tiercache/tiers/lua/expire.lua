-- Has an entry live for at most so long, and ends its lease. Compares the moments at which the entry
-- ends, by the clock that all deadlines go by: one that ends earlier keeps its end.
--
-- KEYS: entry, lease
-- ARGV: life in ms (0: gone), the moment of its end as it stands in a frame (6 bytes)
-- Returns 1 if there was an entry, else 0

redis.call('DEL', KEYS[2])
local head = redis.pcall('GETRANGE', KEYS[1], 0, 7)
local is_ours = type(head) == 'string' and #head == 8
  and string.byte(head, 1) == 124 and (string.byte(head, 2) == 2 or string.byte(head, 2) == 3)
if ARGV[1] == '0' or not is_ours then
  return redis.call('UNLINK', KEYS[1])
end
local ends, limit = struct.unpack('>I6', head, 3), struct.unpack('>I6', ARGV[2])
if ends == 0 or ends > limit then
  redis.call('SETRANGE', KEYS[1], 2, ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return 1
