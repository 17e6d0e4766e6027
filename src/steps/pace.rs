//! The pace of models: kept for all threads of this process, shared with others through Redis.

use super::{Tools, Worker};
use crate::job::flight::Flight;
use crate::job::pace::Paces;
use crate::job::spec::Model;
use crate::store::{Fault, Session};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

impl Tools {
    fn paces(&self) -> MutexGuard<'_, Paces> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// fal accepted a request: from here on it is watched.
    pub(super) fn watch(&self, flight: &mut Flight) {
        if let Some(model) = &flight.model {
            let now = self.tools.store.now();
            flight.watch = self.tools.paces().begin(model.as_str(), now);
            flight.watch.in_flight = self.tools.in_flight.load(Ordering::Relaxed) as usize;
        }
    }

    /// Before a look: what is known of the model by now.
    pub(super) fn guide(&self, flight: &mut Flight) {
        if let Some(model) = flight.model.as_ref().filter(|_| flight.watch.asks()) {
            flight.watch.pace = self.tools.paces().of(model.as_str());
        }
    }

    /// After a look: what it taught.
    pub(super) fn learn(&self, flight: &mut Flight) {
        if let (Some(model), Some(took)) = (&flight.model, flight.watch.took.take()) {
            self.tools.paces().learn(model.as_str(), took);
        }
    }
}

/// Reads at the start of a worker what was learnt before it.
pub(crate) fn recall(tools: &Tools, session: &Session) -> Result<(), Fault> {
    for (model, known) in session.paces()? {
        if Model::new(&model).is_ok() {
            tools.paces().heard(&model, &known);
        }
    }
    Ok(())
}

/// Tells Redis what was learnt since the last time, and hears what others learnt; nothing when no model was
/// used since. What Redis does not take stays, bounded, for the next time.
pub(crate) fn share(tools: &Tools, session: &Session) -> Result<(), Fault> {
    let told = tools.paces().take_news();
    if told.is_empty() {
        return Ok(());
    }
    match session.share_paces(&told) {
        Ok(all) => {
            let mut paces = tools.paces();
            for ((model, _), known) in told.iter().zip(&all) {
                paces.heard(model, known);
            }
            Ok(())
        }
        Err(fault) => {
            tools.paces().untold(told);
            Err(fault)
        }
    }
}
