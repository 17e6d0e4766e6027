//! Turns between users and the limits of each, with two daemons on one store.

use crate::support::{SOON, World, eventually, job};
use fal_worker::sandbox::fal::Script;
use std::collections::BTreeMap;
use std::time::Duration;

const MODEL: &str = "fal-ai/flux/dev";

fn taking(world: &World, generation: Duration) {
    let script = Script::default().taking(generation);
    world.sandbox.fal.model(MODEL, script);
}

fn entries(user: &str, n: usize) -> Vec<String> {
    let each = (1..=n).map(|number| job(&format!("{user}{number}")).with("user_id", user).json());
    each.collect()
}

fn names(user: &str, n: usize) -> Vec<String> {
    (1..=n).map(|number| format!("{user}{number}")).collect()
}

fn slots(world: &mut World, user: &str) -> usize {
    world.redis(&["SCARD", &format!("fal:user:{user}:running")])
}

fn status(world: &World) -> serde_json::Value {
    let output = world.cli(&["status", "--json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_user_with_one_job_does_not_wait_for_another_with_hundreds() {
    let mut world = World::new();
    taking(&world, Duration::ZERO);
    // All have come in before the first begins: else intake and claims race.
    let _: u64 = world.redis(&["HSET", "fal:paused", "reason", "test"]);
    world.push_all(&entries("heavy", 300));
    world.push_all(&entries("light", 1));
    let _one = world.daemon(&["--threads", "2"]);
    let _two = world.daemon(&["--threads", "2"]);
    let mut ids = names("heavy", 300);
    ids.push("light1".to_owned());
    let came_in = |world: &mut World| ids.iter().all(|id| !world.state(id).is_empty());
    eventually(SOON, || came_in(&mut world), |all| *all);
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    world.wait_ended(&ids, 2 * SOON);
    let started: Vec<String> = (world.events().into_iter())
        .filter(|event| event["event"] == "started")
        .map(|event| event["job"].clone())
        .collect();
    let place = started.iter().position(|id| id == "light1").unwrap();
    // Each thread may have claimed some of the others at its first look.
    assert!(place < 30, "it started as number {place}");
    assert_eq!(started.len(), 301);
}

#[test]
fn two_daemons_together_run_no_more_of_a_user_than_he_may_and_a_new_limit_holds_at_once() {
    let mut world = World::new();
    taking(&world, Duration::from_secs(3600));
    let one = world.daemon(&["--user-concurrency", "2"]);
    let _two = world.daemon(&[]);
    world.push_all(&entries("a", 6));
    world.push_all(&entries("b", 1));
    world.wait_submitted("b1");
    eventually(SOON, || slots(&mut world, "a"), |n| *n == 2);
    let seen = eventually(
        SOON,
        || status(&world),
        |status| status["waiting"] == 4 && status["running"]["polling"] == 3,
    );
    assert_eq!(seen["held"]["user_concurrency"], 4, "{seen}");
    let limit = &seen["limits"]["user-concurrency"];
    assert_eq!(
        (&limit["value"], &limit["by"]),
        (&"2".into(), &one.instance().into())
    );
    let text = String::from_utf8(world.cli(&["status"]).output().unwrap().stdout).unwrap();
    assert!(
        text.contains("held back by: --user-concurrency 4"),
        "{text}"
    );
    assert!(text.contains("--user-concurrency 2, set by "), "{text}");
    // Raised and removed at run time.
    let _: i64 = world.redis(&["HSET", "fal:config", "user_concurrency", "3"]);
    eventually(SOON, || slots(&mut world, "a"), |n| *n == 3);
    let _: i64 = world.redis(&["HDEL", "fal:config", "user_concurrency"]);
    let all = names("a", 6);
    eventually(
        SOON,
        || all.iter().map(|id| world.state(id)).collect::<Vec<_>>(),
        |states| states.iter().all(|state| state == "running"),
    );
    // And set while they run: each of them counts.
    let _: i64 = world.redis(&["HSET", "fal:config", "user_concurrency", "6"]);
    eventually(SOON, || slots(&mut world, "a"), |n| *n == 6);
}

#[test]
fn a_limit_outlives_a_killed_worker_and_is_never_passed() {
    let mut world = World::new();
    taking(&world, Duration::from_millis(100));
    let mut one = world.daemon(&["--user-concurrency", "1"]);
    let _two = world.daemon(&[]);
    world.push_all(&entries("a", 12));
    eventually(SOON, || world.state("a3"), |state| state == "done");
    one.kill();
    let _three = world.daemon(&[]);
    let ids = names("a", 12);
    world.wait_ended(&ids, SOON * 2);
    // One at a time: each was submitted when the one before it had ended.
    let mut running: BTreeMap<String, ()> = BTreeMap::new();
    for event in world.events() {
        match event["event"].as_str() {
            "submitted" => drop(running.insert(event["job"].clone(), ())),
            "done" | "failed" => drop(running.remove(&event["job"])),
            _ => {}
        }
        assert!(running.len() <= 1, "{running:?} at once");
    }
    assert_eq!(slots(&mut world, "a"), 0);
}

#[test]
fn what_is_over_a_rate_gets_its_own_time_and_comes_at_once_when_the_rate_is_removed() {
    let mut world = World::new();
    taking(&world, Duration::ZERO);
    let _one = world.daemon(&["--user-rate", "3/1h"]);
    let _two = world.daemon(&[]);
    world.push_all(&entries("a", 8));
    // Two workers read the inbox, so which three come first is open.
    let states = |world: &mut World| names("a", 8).iter().map(|id| world.state(id)).collect();
    let states: Vec<String> = eventually(
        SOON,
        || states(&mut world),
        |states: &Vec<String>| {
            let count = |word: &str| states.iter().filter(|state| *state == word).count();
            (count("done"), count("later")) == (3, 5)
        },
    );
    let late = states.iter().position(|state| state == "later").unwrap();
    let late = names("a", 8).swap_remove(late);
    let seen = eventually(
        SOON,
        || status(&world),
        |status| status["held"]["user_rate"] == 5,
    );
    assert_eq!(seen["limits"]["user-rate"]["value"], "3/1h");
    let record = world.record(&late);
    assert_eq!(record["attempt"], "0");
    let kinds: Vec<Option<String>> = (world.events_of(&late).into_iter())
        .map(|event| event.get("kind").cloned())
        .collect();
    assert_eq!(kinds, [None, Some("rate_limited".to_owned())]);
    let _three = world.daemon(&["--user-rate", "off"]);
    world.wait_ended(&names("a", 8), SOON);
    let deferred = world
        .events()
        .into_iter()
        .filter(|event| event["event"] == "deferred");
    assert_eq!(deferred.count(), 5);
}

#[test]
fn a_model_may_have_more_time_than_the_others() {
    let mut world = World::new();
    taking(&world, Duration::from_secs(3600));
    let slow = Script::default().taking(Duration::from_secs(4));
    world.sandbox.fal.model("fal-ai/veo3/fast", slow);
    let _daemon = world.daemon(&[
        "--job-timeout",
        "1s",
        "--model-timeout",
        "fal-ai/veo*=1h",
        "--poll-max",
        "250ms",
    ]);
    world.push(job("picture").json());
    world.push(job("video").model("fal-ai/veo3/fast").json());
    world.wait_state("video", "done");
    let cancelled = |world: &World, id: &str| {
        let submits = world.sandbox.fal.submits_for(&format!("prompt of {id}."));
        submits.iter().any(|submit| submit.cancelled)
    };
    eventually(SOON, || cancelled(&world, "picture"), |yes| *yes);
    assert!(!cancelled(&world, "video"));
}
