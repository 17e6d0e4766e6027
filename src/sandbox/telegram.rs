//! Telegram's Bot API as the worker sees it.
//!
//! It exists to be strict: the order of checks, the limits and the error texts are those of the real
//! server (section 11 of the API notes), by-URL sends really fetch the file, and every message that a
//! user would see is kept, so that a test can say "exactly one picture, and nothing twice". It parses for
//! itself and knows no type of the worker. The token is compared and never stored in the journal.

mod body;
mod check;
mod fetch;
mod files;
mod limits;
mod markup;
mod serve;

pub use limits::{Limits, Rate};
pub use markup::{Entity, Formatted};

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::SandboxError;
use super::faults::{Barriers, Faults, Hold};
use super::http::{Server, Stop, lock};
use super::media::{self, Fingerprint};
use super::unix_ms;
use fetch::Fetcher;
use files::Sent;
use limits::Bucket;

/// Largest photo that can be uploaded.
const PHOTO_UPLOAD: u64 = 10 << 20;
/// Largest photo by URL.
const PHOTO_BY_URL: u64 = 5 << 20;
/// Largest other file by URL, and largest file of `getFile`.
const FILE_BY_URL: u64 = 20 << 20;
/// Largest request body: the gateway counts all of it.
const REQUEST_LIMIT: u64 = 50_000_000;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Words only.
    Text,
    /// Photo.
    Photo,
    /// Document.
    Document,
    /// Video.
    Video,
    /// Animation.
    Animation,
    /// Audio.
    Audio,
}

impl Kind {
    /// The parameter and the field of the Message.
    pub fn field(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Photo => "photo",
            Kind::Document => "document",
            Kind::Video => "video",
            Kind::Animation => "animation",
            Kind::Audio => "audio",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Kind::Text => "Text",
            Kind::Photo => "Photo",
            Kind::Document => "Document",
            Kind::Video => "Video",
            Kind::Animation => "Animation",
            Kind::Audio => "Audio",
        }
    }

    /// As in "not enough rights to send … to the chat".
    fn plural(self) -> &'static str {
        match self {
            Kind::Text => "text messages",
            Kind::Photo => "photos",
            Kind::Document => "documents",
            Kind::Video => "videos",
            Kind::Animation => "animations",
            Kind::Audio => "music",
        }
    }

    fn of(field: &str) -> Option<Kind> {
        [
            Kind::Photo,
            Kind::Document,
            Kind::Video,
            Kind::Animation,
            Kind::Audio,
        ]
        .into_iter()
        .find(|kind| kind.field() == field)
    }
}

/// A file as a message shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSeen {
    /// The id it was given; the same when it is sent again by id or from the URL cache.
    pub file_id: String,
    /// What its bytes are.
    pub fingerprint: Fingerprint,
    /// The URL it was fetched from.
    pub via_url: Option<String>,
    /// The file name of the upload.
    pub upload_name: Option<String>,
    /// Media type by content.
    pub media_type: &'static str,
    /// Width and height, of a picture.
    pub dimensions: Option<(u32, u32)>,
    kind: Kind,
}

/// A message as the user sees it now.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its chat.
    pub chat: i64,
    /// Its id, rising per chat.
    pub id: i64,
    /// What it is.
    pub kind: Kind,
    /// Text or caption after parsing.
    pub text: String,
    /// Entities of the text or caption.
    pub entities: Vec<Entity>,
    /// The file.
    pub file: Option<FileSeen>,
    /// The inline keyboard.
    pub keyboard: Option<Value>,
    /// Whether it has a reply keyboard, ForceReply or ReplyKeyboardRemove: such a message cannot be edited.
    pub reply_keyboard: bool,
    /// The message it replies to.
    pub reply_to: Option<i64>,
    /// Forum topic.
    pub thread: Option<i64>,
    /// Album.
    pub media_group: Option<String>,
    /// Hidden behind a spoiler.
    pub spoiler: bool,
    /// Cannot be forwarded.
    pub protected: bool,
    /// Sent without a sound.
    pub silent: bool,
    /// When it was sent, seconds since 1970.
    pub date: u64,
    /// When it was edited last.
    pub edit_date: Option<u64>,
    /// How often it was edited.
    pub edits: u32,
}

