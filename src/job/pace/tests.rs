use super::*;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

const BOUNDS: PollBounds = PollBounds {
    min: Duration::from_millis(250),
    max: Duration::from_secs(5),
};
const FIXED: PollBounds = PollBounds {
    min: Duration::from_secs(1),
    max: Duration::from_secs(1),
};
const MODEL: &str = "fal-ai/flux/dev";

/// A model under a schedule, with everything drawn from one seed. Nothing here but the functions of this
/// room decides when to look.
struct Sim {
    rng: fastrand::Rng,
    bounds: PollBounds,
    paces: Paces,
    now: i64,
}

/// What jobs cost: sums over all of them.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    jobs: f64,
    looks: f64,
    /// Between the end at fal and the look that saw it, seconds.
    delay: f64,
    worst: f64,
}

impl Cost {
    fn add(&mut self, other: Cost) {
        self.jobs += other.jobs;
        self.looks += other.looks;
        self.delay += other.delay;
        self.worst = self.worst.max(other.worst);
    }

    fn looks(&self) -> f64 {
        self.looks / self.jobs
    }

    fn delay(&self) -> f64 {
        self.delay / self.jobs
    }

    /// What the schedule is meant to keep low.
    fn price(&self) -> f64 {
        self.looks() + f64::from(PRICE) * self.delay()
    }
}

impl Sim {
    fn new(seed: u64, bounds: PollBounds) -> Sim {
        Sim {
            rng: fastrand::Rng::with_seed(seed),
            bounds,
            paces: Paces::default(),
            now: 1_000_000,
        }
    }

    /// Log-normal around a median in seconds; gives ms.
    fn draw(&mut self, median: f64, sigma: f64) -> i64 {
        let (u, v) = (1.0 - self.rng.f64(), self.rng.f64());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        (median * 1000.0 * (sigma * normal).exp()) as i64
    }

    /// One job alone, from its submit to the look that finds it ended.
    fn job(&mut self, queue: i64, takes: i64) -> Cost {
        let submitted = UnixMs(self.now);
        let (starts, ends) = (self.now + queue, self.now + queue + takes);
        let mut watch = self.paces.begin(MODEL, submitted);
        let mut seen = None;
        let mut looks = 0.0;
        loop {
            let moment = (UnixMs(self.now), self.rng.f64());
            let wait = watch.next_look(seen.as_ref(), submitted, &self.bounds, moment);
            self.now += wait.as_millis() as i64 + 1;
            looks += 1.0;
            if self.now >= ends {
                break;
            }
            seen = Some(match self.now < starts {
                true => Polled::InQueue { position: Some(0) },
                false => Polled::InProgress,
            });
            if watch.asks() {
                watch.pace = self.paces.of(MODEL);
            }
        }
        watch.ended(submitted, &self.bounds, UnixMs(self.now));
        if let Some(took) = watch.took {
            self.paces.learn(MODEL, took);
        }
        let delay = (self.now - ends) as f64 / 1000.0;
        Cost {
            jobs: 1.0,
            looks,
            delay,
            worst: delay,
        }
    }

    fn jobs(&mut self, jobs: usize, mut draw: impl FnMut(&mut Sim) -> i64) -> Cost {
        let mut all = Cost::default();
        for _ in 0..jobs {
            let takes = draw(self);
            all.add(self.job(0, takes));
            self.now += 1000;
        }
        all
    }

    /// Jobs submitted in the same millisecond: the times of all looks, ms since then.
    fn burst(&mut self, jobs: usize, mut draw: impl FnMut(&mut Sim) -> i64) -> Vec<i64> {
        let began = UnixMs(self.now);
        let mut due = BinaryHeap::new();
        let mut watches = Vec::new();
        for job in 0..jobs {
            let mut watch = self.paces.begin(MODEL, began);
            watch.in_flight = jobs;
            let moment = (began, self.rng.f64());
            let wait = watch.next_look(None, began, &self.bounds, moment);
            due.push(Reverse((began.0 + wait.as_millis() as i64, job)));
            let ends = began.0 + draw(self);
            watches.push((watch, ends));
        }
        let mut looks = Vec::new();
        while let Some(Reverse((now, job))) = due.pop() {
            looks.push(now - began.0);
            self.now = now;
            let (watch, ends) = &mut watches[job];
            if now >= *ends {
                watch.ended(began, &self.bounds, UnixMs(now));
                if let Some(took) = watch.took {
                    self.paces.learn(MODEL, took);
                }
                continue;
            }
            watch.in_flight = due.len() + 1;
            if watch.asks() {
                watch.pace = self.paces.of(MODEL);
            }
            let moment = (UnixMs(now), self.rng.f64());
            let seen = Some(&Polled::InProgress);
            let wait = watch.next_look(seen, began, &self.bounds, moment);
            due.push(Reverse((now + wait.as_millis() as i64, job)));
        }
        looks
    }
}

