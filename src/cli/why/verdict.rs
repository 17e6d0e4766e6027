//! Why a job is not done: its state, what blocks it, and what helps, in sentences. Pure: from [`Facts`] alone.
//! Jobs that wait are judged here; those that run in `running`, those that ended in `ended`; what keeps all of
//! them from beginning is in `hindrance`.

use super::super::table::{short, time_of_day, visible};
use super::facts::Facts;
use super::finish::{self, Finish};
use super::{ended, hindrance, running};
use crate::job::UnixMs;
use crate::job::flight::EndState;
use crate::job::inputs::OF_A_FILE;
use crate::store::FORMAT;
use crate::store::view::Place;
use std::time::Duration;

/// The answer to `why`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// State of the contract, or `inbox`.
    pub(crate) state: String,
    /// What it waits for, or how it ended, in one word for programs.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) sentences: Vec<String>,
    /// What the operator can do.
    pub(crate) todo: Option<String>,
    /// Jobs served before it.
    pub(crate) ahead: Option<u64>,
    pub(crate) finish: Finish,
}

impl Verdict {
    /// One paragraph.
    pub(crate) fn text(&self, now: UnixMs) -> String {
        let finish = self.finish.sentence(now);
        let all = self
            .sentences
            .iter()
            .map(String::as_str)
            .chain([finish.as_str()]);
        let todo = self.todo.as_deref();
        let all: Vec<&str> = all.chain(todo).filter(|text| !text.is_empty()).collect();
        all.join(" ")
    }
}

/// Judges; `None`: no such job is known.
pub(crate) fn verdict(facts: &Facts) -> Option<Verdict> {
    let Some(state) = facts.get("state") else {
        return in_inbox(facts);
    };
    let mut verdict = match state {
        "queued" if facts.passes_limits() => paid(facts),
        // Ready by its user's turn, but behind a limit of its model.
        "queued" if facts.get("behind").is_some() => waiting(facts),
        "queued" => queued(facts),
        "waiting" => waiting(facts),
        "later" => later(facts),
        "running" => running::verdict(facts),
        _ => ended::verdict(facts),
    };
    verdict.state = state.to_owned();
    if let Some(of) = facts.get("redelivers")
        && verdict.reason != "not_sent"
    {
        let of = visible(of);
        let text = match state {
            "done" => format!("It sent the result of job {of} again."),
            "dead" | "cancelled" => format!("It was to send the result of job {of} again."),
            _ => format!("It sends the result of job {of} again."),
        };
        verdict.sentences.insert(0, text);
    }
    if facts.get("cancel_asked").is_some() && EndState::parse(state).is_none() {
        let asked = facts
            .at("cancel_asked")
            .map_or(Duration::ZERO, |at| facts.since(at));
        verdict.sentences.push(format!(
            "Its end was asked for {} ago: it will not be paid for again.",
            short(asked)
        ));
    }
    Some(verdict)
}

pub(super) fn new(reason: &'static str, sentences: Vec<String>, finish: Finish) -> Verdict {
    Verdict {
        state: String::new(),
        reason,
        sentences,
        todo: None,
        ahead: None,
        finish,
    }
}

/// `1 job`, `2 jobs`.
pub(super) fn jobs(n: u64) -> String {
    if n == 1 {
        "1 job".to_owned()
    } else {
        format!("{n} jobs")
    }
}

/// `for 3m 2s (since 12:03:10 UTC)`.
pub(super) fn since(facts: &Facts, at: UnixMs) -> String {
    format!(
        "for {} (since {} UTC)",
        short(facts.since(at)),
        time_of_day(at.0)
    )
}

