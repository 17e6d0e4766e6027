//! Contract section 1: the one place that turns what a stranger pushed into a checked job, or into an
//! error that names the field and as much of a job as a dead letter needs.
//!
//! The entry is read once: a pass over its keys keeps where each known value lies (so `input` stays
//! byte for byte, a key given twice is seen, and an unknown one costs a skip), then each value is
//! checked on its own under its own name. Nothing here recurses over the entry, so no nesting can
//! overflow a stack, and no text of `input` or `caption` gets into an error.

mod fields;
mod files;
mod resend;

pub use self::files::InputFiles;

use self::fields::{Checked, Field, Fields, Shape};
pub use self::resend::Words;
use super::{JobId, Lang, Priority, UnixMs};
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Largest entry, bytes.
pub const MAX_ENTRY: usize = 1 << 20;
/// An entry above this is not even searched for an id and a chat (unread.lua says the same).
pub const MAX_SALVAGE: usize = 16 << 20;
/// Most of a bad entry that is kept, bytes.
const MAX_EXCERPT: usize = 4 << 10;
/// So much of an entry is enough for [`raw_excerpt`]: a replacement is never shorter than what it stands for, and a
/// character that this cuts lies behind the end of the excerpt.
pub const EXCERPT_OF: usize = MAX_EXCERPT + 4;
const MAX_META: usize = 4 << 10;
const MAX_MARKUP: usize = 16 << 10;
const MAX_DEPTH: usize = 128;
const MAX_MODEL: usize = 256;
const MAX_USER: usize = 128;
const MAX_HINT: usize = 256;
/// How far ahead a time may lie.
const MAX_AHEAD_MS: i64 = 366 * 24 * 3600 * 1000;
/// The last second of the year 9999: keeps times in range where no clock is at hand.
const MAX_TIME_S: i64 = 253_402_300_799;
/// Telegram's chat ids have 52 bits.
const MAX_CHAT: i64 = (1 << 52) - 1;
const MAX_I32: i64 = i32::MAX as i64;

const JOB: Shape = Shape {
    prefix: "",
    names: &[
        "id",
        "model",
        "input",
        "user_id",
        "priority",
        "timeout_s",
        "max_attempts",
        "repay",
        "not_before",
        "expires_at",
        "via",
        "input_files",
        "fal",
        "meta",
        "telegram",
    ],
};
const FAL: Shape = Shape {
    prefix: "fal.",
    names: &[
        "priority",
        "store_io",
        "fallback",
        "object_lifetime_s",
        "runner_hint",
    ],
};
const TELEGRAM: Shape = Shape {
    prefix: "telegram.",
    names: &[
        "chat_id",
        "status_message_id",
        "message_thread_id",
        "reply_to_message_id",
        "send_as",
        "caption",
        "parse_mode",
        "reply_markup",
        "status_markup",
        "disable_notification",
        "protect_content",
        "has_spoiler",
        "ping",
        "lang",
    ],
};

/// One valid job.
#[derive(Clone, Debug)]
pub struct Spec {
    /// As given; `None`: the worker makes one.
    pub id: Option<JobId>,
    /// Which model of fal runs.
    pub model: Model,
    /// Byte for byte as it was pushed.
    pub input: Box<RawValue>,
    /// Members of `input` to be filled with files that users sent.
    pub files: InputFiles,
    /// `user_id` as text, else the chat id as text, else `None`.
    pub user: Option<String>,
    /// The queue it waits in.
    pub priority: Priority,
    /// Seconds a generation may run.
    pub timeout_s: Option<u32>,
    /// How often it may be paid for.
    pub max_attempts: Option<u32>,
    /// Whether a paid result that fal lost is generated, and paid, again.
    pub repay: bool,
    /// Not to be started before.
    pub not_before: Option<UnixMs>,
    /// Not to be submitted after.
    pub expires_at: Option<UnixMs>,
    /// Through the queue or in one call.
    pub via: Via,
    /// Switches for fal.
    pub fal: FalSwitches,
    /// Copied into every event, byte for byte.
    pub meta: Option<Box<RawValue>>,
    /// Where the result goes; `None`: only events tell.
    pub telegram: Option<Target>,
}

