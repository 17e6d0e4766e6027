//! `delete` on a live system, and keeping nothing: what is left of a job and of a user is looked for in all of
//! Redis, not where we put it.

use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CHAT: i64 = 77_401;
const NEVER: &str = "fal-ai/never";

/// Keys that hold this text, in their name or anywhere in them.
const TRACES: &str = r"
local out = {}
local function has(value)
  if type(value) == 'table' then
    for _, part in ipairs(value) do if has(part) then return true end end
    return false
  end
  return string.find(tostring(value), ARGV[1], 1, true) ~= nil
end
local read = {
  hash = {'HGETALL'}, list = {'LRANGE', 0, -1}, zset = {'ZRANGE', 0, -1}, set = {'SMEMBERS'},
  string = {'GET'}, stream = {'XRANGE', '-', '+'},
}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local how = read[redis.call('TYPE', key).ok]
  if has(key) or has(redis.call(how[1], key, unpack(how, 2))) then out[#out + 1] = key end
end
return out";

fn traces(world: &mut World, text: &str) -> Vec<String> {
    world.redis(&["EVAL", TRACES, "0", text])
}

fn delete(world: &World, words: &[&str]) -> (String, i32) {
    let output = world.cli(&["delete"]).args(words).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    (text, output.status.code().unwrap())
}

fn two_workers(more: &[&str]) -> (World, [Daemon; 2]) {
    let mut world = World::new();
    let words = [&["--threads", "4"], more].concat();
    let workers = [(); 2].map(|()| world.daemon(&words));
    let stops = Script {
        heeds_cancel: true,
        ..Script::new(Outcome::Never)
    };
    world.sandbox.fal.model(NEVER, stops);
    (world, workers)
}

fn is_bare(world: &mut World, id: &str, charged: &str) {
    let record = world.record(id);
    let allowed = ["v", "state", "charged", "kind", "token", "seq"];
    let more: Vec<&String> = record
        .keys()
        .filter(|name| !allowed.contains(&name.as_str()))
        .collect();
    assert!(more.is_empty(), "{id}: {record:?}");
    assert_eq!(record["charged"], charged, "{id}");
    let ttl: i64 = world.redis(&["TTL", &format!("fal:job:{id}")]);
    assert!((86_000..=86_400).contains(&ttl), "{id}: {ttl}");
    for word in ["spec", "result"] {
        let left: u64 = world.redis(&["EXISTS", &format!("fal:{word}:{id}")]);
        assert_eq!(left, 0, "{word} of {id}");
    }
}

#[test]
fn of_a_job_the_bare_id_is_left_and_its_repeated_lpush_is_no_payment() {
    let (mut world, _workers) = two_workers(&[]);
    let private = |id: &str| job(id).with("meta", "very-private").with("user_id", "u");
    world.push_all(&[
        private("a").chat(CHAT).json(),
        private("b").json(),
        private("stays").json(),
    ]);
    for id in ["a", "b", "stays"] {
        world.wait_state(id, "done");
    }
    let again = world.cli(&["redeliver", "a"]).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    let (text, code) = delete(&world, &["a", "b", "--dry-run"]);
    assert_eq!(
        (text.as_str(), code),
        ("a would be deleted\nb would be deleted\n", 0)
    );
    assert!(world.record("a").contains_key("request_id"));
    let (text, code) = delete(&world, &["a", "b", "nobody", "no id"]);
    assert_eq!(
        text,
        "a deleted\nb deleted\nnobody is not known\nno id is no id: 1-128 of letters, digits and . _ : -\n"
    );
    assert_eq!(code, 1);
    for id in ["a", "b"] {
        is_bare(&mut world, id, "yes");
        assert!(world.events_of(id).is_empty());
        assert_eq!(traces(&mut world, &format!("prompt of {id}.")), [""; 0]);
    }
    let mut left = traces(&mut world, "very-private");
    left.sort();
    assert_eq!(
        left,
        ["fal:events", "fal:job:stays"],
        "nor is its redelivery left"
    );
    assert_eq!(world.events_of("stays").len(), 5);
    world.push_all(&[private("a").json(), private("b").json()]);
    for id in ["a", "b"] {
        eventually(SOON, || world.events_of(id), |events| events.len() == 1);
        assert_eq!(world.events_of(id)[0]["event"], "duplicate");
        assert_eq!(submits_of(&world, id), 1);
    }
    // That event is all that is known of it: it goes too.
    let (text, code) = delete(&world, &["a"]);
    assert_eq!(
        (text.as_str(), code),
        ("a deleted: only its id was known\n", 0)
    );
    assert!(world.events_of("a").is_empty());
    world.assert_clean();
}

#[test]
fn what_runs_is_to_be_cancelled_first_and_what_waits_goes_at_once() {
    let (mut world, _workers) = two_workers(&["--user-concurrency", "1"]);
    let of_one = |id: &str| job(id).with("user_id", "u1");
    world.push(of_one("runs").model(NEVER).json());
    world.wait_submitted("runs");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    world.push_all(&[
        of_one("waits").json(),
        of_one("next").json(),
        of_one("tomorrow").with("not_before", now + 86_400).json(),
    ]);
    for (id, state) in [
        ("waits", "waiting"),
        ("next", "waiting"),
        ("tomorrow", "later"),
    ] {
        world.wait_state(id, state);
    }
    let (text, code) = delete(&world, &["runs", "waits", "tomorrow"]);
    assert_eq!(
        text,
        "runs runs: cancel it first\n\
         waits deleted before its end (waiting, charged: no): its user is not told\n\
         tomorrow deleted before its end (later, charged: no): its user is not told\n"
    );
    assert_eq!(code, 1);
    for id in ["waits", "tomorrow"] {
        is_bare(&mut world, id, "no");
        let events = world.events_of(id);
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0]["event"], "cancelled");
        assert!(!events[0].contains_key("user") && !events[0].contains_key("model"));
    }
    let cancelled = world.cli(&["cancel", "runs"]).output().unwrap();
    assert_eq!(cancelled.status.code(), Some(0), "{cancelled:?}");
    world.wait_state("next", "done");
    assert_eq!(delete(&world, &["runs"]), ("runs deleted\n".to_owned(), 0));
    is_bare(&mut world, "runs", "no");
    assert_eq!(submits_of(&world, "waits"), 0);
    world.assert_clean();
}

