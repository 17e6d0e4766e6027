use super::facts::Facts;
use super::finish::{Finish, ends_a_minute};
use super::verdict::{Verdict, verdict};
use super::wrapped;
use crate::job::UnixMs;
use crate::job::failure::Kind;
use crate::job::pace::Pace;
use crate::store::view::{InInbox, ModelLimit, Owner, PauseView, Place, UserView};
use serde_json::{Value, json};
use std::time::Duration;

/// 2026-11-26 12:00:00 UTC.
const NOW: i64 = 1_795_694_400_000;

/// A job in this state with these fields more, and one worker that beats; its model takes 8 to 12 s.
fn facts(state: &str, fields: &[(&str, &str)]) -> Facts {
    let mut facts = Facts {
        now: UnixMs(NOW),
        id: "order-1".to_owned(),
        living: vec![("w~1".to_owned(), Duration::from_millis(400))],
        pace: Pace::parse("8000 10000 12000"),
        ..Facts::default()
    };
    let base = [
        ("state", state),
        ("model", "fal-ai/flux/dev"),
        ("user", "42"),
        ("priority", "default"),
        ("max_attempts", "3"),
        ("attempt", "0"),
        ("v", "1"),
    ];
    let queued_at = (NOW - 60_000).to_string();
    let base = base.into_iter().chain([("queued_at", queued_at.as_str())]);
    for (name, value) in base.chain(fields.iter().copied()) {
        facts.record.insert(name.to_owned(), value.to_owned());
    }
    facts
}

fn running(fields: &[(&str, &str)], said: Value) -> Facts {
    let mut facts = facts("running", fields);
    facts.record.insert("worker".to_owned(), "w~1".to_owned());
    facts.owner = Some(Owner {
        beat_age: Some(Duration::from_millis(400)),
        is_dead: false,
        is_known: true,
    });
    let answer = json!({"pulling": "yes", "away": [], "jobs": {"order-1": said}});
    facts.answers = vec![("w~1".to_owned(), Some(answer))];
    facts
}

fn ago(ms: i64) -> String {
    (NOW - ms).to_string()
}

fn place(paid: u64, higher: u64, same: u64, own: u64) -> Place {
    Place {
        paid,
        higher,
        same,
        own,
        ..Place::default()
    }
}

fn says(facts: &Facts) -> Verdict {
    verdict(facts).expect("a known job")
}

type Case = (
    &'static str,
    Facts,
    &'static str,
    &'static [&'static str],
    &'static str,
);

