//! What the page shows, read from Redis and written as JSON. Each part is bounded, whatever lies there.

use crate::job::minutes::{Counts, Minute};
use crate::job::{UnixMs, gathered};
use crate::report;
use crate::store::view::{Status, View};
use crate::store::{DeadView, Fault, Flights, Store};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Plots: the last hour by the minute, the last day by ten minutes.
const HOUR: i64 = 60;
const DAY: i64 = 24 * 60;
const SLOT: i64 = 10;
/// Jobs in flight whose model and phase are asked for.
const FLIGHTS: usize = 20_000;
/// Failures shown.
const FAILURES: usize = 20;
/// Dead letters counted by kind; how often, where they are more than so many.
const DEAD: usize = 10_000;
const DEAD_AT_ONCE: u64 = 500;
const DEAD_PACE: Duration = Duration::from_secs(20);
/// Rows of a table.
const ROWS: usize = 100;
/// Characters of a text that somebody else wrote.
const LONGEST: usize = 400;

/// What was read before and does not change any more.
#[derive(Default)]
pub(super) struct History {
    /// Ten minutes each, by number; only whole ones that lie over an hour back.
    slots: BTreeMap<i64, Minute>,
    dead: Option<DeadKinds>,
}

/// Dead letters by kind, as of some moment.
struct DeadKinds {
    read: Instant,
    /// How many there were, and when the newest ended: unchanged, nothing is counted again.
    mark: (u64, Option<UnixMs>),
    kinds: BTreeMap<String, u64>,
    looked: usize,
}

/// Everything, or why not.
pub(super) fn read(store: &Store, history: &mut History) -> Result<Value, Fault> {
    let began = Instant::now();
    let mut view = store.view()?;
    let status = view.status()?;
    let now = view.now()?;
    let instances: Vec<String> = status.workers.iter().map(|w| w.instance.clone()).collect();
    let (models, not_looked) = view.flights(&instances, FLIGHTS)?;
    let failures = view.newest_dead(FAILURES)?;
    dead_kinds(&mut view, history, &status, failures.first())?;
    let plots = plots(&mut view, history, now)?;
    drop(view);

    let identity = store.identity();
    let mut all = json!({
        "now": now.0,
        "instance": identity.instance,
        "version": env!("CARGO_PKG_VERSION"),
        "redis": {"version": status.redis_version, "memory": status.redis_memory},
        "later": status.later,
        "waiting": status.waiting,
        "held": status.held,
        "dead": status.dead,
        "running": status.running,
        "not_looked": not_looked,
        "last_5m": {"done": status.last_5m.0, "failed": status.last_5m.1},
        "queues": queues(&status),
        "workers": workers(&status),
        "troubles": status.troubles_json(),
        "paused": paused(&status),
        "in_flight": in_flight(models),
        "failures": failures.iter().map(failure).collect::<Vec<_>>(),
    });
    if let Some(dead) = &history.dead {
        all["dead_kinds"] = json!(dead.kinds);
        all["dead_looked"] = json!(dead.looked);
    }
    for (name, value) in plots {
        all[name] = value;
    }
    all["read_ms"] = json!(began.elapsed().as_millis() as u64);
    Ok(all)
}

fn queues(status: &Status) -> Vec<Value> {
    let queues = status.queues.iter().map(|queue| {
        let oldest = queue.oldest.map(|age| age.as_secs_f64());
        json!({"name": queue.name, "depth": queue.depth, "oldest_s": oldest})
    });
    queues.collect()
}

fn workers(status: &Status) -> Vec<Value> {
    let workers = status.workers.iter().take(ROWS).map(|worker| {
        json!({
            "instance": cut(&worker.instance),
            "version": cut(&worker.version),
            "threads": worker.threads,
            "in_flight": worker.in_flight,
            "beat_age_s": worker.beat_age.as_secs_f64(),
        })
    });
    workers.collect()
}

fn paused(status: &Status) -> Value {
    let paused = status.paused.as_ref().map(|pause| {
        json!({
            "reason": cut(&pause.reason),
            "by": cut(&pause.by),
            "since": pause.since.0,
            "until": pause.until.map(|until| until.0),
        })
    });
    paused.unwrap_or(Value::Null)
}

/// By model, the busiest first.
fn in_flight(models: Flights) -> Vec<Value> {
    let mut rows: Vec<_> = models
        .into_iter()
        .map(|(model, phases)| (phases.values().sum::<u64>(), model, phases))
        .collect();
    rows.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    rows.truncate(ROWS);
    let rows = rows
        .iter()
        .map(|(sum, model, phases)| json!({"model": cut(model), "phases": phases, "sum": sum}));
    rows.collect()
}

fn failure(dead: &DeadView) -> Value {
    json!({
        "id": cut(&dead.id),
        "model": cut(&dead.model),
        "user": cut(&dead.user),
        "kind": cut(&dead.kind),
        "error": cut(&dead.error),
        "charged": cut(&dead.charged),
        "at": dead.at.0,
    })
}

