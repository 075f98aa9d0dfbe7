-- Notes keys as added, each with a number above all before.
--
-- A sorted set holds what was added since the published bits were begun; it begins with the mark
-- of the build that made them. Where it is missing it was lost, and nothing is noted: a set that
-- begins without a mark would say that nothing else had been added. Adding a key again moves it
-- up, so that trimming what came before some mark never takes what came after.
--
-- Compares: the publication that the caller knows with the one there is, and its mark with the
-- last that was set. Only where both are the same, the keys that the caller has found in it need
-- not be noted: another publication may lack them, and so may one that is being made.
--
-- KEYS: the set, what is published, number of the last mark
-- ARGV: 1 to set a mark or 0, most members there may be, publication that the caller knows,
--       how many of the members are new to it, then members
-- Returns {number of the last, how many members, 1 if the caller knows what is published};
-- {-1, 0, 0} if the set is missing;
-- {-2, 0, 0} if it was full: then it is deleted, and with it goes the belief in the bits

local is_mark = ARGV[1] == '1'
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
if #last == 0 and not is_mark then
  return {-1, 0, 0}
end

local published = redis.call('HMGET', KEYS[2], 'name', 'number')
local is_current = published[1] == ARGV[3] and published[2] == redis.call('GET', KEYS[3])
local until_member = is_current and 4 + tonumber(ARGV[4]) or #ARGV

local number = tonumber(last[2] or '0')
for i = 5, until_member do
  number = number + 1
  redis.call('ZADD', KEYS[1], string.format('%.0f', number), ARGV[i])
end
if is_mark then
  redis.call('SET', KEYS[3], string.format('%.0f', number))
end
local count = redis.call('ZCARD', KEYS[1])
if count > tonumber(ARGV[2]) then
  redis.call('DEL', KEYS[1])
  return {-2, 0, 0}
end
return {number, count, is_current and 1 or 0}
