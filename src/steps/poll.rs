//! Poll: a look at a request: at its status, or straight at its result where that may be there, so that a
//! user waits one exchange less. A look pays nothing and sends nothing, so it goes on while Redis is away.

use super::{Presence, Worker, collect};
use crate::fal::{Early, Handle};
use crate::job::answer::{Collected, Output, Polled};
use crate::job::flight::Flight;
use crate::job::state::{self, Next};
use crate::job::words::Shown;
use crate::report;
use std::sync::atomic::Ordering;

/// Asks fal how far the request is.
pub(super) fn poll(worker: &Worker, flight: &mut Flight) -> Next {
    report::polled();
    flight.untouched = false;
    if flight.submitted_at.is_none() {
        // Adopted from another owner: its clock starts at the latest possible moment.
        flight.submitted_at = Some(worker.tools.store.now());
    }
    let answer = match look(worker, flight) {
        Look::Result(output) => return found_early(worker, flight, output),
        Look::Status(answer) => answer,
    };
    worker.fal_heard(match &answer {
        Polled::Failed(failure) => Presence::of(failure),
        Polled::InQueue { .. }
        | Polled::InProgress
        | Polled::Completed
        | Polled::Broke { .. }
        | Polled::Missing => Presence::Answer,
    });
    let shown = match &answer {
        _ if flight.cancelling.is_some() => None,
        Polled::InQueue { position } => position.map(|ahead| Shown::Queued {
            place: ahead.saturating_add(1),
        }),
        Polled::InProgress => Some(Shown::Started),
        Polled::Completed | Polled::Broke { .. } | Polled::Missing | Polled::Failed(_) => None,
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

/// What a look showed.
enum Look {
    Status(Polled),
    Result(Output),
}

/// Looks. Of a result asked for early only a good one is believed, and that there is none yet of one that
/// was seen running; whatever else fal says to it, the status tells what it means.
fn look(worker: &Worker, flight: &Flight) -> Look {
    let (Some(model), Some(request)) = (&flight.model, &flight.request) else {
        return Look::Status(Polled::Missing);
    };
    let path = flight.path.as_deref();
    let handle = Handle { request, path };
    let now = worker.tools.store.now();
    let since = flight.submitted_at.unwrap_or(now);
    if flight.cancelling.is_none()
        && !flight.cancel_asked
        && flight.step_tries == 0
        && flight.watch.may_have_ended(since, now)
    {
        match worker.tools.fal.early_result(model, handle) {
            Early::Said(Collected::Output(output)) => return Look::Result(output),
            Early::Said(Collected::NotYet) if flight.watch.runs() => {
                return Look::Status(Polled::InProgress);
            }
            // The status would meet the same silence, and hold this thread once more.
            Early::Said(Collected::Failed(failure)) if !failure.spoke => {
                return Look::Status(Polled::Failed(failure));
            }
            // The result began and did not arrive in time: the collect step allows six times as long.
            Early::Begun => return Look::Status(Polled::Completed),
            Early::Said(Collected::NotYet | Collected::Missing | Collected::Failed(_)) => {}
        }
    }
    Look::Status(worker.tools.fal.status(model, handle))
}

/// As a look at the status that found it completed, and then its result.
fn found_early(worker: &Worker, flight: &mut Flight, output: Output) -> Next {
    worker.guide(flight);
    state::after_poll(
        flight,
        Polled::Completed,
        worker.tools.in_flight.load(Ordering::Relaxed) as usize,
        &worker.tools.policy,
        worker.moment(),
    );
    worker.learn(flight);
    collect::after_result(worker, flight, Collected::Output(output))
}
