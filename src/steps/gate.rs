//! Who may go into a service now. Bulkheads: no service gets all threads, so a slow one cannot stop the
//! work at the other. Breakers: a service that is away is asked by one probe at a time, its steps wait
//! parked and use up nothing. It also remembers that Telegram refuses the bot, so that nothing is paid for that
//! could not be delivered. Decisions are pure, given the time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A service with a bulkhead and a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// fal's APIs.
    Fal,
    /// fal's queue where it takes new requests, which may fail while what is there is read well. It has no bulkhead
    /// of its own, and only a submit can tell that it is back: its probe pays.
    Submits,
    /// Where fal takes direct calls: another host. Each call ends its job in doubt if it is not answered, so that of
    /// a backlog nearly nothing may be spent on finding out that it is back. Its probe pays too, and it has no
    /// bulkhead: such calls wait on transfer threads.
    Direct,
    /// Telegram; `slow` sends may wait until it has fetched a file.
    Telegram { slow: bool },
    /// fal's storage, which may be away while its queue is not. No step of the pool goes there.
    Storage,
}

/// Failures in a row that open a breaker.
const OPENS_AFTER: u32 = 5;
/// Time to the first probe; it doubles up to the last.
const FIRST_PROBE: Duration = Duration::from_millis(500);
const LAST_PROBE: Duration = Duration::from_secs(10);
/// The same where each probe may cost a job.
const LAST_DIRECT: Duration = Duration::from_secs(60);
/// How long a step waits for a place in a full bulkhead.
const CROWDED: Duration = Duration::from_millis(20);
/// How often Telegram is asked whether it takes a bot that it refused.
const BOT_LOOK: Duration = Duration::from_secs(10);

/// May this step go in?
#[derive(Debug)]
pub(crate) enum Admission<'a> {
    /// Yes.
    Go(Inside<'a>),
    /// Yes, as the one probe: only if it pays and sends nothing.
    Probe(Inside<'a>),
    /// Not before this time has passed.
    Wait(Duration),
}

/// A place in a service, given back when dropped, also after a panic.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    gate: &'a Gate,
    place: Option<Place>,
}

/// A place without its guard: whoever holds it must give it back by [`Gate::leave`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    service: Service,
    probe: Option<Probe>,
    counted: bool,
}

/// Which probe of a breaker somebody is: its outcome alone says when the next one may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    of: Service,
    number: u64,
}

impl Place {
    /// Of the probe that has it.
    pub(crate) fn probe(&self) -> Option<Probe> {
        self.probe
    }
}

impl Inside<'_> {
    /// Keeps the place beyond this guard's life.
    pub(crate) fn keep(mut self) -> Option<Place> {
        self.place.take()
    }

    /// Of the probe that has it.
    pub(crate) fn probe(&self) -> Option<Probe> {
        self.place.and_then(|place| place.probe)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.gate.leave(place);
        }
    }
}

/// The gate of one process.
#[derive(Debug)]
pub(crate) struct Gate {
    fal: Rooms,
    submits: Mutex<Breaker>,
    direct: Mutex<Breaker>,
    telegram: Rooms,
    storage: Rooms,
    slow: AtomicUsize,
    bot: Bot,
    most: usize,
    most_slow: usize,
}

/// Whether Telegram refuses the bot itself: a token that is wrong or was revoked, a bot that was frozen.
#[derive(Debug, Default)]
struct Bot {
    refused: AtomicBool,
    next_look: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Rooms {
    inside: AtomicUsize,
    breaker: Mutex<Breaker>,
}

/// How many of so many threads may be inside one service: three quarters, and all but two; and how many in slow
/// sends: half. At least one each.
pub(crate) fn places(threads: usize) -> (usize, usize) {
    // With what is left over one may wait for the bell and one is free, however long a service hangs: from four
    // threads on it never stops the other's work.
    let most = (threads * 3 / 4).min(threads.saturating_sub(2)).max(1);
    (most, (threads / 2).max(1))
}

impl Gate {
    /// For a pool of so many threads.
    pub(crate) fn new(threads: usize) -> Gate {
        let (most, most_slow) = places(threads);
        Gate {
            fal: Rooms::default(),
            submits: Mutex::default(),
            direct: Mutex::new(Breaker {
                longest: LAST_DIRECT,
                ..Breaker::default()
            }),
            telegram: Rooms::default(),
            storage: Rooms::default(),
            slow: AtomicUsize::new(0),
            bot: Bot::default(),
            most,
            most_slow,
        }
    }

