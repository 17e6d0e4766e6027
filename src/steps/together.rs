//! Writes of several jobs go to Redis together: an exchange costs it more than what a script does, and of a busy worker
//! most are made within a millisecond of another one. So do last writes, and those of results before their delivery.
//! A write waits for others only where a worker that is killed meanwhile loses nothing by it: of a last write its slot
//! of the step file tells, a result lies at fal still. And only where others are likely, so that a job which is alone
//! waits for nobody.

use super::Worker;
use crate::job::flight::{EndState, Flight, Write};
use crate::job::state::Next;
use crate::recorder::Held;
use crate::store::{Call, Part};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a write waits for others.
pub(crate) const COMPANY: Duration = Duration::from_millis(4);
/// With so many of them none waits any longer.
pub(crate) const FULL: usize = 32;

/// A flight whose one unsaved write waits.
pub(crate) struct Joined {
    pub(crate) flight: Box<Flight>,
    command: Waiting,
}

/// Its command, and of a last write the slot that holds it.
pub(crate) struct Waiting {
    part: Part,
    held: Option<Held>,
}

impl Waiting {
    #[cfg(test)]
    pub(crate) fn nothing() -> Waiting {
        Waiting {
            part: Part::nothing(),
            held: None,
        }
    }

    /// With its flight.
    pub(crate) fn of(self, flight: Box<Flight>) -> Joined {
        Joined {
            flight,
            command: self,
        }
    }
}

impl Joined {
    /// Whether that was the last write, and it stands.
    pub(crate) fn is_over(&self) -> bool {
        self.flight.closing && self.flight.unsaved.is_empty()
    }
}

/// When a write of one sort was last to be made.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// Another one is: whether it will hardly be alone for long.
    fn another(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.replace(now);
        before.is_some_and(|at| now.saturating_duration_since(at) < COMPANY)
    }
}

/// That of last writes, and of results.
#[derive(Debug, Default)]
pub(crate) struct Paces {
    ends: Pace,
    results: Pace,
}

impl Worker {
    /// Has the write of a flight wait for others, if it may; else gives its command back. `next`: what
    /// comes after it.
    pub(super) fn wait_for_company<'a>(
        &self,
        flight: &Flight,
        next: Next,
        call: Call<'a>,
    ) -> Result<Next, Call<'a>> {
        let paces = &self.tools.together;
        let (Some((_, write)), 1) = (flight.unsaved.front(), flight.unsaved.len()) else {
            return Err(call); // what Redis has not taken goes first
        };
        // Others are few, and mostly not written down as these are.
        let pace = match write {
            Write::End {
                state: EndState::Done,
                ..
            } => &paces.ends,
            Write::Save {
                patch,
                count: None,
                large: None,
            } if patch.stamp == Some("completed_at") && next == Next::Now => &paces.results,
            _ => return Err(call),
        };
        if !pace.another(Instant::now()) || self.moves_bytes {
            return Err(call);
        }
        let health = &self.tools.store.health;
        if health.is_away() || health.forgot() {
            return Err(call);
        }
        let held = match flight.closing && self.tools.recorder.is_whole() {
            true => self.slot.as_ref().and_then(|slot| slot.hand_over()),
            false => None,
        };
        if flight.closing && held.is_none() {
            return Err(call);
        }
        let part = call.into_part();
        self.waiting.set(Some(Waiting { part, held }));
        Ok(Next::In(COMPANY))
    }

    /// Makes the writes of these flights. One that does not stand stays with its flight, and of a last one in the
    /// journal, to be made by itself: then it shows why.
    pub(crate) fn write_together(&self, joined: &mut [Joined]) {
        for closing in [false, true] {
            let mut joined: Vec<_> = (joined.iter_mut())
                .filter(|one| one.flight.closing == closing)
                .collect();
            let rows: Vec<_> = (joined.iter())
                .filter_map(|one| {
                    let (seq, write) = one.flight.unsaved.front()?;
                    Some((&*one.flight, *seq, write, &one.command.part))
                })
                .collect();
            let stand = self.session.write_together(&rows);
            for (one, stands) in joined.iter_mut().zip(stand) {
                let (flight, held) = (&mut one.flight, &one.command.held);
                let Some((seq, write)) = flight.unsaved.pop_front() else {
                    continue;
                };
                if stands {
                    self.report_written(flight, &write);
                } else {
                    flight.unsaved.push_front((seq, write));
                    self.keep(flight, seq, held.is_some());
                }
                if let Some(held) = held {
                    held.release();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_waits_where_the_last_one_is_not_long_past() {
        let pace = Pace::default();
        let at = Instant::now();
        assert!(!pace.another(at));
        assert!(pace.another(at + COMPANY / 2));
        assert!(!pace.another(at + COMPANY * 2));
        assert!(pace.another(at + COMPANY * 2));
    }
}