/// An entry that breaks a rule: what can still be read of it.
#[derive(Clone, Debug)]
pub struct Invalid {
    /// e.g. `input: expected an object, found null`; at most 300 characters, one line, no echo of
    /// input or caption.
    pub error: String,
    /// Its id, if valid.
    pub id: Option<JobId>,
    /// Its model, if valid.
    pub model: Option<String>,
    /// Whom it would have counted for.
    pub user: Option<String>,
    /// Its `meta`, if valid.
    pub meta: Option<Box<RawValue>>,
    /// Where its user can be told, if a chat id can be read: chat, status message, topic and
    /// language, nothing else.
    pub tell: Option<Target>,
}

/// A checked model id, e.g. `fal-ai/flux/dev`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Model(pub(crate) Arc<str>);

thread_local! {
    /// The last model that this thread took: most jobs name the one before, and thousands in flight share its text.
    static LAST_MODEL: RefCell<Model> = RefCell::new(Model("".into()));
}

impl Model {
    /// Takes a text that obeys the rule of contract section 1; else says what was expected and found.
    pub fn new(text: &str) -> Result<Model, String> {
        if is_common_model(text) {
            return Ok(LAST_MODEL.with_borrow_mut(|last| {
                if *last.0 != *text {
                    *last = Model(text.into());
                }
                last.clone()
            }));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let found = if text.len() > MAX_MODEL {
            format!("{} bytes", text.len())
        } else if let Some(strange) = text.chars().find(|c| !allowed(*c) && *c != '/') {
            format!("{strange:?} in it")
        } else if !text.contains('/') {
            "no slash".to_owned()
        } else if text.split('/').any(str::is_empty) {
            "an empty part".to_owned()
        } else if let Some(dots) = text.split('/').find(|part| matches!(*part, "." | "..")) {
            format!("a part {dots:?}")
        } else {
            return Ok(Model(text.into()));
        };
        Err(format!(
            "expected owner/name of [A-Za-z0-9._-], at most {MAX_MODEL} bytes, found {found}"
        ))
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `[namespace/]owner/alias`: the part that status, result and cancel are asked under (fal-api
    /// section 2).
    pub fn stem(&self) -> &str {
        let namespaced = self.0.starts_with("workflows/") || self.0.starts_with("comfy/");
        let parts = if namespaced { 3 } else { 2 };
        match self.0.match_indices('/').nth(parts - 1) {
            Some((end, _)) => &self.0[..end],
            None => &self.0,
        }
    }
}

/// Obeys the rule, and has no part that begins with a dot: one pass for what each job has. The rule itself is
/// that of [`Model::new`].
fn is_common_model(text: &str) -> bool {
    let (mut last, mut slashes) = (b'/', 0);
    for byte in text.bytes() {
        let fits = match byte {
            b'/' | b'.' => last != b'/',
            b'_' | b'-' => true,
            _ => byte.is_ascii_alphanumeric(),
        };
        if !fits {
            return false;
        }
        slashes += u32::from(byte == b'/');
        last = byte;
    }
    text.len() <= MAX_MODEL && slashes > 0 && last != b'/'
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a job reaches fal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Via {
    /// Submit, poll, collect.
    #[default]
    Queue,
    /// One blocking call.
    Direct,
}

/// Optional switches sent as headers (fal-api section 1).
#[derive(Clone, Debug, PartialEq, Default)]
pub struct FalSwitches {
    /// `Some(true)`: low, `Some(false)`: normal.
    pub low_priority: Option<bool>,
    /// Whether fal keeps input and output.
    pub store_io: Option<bool>,
    /// Whether fal may reroute to an equivalent model.
    pub fallback: Option<bool>,
    /// Seconds that fal keeps the files.
    pub object_lifetime_s: Option<u64>,
    /// Visible ASCII, 1-256: safe in a header.
    pub runner_hint: Option<String>,
}

/// A chat of Telegram; serialises as its API wants it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum ChatId {
    /// 52 bits, never 0, negative for groups.
    Id(i64),
    /// `@name`, with the `@`.
    Name(String),
}

impl fmt::Display for ChatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChatId::Id(id) => write!(f, "{id}"),
            ChatId::Name(name) => f.write_str(name),
        }
    }
}

/// As what a file is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SendAs {
    /// By content type.
    #[default]
    Auto,
    /// As a photo.
    Photo,
    /// As a file.
    Document,
    /// As a video.
    Video,
    /// As an animation.
    Animation,
    /// As music.
    Audio,
}

/// How Telegram reads the caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseMode {
    /// Tags.
    Html,
    /// The newer Markdown.
    MarkdownV2,
    /// The legacy one.
    Markdown,
}

