//! Albums: what goes together, what follows, and what becomes of one that is refused or in doubt.

use super::*;
use crate::job::answer::Held;

pub(super) fn fresh() -> Target {
    Target {
        status_message_id: None,
        ..target()
    }
}

/// Items by letter: Photo, Video, Gif, Audio, Document that is uploaded, Text, Foreign host, a photo that
/// is Inline, one too Big for its URL, a Wide one.
pub(super) fn items(letters: &str) -> Vec<Item> {
    let one = |(number, letter): (usize, char)| {
        let url = |ending: &str| format!("https://v3.fal.media/{number}{ending}");
        let item = match letter {
            'P' => file(&url(".png"), "image/png"),
            'V' => file(&url(".mp4"), "video/mp4"),
            'G' => file(&url(".gif"), "image/gif"),
            'A' => file(&url(".mp3"), "audio/mpeg"),
            'D' => file(&url(".glb"), "model/gltf-binary"),
            'F' => file(
                &format!("https://elsewhere.example/{number}.png"),
                "image/png",
            ),
            'I' => file(&format!("data:image/png;base64,AA{number:02}"), "image/png"),
            'B' => File {
                size: Some(6_000_000),
                ..file(&url(".png"), "image/png")
            },
            'W' => File {
                width: Some(2001),
                height: Some(100),
                ..file(&url(".png"), "image/png")
            },
            _ => return Item::Text("word".into()),
        };
        Item::File(item)
    };
    letters.chars().enumerate().map(one).collect()
}

const HERE: &dyn Fn(&str) -> bool = &|url| !url.contains("elsewhere");

pub(super) fn at_home<'a>(items: &'a [Item], target: &'a Target) -> Parcel<'a> {
    Parcel {
        may_fetch: HERE,
        ..parcel(items, target)
    }
}

#[test]
fn what_may_go_together_goes_together_and_in_order() {
    let target = fresh();
    #[rustfmt::skip]
    let table: Vec<(&str, DeliveryMode, Vec<&str>)> = vec![
        ("P", DeliveryMode::Auto, vec!["sendPhoto url"]),
        ("PP", DeliveryMode::Auto, vec!["sendMediaGroup pp url"]),
        ("PVPV", DeliveryMode::Auto, vec!["sendMediaGroup pvpv url"]),
        ("PPPPPPPPPP", DeliveryMode::Auto, vec!["sendMediaGroup pppppppppp url"]),
        ("PPPPPPPPPPP", DeliveryMode::Auto, vec!["sendMediaGroup pppppp url", "sendMediaGroup ppppp url"]),
        ("PPPPPPPPPPPPPPPPPPPPP", DeliveryMode::Auto, vec!["sendMediaGroup ppppppp url"; 3]),
        ("AAPP", DeliveryMode::Auto, vec!["sendMediaGroup aa url", "sendMediaGroup pp url"]),
        ("DDD", DeliveryMode::Auto, vec!["sendMediaGroup ddd up"]),
        ("PDP", DeliveryMode::Auto, vec!["sendPhoto url", "sendDocument up", "sendPhoto url"]),
        ("PGP", DeliveryMode::Auto, vec!["sendPhoto url", "sendAnimation url", "sendPhoto url"]),
        ("GG", DeliveryMode::Auto, vec!["sendAnimation url", "sendAnimation url"]),
        ("PPFPP", DeliveryMode::Auto, vec!["sendMediaGroup pp url", "sendMessage link", "sendMediaGroup pp url"]),
        ("PBP", DeliveryMode::Auto, vec!["sendMediaGroup ppp up"]),
        ("PI", DeliveryMode::Auto, vec!["sendMediaGroup pp up"]),
        ("WDP", DeliveryMode::Auto, vec!["sendMediaGroup dd up", "sendPhoto url"]),
        ("PPTT", DeliveryMode::Auto, vec!["sendMediaGroup pp url", "sendMessage", "sendMessage"]),
        ("PP", DeliveryMode::Upload, vec!["sendMediaGroup pp up"]),
        ("PPIID", DeliveryMode::Url, vec!["sendMediaGroup pp url", "sendMediaGroup pp up", "sendMessage link"]),
    ];
    for (letters, delivery, wanted) in table {
        let items = items(letters);
        let parcel = Parcel {
            delivery,
            ..at_home(&items, &target)
        };
        let (calls, end) = walk(&parcel, vec![]);
        assert_eq!(calls, wanted, "{letters}");
        let End::Finished(progress) = end else {
            panic!("{letters}")
        };
        let ids: Vec<i64> = (1001..1001 + items.len() as i64).collect();
        assert_eq!(progress.message_ids, ids, "{letters}");
    }
    // As documents even pictures and music go together.
    let (items, target) = (
        items("PVAG"),
        Target {
            send_as: SendAs::Document,
            ..fresh()
        },
    );
    finishes(
        &at_home(&items, &target),
        vec![],
        &["sendMediaGroup dddd up"],
    );
}

