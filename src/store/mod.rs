//! Jobs in Redis: one typed method for each script, and the only place that knows what Redis answers.
//! The protocol (design section 3): a job lives in a record, its id in a list or in a claim and never
//! anywhere else; every write names job and token and may be repeated.
//!
//! [`Store`] is shared by all threads of a process; it holds the pool, what is known of Redis's health
//! and who we are. A [`Session`] belongs to one thread and keeps that thread's connection.

mod board;
mod call;
mod depths;
mod ended;
mod erase;
mod health;
pub mod inspect;
mod jobs;
mod keys;
pub(crate) mod link;
mod minutes;
mod operate;
mod paces;
mod pack;
pub(crate) mod rate;
mod reassert;
mod record;
mod replay;
mod retry;
mod script;
pub mod settings;
mod tls;
mod topology;
mod upkeep;
mod uploads;
pub mod view;
mod window;
mod wire;

#[cfg(test)]
mod tests;

pub use crate::config::Retention as Keep;
pub use board::{DeadView, Flights};
pub(crate) use call::{Call, Part};
#[cfg(test)]
pub(crate) use depths::Waiting;
pub(crate) use depths::{Depths, Walk};
pub use erase::{Belongings, Delete, Deleted};
pub use link::Fault;
pub(crate) use link::Unfit;
pub use operate::{Cancel, Paused, Redeliver};
pub(crate) use reassert::Remembered;
pub(crate) use replay::{Paid, Replayed};
pub use retry::{Letter, Retried, Retry};
pub(crate) use tls::refusal as tls_refusal;
pub(crate) use upkeep::steps_text;

use crate::config::{self, Server, Way};
use crate::http;
use crate::job::flight::{EndState, Flight, Patch, Token, Write};
use crate::job::schedule;
use crate::job::spec::{Invalid, Spec};
use crate::job::{JobId, RequestId, UnixMs};
use call::read;
use health::Health;
use keys::Keys;
use link::{Held, Opener, Pool};
use redis::{Cmd, ToRedisArgs, Value};
use script::{Script, Scripts};
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Format number of the records this version writes (contract section 2, field `v`).
pub const FORMAT: u32 = 1;
/// A submit of unknown outcome waits at least this long before its repeat when its owner is known to be dead.
const WAIT_DEAD: Duration = Duration::from_secs(2);
/// And this long when he may still be sending: a little more than a submit can take.
const WAIT_MAYBE_ALIVE: Duration =
    http::longest(schedule::SUBMIT).saturating_add(Duration::from_secs(1));
/// Crashes of one job in a submit before it is dead, without a step file that tells whose step it was.
const CRASH_LIMIT: u32 = 10;
/// Crashes of one job whose step was executing, as a step file says.
const KNOWN_CRASH_LIMIT: u32 = 3;
/// Panics of one job before it is dead.
const PANIC_LIMIT: u32 = 3;
/// How long a dead instance stays marked.
const REMEMBER_DEAD: Duration = Duration::from_secs(86_400);
/// How long one that stopped in order stays marked.
const LEFT: Duration = Duration::from_secs(600);
/// Time between two walks of the audit.
pub(crate) const AUDIT_TICK: Duration = Duration::from_secs(5);
/// Time between two pages of a walk that is not complete.
const AUDIT_GAP: Duration = Duration::from_secs(1);
/// A queued record is searched for in its list when it still waits after so long.
const AUDIT_PATIENCE: Duration = Duration::from_secs(60);
/// Keys that one call of the audit looks at, and half as many places of each list: 3 ms of Redis's CPU
/// where a hundred thousand jobs wait, 2 ms more when it searches a list of as many.
const AUDIT_PAGE: usize = 500;
/// Redis's time differs from what is known of it by more than any late answer explains, ms: its clock was
/// set.
const CLOCK_WAS_SET: i64 = 30_000;
/// A time from here on, in ms, is no clock's: it is refused, so that sums of times cannot overflow.
const NO_TIME: i64 = 1 << 52;
/// Jobs moved by one call.
pub(crate) const BATCH: usize = 200;

