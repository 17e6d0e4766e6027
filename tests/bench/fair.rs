//! What turns between users bring and cost: the wait of a light user beside a heavy one, and what a job
//! costs Redis and the daemon with and without them. Prints figures and judges nothing: the machines differ.
//!
//! `cargo bench --bench fair`, or with other numbers `cargo bench --bench fair -- JOBS ROUNDS`; the part about
//! the submit window alone: `cargo bench --bench fair -- window`; what a job costs alone: `-- cost`.

use fal_worker::sandbox::Sandbox;
use redis::Connection;
use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(300);

fn main() {
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let jobs = numbers.first().copied().unwrap_or(10_000);
    let rounds = numbers.get(1).copied().unwrap_or(5);
    let only = |part: &str| std::env::args().any(|arg| arg == part);
    if !only("cost") {
        window();
        if only("window") {
            return;
        }
        waits();
    }
    costs(jobs, rounds);
}

fn waits() {
    println!("a light user, one job every 200 ms, beside 1000 jobs of a heavy one, four at a time");
    for fair in [false, true] {
        wait_of_the_light(fair);
    }
}

fn costs(jobs: usize, rounds: usize) {
    // In turns, since the machine is never quiet; the best of all rounds is shown.
    for users in ["of one user", "of as many users", "without a user"] {
        println!("{jobs} jobs {users}, 8 threads, the best of {rounds} rounds");
        let mut best: BTreeMap<bool, [f64; 3]> = BTreeMap::new();
        for _ in 0..rounds {
            for fair in [false, true] {
                let now = cost(jobs, users, fair);
                let all = best.entry(fair).or_insert([0.0, f64::MAX, f64::MAX]);
                *all = [all[0].max(now[0]), all[1].min(now[1]), all[2].min(now[2])];
            }
        }
        for (fair, [rate, daemon, redis]) in best {
            println!(
                "  {:<5} {rate:>6.0} jobs/s, CPU of the daemon {daemon:>6.1} us/job, of Redis {redis:>6.1} us/job",
                name(fair)
            );
        }
    }
}

/// An account that runs so many at once.
const SLOTS: usize = 10;

/// A heavy user's backlog at an account of ten slots, two daemons; prints the waits of a light user from coming
/// in until fal runs his job, and the busy share of the slots, from the twentieth second on until the backlog
/// comes to its end.
fn window() {
    let generation = Duration::from_secs(2);
    println!(
        "{SLOTS} slots at fal, generations of 2 s, a light user's job every second beside 400 of a heavy one"
    );
    let runs: [(&str, bool, &[&str]); 4] = [
        ("FIFO", false, &[]),
        ("fair", true, &[]),
        (
            "fair, --fal-concurrency 10",
            true,
            &["--fal-concurrency", "10"],
        ),
        (
            "fair, --fal-concurrency auto",
            true,
            &["--fal-concurrency", "auto"],
        ),
    ];
    for (what, fair, more) in runs {
        let sandbox = Sandbox::start().expect("sandbox");
        sandbox.fal.set_generation(generation, generation);
        sandbox.fal.set_slots(SLOTS);
        let mut con = connect(&sandbox);
        push(&mut con, (0..400).map(|number| entry("heavy", number)));
        let more = [&["--threads", "16", "--poll-max", "500ms"], more].concat();
        let daemons = [0, 1].map(|_| Daemon::start(&sandbox, &more, fair));
        wait_for(LIMIT, || sandbox.fal.totals().running_now > 0);
        let began = Instant::now();
        for number in 0..40 {
            push(&mut con, [entry("light", number)]);
            std::thread::sleep(Duration::from_secs(1)); // the user's pace
        }
        wait_for(LIMIT, || count(&mut con, "done") == 440);
        drop(daemons);
        let submits = sandbox.fal.submits();
        let times = |user: &str, number: usize| {
            let mut cmd = redis::cmd("HMGET");
            cmd.arg(format!("fal:job:{user}-{number}"))
                .arg(&["queued_at", "request_id"]);
            cmd
        };
        let mut waits: Vec<i64> = (0..40)
            .map(|number| {
                let (queued, request): (i64, String) =
                    times("light", number).query(&mut con).expect("hmget");
                let submit = submits.iter().find(|submit| submit.request_id == request);
                let submit = submit.expect("it was submitted");
                let waited = submit.started.expect("it ran").duration_since(submit.at);
                submit.unix_ms as i64 + waited.as_millis() as i64 - queued
            })
            .collect();
        waits.sort_unstable();
        // Until the last request began no slot need be free.
        let last = submits
            .iter()
            .filter_map(|submit| submit.started)
            .max()
            .expect("they ran");
        let (from, to) = (began + Duration::from_secs(20), last);
        let busy: f64 = submits
            .iter()
            .filter_map(|submit| {
                let (start, end) = (submit.started?.max(from), submit.completed?.min(to));
                Some(end.saturating_duration_since(start).as_secs_f64())
            })
            .sum();
        let share = busy / (SLOTS as f64 * to.duration_since(from).as_secs_f64());
        let polls = sandbox.fal.totals().polls as f64 / submits.len() as f64;
        println!(
            "  {what:<30} wait p50 {:>6} ms, p99 {:>6} ms; slots busy {:>5.1} %; {polls:.1} polls a job",
            waits[20],
            waits[39],
            share * 100.0
        );
    }
}

