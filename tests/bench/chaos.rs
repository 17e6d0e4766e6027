//! The long run of chaos behind `tests/chaos`: first the run that only kills, with step files and without, then
//! minutes with every fault on, then faults off, and everything must end. Prints a table; exit code 1 when
//! something that must never be has been. The seed repeats the plan of the faults, not the races between
//! processes.

#[path = "../it/support/mod.rs"]
mod support;

use fal_worker::sandbox::faults::{Fault, Rule, RuleId};
use fal_worker::sandbox::redis::RedisOptions;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use support::chaos::{Judged, Stream, judge, story};
use support::kills::{Killed, Kills, kills, longest, median};
use support::{Daemon, World};

const THREADS: &str = "8";
const LEASE: &str = "5s";
/// Jobs a second, and how many may be open before the stream waits.
const RATE: f64 = 8.0;
const OPEN: usize = 1500;
/// Everything must have ended so long after the last fault.
const BOUND: Duration = Duration::from_secs(180);

/// What the operator of this command may set.
struct Args {
    minutes: f64,
    seed: u64,
    daemons: usize,
}

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(64);
        }
    };
    let command = format!(
        "tests/chaos --minutes {} --seed {} --daemons {}",
        args.minutes, args.seed, args.daemons
    );
    println!("{command}\n");
    let mut broken = only_kills(&args);
    broken.extend(everything(&args));
    if broken.is_empty() {
        println!("\nnothing is broken");
        return ExitCode::SUCCESS;
    }
    println!("\nBROKEN:");
    for line in &broken {
        println!("  {line}");
    }
    println!("again with: {command}");
    ExitCode::FAILURE
}

fn args() -> Result<Args, String> {
    let usage = "usage: tests/chaos [--minutes 10] [--seed N] [--daemons 3]";
    let mut args = Args {
        minutes: 10.0,
        seed: fastrand::u64(..1_000_000),
        daemons: 3,
    };
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().ok_or(usage)?;
        let wrong = || format!("{word} {value}?\n{usage}");
        match word.as_str() {
            "--minutes" => args.minutes = value.parse().map_err(|_| wrong())?,
            "--seed" => args.seed = value.parse().map_err(|_| wrong())?,
            "--daemons" => args.daemons = value.parse().map_err(|_| wrong())?,
            _ => return Err(usage.to_owned()),
        }
    }
    if args.daemons < 2 {
        return Err("one daemon is never killed, so there must be two or more".to_owned());
    }
    Ok(args)
}

// ---- only kills ----

fn only_kills(args: &Args) -> Vec<String> {
    let run = |step_file| {
        kills(Kills {
            seed: args.seed,
            daemons: args.daemons,
            jobs: 600,
            span: Duration::from_secs(20),
            step_file,
        })
    };
    let (with, without) = (run(true), run(false));
    println!(
        "only kills: 600 jobs in 20 s, {} daemons of 8 threads, one killed every 0.4-1.2 s and restarted at once",
        args.daemons
    );
    row("", "step file", "--state-dir off");
    let both =
        |name: &str, show: &dyn Fn(&Killed) -> String| row(name, &show(&with), &show(&without));
    both("kills", &|run| run.kills.to_string());
    both("done", &|run| {
        format!("{} of {}", run.judged.done, run.judged.jobs)
    });
    both("lost, ended twice, edits shown twice", &|run| {
        let judged = &run.judged;
        format!(
            "{}, {}, {}",
            judged.lost.len(),
            judged.ended_twice.len(),
            judged.edits_twice.len()
        )
    });
    both("second submits at fal (counted)", &|run| {
        format!("{} ({})", run.judged.paid_again, run.judged.paid_counted)
    });
    row(
        "  jobs inside an exchange when killed",
        &with.inside.to_string(),
        "",
    );
    row(
        "  second submits not cut off by a kill",
        &with.unexplained.len().to_string(),
        "",
    );
    both("  accepted before the kill, at most", &|run| {
        ms(longest(&run.before_kill))
    });
    both("second sends (counted)", &|run| {
        format!("{} ({})", run.judged.sent_again, run.judged.sent_counted)
    });
    both("work resumed after ready: median, max", &|run| {
        format!(
            "{}, {}",
            ms(median(&run.resumed)),
            ms(longest(&run.resumed))
        )
    });
    both("  and after the kill", &|run| {
        format!(
            "{}, {}",
            ms(median(&run.since_kill)),
            ms(longest(&run.since_kill))
        )
    });
    both("last job ended after the last push", &|run| {
        format!("{:.1} s", run.settled.as_secs_f64())
    });
    [("step file", with), ("--state-dir off", without)]
        .into_iter()
        .flat_map(|(name, run)| {
            let lines = run.broken().to_vec();
            lines
                .into_iter()
                .map(move |line| format!("only kills, {name}: {line}"))
        })
        .collect()
}