impl Message {
    /// The URL its file was fetched from: for files of the fal stand-in it contains the request id.
    pub fn via_url(&self) -> Option<&str> {
        self.file.as_ref()?.via_url.as_deref()
    }

    /// The file name under which its file was uploaded.
    pub fn upload_name(&self) -> Option<&str> {
        self.file.as_ref()?.upload_name.as_deref()
    }
}

/// One file part of a request.
#[derive(Clone, Debug)]
pub struct Part {
    /// Name of the part.
    pub name: String,
    /// Its file name.
    pub file_name: String,
    /// What its bytes are.
    pub fingerprint: Fingerprint,
}

/// One request that reached the methods.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it was answered.
    pub at: Instant,
    /// The same in milliseconds since 1970.
    pub unix_ms: u64,
    /// How long the answer took, fetches and held waits included.
    pub took: Duration,
    /// The method in lower case.
    pub method: String,
    /// `chat_id`, if it is a number.
    pub chat: Option<i64>,
    /// The arguments; the token is not among them.
    pub args: Value,
    /// The file parts.
    pub parts: Vec<Part>,
    /// Status of the answer.
    pub status: u16,
    /// `description` of a refusal, empty for a success.
    pub description: String,
    /// Ids of the messages that were sent or edited.
    pub message_ids: Vec<i64>,
}

/// What kind of chat it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatKind {
    /// A user.
    Private,
    /// A basic group.
    Group,
    /// A supergroup (`-100…`).
    Supergroup,
    /// A channel.
    Channel,
}

impl ChatKind {
    fn word(self) -> &'static str {
        match self {
            ChatKind::Private => "private",
            ChatKind::Group => "group",
            ChatKind::Supergroup => "supergroup",
            ChatKind::Channel => "channel",
        }
    }
}

/// The running stand-in.
#[derive(Debug)]
pub struct TelegramStandIn {
    shared: Arc<Shared>,
    server: Server,
}

#[derive(Debug)]
struct Shared {
    /// The last one is accepted.
    tokens: Mutex<Vec<String>>,
    faults: Faults,
    barriers: Barriers,
    stop: Stop,
    fetcher: Fetcher,
    keep_journal: AtomicBool,
    body_limit: AtomicU64,
    secrets: Mutex<Vec<String>>,
    violations: Mutex<Vec<String>>,
    journal: Mutex<Vec<Entry>>,
    /// By URL: what was fetched as which kind; an empty list is a failure, remembered as well.
    by_url: Mutex<HashMap<String, Vec<FileSeen>>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    chats: HashMap<i64, Chat>,
    /// Of public chats, without the `@`.
    names: HashMap<String, i64>,
    files: HashMap<String, FileSeen>,
    sent: Sent,
    next_file: u64,
    next_group: u64,
    sends: u64,
    edits: u64,
    held: u64,
    limits: Limits,
    bot_bucket: Bucket,
    bot_parked: Parked,
    older_than_7_11: bool,
    edits_fail_when_blocked: bool,
    /// The next album keeps so many items and fails at the one after them.
    album_cut: Option<usize>,
    /// The next send is answered with `message_id` 0.
    hide_next_id: bool,
}

#[derive(Debug)]
struct Chat {
    kind: ChatKind,
    messages: BTreeMap<i64, Message>,
    next_id: i64,
    dead: Option<Dead>,
    told_dead: bool,
    forbidden: HashSet<Kind>,
    topics: HashSet<i64>,
    migrated_to: Option<i64>,
    bucket: Bucket,
    parked: Parked,
    /// The newest edit under way, by message.
    edits: HashMap<i64, u64>,
}

#[derive(Clone, Debug)]
struct Dead {
    code: u16,
    text: String,
    /// What an album says instead.
    raw: Option<&'static str>,
    /// Noticed at the chat check (not a member) or upstream (blocked)?
    upstream: bool,
}

