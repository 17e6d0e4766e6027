//! What an answer of Telegram that is no success means. Pure: status and body in, one [`Refusal`]
//! out; what is done about it is `plan`'s business. The table is telegram-api section 4; a new text
//! is one row here and one in `tests/fixtures/telegram/errors.tsv`.
//!
//! The server spells one error in up to three ways (raw, translated once, translated twice), so all
//! spellings of a class stand together. Texts of users are echoed inside some descriptions: patterns
//! match a whole description or its beginning, never a word somewhere in it, but for the three waits
//! that the API page says hide inside others (looked for last).

use super::{first, json_in};
use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// Why a call did not do what it should.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// Nothing can be sent to this chat (class A).
    Unreachable(String),
    /// 429, in any of its forms: nothing was sent, not before this time.
    RetryAfter {
        /// How long Telegram wants silence.
        wait: Duration,
    },
    /// A 429 of one item of an album: the others may be there.
    AlbumHeld {
        /// How long Telegram wants silence.
        wait: Duration,
    },
    /// 5xx, no JSON, time-out, reset after sending: it may have been carried out.
    Unknown(String),
    /// A 500 in Telegram's own words: it may have been carried out, and Telegram is there all the same.
    Broke(String),
    /// No byte left this host.
    NotSent(String),
    /// An edit that was already done: success.
    NotModified,
    /// A deletion of what is gone, or may not be deleted: as good as success.
    Gone,
    /// It was sent, and removed at once by somebody else or answered with what cannot be read: not to be sent
    /// again.
    AlreadySent(String),
    /// A newer edit of the same message won.
    EditSuperseded,
    /// This way is closed, another may be open (class C).
    FallBack(Cause),
    /// The same call with one thing changed will do (class E).
    Repair(Repair),
    /// No job's fault: token, server or our HTTP (class F).
    Operator(String),
    /// A request we should not have made; a repeat will not help.
    Bug(String),
    /// A 400 that the table does not know.
    Other400(String),
}

/// What closed a way of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Telegram could not or would not take the URL.
    UrlRefused,
    /// Not acceptable as a photo.
    PhotoRefused,
    /// Not acceptable as a video.
    MediaRefused,
    /// Over the limit for files.
    TooBig,
    /// The file arrived empty.
    FileEmpty,
    /// The chat forbids this kind of message.
    KindForbidden,
    /// These files cannot be one album.
    AlbumRefused,
    /// An album failed for a passing reason: once more, then singly.
    AlbumAgain,
    /// The message cannot be turned into this.
    EditRefused,
    /// The message to edit does not exist any more.
    EditGone,
    /// The message to edit is media: its caption can be edited.
    NoTextInMessage,
    /// The message to edit is text.
    NoCaptionInMessage,
}

/// What to change before the same call goes out once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The group lives on under this id.
    Migrated(i64),
    /// The markup is broken: send plain text.
    ParseError,
    /// Entities are broken: send plain text.
    Entities,
    /// Cut the caption.
    CaptionTooLong,
    /// Split the text.
    TextTooLong,
    /// Nothing to show is left of the text.
    TextEmpty,
    /// Without `reply_parameters`.
    ReplyGone,
    /// Without `message_thread_id`.
    ThreadGone,
    /// Without `reply_markup`.
    MarkupRefused,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unreachable(text) => write!(f, "chat unreachable: {text}"),
            Refusal::RetryAfter { wait } | Refusal::AlbumHeld { wait } => {
                write!(f, "too many requests: retry after {} s", wait.as_secs())
            }
            Refusal::Unknown(text) | Refusal::Broke(text) => {
                write!(f, "outcome unknown: {text}")
            }
            Refusal::NotSent(text) => write!(f, "not sent: {text}"),
            Refusal::NotModified => f.write_str("message is not modified"),
            Refusal::Gone => f.write_str("message is gone"),
            Refusal::AlreadySent(text) => write!(f, "already sent: {text}"),
            Refusal::EditSuperseded => f.write_str("a newer edit won"),
            Refusal::FallBack(cause) => write!(f, "refused: {cause:?}"),
            Refusal::Repair(repair) => write!(f, "refused: {repair}"),
            Refusal::Operator(text) => write!(f, "Telegram refuses the bot: {text}"),
            Refusal::Bug(text) => write!(f, "our request is wrong: {text}"),
            Refusal::Other400(text) => write!(f, "refused: {text}"),
        }
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Repair::Migrated(id) => return write!(f, "the group lives on as {id}"),
            Repair::ParseError => "its markup cannot be read, it goes as plain text",
            Repair::Entities => "its entities are wrong, it goes as plain text",
            Repair::CaptionTooLong => "its caption is too long, it goes in parts",
            Repair::TextTooLong => "its text is too long, it goes as plain text",
            Repair::TextEmpty => "its text shows nothing",
            Repair::ReplyGone => "what it replies to is gone, it goes without",
            Repair::ThreadGone => "its topic is gone or closed, it goes without",
            Repair::MarkupRefused => "its keyboard is wrong, it goes without",
        })
    }
}

