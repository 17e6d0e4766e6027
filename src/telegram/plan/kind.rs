//! What a file is to Telegram: which kind of message, under which name, and whether Telegram takes it
//! from its URL (telegram-api section 3). It knows neither progress nor rungs.

use crate::job::answer::{File, is_data};
use crate::job::spec::SendAs;
use crate::telegram::{Method, safe_name};
use std::borrow::Cow;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendKind {
    Photo,
    Video,
    Animation,
    Audio,
    Document,
}

impl SendKind {
    /// Name of the argument and of InputMedia's type.
    pub(super) fn word(self) -> &'static str {
        match self {
            SendKind::Photo => "photo",
            SendKind::Video => "video",
            SendKind::Animation => "animation",
            SendKind::Audio => "audio",
            SendKind::Document => "document",
        }
    }

    pub(super) fn method(self) -> Method {
        match self {
            SendKind::Photo => Method::SendPhoto,
            SendKind::Video => Method::SendVideo,
            SendKind::Animation => Method::SendAnimation,
            SendKind::Audio => Method::SendAudio,
            SendKind::Document => Method::SendDocument,
        }
    }
}

pub(super) fn kind(wish: SendAs, file: &File) -> SendKind {
    match wish {
        SendAs::Photo => SendKind::Photo,
        SendAs::Video => SendKind::Video,
        SendAs::Animation => SendKind::Animation,
        SendAs::Audio => SendKind::Audio,
        SendAs::Document => SendKind::Document,
        SendAs::Auto => match media_type(file).as_deref() {
            Some("image/jpeg" | "image/png" | "image/webp") => SendKind::Photo,
            Some("image/gif") => SendKind::Animation,
            Some("audio/mpeg" | "audio/mp4") => SendKind::Audio,
            Some(other) if other.starts_with("video/") => SendKind::Video,
            Some(_) | None => SendKind::Document,
        },
    }
}

/// As what alone a file that Telegram has can be sent again; `None`: nobody noted it.
pub(super) fn held_kind(file: &File) -> Option<SendKind> {
    let kinds = [
        SendKind::Photo,
        SendKind::Video,
        SendKind::Animation,
        SendKind::Audio,
        SendKind::Document,
    ];
    let held = file.held.as_ref()?;
    kinds.into_iter().find(|kind| kind.word() == held.kind)
}

/// Extension, media type; for one type the first extension is used in names, for one extension the
/// first type is meant.
#[rustfmt::skip]
const TYPES: [(&str, &str); 27] = [
    ("jpg", "image/jpeg"), ("jpeg", "image/jpeg"), ("png", "image/png"), ("webp", "image/webp"),
    ("gif", "image/gif"), ("svg", "image/svg+xml"), ("avif", "image/avif"), ("heic", "image/heic"),
    ("bmp", "image/bmp"), ("tif", "image/tiff"), ("tiff", "image/tiff"), ("mp4", "video/mp4"),
    ("webm", "video/webm"), ("mov", "video/quicktime"), ("mkv", "video/x-matroska"), ("mp3", "audio/mpeg"),
    ("m4a", "audio/mp4"), ("wav", "audio/wav"), ("ogg", "audio/ogg"), ("flac", "audio/flac"),
    ("pdf", "application/pdf"), ("zip", "application/zip"), ("json", "application/json"),
    ("txt", "text/plain"), ("glb", "model/gltf-binary"), ("obj", "model/obj"), ("ply", "model/ply"),
];

/// The type as fal says or the `data:` URI says; where that says nothing, by extension.
pub(super) fn media_type(file: &File) -> Option<Cow<'_, str>> {
    let said = match &file.content_type {
        Some(said) => Some(Cow::Borrowed(said.as_str())),
        None => type_in_data_uri(&file.url).map(Cow::Owned),
    };
    let said = said.map(|said| match &*said {
        "image/jpg" | "image/pjpeg" => "image/jpeg".into(),
        "audio/mp3" => "audio/mpeg".into(),
        "audio/m4a" | "audio/x-m4a" => "audio/mp4".into(),
        "application/x-zip-compressed" => "application/zip".into(),
        _ => said,
    });
    let says = |said: &Cow<'_, str>| {
        said.contains('/') && *said != "application/octet-stream" && *said != "binary/octet-stream"
    };
    said.filter(says).or_else(|| {
        let extension = extension(file)?;
        TYPES
            .iter()
            .find(|(known, _)| *known == extension)
            .map(|(_, media)| Cow::Borrowed(*media))
    })
}

