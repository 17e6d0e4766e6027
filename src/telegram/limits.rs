//! What Telegram lets a bot send (telegram-api section 5), and what a call costs of it. Pure; the times
//! themselves are given by Redis, to all daemons of the bot.

use super::{Call, Method};
use serde_json::Value;
use std::time::Duration;

/// The limits of one chat: a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatLimit {
    /// Time that a message takes.
    pub gap: Duration,
    /// Messages at once, after a pause.
    pub burst: u32,
}

impl ChatLimit {
    /// A private chat: one a second.
    pub const PRIVATE: ChatLimit = ChatLimit {
        gap: Duration::from_secs(1),
        burst: 3,
    };
    /// A group or channel: twenty a minute.
    pub const GROUP: ChatLimit = ChatLimit {
        gap: Duration::from_secs(3),
        burst: 20,
    };

    /// Of a chat by its id or `@name`: what has a name is taken for a group.
    pub fn of(chat: &str) -> ChatLimit {
        if chat.starts_with(['-', '@']) {
            ChatLimit::GROUP
        } else {
            ChatLimit::PRIVATE
        }
    }
}

impl Call {
    /// The chat it goes to, as the limits name it; `""` for a call that goes to none.
    pub fn chat(&self) -> String {
        match self.args.get("chat_id") {
            Some(Value::String(name)) => name.to_lowercase(),
            Some(id) => id.to_string(),
            None => String::new(),
        }
    }

    /// How many messages it counts as: an album as many as it has items, anything else one.
    pub fn messages(&self) -> u32 {
        let items = match (self.method, self.args.get("media")) {
            (Method::GetMe, _) => return 0,
            (Method::SendMediaGroup, Some(Value::Array(items))) => items.len(),
            _ => 1,
        };
        u32::try_from(items.max(1)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call(method: Method, args: Value) -> Call {
        let Value::Object(args) = args else {
            unreachable!("arguments are an object")
        };
        Call {
            method,
            args,
            file_part: None,
            by_url: false,
        }
    }

    #[test]
    fn an_album_counts_as_its_items_and_anything_else_as_one() {
        let items = json!([{"type": "photo"}, {"type": "photo"}, {"type": "video"}]);
        let album = call(
            Method::SendMediaGroup,
            json!({"chat_id": 7, "media": items}),
        );
        assert_eq!(album.messages(), 3);
        let edit = json!({"chat_id": 7, "message_id": 1, "media": {"type": "photo"}});
        for (method, args) in [
            (Method::SendMessage, json!({"chat_id": 7, "text": "x"})),
            (Method::EditMessageMedia, edit),
            (
                Method::DeleteMessage,
                json!({"chat_id": 7, "message_id": 1}),
            ),
        ] {
            assert_eq!(call(method, args).messages(), 1, "{method:?}");
        }
        assert_eq!(call(Method::GetMe, json!({})).messages(), 0);
    }

    #[test]
    fn groups_channels_and_names_have_the_limit_of_groups() {
        assert_eq!(ChatLimit::of("42"), ChatLimit::PRIVATE);
        for chat in ["-42", "-1001234567890", "@news"] {
            assert_eq!(ChatLimit::of(chat), ChatLimit::GROUP, "{chat}");
        }
    }

    #[test]
    fn a_chat_is_named_alike_however_its_name_is_written() {
        let to = |chat: Value| call(Method::SendMessage, json!({"chat_id": chat})).chat();
        assert_eq!(to(json!(-42)), "-42");
        assert_eq!(to(json!("@News")), "@news");
        assert_eq!(call(Method::GetMe, json!({})).chat(), "");
    }
}
