//! The chain of fallbacks on the wire: which call follows which refusal, each rung once and in order.

use crate::support::{World, job};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::telegram::{Entry, Kind, Message};
use serde_json::json;

const CHAT: i64 = 81_001;

fn journal(world: &World, chat: i64) -> Vec<Entry> {
    let mut journal = world.sandbox.telegram.journal();
    journal.retain(|entry| entry.chat == Some(chat));
    journal
}

/// The calls for a chat that reached the methods: method, and how the file came.
fn calls(world: &World, chat: i64) -> Vec<String> {
    let calls = journal(world, chat);
    let words = calls.iter().map(|entry| match entry.parts.len() {
        0 => format!("{} {}", entry.method, entry.status),
        _ => format!("{} {} up", entry.method, entry.status),
    });
    words.collect()
}

#[track_caller]
fn only(world: &World, chat: i64) -> Message {
    let mut messages = world.sandbox.telegram.messages(chat);
    assert_eq!(messages.len(), 1, "{messages:#?}");
    messages.remove(0)
}

#[test]
fn the_chain_in_order_url_upload_document_link() {
    let (mut world, _daemon) = World::running();
    // No picture at all, whatever fal says; and documents are not allowed here.
    let output = json!({"image": {"url": "{files}/0.bin", "content_type": "image/png"}});
    let script = Script::new(Outcome::Json(output));
    world.sandbox.fal.model("fal-ai/odd", script);
    world.sandbox.telegram.forbid(CHAT, Kind::Document);
    world.push(
        job("odd")
            .model("fal-ai/odd")
            .chat(CHAT)
            .telegram("caption", "<b>here</b>")
            .telegram("parse_mode", "HTML")
            .json(),
    );
    world.wait_state("odd", "done");
    assert_eq!(
        calls(&world, CHAT),
        [
            "sendphoto 400",
            "sendphoto 400 up",
            "senddocument 400 up",
            "sendmessage 200"
        ]
    );
    let text = only(&world, CHAT).text;
    assert!(
        text.starts_with("here") && text.contains("/0.bin"),
        "{text}"
    );
    assert_eq!(world.counted("resent_after_unknown"), 0);
    world.assert_clean();
}

#[test]
fn the_chain_of_edits_in_order_url_upload_document_text() {
    let (mut world, _daemon) = World::running();
    let output = json!({"image": {"url": "{files}/0.bin", "content_type": "image/png"}});
    let script = Script::new(Outcome::Json(output));
    world.sandbox.fal.model("fal-ai/odd", script);
    let refused = Fault::telegram(413, "Request Entity Too Large");
    let refused = Rule::always("tg.editmessagemedia", refused);
    world
        .sandbox
        .faults
        .add(refused.for_requests_with("\"document\""));
    let status = world
        .sandbox
        .telegram
        .plant_message(CHAT, Kind::Text, false);
    let entry = job("odd").model("fal-ai/odd").chat(CHAT);
    world.push(entry.telegram("status_message_id", status).json());
    world.wait_state("odd", "done");
    assert_eq!(
        calls(&world, CHAT),
        [
            "editmessagemedia 400",
            "editmessagemedia 400 up",
            "editmessagetext 200"
        ]
    );
    let message = only(&world, CHAT);
    assert_eq!(message.id, status);
    assert!(message.text.contains("/0.bin"), "{message:?}");
    assert_eq!(world.sandbox.telegram.sends_count(), 0);
    world.assert_clean();
}

#[test]
fn a_chat_that_takes_no_files_gets_a_text_with_the_link() {
    let (mut world, _daemon) = World::running();
    for kind in [Kind::Photo, Kind::Document] {
        world.sandbox.telegram.forbid(CHAT, kind);
    }
    world.push(job("a").chat(CHAT).json());
    world.wait_state("a", "done");
    assert_eq!(
        calls(&world, CHAT),
        ["sendphoto 400", "senddocument 400 up", "sendmessage 200"]
    );
    assert!(only(&world, CHAT).text.contains("/0.png"));
    world.assert_clean();
}

#[test]
fn a_caption_whose_rest_is_refused_fails_no_job_whose_file_is_in_the_chat() {
    let (mut world, daemon) = World::running();
    let unknown = Fault::telegram(400, "Bad Request: SOMETHING_NEW");
    world
        .sandbox
        .faults
        .add(Rule::always("tg.sendmessage", unknown));
    let entry = job("a").chat(CHAT).telegram("caption", "word ".repeat(300));
    world.push(entry.json());
    let record = world.wait_state("a", "done");
    assert_eq!(
        record["message_ids"],
        format!("[{}]", only(&world, CHAT).id)
    );
    assert_eq!(calls(&world, CHAT), ["sendphoto 200"]);
    daemon.wait_log("a text could not follow its file job=a");
    world.assert_clean();
}

