//! What happens to a job: one short blocking exchange a step. A step never sleeps, never sends on a
//! channel and never decides about threads; it says with [`Next`] what comes after it. Each has the
//! same beats: finish what Redis has not taken yet; where money or a message goes out, see that the
//! intent is recorded and the lease is fresh; one exchange; ask `job::state` what it means; write that
//! in one script call and report it.

mod cancels;
mod collect;
mod deliver;
pub(crate) mod gate;
pub(crate) mod inputs;
pub(crate) mod intake;
mod lease;
pub(crate) mod minutes;
pub(crate) mod pace;
mod poll;
pub(crate) mod pull;
pub(crate) mod recover;
pub(crate) mod rotation;
pub(crate) mod signs;
mod snapshot;
mod submit;
mod turn;
pub(crate) mod window;

pub(crate) use cancels::Cancels;
pub(crate) use lease::Lease;
pub(crate) use snapshot::Snapshot;

use crate::fal::{Fal, Handle, Probe};
use crate::http::{FileHosts, Http, exchanges_here};
use crate::job::answer::Cancelled;
use crate::job::failure::{Failure, Kind};
use crate::job::flight::{EndState, Flight, Write};
use crate::job::minutes::Tally;
use crate::job::pace::Paces;
use crate::job::pattern::Pattern;
use crate::job::spec::ChatId;
use crate::job::state::{self, Change, Moment, Next, Policy, Say, cancel_is_due, since};
use crate::job::words::Words;
use crate::job::{Lang, Phase, RequestId, UnixMs};
use crate::recorder::{Command, Recorder, Slot};
use crate::report;
use crate::report::metrics::Step;
use crate::store::{Call, Defaults, Denied, Fault, Session, Store, Written};
use crate::telegram::limits::Rate;
use crate::telegram::plan::DeliveryMode;
use crate::telegram::refusal::Refusal;
use crate::telegram::{Telegram, plan::TransferLimits};
use gate::{Entry, Gate, Inside, Place, Service};
use rotation::Rotation;
use signs::Signs;
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a flight waits for a Redis that is away before it looks again.
const REDIS_AWAY: Duration = Duration::from_millis(250);

