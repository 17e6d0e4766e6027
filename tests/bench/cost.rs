//! What one job costs: CPU of the daemon, round trips to Redis, HTTP exchanges and connections, at a
//! backlog and for one job at a time. Prints figures and judges nothing: the machines differ.
//!
//! `cargo bench --bench cost`, or with other numbers `cargo bench --bench cost -- JOBS THREADS`.

use fal_worker::sandbox::Sandbox;
use redis::Connection;
use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

fn main() {
    let numbers: Vec<u32> = std::env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let jobs = numbers.first().copied().unwrap_or(5000);
    let threads = numbers.get(1).copied().unwrap_or(8);
    // Side by side: what the step file costs, in turns, since the machine is never quiet.
    for _ in 0..2 {
        for step_file in [true, false] {
            backlog(jobs, threads, step_file, "off");
        }
    }
    // A turn for each message, at a rate that makes none of them wait.
    backlog(jobs, threads, true, "10000/1s");
    idle();
}

/// All jobs wait before the daemon starts; generations take no time; delivery is by URL.
fn backlog(jobs: u32, threads: u32, step_file: bool, rate: &str) {
    let sandbox = Sandbox::start().expect("sandbox");
    sandbox.fal.set_generation(Duration::ZERO, Duration::ZERO);
    let mut con = connect(&sandbox);
    let mut pipe = redis::pipe();
    for number in 0..jobs {
        pipe.cmd("LPUSH")
            .arg("fal:inbox")
            .arg(entry(number))
            .ignore();
    }
    let () = pipe.query(&mut con).expect("push");
    let before = calls(&mut con);
    let daemon = Daemon::start(&sandbox, threads, step_file, rate);
    let started = Instant::now();
    let done = wait_done(&mut con, jobs, LIMIT);
    let took = started.elapsed();
    let (cpu, resident_kib) = daemon.cpu_and_memory();
    let after = calls(&mut con);
    let redis = redis_cpu(&mut con);
    let file = if step_file { "with" } else { "without" };
    println!(
        "backlog of {jobs} jobs, {threads} threads, generation 0, photos by URL, {file} a step file, --telegram-rate {rate}"
    );
    println!("  done                          {done}");
    println!(
        "  rate                          {:.0} jobs/s",
        f64::from(jobs) / took.as_secs_f64()
    );
    println!(
        "  CPU of the daemon             {:.1} us/job",
        cpu.as_secs_f64() * 1e6 / f64::from(jobs)
    );
    println!(
        "  resident memory               {:.1} MiB",
        resident_kib as f64 / 1024.0
    );
    println!(
        "  round trips to Redis          {:.2} a job",
        trips(&before, &after) as f64 / f64::from(jobs)
    );
    println!(
        "  CPU of Redis since its start  {:.0} us/job",
        redis * 1e6 / f64::from(jobs)
    );
    let totals = sandbox.fal.totals();
    println!(
        "  polls                         {:.2} a job",
        totals.polls as f64 / f64::from(jobs)
    );
    let connections = sandbox.fal.connections();
    println!("  connections to fal's queue    {}", connections.queue);
    println!(
        "  connections to Telegram       {}",
        sandbox.telegram.connections()
    );
    for (name, count) in difference(&before, &after) {
        println!("    {name:<12} {:.3} a job", count as f64 / f64::from(jobs));
    }
}

/// One job after another on an idle daemon.
fn idle() {
    let sandbox = Sandbox::start().expect("sandbox");
    sandbox.fal.set_generation(Duration::ZERO, Duration::ZERO);
    let mut con = connect(&sandbox);
    let daemon = Daemon::start(&sandbox, 8, true, "30/1s");
    wait_for(LIMIT, || {
        let workers: u64 = redis::cmd("ZCARD")
            .arg("fal:workers")
            .query(&mut con)
            .expect("zcard");
        workers == 1
    });
    let (cpu_before, _) = daemon.cpu_and_memory();
    let quiet_before = calls(&mut con);
    std::thread::sleep(Duration::from_secs(5));
    let quiet = trips(&quiet_before, &calls(&mut con));
    let (cpu_after, resident_kib) = daemon.cpu_and_memory();
    let mut pick_up = Vec::new();
    let before = calls(&mut con);
    let rounds = 200;
    for number in 0..rounds {
        let pushed = unix_ms();
        let () = redis::cmd("LPUSH")
            .arg("fal:inbox")
            .arg(entry(number))
            .query(&mut con)
            .expect("push");
        wait_done(&mut con, number + 1, LIMIT);
        let submit = sandbox
            .fal
            .submits_for(&format!("prompt {number}."))
            .pop()
            .expect("a submit");
        pick_up.push(submit.unix_ms as f64 - pushed);
    }
    let after = calls(&mut con);
    pick_up.sort_by(f64::total_cmp);
    println!("\none job at a time on an idle daemon of 8 threads");
    println!(
        "  idle: round trips to Redis    {:.1} a second",
        quiet as f64 / 5.0
    );
    println!(
        "  idle: CPU                     {:.2} ms a second",
        (cpu_after - cpu_before).as_secs_f64() * 200.0
    );
    println!(
        "  idle: resident memory         {:.1} MiB",
        resident_kib as f64 / 1024.0
    );
    println!(
        "  LPUSH to submit, whole ms     median {:.0}, p99 {:.0}",
        pick_up[100], pick_up[197]
    );
    println!(
        "  round trips to Redis          {:.2} a job",
        trips(&before, &after) as f64 / f64::from(rounds)
    );
}

