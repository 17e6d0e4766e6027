//! Who runs what, when: one lock, heaps of (due, flight), and two condition variables. Everything that
//! can wake a pool thread is here, in a fixed order: stop, writes that have waited for each other, finishing
//! steps, polls and claimed jobs not yet begun in turns, pull. Of every eight turns one begins a claimed job or, where
//! there is none, pulls, so that an endless stream of due steps starves nobody. There is no timer thread: one idle
//! thread, the leader, waits for the earliest due time, and whoever takes work wakes one more if work is left.

use crate::job::flight::{Flight, Token};
use crate::job::window::Heard;
use crate::job::{Phase, UnixMs};
use crate::steps::Snapshot;
use crate::steps::gate::{Gate, Inside, Service};
use crate::steps::together::{COMPANY, FULL, Joined};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How far the daemon has gone towards its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Pull and work.
    Run,
    /// Pull nothing new; go on with what is due.
    Quiet,
    /// Begin no step; whatever comes back is given back.
    Stop,
}

/// What a pool thread does next.
pub(crate) enum Work<'a> {
    /// One flight's next step. A job that is to be submitted has its place at fal already, and so has a look at one
    /// that is there, unless fal is away.
    Step(Box<Flight>, Option<Inside<'a>>),
    /// Writes of flights, to be made together.
    Writes(Vec<Joined>),
    /// Pull, blocking this long at most.
    Pull(Permit<'a>, Duration),
    /// End the thread.
    Stop,
}

struct Parked {
    due: Instant,
    order: u64,
    flight: Box<Flight>,
}

impl PartialEq for Parked {
    fn eq(&self, other: &Parked) -> bool {
        self.order == other.order
    }
}
impl Eq for Parked {}
impl PartialOrd for Parked {
    fn partial_cmp(&self, other: &Parked) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Parked {
    fn cmp(&self, other: &Parked) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

struct Inner {
    finishing: BinaryHeap<Reverse<Parked>>,
    /// What waits for fal, results that are to be fetched among it: what waits for a place there keeps nothing else
    /// waiting.
    polls: BinaryHeap<Reverse<Parked>>,
    claimed: VecDeque<Box<Flight>>,
    /// Flights whose writes wait for each other.
    joined: Vec<Joined>,
    /// When the first of them has waited long enough.
    joined_due: Option<Instant>,
    /// Claimed jobs on their way back, of which it is not known whether Redis has taken them: never begun here.
    returning: Vec<Box<Flight>>,
    /// Flights whose bytes move, or that wait for it: the transfers' channel cannot be looked into. Not by the ids of
    /// their jobs: who was taken over and has claimed a job again has two flights of it for a while.
    transferring: HashMap<Token, Snapshot>,
    /// From when on the one permit to pull may be taken; `None` while a thread has it.
    permit: Option<Instant>,
    /// It was parked because there was no room: room brings it back at once.
    wants_room: bool,
    in_flight: usize,
    leader_until: Option<Instant>,
    idle: usize,
    parked: u64,
    /// How far behind its due time a step began at most, since somebody asked.
    late: Duration,
    /// The last place at fal went to a poll.
    new_is_next: bool,
    /// The last claim left jobs behind in Redis.
    more: bool,
    /// When it came.
    came: Option<Instant>,
    /// So many claims in a row were begun at once, each with more behind it.
    brisk: u8,
    stage: Stage,
}

/// The scheduler, shared by all threads of the pool.
pub(crate) struct Scheduler {
    inner: Mutex<Inner>,
    leader: Condvar,
    followers: Condvar,
    threads: usize,
    max_in_flight: usize,
    /// Inputs held in memory, and results that lie nowhere else, bytes.
    input_bytes: AtomicUsize,
    /// Claimed jobs that wait to begin, to be read without the lock.
    waiting: AtomicUsize,
    /// A due poll waits for a place at fal, to be read without the lock.
    held: AtomicBool,
    /// The stage, to be read without the lock.
    stage: AtomicU8,
}

/// Longest block of a pull: short enough that a lost ring or a half-open connection shows soon.
const BLOCK: Duration = Duration::from_secs(5);
/// After a pull that panicked: the next one may meet the same.
const AFTER_PANIC: Duration = Duration::from_secs(1);
/// Inputs held in memory at most; more waits in Redis.
const INPUT_BYTES: usize = 16 << 20;
/// Bytes in memory above which no results are fetched that could not be written down.
const RESULT_BYTES: usize = 64 << 20;
/// How long nobody looks whether what is claimed has a place at fal by now.
const CROWDED: Duration = Duration::from_millis(20);
/// Claimed jobs that are begun within this time are nobody's loss: the next claims may bring more of them.
const BRISK: Duration = Duration::from_millis(20);
/// After so many claims of which that was true it will be true of larger ones.
const LONG_BRISK: u8 = 8;

impl Scheduler {
    pub(crate) fn new(threads: usize, max_in_flight: usize) -> Scheduler {
        Scheduler {
            inner: Mutex::new(Inner {
                finishing: BinaryHeap::new(),
                polls: BinaryHeap::new(),
                claimed: VecDeque::new(),
                joined: Vec::new(),
                joined_due: None,
                returning: Vec::new(),
                transferring: HashMap::new(),
                permit: Some(Instant::now()),
                wants_room: false,
                in_flight: 0,
                leader_until: None,
                idle: 0,
                parked: 0,
                late: Duration::ZERO,
                new_is_next: false,
                more: false,
                came: None,
                brisk: 0,
                stage: Stage::Run,
            }),
            leader: Condvar::new(),
            followers: Condvar::new(),
            threads,
            max_in_flight,
            input_bytes: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            held: AtomicBool::new(false),
            stage: AtomicU8::new(Stage::Run as u8),
        }
    }

    /// Nobody pulls before [`Scheduler::open`].
    pub(crate) fn close(&self) {
        self.lock().permit = None;
    }

    /// All threads are there: what is claimed from here on will be served.
    pub(crate) fn open(&self) {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.permit = Some(now);
        self.wake_for(&inner, now);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic never happens while the lock is held; were it to, the data is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next thing to do; waits for it. `turn` is the calling thread's own count; before it waits, or ends, it
    /// does what is `idle`, without the lock. A claimed job is handed out only with a place at fal, so that jobs
    /// begin in the order of their priorities however full fal's bulkhead is.
    pub(crate) fn next<'a>(&'a self, turn: &mut u32, gate: &'a Gate, idle: impl Fn()) -> Work<'a> {
        *turn = turn.wrapping_add(1);
        let mut is_idle = false;
        let mut inner = self.lock();
        loop {
            let now = Instant::now();
            if inner.stage == Stage::Stop {
                self.followers.notify_all();
                self.leader.notify_all();
                drop(inner);
                idle();
                return Work::Stop;
            }
            if inner.joined_due.is_some_and(|due| due <= now) {
                let joined = inner.take_joined();
                self.wake_another(&mut inner, gate, now);
                return Work::Writes(joined);
            }
            let may_pull = inner.stage == Stage::Run && inner.permit.is_some_and(|at| at <= now);
            if turn.is_multiple_of(8) && inner.stage == Stage::Run {
                // What was pulled and not begun waits behind the same stream of due steps: it first, or
                // each such turn would begin one job and hoard the rest of its claim.
                if let Some((flight, place)) = self.begin(&mut inner, gate, now) {
                    self.wake_another(&mut inner, gate, now);
                    return Work::Step(flight, place);
                }
                if may_pull {
                    return self.pull(inner, gate, now);
                }
            }
            // Polls and new jobs have the places at fal in turns: while there are too few of them, a crowd of either
            // would leave the other none.
            if inner.new_is_next
                && !is_due(&inner.finishing, now)
                && let Some((flight, place)) = self.begin(&mut inner, gate, now)
            {
                self.wake_another(&mut inner, gate, now);
                return Work::Step(flight, place);
            }
            if let Some((flight, place)) = inner.due(gate, now) {
                self.held.store(false, Ordering::Release);
                self.wake_another(&mut inner, gate, now);
                return Work::Step(flight, place);
            }
            // While more waits in Redis the next claim is under way before the last one is used up: or all
            // threads would wait for it. Not without room: that claim could bring only what is paid.
            if may_pull
                && inner.more
                && inner.claimed.len() <= self.few(&inner)
                && self.room_in(&inner) > 0
            {
                return self.pull(inner, gate, now);
            }
            if let Some((flight, place)) = self.begin(&mut inner, gate, now) {
                self.wake_another(&mut inner, gate, now);
                return Work::Step(flight, place);
            }
            if may_pull {
                return self.pull(inner, gate, now);
            }
            if !std::mem::replace(&mut is_idle, true) {
                drop(inner);
                idle();
                inner = self.lock();
                continue;
            }
            inner = self.wait(inner, gate, now);
        }
    }

    /// The first claimed job, if it may begin.
    fn begin<'a>(
        &self,
        inner: &mut Inner,
        gate: &'a Gate,
        now: Instant,
    ) -> Option<(Box<Flight>, Option<Inside<'a>>)> {
        if inner.stage != Stage::Run {
            return None;
        }
        let pays = inner.claimed.front()?.phase == Phase::Submitting;
        let place = match pays {
            true => Some(gate.enter_to_submit(now)?),
            false => None,
        };
        let flight = inner.claimed.pop_front()?;
        inner.new_is_next = false;
        self.waiting.store(inner.claimed.len(), Ordering::Release);
        self.room(inner);
        Some((flight, place))
    }

    /// A place at fal may be free: somebody should look whether a poll or a claimed job waits for it.
    pub(crate) fn place_is_free(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 || self.held.load(Ordering::Acquire) {
            self.wake_one(&self.lock());
        }
    }

    fn pull<'a>(&'a self, mut inner: MutexGuard<'a, Inner>, gate: &Gate, now: Instant) -> Work<'a> {
        inner.permit = None;
        inner.wants_room = false;
        let used_up = inner.came.map(|at| now.saturating_duration_since(at));
        let is_brisk = inner.more && used_up.is_some_and(|after| after < BRISK);
        inner.brisk = if is_brisk {
            inner.brisk.saturating_add(1)
        } else {
            0
        };
        // With one thread, or with all others in exchanges that may hang, nobody else serves what becomes
        // due, or comes back from a transfer; and one other alone may meet such an exchange meanwhile.
        let others = inner.idle + usize::from(inner.leader_until.is_some());
        let enough = others > usize::from(self.threads == 2);
        let (moving, waiting) = (!inner.transferring.is_empty(), !inner.claimed.is_empty());
        let most = match others {
            0 if moving || waiting => Duration::ZERO,
            // Who waits for a place may wait for fal: somebody must look whether it is back.
            _ if waiting || (moving && !enough) => Duration::from_millis(500),
            _ => BLOCK,
        };
        let block = match inner.earliest_step(gate, now).filter(|_| !enough) {
            // An idle Redis rounds the time-out of BRPOP up to a tenth of a second.
            Some(due) => due
                .saturating_duration_since(now)
                .saturating_sub(Duration::from_millis(150))
                .min(most),
            None => most,
        };
        self.wake_another(&mut inner, gate, now);
        Work::Pull(
            Permit {
                scheduler: self,
                from: Some(Instant::now()),
                wants_room: false,
            },
            block,
        )
    }

    fn wait<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        gate: &Gate,
        now: Instant,
    ) -> MutexGuard<'a, Inner> {
        // A place at fal is given back in the midst of a step, whose write to Redis may then take its time.
        let waits = inner.stage == Stage::Run && !inner.claimed.is_empty();
        let place = gate.wait_to_submit(now).filter(|_| waits);
        let place = place.map(|wait| now + wait.max(CROWDED));
        let until = inner.earliest(gate, now).into_iter().chain(place).min();
        let held = is_due(&inner.polls, now);
        self.held.store(held, Ordering::Release);
        match (until, inner.leader_until) {
            (Some(until), None) => {
                inner.leader_until = Some(until);
                let wait = until.saturating_duration_since(now);
                let (mut inner, _) = self
                    .leader
                    .wait_timeout(inner, wait)
                    .unwrap_or_else(PoisonError::into_inner);
                inner.leader_until = None;
                inner
            }
            (None, _) | (_, Some(_)) => {
                inner.idle += 1;
                let mut inner = self
                    .followers
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner);
                inner.idle -= 1;
                inner
            }
        }
    }

    /// Called by a thread that takes work: somebody must lead, and what else is ready must not wait.
    fn wake_another(&self, inner: &mut Inner, gate: &Gate, now: Instant) {
        if inner.idle > 0
            && inner.leader_until.is_none()
            && (inner.earliest(gate, now).is_some() || !inner.claimed.is_empty())
        {
            self.followers.notify_one();
        } else if inner.ready(gate, now) {
            self.wake_one(inner);
        }
    }

    fn wake_one(&self, inner: &Inner) {
        if inner.idle > 0 {
            self.followers.notify_one();
        } else if inner.leader_until.is_some() {
            self.leader.notify_one();
        }
    }

    /// Somebody must be awake at `due`.
    fn wake_for(&self, inner: &Inner, due: Instant) {
        match inner.leader_until {
            Some(until) if due < until => self.leader.notify_one(),
            Some(_) => {}
            None if inner.idle > 0 => self.followers.notify_one(),
            None => {}
        }
    }

    /// Parks a flight until it is due.
    pub(crate) fn park(&self, flight: Box<Flight>, due: Instant) {
        let mut inner = self.lock();
        inner.park(flight, due);
        self.wake_for(&inner, due);
    }

    /// The same, by a thread that asks for work next: it will lead, or wake somebody who does, so only
    /// a leader who would sleep too long is woken.
    pub(crate) fn park_and_come_back(&self, flight: Box<Flight>, due: Instant) {
        let mut inner = self.lock();
        inner.park(flight, due);
        if inner.leader_until.is_some_and(|until| due < until) {
            self.leader.notify_one();
        }
    }

    /// The write of a flight waits for those of others, by a thread that asks for work next. Not where new jobs
    /// wait for it to be over.
    pub(crate) fn join(&self, joined: Joined) {
        let mut inner = self.lock();
        let now = Instant::now();
        inner.joined.push(joined);
        let due = match inner.joined.len() >= FULL || inner.in_flight >= self.max_in_flight {
            true => now,
            false => inner.joined_due.unwrap_or(now + COMPANY),
        };
        inner.joined_due = Some(due);
        if inner.leader_until.is_some_and(|until| due < until) {
            self.leader.notify_one();
        }
    }

    /// What waits for Telegram has its next step now.
    pub(crate) fn hurry_deliveries(&self) {
        let mut inner = self.lock();
        let now = Instant::now();
        let mut parked = std::mem::take(&mut inner.finishing).into_vec();
        for Reverse(parked) in &mut parked {
            parked.due = parked.due.min(now);
        }
        inner.finishing = parked.into();
        self.wake_for(&inner, now);
    }

    /// Those of these claims that are parked, or not begun, have their next step now.
    pub(crate) fn hurry(&self, tokens: &HashSet<Token>) {
        let mut inner = self.lock();
        let now = Instant::now();
        let mut found = false;
        let Inner {
            finishing, polls, ..
        } = &mut *inner;
        for heap in [finishing, polls] {
            let mut all = std::mem::take(heap).into_vec();
            for Reverse(parked) in &mut all {
                // A delivery is not stopped any more, and has its turn to wait for.
                if parked.due > now
                    && matches!(parked.flight.phase, Phase::Polling | Phase::Collecting)
                    && tokens.contains(&parked.flight.token)
                {
                    parked.due = now;
                    found = true;
                }
            }
            *heap = all.into();
        }
        // Who waits for a place at fal needs none any more.
        let claimed = std::mem::take(&mut inner.claimed);
        for flight in claimed {
            if tokens.contains(&flight.token) {
                inner.park(flight, now);
                found = true;
            } else {
                inner.claimed.push_back(flight);
            }
        }
        self.waiting.store(inner.claimed.len(), Ordering::Release);
        if found {
            self.room(&mut inner);
            self.wake_for(&inner, now);
        }
    }

    /// Jobs that the calling thread has claimed, each counted as it is put here; it asks for work next, and wakes
    /// others for the rest.
    pub(crate) fn claimed(&self, flights: impl Iterator<Item = Box<Flight>>) {
        let mut inner = self.lock();
        let now = Instant::now();
        for flight in flights {
            inner.in_flight += 1;
            self.input_bytes.fetch_add(flight.bytes(), Ordering::AcqRel);
            // What is paid never waits behind a new job's place at fal.
            if flight.phase == Phase::Submitting {
                inner.claimed.push_back(flight);
            } else {
                inner.park(flight, now);
            }
        }
        self.waiting.store(inner.claimed.len(), Ordering::Release);
    }

    /// Takes what is not paid, to be given back: claimed and not begun, or parked before its submit. `all`, or only
    /// what should have gone back before.
    pub(crate) fn take_unpaid(&self, all: bool) -> Vec<Box<Flight>> {
        let mut inner = self.lock();
        let mut out = std::mem::take(&mut inner.returning);
        if all {
            out.extend(inner.claimed.drain(..));
            self.waiting.store(0, Ordering::Release);
            // Whose end somebody has asked for ends here.
            let goes = |flight: &Flight| {
                flight.is_unpaid()
                    && flight.unsaved.is_empty()
                    && !flight.closing
                    && !flight.cancel_asked
            };
            if inner.polls.iter().any(|Reverse(it)| goes(&it.flight)) {
                for parked in inner.polls_in_turn() {
                    match goes(&parked.flight) {
                        true => out.push(parked.flight),
                        false => inner.polls.push(Reverse(parked)),
                    }
                }
            }
        }
        out
    }

    /// Redis may have them back, or not.
    pub(crate) fn are_returning(&self, flights: Vec<Box<Flight>>) {
        self.lock().returning.extend(flights);
    }

    /// Whether the last claim left jobs behind in Redis.
    pub(crate) fn left_behind(&self, more: bool) {
        let mut inner = self.lock();
        inner.more = more;
        inner.came = Some(Instant::now());
    }

    /// How many jobs the next claim may bring: what is claimed and not begun waits for us, while another worker
    /// might begin it. So half of the threads' worth; all of it where the last ones were begun at once, since
    /// threads that run dry wait for one claim after the other, and twice as much where that goes on, since each claim
    /// costs Redis an exchange. Not with large inputs: sixteen of a MiB at a time
    /// would take twice the memory that is meant for all.
    pub(crate) fn claim_size(&self) -> usize {
        self.most_claimed(&self.lock())
    }

    fn most_claimed(&self, inner: &Inner) -> usize {
        let light = self.input_bytes.load(Ordering::Acquire) < INPUT_BYTES / 4;
        match inner.brisk {
            LONG_BRISK.. if light => (2 * self.threads).clamp(1, 16),
            1.. if light => self.threads.clamp(1, 16),
            _ => (self.threads / 2).clamp(1, 8),
        }
    }

    /// With so many claimed jobs left the next claim is due.
    fn few(&self, inner: &Inner) -> usize {
        if inner.brisk > 0 {
            self.most_claimed(inner) / 2
        } else {
            self.threads / 8
        }
    }

    /// A flight goes to the transfer threads.
    pub(crate) fn transferring(&self, snapshot: Snapshot) {
        self.lock()
            .transferring
            .insert(snapshot.token.clone(), snapshot);
    }

    /// Flights came in: how many, with how many bytes in memory.
    #[cfg(test)]
    pub(crate) fn came(&self, flights: usize, bytes: usize) {
        self.lock().in_flight += flights;
        self.input_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// What a flight holds in memory after a step, and held before it, in bytes.
    pub(crate) fn holds(&self, before: usize, after: usize) {
        if after > before {
            self.input_bytes.fetch_add(after - before, Ordering::AcqRel);
        // The lock only where somebody may wait for just that: each job drops its input once.
        } else if after < before && self.lighter(before - after) >= INPUT_BYTES {
            self.room(&mut self.lock());
        }
    }

    /// Whether memory holds as much as it may of what Redis does not take.
    pub(crate) fn is_full(&self) -> bool {
        self.input_bytes.load(Ordering::Acquire) >= RESULT_BYTES
    }

    /// Gives how many bytes there were before.
    fn lighter(&self, bytes: usize) -> usize {
        let less = |held: usize| Some(held.saturating_sub(bytes));
        (self.input_bytes)
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
            .unwrap_or_else(|held| held)
    }

    /// A flight is over.
    pub(crate) fn over(&self, token: &Token, bytes: usize) {
        self.lighter(bytes);
        let mut inner = self.lock();
        inner.transferring.remove(token);
        inner.in_flight = inner.in_flight.saturating_sub(1);
        self.room(&mut inner);
    }

    fn room(&self, inner: &mut Inner) {
        if inner.wants_room && inner.permit.is_some() && self.room_in(inner) > 0 {
            let now = Instant::now();
            inner.permit = Some(now);
            inner.wants_room = false;
            self.wake_for(inner, now);
        }
    }

    fn room_in(&self, inner: &Inner) -> usize {
        // What waits for a place at fal waits in Redis, in its order and for all workers.
        let most = self
            .most_claimed(inner)
            .max(self.threads.div_ceil(2).min(8));
        if self.input_bytes.load(Ordering::Acquire) >= INPUT_BYTES || inner.claimed.len() >= most {
            0
        } else {
            self.max_in_flight.saturating_sub(inner.in_flight)
        }
    }

    /// How many new jobs may come in; and how many paid ones, which may exceed the limit by a tenth.
    pub(crate) fn rooms(&self) -> (usize, usize) {
        let inner = self.lock();
        let paid =
            (self.max_in_flight + self.max_in_flight.div_ceil(10)).saturating_sub(inner.in_flight);
        (self.room_in(&inner), paid)
    }

    /// Whether a permit that may be taken waits for a thread: all of them are in steps.
    pub(crate) fn is_busy(&self) -> bool {
        let inner = self.lock();
        let free = inner.permit.is_some_and(|at| at <= Instant::now());
        free && inner.idle == 0 && inner.leader_until.is_none()
    }

    /// How far behind its due time a step began at most, since this was last asked.
    pub(crate) fn take_late(&self) -> Duration {
        std::mem::take(&mut self.lock().late)
    }

    /// Jobs owned by this process.
    pub(crate) fn in_flight(&self) -> usize {
        self.lock().in_flight
    }

    /// How far towards the end.
    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Run,
            1 => Stage::Quiet,
            _ => Stage::Stop,
        }
    }

    /// Goes further towards the end.
    pub(crate) fn set_stage(&self, stage: Stage) {
        let mut inner = self.lock();
        inner.stage = inner.stage.max(stage);
        self.stage.store(inner.stage as u8, Ordering::Release);
        self.leader.notify_all();
        self.followers.notify_all();
    }

    /// Whether no thread pulls.
    pub(crate) fn nobody_pulls(&self) -> bool {
        self.lock().permit.is_some()
    }

    /// Takes everything that is parked or not begun, to be given back.
    pub(crate) fn drain(&self) -> Vec<Box<Flight>> {
        let mut inner = self.lock();
        let mut out = std::mem::take(&mut inner.returning);
        out.extend(inner.claimed.drain(..));
        let parked = inner.polls_in_turn().into_iter();
        out.extend(parked.map(|parked| parked.flight));
        out.extend(inner.finishing.drain().map(|Reverse(parked)| parked.flight));
        out.extend(inner.take_joined().into_iter().map(|one| one.flight));
        out
    }

    /// Tokens of the flights that [`Scheduler::snapshots`] shows.
    pub(crate) fn tokens(&self) -> HashSet<Token> {
        let inner = self.lock();
        let mut tokens: HashSet<Token> = inner.transferring.keys().cloned().collect();
        tokens.extend(inner.at_rest().iter().map(|flight| flight.token.clone()));
        tokens
    }

    /// What was last heard of each request at fal that is parked here.
    pub(crate) fn at_fal(&self) -> Vec<(UnixMs, Heard)> {
        let inner = self.lock();
        let parked = inner.polls.iter().map(|Reverse(parked)| &parked.flight);
        let polled = parked.filter(|flight| flight.phase == Phase::Polling);
        polled
            .filter_map(|flight| Some((flight.submitted_at?, flight.watch.heard())))
            .collect()
    }

    /// Looks at one flight that no thread works on, for people: with when it is due, if it is parked. A walk
    /// under the lock, and so for nobody else.
    pub(crate) fn look_at<T>(
        &self,
        id: &str,
        look: impl Fn(&Flight, Option<Instant>) -> T,
    ) -> Option<T> {
        let inner = self.lock();
        let parked = inner.finishing.iter().chain(inner.polls.iter());
        let found = parked
            .map(|Reverse(parked)| (&parked.flight, Some(parked.due)))
            .chain(inner.claimed.iter().map(|flight| (flight, None)))
            .chain((inner.joined.iter()).map(|one| (&one.flight, inner.joined_due)))
            .find(|(flight, _)| flight.id.as_str() == id);
        found.map(|(flight, due)| look(flight, due))
    }

    /// Since when this flight's bytes move, or wait for a thread that moves them.
    pub(crate) fn transfers_since(&self, id: &str) -> Option<Instant> {
        let inner = self.lock();
        let mut moving = inner.transferring.values();
        moving
            .find(|one| one.id.as_str() == id)
            .map(|one| one.since)
    }

    /// Snapshots of every flight that no thread works on at this moment.
    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        let inner = self.lock();
        let mut all: Vec<Snapshot> = inner.transferring.values().cloned().collect();
        all.extend(inner.at_rest().into_iter().map(Snapshot::of));
        all
    }
}

