//! `status`: queues, workers and what happened lately, as a page, as JSON, or as a screen that stays fresh.

mod lately;
mod screen;
mod threads;

use super::admin::{away, end_cleanly, is_read, open, say};
use super::table::{columns, cut, height, json_line, moment, short, visible, width};
use super::{INCOMPLETE, StatusArgs};
use crate::config::StoreConfig;
use crate::job::{UnixMs, gathered};
use crate::store::Fault;
use crate::store::view::{PauseView, Status, View};
use lately::Lately;
use serde_json::{Map, Value, json};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// One step of a wait, after which the size of the terminal and the reader are looked at.
const STEP: Duration = Duration::from_millis(100);

/// Time between two looks of `--watch`.
const WATCH: Duration = Duration::from_secs(2);

/// `status`. `--threads` exits 1 unless every worker answered.
pub(super) fn status(args: &StatusArgs, store: &StoreConfig) -> u8 {
    match look(args, store) {
        Ok(code) | Err(code) => code,
    }
}

fn look(args: &StatusArgs, store: &StoreConfig) -> Result<u8, u8> {
    let mut view = open(store)?;
    if args.watch && !args.json && !args.threads && std::io::stdout().is_terminal() {
        return watch(view, store);
    }
    let address = store.redis.to_string();
    let mut code = 0;
    let on_screen = args.watch && std::io::stdout().is_terminal() && !args.json;
    if args.watch {
        end_cleanly(if on_screen { screen::LEAVE } else { "" });
    }
    if on_screen {
        say(screen::ENTER);
    }
    loop {
        let answered = answer(args, &mut view, &address);
        let (text, whole) = answered.map_err(|fault| {
            if on_screen {
                say(screen::LEAVE);
            }
            away(&fault)
        })?;
        if !whole {
            code = INCOMPLETE;
        }
        let text = if on_screen {
            let lines: Vec<String> = text.lines().map(|line| cut(line, width())).collect();
            screen::frame(&lines, height())
        } else {
            text
        };
        if !say(&text) || !args.watch {
            return Ok(code);
        }
        pause(WATCH);
        if !is_read() {
            return Ok(code);
        }
    }
}

/// What is printed once, and whether all workers that were asked answered.
fn answer(args: &StatusArgs, view: &mut View, address: &str) -> Result<(String, bool), Fault> {
    let said = match args.threads {
        true => threads::ask(view)?,
        false => Vec::new(),
    };
    let whole = said.iter().all(threads::Said::is_answer);
    if args.json {
        let mut json = status_json(&view.status()?, address);
        if args.threads {
            json["threads"] = threads::as_json(&said);
        }
        return Ok((json_line(&json), whole));
    }
    if args.threads {
        return Ok((threads::text(&said), whole));
    }
    Ok((status_text(&view.status()?, address), whole))
}

/// The screen, until somebody ends it. A Redis that goes away leaves the last picture, with a word.
fn watch(view: View, store: &StoreConfig) -> Result<u8, u8> {
    let address = store.redis.to_string();
    let mut view = Some(view);
    let mut lately = Lately::default();
    let mut last: Option<Picture> = None;
    let mut lost: Option<Instant> = None;
    loop {
        let looked = match &mut view {
            Some(view) => picture(view, &mut lately),
            None => match open_again(store) {
                Ok(fresh) => picture(view.insert(fresh), &mut lately),
                Err(fault) => Err(fault),
            },
        };
        match looked {
            Ok(seen) => {
                if last.is_none() {
                    // Only now: a Redis that never answered is an error like any other.
                    end_cleanly(screen::LEAVE);
                    say(screen::ENTER);
                }
                last = Some(seen);
                lost = None;
            }
            Err(fault) if last.is_none() => return Err(away(&fault)),
            Err(_) => {
                view = None;
                lost.get_or_insert_with(Instant::now);
            }
        }
        if let Some((status, now, minutes)) = &last {
            let seen = screen::Seen {
                status,
                address: &address,
                now: *now,
                minutes,
                lately: &lately,
                lost: lost.map(|since| since.elapsed()),
            };
            let lines = screen::compose(&seen, width());
            if !say(&screen::frame(&lines, height())) {
                return Ok(0);
            }
        }
        pause(WATCH);
        if !is_read() {
            return Ok(0);
        }
    }
}

type Picture = (Status, UnixMs, Vec<(u64, u64)>);

fn picture(view: &mut View, lately: &mut Lately) -> Result<Picture, Fault> {
    let now = view.now()?;
    lately.refresh(view, now)?;
    Ok((view.status()?, now, view.ends_by_minute(5)?))
}

fn open_again(store: &StoreConfig) -> Result<View, Fault> {
    View::open(&store.redis.server(), &store.namespace, &store.inbox)
}

