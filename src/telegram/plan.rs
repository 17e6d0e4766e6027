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
//! Progress changes only by answers, so the rung is right again after a restart. One rule the ladder
//! never breaks: after an outcome nobody knows, the same call is repeated, never another one made.
//!
//! `kind` knows what a file is to Telegram, `looks` what it turns out to be once it is here, `compose` what
//! stands in a call; `album` has the steps of several files in one call, all others are here.
//!
//! The caller makes the call of [`next`], gives its outcome to [`after`], and records the progress it
//! gets: always before a call that is not repeatable ([`Method::is_repeatable`](super::Method)) goes
//! out on progress that differs from the record, else a crash would repeat messages that are out.

mod album;
mod compose;
mod kind;
mod looks;

pub use looks::{Looks, seen};

use super::refusal::{Cause, Refusal, Repair};
use super::text::{self, CAPTION};
use super::{Call, Sent};
use crate::job::answer::{File, Item};
use crate::job::failure::{Failure, Kind, Remedy};
use crate::job::spec::Target;
use crate::job::words::Words;
use crate::job::{Charged, Lang};
use compose::{
    Keyboard, body_texts, caption_form, caption_texts, delete_call, file_call, link, link_call,
    ping_call, text_call, upload,
};
use kind::{SendKind, held_kind, is_data, is_http, kind, misshapen, taken_by_url};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Fresh sends of one message that may have been carried out, at most (section 10).
const SENDS: u8 = 5;
/// Repeats for a passing reason that is known to have left nothing behind.
const REPEATS: u8 = 3;
/// The file's place in an edit.
const ATTACHED: &str = "attach://f0";
/// Room for the form around a file, when a size is judged before the form is made.
const FORM_BYTES: u64 = 16 * 1024;

/// `--delivery`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeliveryMode {
    /// By URL where Telegram takes it, else upload.
    #[default]
    Auto,
    /// Always upload.
    Upload,
    /// Never upload (but what has no URL): by URL, else a text with the link.
    Url,
}

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

/// How a file goes: the rung. In the order of the ladder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Way {
    /// To be chosen by kind, size and host.
    #[default]
    #[serde(rename = "")]
    Undecided,
    /// Telegram has it already.
    #[serde(rename = "h")]
    Held,
    /// Telegram fetches it.
    #[serde(rename = "u")]
    Url,
    /// We fetch it and upload it.
    #[serde(rename = "f")]
    Upload,
    /// The same, as a plain document.
    #[serde(rename = "d")]
    Document,
    /// A text with its URL.
    #[serde(rename = "l")]
    Link,
}

/// What is known about editing the status message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edit {
    /// To be tried, where there is one item and a status message.
    #[default]
    #[serde(rename = "")]
    Open,
    /// It is media: a text goes into its caption.
    #[serde(rename = "c")]
    Caption,
    /// It cannot be edited: a fresh send, then it is deleted.
    #[serde(rename = "r")]
    Refused,
    /// It does not exist any more: nothing to delete either.
    #[serde(rename = "g")]
    Gone,
}

/// How the caption goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Caption {
    /// As it is.
    #[default]
    #[serde(rename = "")]
    Whole,
    /// Cut, with the whole as a text after it.
    #[serde(rename = "c")]
    Cut,
    /// Not at all, with the whole as a text after it.
    #[serde(rename = "n")]
    Apart,
}

