-- events: shared by the scripts that add events after other writes.

-- Refuses, before anything is written, what has events to add while another type lies under their key.
-- By a range that is empty, for which every rule of README's so far has granted the command.
local function look_at_events(events) redis.call('XRANGE', events, '+', '-', 'COUNT', 1) end