fn in_inbox(facts: &Facts) -> Option<Verdict> {
    let found = facts.inbox.as_ref()?;
    let nobody = hindrance::nobody(facts);
    let silent = found.taken_by.as_ref().and_then(|worker| {
        let (_, age) = facts.living.iter().find(|(one, _)| one == worker)?;
        Facts::is_silent(*age).then_some(*age)
    });
    let (reason, sentence) = match (&found.taken_by, &nobody) {
        (Some(worker), None) => (
            "intake",
            match silent {
                None => {
                    format!(
                        "It has left the inbox and worker {worker} is reading it at this moment."
                    )
                }
                Some(age) => format!(
                    "It has left the inbox, and worker {worker}, silent for {}, has not read it: another one puts \
                     it back after the lease.",
                    short(age)
                ),
            },
        ),
        // Where that worker is gone, the next one that runs puts it back.
        (Some(worker), Some(nobody)) => (
            nobody.reason,
            format!("It has left the inbox, and worker {worker} has not read it."),
        ),
        (None, None) => (
            "inbox",
            format!(
                "It lies in the inbox, {} before it; a worker reads it next.",
                jobs(found.ahead)
            ),
        ),
        (None, Some(nobody)) => (
            nobody.reason,
            format!("It lies in the inbox, {} before it.", jobs(found.ahead)),
        ),
    };
    let finish = match nobody {
        Some(_) => "no worker is there to read it",
        None => "nothing is known of a job before it is read",
    };
    let mut verdict = new(reason, vec![sentence], Finish::Unknown(finish.to_owned()));
    verdict.state = "inbox".to_owned();
    verdict.ahead = Some(found.ahead);
    if let Some(nobody) = nobody {
        verdict.sentences.push(nobody.sentence);
        verdict.todo = nobody.todo;
    }
    Some(verdict)
}

/// Adds what keeps it beside its own reason; the finish follows from both.
fn hindered(facts: &Facts, mut verdict: Verdict, finish: impl Fn(Duration) -> Finish) -> Verdict {
    let all = hindrance::all(facts);
    let hold = all
        .iter()
        .try_fold(Duration::ZERO, |most, one| Some(most.max(one.hold?)));
    verdict.finish = match hold {
        Some(hold) => finish(hold),
        None => Finish::Unknown(
            match all
                .iter()
                .find(|one| one.hold.is_none())
                .map(|one| one.reason)
            {
                Some("no_worker" | "worker_silent") => "no worker is there to do it",
                Some("fal_away") => "fal is away",
                Some("bot_refused") => "Telegram refuses the bot",
                Some("paused_balance" | "paused_key") => {
                    "nobody knows when the fal account is good again"
                }
                _ => "nobody knows when it is resumed",
            }
            .to_owned(),
        ),
    };
    for one in all {
        verdict.sentences.push(one.sentence);
        verdict.todo = verdict.todo.or(one.todo);
    }
    verdict
}

fn is_newer(facts: &Facts) -> bool {
    facts.number("v").is_some_and(|v| v > u64::from(FORMAT))
}

/// Ready, and not paid for.
fn queued(facts: &Facts) -> Verdict {
    let from = facts
        .at("ready_at")
        .or(facts.at("queued_at"))
        .unwrap_or(facts.now);
    let priority = facts.get("priority").unwrap_or("default");
    let mut sentences = vec![format!(
        "It has been ready in the queue `{priority}` {}, and is not paid for.",
        since(facts, from)
    )];
    if let Some(again) = tried_before(facts) {
        sentences.push(again);
    }
    let late = facts.at("expires_at").filter(|at| *at < facts.now);
    if let Some(at) = late {
        sentences.push(format!(
            "Its expires_at passed {} ago: whoever takes it ends it as expired, unpaid.",
            short(facts.since(at))
        ));
    } else if let Some(place) = &facts.place {
        sentences.push(line(facts, place, priority));
    } else {
        sentences.push("Its place in line is not known: it is just being moved.".to_owned());
    }
    let ahead = facts.place.as_ref().map(Place::ahead);
    let others = hindrance::all(facts);
    let reason = match (others.first(), ahead) {
        (Some(first), _) if first.reason != "workers_busy" => first.reason,
        _ if late.is_some() => "expired",
        (_, Some(0)) => "next",
        _ => "line",
    };
    let mut verdict = new(reason, sentences, Finish::Over);
    verdict.ahead = ahead;
    hindered(facts, verdict, |hold| match late {
        Some(_) => finish::delivery(facts, hold, "it only needs to be told"),
        None => finish::unsubmitted(facts, hold, ahead),
    })
}

/// The place in line, in words.
fn line(facts: &Facts, place: &Place, priority: &str) -> String {
    let ahead = place.ahead();
    if ahead == 0 {
        let held = hindrance::all(facts);
        let next = match held.iter().all(|one| one.reason == "workers_busy") {
            true => ": the next thread that pulls takes it",
            false => "",
        };
        return format!("Nothing stands before it{next}.");
    }
    let mut parts = Vec::new();
    if place.paid > 0 {
        parts.push(format!("{} paid already", place.paid));
    }
    if place.higher > 0 {
        parts.push(format!("{} of a higher priority", place.higher));
    }
    if place.same > 0 {
        let own = match (place.own, facts.get("user")) {
            (0, _) | (_, None) => String::new(),
            (own, Some(user)) => format!(" ({own} of them user {}'s)", visible(user)),
        };
        parts.push(format!("{} in `{priority}`{own}", place.same));
    }
    let least = if place.at_least { "at least " } else { "" };
    let verb = if ahead == 1 { "is" } else { "are" };
    format!(
        "{least}{} {verb} served before it: {}.",
        jobs(ahead),
        parts.join(", ")
    )
    .trim_start()
    .to_owned()
}

