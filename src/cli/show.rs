//! `show`: all that is known of one job, its record and its timeline.

use super::admin::{away, open};
use super::table::{clock, plain_table, visible};
use super::{INCOMPLETE, ShowArgs};
use crate::config::StoreConfig;
use crate::job::{JobId, UnixMs};
use serde_json::{Value, json};

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