/// How to reach the store.
#[derive(Clone, Debug)]
pub struct Access {
    /// Where and how (may hold a password: never log it).
    pub redis: Server,
    /// `--namespace`.
    pub namespace: String,
    /// `--inbox`.
    pub inbox: String,
    /// Connections of the pool at most.
    pub connections: u32,
}

/// What an instance says of the process behind it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    /// `--name`.
    pub name: String,
    /// Boot id of the machine.
    pub boot: String,
    /// PID namespace.
    pub pid_namespace: String,
    /// Process id in it.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub started: u64,
    /// Threads of the pool, for `status`.
    pub threads: usize,
    /// `--lease`: how long it may be silent before others take its jobs.
    pub lease: Duration,
}

/// Who this process is to Redis. After a takeover of itself it becomes somebody else.
#[derive(Debug)]
pub(crate) struct Identity {
    /// `<name>~<8 hex>`.
    pub(crate) instance: String,
    /// Counts the identities of this process.
    pub(crate) epoch: u64,
    prefix: String,
    tokens: AtomicU64,
    batches: AtomicU64,
    claims: AtomicU64,
    beats: AtomicU64,
}

/// The store, shared by all threads of a process.
pub struct Store {
    pub(crate) keys: Keys,
    opener: Opener,
    pool: Pool,
    scripts: Scripts,
    pub(crate) health: Arc<Health>,
    keep: Keep,
    process: Process,
    identity: RwLock<Arc<Identity>>,
    /// Redis's time minus this process's monotonic time, ms.
    clock: AtomicI64,
    /// By how much Redis's clock was set since, ms.
    clock_set_by: AtomicI64,
    started: Instant,
    /// Ends of the last seconds, written again when Redis forgot them.
    ended: Mutex<ended::Ended>,
    bot: OnceLock<rate::Bot>,
    /// See [`Session::tell_torn`].
    pub(crate) torn: AtomicBool,
}

/// One thread's access to the store: not shared, keeps its connection.
pub struct Session {
    store: Arc<Store>,
    held: RefCell<Option<Held>>,
    /// Tries even while Redis counts as away: the keeper, and whoever waits for the first answer.
    probes: bool,
    /// Its answers may take this long, where that is less than usual.
    answer: Option<Duration>,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Written {
    /// It stands (now, or already).
    Ok,
    /// The job has another owner, or has ended: drop it without a word.
    Stale,
    /// There is no record.
    Gone,
    /// The record has this request id, which wins over ours.
    Other,
    /// Nobody needs our request id: cancel it at fal.
    Cancel,
    /// A late request id came; nothing was written: go on with it.
    Adopted,
}

/// What a claim brought.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    /// Jobs, ours from now on.
    pub(crate) jobs: Vec<Box<Flight>>,
    /// More wait.
    pub(crate) more: bool,
    /// Jobs that a limit put off for the first time.
    pub(crate) deferred: u64,
    /// When it was.
    pub(crate) now: UnixMs,
    /// A record of a newer version stood there, and was left alone.
    pub(crate) newer: bool,
}

/// Why nothing could be claimed or taken in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Denied {
    /// Redis is away or refuses.
    Fault(Fault),
    /// This instance is marked dead: it was taken over.
    Buried,
    /// Redis does not know this instance (any more): beat first.
    Unregistered,
    /// Redis forgot something; nobody pulls until all have re-asserted.
    Settling,
}

impl From<Fault> for Denied {
    fn from(fault: Fault) -> Denied {
        Denied::Fault(fault)
    }
}

