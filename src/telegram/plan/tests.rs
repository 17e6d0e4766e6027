//! Ladders walked from both ends: each table row is a delivery told as its outcomes, and the calls it
//! must make; then random refusals, which every ladder must survive within a bound.

use super::kind::{file_name, is_http};
use super::*;
use crate::job::answer::{File, Held};
use crate::job::failure::Remedy;
use crate::job::spec::{ChatId, ParseMode, SendAs};
use crate::telegram::Method;
use crate::telegram::refusal::Repair;
use crate::telegram::text::{self, CAPTION, MESSAGE};
use serde_json::value::RawValue;
use serde_json::{Value, json};

mod albums;
mod errors;
mod fuzz;

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

/// Walks a delivery: the given outcomes first, then successes with ids from 1000.
fn walk(parcel: &Parcel<'_>, outcomes: Vec<Refusal>) -> (Vec<String>, End) {
    let mut outcomes = outcomes.into_iter();
    let (mut calls, mut progress, mut id) = (Vec::new(), Progress::default(), 1000);
    for _ in 0..100 {
        // As after a restart: through the record.
        progress = Progress::parse(&progress.to_text()).expect("our own text");
        let op = next(parcel, &progress);
        assert_eq!(is_finished(parcel, &progress), op == Op::Finished);
        if op == Op::Finished {
            assert!(outcomes.next().is_none(), "outcomes left after {calls:?}");
            return (calls, End::Finished(progress));
        }
        calls.push(describe(&op));
        let messages = match &op {
            Op::Call(call) | Op::Upload { call, .. } | Op::UploadAlbum { call, .. } => {
                call.messages() as i64
            }
            Op::Finished => 0,
        };
        let outcome = outcomes.next().map_or_else(
            || {
                id += messages;
                Ok(Sent {
                    message_ids: (id - messages + 1..=id).collect(),
                    ..Sent::default()
                })
            },
            Err,
        );
        progress = match after(parcel, &progress, outcome, 0.5) {
            After::Go(progress)
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

#[test]
fn one_file_and_a_status_message_make_one_edit() {
    let (items, target) = ([photo()], rich());
    let progress = finishes(
        &parcel(&items, &target),
        vec![],
        &["editMessageMedia photo url +cap +mode +kb"],
    );
    assert_eq!(progress.message_ids, [STATUS]);
    // The second edit after a crash changes nothing, which is success.
    let progress = finishes(
        &parcel(&items, &target),
        vec![Refusal::NotModified],
        &["editMessageMedia photo url +cap +mode +kb"],
    );
    assert_eq!(progress.message_ids, [STATUS]);
}

#[test]
fn an_edit_names_everything_again_and_puts_the_markup_inside_the_media() {
    let video = File {
        width: Some(640),
        height: Some(480),
        duration_s: Some(5),
        ..file("https://v3.fal.media/a/b.mp4?x=1", "video/mp4")
    };
    let (items, target) = (
        [Item::File(video)],
        Target {
            has_spoiler: true,
            ..rich()
        },
    );
    let Op::Call(call) = next(&parcel(&items, &target), &Progress::default()) else {
        panic!()
    };
    assert_eq!(
        Value::Object(call.args),
        json!({
            "chat_id": 42, "message_id": STATUS,
            "media": {
                "type": "video", "media": "https://v3.fal.media/a/b.mp4?x=1", "caption": "<b>Done</b>",
                "parse_mode": "HTML", "has_spoiler": true, "supports_streaming": true,
                "width": 640, "height": 480, "duration": 5,
            },
            "reply_markup": {"inline_keyboard": [[{"text": "Again", "callback_data": "again"}]]},
        })
    );
}

#[test]
fn a_fresh_upload_carries_the_file_in_the_part_of_its_kind() {
    let (items, target) = (
        [Item::File(file(
            "https://v3.fal.media/a/b%20c.wav",
            "audio/wav",
        ))],
        Target {
            status_message_id: None,
            chat: ChatId::Name("@room".into()),
            protect_content: true,
            disable_notification: true,
            has_spoiler: true,
            ..rich()
        },
    );
    let Op::Upload {
        url,
        call,
        max_bytes,
        file_name,
        content_type,
    } = next(&parcel(&items, &target), &Progress::default())
    else {
        panic!()
    };
    assert_eq!(
        (url.as_str(), file_name.as_str(), content_type.as_str()),
        ("https://v3.fal.media/a/b%20c.wav", "b_20c.wav", "audio/wav")
    );
    assert!((49_900_000..50_000_000).contains(&max_bytes), "{max_bytes}");
    assert_eq!(
        (call.method, call.file_part),
        (Method::SendDocument, Some("document"))
    );
    assert_eq!(
        Value::Object(call.args),
        json!({
            "chat_id": "@room", "message_thread_id": 7, "caption": "<b>Done</b>", "parse_mode": "HTML",
            "reply_parameters": {"message_id": 305, "allow_sending_without_reply": true},
            "disable_notification": true, "protect_content": true, "disable_content_type_detection": true,
            "reply_markup": {"inline_keyboard": [[{"text": "Again", "callback_data": "again"}]]},
        })
    );
}

#[test]
fn the_ladder_of_a_file_is_walked_rung_by_rung() {
    let (items, target) = ([photo()], target());
    let parcel = parcel(&items, &target);
    let all = [
        "editMessageMedia photo url",
        "editMessageMedia photo up",
        "editMessageMedia document up",
        "editMessageText link",
    ];
    finishes(&parcel, vec![], &all[..1]);
    finishes(&parcel, vec![fall(Cause::UrlRefused)], &all[..2]);
    finishes(
        &parcel,
        vec![fall(Cause::UrlRefused), fall(Cause::PhotoRefused)],
        &all[..3],
    );
    finishes(
        &parcel,
        vec![
            fall(Cause::UrlRefused),
            fall(Cause::PhotoRefused),
            fall(Cause::TooBig),
        ],
        &all,
    );
    let to_the_end = vec![
        fall(Cause::UrlRefused),
        fall(Cause::UrlRefused),
        fall(Cause::UrlRefused),
    ];
    finishes(&parcel, to_the_end, &all);
    // Telegram has seen the bytes by itself: no use in showing them as a photo again.
    finishes(&parcel, vec![fall(Cause::PhotoRefused)], &[all[0], all[2]]);
    finishes(
        &parcel,
        vec![fall(Cause::KindForbidden), fall(Cause::KindForbidden)],
        &[all[0], all[2], all[3]],
    );
    finishes(&parcel, vec![fall(Cause::TooBig)], &[all[0], all[3]]);
    let empty = vec![
        fall(Cause::UrlRefused),
        fall(Cause::FileEmpty),
        fall(Cause::FileEmpty),
    ];
    finishes(&parcel, empty, &[all[0], all[1], all[1], all[3]]);
}

#[test]
fn a_chat_that_takes_nothing_is_given_up() {
    let (items, target) = ([photo()], target());
    let parcel = parcel(&items, &target);
    let kinds = vec![
        fall(Cause::KindForbidden),
        fall(Cause::KindForbidden),
        fall(Cause::KindForbidden),
    ];
    let calls = [
        "editMessageMedia photo url",
        "editMessageMedia document up",
        "editMessageText link",
    ];
    assert_eq!(fails(&parcel, kinds, &calls), Kind::ChatUnreachable);
    assert_eq!(
        fails(
            &parcel,
            vec![Refusal::Unreachable("blocked".into())],
            &calls[..1]
        ),
        Kind::ChatUnreachable
    );
    assert_eq!(
        fails(&parcel, vec![Refusal::Bug("no photo".into())], &calls[..1]),
        Kind::Telegram
    );
    let (_, end) = walk(&parcel, vec![Refusal::Operator("Unauthorized".into())]);
    assert!(matches!(end, End::Operator));
}

#[test]
fn a_status_message_that_cannot_be_edited_is_replaced_then_deleted() {
    let (items, target) = ([photo()], rich());
    let parcel = parcel(&items, &target);
    let edit = "editMessageMedia photo url +cap +mode +kb";
    let send = "sendPhoto url +cap +mode +kb +re +th";
    let progress = finishes(
        &parcel,
        vec![fall(Cause::EditRefused)],
        &[edit, send, "deleteMessage"],
    );
    assert_eq!(progress.message_ids, [1001]);
    // Gone: nothing to delete.
    finishes(&parcel, vec![fall(Cause::EditGone)], &[edit, send]);
    // The rung is kept on the way from the edit to the send.
    finishes(
        &parcel,
        vec![fall(Cause::UrlRefused), fall(Cause::EditRefused)],
        &[
            edit,
            "editMessageMedia photo up +cap +mode +kb",
            "sendPhoto up +cap +mode +kb +re +th",
            "deleteMessage",
        ],
    );
}

#[test]
fn errors_of_the_deletion_never_fail_a_delivery() {
    let (items, target) = ([photo(), photo()], target());
    let parcel = parcel(&items, &target);
    let mut sent = Progress {
        item: 2,
        delete_due: true,
        message_ids: vec![1, 2],
        ..Progress::default()
    };
    for refusal in [
        Refusal::Gone,
        other(),
        Refusal::Operator("Unauthorized".into()),
        Refusal::Unreachable("kicked".into()),
    ] {
        let After::Go(progress) = after(&parcel, &sent, Err(refusal), 0.0) else {
            panic!()
        };
        assert_eq!(next(&parcel, &progress), Op::Finished);
    }
    for n in 0.. {
        match after(&parcel, &sent, Err(unknown()), 0.0) {
            After::Wait {
                progress,
                counted: true,
                ..
            } => sent = progress,
            After::Go(progress) => {
                assert_eq!((next(&parcel, &progress), n), (Op::Finished, 3));
                break;
            }
            end => panic!("{end:?}"),
        }
    }
}

#[test]
fn what_no_album_takes_goes_one_by_one_and_the_last_has_caption_and_keyboard() {
    let (items, target) = ([photo(), gif(), Item::Text("a tale".into())], rich());
    let progress = finishes(
        &parcel(&items, &target),
        vec![],
        &[
            "sendPhoto url +re +th",
            "sendAnimation url +re +th",
            "sendMessage +mode +kb +re +th",
            "deleteMessage",
        ],
    );
    assert_eq!(progress.message_ids, [1001, 1002, 1003]);
    // Each has its own ladder.
    finishes(
        &parcel(&items[..2], &target),
        vec![fall(Cause::UrlRefused)],
        &[
            "sendPhoto url +re +th",
            "sendPhoto up +re +th",
            "sendAnimation url +cap +mode +kb +re +th",
            "deleteMessage",
        ],
    );
    let nothing: [Item; 0] = [];
    finishes(&parcel(&nothing, &target), vec![], &[]);
}

#[test]
fn each_repair_is_made_once_on_the_same_rung() {
    let (items, target) = (
        [photo()],
        Target {
            status_message_id: None,
            ..rich()
        },
    );
    let parcel = parcel(&items, &target);
    let first = "sendPhoto url +cap +mode +kb +re +th";
    let table = [
        (Repair::ParseError, "sendPhoto url +cap +kb +re +th"),
        (Repair::Entities, "sendPhoto url +cap +kb +re +th"),
        (Repair::ReplyGone, "sendPhoto url +cap +mode +kb +th"),
        (Repair::ThreadGone, "sendPhoto url +cap +mode +kb +re"),
        (Repair::MarkupRefused, "sendPhoto url +cap +mode +re +th"),
        (
            Repair::Migrated(-1007),
            "sendPhoto url +cap +mode +kb +th @-1007",
        ),
    ];
    for (repair, second) in table {
        finishes(&parcel, vec![Refusal::Repair(repair)], &[first, second]);
        let again = vec![Refusal::Repair(repair), Refusal::Repair(repair)];
        if repair == Repair::ThreadGone {
            assert_eq!(
                fails(&parcel, again, &[first, second]),
                Kind::ChatUnreachable
            );
        } else {
            // A repair that did not help is a 400 like any other: one rung down.
            finishes(
                &parcel,
                again,
                &[first, second, &second.replace(" url", " up")],
            );
        }
    }
}

#[test]
fn a_migrated_group_gets_a_fresh_send_and_no_old_message_is_touched() {
    let (items, target) = ([photo()], rich());
    let calls = [
        "editMessageMedia photo url +cap +mode +kb",
        "sendPhoto url +cap +mode +kb +th @-1007",
    ];
    let progress = finishes(
        &parcel(&items, &target),
        vec![Refusal::Repair(Repair::Migrated(-1007))],
        &calls,
    );
    assert_eq!(progress.message_ids, [1001]);
}

#[test]
fn broken_markup_shows_as_plain_text() {
    let (items, target) = (
        [photo()],
        Target {
            caption: Some("<b>2 &lt; 3</b> <x>".into()),
            ..rich()
        },
    );
    let parcel = parcel(&items, &target);
    let After::Go(progress) = after(
        &parcel,
        &Progress::default(),
        Err(Refusal::Repair(Repair::ParseError)),
        0.0,
    ) else {
        panic!()
    };
    let Op::Call(call) = next(&parcel, &progress) else {
        panic!()
    };
    assert_eq!(call.args["media"]["caption"], "2 < 3 <x>");
    assert_eq!(call.args["media"].get("parse_mode"), None);
}

#[test]
fn a_caption_that_is_too_long_is_cut_and_follows_whole() {
    // 600 characters of two units each: the server may take it whole, so it is tried whole.
    let (items, target) = (
        [photo()],
        Target {
            caption: Some(format!("<b>{}</b>", "😀".repeat(600))),
            ..rich()
        },
    );
    let edit = "editMessageMedia photo url +cap +mode +kb";
    let cut = "editMessageMedia photo url +cap +kb";
    let progress = finishes(&parcel(&items, &target), vec![], &[edit]);
    assert_eq!(progress.message_ids, [STATUS]);
    let long = || Refusal::Repair(Repair::CaptionTooLong);
    let progress = finishes(
        &parcel(&items, &target),
        vec![long()],
        &[edit, cut, "sendMessage +mode +re +th"],
    );
    assert_eq!(progress.message_ids, [STATUS, 1002]);
    finishes(
        &parcel(&items, &target),
        vec![long(), long()],
        &[
            edit,
            cut,
            "editMessageMedia photo url +kb",
            "sendMessage +mode +re +th",
        ],
    );
    // Sure to be refused: cut at once, and no ping, since the text makes its own sound.
    let target = Target {
        caption: Some("word ".repeat(1000)),
        ..target
    };
    let parcel = Parcel {
        ping_due: true,
        ..parcel(&items, &target)
    };
    finishes(
        &parcel,
        vec![],
        &[cut, "sendMessage +re +th", "sendMessage +re +th"],
    );
    let Op::Call(call) = next(&parcel, &Progress::default()) else {
        panic!()
    };
    let caption = call.args["media"]["caption"].as_str().unwrap();
    assert!(text::units(caption) <= CAPTION && caption.ends_with('…'));
    // The text answers the message it belongs to.
    let After::Go(progress) = after(&parcel, &Progress::default(), Ok(Sent::default()), 0.0) else {
        panic!()
    };
    let Op::Call(call) = next(&parcel, &progress) else {
        panic!()
    };
    assert_eq!(call.args["reply_parameters"]["message_id"], STATUS);
}

#[test]
fn a_long_text_becomes_several_messages_and_the_last_has_the_keyboard() {
    let (items, target) = (
        [Item::Text("word ".repeat(2000))],
        Target {
            caption: None,
            ..rich()
        },
    );
    let calls = [
        "editMessageText",
        "sendMessage +re +th",
        "sendMessage +kb +re +th",
    ];
    let progress = finishes(&parcel(&items, &target), vec![], &calls);
    assert_eq!(progress.message_ids, [STATUS, 1002, 1003]);
    // Into a caption only 1024 go.
    let calls = [
        "editMessageText",
        "editMessageCaption +cap",
        "sendMessage +re +th",
        "sendMessage +re +th",
        "sendMessage +kb +re +th",
    ];
    finishes(
        &parcel(&items, &target),
        vec![fall(Cause::NoTextInMessage)],
        &calls,
    );
    let calls = [
        "editMessageText",
        "editMessageCaption +cap",
        "sendMessage +re +th",
        "sendMessage +re +th",
        "sendMessage +kb +re +th",
        "deleteMessage",
    ];
    finishes(
        &parcel(&items, &target),
        vec![
            fall(Cause::NoTextInMessage),
            fall(Cause::NoCaptionInMessage),
        ],
        &calls,
    );
}

#[test]
fn no_word_of_a_long_text_is_lost_between_the_messages() {
    let words: Vec<String> = (0..3000).map(|n| format!("w{n}")).collect();
    let (items, target) = ([Item::Text(words.join(" "))], target());
    let parcel = parcel(&items, &target);
    for edit in [Edit::Open, Edit::Caption, Edit::Refused] {
        let (mut progress, mut seen) = (
            Progress {
                edit,
                ..Progress::default()
            },
            Vec::new(),
        );
        while let Op::Call(call) = next(&parcel, &progress) {
            let text = call
                .args
                .get("text")
                .or(call.args.get("caption"))
                .and_then(Value::as_str)
                .unwrap_or_default();
            let limit = if call.method == Method::EditMessageCaption {
                CAPTION
            } else {
                MESSAGE
            };
            assert!(text::units(text) <= limit);
            seen.extend(text.split_whitespace().map(str::to_owned));
            let After::Go(after) = after(&parcel, &progress, Ok(Sent::default()), 0.0) else {
                panic!()
            };
            progress = after;
        }
        assert_eq!(seen, words, "{edit:?}");
    }
}

#[test]
fn a_caption_stands_on_top_of_a_text_that_is_escaped_for_it() {
    let (items, target) = ([Item::Text("1 < 2".into())], rich());
    let parcel = parcel(&items, &target);
    let Op::Call(call) = next(&parcel, &Progress::default()) else {
        panic!()
    };
    assert_eq!(call.args["text"], "<b>Done</b>\n\n1 &lt; 2");
    let Op::Call(call) = next(
        &parcel,
        &Progress {
            plain: true,
            ..Progress::default()
        },
    ) else {
        panic!()
    };
    assert_eq!(call.args["text"], "Done\n\n1 < 2");
}

#[test]
fn a_text_of_nothing_becomes_a_fixed_one() {
    let target = target();
    let (blank, hollow) = ([Item::Text(" \n".into())], [Item::Text("\u{2800}".into())]);
    let Op::Call(call) = next(&parcel(&blank, &target), &Progress::default()) else {
        panic!()
    };
    assert_eq!(call.args["text"], "(empty)");
    let empty = || Refusal::Repair(Repair::TextEmpty);
    finishes(
        &parcel(&hollow, &target),
        vec![empty()],
        &["editMessageText", "editMessageText"],
    );
    assert_eq!(
        fails(
            &parcel(&hollow, &target),
            vec![empty(), empty(), empty()],
            &["editMessageText", "editMessageText", "sendMessage"]
        ),
        Kind::Telegram
    );
}

#[test]
fn a_fixed_text_takes_the_place_of_one_message_only() {
    let (items, target) = ([Item::Text("word ".repeat(2000))], target());
    let parcel = parcel(&items, &target);
    let at = Progress {
        part: 1,
        edited: true,
        ..Progress::default()
    };
    let After::Go(fixed) = after(&parcel, &at, Err(Refusal::Repair(Repair::TextEmpty)), 0.0) else {
        panic!()
    };
    let Op::Call(call) = next(&parcel, &fixed) else {
        panic!()
    };
    assert_eq!(call.args["text"], "(empty)");
    let After::Go(third) = after(&parcel, &fixed, Ok(Sent::default()), 0.0) else {
        panic!()
    };
    let Op::Call(call) = next(&parcel, &third) else {
        panic!()
    };
    assert_eq!((third.part, call.args["text"] == "(empty)"), (2, false));
}

#[test]
fn a_failure_is_told_by_the_same_machine() {
    let (items, full) = (
        [Item::Text("No money left.".into())],
        Target {
            has_spoiler: true,
            ..rich()
        },
    );
    let target = telling_target(&full);
    let parcel = parcel(&items, &target);
    finishes(&parcel, vec![], &["editMessageText"]);
    finishes(
        &parcel,
        vec![fall(Cause::NoTextInMessage)],
        &["editMessageText", "editMessageCaption +cap"],
    );
    finishes(
        &parcel,
        vec![fall(Cause::EditGone)],
        &["editMessageText", "sendMessage +re +th"],
    );
}

#[test]
fn a_link_says_where_the_file_is_and_keeps_the_caption() {
    let (items, target) = ([photo()], rich());
    let parcel = parcel(&items, &target);
    let Op::Call(call) = next(
        &parcel,
        &Progress {
            way: Way::Link,
            ..Progress::default()
        },
    ) else {
        panic!()
    };
    assert_eq!(
        Value::Object(call.args),
        json!({
            "chat_id": 42, "message_id": STATUS, "text": "Done\n\nThe file is here: https://v3.fal.media/files/a/cat.png",
            "link_preview_options": {"is_disabled": false, "url": "https://v3.fal.media/files/a/cat.png"},
            "reply_markup": {"inline_keyboard": [[{"text": "Again", "callback_data": "again"}]]},
        })
    );
    // A caption beside which no link fits goes apart; a link too long for a caption is sent fresh.
    let long_url = [Item::File(file(
        &format!("https://v3.fal.media/{}", "x".repeat(1100)),
        "model/gltf-binary",
    ))];
    let target = Target {
        caption: Some("word ".repeat(700)),
        ..rich()
    };
    let parcel = Parcel {
        may_fetch: &|_| false,
        items: &long_url,
        target: &target,
        ..parcel
    };
    finishes(
        &parcel,
        vec![],
        &["editMessageText link +kb", "sendMessage +mode +re +th"],
    );
    finishes(
        &parcel,
        vec![fall(Cause::NoTextInMessage)],
        &[
            "editMessageText link +kb",
            "sendMessage link +kb +re +th",
            "sendMessage +mode +re +th",
            "deleteMessage",
        ],
    );
}

#[test]
fn an_unknown_edit_is_repeated_and_counts_as_no_resend() {
    let (items, target) = ([photo()], target());
    let parcel = parcel(&items, &target);
    let mut progress = Progress::default();
    let mut waited = Vec::new();
    for _ in 0..20 {
        let After::Unknown {
            progress: after,
            wait,
            resend: false,
        } = after(&parcel, &progress, Err(unknown()), 0.0)
        else {
            panic!()
        };
        assert_eq!(
            describe(&next(&parcel, &after)),
            "editMessageMedia photo url"
        );
        waited.push(wait.as_secs());
        progress = after;
    }
    assert_eq!(waited[..5], [5, 10, 20, 40, 60]);
    assert_eq!(progress.sends, 0);
}

#[test]
fn an_unknown_send_is_repeated_up_to_five_sends_and_never_changed() {
    let (items, target) = (
        [photo()],
        Target {
            status_message_id: None,
            ..target()
        },
    );
    let parcel = parcel(&items, &target);
    let five = ["sendPhoto url"; 5];
    finishes(&parcel, vec![unknown(); 4], &five);
    assert_eq!(fails(&parcel, vec![unknown(); 5], &five), Kind::Telegram);
    // A definite answer after a doubt decides; the count stays with the message, not with the rung.
    let outcomes = vec![
        unknown(),
        unknown(),
        fall(Cause::UrlRefused),
        unknown(),
        unknown(),
        unknown(),
    ];
    let calls = [
        "sendPhoto url",
        "sendPhoto url",
        "sendPhoto url",
        "sendPhoto up",
        "sendPhoto up",
        "sendPhoto up",
    ];
    assert_eq!(fails(&parcel, outcomes, &calls), Kind::Telegram);
    // The next message counts anew.
    let two = [photo(), gif()];
    let parcel = Parcel {
        items: &two,
        ..parcel
    };
    let mut calls = five.to_vec();
    calls.push("sendAnimation url");
    finishes(&parcel, vec![unknown(); 4], &calls);
}

#[test]
fn a_message_that_was_sent_and_removed_is_not_sent_again() {
    let (items, target) = (
        [photo()],
        Target {
            status_message_id: None,
            ..target()
        },
    );
    let progress = finishes(
        &parcel(&items, &target),
        vec![Refusal::AlreadySent("deleted".into())],
        &["sendPhoto url"],
    );
    assert_eq!(progress.message_ids, Vec::<i64>::new());
}

#[test]
fn waits_are_as_long_as_telegram_says_and_change_nothing() {
    let (items, target) = ([photo()], target());
    let parcel = parcel(&items, &target);
    let wait = Duration::from_secs(7);
    let After::Wait {
        progress,
        for_,
        counted,
    } = after(
        &parcel,
        &Progress::default(),
        Err(Refusal::RetryAfter { wait }),
        0.25,
    )
    else {
        panic!()
    };
    assert_eq!(
        (progress, for_, counted),
        (Progress::default(), Duration::from_millis(7250), false)
    );
    let away = Refusal::NotSent("refused".into());
    let After::Wait {
        progress,
        for_,
        counted,
    } = after(&parcel, &Progress::default(), Err(away), 0.0)
    else {
        panic!()
    };
    assert_eq!(
        (progress.sends, for_, counted),
        (0, Duration::from_secs(1), false)
    );
}

#[test]
fn a_superseded_edit_is_made_again_a_few_times() {
    let (items, target) = ([photo()], target());
    finishes(
        &parcel(&items, &target),
        vec![Refusal::EditSuperseded; 3],
        &["editMessageMedia photo url"; 4],
    );
}

#[test]
fn an_unknown_400_is_worth_one_rung() {
    let status = target();
    let fresh = Target {
        status_message_id: None,
        ..target()
    };
    let (items, text) = ([photo()], [Item::Text("a".into())]);
    finishes(
        &parcel(&items, &status),
        vec![other()],
        &[
            "editMessageMedia photo url",
            "sendPhoto up",
            "deleteMessage",
        ],
    );
    assert_eq!(
        fails(
            &parcel(&items, &fresh),
            vec![other(), other()],
            &["sendPhoto url", "sendPhoto up"]
        ),
        Kind::Telegram
    );
    assert_eq!(
        fails(&parcel(&text, &fresh), vec![other()], &["sendMessage"]),
        Kind::Telegram
    );
    finishes(
        &parcel(&text, &status),
        vec![other()],
        &["editMessageText", "sendMessage", "deleteMessage"],
    );
}

#[test]
fn a_ping_follows_an_edit_once_whatever_becomes_of_it() {
    let (items, target) = (
        [photo()],
        Target {
            caption: None,
            ..rich()
        },
    );
    let parcel = Parcel {
        ping_due: true,
        lang: Lang::Ru,
        ..parcel(&items, &target)
    };
    let calls = ["editMessageMedia photo url +kb", "sendMessage +re +th"];
    let progress = finishes(&parcel, vec![], &calls);
    assert_eq!(progress.message_ids, [STATUS]);
    // No sound is needed after a fresh send.
    finishes(
        &parcel,
        vec![fall(Cause::EditGone)],
        &[calls[0], "sendPhoto url +kb +re +th"],
    );
    let due = Progress {
        item: 1,
        edited: true,
        ping_due: true,
        ..Progress::default()
    };
    let Op::Call(call) = next(&parcel, &due) else {
        panic!()
    };
    assert_eq!(
        (
            &call.args["text"],
            &call.args["reply_parameters"]["message_id"]
        ),
        (&json!("Готово"), &json!(STATUS))
    );
    for refusal in [
        unknown(),
        Refusal::NotSent("away".into()),
        Refusal::RetryAfter {
            wait: Duration::from_secs(9),
        },
        other(),
    ] {
        let After::Go(progress) = after(&parcel, &due, Err(refusal), 0.0) else {
            panic!()
        };
        assert_eq!(next(&parcel, &progress), Op::Finished);
    }
    let (progress, resent) = resumed_in_doubt(&parcel, &due).unwrap();
    assert_eq!((next(&parcel, &progress), resent), (Op::Finished, false));
}

#[test]
fn a_crash_counts_as_a_send_in_doubt_but_not_as_an_edit_in_doubt() {
    let items = [photo()];
    let (status, fresh) = (
        target(),
        Target {
            status_message_id: None,
            ..target()
        },
    );
    assert_eq!(
        resumed_in_doubt(&parcel(&items, &status), &Progress::default()),
        Ok((Progress::default(), false))
    );
    let mut progress = Progress::default();
    for n in 1..=4 {
        let resent;
        (progress, resent) = resumed_in_doubt(&parcel(&items, &fresh), &progress).unwrap();
        assert_eq!((progress.sends, resent), (n, true));
    }
    assert_eq!(
        resumed_in_doubt(&parcel(&items, &fresh), &progress)
            .unwrap_err()
            .kind,
        Kind::Telegram
    );
    // All is sent, only the status message is left: deleting twice is deleting.
    let left = Progress {
        item: 1,
        delete_due: true,
        ..Progress::default()
    };
    assert_eq!(
        resumed_in_doubt(&parcel(&items, &status), &left),
        Ok((left.clone(), false))
    );
}

#[test]
fn the_first_rung_follows_type_size_shape_host_and_mode() {
    let by = |content_type: &str, url: &str| file(url, content_type);
    let https = "https://v3.fal.media/f/x";
    #[rustfmt::skip]
    let table: Vec<(&str, File, SendAs, DeliveryMode, &str)> = vec![
        ("jpeg", by("image/jpeg", https), SendAs::Auto, DeliveryMode::Auto, "sendPhoto url"),
        ("webp", by("image/webp", https), SendAs::Auto, DeliveryMode::Auto, "sendPhoto url"),
        ("gif", by("image/gif", https), SendAs::Auto, DeliveryMode::Auto, "sendAnimation url"),
        ("svg", by("image/svg+xml", https), SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("avif", by("image/avif", https), SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("mp4", by("video/mp4", https), SendAs::Auto, DeliveryMode::Auto, "sendVideo url"),
        ("webm", by("video/webm", https), SendAs::Auto, DeliveryMode::Auto, "sendVideo up"),
        ("mp3", by("audio/mpeg", https), SendAs::Auto, DeliveryMode::Auto, "sendAudio url"),
        ("wav", by("audio/wav", https), SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("pdf", by("application/pdf", https), SendAs::Auto, DeliveryMode::Auto, "sendDocument url"),
        ("json", by("application/json", https), SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("octets.png", by("application/octet-stream", "https://h/a.PNG?b=c.mp4#d"), SendAs::Auto, DeliveryMode::Auto, "sendPhoto url"),
        ("nothing", File { url: https.into(), ..File::default() }, SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("name", File { url: https.into(), name: Some("v.mp4".into()), ..File::default() }, SendAs::Auto, DeliveryMode::Auto, "sendVideo url"),
        ("as document", by("image/png", https), SendAs::Document, DeliveryMode::Auto, "sendDocument up"),
        ("as animation", by("video/mp4", https), SendAs::Animation, DeliveryMode::Auto, "sendAnimation url"),
        ("as photo", File { url: https.into(), ..File::default() }, SendAs::Photo, DeliveryMode::Auto, "sendPhoto up"),
        ("5 MB", File { size: Some(5_000_000), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendPhoto url"),
        ("6 MB", File { size: Some(6_000_000), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendPhoto up"),
        ("11 MB", File { size: Some(11_000_000), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("51 MB", File { size: Some(51_000_000), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendMessage link"),
        ("21 MB video", File { size: Some(21_000_000), ..by("video/mp4", https) }, SendAs::Auto, DeliveryMode::Auto, "sendVideo up"),
        ("too wide", File { width: Some(9000), height: Some(1001), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("too narrow", File { width: Some(2001), height: Some(100), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("just right", File { width: Some(2000), height: Some(100), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendPhoto url"),
        ("upload", by("image/png", https), SendAs::Auto, DeliveryMode::Upload, "sendPhoto up"),
        ("url", by("image/png", https), SendAs::Auto, DeliveryMode::Url, "sendPhoto url"),
        ("url, not taken", by("audio/wav", https), SendAs::Auto, DeliveryMode::Url, "sendMessage link"),
        ("data", by("image/png", "data:image/png;base64,AAAA"), SendAs::Auto, DeliveryMode::Url, "sendPhoto up"),
        ("data alone", File { url: "DATA:image/png;base64,AAAA".into(), ..File::default() }, SendAs::Auto, DeliveryMode::Auto, "sendPhoto up"),
        ("other host", by("image/png", "https://elsewhere.example/x"), SendAs::Auto, DeliveryMode::Auto, "sendMessage link"),
        ("no url", by("image/png", "ftp://h/x"), SendAs::Auto, DeliveryMode::Auto, "sendMessage"),
    ];
    for (name, file, send_as, delivery, wanted) in table {
        let (items, target) = (
            [Item::File(file)],
            Target {
                send_as,
                status_message_id: None,
                ..target()
            },
        );
        let may_fetch = |url: &str| !url.contains("elsewhere");
        let parcel = Parcel {
            delivery,
            may_fetch: &may_fetch,
            ..parcel(&items, &target)
        };
        assert_eq!(
            describe(&next(&parcel, &Progress::default())),
            wanted,
            "{name}"
        );
    }
}

#[test]
fn sizes_that_make_no_sense_are_only_large() {
    let target = target();
    for (url, wanted) in [
        ("https://h/v.mp4", "editMessageText link"),
        ("data:video/mp4;base64,AA", "editMessageMedia video up"),
    ] {
        let items = [Item::File(File {
            size: Some(u64::MAX),
            ..file(url, "video/mp4")
        })];
        finishes(&parcel(&items, &target), vec![], &[wanted]);
    }
}

#[test]
fn a_link_that_is_refused_is_sent_once_more_without_its_preview() {
    let (items, target) = (
        [photo()],
        Target {
            status_message_id: None,
            ..target()
        },
    );
    let parcel = Parcel {
        may_fetch: &|_| false,
        ..parcel(&items, &target)
    };
    finishes(
        &parcel,
        vec![fall(Cause::UrlRefused)],
        &["sendMessage link", "sendMessage"],
    );
    assert_eq!(
        fails(
            &parcel,
            vec![other(), other()],
            &["sendMessage link", "sendMessage"]
        ),
        Kind::Telegram
    );
}

#[test]
fn delivery_by_url_alone_never_uploads() {
    let (items, target) = ([photo()], target());
    let parcel = Parcel {
        delivery: DeliveryMode::Url,
        ..parcel(&items, &target)
    };
    finishes(
        &parcel,
        vec![fall(Cause::UrlRefused)],
        &["editMessageMedia photo url", "editMessageText link"],
    );
}

#[test]
fn a_document_is_uploaded_once_only() {
    let (items, target) = (
        [Item::File(file("https://h/a.pdf", "application/pdf"))],
        target(),
    );
    let calls = [
        "editMessageMedia document url",
        "editMessageMedia document up",
        "editMessageText link",
    ];
    finishes(
        &parcel(&items, &target),
        vec![fall(Cause::UrlRefused), fall(Cause::UrlRefused)],
        &calls,
    );
}

#[test]
fn what_cannot_be_downloaded_is_sent_as_a_link() {
    let target = target();
    let (items, data) = (
        [photo()],
        [Item::File(file("data:image/png;base64,AAAA", "image/png"))],
    );
    let at = Progress {
        way: Way::Upload,
        ..Progress::default()
    };
    for problem in [
        DownloadProblem::Gone,
        DownloadProblem::TooBig,
        DownloadProblem::HostNotAllowed,
        DownloadProblem::Exhausted,
    ] {
        let After::Go(progress) = after_download(&parcel(&items, &target), &at, problem) else {
            panic!()
        };
        assert_eq!(
            describe(&next(&parcel(&items, &target), &progress)),
            "editMessageText link"
        );
        assert!(matches!(
            after_download(&parcel(&data, &target), &at, problem),
            After::Failed(_)
        ));
    }
    // A photo that turns out to be large goes as a document, with the same file.
    for (size, wanted) in [(10 << 20, "photo"), ((10 << 20) + 1, "document")] {
        let mut items = items.clone();
        let looks = Looks {
            len: size,
            ..Looks::default()
        };
        seen(&mut items, 0, &looks);
        let progress = fetched(&parcel(&items, &target), &at, 1);
        assert_eq!(
            describe(&next(&parcel(&items, &target), &progress)),
            format!("editMessageMedia {wanted} up")
        );
    }
    // Its own data has no link.
    assert_eq!(
        fails(
            &parcel(&data, &target),
            vec![fall(Cause::TooBig)],
            &["editMessageMedia photo up"]
        ),
        Kind::FileTooBig
    );
}

#[test]
fn file_names_have_the_extension_of_their_type() {
    let table = [
        (
            "https://h/f/abc.png",
            Some("image/png"),
            None,
            SendKind::Photo,
            "abc.png",
        ),
        (
            "https://h/f/abc.webp",
            Some("image/webp"),
            None,
            SendKind::Photo,
            "abc.jpg",
        ),
        (
            "https://h/f/abc.webp",
            Some("image/webp"),
            None,
            SendKind::Document,
            "abc.webp",
        ),
        (
            "https://h/f/abc",
            Some("video/mp4"),
            None,
            SendKind::Video,
            "abc.mp4",
        ),
        (
            "https://h/f/abc.bin",
            Some("audio/mpeg"),
            Some("тема.mp3"),
            SendKind::Audio,
            "audio.mp3",
        ),
        ("https://h/", None, None, SendKind::Document, "document.bin"),
        (
            "https://h/a.tar.gz?x",
            None,
            None,
            SendKind::Document,
            "a.tar.gz",
        ),
        (
            "data:image/png;base64,AA",
            None,
            None,
            SendKind::Photo,
            "photo.png",
        ),
        (
            "https://h/x",
            Some("image/jpeg"),
            Some("a \"b\".jpeg"),
            SendKind::Photo,
            "a__b_.jpeg",
        ),
    ];
    for (url, content_type, name, kind, wanted) in table {
        let file = File {
            url: url.into(),
            content_type: content_type.map(Into::into),
            name: name.map(Into::into),
            ..File::default()
        };
        assert_eq!(file_name(&file, kind), wanted, "{url} {name:?}");
    }
}

#[test]
fn the_general_topic_is_named_by_leaving_it_out() {
    let (items, target) = (
        [photo()],
        Target {
            message_thread_id: Some(1),
            status_message_id: None,
            ..target()
        },
    );
    finishes(&parcel(&items, &target), vec![], &["sendPhoto url"]);
}

#[test]
fn progress_is_short_and_survives_versions() {
    assert_eq!(Progress::default().to_text(), "");
    let progress = Progress {
        way: Way::Upload,
        edit: Edit::Gone,
        caption: Caption::Cut,
        sends: 2,
        message_ids: vec![7],
        ..Progress::default()
    };
    assert_eq!(
        progress.to_text(),
        r#"{"w":"f","e":"g","c":"c","s":2,"m":[7]}"#
    );
    assert_eq!(Progress::parse(&progress.to_text()), Some(progress));
    assert_eq!(
        Progress::parse(r#"{"w":"l","future":{"x":1}}"#),
        Some(Progress {
            way: Way::Link,
            ..Progress::default()
        })
    );
    assert_eq!(Progress::parse("upload"), None);
    // A place past the end is the end.
    let (items, target) = ([photo()], target());
    for text in [r#"{"i":9}"#, r#"{"i":1}"#] {
        assert_eq!(
            next(&parcel(&items, &target), &Progress::parse(text).unwrap()),
            Op::Finished
        );
    }
    assert_eq!(
        describe(&next(
            &parcel(&items, &target),
            &Progress {
                part: 5,
                ..Progress::default()
            }
        )),
        "deleteMessage"
    );
}

/// Every refusal that settles something. What only time ends (429, away, an unknown edit) is kept rare.
fn any_refusal(random: &mut fastrand::Rng) -> Refusal {
    let causes = [
        Cause::UrlRefused,
        Cause::PhotoRefused,
        Cause::MediaRefused,
        Cause::TooBig,
        Cause::FileEmpty,
        Cause::KindForbidden,
        Cause::AlbumRefused,
        Cause::AlbumAgain,
        Cause::EditRefused,
        Cause::EditGone,
        Cause::NoTextInMessage,
        Cause::NoCaptionInMessage,
    ];
    let repairs = [
        Repair::Migrated(-1009),
        Repair::ParseError,
        Repair::Entities,
        Repair::CaptionTooLong,
        Repair::TextTooLong,
        Repair::TextEmpty,
        Repair::ReplyGone,
        Repair::ThreadGone,
        Repair::MarkupRefused,
    ];
    match random.u8(..40) {
        0 => Refusal::RetryAfter {
            wait: Duration::from_secs(3),
        },
        1 => Refusal::NotSent("away".into()),
        2..4 => unknown(),
        4 => Refusal::NotModified,
        5 => Refusal::Gone,
        6 => Refusal::EditSuperseded,
        7 => Refusal::AlreadySent("deleted".into()),
        8 => other(),
        9..24 => fall(causes[random.usize(..causes.len())]),
        _ => Refusal::Repair(repairs[random.usize(..repairs.len())]),
    }
}

#[test]
fn every_ladder_ends_within_a_bound() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..1500 {
        let context = format!("seed {seed} round {round}");
        let items: Vec<Item> = (0..random.usize(1..4))
            .map(|_| match random.u8(..4) {
                0 => Item::Text("word ".repeat(random.usize(..3000))),
                1 => Item::File(file("data:image/png;base64,AA", "image/png")),
                2 => Item::File(file("https://h/v.mp4", "video/mp4")),
                _ => photo(),
            })
            .collect();
        let target = Target {
            status_message_id: random.bool().then_some(STATUS),
            caption: random
                .bool()
                .then(|| "<b>word</b> ".repeat(random.usize(..500))),
            ..rich()
        };
        let parcel = Parcel {
            ping_due: random.bool(),
            ..parcel(&items, &target)
        };
        let success = random.f64();
        let (mut progress, mut settling, mut rungs) =
            (Progress::default(), 0, Vec::<(usize, Way)>::new());
        loop {
            progress = Progress::parse(&progress.to_text()).expect(&context);
            let op = next(&parcel, &progress);
            let call = match &op {
                Op::Finished => break,
                Op::Call(call) | Op::Upload { call, .. } | Op::UploadAlbum { call, .. } => call,
            };
            let repeatable = call.method.is_repeatable();
            assert_eq!(
                call.args["chat_id"] == json!(-1009),
                progress.migrated_to.is_some(),
                "{context}"
            );
            assert!(
                !(call.args.contains_key("message_id") && progress.migrated_to.is_some()),
                "{context}: old message touched"
            );
            let outcome = if random.f64() < success {
                Ok(Sent::default())
            } else {
                Err(any_refusal(&mut random))
            };
            let in_doubt = matches!(outcome, Err(Refusal::Unknown(_)));
            let ping = progress.item == items.len() && !progress.delete_due;
            let was = progress.clone();
            progress = match after(&parcel, &progress, outcome, random.f64()) {
                After::Go(progress) => {
                    settling += 1;
                    assert!(
                        !in_doubt || was.item == items.len(),
                        "{context}: went on after a doubt"
                    );
                    assert!(progress != was, "{context}: went on without a change");
                    progress
                }
                After::Wait {
                    progress, counted, ..
                } => {
                    settling += usize::from(counted);
                    assert!(!ping, "{context}: waits for a ping");
                    progress
                }
                After::Unknown {
                    progress,
                    wait,
                    resend,
                } => {
                    assert_eq!(resend, !repeatable, "{context}");
                    assert!(wait >= Duration::from_secs(5), "{context}");
                    assert_eq!(
                        next(&parcel, &progress),
                        op,
                        "{context}: another call after a doubt"
                    );
                    progress
                }
                After::Failed(failure) => {
                    assert_eq!(failure.remedy, Remedy::Final, "{context}");
                    break;
                }
                After::OperatorTrouble(_) => unreachable!("{context}"),
            };
            assert!(progress.sends < SENDS, "{context}");
            if rungs.last() != Some(&(progress.item, progress.way))
                && progress.way != Way::Undecided
            {
                assert!(
                    rungs
                        .iter()
                        .all(|rung| *rung < (progress.item, progress.way)),
                    "{context}: a rung twice"
                );
                rungs.push((progress.item, progress.way));
            }
            assert!(
                settling < 40 * (items.len() + 1),
                "{context}: no end, {progress:?}"
            );
        }
    }
}

#[test]
fn a_file_that_telegram_has_goes_by_its_id_and_kind_and_only_then_down_the_ladder() {
    let held = |kind: &str, url: &str| {
        Item::File(File {
            held: Some(Held {
                id: "AgAC".into(),
                kind: kind.into(),
            }),
            ..file(url, "image/png")
        })
    };
    let target = Target {
        status_message_id: None,
        ..target()
    };
    let https = "https://v3.fal.media/files/a/cat.png";
    for (kind, method, field) in [
        ("photo", Method::SendPhoto, "photo"),
        ("video", Method::SendVideo, "video"),
        ("animation", Method::SendAnimation, "animation"),
        ("audio", Method::SendAudio, "audio"),
        ("document", Method::SendDocument, "document"),
        // Not noted: as it was sent at first, most likely.
        ("", Method::SendPhoto, "photo"),
    ] {
        let items = [held(kind, https)];
        let parcel = parcel(&items, &target);
        let Op::Call(call) = next(&parcel, &Progress::default()) else {
            panic!("{kind}: no call");
        };
        assert_eq!((call.method, &call.args[field]), (method, &json!("AgAC")));
        // Refused: as if Telegram did not have it, each rung once.
        let refused = Err(Refusal::FallBack(Cause::UrlRefused));
        let After::Go(progress) = after(&parcel, &Progress::default(), refused, 0.0) else {
            panic!("{kind}: no next rung");
        };
        assert_eq!(progress.way, Way::Url, "{kind}");
        let Op::Call(call) = next(&parcel, &progress) else {
            panic!("{kind}: no call");
        };
        assert_eq!(
            (call.method, &call.args["photo"]),
            (Method::SendPhoto, &json!(https))
        );
    }
    // Nothing but the id is known: there is no rung below it.
    let items = [held("photo", "")];
    let parcel = parcel(&items, &target);
    for refusal in [
        Refusal::FallBack(Cause::UrlRefused),
        Refusal::Other400("strange".into()),
    ] {
        let after = after(&parcel, &Progress::default(), Err(refusal), 0.0);
        assert!(matches!(after, After::Failed(_)), "{after:?}");
    }
}

#[test]
fn progress_notes_of_which_item_and_kind_each_file_is() {
    let items = [Item::Text("t".into()), photo()];
    let target = Target {
        status_message_id: None,
        ..target()
    };
    let parcel = parcel(&items, &target);
    let mut progress = Progress::default();
    for kind in [None, Some("animation")] {
        let sent = Sent {
            message_ids: vec![1],
            file_ids: kind.map(|_| "F".to_owned()).into_iter().collect(),
            file_kinds: kind.into_iter().collect(),
        };
        let After::Go(next) = after(&parcel, &progress, Ok(sent), 0.0) else {
            panic!("it went");
        };
        progress = next;
    }
    let progress = Progress::parse(&progress.to_text()).expect("our own text");
    assert_eq!(progress.file_kinds, ["1:animation"]);
}
