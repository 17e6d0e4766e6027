//! `fal-worker loadtest`: how many users this machine holds. Users who each keep one job going, the real
//! worker as a child process, a private redis-server and the stand-ins, whose calls take as long as those
//! of the real services. A step for each number of users, each from a clean start and of bounded length.
//!
//! What counts is what the user sees: the time from LPUSH to the picture in the chat. A worker with too few
//! threads shows in what is left of it beside the generation, the services' own times and the polling.

use super::bar::Bar;
use super::child::{Usage, WorkerChild, WorkerCommand};
use super::demo;
use super::faults::{Fault, Rule};
use super::redis::RedisOptions;
use super::{Sandbox, complain, is_interrupted, unprinted, watch_for_interrupt};
use crate::steps::gate;
use crate::store::view::field;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use redis::Connection;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, IsTerminal, Write};
use std::ops::Range;
use std::time::{Duration, Instant};

/// How often chats are looked at for what arrived.
const LOOK: Duration = Duration::from_millis(10);
/// A step measures this long at least.
const LEAST: Duration = Duration::from_secs(3);
/// `--poll-min` of the worker: a picture may lie so long at fal before anybody asks.
const POLL_MIN: Duration = Duration::from_millis(250);
/// Above this part of a pool's time in use, waits grow quickly.
const USABLE: f64 = 0.85;
/// The most that `--threads` takes.
const MOST_THREADS: u64 = 512;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// A step for each.
    pub users: Vec<u64>,
    /// How long fal generates.
    pub generation: Duration,
    /// How long a call to fal or Telegram takes,
    pub latency: Duration,
    /// a submit,
    pub submit_latency: Duration,
    /// and a send.
    pub send_latency: Duration,
    /// `--threads` of the worker.
    pub threads: u64,
    /// Print JSON instead of a table.
    pub json: bool,
}

impl Options {
    /// The services' own time a job, beside the generation and the time to the look that finds its end, which is seen
    /// when that call has taken its time: a submit, the message, and the result where the look was at the status.
    fn calls(&self, looked_at_status: bool) -> Duration {
        let result = match looked_at_status {
            true => self.latency,
            false => Duration::ZERO,
        };
        self.submit_latency + result + self.send_latency
    }

    /// From a user's LPUSH to his picture, if nothing ever waits: the first call behind the end brings it.
    fn cycle(&self) -> Duration {
        self.generation + self.latency + self.calls(false)
    }
}

/// What one step showed.
#[derive(Clone, Debug)]
struct Step {
    users: u64,
    /// Pictures that arrived while it was measured, a second.
    rate: f64,
    /// What so many users can use up if nobody ever waits for a thread.
    wanted: f64,
    /// LPUSH to picture less the generation, seconds.
    beside: Percentiles,
    /// fal's COMPLETED to the picture, seconds.
    delivery: Percentiles,
    /// Of the former, what is neither the services' own time nor polling.
    waiting: Percentiles,
    polls: f64,
    cpu: f64,
    peak_mib: f64,
    at_fal: u64,
    failed: u64,
    /// Kind and error of the first that failed, as far as that is known.
    first_failure: String,
    busy: Busy,
    verdict: Verdict,
}

/// Threads that are inside calls at any moment, if nobody ever waits for one. Not rounded: what a few users need is
/// a part of a thread, and multiplied by a hundred it is no hundred threads.
#[derive(Clone, Copy, Debug, Default)]
struct Busy {
    at_fal: f64,
    sending: f64,
}

impl Busy {
    fn times(self, factor: f64) -> Busy {
        Busy {
            at_fal: self.at_fal * factor,
            sending: self.sending * factor,
        }
    }

    /// Whether a worker of so many threads has them to spare, in all and within its bulkheads.
    fn fits(self, threads: u64) -> bool {
        let (most, most_slow) = gate::places(threads as usize);
        let room = |places: usize| places as f64 * USABLE;
        room(threads as usize) >= self.at_fal + self.sending
            && room(most) >= self.at_fal
            && room(most_slow) >= self.sending
    }

    /// So few workers, and so few threads of each, that all fit.
    fn needs(self) -> (u64, u64) {
        let mut workers = 1;
        loop {
            let each = self.times(1.0 / workers as f64);
            if let Some(threads) = (1..=MOST_THREADS).find(|threads| each.fits(*threads)) {
                return (workers, threads);
            }
            workers += 1;
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Holds,
    Slow,
    TooMany,
    Broken,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Holds => "holds",
            Verdict::Slow => "slow",
            Verdict::TooMany => "too many",
            Verdict::Broken => "JOBS FAILED",
        }
    }
}

