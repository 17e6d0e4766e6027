//! What the user sees: one result, in the right shape and place, and nothing twice, whatever Telegram
//! refuses on the way.

use crate::support::{SOON, World, eventually, job};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::telegram::{Kind, Message};
use serde_json::{Value, json};
use std::time::Duration;

const CHAT: i64 = 77_001;

/// The one message of a chat.
#[track_caller]
fn only(world: &World, chat: i64) -> Message {
    let mut messages = world.sandbox.telegram.messages(chat);
    assert_eq!(messages.len(), 1, "{messages:#?}");
    messages.remove(0)
}

/// The methods called for a chat, in order, each with its status.
fn calls(world: &World, chat: i64) -> Vec<(String, u16)> {
    let journal = world.sandbox.telegram.journal();
    journal
        .iter()
        .filter(|entry| entry.chat == Some(chat))
        .map(|entry| (entry.method.clone(), entry.status))
        .collect()
}

fn methods(calls: &[(String, u16)]) -> Vec<&str> {
    calls.iter().map(|(method, _)| method.as_str()).collect()
}

fn keyboard() -> Value {
    json!({"inline_keyboard": [[{"text": "Again", "callback_data": "again"}]]})
}

#[test]
fn a_text_status_message_becomes_the_result_with_caption_and_keyboard() {
    let (mut world, _daemon) = World::running();
    let status = world
        .sandbox
        .telegram
        .plant_message(CHAT, Kind::Text, false);
    world.push(
        job("edited")
            .chat(CHAT)
            .telegram("status_message_id", status)
            .telegram("caption", "<b>Done</b> &amp; out")
            .telegram("parse_mode", "HTML")
            .telegram("reply_markup", keyboard())
            .json(),
    );
    let record = world.wait_state("edited", "done");
    let message = only(&world, CHAT);
    assert_eq!(message.id, status);
    assert_eq!(message.kind, Kind::Photo);
    assert_eq!(message.text, "Done & out");
    assert_eq!(message.entities.len(), 1, "{:?}", message.entities);
    let shown = message.keyboard.as_ref().map(Value::to_string);
    assert!(shown.is_some_and(|shown| shown.contains("again")));
    assert!(message.via_url().unwrap().contains(&record["request_id"]));
    assert_eq!(message.edits, 1);
    assert_eq!(record["message_ids"], format!("[{status}]"));
    assert_eq!(world.sandbox.telegram.sends_count(), 0);
    world.assert_clean();
}

#[test]
fn a_photo_status_message_becomes_the_result_too() {
    let (mut world, _daemon) = World::running();
    let status = world
        .sandbox
        .telegram
        .plant_message(CHAT, Kind::Photo, false);
    world.push(
        job("edited")
            .chat(CHAT)
            .telegram("status_message_id", status)
            .json(),
    );
    let record = world.wait_state("edited", "done");
    let message = only(&world, CHAT);
    assert_eq!((message.id, message.kind), (status, Kind::Photo));
    assert!(message.via_url().unwrap().contains(&record["request_id"]));
    world.assert_clean();
}

#[test]
fn a_text_result_replaces_the_text_of_the_status_message() {
    let (mut world, _daemon) = World::running();
    let status = world
        .sandbox
        .telegram
        .plant_message(CHAT, Kind::Text, false);
    world.push(
        job("words")
            .model("fal-ai/any-llm")
            .chat(CHAT)
            .telegram("status_message_id", status)
            .telegram("reply_markup", keyboard())
            .json(),
    );
    world.wait_state("words", "done");
    let message = only(&world, CHAT);
    assert_eq!(message.id, status);
    assert_eq!(message.text, "An answer in words.");
    assert!(message.keyboard.is_some());
    world.assert_clean();
}

#[test]
fn a_status_message_that_is_gone_is_followed_by_one_fresh_send() {
    let (mut world, _daemon) = World::running();
    let status = world
        .sandbox
        .telegram
        .plant_message(CHAT, Kind::Text, false);
    world.sandbox.telegram.remove_message(CHAT, status);
    world.push(
        job("gone")
            .chat(CHAT)
            .telegram("status_message_id", status)
            .telegram("caption", "here")
            .json(),
    );
    let record = world.wait_state("gone", "done");
    let message = only(&world, CHAT);
    assert_ne!(message.id, status);
    assert_eq!((message.kind, message.text.as_str()), (Kind::Photo, "here"));
    assert_eq!(record["message_ids"], format!("[{}]", message.id));
    assert_eq!(
        methods(&calls(&world, CHAT)),
        ["editmessagemedia", "sendphoto"]
    );
    world.assert_clean();
}

