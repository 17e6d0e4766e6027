//! The client of Telegram's Bot API: one call in, one [`Sent`] or [`Refusal`] out. It decides
//! nothing: `plan` makes the calls and reads their outcomes, `refusal` knows the texts, `text` cuts
//! and strips. It never logs, and the URL of a call, which holds the token, leaves this file only
//! into [`Http`]; a token that something in front of Telegram echoes is struck out of the answer.

pub mod files;
pub mod limits;
mod look;
pub mod plan;
pub mod refusal;
pub mod text;

pub use look::Look;

use crate::http::{Answer, Body, Bounds, Broken, Http, Request, Service};
use refusal::{Refusal, classify, tidy};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Time limits (telegram-api section 10). The server itself holds a request up to 8 s instead of
/// answering 429, so nothing under 15 s is right.
const CONNECT: Duration = Duration::from_secs(10);
const JSON_CALL: Duration = Duration::from_secs(30);
const BY_URL: Duration = Duration::from_secs(90);
const UPLOAD_BASE: Duration = Duration::from_secs(60);
const UPLOAD_BYTES_PER_S: u64 = 128 * 1024;
/// Largest answer read.
const ANSWER_BYTES: u64 = 256 * 1024;
/// Parts of an album's files.
const PARTS: [&str; 10] = ["f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9"];

/// Methods in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// The cheapest check of a token.
    GetMe,
    /// A text.
    SendMessage,
    /// A photo.
    SendPhoto,
    /// A file as it is.
    SendDocument,
    /// A video.
    SendVideo,
    /// A GIF or a silent video.
    SendAnimation,
    /// Music.
    SendAudio,
    /// Two to ten files as one album.
    SendMediaGroup,
    /// Another text in the same message.
    EditMessageText,
    /// A file in place of what the message held.
    EditMessageMedia,
    /// Another caption under the same file.
    EditMessageCaption,
    /// Takes a message away.
    DeleteMessage,
    /// Shows for a few seconds what the bot is doing.
    SendChatAction,
}

impl Method {
    /// The name in the URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::GetMe => "getMe",
            Method::SendMessage => "sendMessage",
            Method::SendPhoto => "sendPhoto",
            Method::SendDocument => "sendDocument",
            Method::SendVideo => "sendVideo",
            Method::SendAnimation => "sendAnimation",
            Method::SendAudio => "sendAudio",
            Method::SendMediaGroup => "sendMediaGroup",
            Method::EditMessageText => "editMessageText",
            Method::EditMessageMedia => "editMessageMedia",
            Method::EditMessageCaption => "editMessageCaption",
            Method::DeleteMessage => "deleteMessage",
            Method::SendChatAction => "sendChatAction",
        }
    }

    /// Whether it changes a message that is there already.
    pub fn is_edit(self) -> bool {
        matches!(
            self,
            Method::EditMessageText | Method::EditMessageMedia | Method::EditMessageCaption
        )
    }

    /// Whether doing it twice is the same as once: a fresh send is not, and there is no way to ask
    /// what became of it.
    pub fn is_repeatable(self) -> bool {
        self.is_edit()
            || matches!(
                self,
                Method::GetMe | Method::DeleteMessage | Method::SendChatAction
            )
    }
}

/// One call, ready to go.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// What to do.
    pub method: Method,
    /// Its arguments, in their JSON form.
    pub args: Map<String, Value>,
    /// Name of the multipart part that carries the file; `None`: the call has no file of its own. An
    /// album's further files are in `f1` to `f9`.
    pub file_part: Option<&'static str>,
    /// Telegram fetches a file from a URL before it answers (slow: 0.5-20 s).
    pub by_url: bool,
}

/// The file of a call that uploads.
pub struct Upload<'a> {
    /// Its bytes.
    pub reader: &'a mut dyn Read,
    /// How many they are, exactly.
    pub len: u64,
    /// Made safe if it is not `[A-Za-z0-9._-]{1,60}`.
    pub file_name: &'a str,
    /// `application/octet-stream` if it is no plain media type.
    pub content_type: &'a str,
}

impl Upload<'_> {
    fn exactly(&mut self) -> Exactly<'_> {
        Exactly {
            file: &mut *self.reader,
            left: self.len,
        }
    }
}

/// What a successful call says. Anything may be missing: only the success itself is certain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sent {
    /// Ids of the messages; none for a message that is still being re-encoded (id 0).
    pub message_ids: Vec<i64>,
    /// One a message with a file: what sends it again for free.
    pub file_ids: Vec<String>,
    /// The member of its message that each came in: as another kind Telegram refuses it.
    pub file_kinds: Vec<&'static str>,
}

