//! The domain: what a job is and what may happen to it. It knows no clock, socket, thread or
//! randomness; time and random numbers come in as values, so that every decision is testable alone.

pub mod answer;
pub mod failure;
pub mod flight;
pub(crate) mod inputs;
pub mod minutes;
pub mod pace;
pub mod pattern;
pub mod schedule;
pub mod spec;
pub mod state;
pub mod window;
pub mod words;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Milliseconds since the Unix epoch, always of Redis's clock (workers' clocks do not matter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMs(pub i64);

impl UnixMs {
    /// The time from here to there; nothing when the clock went back.
    pub fn until(self, later: UnixMs) -> Duration {
        Duration::from_millis(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

/// A job's id: 1-128 of `[A-Za-z0-9._:-]` (contract section 1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(Arc<str>);

impl JobId {
    /// Takes an id that already obeys the rule; `None` when it does not.
    pub fn new(text: &str) -> Option<JobId> {
        let fits = (1..=128).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
        fits.then(|| JobId(text.into()))
    }

    /// An id made from 130 random bits: `j-` and 26 base32 characters (contract section 8).
    pub fn made(random: [u8; 17]) -> JobId {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut text = String::from("j-");
        for place in 0..26 {
            let bit = place * 5;
            let two = u16::from_be_bytes([random[bit / 8], *random.get(bit / 8 + 1).unwrap_or(&0)]);
            let five = (two >> (11 - bit % 8)) & 31;
            text.push(ALPHABET[five as usize] as char);
        }
        JobId(text.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A request id of fal: opaque text (fal-api section 3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub Arc<str>);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a running job stands (contract section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// A submit is due or under way: the only phase that costs money.
    Submitting,
    /// fal has accepted the request; its status is asked for now and then.
    Polling,
    /// fal has finished; the result is to be fetched.
    Collecting,
    /// The result is recorded; it goes to the chat.
    Delivering,
    /// The job failed; its user is to be told.
    Telling,
}

impl Phase {
    /// The word stored in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Submitting => "submitting",
            Phase::Polling => "polling",
            Phase::Collecting => "collecting",
            Phase::Delivering => "delivering",
            Phase::Telling => "telling",
        }
    }

    /// Reads the stored word.
    pub fn parse(word: &str) -> Option<Phase> {
        Some(match word {
            "submitting" => Phase::Submitting,
            "polling" => Phase::Polling,
            "collecting" => Phase::Collecting,
            "delivering" => Phase::Delivering,
            "telling" => Phase::Telling,
            _ => return None,
        })
    }
}

/// Queue a job waits in, served strictly in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Priority {
    /// Served first.
    High,
    /// The usual one.
    #[default]
    Default,
    /// Served when nothing else waits.
    Low,
}

impl Priority {
    /// The word of the job JSON, the record and the key name.
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::High => "high",
            Priority::Default => "default",
            Priority::Low => "low",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Priority> {
        Some(match word {
            "high" => Priority::High,
            "default" => Priority::Default,
            "low" => Priority::Low,
            _ => return None,
        })
    }
}

/// Whether fal charges for a job. Over several attempts the worst counts, hence the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Charged {
    /// fal never accepted it, or fal's own fault.
    #[default]
    No,
    /// Cut off, or a submit of unknown outcome.
    Unknown,
    /// fal gave a result, or an error with billable units.
    Yes,
}

impl Charged {
    /// The word of the record and the events.
    pub fn as_str(self) -> &'static str {
        match self {
            Charged::No => "no",
            Charged::Unknown => "unknown",
            Charged::Yes => "yes",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Charged> {
        Some(match word {
            "no" => Charged::No,
            "unknown" => Charged::Unknown,
            "yes" => Charged::Yes,
            _ => return None,
        })
    }
}

/// Language of the built-in texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Russian.
    Ru,
}

impl Lang {
    /// Reads `en` or `ru`.
    pub fn parse(word: &str) -> Option<Lang> {
        match word {
            "en" => Some(Lang::En),
            "ru" => Some(Lang::Ru),
            _ => None,
        }
    }

    /// The word of the job JSON and the flag.
    pub fn as_str(self) -> &'static str {
        match self {
            Lang::En => "en",
            Lang::Ru => "ru",
        }
    }
}

/// Collects into a map; of two items with one name the later one wins. Not by `collect`: that sorts first, and its
/// sort is compiled anew for each place that calls it, a fiftieth of the program in all. It stands here because every
/// layer uses it.
pub(crate) fn gathered<M: Default + Extend<T>, T>(items: impl IntoIterator<Item = T>) -> M {
    let mut all = M::default();
    all.extend(items);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_id_is_a_valid_id_and_uses_all_its_bits() {
        let zeros = JobId::made([0; 17]);
        let ones = JobId::made([255; 17]);
        assert_eq!(zeros.as_str(), format!("j-{}", "a".repeat(26)));
        assert_eq!(ones.as_str(), format!("j-{}", "7".repeat(26)));
        assert_eq!(JobId::new(ones.as_str()), Some(ones));
    }

    #[test]
    fn ids_outside_the_rule_are_refused() {
        for bad in ["", "a b", "a/b", "ä", "a\n", &"x".repeat(129)] {
            assert_eq!(JobId::new(bad), None, "{bad:?}");
        }
    }
}
