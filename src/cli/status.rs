//! `status`: queues, workers and what happened lately, as a page or as JSON.

use super::StatusArgs;
use super::admin::{away, open};
use super::table::{plain_table, short};
use crate::config::StoreConfig;
use crate::store::view::Status;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Time between two looks of `--watch`.
const WATCH: Duration = Duration::from_secs(2);

/// `status`.
pub(super) fn status(args: &StatusArgs, store: &StoreConfig) -> u8 {
    let mut view = match open(store) {
        Ok(view) => view,
        Err(code) => return code,
    };
    loop {
        let status = match view.status() {
            Ok(status) => status,
            Err(fault) => return away(&fault),
        };
        let text = if args.json {
            format!("{}\n", status_json(&status, &store.redis.to_string()))
        } else {
            status_text(&status, &store.redis.to_string())
        };
        let home = if args.watch && std::io::stdout().is_terminal() {
            "\x1b[H\x1b[J"
        } else {
            ""
        };
        if write!(std::io::stdout(), "{home}{text}")
            .and_then(|()| std::io::stdout().flush())
            .is_err()
        {
            return 0; // whoever read it has gone
        }
        if !args.watch {
            return 0;
        }
        std::thread::sleep(WATCH);
    }
}

fn status_json(status: &Status, address: &str) -> Value {
    let queues: serde_json::Map<String, Value> = status
        .queues
        .iter()
        .map(|queue| {
            let oldest = queue.oldest.map(|age| age.as_secs_f64());
            (
                queue.name.to_owned(),
                json!({"depth": queue.depth, "oldest_s": oldest}),
            )
        })
        .collect();
    let workers: Vec<Value> = status
        .workers
        .iter()
        .map(|worker| {
            json!({
                "instance": worker.instance,
                "version": worker.version,
                "threads": worker.threads,
                "in_flight": worker.in_flight,
                "beat_age_s": worker.beat_age.as_secs_f64(),
            })
        })
        .collect();
    let limits: serde_json::Map<String, Value> = (status.limits.iter())
        .map(|limit| {
            let at = limit.at.map(|at| at.0);
            let said = json!({"value": limit.value, "by": limit.by, "at": at});
            (limit.flag.to_owned(), said)
        })
        .collect();
    let paused = status.paused.as_ref().map(|pause| {
        json!({
            "reason": pause.reason,
            "by": pause.by,
            "since": pause.since.0,
            "until": pause.until.map(|until| until.0),
        })
    });
    let at_fal: serde_json::Map<String, Value> = (status.at_fal.iter())
        .map(|(what, (now, most))| (what.clone(), json!({"now": now, "most": most})))
        .collect();
    json!({
        "redis": {"address": address, "version": status.redis_version, "memory": status.redis_memory},
        "queues": queues,
        "later": status.later,
        "waiting": status.waiting,
        "held": status.held,
        "at_fal": at_fal,
        "limits": limits,
        "dead": status.dead,
        "running": status.running,
        "workers": workers,
        "last_5m": {"done": status.last_5m.0, "failed": status.last_5m.1},
        "paused": paused,
        "repairs": status.repairs,
        "newer": status.newer,
    })
}

fn status_text(status: &Status, address: &str) -> String {
    let mut out = format!(
        "redis {} at {address}, {} used\n\n",
        status.redis_version, status.redis_memory
    );
    if let Some(pause) = &status.paused {
        out += &format!("PAUSED by {}: {}\n\n", pause.by, pause.reason);
    }
    let mut table = plain_table(&["queue", "depth", "oldest"]);
    for queue in &status.queues {
        table.add_row([
            queue.name.to_owned(),
            queue.depth.to_string(),
            queue.oldest.map_or("-".to_owned(), short),
        ]);
    }
    out += &format!("{table}\n\n");
    out += &format!(
        "later {}, waiting {}, dead {}\n",
        status.later, status.waiting, status.dead
    );
    if status.newer > 0 {
        out += &format!(
            "left alone, since a newer version wrote them: {}; upgrade the workers\n",
            status.newer
        );
    }
    if !status.held.is_empty() {
        let words = |why: &str| match why {
            "turn" => "their user's turn".to_owned(),
            why => format!("--{}", why.replace('_', "-")),
        };
        let held = status.held.iter();
        let held: Vec<String> = held.map(|(why, n)| format!("{} {n}", words(why))).collect();
        out += &format!("held back by: {}\n", held.join(", "));
    }
    if !status.at_fal.is_empty() {
        let places = status.at_fal.iter();
        let places: Vec<String> = places
            .map(|(what, (now, most))| format!("{what} {now} of {most}"))
            .collect();
        out += &format!("at fal: {}\n", places.join(", "));
    }
    for limit in &status.limits {
        let by = limit.by.as_deref().unwrap_or("hand");
        out += &format!("--{} {}, set by {by}\n", limit.flag, limit.value);
    }
    let running: Vec<String> = status
        .running
        .iter()
        .map(|(phase, n)| format!("{phase} {n}"))
        .collect();
    out += &format!(
        "running: {}\n",
        if running.is_empty() {
            "nothing".to_owned()
        } else {
            running.join(", ")
        }
    );
    out += &format!(
        "last 5 minutes: {} done, {} failed\n\n",
        status.last_5m.0, status.last_5m.1
    );
    if status.workers.is_empty() {
        out += "no worker runs\n";
        return out;
    }
    let mut table = plain_table(&["worker", "version", "threads", "in flight", "last beat"]);
    for worker in &status.workers {
        table.add_row([
            worker.instance.clone(),
            worker.version.clone(),
            worker.threads.to_string(),
            worker.in_flight.to_string(),
            format!("{} ago", short(worker.beat_age)),
        ]);
    }
    out + &format!("{table}\n")
}
