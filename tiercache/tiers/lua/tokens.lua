-- Returns the generation of the namespace and the tokens of tags; see seal.lua. For a cluster,
-- where entries are on other nodes.
--
-- KEYS: log, generation, token of each tag
-- ARGV: since or '', life in ms or '', fresh token, tags
-- Returns {generation, tokens...} | 0 refused

local tokens = tokens_for(KEYS[1], KEYS, 3, ARGV, 4, ARGV[1], ARGV[2], ARGV[3])
if not tokens then
  return 0
end
table.insert(tokens, 1, generation_of(KEYS[2], ARGV[3]))
return tokens