/// Counted again when there are others; where there are many, not often.
fn dead_kinds(
    view: &mut View,
    history: &mut History,
    status: &Status,
    newest: Option<&DeadView>,
) -> Result<(), Fault> {
    let mark = (status.dead, newest.map(|dead| dead.at));
    let fresh = history.dead.as_ref().is_some_and(|known| {
        let many = known.looked as u64 > DEAD_AT_ONCE;
        known.mark == mark || (many && known.read.elapsed() < DEAD_PACE)
    });
    if !fresh {
        let (kinds, looked) = view.dead_kinds(DEAD)?;
        let kinds = kinds.into_iter().map(|(kind, n)| (cut(&kind), n));
        history.dead = Some(DeadKinds {
            read: Instant::now(),
            mark,
            kinds: gathered(kinds),
            looked,
        });
    }
    Ok(())
}

/// The members `hour`, `day` and `models`.
fn plots(
    view: &mut View,
    history: &mut History,
    now: UnixMs,
) -> Result<[(&'static str, Value); 3], Fault> {
    let this = now.0.div_euclid(60_000);
    let (last_slot, first_slot) = (this.div_euclid(SLOT), (this - DAY + SLOT).div_euclid(SLOT));
    // What lies over an hour back is read once; a worker that comes late with it waits for the next who asks.
    let settled = (this - HOUR).div_euclid(SLOT);
    history
        .slots
        .retain(|slot, _| (first_slot..settled).contains(slot));
    let missing = (first_slot..settled).find(|slot| !history.slots.contains_key(slot));
    let from = missing.unwrap_or(settled);
    let read = view.minutes(from * SLOT, this)?;

    let mut slots: BTreeMap<i64, Minute> = BTreeMap::new();
    let mut hour: Vec<Counts> = vec![Counts::default(); HOUR as usize];
    let mut models: BTreeMap<String, (Counts, Counts)> = BTreeMap::new();
    for (minute, bucket) in &read {
        let slot = slots.entry(minute.div_euclid(SLOT)).or_default();
        let place = usize::try_from(minute - (this - HOUR + 1)).ok();
        for (model, counts) in bucket {
            slot.entry(model.clone()).or_default().merge(counts);
            if let Some(place) = place {
                hour[place].merge(counts);
                models.entry(model.clone()).or_default().0.merge(counts);
            }
        }
    }
    for slot in from..settled {
        let known = slots.remove(&slot).unwrap_or_default();
        history.slots.insert(slot, known);
    }
    let day: Vec<Counts> = (first_slot..=last_slot)
        .map(|slot| {
            let mut sum = Counts::default();
            let known = history.slots.get(&slot).or_else(|| slots.get(&slot));
            for (model, counts) in known.into_iter().flatten() {
                sum.merge(counts);
                models.entry(model.clone()).or_default().1.merge(counts);
            }
            sum
        })
        .collect();
    Ok([
        ("hour", series(&hour, this - HOUR + 1, 1)),
        ("day", series(&day, first_slot * SLOT, SLOT)),
        ("models", by_model(models)),
    ])
}

/// One plot: where it begins and how wide its steps are (minutes), then a value each step.
fn series(steps: &[Counts], from: i64, step: i64) -> Value {
    let each = |value: &dyn Fn(&Counts) -> Value| steps.iter().map(value).collect::<Vec<_>>();
    let mut sum = Counts::default();
    steps.iter().for_each(|one| sum.merge(one));
    json!({
        "from": from * 60_000,
        "step": step * 60_000,
        "done": each(&|one| json!(one.done)),
        "failed": each(&|one| json!(one.failed)),
        "cancelled": each(&|one| json!(one.cancelled)),
        "p50": each(&|one| ms(one, 0.5)),
        "p99": each(&|one| ms(one, 0.99)),
        "sum": summary(&sum),
    })
}

/// The busiest of the day first.
fn by_model(models: BTreeMap<String, (Counts, Counts)>) -> Value {
    let ended = |counts: &Counts| counts.done + counts.failed + counts.cancelled;
    let mut rows: Vec<_> = models.into_iter().collect();
    let ended = |row: &(String, (Counts, Counts))| ended(&row.1.1);
    rows.sort_unstable_by(|a, b| ended(b).cmp(&ended(a)).then_with(|| a.0.cmp(&b.0)));
    rows.truncate(ROWS);
    let rows = rows.iter().map(|(model, (hour, day))| {
        json!({"model": cut(model), "hour": summary(hour), "day": summary(day)})
    });
    rows.collect()
}

fn summary(counts: &Counts) -> Value {
    json!({
        "done": counts.done,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "p50": ms(counts, 0.5),
        "p99": ms(counts, 0.99),
    })
}

fn ms(counts: &Counts, part: f64) -> Value {
    let delay = counts.delay(part);
    delay.map_or(Value::Null, |delay| {
        json!((delay.as_secs_f64() * 1000.0).round())
    })
}

/// What somebody else wrote: bounded, and without a secret. Only here: in the whole page a short one, such as
/// the password `redis`, would black out names of members, or break a number.
fn cut(text: &str) -> String {
    let mut text = report::without_secrets(text.to_owned());
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}