#[test]
fn a_status_message_with_a_reply_keyboard_is_replaced_and_deleted() {
    let (mut world, _daemon) = World::running();
    let status = world.sandbox.telegram.plant_message(CHAT, Kind::Text, true);
    world.push(
        job("kept")
            .chat(CHAT)
            .telegram("status_message_id", status)
            .json(),
    );
    world.wait_state("kept", "done");
    let message = only(&world, CHAT);
    assert_ne!(message.id, status);
    assert_eq!(message.kind, Kind::Photo);
    assert_eq!(
        methods(&calls(&world, CHAT)),
        ["editmessagemedia", "sendphoto", "deletemessage"]
    );
    world.assert_no_violations();
}

#[test]
fn several_outputs_are_sent_in_order_and_then_the_status_message_is_deleted() {
    let (mut world, _daemon) = World::running();
    let status = world
        .sandbox
        .telegram
        .plant_message(CHAT, Kind::Text, false);
    world.push(
        job("four")
            .model("fal-ai/flux/schnell")
            .chat(CHAT)
            .telegram("status_message_id", status)
            .telegram("caption", "four")
            .telegram("reply_markup", keyboard())
            .json(),
    );
    let record = world.wait_state("four", "done");
    let messages = world.sandbox.telegram.messages(CHAT);
    let ids: Vec<i64> = messages.iter().map(|message| message.id).collect();
    // Four pictures, and the text that carries what an album cannot.
    assert_eq!(ids.len(), 5);
    assert!(!ids.contains(&status));
    assert_eq!(record["message_ids"], json!(ids).to_string());
    for (number, message) in messages[..4].iter().enumerate() {
        assert!(
            message
                .via_url()
                .unwrap()
                .ends_with(&format!("/{number}.png")),
            "{message:?}"
        );
    }
    let captions: Vec<&str> = messages
        .iter()
        .map(|message| message.text.as_str())
        .collect();
    assert_eq!(captions, ["", "", "", "", "four"]);
    assert!(messages[4].keyboard.is_some());
    assert_eq!(messages[4].reply_to, Some(messages[0].id));
    assert_eq!(methods(&calls(&world, CHAT)).last(), Some(&"deletemessage"));
    world.assert_clean();
}

#[test]
fn an_image_too_big_for_its_url_is_uploaded_as_a_photo() {
    let (mut world, _daemon) = World::running();
    world.push(
        job("big")
            .model("fal-ai/big")
            .chat(CHAT)
            .telegram("caption", "big")
            .json(),
    );
    let record = world.wait_state("big", "done");
    let message = only(&world, CHAT);
    assert_eq!((message.kind, message.text.as_str()), (Kind::Photo, "big"));
    assert_eq!(message.upload_name(), Some("0.jpg"));
    let files: Vec<String> =
        serde_json::from_str(&world.events_of("big").last().unwrap()["files"]).unwrap();
    assert_eq!(
        message.file.as_ref().map(|file| file.fingerprint),
        world.sandbox.fal.fingerprint_of(&files[0]),
        "the bytes are fal's"
    );
    assert_eq!(record["attempt"], "1");
    world.assert_clean();
}

#[test]
fn an_image_that_is_uploaded_goes_into_the_status_message() {
    let (mut world, _daemon) = World::running();
    let status = world
        .sandbox
        .telegram
        .plant_message(CHAT, Kind::Text, false);
    world.push(
        job("big")
            .model("fal-ai/big")
            .chat(CHAT)
            .telegram("status_message_id", status)
            .json(),
    );
    world.wait_state("big", "done");
    let message = only(&world, CHAT);
    assert_eq!((message.id, message.kind), (status, Kind::Photo));
    assert!(message.upload_name().is_some());
    world.assert_clean();
}

#[test]
fn a_file_too_big_for_telegram_is_delivered_as_a_text_with_its_link() {
    let (mut world, _daemon) = World::running();
    world.push(job("huge").model("fal-ai/huge").chat(CHAT).json());
    let record = world.wait_state("huge", "done");
    let message = only(&world, CHAT);
    assert_eq!(message.kind, Kind::Text);
    assert!(
        message
            .text
            .contains(&format!("/files/{}/0.mp4", record["request_id"])),
        "{message:?}"
    );
    assert_eq!(record["file_ids"], "[]");
    world.assert_clean();
}

