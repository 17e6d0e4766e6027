//! What must be known of a flight by those who cannot look into the thread that works on it.

use crate::job::failure::Kind;
use crate::job::flight::{Doubt, Flight, LARGE, Token};
use crate::job::spec::{Model, Target, Via};
use crate::job::window::Heard;
use crate::job::{Charged, JobId, Phase, Priority, RequestId, UnixMs};
use crate::store::Remembered;
use std::sync::Arc;
use std::time::Instant;

/// What must be known of a flight that a thread works on, for everybody who cannot look into that
/// thread: a Redis that forgot, a stop that does not wait for a repeatable step, a panic.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) id: JobId,
    pub(crate) token: Token,
    pub(crate) seq: u32,
    pub(crate) epoch: u64,
    pub(crate) phase: Phase,
    pub(crate) fields: Fields,
    /// Its files are on their way to fal, or wait for it: the submit is no part of this step.
    pub(crate) brings_files: bool,
    /// It holds what Redis has not taken yet.
    pub(crate) unsaved: bool,
    pub(crate) since: Instant,
    /// What was last heard of its request.
    pub(crate) heard: Heard,
}

/// The part of the record that a new owner needs most.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    priority: Priority,
    model: Option<Model>,
    user: Option<Arc<str>>,
    meta: Option<String>,
    attempt: u32,
    max_attempts: u32,
    queued_at: UnixMs,
    expires_at: Option<UnixMs>,
    started_at: Option<UnixMs>,
    submitted_at: Option<UnixMs>,
    completed_at: Option<UnixMs>,
    running_at: Option<UnixMs>,
    telling_at: Option<UnixMs>,
    via: Via,
    doubt: Doubt,
    request: Option<RequestId>,
    path: Option<String>,
    tried: String,
    charged: Charged,
    units: Option<String>,
    rung: String,
    result: Option<Arc<str>>,
    echoes: String,
    entry: Option<Arc<str>>,
    /// Without its entry a parked job still knows its chat.
    target: Option<Arc<Target>>,
    kind: Option<(Kind, String)>,
    cancelling: Option<UnixMs>,
    inputs: Option<String>,
    asked_for: Vec<(&'static str, String)>,
}

impl Snapshot {
    /// Of a flight, at this moment.
    pub(crate) fn of(flight: &Flight) -> Snapshot {
        Snapshot {
            id: flight.id.clone(),
            token: flight.token.clone(),
            // What Redis has not taken is written after this: its numbers must still be free.
            seq: flight
                .unsaved
                .front()
                .map_or(flight.seq, |(seq, _)| seq.saturating_sub(1)),
            epoch: flight.epoch,
            phase: flight.phase,
            heard: flight.watch.heard(),
            fields: Fields {
                priority: flight.priority,
                model: flight.model.clone(),
                user: flight.user.clone(),
                meta: flight.meta.clone(),
                attempt: flight.attempt,
                max_attempts: flight.max_attempts,
                queued_at: flight.queued_at,
                expires_at: flight.expires_at,
                started_at: flight.started_at,
                submitted_at: flight.submitted_at,
                completed_at: flight.completed_at,
                running_at: flight.running_at,
                telling_at: flight.telling_at,
                via: flight.via,
                doubt: flight.doubt,
                request: flight.request.clone(),
                path: flight.path.clone(),
                tried: flight.tried.clone(),
                charged: flight.charged,
                units: flight.units.clone(),
                rung: flight.rung.clone(),
                // A large one stays with the flight, which writes it into its own key before it waits.
                result: flight.result.clone().filter(|json| json.len() <= LARGE),
                echoes: flight.echoes.clone(),
                entry: flight.entry.clone(),
                target: flight.target.clone().filter(|_| flight.entry.is_none()),
                kind: flight.failure.clone(),
                cancelling: flight.cancelling.map(|wish| wish.since),
                inputs: flight
                    .order
                    .as_ref()
                    .and_then(|order| order.brought.to_text()),
                asked_for: flight.asked_for(),
            },
            brings_files: flight.phase == Phase::Submitting && flight.brings_files(),
            unsaved: !flight.unsaved.is_empty(),
            since: Instant::now(),
        }
    }

    /// What was heard of its request at fal; `None`: it has none there. While a thread asks, or a direct call
    /// waits, nobody knows more than what was heard before.
    pub(crate) fn at_fal(&self) -> Option<(UnixMs, Heard)> {
        let since = self.fields.submitted_at?;
        (self.phase == Phase::Polling).then_some((since, self.heard))
    }