impl Inner {
    /// All that no thread works on, but what is with the transfer threads.
    fn at_rest(&self) -> Vec<&Flight> {
        let mut all: Vec<&Flight> = Vec::with_capacity(self.in_flight);
        for heap in [&self.finishing, &self.polls] {
            all.extend(heap.iter().map(|Reverse(parked)| &*parked.flight));
        }
        all.extend(self.claimed.iter().map(|flight| &**flight));
        all.extend(self.returning.iter().map(|flight| &**flight));
        all.extend(self.joined.iter().map(|one| &*one.flight));
        all
    }

    fn take_joined(&mut self) -> Vec<Joined> {
        self.joined_due = None;
        std::mem::take(&mut self.joined)
    }

    fn park(&mut self, flight: Box<Flight>, due: Instant) {
        self.transferring.remove(&flight.token);
        self.parked += 1;
        let finishing =
            flight.closing || matches!(flight.phase, Phase::Delivering | Phase::Telling);
        let order = self.parked;
        let parked = Reverse(Parked { due, order, flight });
        if finishing {
            self.finishing.push(parked);
        } else {
            self.polls.push(parked);
        }
    }

    /// Takes all that wait for a poll or a submit, the first one first.
    fn polls_in_turn(&mut self) -> Vec<Parked> {
        let mut parked: Vec<Parked> = self.polls.drain().map(|Reverse(parked)| parked).collect();
        parked.sort_unstable();
        parked
    }