#[test]
fn of_a_user_nothing_is_left_but_bare_ids_whatever_his_jobs_were_doing() {
    let (mut world, workers) = two_workers(&["--user-concurrency", "2", "--user-rate", "9/1h"]);
    let his = |id: &str| job(id).with("user_id", "hans-7").with("meta", "of hans-7");
    world.sandbox.telegram.block(CHAT);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    world.push_all(&[
        his("done").json(),
        his("dead").chat(CHAT).json(),
        job("other").with("user_id", "hans-77").json(),
    ]);
    world.wait_state("done", "done");
    world.wait_state("dead", "dead");
    world.wait_state("other", "done");
    world.push_all(&[
        his("run-1").model(NEVER).json(),
        his("run-2").model(NEVER).json(),
    ]);
    for id in ["run-1", "run-2"] {
        world.wait_submitted(id);
    }
    world.push_all(&[
        his("waits").json(),
        his("later").with("not_before", now + 86_400).json(),
    ]);
    world.wait_state("waits", "waiting");
    world.wait_state("later", "later");

    let (text, code) = delete(&world, &["--user", "hans-7", "--dry-run"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.lines().count(), 7, "{text}");
    assert!(
        text.contains("run-1 would be cancelled and deleted\n"),
        "{text}"
    );
    assert!(text.contains("6 jobs, 0 unread entries and "), "{text}");
    assert_eq!(world.state("run-1"), "running");

    let (text, code) = delete(&world, &["--user", "hans-7", "--json"]);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(code, 0, "{text}");
    assert!(lines.iter().all(|line| line["done"] == true), "{text}");
    let sum = lines.last().unwrap();
    assert_eq!(
        (sum["jobs"].as_u64(), sum["left"].as_u64()),
        (Some(6), Some(0))
    );
    let ids = ["done", "dead", "run-1", "run-2", "waits", "later"];
    let charged = ["yes", "yes", "no", "no", "no", "no"];
    for (id, charged) in ids.iter().zip(charged) {
        is_bare(&mut world, id, charged);
        assert_eq!(traces(&mut world, &format!("prompt of {id}.")), [""; 0]);
    }
    let left = traces(&mut world, "hans-7");
    let others = traces(&mut world, "hans-77");
    assert_eq!(left, others, "what is left is another's");
    assert_eq!(traces(&mut world, "of hans-7"), [""; 0]);
    assert_eq!(world.sandbox.fal.totals().running_now, 0);
    world.push(his("done").json());
    eventually(SOON, || world.events_of("done"), |events| events.len() == 1);
    assert_eq!(submits_of(&world, "done"), 1);
    // He may come back.
    world.push(job("new").with("user_id", "hans-7").json());
    world.wait_state("new", "done");
    world.assert_clean();

    // Where no worker runs, his entries lie unread.
    drop(workers);
    world.push_all(&[
        his("unread").json(),
        job("his").with("user_id", "hans-77").json(),
    ]);
    let (text, code) = delete(&world, &["--user", "hans-7"]);
    assert!(
        text.contains("new deleted\n") && text.contains(" 1 unread entries "),
        "{text}"
    );
    assert_eq!(code, 0);
    let inbox: Vec<String> = world.redis(&["LRANGE", "fal:inbox", "0", "-1"]);
    assert_eq!(inbox.len(), 1);
    let _: u64 = world.redis(&["DEL", "fal:inbox"]);
}

#[test]
fn deleted_while_they_run_and_a_worker_is_killed_no_place_is_left_over() {
    let (mut world, [_one, mut two]) = two_workers(&["--user-concurrency", "3"]);
    let quick = Script::default();
    let slowest = Duration::from_millis(300);
    world.sandbox.fal.model(
        "fal-ai/flux/dev",
        quick.taking_between(Duration::from_millis(5), slowest),
    );
    let ids: Vec<String> = (0..90).map(|n| format!("x{n}")).collect();
    let entries: Vec<String> = (0..90)
        .map(|n| {
            job(&ids[n])
                .with("user_id", format!("user-{}", n % 3))
                .json()
        })
        .collect();
    world.push_all(&entries);
    let names: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut killed = false;
    eventually(
        SOON,
        || {
            let (text, code) = delete(&world, &names);
            // Workers that are slow to read leave entries unread, which are not deleted one by one either.
            let open = ["cancel it first", "not known", "is no job yet"];
            assert!(
                code == 0 || open.iter().any(|word| text.contains(word)),
                "{text}"
            );
            if !killed && world.sandbox.fal.totals().submits > 5 {
                two.kill();
                killed = true;
            }
            (text, code)
        },
        |(_, code)| *code == 0,
    );
    let _third = world.daemon(&["--threads", "4"]);
    for id in &ids {
        let record = world.record(id);
        assert!(!record.contains_key("queued_at"), "{id}: {record:?}");
        assert!(submits_of(&world, id) <= 2, "{id}");
    }
    assert_eq!(traces(&mut world, "user-0"), [""; 0]);
    world.assert_clean_after_kills();
}

#[test]
fn where_nothing_is_kept_an_end_leaves_the_bare_id_whatever_it_was() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "4", "--keep-done", "0", "--keep-dead", "0"]);
    let stops = Script {
        heeds_cancel: true,
        ..Script::new(Outcome::Never)
    };
    world.sandbox.fal.model(NEVER, stops);
    world.sandbox.telegram.block(CHAT);
    world.push_all(&[
        job("done").chat(CHAT + 1).json(),
        job("dead").chat(CHAT).json(),
        job("cancelled").model(NEVER).json(),
        r#"{"id":"bad","model":"a/b","input":null}"#.to_owned(),
    ]);
    world.wait_submitted("cancelled");
    assert_eq!(
        world
            .cli(&["cancel", "cancelled"])
            .output()
            .unwrap()
            .status
            .code(),
        Some(0)
    );
    let cases = [
        ("done", "yes"),
        ("dead", "yes"),
        ("cancelled", "no"),
        ("bad", "no"),
    ];
    for (id, charged) in cases {
        let state = if id == "bad" { "dead" } else { id };
        world.wait_state(id, state);
        is_bare(&mut world, id, charged);
    }
    assert_eq!(world.redis::<u64>(&["ZCARD", "fal:dead"]), 0);
    let output = world.cli(&["retry", "dead"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text,
        "dead has failed, and its entry is not kept: put it in again under another id\n"
    );
    world.push_all(&[
        job("done").json(),
        job("dead").json(),
        job("cancelled").json(),
    ]);
    for id in ["done", "dead", "cancelled"] {
        let last = |world: &mut World| world.events_of(id).pop().unwrap()["event"].clone();
        eventually(SOON, || last(&mut world), |event| event == "duplicate");
        assert_eq!(submits_of(&world, id), 1, "{id}");
    }
    world.assert_clean();
}