fn row(name: &str, one: &str, other: &str) {
    println!("  {name:<42} {one:>18} {other:>18}");
}

fn ms(span: Duration) -> String {
    format!("{} ms", span.as_millis())
}

// ---- every fault ----

/// One daemon and what is being done to it.
struct Arm {
    daemon: Daemon,
    state: Doing,
}

#[derive(Clone, Copy, PartialEq)]
enum Doing {
    Runs,
    Frozen(Instant),
    Stops(Instant),
    /// It is gone, and starts again then.
    Gone(Instant),
}

/// What is being done to Redis.
#[derive(Clone, Copy, PartialEq)]
enum Store {
    Up,
    Frozen(Instant),
    Down(Instant),
}

/// A service whose every request is cut off until then.
struct Away {
    rule: RuleId,
    until: Instant,
}

struct Run {
    world: World,
    random: fastrand::Rng,
    arms: Vec<Arm>,
    store: Store,
    away: Vec<Away>,
    rules: Vec<(&'static str, RuleId)>,
    /// How often each disturbance was made.
    done: BTreeMap<&'static str, u64>,
    /// Exit codes of clean stops.
    exits: BTreeMap<String, u64>,
    /// Leaks that the keepers mended.
    repairs: u64,
    /// Resident KiB, threads, open files of the daemon that is never killed.
    samples: Vec<(u64, u64, u64)>,
}

fn everything(args: &Args) -> Vec<String> {
    let minutes = Duration::from_secs_f64(args.minutes * 60.0);
    let redis = RedisOptions {
        // What a worker was told is on the disk: else a kill of Redis could take an answered write along.
        extra: ["--appendfsync", "always"].map(str::to_owned).to_vec(),
        ready_within: Duration::from_secs(60),
        ..RedisOptions::default()
    };
    let mut world = World::with(redis);
    world.sandbox.faults.set_seed(args.seed);
    let mut stream = Stream::new(&world, Duration::from_secs(3), RATE, 3).with_direct_calls();
    let rules = small_faults(&world);
    let arms = (0..args.daemons).map(|_| start(&mut world)).collect();
    let mut run = Run {
        world,
        random: fastrand::Rng::with_seed(args.seed),
        arms,
        store: Store::Up,
        away: Vec::new(),
        rules,
        done: BTreeMap::new(),
        exits: BTreeMap::new(),
        repairs: 0,
        samples: Vec::new(),
    };
    let began = Instant::now();
    let (mut next, mut sample, mut word) = (began + Duration::from_secs(3), began, began);
    let mut open = 0;
    while began.elapsed() < minutes {
        let now = Instant::now();
        run.tend(now, false);
        if run.store == Store::Up && open < OPEN {
            stream.go_on(&mut run.world, usize::MAX);
        }
        if now >= next {
            run.disturb(now, &mut stream);
            next = now + Duration::from_millis(run.random.u64(200..1500));
        }
        if now >= sample {
            run.sample();
            sample = now + Duration::from_secs(5);
        }
        if now >= word && run.store == Store::Up {
            open = stream.open(&mut run.world);
            word = now + Duration::from_secs(2);
            if (began.elapsed().as_secs() / 2).is_multiple_of(15) {
                let pushed = stream.pushed.len();
                let resident = run.samples.last().map_or(0, |sample| sample.0);
                eprintln!(
                    "{:>4} s: {pushed} jobs pushed, {open} open, {resident} KiB",
                    began.elapsed().as_secs()
                );
            }
        }
        std::thread::sleep(Duration::from_millis(10)); // the pace of the plan
    }
    let pushed = stream.pushed.len();
    run.calm();
    let calm = Instant::now();
    let mut open = stream.open(&mut run.world);
    let left = open;
    while open > 0 && calm.elapsed() < BOUND {
        std::thread::sleep(Duration::from_millis(100)); // a look at a condition, with a deadline
        open = stream.open(&mut run.world);
        run.sample_now_and_then(calm);
    }
    let ended_after = calm.elapsed();
    run.sample();
    let fired = run.fired();
    let stats: BTreeMap<String, String> = run.world.redis(&["HGETALL", "fal:stats"]);
    run.repairs = (stats.iter())
        .filter(|(name, _)| name.starts_with("repairs"))
        .filter_map(|(_, times)| times.parse::<u64>().ok())
        .sum();
    let judged = judge(&mut run.world, &mut stream);
    let mut broken = judged.broken();
    if open > 0 {
        broken.push(format!(
            "{open} jobs had not ended {BOUND:?} after the last fault"
        ));
    }
    broken.extend(illegitimate(&mut run, &judged, 3));
    broken.extend(run.leave());
    broken.extend(run.flat());
    run.done
        .insert("entries pushed twice", stream.repeated as u64);
    print(args, &run, &fired, &judged, (pushed, left, ended_after));
    if !broken.is_empty() {
        let lists = [
            &judged.lost,
            &judged.ended_twice,
            &judged.edits_twice,
            &judged.unseen,
            &judged.unsaid,
        ];
        let mut ids: Vec<String> = lists.into_iter().flatten().cloned().collect();
        ids.extend(judged.dead.values().flatten().cloned());
        for id in ids.iter().take(15) {
            eprintln!("{}", story(&mut run.world, id));
        }
    }
    broken
}

fn start(world: &mut World) -> Arm {
    let more = [
        "--threads",
        THREADS,
        "--lease",
        LEASE,
        "--events-max",
        "10000000",
    ];
    Arm {
        daemon: world.spawn(&more, &[]),
        state: Doing::Runs,
    }
}

/// Every fault of the stand-ins at every endpoint, with a small chance each.
fn small_faults(world: &World) -> Vec<(&'static str, RuleId)> {
    // Without `detail`: with it, it would be fal's own word that this generation failed, and rightly be paid anew.
    let busy = || Fault::json(503, &json!({"message": "busy"}));
    let limited = Fault::Answer {
        status: 429,
        content_type: "application/json".into(),
        headers: vec![("Retry-After".into(), "1".into())],
        body: br#"{"detail":"slow down"}"#.to_vec(),
    };
    let mut rules = Vec::new();
    let mut add = |name: &'static str, endpoint: &str, chance: f64, fault: Fault| {
        let rule = Rule::sometimes(chance, endpoint, fault);
        rules.push((name, world.sandbox.faults.add(rule)));
    };
    for endpoint in [
        "fal.submit",
        "fal.status",
        "fal.result",
        "fal.cancel",
        "fal.direct",
        "tg.*",
        "file",
    ] {
        add("slow answers", endpoint, 0.02, Fault::DelayMs(400));
        add(
            "reset before the request was read",
            endpoint,
            0.005,
            Fault::ResetBeforeRead,
        );
        add(
            "reset after it was acted on",
            endpoint,
            0.01,
            Fault::ResetAfterActing,
        );
        add("truncated answers", endpoint, 0.005, Fault::Truncated);
        add("empty answers", endpoint, 0.003, Fault::Empty200);
        add("one byte every 100 ms", endpoint, 0.001, Fault::SlowBody);
        add("hangs for 40 s", endpoint, 0.0007, Fault::Hang(40_000));
        add("502 as HTML, not acted on", endpoint, 0.005, Fault::Html502);
        add("504 as HTML, acted on", endpoint, 0.003, Fault::Html504);
        match endpoint {
            "tg.*" => {
                add("429", endpoint, 0.01, Fault::telegram_429(1));
                add(
                    "5xx in JSON",
                    endpoint,
                    0.005,
                    Fault::telegram(500, "Internal Server Error"),
                );
            }
            _ => {
                add("429", endpoint, 0.01, limited.clone());
                add("5xx in JSON", endpoint, 0.005, busy());
            }
        }
    }
    rules
}