    fn rooms(&self, service: Service) -> &Rooms {
        match service {
            Service::Fal | Service::Submits | Service::Direct => &self.fal,
            Service::Telegram { .. } => &self.telegram,
            Service::Storage => &self.storage,
        }
    }

    fn breaker(&self, service: Service) -> MutexGuard<'_, Breaker> {
        let breaker = match service {
            Service::Submits => &self.submits,
            Service::Direct => &self.direct,
            _ => &self.rooms(service).breaker,
        };
        breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the service's breaker says; of submits, whose probe is the submit itself: where fal is there.
    fn verdict(&self, service: Service, now: Instant) -> (Service, Verdict) {
        if service == Service::Submits {
            match self.breaker(Service::Fal).verdict(now) {
                Verdict::Closed => {}
                verdict => return (Service::Fal, verdict),
            }
        }
        (service, self.breaker(service).verdict(now))
    }

    /// Asks for a place. A transfer thread is not of the pool and passes the bulkheads.
    pub(crate) fn enter(&self, service: Service, of_the_pool: bool, now: Instant) -> Admission<'_> {
        let rooms = self.rooms(service);
        let slow = matches!(service, Service::Telegram { slow: true });
        let place = |probe: Option<Probe>| Inside {
            gate: self,
            place: Some(Place {
                service,
                probe,
                counted: of_the_pool,
            }),
        };
        if of_the_pool {
            let inside = rooms.inside.fetch_add(1, Ordering::AcqRel);
            let slow_inside = if slow {
                self.slow.fetch_add(1, Ordering::AcqRel)
            } else {
                0
            };
            if inside >= self.most || (slow && slow_inside >= self.most_slow) {
                drop(place(None));
                return Admission::Wait(CROWDED);
            }
        }
        match self.verdict(service, now) {
            (_, Verdict::Closed) => Admission::Go(place(None)),
            (of, Verdict::Probe(number)) => {
                let inside = place(Some(Probe { of, number }));
                match of {
                    Service::Submits | Service::Direct => Admission::Go(inside),
                    _ => Admission::Probe(inside),
                }
            }
            (_, Verdict::Open(wait)) => {
                drop(place(None));
                Admission::Wait(wait)
            }
        }
    }

    /// Gives a place back.
    pub(crate) fn leave(&self, place: Place) {
        let rooms = self.rooms(place.service);
        if place.counted {
            rooms.inside.fetch_sub(1, Ordering::AcqRel);
            if let Service::Telegram { slow: true } = place.service {
                self.slow.fetch_sub(1, Ordering::AcqRel);
            }
        }
        if let Some(probe) = place.probe {
            self.breaker(probe.of).probe_ended(probe.number);
        }
    }

    /// Whether a step of the pool would find a place now.
    pub(crate) fn has_place(&self, service: Service) -> bool {
        self.rooms(service).inside.load(Ordering::Acquire) < self.most && !self.is_open(service)
    }

