//! The queue itself: who waits, who runs, what has ended by now.
//!
//! No socket and no thread: events lie in a heap and are worked out up to the moment of asking, so a job
//! starts and ends at its exact time even when nobody looked.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{CancelledAnswer, Outcome, Script, SubmitEntry};
use crate::sandbox::http::Request;
use crate::sandbox::unix_ms;

#[derive(Debug)]
pub(super) struct State {
    pub(super) models: HashMap<String, Arc<Script>>,
    pub(super) rng: fastrand::Rng,
    pub(super) jobs: Vec<Job>,
    pub(super) by_id: HashMap<String, usize>,
    pub(super) normal: VecDeque<(u64, usize)>,
    pub(super) low: VecDeque<(u64, usize)>,
    pub(super) next_ticket: u64,
    pub(super) slots: usize,
    pub(super) running: usize,
    pub(super) billed: u64,
    pub(super) events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    pub(super) next_event: u64,
    pub(super) clock: Instant,
    pub(super) keep: Duration,
    pub(super) keep_large: Duration,
    pub(super) cancelled_answer: CancelledAnswer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// Job, and which of its runs this belongs to.
    Finish(usize, u32),
    Crash(usize, u32),
    StartDeadline(usize),
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) entry: SubmitEntry,
    pub(super) stem: String,
    pub(super) script: Arc<Script>,
    pub(super) generation: Duration,
    pub(super) seed: u64,
    pub(super) ticket: u64,
    pub(super) low: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) run: u32,
    pub(super) phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Queued,
    Running,
    Done(End),
    /// Unknown to every call.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    AsScripted,
    StartDeadline,
    Cancelled,
    /// The app is known, its path is not.
    NoSuchPath,
}

