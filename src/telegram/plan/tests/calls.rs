//! What stands in a call to the letter, since Telegram takes an argument in the wrong place for none; and
//! what a repair takes out of it.

use super::kind::file_name;
use super::*;

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
fn a_chat_by_name_has_its_at_sign_whoever_left_it_out() {
    for name in ["room", "@room"] {
        let (items, target) = (
            [photo()],
            Target {
                chat: ChatId::Name(name.into()),
                ..target()
            },
        );
        let Op::Call(call) = next(&parcel(&items, &target), &Progress::default()) else {
            panic!()
        };
        assert_eq!(call.args["chat_id"], "@room");
    }
}

#[test]
fn each_parse_mode_goes_by_telegrams_own_word() {
    for (mode, word) in [
        (ParseMode::Html, "HTML"),
        (ParseMode::MarkdownV2, "MarkdownV2"),
        (ParseMode::Markdown, "Markdown"),
    ] {
        let (items, target) = (
            [photo()],
            Target {
                parse_mode: Some(mode),
                ..rich()
            },
        );
        let Op::Call(call) = next(&parcel(&items, &target), &Progress::default()) else {
            panic!()
        };
        assert_eq!(call.args["media"]["parse_mode"], word);
    }
}

#[test]
fn sizes_and_lengths_stand_only_where_a_kind_has_a_place_for_them_and_never_as_nothing() {
    let target = Target {
        status_message_id: None,
        ..target()
    };
    let measured = |content_type: &str, size: u32| {
        Item::File(File {
            width: Some(size),
            height: Some(size),
            duration_s: Some(size),
            ..file("https://h/x", content_type)
        })
    };
    for (content_type, size, wanted) in [
        ("video/mp4", 5, [true, true, true]),
        ("image/gif", 5, [true, true, true]),
        ("audio/mpeg", 5, [false, false, true]),
        ("image/png", 5, [false, false, false]),
        ("application/pdf", 5, [false, false, false]),
        ("video/mp4", 0, [false, false, false]),
    ] {
        let items = [measured(content_type, size)];
        let Op::Call(call) = next(&parcel(&items, &target), &Progress::default()) else {
            panic!()
        };
        let said = ["width", "height", "duration"].map(|name| call.args.contains_key(name));
        assert_eq!(said, wanted, "{content_type} {size}");
    }
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
