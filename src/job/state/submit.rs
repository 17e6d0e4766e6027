//! The submit: what keeps a job from it, and what its answer means. What fal may have accepted is an attempt,
//! whatever cut its answer off.

use super::*;

/// A first poll that is due within this time is made at once: parking the job would take as long.
const AT_ONCE: Duration = Duration::from_millis(2);
/// The first of the waits in `later`, which double.
const LATER: Duration = Duration::from_secs(2);
const LATER_MOST: Duration = Duration::from_secs(60);
/// A job whose files wait no longer than this keeps its place at fal, and its user's slot.
const KEEPS_ITS_PLACE: Duration = Duration::from_secs(1);
/// Longest time between two looks whether files can be brought.
const INPUTS_APART: Duration = Duration::from_secs(30);

/// What may keep a job from being submitted at all, looked at right before the submit.
pub fn before_submit(flight: &mut Flight, moment: Moment) -> Option<Change> {
    if flight.model.is_none() {
        // Not to be dropped without a word: it would be claimed, and dropped, for ever.
        let text = "the model in the record of this job cannot be read";
        return Some(fail(
            flight,
            failure(Kind::InvalidJob, text, Charged::No),
            moment,
        ));
    }
    if flight.free {
        let text = "the request at fal is not known any more";
        let failed = failure(Kind::Unavailable, text, Charged::No);
        return Some(fail(flight, but_stays_free(failed), moment));
    }
    if flight.order.is_none() {
        let text = "the input of this job was lost with a Redis that forgot it, and it is not known whether fal has it";
        return Some(fail(
            flight,
            failure(Kind::Unavailable, text, Charged::Unknown),
            moment,
        ));
    }
    if flight.expires_at.is_some_and(|at| moment.now > at) {
        let charged = flight.doubt.charged();
        return Some(fail(
            flight,
            failure(
                Kind::Expired,
                "too old to be paid for: it waited beyond expires_at",
                charged,
            ),
            moment,
        ));
    }
    None
}

/// The write right before the repeat of a submit of unknown outcome: it counts the possible second
/// payment, and its answer brings a request id that came late.
pub fn before_resubmit(flight: &mut Flight) -> Change {
    flight.doubt = Doubt::None;
    let patch = Patch::default()
        .set("phase", Phase::Submitting.as_str())
        .del(&["doubt", "waits"]);
    Change::write(
        Write::Save {
            patch,
            count: Some("resubmitted_after_unknown"),
            large: None,
        },
        Next::Now,
    )
    .saying(Say::SubmittedAgain)
}

/// After a submit.
pub fn after_submit(
    flight: &mut Flight,
    answer: Submitted,
    policy: &Policy,
    moment: Moment,
) -> Change {
    match answer {
        Submitted::Accepted(accepted) => accepted_by_fal(flight, accepted, policy, moment),
        Submitted::Refused(failure) => match failure.remedy {
            Remedy::Final => fail(flight, failure, moment),
            Remedy::RetryStep | Remedy::TryAnew => later(flight, failure, None, moment),
        },
        Submitted::Unknown(failure) => unknown_submit(flight, failure, moment),
    }
}

fn accepted_by_fal(
    flight: &mut Flight,
    accepted: Accepted,
    policy: &Policy,
    moment: Moment,
) -> Change {
    flight.attempt = flight.attempt.saturating_add(1);
    flight.tries = 0;
    flight.step_tries = 0;
    flight.doubt = Doubt::None;
    flight.phase = Phase::Polling;
    flight.submitted_at = Some(moment.now);
    flight.running_at = None;
    flight.order = None;
    flight.entry = None;
    flight.request = Some(accepted.request.clone());
    flight.path = accepted.path.clone();
    let event = flight.event("submitted");
    let look = (moment.now, moment.random);
    let wait = flight.watch.next_look(None, moment.now, &policy.poll, look);
    let write = Write::Submitted {
        request: accepted.request,
        path: accepted.path,
        attempt: flight.attempt,
        event,
    };
    let next = match wait < AT_ONCE {
        true => Next::Now,
        false => Next::In(wait),
    };
    Change::write(write, next)
}

pub(super) fn unknown_submit(flight: &mut Flight, mut failure: Failure, moment: Moment) -> Change {
    flight.attempt = flight.attempt.saturating_add(1);
    failure.charged = Charged::Unknown;
    if flight.attempt >= flight.max_attempts || flight.via == Via::Direct {
        failure.text = format!(
            "{}; fal may have run it, and no attempt is left",
            failure.text
        );
        return fail(flight, failure, moment);
    }
    flight.charge(&failure);
    flight.doubt = Doubt::Submit;
    let before = (flight.attempt - 1).min(2);
    let least = (UNKNOWN_WAIT * 8_u32.pow(before)).min(LATER_MOST);
    later(flight, failure, Some(least), moment)
}

/// The write before a job stands in line for a transfer thread: whoever takes it over from there knows that nothing of
/// it was begun. It bears the claim's token, so it says so of this claim alone.
pub fn stand_in_line(flight: &mut Flight) -> Change {
    if let Some(order) = &mut flight.order {
        order.in_line = true;
    }
    let token = flight.token.0.to_string();
    Change::save(Patch::default().set("waits", token), Next::Now)
}

