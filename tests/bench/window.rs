//! The submit window at full length: accounts that run 2, 10 or 40 requests at once, generations of 20 s, a
//! backlog of 500, and a `high` job now and then; also slots that become fewer, a stranger on the same key,
//! and a Redis that is away. All scenes at the same time, since they only wait: three and a half minutes.
//! Prints a line a scene and judges nothing.
//!
//! `cargo bench --bench window`

use fal_worker::sandbox::Sandbox;
use fal_worker::sandbox::child::{WorkerChild, WorkerCommand};
use redis::Connection;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const GENERATION: Duration = Duration::from_secs(20);
/// The window is found, and what ran first in step has spread.
const SETTLED: Duration = Duration::from_secs(60);
const SPAN: Duration = Duration::from_secs(200);
const HIGH_EVERY: Duration = Duration::from_secs(10);

/// What happens at an account beside our work.
#[derive(Clone, Copy, PartialEq)]
enum Besides {
    Nothing,
    /// From the 80th second on four slots.
    Fewer,
    /// From the 80th to the 140th second a stranger keeps six requests there.
    Stranger,
    /// From the 90th second on Redis is frozen for 15 s.
    RedisAway,
}

fn main() {
    println!(
        "generations of 20 s +-50 %, 500 jobs wait, --poll-max 500ms, two daemons; slots busy after {} s; wait of a \
         high job until fal runs it; size of the window every 20 s",
        SETTLED.as_secs()
    );
    let scenes = [
        (2, "2", Besides::Nothing),
        (2, "auto", Besides::Nothing),
        (10, "10", Besides::Nothing),
        (10, "auto", Besides::Nothing),
        (40, "40", Besides::Nothing),
        (40, "auto", Besides::Nothing),
        (10, "auto", Besides::Fewer),
        (10, "auto", Besides::Stranger),
        (10, "auto", Besides::RedisAway),
    ];
    let running: Vec<_> = scenes
        .into_iter()
        .map(|(slots, window, besides)| thread::spawn(move || scene(slots, window, besides)))
        .collect();
    for scene in running {
        println!("{}", scene.join().expect("a scene"));
    }
}

fn scene(slots: usize, window: &str, besides: Besides) -> String {
    let sandbox = Sandbox::start().expect("sandbox");
    sandbox
        .fal
        .set_generation(GENERATION / 2, GENERATION * 3 / 2);
    sandbox.fal.set_slots(slots);
    let mut con = connect(&sandbox);
    for number in 0..500 {
        push(&mut con, &format!("job-{number}"), "default");
    }
    let _daemons = [0, 1].map(|_| start(&sandbox, window));
    let began = Instant::now();
    let (mut highs, mut sizes) = (0, Vec::new());
    let (mut fewer, mut away, mut strangers) = (false, false, 0);
    while began.elapsed() < SPAN {
        thread::sleep(Duration::from_millis(200)); // the pace of what happens
        let now = began.elapsed();
        if besides == Besides::Fewer && !fewer && now.as_secs() >= 80 {
            sandbox.fal.set_slots(4);
            fewer = true;
        }
        if besides == Besides::Stranger && (80..140).contains(&now.as_secs()) {
            // One ends every 20 s on average: six of them stay there.
            let due = 6 + (now.as_secs() - 80) * 6 / 20;
            while strangers < due {
                stranger(&sandbox);
                strangers += 1;
            }
        }
        if besides == Besides::RedisAway && !away && now.as_secs() >= 90 {
            away = true;
            sandbox.redis.pause().expect("pause");
            thread::sleep(Duration::from_secs(15)); // how long it is away
            sandbox.redis.resume().expect("resume");
            con = connect(&sandbox);
        }
        if now > SETTLED && now + GENERATION * 2 < SPAN && now > HIGH_EVERY * (highs + 6) {
            push(&mut con, &format!("high-{highs}"), "high");
            highs += 1;
        }
        if window == "auto" && now.as_secs() / 20 > sizes.len() as u64 {
            let size: Option<u32> = redis::cmd("HGET")
                .arg(&["fal:window", "size"])
                .query(&mut con)
                .expect("hget");
            sizes.push(size.unwrap_or(0));
        }
    }
    let submits = sandbox.fal.submits();
    let (from, to) = (began + SETTLED, Instant::now());
    let busy: f64 = submits
        .iter()
        .filter_map(|submit| {
            let start = submit.started?.max(from);
            let end = submit.completed.unwrap_or(to).min(to);
            Some(end.saturating_duration_since(start).as_secs_f64())
        })
        .sum();
    let share = busy / (slots as f64 * to.duration_since(from).as_secs_f64());
    let mut waits: Vec<Duration> = Vec::new();
    for number in 0..highs {
        let about: (Option<i64>, Option<String>) = redis::cmd("HMGET")
            .arg(format!("fal:job:high-{number}"))
            .arg(&["queued_at", "request_id"])
            .query(&mut con)
            .expect("hmget");
        let submit = submits
            .iter()
            .find(|submit| Some(&submit.request_id) == about.1.as_ref());
        let (Some(queued), Some(submit)) = (about.0, submit) else {
            waits.push(SPAN); // not even submitted
            continue;
        };
        let here = (submit.unix_ms as i64 - queued).max(0) as u64;
        let there = submit
            .started
            .map_or(SPAN, |at| at.duration_since(submit.at));
        waits.push(Duration::from_millis(here) + there);
    }
    waits.sort();
    let middle = waits.get(waits.len() / 2).copied().unwrap_or_default();
    let longest = waits.last().copied().unwrap_or_default();
    let dead: usize = redis::cmd("ZCARD")
        .arg("fal:dead")
        .query(&mut con)
        .expect("zcard");
    let besides = match besides {
        Besides::Nothing => "",
        Besides::Fewer => ", 4 slots from 80 s on",
        Besides::Stranger => ", a stranger from 80 to 140 s",
        Besides::RedisAway => ", Redis away from 90 to 105 s",
    };
    format!(
        "  {slots:>2} slots, --fal-concurrency {window:<4}{besides}: busy {:>5.1} %; high median {:.1} s, most {:.1} s of {}; \
         {dead} failed; window {sizes:?}",
        share * 100.0,
        middle.as_secs_f64(),
        longest.as_secs_f64(),
        waits.len()
    )
}

/// A request of somebody else with our key.
fn stranger(sandbox: &Sandbox) {
    let url = format!("{}/fal-ai/flux/dev", sandbox.fal.queue_url());
    let answer = ureq::post(&url)
        .header("Authorization", &format!("Key {}", sandbox.fal.key()))
        .header("Content-Type", "application/json")
        .send(r#"{"prompt":"a stranger's."}"#);
    answer.expect("fal takes it");
}

fn push(con: &mut Connection, id: &str, priority: &str) {
    let entry = format!(
        r#"{{"id":"{id}","model":"fal-ai/flux/dev","input":{{"prompt":"prompt {id}."}},"priority":"{priority}"}}"#
    );
    let () = redis::cmd("LPUSH")
        .arg("fal:inbox")
        .arg(entry)
        .query(con)
        .expect("push");
}

fn connect(sandbox: &Sandbox) -> Connection {
    let client = redis::Client::open(sandbox.redis.url()).expect("url");
    client.get_connection().expect("redis")
}

fn start(sandbox: &Sandbox, window: &str) -> WorkerChild {
    let program = Path::new(env!("CARGO_BIN_EXE_fal-worker"));
    WorkerCommand::new(program, sandbox)
        .flags(["--name", "bench", "--poll-max", "500ms", "--threads", "8"])
        .flags(["--fal-concurrency", window])
        .start()
        .expect("the daemon")
}
