//! What polling costs on the wire: polls a job and the time between the end at fal and the poll that sees
//! it, of a daemon that learns and one with fixed polling, both at once on the same generation times. Then whether
//! a burst looks in step.
//! Prints figures and judges nothing.
//!
//! `cargo bench --bench polls` (about five minutes), or `cargo bench --bench polls -- JOBS MEDIAN_MS...`.

use fal_worker::sandbox::Sandbox;
use fal_worker::sandbox::fal::{Outcome, Script};
use redis::Connection;
use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Jobs of each model before it counts as known.
const FIRST: usize = 9;
const SIGMA: f64 = 0.25;

fn main() {
    let numbers: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let jobs = numbers.first().map_or(40, |jobs| *jobs as usize);
    let medians = match numbers.get(1..) {
        Some(medians) if !medians.is_empty() => medians.to_vec(),
        _ => vec![1000, 8000, 20_000, 60_000],
    };
    let runs = [
        ("learns", ["--poll-min", "250ms", "--poll-max", "5s"]),
        ("each second", ["--poll-min", "1s", "--poll-max", "1s"]),
    ];
    println!(
        "polling      generation     jobs  polls a job  delay: mean      p50      p99    worst"
    );
    std::thread::scope(|scope| {
        let threads: Vec<_> = runs
            .iter()
            .map(|(name, flags)| scope.spawn(|| run(name, flags, &medians, jobs)))
            .collect();
        for thread in threads {
            print!("{}", thread.join().expect("a run"));
        }
    });
    burst();
}

/// A thousand jobs of a model that is known, all at once: the looks of each tenth of a second.
fn burst() {
    const JOBS: u64 = 1000;
    let sandbox = Sandbox::start().expect("sandbox");
    let (least, most) = (Duration::from_secs(6), Duration::from_secs(11));
    sandbox.fal.set_generation(least, most);
    let mut con = redis::Client::open(sandbox.redis.url())
        .and_then(|client| client.get_connection())
        .expect("redis");
    let _daemon = Daemon::start(&sandbox, &["--poll-min", "250ms", "--poll-max", "5s"]);
    let mut ended = 0;
    let mut push = |jobs: u64| {
        let entry = r#"{"model":"fal-ai/flux/dev","input":{"prompt":"x"}}"#;
        let mut cmd = redis::cmd("LPUSH");
        cmd.arg("fal:inbox");
        for _ in 0..jobs {
            cmd.arg(entry);
        }
        let () = cmd.query(&mut con).expect("push");
        ended += jobs;
        ended
    };
    for _ in 0..4 {
        let ended = push(8);
        wait_for(|| sandbox.fal.totals().results >= ended);
    }
    let before = sandbox.fal.totals();
    let (ended, began) = (push(JOBS), Instant::now());
    let mut counts = vec![(Duration::ZERO, 0)];
    while sandbox.fal.totals().results < ended {
        assert!(began.elapsed() < Duration::from_secs(120), "not all ended");
        std::thread::sleep(Duration::from_millis(100)); // the pace of the counting
        let now = sandbox.fal.totals();
        let looks = now.polls + now.results - before.polls - before.results;
        counts.push((began.elapsed(), looks));
    }
    let looks = counts.last().map_or(0, |(_, looks)| *looks);
    let middle = looks / 20..=looks * 19 / 20;
    let a_tenth: Vec<f64> = counts
        .windows(2)
        .filter(|two| middle.contains(&two[0].1) && middle.contains(&two[1].1))
        .map(|two| (two[1].1 - two[0].1) as f64 / (two[1].0 - two[0].0).as_secs_f64() / 10.0)
        .collect();
    let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len().max(1) as f64;
    let around = |at: usize| mean(&a_tenth[at.saturating_sub(5)..(at + 6).min(a_tenth.len())]);
    let ratios = (a_tenth.iter().enumerate()).map(|(at, some)| some / around(at));
    println!(
        "\n{JOBS} equal jobs of 6 to 11 s at once: {:.1} looks a job; in 100 ms {:.0} on average and {:.0} at most, \
         which is never more than {:.2} of the second around it",
        looks as f64 / JOBS as f64,
        mean(&a_tenth),
        a_tenth.iter().copied().fold(0.0, f64::max),
        ratios.fold(0.0, f64::max)
    );
}

