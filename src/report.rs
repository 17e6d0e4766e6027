//! What the operator sees: one function a moment, which writes its line with fixed keys, and counts it
//! where a figure is told of it. The only room that logs at info or above, so that keys never drift
//! (contract section 6). No prompt, no caption and no secret comes in here.
//!
//! Global state, and why: the logger is one for the process, and so is what it holds back of a flood; the
//! counters are what the metrics page reads, and the list of hidden texts must reach lines that libraries
//! write.

mod flood;
mod line;
mod logger;
pub mod metrics;
mod outlet;
mod refusals;
#[cfg(test)]
mod tests;

pub use line::{Fields, Shown, Value, misleads};
pub use log::Level;
pub use logger::{
    Style, hide, init_logging, install_panic_hook, line, lines_lost, tell_held_back,
    without_secrets,
};
pub use refusals::{At, Refusals};

use crate::job::failure::Kind;
use crate::job::{Charged, Phase};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Every event that the stream can hold (contract section 2).
pub const EVENTS: [&str; 13] = [
    "queued",
    "started",
    "submitted",
    "completed",
    "delivered",
    "done",
    "retrying",
    "failed",
    "cancelled",
    "deferred",
    "duplicate",
    "redelivered",
    "taken_over",
];

/// Kinds of leaks at most that are counted one by one; there are some twenty.
const REPAIRS: usize = 50;

/// How often each moment came that the metrics page or the status line counts, since the start of the
/// process. Read with `load(Relaxed)`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Jobs ended well.
    pub done: AtomicU64,
    /// Jobs that ended `dead`, dead letters among them.
    pub failed: AtomicU64,
    /// Retries, by [`Kind::ALL`]'s order.
    pub retries: [AtomicU64; Kind::ALL.len()],
    /// Submits repeated after one of unknown outcome: each may be a second payment.
    pub resubmitted_after_unknown: AtomicU64,
    /// Sends repeated after one of unknown outcome: each may be a second message.
    pub resent_after_unknown: AtomicU64,
    /// Dead instances whose jobs were taken over.
    pub takeovers: AtomicU64,
    /// Leaks that the audit mended, by kind: rare, so a lock costs nothing.
    pub repairs_by_kind: Mutex<BTreeMap<String, u64>>,
    /// Events that this process wrote, in the order of [`EVENTS`].
    pub events: [AtomicU64; EVENTS.len()],
    /// Questions how far a request is.
    pub polls: AtomicU64,
    /// Calls on Redis that failed, and connections that could not be opened.
    pub redis_errors: AtomicU64,
    /// Times that a service went away.
    pub outages: AtomicU64,
    /// Panics caught.
    pub panics: AtomicU64,
}

static COUNTERS: Counters = Counters {
    done: AtomicU64::new(0),
    failed: AtomicU64::new(0),
    retries: [const { AtomicU64::new(0) }; Kind::ALL.len()],
    resubmitted_after_unknown: AtomicU64::new(0),
    resent_after_unknown: AtomicU64::new(0),
    takeovers: AtomicU64::new(0),
    repairs_by_kind: Mutex::new(BTreeMap::new()),
    events: [const { AtomicU64::new(0) }; EVENTS.len()],
    polls: AtomicU64::new(0),
    redis_errors: AtomicU64::new(0),
    outages: AtomicU64::new(0),
    panics: AtomicU64::new(0),
};

/// The process's counters.
pub fn counters() -> &'static Counters {
    &COUNTERS
}

/// This process wrote so many events of this name into the stream.
pub fn event(name: &str, count: u64) {
    if let Some(place) = EVENTS.iter().position(|each| *each == name) {
        COUNTERS.events[place].fetch_add(count, Relaxed);
    }
}

/// fal was asked how far a request is.
pub fn polled() {
    COUNTERS.polls.fetch_add(1, Relaxed);
}

/// A call on Redis failed, or a connection could not be opened.
pub fn redis_error() {
    COUNTERS.redis_errors.fetch_add(1, Relaxed);
}

impl Counters {
    /// Retries because of this kind.
    pub fn retries_of(&self, kind: Kind) -> &AtomicU64 {
        let place = Kind::ALL.iter().position(|each| *each == kind);
        &self.retries[place.expect("ALL holds every kind")]
    }
}