/// Runs the load test; gives the exit code: 1 when a job failed, or it did not come to its end.
pub fn run(options: &Options) -> u8 {
    match try_run(options) {
        Ok(good) => u8::from(!good),
        Err(why) => {
            complain(&format!("fal-worker loadtest: {why}"));
            1
        }
    }
}

fn try_run(options: &Options) -> Result<bool, String> {
    watch_for_interrupt()?;
    let mut steps = Vec::new();
    let measured = measure(options, &mut steps);
    // Minutes of measuring: they are shown, whatever became of the steps behind them.
    if measured.is_ok() || !steps.is_empty() {
        extrapolate(&mut steps);
        print(options, &steps, &mut std::io::stdout()).map_err(unprinted)?;
    }
    measured.map_err(|why| match is_interrupted() {
        // Ctrl-C reaches worker and Redis too, and their end may be what was seen first.
        true => "interrupted".to_owned(),
        false => why,
    })?;
    Ok(steps.iter().all(|step| step.verdict != Verdict::Broken))
}

/// Step after step, until all are done or one cannot be.
fn measure(options: &Options, steps: &mut Vec<Step>) -> Result<(), String> {
    for users in &options.users {
        let step = step(options, *users)?;
        if !std::io::stderr().is_terminal() && !options.json {
            complain(&format!(
                "{users} users: {:.1} jobs/s, {}",
                step.rate,
                step.words()
            ));
        }
        steps.push(step);
    }
    Ok(())
}

/// Where jobs stand in line there are fewer polls than there would be, so that what is counted says too
/// little of the threads that are missing: the largest step that holds says more.
fn extrapolate(steps: &mut [Step]) {
    let held = steps.iter().filter(|step| step.verdict == Verdict::Holds);
    let Some(each) = held
        .max_by_key(|step| step.users)
        .map(|step| step.busy.times(1.0 / step.users as f64))
    else {
        return;
    };
    for step in steps
        .iter_mut()
        .filter(|step| step.verdict == Verdict::TooMany)
    {
        let all = each.times(step.users as f64);
        step.busy.at_fal = step.busy.at_fal.max(all.at_fal);
        step.busy.sending = step.busy.sending.max(all.sending);
    }
}

/// One number of users, from a clean start.
fn step(options: &Options, users: u64) -> Result<Step, String> {
    let redis = RedisOptions {
        ready_within: Duration::from_secs(30),
        ..RedisOptions::default()
    };
    let sandbox = Sandbox::start_with(1, redis).map_err(|error| error.to_string())?;
    sandbox
        .fal
        .set_generation(options.generation, options.generation);
    for (endpoint, latency) in [
        ("fal.submit", options.submit_latency),
        ("fal.status", options.latency),
        ("fal.result", options.latency),
        ("tg.*", options.send_latency),
    ] {
        let delay = Fault::DelayMs(latency.as_millis() as u64);
        sandbox.faults.add(Rule::always(endpoint, delay));
    }
    let state = sandbox.redis.folder().join("state");
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut worker = WorkerCommand::new(&program, &sandbox)
        .flags([
            "--name",
            "loadtest",
            "--threads",
            &options.threads.to_string(),
        ])
        .flags(["--max-in-flight", &(users * 2).max(2000).to_string()])
        // It is this machine that is asked, not what Telegram grants a bot.
        .flags(["--telegram-rate", "off", "--progress", "off"])
        .flags(["--job-timeout", &job_timeout(options.generation)])
        .state(&state)
        .start()
        .map_err(|error| format!("the worker could not be started: {error}"))?;
    let mut crowd = Crowd::new(&sandbox, users)?;
    // They come one by one over the first cycle, or all would want the same thing at once for ever. Each has a
    // picture or two in what is measured, however slow the calls are.
    let ramp = options.cycle().max(LEAST / 2);
    let measured = (options.cycle() * 2).max(LEAST);
    let from = ramp + ramp / 2;
    let mut bar = Bar::new();
    let began = Instant::now();
    let mut before: Option<(Instant, Usage, u64, u64)> = None;
    let mut at_fal = 0;
    while began.elapsed() < from + measured {
        let come = began.elapsed().as_secs_f64() / ramp.as_secs_f64();
        crowd.come((users as f64 * come) as u64)?;
        crowd.look(&sandbox)?;
        let totals = sandbox.fal.totals();
        at_fal = at_fal.max(totals.running_now);
        if before.is_none() && began.elapsed() >= from {
            let used = usage(&mut worker)?;
            before = Some((Instant::now(), used, totals.polls, totals.submits));
        }
        if is_interrupted() {
            return Err("interrupted".to_owned());
        }
        if let Some(bar) = &mut bar {
            show(bar, users, began.elapsed(), from + measured);
        }
        std::thread::sleep(LOOK);
    }
    let used = usage(&mut worker)?;
    let (start, used_before, polls, submits) = before.ok_or("it took no time")?;
    drop(bar);
    let took = start.elapsed();
    let totals = sandbox.fal.totals();
    worker.kill();
    let seen = crowd.seen(&sandbox, start..start + took, options);
    let first_failure = match seen.failed {
        0 => String::new(),
        _ => first_failure(&sandbox).unwrap_or_else(|why| why),
    };
    let polls = (totals.polls - polls) as f64 / (totals.submits - submits).max(1) as f64;
    let cpu = (used.cpu - used_before.cpu).as_secs_f64() / took.as_secs_f64();
    let peak_mib = used.peak_kib as f64 / 1024.0;
    Ok(Step {
        at_fal,
        cpu,
        peak_mib,
        first_failure,
        ..judge(options, users, took, seen, polls)
    })
}

