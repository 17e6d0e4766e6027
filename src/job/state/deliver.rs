//! The delivery: each part that is in the chat is recorded before the next one goes out.

use super::*;

/// The delivery moved on and must not start over after a crash.
pub fn delivery_progress(flight: &mut Flight, rung: String, again: bool) -> Change {
    flight.rung = rung;
    flight.doubt = Doubt::None;
    let patch = Patch::default()
        .set("rung", flight.rung.clone())
        .del(&["doubt"]);
    let count = again.then_some("resent_after_unknown");
    let say = if again { Say::SentAgain } else { Say::Nothing };
    Change::write(
        Write::Save {
            patch,
            count,
            large: None,
        },
        Next::Now,
    )
    .saying(say)
}

/// A call of the delivery came back with an answer: its owners do not die of it any more.
pub fn delivery_went_on(flight: &mut Flight, rung: String) -> Change {
    let mut change = delivery_progress(flight, rung, false);
    if let Some(Write::Save { patch, .. }) = &mut change.write {
        patch.del.push("crashes");
    }
    change
}

/// What a delivery left in the chat.
#[derive(Clone, Debug, Default)]
pub struct Receipt {
    /// Ids of the messages that hold the result.
    pub message_ids: Vec<i64>,
    /// Telegram's ids of the files.
    pub file_ids: Vec<String>,
    /// What each is: the number of its item in the result, and its kind, as `0:photo`.
    pub file_kinds: Vec<String>,
    /// URLs of the files, for the event.
    pub files: Vec<String>,
    /// The group's new id, where it became a supergroup meanwhile: the bot's own records are to follow.
    pub migrated_to: Option<i64>,
}

/// Everything is delivered: delivery and end are one write.
pub fn delivered(flight: &mut Flight, receipt: &Receipt) -> Change {
    let ids = message_list(&receipt.message_ids);
    let files = json_list(&receipt.file_ids);
    let with_ids = |event: crate::job::flight::Event| {
        event
            .with("message_ids", ids.clone())
            .with("file_ids", files.clone())
    };
    let done = with_ids(ending(flight, "done")).with("files", json_list(&receipt.files));
    let mut patch = Patch::default()
        .set("message_ids", ids.clone())
        .set("file_ids", files.clone())
        .del(&["rung", "error", "kind"]);
    if let Some(target) = &flight.target {
        // The entry goes: what a redelivery needs stays.
        patch = patch
            .set("file_kinds", json_list(&receipt.file_kinds))
            .set("sent_to", target.to_resend_json(Words::Left));
        let mut event = with_ids(flight.event("delivered"));
        event.since = flight.completed_at;
        if let Some(chat) = receipt.migrated_to {
            event = event.with("migrated_to", chat.to_string());
        }
        patch = patch.event(event);
    }
    let patch = patch.event(done);
    flight.closing = true;
    Change::write(
        Write::End {
            state: EndState::Done,
            patch,
        },
        Next::Over,
    )
}

/// What a delivery that failed has left in the chat all the same: a redelivery sends it again for free.
pub fn keep_what_went(mut change: Change, receipt: &Receipt) -> Change {
    if let Some(Write::Save { patch, .. } | Write::End { patch, .. }) = &mut change.write
        && !receipt.message_ids.is_empty()
    {
        let fields = [
            ("message_ids", message_list(&receipt.message_ids)),
            ("file_ids", json_list(&receipt.file_ids)),
            ("file_kinds", json_list(&receipt.file_kinds)),
        ];
        patch.set.extend(fields);
    }
    change
}

/// A redelivery has ended: its one event names the job whose result it was, with what is in the chat now
/// and, where it failed, why. Nothing is told to the user, and no dead letter stays.
pub fn redelivered(flight: &mut Flight, receipt: &Receipt, failed: Option<&Failure>) -> Change {
    let ids = message_list(&receipt.message_ids);
    let files = json_list(&receipt.file_ids);
    let mut event = flight
        .event("redelivered")
        .with("message_ids", ids.clone())
        .with("file_ids", files);
    event.since = Some(flight.queued_at);
    if let Some(redelivers) = &flight.redelivers {
        for (name, value) in &mut event.fields {
            if *name == "job" {
                value.clone_from(&redelivers.job);
            }
        }
    }
    let mut patch = Patch::default()
        .set("message_ids", ids)
        .set("charged", Charged::No.as_str())
        .del(&[
            "rung",
            "result",
            "echoes",
            "file_ids",
            "file_kinds",
            "sent_to",
        ]);
    if let Some(failed) = failed {
        event = event
            .with("kind", failed.kind.as_str())
            .with("error", failed.text.clone());
        patch = patch
            .set("kind", failed.kind.as_str())
            .set("error", failed.text.clone());
    }
    flight.closing = true;
    Change::write(
        Write::End {
            state: EndState::Done,
            patch: patch.event(event),
        },
        Next::Over,
    )
}