#[test]
fn a_group_that_takes_no_texts_gets_its_pictures_and_nobody_there_waits_for_an_hour() {
    const GROUP: i64 = -81_002;
    let (mut world, daemon) = World::running();
    world.sandbox.telegram.forbid(GROUP, Kind::Text);
    let album = Script::new(Outcome::Images(2));
    world.sandbox.fal.model("case/two", album);
    let keyboard = json!({"inline_keyboard": [[{"text": "Again", "callback_data": "a"}]]});
    let entry = job("album").model("case/two").chat(GROUP);
    world.push(entry.telegram("reply_markup", keyboard).json());
    let record = world.wait_state("album", "done");
    let ids: Vec<i64> = serde_json::from_str(&record["message_ids"]).unwrap();
    assert_eq!(ids.len(), 2, "{record:?}");
    daemon.wait_log("a text could not follow its file job=album");
    let long = "word ".repeat(300);
    world.push(job("long").chat(GROUP).telegram("caption", long).json());
    world.wait_state("long", "done");
    // What cannot be told says nothing about pictures.
    world.push(job("fails").model("fal-ai/refuses").chat(GROUP).json());
    assert_eq!(world.wait_state("fails", "dead")["told"], "no");
    let text = job("text").model("fal-ai/any-llm").chat(GROUP);
    world.push(text.json());
    let record = world.wait_state("text", "dead");
    assert_eq!(record["kind"], "chat_unreachable");
    assert_eq!(record["error"], "the chat takes no texts");
    world.push(job("next").chat(GROUP).json());
    world.wait_state("next", "done");
    assert_eq!(world.sandbox.telegram.messages(GROUP).len(), 4);
    world.assert_clean();
}

#[test]
fn a_group_that_takes_nothing_at_all_is_not_paid_for_again() {
    const GROUP: i64 = -81_012;
    let (mut world, _daemon) = World::running();
    for kind in [Kind::Photo, Kind::Document, Kind::Text] {
        world.sandbox.telegram.forbid(GROUP, kind);
    }
    world.push(job("first").chat(GROUP).json());
    let record = world.wait_state("first", "dead");
    assert_eq!(record["kind"], "chat_unreachable");
    assert_eq!(record["charged"], "yes");
    world.push(job("next").chat(GROUP).json());
    assert_eq!(world.wait_state("next", "dead")["charged"], "no");
    world.assert_clean();
}

#[test]
fn where_texts_are_forbidden_a_link_among_files_costs_none_of_them() {
    const GROUP: i64 = -81_003;
    let (mut world, _daemon) = World::running();
    world.sandbox.telegram.forbid(GROUP, Kind::Text);
    let output = json!({"images": [
        {"url": "{files}/0.png", "content_type": "image/png"},
        {"url": "https://elsewhere.example/1.png", "content_type": "image/png"},
        {"url": "{files}/2.gif", "content_type": "image/gif"},
    ]});
    let script = Script::new(Outcome::Json(output));
    world.sandbox.fal.model("case/mixed", script);
    world.push(job("a").model("case/mixed").chat(GROUP).json());
    let record = world.wait_state("a", "dead");
    assert_eq!((&*record["kind"], &*record["charged"]), ("telegram", "yes"));
    let error = "the chat takes no texts: 1 of 3 parts did not arrive";
    assert_eq!(record["error"], error);
    let messages = world.sandbox.telegram.messages(GROUP);
    let kinds: Vec<Kind> = messages.iter().map(|message| message.kind).collect();
    assert_eq!(kinds, [Kind::Photo, Kind::Animation]);
    let ids: Vec<i64> = messages.iter().map(|message| message.id).collect();
    assert_eq!(record["message_ids"], json!(ids).to_string());
    world.assert_clean();
}

#[test]
fn a_topic_that_is_gone_is_left_out_and_the_log_says_so() {
    let (mut world, daemon) = World::running();
    world.push(job("a").chat(CHAT).telegram("message_thread_id", 9).json());
    world.wait_state("a", "done");
    assert_eq!(calls(&world, CHAT), ["sendphoto 400", "sendphoto 200"]);
    assert_eq!(only(&world, CHAT).thread, None);
    let log = daemon.log_text();
    let warned = |line: &str| line.contains("WARN") && line.contains("job=a");
    assert!(log.lines().any(warned), "{log}");
    world.assert_clean();
}

