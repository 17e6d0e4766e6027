//! Ending what nobody wants any more, or what took too long: fal is asked, and its word decides what became of it.

use super::*;

/// How long a request that was told to stop may go on.
const CANCEL_GRACE: Duration = Duration::from_secs(60);

/// Somebody asked for its end, and nothing of it is at fal, or nobody knows whether.
pub fn cancel_unsubmitted(flight: &mut Flight, moment: Moment) -> Change {
    let charged = flight.doubt.charged();
    fail(
        flight,
        failure(Kind::Cancelled, CANCEL_ASKED, charged),
        moment,
    )
}

/// Wants the request at fal ended. Why is recorded before fal is told: a successor that finds the request
/// cancelled, or gone, must know that it was us.
pub fn begin_cancel(flight: &mut Flight, kind: Kind, text: &str, moment: Moment) -> Change {
    flight.failure = Some((kind, text.to_owned()));
    flight.cancelling = Some(Cancelling {
        kind,
        asked_at: None,
        since: moment.now,
        refused: 0,
        in_queue: false,
    });
    flight.step_tries = 0;
    let patch = Patch::default()
        .set("phase", flight.phase.as_str())
        .set("kind", kind.as_str())
        .set("error", text)
        .set("cancelling", moment.now.0.to_string());
    Change::save(patch, Next::Now)
}

pub(super) fn seen_in_queue(flight: &mut Flight, in_queue: bool) {
    if let Some(cancelling) = &mut flight.cancelling {
        cancelling.in_queue = in_queue;
    }
}

/// After a cancel at fal. Whatever it says, fal's next answer about the request decides, never silence
/// alone: a result that is there is delivered.
pub fn after_cancel(flight: &mut Flight, answer: Cancelled, moment: Moment) -> Change {
    let Some(cancelling) = flight.cancelling else {
        return Change::quiet(Next::Now);
    };
    match answer {
        // Of one that was last seen running it is not sure what that means.
        Cancelled::Removed if cancelling.in_queue => {
            let text = cancel_text(flight, cancelling.kind);
            fail(flight, failure(cancelling.kind, &text, Charged::No), moment)
        }
        Cancelled::Removed | Cancelled::Requested => {
            flight.cancelling = Some(Cancelling {
                asked_at: Some(moment.now),
                ..cancelling
            });
            flight.step_tries = 0;
            Change::quiet(Next::In(Duration::from_millis(500)))
        }
        Cancelled::AlreadyCompleted => {
            flight.cancelling = Some(Cancelling {
                asked_at: Some(moment.now),
                ..cancelling
            });
            flight.phase = Phase::Collecting;
            Change::quiet(Next::Now)
        }
        // Believed as a 404 of its status is: so soon after the submit fal may not know it yet.
        Cancelled::Missing
            if cancelling.refused + 1 >= 3
                && cancelling.since.until(moment.now) >= Duration::from_secs(15) =>
        {
            stopped_unseen(flight, cancelling.kind, moment)
        }
        Cancelled::Missing => {
            flight.cancelling = Some(Cancelling {
                refused: cancelling.refused + 1,
                in_queue: false,
                ..cancelling
            });
            flight.step_tries += 1;
            Change::quiet(Next::Now)
        }
        // Before it is asked again, or heeded after all, the request may have begun.
        Cancelled::Failed(failure) => {
            flight.cancelling = Some(Cancelling {
                refused: cancelling.refused + 1,
                in_queue: false,
                ..cancelling
            });
            retry_step(flight, &failure, moment)
        }
    }
}

/// Whether the next word to fal about a request is its cancel. One that failed takes turns with a look
/// at the status: a result that came meanwhile is not to be missed.
pub fn cancel_is_due(flight: &Flight) -> bool {
    flight
        .cancelling
        .is_some_and(|cancelling| cancelling.asked_at.is_none())
        && flight.step_tries.is_multiple_of(2)
}

/// The request was told to stop, or could not be told, and is still there.
pub(super) fn still_there(flight: &mut Flight, moment: Moment) -> Change {
    if let Some(kind) = grace_is_over(flight, moment) {
        return stopped_unseen(flight, kind, moment);
    }
    let wait = match flight.cancelling {
        Some(Cancelling {
            asked_at: None,
            refused: 0,
            ..
        })
        | None => return Change::quiet(Next::Now),
        Some(_) => Duration::from_secs(2),
    };
    Change::quiet(Next::In(wait))
}

/// Whether a request that was told to stop has had its time: then why it was. One that refuses to be
/// told, while fal answers otherwise, gets no longer.
pub(super) fn grace_is_over(flight: &Flight, moment: Moment) -> Option<Kind> {
    let cancelling = flight.cancelling?;
    let from = match cancelling.asked_at {
        Some(asked) => asked,
        None if cancelling.refused >= 3 => cancelling.since,
        None => return None,
    };
    (from.until(moment.now) >= CANCEL_GRACE).then_some(cancelling.kind)
}

pub(super) fn stopped_unseen(flight: &mut Flight, kind: Kind, moment: Moment) -> Change {
    stopped(flight, kind, Charged::Unknown, moment)
}

pub(super) fn stopped(flight: &mut Flight, kind: Kind, charged: Charged, moment: Moment) -> Change {
    let text = cancel_text(flight, kind);
    fail(flight, failure(kind, &text, charged), moment)
}

pub(super) fn cancel_text(flight: &Flight, kind: Kind) -> String {
    match &flight.failure {
        Some((_, text)) => text.clone(),
        None => kind.as_str().to_owned(),
    }
}
