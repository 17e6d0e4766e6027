//! What ended in each minute: counted for all threads of this process, told to Redis by the keeper every few
//! seconds. A worker that is killed takes what it had not told yet with it: a few seconds of a plot.

use super::Tools;
use crate::job::UnixMs;
use crate::job::flight::EndState;
use crate::job::minutes::{Ended, Tally};
use crate::store::{Fault, Session};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

impl Tools {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.minutes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A life has ended, and Redis knows it.
    pub(super) fn count_end(&self, now: UnixMs, model: Option<&str>, ended: Ended) {
        self.tally().count(now, model, ended);
    }
}

/// An end as it is counted; `delay`: since the job was wanted.
pub(super) fn ended(state: EndState, delay: Duration) -> Ended {
    match state {
        EndState::Done => Ended::Done(delay),
        EndState::Dead => Ended::Failed,
        EndState::Cancelled => Ended::Cancelled,
    }
}

/// Tells Redis what ended since the last time; nothing where nothing did. What it does not take stays,
/// bounded, for the next time.
pub(crate) fn share(tools: &Tools, session: &Session) -> Result<(), Fault> {
    let Some((batch, minutes)) = tools.tally().batch() else {
        return Ok(());
    };
    session.add_minutes(batch, &minutes)?;
    tools.tally().confirm(batch);
    Ok(())
}
