//! What Redis refuses again and again until a person has looked: told once when it begins, once for each
//! other reason, and once when it is over.

use super::{Level, line, warning};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Reasons of one refusal that are told at most: two that take turns have a line each, and no more.
const REASONS: usize = 8;
/// What a person does about it.
const HINT: &str = "fal-worker check says what is wrong with this redis";

/// Where in its round a thread was refused, or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// When it asked for what is there: in a call that does not block, a claim or a take.
    Asking,
    /// When it waited for more, for the bell or the inbox. So that asking goes well does not end it.
    Waiting,
}

/// One kind of call that Redis may refuse: a claim, an intake. Shared by reference.
#[derive(Debug)]
pub struct Refusals {
    begins: &'static str,
    over: &'static str,
    now: Mutex<Option<Refusal>>,
}

#[derive(Debug)]
struct Refusal {
    since: Instant,
    at: At,
    told: Vec<String>,
}

impl Refusals {
    /// With the sentences for its beginning and its end.
    pub const fn new(begins: &'static str, over: &'static str) -> Refusals {
        Refusals {
            begins,
            over,
            now: Mutex::new(None),
        }
    }

    /// A call was refused. `in_the_way`, asked only for a line: a key of ours that holds something else, and
    /// what.
    pub fn refused(
        &self,
        why: &str,
        at: At,
        in_the_way: impl FnOnce() -> Option<(String, String)>,
    ) {
        if !self.is_news(why, at, Instant::now()) {
            return;
        }
        let (key, holds) = in_the_way().unzip();
        warning(
            self.begins,
            &[
                ("why", &why),
                ("key", &key),
                ("holds", &holds),
                ("hint", &HINT),
            ],
        );
    }

    /// A call went well.
    pub fn taken(&self, at: At) {
        if let Some(after) = self.ends(at, Instant::now()) {
            line(Level::Info, self.over, &[("after_s", &after)]);
        }
    }

    pub(super) fn is_news(&self, why: &str, at: At, moment: Instant) -> bool {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let refusal = now.get_or_insert_with(|| Refusal {
            since: moment,
            at,
            told: Vec::new(),
        });
        refusal.at = at;
        let news = refusal.told.len() < REASONS && !refusal.told.iter().any(|told| told == why);
        if news {
            refusal.told.push(why.to_owned());
        }
        news
    }

    pub(super) fn ends(&self, at: At, moment: Instant) -> Option<Duration> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let over = now.take_if(|refusal| at == At::Waiting || refusal.at == At::Asking)?;
        Some(moment.saturating_duration_since(over.since))
    }
}
