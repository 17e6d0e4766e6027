//! Submit: the one step that costs money. The claim recorded the intent before the request leaves, so
//! the next owner knows that a payment may have happened. Its counterpart, the cancel, is here too.

use super::gate::{Admission, Service};
use super::{Presence, Worker, inputs, rotation};
use crate::fal::{Handle, Order, Probe};
use crate::job::answer::{Cancelled, Directed, Submitted};
use crate::job::failure::{Failure, Kind, Remedy};
use crate::job::flight::{Doubt, Flight};
use crate::job::inputs::look_at_age;
use crate::job::spec::Via;
use crate::job::state::{self, Change, Next};
use crate::job::{Charged, Phase};
use std::time::{Duration, Instant};

/// A start deadline below this is not worth a request.
const LEAST_DEADLINE: Duration = Duration::from_secs(2);
/// Longest wait for a direct call.
const DIRECT: Duration = Duration::from_secs(120);
/// Pulling stops this long when the fal account or its key is the trouble; the first submit after it is
/// the probe.
const ACCOUNT_PAUSE: Duration = Duration::from_secs(30);

/// Submits, or makes the direct call.
pub(super) fn submit(worker: &Worker, flight: &mut Flight) -> Next {
    if let Some(change) = state::before_submit(flight, worker.moment()) {
        return worker.record(flight, change);
    }
    let has_files = (flight.order.as_ref()).is_some_and(|order| !order.files.is_empty());
    if let Some(change) = undeliverable(worker, flight, has_files) {
        return worker.record(flight, change);
    }
    if has_files {
        look_at_age(flight, worker.tools.store.now());
    }
    if flight.brings_files() {
        worker.leave(); // which may be the one probe: this asks nothing of fal's queue
        return inputs::bring(worker, flight);
    }
    if flight.via == Via::Direct && !worker.moves_bytes {
        return stand_in_line(worker, flight);
    }
    let direct = match flight.via {
        Via::Queue => None,
        Via::Direct => match worker
            .tools
            .gate
            .enter(Service::Direct, false, Instant::now())
        {
            Admission::Go(inside) | Admission::Probe(inside) => Some(inside),
            Admission::Wait(wait) => {
                let change = state::direct_must_wait(flight, wait, worker.moment());
                return worker.record(flight, change);
            }
        },
    };
    if let Err(next) = worker.may_act(flight) {
        return next;
    }
    let in_line = (flight.order.as_ref()).is_some_and(|order| order.in_line);
    let before = match flight.doubt {
        Doubt::Submit => Some(state::before_resubmit(flight)),
        _ if in_line => Some(state::leave_line()),
        _ => None,
    };
    if let Some(change) = before {
        if let Err(next) = record_before(worker, flight, change) {
            return next;
        }
        if let Some(order) = &mut flight.order {
            order.in_line = false;
        }
        // That write took its time, with a slow Redis many seconds.
        if let Err(next) = worker.may_act(flight) {
            return next;
        }
    }
    if let Err(next) = worker.about_to_act(flight) {
        return next;
    }
    flight.untouched = false;
    let (Some(model), Some(order)) = (flight.model.clone(), &flight.order) else {
        return Next::Over; // before_submit has ended what has no input or no model
    };
    let now = worker.tools.store.now();
    let left = flight
        .expires_at
        .map_or(worker.tools.policy.queue_timeout, |at| now.until(at));
    let filled = has_files.then(|| order.files.fill(order.input.get(), &order.brought.all()));
    let order = Order {
        model: &model,
        input: filled.as_deref().unwrap_or(order.input.get()),
        start_deadline: start_deadline(
            flight.via,
            left.min(worker.tools.policy.queue_timeout),
            direct_limit(worker, flight),
        ),
        switches: &order.switches,
    };
    if let Some(inside) = direct {
        let answer = call_directly(worker, flight, &order);
        worker.direct_heard(&answer, inside.probe());
        drop(inside);
        flight.submitted_at = Some(now);
        return super::collect::after_direct(worker, flight, answer);
    }
    let answer = enqueue_at_fal(worker, flight, &order);
    worker.submit_heard(match &answer {
        Submitted::Refused(failure) | Submitted::Unknown(failure) => Presence::of(failure),
        Submitted::Accepted(_) => Presence::Answer,
    });
    if let Submitted::Refused(failure) = &answer
        && failure.unfetched
    {
        inputs::forget(worker, flight);
    }
    let accepted = matches!(answer, Submitted::Accepted(_));
    if accepted {
        worker.watch(flight);
    }
    let unanswered = match &answer {
        Submitted::Unknown(failure) if !failure.spoke => Some(failure.text.clone()),
        _ => None,
    };
    worker.heed_cancel(flight);
    let mut change = state::after_submit(flight, answer, &worker.tools.policy, worker.moment());
    if accepted {
        change.next = worker.look_soon(flight, change.next);
    }
    let next = worker.record(flight, change);
    if let Some(why) = unanswered {
        worker.look_whether_away(Service::Fal, &why);
    }
    next
}

