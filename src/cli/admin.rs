//! Commands on a live system. They need Redis and nothing else, and own nothing in it.

use super::{EnqueueArgs, INCOMPLETE, ShowArgs, StatusArgs, UNAVAILABLE};
use crate::config::StoreConfig;
use crate::job::spec;
use crate::job::{JobId, UnixMs};
use crate::store::view::{Status, View};
use crate::store::{Fault, made_id};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::time::Duration;

/// Time between two looks of `--wait` and `--watch`.
const LOOK: Duration = Duration::from_millis(200);
const WATCH: Duration = Duration::from_secs(2);
/// Jobs pushed between two waits of `--wait-replicas`, and how long one may take.
const BATCH: usize = 100;
const REPLICAS: Duration = Duration::from_secs(3);

pub(super) fn open(store: &StoreConfig) -> Result<View, u8> {
    View::open(&store.redis.server(), &store.namespace, &store.inbox).map_err(|fault| away(&fault))
}

pub(super) fn away(fault: &Fault) -> u8 {
    eprintln!("fal-worker: {fault}");
    UNAVAILABLE
}

/// `enqueue`: checks each job first; a bad line is not pushed, is named by its number and makes the exit 1.
pub(super) fn enqueue(args: &EnqueueArgs, store: &StoreConfig) -> u8 {
    match enqueue_all(args, store) {
        Ok(code) | Err(code) => code,
    }
}

fn enqueue_all(args: &EnqueueArgs, store: &StoreConfig) -> Result<u8, u8> {
    let mut view = open(store)?;
    let now = view.now().map_err(|fault| away(&fault))?;
    let mut code = 0;
    let mut ids = Vec::new();
    let mut unsure = 0;
    let mut put = |entry: &[u8], place: &str| -> Result<(), u8> {
        match checked(entry, now) {
            Ok((id, entry)) => {
                view.push(&entry).map_err(|fault| away(&fault))?;
                if writeln!(std::io::stdout(), "{id}").is_err() {
                    // Whoever reads the ids has gone: what follows would be pushed without a trace.
                    eprintln!(
                        "fal-worker: {id} is pushed, but nobody reads the ids any more; stopped"
                    );
                    return Err(INCOMPLETE);
                }
                ids.push(id);
                unsure += 1;
                if unsure == BATCH {
                    replicated(args, &mut view, std::mem::take(&mut unsure), &mut code)?;
                }
            }
            Err(why) => {
                eprintln!("fal-worker: {place}{why}");
                code = INCOMPLETE;
            }
        }
        Ok(())
    };
    match &args.model {
        Some(model) => put(built(args, model)?.as_bytes(), "")?,
        None => {
            for (number, line) in lines(args)?.enumerate() {
                let line = line.map_err(|error| {
                    eprintln!("fal-worker: line {}: {error}", number + 1);
                    INCOMPLETE
                })?;
                let line = line.trim_ascii();
                if !line.is_empty() {
                    put(line, &format!("line {}: ", number + 1))?;
                }
            }
        }
    }
    replicated(args, &mut view, unsure, &mut code)?;
    // A pipe that reads ids must have them before we wait.
    let _ = std::io::stdout().flush();
    if args.wait && !all_done(&mut view, ids)? {
        code = INCOMPLETE;
    }
    Ok(code)
}

/// `--wait-replicas`: the last `jobs` stand in so many replicas, or a warning says that they do not. They are
/// pushed all the same: to push them again is safe only with the same ids.
fn replicated(args: &EnqueueArgs, view: &mut View, jobs: usize, code: &mut u8) -> Result<(), u8> {
    let (Some(wanted), 1..) = (args.wait_replicas, jobs) else {
        return Ok(());
    };
    // The ids go out first: a reader of a pipe knows them whatever comes now.
    let _ = std::io::stdout().flush();
    let have = view.wait_replicas(wanted, REPLICAS);
    let have = have.map_err(|fault| away(&fault))?;
    if have < wanted {
        eprintln!(
            "fal-worker: the last {jobs} jobs are pushed, but {have} of {wanted} replicas said within {} s \
             that they have them",
            REPLICAS.as_secs()
        );
        *code = INCOMPLETE;
    }
    Ok(())
}

type Lines = Box<dyn Iterator<Item = std::io::Result<Vec<u8>>>>;

fn lines(args: &EnqueueArgs) -> Result<Lines, u8> {
    let input: Box<dyn Read> = match &args.file {
        Some(path) if path.as_os_str() != "-" => match File::open(path) {
            Ok(file) => Box::new(file),
            Err(error) => {
                eprintln!("fal-worker: {}: {error}", path.display());
                return Err(INCOMPLETE);
            }
        },
        Some(_) | None => {
            if std::io::stdin().is_terminal() {
                eprintln!(
                    "fal-worker: reading jobs from the terminal, one JSON object a line; end with Ctrl-D"
                );
            }
            Box::new(std::io::stdin())
        }
    };
    Ok(Box::new(BufReader::new(input).split(b'\n')))
}

