//! After a Redis that forgot: what an instance holds, and what it ended or may have paid for in the last seconds,
//! is written down again.

use super::ended::{Closed, End};
use super::pack::Pack;
use super::wire::Args;
use super::*;
use crate::job::Charged;
use crate::job::flight::Doubt;

/// What is remembered of a job that waits, in the order in which `remind` takes it.
const REMINDED: [&str; 6] = ["attempt", "charged", "doubt", "tried", "queued_at", "wait"];

/// Ends that are written down again together. Who dies in the midst of it leaves so many running without their results,
/// and they are sent once more.
const AT_ONCE: usize = 8;

type ReassertRow<'a> = (&'a str, &'a str, u32, Option<&'a str>, bool, Known<'a>);

/// The fields of one row.
pub(super) enum Known<'a> {
    Fields(&'a [(&'static str, String)]),
    /// Those of an end.
    Of(&'a End<'a>),
}

/// What memory knows of one flight, for a Redis that forgot.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) id: JobId,
    pub(crate) token: Token,
    pub(crate) seq: u32,
    pub(crate) entry: Option<Arc<str>>,
    /// Nothing of it is paid: what another owner has written since, though he has let go of it, counts more.
    pub(crate) gives_way: bool,
    pub(crate) fields: Vec<(&'static str, String)>,
}

impl Store {
    /// An end, or what a job that waits may have cost. Of one that has cost nothing there is nothing to say: it may be
    /// anybody's by the time Redis forgets.
    pub(super) fn remember_closed(
        &self,
        flight: &Flight,
        seq: u32,
        write: &Write,
        patch: Args<'_>,
    ) {
        let mut fields = Pack::default();
        let (closed, patch) = match write {
            Write::End { state, .. } => {
                fields = Pack::with_capacity(512);
                // The end itself says what became of the result.
                flight.each_field(|name, value| {
                    if name != "result" {
                        fields.pair(name, value);
                    }
                });
                (Closed::Ended(*state), patch)
            }
            Write::Later { wait, .. }
                if flight.doubt == Doubt::Submit || flight.charged != Charged::No =>
            {
                for (name, value) in REMINDED.iter().zip([
                    flight.attempt.to_string().as_str(),
                    flight.charged.as_str(),
                    flight.doubt.word().unwrap_or_default(),
                    flight.tried.as_str(),
                    &flight.queued_at.0.to_string(),
                    &wait.as_millis().to_string(),
                ]) {
                    fields.pair(name, value);
                }
                (Closed::Waits, Args::new(&[], 0))
            }
            Write::Later { .. } | Write::Save { .. } | Write::Submitted { .. } => return,
        };
        let end = End {
            id: flight.id.as_str(),
            token: &flight.token.0,
            seq,
            closed,
            fields: fields.as_bytes(),
            patch,
        };
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push(&end, self.health.steady_now());
    }

    /// For the time when nothing ends.
    pub(super) fn forget_old_ends(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.forget_old(self.health.steady_now());
    }
}

impl Session {
    /// Writes down again what we hold and what we closed in the last seconds; gives the ids that somebody
    /// else owns by now.
    pub(crate) fn reassert(&self, flights: &[Remembered]) -> Result<Vec<JobId>, Denied> {
        let lost = self.reassert_flights(flights)?;
        self.reassert_ended()?;
        Ok(lost)
    }

    /// Writes down again what we hold; gives the ids that somebody else owns by now.
    pub(crate) fn reassert_flights(&self, flights: &[Remembered]) -> Result<Vec<JobId>, Denied> {
        let mut lost = Vec::new();
        for batch in flights.chunks(BATCH) {
            let rows: Vec<_> = batch
                .iter()
                .map(|held| {
                    (
                        held.id.as_str(),
                        &*held.token.0,
                        held.seq,
                        held.entry.as_deref(),
                        held.gives_way,
                        Known::Fields(&held.fields),
                    )
                })
                .collect();
            for (held, answer) in batch.iter().zip(self.reassert_rows(&rows)?) {
                if answer == "lost" {
                    lost.push(held.id.clone());
                }
            }
        }
        Ok(lost)
    }

