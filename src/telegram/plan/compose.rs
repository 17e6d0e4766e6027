//! What stands in a call: arguments, captions, texts and keyboards of the step that the ladder is on.
//! It decides no step; it only reads the progress and leaves out what was refused before.

use super::kind::{SendKind, file_name, is_http, media_type};
use super::progress::{Caption, Edit, Progress, Way, editing, into_caption, is_last};
use super::rung::way;
use super::{ATTACHED, Op, Parcel};
use crate::job::answer::File;
use crate::job::spec::{ChatId, ParseMode};
use crate::telegram::text::{self, CAPTION, MESSAGE};
use crate::telegram::{Call, Method};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

pub(super) fn upload(parcel: &Parcel<'_>, p: &Progress, file: &File, kind: SendKind) -> Op {
    let call = file_call(parcel, p, file, kind, None);
    let args: usize = call
        .args
        .iter()
        .map(|(name, value)| name.len() + value.to_string().len() + 128)
        .sum();
    Op::Upload {
        url: file.url.clone(),
        max_bytes: parcel.limits.upload_body.saturating_sub(args as u64 + 1024),
        file_name: file_name(file, kind),
        content_type: media_type(file)
            .unwrap_or("application/octet-stream".into())
            .into_owned(),
        call,
    }
}

/// The call that sends a file, or edits the status message into it. `url: None`: it is uploaded.
pub(super) fn file_call(
    parcel: &Parcel<'_>,
    p: &Progress,
    file: &File,
    kind: SendKind,
    url: Option<&str>,
) -> Call {
    let mut media = media_args(parcel, file, kind);
    if let Some((caption, markup)) = caption(parcel, p) {
        media.insert("caption".into(), caption.into());
        put_mode(&mut media, markup);
    }

    let (method, mut args, file_part);
    if editing(parcel, p) {
        media.insert("type".into(), kind.word().into());
        media.insert("media".into(), url.unwrap_or(ATTACHED).into());
        (method, file_part) = (Method::EditMessageMedia, "f0");
        args = edit_args(parcel, p);
        args.insert("media".into(), Value::Object(media));
    } else {
        (method, file_part) = (kind.method(), kind.word());
        args = send_args(parcel, p, parcel.target.reply_to_message_id);
        if let Some(url) = url {
            media.insert(kind.word().into(), url.into());
        }
        args.extend(media);
    }
    if is_last(parcel, p) {
        put_keyboard(parcel, p, &mut args);
    }
    Call {
        method,
        args,
        file_part: url.is_none().then_some(file_part),
        by_url: url.is_some(),
    }
}

/// What is said of a file beside its caption and its source.
pub(super) fn media_args(parcel: &Parcel<'_>, file: &File, kind: SendKind) -> Map<String, Value> {
    let mut media = Map::new();
    let seen = matches!(kind, SendKind::Video | SendKind::Animation);
    let mut number = |name: &str, value: Option<u32>, fits: bool| {
        if let Some(value) = value.filter(|value| fits && *value > 0) {
            media.insert(name.into(), value.into());
        }
    };
    number("width", file.width, seen);
    number("height", file.height, seen);
    number("duration", file.duration_s, seen || kind == SendKind::Audio);
    if parcel.target.has_spoiler && (seen || kind == SendKind::Photo) {
        media.insert("has_spoiler".into(), true.into());
    }
    if kind == SendKind::Video {
        media.insert("supports_streaming".into(), true.into());
    }
    if kind == SendKind::Document {
        // Else a GIF turns into an animation and a WebP into a sticker.
        media.insert("disable_content_type_detection".into(), true.into());
    }
    media
}

/// The caption under the file, with its markup; it goes with the last item.
pub(super) fn caption(parcel: &Parcel<'_>, p: &Progress) -> Option<(String, Option<ParseMode>)> {
    let target = parcel.target;
    let whole = target.caption.as_deref().filter(|_| is_last(parcel, p))?;
    let plain = || text::plain(whole, target.parse_mode);
    match caption_form(parcel, p) {
        Caption::Whole if p.plain => Some((plain(), None)),
        Caption::Whole => Some((whole.to_owned(), target.parse_mode)),
        Caption::Cut => Some((text::cut(&plain(), CAPTION), None)),
        Caption::Apart => None,
    }
}

/// What the server's own count, code points after parsing, is sure to refuse is cut beforehand: an
/// upload may hang on it. What is longer in UTF-16 units only may pass, and keeps its markup.
pub(super) fn caption_form(parcel: &Parcel<'_>, p: &Progress) -> Caption {
    let target = parcel.target;
    if p.caption == Caption::Whole
        && let Some(whole) = target
            .caption
            .as_deref()
            .filter(|whole| whole.len() > CAPTION)
        && text::plain(whole, target.parse_mode).trim().chars().count() > CAPTION
    {
        return Caption::Cut;
    }
    p.caption
}

