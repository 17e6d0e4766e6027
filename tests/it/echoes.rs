//! What a model repeats of its input is no part of its result: the user is not sent his own picture. Whoever
//! delivers counts the same items as whoever read the result.

use crate::support::{SOON, World, eventually, job};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::media;
use fal_worker::sandbox::telegram::{Kind, Message};
use serde_json::{Value, json};

const CHAT: i64 = 77_501;
const MODEL: &str = "fal-ai/echo";

/// A picture that lies at fal: the result of a job.
fn picture(world: &mut World) -> String {
    world.push(job("before").json());
    world.wait_state("before", "done");
    files(world, "before").remove(0).remove(0)
}

/// From now on the model makes one picture and says what it was made from, before or after it.
fn echo(world: &World, mine: &str, first: bool) {
    let name = if first { "a_image_url" } else { "image_url" };
    let output = json!({"image": {"url": "{files}/out.png"}, name: mine});
    let script = Script::new(Outcome::Json(output));
    world.sandbox.fal.model(MODEL, script);
}

fn input(mine: &str) -> Value {
    json!({"prompt": "make it rain", "image_url": mine})
}

/// The files of each event that has some.
fn files(world: &mut World, id: &str) -> Vec<Vec<String>> {
    let events = world.events_of(id).into_iter();
    let files = events.filter_map(|event| event.get("files").cloned());
    files
        .map(|files| serde_json::from_str(&files).unwrap())
        .collect()
}

fn status(world: &World, chat: i64) -> i64 {
    let telegram = &world.sandbox.telegram;
    telegram.plant_message(chat, Kind::Text, false)
}

fn is_out(message: &Message) -> bool {
    message
        .via_url()
        .is_some_and(|url| url.ends_with("/out.png"))
}

/// The status message has become the picture, nothing else was sent, and the events name this file alone.
fn assert_only_out(world: &mut World, id: &str, chat: i64, status: i64) {
    let messages = world.sandbox.telegram.messages(chat);
    let [message] = &messages[..] else {
        panic!("{id}: {messages:#?}");
    };
    assert!(is_out(message) && message.id == status, "{id}: {message:?}");
    let files = files(world, id);
    assert_eq!(files.len(), 2, "{id}: completed and done");
    for files in files {
        assert!(
            files.len() == 1 && files[0].ends_with("/out.png"),
            "{files:?}"
        );
    }
}

fn methods(world: &World, chat: i64) -> Vec<String> {
    let journal = world.sandbox.telegram.journal().into_iter();
    let of_chat = journal.filter(|entry| entry.chat == Some(chat));
    of_chat.map(|entry| entry.method).collect()
}

#[test]
fn a_picture_of_the_input_is_no_part_of_the_result() {
    let (mut world, _daemon) = World::running();
    let mine = picture(&mut world);
    // Known by its URL, in a queue and in a direct call; and put into the input by the worker.
    let file = world
        .sandbox
        .telegram
        .user_file(Kind::Photo, "a.jpg", media::png(8, 8, Some(1)));
    let members = json!({"image_url": file});
    world.push(job("up").with("input_files", members.clone()).json());
    world.wait_state("up", "done");
    let stored = world.sandbox.fal.uploads()[0].url.clone();
    let entries = [
        (
            "queue",
            &mine,
            job("queue")
                .with("input", input(&mine))
                .with("via", "queue"),
        ),
        (
            "direct",
            &mine,
            job("direct")
                .with("input", input(&mine))
                .with("via", "direct"),
        ),
        (
            "file",
            &stored,
            job("file").with("input_files", members.clone()),
        ),
        (
            "file-direct",
            &stored,
            job("file-direct")
                .with("input_files", members)
                .with("via", "direct"),
        ),
    ];
    for (number, (id, echoed, entry)) in entries.into_iter().enumerate() {
        let chat = CHAT + number as i64;
        echo(&world, echoed, number % 2 == 0);
        let status = status(&world, chat);
        let entry = entry.model(MODEL).chat(chat);
        world.push(entry.telegram("status_message_id", status).json());
        world.wait_state(id, "done");
        assert_only_out(&mut world, id, chat, status);
        assert_eq!(methods(&world, chat), ["editmessagemedia"], "{id}");
    }
    world.assert_clean();
}

#[test]
fn a_description_of_a_picture_is_delivered_in_place_of_the_picture() {
    let (mut world, _daemon) = World::running();
    let mine = picture(&mut world);
    let output = json!({"image_url": mine, "output": "a cat in the rain"});
    let script = Script::new(Outcome::Json(output));
    world.sandbox.fal.model(MODEL, script);
    let entry = job("a").model(MODEL).with("input", input(&mine));
    world.push(entry.chat(CHAT).json());
    world.wait_state("a", "done");
    let messages = world.sandbox.telegram.messages(CHAT);
    let texts: Vec<&str> = messages.iter().map(|m| m.text.as_str()).collect();
    assert_eq!(texts, ["a cat in the rain"]);
    world.assert_clean();
}

