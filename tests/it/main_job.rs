//! The way of a job that meets no trouble, and the rules of the queue: what is pushed is paid for once,
//! delivered once and told once, in the order that the contract promises.

use crate::hostile::GOOD_INPUTS;
use crate::support::{Daemon, Job, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::telegram::Kind;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

type Event = BTreeMap<String, String>;

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str()).collect()
}

fn list(json: &str) -> Vec<Value> {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// One of the two hundred: how it was made, and what its user must see.
struct Mixed {
    id: String,
    entry: String,
    chat: Option<i64>,
    outputs: usize,
    is_file: bool,
    is_direct: bool,
    status: Option<i64>,
}

fn mixed(world: &World, number: usize) -> Mixed {
    const MODELS: [(&str, usize, bool); 5] = [
        ("fal-ai/flux/dev", 1, true),
        ("fal-ai/flux/schnell", 4, true),
        ("fal-ai/kling-video/v2/master/text-to-video", 1, true),
        ("fal-ai/f5-tts", 1, true),
        ("fal-ai/any-llm", 1, false),
    ];
    let id = format!("mixed-{number}");
    let (model, outputs, is_file) = MODELS[number % MODELS.len()];
    let mut job = job(&id)
        .model(model)
        .with("priority", ["high", "default", "low"][number % 3])
        .with("meta", json!({"number": number}));
    let is_direct = number.is_multiple_of(7);
    if is_direct {
        job = job.with("via", "direct");
    }
    if number.is_multiple_of(2) {
        job = job.with("user_id", number as u64 % 9);
    }
    let chat = (number % 4 != 3).then(|| 5000 + number as i64);
    let mut status = None;
    if let Some(chat) = chat {
        job = job.chat(chat).telegram("caption", "<b>Here</b>");
        job = job.telegram("parse_mode", "HTML");
        if number % 4 == 2 {
            let id = world
                .sandbox
                .telegram
                .plant_message(chat, Kind::Text, false);
            job = job.telegram("status_message_id", id);
            status = Some(id);
        }
    }
    Mixed {
        id,
        entry: job.json(),
        chat,
        outputs,
        is_file,
        is_direct,
        status,
    }
}

#[test]
fn two_hundred_mixed_jobs_are_each_paid_delivered_and_told_once() {
    let (mut world, _daemon) = World::running();
    let jobs: Vec<Mixed> = (0..200).map(|number| mixed(&world, number)).collect();
    let entries: Vec<&str> = jobs.iter().map(|job| job.entry.as_str()).collect();
    world.push_all(&entries);
    let ids: Vec<String> = jobs.iter().map(|job| job.id.clone()).collect();
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");

    let mut events: BTreeMap<String, Vec<Event>> = BTreeMap::new();
    for event in world.events() {
        for (name, value) in &event {
            assert!(!value.contains("prompt of"), "{name} tells the input");
        }
        events.entry(event["job"].clone()).or_default().push(event);
    }
    for job in &jobs {
        let record = world.record(&job.id);
        agrees(&world, job, &record, &events[&job.id]);
        assert_eq!(submits_of(&world, &job.id), 1, "{}", job.id);
    }
    assert_eq!(world.sandbox.telegram.duplicates(), []);
    let specs: Vec<String> = world.redis(&["KEYS", "fal:spec:*"]);
    assert!(specs.is_empty(), "inputs of done jobs stay: {specs:?}");
    world.assert_clean();
}

/// Whether chat, record, events and fal's ledger tell the same of one job.
fn agrees(world: &World, job: &Mixed, record: &Event, events: &[Event]) {
    let id = &job.id;
    let mut order = vec!["queued", "started", "submitted", "completed"];
    if job.chat.is_some() {
        order.push("delivered");
    }
    order.push("done");
    if job.is_direct {
        // One call is submit and result.
        order.retain(|name| *name != "submitted");
    }
    assert_eq!(names(events), order, "{id}");
    let number: usize = id["mixed-".len()..].parse().unwrap();
    for event in events {
        assert_eq!(event["meta"], json!({"number": number}).to_string(), "{id}");
        assert_eq!(event["model"], record["model"], "{id}");
        assert_eq!(event.get("user"), record.get("user"), "{id}");
        assert!(event["at"].parse::<u64>().is_ok(), "{id}");
        let paid = !matches!(event["event"].as_str(), "queued" | "started");
        assert_eq!(event["attempt"], if paid { "1" } else { "0" }, "{event:?}");
    }
    let (completed, done) = (
        &events[order.len() - 2 - usize::from(job.chat.is_some())],
        { events.last().unwrap() },
    );
    assert_eq!(completed["event"], "completed");
    for event in [completed, done] {
        assert_eq!(event["charged"], "yes", "{id}");
        assert_eq!(event["units"], "1", "{id}");
        assert_eq!(event["request_id"], record["request_id"], "{id}");
        assert!(event["ms"].parse::<u64>().is_ok(), "{event:?}");
    }
    let times = |name: &str| record[name].parse::<i64>().unwrap();
    assert_eq!(
        done["ms"].parse::<i64>().unwrap(),
        times("ended_at") - times("queued_at"),
        "{id}"
    );
    assert!(times("queued_at") <= times("started_at"), "{id}");
    assert!(times("submitted_at") <= times("completed_at"), "{id}");
    assert!(times("started_at") <= times("completed_at"), "{id}");
    assert!(times("completed_at") <= times("ended_at"), "{id}");
    assert_eq!(record["charged"], "yes", "{id}");
    assert_eq!(record["units"], "1", "{id}");
    let ledger = world.sandbox.fal.request(&record["request_id"]);
    assert!(ledger.is_some_and(|entry| entry.direct == job.is_direct));
    if job.is_file {
        let files = list(&done["files"]);
        assert_eq!(files.len(), job.outputs, "{id}");
        let ours = |file: &Value| file.as_str().unwrap().contains(&record["request_id"]);
        assert!(files.iter().all(ours), "{id}: {files:?}");
    }

    let Some(chat) = job.chat else {
        assert!(!record.contains_key("message_ids"), "{id}");
        return;
    };
    let delivered = &events[order.len() - 2];
    let messages = world.sandbox.telegram.messages(chat);
    assert_eq!(messages.len(), job.outputs, "{id}: {messages:#?}");
    let ids: Vec<Value> = messages.iter().map(|message| json!(message.id)).collect();
    let files: Vec<&str> = messages
        .iter()
        .filter_map(|message| Some(message.file.as_ref()?.file_id.as_str()))
        .collect();
    assert_eq!(
        files.len(),
        if job.is_file { job.outputs } else { 0 },
        "{id}"
    );
    for place in [delivered, done, record] {
        assert_eq!(list(&place["message_ids"]), ids, "{id}: {place:?}");
        assert_eq!(list(&place["file_ids"]), files, "{id}: {place:?}");
    }
    if let (Some(status), 1) = (job.status, job.outputs) {
        assert_eq!(
            messages[0].id, status,
            "{id}: the status message is the result"
        );
    }
    if job.is_file {
        for message in &messages {
            assert!(
                message.via_url().unwrap().contains(&record["request_id"]),
                "{id}"
            );
        }
        assert_eq!(messages.last().unwrap().text, "Here", "{id}");
    }
}

#[test]
fn a_second_job_of_a_running_id_is_a_duplicate_and_pays_nothing() {
    let (mut world, _daemon) = World::running();
    let held = world.sandbox.fal.hold("fal.submit");
    let entry = job("once").with("meta", "mine").json();
    world.push(&entry);
    assert!(held.wait_arrived(1, SOON));
    world.push_all(&[&entry, &entry]);
    let duplicates = eventually(
        SOON,
        || world.events_of("once"),
        |events| names(events).iter().filter(|n| **n == "duplicate").count() == 2,
    );
    for event in duplicates
        .iter()
        .filter(|event| event["event"] == "duplicate")
    {
        assert_eq!(event["state"], "running");
        assert_eq!(event["meta"], "\"mine\"");
    }
    held.release();
    world.wait_state("once", "done");
    assert_eq!(submits_of(&world, "once"), 1);
    world.assert_clean();
}

#[test]
fn a_second_job_of_a_done_id_is_a_duplicate_and_pays_nothing() {
    let (mut world, _daemon) = World::running();
    world.push(job("once").json());
    world.wait_state("once", "done");
    world.push(job("once").chat(7).json());
    eventually(
        SOON,
        || world.events_of("once"),
        |events| {
            events
                .last()
                .is_some_and(|event| event["event"] == "duplicate" && event["state"] == "done")
        },
    );
    world.push(job("after").json());
    world.wait_state("after", "done");
    assert_eq!(submits_of(&world, "once"), 1);
    assert_eq!(world.sandbox.telegram.messages(7), []);
    world.assert_clean();
}

#[test]
fn the_first_of_two_jobs_of_one_id_in_one_batch_wins() {
    let mut world = World::new();
    world.push_all(&[
        job("twin").chat(1).json(),
        job("twin").chat(2).json(),
        job("other").json(),
    ]);
    let _daemon = world.daemon(&["--threads", "4"]);
    world.wait_state("twin", "done");
    world.wait_state("other", "done");
    assert_eq!(world.sandbox.telegram.messages(1).len(), 1);
    assert_eq!(world.sandbox.telegram.messages(2).len(), 0);
    assert_eq!(submits_of(&world, "twin"), 1);
    world.assert_clean();
}

#[test]
fn a_valid_job_takes_the_place_of_an_invalid_one_of_its_id() {
    let (mut world, _daemon) = World::running();
    world.push(r#"{"id":"fixed","model":"fal-ai/flux/dev"}"#);
    let dead = world.wait_state("fixed", "dead");
    assert_eq!(dead["kind"], "invalid_job");
    world.push(job("fixed").json());
    let record = world.wait_state("fixed", "done");
    for gone in ["kind", "error", "raw"] {
        assert!(!record.contains_key(gone), "{gone}: {record:?}");
    }
    assert_eq!(world.redis::<u64>(&["ZCARD", "fal:dead"]), 0);
    let events = world.events_of("fixed");
    assert_eq!(
        names(&events),
        [
            "failed",
            "queued",
            "started",
            "submitted",
            "completed",
            "done"
        ]
    );
    assert_eq!(submits_of(&world, "fixed"), 1);
    world.assert_no_violations();
}

#[test]
fn a_valid_job_takes_the_place_of_an_invalid_one_whose_user_is_still_being_told() {
    let (mut world, _daemon) = World::running();
    let held = world.sandbox.telegram.hold("tg.sendmessage");
    world.push(r#"{"id":"fixed","model":"fal-ai/flux/dev","telegram":{"chat_id":7}}"#);
    assert!(held.wait_arrived(1, SOON));
    world.push(job("fixed").chat(7).json());
    world.push(job("behind").json());
    world.wait_state("behind", "done"); // intake has seen the valid one by now
    held.release();
    world.wait_state("fixed", "done");
    assert_eq!(submits_of(&world, "fixed"), 1);
}

#[test]
fn an_invalid_job_of_a_known_id_is_a_duplicate_and_changes_nothing() {
    let (mut world, _daemon) = World::running();
    world.push(job("known").json());
    let before = world.wait_state("known", "done");
    world.push(r#"{"id":"known","model":"fal-ai/flux/dev","telegram":{"chat_id":7}}"#);
    eventually(
        SOON,
        || world.events_of("known"),
        |events| names(events).last() == Some(&"duplicate"),
    );
    assert_eq!(world.record("known"), before);
    assert_eq!(world.sandbox.telegram.messages(7), []);
    world.assert_clean();
}

#[test]
fn jobs_are_served_strictly_by_priority_and_in_their_order_within_one() {
    let mut world = World::new();
    let mut entries = Vec::new();
    for round in 1..=4 {
        for priority in ["low", "default", "high"] {
            entries.push(
                job(&format!("{priority}-{round}"))
                    .with("priority", priority)
                    .json(),
            );
        }
    }
    world.push_all(&entries);
    let _daemon = world.daemon(&["--threads", "1", "--max-in-flight", "1"]);
    world.wait_state("low-4", "done");
    assert_eq!(
        order_of_submits(&world),
        [
            "high-1",
            "high-2",
            "high-3",
            "high-4",
            "default-1",
            "default-2",
            "default-3",
            "default-4",
            "low-1",
            "low-2",
            "low-3",
            "low-4",
        ]
    );
    world.assert_clean();
}

/// The ids of the jobs in the order in which fal accepted them.
fn order_of_submits(world: &World) -> Vec<String> {
    let submits = world.sandbox.fal.submits();
    let id = |input: &[u8]| {
        let text = String::from_utf8_lossy(input).into_owned();
        let from = text.find("prompt of ").unwrap() + "prompt of ".len();
        let to = text[from..].find('.').unwrap();
        text[from..from + to].to_owned()
    };
    submits.iter().map(|submit| id(&submit.input)).collect()
}

/// A daemon of eight threads, five of which wait for an answer of fal: the bulkhead lets one more in, and
/// four are claimed at a time.
fn one_free_place_at_fal(world: &mut World) -> (Daemon, fal_worker::sandbox::faults::Hold) {
    let held = world.sandbox.fal.hold_matching("fal.submit", "blocker");
    let daemon = world.daemon(&["--threads", "8"]);
    for number in 0..5 {
        world.push(job(&format!("blocker-{number}")).json());
        assert!(held.wait_arrived(number + 1, SOON));
    }
    (daemon, held)
}

#[test]
fn jobs_claimed_in_one_go_are_begun_by_priority_and_in_their_order() {
    let mut world = World::new();
    let (_daemon, held) = one_free_place_at_fal(&mut world);
    // Paused until all four wait, so that one claim finds them together.
    let _: u64 = world.redis(&["HSET", "fal:paused", "reason", "test"]);
    world.push_all(&[
        job("d").with("priority", "low").json(),
        job("b").json(),
        job("c").json(),
        job("a").with("priority", "high").json(),
    ]);
    for id in ["a", "b", "c", "d"] {
        world.wait_state(id, "queued");
    }
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    world.wait_state("d", "done");
    let order = order_of_submits(&world);
    assert_eq!(order[5..], ["a", "b", "c", "d"]);
    held.release();
    world.wait_state("blocker-4", "done");
}

#[test]
fn a_high_job_passes_everything_that_waits() {
    let mut world = World::new();
    let held = world.sandbox.fal.hold("fal.submit");
    let _daemon = world.daemon(&["--threads", "1", "--max-in-flight", "1"]);
    world.push(job("first").json());
    assert!(held.wait_arrived(1, SOON));
    world.push_all(&[job("second").json(), job("third").json()]);
    world.push(job("urgent").with("priority", "high").json());
    eventually(
        SOON,
        || world.redis::<u64>(&["LLEN", "fal:ready:high"]),
        |waiting| *waiting == 1,
    );
    held.release();
    world.wait_state("third", "done");
    assert_eq!(
        order_of_submits(&world),
        ["first", "urgent", "second", "third"]
    );
    world.assert_clean();
}

#[test]
fn not_before_keeps_a_job_until_its_time() {
    let (mut world, _daemon) = World::running();
    // Time enough for the other one, on a slow machine too.
    let start = unix_s() + 6;
    world.push(job("later").with("not_before", start).json());
    world.push(job("now").json());
    world.wait_state("now", "done");
    world.wait_state("later", "done");
    let submits = world.sandbox.fal.submits_for("prompt of later.");
    assert_eq!(submits.len(), 1);
    let late = submits[0].unix_ms as i64 - start as i64 * 1000;
    assert!((0..20_000).contains(&late), "{late} ms after its time");
    assert_eq!(order_of_submits(&world), ["now", "later"]);
    world.assert_clean();
}

#[test]
fn a_job_beyond_expires_at_ends_unpaid_and_its_user_is_told() {
    let (mut world, _daemon) = World::running();
    let past = unix_s() - 1;
    world.push(job("old").chat(7).with("expires_at", past).json());
    world.push(job("alone").with("expires_at", past).json());
    for id in ["old", "alone"] {
        let record = world.wait_state(id, "dead");
        assert_eq!(
            (record["kind"].as_str(), record["charged"].as_str()),
            ("expired", "no")
        );
        let events = world.events_of(id);
        assert_eq!(names(&events), ["queued", "failed"]);
        assert_eq!(events[1]["kind"], "expired");
        assert_eq!(events[1]["charged"], "no");
        assert_eq!(events[1]["attempt"], "0");
    }
    let messages = world.sandbox.telegram.messages(7);
    assert_eq!(messages.len(), 1);
    assert_eq!(
        messages[0].text,
        "Sorry, this request waited too long and was not started. Please send it again."
    );
    assert_eq!(world.record("old")["told"], "yes");
    assert_eq!(world.sandbox.fal.totals().submits, 0);
    world.assert_clean();
}

/// Nobody may begin it then, so nobody would come by it.
#[test]
fn a_job_that_grows_too_old_while_pulling_is_paused_or_fal_is_away_is_told_then() {
    for away in [false, true] {
        let (mut world, daemon) = World::running();
        let mut others = vec!["young".to_owned()];
        if away {
            let gone = Rule::always("fal.*", Fault::ResetBeforeRead);
            world.sandbox.faults.add(gone);
            others.extend((0..8).map(|n| format!("first-{n}")));
            let first = others[1..].iter().map(|id| job(id).json());
            world.push_all(&first.collect::<Vec<_>>());
            daemon.wait_log("fal lost");
        } else {
            let _: u64 = world.redis(&["HSET", "fal:paused", "reason", "test"]);
        }
        let soon = unix_s() + 2;
        world.push(job("old").chat(7).with("expires_at", soon).json());
        world.push(job("young").chat(8).json());
        let record = world.wait_state("old", "dead");
        let said = ["kind", "charged", "told"].map(|field| record[field].as_str());
        assert_eq!(said, ["expired", "no", "yes"], "away: {away}");
        assert_eq!(names(&world.events_of("old")), ["queued", "failed"]);
        assert_eq!(world.sandbox.telegram.messages(7).len(), 1);
        assert_eq!(world.state("young"), "queued");
        world.sandbox.faults.clear();
        let _: u64 = world.redis(&["DEL", "fal:paused"]);
        let states = world.wait_ended(&others, SOON);
        assert!(states.iter().all(|state| state == "done"), "{states:?}");
        assert_eq!(submits_of(&world, "old"), 0);
        world.assert_clean();
    }
}

#[test]
fn a_job_that_waited_beyond_max_wait_ends_as_expired_unpaid() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "4", "--max-wait", "1s"]);
    let _: u64 = world.redis(&["HSET", "fal:paused", "reason", "test"]);
    world.push(job("night").json());
    // Where the machine stands still for a second, it has expired before anybody looks.
    let record = eventually(
        SOON,
        || world.record("night"),
        |record| record.contains_key("expires_at"),
    );
    let expires: i64 = record["expires_at"].parse().unwrap();
    let queued: i64 = record["queued_at"].parse().unwrap();
    assert_eq!(expires - queued, 1000);
    eventually(
        SOON,
        || {
            let time: (i64, i64) = world.redis(&["TIME"]);
            time.0 * 1000 + time.1 / 1000
        },
        |now| *now > expires,
    );
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    let record = world.wait_state("night", "dead");
    assert_eq!(record["kind"], "expired");
    assert_eq!(world.sandbox.fal.totals().submits, 0);
    world.assert_clean();
}

#[test]
fn one_thread_does_everything() {
    let mut world = World::new();
    let tg = &world.sandbox.telegram;
    let statuses: Vec<i64> = (101..=107)
        .map(|chat| tg.plant_message(chat, Kind::Text, false))
        .collect();
    let status = |job: Job, chat: i64| {
        job.chat(chat)
            .telegram("status_message_id", statuses[chat as usize - 101])
    };
    let jobs = [
        job("plain"),
        status(job("photo"), 101),
        status(job("several").model("fal-ai/flux/schnell"), 102),
        status(job("big").model("fal-ai/big"), 103),
        status(job("inline").model("fal-ai/inline"), 104),
        status(job("direct").with("via", "direct"), 105),
        status(job("words").model("fal-ai/any-llm"), 106),
        status(job("refused").model("fal-ai/refuses"), 107),
        job("direct-alone").with("via", "direct"),
        job("document").chat(108).telegram("send_as", "document"),
    ];
    let entries: Vec<String> = jobs.iter().map(Job::json).collect();
    let _daemon = world.daemon(&["--threads", "1", "--transfer-threads", "1"]);
    world.push_all(&entries);
    for id in [
        "plain",
        "photo",
        "several",
        "big",
        "inline",
        "direct",
        "words",
        "direct-alone",
        "document",
    ] {
        world.wait_state(id, "done");
    }
    world.wait_state("refused", "dead");
    for chat in 101..=108 {
        let messages = world.sandbox.telegram.messages(chat);
        let expected = if chat == 102 { 4 } else { 1 };
        assert_eq!(messages.len(), expected, "chat {chat}: {messages:#?}");
    }
    world.assert_clean();
}

#[test]
fn submits_of_unknown_outcome_are_counted_and_end_at_max_attempts() {
    let (mut world, _daemon) = World::running();
    world.sandbox.faults.add(
        Rule::always("fal.submit", Fault::ResetAfterActing).for_requests_with("prompt of lost."),
    );
    world.push(job("lost").with("max_attempts", 2).json());
    let record = world.wait_state("lost", "dead");
    assert_eq!(submits_of(&world, "lost"), 2);
    assert_eq!(record["kind"], "unavailable");
    assert_eq!(record["charged"], "unknown");
    assert_eq!(record["attempt"], "2");
    let events = world.events_of("lost");
    assert_eq!(names(&events), ["queued", "started", "retrying", "failed"]);
    assert_eq!(events[3]["charged"], "unknown");
    world.assert_clean();
}

#[test]
fn a_refused_submit_uses_up_no_attempt() {
    let (mut world, _daemon) = World::running();
    let body = json!({"detail": "Too many requests"});
    world
        .sandbox
        .faults
        .add(Rule::first(1, "fal.submit", Fault::json(429, &body)));
    world.push(job("patient").with("max_attempts", 1).json());
    let record = world.wait_state("patient", "done");
    assert_eq!(record["attempt"], "1");
    let events = world.events_of("patient");
    let retrying = events.iter().find(|event| event["event"] == "retrying");
    let retrying = retrying.expect("an event `retrying`");
    assert_eq!(retrying["kind"], "rate_limited");
    assert_eq!(retrying["attempt"], "0");
    assert_eq!(submits_of(&world, "patient"), 1);
    world.assert_clean();
}

#[test]
fn a_generation_that_breaks_at_fal_is_tried_once_more_and_no_oftener() {
    let (mut world, _daemon) = World::running();
    world.push(job("breaks").model("fal-ai/breaks").json());
    let record = world.wait_state("breaks", "dead");
    assert_eq!(record["kind"], "unavailable");
    assert_eq!(record["charged"], "no");
    assert_eq!(submits_of(&world, "breaks"), 2);
    assert_eq!(record["tried"].split(' ').count(), 1);
    world.assert_clean();
}

#[test]
fn never_more_than_max_in_flight_jobs_are_at_fal() {
    let mut world = World::new();
    let script = Script::new(Outcome::Images(1)).taking(Duration::from_millis(150));
    world.sandbox.fal.model("fal-ai/slow", script);
    let entries: Vec<String> = (0..15)
        .map(|n| job(&format!("j{n}")).model("fal-ai/slow").json())
        .collect();
    world.push_all(&entries);
    // None ends before as many are there as may be.
    world.sandbox.fal.set_slots(0);
    let _daemon = world.daemon(&["--threads", "8", "--max-in-flight", "3"]);
    let submits = || world.sandbox.fal.totals().submits;
    eventually(SOON, submits, |submits| *submits >= 3);
    world.sandbox.fal.set_slots(1000);
    let ids: Vec<String> = (0..15).map(|n| format!("j{n}")).collect();
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");

    let submits = world.sandbox.fal.submits();
    let most = submits
        .iter()
        .map(|one| {
            let at_fal = |other: &&_| -> bool { overlaps(one.at, other) };
            submits.iter().filter(at_fal).count()
        })
        .max();
    assert_eq!(most, Some(3), "at fal at the same time");
    world.assert_clean();
}

fn overlaps(at: std::time::Instant, other: &fal_worker::sandbox::fal::SubmitEntry) -> bool {
    other.at <= at && other.completed.is_some_and(|completed| completed > at)
}

#[test]
fn without_a_bot_token_a_job_with_a_chat_fails_before_its_submit_and_others_go_on() {
    let mut world = World::new();
    let daemon = world.spawn(&["--threads", "2"], &[("TELEGRAM_BOT_TOKEN", "")]);
    daemon.wait_log(" ready ");
    world.push_all(&[job("chatty").chat(7).json(), job("quiet").json()]);
    world.wait_state("quiet", "done");
    let record = world.wait_state("chatty", "dead");
    assert_eq!(record["kind"], "telegram");
    assert_eq!(record["charged"], "no");
    assert_eq!(submits_of(&world, "chatty"), 0);
    assert_eq!(names(&world.events_of("chatty")).last(), Some(&"failed"));
    assert!(daemon.log_text().contains("WARN"), "no warning at start");
    assert!(world.sandbox.telegram.journal().is_empty());
    world.assert_clean();
}

#[test]
fn inputs_reach_fal_byte_for_byte() {
    let (mut world, _daemon) = World::running();
    let mut inputs: Vec<String> = GOOD_INPUTS
        .iter()
        .map(|(_, json)| (*json).to_owned())
        // What the stand-in itself cannot read, it does not accept.
        .filter(|json| serde_json::from_str::<Value>(json).is_ok())
        .collect();
    inputs.push(r#"{ "z" : 1 ,"a":[ 1.50,  2e0 ],"m":{"b":null,"a":"\u00e9\/é"} }"#.to_owned());
    inputs.push("{\n\t\"prompt\": \"a\\tb\",\r\n  \"seed\": 18446744073709551615\n}".to_owned());
    inputs.push(format!(r#"{{"image":"{}"}}"#, "A".repeat(700_000)));
    inputs.push("{}".to_owned());
    for (number, input) in inputs.iter().enumerate() {
        let via = if number.is_multiple_of(2) {
            "queue"
        } else {
            "direct"
        };
        world.push(format!(
            r#"{{"id":"in-{number}","via":"{via}","input":{input},"model":"fal-ai/flux/dev"}}"#
        ));
        let record = world.wait_state(&format!("in-{number}"), "done");
        let entry = world.sandbox.fal.request(&record["request_id"]).unwrap();
        assert_eq!(String::from_utf8_lossy(&entry.input), *input);
    }
    assert!(inputs.len() >= 9, "too few were left: {inputs:?}");
    world.assert_clean();
}

#[test]
fn switches_for_fal_become_headers_and_the_input_stays_as_it_is() {
    let (mut world, _daemon) = World::running();
    let switches = json!({"priority": "low", "store_io": false, "fallback": false,
        "object_lifetime_s": 3600, "runner_hint": "gpu-7"});
    world.push(job("switched").with("fal", switches).json());
    world.push(job("bare").json());
    world.wait_state("switched", "done");
    world.wait_state("bare", "done");
    let headers = |id: &str| -> BTreeMap<String, String> {
        let submits = world.sandbox.fal.submits_for(&format!("prompt of {id}."));
        submits[0].headers.iter().cloned().collect()
    };
    let (switched, bare) = (headers("switched"), headers("bare"));
    for (name, value) in [
        ("x-fal-queue-priority", "low"),
        ("x-fal-store-io", "0"),
        ("x-app-fal-disable-fallback", "1"),
        ("x-fal-runner-hint", "gpu-7"),
    ] {
        assert_eq!(
            switched.get(name).map(String::as_str),
            Some(value),
            "{name}: {switched:?}"
        );
        assert!(!bare.contains_key(name), "{name}: {bare:?}");
    }
    assert!(
        switched["x-fal-object-lifecycle-preference"].contains("3600"),
        "{switched:?}"
    );
    for headers in [&switched, &bare] {
        assert!(headers.contains_key("x-fal-request-timeout"), "{headers:?}");
    }
    world.assert_clean();
}

#[test]
fn a_job_without_an_id_gets_one_of_the_promised_form() {
    let (mut world, _daemon) = World::running();
    world.push(r#"{"model":"fal-ai/flux/dev","input":{"prompt":"nameless"}}"#);
    let events = eventually(
        SOON,
        || world.events(),
        |events| names(events).contains(&"done"),
    );
    let id = events[0]["job"].strip_prefix("j-").unwrap();
    assert_eq!(id.len(), 26, "{id}");
    assert!(
        id.bytes().all(|b| b.is_ascii_alphanumeric()),
        "{id} is not base32"
    );
    world.assert_clean();
}

#[test]
fn a_generation_beyond_timeout_s_is_cancelled_at_fal_and_its_user_is_told() {
    let (mut world, _daemon) = World::running();
    let script = Script {
        heeds_cancel: true,
        ..Script::new(Outcome::Never)
    };
    world.sandbox.fal.model("fal-ai/never", script);
    world.push(
        job("endless")
            .model("fal-ai/never")
            .chat(7)
            .with("timeout_s", 1)
            .json(),
    );
    let record = world.wait_state("endless", "dead");
    assert_eq!(record["kind"], "timeout");
    assert_eq!(record["told"], "yes");
    let submits = world.sandbox.fal.submits();
    assert_eq!(submits.len(), 1);
    assert!(submits[0].cancelled, "{:?}", submits[0]);
    assert_eq!(world.sandbox.telegram.messages(7).len(), 1);
    assert_eq!(world.redis::<u64>(&["EXISTS", "fal:spec:endless"]), 1);
    world.assert_clean();
}

#[test]
fn what_waits_too_long_in_the_queue_of_fal_ends_as_timeout_and_costs_nothing() {
    let mut world = World::new();
    world.sandbox.fal.set_slots(0);
    let _daemon = world.daemon(&["--threads", "2", "--fal-queue-timeout", "1s"]);
    world.push(job("stuck").json());
    let record = world.wait_state("stuck", "dead");
    assert_eq!(record["kind"], "timeout", "{record:?}");
    assert_eq!(record["charged"], "no", "{record:?}");
    assert_eq!(world.sandbox.fal.totals().billed, 0);
    world.assert_clean();
}

#[test]
fn a_request_that_falls_back_into_the_queue_of_fal_is_waited_for() {
    let (mut world, _daemon) = World::running();
    world.push(job("crashes").model("fal-ai/crashes").chat(7).json());
    let record = world.wait_state("crashes", "done");
    assert_eq!(record["attempt"], "1");
    assert_eq!(submits_of(&world, "crashes"), 1);
    assert_eq!(world.sandbox.telegram.messages(7).len(), 1);
    world.assert_clean();
}

#[test]
fn a_model_that_fal_does_not_know_ends_its_job_unpaid_and_stops_nobody() {
    let (mut world, _daemon) = World::running();
    world.push(job("unknown").model("nobody/nothing").chat(7).json());
    world.push(job("known").json());
    let record = world.wait_state("unknown", "dead");
    assert_eq!(record["charged"], "no", "{record:?}");
    assert_eq!(record["attempt"], "0", "{record:?}");
    world.wait_state("known", "done");
    assert_eq!(world.sandbox.telegram.messages(7).len(), 1);
    world.assert_clean();
}

#[test]
fn nothing_new_is_pulled_while_paused_and_what_is_paid_goes_on() {
    let (mut world, _daemon) = World::running();
    world.sandbox.fal.set_slots(0);
    world.push(job("paid").chat(7).json());
    eventually(
        SOON,
        || world.events_of("paid"),
        |events| names(events).contains(&"submitted"),
    );
    let _: u64 = world.redis(&["HSET", "fal:paused", "reason", "test"]);
    world.push(job("new").json());
    world.wait_state("new", "queued");
    world.sandbox.fal.set_slots(10);
    world.wait_state("paid", "done");
    assert_eq!(world.state("new"), "queued");
    assert_eq!(submits_of(&world, "new"), 0);
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    world.wait_state("new", "done");
    world.assert_clean();
}

#[test]
fn a_record_of_zero_keeping_leaves_the_bare_id_so_that_a_repeat_stays_a_duplicate() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "2", "--keep-done", "0"]);
    world.push(job("bare").json());
    let record = world.wait_state("bare", "done");
    assert_eq!(record["charged"], "yes");
    assert!(!record.contains_key("result"), "{record:?}");
    assert!(!record.contains_key("request_id"), "{record:?}");
    world.push(job("bare").json());
    eventually(
        SOON,
        || world.events_of("bare"),
        |events| names(events).last() == Some(&"duplicate"),
    );
    assert_eq!(submits_of(&world, "bare"), 1);
    let ttl: i64 = world.redis(&["TTL", "fal:job:bare"]);
    assert!((86_000..=86_400).contains(&ttl), "{ttl}");
    world.assert_clean();
}

#[test]
fn a_record_that_is_kept_for_a_moment_leaves_its_id_so_that_a_repeat_stays_a_duplicate() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "2", "--keep-done", "1s"]);
    world.push(job("brief").json());
    eventually(
        SOON,
        || world.events_of("brief"),
        |events| names(events).last() == Some(&"done"),
    );
    eventually(
        SOON,
        || world.redis::<u64>(&["EXISTS", "fal:job:brief"]),
        |there| *there == 0,
    );
    world.push(job("brief").json());
    let events = eventually(
        SOON,
        || world.events_of("brief"),
        |events| names(events).last() != Some(&"done"),
    );
    assert_eq!(names(&events).last(), Some(&"duplicate"));
    assert_eq!(submits_of(&world, "brief"), 1);
    world.assert_clean();
}

