//! Captions, texts and links have limits that differ by where they stand: what does not fit is cut, split or
//! sent after, and no word of it is lost.

use super::albums::at_home;
use super::*;
use crate::telegram::text::{self, CAPTION, MESSAGE};

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
fn a_caption_of_just_the_most_that_telegram_takes_goes_whole() {
    let both = &["editMessageMedia photo url +cap", "sendMessage +re"];
    // Telegram counts letters, of whatever alphabet.
    for letter in ["x", "ж"] {
        for (length, calls) in [(CAPTION, &both[..1]), (CAPTION + 1, &both[..])] {
            let (items, target) = (
                [photo()],
                Target {
                    caption: Some(letter.repeat(length)),
                    ..target()
                },
            );
            finishes(&parcel(&items, &target), vec![], calls);
        }
    }
}

#[test]
fn of_several_texts_after_an_album_the_last_has_the_keyboard() {
    let (items, target) = (
        [photo(), photo()],
        Target {
            status_message_id: None,
            caption: Some("word ".repeat(1000)),
            ..rich()
        },
    );
    finishes(
        &parcel(&items, &target),
        vec![],
        &[
            "sendMediaGroup pp url +re +th",
            "sendMessage +re +th",
            "sendMessage +kb +re +th",
        ],
    );
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

/// What the calls of a delivery carry as text, and the progress before each.
fn told(parcel: &Parcel<'_>, from: Progress) -> Vec<(String, Progress)> {
    let (mut progress, mut told) = (from, Vec::new());
    while let Op::Call(call) = next(parcel, &progress) {
        let text = call.args.get("text").or(call.args.get("caption"));
        let Some(text) = text.and_then(Value::as_str) else {
            break;
        };
        told.push((text.to_owned(), progress.clone()));
        let After::Go(after) = after(parcel, &progress, Ok(Sent::default()), 0.0) else {
            panic!()
        };
        progress = after;
    }
    told
}

#[test]
fn a_long_text_goes_on_where_its_record_says_and_without_one_where_its_number_says() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..60 {
        let context = format!("seed {seed} round {round}");
        let letters = ['a', 'ж', '😀', ' ', '\n', 'b', '.'];
        let letter = |_| *random.choice(&letters).unwrap_or(&'a');
        let items = [Item::Text((0..20_000).map(letter).collect())];
        let target = Target {
            caption: (round % 2 == 0).then(|| "<b>Done</b>".to_owned()),
            ..rich()
        };
        let parcel = parcel(&items, &target);
        let edit = [Edit::Open, Edit::Caption, Edit::Refused][round % 3];
        let begin = Progress {
            edit,
            ..Progress::default()
        };
        let all = told(&parcel, begin);
        assert!(all.len() > 4, "{context}");
        for (text, progress) in &all {
            assert_eq!(progress.at > 0, progress.part > 0, "{context}");
            for at in [progress.at, 0, usize::MAX] {
                let as_recorded = Progress {
                    at,
                    ..progress.clone()
                };
                let again = told(&parcel, as_recorded);
                assert_eq!(Some(text), again.first().map(|(text, _)| text), "{context}");
                assert_eq!(again.len(), all.len() - progress.part, "{context}");
            }
        }
    }
}