/// Name, facts, reason, parts of the text, and how the finish begins.
fn cases() -> Vec<Case> {
    let with = |mut facts: Facts, change: &dyn Fn(&mut Facts)| {
        change(&mut facts);
        facts
    };
    let ready = |change: &dyn Fn(&mut Facts)| {
        with(facts("queued", &[]), &|facts| {
            facts.place = Some(place(0, 0, 0, 0));
            change(facts);
        })
    };
    let pause = |reason: &str, until: Option<i64>| PauseView {
        reason: reason.to_owned(),
        by: "anna".to_owned(),
        person: false,
        since: UnixMs(NOW - 125_000),
        until: until.map(|ms| UnixMs(NOW + ms)),
    };
    let later = |fields: &[(&str, &str)]| {
        let due = (NOW + 90_000).to_string();
        let mut all = vec![("due_at", due.as_str())];
        all.extend(fields);
        facts("later", &all)
    };
    let polling = |fields: &[(&str, &str)], said: Value| {
        let submitted = ago(30_000);
        let mut all = vec![
            ("phase", "polling"),
            ("request_id", "req-9"),
            ("attempt", "1"),
            ("submitted_at", submitted.as_str()),
        ];
        all.extend(fields);
        running(&all, said)
    };
    vec![
        (
            "next",
            ready(&|_| {}),
            "next",
            &[
                "ready in the queue `default` for 1m (since 11:59:00 UTC), and is not paid for.",
                "Nothing stands before it: the next thread that pulls takes it.",
            ],
            "Likely done in 8.5s to 22s",
        ),
        (
            "a line, and the pace of the last minutes",
            ready(&|facts| {
                facts.place = Some(place(1, 2, 27, 4));
                facts.minutes = vec![(0, 0), (9, 1), (19, 1), (30, 0)];
            }),
            "line",
            &[
                "30 jobs are served before it: 1 paid already, 2 of a higher priority, 27 in `default` (4 of them user 42's).",
            ],
            "Likely done in 1m 8s to 2m 37s",
        ),
        (
            "a line, and nothing to tell the pace",
            ready(&|facts| facts.place = Some(place(0, 0, 5, 0))),
            "line",
            &["5 jobs are served before it"],
            "When it ends cannot be known: 5 stand before it, and nothing has ended",
        ),
        (
            "a line too long to read",
            ready(&|facts| {
                facts.place = Some(Place {
                    at_least: true,
                    ..place(0, 0, 30_000, 0)
                });
                facts.minutes = vec![(600, 0)];
            }),
            "line",
            &["at least 30000 jobs are served before it"],
            "Likely done in 50m",
        ),
        (
            "no worker",
            ready(&|facts| facts.living.clear()),
            "no_worker",
            &["No worker runs.", "systemctl start fal-worker"],
            "When it ends cannot be known: no worker is there",
        ),
        (
            "workers that do not beat",
            ready(&|facts| facts.living[0].1 = Duration::from_secs(75)),
            "worker_silent",
            &["No worker has given a sign of life for 1m 15s."],
            "When it ends cannot be known: no worker is there",
        ),
        (
            "a pause of a person",
            ready(&|facts| facts.pause = Some(pause("new prices", None))),
            "paused",
            &[
                "Nothing stands before it. Pulling has been paused by anna for 2m 5s (since 11:57:55 UTC): new prices.",
                "fal-worker resume",
            ],
            "When it ends cannot be known: nobody knows when it is resumed",
        ),
        (
            "a pause with an end",
            ready(&|facts| facts.pause = Some(pause("", Some(300_000)))),
            "paused",
            &["until 12:05:00 UTC (in 5m)"],
            "Likely done in 5m 8s to 5m 22s",
        ),
        (
            "a pause for an empty account",
            ready(&|facts| facts.pause = Some(pause("no_balance: User is locked.", Some(30_000)))),
            "paused_balance",
            &["no_balance: User is locked", "Top up the fal account"],
            "When it ends cannot be known: nobody knows when the fal account is good again",
        ),
        (
            "a pause for a refused key",
            ready(&|facts| facts.pause = Some(pause("auth: invalid key", Some(30_000)))),
            "paused_key",
            &["a fal key that fal accepts"],
            "When it ends cannot be known",
        ),
        (
            "a person's pause that reads like a worker's",
            ready(&|facts| {
                facts.pause = Some(PauseView {
                    person: true,
                    ..pause("auth server is moved", Some(30_000))
                });
            }),
            "paused",
            &["auth server is moved", "fal-worker resume ends it"],
            "Likely done",
        ),
        (
            "a full window",
            ready(&|facts| {
                facts.window = Some((6, 6));
                facts.place = Some(place(0, 0, 12, 0));
            }),
            "fal_window",
            &["6 requests are at fal, and 6 may be (--fal-concurrency)"],
            "Likely done in 24s to 56s",
        ),
        (
            "fal away",
            ready(&|facts| {
                facts.answers = vec![("w~1".into(), Some(json!({"pulling": "fal is away"})))]
            }),
            "fal_away",
            &["fal does not answer the workers"],
            "When it ends cannot be known: fal is away",
        ),
        (
            "a bot that is refused",
            ready(&|facts| {
                facts.answers = vec![(
                    "w~1".into(),
                    Some(json!({"pulling": "telegram refuses the bot"})),
                )]
            }),
            "bot_refused",
            &["nothing new is taken up", "Give the worker a token"],
            "When it ends cannot be known: Telegram refuses the bot",
        ),
        (
            "full workers",
            ready(&|facts| facts.answers = vec![("w~1".into(), Some(json!({"pulling": "full"})))]),
            "workers_full",
            &["--max-in-flight"],
            "Likely done",
        ),
        (
            "one of two workers pulls",
            ready(&|facts| {
                facts.answers = vec![
                    ("w~1".into(), Some(json!({"pulling": "full"}))),
                    ("w~2".into(), Some(json!({"pulling": "yes"}))),
                ]
            }),
            "next",
            &["Nothing stands before it"],
            "Likely done",
        ),
        (
            "busy workers are no cause of their own",
            ready(&|facts| {
                facts.answers = vec![("w~1".into(), Some(json!({"pulling": "busy"})))];
                facts.place = Some(place(0, 0, 1, 0));
                facts.minutes = vec![(60, 0)];
            }),
            "line",
            &[
                "1 job is served before it",
                "Every thread of every worker is busy",
            ],
            "Likely done",
        ),
        (
            "a Redis that forgot",
            ready(&|facts| facts.settling = true),
            "settling",
            &["Redis has lost its last moments"],
            "Likely done in 10s to 24s",
        ),
        (
            "too old",
            with(facts("queued", &[("expires_at", &ago(5000))]), &|_| {}),
            "expired",
            &["Its expires_at passed 5.0s ago"],
            "Likely done in 0.5s to 8.0s",
        ),
        (
            "doubt after a crash",
            with(
                facts("queued", &[("doubt", "submit"), ("attempt", "1")]),
                &|facts| facts.place = Some(place(0, 0, 0, 0)),
            ),
            "next",
            &[
                "Of its last submit it is not known whether fal took it: the next submit may be a second payment.",
            ],
            "Likely done",
        ),
        (
            "doubt after an answer that was lost",
            with(
                facts(
                    "queued",
                    &[
                        ("doubt", "submit"),
                        ("attempt", "1"),
                        ("kind", "unavailable"),
                        ("error", "connection cut"),
                    ],
                ),
                &|facts| facts.place = Some(place(0, 0, 0, 0)),
            ),
            "next",
            &[
                "it is not known whether fal took it (connection cut): the next submit may be a second payment.",
            ],
            "Likely done",
        ),
        (
            "paid, between two workers",
            with(
                facts(
                    "queued",
                    &[
                        ("phase", "polling"),
                        ("request_id", "r"),
                        ("submitted_at", &ago(4000)),
                    ],
                ),
                &|facts| facts.paid_place = Some(0),
            ),
            "to_poll",
            &[
                "fal has it",
                "what is paid passes every limit",
                "Nothing stands before it",
            ],
            "Likely done in 4.5s to 16s",
        ),
        (
            "paid, and no worker",
            with(facts("queued", &[("phase", "delivering")]), &|facts| {
                facts.living.clear()
            }),
            "no_worker",
            &["Its result is there", "No worker runs."],
            "When it ends cannot be known",
        ),
        (
            "cancelled before its submit",
            facts(
                "queued",
                &[
                    ("phase", "telling"),
                    ("kind", "cancelled"),
                    ("error", "cancelled by request."),
                ],
            ),
            "to_tell",
            &[
                "its user is told next",
                "Why it ends: cancelled: cancelled by request.",
            ],
            "Likely done",
        ),
        (
            "its user's turn",
            with(facts("waiting", &[]), &|facts| {
                facts.place = Some(place(0, 0, 7, 3));
                facts.minutes = vec![(60, 0), (60, 0)];
            }),
            "turn",
            &[
                "Users take turns (--fair), and 3 jobs of user 42 come before this one.",
                "7 jobs are served before it",
            ],
            "Likely done in 15s to 32s",
        ),
        (
            "its user's slots",
            with(facts("waiting", &[]), &|facts| {
                facts.place = Some(Place {
                    for_slot: true,
                    ..place(0, 0, 4, 4)
                });
                facts.user = Some(UserView {
                    running: vec!["a".into(), "b".into()],
                    slots: 2,
                    ..UserView::default()
                });
            }),
            "user_slots",
            &[
                "All slots of user 42 are in use: 2 of 2 jobs run (a, b; --user-concurrency), and 4 of his others wait before it.",
            ],
            "Likely done in 24s to 56s",
        ),
        (
            "a limit of its model",
            with(facts("waiting", &[("behind", "fal-ai/flux*")]), &|facts| {
                facts.place = Some(place(0, 1, 1, 0));
                facts.limit = Some(ModelLimit {
                    pattern: "fal-ai/flux*".into(),
                    now: 1,
                    most: 1,
                });
            }),
            "model_limit",
            &[
                "1 of 1 requests of fal-ai/flux* are at fal (--model-limit)",
                "2 jobs wait for the same before it.",
            ],
            "Likely done in 24s to 56s",
        ),
        (
            "a limit of its model, first of its user",
            with(facts("queued", &[("behind", "fal-ai/flux*")]), &|facts| {
                facts.place = Some(place(0, 0, 0, 0));
                facts.limit = Some(ModelLimit {
                    pattern: "fal-ai/flux*".into(),
                    now: 1,
                    most: 1,
                });
            }),
            "model_limit",
            &["Nothing waits for the same before it."],
            "Likely done in 8.5s to 32s",
        ),
        (
            "not_before",
            later(&[("not_before", "1")]),
            "not_before",
            &["not_before: it becomes ready in 1m 30s (at 12:01:30 UTC)."],
            "Likely done in 1m 38s to 1m 52s",
        ),
        (
            "its user's rate",
            with(later(&[("deferred_at", "1")]), &|facts| {
                facts.rate_until = Some(UnixMs(NOW + 90_000));
                facts.user = Some(UserView {
                    rate: Some("20/1h".into()),
                    ..UserView::default()
                });
            }),
            "user_rate",
            &[
                "User 42 came more often than --user-rate 20/1h allows; its turn by that is in 1m 30s",
            ],
            "Likely done in 1m 38s",
        ),
        (
            "backoff",
            later(&[
                ("kind", "unavailable"),
                ("error", "503: down"),
                ("tries", "3"),
                ("attempt", "0"),
            ]),
            "backoff",
            &[
                "fal did not take it, 3 times in a row: unavailable (503: down). It is tried again in 1m 30s",
            ],
            "Likely done in 1m 38s",
        ),
        (
            "files that cannot be brought",
            later(&[
                ("kind", "unavailable"),
                ("error", "input_files.image_url: fal's storage is away"),
                ("tries", "5"),
            ]),
            "backoff",
            &[
                "Its files could not be brought to fal, 5 times in a row: unavailable (input_files.image_url: fal's storage is away).",
            ],
            "Likely done",
        ),
        (
            "backoff after an unknown outcome",
            later(&[
                ("kind", "unavailable"),
                ("error", "time-out"),
                ("tries", "1"),
                ("attempt", "1"),
                ("doubt", "submit"),
            ]),
            "backoff_unknown",
            &[
                "Of its last submit it is not known whether fal took it (time-out): the next submit, in 1m 30s",
                "may be a second payment; 1 of 3 attempts are used.",
            ],
            "Likely done",
        ),
        (
            "backoff for the account",
            later(&[
                ("kind", "no_balance"),
                ("error", "User is locked"),
                ("tries", "1"),
            ]),
            "backoff_balance",
            &[
                "fal did not take it, once: no_balance",
                "Top up the fal account.",
            ],
            "Likely done",
        ),
        (
            "backoff for the rate of fal",
            later(&[("kind", "rate_limited"), ("error", "429"), ("tries", "2")]),
            "backoff_rate",
            &["2 times in a row: rate_limited (429)"],
            "Likely done",
        ),
        (
            "a newer version's",
            later(&[("v", "9")]),
            "newer_version",
            &["A newer version", "Upgrade the workers"],
            "When it ends cannot be known: no worker here can read it",
        ),
        (
            "later, with a pause as well",
            with(later(&[("not_before", "1")]), &|facts| {
                facts.pause = Some(pause("x", None))
            }),
            "not_before",
            &["Pulling has been paused by anna"],
            "When it ends cannot be known: nobody knows when it is resumed",
        ),
        (
            "being submitted",
            running(
                &[("phase", "submitting"), ("started_at", &ago(1000))],
                json!({"where": "thread", "thread": "pool-3", "for_ms": 900}),
            ),
            "submitting",
            &[
                "Worker w~1 has it in hand (submitting).",
                "Thread pool-3 has worked on it for 0.9s.",
            ],
            "Likely done in 8.5s to 22s",
        ),
        (
            "claimed and not begun",
            running(&[("phase", "submitting")], json!({"where": "claimed"})),
            "claimed",
            &["It has not been begun"],
            "Likely done",
        ),
        (
            "files for fal",
            running(
                &[("phase", "submitting")],
                json!({"where": "transfer", "for_ms": 3000}),
            ),
            "input_files",
            &["for 3.0s (--transfer-threads)"],
            "Likely done",
        ),
        (
            "generating",
            polling(
                &[("running_at", &ago(5000))],
                json!({"where": "parked", "due_ms": 700, "heard": "runs"}),
            ),
            "generating",
            &[
                "fal has had it, as req-9, for 30s",
                "running at fal for 5.0s",
                "Its next step is due in 0.7s.",
            ],
            "Likely done in 3.5s to 15s",
        ),
        (
            "generating for longer than any",
            polling(
                &[("running_at", &ago(25_000))],
                json!({"where": "parked", "due_ms": 700, "heard": "runs"}),
            ),
            "generating",
            &["has run for 25s already, so the guess is poor"],
            "Likely done in 0.5s to 33s",
        ),
        (
            "in fal's queue",
            polling(
                &[],
                json!({"where": "parked", "due_ms": 700, "heard": "queued", "ahead": 3}),
            ),
            "fal_queue",
            &["It stands in fal's own queue, 3 before it."],
            "Likely done in 8.5s to 56s",
        ),
        (
            "in fal's queue, somewhere",
            polling(
                &[],
                json!({"where": "parked", "due_ms": 700, "heard": "queued", "ahead": null}),
            ),
            "fal_queue",
            &["It stands in fal's own queue."],
            "When it ends cannot be known: it waits in fal's own queue",
        ),
        (
            "nothing heard",
            polling(
                &[],
                json!({"where": "parked", "due_ms": 1, "heard": "nothing"}),
            ),
            "polling",
            &["fal has not said yet"],
            "Likely done",
        ),
        (
            "an unknown model",
            with(polling(&[], Value::Null), &|facts| facts.pace = None),
            "polling",
            &[],
            "When it ends cannot be known: no generation of fal-ai/flux/dev has ended yet",
        ),
        (
            "a second attempt",
            polling(&[("attempt", "2")], Value::Null),
            "polling",
            &["It is attempt 2 of 3."],
            "Likely",
        ),
        (
            "a step that fails",
            polling(
                &[],
                json!({"where": "parked", "due_ms": 9000, "heard": "nothing", "tries": 4}),
            ),
            "polling",
            &["This step has failed 4 times in a row", "-g order-1"],
            "Likely done",
        ),
        (
            "being cancelled",
            polling(
                &[("cancelling", &ago(2000)), ("cancel_asked", &ago(3000))],
                json!({"cancelling": true}),
            ),
            "cancelling",
            &[
                "cancel at fal has been under way for 2.0s",
                "Its end was asked for 3.0s ago",
            ],
            "When it ends cannot be known: it ends when fal says so",
        ),
        (
            "fal away while it runs",
            with(polling(&[], Value::Null), &|facts| {
                facts.answers = vec![(
                    "w~1".into(),
                    Some(json!({"away": ["fal"], "jobs": {"order-1": null}})),
                )];
            }),
            "fal_away",
            &["fal does not answer the worker"],
            "When it ends cannot be known: fal is away",
        ),
        (
            "being fetched",
            running(&[("phase", "collecting")], Value::Null),
            "collecting",
            &["fetched"],
            "Likely done in 0.5s to 8.0s",
        ),
        (
            "being delivered",
            running(
                &[("phase", "delivering"), ("completed_at", &ago(1000))],
                json!({"where": "transfer", "for_ms": 5}),
            ),
            "delivering",
            &["Its result has been there for 1.0s"],
            "Likely done in 0.5s to 8.0s",
        ),
        (
            "Telegram away",
            with(running(&[("phase", "delivering")], Value::Null), &|facts| {
                facts.answers = vec![(
                    "w~1".into(),
                    Some(json!({"away": ["telegram"], "jobs": {"order-1": null}})),
                )];
            }),
            "telegram_away",
            &["Telegram does not answer the worker"],
            "When it ends cannot be known: Telegram is away",
        ),
        (
            "a bot that Telegram refuses",
            with(running(&[("phase", "delivering")], Value::Null), &|facts| {
                facts.answers = vec![(
                    "w~1".into(),
                    Some(json!({"away": ["bot"], "jobs": {"order-1": null}})),
                )];
            }),
            "bot_refused",
            &[
                "Telegram refuses the worker's bot",
                "Give the worker a token",
            ],
            "When it ends cannot be known: Telegram refuses the bot",
        ),
        (
            "Telegram's rate",
            running(
                &[("phase", "delivering")],
                json!({"where": "parked", "due_ms": 4000, "turn_at": NOW + 4000}),
            ),
            "telegram_rate",
            &["(--telegram-rate): its turn is in 4.0s"],
            "Likely done in 4.5s to 12s",
        ),
        (
            "a delivery that is tried again",
            running(
                &[("phase", "delivering"), ("doubt", "send")],
                json!({"where": "parked", "due_ms": 4000, "tries": 2}),
            ),
            "delivery_retry",
            &["failed 2 times in a row", "may see it twice"],
            "Likely done",
        ),
        (
            "a file that is not there",
            running(
                &[("phase", "delivering")],
                json!({"file_missing_since": NOW - 9000}),
            ),
            "file_missing",
            &["could not be fetched from fal's file host for 9.0s"],
            "When it ends cannot be known",
        ),
        (
            "a file for which there is no room",
            running(
                &[("phase", "delivering")],
                json!({"file_missing_since": NOW - 9000, "no_room": "a temporary file could not be written in /x: full"}),
            ),
            "worker_disk",
            &[
                "could not keep its file for 9.0s",
                ": a temporary file could not be written in /x: full.",
            ],
            "When it ends cannot be known",
        ),
        (
            "telling",
            running(
                &[
                    ("phase", "telling"),
                    ("kind", "timeout"),
                    ("error", "too slow"),
                ],
                Value::Null,
            ),
            "telling",
            &["It has failed, timeout (too slow), and its user is being told."],
            "Likely done",
        ),
        (
            "a redelivery",
            running(
                &[("phase", "delivering"), ("redelivers", "old-1")],
                Value::Null,
            ),
            "delivering",
            &["It sends the result of job old-1 again."],
            "Likely done",
        ),
        (
            "a redelivery that could not send",
            facts(
                "done",
                &[
                    ("redelivers", "old-1"),
                    ("kind", "chat_unreachable"),
                    ("error", "bot was blocked"),
                    ("message_ids", "[]"),
                    ("ended_at", &ago(60_000)),
                ],
            ),
            "not_sent",
            &[
                "It could not send the result of job old-1 again: chat_unreachable bot was blocked.",
                "fal-worker redeliver old-1 tries again, free.",
            ],
            "",
        ),
        (
            "a redelivery that sent",
            facts(
                "done",
                &[
                    ("redelivers", "old-1"),
                    ("message_ids", "[7]"),
                    ("ended_at", &ago(60_000)),
                ],
            ),
            "done",
            &["It sent the result of job old-1 again.", "[7]"],
            "",
        ),
        (
            "a silent owner, and nobody else",
            with(polling(&[], Value::Null), &|facts| {
                facts.owner.as_mut().unwrap().beat_age = Some(Duration::from_secs(12));
                facts.living[0].1 = Duration::from_secs(12);
                facts.answers.clear();
            }),
            "worker_silent",
            &[
                "no sign of life for 12s",
                "No other worker is there to take over.",
            ],
            "When it ends cannot be known: no worker is there",
        ),
        (
            "a silent owner, where Redis takes no writes",
            with(polling(&[], Value::Null), &|facts| {
                facts.owner.as_mut().unwrap().beat_age = Some(Duration::from_secs(12));
                facts.living[0].1 = Duration::from_secs(12);
                facts.redis_refuses = true;
                facts.answers.clear();
            }),
            "worker_silent",
            &["Redis takes no writes", "Leave the worker running."],
            "When it ends cannot be known: nobody knows when Redis takes writes again",
        ),
        (
            "a silent owner, and another",
            with(polling(&[], Value::Null), &|facts| {
                facts.owner.as_mut().unwrap().beat_age = Some(Duration::from_secs(12));
                facts.living[0].1 = Duration::from_secs(12);
                facts.living.push(("w~2".into(), Duration::ZERO));
                facts.answers.clear();
            }),
            "worker_silent",
            &["its lease lapses after 30s"],
            "Likely done",
        ),
        (
            "a dead owner",
            with(polling(&[], Value::Null), &|facts| {
                facts.owner.as_mut().unwrap().is_dead = true;
                facts.living.push(("w~2".into(), Duration::ZERO));
            }),
            "worker_dead",
            &["marked dead"],
            "Likely done",
        ),
        (
            "an owner nobody knows",
            with(polling(&[], Value::Null), &|facts| {
                facts.owner.as_mut().unwrap().beat_age = None
            }),
            "worker_gone",
            &["not among the living"],
            "When it ends cannot be known",
        ),
        (
            "done",
            facts(
                "done",
                &[
                    ("ended_at", &ago(30_000)),
                    ("message_ids", "[7]"),
                    ("file_ids", "[\"f\"]"),
                ],
            ),
            "done",
            &[
                "It ended 30s ago",
                "30s after it came in",
                "messages in the chat: [7]",
                "fal-worker redeliver order-1",
            ],
            "",
        ),
        (
            "done without a chat",
            facts("done", &[("ended_at", &ago(30_000))]),
            "done",
            &["No message was sent"],
            "",
        ),
        (
            "cancelled",
            facts(
                "cancelled",
                &[
                    ("ended_at", &ago(30_000)),
                    ("charged", "no"),
                    ("told", "yes"),
                ],
            ),
            "cancelled",
            &[
                "It was cancelled 30s ago",
                "nothing was paid. Its user was told.",
            ],
            "",
        ),
        (
            "the bare id",
            facts("done", &[("charged", "yes")]),
            "forgotten",
            &["only its id is still kept", "fal charged for it"],
            "",
        ),
        (
            "dead",
            facts(
                "dead",
                &[
                    ("ended_at", &ago(30_000)),
                    ("kind", "timeout"),
                    ("error", "10m"),
                    ("charged", "unknown"),
                    ("attempt", "2"),
                    ("told", "no"),
                ],
            ),
            "dead_timeout",
            &[
                "after 2 attempts, timeout: 10m; fal may have charged for it. Its user could not be told.",
                "fal-worker retry order-1",
            ],
            "",
        ),
    ]
}

