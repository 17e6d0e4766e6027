//! What holds a job that a worker has in its hands: the service it waits for, or the worker itself.

use super::super::table::{short, time_of_day, visible};
use super::facts::Facts;
use super::finish::{self, Finish, LEASE};
use super::hindrance::NEW_TOKEN;
use super::verdict::{Verdict, new, since};
use crate::job::UnixMs;
use serde_json::Value;
use std::time::Duration;

pub(super) fn verdict(facts: &Facts) -> Verdict {
    let phase = facts.get("phase").unwrap_or("submitting");
    let worker = visible(facts.get("worker").unwrap_or("?"));
    let said = facts.said_of_job().filter(|said| !said.is_null());
    let mut verdict = match phase {
        "submitting" => submitting(facts, said),
        "polling" => polling(facts, said),
        "collecting" => {
            let text = "fal has finished it, and its result is being fetched.".to_owned();
            let finish = finish::delivery(
                facts,
                Duration::ZERO,
                "only the fetch and the delivery are left",
            );
            let verdict = new("collecting", vec![text], finish);
            if facts.is_away("fal") {
                away(verdict, "fal")
            } else {
                verdict
            }
        }
        "delivering" => delivering(facts, said),
        _ => telling(facts),
    };
    verdict
        .sentences
        .insert(0, format!("Worker {worker} has it in hand ({phase})."));
    if let Some(said) = said {
        verdict.sentences.extend(whereabouts(facts, said));
    }
    owner(facts, verdict)
}

/// What its worker says of it.
fn whereabouts(facts: &Facts, said: &Value) -> Vec<String> {
    let span = |name: &str| said[name].as_u64().map(Duration::from_millis);
    let mut all = Vec::new();
    match said["where"].as_str() {
        Some("thread") => all.push(format!(
            "Thread {} has worked on it for {}.",
            visible(said["thread"].as_str().unwrap_or("?")),
            short(span("for_ms").unwrap_or_default())
        )),
        Some("parked") => all.push(format!(
            "Its next step is due in {}.",
            short(span("due_ms").unwrap_or_default())
        )),
        Some("transfer") => all.push(format!(
            "Its files have moved, or waited for a transfer thread, for {} (--transfer-threads).",
            short(span("for_ms").unwrap_or_default())
        )),
        Some("claimed") => {
            all.push("It has not been begun: all threads, or places at fal, are in use.".to_owned())
        }
        _ => {}
    }
    if let Some(tries) = said["tries"].as_u64().filter(|tries| *tries > 0) {
        let times = if tries == 1 {
            "once".to_owned()
        } else {
            format!("{tries} times in a row")
        };
        all.push(format!(
            "This step has failed {times}; the worker's journal says why (journalctl -u fal-worker -g {}).",
            facts.id
        ));
    }
    if said["unsaved"] == true {
        all.push("It holds what Redis has not taken yet, and writes that first.".to_owned());
    }
    if said["cancelling"] == true {
        all.push("fal was, or is being, told to end it.".to_owned());
    }
    all
}

/// Its delivery waits until Telegram takes the bot again.
fn bot_refused(mut verdict: Verdict) -> Verdict {
    verdict.reason = "bot_refused";
    let sentence =
        "Telegram refuses the worker's bot: its delivery is tried again every half minute.";
    verdict.sentences.push(sentence.to_owned());
    verdict.todo = Some(NEW_TOKEN.to_owned());
    verdict.finish = Finish::Unknown("Telegram refuses the bot".to_owned());
    verdict
}

fn away(mut verdict: Verdict, service: &str) -> Verdict {
    let (reason, name) = match service {
        "telegram" => ("telegram_away", "Telegram"),
        _ => ("fal_away", "fal"),
    };
    verdict.reason = reason;
    verdict.sentences.push(format!(
        "{name} does not answer the worker at the moment: its steps wait, nothing is lost, and it goes on by itself."
    ));
    verdict.finish = Finish::Unknown(format!("{name} is away"));
    verdict
}

