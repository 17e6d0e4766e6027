//! Inputs: files that users sent to the bot go into fal's storage, before the submit and apart from it. One
//! file a step, on a transfer thread. Nothing here is paid or sent: a crash repeats it from what the record
//! and the list of uploads say, and the write after the last file comes before the submit.

use super::deliver::no_page;
use super::gate::{Admission, Inside, Service};
use super::submit::{account_trouble, is_of_an_old_key, record_before, stand_in_line};
use super::{REDIS_AWAY, Worker, rotation};
use crate::http::Spooled;
use crate::job::Charged;
use crate::job::failure::{Failure, Kind, Remedy};
use crate::job::flight::Flight;
use crate::job::inputs::{self, KEPT, OF_A_FILE};
use crate::job::spec;
use crate::job::state::{self, Next};
use crate::report;
use crate::store::Fault;
use crate::telegram::Telegram;
use crate::telegram::files::{Fetched, NoFile};
use crate::telegram::refusal::Refusal;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Largest file (contract section 1): as much as the public Bot API gives.
const MAX_BYTES: u64 = 20 << 20;
/// A file that Telegram may or may not have: how often it is asked before that is believed.
const MISSING: u32 = 3;
/// Another thread uploads this very file.
const UNDER_WAY: Duration = Duration::from_millis(200);

/// What the threads share.
pub(crate) struct Shared {
    /// Ids whose files are on their way.
    under_way: Mutex<HashSet<String>>,
    outage: report::Outage,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            under_way: Mutex::default(),
            outage: report::Outage::new("fal storage"),
        }
    }
}

/// One file on its way, also after a panic no longer than its thread.
struct UnderWay<'a>(&'a Shared, &'a str);

impl Shared {
    fn begin<'a>(&'a self, id: &'a str) -> Option<UnderWay<'a>> {
        let fresh = {
            let ids = self.under_way.lock();
            ids.unwrap_or_else(PoisonError::into_inner)
                .insert(id.to_owned())
        };
        // Made only for whoever is first: dropping one takes the id off again.
        fresh.then(|| UnderWay(self, id))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let ids = self.0.under_way.lock();
        ids.unwrap_or_else(PoisonError::into_inner).remove(self.1);
    }
}

