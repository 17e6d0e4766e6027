//! `why`: one paragraph on why a job is not done (or how it ended), its place in line, its likely finish. Here
//! the facts are gathered; `verdict` judges.

mod ended;
mod facts;
mod finish;
mod hindrance;
mod running;
#[cfg(test)]
mod tests;
mod verdict;

use super::admin::{away, known_id, open, say};
use super::table::json_line;
use super::{INCOMPLETE, WhyArgs};
use crate::config::StoreConfig;
use crate::job::{JobId, UnixMs};
use crate::store::Fault;
use crate::store::view::View;
use facts::Facts;
use finish::Finish;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use verdict::Verdict;

/// How long workers have to answer: two beats, and a little.
pub(super) const ANSWER: Duration = Duration::from_millis(2500);
const LOOK: Duration = Duration::from_millis(30);
/// Workers that are asked at most.
const ASKED: usize = 8;
/// Minutes whose ends show the pace.
const MINUTES: i64 = 5;

/// `why`: an unknown id exits 1.
pub(super) fn why(args: &WhyArgs, store: &StoreConfig) -> u8 {
    match explain(args, store) {
        Ok(code) | Err(code) => code,
    }
}

fn explain(args: &WhyArgs, store: &StoreConfig) -> Result<u8, u8> {
    let id = known_id(&args.id)?;
    let mut view = open(store)?;
    let mut facts = gather(&mut view, &id).map_err(|fault| away(&fault))?;
    if facts.get("kind") == Some("timeout") {
        let entry = view.entry(&id).map_err(|fault| away(&fault))?;
        let entry: Option<Value> = entry.and_then(|entry| serde_json::from_str(&entry).ok());
        facts.timeout_s = entry.and_then(|entry| entry["timeout_s"].as_u64());
    }
    let Some(verdict) = verdict::verdict(&facts) else {
        eprintln!(
            "fal-worker: no job {id} is known in namespace {}",
            store.namespace
        );
        return Err(INCOMPLETE);
    };
    if args.json {
        say(&json_line(&as_json(&facts, &verdict)));
    } else {
        let state = match (verdict.state.as_str(), verdict.reason) {
            ("inbox", _) => "no job yet",
            // Its state is `done`: to people that would say that the result was sent.
            (_, "not_sent") => "over",
            (state, _) => state,
        };
        let text = format!("{id} is {state}. {}", verdict.text(facts.now));
        say(&format!("{}\n", wrapped(&text, super::table::width())));
    }
    Ok(0)
}

fn as_json(facts: &Facts, verdict: &Verdict) -> Value {
    let finish = match &verdict.finish {
        Finish::Between(from, to, basis) => json!({"from": from.0, "to": to.0, "basis": basis}),
        Finish::Unknown(why) => json!({"unknown": why}),
        Finish::Over => Value::Null,
    };
    json!({
        "id": facts.id,
        "state": verdict.state,
        "phase": facts.get("phase"),
        "reason": verdict.reason,
        "ahead": verdict.ahead,
        "finish": finish,
        "todo": verdict.todo,
        "text": verdict.text(facts.now),
        "at": facts.now.0,
    })
}

/// Broken into lines at spaces.
fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut column = 0;
    for word in text.split(' ') {
        let long = word.chars().count();
        if column > 0 && column + 1 + long > width {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += long;
    }
    out
}

/// Everything that bears on one job. Workers are asked only where they know more than Redis: of what they hold,
/// and why none of them takes a ready job.
fn gather(view: &mut View, id: &JobId) -> Result<Facts, Fault> {
    let mut facts = Facts {
        id: id.to_string(),
        record: view.record(id)?,
        living: view.living()?,
        ..Facts::default()
    };
    if facts.record.is_empty() {
        facts.inbox = view.in_inbox(id)?;
        if facts.inbox.is_none() {
            // A worker may have made a job of it between these looks.
            facts.record = view.record(id)?;
        }
    }
    let state = facts.get("state").unwrap_or_default().to_owned();
    if state.is_empty() {
        facts.now = view.now()?;
        return Ok(facts);
    }
    let open = matches!(state.as_str(), "queued" | "waiting" | "later" | "running");
    if open {
        around(view, id, &state, &mut facts)?;
        facts.answers = ask(view, id, &state, &facts)?;
        if state == "running" {
            // It may have gone on while its worker was asked.
            let now = view.record(id)?;
            if now.get("state").map(String::as_str) != Some("running") {
                return gather_ended(view, id, facts);
            }
            facts.record = now;
        }
    }
    facts.now = view.now()?;
    Ok(facts)
}

