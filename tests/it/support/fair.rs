//! Bounds of time on a machine that is shared: it may have three times as much to do as it can, and stands still at
//! times. What such a bound proves is that the program waits for nothing it need not wait for.

use super::load::AT_ONCE;
use super::{SOON, World, job};
use fal_worker::sandbox::fal::Script;
use std::fmt::Debug;
use std::time::{Duration, Instant};

/// As [`eventually`](super::eventually) where being late is a fault: what counts is the time in which the machine
/// let us look. Where it stands still, or has three times as much to do as it can, the daemon is late for the same
/// reason, and a look counts as no more than a short one.
#[track_caller]
pub fn eventually_in_fair_time<T: Debug>(
    within: Duration,
    mut look: impl FnMut() -> T,
    right: impl Fn(&T) -> bool,
) -> T {
    const SHORT: Duration = Duration::from_millis(8);
    let mut left = within;
    let give_up = Instant::now() + within.max(SOON);
    loop {
        let began = Instant::now();
        let seen = look();
        if right(&seen) {
            return seen;
        }
        assert!(
            !left.is_zero() && began < give_up,
            "not within {within:?} of a machine that has time; last seen: {seen:#?}"
        );
        std::thread::sleep(Duration::from_millis(5)); // a look at a condition, with a deadline
        left = left.saturating_sub(began.elapsed().min(SHORT));
    }
}

/// What takes no longer than this when all is well, though not on every try: on a busy machine a stall may fall into
/// any one, and what is wrong is so each time. Gives what the quick one took.
#[track_caller]
pub fn one_is_quick(limit: Duration, mut take: impl FnMut() -> Duration) -> Duration {
    let mut spans = Vec::new();
    for _ in 0..5 {
        let took = take();
        if took < limit {
            return took;
        }
        spans.push(took);
    }
    panic!("never within {limit:?}: {spans:?}");
}

/// The idle daemon takes and ends a new job at once.
pub fn works_at_once(world: &mut World, id: &str) {
    let pushed = Instant::now();
    world.push(job(id).json());
    let state = |world: &mut World| world.state(id);
    eventually_in_fair_time(AT_ONCE, || state(world), |state| state == "done");
    eprintln!("{id}: done {:?} after its push", pushed.elapsed());
}

/// The same, of a model of its own, which is quick.
pub fn works_at_once_on_another_model(world: &mut World) {
    let quick = Script::default().taking(Duration::from_millis(20));
    world.sandbox.fal.model("fal-ai/quick", quick);
    world.push(job("after").model("fal-ai/quick").json());
    let state = |world: &mut World| world.state("after");
    eventually_in_fair_time(AT_ONCE, || state(world), |state| state == "done");
}
