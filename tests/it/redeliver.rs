//! Results sent again, free: from the files that Telegram keeps, also after fal's are gone, and from a
//! recorded result where nothing had reached a chat.

use crate::support::{SOON, World, eventually, job};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::telegram::{Kind, Message};
use std::collections::BTreeMap;
use std::process::Output;

const CHAT: i64 = 77_201;
const OTHER: i64 = 77_202;

fn redeliver(world: &World, args: &[&str]) -> (String, i32) {
    let output: Output = world.cli(&["redeliver"]).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (text.into_owned(), output.status.code().unwrap())
}

fn redelivered(world: &mut World, id: &str) -> Vec<BTreeMap<String, String>> {
    let mut events = world.events_of(id);
    events.retain(|event| event["event"] == "redelivered");
    events
}

fn same_file(a: &Message, b: &Message) -> bool {
    let id = |message: &Message| message.file.as_ref().map(|file| file.file_id.clone());
    id(a).is_some() && id(a) == id(b)
}

#[test]
fn every_kind_of_file_is_sent_again_by_its_id_when_fal_has_nothing_any_more() {
    let (mut world, _daemon) = World::running();
    let outcomes = [
        ("image", Outcome::Images(1)),
        ("video", Outcome::Video),
        ("audio", Outcome::Audio),
    ];
    for (name, outcome) in &outcomes {
        let model = format!("fal-ai/{name}");
        world
            .sandbox
            .fal
            .model(&model, Script::new(outcome.clone()));
        let entry = job(name).model(&model).chat(CHAT);
        world.push(entry.telegram("protect_content", true).json());
        let record = world.wait_state(name, "done");
        world.sandbox.fal.expire_files(&record["request_id"]);
        world.sandbox.fal.forget(&record["request_id"]);
        world.sandbox.telegram.forget_urls();
    }
    let before = world.sandbox.fal.totals();
    let first = world.sandbox.telegram.messages(CHAT);
    for (name, _) in &outcomes {
        let record = world.record(name);
        let (text, code) = redeliver(&world, &[name]);
        assert_eq!(code, 0, "{text}");
        let events = redelivered(&mut world, name);
        assert_eq!(events.len(), 1);
        let ids = &events[0]["message_ids"];
        assert_eq!(text, format!("{name} sent again: messages {ids}\n"));
        assert_eq!(world.record(name), record, "its own record stays as it is");
        assert!(!events[0].contains_key("kind"));
    }
    let now = world.sandbox.telegram.messages(CHAT);
    assert_eq!((first.len(), now.len()), (3, 6));
    for (first, again) in first.iter().zip(&now[3..]) {
        assert!(same_file(first, again), "{first:?} {again:?}");
        assert!(again.protected && again.kind == first.kind);
    }
    assert_eq!(world.sandbox.fal.totals(), before, "free");
    world.assert_clean();
}

#[test]
fn another_chat_gets_a_message_of_its_own_and_the_first_one_stays() {
    let (mut world, _daemon) = World::running();
    let telegram = &world.sandbox.telegram;
    let status = telegram.plant_message(CHAT, Kind::Text, false);
    let question = telegram.plant_message(CHAT, Kind::Text, false);
    let entry = job("a").chat(CHAT).telegram("status_message_id", status);
    world.push(entry.telegram("reply_to_message_id", question).json());
    world.wait_state("a", "done");
    let edits = world.sandbox.telegram.edits_count();
    let other = OTHER.to_string();
    let (text, code) = redeliver(&world, &["a", "--chat", &other]);
    assert_eq!(code, 0, "{text}");
    let first = world.sandbox.telegram.messages(CHAT);
    let there = world.sandbox.telegram.messages(OTHER);
    assert_eq!((first.len(), there.len()), (2, 1));
    assert!(same_file(&first[0], &there[0]) && there[0].reply_to.is_none());
    assert_eq!(world.sandbox.telegram.edits_count(), edits);
    // To its own chat too it comes as a new message.
    assert_eq!(redeliver(&world, &["a"]).1, 0);
    assert_eq!(world.sandbox.telegram.messages(CHAT).len(), 3);
    assert_eq!(redelivered(&mut world, "a").len(), 2);
    world.assert_clean();
}

