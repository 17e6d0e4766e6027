//! The submit window where it is found out (`--fal-concurrency auto`): each worker tells what it sees, and once a
//! second one of them decides.

use super::Worker;
use crate::job::UnixMs;
use crate::job::flight::Flight;
use crate::job::state::Next;
use crate::job::window::{Heard, Seen, Window};
use crate::report;
use crate::store::{Fault, Session};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Until a request is seen running it is looked at this often at least: the window grows and shrinks by what
/// is known, and the first look that a pace would choose comes when most are over.
const SOON: Duration = Duration::from_millis(750);

impl Worker {
    /// The next look at a request, no later than the window needs it.
    pub(super) fn look_soon(&self, flight: &Flight, next: Next) -> Next {
        let Next::In(wait) = next else { return next };
        if !self.tools.finds_window.load(Ordering::Relaxed) || flight.watch.heard() == Heard::Runs {
            return next;
        }
        // Not in step: of those that were submitted together each has a moment of its own.
        let soon = SOON.mul_f64(0.7 + 0.6 * self.moment().random);
        Next::In(wait.min(soon.max(self.tools.policy.poll.min)))
    }
}

/// What a worker remembers of the window.
#[derive(Clone, Copy, Default)]
pub(crate) struct Known {
    /// As it was last, for a store that forgot.
    window: Option<Window>,
    /// When the latest of all that anybody saw running was submitted.
    ran: Option<UnixMs>,
}

/// Tells what this worker sees, and decides where it is its turn. Gives what is known now.
pub(crate) fn find(
    session: &Session,
    at_fal: &[(UnixMs, Heard)],
    known: Known,
) -> Result<Known, Fault> {
    let seen = Seen::of(at_fal.iter().copied(), known.ran);
    let told = session.tell_seen(seen, known.window)?;
    let Some((seen, places)) = told.decide else {
        return Ok(Known {
            window: told.window,
            ran: told.ran,
        });
    };
    let before = told.window.unwrap_or_default();
    let after = before.after(seen, places);
    if told.window != Some(after) {
        session.resize_window(after)?;
    }
    if before.size != after.size {
        report::debug(
            "submit window",
            &[
                ("before", &before.size),
                ("size", &after.size),
                ("running", &seen.running),
                ("queued", &seen.queued),
                ("unknown", &seen.unknown),
                ("at_fal", &places),
            ],
        );
    }
    Ok(Known {
        window: Some(after),
        ran: told.ran,
    })
}