/// The write before its call: from here on it may have been made.
pub fn leave_line() -> Change {
    Change::save(Patch::default().del(&["waits"]), Next::Now)
}

/// A direct call that would not be answered now: it is let go unpaid for so long at least.
pub fn direct_must_wait(flight: &mut Flight, wait: Duration, moment: Moment) -> Change {
    let text = "fal does not take direct calls";
    let failure = Failure::new(
        Kind::Unavailable,
        Remedy::RetryStep,
        Charged::No,
        text.to_owned(),
    );
    later(flight, failure, Some(wait), moment)
}

/// Lets go of the job until a new submit is due.
pub(super) fn later(
    flight: &mut Flight,
    failure: Failure,
    least: Option<Duration>,
    moment: Moment,
) -> Change {
    if flight.cancel_asked {
        return cancel_unsubmitted(flight, moment);
    }
    let wait = backoff(flight.tries, LATER, LATER_MOST, moment.random);
    let mut wait = wait.max(Duration::from_secs(1));
    wait = wait
        .max(failure.retry_after.unwrap_or_default())
        .max(least.unwrap_or_default());
    if matches!(failure.kind, Kind::NoBalance | Kind::Auth) {
        wait = wait.max(Duration::from_secs(30));
    }
    let_go(flight, failure, wait, moment)
}

/// Lets go of the job for so long, but not beyond its expiry: its user is told of that in time.
fn let_go(flight: &mut Flight, failure: Failure, wait: Duration, moment: Moment) -> Change {
    let left = (flight.expires_at).map(|at| moment.now.until(at) + Duration::from_millis(1));
    let wait = wait.min(left.unwrap_or(Duration::MAX));
    flight.tries = flight.tries.saturating_add(1);
    let known = flight.request.clone();
    let mut patch = Patch::default()
        .set("attempt", flight.attempt.to_string())
        .set("tries", flight.tries.to_string())
        .set("charged", flight.charged.as_str())
        .set("error", failure.text.clone())
        .set("kind", failure.kind.as_str())
        .set_some("units", flight.units.clone())
        .del(&[
            "request_id",
            "path",
            "result",
            "running_at",
            "submitted_at",
            "completed_at",
            "rung",
            "echoes",
        ]);
    if let Some(old) = &known {
        flight.tried = format!("{} {old}", flight.tried).trim().to_owned();
        patch = patch.set("tried", flight.tried.clone());
    }
    patch = match flight.doubt {
        Doubt::Submit => patch.set("doubt", "submit"),
        Doubt::None | Doubt::Send => patch.del(&["doubt"]),
    };
    let mut event = flight
        .event("retrying")
        .with("kind", failure.kind.as_str())
        .with("error", failure.text.clone())
        .with("charged", flight.charged.as_str());
    if let Some(old) = &known {
        event = event.with("request_id", &*old.0);
    }
    let say = Say::Retrying {
        kind: failure.kind,
        wait,
        text: failure.text,
    };
    Change::write(
        Write::Later {
            wait,
            known,
            patch: patch.event(event),
        },
        Next::Over,
    )
    .saying(say)
}

/// Files of the job could not be brought to fal. Nothing is paid; what passes is waited for, until the job
/// has expired.
pub fn inputs_failed(flight: &mut Flight, failure: Failure, moment: Moment) -> Change {
    match failure.remedy {
        Remedy::Final => fail(flight, failure, moment),
        // The operator's trouble, with a longer wait.
        _ if matches!(failure.kind, Kind::NoBalance | Kind::Auth) => {
            later(flight, failure, None, moment)
        }
        // Perhaps gone: how often it was missing is known here alone.
        _ if failure.kind == Kind::InvalidInput => retry_step(flight, &failure, moment),
        Remedy::RetryStep | Remedy::TryAnew => inputs_wait(flight, failure, moment),
    }
}

/// A moment is waited out here. In a longer one fal could have another job: this one gives its places back and
/// waits in `later`, where it comes from to look once more. The stream and the log are told of it once.
fn inputs_wait(flight: &mut Flight, failure: Failure, moment: Moment) -> Change {
    if flight.tries == 0 {
        let change = retry_step(flight, &failure, moment);
        if matches!(change.next, Next::In(wait) if wait <= KEEPS_ITS_PLACE) {
            return change;
        }
    }
    if flight.cancel_asked {
        return cancel_unsubmitted(flight, moment);
    }
    // What all of them are told to wait is no reason to come all at once.
    let apart = backoff(flight.tries, LATER, INPUTS_APART, moment.random);
    let wait = failure.retry_after.unwrap_or_default() + apart.max(KEEPS_ITS_PLACE);
    let is_told = (flight.order.as_ref()).is_some_and(|order| order.brought.is_told);
    let mut change = let_go(flight, failure, wait, moment);
    if let Some(Write::Later { patch, .. }) = &mut change.write
        && is_told
    {
        patch.events.clear();
        change.say = Say::Nothing;
    }
    change
}