fn submitting(facts: &Facts, said: Option<&Value>) -> Verdict {
    let from = facts.at("started_at");
    let from = from.map_or(String::new(), |at| {
        format!(", taken up {}", since(facts, at))
    });
    let (reason, text) = match said.and_then(|said| said["where"].as_str()) {
        Some("claimed") => ("claimed", format!("It is about to be sent to fal{from}.")),
        Some("transfer") => (
            "input_files",
            format!("What goes to fal with it is being moved, or the direct call waits{from}."),
        ),
        _ => (
            "submitting",
            format!("It is being sent to fal{from}: the one step that pays."),
        ),
    };
    let verdict = new(
        reason,
        vec![text],
        finish::unsubmitted(facts, Duration::ZERO, None),
    );
    if facts.is_away("fal") || facts.is_away("submits") {
        away(verdict, "fal")
    } else {
        verdict
    }
}

fn polling(facts: &Facts, said: Option<&Value>) -> Verdict {
    let submitted = facts.at("submitted_at").unwrap_or(facts.now);
    let request = facts
        .get("request_id")
        .map_or(String::new(), |id| format!(", as {},", visible(id)));
    let mut sentences = vec![format!(
        "fal has had it{request} {}.",
        since(facts, submitted)
    )];
    let heard = said.and_then(|said| said["heard"].as_str());
    let running_at = facts.at("running_at");
    let (reason, finish) = match (heard, running_at) {
        (Some("queued"), _) => {
            let ahead = said.and_then(|said| said["ahead"].as_u64());
            sentences.push(match ahead {
                Some(0) => "It stands first in fal's own queue.".to_owned(),
                Some(n) => format!("It stands in fal's own queue, {n} before it."),
                None => "It stands in fal's own queue.".to_owned(),
            });
            (
                "fal_queue",
                finish::at_fal(facts, Duration::ZERO, None, Some(ahead)),
            )
        }
        (_, Some(at)) => {
            sentences.push(format!("It has been running at fal {}.", since(facts, at)));
            (
                "generating",
                finish::at_fal(facts, Duration::ZERO, Some(facts.since(at)), None),
            )
        }
        (Some("runs"), None) => {
            sentences.push("fal says that it runs.".to_owned());
            (
                "generating",
                finish::at_fal(facts, Duration::ZERO, Some(facts.since(submitted)), None),
            )
        }
        _ => {
            sentences
                .push("fal has not said yet whether it runs or stands in fal's queue.".to_owned());
            (
                "polling",
                finish::at_fal(facts, Duration::ZERO, Some(facts.since(submitted)), None),
            )
        }
    };
    let attempt = facts.number("attempt").unwrap_or(1);
    if attempt > 1 {
        let most = facts.number("max_attempts").unwrap_or(attempt);
        sentences.push(format!("It is attempt {attempt} of {most}."));
    }
    let mut verdict = new(reason, sentences, finish);
    if let Some(at) = facts.at("cancelling") {
        verdict.reason = "cancelling";
        verdict.sentences.push(format!(
            "Its cancel at fal has been under way {}.",
            since(facts, at)
        ));
        verdict.finish = Finish::Unknown(
            "it ends when fal says so, a minute from the cancel at the latest".into(),
        );
    }
    if facts.is_away("fal") {
        away(verdict, "fal")
    } else {
        verdict
    }
}

fn delivering(facts: &Facts, said: Option<&Value>) -> Verdict {
    let from = facts.at("completed_at");
    let from = from.map_or(String::new(), |at| format!(" {}", since(facts, at)));
    let mut sentences = vec![format!(
        "Its result has been there{from} and is on its way to the chat."
    )];
    if facts.get("doubt") == Some("send") {
        sentences
            .push("Its last worker vanished while it sent: the chat may see it twice.".to_owned());
    }
    let turn = said.and_then(|said| said["turn_at"].as_i64()).map(UnixMs);
    let missing = said
        .and_then(|said| said["file_missing_since"].as_i64())
        .map(UnixMs);
    let tries = said.and_then(|said| said["tries"].as_u64()).unwrap_or(0);
    if facts.is_away("telegram") {
        return away(new("delivering", sentences, Finish::Over), "telegram");
    }
    if facts.is_away("bot") {
        return bot_refused(new("delivering", sentences, Finish::Over));
    }
    let no_room = said.and_then(|said| said["no_room"].as_str());
    if let (Some(at), Some(why)) = (missing, no_room) {
        let since = since(facts, at);
        sentences.push(format!(
            "Its worker could not keep its file {since}: {why}."
        ));
        let finish = Finish::Unknown("a person must make room, or name another TMPDIR".into());
        return new("worker_disk", sentences, finish);
    }
    if let Some(at) = missing {
        sentences.push(format!(
            "Its file could not be fetched from fal's file host {}.",
            since(facts, at)
        ));
        return new(
            "file_missing",
            sentences,
            Finish::Unknown("the file host does not give the file".into()),
        );
    }
    if let Some(at) = turn.filter(|at| *at > facts.now) {
        sentences.push(format!(
            "Telegram lets a bot and a chat send only so much (--telegram-rate): its turn is in {} (at {} UTC).",
            short(facts.until(at)),
            time_of_day(at.0)
        ));
        let finish = finish::delivery(
            facts,
            facts.until(at),
            "only its turn at Telegram is waited for",
        );
        return new("telegram_rate", sentences, finish);
    }
    if tries > 0 {
        let due = said
            .and_then(|said| said["due_ms"].as_u64())
            .map_or(Duration::ZERO, Duration::from_millis);
        let finish = finish::delivery(
            facts,
            due,
            "the next try sends it, if Telegram takes it then",
        );
        return new("delivery_retry", sentences, finish);
    }
    new(
        "delivering",
        sentences,
        finish::delivery(facts, Duration::ZERO, "only the delivery is left"),
    )
}

