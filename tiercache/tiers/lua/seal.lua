-- Finds the tokens that an entry is to be written under, and makes those that are missing.
--
-- A tag's token is 8 random bytes, and the position in the log up to which nothing is known of an
-- invalidation: that of its last one, or that which its maker has looked back to. A value was
-- loaded after a position, `since`. A token from before it vouches for the value. Otherwise the
-- log is asked; where it cannot tell (it is gone, or too much has happened), the value is refused.

local MOST_MESSAGES = 500 -- looked through at the most: keeps a script under a millisecond

local function is_after(one, other)
  local a, b = string.match(one, '(%d+)-(%d+)')
  local c, d = string.match(other, '(%d+)-(%d+)')
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  if a ~= c then
    return a > c
  end
  return b > d
end

-- Returns the tags invalidated after a position as a set, or nil where nobody can tell.
local function invalidated_since(log, since)
  local messages = redis.call('XRANGE', log, since, '+', 'COUNT', MOST_MESSAGES + 2)
  if #messages > MOST_MESSAGES + 1 or not messages[1] or messages[1][1] ~= since then
    return nil
  end
  local tags = {}
  for at = 2, #messages do
    local fields = messages[at][2]
    for i = 1, #fields, 2 do
      if fields[i] == 't' then
        tags[fields[i + 1]] = true
      end
    end
  end
  return tags
end

local function keep_alive(key, life)
  local left = redis.call('PTTL', key)
  if left < 0 then
    return
  end
  if life == '' then
    redis.call('PERSIST', key)
  elseif left < tonumber(life) then
    redis.call('PEXPIRE', key, life)
  end
end

local function make(key, token, life)
  if life == '' then
    redis.call('SET', key, token)
  else
    redis.call('SET', key, token, 'PX', life)
  end
end

-- keys[first...] are the tokens' keys, tags[first_tag...] the tags. Returns the tokens, or nil.
local function tokens_for(log, keys, first, tags, first_tag, since, life, fresh)
  local tokens, invalidated = {}, nil
  for i = first, #keys do
    local token = redis.call('GET', keys[i])
    local looked_back = token and string.sub(token, 9) or ''
    if since ~= '' and (looked_back == '' or is_after(looked_back, since)) then
      invalidated = invalidated or invalidated_since(log, since)
      if not invalidated or invalidated[tags[first_tag + i - first]] then
        return nil
      end
    end
    if token then
      keep_alive(keys[i], life)
    else
      token = fresh .. since
      make(keys[i], token, life)
    end
    tokens[#tokens + 1] = string.sub(token, 1, 8)
  end
  return tokens
end

local function generation_of(key, fresh)
  local generation = redis.call('GET', key)
  if not generation then
    generation = fresh
    redis.call('SET', key, generation)
  end
  return generation
end
