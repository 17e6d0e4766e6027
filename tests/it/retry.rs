//! `retry` on a live system of two workers: what is known goes out free, all else is paid for once, whoever asks
//! how often and whoever dies meanwhile.

use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::Duration;

const CHAT: i64 = 77_301;
const BROKEN: &str = "fal-ai/broken";

fn two_workers() -> (World, [Daemon; 2]) {
    let mut world = World::new();
    let workers = [(); 2].map(|()| world.daemon(&["--threads", "4"]));
    (world, workers)
}

fn start(world: &World, words: &[&str]) -> Child {
    let mut command = world.cli(&["retry"]);
    command
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn said(child: Child) -> (String, i32) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    (text, output.status.code().unwrap())
}

fn retry(world: &World, words: &[&str]) -> (String, i32) {
    said(start(world, words))
}

/// Refuses every input, or takes it.
fn is_broken(world: &World, broken: bool) {
    let refusal = json!({"detail": [{"loc": ["body"], "msg": "no", "type": "value_error"}]});
    let script = match broken {
        true => Script::new(Outcome::error(422, refusal)),
        false => Script::default(),
    };
    world.sandbox.fal.model(BROKEN, script);
}

/// Jobs that fal refused.
fn refused(world: &mut World, n: usize) -> Vec<String> {
    is_broken(world, true);
    let ids: Vec<String> = (0..n).map(|n| format!("r{n}")).collect();
    let entries: Vec<String> = (ids.iter())
        .map(|id| job(id).model(BROKEN).with("user_id", "u").json())
        .collect();
    world.push_all(&entries);
    for id in &ids {
        assert_eq!(world.wait_state(id, "dead")["kind"], "invalid_input");
    }
    is_broken(world, false);
    ids
}

/// Names of its events, and what its ends say it cost.
fn ends(world: &mut World, id: &str) -> Vec<(String, String)> {
    let is_end = |event: &BTreeMap<String, String>| {
        matches!(event["event"].as_str(), "done" | "failed" | "cancelled")
    };
    let events = world.events_of(id).into_iter().filter(is_end);
    events
        .map(|event| (event["event"].clone(), event["charged"].clone()))
        .collect()
}

fn pair(event: &str, charged: &str) -> (String, String) {
    (event.to_owned(), charged.to_owned())
}

#[test]
fn what_is_known_is_delivered_free_and_the_rest_is_generated_again_as_the_dry_run_said() {
    let (mut world, _workers) = two_workers();
    world.sandbox.telegram.block(CHAT);
    world.push(job("known").chat(CHAT).json());
    let record = world.wait_state("known", "dead");
    assert_eq!(
        (record["kind"].as_str(), record["charged"].as_str()),
        ("chat_unreachable", "yes")
    );
    // While its chat is known to be closed nothing is paid for.
    world.push(job("unpaid").chat(CHAT).json());
    assert_eq!(world.wait_state("unpaid", "dead")["charged"], "no");
    // Nobody knows whether fal has this one.
    let lost = Rule::first(1, "fal.submit", Fault::ResetAfterActing);
    world.sandbox.faults.add(lost);
    world.push(job("lost").with("max_attempts", 1).json());
    assert_eq!(world.wait_state("lost", "dead")["charged"], "unknown");
    let names = ["known", "unpaid", "lost"];
    let before = names.map(|id| world.record(id));
    let (text, code) = retry(&world, &[&names[..], &["--dry-run"]].concat());
    assert_eq!(
        text,
        "known would be delivered again, free: its result is known\n\
         unpaid would be generated again, paid; fal has charged nothing for it so far\n\
         lost would be generated again, paid; nobody knows what became of its last request: fal may have run \
         and charged it already\n\
         3 would go on: 1 free, 2 paid\n"
    );
    assert_eq!(code, 0);
    assert_eq!(names.map(|id| world.record(id)), before);

    world.sandbox.telegram.unblock(CHAT);
    let (text, code) = retry(&world, &["--all-dead", "--json"]);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let outcomes: Vec<(&str, &str, bool)> = (lines.iter())
        .map(|line| {
            let word = |name: &str| line[name].as_str().unwrap();
            (word("id"), word("outcome"), line["paid"].as_bool().unwrap())
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            ("known", "deliver", false),
            ("unpaid", "generate", true),
            ("lost", "generate", true)
        ]
    );
    assert_eq!(code, 0);
    for id in names {
        let record = world.wait_state(id, "done");
        assert_eq!(record["life"], "2", "{id}");
        assert!(!record.contains_key("kind"), "{id}: {record:?}");
    }
    assert_eq!(
        ends(&mut world, "known"),
        [pair("failed", "yes"), pair("done", "yes")]
    );
    assert_eq!(
        ends(&mut world, "unpaid"),
        [pair("failed", "no"), pair("done", "yes")]
    );
    assert_eq!(
        ends(&mut world, "lost"),
        [pair("failed", "unknown"), pair("done", "yes")]
    );
    let submits = names.map(|id| submits_of(&world, id));
    assert_eq!(submits, [1, 1, 2]);
    assert_eq!(world.sandbox.telegram.messages(CHAT).len(), 2);
    let (text, code) = retry(&world, &["--all-dead"]);
    assert_eq!((text.as_str(), code), ("there are no dead letters\n", 0));
    for filter in [
        ["--kind", "timeout"],
        ["--model", "fal-ai/*"],
        ["--user", "1"],
    ] {
        let (text, code) = retry(&world, &[&["--all-dead"][..], &filter].concat());
        assert_eq!((text.as_str(), code), ("no dead letter fits\n", 0));
    }
    let (text, code) = retry(&world, &["known", "nobody", "no id"]);
    assert_eq!(
        text,
        "known is done: `redeliver` sends its result again, free\nnobody is not known\n\
         no id is no id: 1-128 of letters, digits and . _ : -\n"
    );
    assert_eq!(code, 1);
    world.assert_clean();
}