/// `--job-timeout` for generations of this length, or long ones would all fail; no more than it takes.
fn job_timeout(generation: Duration) -> String {
    let secs = generation.as_secs().saturating_mul(2).saturating_add(600);
    format!("{}s", secs.min(24 * 3600))
}

/// `kind: error` of the first job that failed, as its event has it.
fn first_failure(sandbox: &Sandbox) -> Result<String, String> {
    let mut view = demo::view(sandbox)?;
    let mut last = "0".to_owned();
    loop {
        let page = view
            .events_after(&last, 500)
            .map_err(|fault| fault.to_string())?;
        for event in &page {
            if field(event, "event") == "failed" {
                return Ok(format!(
                    "{}: {}",
                    field(event, "kind"),
                    field(event, "error")
                ));
            }
            last.clone_from(&event.0);
        }
        if page.len() < 500 {
            return Ok(String::new());
        }
    }
}

fn usage(worker: &mut WorkerChild) -> Result<Usage, String> {
    if !worker.is_running() {
        return Err("the worker ended by itself".to_owned());
    }
    worker.usage().map_err(|error| error.to_string())
}

fn show(bar: &mut Bar, users: u64, gone: Duration, lasts: Duration) {
    let left = lasts.saturating_sub(gone).as_secs();
    bar.show(
        &format!("{:>12} ", format!("{users} users")),
        gone.as_secs_f64() / lasts.as_secs_f64(),
        &format!("{left} s left"),
    );
}

/// The users, each with a chat of his own.
struct Crowd {
    con: Connection,
    /// When each pushed his latest job.
    pushed: Vec<Instant>,
    jobs: u64,
    /// Entries of Telegram's journal looked at.
    looked: usize,
    arrived: Vec<Arrived>,
}

/// A message in a chat.
struct Arrived {
    pushed: Instant,
    shown: Instant,
    /// fal's id in the picture's URL; `None`: it is no picture.
    request: Option<String>,
}

/// What was seen in the time that counts.
#[derive(Default)]
struct Seen {
    /// Ages of the jobs that had not come at the end.
    open: Vec<f64>,
    beside: Vec<f64>,
    delivery: Vec<f64>,
    waiting: Vec<f64>,
    polling: Vec<f64>,
    /// Jobs whose end was seen by a look at the status.
    by_status: usize,
    failed: u64,
}

/// Chats count from here.
const CHATS: u64 = 1000;

impl Crowd {
    fn new(sandbox: &Sandbox, users: u64) -> Result<Crowd, String> {
        let con = redis::Client::open(sandbox.redis.url())
            .and_then(|client| client.get_connection())
            .map_err(|error| error.to_string())?;
        Ok(Crowd {
            con,
            pushed: Vec::with_capacity(users as usize),
            jobs: 0,
            looked: 0,
            arrived: Vec::new(),
        })
    }

    /// So many of them are there by now, as far as there are so many.
    fn come(&mut self, users: u64) -> Result<(), String> {
        let missing = self.pushed.len()..(users as usize).min(self.pushed.capacity());
        let users: Vec<usize> = missing.collect();
        self.pushed.extend(users.iter().map(|_| Instant::now()));
        self.push(&users)
    }