#[test]
fn a_data_uri_is_uploaded_and_never_told_in_events() {
    let (mut world, _daemon) = World::running();
    world.push(job("inline").model("fal-ai/inline").chat(CHAT).json());
    world.wait_state("inline", "done");
    let message = only(&world, CHAT);
    assert_eq!(message.kind, Kind::Photo);
    assert_eq!(message.file.unwrap().dimensions, Some((64, 64)));
    for event in world.events_of("inline") {
        if let Some(files) = event.get("files") {
            let files: Vec<String> = serde_json::from_str(files).unwrap();
            assert!(files[0].starts_with("data:image/png;"), "{files:?}");
            assert!(files[0].ends_with(" bytes"), "{files:?}");
        }
    }
    world.assert_clean();
}

#[test]
fn retry_after_is_obeyed_by_parking_while_the_only_thread_serves_others() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "1"]);
    let rule = world
        .sandbox
        .faults
        .add(Rule::first(1, "tg.sendphoto", Fault::telegram_429(5)).for_requests_with("77001"));
    let pushed = std::time::Instant::now();
    world.push(job("limited").chat(77_001).json());
    eventually(
        SOON,
        || world.sandbox.faults.fired(rule),
        |fired| *fired == 1,
    );
    world.push(job("other").chat(77_002).json());
    world.wait_state("other", "done");
    assert_eq!(world.state("limited"), "running");
    world.wait_state("limited", "done");
    let journal = world.sandbox.telegram.journal();
    let sent = |chat: i64| {
        journal
            .iter()
            .find(|entry| entry.chat == Some(chat) && entry.status == 200)
            .unwrap()
            .at
    };
    assert!(sent(77_001) - pushed >= Duration::from_secs(5));
    assert!(sent(77_002) < sent(77_001));
    assert_eq!(world.sandbox.telegram.sends_count(), 2);
    world.assert_clean();
}

#[test]
fn an_edit_that_was_done_but_answered_with_500_is_repeated_and_nothing_is_sent() {
    let (mut world, _daemon) = World::running();
    let status = world
        .sandbox
        .telegram
        .plant_message(CHAT, Kind::Text, false);
    let body = json!({"ok": false, "error_code": 500, "description": "Internal Server Error"});
    let fault = Fault::AnswerAfterActing {
        status: 500,
        content_type: "application/json".into(),
        headers: Vec::new(),
        body: body.to_string().into_bytes(),
    };
    world
        .sandbox
        .faults
        .add(Rule::first(1, "tg.editmessagemedia", fault));
    world.push(
        job("edited")
            .chat(CHAT)
            .telegram("status_message_id", status)
            .json(),
    );
    world.wait_state("edited", "done");
    assert_eq!(only(&world, CHAT).id, status);
    let calls = calls(&world, CHAT);
    assert!(
        methods(&calls)
            .iter()
            .all(|method| *method == "editmessagemedia"),
        "{calls:?}"
    );
    assert_eq!(world.sandbox.telegram.sends_count(), 0);
    world.assert_clean();
}

#[test]
fn a_user_who_blocked_the_bot_ends_the_job_as_chat_unreachable_after_one_call() {
    let (mut world, _daemon) = World::running();
    world.sandbox.telegram.block(CHAT);
    world.push(job("blocked").chat(CHAT).json());
    let record = world.wait_state("blocked", "dead");
    assert_eq!(record["kind"], "chat_unreachable");
    assert_eq!(record["charged"], "yes");
    let events = world.events_of("blocked");
    let end = events.last().unwrap();
    assert_eq!(end["event"], "failed");
    assert_eq!(
        (end["kind"].as_str(), end["charged"].as_str()),
        ("chat_unreachable", "yes")
    );
    assert_eq!(calls(&world, CHAT).len(), 1);
    world.assert_clean();
}