    /// As the store writes it down again.
    pub(crate) fn remembered(&self) -> Remembered {
        let f = &self.fields;
        let mut fields: Vec<(&'static str, String)> = vec![
            ("priority", f.priority.as_str().to_owned()),
            ("attempt", f.attempt.to_string()),
            ("max_attempts", f.max_attempts.to_string()),
            ("queued_at", f.queued_at.0.to_string()),
            ("charged", f.charged.as_str().to_owned()),
            ("phase", self.phase.as_str().to_owned()),
        ];
        let mut some =
            |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
        some(
            "model",
            f.model.as_ref().map(|model| model.as_str().to_owned()),
        );
        some("user", f.user.as_deref().map(str::to_owned));
        some("meta", f.meta.clone());
        let times = [
            ("expires_at", f.expires_at),
            ("started_at", f.started_at),
            ("submitted_at", f.submitted_at),
            ("completed_at", f.completed_at),
            ("running_at", f.running_at),
            ("telling_at", f.telling_at),
            ("cancelling", f.cancelling),
        ];
        for (name, at) in times {
            some(name, at.map(|at| at.0.to_string()));
        }
        let direct = (f.via == Via::Direct).then(|| "direct".to_owned());
        some("via", direct);
        some("doubt", f.doubt.word().map(str::to_owned));
        some(
            "request_id",
            f.request.as_ref().map(|request| request.0.to_string()),
        );
        some("path", f.path.clone());
        some("tried", Some(f.tried.clone()).filter(|old| !old.is_empty()));
        some("units", f.units.clone());
        some("rung", Some(f.rung.clone()).filter(|rung| !rung.is_empty()));
        some("result", f.result.as_ref().map(|result| result.to_string()));
        some(
            "echoes",
            Some(f.echoes.clone()).filter(|text| !text.is_empty()),
        );
        some(
            "tell",
            f.target.as_ref().map(|target| target.to_tell_json()),
        );
        some(
            "kind",
            f.kind.as_ref().map(|(kind, _)| kind.as_str().to_owned()),
        );
        some("error", f.kind.as_ref().map(|(_, text)| text.clone()));
        some("inputs", f.inputs.clone());
        fields.extend(f.asked_for.iter().cloned());
        Remembered {
            id: self.id.clone(),
            token: self.token.clone(),
            seq: self.seq,
            entry: f.entry.clone(),
            gives_way: false,
            fields,
        }
    }

    /// Whether its present step may be begun anew by somebody else at once, from the record as it
    /// stands: it pays and sends nothing, and the record knows all. (Without the request id that Redis
    /// has not taken yet somebody would submit, and pay, again.)
    pub(crate) fn is_repeatable(&self) -> bool {
        (matches!(self.phase, Phase::Polling | Phase::Collecting) || self.brings_files)
            && !self.unsaved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::failure::Kind;
    use crate::job::flight::sample::{CAME, flight};
    use crate::job::flight::{Cancelling, Doubt, LARGE, Redelivers};
    use crate::job::spec::Via;

    /// All that a flight can tell of itself.
    fn full(phase: Phase) -> Flight {
        let at = |s: i64| Some(UnixMs(CAME.0 + s * 1000));
        let mut full = flight(phase);
        full.request = Some(RequestId("r".into()));
        full.path = Some("/a/b/requests/r".to_owned());
        full.units = Some("1".to_owned());
        full.failure = Some((Kind::Timeout, "why".to_owned()));
        full.tried = "old".to_owned();
        full.rung = r#"{"i":1}"#.to_owned();
        full.result = Some("{}".into());
        full.echoes = "[]".to_owned();
        full.via = Via::Direct;
        (full.submitted_at, full.completed_at) = (at(1), at(2));
        (full.running_at, full.telling_at) = (at(3), at(4));
        full.cancelling = Some(Cancelling {
            kind: Kind::Timeout,
            asked_at: None,
            since: CAME,
            refused: 0,
            in_queue: false,
        });
        (full.cancel_asked, full.free) = (true, true);
        full.redelivers = Some(Box::new(Redelivers::parse("old".to_owned(), "[]", "[]")));
        if let Some(order) = &mut full.order {
            order.brought.begun = true;
        }
        full
    }

    #[test]
    fn a_redis_that_forgot_is_told_all_that_a_give_back_tells() {
        for phase in [
            Phase::Submitting,
            Phase::Polling,
            Phase::Collecting,
            Phase::Delivering,
            Phase::Telling,
        ] {
            let full = full(phase);
            let told = Snapshot::of(&full).remembered().fields;
            for field in full.fields() {
                assert!(told.contains(&field), "{phase:?}: {field:?}");
            }
            let mut names: Vec<_> = told.iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), told.len(), "{phase:?}: a field twice");
        }
    }

    #[test]
    fn it_is_told_of_a_doubt_and_gets_no_large_result_into_the_record() {
        for (doubt, word) in [
            (Doubt::None, None),
            (Doubt::Submit, Some("submit")),
            (Doubt::Send, Some("send")),
        ] {
            let mut held = flight(Phase::Delivering);
            held.doubt = doubt;
            held.result = Some("x".repeat(LARGE + 1).into());
            let told = Snapshot::of(&held).remembered().fields;
            let get = |name| {
                let found = told.iter().find(|(field, _)| *field == name);
                found.map(|(_, value)| value.as_str())
            };
            assert_eq!((get("doubt"), get("result")), (word, None));
        }
    }
}