    /// A place for a step of the pool, if there is one and the service is not away: never the probe.
    pub(crate) fn enter_if_there(&self, service: Service, now: Instant) -> Option<Inside<'_>> {
        if !self.has_place(service) {
            return None;
        }
        match self.enter(service, true, now) {
            Admission::Go(place) => Some(place),
            Admission::Probe(_) | Admission::Wait(_) => None,
        }
    }

    /// Whether fal is there and takes no requests, as far as the last submit could tell. Once the next one may ask,
    /// nobody knows: there may be none for hours.
    pub(crate) fn refuses_submits(&self, now: Instant) -> bool {
        !self.is_open(Service::Fal) && !self.breaker(Service::Submits).wait(now).is_zero()
    }

    /// Whether direct calls are not answered, in the same way.
    pub(crate) fn refuses_direct_calls(&self, now: Instant) -> bool {
        !self.breaker(Service::Direct).wait(now).is_zero()
    }

    /// How long until a submit may find a place: nothing if it would now, `None` while fal is away.
    pub(crate) fn wait_to_submit(&self, now: Instant) -> Option<Duration> {
        if self.is_open(Service::Fal) {
            return None;
        }
        let crowded = self.fal.inside.load(Ordering::Acquire) >= self.most;
        let wait = self.breaker(Service::Submits).wait(now);
        Some(if crowded { wait.max(CROWDED) } else { wait })
    }

    /// A place for a submit, if there is one and fal takes requests, or to ask whether it does.
    pub(crate) fn enter_to_submit(&self, now: Instant) -> Option<Inside<'_>> {
        if self.wait_to_submit(now) != Some(Duration::ZERO) {
            return None;
        }
        match self.enter(Service::Submits, true, now) {
            Admission::Go(place) => Some(place),
            Admission::Probe(_) | Admission::Wait(_) => None,
        }
    }

    /// The service answered: whatever it said, it is there. True when it counted as away.
    pub(crate) fn answered(&self, service: Service) -> bool {
        self.breaker(service).good()
    }

    /// The service did not answer, or only a gateway in front of it did. `asked`: the probe that was not answered, if
    /// it was one. True when the service counts as away from now on.
    pub(crate) fn failed(&self, service: Service, asked: Option<Probe>, now: Instant) -> bool {
        let breaker = std::mem::discriminant(&service);
        let its_own = asked.filter(|probe| std::mem::discriminant(&probe.of) == breaker);
        self.breaker(service)
            .bad(its_own.map(|probe| probe.number), now)
    }

    /// It counts as away from now on, however few failures were seen. True when it did not before.
    pub(crate) fn found_away(&self, service: Service, now: Instant) -> bool {
        self.breaker(service).opens(now)
    }

    /// Telegram refuses the bot: what would be paid for now could not be delivered.
    pub(crate) fn bot_refused(&self, now: Instant) {
        if !self.bot.refused.swap(true, Ordering::AcqRel) {
            *self.next_look() = Some(now + BOT_LOOK);
        }
    }

    /// Telegram did something for the bot, or refused that alone.
    pub(crate) fn bot_taken(&self) {
        if self.is_bot_refused() {
            self.bot.refused.store(false, Ordering::Release);
        }
    }

    /// Whether the bot was refused last.
    pub(crate) fn is_bot_refused(&self) -> bool {
        self.bot.refused.load(Ordering::Acquire)
    }

    /// Whether somebody should ask now if it still is; one of those who want to know.
    pub(crate) fn may_ask_for_bot(&self, now: Instant) -> bool {
        if !self.is_bot_refused() {
            return false;
        }
        let mut next = self.next_look();
        let due = next.is_none_or(|at| at <= now);
        if due {
            *next = Some(now + BOT_LOOK);
        }
        due
    }

    fn next_look(&self) -> MutexGuard<'_, Option<Instant>> {
        self.bot
            .next_look
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the service counts as away.
    pub(crate) fn is_open(&self, service: Service) -> bool {
        self.breaker(service).open.is_some()
    }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Closed,
    /// This one may ask.
    Probe(u64),
    Open(Duration),
}

#[derive(Debug)]
struct Breaker {
    /// Between two probes.
    longest: Duration,
    failures: u32,
    /// Probes so far.
    probes: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    next_probe: Instant,
    wait: Duration,
    /// The one under way.
    probing: Option<u64>,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker {
            longest: LAST_PROBE,
            failures: 0,
            probes: 0,
            open: None,
        }
    }
}

