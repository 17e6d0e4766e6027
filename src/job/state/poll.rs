//! Looks at a request: when the next one is due, and when a request counts as lost.

use super::*;

/// Characters of an error at most (contract section 2).
const ERROR: usize = 300;
/// Appended to the error of a job whose retry was promised to be free.
const STAYS_FREE: &str = "; this retry was to be free, so nothing new was submitted";
/// No longer is a look put off by a `Retry-After`: fal keeps a large result for six minutes only, and a look
/// costs nothing.
const LONGEST_PUT_OFF: Duration = Duration::from_secs(60);

/// Looks in a row without a word about the job, before its time counts as over.
pub(super) const WORDLESS: u32 = 8;

/// After a look at the status.
pub fn after_poll(
    flight: &mut Flight,
    answer: Polled,
    in_flight: usize,
    policy: &Policy,
    moment: Moment,
) -> Change {
    // A form of its URLs that fal does not know says nothing about the request: the one that it always knows is asked.
    if matches!(&answer, Polled::Failed(failure) if failure.spoke) && flight.path.take().is_some() {
        return Change::quiet(Next::Now);
    }
    match &answer {
        // No word about the job: neither are 404s forgotten for it.
        Polled::Failed(_) => {}
        Polled::Missing => flight.step_tries = 0,
        Polled::InQueue { .. } | Polled::InProgress | Polled::Completed | Polled::Broke { .. } => {
            flight.step_tries = 0;
            flight.missing = None;
        }
    }
    let submitted = flight.submitted_at.unwrap_or(moment.now);
    let in_queue = matches!(answer, Polled::InQueue { .. });
    if let (Some(cancelling), true) = (
        &mut flight.cancelling,
        in_queue || answer == Polled::InProgress,
    ) {
        cancelling.in_queue = in_queue;
    }
    match answer {
        // The look comes before the cancel: what is done is delivered, and what never ran costs nothing.
        Polled::InQueue { .. } | Polled::InProgress | Polled::Missing
            if flight.cancel_asked && flight.cancelling.is_none() =>
        {
            let change = begin_cancel(flight, Kind::Cancelled, CANCEL_ASKED, moment);
            seen_in_queue(flight, in_queue);
            change
        }
        Polled::Completed | Polled::Broke { .. } => {
            flight.broke = match answer {
                Polled::Broke { kind, remedy } => Some((kind, remedy)),
                _ => None,
            };
            if flight.cancelling.is_none() {
                flight.watch.ended(submitted, &policy.poll, moment.now);
            }
            flight.phase = Phase::Collecting;
            Change::quiet(Next::Now)
        }
        Polled::InQueue { .. } | Polled::InProgress if flight.cancelling.is_some() => {
            still_there(flight, moment)
        }
        Polled::InQueue { .. }
            if flight.running_at.is_none()
                && submitted.until(moment.now) > policy.queue_timeout =>
        {
            let text = format!(
                "still in fal's queue after {} s",
                submitted.until(moment.now).as_secs()
            );
            let change = begin_cancel(flight, Kind::Timeout, &text, moment);
            seen_in_queue(flight, true);
            change
        }
        Polled::InQueue { .. } | Polled::InProgress => {
            if matches!(answer, Polled::InProgress) && flight.running_at.is_none() {
                flight.running_at = Some(moment.now);
            }
            let limit = flight.timeout.unwrap_or(policy.job_timeout);
            if flight
                .running_at
                .is_some_and(|at| at.until(moment.now) > limit)
            {
                return begin_cancel(
                    flight,
                    Kind::Timeout,
                    &format!("not finished after {} s", limit.as_secs()),
                    moment,
                );
            }
            flight.watch.in_flight = in_flight;
            let look = (moment.now, moment.random);
            let wait = flight
                .watch
                .next_look(Some(&answer), submitted, &policy.poll, look);
            Change::quiet(Next::In(wait))
        }
        Polled::Missing => missing(flight, "fal no longer knows this request", moment),
        Polled::Failed(failure) => no_word(flight, &failure, policy, moment),
    }
}

/// fal said nothing about the job: it, or a gateway, refused the look, or nobody answered.
fn no_word(flight: &mut Flight, failure: &Failure, policy: &Policy, moment: Moment) -> Change {
    if let Some(cancelling) = &mut flight.cancelling {
        if !failure.spoke {
            cancelling.refused = 0; // fal is away: that the cancel failed too says nothing
        }
        // Told to stop, and silent since then: nobody waits for it any longer.
        return match grace_is_over(flight, moment) {
            Some(kind) => stopped_unseen(flight, kind, moment),
            None => retry_step(flight, failure, moment),
        };
    }
    if failure.spoke && flight.cancel_asked {
        return begin_cancel(flight, Kind::Cancelled, CANCEL_ASKED, moment);
    }
    // By fal's word to its cancel, not by silence, it is decided what becomes of it.
    if flight.step_tries >= WORDLESS && is_overdue(flight, failure.spoke, policy, moment) {
        let text = format!("fal does not say what became of it: {}", failure.text);
        let text: String = text.chars().take(ERROR).collect();
        return begin_cancel(flight, Kind::Timeout, &text, moment);
    }
    retry_step(flight, failure, moment)
}