/// After a 429: nothing passes before `until`, and asking before pushes it further away.
#[derive(Clone, Copy, Debug, Default)]
struct Parked {
    until: Option<Instant>,
    ignored: u32,
}

impl Chat {
    fn new(kind: ChatKind) -> Chat {
        Chat {
            kind,
            messages: BTreeMap::new(),
            next_id: 1,
            dead: None,
            told_dead: false,
            forbidden: HashSet::new(),
            topics: HashSet::new(),
            migrated_to: None,
            bucket: Bucket::default(),
            parked: Parked::default(),
            edits: HashMap::new(),
        }
    }
}

impl TelegramStandIn {
    /// Starts it with one bot, no limits, and every chat from 1 to 9 999 999.
    pub fn start(faults: Faults) -> Result<TelegramStandIn, SandboxError> {
        let stop = Stop::default();
        let shared = Arc::new(Shared {
            tokens: Mutex::new(vec![
                "7000000001:AAsandboxSandboxSandboxSandbox_12345".into(),
            ]),
            faults,
            barriers: Barriers::default(),
            stop: stop.clone(),
            fetcher: Fetcher::default(),
            keep_journal: AtomicBool::new(true),
            body_limit: AtomicU64::new(REQUEST_LIMIT),
            secrets: Mutex::default(),
            violations: Mutex::default(),
            journal: Mutex::default(),
            by_url: Mutex::default(),
            state: Mutex::new(State {
                chats: HashMap::new(),
                names: HashMap::new(),
                files: HashMap::new(),
                sent: Sent::default(),
                next_file: 0,
                next_group: 0,
                sends: 0,
                edits: 0,
                held: 0,
                limits: Limits::off(),
                bot_bucket: Bucket::default(),
                bot_parked: Parked::default(),
                older_than_7_11: false,
                edits_fail_when_blocked: false,
                album_cut: None,
                hide_next_id: false,
            }),
        });
        let server =
            Server::start("telegram", stop, shared.clone()).map_err(SandboxError::Listen)?;
        Ok(TelegramStandIn { shared, server })
    }

    /// The base URL: methods are at `{url}/bot{token}/{method}`.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The one token that is accepted.
    pub fn token(&self) -> String {
        self.shared.token()
    }

    /// Another token is accepted from now on, and that one alone.
    pub fn set_token(&self, token: &str) {
        lock(&self.shared.tokens).push(token.to_owned());
    }

    /// Makes a chat known: negative ids are supergroups (`-100…`) or groups.
    pub fn add_chat(&self, chat: i64) {
        let kind = match chat {
            1.. => ChatKind::Private,
            ..=-1_000_000_000_000 => ChatKind::Supergroup,
            _ => ChatKind::Group,
        };
        self.add_chat_of_kind(chat, kind);
    }

    /// Makes a chat of this kind known.
    pub fn add_chat_of_kind(&self, chat: i64, kind: ChatKind) {
        lock(&self.shared.state)
            .chats
            .entry(chat)
            .or_insert_with(|| Chat::new(kind));
    }

    /// Makes a public supergroup known, also by this name (without the `@`).
    pub fn add_public_chat(&self, chat: i64, name: &str) {
        self.add_chat_of_kind(chat, ChatKind::Supergroup);
        lock(&self.shared.state).names.insert(name.to_owned(), chat);
    }

    fn with_chat<R>(&self, id: i64, change: impl FnOnce(&mut Chat) -> R) -> R {
        self.add_chat(id);
        let mut state = lock(&self.shared.state);
        change(
            state
                .chats
                .entry(id)
                .or_insert_with(|| Chat::new(ChatKind::Private)),
        )
    }

    fn set_dead(&self, chat: i64, text: String, raw: Option<&'static str>, upstream: bool) {
        self.with_chat(chat, |chat| {
            chat.dead = Some(Dead {
                code: 403,
                text,
                raw,
                upstream,
            });
            chat.told_dead = false;
        });
    }

