//! The delivery ladder of telegram-api section 9 as a state machine, pure: what is to be delivered
//! ([`Parcel`]) and how far it got ([`Progress`]) give the next call; its outcome gives the progress
//! after it. No clock, no socket, no randomness (jitter comes in as a number).
//!
//! ```text
//! for each album:  by URL ──> upload ──> its items one by one
//! for each item:   by URL ──> upload ──> as document ──> text with the link        (each at most once)
//!                  the same rung again after a repair: no markup, no keyboard, cut caption, …
//!                  then, as replies, what did not fit: rest of a long text, whole caption
//! one item and a status message:  all of that as edits of it; refused ──> fresh sends
//! after the last item:  delete the status message (if it was not edited) ──> ping ──> finished
//! ```
//!
//! An item that a chat which forbids texts does not take as a file either is passed over: the others go out,
//! then the delivery fails ([`lost`]). A text that only follows a file is no reason to fail ([`After::Without`]).
//!
//! Progress changes only by answers, so the rung is right again after a restart. One rule the ladder
//! never breaks: after an outcome nobody knows, the same call is repeated, never another one made.
//!
//! `kind` knows what a file is to Telegram, `looks` what it turns out to be once it is here, `compose` what
//! stands in a call; `progress` knows where a delivery stands, `rung` where a file stands on the ladder,
//! `outcome` what an answer changes of both; `album` has the steps of several files in one call.
//!
//! The caller makes the call of [`next`], gives its outcome to [`after`], and records the progress it
//! gets: always before a call that is not repeatable ([`Method::is_repeatable`](super::Method)) goes
//! out on progress that differs from the record, else a crash would repeat messages that are out.

mod album;
mod compose;
mod kind;
mod looks;
mod outcome;
mod progress;
mod rung;

pub use looks::{Looks, seen};
pub use progress::{Caption, Edit, Progress, Way};

use super::refusal::{Cause, Refusal};
use super::{Call, Sent};
pub use crate::config::DeliveryMode;
use crate::job::Lang;
use crate::job::answer::{Item, is_data};
use crate::job::failure::{Failure, Kind};
use crate::job::spec::Target;
use crate::job::words::Words;
use compose::{
    Keyboard, body_part, caption_texts, delete_call, file_call, link_call, ping_call, text_call,
    upload,
};
use kind::{SendKind, held_kind, kind};
use outcome::{
    after_epilogue, delivered, failure, fall_back, growing, in_doubt, mend, next_message, other,
};
use progress::{editing, is_last, settled};
use rung::{upload_rung, way};
use std::time::Duration;

/// Fresh sends of one message that may have been carried out, at most (section 10).
const SENDS: u8 = 5;
/// Repeats for a passing reason that is known to have left nothing behind.
const REPEATS: u8 = 3;
/// The file's place in an edit.
const ATTACHED: &str = "attach://f0";
/// Room for the form around a file, when a size is judged before the form is made.
const FORM_BYTES: u64 = 16 * 1024;

/// Largest files, bytes (section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferLimits {
    /// Photo by URL.
    pub photo_by_url: u64,
    /// Anything else by URL.
    pub file_by_url: u64,
    /// Photo by upload.
    pub photo_upload: u64,
    /// Whole body of an upload.
    pub upload_body: u64,
}

impl TransferLimits {
    /// The public server.
    pub const PUBLIC: TransferLimits = TransferLimits {
        photo_by_url: 5_000_000,
        file_by_url: 20_000_000,
        photo_upload: 10 * 1024 * 1024,
        upload_body: 50_000_000,
    };
    /// An own server with `--local`: only uploads are larger, since URLs are fetched by Telegram itself.
    pub const LOCAL: TransferLimits = TransferLimits {
        upload_body: 2_000_000_000,
        ..TransferLimits::PUBLIC
    };

    /// Of the server at this `--telegram-url`: anything but the public one is somebody's own.
    pub fn of(telegram_url: &str) -> TransferLimits {
        let rest = telegram_url.trim_end_matches('/');
        let host = rest.split_once("://").map_or(rest, |(_, rest)| rest);
        let host = host.split(['/', ':']).next().unwrap_or_default();
        if host.eq_ignore_ascii_case("api.telegram.org") {
            TransferLimits::PUBLIC
        } else {
            TransferLimits::LOCAL
        }
    }
}

