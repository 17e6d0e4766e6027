//! Jobs in Redis: one typed method for each script, and the only place that knows what Redis answers.
//! The protocol (design section 3): a job lives in a record, its id in a list or in a claim and never
//! anywhere else; every write names job and token and may be repeated.
//!
//! [`Store`] is shared by all threads of a process; it holds the pool, what is known of Redis's health
//! and who we are. A [`Session`] belongs to one thread and keeps that thread's connection.

mod keys;
pub(crate) mod link;
mod record;
mod script;
pub mod view;

#[cfg(test)]
mod tests;

use crate::job::flight::{Doubt, EndState, Flight, Patch, Token, Write};
use crate::job::spec::{Invalid, Spec};
use crate::job::{JobId, RequestId, UnixMs};
use keys::Keys;
pub use link::Fault;
use link::{Health, Held, Opener, Pool};
use redis::{Cmd, ToRedisArgs, Value};
use script::{Script, Scripts};
use std::cell::RefCell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

pub(crate) use record::{Claimed, flight};

/// Format number of the records this version writes (contract section 2, field `v`).
pub const FORMAT: u32 = 1;
/// A submit of unknown outcome waits at least this long before its repeat when its owner is known to
/// be dead; and this long, the submit's own time limit, when he may still be sending.
const WAIT_DEAD: Duration = Duration::from_secs(2);
const WAIT_MAYBE_ALIVE: Duration = Duration::from_secs(32);
/// Crashes of one job in a submit before it is dead, without a step file that tells whose step it was.
const CRASH_LIMIT: u32 = 10;
/// Panics of one job before it is dead.
const PANIC_LIMIT: u32 = 3;
/// How long the list of the dead remembers an instance, and one that left by itself.
const REMEMBER_DEAD: Duration = Duration::from_secs(86_400);
const LEFT: Duration = Duration::from_secs(600);
/// Jobs moved by one call.
pub(crate) const BATCH: usize = 200;

/// How to reach the store.
#[derive(Clone, Debug)]
pub struct Access {
    /// Where and how (may hold a password: never log it).
    pub redis: redis::ConnectionInfo,
    /// `--namespace`.
    pub namespace: String,
    /// `--inbox`.
    pub inbox: String,
    /// Connections of the pool at most.
    pub connections: u32,
}

/// How long records stay after their end.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Done and cancelled ones; zero: only the bare id.
    pub done: Duration,
    /// Dead ones.
    pub dead: Duration,
    /// Events, about.
    pub events: u64,
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
    started: Instant,
    /// Ends of the last seconds, written again when Redis forgot them.
    ended: Mutex<std::collections::VecDeque<Closed>>,
    calls: AtomicU64,
}

#[derive(Clone)]
struct Closed {
    at: Instant,
    id: JobId,
    token: Token,
    seq: u32,
    request: Option<RequestId>,
    fields: Vec<(&'static str, String)>,
    write: Write,
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
    Other(RequestId),
    /// Nobody needs our request id: cancel it at fal.
    Cancel,
    /// A late request id came; nothing was written: go on with it.
    Adopted(RequestId),
}

/// What a claim brought.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    /// Jobs, ours from now on.
    pub(crate) jobs: Vec<Claimed>,
    /// More wait.
    pub(crate) more: bool,
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
    pub(crate) run: String,
    pub(crate) fresh: bool,
    pub(crate) paused: bool,
    pub(crate) claims: usize,
    pub(crate) cancels: bool,
    pub(crate) due: bool,
    /// Who has been silent for longest, and the time of his last beat.
    pub(crate) oldest: Option<(String, i64)>,
}

/// What intake did.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Intake {
    pub(crate) left: u64,
    pub(crate) made: u64,
    pub(crate) dead: u64,
    pub(crate) duplicates: u64,
    /// A letter an entry: m made, d dead, t dead once its user is told, u duplicate.
    pub(crate) marks: String,
}

