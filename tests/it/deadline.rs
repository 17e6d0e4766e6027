//! The time that a delivery may take: what is paid for is given up only after it was tried in vain, what is in
//! the chat stays there, and nobody waits for the end of a job longer than was promised.

use crate::support::{Daemon, SOON, World, eventually, job};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::telegram::{Kind, Message};
use serde_json::json;
use std::time::Duration;

const CHAT: i64 = 4_201;
const SHORT: [&str; 4] = ["--threads", "4", "--delivery-timeout", "3s"];

fn status_in(world: &World) -> i64 {
    let telegram = &world.sandbox.telegram;
    telegram.plant_message(CHAT, Kind::Text, false)
}

/// A model whose result is a text of two messages.
fn two_parts(world: &World) -> String {
    let first = "one ".repeat(1000);
    let text = format!("{first}\n\n{}", "two ".repeat(100));
    let script = Script::new(Outcome::Text(text));
    world.sandbox.fal.model("case/text", script);
    first.trim().to_owned()
}

fn message(world: &World, id: i64) -> Message {
    let mut messages = world.sandbox.telegram.messages(CHAT);
    messages.retain(|message| message.id == id);
    messages.remove(0)
}

/// Ends the daemon, and makes what it gave back look as if it had come to this moment hours ago.
fn stopped_long_ago(world: &mut World, mut daemon: Daemon, ids: &[String], since: &str) {
    assert_eq!(daemon.stop(), Some(0));
    for id in ids {
        let record = world.record(id);
        assert_eq!(record["state"], "queued", "{record:?}");
        let at = record[since].parse::<u64>().unwrap() - 7 * 3_600_000;
        let key = format!("fal:job:{id}");
        let _: u64 = world.redis(&["HSET", &key, since, &at.to_string()]);
    }
}

#[test]
fn a_result_that_is_in_the_chat_is_delivered_though_its_status_message_cannot_go() {
    let mut world = World::new();
    let pair = Script::new(Outcome::Images(2));
    world.sandbox.fal.model("case/two", pair);
    let held = Rule::always("tg.deletemessage", Fault::telegram_429(60));
    world.sandbox.faults.add(held);
    let _daemon = world.daemon(&SHORT);
    let entry = job("a").model("case/two").chat(CHAT);
    let status = status_in(&world);
    world.push(entry.telegram("status_message_id", status).json());
    let record = world.wait_state("a", "done");
    let ids: Vec<i64> = serde_json::from_str(&record["message_ids"]).unwrap();
    assert_eq!(ids.len(), 2, "{record:?}");
    world.assert_clean();
}

#[test]
fn a_file_that_is_in_the_chat_is_delivered_though_the_rest_of_its_caption_cannot_go() {
    let mut world = World::new();
    let held = Rule::always("tg.sendmessage", Fault::telegram_429(60));
    world.sandbox.faults.add(held);
    let daemon = world.daemon(&SHORT);
    let entry = job("a").chat(CHAT).telegram("caption", "word ".repeat(300));
    world.push(entry.json());
    let record = world.wait_state("a", "done");
    let ids: Vec<i64> = serde_json::from_str(&record["message_ids"]).unwrap();
    assert_eq!(ids.len(), 1, "{record:?}");
    daemon.wait_log("a text could not follow its file job=a");
    world.assert_clean();
}

#[test]
fn what_went_out_of_a_delivery_whose_time_is_over_stays_and_is_remembered() {
    let mut world = World::new();
    let first = two_parts(&world);
    let held = Rule::first(1, "tg.sendmessage", Fault::telegram_429(6));
    world.sandbox.faults.add(held);
    let _daemon = world.daemon(&SHORT);
    let entry = job("a").model("case/text").chat(CHAT);
    let status = status_in(&world);
    world.push(entry.telegram("status_message_id", status).json());
    let record = world.wait_state("a", "dead");
    assert!(record["error"].starts_with("not delivered within"));
    assert_eq!(record["message_ids"], format!("[{status}]"));
    assert_eq!(message(&world, status).text.trim(), first);
    // The failure has a message of its own.
    assert_eq!(world.sandbox.telegram.messages(CHAT).len(), 2);
    assert_eq!(record["told"], "yes");
    world.assert_clean();
}

#[test]
fn a_failure_that_another_worker_tells_leaves_what_is_in_the_chat_alone() {
    let mut world = World::new();
    let first = two_parts(&world);
    let faults = &world.sandbox.faults;
    let unknown = Fault::telegram(400, "Bad Request: SOMETHING_NEW");
    faults.add(Rule::always("tg.sendmessage", unknown).for_requests_with("two two"));
    let held = Rule::first(1, "tg.sendmessage", Fault::telegram_429(60)).for_requests_with("Sorry");
    let held = faults.add(held);
    let daemon = world.daemon(&["--threads", "4"]);
    let entry = job("a").model("case/text").chat(CHAT);
    let status = status_in(&world);
    world.push(entry.telegram("status_message_id", status).json());
    let fired = |world: &World| world.sandbox.faults.fired(held);
    eventually(SOON, || fired(&world), |fired| *fired == 1);
    { daemon }.stop();
    world.end_silence();
    let _next = world.daemon(&["--threads", "4"]);
    let record = world.wait_state("a", "dead");
    assert_eq!(record["told"], "yes");
    assert_eq!(record["message_ids"], format!("[{status}]"));
    assert_eq!(message(&world, status).text.trim(), first);
    assert_eq!(world.sandbox.telegram.messages(CHAT).len(), 2);
    world.assert_clean();
}