/// Hands a job to the transfer threads, and has the record say that it stands in line for one.
pub(super) fn stand_in_line(worker: &Worker, flight: &mut Flight) -> Next {
    if flight.order.as_ref().is_some_and(|order| !order.in_line) {
        let change = state::stand_in_line(flight);
        if let Err(next) = record_before(worker, flight, change) {
            return next;
        }
    }
    Next::Transfer
}

/// A write that must stand before the step goes on; else what comes in its place.
pub(super) fn record_before(
    worker: &Worker,
    flight: &mut Flight,
    change: Change,
) -> Result<(), Next> {
    let next = worker.record_inside(flight, change);
    if next != Next::Now || flight.phase != Phase::Submitting || !flight.unsaved.is_empty() {
        return Err(next);
    }
    Ok(())
}

/// When fal is to give up what it has not begun. A direct call is over with its own limit: what began after it would
/// be billed, and nobody would be there to take it.
fn start_deadline(via: Via, queue: Duration, direct: Duration) -> Duration {
    let longest = match via {
        Via::Queue => queue,
        Via::Direct => queue.min(direct),
    };
    longest.max(LEAST_DEADLINE)
}

/// How long a direct call is waited for.
fn direct_limit(worker: &Worker, flight: &Flight) -> Duration {
    let limit = flight.timeout.unwrap_or(worker.tools.policy.job_timeout);
    limit.min(DIRECT)
}

/// The end of a job that wants a bot where none is configured: it is not paid for.
fn undeliverable(worker: &Worker, flight: &mut Flight, has_files: bool) -> Option<Change> {
    if (flight.target.is_none() && !has_files) || worker.tools.telegram.is_some() {
        return None;
    }
    let what = match has_files {
        true => "the files of the input could not be fetched",
        false => "nothing could be delivered",
    };
    let text = format!("no bot token is configured, so {what}");
    flight.failure = Some((Kind::Telegram, text));
    Some(state::end_failed(flight, None))
}

/// The direct call, once more at once if only an old key was refused.
fn call_directly(worker: &Worker, flight: &Flight, order: &Order<'_>) -> Directed {
    let limit = direct_limit(worker, flight);
    let key = worker.tools.fal.key_number();
    let mut answer = worker.tools.fal.direct(order, limit);
    if let Directed::Failed(failure, _) = &answer
        && is_of_an_old_key(worker, failure, key)
        && worker.may_act(flight).is_ok()
    {
        answer = worker.tools.fal.direct(order, limit);
    }
    match answer {
        // Refused before anything ran.
        Directed::Failed(failure, request)
            if matches!(failure.kind, Kind::NoBalance | Kind::Auth)
                && failure.charged == Charged::No =>
        {
            Directed::Failed(account_trouble(worker, failure, key), request)
        }
        answer => answer,
    }
}

