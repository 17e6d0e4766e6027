//! Many in flight: generations cost memory, not threads. And what a worker with nothing to do asks for.
//! The figures are the benches' (`cargo bench --bench worker`); here is what may never break.

use crate::support::tap::Tap;
use crate::support::{SOON, World, eventually, job};
use fal_worker::sandbox::child::Usage;
use std::time::{Duration, Instant};

#[test]
fn sixteen_threads_hold_two_thousand_generations_at_once_and_deliver_each_once() {
    let jobs = 2000;
    let mut world = World::new();
    world.sandbox.fal.set_slots(0); // nothing ends before all are there
    let daemon = world.daemon(&["--threads", "16", "--max-in-flight", "2500"]);
    let used = || Usage::of(daemon.pid()).expect("/proc");
    let idle = used();
    let ids: Vec<String> = (0..jobs).map(|n| format!("f{n}")).collect();
    let entries: Vec<String> = (0..jobs)
        .map(|n| job(&ids[n]).chat(1000 + n as i64).json())
        .collect();
    world.push_all(&entries);
    let minutes = Duration::from_secs(120);
    let at_fal = || world.sandbox.fal.totals().queued_now;
    eventually(minutes, at_fal, |held| *held == jobs as u64);
    assert_eq!(used().threads, idle.threads, "threads");

    world.sandbox.fal.set_slots(jobs);
    let states = world.wait_ended(&ids, minutes);
    assert!(states.iter().all(|state| state == "done"));
    let totals = world.sandbox.fal.totals();
    assert_eq!((totals.submits, totals.results), (jobs as u64, jobs as u64));
    assert_eq!(world.sandbox.telegram.sends_count(), jobs as u64);
    let full = used();
    assert_eq!(full.threads, idle.threads, "threads");
    assert!(full.peak_kib < 20 << 10, "{} KiB", full.peak_kib);
    world.assert_clean();
}

#[test]
fn an_idle_worker_asks_redis_less_than_three_times_a_second() {
    let mut world = World::new();
    let _daemon = world.daemon(&[]);
    world.wait_idle();
    let before = asked(&mut world);
    let began = Instant::now();
    // The beats say when some time has passed for the worker too. By their time, not by their number: what it does
    // once, after its start, may come all at once.
    let beat = |world: &mut World| -> f64 {
        let beats: Vec<(String, f64)> =
            world.redis(&["ZRANGE", "fal:workers", "0", "0", "WITHSCORES"]);
        beats[0].1
    };
    let first = beat(&mut world);
    eventually(SOON, || beat(&mut world), |now| *now >= first + 5000.0);
    let (asked, took) = (asked(&mut world) - before, began.elapsed());
    let a_second = asked as f64 / took.as_secs_f64();
    assert!(a_second < 3.0, "{asked} round trips in {took:?}");
}

/// Beside what time alone brings: beats, audits, what is told of models and minutes.
#[test]
fn a_single_job_of_an_idle_worker_takes_seven_round_trips_to_redis() {
    let mut world = World::new();
    let tap = Tap::new(&world);
    tap.insert(&mut world, true);
    let _daemon = world.daemon(&[]);
    let others = ["submit", "status", "result", "sendphoto"];
    let upkeep = ["audit", "models", "minutes", "promote"];
    let mut count = |id: &str| {
        world.wait_idle();
        tap.count();
        world.push(job(id).chat(7).json());
        world.wait_state(id, "done");
        let mut counted = tap.counted();
        counted.retain(|label| !others.contains(&&**label) && !upkeep.contains(&&**label));
        counted.sort();
        counted
    };
    let each_once = [
        "bell",
        "claim",
        "end",
        "inbox",
        "intake",
        "save",
        "submitted",
    ];
    count("first"); // it opens connections
    // A beat between intake and claim rings once more, which is no trip of the job: the slower the machine, the
    // more often. What every job takes is in all of them.
    let mut seen = Vec::new();
    for number in 0..10 {
        seen = count(&format!("job-{number}"));
        if seen == each_once {
            break;
        }
    }
    assert_eq!(seen, each_once);
}

/// Commands beside those that ran inside of a script and those of the test.
fn asked(world: &mut World) -> u64 {
    ["evalsha", "brpop", "brpoplpush"]
        .iter()
        .map(|name| calls(world, name))
        .sum()
}

fn calls(world: &mut World, name: &str) -> u64 {
    let text: String = world.redis(&["INFO", "commandstats"]);
    let line = text.lines().find_map(|line| {
        let rest = line.strip_prefix("cmdstat_")?.strip_prefix(name)?;
        rest.strip_prefix(":calls=")?.split(',').next()
    });
    line.map_or(0, |number| number.parse().expect("a number"))
}
