//! How a job ended, and what can be done about it.

use super::super::table::{clock, short, visible};
use super::facts::Facts;
use super::finish::Finish;
use super::verdict::{Verdict, new};
use crate::job::UnixMs;
use crate::job::failure::Kind;
use crate::job::inputs::OF_A_FILE;

pub(super) fn verdict(facts: &Facts) -> Verdict {
    let Some(ended) = facts.at("ended_at") else {
        return forgotten(facts);
    };
    let when = format!("{} ago ({})", short(facts.since(ended)), clock(ended.0));
    match facts.get("state") {
        Some("done") => match (facts.get("redelivers"), facts.get("kind")) {
            (Some(of), Some(kind)) => not_sent(facts, of, kind, &when),
            _ => done(facts, &when, ended.0),
        },
        Some("cancelled") => {
            let told = told(facts);
            let text = format!("It was cancelled {when}, {}.{told}", charged(facts));
            let mut verdict = new("cancelled", vec![text], Finish::Over);
            verdict.todo = Some(
                "Its entry is not kept: push it again under another id if it is wanted.".to_owned(),
            );
            verdict
        }
        _ => dead(facts, &when),
    }
}

/// Only the bare id is kept, so that a repeated push is no second payment.
fn forgotten(facts: &Facts) -> Verdict {
    let state = facts.get("state").unwrap_or("?");
    let kind = facts
        .get("kind")
        .map_or(String::new(), |kind| format!(" ({kind})"));
    let text = format!(
        "It ended {state}{kind}, {}; only its id is still kept, so that the same job pushed again is a duplicate \
         and no payment.",
        charged(facts)
    );
    new("forgotten", vec![text], Finish::Over)
}

fn charged(facts: &Facts) -> &'static str {
    match facts.get("charged") {
        Some("yes") => "and fal charged for it",
        Some("unknown") => "and fal may have charged for it",
        _ => "and nothing was paid",
    }
}

fn told(facts: &Facts) -> &'static str {
    match facts.get("told") {
        Some("yes") => " Its user was told.",
        Some("no") => " Its user could not be told.",
        _ => "",
    }
}

fn done(facts: &Facts, when: &str, ended: i64) -> Verdict {
    let mut text = format!("It ended {when}");
    if let Some(queued) = facts.at("queued_at") {
        let whole = queued.until(UnixMs(ended));
        text += &format!(", {} after it came in", short(whole));
    }
    let mut sentences = vec![format!("{text}.")];
    match facts.get("message_ids") {
        Some(ids) if ids != "[]" => {
            let more = if facts.get("kind").is_some() {
                ", in part"
            } else {
                ""
            };
            sentences.push(format!("Its messages in the chat: {}{more}.", visible(ids)));
        }
        _ => sentences.push(
            "No message was sent for it: its events and its record tell the outcome.".to_owned(),
        ),
    }
    let mut verdict = new("done", sentences, Finish::Over);
    if facts.get("file_ids").is_some_and(|ids| ids != "[]") {
        verdict.todo = Some(format!(
            "fal-worker redeliver {} sends it again, free.",
            argument(&facts.id)
        ));
    }
    verdict
}

/// A redelivery ends as `done` whatever came of it: the job whose result it carried has ended long before.
fn not_sent(facts: &Facts, of: &str, kind: &str, when: &str) -> Verdict {
    let (of, kind) = (visible(of), visible(kind));
    let error = facts.error(" ", "");
    let text = format!("It could not send the result of job {of} again: {kind}{error}.");
    let mut verdict = new(
        "not_sent",
        vec![text, format!("It gave up {when}; nothing was paid.")],
        Finish::Over,
    );
    let once = match Kind::parse(&kind) {
        Some(Kind::ChatUnreachable) => "Once the chat can be reached: ",
        _ => "",
    };
    verdict.todo = Some(format!(
        "{once}fal-worker redeliver {} tries again, free.",
        argument(&of)
    ));
    verdict
}