fn type_in_data_uri(url: &str) -> Option<String> {
    let head = is_data(url).then(|| &url[5..])?.split([';', ',']).next()?;
    Some(head.to_ascii_lowercase())
}

/// Lower case, of the name, else of the URL's path.
fn extension(file: &File) -> Option<String> {
    let of = |name: &str| {
        let (_, extension) = name.rsplit_once('.')?;
        let fits = (1..=8).contains(&extension.len())
            && extension.bytes().all(|b| b.is_ascii_alphanumeric());
        fits.then(|| extension.to_ascii_lowercase())
    };
    file.name
        .as_deref()
        .and_then(of)
        .or_else(|| of(last_segment(&file.url)?))
}

fn last_segment(url: &str) -> Option<&str> {
    if is_data(url) {
        return None;
    }
    let path = url.split(['?', '#']).next()?;
    let (_, after_scheme) = path.split_once("://")?;
    let (_, segment) = after_scheme.rsplit_once('/')?;
    Some(segment).filter(|segment| !segment.is_empty())
}

pub(super) fn is_http(url: &str) -> bool {
    let starts = |scheme: &str| {
        url.get(..scheme.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(scheme))
    };
    starts("https://") || starts("http://")
}

/// Section 3, by-URL kinds. Of an unknown type nobody can say that Telegram takes it.
pub(super) fn taken_by_url(kind: SendKind, file: &File) -> bool {
    let Some(media) = media_type(file) else {
        return false;
    };
    match kind {
        SendKind::Photo => matches!(
            &*media,
            "image/jpeg" | "image/png" | "image/webp" | "image/gif"
        ),
        SendKind::Video => media == "video/mp4",
        SendKind::Animation => media == "image/gif" || media == "video/mp4",
        SendKind::Audio => media == "audio/mpeg" || media == "audio/mp4",
        SendKind::Document => media == "application/pdf" || media == "application/zip",
    }
}

/// Outside Telegram's shape of photos: sides together at most 10000, one at most 20 times the other.
pub(super) fn misshapen(file: &File) -> bool {
    match (file.width, file.height) {
        (Some(width), Some(height)) if width > 0 && height > 0 => {
            let (width, height) = (u64::from(width), u64::from(height));
            width + height > 10_000 || width > 20 * height || height > 20 * width
        }
        (Some(_) | None, Some(_) | None) => false,
    }
}

/// Telegram goes by the name: its extension must be that of the type, and one of a photo's for photos.
pub(super) fn file_name(file: &File, kind: SendKind) -> String {
    let media = media_type(file);
    let known: Vec<&str> = TYPES
        .iter()
        .filter(|(_, t)| Some(*t) == media.as_deref())
        .map(|(e, _)| *e)
        .collect();
    let own = extension(file).filter(|own| known.is_empty() || known.contains(&own.as_str()));
    let mut extension = own
        .or_else(|| known.first().map(|e| (*e).to_owned()))
        .unwrap_or_else(|| {
            match kind {
                SendKind::Photo => "jpg",
                SendKind::Video | SendKind::Animation => "mp4",
                SendKind::Audio => "mp3",
                SendKind::Document => "bin",
            }
            .to_owned()
        });
    if kind == SendKind::Photo
        && !["jpg", "jpeg", "gif", "png", "tif", "bmp"].contains(&extension.as_str())
    {
        extension = "jpg".to_owned();
    }
    let name = file
        .name
        .as_deref()
        .filter(|name| !name.is_empty())
        .or_else(|| last_segment(&file.url));
    let stem = name
        .map(|name| name.rsplit_once('.').map_or(name, |(stem, _)| stem))
        .unwrap_or_default();
    let stem = if stem.bytes().any(|b| b.is_ascii_alphanumeric()) {
        stem
    } else {
        kind.word()
    };
    safe_name(&format!("{stem}.{extension}"))
}
