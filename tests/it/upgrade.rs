//! Upgrade and roll back: what an earlier version wrote is read, what a newer one wrote is left alone, and two
//! versions share one queue. The fixture is a store that the first format's version left behind, killed in the
//! middle of everything; a change that cannot finish its jobs fails here.

use crate::support::load::{assert_load_ended_after_a_stop, in_full_swing, push_load, taking};
use crate::support::store_dump::{dump, dump_steps, restore, restore_steps};
use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::telegram::Kind;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Job, and the chat it has.
const CHATS: [(&str, i64); 7] = [
    ("polling", 501),
    ("collecting", 502),
    ("delivering", 503),
    ("editing", 504),
    ("telling", 505),
    ("unrecorded", 506),
    ("submitting", 507),
];

fn fixture(format: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/records/{format}.json"))
}

fn now_ms(world: &mut World) -> i64 {
    let (seconds, micros): (i64, i64) = world.redis(&["TIME"]);
    seconds * 1000 + micros / 1000
}

/// Writes the fixture of the format that this version writes. Run by hand for a new format, and kept from then
/// on: `FAL_WORKER_FIXTURE=v2 cargo test --test it -- --ignored a_store_with_a_job_in_every_state_is_written`.
#[test]
#[ignore = "writes a fixture"]
fn a_store_with_a_job_in_every_state_is_written() {
    let format = std::env::var("FAL_WORKER_FIXTURE").expect("names the file");
    let mut world = World::new();
    let (fal, telegram) = (&world.sandbox.fal, &world.sandbox.telegram);
    let at_once = || Script::default().taking(Duration::ZERO);
    fal.model("fal-ai/flux/dev", at_once());
    fal.model(
        "fal-ai/slow",
        Script::default().taking(Duration::from_secs(3600)),
    );
    let policy = json!({"detail": [{"loc": ["body", "prompt"], "msg": "flagged",
        "type": "content_policy_violation"}]});
    let refuses = Script::new(Outcome::error(422, policy)).taking(Duration::ZERO);
    fal.model("fal-ai/refuses", refuses);
    for (_, chat) in CHATS {
        telegram.add_chat(chat);
    }
    let status = telegram.plant_message(504, Kind::Text, false);
    let mut daemon = world.daemon(&["--threads", "16"]);
    world.push(job("done").chat(500).json());
    world.wait_state("done", "done");
    world.push(r#"{"id":"dead","input":{}}"#);
    world.wait_state("dead", "dead");

    // One in each phase: the answer that would end the phase is held back.
    let fal = &world.sandbox.fal;
    let telegram = &world.sandbox.telegram;
    let holds = [
        telegram.hold("tg.sendphoto"),
        telegram.hold("tg.editmessagemedia"),
        telegram.hold("tg.sendmessage"),
        fal.hold_matching("fal.submit", "prompt of submitting."),
    ];
    let unrecorded = fal.hold_matching("fal.submit", "prompt of unrecorded.");
    let of = |id: &str| job(id).chat(CHATS.iter().find(|(name, _)| *name == id).unwrap().1);
    let entries = [
        of("polling").model("fal-ai/slow"),
        of("delivering"),
        of("editing").telegram("status_message_id", status),
        of("telling").model("fal-ai/refuses"),
        of("submitting"),
        of("unrecorded"),
    ];
    world.push_all(&entries.map(|entry| entry.json()));
    for hold in holds.iter().chain([&unrecorded]) {
        assert!(hold.wait_arrived(1, SOON));
    }
    world.wait_submitted("polling");
    let result = world.sandbox.fal.hold("fal.result");
    world.push(of("collecting").json());
    assert!(result.wait_arrived(1, SOON));

    // And one in each place where jobs wait.
    let since = now_ms(&mut world).to_string();
    let _: u64 = world.redis(&[
        "HSET",
        "fal:paused",
        "reason",
        "a fixture",
        "by",
        "a test",
        "since",
        &since,
    ]);
    let soon = now_ms(&mut world) / 1000 + 60;
    let waiting = [
        job("high").with("priority", "high"),
        job("default").chat(510),
        job("turn").chat(510),
        job("low").with("priority", "low"),
        job("later").with("not_before", soon),
        job("cancelled"),
    ];
    world.push_all(&waiting.map(|entry| entry.json()));
    world.wait_state("later", "later");
    world.wait_state("cancelled", "queued");
    assert!(
        world
            .cli(&["cancel", "cancelled"])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(world.state("turn"), "waiting");

    // The request id of this one is known to the step file alone.
    let id = world.sandbox.fal.submits_for("prompt of unrecorded.")[0]
        .request_id
        .clone();
    world.kill_redis();
    unrecorded.release();
    let noted = |world: &World| {
        let files = world.step_files().into_iter();
        let texts =
            files.map(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned());
        texts.collect::<String>().contains(&id)
    };
    eventually(SOON, || noted(&world), |noted| *noted);
    let instance = daemon.instance();
    daemon.kill();
    drop(holds);
    drop(result);
    world.sandbox.redis.restart().unwrap();
    world.push(job("inbox").json());
    let taken = format!("fal:taken:{instance}");
    let _: u64 = world.redis(&["LPUSH", &taken, &job("taken").json()]);

    let requests: BTreeMap<&str, String> = CHATS
        .iter()
        .filter(|(id, _)| *id != "submitting")
        .map(|(id, _)| (*id, submit_of(&world, id)))
        .collect();
    let worker = format!("fal:worker:{instance}");
    let _: u64 = world.redis(&["HSET", &worker, "host", "elsewhere", "boot", "elsewhere"]);
    let at = now_ms(&mut world);
    let file_host = world.sandbox.fal.file_host();
    let all = json!({
        "at_ms": at, "file_host": file_host, "status_message_id": status, "requests": requests,
        "store": dump(&mut world), "steps": dump_steps(&world),
    });
    let path = fixture(&format);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
    world.not_audited("it is left as the dead worker left it");
}

fn submit_of(world: &World, id: &str) -> String {
    let submits = world.sandbox.fal.submits_for(&format!("prompt of {id}."));
    assert_eq!(submits.len(), 1, "{id}");
    submits[0].request_id.clone()
}

/// Puts a fixture's store into the world's Redis and its step file where daemons look; fal and Telegram know
/// what they knew then. Gives the number of submits that this took.
fn left_behind(world: &mut World, format: &str) -> u64 {
    let mut text = fs::read_to_string(fixture(format)).unwrap();
    let about: Value = serde_json::from_str(&text).unwrap();
    let fal = &world.sandbox.fal;
    fal.set_generation(Duration::ZERO, Duration::ZERO);
    fal.model("fal-ai/slow", Script::default().taking(Duration::ZERO));
    let (mut paid, mut requests) = (0, Vec::new());
    for (id, request) in about["requests"].as_object().unwrap() {
        let model = match id.as_str() {
            "polling" => "fal-ai/slow",
            _ => "fal-ai/flux/dev",
        };
        let url = format!("{}/{model}", fal.queue_url());
        let body = json!({"prompt": format!("prompt of {id}.")}).to_string();
        let answer = ureq::post(&url)
            .header("Authorization", format!("Key {}", fal.key()))
            .header("Content-Type", "application/json")
            .send(&body);
        assert_eq!(answer.unwrap().status(), 200);
        // In two steps: both worlds draw their ids from the same seed. Of the same length, so that the step
        // file's writes keep theirs.
        text = text.replace(request.as_str().unwrap(), &format!("(request of {id})"));
        requests.push((format!("(request of {id})"), submit_of(world, id)));
        paid += 1;
    }
    for (placeholder, request) in requests {
        text = text.replace(&placeholder, &request);
    }
    text = text.replace(
        about["file_host"].as_str().unwrap(),
        &world.sandbox.fal.file_host(),
    );
    let telegram = &world.sandbox.telegram;
    for (_, chat) in CHATS {
        telegram.add_chat(chat);
    }
    let status = telegram.plant_message(504, Kind::Text, false);
    let of_message = |id: &Value| format!("\\\"status_message_id\\\":{id}");
    text = text.replace(
        &of_message(&about["status_message_id"]),
        &of_message(&json!(status)),
    );
    let about: Value = serde_json::from_str(&text).unwrap();
    let moved = now_ms(world) - about["at_ms"].as_i64().unwrap();
    restore(world, &about["store"], moved);
    restore_steps(&world.state_dir().join("fal"), &about["steps"]);
    // It was killed on this machine, a moment ago.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let workers: Vec<String> = world.redis(&["ZRANGE", "fal:workers", "0", "-1"]);
    for instance in workers {
        let mark = format!("fal:worker:{instance}");
        let _: u64 = world.redis(&["HSET", &mark, "boot", boot.trim()]);
    }
    // What waits for its time does not keep the test waiting.
    let now = now_ms(world).to_string();
    let _: u64 = world.redis(&["ZADD", "fal:later", &now, "later"]);
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    paid
}

#[test]
fn a_store_that_the_first_format_left_behind_is_finished() {
    let mut world = World::new();
    let paid = left_behind(&mut world, "v1");
    // One whose result was being read still polls, as far as Redis knows.
    for (id, phase) in [
        ("polling", "polling"),
        ("collecting", "polling"),
        ("delivering", "delivering"),
        ("editing", "delivering"),
        ("telling", "telling"),
        ("submitting", "submitting"),
        ("unrecorded", "submitting"),
    ] {
        assert_eq!(world.record(id)["phase"], phase, "{id}");
    }
    assert_eq!(world.record("unrecorded").get("request_id"), None);

    let mut daemon = world.daemon(&["--threads", "8", "--lease", "3s"]);
    let unpaid = [
        "high",
        "default",
        "turn",
        "low",
        "later",
        "inbox",
        "taken",
        "submitting",
    ];
    let known = [
        "polling",
        "collecting",
        "delivering",
        "editing",
        "unrecorded",
        "done",
    ];
    let done = unpaid.iter().chain(&known);
    let mut ids: Vec<String> = done.map(|id| (*id).to_owned()).collect();
    let states = world.wait_ended(&ids, SOON);
    assert!(
        states.iter().all(|state| state == "done"),
        "{states:?} of {ids:?}"
    );
    ids = ["telling", "dead", "cancelled"].map(str::to_owned).into();
    assert_eq!(world.wait_ended(&ids, SOON), ["dead", "dead", "cancelled"]);
    assert_eq!(world.record("telling")["kind"], "content_policy");

    // Nothing that was paid is paid again; whose submit was cut off is, and counted.
    assert_eq!(world.counted("resubmitted_after_unknown"), 1);
    assert_eq!(
        world.sandbox.fal.totals().submits,
        paid + unpaid.len() as u64
    );
    for id in unpaid {
        assert_eq!(submits_of(&world, id), 1, "{id}");
    }
    for (id, chat) in CHATS {
        assert_eq!(world.sandbox.telegram.messages(chat).len(), 1, "{id}");
    }
    assert_eq!(daemon.stop(), Some(0));
    assert!(world.step_files().is_empty(), "{:?}", world.step_files());
    world.assert_clean_after_kills();
}

#[test]
fn a_record_of_a_newer_format_waits_for_its_version_and_is_said_once() {
    let (mut world, mut daemon) = World::running();
    // It does not end before its worker.
    world.sandbox.fal.set_slots(0);
    world.push(job("paid").chat(7).json());
    world.wait_submitted("paid");
    assert_eq!(daemon.stop(), Some(0));
    world.sandbox.fal.set_slots(1000);
    let of_both = ["paid", "unpaid"];
    let rewrite = |world: &mut World, id: &str| {
        let _: u64 = world.redis(&["HSET", &format!("fal:job:{id}"), "v", "2", "of_v2", "x"]);
    };
    rewrite(&mut world, "paid");
    let paused = [
        "HSET",
        "fal:paused",
        "reason",
        "none",
        "by",
        "a test",
        "since",
        "1",
    ];
    let _: u64 = world.redis(&paused);
    let mut old = world.daemon(&["--threads", "4"]);
    world.push(job("unpaid").json());
    world.wait_state("unpaid", "queued");
    rewrite(&mut world, "unpaid");
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    // Met, put aside, and met again, while others pass.
    let seen = |world: &mut World| {
        world
            .redis::<Option<i64>>(&["ZSCORE", "fal:newer", "paid"])
            .unwrap_or(0)
    };
    let first = eventually(SOON, || seen(&mut world), |at| *at > 0);
    world.push(job("other").json());
    world.wait_state("other", "done");
    let status = |world: &World| {
        let output = world.cli(&["status"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let says = "left alone, since a newer version wrote them: 2";
    eventually(SOON, || status(&world), |text| text.contains(says));
    eventually(SOON, || seen(&mut world), |at| *at > first);
    assert_eq!(
        old.logged("newer record left alone"),
        1,
        "{}",
        old.log_text()
    );
    for id in of_both {
        let record = world.record(id);
        assert_eq!((record["v"].as_str(), record["of_v2"].as_str()), ("2", "x"));
        assert!(
            ["queued", "later"].contains(&record["state"].as_str()),
            "{record:?}"
        );
    }
    assert_eq!(world.sandbox.fal.totals().submits, 2);
    // Its version is back: here, this one.
    for id in of_both {
        let _: u64 = world.redis(&["HSET", &format!("fal:job:{id}"), "v", "1"]);
        world.wait_state(id, "done");
    }
    assert_eq!(world.sandbox.fal.totals().submits, 3);
    assert_eq!(old.stop(), Some(0));
    world.assert_clean();
}

/// Run by `tests/upgrade`, which builds the other version.
#[test]
#[ignore = "needs a program of another version: tests/upgrade"]
fn two_versions_share_a_queue_and_hand_it_over_both_ways() {
    let other = std::env::var("FAL_WORKER_OTHER").expect("names the program of the other version");
    let mut world = World::new();
    let of_the_other = |world: &mut World| -> Daemon {
        let daemon = world.spawn_program(&other, &["--threads", "8"]);
        daemon.wait_log(" ready ");
        daemon
    };
    let mut theirs = of_the_other(&mut world);
    let mut ours = world.daemon(&["--threads", "8"]);
    taking(&world, 20, 1500);
    let mut ids = push_load(&mut world, 150);
    in_full_swing(&mut world, 200);
    // The upgrade: one is stopped, one killed; then the way back.
    assert_eq!(theirs.stop(), Some(0));
    in_full_swing(&mut world, 400);
    let mut back = of_the_other(&mut world);
    ours.kill();
    assert_load_ended_after_a_stop(&mut world, &ids);
    let started = world
        .events()
        .into_iter()
        .filter(|event| event["event"] == "done");
    assert_eq!(started.count(), 150);
    // The two side by side, to the end, both at work.
    let mut again = world.daemon(&["--threads", "8"]);
    let more: Vec<String> = (0..150).map(|n| format!("more-{n}")).collect();
    world.push_all(&more.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    ids.extend(more);
    let states = world.wait_ended(&ids, 2 * SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    for daemon in [&back, &again] {
        let done = daemon.logged("job done");
        eprintln!("upgrade: {} ended {done} jobs", daemon.instance());
        assert!(done > 0, "{}", daemon.log_text());
    }
    assert_eq!(back.stop(), Some(0));
    // An older version may not have known of turns and slots: what it left standing the audit takes away.
    world.may_mend("an older version leaves what it does not know of");
    eventually(3 * SOON, || world.findings(), Vec::is_empty);
    assert_eq!(again.stop(), Some(0));
    world.assert_clean_after_kills();
}
