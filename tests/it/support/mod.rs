//! The one test library: a [`World`] starts Redis, the stand-ins and daemons and ends them in `Drop`;
//! [`job`] builds entries; [`eventually`] waits for a condition with a deadline and shows what it last
//! saw. No test sleeps for a fixed time where it can wait for something.

#![allow(dead_code)] // each test file uses its own part

pub mod auditor;
pub mod backlog;
pub mod browser;
pub mod certificates;
pub mod chaos;
pub mod fair;
pub mod kills;
pub mod load;
pub mod proxy;
pub mod redis_fault;
pub mod store_dump;
pub mod tap;
pub mod tls_front;
pub mod topology;

use fal_worker::sandbox::Sandbox;
use fal_worker::sandbox::redis::{RedisOptions, spawn_from_own_thread};
use redis::{Connection, FromRedisValue};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// The usual deadline: long, since the machines are shared and slow; nothing waits for it when all is well.
pub const SOON: Duration = Duration::from_secs(30);

/// Everything one test needs. Ends it all when dropped; prints journal, ledger and logs when it panics.
pub struct World {
    pub sandbox: Sandbox,
    pub folder: tempfile::TempDir,
    /// What daemons take for Redis, where it is not Redis itself: a proxy, or a URL with a password.
    pub redis_url: Option<String>,
    /// What daemons take for fal's queue, where it is not the stand-in itself.
    pub fal_url: Option<String>,
    /// The same for its direct calls, and for Telegram.
    pub run_url: Option<String>,
    pub telegram_url: Option<String>,
    /// What tests write as `fal:` in the names of keys: `{fal}` in a cluster.
    pub namespace: &'static str,
    /// Where the test itself looks, where that is not the sandbox's Redis.
    looked_at: Option<String>,
    con: Connection,
    daemons: usize,
    /// Why the store is not looked at in the end.
    not_audited: Option<&'static str>,
    /// Why the worker's own audit may have mended something.
    may_mend: Option<&'static str>,
}

/// A daemon under test, a real process.
pub struct Daemon {
    child: Child,
    pub log: PathBuf,
    _nurse: Sender<()>,
}

impl World {
    /// Redis with AOF and the stand-ins; no daemon yet.
    pub fn new() -> World {
        World::with(RedisOptions::default())
    }

    /// With a Redis started as the test wants it.
    pub fn with(redis: RedisOptions) -> World {
        let sandbox = Sandbox::start_with(1, redis).unwrap_or_else(|error| panic!("{error}"));
        let con = connect(&sandbox.redis.url());
        World {
            sandbox,
            folder: tempfile::tempdir().unwrap(),
            redis_url: None,
            fal_url: None,
            run_url: None,
            telegram_url: None,
            namespace: "fal",
            looked_at: None,
            con,
            daemons: 0,
            not_audited: None,
            may_mend: None,
        }
    }

    /// The test leaves behind what no script of the worker does (or a Redis that answers nobody): the
    /// auditor does not look at it. Say why.
    pub fn not_audited(&mut self, why: &'static str) {
        self.not_audited = Some(why);
    }

    /// The test plants or causes leaks, which the worker's audit may mend and count. Say why.
    pub fn may_mend(&mut self, why: &'static str) {
        self.may_mend = Some(why);
    }

    /// What the tests' own auditor finds in the store now.
    pub fn findings(&mut self) -> Vec<String> {
        let _: String = self.redis(&["PING"]); // a Redis that was restarted left a broken connection behind
        auditor::findings(&mut self.con, self.namespace, self.may_mend.is_some())
            .unwrap_or_else(|error| panic!("the auditor cannot read the store: {error}"))
    }

    /// A world with one daemon of 4 threads that is ready.
    pub fn running() -> (World, Daemon) {
        let mut world = World::new();
        let daemon = world.daemon(&["--threads", "4"]);
        (world, daemon)
    }

    /// Starts a daemon with more arguments and waits until it says that it is ready.
    pub fn daemon(&mut self, more: &[&str]) -> Daemon {
        let daemon = self.spawn(more, &[]);
        eventually(SOON, || daemon.log_text(), |log| log.contains(" ready "));
        daemon
    }