/// The tools of every step: built once at start, never changed, shared by all threads.
pub(crate) struct Tools {
    pub(crate) store: Arc<Store>,
    pub(crate) http: Http,
    pub(crate) fal: Fal,
    pub(crate) telegram: Option<Telegram>,
    pub(crate) policy: Policy,
    pub(crate) defaults: Defaults,
    /// `--model-timeout`.
    pub(crate) model_timeouts: Vec<(Pattern, Duration)>,
    pub(crate) delivery: DeliveryMode,
    pub(crate) delivery_timeout: Duration,
    pub(crate) transfer_limits: TransferLimits,
    /// What the bot may send; `None`: no limits of our own.
    pub(crate) telegram_rate: Option<Rate>,
    pub(crate) file_hosts: FileHosts,
    pub(crate) lang: Lang,
    pub(crate) words: Words,
    pub(crate) signs: Signs,
    pub(crate) admin_chat: Option<ChatId>,
    /// Files of secrets.
    pub(crate) rotation: Rotation,
    pub(crate) lease: Lease,
    pub(crate) gate: Gate,
    pub(crate) recorder: Arc<Recorder>,
    /// What people asked to be ended.
    pub(crate) cancels: Cancels,
    /// The folder with the step files of this host and namespace.
    pub(crate) state: Option<PathBuf>,
    pub(crate) fal_outage: report::Outage,
    pub(crate) telegram_outage: report::Outage,
    /// What threads share that bring files of users to fal.
    pub(crate) inputs: inputs::Shared,
    /// Jobs owned by this process, for the pace of polling.
    pub(crate) in_flight: AtomicU64,
    /// The submit window is found out: what runs must be known soon.
    pub(crate) finds_window: AtomicBool,
    /// How long the generations of each model take.
    pub(crate) paces: Mutex<Paces>,
    /// What ended, for the plots of the last day.
    pub(crate) minutes: Mutex<Tally>,
    /// Jobs ended since the last beat.
    pub(crate) done: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// What one thread works with: the shared tools, its own connection and its slot in the step file.
pub(crate) struct Worker {
    pub(crate) tools: Arc<Tools>,
    pub(crate) session: Session,
    /// `None`: this thread runs no steps.
    pub(crate) slot: Option<Slot>,
    /// A transfer thread may move bytes and wait for a direct call; a pool thread may not.
    pub(crate) moves_bytes: bool,
    /// Its place in the service that its step speaks to.
    pub(crate) place: Cell<Option<Place>>,
}

/// What became of the writes of a flight.
#[derive(Debug, PartialEq)]
enum Flushed {
    /// All stand.
    Done,
    /// The job is not ours any more.
    Dropped,
    /// Redis is away; they stay with the flight.
    Away,
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

/// Takes the next step of a flight. `place`: one at fal that it was given already.
pub(crate) fn advance<'a>(
    worker: &'a Worker,
    flight: &mut Flight,
    place: Option<Inside<'a>>,
) -> Next {
    if flight.epoch != worker.tools.store.identity().epoch {
        return worker.let_go(flight);
    }
    flight.follow_clock(worker.tools.store.clock_set_by());
    if !flight.unsaved.is_empty() {
        match worker.flush(flight) {
            Flushed::Done if flight.closing => return Next::Over,
            Flushed::Done => {}
            Flushed::Dropped => return Next::Over,
            // Results vanish at fal within minutes: reading goes on without Redis, all else waits.
            Flushed::Away
                if !flight.closing
                    && matches!(flight.phase, Phase::Polling | Phase::Collecting) => {}
            Flushed::Away => return Next::In(REDIS_AWAY),
        }
    }
    worker.heed_cancel(flight);
    if flight.cancel_asked && flight.phase == Phase::Submitting {
        // Before any wait for a place: fal may be away, and this needs nothing of it.
        let change = state::cancel_unsubmitted(flight, worker.moment());
        return worker.record(flight, change);
    }
    worker
        .tools
        .signs
        .meet(flight, worker.moves_bytes, &worker.tools);
    // The place in the service is held until what the exchange brought is written down, or the step is over.
    let inside = match (place, flight.phase) {
        (Some(inside), Phase::Submitting) => inside,
        (_, _) => match pass_gate(worker, flight) {
            Ok(inside) => inside,
            Err(next) => return deliver::kept_out(worker, flight, next),
        },
    };
    worker.place.set(inside.keep());
    let _leaves = Leaves(worker);
    match flight.phase {
        // Its one act comes first of all, and says so itself.
        Phase::Submitting => {}
        // Each note costs; between here and the send lies no wait, unless it is for its turn.
        Phase::Delivering | Phase::Telling
            if !worker.moves_bytes && worker.tools.telegram_rate.is_none() =>
        {
            worker.about_to_act(flight);
        }
        Phase::Polling | Phase::Collecting | Phase::Delivering | Phase::Telling => {
            if let Some(slot) = &worker.slot {
                slot.begin(&flight.token.0, flight.id.as_str());
            }
        }
    }
    let (began, spoken) = (Instant::now(), exchanges_here());
    let (step, next) = match flight.phase {
        Phase::Submitting => (Step::Submit, submit::submit(worker, flight)),
        Phase::Polling if cancel_is_due(flight) => (Step::Cancel, submit::cancel(worker, flight)),
        Phase::Polling => (Step::Poll, poll::poll(worker, flight)),
        Phase::Collecting => (Step::Collect, collect::collect(worker, flight)),
        Phase::Delivering => (Step::Deliver, deliver::deliver(worker, flight)),
        Phase::Telling => (Step::Tell, deliver::tell(worker, flight)),
    };
    // One that found no turn, no lease or no transfer thread took no time worth telling.
    if exchanges_here() != spoken {
        report::metrics::step_took(step, began.elapsed());
    }
    worker.tools.signs.after_step(flight, next);
    next
}

/// Gives the place back at a step's end, also after a panic.
struct Leaves<'a>(&'a Worker);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Lets a step into the service that it needs, or says when to ask again. While a service counts as
/// away one probe at a time goes out, and only what pays and sends nothing may be it.
fn pass_gate<'a>(worker: &'a Worker, flight: &Flight) -> Result<Inside<'a>, Next> {
    let service = match flight.phase {
        Phase::Submitting | Phase::Polling | Phase::Collecting => Service::Fal,
        Phase::Delivering => Service::Telegram { slow: true },
        Phase::Telling => Service::Telegram { slow: false },
    };
    let is_probe_itself = matches!(flight.phase, Phase::Polling | Phase::Collecting);
    match worker
        .tools
        .gate
        .enter(service, !worker.moves_bytes, Instant::now())
    {
        Entry::Go(inside) => Ok(inside),
        Entry::Probe(inside) if is_probe_itself || probe(worker, service) => Ok(inside),
        Entry::Probe(_) => Err(Next::In(REDIS_AWAY)),
        // The more there are the later: threads that go round among thousands of steps that may not go in
        // would cost more than the work. Without jitter: claimed jobs keep their order.
        Entry::Wait(wait) => {
            let in_flight = worker.tools.in_flight.load(Ordering::Relaxed);
            let wait = wait.max(Duration::from_micros(50 * in_flight));
            Err(Next::In(wait))
        }
    }
}

