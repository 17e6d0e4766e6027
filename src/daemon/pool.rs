//! The loop of a pool thread: take from the scheduler, run steps, park or go on. The panic boundary is
//! here. A transfer thread is the same loop, fed by the transfers' channel, without permits.

use super::health::{Liveness, Pulling};
use super::metrics::Queues;
use super::scheduler::{Permit, Scheduler, Stage, Work};
use super::stop::give_back_all;
use crate::job::flight::{Flight, Token};
use crate::job::state::Next;
use crate::job::{JobId, Phase};
use crate::report::{self, At, Refusals};
use crate::steps::gate::{Admission, Gate, Inside, Service};
use crate::steps::pull::{Blocker, pull};
use crate::steps::together::Joined;
use crate::steps::{self, Snapshot, Worker};
use crate::store::{Denied, Fault, Session};
use crossbeam_channel::{Receiver, Sender};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A thread whose look for work broke looks again after this long.
const BROKEN: Duration = Duration::from_secs(1);

/// How long a result stays at fal that memory has no room for.
const RESULT_WAITS: Duration = Duration::from_secs(1);

/// What every thread is doing, for those who cannot look into it: the keeper and the stop.
pub(crate) struct Desks(Vec<Mutex<Vec<Snapshot>>>);

impl Desks {
    pub(crate) fn new(threads: usize) -> Desks {
        Desks((0..threads).map(|_| Mutex::default()).collect())
    }

    fn put(&self, desk: usize, snapshots: impl IntoIterator<Item = Snapshot>) {
        let mut desk = self.at(desk);
        desk.clear();
        desk.extend(snapshots);
        desk.shrink_to(1); // mostly it is one
    }

    fn at(&self, desk: usize) -> MutexGuard<'_, Vec<Snapshot>> {
        self.0[desk].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Jobs under way at this moment.
    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        self.indexed().into_iter().map(|(_, held)| held).collect()
    }

    /// How many of the first `first` desks have a flight, and how many of the others.
    pub(crate) fn busy(&self, first: usize) -> (usize, usize) {
        let busy = |desk: &usize| !self.at(*desk).is_empty();
        let first = first.min(self.0.len());
        let transfers = (first..self.0.len()).filter(busy).count();
        ((0..first).filter(busy).count(), transfers)
    }

    /// Number of desks.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Jobs under way, each with the number of its desk.
    pub(crate) fn indexed(&self) -> Vec<(usize, Snapshot)> {
        (0..self.0.len())
            .flat_map(|desk| {
                self.at(desk)
                    .clone()
                    .into_iter()
                    .map(move |held| (desk, held))
            })
            .collect()
    }
}

/// What waits for the transfer threads: direct calls, which may hang for minutes, and files, whose hosts
/// may. At most half of the threads, rounded up, are for either. Files of results stand in a line of their own:
/// they are paid, and thousands of inputs that are not may wait.
#[derive(Clone)]
pub(crate) struct Moved {
    direct: Receiver<Box<Flight>>,
    files: Receiver<Box<Flight>>,
    inputs: Receiver<Box<Flight>>,
}

impl Moved {
    /// What the transfer thread of this number, of `threads`, serves.
    pub(crate) fn for_thread(&self, number: usize, threads: usize) -> Moved {
        let only = |serves: bool, channel: &Receiver<Box<Flight>>| {
            if serves {
                channel.clone()
            } else {
                crossbeam_channel::never()
            }
        };
        let moves_files = number >= threads / 2;
        Moved {
            direct: only(number < threads.div_ceil(2), &self.direct),
            files: only(moves_files, &self.files),
            inputs: only(moves_files, &self.inputs),
        }
    }

    /// Results first. Among the others chance decides: neither is to starve where one thread serves both.
    fn recv(&self) -> Option<Box<Flight>> {
        if let Ok(flight) = self.files.try_recv() {
            return Some(flight);
        }
        crossbeam_channel::select! {
            recv(self.files) -> flight => flight.ok(),
            recv(self.direct) -> flight => flight.ok(),
            recv(self.inputs) -> flight => flight.ok(),
        }
    }

    /// Takes what waits at this moment.
    pub(crate) fn drain(&self) -> impl Iterator<Item = Box<Flight>> + '_ {
        let files = self.files.try_iter().chain(self.inputs.try_iter());
        self.direct.try_iter().chain(files)
    }
}