#[test]
fn a_result_that_lay_while_no_worker_ran_is_sent_before_it_is_given_up() {
    let mut world = World::new();
    let held = Rule::first(1, "tg.editmessagemedia", Fault::telegram_429(60));
    let held = world.sandbox.faults.add(held);
    let daemon = world.daemon(&["--threads", "4"]);
    let status = status_in(&world);
    let entry = job("a").chat(CHAT);
    world.push(entry.telegram("status_message_id", status).json());
    let fired = |world: &World| world.sandbox.faults.fired(held);
    eventually(SOON, || fired(&world), |fired| *fired == 1);
    stopped_long_ago(&mut world, daemon, &["a".to_owned()], "completed_at");
    world.end_silence();
    let _next = world.daemon(&["--threads", "4"]);
    world.wait_state("a", "done");
    assert_eq!(message(&world, status).kind, Kind::Photo);
    world.assert_clean();
}

#[test]
fn a_failure_that_lay_while_no_worker_ran_is_told_over_its_status_message() {
    let mut world = World::new();
    let refused = json!({"detail": [{"loc": ["body", "x"], "msg": "m", "type": "missing"}]});
    let script = Script::new(Outcome::error(422, refused));
    world.sandbox.fal.model("case/refused", script);
    let held = Rule::first(1, "tg.editmessagetext", Fault::telegram_429(60)).for_requests_with("a");
    let held = world.sandbox.faults.add(held);
    let daemon = world.daemon(&["--threads", "4"]);
    let status = status_in(&world);
    let entry = job("a").model("case/refused").chat(CHAT);
    world.push(entry.telegram("status_message_id", status).json());
    let fired = |world: &World| world.sandbox.faults.fired(held);
    eventually(SOON, || fired(&world), |fired| *fired == 1);
    stopped_long_ago(&mut world, daemon, &["a".to_owned()], "telling_at");
    world.end_silence();
    // With signs of life it first waits for an edit that the last owner may have begun.
    let _next = world.daemon(&["--threads", "4", "--progress", "on"]);
    let record = world.wait_state("a", "dead");
    assert_eq!(record["told"], "yes");
    assert_ne!(message(&world, status).text, "");
    assert_eq!(world.sandbox.telegram.messages(CHAT).len(), 1);
    world.assert_clean();
}

/// What no step of fal's failed: bad entries, and the cancel of a job that nobody had begun.
#[test]
fn while_telegram_is_away_all_that_nobody_can_be_told_of_ends_too() {
    let mut world = World::new();
    let away = Rule::always("tg.*", Fault::ResetBeforeRead);
    world.sandbox.faults.add(away);
    let daemon = world.daemon(&SHORT);
    // More than it takes to find Telegram away: the rest is kept from it.
    let mut ids: Vec<String> = (0..12).map(|n| format!("bad{n}")).collect();
    for id in &ids {
        let entry = json!({"id": id, "model": "case/x", "input": 7, "telegram": {"chat_id": CHAT}});
        world.push(entry.to_string());
    }
    daemon.wait_log("telegram lost");
    let tomorrow = std::time::SystemTime::now() + Duration::from_secs(86_400);
    let tomorrow = tomorrow.duration_since(std::time::UNIX_EPOCH).unwrap();
    let entry = job("later").chat(CHAT);
    world.push(entry.with("not_before", tomorrow.as_secs()).json());
    world.wait_state("later", "later");
    assert!(
        world
            .cli(&["cancel", "later"])
            .output()
            .unwrap()
            .status
            .success()
    );
    ids.push("later".to_owned());
    // Two minutes are promised.
    world.wait_ended(&ids, SOON + Duration::from_secs(125));
    for id in &ids {
        assert_eq!(world.record(id)["told"], "no", "{id}");
    }
    world.assert_clean();
}

#[test]
fn while_telegram_is_away_deliveries_and_tellings_end_in_their_time() {
    let mut world = World::new();
    let refused = json!({"detail": [{"loc": ["body", "x"], "msg": "m", "type": "missing"}]});
    let script = Script::new(Outcome::error(422, refused));
    world.sandbox.fal.model("case/refused", script);
    let away = Rule::always("tg.*", Fault::ResetBeforeRead);
    world.sandbox.faults.add(away);
    let daemon = world.daemon(&SHORT);
    // More than it takes to find Telegram away: the rest is kept from it.
    let ids = |name: &str| -> Vec<String> { (0..12).map(|n| format!("{name}{n}")).collect() };
    let (results, failures) = (ids("result"), ids("failure"));
    for id in &results {
        world.push(job(id).chat(CHAT).json());
    }
    for id in &failures {
        world.push(job(id).model("case/refused").chat(CHAT).json());
    }
    for id in results.iter().chain(&failures) {
        world.wait_field(id, "phase", "telling");
    }
    for id in &results {
        let error = world.record(id).remove("error").unwrap();
        assert!(error.starts_with("not delivered within"), "{error}");
    }
    daemon.wait_log("telegram lost");
    let all: Vec<String> = results.into_iter().chain(failures).collect();
    stopped_long_ago(&mut world, daemon, &all, "telling_at");
    let next = world.daemon(&SHORT);
    let states = world.wait_ended(&all, SOON);
    assert!(states.iter().all(|state| state == "dead"), "{states:?}");
    next.wait_log("telegram lost");
    for id in &all {
        assert_eq!(world.record(id)["told"], "no");
    }
    world.assert_clean();
}