/// What is to be delivered, where and under which rules. The same for every call of one delivery.
pub struct Parcel<'a> {
    /// In order.
    pub items: &'a [Item],
    /// The job's wishes. For telling a failure: one text item and [`telling_target`].
    pub target: &'a Target,
    /// Language of the few words added.
    pub lang: Lang,
    /// Those words.
    pub words: &'a Words,
    /// `--delivery`.
    pub delivery: DeliveryMode,
    /// Of the server in use.
    pub limits: TransferLimits,
    /// Whether the host of this URL may be fetched from (`--file-host`). What may not be fetched is
    /// not sent as a file either, but as a text with the link.
    pub may_fetch: &'a dyn Fn(&str) -> bool,
    /// Whether a successful edit is to be followed by a message that makes a sound.
    pub ping_due: bool,
}

/// The target for telling a failure: the same chat and status message, without what belongs to a result.
pub fn telling_target(target: &Target) -> Target {
    Target {
        caption: None,
        parse_mode: None,
        reply_markup: None,
        has_spoiler: false,
        ..target.clone()
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Make this call.
    Call(Call),
    /// Get a file, say what it is ([`seen`], [`fetched`]), ask again and make that call with it.
    Upload {
        /// `http`, `https` or `data:`.
        url: String,
        /// The call, to be completed with the file.
        call: Call,
        /// The file must not be larger ([`DownloadProblem::TooBig`]).
        max_bytes: u64,
        /// For [`Upload`](super::Upload).
        file_name: String,
        /// For [`Upload`](super::Upload).
        content_type: String,
    },
    /// The same with the files of an album, in this order: as many of them as there are.
    UploadAlbum {
        /// The call, to be completed with the files.
        call: Call,
        /// Two to ten.
        files: Vec<Piece>,
        /// All of them together must not be larger.
        max_bytes: u64,
    },
    /// Everything is done, or what the chat takes of it (see [`lost`]).
    Finished,
}

/// A file of an album that is uploaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// `http`, `https` or `data:`.
    pub url: String,
    /// For [`Upload`](super::Upload).
    pub file_name: String,
    /// For [`Upload`](super::Upload).
    pub content_type: String,
}

/// What an outcome leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum After {
    /// Go on with [`next`].
    Go(Progress),
    /// Nothing was carried out; [`next`] after this time.
    Wait {
        /// To record and go on with.
        progress: Progress,
        /// How long.
        for_: Duration,
        /// `true`: one of a bounded number of repeats. `false`: Telegram wants silence or is away,
        /// which only `--delivery-timeout` ends.
        counted: bool,
    },
    /// Nobody knows what became of it: the same call again after this time.
    Unknown {
        /// To record and go on with.
        progress: Progress,
        /// How long.
        wait: Duration,
        /// Whether the repeat may show the user a second message (to be counted and warned about);
        /// an edit never does, and is repeated without end.
        resend: bool,
    },
    /// This message cannot be had, but it only follows a file that is in the chat: the result is there without
    /// it. Go on with [`next`].
    Without {
        /// To record and go on with.
        progress: Progress,
        /// What it failed of.
        failure: Failure,
    },
    /// The delivery has failed for good.
    Failed(Failure),
    /// No job's fault: the progress stays as it is, all sends wait for the operator.
    OperatorTrouble(String),
}

/// Why a file could not be had for an upload. Passing troubles are the caller's to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownloadProblem {
    /// The host has it no more, or a `data:` URI is none.
    Gone,
    /// Over `max_bytes`.
    TooBig,
    /// A redirect led to a host that may not be fetched from.
    HostNotAllowed,
    /// Tried often enough.
    Exhausted,
}

/// The next call of a delivery.
pub fn next(parcel: &Parcel<'_>, progress: &Progress) -> Op {
    let p = &settled(parcel, progress.clone());
    let together = album::count(parcel, p);
    if together > 1 {
        return album::op(parcel, p, together);
    }
    match parcel.items.get(p.item) {
        Some(Item::File(file)) if p.part == 0 => match way(parcel, p, file) {
            Way::Link => Op::Call(link_call(parcel, p, file)),
            Way::Held => {
                let id = file.held.as_ref().map(|held| held.id.as_str());
                let kind = held_kind(file).unwrap_or(kind(parcel.target.send_as, file));
                Op::Call(file_call(parcel, p, file, kind, id))
            }
            Way::Url => Op::Call(file_call(
                parcel,
                p,
                file,
                kind(parcel.target.send_as, file),
                Some(&file.url),
            )),
            Way::Upload => upload(parcel, p, file, kind(parcel.target.send_as, file)),
            Way::Document | Way::Undecided => upload(parcel, p, file, SendKind::Document),
        },
        Some(Item::File(file)) => {
            let (texts, markup) = caption_texts(parcel, p, file);
            let keyboard = if p.keyboard_due && p.part == texts.len() {
                Keyboard::Wanted
            } else {
                Keyboard::Absent
            };
            let text = texts.into_iter().nth(p.part - 1).unwrap_or_default();
            Op::Call(text_call(parcel, p, text, markup, keyboard))
        }
        Some(Item::Text(body)) => {
            let part = body_part(parcel, p, body).unwrap_or_default();
            let keyboard = if is_last(parcel, p) && part.is_last {
                Keyboard::Wanted
            } else {
                Keyboard::Absent
            };
            Op::Call(text_call(parcel, p, part.text, part.markup, keyboard))
        }
        None if p.delete_due => Op::Call(delete_call(parcel, p)),
        None if p.ping_due => Op::Call(ping_call(parcel, p)),
        None => Op::Finished,
    }
}