#[test]
fn every_state_has_its_reason_its_words_and_its_finish() {
    for (name, facts, reason, parts, finish) in cases() {
        let verdict = says(&facts);
        let text = verdict.text(facts.now);
        assert_eq!(verdict.reason, reason, "{name}: {text}");
        assert_eq!(verdict.state, facts.record["state"], "{name}");
        for part in parts {
            assert!(text.contains(part), "{name}: {part:?} is not in: {text}");
        }
        let said = verdict.finish.sentence(facts.now);
        assert!(said.starts_with(finish), "{name}: {said}");
        assert_eq!(said.is_empty(), finish.is_empty(), "{name}: {said}");
        assert!(
            !text.contains("  ") && !text.contains(".."),
            "{name}: {text}"
        );
    }
}

#[test]
fn every_kind_of_a_dead_letter_has_a_word_of_its_own() {
    let mut seen = std::collections::BTreeSet::new();
    for kind in Kind::ALL {
        let dead = facts(
            "dead",
            &[
                ("ended_at", &ago(1000)),
                ("kind", kind.as_str()),
                ("error", "why"),
            ],
        );
        let verdict = says(&dead);
        assert_eq!(verdict.reason, format!("dead_{}", kind.as_str()));
        assert!(verdict.sentences[0].contains(&format!("{}: why", kind.as_str())));
        assert!(seen.insert(verdict.reason));
        assert_eq!(verdict.finish, Finish::Over);
        let helps = kind != Kind::ContentPolicy;
        assert_eq!(verdict.todo.is_some(), helps, "{kind:?}");
    }
}

