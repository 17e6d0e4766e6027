//! Stand-ins for everything the worker talks to: fal with its file host, Telegram, and Redis.
//!
//! They exist so that `demo`, `loadtest` and every integration test run the real worker over real HTTP,
//! without keys and without money, against services that refuse what the real ones refuse and that
//! misbehave on demand. They share no type with our clients: a stand-in that used our parser would
//! agree with our mistakes. The daemon never imports this room.

mod bar;
pub mod child;
pub mod demo;
pub mod fal;
pub mod faults;
pub mod http;
pub mod loadtest;
pub mod media;
pub mod redis;
pub mod telegram;

use std::fmt;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fal::FalStandIn;
use faults::Faults;
use redis::{RedisChild, RedisOptions};
use telegram::TelegramStandIn;

/// One of each, and the faults they share. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    /// fal's queue, direct calls, uploads and file host.
    pub fal: FalStandIn,
    /// Telegram's Bot API.
    pub telegram: TelegramStandIn,
    /// A private redis-server.
    pub redis: RedisChild,
    /// The rules of misbehaviour, for fal and Telegram alike.
    pub faults: Faults,
}

impl Sandbox {
    /// Starts all three with seed 0.
    pub fn start() -> Result<Sandbox, SandboxError> {
        Sandbox::start_with(0, RedisOptions::default())
    }

    /// Starts all three; `seed` decides generation times, request ids and chances of faults.
    pub fn start_with(seed: u64, redis: RedisOptions) -> Result<Sandbox, SandboxError> {
        let redis = RedisChild::start(redis)?;
        let faults = Faults::new(seed);
        let fal = FalStandIn::start(faults.clone(), seed)?;
        let telegram = TelegramStandIn::start(faults.clone())?;
        telegram.allow_fetch_host(&fal.file_host());
        telegram.watch_for_secret(&fal.key());
        fal.watch_for_secret(&telegram.token());
        Ok(Sandbox {
            fal,
            telegram,
            redis,
            faults,
        })
    }
}

/// Set by the first signal: `demo` and `loadtest` then end what they have started and go.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn watch_for_interrupt() -> Result<(), String> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Release))
        .map_err(|error| error.to_string())
}

fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Acquire)
}

/// Says something beside the output; nothing is amiss where nobody reads it.
fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// Why a command ends whose output is not taken: `| head` has seen enough, or the disk is full.
fn unprinted(error: io::Error) -> String {
    format!("its output is not taken: {error}")
}

/// Why a stand-in could not be started or steered.
#[derive(Debug)]
#[non_exhaustive]
pub enum SandboxError {
    /// No loopback port.
    Listen(io::Error),
    /// No folder for Redis.
    Folder(io::Error),
    /// redis-server is not installed.
    NoRedis,
    /// redis-server could not be started.
    Spawn(io::Error),
    /// redis-server ended at once; its last lines.
    RedisEnded(String),
    /// redis-server did not answer PING in time.
    RedisSilent(Duration),
    /// A signal came before redis-server answered.
    Interrupted,
    /// A signal could not be sent to redis-server.
    Signal(io::Error),
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SandboxError::Listen(error) => write!(f, "cannot listen on a loopback port: {error}"),
            SandboxError::Folder(error) => {
                write!(f, "cannot make a folder for the private Redis: {error}")
            }
            SandboxError::NoRedis => {
                write!(
                    f,
                    "redis-server is not installed: install it with `sudo apt-get install -y redis-server`"
                )
            }
            SandboxError::Spawn(error) => write!(f, "cannot start redis-server: {error}"),
            SandboxError::RedisEnded(lines) => {
                write!(f, "redis-server ended at once; it said: {lines}")
            }
            SandboxError::RedisSilent(within) => {
                write!(
                    f,
                    "redis-server did not answer within {} s",
                    within.as_secs()
                )
            }
            SandboxError::Interrupted => f.write_str("interrupted"),
            SandboxError::Signal(error) => {
                write!(f, "cannot send a signal to redis-server: {error}")
            }
        }
    }
}

impl std::error::Error for SandboxError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SandboxError::Listen(error)
            | SandboxError::Folder(error)
            | SandboxError::Spawn(error)
            | SandboxError::Signal(error) => Some(error),
            SandboxError::NoRedis
            | SandboxError::RedisEnded(_)
            | SandboxError::RedisSilent(_)
            | SandboxError::Interrupted => None,
        }
    }
}

/// Milliseconds since 1970: for ledgers and message dates.
fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |span| span.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::http::raw;
    use super::*;

    #[test]
    fn a_picture_goes_from_fal_to_a_chat_and_can_be_traced_back() {
        let sandbox = Sandbox::start().expect("redis-server is installed");
        let auth = format!("Key {}", sandbox.fal.key());
        let headers = [
            ("Authorization", auth.as_str()),
            ("Content-Type", "application/json"),
        ];
        let url = format!("{}/fal-ai/flux/dev", sandbox.fal.run_url());
        let output = raw::call(&url, "POST", &headers, br#"{"prompt":"x"}"#)
            .expect("answer")
            .json();
        let file = output["images"][0]["url"].as_str().expect("url");
        let url = format!(
            "{}/bot{}/sendPhoto",
            sandbox.telegram.url(),
            sandbox.telegram.token()
        );
        let body = serde_json::json!({"chat_id": 7, "photo": file}).to_string();
        let sent = raw::call(&url, "POST", &headers[1..], body.as_bytes()).expect("answer");
        assert_eq!(sent.status, 200, "{}", sent.text());

        let message = sandbox.telegram.messages(7).remove(0);
        let submit = sandbox.fal.submits().remove(0);
        assert!(
            message
                .via_url()
                .expect("by URL")
                .contains(&submit.request_id)
        );
        let seen = message.file.expect("a file").fingerprint;
        assert_eq!(sandbox.fal.fingerprint_of(file), Some(seen));
        assert!(
            sandbox
                .redis
                .ask(&["PING"])
                .expect("answers")
                .starts_with("+PONG")
        );
        assert!(sandbox.fal.violations().is_empty() && sandbox.telegram.violations().is_empty());
        assert!(sandbox.fal.key_leaks().is_empty());
    }
}