/// What a beat learned.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Beat {
    /// Mark of this Redis's data: another value means that it was emptied or replaced.
    pub(crate) run: String,
    /// Our entry was not there and has been made.
    pub(crate) fresh: bool,
    /// Nothing new is to be pulled.
    pub(crate) paused: bool,
    /// How many jobs Redis says we hold.
    pub(crate) claims: usize,
    /// Cancels wait for us.
    pub(crate) cancels: bool,
    /// Something in `later` is due.
    pub(crate) due: bool,
    /// Who has been silent for longest, and the time of his last beat.
    pub(crate) oldest: Option<(String, i64)>,
    /// Id of the store, when our entry was not there.
    pub(crate) store: Option<String>,
    /// Ids are ready to be claimed.
    pub(crate) waiting: bool,
    /// Limits differ from what was last applied to those who wait.
    pub(crate) limits_changed: bool,
    /// The submit window is found out from what all see.
    pub(crate) finds_window: bool,
    /// What people ask of this instance: `*` for its threads, and ids of jobs.
    pub(crate) asked: Vec<String>,
    /// There are chats that cannot be reached.
    pub(crate) marked: bool,
}

/// A pause of all workers.
pub(crate) struct Pause {
    /// As Redis writes it.
    pub(crate) since: String,
    pub(crate) by: String,
    pub(crate) reason: String,
    /// A person's, not a worker's own.
    pub(crate) person: bool,
}

/// A shared value that was changed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Overruled {
    /// Its field of `config`.
    pub(crate) name: String,
    /// What stood there.
    pub(crate) before: String,
    /// The instance that had set it; empty where a person did.
    pub(crate) by: String,
}

/// What one call of the audit did.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Audit {
    /// Until the next call is due.
    pub(crate) wait: Duration,
    /// What was mended, by kind.
    pub(crate) repairs: Vec<(String, u64)>,
}

/// What intake did.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Intake {
    /// Entries left in the inbox, or 1 where another batch came in between: there is more to do.
    pub(crate) left: u64,
    /// A letter an entry: m made, d dead, t dead once its user is told, u duplicate.
    pub(crate) marks: String,
    /// Entries, by their place, whose records would lie where something else does. Then nothing was done: they need
    /// other ids first.
    pub(crate) displaced: Vec<usize>,
}

/// An entry as it lies in `taken`.
#[derive(Debug, PartialEq)]
pub(crate) struct Taken {
    pub(crate) raw: Vec<u8>,
    /// It is too large to be brought here: `raw` is its beginning.
    pub(crate) cut: Option<Cut>,
}

/// What an entry is known by of which only the beginning is here.
#[derive(Debug, PartialEq)]
pub(crate) struct Cut {
    /// Bytes of the whole.
    pub(crate) length: u64,
    /// SHA-1 of the whole.
    pub(crate) digest: String,
}

impl From<Vec<u8>> for Taken {
    fn from(raw: Vec<u8>) -> Taken {
        Taken { raw, cut: None }
    }
}

/// One parsed entry.
pub(crate) struct Entry {
    pub(crate) raw: Vec<u8>,
    /// See [`Taken`].
    pub(crate) cut: Option<Cut>,
    pub(crate) id: JobId,
    pub(crate) verdict: Result<Spec, Box<Invalid>>,
}

/// Defaults that a record takes from the flags when its job names none.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// `--max-attempts`.
    pub max_attempts: u32,
    /// `--max-wait`; `None`: off.
    pub max_wait: Option<Duration>,
}

/// Why there is no store.
#[derive(Debug)]
pub enum NoStore {
    /// The address cannot be used.
    Redis(Fault),
    /// This machine does not let its threads start.
    Threads(std::io::Error),
}

impl Store {
    /// Prepares the store; nothing is connected yet.
    pub fn new(access: &Access, keep: Keep, process: Process) -> Result<Arc<Store>, NoStore> {
        let health = Arc::new(Health::default());
        let keys = Keys::new(&access.namespace, &access.inbox);
        let opener = Opener::new(
            access.redis.clone(),
            config::slot(&keys.inbox),
            health.clone(),
        )
        .map_err(|error| NoStore::Redis(link::fault(&error)))?;
        let guard = matches!(access.redis.way, Way::Cluster { .. }).then(|| keys.never());
        let identity = Identity::new(&process.name, 0);
        Ok(Arc::new(Store {
            keys,
            pool: link::pool(opener.clone(), access.connections).map_err(NoStore::Threads)?,
            opener,
            scripts: Scripts::new(guard.as_deref()),
            health,
            keep,
            process,
            identity: RwLock::new(Arc::new(identity)),
            clock: AtomicI64::new(0),
            clock_set_by: AtomicI64::new(0),
            started: Instant::now(),
            ended: Mutex::default(),
            bot: OnceLock::new(),
            torn: AtomicBool::new(false),
        }))
    }