/// The mean over several seeds, from the tenth job on.
fn steady(bounds: PollBounds, jobs: usize, draw: impl Fn(&mut Sim) -> i64) -> Cost {
    let mut all = Cost::default();
    for seed in 0..20 {
        let mut sim = Sim::new(seed, bounds);
        sim.jobs(9, &draw);
        all.add(sim.jobs(jobs, &draw));
    }
    all
}

#[test]
fn known_models_cost_fewer_looks_and_less_waiting_than_a_look_a_second() {
    let (mut learnt, mut fixed) = (Cost::default(), Cost::default());
    println!("generation  looks a job       mean delay, s     worst");
    for median in [1.0, 8.0, 20.0, 60.0] {
        let draw = |sim: &mut Sim| sim.draw(median, 0.25);
        let (ours, theirs) = (steady(BOUNDS, 100, draw), steady(FIXED, 100, draw));
        println!(
            "{median:6} s    {:6.2} ({:6.2})   {:6.3} ({:5.3})   {:5.2}",
            ours.looks(),
            theirs.looks(),
            ours.delay(),
            theirs.delay(),
            ours.worst
        );
        learnt.add(ours);
        fixed.add(theirs);
    }
    println!(
        "all         {:6.2} ({:6.2})   {:6.3} ({:5.3})   {:5.2}   (a look a second in brackets)",
        learnt.looks(),
        fixed.looks(),
        learnt.delay(),
        fixed.delay(),
        learnt.worst
    );
    assert!(learnt.looks <= 0.6 * fixed.looks, "{learnt:?} {fixed:?}");
    assert!(learnt.delay <= 0.95 * fixed.delay, "{learnt:?} {fixed:?}");
    assert!(learnt.worst <= 10.0, "{learnt:?}");
}

#[test]
fn times_that_suddenly_triple_are_learnt_within_ten_jobs_and_so_is_the_way_back() {
    for (from, to) in [
        (1.0, 3.0),
        (8.0, 24.0),
        (20.0, 60.0),
        (24.0, 8.0),
        (60.0, 20.0),
    ] {
        let (mut first, mut tenth, mut usual) = Default::default();
        let draw = |sim: &mut Sim| sim.draw(to, 0.25);
        for seed in 0..100 {
            let mut sim = Sim::new(seed, BOUNDS);
            sim.jobs(40, |sim| sim.draw(from, 0.25));
            Cost::add(&mut first, sim.jobs(1, draw));
            sim.jobs(8, draw);
            Cost::add(&mut tenth, sim.jobs(3, draw));
            // One that never knew anything else: what is never learnt is as dear later as at first.
            let mut other = Sim::new(1000 + seed, BOUNDS);
            other.jobs(40, draw);
            Cost::add(&mut usual, other.jobs(10, draw));
        }
        println!(
            "{from} s -> {to} s: looks and delay of the first {:.1} {:.2}, of the tenth {:.1} {:.2}, usually {:.1} {:.2}",
            first.looks(),
            first.delay(),
            tenth.looks(),
            tenth.delay(),
            usual.looks(),
            usual.delay()
        );
        assert!(tenth.price() <= 1.25 * usual.price(), "{tenth:?} {usual:?}");
        assert!(first.worst <= 10.0 && tenth.worst <= 10.0, "{first:?}");
    }
}

