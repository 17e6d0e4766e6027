//! Albums: a run of two to ten files that may go together is one call and one count of `sends`
//! (telegram-api sections 2, 3 and 9.10).
//!
//! ```text
//! album, by URL if all of it goes by URL ──> the same by upload ──> each file on its own ladder
//! ```
//!
//! `sendMediaGroup` ignores a keyboard: where the job has one, the album goes without caption, and a text
//! with both follows it. A repeat after a doubt is the same album with the same items ([`Progress::album`]).
//! What is known to be out never goes again: progress steps over an album when it is answered.

use super::compose::{caption, keyboard_due, media_args, put_mode, send_args};
use super::kind::{SendKind, file_name, kind, media_type};
use super::outcome::{growing, in_doubt, repaired};
use super::progress::{Caption, Progress, Way, is_last, settled};
use super::rung::{first_way, upload_rung};
use super::{After, DeliveryMode, Op, Parcel, Piece};
use crate::job::answer::{File, Item};
use crate::telegram::refusal::{Cause, Refusal, Repair};
use crate::telegram::{Call, Method, Sent};
use serde_json::Value;
use std::time::Duration;

/// Items of one album, at most.
const MOST: usize = 10;
/// Room in the body for the form around one file.
const FORM_BYTES: u64 = 4 * 1024;

/// What may stand in one album.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Photos and videos.
    Seen,
    Heard,
    Documents,
}

fn file<'a>(parcel: &Parcel<'a>, index: usize) -> Option<&'a File> {
    match parcel.items.get(index) {
        Some(Item::File(file)) => Some(file),
        Some(Item::Text(_)) | None => None,
    }
}

/// The kind and the rung of an item in an album. `None`: it goes into none.
fn place(parcel: &Parcel<'_>, p: &Progress, index: usize) -> Option<(SendKind, Way)> {
    let file = file(parcel, index)?;
    if file.held.is_some() {
        return None; // sent again by its id, for its own sake
    }
    let way = first_way(parcel, index < p.no_url, file);
    let kind = match way {
        Way::Link | Way::Held | Way::Undecided => return None,
        Way::Document => SendKind::Document,
        Way::Url | Way::Upload => kind(parcel.target.send_as, file),
    };
    (kind != SendKind::Animation).then_some((kind, way))
}

/// Items of one family may go together. Where uploads are not wanted, those that need one (`data:`
/// URIs) stay apart from those that go by URL, which else would be uploaded too.
fn family(parcel: &Parcel<'_>, p: &Progress, index: usize) -> Option<(Family, bool)> {
    let (kind, way) = place(parcel, p, index)?;
    let family = match kind {
        SendKind::Photo | SendKind::Video => Family::Seen,
        SendKind::Audio => Family::Heard,
        SendKind::Document => Family::Documents,
        SendKind::Animation => return None,
    };
    let apart = parcel.delivery == DeliveryMode::Url && way == Way::Url;
    Some((family, apart))
}

/// How many items from the one under way on go with the next call: one is no album.
pub(super) fn count(parcel: &Parcel<'_>, p: &Progress) -> usize {
    let end = parcel.items.len();
    // Most results are one file: which family it is of need not be known.
    if p.part > 0 || p.item + 1 >= end {
        return 1;
    }
    let first = family(parcel, p, p.item);
    let together = |index: &usize| first.is_some() && family(parcel, p, *index) == first;
    if p.album > 0 {
        let n = p.album.min(end - p.item).min(MOST);
        // A record of other settings may say what no album can be any more.
        let fits = p.way == Way::Undecided && (p.item..p.item + n).all(|index| together(&index));
        return if fits { n } else { 1 };
    }
    // Something happened to this item alone.
    if p.item < p.alone || p.way != Way::Undecided || p.sends > 0 || p.repeats > 0 || p.other_used {
        return 1;
    }
    if first.is_none() {
        return 1;
    }
    let run = (p.item..end).take_while(together).count();
    // 11 are 6 and 5, not 10 and 1.
    fitting(parcel, p, run.div_ceil(run.div_ceil(MOST)))
}