fn name(fair: bool) -> &'static str {
    if fair { "fair" } else { "FIFO" }
}

/// Generations of a tenth of a second, seen by polls a quarter of one apart. Prints the waits from coming in to the start.
fn wait_of_the_light(fair: bool) {
    let sandbox = Sandbox::start().expect("sandbox");
    let generation = Duration::from_millis(100);
    sandbox.fal.set_generation(generation, generation);
    let mut con = connect(&sandbox);
    push(&mut con, (0..1000).map(|number| entry("heavy", number)));
    let daemon = Daemon::start(&sandbox, &["--max-in-flight", "4", "--threads", "4"], fair);
    wait_for(LIMIT, || count(&mut con, "started") > 0);
    for number in 0..50 {
        push(&mut con, [entry("light", number)]);
        std::thread::sleep(Duration::from_millis(200)); // the user's pace
    }
    wait_for(LIMIT, || count(&mut con, "done") == 1050);
    drop(daemon);
    let mut waits: Vec<i64> = (0..50)
        .map(|number| {
            let (queued, started): (i64, i64) = redis::cmd("HMGET")
                .arg(format!("fal:job:light-{number}"))
                .arg(&["queued_at", "started_at"])
                .query(&mut con)
                .expect("hmget");
            started - queued
        })
        .collect();
    waits.sort_unstable();
    println!(
        "  {:<5} wait p50 {} ms, p99 {} ms",
        name(fair),
        waits[25],
        waits[49]
    );
}

/// All jobs are in before the claims begin; generations take no time, nothing is delivered. Gives jobs a
/// second and the CPU of daemon and Redis, us a job.
fn cost(jobs: usize, users: &str, fair: bool) -> [f64; 3] {
    let sandbox = Sandbox::start().expect("sandbox");
    sandbox.fal.set_generation(Duration::ZERO, Duration::ZERO);
    let mut con = connect(&sandbox);
    push(
        &mut con,
        (0..jobs).map(|number| match users {
            "of one user" => entry("heavy", number),
            "without a user" => entry("", number),
            _ => entry(&format!("u{number}"), number),
        }),
    );
    let before = redis_cpu(&mut con);
    let started = Instant::now();
    let daemon = Daemon::start(&sandbox, &["--threads", "8"], fair);
    wait_for(LIMIT, || count(&mut con, "done") == jobs);
    let took = started.elapsed().as_secs_f64();
    let each = 1e6 / jobs as f64;
    let cpu = daemon.cpu().as_secs_f64() * each;
    [
        jobs as f64 / took,
        cpu,
        (redis_cpu(&mut con) - before) * each,
    ]
}

fn entry(user: &str, number: usize) -> String {
    let (id, whose) = match user {
        "" => (format!("nobody-{number}"), String::new()),
        user => (
            format!("{user}-{number}"),
            format!(r#","user_id":"{user}""#),
        ),
    };
    format!(
        r#"{{"id":"{id}","model":"fal-ai/flux/dev","input":{{"prompt":"prompt {number}."}}{whose}}}"#
    )
}

fn push(con: &mut Connection, entries: impl IntoIterator<Item = String>) {
    let mut pipe = redis::pipe();
    for entry in entries {
        pipe.cmd("LPUSH").arg("fal:inbox").arg(entry).ignore();
    }
    let () = pipe.query(con).expect("push");
}

/// Events of this name so far, looked at seldom: the looking itself must not be what is measured.
fn count(con: &mut Connection, name: &str) -> usize {
    std::thread::sleep(Duration::from_millis(100)); // the pace of the looks; the caller has the condition
    let total: usize = redis::cmd("EVAL")
        .arg(
            "local n = 0
             for place = 0, 59 do n = n + (redis.call('HGET', 'fal:stats', 'done:' .. place) or 0) end
             return n",
        )
        .arg(0)
        .query(con)
        .expect("eval");
    if name == "done" {
        return total;
    }
    let workers: Vec<String> = redis::cmd("ZRANGE")
        .arg(&["fal:workers", "0", "-1"])
        .query(con)
        .expect("zrange");
    workers.len()
}

fn wait_for(limit: Duration, mut right: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !right() {
        assert!(Instant::now() < deadline, "not within {limit:?}");
    }
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

fn connect(sandbox: &Sandbox) -> Connection {
    redis::Client::open(sandbox.redis.url())
        .expect("url")
        .get_connection()
        .expect("redis")
}

struct Daemon(Child);

impl Daemon {
    fn start(sandbox: &Sandbox, more: &[&str], fair: bool) -> Daemon {
        let child = Command::new(env!("CARGO_BIN_EXE_fal-worker"))
            .args(["run", "--name", "bench", "--listen", "off"])
            .args(["--state-dir", "off", "--keep-done", "1h"])
            .args(["--fair", if fair { "on" } else { "off" }])
            .args(["--redis-url", &sandbox.redis.url()])
            .args(["--fal-url", &sandbox.fal.queue_url()])
            .args(["--file-host", &sandbox.fal.file_host()])
            .args(more)
            .env_clear()
            .env("FAL_KEY", sandbox.fal.key())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the daemon");
        Daemon(child)
    }

    /// User and system time so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("stat");
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .expect("a name")
            .1
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11..=12]
            .iter()
            .map(|ticks| ticks.parse::<u64>().expect("ticks"))
            .sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