#[test]
fn what_is_not_log_normal_costs_less_than_a_look_a_second_too() {
    let two = |fast: f64, slow: f64| {
        move |sim: &mut Sim| {
            let median = if sim.rng.bool() { fast } else { slow };
            sim.draw(median, 0.15)
        }
    };
    // A tail so heavy that it has no variance: one of thirty takes ten times the least.
    let heavy =
        |sim: &mut Sim| ((4000.0 / (1.0 - sim.rng.f64()).powf(1.0 / 1.5)) as i64).min(600_000);
    let rows: [(&str, Cost, Cost); 5] = [
        (
            "2 s or 20 s",
            steady(BOUNDS, 100, two(2.0, 20.0)),
            steady(FIXED, 100, two(2.0, 20.0)),
        ),
        (
            "8 s or 60 s",
            steady(BOUNDS, 100, two(8.0, 60.0)),
            steady(FIXED, 100, two(8.0, 60.0)),
        ),
        (
            "a heavy tail",
            steady(BOUNDS, 100, heavy),
            steady(FIXED, 100, heavy),
        ),
        (
            "always 8 s",
            steady(BOUNDS, 100, |_| 8000),
            steady(FIXED, 100, |_| 8000),
        ),
        (
            "always 60 s",
            steady(BOUNDS, 100, |_| 60_000),
            steady(FIXED, 100, |_| 60_000),
        ),
    ];
    for (name, learnt, fixed) in rows {
        println!(
            "{name:13} {:6.2} ({:6.2})   {:6.3} ({:5.3})   {:5.2}",
            learnt.looks(),
            fixed.looks(),
            learnt.delay(),
            fixed.delay(),
            learnt.worst
        );
        assert!(
            learnt.price() < fixed.price(),
            "{name}: {learnt:?} {fixed:?}"
        );
        assert!(learnt.worst <= 10.0, "{name}: {learnt:?}");
    }
}

/// Looks in each tenth of a second of the time in which the middle nine tenths of them fall.
fn by_tenth(looks: &[i64]) -> Vec<u32> {
    let middle = &looks[looks.len() / 20..looks.len() * 19 / 20];
    let first = middle[0] / 100;
    let mut tenths = vec![0; (middle[middle.len() - 1] / 100 - first + 1) as usize];
    for at in middle {
        tenths[(at / 100 - first) as usize] += 1;
    }
    tenths
}

/// Where all wait for the same moment, one tenth has far more than those around it.
fn assert_not_in_step(name: &str, looks: &[i64]) {
    let tenths = by_tenth(looks);
    for (at, some) in tenths.iter().enumerate() {
        let around = &tenths[at.saturating_sub(5)..(at + 6).min(tenths.len())];
        let mean = f64::from(around.iter().sum::<u32>()) / around.len() as f64;
        assert!(f64::from(*some) <= 2.0 * mean, "{name}: {at}: {tenths:?}");
    }
    let mean = f64::from(tenths.iter().sum::<u32>()) / tenths.len() as f64;
    let most = *tenths.iter().max().unwrap();
    println!("{name}: at most {most} looks in 100 ms, {mean:.0} on average");
}

#[test]
fn a_burst_of_a_thousand_equal_jobs_does_not_look_in_step() {
    for median in [1.0, 8.0, 20.0, 60.0] {
        for seed in 0..10 {
            let mut sim = Sim::new(seed, BOUNDS);
            sim.jobs(30, |sim| sim.draw(median, 0.25));
            sim.now += 600_000;
            let looks = sim.burst(1000, |sim| sim.draw(median, 0.25));
            // At one second all is over before one could tell.
            if median > 1.0 {
                assert_not_in_step(&format!("{median} s"), &looks);
            }
            // What a pool carries, and some luck.
            let most = by_tenth(&looks).into_iter().max();
            assert!(most <= Some(500), "{median} s: {most:?}");
        }
    }
    // Of times that are all the same everything is known, and all of them end at once.
    for ms in [8000, 20_000, 60_000] {
        for seed in 0..10 {
            let mut sim = Sim::new(seed, BOUNDS);
            sim.jobs(30, |_| ms);
            sim.now += 600_000;
            let looks = sim.burst(1000, |_| ms);
            assert_not_in_step(&format!("always {ms} ms"), &looks);
        }
    }
}

#[test]
fn a_burst_of_a_model_that_nobody_knows_does_not_look_in_step_either() {
    for seed in 0..10 {
        let mut sim = Sim::new(seed, BOUNDS);
        let looks = sim.burst(1000, |sim| sim.draw(8.0, 0.25));
        assert_not_in_step("unknown", &looks);
    }
}

