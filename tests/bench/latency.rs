//! How long an idle worker takes for one job: from LPUSH to the submit at fal, and from fal's COMPLETED to
//! Telegram's answer. And what it takes while there is nothing to do.

use crate::common::{Bench, PROGRAM, Rows, median, mib, number, part};
use fal_worker::sandbox::child::WorkerCommand;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

pub fn run() {
    let jobs = number("--jobs", 500).min(1000);
    let mut rows = Rows::new(&["ms", "median", "p99", "max"]);
    let mut row = |name: &str, ms: &[f64]| {
        let cells = [median(ms), part(ms, 0.99), part(ms, 1.0)].map(|ms| format!("{ms:.2}"));
        rows.row(std::iter::once(name.to_owned()).chain(cells));
    };
    let mut bench = Bench::start();
    let _daemon = bench.daemon(number("--threads", 8), &[]);
    bench.wait_ready(1);
    let (mut pick_up, mut whole) = (Vec::new(), Vec::new());
    let trips = bench.trips();
    for number in 0..jobs {
        let pushed = Instant::now();
        bench.push(number..number + 1);
        whole.push(ms(bench.wait_sent(number + 1) - pushed));
        let submit = bench.sandbox.fal.submits().pop().expect("a submit");
        pick_up.push(ms(submit.at - pushed));
    }
    let trips = (bench.trips() - trips) as f64 / jobs as f64;
    row("LPUSH to submit, idle worker", &pick_up);
    row("LPUSH to the message, generation 0", &whole);

    let mut bench = Bench::start();
    bench.sandbox.telegram.keep_journal(true);
    let (least, most) = (Duration::from_millis(300), Duration::from_millis(900));
    bench.sandbox.fal.set_generation(least, most);
    let _daemon = bench.daemon(number("--threads", 8), &[]);
    bench.wait_ready(1);
    for number in 0..jobs {
        bench.push(number..number + 1);
        std::thread::sleep(Duration::from_millis(5)); // the pace of the pushes
    }
    bench.wait_sent(jobs);
    let submits = bench.sandbox.fal.submits();
    let (mut polling, mut delivery) = (Vec::new(), Vec::new());
    for entry in bench.sandbox.telegram.journal() {
        let photo = entry.args["photo"].as_str().expect("a URL");
        let request = submits.iter().find(|it| photo.contains(&it.request_id));
        let request = request.expect("its request");
        let polled = request.polled.expect("a poll");
        polling.push(ms(polled - request.completed.expect("its end")));
        delivery.push(ms(entry.at - polled));
    }
    row("COMPLETED to the poll that saw it", &polling);
    row("from that poll to Telegram's answer", &delivery);
    rows.print(&format!(
        "Latency: {jobs} jobs each; first one at a time ({trips:.2} round trips to Redis a job), then 200 a second \
         with generations of 0.3 to 0.9 s"
    ));
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// What the worker takes while it has nothing to do.
pub fn small() {
    let (mut ready, mut resident, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    let (mut waits, mut trips, mut commands) = (Vec::new(), Vec::new(), Vec::new());
    let rounds = number("--rounds", 5);
    let idle = Duration::from_secs(10); // twice the longest pause between two things that an idle worker does
    for _ in 0..rounds {
        let mut bench = Bench::start();
        let began = Instant::now();
        let (read, write) = std::io::pipe().expect("a pipe");
        // With the defaults, as an operator would.
        let daemon = WorkerCommand::new(Path::new(PROGRAM), &bench.sandbox)
            .state(&bench.sandbox.redis.folder().join("state"))
            .log(write)
            .start()
            .expect("the daemon");
        let mut lines = BufReader::new(read).lines().map_while(Result::ok);
        let line = lines.find(|line| line.contains(" ready "));
        ready.push(ms(began.elapsed()));
        assert!(line.is_some(), "it is not ready");
        std::thread::sleep(Duration::from_secs(1)); // what a start leaves to do
        let (before, asked) = (daemon.usage().expect("/proc"), bench.trips());
        let counted = bench.commands();
        std::thread::sleep(idle); // nothing is to happen
        let counted = bench.commands() - counted - 1;
        let (after, asked) = (daemon.usage().expect("/proc"), bench.trips() - asked);
        resident.push(mib(after.resident_kib));
        cpu.push(ms(after.cpu - before.cpu) / idle.as_secs_f64());
        waits.push((after.waits - before.waits) as f64 / idle.as_secs_f64());
        trips.push(asked as f64 / idle.as_secs_f64());
        commands.push(counted as f64 / idle.as_secs_f64());
    }
    let size = std::fs::metadata(PROGRAM).expect("the program").len();
    let mut rows = Rows::new(&["small", "", ""]);
    let mut row = |name: &str, value: f64, goal: &str| {
        rows.row([name.to_owned(), format!("{value:.1}"), goal.to_owned()]);
    };
    row("start to ready, ms", median(&ready), "under 20");
    row("start to ready, the slowest, ms", part(&ready, 1.0), "");
    row("idle: resident MiB", median(&resident), "under 8");
    row("idle: wake-ups a second", median(&waits), "under 20");
    row(
        "idle: round trips to Redis a second",
        median(&trips),
        "under 3",
    );
    row(
        "idle: commands that Redis counts a second",
        median(&commands),
        "under 15",
    );
    row("idle: CPU, ms a second", median(&cpu), "");
    row("the program, MiB", size as f64 / 1_048_576.0, "under 6");
    rows.print(&format!(
        "Small: default flags (32 threads), medians of {rounds} starts"
    ));
}