#[test]
fn a_job_that_grows_too_old_after_a_submit_of_unknown_outcome_may_have_been_paid() {
    let (mut world, _daemon) = World::running();
    world
        .sandbox
        .faults
        .add(Rule::always("fal.submit", Fault::ResetAfterActing));
    // Each repeat comes later than the one before it, after two seconds at the earliest: one of them too late.
    let entry = job("old").with("max_attempts", 20);
    world.push(entry.with("expires_at", unix_s() + 6).json());
    let record = world.wait_state("old", "dead");
    assert_eq!(record["kind"], "expired", "{record:?}");
    assert_eq!(record["charged"], "unknown", "{record:?}");
    let submits = submits_of(&world, "old");
    assert!((1..=3).contains(&submits), "{submits}");
    let events = world.events_of("old");
    assert_eq!(events.last().unwrap()["charged"], "unknown");
    world.assert_clean();
}

#[test]
fn a_direct_call_that_fal_has_no_room_for_waits_and_uses_up_no_attempt() {
    let (mut world, _daemon) = World::running();
    world.sandbox.fal.set_slots(0);
    world.push(
        job("direct")
            .with("via", "direct")
            .with("max_attempts", 1)
            .json(),
    );
    eventually(
        SOON,
        || world.events_of("direct"),
        |events| names(events).contains(&"retrying"),
    );
    world.sandbox.fal.set_slots(10);
    let record = world.wait_state("direct", "done");
    assert_eq!(record["attempt"], "1");
    assert_eq!(submits_of(&world, "direct"), 1);
    world.assert_clean();
}

