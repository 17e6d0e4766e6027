//! What ended in each minute, and how long it took: counted by each worker for itself, added up over all of
//! them, shown as plots. Pure: the time is an argument.
//!
//! Delays are counted in classes whose bounds grow by a fixed factor, so that the counts of many workers and
//! minutes add up, and a percentile of the sum is right within that factor whatever the distribution.

use super::UnixMs;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

/// Models of one minute that are counted by name, here as in Redis.
pub(crate) const MODELS: usize = 50;
/// What the models beyond that are counted as. No model is called so: those have a `/`.
pub(crate) const OTHER: &str = "other";
/// What is counted where there is no model: an entry that broke a rule.
pub(crate) const NONE: &str = "none";
/// Minutes that wait at most for a Redis that is away; then the oldest are given up.
const WAITING: usize = 60;
/// Classes of delays to a factor of two: each is 19 % wide.
const CLASSES_PER_2: f64 = 4.0;
/// The last class holds all that took longer than a day.
const CLASSES: u8 = 107;

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Well, so long after it was wanted.
    Done(Duration),
    /// `dead`.
    Failed,
    /// `cancelled`.
    Cancelled,
}

/// Jobs that ended, of one model or of all, in one minute or in many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Well.
    pub done: u64,
    /// `dead`.
    pub failed: u64,
    /// `cancelled`.
    pub cancelled: u64,
    /// Of those done: class of their delay, and how many.
    delays: BTreeMap<u8, u64>,
}

/// One minute: model, and what of it ended.
pub type Minute = BTreeMap<String, Counts>;

impl Counts {
    fn add(&mut self, ended: Ended) {
        match ended {
            Ended::Done(delay) => {
                self.done += 1;
                *self.delays.entry(class(delay)).or_default() += 1;
            }
            Ended::Failed => self.failed += 1,
            Ended::Cancelled => self.cancelled += 1,
        }
    }

    /// Adds what others counted.
    pub fn merge(&mut self, other: &Counts) {
        self.done = self.done.saturating_add(other.done);
        self.failed = self.failed.saturating_add(other.failed);
        self.cancelled = self.cancelled.saturating_add(other.cancelled);
        for (class, number) in &other.delays {
            let own = self.delays.entry(*class).or_default();
            *own = own.saturating_add(*number);
        }
    }

    /// The delay that this part (0 to 1) of the jobs did not pass, from coming in (or `not_before`) to done;
    /// `None` where none was done. It is within 19 % of the true one.
    pub fn delay(&self, part: f64) -> Option<Duration> {
        let all: u64 = self.delays.values().sum();
        let wanted = (part * all as f64).max(f64::MIN_POSITIVE);
        let mut below = 0.0;
        for (class, number) in &self.delays {
            let number = *number as f64;
            if below + number >= wanted {
                let inside = (wanted - below) / number;
                let ms = libm::exp2((f64::from(*class) - 1.0 + inside) / CLASSES_PER_2);
                return Some(Duration::from_micros((ms * 1000.0) as u64));
            }
            below += number;
        }
        None
    }

    /// What [`fmt::Display`] wrote; garbage counts as nothing.
    pub fn parse(text: &str) -> Counts {
        let mut counts = Counts::default();
        let mut plain = [0; 3];
        for (place, word) in text.split(' ').enumerate() {
            match word.split_once(':') {
                None if place < plain.len() => plain[place] = word.parse().unwrap_or(0),
                None => {}
                Some((class, number)) => {
                    if let (Ok(class @ 0..=CLASSES), Ok(number)) = (class.parse(), number.parse()) {
                        counts.delays.insert(class, number);
                    }
                }
            }
        }
        [counts.done, counts.failed, counts.cancelled] = plain;
        counts
    }
}

/// `<done> <failed> <cancelled>`, then `<class>:<number>` for each class with delays in it.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.done, self.failed, self.cancelled)?;
        for (class, number) in &self.delays {
            write!(f, " {class}:{number}")?;
        }
        Ok(())
    }
}

/// The class `n` holds delays up to `2^(n/4)` ms.
fn class(delay: Duration) -> u8 {
    let ms = delay.as_secs_f64() * 1000.0;
    // A cast of a float keeps to the bounds of its type; the logarithm of nothing is far below them.
    ((libm::log2(ms) * CLASSES_PER_2).ceil() as u8).min(CLASSES)
}

/// What this process counted and Redis does not know yet.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counted: BTreeMap<i64, Minute>,
    /// What Redis was told and did not confirm; a repeat has the same number.
    told: Option<(u64, BTreeMap<i64, Minute>)>,
    batches: u64,
}

impl Tally {
    /// Counts one end, at a time of Redis's clock.
    pub(crate) fn count(&mut self, now: UnixMs, model: Option<&str>, ended: Ended) {
        let minute = now.0.div_euclid(60_000);
        let models = self.counted.entry(minute).or_default();
        let model = model.unwrap_or(NONE);
        let full = models.len() >= MODELS;
        match models.get_mut(model) {
            Some(counts) => counts.add(ended),
            None => {
                let name = if full { OTHER } else { model };
                models.entry(name.to_owned()).or_default().add(ended);
            }
        }
        while self.counted.len() > WAITING {
            self.counted.pop_first();
        }
    }

