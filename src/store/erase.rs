//! What people want gone: one job with all that lies of it anywhere, or all jobs of a user. Redis holds no index
//! of a user's jobs, since nothing but this needs one: it is walked through, a page a trip, while others work.

use super::keys::glob;
use super::operate::eval;
use super::view::View;
use super::{FORMAT, Fault};
use crate::job::spec;
use crate::job::{JobId, UnixMs};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// How long a bare id stays, so that its repeated LPUSH is a duplicate and no payment.
const BARE: Duration = Duration::from_secs(86_400);
/// How a made id begins, as that of each redelivery does.
const MADE: &str = "j-";
/// Keys, entries or events read in one trip.
const PAGE: usize = 1000;
/// Events deleted by one command.
const BATCH: usize = 500;

/// What became of one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delete {
    /// Its bare id is left.
    Ok,
    /// There had been no more than that.
    Bare,
    /// A worker holds it, or fal has it: it is to be cancelled first.
    Running,
    /// A newer version wrote it.
    Newer,
    /// There is no such job.
    Gone,
}

/// The same with what was known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// What became of it.
    pub delete: Delete,
    /// Its state before; empty where there was none.
    pub state: String,
    /// What it cost: `no`, `yes`, `unknown`.
    pub charged: String,
    /// When its first life began: no event of it is older.
    pub since: UnixMs,
}

/// Traces beside records, by which they are found.
#[derive(Clone, Debug, Default)]
pub struct Belongings {
    /// Ids of jobs.
    pub jobs: HashSet<String>,
    /// Whose jobs they are, where all of somebody's are meant.
    pub user: Option<String>,
    /// Files that users sent, by Telegram's ids.
    pub files: HashSet<String>,
}

impl View {
    /// Takes a job out of every place; with `only_look` says what would become of it.
    pub fn delete(&mut self, id: &JobId, only_look: bool) -> Result<Deleted, Fault> {
        let name = id.as_str();
        let keys = [
            self.keys.job(name),
            self.keys.spec(name),
            self.keys.result(name),
            self.keys.later.clone(),
            self.keys.dead.clone(),
            self.keys.held.clone(),
            self.keys.ready[0].clone(),
            self.keys.events.clone(),
            self.keys.suspects.clone(),
        ];
        let mut cmd = eval(&self.scripts.delete, &keys);
        cmd.arg(&self.keys.namespace)
            .arg(name)
            .arg(FORMAT)
            .arg(BARE.as_secs())
            .arg(u8::from(only_look));
        let (word, state, charged, since): (String, String, String, i64) = self.ask(&cmd)?;
        Ok(Deleted {
            delete: match word.as_str() {
                "ok" => Delete::Ok,
                "bare" => Delete::Bare,
                "running" => Delete::Running,
                "newer" => Delete::Newer,
                _ => Delete::Gone,
            },
            state,
            charged,
            since: UnixMs(since),
        })
    }

    /// Files that the entry of a job names, if it is kept.
    pub fn input_files(&mut self, id: &JobId) -> Result<Vec<String>, Fault> {
        let entry = self.entry(id)?;
        let spec = entry.and_then(|entry| spec::parse(entry.as_bytes(), None).ok());
        Ok(spec.map_or_else(Vec::new, |spec| {
            spec.files.files().map(|(_, id)| id.to_owned()).collect()
        }))
    }

