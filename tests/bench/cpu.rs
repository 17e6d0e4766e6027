//! CPU a job beside the floor's: a backlog of jobs whose generations take no time, delivered by URL.

use crate::common::{Bench, PROGRAM, Rows, median, mib, number, us_each};
use crate::floor::{self, Keeps};
use std::path::PathBuf;
use std::time::Instant;

/// Jobs before those that count: the first looks at a model that nobody knows are many.
const WARM: u64 = 500;

/// What one run showed.
#[derive(Default)]
struct Seen {
    cpu_us: Vec<f64>,
    rate: Vec<f64>,
    redis_us: Vec<f64>,
    trips: Vec<f64>,
    polls: Vec<f64>,
    peak: Vec<f64>,
    connections: Vec<f64>,
}

pub fn run() {
    let (jobs, threads) = (number("--jobs", 8000), number("--threads", 8));
    let rounds = number("--rounds", 5);
    let mut programs = vec![("worker".to_owned(), PathBuf::from(PROGRAM), true)];
    let args: Vec<String> = std::env::args().collect();
    for pair in args.windows(2).filter(|pair| pair[0] == "--against") {
        let name = PathBuf::from(&pair[1]);
        let word = name.file_name().unwrap().to_string_lossy().into_owned();
        programs.push((word, name, true));
    }
    if programs.len() == 1 {
        programs.push(("--state-dir off".into(), PathBuf::from(PROGRAM), false));
    }
    let (mut floors, mut records) = (Seen::default(), Seen::default());
    let mut seen: Vec<Seen> = programs.iter().map(|_| Seen::default()).collect();
    for _ in 0..rounds {
        one_floor(&mut floors, Keeps::Values, jobs, threads);
        one_floor(&mut records, Keeps::Records, jobs, threads);
        for ((_, program, step_file), seen) in programs.iter().zip(&mut seen) {
            one(seen, program, *step_file, jobs, threads);
        }
    }
    let mut rows = Rows::new(&[
        "",
        "CPU us/job",
        "of floor's",
        "jobs/s",
        "of floor's",
        "peak MiB",
        "redis us/job",
        "of records'",
        "trips/job",
        "polls/job",
        "connections",
    ]);
    let mut row = |name: &str, seen: &Seen| {
        let ratio = |own: &[f64], floors: &[f64]| {
            let pairs = own.iter().zip(floors).map(|(own, floor)| own / floor);
            format!("{:.2}", median(&pairs.collect::<Vec<_>>()))
        };
        rows.row([
            name.to_owned(),
            format!("{:.1}", median(&seen.cpu_us)),
            ratio(&seen.cpu_us, &floors.cpu_us),
            format!("{:.0}", median(&seen.rate)),
            ratio(&seen.rate, &floors.rate),
            format!("{:.1}", median(&seen.peak)),
            format!("{:.0}", median(&seen.redis_us)),
            ratio(&seen.redis_us, &records.redis_us),
            format!("{:.2}", median(&seen.trips)),
            format!("{:.2}", median(&seen.polls)),
            format!("{:.0}", median(&seen.connections)),
        ]);
    };
    row("floor", &floors);
    row("with records", &records);
    for ((name, ..), seen) in programs.iter().zip(&seen) {
        row(name, seen);
    }
    rows.print(&format!(
        "CPU: {jobs} jobs after {WARM}, {threads} threads, generation 0, photos by URL; medians of {rounds} rounds"
    ));
}

fn one_floor(seen: &mut Seen, keeps: Keeps, jobs: u64, threads: u64) {
    let mut bench = Bench::start();
    let (before, trips) = (bench.redis_cpu(), bench.trips());
    let run = floor::run(&bench.sandbox, keeps, jobs, threads as usize);
    seen.cpu_us.push(us_each(run.cpu, jobs));
    seen.rate.push(jobs as f64 / run.took.as_secs_f64());
    seen.peak.push(mib(run.peak_kib));
    let redis = bench.redis_cpu() - before;
    seen.redis_us.push(us_each(redis, jobs));
    seen.trips.push(match keeps {
        Keeps::Values => 6.0,
        Keeps::Records => (bench.trips() - trips) as f64 / jobs as f64,
    });
    let fal = bench.sandbox.fal.connections().queue;
    seen.connections
        .push((fal + bench.sandbox.telegram.connections()) as f64);
    seen.polls
        .push(bench.sandbox.fal.totals().polls as f64 / jobs as f64);
}

/// What a job costs once the daemon runs and has learnt how long the model takes.
fn one(seen: &mut Seen, program: &std::path::Path, step_file: bool, jobs: u64, threads: u64) {
    let mut bench = Bench::start();
    let daemon = bench.daemon_of(program, step_file, threads, &[]);
    bench.push(0..WARM);
    bench.wait_sent(WARM);
    let polls = bench.sandbox.fal.totals().polls;
    let before = daemon.usage().expect("/proc");
    let (redis, trips) = (bench.redis_cpu(), bench.trips());
    let began = Instant::now();
    bench.push(WARM..WARM + jobs);
    let took = bench.wait_sent(WARM + jobs) - began;
    let used = daemon.usage().expect("/proc");
    seen.cpu_us.push(us_each(used.cpu - before.cpu, jobs));
    seen.rate.push(jobs as f64 / took.as_secs_f64());
    seen.peak.push(mib(used.peak_kib));
    seen.redis_us.push(us_each(bench.redis_cpu() - redis, jobs));
    let trips = bench.trips() - trips;
    seen.trips.push(trips as f64 / jobs as f64);
    let totals = bench.sandbox.fal.totals();
    assert_eq!(totals.submits, WARM + jobs, "paid twice, or not at all");
    seen.polls.push((totals.polls - polls) as f64 / jobs as f64);
    let fal = bench.sandbox.fal.connections().queue;
    seen.connections
        .push((fal + bench.sandbox.telegram.connections()) as f64);
}