    /// The user blocked the bot.
    pub fn block(&self, chat: i64) {
        let text = "Forbidden: bot was blocked by the user".to_owned();
        self.set_dead(chat, text, Some("USER_IS_BLOCKED"), true);
    }

    /// The bot was removed from a group, supergroup or channel.
    pub fn kick(&self, chat: i64) {
        let word = self.with_chat(chat, |chat| chat.kind.word());
        self.set_dead(
            chat,
            format!("Forbidden: bot was kicked from the {word} chat"),
            None,
            false,
        );
    }

    /// The chat is well again after [`TelegramStandIn::block`] or `kick`.
    pub fn unblock(&self, chat: i64) {
        self.with_chat(chat, |chat| {
            chat.dead = None;
            chat.told_dead = false;
        });
    }

    /// The group does not allow this kind (`Kind::Text` too).
    pub fn forbid(&self, chat: i64, kind: Kind) {
        self.with_chat(chat, |chat| chat.forbidden.insert(kind));
    }

    /// Opens a forum topic.
    pub fn add_topic(&self, chat: i64, thread: i64) {
        self.with_chat(chat, |chat| chat.topics.insert(thread));
    }

    /// The group became a supergroup with another id.
    pub fn migrate(&self, from: i64, to: i64) {
        self.add_chat_of_kind(to, ChatKind::Supergroup);
        self.with_chat(from, |chat| chat.migrated_to = Some(to));
    }

    /// Puts a message of the bot into a chat, as a bot does with "generating…": returns its id. It counts as no send.
    pub fn plant_message(&self, chat: i64, kind: Kind, with_reply_keyboard: bool) -> i64 {
        let file = (kind != Kind::Text).then(|| {
            let bytes = media::png(8, 8, Some(1));
            self.shared.register(FileSeen {
                file_id: String::new(),
                fingerprint: media::fingerprint(&bytes),
                via_url: None,
                upload_name: Some("planted.png".into()),
                media_type: "image/png",
                dimensions: Some((8, 8)),
                kind,
            })
        });
        self.with_chat(chat, |room| {
            let id = room.next_id;
            room.next_id += 1;
            let message = Message {
                chat,
                id,
                kind,
                text: if kind == Kind::Text {
                    "generating…".into()
                } else {
                    String::new()
                },
                entities: Vec::new(),
                file,
                keyboard: None,
                reply_keyboard: with_reply_keyboard,
                reply_to: None,
                thread: None,
                media_group: None,
                spoiler: false,
                protected: false,
                silent: false,
                date: unix_ms() / 1000,
                edit_date: None,
                edits: 0,
            };
            room.messages.insert(id, message);
            id
        })
    }

    /// A user or an administrator deletes a message.
    pub fn remove_message(&self, chat: i64, id: i64) {
        self.with_chat(chat, |chat| chat.messages.remove(&id));
    }

    /// Allows fetching by URL from `127.0.0.1:PORT`; all other hosts fail (and are a violation).
    pub fn allow_fetch_host(&self, host: &str) {
        self.shared.fetcher.allow(host);
    }

    /// Forgets what is known of URLs.
    pub fn forget_urls(&self) {
        lock(&self.shared.by_url).clear();
    }

    /// Refuses to turn text into media, as servers before Bot API 7.11.
    pub fn older_than_7_11(&self, older: bool) {
        lock(&self.shared.state).older_than_7_11 = older;
    }

    /// Whether edits in a chat that blocked the bot fail (unconfirmed at Telegram). Default: they pass.
    pub fn edits_fail_when_blocked(&self, fail: bool) {
        lock(&self.shared.state).edits_fail_when_blocked = fail;
    }

    /// The next album stores only its first `kept` items and is answered with a 429 of the item after them.
    pub fn cut_next_album(&self, kept: usize) {
        lock(&self.shared.state).album_cut = Some(kept);
    }

