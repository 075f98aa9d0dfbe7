-- Invalidates tags: each gets another token, so that no entry that carries it is valid any more,
-- and the log says so. A tag nobody has used yet gets one, too, for loads that are under way.
--
-- KEYS: log, token of each tag
-- ARGV: length of the log, origin, fresh token, life of a new token in ms, tags
-- Returns the position of the message

local message = {'XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'o', ARGV[2]}
for i = 5, #ARGV do
  message[#message + 1] = 't'
  message[#message + 1] = ARGV[i]
end
local position = redis.call(unpack(message))
local token = ARGV[3] .. position
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('SET', KEYS[i], token, 'KEEPTTL')
  else
    redis.call('SET', KEYS[i], token, 'PX', ARGV[4])
  end
end
return position
