//! Intake: inbox entries become checked records, or dead letters that name the broken field. Parsing
//! is done here and not in Lua, where it is slow and spoils 64-bit numbers.

use super::Worker;
use crate::job::minutes::Ended;
use crate::job::spec::{self, Invalid};
use crate::report;
use crate::store::{Denied, Entry, Intake, Taken, made_id};
use std::sync::atomic::Ordering;

/// Entries of one batch at most, and bytes.
const ENTRIES: usize = 100;
const BYTES: usize = 1 << 20;

/// Takes one batch in, if there is any. Called again while `left` of the answer is not nothing.
pub(crate) fn intake(worker: &Worker) -> Result<Intake, Denied> {
    let taken = worker.session.take(ENTRIES, BYTES)?;
    if taken.is_empty() {
        return Ok(Intake::default());
    }
    batch(worker, taken)
}

/// Takes in what lies at the right end of `taken`, oldest first.
pub(crate) fn batch(worker: &Worker, taken: Vec<Taken>) -> Result<Intake, Denied> {
    let now = worker.tools.store.now();
    let mut entries: Vec<Entry> = taken
        .into_iter()
        .map(|Taken { raw, cut }| {
            let verdict = match &cut {
                Some(cut) => Err(Box::new(Invalid::huge(cut.length))),
                None => spec::parse(&raw, Some(now)),
            };
            let id = match &verdict {
                Ok(spec) => spec.id.clone(),
                Err(invalid) => invalid.id.clone(),
            };
            Entry {
                raw,
                cut,
                id: id.unwrap_or_else(made_id),
                verdict,
            }
        })
        .collect();
    let mut done = worker.session.intake(&entries, &worker.tools.defaults)?;
    if !done.displaced.is_empty() {
        for &at in &done.displaced {
            displace(&mut entries[at], worker);
        }
        done = worker.session.intake(&entries, &worker.tools.defaults)?;
    }
    for (entry, mark) in entries.iter().zip(done.marks.chars()) {
        match (&entry.verdict, mark) {
            // Who has a chat is told first: the line comes with the end of that.
            (Err(invalid), 'd') => {
                report::dead_letter(entry.id.as_str(), invalid.user.as_deref(), &invalid.error);
                worker.tools.failed.fetch_add(1, Ordering::Relaxed);
                worker.tools.count_end(now, None, Ended::Failed);
            }
            (_, 'u') => report::duplicate(entry.id.as_str()),
            (_, 'm') => report::event("queued", 1),
            (_, _) => {}
        }
    }
    Ok(done)
}

/// Something that is no record lies under the key of this entry's. It is somebody's, so it stays, and the entry becomes
/// a dead letter under another id.
fn displace(entry: &mut Entry, worker: &Worker) {
    if let Ok(spec) = &entry.verdict {
        let key = worker.tools.store.keys.job(entry.id.as_str());
        let error = format!("id: expected a record or nothing under {key}, found another type");
        entry.verdict = Err(Box::new(Invalid::beside(spec, error)));
    }
    entry.id = made_id();
}
