//! `getMe` with all that it tells: for `check`.

use super::refusal::{Refusal, classify};
use super::{Body, Broken, Telegram, first, json_in, no_answer, without_token};
use serde_json::Value;
use std::time::{Duration, Instant};

/// What a look brought.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// The bot's `@name`, without the `@`; `None` in it: an answer without one.
    pub bot: Result<Option<String>, Refusal>,
    /// HTTP status; `None`: no answer.
    pub status: Option<u16>,
    /// `Date` of the answer, as it came.
    pub date: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl Telegram {
    /// Which bot this is, within this time.
    pub fn look(&self, limit: Duration) -> Look {
        let token = self.token();
        let url = format!("{}/bot{token}/getMe", self.base_url.trim_end_matches('/'));
        let began = Instant::now();
        let body = Body::Bytes {
            content_type: "application/json",
            bytes: b"{}",
        };
        let answer = self.exchange(&url, body, limit);
        let took = began.elapsed();
        let (status, date) = match &answer {
            Ok(answer) => (
                Some(answer.status),
                answer.header("date").map(str::to_owned),
            ),
            Err(Broken::TooBig { status }) => (Some(*status), None),
            Err(_) => (None, None),
        };
        let bot = match answer {
            Ok(answer) => {
                let json: Option<Value> = first(json_in(&String::from_utf8_lossy(&answer.body)));
                match json.filter(|json| json["ok"] == true) {
                    Some(json) => Ok(json["result"]["username"].as_str().map(str::to_owned)),
                    None => {
                        let text = without_token(&String::from_utf8_lossy(&answer.body), &token);
                        Err(classify(answer.status, None, text.as_bytes(), false))
                    }
                }
            }
            Err(broken) => Err(no_answer(broken, &token, false)),
        };
        Look {
            bot,
            status,
            date,
            took,
        }
    }
}
