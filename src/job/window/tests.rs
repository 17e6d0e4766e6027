//! The controller against a simulated account: slots, a first-in-first-out queue, a stranger on the same key,
//! and workers who know only what their last polls said.

use super::*;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

const TICK_MS: i64 = 50;
/// Between two looks at a request that was not seen running yet.
const SOON_MS: RangeInclusive<i64> = 525..=975;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// It has its place in the window, and nobody sees it.
    Submitting {
        until: i64,
    },
    Waiting,
    Running {
        until: i64,
    },
    Ended,
}

#[derive(Clone, Debug)]
struct Request {
    ours: bool,
    /// Whose it is of several workers.
    worker: usize,
    at: i64,
    /// Its model has no runner before then.
    cold_until: i64,
    place: Place,
    heard: Heard,
    next_poll: i64,
}

/// The account as it is, and as it is seen.
struct Account {
    now: i64,
    slots: usize,
    /// Requests of a stranger kept waiting or running all the time.
    stranger: usize,
    generation_ms: i64,
    poll_ms: i64,
    submit_ms: RangeInclusive<i64>,
    workers: usize,
    /// So many of ours to come, of a model that has no runner until then.
    cold: (usize, i64),
    requests: VecDeque<Request>,
    ran: Option<UnixMs>,
    window: Window,
    random: fastrand::Rng,
    /// For the shares: slots x ticks, all and busy; our requests that waited at fal.
    possible: usize,
    busy: usize,
    most_waiting: usize,
    ended: usize,
}

impl Account {
    fn new(slots: usize, seed: u64) -> Account {
        Account {
            now: 0,
            slots,
            stranger: 0,
            generation_ms: 20_000,
            poll_ms: 500,
            submit_ms: 100..=250,
            workers: 1,
            cold: (0, 0),
            requests: VecDeque::new(),
            ran: None,
            window: Window::default(),
            random: fastrand::Rng::with_seed(seed),
            possible: 0,
            busy: 0,
            most_waiting: 0,
            ended: 0,
        }
    }

    fn forget_shares(&mut self) {
        (self.possible, self.busy, self.most_waiting, self.ended) = (0, 0, 0, 0);
    }

    fn submit(&mut self, ours: bool) {
        let until = self.now + self.random.i64(self.submit_ms.clone());
        let is_cold = ours && self.cold.0 > 0;
        self.cold.0 -= usize::from(is_cold);
        self.requests.push_back(Request {
            ours,
            worker: self.random.usize(..self.workers),
            at: self.now,
            cold_until: if is_cold { self.cold.1 } else { 0 },
            place: Place::Submitting { until },
            heard: Heard::Nothing,
            next_poll: until + self.random.i64(SOON_MS),
        });
    }

    fn count(&self, which: impl Fn(&Request) -> bool) -> usize {
        self.requests.iter().filter(|one| which(one)).count()
    }

    /// There is always more work than fits.
    fn run(&mut self, seconds: i64) {
        let end = self.now + seconds * 1000;
        while self.now < end {
            self.now += TICK_MS;
            self.arrive();
            self.at_fal();
            self.polls();
            let (ours, strangers) = (self.count(|one| one.ours), self.count(|one| !one.ours));
            for _ in ours..self.window.size as usize {
                self.submit(true);
            }
            for _ in strangers..self.stranger {
                self.submit(false);
            }
            if self.now % 1000 == 0 {
                let seen = self.seen();
                self.ran = seen.ran;
                let places = self.count(|one| one.ours) as u32;
                self.window = self.window.after(seen, places);
            }
        }
    }

    /// By all workers, each of which knows its own.
    fn seen(&self) -> Seen {
        let ours = (self.requests.iter())
            .filter(|one| one.ours && !matches!(one.place, Place::Submitting { .. }));
        let of = |worker| {
            let theirs = ours.clone().filter(move |one| one.worker == worker);
            Seen::of(theirs.map(|one| (UnixMs(one.at), one.heard)), self.ran)
        };
        (0..self.workers).map(of).fold(Seen::default(), Seen::and)
    }