/// A job as lines name it; these keys come first, in this order.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// Its id.
    pub job: &'a str,
    /// Whom the limits count.
    pub user: Option<&'a str>,
    /// The model.
    pub model: Option<&'a str>,
    /// Payments so far; 0 before the first submit.
    pub attempt: u32,
    /// fal's name for the request under way.
    pub request: Option<&'a str>,
}

impl Job<'_> {
    fn line(&self, level: Level, sentence: &str, more: &Fields<'_>) {
        let own: [(&str, &dyn Value); 5] = [
            ("job", &self.job),
            ("user", &self.user),
            ("model", &self.model),
            ("attempt", &self.attempt),
            ("request", &self.request),
        ];
        line(level, sentence, &[&own[..], more].concat());
    }
}

/// Where a job's time went, milliseconds; what never happened is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// From coming in to the submit.
    pub queue_ms: Option<u64>,
    /// From the submit to fal's result.
    pub gen_ms: Option<u64>,
    /// From the result to the last message.
    pub deliver_ms: Option<u64>,
    /// From coming in to the end.
    pub total_ms: Option<u64>,
}

/// The process works.
#[derive(Clone, Copy, Debug)]
pub struct Ready<'a> {
    /// `<name>~<8 hex>`.
    pub instance: &'a str,
    /// Of this program.
    pub version: &'a str,
    /// Pool threads.
    pub threads: usize,
    /// Transfer threads.
    pub transfer_threads: usize,
    /// Address, without its password.
    pub redis: &'a str,
    /// What Redis calls itself.
    pub redis_version: Option<&'a str>,
    /// First part of the keys.
    pub namespace: &'a str,
    /// The list that is read.
    pub inbox: &'a str,
    /// Since the process started.
    pub start_ms: u64,
    /// Where health is told.
    pub listen: Option<&'a str>,
}

/// `ready`
pub fn ready(ready: &Ready<'_>) {
    line(
        Level::Info,
        "ready",
        &[
            ("instance", &ready.instance),
            ("version", &ready.version),
            ("threads", &ready.threads),
            ("transfer_threads", &ready.transfer_threads),
            ("redis", &ready.redis),
            ("redis_version", &ready.redis_version),
            ("namespace", &ready.namespace),
            ("inbox", &ready.inbox),
            ("start_ms", &ready.start_ms),
            ("listen", &ready.listen),
        ],
    );
}

/// The configuration is wrong: the last line before exit 78. Works before [`init_logging`] too. The
/// error is the sentence, not a field, since quoting would double the quotes in it.
pub fn refused(error: &dyn std::fmt::Display) {
    init_logging(Style::detect());
    line(
        Level::Error,
        &format!("configuration refused: {error}"),
        &[],
    );
}

/// The configuration is good, and still it cannot run: the last line before exit 70.
pub fn not_started(error: &dyn std::fmt::Display) {
    line(Level::Error, &format!("not started: {error}"), &[]);
}

/// `job started`: claimed here, at this phase of its life.
pub fn job_started(job: &Job<'_>, phase: Phase) {
    job.line(Level::Info, "job started", &[("phase", &phase)]);
}

/// `job done`
pub fn job_done(job: &Job<'_>, spent: &Spent) {
    COUNTERS.done.fetch_add(1, Relaxed);
    metrics::job_took(job.model.unwrap_or_default(), spent);
    job.line(
        Level::Info,
        "job done",
        &[
            ("queue_ms", &spent.queue_ms),
            ("gen_ms", &spent.gen_ms),
            ("deliver_ms", &spent.deliver_ms),
            ("total_ms", &spent.total_ms),
        ],
    );
}

/// `job failed`: it is dead now.
pub fn job_failed(job: &Job<'_>, kind: Kind, charged: Charged, error: &str, total_ms: Option<u64>) {
    COUNTERS.failed.fetch_add(1, Relaxed);
    job.line(
        Level::Warn,
        "job failed",
        &[
            ("kind", &kind),
            ("charged", &charged),
            ("error", &error),
            ("total_ms", &total_ms),
        ],
    );
}

/// `job cancelled`
pub fn job_cancelled(job: &Job<'_>, charged: Charged, total_ms: Option<u64>) {
    job.line(
        Level::Info,
        "job cancelled",
        &[("charged", &charged), ("total_ms", &total_ms)],
    );
}

