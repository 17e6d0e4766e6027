//! Poll: a look at the status of a request. It pays nothing, sends nothing and writes nothing, so it
//! goes on while Redis is away.

use super::{Heard, Worker};
use crate::fal::Handle;
use crate::job::answer::Polled;
use crate::job::flight::Flight;
use crate::job::state::{self, Next};
use crate::job::words::Shown;
use std::sync::atomic::Ordering;

/// Asks fal how far the request is.
pub(super) fn poll(worker: &Worker, flight: &mut Flight) -> Next {
    flight.untouched = false;
    if flight.submitted_at.is_none() {
        // Adopted from another owner: its clock starts at the latest possible moment.
        flight.submitted_at = Some(worker.tools.store.now());
    }
    let answer = match (&flight.model, &flight.request) {
        (Some(model), Some(request)) => worker.tools.fal.status(
            model,
            Handle {
                request,
                path: flight.path.as_deref(),
            },
        ),
        _ => Polled::Missing,
    };
    worker.fal_heard(match &answer {
        Polled::Failed(failure) => Heard::of(failure),
        Polled::InQueue { .. } | Polled::InProgress | Polled::Completed | Polled::Missing => {
            Heard::Answer
        }
    });
    let shown = match &answer {
        _ if flight.cancelling.is_some() => None,
        Polled::InQueue { position } => position.map(|ahead| Shown::Queued {
            place: ahead.saturating_add(1),
        }),
        Polled::InProgress => Some(Shown::Started),
        Polled::Completed | Polled::Missing | Polled::Failed(_) => None,
    };
    if let Some(shown) = shown {
        worker.tools.signs.show(flight, shown);
    }
    worker.guide(flight);
    let in_flight = worker.tools.in_flight.load(Ordering::Relaxed) as usize;
    let waits = matches!(answer, Polled::InQueue { .. } | Polled::InProgress);
    let mut change = state::after_poll(
        flight,
        answer,
        in_flight,
        &worker.tools.policy,
        worker.moment(),
    );
    worker.learn(flight);
    if waits && flight.cancelling.is_none() {
        change.next = worker.look_soon(flight, change.next);
    }
    worker.record(flight, change)
}