impl ParseMode {
    /// Telegram's word.
    pub fn as_str(self) -> &'static str {
        match self {
            ParseMode::Html => "HTML",
            ParseMode::MarkdownV2 => "MarkdownV2",
            ParseMode::Markdown => "Markdown",
        }
    }
}

/// Whether a short reply follows an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Ping {
    /// When the job took over 30 s.
    #[default]
    Auto,
    /// After every edit.
    Always,
    /// After none.
    Never,
}

/// `telegram` of a job.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where to.
    pub chat: ChatId,
    /// A message of the bot that the result replaces.
    pub status_message_id: Option<i64>,
    /// The topic of a forum.
    pub message_thread_id: Option<i64>,
    /// What the result answers.
    pub reply_to_message_id: Option<i64>,
    /// As what files are sent.
    pub send_as: SendAs,
    /// Text under the result.
    pub caption: Option<String>,
    /// How `caption` is read; plain when absent.
    pub parse_mode: Option<ParseMode>,
    /// A JSON object, byte for byte.
    pub reply_markup: Option<Box<RawValue>>,
    /// The same for progress texts in the status message: what it keeps until the result.
    pub status_markup: Option<Box<RawValue>>,
    /// Without a sound.
    pub disable_notification: bool,
    /// Not to be forwarded or saved.
    pub protect_content: bool,
    /// Hidden behind a spoiler.
    pub has_spoiler: bool,
    /// Whether a short reply follows an edit.
    pub ping: Ping,
    /// Language of the built-in texts; `None`: the daemon's.
    pub lang: Option<Lang>,
}

impl Target {
    /// A target with nothing but a chat.
    pub fn to_chat(chat: ChatId) -> Target {
        Target {
            chat,
            status_message_id: None,
            message_thread_id: None,
            reply_to_message_id: None,
            send_as: SendAs::default(),
            caption: None,
            parse_mode: None,
            reply_markup: None,
            status_markup: None,
            disable_notification: false,
            protect_content: false,
            has_spoiler: false,
            ping: Ping::default(),
            lang: None,
        }
    }

    /// The four fields that telling a failure needs, as small JSON for the record.
    pub fn to_tell_json(&self) -> String {
        #[derive(Serialize)]
        struct Tell<'a> {
            chat_id: &'a ChatId,
            #[serde(skip_serializing_if = "Option::is_none")]
            status_message_id: Option<i64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            message_thread_id: Option<i64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            lang: Option<&'static str>,
        }
        let tell = Tell {
            chat_id: &self.chat,
            status_message_id: self.status_message_id,
            message_thread_id: self.message_thread_id,
            lang: self.lang.map(Lang::as_str),
        };
        serde_json::to_string(&tell).expect("numbers and strings always serialise")
    }

    /// Reads what [`Target::to_tell_json`] wrote; `None` without a readable chat id.
    pub fn from_tell_json(json: &str) -> Option<Target> {
        tell(&Fields::read(json, TELEGRAM).ok()?)
    }
}

/// Members of an entry that mean nothing, such as a misspelt `telegram`.
pub fn ignored(entry: &[u8]) -> Vec<String> {
    fn members(text: &str) -> BTreeMap<String, &RawValue> {
        serde_json::from_str(text).unwrap_or_default()
    }
    let job = members(std::str::from_utf8(entry).unwrap_or_default());
    let mut ignored = Vec::new();
    let mut look = |members: BTreeMap<String, &RawValue>, shape: Shape| {
        let unknown = |name: &String| !shape.names.contains(&name.as_str());
        let names = members.into_keys().filter(unknown);
        ignored.extend(names.map(|name| format!("{}{name}", shape.prefix)));
    };
    for (name, shape) in [("telegram", TELEGRAM), ("fal", FAL)] {
        look(
            job.get(name)
                .map_or_else(BTreeMap::new, |part| members(part.get())),
            shape,
        );
    }
    look(job, JOB);
    ignored
}

/// Parses one inbox entry. `now`: of Redis's clock, for how far ahead times may lie; `None` skips
/// that (an entry read again later must not fail because time went on).
pub fn parse(entry: &[u8], now: Option<UnixMs>) -> Result<Spec, Box<Invalid>> {
    let fields = read(entry).map_err(|found| Box::new(Invalid::no_object(&found)))?;
    if entry.len() > MAX_ENTRY {
        let error = format!(
            "(entry): expected at most 1 MiB, found {} bytes",
            entry.len()
        );
        return Err(Box::new(Invalid::salvaged(error, &fields)));
    }
    check(&fields, now).map_err(|error| Box::new(Invalid::salvaged(error, &fields)))
}

