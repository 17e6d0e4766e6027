//! Signs of life and words: what a user sees before the result is there, and that it never stands where
//! the result should; texts of the operator's own.

use crate::support::proxy::{Flow, Proxy};
use crate::support::{SOON, World, eventually, job};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::telegram::{Entry, Kind};
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

const ON: [&str; 4] = ["--threads", "4", "--progress", "on"];
const STARTED: &str = "Your request is being worked on.";
const ANSWER: &str = "An answer in words.";

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A model that takes so long and then gives a picture, or words.
fn slow(world: &World, model: &str, millis: u64, picture: bool) {
    let outcome = if picture {
        Outcome::Images(1)
    } else {
        Outcome::Text(ANSWER.to_owned())
    };
    let script = Script::new(outcome).taking(Duration::from_millis(millis));
    world.sandbox.fal.model(model, script);
}

/// What was asked of Telegram in one chat by this method, in the order of the answers.
fn asked(world: &World, chat: i64, method: &str) -> Vec<Entry> {
    let mut journal = world.sandbox.telegram.journal();
    journal.retain(|entry| entry.chat == Some(chat) && entry.method == method);
    journal
}

/// What a chat's only message says.
#[track_caller]
fn text_in(world: &World, chat: i64) -> String {
    let mut messages = world.sandbox.telegram.messages(chat);
    assert_eq!(messages.len(), 1, "{messages:#?}");
    messages.remove(0).text
}

fn status_in(world: &World, chat: i64) -> i64 {
    world
        .sandbox
        .telegram
        .plant_message(chat, Kind::Text, false)
}

#[test]
fn a_chat_without_a_status_message_shows_an_action_every_four_to_five_seconds() {
    let mut world = World::new();
    slow(&world, "fal-ai/slow", 13_000, true);
    slow(&world, "fal-ai/slow-video", 9_000, true);
    slow(&world, "fal-ai/quick", 200, true);
    let _daemon = world.daemon(&ON);
    let status = status_in(&world, 903);
    world.sandbox.telegram.block(904);
    world.push(job("a").model("fal-ai/slow").chat(901).json());
    world.push(job("b").model("fal-ai/slow-video").chat(902).json());
    let with_status = job("c").model("fal-ai/slow").chat(903);
    world.push(with_status.telegram("status_message_id", status).json());
    world.push(job("d").model("fal-ai/slow").chat(904).json());
    world.push(job("e").model("fal-ai/quick").chat(905).json());
    for id in ["a", "b", "c", "e"] {
        world.wait_state(id, "done");
    }
    world.wait_state("d", "dead");

    let actions = asked(&world, 901, "sendchataction");
    let spans = [("a", "completed_at"), ("e", "ended_at")].map(|(id, end)| {
        let record = world.record(id);
        let at = |field: &str| record[field].parse::<u64>().unwrap();
        at(end) - at("submitted_at")
    });
    // Three, and on a slow machine more or fewer by one.
    let most = 1 + spans[0] as usize / 4500;
    assert!((2..=most).contains(&actions.len()), "{actions:#?}");
    assert!(
        actions
            .iter()
            .all(|one| one.args["action"] == "upload_photo" && one.status == 200)
    );
    for pair in actions.windows(2) {
        let gap = pair[1].at - pair[0].at;
        // They begin four and a half seconds apart; on a busy machine either may arrive late.
        assert!(gap > Duration::from_millis(2500), "{gap:?}");
        assert!(gap < seconds(9), "{gap:?}");
    }
    let first = world.record("a")["submitted_at"].parse::<u64>().unwrap();
    assert!(actions[0].unix_ms >= first + 2500, "a quick job needs none");
    let of_video = asked(&world, 902, "sendchataction");
    assert!(
        of_video
            .iter()
            .any(|one| one.args["action"] == "upload_video")
    );
    assert_eq!(asked(&world, 903, "sendchataction").len(), 0);
    // The one that says that nobody is there is the last.
    assert_eq!(asked(&world, 904, "sendchataction").len(), 1);
    // Nor does this one, unless the machine stood still for the time in which it was quick.
    if spans[1] < 2500 {
        assert_eq!(asked(&world, 905, "sendchataction").len(), 0);
    }
}

#[test]
fn with_progress_off_nothing_but_results_reaches_a_chat() {
    let mut world = World::new();
    slow(&world, "fal-ai/slow", 5_000, true);
    let _daemon = world.daemon(&["--threads", "4", "--progress", "off"]);
    let status = status_in(&world, 912);
    world.push(job("a").model("fal-ai/slow").chat(911).json());
    let with_status = job("b").model("fal-ai/slow").chat(912);
    world.push(with_status.telegram("status_message_id", status).json());
    world.wait_state("a", "done");
    world.wait_state("b", "done");
    let journal = world.sandbox.telegram.journal().into_iter();
    let methods: Vec<String> = journal.map(|entry| entry.method).collect();
    assert_eq!(methods.len(), 2, "{methods:?}");
    world.assert_clean();
}

