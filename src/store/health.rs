//! What is known of Redis itself, whatever connection learnt it: whether it is away, full or another than
//! before, and which connections may still be used. What an error means is decided in `link`.

use super::link::{Unfit, describe, unfit};
use crate::report;
use redis::RedisError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What is known about Redis itself, shared by all connections of a process.
#[derive(Debug)]
pub(crate) struct Health {
    away: AtomicBool,
    /// Since when, and why; written together with `away`.
    gone: Mutex<Option<(Instant, String)>>,
    outage: report::Outage,
    full: report::Outage,
    unfit: Mutex<Option<Unfit>>,
    version: Mutex<String>,
    pub(super) connect_failures: AtomicU64,
    pub(super) connected: AtomicU64,
    last_connect_error: Mutex<String>,
    run_id: Mutex<Option<String>>,
    forgot: AtomicBool,
    /// How long it was away so far, the outage under way left out.
    was_away: Mutex<Duration>,
    /// When Redis was last found away, or back.
    turned: Mutex<Option<Instant>>,
    /// Connections older than this may be dead without a word: one of them left a call unanswered.
    distrusted: Mutex<Option<Instant>>,
    written_again: AtomicU64,
    /// Calls of the keeper that have come to an end, a good one or not.
    probed: AtomicU64,
    /// When the last of them began that was answered.
    answered: Mutex<Option<Instant>>,
    /// Host and port, or path: what a start that finds nobody there has to name.
    pub(super) address: OnceLock<String>,
}

impl Default for Health {
    fn default() -> Health {
        Health {
            away: AtomicBool::new(false),
            gone: Mutex::default(),
            outage: report::Outage::new("redis"),
            // Nothing is lost: new work waits, what is paid goes on.
            full: report::Outage::in_words("redis memory", ["full", "free again"]),
            unfit: Mutex::default(),
            version: Mutex::default(),
            connect_failures: AtomicU64::new(0),
            last_connect_error: Mutex::default(),
            run_id: Mutex::default(),
            forgot: AtomicBool::new(false),
            was_away: Mutex::default(),
            turned: Mutex::default(),
            distrusted: Mutex::default(),
            written_again: AtomicU64::new(0),
            probed: AtomicU64::new(0),
            answered: Mutex::default(),
            connected: AtomicU64::new(0),
            address: OnceLock::new(),
        }
    }
}