/// A free question to a service that counts as away: whether it answers.
pub(crate) fn probe(worker: &Worker, service: Service) -> bool {
    match service {
        Service::Fal => {
            let away = worker.tools.fal.probe() == Probe::Away;
            worker.fal_heard(if away {
                Heard::Silence("the probe was not answered")
            } else {
                Heard::Answer
            });
            !away
        }
        Service::Telegram { .. } => match &worker.tools.telegram {
            Some(telegram) => {
                let answer = telegram.get_me();
                worker.telegram_heard(answer.as_ref().err());
                !matches!(answer, Err(Refusal::NotSent(_) | Refusal::Unknown(_)))
            }
            None => true,
        },
        // What is asked of it is free: each question may be the probe.
        Service::Storage => true,
    }
}

/// What an exchange says about fal's being there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Heard<'a> {
    /// fal itself answered, whatever it said.
    Answer,
    /// Nobody did, or a gateway.
    Silence(&'a str),
}

impl<'a> Heard<'a> {
    /// Of a failure on the way, or fal's own word.
    fn of(failure: &'a Failure) -> Heard<'a> {
        if failure.spoke {
            Heard::Answer
        } else {
            Heard::Silence(&failure.text)
        }
    }
}

impl Worker {
    /// `slot`: `None` for a thread that runs no steps.
    pub(crate) fn new(tools: Arc<Tools>, slot: Option<Slot>) -> Worker {
        Worker {
            session: tools.store.session(),
            tools,
            slot,
            moves_bytes: false,
            place: Cell::new(None),
        }
    }

    /// Now, and a random number.
    pub(crate) fn moment(&self) -> Moment {
        Moment {
            now: self.tools.store.now(),
            random: fastrand::f64(),
        }
    }

    /// Learns whether somebody wants this job ended.
    fn heed_cancel(&self, flight: &mut Flight) {
        flight.cancel_asked |= self.tools.cancels.take(&flight.token);
    }

    /// Whether money or a message may go out now: the job is still ours, the lease is fresh and Redis
    /// answers. Otherwise what comes first.
    fn may_act(&self, flight: &Flight) -> Result<(), Next> {
        let store = &self.tools.store;
        if flight.epoch != store.identity().epoch {
            // Taken over within this step: the fresh lease is our new name's, the job another's.
            return Err(Next::Now);
        }
        if store.health.is_away() || store.health.forgot() || !self.tools.lease.is_fresh() {
            return Err(Next::In(REDIS_AWAY));
        }
        Ok(())
    }

    /// This thread has nothing in hand: a crash is no job's fault now.
    pub(crate) fn idle(&self) {
        if let Some(slot) = &self.slot {
            slot.idle();
        }
    }

    /// Like [`Worker::idle`], for a thread that asks for its next step at once: that step overwrites the slot, and
    /// a pool thread is idle before it waits for one. So the slot is cleared here only if it says that something
    /// is being paid or sent, or if the thread is one for transfers, which waits without a word.
    pub(crate) fn idle_soon(&self) {
        if let Some(slot) = &self.slot
            && (self.moves_bytes || slot.is_acting())
        {
            slot.idle();
        }
    }

    /// Right before something is paid or sent: from here on its outcome is unknown.
    fn about_to_act(&self, flight: &Flight) {
        if let Some(slot) = &self.slot {
            slot.act(&flight.token.0, flight.id.as_str());
        }
    }

    /// The exchange is over: its place in the service is another's.
    fn leave(&self) {
        if let Some(place) = self.place.take() {
            self.tools.gate.leave(place);
        }
    }

    /// Writes and reports a decision; gives what comes next. What a payment or a message brought is in the
    /// step file before Redis is asked, and what Redis does not take goes into its journal.
    fn record(&self, flight: &mut Flight, change: Change) -> Next {
        self.leave();
        self.record_inside(flight, change)
    }

    /// The same, by a step that goes on to its exchange: it keeps its place.
    fn record_inside(&self, flight: &mut Flight, change: Change) -> Next {
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
        let flushed = self.flush_with(flight, Some((seq, call)));
        if flushed == Flushed::Away {
            self.keep(flight, seq, always);
        }
        match flushed {
            Flushed::Done => change.next,
            Flushed::Dropped => Next::Over,
            Flushed::Away if flight.closing => Next::In(REDIS_AWAY),
            Flushed::Away if matches!(flight.phase, Phase::Polling | Phase::Collecting) => {
                change.next
            }
            Flushed::Away => Next::In(REDIS_AWAY),
        }
    }

