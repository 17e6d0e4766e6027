//! The page for people: what `GET /` shows and `GET /state.json` tells it. A thread of its own reads Redis,
//! only while somebody asks and at most every two seconds; whoever asks gets what was read last, so that a
//! slow Redis never holds up the thread that also tells health.

mod state;

use super::listen::Page;
use crate::report;
use crate::store::Store;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{SHA256, digest};
use state::History;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Shortest time between two reads of Redis.
const PACE: Duration = Duration::from_secs(2);
/// A read that took long is followed by so many times as much rest.
const REST: u32 = 20;
const LONGEST_REST: Duration = Duration::from_secs(20);
/// Whoever asked within this time asks again.
const LOOKING: Duration = Duration::from_secs(5);
/// Nobody has asked for so long: what was read is forgotten.
const FORGET: Duration = Duration::from_secs(60);

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const FRAME: &str = include_str!("page/page.html");

/// The page itself, the same for everybody: no job's data is in it.
pub(super) fn page() -> Page {
    static WHOLE: OnceLock<String> = OnceLock::new();
    static POLICY: OnceLock<String> = OnceLock::new();
    let whole = WHOLE.get_or_init(|| {
        let page = FRAME.replace("/*style*/", STYLE);
        page.replace("/*script*/", SCRIPT)
    });
    let policy = POLICY.get_or_init(|| {
        format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
            hash(SCRIPT),
            hash(STYLE)
        )
    });
    Page {
        status: 200,
        content_type: "text/html; charset=utf-8",
        headers: vec![
            ("Content-Security-Policy", policy.as_str()),
            ("Referrer-Policy", "no-referrer"),
            ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            (
                "Permissions-Policy",
                "camera=(), geolocation=(), microphone=()",
            ),
        ],
        text: whole.clone(),
    }
}

/// How a policy names the one script, or style, that may be used.
fn hash(text: &str) -> String {
    let digest = digest(&SHA256, text.as_bytes());
    format!("sha256-{}", BASE64_STANDARD.encode(digest))
}

/// What is known of the store, for whoever asks.
pub(super) struct Board {
    store: Arc<Store>,
    seen: Mutex<Seen>,
    asked: Condvar,
}

#[derive(Default)]
struct Seen {
    /// When somebody last asked.
    asked: Option<Instant>,
    /// When Redis was last read, and what it said, as JSON.
    state: Option<(Instant, Arc<str>)>,
    /// Why the last try brought nothing, and since when tries bring nothing.
    fault: Option<(Instant, String)>,
}

impl Board {
    pub(super) fn new(store: Arc<Store>) -> Board {
        Board {
            store,
            seen: Mutex::default(),
            asked: Condvar::new(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `/state.json`: what was read last, how old it is, and what is wrong, if anything is. Asks for a new
    /// read, waits for none.
    pub(super) fn tell(&self, now: Instant) -> Page {
        let (state, fault) = {
            let mut seen = self.seen();
            seen.asked = Some(now);
            (seen.state.clone(), seen.fault.clone())
        };
        self.asked.notify_one();
        let ms = |since: Instant| now.saturating_duration_since(since).as_millis();
        let (age, state) = match &state {
            Some((at, state)) => (ms(*at).to_string(), state.as_ref()),
            None => ("null".to_owned(), "null"),
        };
        let fault = fault.map(|(since, why)| {
            let for_ms = ms(since) as u64;
            serde_json::json!({"for_ms": for_ms, "why": report::without_secrets(why)})
        });
        let fault = fault.map_or_else(|| "null".to_owned(), |fault| fault.to_string());
        Page {
            status: 200,
            content_type: "application/json",
            headers: vec![("Referrer-Policy", "no-referrer")],
            text: format!(r#"{{"age_ms":{age},"fault":{fault},"state":{state}}}"#),
        }
    }

    /// Reads for as long as the process lives.
    pub(super) fn run(&self) {
        let mut history = History::default();
        let mut due = Instant::now();
        loop {
            self.wait(due, &mut history);
            let began = Instant::now();
            let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                state::read(&self.store, &mut history)
            }));
            // What failed is tried again soon, however long it took to fail.
            let rest = match &read {
                Ok(Ok(_)) => (began.elapsed() * REST).min(LONGEST_REST),
                Ok(Err(_)) | Err(_) => Duration::ZERO,
            };
            due = (began + PACE).max(Instant::now() + rest);
            let read = match read {
                Ok(Ok(state)) => Ok(state.to_string()),
                Ok(Err(fault)) => Err(fault.to_string()),
                // The hook has logged the place.
                Err(_) => Err("reading failed: the log says where".to_owned()),
            };
            let mut seen = self.seen();
            match read {
                Ok(state) => {
                    // What Redis said is at least as old as the question.
                    seen.state = Some((began, state.into()));
                    seen.fault = None;
                }
                Err(why) => {
                    let since = seen.fault.take().map(|(since, _)| since);
                    let away = self.store.health.away().map(|(since, _)| since);
                    seen.fault = Some((since.or(away).unwrap_or(began), why));
                }
            }
        }
    }

    /// Until a read is due that somebody asks for.
    fn wait(&self, due: Instant, history: &mut History) {
        let mut seen = self.seen();
        loop {
            let now = Instant::now();
            let unasked = seen.asked.map(|asked| now.saturating_duration_since(asked));
            let wait = match unasked {
                Some(since) if since < LOOKING => {
                    if now >= due {
                        return;
                    }
                    due - now
                }
                Some(since) if since < FORGET => FORGET - since,
                Some(_) => {
                    *seen = Seen::default();
                    *history = History::default();
                    continue;
                }
                None => Duration::from_secs(3600),
            };
            seen = (self.asked)
                .wait_timeout(seen, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_allows_the_pages_own_script_and_style_and_nothing_else() {
        // Of a text whose digest is published (FIPS 180, one block).
        let abc = "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=";
        assert_eq!(hash("abc"), abc);
        let page = page();
        let (_, policy) = page.headers[0];
        for (open, close, hash) in [
            ("<style>", "</style>", hash(STYLE)),
            ("<script>", "</script>", hash(SCRIPT)),
        ] {
            let inside = page.text.split(open).nth(1).unwrap();
            let inside = inside.split(close).next().unwrap();
            assert!(policy.contains(&super::hash(inside)), "{open}");
            assert!(policy.contains(&hash), "{open}");
            assert_eq!(page.text.matches(open).count(), 1);
        }
        // Nothing that the policy would stop, or that would fetch from elsewhere.
        for never in [
            " style=",
            " onclick",
            "http:",
            "src=",
            "innerHTML",
            "@import",
            "url(",
        ] {
            let text = page.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains(never), "{never}");
        }
    }
}