#[test]
fn a_status_message_tells_each_change_once_and_ends_as_the_result() {
    let mut world = World::new();
    world.sandbox.fal.set_slots(1);
    slow(&world, "fal-ai/before", 8_000, true);
    slow(&world, "fal-ai/after", 3_000, true);
    slow(&world, "fal-ai/slow", 8_000, true);
    let _daemon = world.daemon(&ON);
    let status = status_in(&world, 921);
    world.push(job("first").model("fal-ai/before").json());
    world.wait_submitted("first");
    world.push(job("second").model("fal-ai/after").json());
    world.wait_submitted("second");
    let button = json!({"inline_keyboard": [[{"text": "Cancel", "callback_data": "cancel"}]]});
    let third = job("third").model("fal-ai/slow").chat(921);
    let third = third.telegram("status_message_id", status);
    world.push(third.telegram("status_markup", button.clone()).json());
    // The button outlives each progress text.
    let there = eventually(
        SOON,
        || world.sandbox.telegram.messages(921),
        |messages| messages[0].text.starts_with("Waiting in line"),
    );
    assert_eq!(there[0].text, "Waiting in line, place 2.");
    assert!(there[0].keyboard.is_some());
    world.wait_state("third", "done");

    let edits = asked(&world, 921, "editmessagetext");
    let texts: Vec<&str> = edits
        .iter()
        .map(|edit| edit.args["text"].as_str().unwrap())
        .collect();
    assert!((2..=3).contains(&texts.len()), "{texts:?}");
    assert_eq!(texts.last(), Some(&STARTED), "{texts:?}");
    for pair in edits.windows(2) {
        assert_ne!(pair[0].args["text"], pair[1].args["text"], "{texts:?}");
        let gap = pair[1].at - pair[0].at;
        // They begin five seconds apart; on a busy machine either may arrive late.
        assert!(gap > seconds(3), "{gap:?}");
    }
    assert!(edits.iter().all(|edit| edit.status == 200));
    let messages = world.sandbox.telegram.messages(921);
    assert_eq!(messages.len(), 1, "{messages:#?}");
    assert_eq!((messages[0].id, messages[0].kind), (status, Kind::Photo));
    assert_eq!(
        messages[0].keyboard, None,
        "the result has its own, or none"
    );
    assert_eq!(asked(&world, 921, "sendchataction").len(), 0);
    world.assert_clean();
}

#[test]
fn a_result_waits_for_the_progress_edit_under_way_and_stands_over_it() {
    let mut world = World::new();
    // The edit goes out after three seconds, on a slow machine later, and is still under way after these.
    slow(&world, "fal-ai/slow", 6_000, false);
    let _daemon = world.daemon(&ON);
    let status = status_in(&world, 931);
    let late = Rule::first(1, "tg.editmessagetext", Fault::DelayMs(4_000));
    let late = world.sandbox.faults.add(late);
    let one = job("a").model("fal-ai/slow").chat(931);
    world.push(one.telegram("status_message_id", status).json());
    world.wait_state("a", "done");
    assert_eq!(world.sandbox.faults.fired(late), 1);
    let edits = asked(&world, 931, "editmessagetext");
    let texts: Vec<_> = edits.iter().map(|edit| edit.args["text"].clone()).collect();
    assert_eq!(texts, [STARTED, ANSWER]);
    assert_eq!(text_in(&world, 931), ANSWER);
    world.assert_clean();
}

#[test]
fn after_a_progress_edit_of_unknown_outcome_the_result_waits_until_it_cannot_come_any_more() {
    let mut world = World::new();
    slow(&world, "fal-ai/slow", 6_000, false);
    let daemon = world.daemon(&ON);
    let status = status_in(&world, 941);
    let lost = Rule::first(1, "tg.editmessagetext", Fault::ResetAfterActing);
    world.sandbox.faults.add(lost);
    let one = job("a").model("fal-ai/slow").chat(941);
    world.push(one.telegram("status_message_id", status).json());
    world.wait_state("a", "done");
    let edits = asked(&world, 941, "editmessagetext");
    let texts: Vec<_> = edits.iter().map(|edit| edit.args["text"].clone()).collect();
    assert_eq!(texts, [STARTED, ANSWER]);
    // Ten seconds from when it began; it may have arrived late. Else the result would stand there after three.
    let gap = edits[1].at - edits[0].at;
    assert!(gap > seconds(7), "{gap:?}");
    assert_eq!(text_in(&world, 941), ANSWER);
    assert_eq!(daemon.logged("telegram lost"), 0);
    world.assert_clean();
}

