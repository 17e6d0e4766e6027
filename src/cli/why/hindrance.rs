//! What keeps every unpaid job from beginning, whoever it belongs to: nobody there, a pause, a full window, a
//! service that is away.

use super::super::table::{short, time_of_day, visible};
use super::facts::Facts;
use super::verdict::since;
use std::time::Duration;

/// Where Telegram refuses the bot.
pub(super) const NEW_TOKEN: &str =
    "Give the worker a token that Telegram takes (TELEGRAM_BOT_TOKEN): fal-worker check tries it.";

/// Something that keeps every unpaid job from beginning.
pub(super) struct Hindrance {
    pub(super) reason: &'static str,
    pub(super) sentence: String,
    pub(super) todo: Option<String>,
    /// Nothing begins before; `None`: nobody knows when it goes.
    pub(super) hold: Option<Duration>,
}

fn start_a_worker() -> String {
    "Start one: systemctl start fal-worker.".to_owned()
}

/// No worker, or none that beats.
pub(super) fn nobody(facts: &Facts) -> Option<Hindrance> {
    if facts.beating() > 0 {
        return None;
    }
    let youngest = facts.living.iter().map(|(_, age)| *age).min();
    let (sentence, todo) = match youngest {
        None => ("No worker runs.".to_owned(), start_a_worker()),
        Some(age) => (
            format!("No worker has given a sign of life for {}.", short(age)),
            "Look whether it hangs or cannot reach Redis: journalctl -u fal-worker.".to_owned(),
        ),
    };
    Some(Hindrance {
        reason: if youngest.is_none() {
            "no_worker"
        } else {
            "worker_silent"
        },
        sentence,
        todo: Some(todo),
        hold: None,
    })
}

/// What keeps unpaid jobs from beginning, the worst first.
pub(super) fn all(facts: &Facts) -> Vec<Hindrance> {
    let mut found: Vec<Hindrance> = nobody(facts).into_iter().collect();
    let nobody_is_there = !found.is_empty();
    if facts.settling {
        found.push(Hindrance {
            reason: "settling",
            sentence: "Redis has lost its last moments, and workers write down again what they know first; \
                       that takes two seconds at most."
                .to_owned(),
            todo: None,
            hold: Some(Duration::from_secs(2)),
        });
    }
    found.extend(pause(facts));
    if nobody_is_there {
        return found;
    }
    if let Some((now, most)) = facts.window.filter(|(now, most)| now >= most) {
        found.push(Hindrance {
            reason: "fal_window",
            sentence: format!(
                "The submit window is full: {now} requests are at fal, and {most} may be (--fal-concurrency)."
            ),
            todo: None,
            hold: Some(Duration::ZERO),
        });
    }
    if facts.pause.is_none()
        && let Some(why) = facts.nobody_pulls()
    {
        let (reason, sentence) = match why {
            "fal is away" => (
                "fal_away",
                "fal does not answer the workers at the moment, so nothing new is taken up; they try again by \
                 themselves."
                    .to_owned(),
            ),
            "telegram refuses the bot" => (
                "bot_refused",
                "Telegram refuses the workers' bot, so nothing new is taken up that could not be delivered.".to_owned(),
            ),
            "full" => (
                "workers_full",
                "Every worker holds as many jobs as it may (--max-in-flight).".to_owned(),
            ),
            _ => (
                "workers_busy",
                "Every thread of every worker is busy at this moment (--threads).".to_owned(),
            ),
        };
        found.push(Hindrance {
            reason,
            sentence,
            todo: (reason == "bot_refused").then(|| NEW_TOKEN.to_owned()),
            hold: (!matches!(reason, "fal_away" | "bot_refused")).then_some(Duration::ZERO),
        });
    }
    found
}

fn pause(facts: &Facts) -> Option<Hindrance> {
    let pause = facts.pause.as_ref()?;
    let why = visible(pause.reason.trim_end_matches('.'));
    let ends = pause.until.map(|until| {
        format!(
            ", until {} UTC (in {})",
            time_of_day(until.0),
            short(facts.until(until))
        )
    });
    // A worker's words begin with the kind of its trouble; a person's mean nothing to us.
    let begins = |kind: &str| !pause.person && why.starts_with(kind);
    let account = begins("no_balance") || begins("auth");
    let (reason, todo) = if begins("no_balance") {
        (
            "paused_balance",
            "Top up the fal account; a probe resumes pulling by itself.",
        )
    } else if account {
        (
            "paused_key",
            "Give the worker a fal key that fal accepts; a probe resumes pulling by itself.",
        )
    } else {
        ("paused", "fal-worker resume ends it.")
    };
    let reason_said = if why.is_empty() {
        String::new()
    } else {
        format!(": {why}")
    };
    Some(Hindrance {
        reason,
        sentence: format!(
            "Pulling has been paused by {} {}{}{reason_said}.",
            visible(&pause.by),
            since(facts, pause.since),
            ends.unwrap_or_default()
        ),
        todo: Some(todo.to_owned()),
        // Each probe that fails pauses again.
        hold: pause
            .until
            .filter(|_| !account)
            .map(|until| facts.until(until)),
    })
}
