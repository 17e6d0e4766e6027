//! Dead letters get a new life: which there are, and the script that decides for each what it still knows of
//! fal's result, and so what the new life costs.

use super::operate::eval;
use super::view::View;
use super::{FORMAT, Fault};
use crate::job::JobId;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long fal may keep a result: an hour, after which nothing is lost by a new request.
const KEPT_AT_FAL: Duration = Duration::from_secs(3600);
/// Letters read in one trip, and tried by one call of the script: some milliseconds of Redis's time.
const PAGE: usize = 500;
const BATCH: usize = 50;

/// What a retry came to, or would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Its result is known: it is delivered again, free.
    Deliver,
    /// Its request is taken up again where fal still has it, free; where fal has not, it fails again.
    Fetch,
    /// It is generated again, paid.
    Generate,
    /// It has not ended: there is nothing to retry, or somebody has just done so.
    Open,
    /// It ended well.
    Done,
    /// It was cancelled, and its entry is gone.
    Cancelled,
    /// The entry broke a rule: there never was a job.
    Invalid,
    /// It is a redelivery of another job.
    Redelivery,
    /// Only its id is kept.
    Bare,
    /// A newer version wrote it.
    Newer,
    /// There is no such job.
    Gone,
}

impl Retry {
    /// Whether the job has a new life by it.
    pub fn revives(self) -> bool {
        matches!(self, Retry::Deliver | Retry::Fetch | Retry::Generate)
    }
}

/// What became of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retried {
    /// The job.
    pub id: JobId,
    /// What comes, or why nothing does.
    pub retry: Retry,
    /// Its state before.
    pub state: String,
    /// Why it had failed; empty where it had not.
    pub kind: String,
    /// What its life before cost: `no`, `yes`, `unknown`.
    pub charged: String,
    /// Messages that it has left in its chat.
    pub messages: usize,
}

/// A dead letter by what it is chosen by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The job.
    pub id: JobId,
    /// Why it failed.
    pub kind: String,
    /// Its model, where it had one.
    pub model: String,
    /// Whom it counted for, where somebody.
    pub user: String,
}

impl View {
    /// The dead letters of this moment, the oldest first. What dies while they are read is not among them, so a
    /// letter that is retried and dies again does not come twice.
    pub fn dead_letters(&mut self) -> Result<Vec<Letter>, Fault> {
        let now = self.now()?;
        let mut found: BTreeSet<(i64, String)> = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut cmd = redis::cmd("ZSCAN");
            cmd.arg(&self.keys.dead).arg(&cursor).arg("COUNT").arg(PAGE);
            let (next, page): (String, Vec<(String, f64)>) = self.ask(&cmd)?;
            for (id, at) in page {
                if at as i64 <= now.0 {
                    found.insert((at as i64, id));
                }
            }
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        let ids: Vec<JobId> = (found.into_iter())
            .filter_map(|(_, id)| JobId::new(&id))
            .collect();
        let mut letters = Vec::with_capacity(ids.len());
        for batch in ids.chunks(PAGE) {
            let mut pipe = redis::pipe();
            for id in batch {
                pipe.cmd("HMGET")
                    .arg(self.keys.job(id.as_str()))
                    .arg(&["kind", "model", "user"]);
            }
            type Row = (Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);
            let text = |bytes: Option<Vec<u8>>| {
                String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
            };
            for (id, (kind, model, user)) in batch.iter().zip(self.ask_all::<Row>(&pipe)?) {
                letters.push(Letter {
                    id: id.clone(),
                    kind: text(kind),
                    model: text(model),
                    user: text(user),
                });
            }
        }
        Ok(letters)
    }

    /// Gives each of these a new life that can have one; with `only_look` says what would become of it.
    pub fn retry(&mut self, ids: &[JobId], only_look: bool) -> Result<Vec<Retried>, Fault> {
        let keys = [
            self.keys.dead.clone(),
            self.keys.config.clone(),
            self.keys.events.clone(),
            self.keys.ready[0].clone(),
            self.keys.bell.clone(),
        ];
        let mut out = Vec::with_capacity(ids.len());
        for batch in ids.chunks(BATCH) {
            let mut cmd = eval(&self.scripts.retry, &keys);
            cmd.arg(&self.keys.namespace)
                .arg(FORMAT)
                .arg(u8::from(only_look))
                .arg(KEPT_AT_FAL.as_millis() as u64);
            for id in batch {
                cmd.arg(id.as_str());
            }
            type Row = (String, String, String, String, String);
            let rows: Vec<Row> = self.ask(&cmd)?;
            for (id, (word, state, kind, charged, messages)) in batch.iter().zip(rows) {
                let messages: Vec<i64> = serde_json::from_str(&messages).unwrap_or_default();
                out.push(Retried {
                    id: id.clone(),
                    retry: meant_by(&word),
                    state,
                    kind,
                    charged,
                    messages: messages.len(),
                });
            }
        }
        Ok(out)
    }
}

fn meant_by(word: &str) -> Retry {
    match word {
        "deliver" => Retry::Deliver,
        "fetch" => Retry::Fetch,
        "generate" => Retry::Generate,
        "open" => Retry::Open,
        "done" => Retry::Done,
        "cancelled" => Retry::Cancelled,
        "invalid" => Retry::Invalid,
        "redelivery" => Retry::Redelivery,
        "bare" => Retry::Bare,
        "newer" => Retry::Newer,
        _ => Retry::Gone,
    }
}
