//! Files that users sent to the bot become URLs in fal's storage before anything is paid: each once, with no
//! secret on the way, and whatever goes wrong there costs nothing.

use crate::support::{SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::media;
use fal_worker::sandbox::telegram::Kind;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CHAT: i64 = 77_002;

fn photo(world: &World, seed: u64) -> String {
    let name = format!("file_{seed}.jpg");
    let bytes = media::png(8, 8, Some(seed));
    world.sandbox.telegram.user_file(Kind::Photo, &name, bytes)
}

/// The inputs that fal accepted for one job of [`job`].
fn inputs_of(world: &World, id: &str) -> Vec<String> {
    let submits = world.sandbox.fal.submits_for(&format!("prompt of {id}."));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    submits.iter().map(|submit| text(&submit.input)).collect()
}

/// Where the file of a user lies in fal's storage.
fn url_of(world: &World, file_id: &str) -> String {
    let content = world.sandbox.telegram.fingerprint_of_file(file_id);
    let uploads = world.sandbox.fal.uploads();
    let upload = uploads.iter().find(|upload| upload.content == content);
    upload.expect("it was uploaded").url.clone()
}

fn in_seconds(seconds: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs() + seconds
}

#[test]
fn one_file_becomes_a_url_in_an_input_that_is_otherwise_the_same_byte_for_byte() {
    let (mut world, _daemon) = World::running();
    let id = photo(&world, 1);
    world.push(format!(
        r#"{{"id":"a","model":"fal-ai/flux/dev","input": {{ "prompt":"prompt of a.","seed":18446744073709551615, "x":1.50e+3,"image_url" : null }},"input_files":{{"image_url":"{id}"}},"telegram":{{"chat_id":{CHAT}}}}}"#
    ));
    let record = world.wait_state("a", "done");
    let url = url_of(&world, &id);
    assert_eq!(
        inputs_of(&world, "a"),
        [format!(
            r#"{{ "prompt":"prompt of a.","seed":18446744073709551615, "x":1.50e+3,"image_url" : "{url}" }}"#
        )]
    );
    let upload = &world.sandbox.fal.uploads()[0];
    // What it is, not what Telegram calls it.
    assert_eq!(upload.content_type, "image/png");
    assert_eq!((upload.file_name.as_str(), upload.puts), ("input-1.png", 1));
    assert_eq!(record["attempt"], "1");
    assert!(!record.contains_key("inputs"), "{record:?}");
    assert_eq!(world.sandbox.telegram.messages(CHAT).len(), 1);
    world.assert_clean();
}

#[test]
fn lists_and_several_members_are_filled_in_their_order() {
    let (mut world, _daemon) = World::running();
    let ids: Vec<String> = (0..9).map(|seed| photo(&world, seed)).collect();
    let (list, mask) = (&ids[..8], &ids[8]);
    let members = json!({"image_urls": list, "mask_url": mask, "again": [list[0]]});
    world.push(job("a").with("input_files", members).json());
    world.wait_state("a", "done");
    let input: Value = serde_json::from_str(&inputs_of(&world, "a")[0]).unwrap();
    let urls: Vec<String> = list.iter().map(|id| url_of(&world, id)).collect();
    assert_eq!(input["image_urls"], json!(urls));
    assert_eq!(input["mask_url"], json!(url_of(&world, mask)));
    assert_eq!(input["again"], json!([urls[0]]));
    assert_eq!(input["prompt"], "prompt of a.");
    assert_eq!(world.sandbox.fal.uploads().len(), 9, "one is used twice");
    world.assert_clean();
}

#[test]
fn a_direct_call_gets_the_urls_too() {
    let (mut world, _daemon) = World::running();
    let id = photo(&world, 1);
    let members = json!({"image_url": id});
    world.push(
        job("a")
            .with("via", "direct")
            .with("input_files", members)
            .chat(CHAT)
            .json(),
    );
    world.wait_state("a", "done");
    let submits = world.sandbox.fal.submits();
    assert_eq!((submits.len(), submits[0].direct), (1, true));
    let input: Value = serde_json::from_slice(&submits[0].input).unwrap();
    assert_eq!(input["image_url"], json!(url_of(&world, &id)));
    world.assert_clean();
}

#[test]
fn a_file_that_is_used_again_is_not_uploaded_again() {
    let (mut world, _daemon) = World::running();
    let id = photo(&world, 1);
    let entry = |name: &str| {
        job(name)
            .with("input_files", json!({"image_url": id}))
            .json()
    };
    // Four variations of one picture at once, and one more later.
    let names: Vec<String> = (0..4).map(|n| format!("v{n}")).collect();
    let entries: Vec<String> = names.iter().map(|name| entry(name)).collect();
    world.push_all(&entries);
    let ended = world.wait_ended(&names, SOON);
    assert_eq!(ended, ["done"; 4]);
    world.push(entry("later"));
    world.wait_state("later", "done");
    assert_eq!(world.sandbox.fal.uploads().len(), 1);
    for name in names.iter().map(String::as_str).chain(["later"]) {
        assert!(inputs_of(&world, name)[0].contains(&url_of(&world, &id)));
    }
    let key = format!("fal:upload:7000000001:{id}");
    let left: i64 = world.redis(&["TTL", &key]);
    assert!((80_000..=86_400).contains(&left), "{left}");
    world.assert_clean();
}

/// What is paid goes first, whatever stood in line before it: also between two files of one job.
#[test]
fn a_result_that_must_be_uploaded_does_not_wait_for_inputs() {
    let mut world = World::new();
    // One of the two threads moves files.
    let few = ["--threads", "4", "--transfer-threads", "2"];
    let _daemon = world.daemon(&[&few[..], &["--delivery", "upload"]].concat());
    let (put, sent) = (
        world.sandbox.fal.hold("fal.put"),
        world.sandbox.telegram.hold("tg.sendphoto"),
    );
    let mut names: Vec<String> = (0..4).map(|n| format!("input{n}")).collect();
    for (number, name) in names.iter().enumerate() {
        let seeds = 8 * number as u64..8 * (number as u64 + 1);
        let files: Vec<String> = seeds.map(|seed| photo(&world, seed)).collect();
        let entry = job(name).with("priority", "low");
        world.push(entry.with("input_files", json!({"urls": files})).json());
    }
    assert!(put.wait_arrived(1, SOON));
    world.push(job("paid").with("priority", "high").chat(CHAT).json());
    world.wait_field("paid", "phase", "delivering");
    // It is recorded a moment before it stands in line: time for that, and yet no whole job comes first.
    let slow = Rule::always("fal.put", Fault::DelayMs(400));
    world.sandbox.faults.add(slow);
    put.release();
    assert!(sent.wait_arrived(1, SOON));
    let uploads = world.sandbox.fal.uploads();
    let there = uploads.iter().filter(|upload| upload.content.is_some());
    let there = there.count();
    assert!((1..8).contains(&there), "{there} of 32 files came first");
    sent.release();
    world.sandbox.faults.clear();
    names.push("paid".to_owned());
    assert_eq!(world.wait_ended(&names, SOON), ["done"; 5]);
    assert_eq!(world.sandbox.fal.uploads().len(), 32);
    world.assert_clean();
}

/// Pushes a job with one file, waits until `held` was asked for, and kills the daemon there.
fn killed_at(world: &mut World, arguments: &[&str], held: &str) -> String {
    let mut daemon = world.daemon(arguments);
    let id = photo(world, 1);
    let hold = world.sandbox.fal.hold(held);
    world.push(
        job("a")
            .with("input_files", json!({"image_url": id}))
            .json(),
    );
    assert!(hold.wait_arrived(1, SOON));
    daemon.kill();
    hold.release();
    id
}

#[test]
fn a_worker_that_dies_in_the_submit_leaves_the_urls_to_its_successor() {
    let mut world = World::new();
    let id = killed_at(&mut world, &["--threads", "4"], "fal.submit");
    assert!(world.record("a")["inputs"].contains(&url_of(&world, &id)));
    // Where a user's picture lies is shown like the input: when asked for.
    let shown = |args: &[&str]| {
        let output = world
            .cli(&[&["show", "a"], args].concat())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let url = url_of(&world, &id);
    assert!(!shown(&[]).contains(&url) && !shown(&["--json"]).contains(&url));
    assert!(shown(&["--spec"]).contains(&url));
    // The record alone is enough.
    let _: u64 = world.redis(&["DEL", &format!("fal:upload:7000000001:{id}")]);
    let _next = world.daemon(&["--threads", "4"]);
    let record = world.wait_state("a", "done");
    assert_eq!(world.sandbox.fal.uploads().len(), 1);
    assert_eq!(record["attempt"], "2", "that submit was acting");
    let inputs = inputs_of(&world, "a");
    assert_eq!((inputs.len(), &inputs[0]), (2, &inputs[1]));
    world.assert_clean_after_kills();
}

#[test]
fn a_worker_that_dies_during_an_upload_has_paid_nothing() {
    for step_file in [true, false] {
        let mut world = World::new();
        let off: &[&str] = &["--threads", "4", "--state-dir", "off"];
        let arguments = if step_file { &off[..2] } else { off };
        let id = killed_at(&mut world, arguments, "fal.put");
        assert_eq!(world.record("a")["inputs"], "uploading");
        let _next = world.daemon(arguments);
        let record = world.wait_state("a", "done");
        assert_eq!(record["attempt"], "1", "step file: {step_file}");
        assert_eq!(world.counted("resubmitted_after_unknown"), 0);
        assert_eq!(submits_of(&world, "a"), 1);
        assert!(inputs_of(&world, "a")[0].contains("/uploads/"), "{id}");
        world.assert_clean_after_kills();
    }
}

#[test]
fn a_stop_does_not_wait_for_an_upload_and_its_successor_goes_on() {
    let mut world = World::new();
    let mut daemon = world.daemon(&["--threads", "4", "--shutdown-timeout", "20s"]);
    let id = photo(&world, 1);
    let hold = world.sandbox.fal.hold("fal.put");
    world.push(
        job("a")
            .with("input_files", json!({"image_url": id}))
            .json(),
    );
    assert!(hold.wait_arrived(1, SOON));
    let began = std::time::Instant::now();
    assert_eq!(daemon.stop(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(15));
    hold.release();
    assert_eq!(world.state("a"), "queued");
    let _next = world.daemon(&["--threads", "4"]);
    let record = world.wait_state("a", "done");
    assert_eq!(
        (record["attempt"].as_str(), submits_of(&world, "a")),
        ("1", 1)
    );
    assert!(!record.contains_key("crashes"));
    world.assert_clean();
}

fn answer(status: u16) -> Fault {
    Fault::json(status, &json!({"detail": "no"}))
}

/// Pushes a job that must fail, and looks at what is left of it: kind and error, and nothing paid.
fn fails(world: &mut World, name: &str, chat: i64, members: Value, kind: &str, error: &str) {
    let entry = job(name).chat(chat).with("input_files", members);
    world.push(entry.json());
    let record = world.wait_state(name, "dead");
    assert_eq!(record["kind"], kind, "{name}: {record:?}");
    assert_eq!(record["error"], error, "{name}");
    assert_eq!(record["charged"], "no", "{name}");
    assert_eq!(record["told"], "yes", "{name}");
    assert_eq!(submits_of(world, name), 0, "{name}");
    let events = world.events_of(name);
    let last = events.last().unwrap();
    let shown = (
        last["event"].as_str(),
        last["charged"].as_str(),
        last["attempt"].as_str(),
    );
    assert_eq!(shown, ("failed", "no", "0"), "{name}");
    assert_eq!(world.sandbox.telegram.messages(chat).len(), 1, "{name}");
}

#[test]
fn a_file_that_cannot_be_had_fails_its_job_unpaid_and_says_why() {
    let (mut world, _daemon) = World::running();
    let telegram = &world.sandbox.telegram;
    let good = photo(&world, 1);
    let big = telegram.user_big_file(Kind::Document, "file_2.png", Vec::new(), (20 << 20) + 1);
    let lost = photo(&world, 3);
    telegram.lose_user_file(&lost);
    let misplaced = photo(&world, 4);
    telegram.misplace_user_file(&misplaced, "photos/nowhere.jpg");
    let climbing = photo(&world, 5);
    telegram.misplace_user_file(&climbing, "/etc/passwd");
    let empty = telegram.user_file(Kind::Document, "file_6.png", Vec::new());
    let of = |id: &str| json!({"image_url": id});
    let gone = "input_files.image_url: Telegram no longer has this file, or it is not this bot's";
    let rows = [
        (
            "big",
            of(&big),
            "file_too_big",
            "input_files.image_url: the file is over 20 MB",
        ),
        (
            "wrong",
            json!({"image_urls": [good, "AgACAgIAAx0CAAB"]}),
            "invalid_input",
            "input_files.image_urls[1]: Telegram does not know this file id",
        ),
        ("lost", of(&lost), "invalid_input", gone),
        ("misplaced", of(&misplaced), "invalid_input", gone),
        (
            "climbing",
            of(&climbing),
            "telegram",
            "input_files.image_url: the Bot API server names a file that is not in this bot's folder",
        ),
        (
            "empty",
            of(&empty),
            "invalid_input",
            "input_files.image_url: the file is empty",
        ),
    ];
    for (number, (name, members, kind, error)) in rows.into_iter().enumerate() {
        fails(&mut world, name, 100 + number as i64, members, kind, error);
    }
    let uploads = world.sandbox.fal.uploads();
    assert_eq!(uploads.len(), 1, "only the good one of a list: {uploads:?}");
    world.assert_clean();
}

#[test]
fn a_file_that_the_storage_refuses_fails_its_job_unpaid() {
    let (mut world, _daemon) = World::running();
    for (number, (endpoint, status, kind, error)) in [
        (
            "fal.initiate",
            422,
            "invalid_input",
            "fal's storage answered 422",
        ),
        (
            "fal.initiate",
            413,
            "file_too_big",
            "fal's storage answered 413",
        ),
        ("fal.put", 413, "file_too_big", "fal's storage answered 413"),
        // The free probe says that the key is good: it may not do just this.
        ("fal.initiate", 403, "auth", "fal's storage answered 403"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = photo(&world, number as u64);
        let rule = world
            .sandbox
            .faults
            .add(Rule::first(1, endpoint, answer(status)));
        let error = format!("input_files.image_url: {error}");
        let (name, chat) = (format!("job{number}"), 100 + number as i64);
        fails(
            &mut world,
            &name,
            chat,
            json!({"image_url": id}),
            kind,
            &error,
        );
        assert_eq!(world.sandbox.faults.fired(rule), 1);
    }
    world.assert_clean();
}

#[test]
fn without_a_bot_token_a_job_with_files_fails_unpaid() {
    let mut world = World::new();
    let _daemon = world.spawn(&["--threads", "4"], &[("TELEGRAM_BOT_TOKEN", "")]);
    world.push(
        job("a")
            .with("input_files", json!({"image_url": "AgAC"}))
            .json(),
    );
    let record = world.wait_state("a", "dead");
    assert_eq!(
        (record["kind"].as_str(), record["charged"].as_str()),
        ("telegram", "no")
    );
    assert_eq!(world.sandbox.fal.submits().len(), 0);
    world.assert_clean();
}

#[test]
fn a_service_that_is_away_for_a_while_delays_the_job_and_costs_no_attempt() {
    let page = || Fault::Html502;
    // Something in front of a service speaks in its place.
    let page_with = |status| Fault::Answer {
        status,
        content_type: "text/html".into(),
        headers: Vec::new(),
        body: b"<!DOCTYPE html><html></html>".to_vec(),
    };
    for (endpoint, fault) in [
        ("fal.initiate", page()),
        ("fal.put", Fault::ResetBeforeRead),
        ("fal.put", answer(403)),
        ("fal.initiate", Fault::Empty200),
        ("fal.initiate", answer(404)),
        ("fal.initiate", page_with(403)),
        ("tg.getfile", page()),
        ("tg.getfile", Fault::telegram_429(1)),
        ("tg.file", Fault::Truncated),
        ("tg.file", page()),
        ("tg.file", page_with(200)),
        ("tg.file", page_with(403)),
    ] {
        let (mut world, _daemon) = World::running();
        let id = photo(&world, 1);
        let rule = world
            .sandbox
            .faults
            .add(Rule::first(2, endpoint, fault.clone()));
        world.push(
            job("a")
                .chat(CHAT)
                .with("input_files", json!({"image_url": id}))
                .json(),
        );
        let record = world.wait_state("a", "done");
        assert_eq!(world.sandbox.faults.fired(rule), 2, "{endpoint} {fault:?}");
        assert_eq!(record["attempt"], "1", "{endpoint} {fault:?}");
        assert_eq!(submits_of(&world, "a"), 1, "{endpoint} {fault:?}");
        assert!(inputs_of(&world, "a")[0].contains(&url_of(&world, &id)));
        world.assert_clean();
    }
}

/// A job of each name, with a photo of its own.
fn push_with_files(world: &mut World, names: &[String]) {
    for (seed, name) in names.iter().enumerate() {
        let files = json!({"image_url": photo(world, seed as u64)});
        world.push(job(name).with("input_files", files).json());
    }
}

#[test]
fn a_storage_that_is_away_is_told_once_and_delays_nothing_else() {
    let (mut world, daemon) = World::running();
    let rule = world
        .sandbox
        .faults
        .add(Rule::always("fal.initiate", Fault::Html502));
    let names: Vec<String> = (0..8).map(|n| format!("with{n}")).collect();
    push_with_files(&mut world, &names);
    daemon.wait_log("fal storage");
    for n in 0..10 {
        world.push(job(&format!("without{n}")).json());
    }
    for n in 0..10 {
        world.wait_state(&format!("without{n}"), "done");
    }
    // At its time each is queued for a moment.
    let waits = |state: &str| matches!(state, "running" | "later" | "queued");
    assert!(names.iter().all(|name| waits(&world.state(name))));
    let asked = world.sandbox.faults.fired(rule);
    assert!((5..40).contains(&asked), "{asked} times");
    world.sandbox.faults.clear();
    assert_eq!(world.wait_ended(&names, SOON), ["done"; 8]);
    assert_eq!(daemon.logged("fal storage"), 2, "away, and back");
    world.assert_clean();
}

#[test]
fn jobs_whose_files_wait_leave_the_window_to_those_that_fal_can_have() {
    let mut world = World::new();
    let rule = world
        .sandbox
        .faults
        .add(Rule::always("fal.initiate", Fault::Html502));
    let _daemon = world.daemon(&["--threads", "4", "--fal-concurrency", "2"]);
    let names: Vec<String> = (0..4).map(|n| format!("with{n}")).collect();
    push_with_files(&mut world, &names);
    eventually(SOON, || world.sandbox.faults.fired(rule), |n| *n >= 4);
    world.push_all(
        &(0..6)
            .map(|n| job(&format!("p{n}")).json())
            .collect::<Vec<_>>(),
    );
    let others: Vec<String> = (0..6).map(|n| format!("p{n}")).collect();
    assert_eq!(world.wait_ended(&others, SOON), ["done"; 6]);
    // One is cancelled where it waits; however often it tried, the stream was told once.
    let tries = |world: &mut World| -> Vec<u32> {
        let tries = names.iter().map(|name| world.record(name).remove("tries"));
        tries.map(|n| n.map_or(0, |n| n.parse().unwrap())).collect()
    };
    eventually(
        SOON,
        || tries(&mut world),
        |all| all.iter().all(|n| *n >= 2),
    );
    world.cli(&["cancel", "with0"]).output().unwrap();
    assert_eq!(world.wait_ended(&names[..1], SOON), ["cancelled"]);
    for name in &names {
        let events = world.events_of(name);
        let told = events.iter().filter(|event| event["event"] == "retrying");
        assert_eq!(told.count(), 1, "{name}");
    }
    world.sandbox.faults.clear();
    assert_eq!(world.wait_ended(&names[1..], SOON), ["done"; 3]);
    for name in &names[1..] {
        assert_eq!(world.record(name)["attempt"], "1");
        assert_eq!(submits_of(&world, name), 1);
    }
    assert_eq!(submits_of(&world, "with0"), 0);
    world.assert_clean();
}

/// A file is not fetched before there is a place for it: hundreds that are would keep the transfers, and the places of
/// their jobs, for nothing.
#[test]
fn while_the_storage_is_away_only_a_probe_fetches_a_file() {
    let mut world = World::new();
    world
        .sandbox
        .faults
        .add(Rule::always("fal.initiate", Fault::Html502));
    let slow = Fault::DelayMs(500);
    let fetched = world.sandbox.faults.add(Rule::always("tg.file", slow));
    let daemon = world.daemon(&["--threads", "4", "--fal-concurrency", "2"]);
    let names: Vec<String> = (0..40).map(|n| format!("with{n}")).collect();
    push_with_files(&mut world, &names);
    daemon.wait_log("fal storage lost");
    let before = world.sandbox.faults.fired(fetched);
    let others: Vec<String> = (0..6).map(|n| format!("p{n}")).collect();
    world.push_all(&(others.iter()).map(|id| job(id).json()).collect::<Vec<_>>());
    assert_eq!(world.wait_ended(&others, SOON), ["done"; 6]);
    let tried = |world: &mut World| {
        let tries = names.iter().map(|name| world.record(name).remove("tries"));
        tries.flatten().count()
    };
    eventually(SOON, || tried(&mut world), |n| *n == 40);
    let probes = world.sandbox.faults.fired(fetched) - before;
    assert!(probes < 20, "{probes} files fetched for nothing");
    world.sandbox.faults.clear();
    assert_eq!(world.wait_ended(&names, SOON), vec!["done"; 40]);
    world.assert_clean();
}

#[test]
fn a_job_whose_files_wait_for_too_long_expires_unpaid() {
    let (mut world, _daemon) = World::running();
    world
        .sandbox
        .faults
        .add(Rule::always("fal.initiate", Fault::Html502));
    let id = photo(&world, 1);
    world.push(
        job("a")
            .chat(CHAT)
            .with("expires_at", in_seconds(3))
            .with("input_files", json!({"image_url": id}))
            .json(),
    );
    let record = world.wait_state("a", "dead");
    assert_eq!(
        (record["kind"].as_str(), record["charged"].as_str()),
        ("expired", "no")
    );
    assert_eq!(record["told"], "yes");
    assert_eq!(world.sandbox.fal.submits().len(), 0);
    world.assert_clean();
}

#[test]
fn neither_the_token_nor_the_key_goes_where_it_does_not_belong() {
    let (mut world, daemon) = World::running();
    let (fal, telegram) = (&world.sandbox.fal, &world.sandbox.telegram);
    let (token, key) = (telegram.token(), fal.key());
    let half = |secret: &str| secret.split_once(':').unwrap().1.to_owned();
    fal.watch_for_secret(&half(&token));
    telegram.watch_for_secret(&half(&key));
    // Everything that a client that trusts too much would carry a secret to.
    let elsewhere = format!("http://{}/files/stolen/x.png", fal.file_host());
    let redirect = || Fault::Answer {
        status: 302,
        content_type: "text/plain".into(),
        headers: vec![("Location".into(), elsewhere.clone())],
        body: b"elsewhere".to_vec(),
    };
    let echo = json!({"ok": false, "error_code": 500, "description": format!("of {token}")});
    let own = json!({"detail": key.clone()});
    let faults = [
        ("tg.getfile", Fault::json(500, &echo)),
        ("tg.file", redirect()),
        ("tg.file", Fault::Html502),
        ("fal.initiate", Fault::json(500, &own)),
        ("fal.initiate", redirect()),
        ("fal.put", redirect()),
        ("fal.put", Fault::Html504),
    ];
    let mut records = Vec::new();
    for (number, (endpoint, fault)) in faults.into_iter().enumerate() {
        let rule = world.sandbox.faults.add(Rule::first(1, endpoint, fault));
        let (id, name) = (photo(&world, number as u64), format!("job{number}"));
        let entry = job(&name)
            .chat(CHAT)
            .with("input_files", json!({"image_urls": [id]}));
        world.push(entry.json());
        records.push(world.wait_state(&name, "done"));
        assert_eq!(world.sandbox.faults.fired(rule), 1, "{endpoint}");
    }
    let fal = &world.sandbox.fal;
    for upload in fal.uploads() {
        let shown = format!("{} {}", upload.file_name, upload.url);
        let strange = shown.contains(&half(&token)) || shown.contains("file_");
        assert!(!strange, "{shown}");
    }
    for submit in fal.submits() {
        let shown = format!("{:?} {:?}", submit.headers, submit.query);
        let input = String::from_utf8(submit.input.to_vec()).unwrap();
        assert!(!shown.contains(&half(&token)) && !input.contains(&half(&token)));
    }
    for secret in [half(&token), half(&key)] {
        let everything = format!("{records:?}{:?}{}", world.events(), daemon.log_text());
        assert!(!everything.contains(&secret));
    }
    assert!(world.sandbox.fal.key_leaks().is_empty());
    world.assert_clean();
}

#[test]
fn a_local_server_gives_its_files_by_path() {
    let mut world = World::new();
    let folder = world.folder.path().join("bot-api");
    world.sandbox.telegram.serve_locally(&folder);
    let _daemon = world.daemon(&["--threads", "4"]);
    let id = photo(&world, 1);
    let gone = photo(&world, 2);
    std::fs::remove_file(
        folder
            .join(world.sandbox.telegram.token())
            .join("photos/file_2.jpg"),
    )
    .unwrap();
    world.push(
        job("a")
            .with("input_files", json!({"image_url": id}))
            .json(),
    );
    world.wait_state("a", "done");
    assert!(inputs_of(&world, "a")[0].contains(&url_of(&world, &id)));
    fails(
        &mut world,
        "gone",
        CHAT,
        json!({"image_url": gone}),
        "invalid_input",
        "input_files.image_url: Telegram no longer has this file, or it is not this bot's",
    );
    world.assert_clean();
}

#[test]
fn four_files_of_twenty_megabytes_at_once_take_little_memory() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "4", "--transfer-threads", "8"]);
    world
        .sandbox
        .fal
        .model("test/none", Script::new(Outcome::Text("seen".into())));
    let hold = world.sandbox.fal.hold("fal.put");
    let names: Vec<String> = (0..4).map(|n| format!("big{n}")).collect();
    for (seed, name) in names.iter().enumerate() {
        let (file, head) = (
            format!("file_{seed}.png"),
            media::png(4, 4, Some(seed as u64)),
        );
        let telegram = &world.sandbox.telegram;
        let id = telegram.user_big_file(Kind::Document, &file, head, 20 << 20);
        let entry = job(name).model("test/none");
        world.push(entry.with("input_files", json!({"image_url": id})).json());
    }
    assert!(hold.wait_arrived(4, SOON), "all four at once");
    hold.release();
    assert_eq!(world.wait_ended(&names, SOON), ["done"; 4]);
    for upload in world.sandbox.fal.uploads() {
        assert_eq!(upload.content.map(|content| content.len), Some(20 << 20));
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most = most.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let most = most.expect("VmHWM") / 1024;
    eprintln!("most memory: {most} MiB");
    assert!(most < 64, "{most} MiB");
    world.assert_clean();
}

#[test]
fn a_redis_that_is_away_while_files_move_delays_the_submit() {
    let (mut world, _daemon) = World::running();
    let id = photo(&world, 1);
    let hold = world.sandbox.fal.hold("fal.put");
    world.push(
        job("a")
            .with("input_files", json!({"image_url": id}))
            .json(),
    );
    assert!(hold.wait_arrived(1, SOON));
    world.kill_redis();
    hold.release();
    eventually(
        SOON,
        || world.sandbox.fal.uploads(),
        |uploads| uploads[0].content.is_some(),
    );
    assert_eq!(
        world.sandbox.fal.submits().len(),
        0,
        "the record comes first"
    );
    world.sandbox.redis.restart().unwrap();
    let record = world.wait_state("a", "done");
    assert_eq!(
        (record["attempt"].as_str(), submits_of(&world, "a")),
        ("1", 1)
    );
    world.assert_clean();
}

#[test]
fn a_file_that_fal_could_not_fetch_is_brought_anew_by_the_next_job() {
    let (mut world, _daemon) = World::running();
    let id = photo(&world, 1);
    let detail = json!([{"loc": ["body", "image_url"], "msg": "Failed to download", "type": "file_download_error"}]);
    let broken = Script::new(Outcome::error(422, json!({ "detail": detail })));
    world.sandbox.fal.model("fal-ai/broken", broken);
    let push = |world: &mut World, name: &str, model: &str| {
        let entry = job(name).with("model", model);
        world.push(entry.with("input_files", json!({"image_url": id})).json());
    };
    push(&mut world, "a", "fal-ai/broken");
    let record = world.wait_state("a", "dead");
    assert_eq!(record["kind"], "invalid_input");
    push(&mut world, "b", "fal-ai/flux/dev");
    world.wait_state("b", "done");
    let uploads = world.sandbox.fal.uploads();
    assert_eq!(uploads.len(), 2, "the first URL may lead nowhere");
    assert!(inputs_of(&world, "b")[0].contains(&uploads[1].url));
    // What was fetched well is used again.
    push(&mut world, "c", "fal-ai/flux/dev");
    world.wait_state("c", "done");
    assert_eq!(world.sandbox.fal.uploads().len(), 2);
    world.assert_clean();
}