/// `result sent again`: a redelivery of this job has ended, or why it could not.
pub fn redelivered(redelivery: &Job<'_>, of: &str, failed: Option<&(Kind, String)>) {
    let named = Job {
        job: of,
        ..*redelivery
    };
    match failed {
        None => named.line(Level::Info, "result sent again", &[]),
        Some((kind, error)) => {
            named.line(
                Level::Warn,
                "result not sent again",
                &[("kind", kind), ("error", &error.as_str())],
            );
        }
    }
}

/// `job retrying`: this step again, or a new submit, in so long.
pub fn job_retrying(job: &Job<'_>, kind: Kind, wait: Duration, error: &str) {
    COUNTERS.retries_of(kind).fetch_add(1, Relaxed);
    let in_ms = wait.as_millis() as u64;
    job.line(
        Level::Warn,
        "job retrying",
        &[("kind", &kind), ("in_ms", &in_ms), ("error", &error)],
    );
}

/// `submitted again after unknown`: this may be a second payment.
pub fn resubmitted_after_unknown(job: &Job<'_>) {
    COUNTERS.resubmitted_after_unknown.fetch_add(1, Relaxed);
    job.line(Level::Warn, "submitted again after unknown", &[]);
}

/// `sent again after unknown`: this may be a second message.
pub fn resent_after_unknown(job: &Job<'_>) {
    COUNTERS.resent_after_unknown.fetch_add(1, Relaxed);
    job.line(Level::Warn, "sent again after unknown", &[]);
}

/// `duplicate`, at debug: an entry whose id is known.
pub fn duplicate(job: &str) {
    event("duplicate", 1);
    line(Level::Debug, "duplicate", &[("job", &job)]);
}

/// `deferred`, at debug: a limit made so many jobs wait that would have been claimed.
pub fn deferred(jobs: u64) {
    event("deferred", jobs);
    line(Level::Debug, "deferred", &[("jobs", &jobs)]);
}

/// `job failed` of an entry that breaks a rule: unpaid, and never started.
pub fn dead_letter(job: &str, user: Option<&str>, error: &str) {
    event("failed", 1);
    job_failed(
        &Job {
            job,
            user,
            model: None,
            attempt: 0,
            request: None,
        },
        Kind::InvalidJob,
        Charged::No,
        error,
        None,
    );
}

/// `took over`: this many jobs of a dead instance go on.
pub fn took_over(instance: &str, jobs: u64) {
    COUNTERS.takeovers.fetch_add(1, Relaxed);
    event("taken_over", 1);
    line(
        Level::Warn,
        "took over",
        &[("instance", &instance), ("jobs", &jobs)],
    );
}

/// `repaired`: the audit found this many leaks of one kind, and mended them.
pub fn repaired(kind: &str, count: u64) {
    let by_kind = &COUNTERS.repairs_by_kind;
    let mut by_kind = by_kind.lock().unwrap_or_else(PoisonError::into_inner);
    if by_kind.len() < REPAIRS || by_kind.contains_key(kind) {
        *by_kind.entry(kind.to_owned()).or_default() += count;
    }
    drop(by_kind);
    line(
        Level::Warn,
        "repaired",
        &[("kind", &kind), ("count", &count)],
    );
}

/// Another type lies under the key of a job that waited in `later`: it is looked for there no more.
pub fn displaced(id: &str, key: &str) {
    let hint = "what is left of the job is its entry, under spec in place of job";
    warning(
        "a job's record is gone, another type lies under its key",
        &[("job", &id), ("key", &key), ("hint", &hint)],
    );
}

/// `newer record left alone`: a job's record has a format that this version cannot read; said once.
pub fn newer_record() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Relaxed) {
        let advice = "a newer version runs on this Redis, or ran: upgrade this worker";
        line(Level::Warn, "newer record left alone", &[("hint", &advice)]);
    }
}

/// `stopping`: no new jobs from here on.
pub fn stopping(reason: &str, in_flight: usize) {
    line(
        Level::Info,
        "stopping",
        &[("reason", &reason), ("in_flight", &in_flight)],
    );
}

/// `stopped`. What was cut off at the hard stop may be a submit of unknown outcome, hence the warning.
pub fn stopped(given_back: usize, cut_off: usize) {
    tell_held_back(true);
    let level = if cut_off == 0 {
        Level::Info
    } else {
        Level::Warn
    };
    line(
        level,
        "stopped",
        &[("given_back", &given_back), ("cut_off", &cut_off)],
    );
}