    /// What was submitted stands at the end of fal's queue when fal has it, which is not quite the order in which
    /// the submits began.
    fn arrive(&mut self) {
        let now = self.now;
        let is_there =
            |one: &Request| matches!(one.place, Place::Submitting { until } if until <= now);
        let (mut new, old): (Vec<_>, Vec<_>) = self.requests.drain(..).partition(is_there);
        new.sort_by_key(|one| match one.place {
            Place::Submitting { until } => until,
            _ => now,
        });
        for one in &mut new {
            one.place = Place::Waiting;
        }
        self.requests = old.into_iter().chain(new).collect();
    }

    /// Ends, and starts in the order of arrival.
    fn at_fal(&mut self) {
        let now = self.now;
        for one in &mut self.requests {
            if matches!(one.place, Place::Running { until } if until <= now) {
                one.place = Place::Ended;
            }
        }
        self.requests
            .retain(|one| one.ours || one.place != Place::Ended);
        let runs = |one: &&Request| matches!(one.place, Place::Running { .. });
        let mut running = self.requests.iter().filter(runs).count();
        for place in 0..self.requests.len() {
            let one = &self.requests[place];
            let may_run = one.place == Place::Waiting && one.cold_until <= now;
            if running < self.slots && may_run {
                // Half to one and a half of the usual time.
                let half = self.generation_ms / 2;
                let until = now + self.random.i64(half..=3 * half);
                self.requests[place].place = Place::Running { until };
                running += 1;
            }
        }
        self.possible += self.slots;
        self.busy += running.min(self.slots);
        let waiting = self.count(|one| one.ours && one.place == Place::Waiting);
        self.most_waiting = self.most_waiting.max(waiting);
    }

    fn polls(&mut self) {
        let (now, poll_ms) = (self.now, self.poll_ms);
        let random = &mut self.random;
        let before = self.requests.len();
        self.requests.retain_mut(|one| {
            if !one.ours || one.next_poll > now {
                return true;
            }
            let (heard, wait_ms) = match one.place {
                Place::Submitting { .. } => (Heard::Nothing, SOON_MS),
                Place::Waiting => (Heard::Queued, SOON_MS),
                Place::Running { .. } => (Heard::Runs, poll_ms / 2..=poll_ms),
                Place::Ended => return false,
            };
            (one.heard, one.next_poll) = (heard, now + random.i64(wait_ms));
            true
        });
        self.ended += before - self.requests.len();
    }

    fn busy_share(&self) -> f64 {
        self.busy as f64 / self.possible as f64
    }
}

#[test]
fn the_slots_of_an_account_are_found_and_kept_busy_with_a_short_queue() {
    for (slots, generation_ms) in [2, 10, 40]
        .into_iter()
        .flat_map(|slots| [1000, 3000, 20_000].map(|generation_ms| (slots, generation_ms)))
    {
        for seed in 0..8 {
            let mut account = Account::new(slots, seed);
            account.generation_ms = generation_ms;
            account.run(90);
            let size = account.window.size as usize;
            account.forget_shares();
            account.run(600);
            let (busy, waiting) = (account.busy_share(), account.most_waiting);
            let about = format!(
                "slots {slots}, {generation_ms} ms, seed {seed}, {:?}",
                account.window
            );
            assert!(size >= slots, "{about}: {size} after 90 s");
            assert!(busy >= 0.95, "{about}: busy {busy:.3}");
            // What starts within a second is seldom seen waiting.
            let a_second = slots * 1000 / generation_ms as usize;
            let most = 3 * OVERHANG as usize + a_second;
            assert!(waiting <= most, "{about}: {waiting} wait");
        }
    }
}

#[test]
fn a_change_of_the_slots_is_followed_within_twenty_jobs() {
    for (before, after) in [(10, 40), (40, 10), (2, 10), (10, 2)] {
        for seed in 0..20 {
            let mut account = Account::new(before, seed);
            account.run(300);
            account.slots = after;
            account.forget_shares();
            while account.ended < 20 + before.saturating_sub(after) {
                account.run(1);
            }
            // What runs when the slots shrink runs on: those ends come beside the twenty.
            let size = account.window.size as usize;
            let about = format!("{before} -> {after}, seed {seed}: {:?}", account.window);
            assert!(size >= after, "{about}");
            assert!(size <= after + after / 2 + 2 * OVERHANG as usize, "{about}");
        }
    }
}

