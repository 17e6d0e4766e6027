//! `why` on a live system: for each situation that a job can be in, the reason it gives is the real one.

use crate::support::proxy::{Flow, Proxy};
use crate::support::{Daemon, SOON, World, eventually, job};
use fal_worker::sandbox::fal::Script;
use fal_worker::sandbox::faults::{Fault, Rule};
use serde_json::{Value, json};
use std::process::{Child, Stdio};
use std::time::Duration;

const MODEL: &str = "fal-ai/flux/dev";
const VIDEO: &str = "fal-ai/veo3/fast";
const LONG: Duration = Duration::from_secs(3600);

fn taking(world: &World, model: &str, generation: Duration) {
    world
        .sandbox
        .fal
        .model(model, Script::default().taking(generation));
}

#[track_caller]
fn why(world: &World, id: &str) -> Value {
    let output = world.cli(&["why", id, "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{id}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Asks until this is the reason; gives all that was said.
#[track_caller]
fn reason(world: &World, id: &str, wanted: &str) -> Value {
    eventually(SOON, || why(world, id), |said| said["reason"] == wanted)
}

#[track_caller]
fn says(said: &Value, part: &str) {
    let text = said["text"].as_str().unwrap();
    assert!(text.contains(part), "{part:?} is not in: {text}");
}

fn two(world: &mut World, more: &[&str]) -> (Daemon, Daemon) {
    let threads = [&["--threads", "4"], more].concat();
    (world.daemon(&threads), world.daemon(&threads))
}

#[test]
fn an_entry_that_nobody_has_read_and_one_that_nobody_knows() {
    let mut world = World::new();
    world.push(job("a").json());
    world.push(job("b").json());
    let said = why(&world, "b");
    assert_eq!(
        (&said["state"], &said["reason"]),
        (&json!("inbox"), &json!("no_worker"))
    );
    assert_eq!(said["ahead"], 1);
    says(&said, "Start one");
    let output = world.cli(&["why", "never"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no job never is known"));
    let text = world.cli(&["why", "a"]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.starts_with("a is no job yet. It lies in the inbox"),
        "{text}"
    );
}

/// An entry goes from the inbox into a worker's hands, and a record is made of it, each step while `why` is
/// between two looks: no moment shows a job that was pushed as unknown.
#[test]
fn an_entry_is_found_while_a_worker_reads_it() {
    let mut world = World::new();
    let proxy = Proxy::to(&world.sandbox.redis.url());
    world.push(job("a").json());
    let (now, _): (u64, u64) = world.redis(&["TIME"]);
    let beat = (now * 1000).to_string();
    let _: u64 = world.redis(&["ZADD", "fal:workers", &beat, "w~1"]);
    let ask = |world: &World| {
        let mut command = world.cli(&["why", "a", "--json"]);
        let command = command.env("REDIS_URL", format!("redis://{}/0", proxy.address()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let said = |child: Child| -> Value {
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{error}"))
    };

    proxy.hold_with(Flow::Requests, "fal:inbox");
    let asked = ask(&world);
    proxy.wait_held(SOON);
    let step = ["LMOVE", "fal:inbox", "fal:taken:w~1", "RIGHT", "LEFT"];
    let _: String = world.redis(&step);
    proxy.pass_held();
    assert_eq!(said(asked)["reason"], "intake");

    proxy.hold_with(Flow::Requests, "fal:taken:w~1");
    let asked = ask(&world);
    proxy.wait_held(SOON);
    let _: u64 = world.redis(&["HSET", "fal:job:a", "state", "done"]);
    let _: u64 = world.redis(&["DEL", "fal:taken:w~1"]);
    proxy.pass_held();
    assert_eq!(said(asked)["state"], "done");
    // The worker and its record were the test's own: the auditor knows neither.
    let _: u64 = world.redis(&["DEL", "fal:job:a", "fal:workers"]);
}

#[test]
fn limits_times_and_what_runs() {
    let mut world = World::new();
    taking(&world, MODEL, LONG);
    taking(&world, VIDEO, LONG);
    let _two = two(
        &mut world,
        &["--user-concurrency", "1", "--model-limit", "fal-ai/veo3*=1"],
    );
    world.push(job("v1").model(VIDEO).with("user_id", "v").json());
    world.wait_submitted("v1");
    // One after the other: two workers that take them in at once may swap them.
    world.push(job("a1").with("user_id", "a").json());
    world.wait_submitted("a1");
    for id in ["a2", "a3"] {
        world.push(job(id).with("user_id", "a").json());
        world.wait_state(id, "waiting");
    }
    world.push(job("v2").model(VIDEO).with("user_id", "w").json());
    let (now, _): (u64, u64) = world.redis(&["TIME"]);
    world.push(job("n").with("not_before", now + 600).json());
    for id in ["a2", "a3"] {
        world.wait_state(id, "waiting");
    }
    world.wait_field("v2", "behind", "fal-ai/veo3*");
    world.wait_state("n", "later");

    let said = reason(&world, "a3", "user_slots");
    says(
        &said,
        "All slots of user a are in use: 1 of 1 jobs run (a1; --user-concurrency), and 1 of his others waits before it.",
    );
    let said = reason(&world, "v2", "model_limit");
    says(
        &said,
        "1 of 1 requests of fal-ai/veo3* are at fal (--model-limit)",
    );
    let said = reason(&world, "n", "not_before");
    says(&said, "it becomes ready in ");
    // Nobody knows how long this model takes: it says so.
    assert!(
        said["finish"]["unknown"]
            .as_str()
            .unwrap()
            .contains("no generation of"),
        "{said}"
    );
    // It is parked, unless a thread looks at it at this very moment.
    let parked = |said: &Value| {
        let text = said["text"].as_str().unwrap();
        text.contains("Its next step is due in ")
    };
    let said = eventually(SOON, || reason(&world, "a1", "generating"), parked);
    says(&said, "fal says that it runs.");

    // What others of the model took gives the finish.
    let _: u64 = world.redis(&["HSET", "fal:models", MODEL, "8000 9000 10000"]);
    let said = why(&world, "n");
    let (from, to) = (&said["finish"]["from"], &said["finish"]["to"]);
    let wait = from.as_i64().unwrap() - said["at"].as_i64().unwrap();
    assert!((500_000..620_000).contains(&wait), "{said}");
    assert!(to.as_i64() > from.as_i64(), "{said}");
    says(
        &said,
        "the last 3 generations of fal-ai/flux/dev took 8.0s to 10s",
    );
}

#[test]
fn a_full_window_and_a_place_in_fals_own_queue() {
    let mut world = World::new();
    taking(&world, MODEL, LONG);
    world.sandbox.fal.set_slots(1);
    let _two = two(&mut world, &["--fal-concurrency", "1"]);
    for n in 1..=6 {
        world.push(job(&format!("j{n}")).json());
        // So that their order is known.
        if n <= 3 {
            world.wait_submitted(&format!("j{n}"));
        } else {
            world.wait_state(&format!("j{n}"), "queued");
        }
    }
    let said = reason(&world, "j3", "fal_queue");
    says(&said, "It stands in fal's own queue");
    let said = reason(&world, "j6", "fal_window");
    says(
        &said,
        "3 requests are at fal, and 3 may be (--fal-concurrency)",
    );
    assert_eq!(said["ahead"], 2, "{said}");
    assert_eq!(why(&world, "j4")["ahead"], 0);
}

#[test]
fn a_pause_and_the_turns_of_users_behind_it() {
    let mut world = World::new();
    let _two = two(&mut world, &[]);
    let (now, _): (u64, u64) = world.redis(&["TIME"]);
    let since = (now * 1000).to_string();
    let pause = [
        "HSET",
        "fal:paused",
        "reason",
        "new prices",
        "by",
        "anna",
        "since",
        &since,
    ];
    let _: u64 = world.redis(&pause);
    for (user, n) in [("a", 3), ("b", 2)] {
        for n in 1..=n {
            let id = format!("{user}{n}");
            world.push(job(&id).with("user_id", user).json());
            eventually(SOON, || world.state(&id), |state| !state.is_empty());
        }
    }
    let said = reason(&world, "a1", "paused");
    says(&said, "Pulling has been paused by anna for ");
    says(&said, "new prices");
    says(&said, "fal-worker resume");
    // a1 b1 a2 b2 a3: turns.
    let said = reason(&world, "a3", "turn");
    assert_eq!(said["ahead"], 4, "{said}");
    says(&said, "2 jobs of user a come before this one");
    says(&said, "Pulling has been paused by anna");
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    for id in ["a1", "a2", "a3", "b1", "b2"] {
        world.wait_state(id, "done");
    }
    let said = why(&world, "a3");
    assert_eq!(
        (&said["reason"], &said["finish"]),
        (&json!("done"), &Value::Null)
    );
}

#[test]
fn an_empty_account_a_backoff_and_what_fal_may_have_run() {
    let mut world = World::new();
    let _two = two(&mut world, &[]);
    let limited = Fault::json(429, &json!({"detail": "slow down"}));
    world
        .sandbox
        .faults
        .add(Rule::always("fal.submit", limited).for_requests_with("prompt of limited."));
    world.push(job("limited").json());
    let said = reason(&world, "limited", "backoff_rate");
    says(&said, "It is tried again ");
    says(&said, "rate_limited");
    world.sandbox.faults.add(
        Rule::always("fal.submit", Fault::ResetAfterActing).for_requests_with("prompt of lost."),
    );
    world.push(job("lost").with("max_attempts", 9).json());
    let said = reason(&world, "lost", "backoff_unknown");
    says(&said, "may be a second payment");

    world.sandbox.fal.set_locked(true);
    world.push(job("poor").json());
    let said = reason(&world, "poor", "backoff_balance");
    says(&said, "Top up the fal account.");
    world.push(job("next").json());
    world.wait_state("next", "queued");
    let said = reason(&world, "next", "paused_balance");
    says(&said, "no_balance");
    says(&said, "Top up the fal account");
}

#[test]
fn a_users_rate_a_submit_and_its_end() {
    let mut world = World::new();
    let _two = two(&mut world, &["--user-rate", "1/1h"]);
    world.push(job("r1").with("user_id", "r").json());
    world.wait_state("r1", "done");
    world.push(job("r2").with("user_id", "r").json());
    world.wait_state("r2", "later");
    let said = reason(&world, "r2", "user_rate");
    says(&said, "User r came more often than --user-rate 1/1h allows");

    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("s").with("user_id", "s").json());
    assert!(hold.wait_arrived(1, SOON));
    let said = reason(&world, "s", "submitting");
    says(&said, "has worked on it for ");
    hold.release();
    world.wait_state("s", "done");

    world.push(
        job("refused")
            .model("fal-ai/refuses")
            .with("user_id", "t")
            .json(),
    );
    world.wait_state("refused", "dead");
    let said = why(&world, "refused");
    assert_eq!(said["reason"], "dead_content_policy", "{said}");
    says(&said, "content_policy: ");

    world.cli(&["cancel", "r2"]).output().unwrap();
    world.wait_state("r2", "cancelled");
    assert_eq!(why(&world, "r2")["reason"], "cancelled");
}

#[test]
fn a_redis_that_takes_no_writes_still_says_what_it_knows() {
    let (mut world, _daemon) = World::running();
    world.not_audited("a replica of nobody");
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    let _: String = world.redis(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_eq!(why(&world, "a")["state"], "running");
    let _: String = world.redis(&["REPLICAOF", "NO", "ONE"]);
    hold.release();
    world.wait_state("a", "done");
}

#[test]
fn telegram_away() {
    let mut world = World::new();
    let _two = two(&mut world, &[]);
    world
        .sandbox
        .faults
        .add(Rule::always("tg.*", Fault::ResetBeforeRead));
    for n in 1..=8 {
        world.push(job(&format!("t{n}")).chat(700 + n).json());
    }
    world.wait_field("t1", "phase", "delivering");
    let said = reason(&world, "t1", "telegram_away");
    says(&said, "Telegram does not answer the worker at the moment");
    assert_eq!(said["finish"]["unknown"], "Telegram is away");
}

#[test]
fn status_says_which_service_is_away_and_since_when() {
    let mut world = World::new();
    let _two = two(&mut world, &[]);
    let status = |world: &World| -> Value {
        let output = world.cli(&["status", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(status(&world)["troubles"], json!([]));
    let reset = |calls| Rule::always(calls, Fault::ResetBeforeRead);
    world.sandbox.faults.add(reset("fal.*"));
    for n in 1..=12 {
        world.push(job(&format!("t{n}")).json());
    }
    let said = eventually(
        SOON,
        || status(&world)["troubles"].clone(),
        |said| said[0]["workers"] == 2,
    );
    assert_eq!((&said[0]["what"], &said[1]), (&json!("fal"), &Value::Null));
    let (now, _): (i64, u64) = world.redis(&["TIME"]);
    let since = said[0]["since"].as_i64().unwrap() / 1000;
    assert!((now - 30..=now).contains(&since), "{said}");
    let output = world.cli(&["status"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("\nFAL DOES NOT ANSWER since "), "{text}");
    assert!(text.contains(" UTC, say 2 of 2 workers\n"), "{text}");
    world.sandbox.faults.clear();
    let none = |said: &Value| *said == json!([]);
    eventually(SOON, || status(&world)["troubles"].clone(), none);
    // A full Redis and a replica take no word of a worker.
    let _: String = world.redis(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(status(&world)["troubles"][0]["what"], "redis_full");
    let _: String = world.redis(&["CONFIG", "SET", "maxmemory", "0"]);
}

#[test]
fn a_worker_that_is_silent_and_one_that_is_gone() {
    let mut world = World::new();
    taking(&world, MODEL, LONG);
    let one = world.daemon(&["--threads", "4"]);
    world.push(job("a").json());
    world.wait_submitted("a");
    let two = world.daemon(&["--threads", "4"]);
    one.signal("STOP");
    let said = reason(&world, "a", "worker_silent");
    says(&said, "and then another takes over what it knows");
    let ask = || {
        let args = ["status", "--threads", "--json"];
        let output = world.cli(&args).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    // On a busy machine the other one may be late too.
    let threads = eventually(SOON, ask, |threads| {
        threads["threads"][two.instance()].is_array()
    });
    assert_eq!(threads["threads"][one.instance()], Value::Null);
    let text = world.cli(&["status", "--threads"]).output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains(&format!("worker {} did not answer", one.instance())),
        "{text}"
    );
    two.signal("STOP");
    let said = eventually(SOON, || why(&world, "a"), |said| !said["todo"].is_null());
    says(&said, "No other worker is there to take over.");
    two.signal("CONT");
    one.signal("CONT");
}