/// Whether [`next`] would be [`Op::Finished`], without making a call to see it.
pub fn is_finished(parcel: &Parcel<'_>, progress: &Progress) -> bool {
    let all = parcel.items.len();
    let is = |p: &Progress| p.item >= all && !p.delete_due && !p.ping_due;
    match progress.item < all {
        true => is(&settled(parcel, progress.clone())),
        false => is(progress),
    }
}

/// What the outcome of the call that [`next`] gave for this progress leads to. `jitter`: 0 to 1, random.
pub fn after(
    parcel: &Parcel<'_>,
    progress: &Progress,
    outcome: Result<Sent, Refusal>,
    jitter: f64,
) -> After {
    let p = settled(parcel, progress.clone());
    if p.item >= parcel.items.len() {
        return after_epilogue(p, outcome, jitter);
    }
    // Whom nothing reaches any more gets nothing further, file or not.
    let reached = !matches!(outcome, Err(Refusal::Unreachable(_)));
    let without = reached.then(|| without(parcel, &p)).flatten();
    match (after_message(parcel, p, outcome, jitter), without) {
        (After::Failed(failure), Some(progress)) => After::Without { progress, failure },
        (after, _) => after,
    }
}

/// The same for a message of the result.
fn after_message(
    parcel: &Parcel<'_>,
    mut p: Progress,
    outcome: Result<Sent, Refusal>,
    jitter: f64,
) -> After {
    let together = album::count(parcel, &p);
    let outcome = if together > 1 {
        match album::after(parcel, p.clone(), together, outcome, jitter) {
            Ok(after) => return after,
            Err(refusal) => {
                p.album = together;
                Err(refusal)
            }
        }
    } else {
        outcome
    };
    let editing = editing(parcel, &p);
    let refusal = match outcome {
        Ok(sent) => return delivered(parcel, p, editing, sent),
        Err(refusal) => refusal,
    };
    match refusal {
        Refusal::AlreadySent(_) => delivered(parcel, p, editing, Sent::default()),
        Refusal::NotModified if editing => delivered(parcel, p, editing, Sent::default()),
        Refusal::Unreachable(text) => After::Failed(failure(Kind::ChatUnreachable, text)),
        Refusal::Operator(text) => After::OperatorTrouble(text),
        Refusal::Bug(text) => After::Failed(failure(
            Kind::Telegram,
            format!("our request is wrong: {text}"),
        )),
        Refusal::RetryAfter { wait } | Refusal::AlbumHeld { wait } => After::Wait {
            progress: p,
            for_: wait + Duration::from_secs_f64(jitter.clamp(0.0, 1.0)),
            counted: false,
        },
        Refusal::NotSent(_) => {
            let for_ = growing(
                Duration::from_secs(1),
                p.waits,
                Duration::from_secs(30),
                jitter,
            );
            p.waits = p.waits.saturating_add(1);
            After::Wait {
                progress: p,
                for_,
                counted: false,
            }
        }
        Refusal::Unknown(text) | Refusal::Broke(text) => in_doubt(p, !editing, text, jitter),
        Refusal::EditSuperseded | Refusal::FallBack(Cause::AlbumAgain) if p.repeats < REPEATS => {
            p.repeats += 1;
            let for_ = growing(
                Duration::from_secs(1),
                p.repeats,
                Duration::from_secs(10),
                jitter,
            );
            After::Wait {
                progress: p,
                for_,
                counted: true,
            }
        }
        Refusal::FallBack(cause) => fall_back(parcel, p, cause, editing),
        Refusal::Repair(repair) => mend(parcel, p, repair, editing),
        Refusal::Other400(text) => other(parcel, p, editing, text),
        refusal @ (Refusal::NotModified | Refusal::Gone | Refusal::EditSuperseded) => {
            other(parcel, p, editing, refusal.to_string())
        }
    }
}

