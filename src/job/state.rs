//! The state machine: what an answer means for a job. Pure: it gets the flight, the answer and the
//! moment, changes the flight, and says what to write, what to tell the operator and what comes next.
//!
//! ```text
//!                 claim                                   due in `later`
//!   queued ───────────────> submitting <──────────────────────────────────────┐
//!                               │ accepted        refused for now / unknown / │
//!                               v                 lost or failed: try anew    │
//!                            polling ─────────────────────────────────────────┤
//!                               │ COMPLETED                                   │
//!                               v                                             │
//!                           collecting ───────────────────────────────────────┘
//!                               │ output                  │ final failure (from any phase)
//!                               v                         v
//!                           delivering ──refused──>    telling
//!                               │ delivered               │ told, or not in two minutes
//!                               v                         v
//!                             done                dead / cancelled
//! ```

use super::answer::{Accepted, Cancelled, Collected, Directed, Output, Polled, Submitted};
use super::failure::{Failure, Kind, Remedy};
use super::flight::{Cancelling, Doubt, EndState, Flight, LARGE, Patch, Write};
use super::schedule::{PollBounds, backoff};
use super::spec::{Via, Words};
use super::{Charged, Phase, UnixMs};
use std::sync::Arc;
use std::time::Duration;

/// The least wait before the repeat of a submit of unknown outcome: a late request id may still come.
const UNKNOWN_WAIT: Duration = Duration::from_secs(2);
/// How long a request that was told to stop may go on.
const CANCEL_GRACE: Duration = Duration::from_secs(60);
/// How long a user may be unreachable before a failed job ends untold.
pub(crate) const TELL_LIMIT: Duration = Duration::from_secs(120);
/// How often a result that says "failed, try anew" is asked for again before it is believed.
const VERDICTS: u32 = 2;
/// What stands as the error of a job that somebody cancelled; the script `cancel` says the same.
const CANCEL_ASKED: &str = "cancelled by request";
/// Behind why a job ended whose retry was said to be free.
const STAYS_FREE: &str = "; this retry was to be free, so nothing new was submitted";
/// Characters of an error at most (contract section 2).
const ERROR: usize = 300;
/// A good status, a broken result: how often it is asked for again.
const BAD_ANSWERS: u32 = 8;

/// When and with what luck a decision is made.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Redis's time.
    pub now: UnixMs,
    /// In `0.0..1.0`.
    pub random: f64,
}

/// What the operator set.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Bounds of polling.
    pub poll: PollBounds,
    /// Limit of a running generation, unless the job has its own.
    pub job_timeout: Duration,
    /// Limit of waiting in fal's queue.
    pub queue_timeout: Duration,
}

/// What comes next for a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next step, at once, on this thread.
    Now,
    /// Park it this long.
    In(Duration),
    /// Bytes of files move, or a direct call waits: a transfer thread goes on.
    Transfer,
    /// It is not ours any more.
    Over,
}

/// What the operator is told of a decision.
#[derive(Clone, Debug, PartialEq)]
pub enum Say {
    /// Nothing above debug.
    Nothing,
    /// A new submit or a step comes later because of a failure.
    Retrying {
        /// Its kind.
        kind: Kind,
        /// How long it waits.
        wait: Duration,
        /// Why.
        text: String,
    },
    /// A second payment is possible now.
    SubmittedAgain,
    /// A second message is possible now.
    SentAgain,
}

/// A decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// To be written first.
    pub write: Option<Write>,
    /// Then.
    pub next: Next,
    /// And said.
    pub say: Say,
}

impl Change {
    fn quiet(next: Next) -> Change {
        Change {
            write: None,
            next,
            say: Say::Nothing,
        }
    }

    fn write(write: Write, next: Next) -> Change {
        Change {
            write: Some(write),
            next,
            say: Say::Nothing,
        }
    }

    fn saying(mut self, say: Say) -> Change {
        self.say = say;
        self
    }
}

/// What was found in an output.
#[derive(Clone, Debug, Default)]
pub struct FoundSummary {
    /// Things to deliver.
    pub items: usize,
    /// Every picture was replaced by fal's checker.
    pub all_flagged: bool,
    /// URLs of the files; a data URI as `data:<type>;<n> bytes`.
    pub files: Vec<String>,
}

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
        let charged = if flight.doubt == Doubt::Submit {
            Charged::Unknown
        } else {
            Charged::No
        };
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