/// Why there is no URL yet.
enum Trouble {
    /// For a moment, or for Redis.
    Wait(Duration),
    /// Whoever has to be asked is not to be asked before.
    Away(Duration, &'static str),
    /// Perhaps gone, perhaps only not there now.
    Missing,
    Failed(Failure),
}

/// Brings the next file of a job to fal; after the last one the record is told.
pub(super) fn bring(worker: &Worker, flight: &mut Flight) -> Next {
    if !worker.moves_bytes {
        let begun = (flight.order.as_ref()).is_some_and(|order| order.brought.begun);
        return match begun {
            true => Next::Transfer,
            false => stand_in_line(worker, flight),
        };
    }
    flight.untouched = false;
    if let Err(next) = worker.may_act(flight) {
        return next;
    }
    if let Some(slot) = &worker.slot {
        slot.begin(&flight.token.0, flight.id.as_str());
    }
    if flight
        .order
        .as_ref()
        .is_some_and(|order| !order.brought.begun)
    {
        let change = inputs::begin(flight);
        if let Err(next) = record_before(worker, flight, change) {
            return next;
        }
    }
    let (Some(order), Some(telegram)) = (&mut flight.order, &worker.tools.telegram) else {
        return Next::Over; // the submit has looked at both
    };
    let files: Vec<(String, &str)> = order.files.files().collect();
    order.brought.urls.resize(files.len(), None);
    let urls = &mut order.brought.urls;
    let missing = urls.iter().position(Option::is_none);
    if let Some((number, (place, id))) = missing.and_then(|n| Some((n, files.get(n)?))) {
        match url_of(worker, telegram, id, number) {
            Ok(url) => {
                // The same file may stand in several places.
                for (slot, (_, other)) in urls.iter_mut().zip(&files) {
                    if other == id {
                        *slot = Some(url.clone());
                    }
                }
                order.brought.missing = 0;
                flight.step_tries = 0;
            }
            Err(trouble) => {
                let failure = match failure_of(trouble, &mut order.brought.missing) {
                    Ok(failure) => failure,
                    Err(next) => return next,
                };
                let text = format!("{OF_A_FILE}{place}: {}", failure.text);
                let failure = Failure { text, ..failure };
                let change = state::inputs_failed(flight, failure, worker.moment());
                return worker.record(flight, change);
            }
        }
    }
    if flight
        .order
        .as_ref()
        .is_some_and(|order| order.brought.urls.iter().any(Option::is_none))
    {
        return Next::Now;
    }
    let change = inputs::all_brought(flight, worker.tools.store.now());
    worker.record(flight, change)
}

/// What a trouble means for the job: a failure, or that it waits without one. `missing`: how often the file was not
/// there so far.
fn failure_of(trouble: Trouble, missing: &mut u32) -> Result<Failure, Next> {
    match trouble {
        Trouble::Wait(wait) => Err(Next::In(wait)),
        Trouble::Failed(failure) => Ok(failure),
        Trouble::Away(wait, text) => Ok(Failure {
            retry_after: Some(wait),
            ..failure(Kind::Unavailable, Remedy::RetryStep, text)
        }),
        Trouble::Missing => {
            *missing += 1;
            let text = "Telegram no longer has this file, or it is not this bot's";
            let remedy = if *missing >= MISSING {
                Remedy::Final
            } else {
                Remedy::RetryStep
            };
            Ok(Failure {
                retry_after: Some(Duration::from_secs(1)),
                ..failure(Kind::InvalidInput, remedy, text)
            })
        }
    }
}

/// The URL of one file in fal's storage: known from before, or put there now.
fn url_of(
    worker: &Worker,
    telegram: &Telegram,
    id: &str,
    number: usize,
) -> Result<String, Trouble> {
    // Whoever uploads it now will have noted it: nobody else needs to.
    let _mine = (worker.tools.inputs.begin(id)).ok_or(Trouble::Wait(UNDER_WAY))?;
    match worker.session.upload(telegram.bot(), id) {
        Ok(Some(url)) => return Ok(url),
        Ok(None) => {}
        Err(Fault::Away(_) | Fault::Unable(_) | Fault::Refused(_)) => {
            return Err(Trouble::Wait(REDIS_AWAY));
        }
    }
    // First of all a place where it is to go: with none the file would be fetched for nothing, while others wait.
    let storage = enter(worker, Service::Storage)?;
    let (mut file, kind, ending) = usable(fetch(worker, telegram, id)?)?;
    // A name of our own: what the user or Telegram called it is nobody's business at fal.
    let name = format!("input-{}.{ending}", number + 1);
    let key = worker.tools.fal.key_number();
    let mut answer = worker.tools.fal.store_file(&mut file, &name, kind);
    if let Err(failure) = &answer
        && is_of_an_old_key(worker, failure, key)
    {
        answer = worker.tools.fal.store_file(&mut file, &name, kind);
    }
    heard(worker, &storage, answer.as_ref().err());
    drop(storage);
    let url = answer.map_err(|failure| {
        Trouble::Failed(match failure.kind {
            Kind::Auth | Kind::NoBalance => account_trouble(worker, failure, key),
            _ => failure,
        })
    })?;
    // Without this note the file is only uploaded once more.
    let _ = worker.session.note_upload(telegram.bot(), id, &url, KEPT);
    Ok(url)
}

/// fal could not fetch what the input names: whichever job has one of these files next brings it anew.
pub(super) fn forget(worker: &Worker, flight: &Flight) {
    let Some(telegram) = &worker.tools.telegram else {
        return; // no file came from there
    };
    if worker.tools.store.health.is_away() {
        return; // the failure in hand matters more
    }
    let read;
    let files = match &flight.order {
        Some(order) => &order.files,
        None => {
            let Ok(Some(entry)) = worker.session.entry(&flight.id) else {
                return;
            };
            let Ok(spec) = spec::parse(&entry, None) else {
                return;
            };
            read = spec.files;
            &read
        }
    };
    if !files.is_empty() {
        let ids: Vec<&str> = files.files().map(|(_, id)| id).collect();
        // Where that fails one more job may fail for it.
        let _ = (worker.session).forget_uploads(telegram.bot(), ids.into_iter());
    }
}

fn fetch(worker: &Worker, telegram: &Telegram, id: &str) -> Result<Fetched, Trouble> {
    let found = {
        let inside = enter(worker, Service::Telegram { slow: false })?;
        let answer = telegram.find_file(id, MAX_BYTES);
        let heard = |refusal: Option<&Refusal>| worker.telegram_heard_by(refusal, inside.probe());
        match &answer {
            Err(NoFile::Away(refusal)) => heard(Some(refusal)),
            Err(NoFile::Operator(text)) => heard(Some(&Refusal::Operator(text.clone()))),
            Ok(_) | Err(_) => heard(None),
        }
        answer.map_err(|why| no_file(worker, why))?
    };
    let file = telegram.fetch_file(&found, MAX_BYTES);
    file.map_err(|why| no_file(worker, why))
}

/// A file that is worth paying for, with its type and the ending of its name.
fn usable(fetched: Fetched) -> Result<(Spooled, &'static str, &'static str), Trouble> {
    let Fetched { file, extension } = fetched;
    if file.len == 0 {
        return Err(final_failure(Kind::InvalidInput, "the file is empty"));
    }
    let (kind, ending) = media_type(&file, &extension);
    let file = no_page(file, kind).map_err(|error| away(&error.to_string()))?;
    Ok((file, kind, ending))
}

fn no_file(worker: &Worker, why: NoFile) -> Trouble {
    match why {
        NoFile::Wrong => final_failure(Kind::InvalidInput, "Telegram does not know this file id"),
        NoFile::Missing => Trouble::Missing,
        NoFile::TooBig => final_failure(Kind::FileTooBig, "the file is over 20 MB"),
        NoFile::Local(text) => final_failure(Kind::Telegram, &text),
        NoFile::Disk(text) => Trouble::Failed(failure(Kind::Unavailable, Remedy::RetryStep, &text)),
        NoFile::Wait(wait) => Trouble::Away(wait, "Telegram has been asked too often"),
        NoFile::Away(refusal) => away(&refusal.to_string()),
        NoFile::Operator(text) => {
            if rotation::has_new_bot_token(worker) {
                return Trouble::Wait(rotation::RENEWED);
            }
            worker.tools.telegram_outage.failed(&text);
            Trouble::Away(rotation::REFUSED, "Telegram refuses the bot")
        }
    }
}

/// A place in a service, or when to ask again. What is asked there is free: it may be the one probe.
fn enter(worker: &Worker, service: Service) -> Result<Inside<'_>, Trouble> {
    match worker.tools.gate.enter(service, false, Instant::now()) {
        Admission::Go(inside) | Admission::Probe(inside) => Ok(inside),
        Admission::Wait(wait) => {
            let away = match service {
                Service::Telegram { .. } => "Telegram is away",
                _ => "fal's storage is away",
            };
            Err(Trouble::Away(wait.max(UNDER_WAY), away))
        }
    }
}

