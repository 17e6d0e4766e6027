//! Flights for tests: one builder puts a job into any phase.

use super::{Flight, Order, Passing, ResultIn, Token};
use crate::job::inputs::Brought;
use crate::job::pace::Watch;
use crate::job::spec::{ChatId, FalSwitches, InputFiles, Model, Target, Via};
use crate::job::{Charged, JobId, Phase, Priority, RequestId, UnixMs};
use serde_json::value::RawValue;
use std::collections::VecDeque;

/// When sample jobs came in.
pub(crate) const CAME: UnixMs = UnixMs(1_700_000_000_000);

/// A job of three attempts with a chat, as the claim in this phase gives it: in `submitting` nothing
/// has been paid, in every other phase the first request was accepted a second after it came in.
pub(crate) fn flight(phase: Phase) -> Flight {
    let submitted = phase != Phase::Submitting;
    Flight {
        id: JobId::new("job-1").unwrap(),
        token: Token("0000000000000001-1".into()),
        seq: 0,
        passing: Passing::default(),
        epoch: 0,
        phase,
        model: Some(Model::new("fal-ai/flux/dev").unwrap()),
        user: Some("42".into()),
        meta: Some(r#"{"order":1}"#.to_owned()),
        priority: Priority::Default,
        attempt: u32::from(submitted),
        max_attempts: 3,
        via: Via::Queue,
        timeout: None,
        repay: false,
        free: false,
        request: submitted.then(|| RequestId("request-1".into())),
        path: None,
        tried: String::new(),
        result: None,
        echoes: String::new(),
        found: Vec::new(),
        result_in: ResultIn::Record,
        failure: None,
        charged: Charged::No,
        units: None,
        units_told: 0.0,
        queued_at: CAME,
        wanted_at: CAME,
        started_at: Some(CAME),
        submitted_at: submitted.then_some(UnixMs(CAME.0 + 1000)),
        completed_at: None,
        expires_at: Some(UnixMs(CAME.0 + 86_400_000)),
        running_at: None,
        watch: Watch::default(),
        rung: String::new(),
        telling_at: None,
        untold: false,
        tries: 0,
        doubt: super::Doubt::None,
        target: Some(Target::to_chat(ChatId::Id(7)).into()),
        order: (!submitted).then(|| {
            Box::new(Order {
                input: RawValue::from_string(r#"{"prompt":"secret"}"#.to_owned()).unwrap(),
                switches: FalSwitches::default(),
                files: InputFiles::default(),
                brought: Brought::default(),
                in_line: false,
            })
        }),
        entry: (!submitted).then(|| r#"{"id":"job-1"}"#.into()),
        step_tries: 0,
        verdicts: 0,
        broke: None,
        in_place: None,
        missing: None,
        cancelling: None,
        cancel_asked: false,
        redelivers: None,
        untouched: true,
        unsaved: VecDeque::new(),
        closing: false,
        clock_set_by: None,
        turn: None,
        unfetched_since: None,
        no_room: None,
        in_vain_since: None,
        alive: None,
    }
}

/// The same under another name.
pub(crate) fn named(id: &str, phase: Phase) -> Box<Flight> {
    let mut flight = flight(phase);
    flight.id = JobId::new(id).unwrap();
    flight.token = Token(format!("token-of-{id}").into());
    Box::new(flight)
}