/// As many of these as one request takes, by the sizes that are known.
fn fitting(parcel: &Parcel<'_>, p: &Progress, n: usize) -> usize {
    if by_url(parcel, p, n) {
        return n;
    }
    let mut room = parcel.limits.upload_body.saturating_sub(super::FORM_BYTES);
    let fits = |index: &usize| {
        let size = file(parcel, *index).and_then(|file| file.size).unwrap_or(0);
        let left = room.checked_sub(size.saturating_add(FORM_BYTES));
        room = left.unwrap_or(0);
        left.is_some()
    };
    (p.item..p.item + n).take_while(fits).count().max(1)
}

fn by_url(parcel: &Parcel<'_>, p: &Progress, n: usize) -> bool {
    let by_url = |index| place(parcel, p, index).is_some_and(|(_, way)| way == Way::Url);
    (p.item..p.item + n).all(by_url)
}

/// Seen from the album's last item: what belongs to the end of a result goes with it.
fn at_its_end(p: &Progress, n: usize) -> Progress {
    Progress {
        item: p.item + n - 1,
        ..p.clone()
    }
}

/// The call that sends the next `n` items.
pub(super) fn op(parcel: &Parcel<'_>, p: &Progress, n: usize) -> Op {
    let by_url = by_url(parcel, p, n);
    let end = at_its_end(p, n);
    let (mut media, mut files) = (Vec::new(), Vec::new());
    for index in p.item..p.item + n {
        let (Some(file), Some((kind, _))) = (file(parcel, index), place(parcel, p, index)) else {
            continue; // Not in an album that `count` gave.
        };
        let mut one = media_args(parcel, file, kind);
        one.insert("type".into(), kind.word().into());
        let source = if by_url {
            file.url.clone()
        } else {
            format!("attach://f{}", files.len())
        };
        one.insert("media".into(), source.into());
        if index == end.item
            && !(is_last(parcel, &end) && keyboard_due(parcel, p))
            && let Some((caption, markup)) = caption(parcel, &end)
        {
            one.insert("caption".into(), caption.into());
            put_mode(&mut one, markup);
        }
        media.push(Value::Object(one));
        files.push(Piece {
            url: file.url.clone(),
            file_name: file_name(file, kind),
            content_type: media_type(file)
                .unwrap_or("application/octet-stream".into())
                .into_owned(),
        });
    }
    let mut args = send_args(parcel, p, parcel.target.reply_to_message_id);
    let form = media.iter().map(|one| one.to_string().len()).sum::<usize>() as u64;
    args.insert("media".into(), media.into());
    let call = Call {
        method: Method::SendMediaGroup,
        args,
        file_part: (!by_url).then_some("f0"),
        by_url,
    };
    if by_url {
        return Op::Call(call);
    }
    let around = form + n as u64 * 512 + 4096;
    Op::UploadAlbum {
        max_bytes: parcel.limits.upload_body.saturating_sub(around),
        call,
        files,
    }
}

/// The progress once the first `got` files of an [`Op::UploadAlbum`] are here and `parcel` says what they
/// turned out to be: as many of them as still may go together, one perhaps.
pub(super) fn fetched(parcel: &Parcel<'_>, mut p: Progress, got: usize) -> Progress {
    let got = got.min(parcel.items.len() - p.item).max(1);
    p.no_url = p.no_url.max(p.item + got);
    let first = family(parcel, &p, p.item);
    let together = |index: &usize| first.is_some() && family(parcel, &p, *index) == first;
    let alike = (p.item..p.item + got).take_while(together).count();
    p.album = fitting(parcel, &p, alike.max(1));
    if p.album == 1
        && let Some(file) = file(parcel, p.item)
    {
        p.way = upload_rung(parcel, file, kind(parcel.target.send_as, file));
    }
    p
}