/// One daemon, all models at once: first those that teach it, then those that count, which come evenly.
fn run(name: &str, flags: &[&str], medians: &[u64], jobs: usize) -> String {
    let sandbox = Sandbox::start().expect("sandbox");
    let mut con = redis::Client::open(sandbox.redis.url())
        .and_then(|client| client.get_connection())
        .expect("redis");
    let _daemon = Daemon::start(&sandbox, flags);
    let mut rng = fastrand::Rng::with_seed(1);
    let slowest = *medians.iter().max().expect("a median");
    let mut sent = 0;
    let mut push = |con: &mut Connection, median: u64| {
        let (u, v) = (1.0 - rng.f64(), rng.f64());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        let takes = Duration::from_millis(median).mul_f64((SIGMA * normal).exp());
        let model = model(median);
        // The time of a generation is drawn at its submit.
        sandbox
            .fal
            .model(&model, Script::new(Outcome::Images(1)).taking(takes));
        let entry = format!(r#"{{"model":"{model}","input":{{"prompt":"x"}}}}"#);
        let () = redis::cmd("LPUSH")
            .arg("fal:inbox")
            .arg(entry)
            .query(con)
            .expect("push");
        sent += 1;
        wait_for(|| sandbox.fal.totals().submits == sent);
    };
    // One after another, as far as that ends within the time of two of the slowest.
    for turn in 0..FIRST {
        for median in medians {
            push(&mut con, *median);
        }
        if turn % 4 == 0 {
            // Jobs that begin apart are generated apart, and each has its own end to learn.
            std::thread::sleep(Duration::from_millis(slowest / 8)); // the pace of the pushes
        }
    }
    let ended = || (sandbox.fal.submits().iter()).all(|submit| submit.fetches > 0);
    wait_for(ended);
    // What others learnt is heard every few seconds; here nobody else is.
    let pause = Duration::from_millis(2 * slowest / jobs.max(1) as u64);
    for _ in 0..jobs {
        for median in medians {
            push(&mut con, *median);
        }
        std::thread::sleep(pause); // the pace of the pushes: the jobs of the figure come evenly, not as a burst
    }
    wait_for(ended);

    // `completed_at` is when the result was there: two exchanges on loopback behind the poll that saw it.
    let seen = completions(&mut con);
    let mut text = String::new();
    let mut all = (0.0, Vec::new());
    for median in medians {
        let of_model = model(*median);
        let counted = (sandbox.fal.submits().into_iter())
            .filter(|submit| submit.model == of_model)
            .skip(FIRST);
        let (mut polls, mut delays) = (0.0, Vec::new());
        for submit in counted {
            let (Some(ended), Some(at)) = (submit.completed, seen.get(&submit.request_id)) else {
                continue;
            };
            polls += f64::from(submit.polls);
            let took = ended.duration_since(submit.at).as_secs_f64() * 1000.0;
            delays.push((at - submit.unix_ms as f64 - took).max(0.0));
        }
        text += &row(
            name,
            &format!("{:.1} s", *median as f64 / 1000.0),
            polls,
            &delays,
        );
        all.0 += polls;
        all.1.extend(delays);
    }
    text + &row(name, "all", all.0, &all.1)
}

fn model(median: u64) -> String {
    format!("fal-ai/takes-{median}/run")
}

fn row(name: &str, what: &str, polls: f64, delays: &[f64]) -> String {
    let mut sorted = delays.to_vec();
    sorted.sort_by(f64::total_cmp);
    let jobs = sorted.len().max(1);
    let at = |part: usize| sorted.get((jobs - 1) * part / 100).copied().unwrap_or(0.0);
    format!(
        "{name:<12} {what:>10} {:>8} {:>12.2} {:>9.0} ms {:>5.0} ms {:>5.0} ms {:>5.0} ms\n",
        sorted.len(),
        polls / jobs as f64,
        sorted.iter().sum::<f64>() / jobs as f64,
        at(50),
        at(99),
        at(100)
    )
}

/// When the result of each request was recorded, ms since 1970.
fn completions(con: &mut Connection) -> HashMap<String, f64> {
    type Row = (String, Vec<(String, String)>);
    let rows: Vec<Row> = redis::cmd("XRANGE")
        .arg("fal:events")
        .arg("-")
        .arg("+")
        .query(con)
        .expect("xrange");
    let mut seen = HashMap::new();
    for (_, fields) in rows {
        let fields: HashMap<String, String> = fields.into_iter().collect();
        if fields
            .get("event")
            .is_some_and(|event| event == "completed")
            && let (Some(request), Some(at)) = (fields.get("request_id"), fields.get("at"))
        {
            seen.insert(request.clone(), at.parse().expect("a time"));
        }
    }
    seen
}

fn wait_for(mut right: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(600);
    while !right() {
        assert!(Instant::now() < deadline, "not within ten minutes");
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Daemon(Child);

impl Daemon {
    fn start(sandbox: &Sandbox, flags: &[&str]) -> Daemon {
        let child = Command::new(env!("CARGO_BIN_EXE_fal-worker"))
            .args([
                "run",
                "--name",
                "bench",
                "--threads",
                "8",
                "--listen",
                "off",
            ])
            .args(["--redis-url", &sandbox.redis.url()])
            .args(["--fal-url", &sandbox.fal.queue_url()])
            .args(["--fal-run-url", &sandbox.fal.run_url()])
            .args(["--fal-storage-url", &sandbox.fal.storage_url()])
            .args(["--telegram-url", &sandbox.telegram.url()])
            .args(["--file-host", &sandbox.fal.file_host()])
            .args(flags)
            .env_clear()
            .env("FAL_WORKER_STATE_DIR", "off")
            .env("FAL_KEY", sandbox.fal.key())
            .env("TELEGRAM_BOT_TOKEN", sandbox.telegram.token())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the daemon");
        Daemon(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
