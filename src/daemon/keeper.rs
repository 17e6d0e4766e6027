//! The keeper: one thread that beats for this instance and keeps the queue in order. Each beat asks in
//! one trip all that must be known, and only then is anything else called. It has its own connection
//! and never waits for a step; but it beats only while the threads move, since a heartbeat must not
//! prove merely that the keeper lives.

use super::answer;
use super::canceller::Canceller;
use super::health::Stuck;
use super::pool::Engine;
use super::process;
use crate::job::UnixMs;
use crate::job::flight::Token;
use crate::recorder::{self, Left};
use crate::report;
use crate::steps::{self, FORGOTTEN_MS, Lease, Snapshot, Tools};
use crate::store::settings::Settings;
use crate::store::{AUDIT_TICK, Beat, Denied, Depths, Fault, Process, Session, Walk, steps_text};
use crate::telegram::SLOWEST_BYTES_PER_S;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Jobs promoted by one beat.
const PROMOTED: usize = 500;
/// Pages of [`PROMOTED`] jobs that one beat applies changed limits to.
const APPLIED: usize = 20;
/// Nobody pulls for this long at most while instances write down again what Redis forgot.
const SETTLE: Duration = Duration::from_secs(2);
/// A step that runs for longer than every time limit of its exchanges is hung.
const HUNG_STEP: Duration = Duration::from_secs(240);
/// As for a step, where large files move.
const HUNG_TRANSFER: Duration = Duration::from_secs(20 * 60);
/// Pace of the duties that are not urgent.
const SLOW: Duration = Duration::from_secs(10);
/// Pace of looking after the step file of this process.
const TOUCH: Duration = Duration::from_secs(60);
/// How long one beat looks at dead instances.
const SWEEP: Duration = Duration::from_millis(100);
/// For so long after Redis forgot writes, a claim that is unknown here counts as one whose last writes it forgot:
/// its job goes on in doubt.
const IN_DOUBT: Duration = Duration::from_secs(60);
/// Pace of sharing what was learnt of models.
const SHARE: Duration = Duration::from_secs(5);

/// An instance whose step file was looked at, and why that could not be read; `None`: it was taken over.
type Looked = (String, Option<String>);

