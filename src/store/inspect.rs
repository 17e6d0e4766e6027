//! What `check` asks of a Redis: its state, our rights in it and what lies at our keys. It judges nothing, and
//! all it writes is one key of its own for a moment.

use super::keys::{Keys, glob};
use super::link::{Fault, describe, fault, fault_word};
use super::read;
use super::script::digest;
use super::topology::Topology;
use super::{FORMAT, Session};
use crate::config::{self, Server};
use crate::job::gathered;
use redis::{Connection, RedisError, Value};
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// All of it, the connection included, is asked within this time, call by call.
const ANSWER: Duration = Duration::from_secs(5);
/// Round trips that are timed.
const PINGS: usize = 9;
/// Steps of the look through the records, and keys of a step.
const SCANS: usize = 20;
const SCAN: usize = 500;
/// Records that are looked into.
const RECORDS: usize = 1000;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// From nothing to a connection that is let in.
    pub connect: Duration,
    /// Median of some round trips.
    pub round_trip: Duration,
    /// Redis's clock minus ours, ms.
    pub clock_ahead_ms: i64,
    /// `INFO`, line by line.
    pub info: BTreeMap<String, String>,
    /// `appendfsync`; `None`: that may not be asked (`CONFIG GET` is often kept from users).
    pub appendfsync: Option<String>,
    /// Commands that this user may not call, with what Redis says.
    pub forbidden: Vec<(String, String)>,
    /// Why no write was taken: a replica, no memory, a disk that fails.
    pub no_writes: Option<String>,
    /// Keys of ours with something of another type in them: name, type, what it should be.
    pub foreign: Vec<(String, String, &'static str)>,
    /// Records looked into, those of a newer format, and the newest format.
    pub records: (usize, usize, u32),
}

impl Inspection {
    /// A value of `INFO`; empty where this server has none of that name.
    pub fn said(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    /// The same as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.said(name).parse().ok()
    }
}

/// Asks. An error of `Refused` kind means that Redis let nobody in.
pub fn inspect(redis: &Server, namespace: &str, inbox: &str) -> Result<Inspection, Fault> {
    let keys = Keys::new(namespace, inbox);
    let mut found = Inspection::default();
    let began = Instant::now();
    let say = |error: RedisError| fault(&error);
    let topology = Topology::new(redis.clone(), config::slot(inbox)).map_err(say)?;
    // A thread of its own: a server that takes connections and says nothing costs redis-rs the limit three
    // times over, once for each thing that it asks first.
    let (send, opened) = mpsc::channel();
    std::thread::spawn(move || send.send(topology.connect()));
    let Ok(opened) = opened.recv_timeout(ANSWER) else {
        return Err(Fault::Away("no answer in time".to_owned()));
    };
    let mut con = opened.map_err(say)?;
    con.set_read_timeout(Some(ANSWER)).map_err(say)?;
    con.set_write_timeout(Some(ANSWER)).map_err(say)?;
    found.connect = began.elapsed();
    let about: String = match redis::cmd("INFO").query(&mut con) {
        Ok(about) => about,
        Err(error) if is_forbidden(&error) => {
            let why = describe(&error);
            found.forbidden.push(("INFO".to_owned(), why));
            String::new()
        }
        Err(error) => return Err(fault(&error)),
    };
    let lines = about.lines().filter_map(|line| line.split_once(':'));
    let pairs = lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    found.info = gathered(pairs);
    found.time(&mut con)?;
    let asked: Result<Vec<String>, _> = redis::cmd("CONFIG")
        .arg("GET")
        .arg("appendfsync")
        .query(&mut con);
    found.appendfsync = asked.ok().and_then(|mut pair| pair.pop());
    found.rights(&mut con, &keys)?;
    found.types(&mut con, &keys)?;
    found.formats(&mut con, &keys)?;
    Ok(found)
}

/// Anything but a connection that broke is an answer.
fn asked(answer: Result<Value, RedisError>) -> Result<Result<Value, RedisError>, Fault> {
    match answer.and_then(Value::extract_error) {
        Err(error) if error.code().is_none() => Err(fault(&error)),
        answer => Ok(answer),
    }
}

