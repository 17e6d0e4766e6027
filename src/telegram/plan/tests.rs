//! Ladders walked from both ends: a delivery told as its outcomes, and the calls it must make. What builds a
//! parcel, walks it and tells its calls in words stands here; each file below is one thing that a delivery
//! has to get right.

mod albums;
mod bound;
mod calls;
mod doubt;
mod errors;
mod fuzz;
mod rungs;
mod status;
mod texts;
mod uploads;

use super::*;
use crate::job::answer::File;
use crate::job::spec::{ChatId, ParseMode, SendAs};
use crate::telegram::Method;
use crate::telegram::refusal::Repair;
use serde_json::value::RawValue;
use serde_json::{Value, json};

const STATUS: i64 = 310;
const ANY: &dyn Fn(&str) -> bool = &|_| true;

fn target() -> Target {
    Target {
        chat: ChatId::Id(42),
        status_message_id: Some(STATUS),
        message_thread_id: None,
        reply_to_message_id: None,
        send_as: SendAs::Auto,
        caption: None,
        parse_mode: None,
        reply_markup: None,
        status_markup: None,
        disable_notification: false,
        protect_content: false,
        has_spoiler: false,
        ping: Default::default(),
        lang: None,
    }
}

/// With everything a job can wish for.
fn rich() -> Target {
    let keyboard = r#"{"inline_keyboard":[[{"text":"Again","callback_data":"again"}]]}"#;
    Target {
        message_thread_id: Some(7),
        reply_to_message_id: Some(305),
        caption: Some("<b>Done</b>".into()),
        parse_mode: Some(ParseMode::Html),
        reply_markup: Some(RawValue::from_string(keyboard.into()).unwrap()),
        ..target()
    }
}

fn file(url: &str, content_type: &str) -> File {
    File {
        url: url.into(),
        content_type: Some(content_type.into()),
        ..File::default()
    }
}

fn photo() -> Item {
    Item::File(file("https://v3.fal.media/files/a/cat.png", "image/png"))
}

/// What no album takes.
fn gif() -> Item {
    Item::File(file("https://v3.fal.media/files/a/cat.gif", "image/gif"))
}

fn parcel<'a>(items: &'a [Item], target: &'a Target) -> Parcel<'a> {
    Parcel {
        items,
        target,
        lang: Lang::En,
        words: Words::built_in(),
        delivery: DeliveryMode::Auto,
        limits: TransferLimits::PUBLIC,
        may_fetch: ANY,
        ping_due: false,
    }
}

/// One line a call: method, how the file goes, and what else is in it.
fn describe(op: &Op) -> String {
    let (call, upload) = match op {
        Op::Finished => return "finished".into(),
        Op::Call(call) => (call, false),
        Op::Upload { call, .. } | Op::UploadAlbum { call, .. } => (call, true),
    };
    assert_eq!(upload, call.file_part.is_some());
    let media = call.args.get("media").and_then(Value::as_object);
    let group = call.args.get("media").and_then(Value::as_array);
    let in_media = |name: &str| match group {
        Some(group) => group.iter().filter(|one| one.get(name).is_some()).count() == 1,
        None => media.unwrap_or(&call.args).contains_key(name),
    };
    let mut words = vec![call.method.as_str().to_owned()];
    // An album by the first letters of its kinds.
    words.extend(group.map(|group| {
        let letters = group
            .iter()
            .filter_map(|one| one["type"].as_str()?.chars().next());
        letters.collect::<String>()
    }));
    words.extend(media.and_then(|m| m["type"].as_str()).map(str::to_owned));
    words.extend(upload.then(|| "up".into()));
    words.extend(call.by_url.then(|| "url".into()));
    words.extend(
        call.args
            .contains_key("link_preview_options")
            .then(|| "link".into()),
    );
    words.extend(in_media("caption").then(|| "+cap".into()));
    words.extend(in_media("parse_mode").then(|| "+mode".into()));
    words.extend(call.args.contains_key("reply_markup").then(|| "+kb".into()));
    words.extend(
        call.args
            .contains_key("reply_parameters")
            .then(|| "+re".into()),
    );
    words.extend(
        call.args
            .contains_key("message_thread_id")
            .then(|| "+th".into()),
    );
    words.extend((call.args["chat_id"] != json!(42)).then(|| format!("@{}", call.args["chat_id"])));
    words.join(" ")
}

enum End {
    Finished(Progress),
    Failed(Failure),
    Operator,
}

/// Walks a delivery: the given refusals first, then successes with ids from 1000.
fn walk(parcel: &Parcel<'_>, outcomes: Vec<Refusal>) -> (Vec<String>, End) {
    walk_from(parcel, outcomes.into_iter().map(Err).collect())
}

/// The same with successes between the refusals.
fn walk_from(parcel: &Parcel<'_>, outcomes: Vec<Result<(), Refusal>>) -> (Vec<String>, End) {
    let mut outcomes = outcomes.into_iter();
    let (mut calls, mut progress, mut id) = (Vec::new(), Progress::default(), 1000);
    for _ in 0..100 {
        // As after a restart: through the record.
        progress = Progress::parse(&progress.to_text()).expect("our own text");
        let op = next(parcel, &progress);
        assert_eq!(is_finished(parcel, &progress), op == Op::Finished);
        if op == Op::Finished {
            assert!(outcomes.next().is_none(), "outcomes left after {calls:?}");
            return match lost(parcel.items, &progress) {
                Some(failure) => (calls, End::Failed(failure)),
                None => (calls, End::Finished(progress)),
            };
        }
        calls.push(describe(&op));
        let messages = match &op {
            Op::Call(call) | Op::Upload { call, .. } | Op::UploadAlbum { call, .. } => {
                call.messages() as i64
            }
            Op::Finished => 0,
        };
        let outcome = outcomes.next().unwrap_or(Ok(())).map(|()| {
            id += messages;
            Sent {
                messages: messages as usize,
                message_ids: (id - messages + 1..=id).collect(),
                ..Sent::default()
            }
        });
        progress = match after(parcel, &progress, outcome, 0.5) {
            After::Go(progress)
            | After::Without { progress, .. }
            | After::Wait { progress, .. }
            | After::Unknown { progress, .. } => progress,
            After::Failed(failure) => return (calls, End::Failed(failure)),
            After::OperatorTrouble(_) => return (calls, End::Operator),
        };
    }
    panic!("no end: {calls:?}");
}

#[track_caller]
fn finishes(parcel: &Parcel<'_>, outcomes: Vec<Refusal>, wanted: &[&str]) -> Progress {
    let (calls, end) = walk(parcel, outcomes);
    assert_eq!(calls, wanted);
    match end {
        End::Finished(progress) => progress,
        End::Failed(failure) => panic!("failed: {failure:?}"),
        End::Operator => panic!("operator trouble"),
    }
}

#[track_caller]
fn fails(parcel: &Parcel<'_>, outcomes: Vec<Refusal>, wanted: &[&str]) -> Kind {
    let (calls, end) = walk(parcel, outcomes);
    assert_eq!(calls, wanted);
    match end {
        End::Failed(failure) => failure.kind,
        End::Finished(_) | End::Operator => panic!("did not fail"),
    }
}

fn fall(cause: Cause) -> Refusal {
    Refusal::FallBack(cause)
}

fn unknown() -> Refusal {
    Refusal::Unknown("reset".into())
}

fn other() -> Refusal {
    Refusal::Other400("Bad Request: SOMETHING_NEW".into())
}