#[test]
fn a_failure_is_told_in_the_language_of_the_job_and_without_internals() {
    let (mut world, _daemon) = World::running();
    world.push(job("en").model("fal-ai/refuses").chat(1).json());
    world.push(
        job("ru")
            .model("fal-ai/refuses")
            .chat(2)
            .telegram("lang", "ru")
            .json(),
    );
    let status = world.sandbox.telegram.plant_message(3, Kind::Text, false);
    world.push(
        job("edit")
            .model("fal-ai/bad-input")
            .chat(3)
            .telegram("lang", "ru")
            .telegram("status_message_id", status)
            .telegram("caption", "never seen")
            .json(),
    );
    for (id, kind) in [
        ("en", "content_policy"),
        ("ru", "content_policy"),
        ("edit", "invalid_input"),
    ] {
        let record = world.wait_state(id, "dead");
        assert_eq!(record["kind"], kind);
        assert_eq!(record["told"], "yes");
        assert_eq!(record["charged"], "no");
        assert!(!record["error"].contains("echo of"), "{record:?}");
    }
    assert_eq!(
        only(&world, 1).text,
        "Sorry, this request is not allowed by the content rules. Please change the text or the picture and try again."
    );
    assert_eq!(
        only(&world, 2).text,
        "К сожалению, запрос не прошёл проверку содержания. Измените текст или картинку и попробуйте снова."
    );
    let told = only(&world, 3);
    assert_eq!(told.id, status);
    assert_eq!(
        told.text,
        "К сожалению, такие параметры или файлы не подходят. Измените запрос и попробуйте снова."
    );
    world.assert_clean();
}

#[test]
fn lang_of_the_daemon_speaks_where_the_job_says_nothing() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "2", "--lang", "ru"]);
    world.push(job("default").model("fal-ai/refuses").chat(1).json());
    world.push(
        job("own")
            .model("fal-ai/refuses")
            .chat(2)
            .telegram("lang", "en")
            .json(),
    );
    world.wait_state("default", "dead");
    world.wait_state("own", "dead");
    assert!(only(&world, 1).text.starts_with("К сожалению"));
    assert!(only(&world, 2).text.starts_with("Sorry"));
    world.assert_clean();
}

#[test]
fn pictures_that_fal_blackened_are_not_shown_and_the_user_is_told() {
    let (mut world, _daemon) = World::running();
    world.push(job("black").model("fal-ai/nsfw").chat(CHAT).json());
    let record = world.wait_state("black", "dead");
    assert_eq!(
        (record["kind"].as_str(), record["charged"].as_str()),
        ("content_policy", "yes")
    );
    assert_eq!(only(&world, CHAT).kind, Kind::Text);
    world.assert_clean();
}

#[test]
fn a_ping_follows_an_edit_when_it_is_wanted_and_counts_as_no_result() {
    let (mut world, _daemon) = World::running();
    let statuses: Vec<i64> = (1..=4)
        .map(|chat| {
            world
                .sandbox
                .telegram
                .plant_message(chat, Kind::Text, false)
        })
        .collect();
    for (chat, ping) in [(1, "always"), (2, "auto"), (3, "never")] {
        world.push(
            job(ping)
                .chat(chat)
                .telegram("status_message_id", statuses[chat as usize - 1])
                .telegram("ping", ping)
                .telegram("lang", "ru")
                .json(),
        );
    }
    world.push(job("fresh").chat(5).telegram("ping", "always").json());
    let record = world.wait_state("always", "done");
    for id in ["auto", "never", "fresh"] {
        world.wait_state(id, "done");
    }
    let messages = world.sandbox.telegram.messages(1);
    assert_eq!(messages.len(), 2, "{messages:#?}");
    assert_eq!(messages[1].text, "Готово");
    assert_eq!(messages[1].reply_to, Some(statuses[0]));
    assert!(!messages[1].silent);
    assert_eq!(record["message_ids"], format!("[{}]", statuses[0]));
    // Quick jobs and fresh sends need none: the send itself makes a sound.
    for chat in [2, 3, 5] {
        only(&world, chat);
    }
    world.assert_clean();
}