impl Refusal {
    /// How long Telegram wants silence, in whatever disguise it said so.
    pub fn silence(&self) -> Option<Duration> {
        match self {
            Refusal::RetryAfter { wait } | Refusal::AlbumHeld { wait } => Some(*wait),
            _ => None,
        }
    }
}

/// Reads a refusal. `retry_after_header`: the header of that name. `editing`: the call was an edit.
pub fn classify(
    status: u16,
    retry_after_header: Option<&str>,
    body: &[u8],
    editing: bool,
) -> Refusal {
    let Some(answer) = Answer::read(body) else {
        return by_status(status, retry_after_header);
    };
    let status = answer.code.unwrap_or(status);
    let shown = if answer.description.is_empty() {
        format!("HTTP {status}")
    } else {
        tidy(&answer.description)
    };
    let (text, wrapped) = bare(&answer.description.to_lowercase());
    match status {
        501 | 505 => return Refusal::Operator(shown),
        500.. if fits("sent message was immediately deleted*", &text) => {
            return Refusal::AlreadySent(shown);
        }
        // The server goes down: that is no word about this chat.
        500 if text != "restart" => return Refusal::Broke(shown),
        500.. | 408 => return Refusal::Unknown(shown),
        429 => {
            let named = answer
                .retry_after
                .or_else(|| header_seconds(retry_after_header));
            return wait(named.or_else(|| last_number(&text)));
        }
        413 => return Refusal::FallBack(Cause::TooBig),
        400 | 403 => {}
        _ => return Refusal::Operator(shown),
    }
    match verdict(&text, editing) {
        Some(Verdict::Chat) => Refusal::Unreachable(shown),
        Some(Verdict::Wait) => match wait(answer.retry_after.or_else(|| last_number(&text))) {
            Refusal::RetryAfter { wait } if wrapped => Refusal::AlbumHeld { wait },
            plain => plain,
        },
        Some(Verdict::Fall(cause)) => Refusal::FallBack(cause),
        Some(Verdict::Mend(repair)) => Refusal::Repair(repair),
        Some(Verdict::Migrated) => match answer.migrate_to {
            Some(id) => Refusal::Repair(Repair::Migrated(id)),
            None => Refusal::Unreachable(shown),
        },
        Some(Verdict::NotModified) => Refusal::NotModified,
        Some(Verdict::Gone) => Refusal::Gone,
        Some(Verdict::Superseded) => Refusal::EditSuperseded,
        Some(Verdict::Operator) => Refusal::Operator(shown),
        Some(Verdict::Bug) => Refusal::Bug(shown),
        None if status == 403 => Refusal::Unreachable(shown),
        None => Refusal::Other400(shown),
    }
}

/// An answer without Telegram's JSON: an empty body of the server itself (section 8) or a page of
/// something in front of it. Only the status speaks, and a 403 of a gateway says nothing about a chat.
fn by_status(status: u16, retry_after_header: Option<&str>) -> Refusal {
    let text = format!("HTTP {status} without an answer of Telegram");
    match status {
        // 2xx: the answer was cut short or is not Telegram's.
        200..=299 | 408 | 500 | 502..=504 | 506.. => Refusal::Unknown(text),
        // A request cut short on its way, or wrong: nothing was sent, one more try cannot hurt.
        400 => Refusal::Other400(text),
        413 => Refusal::FallBack(Cause::TooBig),
        429 => wait(header_seconds(retry_after_header)),
        _ => Refusal::Operator(text),
    }
}

/// The members of a refusal that matter, read leniently.
struct Answer {
    code: Option<u16>,
    description: String,
    retry_after: Option<u64>,
    migrate_to: Option<i64>,
}