/// Whether all files of the result are in the chat, and at most texts that follow the last one are missing.
pub fn is_there(items: &[Item], p: &Progress) -> bool {
    let over = p.item >= items.len();
    p.lost == 0 && (over || (p.item + 1 == items.len() && follows_its_file(items, p)))
}

/// Why a delivery that is over has failed all the same: what the chat does not take of its result.
pub fn lost(items: &[Item], p: &Progress) -> Option<Failure> {
    let (lost, all) = (p.lost, items.len());
    if lost == 0 {
        return None;
    }
    if lost < all || !p.message_ids.is_empty() {
        let text = format!("the chat takes no texts: {lost} of {all} parts did not arrive");
        return Some(failure(Kind::Telegram, text));
    }
    let has_files = items.iter().any(|item| matches!(item, Item::File(_)));
    let text = match has_files {
        true => "the chat takes neither files nor texts",
        false => "the chat takes no texts",
    };
    Some(failure(Kind::ChatUnreachable, text.into()))
}

fn follows_its_file(items: &[Item], p: &Progress) -> bool {
    p.part > 0 && matches!(items.get(p.item), Some(Item::File(_)))
}

/// The progress without the message under way, where it only follows a file that is in the chat.
pub fn without(parcel: &Parcel<'_>, progress: &Progress) -> Option<Progress> {
    follows_its_file(parcel.items, progress).then(|| next_message(parcel, progress.clone()))
}

/// What follows when the file of an [`Op::Upload`] could not be had: the text with its link, useless
/// perhaps but honest. A `data:` URI has none.
pub fn after_download(parcel: &Parcel<'_>, progress: &Progress, problem: DownloadProblem) -> After {
    let mut p = settled(parcel, progress.clone());
    let Some(Item::File(file)) = parcel.items.get(p.item).filter(|_| p.part == 0) else {
        return After::Go(p);
    };
    if is_data(&file.url) {
        return After::Failed(match problem {
            DownloadProblem::TooBig => failure(
                Kind::FileTooBig,
                "the file is over Telegram's limit and has no link".into(),
            ),
            DownloadProblem::Gone
            | DownloadProblem::HostNotAllowed
            | DownloadProblem::Exhausted => {
                failure(Kind::BadAnswer, "the file's data cannot be read".into())
            }
        });
    }
    (p.way, p.album) = (Way::Link, 0);
    After::Go(p)
}

/// Whether a text with its link could stand for the file of an [`Op::Upload`].
pub fn has_link(parcel: &Parcel<'_>, progress: &Progress) -> bool {
    match parcel.items.get(progress.item) {
        Some(Item::File(file)) => !is_data(&file.url),
        Some(Item::Text(_)) | None => true,
    }
}

/// The progress once the files of an upload, the first `got` of them, are here, and `parcel` says what
/// they turned out to be ([`seen`]): a photo that cannot be one goes as a document at once, an album may
/// have to be smaller. Call [`next`] again; the files at hand stay the right ones.
pub fn fetched(parcel: &Parcel<'_>, progress: &Progress, got: usize) -> Progress {
    let mut p = settled(parcel, progress.clone());
    let Some(Item::File(file)) = parcel.items.get(p.item).filter(|_| p.part == 0) else {
        return p;
    };
    // More than one, or the rest of an album whose further files could not be had.
    if got > 1 || (p.album > 1 && p.way == Way::Undecided) {
        return album::fetched(parcel, p, got);
    }
    if p.way <= Way::Upload {
        p.way = upload_rung(parcel, file, kind(parcel.target.send_as, file));
    }
    p
}

/// For a job found in phase `delivering` whose owner may have died inside the call of this progress:
/// the progress to go on with, and whether its next call may show a second message (to be counted and
/// warned about). A ping in doubt is not repeated. `Err`: the fifth send is in doubt; see [`without`].
pub fn resumed_in_doubt(
    parcel: &Parcel<'_>,
    progress: &Progress,
) -> Result<(Progress, bool), Failure> {
    let mut p = settled(parcel, progress.clone());
    if p.item >= parcel.items.len() {
        if !p.delete_due {
            p.ping_due = false;
        }
        return Ok((p, false));
    }
    if editing(parcel, &p) {
        return Ok((p, false));
    }
    let together = album::count(parcel, &p);
    if together > 1 {
        p.album = together;
    }
    match in_doubt(p, true, "the worker died".into(), 0.0) {
        After::Unknown { progress, .. } => Ok((progress, true)),
        After::Failed(failure) => Err(failure),
        After::Go(progress) | After::Wait { progress, .. } | After::Without { progress, .. } => {
            Ok((progress, false))
        }
        After::OperatorTrouble(text) => Err(failure(Kind::Telegram, text)),
    }
}

#[cfg(test)]
mod tests;
