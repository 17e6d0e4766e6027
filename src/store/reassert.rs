//! After a Redis that forgot: what an instance holds, and what it ended in the last seconds, is written
//! down again.

use super::wire::Args;
use super::*;
use std::collections::VecDeque;

type ReassertRow<'a> = (&'a str, &'a str, u32, Option<&'a str>, Known<'a>);

/// The fields of one row.
pub(super) enum Known<'a> {
    Fields(&'a [(&'static str, String)]),
    /// Names and values in turn.
    Kept(&'a Args),
}

/// What memory knows of one flight, for a Redis that forgot.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) id: JobId,
    pub(crate) token: Token,
    pub(crate) seq: u32,
    pub(crate) entry: Option<Arc<str>>,
    pub(crate) fields: Vec<(&'static str, String)>,
}

/// How long an end is remembered.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Most that the remembered ends take, about: a job without a chat ends with its result, which may have
/// many MiB. Redis loses its last second or two; thousands of ends a second still fit that.
const REMEMBERED_BYTES: usize = 24 << 20;

/// What was ended in the last seconds, oldest first.
#[derive(Default)]
pub(super) struct Ended {
    list: VecDeque<Arc<Closed>>,
    bytes: usize,
}

impl Ended {
    fn push(&mut self, closed: Closed) {
        self.bytes += closed.bytes();
        self.list.push_back(Arc::new(closed));
        while self.bytes > REMEMBERED_BYTES && self.list.len() > 1
            || self
                .list
                .front()
                .is_some_and(|old| old.at.elapsed() > REMEMBERED)
        {
            self.bytes -= self.list.pop_front().map_or(0, |old| old.bytes());
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.list.len(), self.bytes)
    }
}

pub(super) struct Closed {
    at: Instant,
    id: JobId,
    token: Token,
    seq: u32,
    request: Option<RequestId>,
    fields: Args,
    state: EndState,
    patch: Args,
}

impl Closed {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        let texts = self.id.as_str().len() + self.fields.len() + self.patch.len();
        size_of::<Closed>() + 128 + texts
    }
}

impl Store {
    /// Of an end alone: a job that went to `later` may be anybody's by the time Redis forgets.
    pub(super) fn remember_closed(
        &self,
        flight: &Flight,
        seq: u32,
        write: &Write,
        call: &Call<'_>,
    ) {
        let Write::End { state, .. } = write else {
            return;
        };
        // The end itself says what became of the result.
        let fields = Args::of(|cmd| {
            flight.each_field(|name, value| {
                if name != "result" {
                    cmd.arg(name).arg(value);
                }
            });
        });
        let closed = Closed {
            at: Instant::now(),
            id: flight.id.clone(),
            token: flight.token.clone(),
            seq,
            request: flight.request.clone(),
            fields,
            state: *state,
            patch: call.patch_args(),
        };
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push(closed);
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

    /// Writes down again what ended in the last seconds. It stays known: Redis may forget once more.
    pub(super) fn reassert_ended(&self) -> Result<(), Denied> {
        let ended: Vec<Arc<Closed>> = {
            let ended = self
                .store
                .ended
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let young = |old: &&Arc<Closed>| old.at.elapsed() < REMEMBERED;
            ended.list.iter().filter(young).cloned().collect()
        };
        for old in &ended {
            self.reassert_closed(old)?;
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
        for (id, token, seq, entry, fields) in rows {
            call = call.arg(*id).arg(*token).arg(*seq).arg(entry.unwrap_or(""));
            match fields {
                Known::Fields(fields) => call::add_fields(&mut call.cmd, fields),
                Known::Kept(args) => {
                    call.cmd.arg(args.count() / 2).packed_args(args);
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

    /// The row before the last write (seq - 1), then that write itself, if Redis lost it.
    pub(super) fn reassert_closed(&self, old: &Closed) -> Result<(), Denied> {
        let row = (
            old.id.as_str(),
            &*old.token.0,
            old.seq.saturating_sub(1),
            None,
            Known::Kept(&old.fields),
        );
        let answers = self.reassert_rows(&[row])?;
        if answers.first().is_some_and(|answer| answer != "lost") {
            let (id, request) = (old.id.as_str(), old.request.as_ref());
            let mut call = self.prepare_end(id, &old.token, old.seq, request, old.state);
            call.cmd.packed_args(&old.patch);
            self.word(&call)?;
        }
        Ok(())
    }
}