/// Somebody asked for its end, and nothing of it is at fal, or nobody knows whether.
pub fn cancel_unsubmitted(flight: &mut Flight, moment: Moment) -> Change {
    let charged = if flight.doubt == Doubt::Submit {
        Charged::Unknown
    } else {
        Charged::No
    };
    fail(
        flight,
        failure(Kind::Cancelled, CANCEL_ASKED, charged),
        moment,
    )
}

/// The write right before the repeat of a submit of unknown outcome: it counts the possible second
/// payment, and its answer brings a request id that came late.
pub fn before_resubmit(flight: &mut Flight) -> Change {
    flight.doubt = Doubt::None;
    let patch = Patch::default()
        .set("phase", Phase::Submitting.as_str())
        .del(&["doubt"]);
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
    Change::write(write, Next::In(wait))
}

fn unknown_submit(flight: &mut Flight, mut failure: Failure, moment: Moment) -> Change {
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
    later(flight, failure, Some(UNKNOWN_WAIT), moment)
}

/// Lets go of the job until a new submit is due.
fn later(flight: &mut Flight, failure: Failure, least: Option<Duration>, moment: Moment) -> Change {
    if flight.cancel_asked {
        return cancel_unsubmitted(flight, moment);
    }
    let cap = Duration::from_secs(60);
    let mut wait = backoff(flight.tries, Duration::from_secs(2), cap, moment.random)
        .max(Duration::from_secs(1));
    wait = wait
        .max(failure.retry_after.unwrap_or_default())
        .max(least.unwrap_or_default());
    if matches!(failure.kind, Kind::NoBalance | Kind::Auth) {
        wait = wait.max(Duration::from_secs(30));
    }
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

/// After a look at the status.
pub fn after_poll(
    flight: &mut Flight,
    answer: Polled,
    in_flight: usize,
    policy: &Policy,
    moment: Moment,
) -> Change {
    match &answer {
        // No word about the job: neither are 404s forgotten for it.
        Polled::Failed(_) => {}
        Polled::Missing => flight.step_tries = 0,
        Polled::InQueue { .. } | Polled::InProgress | Polled::Completed => {
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
        Polled::Completed => {
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
                && since(submitted, moment.now) > policy.queue_timeout =>
        {
            let text = format!(
                "still in fal's queue after {} s",
                since(submitted, moment.now).as_secs()
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
                .is_some_and(|at| since(at, moment.now) > limit)
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
        Polled::Failed(failure) => {
            if let Some(cancelling) = &mut flight.cancelling {
                cancelling.refused = 0; // fal is away: that the cancel failed too says nothing
            }
            match grace_is_over(flight, moment) {
                // Told to stop, and silent since then: nobody waits for it any longer.
                Some(kind) => stopped_unseen(flight, kind, moment),
                None => retry_step(flight, &failure, moment),
            }
        }
    }
}

/// 404 of the status or the result: believed only after three over fifteen seconds.
fn missing(flight: &mut Flight, text: &str, moment: Moment) -> Change {
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
    if seen + 1 < 3 || since(first, moment.now) < Duration::from_secs(15) {
        return Change::quiet(Next::In(Duration::from_millis(7500)));
    }
    lost(flight, text, moment)
}

/// A paid request that fal cannot give back.
fn lost(flight: &mut Flight, text: &str, moment: Moment) -> Change {
    if let Some(cancelling) = flight.cancelling {
        return stopped_unseen(flight, cancelling.kind, moment); // nobody wants it any more
    }
    let mut failure = failure(Kind::Unavailable, text, Charged::Yes);
    if flight.free {
        failure = but_stays_free(failure);
    } else if flight.repay && flight.attempt < flight.max_attempts {
        failure.remedy = Remedy::TryAnew;
        flight.charge(&failure);
        return later(flight, failure, None, moment);
    }
    fail(flight, failure, moment)
}

/// Else this failure would have led to a new submit.
fn but_stays_free(mut failed: Failure) -> Failure {
    let kept = ERROR - STAYS_FREE.len();
    failed.text = failed.text.chars().take(kept).collect::<String>() + STAYS_FREE;
    failed
}

/// The same request again, later; a failure on the way says nothing about the job.
fn retry_step(flight: &mut Flight, failure: &Failure, moment: Moment) -> Change {
    let wait = backoff(
        flight.step_tries,
        Duration::from_millis(500),
        Duration::from_secs(30),
        moment.random,
    )
    .max(failure.retry_after.unwrap_or_default())
    .max(Duration::from_millis(100));
    flight.step_tries += 1;
    let say = Say::Retrying {
        kind: failure.kind,
        wait,
        text: failure.text.clone(),
    };
    Change::quiet(Next::In(wait)).saying(say)
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
        Remedy::RetryStep | Remedy::TryAnew => retry_step(flight, &failure, moment),
    }
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
    Change::write(
        Write::Save {
            patch,
            count: None,
            large: None,
        },
        Next::Now,
    )
}

fn seen_in_queue(flight: &mut Flight, in_queue: bool) {
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
        Cancelled::Removed => {
            let text = cancel_text(flight, cancelling.kind);
            fail(flight, failure(cancelling.kind, &text, Charged::No), moment)
        }
        Cancelled::Requested => {
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
        Cancelled::Missing => {
            let text = cancel_text(flight, cancelling.kind);
            fail(
                flight,
                failure(cancelling.kind, &text, Charged::Unknown),
                moment,
            )
        }
        Cancelled::Failed(failure) => {
            flight.cancelling = Some(Cancelling {
                refused: cancelling.refused + 1,
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
fn still_there(flight: &mut Flight, moment: Moment) -> Change {
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
fn grace_is_over(flight: &Flight, moment: Moment) -> Option<Kind> {
    let cancelling = flight.cancelling?;
    let from = match cancelling.asked_at {
        Some(asked) => asked,
        None if cancelling.refused >= 3 => cancelling.since,
        None => return None,
    };
    (since(from, moment.now) >= CANCEL_GRACE).then_some(cancelling.kind)
}

fn stopped_unseen(flight: &mut Flight, kind: Kind, moment: Moment) -> Change {
    stopped(flight, kind, Charged::Unknown, moment)
}

fn stopped(flight: &mut Flight, kind: Kind, charged: Charged, moment: Moment) -> Change {
    let text = cancel_text(flight, kind);
    fail(flight, failure(kind, &text, charged), moment)
}

fn cancel_text(flight: &Flight, kind: Kind) -> String {
    match &flight.failure {
        Some((_, text)) => text.clone(),
        None => kind.as_str().to_owned(),
    }
}

/// After fetching the result. `found`: what lies in the output, if it is one.
pub fn after_collect(
    flight: &mut Flight,
    answer: Collected,
    found: &FoundSummary,
    policy: &Policy,
    moment: Moment,
) -> Change {
    match answer {
        Collected::Output(output) => output_there(flight, output, found, moment),
        Collected::NotYet => {
            // COMPLETED, then "still in progress": fal put it back on another runner. It is as good as
            // that word of the status: so it too ends at the time limit.
            flight.phase = Phase::Polling;
            let mut change = after_poll(flight, Polled::InProgress, 0, policy, moment);
            if let Next::In(wait) = &mut change.next {
                *wait = (*wait).clamp(Duration::from_millis(250), Duration::from_secs(1));
            }
            change
        }
        Collected::Missing => missing(
            flight,
            "the result expired at fal before it was read",
            moment,
        ),
        Collected::Failed(mut failed) => {
            if let (Some(cancelling), Kind::Cancelled) = (flight.cancelling, failed.kind) {
                failed.kind = cancelling.kind;
                failed.text = cancel_text(flight, cancelling.kind);
                if cancelling.in_queue && failed.units.is_none() {
                    failed.charged = Charged::No;
                }
                return fail(flight, failed, moment);
            }
            if failed.kind == Kind::Cancelled {
                failed.kind = Kind::Unavailable; // cancelled by somebody else: not by us
            }
            match failed.remedy {
                Remedy::Final => fail(flight, failed, moment),
                Remedy::RetryStep
                    if failed.kind == Kind::BadAnswer && flight.step_tries >= BAD_ANSWERS =>
                {
                    failed.charged = Charged::Yes;
                    fail(flight, failed, moment)
                }
                Remedy::RetryStep => retry_step(flight, &failed, moment),
                // A new submit is a new payment, and asking again is free: a hiccup of fal's own front may
                // look like the end of a request whose result is there.
                Remedy::TryAnew if flight.cancelling.is_none() && flight.verdicts < VERDICTS => {
                    flight.verdicts += 1;
                    retry_step(flight, &failed, moment)
                }
                Remedy::TryAnew if flight.free && flight.cancelling.is_none() => {
                    fail(flight, but_stays_free(failed), moment)
                }
                // fal has tried up to ten times itself by then: at most one more of ours.
                Remedy::TryAnew
                    if flight.attempt < flight.max_attempts.min(2)
                        && flight.cancelling.is_none() =>
                {
                    flight.charge(&failed);
                    flight.cancelling = None;
                    later(flight, failed, None, moment)
                }
                Remedy::TryAnew => fail(flight, failed, moment),
            }
        }
    }
}

/// After a direct call.
pub fn after_direct(
    flight: &mut Flight,
    answer: Directed,
    found: &FoundSummary,
    moment: Moment,
) -> Change {
    match answer {
        Directed::Output(output, request) => {
            flight.attempt = flight.attempt.saturating_add(1);
            flight.request = request;
            flight.order = None;
            flight.entry = None;
            output_there(flight, output, found, moment)
        }
        Directed::Unknown(failed) => unknown_submit(flight, failed, moment),
        Directed::Failed(failed) => match failed.remedy {
            Remedy::Final => {
                if failed.charged != Charged::No {
                    flight.attempt = flight.attempt.saturating_add(1);
                }
                fail(flight, failed, moment)
            }
            Remedy::RetryStep => later(flight, failed, None, moment),
            Remedy::TryAnew => {
                flight.attempt = flight.attempt.saturating_add(1);
                if flight.attempt >= flight.max_attempts.min(2) {
                    return fail(flight, failed, moment);
                }
                flight.charge(&failed);
                later(flight, failed, None, moment)
            }
        },
    }
}

/// A good result: paid, whatever comes after.
fn output_there(
    flight: &mut Flight,
    output: Output,
    found: &FoundSummary,
    moment: Moment,
) -> Change {
    // Fetched once more, because a crash took a result that was not in the record: told and summed up
    // already.
    let again = flight.completed_at.is_some();
    flight.charged = Charged::Yes;
    if !again {
        flight.add_units(output.units.as_deref());
        flight.completed_at = Some(moment.now);
    }
    flight.step_tries = 0;
    flight.cancelling = None;
    flight.cancel_asked = false;
    flight.failure = None;
    if found.all_flagged {
        let mut failed = failure(
            Kind::ContentPolicy,
            "fal replaced every picture by a black one (nsfw)",
            Charged::Yes,
        );
        failed.units = None;
        return fail(flight, failed, moment);
    }
    if found.items == 0 && flight.target.is_some() {
        let failed = failure(
            Kind::NoOutput,
            "the result holds nothing that can be delivered",
            Charged::Yes,
        );
        return fail(flight, failed, moment);
    }
    let json: Arc<str> = output.json.into();
    let large = json.len() > LARGE;
    flight.result = Some(json.clone());
    flight.result_unsaved = large;
    flight.phase = Phase::Delivering;
    let mut event = flight
        .event("completed")
        .with("charged", flight.charged.as_str());
    event.since = flight.submitted_at;
    if let Some(request) = &flight.request {
        event = event.with("request_id", &*request.0);
    }
    if let Some(units) = &flight.units {
        event = event.with("units", units.clone());
    }
    if !found.files.is_empty() {
        event = event.with("files", json_list(&found.files));
    }
    let mut patch = Patch::default()
        .set("charged", flight.charged.as_str())
        .set("attempt", flight.attempt.to_string())
        .set_some("units", flight.units.clone())
        .set_some(
            "request_id",
            flight.request.as_ref().map(|request| &*request.0),
        )
        // A direct call has no write of its own for it; else Redis's own stamp stands.
        .set_some(
            "submitted_at",
            flight
                .submitted_at
                .filter(|_| flight.via == Via::Direct)
                .map(|at| at.0.to_string()),
        )
        .del(&["error", "kind", "crashes", "cancelling"]);
    if !again {
        patch = patch.stamp("completed_at").event(event);
    }
    if !large || flight.target.is_none() {
        // Without a chat the record is the only place where a bot finds it.
        patch = patch.set("result", json.to_string());
    }
    if flight.target.is_some() {
        // The intent to deliver goes with the result: from here on a message may have gone out.
        let patch = patch.set("phase", Phase::Delivering.as_str());
        return Change::write(
            Write::Save {
                patch,
                count: None,
                large: None,
            },
            Next::Now,
        );
    }
    let done = ending(flight, "done").with("files", json_list(&found.files));
    flight.closing = true;
    Change::write(
        Write::End {
            state: EndState::Done,
            patch: patch.event(done),
        },
        Next::Over,
    )
}

/// Puts a result too large for the record into its own key, before a delivery is parked.
pub fn save_large(flight: &mut Flight) -> Option<Write> {
    let large = flight.result.clone().filter(|_| flight.result_unsaved)?;
    flight.result_unsaved = false;
    Some(Write::Save {
        patch: Patch::default(),
        count: None,
        large: Some(large),
    })
}

/// The delivery moved on and must not start over after a crash.
pub fn delivery_progress(flight: &mut Flight, rung: String, again: bool) -> Change {
    flight.rung = rung;
    flight.doubt = Doubt::None;
    let patch = Patch::default()
        .set("rung", flight.rung.clone())
        .del(&["doubt"]);
    let count = again.then_some("resent_after_unknown");
    let say = if again { Say::SentAgain } else { Say::Nothing };
    Change::write(
        Write::Save {
            patch,
            count,
            large: None,
        },
        Next::Now,
    )
    .saying(say)
}

/// A call of the delivery came back with an answer: its owners do not die of it any more.
pub fn delivery_went_on(flight: &mut Flight, rung: String) -> Change {
    let mut change = delivery_progress(flight, rung, false);
    if let Some(Write::Save { patch, .. }) = &mut change.write {
        patch.del.push("crashes");
    }
    change
}

/// What a delivery left in the chat.
#[derive(Clone, Debug, Default)]
pub struct Receipt {
    /// Ids of the messages that hold the result.
    pub message_ids: Vec<i64>,
    /// Telegram's ids of the files.
    pub file_ids: Vec<String>,
    /// What each is: the number of its item in the result, and its kind, as `0:photo`.
    pub file_kinds: Vec<String>,
    /// URLs of the files, for the event.
    pub files: Vec<String>,
    /// The group's new id, where it became a supergroup meanwhile: the bot's own records are to follow.
    pub migrated_to: Option<i64>,
}

/// Everything is delivered: delivery and end are one write.
pub fn delivered(flight: &mut Flight, receipt: &Receipt) -> Change {
    let ids = message_list(&receipt.message_ids);
    let files = json_list(&receipt.file_ids);
    let with_ids = |event: super::flight::Event| {
        event
            .with("message_ids", ids.clone())
            .with("file_ids", files.clone())
    };
    let done = with_ids(ending(flight, "done")).with("files", json_list(&receipt.files));
    let mut patch = Patch::default()
        .set("message_ids", ids.clone())
        .set("file_ids", files.clone())
        .del(&["rung", "error", "kind"]);
    if let Some(target) = &flight.target {
        // The entry goes: what a redelivery needs stays.
        patch = patch
            .set("file_kinds", json_list(&receipt.file_kinds))
            .set("sent_to", target.to_resend_json(Words::Left));
        let mut event = with_ids(flight.event("delivered"));
        event.since = flight.completed_at;
        if let Some(chat) = receipt.migrated_to {
            event = event.with("migrated_to", chat.to_string());
        }
        patch = patch.event(event);
    }
    let patch = patch.event(done);
    flight.closing = true;
    Change::write(
        Write::End {
            state: EndState::Done,
            patch,
        },
        Next::Over,
    )
}

/// What a delivery that failed has left in the chat all the same: a redelivery sends it again for free.
pub fn keep_what_went(mut change: Change, receipt: &Receipt) -> Change {
    if let Some(Write::Save { patch, .. } | Write::End { patch, .. }) = &mut change.write
        && !receipt.message_ids.is_empty()
    {
        let fields = [
            ("message_ids", message_list(&receipt.message_ids)),
            ("file_ids", json_list(&receipt.file_ids)),
            ("file_kinds", json_list(&receipt.file_kinds)),
        ];
        patch.set.extend(fields);
    }
    change
}

/// A redelivery has ended: its one event names the job whose result it was, with what is in the chat now
/// and, where it failed, why. Nothing is told to the user, and no dead letter stays.
pub fn redelivered(flight: &mut Flight, receipt: &Receipt, failed: Option<&Failure>) -> Change {
    let ids = message_list(&receipt.message_ids);
    let files = json_list(&receipt.file_ids);
    let mut event = flight
        .event("redelivered")
        .with("message_ids", ids.clone())
        .with("file_ids", files);
    event.since = Some(flight.queued_at);
    if let Some(redelivers) = &flight.redelivers {
        for (name, value) in &mut event.fields {
            if *name == "job" {
                value.clone_from(&redelivers.job);
            }
        }
    }
    let mut patch = Patch::default()
        .set("message_ids", ids)
        .set("charged", Charged::No.as_str())
        .del(&["rung", "result", "file_ids", "file_kinds", "sent_to"]);
    if let Some(failed) = failed {
        event = event
            .with("kind", failed.kind.as_str())
            .with("error", failed.text.clone());
        patch = patch
            .set("kind", failed.kind.as_str())
            .set("error", failed.text.clone());
    }
    flight.closing = true;
    Change::write(
        Write::End {
            state: EndState::Done,
            patch: patch.event(event),
        },
        Next::Over,
    )
}

/// A final failure: the user is told in a phase of its own, then the job ends.
pub fn fail(flight: &mut Flight, failed: Failure, moment: Moment) -> Change {
    flight.charge(&failed);
    flight.cancelling = None;
    flight.cancel_asked = false;
    flight.step_tries = 0;
    flight.order = None;
    flight.entry = None;
    flight.failure = Some((failed.kind, failed.text));
    if flight.target.is_none() || failed.kind == Kind::ChatUnreachable {
        return end_failed(flight, None);
    }
    flight.phase = Phase::Telling;
    flight.telling_at = Some(moment.now);
    flight.rung = String::new();
    flight.doubt = Doubt::None;
    let (kind, text) = flight
        .failure
        .clone()
        .unwrap_or((Kind::Unavailable, String::new()));
    let patch = Patch::default()
        .set("phase", Phase::Telling.as_str())
        .set("kind", kind.as_str())
        .set("error", text)
        .set("attempt", flight.attempt.to_string())
        .set("charged", flight.charged.as_str())
        .set_some("units", flight.units.clone())
        .stamp("telling_at")
        .del(&["rung", "doubt", "crashes", "cancelling"]);
    Change::write(
        Write::Save {
            patch,
            count: None,
            large: None,
        },
        Next::Now,
    )
}

/// The user was told (`Some(true)`), could not be (`Some(false)`), or there is nobody to tell.
pub fn end_failed(flight: &mut Flight, told: Option<bool>) -> Change {
    let (kind, text) = flight
        .failure
        .clone()
        .unwrap_or((Kind::Unavailable, "unknown".to_owned()));
    let (state, name) = match kind {
        Kind::Cancelled => (EndState::Cancelled, "cancelled"),
        _ => (EndState::Dead, "failed"),
    };
    let event = ending(flight, name)
        .with("kind", kind.as_str())
        .with("error", text.clone());
    let told = told.map(|told| if told { "yes" } else { "no" });
    let patch = Patch::default()
        .set("kind", kind.as_str())
        .set("error", text)
        .set("attempt", flight.attempt.to_string())
        .set("charged", flight.charged.as_str())
        .set_some("units", flight.units.clone())
        .set_some("told", told)
        .del(&["rung", "telling_at", "cancelling"])
        .event(event);
    flight.closing = true;
    Change::write(Write::End { state, patch }, Next::Over)
}

/// The event that ends a life.
fn ending(flight: &Flight, name: &'static str) -> super::flight::Event {
    let mut event = flight.event(name).with("charged", flight.charged.as_str());
    event.since = Some(flight.queued_at);
    if let Some(request) = &flight.request {
        event = event.with("request_id", &*request.0);
    }
    if let Some(units) = &flight.units {
        event = event.with("units", units.clone());
    }
    event
}

fn failure(kind: Kind, text: &str, charged: Charged) -> Failure {
    Failure {
        kind,
        remedy: Remedy::Final,
        text: text.to_owned(),
        charged,
        units: None,
        retry_after: None,
        spoke: true,
    }
}

/// Time from `from` to `to`; nothing when the clock went back.
pub(crate) fn since(from: UnixMs, to: UnixMs) -> Duration {
    Duration::from_millis(u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0))
}

fn json_list(texts: &[String]) -> String {
    serde_json::to_string(texts).unwrap_or_else(|_| "[]".to_owned())
}

fn message_list(ids: &[i64]) -> String {
    serde_json::to_string(ids).unwrap_or_else(|_| "[]".to_owned())
}

#[cfg(test)]
mod tests;