/// A step panicked; the hook has written the panic itself, this says whose it was.
pub fn panic_in_step(job: &Job<'_>, place: &str, crashes: u32) {
    job.line(
        Level::Error,
        "step crashed",
        &[("step", &place), ("crashes", &crashes)],
    );
}

/// `secret read again`: requests from here on take the new one. Hide it first.
pub fn secret_read_again(what: &str) {
    line(Level::Info, "secret read again", &[("what", &what)]);
}

/// `secret not taken`: what its file holds now cannot be used, the old one stays.
pub fn secret_not_taken(what: &str, why: &str) {
    warning(
        "secret not taken, the old one stays",
        &[("what", &what), ("why", &why)],
    );
}

/// `pulling paused`: a person's, or a worker's own for a trouble with the account. Once, however long it lasts.
pub fn paused(by: &str, reason: &str, person: bool) {
    let fields: &Fields<'_> = &[("by", &by), ("reason", &reason)];
    match person {
        true => line(Level::Info, "pulling paused", fields),
        false => warning("pulling paused", fields),
    }
}

/// `pulling goes on`: a person's pause is over.
pub fn resumed() {
    line(Level::Info, "pulling goes on", &[]);
}

/// Anything else the operator should look at.
pub fn warning(sentence: &str, fields: &Fields<'_>) {
    line(Level::Warn, sentence, fields);
}

/// `telegram held`: it wants silence of a chat (or of all) for so long. Once a silence, not once a job.
pub fn telegram_held(chat: &str, wait: Duration) {
    let wait_s = wait.as_secs();
    warning("telegram held", &[("chat", &chat), ("wait_s", &wait_s)]);
}

/// An error of the system in few words: those of its kind, and where std has none for it, the system's own.
pub(crate) fn in_words(error: &io::Error) -> String {
    // No system has an error of this number: it is of the kind that std calls uncategorized.
    let no_kind = io::Error::from_raw_os_error(i32::MAX).kind();
    match error.kind() {
        kind if kind == no_kind => error.to_string(),
        kind => kind.to_string(),
    }
}

/// Detail, shown with `RUST_LOG=debug`.
pub fn debug(sentence: &str, fields: &Fields<'_>) {
    line(Level::Debug, sentence, fields);
}

fn service_lost(service: &str, how: &str, reason: &str) {
    COUNTERS.outages.fetch_add(1, Relaxed);
    line(
        Level::Warn,
        &format!("{service} {how}"),
        &[("reason", &reason)],
    );
}

fn service_back(service: &str, how: &str, after: Duration) {
    line(
        Level::Info,
        &format!("{service} {how}"),
        &[("after_s", &after)],
    );
}

/// One service's being away, told once when it goes and once when it is back, however many threads
/// notice how often. Shared by reference.
#[derive(Debug)]
pub struct Outage {
    service: &'static str,
    /// What it does, in words: it is `lost`, it is `back`.
    words: [&'static str; 2],
    since: Mutex<Option<Instant>>,
}

impl Outage {
    /// A service that answers: `redis`, `fal`, `telegram`.
    pub const fn new(service: &'static str) -> Outage {
        Outage::in_words(service, ["lost", "back"])
    }

    /// The same where `lost` and `back` would say something else.
    pub const fn in_words(service: &'static str, words: [&'static str; 2]) -> Outage {
        Outage {
            service,
            words,
            since: Mutex::new(None),
        }
    }

    /// A call failed. Says so, and gives true, if it is the first since the service last answered.
    pub fn failed(&self, reason: &str) -> bool {
        self.failed_since(reason, Instant::now())
    }

    /// The same for a call that began then: one that waited in vain shows that the service was away all
    /// the while.
    pub fn failed_since(&self, reason: &str, since: Instant) -> bool {
        let first = self.failed_at(since);
        if first {
            service_lost(self.service, self.words[0], reason);
        }
        first
    }

    /// A call succeeded. Says so, and gives how long it was away, if the one before failed.
    pub fn succeeded(&self) -> Option<Duration> {
        let away = self.succeeded_at(Instant::now());
        if let Some(away) = away {
            service_back(self.service, self.words[1], away);
        }
        away
    }

    /// Since when the service is away.
    pub fn since(&self) -> Option<Instant> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed_at(&self, now: Instant) -> bool {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let first = since.is_none();
        since.get_or_insert(now);
        first
    }

    fn succeeded_at(&self, now: Instant) -> Option<Duration> {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since
            .take()
            .map(|since| now.saturating_duration_since(since))
    }
}