/// It moved on while it was looked at: once more, without asking.
fn gather_ended(view: &mut View, id: &JobId, old: Facts) -> Result<Facts, Fault> {
    let mut facts = Facts {
        id: old.id,
        record: view.record(id)?,
        living: old.living,
        ..Facts::default()
    };
    let state = facts.get("state").unwrap_or_default().to_owned();
    around(view, id, &state, &mut facts)?;
    facts.now = view.now()?;
    Ok(facts)
}

fn around(view: &mut View, id: &JobId, state: &str, facts: &mut Facts) -> Result<(), Fault> {
    facts.pause = view.paused()?;
    facts.settling = view.is_settling()?;
    facts.window = view.window()?;
    facts.minutes = view.ends_by_minute(MINUTES)?;
    if let Some(model) = facts.get("model").map(str::to_owned) {
        facts.limit = view.model_limit(&model)?;
        facts.pace = view.pace(&model)?;
    }
    let user = facts.get("user").map(str::to_owned);
    if let Some(user) = &user {
        facts.user = Some(view.user(user)?);
    }
    match state {
        "running" => {
            if let Some(worker) = facts.get("worker").map(str::to_owned) {
                facts.owner = Some(view.owner(&worker)?);
            }
            // A full one still takes beats.
            let troubles = view.redis_troubles()?;
            facts.redis_refuses = troubles.iter().any(|what| *what != "redis_full");
        }
        "later" => facts.rate_until = view.rate_until(id.as_str())?,
        "queued" if facts.passes_limits() => facts.paid_place = view.place_in_resume(id)?,
        "queued" | "waiting" => {
            let priority = facts.get("priority").unwrap_or("default").to_owned();
            let behind = facts.get("behind").map(str::to_owned);
            facts.place = view.place_of(id, &priority, behind.as_deref(), user.as_deref())?;
        }
        _ => {}
    }
    Ok(())
}

type Answers = Vec<(String, Option<Value>)>;

/// Asks the owner of a running job, or whoever could take a ready one, and waits a moment.
fn ask(view: &mut View, id: &JobId, state: &str, facts: &Facts) -> Result<Answers, Fault> {
    let beating = facts
        .living
        .iter()
        .filter(|(_, age)| !Facts::is_silent(*age));
    let beating = beating.map(|(instance, _)| instance.clone());
    let whom: Vec<String> = match state {
        "running" => beating
            .filter(|one| Some(one.as_str()) == facts.get("worker"))
            .collect(),
        "queued" if facts.pause.is_none() => beating.take(ASKED).collect(),
        _ => Vec::new(),
    };
    answers(view, &whom, id.as_str(), |answer| {
        answer["jobs"]
            .as_object()
            .is_some_and(|jobs| jobs.contains_key(id.as_str()))
    })
}

/// Asks these workers the same, and waits until all have answered or their time is up; in their order.
pub(super) fn answers(
    view: &mut View,
    whom: &[String],
    question: &str,
    answered: impl Fn(&Value) -> bool,
) -> Result<Answers, Fault> {
    let until = Instant::now() + ANSWER;
    let mut asked: Vec<(String, Option<UnixMs>, Option<Value>)> = Vec::new();
    for instance in whom {
        // A Redis that takes no write at the moment still says what it knows.
        let at = match view.ask_worker(instance, question) {
            Err(Fault::Refused(_) | Fault::Unable(_)) => None,
            asked => asked?,
        };
        asked.push((instance.clone(), at, None));
    }
    loop {
        for (instance, at, answer) in &mut asked {
            if let (Some(at), None) = (&at, &answer) {
                *answer = view
                    .answer_of(instance, *at)?
                    .filter(|answer| answered(answer));
            }
        }
        let open = asked
            .iter()
            .any(|(_, at, answer)| at.is_some() && answer.is_none());
        if !open || Instant::now() >= until {
            break;
        }
        std::thread::sleep(LOOK);
    }
    Ok(asked
        .into_iter()
        .map(|(instance, _, answer)| (instance, answer))
        .collect())
}
