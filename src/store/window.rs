//! The submit window where it is found out: what all workers see of their requests, and the size it has.

use super::*;
use crate::job::window::{Seen, Window};

/// What one worker's telling of what it sees brought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Told {
    /// The window as it is; `None`: nobody has found one yet.
    pub(crate) window: Option<Window>,
    /// What all saw, and how many places are taken, where it is this worker's turn to decide: at most one's a second.
    pub(crate) decide: Option<(Seen, u32)>,
    /// When the latest of all that anybody ever saw running was submitted.
    pub(crate) ran: Option<UnixMs>,
}

impl Session {
    /// Tells what this worker sees. `known`: the window as it was last known here, for a store that forgot.
    pub(crate) fn tell_seen(&self, seen: Seen, known: Option<Window>) -> Result<Told, Fault> {
        let keys = &self.store.keys;
        let known = known.map(|window| [window.size, window.slots, window.calm]);
        let text = |place: usize| known.map_or(String::new(), |known| known[place].to_string());
        let call = Call::new(&self.store.scripts.seen, &[&keys.window, &keys.at_fal("")])
            .arg(&self.store.identity().instance)
            .arg(seen.running)
            .arg(seen.queued)
            .arg(seen.unknown)
            .arg(text(0))
            .arg(text(1))
            .arg(text(2))
            .arg(seen.ran.map_or(String::new(), |ran| ran.0.to_string()));
        type Row = (u8, String, u32, u32, u32, u32, u32, u32, String);
        let (turn, size, slots, calm, running, queued, unknown, at_fal, ran): Row =
            read(self.script(&call)?)?;
        let ran = ran.parse().ok().map(UnixMs);
        let seen = Seen {
            running,
            queued,
            unknown,
            ran,
        };
        let size = size.parse().ok();
        Ok(Told {
            window: size.map(|size| Window { size, slots, calm }),
            decide: (turn == 1).then_some((seen, at_fal)),
            ran,
        })
    }

    /// Writes down the window that was decided on; more room wakes a puller.
    pub(crate) fn resize_window(&self, window: Window) -> Result<(), Fault> {
        let keys = &self.store.keys;
        let call = Call::new(&self.store.scripts.resize, &[&keys.window, &keys.bell])
            .arg(&keys.namespace)
            .arg(window.size)
            .arg(window.slots)
            .arg(window.calm);
        self.script(&call).map(|_| ())
    }
}