/// Behind its user's turn, one of his slots, or a limit of its model.
fn waiting(facts: &Facts) -> Verdict {
    let from = facts
        .at("ready_at")
        .or(facts.at("queued_at"))
        .unwrap_or(facts.now);
    let user = facts.get("user").map_or_else(
        || "its user".to_owned(),
        |user| format!("user {}", visible(user)),
    );
    let priority = facts.get("priority").unwrap_or("default");
    let place = facts.place.as_ref();
    let ahead = place.map(Place::ahead);
    let mut sentences = vec![format!(
        "It has waited {}, and is not paid for.",
        since(facts, from)
    )];
    let slots = facts.user.as_ref();
    let for_slot = place.is_some_and(|place| place.for_slot);
    let reason = if let (Some(behind), Some(limit)) = (facts.get("behind"), &facts.limit) {
        sentences.push(format!(
            "A limit of its model holds it: {} of {} requests of {} are at fal (--model-limit).",
            limit.now,
            limit.most,
            visible(behind)
        ));
        if let Some(place) = place {
            let before = place.higher + place.same;
            sentences.push(match before {
                0 => "Nothing waits for the same before it.".to_owned(),
                1 => "1 job waits for the same before it.".to_owned(),
                n => format!("{n} jobs wait for the same before it."),
            });
        }
        "model_limit"
    } else if for_slot && let Some(slots) = slots {
        let held: Vec<String> = slots.running.iter().take(3).map(|id| visible(id)).collect();
        let more = slots.running.len().saturating_sub(3);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        sentences.push(format!(
            "All slots of {user} are in use: {} of {} jobs run ({}{more}; --user-concurrency), and {} \
             before it.",
            slots.running.len(),
            slots.slots,
            held.join(", "),
            match place.map_or(0, |place| place.own) {
                0 => "none of his others waits".to_owned(),
                1 => "1 of his others waits".to_owned(),
                n => format!("{n} of his others wait"),
            }
        ));
        "user_slots"
    } else if let Some(place) = place {
        sentences.push(format!(
            "Users take turns (--fair), and {} of {user} come before this one.",
            jobs(place.own)
        ));
        sentences.push(line(facts, place, priority));
        "turn"
    } else {
        sentences.push("Its place in line is not known: it is just being moved.".to_owned());
        "turn"
    };
    let mut verdict = new(reason, sentences, Finish::Over);
    verdict.ahead = ahead;
    // A full window or busy workers are what turns are for: they are named, and do not hold it by themselves.
    hindered(facts, verdict, |hold| {
        finish::unsubmitted(facts, hold, ahead)
    })
}

/// A time is waited for.
fn later(facts: &Facts) -> Verdict {
    let due = facts.at("due_at").unwrap_or(facts.now);
    let wait = facts.until(due);
    let when = if wait.is_zero() {
        "at any moment".to_owned()
    } else {
        format!("in {} (at {} UTC)", short(wait), time_of_day(due.0))
    };
    let (reason, sentence, todo) = if is_newer(facts) {
        (
            "newer_version",
            "A newer version of fal-worker wrote it, and older workers leave it alone.".to_owned(),
            Some("Upgrade the workers, or start one of the newer version.".to_owned()),
        )
    } else if facts.rate_until.is_some()
        || (facts.get("deferred_at").is_some() && facts.get("kind").is_none())
    {
        let rate = facts.user.as_ref().and_then(|user| user.rate.clone());
        let rate = rate.map_or_else(
            || "a user's rate".to_owned(),
            |rate| format!("--user-rate {rate}"),
        );
        (
            "user_rate",
            format!(
                "User {} came more often than {rate} allows; its turn by that is {when}.",
                visible(facts.get("user").unwrap_or("?"))
            ),
            None,
        )
    } else if facts.get("not_before").is_some() {
        (
            "not_before",
            format!("Its entry says not_before: it becomes ready {when}."),
            None,
        )
    } else {
        backoff(facts, &when)
    };
    let mut verdict = new(reason, vec![sentence], Finish::Over);
    verdict.todo = todo;
    if is_newer(facts) {
        verdict.finish = Finish::Unknown("no worker here can read it".to_owned());
        return verdict;
    }
    // What comes back stands in front; what was not to begin before stands at the end, of a line nobody knows.
    hindered(facts, verdict, |hold| {
        finish::unsubmitted(facts, hold.max(wait), None)
    })
}