impl Run {
    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// Ends what has lasted long enough, starts again what is gone.
    fn tend(&mut self, now: Instant, all: bool) {
        let over = |until: Instant| all || until <= now;
        match self.store {
            Store::Frozen(until) if over(until) => {
                self.world.sandbox.redis.resume().expect("redis goes on");
                self.store = Store::Up;
            }
            Store::Down(until) if over(until) => {
                self.world
                    .sandbox
                    .redis
                    .restart()
                    .expect("redis starts again");
                self.store = Store::Up;
            }
            _ => {}
        }
        let faults = self.world.sandbox.faults.clone();
        self.away.retain(|away| {
            if over(away.until) {
                faults.remove(away.rule);
            }
            !over(away.until)
        });
        for at in 0..self.arms.len() {
            match self.arms[at].state {
                Doing::Frozen(until) if over(until) => {
                    self.arms[at].daemon.signal("CONT");
                    self.arms[at].state = Doing::Runs;
                }
                Doing::Stops(_) => {
                    if let Some(code) = self.arms[at].daemon.ended() {
                        *self.exits.entry(format!("{code:?}")).or_default() += 1;
                        self.arms[at].state = Doing::Gone(now);
                    }
                }
                Doing::Gone(until) if over(until) => self.arms[at] = start(&mut self.world),
                _ => {}
            }
        }
    }

