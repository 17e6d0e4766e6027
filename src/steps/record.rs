//! From a decision to Redis: written, reported, and kept with the flight (and in the step file) while Redis does
//! not take it. What a refused write means is decided here: another owner, a Redis that forgot, a request nobody
//! needs.

use super::{REDIS_AWAY, REDIS_REFUSES, Snapshot, Worker, job, minutes};
use crate::fal::Handle;
use crate::job::answer::Cancelled;
use crate::job::failure::Kind;
use crate::job::flight::{EndState, Flight, Write};
use crate::job::state::{Change, Next, Say};
use crate::job::{Phase, RequestId, UnixMs};
use crate::recorder::Command;
use crate::report;
use crate::store::{Call, Denied, Fault, Written};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What became of the writes of a flight.
#[derive(Debug, PartialEq)]
pub(super) enum Flushed {
    /// All stand.
    Done,
    /// The job is not ours any more.
    Dropped,
    /// Redis is away, or refuses one; they stay with the flight, for so long at least.
    Kept(Duration),
}

/// What a flight is at the stop, after the last try to write what is unsaved.
#[derive(Debug, PartialEq)]
pub(crate) enum LastFlush {
    /// To be given back.
    Ours,
    /// It has ended, or is another's.
    Over,
    /// Redis did not take all.
    Unsaved,
}

impl Worker {
    /// Writes and reports a decision; gives what comes next. What a payment or a message brought is in the
    /// step file before Redis is asked, and what Redis does not take goes into its journal.
    pub(super) fn record(&self, flight: &mut Flight, change: Change) -> Next {
        self.leave();
        self.record_inside(flight, change)
    }

    /// The same, by a step that goes on to its exchange: it keeps its place.
    pub(super) fn record_inside(&self, flight: &mut Flight, change: Change) -> Next {
        self.say(flight, &change);
        let Some(write) = change.write else {
            return change.next;
        };
        let seq = flight.number(&write);
        flight.closing = write.closes();
        let call = self.session.prepare(flight, seq, &write);
        let acted = self.slot.as_ref().filter(|slot| slot.is_acting());
        let always = acted.is_some();
        if let Some(slot) = acted {
            slot.brought(call.script_name(), call.packed());
        }
        // Room for one: there is hardly ever a second, and of its own accord it would make room for four.
        flight.unsaved.reserve_exact(1);
        flight.unsaved.push_back((seq, write));
        let call = match self.wait_for_company(flight, change.next, call) {
            Ok(next) => return next,
            Err(call) => call,
        };
        let flushed = self.flush_with(flight, Some((seq, call)));
        if let Flushed::Kept(_) = flushed {
            self.keep(flight, seq, always);
        }
        match flushed {
            Flushed::Done => change.next,
            Flushed::Dropped => Next::Over,
            Flushed::Kept(_)
                if !flight.closing
                    && matches!(flight.phase, Phase::Polling | Phase::Collecting) =>
            {
                change.next
            }
            Flushed::Kept(wait) => Next::In(wait),
        }
    }

    /// Keeps a write that Redis did not take; `always`: it says what a payment or a message brought.
    pub(super) fn keep(&self, flight: &Flight, seq: u32, always: bool) {
        let recorder = &self.tools.recorder;
        if let Some((_, write)) = flight.unsaved.iter().find(|(number, _)| *number == seq)
            && recorder.is_on()
        {
            let command = command(&self.session.prepare(flight, seq, write));
            recorder.keep(&flight.token.0, seq, &command, always);
        }
    }

    /// Writes what is unsaved, oldest first.
    pub(super) fn flush(&self, flight: &mut Flight) -> Flushed {
        self.flush_with(flight, None)
    }

