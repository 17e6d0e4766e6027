//! How far a delivery got, as it lies in the record, and what that means: which message is under way, and
//! whether it goes into the status message.

use super::Parcel;
use super::compose::{body_part, caption_texts, link};
use super::rung::way;
use crate::job::answer::Item;
use crate::telegram::text::{self, CAPTION};
use serde::{Deserialize, Serialize};

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
    /// Bytes of a text item that are in them, its caption and white space included; 0: not noted.
    #[serde(rename = "b", skip_serializing_if = "is_default")]
    pub at: usize,
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
    /// Items that the chat does not take, neither as a file nor as a text: the others go all the same.
    #[serde(rename = "lo", skip_serializing_if = "is_default")]
    pub lost: usize,
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

/// Moves past items that are wholly out. Progress as `after` returns it is settled already; a record
/// of another version may not be.
pub(super) fn settled(parcel: &Parcel<'_>, mut p: Progress) -> Progress {
    while p.item < parcel.items.len() {
        if !is_out(parcel, &p) {
            break;
        }
        let messages = p.part;
        p.item += 1;
        if p.item == parcel.items.len() {
            let target = parcel.target;
            // Where something was lost it may have to say so.
            let stays = p.edited || p.edit == Edit::Gone || p.lost > 0;
            p.delete_due = target.status_message_id.is_some() && !stays;
            // Whatever came after the edit has made its sound.
            p.ping_due = p.edited && parcel.ping_due && messages == 1 && p.lost == 0;
        }
        (p.part, p.at) = (0, 0);
        p.album = 0;
        p.way = Way::Undecided;
        p.caption = Caption::Whole;
        p.other_used = false;
        p.last_id = None;
    }
    p
}

/// Whether no message of the item under way is due any more.
fn is_out(parcel: &Parcel<'_>, p: &Progress) -> bool {
    match &parcel.items[p.item] {
        Item::File(file) => p.part > caption_texts(parcel, p, file).0.len(),
        Item::Text(body) => p.part > 0 && body_part(parcel, p, body).is_none(),
    }
}

pub(super) fn is_last(parcel: &Parcel<'_>, p: &Progress) -> bool {
    p.item + 1 == parcel.items.len()
}

/// Whether the message under way goes into the status message.
pub(super) fn editing(parcel: &Parcel<'_>, p: &Progress) -> bool {
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
pub(super) fn into_caption(parcel: &Parcel<'_>, p: &Progress) -> bool {
    p.edit == Edit::Caption && (p.edited || editing(parcel, p))
}