/// What a dead letter keeps of a bad entry: at most 4 KiB, broken UTF-8 replaced, cut between
/// characters.
pub fn raw_excerpt(entry: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&entry[..entry.len().min(EXCERPT_OF)]).into_owned();
    let mut end = text.len().min(MAX_EXCERPT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

impl Invalid {
    /// What is no job for a reason beside its entry, which is in order.
    pub fn beside(spec: &Spec, error: String) -> Invalid {
        Invalid {
            model: Some(spec.model.to_string()),
            user: spec.user.clone(),
            meta: spec.meta.clone(),
            tell: spec.telegram.clone(),
            ..Invalid::unreadable(error)
        }
    }

    /// An entry of more than [`MAX_SALVAGE`] bytes, which nobody needs to see.
    pub fn huge(bytes: u64) -> Invalid {
        Invalid::no_object(&format!("{bytes} bytes"))
    }

    fn no_object(found: &str) -> Invalid {
        let rule = "one JSON object of at most 1 MiB";
        Invalid::unreadable(format!("(entry): expected {rule}, found {found}"))
    }

    fn unreadable(error: String) -> Invalid {
        Invalid {
            error: fields::clipped(error),
            id: None,
            model: None,
            user: None,
            meta: None,
            tell: None,
        }
    }

    /// Keeps what is valid on its own, whatever else is wrong.
    fn salvaged(error: String, fields: &Fields<'_>) -> Invalid {
        let chat = fields.get("telegram").object(TELEGRAM).ok().flatten();
        let tell = chat.and_then(|telegram| tell(&telegram));
        Invalid {
            id: id(fields.get("id")).ok().flatten(),
            model: model(fields.get("model"))
                .ok()
                .map(|model| model.0.to_string()),
            user: match user_id(fields.get("user_id")) {
                Ok(None) => tell.as_ref().map(|target| target.chat.to_string()),
                given => given.ok().flatten(),
            },
            meta: meta(fields.get("meta")).ok().flatten(),
            tell,
            ..Invalid::unreadable(error)
        }
    }
}

/// Where the known fields of the entry lie, or what was found in place of a JSON object.
fn read(entry: &[u8]) -> Result<Fields<'_>, String> {
    if entry.len() > MAX_SALVAGE {
        return Err(format!("{} bytes", entry.len()));
    }
    let text = match std::str::from_utf8(entry) {
        Ok(text) => text,
        Err(error) => return Err(format!("broken UTF-8 at byte {}", error.valid_up_to())),
    };
    Fields::read(text, JOB).map_err(|_| {
        if text.trim_ascii().is_empty() {
            "nothing".to_owned()
        } else if text.starts_with('\u{feff}') {
            "a byte order mark".to_owned()
        } else {
            // The error of the first reading may quote a string ("invalid type"); a raw value has
            // errors of syntax only, and their texts are serde_json's own.
            match serde_json::from_str::<&RawValue>(text) {
                Ok(other) => fields::type_name(other).to_owned(),
                Err(error) => format!("broken JSON ({error})"),
            }
        }
    })
}

fn check(fields: &Fields<'_>, now: Option<UnixMs>) -> Checked<Spec> {
    fields.no_twice()?;
    let id = id(fields.get("id"))?;
    let model = model(fields.get("model"))?;
    let input = input(fields.get("input"))?;
    let user_id = user_id(fields.get("user_id"))?;
    let priority = [Priority::High, Priority::Default, Priority::Low].map(|p| (p.as_str(), p));
    let priority = fields.get("priority").word(&priority)?.unwrap_or_default();
    let timeout_s = fields
        .get("timeout_s")
        .integer(1, 86_400)?
        .map(|n| n as u32);
    let max_attempts = fields.get("max_attempts").integer(1, 20)?.map(|n| n as u32);
    let repay = fields.get("repay").boolean()?.unwrap_or(false);
    let not_before = time(fields.get("not_before"), now)?;
    let expires_at = time(fields.get("expires_at"), now)?;
    if let (Some(start), Some(end)) = (not_before, expires_at)
        && end <= start
    {
        return fields.get("expires_at").refused("a time after not_before");
    }
    let via = [("queue", Via::Queue), ("direct", Via::Direct)];
    let via = fields.get("via").word(&via)?.unwrap_or_default();
    let files = InputFiles::read(fields.get("input_files"), &input)?;
    let fal = fal_switches(fields.get("fal"))?;
    let meta = meta(fields.get("meta"))?;
    let telegram = target(fields.get("telegram"))?;
    let user = user_id.or_else(|| telegram.as_ref().map(|target| target.chat.to_string()));
    Ok(Spec {
        id,
        model,
        input,
        files,
        user,
        priority,
        timeout_s,
        max_attempts,
        repay,
        not_before,
        expires_at,
        via,
        fal,
        meta,
        telegram,
    })
}

