//! What can be said of a request without sending anything: forms, limits, and the words of each refusal.
//!
//! Pure functions of the arguments and of the message in question; the order in which they are asked is
//! the methods' business.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::body::{Call, Upload};
use super::markup::{self, Formatted};
use super::{Chat, Dead, FileSeen, Kind, Message, PHOTO_UPLOAD, State};
use crate::sandbox::media::Looks;

/// An answer that is not `ok`.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) text: String,
    pub(super) parameters: Option<Value>,
}

pub(super) fn bad(text: impl AsRef<str>) -> Refusal {
    Refusal {
        code: 400,
        text: format!("Bad Request: {}", text.as_ref()),
        parameters: None,
    }
}

pub(super) fn chat_refusal(dead: &Dead) -> Refusal {
    Refusal {
        code: dead.code,
        text: dead.text.clone(),
        parameters: None,
    }
}

pub(super) fn too_many(wait: Duration) -> Refusal {
    let seconds = (wait.as_secs_f64().ceil() as u64).max(1);
    Refusal {
        code: 429,
        text: format!("Too Many Requests: retry after {seconds}"),
        parameters: Some(json!({ "retry_after": seconds })),
    }
}

/// Where a file comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    Upload(&'a Upload<'a>),
    /// A file id or a URL: decided by whether there is a dot in it.
    Named(&'a str),
}

/// One message to be.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) kind: Kind,
    /// Text messages have none.
    pub(super) source: Option<Source<'a>>,
    pub(super) text: Formatted,
    pub(super) spoiler: bool,
    pub(super) keep_as_file: bool,
}

/// How refusals of upstream are worded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wording {
    Single,
    Album,
    Edit,
}

/// The keyboard of a request.
#[derive(Debug, Default)]
pub(super) struct Keyboard {
    pub(super) inline: Option<Value>,
    pub(super) other: bool,
}

/// What a call gives back and which messages it made or changed.
pub(super) struct Done {
    pub(super) result: Value,
    pub(super) ids: Vec<i64>,
}

impl Done {
    pub(super) fn plain(result: Value) -> Done {
        Done {
            result,
            ids: Vec::new(),
        }
    }
}

pub(super) enum Edit<'a> {
    Text(Formatted),
    Caption(Formatted),
    Media(Item<'a>),
}

pub(super) fn chat_of(state: &mut State, id: i64) -> Result<&mut Chat, Refusal> {
    state
        .chats
        .get_mut(&id)
        .ok_or_else(|| bad("chat not found"))
}

/// The method's name in lower case, with `/test/` skipped.
pub(super) fn method_of(path: &str) -> String {
    let mut parts = path.split('/').skip(2);
    let method = match parts.next() {
        Some("test") => parts.next(),
        other => other,
    };
    method.unwrap_or("").to_ascii_lowercase()
}

pub(super) fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or("")
}

/// An argument wins over a file of the same name unless it is empty or `attach://`.
pub(super) fn file_source<'a>(
    call: &'a Call<'a>,
    part: &str,
    value: &'a str,
) -> Option<Source<'a>> {
    if let Some(name) = value.strip_prefix("attach://") {
        return call.file(name).map(Source::Upload);
    }
    if value.is_empty() {
        call.file(part).map(Source::Upload)
    } else {
        Some(Source::Named(value))
    }
}

pub(super) fn input_media<'a>(
    call: &'a Call<'a>,
    value: &'a Value,
    in_album: bool,
) -> Result<Item<'a>, Refusal> {
    let error = |text: &str| bad(format!("can't parse InputMedia: {text}"));
    if !value.is_object() {
        return Err(error("expected an Object"));
    }
    let word = value["type"].as_str().unwrap_or("");
    let kind = Kind::of(word).ok_or_else(|| error(&format!("type \"{word}\" is unsupported")))?;
    if in_album && kind == Kind::Animation {
        return Err(error("type \"animation\" can't be used in sendMediaGroup"));
    }
    let named = value["media"].as_str().unwrap_or("");
    // Without a value a part named "media" counts in an edit.
    let source = file_source(call, "media", named).filter(|_| !in_album || !named.is_empty());
    let source = source.ok_or_else(|| error("media not found"))?;
    let flag = |name: &str| {
        matches!(&value[name], Value::Bool(true)) || value[name].as_str() == Some("true")
    };
    Ok(Item {
        kind,
        source: Some(source),
        text: markup::parse(
            value["caption"].as_str().unwrap_or(""),
            value["parse_mode"].as_str().unwrap_or(""),
        )
        .map_err(|text| error(&text))?,
        spoiler: flag("has_spoiler") && can_be_hidden(kind),
        keep_as_file: in_album || flag("disable_content_type_detection"),
    })
}

