//! `fal-worker demo`: the real daemon as a child process, a private redis-server and the stand-ins, all
//! on loopback, with 24 jobs through the whole path: 20 that must be done and 4 that must fail, each in
//! its way. It believes only the events and the stand-ins' ledgers, never the daemon's own words.

use super::bar::Bar;
use super::child::{WorkerChild, WorkerCommand};
use super::fal::{Outcome, Script};
use super::telegram::{ChatKind, Kind, Message};
use super::{Sandbox, complain, is_interrupted, unprinted, watch_for_interrupt};
use crate::store::view::View;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use redis::IntoConnectionInfo;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The whole run may take this long.
const LIMIT: Duration = Duration::from_secs(60);

/// One job of the script, and what must come of it.
struct Scripted {
    id: &'static str,
    job: Value,
    chat: Option<i64>,
    /// Kinds of the messages that must be visible in the chat at the end, in order.
    shows: Vec<Kind>,
    /// `done`, or the kind of the failure.
    ends: &'static str,
    /// Payments at fal.
    paid: usize,
}

/// What became of one job.
#[derive(Default)]
struct Seen {
    outcome: String,
    attempt: String,
    at: HashMap<String, i64>,
    ends: usize,
}

/// Runs the demo; gives the exit code.
pub fn run() -> u8 {
    match try_run(&mut io::stdout()) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(why) => {
            complain(&format!("fal-worker demo: {why}"));
            1
        }
    }
}

fn try_run(out: &mut impl Write) -> Result<bool, String> {
    writeln!(
        out,
        "fal-worker demo: a private redis-server, stand-ins of fal and Telegram, and the real worker.\n\
         Everything stays on this machine; nothing is paid and no message leaves.\n"
    )
    .map_err(unprinted)?;
    watch_for_interrupt()?;
    let sandbox = Sandbox::start().map_err(|error| error.to_string())?;
    let script = script(&sandbox);
    let mut view = view(&sandbox)?;
    let folder = tempfile::Builder::new()
        .prefix("fal-worker-demo-")
        .tempdir()
        .map_err(|error| error.to_string())?;
    let log = File::create(folder.path().join("log")).map_err(|error| error.to_string())?;
    let mut daemon = start(&sandbox, folder.path(), log)
        .map_err(|error| format!("the worker could not be started: {error}"))?;

    let started = Instant::now();
    for scripted in &script {
        view.push(scripted.job.to_string().as_bytes())
            .map_err(|fault| fault.to_string())?;
    }
    let mut followed = follow(out, &mut view, &script, &mut daemon, started)?;
    let took = started.elapsed();
    daemon.stop();
    if followed.values().any(|seen| seen.ends > 0) {
        // What came between the last look and the stop.
        read_events(&mut view, "0", &mut followed).map_err(|fault| fault.to_string())?;
    }

    let good = report(out, &sandbox, &script, &followed, took).map_err(unprinted)?;
    if !good {
        let log = tail(&folder.path().join("log"));
        writeln!(out, "\nThe last lines of the worker's log:\n{log}").map_err(unprinted)?;
    }
    Ok(good)
}

/// Looks into the sandbox's Redis.
pub(super) fn view(sandbox: &Sandbox) -> Result<View, String> {
    let redis = sandbox.redis.url().into_connection_info();
    let redis = redis.map_err(|error| error.to_string())?;
    View::open(&redis.into(), "fal", "fal:inbox").map_err(|fault| fault.to_string())
}

/// The worker, as an operator would start it.
fn start(sandbox: &Sandbox, folder: &Path, log: File) -> std::io::Result<WorkerChild> {
    WorkerCommand::new(&std::env::current_exe()?, sandbox)
        .flags([
            "--name",
            "demo",
            "--threads",
            "8",
            "--transfer-threads",
            "2",
        ])
        .flags(["--poll-min", "50ms"])
        .variable("TMPDIR", folder)
        .state(&folder.join("state"))
        .log(log)
        .start()
}