fn id(field: Field<'_>) -> Checked<Option<JobId>> {
    const RULE: &str = "1-128 of [A-Za-z0-9._:-]";
    let Some(text) = field.string(RULE)? else {
        return Ok(None);
    };
    match JobId::new(&text) {
        Some(id) => Ok(Some(id)),
        None if text.is_empty() || text.len() > 128 => {
            field.wrong(RULE, &format!("{} bytes", text.len()))
        }
        None => field.wrong(RULE, "another character"),
    }
}

fn model(field: Field<'_>) -> Checked<Model> {
    match field.string("owner/name")? {
        Some(text) => Model::new(&text).map_err(|wrong| field.named(&wrong)),
        None => field.refused("owner/name"),
    }
}

fn input(field: Field<'_>) -> Checked<Box<RawValue>> {
    match field.given() {
        Some(raw) if raw.get().starts_with('{') => {
            if nesting(raw.get()) > MAX_DEPTH {
                return field.wrong("at most 128 levels", "deeper nesting");
            }
            Ok(raw.to_owned())
        }
        _ => field.refused("an object"),
    }
}

/// How deep valid JSON nests: 1 for `{}`. A scan, since a parser that recurses could be overflown.
fn nesting(json: &str) -> usize {
    let (mut depth, mut deepest) = (0, 0);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth -= 1,
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    deepest
}

fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

fn user_id(field: Field<'_>) -> Checked<Option<String>> {
    const RULE: &str = "an integer or a string of 1-128 bytes";
    let Some(raw) = field.given() else {
        return Ok(None);
    };
    let text: Cow<'_, str> = match fields::integer_text(raw) {
        Some("-0") => "0".into(),
        Some(number) => number.into(),
        None => field.string(RULE)?.unwrap_or_default(),
    };
    if text.is_empty() || text.len() > MAX_USER {
        field.wrong(RULE, &format!("{} bytes", text.len()))
    } else if text.contains(char::is_control) {
        field.wrong(RULE, "a control character")
    } else {
        Ok(Some(text.into_owned()))
    }
}

fn time(field: Field<'_>, now: Option<UnixMs>) -> Checked<Option<UnixMs>> {
    const RULE: &str = "Unix seconds at most 366 days ahead";
    let Some(raw) = field.given() else {
        return Ok(None);
    };
    let seconds = fields::integer_text(raw).and_then(|text| text.parse::<i64>().ok());
    match seconds {
        Some(seconds) if (0..=MAX_TIME_S).contains(&seconds) => {
            let ms = seconds * 1000;
            match now {
                Some(now) if ms > now.0.saturating_add(MAX_AHEAD_MS) => field.refused(RULE),
                _ => Ok(Some(UnixMs(ms))),
            }
        }
        _ => field.refused(RULE),
    }
}

fn fal_switches(field: Field<'_>) -> Checked<FalSwitches> {
    const RULE: &str = "1-256 of visible ASCII";
    let Some(fal) = field.object(FAL)? else {
        return Ok(FalSwitches::default());
    };
    fal.no_twice()?;
    let low_priority = fal
        .get("priority")
        .word(&[("normal", false), ("low", true)])?;
    let store_io = fal.get("store_io").boolean()?;
    let fallback = fal.get("fallback").boolean()?;
    let object_lifetime_s = fal
        .get("object_lifetime_s")
        .integer(1, MAX_I32)?
        .map(|n| n as u64);
    let runner_hint = match fal.get("runner_hint").string(RULE)? {
        Some(hint) if hint.is_empty() || hint.len() > MAX_HINT => {
            return fal
                .get("runner_hint")
                .wrong(RULE, &format!("{} bytes", hint.len()));
        }
        Some(hint) if !hint.bytes().all(|b| b.is_ascii_graphic()) => {
            return fal.get("runner_hint").wrong(RULE, "another character");
        }
        hint => hint.map(Cow::into_owned),
    };
    Ok(FalSwitches {
        low_priority,
        store_io,
        fallback,
        object_lifetime_s,
        runner_hint,
    })
}