#[test]
fn two_daemons_share_a_backlog_and_each_job_is_paid_and_delivered_once() {
    let mut world = World::new();
    let ids: Vec<String> = (0..120).map(|number| format!("s{number}")).collect();
    let entries: Vec<String> = ids
        .iter()
        .map(|id| job(id).chat(4000 + id[1..].parse::<i64>().unwrap()).json())
        .collect();
    // Neither may have more than half of them, and none ends before all are taken.
    world.sandbox.fal.set_slots(0);
    world.push_all(&entries);
    let one = world.daemon(&["--threads", "2", "--max-in-flight", "60"]);
    let two = world.daemon(&["--threads", "2", "--max-in-flight", "60"]);
    let submits = || world.sandbox.fal.totals().submits;
    eventually(SOON, submits, |submits| *submits == 120);
    world.sandbox.fal.set_slots(1000);
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    assert_eq!(world.sandbox.fal.totals().submits, 120);
    assert_eq!(world.sandbox.telegram.sends_count(), 120);
    for daemon in [&one, &two] {
        let done = daemon.log_text().matches(" job done ").count();
        assert!(done > 0, "one daemon did nothing");
    }
    world.assert_clean();
}

#[test]
fn a_job_leaves_one_line_when_it_starts_and_one_when_it_ends() {
    let (mut world, daemon) = World::running();
    world.push(job("line").chat(42).with("user_id", "u 1").json());
    let record = world.wait_state("line", "done");
    daemon.wait_log(" job done ");
    let log = daemon.log_text();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("job=line "))
        .collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(
        lines[0].contains(" job started job=line user=\"u 1\" model=fal-ai/flux/dev attempt=0")
    );
    let end = format!(
        " job done job=line user=\"u 1\" model=fal-ai/flux/dev attempt=1 request={} queue_ms=",
        record["request_id"]
    );
    assert!(lines[1].contains(&end), "{}", lines[1]);
    let keys: Vec<&str> = lines[1][lines[1].find("queue_ms").unwrap()..]
        .split(' ')
        .map(|field| field.split('=').next().unwrap())
        .collect();
    assert_eq!(keys, ["queue_ms", "gen_ms", "deliver_ms", "total_ms"]);
    world.assert_clean();
}