#[test]
fn a_model_that_gives_back_nothing_but_its_input_has_that_for_its_result() {
    let (mut world, _daemon) = World::running();
    let mine = picture(&mut world);
    let output = json!({"image_url": mine, "preview": mine, "images": [mine]});
    let script = Script::new(Outcome::Json(output));
    world.sandbox.fal.model(MODEL, script);
    let entry = job("a").model(MODEL).with("input", input(&mine));
    world.push(entry.chat(CHAT).json());
    world.wait_state("a", "done");
    let messages = world.sandbox.telegram.messages(CHAT);
    assert_eq!((messages.len(), messages[0].kind), (1, Kind::Photo));
    world.assert_clean();
}

#[test]
fn whoever_goes_on_with_a_delivery_or_repeats_it_sends_the_same_items() {
    let mut world = World::new();
    let mut first = world.daemon(&["--threads", "4"]);
    let mine = picture(&mut world);
    echo(&world, &mine, true);
    let status = status(&world, CHAT);
    let hold = world.sandbox.telegram.hold("tg.editmessagemedia");
    let entry = job("a").model(MODEL).with("input", input(&mine));
    let entry = entry.chat(CHAT).telegram("status_message_id", status);
    world.push(entry.json());
    assert!(hold.wait_arrived(1, SOON));
    assert_eq!(world.record("a")["echoes"], "[0]");
    first.kill();
    hold.release();
    let _next = world.daemon(&["--threads", "4"]);
    world.wait_state("a", "done");
    assert_only_out(&mut world, "a", CHAT, status);
    let output = world.cli(&["redeliver", "a"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let messages = world.sandbox.telegram.messages(CHAT);
    assert!(
        messages.len() == 2 && messages.iter().all(is_out),
        "{messages:#?}"
    );
    world.assert_clean_after_kills();
}

#[test]
fn a_kept_result_is_sent_later_without_the_input() {
    let (mut world, _daemon) = World::running();
    let mine = picture(&mut world);
    echo(&world, &mine, true);
    world.sandbox.telegram.block(CHAT);
    let entry = job("a").model(MODEL).with("input", input(&mine));
    world.push(entry.chat(CHAT).json());
    let record = world.wait_state("a", "dead");
    assert_eq!(record["kind"], "chat_unreachable");
    world.sandbox.telegram.unblock(CHAT);
    let output = world.cli(&["redeliver", "a"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let messages = world.sandbox.telegram.messages(CHAT);
    assert!(messages.len() == 1 && is_out(&messages[0]), "{messages:#?}");
    world.assert_clean();
}

/// A program before this one counted all files: what it recorded of its delivery means those.
#[test]
fn a_record_that_does_not_say_what_is_left_out_counts_all_that_the_result_names() {
    for (rung, expected) in [(None, &[false, true][..]), (Some(r#"{"i":1}"#), &[true])] {
        let mut world = World::new();
        let mut first = world.daemon(&["--threads", "4"]);
        let mine = picture(&mut world);
        echo(&world, &mine, true);
        let away = Rule::always("tg.*", Fault::ResetBeforeRead);
        world.sandbox.faults.add(away);
        let entry = job("a").model(MODEL).with("input", input(&mine));
        world.push(entry.chat(CHAT).json());
        world.wait_field("a", "phase", "delivering");
        first.kill();
        let _: u64 = world.redis(&["HDEL", "fal:job:a", "echoes", "rung"]);
        if let Some(rung) = rung {
            let _: u64 = world.redis(&["HSET", "fal:job:a", "rung", rung]);
        }
        world.sandbox.faults.clear();
        let _next = world.daemon(&["--threads", "4"]);
        world.wait_state("a", "done");
        let messages = world.sandbox.telegram.messages(CHAT);
        let sent: Vec<bool> = messages.iter().map(is_out).collect();
        assert_eq!(sent, expected, "{rung:?}: {messages:#?}");
        world.assert_clean_after_kills();
    }
}

#[test]
fn without_redis_a_result_is_kept_whole_and_not_waited_with() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "4"]);
    let mine = picture(&mut world);
    echo(&world, &mine, false);
    let hold = world.sandbox.fal.hold("fal.result");
    let entry = job("a").model(MODEL).with("input", input(&mine));
    world.push(entry.chat(CHAT).json());
    assert!(hold.wait_arrived(1, SOON));
    world.kill_redis();
    daemon.wait_log("redis lost");
    hold.release();
    // In the journal, while nobody else knows of it.
    let noted = |world: &World| {
        let files = world.step_files().into_iter();
        files
            .filter_map(|file| std::fs::read(file).ok())
            .any(|bytes| {
                let name = b"/out.png";
                bytes.windows(name.len()).any(|part| part == name)
            })
    };
    eventually(SOON, || noted(&world), |noted| *noted);
    world.sandbox.redis.restart().unwrap();
    world.wait_state("a", "done");
    let messages = world.sandbox.telegram.messages(CHAT);
    assert!(messages.len() == 2 && is_out(&messages[0]), "{messages:#?}");
    world.assert_clean();
}
