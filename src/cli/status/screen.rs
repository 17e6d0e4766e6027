//! The screen of `status --watch`: what an operator looks at first stands on top, and nothing is wider or longer
//! than the terminal. Composing it is pure; it is drawn over the old one, line by line, so nothing flickers.

use super::super::table::{columns, cut, short, time_of_day, visible};
use super::lately::Lately;
use crate::job::UnixMs;
use crate::store::view::{SILENT, Status};
use std::time::Duration;

/// Models, errors and workers that are shown at most.
const MODELS: usize = 6;
const ERRORS: usize = 5;
const WORKERS: usize = 12;

/// Goes to a screen of its own, without a cursor.
pub(super) const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// Goes back to what was there before.
pub(super) const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// What a screen is made of.
pub(super) struct Seen<'a> {
    pub(super) status: &'a Status,
    pub(super) address: &'a str,
    pub(super) now: UnixMs,
    /// Ends (done, failed) of the last minutes, the present one last.
    pub(super) minutes: &'a [(u64, u64)],
    pub(super) lately: &'a Lately,
    /// Since when Redis does not answer.
    pub(super) lost: Option<Duration>,
}

/// The screen as lines, none longer than `width`.
pub(super) fn compose(seen: &Seen<'_>, width: usize) -> Vec<String> {
    let status = seen.status;
    let mut lines = vec![format!(
        "fal-worker  {} UTC   redis {} at {}, {} used",
        time_of_day(seen.now.0),
        visible(&status.redis_version),
        visible(seen.address),
        visible(&status.redis_memory)
    )];
    if let Some(lost) = seen.lost {
        lines.push(format!(
            "REDIS DOES NOT ANSWER for {}: what follows is old",
            short(lost)
        ));
    }
    lines.extend(super::trouble_lines(status, seen.now));
    lines.push(String::new());
    let queues: Vec<Vec<String>> = status
        .queues
        .iter()
        .map(|queue| {
            vec![
                queue.name.to_owned(),
                queue.depth.to_string(),
                queue.oldest.map_or("-".to_owned(), short),
            ]
        })
        .collect();
    let running: u64 = status.running.values().sum();
    let mut beside = vec![
        format!("in flight  {running}"),
        [
            "submitting",
            "polling",
            "collecting",
            "delivering",
            "telling",
        ]
        .iter()
        .filter_map(|phase| Some(format!("{phase} {}", status.running.get(*phase)?)))
        .collect::<Vec<_>>()
        .join("  "),
        format!(
            "later {}  waiting {}  dead {}",
            status.later, status.waiting, status.dead
        ),
        ends(seen.minutes),
    ];
    beside.extend(held(status));
    let left: Vec<String> = columns(&["QUEUE", "DEPTH", "OLDEST"], &queues, 40)
        .lines()
        .map(str::to_owned)
        .collect();
    let broad = left
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0)
        + 4;
    let rows = left.len().max(beside.len());
    if width >= broad + 40 {
        for row in 0..rows {
            let (a, b) = (left.get(row), beside.get(row));
            let (a, b) = (a.map_or("", String::as_str), b.map_or("", String::as_str));
            lines.push(format!("{a:<broad$}{b}").trim_end().to_owned());
        }
    } else {
        lines.extend(left);
        lines.extend(beside);
    }
    lines.push(String::new());
    workers(status, &mut lines);
    models(seen.lately, &mut lines);
    errors(seen.lately, &mut lines);
    lines.iter().map(|line| cut(line, width)).collect()
}

/// `a minute  done 12 14 9 8 3  failed 0 0 1 0 0`, the present one last.
fn ends(minutes: &[(u64, u64)]) -> String {
    let list = |of: fn(&(u64, u64)) -> u64| {
        let all: Vec<String> = minutes.iter().map(|one| of(one).to_string()).collect();
        all.join(" ")
    };
    format!(
        "a minute   done {}   failed {}",
        list(|one| one.0),
        list(|one| one.1)
    )
}

