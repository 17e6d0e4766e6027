-- unread: shared by the scripts that take entries out of `taken` of an instance, or in there.

-- Above this an entry is not even searched for an id and a chat (spec::MAX_SALVAGE says the same), so no worker needs
-- more of it than its beginning. It may be larger than the memory that a worker has.
local huge = 16777216

-- What an instance left unread goes back to the inbox, at its right end and in its old order. But what may have killed
-- it would come whole to whoever waits there next, and kill that one too: the heir gets it into his own `taken`, from
-- where he reads it by its beginning. At the far end, so that a batch of his own stays what it is.
local function put_back(taken, inbox, heirs)
  while true do
    local entry = redis.call('LPOP', taken)
    if not entry then return end
    if #entry > huge then
      redis.call('LPUSH', heirs, entry)
    else
      redis.call('RPUSH', inbox, entry)
    end
  end
end
