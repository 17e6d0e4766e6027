//! How many jobs wait to be started: for the line that the service manager shows.

use super::*;

/// Users whose lines one look counts: some microseconds of Redis's time each.
const USERS: u64 = 500;

/// What waits at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depth {
    /// Entries that nobody has read yet.
    pub(crate) inbox: u64,
    /// Ready, or behind a turn or a limit.
    pub(crate) ready: u64,
    /// Wait for a time.
    pub(crate) later: u64,
    /// Lines of users were left out, there are too many.
    pub(crate) at_least: bool,
}

impl Session {
    /// Counts what waits, in one trip that writes nothing.
    pub(crate) fn depth(&self) -> Result<Depth, Fault> {
        let keys = &self.store.keys;
        let names = [keys.inbox.as_str(), &keys.ready[0], &keys.later];
        let call = Call::new(&self.store.scripts.depth, &names)
            .arg(&keys.namespace)
            .arg(USERS);
        let (inbox, ready, later, all): (u64, u64, u64, u8) = read(self.script(&call)?)?;
        Ok(Depth {
            inbox,
            ready,
            later,
            at_least: all == 0,
        })
    }
}
