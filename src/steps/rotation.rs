//! A secret that changes while the process runs: its file is looked at, the new one goes to the client that
//! holds the old, and what the old one's refusal had stopped goes on. A request under way keeps the key that it
//! began with. What would make this another worker (another bot, another Redis) is not taken.

use super::{Tools, Worker};
use crate::config::{Fresh, RedisUrl, SecretFile, SecretKind, Source};
use crate::fal::Probe;
use crate::job::failure::Kind;
use crate::report;
use crate::store::Unfit;
use crate::telegram::refusal::Refusal;
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::Duration;

/// A token that is so new may have been refused as the one before it: what was refused then is asked again
/// soon.
const NEW: Duration = Duration::from_secs(30);
/// What the bot's token was refused for waits this long: nothing comes before a person acts.
pub(super) const REFUSED: Duration = Duration::from_secs(30);
/// And this long where the token has just changed.
pub(super) const RENEWED: Duration = Duration::from_millis(500);

/// The files, one thread at a time.
pub(crate) struct Rotation {
    files: Mutex<Vec<SecretFile>>,
    redis: Option<RedisUrl>,
}

impl Rotation {
    /// Of those secrets that lie in files. `redis`: the one in use.
    pub(crate) fn new(sources: &[Source], redis: Option<&RedisUrl>) -> Rotation {
        let files = sources.iter().filter_map(|source| source.file.clone());
        Rotation {
            files: Mutex::new(files.collect()),
            redis: redis.cloned(),
        }
    }

    /// Whether there is anything to look at.
    pub(crate) fn is_on(&self) -> bool {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        !files.is_empty()
    }

    /// Looks at all files, at those whose secret was refused at once; gives what is in use from now on. A thread
    /// that finds another one at it goes on with what it knows: a disk that hangs must hold one thread, not all.
    fn look(&self, tools: &Tools, refused: impl Fn(SecretKind) -> bool) -> Vec<SecretKind> {
        let mut files = match self.files.try_lock() {
            Ok(files) => files,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Vec::new(),
        };
        let mut taken = Vec::new();
        for file in &mut *files {
            let what = file.what();
            let used = match file.look(refused(what)) {
                None => continue,
                Some(Err(error)) => Err(error.to_string()),
                Some(Ok(fresh)) => self.take(tools, &fresh),
            };
            match used {
                Ok(()) => {
                    report::secret_read_again(what.as_str());
                    taken.push(what);
                }
                Err(why) => report::secret_not_taken(what.as_str(), &why),
            }
        }
        taken
    }

    fn take(&self, tools: &Tools, fresh: &Fresh) -> Result<(), String> {
        // Before anybody can use it. The old one stays hidden: an answer to it may still come.
        fresh.texts().into_iter().for_each(report::hide);
        let other = |what: &str| Err(format!("it is {what}: restart to change to it"));
        match (fresh, &tools.telegram) {
            (Fresh::FalKey(key), _) => tools.fal.set_key(key.expose()),
            (Fresh::BotToken(token), Some(telegram)) => {
                if !telegram.set_token(token.expose()) {
                    return other("another bot's");
                }
            }
            (Fresh::BotToken(_), None) => return other("of a bot where there was none"),
            (Fresh::RedisUrl(url), _) => {
                if !(self.redis.as_ref()).is_some_and(|redis| url.is_same_place(redis)) {
                    return other("the URL of another Redis");
                }
                let login = tools.store.set_login(url.server());
                login.map_err(|fault| fault.to_string())?;
            }
        }
        Ok(())
    }
}

/// fal refused the key with this number (`Fal::key_number`). Whether there is another one by now.
pub(super) fn has_new_fal_key(worker: &Worker, number: u64) -> bool {
    let tools = &worker.tools;
    if tools.fal.key_number() == number {
        tools
            .rotation
            .look(tools, |what| what == SecretKind::FalKey);
    }
    tools.fal.key_number() != number
}

/// Telegram refused the token. Whether there is another one by now.
pub(super) fn has_new_bot_token(worker: &Worker) -> bool {
    let tools = &worker.tools;
    tools
        .rotation
        .look(tools, |what| what == SecretKind::BotToken);
    let age = (tools.telegram.as_ref()).and_then(|telegram| telegram.new_token_age());
    age.is_some_and(|age| age < NEW)
}

/// Looks at all files. A new secret is tried, free of charge, and what the refusal of the old one had stopped
/// goes on. Gives what is new.
pub(crate) fn look(worker: &Worker) -> Vec<SecretKind> {
    let tools = &worker.tools;
    let telegram = tools.telegram.as_ref();
    let taken = tools.rotation.look(tools, |what| match what {
        SecretKind::FalKey => tools.fal.take_key_refused(),
        SecretKind::BotToken => telegram.is_some_and(|telegram| telegram.take_token_refused()),
        SecretKind::RedisUrl => tools.store.health.unfit() == Some(Unfit::Login),
    });
    for what in &taken {
        let refused = match (what, telegram) {
            (SecretKind::FalKey, _) => match tools.fal.probe() {
                Probe::KeyGood => {
                    end_pause(worker);
                    false
                }
                Probe::KeyRefused => true,
                Probe::Away => false,
            },
            (SecretKind::BotToken, Some(telegram)) => {
                let answer = telegram.get_me();
                worker.telegram_heard(answer.as_ref().err());
                matches!(answer, Err(Refusal::Operator(_)))
            }
            // Whoever opens the next connection tries it.
            (SecretKind::BotToken, None) | (SecretKind::RedisUrl, _) => false,
        };
        if refused {
            report::warning("the new secret is refused too", &[("what", &what.as_str())]);
        }
    }
    taken
}

/// The account's key was refused and pulling paused; with the new one it goes on. If Redis does not take that,
/// the pause ends by itself.
pub(super) fn end_pause(worker: &Worker) {
    let reason = format!("{}:", Kind::Auth.as_str());
    if worker.session.unpause(&reason) == Ok(true) {
        report::debug("pulling goes on with the new key", &[]);
    }
}