    /// The command line of a daemon of this world.
    pub fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fal-worker"));
        let fal = &self.sandbox.fal;
        command
            .arg("run")
            .arg("--fal-url")
            .arg(self.fal_url.clone().unwrap_or_else(|| fal.queue_url()))
            .args([
                "--fal-run-url",
                &self.run_url.clone().unwrap_or_else(|| fal.run_url()),
                "--fal-storage-url",
                &fal.storage_url(),
            ])
            .args([
                "--telegram-url",
                &(self.telegram_url.clone()).unwrap_or_else(|| self.sandbox.telegram.url()),
                "--file-host",
                &fal.file_host(),
            ])
            .args(["--poll-min", "50ms", "--name", "test"])
            .args(more)
            .env_clear()
            .env(
                "REDIS_URL",
                self.redis_url
                    .clone()
                    .unwrap_or_else(|| self.sandbox.redis.url()),
            )
            .env("FAL_WORKER_STATE_DIR", self.state_dir())
            // Many run at once; a test that asks says where: the flag beats this.
            .env("FAL_WORKER_LISTEN", "off")
            // Nor does a test wait for turns, unless it is about them: again the flag beats this.
            .env("FAL_WORKER_TELEGRAM_RATE", "off")
            // Most tests count what reaches Telegram; those of signs of life ask for them by the flag.
            .env("FAL_WORKER_PROGRESS", "off")
            .env("FAL_KEY", fal.key())
            .env("TELEGRAM_BOT_TOKEN", self.sandbox.telegram.token())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// The step file of this instance or, with `writes`, its journal.
    pub fn step_file(&self, instance: &str, end: &str) -> PathBuf {
        let folder = self.state_dir().join("fal");
        folder.join(format!("{instance}.{end}"))
    }