    /// One disturbance. The first daemon is frozen like the others, but never killed: its memory is watched.
    fn disturb(&mut self, now: Instant, stream: &mut Stream) {
        let after = |random: &mut fastrand::Rng, from: u64, to: u64| {
            now + Duration::from_millis(random.u64(from..to))
        };
        let mortal = 1 + self.random.usize(..self.arms.len() - 1);
        let any = self.random.usize(..self.arms.len());
        let runs = |arm: &Arm| arm.state == Doing::Runs;
        match self.random.u32(..100) {
            0..28 if runs(&self.arms[mortal]) => {
                self.count("daemon killed");
                self.arms[mortal].daemon.kill();
                let soon = self.random.u32(..5) > 0;
                let until = if soon {
                    now
                } else {
                    after(&mut self.random, 1000, 10_000)
                };
                self.arms[mortal].state = Doing::Gone(until);
            }
            28..38 if runs(&self.arms[mortal]) => {
                self.count("daemon stopped cleanly");
                self.arms[mortal].daemon.signal("TERM");
                self.arms[mortal].state = Doing::Stops(now);
            }
            38..46 if runs(&self.arms[any]) => {
                self.count("daemon frozen for less than its lease");
                self.arms[any].daemon.signal("STOP");
                self.arms[any].state = Doing::Frozen(after(&mut self.random, 100, 4000));
            }
            46..52 if runs(&self.arms[any]) => {
                self.count("daemon frozen beyond its lease");
                self.arms[any].daemon.signal("STOP");
                self.arms[any].state = Doing::Frozen(after(&mut self.random, 7000, 13_000));
            }
            52..57 if self.store == Store::Up => {
                self.count("redis killed and restarted");
                self.world.sandbox.redis.kill();
                self.store = Store::Down(after(&mut self.random, 0, 4000));
            }
            57..62 if self.store == Store::Up => {
                self.count("redis frozen");
                self.world.sandbox.redis.pause().expect("redis stops");
                self.store = Store::Frozen(after(&mut self.random, 300, 8000));
            }
            62..70 if self.store == Store::Up => {
                self.count("redis connections killed");
                let _ = self
                    .world
                    .sandbox
                    .redis
                    .ask(&["CLIENT", "KILL", "TYPE", "normal"]);
            }
            70..76 if self.store == Store::Up => {
                self.count("redis scripts flushed");
                let _ = self.world.sandbox.redis.ask(&["SCRIPT", "FLUSH"]);
            }
            76..81 => {
                self.count("fal's connections cut");
                self.world.sandbox.fal.close_connections();
            }
            81..86 => {
                self.count("telegram's connections cut");
                self.world.sandbox.telegram.close_connections();
            }
            86..92 if self.away.is_empty() => {
                let services = [
                    ("fal away", "fal.*"),
                    ("telegram away", "tg.*"),
                    ("file host away", "file"),
                ];
                let (name, endpoint) = services[self.random.usize(..services.len())];
                self.count(name);
                let rule = Rule::always(endpoint, Fault::ResetBeforeRead);
                let rule = self.world.sandbox.faults.add(rule);
                let until = after(&mut self.random, 1000, 8000);
                self.away.push(Away { rule, until });
            }
            92..97 if self.store == Store::Up => {
                self.count("fifty jobs at once");
                stream.push(&mut self.world, 50);
            }
            _ => {}
        }
    }

