//! The whole store at one moment: queues, limits, workers, what happened lately.

use super::around::read_limits;
use super::{Fault, View};
use crate::job::window::{OVERHANG, Window};
use crate::job::{UnixMs, gathered};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// One queue at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// `inbox`, `resume`, `high`, `default` or `low`.
    pub name: &'static str,
    /// Ids (entries in the inbox).
    pub depth: u64,
    /// Age of the one to be served next, where its record says it.
    pub oldest: Option<Duration>,
}

/// One living instance.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerView {
    /// `<name>~<8 hex>`.
    pub instance: String,
    /// Of the program.
    pub version: String,
    /// Of its pool.
    pub threads: u64,
    /// Jobs it holds.
    pub in_flight: u64,
    /// Since its last beat.
    pub beat_age: Duration,
}

/// Why jobs may not move, whatever waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    /// `fal` or `telegram` is away; `submits`, `direct`: fal is there, and takes no requests or answers no direct
    /// calls; `bot`: Telegram refuses it; `redis_full`, `redis_disk` (it
    /// could not write its file), `redis_replica`.
    pub what: &'static str,
    /// Since when, of what workers say.
    pub since: Option<UnixMs>,
    /// How many workers that beat say so.
    pub workers: u64,
}

/// Why nothing new is pulled.
#[derive(Clone, Debug, PartialEq)]
pub struct PauseView {
    /// In words.
    pub reason: String,
    /// By whom.
    pub by: String,
    /// That is a person, not a worker.
    pub person: bool,
    /// Since when.
    pub since: UnixMs,
    /// Until when, if it ends by itself.
    pub until: Option<UnixMs>,
}

/// One value that holds for all workers.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitView {
    /// The flag without its dashes.
    pub flag: &'static str,
    /// As the flag takes it.
    pub value: String,
    /// The instance that was given it, where one was.
    pub by: Option<String>,
    /// Since when.
    pub at: Option<UnixMs>,
}

/// The whole store at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// When it was, by Redis's clock.
    pub now: UnixMs,
    /// Version of Redis.
    pub redis_version: String,
    /// Memory Redis uses, as it writes it.
    pub redis_memory: String,
    /// In the order they are served, the inbox first.
    pub queues: Vec<Queue>,
    /// Jobs that wait for a time.
    pub later: u64,
    /// Jobs that wait behind their user's turn or for one of his slots.
    pub waiting: u64,
    /// What holds jobs back: `turn` (others of the same user stand before them), `user_concurrency`,
    /// `user_rate`, `model_limit`, `fal_concurrency` (ready, but the submit window is full); those above zero.
    pub held: BTreeMap<&'static str, u64>,
    /// Jobs at fal and how many may be there: `all` by the submit window, and by pattern of models.
    pub at_fal: BTreeMap<String, (u64, u64)>,
    /// Values that hold for all workers and were set by somebody.
    pub limits: Vec<LimitView>,
    /// Dead letters.
    pub dead: u64,
    /// Owned jobs by phase.
    pub running: BTreeMap<String, u64>,
    /// Living instances.
    pub workers: Vec<WorkerView>,
    /// Jobs that ended well in the last five minutes, and that did not.
    pub last_5m: (u64, u64),
    /// What is away.
    pub troubles: Vec<Trouble>,
    /// A pause, if there is one.
    pub paused: Option<PauseView>,
    /// Leaks that the audit mended, by kind.
    pub repairs: BTreeMap<String, u64>,
    /// Jobs of a newer version that a worker met and left alone within the last quarter of a minute.
    pub newer: u64,
}

/// A worker that is silent for so long has missed several beats: it says nothing of now.
pub const SILENT: Duration = Duration::from_secs(5);

/// Adds what a worker says: `fal 1795694400000,bot 1795694400000`.
fn note(troubles: &mut Vec<Trouble>, away: &str) {
    for one in away.split(',') {
        let (name, since) = one.split_once(' ').unwrap_or_default();
        let since = since.parse().ok().map(UnixMs);
        let known = ["fal", "submits", "direct", "telegram", "bot"].into_iter();
        for what in known.filter(|what| *what == name) {
            match troubles.iter_mut().find(|one| one.what == what) {
                Some(known) => {
                    known.since = known.since.min(since);
                    known.workers += 1;
                }
                None => troubles.push(Trouble {
                    what,
                    since,
                    workers: 1,
                }),
            }
        }
    }
}