#[test]
fn what_is_learnt_is_neither_early_nor_late_nor_skewed_by_a_burst() {
    for median in [1.0, 8.0, 60.0] {
        let mut told = [0.0, 0.0];
        let seeds = 20;
        for seed in 0..seeds {
            let mut sim = Sim::new(seed, BOUNDS);
            sim.jobs(40, |sim| sim.draw(median, 0.25));
            told[0] += sim.paces.of(MODEL).unwrap().likely().as_secs_f64();
            sim.now += 600_000;
            sim.burst(1000, |sim| sim.draw(median, 0.25));
            told[1] += sim.paces.of(MODEL).unwrap().likely().as_secs_f64();
        }
        let [alone, burst] = told.map(|sum| sum / f64::from(seeds as u32) / median);
        println!("{median} s: the median is told as {alone:.3} of it, after a burst {burst:.3}");
        assert!((0.92..1.08).contains(&alone), "{median}: {alone}");
        assert!((0.85..1.18).contains(&burst), "{median}: {burst}");
    }
}

#[test]
fn in_the_queue_looks_are_rarer_the_more_stand_ahead_and_a_wait_there_is_not_learnt() {
    let mut sim = Sim::new(1, BOUNDS);
    sim.jobs(20, |sim| sim.draw(4.0, 0.25));
    let wait = |ahead: Option<u64>, stood: i64| {
        let mut watch = Watch {
            pace: sim.paces.of(MODEL),
            ..Watch::default()
        };
        let seen = Polled::InQueue { position: ahead };
        watch.next_look(Some(&seen), UnixMs(0), &BOUNDS, (UnixMs(stood), 0.5))
    };
    let waits = [None, Some(0), Some(5), Some(10), Some(u64::MAX)].map(|ahead| wait(ahead, 1000));
    assert_eq!(waits[0], waits[1]);
    assert!(
        waits.is_sorted() && waits[1] < waits[2] && waits[2] < waits[3],
        "{waits:?}"
    );
    assert_eq!(waits[4], BOUNDS.max);
    assert!(wait(None, 40_000) > wait(None, 1000));

    for (queue, takes) in [(5.0, 8.0), (30.0, 8.0), (10.0, 60.0)] {
        let [learnt, fixed] = [BOUNDS, FIXED].map(|bounds| {
            let mut all = Cost::default();
            for seed in 0..20 {
                let mut sim = Sim::new(seed, bounds);
                for number in 0..60 {
                    let (queue, takes) = (sim.draw(queue, 0.5), sim.draw(takes, 0.25));
                    let one = sim.job(queue, takes);
                    if number >= 10 {
                        all.add(one);
                    }
                }
                let told = sim.paces.of(MODEL).unwrap().likely().as_secs_f64();
                assert!(
                    (0.6..1.6).contains(&(told / takes)),
                    "{queue} {takes}: {told}"
                );
            }
            all
        });
        println!(
            "queue {queue} s, then {takes} s: {:6.2} ({:6.2})   {:6.3} ({:5.3})   {:5.2}",
            learnt.looks(),
            fixed.looks(),
            learnt.delay(),
            fixed.delay(),
            learnt.worst
        );
        assert!(learnt.price() < fixed.price(), "{learnt:?} {fixed:?}");
    }
}

#[test]
fn equal_bounds_are_a_fixed_pace_whatever_is_known() {
    let mut sim = Sim::new(1, FIXED);
    sim.jobs(20, |sim| sim.draw(20.0, 0.25));
    let mut watch = sim.paces.begin(MODEL, UnixMs(0));
    for age in [0, 1000, 20_000, 600_000] {
        let seen = (age > 0).then_some(Polled::InProgress);
        let wait = watch.next_look(seen.as_ref(), UnixMs(0), &FIXED, (UnixMs(age), 0.5));
        assert_eq!(wait, FIXED.max, "{age}");
    }
}