#[test]
fn a_limit_met_by_a_progress_edit_is_obeyed_and_costs_the_result_no_more_than_its_time() {
    let mut world = World::new();
    slow(&world, "fal-ai/slow", 6_000, false);
    let proxy = Proxy::to(&world.sandbox.telegram.url());
    world.telegram_url = Some(format!("http://{}", proxy.address()));
    let _daemon = world.daemon(&ON);
    // The refusal is held up until the clock was looked at: its time begins later.
    proxy.stall(Flow::Answers);
    let status = status_in(&world, 981);
    let limit = Rule::first(1, "tg.editmessagetext", Fault::telegram_429(6));
    let limit = world.sandbox.faults.add(limit);
    let one = job("a").model("fal-ai/slow").chat(981);
    world.push(one.telegram("status_message_id", status).json());
    eventually(SOON, || world.sandbox.faults.fired(limit), |n| *n == 1);
    let refused = Instant::now();
    proxy.flow();
    world.wait_state("a", "done");
    let edits = asked(&world, 981, "editmessagetext");
    let texts: Vec<_> = edits.iter().map(|edit| edit.args["text"].clone()).collect();
    assert_eq!(texts, [ANSWER], "dropped, not repeated");
    let wait = edits[0].at - refused;
    assert!(wait > Duration::from_millis(5_900), "{wait:?}");
    assert!(wait < seconds(16), "{wait:?}");
    world.assert_clean();
}

#[test]
fn within_limits_of_our_own_signs_go_out_and_a_chat_that_is_full_silences_no_other() {
    let mut world = World::new();
    slow(&world, "fal-ai/slow", 9_000, false);
    let rate = ["--telegram-rate", "30/1s"];
    let _daemon = world.daemon(&[&ON[..], &rate[..]].concat());
    world.push(job("before").chat(991).json());
    world.wait_state("before", "done");
    // As if so many had been sent there that it takes nothing before the results.
    let key: Vec<String> = world.redis(&["KEYS", "fal:rate:*:chat:991"]);
    let time: (u64, u64) = world.redis(&["TIME"]);
    let full = (time.0 * 1000 + 16_000).to_string();
    let _: u64 = world.redis(&["HSET", &key[0], "full", &full]);
    let _: u64 = world.redis(&["PEXPIRE", &key[0], "24000"]);
    let mut ids = Vec::new();
    for (id, chat, has_status) in [
        ("full", 991, true),
        ("full-too", 991, true),
        ("free", 992, true),
        ("action", 993, false),
    ] {
        let mut one = job(id).model("fal-ai/slow").chat(chat);
        if has_status {
            one = one.telegram("status_message_id", status_in(&world, chat));
        }
        world.push(one.json());
        ids.push(id.to_owned());
    }
    let states = world.wait_ended(&ids, SOON * 2);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    let edits = asked(&world, 992, "editmessagetext");
    assert_eq!(edits.len(), 2, "progress, then the result: {edits:#?}");
    let gap = edits[1].at - edits[0].at;
    assert!(gap > Duration::from_millis(2_000), "late: {gap:?}");
    let actions = asked(&world, 993, "sendchataction");
    assert!(!actions.is_empty());
    let edits = asked(&world, 991, "editmessagetext");
    assert_eq!(edits.len(), 2, "nothing but the results: {edits:#?}");
    world.assert_clean();
}

#[test]
fn a_worker_killed_in_a_progress_edit_leaves_no_text_where_its_successor_put_the_result() {
    let mut world = World::new();
    slow(&world, "fal-ai/slow", 3_100, false);
    let mut daemon = world.daemon(&ON);
    let status = status_in(&world, 951);
    // Still on its way when the successor has the result in hand.
    let late = Rule::first(1, "tg.editmessagetext", Fault::DelayMs(1_500));
    let late = world.sandbox.faults.add(late);
    let one = job("a").model("fal-ai/slow").chat(951);
    world.push(one.telegram("status_message_id", status).json());
    eventually(SOON, || world.sandbox.faults.fired(late), |n| *n == 1);
    daemon.kill();
    let _next = world.daemon(&ON);
    world.wait_state("a", "done");
    eventually(
        SOON,
        || asked(&world, 951, "editmessagetext").len(),
        |n| *n >= 2,
    );
    assert_eq!(text_in(&world, 951), ANSWER);
    world.assert_clean_after_kills();
}

