//! The end: quiet, stop, hard stop, with one deadline. What is parked goes back to Redis, what pays or sends is
//! waited for, and only at the deadline are sockets cut, since a broken submit is an unknown payment.

use super::pool::{Engine, Moved};
use super::scheduler::Stage;
use super::{Crew, spawn};
use crate::job::flight::Flight;
use crate::job::state::save_large;
use crate::report;
use crate::steps::{self, LastFlush, Tools, Worker};
use crate::store::{Denied, Fault, Remembered, Session};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// After sockets are shut, broken steps end within this time.
const AFTER_HARD_STOP: Duration = Duration::from_millis(500);

impl Crew {
    /// Quiet, stop, hard stop, with one deadline.
    pub(super) fn stop(
        self,
        tools: &Arc<Tools>,
        engine: &Arc<Engine>,
        moved: &Moved,
        deadline: Instant,
    ) {
        let began = Instant::now();
        // So much of the time is kept for what broken steps still have to write.
        let after_hard_stop = AFTER_HARD_STOP.min(deadline.duration_since(began) / 4);
        let hard_stop = deadline - after_hard_stop;
        let mut returned = Returned::default();
        let written_again = tools.store.health.written_again();
        last_resort(
            tools.clone(),
            engine.clone(),
            returned.count.clone(),
            deadline + AFTER_HARD_STOP,
        );
        let session = tools.store.session();
        let scheduler = &engine.scheduler;
        tools.signs.close();
        self.intake_ends.store(true, Ordering::Release);
        let quiet_by = hard_stop.min(began + Duration::from_secs(7));
        self.quiet(engine, &session, quiet_by);

        // Stop: what is parked goes back at once, and so does what is in a step that pays and sends
        // nothing, without waiting for its thread; submits and sends are waited for.
        scheduler.set_stage(Stage::Stop);
        let mut shut = false;
        let mut cut_off = 0;
        let mut limit = hard_stop;
        loop {
            returned.give_back(tools, engine, moved, &session);
            // In this order: what is seen on a desk was counted as in flight before, and a claim that
            // has just ended has been counted before its permit came back.
            let quiet = scheduler.nobody_pulls();
            let in_flight = scheduler.in_flight();
            let let_go = engine.desks.snapshots().into_iter();
            let let_go = let_go.filter(|held| returned.let_go.contains_key(&*held.token.0));
            let busy = in_flight.saturating_sub(let_go.count());
            if busy == 0 && quiet {
                break;
            }
            if Instant::now() >= limit {
                if shut {
                    break;
                }
                // Hard stop: only now are sockets cut, since a broken submit is an unknown payment.
                shut = true;
                cut_off = busy;
                limit = Instant::now() + after_hard_stop;
                tools.http.shutdown();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        engine.tell_crashes(&session);

        // The keeper ends before our name goes off the list: a beat after that would put it back.
        drop(self.keeper_ends);
        let keeper_by = deadline.min(Instant::now() + AFTER_HARD_STOP);
        while !self.keeper.is_finished() && Instant::now() < keeper_by {
            std::thread::sleep(Duration::from_millis(1));
        }
        // What ended shortly before Redis forgot it, and the keeper has not written down again: once, and last, since
        // these may be many calls, and nobody waits for this thread any more.
        let health = &tools.store.health;
        if health.forgot() || health.written_again() > written_again {
            let _ = session.reassert_ended(); // who does not get through has no other way
        }
        let held = session.leave();
        if held.is_err() {
            report::debug(
                "could not take our name off the list, the lease will tell",
                &[],
            );
        }
        // A claim whose answer was lost stays: the file says that nobody has begun it.
        if cut_off == 0 && returned.left == 0 && held == Ok(0) {
            tools.recorder.close();
        }
        let ended = self
            .pool
            .iter()
            .chain(&self.transfers)
            .chain([&self.keeper])
            .filter(|thread| thread.is_finished())
            .count();
        report::debug("threads ended", &[("threads", &(ended as u64))]);
        report::stopped(returned.count.load(Ordering::Relaxed), cut_off);
    }

    /// Quiet: nothing new. Waits until nobody pulls and intake has ended, or until `by`. Both are woken again and
    /// again, since an UNBLOCK that comes before they block is lost.
    fn quiet(&self, engine: &Engine, session: &Session, by: Instant) {
        loop {
            for client in [
                engine.puller.load(Ordering::Acquire),
                self.intake_client.load(Ordering::Acquire),
            ] {
                if client != 0 {
                    let _ = session.unblock(client);
                }
            }
            if (engine.scheduler.nobody_pulls() && self.intake.is_finished())
                || Instant::now() >= by
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(20)); // the main thread: it has nothing else to do
        }
    }
}

/// Ends the process at this moment, even while a call waits for a Redis that never answers. What is in hand then
/// counts as cut off.
fn last_resort(tools: Arc<Tools>, engine: Arc<Engine>, given_back: Arc<AtomicUsize>, at: Instant) {
    let wait = move || {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        tools.http.shutdown();
        report::tell_held_back(true);
        report::warning("the stop took too long, the process ends all the same", &[]);
        let cut_off = engine.scheduler.in_flight();
        report::stopped(given_back.load(Ordering::Relaxed), cut_off);
        std::process::exit(0);
    };
    if let Err(error) = spawn("last-resort".to_owned(), wait) {
        report::debug(
            "no time limit for the stop",
            &[("why", &error.to_string().as_str())],
        );
    }
}

/// What a stop has given back.
#[derive(Default)]
struct Returned {
    /// How many jobs.
    count: Arc<AtomicUsize>,
    /// How many could not be given back.
    left: usize,
    /// Tokens of flights that came back from the scheduler or the channel: done with.
    drained: HashSet<String>,
    /// Tokens of flights whose job has gone back while their thread is still in a step: what it writes
    /// is refused, and nobody waits for it. False: Redis did not take it back, and it counts as left.
    let_go: HashMap<String, bool>,
}

impl Returned {
    /// Gives back everything that is parked, waits for a transfer thread or is in a repeatable step.
    fn give_back(&mut self, tools: &Arc<Tools>, engine: &Engine, moved: &Moved, session: &Session) {
        let mut flights = engine.scheduler.drain();
        flights.extend(moved.drain());
        if !flights.is_empty() {
            self.give_back_flights(tools, session, &mut flights);
        }
        for flight in &flights {
            engine.scheduler.over(&flight.token, 0);
            if self.let_go.remove(&*flight.token.0) == Some(false) {
                self.left -= 1; // it counts as the others here do
            }
            self.drained.insert(flight.token.0.to_string());
        }
        for held in engine.desks.snapshots() {
            let token = &*held.token.0;
            if !held.is_repeatable()
                || self.drained.contains(token)
                || self.let_go.contains_key(token)
            {
                continue;
            }
            let mut gave = session.disown(held.id.as_str(), token);
            if gave == Ok(false) && held.epoch == tools.store.identity().epoch {
                match session.reassert_flights(&[held.remembered()]) {
                    Ok(lost) if lost.is_empty() => gave = session.disown(held.id.as_str(), token),
                    Err(Denied::Fault(fault)) => gave = Err(fault),
                    Ok(_) | Err(Denied::Buried | Denied::Unregistered | Denied::Settling) => {}
                }
            }
            match &gave {
                Ok(true) => self.gave(1),
                Ok(false) => {} // another's by now, or over
                Err(fault) => self.leave(1, &fault.to_string()),
            }
            self.let_go.insert(token.to_owned(), gave.is_ok());
        }
    }

