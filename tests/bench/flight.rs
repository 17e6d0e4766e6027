//! Thousands in flight on sixteen threads: what they take in memory and threads, and whether all of them
//! arrive, once and in time. Steady arrivals, and all at once.

use crate::common::{Bench, Rows, mib, number, part};
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

/// What is in flight at once, and how long a generation takes.
struct Load {
    held: u64,
    generation: Duration,
    /// Jobs arrive evenly over so many generations; 0: all at once.
    generations: u32,
}

pub fn run() {
    let generation = Duration::from_secs(number("--generation", 30));
    let held = number("--held", 5000);
    let mut rows = head();
    for generations in [2, 0] {
        let load = Load {
            held,
            generation,
            generations,
        };
        row(&mut rows, &load);
    }
    rows.print("In flight: 16 threads");
}

pub fn long() {
    let load = Load {
        held: number("--held", 20_000),
        generation: Duration::from_secs(number("--generation", 120)),
        generations: 2,
    };
    let mut rows = head();
    row(&mut rows, &load);
    rows.print("In flight, long: 16 threads");
}

fn head() -> Rows {
    Rows::new(&[
        "arrivals",
        "jobs",
        "most at fal",
        "peak MiB",
        "threads",
        "paid",
        "shown",
        "polls/job",
        "COMPLETED to poll p50 s",
        "p99",
        "poll to message p50 ms",
        "p99",
        "latest step ms: each s p50",
        "worst",
        "CPU us/exchange",
    ])
}

fn row(rows: &mut Rows, load: &Load) {
    let mut bench = Bench::start();
    bench.sandbox.telegram.keep_journal(true);
    bench
        .sandbox
        .fal
        .set_generation(load.generation, load.generation);
    let log = tempfile::tempfile().expect("a file");
    let most = (load.held * 2).to_string();
    let daemon = {
        let log = log.try_clone().expect("a file");
        let flags = ["--max-in-flight", most.as_str()];
        bench.daemon_with_log(16, &flags, log)
    };
    bench.wait_ready(1);
    let began = Instant::now();
    let jobs = load.held * u64::from(load.generations.max(1));
    let rate = load.held as f64 / load.generation.as_secs_f64();
    let (mut pushed, mut at_fal, mut threads) = (0, 0, Vec::new());
    while bench.sandbox.telegram.sends_count() < jobs {
        assert!(
            began.elapsed() < load.generation * (load.generations + 4) + Duration::from_secs(120)
        );
        let due = match load.generations {
            0 => jobs,
            _ => jobs.min((began.elapsed().as_secs_f64() * rate) as u64),
        };
        bench.push(pushed..due);
        pushed = due;
        let totals = bench.sandbox.fal.totals();
        at_fal = at_fal.max(totals.queued_now + totals.running_now);
        if at_fal > 0 {
            threads.push(daemon.usage().expect("/proc").threads);
        }
        std::thread::sleep(Duration::from_millis(20)); // the pace of the pushes
    }
    bench.wait_sent(jobs);
    let used = daemon.usage().expect("/proc");
    let sent = bench.sandbox.telegram.journal();
    let submits = bench.sandbox.fal.submits();
    let by_id: std::collections::HashMap<_, _> = submits
        .iter()
        .map(|it| (it.request_id.as_str(), it))
        .collect();
    let (mut seen, mut shown) = (Vec::new(), Vec::new());
    for entry in &sent {
        let photo = entry.args["photo"].as_str().expect("a URL");
        let id = photo
            .split("/files/")
            .nth(1)
            .and_then(|rest| rest.split('/').next());
        let request = by_id[id.expect("an id")];
        let polled = request.polled.expect("a poll");
        seen.push((polled - request.completed.expect("its end")).as_secs_f64());
        shown.push((entry.at - polled).as_secs_f64() * 1000.0);
    }
    let late = late(log);
    let totals = bench.sandbox.fal.totals();
    let exchanges = totals.submits + totals.polls + totals.results + sent.len() as u64;
    let cells = [
        match load.generations {
            0 => format!("all at once, {} s", load.generation.as_secs()),
            _ => format!("{rate:.0}/s, {} s", load.generation.as_secs()),
        },
        jobs.to_string(),
        at_fal.to_string(),
        format!("{:.1}", mib(used.peak_kib)),
        format!(
            "{}-{}",
            threads.iter().min().unwrap(),
            threads.iter().max().unwrap()
        ),
        totals.submits.to_string(),
        bench.sandbox.telegram.sends_count().to_string(),
        format!("{:.1}", totals.polls as f64 / jobs as f64),
        format!("{:.2}", part(&seen, 0.5)),
        format!("{:.2}", part(&seen, 0.99)),
        format!("{:.1}", part(&shown, 0.5)),
        format!("{:.0}", part(&shown, 0.99)),
        format!("{:.0}", part(&late, 0.5)),
        format!("{:.0}", part(&late, 1.0)),
        format!("{:.1}", used.cpu.as_secs_f64() * 1e6 / exchanges as f64),
    ];
    rows.row(cells);
}

/// How far behind its due time the latest step of each second began, as the daemon's debug lines say.
fn late(mut log: File) -> Vec<f64> {
    use std::io::Seek as _;
    let mut text = String::new();
    log.rewind().expect("its beginning");
    log.read_to_string(&mut text).expect("the log");
    text.lines()
        .filter_map(|line| line.split("late_ms=").nth(1)?.trim().parse().ok())
        .collect()
}
