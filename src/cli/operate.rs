//! Commands that change a live system from any machine. They leave a wish in Redis, which a daemon carries
//! out, and look for a moment what becomes of it.

use super::admin::{away, open, say};
use super::table::{json_line, visible};
use super::{CancelArgs, INCOMPLETE, RedeliverArgs, USAGE};
use crate::config::StoreConfig;
use crate::job::JobId;
use crate::job::flight::EndState;
use crate::job::spec::{self, Target};
use crate::store::view::View;
use crate::store::{Cancel, Redeliver, made_id};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a command looks for the outcome. A job that is not over by then is over without it.
const OUTCOME: Duration = Duration::from_secs(5);
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// Of an entry of the inbox: what is to be done with it can only be done by name of its user, or once it is a job.
pub(super) const UNREAD: &str = "is no job yet: it lies in the inbox, and a worker has to read it first (delete --user takes it from there)";
/// Of a text that cannot be one.
pub(super) const NO_ID: &str = "is no id: 1-128 of letters, digits and . _ : -";
/// Of a job that left nothing behind.
const NOTHING: &str =
    "nothing of it can be sent again: neither Telegram's file ids nor a result are known";

/// One line of `cancel`.
struct Said {
    word: &'static str,
    text: String,
    /// It was not done.
    failed: bool,
}

/// `cancel`: a line an id; exit 1 if not all will end by it.
pub(super) fn cancel(args: &CancelArgs, store: &StoreConfig) -> u8 {
    let mut view = match open(store) {
        Ok(view) => view,
        Err(code) => return code,
    };
    // First all are asked, then all are waited for.
    let mut open: Vec<(&str, Option<Said>)> = Vec::new();
    for id in &args.ids {
        let said = match ask(&mut view, id) {
            Ok(said) => said,
            Err(code) => return code,
        };
        open.push((id, said));
    }
    let until = Instant::now() + OUTCOME;
    let mut failed = false;
    for (id, mut said) in open {
        while said.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            std::thread::sleep(LOOK.min(left));
            // Not only looked at: a job that went back into a queue meanwhile ends there.
            said = match outcome(&mut view, id, left.is_zero()) {
                Ok(said) => said,
                Err(code) => return code,
            };
        }
        if let Some(said) = said {
            failed |= said.failed;
            show(args.json, id, &said);
        }
    }
    if failed { INCOMPLETE } else { 0 }
}

fn show(json: bool, id: &str, said: &Said) {
    let line = json!({"id": id, "outcome": said.word, "text": said.text, "done": !said.failed});
    print(json, &line);
}

/// A line for people.
pub(super) fn tell(text: &str) {
    say(&format!("{text}\n"));
}

/// One line of what became of something: as it is for programs, its `id` and `text` for people.
pub(super) fn print(json: bool, line: &Value) {
    let line = if json {
        json_line(line)
    } else {
        let part = |name: &str| line[name].as_str().unwrap_or_default();
        format!("{} {}\n", part("id"), part("text"))
    };
    // Whether or not it is taken, what was asked for stands, and the rest is done.
    say(&line);
}

fn refused(word: &'static str, text: impl Into<String>) -> Option<Said> {
    Some(Said {
        word,
        text: text.into(),
        failed: true,
    })
}

fn good(word: &'static str, text: &str) -> Option<Said> {
    Some(Said {
        word,
        text: text.to_owned(),
        failed: false,
    })
}

/// The first call. `None`: what becomes of it is to be seen.
fn ask(view: &mut View, id: &str) -> Result<Option<Said>, u8> {
    let Some(job) = JobId::new(id) else {
        return Ok(refused("unknown", NO_ID));
    };
    let (mut cancel, mut state) = view.cancel(&job).map_err(|fault| away(&fault))?;
    if cancel == Cancel::Gone {
        if view.in_inbox(&job).map_err(|fault| away(&fault))?.is_some() {
            return Ok(refused("unread", UNREAD));
        }
        // It may have become a job between the two looks.
        (cancel, state) = view.cancel(&job).map_err(|fault| away(&fault))?;
    }
    Ok(match cancel {
        Cancel::Ended | Cancel::Asked => None,
        Cancel::Late => refused("late", "too late: its outcome is on its way to the chat"),
        Cancel::Over => refused("over", format!("has ended before: {state}")),
        Cancel::Newer => refused("newer", "was written by a newer version"),
        Cancel::Gone => refused("unknown", "is not known"),
    })
}

