//! What the outcome of a call changes: a message that is out, a rung that was refused, a repair, a doubt.

use super::compose::{body_part, caption_form};
use super::kind::{SendKind, kind};
use super::progress::{Caption, Edit, Progress, Way, settled};
use super::rung::{first_way, upload_rung, way};
use super::{After, DeliveryMode, FORM_BYTES, Parcel, REPEATS, SENDS, follows_its_file, next};
use crate::job::Charged;
use crate::job::answer::{File, Item, is_data};
use crate::job::failure::{Failure, Kind, Remedy};
use crate::telegram::Sent;
use crate::telegram::refusal::{Cause, Refusal, Repair};
use std::time::Duration;

pub(super) fn delivered(parcel: &Parcel<'_>, mut p: Progress, edited: bool, sent: Sent) -> After {
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
    After::Go(next_message(parcel, p))
}

pub(super) fn next_message(parcel: &Parcel<'_>, mut p: Progress) -> Progress {
    if let Some(Item::Text(body)) = parcel.items.get(p.item) {
        p.at = body_part(parcel, &p, body).map_or(0, |part| part.end);
    }
    p.part += 1;
    (p.sends, p.repeats, p.waits, p.fixed_text) = (0, 0, 0, false);
    settled(parcel, p)
}

/// An outcome that nobody knows. `fresh`: it may have made a message.
pub(super) fn in_doubt(mut p: Progress, fresh: bool, text: String, jitter: f64) -> After {
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
pub(super) fn growing(base: Duration, waits: u8, most: Duration, jitter: f64) -> Duration {
    let doubled = base.saturating_mul(1 << u32::from(waits.min(6)));
    doubled.mul_f64(1.0 + jitter.clamp(0.0, 1.0)).min(most)
}

pub(super) fn fall_back(
    parcel: &Parcel<'_>,
    mut p: Progress,
    cause: Cause,
    editing: bool,
) -> After {
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
                _ if cause == Cause::KindForbidden => return no_texts(parcel, p),
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

/// The chat forbids texts, and below one there is nothing. What else there is of the result it may take.
fn no_texts(parcel: &Parcel<'_>, mut p: Progress) -> After {
    let follows = follows_its_file(parcel.items, &p);
    p.lost += usize::from(!follows);
    (p.part, p.at) = (usize::MAX, 0);
    (p.sends, p.repeats, p.waits, p.fixed_text) = (0, 0, 0, false);
    let progress = settled(parcel, p);
    if !follows {
        return After::Go(progress);
    }
    After::Without {
        progress,
        failure: failure(Kind::Telegram, "the chat takes no texts".into()),
    }
}

/// The next rung of a file. `None`: a `data:` URI at its end.
pub(super) fn rung_below(
    parcel: &Parcel<'_>,
    p: &Progress,
    file: &File,
    cause: Cause,
) -> Option<Way> {
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

pub(super) fn mend(parcel: &Parcel<'_>, p: Progress, repair: Repair, editing: bool) -> After {
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
pub(super) fn repaired(
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
            Some(Item::File(_)) if p.part > 0 => {
                return Err(Box::new(After::Go(next_message(parcel, p))));
            }
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
/// ladder at once, since there is only one, and then one without the keyboard, which is as the bot wrote it;
/// then it fails.
pub(super) fn other(parcel: &Parcel<'_>, mut p: Progress, editing: bool, text: String) -> After {
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
    if !p.no_markup && parcel.target.reply_markup.is_some() {
        p.no_markup = true;
        if next(parcel, &p) != next(parcel, &was) {
            p.waits = 0;
            return After::Go(p);
        }
    }
    After::Failed(failure(Kind::Telegram, text))
}

/// Deletion and ping: the result is delivered, nothing here can fail it.
pub(super) fn after_epilogue(
    mut p: Progress,
    outcome: Result<Sent, Refusal>,
    jitter: f64,
) -> After {
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
pub(super) fn failure(kind: Kind, text: String) -> Failure {
    Failure::new(kind, Remedy::Final, Charged::No, text)
}