/// Between two looks; shorter where the terminal has changed its size.
fn pause(span: Duration) {
    let until = Instant::now() + span;
    let size = (width(), height());
    while Instant::now() < until && size == (width(), height()) && is_read() {
        std::thread::sleep(STEP);
    }
}

fn status_json(status: &Status, address: &str) -> Value {
    let queues: Map<String, Value> = gathered(status.queues.iter().map(|queue| {
        let oldest = queue.oldest.map(|age| age.as_secs_f64());
        let said = json!({"depth": queue.depth, "oldest_s": oldest});
        (queue.name.to_owned(), said)
    }));
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
    let limits: Map<String, Value> = gathered(status.limits.iter().map(|limit| {
        let at = limit.at.map(|at| at.0);
        let said = json!({"value": limit.value, "by": limit.by, "at": at});
        (limit.flag.to_owned(), said)
    }));
    let paused = status.paused.as_ref().map(|pause| {
        json!({
            "reason": pause.reason,
            "by": pause.by,
            "since": pause.since.0,
            "until": pause.until.map(|until| until.0),
        })
    });
    let at_fal = status.at_fal.iter();
    let at_fal: Map<String, Value> = gathered(
        at_fal.map(|(what, (now, most))| (what.clone(), json!({"now": now, "most": most}))),
    );
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
        "troubles": status.troubles_json(),
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
    for line in trouble_lines(status, status.now) {
        out += &format!("{line}\n\n");
    }
    let queues = status.queues.iter().map(|queue| {
        let oldest = queue.oldest.map_or("-".to_owned(), short);
        vec![queue.name.to_owned(), queue.depth.to_string(), oldest]
    });
    let queues: Vec<Vec<String>> = queues.collect();
    out += &columns(&["queue", "depth", "oldest"], &queues, usize::MAX);
    out += "\n";
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
        out += &format!("held back by: {}\n", held_words(status));
    }
    if !status.at_fal.is_empty() {
        out += &format!("at fal: {}\n", at_fal_words(status));
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
    let workers = status.workers.iter().map(|worker| {
        vec![
            visible(&worker.instance),
            visible(&worker.version),
            worker.threads.to_string(),
            worker.in_flight.to_string(),
            format!("{} ago", short(worker.beat_age)),
        ]
    });
    let workers: Vec<Vec<String>> = workers.collect();
    let heads = ["worker", "version", "threads", "in flight", "last beat"];
    out + &columns(&heads, &workers, usize::MAX)
}

/// Why jobs may not move: `FAL DOES NOT ANSWER since 22:52 UTC, say 2 of 3 workers`, and the pause.
fn trouble_lines(status: &Status, now: UnixMs) -> Vec<String> {
    let troubles = status.troubles.iter().map(|one| {
        let what = match one.what {
            "fal" => "FAL DOES NOT ANSWER",
            "submits" => "FAL TAKES NO NEW JOBS",
            "direct" => "FAL TAKES NO DIRECT CALLS",
            "telegram" => "TELEGRAM DOES NOT ANSWER",
            "bot" => "TELEGRAM REFUSES THE BOT",
            "redis_full" => "REDIS IS FULL: it takes no new jobs",
            "redis_disk" => "REDIS CANNOT WRITE ITS FILE: it takes no writes",
            _ => "REDIS IS A REPLICA: it takes no writes",
        };
        match one.since {
            None => what.to_owned(),
            Some(at) => format!(
                "{what} since {}, say {} of {} workers",
                moment(at, now),
                one.workers,
                status.workers.len()
            ),
        }
    });
    let pause = status.paused.iter().map(|pause| paused_words(pause, now));
    troubles.chain(pause).collect()
}

/// `PAUSED by root@vm since 22:52 UTC, until 23:02 UTC: new prices`.
fn paused_words(pause: &PauseView, now: UnixMs) -> String {
    let until = pause.until.map_or(String::new(), |until| {
        format!(", until {}", moment(until, now))
    });
    format!(
        "PAUSED by {} since {}{until}: {}",
        visible(&pause.by),
        moment(pause.since, now),
        visible(&pause.reason)
    )
}

/// What holds jobs back, and how many.
fn held_words(status: &Status) -> String {
    let words = |why: &str| match why {
        "turn" => "their user's turn".to_owned(),
        why => format!("--{}", why.replace('_', "-")),
    };
    let held = status.held.iter();
    let held: Vec<String> = held.map(|(why, n)| format!("{} {n}", words(why))).collect();
    held.join(", ")
}

/// Places at fal, and how many of them are in use.
fn at_fal_words(status: &Status) -> String {
    let places = status.at_fal.iter();
    let places: Vec<String> = places
        .map(|(what, (now, most))| format!("{} {now} of {most}", visible(what)))
        .collect();
    places.join(", ")
}