/// Texts that follow a file as replies: its whole caption, where less or nothing of it went along.
pub(super) fn caption_texts(
    parcel: &Parcel<'_>,
    p: &Progress,
    file: &File,
) -> (Vec<String>, Option<ParseMode>) {
    let target = parcel.target;
    // A keyboard that an album could not take needs a text to stand under.
    let bare = || match p.keyboard_due && !p.no_markup {
        true => (vec![parcel.words.ready(parcel.lang)], None),
        false => (Vec::new(), None),
    };
    let Some(whole) = target.caption.as_deref().filter(|_| is_last(parcel, p)) else {
        return bare();
    };
    let apart = match way(parcel, p, file) {
        Way::Link => link_text(parcel, p, file).1 == Caption::Apart,
        Way::Undecided | Way::Held | Way::Url | Way::Upload | Way::Document => {
            caption_form(parcel, p) != Caption::Whole
        }
    };
    if !apart {
        return (Vec::new(), None);
    }
    let plain = text::plain(whole, target.parse_mode);
    if plain.trim().is_empty() && p.keyboard_due {
        return bare();
    }
    if !p.plain
        && target.parse_mode.is_some()
        && text::units(plain.trim()) <= MESSAGE
        && !plain.trim().is_empty()
    {
        return (vec![whole.to_owned()], target.parse_mode);
    }
    (text::split(&plain, MESSAGE), None)
}

/// One of the texts that a text item becomes.
#[derive(Default)]
pub(super) struct Part {
    pub(super) text: String,
    pub(super) markup: Option<ParseMode>,
    /// For [`Progress::at`], once it is out.
    pub(super) end: usize,
    pub(super) is_last: bool,
}

/// The text under way of a text item, the caption on top of the last one's first. `None`: all are out. Markup only
/// where it fits into one message, so that a parse error never changes how many there are once one is out. Of a
/// text that becomes hundreds of messages each step makes only its own.
pub(super) fn body_part(parcel: &Parcel<'_>, p: &Progress, body: &str) -> Option<Part> {
    let target = parcel.target;
    let first = if into_caption(parcel, p) {
        CAPTION
    } else {
        MESSAGE
    };
    let caption = target.caption.as_deref().filter(|_| is_last(parcel, p));
    let plain: Cow<'_, str> = match caption {
        Some(caption) => {
            let caption = text::plain(caption, target.parse_mode);
            format!("{}\n\n{body}", caption.trim()).into()
        }
        None => body.into(),
    };
    let whole = plain.trim();
    let only = |text, markup| {
        (p.part == 0).then_some(Part {
            text,
            markup,
            end: whole.len(),
            is_last: true,
        })
    };
    if whole.is_empty() {
        return only(nothing(parcel), None);
    }
    if let (Some(caption), Some(mode), false) =
        (caption, target.parse_mode, p.plain || p.fixed_text)
        && text::fits(whole, first)
    {
        let text = format!("{}\n\n{}", caption.trim(), text::escape(body, mode));
        return only(text, Some(mode));
    }
    // Only the first is bound to the shorter limit.
    let limit = |part| if part == 0 { first } else { MESSAGE };
    let mut rest = whole;
    match whole.get(p.at..).filter(|_| p.at > 0) {
        Some(due) => rest = due,
        // A record that does not say where, or says it of another text.
        None => {
            for part in 0..p.part {
                rest = text::first_piece(rest, limit(part))?.1;
            }
        }
    }
    let (piece, behind) = text::first_piece(rest, limit(p.part))?;
    let text = match p.fixed_text {
        // It was refused as empty: what is in it shows nothing (a cell of braille blanks, say).
        true => nothing(parcel),
        false => piece.to_owned(),
    };
    Some(Part {
        text,
        markup: None,
        end: whole.len() - behind.len(),
        is_last: behind.is_empty(),
    })
}

pub(super) fn link_call(parcel: &Parcel<'_>, p: &Progress, file: &File) -> Call {
    let keyboard = if is_last(parcel, p) {
        Keyboard::Wanted
    } else {
        Keyboard::Absent
    };
    let mut call = text_call(parcel, p, link_text(parcel, p, file).0, None, keyboard);
    let shown = is_http(&file.url) && file.url.len() < MESSAGE;
    if shown && !p.plain && call.method != Method::EditMessageCaption {
        call.args.insert(
            "link_preview_options".into(),
            json!({"is_disabled": false, "url": file.url}),
        );
    }
    call
}

/// The link, below the caption if both fit into one message; else the caption goes apart.
fn link_text(parcel: &Parcel<'_>, p: &Progress, file: &File) -> (String, Caption) {
    let limit = if into_caption(parcel, p) {
        CAPTION
    } else {
        MESSAGE
    };
    let link = link(parcel, file);
    let target = parcel.target;
    let Some(caption) = target.caption.as_deref().filter(|_| is_last(parcel, p)) else {
        return (link, Caption::Whole);
    };
    let plain = text::plain(caption, target.parse_mode);
    let both = format!("{}\n\n{link}", plain.trim());
    if text::units(&both) <= limit {
        (both.trim().to_owned(), Caption::Whole)
    } else {
        (link, Caption::Apart)
    }
}

