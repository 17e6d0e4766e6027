//! Four calls on fal's queue API, one direct call, and a free look whether the key is good (fal-api).
//! What an answer means is pure and lies in `answer`; the files in a result are found in `outputs`.
//! A submit costs money and cannot be repeated safely, so this room decides nothing about repeating:
//! it says what is certain.
//!
//! The key goes to the three configured base URLs and nowhere else: URLs in answers give at most a path
//! below the configured base, and redirects are not followed.

mod answer;
mod look;
mod members;
mod outputs;
mod storage;

pub use look::Look;
pub use outputs::{Found, echoes, outputs, outputs_but};

use crate::http::{Answer, Body, Bounds, Broken, Http, Request, Service, Torn};
use crate::job::RequestId;
use crate::job::answer::{Cancelled, Collected, Directed, Polled, Submitted};
use crate::job::schedule;
use crate::job::spec::{FalSwitches, Model};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// TCP and TLS.
const CONNECT: Duration = Duration::from_secs(5);
/// Design section 5; all are whole exchanges, as is that of a submit.
const STATUS: Duration = Duration::from_secs(10);
const RESULT: Duration = Duration::from_secs(60);
const RESULT_BYTES: u64 = 16 << 20;
const OTHER_BYTES: u64 = 256 << 10;
/// Least start deadline: fal's clients refuse one second and less (fal-api section 1).
const LEAST_DEADLINE_S: u64 = 2;

/// Status of a request that nobody has: asking for it is free.
const NOBODY: &str = "fal-ai/flux/requests/00000000-0000-4000-8000-000000000000/status";

/// Base URLs without trailing slash; each may carry a path.
#[derive(Clone, Debug)]
pub struct FalUrls {
    /// `https://queue.fal.run`.
    pub queue: String,
    /// `https://fal.run`.
    pub run: String,
    /// `https://rest.fal.ai`.
    pub storage: String,
}

/// The key, as the whole header value. No `Debug`, so that it cannot be printed by accident.
struct Key(String);

impl Key {
    /// An answer that quotes the key, in its body or in a header that names an error, must not carry it
    /// into an error, and so into Redis or a chat.
    fn blank(&self, answer: &mut Answer) {
        let secret = self.0.rsplit(':').next().unwrap_or_default();
        if secret.len() < 8 {
            return; // no secret, and it would spoil every answer
        }
        // What is no UTF-8 is read all the same, with marks in it.
        let text = String::from_utf8_lossy(&answer.body);
        if text.contains(secret) {
            answer.body = text.replace(secret, STRUCK).into_bytes();
        }
        if answer.body.contains(&b'\\')
            && let Some(clean) = without_spelled(&answer.body, secret.as_bytes())
        {
            answer.body = clean;
        }
        answer.headers.strike_out(secret, STRUCK);
    }
}

/// What stands in the place of a secret.
const STRUCK: &str = "***";

/// The text without what JSON would read as the secret, where some of its letters are escapes (`\u0073`): `None`
/// where it is not in there. Struck out before anything is read and cut, so that no part of it is left either.
fn without_spelled(text: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
    let (mut clean, mut kept, mut at) = (Vec::new(), 0, 0);
    while let Some((_, width)) = letter(&text[at..]) {
        match spelled(&text[at..], secret) {
            Some(width) => {
                clean.extend_from_slice(&text[kept..at]);
                clean.extend_from_slice(STRUCK.as_bytes());
                at += width;
                kept = at;
            }
            None => at += width,
        }
    }
    clean.extend_from_slice(&text[kept..]);
    (kept > 0).then_some(clean)
}

/// How many bytes at the beginning of this text spell the secret.
fn spelled(text: &[u8], secret: &[u8]) -> Option<usize> {
    secret.iter().try_fold(0, |at, wanted| {
        let (byte, width) = letter(&text[at..])?;
        (byte == Some(*wanted)).then_some(at + width)
    })
}

/// The first letter of a JSON string and how many bytes it takes there; no letter for what no key holds.
fn letter(text: &[u8]) -> Option<(Option<u8>, usize)> {
    Some(match text {
        [b'\\', b'u', a, b, c, d, ..] => {
            let code = [a, b, c, d].into_iter().try_fold(0, |code, digit| {
                Some(code * 16 + char::from(*digit).to_digit(16)?)
            });
            match code {
                Some(code) => (u8::try_from(code).ok(), 6),
                None => (None, 2),
            }
        }
        [b'\\', byte @ (b'"' | b'\\' | b'/'), ..] => (Some(*byte), 2),
        [b'\\', _, ..] => (None, 2),
        [byte, ..] => (Some(*byte), 1),
        [] => return None,
    })
}