/// Reads events until every job has ended or time is up; shows how far it is.
fn follow(
    out: &mut impl Write,
    view: &mut View,
    script: &[Scripted],
    daemon: &mut WorkerChild,
    started: Instant,
) -> Result<HashMap<String, Seen>, String> {
    let mut bar = std::io::stdout().is_terminal().then(Bar::new).flatten();
    let mut seen: HashMap<String, Seen> = HashMap::new();
    let mut last = "0".to_owned();
    let mut shown = 0;
    loop {
        last = read_events(view, &last, &mut seen).map_err(|fault| fault.to_string())?;
        let ended = script
            .iter()
            .filter(|scripted| seen.get(scripted.id).is_some_and(|seen| seen.ends > 0))
            .count();
        let words = format!("{ended}/{} jobs ended", script.len());
        match &mut bar {
            Some(bar) => bar.show("", ended as f64 / script.len() as f64, &words),
            None if ended != shown => writeln!(out, "{words}").map_err(unprinted)?,
            None => {}
        }
        shown = ended;
        if ended == script.len() || started.elapsed() > LIMIT {
            return Ok(seen);
        }
        if is_interrupted() {
            return Err("interrupted".to_owned());
        }
        if !daemon.is_running() {
            return Err("the worker ended by itself".to_owned());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn read_events(
    view: &mut View,
    last: &str,
    seen: &mut HashMap<String, Seen>,
) -> Result<String, crate::store::Fault> {
    if last == "0" {
        seen.clear();
    }
    let mut last = last.to_owned();
    loop {
        let page = view.events_after(&last, 500)?;
        for (id, fields) in &page {
            last.clone_from(id);
            let get = |wanted: &str| {
                fields
                    .iter()
                    .find(|(name, _)| name == wanted)
                    .map_or_else(String::new, |(_, value)| value.clone())
            };
            let one = seen.entry(get("job")).or_default();
            let event = get("event");
            one.at
                .entry(event.clone())
                .or_insert_with(|| get("at").parse().unwrap_or(0));
            if matches!(event.as_str(), "done" | "failed" | "cancelled") {
                one.ends += 1;
                one.attempt = get("attempt");
                one.outcome = if event == "done" { event } else { get("kind") };
            }
        }
        if page.len() < 500 {
            return Ok(last);
        }
    }
}

/// Prints the table and the totals; true when everything is as it must be.
fn report(
    out: &mut impl Write,
    sandbox: &Sandbox,
    script: &[Scripted],
    seen: &HashMap<String, Seen>,
    took: Duration,
) -> io::Result<bool> {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "job",
        "model",
        "in the chat",
        "queue",
        "generation",
        "delivery",
        "total",
        "outcome",
        "",
    ]);
    let (mut wrong, mut failed) = (0, 0);
    for scripted in script {
        let nothing = Seen::default();
        let one = seen.get(scripted.id).unwrap_or(&nothing);
        let messages = scripted
            .chat
            .map(|chat| sandbox.telegram.messages(chat))
            .unwrap_or_default();
        let paid = sandbox
            .fal
            .submits_for(&format!("for {}\"", scripted.id))
            .len();
        let faults = differences(scripted, one, &messages, paid);
        wrong += usize::from(!faults.is_empty());
        failed += usize::from(faults.is_empty() && scripted.ends != "done");
        let span = |from: &str, to: &str| match (one.at.get(from), one.at.get(to)) {
            (Some(from), Some(to)) => format!("{} ms", to - from),
            _ => "-".to_owned(),
        };
        let end = ["done", "failed", "cancelled"]
            .into_iter()
            .find(|end| one.at.contains_key(*end))
            .unwrap_or("done");
        table.add_row([
            scripted.id.to_owned(),
            scripted.job["model"]
                .as_str()
                .map_or("", |model| model.strip_prefix("fal-ai/").unwrap_or(model))
                .to_owned(),
            shown(&messages),
            span("queued", "submitted"),
            span("submitted", "completed"),
            span("completed", end),
            span("queued", end),
            if one.outcome.is_empty() {
                "no end".to_owned()
            } else {
                one.outcome.clone()
            },
            if faults.is_empty() {
                "ok".to_owned()
            } else {
                format!("WRONG: {}", faults.join("; "))
            },
        ]);
    }
    writeln!(
        out,
        "\nEach row is a job; `in the chat` is what its user sees at the end. The last four must fail.\n{table}\n"
    )?;
    let done = seen.values().filter(|seen| seen.outcome == "done").count();
    let totals = sandbox.fal.totals();
    let strange: Vec<String> = sandbox
        .fal
        .violations()
        .into_iter()
        .chain(sandbox.telegram.violations())
        .chain(sandbox.fal.key_leaks())
        .collect();
    for strange in &strange {
        writeln!(out, "WRONG: {strange}")?;
    }
    writeln!(
        out,
        "{} jobs in {:.1} s: {done} done, {failed} failed as they must. {} payments at fal, {} polls, {} messages sent, {} edited.",
        script.len(),
        took.as_secs_f64(),
        totals.submits,
        totals.polls,
        sandbox.telegram.sends_count(),
        sandbox.telegram.edits_count(),
    )?;
    let good = wrong == 0 && strange.is_empty();
    writeln!(
        out,
        "{}",
        if good {
            "Everything is as it must be."
        } else {
            "Something is not as it must be: see the rows marked WRONG."
        }
    )?;
    Ok(good)
}

/// `photo x4`, `photo, text`, or `-`.
fn shown(messages: &[Message]) -> String {
    let kinds: Vec<&str> = messages
        .iter()
        .map(|message| message.kind.field())
        .collect();
    match kinds.as_slice() {
        [] => "-".to_owned(),
        [first, rest @ ..] if !rest.is_empty() && rest.iter().all(|kind| kind == first) => {
            format!("{first} x{}", kinds.len())
        }
        kinds => kinds.join(", "),
    }
}

/// What is not as it must be.
fn differences(scripted: &Scripted, seen: &Seen, messages: &[Message], paid: usize) -> Vec<String> {
    let mut faults = Vec::new();
    if seen.ends != 1 {
        faults.push(format!("{} ends", seen.ends));
    }
    if seen.outcome != scripted.ends {
        faults.push(format!("expected {}", scripted.ends));
    }
    if paid != scripted.paid {
        faults.push(format!("{paid} payments, expected {}", scripted.paid));
    }
    let kinds: Vec<Kind> = messages.iter().map(|message| message.kind).collect();
    if kinds != scripted.shows {
        faults.push(format!(
            "the chat shows {kinds:?}, expected {:?}",
            scripted.shows
        ));
    }
    faults
}

/// The jobs. Each has a chat of its own, so that every message can be told to belong to it, and its id
/// stands in its prompt, so that every payment can.
fn script(sandbox: &Sandbox) -> Vec<Scripted> {
    let (fal, telegram) = (&sandbox.fal, &sandbox.telegram);
    fal.model(
        "demo/never",
        Script {
            heeds_cancel: true,
            ..Script::new(Outcome::Never)
        },
    );
    fal.model("fal-ai/wan/t2v", Script::new(Outcome::Video));
    fal.set_generation(Duration::from_millis(300), Duration::from_millis(900));
    let mut jobs: Vec<Scripted> = Vec::new();
    let mut add = |id: &'static str,
                   model: &str,
                   shows: &[Kind],
                   ends: &'static str,
                   more: Value| {
        let chat = 1001 + jobs.len() as i64;
        let mut job = json!({"id": id, "model": model, "input": {"prompt": format!("a lighthouse for {id}")},
            "telegram": {"chat_id": chat}});
        merge(&mut job, &more);
        let chat = job["telegram"]["chat_id"].as_i64();
        let paid = 1;
        jobs.push(Scripted {
            id,
            job,
            chat,
            shows: shows.to_vec(),
            ends,
            paid,
        });
    };
    use Kind::{Audio, Document, Photo, Text, Video};
    let flux = "fal-ai/flux/dev";
    add("plain-photo", flux, &[Photo], "done", json!({}));
    let status = telegram.plant_message(1002, Text, false);
    add(
        "edited-photo",
        flux,
        &[Photo],
        "done",
        json!({"telegram": {"status_message_id": status}}),
    );
    let status = telegram.plant_message(1003, Text, false);
    add(
        "edited-and-ping",
        flux,
        &[Photo, Text],
        "done",
        json!({"telegram": {"status_message_id": status, "ping": "always", "lang": "ru"}}),
    );
    add(
        "caption-and-button",
        flux,
        &[Photo],
        "done",
        json!({"telegram": {"caption": "<b>Done</b>", "parse_mode": "HTML",
        "reply_markup": {"inline_keyboard": [[{"text": "Again", "callback_data": "again"}]]}}}),
    );
    add(
        "four-pictures",
        "fal-ai/flux/schnell",
        &[Photo, Photo, Photo, Photo],
        "done",
        json!({}),
    );
    add(
        "as-document",
        flux,
        &[Document],
        "done",
        json!({"telegram": {"send_as": "document"}}),
    );
    add("large-picture", "fal-ai/big", &[Photo], "done", json!({}));
    add("video", "fal-ai/wan/t2v", &[Video], "done", json!({}));
    let status = telegram.plant_message(1009, Text, false);
    add(
        "edited-video",
        "fal-ai/wan/t2v",
        &[Video],
        "done",
        json!({"telegram": {"status_message_id": status, "ping": "never"}}),
    );
    add("speech", "fal-ai/f5-tts", &[Audio], "done", json!({}));
    add("words", "fal-ai/any-llm", &[Text], "done", json!({}));
    add(
        "direct-call",
        flux,
        &[Photo],
        "done",
        json!({"via": "direct"}),
    );
    add(
        "first-in-line",
        flux,
        &[Photo],
        "done",
        json!({"priority": "high"}),
    );
    add(
        "last-in-line",
        flux,
        &[Photo],
        "done",
        json!({"priority": "low"}),
    );
    let soon = super::unix_ms() / 1000 + 2;
    add(
        "not-before",
        flux,
        &[Photo],
        "done",
        json!({"not_before": soon}),
    );
    telegram.add_chat_of_kind(-1_000_000_000_016, ChatKind::Supergroup);
    add(
        "in-a-group",
        flux,
        &[Photo],
        "done",
        json!({"telegram": {"chat_id": -1_000_000_000_016_i64}}),
    );
    let status = telegram.plant_message(1017, Text, false);
    telegram.remove_message(1017, status);
    add(
        "status-deleted",
        flux,
        &[Photo],
        "done",
        json!({"telegram": {"status_message_id": status}}),
    );
    add(
        "silent-protected",
        flux,
        &[Photo],
        "done",
        json!({"telegram": {"disable_notification": true, "protect_content": true, "has_spoiler": true}}),
    );
    add(
        "with-meta",
        flux,
        &[Photo],
        "done",
        json!({"meta": {"order": 8812}, "user_id": "alice"}),
    );
    add("no-chat", flux, &[], "done", json!({"telegram": null}));
    add(
        "refused-prompt",
        "fal-ai/refuses",
        &[Text],
        "content_policy",
        json!({}),
    );
    add(
        "bad-input",
        "fal-ai/bad-input",
        &[Text],
        "invalid_input",
        json!({}),
    );
    add(
        "never-ends",
        "demo/never",
        &[Text],
        "timeout",
        json!({"timeout_s": 1}),
    );
    telegram.block(1024);
    add("blocked-the-bot", flux, &[], "chat_unreachable", json!({}));
    jobs
}

/// Lays `more` over `base`, member by member.
fn merge(base: &mut Value, more: &Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (name, value) in more {
                merge(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more.clone(),
    }
}

fn tail(path: &std::path::Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(path) {
        let length = file.metadata().map_or(0, |about| about.len());
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(6000)));
        let _ = file.read_to_string(&mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_failed_and_should_not_have_is_not_said_to_have_failed_as_it_must() {
        let sandbox = Sandbox::start().expect("redis-server is installed");
        let script = script(&sandbox);
        let failed = || Seen {
            outcome: "unavailable".to_owned(),
            ends: 1,
            ..Seen::default()
        };
        let seen = script
            .iter()
            .map(|scripted| (scripted.id.to_owned(), failed()));
        let mut out = Vec::new();
        let good = report(
            &mut out,
            &sandbox,
            &script,
            &seen.collect(),
            Duration::from_secs(1),
        );
        assert!(!good.expect("it is written"));
        let said = String::from_utf8(out).expect("text");
        assert!(said.contains(": 0 done, 0 failed as they must."), "{said}");
    }
}