#[test]
fn an_entry_in_the_inbox_is_found_there() {
    let mut facts = Facts {
        now: UnixMs(NOW),
        id: "a".into(),
        ..Facts::default()
    };
    assert_eq!(verdict(&facts), None);
    facts.inbox = Some(InInbox {
        ahead: 4,
        taken_by: None,
    });
    let alone = says(&facts);
    assert_eq!(
        (alone.state.as_str(), alone.reason, alone.ahead),
        ("inbox", "no_worker", Some(4))
    );
    facts.living.push(("w~1".into(), Duration::ZERO));
    assert!(says(&facts).sentences[0].contains("4 jobs before it"));
    facts.inbox = Some(InInbox {
        ahead: 0,
        taken_by: Some("w~1".into()),
    });
    assert!(says(&facts).sentences[0].contains("worker w~1 is reading it"));
}

#[test]
fn an_entry_that_only_dead_workers_could_read_is_read_by_nobody() {
    let mut facts = Facts {
        now: UnixMs(NOW),
        id: "a".into(),
        living: vec![("w~1".into(), Duration::from_secs(60))],
        ..Facts::default()
    };
    for (taken_by, said) in [
        (
            None,
            "It lies in the inbox, 2 jobs before it. No worker has given a sign of life for 1m.",
        ),
        (
            Some("w~1".to_owned()),
            "It has left the inbox, and worker w~1 has not read it. No worker has given a sign of life for 1m.",
        ),
    ] {
        facts.inbox = Some(InInbox { ahead: 2, taken_by });
        let verdict = says(&facts);
        assert_eq!(
            (verdict.state.as_str(), verdict.reason),
            ("inbox", "worker_silent")
        );
        let text = verdict.text(facts.now);
        assert!(text.starts_with(said), "{text}");
        assert!(text.contains("no worker is there to read it"), "{text}");
        let todo = verdict.todo.expect("something to do");
        assert!(todo.contains("journalctl"), "{todo}");
    }
    // One that beats reads it, whatever else stands in the list.
    facts.living.push(("w~2".into(), Duration::ZERO));
    facts.inbox = Some(InInbox {
        ahead: 2,
        taken_by: None,
    });
    let verdict = says(&facts);
    assert_eq!((verdict.reason, verdict.todo), ("inbox", None));
    facts.inbox = Some(InInbox {
        ahead: 0,
        taken_by: Some("w~1".to_owned()),
    });
    let said = says(&facts).text(facts.now);
    assert!(said.contains("another one puts it back"), "{said}");
}