fn is_forbidden(error: &RedisError) -> bool {
    error.code() == Some("NOPERM") || error.to_string().contains("NOPERM")
}

impl Inspection {
    fn time(&mut self, con: &mut Connection) -> Result<(), Fault> {
        let mut trips = Vec::new();
        for _ in 0..PINGS {
            let began = Instant::now();
            asked(redis::cmd("PING").query(con))?.ok();
            trips.push(began.elapsed());
        }
        trips.sort_unstable();
        self.round_trip = trips[PINGS / 2];
        if let Ok(now) = asked(redis::cmd("TIME").query(con))? {
            let (seconds, micros): (i64, i64) = read(now)?;
            let theirs = seconds * 1000 + micros / 1000;
            let ours = SystemTime::now().duration_since(UNIX_EPOCH);
            let ours = ours.map_or(0, |ours| ours.as_millis() as i64);
            // The answer was made half a trip ago.
            self.clock_ahead_ms = theirs - ours + self.round_trip.as_millis() as i64 / 2;
        }
        Ok(())
    }

    /// Tries what the worker calls, on a key that nobody knows and that is gone at once.
    fn rights(&mut self, con: &mut Connection, keys: &Keys) -> Result<(), Fault> {
        let probe = format!("{}:check:{:016x}", keys.namespace, super::random_bits());
        let script = "redis.call('SET', KEYS[1], '1', 'EX', 10) return redis.call('DEL', KEYS[1])";
        // One line a command; `K` is the key of the trial. All but the types that follow each other are cut off
        // from each other by a DEL.
        let tried = [
            "CLIENT ID",
            "CLIENT UNBLOCK 0",
            "SCRIPT LOAD script",
            "SET K 1 EX 10",
            "GET K",
            "MGET K",
            "INCRBY K 1",
            "SETNX K 1",
            "EXPIRE K 10",
            "PEXPIRE K 10000",
            "TTL K",
            "PTTL K",
            "PERSIST K",
            "TYPE K",
            "EXISTS K",
            "DEL K",
            "LPUSH K 1",
            "RPUSH K 2",
            "EXPIRE K 10",
            "LLEN K",
            "LINDEX K 0",
            "LRANGE K 0 0",
            "LPOS K 1",
            "LTRIM K 0 -1",
            "LREM K 1 9",
            "LPOP K",
            "RPOP K",
            "BRPOP K 0.001",
            "BRPOPLPUSH K K 0.001",
            "RPOPLPUSH K INBOX",
            "LLEN INBOX",
            "HSET K a 1",
            "EXPIRE K 10",
            "HSETNX K a 1",
            "HINCRBY K a 1",
            "HGET K a",
            "HMGET K a",
            "HGETALL K",
            "HKEYS K",
            "HLEN K",
            "HEXISTS K a",
            "HSTRLEN K a",
            "HSCAN K 0",
            "HDEL K a",
            "SADD K a",
            "EXPIRE K 10",
            "SCARD K",
            "SISMEMBER K a",
            "SSCAN K 0",
            "SREM K a",
            "ZADD K 1 a",
            "EXPIRE K 10",
            "ZCARD K",
            "ZSCORE K a",
            "ZRANGE K 0 0",
            "ZRANGEBYSCORE K 0 1",
            "ZSCAN K 0",
            "ZREM K a",
            "ZREMRANGEBYSCORE K 0 1",
            "XADD K * a 1",
            "EXPIRE K 10",
            "XTRIM K MAXLEN 1",
            "UNLINK K",
            "SCAN 0 COUNT 1",
            "EVALSHA",
        ];
        for line in tried {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default();
            let mut cmd = redis::cmd(name);
            if name == "EVALSHA" {
                cmd.arg(digest(script)).arg(1).arg(&probe);
            }
            for word in words {
                match word {
                    "K" => cmd.arg(&probe),
                    "INBOX" => cmd.arg(&keys.inbox),
                    "script" => cmd.arg(script),
                    word => cmd.arg(word),
                };
            }
            if let Err(error) = asked(cmd.query(con))? {
                let why = describe(&error);
                if is_forbidden(&error) {
                    let on = if line.ends_with("INBOX") {
                        " on the inbox"
                    } else {
                        ""
                    };
                    self.forbidden.push((format!("{name}{on}"), why));
                } else if let Some(word) = fault_word(&error) {
                    self.no_writes.get_or_insert(format!("{word}: {why}"));
                }
            }
        }
        Ok(())
    }