/// Notes whether the storage is there; says once that it went away, and that it is back.
fn heard(worker: &Worker, inside: &Inside<'_>, failed: Option<&Failure>) {
    let gate = &worker.tools.gate;
    match failed {
        Some(failure) if !failure.spoke => {
            if gate.failed(Service::Storage, inside.probe(), Instant::now()) {
                worker.tools.inputs.outage.failed(&failure.text);
            }
        }
        Some(_) | None => {
            if gate.answered(Service::Storage) {
                worker.tools.inputs.outage.succeeded();
            }
        }
    }
}

fn failure(kind: Kind, remedy: Remedy, text: &str) -> Failure {
    Failure::new(kind, remedy, Charged::No, text)
}

/// Telegram, or what is in front of it, did not answer or broke.
fn away(text: &str) -> Trouble {
    let text = format!("Telegram: {text}");
    Trouble::Failed(failure(Kind::Unavailable, Remedy::RetryStep, &text))
}

fn final_failure(kind: Kind, text: &str) -> Trouble {
    Trouble::Failed(failure(kind, Remedy::Final, text))
}

/// What a file is, by its first bytes, else by its name: Telegram calls all of them octet streams, and models
/// refuse those. Where the bytes name a family only, the name chooses within it.
fn media_type(file: &Spooled, extension: &str) -> (&'static str, &'static str) {
    const TYPES: [(&str, &str); 22] = [
        ("jpg", "image/jpeg"),
        ("png", "image/png"),
        ("webp", "image/webp"),
        ("gif", "image/gif"),
        ("avif", "image/avif"),
        ("heic", "image/heic"),
        ("bmp", "image/bmp"),
        ("tiff", "image/tiff"),
        ("mp4", "video/mp4"),
        ("mov", "video/quicktime"),
        ("webm", "video/webm"),
        ("mkv", "video/x-matroska"),
        ("mp3", "audio/mpeg"),
        ("m4a", "audio/mp4"),
        ("aac", "audio/aac"),
        ("flac", "audio/flac"),
        ("ogg", "audio/ogg"),
        ("wav", "audio/wav"),
        ("glb", "model/gltf-binary"),
        ("pdf", "application/pdf"),
        ("zip", "application/zip"),
        ("bin", "application/octet-stream"),
    ];
    let head = file.head.as_slice();
    let at = |place: usize, text: &[u8]| head.get(place..place + text.len()) == Some(text);
    let named = match extension {
        "jpeg" => "jpg",
        "heif" => "heic",
        "tif" => "tiff",
        "m4v" => "mp4",
        "m4b" => "m4a",
        "oga" | "opus" => "ogg",
        other => other,
    };
    let ebml = at(0, b"\x1a\x45\xdf\xa3");
    let seen = [
        (at(0, b"\xff\xd8\xff"), "jpg"),
        (at(0, b"\x89PNG\r\n\x1a\n"), "png"),
        (at(0, b"RIFF") && at(8, b"WEBP"), "webp"),
        (at(0, b"GIF8"), "gif"),
        (is_bitmap(head), "bmp"),
        (at(0, b"II*\0") || at(0, b"MM\0*"), "tiff"),
        (at(4, b"ftyp"), base_media(head, named)),
        (ebml && is_matroska(head), "mkv"),
        (ebml, "webm"),
        (at(0, b"ID3"), "mp3"),
        (at(0, b"fLaC"), "flac"),
        (at(0, b"OggS"), "ogg"),
        (at(0, b"RIFF") && at(8, b"WAVE"), "wav"),
        (at(0, b"glTF"), "glb"),
        (at(0, b"%PDF-"), "pdf"),
        (at(0, b"PK\x03\x04"), "zip"),
    ];
    let seen = seen.iter().find(|(is, _)| *is).map(|(_, ending)| *ending);
    let find = |ending: &str| TYPES.iter().find(|(known, _)| *known == ending);
    let (ending, kind) = seen
        .and_then(find)
        .or_else(|| find(named))
        .unwrap_or(&TYPES[TYPES.len() - 1]);
    (kind, ending)
}