    /// Where daemons of this world keep their step files: all on one host.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The step files that lie there now.
    pub fn step_files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.state_dir().join("fal"));
        files
            .map(|files| files.flatten().map(|file| file.path()).collect())
            .unwrap_or_default()
    }

    /// Starts a daemon with more arguments and variables; does not wait.
    pub fn spawn(&mut self, more: &[&str], variables: &[(&str, &str)]) -> Daemon {
        let mut command = self.command(more);
        command.envs(variables.iter().copied());
        let program = command.get_program().to_owned();
        self.spawn_by(&[&program], &command)
    }

    /// Starts a daemon of another program, such as an older version, with this world's settings; does not wait.
    pub fn spawn_program(&mut self, program: &str, more: &[&str]) -> Daemon {
        self.spawn_by(&[OsStr::new(program)], &self.command(more))
    }

    /// Starts a daemon none of whose files grows beyond so many bytes: as if the disk were full.
    pub fn spawn_on_a_full_disk(&mut self, more: &[&str], bytes: usize) -> Daemon {
        self.spawn_after(&format!("trap '' XFSZ; ulimit -f {}", bytes / 512), more)
    }

    /// Starts a daemon that may have so much address space: too little for the stacks of many threads.
    pub fn spawn_in_little_memory(&mut self, more: &[&str], mib: usize) -> Daemon {
        // Of one heap, or each of the first threads would take 64 MiB for its own.
        let limits = format!("export MALLOC_ARENA_MAX=1; ulimit -v {}", mib << 10);
        self.spawn_after(&limits, more)
    }

    /// Starts a daemon that may have so many files open, and may allow itself so many.
    pub fn spawn_with_few_files(&mut self, more: &[&str], soft: u32, hard: u32) -> Daemon {
        self.spawn_after(&format!("ulimit -Sn {soft}; ulimit -Hn {hard}"), more)
    }

    /// Starts a daemon that logs into a named pipe.
    pub fn spawn_logging_to(&mut self, pipe: &Path, more: &[&str]) -> Daemon {
        self.spawn_after(&format!("exec 2>'{}'", pipe.display()), more)
    }

    /// Starts a daemon that may have so much address space, where each thread that asks for no size of its stack gets
    /// so much of it; both in MiB.
    pub fn spawn_with_large_stacks(&mut self, more: &[&str], stack: usize, all: usize) -> Daemon {
        let limits = format!(
            "export MALLOC_ARENA_MAX=1 RUST_MIN_STACK={}; ulimit -v {}",
            stack << 20,
            all << 10
        );
        self.spawn_after(&limits, more)
    }

    /// Starts a daemon as a user of its own who may have so many threads and read this program. Only root may do that.
    pub fn spawn_with_few_threads(
        &mut self,
        program: &Path,
        more: &[&str],
        threads: u32,
    ) -> Daemon {
        let mut like = self.command(more);
        like.env("FAL_WORKER_STATE_DIR", "off"); // ours is not theirs
        let (user, limit) = (
            format!("--reuid={}", 64_000 + threads),
            format!("--nproc={threads}"),
        );
        let words = ["setpriv", &user, "--clear-groups", "prlimit", &limit, "--"];
        let words = [&words.map(OsStr::new)[..], &[program.as_os_str()]].concat();
        self.spawn_by(&words, &like)
    }

    /// Starts a daemon in the place of a shell that has set limits.
    fn spawn_after(&mut self, limits: &str, more: &[&str]) -> Daemon {
        let command = self.command(more);
        let program = command.get_program().to_owned();
        let script = format!("{limits}; exec \"$0\" \"$@\"");
        let shell = ["/bin/sh", "-c", &script].map(OsStr::new);
        self.spawn_by(&[shell[0], shell[1], shell[2], &program], &command)
    }

    /// Starts these words with the arguments and variables of `like`. The daemon does not outlive the tests, even
    /// when they are killed: it would ask at its Redis's port for ever, and take the jobs of whoever got that port.
    fn spawn_by(&mut self, words: &[&OsStr], like: &Command) -> Daemon {
        let setpriv = Path::new("/usr/bin/setpriv");
        let mut all = words.to_vec();
        if setpriv.exists() {
            all.splice(
                0..0,
                [
                    setpriv.as_os_str(),
                    OsStr::new("--pdeathsig"),
                    OsStr::new("KILL"),
                ],
            );
        }
        let mut command = Command::new(all[0]);
        command.args(&all[1..]).args(like.get_args()).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let variables = like.get_envs();
        command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
        self.spawn_command(command)
    }

    /// Starts a command that is, or becomes, a daemon of this world.
    pub fn spawn_command(&mut self, mut command: Command) -> Daemon {
        self.daemons += 1;
        let log = self
            .folder
            .path()
            .join(format!("daemon-{}.log", self.daemons));
        let file = fs::File::create(&log).unwrap();
        command.stderr(file);
        let (child, nurse) = spawn_from_own_thread(command).unwrap();
        Daemon {
            child,
            log,
            _nurse: nurse,
        }
    }

    /// What all daemons of this world logged so far.
    pub fn logs(&self) -> String {
        let log = |number| self.folder.path().join(format!("daemon-{number}.log"));
        let logs = (1..=self.daemons).map(|number| fs::read(log(number)).unwrap_or_default());
        logs.map(|log| String::from_utf8_lossy(&log).into_owned())
            .collect()
    }

    /// Another command of the program, for this world's Redis.
    pub fn cli(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fal-worker"));
        command
            .args(args)
            .env_clear()
            .env("REDIS_URL", self.sandbox.redis.url())
            .stdin(Stdio::null());
        command
    }

    /// SIGKILL for Redis once all that it acknowledged is in its file. Without the order a Redis that is still
    /// busy with the fsync of `everysec` keeps acknowledged writes to itself for up to two seconds.
    pub fn kill_redis(&mut self) {
        let _: String = self.redis(&["CONFIG", "SET", "appendfsync", "always"]);
        self.sandbox.redis.kill();
    }

    /// From now on the test looks at this server, such as the master after a failover.
    pub fn look_at(&mut self, url: &str) {
        self.looked_at = Some(url.to_owned());
        self.con = connect(url);
    }

    /// The name of a key in this world's namespace.
    fn key(&self, name: &str) -> String {
        match name.strip_prefix("fal:") {
            Some(rest) => format!("{}:{rest}", self.namespace),
            None => name.to_owned(),
        }
    }

    /// One command on Redis, as a person would type it: `redis(&["LLEN", "fal:inbox"])`.
    pub fn redis<T: FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut cmd = redis::cmd(words[0]);
        for word in &words[1..] {
            cmd.arg(self.key(word));
        }
        match cmd.query(&mut self.con) {
            Ok(value) => value,
            Err(error) if error.code().is_none() => {
                // Redis was restarted by the test.
                let url = self.looked_at.clone();
                self.con = connect(&url.unwrap_or_else(|| self.sandbox.redis.url()));
                cmd.query(&mut self.con)
                    .unwrap_or_else(|error| panic!("{words:?}: {error}"))
            }
            Err(error) => panic!("{words:?}: {error}"),
        }
    }

    /// Pushes one entry.
    pub fn push(&mut self, entry: impl AsRef<[u8]>) {
        self.push_all(&[entry]);
    }

    /// Pushes many entries in one go, the first one first.
    pub fn push_all<E: AsRef<[u8]>>(&mut self, entries: &[E]) {
        // A Redis that the test restarted has left a broken connection behind.
        let _: String = self.redis(&["PING"]);
        let mut pipe = redis::pipe();
        for entry in entries {
            pipe.cmd("LPUSH")
                .arg(self.key("fal:inbox"))
                .arg(entry.as_ref())
                .ignore();
        }
        let _: () = pipe.query(&mut self.con).unwrap();
    }

    /// The record of a job; empty when there is none.
    pub fn record(&mut self, id: &str) -> BTreeMap<String, String> {
        self.redis(&["HGETALL", &format!("fal:job:{id}")])
    }

    /// Its state; empty when there is no record.
    pub fn state(&mut self, id: &str) -> String {
        self.redis::<Option<String>>(&["HGET", &format!("fal:job:{id}"), "state"])
            .unwrap_or_default()
    }

    /// Waits until a job is in a state and gives its record.
    pub fn wait_state(&mut self, id: &str, state: &str) -> BTreeMap<String, String> {
        eventually(
            SOON,
            || self.record(id),
            |record| record.get("state").is_some_and(|now| now == state),
        )
    }

    /// Waits until all jobs have ended, one way or the other; gives the states.
    pub fn wait_ended(&mut self, ids: &[String], within: Duration) -> Vec<String> {
        let look =
            |world: &mut World| -> Vec<String> { ids.iter().map(|id| world.state(id)).collect() };
        eventually(
            within,
            || look(self),
            |states| {
                states
                    .iter()
                    .all(|state| matches!(state.as_str(), "done" | "dead" | "cancelled"))
            },
        )
    }

    /// All events, oldest first, each as a map with its stream id under `_id`.
    pub fn events(&mut self) -> Vec<BTreeMap<String, String>> {
        type Row = (String, Vec<(String, String)>);
        let rows: Vec<Row> = self.redis(&["XRANGE", "fal:events", "-", "+"]);
        rows.into_iter()
            .map(|(id, fields)| fields.into_iter().chain([("_id".to_owned(), id)]).collect())
            .collect()
    }

    /// Events of one job, by name.
    pub fn events_of(&mut self, id: &str) -> Vec<BTreeMap<String, String>> {
        self.events()
            .into_iter()
            .filter(|event| event.get("job").is_some_and(|job| job == id))
            .collect()
    }

    /// What Telegram wanted of silence is over, as if its time had passed.
    pub fn end_silence(&mut self) {
        for key in self.redis::<Vec<String>>(&["KEYS", "fal:rate:*"]) {
            let _: u64 = self.redis(&["DEL", &key]);
        }
    }

    /// A counter of `fal:stats`, such as `resubmitted_after_unknown`.
    pub fn counted(&mut self, name: &str) -> u64 {
        self.redis::<Option<u64>>(&["HGET", "fal:stats", name])
            .unwrap_or(0)
    }

    /// Waits until a daemon waits for entries and for the bell: what is pushed now takes the usual way.
    pub fn wait_idle(&mut self) {
        eventually(
            SOON,
            || self.redis::<String>(&["CLIENT", "LIST"]),
            |list| list.contains("cmd=brpop ") && list.contains("cmd=brpoplpush"),
        );
    }

    /// Waits until a record has this value in this field.
    pub fn wait_field(&mut self, id: &str, field: &str, value: &str) {
        eventually(
            SOON,
            || self.record(id),
            |record| record.get(field).is_some_and(|now| now == value),
        );
    }

    /// Waits until fal's request id of a job is recorded.
    pub fn wait_submitted(&mut self, id: &str) -> String {
        eventually(
            SOON,
            || self.record(id),
            |record| record.contains_key("request_id"),
        )
        .remove("request_id")
        .unwrap()
    }

    /// What an instance holds: job id to token.
    pub fn claims(&mut self, instance: &str) -> BTreeMap<String, String> {
        self.redis(&["HGETALL", &format!("fal:claims:{instance}")])
    }

    /// Makes an instance look as if it ran on another machine: whether its process lives cannot be seen.
    pub fn as_if_on_another_host(&mut self, instance: &str) {
        let _: u64 = self.redis(&[
            "HSET",
            &format!("fal:worker:{instance}"),
            "boot",
            "elsewhere",
        ]);
    }

    /// Asserts what must hold at the end of every test: nothing in flight, no claim, list entry or slot
    /// left over, every ended job ended once, no violation seen by a stand-in.
    pub fn assert_clean(&mut self) {
        self.assert_nothing_left();
        self.assert_no_violations();
    }

    /// The same where a daemon was killed: its successor may look at the status of a request whose result
    /// the dead one had read already.
    pub fn assert_clean_after_kills(&mut self) {
        self.assert_nothing_left();
        let strange = self.violations();
        let strange: Vec<_> = strange
            .iter()
            .filter(|text| !text.starts_with("poll-after-result"))
            .collect();
        assert!(strange.is_empty(), "violations: {strange:#?}");
    }

    fn assert_nothing_left(&mut self) {
        for list in [
            "fal:inbox",
            "fal:ready:resume",
            "fal:ready:high",
            "fal:ready:default",
            "fal:ready:low",
        ] {
            assert_eq!(self.redis::<u64>(&["LLEN", list]), 0, "{list} is not empty");
        }
        for pattern in ["fal:claims:*", "fal:taken:*"] {
            let left: Vec<String> = self.redis(&["KEYS", pattern]);
            assert!(left.is_empty(), "left over: {left:?}");
        }
        // Each life has one end: those that a retry began say which they are.
        let mut ends: BTreeMap<String, usize> = BTreeMap::new();
        let mut lives: BTreeMap<String, usize> = BTreeMap::new();
        for event in self.events() {
            let is_end = matches!(event["event"].as_str(), "done" | "failed" | "cancelled");
            let counted = match event.contains_key("life") {
                true => &mut lives,
                false if is_end => &mut ends,
                false => continue,
            };
            *counted.entry(event["job"].clone()).or_default() += 1;
        }
        let lives = |job: &String| 1 + lives.get(job).copied().unwrap_or(0);
        let twice: Vec<_> = ends
            .iter()
            .filter(|(job, ends)| **ends != lives(job))
            .collect();
        assert!(twice.is_empty(), "ended more than once: {twice:?}");
    }

    /// Asserts that no stand-in saw what a correct client never does.
    pub fn assert_no_violations(&self) {
        let strange = self.violations();
        assert!(strange.is_empty(), "violations: {strange:#?}");
    }

    fn violations(&self) -> Vec<String> {
        self.sandbox
            .fal
            .violations()
            .into_iter()
            .chain(self.sandbox.telegram.violations())
            .chain(self.sandbox.fal.key_leaks())
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Daemons are declared behind their world, and so are dropped, by a kill, before it.
        let mut wrong = Vec::new();
        if !std::thread::panicking() {
            if self.not_audited.is_none() {
                wrong = self.findings();
            }
            if wrong.is_empty() {
                return;
            }
        }
        self.print_all();
        assert!(wrong.is_empty(), "the auditor found: {wrong:#?}");
    }
}

