-- Mends one entry where the journal is on another node; see mend.lua.
--
-- KEYS: entry, lease
-- ARGV: payload of the write
-- Returns the kind of the message that the caller is to tell, or ''

return mend(KEYS[1], KEYS[2], ARGV[1]) or ''