/// Spoilers are a thing of these alone (section 2).
pub(super) fn can_be_hidden(kind: Kind) -> bool {
    matches!(kind, Kind::Photo | Kind::Video | Kind::Animation)
}

/// The media type that upstream takes from the name of an upload (section 8).
fn type_by_name(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "mp4" => "video/mp4",
        "mov" => "video/quicktime",
        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        _ => "application/octet-stream",
    }
}

/// Whether a name has the form of section 8, and an extension that says what the file is. Of a photo the content
/// decides.
pub(super) fn is_sound_name(name: &str, kind: Kind, looks: Looks) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    let fits = match (looks, type_by_name(name)) {
        (Looks::Unknown, _) => true,
        // One family of files: what of it this is takes a closer look.
        (Looks::Mp4, "video/mp4" | "video/quicktime" | "audio/mp4") => true,
        (looks, named) => looks.media_type() == named,
    };
    (1..=60).contains(&name.len()) && name.bytes().all(plain) && (fits || kind == Kind::Photo)
}

/// File id or URL syntax, file size, length of caption or text.
pub(super) fn check_item(
    files: &HashMap<String, FileSeen>,
    item: &Item<'_>,
) -> Result<(), Refusal> {
    match item.source {
        None => {}
        Some(Source::Upload(upload)) if upload.bytes.is_empty() => {
            return Err(bad("file must be non-empty"));
        }
        Some(Source::Upload(upload)) => {
            let size = upload.bytes.len() as u64;
            if item.kind == Kind::Photo && size > PHOTO_UPLOAD {
                return Err(bad(format!(
                    "file of size {size} bytes is too big for a photo; the maximum size is {PHOTO_UPLOAD} bytes"
                )));
            }
        }
        Some(Source::Named(url)) if url.contains('.') => check_url(url)?,
        Some(Source::Named(id)) => {
            let file = files.get(id);
            let file = file.ok_or_else(|| {
                bad("wrong remote file identifier specified: can't unserialize it. Wrong last symbol")
            })?;
            if file.kind != item.kind {
                return Err(bad(format!(
                    "can't use file of type {} as {}",
                    file.kind.title(),
                    item.kind.title()
                )));
            }
        }
    }
    let length = item.text.characters();
    match item.kind {
        Kind::Text if length > 4096 => Err(bad("message is too long")),
        Kind::Text => Ok(()),
        // The same words in editMessageMedia: this pre-check runs there too.
        _ if length > 1024 => Err(bad("message caption is too long")),
        _ => Ok(()),
    }
}

pub(super) fn check_url(url: &str) -> Result<(), Refusal> {
    let invalid = |text: &str| bad(format!("invalid file HTTP URL specified: {text}"));
    // Without a scheme the text is taken for `http://…`, like the server does.
    let rest = match url.split_once(':') {
        Some((scheme, rest)) if rest.starts_with("//") => {
            match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" => &rest[2..],
                _ => return Err(invalid("Unsupported URL protocol")),
            }
        }
        Some(("data" | "file" | "mailto", _)) => return Err(invalid("Unsupported URL protocol")),
        _ => url,
    };
    if rest.split(['/', '?', '#']).next().unwrap_or("").is_empty() {
        return Err(invalid("URL host is empty"));
    }
    Ok(())
}