impl World {
    /// Logs, ledger and journal, for whoever looks for the cause.
    fn print_all(&self) {
        for number in 1..=self.daemons {
            let path = self.folder.path().join(format!("daemon-{number}.log"));
            let text = fs::read_to_string(&path).unwrap_or_default();
            let from = text.len().saturating_sub(4000);
            let from = (from..text.len())
                .find(|at| text.is_char_boundary(*at))
                .unwrap_or(0);
            eprintln!("---- {} (its end)\n{}", path.display(), &text[from..]);
        }
        let submits = self.sandbox.fal.submits();
        eprintln!("---- fal saw {} submits; the last:", submits.len());
        for submit in submits.iter().rev().take(10) {
            eprintln!("{submit:?}");
        }
        eprintln!("---- the end of Telegram's journal");
        for entry in self.sandbox.telegram.journal().iter().rev().take(10) {
            eprintln!(
                "{} chat={:?} {} {}",
                entry.method, entry.chat, entry.status, entry.description
            );
        }
    }
}

/// How often logs say this of a job, by job: in a line of its own, or in one for many that were held back.
pub fn said<'a>(logs: &'a str, sentence: &str) -> BTreeMap<&'a str, usize> {
    let (own, together) = (
        format!(" {sentence} job="),
        format!(" lines held back of=\"{sentence}\" "),
    );
    let mut said = BTreeMap::new();
    for line in logs.lines() {
        let jobs = if let Some((_, behind)) = line.split_once(&own) {
            behind.split(' ').next().unwrap_or_default()
        } else if line.contains(&together) {
            let (_, behind) = line.split_once(" jobs=").unwrap_or_default();
            behind.trim_matches('"')
        } else {
            continue;
        };
        for id in jobs.split(' ') {
            *said.entry(id).or_default() += 1;
        }
    }
    said
}