/// One parsed entry.
pub(crate) struct Entry {
    pub(crate) raw: Vec<u8>,
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

impl Store {
    /// Prepares the store; nothing is connected yet.
    pub fn new(access: &Access, keep: Keep, process: Process) -> Result<Arc<Store>, Fault> {
        let health = Arc::new(Health::default());
        let opener =
            Opener::new(&access.redis, health.clone()).map_err(|error| link::fault(&error))?;
        let identity = Identity::new(&process.name, 0);
        Ok(Arc::new(Store {
            keys: Keys::new(&access.namespace, &access.inbox),
            pool: link::pool(opener.clone(), access.connections),
            opener,
            scripts: Scripts::new(),
            health,
            keep,
            process,
            identity: RwLock::new(Arc::new(identity)),
            clock: AtomicI64::new(0),
            started: Instant::now(),
            ended: Mutex::default(),
            calls: AtomicU64::new(0),
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

    /// Round trips to Redis so far, without those that block.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn uptime_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn learn_time(&self, now: i64) {
        if now > 0 {
            self.clock.store(now - self.uptime_ms(), Ordering::Relaxed);
        }
    }

    /// A connection for a command that blocks.
    pub(crate) fn open_blocking(&self, block: Duration) -> Result<(redis::Connection, u64), Fault> {
        self.opener.open_blocking(block)
    }

    fn remember_closed(&self, flight: &Flight, seq: u32, write: &Write) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while ended
            .front()
            .is_some_and(|old| now.duration_since(old.at) > Duration::from_secs(10))
        {
            ended.pop_front();
        }
        ended.push_back(Closed {
            at: now,
            id: flight.id.clone(),
            token: flight.token.clone(),
            seq,
            request: flight.request.clone(),
            // The end itself says what became of the result; ten seconds of results would be megabytes.
            fields: flight
                .fields()
                .into_iter()
                .filter(|(name, _)| *name != "result")
                .collect(),
            write: write.clone(),
        });
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
        Token(format!(
            "{}-{}",
            self.prefix,
            self.tokens.fetch_add(1, Ordering::Relaxed)
        ))
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

/// Builder of one EVALSHA.
struct Call<'a> {
    script: &'a Script,
    cmd: Cmd,
}

impl<'a> Call<'a> {
    fn new(script: &'a Script, keys: &[&str]) -> Call<'a> {
        let mut cmd = Cmd::with_capacity(16 + keys.len(), 512);
        cmd.arg("EVALSHA").arg(script.sha()).arg(keys.len());
        for key in keys {
            cmd.arg(*key);
        }
        Call { script, cmd }
    }

    fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.cmd.arg(arg);
        self
    }

    fn patch(mut self, patch: &Patch) -> Self {
        self.cmd.arg(patch.set.len());
        for (name, value) in &patch.set {
            self.cmd.arg(*name).arg(value);
        }
        self.cmd.arg(patch.stamp.len());
        for name in &patch.stamp {
            self.cmd.arg(*name);
        }
        self.cmd.arg(patch.del.len());
        for name in &patch.del {
            self.cmd.arg(*name);
        }
        self.cmd.arg(patch.events.len());
        for event in &patch.events {
            let since = event.since.map(|at| at.0.to_string()).unwrap_or_default();
            self.cmd.arg(event.name).arg(since).arg(event.fields.len());
            for (name, value) in &event.fields {
                self.cmd.arg(*name).arg(value);
            }
        }
        self
    }

    fn fields(mut self, fields: &[(&'static str, String)]) -> Self {
        self.cmd.arg(fields.len());
        for (name, value) in fields {
            self.cmd.arg(*name).arg(value);
        }
        self
    }
}

/// Reads a script's answer; an answer of another shape is a bug or another version's script.
fn read<T: redis::FromRedisValue>(value: Value) -> Result<T, Fault> {
    redis::from_redis_value(value)
        .map_err(|error| Fault::Refused(format!("answer of an unknown shape: {error}")))
}

impl Session {
    /// The store behind it.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// One command on this thread's connection. Away-ness is noted here, once.
    fn call_once(&self, cmd: &Cmd) -> Result<Value, redis::RedisError> {
        let mut held = self.held.borrow_mut();
        self.store.calls.fetch_add(1, Ordering::Relaxed);
        let link = held.as_mut().expect("checked out by the caller");
        let answer = link.call(cmd);
        if let Err(error) = &answer
            && link::breaks(error)
        {
            *held = None; // never used again
            if error.is_timeout() {
                self.store.health.distrust();
            }
        }
        answer
    }

    fn check_out(&self) -> Result<(), Fault> {
        let store = &self.store;
        if store.health.is_away() && !self.probes {
            return Err(Fault::Away("no answer yet".to_owned()));
        }
        let mut held = self.held.borrow_mut();
        if let Some(link) = held.as_mut()
            && r2d2::ManageConnection::is_valid(&store.opener, link).is_ok()
        {
            return Ok(());
        }
        *held = None;
        let mut link = link::check_out(&store.pool, &store.health)?;
        if let Some(answer) = self.answer {
            link.set_answer(answer)
                .map_err(|error| link::fault(&error))?;
        }
        *held = Some(link);
        Ok(())
    }

    /// One command; when the connection breaks under it, once more on a fresh one. Only for what may
    /// be repeated. Nothing here may be a blocking command.
    pub(crate) fn command(&self, cmd: &Cmd) -> Result<Value, Fault> {
        self.repeated(|_| self.call_once(cmd))
    }

    /// Runs `call(is a repeat)`, and once more if it broke the connection.
    fn repeated(
        &self,
        mut call: impl FnMut(bool) -> Result<Value, redis::RedisError>,
    ) -> Result<Value, Fault> {
        let health = &self.store.health;
        let mut first: Option<Fault> = None;
        loop {
            if let Err(fault) = self.check_out() {
                let fault = first.unwrap_or(fault);
                if let Fault::Away(why) = &fault
                    && !health.is_away()
                {
                    health.lost(why);
                }
                return Err(fault);
            }
            match call(first.is_some()) {
                Ok(value) => {
                    health.back();
                    return Ok(value);
                }
                Err(error) => {
                    let fault = link::fault(&error);
                    if error.code().is_none() && first.is_none() {
                        first = Some(fault);
                        continue;
                    }
                    if let Fault::Away(why) = &fault {
                        health.lost(why);
                    }
                    return Err(fault);
                }
            }
        }
    }

    fn script(&self, call: &Call<'_>) -> Result<Value, Fault> {
        self.repeated(|_| self.eval(call.script, &call.cmd))
    }

    fn eval(&self, script: &Script, cmd: &Cmd) -> Result<Value, redis::RedisError> {
        match self.call_once(cmd) {
            Err(error) if link::is_noscript(&error) => {
                self.call_once(redis::cmd("SCRIPT").arg("LOAD").arg(script.code()))?;
                self.call_once(cmd)
            }
            answer => answer,
        }
    }

    /// Takes up to `n` jobs; `paid_only` looks at `resume` alone.
    pub(crate) fn claim(&self, n: usize, paid_only: bool) -> Result<Claim, Denied> {
        let (keys, me) = (&self.store.keys, self.store.identity());
        let tokens: Vec<Token> = (0..n).map(|_| me.token()).collect();
        let number = me.claim();
        let claims = keys.claims(&me.instance);
        let worker = keys.worker(&me.instance);
        let [resume, high, default, low] = &keys.ready;
        let names = [
            resume.as_str(),
            high,
            default,
            low,
            &keys.bell,
            &claims,
            &keys.later,
            &keys.events,
            &worker,
            &keys.paused,
            &keys.settling,
        ];
        let script = &self.store.scripts.claim;
        let build = |repeat: bool| {
            let mut call = Call::new(script, &names)
                .arg(&keys.namespace)
                .arg(&me.instance)
                .arg(n)
                .arg(u8::from(paid_only))
                .arg(FORMAT)
                .arg(u8::from(repeat))
                .arg(number);
            for token in &tokens {
                call = call.arg(&token.0);
            }
            call.cmd
        };
        let value = self.repeated(|repeat| {
            // The connection just opened may be the one that shows it: what this Redis calls ready may
            // be in the hands of somebody who has not re-asserted yet.
            if self.store.health.forgot() {
                return Ok(Value::Nil);
            }
            self.eval(script, &build(repeat))
        })?;
        if value == Value::Nil {
            return Err(Denied::Settling);
        }
        record::claim(value, me.epoch, &self.store)
    }

    /// Moves entries of the inbox to `taken` and gives all that lies there, oldest first.
    pub(crate) fn take(&self, most: usize, bytes: usize) -> Result<Vec<Vec<u8>>, Denied> {
        let (keys, me) = (&self.store.keys, self.store.identity());
        let (taken, worker) = (keys.taken(&me.instance), keys.worker(&me.instance));
        let call = Call::new(&self.store.scripts.take, &[&keys.inbox, &taken, &worker])
            .arg(most)
            .arg(bytes);
        let mut entries: Vec<Vec<u8>> = read(self.script(&call)?)?;
        if entries.is_empty() {
            return Err(Fault::Refused("take gave nothing".to_owned()).into());
        }
        match entries.remove(0).as_slice() {
            b"ok" => Ok(entries),
            b"buried" => Err(Denied::Buried),
            _ => Err(Denied::Unregistered),
        }
    }

    /// Makes records of a batch that lies at the right end of `taken`.
    pub(crate) fn intake(&self, entries: &[Entry], defaults: &Defaults) -> Result<Intake, Denied> {
        let (keys, me) = (&self.store.keys, self.store.identity());
        let (taken, worker) = (keys.taken(&me.instance), keys.worker(&me.instance));
        let [resume, high, default, low] = &keys.ready;
        let names = [
            taken.as_str(),
            &worker,
            &keys.events,
            &keys.bell,
            resume,
            high,
            default,
            low,
            &keys.later,
            &keys.dead,
            &keys.inbox,
        ];
        let mut call = Call::new(&self.store.scripts.intake, &names)
            .arg(&keys.namespace)
            .arg(me.batch())
            .arg(entries.len())
            .arg(FORMAT)
            .arg(self.store.keep.dead.as_secs())
            .arg(defaults.max_wait.map_or(0, |wait| wait.as_millis() as u64));
        for entry in entries {
            record::entry_args(&mut call.cmd, entry, defaults);
        }
        let (word, left, made, dead, duplicates, marks): (String, u64, u64, u64, u64, String) =
            read(self.script(&call)?)?;
        match word.as_str() {
            "ok" | "known" => Ok(Intake {
                left,
                made,
                dead,
                duplicates,
                marks,
            }),
            "buried" => Err(Denied::Buried),
            "unregistered" => Err(Denied::Unregistered),
            // Somebody else's batch lies there now: the next `take` sees what is really left.
            _ => Ok(Intake {
                left: 1,
                ..Intake::default()
            }),
        }
    }

    /// One write of a flight's owner.
    pub(crate) fn write(&self, flight: &Flight, seq: u32, write: &Write) -> Result<Written, Fault> {
        let keys = &self.store.keys;
        let id = flight.id.as_str();
        let job = keys.job(id);
        let scripts = &self.store.scripts;
        let (word, request) = match write {
            Write::Submitted {
                request,
                path,
                attempt,
                event,
            } => {
                let [resume, high, default, low] = &keys.ready;
                let names = [
                    job.as_str(),
                    &keys.events,
                    &keys.later,
                    resume,
                    high,
                    default,
                    low,
                    &keys.bell,
                ];
                let mut call = Call::new(&scripts.submitted, &names)
                    .arg(id)
                    .arg(&flight.token.0)
                    .arg(seq)
                    .arg(&request.0)
                    .arg(path.as_deref().unwrap_or(""))
                    .arg(*attempt);
                for (name, value) in event.fields.iter().filter(|(name, _)| *name != "attempt") {
                    call = call.arg(*name).arg(value);
                }
                self.word(&call)?
            }
            Write::Save {
                patch,
                count,
                large,
            } => {
                let result = keys.result(id);
                let call = Call::new(&scripts.save, &[&job, &keys.events, &keys.stats, &result])
                    .arg(&flight.token.0)
                    .arg(seq)
                    .arg(count.unwrap_or(""))
                    .arg(large.as_deref().unwrap_or(""))
                    .arg(flight.request.as_ref().map_or("", |request| &request.0))
                    .patch(patch);
                self.word(&call)?
            }
            Write::Later { .. } | Write::End { .. } => {
                let answer = self.close(id, &flight.token, seq, flight.request.as_ref(), write)?;
                // An end only: a job that went to `later` may be anybody's by the time Redis forgets.
                if answer.0 == "ok" && matches!(write, Write::End { .. }) {
                    self.store.remember_closed(flight, seq, write);
                }
                answer
            }
        };
        Ok(match (word.as_str(), request) {
            ("ok", _) => Written::Ok,
            ("other", Some(recorded)) => Written::Other(recorded),
            ("adopted", Some(recorded)) if !matches!(write, Write::Submitted { .. }) => {
                Written::Adopted(recorded)
            }
            ("cancel", _) => Written::Cancel,
            ("gone", _) => {
                // The record of a job in our hands does not vanish: Redis was emptied, and the keeper may
                // not have noticed yet.
                if flight.epoch == self.store.identity().epoch {
                    self.store.health.set_forgot(true);
                }
                Written::Gone
            }
            // `adopted` of a submit: somebody else owns the job and goes on with our request id.
            _ => Written::Stale,
        })
    }

    /// The last write of a claim: the job ends, or waits for a new submit.
    fn close(
        &self,
        id: &str,
        token: &Token,
        seq: u32,
        request: Option<&RequestId>,
        write: &Write,
    ) -> Result<(String, Option<RequestId>), Fault> {
        let (keys, scripts) = (&self.store.keys, &self.store.scripts);
        let job = keys.job(id);
        let claims = keys.claims(&self.store.identity().instance);
        match write {
            Write::Later { wait, known, patch } => self.word(
                &Call::new(&scripts.later, &[&job, &keys.events, &claims, &keys.later])
                    .arg(&token.0)
                    .arg(seq)
                    .arg(id)
                    .arg(wait.as_millis() as u64)
                    .arg(known.as_ref().map_or("", |request| &request.0))
                    .patch(patch),
            ),
            Write::End { state, patch } => {
                let keep = match state {
                    EndState::Done | EndState::Cancelled => self.store.keep.done,
                    EndState::Dead => self.store.keep.dead,
                };
                let (spec, result) = (keys.spec(id), keys.result(id));
                let names = [
                    job.as_str(),
                    &keys.events,
                    &claims,
                    &keys.dead,
                    &spec,
                    &result,
                ];
                self.word(
                    &Call::new(&scripts.end, &names)
                        .arg(&token.0)
                        .arg(seq)
                        .arg(id)
                        .arg(state.as_str())
                        .arg(keep.as_secs())
                        .arg(request.map_or("", |request| &request.0))
                        .patch(patch),
                )
            }
            Write::Submitted { .. } | Write::Save { .. } => {
                Err(Fault::Refused("this write closes nothing".to_owned()))
            }
        }
    }

    fn word(&self, call: &Call<'_>) -> Result<(String, Option<RequestId>), Fault> {
        let (word, request, now): (String, String, i64) = read(self.script(call)?)?;
        self.store.learn_time(now);
        Ok((word, (!request.is_empty()).then_some(RequestId(request))))
    }

    /// Returns jobs that are not over, with all that is known; gives how many were still ours.
    pub(crate) fn give_back(&self, flights: &[&Flight]) -> Result<usize, Fault> {
        let keys = &self.store.keys;
        let claims = keys.claims(&self.store.identity().instance);
        let [resume, high, default, low] = &keys.ready;
        let names = [claims.as_str(), &keys.bell, resume, high, default, low];
        // What is given back last is served first: so the oldest come last.
        let mut flights: Vec<&Flight> = flights.iter().rev().copied().collect();
        flights.sort_by_key(|flight| std::cmp::Reverse(flight.queued_at));
        let mut given = 0;
        for batch in flights.chunks(BATCH) {
            let mut call = Call::new(&self.store.scripts.give_back, &names)
                .arg(&keys.namespace)
                .arg(batch.len());
            for flight in batch {
                let mut fields = flight.fields();
                if flight.doubt != Doubt::None {
                    let word = if flight.doubt == Doubt::Send {
                        "send"
                    } else {
                        "submit"
                    };
                    fields.push(("doubt", word.to_owned()));
                }
                call = call
                    .arg(flight.id.as_str())
                    .arg(&flight.token.0)
                    .fields(&fields);
            }
            given += read::<usize>(self.script(&call)?)?;
        }
        Ok(given)
    }

    /// A step of this job panicked.
    pub(crate) fn crash(&self, id: &JobId, token: &Token) -> Result<u32, Fault> {
        let keys = &self.store.keys;
        let job = keys.job(id.as_str());
        let claims = keys.claims(&self.store.identity().instance);
        let (spec, result) = (keys.spec(id.as_str()), keys.result(id.as_str()));
        let names = [
            job.as_str(),
            &claims,
            &keys.later,
            &keys.bell,
            &keys.ready[0],
            &keys.events,
            &keys.dead,
            &spec,
            &result,
        ];
        let call = Call::new(&self.store.scripts.crash, &names)
            .arg(id.as_str())
            .arg(&token.0)
            .arg(WAIT_DEAD.as_millis() as u64)
            .arg(PANIC_LIMIT)
            .arg(self.store.keep.dead.as_secs());
        let (_, crashes): (String, u32) = read(self.script(&call)?)?;
        Ok(crashes)
    }

    /// Moves what is due to the ready lists.
    pub(crate) fn promote(&self, most: usize) -> Result<usize, Fault> {
        let keys = &self.store.keys;
        let [resume, high, default, low] = &keys.ready;
        let names = [keys.later.as_str(), &keys.bell, resume, high, default, low];
        read(
            self.script(
                &Call::new(&self.store.scripts.promote, &names)
                    .arg(&keys.namespace)
                    .arg(most),
            )?,
        )
    }

    /// Says that we live. `None`: we are marked dead.
    pub(crate) fn beat(
        &self,
        done: u64,
        failed: u64,
        in_flight: usize,
    ) -> Result<Option<Beat>, Fault> {
        let (keys, me) = (&self.store.keys, self.store.identity());
        let (worker, claims, cancels) = (
            keys.worker(&me.instance),
            keys.claims(&me.instance),
            keys.cancels(&me.instance),
        );
        let [resume, high, default, low] = &keys.ready;
        let names = [
            keys.workers.as_str(),
            &worker,
            &keys.paused,
            &claims,
            &cancels,
            &keys.run,
            &keys.later,
            &keys.stats,
            resume,
            high,
            default,
            low,
            &keys.bell,
            &keys.store,
            &keys.settling,
        ];
        let process = &self.store.process;
        let call = Call::new(&self.store.scripts.beat, &names)
            .arg(&me.instance)
            .arg(&me.prefix)
            .arg(done)
            .arg(failed)
            .arg(in_flight)
            .arg(me.beats.fetch_add(1, Ordering::Relaxed))
            .arg(&[
                "name",
                process.name.as_str(),
                "version",
                env!("CARGO_PKG_VERSION"),
            ])
            .arg(&[
                "boot",
                process.boot.as_str(),
                "pidns",
                process.pid_namespace.as_str(),
            ])
            .arg(&[
                "pid",
                process.pid.to_string().as_str(),
                "started",
                process.started.to_string().as_str(),
            ])
            .arg(&["threads", process.threads.to_string().as_str()]);
        let (beat, now) = record::beat(self.script(&call)?)?;
        self.store.learn_time(now);
        Ok(beat)
    }

    /// Which process stands behind an instance, as it said itself.
    pub(crate) fn process_of(&self, instance: &str) -> Result<Process, Fault> {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(self.store.keys.worker(instance))
            .arg(&["name", "boot", "pidns", "pid", "started"]);
        type Row = (
            Option<String>,
            Option<String>,
            Option<String>,
            Option<u32>,
            Option<u64>,
        );
        let (name, boot, pid_namespace, pid, started): Row = read(self.command(&cmd)?)?;
        Ok(Process {
            name: name.unwrap_or_default(),
            boot: boot.unwrap_or_default(),
            pid_namespace: pid_namespace.unwrap_or_default(),
            pid: pid.unwrap_or_default(),
            started: started.unwrap_or_default(),
            threads: 0,
        })
    }

    /// Living instances with the time of their last beat, the most silent first.
    pub(crate) fn instances(&self) -> Result<Vec<(String, i64)>, Fault> {
        let mut cmd = redis::cmd("ZRANGE");
        cmd.arg(&self.store.keys.workers)
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES");
        read(self.command(&cmd)?)
    }

    /// Marks an instance dead; gives the number of its jobs and its silence, or `None` when it lives.
    pub(crate) fn bury(
        &self,
        instance: &str,
        beat: i64,
        lease: Duration,
        process_gone: bool,
    ) -> Result<Option<(usize, Duration)>, Fault> {
        let keys = &self.store.keys;
        let (worker, taken, claims) = (
            keys.worker(instance),
            keys.taken(instance),
            keys.claims(instance),
        );
        let names = [
            keys.workers.as_str(),
            &worker,
            &taken,
            &keys.inbox,
            &keys.events,
            &claims,
            &keys.gone,
        ];
        let call = Call::new(&self.store.scripts.bury, &names)
            .arg(instance)
            .arg(beat)
            .arg(lease.as_millis() as u64)
            .arg(if process_gone {
                "process_gone"
            } else {
                "lapsed"
            })
            .arg(&self.store.identity().instance);
        let (word, jobs, silence): (String, usize, u64) = read(self.script(&call)?)?;
        Ok((word == "ok").then(|| (jobs, Duration::from_millis(silence))))
    }

    /// Makes the jobs of a dead instance ready again; gives how many.
    pub(crate) fn take_back(&self, instance: &str, process_gone: bool) -> Result<usize, Fault> {
        let keys = &self.store.keys;
        let (worker, taken, claims) = (
            keys.worker(instance),
            keys.taken(instance),
            keys.claims(instance),
        );
        let names = [
            claims.as_str(),
            &keys.later,
            &keys.bell,
            &keys.ready[0],
            &worker,
            &keys.gone,
            &taken,
            &keys.inbox,
        ];
        let wait = if process_gone {
            WAIT_DEAD
        } else {
            WAIT_MAYBE_ALIVE
        };
        let mut moved = 0;
        loop {
            let call = Call::new(&self.store.scripts.take_back, &names)
                .arg(&keys.namespace)
                .arg(instance)
                .arg(BATCH)
                .arg(wait.as_millis() as u64)
                .arg(CRASH_LIMIT);
            let (word, some, left): (String, usize, usize) = read(self.script(&call)?)?;
            moved += some;
            if word != "ok" || left == 0 || some == 0 {
                return Ok(moved);
            }
        }
    }

    /// Instances marked dead within this time (a day is remembered).
    pub(crate) fn gone(&self, within: Duration) -> Result<Vec<String>, Fault> {
        let since = self.store.now().0 - within.as_millis() as i64;
        let mut cmd = redis::cmd("ZRANGEBYSCORE");
        cmd.arg(&self.store.keys.gone).arg(since).arg("+inf");
        read(self.command(&cmd)?)
    }

    /// Takes our name off the list when nothing is held any more; gives what is.
    pub(crate) fn leave(&self) -> Result<usize, Fault> {
        let (keys, me) = (&self.store.keys, self.store.identity());
        let (worker, claims) = (keys.worker(&me.instance), keys.claims(&me.instance));
        let (taken, cancels) = (keys.taken(&me.instance), keys.cancels(&me.instance));
        let names = [
            keys.workers.as_str(),
            &worker,
            &claims,
            &taken,
            &keys.inbox,
            &cancels,
            &keys.gone,
        ];
        let call = Call::new(&self.store.scripts.leave, &names)
            .arg(&me.instance)
            .arg(LEFT.as_secs());
        read(self.script(&call)?)
    }

    /// Ids and tokens that Redis says we hold.
    pub(crate) fn claims(&self) -> Result<Vec<(String, String)>, Fault> {
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(self.store.keys.claims(&self.store.identity().instance));
        read(self.command(&cmd)?)
    }

    /// A claim that memory does not know: its answer was lost. Its record goes back as it stands.
    pub(crate) fn disown(&self, id: &str, token: &str) -> Result<bool, Fault> {
        let keys = &self.store.keys;
        let claims = keys.claims(&self.store.identity().instance);
        let [resume, high, default, low] = &keys.ready;
        let names = [claims.as_str(), &keys.bell, resume, high, default, low];
        let call = Call::new(&self.store.scripts.give_back, &names)
            .arg(&keys.namespace)
            .arg(1)
            .arg(id)
            .arg(token)
            .arg(0);
        Ok(read::<usize>(self.script(&call)?)? == 1)
    }

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
                        held.token.0.as_str(),
                        held.seq,
                        held.entry.as_deref(),
                        &held.fields,
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
    fn reassert_ended(&self) -> Result<(), Denied> {
        let ended: Vec<Closed> = {
            let ended = self
                .store
                .ended
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let young = |old: &&Closed| old.at.elapsed() < Duration::from_secs(10);
            ended.iter().filter(young).cloned().collect()
        };
        for old in &ended {
            self.reassert_closed(old)?;
        }
        Ok(())
    }

    fn reassert_rows(&self, rows: &[ReassertRow<'_>]) -> Result<Vec<String>, Denied> {
        let (keys, me) = (&self.store.keys, self.store.identity());
        let (claims, worker) = (keys.claims(&me.instance), keys.worker(&me.instance));
        let mut call = Call::new(&self.store.scripts.reassert, &[&claims, &worker])
            .arg(&keys.namespace)
            .arg(&me.instance)
            .arg(FORMAT)
            .arg(rows.len());
        for (id, token, seq, entry, fields) in rows {
            call = call
                .arg(*id)
                .arg(*token)
                .arg(*seq)
                .arg(entry.unwrap_or(""))
                .fields(fields);
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
    fn reassert_closed(&self, old: &Closed) -> Result<(), Denied> {
        let row = (
            old.id.as_str(),
            old.token.0.as_str(),
            old.seq.saturating_sub(1),
            None,
            &old.fields,
        );
        let answers = self.reassert_rows(&[row])?;
        if answers.first().is_some_and(|answer| answer != "lost") {
            let request = old.request.as_ref();
            self.close(old.id.as_str(), &old.token, old.seq, request, &old.write)?;
        }
        Ok(())
    }

    /// Nobody pulls for at most this long, while all instances re-assert.
    pub(crate) fn settle(&self, at_most: Duration) -> Result<(), Fault> {
        let mut cmd = redis::cmd("SET");
        cmd.arg(&self.store.keys.settling)
            .arg(1)
            .arg("PX")
            .arg(at_most.as_millis() as u64)
            .arg("NX");
        self.command(&cmd).map(|_| ())
    }

    /// All have re-asserted: pulling may begin before that time is over.
    pub(crate) fn settled(&self) -> Result<(), Fault> {
        self.command(redis::cmd("DEL").arg(&self.store.keys.settling))
            .map(|_| ())
    }

    /// Stops pulling new jobs on all workers for a while.
    pub(crate) fn pause(&self, reason: &str, by: &str, for_: Duration) -> Result<(), Fault> {
        let call = Call::new(&self.store.scripts.pause, &[&self.store.keys.paused])
            .arg(reason)
            .arg(by)
            .arg(for_.as_millis() as u64);
        self.script(&call).map(|_| ())
    }

    /// Whether nobody has said this within the last hour; from now on somebody has.
    pub(crate) fn first_in_an_hour(&self, what: &str) -> Result<bool, Fault> {
        let mut cmd = redis::cmd("SET");
        cmd.arg(format!("{}:told:{what}", self.store.keys.namespace))
            .arg(1)
            .arg("EX")
            .arg(3600)
            .arg("NX");
        Ok(self.command(&cmd)? != Value::Nil)
    }

    /// Wakes a connection blocked in a list command; true when it was blocked.
    pub(crate) fn unblock(&self, client: u64) -> Result<bool, Fault> {
        let value = self.command(redis::cmd("CLIENT").arg("UNBLOCK").arg(client))?;
        Ok(read::<i64>(value)? == 1)
    }

    /// Keeps the stream and the lists of the ended near their bounds.
    pub(crate) fn trim(&self) -> Result<(), Fault> {
        let (keys, keep) = (&self.store.keys, self.store.keep);
        self.command(
            redis::cmd("XTRIM")
                .arg(&keys.events)
                .arg("MAXLEN")
                .arg("~")
                .arg(keep.events),
        )?;
        let oldest = self.store.now().0 - keep.dead.as_millis() as i64;
        self.command(
            redis::cmd("ZREMRANGEBYSCORE")
                .arg(&keys.dead)
                .arg("-inf")
                .arg(oldest),
        )?;
        let day_ago = self.store.now().0 - REMEMBER_DEAD.as_millis() as i64;
        self.command(
            redis::cmd("ZREMRANGEBYSCORE")
                .arg(&keys.gone)
                .arg("-inf")
                .arg(day_ago),
        )
        .map(|_| ())
    }

    /// A result that was too large for its record.
    pub(crate) fn large_result(&self, id: &JobId) -> Result<Option<String>, Fault> {
        read(self.command(redis::cmd("GET").arg(self.store.keys.result(id.as_str())))?)
    }
}

type ReassertRow<'a> = (
    &'a str,
    &'a str,
    u32,
    Option<&'a str>,
    &'a Vec<(&'static str, String)>,
);

/// What memory knows of one flight, for a Redis that forgot.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) id: JobId,
    pub(crate) token: Token,
    pub(crate) seq: u32,
    pub(crate) entry: Option<Arc<str>>,
    pub(crate) fields: Vec<(&'static str, String)>,
}
