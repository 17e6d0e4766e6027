//! What this worker does at this moment, for people who ask from elsewhere (`status --threads`, `why`): its
//! threads, and where one job in its hands stands. Made only when somebody asks.

use super::health::{Life, Pulling};
use super::pool::Engine;
use crate::job::flight::Flight;
use crate::job::gathered;
use crate::job::window::Heard;
use crate::steps::gate::{Gate, Service};
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Jobs answered for in one go.
const JOBS: usize = 32;

/// The answer to these questions: `*` for the threads, and ids of jobs (null: not in our hands). Spans are
/// in milliseconds.
pub(crate) fn to(asked: &[String], engine: &Engine, gate: &Gate, pool_threads: usize) -> Value {
    let now = Instant::now();
    let life = engine.liveness.life();
    let pulling = match engine.pulling(gate) {
        _ if life.is_paused() => "paused",
        Pulling::Yes => "yes",
        Pulling::Busy => "busy",
        Pulling::Full => "full",
        Pulling::FalIsAway => "fal is away",
        Pulling::BotRefused => "telegram refuses the bot",
    };
    let mut answer = json!({
        "pulling": pulling,
        "away": away(gate),
        "in_flight": engine.scheduler.in_flight(),
    });
    if asked.iter().any(|word| word == "*") {
        answer["threads"] = threads(engine, &life, pool_threads, now);
    }
    let ids = asked.iter().filter(|word| *word != "*").take(JOBS);
    let jobs: Map<String, Value> = gathered(ids.map(|id| {
        let said = job(id, engine, pool_threads, now);
        (id.clone(), said.unwrap_or_default())
    }));
    if !jobs.is_empty() {
        answer["jobs"] = Value::Object(jobs);
    }
    answer
}

/// What this worker cannot reach, or is refused by.
pub(crate) fn away(gate: &Gate) -> Vec<&'static str> {
    let now = Instant::now();
    let away = [
        (Service::Fal, "fal"),
        (Service::Telegram { slow: false }, "telegram"),
    ];
    (away.into_iter())
        .filter(|(service, _)| gate.is_open(*service))
        .map(|(_, name)| name)
        .chain(gate.refuses_submits(now).then_some("submits"))
        .chain(gate.refuses_direct_calls(now).then_some("direct"))
        .chain(gate.is_bot_refused().then_some("bot"))
        .collect()
}

fn name(desk: usize, pool_threads: usize) -> String {
    match desk.checked_sub(pool_threads) {
        Some(transfer) => format!("transfer-{transfer}"),
        None => format!("pool-{desk}"),
    }
}

fn ms(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_millis()).unwrap_or(u64::MAX)
}

fn threads(engine: &Engine, life: &Life, pool_threads: usize, now: Instant) -> Value {
    let pulls = engine.puller_desk.load(Ordering::Relaxed);
    let mut rows: Vec<Value> = (0..engine.desks.len())
        .map(|desk| {
            let step = if pulls == desk + 1 { "pulling" } else { "idle" };
            json!({"thread": name(desk, pool_threads), "step": step})
        })
        .collect();
    for (desk, work) in engine.desks.indexed() {
        rows[desk]["step"] = json!(work.phase.as_str());
        rows[desk]["job"] = json!(work.id.as_str());
        rows[desk]["for_ms"] = json!(ms(work.since, now));
    }
    let waits = life.inbox_waits().map(|since| ms(since, now));
    rows.push(json!({"thread": "intake", "step": "waits for the inbox", "for_ms": waits}));
    rows.push(json!({"thread": "keeper", "step": "answers this"}));
    Value::Array(rows)
}

/// Where one job is; `None`: not here.
fn job(id: &str, engine: &Engine, pool_threads: usize, now: Instant) -> Option<Value> {
    let parked = engine.scheduler.look_at(id, |flight, due| {
        let due = due.map(|due| ms(now, due));
        parked(flight, due)
    });
    let moving = || {
        let since = engine.scheduler.transfers_since(id)?;
        Some(json!({"where": "transfer", "for_ms": ms(since, now)}))
    };
    let on_desk = engine.desks.indexed().into_iter();
    let on_desk = on_desk
        .filter(|(_, work)| work.id.as_str() == id)
        .map(|(desk, work)| {
            json!({
                "where": "thread", "thread": name(desk, pool_threads),
                "step": work.phase.as_str(), "for_ms": ms(work.since, now),
                "heard": heard(work.heard),
            })
        })
        .next();
    on_desk.or(parked).or_else(moving)
}

fn heard(heard: Heard) -> &'static str {
    match heard {
        Heard::Nothing => "nothing",
        Heard::Queued => "queued",
        Heard::Runs => "runs",
    }
}

/// `due_ms`: until its next step; without one it waits for a thread or a place at fal.
fn parked(flight: &Flight, due_ms: Option<u64>) -> Value {
    json!({
        "where": if due_ms.is_some() { "parked" } else { "claimed" },
        "step": flight.phase.as_str(),
        "due_ms": due_ms,
        "heard": heard(flight.watch.heard()),
        "ahead": flight.watch.ahead(),
        "tries": flight.step_tries,
        "unsaved": !flight.unsaved.is_empty(),
        "cancelling": flight.cancelling.is_some(),
        "cancel_asked": flight.cancel_asked,
        // It has a place among the messages that its bot or its chat may get.
        "turn_at": flight.turn.as_ref().map(|turn| turn.at.0),
        "file_missing_since": flight.unfetched_since.map(|at| at.0),
        "no_room": flight.no_room,
    })
}