impl Daemon {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it logged so far.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The instance it calls itself in the line `ready`.
    pub fn instance(&self) -> String {
        let log = self.log_text();
        let behind = log.split(" ready instance=").nth(1).unwrap_or_default();
        behind
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    /// How often its log holds a text.
    pub fn logged(&self, text: &str) -> usize {
        self.log_text().matches(text).count()
    }

    /// Waits until its log holds a text.
    pub fn wait_log(&self, text: &str) {
        eventually(SOON, || self.log_text(), |log| log.contains(text));
    }

    /// Sends a signal by name, such as `TERM` or `STOP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.pid().to_string()])
            .status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "could not send SIG{name}"
        );
        if name == "STOP" {
            // The kernel stops the threads one by one: a test that goes on before the last races with it.
            let stopped = |task: &PathBuf| {
                let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
                stat.rsplit_once(')')
                    .is_none_or(|(_, behind)| behind.trim_start().starts_with('T'))
            };
            let tasks = || -> Vec<PathBuf> {
                let folder = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
                folder.flatten().map(|task| task.path()).collect()
            };
            eventually(SOON, tasks, |tasks| tasks.iter().all(stopped));
        }
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGKILL, and waits for the process to be gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended; its exit code then, `None` for a signal.
    pub fn ended(&mut self) -> Option<Option<i32>> {
        let status = self.child.try_wait().unwrap();
        status.map(|status| status.code())
    }