/// What all threads of the engine share.
pub(crate) struct Engine {
    pub(crate) scheduler: Scheduler,
    pub(crate) desks: Desks,
    /// Client id of the blocked puller; 0 when none is blocked.
    pub(crate) puller: AtomicU64,
    /// Number of the pulling thread's desk plus one; 0: no thread pulls.
    pub(crate) puller_desk: AtomicUsize,
    /// Panics of jobs that Redis has not been told of: their claims are not to be mistaken for new ones.
    crashed: Mutex<Vec<(JobId, Token)>>,
    /// What keeper, puller and intake last heard from Redis, and when: what `/healthz` judges by.
    pub(crate) liveness: Liveness,
    /// For the page of metrics.
    pub(crate) queues: Queues,
    /// Channels to the transfer threads: for direct calls, for files of results, and for those of inputs.
    transfers: [Sender<Box<Flight>>; 3],
    /// The last claim left nothing behind: until the bell rings there is nothing to claim.
    emptied: AtomicBool,
    /// Claims that Redis refused: told when that begins and when it is over.
    refusals: Refusals,
}

impl Engine {
    /// Gives the engine, and the receiving ends of its channels for the transfer threads.
    pub(crate) fn new(
        threads: usize,
        transfer_threads: usize,
        max_in_flight: usize,
    ) -> (Engine, Moved) {
        let (calls, direct) = crossbeam_channel::unbounded();
        let (moves, files) = crossbeam_channel::unbounded();
        let (brings, inputs) = crossbeam_channel::unbounded();
        let engine = Engine {
            scheduler: Scheduler::new(threads, max_in_flight),
            desks: Desks::new(threads + transfer_threads),
            puller: AtomicU64::new(0),
            puller_desk: AtomicUsize::new(0),
            crashed: Mutex::default(),
            liveness: Liveness::default(),
            queues: Queues::default(),
            transfers: [calls, moves, brings],
            emptied: AtomicBool::new(false),
            refusals: Refusals::new("redis refused a claim", "redis takes claims again"),
        };
        let moved = Moved {
            direct,
            files,
            inputs,
        };
        (engine, moved)
    }

    /// One pool thread, from start to end.
    pub(crate) fn pool_thread(&self, worker: &Worker, desk: usize, blocker: &Mutex<Blocker>) {
        let mut turn = 0;
        loop {
            let next = catch_unwind(AssertUnwindSafe(|| {
                self.scheduler
                    .next(&mut turn, &worker.tools.gate, || worker.idle())
            }));
            let Ok(next) = next else {
                std::thread::sleep(BROKEN); // the hook has logged it
                continue;
            };
            match next {
                Work::Step(flight, place) => self.run(worker, desk, flight, place),
                Work::Writes(joined) => self.write_together(worker, desk, joined),
                Work::Pull(permit, block) => {
                    worker.idle();
                    // The hook logs a panic; its unwinding gives the permit back, to be taken again a
                    // moment later. What was claimed is found by the keeper and goes back.
                    self.puller_desk.store(desk + 1, Ordering::Relaxed);
                    let _ = catch_unwind(AssertUnwindSafe(|| {
                        self.pull(worker, permit, block, blocker);
                    }));
                    // The next one may have begun: its mark stays.
                    let mine = &self.puller_desk;
                    let _ =
                        mine.compare_exchange(desk + 1, 0, Ordering::Relaxed, Ordering::Relaxed);
                }
                Work::Stop => return,
            }
        }
    }

    /// One transfer thread: ends when its channels are closed.
    pub(crate) fn transfer_thread(&self, worker: &Worker, desk: usize, moved: &Moved) {
        while let Some(flight) = moved.recv() {
            self.run(worker, desk, flight, None);
        }
    }

    /// Pulls with the permit, into the scheduler.
    fn pull(&self, worker: &Worker, permit: Permit<'_>, block: Duration, blocker: &Mutex<Blocker>) {
        let (room, paid_room) = self.scheduler.rooms();
        // New jobs wait in Redis while fal is away, not here, where a crash would make them doubtful.
        let fal_is_away = !self.fal_answers(worker);
        self.hand_back(worker, fal_is_away);
        if !fal_is_away {
            self.scheduler.place_is_free(); // it may have come back just now
        }
        // Nor is anything paid for that could not be delivered.
        let held_back = fal_is_away || self.is_bot_refused(worker);
        let room = if held_back { 0 } else { room };
        if room == 0 && paid_room == 0 {
            self.liveness.note(|life, now| life.pull_came(now, true));
            permit.park_for_room(Duration::from_secs(1));
            return;
        }
        self.liveness.note(|life, now| life.pull_begins(now));
        // Taken, not only read: whatever goes wrong below, the next pull claims first.
        let emptied = self.emptied.swap(false, Ordering::AcqRel);
        let (pulled, at) = if room == 0 {
            // Full: only what is paid already, and no wait on the bell, which rings for others too.
            let n = self.scheduler.claim_size().min(paid_room);
            let claimed = steps::pull::claim(worker, n, true);
            (claimed.map(|(flights, _)| flights), At::Asking)
        } else {
            self.claim_or_wait(worker, room, block, emptied, blocker)
        };
        let flights = match pulled {
            Ok(flights) => flights,
            Err(denied) => return self.pull_failed(worker, permit, &denied, at),
        };
        self.refusals.taken(at);
        let served = !flights.is_empty() || room == 0;
        self.liveness.note(|life, now| life.pull_came(now, served));
        if flights.is_empty() {
            match (room, block.is_zero()) {
                (0, _) if held_back => permit.park(Duration::from_millis(500)),
                (0, _) => permit.park_for_room(Duration::from_secs(1)),
                (_, true) => permit.park(Duration::from_millis(100)),
                (_, false) => drop(permit),
            }
            return;
        }
        for flight in &flights {
            report::job_started(&steps::job(flight), flight.phase);
        }
        // Their order is that of their priorities; this thread takes the first of them.
        self.scheduler.claimed(flights.into_iter());
        self.tell_in_flight(worker);
    }

