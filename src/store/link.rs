//! Connections to Redis: a bounded pool for the scripts, and connections of their own for what
//! blocks. Here, and only here, it is decided what counts as "Redis is away". A connection is never
//! used again after an I/O error or a time-out: redis-rs would skip the late answer silently and the
//! next command would wait for it.

use super::settings;
use super::tls;
use super::topology::Topology;
use crate::config::Server;
use crate::report;
use redis::{Cmd, Connection, ConnectionLike, ErrorKind, RedisError, Value};
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Time for a connection to stand, TLS and AUTH included.
pub(crate) const CONNECT: Duration = Duration::from_secs(2);
/// Time for an answer to a command that does not block.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// A blocking command that is not answered so long after its time is up never will be.
const LATE: Duration = Duration::from_secs(2);
/// A connection idle for this long is asked for a sign of life before it is used (the old worker's
/// `health_check_interval`).
const IDLE_CHECK: Duration = Duration::from_secs(30);
/// How long one call waits for a connection of the pool while nothing says that Redis is away.
const CHECKOUT: Duration = Duration::from_millis(2500);
/// The same, while others get theirs.
const LONGEST_CHECKOUT: Duration = Duration::from_secs(15);
/// Threads in which the pool opens connections: r2d2's own number.
const OPENERS: usize = 3;

/// Why a call on the store brought nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Redis did not answer. The write may or may not have happened; every write is idempotent, so it is
    /// simply done again.
    Away(String),
    /// Redis answered that it cannot serve now (LOADING, READONLY, OOM, …). To whoever waits that is the same as
    /// away; to a person it is an answer, which names what is wrong.
    Unable(String),
    /// Redis refused the call for good (wrong type of a key, no permission): a person must look.
    Refused(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Away(why) => write!(f, "Redis is away: {why}"),
            Fault::Unable(why) | Fault::Refused(why) => write!(f, "Redis refused: {why}"),
        }
    }
}

impl Fault {
    /// Why nothing goes now, where it may go in a moment.
    pub(crate) fn passing(&self) -> Option<&str> {
        match self {
            Fault::Away(why) | Fault::Unable(why) => Some(why),
            Fault::Refused(_) => None,
        }
    }
}

impl std::error::Error for Fault {}

/// What no waiting mends about a connection: at start a mistake in the configuration, while running an
/// outage like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// User or password.
    Login,
    /// One side's certificate.
    Tls,
    /// The number of the database.
    Database,
    /// It is too old for the scripts.
    Version,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unfit::Login => "redis refused user or password",
            Unfit::Tls => "no connection by TLS",
            Unfit::Database => "redis refused the database",
            Unfit::Version => "redis is too old",
        })
    }
}

/// What is known about Redis itself, shared by all connections of a process.
#[derive(Debug)]
pub(crate) struct Health {
    away: AtomicBool,
    /// Since when, and why; written together with `away`.
    gone: Mutex<Option<(Instant, String)>>,
    outage: report::Outage,
    full: report::Outage,
    unfit: Mutex<Option<Unfit>>,
    version: Mutex<String>,
    connect_failures: AtomicU64,
    connected: AtomicU64,
    last_connect_error: Mutex<String>,
    run_id: Mutex<Option<String>>,
    forgot: AtomicBool,
    /// How long it was away so far, the outage under way left out.
    was_away: Mutex<Duration>,
    /// When Redis was last found away, or back.
    turned: Mutex<Option<Instant>>,
    /// Connections older than this may be dead without a word: one of them left a call unanswered.
    distrusted: Mutex<Option<Instant>>,
    written_again: AtomicU64,
    /// Calls of the keeper that have come to an end, a good one or not.
    probed: AtomicU64,
    /// When the last of them began that was answered.
    answered: Mutex<Option<Instant>>,
    /// Host and port, or path: what a start that finds nobody there has to name.
    address: OnceLock<String>,
}