/// Puts the request into fal's queue, once more at once if only an old key was refused.
fn enqueue_at_fal(worker: &Worker, flight: &Flight, order: &Order<'_>) -> Submitted {
    let key = worker.tools.fal.key_number();
    let mut answer = worker.tools.fal.submit(order);
    if let Submitted::Refused(failure) = &answer
        && is_of_an_old_key(worker, failure, key)
        // The refusal took its time, and another owner waits no longer than one submit may take.
        && worker.may_act(flight).is_ok()
    {
        answer = worker.tools.fal.submit(order);
    }
    match answer {
        Submitted::Refused(failure) => Submitted::Refused(account_trouble(worker, failure, key)),
        answer => answer,
    }
}

/// Whether what fal refused was the key of before: nothing was accepted, and the new one is worth a try at
/// once.
pub(super) fn is_of_an_old_key(worker: &Worker, failure: &Failure, key: u64) -> bool {
    failure.kind == Kind::Auth
        && failure.charged == Charged::No
        && rotation::has_new_fal_key(worker, key)
}

/// Balance or key trouble is no job's fault: it waits, unpaid, and pulling pauses. But one private
/// model's refusal is: then the free probe says that the key is good.
/// `key`: the number of the key that was in use before.
pub(super) fn account_trouble(worker: &Worker, mut failure: Failure, key: u64) -> Failure {
    let whose = match failure.kind {
        Kind::NoBalance => Probe::KeyRefused,
        Kind::Auth => worker.tools.fal.probe(),
        _ => return failure,
    };
    match whose {
        Probe::KeyRefused => {
            failure.remedy = Remedy::RetryStep;
            let reason = format!("{}: {}", failure.kind.as_str(), failure.text);
            // Best effort: every other job meets the same refusal and says so again.
            let _ = worker.session.pause(
                &reason,
                &worker.tools.store.identity().instance,
                ACCOUNT_PAUSE,
            );
            if worker.tools.fal.key_number() != key {
                // Changed meanwhile: whoever did that has looked for a pause already.
                rotation::end_pause(worker);
            } else {
                worker.tell_admin(failure.kind, &reason);
            }
        }
        // The probe was of another key than the one that was refused: it says nothing about the job.
        Probe::KeyGood if worker.tools.fal.key_number() != key => {
            failure.remedy = Remedy::RetryStep;
        }
        Probe::KeyGood => failure.remedy = Remedy::Final,
        Probe::Away => failure.remedy = Remedy::RetryStep,
    }
    failure.charged = Charged::No;
    failure
}

/// Tells fal to end a request.
pub(super) fn cancel(worker: &Worker, flight: &mut Flight) -> Next {
    let answer = match (&flight.model, &flight.request) {
        (Some(model), Some(request)) => worker.tools.fal.cancel(
            model,
            Handle {
                request,
                path: flight.path.as_deref(),
            },
        ),
        _ => Cancelled::Missing,
    };
    worker.fal_heard(match &answer {
        Cancelled::Failed(failure) => Presence::of(failure),
        _ => Presence::Answer,
    });
    let change = state::after_cancel(flight, answer, worker.moment());
    worker.record(flight, change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_call_is_not_begun_after_nobody_waits_for_it() {
        let seconds = Duration::from_secs;
        for (via, queue, direct, expected) in [
            (Via::Queue, 1200, 5, 1200),
            (Via::Queue, 0, 5, 2),
            (Via::Direct, 1200, 5, 5),
            (Via::Direct, 1200, 120, 120),
            (Via::Direct, 3, 120, 3),
            (Via::Direct, 1200, 1, 2),
        ] {
            let found = start_deadline(via, seconds(queue), seconds(direct));
            assert_eq!(found, seconds(expected), "{via:?} {queue} {direct}");
        }
    }
}
