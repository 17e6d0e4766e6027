//! Where a result went, as a record keeps it once the entry is gone: enough to send it there again. The
//! words that went with it are the user's, and stay only as long as the entry itself.

use super::{ChatId, ParseMode, SendAs, Target, parse};
use crate::job::Lang;
use serde::Serialize;
use serde_json::value::RawValue;

/// Whether caption and keyboard go along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// Yes.
    Kept,
    /// No.
    Left,
}

impl SendAs {
    /// The word of the job JSON.
    fn as_str(self) -> &'static str {
        match self {
            SendAs::Auto => "auto",
            SendAs::Photo => "photo",
            SendAs::Document => "document",
            SendAs::Video => "video",
            SendAs::Animation => "animation",
            SendAs::Audio => "audio",
        }
    }
}

impl Target {
    /// In the form of the entry's `telegram`, without what belonged to one message of that time: nothing
    /// sent by it edits a message or answers one.
    pub fn to_resend_json(&self, words: Words) -> String {
        #[derive(Serialize)]
        struct Resend<'a> {
            chat_id: &'a ChatId,
            #[serde(skip_serializing_if = "Option::is_none")]
            message_thread_id: Option<i64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            send_as: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            caption: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            parse_mode: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reply_markup: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            disable_notification: bool,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            protect_content: bool,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            has_spoiler: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            lang: Option<&'static str>,
        }
        let kept = words == Words::Kept;
        let resend = Resend {
            chat_id: &self.chat,
            message_thread_id: self.message_thread_id,
            send_as: (self.send_as != SendAs::Auto).then(|| self.send_as.as_str()),
            caption: self.caption.as_deref().filter(|_| kept),
            parse_mode: self.parse_mode.filter(|_| kept).map(ParseMode::as_str),
            reply_markup: self.reply_markup.as_deref().filter(|_| kept),
            disable_notification: self.disable_notification,
            protect_content: self.protect_content,
            has_spoiler: self.has_spoiler,
            lang: self.lang.map(Lang::as_str),
        };
        serde_json::to_string(&resend).expect("numbers, strings and JSON always serialise")
    }

    /// Reads what [`Target::to_resend_json`] wrote, by the rules of an entry; `None` where it breaks one.
    pub fn from_resend_json(json: &str) -> Option<Target> {
        let entry = format!(r#"{{"model":"a/b","input":{{}},"telegram":{json}}}"#);
        parse(entry.as_bytes(), None).ok()?.telegram
    }

    /// The same for another chat, whose topics are others. `chat`: a number or `@name`; `None` if it is
    /// neither.
    pub fn redirected(self, chat: &str) -> Option<Target> {
        let chat = match chat.parse::<i64>() {
            Ok(id) => id.to_string(),
            Err(_) => serde_json::to_string(chat).ok()?,
        };
        let there = Target::from_resend_json(&format!(r#"{{"chat_id":{chat}}}"#))?;
        Some(Target {
            chat: there.chat,
            message_thread_id: None,
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_result_went_survives_its_way_through_redis_without_the_messages_of_that_time() {
        let whole = r#"{"chat_id":-100123,"message_thread_id":7,"status_message_id":310,
            "reply_to_message_id":5,"send_as":"document","caption":"<b>Done</b>","parse_mode":"HTML",
            "reply_markup":{"inline_keyboard":[]},"protect_content":true,"has_spoiler":true,"lang":"ru"}"#;
        let whole = Target::from_resend_json(whole).expect("a target");
        let left = whole.to_resend_json(Words::Left);
        assert_eq!(
            left,
            r#"{"chat_id":-100123,"message_thread_id":7,"send_as":"document","protect_content":true,"has_spoiler":true,"lang":"ru"}"#
        );
        let kept = whole.to_resend_json(Words::Kept);
        assert_eq!(
            kept,
            r#"{"chat_id":-100123,"message_thread_id":7,"send_as":"document","caption":"<b>Done</b>","parse_mode":"HTML","reply_markup":{"inline_keyboard":[]},"protect_content":true,"has_spoiler":true,"lang":"ru"}"#
        );
        for text in [left, kept] {
            let back = Target::from_resend_json(&text).expect("our own text");
            assert_eq!(back.to_resend_json(Words::Kept), text);
            assert_eq!(
                (back.status_message_id, back.reply_to_message_id),
                (None, None)
            );
        }
    }

    #[test]
    fn another_chat_keeps_the_protection_and_not_the_topic_and_must_be_one() {
        let target = Target::from_resend_json(
            r#"{"chat_id":1,"message_thread_id":7,"protect_content":true}"#,
        );
        let target = target.expect("a target");
        for (chat, json) in [
            ("-7", r#"{"chat_id":-7,"protect_content":true}"#),
            ("@durov", r#"{"chat_id":"@durov","protect_content":true}"#),
        ] {
            let there = target.clone().redirected(chat).expect(chat);
            assert_eq!(there.to_resend_json(Words::Left), json);
        }
        for chat in ["0", "durov", "", "@a b", "1\"", "9999999999999999"] {
            assert!(target.clone().redirected(chat).is_none(), "{chat}");
        }
    }
}