    /// Each of these wants another picture.
    fn push(&mut self, users: &[usize]) -> Result<(), String> {
        if users.is_empty() {
            return Ok(());
        }
        let mut cmd = redis::cmd("LPUSH");
        cmd.arg("fal:inbox");
        for user in users {
            self.jobs += 1;
            self.pushed[*user] = Instant::now();
            let job = json!({
                "id": format!("load-{}", self.jobs),
                "model": "fal-ai/flux/dev",
                "input": {"prompt": "a lighthouse in the rain, seen from the sea", "image_size": "square_hd"},
                "telegram": {"chat_id": CHATS + *user as u64},
            });
            cmd.arg(job.to_string());
        }
        cmd.exec(&mut self.con).map_err(|error| error.to_string())
    }

    /// Who got a picture, or was told that there is none, wants the next one.
    fn look(&mut self, sandbox: &Sandbox) -> Result<(), String> {
        let new = sandbox.telegram.journal_from(self.looked);
        self.looked += new.len();
        let mut again = Vec::new();
        for entry in new {
            let user = entry
                .chat
                .and_then(|chat| u64::try_from(chat).ok()?.checked_sub(CHATS));
            let Some(user) = user.map(|user| user as usize) else {
                continue;
            };
            let Some(pushed) = self.pushed.get(user).copied() else {
                continue;
            };
            let picture = entry.args["photo"].as_str().unwrap_or("");
            let request = picture
                .split("/files/")
                .nth(1)
                .and_then(|rest| rest.split('/').next());
            self.arrived.push(Arrived {
                pushed,
                shown: entry.at,
                request: request.filter(|_| entry.status == 200).map(str::to_owned),
            });
            again.push(user);
        }
        self.push(&again)
    }

    /// What arrived in this time, and what is waited for at its end.
    fn seen(&self, sandbox: &Sandbox, span: Range<Instant>, options: &Options) -> Seen {
        let submits = sandbox.fal.submits();
        let by_id: HashMap<&str, _> = submits
            .iter()
            .map(|submit| (submit.request_id.as_str(), submit))
            .collect();
        // Whoever has got one wants the next: each waits for one.
        let open = self.pushed.iter();
        let open = open.map(|pushed| span.end.saturating_duration_since(*pushed).as_secs_f64());
        let mut seen = Seen {
            open: open.collect(),
            ..Seen::default()
        };
        let arrived = self.arrived.iter();
        for arrived in arrived.filter(|arrived| arrived.shown >= span.start) {
            let request = arrived.request.as_deref().and_then(|id| by_id.get(id));
            let times = request.and_then(|it| Some((it.completed?, it.polled?, it)));
            let Some((completed, polled, request)) = times else {
                seen.failed += 1;
                continue;
            };
            let beside = (arrived.shown - arrived.pushed).saturating_sub(options.generation);
            let polling = polled.saturating_duration_since(completed);
            seen.beside.push(beside.as_secs_f64());
            seen.delivery.push(
                arrived
                    .shown
                    .saturating_duration_since(completed)
                    .as_secs_f64(),
            );
            let by_status = request.status_found_end;
            seen.by_status += usize::from(by_status);
            let waiting = beside.saturating_sub(options.calls(by_status) + polling);
            seen.waiting.push(waiting.as_secs_f64());
            seen.polling.push(polling.as_secs_f64());
        }
        seen
    }
}

