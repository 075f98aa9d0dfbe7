-- Notes keys as added, each with a number above all before.
--
-- A sorted set holds what was added since the published bits were begun; it begins with the mark
-- of the build that made them. Where it is missing it was lost, and nothing is noted: a set that
-- begins without a mark would say that nothing else had been added. Adding a key again moves it
-- up, so that trimming what came before some mark never takes what came after.
--
-- KEYS: the set
-- ARGV: 1 to create it (a mark is being added) or 0, most members it may have, then members
-- Returns {number of the last, how many members}; {-1, 0} if the set is missing;
-- {-2, 0} if it was full: then it is deleted, and with it goes the belief in the bits

local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
if #last == 0 and ARGV[1] == '0' then
  return {-1, 0}
end
local number = tonumber(last[2] or '0')
for i = 3, #ARGV do
  number = number + 1
  redis.call('ZADD', KEYS[1], string.format('%.0f', number), ARGV[i])
end
local count = redis.call('ZCARD', KEYS[1])
if count > tonumber(ARGV[2]) then
  redis.call('DEL', KEYS[1])
  return {-2, 0}
end
return {number, count}
