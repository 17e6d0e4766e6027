//! Whether a job costs the same however many wait behind it, are in flight beside it, or workers share its
//! Redis.

use crate::common::{Bench, Rows, median, number, us_each};
use crate::floor;
use std::time::{Duration, Instant};

pub fn run() {
    backlogs(&[0, 10_000, 100_000]);
    flights(&[10, 1000], Duration::from_secs(20));
}

pub fn long() {
    backlogs(&[0, 10_000, 1_000_000]);
    flights(&[10, 1000, 10_000], Duration::from_secs(60));
}

fn rounds() -> u64 {
    number("--rounds", 3)
}

/// The first jobs of a queue behind which so many more wait, all taken in before: what claims, steps and
/// ends cost.
fn backlogs(behind: &[u64]) {
    let (jobs, threads) = (number("--jobs", 8000), number("--threads", 8));
    let mut seen: Vec<[Vec<f64>; 3]> = behind.iter().map(|_| Default::default()).collect();
    // Those of many minutes once.
    for round in 0..rounds() {
        for (behind, seen) in behind.iter().zip(&mut seen) {
            if round > 0 && *behind > 100_000 {
                continue;
            }
            let mut bench = Bench::start();
            let _: u64 = bench.ask(&["HSET", "fal:paused", "reason", "a bench", "by", "bench"]);
            let daemon = bench.daemon(threads, &[]);
            bench.wait_ready(1);
            bench.push(0..jobs + behind);
            bench.until(|bench| bench.ask::<u64>(&["LLEN", "fal:ready:default"]) >= jobs + behind);
            let (cpu, redis) = (daemon.usage().expect("/proc").cpu, bench.redis_cpu());
            let began = Instant::now();
            let _: u64 = bench.ask(&["DEL", "fal:paused"]);
            bench.until(|bench| bench.sandbox.telegram.sends_count() > 0);
            bench.until(|bench| bench.sandbox.telegram.sends_count() >= jobs);
            let took = began.elapsed();
            let done = bench.sandbox.telegram.sends_count();
            let (cpu, redis) = (
                daemon.usage().expect("/proc").cpu - cpu,
                bench.redis_cpu() - redis,
            );
            seen[0].push(us_each(cpu, done));
            seen[1].push(us_each(redis, done));
            seen[2].push(done as f64 / took.as_secs_f64());
        }
    }
    let mut rows = Rows::new(&[
        "waiting behind them",
        "CPU us/job",
        "redis us/job",
        "jobs/s",
    ]);
    for (behind, [cpu, redis, rate]) in behind.iter().zip(&seen) {
        rows.row([
            behind.to_string(),
            format!("{:.1}", median(cpu)),
            format!("{:.0}", median(redis)),
            format!("{:.0}", median(rate)),
        ]);
    }
    rows.print(&format!(
        "Growth with the backlog: {jobs} jobs, {threads} threads, taken in before"
    ));
}

/// So many in flight all the time: users who each push the next job when they got the last one. A
/// generation takes longer the more there are, so that the jobs a second stay the same, and so do polls
/// a job: they are fixed.
fn flights(held: &[u64], lasting: Duration) {
    let threads = number("--threads", 8);
    let rate = 100; // jobs a second
    let mut rows = Rows::new(&[
        "in flight",
        "jobs",
        "polls/job",
        "CPU us/job",
        "CPU us/exchange",
        "redis us/job",
        "jobs/s",
    ]);
    for held in held {
        let generation = Duration::from_secs_f64(*held as f64 / f64::from(rate));
        let mut bench = Bench::start();
        bench.sandbox.fal.set_generation(generation, generation);
        let poll = format!("{}ms", (generation.as_millis() / 5).max(50));
        let most = (held * 2).to_string();
        let flags = [
            "--poll-min",
            &poll,
            "--poll-max",
            &poll,
            "--max-in-flight",
            &most,
        ];
        let daemon = bench.daemon(threads, &flags);
        bench.wait_ready(1);
        // They arrive spread over one generation, and are then held up for `lasting`.
        let began = Instant::now();
        let (mut pushed, mut start) = (0, None);
        loop {
            let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u64;
            bench.push(pushed..due);
            pushed = due;
            if start.is_none() && began.elapsed() > generation + Duration::from_secs(1) {
                let cpu = daemon.usage().expect("/proc").cpu;
                start = Some((Instant::now(), cpu, bench.redis_cpu(), bench.counts()));
            }
            if start.is_some_and(|(start, ..)| start.elapsed() > lasting) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10)); // the pace of the pushes
        }
        let (start, cpu, redis, counts) = start.expect("it began");
        let (took, now) = (start.elapsed(), bench.counts());
        let cpu = daemon.usage().expect("/proc").cpu - cpu;
        let redis = bench.redis_cpu() - redis;
        let (jobs, polls) = (now.0 - counts.0, now.1 - counts.1);
        rows.row([
            held.to_string(),
            jobs.to_string(),
            format!("{:.1}", polls as f64 / jobs as f64),
            format!("{:.0}", us_each(cpu, jobs)),
            format!("{:.1}", us_each(cpu, polls + 3 * jobs)),
            format!("{:.0}", us_each(redis, jobs)),
            format!("{:.0}", jobs as f64 / took.as_secs_f64()),
        ]);
    }
    rows.print(&format!(
        "Growth with what is in flight: {rate} jobs/s, five polls a job, {threads} threads"
    ));
}