fn dead(facts: &Facts, when: &str) -> Verdict {
    let kind = facts.get("kind").unwrap_or("");
    let error = facts.error(": ", "");
    let attempts = match facts.number("attempt") {
        Some(n) if n > 1 => format!(" after {n} attempts"),
        _ => String::new(),
    };
    let text = format!(
        "It failed {when}{attempts}, {kind}{error}; {}.{}",
        charged(facts).trim_start_matches("and "),
        told(facts)
    );
    let (reason, meaning, todo) = match Kind::parse(kind) {
        Some(kind) => {
            // What failed before its submit has nothing that could be sent.
            let is_there = facts.get("completed_at").is_some()
                || facts.get("file_ids").is_some_and(|ids| ids != "[]");
            let advice = advice(kind, &facts.id, is_there);
            let text = facts.get("error").unwrap_or_default();
            match kind {
                Kind::InvalidInput | Kind::FileTooBig | Kind::Telegram
                    if text.starts_with(OF_A_FILE) =>
                {
                    (
                        advice.0,
                        "A file for its input could not be had, so it was never submitted.",
                        Some("Push a job with another file under a new id.".to_owned()),
                    )
                }
                Kind::InvalidInput if text.starts_with("fal answered 404") => (
                    advice.0,
                    "fal knows no such thing: most likely the name of its model is wrong.",
                    Some("Push a job with the right model under a new id.".to_owned()),
                ),
                // A retry takes the entry as it is: paid again, and over again.
                Kind::Timeout if facts.timeout_s.is_some() && text.starts_with("not finished") => (
                    advice.0,
                    advice.1,
                    Some(
                        "Push it with a larger timeout_s under a new id: a retry keeps this one."
                            .to_owned(),
                    ),
                ),
                _ => advice,
            }
        }
        None => ("dead", "", None),
    };
    let sentences = [text, meaning.to_owned()];
    let sentences = sentences
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect();
    let mut verdict = new(reason, sentences, Finish::Over);
    verdict.todo = todo;
    verdict
}

/// An id in a command: it may begin as a flag does, and `--all-dead` means all.
fn argument(id: &str) -> String {
    match id.starts_with('-') {
        true => format!("-- {id}"),
        false => id.to_owned(),
    }
}

/// What a kind means and what helps.
fn advice(kind: Kind, id: &str, is_there: bool) -> (&'static str, &'static str, Option<String>) {
    let id = argument(id);
    let retry = |first: &str| Some(format!("{first}fal-worker retry {id} generates it again."));
    let redeliver = |first: &str| match is_there {
        true => Some(format!(
            "{first}fal-worker redeliver {id} sends the result, free."
        )),
        false => retry(first),
    };
    match kind {
        Kind::InvalidJob => (
            "dead_invalid_job",
            "The entry breaks a rule, so it was never begun.",
            Some("Mend the entry and push it again: the same id may be used.".to_owned()),
        ),
        Kind::InvalidInput => (
            "dead_invalid_input",
            "fal refused the input, and would again.",
            Some("Push a job with a better input under a new id.".to_owned()),
        ),
        Kind::ContentPolicy => (
            "dead_content_policy",
            "fal's content check said no; the same input meets the same answer.",
            None,
        ),
        Kind::NoBalance => (
            "dead_no_balance",
            "",
            retry("Top up the fal account, then: "),
        ),
        Kind::Auth => (
            "dead_auth",
            "fal refused the key for this model.",
            retry("Check the key and what it may use, then: "),
        ),
        Kind::RateLimited => ("dead_rate_limited", "", retry("")),
        Kind::Unavailable => (
            "dead_unavailable",
            "fal was away, failed, or lost the result, as often as the job may be tried.",
            retry(""),
        ),
        Kind::Timeout => (
            "dead_timeout",
            "It took longer at fal than it may.",
            retry(
                "With more time (timeout_s, --model-timeout, --fal-queue-timeout) if it needs it: ",
            ),
        ),
        Kind::NoOutput => (
            "dead_no_output",
            "fal's result held nothing to deliver.",
            retry(""),
        ),
        Kind::BadAnswer => ("dead_bad_answer", "fal's answer made no sense.", retry("")),
        Kind::FileTooBig => (
            "dead_file_too_big",
            "The file is over what Telegram takes.",
            Some("A local Bot API server takes larger files (--telegram-url).".to_owned()),
        ),
        Kind::ChatUnreachable => (
            "dead_chat_unreachable",
            "The chat cannot be reached: the user blocked the bot, or it was removed.",
            redeliver("Once it can be: "),
        ),
        Kind::Telegram => (
            "dead_telegram",
            "Telegram refused the delivery.",
            redeliver(""),
        ),
        Kind::Crashed => (
            "dead_crashed",
            "Its step killed the worker again and again, so it is left alone.",
            Some(format!(
                "The journal says where: journalctl -u fal-worker -g {id}. Please report it."
            )),
        ),
        Kind::Cancelled => ("dead_cancelled", "", retry("")),
        Kind::Expired => (
            "dead_expired",
            "It waited beyond its expires_at (--max-wait).",
            retry("If it is still wanted: "),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_looks_like_a_flag_stays_an_id_in_a_command() {
        let (.., todo) = advice(Kind::Timeout, "--all-dead", false);
        assert!(todo.unwrap().contains("fal-worker retry -- --all-dead "));
        let (.., todo) = advice(Kind::Timeout, "a-1", false);
        assert!(todo.unwrap().contains("fal-worker retry a-1 "));
    }
}
