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
mod record;
pub(crate) mod recover;
pub(crate) mod rotation;
pub(crate) mod signs;
mod snapshot;
mod submit;
pub(crate) mod together;
mod turn;
pub(crate) mod window;

pub(crate) use cancels::Cancels;
pub(crate) use lease::{FORGOTTEN_MS, Lease};
use record::Flushed;
pub(crate) use record::LastFlush;
pub(crate) use snapshot::Snapshot;

use crate::config::Rate;
use crate::fal::{Fal, Probe};
use crate::http::{FileHosts, Http, exchanges_here};
use crate::job::answer::Directed;
use crate::job::failure::{Failure, Kind};
use crate::job::flight::Flight;
use crate::job::minutes::Tally;
use crate::job::pace::Paces;
use crate::job::pattern::Pattern;
use crate::job::spec::{ChatId, Via};
use crate::job::state::{self, Moment, Next, Policy, cancel_is_due};
use crate::job::words::Words;
use crate::job::{Lang, Phase};
use crate::recorder::{Recorder, Slot};
use crate::report;
use crate::report::metrics::Step;
use crate::store::{Defaults, Session, Store};
use crate::telegram::plan::DeliveryMode;
use crate::telegram::refusal::Refusal;
use crate::telegram::{Telegram, plan::TransferLimits};
use gate::{Admission, Gate, Inside, Place, Service};
use rotation::Rotation;
use signs::Signs;
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a flight waits for a Redis that is away before it looks again.
const REDIS_AWAY: Duration = Duration::from_millis(250);
/// And for one that answers and refuses its write: until a person has mended a rule, or a key of another program.
const REDIS_REFUSES: Duration = Duration::from_secs(5);

/// What all threads share, built once at start. First settings and clients, which stay as they are, but for secrets
/// that change; then state, each piece with its own lock or counter.
pub(crate) struct Tools {
    // Settings and clients.
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
    pub(crate) admin_chat: Option<ChatId>,
    /// The folder with the step files of this host and namespace.
    pub(crate) state: Option<PathBuf>,

    // State.
    pub(crate) signs: Signs,
    /// Files of secrets.
    pub(crate) rotation: Rotation,
    pub(crate) lease: Lease,
    pub(crate) gate: Gate,
    pub(crate) recorder: Arc<Recorder>,
    /// What people asked to be ended.
    pub(crate) cancels: Cancels,
    pub(crate) fal_outage: report::Outage,
    /// fal is there, and takes no requests.
    pub(crate) submit_outage: report::Outage,
    /// The same of direct calls.
    pub(crate) direct_outage: report::Outage,
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
    /// How close upon each other writes come that may wait for each other.
    pub(crate) together: together::Paces,
    /// Jobs that ended well since the last beat, which tells Redis.
    pub(crate) done: AtomicU64,
    /// Jobs that ended dead since then.
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
    /// The write of the flight in hand that is to wait for those of others.
    pub(crate) waiting: Cell<Option<together::Waiting>>,
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
            Flushed::Kept(_)
                if !flight.closing
                    && matches!(flight.phase, Phase::Polling | Phase::Collecting) => {}
            Flushed::Kept(wait) => return Next::In(wait),
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
        (Some(inside), Phase::Submitting | Phase::Polling | Phase::Collecting) => inside,
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
            let _ = worker.about_to_act(flight); // asked again right before the send
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
        // A direct call has a host of its own.
        Phase::Submitting if flight.via == Via::Queue => Service::Submits,
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
        Admission::Go(inside) => Ok(inside),
        Admission::Probe(inside) if is_probe_itself || probe(worker, service, inside.probe()) => {
            Ok(inside)
        }
        Admission::Probe(_) => Err(Next::In(REDIS_AWAY)),
        // The more there are the later: threads that go round among thousands of steps that may not go in
        // would cost more than the work. Without jitter: claimed jobs keep their order.
        Admission::Wait(wait) => {
            let in_flight = worker.tools.in_flight.load(Ordering::Relaxed);
            let wait = wait.max(Duration::from_micros(50 * in_flight));
            Err(Next::In(wait))
        }
    }
}