    /// A session for the calling thread.
    pub fn session(self: &Arc<Store>) -> Session {
        Session {
            store: self.clone(),
            held: RefCell::new(None),
            probes: false,
            answer: None,
        }
    }

    /// A session that tries even while Redis counts as away.
    pub(crate) fn probing_session(self: &Arc<Store>, answer: Duration) -> Session {
        Session {
            store: self.clone(),
            held: RefCell::new(None),
            probes: true,
            answer: Some(answer),
        }
    }

    /// Who we are now.
    pub(crate) fn identity(&self) -> Arc<Identity> {
        self.identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Becomes somebody else, after a takeover of ourselves.
    pub(crate) fn rename(&self) -> Arc<Identity> {
        let mut identity = self
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *identity = Arc::new(Identity::new(&self.process.name, identity.epoch + 1));
        identity.clone()
    }

    /// Redis's time, as last learned and carried on by this process's monotonic clock.
    pub fn now(&self) -> UnixMs {
        UnixMs(self.clock.load(Ordering::Relaxed) + self.uptime_ms())
    }

    fn uptime_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn learn_time(&self, now: i64) {
        if (1..NO_TIME).contains(&now) {
            let clock = now - self.uptime_ms();
            let before = self.clock.swap(clock, Ordering::Relaxed);
            if before != 0 && (clock - before).abs() > CLOCK_WAS_SET {
                self.clock_set_by
                    .fetch_add(clock - before, Ordering::Relaxed);
            }
        }
    }

    /// By how many milliseconds in all Redis's clock was set while this process ran.
    pub(crate) fn clock_set_by(&self) -> i64 {
        self.clock_set_by.load(Ordering::Relaxed)
    }

    /// Another password (or user) of the same Redis: for connections opened from now on.
    pub(crate) fn set_login(&self, redis: Server) -> Result<(), Fault> {
        (self.opener.redirect(redis)).map_err(|error| link::fault(&error))
    }

    /// A connection for a command that blocks.
    pub(crate) fn open_blocking(
        &self,
        block: Duration,
    ) -> Result<(redis::Connection, u64, Instant), Fault> {
        self.opener.open_blocking(block)
    }
}

impl Identity {
    fn new(name: &str, epoch: u64) -> Identity {
        Identity {
            instance: format!("{name}~{}", &hex(random_bits())[..8]),
            epoch,
            prefix: hex(random_bits()),
            tokens: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            claims: AtomicU64::new(0),
            beats: AtomicU64::new(0),
        }
    }

    fn token(&self) -> Token {
        let number = self.tokens.fetch_add(1, Ordering::Relaxed);
        let mut digits = itoa::Buffer::new();
        Token([&self.prefix, "-", digits.format(number)].concat().into())
    }

    /// The next number of an intake batch. It only rises, so a late call of an old one does nothing.
    fn batch(&self) -> u64 {
        self.batches.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The next number of a claim: a late call of an old one does nothing either.
    fn claim(&self) -> u64 {
        self.claims.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// 64 bits of the system's randomness: uniqueness of instances and tokens carries the protocol.
fn random_bits() -> u64 {
    getrandom::u64().unwrap_or_else(|_| fastrand::u64(..))
}

fn hex(bits: u64) -> String {
    format!("{bits:016x}")
}

/// A made job id.
pub(crate) fn made_id() -> JobId {
    let mut random = [0; 17];
    if getrandom::fill(&mut random).is_err() {
        fastrand::fill(&mut random);
    }
    JobId::made(random)
}
