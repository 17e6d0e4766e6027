//! The free look at the key with all that it tells: for `check`.

use super::{Fal, OTHER_BYTES, Probe, answer};
use std::time::{Duration, Instant};

/// What a look brought.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Whether fal takes the key.
    pub probe: Probe,
    /// In words, without the key: the status, or why there was no answer.
    pub said: String,
    /// `Date` of the answer, as it came.
    pub date: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl Fal {
    /// Status of a request that does not exist, within this time: 404 where the key is good.
    pub fn look(&self, limit: Duration) -> Look {
        let url = format!("{}/{}", self.urls.queue, super::NOBODY);
        let began = Instant::now();
        let wire = self.call("GET", &url, &[], None, (limit, OTHER_BYTES));
        let (said, date) = match &wire {
            Ok(answer) => (
                format!("HTTP {}", answer.status),
                answer.header("date").map(str::to_owned),
            ),
            Err(broken) => (broken.to_string(), None),
        };
        Look {
            probe: answer::probed(wire),
            said,
            date,
            took: began.elapsed(),
        }
    }
}