/// One bot on one server. Cloning shares the HTTP client and the token. No `Debug`: it holds the token.
#[derive(Clone)]
pub struct Telegram {
    http: Http,
    base_url: String,
    /// The public half of the token: it names the bot, and stays.
    bot: String,
    token: Arc<RwLock<Held>>,
}

/// The token in use. A call takes it once and keeps it to its end.
struct Held {
    token: Arc<str>,
    /// When it came in another one's place.
    since: Option<Instant>,
    refused: AtomicBool,
}

impl Telegram {
    /// `base_url`: `https://api.telegram.org` or an own server, with or without a path.
    pub fn new(http: Http, base_url: String, token: String) -> Telegram {
        Telegram {
            http,
            base_url,
            bot: bot_of(&token).to_owned(),
            token: Arc::new(RwLock::new(Held {
                token: token.into(),
                since: None,
                refused: AtomicBool::new(false),
            })),
        }
    }

    /// Calls that begin from now on take this token. It must be the same bot's, by its public half: rates and
    /// file ids belong to a bot. False, and nothing is done, when it is another one's.
    pub fn set_token(&self, token: &str) -> bool {
        if bot_of(token) != self.bot {
            return false;
        }
        let mut held = self.token.write().unwrap_or_else(PoisonError::into_inner);
        *held = Held {
            token: token.into(),
            since: Some(Instant::now()),
            refused: AtomicBool::new(false),
        };
        true
    }

    /// For how long a token has been in use that is not the one of the start.
    pub fn new_token_age(&self) -> Option<Duration> {
        let held = self.token.read().unwrap_or_else(PoisonError::into_inner);
        held.since.map(|since| since.elapsed())
    }

    /// Whether Telegram refused the token in use since this was last asked.
    pub fn take_token_refused(&self) -> bool {
        let held = self.token.read().unwrap_or_else(PoisonError::into_inner);
        held.refused.swap(false, Ordering::AcqRel)
    }

    fn token(&self) -> Arc<str> {
        let held = self.token.read().unwrap_or_else(PoisonError::into_inner);
        held.token.clone()
    }

    /// 401: no such token (any more); 404: nothing that could be one.
    fn note(&self, status: u16, token: &Arc<str>) {
        if matches!(status, 401 | 404) {
            let held = self.token.read().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(&held.token, token) {
                held.refused.store(true, Ordering::Release);
            }
        }
    }

    /// Whether server and token work.
    pub fn get_me(&self) -> Result<(), Refusal> {
        let call = Call {
            method: Method::GetMe,
            args: Map::new(),
            file_part: None,
            by_url: false,
        };
        self.perform(&call, None).map(|_| ())
    }

    /// Makes one call. `upload` must be given exactly when the call has a `file_part`.
    pub fn perform(&self, call: &Call, upload: Option<Upload<'_>>) -> Result<Sent, Refusal> {
        let limit = if call.by_url { BY_URL } else { JSON_CALL };
        self.perform_limited(call, upload.into_iter().collect(), limit)
    }

    /// The same with the files of an album, in the order of their parts.
    pub fn perform_with(&self, call: &Call, uploads: Vec<Upload<'_>>) -> Result<Sent, Refusal> {
        self.perform_limited(call, uploads, JSON_CALL)
    }

    /// Makes a call without a file that nobody waits for: within this time.
    pub fn perform_within(&self, call: &Call, limit: Duration) -> Result<Sent, Refusal> {
        self.perform_limited(call, Vec::new(), limit)
    }