#[test]
fn a_chat_that_was_unreachable_is_served_later_with_all_that_belongs_to_it() {
    let (mut world, _daemon) = World::running();
    world.sandbox.telegram.block(CHAT);
    world.push(job("a").chat(CHAT).telegram("caption", "for you").json());
    let dead = world.wait_state("a", "dead");
    assert_eq!(dead["kind"], "chat_unreachable");
    world.sandbox.telegram.unblock(CHAT);
    let (text, code) = redeliver(&world, &["a"]);
    assert_eq!(code, 0, "{text}");
    let messages = world.sandbox.telegram.messages(CHAT);
    assert_eq!(messages.len(), 1);
    assert!(messages[0].file.is_some() && messages[0].text == "for you");
    assert_eq!(world.sandbox.fal.totals().submits, 1);
    assert_eq!(world.state("a"), "dead", "what it was charged for stays");
    let dead: Vec<String> = world.redis(&["ZRANGE", "fal:dead", "0", "-1"]);
    assert_eq!(dead, ["a"], "a redelivery leaves no dead letter");
    // What arrived shows that the chat is there: the next job is paid for.
    world.push(job("next").chat(CHAT).json());
    world.wait_state("next", "done");
    world.assert_clean();
}

#[test]
fn a_redelivery_that_does_not_arrive_leaves_the_chat_unreachable() {
    let (mut world, _daemon) = World::running();
    world.sandbox.telegram.block(CHAT);
    world.push(job("a").chat(CHAT).json());
    world.wait_state("a", "dead");
    let (text, code) = redeliver(&world, &["a"]);
    assert!(
        text.contains("not sent: chat_unreachable") && code == 1,
        "{text}"
    );
    world.sandbox.telegram.unblock(CHAT);
    world.push(job("next").chat(CHAT).json());
    let next = world.wait_state("next", "dead");
    assert_eq!(next["charged"], "no", "{next:?}");
    assert_eq!(world.sandbox.fal.totals().submits, 1);
}