impl Answer {
    fn read(body: &[u8]) -> Option<Answer> {
        let json: Value = first(json_in(std::str::from_utf8(body).ok()?))?;
        let json = json.as_object()?;
        // Any gateway can speak JSON; Telegram's has at least one of these.
        if !json.get("description").is_some_and(Value::is_string) && !json.contains_key("ok") {
            return None;
        }
        let parameters = json.get("parameters");
        let seconds = parameters.and_then(|p| p.get("retry_after"));
        let chat = parameters.and_then(|p| p.get("migrate_to_chat_id"));
        Some(Answer {
            code: json
                .get("error_code")
                .and_then(Value::as_u64)
                .and_then(|code| u16::try_from(code).ok())
                .filter(|code| (400..600).contains(code)),
            description: json
                .get("description")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            retry_after: seconds.and_then(|v| v.as_u64().or_else(|| v.as_str()?.parse().ok())),
            migrate_to: chat.and_then(|v| v.as_i64().or_else(|| v.as_str()?.parse().ok())),
        })
    }
}

/// The lower-cased description without the name of its status, and out of what is wrapped around it: by an
/// album, whether it was, and by a medium, whose caption is read with it.
fn bare(text: &str) -> (String, bool) {
    const NAMES: [&str; 8] = [
        "bad request: ",
        "forbidden: ",
        "unauthorized: ",
        "not found: ",
        "conflict: ",
        "internal server error: ",
        "misdirected request: ",
        "bad gateway: ",
    ];
    let unnamed = |text: &str| {
        let text = text.trim();
        NAMES
            .iter()
            .find_map(|name| text.strip_prefix(name))
            .unwrap_or(text)
            .to_owned()
    };
    let text = unnamed(text);
    let inner = text
        .strip_prefix("failed to send message #")
        .and_then(|rest| rest.split_once(" with the error message \""))
        .and_then(|(_, inner)| inner.strip_suffix('"'));
    let (text, wrapped) = match inner {
        Some(inner) => (unnamed(inner), true),
        None => (text, false),
    };
    let inside = text.strip_prefix("can't parse inputmedia: ");
    (inside.map(str::to_owned).unwrap_or(text), wrapped)
}

fn header_seconds(header: Option<&str>) -> Option<u64> {
    header?.trim().parse().ok()
}

/// The number a text ends with (`retry after 8`, `flood_wait_8`).
fn last_number(text: &str) -> Option<u64> {
    let from = text.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| {
        at + text[at..].chars().next().map_or(1, char::len_utf8)
    });
    text[from..].parse().ok()
}

/// Section 4: 30 s when no number can be read. A day bounds what a broken gateway may say.
fn wait(seconds: Option<u64>) -> Refusal {
    Refusal::RetryAfter {
        wait: Duration::from_secs(seconds.unwrap_or(30).min(86_400)),
    }
}

/// One line of at most 300 characters, no control characters: it goes into logs and records.
pub fn tidy(text: &str) -> String {
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    text.take(300).collect::<String>().trim().to_owned()
}

#[derive(Clone, Copy)]
enum Verdict {
    Chat,
    Wait,
    Fall(Cause),
    Mend(Repair),
    Migrated,
    NotModified,
    Gone,
    Superseded,
    Operator,
    Bug,
}

fn verdict(text: &str, editing: bool) -> Option<Verdict> {
    if text == "message_id_invalid" {
        // A send names no message but the one it replies to.
        return Some(if editing {
            Verdict::Fall(Cause::EditGone)
        } else {
            Verdict::Mend(Repair::ReplyGone)
        });
    }
    let known = TABLE
        .iter()
        .find(|(_, patterns)| patterns.iter().any(|pattern| fits(pattern, text)));
    if let Some((verdict, _)) = known {
        return Some(*verdict);
    }
    let waits = [
        "flood_wait_",
        "slowmode_wait_",
        "worker_busy_too_long_retry",
    ];
    waits
        .iter()
        .any(|word| text.contains(word))
        .then_some(Verdict::Wait)
}

/// `*` stands for any text, also none.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut rest) = text.strip_prefix(head) else {
        return false;
    };
    let mut parts = tail.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// Patterns are lower case and without the name of the status. The first that fits counts.