    fn give_back_flights(
        &mut self,
        tools: &Arc<Tools>,
        session: &Session,
        flights: &mut [Box<Flight>],
    ) {
        let worker = Worker::new(tools.clone(), None);
        let (mut whole, mut unsaved): (Vec<&Flight>, usize) = (Vec::new(), 0);
        for flight in flights.iter_mut() {
            let has_gone = self.let_go.get(&*flight.token.0) == Some(&true);
            // What Redis has not taken yet is worth a last try; so is a result that lives only in memory.
            if let Some(write) = save_large(flight).filter(|_| !flight.closing && !has_gone) {
                let seq = flight.number(&write);
                flight.unsaved.push_back((seq, write));
            }
            match worker.last_flush(flight) {
                LastFlush::Ours if !has_gone => whole.push(flight),
                // It has ended, or is another's, or went back while its thread was in a step: nothing of it goes back.
                LastFlush::Ours | LastFlush::Over => {}
                LastFlush::Unsaved => unsaved += 1,
            }
        }
        let (why, left) = match give_back_all(session, &whole) {
            Ok(number) => {
                self.gave(number);
                (
                    "redis did not take what is known of them".to_owned(),
                    unsaved,
                )
            }
            Err(fault) => (fault.to_string(), whole.len() + unsaved),
        };
        if left > 0 {
            self.leave(left, &why);
        }
    }

    fn gave(&self, jobs: usize) {
        self.count.fetch_add(jobs, Ordering::Relaxed);
    }

    fn leave(&mut self, jobs: usize, why: &str) {
        self.left += jobs;
        report::warning(
            "jobs could not be given back, their lease will tell",
            &[("jobs", &(jobs as u64)), ("why", &why)],
        );
    }
}

/// Gives back; those that Redis has forgotten, which the keeper has no time left to notice, are written down
/// again first. What was given back before without an answer may have had another owner since: his word stays.
pub(super) fn give_back_all(session: &Session, flights: &[&Flight]) -> Result<usize, Fault> {
    let given = session.give_back(flights)?;
    let epoch = session.store().identity().epoch;
    let remembered: Vec<_> = flights
        .iter()
        .filter(|flight| flight.epoch == epoch)
        .map(|flight| Remembered {
            gives_way: flight.is_unpaid(),
            ..steps::Snapshot::of(flight).remembered()
        })
        .collect();
    if given == flights.len() || remembered.is_empty() {
        return Ok(given);
    }
    match session.reassert_flights(&remembered) {
        Ok(_) => Ok(given + session.give_back(flights)?),
        Err(Denied::Fault(fault)) => Err(fault),
        Err(Denied::Buried | Denied::Unregistered | Denied::Settling) => Ok(given),
    }
}