/// Its worker died in the submit, or fal's answer was lost.
fn in_doubt(facts: &Facts) -> String {
    let error = facts.error(" (", ")");
    format!("Of its last submit it is not known whether fal took it{error}")
}

fn backoff(facts: &Facts, when: &str) -> (&'static str, String, Option<String>) {
    let kind = facts.get("kind").unwrap_or("unavailable");
    let error = facts.error(" (", ")");
    let attempt = facts.number("attempt").unwrap_or(0);
    let most = facts.number("max_attempts").unwrap_or(1);
    if facts.get("doubt") == Some("submit") {
        return (
            "backoff_unknown",
            format!(
                "{}: the next submit, {when}, may be a second payment; {attempt} of {most} attempts are used.",
                in_doubt(facts)
            ),
            None,
        );
    }
    let todo = match kind {
        "no_balance" => Some("Top up the fal account.".to_owned()),
        "auth" => Some("Give the worker a fal key that fal accepts.".to_owned()),
        _ => None,
    };
    let reason = match kind {
        "no_balance" => "backoff_balance",
        "auth" => "backoff_key",
        "rate_limited" => "backoff_rate",
        _ => "backoff",
    };
    let of_a_file = |text: &str| text.starts_with(OF_A_FILE);
    let what = match facts.get("error").is_some_and(of_a_file) {
        true => "Its files could not be brought to fal",
        false => "fal did not take it",
    };
    let tries = facts.number("tries").unwrap_or(1);
    let times = if tries == 1 {
        "once".to_owned()
    } else {
        format!("{tries} times in a row")
    };
    (
        reason,
        format!(
            "{what}, {times}: {kind}{error}. It is tried again {when}; {attempt} of {most} attempts \
             are used."
        ),
        todo,
    )
}

/// It was given back, or failed, before: what its record still says of that.
fn tried_before(facts: &Facts) -> Option<String> {
    if facts.get("doubt") == Some("submit") {
        return Some(format!(
            "{}: the next submit may be a second payment.",
            in_doubt(facts)
        ));
    }
    let attempt = facts.number("attempt").filter(|attempt| *attempt > 0)?;
    let most = facts.number("max_attempts").unwrap_or(1);
    Some(format!("{attempt} of {most} attempts are used."))
}

/// Paid for, or only to be told: in `resume`, which every limit lets pass.
fn paid(facts: &Facts) -> Verdict {
    let phase = facts.get("phase").unwrap_or("polling");
    let (reason, what) = match phase {
        "telling" => ("to_tell", "It is over, and its user is told next"),
        "delivering" => (
            "to_deliver",
            "Its result is there and goes to the chat next",
        ),
        "collecting" => (
            "to_collect",
            "fal has finished it, and its result is fetched next",
        ),
        _ => ("to_poll", "fal has it, and it is watched again next"),
    };
    let ahead = facts.paid_place.unwrap_or(0);
    let mut sentences = vec![format!(
        "{what}; it is between two workers, and what is paid passes every limit and every pause. {} before it.",
        match ahead {
            0 => "Nothing stands".to_owned(),
            1 => "1 job stands".to_owned(),
            n => format!("{n} jobs stand"),
        }
    )];
    if let (Some(kind), "telling") = (facts.get("kind"), phase) {
        let error = facts.error(": ", "");
        sentences.push(format!("Why it ends: {kind}{error}."));
    }
    let nobody = hindrance::nobody(facts);
    let mut verdict = new(reason, sentences, Finish::Over);
    verdict.ahead = Some(ahead);
    verdict.finish = match (&nobody, phase) {
        (Some(_), _) => Finish::Unknown("no worker is there to do it".to_owned()),
        (None, "polling") => {
            let runs = facts.at("running_at").or(facts.at("submitted_at"));
            finish::at_fal(facts, Duration::ZERO, runs.map(|at| facts.since(at)), None)
        }
        (None, _) => finish::delivery(facts, Duration::ZERO, "fal has nothing more to do for it"),
    };
    if let Some(nobody) = nobody {
        verdict.reason = nobody.reason;
        verdict.sentences.push(nobody.sentence);
        verdict.todo = nobody.todo;
    }
    verdict
}