/// What the outcome of an album of `n` leads to.
pub(super) fn after(
    parcel: &Parcel<'_>,
    mut p: Progress,
    n: usize,
    outcome: Result<Sent, Refusal>,
    jitter: f64,
) -> Result<After, Refusal> {
    // From here on it is this album, until it is out or given up.
    p.album = n;
    let refusal = match outcome {
        Ok(sent) => return Ok(After::Go(delivered(parcel, p, n, sent))),
        Err(refusal) => refusal,
    };
    Ok(match refusal {
        Refusal::AlreadySent(_) => After::Go(delivered(parcel, p, n, Sent::default())),
        Refusal::AlbumHeld { wait } => match in_doubt(p, true, refusal.to_string(), jitter) {
            After::Unknown {
                progress,
                wait: pause,
                resend,
            } => After::Unknown {
                progress,
                wait: pause.max(wait + Duration::from_secs_f64(jitter.clamp(0.0, 1.0))),
                resend,
            },
            other => other,
        },
        Refusal::FallBack(Cause::AlbumAgain) if p.repeats == 0 => {
            p.repeats = 1;
            After::Wait {
                for_: growing(Duration::from_secs(1), 0, Duration::from_secs(10), jitter),
                progress: p,
                counted: true,
            }
        }
        Refusal::FallBack(Cause::UrlRefused)
            if by_url(parcel, &p, n) && parcel.delivery != DeliveryMode::Url =>
        {
            // Which one it was nobody can say, and Telegram remembers the others' URLs as well.
            p.no_url = p.item + n;
            (p.waits, p.repeats) = (0, 0);
            p.album = fitting(parcel, &p, n);
            After::Go(p)
        }
        Refusal::Repair(repair) => match repaired(parcel, at_its_end(&p, n), repair, false) {
            Ok(Some(mended)) if !matches!(repair, Repair::TextEmpty | Repair::MarkupRefused) => {
                After::Go(Progress {
                    item: p.item,
                    ..mended
                })
            }
            Ok(_) => After::Go(singly(p, n)),
            Err(end) => *end,
        },
        Refusal::FallBack(_)
        | Refusal::Other400(_)
        | Refusal::Bug(_)
        | Refusal::NotModified
        | Refusal::Gone
        | Refusal::EditSuperseded => After::Go(singly(p, n)),
        // The same as for a single message.
        refusal @ (Refusal::Unreachable(_)
        | Refusal::RetryAfter { .. }
        | Refusal::Unknown(_)
        | Refusal::Broke(_)
        | Refusal::NotSent(_)
        | Refusal::Operator(_)) => return Err(refusal),
    })
}

/// Each of these on its own ladder.
fn singly(mut p: Progress, n: usize) -> Progress {
    p.alone = p.item + n;
    p.album = 0;
    (p.sends, p.repeats, p.waits) = (0, 0, 0);
    p
}

/// Steps over what is out. An answer that tells of fewer messages than were asked for leaves the others due; one
/// whose id is not known yet is out all the same.
fn delivered(parcel: &Parcel<'_>, mut p: Progress, n: usize, sent: Sent) -> Progress {
    let told = sent.messages;
    let first = sent.message_ids.first().copied();
    p.message_ids.extend(sent.message_ids);
    let kinds = (p.item..).zip(&sent.file_kinds);
    p.file_kinds
        .extend(kinds.map(|(item, kind)| format!("{item}:{kind}")));
    p.file_ids.extend(sent.file_ids);
    (p.sends, p.repeats, p.waits) = (0, 0, 0);
    if (1..n).contains(&told) {
        p.item += told;
        p.album = n - told;
        return p;
    }
    let end = at_its_end(&p, n);
    if is_last(parcel, &end) && keyboard_due(parcel, &p) {
        p.keyboard_due = true;
        p.caption = Caption::Apart;
    }
    // Remember a rung: what follows a file depends on whether it was a link.
    p.way = place(parcel, &p, end.item).map_or(Way::Upload, |(_, way)| way);
    p.item = end.item;
    (p.part, p.album) = (1, 0);
    p.last_id = first;
    settled(parcel, p)
}