/// What it means.
fn judge(options: &Options, users: u64, took: Duration, mut seen: Seen, polls: f64) -> Step {
    let secs = |span: Duration| span.as_secs_f64();
    let rate = seen.beside.len() as f64 / secs(took);
    let generation = secs(options.generation);
    let polling = percentiles(&mut seen.polling);
    let latency = secs(options.latency);
    // Where jobs stand in line this is no longer the time to the next poll, and of that call, alone.
    let usual = polling
        .p50
        .min((generation / 8.0).max(secs(POLL_MIN)) + latency);
    let by_status = seen.by_status as f64 / seen.beside.len().max(1) as f64;
    let wanted = match options.cycle().is_zero() {
        // Nothing takes any time but the worker itself: what they got is all that can be said.
        true => rate,
        // Whatever was seen, nobody has his result in less than one call.
        false => {
            let found = (generation + usual).max(latency) + by_status * latency;
            users as f64 / (found + secs(options.calls(false)))
        }
    };
    // A thread's time a job, at fal and at Telegram.
    let busy = Busy {
        at_fal: secs(options.submit_latency) + (polls + 1.0) * latency,
        sending: secs(options.send_latency),
    }
    .times(wanted);
    // Who has nothing yet waits as well, from where the others had theirs.
    let calls = options.calls(seen.by_status > 0);
    let arrives = generation + secs(calls) + polling.p99;
    for age in seen.open.iter().filter(|age| **age > arrives) {
        seen.beside.push(age - generation);
        seen.waiting.push(age - arrives);
    }
    let waiting = percentiles(&mut seen.waiting);
    // Jobs at either end of the span count or do not: with few users that is much. Where threads are missing by
    // the count of calls too, it is no chance.
    let chance = match busy.fits(options.threads) {
        true => (users as f64).sqrt() / secs(took),
        false => 0.0,
    };
    let verdict = if seen.failed > 0 {
        Verdict::Broken
    } else if rate == 0.0 || rate < 0.85 * wanted - chance {
        Verdict::TooMany
    } else if waiting.p99 > (generation / 10.0).max(1.0) || !busy.fits(options.threads) {
        Verdict::Slow
    } else {
        Verdict::Holds
    };
    Step {
        users,
        rate,
        wanted,
        beside: percentiles(&mut seen.beside),
        delivery: percentiles(&mut seen.delivery),
        waiting,
        polls,
        cpu: 0.0,
        peak_mib: 0.0,
        at_fal: 0,
        failed: seen.failed,
        first_failure: String::new(),
        busy,
        verdict,
    }
}

impl Step {
    /// Workers, and threads of each; `None` where it is not for want of threads that too few jobs went through.
    fn needs(&self, options: &Options) -> Option<(u64, u64)> {
        let in_vain = self.verdict == Verdict::TooMany && self.busy.fits(options.threads);
        (!in_vain).then(|| self.busy.needs())
    }

    /// The verdict, and why a job failed.
    fn words(&self) -> String {
        let word = self.verdict.word();
        match self.first_failure.as_str() {
            "" => word.to_owned(),
            why => format!("{word} ({why})"),
        }
    }
}

fn percentiles(values: &mut [f64]) -> Percentiles {
    values.sort_unstable_by(f64::total_cmp);
    let at = |part: f64| {
        let place = (values.len().saturating_sub(1) as f64 * part).round() as usize;
        values.get(place).copied().unwrap_or(0.0)
    };
    Percentiles {
        p50: at(0.5),
        p99: at(0.99),
    }
}

fn print(options: &Options, steps: &[Step], out: &mut impl Write) -> io::Result<()> {
    if options.json {
        let all: Vec<Value> = steps.iter().map(|step| to_json(step, options)).collect();
        return writeln!(
            out,
            "{:#}",
            json!({"steps": all, "telegram_rate": "off", "fal_at_once": "any"})
        );
    }
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "users",
        "jobs/s",
        "at fal",
        "wait p50",
        "p99",
        "delivery p50",
        "p99",
        "CPU",
        "memory",
        "threads needed",
        "verdict",
    ]);
    for column in table.column_iter_mut().take(10) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for step in steps {
        // Waits that grow for as long as the step lasts are cut off by its end.
        let more = match step.verdict {
            Verdict::TooMany => "> ",
            Verdict::Holds | Verdict::Slow | Verdict::Broken => "",
        };
        let secs = |value: f64| format!("{more}{value:.1} s");
        table.add_row([
            step.users.to_string(),
            format!("{:.1}", step.rate),
            step.at_fal.to_string(),
            secs(step.beside.p50),
            secs(step.beside.p99),
            secs(step.delivery.p50),
            secs(step.delivery.p99),
            format!("{:.1} %", step.cpu * 100.0),
            format!("{:.1} MiB", step.peak_mib),
            match step.needs(options) {
                None => "-".to_owned(),
                Some((1, threads)) => threads.to_string(),
                Some((workers, threads)) => format!("{workers} workers of {threads}"),
            },
            step.verdict.word().to_owned(),
        ]);
    }
    writeln!(out, "{table}")?;
    for step in steps.iter().filter(|step| step.failed > 0) {
        writeln!(
            out,
            "{} users: {} {}",
            step.users,
            step.failed,
            step.words()
        )?;
    }
    let ms = |span: Duration| span.as_millis();
    writeln!(
        out,
        "{} threads; each user keeps one job going; a generation takes {} s, a submit {} ms, a send {} ms, other calls {} ms.",
        options.threads,
        options.generation.as_secs_f64(),
        ms(options.submit_latency),
        ms(options.send_latency),
        ms(options.latency)
    )?;
    writeln!(
        out,
        "wait: LPUSH to picture, less the generation. delivery: fal's COMPLETED to picture; most of it is the time to \
         the next poll. CPU: of one core, the worker alone. holds: nobody waits for a thread; slow: one in a hundred \
         does for over a second (or a tenth of the generation), or more threads are needed; too many: jobs come faster than they go, and waits (>) grow for as long as they do; \
         threads needed -: not for want of threads: the machine, its open files, or a call beyond the worker's time \
         limits."
    )?;
    writeln!(
        out,
        "Telegram itself takes 30 messages a second from a bot, {:.0} users of such jobs: here --telegram-rate is off. fal \
         runs 2 to 40 requests of an account at once: here any number.",
        30.0 * options.cycle().as_secs_f64()
    )
}