/// Whether a request has had all the time that it may take, as far as anybody knows; where nobody spoke for fal, also
/// that in which fal would still have its result.
pub(super) fn is_overdue(flight: &Flight, spoke: bool, policy: &Policy, moment: Moment) -> bool {
    let limit = flight.timeout.unwrap_or(policy.job_timeout);
    let (from, limit) = match (flight.running_at, flight.submitted_at) {
        (Some(at), _) => (at, limit),
        (None, Some(at)) => (at, limit.saturating_add(policy.queue_timeout)),
        (None, None) => return false,
    };
    let kept = if spoke { Duration::ZERO } else { KEPT_AT_FAL };
    from.until(moment.now) > limit.saturating_add(kept)
}

/// 404 of the status or the result: believed only after three over fifteen seconds.
pub(super) fn missing(flight: &mut Flight, text: &str, moment: Moment) -> Change {
    if flight.path.take().is_some() {
        return Change::quiet(Next::Now); // as in `after_poll`
    }
    if let Some(cancelling) = flight
        .cancelling
        .filter(|cancelling| cancelling.asked_at.is_some())
    {
        // What runs never vanishes: it completes, cancelled or not. A result may vanish.
        let charged = if cancelling.in_queue && flight.phase == Phase::Polling {
            Charged::No
        } else {
            Charged::Unknown
        };
        return stopped(flight, cancelling.kind, charged, moment);
    }
    let (seen, first) = flight.missing.unwrap_or((0, moment.now));
    flight.missing = Some((seen + 1, first));
    if seen + 1 < 3 || first.until(moment.now) < Duration::from_secs(15) {
        return Change::quiet(Next::In(Duration::from_millis(7500)));
    }
    lost(flight, text, moment)
}

/// A paid request that fal cannot give back.
fn lost(flight: &mut Flight, text: &str, moment: Moment) -> Change {
    if let Some(cancelling) = flight.cancelling {
        return stopped_unseen(flight, cancelling.kind, moment); // nobody wants it any more
    }
    let in_place = flight.in_place.take().filter(|it| it.times >= IN_PLACE);
    let repays = flight.repay && !flight.free && flight.attempt < flight.max_attempts;
    match (flight.broke, in_place) {
        // There was no result to be lost, as far as anybody saw: what stood in its place is the job's end. Without the
        // status's word it may have hidden a good one, which whoever asked for it wants again.
        (broke, Some(in_place)) if broke.is_some() || !repays => {
            let mut failed = in_place.last;
            failed.remedy = Remedy::Final;
            if broke.is_none() {
                failed.charged = perhaps(failed.charged);
            }
            return fail(flight, failed, moment);
        }
        (Some((kind, _)), _) => {
            let text = "fal says that it failed, and no longer says how";
            return fail(flight, failure(kind, text, Charged::Unknown), moment);
        }
        (None, _) => {}
    }
    let mut failure = failure(Kind::Unavailable, text, Charged::Yes);
    if flight.free {
        failure = but_stays_free(failure);
    } else if repays {
        failure.remedy = Remedy::TryAnew;
        flight.charge(&failure);
        return later(flight, failure, None, moment);
    }
    fail(flight, failure, moment)
}

/// Else this failure would have led to a new submit.
pub(super) fn but_stays_free(mut failed: Failure) -> Failure {
    let kept = ERROR - STAYS_FREE.len();
    failed.text = failed.text.chars().take(kept).collect::<String>() + STAYS_FREE;
    failed
}

/// The same request again, later; a failure on the way says nothing about the job.
pub(super) fn retry_step(flight: &mut Flight, failure: &Failure, moment: Moment) -> Change {
    let told = failure.retry_after.unwrap_or_default();
    let told = match flight.phase {
        Phase::Polling | Phase::Collecting => told.min(LONGEST_PUT_OFF),
        Phase::Submitting | Phase::Delivering | Phase::Telling => told,
    };
    let wait = backoff(
        flight.step_tries,
        Duration::from_millis(500),
        Duration::from_secs(30),
        moment.random,
    )
    .max(told)
    .max(Duration::from_millis(100));
    flight.step_tries += 1;
    let say = Say::Retrying {
        kind: failure.kind,
        wait,
        text: failure.text.clone(),
    };
    Change::quiet(Next::In(wait)).saying(say)
}