pub(super) fn check_photo(looks: Looks) -> Result<(), Refusal> {
    let Some((width, height)) = looks.dimensions() else {
        return Err(bad("IMAGE_PROCESS_FAILED"));
    };
    let (short, long) = (u64::from(width.min(height)), u64::from(width.max(height)));
    if short == 0 || short + long > 10_000 || long > short * 20 {
        return Err(bad("PHOTO_INVALID_DIMENSIONS"));
    }
    Ok(())
}

/// A GIF sent as a document becomes an animation, unless the bot asks to keep it a file.
pub(super) fn shown_kind(item: &Item<'_>, file: Option<&FileSeen>) -> Kind {
    let is_gif = file.is_some_and(|file| file.media_type == "image/gif");
    match item.kind {
        Kind::Document if is_gif && !item.keep_as_file => Kind::Animation,
        other => other,
    }
}

pub(super) fn check_editable(
    message: &Message,
    edit: &Edit<'_>,
    older_than_7_11: bool,
) -> Result<(), Refusal> {
    match edit {
        Edit::Media(_) if message.kind == Kind::Text && older_than_7_11 => {
            Err(bad("there is no media in the message to edit"))
        }
        Edit::Media(_) if message.reply_keyboard => Err(bad("message media can't be edited")),
        Edit::Text(_) | Edit::Caption(_) if message.reply_keyboard => {
            Err(bad("message can't be edited"))
        }
        Edit::Text(_) if message.kind != Kind::Text => {
            Err(bad("there is no text in the message to edit"))
        }
        Edit::Caption(_) if message.kind == Kind::Text => {
            Err(bad("there is no caption in the message to edit"))
        }
        Edit::Media(_) | Edit::Text(_) | Edit::Caption(_) => Ok(()),
    }
}

pub(super) fn check_album_rules(message: &Message, new: Kind) -> Result<(), Refusal> {
    if message.media_group.is_none() {
        return Ok(());
    }
    let visual = |kind| matches!(kind, Kind::Photo | Kind::Video);
    match (message.kind, new) {
        (old, new) if old == new || (visual(old) && visual(new)) => Ok(()),
        (_, Kind::Animation) => Err(bad("message content type can't be used in an album")),
        _ => Err(bad("can't change media type in the album")),
    }
}

/// The message that is replied to.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyTarget {
    pub(super) id: i64,
    /// `allow_sending_without_reply`.
    pub(super) may_be_missing: bool,
}

/// `reply_parameters`, or the old `reply_to_message_id`.
pub(super) fn reply_target(call: &Call<'_>) -> Result<Option<ReplyTarget>, Refusal> {
    let broken = || bad("can't parse reply parameters JSON object");
    match call.object("reply_parameters") {
        Some(Ok(Value::Object(map))) => {
            let id = map
                .get("message_id")
                .and_then(|id| id.as_i64().or_else(|| id.as_str()?.parse().ok()));
            let may_be_missing = map.get("allow_sending_without_reply").is_some_and(|flag| {
                flag.as_bool()
                    .unwrap_or_else(|| flag.as_str() == Some("true"))
            });
            id.map(|id| Some(ReplyTarget { id, may_be_missing }))
                .ok_or_else(broken)
        }
        Some(_) => Err(broken()),
        None => {
            let may_be_missing = call.flag("allow_sending_without_reply");
            Ok(call
                .integer("reply_to_message_id")
                .filter(|id| *id > 0)
                .map(|id| ReplyTarget { id, may_be_missing }))
        }
    }
}

/// The form of `reply_markup`; what upstream thinks of buttons comes later.
pub(super) fn keyboard(call: &Call<'_>) -> Result<Keyboard, Refusal> {
    let map = match call.object("reply_markup") {
        None => return Ok(Keyboard::default()),
        Some(Err(())) => return Err(bad("can't parse reply keyboard markup JSON object")),
        Some(Ok(Value::Object(map))) => map,
        Some(Ok(_)) => return Err(bad("object expected as reply markup")),
    };
    let Some(rows) = map.get("inline_keyboard") else {
        let other = ["keyboard", "remove_keyboard", "force_reply"]
            .iter()
            .any(|name| map.contains_key(*name));
        return Ok(Keyboard {
            inline: None,
            other,
        });
    };
    let rows = rows
        .as_array()
        .ok_or_else(|| bad("field \"inline_keyboard\" must be of type Array"))?;
    for row in rows {
        let row = row.as_array().ok_or_else(|| {
            bad("field \"inline_keyboard\" of the InlineKeyboardMarkup must be an Array of Arrays")
        })?;
        for button in row {
            check_button(button)?;
        }
    }
    let empty = rows
        .iter()
        .all(|row| row.as_array().is_none_or(Vec::is_empty));
    Ok(Keyboard {
        inline: (!empty).then_some(Value::Object(map)),
        other: false,
    })
}

