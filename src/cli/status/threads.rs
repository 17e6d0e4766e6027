//! `status --threads`: what each thread of each worker does, asked of the workers themselves.

use super::super::table::{columns, short, visible};
use super::super::why::{ANSWER, answers};
use crate::job::gathered;
use crate::store::Fault;
use crate::store::view::{THREADS, View};
use serde_json::{Value, json};
use std::time::Duration;

/// What one worker said, or how long it has been silent.
pub(super) struct Said {
    pub(super) instance: String,
    beat_age: Duration,
    answer: Option<Value>,
}

impl Said {
    pub(super) fn is_answer(&self) -> bool {
        self.answer.is_some()
    }
}

/// Asks all living workers.
pub(super) fn ask(view: &mut View) -> Result<Vec<Said>, Fault> {
    let living = view.living()?;
    let names: Vec<String> = living
        .iter()
        .map(|(instance, _)| instance.clone())
        .collect();
    let said = answers(view, &names, THREADS, |answer| answer["threads"].is_array())?;
    let all = living.into_iter().zip(said);
    Ok(all
        .map(|((instance, beat_age), (_, answer))| Said {
            instance,
            beat_age,
            answer,
        })
        .collect())
}

/// By instance: its threads, or null for one that did not answer.
pub(super) fn as_json(said: &[Said]) -> Value {
    Value::Object(gathered(said.iter().map(|one| {
        let threads = one.answer.as_ref().map(|answer| answer["threads"].clone());
        (one.instance.clone(), json!(threads))
    })))
}

/// A table a worker: a row for each thread that does something, and the number of idle ones.
pub(super) fn text(said: &[Said]) -> String {
    let mut out = String::new();
    for one in said {
        let Some(answer) = &one.answer else {
            out += &format!(
                "worker {} did not answer within {} (last beat {} ago)\n\n",
                visible(&one.instance),
                short(ANSWER),
                short(one.beat_age)
            );
            continue;
        };
        let word = |name: &str| visible(answer[name].as_str().unwrap_or("?"));
        let away: Vec<String> = answer["away"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| Some(format!(", {} is away", visible(one.as_str()?))))
            .collect();
        out += &format!(
            "worker {}   {} in flight, pulling: {}{}\n",
            visible(&one.instance),
            answer["in_flight"],
            word("pulling"),
            away.concat()
        );
        let threads: Vec<&Value> = answer["threads"].as_array().into_iter().flatten().collect();
        let is_idle = |thread: &&&Value| thread["step"] == "idle";
        let idle = threads.iter().filter(is_idle).count();
        let rows: Vec<Vec<String>> = threads
            .iter()
            .filter(|thread| thread["step"] != "idle")
            .map(|thread| {
                let of = |name: &str| visible(thread[name].as_str().unwrap_or("-"));
                let since = thread["for_ms"].as_u64();
                vec![
                    of("thread"),
                    of("step"),
                    since.map_or("-".to_owned(), |ms| short(Duration::from_millis(ms))),
                    of("job"),
                ]
            })
            .collect();
        out += &columns(&["THREAD", "STEP", "FOR", "JOB"], &rows, usize::MAX);
        out += &format!("{idle} idle\n\n");
    }
    if said.is_empty() {
        out += "no worker runs\n";
    }
    out.trim_end().to_owned() + "\n"
}
