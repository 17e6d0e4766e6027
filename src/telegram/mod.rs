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

use crate::http::{Answer, Body, Bounds, Broken, Http, Request, Service, Torn};
use refusal::{Refusal, classify, tidy};
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Time limits (telegram-api section 10). The server itself holds a request up to 8 s instead of
/// answering 429, so nothing under 15 s is right.
const CONNECT: Duration = Duration::from_secs(10);
const JSON_CALL: Duration = Duration::from_secs(30);
const BY_URL: Duration = Duration::from_secs(90);
const UPLOAD_BASE: Duration = Duration::from_secs(60);
/// Slowest pace that a download and an upload of a file are given.
pub(crate) const SLOWEST_BYTES_PER_S: u64 = 128 * 1024;
/// Largest answer read: each message of an album holds the one it replies to, six bytes a letter.
const ANSWER_BYTES: u64 = 2 << 20;
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
    /// How many messages the answer tells of; 0: it tells of none.
    pub messages: usize,
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
        let base = self.base_url.trim_end_matches('/');
        let url = [base, "/bot", &token, "/", method.as_str()].concat();
        let answer = match (call.file_part, uploads.as_mut_slice()) {
            (None, []) => {
                let bytes = serde_json::to_vec(&call.args)
                    .map_err(|error| Refusal::Bug(error.to_string()))?;
                let body = Body::Bytes {
                    content_type: "application/json",
                    bytes: &bytes,
                };
                self.exchange_or_head(&url, body, limit)
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
                let seconds = bytes.div_ceil(SLOWEST_BYTES_PER_S);
                self.exchange_or_head(&url, body, UPLOAD_BASE + Duration::from_secs(seconds))
            }
            (Some(_), []) => {
                return Err(Refusal::Bug("a call with a file part and no file".into()));
            }
            (Some(_), _) => return Err(Refusal::Bug("too many files for one call".into())),
            (None, _) => {
                return Err(Refusal::Bug("a file for a call without a file part".into()));
            }
        };
        let Torn { broken, head } = match answer {
            Ok(answer) => {
                self.note(answer.status, &token);
                return read(&answer, method, &token);
            }
            Err(torn) => torn,
        };
        if head.is_some_and(|head| says_sent(&head, method)) {
            return Err(unreadable());
        }
        Err(no_answer(broken, &token, method.is_edit()))
    }

    fn exchange<'a>(
        &self,
        url: &'a str,
        body: Body<'a>,
        total: Duration,
    ) -> Result<Answer, Broken> {
        let answer = self.exchange_or_head(url, body, total);
        answer.map_err(|torn| torn.broken)
    }

    fn exchange_or_head<'a>(
        &self,
        url: &'a str,
        body: Body<'a>,
        total: Duration,
    ) -> Result<Answer, Torn> {
        let bounds = Bounds {
            connect: CONNECT.min(total),
            total,
            max_bytes: ANSWER_BYTES,
        };
        self.http.exchange_or_head(Request {
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

/// What a call comes to that brought no whole answer.
fn no_answer(broken: Broken, token: &str, is_edit: bool) -> Refusal {
    match broken {
        Broken::NotSent(text) => Refusal::NotSent(quote(&text, token)),
        Broken::Unknown(text) | Broken::TimedOut(text) => Refusal::Unknown(quote(&text, token)),
        Broken::Unfinished { .. } => Refusal::Unknown(broken.to_string()),
        Broken::TooBig { status } => classify(status, None, b"", is_edit),
    }
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

/// Letters and the like of a JSON text that are written as `\u00XX`, as themselves: a token may stand so, too.
fn without_escapes(text: &str) -> Cow<'_, str> {
    if !text.contains("\\u00") {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let code = escape.get(2..6).filter(|_| escape.starts_with("\\u00"));
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        match code.map(char::from) {
            Some(c @ (' '..='!' | '#'..='[' | ']'..='~')) => {
                out.push(c);
                rest = &escape[6..];
            }
            // It and what it escapes, which may be a backslash.
            Some(_) | None => {
                let len = 1 + escape[1..].chars().next().map_or(0, char::len_utf8);
                out.push_str(&escape[..len]);
                rest = &escape[len..];
            }
        }
    }
    (out + rest).into()
}

/// JSON first, whatever the status; then the status.
fn read(answer: &Answer, method: Method, token: &str) -> Result<Sent, Refusal> {
    // A byte that is no text, in a member that nobody reads, does not make a success less of one.
    let body = String::from_utf8_lossy(&answer.body);
    let text = json_in(&body);
    if text.starts_with('{')
        && let Some(sent) = usual(text).or_else(|| any(text))
    {
        return Ok(sent);
    }
    if is_torn(text) && says_sent(answer, method) {
        return Err(unreadable());
    }
    // Struck out before a description is shortened, or half a token might be left at the end.
    let body = without_token(&without_escapes(&body), token);
    Err(classify(
        answer.status,
        answer.header("retry-after"),
        body.as_bytes(),
        method.is_edit(),
    ))
}

// Of an answer only the members that are used are read: what else is in it, and what one of them turns out
// to be, must not spoil a success. So each is taken as it stands and read on its own (`Raw`), which goes over
// a photo's sizes four times; what is as the documentation says, nearly always, is read in one go before that.

type Raw<'a> = &'a RawValue;

/// Where the JSON of a body begins: behind the mark that some gateways put in front of it.
fn json_in(body: &str) -> &str {
    let text = body.trim_ascii_start();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.trim_ascii_start()
}

/// The JSON value that a text begins with: what a gateway adds behind it does not make it untrue.
fn first<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    T::deserialize(&mut serde_json::Deserializer::from_str(text)).ok()
}

/// Whether a text can only be an answer that broke off, or was spoilt on its way. Of one that says that nothing
/// was done the status is no Telegram's.
fn is_torn(text: &str) -> bool {
    let refused = text.starts_with(r#"{"ok":f"#);
    text.starts_with('{') && !refused && first::<IgnoredAny>(text).is_none()
}

/// Whether the head of an answer alone says that a fresh send is out: its status is Telegram's `error_code`, while
/// a page is of something in front of it. What may be repeated is, and more is known then.
fn says_sent(head: &Answer, method: Method) -> bool {
    let kind = head.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let is_json = kind.eq_ignore_ascii_case("application/json");
    head.status == 200 && is_json && !method.is_repeatable()
}

fn unreadable() -> Refusal {
    Refusal::AlreadySent("HTTP 200 with an answer that cannot be read".to_owned())
}

#[derive(Deserialize)]
struct Wire<R> {
    ok: bool,
    result: Option<R>,
}

#[derive(Deserialize)]
struct Message<Id, Photo, File> {
    message_id: Option<Id>,
    photo: Option<Photo>,
    animation: Option<File>,
    video: Option<File>,
    audio: Option<File>,
    document: Option<File>,
    voice: Option<File>,
    video_note: Option<File>,
    sticker: Option<File>,
}

/// A file of a message, or one size of a photo.
#[derive(Deserialize)]
struct Kept<Text, Number> {
    file_id: Option<Text>,
    width: Option<Number>,
    height: Option<Number>,
}

/// A message that has been read.
type Said<Text> = Message<i64, Vec<Object<Kept<Text, u64>>>, Object<Kept<Text, u64>>>;

/// An object. serde alone would take a list for one whose members stand in order.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        from.deserialize_map(Members(PhantomData))
    }
}

fn part<'a, T: Deserialize<'a>>(raw: Raw<'a>) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// What one message says, where all that is used of it is as documented.
fn usual(text: &str) -> Option<Sent> {
    let wire: Wire<Object<Said<&str>>> = first(text)?;
    let mut sent = Sent::default();
    sent.add(wire.result.filter(|_| wire.ok)?.0);
    Some(sent)
}

/// What any success says: a Message, an array of them, or `true`.
fn any(text: &str) -> Option<Sent> {
    let wire: Wire<Raw<'_>> = first(text)?;
    if !wire.ok {
        return None;
    }
    let mut sent = Sent::default();
    let messages: Vec<Raw<'_>> = match wire.result {
        Some(list) if list.get().starts_with('[') => part(list).unwrap_or_default(),
        one => one.into_iter().collect(),
    };
    let is_list = wire.result.is_some_and(|it| it.get().starts_with('['));
    for message in messages {
        match part::<Object<Message<Raw<'_>, Raw<'_>, Raw<'_>>>>(message) {
            Some(Object(message)) => sent.add(message.read()),
            // Whatever it is, it stands for a message.
            None => sent.messages += usize::from(is_list),
        }
    }
    Some(sent)
}