/// Every further call. `last`: nothing more is waited for.
fn outcome(view: &mut View, id: &str, last: bool) -> Result<Option<Said>, u8> {
    let Some(job) = JobId::new(id) else {
        return Ok(None);
    };
    let (cancel, state) = view.cancel(&job).map_err(|fault| away(&fault))?;
    Ok(match cancel {
        Cancel::Over if state == "cancelled" => good("cancelled", "cancelled"),
        Cancel::Over => {
            let record = view.record(&job).map_err(|fault| away(&fault))?;
            match record.get("kind") {
                Some(kind) => refused("late", format!("too late: it ended {state} ({kind})")),
                None => refused("late", format!("too late: it ended {state}")),
            }
        }
        Cancel::Late => refused("late", "too late: its outcome is on its way to the chat"),
        Cancel::Newer => refused("newer", "was written by a newer version"),
        Cancel::Gone => refused("unknown", "is not known any more"),
        Cancel::Ended | Cancel::Asked if !last => None,
        Cancel::Ended => good("asked", "will not run: the next worker tells its user"),
        Cancel::Asked if state == "running" => {
            good("asked", "asked: its worker stops it as soon as it can")
        }
        Cancel::Asked => good("asked", "asked: the next worker ends it"),
    })
}

/// `redeliver`: exit 1 unless it was sent, or will be.
pub(super) fn redeliver(args: &RedeliverArgs, store: &StoreConfig) -> u8 {
    match send_again(args, store) {
        Ok(code) | Err(code) => code,
    }
}

fn send_again(args: &RedeliverArgs, store: &StoreConfig) -> Result<u8, u8> {
    let say = |text: &str| {
        eprintln!("fal-worker: {}: {}", args.id, visible(text));
        INCOMPLETE
    };
    let Some(id) = JobId::new(&args.id) else {
        return Err(say(NO_ID));
    };
    let mut view = open(store)?;
    let record = view.record(&id).map_err(|fault| away(&fault))?;
    let target = match (target(&mut view, &id, &record)?, args.chat.as_deref()) {
        (Some(target), None) => target,
        (known, Some(chat)) => {
            let known = known.or_else(|| Target::from_resend_json(r#"{"chat_id":1}"#));
            match known.and_then(|known| known.redirected(chat)) {
                Some(target) => target,
                None => {
                    eprintln!("fal-worker: --chat: expected a number or @name");
                    return Err(USAGE);
                }
            }
        }
        (None, None) if record.contains_key("state") => {
            let has = |name| record.get(name).is_some_and(|value| value != "[]");
            let ended = EndState::parse(&record["state"]).is_some();
            if ended && !has("result") && !has("file_ids") {
                return Err(say(NOTHING));
            }
            return Err(say(
                "its chat is not known (any more): name one with --chat",
            ));
        }
        (None, None) => return Err(say("no such job is known")),
    };
    let redelivery = made_id();
    let made = view
        .redeliver(&id, &redelivery, &target)
        .map_err(|fault| away(&fault))?;
    match made {
        Redeliver::Ok => {}
        Redeliver::Open => return Err(say("has not ended: its result comes by itself")),
        Redeliver::Newer => return Err(say("was written by a newer version")),
        Redeliver::Nothing => {
            return Err(say(NOTHING));
        }
        Redeliver::Gone => return Err(say("no such job is known")),
    }
    let until = Instant::now() + OUTCOME;
    loop {
        let record = view.record(&redelivery).map_err(|fault| away(&fault))?;
        let field = |name: &str| record.get(name).map_or("", String::as_str);
        if record.get("state").is_some_and(|state| state == "done") {
            if record.contains_key("kind") {
                return Err(say(&format!(
                    "not sent: {} {}",
                    field("kind"),
                    field("error")
                )));
            }
            tell(&format!(
                "{id} sent again: messages {}",
                field("message_ids")
            ));
            return Ok(0);
        }
        if Instant::now() >= until {
            tell(&format!(
                "{id} asked: a worker sends it again as {redelivery}"
            ));
            return Ok(0);
        }
        std::thread::sleep(LOOK);
    }
}

/// Where its result went, or was to go: the entry says it all, and a record after it the most.
fn target(
    view: &mut View,
    id: &JobId,
    record: &BTreeMap<String, String>,
) -> Result<Option<Target>, u8> {
    let entry = view.entry(id).map_err(|fault| away(&fault))?;
    let entry = entry.and_then(|entry| spec::parse(entry.as_bytes(), None).ok());
    Ok(entry.and_then(|spec| spec.telegram).or_else(|| {
        record
            .get("sent_to")
            .and_then(|to| Target::from_resend_json(to))
    }))
}