#[test]
fn a_group_that_became_a_supergroup_is_followed_once_and_reported() {
    let (mut world, _daemon) = World::running();
    let (old, new) = (-5001, -1_001_005_001);
    world.sandbox.telegram.migrate(old, new);
    let entry = job("a").chat(old).telegram("reply_to_message_id", 7);
    world.push(entry.telegram("status_message_id", 8).json());
    world.push(job("album").model("fal-ai/flux/schnell").chat(old).json());
    for (id, methods) in [("a", 1), ("album", 4)] {
        let record = world.wait_state(id, "done");
        let events = world.events_of(id);
        let delivered = events
            .iter()
            .find(|event| event["event"] == "delivered")
            .unwrap();
        assert_eq!(delivered["migrated_to"], new.to_string());
        let ids: Vec<i64> = serde_json::from_str(&record["message_ids"]).unwrap();
        assert_eq!(ids.len(), methods, "{id}");
    }
    let old: Vec<String> = calls(&world, old);
    assert_eq!(old.len(), 2, "{old:?}");
    assert_eq!(world.sandbox.telegram.messages(new).len(), 5);
    // Elsewhere nothing is said of it.
    world.push(job("home").chat(CHAT).json());
    world.wait_state("home", "done");
    let events = world.events_of("home");
    assert!(
        events
            .iter()
            .all(|event| !event.contains_key("migrated_to"))
    );
    world.assert_clean();
}

#[test]
fn a_server_older_than_7_11_gets_a_fresh_send_and_the_status_message_is_deleted() {
    let (mut world, _daemon) = World::running();
    world.sandbox.telegram.older_than_7_11(true);
    let status = world
        .sandbox
        .telegram
        .plant_message(CHAT, Kind::Text, false);
    let keyboard = json!({"inline_keyboard": [[{"text": "Again", "callback_data": "again"}]]});
    world.push(
        job("a")
            .chat(CHAT)
            .telegram("status_message_id", status)
            .telegram("caption", "fresh")
            .telegram("reply_markup", keyboard)
            .json(),
    );
    world.wait_state("a", "done");
    assert_eq!(
        calls(&world, CHAT),
        ["editmessagemedia 400", "sendphoto 200", "deletemessage 200"]
    );
    let message = only(&world, CHAT);
    assert_ne!(message.id, status);
    assert_eq!(
        (message.kind, message.text.as_str()),
        (Kind::Photo, "fresh")
    );
    assert!(message.keyboard.is_some());
    world.assert_clean();
}

#[test]
fn a_status_message_that_is_media_gets_a_text_result_as_its_caption() {
    let (mut world, _daemon) = World::running();
    let status = world
        .sandbox
        .telegram
        .plant_message(CHAT, Kind::Photo, false);
    let entry = job("words").model("fal-ai/any-llm").chat(CHAT);
    world.push(entry.telegram("status_message_id", status).json());
    world.wait_state("words", "done");
    assert_eq!(
        calls(&world, CHAT),
        ["editmessagetext 400", "editmessagecaption 200"]
    );
    let message = only(&world, CHAT);
    assert_eq!(
        (message.id, message.text.as_str()),
        (status, "An answer in words.")
    );
    world.assert_clean();
}

#[test]
fn an_edit_that_was_done_before_its_answer_was_lost_is_not_modified_and_so_a_success() {
    let (mut world, _daemon) = World::running();
    let status = world
        .sandbox
        .telegram
        .plant_message(CHAT, Kind::Text, false);
    let lost = Rule::first(1, "tg.editmessagemedia", Fault::ResetAfterActing);
    world.sandbox.faults.add(lost);
    world.push(
        job("a")
            .chat(CHAT)
            .telegram("status_message_id", status)
            .telegram("ping", "always")
            .json(),
    );
    let record = world.wait_state("a", "done");
    let calls = journal(&world, CHAT);
    let methods: Vec<_> = calls.iter().map(|entry| entry.method.as_str()).collect();
    assert_eq!(
        methods,
        ["editmessagemedia", "editmessagemedia", "sendmessage"]
    );
    assert!(
        calls[1].description.contains("message is not modified"),
        "{calls:#?}"
    );
    assert_eq!(record["message_ids"], format!("[{status}]"));
    assert_eq!(world.counted("resent_after_unknown"), 0);
    world.assert_clean();
}

/// A refusal, whether of an edit, and what reaches the methods after it; `None`: the job ends as this.
type Row = (
    u16,
    &'static str,
    bool,
    Result<&'static [&'static str], &'static str>,
);