/// What lies in an ISO base media file, by its brands; where they say no more than that, by its name.
fn base_media(head: &[u8], named: &str) -> &'static str {
    let brand = head.get(8..12).unwrap_or_default();
    let len = (head.first_chunk().copied()).map_or(0, u32::from_be_bytes) as usize;
    let others = head.get(16..len.min(head.len())).unwrap_or_default();
    let is_avif = || others.chunks_exact(4).any(|other| other == b"avif");
    match brand {
        b"avif" | b"avis" => "avif",
        // The family's own brands.
        b"mif1" | b"msf1" if is_avif() => "avif",
        b"heic" | b"heix" | b"mif1" | b"msf1" => "heic",
        b"M4A " | b"M4B " => "m4a",
        b"qt  " => "mov",
        _ => match named {
            "m4a" => "m4a",
            "mov" => "mov",
            _ => "mp4",
        },
    }
}

/// Two letters say little: what follows them must fit too. Nothing in the reserved place, and a second header
/// of one of the lengths that there are.
fn is_bitmap(head: &[u8]) -> bool {
    let number = |place: usize| head.get(place..)?.first_chunk().copied();
    let header = number(14).map(u32::from_le_bytes);
    head.starts_with(b"BM")
        && number(6) == Some([0; 4])
        && matches!(header, Some(12 | 40 | 52 | 56 | 64 | 108 | 124))
}

