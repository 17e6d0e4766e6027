//! What every command on a live system begins with. They need Redis and nothing else.

use super::operate::NO_ID;
use super::{CONFIGURATION, INCOMPLETE, UNAVAILABLE, USAGE};
use crate::config::StoreConfig;
use crate::job::JobId;
use crate::job::failure::Kind;
use crate::store::Fault;
use crate::store::view::View;
use rustix::event::{PollFd, PollFlags};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) fn open(store: &StoreConfig) -> Result<View, u8> {
    let opened = View::open(&store.redis.server(), &store.namespace, &store.inbox);
    opened.map_err(|fault| {
        let place = &store.redis;
        eprintln!("fal-worker: {fault} ({place}; REDIS_URL or REDIS_URL_FILE names another, with its password)");
        code(&fault)
    })
}

/// Says why Redis is of no use; gives the exit code.
pub(super) fn away(fault: &Fault) -> u8 {
    eprintln!("fal-worker: {fault}");
    code(fault)
}

fn code(fault: &Fault) -> u8 {
    match fault {
        Fault::Away(_) | Fault::Unable(_) => UNAVAILABLE,
        Fault::Refused(_) => CONFIGURATION, // such as a wrong password
    }
}

/// An id that may be one; else it says so, and gives the exit code.
pub(super) fn known_id(text: &str) -> Result<JobId, u8> {
    JobId::new(text).ok_or_else(|| {
        eprintln!("fal-worker: {text:?} {NO_ID}");
        INCOMPLETE
    })
}

/// The kind that `--kind` names, if it is given. A name that there is not must not look like an empty answer.
pub(super) fn kind(word: Option<&str>) -> Result<Option<Kind>, u8> {
    let Some(word) = word else {
        return Ok(None);
    };
    let kind = Kind::parse(word).ok_or_else(|| {
        let all = Kind::ALL.map(Kind::as_str);
        no_such("--kind", word, "kind of failure", &all)
    })?;
    Ok(Some(kind))
}

/// Says that a word is none of a list, and which there are; gives the exit code.
pub(super) fn no_such(flag: &str, word: &str, what: &str, all: &[&str]) -> u8 {
    let all = all.join(", ");
    eprintln!("fal-worker: {flag}: {word:?} is no {what}; there are {all}");
    USAGE
}

/// From now on a signal ends the command with exit 0 and these characters, as whoever watches a screen or a
/// stream ends it.
pub(super) fn end_cleanly(last: &'static str) {
    let set = ctrlc::set_handler(move || {
        // Whoever prints at this moment has ended his page first; but nobody waits for a reader that stalls
        // only to print nothing.
        if !last.is_empty() {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(last.as_bytes()).and_then(|()| out.flush());
        }
        std::process::exit(0);
    });
    if let Err(error) = set {
        eprintln!("fal-worker: signals end this at once: {error}");
    }
}

/// Whether somebody still holds the other end of our output.
pub(super) fn is_read() -> bool {
    let out = std::io::stdout();
    let mut poll = [PollFd::new(&out, PollFlags::empty())];
    match rustix::event::poll(&mut poll, Some(&rustix::time::Timespec::default())) {
        Ok(_) => !poll[0]
            .revents()
            .intersects(PollFlags::ERR | PollFlags::HUP),
        Err(_) => true,
    }
}

/// Prints; false when it was not [`taken`].
pub(super) fn say(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    taken(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Some output was lost, and not because its reader had gone.
static LOST: AtomicBool = AtomicBool::new(false);

/// Whether output was taken. A reader who has gone is no failure: that is how `| head` ends a command. Of anything
/// else, such as a full disk, one line tells, and so does the exit code: whoever kept the output has not all of it.
pub(super) fn taken(written: io::Result<()>) -> bool {
    if let Err(error) = &written
        && error.kind() != io::ErrorKind::BrokenPipe
        && !LOST.swap(true, Ordering::Relaxed)
    {
        eprintln!("fal-worker: its output is not taken: {error}");
    }
    written.is_ok()
}

/// How a command ends that did so well itself.
pub(super) fn exit(code: u8) -> ExitCode {
    ExitCode::from(match code {
        0 if LOST.load(Ordering::Relaxed) => INCOMPLETE,
        code => code,
    })
}
