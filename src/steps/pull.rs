//! Pull: claim what waits; where nothing does, wait for the bell. What `BRPOP` takes is only a ring,
//! so an answer that is lost loses nothing.

use super::Worker;
use crate::job::flight::Flight;
use crate::job::pattern::first_match;
use crate::job::spec::MAX_SALVAGE;
use crate::report;
use crate::store::{Denied, Fault, Store, link};
use redis::Connection;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A connection that blocks in a list command, and can be woken by its id.
pub(crate) struct Blocker {
    longest: Duration,
    /// With its client id, by which it can be woken, and when it was asked which Redis it reached.
    con: Option<(Connection, u64, Instant)>,
}

/// What waiting for the bell brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ring {
    /// There was one.
    Came,
    /// Time ran out, or somebody woke us.
    None,
}

impl Blocker {
    /// Blocks for `longest` at most.
    pub(crate) fn new(longest: Duration) -> Blocker {
        Blocker { longest, con: None }
    }

    /// Waits for a ring of the bell.
    pub(crate) fn hear(
        &mut self,
        store: &Store,
        block: Duration,
        woken: &AtomicU64,
    ) -> Result<Ring, Fault> {
        let mut cmd = redis::cmd("BRPOP");
        cmd.arg(&store.keys.bell)
            .arg(seconds(block.min(self.longest)));
        let answer: Option<redis::Value> = self.block(store, &cmd, woken)?;
        Ok(answer.map_or(Ring::None, |_| Ring::Came))
    }

    /// Waits for an inbox entry, moves it to `taken` of this instance and gives it, but for a huge one: `take`, which
    /// comes next, gives the beginning of that. It has come whole this once: no blocking call moves an entry without
    /// giving it, too.
    pub(crate) fn hear_inbox(
        &mut self,
        store: &Store,
        block: Duration,
        woken: &AtomicU64,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let mut cmd = redis::cmd("BRPOPLPUSH");
        let taken = store.keys.taken(&store.identity().instance);
        cmd.arg(&store.keys.inbox)
            .arg(taken)
            .arg(seconds(block.min(self.longest)));
        let entry: Option<Vec<u8>> = self.block(store, &cmd, woken)?;
        if entry
            .as_ref()
            .is_some_and(|entry| entry.len() > MAX_SALVAGE)
        {
            self.con = None; // and with it the buffer, which has grown to the entry's length
            return Ok(None);
        }
        Ok(entry)
    }

    /// Once more if the connection breaks: that it did, while nobody looked, says nothing about Redis now.
    fn block<T: redis::FromRedisValue>(
        &mut self,
        store: &Store,
        cmd: &redis::Cmd,
        woken: &AtomicU64,
    ) -> Result<Option<T>, Fault> {
        match self.block_once(store, cmd, woken)? {
            Err(error) if link::breaks(&error) && !error.is_timeout() => {
                self.block_once(store, cmd, woken)?
            }
            answer => answer,
        }
        .map_err(|error| link::fault(&error))
    }

    fn block_once<T: redis::FromRedisValue>(
        &mut self,
        store: &Store,
        cmd: &redis::Cmd,
        woken: &AtomicU64,
    ) -> Result<Result<Option<T>, redis::RedisError>, Fault> {
        let trusted = |open: &(Connection, u64, Instant)| store.health.trusts(open.2);
        // Taken out meanwhile: after a panic half an answer may lie in it.
        let mut open = match self.con.take().filter(trusted) {
            Some(open) => open,
            None => store.open_blocking(self.longest)?,
        };
        woken.store(open.1, Ordering::Release);
        let began = Instant::now();
        let answer = cmd.query::<Option<T>>(&mut open.0);
        woken.store(0, Ordering::Release);
        if let Err(error) = &answer
            && error.code() != Some("UNBLOCKED")
        {
            report::redis_error();
        }
        if let Err(error) = &answer
            && link::breaks(error)
        {
            // Never used again after a time-out or an I/O error.
            if error.is_timeout() {
                store.health.distrust(began);
            }
        } else {
            self.con = Some(open);
        }
        Ok(answer)
    }
}

/// Whole milliseconds as the seconds that Redis wants; never 0, which would block for ever.
fn seconds(block: Duration) -> String {
    format!("{:.3}", block.as_secs_f64().max(0.001))
}

/// Claims up to `n` jobs.
pub(crate) fn claim(
    worker: &Worker,
    n: usize,
    paid_only: bool,
) -> Result<(Vec<Box<Flight>>, bool), Denied> {
    if worker.tools.store.health.forgot() {
        return Err(Denied::Settling);
    }
    let claim = worker.session.claim(n, paid_only)?;
    if claim.deferred > 0 {
        report::deferred(claim.deferred);
    }
    if claim.newer {
        report::newer_record();
    }
    let mut flights = claim.jobs;
    for flight in &mut flights {
        if flight.started_at == Some(claim.now) {
            report::event("started", 1);
        }
        if let (None, Some(model)) = (flight.timeout, &flight.model) {
            let timeouts = &worker.tools.model_timeouts;
            flight.timeout = first_match(timeouts, model.as_str());
        }
    }
    Ok((flights, claim.more))
}

/// Claims, and where nothing waits hears the bell until `block` is over and claims again. `emptied`: the
/// last claim of this process left nothing, so the bell alone can tell of something new.
pub(crate) fn pull(
    worker: &Worker,
    blocker: &mut Blocker,
    n: usize,
    block: Duration,
    emptied: bool,
    woken: &AtomicU64,
    go_on: &dyn Fn() -> bool,
) -> Result<(Vec<Box<Flight>>, bool), Denied> {
    let mut listen_first = emptied && !block.is_zero();
    let deadline = Instant::now() + block;
    loop {
        if !std::mem::take(&mut listen_first) {
            // Asked at each claim: the bot may have been refused while the bell was waited for.
            let paid_only = worker.tools.gate.is_bot_refused();
            let (flights, more) = claim(worker, n, paid_only)?;
            if !flights.is_empty() || more {
                return Ok((flights, more));
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !go_on() {
            return Ok((Vec::new(), false));
        }
        let began = Instant::now();
        match blocker.hear(&worker.tools.store, left, woken) {
            Ok(Ring::Came) => {}
            // The next pull claims first: what a lost ring left waiting is found then at the latest.
            Ok(Ring::None) => return Ok((Vec::new(), true)),
            Err(fault) => {
                if let Some(why) = fault.passing()
                    && go_on()
                {
                    worker.tools.store.health.waited_in_vain(why, began);
                }
                return Err(fault.into());
            }
        }
    }
}