/// One job from `--model`, `--input` and `--chat`, put together as text: the input stays as it is typed.
fn built(args: &EnqueueArgs, model: &str) -> Result<String, u8> {
    let input = args.input.as_deref().unwrap_or("{}");
    let telegram = match args.chat.as_deref() {
        None => String::new(),
        Some(chat) if chat.starts_with('@') => {
            format!(r#","telegram":{{"chat_id":{}}}"#, json!(chat))
        }
        Some(chat) => match chat.parse::<i64>() {
            Ok(chat) => format!(r#","telegram":{{"chat_id":{chat}}}"#),
            Err(_) => {
                eprintln!("fal-worker: --chat: expected a number or @name");
                return Err(super::USAGE);
            }
        },
    };
    Ok(format!(
        r#"{{"model":{},"input":{input}{telegram}}}"#,
        json!(model)
    ))
}

/// Checks an entry, and gives it an id if it has none; every other byte stays.
fn checked(entry: &[u8], now: UnixMs) -> Result<(JobId, Vec<u8>), String> {
    let spec = spec::parse(entry, Some(now)).map_err(|invalid| invalid.error)?;
    if let Some(id) = spec.id {
        return Ok((id, entry.to_vec()));
    }
    let id = made_id();
    let brace = entry.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let mut with_id = entry[..=brace].to_vec();
    with_id.extend_from_slice(format!(r#""id":"{id}","#).as_bytes());
    // `"id": null` counts as absent, but a key given twice does not pass.
    with_id.extend_from_slice(&entry[brace + 1..]);
    // `"id": null` counts as absent, but stays in the entry: two of the key would not pass.
    spec::parse(&with_id, Some(now))
        .map_err(|_| "id: null is no id: give one, or leave the key out".to_owned())?;
    Ok((id, with_id))
}

/// Follows jobs to their end.
fn all_done(view: &mut View, mut ids: Vec<JobId>) -> Result<bool, u8> {
    let mut all = true;
    while !ids.is_empty() {
        let states = view.states(&ids).map_err(|fault| away(&fault))?;
        let mut open = Vec::new();
        for (id, state) in ids.into_iter().zip(states) {
            match state.as_deref() {
                Some("done") => {}
                Some(state @ ("dead" | "cancelled")) => {
                    let record = view.record(&id).map_err(|fault| away(&fault))?;
                    let say = |name: &str| record.get(name).map_or("", String::as_str);
                    eprintln!(
                        "fal-worker: {id} ended {state}: {} {}",
                        say("kind"),
                        say("error")
                    );
                    all = false;
                }
                Some(_) | None => open.push(id),
            }
        }
        ids = open;
        if !ids.is_empty() {
            std::thread::sleep(LOOK);
        }
    }
    Ok(all)
}

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

fn plain_table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(heads.iter().copied());
    table
}

/// A span as people read it: two units at most.
fn short(span: Duration) -> String {
    if span < Duration::from_secs(10) {
        return format!("{:.1}s", span.as_secs_f64());
    }
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
}

/// `show`: an unknown id exits 1.
pub(super) fn show(args: &ShowArgs, store: &StoreConfig) -> u8 {
    match show_job(args, store) {
        Ok(code) | Err(code) => code,
    }
}

fn show_job(args: &ShowArgs, store: &StoreConfig) -> Result<u8, u8> {
    let Some(id) = JobId::new(&args.id) else {
        eprintln!(
            "fal-worker: {:?} is no id: 1-128 of letters, digits and . _ : -",
            args.id
        );
        return Err(INCOMPLETE);
    };
    let mut view = open(store)?;
    let record = view.record(&id).map_err(|fault| away(&fault))?;
    if record.is_empty() {
        eprintln!("fal-worker: no job {id} is known");
        return Err(INCOMPLETE);
    }
    let from = record
        .get("queued_at")
        .and_then(|at| at.parse().ok())
        .map(UnixMs)
        .unwrap_or_default();
    let events = view.events_of(&id, from).map_err(|fault| away(&fault))?;
    let entry = if args.spec {
        view.entry(&id).map_err(|fault| away(&fault))?
    } else {
        None
    };
    // The result may echo a prompt, a redelivery holds the words of its message, and `inputs` says where the
    // user's pictures lie: like the input they are shown only when asked for.
    let hidden = ["result", "raw", "sent_to", "inputs"];
    let shown = record
        .iter()
        .filter(|(name, _)| args.spec || !hidden.contains(&name.as_str()));
    if args.json {
        let record: serde_json::Map<String, Value> = shown
            .map(|(name, value)| (name.clone(), Value::String(value.clone())))
            .collect();
        let events: Vec<Value> = events
            .iter()
            .map(|(_, fields)| {
                Value::Object(
                    fields
                        .iter()
                        .map(|(name, value)| (name.clone(), json!(value)))
                        .collect(),
                )
            })
            .collect();
        let mut whole = json!({"id": id.as_str(), "record": record, "events": events});
        if args.spec {
            whole["spec"] = json!(entry);
        }
        println!("{whole}");
        return Ok(0);
    }
    let mut table = plain_table(&["field", "value"]);
    for (name, value) in shown {
        let time = name
            .ends_with("_at")
            .then(|| value.parse().ok().map(clock))
            .flatten();
        table.add_row([name.clone(), time.unwrap_or_else(|| visible(value))]);
    }
    println!("job {id}\n\n{table}\n");
    let mut table = plain_table(&["time", "event", "attempt", "details"]);
    for (_, fields) in &events {
        let get = |wanted: &str| {
            fields
                .iter()
                .find(|(name, _)| name == wanted)
                .map_or("", |(_, value)| value)
        };
        let details: Vec<String> = fields
            .iter()
            .filter(|(name, _)| {
                !matches!(
                    name.as_str(),
                    "event" | "job" | "user" | "model" | "at" | "attempt" | "meta"
                )
            })
            .map(|(name, value)| format!("{name}={}", visible(value)))
            .collect();
        let at = get("at").parse().map_or_else(|_| String::new(), clock);
        table.add_row([
            at,
            get("event").to_owned(),
            get("attempt").to_owned(),
            details.join(" "),
        ]);
    }
    println!("{table}");
    if let Some(entry) = entry {
        println!("\n{}", visible(&entry));
    }
    Ok(0)
}

fn clock(ms: i64) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_millis(ms.max(0).unsigned_abs());
    humantime::format_rfc3339_millis(at).to_string()
}

/// Data of a job on a terminal: control characters as what they are.
fn visible(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}