    /// Writes down again what ended in the last seconds, and what may have been paid in a job that waits. It stays
    /// known: Redis may forget once more.
    pub(crate) fn reassert_ended(&self) -> Result<(), Denied> {
        let ended = &self.store.ended;
        let chunks = ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .chunks();
        let now = self.store.health.steady_now();
        // The latest first: what Redis forgot is mostly what came last, and once the others settled those jobs may be
        // pulled, and paid for, once more.
        for chunk in chunks.iter().rev() {
            let ends: Vec<End<'_>> = chunk.ends(now).collect();
            for part in ends.rchunks(AT_ONCE) {
                self.reassert_closed(part)?;
            }
        }
        Ok(())
    }

    pub(super) fn reassert_rows(&self, rows: &[ReassertRow<'_>]) -> Result<Vec<String>, Denied> {
        let (keys, me) = (&self.store.keys, self.store.identity());
        let (claims, worker) = (keys.claims(&me.instance), keys.worker(&me.instance));
        let mut call = Call::new(&self.store.scripts.reassert, &[&claims, &worker])
            .arg(&keys.namespace)
            .arg(&me.instance)
            .arg(FORMAT)
            .arg(rows.len());
        for (id, token, seq, entry, gives_way, fields) in rows {
            call = call.arg(*id).arg(*token).arg(*seq).arg(entry.unwrap_or(""));
            call = call.arg(if *gives_way { "1" } else { "" });
            match fields {
                Known::Fields(fields) => call::add_fields(&mut call.cmd, fields),
                Known::Of(end) => {
                    call.cmd.arg(end.each_field().count());
                    for (name, value) in end.each_field() {
                        call.cmd.arg(name).arg(value);
                    }
                }
            }
        }
        let mut answers: Vec<String> = read(self.script(&call)?)?;
        if answers.is_empty() || answers.remove(0) != "ok" {
            return Err(Denied::Buried);
        }
        let written = answers.iter().filter(|answer| *answer == "written").count();
        self.store.health.wrote_again(written as u64);
        Ok(answers)
    }

    /// The rows before the last writes (seq - 1), all at once; then those writes themselves, where Redis lost them.
    fn reassert_closed(&self, ends: &[End<'_>]) -> Result<(), Denied> {
        let mut rows = Vec::new();
        let mut last = Vec::new();
        let mut waiting = Vec::new();
        for end in ends.iter().rev() {
            match end.closed {
                Closed::Waits => waiting.push(end),
                Closed::Ended(state) => {
                    let before = end.seq.saturating_sub(1);
                    rows.push((end.id, end.token, before, None, false, Known::Of(end)));
                    last.push((end, state));
                }
            }
        }
        let answers = match rows.is_empty() {
            true => Vec::new(),
            false => self.reassert_rows(&rows)?,
        };
        for ((end, state), answer) in last.into_iter().zip(answers) {
            if answer == "lost" || answer == "closed" {
                continue;
            }
            let token = Token(end.token.into());
            let request = end.field("request_id");
            let request = request.map(|request| RequestId(request.into()));
            // A Redis that lost this has no mark of an unreachable chat either.
            let end_of = (state, false, true);
            let mut call = self.prepare_end(end.id, &token, end.seq, request.as_ref(), end_of);
            call.cmd.packed_args(end.patch);
            self.word(&call)?;
        }
        waiting.into_iter().try_for_each(|end| self.remind(end))
    }

    /// What a job that waits has cost, perhaps, where its record does not say so any more.
    fn remind(&self, waits: &End<'_>) -> Result<(), Denied> {
        let keys = &self.store.keys;
        let names = [&*keys.job(waits.id), &keys.later];
        let mut call = Call::new(&self.store.scripts.remind, &names).arg(waits.id);
        for (_, value) in waits.each_field() {
            call = call.arg(value);
        }
        let noted: u64 = read(self.script(&call.arg(FORMAT))?)?;
        self.store.health.wrote_again(noted);
        Ok(())
    }
}