fn telling(facts: &Facts) -> Verdict {
    let kind = facts.get("kind").unwrap_or("?");
    let error = facts.error(" (", ")");
    let text = format!("It has failed, {kind}{error}, and its user is being told.");
    let finish = finish::delivery(facts, Duration::ZERO, "only the message is left");
    let verdict = new("telling", vec![text], finish);
    if facts.is_away("telegram") {
        let mut verdict = away(verdict, "telegram");
        verdict
            .sentences
            .push("After two minutes it ends untold.".to_owned());
        return verdict;
    }
    verdict
}

/// A worker that is silent, dead or unknown holds whatever it has.
fn owner(facts: &Facts, mut verdict: Verdict) -> Verdict {
    let others = facts
        .living
        .iter()
        .any(|(one, age)| Some(one.as_str()) != facts.get("worker") && !Facts::is_silent(*age));
    let Some(owner) = &facts.owner else {
        return verdict;
    };
    if let Some(age) = owner.beat_age.filter(|age| Facts::is_silent(*age))
        && facts.redis_refuses
        && !owner.is_dead
    {
        verdict.reason = "worker_silent";
        verdict.sentences.push(format!(
            "Redis takes no writes, so that worker could not give a sign of life for {}. It holds what it knows, reads \
             on at fal, and goes on once Redis does.",
            short(age)
        ));
        verdict.finish = Finish::Unknown("nobody knows when Redis takes writes again".to_owned());
        verdict.todo = Some(
            "Mend Redis: fal-worker check says what it lacks. Leave the worker running.".to_owned(),
        );
        return verdict;
    }
    let (reason, sentence) = match owner.beat_age {
        _ if owner.is_dead => (
            "worker_dead",
            "But that worker is marked dead: the job goes back to the others within seconds."
                .to_owned(),
        ),
        Some(age) if Facts::is_silent(age) => (
            "worker_silent",
            format!(
                "But that worker has given no sign of life for {}: its lease lapses after {} (unless --lease says \
                 otherwise), and then another takes over what it knows.",
                short(age),
                short(LEASE)
            ),
        ),
        Some(_) => return verdict,
        None => (
            "worker_gone",
            "But that worker is not among the living: the audit gives the job back.".to_owned(),
        ),
    };
    verdict.reason = reason;
    verdict.sentences.push(sentence);
    let left = owner
        .beat_age
        .map_or(Duration::ZERO, |age| LEASE.saturating_sub(age));
    if others {
        if let Finish::Between(from, to, basis) = verdict.finish {
            // A suspect has one more beat, and then the next owner looks from the record on.
            let more = (left + Duration::from_secs(5)).as_millis() as i64;
            let basis = format!("{basis}, and a takeover may come first");
            verdict.finish = Finish::Between(from, UnixMs(to.0.max(facts.now.0) + more), basis);
        }
    } else {
        verdict
            .sentences
            .push("No other worker is there to take over.".to_owned());
        verdict.finish = Finish::Unknown("no worker is there to do it".to_owned());
        verdict.todo = Some(
            "Look whether it hangs or cannot reach Redis: journalctl -u fal-worker; a restart takes its jobs back."
                .to_owned(),
        );
    }
    verdict
}
