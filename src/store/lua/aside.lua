-- aside: shared by the scripts that each job calls. What stands between this piece and `aside_end` is made only
-- when it is asked for (limits, lines, what came late): each call of a script makes all its local functions anew,
-- and thirty of them cost it 3 us. Gives them by name.
local function aside()