    /// Keeps a write that Redis did not take; `always`: it says what a payment or a message brought.
    fn keep(&self, flight: &Flight, seq: u32, always: bool) {
        let recorder = &self.tools.recorder;
        if let Some((_, write)) = flight.unsaved.iter().find(|(number, _)| *number == seq)
            && recorder.is_on()
        {
            let command = command(&self.session.prepare(flight, seq, write));
            recorder.keep(&flight.token.0, seq, &command, always);
        }
    }

    /// Writes what is unsaved, oldest first.
    fn flush(&self, flight: &mut Flight) -> Flushed {
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
                Ok(other @ (Written::Other(_) | Written::Adopted(_))) => {
                    if matches!(other, Written::Other(_)) {
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
                        return Flushed::Away;
                    }
                    return Flushed::Dropped;
                }
                Err(fault) => {
                    if let Fault::Refused(why) = &fault {
                        let id = flight.id.as_str();
                        report::warning(
                            "redis refused a write, it is tried again",
                            &[("job", &id), ("why", &why.as_str())],
                        );
                    }
                    flight.unsaved.push_front((seq, write));
                    return Flushed::Away;
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
        if let Ok(Written::Cancel | Written::Other(_)) = self.session.write(flight, seq, &write) {
            self.cancel_needless(flight, &write);
        }
    }

    /// A refused write, while Redis may have forgotten that the job is ours: write the job down again,
    /// then the write once more.
    fn maybe_forgotten(&self, flight: &Flight, seq: u32, write: &Write) -> Result<Written, Fault> {
        if !self.tools.store.health.forgot() {
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
    fn let_go(&self, flight: &mut Flight) -> Next {
        let submitted = flight
            .unsaved
            .iter()
            .find(|(_, write)| matches!(write, Write::Submitted { .. }))
            .cloned();
        if let Some((seq, write)) = submitted {
            match self.session.write(flight, seq, &write) {
                Ok(Written::Cancel | Written::Gone | Written::Other(_)) => {
                    self.cancel_needless(flight, &write)
                }
                Ok(Written::Ok | Written::Stale | Written::Adopted(_)) => {}
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
            Flushed::Away => LastFlush::Unsaved,
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

    fn report_written(&self, flight: &mut Flight, write: &Write) {
        self.count_written(flight, write);
        let Write::End { state, .. } = write else {
            return;
        };
        if let Some(redelivers) = &flight.redelivers {
            return report::redelivered(&job(flight), &redelivers.job, flight.failure.as_ref());
        }
        let now = self.tools.store.now();
        let between =
            |from: Option<UnixMs>, to: Option<UnixMs>| Some(since(from?, to?).as_millis() as u64);
        let total_ms = between(Some(flight.queued_at), Some(now));
        let delay = since(flight.wanted_at, now);
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

impl Worker {
    /// Notes for the breaker; says once that fal went away, and once that it is back.
    fn fal_heard(&self, heard: Heard<'_>) {
        match heard {
            Heard::Silence(why) => {
                if self.tools.gate.failed(Service::Fal, Instant::now()) {
                    self.tools.fal_outage.failed(why);
                }
            }
            Heard::Answer => {
                if self.tools.gate.answered(Service::Fal) {
                    self.tools.fal_outage.succeeded();
                }
            }
        }
    }

    /// The same for Telegram: what it refused, if it did not do it.
    fn telegram_heard(&self, refusal: Option<&Refusal>) {
        let telegram = Service::Telegram { slow: false };
        match refusal {
            Some(refusal @ (Refusal::NotSent(_) | Refusal::Unknown(_))) => {
                if self.tools.gate.failed(telegram, Instant::now()) {
                    self.tools.telegram_outage.failed(&refusal.to_string());
                }
            }
            Some(Refusal::Operator(_)) => {
                self.tools.gate.answered(telegram);
                self.tools.gate.bot_refused(Instant::now());
            }
            Some(_) | None => {
                self.tools.gate.answered(telegram);
                self.tools.gate.bot_taken();
                self.tools.telegram_outage.succeeded();
            }
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

fn say_cancelled(job: &str, request: &RequestId, answer: &Cancelled) {
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

/// A flight as the log names it.
pub(crate) fn job(flight: &Flight) -> report::Job<'_> {
    report::Job {
        job: flight.id.as_str(),
        user: flight.user.as_deref(),
        model: flight.model.as_ref().map(|model| model.as_str()),
        attempt: flight.attempt,
        request: flight.request.as_ref().map(|request| &*request.0),
    }
}