/// State of the keeper between beats.
pub(crate) struct Keeper {
    tools: Arc<Tools>,
    engine: Arc<Engine>,
    session: Session,
    me: Process,
    pool_threads: usize,
    run: Option<String>,
    /// Id of the store, as far as it is known: first from a predecessor's file.
    store_id: Option<String>,
    registered: bool,
    /// A beat and all that follows from it was done.
    begun: bool,
    /// Since when beats follow each other without a gap: a full lease of it gives the right to judge.
    unbroken: Option<Instant>,
    last_beat: Option<(Instant, i64)>,
    suspect: Option<(String, i64)>,
    strange_claims: u32,
    /// Tokens of claims that memory did not know when it was last compared.
    strangers: HashSet<String>,
    /// When the last beat was tried, on a clock that counts on while the machine sleeps.
    tried_ms: u64,
    touch_due: Instant,
    slow_due: Instant,
    audit_due: Instant,
    /// Duties that Redis refused when they were last tried.
    refused: HashSet<&'static str>,
    share_due: Instant,
    /// When the queues were last read for those who watch, and how far the walk over them is.
    queues_read: Option<Instant>,
    walk: Walk,
    recalled: bool,
    /// When Redis last forgot writes.
    forgot_at: Option<Instant>,
    sweeps: u32,
    /// The dead that are still to be looked at.
    swept: Vec<String>,
    hung: bool,
    /// Limits that were given here and hold for all workers.
    shared: Vec<(&'static str, String)>,
    shared_written: bool,
    /// The submit window as it was last found out.
    window: steps::window::Known,
    /// What is away, and since when, as Redis was told.
    away: Vec<(&'static str, i64)>,
    /// The pause that was told of: since when, and whether it is a person's.
    paused: (String, bool),
    canceller: Canceller,
}

impl Keeper {
    pub(crate) fn new(
        tools: Arc<Tools>,
        engine: Arc<Engine>,
        me: Process,
        pool_threads: usize,
        address: &str,
        shared: Vec<(&'static str, String)>,
    ) -> Keeper {
        // A connection that leaves a beat unanswered for so long is given up, before others judge us.
        let answer = Duration::from_secs(2).min(tools.lease.length() / 3);
        let session = tools.store.probing_session(answer);
        let store_id =
            (tools.state.as_deref()).and_then(|folder| recorder::store_of(folder, address));
        Keeper {
            tools,
            engine,
            session,
            me,
            pool_threads,
            run: None,
            store_id,
            registered: false,
            begun: false,
            unbroken: None,
            last_beat: None,
            suspect: None,
            strange_claims: 0,
            strangers: HashSet::new(),
            tried_ms: Lease::clock_ms(),
            touch_due: Instant::now() + TOUCH,
            slow_due: Instant::now(),
            audit_due: Instant::now() + AUDIT_TICK,
            refused: HashSet::new(),
            share_due: Instant::now(),
            queues_read: None,
            walk: Walk::default(),
            recalled: false,
            forgot_at: None,
            sweeps: 0,
            swept: Vec::new(),
            hung: false,
            shared,
            shared_written: false,
            window: Default::default(),
            away: Vec::new(),
            paused: Default::default(),
            canceller: Canceller::default(),
        }
    }

    /// What Redis says of itself.
    pub(crate) fn settings(&self) -> Result<Settings, Fault> {
        self.session.settings()
    }

    /// Time between beats: every second or a fifth of the lease, the shorter.
    pub(crate) fn pace(&self) -> Duration {
        Duration::from_secs(1).min(self.tools.lease.length() / 5)
    }

    /// One beat with all that follows from it; an error means that Redis did not answer.
    pub(crate) fn once(&mut self) -> Result<(), Fault> {
        let late_ms = self.engine.scheduler.take_late().as_millis() as u64;
        if late_ms > 0 {
            report::debug("latest step", &[("late_ms", &late_ms)]);
        }
        if self.touch_due <= Instant::now() {
            self.touch_due = Instant::now() + TOUCH;
            self.tools.recorder.touch(); // also while Redis is away: then the journal is needed
        }
        if !self.threads_move() {
            return Ok(());
        }
        let sent_ms = Lease::clock_ms();
        let stood_still = sent_ms.saturating_sub(std::mem::replace(&mut self.tried_ms, sent_ms));
        if self.registered && stood_still > FORGOTTEN_MS {
            // Without its mark a beat would make us live again, with jobs that ended long ago.
            return self.buried();
        }
        if !self.shared_written {
            // Before the first beat, without which nothing is claimed here. Of a Redis that is away the
            // beat tells; a full one refuses claims as well.
            self.shared_written = self.configure(false).is_ok();
        }
        let done = self.tools.done.swap(0, Ordering::Relaxed);
        let failed = self.tools.failed.swap(0, Ordering::Relaxed);
        let beat = match self.session.beat(
            done,
            failed,
            self.engine.scheduler.in_flight(),
            self.store_id.as_deref(),
        ) {
            Ok(beat) => beat,
            Err(fault) => {
                self.tools.done.fetch_add(done, Ordering::Relaxed);
                self.tools.failed.fetch_add(failed, Ordering::Relaxed);
                self.unbroken = None;
                return Err(fault);
            }
        };
        match beat {
            None => self.buried(),
            Some(beat)
                if self.registered
                    && beat.fresh
                    && self.tools.lease.is_forgotten(self.tools.store.now()) =>
            {
                self.buried()
            }
            Some(beat) => {
                self.tools.lease.renewed(sent_ms, self.tools.store.now());
                let liveness = &self.engine.liveness;
                liveness.note(|life, now| life.beat(now, beat.paused, beat.waiting));
                self.note_gap();
                self.after(&beat)
            }
        }
    }

    fn after(&mut self, beat: &Beat) -> Result<(), Fault> {
        let crashed = self.engine.tell_crashes(&self.session);
        let health = &self.tools.store.health;
        let other_run = self.run.as_ref().is_some_and(|run| *run != beat.run);
        if self.registered && (beat.fresh || other_run) {
            // Our entry or the run mark is gone without the mark of a takeover: Redis was emptied.
            health.set_forgot(true);
        }
        self.run = Some(beat.run.clone());
        // Only the first beat under a name tells the store, and that answer may have been lost.
        let store = match &beat.store {
            None if !self.registered => self.session.store_id()?,
            told => told.clone(),
        };
        if let Some(store) = &store {
            let mine = self.tools.store.identity();
            self.tools.recorder.belongs_to(store, &mine.instance);
            self.store_id = Some(store.clone());
        }
        if !self.registered {
            self.registered = true;
            health.set_forgot(false); // nothing is held yet
        }
        if health.forgot() {
            let done = self.reassert(beat.fresh);
            self.unless_refused("reassert", done)?;
        }
        if beat.fresh {
            // In a store that was emptied they are gone too.
            self.shared_written = self.configure(true).is_ok();
        }
        if !beat.asked.is_empty() {
            self.answer(&beat.asked)?;
        }
        self.tell_pause(beat.paused);
        self.tell_away(beat.fresh)?;
        if beat.due {
            let done = self.session.promote(PROMOTED);
            self.unless_refused("promote", done)?;
        }
        if beat.cancels {
            let done = self.heed_cancels();
            self.unless_refused("cancels", done)?;
        }
        // With each beat until a step has seen it: one that was under way parks its job when it ends.
        let open = self.tools.cancels.open(Instant::now());
        if !open.is_empty() {
            self.engine.scheduler.hurry(&open);
        }
        if beat.limits_changed {
            let done = self.apply_limits();
            self.unless_refused("limits", done)?;
        }
        self.find_window(beat.finds_window)?;
        let done = self.compare_claims(beat.claims, crashed);
        self.unless_refused("claims", done)?;
        if let Some((instance, at)) = &beat.oldest {
            let done = self.look_after(instance, *at);
            self.unless_refused("takeover", done)?;
        }
        if self.audit_due <= Instant::now() {
            self.audit()?;
        }
        if self.slow_due <= Instant::now() {
            self.slow_due = Instant::now() + SLOW;
            let done = self.recover();
            self.unless_refused("recover", done)?;
            let done = self.session.trim();
            self.unless_refused("trim", done)?;
            // What one of them still moved goes back: soon for the newly dead, now and then for all, for a
            // crash loop makes thousands a day.
            self.sweeps = self.sweeps.wrapping_add(1);
            let within = if self.sweeps.is_multiple_of(60) {
                Duration::from_secs(86_400)
            } else {
                Duration::from_secs(600)
            };
            if self.swept.is_empty() {
                let gone = self.session.gone(within);
                self.swept = self.unless_refused("gone", gone)?.unwrap_or_default();
            }
        }
        self.sweep()?;
        self.read_queues()?;
        self.share_paces()?;
        self.begun = true;
        Ok(())
    }

    /// What a duty brought, or `None` where Redis refused it: that is said once, until it goes well again, and the
    /// beat goes on. One key that holds something else must not stop the duties behind it. But a right that is missing
    /// from the first is a mistake in the configuration, and the start says so.
    fn unless_refused<T>(
        &mut self,
        duty: &'static str,
        done: Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        match done {
            Ok(brought) => {
                self.refused.remove(duty);
                Ok(Some(brought))
            }
            Err(Fault::Refused(why)) if self.begun || !why.contains("NOPERM") => {
                if self.refused.insert(duty) {
                    let (key, holds) = self.in_the_way(&why).unzip();
                    report::warning(
                        "redis refuses a duty of the keeper",
                        &[
                            ("duty", &duty),
                            ("reason", &why.as_str()),
                            ("key", &key),
                            ("holds", &holds),
                        ],
                    );
                }
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    /// A key of ours that holds something else, for the line about a refusal.
    pub(super) fn in_the_way(&self, why: &str) -> Option<(String, String)> {
        self.session.in_the_way(why)
    }

    /// Takes back what dead instances still held: for [`SWEEP`] at a time, so that no beat takes long.
    fn sweep(&mut self) -> Result<(), Fault> {
        let until = Instant::now() + SWEEP;
        while let Some(dead) = self.swept.last() {
            let done = self.session.take_back(dead);
            self.swept.pop(); // and comes again with the next look, also where it was refused
            self.unless_refused("sweep", done)?;
            if Instant::now() >= until {
                break;
            }
        }
        Ok(())
    }

    /// Reads how much waits, for those who watch; no job depends on it.
    fn read_queues(&mut self) -> Result<(), Fault> {
        let Some(pace) = self.engine.queues.pace() else {
            return Ok(());
        };
        if self.queues_read.is_some_and(|at| at.elapsed() < pace) {
            return Ok(());
        }
        self.queues_read = Some(Instant::now());
        match self.session.depths(&mut self.walk) {
            Ok(depths) => self.engine.queues.note(depths),
            Err(Fault::Refused(why)) => {
                report::debug("redis refuses a look at the queues", &[("why", &why)]);
            }
            Err(away) => return Err(away),
        }
        Ok(())
    }

    /// Shares what was learnt of models. No job depends on it: a Redis that refuses is asked again later.
    fn share_paces(&mut self) -> Result<(), Fault> {
        if self.share_due > Instant::now() {
            return Ok(());
        }
        self.share_due = Instant::now() + SHARE;
        self.share_minutes();
        let mut done = Ok(());
        if !self.recalled {
            done = steps::pace::recall(&self.tools, &self.session);
            self.recalled = !matches!(&done, Err(fault) if fault.passing().is_some());
        }
        match done.and_then(|()| steps::pace::share(&self.tools, &self.session)) {
            Err(Fault::Refused(why)) => {
                report::debug("redis refuses what was learnt of models", &[("why", &why)]);
                Ok(())
            }
            other => other,
        }
    }

    /// Says once who paused all workers and why, and that a person's pause is over. A worker's own ends every half
    /// minute, and keeps its beginning when it is made anew.
    fn tell_pause(&mut self, paused: bool) {
        let found = match paused {
            true => self.session.whose_pause(),
            false => Ok(None),
        };
        match found {
            Ok(Some(pause)) => {
                let seen = (pause.since, pause.person);
                if self.paused != seen {
                    report::paused(&pause.by, &pause.reason, pause.person);
                    self.paused = seen;
                }
            }
            Ok(None) if self.paused.1 => {
                report::resumed();
                self.paused = Default::default();
            }
            Ok(None) | Err(_) => {}
        }
    }

    /// Says in Redis what is away, when that changes: `status` shows it. No job depends on it.
    fn tell_away(&mut self, fresh: bool) -> Result<(), Fault> {
        let now = self.tools.store.now().0;
        let since = |what| self.away.iter().find(|(one, _)| *one == what);
        let away: Vec<_> = answer::away(&self.tools.gate)
            .into_iter()
            .map(|what| since(what).copied().unwrap_or((what, now)))
            .collect();
        if away == self.away && (away.is_empty() || !fresh) {
            return Ok(());
        }
        match self.session.tell_away(&away) {
            Ok(()) => self.away = away,
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            Err(Fault::Unable(_) | Fault::Refused(_)) => {} // with the next beat
        }
        Ok(())
    }

    /// Answers people who ask what is done here. No job depends on it: a refusal is a line for debugging.
    fn answer(&self, asked: &[String]) -> Result<(), Fault> {
        let text = answer::to(asked, &self.engine, &self.tools.gate, self.pool_threads);
        match self.session.answer(asked, &text.to_string()) {
            Err(Fault::Refused(why)) => {
                report::debug("redis refuses an answer", &[("why", &why)]);
                Ok(())
            }
            other => other,
        }
    }

    /// Tells Redis what ended, for the plots. A failure is no warning: if Redis is away the next beat says so.
    fn share_minutes(&self) {
        if let Err(fault) = steps::minutes::share(&self.tools, &self.session) {
            let why = fault.to_string();
            report::debug("redis did not take what ended", &[("why", &why.as_str())]);
        }
    }

    /// The last act of an orderly stop: what ended since the last time it was told.
    pub(crate) fn last_words(&self) {
        if !self.tools.store.health.is_away() {
            self.share_minutes();
        }
    }

    /// What was asked of us goes to the steps; only then does Redis forget it.
    fn heed_cancels(&self) -> Result<(), Fault> {
        let asked = self.session.cancels()?;
        let tokens = asked.iter().map(|(_, token)| Token(token.as_str().into()));
        self.tools.cancels.ask(tokens, Instant::now());
        self.session.cancels_heeded(&asked)
    }

    /// Says to all workers which limits were given here.
    fn configure(&self, missing_only: bool) -> Result<(), Fault> {
        if self.shared.is_empty() {
            return Ok(());
        }
        let changed = self.session.configure(&self.shared, missing_only)?;
        // The one that holds for nobody: the command `retry` reads it.
        for old in changed.iter().filter(|old| old.name != "max_wait") {
            report::warning(
                "a limit that holds for all workers was changed",
                &[
                    ("limit", &old.name.as_str()),
                    ("before", &old.before.as_str()),
                    ("set_by", &old.by.as_str()),
                ],
            );
        }
        Ok(())
    }

    /// Whom an old limit made wait is looked at again: in pages, a bounded number of them a beat.
    fn apply_limits(&self) -> Result<(), Fault> {
        for _ in 0..APPLIED {
            if self.session.apply_limits(PROMOTED)? {
                break;
            }
        }
        Ok(())
    }

    /// Nothing depends on it: with a Redis that refuses the window stays as it is.
    fn find_window(&mut self, finds: bool) -> Result<(), Fault> {
        self.tools.finds_window.store(finds, Ordering::Relaxed);
        if !finds {
            self.window = Default::default();
            return Ok(());
        }
        let mut at_fal = self.engine.scheduler.at_fal();
        let desks = self.engine.desks.snapshots();
        at_fal.extend(desks.iter().filter_map(Snapshot::at_fal));
        match steps::window::find(&self.session, &at_fal, self.window) {
            Ok(known) => self.window = known,
            Err(Fault::Refused(why)) => {
                report::debug("redis refuses the submit window", &[("why", &why)]);
            }
            Err(away) => return Err(away),
        }
        Ok(())
    }

    /// A call a beat while a walk of the store is not complete, else one every few seconds. Nothing depends
    /// on it.
    fn audit(&mut self) -> Result<(), Fault> {
        self.audit_due = Instant::now() + AUDIT_TICK;
        let done = self.session.audit(self.tools.lease.length());
        if let Some(audit) = self.unless_refused("audit", done)? {
            // The beat that comes next after that, not the one behind it.
            self.audit_due = Instant::now() + audit.wait.saturating_sub(self.pace() / 2);
            for (kind, count) in &audit.repairs {
                report::repaired(kind, *count);
            }
        }
        Ok(())
    }

    /// At start: jobs of a predecessor whose process on this host is gone are taken at once.
    pub(crate) fn take_from_the_dead(&mut self) -> Result<(), Fault> {
        let looked = self.recover()?;
        let mine = self.tools.store.identity().instance.clone();
        for (instance, at) in self.session.instances()? {
            if instance != mine && process::is_gone(&self.me, &self.session.process_of(&instance)?)
            {
                self.take_from(&instance, at, true, &looked)?;
            }
        }
        Ok(())
    }

    /// Takes the jobs of one that left no step file, or none that can be read: it may hold request ids, so such
    /// a one is looked at again and again for a lease. `looked`: see [`Keeper::recover`].
    fn take_from(
        &self,
        instance: &str,
        at: i64,
        process_gone: bool,
        looked: &[Looked],
    ) -> Result<(), Fault> {
        match looked.iter().find(|(name, _)| name == instance) {
            Some((_, None)) => return Ok(()),
            Some((_, Some(_))) if !self.may_judge(at) => return Ok(()),
            Some((_, Some(why))) => report::warning(
                "a step file cannot be read, the jobs are taken without it",
                &[("instance", &instance), ("why", &why.as_str())],
            ),
            None => {
                let folder = self.tools.state.as_deref().filter(|_| process_gone);
                match folder.and_then(|folder| recorder::is_held(folder, instance)) {
                    Some(true) => return Ok(()), // another successor is reading its file
                    // One was, a moment ago: what it did not take, the next look gives us.
                    Some(false) if !self.may_judge(at) => return Ok(()),
                    Some(false) | None => {}
                }
            }
        }
        self.take_over(instance, at, process_gone, None)
    }

    /// What processes of this host left in their step files goes to Redis, then their jobs are taken. A
    /// file of this boot that nobody locks is the surest sign that its process is gone.
    /// Gives the instances that were taken over, and those whose file could not be read.
    fn recover(&mut self) -> Result<Vec<Looked>, Fault> {
        let mut looked = Vec::new();
        let (Some(folder), Some(store)) = (&self.tools.state, &self.store_id) else {
            return Ok(looked);
        };
        let all = match recorder::left_behind(folder, store) {
            Ok(all) => all,
            // Whose files lie there is not known: everybody's may.
            Err(error) => {
                let all = self.session.instances()?.into_iter();
                return Ok(all
                    .map(|(instance, _)| (instance, Some(error.to_string())))
                    .collect());
            }
        };
        for left in all {
            if let Some(error) = &left.unread {
                let names = left.header.instances.iter().cloned();
                looked.extend(names.map(|instance| (instance, Some(error.to_string()))));
                continue; // it stays: what it says may be known another time
            }
            let its = self.living(&left)?;
            let gone = match left.of_this_boot {
                Some(sure) => sure,
                None => self.are_of_this_boot(&its)?,
            };
            if !gone && its.iter().any(|(_, at)| !self.may_judge(*at)) {
                continue; // whoever wrote it may live on another machine: its lease decides
            }
            let made = steps::recover::replay(&self.session, &left)?;
            let whole = made.whole && gone && !left.torn && self.tools.recorder.is_whole();
            let steps = whole.then(|| steps_text(&left.executing));
            for (instance, at) in &its {
                self.take_over(instance, *at, gone, steps.as_deref())?;
            }
            if !gone && !self.living(&left)?.is_empty() {
                continue; // its lease is longer than ours
            }
            looked.extend(its.into_iter().map(|(instance, _)| (instance, None)));
            self.canceller.end(&self.tools, left, made.needless);
        }
        Ok(looked)
    }

    /// The instances of whoever left this that nobody has taken over, and when each beat last.
    fn living(&self, left: &Left) -> Result<Vec<(String, i64)>, Fault> {
        let mut all = self.session.instances()?;
        all.retain(|(instance, _)| left.header.instances.contains(instance));
        Ok(all)
    }

    /// Whether these ran in this boot of this machine, by what Redis knows of them.
    fn are_of_this_boot(&self, its: &[(String, i64)]) -> Result<bool, Fault> {
        for (instance, _) in its {
            let boot = self.session.process_of(instance)?.boot;
            if boot.is_empty() || boot != self.me.boot {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn look_after(&mut self, instance: &str, at: i64) -> Result<(), Fault> {
        let mine = self.tools.store.identity().instance.clone();
        if instance == mine || self.silence(at) < self.pace() * 2 {
            self.suspect = None;
            return Ok(());
        }
        let gone = process::is_gone(&self.me, &self.session.process_of(instance)?);
        if !gone {
            if !self.may_judge(at) {
                return Ok(());
            }
            let seen = (instance.to_owned(), at);
            if self.suspect.as_ref() != Some(&seen) {
                self.suspect = Some(seen);
                return Ok(());
            }
            self.suspect = None;
        }
        let looked = self.recover()?;
        self.take_from(instance, at, gone, &looked)
    }

    /// Whether this instance has been silent for a lease. An outage of Redis lapses every lease at once and is
    /// nobody's death: only who has beaten for a full lease himself may judge, and he looks twice.
    fn may_judge(&self, at: i64) -> bool {
        let lease = self.tools.lease.length();
        self.silence(at) >= lease && self.unbroken.is_some_and(|since| since.elapsed() >= lease)
    }

    fn silence(&self, at: i64) -> Duration {
        UnixMs(at).until(self.tools.store.now())
    }

    /// `steps`: what its step file says of its claims.
    fn take_over(
        &self,
        instance: &str,
        at: i64,
        process_gone: bool,
        steps: Option<&str>,
    ) -> Result<(), Fault> {
        let lease = self.tools.lease.length();
        if self
            .session
            .bury(instance, at, lease, process_gone, steps)?
        {
            let jobs = self.session.take_back(instance)?;
            report::took_over(instance, jobs as u64);
        }
        Ok(())
    }

    /// We are marked dead: others have our jobs. Flights of the old identity are dropped by the steps.
    fn buried(&mut self) -> Result<(), Fault> {
        let old = self.tools.store.identity().instance.clone();
        let gap = self
            .last_beat
            .map(|(at, _)| at.elapsed())
            .unwrap_or_default();
        let new = self.tools.store.rename();
        let gap_s = format!("{:.1}", gap.as_secs_f64());
        report::warning(
            "this instance was taken over, it goes on under a new identity",
            &[
                ("old", &old.as_str()),
                ("new", &new.instance.as_str()),
                ("gap_s", &gap_s.as_str()),
            ],
        );
        self.registered = false;
        self.unbroken = None;
        self.session.take_back(&old)?;
        Ok(())
    }

    /// `emptied`: nothing at all was left, not even who else lives.
    fn reassert(&mut self, emptied: bool) -> Result<(), Fault> {
        self.forgot_at = Some(Instant::now());
        self.session.settle(SETTLE)?;
        if self.tools.store.torn.load(Ordering::Acquire) {
            self.session.tell_torn()?;
        }
        let before = self.tools.store.health.written_again();
        let all = self.all_held();
        let epoch = self.tools.store.identity().epoch;
        let remembered: Vec<_> = all
            .values()
            .filter(|snapshot| snapshot.epoch == epoch)
            .map(Snapshot::remembered)
            .collect();
        match self.session.reassert(&remembered) {
            Ok(lost) => {
                let again = self.tools.store.health.written_again() - before;
                let lost = lost.len() as u64;
                if again + lost > 0 {
                    report::warning(
                        "redis forgot writes, they were made again",
                        &[("records", &again), ("lost", &lost)],
                    );
                }
            }
            Err(Denied::Fault(fault)) => return Err(fault),
            Err(Denied::Buried | Denied::Unregistered | Denied::Settling) => {}
        }
        self.tools.store.health.set_forgot(false);
        if !emptied && self.session.instances()?.len() <= 1 {
            self.session.settled()?;
        }
        Ok(())
    }

    /// Every flight of this process. One that a thread has just taken from the scheduler and not yet
    /// put on its desk is waited for: forgotten here, it would be dropped for good.
    fn all_held(&self) -> HashMap<Token, Snapshot> {
        self.until_all_are_seen(|| {
            // What lies on a desk is newer than what is known of a transfer.
            let parked = self.engine.scheduler.snapshots();
            let all = parked.into_iter().chain(self.engine.desks.snapshots());
            let seen: HashMap<_, _> = all.map(|held| (held.token.clone(), held)).collect();
            (seen.len(), seen)
        })
    }

    /// Their tokens alone, which thousands in flight have room for every other second.
    fn tokens_held(&self) -> HashSet<Token> {
        self.until_all_are_seen(|| {
            let mut seen = self.engine.scheduler.tokens();
            let desks = self.engine.desks.snapshots();
            seen.extend(desks.into_iter().map(|held| held.token));
            (seen.len(), seen)
        })
    }

    fn until_all_are_seen<S>(&self, look: impl Fn() -> (usize, S)) -> S {
        let mut tries = 0;
        loop {
            let (number, seen) = look();
            tries += 1;
            if number >= self.engine.scheduler.in_flight() || tries == 20 {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Claims that memory does not know are given back: their answer was lost. Or what became of them was, by a
    /// Redis that forgot: then they may have been paid or sent.
    fn compare_claims(&mut self, claims: usize, crashed: Vec<Token>) -> Result<(), Fault> {
        if self.engine.is_claiming() {
            // The answer may be on its way, for many seconds on a bad line: a job that is given back
            // meanwhile would be submitted twice.
            return Ok(());
        }
        if claims == self.engine.scheduler.in_flight() {
            self.strange_claims = 0;
            return Ok(());
        }
        self.strange_claims += 1;
        if self.strange_claims < 2 {
            return Ok(());
        }
        self.strange_claims = 0;
        let claims = self.session.claims()?;
        let held: HashSet<Arc<str>> = (self.tokens_held().into_iter().chain(crashed))
            .map(|token| token.0)
            .collect();
        let forgot = self.forgot_at.is_some_and(|at| at.elapsed() < IN_DOUBT);
        let mut strangers = HashSet::new();
        for (id, token) in claims {
            if held.contains(&*token) {
                continue;
            }
            // Only what was a stranger the last time too: a job just claimed is on its way to a desk.
            if self.strangers.contains(&token) {
                let (gone, sentence) = match forgot {
                    true => (
                        self.session.lost_sight_of(&id, &token),
                        "redis forgot what became of a job, it goes on in doubt",
                    ),
                    false => (
                        self.session.disown(&id, &token),
                        "a claim whose answer was lost goes back",
                    ),
                };
                if self.unless_refused("stranger", gone)? == Some(true) {
                    report::warning(sentence, &[("job", &id.as_str())]);
                }
            }
            strangers.insert(token);
        }
        self.strangers = strangers;
        Ok(())
    }

    /// Beats count as unbroken while neither they nor Redis's clock jump.
    fn note_gap(&mut self) {
        let now = Instant::now();
        let redis_now = self.tools.store.now().0;
        let steady = self.last_beat.is_some_and(|(at, redis_at)| {
            let mine = now.duration_since(at);
            let theirs = i128::from(redis_now - redis_at);
            mine < self.pace() * 3 && (theirs - mine.as_millis() as i128).abs() < 1000
        });
        if !steady {
            self.unbroken = None;
        }
        self.unbroken.get_or_insert(now);
        self.last_beat = Some((now, redis_now));
    }

    /// Whether every thread ended a step, or was idle, within the longest step's time limit.
    fn threads_move(&mut self) -> bool {
        // A local Bot API server takes files of gigabytes: there and back, each at its slowest.
        let largest = self.tools.transfer_limits.upload_body;
        let hung_transfer =
            HUNG_TRANSFER.max(HUNG_STEP + Duration::from_secs(2 * largest / SLOWEST_BYTES_PER_S));
        let desks = self.engine.desks.indexed();
        let stuck = desks.iter().find(|(desk, snapshot)| {
            let limit = if *desk < self.pool_threads {
                HUNG_STEP
            } else {
                hung_transfer
            };
            snapshot.since.elapsed() > limit
        });
        let stuck = stuck.map(|(desk, snapshot)| Stuck {
            thread: match desk.checked_sub(self.pool_threads) {
                Some(transfer) => format!("transfer-{transfer}"),
                None => format!("pool-{desk}"),
            },
            phase: snapshot.phase,
            job: snapshot.id.clone(),
            since: snapshot.since,
        });
        match &stuck {
            Some(stuck) if !self.hung => {
                self.hung = true;
                let phase = stuck.phase.as_str();
                report::warning(
                    "a thread does not move, heartbeats stop",
                    &[
                        ("thread", &stuck.thread),
                        ("job", &stuck.job.as_str()),
                        ("phase", &phase),
                    ],
                );
            }
            Some(_) => {}
            None => self.hung = false,
        }
        self.engine.liveness.note(|life, _| life.stuck(stuck));
        !self.hung
    }

    /// How much waits in each queue, as last read; `None`: not known lately. From this call on it is read often.
    pub(crate) fn depths(&self) -> Option<Depths> {
        self.engine.queues.show();
        self.engine.queues.ask()
    }

    /// Whether the watchdog of systemd may be told that all is well. It does not depend on Redis.
    pub(crate) fn is_well(&mut self) -> bool {
        self.threads_move()
    }
}