    /// Jobs whose id begins so and whose record says this of one of its fields.
    fn jobs_with(
        &mut self,
        begins: &str,
        field: &str,
        right: impl Fn(&str) -> bool,
    ) -> Result<Vec<JobId>, Fault> {
        let (start, ids_at) = (self.keys.job(begins), self.keys.job("").len());
        let mut found = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let keys = self.scan(&mut cursor, &start)?;
            let mut pipe = redis::pipe();
            for key in &keys {
                pipe.cmd("HGET").arg(key).arg(field);
            }
            let values = match keys.is_empty() {
                true => Vec::new(),
                false => self.ask_all::<Option<Vec<u8>>>(&pipe)?,
            };
            for (key, value) in keys.iter().zip(values) {
                let said = value.as_deref().map(String::from_utf8_lossy);
                if said.is_some_and(|said| right(&said)) {
                    found.insert(key[ids_at..].to_owned());
                }
            }
            if cursor == "0" {
                return Ok(found.iter().filter_map(|id| JobId::new(id)).collect());
            }
        }
    }

    /// Whether another namespace lies below the names of our jobs (`a` and `a:job`): its keys look like records.
    fn is_shared(&mut self) -> Result<bool, Fault> {
        let kind: String = self.ask(redis::cmd("TYPE").arg(self.keys.job("events")))?;
        Ok(kind == "stream")
    }

    /// Jobs of a user that are known, whatever their state.
    pub fn jobs_of_user(&mut self, user: &str) -> Result<Vec<JobId>, Fault> {
        if self.is_shared()? {
            let why = "another namespace begins with the names of this one's jobs: name the jobs one by one";
            return Err(Fault::Refused(why.to_owned()));
        }
        self.jobs_with("", "user", |said| said == user)
    }

    /// Redeliveries of these jobs.
    pub fn redeliveries_of(&mut self, ids: &HashSet<String>) -> Result<Vec<JobId>, Fault> {
        if self.is_shared()? {
            return Ok(Vec::new());
        }
        self.jobs_with(MADE, "redelivers", |said| ids.contains(said))
    }

    /// A page of the keys that begin so.
    fn scan(&mut self, cursor: &mut String, start: &str) -> Result<Vec<String>, Fault> {
        let mut cmd = redis::cmd("SCAN");
        cmd.arg(&*cursor)
            .arg("MATCH")
            .arg(glob(start) + "*")
            .arg("COUNT")
            .arg(PAGE);
        let (next, keys): (String, Vec<Vec<u8>>) = self.ask(&cmd)?;
        *cursor = next;
        let keys = keys
            .into_iter()
            .filter_map(|key| String::from_utf8(key).ok());
        Ok(keys.filter(|key| key.starts_with(start)).collect())
    }

    /// Entries of a user that no worker has read yet: taken out of the inbox, or only counted.
    pub fn unread_of_user(&mut self, user: &str, only_look: bool) -> Result<usize, Fault> {
        let inbox = self.keys.inbox.clone();
        let mut theirs: Vec<Vec<u8>> = Vec::new();
        // From the side where entries come in: what is taken at the other end moves nothing out of the page, and
        // what comes in moves over it only what was seen.
        let mut seen = 0;
        loop {
            let mut cmd = redis::cmd("LRANGE");
            cmd.arg(&inbox).arg(seen).arg(seen + 24);
            let page: Vec<Vec<u8>> = self.ask(&cmd)?;
            if page.is_empty() {
                break;
            }
            seen += 25;
            theirs.extend(page.into_iter().filter(|entry| {
                let whose = match spec::parse(entry, None) {
                    Ok(spec) => spec.user,
                    Err(invalid) => invalid.user,
                };
                whose.as_deref() == Some(user)
            }));
        }
        if only_look {
            return Ok(theirs.len());
        }
        let mut taken = 0;
        for entry in theirs {
            let mut cmd = redis::cmd("LREM");
            cmd.arg(&inbox).arg(-1).arg(entry);
            taken += self.ask::<usize>(&cmd)?;
        }
        Ok(taken)
    }

    /// Deletes the events of these, from `since` on, or only counts them; gives how many of each job. The last
    /// words of a life that was deleted stay: they hold no more than its id.
    pub fn erase_events(
        &mut self,
        whose: &Belongings,
        since: UnixMs,
        only_look: bool,
    ) -> Result<BTreeMap<String, u64>, Fault> {
        let mut erased = BTreeMap::new();
        let mut last = match since.0 {
            ..=0 => "0".to_owned(),
            since => format!("{}-0", since - 1),
        };
        loop {
            let page = self.events_after(&last, PAGE)?;
            let full = page.len() == PAGE;
            let mut theirs = Vec::new();
            for (id, fields) in page {
                let said = |wanted: &str| {
                    let field = fields.iter().find(|(name, _)| name == wanted);
                    field.map(|(_, value)| value.as_str())
                };
                let job = said("job").unwrap_or_default();
                let user = said("user").filter(|user| whose.user.as_deref() == Some(user));
                let last_words = said("error") == Some("deleted") && said("model").is_none();
                if (user.is_some() || whose.jobs.contains(job)) && !last_words {
                    *erased.entry(job.to_owned()).or_default() += 1;
                    theirs.push(id.clone());
                }
                last = id;
            }
            for batch in theirs.chunks(BATCH).filter(|_| !only_look) {
                let mut cmd = redis::cmd("XDEL");
                cmd.arg(&self.keys.events).arg(batch);
                self.ask::<u64>(&cmd)?;
            }
            if !full {
                return Ok(erased);
            }
        }
    }

    /// Deletes what is kept beside jobs: of the user his share of the rate, of his private chat what is known of
    /// sends to it, of files where in fal's storage they lie.
    pub fn erase_belongings(&mut self, whose: &Belongings) -> Result<(), Fault> {
        let ns = self.keys.namespace.clone();
        if let Some(user) = &whose.user {
            self.ask::<u64>(redis::cmd("DEL").arg(format!("{ns}:rate:user:{user}")))?;
            let mut cmd = redis::cmd("HDEL");
            cmd.arg(&self.keys.audit).arg(format!("s:{user}"));
            self.ask::<u64>(&cmd)?;
            // `rate:<bot>:chat:<chat>`, `rate:<bot>:unreachable:<chat>`
            self.erase_keys(&format!("{ns}:rate:"), |rest| {
                let mut parts = rest.splitn(3, ':').skip(1);
                matches!(parts.next(), Some("chat" | "unreachable"))
                    && parts.next() == Some(user.as_str())
            })?;
        }
        self.erase_uploads(&whose.files)
    }

    /// Forgets where in fal's storage these lie.
    pub fn erase_uploads(&mut self, files: &HashSet<String>) -> Result<(), Fault> {
        if files.is_empty() {
            return Ok(());
        }
        // `upload:<bot>:<file>`
        let start = format!("{}:upload:", self.keys.namespace);
        self.erase_keys(&start, |rest| {
            let file = rest.split_once(':').map_or("", |(_, file)| file);
            files.contains(file)
        })
    }

    fn erase_keys(&mut self, start: &str, theirs: impl Fn(&str) -> bool) -> Result<(), Fault> {
        let mut cursor = "0".to_owned();
        loop {
            let mut keys = self.scan(&mut cursor, start)?;
            keys.retain(|key| theirs(&key[start.len()..]));
            if !keys.is_empty() {
                self.ask::<u64>(redis::cmd("DEL").arg(&keys))?;
            }
            if cursor == "0" {
                return Ok(());
            }
        }
    }
}
