//! What a worker says of itself when it is asked: a question lies in its hash until its next beat, so a worker
//! that nobody asks has nothing to do for it.

use super::{Fault, View};
use crate::job::UnixMs;
use crate::store::operate::eval;
use serde_json::Value;

/// Question for the threads of a worker.
pub const THREADS: &str = "*";

impl View {
    /// Asks one instance: [`THREADS`], or the id of a job. Gives when; `None`: it is marked dead, or gone.
    pub fn ask_worker(&mut self, instance: &str, question: &str) -> Result<Option<UnixMs>, Fault> {
        let mut cmd = eval(&self.scripts.ask, &[self.keys.worker(instance)]);
        cmd.arg(question);
        let at: i64 = self.ask(&cmd)?;
        Ok((at > 0).then_some(UnixMs(at)))
    }

    /// What it said since then; `None`: nothing yet.
    pub fn answer_of(&mut self, instance: &str, since: UnixMs) -> Result<Option<Value>, Fault> {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(self.keys.worker(instance))
            .arg(&["answer_at", "answer"]);
        let (at, text): (Option<i64>, Option<String>) = self.ask(&cmd)?;
        let fresh = at.is_some_and(|at| at >= since.0);
        Ok(text
            .filter(|_| fresh)
            .and_then(|text| serde_json::from_str(&text).ok()))
    }
}