    /// The same, with the command of one of the writes.
    fn flush_with(&self, flight: &mut Flight, prepared: Option<(u32, Call<'_>)>) -> Flushed {
        let flushed = self.flush_prepared(flight, prepared);
        if flushed == Flushed::Dropped {
            self.tools.recorder.settled(&flight.token.0, None);
        }
        flushed
    }

    fn flush_prepared(
        &self,
        flight: &mut Flight,
        mut prepared: Option<(u32, Call<'_>)>,
    ) -> Flushed {
        while let Some((seq, write)) = flight.unsaved.pop_front() {
            let call = match prepared.take() {
                Some((number, call)) if number == seq => call,
                other => {
                    prepared = other;
                    self.session.prepare(flight, seq, &write)
                }
            };
            let written = match self.session.carry_out(flight, seq, &write, &call) {
                Ok(Written::Stale | Written::Gone) => self.maybe_forgotten(flight, seq, &write),
                other => other,
            };
            if written.is_ok() {
                self.tools.recorder.settled(&flight.token.0, Some(seq));
            }
            match written {
                Ok(Written::Ok) => self.report_written(flight, &write),
                Ok(Written::Stale | Written::Gone) => {
                    self.bring_home(flight, seq);
                    return Flushed::Dropped;
                }
                Ok(Written::Cancel) => {
                    self.cancel_needless(flight, &write);
                    return Flushed::Dropped;
                }
                Ok(other @ (Written::Other | Written::Adopted)) => {
                    if other == Written::Other {
                        self.cancel_needless(flight, &write);
                    }
                    // The record has a request that we do not know: the next claim of this job knows all
                    // about it, and paid jobs are claimed first.
                    if self
                        .session
                        .disown(flight.id.as_str(), &flight.token.0)
                        .is_err()
                    {
                        flight.unsaved.push_front((seq, write));
                        return Flushed::Kept(REDIS_AWAY);
                    }
                    return Flushed::Dropped;
                }
                Err(fault) => {
                    flight.unsaved.push_front((seq, write));
                    let Fault::Refused(why) = fault else {
                        return Flushed::Kept(REDIS_AWAY);
                    };
                    let id = flight.id.as_str();
                    report::warning(
                        "redis refused a write, it is tried again",
                        &[("job", &id), ("why", &why.as_str())],
                    );
                    return Flushed::Kept(REDIS_REFUSES);
                }
            }
        }
        Flushed::Done
    }

    /// The job has another owner. Offers our request id to its record once more; if nobody needs it there, it is
    /// cancelled at fal.
    fn bring_home(&self, flight: &Flight, seq: u32) {
        let Some(request) = flight.request.clone() else {
            return;
        };
        let (path, attempt) = (flight.path.clone(), flight.attempt);
        let event = flight.event("submitted");
        let write = Write::Submitted {
            request,
            path,
            attempt,
            event,
        };
        if let Ok(Written::Cancel | Written::Other) = self.session.write(flight, seq, &write) {
            self.cancel_needless(flight, &write);
        }
    }

    /// A refused write, while Redis may have forgotten that the job is ours: write the job down again,
    /// then the write once more.
    fn maybe_forgotten(&self, flight: &Flight, seq: u32, write: &Write) -> Result<Written, Fault> {
        let now = self.tools.store.now();
        if !self.tools.store.health.forgot() || self.tools.lease.is_forgotten(now) {
            return Ok(Written::Stale);
        }
        let mut remembered = Snapshot::of(flight).remembered();
        remembered.seq = seq.saturating_sub(1);
        match self.session.reassert_flights(&[remembered]) {
            Ok(lost) if lost.is_empty() => self.session.write(flight, seq, write),
            Ok(_) | Err(Denied::Buried | Denied::Unregistered | Denied::Settling) => {
                Ok(Written::Stale)
            }
            Err(Denied::Fault(fault)) => Err(fault),
        }
    }

    /// We were taken over: the job is another instance's. Only a request id that is nowhere else
    /// recorded is still brought home.
    pub(super) fn let_go(&self, flight: &mut Flight) -> Next {
        let submitted = flight
            .unsaved
            .iter()
            .find(|(_, write)| matches!(write, Write::Submitted { .. }))
            .cloned();
        if let Some((seq, write)) = submitted {
            match self.session.write(flight, seq, &write) {
                Ok(Written::Cancel | Written::Gone | Written::Other) => {
                    self.cancel_needless(flight, &write)
                }
                Ok(Written::Ok | Written::Stale | Written::Adopted) => {}
                Err(_) => return Next::In(REDIS_AWAY),
            }
        }
        self.tools.recorder.settled(&flight.token.0, None);
        Next::Over
    }

    /// A second request for one job: ended at fal, if fal is quick enough.
    fn cancel_needless(&self, flight: &Flight, write: &Write) {
        let Write::Submitted { request, path, .. } = write else {
            return;
        };
        let Some(model) = &flight.model else { return };
        let answer = self.tools.fal.cancel(
            model,
            Handle {
                request,
                path: path.as_deref(),
            },
        );
        say_cancelled(flight.id.as_str(), request, &answer);
    }

    /// A last try to write what Redis has not taken, at the stop.
    pub(crate) fn last_flush(&self, flight: &mut Flight) -> LastFlush {
        match self.flush(flight) {
            Flushed::Done if flight.closing => LastFlush::Over,
            Flushed::Done => LastFlush::Ours,
            Flushed::Dropped => LastFlush::Over,
            Flushed::Kept(_) => {
                // What a full disk did not keep when it came: there may be room by now.
                for (seq, _) in &flight.unsaved {
                    self.keep(flight, *seq, true);
                }
                LastFlush::Unsaved
            }
        }
    }

    fn say(&self, flight: &Flight, change: &Change) {
        match &change.say {
            Say::Nothing => {}
            // A step that is repeated at a service that is away: the outage has its own two lines.
            Say::Retrying {
                kind: Kind::Unavailable,
                text,
                ..
            } if change.write.is_none() => {
                report::debug(
                    "step repeated",
                    &[("job", &flight.id.as_str()), ("why", &text.as_str())],
                );
            }
            Say::Retrying { kind, wait, text } => {
                report::job_retrying(&job(flight), *kind, *wait, text)
            }
            Say::SubmittedAgain => report::resubmitted_after_unknown(&job(flight)),
            Say::SentAgain => report::resent_after_unknown(&job(flight)),
        }
    }

    /// What fal billed since the last write, and what the write told the stream.
    fn count_written(&self, flight: &mut Flight, write: &Write) {
        for name in write.events() {
            report::event(name, 1);
        }
        let units = (flight.units.as_deref()).and_then(|units| units.parse::<f64>().ok());
        if let Some(units) = units.filter(|units| *units != flight.units_told) {
            let model = flight.model.as_ref().map_or("", |model| model.as_str());
            report::metrics::billed(model, units - flight.units_told);
            flight.units_told = units;
        }
    }

    pub(super) fn report_written(&self, flight: &mut Flight, write: &Write) {
        self.count_written(flight, write);
        let Write::End { state, .. } = write else {
            return;
        };
        if let Some(redelivers) = &flight.redelivers {
            return report::redelivered(&job(flight), &redelivers.job, flight.failure.as_ref());
        }
        let now = self.tools.store.now();
        let between =
            |from: Option<UnixMs>, to: Option<UnixMs>| Some(from?.until(to?).as_millis() as u64);
        let total_ms = between(Some(flight.queued_at), Some(now));
        let delay = flight.wanted_at.until(now);
        let model = flight.model.as_ref().map(|model| model.as_str());
        (self.tools).count_end(now, model, minutes::ended(*state, delay));
        match state {
            EndState::Done => {
                self.tools.done.fetch_add(1, Ordering::Relaxed);
                let spent = report::Spent {
                    queue_ms: between(Some(flight.queued_at), flight.submitted_at),
                    gen_ms: between(flight.submitted_at, flight.completed_at),
                    deliver_ms: between(flight.completed_at, Some(now)),
                    total_ms,
                };
                report::job_done(&job(flight), &spent);
            }
            EndState::Dead => {
                self.tools.failed.fetch_add(1, Ordering::Relaxed);
                let (kind, text) = flight
                    .failure
                    .as_ref()
                    .map_or((Kind::Unavailable, ""), |(kind, text)| (*kind, text));
                report::job_failed(&job(flight), kind, flight.charged, text, total_ms);
            }
            EndState::Cancelled => report::job_cancelled(&job(flight), flight.charged, total_ms),
        }
    }
}

fn command(call: &Call<'_>) -> Command {
    let (script, packed) = call.to_bytes();
    Command {
        script: script.to_owned(),
        packed,
    }
}

pub(super) fn say_cancelled(job: &str, request: &RequestId, answer: &Cancelled) {
    // Its name only: the text of a failure is fal's.
    let word = match answer {
        Cancelled::Requested => "requested",
        Cancelled::Removed => "removed",
        Cancelled::AlreadyCompleted => "already completed",
        Cancelled::Missing => "unknown there",
        Cancelled::Failed(_) => "failed",
    };
    report::warning(
        "a second request of one job was cancelled at fal",
        &[("job", &job), ("request", &&*request.0), ("answer", &word)],
    );
}
