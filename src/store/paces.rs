//! What all workers learnt of the pace of models: a hash, a model a field. It may be lost at any time.

use super::*;
#[cfg(test)]
use crate::job::pace::Pace;
use crate::job::pace::{MODELS, SAMPLES};

impl Session {
    /// Adds what was learnt of some models (times in ms, the newest last; none only asks) and gives what all
    /// know of each of them now, in the same order. A repeat counts the times twice, which does no harm.
    pub(crate) fn share_paces(&self, told: &[(String, Vec<u32>)]) -> Result<Vec<String>, Fault> {
        let mut call = self.paces_call();
        for (model, times) in told {
            let times: Vec<String> = times.iter().map(u32::to_string).collect();
            call = call.arg(model).arg(times.join(" "));
        }
        Ok(texts(read(self.script(&call)?)?))
    }

    /// All models with what is known of them, at the start of a worker.
    pub(crate) fn paces(&self) -> Result<Vec<(String, String)>, Fault> {
        let texts = texts(read(self.script(&self.paces_call())?)?);
        let pairs = texts.chunks_exact(2);
        Ok(pairs
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect())
    }

    /// What is known of one model; `None` when nothing is.
    #[cfg(test)]
    pub(super) fn pace_of(&self, model: &str) -> Result<Option<Pace>, Fault> {
        let mut cmd = redis::cmd("HGET");
        cmd.arg(&self.store.keys.models).arg(model);
        let text: Option<Vec<u8>> = read(self.command(&cmd)?)?;
        Ok(text.and_then(|text| Pace::parse(&String::from_utf8_lossy(&text))))
    }

    fn paces_call(&self) -> Call<'_> {
        let script = &self.store.scripts.models;
        Call::new(script, &[&self.store.keys.models])
            .arg(SAMPLES)
            .arg(MODELS)
    }
}

/// Whatever stands in Redis: broken UTF-8 stops nobody.
fn texts(all: Vec<Vec<u8>>) -> Vec<String> {
    all.iter()
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect()
}