fn entry(number: u32) -> String {
    format!(
        r#"{{"id":"job-{number}","model":"fal-ai/flux/dev","input":{{"prompt":"prompt {number}.","image_size":"square_hd"}},"telegram":{{"chat_id":{}}}}}"#,
        1000 + number
    )
}

/// Calls by command, as Redis counts them; what runs inside scripts is counted too, and left out below.
fn calls(con: &mut Connection) -> BTreeMap<String, u64> {
    let text: String = redis::cmd("INFO")
        .arg("commandstats")
        .query(con)
        .expect("info");
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(':')?;
            Some((
                name.to_owned(),
                rest.strip_prefix("calls=")?
                    .split(',')
                    .next()?
                    .parse()
                    .ok()?,
            ))
        })
        .collect()
}

/// Commands that the daemon sends from outside of scripts while it works.
const OUTSIDE: [&str; 4] = ["evalsha", "brpop", "brpoplpush", "script|load"];

fn difference(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> Vec<(&'static str, u64)> {
    let of = |calls: &BTreeMap<String, u64>, name: &str| calls.get(name).copied().unwrap_or(0);
    OUTSIDE
        .into_iter()
        .map(|name| (name, of(after, name) - of(before, name)))
        .collect()
}

fn trips(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> u64 {
    difference(before, after)
        .into_iter()
        .map(|(_, count)| count)
        .sum()
}

fn redis_cpu(con: &mut Connection) -> f64 {
    let text: String = redis::cmd("INFO").arg("cpu").query(con).expect("info");
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            matches!(name, "used_cpu_user" | "used_cpu_sys").then(|| value.parse::<f64>().ok())?
        })
        .sum()
}

fn wait_done(con: &mut Connection, jobs: u32, limit: Duration) -> u32 {
    let mut done = 0;
    let mut last = "-".to_owned();
    wait_for(limit, || {
        type Row = (String, Vec<(String, String)>);
        let rows: Vec<Row> = redis::cmd("XRANGE")
            .arg("fal:events")
            .arg(&last)
            .arg("+")
            .arg("COUNT")
            .arg(5000)
            .query(con)
            .expect("xrange");
        for (id, fields) in rows {
            let (ms, n) = id.split_once('-').expect("a stream id");
            last = format!("{ms}-{}", n.parse::<u64>().expect("a number") + 1);
            done += u32::from(
                fields
                    .iter()
                    .any(|(name, value)| name == "event" && value == "done"),
            );
        }
        // The looking itself must not be what is measured.
        if done < jobs && jobs > 500 {
            std::thread::sleep(Duration::from_millis(50));
        }
        done % jobs == 0 && done > 0
    });
    done
}

fn wait_for(limit: Duration, mut right: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !right() {
        assert!(Instant::now() < deadline, "not within {limit:?}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn unix_ms() -> f64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock");
    since.as_secs_f64() * 1000.0
}

fn connect(sandbox: &Sandbox) -> Connection {
    redis::Client::open(sandbox.redis.url())
        .expect("url")
        .get_connection()
        .expect("redis")
}

struct Daemon(Child);

impl Daemon {
    fn start(sandbox: &Sandbox, threads: u32, step_file: bool, rate: &str) -> Daemon {
        let folder = std::env::temp_dir().join("fal-worker-bench");
        let folder = if step_file {
            folder.as_os_str()
        } else {
            "off".as_ref()
        };
        let child = Command::new(env!("CARGO_BIN_EXE_fal-worker"))
            .args(["run", "--name", "bench", "--threads", &threads.to_string()])
            .args(["--listen", "off"])
            .args([
                "--redis-url",
                &sandbox.redis.url(),
                "--fal-url",
                &sandbox.fal.queue_url(),
            ])
            .args([
                "--fal-run-url",
                &sandbox.fal.run_url(),
                "--fal-storage-url",
                &sandbox.fal.storage_url(),
            ])
            .args([
                "--telegram-url",
                &sandbox.telegram.url(),
                "--file-host",
                &sandbox.fal.file_host(),
            ])
            .env_clear()
            .env("FAL_WORKER_STATE_DIR", folder)
            .env("FAL_KEY", sandbox.fal.key())
            .env("FAL_WORKER_TELEGRAM_RATE", rate)
            .env("TELEGRAM_BOT_TOKEN", sandbox.telegram.token())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the daemon");
        Daemon(child)
    }

    /// User and system time so far, and resident memory in KiB.
    fn cpu_and_memory(&self) -> (Duration, u64) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("stat");
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .expect("a name")
            .1
            .split_whitespace()
            .collect();
        let ticks =
            fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("status");
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("VmRSS");
        let kib = resident
            .trim()
            .trim_end_matches(" kB")
            .trim()
            .parse()
            .expect("a number");
        (Duration::from_millis(ticks * 10), kib)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