impl Message<Raw<'_>, Raw<'_>, Raw<'_>> {
    /// Without what is not as it should be.
    fn read(self) -> Said<String> {
        let kept = |raw| {
            let Object(kept) = part::<Object<Kept<Raw<'_>, Raw<'_>>>>(raw)?;
            Some(Object(Kept {
                file_id: kept.file_id.and_then(part),
                width: kept.width.and_then(part),
                height: kept.height.and_then(part),
            }))
        };
        let sizes = self.photo.and_then(part::<Vec<Raw<'_>>>);
        Message {
            message_id: self.message_id.and_then(part),
            photo: sizes.map(|sizes| sizes.into_iter().filter_map(kept).collect()),
            animation: self.animation.and_then(kept),
            video: self.video.and_then(kept),
            audio: self.audio.and_then(kept),
            document: self.document.and_then(kept),
            voice: self.voice.and_then(kept),
            video_note: self.video_note.and_then(kept),
            sticker: self.sticker.and_then(kept),
        }
    }
}

impl<Text: Into<String>> Said<Text> {
    /// An animation also comes as `document`, a silent video as `animation`: the first that is there.
    fn file_id(self) -> Option<(&'static str, String)> {
        let kinds = [
            ("animation", self.animation),
            ("video", self.video),
            ("audio", self.audio),
            ("document", self.document),
            ("voice", self.voice),
            ("video_note", self.video_note),
            ("sticker", self.sticker),
        ];
        let (kind, Object(file)) = match self.photo {
            Some(sizes) => {
                let side = |side: Option<u64>| side.unwrap_or(0);
                let largest = (sizes.into_iter())
                    .max_by_key(|Object(size)| side(size.width).saturating_mul(side(size.height)));
                ("photo", largest?)
            }
            None => (kinds.into_iter()).find_map(|(kind, file)| Some((kind, file?)))?,
        };
        Some((kind, file.file_id?.into()))
    }
}

impl Sent {
    fn add(&mut self, message: Said<impl Into<String>>) {
        self.messages += 1;
        let id = message.message_id.filter(|id| *id != 0);
        self.message_ids.extend(id);
        if let Some((kind, id)) = message.file_id() {
            self.file_ids.push(id);
            self.file_kinds.push(kind);
        }
    }
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
