//! What bears on one job beside its record: who holds it, the limits it meets, how quick others are.

use super::{Fault, View};
use crate::job::UnixMs;
use crate::job::pace::Pace;
use crate::job::pattern::Pattern;
use std::collections::BTreeMap;
use std::time::Duration;

/// An instance as its list and its hash tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Since its last beat; `None`: it is not in the list of the living.
    pub beat_age: Option<Duration>,
    /// It was marked dead, its jobs are given to others.
    pub is_dead: bool,
    /// Its hash is there.
    pub is_known: bool,
}

/// What one user may do at once, and does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserView {
    /// Jobs that use one of his slots.
    pub running: Vec<String>,
    /// How many may; 0: any number.
    pub slots: u64,
    /// Jobs a span, as the flag takes it.
    pub rate: Option<String>,
    /// How many more may begin at once by that rate.
    pub left: Option<u64>,
}

/// A limit of models, and how full it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLimit {
    /// Its pattern.
    pub pattern: String,
    /// Requests at fal that it counts.
    pub now: u64,
    /// How many there may be.
    pub most: u64,
}

impl View {
    /// All living instances, with the time since their last beats.
    pub fn living(&mut self) -> Result<Vec<(String, Duration)>, Fault> {
        let now = self.now()?;
        let mut cmd = redis::cmd("ZRANGE");
        cmd.arg(&self.keys.workers).arg(0).arg(-1).arg("WITHSCORES");
        let all: Vec<(String, i64)> = self.ask(&cmd)?;
        let all = all.into_iter();
        Ok(all
            .map(|(instance, beat)| (instance, UnixMs(beat).until(now)))
            .collect())
    }

    /// What is known of one instance.
    pub fn owner(&mut self, instance: &str) -> Result<Owner, Fault> {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(self.keys.worker(instance)).arg(&["dead", "name"]);
        let (dead, name): (Option<String>, Option<String>) = self.ask(&cmd)?;
        let living = self.living()?;
        let beat = living.into_iter().find(|(one, _)| one == instance);
        Ok(Owner {
            beat_age: beat.map(|(_, age)| age),
            is_dead: dead.is_some(),
            is_known: name.is_some(),
        })
    }

    /// Whether nobody pulls until workers have written down again what Redis forgot.
    pub fn is_settling(&mut self) -> Result<bool, Fault> {
        self.ask(redis::cmd("EXISTS").arg(&self.keys.settling))
    }

    /// Requests at fal, and how many may be there by the submit window; `None`: there is none.
    pub fn window(&mut self) -> Result<Option<(u64, u64)>, Fault> {
        let mut held = BTreeMap::new();
        Ok(self.at_fal(&mut held)?.remove("all"))
    }

    /// Patterns of models, and how many requests of each may be at fal.
    pub(super) fn model_limits(&mut self) -> Result<Vec<(String, u64)>, Fault> {
        let mut cmd = redis::cmd("HGET");
        cmd.arg(&self.keys.config).arg("model_limits");
        let limits: Option<String> = self.ask(&cmd)?;
        Ok(read_limits(&limits.unwrap_or_default()))
    }

    /// The limit that counts this model.
    pub fn model_limit(&mut self, model: &str) -> Result<Option<ModelLimit>, Fault> {
        let found = self.model_limits()?.into_iter().find(|(pattern, _)| {
            Pattern::new(pattern).is_some_and(|pattern| pattern.matches(model))
        });
        let Some((pattern, most)) = found else {
            return Ok(None);
        };
        let now = self.ask(redis::cmd("SCARD").arg(self.keys.at_fal(&pattern)))?;
        Ok(Some(ModelLimit { pattern, now, most }))
    }

    /// What one user's limits are, and the jobs that use his slots.
    pub fn user(&mut self, user: &str) -> Result<UserView, Fault> {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(&self.keys.config)
            .arg(&["user_concurrency", "user_rate"]);
        let (slots, rate): (Option<u64>, Option<String>) = self.ask(&cmd)?;
        let key = format!("{}:user:{user}:running", self.keys.namespace);
        let mut running: Vec<String> = self.ask(redis::cmd("SMEMBERS").arg(key))?;
        running.sort_unstable();
        let mut left = None;
        let limit = rate.as_deref().and_then(|rate| rate.split_once('/'));
        let limit: Option<(f64, f64)> =
            limit.and_then(|(n, per)| Some((n.parse().ok()?, per.parse().ok()?)));
        if let Some((n, per)) = limit.filter(|(n, per)| *n > 0.0 && *per > 0.0) {
            // As claim_full.lua writes it: when the rate is all there again.
            let key = format!("{}:rate:user:{user}", self.keys.namespace);
            let whole: Option<String> = self.ask(redis::cmd("GET").arg(key))?;
            let whole = whole.and_then(|text| text.split(' ').next()?.parse().ok());
            let now = self.now()?.0 as f64;
            let used = (whole.unwrap_or(now) - now).max(0.0);
            left = Some(((per - used) / per * n).max(0.0) as u64);
        }
        Ok(UserView {
            left,
            running,
            slots: slots.unwrap_or(0),
            rate: rate
                .map(|rate| super::status::as_flag("user_rate", &rate))
                .filter(|rate| rate != "off"),
        })
    }

    /// When a job may come in again whose user came too often; `None`: it does not wait for that.
    pub fn rate_until(&mut self, id: &str) -> Result<Option<UnixMs>, Fault> {
        let due: Option<f64> = self.ask(redis::cmd("ZSCORE").arg(&self.keys.held).arg(id))?;
        Ok(due.map(|due| UnixMs(due as i64)))
    }

    /// What all workers learnt of a model; `None`: nothing.
    pub fn pace(&mut self, model: &str) -> Result<Option<Pace>, Fault> {
        let text: Option<Vec<u8>> =
            self.ask(redis::cmd("HGET").arg(&self.keys.models).arg(model))?;
        Ok(text.and_then(|text| Pace::parse(&String::from_utf8_lossy(&text))))
    }

    /// Ends (done and failed) of each of the last minutes, the present one last.
    pub fn ends_by_minute(&mut self, minutes: i64) -> Result<Vec<(u64, u64)>, Fault> {
        let now = self.now()?;
        let stats = self.stats()?;
        Ok(super::status::by_minute(&stats, now, minutes))
    }
}

/// Patterns of models, and how many requests of each may be at fal, as `config` has them: `a/*=2,b/c=1`.
pub(super) fn read_limits(text: &str) -> Vec<(String, u64)> {
    let limits = text.split(',').filter_map(|limit| {
        let (pattern, most) = limit.split_once('=')?;
        Some((pattern.to_owned(), most.parse().ok()?))
    });
    limits.collect()
}