/// The client. It holds no state beside what it was made from and the key; clones share both and the
/// connections.
#[derive(Clone)]
pub struct Fal {
    http: Http,
    urls: FalUrls,
    keys: Arc<Keys>,
}

/// The key in use. A request takes it once and keeps it to its end, whatever comes meanwhile: a read of a
/// lock that is written to once in months.
struct Keys {
    now: RwLock<Arc<Key>>,
    /// Counts the keys so far.
    number: AtomicU64,
    /// The one in use was refused.
    refused: AtomicBool,
}

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Which model.
    pub model: &'a Model,
    /// The model's input, a JSON object, sent byte for byte.
    pub input: &'a str,
    /// fal gives up if it has not begun by then (whole seconds, at least two).
    pub start_deadline: Duration,
    /// Sent as headers.
    pub switches: &'a FalSwitches,
}

/// A request in fal's hands, as recorded.
#[derive(Clone, Copy, Debug)]
pub struct Handle<'a> {
    /// Its id.
    pub request: &'a RequestId,
    /// `Accepted::path`.
    pub path: Option<&'a str>,
}

/// What a look at a result brought that may not be there yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Early {
    /// What fal said.
    Said(Collected),
    /// A good answer began and did not come whole in the time of a look: it is there, and takes longer.
    Begun,
}

/// What the free look at the key brought. It does not show an empty balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// fal takes the key.
    KeyGood,
    /// fal refuses the key.
    KeyRefused,
    /// No clear answer: fal is away.
    Away,
}

impl Fal {
    /// `key`: the value of `FAL_KEY`, `<id>:<secret>`.
    pub fn new(http: Http, urls: FalUrls, key: &str) -> Fal {
        Fal {
            http,
            urls,
            keys: Arc::new(Keys {
                now: RwLock::new(Arc::new(Key(format!("Key {key}")))),
                number: AtomicU64::new(0),
                refused: AtomicBool::new(false),
            }),
        }
    }

    /// Requests that begin from now on take this key.
    pub fn set_key(&self, key: &str) {
        let mut now = self
            .keys
            .now
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *now = Arc::new(Key(format!("Key {key}")));
        self.keys.refused.store(false, Ordering::Release);
        self.keys.number.fetch_add(1, Ordering::Release);
    }

    /// Which key is in use: a number that rises with each new one.
    pub fn key_number(&self) -> u64 {
        self.keys.number.load(Ordering::Acquire)
    }

    /// Whether fal refused the key in use since this was last asked. One model's refusal counts too.
    pub fn take_key_refused(&self) -> bool {
        self.keys.refused.swap(false, Ordering::AcqRel)
    }

    /// Puts a request into fal's queue: the one call that costs money.
    pub fn submit(&self, order: &Order) -> Submitted {
        let url = [&*self.urls.queue, "/", order.model.as_str()].concat();
        let headers = headers(order, Way::Queue);
        let sent = self.call_or_head(
            "POST",
            &url,
            &headers,
            Some(order.input),
            (schedule::SUBMIT, OTHER_BYTES),
        );
        answer::submitted(answer::named(sent), &self.urls.queue, order.model)
    }

    /// How it stands.
    pub fn status(&self, model: &Model, handle: Handle) -> Polled {
        let url = format!("{}/status", self.request_url(model, handle));
        answer::polled(self.call("GET", &url, &[], None, (STATUS, OTHER_BYTES)))
    }

    /// The model's output, or why there is none. Results vanish within minutes: fetch at once.
    pub fn result(&self, model: &Model, handle: Handle) -> Collected {
        let url = self.request_url(model, handle);
        answer::collected(self.call("GET", &url, &[], None, (RESULT, RESULT_BYTES)))
    }

    /// The same in the place of a look at the status: it may not be there yet, and takes no longer than that.
    pub fn early_result(&self, model: &Model, handle: Handle) -> Early {
        let url = self.request_url(model, handle);
        let wire = self.call("GET", &url, &[], None, (STATUS, RESULT_BYTES));
        match wire {
            Err(Broken::Unfinished { status: 200..300 }) => Early::Begun,
            wire => Early::Said(answer::collected(wire)),
        }
    }

    /// Asks fal to drop it.
    pub fn cancel(&self, model: &Model, handle: Handle) -> Cancelled {
        let url = format!("{}/cancel", self.request_url(model, handle));
        answer::cancelled(self.call("PUT", &url, &[], None, (STATUS, OTHER_BYTES)))
    }

