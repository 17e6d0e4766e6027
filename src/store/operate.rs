//! What people ask of a live system: each is one script, carried out by whichever daemon comes next. Here
//! nothing is owned; a repeat, also that of a lost answer, is the same as once.

use super::rate::chat_name;
use super::script::Script;
use super::view::View;
use super::{FORMAT, Fault};
use crate::job::JobId;
use crate::job::spec::{Target, Words};
use redis::Cmd;
use std::time::Duration;

/// What a cancel came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// It is not submitted any more; its user is told next.
    Ended,
    /// Its owner, or the next one, cancels it at fal.
    Asked,
    /// Its result, or its failure, is on its way to the chat.
    Late,
    /// It had ended before.
    Over,
    /// A newer version wrote it.
    Newer,
    /// There is no such job.
    Gone,
}

/// What became of a wish to send a result again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redeliver {
    /// A daemon sends it.
    Ok,
    /// The job has not ended.
    Open,
    /// A newer version wrote it.
    Newer,
    /// Neither a file nor a result of it is known.
    Nothing,
    /// There is no such job.
    Gone,
}

/// A pause that a person's command met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    /// Why, in words.
    pub reason: String,
    /// Who made it: a person, or the instance that met trouble.
    pub by: String,
    /// A person made it.
    pub person: bool,
}

impl View {
    /// Stops pulling new jobs on all workers, until somebody resumes or `for_` is over. Takes the place of any
    /// other pause; `by`: who says so.
    pub fn hold(&mut self, reason: &str, by: &str, for_: Option<Duration>) -> Result<(), Fault> {
        let mut cmd = eval(&self.scripts.hold, std::slice::from_ref(&self.keys.paused));
        let ms = for_.map_or_else(String::new, |span| span.as_millis().to_string());
        cmd.arg(reason).arg(by).arg(ms);
        self.ask::<u8>(&cmd).map(|_| ())
    }

    /// Ends a pause, whoever made it; gives it, if there was one.
    pub fn resume(&mut self) -> Result<Option<Paused>, Fault> {
        let keys = [self.keys.paused.clone(), self.keys.bell.clone()];
        let cmd = eval(&self.scripts.resume, &keys);
        let (was, reason, by, person): (u8, String, String, u8) = self.ask(&cmd)?;
        Ok((was == 1).then_some(Paused {
            reason,
            by,
            person: person == 1,
        }))
    }

    /// Asks for the end of a job. With the state that it was in.
    pub fn cancel(&mut self, id: &JobId) -> Result<(Cancel, String), Fault> {
        let [resume, high, default, low] = self.keys.ready.clone();
        let (job, later) = (self.keys.job(id.as_str()), self.keys.later.clone());
        let keys = [
            job,
            later,
            resume,
            high,
            default,
            low,
            self.keys.bell.clone(),
        ];
        let mut cmd = eval(&self.scripts.cancel, &keys);
        cmd.arg(&self.keys.namespace).arg(id.as_str()).arg(FORMAT);
        let (word, state): (String, String) = self.ask(&cmd)?;
        let said = match word.as_str() {
            "ended" => Cancel::Ended,
            "asked" => Cancel::Asked,
            "late" => Cancel::Late,
            "over" => Cancel::Over,
            "newer" => Cancel::Newer,
            _ => Cancel::Gone,
        };
        Ok((said, state))
    }

    /// Makes the redelivery `redelivery` of an ended job.
    pub fn redeliver(
        &mut self,
        id: &JobId,
        redelivery: &JobId,
        to: &Target,
    ) -> Result<Redeliver, Fault> {
        let keys = [
            self.keys.job(id.as_str()),
            self.keys.job(redelivery.as_str()),
            self.keys.ready[0].clone(),
            self.keys.bell.clone(),
        ];
        let mut cmd = eval(&self.scripts.redeliver, &keys);
        cmd.arg(FORMAT)
            .arg(id.as_str())
            .arg(redelivery.as_str())
            .arg(to.to_resend_json(Words::Kept))
            .arg(chat_name(&to.chat));
        let word: String = self.ask(&cmd)?;
        Ok(match word.as_str() {
            "ok" => Redeliver::Ok,
            "open" => Redeliver::Open,
            "newer" => Redeliver::Newer,
            "nothing" => Redeliver::Nothing,
            _ => Redeliver::Gone,
        })
    }
}

/// A person's command is rare: its script need not be in Redis's cache.
pub(super) fn eval(script: &Script, keys: &[String]) -> Cmd {
    let guard = script.guard();
    let mut cmd = redis::cmd("EVAL");
    cmd.arg(script.code())
        .arg(keys.len() + usize::from(guard.is_some()));
    for key in keys.iter().map(String::as_str).chain(guard) {
        cmd.arg(key);
    }
    cmd
}