impl Breaker {
    fn verdict(&mut self, now: Instant) -> Verdict {
        match &mut self.open {
            None => Verdict::Closed,
            Some(open) if open.probing.is_none() && open.next_probe <= now => {
                self.probes += 1;
                open.probing = Some(self.probes);
                Verdict::Probe(self.probes)
            }
            Some(_) => Verdict::Open(self.wait(now)),
        }
    }

    /// How long nobody may go in, not even a probe; of one under way as long as the next one would be off.
    fn wait(&self, now: Instant) -> Duration {
        match &self.open {
            None => Duration::ZERO,
            Some(open) if open.probing.is_some() => open.wait,
            Some(open) => open.next_probe.saturating_duration_since(now),
        }
    }

    fn good(&mut self) -> bool {
        self.failures = 0;
        self.open.take().is_some()
    }

    fn bad(&mut self, probe: Option<u64>, now: Instant) -> bool {
        self.failures += 1;
        match &mut self.open {
            Some(open) if open.probing.is_some() && open.probing == probe => {
                open.wait = (open.wait * 2).min(self.longest);
                open.next_probe = now + open.wait;
                open.probing = None;
                false
            }
            // A step that was inside when it opened: its time limit may come long after.
            Some(_) => false,
            None if self.failures >= OPENS_AFTER => self.opens(now),
            None => false,
        }
    }

    /// True if it was closed.
    fn opens(&mut self, now: Instant) -> bool {
        if self.open.is_some() {
            return false;
        }
        self.open = Some(Open {
            next_probe: now + FIRST_PROBE,
            wait: FIRST_PROBE,
            probing: None,
        });
        true
    }