/// With every text made anew in every step this takes minutes.
#[test]
fn a_text_of_a_thousand_messages_costs_no_more_than_its_length() {
    let (items, target) = ([Item::Text("word ".repeat(800_000))], albums::fresh());
    let began = std::time::Instant::now();
    let told = told(&parcel(&items, &target), Progress::default());
    let took = began.elapsed();
    assert_eq!(told.len(), 977);
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_text_that_the_caption_of_the_status_message_does_not_hold_is_sent_fresh() {
    let (items, target) = ([Item::Text("a tale".into())], target());
    let too_long = Refusal::Repair(Repair::CaptionTooLong);
    finishes(
        &parcel(&items, &target),
        vec![fall(Cause::NoTextInMessage), too_long],
        &[
            "editMessageText",
            "editMessageCaption +cap",
            "sendMessage",
            "deleteMessage",
        ],
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
fn no_word_is_lost_where_a_group_moves_between_the_messages_of_a_text() {
    let words: Vec<String> = (0..3000).map(|n| format!("w{n}")).collect();
    let (items, target) = ([Item::Text(words.join(" "))], target());
    let parcel = parcel(&items, &target);
    for edit in [Edit::Open, Edit::Caption] {
        let mut progress = Progress {
            edit,
            ..Progress::default()
        };
        let (mut seen, mut moved) = (Vec::new(), false);
        while let Op::Call(call) = next(&parcel, &progress) {
            let text = call.args.get("text").or(call.args.get("caption"));
            let outcome = if progress.part == 1 && !moved {
                moved = true;
                Err(Refusal::Repair(Repair::Migrated(-1007)))
            } else {
                let text = text.and_then(Value::as_str).unwrap_or_default();
                seen.extend(text.split_whitespace().map(str::to_owned));
                Ok(Sent::default())
            };
            let After::Go(after) = after(&parcel, &progress, outcome, 0.0) else {
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
fn a_caption_that_shows_nothing_is_not_sent_after_its_file() {
    let (items, target) = (
        [photo()],
        Target {
            caption: Some("\u{2800}".repeat(1100)),
            ..target()
        },
    );
    let parcel = parcel(&items, &target);
    let After::Go(progress) = after(&parcel, &Progress::default(), Ok(Sent::default()), 0.0) else {
        panic!()
    };
    assert_eq!(describe(&next(&parcel, &progress)), "sendMessage +re");
    let empty = Err(Refusal::Repair(Repair::TextEmpty));
    let After::Go(progress) = after(&parcel, &progress, empty, 0.0) else {
        panic!()
    };
    assert_eq!(next(&parcel, &progress), Op::Finished);
}

#[test]
fn a_file_that_is_in_the_chat_is_delivered_whatever_becomes_of_the_texts_after_it() {
    let (items, target) = (
        [photo()],
        Target {
            caption: Some("word ".repeat(1500)),
            ..albums::fresh()
        },
    );
    let parcel = parcel(&items, &target);
    let (file, text) = ("sendPhoto url +cap", "sendMessage +re");
    let thread_gone = || Refusal::Repair(Repair::ThreadGone);
    let sent = Sent {
        message_ids: vec![7],
        ..Sent::default()
    };
    // What the first of two texts comes to, and how often it went out.
    #[rustfmt::skip]
    let table = [
        ("a 400 that nobody knows", vec![other()], 1),
        ("our mistake", vec![Refusal::Bug("chat_id is empty".into())], 1),
        ("a topic that is gone", vec![thread_gone(), thread_gone()], 2),
        ("too long, again and again", vec![Refusal::Repair(Repair::TextTooLong); 2], 2),
        ("never an answer", vec![unknown(); 5], 5),
    ];
    for (name, refusals, times) in table {
        let mut progress = match after(&parcel, &Progress::default(), Ok(sent.clone()), 0.0) {
            After::Go(progress) => progress,
            after => panic!("{name}: {after:?}"),
        };
        for (number, refusal) in refusals.into_iter().enumerate() {
            assert_eq!(progress.part, 1, "{name}");
            progress = match (
                number + 1 == times,
                after(&parcel, &progress, Err(refusal), 0.0),
            ) {
                (false, After::Go(progress) | After::Unknown { progress, .. })
                | (true, After::Without { progress, .. }) => progress,
                (_, after) => panic!("{name}: {after:?}"),
            };
        }
        assert_eq!((progress.part, progress.sends), (2, 0), "{name}");
        let After::Go(progress) = after(&parcel, &progress, Ok(Sent::default()), 0.0) else {
            panic!("{name}")
        };
        assert_eq!(next(&parcel, &progress), Op::Finished, "{name}");
    }
    finishes(&parcel, vec![], &[file, text, text]);
}

#[test]
fn where_texts_are_forbidden_files_are_delivered_without_what_follows_them() {
    let no_texts = || vec![fall(Cause::KindForbidden)];
    let long = Target {
        caption: Some("word ".repeat(1500)),
        ..albums::fresh()
    };
    let one = [photo()];
    let calls = ["sendPhoto url +cap", "sendMessage +re"];
    let (made, end) = walk_from(
        &parcel(&one, &long),
        vec![Ok(()), Err(no_texts().remove(0))],
    );
    assert_eq!(made, calls);
    assert!(matches!(end, End::Finished(progress) if progress.message_ids == [1001]));
    // An album has no keyboard: the text that carries it does not go, and it was all that was missing.
    let two = [photo(), photo()];
    let keyboard = Target {
        status_message_id: None,
        ..rich()
    };
    let outcomes = vec![Ok(()), Err(no_texts().remove(0))];
    let (made, end) = walk_from(&parcel(&two, &keyboard), outcomes);
    assert_eq!(
        made,
        [
            "sendMediaGroup pp url +re +th",
            "sendMessage +mode +kb +re +th"
        ]
    );
    assert!(matches!(end, End::Finished(progress) if progress.message_ids == [1001, 1002]));
}

#[test]
fn where_texts_are_forbidden_an_item_that_is_one_costs_the_others_nothing() {
    let refused = || Err(fall(Cause::KindForbidden));
    let target = target();
    for (letters, outcomes, calls, kind) in [
        (
            "PFG",
            vec![Ok(()), refused()],
            vec!["sendPhoto url", "sendMessage link", "sendAnimation url"],
            Kind::Telegram,
        ),
        (
            "TP",
            vec![refused()],
            vec!["sendMessage", "sendPhoto url"],
            Kind::Telegram,
        ),
        (
            "PT",
            vec![Ok(()), refused()],
            vec!["sendPhoto url", "sendMessage"],
            Kind::Telegram,
        ),
        (
            "TT",
            vec![refused(), refused()],
            vec!["sendMessage", "sendMessage"],
            Kind::ChatUnreachable,
        ),
        (
            "T",
            vec![refused()],
            vec!["editMessageText"],
            Kind::ChatUnreachable,
        ),
    ] {
        // The status message is not deleted: it says what became of the rest.
        let items = albums::items(letters);
        let (made, end) = walk_from(&at_home(&items, &target), outcomes);
        assert_eq!(made, calls, "{letters}");
        let End::Failed(failure) = end else {
            panic!("{letters} did not fail")
        };
        assert_eq!(failure.kind, kind, "{letters}: {}", failure.text);
    }
}

#[test]
fn a_user_who_is_gone_after_the_file_gets_nothing_more() {
    let (items, target) = (
        [photo()],
        Target {
            caption: Some("word ".repeat(1500)),
            ..albums::fresh()
        },
    );
    let parcel = parcel(&items, &target);
    let there = Progress {
        part: 1,
        way: Way::Url,
        ..Progress::default()
    };
    let gone = Err(Refusal::Unreachable("blocked".into()));
    let After::Failed(failure) = after(&parcel, &there, gone, 0.0) else {
        panic!()
    };
    assert_eq!(failure.kind, Kind::ChatUnreachable);
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
    // No word of the caption, which belongs to a result.
    let Op::Call(call) = next(&parcel, &Progress::default()) else {
        panic!()
    };
    assert_eq!(call.args["text"], "No money left.");
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
fn a_link_that_no_message_holds_is_not_put_into_one() {
    let long = format!("https://elsewhere.example/{}", "a".repeat(5000));
    let items = [Item::File(file(&long, "image/png"))];
    for (lang, wanted) in [(Lang::En, "The file is ready"), (Lang::Ru, "Файл готов")] {
        let target = Target {
            status_message_id: None,
            ..rich()
        };
        let parcel = Parcel {
            lang,
            ..at_home(&items, &target)
        };
        let Op::Call(call) = next(&parcel, &Progress::default()) else {
            panic!()
        };
        let text = call.args["text"].as_str().unwrap();
        assert!(text.contains(wanted) && !text.contains("://"), "{text}");
        assert!(text.starts_with("Done"), "the caption stays: {text}");
        assert!(!call.args.contains_key("link_preview_options"));
    }
}

#[test]
fn a_link_in_a_caption_asks_for_no_preview_which_captions_do_not_have() {
    let (items, target) = ([photo()], target());
    let at = Progress {
        way: Way::Link,
        edit: Edit::Caption,
        ..Progress::default()
    };
    let Op::Call(call) = next(&parcel(&items, &target), &at) else {
        panic!()
    };
    assert_eq!(call.method, Method::EditMessageCaption);
    assert_eq!(call.args.get("link_preview_options"), None);
}
