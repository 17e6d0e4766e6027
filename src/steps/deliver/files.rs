//! The files of a call that uploads: fetched into spooled files one after the other, looked at, and
//! given to Telegram from there. Never more of one in memory than a buffer.

use super::{Outcome, fetch, no_page, not_fetched, patience_left};
use crate::http::{DownloadError, Spooled, disk};
use crate::job::answer::Item;
use crate::job::flight::Flight;
use crate::steps::Worker;
use crate::telegram::plan::{self, Looks, Op, Parcel, Piece, Progress};
use std::io::{BufReader, Seek};
use std::time::Instant;

/// What is here of an upload.
pub(super) struct Loaded {
    /// All items of the result, with what was seen of these files.
    pub(super) items: Vec<Item>,
    /// From the item under way on; not all of an album, where not all could be had.
    pub(super) files: Vec<Spooled>,
}

/// What an upload needs: its files, and how large they may be together. `None`: it is none.
pub(super) fn wanted(op: &Op) -> Option<(Vec<Piece>, u64)> {
    match op {
        Op::Upload {
            url,
            max_bytes,
            file_name,
            content_type,
            ..
        } => {
            let piece = Piece {
                url: url.clone(),
                file_name: file_name.clone(),
                content_type: content_type.clone(),
            };
            Some((vec![piece], *max_bytes))
        }
        Op::UploadAlbum {
            files, max_bytes, ..
        } => Some((files.clone(), *max_bytes)),
        Op::Call(_) | Op::Finished => None,
    }
}

/// Fetches them. What is wrong with the first is the delivery's trouble; an album ends before the first
/// file that cannot be had now or does not fit in, which comes up again when it is the first.
pub(super) fn load(
    worker: &Worker,
    flight: &mut Flight,
    parcel: &Parcel<'_>,
    progress: &Progress,
    pieces: &[Piece],
    max_bytes: u64,
) -> Result<Loaded, Outcome> {
    let (mut items, mut files) = (parcel.items.to_vec(), Vec::<Spooled>::new());
    // All files of an album together get the time of one of their size.
    let these = items.iter().skip(progress.item).take(pieces.len());
    let (begun, limit) = (Instant::now(), super::transfer_time(these, max_bytes));
    let mut room = max_bytes;
    for piece in pieces {
        let left = limit.saturating_sub(begun.elapsed());
        if !files.is_empty() && left.is_zero() {
            break;
        }
        let fetched = fetch(worker, &piece.url, room, left)
            .and_then(|file| no_page(file, &piece.content_type));
        let mut file = match fetched {
            Ok(file) => file,
            Err(error) => {
                let again = error.retryable() && !patience_left(worker, flight).is_zero();
                if files.is_empty() || again && !matches!(error, DownloadError::TooBig { .. }) {
                    return Err(not_fetched(worker, flight, parcel, progress, &error));
                }
                break;
            }
        };
        room -= file.len.min(room);
        let shape = shape(&mut file)
            .map_err(|error| not_fetched(worker, flight, parcel, progress, &disk(error)))?;
        let looks = Looks {
            head: &file.head,
            len: file.len,
            shape,
        };
        plan::seen(&mut items, progress.item + files.len(), &looks);
        files.push(file);
    }
    Ok(Loaded { items, files })
}

/// Width and height of a picture, by its header. The file is at its beginning before and after.
fn shape(file: &mut Spooled) -> std::io::Result<Option<(u32, u32)>> {
    let size = imagesize::reader_size(BufReader::with_capacity(4 << 10, &mut file.file));
    file.file.rewind()?;
    let side = |side: usize| u32::try_from(side).ok();
    Ok(size
        .ok()
        .and_then(|size| Some((side(size.width)?, side(size.height)?))))
}