#[test]
fn job_data_cannot_forge_a_line_or_a_colour() {
    let escape = "\u{1b}[31m\nPaid";
    let cases = [
        facts(
            "later",
            &[("kind", "unavailable"), ("error", escape), ("user", escape)],
        ),
        facts(
            "dead",
            &[("ended_at", "1"), ("kind", "timeout"), ("error", escape)],
        ),
        running(
            &[("phase", "telling"), ("kind", "timeout"), ("error", escape)],
            Value::Null,
        ),
        running(
            &[("phase", "polling"), ("request_id", escape)],
            json!({"where": "thread", "thread": escape}),
        ),
    ];
    for facts in cases {
        let text = says(&facts).text(facts.now);
        assert!(!text.contains(['\u{1b}', '\n']), "{text:?}");
    }
}

#[test]
fn the_pace_of_the_last_minutes_begins_with_the_first_end() {
    assert_eq!(ends_a_minute(&[]), None);
    assert_eq!(ends_a_minute(&[(0, 0), (0, 0)]), None);
    assert_eq!(ends_a_minute(&[(0, 0), (6, 2), (4, 0)]), Some((6.0, 8.0)));
}

#[test]
fn a_paragraph_is_broken_at_spaces() {
    assert_eq!(wrapped("aa bb cc dddddddd e", 5), "aa bb\ncc\ndddddddd\ne");
    assert_eq!(wrapped("", 5), "");
}

