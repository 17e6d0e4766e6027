//! `show`: all that is known of one job: what matters first, the rest behind it, and a timeline.

use super::admin::{away, known_id, open, say};
use super::operate::UNREAD;
use super::table::{clock, columns, event_words, json_line, short, time_of_day, visible};
use super::{INCOMPLETE, ShowArgs};
use crate::config::StoreConfig;
use crate::job::{JobId, UnixMs, gathered};
use crate::store::view::{EventView, field};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The result may echo a prompt, a redelivery holds the words of its message, and `inputs` says where the
/// user's pictures lie: like the input they are shown only when asked for.
const HIDDEN: [&str; 4] = ["result", "raw", "sent_to", "inputs"];
/// What people look for, in this order; all else stands behind it.
const FIRST: [&str; 27] = [
    "state",
    "phase",
    "redelivers",
    "kind",
    "error",
    "charged",
    "units",
    "model",
    "user",
    "priority",
    "attempt",
    "request_id",
    "tried",
    "worker",
    "message_ids",
    "file_ids",
    "queued_at",
    "not_before",
    "due_at",
    "started_at",
    "submitted_at",
    "running_at",
    "completed_at",
    "ended_at",
    "expires_at",
    "told",
    "meta",
];
/// The worker's own book-keeping.
const LAST: [&str; 6] = ["life", "seq", "token", "waits", "v", "max_attempts"];

/// `show`: an unknown id exits 1.
pub(super) fn show(args: &ShowArgs, store: &StoreConfig) -> u8 {
    match show_job(args, store) {
        Ok(code) | Err(code) => code,
    }
}

fn show_job(args: &ShowArgs, store: &StoreConfig) -> Result<u8, u8> {
    let id = known_id(&args.id)?;
    let mut view = open(store)?;
    let mut record = view.record(&id).map_err(|fault| away(&fault))?;
    if record.is_empty() {
        match view.in_inbox(&id).map_err(|fault| away(&fault))? {
            Some(_) => eprintln!("fal-worker: {id} {UNREAD}"),
            None => eprintln!(
                "fal-worker: no job {id} is known in namespace {}",
                store.namespace
            ),
        }
        return Err(INCOMPLETE);
    }
    let from = record
        .get("first_queued_at")
        .or(record.get("queued_at"))
        .and_then(|at| at.parse().ok())
        .map(UnixMs);
    let events = view
        .events_of(&id, from.unwrap_or_default())
        .map_err(|fault| away(&fault))?;
    let entry = if args.spec {
        view.entry(&id).map_err(|fault| away(&fault))?
    } else {
        record.retain(|name, _| !HIDDEN.contains(&name.as_str()));
        None
    };
    if args.json {
        let mut whole =
            json!({"id": id.as_str(), "record": record, "events": as_json(&events, args.spec)});
        if args.spec {
            whole["spec"] = json!(entry);
        }
        say(&json_line(&whole));
        return Ok(0);
    }
    let now = view.now().map_err(|fault| away(&fault))?;
    let mut page = page(&id, &record, &events, now);
    if args.spec {
        page += &files(&events);
    }
    if let Some(entry) = entry {
        page += &format!("\n{}\n", visible(&entry));
    }
    say(&page);
    Ok(0)
}

/// The events as they stand in the stream; where a result lies is told only with the input.
fn as_json(events: &[EventView], spec: bool) -> Vec<Value> {
    let event = |(_, fields): &EventView| {
        let fields = fields.iter().filter(|(name, _)| spec || name != "files");
        Value::Object(gathered(
            fields.map(|(name, value)| (name.clone(), json!(value))),
        ))
    };
    events.iter().map(event).collect()
}

fn files(events: &[EventView]) -> String {
    let urls = events.iter().map(|event| field(event, "files"));
    let urls: Vec<String> = urls
        .filter(|urls| !urls.is_empty())
        .filter_map(|urls| serde_json::from_str::<Vec<String>>(urls).ok())
        .next_back()
        .unwrap_or_default();
    urls.iter()
        .map(|url| format!("\nfile {}", visible(url)))
        .collect::<String>()
        + if urls.is_empty() { "" } else { "\n" }
}

fn page(
    id: &JobId,
    record: &BTreeMap<String, String>,
    events: &[EventView],
    now: UnixMs,
) -> String {
    let rest = record.keys().map(String::as_str);
    let rest = rest.filter(|name| !FIRST.contains(name) && !LAST.contains(name));
    let names = FIRST.into_iter().chain(rest).chain(LAST);
    let rows: Vec<Vec<String>> = names
        .filter_map(|name| {
            let value = record.get(name).filter(|value| !value.is_empty())?;
            Some(vec![name.to_owned(), value_of(name, value, record, now)])
        })
        .collect();
    let mut out = format!(
        "job {id}\n\n{}\n",
        columns(&["FIELD", "VALUE"], &rows, usize::MAX)
    );
    if events.is_empty() {
        return out
            + &match record.get("redelivers") {
                None if record.get("kind").is_some_and(|kind| kind == "invalid_job")
                    && !record.contains_key("ended_at") =>
                {
                    "its one event, failed, follows once its user is told\n".to_owned()
                }
                None => "no event of it is kept any more\n".to_owned(),
                Some(of) => {
                    let stands = match record.contains_key("ended_at") {
                        true => "stands",
                        false => "will stand",
                    };
                    let of = visible(of);
                    format!(
                        "its one event, redelivered, {stands} with job {of}: fal-worker show {of}\n"
                    )
                }
            };
    }
    let mut before: Option<i64> = None;
    let mut day = String::new();
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| {
            let at: Option<i64> = field(event, "at").parse().ok();
            let after = at
                .zip(before)
                .map(|(at, before)| at.saturating_sub(before).max(0));
            before = at.or(before);
            let today = at.map(|at| clock(at)[..10].to_owned()).unwrap_or_default();
            let time = at.map_or(String::new(), |at| match today == day {
                true => format!("{:>10} {}", "", clock(at)[11..23].to_owned()),
                false => format!("{today} {}", clock(at)[11..23].to_owned()),
            });
            day = today;
            vec![
                time,
                after.map_or(String::new(), |after| format!("+{}", short(ms(after)))),
                visible(field(event, "event")),
                event_words(event),
            ]
        })
        .collect();
    out += &columns(&["TIME (UTC)", "AFTER", "EVENT", ""], &rows, usize::MAX);
    out
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn value_of(name: &str, value: &str, record: &BTreeMap<String, String>, now: UnixMs) -> String {
    if name == "attempt" {
        return match record.get("max_attempts") {
            Some(most) => format!("{} of {}", visible(value), visible(most)),
            None => visible(value),
        };
    }
    let is_time =
        name.ends_with("_at") || matches!(name, "not_before" | "cancel_asked" | "cancelling");
    match value.parse::<i64>() {
        Ok(at) if is_time && at > 0 => {
            let (past, ahead) = (UnixMs(at).until(now), now.until(UnixMs(at)));
            let when = if ahead.is_zero() {
                format!("{} ago", short(past))
            } else {
                format!("in {}", short(ahead))
            };
            let day = if past.max(ahead) < Duration::from_secs(12 * 3600) {
                time_of_day(at)
            } else {
                clock(at)
            };
            format!("{day} ({when})")
        }
        _ => visible(value),
    }
}