/// Where the file is. A link that no message holds would be refused, and cut it leads nowhere.
pub(super) fn link(parcel: &Parcel<'_>, file: &File) -> String {
    let link = parcel.words.link(parcel.lang, &file.url);
    if text::units(&link) <= MESSAGE {
        return link;
    }
    parcel.words.link_too_long(parcel.lang).to_owned()
}

fn nothing(parcel: &Parcel<'_>) -> String {
    parcel.words.empty(parcel.lang)
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Keyboard {
    Wanted,
    Absent,
}

/// A text: into the status message, its caption, or a message of its own.
pub(super) fn text_call(
    parcel: &Parcel<'_>,
    p: &Progress,
    text: String,
    markup: Option<ParseMode>,
    keyboard: Keyboard,
) -> Call {
    let (method, mut args) = if editing(parcel, p) {
        let method = if p.edit == Edit::Caption {
            Method::EditMessageCaption
        } else {
            Method::EditMessageText
        };
        (method, edit_args(parcel, p))
    } else {
        let reply_to = if p.part == 0 {
            parcel.target.reply_to_message_id
        } else {
            p.last_id
        };
        (Method::SendMessage, send_args(parcel, p, reply_to))
    };
    let name = if method == Method::EditMessageCaption {
        "caption"
    } else {
        "text"
    };
    args.insert(name.into(), text.into());
    put_mode(&mut args, markup);
    if keyboard == Keyboard::Wanted {
        put_keyboard(parcel, p, &mut args);
    }
    Call {
        method,
        args,
        file_part: None,
        by_url: false,
    }
}

pub(super) fn delete_call(parcel: &Parcel<'_>, p: &Progress) -> Call {
    Call {
        method: Method::DeleteMessage,
        args: edit_args(parcel, p),
        file_part: None,
        by_url: false,
    }
}

pub(super) fn ping_call(parcel: &Parcel<'_>, p: &Progress) -> Call {
    let mut args = send_args(parcel, p, parcel.target.status_message_id);
    args.insert("text".into(), parcel.words.ready(parcel.lang).into());
    Call {
        method: Method::SendMessage,
        args,
        file_part: None,
        by_url: false,
    }
}

fn chat(parcel: &Parcel<'_>, p: &Progress) -> Value {
    match (p.migrated_to, &parcel.target.chat) {
        (Some(id), _) => id.into(),
        (None, ChatId::Id(id)) => (*id).into(),
        (None, ChatId::Name(name)) if name.starts_with('@') => name.as_str().into(),
        (None, ChatId::Name(name)) => format!("@{name}").into(),
    }
}

/// Arguments of everything that names the status message.
fn edit_args(parcel: &Parcel<'_>, p: &Progress) -> Map<String, Value> {
    let mut args = Map::new();
    args.insert("chat_id".into(), chat(parcel, p));
    if let Some(id) = parcel.target.status_message_id {
        args.insert("message_id".into(), id.into());
    }
    args
}

/// Arguments that all sends share.
pub(super) fn send_args(
    parcel: &Parcel<'_>,
    p: &Progress,
    reply_to: Option<i64>,
) -> Map<String, Value> {
    let target = parcel.target;
    let mut args = Map::new();
    args.insert("chat_id".into(), chat(parcel, p));
    // 1 is General, which is named by leaving it out.
    if let Some(thread) = target
        .message_thread_id
        .filter(|id| *id != 1 && !p.no_thread)
    {
        args.insert("message_thread_id".into(), thread.into());
    }
    if let Some(id) = reply_to.filter(|_| !p.no_reply) {
        args.insert(
            "reply_parameters".into(),
            json!({"message_id": id, "allow_sending_without_reply": true}),
        );
    }
    if target.disable_notification {
        args.insert("disable_notification".into(), true.into());
    }
    if target.protect_content {
        args.insert("protect_content".into(), true.into());
    }
    args
}

pub(super) fn put_mode(args: &mut Map<String, Value>, markup: Option<ParseMode>) {
    let word = match markup {
        None => return,
        Some(ParseMode::Html) => "HTML",
        Some(ParseMode::MarkdownV2) => "MarkdownV2",
        Some(ParseMode::Markdown) => "Markdown",
    };
    args.insert("parse_mode".into(), word.into());
}

/// Whether the job wants a keyboard under its last message that Telegram did not refuse.
pub(super) fn keyboard_due(parcel: &Parcel<'_>, p: &Progress) -> bool {
    parcel.target.reply_markup.is_some() && !p.no_markup
}

fn put_keyboard(parcel: &Parcel<'_>, p: &Progress, args: &mut Map<String, Value>) {
    let keyboard = parcel
        .target
        .reply_markup
        .as_deref()
        .filter(|_| !p.no_markup);
    if let Some(keyboard) = keyboard.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok()) {
        args.insert("reply_markup".into(), keyboard);
    }
}