#[test]
fn one_error_text_of_each_class_leads_to_its_call_on_the_wire() {
    const SENT: Result<&[&str], &str> = Ok(&["sendphoto 200"]);
    const DOCUMENT: Result<&[&str], &str> = Ok(&["senddocument 200 up"]);
    #[rustfmt::skip]
    let rows: Vec<Row> = vec![
        (403, "Forbidden: bot was kicked from the group chat", false, Err("chat_unreachable")),
        (400, "Bad Request: PRIVACY_PREMIUM_REQUIRED", false, Err("chat_unreachable")),
        (400, "Bad Request: SLOWMODE_WAIT_1", false, SENT),
        (400, "Bad Request: group send failed", false, SENT),
        (500, "Internal Server Error: sent message was immediately deleted and can't be returned", false, Ok(&[])),
        (400, "Bad Request: WEBPAGE_CURL_FAILED", false, Ok(&["sendphoto 200 up"])),
        (400, "Bad Request: PHOTO_INVALID_DIMENSIONS", false, DOCUMENT),
        (400, "Bad Request: VIDEO_CONTENT_TYPE_INVALID", false, DOCUMENT),
        (400, "Bad Request: CHAT_SEND_PHOTOS_FORBIDDEN", false, DOCUMENT),
        (413, "Request Entity Too Large", false, Ok(&["sendmessage 200"])),
        (400, "Bad Request: file must be non-empty", false, SENT),
        (400, "Bad Request: can't use the media of the specified type in the album", false, Ok(&["sendphoto 200 up"])),
        (400, "Bad Request: can't parse entities: Unsupported start tag \"x\" at byte offset 4", false, SENT),
        (400, "Bad Request: ENTITY_BOUNDS_INVALID", false, SENT),
        (400, "Bad Request: message caption is too long", false, Ok(&["sendphoto 200", "sendmessage 200"])),
        (400, "Bad Request: message to be replied not found", false, SENT),
        (400, "Bad Request: TOPIC_DELETED", false, SENT),
        (400, "Bad Request: BUTTON_DATA_INVALID", false, SENT),
        (400, "Bad Request: SOMETHING_NEW", false, Ok(&["sendphoto 200 up"])),
        (400, "Bad Request: there is no photo in the request", false, Err("telegram")),
        (400, "Bad Request: message is not modified: specified new message content", true, Ok(&[])),
        (400, "Bad Request: canceled by new edit message request", true, Ok(&["editmessagemedia 200"])),
        (400, "Bad Request: MESSAGE_ID_INVALID", true, SENT),
        (400, "Bad Request: message was deleted", true, SENT),
        (400, "Bad Request: MESSAGE_EDIT_TIME_EXPIRED", true, Ok(&["sendphoto 200", "deletemessage 200"])),
        (400, "Bad Request: MEDIA_EMPTY", true, Ok(&["editmessagemedia 200 up"])),
        (400, "Bad Request: PHOTO_EXT_INVALID", true, Ok(&["editmessagemedia 200 up"])),
        (400, "Bad Request: MEDIA_CAPTION_TOO_LONG", true, Ok(&["editmessagemedia 200", "sendmessage 200"])),
        (400, "Bad Request: inline keyboard expected", true, Ok(&["editmessagemedia 200"])),
    ];
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "32"]);
    let mut rules = Vec::new();
    for (number, (status, text, edit, _)) in rows.iter().enumerate() {
        let chat = 812_501 + number as i64;
        let endpoint = if *edit {
            "tg.editmessagemedia"
        } else {
            "tg.sendphoto"
        };
        let rule = Rule::first(1, endpoint, Fault::telegram(*status, text));
        let rule = rule.for_requests_with(&chat.to_string());
        rules.push(world.sandbox.faults.add(rule));
        let keyboard = json!({"inline_keyboard": [[{"text": "Again", "callback_data": "again"}]]});
        let mut entry = job(&format!("r{number}"))
            .chat(chat)
            .telegram("caption", "<b>Done</b>")
            .telegram("parse_mode", "HTML")
            .telegram("reply_to_message_id", 3)
            .telegram("reply_markup", keyboard);
        if *edit {
            let message = world
                .sandbox
                .telegram
                .plant_message(chat, Kind::Text, false);
            entry = entry.telegram("status_message_id", message);
        }
        world.push(entry.json());
    }
    for (number, (_, text, _, wanted)) in rows.iter().enumerate() {
        let (id, chat) = (format!("r{number}"), 812_501 + number as i64);
        let seen = calls(&world, chat);
        match wanted {
            Ok(wanted) => {
                world.wait_state(&id, "done");
                assert_eq!(calls(&world, chat), *wanted, "{text}");
            }
            Err(kind) => {
                assert_eq!(
                    world.wait_state(&id, "dead")["kind"],
                    *kind,
                    "{text}: {seen:?}"
                );
            }
        }
        assert_eq!(world.sandbox.faults.fired(rules[number]), 1, "{text}");
    }
    let counted = world.counted("resent_after_unknown");
    assert_eq!(counted, 0, "nothing was in doubt");
    world.assert_clean();
}
