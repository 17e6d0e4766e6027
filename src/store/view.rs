//! What people look at: reading a store without owning anything in it. Used by the commands that work
//! on a live system and, over a connection of the daemon's pool, by its page (see `board`); no job needs it.

use super::keys::Keys;
use super::link::{Fault, Line, fault_of_own};
use super::read;
use super::script::Scripts;
use super::topology::Topology;
use crate::config::{self, Server};
use crate::job::{JobId, UnixMs, gathered};
use redis::Value;
use std::collections::BTreeMap;
use std::time::Duration;

mod around;
mod ask;
mod events;
mod jobs;
mod line;
mod status;

pub use around::{ModelLimit, Owner, UserView};
pub use ask::THREADS;
pub use events::{Found, field};
pub use jobs::{FIELDS, Row, Rows};
pub use line::{InInbox, Place};
pub use status::{LimitView, PauseView, Queue, SILENT, Status, Trouble, WorkerView};

/// One connection and the names of the keys.
pub struct View {
    con: Line,
    pub(super) keys: Keys,
    pub(super) scripts: Scripts,
}

/// One event of the stream: its id, and field and value in their order.
pub type EventView = (String, Vec<(String, String)>);

/// State of a job (`None`: not known any more, or not yet) and when it came in (`None`: only its bare id is kept).
pub type StateOf = (Option<String>, Option<UnixMs>);

impl View {
    /// Connects. Fails with [`Fault::Away`] when Redis does not answer, with [`Fault::Refused`] when it takes
    /// neither user nor password.
    pub fn open(redis: &Server, namespace: &str, inbox: &str) -> Result<View, Fault> {
        let keys = Keys::new(namespace, inbox);
        let con = Topology::new(redis.clone(), config::slot(inbox))
            .and_then(|topology| topology.connect())
            .map_err(|error| fault_of_own(&error))?;
        Ok(View::over(Line::Own(con), keys))
    }

    /// Over a connection that stands.
    pub(super) fn over(con: Line, keys: Keys) -> View {
        let scripts = Scripts::new(Some(&keys.never()));
        View { con, keys, scripts }
    }

    pub(super) fn ask<T: redis::FromRedisValue>(&mut self, cmd: &redis::Cmd) -> Result<T, Fault> {
        read(self.answer(cmd)?)
    }

    /// Once for all that it is read into.
    #[inline(never)]
    fn answer(&mut self, cmd: &redis::Cmd) -> Result<Value, Fault> {
        self.con.ask(|con| cmd.query(con))
    }

    pub(super) fn ask_all<T: redis::FromRedisValue>(
        &mut self,
        pipe: &redis::Pipeline,
    ) -> Result<Vec<T>, Fault> {
        self.con.ask(|con| pipe.query(con))
    }

    /// Redis's time.
    pub fn now(&mut self) -> Result<UnixMs, Fault> {
        let (seconds, micros): (i64, i64) = self.ask(&redis::cmd("TIME"))?;
        Ok(UnixMs(seconds * 1000 + micros / 1000))
    }

    /// Puts an entry into the inbox.
    pub fn push(&mut self, entry: &[u8]) -> Result<(), Fault> {
        let mut cmd = redis::cmd("LPUSH");
        cmd.arg(&self.keys.inbox).arg(entry);
        self.ask::<u64>(&cmd).map(|_| ())
    }

    /// Waits until so many replicas have what was written here so far, for at most `within` (shorter than
    /// an answer may take); how many have it then.
    pub fn wait_replicas(&mut self, replicas: u32, within: Duration) -> Result<u32, Fault> {
        let mut cmd = redis::cmd("WAIT");
        cmd.arg(replicas).arg(within.as_millis() as u64);
        self.ask(&cmd)
    }

    /// States of some jobs, and when they came in.
    pub fn states(&mut self, ids: &[JobId]) -> Result<Vec<StateOf>, Fault> {
        let mut out = Vec::with_capacity(ids.len());
        for batch in ids.chunks(500) {
            let mut pipe = redis::pipe();
            for id in batch {
                pipe.cmd("HMGET")
                    .arg(self.keys.job(id.as_str()))
                    .arg(&["state", "queued_at"]);
            }
            let rows = self.ask_all::<Vec<Option<String>>>(&pipe)?;
            out.extend(rows.into_iter().map(|row| {
                let mut fields = row.into_iter();
                let state = fields.next().flatten();
                let at = fields.next().flatten().and_then(|at| at.parse().ok());
                (state, at.map(UnixMs))
            }));
        }
        Ok(out)
    }

    /// Everything a record says, sorted by field; empty for an unknown id.
    pub fn record(&mut self, id: &JobId) -> Result<BTreeMap<String, String>, Fault> {
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(self.keys.job(id.as_str()));
        let raw: Vec<(Vec<u8>, Vec<u8>)> = self.ask(&cmd)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(gathered(
            raw.into_iter()
                .map(|(name, value)| (text(name), text(value))),
        ))
    }

    /// The entry as it was pushed; `None` after the job is done.
    pub fn entry(&mut self, id: &JobId) -> Result<Option<String>, Fault> {
        let mut cmd = redis::cmd("GET");
        cmd.arg(self.keys.spec(id.as_str()));
        let raw: Option<Vec<u8>> = self.ask(&cmd)?;
        Ok(raw.map(|raw| String::from_utf8_lossy(&raw).into_owned()))
    }

    /// The events of one job that the stream still holds, oldest first. Reads the stream in pages from
    /// the job's own beginning.
    pub fn events_of(&mut self, id: &JobId, from: UnixMs) -> Result<Vec<EventView>, Fault> {
        let mut found = Vec::new();
        let mut start = format!("{}-0", from.0.max(0));
        loop {
            let mut cmd = redis::cmd("XRANGE");
            cmd.arg(&self.keys.events)
                .arg(&start)
                .arg("+")
                .arg("COUNT")
                .arg(1000);
            let page: Vec<EventView> = self.ask(&cmd)?;
            let Some((last, _)) = page.last() else {
                return Ok(found);
            };
            start = next_stream_id(last);
            let full = page.len() == 1000;
            found.extend(page.into_iter().filter(|(_, fields)| {
                fields
                    .iter()
                    .any(|(name, value)| name == "job" && value == id.as_str())
            }));
            if !full {
                return Ok(found);
            }
        }
    }

    /// Events behind `last` (`0` for all), oldest first, at most `count`.
    pub fn events_after(&mut self, last: &str, count: usize) -> Result<Vec<EventView>, Fault> {
        let start = if last == "0" {
            "-".to_owned()
        } else {
            next_stream_id(last)
        };
        let mut cmd = redis::cmd("XRANGE");
        cmd.arg(&self.keys.events)
            .arg(start)
            .arg("+")
            .arg("COUNT")
            .arg(count);
        self.ask(&cmd)
    }
}

/// The id after this one: `XRANGE` has exclusive bounds only from Redis 6.2 on.
fn next_stream_id(id: &str) -> String {
    match id
        .split_once('-')
        .and_then(|(ms, n)| Some((ms, n.parse::<u64>().ok()?)))
    {
        Some((ms, n)) => format!("{ms}-{}", n + 1),
        None => "+".to_owned(),
    }
}