    /// The flight whose turn it is. A poll for which fal has no place keeps its turn: one that came back later would
    /// find that new jobs have taken the place.
    fn due<'a>(
        &mut self,
        gate: &'a Gate,
        now: Instant,
    ) -> Option<(Box<Flight>, Option<Inside<'a>>)> {
        let (heap, place) = if is_due(&self.finishing, now) {
            (&mut self.finishing, None)
        } else if is_due(&self.polls, now) {
            let Reverse(first) = self.polls.peek()?;
            let place = match waits_for_a_place(&first.flight, gate) {
                true => Some(gate.enter_if_there(Service::Fal, now)?),
                false => None,
            };
            (&mut self.polls, place)
        } else {
            return None;
        };
        self.new_is_next = place.is_some();
        let Reverse(first) = heap.pop()?;
        self.late = self.late.max(now.saturating_duration_since(first.due));
        Some((first.flight, place))
    }

    /// When the next step is due; of one that waits for a place at fal, when somebody should look.
    fn earliest_step(&self, gate: &Gate, now: Instant) -> Option<Instant> {
        let finishing = self.finishing.peek().map(|Reverse(parked)| parked.due);
        let polls = self.polls.peek().map(|Reverse(first)| {
            let held = first.due <= now
                && waits_for_a_place(&first.flight, gate)
                && !gate.has_place(Service::Fal);
            if held { now + CROWDED } else { first.due }
        });
        let joined = self.joined_due;
        (finishing.into_iter().chain(polls).chain(joined)).min()
    }

    fn earliest(&self, gate: &Gate, now: Instant) -> Option<Instant> {
        let permit = self.permit.filter(|_| self.stage == Stage::Run);
        let step = self.earliest_step(gate, now);
        step.into_iter().chain(permit).min()
    }

    fn ready(&self, gate: &Gate, now: Instant) -> bool {
        let may_begin = || gate.wait_to_submit(now) == Some(Duration::ZERO);
        (self.stage == Stage::Run && !self.claimed.is_empty() && may_begin())
            || self.earliest(gate, now).is_some_and(|due| due <= now)
    }
}