    fn perform_limited(
        &self,
        call: &Call,
        mut uploads: Vec<Upload<'_>>,
        limit: Duration,
    ) -> Result<Sent, Refusal> {
        let method = call.method;
        let token = self.token();
        let url = format!(
            "{}/bot{token}/{}",
            self.base_url.trim_end_matches('/'),
            method.as_str()
        );
        let answer = match (call.file_part, uploads.as_mut_slice()) {
            (None, []) => {
                let bytes = serde_json::to_vec(&call.args)
                    .map_err(|error| Refusal::Bug(error.to_string()))?;
                let body = Body::Bytes {
                    content_type: "application/json",
                    bytes: &bytes,
                };
                self.exchange(&url, body, limit)
            }
            (Some(part), [first, more @ ..]) if more.len() < PARTS.len() => {
                let form = Form::new(&call.args, part, first.file_name, first.content_type);
                let heads: Vec<Vec<u8>> = more
                    .iter()
                    .zip(&PARTS[1..])
                    .map(|(file, part)| form.next_head(part, file.file_name, file.content_type))
                    .collect();
                let mut len = form.len(first.len);
                let mut bytes = first.len;
                let mut reader: Box<dyn Read + '_> =
                    Box::new(form.head.as_slice().chain(first.exactly()));
                for (file, head) in more.iter_mut().zip(&heads) {
                    len += head.len() as u64 + file.len;
                    bytes += file.len;
                    reader = Box::new(reader.chain(head.as_slice()).chain(file.exactly()));
                }
                let mut reader = reader.chain(form.tail.as_slice());
                let body = Body::Stream {
                    content_type: &form.content_type,
                    len,
                    reader: &mut reader,
                };
                let seconds = bytes.div_ceil(UPLOAD_BYTES_PER_S);
                self.exchange(&url, body, UPLOAD_BASE + Duration::from_secs(seconds))
            }
            (Some(_), []) => {
                return Err(Refusal::Bug("a call with a file part and no file".into()));
            }
            (Some(_), _) => return Err(Refusal::Bug("too many files for one call".into())),
            (None, _) => {
                return Err(Refusal::Bug("a file for a call without a file part".into()));
            }
        };
        match answer {
            Ok(answer) => {
                self.note(answer.status, &token);
                read(&answer, method, &token)
            }
            Err(Broken::NotSent(text)) => Err(Refusal::NotSent(quote(&text, &token))),
            Err(Broken::Unknown(text) | Broken::TimedOut(text)) => {
                Err(Refusal::Unknown(quote(&text, &token)))
            }
            Err(broken @ Broken::Unfinished { .. }) => Err(Refusal::Unknown(broken.to_string())),
            Err(Broken::TooBig { status }) => Err(classify(status, None, b"", method.is_edit())),
        }
    }

    fn exchange<'a>(
        &self,
        url: &'a str,
        body: Body<'a>,
        total: Duration,
    ) -> Result<Answer, Broken> {
        let bounds = Bounds {
            connect: CONNECT.min(total),
            total,
            max_bytes: ANSWER_BYTES,
        };
        self.http.exchange(Request {
            service: Service::Telegram,
            method: "POST",
            url,
            headers: &[],
            body,
            bounds,
        })
    }
}

/// A text from below, fit for logs. `http` promises no URL in it; the token is worth a second look.
fn quote(text: &str, token: &str) -> String {
    tidy(&without_token(text, token))
}

/// The public half of a token.
fn bot_of(token: &str) -> &str {
    token.split(':').next().unwrap_or_default()
}

/// The secret half of the token struck out, however the other half is written around it. What is too
/// short to be a secret (real ones have 30 characters and more) would only garble the text.
fn without_token(text: &str, token: &str) -> String {
    let secret = token.split_once(':').map_or(token, |(_, secret)| secret);
    if secret.len() < 8 {
        text.to_owned()
    } else {
        text.replace(secret, "***")
    }
}

/// JSON first, whatever the status; then the status.
fn read(answer: &Answer, method: Method, token: &str) -> Result<Sent, Refusal> {
    if answer.body.trim_ascii_start().starts_with(b"{")
        && let Ok(Wire { ok: true, result }) = serde_json::from_slice(&answer.body)
    {
        return Ok(result.map(sent).unwrap_or_default());
    }
    // Struck out before a description is shortened, or half a token might be left at the end.
    let body = without_token(&String::from_utf8_lossy(&answer.body), token);
    Err(classify(
        answer.status,
        answer.header("retry-after"),
        body.as_bytes(),
        method.is_edit(),
    ))
}

// Of an answer only the members that are used are read, each on its own: what else is in it, and what
// one of them turns out to be, must not spoil a success.

#[derive(Deserialize)]
struct Wire<'a> {
    ok: bool,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Message<'a> {
    #[serde(borrow)]
    message_id: Option<&'a RawValue>,
    #[serde(borrow)]
    photo: Option<&'a RawValue>,
    #[serde(borrow)]
    animation: Option<&'a RawValue>,
    #[serde(borrow)]
    video: Option<&'a RawValue>,
    #[serde(borrow)]
    audio: Option<&'a RawValue>,
    #[serde(borrow)]
    document: Option<&'a RawValue>,
    #[serde(borrow)]
    voice: Option<&'a RawValue>,
    #[serde(borrow)]
    video_note: Option<&'a RawValue>,
    #[serde(borrow)]
    sticker: Option<&'a RawValue>,
}

/// A file of a message, or one size of a photo.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Kept<'a> {
    #[serde(borrow)]
    file_id: Option<&'a RawValue>,
    #[serde(borrow)]
    width: Option<&'a RawValue>,
    #[serde(borrow)]
    height: Option<&'a RawValue>,
}

/// serde would take a list for an object whose members stand in order.
fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    raw.get().starts_with('{').then(|| part(raw))?
}

