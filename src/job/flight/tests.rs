use super::*;
use crate::job::failure::Remedy;
use sample::{CAME, flight};

fn failed(charged: Charged, units: Option<&str>) -> Failure {
    Failure {
        kind: Kind::Unavailable,
        remedy: Remedy::Final,
        text: "why".to_owned(),
        charged,
        units: units.map(str::to_owned),
        retry_after: None,
        spoke: true,
        unfetched: false,
    }
}

#[test]
fn over_several_attempts_the_worst_charge_counts_and_never_gets_better() {
    let all = [Charged::No, Charged::Unknown, Charged::Yes];
    for first in all {
        for second in all {
            for third in all {
                let mut flight = flight(Phase::Polling);
                let mut worst = Charged::No;
                for charged in [first, second, third] {
                    flight.charge(&failed(charged, None));
                    worst = worst.max(charged);
                    assert_eq!(flight.charged, worst, "{first:?} {second:?} {third:?}");
                }
            }
        }
    }
}

#[test]
fn units_are_summed_as_decimals_and_an_unreadable_sum_keeps_the_newest() {
    for (rows, sum) in [
        (&[][..], None),
        (&["1"], Some("1")),
        (&["0.1", "0.2"], Some("0.3")),
        (&["1.5", "0", "2.25"], Some("3.75")),
        (&["3", "4"], Some("7")),
        (&["a few", "2"], Some("2")),
    ] {
        let mut flight = flight(Phase::Polling);
        for units in rows {
            flight.charge(&failed(Charged::Yes, Some(units)));
        }
        flight.add_units(None);
        assert_eq!(flight.units.as_deref(), sum, "{rows:?}");
    }
}

#[test]
fn an_event_names_job_user_model_attempt_and_meta_and_never_the_input() {
    let flight = flight(Phase::Submitting);
    let event = flight.event("queued").with("kind", "timeout");
    let names: Vec<_> = event.fields.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["job", "user", "model", "attempt", "meta", "kind"]);
    assert!(!format!("{event:?}").contains("secret"));
    assert_eq!(event.fields[3].1, "0");
}

#[test]
fn only_a_job_that_nobody_can_have_paid_for_is_unpaid() {
    assert!(flight(Phase::Submitting).is_unpaid());
    for phase in [
        Phase::Polling,
        Phase::Collecting,
        Phase::Delivering,
        Phase::Telling,
    ] {
        let mut flight = flight(phase);
        assert!(!flight.is_unpaid(), "{phase:?}");
        // Of a direct call that has no id.
        flight.request = None;
        assert!(!flight.is_unpaid(), "{phase:?}");
    }
    let mut late = flight(Phase::Submitting);
    late.request = Some(RequestId("late".into()));
    assert!(!late.is_unpaid());
}

#[test]
fn what_goes_back_holds_all_that_the_next_owner_needs() {
    let mut flight = flight(Phase::Delivering);
    flight.path = Some("/fal-ai/flux/requests/x".to_owned());
    flight.tried = "old-1 old-2".to_owned();
    flight.units = Some("1.5".to_owned());
    flight.charged = Charged::Yes;
    flight.running_at = Some(UnixMs(CAME.0 + 2000));
    flight.completed_at = Some(UnixMs(CAME.0 + 3000));
    flight.rung = r#"{"i":1}"#.to_owned();
    flight.result = Some(r#"{"images":[]}"#.into());
    let fields = flight.fields();
    let get = |name: &str| {
        let found = fields.iter().find(|(field, _)| *field == name);
        found.map(|(_, value)| value.as_str())
    };
    for (name, value) in [
        ("phase", "delivering"),
        ("request_id", "request-1"),
        ("path", "/fal-ai/flux/requests/x"),
        ("tried", "old-1 old-2"),
        ("units", "1.5"),
        ("charged", "yes"),
        ("attempt", "1"),
        ("rung", r#"{"i":1}"#),
        ("result", r#"{"images":[]}"#),
        ("running_at", "1700000002000"),
        ("completed_at", "1700000003000"),
    ] {
        assert_eq!(get(name), Some(value), "{name}");
    }
    let mut names: Vec<_> = fields.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), fields.len(), "a field twice");
}

#[test]
fn a_large_result_stays_out_of_the_record_and_an_unbegun_job_names_no_phase() {
    let mut large = flight(Phase::Delivering);
    large.result = Some("x".repeat(LARGE + 1).into());
    assert!(large.fields().iter().all(|(name, _)| *name != "result"));
    let fresh = flight(Phase::Submitting).fields();
    assert!(fresh.iter().all(|(name, _)| *name != "phase"));
}

#[test]
fn only_later_and_end_close_a_claim() {
    let event = flight(Phase::Polling).event("submitted");
    let submitted = Write::Submitted {
        request: RequestId("r".into()),
        path: None,
        attempt: 1,
        event,
    };
    let save = Write::Save {
        patch: Patch::default(),
        count: None,
        large: None,
    };
    let later = Write::Later {
        wait: Duration::ZERO,
        known: None,
        patch: Patch::default(),
    };
    let end = Write::End {
        state: EndState::Done,
        patch: Patch::default(),
    };
    assert_eq!(
        [submitted, save, later, end].map(|write| write.closes()),
        [false, false, true, true]
    );
}
