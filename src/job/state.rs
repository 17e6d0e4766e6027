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

mod cancel;
mod collect;
mod deliver;
mod poll;
mod submit;

pub use cancel::{after_cancel, begin_cancel, cancel_is_due, cancel_unsubmitted};
pub use collect::{after_collect, after_direct, save_large};
pub use deliver::{
    Receipt, delivered, delivery_progress, delivery_went_on, keep_what_went, redelivered,
};
pub use poll::after_poll;
pub use submit::{
    after_submit, before_resubmit, before_submit, direct_must_wait, inputs_failed, leave_line,
    stand_in_line,
};

use super::answer::{Accepted, Cancelled, Collected, Directed, Output, Polled, Submitted};
use super::failure::{Failure, Kind, Remedy};
use super::flight::{Cancelling, Doubt, EndState, Flight, InPlace, LARGE, Patch, ResultIn, Write};
use super::schedule::{PollBounds, backoff};
use super::spec::{Via, Words};
use super::{Charged, Phase, UnixMs};
use cancel::{cancel_text, grace_is_over, seen_in_queue, still_there, stopped, stopped_unseen};
use collect::{IN_PLACE, KEPT_AT_FAL, perhaps};
use poll::{WORDLESS, but_stays_free, is_overdue, missing, retry_step};
use std::sync::Arc;
use std::time::Duration;
use submit::{later, unknown_submit};

/// The least wait before the repeat of a submit of unknown outcome: a late request id may still come. Eight times as
/// long for each attempt before it: all else of fal may answer well while submits are lost, so that nothing else holds
/// the repeats back, and each may be a payment.
const UNKNOWN_WAIT: Duration = Duration::from_secs(2);
/// How long a user may be unreachable before a failed job ends untold.
pub(crate) const TELL_LIMIT: Duration = Duration::from_secs(120);
/// How often a result that says "failed, try anew" is asked for again before it is believed.
const VERDICTS: u32 = 2;
/// What stands as the error of a job that somebody cancelled; the script `cancel` says the same.
const CANCEL_ASKED: &str = "cancelled by request";
/// A good status, a broken result: how often it is asked for again.
const BAD_ANSWERS: u32 = 8;

/// The time and the random number that a decision is made with.
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
    /// What to write to Redis before anything else.
    pub write: Option<Write>,
    /// What happens to the flight then.
    pub next: Next,
    /// What to tell the operator.
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

    /// A save of nothing but a patch.
    pub(super) fn save(patch: Patch, next: Next) -> Change {
        let write = Write::Save {
            patch,
            count: None,
            large: None,
        };
        Change::write(write, next)
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

/// A final failure: the user is told in a phase of its own, then the job ends.
pub fn fail(flight: &mut Flight, failed: Failure, moment: Moment) -> Change {
    flight.charge(&failed);
    flight.cancelling = None;
    flight.cancel_asked = false;
    flight.step_tries = 0;
    flight.order = None;
    flight.entry = None;
    flight.failure = Some((failed.kind, failed.text));
    if flight.result_in != ResultIn::Record {
        // Too large to keep through a telling, which needs nothing of it.
        flight.result = None;
        flight.found = Vec::new();
    }
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
        .set_some("request_id", direct_request(flight))
        .stamp("telling_at")
        .del(&["rung", "doubt", "crashes", "cancelling"]);
    Change::save(patch, Next::Now)
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
        .set_some("request_id", direct_request(flight))
        .set_some("told", told)
        .del(&["rung", "telling_at", "cancelling"])
        .event(event);
    flight.closing = true;
    Change::write(Write::End { state, patch }, Next::Over)
}

/// The request id of a direct call, which has no write of its own for it.
fn direct_request(flight: &Flight) -> Option<&str> {
    let request = flight.request.as_ref()?;
    (flight.via == Via::Direct).then_some(&*request.0)
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
    Failure::new(kind, Remedy::Final, charged, text)
}

fn json_list(texts: &[String]) -> String {
    serde_json::to_string(texts).unwrap_or_else(|_| "[]".to_owned())
}

fn message_list(ids: &[i64]) -> String {
    serde_json::to_string(ids).unwrap_or_else(|_| "[]".to_owned())
}

#[cfg(test)]
mod tests;