    /// What is to be told, with its number: again what was not confirmed, else what came since.
    pub(crate) fn batch(&mut self) -> Option<(u64, BTreeMap<i64, Minute>)> {
        if self.told.is_none() && !self.counted.is_empty() {
            self.batches += 1;
            self.told = Some((self.batches, std::mem::take(&mut self.counted)));
        }
        self.told.clone()
    }

    /// Redis has taken this batch.
    pub(crate) fn confirm(&mut self, batch: u64) {
        self.told.take_if(|(number, _)| *number == batch);
    }
}

/// Whole words of a minute as Redis keeps them: model and counts, in turn.
pub(crate) fn words(minute: &Minute) -> impl Iterator<Item = (&str, String)> {
    minute.iter().map(|(model, counts)| {
        let mut text = String::with_capacity(48);
        let _ = write!(text, "{counts}");
        (model.as_str(), text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn done(ms: u64) -> Ended {
        Ended::Done(Duration::from_millis(ms))
    }

    #[test]
    fn a_percentile_of_what_many_counted_is_right_within_a_class() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut parts = vec![Counts::default(); 5];
        let mut all: Vec<u64> = Vec::new();
        for number in 0..20_000 {
            // From a millisecond to a day, two populations.
            let ms = if number % 10 == 0 {
                2f64.powf(random.f64() * 26.0)
            } else {
                3000.0 + 2000.0 * random.f64()
            } as u64;
            all.push(ms);
            parts[number % 5].add(done(ms));
        }
        all.sort_unstable();
        let mut sum = Counts::default();
        for part in &parts {
            sum.merge(&Counts::parse(&part.to_string()));
        }
        assert_eq!(sum.done, 20_000);
        for part in [0.01, 0.1, 0.5, 0.9, 0.99, 1.0] {
            let place = ((part * all.len() as f64).ceil() as usize).max(1) - 1;
            let (truth, told) = (all[place] as f64, sum.delay(part).unwrap());
            let ratio = told.as_secs_f64() * 1000.0 / truth;
            assert!((0.84..1.2).contains(&ratio), "{part}: {truth} {told:?}");
        }
        assert_eq!(Counts::default().delay(0.5), None);
    }

    #[test]
    fn every_delay_has_a_class_and_what_is_written_is_read() {
        let mut before = 0;
        for ms in [0, 1, 2, 3, 10, 1000, 86_400_000, u64::MAX / 2000] {
            let class = class(Duration::from_millis(ms));
            assert!((before..=CLASSES).contains(&class), "{ms}: {class}");
            before = class;
        }
        let mut counts = Counts::default();
        for ended in [done(0), done(1500), done(1500), Ended::Failed] {
            counts.add(ended);
        }
        counts.add(Ended::Cancelled);
        assert_eq!(counts.to_string(), "3 1 1 0:1 43:2");
        assert_eq!(Counts::parse("3 1 1 0:1 43:2"), counts);
        for garbage in ["", "x", "-1 2:3:4", "1e9", ": :", "999:1", "\u{0}"] {
            let counts = Counts::parse(garbage);
            assert_eq!((counts.done, counts.delay(0.5)), (0, None), "{garbage}");
        }
    }

    #[test]
    fn models_and_minutes_that_wait_are_bounded() {
        let mut tally = Tally::default();
        for minute in 0..200 {
            for model in 0..80 {
                let model = format!("a/{model}");
                tally.count(UnixMs(minute * MINUTE), Some(&model), Ended::Failed);
            }
        }
        let (_, minutes) = tally.batch().unwrap();
        assert_eq!(minutes.len(), WAITING);
        assert_eq!(minutes.last_key_value().unwrap().0, &199);
        let last = &minutes[&199];
        assert_eq!((last.len(), last[OTHER].failed), (MODELS + 1, 30));
    }

    #[test]
    fn what_was_not_confirmed_is_told_again_under_its_number() {
        let mut tally = Tally::default();
        assert!(tally.batch().is_none());
        tally.count(UnixMs(MINUTE), None, Ended::Failed);
        let first = tally.batch().unwrap();
        tally.count(UnixMs(MINUTE), Some("a/b"), done(5));
        assert_eq!(tally.batch().unwrap(), first);
        tally.confirm(first.0 + 1);
        assert_eq!(tally.batch().unwrap(), first, "another batch");
        tally.confirm(first.0);
        let second = tally.batch().unwrap();
        assert!(second.0 > first.0);
        assert_eq!(second.1[&1].keys().collect::<Vec<_>>(), ["a/b"]);
        tally.confirm(second.0);
        assert!(tally.batch().is_none());
    }
}
