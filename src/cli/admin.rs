//! What every command on a live system begins with. They need Redis and nothing else.

use super::{INCOMPLETE, UNAVAILABLE};
use crate::config::StoreConfig;
use crate::job::JobId;
use crate::store::Fault;
use crate::store::view::View;
use std::io::Write;

pub(super) fn open(store: &StoreConfig) -> Result<View, u8> {
    View::open(&store.redis.server(), &store.namespace, &store.inbox).map_err(|fault| away(&fault))
}

pub(super) fn away(fault: &Fault) -> u8 {
    eprintln!("fal-worker: {fault}");
    UNAVAILABLE
}

/// An id that may be one; else it says so, and gives the exit code.
pub(super) fn known_id(text: &str) -> Result<JobId, u8> {
    JobId::new(text).ok_or_else(|| {
        eprintln!("fal-worker: {text:?} is no id: 1-128 of letters, digits and . _ : -");
        INCOMPLETE
    })
}

/// Prints; false when nobody reads it any more, which is how `| head` ends a command.
pub(super) fn say(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}