#[rustfmt::skip]
const TABLE: &[(Verdict, &[&str])] = &[
    (Verdict::Chat, &[
        "bot was blocked by the user", "user_is_blocked", "user is deactivated", "input_user_deactivated",
        "bot can't initiate conversation with a user", "the bot can't send messages to the bot",
        "bot can't send messages to bots", "bot was kicked from the *", "bot is not a member of the *",
        "the group chat was deleted", "chat not found", "private chat not found", "peer_id_invalid",
        "channel_private", "group is deactivated", "have no write access to the chat", "chat_write_forbidden",
        "can't access the chat", "have no access to the chat", "user_banned_in_channel", "chat_guest_send_forbidden",
        "need administrator rights in the channel chat", "chat_admin_required",
        "chat_restricted", "privacy_premium_required", "allow_payment_required*",
    ]),
    (Verdict::Wait, &["too many requests*", "flood_wait_*", "slowmode_wait_*", "worker_busy_too_long_retry"]),
    (Verdict::Superseded, &["canceled by new edit message request"]),
    (Verdict::NotModified, &["message is not modified*"]),
    (Verdict::Gone, &[
        "message to delete not found", "message can't be deleted", "message can't be deleted for everyone",
    ]),
    (Verdict::Operator, &["logged out", "frozen_method_invalid"]),
    (Verdict::Migrated, &["group chat was upgraded to a supergroup chat"]),
    (Verdict::Fall(Cause::UrlRefused), &[
        "failed to get http url content", "webpage_curl_failed", "wrong type of the web page content",
        "webpage_media_empty", "wrong file identifier/http url specified", "media_empty",
        "wrong http url specified", "external_url_invalid", "wc_convert_url_invalid",
        "can't upload file by url", "invalid file http url specified*", "url must be in utf-8", "webpage_*",
        "failed to upload file", "can't download or generate the file", "file_part*", "file_reference_*",
        "wrong remote file identifier specified*", "can't use file of type *",
    ]),
    (Verdict::Fall(Cause::PhotoRefused), &[
        "image_process_failed", "photo has unsupported extension*", "photo_*", "file of size * is too big for a photo*",
    ]),
    (Verdict::Fall(Cause::MediaRefused), &["video_*", "gif_*"]),
    (Verdict::Fall(Cause::TooBig), &["request entity too large", "file is too big"]),
    (Verdict::Fall(Cause::FileEmpty), &["file must be non-empty"]),
    // Of texts too: where they are forbidden photos may be welcome, so it says nothing about the chat.
    (Verdict::Fall(Cause::KindForbidden), &[
        "not enough rights to send * to the chat", "chat_send_*_forbidden", "voice_messages_forbidden",
        "user restricted receiving of voice note messages",
    ]),
    (Verdict::Fall(Cause::AlbumRefused), &[
        "too many messages to send as an album", "too much messages to send as an album",
        "document can't be mixed with other media types", "audio can't be mixed with other media types",
        "can't use the media of the specified type in the album",
        "type * can't be used in sendmediagroup", "multi_media_too_long",
    ]),
    (Verdict::Fall(Cause::AlbumAgain), &["group send failed"]),
    (Verdict::Fall(Cause::EditGone), &["message to edit not found", "message was deleted"]),
    (Verdict::Fall(Cause::EditRefused), &[
        "message media can't be edited", "there is no media in the message to edit",
        "the message can't be edited with a media", "media_prev_invalid", "media_new_invalid",
        "message can't be edited", "message_author_required", "message_edit_time_expired",
        "can't change media type in the album", "message content type can't be used in an album",
    ]),
    (Verdict::Fall(Cause::NoTextInMessage), &["there is no text in the message to edit"]),
    (Verdict::Fall(Cause::NoCaptionInMessage), &["there is no caption in the message to edit"]),
    (Verdict::Mend(Repair::ParseError), &["can't parse entities*", "unsupported parse_mode"]),
    (Verdict::Mend(Repair::Entities), &[
        "can't parse messageentity*", "entity_*", "entities_*", "strings must be encoded in utf-8",
    ]),
    (Verdict::Mend(Repair::CaptionTooLong), &["message caption is too long", "media_caption_too_long"]),
    (Verdict::Mend(Repair::TextTooLong), &["message is too long", "message_too_long", "text is too long"]),
    (Verdict::Mend(Repair::TextEmpty), &["message text is empty", "text must be non-empty", "message_empty"]),
    (Verdict::Mend(Repair::ReplyGone), &[
        "message to be replied not found", "reply_message_id_invalid", "quote_text_invalid",
    ]),
    (Verdict::Mend(Repair::ThreadGone), &[
        "message thread not found", "topic_closed", "topic_deleted", "topic not found", "chat is not a forum",
        "chat doesn't have t*", "invalid topic identifier specified", "invalid forum topic identifier specified",
        "invalid message thread identifier specified",
    ]),
    (Verdict::Mend(Repair::MarkupRefused), &[
        "button_*", "reply_markup_*", "reply markup is too long", "bot_domain_invalid", "bot \"*\" not found",
        "inline keyboard expected", "inline keyboard button *", "keyboard button *",
        "can't parse reply keyboard markup json object*", "object expected as reply markup*",
        "can't parse inline keyboard button*", "can't parse keyboard button*",
        // Fields of a keyboard: of all that we send only it is as the bot wrote it.
        "field \"*\" * must be an array of arrays", "field \"*\" must be *",
        "can't use * button in a channel chat*", "link to a user can't be used in *",
        "can't force quiz mode and regular poll simultaneously",
        "phone number can be requested in private chats only", "location can be requested in private chats only",
        "poll can be requested in private chats only", "users can be requested in private chats only",
        "chats can be requested in private chats only", "managed bots can be requested in private chats only",
        "web app buttons can be used in private chats only",
    ]),
    (Verdict::Bug, &[
        "chat_id is empty", "there is no * in the request", "parameter \"media\" is required",
        "can't parse media json object*", "can't parse input media json object*",
        "expected an array of inputmedia*", "media not found", "type * is unsupported",
        "there are no messages to send", "message identifier is not specified",
        "wrong parameter action in request",
    ]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Columns: name, status, body (`-` empty, `html` a page, else a description), expected class;
    /// `edit` before the class when the call was an edit.
    const ROWS: &str = include_str!("../../tests/fixtures/telegram/errors.tsv");

    fn word(refusal: &Refusal) -> String {
        match refusal {
            Refusal::Unreachable(_) => "A".into(),
            Refusal::RetryAfter { wait } => format!("wait {}", wait.as_secs()),
            Refusal::AlbumHeld { wait } => format!("held {}", wait.as_secs()),
            Refusal::Unknown(_) => "unknown".into(),
            Refusal::Broke(_) => "broke".into(),
            Refusal::NotSent(_) => "not sent".into(),
            Refusal::NotModified => "not modified".into(),
            Refusal::Gone => "gone".into(),
            Refusal::AlreadySent(_) => "already sent".into(),
            Refusal::EditSuperseded => "superseded".into(),
            Refusal::FallBack(cause) => format!("{cause:?}"),
            Refusal::Repair(repair) => format!("{repair:?}"),
            Refusal::Operator(_) => "F".into(),
            Refusal::Bug(_) => "bug".into(),
            Refusal::Other400(_) => "other".into(),
        }
    }

    #[test]
    fn every_row_of_the_error_table_has_its_class() {
        let mut seen = 0;
        for line in ROWS
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let columns: Vec<&str> = line.split('\t').collect();
            let [name, status, text, wanted] = columns[..] else {
                panic!("not four columns: {line}")
            };
            let (editing, wanted) = match wanted.strip_prefix("edit ") {
                Some(wanted) => (true, wanted),
                None => (false, wanted),
            };
            let status: u16 = status.parse().unwrap();
            let body = match text {
                "-" => Vec::new(),
                "html" => {
                    format!("<html><head><title>{status} Bad</title></head></html>").into_bytes()
                }
                // `|` splits the description from the parameters.
                text => {
                    let (text, parameters) = text.split_once(" | ").unwrap_or((text, "null"));
                    let parameters: Value = serde_json::from_str(parameters).unwrap();
                    let body = json!({"ok": false, "error_code": status, "description": text, "parameters": parameters});
                    body.to_string().into_bytes()
                }
            };
            let got = classify(status, None, &body, editing);
            assert_eq!(word(&got), wanted, "row {name}: {text}");
            if text != "-" && text != "html" {
                // The first letter and the case of a text changed between versions.
                let upper = String::from_utf8(body)
                    .unwrap()
                    .replace(text, &text.to_uppercase());
                let got = classify(status, None, upper.as_bytes(), editing);
                if !text.contains(" | ") {
                    assert_eq!(word(&got), wanted, "row {name} in capitals: {text}");
                }
            }
            seen += 1;
        }
        assert!(seen > 150, "only {seen} rows were read");
    }

    #[test]
    fn an_error_inside_an_album_counts_as_itself() {
        let album = |inner: &str| {
            let text = format!(
                "Bad Request: failed to send message #2 with the error message \"{inner}\""
            );
            let body = json!({"ok": false, "error_code": 400, "description": text}).to_string();
            word(&classify(400, None, body.as_bytes(), false))
        };
        assert_eq!(album("USER_IS_BLOCKED"), "A");
        assert_eq!(album("Forbidden: bot was blocked by the user"), "A");
        assert_eq!(album("WEBPAGE_CURL_FAILED"), "UrlRefused");
        assert_eq!(album("Too Many Requests: retry after 8"), "held 8");
        assert_eq!(
            album("Wrong file identifier/HTTP URL specified"),
            "UrlRefused"
        );
        assert_eq!(
            album("can't parse entities: Unsupported start tag \"x\" at byte offset 0"),
            "ParseError"
        );
        assert_eq!(album("SOMETHING_NEW"), "other");
    }

    #[test]
    fn the_wait_is_read_from_parameters_then_header_then_text_then_assumed() {
        let body = |text: &str, parameters: Value| {
            json!({"ok": false, "error_code": 429, "description": text, "parameters": parameters})
                .to_string()
        };
        let text = "Too Many Requests: retry after 7";
        let cases = [
            (body(text, json!({"retry_after": 5})), Some("6"), 5),
            (body(text, json!({"retry_after": "5"})), None, 5),
            (body(text, Value::Null), Some("6"), 6),
            (body(text, Value::Null), None, 7),
            (body("Too Many Requests", Value::Null), Some("soon"), 30),
            (
                body("Too Many Requests", json!({"retry_after": u64::MAX})),
                None,
                86_400,
            ),
            (
                body(
                    "Too Many Requests: retry after 99999999999999999999999999",
                    Value::Null,
                ),
                None,
                30,
            ),
            (String::new(), Some("9"), 9),
            ("<html>".into(), None, 30),
        ];
        for (body, header, seconds) in cases {
            let wanted = Refusal::RetryAfter {
                wait: Duration::from_secs(seconds),
            };
            assert_eq!(
                classify(429, header, body.as_bytes(), false),
                wanted,
                "{body} {header:?}"
            );
        }
    }

    #[test]
    fn a_users_text_inside_a_description_changes_no_class() {
        let text = "Bad Request: can't parse entities: Unsupported start tag \"chat not found flood_wait_9\" at byte offset 3";
        let body = json!({"ok": false, "error_code": 400, "description": text}).to_string();
        assert_eq!(
            word(&classify(400, None, body.as_bytes(), false)),
            "ParseError"
        );
    }

    #[test]
    fn texts_are_one_short_line() {
        let long = format!("Bad Request: \u{1b}[31m\n{}", "ж".repeat(900));
        let body = json!({"ok": false, "error_code": 400, "description": long}).to_string();
        let Refusal::Other400(text) = classify(400, None, body.as_bytes(), false) else {
            panic!()
        };
        assert!(
            text.chars().count() <= 300 && !text.contains(char::is_control),
            "{text}"
        );
    }

    #[test]
    fn bodies_that_are_not_telegrams_never_panic_and_speak_by_status() {
        for body in [
            &b"[]"[..],
            b"{\"error\":\"denied\"}",
            b"1",
            b"null",
            b"{",
            b"\xff\xfe",
            b"\"x\"",
        ] {
            assert_eq!(word(&classify(502, None, body, false)), "unknown");
            assert_eq!(word(&classify(403, None, body, false)), "F");
        }
        assert_eq!(
            word(&classify(
                400,
                None,
                b"{\"ok\":false,\"error_code\":\"x\",\"description\":7}",
                true
            )),
            "other"
        );
    }

    #[test]
    fn a_pattern_fits_whole_texts_only() {
        for (pattern, text, wanted) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("ab*", "abcd", true),
            ("a*d", "abcd", true),
            ("a*c", "abcd", false),
            ("a*b*d", "abcd", true),
            ("a*b*d*", "abcd", true),
            ("*x*", "abcd", false),
        ] {
            assert_eq!(fits(pattern, text), wanted, "{pattern} {text}");
        }
    }
}