/// How far a delivery got. Lives in the job's `rung` field as compact JSON ([`Progress::to_text`]);
/// defaults are left out, unknown members ignored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Index of the item under way; their number when all are out.
    #[serde(rename = "i", skip_serializing_if = "is_default")]
    pub item: usize,
    /// Messages of this item that are out (a file and its long caption are several).
    #[serde(rename = "p", skip_serializing_if = "is_default")]
    pub part: usize,
    /// The item's rung.
    #[serde(rename = "w", skip_serializing_if = "is_default")]
    pub way: Way,
    /// What is known about the status message.
    #[serde(rename = "e", skip_serializing_if = "is_default")]
    pub edit: Edit,
    /// How the caption goes.
    #[serde(rename = "c", skip_serializing_if = "is_default")]
    pub caption: Caption,
    /// Without `parse_mode`, markup stripped.
    #[serde(rename = "pl", skip_serializing_if = "is_default")]
    pub plain: bool,
    /// Without `reply_parameters`.
    #[serde(rename = "nr", skip_serializing_if = "is_default")]
    pub no_reply: bool,
    /// Without `message_thread_id`.
    #[serde(rename = "nt", skip_serializing_if = "is_default")]
    pub no_thread: bool,
    /// Without `reply_markup`.
    #[serde(rename = "nm", skip_serializing_if = "is_default")]
    pub no_markup: bool,
    /// The text under way shows nothing: a fixed one in its place.
    #[serde(rename = "x", skip_serializing_if = "is_default")]
    pub fixed_text: bool,
    /// The rung given for a 400 that nobody knows was used (one an item).
    #[serde(rename = "o", skip_serializing_if = "is_default")]
    pub other_used: bool,
    /// The group's new id.
    #[serde(rename = "ch", skip_serializing_if = "is_default")]
    pub migrated_to: Option<i64>,
    /// Fresh sends of the message under way whose outcome nobody knows.
    #[serde(rename = "s", skip_serializing_if = "is_default")]
    pub sends: u8,
    /// Repeats of the message under way that certainly left nothing behind.
    #[serde(rename = "r", skip_serializing_if = "is_default")]
    pub repeats: u8,
    /// Waits in a row, for their growth.
    #[serde(rename = "t", skip_serializing_if = "is_default")]
    pub waits: u8,
    /// The previous message of this item, to be replied to.
    #[serde(rename = "l", skip_serializing_if = "is_default")]
    pub last_id: Option<i64>,
    /// The status message has become the result.
    #[serde(rename = "ed", skip_serializing_if = "is_default")]
    pub edited: bool,
    /// The status message is still to be deleted.
    #[serde(rename = "d", skip_serializing_if = "is_default")]
    pub delete_due: bool,
    /// The ping is still to be tried.
    #[serde(rename = "g", skip_serializing_if = "is_default")]
    pub ping_due: bool,
    /// Items in the album under way, once something happened to it; 0: to be counted anew.
    #[serde(rename = "a", skip_serializing_if = "is_default")]
    pub album: usize,
    /// Items below this index go one by one: their album was refused.
    #[serde(rename = "al", skip_serializing_if = "is_default")]
    pub alone: usize,
    /// Items below this index do not go by URL: their album was refused by URL, or is being uploaded.
    #[serde(rename = "nu", skip_serializing_if = "is_default")]
    pub no_url: usize,
    /// The album at the end took no keyboard: a text carries it.
    #[serde(rename = "k", skip_serializing_if = "is_default")]
    pub keyboard_due: bool,
    /// Ids of all messages of the result.
    #[serde(rename = "m", skip_serializing_if = "is_default")]
    pub message_ids: Vec<i64>,
    /// Telegram's ids of its files.
    #[serde(rename = "f", skip_serializing_if = "is_default")]
    pub file_ids: Vec<String>,
    /// What each of them is: the number of its item, and its kind, as `0:photo`.
    #[serde(rename = "fk", skip_serializing_if = "is_default")]
    pub file_kinds: Vec<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Progress {
    /// For the record; `""` when nothing has happened yet.
    pub fn to_text(&self) -> String {
        if is_default(self) {
            return String::new();
        }
        // A struct of numbers, texts and lists always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From the record. `None`: not ours (a start from nothing would send twice, so the caller decides).
    pub fn parse(text: &str) -> Option<Progress> {
        if text.is_empty() {
            Some(Progress::default())
        } else {
            serde_json::from_str(text).ok()
        }
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
    /// Everything is done.
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
            let (texts, markup) = body_texts(parcel, p, body);
            let last = is_last(parcel, p) && p.part + 1 == texts.len();
            let text = texts.into_iter().nth(p.part).unwrap_or_default();
            let keyboard = if last {
                Keyboard::Wanted
            } else {
                Keyboard::Absent
            };
            Op::Call(text_call(parcel, p, text, markup, keyboard))
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
    let mut p = settled(parcel, progress.clone());
    if p.item >= parcel.items.len() {
        return after_epilogue(p, outcome, jitter);
    }
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
/// warned about). A ping in doubt is not repeated. `Err`: the fifth send is in doubt.
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
        After::Go(progress) | After::Wait { progress, .. } => Ok((progress, false)),
        After::OperatorTrouble(text) => Err(failure(Kind::Telegram, text)),
    }
}

// ---- where we are ----

/// Moves past items that are wholly out. Progress as `after` returns it is settled already; a record
/// of another version may not be.
fn settled(parcel: &Parcel<'_>, mut p: Progress) -> Progress {
    while p.item < parcel.items.len() {
        let messages = messages(parcel, &p);
        if p.part < messages {
            break;
        }
        p.item += 1;
        if p.item == parcel.items.len() {
            let target = parcel.target;
            p.delete_due = target.status_message_id.is_some() && !p.edited && p.edit != Edit::Gone;
            // Whatever came after the edit has made its sound.
            p.ping_due = p.edited && parcel.ping_due && messages == 1;
        }
        p.part = 0;
        p.album = 0;
        p.way = Way::Undecided;
        p.caption = Caption::Whole;
        p.other_used = false;
        p.last_id = None;
    }
    p
}

/// Messages that the item under way takes.
fn messages(parcel: &Parcel<'_>, p: &Progress) -> usize {
    match &parcel.items[p.item] {
        Item::File(file) => 1 + caption_texts(parcel, p, file).0.len(),
        Item::Text(body) => body_texts(parcel, p, body).0.len(),
    }
}

fn is_last(parcel: &Parcel<'_>, p: &Progress) -> bool {
    p.item + 1 == parcel.items.len()
}

/// Whether the message under way goes into the status message.
fn editing(parcel: &Parcel<'_>, p: &Progress) -> bool {
    let open = match p.edit {
        Edit::Open => true,
        Edit::Caption => match parcel.items.first() {
            // A link that no caption holds whole is worthless.
            Some(Item::File(file)) => {
                way(parcel, p, file) != Way::Link || text::units(&link(parcel, file)) <= CAPTION
            }
            Some(Item::Text(_)) | None => true,
        },
        Edit::Refused | Edit::Gone => false,
    };
    open && p.part == 0
        && parcel.items.len() == 1
        && parcel.target.status_message_id.is_some()
        && p.migrated_to.is_none()
}

/// Whether the item's first text goes, or went, into the caption of the status message.
fn into_caption(parcel: &Parcel<'_>, p: &Progress) -> bool {
    p.edit == Edit::Caption && (p.edited || editing(parcel, p))
}

// ---- on which rung ----

/// The rung of the item under way.
fn way(parcel: &Parcel<'_>, p: &Progress, file: &File) -> Way {
    if p.way != Way::Undecided {
        return p.way;
    }
    if file.held.is_some() {
        return Way::Held;
    }
    first_way(parcel, p.item < p.no_url, file)
}

/// The rung where a file that Telegram does not have enters the ladder. `no_url`: its URL was refused already.
fn first_way(parcel: &Parcel<'_>, no_url: bool, file: &File) -> Way {
    let kind = kind(parcel.target.send_as, file);
    if is_data(&file.url) {
        return upload_rung(parcel, file, kind);
    }
    if !is_http(&file.url) || !(parcel.may_fetch)(&file.url) {
        return Way::Link;
    }
    let limits = &parcel.limits;
    let by_url_limit = if kind == SendKind::Photo {
        limits.photo_by_url
    } else {
        limits.file_by_url
    };
    let by_url = parcel.delivery != DeliveryMode::Upload
        && !no_url
        && taken_by_url(kind, file)
        && file.size.is_none_or(|size| size <= by_url_limit)
        && !(kind == SendKind::Photo && misshapen(file));
    if by_url {
        Way::Url
    } else if parcel.delivery == DeliveryMode::Url
        || file
            .size
            .is_some_and(|size| size.saturating_add(FORM_BYTES) > limits.upload_body)
    {
        Way::Link
    } else {
        upload_rung(parcel, file, kind)
    }
}

/// Where a file that is uploaded enters the ladder: no photo that cannot be one.
fn upload_rung(parcel: &Parcel<'_>, file: &File, kind: SendKind) -> Way {
    let too_big = file
        .size
        .is_some_and(|size| size > parcel.limits.photo_upload);
    if kind == SendKind::Photo && (too_big || misshapen(file)) {
        Way::Document
    } else {
        Way::Upload
    }
}

// ---- what an outcome changes ----

fn delivered(parcel: &Parcel<'_>, mut p: Progress, edited: bool, sent: Sent) -> After {
    // Remember the rung: it decides which texts follow.
    if let Some(Item::File(file)) = parcel.items.get(p.item) {
        p.way = way(parcel, &p, file);
    }
    let id = if edited {
        parcel.target.status_message_id
    } else {
        sent.message_ids.last().copied()
    };
    if edited {
        p.edited = true;
        p.message_ids.extend(id);
    } else {
        p.message_ids.extend(sent.message_ids);
    }
    let first = p.item;
    let kinds = (first..).zip(&sent.file_kinds);
    p.file_kinds
        .extend(kinds.map(|(item, kind)| format!("{item}:{kind}")));
    p.file_ids.extend(sent.file_ids);
    p.last_id = id;
    next_message(parcel, p)
}

fn next_message(parcel: &Parcel<'_>, mut p: Progress) -> After {
    p.part += 1;
    (p.sends, p.repeats, p.waits, p.fixed_text) = (0, 0, 0, false);
    After::Go(settled(parcel, p))
}

/// An outcome that nobody knows. `fresh`: it may have made a message.
fn in_doubt(mut p: Progress, fresh: bool, text: String, jitter: f64) -> After {
    let wait = growing(
        Duration::from_secs(5),
        p.waits,
        Duration::from_secs(60),
        jitter,
    );
    p.waits = p.waits.saturating_add(1);
    if fresh {
        p.sends = p.sends.saturating_add(1);
        if p.sends >= SENDS {
            return After::Failed(failure(
                Kind::Telegram,
                format!("outcome unknown {SENDS} times: {text}"),
            ));
        }
    }
    After::Unknown {
        progress: p,
        wait,
        resend: fresh,
    }
}

/// `base` to twice `base`, doubled for every wait before, `most` at most.
fn growing(base: Duration, waits: u8, most: Duration, jitter: f64) -> Duration {
    let doubled = base.saturating_mul(1 << u32::from(waits.min(6)));
    doubled.mul_f64(1.0 + jitter.clamp(0.0, 1.0)).min(most)
}

fn fall_back(parcel: &Parcel<'_>, mut p: Progress, cause: Cause, editing: bool) -> After {
    let words = format!("refused: {cause:?}");
    match cause {
        Cause::EditRefused | Cause::NoCaptionInMessage if editing => p.edit = Edit::Refused,
        Cause::NoTextInMessage if editing => {
            p.edit = if p.edit == Edit::Open {
                Edit::Caption
            } else {
                Edit::Refused
            };
        }
        Cause::EditGone if editing => p.edit = Edit::Gone,
        Cause::EditRefused
        | Cause::NoCaptionInMessage
        | Cause::NoTextInMessage
        | Cause::EditGone
        | Cause::AlbumRefused
        | Cause::AlbumAgain => return other(parcel, p, editing, words),
        Cause::FileEmpty if p.repeats == 0 => {
            // The file is to be had anew.
            p.repeats += 1;
            return After::Wait {
                progress: p,
                for_: Duration::from_secs(1),
                counted: true,
            };
        }
        Cause::UrlRefused
        | Cause::PhotoRefused
        | Cause::MediaRefused
        | Cause::TooBig
        | Cause::FileEmpty
        | Cause::KindForbidden => {
            let file = match parcel.items.get(p.item) {
                Some(Item::File(file)) if p.part == 0 && way(parcel, &p, file) != Way::Link => file,
                // A text: there is nothing below it.
                _ if cause == Cause::KindForbidden => {
                    return After::Failed(failure(
                        Kind::ChatUnreachable,
                        "the chat takes neither files nor texts".into(),
                    ));
                }
                _ => return other(parcel, p, editing, words),
            };
            match rung_below(parcel, &p, file, cause) {
                Some(way) => p.way = way,
                None => {
                    let kind = if cause == Cause::TooBig {
                        Kind::FileTooBig
                    } else {
                        Kind::Telegram
                    };
                    return After::Failed(failure(kind, words));
                }
            }
        }
    }
    p.waits = 0;
    After::Go(p)
}

/// The next rung of a file. `None`: a `data:` URI at its end.
fn rung_below(parcel: &Parcel<'_>, p: &Progress, file: &File, cause: Cause) -> Option<Way> {
    let kind = kind(parcel.target.send_as, file);
    let at = way(parcel, p, file);
    if at == Way::Held {
        return (!file.url.is_empty()).then(|| first_way(parcel, p.item < p.no_url, file));
    }
    let uploads = parcel.delivery != DeliveryMode::Url || is_data(&file.url);
    let fits = file
        .size
        .is_none_or(|size| size.saturating_add(FORM_BYTES) <= parcel.limits.upload_body);
    let over = matches!(cause, Cause::TooBig | Cause::FileEmpty);
    if uploads && fits && !over {
        // The bytes may be good though the URL was not.
        if cause == Cause::UrlRefused && at < Way::Upload {
            return Some(upload_rung(parcel, file, kind));
        }
        // An upload of a document is the document rung already.
        if at < Way::Document && kind != SendKind::Document {
            return Some(Way::Document);
        }
    }
    (!is_data(&file.url)).then_some(Way::Link)
}

fn mend(parcel: &Parcel<'_>, p: Progress, repair: Repair, editing: bool) -> After {
    match repaired(parcel, p.clone(), repair, editing) {
        Ok(Some(p)) => After::Go(p),
        Ok(None) => {
            let words = format!("refused after its repair: {repair:?}");
            other(parcel, p, editing, words)
        }
        Err(end) => *end,
    }
}

/// The progress with one thing changed. `None`: it is changed already. `Err`: what ends the message.
fn repaired(
    parcel: &Parcel<'_>,
    mut p: Progress,
    repair: Repair,
    editing: bool,
) -> Result<Option<Progress>, Box<After>> {
    let was = p.clone();
    match repair {
        Repair::Migrated(id) if p.migrated_to.is_none() => {
            // Old message ids mean nothing in the new chat, or something else.
            p.migrated_to = Some(id);
            p.no_reply = true;
            p.last_id = None;
            if !p.edited {
                p.edit = Edit::Gone;
            }
        }
        Repair::Migrated(_) => {}
        Repair::ParseError | Repair::Entities | Repair::TextTooLong => p.plain = true,
        Repair::CaptionTooLong if editing && p.edit == Edit::Caption => p.edit = Edit::Refused,
        Repair::CaptionTooLong => {
            p.caption = match caption_form(parcel, &p) {
                Caption::Whole => Caption::Cut,
                Caption::Cut | Caption::Apart => Caption::Apart,
            };
        }
        Repair::TextEmpty => match parcel.items.get(p.item) {
            // A caption that shows nothing is not missed.
            Some(Item::File(_)) if p.part > 0 => return Err(Box::new(next_message(parcel, p))),
            Some(_) | None => p.fixed_text = true,
        },
        Repair::ReplyGone => p.no_reply = true,
        Repair::ThreadGone if p.no_thread => {
            return Err(Box::new(After::Failed(failure(
                Kind::ChatUnreachable,
                "the topic is gone or closed".into(),
            ))));
        }
        Repair::ThreadGone => p.no_thread = true,
        Repair::MarkupRefused => p.no_markup = true,
    }
    if p == was {
        return Ok(None);
    }
    p.waits = 0;
    Ok(Some(p))
}

/// A 400 that nobody knows: one step to what is most likely to pass, away from the edit and down the
/// ladder at once, since there is only one; then it fails.
fn other(parcel: &Parcel<'_>, mut p: Progress, editing: bool, text: String) -> After {
    let was = p.clone();
    if !p.other_used {
        p.other_used = true;
        if editing {
            p.edit = Edit::Refused;
        }
        let file = match parcel.items.get(p.item) {
            Some(Item::File(file)) if p.part == 0 => Some(file),
            Some(_) | None => None,
        };
        let link = file.is_some_and(|file| way(parcel, &p, file) == Way::Link);
        let below = file.filter(|_| !link);
        match below.and_then(|file| rung_below(parcel, &p, file, Cause::UrlRefused)) {
            Some(way) => p.way = way,
            // Without markup, or the link without its preview.
            None => p.plain |= parcel.target.parse_mode.is_some() || link,
        }
        if p.edit != was.edit || p.way != was.way || p.plain != was.plain {
            p.waits = 0;
            return After::Go(p);
        }
    }
    After::Failed(failure(Kind::Telegram, text))
}

/// Deletion and ping: the result is delivered, nothing here can fail it.
fn after_epilogue(mut p: Progress, outcome: Result<Sent, Refusal>, jitter: f64) -> After {
    if !p.delete_due {
        p.ping_due = false;
        return After::Go(p);
    }
    let passing = match outcome {
        Err(Refusal::RetryAfter { wait } | Refusal::AlbumHeld { wait }) => Some(wait),
        Err(Refusal::Unknown(_) | Refusal::Broke(_) | Refusal::NotSent(_)) => Some(growing(
            Duration::from_secs(1),
            p.repeats,
            Duration::from_secs(30),
            jitter,
        )),
        Ok(_)
        | Err(
            Refusal::Unreachable(_)
            | Refusal::NotModified
            | Refusal::Gone
            | Refusal::AlreadySent(_)
            | Refusal::EditSuperseded
            | Refusal::FallBack(_)
            | Refusal::Repair(_)
            | Refusal::Operator(_)
            | Refusal::Bug(_)
            | Refusal::Other400(_),
        ) => None,
    };
    match passing {
        Some(for_) if p.repeats < REPEATS => {
            p.repeats += 1;
            After::Wait {
                progress: p,
                for_,
                counted: true,
            }
        }
        Some(_) | None => {
            (p.delete_due, p.repeats) = (false, 0);
            After::Go(p)
        }
    }
}

/// `charged` says nothing here: what a job cost was known before its delivery.
fn failure(kind: Kind, text: String) -> Failure {
    Failure {
        kind,
        remedy: Remedy::Final,
        text,
        charged: Charged::No,
        units: None,
        retry_after: None,
        spoke: true,
    }
}

#[cfg(test)]
mod tests;