fn held(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    if !status.held.is_empty() {
        lines.push(format!("held by    {}", super::held_words(status)));
    }
    if !status.at_fal.is_empty() {
        lines.push(format!("at fal     {}", super::at_fal_words(status)));
    }
    lines
}

fn workers(status: &Status, lines: &mut Vec<String>) {
    if status.workers.is_empty() {
        lines.push("NO WORKER RUNS".to_owned());
        lines.push(String::new());
        return;
    }
    let rows: Vec<Vec<String>> = status
        .workers
        .iter()
        .take(WORKERS)
        .map(|worker| {
            let silent = if worker.beat_age >= SILENT {
                "  SILENT"
            } else {
                ""
            };
            vec![
                visible(&worker.instance),
                visible(&worker.version),
                worker.threads.to_string(),
                worker.in_flight.to_string(),
                format!("{} ago{silent}", short(worker.beat_age)),
            ]
        })
        .collect();
    let heads = ["WORKER", "VERSION", "THREADS", "IN FLIGHT", "LAST BEAT"];
    push(lines, &columns(&heads, &rows, usize::MAX));
    if status.workers.len() > WORKERS {
        lines.push(format!("and {} more", status.workers.len() - WORKERS));
    }
    lines.push(String::new());
}

fn push(lines: &mut Vec<String>, text: &str) {
    lines.extend(text.lines().map(str::to_owned));
}

fn models(lately: &Lately, lines: &mut Vec<String>) {
    let all = lately.models();
    if all.is_empty() {
        lines.push("no job has ended in the last 5 minutes".to_owned());
        lines.push(String::new());
        return;
    }
    let pair = |pair: Option<(Duration, Duration)>| match pair {
        Some((p50, p99)) => [short(p50), short(p99)],
        None => ["-".to_owned(), "-".to_owned()],
    };
    let rows: Vec<Vec<String>> = all
        .iter()
        .take(MODELS)
        .map(|model| {
            let mut row = vec![
                visible(&model.model),
                model.done.to_string(),
                model.failed.to_string(),
            ];
            row.extend(pair(model.generation));
            row.extend(pair(model.whole));
            row
        })
        .collect();
    let heads = [
        "MODEL (last 5m)",
        "DONE",
        "FAILED",
        "FAL P50",
        "FAL P99",
        "WHOLE P50",
        "WHOLE P99",
    ];
    push(lines, &columns(&heads, &rows, usize::MAX));
    if all.len() > MODELS {
        lines.push(format!("and {} more", all.len() - MODELS));
    }
    lines.push(String::new());
}