#[test]
fn a_stranger_on_the_same_key_takes_slots_and_gives_them_back() {
    for seed in 0..20 {
        let mut account = Account::new(10, seed);
        account.run(200);
        account.stranger = 6;
        account.run(50);
        let mut sizes = 0;
        for _ in 0..50 {
            account.run(1);
            sizes += account.window.size;
        }
        let size = f64::from(sizes) / 50.0;
        assert!((3.0..11.0).contains(&size), "seed {seed}: {size:.1}");
        account.stranger = 0;
        account.run(60);
        account.forget_shares();
        account.run(300);
        let busy = account.busy_share();
        assert!(busy >= 0.95, "seed {seed}: busy {busy:.3}");
    }
}

#[test]
fn a_model_without_a_runner_closes_the_window_for_nobody() {
    let mut cases = Vec::new();
    for slots in [2, 10, 40] {
        for generation_s in [20, 60] {
            cases.extend([1, 2].map(|workers| (slots, generation_s, workers)));
        }
    }
    for (slots, generation_s, workers) in cases {
        for seed in 0..8 {
            let mut account = Account::new(slots, seed);
            account.generation_ms = generation_s * 1000;
            account.workers = workers;
            account.run(200);
            account.cold = (3, account.now + 60_000);
            account.forget_shares();
            account.run(60);
            let busy = account.busy_share();
            let about = format!(
                "slots {slots}, {generation_s} s, {workers} workers, seed {seed}, {:?}",
                account.window
            );
            assert!(busy >= 0.9, "{about}: busy {busy:.3}");
            account.forget_shares();
            account.run(300);
            let busy = account.busy_share();
            assert!(busy >= 0.95, "{about}: busy {busy:.3} afterwards");
        }
    }
}

#[test]
fn where_fewer_run_than_did_a_few_more_are_submitted_and_one_that_runs_tells_that_there_are_slots()
{
    let mut window = Window {
        size: 12,
        slots: 10,
        calm: 0,
    };
    let seen = |running, queued| Seen {
        running,
        queued,
        ..Seen::default()
    };
    for (running, places) in [(9, 12), (8, 11)] {
        window = window.after(seen(running, 3), places);
        assert_eq!(window.size, 12, "what ends makes room");
    }
    window = window.after(seen(7, 3), 10);
    assert_eq!(window.size, 13, "and what is missing may come besides");
    // None of them runs.
    for _ in 0..PATIENCE {
        assert_eq!((window.size, window.slots), (13, 10));
        window = window.after(seen(7, 6), 13);
    }
    assert_eq!(window.slots, 7, "that is all there is");
    for _ in 0..9 {
        window = window.after(seen(7, 2), 9);
    }
    assert_eq!(window.size, 13, "no more wait than should");
    for _ in 0..9 {
        window = window.after(seen(7, 6), 13);
    }
    assert_eq!(window.size, 9);
}

#[test]
fn without_news_the_window_stays() {
    let window = Window {
        size: 12,
        slots: 10,
        calm: 0,
    };
    assert_eq!(window.after(Seen::default(), 0), window);
    let quiet = Seen {
        running: 5,
        ..Seen::default()
    };
    assert_eq!(
        window.after(quiet, 5),
        window,
        "there is less work than slots"
    );
}

#[test]
fn what_a_later_request_has_overtaken_waits_for_its_runner_and_not_for_a_slot() {
    let requests = [
        (UnixMs(1000), Heard::Queued),
        (UnixMs(2500), Heard::Queued), // or in the same moment
        (UnixMs(3000), Heard::Runs),
        (UnixMs(4000), Heard::Queued),
        (UnixMs(5000), Heard::Nothing),
    ];
    let counts = |seen: Seen| (seen.running, seen.queued, seen.unknown);
    let seen = Seen::of(requests.into_iter(), None);
    assert_eq!((counts(seen), seen.ran), ((1, 2, 1), Some(UnixMs(3000))));
    // Nor when the later one was another worker's, or has ended since.
    let seen = Seen::of(requests.into_iter(), Some(UnixMs(6000)));
    assert_eq!((counts(seen), seen.ran), ((1, 0, 1), Some(UnixMs(6000))));
}

#[test]
fn the_window_never_leaves_its_bounds() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut window = Window::default();
    for _ in 0..10_000 {
        let mut some = || [0, 1, 3, 50, u32::MAX][random.usize(..5)];
        let seen = Seen {
            running: some(),
            queued: some(),
            unknown: some(),
            ran: None,
        };
        window = window.after(seen, some());
        assert!((OVERHANG..=MOST).contains(&window.size), "{window:?}");
    }
}