fn to_json(step: &Step, options: &Options) -> Value {
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    let both = |it: Percentiles| json!({"p50": round(it.p50), "p99": round(it.p99)});
    let needs = step.needs(options);
    let mut out = BTreeMap::new();
    for (name, value) in [
        ("users", json!(step.users)),
        ("threads", json!(options.threads)),
        ("jobs_per_s", json!(round(step.rate))),
        ("wanted_per_s", json!(round(step.wanted))),
        ("at_fal", json!(step.at_fal)),
        ("wait_s", both(step.beside)),
        ("delivery_s", both(step.delivery)),
        ("waiting_for_a_thread_s", both(step.waiting)),
        ("polls_per_job", json!(round(step.polls))),
        ("cpu_cores", json!(round(step.cpu))),
        ("peak_mib", json!(round(step.peak_mib))),
        ("failed", json!(step.failed)),
        ("first_failure", json!(step.first_failure)),
        (
            "threads_needed",
            json!(needs.map(|(workers, threads)| workers * threads)),
        ),
        ("verdict", json!(step.verdict.word())),
    ] {
        out.insert(name, value);
    }
    json!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            users: vec![100],
            generation: Duration::from_secs(10),
            latency: Duration::from_millis(80),
            submit_latency: Duration::from_millis(250),
            send_latency: Duration::from_millis(800),
            threads: 32,
            json: false,
        }
    }

    fn seen(jobs: usize, waiting: f64) -> Seen {
        Seen {
            beside: vec![2.0; jobs],
            delivery: vec![1.5; jobs],
            waiting: vec![waiting; jobs],
            polling: vec![0.3; jobs],
            ..Seen::default()
        }
    }

    #[test]
    fn a_step_holds_only_if_the_pictures_come_as_fast_as_the_users_and_without_waiting() {
        let took = Duration::from_secs(20);
        let verdict = |seen| judge(&options(), 100, took, seen, 5.0).verdict;
        assert_eq!(verdict(seen(170, 0.1)), Verdict::Holds);
        assert_eq!(verdict(seen(170, 1.5)), Verdict::Slow);
        assert_eq!(verdict(seen(120, 0.1)), Verdict::TooMany);
        let failed = Seen {
            failed: 1,
            ..seen(170, 0.1)
        };
        assert_eq!(verdict(failed), Verdict::Broken);
        assert_eq!(verdict(Seen::default()), Verdict::TooMany);
    }

    #[test]
    fn threads_are_named_only_where_they_are_missing() {
        let took = Duration::from_secs(20);
        let judged = |users| judge(&options(), users, took, seen(40, 9.0), 5.0);
        let printed = |step| {
            let mut out = Vec::new();
            print(&options(), &[step], &mut out).expect("it is written");
            String::from_utf8(out).expect("text")
        };
        // 8.81 jobs a second would fit into 32 threads, and there were two.
        let step = judged(100);
        assert_eq!(
            (step.verdict, step.needs(&options())),
            (Verdict::TooMany, None)
        );
        assert!(to_json(&step, &options())["threads_needed"].is_null());
        let said = printed(step);
        assert!(said.contains(" - ┆ too many"), "{said}");
        assert!(said.contains("> 2.0 s"), "its waits are cut: {said}");
        let step = judged(10_000);
        assert_eq!(step.needs(&options()), Some((4, 416)));
        let json = to_json(&step, &options());
        assert_eq!(json["threads_needed"], 1664);
        let said = printed(step);
        assert!(said.contains(" 4 workers of 416 ┆ too many"), "{said}");
        // Where jobs go as they come, the waits are whole.
        let holds = judge(&options(), 100, took, seen(170, 0.1), 5.0);
        assert!(!printed(holds).contains("> "));
    }

    #[test]
    fn the_first_job_that_failed_says_why() {
        let sandbox = Sandbox::start().expect("redis-server is installed");
        assert_eq!(first_failure(&sandbox).as_deref(), Ok(""));
        for (event, kind, error) in [
            ("done", "", ""),
            ("failed", "timeout", "not finished after 600 s"),
            ("failed", "unavailable", "fal answered 500"),
        ] {
            let fields = ["event", event, "kind", kind, "error", error];
            let words = [&["XADD", "fal:events", "*"][..], &fields].concat();
            sandbox.redis.ask(&words).expect("answers");
        }
        let why = first_failure(&sandbox).expect("Redis answers");
        let seen = Seen {
            failed: 2,
            ..seen(170, 0.1)
        };
        let step = Step {
            first_failure: why,
            ..judge(&options(), 100, Duration::from_secs(20), seen, 5.0)
        };
        let mut out = Vec::new();
        print(&options(), &[step], &mut out).expect("it is written");
        let said = String::from_utf8(out).expect("text");
        let line = "\n100 users: 2 JOBS FAILED (timeout: not finished after 600 s)\n";
        assert!(said.contains(line), "{said}");
    }

    #[test]
    fn a_long_generation_has_the_time_it_takes() {
        let timeout = |secs| job_timeout(Duration::from_secs(secs));
        assert_eq!(timeout(0), "600s");
        assert_eq!(timeout(900), "2400s");
        assert_eq!(timeout(u64::MAX), "86400s", "the most that the flag takes");
    }

    #[test]
    fn no_call_is_counted_twice() {
        let ms = |wanted: f64| (100.0 / wanted * 1000.0).round();
        let judged = |by_status| {
            let seen = Seen {
                by_status,
                ..seen(170, 0.1)
            };
            judge(&options(), 100, Duration::from_secs(20), seen, 5.0)
        };
        // A submit, the generation, the time to the look's end, and the message.
        assert_eq!(ms(judged(0).wanted), 250.0 + 10_000.0 + 300.0 + 800.0);
        // Half of the jobs had their result by a call behind that look.
        assert_eq!(ms(judged(85).wanted), 11_350.0 + 40.0);
        assert_eq!(options().calls(false), Duration::from_millis(1050));
        assert_eq!(options().calls(true), Duration::from_millis(1130));
    }

    #[test]
    fn a_step_does_not_hold_with_fewer_threads_than_it_is_said_to_need() {
        let verdict = |threads| {
            let options = Options {
                threads,
                ..options()
            };
            let took = Duration::from_secs(20);
            let step = judge(&options, 100, took, seen(170, 0.1), 5.0);
            assert_eq!(step.busy.needs(), (1, 18));
            step.verdict
        };
        assert_eq!(verdict(17), Verdict::Slow);
        assert_eq!(verdict(18), Verdict::Holds);
    }

    #[test]
    fn a_step_that_measured_nothing_does_not_hold() {
        for (users, took_s) in [(1, 3), (10, 3), (100, 3), (100, 20)] {
            let took = Duration::from_secs(took_s);
            let step = judge(&options(), users, took, Seen::default(), 0.0);
            assert_eq!(step.verdict, Verdict::TooMany, "{users} in {took_s} s");
        }
    }

    #[test]
    fn chance_is_no_excuse_where_threads_are_missing() {
        // Four users want 1.74 a second.
        let options = Options {
            generation: Duration::from_secs(1),
            latency: Duration::from_millis(500),
            submit_latency: Duration::from_millis(500),
            send_latency: Duration::from_millis(500),
            threads: 1,
            ..options()
        };
        let verdict = |threads| {
            let options = Options {
                threads,
                ..options.clone()
            };
            let step = judge(&options, 4, Duration::from_secs(3), seen(3, 0.0), 1.0);
            assert!(!step.busy.fits(1), "{step:?}");
            step.verdict
        };
        assert_eq!(verdict(1), Verdict::TooMany);
        assert_eq!(verdict(32), Verdict::Holds);
    }

    #[test]
    fn jobs_that_never_came_are_waited_for() {
        let took = Duration::from_secs(20);
        let verdict = |stuck: usize, age: f64| {
            let seen = Seen {
                open: [vec![6.0; 100 - stuck], vec![age; stuck]].concat(),
                ..seen(170, 0.1)
            };
            let step = judge(&options(), 100, took, seen, 5.0);
            (step.verdict, step.beside.p99)
        };
        assert_eq!(verdict(5, 40.0), (Verdict::Slow, 30.0));
        // On their way: nobody knows yet that they wait.
        assert_eq!(verdict(5, 11.0), (Verdict::Holds, 2.0));
    }

    #[test]
    fn a_step_in_which_nothing_takes_time_is_judged_by_what_came() {
        let options = Options {
            generation: Duration::ZERO,
            latency: Duration::ZERO,
            submit_latency: Duration::ZERO,
            send_latency: Duration::ZERO,
            ..options()
        };
        let took = Duration::from_secs(3);
        for polling in [0.0, 0.1] {
            let seen = Seen {
                polling: vec![polling; 30],
                ..seen(30, 0.0)
            };
            let step = judge(&options, 1, took, seen, 1.0);
            assert_eq!(step.wanted, 10.0, "{polling}");
            assert_eq!(step.verdict, Verdict::Holds, "{polling}");
        }
        let step = judge(&options, 1, took, Seen::default(), 0.0);
        assert_eq!((step.wanted, step.verdict), (0.0, Verdict::TooMany));
        assert!(to_json(&step, &options)["wanted_per_s"].is_number());
    }

    #[test]
    fn a_step_that_is_too_much_needs_as_many_threads_a_user_as_the_largest_that_holds() {
        let took = Duration::from_secs(20);
        let mut steps = vec![
            judge(&options(), 100, took, seen(170, 0.1), 5.0),
            judge(&options(), 1000, took, seen(200, 9.0), 1.0),
        ];
        let (held, own) = (steps[0].busy, steps[1].busy);
        extrapolate(&mut steps);
        assert_eq!(steps[0].busy.at_fal, held.at_fal);
        let (said, least) = (steps[1].busy, held.times(10.0));
        assert!(own.at_fal < least.at_fal, "it had fewer polls a job");
        assert!((said.at_fal - least.at_fal).abs() < 1e-9, "{said:?}");
        assert!((said.sending - own.sending.max(least.sending)).abs() < 1e-9);
    }

    #[test]
    fn what_one_user_needs_is_multiplied_before_it_is_rounded() {
        let options = Options {
            submit_latency: Duration::from_millis(80),
            send_latency: Duration::from_millis(80),
            ..options()
        };
        let took = Duration::from_secs(20);
        let mut steps = vec![
            judge(&options, 1, took, seen(2, 0.1), 5.0),
            judge(&options, 1000, took, seen(200, 9.0), 1.0),
        ];
        extrapolate(&mut steps);
        let needs = |step: &Step| step.busy.needs();
        assert_eq!((needs(&steps[0]), needs(&steps[1])), ((1, 1), (1, 84)));
    }

    #[test]
    fn the_threads_needed_are_the_time_in_calls_within_the_bulkheads() {
        let took = Duration::from_secs(20);
        let step = judge(&options(), 100, took, seen(170, 0.1), 5.0);
        // 100 users, each every 10 + 0.25 + 0.8 + 0.3 s: 8.81 jobs a second, of 0.73 s at fal and 0.8 s of sending:
        // nine places, for which half of the threads may be used.
        assert_eq!(step.busy.needs(), (1, 18));
    }

    #[test]
    fn bulkheads_are_whole_threads() {
        let needs = |at_fal, sending| Busy { at_fal, sending }.needs();
        for (what, at_fal, sending, threads) in [
            ("nothing", 0.0, 0.0, 1),
            ("a little of both", 0.4, 0.4, 1),
            ("both, one after the other", 0.8, 0.8, 2),
            ("three sends at once are half of six", 2.1, 2.1, 6),
            ("five are half of ten", 3.6, 3.5, 10),
            ("two at fal leave two others", 1.6, 0.2, 4),
            ("of nine as many may be at fal as of eight", 5.2, 0.1, 10),
        ] {
            assert_eq!(needs(at_fal, sending), (1, threads), "{what}");
            let busy = Busy { at_fal, sending };
            assert!(busy.fits(threads) && (threads == 1 || !busy.fits(threads - 1)));
        }
        // 512 threads have 384 places at fal.
        assert_eq!(needs(384.0 * USABLE, 0.0), (1, 512));
        assert_eq!(needs(400.0 * USABLE, 0.0), (2, 267));
    }
}