    fn types(&mut self, con: &mut Connection, keys: &Keys) -> Result<(), Fault> {
        for (key, right) in expected(keys) {
            let Ok(answer) = asked(redis::cmd("TYPE").arg(&key).query(con))? else {
                return Ok(()); // told among the rights
            };
            let kind: String = read(answer)?;
            if kind != "none" && kind != right {
                self.foreign.push((key, kind, right));
            }
        }
        Ok(())
    }

    /// Some of the records: a newer version leaves its mark in many.
    fn formats(&mut self, con: &mut Connection, keys: &Keys) -> Result<(), Fault> {
        let mut cursor = "0".to_owned();
        for _ in 0..SCANS {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor)
                .arg("MATCH")
                .arg(format!("{}:job:*", glob(&keys.namespace)))
                .arg("COUNT")
                .arg(SCAN);
            let Ok(page) = asked(scan.query(con))? else {
                return Ok(());
            };
            let (next, names): (String, Vec<String>) = read(page)?;
            for name in names {
                if let Ok(v) = asked(redis::cmd("HGET").arg(&name).arg("v").query(con))? {
                    let v = read::<Option<u32>>(v).ok().flatten().unwrap_or(FORMAT);
                    self.records.0 += 1;
                    self.records.1 += usize::from(v > FORMAT);
                    self.records.2 = self.records.2.max(v);
                }
            }
            cursor = next;
            if cursor == "0" || self.records.0 >= RECORDS {
                break;
            }
        }
        Ok(())
    }
}

/// The keys that all workers share, and their types.
fn expected(keys: &Keys) -> Vec<(String, &'static str)> {
    let mut expected = vec![
        (keys.inbox.clone(), "list"),
        (keys.bell.clone(), "list"),
        (keys.later.clone(), "zset"),
        (keys.dead.clone(), "zset"),
        (keys.workers.clone(), "zset"),
        (keys.gone.clone(), "zset"),
        (keys.held.clone(), "zset"),
        (keys.waiters.clone(), "set"),
        (keys.at_fal(""), "set"),
        (keys.events.clone(), "stream"),
        (keys.config.clone(), "hash"),
        (keys.stats.clone(), "hash"),
        (keys.models.clone(), "hash"),
        (keys.paused.clone(), "hash"),
        (keys.window.clone(), "hash"),
        (keys.audit.clone(), "hash"),
        (keys.run.clone(), "string"),
        (keys.store.clone(), "string"),
    ];
    expected.extend(keys.ready.iter().map(|key| (key.clone(), "list")));
    expected
}

impl Session {
    /// After a refusal for the type of a key, whose name Redis does not say: the first of ours that holds
    /// something else, and what. `None`: it is none of those that can be named beforehand.
    pub(crate) fn in_the_way(&self, why: &str) -> Option<(String, String)> {
        if !why.contains("WRONGTYPE") {
            return None;
        }
        let (keys, me) = (&self.store().keys, self.store().identity());
        let mut all = expected(keys);
        all.push((keys.taken(&me.instance), "list"));
        all.push((keys.claims(&me.instance), "hash"));
        all.push((keys.worker(&me.instance), "hash"));
        for (key, right) in all {
            let answer = self.command(redis::cmd("TYPE").arg(&key)).ok()?;
            let holds: String = read(answer).ok()?;
            if holds != "none" && holds != right {
                return Some((key, holds));
            }
        }
        None
    }
}