    /// Claims, or waits for the bell and claims then. Says too how far it came, for a failure's sake.
    fn claim_or_wait(
        &self,
        worker: &Worker,
        room: usize,
        block: Duration,
        emptied: bool,
        blocker: &Mutex<Blocker>,
    ) -> (Result<Vec<Box<Flight>>, Denied>, At) {
        let mut blocker = blocker.lock().unwrap_or_else(PoisonError::into_inner);
        // Between the claim and the wait.
        let asked = Cell::new(false);
        let go_on = || {
            self.liveness.note(|life, now| life.pull_asked(now));
            let goes_on = self.scheduler.stage() == Stage::Run;
            if goes_on {
                asked.set(true);
            }
            goes_on
        };
        let n = self.scheduler.claim_size().min(room);
        let pulled = pull(
            worker,
            &mut blocker,
            n,
            block,
            emptied,
            &self.puller,
            &go_on,
        );
        let flights = pulled.map(|(flights, more)| {
            self.emptied.store(!more, Ordering::Release);
            self.scheduler.left_behind(more);
            flights
        });
        let at = if asked.get() { At::Waiting } else { At::Asking };
        (flights, at)
    }

    /// No thread sleeps: the permit waits in the scheduler.
    fn pull_failed(&self, worker: &Worker, permit: Permit<'_>, denied: &Denied, at: At) {
        self.liveness.note(|life, now| life.pull_failed(now, at));
        if let Denied::Fault(Fault::Refused(why)) = denied {
            let in_the_way = || worker.session.in_the_way(why);
            self.refusals.refused(why, at, in_the_way);
        }
        permit.park(match denied {
            Denied::Fault(Fault::Refused(_)) => Duration::from_secs(1),
            Denied::Fault(Fault::Away(_) | Fault::Unable(_))
            | Denied::Buried
            | Denied::Unregistered => Duration::from_millis(100),
            Denied::Settling => Duration::from_millis(30),
        });
    }

    /// Gives back what is not paid while fal is away: from where another worker stands it may be there.
    /// This one asks for no new job before its breaker has closed. What Redis may have taken is never begun here: it
    /// is given back until Redis says what became of it.
    fn hand_back(&self, worker: &Worker, fal_is_away: bool) {
        let flights = self.scheduler.take_unpaid(fal_is_away);
        if flights.is_empty() {
            return;
        }
        let whole: Vec<&Flight> = flights.iter().map(|flight| &**flight).collect();
        if give_back_all(&worker.session, &whole).is_err() {
            return self.scheduler.are_returning(flights);
        }
        for flight in &flights {
            self.scheduler.over(&flight.token, flight.bytes());
        }
        self.tell_in_flight(worker);
    }

    /// Whether a claim may be under way, whose jobs Redis knows and memory does not.
    pub(crate) fn is_claiming(&self) -> bool {
        !self.scheduler.nobody_pulls() && self.puller.load(Ordering::Acquire) == 0
    }

    /// Why new jobs are or are not asked for.
    pub(crate) fn pulling(&self, gate: &Gate) -> Pulling {
        if gate.is_open(Service::Fal) || gate.refuses_submits(Instant::now()) {
            Pulling::FalIsAway
        } else if gate.is_bot_refused() {
            Pulling::BotRefused
        } else if self.scheduler.is_busy() {
            Pulling::Busy
        } else if self.scheduler.rooms().0 == 0 {
            Pulling::Full
        } else {
            Pulling::Yes
        }
    }