    /// No fault any more, and every daemon runs.
    fn calm(&mut self) {
        self.world.sandbox.faults.clear();
        loop {
            self.tend(Instant::now(), true);
            if self.arms.iter().all(|arm| arm.state == Doing::Runs) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20)); // a look at a condition; a stop has its own deadline
        }
    }

    fn sample(&mut self) {
        let pid = self.arms[0].daemon.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let number = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let digits = line.and_then(|line| line.split_whitespace().next());
            digits
                .and_then(|digits| digits.parse().ok())
                .unwrap_or_default()
        };
        let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |all| all.count() as u64);
        self.samples
            .push((number("VmRSS:"), number("Threads:"), files));
    }

    fn sample_now_and_then(&mut self, since: Instant) {
        if since.elapsed().as_millis() % 5000 < 100 {
            self.sample();
        }
    }

    /// How often each fault of the stand-ins was made, by kind.
    fn fired(&self) -> BTreeMap<&'static str, u64> {
        let mut fired = BTreeMap::new();
        for (name, rule) in &self.rules {
            *fired.entry(*name).or_default() += u64::from(self.world.sandbox.faults.fired(*rule));
        }
        fired
    }

    /// Stops all daemons; what is left over then was forgotten by somebody.
    fn leave(&mut self) -> Vec<String> {
        let mut broken = Vec::new();
        for at in 0..self.arms.len() {
            let code = self.arms[at].daemon.stop();
            if code != Some(0) {
                broken.push(format!("daemon {at} ended with {code:?} at the end"));
            }
        }
        for (code, times) in &self.exits {
            if code != "Some(0)" {
                broken.push(format!("{times} clean stops ended with {code}"));
            }
        }
        if !self.world.step_files().is_empty() {
            broken.push(format!(
                "step files left over: {:?}",
                self.world.step_files()
            ));
        }
        let panics = self.world.logs().matches("panicked").count();
        if panics > 0 {
            broken.push(format!("{panics} panics in the logs"));
        }
        let keys: Vec<String> = self.world.redis(&["KEYS", "*"]);
        // What may stay for good, and what may stay until its time is over.
        let for_good = [
            "events", "stats", "audit", "suspects", "models", "store", "run", "config", "dead",
            "gone", "bell",
        ];
        let for_a_time = ["job:", "spec:", "worker:", "told:", "rate:", "minute:"];
        let mut left = BTreeMap::<String, u64>::new();
        for key in keys {
            let name = key.strip_prefix("fal:").unwrap_or(&key);
            let timed = for_a_time.iter().any(|prefix| name.starts_with(prefix));
            let ok =
                for_good.contains(&name) || (timed && self.world.redis::<i64>(&["TTL", &key]) >= 0);
            if !ok {
                let family = name.split(':').next().unwrap_or_default();
                *left.entry(family.to_owned()).or_default() += 1;
                eprintln!("left over: {key}");
            }
        }
        if !left.is_empty() {
            broken.push(format!("keys left over: {left:?}"));
        }
        broken
    }

    /// Whether memory, threads and files of the daemon that was never killed stayed where they were.
    fn flat(&self) -> Vec<String> {
        // The first samples are of a process that has not yet worked.
        let early = self.samples.len() / 5;
        let (Some(first), Some(last)) = (self.samples.get(early), self.samples.last()) else {
            return vec!["no samples".to_owned()];
        };
        let mut broken = Vec::new();
        for (what, first, last, more) in [
            ("KiB resident", first.0, last.0, first.0 / 2 + 8 * 1024),
            ("threads", first.1, last.1, 2),
            ("open files", first.2, last.2, 30),
        ] {
            if last > first + more {
                broken.push(format!("{what} grew from {first} to {last}"));
            }
        }
        broken
    }
}

