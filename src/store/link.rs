//! Connections to Redis: a bounded pool for the scripts, and connections of their own for what
//! blocks. Here, and only here, it is decided what counts as "Redis is away". A connection is never
//! used again after an I/O error or a time-out: redis-rs would skip the late answer silently and the
//! next command would wait for it.

use super::health::Health;
use super::settings;
use super::tls;
use super::topology::Topology;
use crate::config::Server;
use redis::{Cmd, Connection, ConnectionLike, ErrorKind, RedisError, Value};
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, RwLock};
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
pub(super) fn unfit(error: &RedisError, text: &str) -> Option<Unfit> {
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
}