/// The type of the document stands in the first header, which is short.
fn is_matroska(head: &[u8]) -> bool {
    let name = b"matroska";
    let header = &head[..head.len().min(64)];
    header.windows(name.len()).any(|part| part == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_at_a_time_brings_a_file() {
        let shared = Shared::default();
        let first = shared.begin("a");
        assert!(first.is_some() && shared.begin("a").is_none() && shared.begin("a").is_none());
        assert!(shared.begin("b").is_some());
        drop(first);
        assert!(shared.begin("a").is_some());
    }

    #[test]
    fn a_page_in_place_of_a_picture_is_fetched_again_and_not_paid_for() {
        let fetched = |head: &[u8], extension: &str| Fetched {
            file: Spooled {
                file: tempfile::tempfile().unwrap(),
                len: head.len() as u64,
                content_type: None,
                head: head.to_vec(),
            },
            extension: extension.to_owned(),
        };
        let page = &b"\n<!DOCTYPE html><html></html>"[..];
        for extension in ["png", "mp4", "mp3"] {
            let Err(Trouble::Failed(failure)) = usable(fetched(page, extension)) else {
                panic!("{extension}");
            };
            let seen = (failure.kind, failure.remedy, failure.charged);
            let passes = (Kind::Unavailable, Remedy::RetryStep, Charged::No);
            assert_eq!(seen, passes, "{extension}");
        }
        // A user's own page, and a picture.
        for (head, extension) in [(page, "html"), (&b"\x89PNG\r\n\x1a\n.."[..], "png")] {
            assert!(usable(fetched(head, extension)).is_ok(), "{extension}");
        }
    }

    #[test]
    fn a_file_is_what_its_bytes_say_else_what_its_name_says() {
        for (head, extension, expected) in [
            (&b"\xff\xd8\xff\xe0"[..], "png", ("image/jpeg", "jpg")),
            (b"\x89PNG\r\n\x1a\n..", "", ("image/png", "png")),
            (b"RIFF....WEBPVP8 ", "", ("image/webp", "webp")),
            (b"....ftypisom", "", ("video/mp4", "mp4")),
            (b"....ftypisom", "jpg", ("video/mp4", "mp4")),
            (b"....ftypisom", "m4a", ("audio/mp4", "m4a")),
            (b"....ftypmp42", "mov", ("video/quicktime", "mov")),
            (b"....ftypqt  ", "mp4", ("video/quicktime", "mov")),
            (b"....ftypM4A ", "", ("audio/mp4", "m4a")),
            (b"....ftypM4B ", "mp4", ("audio/mp4", "m4a")),
            (b"....ftypavif", "", ("image/avif", "avif")),
            (b"....ftypavis", "mp4", ("image/avif", "avif")),
            (b"....ftypheic", "", ("image/heic", "heic")),
            (b"....ftypheix", "mov", ("image/heic", "heic")),
            (b"....ftypmif1", "", ("image/heic", "heic")),
            (b"....ftypmsf1", "", ("image/heic", "heic")),
            (
                b"\0\0\0\x1cftypmif1....mif1avifmiaf",
                "",
                ("image/avif", "avif"),
            ),
            (
                b"\0\0\0\x18ftypmif1....mif1heicavif",
                "",
                ("image/heic", "heic"),
            ),
            (b"....ftyp", "", ("video/mp4", "mp4")),
            (b"fLaC\0\0\0\x22", "", ("audio/flac", "flac")),
            (
                b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
                "",
                ("image/bmp", "bmp"),
            ),
            (
                b"BM is how this text begins",
                "",
                ("application/octet-stream", "bin"),
            ),
            (
                b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x29\0\0\0",
                "",
                ("application/octet-stream", "bin"),
            ),
            (b"BM", "", ("application/octet-stream", "bin")),
            (b"II*\0\x08\0\0\0", "", ("image/tiff", "tiff")),
            (b"MM\0*\0\0\0\x08", "tif", ("image/tiff", "tiff")),
            (
                b"\x1a\x45\xdf\xa3\x93\x42\x82\x88matroska",
                "webm",
                ("video/x-matroska", "mkv"),
            ),
            (
                b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm",
                "mkv",
                ("video/webm", "webm"),
            ),
            (b"glTF\x02\0\0\0", "", ("model/gltf-binary", "glb")),
            (b"OggS", "oga", ("audio/ogg", "ogg")),
            (b"what", "jpeg", ("image/jpeg", "jpg")),
            (b"what", "aac", ("audio/aac", "aac")),
            (b"what", "flac", ("audio/flac", "flac")),
            (b"what", "bmp", ("image/bmp", "bmp")),
            (b"what", "heif", ("image/heic", "heic")),
            (b"what", "mkv", ("video/x-matroska", "mkv")),
            (b"what", "glb", ("model/gltf-binary", "glb")),
            (b"what", "exe", ("application/octet-stream", "bin")),
            (b"", "", ("application/octet-stream", "bin")),
        ] {
            let file = Spooled {
                file: tempfile::tempfile().unwrap(),
                len: head.len() as u64,
                content_type: None,
                head: head.to_vec(),
            };
            assert_eq!(media_type(&file, extension), expected, "{head:?}");
        }
    }
}
