//! Polling that learns: a model's times are known to later jobs, to other workers and after a restart.
//! How good the schedule is show the simulations in `src/job/pace/tests.rs` and `cargo bench --bench polls`.

use crate::support::{SOON, World, eventually, job};
use fal_worker::sandbox::fal::{Outcome, Script, SubmitEntry};
use fal_worker::sandbox::faults::{Fault, Rule};
use serde_json::json;
use std::time::Duration;

const MODEL: &str = "fal-ai/flux/dev";
const FOUR: [&str; 2] = ["--threads", "4"];

/// A world whose model takes so many ms.
fn world(takes: u64) -> World {
    let world = World::new();
    let takes = Duration::from_millis(takes);
    let script = Script::new(Outcome::Images(1)).taking(takes);
    world.sandbox.fal.model(MODEL, script);
    world
}

/// Polls that a job took, once it is done.
fn polls_of(world: &mut World, id: &str) -> u32 {
    seen_of(world, id).polls
}

/// What fal saw of a job, once it is done.
fn seen_of(world: &mut World, id: &str) -> SubmitEntry {
    world.push(job(id).model(MODEL).json());
    let record = world.wait_state(id, "done");
    let request = world.sandbox.fal.request(&record["request_id"]);
    request.unwrap()
}

/// Times that Redis knows of the model, ms.
fn known(world: &mut World) -> Vec<u64> {
    let text: Option<String> = world.redis(&["HGET", "fal:models", MODEL]);
    let text = text.unwrap_or_default();
    let times = text.split(' ').skip(1);
    times.filter_map(|time| time.parse().ok()).collect()
}

/// Waits until Redis knows so many times.
fn wait_known(world: &mut World, times: usize) -> Vec<u64> {
    eventually(SOON, || known(world), |known| known.len() >= times)
}

#[test]
fn what_was_learnt_outlives_a_restart_and_is_known_to_other_workers() {
    let mut world = world(3000);
    let mut first = world.daemon(&FOUR);
    // From 50 ms on and a quarter of the age: some sixteen, fewer where the machine is slow.
    let unknown = polls_of(&mut world, "unknown");
    let more: Vec<String> = (0..7).map(|number| format!("job-{number}")).collect();
    for id in &more {
        world.push(job(id).model(MODEL).json());
    }
    world.wait_ended(&more, SOON);
    let times = wait_known(&mut world, 8);
    assert!(
        times.iter().all(|ms| (1500..20_000).contains(ms)),
        "{times:?}"
    );
    let second = world.daemon(&FOUR);
    assert_eq!(first.stop(), Some(0));

    let after_restart = polls_of(&mut world, "after-restart");
    assert!(
        after_restart < unknown,
        "{unknown} polls while unknown, {after_restart} by a worker that never saw the model"
    );
    drop(second);
    world.assert_clean();
}

#[test]
fn a_redis_that_forgets_the_paces_is_told_again_and_garbage_there_stops_nobody() {
    let mut world = world(300);
    let long = "9".repeat(100_000);
    let pairs = [
        "\u{1}\u{2}",
        "x",
        MODEL,
        &long,
        "not a model",
        "1 2 3",
        "a/b",
        "-1 1e9",
    ];
    let _: u64 = world.redis(&[&["HSET", "fal:models"], &pairs[..]].concat());
    let daemon = world.daemon(&FOUR);
    polls_of(&mut world, "a");
    assert_eq!(wait_known(&mut world, 1).len(), 1);

    let _: u64 = world.redis(&["DEL", "fal:models"]);
    polls_of(&mut world, "b");
    wait_known(&mut world, 2);

    // Of the wrong type it cannot be written, and is nobody's trouble.
    let _: String = world.redis(&["SET", "fal:models", "text"]);
    polls_of(&mut world, "c");
    let _: u64 = world.redis(&["DEL", "fal:models"]);
    polls_of(&mut world, "d");
    wait_known(&mut world, 4);
    assert_eq!(daemon.logged("refuse"), 0);
    drop(daemon);
    world.assert_clean();
}

#[test]
fn equal_bounds_poll_at_a_fixed_pace_however_well_the_model_is_known() {
    let mut world = world(3000);
    // The least is 50 ms in all these worlds.
    let daemon = world.daemon(&["--threads", "4", "--poll-max", "50ms"]);
    for id in ["a", "b", "c"] {
        let polls = polls_of(&mut world, id);
        assert!(
            (14..=67).contains(&polls),
            "{id}: {polls} polls, one each 50 ms for 3 s"
        );
    }
    drop(daemon);
    world.assert_clean();
}

#[test]
fn what_was_seen_running_is_asked_for_its_result_and_the_refusal_is_the_look() {
    // Long enough for many looks, also where the machine stands still for a second or two.
    let mut world = world(2500);
    let daemon = world.daemon(&["--threads", "4", "--poll-max", "50ms"]);
    for code in [400, 422, 202, 200] {
        world.sandbox.fal.set_pending_code(code);
        let seen = seen_of(&mut world, &format!("code-{code}"));
        let by_status = seen.polls - seen.early;
        assert!(
            by_status <= 2,
            "{code}: {by_status} of {} looks",
            seen.polls
        );
        assert!(
            seen.early >= 5,
            "{code}: {} of {} looks",
            seen.early,
            seen.polls
        );
        assert_eq!(seen.fetches, 1, "{code}");
    }
    drop(daemon);
    world.assert_clean();
}

#[test]
fn only_a_good_result_is_believed_before_the_status_has_said_that_it_is_there() {
    let rows = [
        (
            "500",
            Fault::json(500, &json!({"detail": "Internal Server Error"})),
        ),
        ("404", Fault::json(404, &json!({"detail": "Not Found"}))),
        (
            "422",
            Fault::json(
                422,
                &json!({"detail": [{"type": "value_error", "loc": ["body"], "msg": "no"}]}),
            ),
        ),
        (
            "429",
            Fault::json(429, &json!({"detail": "Too many requests"})),
        ),
        ("html", Fault::Html502),
        ("empty", Fault::Empty200),
        ("cut", Fault::ResetAfterActing),
    ];
    // Long enough for many looks, also where the machine stands still for a second or two.
    let mut world = world(2500);
    let daemon = world.daemon(&["--threads", "4", "--poll-max", "50ms"]);
    for (name, fault) in rows {
        // The first look finds it running; the next three ask for the result.
        let rule = world
            .sandbox
            .faults
            .add(Rule::first(3, "fal.result", fault));
        let seen = seen_of(&mut world, name);
        assert_eq!(world.sandbox.faults.fired(rule), 3, "{name}");
        assert_eq!(seen.fetches, 1, "{name}");
        world.sandbox.faults.clear();
    }
    assert_eq!(
        world.sandbox.fal.totals().submits,
        7,
        "none was given up and paid again"
    );
    drop(daemon);
    world.assert_clean();
}
