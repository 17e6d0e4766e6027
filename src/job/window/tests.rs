//! The controller against a simulated account: slots, a first-in-first-out queue, a stranger on the same key,
//! and workers who know only what their last polls said.

use super::*;
use std::collections::VecDeque;

const TICK_MS: i64 = 50;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Waiting,
    Running { until: i64 },
    Ended,
}

#[derive(Clone, Debug)]
struct Request {
    ours: bool,
    at: i64,
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
    requests: VecDeque<Request>,
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
            requests: VecDeque::new(),
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
        self.requests.push_back(Request {
            ours,
            at: self.now,
            place: Place::Waiting,
            heard: Heard::Nothing,
            next_poll: self.now + self.random.i64(self.poll_ms / 2..=self.poll_ms),
        });
    }

    /// There is always more work than fits.
    fn run(&mut self, seconds: i64) {
        let end = self.now + seconds * 1000;
        while self.now < end {
            self.now += TICK_MS;
            self.at_fal();
            self.polls();
            let at_fal = |ours| self.requests.iter().filter(|one| one.ours == ours).count();
            let (ours, strangers) = (at_fal(true), at_fal(false));
            for _ in ours..self.window.size as usize {
                self.submit(true);
            }
            for _ in strangers..self.stranger {
                self.submit(false);
            }
            if self.now % 1000 == 0 {
                let known = (self.requests.iter())
                    .filter(|one| one.ours)
                    .map(|one| (UnixMs(one.at), one.heard));
                self.window = self.window.after(Seen::of(known));
            }
        }
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
            if running < self.slots && self.requests[place].place == Place::Waiting {
                // Half to one and a half of the usual time.
                let half = self.generation_ms / 2;
                let until = now + self.random.i64(half..=3 * half);
                self.requests[place].place = Place::Running { until };
                running += 1;
            }
        }
        self.possible += self.slots;
        self.busy += running.min(self.slots);
        let waits = |one: &&Request| one.ours && one.place == Place::Waiting;
        self.most_waiting = self
            .most_waiting
            .max(self.requests.iter().filter(waits).count());
    }

    fn polls(&mut self) {
        let (now, poll_ms) = (self.now, self.poll_ms);
        let random = &mut self.random;
        let before = self.requests.len();
        self.requests.retain_mut(|one| {
            if !one.ours || one.next_poll > now {
                return true;
            }
            one.next_poll = now + random.i64(poll_ms / 2..=poll_ms);
            one.heard = match one.place {
                Place::Waiting => Heard::Queued,
                Place::Running { .. } => Heard::Runs,
                Place::Ended => return false,
            };
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
    for slots in [2, 10, 40] {
        for seed in 0..20 {
            let mut account = Account::new(slots, seed);
            account.run(90);
            account.forget_shares();
            account.run(600);
            let (busy, waiting) = (account.busy_share(), account.most_waiting);
            let about = format!("slots {slots}, seed {seed}, {:?}", account.window);
            assert!(busy >= 0.95, "{about}: busy {busy:.3}");
            assert!(waiting <= 3 * OVERHANG as usize, "{about}: {waiting} wait");
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
        account.run(100);
        let size = account.window.size;
        assert!((3..=9).contains(&size), "seed {seed}: {:?}", account.window);
        account.stranger = 0;
        account.run(60);
        account.forget_shares();
        account.run(300);
        let busy = account.busy_share();
        assert!(busy >= 0.95, "seed {seed}: busy {busy:.3}");
    }
}

#[test]
fn without_news_the_window_stays() {
    let window = Window {
        size: 12,
        slots: 10,
        calm: 0,
    };
    assert_eq!(window.after(Seen::default()), window);
    let quiet = Seen {
        running: 5,
        ..Seen::default()
    };
    assert_eq!(window.after(quiet), window, "there is less work than slots");
}

#[test]
fn what_a_later_request_has_overtaken_waits_for_its_runner_and_not_for_a_slot() {
    let requests = [
        (UnixMs(1), Heard::Queued),
        (UnixMs(2), Heard::Runs),
        (UnixMs(3), Heard::Queued),
        (UnixMs(4), Heard::Nothing),
    ];
    let seen = Seen::of(requests.into_iter());
    assert_eq!((seen.running, seen.queued, seen.unknown), (1, 1, 1));
}

#[test]
fn the_window_never_leaves_its_bounds() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut window = Window::default();
    for _ in 0..10_000 {
        let mut some = || [0, 1, 3, 50, u32::MAX][random.usize(..5)];
        window = window.after(Seen {
            running: some(),
            queued: some(),
            unknown: some(),
        });
        assert!((OVERHANG..=MOST).contains(&window.size), "{window:?}");
    }
}