#[test]
fn what_never_had_a_result_is_not_sent_again() {
    for (fields, todo) in [
        (&[][..], "retry order-1"),
        (&[("completed_at", "1")][..], "redeliver order-1"),
    ] {
        for kind in ["telegram", "chat_unreachable"] {
            let all = [&[("kind", kind), ("ended_at", "9")], fields].concat();
            let verdict = verdict(&facts("dead", &all)).unwrap();
            let said = verdict.todo.unwrap();
            assert!(said.contains(todo), "{kind}: {said}");
        }
    }
}

#[test]
fn what_fal_was_never_asked_it_did_not_refuse() {
    let file = "input_files.image_url: Telegram does not know this file id";
    let big = "input_files.image_url: the file is over 20 MB";
    let model = "fal answered 404: Application \"x\" not found";
    let input = "fal answered 422 missing at body.prompt: Field required";
    for (kind, error, meaning, todo) in [
        ("invalid_input", file, "never submitted", "another file"),
        ("file_too_big", big, "never submitted", "another file"),
        ("telegram", file, "never submitted", "another file"),
        ("invalid_input", model, "its model is wrong", "right model"),
        (
            "invalid_input",
            input,
            "fal refused the input",
            "better input",
        ),
        ("telegram", "Bad Request", "refused the delivery", "retry"),
    ] {
        let fields = [("kind", kind), ("ended_at", "9"), ("error", error)];
        let verdict = says(&facts("dead", &fields));
        assert!(verdict.sentences[1].contains(meaning), "{verdict:?}");
        assert!(verdict.todo.is_some_and(|said| said.contains(todo)));
    }
}