#[test]
fn every_wait_lies_within_the_bounds_and_grows_with_what_is_in_flight() {
    let mut sim = Sim::new(1, BOUNDS);
    sim.jobs(20, |sim| sim.draw(8.0, 0.25));
    for in_flight in [1, 1000, 5000, 1_000_000] {
        let least = BOUNDS
            .min
            .max(Duration::from_secs_f64(in_flight as f64 / 4000.0));
        let least = least.min(BOUNDS.max).mul_f64(0.9);
        for age in (0..200_000).step_by(333).chain([i64::MAX / 2]) {
            let mut watch = Watch {
                pace: sim.paces.of(MODEL),
                in_flight,
                ..Watch::default()
            };
            let (seen, moment) = (Some(&Polled::InProgress), (UnixMs(age), sim.rng.f64()));
            let wait = watch.next_look(seen, UnixMs(0), &BOUNDS, moment);
            assert!(
                wait >= least && wait <= BOUNDS.max.mul_f64(1.1),
                "{age}: {wait:?}"
            );
        }
        // Its first look, of a model that is known and of one that is not.
        for pace in [sim.paces.of(MODEL), None] {
            for _ in 0..1000 {
                let mut watch = Watch {
                    pace: pace.clone(),
                    in_flight,
                    ..Watch::default()
                };
                let moment = (UnixMs(0), sim.rng.f64());
                // This model takes longer than the shortest interval.
                let wait = watch.next_look(None, UnixMs(0), &BOUNDS, moment);
                assert!(
                    wait >= BOUNDS.min.mul_f64(0.9) && wait <= BOUNDS.max.mul_f64(1.1),
                    "{in_flight}: {wait:?}"
                );
            }
        }
    }
}

#[test]
fn what_takes_less_than_the_shortest_interval_is_looked_at_when_it_has_ended() {
    println!("generation  looks a job   mean delay, s (before the first was learnt)");
    for (ms, looks, delay) in [(0, 1.0, 0.002), (30, 1.15, 0.08), (100, 1.2, 0.12)] {
        let mut all = Cost::default();
        let mut first = Cost::default();
        for seed in 0..20 {
            let mut sim = Sim::new(seed, BOUNDS);
            let draw = |sim: &mut Sim| sim.draw(f64::from(ms) / 1000.0, 0.25);
            first.add(sim.jobs(1, draw));
            sim.jobs(60, draw);
            all.add(sim.jobs(100, draw));
        }
        println!(
            "{ms:6} ms   {:5.2}   {:.3} ({:.3})",
            all.looks(),
            all.delay(),
            first.delay()
        );
        assert!(
            all.looks() <= looks && all.delay() <= delay,
            "{ms}: {all:?}"
        );
        assert!(all.price() < first.price(), "{ms}: {all:?} {first:?}");
    }
    // A burst of them is no more in step than any other, and a crowd does not put its end off.
    let mut sim = Sim::new(1, BOUNDS);
    sim.jobs(60, |_| 0);
    let mut watch = sim.paces.begin(MODEL, UnixMs(0));
    watch.in_flight = 2000;
    let crowd = watch.next_look(None, UnixMs(0), &BOUNDS, (UnixMs(0), 0.5));
    assert!(crowd < Duration::from_millis(2), "{crowd:?}");
    sim.now += 600_000;
    assert_not_in_step("at once", &sim.burst(1000, |_| 0));
}

/// A pool that is always busy, a fifth of a millisecond with each step, looks first: how many jobs of a model
/// that answers at once are parked when so many were submitted.
#[test]
fn under_load_too_a_model_that_answers_at_once_is_found_to_be_one() {
    let mut sim = Sim::new(1, BOUNDS);
    let mut due = BinaryHeap::new();
    let mut submitted = 0;
    for step in 0..10_000_i64 {
        let now = sim.now + step / 5;
        let ended = match due.peek() {
            Some(Reverse((at, _))) if *at <= now => due.pop(),
            Some(_) | None => None,
        };
        let (began, mut watch): (i64, Watch) = match ended {
            Some(Reverse((_, Parked(began, watch)))) => (began, *watch),
            None => {
                let mut watch = sim.paces.begin(MODEL, UnixMs(now));
                watch.in_flight = due.len();
                let moment = (UnixMs(now), sim.rng.f64());
                let wait = watch.next_look(None, UnixMs(now), &BOUNDS, moment);
                submitted += 1;
                if wait >= Duration::from_millis(2) {
                    let at = now + wait.as_millis() as i64;
                    due.push(Reverse((at, Parked(now, Box::new(watch)))));
                    continue;
                }
                (now, watch)
            }
        };
        watch.ended(UnixMs(began), &BOUNDS, UnixMs(now + 1));
        if let Some(took) = watch.took {
            sim.paces.learn(MODEL, took);
        }
    }
    assert!(due.len() < 20, "{} parked of {submitted}", due.len());
}