fn is_due(heap: &BinaryHeap<Reverse<Parked>>, now: Instant) -> bool {
    heap.peek().is_some_and(|Reverse(first)| first.due <= now)
}

/// Whether this look at fal begins with a place there. While fal is away it is let in, or not, one at a time; what
/// Redis has not taken yet goes there first.
fn waits_for_a_place(flight: &Flight, gate: &Gate) -> bool {
    matches!(flight.phase, Phase::Polling | Phase::Collecting)
        && flight.unsaved.is_empty()
        && !gate.is_open(Service::Fal)
}

/// The right to pull: one a daemon. It comes back when it is dropped, also after a panic.
pub(crate) struct Permit<'a> {
    scheduler: &'a Scheduler,
    from: Option<Instant>,
    wants_room: bool,
}

impl Permit<'_> {
    /// Gives it back, to be taken again after `wait`.
    pub(crate) fn park(mut self, wait: Duration) {
        self.from = Some(Instant::now() + wait);
    }

    /// Gives it back, to be taken again after `wait`, or as soon as there is room.
    pub(crate) fn park_for_room(mut self, wait: Duration) {
        self.from = Some(Instant::now() + wait);
        self.wants_room = true;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut inner = self.scheduler.lock();
        let mut from = self.from.unwrap_or_else(Instant::now);
        if std::thread::panicking() {
            from = Instant::now() + AFTER_PANIC;
        } else if self.wants_room && self.scheduler.room_in(&inner) > 0 {
            from = Instant::now(); // room came while we looked for paid jobs
        }
        inner.permit = Some(from);
        inner.wants_room = self.wants_room;
        self.scheduler.wake_for(&inner, from);
    }
}

#[cfg(test)]
mod tests;
