//! Answers that settle nothing, and none at all: what is repeated, for how long, and what a successor makes
//! of the record that a crash left behind. After a doubt the same call is made, never another one.

use super::*;

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
fn while_telegram_is_away_waits_grow_to_half_a_minute() {
    let (items, target) = ([photo()], target());
    let parcel = parcel(&items, &target);
    let mut progress = Progress::default();
    let mut waited = Vec::new();
    for _ in 0..7 {
        let away = Err(Refusal::NotSent("refused".into()));
        let After::Wait {
            progress: after,
            for_,
            ..
        } = after(&parcel, &progress, away, 0.0)
        else {
            panic!()
        };
        waited.push(for_.as_secs());
        progress = after;
    }
    assert_eq!(waited, [1, 2, 4, 8, 16, 30, 30]);
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
fn what_happened_to_one_message_is_not_held_against_the_next() {
    let target = Target {
        status_message_id: None,
        ..target()
    };
    let two = [Item::Text("a".into()), Item::Text("b".into())];
    let parcel = parcel(&two, &target);
    let troubled = Progress {
        sends: 4,
        repeats: 3,
        waits: 6,
        other_used: true,
        fixed_text: true,
        ..Progress::default()
    };
    let After::Go(progress) = after(&parcel, &troubled, Ok(Sent::default()), 0.0) else {
        panic!()
    };
    let fresh = Progress {
        item: 1,
        ..Progress::default()
    };
    assert_eq!(progress, fresh);
    // Nor does a rung inherit how long the one above it was waited for.
    let picture = [photo()];
    let parcel = Parcel {
        items: &picture,
        ..parcel
    };
    let refused = Err(fall(Cause::UrlRefused));
    let After::Go(progress) = after(&parcel, &troubled, refused, 0.0) else {
        panic!()
    };
    assert_eq!((progress.way, progress.waits), (Way::Upload, 0));
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
fn a_text_that_its_owners_die_of_is_left_out_once_its_file_is_in_the_chat() {
    let (items, target) = (
        [photo()],
        Target {
            caption: Some("word ".repeat(300)),
            ..albums::fresh()
        },
    );
    let parcel = parcel(&items, &target);
    let fifth = |part| Progress {
        part,
        way: Way::Url,
        sends: 4,
        ..Progress::default()
    };
    for part in [0, 1] {
        assert!(resumed_in_doubt(&parcel, &fifth(part)).is_err());
        let left = without(&parcel, &fifth(part));
        assert_eq!(left.is_some(), part == 1);
        assert!(left.is_none_or(|left| next(&parcel, &left) == Op::Finished));
    }
    // Nor is it worth a failure when the time is over.
    for (part, there) in [(0, false), (1, true)] {
        assert_eq!(is_there(&items, &fifth(part)), there);
    }
    // What the chat did not take is not there, though all the rest is.
    for (item, part) in [(0, 1), (1, 0)] {
        let all_but_one = Progress {
            item,
            lost: 1,
            ..fifth(part)
        };
        assert!(!is_there(&items, &all_but_one), "{item} {part}");
    }
    let text = [Item::Text("word ".repeat(3000))];
    assert!(
        !is_there(&text, &fifth(1))
            && is_there(
                &text,
                &Progress {
                    item: 1,
                    ..fifth(0)
                }
            )
    );
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
            messages: 1,
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
    assert_eq!(progress.file_ids, ["F"], "what sends it again for free");
}