#[test]
fn a_redelivery_that_fails_says_so_and_tells_nobody_else() {
    let (mut world, _daemon) = World::running();
    world.push(job("a").chat(CHAT).json());
    let record = world.wait_state("a", "done");
    world.sandbox.telegram.block(CHAT);
    let (text, code) = redeliver(&world, &["a"]);
    assert!(
        text.contains("not sent: chat_unreachable") && code == 1,
        "{text}"
    );
    let events = redelivered(&mut world, "a");
    assert_eq!(
        (
            events[0]["kind"].as_str(),
            events[0]["message_ids"].as_str()
        ),
        ("chat_unreachable", "[]")
    );
    assert_eq!(world.record("a"), record);
    // Nor do those who look take it for a job that is done.
    let keys: Vec<String> = world.redis(&["KEYS", "fal:job:j-*"]);
    let id = keys[0].strip_prefix("fal:job:").unwrap();
    let told = |args: &[&str]| {
        let output = world.cli(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let why = told(&["why", id]).replace('\n', " ");
    let begins =
        format!("{id} is over. It could not send the result of job a again: chat_unreachable ");
    assert!(why.starts_with(&begins), "{why}");
    assert!(why.contains("fal-worker redeliver a "), "{why}");
    let show = told(&["show", id]);
    assert!(
        show.contains("its one event, redelivered, stands with job a: fal-worker show a\n"),
        "{show}"
    );
    let jobs = told(&["jobs"]);
    let row = |id: &str| -> Vec<&str> {
        let line = jobs.lines().find(|line| line.starts_with(id));
        line.unwrap().split_whitespace().take(4).collect()
    };
    assert_eq!(
        (row(id), row("a ")),
        (
            vec![id, "done", "redeliver", "chat_unreachable"],
            vec!["a", "done", "-", "-"]
        )
    );
    let failed = world
        .events()
        .iter()
        .filter(|event| event["event"] == "failed")
        .count();
    assert_eq!(failed, 0, "a bot that pays back must not hear of it");
    assert_eq!(world.redis::<u64>(&["EXISTS", "fal:dead"]), 0);
    world.assert_clean();
}

#[test]
fn of_a_result_that_came_half_the_rest_comes_from_fal() {
    let (mut world, _daemon) = World::running();
    let both = serde_json::json!({
        "images": [{"url": "{files}/a.png", "content_type": "image/png"}],
        "audio": {"url": "{files}/b.mp3", "content_type": "audio/mpeg"},
    });
    let script = Script::new(Outcome::Json(both));
    world.sandbox.fal.model("fal-ai/both", script);
    let blocked = Fault::telegram(403, "Forbidden: bot was blocked by the user");
    world
        .sandbox
        .faults
        .add(Rule::first(1, "tg.sendphoto", blocked));
    world.push(job("a").model("fal-ai/both").chat(CHAT).json());
    let dead = world.wait_state("a", "dead");
    let kept = dead.get("file_kinds").map(String::as_str);
    assert_eq!(kept, Some(r#"["0:audio"]"#), "{dead:?}");
    assert_eq!(redeliver(&world, &["a"]).1, 0);
    let messages = world.sandbox.telegram.messages(CHAT);
    let kinds: Vec<Kind> = messages.iter().map(|message| message.kind).collect();
    assert_eq!(kinds, [Kind::Audio, Kind::Audio, Kind::Photo]);
    assert!(same_file(&messages[0], &messages[1]));
    assert_eq!(world.sandbox.fal.totals().submits, 1);
    world.assert_clean();
}

#[test]
fn a_text_is_sent_again_and_a_result_without_a_chat_goes_to_the_one_that_is_named() {
    let (mut world, _daemon) = World::running();
    let text = Script::new(Outcome::Text("a haiku".to_owned()));
    world.sandbox.fal.model("fal-ai/text", text);
    world.push_all(&[
        job("text").model("fal-ai/text").chat(CHAT).json(),
        job("alone").json(),
    ]);
    world.wait_state("text", "done");
    world.wait_state("alone", "done");
    assert_eq!(redeliver(&world, &["text"]).1, 0);
    let texts: Vec<String> = (world.sandbox.telegram.messages(CHAT).into_iter())
        .map(|message| message.text)
        .collect();
    assert_eq!(texts, ["a haiku", "a haiku"]);

    let (text, code) = redeliver(&world, &["alone"]);
    assert!(text.contains("name one with --chat") && code == 1, "{text}");
    let other = OTHER.to_string();
    let (text, code) = redeliver(&world, &["alone", "--chat", &other]);
    assert_eq!(code, 0, "{text}");
    assert!(world.sandbox.telegram.messages(OTHER)[0].file.is_some());
    world.assert_clean();
}

#[test]
fn what_cannot_be_sent_again_is_said_in_words() {
    let (mut world, _daemon) = World::running();
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("open").chat(CHAT).json());
    assert!(hold.wait_arrived(1, SOON));
    let error = Outcome::error(422, serde_json::json!({"detail": "no"}));
    world.sandbox.fal.model("fal-ai/fails", Script::new(error));
    for (args, word, expected) in [
        (vec!["open"], "has not ended", 1),
        (vec!["nobody"], "no such job", 1),
        (vec!["nobody", "--chat", "7"], "no such job", 1),
        (
            vec!["open", "--chat", "me"],
            "expected a number or @name",
            2,
        ),
        (vec!["open", "--chat", "0"], "expected a number or @name", 2),
    ] {
        let (text, code) = redeliver(&world, &args);
        assert!(text.contains(word), "{args:?}: {text}");
        assert_eq!(code, expected, "{args:?}");
    }
    hold.release();
    world.push(job("fails").model("fal-ai/fails").chat(CHAT).json());
    world.wait_state("fails", "dead");
    world.wait_state("open", "done");
    world.push(job("mute").model("fal-ai/fails").json());
    world.wait_state("mute", "dead");
    // Nor is a chat asked for in vain.
    for id in ["fails", "mute"] {
        let (text, code) = redeliver(&world, &[id]);
        assert!(text.contains("nothing of it") && code == 1, "{text}");
    }
    world.assert_clean();
}

#[test]
fn a_file_id_that_telegram_refuses_gives_way_to_the_file_at_fal() {
    let (mut world, _daemon) = World::running();
    world.push(job("a").chat(CHAT).json());
    world.wait_state("a", "done");
    let refused = "Bad Request: can't use file of type Photo as Document";
    let rule = Rule::first(1, "tg.sendphoto", Fault::telegram(400, refused));
    let rule = world.sandbox.faults.add(rule);
    assert_eq!(redeliver(&world, &["a"]).1, 0);
    assert_eq!(world.sandbox.faults.fired(rule), 1);
    let messages = world.sandbox.telegram.messages(CHAT);
    assert_eq!(messages.len(), 2);
    assert!(messages[1].via_url().is_some(), "{messages:#?}");
    world.assert_clean();
}

#[test]
fn a_redelivery_survives_the_death_of_its_worker_and_its_second_send_is_counted() {
    let (mut world, mut daemon) = World::running();
    world.push(job("a").chat(CHAT).json());
    world.wait_state("a", "done");
    let hold = world.sandbox.telegram.hold("tg.sendphoto");
    let mut command = world.cli(&["redeliver", "a"]);
    let mut command = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    assert!(hold.wait_arrived(1, SOON));
    daemon.kill();
    hold.release();
    let _heir = world.daemon(&["--threads", "4"]);
    let events = eventually(
        SOON,
        || redelivered(&mut world, "a"),
        |events| !events.is_empty(),
    );
    assert_eq!(events.len(), 1);
    assert_eq!(world.counted("resent_after_unknown"), 1);
    let messages = world.sandbox.telegram.messages(CHAT);
    assert!((2..=3).contains(&messages.len()), "{messages:#?}");
    command.wait().unwrap();
    world.assert_clean();
}

#[test]
fn a_redelivery_given_up_after_crashes_says_what_is_in_the_chat() {
    let (mut world, mut daemon) = World::running();
    world.push(job("a").chat(CHAT).json());
    world.wait_state("a", "done");
    assert_eq!(daemon.stop(), Some(0));
    let mut command = world.cli(&["redeliver", "a"]);
    let mut command = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let waits =
        |world: &mut World| world.redis::<Vec<String>>(&["LRANGE", "fal:ready:resume", "0", "-1"]);
    let made = eventually(SOON, || waits(&mut world), |ids| ids.len() == 1);
    // As the last crash leaves it.
    let (key, rung) = (format!("fal:job:{}", made[0]), r#"{"i":1,"m":[7001]}"#);
    let fields = [
        "phase", "telling", "kind", "crashed", "error", "x", "rung", rung,
    ];
    let set: Vec<&str> = ["HSET", &key].into_iter().chain(fields).collect();
    let _: u64 = world.redis(&set);
    let _next = world.daemon(&["--threads", "4"]);
    let events = eventually(
        SOON,
        || redelivered(&mut world, "a"),
        |events| !events.is_empty(),
    );
    assert_eq!(events[0]["message_ids"], "[7001]");
    assert_eq!(events[0]["kind"], "crashed");
    command.wait().unwrap();
    assert_eq!(world.sandbox.telegram.messages(CHAT).len(), 1);
}