    /// Whether Telegram refuses the bot. It is asked now and then: there may be no delivery left that would.
    fn is_bot_refused(&self, worker: &Worker) -> bool {
        let gate = &worker.tools.gate;
        if gate.may_ask_for_bot(Instant::now()) {
            steps::probe(worker, Service::Telegram { slow: false }, None);
            if !gate.is_bot_refused() {
                self.scheduler.hurry_deliveries();
            }
        }
        gate.is_bot_refused()
    }

    /// Whether fal counts as there. While it does not, the puller is one of those who may ask: there may
    /// be no other job in hand that would.
    fn fal_answers(&self, worker: &Worker) -> bool {
        let gate = &worker.tools.gate;
        if !gate.is_open(Service::Fal) {
            return true;
        }
        match gate.enter(Service::Fal, false, Instant::now()) {
            Admission::Go(_) => true,
            Admission::Wait(_) => false,
            Admission::Probe(inside) => steps::probe(worker, Service::Fal, inside.probe()),
        }
    }

    /// Runs a flight's steps on this thread until it is parked, moved or over. A panic anywhere on this way is the
    /// end of that flight here, and not of the thread.
    fn run<'a>(
        &self,
        worker: &'a Worker,
        desk: usize,
        flight: Box<Flight>,
        place: Option<Inside<'a>>,
    ) {
        let (id, token) = (flight.id.clone(), flight.token.clone());
        let bytes = Cell::new(flight.bytes());
        let mut hand = Some(flight);
        let went = catch_unwind(AssertUnwindSafe(|| {
            self.go(worker, desk, &mut hand, place, &bytes);
        }));
        if went.is_ok() {
            return;
        }
        worker.waiting.take(); // its slot stays as it is: what it says stands for a successor
        // Only id and token are trusted now; the hook has logged the place. What was handed on is another's.
        let Some(flight) = hand else {
            return;
        };
        let crashed = catch_unwind(AssertUnwindSafe(|| worker.session.crash(&id, &token)));
        let crashes = crashed.ok().and_then(Result::ok);
        if crashes.is_none() {
            self.crashed().push((id, token.clone()));
            worker.tools.recorder.lost_a_step();
        }
        let _ = catch_unwind(AssertUnwindSafe(|| {
            report::panic_in_step(&steps::job(&flight), "step", crashes.unwrap_or(0));
            self.clear(worker, desk);
        }));
        let _ = catch_unwind(AssertUnwindSafe(|| {
            self.scheduler.over(&token, bytes.get());
            self.tell_in_flight(worker);
        }));
    }

    /// `hand`: empty once the flight was handed on. `bytes`: what it counts for.
    fn go<'a>(
        &self,
        worker: &'a Worker,
        desk: usize,
        hand: &mut Option<Box<Flight>>,
        mut place: Option<Inside<'a>>,
        bytes: &Cell<usize>,
    ) {
        while let Some(flight) = hand.as_mut() {
            let snapshot = Snapshot::of(flight);
            // Before the stage is read: a stop that still sees an older step here, and gives its job back
            // because that one may be repeated, has told the stage first, and this step does not begin.
            self.desks.put(desk, Some(snapshot));
            let stage = self.scheduler.stage();
            if stage == Stage::Stop || (stage == Stage::Quiet && pays(flight)) {
                // Begin nothing: it goes back with the others once the stop comes.
                self.clear(worker, desk);
                let due = Instant::now() + Duration::from_secs(60);
                if let Some(flight) = hand.take() {
                    self.scheduler.park(flight, due);
                }
                return;
            }
            let next = match self.has_room_for_its_result(worker, flight) {
                true => steps::advance(worker, flight, place.take()),
                false => Next::In(RESULT_WAITS),
            };
            let after = flight.bytes();
            if next != Next::Over {
                self.scheduler.holds(bytes.replace(after), after);
            }
            if let Some(waiting) = worker.waiting.take() {
                // As below: its place at fal is free.
                if !flight.closing {
                    self.scheduler.place_is_free();
                }
                if let Some(flight) = hand.take() {
                    self.scheduler.join(waiting.of(flight));
                }
                self.desks.put(desk, None);
                return;
            }
            match next {
                Next::Over => {
                    self.over(worker, desk, &flight.token, bytes.get());
                    *hand = None;
                }
                Next::Now => {
                    // Its place at fal is free, while this thread goes on elsewhere.
                    if matches!(flight.phase, Phase::Delivering | Phase::Telling) {
                        self.scheduler.place_is_free();
                    }
                    // Between two files of one input: a result waits for one of them, not for all.
                    if worker.moves_bytes && brings(flight) && self.results_wait() {
                        self.transfer(worker, desk, hand);
                    }
                }
                Next::In(wait) => {
                    worker.idle_soon();
                    // Room for a write is a sixth of what a parked flight needs.
                    flight.unsaved.shrink_to_fit();
                    let due = Instant::now() + wait;
                    match hand.take() {
                        Some(flight) if worker.moves_bytes => self.scheduler.park(flight, due),
                        Some(flight) => self.scheduler.park_and_come_back(flight, due),
                        None => {}
                    }
                    self.desks.put(desk, None);
                }
                Next::Transfer => {
                    self.transfer(worker, desk, hand);
                }
            }
        }
    }

    /// Makes writes that have waited for each other; then each flight that is not over goes its own way, also after a
    /// panic.
    fn write_together(&self, worker: &Worker, desk: usize, mut joined: Vec<Joined>) {
        let held = joined.iter().map(|one| Snapshot::of(&one.flight));
        self.desks.put(desk, held);
        let _ = catch_unwind(AssertUnwindSafe(|| worker.write_together(&mut joined)));
        let now = Instant::now();
        let mut over = Vec::with_capacity(joined.len());
        for one in joined {
            match one.is_over() {
                true => over.push(one.flight),
                false => self.scheduler.park(one.flight, now),
            }
        }
        self.desks.put(desk, None);
        for flight in over {
            self.scheduler.over(&flight.token, flight.bytes());
        }
        self.tell_in_flight(worker);
    }

    /// Results are fetched while Redis is away too, since fal keeps them for minutes only; those that are too large for
    /// the step file stay in memory until Redis is back. Beyond a limit the rest stay at fal for the time being: a
    /// worker that is killed for its memory loses more.
    fn has_room_for_its_result(&self, worker: &Worker, flight: &Flight) -> bool {
        !matches!(flight.phase, Phase::Polling | Phase::Collecting)
            || !self.scheduler.is_full()
            || !worker.tools.store.health.is_away()
    }

    /// Hands a flight to the transfer threads.
    fn transfer(&self, worker: &Worker, desk: usize, hand: &mut Option<Box<Flight>>) {
        let Some(flight) = hand else { return };
        self.scheduler.transferring(Snapshot::of(flight));
        self.clear(worker, desk);
        let line = self.line(flight);
        let Some(flight) = hand.take() else { return };
        if let Err(closed) = line.send(flight) {
            self.scheduler.park(closed.into_inner(), Instant::now());
        }
    }

    /// Where it waits for them.
    fn line(&self, flight: &Flight) -> &Sender<Box<Flight>> {
        let [calls, moves, inputs] = &self.transfers;
        match flight.phase {
            Phase::Submitting if brings(flight) => inputs,
            Phase::Submitting => calls,
            Phase::Polling | Phase::Collecting | Phase::Delivering | Phase::Telling => moves,
        }
    }

    /// Whether files of results wait for a transfer thread.
    fn results_wait(&self) -> bool {
        let [_, moves, _] = &self.transfers;
        !moves.is_empty()
    }

    fn crashed(&self) -> MutexGuard<'_, Vec<(JobId, Token)>> {
        self.crashed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells Redis of panics that it could not be told of. Gives those that are still to be told.
    pub(crate) fn tell_crashes(&self, session: &Session) -> Vec<Token> {
        let told: Vec<_> = self.crashed().clone();
        for (id, token) in told {
            if session.crash(&id, &token).is_ok() {
                self.crashed().retain(|(_, other)| *other != token);
            }
        }
        let left = self.crashed();
        left.iter().map(|(_, token)| token.clone()).collect()
    }

    /// This thread has nothing in hand.
    fn clear(&self, worker: &Worker, desk: usize) {
        worker.idle();
        self.desks.put(desk, None);
    }

    /// The desk first: what lies on one is counted as in flight.
    fn over(&self, worker: &Worker, desk: usize, token: &Token, bytes: usize) {
        worker.idle_soon();
        self.desks.put(desk, None);
        self.scheduler.over(token, bytes);
        self.tell_in_flight(worker);
    }

    fn tell_in_flight(&self, worker: &Worker) {
        let number = self.scheduler.in_flight() as u64;
        worker.tools.in_flight.store(number, Ordering::Relaxed);
    }
}

/// Whether the next step is a new payment.
fn pays(flight: &Flight) -> bool {
    flight.phase == Phase::Submitting && !flight.closing
}

/// Whether files of its input are on their way to fal: nothing of it is paid yet.
fn brings(flight: &Flight) -> bool {
    flight.phase == Phase::Submitting && flight.brings_files()
}

#[cfg(test)]
mod tests;