/// The dead whom no injected fault killed: each must have used up its attempts or its sends.
fn illegitimate(run: &mut Run, judged: &Judged, max_attempts: u32) -> Vec<String> {
    let mut broken = Vec::new();
    for (kind, ids) in &judged.dead {
        for id in ids {
            let record = run.world.record(id);
            let attempt: u32 = record
                .get("attempt")
                .and_then(|text| text.parse().ok())
                .unwrap_or_default();
            let direct = record.get("via").is_some_and(|via| via == "direct");
            let used_up = kind == "unavailable" && (attempt >= max_attempts || direct);
            // A paid result that came empty cannot be asked for again where there is no request.
            let unreadable = kind == "bad_answer" && direct;
            let unsent = kind == "telegram";
            if !used_up && !unreadable && !unsent {
                broken.push(format!("{id} is dead without a reason: {record:?}"));
            }
        }
    }
    broken
}

fn print(
    args: &Args,
    run: &Run,
    fired: &BTreeMap<&'static str, u64>,
    judged: &Judged,
    (pushed, left, ended_after): (usize, usize, Duration),
) {
    println!(
        "\nevery fault: {} minutes, {} daemons of {THREADS} threads, lease {LEASE}, seed {}",
        args.minutes, args.daemons, args.seed
    );
    let line = |name: &str, value: String| println!("  {name:<42} {value:>18}");
    println!("injected");
    for (name, times) in run.done.iter().chain(fired) {
        line(name, times.to_string());
    }
    println!("outcome");
    line("jobs", pushed.to_string());
    line("done", judged.done.to_string());
    for (kind, ids) in &judged.dead {
        line(&format!("dead: {kind}"), ids.len().to_string());
    }
    line("lost", judged.lost.len().to_string());
    line("ended twice", judged.ended_twice.len().to_string());
    line("edits shown twice", judged.edits_twice.len().to_string());
    line(
        "paid again at fal (counted)",
        format!("{} ({})", judged.paid_again, judged.paid_counted),
    );
    line(
        "shown twice in a chat (counted sends)",
        format!("{} ({})", judged.sent_again, judged.sent_counted),
    );
    line("files that went as a link", judged.links.to_string());
    line("repairs", run.repairs.to_string());
    line(
        "open when the faults ended, all ended after",
        format!("{left}, {:.0} s", ended_after.as_secs_f64()),
    );
    println!("the daemon that was never killed: first, last, most");
    let early = run.samples.len() / 5;
    for (name, pick) in [
        (
            "KiB resident",
            (|sample: &(u64, u64, u64)| sample.0) as fn(&(u64, u64, u64)) -> u64,
        ),
        ("threads", |sample| sample.1),
        ("open files", |sample| sample.2),
    ] {
        let all: Vec<u64> = run.samples.iter().map(pick).collect();
        let first = all.get(early).copied().unwrap_or_default();
        let last = all.last().copied().unwrap_or_default();
        let most = all.iter().max().copied().unwrap_or_default();
        line(name, format!("{first}, {last}, {most}"));
    }
}