    /// Runs a model on the open connection, without the queue. For transfer threads.
    pub fn direct(&self, order: &Order, limit: Duration) -> Directed {
        let url = format!("{}/{}", self.urls.run, order.model.as_str());
        let headers = headers(order, Way::Direct);
        answer::directed(self.call(
            "POST",
            &url,
            &headers,
            Some(order.input),
            (limit, RESULT_BYTES),
        ))
    }

    /// Whether fal is there and takes the key: status of an id that does not exist, free of charge.
    pub fn probe(&self) -> Probe {
        let url = format!("{}/{NOBODY}", self.urls.queue);
        answer::probed(self.call("GET", &url, &[], None, (STATUS, OTHER_BYTES)))
    }

    /// Where this request's result is; `/status` and `/cancel` lie below it.
    fn request_url(&self, model: &Model, handle: Handle) -> String {
        // The path comes from a record: it is checked again, since the key is sent along.
        match handle.path.filter(|path| answer::is_plain_path(path)) {
            Some(path) => format!("{}{path}", self.urls.queue),
            None => [
                &*self.urls.queue,
                &*answer::stem_path(model, handle.request),
            ]
            .concat(),
        }
    }

    fn call(
        &self,
        method: &'static str,
        url: &str,
        headers: &[(&'static str, String)],
        input: Option<&str>,
        bounds: (Duration, u64),
    ) -> answer::Wire {
        self.call_or_head(method, url, headers, input, bounds)
            .map_err(|torn| torn.broken)
    }

    /// The same, with the head of an answer whose body did not come whole.
    fn call_or_head(
        &self,
        method: &'static str,
        url: &str,
        headers: &[(&'static str, String)],
        input: Option<&str>,
        (total, max_bytes): (Duration, u64),
    ) -> Result<Answer, Torn> {
        let key = {
            let now = self.keys.now.read();
            now.unwrap_or_else(PoisonError::into_inner).clone()
        };
        let mut all = Vec::with_capacity(2 + headers.len());
        all.push(("authorization", key.0.as_str()));
        all.push(("accept", "application/json"));
        all.extend(headers.iter().map(|(name, value)| (*name, value.as_str())));
        let body = match input {
            Some(input) => Body::Bytes {
                content_type: "application/json",
                bytes: input.as_bytes(),
            },
            None => Body::Empty,
        };
        let bounds = Bounds {
            connect: CONNECT,
            total,
            max_bytes,
        };
        let mut sent = self.http.exchange_or_head(Request {
            service: Service::Fal,
            method,
            url,
            headers: &all,
            body,
            bounds,
        });
        match &mut sent {
            Ok(answer) => {
                if matches!(answer.status, 401 | 403) {
                    self.refused(&key);
                }
                key.blank(answer);
            }
            Err(torn) => {
                if let Some(head) = &mut torn.head {
                    key.blank(head);
                }
            }
        }
        sent
    }
}

impl Fal {
    /// Only the key in use is worth another look at its file: an old one is refused as it should be.
    fn refused(&self, key: &Arc<Key>) {
        let now = self.keys.now.read().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&now, key) {
            self.keys.refused.store(true, Ordering::Release);
        }
    }
}

/// Which of the two ways an order goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Queue,
    Direct,
}

/// The switches as headers (fal-api section 1). What a job does not say is left to fal.
fn headers(order: &Order, way: Way) -> Vec<(&'static str, String)> {
    let deadline = order.start_deadline.as_secs().max(LEAST_DEADLINE_S);
    let mut headers = vec![("x-fal-request-timeout", deadline.to_string())];
    let switches = order.switches;
    if let (Some(low), Way::Queue) = (switches.low_priority, way) {
        headers.push((
            "x-fal-queue-priority",
            if low { "low" } else { "normal" }.into(),
        ));
    }
    if switches.store_io == Some(false) {
        headers.push(("x-fal-store-io", "0".into()));
    }
    if switches.fallback == Some(false) {
        headers.push(("x-app-fal-disable-fallback", "1".into()));
    }
    if let Some(seconds) = switches.object_lifetime_s {
        let value = format!("{{\"expiration_duration_seconds\":{seconds}}}");
        headers.push(("x-fal-object-lifecycle-preference", value));
    }
    if let Some(hint) = &switches.runner_hint {
        headers.push(("x-fal-runner-hint", hint.clone()));
    }
    headers
}

#[cfg(test)]
mod tests;