    /// The next send is answered with `message_id` 0, as for a video that is scheduled while it is re-encoded.
    pub fn hide_next_id(&self) {
        lock(&self.shared.state).hide_next_id = true;
    }

    /// Answers held back for a limit, a tenth of a second or longer: without that they were 429s.
    pub fn held_count(&self) -> u64 {
        lock(&self.shared.state).held
    }

    /// Rate limits; default [`Limits::off`].
    pub fn set_limits(&self, limits: Limits) {
        lock(&self.shared.state).limits = limits;
    }

    /// Largest request body; default 50 000 000.
    pub fn set_body_limit(&self, bytes: u64) {
        self.shared.body_limit.store(bytes, Ordering::Relaxed);
    }

    /// Whether requests are written down; a load test of hours switches it off.
    pub fn keep_journal(&self, keep: bool) {
        self.shared.keep_journal.store(keep, Ordering::Relaxed);
    }

    /// A text that must never arrive here (a violation if it does), e.g. fal's key.
    pub fn watch_for_secret(&self, secret: &str) {
        lock(&self.shared.secrets).push(secret.to_owned());
    }

    /// Holds the answers of a method back until released, e.g. `tg.sendphoto`, `tg.file` (downloads), `tg.*`.
    pub fn hold(&self, endpoint: &str) -> Hold {
        self.shared.barriers.hold(endpoint, None)
    }

    /// Holds only requests whose path, query or body contain `text`.
    pub fn hold_matching(&self, endpoint: &str, text: &str) -> Hold {
        self.shared.barriers.hold(endpoint, Some(text))
    }

    /// What is visible in a chat now, in order.
    pub fn messages(&self, chat: i64) -> Vec<Message> {
        let state = lock(&self.shared.state);
        state
            .chats
            .get(&chat)
            .map(|chat| chat.messages.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Every visible message that shows a file, by chat and id.
    pub fn visible_files(&self) -> Vec<Message> {
        let state = lock(&self.shared.state);
        let all = state.chats.values().flat_map(|chat| chat.messages.values());
        let mut files: Vec<Message> = all
            .filter(|message| message.file.is_some())
            .cloned()
            .collect();
        files.sort_by_key(|message| (message.chat, message.id));
        files
    }

    /// Visible files whose bytes are visible more than once in the same chat: what a user would call a duplicate.
    pub fn duplicates(&self) -> Vec<Message> {
        let mut seen = HashSet::new();
        let mut again = self.visible_files();
        again.retain(|message| {
            let print = message.file.as_ref().map(|file| file.fingerprint);
            !seen.insert((message.chat, print))
        });
        again
    }

    /// Every request that reached the methods, in the order of answers.
    pub fn journal(&self) -> Vec<Entry> {
        lock(&self.shared.journal).clone()
    }

    /// The same without the first of them.
    pub fn journal_from(&self, first: usize) -> Vec<Entry> {
        let journal = lock(&self.shared.journal);
        journal.get(first..).unwrap_or_default().to_vec()
    }

    /// How many messages were sent (album items count one each).
    pub fn sends_count(&self) -> u64 {
        lock(&self.shared.state).sends
    }

    /// How many edits changed a message.
    pub fn edits_count(&self) -> u64 {
        lock(&self.shared.state).edits
    }

    /// Connections accepted.
    pub fn connections(&self) -> u64 {
        self.server.connections()
    }

    /// Requests read.
    pub fn requests(&self) -> u64 {
        self.server.requests()
    }

    /// Closes all open connections.
    pub fn close_connections(&self) {
        self.server.close_connections();
    }

    /// What a correct client never does, each with its kind before the colon: `bad-request`, `dead-chat`, `too-early`,
    /// `fetch-host`, `foreign-secret`, `ignored`, `content-type`, `broken-json`, `part-name`, `file-name`, `expect`, or
    /// a status.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.shared.violations).clone()
    }
}

impl Drop for TelegramStandIn {
    fn drop(&mut self) {
        self.shared.stop.raise();
        self.shared.barriers.release_all();
    }
}

#[cfg(test)]
mod tests;