/// A free question to a service that counts as away: whether it answers. `asking`: which of its probes that is, where
/// its breaker lets one go.
pub(crate) fn probe(worker: &Worker, service: Service, asking: Option<gate::Probe>) -> bool {
    match service {
        Service::Fal | Service::Submits | Service::Direct => {
            let away = worker.tools.fal.probe() == Probe::Away;
            let heard = match away {
                true => Presence::Silence("the probe was not answered"),
                false => Presence::Answer,
            };
            worker.fal_heard_by(heard, asking);
            !away
        }
        Service::Telegram { .. } => match &worker.tools.telegram {
            Some(telegram) => {
                let answer = telegram.get_me();
                worker.telegram_heard_by(answer.as_ref().err(), asking);
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
pub(crate) enum Presence<'a> {
    /// fal itself answered, whatever it said.
    Answer,
    /// Nobody did, or a gateway.
    Silence(&'a str),
}

impl<'a> Presence<'a> {
    /// Of a failure on the way, or fal's own word.
    fn of(failure: &'a Failure) -> Presence<'a> {
        if failure.spoke {
            Presence::Answer
        } else {
            Presence::Silence(&failure.text)
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
            waiting: Cell::new(None),
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

    /// Right before something is paid or sent: from here on its outcome is unknown. If neither the step file nor
    /// Redis can be told so, it may not be: a successor would take the job for one that was never begun.
    fn about_to_act(&self, flight: &Flight) -> Result<(), Next> {
        if let Some(slot) = &self.slot {
            slot.act(&flight.token.0, flight.id.as_str());
        }
        let recorder = &self.tools.recorder;
        if recorder.is_unsaid() {
            let told = self.session.tell_torn();
            told.map_err(|_| Next::In(REDIS_AWAY))?;
            recorder.said();
            return Err(Next::Now); // that write took its time: whether it may act is asked once more
        }
        Ok(())
    }

    /// The exchange is over: its place in the service is another's.
    fn leave(&self) {
        if let Some(place) = self.place.take() {
            self.tools.gate.leave(place);
        }
    }

    /// Which probe its step is, if it is one.
    fn asking(&self) -> Option<gate::Probe> {
        self.place.get().and_then(|place| place.probe())
    }

    /// The same as [`Worker::fal_heard`] of a submit, which alone can tell that fal takes requests.
    fn submit_heard(&self, heard: Presence<'_>) {
        self.fal_heard(heard);
        let (gate, outage) = (&self.tools.gate, &self.tools.submit_outage);
        match heard {
            Presence::Silence(why) => {
                let now = Instant::now();
                gate.failed(Service::Submits, self.asking(), now);
                // Of fal as a whole it is said already.
                if gate.refuses_submits(now) {
                    outage.failed(why);
                }
            }
            Presence::Answer => {
                if gate.answered(Service::Submits) {
                    outage.succeeded();
                }
            }
        }
    }

    /// What a direct call says about the host of such calls. `asked`: which of its probes it was, if it was one.
    fn direct_heard(&self, answer: &Directed, asked: Option<gate::Probe>) {
        let (gate, outage) = (&self.tools.gate, &self.tools.direct_outage);
        let heard = match answer {
            Directed::Output(..) => Presence::Answer,
            // What ran into its limit may be slow by itself.
            Directed::Unknown(failure, _) if failure.kind == Kind::Timeout => return,
            Directed::Failed(failure, _) | Directed::Unknown(failure, _) => Presence::of(failure),
        };
        match heard {
            Presence::Silence(why) => {
                if gate.failed(Service::Direct, asked, Instant::now()) {
                    outage.failed(why);
                }
            }
            Presence::Answer => {
                if gate.answered(Service::Direct) {
                    outage.succeeded();
                }
            }
        }
    }

    /// Notes for the breaker; says once that fal went away, and once that it is back.
    fn fal_heard(&self, heard: Presence<'_>) {
        self.fal_heard_by(heard, self.asking());
    }

    fn fal_heard_by(&self, heard: Presence<'_>, asked: Option<gate::Probe>) {
        match heard {
            Presence::Silence(why) => {
                let gate = &self.tools.gate;
                if gate.failed(Service::Fal, asked, Instant::now()) {
                    self.tools.fal_outage.failed(why);
                }
            }
            Presence::Answer => {
                if self.tools.gate.answered(Service::Fal) {
                    self.tools.fal_outage.succeeded();
                }
            }
        }
    }

    /// After an exchange of unknown outcome that nobody answered: whether the service is away, by a free question. A
    /// crowd of failures would open its breaker; a job that is alone would use up its attempts before.
    fn look_whether_away(&self, service: Service, why: &str) {
        let tools = &self.tools;
        let outage = match service {
            Service::Telegram { .. } => &tools.telegram_outage,
            _ => &tools.fal_outage,
        };
        // That it answers this is no reason to forget the failures that others count.
        let answers = || match (service, &tools.telegram) {
            (Service::Telegram { .. }, Some(telegram)) => !matches!(
                telegram.get_me(),
                Err(Refusal::NotSent(_) | Refusal::Unknown(_))
            ),
            _ => tools.fal.probe() != Probe::Away,
        };
        if !tools.gate.is_open(service)
            && !answers()
            && tools.gate.found_away(service, Instant::now())
        {
            outage.failed(why);
        }
    }

    /// The same for Telegram: what it refused, if it did not do it.
    fn telegram_heard(&self, refusal: Option<&Refusal>) {
        self.telegram_heard_by(refusal, self.asking());
    }

    fn telegram_heard_by(&self, refusal: Option<&Refusal>, asked: Option<gate::Probe>) {
        let telegram = Service::Telegram { slow: false };
        match refusal {
            Some(refusal @ (Refusal::NotSent(_) | Refusal::Unknown(_))) => {
                let gate = &self.tools.gate;
                if gate.failed(telegram, asked, Instant::now()) {
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