impl Default for Health {
    fn default() -> Health {
        Health {
            away: AtomicBool::new(false),
            gone: Mutex::default(),
            outage: report::Outage::new("redis"),
            // Nothing is lost: new work waits, what is paid goes on.
            full: report::Outage::in_words("redis memory", ["full", "free again"]),
            unfit: Mutex::default(),
            version: Mutex::default(),
            connect_failures: AtomicU64::new(0),
            last_connect_error: Mutex::default(),
            run_id: Mutex::default(),
            forgot: AtomicBool::new(false),
            was_away: Mutex::default(),
            turned: Mutex::default(),
            distrusted: Mutex::default(),
            written_again: AtomicU64::new(0),
            probed: AtomicU64::new(0),
            answered: Mutex::default(),
            connected: AtomicU64::new(0),
            address: OnceLock::new(),
        }
    }
}

impl Health {
    /// Why the last connection could not be had, where no waiting mends it.
    pub(crate) fn unfit(&self) -> Option<Unfit> {
        *self.unfit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_unfit(&self, unfit: Option<Unfit>) {
        *self.unfit.lock().unwrap_or_else(PoisonError::into_inner) = unfit;
    }

    /// Version of the Redis last reached.
    pub(crate) fn version(&self) -> String {
        self.version
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether the last thing that is known is a failure.
    pub(crate) fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// Since when it is away, and why.
    pub(crate) fn away(&self) -> Option<(Instant, String)> {
        self.gone().clone()
    }

    /// Since when its memory is full.
    pub(crate) fn full(&self) -> Option<Instant> {
        self.full.since()
    }

    fn was_away(&self) -> MutexGuard<'_, Duration> {
        self.was_away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, on a clock that stands still while Redis is away. What it may forget when it comes back is what was
    /// written shortly before it went, however long it stayed.
    pub(crate) fn steady_now(&self) -> Instant {
        let now = Instant::now();
        let gone = self.gone();
        let away = gone
            .as_ref()
            .map(|(since, _)| now.saturating_duration_since(*since));
        let away = *self.was_away() + away.unwrap_or_default();
        now.checked_sub(away).unwrap_or(now)
    }

    fn gone(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether Redis may have forgotten writes (restart, failover) and nobody has re-asserted yet.
    pub(crate) fn forgot(&self) -> bool {
        self.forgot.load(Ordering::Acquire)
    }

    /// Says that it may have, or that all is written again.
    pub(crate) fn set_forgot(&self, forgot: bool) {
        self.forgot.store(forgot, Ordering::Release);
    }

    /// Records that Redis had forgotten were written again.
    pub(crate) fn wrote_again(&self, records: u64) {
        self.written_again.fetch_add(records, Ordering::Relaxed);
    }

    /// A call of the keeper has come to its end. `answered`: one that began then, and well.
    pub(crate) fn probed(&self, answered: Option<Instant>) {
        self.probed.fetch_add(1, Ordering::Relaxed);
        if answered.is_some() {
            *self.answered() = answered;
        }
    }

    fn answered(&self) -> MutexGuard<'_, Option<Instant>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls of the keeper have come to an end: while this rises, it lives.
    pub(crate) fn probes(&self) -> u64 {
        self.probed.load(Ordering::Relaxed)
    }

    /// Records written again so far.
    pub(crate) fn written_again(&self) -> u64 {
        self.written_again.load(Ordering::Relaxed)
    }

    /// A call that began then failed.
    pub(crate) fn lost(&self, why: &str, began: Instant) {
        if why.contains("OOM") {
            // It is there, and takes what is paid or ended; only new work waits.
            self.full.failed(why);
            return;
        }
        {
            let mut gone = self.gone();
            if !self.is_away() {
                if self.has_turned_since(began) {
                    return; // of before it came back
                }
                self.turn();
            }
            gone.get_or_insert_with(|| (began, why.to_owned()));
            self.away.store(true, Ordering::Release);
        }
        let reached = !self.version().is_empty();
        if self.unfit().is_some() && !reached {
            return; // it is the configuration that is refused, and said so
        }
        match self.address.get().filter(|_| !reached) {
            Some(address) => {
                let why = format!("nothing usable at {address} yet: {why}");
                self.outage.failed_since(&why, began)
            }
            None => self.outage.failed_since(why, began),
        };
    }

    /// A call that only waited for something to come, and began to wait then, failed. Its connection may have been
    /// dead for long: where the keeper was answered since, that says nothing about Redis.
    pub(crate) fn waited_in_vain(&self, why: &str, began: Instant) {
        if self.answered().is_none_or(|answered| answered < began) {
            self.lost(why, Instant::now());
        }
    }

    /// A call says how Redis was while it ran: what was under way when Redis turned says nothing of now.
    fn has_turned_since(&self, began: Instant) -> bool {
        let turned = *self.turned.lock().unwrap_or_else(PoisonError::into_inner);
        turned.is_some_and(|at| began <= at)
    }

    fn turn(&self) {
        *self.turned.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// A call that began then was not answered in time: no connection of before is used again.
    pub(crate) fn distrust(&self, began: Instant) {
        let mut distrusted = self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *distrusted = (*distrusted).max(Some(began));
    }

    /// Whether a connection that said at that time which Redis it reached may be used.
    pub(crate) fn trusts(&self, asked: Instant) -> bool {
        let distrusted = *self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        distrusted.is_none_or(|until| asked > until)
    }

    /// A write that a full Redis refuses was taken.
    pub(crate) fn has_memory(&self) {
        self.full.succeeded();
    }

    /// A call that began then succeeded.
    pub(crate) fn back(&self, began: Instant) {
        if !self.is_away() {
            return;
        }
        let mut gone = self.gone();
        if !self.has_turned_since(began) && self.away.swap(false, Ordering::AcqRel) {
            if let Some((since, _)) = gone.take() {
                *self.was_away() += since.elapsed();
            }
            self.turn();
            drop(gone);
            self.outage.succeeded();
        }
    }

    fn connect_failed(&self, error: &RedisError) {
        report::redis_error();
        let why = describe(error);
        self.set_unfit(unfit(error, &why));
        if let Some((_, last)) = &mut *self.gone() {
            last.clone_from(&why);
        }
        *self
            .last_connect_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = why;
        self.connect_failures.fetch_add(1, Ordering::AcqRel);
    }

    fn last_connect_error(&self) -> String {
        self.last_connect_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Each new connection says which Redis it reached. Another run id: the last second may be lost, and
    /// what was asked before leads to a server that is gone, or is no master any more without knowing it.
    /// `asked`: when this one was asked which Redis it is.
    fn reached(&self, run_id: &str, version: &str, asked: Instant) {
        self.set_unfit(None);
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = version.to_owned();
        let mut known = self.run_id.lock().unwrap_or_else(PoisonError::into_inner);
        match known.as_deref() {
            Some(same) if same == run_id => {}
            Some(_) => {
                *known = Some(run_id.to_owned());
                self.set_forgot(true);
                let mut distrusted = self
                    .distrusted
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                // What a time-out has shown meanwhile stands.
                *distrusted = distrusted.max(asked.checked_sub(Duration::from_nanos(1)));
            }
            None => *known = Some(run_id.to_owned()),
        }
    }
}

/// Opens connections.
#[derive(Clone)]
pub(crate) struct Opener {
    /// Changes with the password alone.
    topology: Arc<RwLock<Arc<Topology>>>,
    slot: u16,
    health: Arc<Health>,
}

impl Opener {
    /// To `server`, where keys with this slot lie.
    pub(crate) fn new(
        server: Server,
        slot: u16,
        health: Arc<Health>,
    ) -> Result<Opener, RedisError> {
        let topology = topology(server, slot)?;
        let _ = health.address.set(topology.place());
        Ok(Opener {
            topology: Arc::new(RwLock::new(topology)),
            slot,
            health,
        })
    }

    /// Connections opened from now on go there; those that stand keep the right they have.
    pub(crate) fn redirect(&self, mut server: Server) -> Result<(), RedisError> {
        // The certificates stay: they are read at start only.
        let login = server.info.redis_settings().clone();
        server.info = self.topology().info().clone().set_redis_settings(login);
        let topology = topology(server, self.slot)?;
        *self
            .topology
            .write()
            .unwrap_or_else(PoisonError::into_inner) = topology;
        Ok(())
    }

    fn topology(&self) -> Arc<Topology> {
        let topology = self.topology.read().unwrap_or_else(PoisonError::into_inner);
        topology.clone()
    }

    /// With the moment at which it was asked which Redis it reached: to be found and connected may take
    /// seconds, in which others find another server.
    fn open(&self, answer: Duration) -> Result<(Connection, Instant), RedisError> {
        let mut con = self.topology().connect()?;
        con.set_read_timeout(Some(answer))?;
        let asked = Instant::now();
        let about: String = redis::cmd("INFO").arg("server").query(&mut con)?;
        let said = |name: &str| {
            about
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or("")
                .trim()
        };
        let version = said("redis_version:");
        if settings::is_too_old(version) {
            return Err(std::io::Error::other(settings::too_old(version)).into());
        }
        self.health.reached(said("run_id:"), version, asked);
        Ok((con, asked))
    }

    /// A connection for `BRPOP` and its kin, which may block for `block`; with its id, so that another
    /// connection can wake it (`CLIENT UNBLOCK`), and when it was asked which Redis it reached.
    pub(crate) fn open_blocking(
        &self,
        block: Duration,
    ) -> Result<(Connection, u64, Instant), Fault> {
        let opened = self.open(block + LATE).and_then(|(mut con, asked)| {
            let id = redis::cmd("CLIENT").arg("ID").query::<u64>(&mut con)?;
            Ok((con, id, asked))
        });
        opened.map_err(|error| fault(&error))
    }
}

fn topology(mut server: Server, slot: u16) -> Result<Arc<Topology>, RedisError> {
    // A peer that vanished shows within a minute, also on a connection that only waits.
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    let tcp = redis::io::tcp::TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive);
    server.info = server.info.set_tcp_settings(tcp);
    Ok(Arc::new(Topology::new(server, slot)?))
}

/// One pooled connection.
pub(crate) struct Link {
    con: Connection,
    /// When its opening began.
    opened: Instant,
    /// When it was asked which Redis it reached.
    asked: Instant,
    used: Instant,
    broken: bool,
    /// It led to a server that serves us no more: the next one must be looked for with somebody else's help.
    led_astray: bool,
}

impl Link {
    /// How long answers may take from here on.
    pub(crate) fn set_answer(&mut self, answer: Duration) -> Result<(), RedisError> {
        self.con.set_read_timeout(Some(answer))
    }

    /// One command. A server's error is an answer; any other error breaks the link.
    pub(crate) fn call(&mut self, cmd: &Cmd) -> Result<Value, RedisError> {
        self.call_packed(&cmd.get_packed_command())
    }

    /// The same, packed.
    pub(crate) fn call_packed(&mut self, packed: &[u8]) -> Result<Value, RedisError> {
        // After a panic in here half of the answer may be left, and would be taken for the next one's.
        let broken = std::mem::replace(&mut self.broken, true);
        let answer = self.con.req_packed_command(packed);
        self.broken = broken;
        self.used = Instant::now();
        let answer = answer.and_then(Value::extract_error);
        if let Err(error) = &answer
            && breaks(error)
        {
            self.broken = true;
            self.led_astray = error.code().is_some();
        }
        answer
    }
}

/// A connection for whoever only looks: one of his own, or one borrowed from the pool for a moment.
pub(crate) enum Line {
    Own(Connection),
    Borrowed(Held),
}

impl Line {
    /// One exchange. A borrowed connection that broke under it does not go back to the others.
    pub(crate) fn ask<T>(
        &mut self,
        exchange: impl FnOnce(&mut Connection) -> Result<T, RedisError>,
    ) -> Result<T, Fault> {
        match self {
            Line::Own(con) => exchange(con).map_err(|error| fault_of_own(&error)),
            Line::Borrowed(link) => {
                let broken = std::mem::replace(&mut link.broken, true); // as in `call_packed`
                let answer = exchange(&mut link.con);
                link.used = Instant::now();
                link.broken = broken || answer.as_ref().is_err_and(breaks);
                answer.map_err(|error| fault(&error))
            }
        }
    }
}

/// Whether the connection is not to be used again: it failed, or it leads to a server that is no master
/// any more, or not that of our slot, or that wants a password by now, while a new one may lead to its
/// successor. Not so while the slot moves (ASK, TRYAGAIN): until it has moved, this is the right one.
pub(crate) fn breaks(error: &RedisError) -> bool {
    error.code().is_none()
        || matches!(
            fault_word(error),
            Some("READONLY" | "UNBLOCKED" | "MOVED" | "CLUSTERDOWN" | "NOAUTH")
        )
}

/// The word of a server that cannot serve now. Redis 6 puts what failed inside a script behind an `ERR`
/// of its own: `ERR Error running script (…): @user_script: 7: -READONLY You can't write …`.
pub(crate) fn fault_word(error: &RedisError) -> Option<&'static str> {
    const AWAY: [&str; 14] = [
        "LOADING",
        "READONLY",
        "OOM",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "MOVED",
        "ASK",
        "TRYAGAIN",
        "BUSY",
        "NOREPLICAS",
        "MISCONF",
        "UNBLOCKED",
        "NOAUTH",
        "WRONGPASS",
    ];
    let code = error.code()?;
    let text = describe(error);
    AWAY.into_iter()
        .find(|word| *word == code || text.contains(&format!(" -{word} ")))
}

impl r2d2::ManageConnection for Opener {
    type Connection = Link;
    type Error = RedisError;

    fn connect(&self) -> Result<Link, RedisError> {
        let began = Instant::now();
        match self.open(ANSWER) {
            Ok((con, asked)) => {
                self.health.connected.fetch_add(1, Ordering::AcqRel);
                Ok(Link {
                    con,
                    opened: began,
                    asked,
                    used: Instant::now(),
                    broken: false,
                    led_astray: false,
                })
            }
            Err(error) => {
                self.health.connect_failed(&error);
                Err(error)
            }
        }
    }

    fn is_valid(&self, link: &mut Link) -> Result<(), RedisError> {
        if link.broken || !self.health.trusts(link.asked) {
            return Err((ErrorKind::Io, "it may be dead").into());
        }
        if link.used.elapsed() >= IDLE_CHECK {
            link.call(&redis::cmd("PING"))?;
        }
        Ok(())
    }

    fn has_broken(&self, link: &mut Link) -> bool {
        if std::mem::take(&mut link.led_astray) {
            self.topology().ask_another();
        }
        link.broken
    }
}

/// The bounded pool.
pub(crate) type Pool = r2d2::Pool<Opener>;
/// A connection taken from it.
pub(crate) type Held = r2d2::PooledConnection<Opener>;

/// A pool of at most `size` connections, opened when first needed. `Err`: this machine has no more threads for us.
pub(crate) fn pool(opener: Opener, size: u32) -> io::Result<Pool> {
    threads_can_start(OPENERS)?;
    let builder = r2d2::Pool::builder()
        .max_size(size)
        .min_idle(Some(0))
        .max_lifetime(None)
        .idle_timeout(None)
        .test_on_check_out(true)
        .connection_timeout(CHECKOUT)
        .error_handler(Box::new(r2d2::NopErrorHandler));
    // It panics where it cannot start its threads, which others may have taken since we looked. What it had started
    // by then ends.
    std::panic::catch_unwind(AssertUnwindSafe(|| builder.build_unchecked(opener)))
        .map_err(|_| rustix::io::Errno::AGAIN.into())
}

/// Starts so many threads, all there at once, and ends them.
fn threads_can_start(number: usize) -> io::Result<()> {
    let (end, ended) = crossbeam_channel::bounded::<()>(0);
    let threads: io::Result<Vec<_>> = (0..number)
        .map(|_| {
            let ended = ended.clone();
            std::thread::Builder::new().spawn(move || ended.recv().is_err())
        })
        .collect();
    drop(end);
    for thread in threads? {
        let _ = thread.join();
    }
    Ok(())
}

/// Takes a connection; gives up as soon as an attempt to open one failed, so that no thread waits out
/// the pool's own time limit for a Redis that refuses connections. `after`: only one that was opened later
/// will do, for what broke one connection has broken those that lie idle too. The pool opens three at a time: where
/// many threads want their first one over a slow line, each that comes gives the others time anew.
pub(crate) fn check_out(
    pool: &Pool,
    health: &Health,
    after: Option<Instant>,
) -> Result<Held, Fault> {
    let failures = health.connect_failures.load(Ordering::Acquire);
    let first = Instant::now();
    let mut deadline = first + CHECKOUT;
    let mut connected = health.connected.load(Ordering::Acquire);
    loop {
        match pool.get_timeout(Duration::from_millis(50)) {
            Ok(mut held) if after.is_some_and(|after| held.opened <= after) => held.broken = true,
            Ok(held) => return Ok(held),
            Err(_) if health.connect_failures.load(Ordering::Acquire) != failures => {
                return Err(Fault::Away(health.last_connect_error()));
            }
            Err(_) => {
                let (now, by_now) = (Instant::now(), health.connected.load(Ordering::Acquire));
                if by_now != connected {
                    connected = by_now;
                    deadline = (now + CHECKOUT).min(first + LONGEST_CHECKOUT);
                }
                if now >= deadline {
                    let waited = (now - first).as_secs_f64();
                    return Err(Fault::Away(format!("no connection within {waited:.1} s")));
                }
            }
        }
    }
}

/// Whether the error is the server's word that the script is not in its cache.
pub(crate) fn is_noscript(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(redis::ServerErrorKind::NoScript)
    )
}

/// Whether Redis refuses user or password.
pub(crate) fn is_login_refused(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::AuthenticationFailed)
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
}

/// What no waiting mends in an error of a connection that was to be opened; `text`: the error in words.
fn unfit(error: &RedisError, text: &str) -> Option<Unfit> {
    if is_login_refused(error) {
        Some(Unfit::Login)
    } else if tls::refusal(text).is_some() {
        Some(Unfit::Tls)
    } else if is_database_refused(text) {
        Some(Unfit::Database)
    } else if text.contains(settings::TOO_OLD) {
        Some(Unfit::Version)
    } else {
        None
    }
}

/// Whether the number of the database is what is wrong. The same words stand in front of whatever the server
/// says first (that it has clients enough, that it is loading), and of that it may think better.
fn is_database_refused(text: &str) -> bool {
    // A number out of range, only database 0 here, none in a cluster, no right to SELECT.
    const FOR_GOOD: [&str; 4] = ["index", "database is", "cluster mode", "permission"];
    let said = text.split_once("refused to switch database");
    said.is_some_and(|(_, why)| FOR_GOOD.iter().any(|sign| why.contains(sign)))
}

/// Sorts an error of redis-rs.
pub(crate) fn fault(error: &RedisError) -> Fault {
    let text = describe(error);
    match error.code() {
        // In the crate's words, not the server's, but an answer.
        None if is_login_refused(error) => Fault::Unable(text),
        None => Fault::Away(text),
        Some(_) if fault_word(error).is_some() => Fault::Unable(text),
        // Plain `ERR`: mostly our mistake, but this is the server's state.
        Some(_) if text.contains("max number of clients") => Fault::Unable(text),
        Some(_) => Fault::Refused(text),
    }
}

/// The same for a command, which waits for nobody to correct a password.
pub(crate) fn fault_of_own(error: &RedisError) -> Fault {
    match is_login_refused(error) {
        true => Fault::Refused(describe(error)),
        false => fault(error),
    }
}

/// The error in words, without what was sent.
pub(crate) fn describe(error: &RedisError) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    match error.code() {
        Some("ASK" | "TRYAGAIN") => {
            return "the slot of our keys is being moved to another node".to_owned();
        }
        Some("MOVED") => {
            return "another node of the cluster has our slot (redis-cluster:// finds it)"
                .to_owned();
        }
        _ => {}
    }
    let mut text: String = error
        .to_string()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if let Some((cut, _)) = text.char_indices().nth(200) {
        text.truncate(cut);
    }
    match tls::refusal(&text) {
        Some(words) => format!("{words} ({text})"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_a_call_from_before_the_loss_is_no_return() {
        let health = Health::default();
        let before = Instant::now();
        health.lost("READONLY", Instant::now());
        health.back(before);
        assert!(health.is_away());
        health.back(Instant::now());
        assert!(!health.is_away());
    }

    #[test]
    fn a_failure_of_a_call_from_before_the_return_is_no_loss() {
        let health = Health::default();
        let before = Instant::now();
        health.lost("no answer in time", before);
        health.back(Instant::now());
        health.lost("no answer in time", before);
        assert!(!health.is_away());
        health.lost("no answer in time", Instant::now());
        assert!(health.is_away());
    }

    #[test]
    fn a_wait_that_failed_on_an_old_connection_is_no_loss_where_the_keeper_was_answered_since() {
        let health = Health::default();
        let began = Instant::now();
        health.probed(Some(Instant::now()));
        health.probed(None);
        health.waited_in_vain("no answer in time", began);
        assert!(!health.is_away());
        health.waited_in_vain("no answer in time", Instant::now());
        assert!(health.is_away());
    }

    #[test]
    fn a_late_time_out_ends_the_trust_in_what_was_there_when_its_call_began_and_in_nothing_since() {
        let health = Health::default();
        let moments: Vec<Instant> = (0..4u64)
            .map(|n| Instant::now() + Duration::from_millis(n))
            .collect();
        health.distrust(moments[2]);
        health.distrust(moments[1]);
        let trusted: Vec<bool> = moments.iter().map(|at| health.trusts(*at)).collect();
        assert_eq!(trusted, [false, false, false, true]);
    }

    #[test]
    fn only_a_database_that_will_never_be_there_is_refused_for_good() {
        let error = |said: &str| {
            let code = ErrorKind::Server(redis::ServerErrorKind::ResponseError);
            let what = "Redis server refused to switch database";
            RedisError::from((code, what, said.to_owned()))
        };
        for (said, refused) in [
            ("DB index is out of range", true),
            ("invalid DB index", true),
            ("Only 0th database is supported! Selected DB: 9", true),
            ("SELECT is not allowed in cluster mode", true),
            (
                "User a has no permissions to run the 'select' command",
                true,
            ),
            ("max number of clients reached", false),
            ("Redis is loading the dataset in memory", false),
            ("no upstream host", false),
        ] {
            let error = error(said);
            let seen = unfit(&error, &describe(&error));
            assert_eq!(seen, refused.then_some(Unfit::Database), "{said}");
        }
    }

    #[test]
    fn another_redis_ends_the_trust_in_all_that_was_asked_before_and_in_nothing_since() {
        let health = Health::default();
        let moments: Vec<Instant> = (0..4u64)
            .map(|n| Instant::now() + Duration::from_millis(n))
            .collect();
        health.reached("old", "7.0", moments[0]);
        assert!(moments.iter().all(|at| health.trusts(*at)));
        health.reached("new", "7.0", moments[2]);
        let trusted: Vec<bool> = moments.iter().map(|at| health.trusts(*at)).collect();
        assert_eq!(trusted, [false, false, true, true]);
        // And never again in what a time-out had ended it in.
        let health = Health::default();
        health.reached("old", "7.0", Instant::now());
        let early = Instant::now();
        let between = Instant::now();
        health.distrust(Instant::now());
        health.reached("new", "7.0", early);
        assert!(!health.trusts(between));
    }
}
