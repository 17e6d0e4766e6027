//! What the parts of the bench share: stand-ins with a daemon of its own, what both have used, rounds,
//! medians and the table.

use comfy_table::{CellAlignment, Table, presets};
use fal_worker::sandbox::Sandbox;
use fal_worker::sandbox::child::{WorkerChild, WorkerCommand};
use fal_worker::sandbox::redis::RedisOptions;
use redis::Connection;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nothing here takes longer without being broken.
pub const LIMIT: Duration = Duration::from_secs(1200);

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_fal-worker");

/// Numbers and words of the command line: `--jobs 5000`.
pub fn number(name: &str, default: u64) -> u64 {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|arg| arg == name);
    at.map_or(default, |at| {
        let text = args.get(at + 1).unwrap_or_else(|| panic!("{name} N"));
        text.parse().unwrap_or_else(|_| panic!("{name}: a number"))
    })
}

/// Stand-ins, a Redis, and no worker yet.
pub struct Bench {
    pub sandbox: Sandbox,
    pub con: Connection,
    folder: tempfile::TempDir,
}

impl Bench {
    pub fn start() -> Bench {
        let redis = RedisOptions {
            ready_within: Duration::from_secs(60),
            ..RedisOptions::default()
        };
        let sandbox = Sandbox::start_with(1, redis).unwrap_or_else(|error| panic!("{error}"));
        sandbox.fal.set_generation(Duration::ZERO, Duration::ZERO);
        // What is looked at here are counts: the two journals would be most of the memory.
        sandbox.telegram.keep_journal(false);
        let con = redis::Client::open(sandbox.redis.url())
            .expect("a URL")
            .get_connection()
            .expect("redis answers");
        Bench {
            sandbox,
            con,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// A daemon with so many threads and these flags, its own limits on sending off, with a step file.
    pub fn daemon(&self, threads: u64, flags: &[&str]) -> WorkerChild {
        self.daemon_of(Path::new(PROGRAM), true, threads, flags)
    }

    /// The same of another program, perhaps without a step file.
    pub fn daemon_of(
        &self,
        program: &Path,
        step_file: bool,
        threads: u64,
        flags: &[&str],
    ) -> WorkerChild {
        let command = self.command(program, threads, flags);
        let command = if step_file {
            command.state(self.folder.path())
        } else {
            command
        };
        command.start().expect("the daemon")
    }

    /// The same with a debug log.
    pub fn daemon_with_log(&self, threads: u64, flags: &[&str], log: std::fs::File) -> WorkerChild {
        self.command(Path::new(PROGRAM), threads, flags)
            .state(self.folder.path())
            .variable("RUST_LOG", "debug")
            .log(log)
            .start()
            .expect("the daemon")
    }

    fn command(&self, program: &Path, threads: u64, flags: &[&str]) -> WorkerCommand {
        let off: &[&str] = if knows("--telegram-rate") {
            &["--telegram-rate", "off", "--progress", "off"]
        } else {
            &[]
        };
        WorkerCommand::new(program, &self.sandbox)
            .flags(["--name", "bench", "--threads", &threads.to_string()])
            .flags(off)
            .flags(flags)
    }

    pub fn ask<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut cmd = redis::cmd(words[0]);
        cmd.arg(&words[1..]);
        cmd.query(&mut self.con)
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Pushes jobs of these numbers.
    pub fn push(&mut self, numbers: std::ops::Range<u64>) {
        let mut from = numbers.start;
        while from < numbers.end {
            let to = numbers.end.min(from + 1000);
            let mut cmd = redis::cmd("LPUSH");
            cmd.arg("fal:inbox");
            for number in from..to {
                cmd.arg(entry(number));
            }
            let _: u64 = cmd.query(&mut self.con).expect("a push");
            from = to;
        }
    }

    /// Until so many messages were sent since the start, and nobody holds a job; gives when the last
    /// message had gone. Redis is not asked before that: the looking must not be measured.
    pub fn wait_sent(&mut self, number: u64) -> Instant {
        self.until(|bench| bench.sandbox.telegram.sends_count() >= number);
        let last = Instant::now();
        let workers: Vec<String> = self.ask(&["ZRANGE", "fal:workers", "0", "-1"]);
        for worker in workers {
            let claims = format!("fal:claims:{worker}");
            self.until(|bench| bench.ask::<u64>(&["HLEN", &claims]) == 0);
        }
        last
    }

    pub fn until(&mut self, mut right: impl FnMut(&mut Bench) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !right(self) {
            assert!(Instant::now() < deadline, "not within {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(2)); // a look at a condition, with a deadline
        }
    }

    /// Registered in Redis: ready.
    pub fn wait_ready(&mut self, daemons: u64) {
        self.until(|bench| bench.ask::<u64>(&["ZCARD", "fal:workers"]) >= daemons);
    }

    /// Messages sent, and polls, since the start.
    pub fn counts(&self) -> (u64, u64) {
        let polls = self.sandbox.fal.totals().polls;
        (self.sandbox.telegram.sends_count(), polls)
    }

    /// CPU of Redis since its start.
    pub fn redis_cpu(&mut self) -> Duration {
        let text: String = self.ask(&["INFO", "cpu"]);
        let seconds = text.lines().filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            matches!(name, "used_cpu_user" | "used_cpu_sys")
                .then(|| value.trim().parse::<f64>().ok())?
        });
        Duration::from_secs_f64(seconds.sum())
    }

    /// Round trips of daemons and floors since the start of Redis: commands beside those inside of scripts and ours.
    pub fn trips(&mut self) -> u64 {
        const OUTSIDE: [&str; 4] = ["evalsha", "brpop", "brpoplpush", "script|load"];
        let text: String = self.ask(&["INFO", "commandstats"]);
        let calls = text.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(':')?;
            let calls = rest.strip_prefix("calls=")?.split(',').next()?;
            OUTSIDE.contains(&name).then(|| calls.parse::<u64>().ok())?
        });
        calls.sum()
    }

    /// Commands that Redis has counted since its start, those that scripts call and this question included.
    pub fn commands(&mut self) -> u64 {
        let text: String = self.ask(&["INFO", "stats"]);
        let number = text.split("total_commands_processed:").nth(1);
        let number = number.and_then(|rest| rest.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .expect("a number")
    }
}

/// Whether this program has the flag.
fn knows(flag: &str) -> bool {
    static HELP: OnceLock<String> = OnceLock::new();
    let help = HELP.get_or_init(|| {
        let output = Command::new(PROGRAM).args(["run", "--help"]).output();
        String::from_utf8_lossy(&output.expect("its help").stdout).into_owned()
    });
    help.contains(flag)
}

/// A job, its result delivered by URL to a chat of its own.
pub fn entry(number: u64) -> String {
    format!(
        r#"{{"id":"job-{number}","model":"fal-ai/flux/dev","input":{{"prompt":"prompt {number}.","image_size":"square_hd"}},"telegram":{{"chat_id":{}}}}}"#,
        1000 + number
    )
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    part(values, 0.5)
}

/// So many hundredths of the values are at most this.
pub fn part(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * part).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

/// Microseconds of each.
pub fn us_each(cpu: Duration, number: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / number.max(1) as f64
}

pub fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// A table with numbers at the right.
pub struct Rows(Table);

impl Rows {
    pub fn new(head: &[&str]) -> Rows {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(head);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        Rows(table)
    }

    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.0.add_row(cells.into_iter().map(Into::into));
    }

    pub fn print(&self, title: &str) {
        println!("\n{title}\n{}", self.0);
    }
}