#[test]
fn a_telegram_that_hangs_on_signs_delays_no_poll_and_no_result() {
    let mut world = World::new();
    slow(&world, "fal-ai/slow", 6_000, true);
    for endpoint in ["tg.sendchataction", "tg.editmessagetext"] {
        let hangs = Rule::always(endpoint, Fault::Hang(60_000));
        world.sandbox.faults.add(hangs);
    }
    let daemon = world.daemon(&["--threads", "2", "--progress", "on"]);
    let mut entries = Vec::new();
    let mut ids = Vec::new();
    for n in 0..20 {
        let (id, chat) = (format!("j{n}"), 961_001 + n);
        let mut one = job(&id).model("fal-ai/slow").chat(chat);
        if n % 2 == 0 {
            one = one.telegram("status_message_id", status_in(&world, chat));
        }
        entries.push(one.json());
        ids.push(id);
    }
    world.push_all(&entries);
    let states = world.wait_ended(&ids, SOON * 2);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    for id in &ids {
        let record = world.record(id);
        let at = |field: &str| record[field].parse::<u64>().unwrap();
        let took = at("completed_at") - at("submitted_at");
        // A quarter of the time that has passed, and the noise of the machine. One thread of two that
        // hung for five seconds in each of twenty signs would make it a minute.
        assert!(took < 14_000, "{id}: the result was seen after {took} ms");
    }
    let fired = world.sandbox.faults.fired_by_endpoint();
    let signs: u64 = fired.values().sum();
    assert!((1..=6).contains(&signs), "{fired:?}");
    assert_eq!(daemon.logged("telegram lost"), 0);
    world.assert_clean();
}

#[test]
fn two_hundred_chats_share_one_sign_at_a_time() {
    let mut world = World::new();
    slow(&world, "fal-ai/slow", 6_000, true);
    let hold = world.sandbox.telegram.hold("tg.sendchataction");
    let _daemon = world.daemon(&["--threads", "16", "--progress", "on"]);
    let ids: Vec<String> = (0..200).map(|n| format!("j{n}")).collect();
    let entries: Vec<String> = (0..200)
        .map(|n| job(&ids[n]).model("fal-ai/slow").chat(962_001 + n as i64))
        .map(|one| one.json())
        .collect();
    world.push_all(&entries);
    assert!(hold.wait_arrived(1, SOON));
    let began = Instant::now();
    let states = world.wait_ended(&ids, SOON * 2);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    // Each was given up after five seconds before the next one went out.
    let (arrived, most) = (hold.arrived(), 2 + began.elapsed().as_secs() as usize / 5);
    assert!((1..=most).contains(&arrived), "{arrived} of {most}");
    hold.release();
    world.assert_clean();
}

#[test]
fn texts_of_ones_own_reach_the_user_and_a_file_that_is_wrong_ends_the_start() {
    let mut world = World::new();
    let missing = json!({"detail": [{"loc": ["body", "prompt"], "msg": "Field required",
        "type": "missing", "input": {"secret": "s3cr3t"}}]});
    let script = Script::new(Outcome::error(422, missing));
    world.sandbox.fal.model("fal-ai/wants-more", script);
    let path = world.folder.path().join("words");
    let file = path.to_str().unwrap().to_owned();
    let own = r#"
        [en]
        invalid_input = "<b>{field}</b> is missing, {job}."
        invalid_job = "The bot forgot {field}."
        [ru]
        invalid_input = "Не хватает: {field}."
    "#;
    fs::write(&path, own).unwrap();
    let _daemon = world.daemon(&["--threads", "4", "--messages", &file]);
    world.push(job("a").model("fal-ai/wants-more").chat(971).json());
    let russian = job("b").model("fal-ai/wants-more").chat(972);
    world.push(russian.telegram("lang", "ru").json());
    world.push(r#"{"id":"c","model":"a/b","input":1,"telegram":{"chat_id":973}}"#);
    for id in ["a", "b", "c"] {
        world.wait_state(id, "dead");
    }
    eventually(SOON, || world.sandbox.telegram.sends_count(), |n| *n == 3);
    // Markup is not read: it is plain text.
    assert_eq!(text_in(&world, 971), "<b>prompt</b> is missing, a.");
    assert_eq!(text_in(&world, 972), "Не хватает: prompt.");
    assert_eq!(text_in(&world, 973), "The bot forgot input.");
    world.assert_clean();

    fs::write(&path, "[en]\ntimeout = \"{url}!\"").unwrap();
    let mut refused = world.spawn(&["--messages", &file], &[]);
    assert_eq!(refused.wait_exit(SOON), Some(78));
    let log = refused.log_text();
    for part in [
        file.as_str(),
        "[en] timeout",
        "{url}",
        "{kind}, {job}, {field}",
    ] {
        assert!(log.contains(part), "{log}");
    }
}
