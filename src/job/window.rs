//! How many requests all workers together keep at fal (`--fal-concurrency auto`), decided from what their
//! polls see. An account runs 2 to 40 requests at once and nobody can ask how many; what is over that waits
//! in fal's own first-in-first-out queue, where our priorities, fairness and free cancel no longer count.
//! So the window should be what runs, and a little more, so that a slot that falls free is filled before we
//! hear of it.
//!
//! Pure: what was seen and the window give the next window, once a second.

use super::UnixMs;

/// Requests kept waiting at fal, so that no paid slot stands idle between an end and the next submit.
pub const OVERHANG: u32 = 2;
/// No account runs so many at once.
pub const MOST: u32 = 1000;

/// Seconds in a row before a window grows beyond where the slots were full, and before more are submitted to
/// see whether what waits does so for slots.
const CALM: u32 = 3;
/// Seconds after that for one of them to run.
const PATIENCE: u32 = 10;
/// So many may wait meanwhile.
const DOUBTED: u32 = 8;
/// Of two submits that began closer together nobody knows which came first.
const ORDERED_MS: i64 = 1000;

/// What a worker last heard of a request that fal accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing yet.
    Nothing,
    /// That it waits in fal's queue.
    Queued,
    /// That it runs.
    Runs,
}

/// What is known of the requests at fal: of one worker, or of all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// They run.
    pub running: u32,
    /// They wait for a slot of the account.
    pub queued: u32,
    /// Nobody knows yet.
    pub unknown: u32,
    /// When the latest of all that anybody ever saw running was submitted.
    pub ran: Option<UnixMs>,
}

impl Seen {
    /// From each request at fal: when it was submitted, and what was heard of it. `ran`: when the latest of all
    /// that anybody saw running until now was submitted. One that waits although a later one ran does not wait for
    /// a slot but for its own model's runner (a cold start): it is not counted.
    pub fn of(
        requests: impl Iterator<Item = (UnixMs, Heard)> + Clone,
        ran: Option<UnixMs>,
    ) -> Seen {
        let newest = requests
            .clone()
            .filter(|(_, heard)| *heard == Heard::Runs)
            .map(|(at, _)| at)
            .max();
        let ran = newest.max(ran);
        let overtaken = |at: UnixMs| ran.is_some_and(|ran| at.0 + ORDERED_MS < ran.0);
        let mut seen = Seen {
            ran,
            ..Seen::default()
        };
        for (at, heard) in requests {
            match heard {
                Heard::Runs => seen.running += 1,
                Heard::Nothing => seen.unknown += 1,
                Heard::Queued if overtaken(at) => {}
                Heard::Queued => seen.queued += 1,
            }
        }
        seen
    }

    /// Of several workers together.
    pub fn and(self, other: Seen) -> Seen {
        Seen {
            running: self.running.saturating_add(other.running),
            queued: self.queued.saturating_add(other.queued),
            unknown: self.unknown.saturating_add(other.unknown),
            ran: self.ran.max(other.ran),
        }
    }
}

/// The window, and what it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How many requests may be at fal.
    pub size: u32,
    /// How many ran while ours had to wait for slots; 0: never seen, or there are more by now.
    pub slots: u32,
    /// Seconds in a row in which all of it ran although more was not expected to; or in which some waited although
    /// fewer ran than had.
    pub calm: u32,
}

impl Default for Window {
    /// Nothing is known: a new account's two slots and the overhang.
    fn default() -> Window {
        Window {
            size: 2 + OVERHANG,
            slots: 0,
            calm: 0,
        }
    }
}

impl Window {
    /// After a second in which this was seen; `at_fal`: so many places of the window were taken.
    ///
    /// More than the overhang waits while others of ours run: the slots are full, and the window shrinks
    /// towards what runs and the overhang, by an eighth a second, since what is known is a poll old. All of the
    /// window runs: there may be more slots, and it grows, by a half up to where they were full before. There only
    /// a few such seconds in a row count, since what has ended a moment ago is still believed to run: by one,
    /// and by a half again once it is clear that there are more. Of short generations never all run: some are
    /// being submitted, some nobody has looked at, some have ended. So a window that is full, and of which nothing
    /// waits, for a few seconds in a row, grows as well, by an eighth. Otherwise it stays.
    ///
    /// Some wait and fewer run than did while others waited: either there are fewer slots now, or those that wait do
    /// so for a runner of their model, and slots stand idle. fal's queue tells by itself: one that is submitted now
    /// runs before they do, or does not. So the window stays open for what ends, and if that brings nothing new
    /// for a few seconds, it grows by what is missing. If still none of them runs, the slots have become fewer.
    pub fn after(self, seen: Seen, at_fal: u32) -> Window {
        let Window {
            mut size,
            mut slots,
            mut calm,
        } = self;
        let Seen {
            running,
            queued,
            unknown,
            ..
        } = seen;
        let busy = running.saturating_add(unknown);
        let known = slots.saturating_add(OVERHANG);
        let all_run = queued == 0 && running >= size;
        // Where polls bring nothing all is unknown for ever: a part must be seen running. Where fewer run than could,
        // others have the places and do not count.
        let idle = busy < slots && size < known.saturating_mul(2);
        let fits = queued == 0
            && at_fal >= size
            && (idle || (busy.saturating_mul(2) >= size && running.saturating_mul(8) >= size));
        let doubtful = queued > 0 && running < slots;
        if !all_run && !fits && !doubtful {
            calm = 0;
        }
        let less = size - (size / 8).max(1).min(size);
        if doubtful && queued <= DOUBTED {
            calm += 1;
            if calm < CALM {
                size = less.max(known).min(size);
            } else if calm == CALM {
                let missing = slots.saturating_sub(busy).min(DOUBTED - queued);
                size = size.max(at_fal.saturating_add(missing));
            } else if calm >= CALM + PATIENCE {
                (slots, calm) = (running.max(1), 0);
            }
        } else if queued > 0 && running > 0 {
            slots = slots.max(running);
            if queued > OVERHANG {
                size = less.max(busy.saturating_add(OVERHANG)).min(size);
            }
        } else if all_run || fits {
            let half = size.saturating_add((size / 2).max(1));
            calm += 1;
            if slots > 0 && size < known {
                (size, calm) = (half.min(known), 0);
            } else if idle {
                if calm >= CALM {
                    (size, calm) = (size.saturating_add(slots - busy), 0);
                }
            } else if slots > 0 && size < known + (slots / 4).max(OVERHANG) {
                if calm >= CALM {
                    (size, calm) = (size + 1, 0);
                }
            } else if all_run {
                (size, slots, calm) = (half, 0, 0);
            } else if calm >= CALM {
                (size, slots, calm) = (size + (size / 8).max(1), 0, 0);
            }
        }
        Window {
            size: size.clamp(OVERHANG, MOST),
            slots,
            calm,
        }
    }
}

#[cfg(test)]
mod tests;
