//! All that is known of one job at one moment: what `why` judges from, and nothing else.

use super::super::table::visible;
use crate::job::UnixMs;
use crate::job::pace::Pace;
use crate::store::view::{InInbox, ModelLimit, Owner, PauseView, Place, SILENT, UserView};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// What was seen. Times are those of Redis's clock.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) now: UnixMs,
    pub(crate) id: String,
    /// Empty: no record.
    pub(crate) record: BTreeMap<String, String>,
    pub(crate) inbox: Option<InInbox>,
    /// Workers in the list of the living, with the time since their last beats.
    pub(crate) living: Vec<(String, Duration)>,
    /// The instance that the record names, for a running job.
    pub(crate) owner: Option<Owner>,
    pub(crate) pause: Option<PauseView>,
    pub(crate) settling: bool,
    /// No worker can write down that it lives.
    pub(crate) redis_refuses: bool,
    /// In the ready lists and lines.
    pub(crate) place: Option<Place>,
    /// Among the paid ones.
    pub(crate) paid_place: Option<u64>,
    /// At fal, and how many may be by the submit window.
    pub(crate) window: Option<(u64, u64)>,
    pub(crate) limit: Option<ModelLimit>,
    pub(crate) user: Option<UserView>,
    pub(crate) rate_until: Option<UnixMs>,
    pub(crate) pace: Option<Pace>,
    /// The `timeout_s` of its entry, for a job that ended as `timeout`.
    pub(crate) timeout_s: Option<u64>,
    /// Ends (done, failed) of the last minutes, the present one last.
    pub(crate) minutes: Vec<(u64, u64)>,
    /// What the workers said that were asked; `None`: no answer in time.
    pub(crate) answers: Vec<(String, Option<Value>)>,
}

impl Facts {
    /// A field of the record; empty ones count as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let value = self.record.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    /// What went wrong, as its record says it, between these; a full stop of its own is cut.
    pub(crate) fn error(&self, before: &str, after: &str) -> String {
        self.get("error").map_or_else(String::new, |text| {
            format!("{before}{}{after}", visible(text.trim_end_matches('.')))
        })
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    pub(crate) fn at(&self, name: &str) -> Option<UnixMs> {
        self.get(name)?.parse().ok().map(UnixMs)
    }

    /// Since this time; zero for one that lies ahead.
    pub(crate) fn since(&self, at: UnixMs) -> Duration {
        at.until(self.now)
    }

    /// Until this time; zero for one that has passed.
    pub(crate) fn until(&self, at: UnixMs) -> Duration {
        self.now.until(at)
    }

    pub(crate) fn model(&self) -> &str {
        self.get("model").unwrap_or("its model")
    }

    /// Paid for, or only to be told: every limit lets it pass.
    pub(crate) fn passes_limits(&self) -> bool {
        self.get("request_id").is_some()
            || self.get("phase").is_some_and(|phase| phase != "submitting")
    }

    /// Workers that beat.
    pub(crate) fn beating(&self) -> usize {
        let beating = self.living.iter().filter(|(_, age)| *age < SILENT);
        beating.count()
    }

    /// Whether a worker has missed several beats.
    pub(crate) fn is_silent(age: Duration) -> bool {
        age >= SILENT
    }

    /// What the owner said of this job: null where it is not in its hands.
    pub(crate) fn said_of_job(&self) -> Option<&Value> {
        let owner = self.get("worker")?;
        let (_, answer) = self.answers.iter().find(|(one, _)| one == owner)?;
        answer.as_ref()?.get("jobs")?.get(&self.id)
    }

    /// Whether the owner said that a service is away.
    pub(crate) fn is_away(&self, service: &str) -> bool {
        let answers = self
            .answers
            .iter()
            .filter_map(|(_, answer)| answer.as_ref());
        answers
            .filter_map(|answer| answer["away"].as_array())
            .flatten()
            .any(|one| one == service)
    }

    /// Why none of the workers that answered asks for new jobs; `None`: one does, or nobody answered.
    pub(crate) fn nobody_pulls(&self) -> Option<&str> {
        let answers = self
            .answers
            .iter()
            .filter_map(|(_, answer)| answer.as_ref());
        let said: Vec<&str> = answers
            .filter_map(|answer| answer["pulling"].as_str())
            .collect();
        let first = said.first().copied()?;
        said.iter().all(|word| *word != "yes").then_some(first)
    }
}
