//! Whether this instance may still act for its jobs: a submit or a send needs a beat that is younger than
//! two thirds of the lease, on a clock that counts on while the machine sleeps.

use crate::job::UnixMs;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// A process that stood still for so long has been taken over, and the mark that says so (kept a day) may be gone
/// soon.
pub(crate) const FORGOTTEN_MS: u64 = 20 * 3_600_000;

/// How fresh our lease is: the clock counts on while the machine sleeps, since Redis's does too.
#[derive(Debug)]
pub(crate) struct Lease {
    length: Duration,
    last_beat_ms: AtomicU64,
    /// The same by Redis's clock; 0 before the first.
    last_beat_at: AtomicI64,
}

impl Lease {
    pub(crate) fn new(length: Duration) -> Lease {
        Lease {
            length,
            last_beat_ms: AtomicU64::new(0),
            last_beat_at: AtomicI64::new(0),
        }
    }

    /// Milliseconds since boot, sleep included.
    pub(crate) fn clock_ms() -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
    }

    /// A beat that was sent at `sent_ms` was accepted, `at` by Redis's clock.
    pub(crate) fn renewed(&self, sent_ms: u64, at: UnixMs) {
        self.last_beat_ms.store(sent_ms, Ordering::Release);
        self.last_beat_at.store(at.0, Ordering::Release);
    }

    /// Whether Redis has heard no beat for so long, by its own clock, that what it does not know of us any more it need
    /// not have lost: our clocks may have stood still with us, as those of a machine that was saved and goes on.
    pub(crate) fn is_forgotten(&self, now: UnixMs) -> bool {
        let last = self.last_beat_at.load(Ordering::Acquire);
        last != 0 && now.0.saturating_sub(last) > FORGOTTEN_MS as i64
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