/// Jobs a daemon before those that count: so that what a start costs, and a first look, is no part of them.
const WARM: u64 = 500;

/// A backlog shared by some daemons, beside as many floors: more threads than cores cost anybody something.
pub fn beside() {
    // As many threads each: a worker of fewer claims fewer at once, which costs more, alone as well.
    let (jobs, threads) = (number("--jobs", 8000), number("--threads", 8));
    let many = [1, 2, 4, 8];
    let mut seen: Vec<[Vec<f64>; 6]> = many.iter().map(|_| Default::default()).collect();
    for _ in 0..rounds() {
        for (daemons, seen) in many.iter().zip(&mut seen) {
            let floor = {
                let bench = Bench::start();
                floor::run_beside(&bench.sandbox, *daemons, jobs, threads as usize)
            };
            seen[4].push(us_each(floor.cpu, jobs));
            seen[5].push(jobs as f64 / floor.took.as_secs_f64());
            let mut bench = Bench::start();
            let running: Vec<_> = (0..*daemons).map(|_| bench.daemon(threads, &[])).collect();
            bench.wait_ready(*daemons);
            let warm = WARM * daemons;
            bench.push(0..warm);
            bench.wait_sent(warm);
            let _: u64 = bench.ask(&["HSET", "fal:paused", "reason", "a bench", "by", "bench"]);
            bench.push(warm..warm + jobs);
            bench.until(|bench| bench.ask::<u64>(&["LLEN", "fal:ready:default"]) >= jobs);
            let cpu = |running: &[fal_worker::sandbox::child::WorkerChild]| {
                running
                    .iter()
                    .map(|it| it.usage().expect("/proc").cpu)
                    .sum::<Duration>()
            };
            let (before, redis, trips) = (cpu(&running), bench.redis_cpu(), bench.trips());
            let began = Instant::now();
            let _: u64 = bench.ask(&["DEL", "fal:paused"]);
            let took = bench.wait_sent(warm + jobs) - began;
            seen[0].push(us_each(cpu(&running) - before, jobs));
            seen[1].push(us_each(bench.redis_cpu() - redis, jobs));
            seen[2].push((bench.trips() - trips) as f64 / jobs as f64);
            seen[3].push(jobs as f64 / took.as_secs_f64());
        }
    }
    let mut rows = Rows::new(&[
        "daemons",
        "CPU us/job",
        "floors'",
        "ratio",
        "redis us/job",
        "trips/job",
        "jobs/s",
        "floors'",
        "ratio",
    ]);
    for (daemons, [cpu, redis, trips, rate, floor_cpu, floor_rate]) in many.iter().zip(&seen) {
        rows.row([
            daemons.to_string(),
            format!("{:.1}", median(cpu)),
            format!("{:.1}", median(floor_cpu)),
            format!("{:.2}", median(cpu) / median(floor_cpu)),
            format!("{:.0}", median(redis)),
            format!("{:.2}", median(trips)),
            format!("{:.0}", median(rate)),
            format!("{:.0}", median(floor_rate)),
            format!("{:.2}", median(rate) / median(floor_rate)),
        ]);
    }
    rows.print(&format!(
        "Growth with daemons on one Redis: {jobs} jobs after {WARM} a daemon, {threads} threads each"
    ));
}