fn part<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// A Message, an array of them, or `true`.
fn sent(result: &RawValue) -> Sent {
    let mut sent = Sent::default();
    let messages: Vec<&RawValue> = match result.get().starts_with('[') {
        true => part(result).unwrap_or_default(),
        false => vec![result],
    };
    for message in messages.into_iter().filter_map(object::<Message>) {
        let id: Option<i64> = message.message_id.and_then(part);
        sent.message_ids.extend(id.filter(|id| *id != 0));
        if let Some((kind, id)) = file_id(&message) {
            sent.file_ids.push(id);
            sent.file_kinds.push(kind);
        }
    }
    sent
}

/// An animation also comes as `document`, a silent video as `animation`: the first that is there.
fn file_id(message: &Message) -> Option<(&'static str, String)> {
    let kinds = [
        ("animation", message.animation),
        ("video", message.video),
        ("audio", message.audio),
        ("document", message.document),
        ("voice", message.voice),
        ("video_note", message.video_note),
        ("sticker", message.sticker),
    ];
    let (kind, file) = match message.photo.and_then(part::<Vec<&RawValue>>) {
        Some(sizes) => {
            let sizes = sizes.into_iter().filter_map(object::<Kept>);
            let largest = sizes.max_by_key(|size| {
                let side = |side: Option<&RawValue>| side.and_then(part).unwrap_or(0u64);
                side(size.width).saturating_mul(side(size.height))
            });
            ("photo", largest?)
        }
        None => kinds
            .into_iter()
            .find_map(|(kind, file)| Some((kind, object(file?)?)))?,
    };
    Some((kind, part(file.file_id?)?))
}

/// A multipart body around a file that is never in memory: what stands before and after its bytes.
struct Form {
    boundary: String,
    content_type: String,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Form {
    fn new(args: &Map<String, Value>, part: &str, file_name: &str, content_type: &str) -> Form {
        let boundary = format!(
            "fal-worker-{:016x}{:016x}",
            fastrand::u64(..),
            fastrand::u64(..)
        );
        let mut head = String::new();
        for (name, value) in args {
            // In a form every argument is text, objects are their JSON (section 1).
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            head += &format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n"
            );
        }
        head += &file_head(&boundary, part, file_name, content_type);
        Form {
            content_type: format!("multipart/form-data; boundary={boundary}"),
            head: head.into_bytes(),
            tail: format!("\r\n--{boundary}--\r\n").into_bytes(),
            boundary,
        }
    }

    /// What stands between the bytes of one file and those of the next.
    fn next_head(&self, part: &str, file_name: &str, content_type: &str) -> Vec<u8> {
        let head = file_head(&self.boundary, part, file_name, content_type);
        format!("\r\n{head}").into_bytes()
    }

    fn len(&self, file: u64) -> u64 {
        self.head.len() as u64 + file + self.tail.len() as u64
    }

    #[cfg(test)]
    fn reader<'a>(&'a self, file: &'a mut dyn Read, len: u64) -> impl Read + 'a {
        self.head
            .as_slice()
            .chain(Exactly { file, left: len })
            .chain(self.tail.as_slice())
    }
}

fn file_head(boundary: &str, part: &str, file_name: &str, content_type: &str) -> String {
    let file_name = safe_name(file_name);
    let content_type = if is_media_type(content_type) {
        content_type
    } else {
        "application/octet-stream"
    };
    format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{part}\"; filename=\"{file_name}\"\r\n\
         Content-Type: {content_type}\r\n\r\n"
    )
}

/// Gives `left` bytes or an error: a file that ends early must break the request off, not make
/// another one of it.
struct Exactly<'a> {
    file: &'a mut dyn Read,
    left: u64,
}

impl Read for Exactly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let got = self.file.read(&mut buffer[..most])?;
        if got == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file is shorter than it was",
            ));
        }
        self.left -= got as u64;
        Ok(got)
    }
}

/// `[A-Za-z0-9._-]{1,60}` (section 8), the extension kept.
pub(crate) fn safe_name(name: &str) -> String {
    let safe: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    let safe = safe.trim_matches(['.', '_']);
    match safe.len() {
        0 => "file".to_owned(),
        1..=60 => safe.to_owned(),
        _ => match safe
            .rsplit_once('.')
            .filter(|(_, extension)| extension.len() <= 10)
        {
            Some((stem, extension)) => format!(
                "{}.{extension}",
                &stem[..stem.len().min(59 - extension.len())]
            ),
            None => safe[..60].to_owned(),
        },
    }
}

fn is_media_type(text: &str) -> bool {
    let token = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b))
    };
    text.split_once('/')
        .is_some_and(|(main, sub)| token(main) && token(sub))
}

#[cfg(test)]
mod tests;