#[test]
fn no_level_of_the_log_shows_a_secret_and_no_prompt_stands_above_debug() {
    let mut world = World::new();
    let faults = &world.sandbox.faults;
    for endpoint in ["fal.status", "fal.result", "tg.editmessagemedia"] {
        faults.add(Rule::first(1, endpoint, Fault::ResetBeforeRead));
        faults.add(Rule::first(1, endpoint, Fault::Html502));
    }
    let status = world.sandbox.telegram.plant_message(7, Kind::Text, false);
    let daemon = world.spawn(&["--threads", "2"], &[("RUST_LOG", "trace")]);
    daemon.wait_log(" ready ");
    world.push(
        job("secret")
            .chat(7)
            .telegram("status_message_id", status)
            .telegram("caption", "caption of secret.")
            .json(),
    );
    world.push(job("refused").model("fal-ai/refuses").json());
    world.wait_state("refused", "dead");
    world.wait_state("secret", "done");
    let log = daemon.log_text();
    let key = world.sandbox.fal.key();
    let (key_id, key_secret) = key.split_once(':').unwrap();
    let token = world.sandbox.telegram.token();
    let (_, token_secret) = token.split_once(':').unwrap();
    assert!(log.contains(" DEBUG "), "nothing at debug");
    for secret in [key.as_str(), key_secret, &token, token_secret] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    assert!(!key_id.is_empty());
    for line in log.lines() {
        let quiet = line.contains(" DEBUG ") || line.contains(" TRACE ");
        let tells = line.contains("prompt of") || line.contains("caption of");
        assert!(quiet || !tells, "{line}");
    }
    world.assert_no_violations();
}
