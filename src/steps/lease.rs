//! Whether this instance may still act for its jobs: a submit or a send needs a beat that is younger than
//! two thirds of the lease, on a clock that counts on while the machine sleeps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How fresh our lease is: the clock counts on while the machine sleeps, since Redis's does too.
#[derive(Debug)]
pub(crate) struct Lease {
    length: Duration,
    last_beat_ms: AtomicU64,
}

impl Lease {
    pub(crate) fn new(length: Duration) -> Lease {
        Lease {
            length,
            last_beat_ms: AtomicU64::new(0),
        }
    }

    /// Milliseconds since boot, sleep included.
    pub(crate) fn clock_ms() -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
    }

    /// A beat that was sent at `sent_ms` was accepted.
    pub(crate) fn renewed(&self, sent_ms: u64) {
        self.last_beat_ms.store(sent_ms, Ordering::Release);
    }

    /// Whether the last beat is younger than two thirds of the lease: nobody can have taken our jobs.
    pub(crate) fn is_fresh(&self) -> bool {
        let age = Lease::clock_ms().saturating_sub(self.last_beat_ms.load(Ordering::Acquire));
        u128::from(age) * 3 < self.length.as_millis() * 2
    }

    /// Its length.
    pub(crate) fn length(&self) -> Duration {
        self.length
    }
}
