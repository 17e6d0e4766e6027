//! A load, and what it does to everybody: how fast a backlog is worked off, what the daemon and Redis need
//! for it at most, and how long Redis lets another client wait meanwhile. The short version is a test of
//! the suite, the long one the command `tests/load`.

use fal_worker::sandbox::Sandbox;
use fal_worker::sandbox::child::{WorkerChild, WorkerCommand};
use fal_worker::sandbox::redis::RedisOptions;
use redis::Connection;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What was seen of one load.
pub struct Report {
    /// What was worked off.
    pub what: &'static str,
    pub number: u64,
    pub took: Duration,
    /// The daemon's largest resident memory, and what it had when it was ready, KiB.
    pub daemon_kib: u64,
    pub daemon_idle_kib: u64,
    /// Redis's largest memory, and what it held when everything was pushed and nothing done, bytes.
    pub redis_peak: u64,
    pub redis_pushed: u64,
    /// What another client waited for PING and LPUSH, ms, sorted.
    pub ping: Vec<f64>,
    pub lpush: Vec<f64>,
    /// The longest run of one command inside Redis, microseconds, with its words.
    pub slowest: (u64, String),
    /// What a script takes inside Redis on the average, microseconds.
    pub script_us: f64,
    /// Events in the stream at the end.
    pub events: u64,
}

impl Report {
    pub const HEAD: &'static str = "load                     number  seconds       /s  daemon MiB  redis MiB  \
        ping p50   p99   max ms  lpush p99   max ms  script ms: mean, longest";

    pub fn row(&self) -> String {
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        format!(
            "{:<22} {:>8} {:>8.1} {:>8.0} {:>5.1}->{:<5.1} {:>4.0}->{:<5.0} {:>8.2} {:>5.1} {:>8.1} {:>10.1} {:>8.1}  {:>9.2} {:.1} {}",
            self.what,
            self.number,
            self.took.as_secs_f64(),
            self.number as f64 / self.took.as_secs_f64(),
            mib(self.daemon_idle_kib * 1024),
            mib(self.daemon_kib * 1024),
            mib(self.redis_pushed),
            mib(self.redis_peak),
            percentile(&self.ping, 0.5),
            percentile(&self.ping, 0.99),
            percentile(&self.ping, 1.0),
            percentile(&self.lpush, 0.99),
            percentile(&self.lpush, 1.0),
            self.script_us / 1000.0,
            self.slowest.0 as f64 / 1000.0,
            self.slowest.1,
        )
    }
}

/// Of a sorted list.
pub fn percentile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * part) as usize)
        .copied()
        .unwrap_or(0.0)
}

/// Stand-ins, Redis, and the program to be loaded.
pub struct Load {
    sandbox: Sandbox,
    con: Connection,
}

impl Load {
    pub fn start() -> Load {
        let redis = RedisOptions {
            // Whatever runs for longer than a millisecond is noted by Redis itself.
            extra: [
                "--slowlog-log-slower-than",
                "1000",
                "--slowlog-max-len",
                "1000",
            ]
            .map(String::from)
            .to_vec(),
            ready_within: Duration::from_secs(60),
            ..RedisOptions::default()
        };
        let sandbox = Sandbox::start_with(1, redis).unwrap_or_else(|error| panic!("{error}"));
        sandbox.fal.set_generation(Duration::ZERO, Duration::ZERO);
        let con = connect(&sandbox);
        Load { sandbox, con }
    }

    /// Pushes so many jobs at once, and waits until the daemon has done them all.
    pub fn jobs(mut self, number: u64, threads: u32, within: Duration) -> Report {
        let mut daemon = start_daemon(&self.sandbox, &mut self.con, threads);
        let idle = memory_kib(&daemon);
        let (pushed, began) = self.push(number);
        let probe = Probe::start(&self.sandbox);
        self.wait(within, |con| ended(con) >= number);
        self.report(
            "jobs",
            number,
            began.elapsed(),
            probe,
            &mut daemon,
            idle,
            pushed,
        )
    }