fn meta(field: Field<'_>) -> Checked<Option<Box<RawValue>>> {
    match field.given() {
        Some(raw) if raw.get().len() > MAX_META => {
            field.wrong("at most 4 KiB", &format!("{} bytes", raw.get().len()))
        }
        raw => Ok(raw.map(ToOwned::to_owned)),
    }
}

fn target(field: Field<'_>) -> Checked<Option<Target>> {
    let Some(telegram) = field.object(TELEGRAM)? else {
        return Ok(None);
    };
    telegram.no_twice()?;
    let get = |key| telegram.get(key);
    Ok(Some(Target {
        chat: chat(get("chat_id"))?,
        status_message_id: get("status_message_id").integer(1, MAX_I32)?,
        message_thread_id: get("message_thread_id").integer(1, MAX_I32)?,
        reply_to_message_id: get("reply_to_message_id").integer(1, MAX_I32)?,
        send_as: get("send_as")
            .word(&[
                ("auto", SendAs::Auto),
                ("photo", SendAs::Photo),
                ("document", SendAs::Document),
                ("video", SendAs::Video),
                ("animation", SendAs::Animation),
                ("audio", SendAs::Audio),
            ])?
            .unwrap_or_default(),
        caption: get("caption").string("a string")?.map(Cow::into_owned),
        parse_mode: get("parse_mode").word(
            &[ParseMode::Html, ParseMode::MarkdownV2, ParseMode::Markdown].map(|m| (m.as_str(), m)),
        )?,
        reply_markup: markup(get("reply_markup"))?,
        status_markup: markup(get("status_markup"))?,
        disable_notification: get("disable_notification").boolean()?.unwrap_or(false),
        protect_content: get("protect_content").boolean()?.unwrap_or(false),
        has_spoiler: get("has_spoiler").boolean()?.unwrap_or(false),
        ping: get("ping")
            .word(&[
                ("auto", Ping::Auto),
                ("always", Ping::Always),
                ("never", Ping::Never),
            ])?
            .unwrap_or_default(),
        lang: lang(get("lang"))?,
    }))
}

/// As much of a target as telling needs, each field on its own.
fn tell(telegram: &Fields<'_>) -> Option<Target> {
    let message = |key| telegram.get(key).integer(1, MAX_I32).ok().flatten();
    Some(Target {
        status_message_id: message("status_message_id"),
        message_thread_id: message("message_thread_id"),
        lang: lang(telegram.get("lang")).ok().flatten(),
        ..Target::to_chat(chat(telegram.get("chat_id")).ok()?)
    })
}

fn chat(field: Field<'_>) -> Checked<ChatId> {
    const RULE: &str = "an integer of 52 bits other than 0, or \"@name\"";
    let Some(raw) = field.given() else {
        return field.refused(RULE);
    };
    if let Some(number) = fields::integer_text(raw) {
        return match number.parse() {
            Ok(id) if id != 0 && (-MAX_CHAT..=MAX_CHAT).contains(&id) => Ok(ChatId::Id(id)),
            _ => field.refused(RULE),
        };
    }
    let text = field.string(RULE)?.unwrap_or_default();
    let name = text.strip_prefix('@').unwrap_or_default();
    let fits = (4..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if fits {
        Ok(ChatId::Name(text.into_owned()))
    } else {
        field.wrong(RULE, "another string")
    }
}

fn markup(field: Field<'_>) -> Checked<Option<Box<RawValue>>> {
    match field.given() {
        None => Ok(None),
        Some(raw) if !raw.get().starts_with('{') => field.refused("an object"),
        Some(raw) if raw.get().len() > MAX_MARKUP => {
            field.wrong("at most 16 KiB", &format!("{} bytes", raw.get().len()))
        }
        Some(raw) => Ok(Some(raw.to_owned())),
    }
}

fn lang(field: Field<'_>) -> Checked<Option<Lang>> {
    field.word(&[Lang::En, Lang::Ru].map(|lang| (lang.as_str(), lang)))
}

#[cfg(test)]
mod tests;