fn errors(lately: &Lately, lines: &mut Vec<String>) {
    let rows: Vec<Vec<String>> = lately
        .errors()
        .take(ERRORS)
        .map(|failed| {
            vec![
                time_of_day(failed.at),
                visible(&failed.event),
                visible(&failed.job),
                visible(&failed.kind),
                visible(&failed.error),
            ]
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    push(
        lines,
        &columns(
            &["LAST ERRORS", "EVENT", "JOB", "KIND", "ERROR"],
            &rows,
            usize::MAX,
        ),
    );
}

/// What is written to the terminal so that it shows these lines and no others: as one update, where the terminal
/// knows how.
pub(super) fn frame(lines: &[String], height: usize) -> String {
    let mut out = String::from("\x1b[?2026h\x1b[H");
    let fits = lines.len() <= height;
    let shown = if fits {
        lines.len()
    } else {
        height.saturating_sub(1)
    };
    for (row, line) in lines[..shown].iter().enumerate() {
        out += line;
        out += "\x1b[K";
        if row + 1 < shown || !fits {
            out += "\r\n";
        }
    }
    if !fits {
        out += &format!(
            "({} lines more: a higher terminal shows them)\x1b[K",
            lines.len() - shown
        );
    }
    out + "\x1b[J\x1b[?2026l"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::view::{PauseView, Queue, Trouble, WorkerView};
    use std::collections::BTreeMap;

    fn status() -> Status {
        let queue = |name, depth, oldest: Option<u64>| Queue {
            name,
            depth,
            oldest: oldest.map(Duration::from_secs),
        };
        Status {
            now: UnixMs(1_795_694_400_000),
            redis_version: "7.0.15".to_owned(),
            redis_memory: "1.2M".to_owned(),
            queues: vec![
                queue("inbox", 0, None),
                queue("resume", 0, None),
                queue("high", 3, Some(4)),
                queue("default", 120, Some(75)),
                queue("low", 0, None),
            ],
            later: 2,
            waiting: 5,
            held: BTreeMap::from([("turn", 5)]),
            newer: 0,
            at_fal: BTreeMap::from([("all".to_owned(), (6, 6))]),
            limits: Vec::new(),
            dead: 1,
            running: BTreeMap::from([("polling".to_owned(), 6), ("delivering".to_owned(), 1)]),
            workers: (0..15)
                .map(|n| WorkerView {
                    instance: format!("w{n}~00000000"),
                    version: "0.1.0".to_owned(),
                    threads: 32,
                    in_flight: n,
                    beat_age: Duration::from_millis(if n == 2 { 9000 } else { 300 }),
                })
                .collect(),
            last_5m: (9, 1),
            troubles: vec![
                Trouble {
                    what: "redis_full",
                    since: None,
                    workers: 0,
                },
                Trouble {
                    what: "fal",
                    since: Some(UnixMs(1_795_694_340_000)),
                    workers: 2,
                },
            ],
            paused: Some(PauseView {
                reason: "new \x1b[31mprices".to_owned(),
                by: "anna".to_owned(),
                person: true,
                since: UnixMs(1_795_694_400_000),
                until: Some(UnixMs(1_795_695_000_000)),
            }),
            repairs: BTreeMap::new(),
        }
    }

    fn screen(width: usize) -> Vec<String> {
        let (status, mut lately) = (status(), Lately::default());
        let fields = [
            ("event", "failed"),
            ("job", "j\u{7}1"),
            ("model", "fal-ai/flux/dev"),
            ("kind", "timeout"),
            (
                "error",
                "a long text of what went wrong that does not fit into a narrow terminal at all",
            ),
            ("at", "1795694400000"),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        lately.add(&[("1-1".to_owned(), fields.to_vec())]);
        let seen = Seen {
            status: &status,
            address: "redis://127.0.0.1:6379/0",
            now: UnixMs(1_795_694_400_000),
            minutes: &[(4, 0), (5, 1)],
            lately: &lately,
            lost: Some(Duration::from_secs(3)),
        };
        compose(&seen, width)
    }

    #[test]
    fn everything_an_operator_looks_for_is_on_it() {
        let text = screen(120).join("\n");
        for part in [
            "12:00:00 UTC",
            "REDIS DOES NOT ANSWER for 3.0s",
            "REDIS IS FULL: it takes no new jobs\nFAL DOES NOT ANSWER since 11:59 UTC, say 2 of 15 workers\n",
            "PAUSED by anna since 12:00 UTC, until 12:10 UTC: new \\u{1b}[31mprices",
            "default    120  1m 15s",
            "in flight  7",
            "polling 6  delivering 1",
            "later 2  waiting 5  dead 1",
            "done 4 5   failed 0 1",
            "their user's turn 5",
            "all 6 of 6",
            "9.0s ago  SILENT",
            "and 3 more",
            "fal-ai/flux/dev",
            "LAST ERRORS",
            "j\\u{7}1",
            "timeout",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }

    #[test]
    fn it_fits_the_terminal_whatever_its_size() {
        for width in [20, 40, 60, 80, 200] {
            let lines = screen(width);
            for line in &lines {
                assert!(line.chars().count() <= width, "{width}: {line}");
                assert!(!line.contains(char::is_control), "{line:?}");
            }
            for height in [1, 5, 24, 100] {
                let frame = frame(&lines, height);
                let rows = frame.matches("\r\n").count() + 1;
                assert!(rows <= height, "{width}x{height}: {rows}");
                assert_eq!(
                    frame.contains("lines more"),
                    lines.len() > height,
                    "{height}"
                );
            }
        }
    }
}