#[test]
fn a_job_that_ran_out_of_its_own_time_is_not_paid_for_again_with_the_same() {
    let late = "not finished after 60 s";
    for (timeout_s, error, todo) in [
        (Some(60), late, "larger timeout_s under a new id"),
        (None, late, "retry order-1"),
        (
            Some(60),
            "still in fal's queue after 3600 s",
            "retry order-1",
        ),
    ] {
        let fields = [("kind", "timeout"), ("ended_at", "9"), ("error", error)];
        let mut dead = facts("dead", &fields);
        dead.timeout_s = timeout_s;
        let said = says(&dead).todo.unwrap();
        assert!(said.contains(todo), "{said}");
    }
}

#[test]
fn the_finish_of_jobs_that_their_users_rate_holds_is_not_guessed() {
    let mut waiting = facts("waiting", &[]);
    for (left, own, known) in [
        (None, 30, true),
        (Some(16), 15, true),
        (Some(16), 16, false),
    ] {
        for for_slot in [false, true] {
            waiting.place = Some(Place {
                for_slot,
                ..place(0, 0, own, own)
            });
            waiting.minutes = vec![(60, 0)];
            waiting.user = Some(UserView {
                running: vec!["a".into()],
                slots: 4,
                rate: left.map(|_| "20/1h".to_owned()),
                left,
            });
            let said = says(&waiting).finish.sentence(waiting.now);
            assert_eq!(said.starts_with("Likely done"), known, "{left:?}: {said}");
            assert_eq!(said.contains("--user-rate 20/1h"), !known, "{said}");
        }
    }
}