    /// A probe that brought neither an answer nor a failure (it panicked, or went another way) must not
    /// keep the breaker open for ever.
    fn probe_ended(&mut self, probe: u64) {
        if let Some(open) = &mut self.open
            && open.probing == Some(probe)
        {
            open.probing = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..OPENS_AFTER {
            assert_eq!(breaker.verdict(now), Verdict::Closed);
            breaker.bad(None, now);
        }
        breaker
    }

    fn probe(breaker: &mut Breaker, now: Instant) -> u64 {
        match breaker.verdict(now) {
            Verdict::Probe(number) => number,
            verdict => panic!("{verdict:?} in place of a probe"),
        }
    }

    #[test]
    fn five_failures_in_a_row_open_the_breaker_and_one_answer_resets_the_count() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            breaker.bad(None, now);
        }
        breaker.good();
        for _ in 0..4 {
            breaker.bad(None, now);
            assert_eq!(breaker.verdict(now), Verdict::Closed);
        }
        breaker.bad(None, now);
        assert_eq!(breaker.verdict(now), Verdict::Open(FIRST_PROBE));
    }

    #[test]
    fn one_probe_at_a_time_goes_out_at_doubling_distances() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for wait_ms in [500, 1000, 2000, 4000, 8000, 10_000, 10_000] {
            let wait = Duration::from_millis(wait_ms);
            assert_eq!(breaker.verdict(now), Verdict::Open(wait));
            now += wait;
            let probe = probe(&mut breaker, now);
            assert!(
                matches!(breaker.verdict(now), Verdict::Open(_)),
                "a second probe"
            );
            breaker.bad(Some(probe), now);
        }
        now += LAST_PROBE;
        probe(&mut breaker, now);
        breaker.good();
        assert_eq!(breaker.verdict(now), Verdict::Closed);
    }

    #[test]
    fn failures_of_steps_that_were_inside_do_not_move_the_next_probe() {
        let now = Instant::now();
        let mut breaker = opened(now);
        for _ in 0..50 {
            breaker.bad(None, now + Duration::from_millis(400));
        }
        let first = probe(&mut breaker, now + FIRST_PROBE);
        // Nor do they let a second one go while the first is out, or stand for its failure.
        let later = now + FIRST_PROBE * 4;
        for _ in 0..50 {
            breaker.bad(None, later);
            assert_eq!(breaker.verdict(later), Verdict::Open(FIRST_PROBE));
        }
        breaker.bad(Some(first), later);
        assert_eq!(breaker.verdict(later), Verdict::Open(FIRST_PROBE * 2));
        // What is left of a probe that is over is no word about the next one.
        let later = later + FIRST_PROBE * 2;
        let second = probe(&mut breaker, later);
        breaker.probe_ended(first);
        breaker.bad(Some(first), later);
        assert_eq!(breaker.verdict(later), Verdict::Open(FIRST_PROBE * 2));
        breaker.probe_ended(second);
        probe(&mut breaker, later);
    }

    #[test]
    fn a_service_gets_three_quarters_of_the_threads_and_slow_sends_half() {
        let now = Instant::now();
        let gate = Gate::new(8);
        let enter = |service| gate.enter(service, true, now);
        let fal: Vec<_> = (0..6).map(|_| enter(Service::Fal)).collect();
        assert!(fal.iter().all(|entry| matches!(entry, Admission::Go(_))));
        assert!(matches!(enter(Service::Fal), Admission::Wait(_)));
        let slow: Vec<_> = (0..4)
            .map(|_| enter(Service::Telegram { slow: true }))
            .collect();
        assert!(slow.iter().all(|entry| matches!(entry, Admission::Go(_))));
        assert!(matches!(
            enter(Service::Telegram { slow: true }),
            Admission::Wait(_)
        ));
        let quick: Vec<_> = (0..2)
            .map(|_| enter(Service::Telegram { slow: false }))
            .collect();
        assert!(quick.iter().all(|entry| matches!(entry, Admission::Go(_))));
        assert!(matches!(
            enter(Service::Telegram { slow: false }),
            Admission::Wait(_)
        ));
        drop((fal, slow, quick));
        assert!(
            matches!(enter(Service::Fal), Admission::Go(_)),
            "places come back"
        );
        assert!(matches!(
            gate.enter(Service::Telegram { slow: true }, true, now),
            Admission::Go(_)
        ));
    }

    #[test]
    fn beside_a_service_that_hangs_one_thread_may_pull_and_one_is_free() {
        for threads in 4..=512 {
            let gate = Gate::new(threads);
            assert!(gate.most <= threads * 3 / 4 && gate.most_slow <= gate.most);
            assert!(gate.most + 2 <= threads, "{threads} threads");
        }
    }

    #[test]
    fn one_thread_may_always_go_in_and_transfers_pass_the_bulkhead() {
        let now = Instant::now();
        let gate = Gate::new(1);
        let first = gate.enter(Service::Fal, true, now);
        assert!(matches!(first, Admission::Go(_)));
        assert!(matches!(
            gate.enter(Service::Fal, true, now),
            Admission::Wait(_)
        ));
        assert!(matches!(
            gate.enter(Service::Fal, false, now),
            Admission::Go(_)
        ));
    }

    #[test]
    fn a_probe_that_ends_without_a_word_lets_the_next_one_go() {
        let now = Instant::now();
        let gate = Gate::new(4);
        for _ in 0..OPENS_AFTER {
            gate.failed(Service::Fal, None, now);
        }
        assert!(gate.is_open(Service::Fal));
        let later = now + FIRST_PROBE;
        let probe = gate.enter(Service::Fal, true, later);
        assert!(matches!(probe, Admission::Probe(_)));
        assert!(matches!(
            gate.enter(Service::Fal, true, later),
            Admission::Wait(_)
        ));
        drop(probe);
        assert!(matches!(
            gate.enter(Service::Fal, true, later),
            Admission::Probe(_)
        ));
    }

    #[test]
    fn submits_that_fail_leave_fal_there_and_ask_again_one_at_a_time() {
        let now = Instant::now();
        let gate = Gate::new(8);
        for _ in 0..OPENS_AFTER {
            gate.failed(Service::Submits, None, now);
            gate.answered(Service::Fal); // the polls between them
        }
        assert!(gate.refuses_submits(now) && !gate.is_open(Service::Fal));
        assert_eq!(gate.wait_to_submit(now), Some(FIRST_PROBE));
        assert!(gate.enter_to_submit(now).is_none());
        assert!(matches!(
            gate.enter(Service::Fal, true, now),
            Admission::Go(_)
        ));
        let later = now + FIRST_PROBE;
        assert_eq!(gate.wait_to_submit(later), Some(Duration::ZERO));
        assert!(!gate.refuses_submits(later), "nobody knows");
        let probe = gate.enter_to_submit(later).expect("the probe");
        assert!(gate.refuses_submits(later));
        assert!(gate.enter_to_submit(later).is_none(), "a second one");
        // One that was inside says no more about it than a probe of something else.
        gate.failed(Service::Submits, None, later);
        gate.failed(Service::Fal, probe.probe(), later);
        assert!(gate.enter_to_submit(later + FIRST_PROBE).is_none());
        gate.failed(Service::Submits, probe.probe(), later);
        drop(probe);
        assert_eq!(gate.wait_to_submit(later), Some(FIRST_PROBE * 2));
        let later = later + FIRST_PROBE * 2;
        let unused = gate.enter(Service::Submits, true, later);
        assert!(
            matches!(unused, Admission::Go(_)),
            "a submit is its own probe"
        );
        drop(unused);
        let probe = gate.enter_to_submit(later).expect("the next probe");
        gate.answered(Service::Submits);
        drop(probe);
        assert_eq!(gate.wait_to_submit(later), Some(Duration::ZERO));
    }

    #[test]
    fn direct_calls_have_a_breaker_of_their_own_whose_probes_become_rare() {
        let mut now = Instant::now();
        let gate = Gate::new(8);
        for _ in 0..OPENS_AFTER {
            gate.failed(Service::Direct, None, now);
        }
        assert!(gate.refuses_direct_calls(now));
        assert!(!gate.is_open(Service::Fal) && !gate.refuses_submits(now));
        let mut waits = Vec::new();
        for _ in 0..9 {
            let Admission::Wait(wait) = gate.enter(Service::Direct, false, now) else {
                panic!("it is away");
            };
            waits.push(wait.as_millis());
            now += wait;
            let Admission::Go(probe) = gate.enter(Service::Direct, false, now) else {
                panic!("a direct call is its own probe");
            };
            assert!(probe.probe().is_some());
            gate.failed(Service::Direct, probe.probe(), now);
        }
        let doubled = [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000];
        assert_eq!(waits, doubled);
        gate.answered(Service::Direct);
        let two = [0, 1].map(|_| gate.enter(Service::Direct, false, now));
        assert!(two.iter().all(|one| matches!(one, Admission::Go(_))));
    }

    #[test]
    fn while_fal_is_away_no_submit_asks_for_itself() {
        let now = Instant::now();
        let gate = Gate::new(8);
        for _ in 0..OPENS_AFTER {
            gate.failed(Service::Submits, None, now);
            gate.failed(Service::Fal, None, now);
        }
        let later = now + FIRST_PROBE;
        assert_eq!(gate.wait_to_submit(later), None);
        assert!(!gate.refuses_submits(now), "it is away as a whole");
        assert!(gate.enter_to_submit(later).is_none());
        // Of fal as a whole a free question is the probe.
        let probe = gate.enter(Service::Submits, true, later);
        assert!(matches!(probe, Admission::Probe(_)));
        gate.answered(Service::Fal);
        drop(probe);
        let first = gate.enter_to_submit(later);
        assert!(first.is_some() && gate.enter_to_submit(later).is_none());
    }

    #[test]
    fn a_place_that_is_kept_is_taken_until_it_is_left() {
        let gate = Gate::new(4); // two places
        let now = Instant::now();
        let enter = || gate.enter_to_submit(now).and_then(Inside::keep);
        let first = enter().expect("a place");
        let second = enter().expect("another");
        assert!(enter().is_none(), "full");
        gate.leave(first);
        let third = enter().expect("the first one's");
        assert!(enter().is_none(), "full again");
        gate.leave(second);
        gate.leave(third);
        assert_eq!(gate.fal.inside.load(Ordering::Acquire), 0);
    }
}