#[test]
fn a_file_of_a_foreign_host_is_not_fetched_but_delivered_as_a_link_with_a_warning() {
    let (mut world, daemon) = World::running();
    let output = json!({"images": [{"url": "https://files.example.org/cat.png", "content_type": "image/png"}]});
    world
        .sandbox
        .fal
        .model("fal-ai/foreign", Script::new(Outcome::Json(output)));
    world.push(job("foreign").model("fal-ai/foreign").chat(CHAT).json());
    world.wait_state("foreign", "done");
    let message = only(&world, CHAT);
    assert_eq!(message.kind, Kind::Text);
    assert!(message.text.contains("https://files.example.org/cat.png"));
    assert_eq!(methods(&calls(&world, CHAT)), ["sendmessage"]);
    let log = daemon.log_text();
    let warned = log
        .lines()
        .any(|line| line.contains(" WARN ") && line.contains("job=foreign"));
    assert!(warned, "no warning:\n{log}");
    world.assert_clean();
}

#[test]
fn send_as_decides_what_a_file_is_sent_as() {
    let (mut world, _daemon) = World::running();
    world.push(job("doc").chat(1).telegram("send_as", "document").json());
    world.push(job("photo").chat(2).telegram("send_as", "photo").json());
    world.push(
        job("animation")
            .model("fal-ai/kling-video/v2/master/text-to-video")
            .chat(3)
            .telegram("send_as", "animation")
            .json(),
    );
    world.push(job("audio").model("fal-ai/f5-tts").chat(4).json());
    for id in ["doc", "photo", "animation", "audio"] {
        world.wait_state(id, "done");
    }
    let kinds: Vec<Kind> = (1..=4).map(|chat| only(&world, chat).kind).collect();
    assert_eq!(
        kinds,
        [Kind::Document, Kind::Photo, Kind::Animation, Kind::Audio]
    );
    world.assert_clean();
}

#[test]
fn the_jobs_wishes_for_its_message_are_kept() {
    let (mut world, _daemon) = World::running();
    let group = -1_001_234_567_890;
    world.sandbox.telegram.add_chat(group);
    world.sandbox.telegram.add_topic(group, 7);
    let asked = world
        .sandbox
        .telegram
        .plant_message(group, Kind::Text, false);
    world.push(
        job("wishes")
            .chat(group)
            .telegram("message_thread_id", 7)
            .telegram("reply_to_message_id", asked)
            .telegram("disable_notification", true)
            .telegram("protect_content", true)
            .telegram("has_spoiler", true)
            .json(),
    );
    world.wait_state("wishes", "done");
    let messages = world.sandbox.telegram.messages(group);
    let result = messages.iter().find(|message| message.kind == Kind::Photo);
    let result = result.expect("a photo");
    assert_eq!((result.thread, result.reply_to), (Some(7), Some(asked)));
    assert!(
        result.silent && result.protected && result.spoiler,
        "{result:?}"
    );
    world.assert_clean();
}

#[test]
fn a_url_that_telegram_cannot_fetch_is_fetched_and_uploaded_by_the_worker() {
    let (mut world, _daemon) = World::running();
    let page = Fault::Html502;
    world
        .sandbox
        .faults
        .add(Rule::always("file.telegram", page));
    world.push(job("uploaded").chat(CHAT).json());
    let record = world.wait_state("uploaded", "done");
    let message = only(&world, CHAT);
    assert_eq!(message.kind, Kind::Photo);
    assert!(message.upload_name().is_some());
    assert_eq!(record["message_ids"], format!("[{}]", message.id));
    world.assert_clean();
}

#[test]
fn delivery_url_never_uploads_and_delivery_upload_never_sends_a_url() {
    let mut world = World::new();
    let mut daemon = world.daemon(&["--threads", "2", "--delivery", "upload"]);
    world.push(job("up").chat(1).json());
    world.wait_state("up", "done");
    let message = only(&world, 1);
    assert!(message.upload_name().is_some() && message.via_url().is_none());
    assert_eq!(daemon.stop(), Some(0));
    let _daemon = world.daemon(&["--threads", "2", "--delivery", "url"]);
    world.push(job("by-url").chat(2).json());
    world.push(job("big").model("fal-ai/big").chat(3).json());
    world.wait_state("by-url", "done");
    world.wait_state("big", "done");
    assert!(only(&world, 2).via_url().is_some());
    assert_eq!(only(&world, 3).kind, Kind::Text);
    world.assert_clean();
}