impl Status {
    /// What is away, as `status --json` and the page have it.
    pub(crate) fn troubles_json(&self) -> Value {
        let all = self.troubles.iter().map(|one| {
            let since = one.since.map(|at| at.0);
            json!({"what": one.what, "since": since, "workers": one.workers})
        });
        Value::Array(all.collect())
    }
}

/// A line of an `INFO`.
fn said(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or("").trim().to_owned()
}

impl View {
    /// What keeps Redis from taking writes, by the words of [`Trouble`].
    pub fn redis_troubles(&mut self) -> Result<Vec<&'static str>, Fault> {
        let mut about = |section: &str| self.ask::<String>(redis::cmd("INFO").arg(section));
        let (memory, disk) = (about("memory")?, about("persistence")?);
        let replication = about("replication")?;
        let memory_is = |name: &str| said(&memory, name).parse().unwrap_or(0u64);
        let most = memory_is("maxmemory:");
        let full = most > 0
            && memory_is("used_memory:") >= most
            && said(&memory, "maxmemory_policy:") == "noeviction";
        let all = [
            ("redis_full", full),
            ("redis_disk", said(&disk, "aof_last_write_status:") == "err"),
            ("redis_replica", said(&replication, "role:") == "slave"),
        ];
        let standing = all.into_iter().filter(|(_, is_so)| *is_so);
        Ok(standing.map(|(what, _)| what).collect())
    }

    /// The whole picture.
    pub fn status(&mut self) -> Result<Status, Fault> {
        let about: String = self.ask(redis::cmd("INFO").arg("server"))?;
        let memory: String = self.ask(redis::cmd("INFO").arg("memory"))?;
        let now = self.now()?;
        let mut queues = Vec::new();
        let names = ["inbox", "resume", "high", "default", "low"];
        let lists = std::iter::once(self.keys.inbox.clone()).chain(self.keys.ready.iter().cloned());
        for (name, list) in names.into_iter().zip(lists.collect::<Vec<_>>()) {
            let depth: u64 = self.ask(redis::cmd("LLEN").arg(&list))?;
            let mut oldest = None;
            if depth > 0 && name != "inbox" {
                let first: Option<String> = self.ask(redis::cmd("LINDEX").arg(&list).arg(-1))?;
                if let Some(id) = first {
                    let since: Option<i64> =
                        self.ask(redis::cmd("HGET").arg(self.keys.job(&id)).arg("queued_at"))?;
                    oldest = since.map(|since| UnixMs(since).until(now));
                }
            }
            queues.push(Queue {
                name,
                depth,
                oldest,
            });
        }
        let of_redis = self.redis_troubles()?.into_iter().map(|what| Trouble {
            what,
            since: None,
            workers: 0,
        });
        let mut troubles: Vec<Trouble> = of_redis.collect();
        let mut workers = Vec::new();
        let mut running: BTreeMap<String, u64> = BTreeMap::new();
        let living: Vec<(String, i64)> = self.ask(
            redis::cmd("ZRANGE")
                .arg(&self.keys.workers)
                .arg(0)
                .arg(-1)
                .arg("WITHSCORES"),
        )?;
        for (instance, beat) in living {
            let mut cmd = redis::cmd("HMGET");
            cmd.arg(self.keys.worker(&instance))
                .arg(&["version", "threads", "away"]);
            let said: Vec<Option<String>> = self.ask(&cmd)?;
            let mut said = said.into_iter().map(Option::unwrap_or_default);
            let mut next = || said.next().unwrap_or_default();
            let (version, threads, away) = (next(), next(), next());
            if UnixMs(beat).until(now) < SILENT {
                note(&mut troubles, &away);
            }
            let ids: Vec<String> =
                self.ask(redis::cmd("HKEYS").arg(self.keys.claims(&instance)))?;
            for phase in self.phases(&ids)? {
                *running
                    .entry(phase.unwrap_or_else(|| "unknown".to_owned()))
                    .or_default() += 1;
            }
            workers.push(WorkerView {
                in_flight: ids.len() as u64,
                version,
                threads: threads.parse().unwrap_or(0),
                beat_age: UnixMs(beat).until(now),
                instance,
            });
        }
        let later: u64 = self.ask(redis::cmd("ZCARD").arg(&self.keys.later))?;
        let dead: u64 = self.ask(redis::cmd("ZCARD").arg(&self.keys.dead))?;
        let stats = self.stats()?;
        let last_5m = last_minutes(&stats, now, 5);
        let repairs = gathered(stats.iter().filter_map(|(name, value)| {
            let kind = name.strip_prefix("repairs:")?;
            Some((kind.to_owned(), value.parse().ok()?))
        }));
        let paused = self.paused()?;
        let mut held = self.held()?;
        let at_fal = self.at_fal(&mut held)?;
        if at_fal.get("all").is_some_and(|(now, most)| now >= most) {
            let ready = queues
                .iter()
                .filter(|queue| !matches!(queue.name, "inbox" | "resume"));
            let ready: u64 = ready.map(|queue| queue.depth).sum();
            if ready > 0 {
                held.insert("fal_concurrency", ready);
            }
        }
        let limits = self.limits()?;
        Ok(Status {
            now,
            redis_version: said(&about, "redis_version:"),
            redis_memory: said(&memory, "used_memory_human:"),
            queues,
            later,
            waiting: ["turn", "user_concurrency", "model_limit"]
                .iter()
                .filter_map(|why| held.get(why))
                .sum(),
            held,
            at_fal,
            limits,
            dead,
            running,
            workers,
            last_5m,
            troubles,
            paused,
            repairs,
            newer: self.newer(now)?,
        })
    }

    /// Jobs of a newer version: a claim that meets one says so, and looks at it again after five seconds.
    fn newer(&mut self, now: UnixMs) -> Result<u64, Fault> {
        let mut cmd = redis::cmd("ZCOUNT");
        cmd.arg(&self.keys.newer).arg(now.0 - 15_000).arg("+inf");
        self.ask(&cmd)
    }

    /// How many jobs wait behind which limit.
    fn held(&mut self) -> Result<BTreeMap<&'static str, u64>, Fault> {
        let mut held = BTreeMap::new();
        for priority in ["high", "default", "low"] {
            let turns: Vec<(Vec<u8>, Vec<u8>)> =
                self.ask(redis::cmd("HGETALL").arg(self.keys.turns(priority)))?;
            for batch in turns.chunks(500) {
                let mut pipe = redis::pipe();
                for (user, _) in batch {
                    // A user's name may be any text: the key is made of its bytes.
                    let mut key = self.keys.line(priority, "").into_bytes();
                    key.extend(user);
                    pipe.cmd("LLEN").arg(key);
                }
                for ((_, turn), n) in batch.iter().zip(self.ask_all::<u64>(&pipe)?) {
                    let why = if turn.is_empty() {
                        "user_concurrency"
                    } else {
                        "turn"
                    };
                    *held.entry(why).or_default() += n;
                }
            }
        }
        let rate: u64 = self.ask(redis::cmd("ZCARD").arg(&self.keys.held))?;
        held.insert("user_rate", rate);
        held.retain(|_, n| *n > 0);
        Ok(held)
    }

    /// What stands at fal where a window or a limit of models is set; adds who waits behind one of those.
    pub(super) fn at_fal(
        &mut self,
        held: &mut BTreeMap<&'static str, u64>,
    ) -> Result<BTreeMap<String, (u64, u64)>, Fault> {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(&self.keys.config)
            .arg(&["fal_concurrency", "model_limits"]);
        let (window, limits): (Option<String>, Option<String>) = self.ask(&cmd)?;
        let mut places = BTreeMap::new();
        let size: Option<u64> = match window.as_deref() {
            Some("auto") => {
                let found: Option<u64> =
                    self.ask(redis::cmd("HGET").arg(&self.keys.window).arg("size"))?;
                Some(found.unwrap_or(u64::from(Window::default().size)))
            }
            Some(number) => {
                let number = number.parse().ok().filter(|number| *number > 0);
                number.map(|number: u64| number + u64::from(OVERHANG))
            }
            None => None,
        };
        if let Some(size) = size {
            let now = self.ask(redis::cmd("SCARD").arg(self.keys.at_fal("")))?;
            places.insert("all".to_owned(), (now, size));
        }
        for (pattern, most) in read_limits(&limits.unwrap_or_default()) {
            let now = self.ask(redis::cmd("SCARD").arg(self.keys.at_fal(&pattern)))?;
            places.insert(pattern.clone(), (now, most));
            for priority in ["high", "default", "low"] {
                let there = format!("model:{priority}:{pattern}");
                let mut waiting: u64 = self.ask(redis::cmd("LLEN").arg(self.keys.list(&there)))?;
                let users: Vec<Vec<u8>> =
                    self.ask(redis::cmd("HKEYS").arg(self.keys.turns(&there)))?;
                for batch in users.chunks(500) {
                    let mut pipe = redis::pipe();
                    for user in batch {
                        let mut key = self.keys.line(&there, "").into_bytes();
                        key.extend(user);
                        pipe.cmd("LLEN").arg(key);
                    }
                    waiting += self.ask_all::<u64>(&pipe)?.iter().sum::<u64>();
                }
                if waiting > 0 {
                    *held.entry("model_limit").or_default() += waiting;
                }
            }
        }
        Ok(places)
    }

    /// Who set what for all workers.
    fn limits(&mut self) -> Result<Vec<LimitView>, Fault> {
        let config: BTreeMap<String, String> =
            self.ask(redis::cmd("HGETALL").arg(&self.keys.config))?;
        let known = [
            ("user_concurrency", "user-concurrency"),
            ("user_rate", "user-rate"),
            ("fal_concurrency", "fal-concurrency"),
            ("model_limits", "model-limit"),
            ("fair", "fair"),
            ("low_after", "low-after"),
        ];
        let said = |name: &str| config.get(name).cloned();
        let limits = known.into_iter().filter_map(|(name, flag)| {
            let at = said(&format!("{name}:at")).and_then(|at| at.parse().ok());
            Some(LimitView {
                flag,
                value: as_flag(name, &said(name)?),
                by: said(&format!("{name}:by")),
                at: at.map(UnixMs),
            })
        });
        Ok(limits.collect())
    }

    fn phases(&mut self, ids: &[String]) -> Result<Vec<Option<String>>, Fault> {
        let mut out = Vec::new();
        for batch in ids.chunks(500) {
            let mut pipe = redis::pipe();
            for id in batch {
                pipe.cmd("HGET").arg(self.keys.job(id)).arg("phase");
            }
            out.extend(self.ask_all::<Option<String>>(&pipe)?);
        }
        Ok(out)
    }

    pub(super) fn stats(&mut self) -> Result<BTreeMap<String, String>, Fault> {
        self.ask(redis::cmd("HGETALL").arg(&self.keys.stats))
    }

    /// Why nothing new is pulled, if so.
    pub fn paused(&mut self) -> Result<Option<PauseView>, Fault> {
        let fields: BTreeMap<String, String> =
            self.ask(redis::cmd("HGETALL").arg(&self.keys.paused))?;
        if fields.is_empty() {
            return Ok(None);
        }
        let text = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let time = |name: &str| {
            fields
                .get(name)
                .and_then(|value| value.parse().ok())
                .map(UnixMs)
        };
        Ok(Some(PauseView {
            reason: text("reason"),
            by: text("by"),
            person: fields.contains_key("person"),
            since: time("since").unwrap_or_default(),
            until: time("until"),
        }))
    }
}