    /// An inbox of so many entries is there before the daemon is; nothing is pulled meanwhile, so that
    /// what is measured is intake alone.
    pub fn inbox(mut self, number: u64, threads: u32, within: Duration) -> Report {
        let paused: u64 = ask(
            &mut self.con,
            &["HSET", "fal:paused", "reason", "a test", "by", "test"],
        );
        assert_eq!(paused, 2);
        let (pushed, _) = self.push(number);
        let probe = Probe::start(&self.sandbox);
        let began = Instant::now();
        let mut daemon = start_daemon(&self.sandbox, &mut self.con, threads);
        let idle = memory_kib(&daemon);
        // The oldest comes in first; most stand in their users' lines then.
        let last = format!("fal:job:load-{}", number - 1);
        self.wait(within, |con| ask::<u64>(con, &["EXISTS", &last]) == 1);
        let took = began.elapsed();
        let left: Vec<u64> = ["fal:inbox", "fal:dead"]
            .iter()
            .zip(["LLEN", "ZCARD"])
            .map(|(key, count)| ask(&mut self.con, &[count, key]))
            .collect();
        assert_eq!(left, [0, 0], "left in the inbox, dead letters");
        self.report(
            "inbox entries",
            number,
            took,
            probe,
            &mut daemon,
            idle,
            pushed,
        )
    }

    /// Pushes, in few commands; gives what Redis holds then, and when the first one went out.
    fn push(&mut self, number: u64) -> (u64, Instant) {
        let began = Instant::now();
        for from in (0..number).step_by(1000) {
            let mut cmd = redis::cmd("LPUSH");
            cmd.arg("fal:inbox");
            for n in from..number.min(from + 1000) {
                cmd.arg(format!(
                    r#"{{"id":"load-{n}","model":"fal-ai/flux/dev","input":{{"prompt":"a picture of number {n} in the rain, with a long enough prompt","image_size":"square_hd"}},"user_id":{}}}"#,
                    n % 1000
                ));
            }
            let _: u64 = cmd.query(&mut self.con).expect("a push");
        }
        (self.info("memory", "used_memory"), began)
    }