#[test]
fn a_caption_beyond_telegrams_limit_is_delivered_whole_all_the_same() {
    let (mut world, _daemon) = World::running();
    let caption = "слово ".repeat(400);
    world.push(
        job("long")
            .chat(CHAT)
            .telegram("caption", caption.as_str())
            .json(),
    );
    let record = world.wait_state("long", "done");
    let messages = world.sandbox.telegram.messages(CHAT);
    assert_eq!(messages[0].kind, Kind::Photo);
    let words = |text: &str| text.matches("слово").count();
    assert!(
        messages.iter().any(|message| words(&message.text) == 400),
        "{messages:#?}"
    );
    let ids: Vec<i64> = messages.iter().map(|message| message.id).collect();
    assert_eq!(record["message_ids"], json!(ids).to_string());
    world.assert_clean();
}

#[test]
fn broken_markup_in_a_caption_costs_the_markup_and_not_the_result() {
    let (mut world, _daemon) = World::running();
    world.push(
        job("broken")
            .chat(CHAT)
            .telegram("caption", "<b>bold and never closed")
            .telegram("parse_mode", "HTML")
            .json(),
    );
    world.wait_state("broken", "done");
    let message = only(&world, CHAT);
    assert_eq!(message.kind, Kind::Photo);
    assert!(
        message.text.contains("bold and never closed"),
        "{message:?}"
    );
    world.assert_no_violations();
}

#[test]
fn broken_markup_in_an_edit_still_leaves_the_result_in_the_status_message() {
    let (mut world, _daemon) = World::running();
    let status = world
        .sandbox
        .telegram
        .plant_message(CHAT, Kind::Text, false);
    world.push(
        job("broken")
            .chat(CHAT)
            .telegram("status_message_id", status)
            .telegram("caption", "a < b, and <b>never closed")
            .telegram("parse_mode", "HTML")
            .json(),
    );
    world.wait_state("broken", "done");
    let message = only(&world, CHAT);
    assert_eq!((message.id, message.kind), (status, Kind::Photo));
    assert!(message.text.contains("never closed"), "{message:?}");
    assert_eq!(world.sandbox.telegram.sends_count(), 0);
    world.assert_no_violations();
}

#[test]
fn a_keyboard_that_telegram_refuses_is_left_out_and_the_result_arrives() {
    let (mut world, daemon) = World::running();
    let keyboards = [
        json!({"inline_keyboard": [{"text": "A", "callback_data": "a"}]}),
        json!({"inline_keyboard": {"text": "A", "callback_data": "a"}}),
        json!({"inline_keyboard": [[{"text": "", "callback_data": "a"}]]}),
        json!({"inline_keyboard": [[{"text": "A"}]]}),
        json!({"inline_keyboard": [[{"text": "A", "url": "nowhere"}]]}),
    ];
    for (number, keyboard) in keyboards.iter().enumerate() {
        let (id, chat) = (format!("k{number}"), CHAT + number as i64);
        let entry = job(&id)
            .chat(chat)
            .telegram("reply_markup", keyboard.clone());
        world.push(entry.json());
        world.wait_state(&id, "done");
        assert_eq!(only(&world, chat).kind, Kind::Photo, "{keyboard}");
    }
    assert_eq!(world.sandbox.telegram.sends_count(), keyboards.len() as u64);
    let warned = daemon.logged("why=\"refused: its keyboard is wrong, it goes without\"");
    assert_eq!(warned, keyboards.len());
    world.assert_no_violations();
}

#[test]
fn a_fresh_send_whose_answer_is_lost_is_sent_again_by_the_same_means_after_a_while_and_counted() {
    let (mut world, daemon) = World::running();
    world
        .sandbox
        .faults
        .add(Rule::first(1, "tg.sendphoto", Fault::ResetAfterActing));
    world.push(job("a").chat(7).json());
    let record = world.wait_state("a", "done");
    let sends = world.sandbox.telegram.journal();
    let sends: Vec<_> = sends.iter().filter(|entry| entry.chat == Some(7)).collect();
    assert_eq!(sends.len(), 2, "{sends:#?}");
    assert!(sends.iter().all(|entry| entry.method == "sendphoto"));
    assert_eq!(sends[0].args["photo"], sends[1].args["photo"]);
    let waited = sends[1].at.duration_since(sends[0].at);
    // And ten at most, as long as nothing else stands still: the end is waited for half a minute.
    assert!(waited >= Duration::from_secs(5), "{waited:?}");
    assert_eq!(world.counted("resent_after_unknown"), 1);
    assert_eq!(daemon.logged("sent again after unknown"), 1);
    assert_eq!(record["message_ids"], "[2]");
    world.assert_clean();
}