#[test]
fn letters_are_chosen_by_kind_model_and_user_and_what_never_was_a_job_says_so() {
    let (mut world, _workers) = two_workers();
    refused(&mut world, 2);
    world.push(r#"{"id":"bad","model":"a/b","input":null}"#);
    world.wait_state("bad", "dead");
    let dry = |words: &[&str]| {
        retry(
            &world,
            &[&["--all-dead", "--dry-run", "--json"], words].concat(),
        )
    };
    let ids = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .map(|line| line["id"].as_str().unwrap().to_owned())
            .collect()
    };
    for words in [
        ["--kind", "invalid_input"],
        ["--model", "fal-ai/br*"],
        ["--user", "u"],
    ] {
        let (text, code) = dry(&words);
        let mut found = ids(&text);
        found.sort();
        assert_eq!(
            (found, code),
            (vec!["r0".to_owned(), "r1".to_owned()], 0),
            "{words:?}"
        );
    }
    for words in [
        ["--kind", "crashed"],
        ["--model", "fal-ai/flux*"],
        ["--user", "v"],
    ] {
        assert_eq!(dry(&words), (String::new(), 0), "{words:?}");
    }
    let (text, code) = dry(&[]);
    assert_eq!((ids(&text).len(), code), (3, 1), "{text}");
    assert!(text.contains("put it in corrected"), "{text}");
    for (words, complaint) in [
        (&["--all-dead", "--kind", "tired"][..], "no kind of failure"),
        (&["--all-dead", "--model", "a b"], "no model"),
        (&["--kind", "crashed"], "required"),
        (&["--all-dead", "r0"], "cannot be used"),
        (&[], "required"),
    ] {
        let (text, code) = retry(&world, words);
        assert!(
            code == 2 && text.contains(complaint),
            "{words:?}: {code} {text}"
        );
    }
    let mut away = world.cli(&["retry", "r0"]);
    let output = away
        .env("REDIS_URL", "redis://127.0.0.1:1/0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
}

/// The result is too large for the record, so the old request is asked once more; that costs nothing, also where
/// fal has lost it, failed it since, or the job allows to be paid for again.
#[test]
fn what_was_said_to_be_free_is_never_paid_for_again() {
    let (mut world, _workers) = two_workers();
    let output = json!({"images": [{"url": "{files}/0.png"}], "log": "x".repeat(200 << 10)});
    let script = Script::new(Outcome::Json(output));
    world.sandbox.fal.model("case/large", script);
    let ids = ["there", "lost", "failed"];
    let chats = [CHAT, CHAT + 1, CHAT + 2];
    for (id, chat) in ids.iter().zip(chats) {
        world.sandbox.telegram.block(chat);
        let job = job(id).model("case/large").chat(chat);
        world.push(job.with("repay", true).json());
    }
    for id in ids {
        let record = world.wait_state(id, "dead");
        assert_eq!(record["kind"], "chat_unreachable", "{id}");
        assert_eq!(record.get("result"), None, "{id}");
    }
    let request = |world: &mut World, id: &str| world.record(id)["request_id"].clone();
    let lost = request(&mut world, "lost");
    world.sandbox.fal.forget(&lost);
    let runner = json!({"detail": "runner disconnected", "error_type": "runner_disconnected"});
    let headers = vec![(
        "X-Fal-Error-Type".to_owned(),
        "runner_disconnected".to_owned(),
    )];
    let failed = Fault::Answer {
        status: 503,
        content_type: "application/json".to_owned(),
        headers,
        body: runner.to_string().into_bytes(),
    };
    let request_failed = request(&mut world, "failed");
    let rule = Rule::always("fal.result", failed).for_requests_with(&request_failed);
    world.sandbox.faults.add(rule);
    for chat in chats {
        world.sandbox.telegram.unblock(chat);
    }

    let (text, code) = retry(&world, &["--all-dead", "--json"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.matches("\"paid\":false").count(), 3, "{text}");
    world.wait_state("there", "done");
    for id in ["failed", "lost"] {
        let record = world.wait_state(id, "dead");
        assert_eq!(record["kind"], "unavailable", "{id}");
        assert_eq!(
            (&*record["charged"], &*record["attempt"]),
            ("yes", "0"),
            "{id}"
        );
        assert!(
            record["error"].contains("nothing new was submitted"),
            "{record:?}"
        );
    }
    assert_eq!(ids.map(|id| submits_of(&world, id)), [1, 1, 1]);

    // Asked for in so many words it is paid for.
    world.sandbox.faults.clear();
    let (text, code) = retry(&world, &["lost", "failed"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        text.matches("is generated again, paid").count(),
        2,
        "{text}"
    );
    for id in ["failed", "lost"] {
        world.wait_state(id, "done");
    }
    assert_eq!(ids.map(|id| submits_of(&world, id)), [1, 2, 2]);
    world.assert_clean();
}

#[test]
fn two_operators_at_once_give_each_letter_one_new_life() {
    let (mut world, _workers) = two_workers();
    let ids = refused(&mut world, 60);
    let operators = [(); 3].map(|()| start(&world, &["--all-dead", "--json"]));
    let lines: Vec<Value> = (operators.into_iter())
        .flat_map(|operator| {
            let (text, code) = said(operator);
            assert_eq!(code, 0, "{text}");
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(lines.len(), 60, "each was retried by one of them");
    assert!(lines.iter().all(|line| line["done"] == true));
    for id in &ids {
        world.wait_state(id, "done");
        assert_eq!(submits_of(&world, id), 2, "{id}");
        assert_eq!(ends(&mut world, id).len(), 2, "{id}");
    }
    world.assert_clean();
}

#[test]
fn a_worker_killed_in_the_new_life_loses_nothing_of_it_and_its_step_file_touches_nothing_of_the_old()
 {
    let mut world = World::new();
    let mut owner = world.daemon(&["--threads", "4"]);
    let ids = refused(&mut world, 24);
    let slow = Script::default().taking(Duration::from_millis(300));
    world.sandbox.fal.model(BROKEN, slow);
    assert_eq!(retry(&world, &["--all-dead"]).1, 0);
    // In the middle of it, and again.
    for _ in 0..2 {
        let done = |world: &mut World| {
            ids.iter()
                .filter(|id| world.record(id).contains_key("request_id"))
                .count()
        };
        eventually(SOON, || done(&mut world), |done| *done > 4);
        owner.kill();
        // Those that have failed stay so; who retries all dead letters now finds none of the open ones.
        assert_eq!(retry(&world, &["--all-dead"]).1, 0);
        owner = world.daemon(&["--threads", "4"]);
    }
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    let again = world.counted("resubmitted_after_unknown") as usize;
    let submits: usize = ids.iter().map(|id| submits_of(&world, id)).sum();
    assert!(
        (48..=48 + again).contains(&submits),
        "{submits}, {again} of unknown outcome"
    );
    for id in &ids {
        assert_eq!(world.record(id)["life"], "2");
        assert_eq!(ends(&mut world, id).len(), 2, "{id}");
    }
    world.assert_clean_after_kills();
}

#[test]
fn a_new_life_lives_as_long_as_the_workers_were_told() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "2", "--max-wait", "1h"]);
    refused(&mut world, 1);
    let _: u64 = world.redis(&["HSET", "fal:paused", "reason", "test"]);
    assert_eq!(retry(&world, &["r0"]).1, 0);
    let record = world.record("r0");
    let ms = |name: &str| record[name].parse::<i64>().unwrap();
    assert_eq!(ms("expires_at") - ms("queued_at"), 3_600_000);
    assert_eq!(
        (record["state"].as_str(), record["attempt"].as_str()),
        ("queued", "0")
    );
    let (text, code) = retry(&world, &["r0"]);
    assert_eq!(
        (text.as_str(), code),
        ("r0 has not ended: it is queued\n", 1)
    );
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    world.wait_state("r0", "done");
    world.assert_clean();
}