impl Health {
    /// Why the last connection could not be had, where no waiting mends it.
    pub(crate) fn unfit(&self) -> Option<Unfit> {
        *self.unfit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_unfit(&self, unfit: Option<Unfit>) {
        *self.unfit.lock().unwrap_or_else(PoisonError::into_inner) = unfit;
    }

    /// Version of the Redis last reached.
    pub(crate) fn version(&self) -> String {
        self.version
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether the last thing that is known is a failure.
    pub(crate) fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// Since when it is away, and why.
    pub(crate) fn away(&self) -> Option<(Instant, String)> {
        self.gone().clone()
    }

    /// Since when its memory is full.
    pub(crate) fn full(&self) -> Option<Instant> {
        self.full.since()
    }

    fn was_away(&self) -> MutexGuard<'_, Duration> {
        self.was_away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, on a clock that stands still while Redis is away. What it may forget when it comes back is what was
    /// written shortly before it went, however long it stayed.
    pub(crate) fn steady_now(&self) -> Instant {
        let now = Instant::now();
        let gone = self.gone();
        let away = gone
            .as_ref()
            .map(|(since, _)| now.saturating_duration_since(*since));
        let away = *self.was_away() + away.unwrap_or_default();
        now.checked_sub(away).unwrap_or(now)
    }

    fn gone(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether Redis may have forgotten writes (restart, failover) and nobody has re-asserted yet.
    pub(crate) fn forgot(&self) -> bool {
        self.forgot.load(Ordering::Acquire)
    }

    /// Says that it may have, or that all is written again.
    pub(crate) fn set_forgot(&self, forgot: bool) {
        self.forgot.store(forgot, Ordering::Release);
    }

    /// Records that Redis had forgotten were written again.
    pub(crate) fn wrote_again(&self, records: u64) {
        self.written_again.fetch_add(records, Ordering::Relaxed);
    }

    /// A call of the keeper has come to its end. `answered`: one that began then, and well.
    pub(crate) fn probed(&self, answered: Option<Instant>) {
        self.probed.fetch_add(1, Ordering::Relaxed);
        if answered.is_some() {
            *self.answered() = answered;
        }
    }

    fn answered(&self) -> MutexGuard<'_, Option<Instant>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls of the keeper have come to an end: while this rises, it lives.
    pub(crate) fn probes(&self) -> u64 {
        self.probed.load(Ordering::Relaxed)
    }

    /// Records written again so far.
    pub(crate) fn written_again(&self) -> u64 {
        self.written_again.load(Ordering::Relaxed)
    }

    /// A call that began then failed.
    pub(crate) fn lost(&self, why: &str, began: Instant) {
        if why.contains("OOM") {
            // It is there, and takes what is paid or ended; only new work waits.
            self.full.failed(why);
            return;
        }
        {
            let mut gone = self.gone();
            if !self.is_away() {
                if self.has_turned_since(began) {
                    return; // of before it came back
                }
                self.turn();
            }
            gone.get_or_insert_with(|| (began, why.to_owned()));
            self.away.store(true, Ordering::Release);
        }
        let reached = !self.version().is_empty();
        if self.unfit().is_some() && !reached {
            return; // it is the configuration that is refused, and said so
        }
        match self.address.get().filter(|_| !reached) {
            Some(address) => {
                let why = format!("nothing usable at {address} yet: {why}");
                self.outage.failed_since(&why, began)
            }
            None => self.outage.failed_since(why, began),
        };
    }

    /// A call that only waited for something to come, and began to wait then, failed. Its connection may have been
    /// dead for long: where the keeper was answered since, that says nothing about Redis.
    pub(crate) fn waited_in_vain(&self, why: &str, began: Instant) {
        if self.answered().is_none_or(|answered| answered < began) {
            self.lost(why, Instant::now());
        }
    }

    /// A call says how Redis was while it ran: what was under way when Redis turned says nothing of now.
    fn has_turned_since(&self, began: Instant) -> bool {
        let turned = *self.turned.lock().unwrap_or_else(PoisonError::into_inner);
        turned.is_some_and(|at| began <= at)
    }

    fn turn(&self) {
        *self.turned.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// A call that began then was not answered in time: no connection of before is used again.
    pub(crate) fn distrust(&self, began: Instant) {
        let mut distrusted = self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *distrusted = (*distrusted).max(Some(began));
    }

    /// Whether a connection that said at that time which Redis it reached may be used.
    pub(crate) fn trusts(&self, asked: Instant) -> bool {
        let distrusted = *self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        distrusted.is_none_or(|until| asked > until)
    }

    /// A write that a full Redis refuses was taken.
    pub(crate) fn has_memory(&self) {
        self.full.succeeded();
    }

    /// A call that began then succeeded.
    pub(crate) fn back(&self, began: Instant) {
        if !self.is_away() {
            return;
        }
        let mut gone = self.gone();
        if !self.has_turned_since(began) && self.away.swap(false, Ordering::AcqRel) {
            if let Some((since, _)) = gone.take() {
                *self.was_away() += since.elapsed();
            }
            self.turn();
            drop(gone);
            self.outage.succeeded();
        }
    }

    pub(super) fn connect_failed(&self, error: &RedisError) {
        report::redis_error();
        let why = describe(error);
        self.set_unfit(unfit(error, &why));
        if let Some((_, last)) = &mut *self.gone() {
            last.clone_from(&why);
        }
        *self
            .last_connect_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = why;
        self.connect_failures.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn last_connect_error(&self) -> String {
        self.last_connect_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Each new connection says which Redis it reached. Another run id: the last second may be lost, and
    /// what was asked before leads to a server that is gone, or is no master any more without knowing it.
    /// `asked`: when this one was asked which Redis it is.
    pub(super) fn reached(&self, run_id: &str, version: &str, asked: Instant) {
        self.set_unfit(None);
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = version.to_owned();
        let mut known = self.run_id.lock().unwrap_or_else(PoisonError::into_inner);
        match known.as_deref() {
            Some(same) if same == run_id => {}
            Some(_) => {
                *known = Some(run_id.to_owned());
                self.set_forgot(true);
                let mut distrusted = self
                    .distrusted
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                // What a time-out has shown meanwhile stands.
                *distrusted = distrusted.max(asked.checked_sub(Duration::from_nanos(1)));
            }
            None => *known = Some(run_id.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_a_call_from_before_the_loss_is_no_return() {
        let health = Health::default();
        let before = Instant::now();
        health.lost("READONLY", Instant::now());
        health.back(before);
        assert!(health.is_away());
        health.back(Instant::now());
        assert!(!health.is_away());
    }

    #[test]
    fn a_failure_of_a_call_from_before_the_return_is_no_loss() {
        let health = Health::default();
        let before = Instant::now();
        health.lost("no answer in time", before);
        health.back(Instant::now());
        health.lost("no answer in time", before);
        assert!(!health.is_away());
        health.lost("no answer in time", Instant::now());
        assert!(health.is_away());
    }

    #[test]
    fn a_wait_that_failed_on_an_old_connection_is_no_loss_where_the_keeper_was_answered_since() {
        let health = Health::default();
        let began = Instant::now();
        health.probed(Some(Instant::now()));
        health.probed(None);
        health.waited_in_vain("no answer in time", began);
        assert!(!health.is_away());
        health.waited_in_vain("no answer in time", Instant::now());
        assert!(health.is_away());
    }

    #[test]
    fn a_late_time_out_ends_the_trust_in_what_was_there_when_its_call_began_and_in_nothing_since() {
        let health = Health::default();
        let moments: Vec<Instant> = (0..4u64)
            .map(|n| Instant::now() + Duration::from_millis(n))
            .collect();
        health.distrust(moments[2]);
        health.distrust(moments[1]);
        let trusted: Vec<bool> = moments.iter().map(|at| health.trusts(*at)).collect();
        assert_eq!(trusted, [false, false, false, true]);
    }

    #[test]
    fn another_redis_ends_the_trust_in_all_that_was_asked_before_and_in_nothing_since() {
        let health = Health::default();
        let moments: Vec<Instant> = (0..4u64)
            .map(|n| Instant::now() + Duration::from_millis(n))
            .collect();
        health.reached("old", "7.0", moments[0]);
        assert!(moments.iter().all(|at| health.trusts(*at)));
        health.reached("new", "7.0", moments[2]);
        let trusted: Vec<bool> = moments.iter().map(|at| health.trusts(*at)).collect();
        assert_eq!(trusted, [false, false, true, true]);
        // And never again in what a time-out had ended it in.
        let health = Health::default();
        health.reached("old", "7.0", Instant::now());
        let early = Instant::now();
        let between = Instant::now();
        health.distrust(Instant::now());
        health.reached("new", "7.0", early);
        assert!(!health.trusts(between));
    }
}