    /// SIGTERM; gives the exit code once it has ended.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait_exit(SOON)
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end; gives the exit code (`None`: ended by a signal).
    pub fn wait_exit(&mut self, within: Duration) -> Option<i32> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(
                Instant::now() < deadline,
                "the daemon did not end within {within:?}:\n{}",
                self.log_text()
            );
            std::thread::yield_now();
            std::thread::sleep(Duration::from_millis(2)); // a look at a condition, with a deadline
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

fn connect(url: &str) -> Connection {
    let client = redis::Client::open(url).unwrap();
    let deadline = Instant::now() + SOON;
    loop {
        match client.get_connection() {
            Ok(con) => return con,
            Err(error) => assert!(Instant::now() < deadline, "redis does not answer: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5)); // a look at a condition, with a deadline
    }
}

/// Looks again and again until what is seen is right; panics with the last thing seen.
#[track_caller]
pub fn eventually<T: Debug>(
    within: Duration,
    mut look: impl FnMut() -> T,
    right: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        let seen = look();
        if right(&seen) {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "not within {within:?}; last seen: {seen:#?}"
        );
        std::thread::sleep(Duration::from_millis(5)); // a look at a condition, with a deadline
    }
}

/// Builder of a job entry with good defaults: `job("a").chat(7).json()`.
#[derive(Clone, Debug)]
pub struct Job(Value);

/// A job of `fal-ai/flux/dev` without a chat; its id stands in its prompt.
pub fn job(id: &str) -> Job {
    Job(
        json!({"id": id, "model": "fal-ai/flux/dev", "input": {"prompt": format!("prompt of {id}.")}}),
    )
}

impl Job {
    /// Another model.
    pub fn model(mut self, model: &str) -> Job {
        self.0["model"] = json!(model);
        self
    }

    /// Delivers to this chat.
    pub fn chat(mut self, chat: i64) -> Job {
        self.0["telegram"]["chat_id"] = json!(chat);
        self
    }

    /// Sets any top-level member.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Job {
        self.0[name] = value.into();
        self
    }

    /// Sets a member of `telegram`.
    pub fn telegram(mut self, name: &str, value: impl Into<Value>) -> Job {
        self.0["telegram"][name] = value.into();
        self
    }

    /// The entry.
    pub fn json(&self) -> String {
        self.0.to_string()
    }
}

/// Submits that fal accepted for one job of [`job`].
pub fn submits_of(world: &World, id: &str) -> usize {
    world
        .sandbox
        .fal
        .submits_for(&format!("prompt of {id}."))
        .len()
}
