//! The status message: one result becomes it, else it goes once the result is there. Whatever becomes of
//! it, the user sees the result once, and hears of it once.

use super::*;

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
fn a_deletion_too_waits_as_long_as_telegram_says() {
    let (items, target) = ([photo()], target());
    let left = Progress {
        item: 1,
        delete_due: true,
        ..Progress::default()
    };
    let wait = Duration::from_secs(9);
    let silence = Err(Refusal::RetryAfter { wait });
    let After::Wait { progress, for_, .. } = after(&parcel(&items, &target), &left, silence, 0.5)
    else {
        panic!()
    };
    assert_eq!((for_, progress.delete_due), (wait, true));
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
