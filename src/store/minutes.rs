//! The buckets of minutes: what ended on all workers, a hash a minute, a model a field. They are for plots
//! alone, go by themselves after a day, and may be lost at any time.

use super::view::View;
use super::*;
use crate::job::gathered;
use crate::job::minutes::{Counts, MODELS, Minute, OTHER, words};
use std::collections::BTreeMap;

/// A day is shown, and the hour in which it began.
const STAYS: Duration = Duration::from_secs(25 * 3600);
/// Buckets read in one exchange.
const READ: usize = 240;

impl Session {
    /// Adds what this worker counted. A repeat under the same number counts nothing twice.
    pub(crate) fn add_minutes(
        &self,
        batch: u64,
        minutes: &BTreeMap<i64, Minute>,
    ) -> Result<(), Fault> {
        let keys = &self.store.keys;
        let mut names = vec![keys.worker(&self.store.identity().instance)];
        names.extend(minutes.keys().map(|minute| keys.minute(*minute)));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut call = Call::new(&self.store.scripts.minutes, &names)
            .arg(batch)
            .arg(MODELS)
            .arg(OTHER)
            .arg(STAYS.as_secs());
        for (place, minute) in minutes.values().enumerate() {
            for (model, counts) in words(minute) {
                // Lua counts from one, and the first key is the instance.
                call = call.arg(place + 2).arg(model).arg(counts);
            }
        }
        self.script(&call).map(|_| ())
    }
}

impl View {
    /// What ended in these minutes (since the Unix epoch), oldest first; nothing for one without a bucket.
    pub fn minutes(&mut self, from: i64, to: i64) -> Result<Vec<(i64, Minute)>, Fault> {
        let all: Vec<i64> = (from..=to).collect();
        let mut found = Vec::new();
        for some in all.chunks(READ) {
            let mut pipe = redis::pipe();
            for minute in some {
                pipe.cmd("HGETALL").arg(self.keys.minute(*minute));
            }
            let buckets: Vec<Vec<(Vec<u8>, Vec<u8>)>> = self.ask_all(&pipe)?;
            for (minute, bucket) in some.iter().zip(buckets) {
                if bucket.is_empty() {
                    continue;
                }
                let models = bucket.iter().map(|(model, counts)| {
                    let counts = Counts::parse(&String::from_utf8_lossy(counts));
                    (String::from_utf8_lossy(model).into_owned(), counts)
                });
                found.push((*minute, gathered(models)));
            }
        }
        Ok(found)
    }
}
