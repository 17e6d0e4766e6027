//! How long a delivery may take. What is paid for is given up only after it was tried in vain: time in which
//! no worker ran, or in which it only waited for its turn, says nothing about Telegram. Telling a failure
//! gets two minutes and no more, since a refund may wait for its end.

use super::{deliver, park, tell};
use crate::job::flight::Flight;
use crate::job::state::{Next, TELL_LIMIT};
use crate::job::{Phase, UnixMs};
use crate::steps::Worker;
use crate::steps::gate::Service;
use std::time::Duration;

/// How long an owner finds its tries in vain, at least, before it gives up a delivery that is over its time. Half
/// of a shorter `--delivery-timeout`.
const IN_VAIN: Duration = Duration::from_secs(60);
/// What an owner has at least for a telling that is over its time when it comes to him, so that an old status
/// message, a turn or a lease does not use up his one try.
const A_MOMENT: Duration = Duration::from_secs(10);
/// A wait that ends with the time ends a little after it.
const PAST_IT: Duration = Duration::from_millis(50);

/// How long a delivery that began to wait for Telegram may go on; `None`: as long as it takes, since nothing
/// was tried in vain.
fn left(worker: &Worker, flight: &Flight, now: UnixMs) -> Option<Duration> {
    let limit = worker.tools.delivery_timeout;
    let completed = flight.completed_at.unwrap_or(now);
    let of_all = limit.saturating_sub(completed.until(now));
    let of_this_owner = IN_VAIN
        .min(limit / 2)
        .saturating_sub(flight.in_vain_since?.until(now));
    Some(of_all.max(of_this_owner))
}

/// Whether the delivery is to be given up.
pub(super) fn is_over(worker: &Worker, flight: &Flight, now: UnixMs) -> bool {
    left(worker, flight, now).is_some_and(|left| left.is_zero())
}

/// A wait of a delivery, no longer than its time.
pub(super) fn at_most(worker: &Worker, flight: &Flight, wait: Duration) -> Duration {
    let left = left(worker, flight, worker.tools.store.now());
    left.map_or(wait, |left| wait.min(left + PAST_IT))
}

/// A try to deliver came to nothing.
pub(super) fn in_vain(worker: &Worker, flight: &mut Flight) {
    flight
        .in_vain_since
        .get_or_insert_with(|| worker.tools.store.now());
}

/// Whether a telling ends without another call. `fresh`: this owner has not tried yet. Then it may once, also
/// too late, where Telegram is there.
pub(super) fn is_told_no_more(worker: &Worker, flight: &Flight, fresh: bool, now: UnixMs) -> bool {
    let began = flight.telling_at.unwrap_or(now);
    let may_try = fresh && !is_away(worker);
    flight.untold || (began.until(now) > TELL_LIMIT && !may_try)
}

/// The first try of an owner: the time to make it.
pub(super) fn give_a_moment(flight: &mut Flight, now: UnixMs) {
    let had = TELL_LIMIT.saturating_sub(A_MOMENT);
    let began = UnixMs(now.0 - i64::try_from(had.as_millis()).unwrap_or(0));
    flight.telling_at = flight.telling_at.max(Some(began));
}

/// A wait of a telling, no longer than its time.
pub(super) fn tell_at_most(worker: &Worker, flight: &Flight, wait: Duration) -> Duration {
    let now = worker.tools.store.now();
    let began = flight.telling_at.unwrap_or(now);
    wait.min(TELL_LIMIT.saturating_sub(began.until(now)) + PAST_IT)
}

fn is_away(worker: &Worker) -> bool {
    worker.tools.gate.is_open(Service::Telegram { slow: true })
}

/// The gate did not let a step in. One that waits for Telegram waits only for its time, and not in memory alone;
/// what is over ends without a call.
pub(in crate::steps) fn kept_out(worker: &Worker, flight: &mut Flight, next: Next) -> Next {
    let Next::In(wait) = next else { return next };
    let now = worker.tools.store.now();
    match flight.phase {
        Phase::Delivering if is_away(worker) => {
            in_vain(worker, flight);
            if is_over(worker, flight, now) {
                return deliver(worker, flight);
            }
            let wait = at_most(worker, flight, wait);
            park(worker, flight, Next::In(wait))
        }
        Phase::Delivering => park(worker, flight, next),
        Phase::Telling => {
            // Not all that is told failed here: the entry, a cancel, its owners' crashes.
            flight.telling_at.get_or_insert(now);
            if is_told_no_more(worker, flight, flight.untouched, now) {
                return tell(worker, flight);
            }
            Next::In(tell_at_most(worker, flight, wait))
        }
        Phase::Submitting | Phase::Polling | Phase::Collecting => next,
    }
}