/// Ends of the last whole minutes and of this one: done, failed.
fn last_minutes(stats: &BTreeMap<String, String>, now: UnixMs, minutes: i64) -> (u64, u64) {
    let each = by_minute(stats, now, minutes);
    each.iter()
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

/// The same, each minute for itself.
pub(super) fn by_minute(
    stats: &BTreeMap<String, String>,
    now: UnixMs,
    minutes: i64,
) -> Vec<(u64, u64)> {
    let number = |name: String| stats.get(&name).and_then(|value| value.parse::<i64>().ok());
    let this = now.0 / 60_000;
    let minutes = this - minutes + 1..=this;
    let ends = minutes.map(|minute| {
        let place = minute % 60;
        if number(format!("minute:{place}")) != Some(minute) {
            return (0, 0);
        }
        let count = |name: &str| {
            let count = number(format!("{name}:{place}")).unwrap_or(0);
            u64::try_from(count).unwrap_or(0)
        };
        (count("done"), count("failed"))
    });
    ends.collect()
}

/// A value of `config` as its flag takes it.
pub(super) fn as_flag(name: &str, value: &str) -> String {
    let span = |ms: &str| {
        let ms = ms.parse().ok().map(Duration::from_millis);
        ms.map(|span| humantime::format_duration(span).to_string())
    };
    let text = match (name, value) {
        ("user_concurrency" | "fal_concurrency" | "low_after", "0") | ("user_rate", "0/0") => {
            Some("off".to_owned())
        }
        ("user_rate", rate) => rate
            .split_once('/')
            .and_then(|(n, ms)| Some(format!("{n}/{}", span(ms)?))),
        ("low_after", ms) => span(ms),
        (_, _) => None,
    };
    text.unwrap_or_else(|| value.to_owned())
}