pub(super) fn check_button(button: &Value) -> Result<(), Refusal> {
    let error = |text: &str| bad(format!("can't parse inline keyboard button: {text}"));
    if !button.is_object() {
        return Err(error("InlineKeyboardButton must be an Object"));
    }
    match &button["text"] {
        Value::Null => return Err(error("Can't find field \"text\"")),
        Value::String(text) if text.is_empty() => {
            return Err(bad("inline keyboard button text must be non-empty"));
        }
        Value::String(_) | Value::Number(_) => {}
        _ => return Err(error("Field \"text\" must be of type String")),
    }
    if actions(button) == 0 {
        return Err(error("Text buttons are unallowed in the inline keyboard"));
    }
    if let Some(url) = button["url"].as_str() {
        let sound = ["http://", "https://", "tg://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
            && url.contains('.');
        if !sound && !url.starts_with("tg://") {
            return Err(bad(format!(
                "inline keyboard button URL '{url}' is invalid: Wrong HTTP URL"
            )));
        }
    }
    Ok(())
}

/// How many things a button does.
fn actions(button: &Value) -> usize {
    let actions = [
        "callback_data",
        "url",
        "copy_text",
        "web_app",
        "login_url",
        "pay",
        "callback_game",
        "switch_inline_query",
        "switch_inline_query_current_chat",
        "switch_inline_query_chosen_chat",
    ];
    let given = actions.iter().filter(|name| !button[**name].is_null());
    given.count()
}

/// What upstream refuses in a keyboard.
pub(super) fn check_buttons(keyboard: &Keyboard) -> Result<(), Refusal> {
    let Some(keyboard) = &keyboard.inline else {
        return Ok(());
    };
    let rows = keyboard["inline_keyboard"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let buttons: Vec<_> = rows.iter().filter_map(Value::as_array).flatten().collect();
    if buttons.len() > 100 || keyboard.to_string().len() > 10_240 {
        return Err(bad("reply markup is too long"));
    }
    let data_invalid = |data: &str| data.is_empty() || data.len() > 64;
    if buttons
        .iter()
        .any(|button| button["callback_data"].as_str().is_some_and(data_invalid))
    {
        return Err(bad("BUTTON_DATA_INVALID"));
    }
    // Exactly one of them (section 2).
    if buttons.iter().any(|button| actions(button) > 1) {
        return Err(bad("BUTTON_TYPE_INVALID"));
    }
    Ok(())
}

/// Wraps what one item of an album got from upstream.
pub(super) fn in_album(refusal: Refusal, number: usize, wording: Wording) -> Refusal {
    if wording != Wording::Album {
        return refusal;
    }
    let inner = refusal
        .text
        .strip_prefix("Bad Request: ")
        .unwrap_or(&refusal.text);
    bad(format!(
        "failed to send message #{} with the error message \"{inner}\"",
        number + 1
    ))
}

pub(super) fn file_json(file: &FileSeen) -> Value {
    let mut value = json!({
        "file_id": file.file_id,
        "file_unique_id": format!("AQAD{:016x}", file.fingerprint.hash),
        "file_size": file.fingerprint.len,
    });
    if let Some((width, height)) = file.dimensions {
        value["width"] = width.into();
        value["height"] = height.into();
    }
    if file.kind != Kind::Photo {
        value["mime_type"] = file.media_type.into();
        if let Some(name) = &file.upload_name {
            value["mime_type"] = type_by_name(name).into();
            value["file_name"] = name.as_str().into();
        }
    }
    value
}
