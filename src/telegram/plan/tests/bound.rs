//! Random refusals of any parcel: every ladder ends within a bound, steps on no rung twice, and changes
//! nothing after a doubt. `fuzz` gives it records and answers that nobody would write.

use super::*;
use crate::job::failure::Remedy;

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
                After::Without { progress, .. } => {
                    settling += 1;
                    assert!(was.part > 0, "{context}: an item is left out");
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