#[test]
fn a_deletion_that_redis_cut_short_has_left_nothing_that_the_next_one_does_not_find() {
    for words in [&["gone"][..], &["--user", "u"]] {
        let mut world = World::new();
        world.not_audited("a user's rights");
        let entry = job("gone")
            .with("user_id", "u")
            .with(
                "input_files",
                serde_json::json!({"image_url": "AgACpicture"}),
            )
            .json();
        let upload = "fal:upload:7000000001:AgACpicture";
        let _: u64 = world.redis(&[
            "HSET",
            "fal:job:gone",
            "v",
            "1",
            "state",
            "dead",
            "user",
            "u",
            "queued_at",
            "1",
        ]);
        let _: String = world.redis(&["SET", "fal:spec:gone", &entry]);
        let _: String = world.redis(&["SET", upload, "https://v3.fal.media/picture"]);
        let _: String = world.redis(&["XADD", "fal:events", "*", "event", "failed", "job", "gone"]);
        // The job is deleted, then its event cannot be.
        let _: String = world.redis(&["ACL", "SETUSER", "default", "-xdel"]);
        let (text, code) = delete(&world, words);
        assert_ne!(code, 0, "{text}");
        let _: String = world.redis(&["ACL", "SETUSER", "default", "+@all"]);
        assert_eq!(world.redis::<u64>(&["EXISTS", "fal:spec:gone"]), 0);
        let (text, code) = delete(&world, words);
        assert_eq!(code, 0, "{text}");
        assert_eq!(traces(&mut world, "AgACpicture"), [""; 0], "{words:?}");
    }
}
