//! The rate of lines. When a thousand jobs meet the same trouble, a line each helps nobody: it hides the
//! others, and the journal drops lines of a service that writes too many, without asking which. So lines of
//! one sort pass whole while they are few; from there on they are held back and told together, and since
//! such a line names every job it stands for, `journalctl -g` still finds each. Pure, given the time.

use super::Level;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines are counted over this long, and what was held back is told when it is over.
pub(super) const SPAN: Duration = Duration::from_secs(5);
/// Warnings and errors of one sort that pass in a span; after one that held some back only the first does.
pub(super) const WARNINGS: u32 = 10;
/// Other lines of one sort: a job's start and end have a line each up to a hundred a second. The journal
/// takes 333 a second of one service, all sorts together.
pub(super) const OTHERS: u32 = 500;
/// What such a sentence ends in: somebody may pay, or be shown a thing, twice. Of that a line must be out
/// before it happens, or a kill takes what was held back with it. So there are as many of them as of other
/// lines, and what is over that is told at the next look instead of when the span is over.
const DOUBT: &str = "again after unknown";
/// Names in one line, bytes: under what a value is cut at.
const NAMES: usize = 900;

/// Lines of one sort differ in nothing that counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sort {
    pub(super) level: Level,
    pub(super) sentence: String,
    pub(super) kind: Option<String>,
    pub(super) charged: Option<String>,
}

impl Sort {
    fn is_doubt(&self) -> bool {
        self.sentence.ends_with(DOUBT)
    }

    /// Lines that pass in a span; `flooded`: the one before it held some back.
    fn most(&self, flooded: bool) -> u32 {
        match self.level {
            Level::Error | Level::Warn if self.is_doubt() => OTHERS,
            Level::Error | Level::Warn if flooded => 1,
            Level::Error | Level::Warn => WARNINGS,
            Level::Info | Level::Debug | Level::Trace => OTHERS,
        }
    }
}

/// Lines of one sort that were held back, and nowhere told yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) sort: Sort,
    pub(super) count: u64,
    /// Ids of their jobs, with blanks between.
    pub(super) jobs: String,
    /// Since the first of them.
    pub(super) within: Duration,
}

/// What came of one sort.
#[derive(Debug)]
struct Seen {
    began: Instant,
    whole: u32,
    most: u32,
    /// Some were held back in this span.
    floods: bool,
    count: u64,
    jobs: String,
    since: Instant,
}

impl Seen {
    fn new(now: Instant, most: u32) -> Seen {
        Seen {
            began: now,
            whole: 0,
            most,
            floods: false,
            count: 0,
            jobs: String::new(),
            since: now,
        }
    }

    fn take(&mut self, sort: &Sort, now: Instant) -> Option<Held> {
        (self.count > 0).then(|| Held {
            sort: sort.clone(),
            count: std::mem::take(&mut self.count),
            jobs: std::mem::take(&mut self.jobs),
            within: now.saturating_duration_since(self.since),
        })
    }
}

/// The gate. One lock, held for a look into a small map: less than the line to stderr behind it costs.
#[derive(Debug)]
pub(super) struct Flood(Mutex<BTreeMap<Sort, Seen>>);

impl Flood {
    pub(super) const fn new() -> Flood {
        Flood(Mutex::new(BTreeMap::new()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Sort, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a line may go out now; if not it is counted, with its job. Gives besides what is to be told
    /// of those before it.
    pub(super) fn passes(
        &self,
        sort: &Sort,
        job: Option<&str>,
        now: Instant,
    ) -> (bool, Option<Held>) {
        let mut sorts = self.lock();
        if !sorts.contains_key(sort) {
            sorts.insert(sort.clone(), Seen::new(now, sort.most(false)));
        }
        let seen = sorts.get_mut(sort).expect("it was put there");
        let mut told = None;
        let span = now.saturating_duration_since(seen.began);
        if span >= SPAN {
            told = seen.take(sort, now);
            let flooded = seen.floods && span < 2 * SPAN;
            *seen = Seen::new(now, sort.most(flooded));
        }
        if seen.whole < seen.most {
            seen.whole += 1;
            return (true, told);
        }
        seen.floods = true;
        if seen.count == 0 {
            seen.since = now;
        }
        if let Some(job) = job {
            if seen.jobs.len() + job.len() >= NAMES {
                // Only one of the two can be there: a span that has just begun has held nothing back.
                told = told.or(seen.take(sort, now));
                seen.since = now;
            }
            if !seen.jobs.is_empty() {
                seen.jobs.push(' ');
            }
            seen.jobs.push_str(job);
        }
        seen.count += 1;
        (false, told)
    }

    /// What was held back in spans that are over, and of doubts in any. Sorts that have been quiet are forgotten.
    pub(super) fn over(&self, now: Instant) -> Vec<Held> {
        let mut sorts = self.lock();
        let mut told = Vec::new();
        for (sort, seen) in &mut *sorts {
            if sort.is_doubt() || now.saturating_duration_since(seen.began) >= SPAN {
                told.extend(seen.take(sort, now));
            }
        }
        sorts.retain(|_, seen| now.saturating_duration_since(seen.began) < 2 * SPAN);
        told
    }

    /// All that was held back: the process ends.
    pub(super) fn rest(&self, now: Instant) -> Vec<Held> {
        let mut sorts = self.lock();
        let told = sorts.iter_mut();
        told.filter_map(|(sort, seen)| seen.take(sort, now))
            .collect()
    }
}
