//! The headers of a submit that have a form (section 1): a malformed one is refused, and one that means nothing is
//! noted, since a client that sends it believes something of fal that is not so.

use std::time::Duration;

use serde_json::{Value, json};

use super::Shared;
use crate::sandbox::http::{Request, Response};

/// What headers change about a request.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// It ends if it has not begun by then.
    pub(super) start_within: Option<Duration>,
    /// It stands behind all that are not low.
    pub(super) low: bool,
}

fn malformed(name: &str) -> Response {
    let body = json!({"detail": format!("Invalid {name} header"), "error_type": "bad_request"});
    Response::json(400, body.to_string()).with_header("X-Fal-Error-Type", "bad_request")
}

impl Shared {
    /// Reads them, or refuses the request.
    pub(super) fn wishes(&self, request: &Request) -> Result<Wishes, Response> {
        let mut wishes = Wishes::default();
        for (name, value) in &request.headers {
            let sound = match name.as_str() {
                "x-fal-request-timeout" => {
                    let seconds = value.parse::<f64>().ok();
                    let seconds = seconds.filter(|seconds| *seconds > 0.1 && *seconds < 1e9);
                    wishes.start_within = seconds.map(Duration::from_secs_f64);
                    seconds.is_some()
                }
                "x-fal-queue-priority" => {
                    wishes.low = value == "low";
                    matches!(value.as_str(), "normal" | "low")
                }
                "x-fal-retry-config" => object(value).is_some(),
                "x-fal-object-lifecycle-preference" => is_lifecycle(value),
                "x-fal-tags" => are_tags(value),
                name => {
                    self.note(name, value);
                    true
                }
            };
            if !sound {
                return Err(malformed(name));
            }
        }
        Ok(wishes)
    }

    /// Those that are never refused: what else than the documented words says, nobody knows.
    fn note(&self, name: &str, value: &str) {
        let means_something = match name {
            "x-fal-no-retry" => matches!(value, "1" | "true" | "yes"),
            "x-fal-store-io" => value == "0",
            "x-app-fal-disable-fallback" | "x-fal-disable-fallbacks" => {
                matches!(value, "1" | "true")
            }
            "x-fal-runner-hint" => true,
            name => !name.starts_with("x-fal-") && !name.starts_with("x-app-fal-"),
        };
        if !means_something {
            self.violation(format!("header: {name}: {value}"));
        }
    }
}

fn object(text: &str) -> Option<Value> {
    let value: Option<Value> = serde_json::from_str(text).ok();
    value.filter(Value::is_object)
}

/// Seconds, or null for no end; and who may read the files.
fn is_lifecycle(text: &str) -> bool {
    object(text).is_some_and(|wish| {
        let (seconds, acl) = (&wish["expiration_duration_seconds"], &wish["initial_acl"]);
        (seconds.is_null() || seconds.as_f64().is_some_and(|seconds| seconds > 0.0))
            && (acl.is_null() || acl.is_object())
    })
}

/// `k=v,k=v`
fn are_tags(text: &str) -> bool {
    let is_key = |key: &str| {
        let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
        (1..=64).contains(&key.len()) && key.bytes().all(fits)
    };
    let is_pair = |pair: &str| {
        let pair = pair.split_once('=');
        pair.is_some_and(|(key, value)| is_key(key) && value.len() <= 256)
    };
    text.len() <= 1024 && text.split(',').count() <= 10 && text.split(',').all(is_pair)
}