impl State {
    /// Works out everything that happened up to `now`.
    pub(super) fn advance(&mut self, now: Instant) {
        loop {
            self.fill_slots();
            match self.events.peek() {
                Some(Reverse((at, _, _))) if *at <= now => {}
                _ => break,
            }
            if let Some(Reverse((at, _, event))) = self.events.pop() {
                self.clock = at;
                self.happen(event);
            }
        }
        self.clock = now;
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Finish(at, run) if self.is_running(at, run) => self.finish(at, End::AsScripted),
            Event::Crash(at, run) if self.is_running(at, run) => {
                self.running -= 1;
                let job = &mut self.jobs[at];
                job.phase = Phase::Queued;
                if job.deadline.is_some_and(|deadline| deadline <= self.clock) {
                    self.end(at, End::StartDeadline);
                } else {
                    self.enqueue(at);
                }
            }
            Event::StartDeadline(at) if self.jobs[at].phase == Phase::Queued => {
                self.leave_queue(at);
                self.end(at, End::StartDeadline);
            }
            Event::Finish(..) | Event::Crash(..) | Event::StartDeadline(_) => {}
        }
    }

    pub(super) fn is_running(&self, at: usize, run: u32) -> bool {
        self.jobs[at].phase == Phase::Running && self.jobs[at].run == run
    }

    pub(super) fn fill_slots(&mut self) {
        while self.running < self.slots {
            let Some((_, at)) = self.normal.pop_front().or_else(|| self.low.pop_front()) else {
                return;
            };
            self.start(at);
        }
    }

    pub(super) fn start(&mut self, at: usize) {
        self.running += 1;
        let now = self.clock;
        let job = &mut self.jobs[at];
        job.phase = Phase::Running;
        job.run += 1;
        job.entry.started = Some(now);
        let crashes = matches!(job.script.outcome, Outcome::CrashThenRetry) && job.run == 1;
        let event = if crashes {
            Event::Crash(at, job.run)
        } else {
            Event::Finish(at, job.run)
        };
        if !matches!(job.script.outcome, Outcome::Never) {
            let when = now + job.generation;
            self.schedule(when, event);
        }
    }

    pub(super) fn schedule(&mut self, when: Instant, event: Event) {
        self.next_event += 1;
        self.events.push(Reverse((when, self.next_event, event)));
    }

    pub(super) fn enqueue(&mut self, at: usize) {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.jobs[at].ticket = ticket;
        let line = if self.jobs[at].low {
            &mut self.low
        } else {
            &mut self.normal
        };
        line.push_back((ticket, at));
    }

    pub(super) fn leave_queue(&mut self, at: usize) {
        let ticket = self.jobs[at].ticket;
        let line = if self.jobs[at].low {
            &mut self.low
        } else {
            &mut self.normal
        };
        if let Ok(place) = line.binary_search_by_key(&ticket, |(t, _)| *t) {
            line.remove(place);
        }
    }

    pub(super) fn position(&self, at: usize) -> usize {
        let job = &self.jobs[at];
        let line = if job.low { &self.low } else { &self.normal };
        let place = line
            .binary_search_by_key(&job.ticket, |(t, _)| *t)
            .unwrap_or(0);
        if job.low {
            self.normal.len() + place
        } else {
            place
        }
    }

    /// Ends a job that holds a slot.
    pub(super) fn finish(&mut self, at: usize, end: End) {
        self.running -= 1;
        self.end(at, end);
    }

    pub(super) fn end(&mut self, at: usize, end: End) {
        let job = &mut self.jobs[at];
        job.phase = Phase::Done(end);
        job.entry.completed = Some(self.clock);
        job.entry.billed =
            end == End::AsScripted && !matches!(job.script.outcome, Outcome::Error { .. });
        self.billed += u64::from(job.entry.billed);
    }

    pub(super) fn accept(&mut self, submit: NewJob<'_>) -> usize {
        let NewJob {
            request,
            model,
            stem,
            script,
            low,
            direct,
        } = submit;
        let id = uuid(&mut self.rng);
        let span = script.generation_max.saturating_sub(script.generation_min);
        let generation = script.generation_min + span.mul_f64(self.rng.f64());
        let interesting = |name: &str| {
            name.starts_with("x-fal-")
                || name.starts_with("x-app-fal-")
                || matches!(name, "content-type" | "accept" | "user-agent")
        };
        let entry = SubmitEntry {
            request_id: id.clone(),
            model: model.to_owned(),
            at: self.clock,
            unix_ms: unix_ms(),
            input: Arc::from(request.body.as_slice()),
            headers: request
                .headers
                .iter()
                .filter(|(name, _)| interesting(name))
                .cloned()
                .collect(),
            query: request.query.clone(),
            direct,
            started: None,
            completed: None,
            cancelled: false,
            billed: false,
            polls: 0,
            early: 0,
            polled: None,
            status_found_end: false,
            fetches: 0,
        };
        self.jobs.push(Job {
            entry,
            stem: stem.to_owned(),
            script,
            generation,
            seed: self.rng.u64(..) | 1 << 63,
            ticket: 0,
            low,
            deadline: None,
            run: 0,
            phase: Phase::Queued,
        });
        self.by_id.insert(id, self.jobs.len() - 1);
        self.jobs.len() - 1
    }

    /// Whether the result is too old to be kept.
    pub(super) fn expired(&self, job: &Job, output_len: impl FnOnce() -> usize) -> bool {
        let Some(completed) = job.entry.completed else {
            return false;
        };
        let age = self.clock.saturating_duration_since(completed);
        age >= self.keep || (age >= self.keep_large && output_len() >= 10 << 10)
    }
}

pub(super) struct NewJob<'a> {
    pub(super) request: &'a Request,
    pub(super) model: &'a str,
    pub(super) stem: &'a str,
    pub(super) script: Arc<Script>,
    pub(super) low: bool,
    pub(super) direct: bool,
}

pub(super) fn uuid(rng: &mut fastrand::Rng) -> String {
    let bits = (rng.u128(..) & !(0xF << 76 | 0x3 << 62)) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