/// A job between its submit and its first look. None comes before another.
struct Parked(i64, Box<Watch>);

impl PartialEq for Parked {
    fn eq(&self, _: &Parked) -> bool {
        true
    }
}

impl Eq for Parked {}

impl PartialOrd for Parked {
    fn partial_cmp(&self, other: &Parked) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Parked {
    fn cmp(&self, _: &Parked) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

#[test]
fn a_time_is_the_middle_of_what_the_looks_leave_open_and_a_gap_teaches_nothing() {
    let at = UnixMs;
    let look = |watch: &mut Watch, seen: &Polled, ms| {
        watch.next_look(Some(seen), at(0), &BOUNDS, (at(ms), 0.5));
    };
    let queued = Polled::InQueue { position: None };
    let took = |looks: &[(&Polled, i64)], end| {
        let mut watch = Paces::default().begin(MODEL, at(0));
        for (seen, ms) in looks {
            look(&mut watch, seen, *ms);
        }
        watch.ended(at(0), &BOUNDS, at(end));
        let took = watch.took.take();
        watch.ended(at(0), &BOUNDS, at(end + 1000));
        assert_eq!(watch.took, None, "learnt once");
        took.map(|took| took.as_millis())
    };
    let runs = Polled::InProgress;
    assert_eq!(took(&[], 600), Some(300));
    assert_eq!(took(&[(&runs, 1000), (&runs, 3000)], 4000), Some(3500));
    // It began between 2000 and 3000, and ended between 3000 and 4000.
    let fell_back = [(&runs, 1000), (&queued, 2000), (&runs, 3000)];
    assert_eq!(took(&fell_back, 4000), Some(1000));
    assert_eq!(took(&[(&queued, 1000)], 2000), None, "nobody saw it begin");
    assert_eq!(took(&[(&runs, 1000)], 12_000), None, "fal or we were away");
    let mut strange = Watch::default();
    strange.ended(at(0), &BOUNDS, at(500));
    assert_eq!(strange.took, None, "begun by another worker");
}

#[test]
fn a_clock_that_is_set_changes_no_span() {
    let mut watch = Paces::default().begin(MODEL, UnixMs(0));
    let (seen, moment) = (Polled::InProgress, (UnixMs(2000), 0.5));
    watch.next_look(Some(&seen), UnixMs(0), &BOUNDS, moment);
    watch.follow_clock(1_000_000);
    watch.ended(UnixMs(1_000_000), &BOUNDS, UnixMs(1_003_000));
    assert_eq!(watch.took, Some(Duration::from_millis(2500)));
}

#[test]
fn the_result_is_asked_for_where_it_runs_and_where_most_have_ended_by_now() {
    let bounds = PollBounds {
        min: Duration::from_millis(250),
        max: Duration::from_secs(5),
    };
    let at = |ms: i64| UnixMs(1_000_000 + ms);
    let known = || Pace::new(vec![2000; 8]).map(Arc::new);
    let queued = Polled::InQueue { position: Some(1) };
    for (name, pace, looks, ms, early) in [
        ("unknown", None, vec![], 60_000, false),
        ("too soon", known(), vec![], 1900, false),
        ("most have ended", known(), vec![], 2100, true),
        ("runs", None, vec![&Polled::InProgress], 300, true),
        ("queued", known(), vec![&queued], 60_000, false),
        (
            "fell back",
            known(),
            vec![&Polled::InProgress, &queued],
            60_000,
            false,
        ),
    ] {
        let mut watch = Watch {
            pace,
            ..Watch::default()
        };
        for look in looks {
            watch.next_look(Some(look), at(0), &bounds, (at(200), 0.5));
        }
        assert_eq!(watch.may_have_ended(at(0), at(ms)), early, "{name}");
    }
}

#[test]
fn the_likely_time_is_the_median_of_what_takes_longer_than_it_has_run() {
    let pace = Pace::parse("3000 3000 3000 3000 20000 3000 20000 3000").unwrap();
    let seconds = |age| pace.likely_beyond(Duration::from_secs(age)).as_secs_f64();
    assert_eq!(pace.likely(), Duration::from_secs(3));
    assert_eq!([seconds(2), seconds(5), seconds(40)], [3.0, 20.0, 60.0]);
}

#[test]
fn whatever_stands_in_redis_is_read_without_harm() {
    let long = "7 ".repeat(100_000);
    for (text, samples) in [
        ("", None),
        ("garbage", None),
        ("0 -5 99999999999999999999 1e9 NaN 7200001", None),
        ("1795000000 1200 x 1300", Some(vec![1200, 1300])),
        ("\u{fffd}\0 5000", Some(vec![5000])),
        (&long, Some(vec![7; SAMPLES])),
    ] {
        assert_eq!(
            Pace::parse(text).map(|pace| pace.samples),
            samples,
            "{text:.40}"
        );
    }
    for sample in [1, 49, 50, 51, 7_199_999, 7_200_000] {
        let pace = Pace::new(vec![sample; 3]).unwrap();
        assert!(
            pace.due.is_sorted() && pace.due.iter().all(|due| due.is_finite()),
            "{sample}"
        );
    }
}

#[test]
fn what_others_learnt_counts_and_what_redis_forgot_is_told_again() {
    let samples = |paces: &Paces| paces.of(MODEL).map(|pace| pace.samples.clone());
    let second = Duration::from_secs;
    let mut paces = Paces::default();
    assert!(paces.take_news().is_empty());
    paces.learn(MODEL, second(3));
    let told = paces.take_news();
    assert_eq!(told, [(MODEL.to_owned(), vec![3000])]);
    // While Redis was asked, another one ended.
    paces.learn(MODEL, second(5));
    paces.heard(MODEL, "1000 2000 3000");
    assert_eq!(samples(&paces), Some(vec![1000, 2000, 3000, 5000]));

    // It was away: nothing is lost, and nothing grows.
    let told = paces.take_news();
    paces.learn(MODEL, second(6));
    paces.untold(told);
    assert_eq!(paces.take_news(), [(MODEL.to_owned(), vec![5000, 6000])]);
    for _ in 0..1000 {
        paces.learn(MODEL, second(7));
        let told = paces.take_news();
        paces.untold(told);
    }
    assert_eq!(paces.take_news()[0].1.len(), SAMPLES);

    paces.heard(MODEL, "");
    assert_eq!(samples(&paces).unwrap().len(), SAMPLES);
    assert_eq!(paces.take_news()[0].1.len(), SAMPLES, "told again");
    assert!(paces.take_news().is_empty());
}

#[test]
fn of_many_models_the_longest_unused_is_forgotten() {
    let mut paces = Paces::default();
    for number in 0..MODELS + 100 {
        paces.learn(&format!("a/{number}"), Duration::from_secs(1));
        paces.begin("a/0", UnixMs(number as i64));
    }
    assert_eq!(paces.models.len(), MODELS);
    assert!(paces.of("a/0").is_some() && paces.of("a/50").is_none());
    let mut told = 0;
    while let some @ 1.. = paces.take_news().len() {
        assert!(some <= EXCHANGED);
        told += some;
    }
    assert_eq!(told, MODELS);
}

#[test]
fn of_more_models_than_one_exchange_takes_each_has_its_turn() {
    let mut paces = Paces::default();
    let busy: Vec<String> = (0..EXCHANGED * 5).map(|n| format!("a/{n}")).collect();
    let mut told = HashSet::new();
    // All of them are used between any two exchanges, the first also when it was just told.
    for exchange in 1..=5 {
        for model in &busy {
            paces.learn(model, Duration::from_secs(1));
        }
        told.extend(paces.take_news().into_iter().map(|(model, _)| model));
        assert_eq!(told.len(), EXCHANGED * exchange);
    }

    // One that comes anew neither waits for ever nor passes those that wait.
    let mut exchanges = 0;
    paces.learn("a/new", Duration::from_secs(1));
    loop {
        exchanges += 1;
        for model in &busy {
            paces.begin(model, UnixMs(0));
        }
        let news = paces.take_news();
        assert_eq!(news.len(), EXCHANGED);
        if news.iter().any(|(model, _)| model == "a/new") {
            break;
        }
    }
    assert_eq!(exchanges, 6);
}
