//! The submit window, the limits of models, and cancels that cost nothing, with two daemons on one store.

use crate::support::{SOON, World, eventually, job};
use fal_worker::sandbox::fal::Script;
use std::time::{Duration, Instant};

const MODEL: &str = "fal-ai/flux/dev";
const VIDEO: &str = "fal-ai/veo3/fast";
/// Kept waiting at fal beyond the window.
const OVERHANG: usize = 2;

fn taking(world: &World, model: &str, generation: Duration) {
    let script = Script::default().taking(generation);
    world.sandbox.fal.model(model, script);
}

fn entries(name: &str, n: usize) -> Vec<String> {
    let each = (1..=n).map(|number| job(&format!("{name}{number}")).model(MODEL).json());
    each.collect()
}

fn status(world: &World) -> serde_json::Value {
    let output = world.cli(&["status", "--json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Most requests of models that begin so which fal had at one moment.
fn most_at_fal(world: &World, model: &str) -> usize {
    let submits = world.sandbox.fal.submits();
    let ours: Vec<_> = (submits.iter())
        .filter(|submit| submit.model.starts_with(model))
        .collect();
    let there = |at: Instant| {
        let there = ours.iter().filter(|other| {
            other.at <= at && other.completed.is_none_or(|completed| completed > at)
        });
        there.count()
    };
    ours.iter()
        .map(|submit| there(submit.at))
        .max()
        .unwrap_or(0)
}

#[test]
fn a_high_job_overtakes_a_backlog_of_a_hundred_and_fals_queue_stays_short() {
    let mut world = World::new();
    taking(&world, MODEL, Duration::from_millis(300));
    world.sandbox.fal.set_slots(2);
    let more = ["--fal-concurrency", "2", "--poll-max", "100ms"];
    let _one = world.daemon(&more);
    let _two = world.daemon(&more);
    world.push_all(&entries("d", 100));
    world.wait_state("d10", "done");
    // From here on few come to an end, so that a moment in which the machine stands still is not many jobs.
    taking(&world, MODEL, Duration::from_millis(1500));
    // Where a place is free for a moment none is held.
    let held = |seen: &serde_json::Value| {
        seen["held"]["fal_concurrency"].as_u64() > Some(30) && seen["at_fal"]["all"]["most"] == 4
    };
    let seen = eventually(SOON, || status(&world), held);
    assert_eq!(seen["limits"]["fal-concurrency"]["value"], "2");
    eventually(
        SOON,
        || most_at_fal(&world, MODEL),
        |most| *most == 2 + OVERHANG,
    );
    world.push(job("urgent").model(MODEL).with("priority", "high").json());
    world.wait_submitted("urgent");
    let events = world.events_of("urgent");
    let queued: u64 = events[0]["at"].parse().unwrap();
    let submits = world.sandbox.fal.submits();
    let urgent = submits.iter().position(|submit| {
        let input = String::from_utf8_lossy(&submit.input);
        input.contains("prompt of urgent.")
    });
    let before_it = &submits[..urgent.unwrap()];
    // Counted from the moment at which it stood in the queue: one of Redis's clock, which is this machine's.
    let passed = before_it.iter().filter(|submit| submit.unix_ms >= queued);
    let passed = passed.count();
    assert!(passed <= 8, "{passed} were submitted before it");
    world.wait_state("urgent", "done");
    assert_ne!(world.state("d100"), "done");
    assert_eq!(most_at_fal(&world, MODEL), 2 + OVERHANG);
}

#[test]
fn with_a_full_window_what_is_paid_goes_on_at_once_after_a_stop_and_after_a_kill() {
    let mut world = World::new();
    taking(&world, MODEL, Duration::from_secs(3600));
    let more = ["--fal-concurrency", "2"];
    let mut daemon = world.daemon(&more);
    world.push_all(&entries("d", 9));
    let submits = |world: &World| world.sandbox.fal.totals().submits;
    eventually(SOON, || submits(&world), |n| *n == 4);
    for kills in [false, true] {
        if kills {
            daemon.kill();
        } else {
            daemon.stop();
        }
        let began = Instant::now();
        daemon = world.daemon(&more);
        let instance = daemon.instance();
        eventually(
            SOON,
            || world.claims(&instance).len(),
            |claims| *claims == 4,
        );
        // Below any lease, which is thirty seconds; the rest is the start of a process on a busy machine.
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(world.redis::<u64>(&["SCARD", "fal:at_fal"]), 4);
    }
    assert_eq!(
        submits(&world),
        4,
        "nothing was paid twice, and nothing passed the window"
    );
}

#[test]
fn a_model_with_a_limit_has_no_more_at_fal_on_all_workers_and_holds_up_no_other() {
    let mut world = World::new();
    taking(&world, MODEL, Duration::ZERO);
    taking(&world, VIDEO, Duration::from_millis(700));
    // No video ends before the pictures have, however slow the machine is.
    let results = world.sandbox.fal.hold_matching("fal.result", "/veo3/");
    let more = ["--model-limit", "fal-ai/veo*=1", "--poll-max", "100ms"];
    let mut one = world.daemon(&more);
    let _two = world.daemon(&[]);
    let videos: Vec<String> = (1..=6).map(|number| format!("v{number}")).collect();
    let entries_of_videos: Vec<String> = (videos.iter())
        .map(|id| job(id).model(VIDEO).json())
        .collect();
    world.push_all(&entries_of_videos);
    world.push_all(&entries("d", 10));
    let pictures: Vec<String> = (1..=10).map(|number| format!("d{number}")).collect();
    world.wait_ended(&pictures, SOON);
    let done = |world: &mut World, ids: &[String]| {
        let states = ids.iter().map(|id| world.state(id));
        states.filter(|state| state == "done").count()
    };
    assert_eq!(done(&mut world, &pictures), pictures.len());
    assert_eq!(done(&mut world, &videos), 0);
    let seen = eventually(
        SOON,
        || status(&world),
        |status| status["held"]["model_limit"].as_u64() > Some(0),
    );
    assert_eq!(seen["at_fal"]["fal-ai/veo*"]["most"], 1, "{seen}");
    let text = String::from_utf8(world.cli(&["status"]).output().unwrap().stdout).unwrap();
    assert!(
        text.contains("--model-limit fal-ai/veo*=1, set by "),
        "{text}"
    );
    results.release();
    one.kill();
    let _three = world.daemon(&[]);
    world.wait_ended(&videos, SOON);
    assert_eq!(most_at_fal(&world, "fal-ai/veo"), 1);
    assert_eq!(world.redis::<u64>(&["EXISTS", "fal:at_fal"]), 0);
}

#[test]
fn a_cancel_here_or_in_fals_queue_costs_nothing_and_the_users_next_takes_the_slot() {
    let mut world = World::new();
    taking(&world, MODEL, Duration::from_secs(3600));
    world.sandbox.fal.set_slots(1);
    let more = ["--user-concurrency", "1", "--poll-max", "100ms"];
    let _one = world.daemon(&more);
    let _two = world.daemon(&more);
    world.push(job("busy").model(MODEL).with("user_id", "other").json());
    world.wait_submitted("busy");
    let of_a = |id: &str| job(id).model(MODEL).with("user_id", "a").json();
    // One by one, since two daemons read the inbox.
    world.push(of_a("a1"));
    world.wait_submitted("a1");
    for id in ["a2", "a3"] {
        world.push(of_a(id));
        world.wait_state(id, "waiting");
    }
    for id in ["a2", "a1"] {
        let _ = world.cli(&["cancel", id]).output().unwrap();
        let record = world.wait_state(id, "cancelled");
        assert_eq!(record["charged"], "no", "{record:?}");
    }
    world.wait_submitted("a3");
    let slots: Vec<String> = world.redis(&["SMEMBERS", "fal:user:a:running"]);
    assert_eq!(slots, ["a3"]);
    let submits = world.sandbox.fal.submits_for("prompt of a2.");
    assert!(submits.is_empty(), "{submits:?}");
    let a1 = &world.sandbox.fal.submits_for("prompt of a1.")[0];
    assert!(a1.cancelled && a1.started.is_none());
}

/// Waits until the window has such a size.
fn until_window(world: &mut World, within: Duration, right: impl Fn(u32) -> bool) -> Duration {
    let began = Instant::now();
    eventually(
        within,
        || world.redis::<Option<u32>>(&["HGET", "fal:window", "size"]),
        |size| size.is_some_and(&right),
    );
    began.elapsed()
}

#[test]
fn auto_finds_how_many_the_account_runs_and_follows_when_that_changes() {
    let mut world = World::new();
    taking(&world, MODEL, Duration::from_secs(2));
    world.sandbox.fal.set_slots(10);
    let more = ["--fal-concurrency", "auto", "--poll-max", "100ms"];
    let one = world.daemon(&more);
    let _two = world.daemon(&more);
    world.push_all(&entries("d", 600));
    let up = until_window(&mut world, SOON * 2, |size| size >= 11);
    world.sandbox.fal.set_slots(4);
    let down = until_window(&mut world, SOON * 2, |size| size <= 7);
    println!("found 10 after {up:?}, down to 4 after {down:?}");
    // Who decided is gone: the other goes on.
    drop(one);
    world.sandbox.fal.set_slots(10);
    let again = until_window(&mut world, SOON * 2, |size| size >= 11);
    println!("back to 10 after {again:?}");
}
