//! Cancels that people asked for, on their way from the keeper, which learns of them, to the step that can
//! carry them out. Nothing depends on what lies here: the record says it too, for whoever owns the job next.

use crate::job::flight::Token;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest step ends within this time: a file of the largest size, fetched and put away at the slowest pace
/// (see `inputs`). What nobody took by then is over.
const REMEMBERED: Duration = Duration::from_secs(15 * 60);

/// Claims whose jobs are to be ended.
#[derive(Default)]
pub(crate) struct Cancels {
    asked: Mutex<HashMap<Token, Instant>>,
    /// How many, to be read without the lock by every step.
    count: AtomicUsize,
}

impl Cancels {
    fn lock(&self) -> MutexGuard<'_, HashMap<Token, Instant>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are to be ended.
    pub(crate) fn ask(&self, tokens: impl Iterator<Item = Token>, now: Instant) {
        let mut asked = self.lock();
        for token in tokens {
            asked.entry(token).or_insert(now);
        }
        self.count.store(asked.len(), Ordering::Release);
    }

    /// Whether this one is; the caller sees to it from here on.
    pub(crate) fn take(&self, token: &Token) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut asked = self.lock();
        let taken = asked.remove(token).is_some();
        self.count.store(asked.len(), Ordering::Release);
        taken
    }

    /// Those that no step has seen yet; what is too old is forgotten.
    pub(crate) fn open(&self, now: Instant) -> HashSet<Token> {
        if self.count.load(Ordering::Acquire) == 0 {
            return HashSet::new();
        }
        let mut asked = self.lock();
        asked.retain(|_, since| now.saturating_duration_since(*since) < REMEMBERED);
        self.count.store(asked.len(), Ordering::Release);
        asked.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_is_taken_once_and_forgotten_when_nobody_takes_it() {
        let cancels = Cancels::default();
        let (a, b) = (Token("a".into()), Token("b".into()));
        let now = Instant::now();
        assert!(!cancels.take(&a) && cancels.open(now).is_empty());
        cancels.ask([a.clone(), b.clone(), a.clone()].into_iter(), now);
        assert_eq!(cancels.open(now).len(), 2);
        assert!(cancels.take(&a) && !cancels.take(&a));
        // Asked once more: it is as old as the first time.
        let later = now + REMEMBERED;
        cancels.ask([b.clone()].into_iter(), later);
        assert!(cancels.open(later).is_empty() && !cancels.take(&b));
    }
}
