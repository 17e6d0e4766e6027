//! Every decision of the state machine: what it writes, what it costs, what comes next. A file of tests for
//! each file of decisions; `laws` walks all phases with all answers. What they build flights and answers
//! from, and how they read a decision, stands here.

mod cancel;
mod collect;
mod deliver;
mod laws;
mod poll;
mod submit;

use super::*;
use crate::job::RequestId;
use crate::job::flight::Event;
use crate::job::flight::sample::{CAME, flight};

const POLICY: Policy = Policy {
    poll: PollBounds {
        min: Duration::from_millis(250),
        max: Duration::from_secs(5),
    },
    job_timeout: Duration::from_secs(600),
    queue_timeout: Duration::from_secs(3600),
};

/// So many milliseconds after the job came in.
fn at(ms: i64) -> Moment {
    Moment {
        now: UnixMs(CAME.0 + ms),
        random: 0.5,
    }
}

fn failed(kind: Kind, remedy: Remedy, charged: Charged) -> Failure {
    Failure {
        remedy,
        ..failure(kind, "why", charged)
    }
}

fn again() -> Failure {
    failed(Kind::Unavailable, Remedy::RetryStep, Charged::Unknown)
}

/// Nobody spoke for fal.
fn silence() -> Failure {
    Failure {
        spoke: false,
        ..again()
    }
}

fn accepted(id: &str) -> Submitted {
    Submitted::Accepted(Accepted {
        request: RequestId(id.into()),
        path: None,
        position: None,
    })
}

fn output(units: Option<&str>) -> Output {
    Output {
        json: r#"{"images":[{"url":"https://fal.media/a.png"}]}"#.to_owned(),
        units: units.map(str::to_owned),
    }
}

fn one_file() -> FoundSummary {
    FoundSummary {
        items: 1,
        all_flagged: false,
        files: vec!["https://fal.media/a.png".to_owned()],
    }
}

fn cancelling(kind: Kind, asked_ms: Option<i64>) -> Option<Cancelling> {
    Some(Cancelling {
        kind,
        asked_at: asked_ms.map(|ms| at(ms).now),
        since: at(0).now,
        refused: 0,
        in_queue: false,
    })
}

fn patch(change: &Change) -> &Patch {
    match change.write.as_ref().expect("a write") {
        Write::Save { patch, .. } | Write::Later { patch, .. } | Write::End { patch, .. } => patch,
        Write::Submitted { .. } => panic!("a submit has no patch"),
    }
}

fn set<'a>(change: &'a Change, name: &str) -> Option<&'a str> {
    let found = patch(change).set.iter().find(|(field, _)| *field == name);
    found.map(|(_, value)| value.as_str())
}

fn deletes(change: &Change, name: &str) -> bool {
    patch(change).del.contains(&name)
}

fn field<'a>(event: &'a Event, name: &str) -> Option<&'a str> {
    let found = event.fields.iter().find(|(field, _)| *field == name);
    found.map(|(_, value)| value.as_str())
}

fn events(change: &Change) -> Vec<&'static str> {
    patch(change)
        .events
        .iter()
        .map(|event| event.name)
        .collect()
}

fn end_state(change: &Change) -> Option<EndState> {
    match &change.write {
        Some(Write::End { state, .. }) => Some(*state),
        _ => None,
    }
}

/// A flight whose failure is being told: kind, charged.
#[track_caller]
fn assert_telling(flight: &Flight, change: &Change, kind: Kind, charged: Charged) {
    assert_eq!(flight.phase, Phase::Telling);
    assert_eq!(change.next, Next::Now);
    assert!(
        matches!(change.write, Some(Write::Save { .. })),
        "{change:?}"
    );
    assert_eq!(set(change, "phase"), Some("telling"));
    assert_eq!(set(change, "kind"), Some(kind.as_str()));
    assert_eq!(set(change, "charged"), Some(charged.as_str()));
    assert_eq!(flight.charged, charged);
    assert!(patch(change).stamp == Some("telling_at"));
    assert!(patch(change).events.is_empty(), "told first, ended after");
}