    fn wait(&mut self, within: Duration, mut done: impl FnMut(&mut Connection) -> bool) {
        let deadline = Instant::now() + within;
        while !done(&mut self.con) {
            assert!(Instant::now() < deadline, "not within {within:?}");
            std::thread::sleep(Duration::from_millis(20)); // a look at a condition, with a deadline
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn report(
        &mut self,
        what: &'static str,
        number: u64,
        took: Duration,
        probe: Probe,
        daemon: &mut WorkerChild,
        idle: u64,
        pushed: u64,
    ) -> Report {
        let (ping, lpush) = probe.stop();
        let report = Report {
            what,
            number,
            took,
            daemon_kib: memory_kib(daemon),
            daemon_idle_kib: idle,
            redis_peak: self.info("memory", "used_memory_peak"),
            redis_pushed: pushed,
            ping,
            lpush,
            slowest: self.slowest(),
            script_us: self.script_us(),
            events: ask(&mut self.con, &["XLEN", "fal:events"]),
        };
        daemon.kill();
        report
    }

    fn info(&mut self, section: &str, name: &str) -> u64 {
        let text: String = ask(&mut self.con, &["INFO", section]);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("{name} in {text}"))
    }

    fn script_us(&mut self) -> f64 {
        let text: String = ask(&mut self.con, &["INFO", "commandstats"]);
        let line = text
            .lines()
            .find(|line| line.starts_with("cmdstat_evalsha:"));
        let mean = line.and_then(|line| line.split("usec_per_call=").nth(1)?.split(',').next());
        mean.and_then(|mean| mean.parse().ok())
            .unwrap_or_else(|| panic!("no scripts in {text}"))
    }

    /// Of what the daemon asked: our own pushes and looks are left out.
    fn slowest(&mut self) -> (u64, String) {
        // What a write brings is packed, and no text.
        type Row = (u64, u64, u64, Vec<Vec<u8>>, String, String);
        let rows: Vec<Row> = ask(&mut self.con, &["SLOWLOG", "GET", "-1"]);
        let text = |word: &Vec<u8>| String::from_utf8_lossy(word).into_owned();
        let rows = rows.into_iter().map(|(id, at, micros, words, from, name)| {
            let words: Vec<String> = words.iter().map(text).collect();
            (id, at, micros, words, from, name)
        });
        let own = |words: &[String]| {
            matches!(words[0].as_str(), "INFO" | "SLOWLOG" | "BGSAVE")
                || (words[0] == "LPUSH" && words[1] == "fal:inbox")
        };
        let rows = rows.filter(|row| !own(&row.3));
        rows.max_by_key(|row| row.2)
            .map(|(_, _, micros, words, ..)| {
                let keys = words.iter().filter(|word| word.starts_with("fal:")).take(1);
                let shown: Vec<&str> = words
                    .iter()
                    .take(1)
                    .chain(keys)
                    .map(String::as_str)
                    .collect();
                (micros, shown.join(" "))
            })
            .unwrap_or_default()
    }
}

fn connect(sandbox: &Sandbox) -> Connection {
    let client = redis::Client::open(sandbox.redis.url()).expect("a URL");
    client.get_connection().expect("redis answers")
}

fn ask<T: redis::FromRedisValue>(con: &mut Connection, words: &[&str]) -> T {
    let mut cmd = redis::cmd(words[0]);
    cmd.arg(&words[1..]);
    cmd.query(con)
        .unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Jobs ended, as the minutes of the daemon's own counters say (an hour of them).
fn ended(con: &mut Connection) -> u64 {
    let stats: std::collections::BTreeMap<String, u64> = ask(con, &["HGETALL", "fal:stats"]);
    let ends = stats
        .iter()
        .filter(|(name, _)| name.starts_with("done:") || name.starts_with("failed:"));
    ends.map(|(_, number)| number).sum()
}

/// Somebody else who uses the same Redis.
struct Probe {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<f64>, Vec<f64>)>,
}

impl Probe {
    fn start(sandbox: &Sandbox) -> Probe {
        let mut con = connect(sandbox);
        let ends = Arc::new(AtomicBool::new(false));
        let told = ends.clone();
        let thread = std::thread::spawn(move || {
            let (mut ping, mut lpush) = (Vec::new(), Vec::new());
            let ms = |began: Instant| began.elapsed().as_secs_f64() * 1000.0;
            while !told.load(Ordering::Relaxed) {
                let began = Instant::now();
                let _: String = ask(&mut con, &["PING"]);
                ping.push(ms(began));
                let began = Instant::now();
                let _: u64 = ask(&mut con, &["LPUSH", "somebody:else", "text"]);
                lpush.push(ms(began));
                let _: () = ask(&mut con, &["LTRIM", "somebody:else", "0", "9"]);
                std::thread::sleep(Duration::from_millis(2)); // the pace of the probe
            }
            ping.sort_by(f64::total_cmp);
            lpush.sort_by(f64::total_cmp);
            (ping, lpush)
        });
        Probe { ends, thread }
    }

    fn stop(self) -> (Vec<f64>, Vec<f64>) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().expect("the probe")
    }
}

/// Started, and known to Redis.
fn start_daemon(sandbox: &Sandbox, con: &mut Connection, threads: u32) -> WorkerChild {
    let daemon = WorkerCommand::new(Path::new(env!("CARGO_BIN_EXE_fal-worker")), sandbox)
        .flags(["--name", "load", "--threads", &threads.to_string()])
        .flags([
            "--poll-min",
            "50ms",
            "--telegram-rate",
            "off",
            "--progress",
            "off",
        ])
        .state(&sandbox.redis.folder().join("state"))
        .variable("RUST_LOG", "warn")
        .start()
        .expect("the daemon");
    let deadline = Instant::now() + Duration::from_secs(30);
    while ask::<u64>(con, &["ZCARD", "fal:workers"]) == 0 {
        assert!(Instant::now() < deadline, "the daemon does not start");
        std::thread::sleep(Duration::from_millis(5)); // a look at a condition, with a deadline
    }
    daemon
}

/// The most memory it has had, KiB.
fn memory_kib(daemon: &WorkerChild) -> u64 {
    daemon.usage().expect("/proc").peak_kib
}