#[test]
fn an_album_counts_its_items_as_messages() {
    let (many, target) = (items("PPPPPPPPPPP"), fresh());
    let Op::Call(call) = next(&at_home(&many, &target), &Progress::default()) else {
        panic!()
    };
    assert_eq!((call.method, call.messages()), (Method::SendMediaGroup, 6));
    let one = items("P");
    let Op::Call(call) = next(&at_home(&one, &target), &Progress::default()) else {
        panic!()
    };
    assert_eq!(call.messages(), 1);
}

#[test]
fn files_that_telegram_has_go_by_their_ids_and_in_no_album() {
    let (mut two, target) = (items("PP"), fresh());
    for item in &mut two {
        if let Item::File(file) = item {
            file.held = Some(Held {
                id: "AgAC".into(),
                kind: "photo".into(),
            });
        }
    }
    finishes(&at_home(&two, &target), vec![], &["sendPhoto url"; 2]);
}

#[test]
fn an_album_on_record_is_one_only_as_far_as_it_can_be_one_still() {
    let target = fresh();
    // Recorded under other settings, or by a version that knew other albums.
    for (letters, text, wanted) in [
        ("PGP", r#"{"a":3}"#, "sendPhoto url"),
        ("PPP", r#"{"a":3,"w":"l"}"#, "sendMessage link"),
        (
            "PPPPPPPPPPPP",
            r#"{"a":12}"#,
            "sendMediaGroup pppppppppp url",
        ),
    ] {
        let items = items(letters);
        let progress = Progress::parse(text).unwrap();
        let op = next(&at_home(&items, &target), &progress);
        assert_eq!(describe(&op), wanted, "{text}");
    }
}

#[test]
fn of_each_file_of_an_album_it_is_noted_what_sends_it_again_for_free() {
    let (items, target) = (items("TPV"), fresh());
    let sent = Sent {
        messages: 2,
        message_ids: vec![1, 2],
        file_ids: vec!["A".to_owned(), "B".to_owned()],
        file_kinds: vec!["photo", "video"],
    };
    let at = Progress {
        item: 1,
        ..Progress::default()
    };
    let After::Go(progress) = after(&at_home(&items, &target), &at, Ok(sent), 0.0) else {
        panic!()
    };
    assert_eq!(progress.file_ids, ["A", "B"]);
    assert_eq!(progress.file_kinds, ["1:photo", "2:video"]);
}

#[test]
fn what_happened_to_an_album_is_not_held_against_its_files() {
    let (items, target) = (items("PP"), fresh());
    let parcel = at_home(&items, &target);
    let troubled = Progress {
        sends: 4,
        repeats: 3,
        waits: 6,
        ..Progress::default()
    };
    let troubled = Progress {
        album: 2,
        ..troubled
    };
    let After::Go(alone) = after(&parcel, &troubled, Err(other()), 0.0) else {
        panic!()
    };
    assert_eq!((alone.sends, alone.repeats, alone.waits), (0, 0, 0));
    let refused = Err(fall(Cause::UrlRefused));
    let After::Go(uploaded) = after(&parcel, &troubled, refused, 0.0) else {
        panic!()
    };
    // It is the same album still: its sends in doubt count on.
    assert_eq!((uploaded.repeats, uploaded.waits), (0, 0));
    assert_eq!((uploaded.album, uploaded.sends), (2, 4));
}

#[test]
fn an_album_that_went_by_url_is_uploaded_in_as_many_as_one_request_takes() {
    let (mut ten, target) = (items("PPPPPPPPPP"), fresh());
    for item in &mut ten {
        if let Item::File(file) = item {
            file.size = Some(5_000_000);
        }
    }
    finishes(
        &at_home(&ten, &target),
        vec![fall(Cause::UrlRefused)],
        &[
            "sendMediaGroup pppppppppp url",
            "sendMediaGroup ppppppppp up",
            "sendPhoto up",
        ],
    );
}

#[test]
fn the_caption_is_on_one_item_with_its_markup_inside_and_the_status_message_is_deleted_at_last() {
    let (items, target) = (
        items("PPV"),
        Target {
            reply_markup: None,
            has_spoiler: true,
            ..rich()
        },
    );
    let parcel = at_home(&items, &target);
    let Op::Call(call) = next(&parcel, &Progress::default()) else {
        panic!()
    };
    assert_eq!(
        Value::Object(call.args),
        json!({
            "chat_id": 42, "message_thread_id": 7,
            "reply_parameters": {"message_id": 305, "allow_sending_without_reply": true},
            "media": [
                {"type": "photo", "media": "https://v3.fal.media/0.png", "has_spoiler": true},
                {"type": "photo", "media": "https://v3.fal.media/1.png", "has_spoiler": true},
                {"type": "video", "media": "https://v3.fal.media/2.mp4", "has_spoiler": true,
                 "supports_streaming": true, "caption": "<b>Done</b>", "parse_mode": "HTML"},
            ],
        })
    );
    finishes(
        &parcel,
        vec![],
        &["sendMediaGroup ppv url +cap +mode +re +th", "deleteMessage"],
    );
    // Of several albums the last one has it.
    let many = super::albums::items("PPPPPPPPPPPP");
    finishes(
        &at_home(&many, &target),
        vec![],
        &[
            "sendMediaGroup pppppp url +re +th",
            "sendMediaGroup pppppp url +cap +mode +re +th",
            "deleteMessage",
        ],
    );
}

#[test]
fn the_keyboard_that_an_album_cannot_take_goes_with_a_text() {
    let items = items("PP");
    let target = Target {
        status_message_id: None,
        ..rich()
    };
    let calls = [
        "sendMediaGroup pp url +re +th",
        "sendMessage +mode +kb +re +th",
    ];
    let progress = finishes(&at_home(&items, &target), vec![], &calls);
    assert_eq!(progress.message_ids, [1001, 1002, 1003]);
    let text = |target: &Target| {
        let sent = Sent {
            message_ids: vec![7, 8],
            ..Sent::default()
        };
        let parcel = at_home(&items, target);
        let After::Go(progress) = after(&parcel, &Progress::default(), Ok(sent), 0.0) else {
            panic!()
        };
        let Op::Call(call) = next(&parcel, &progress) else {
            panic!()
        };
        assert_eq!(call.args["reply_parameters"]["message_id"], 7);
        call.args["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(text(&target), "<b>Done</b>");
    for bare in [None, Some("  ".to_owned())] {
        let bare = Target {
            caption: bare,
            ..target.clone()
        };
        assert_eq!(text(&bare), "Ready");
        // A keyboard that is refused takes its text with it.
        let refused = Refusal::Repair(Repair::MarkupRefused);
        let (calls, end) = walk(&at_home(&items, &bare), vec![]);
        assert_eq!(calls.len(), 2);
        assert!(matches!(end, End::Finished(_)));
        let parcel = at_home(&items, &bare);
        let sent = Sent {
            message_ids: vec![7, 8],
            ..Sent::default()
        };
        let After::Go(progress) = after(&parcel, &Progress::default(), Ok(sent), 0.0) else {
            panic!()
        };
        let After::Go(progress) = after(&parcel, &progress, Err(refused), 0.0) else {
            panic!()
        };
        assert_eq!(next(&parcel, &progress), Op::Finished);
    }
}

#[test]
fn an_album_refused_by_url_is_uploaded_and_then_sent_singly_from_the_upload_on() {
    let (items, target) = (items("PVP"), fresh());
    let parcel = at_home(&items, &target);
    let refused = fall(Cause::UrlRefused);
    finishes(
        &parcel,
        vec![refused.clone()],
        &["sendMediaGroup pvp url", "sendMediaGroup pvp up"],
    );
    // One has its ladder to walk, the others go as they are.
    finishes(
        &parcel,
        vec![
            refused.clone(),
            fall(Cause::PhotoRefused),
            fall(Cause::PhotoRefused),
        ],
        &[
            "sendMediaGroup pvp url",
            "sendMediaGroup pvp up",
            "sendPhoto up",
            "sendDocument up",
            "sendVideo up",
            "sendPhoto up",
        ],
    );
    // What was no matter of URLs does not cost the others their URL.
    for cause in [Cause::KindForbidden, Cause::AlbumRefused, Cause::TooBig] {
        finishes(
            &parcel,
            vec![fall(cause)],
            &[
                "sendMediaGroup pvp url",
                "sendPhoto url",
                "sendVideo url",
                "sendPhoto url",
            ],
        );
    }
    // Where nothing is to be uploaded each finds its own way.
    let parcel = Parcel {
        delivery: DeliveryMode::Url,
        ..parcel
    };
    finishes(
        &parcel,
        vec![refused.clone(), refused],
        &[
            "sendMediaGroup pvp url",
            "sendPhoto url",
            "sendMessage link",
            "sendVideo url",
            "sendPhoto url",
        ],
    );
}

#[test]
fn a_group_that_failed_is_sent_once_more_and_then_singly() {
    let (items, target) = (items("PP"), fresh());
    let parcel = at_home(&items, &target);
    let album = "sendMediaGroup pp url";
    finishes(&parcel, vec![fall(Cause::AlbumAgain)], &[album, album]);
    finishes(
        &parcel,
        vec![fall(Cause::AlbumAgain); 2],
        &[album, album, "sendPhoto url", "sendPhoto url"],
    );
}

#[test]
fn an_album_in_doubt_is_the_same_album_again_and_five_of_them_are_the_last() {
    let (items, target) = (items("PPPPPPPPPPP"), fresh());
    let parcel = at_home(&items, &target);
    let held = || Refusal::AlbumHeld {
        wait: Duration::from_secs(120),
    };
    for doubt in [unknown(), held()] {
        let (first, rest) = ("sendMediaGroup pppppp url", "sendMediaGroup ppppp url");
        finishes(
            &parcel,
            vec![doubt.clone(); 4],
            &[first, first, first, first, first, rest],
        );
        assert_eq!(
            fails(&parcel, vec![doubt.clone(); 5], &[first; 5]),
            Kind::Telegram
        );
    }
    let After::Unknown { wait, resend, .. } =
        after(&parcel, &Progress::default(), Err(held()), 0.5)
    else {
        panic!()
    };
    assert!(resend && wait >= Duration::from_secs(120), "{wait:?}");
    // Of a whole request that was refused nothing is there.
    let wait = Duration::from_secs(120);
    let told = after(
        &parcel,
        &Progress::default(),
        Err(Refusal::RetryAfter { wait }),
        0.5,
    );
    assert!(
        matches!(told, After::Wait { counted: false, .. }),
        "{told:?}"
    );
    // And so it is after a crash.
    let (progress, resent) = resumed_in_doubt(&parcel, &Progress::default()).unwrap();
    assert_eq!((progress.album, progress.sends, resent), (6, 1, true));
    assert_eq!(
        next(&parcel, &progress),
        next(&parcel, &Progress::default())
    );
}

#[test]
fn of_an_album_that_is_partly_there_only_the_missing_items_go() {
    let (items, target) = (
        items("PPPP"),
        Target {
            caption: Some("c".into()),
            ..fresh()
        },
    );
    let parcel = at_home(&items, &target);
    for (there, wanted) in [
        (1, "sendMediaGroup ppp url +cap"),
        (2, "sendMediaGroup pp url +cap"),
        (3, "sendPhoto url +cap"),
    ] {
        let sent = Sent {
            messages: there,
            message_ids: (1..=there as i64).collect(),
            ..Sent::default()
        };
        let After::Go(progress) = after(&parcel, &Progress::default(), Ok(sent), 0.0) else {
            panic!()
        };
        let progress = Progress::parse(&progress.to_text()).unwrap();
        let op = next(&parcel, &progress);
        assert_eq!(describe(&op), wanted);
        let Op::Call(call) = op else { panic!() };
        let first = format!("https://v3.fal.media/{there}.png");
        assert!(Value::Object(call.args).to_string().contains(&first));
    }
    // The first is still re-encoded, and nothing is said of its file.
    let sent = Sent {
        messages: 4,
        message_ids: vec![2, 3, 4],
        ..Sent::default()
    };
    let told = after(&parcel, &Progress::default(), Ok(sent), 0.0);
    let After::Go(progress) = told else { panic!() };
    assert_eq!(progress.message_ids, [2, 3, 4]);
    assert_eq!(next(&parcel, &progress), Op::Finished);
    // An answer that names none was a success all the same.
    let told = after(&parcel, &Progress::default(), Ok(Sent::default()), 0.0);
    let After::Go(progress) = told else { panic!() };
    assert_eq!(next(&parcel, &progress), Op::Finished);
}

#[test]
fn an_album_is_repaired_as_a_whole_and_only_once() {
    let (items, target) = (
        items("PP"),
        Target {
            reply_markup: None,
            status_message_id: None,
            ..rich()
        },
    );
    let parcel = at_home(&items, &target);
    let album = "sendMediaGroup pp url +cap +mode +re +th";
    for (repair, wanted) in [
        (Repair::ParseError, "sendMediaGroup pp url +cap +re +th"),
        (Repair::Entities, "sendMediaGroup pp url +cap +re +th"),
        (Repair::ReplyGone, "sendMediaGroup pp url +cap +mode +th"),
        (Repair::ThreadGone, "sendMediaGroup pp url +cap +mode +re"),
        (
            Repair::Migrated(-1009),
            "sendMediaGroup pp url +cap +mode +th @-1009",
        ),
    ] {
        finishes(&parcel, vec![Refusal::Repair(repair)], &[album, wanted]);
    }
    finishes(
        &parcel,
        vec![Refusal::Repair(Repair::CaptionTooLong); 2],
        &[
            album,
            "sendMediaGroup pp url +cap +re +th",
            "sendMediaGroup pp url +re +th",
            "sendMessage +mode +re +th",
        ],
    );
    finishes(
        &parcel,
        vec![Refusal::Repair(Repair::ParseError); 2],
        &[
            album,
            "sendMediaGroup pp url +cap +re +th",
            "sendPhoto url +re +th",
            "sendPhoto url +cap +re +th",
        ],
    );
}

#[test]
fn what_a_version_without_albums_began_it_goes_on_with_singly() {
    let (items, target) = (items("PPPP"), fresh());
    let parcel = at_home(&items, &target);
    for (text, wanted) in [
        (r#"{"i":2,"m":[1,2]}"#, "sendMediaGroup pp url"),
        (r#"{"i":1,"s":1,"m":[1]}"#, "sendPhoto url"),
        (r#"{"i":1,"w":"f","m":[1]}"#, "sendPhoto up"),
        (r#"{"i":3,"m":[1,2,3]}"#, "sendPhoto url"),
    ] {
        let progress = Progress::parse(text).unwrap();
        assert_eq!(describe(&next(&parcel, &progress)), wanted, "{text}");
    }
}
