//! Grouped by phase; at the end all phases are walked with all answers.

use super::*;
use crate::job::RequestId;
use crate::job::flight::sample::{CAME, flight};
use crate::job::flight::{Event, Redelivers};
use crate::job::pace::Pace;
use std::sync::Arc;

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

// ---- submitting ----

#[test]
fn a_fresh_job_may_be_submitted() {
    assert_eq!(before_submit(&mut flight(Phase::Submitting), at(10)), None);
}

#[test]
fn an_expired_job_ends_unpaid_unless_a_submit_is_in_doubt() {
    for (doubt, charged) in [
        (Doubt::None, Charged::No),
        (Doubt::Send, Charged::No),
        (Doubt::Submit, Charged::Unknown),
    ] {
        let mut late = flight(Phase::Submitting);
        late.doubt = doubt;
        let change = before_submit(&mut late, at(86_400_001)).expect("expired");
        assert_telling(&late, &change, Kind::Expired, charged);
    }
    let mut punctual = flight(Phase::Submitting);
    assert_eq!(before_submit(&mut punctual, at(86_400_000)), None);
}

#[test]
fn a_job_whose_input_a_redis_forgot_ends_and_says_that_nobody_knows() {
    let mut lost = flight(Phase::Submitting);
    lost.order = None;
    let change = before_submit(&mut lost, at(10)).unwrap();
    assert_telling(&lost, &change, Kind::Unavailable, Charged::Unknown);
}

#[test]
fn a_job_without_a_readable_model_ends_instead_of_being_claimed_for_ever() {
    let mut broken = flight(Phase::Submitting);
    broken.model = None;
    let change = before_submit(&mut broken, at(10)).unwrap();
    assert_telling(&broken, &change, Kind::InvalidJob, Charged::No);
}

#[test]
fn an_accepted_submit_is_recorded_alone_and_polled() {
    let mut flight = flight(Phase::Submitting);
    (flight.tries, flight.doubt) = (3, Doubt::Submit);
    let answer = Submitted::Accepted(Accepted {
        request: RequestId("r".into()),
        path: Some("/p".to_owned()),
        position: Some(1),
    });
    let change = after_submit(&mut flight, answer, &POLICY, at(10));
    let Some(Write::Submitted {
        request,
        path,
        attempt,
        event,
    }) = &change.write
    else {
        panic!("{change:?}")
    };
    assert_eq!(
        (&*request.0, path.as_deref(), *attempt),
        ("r", Some("/p"), 1)
    );
    assert_eq!(
        (event.name, field(event, "attempt")),
        ("submitted", Some("1"))
    );
    assert!(matches!(change.next, Next::In(wait) if wait >= Duration::from_millis(200)));
    assert_eq!((flight.phase, flight.attempt), (Phase::Polling, 1));
    assert_eq!((flight.tries, flight.doubt), (0, Doubt::None));
    assert!(
        flight.order.is_none() && flight.entry.is_none(),
        "a parked job is small"
    );
    assert_eq!(flight.submitted_at, Some(at(10).now));
}

#[test]
fn the_first_look_follows_the_submit_at_once_where_its_kind_takes_no_time() {
    for (took, at_once) in [(Some(1), true), (Some(100), false), (None, false)] {
        let mut flight = flight(Phase::Submitting);
        let pace = took.and_then(|ms| Pace::new(vec![ms; 8]));
        flight.watch.pace = pace.map(Arc::new);
        let change = after_submit(&mut flight, accepted("r"), &POLICY, at(10));
        assert_eq!(
            change.next == Next::Now,
            at_once,
            "{took:?}: {:?}",
            change.next
        );
        assert!(matches!(change.write, Some(Write::Submitted { .. })));
    }
}

#[test]
fn a_refused_submit_uses_no_attempt_and_costs_nothing() {
    for (kind, remedy) in [
        (Kind::RateLimited, Remedy::RetryStep),
        (Kind::NoBalance, Remedy::RetryStep),
        (Kind::Auth, Remedy::RetryStep),
        (Kind::Unavailable, Remedy::RetryStep),
    ] {
        let mut flight = flight(Phase::Submitting);
        let answer = Submitted::Refused(failed(kind, remedy, Charged::No));
        let change = after_submit(&mut flight, answer, &POLICY, at(10));
        assert_eq!(
            (flight.attempt, flight.charged),
            (0, Charged::No),
            "{kind:?}"
        );
        assert_eq!(set(&change, "attempt"), Some("0"));
        assert_eq!(set(&change, "tries"), Some("1"));
        assert!(deletes(&change, "doubt"));
        let Some(Write::Later { wait, known, .. }) = &change.write else {
            panic!("{change:?}")
        };
        assert_eq!(*known, None);
        let least = if matches!(kind, Kind::NoBalance | Kind::Auth) {
            30
        } else {
            1
        };
        assert!(*wait >= Duration::from_secs(least), "{kind:?}: {wait:?}");
        assert_eq!(events(&change), ["retrying"]);
    }
    let mut flight = flight(Phase::Submitting);
    let answer = Submitted::Refused(failed(Kind::InvalidInput, Remedy::Final, Charged::No));
    let change = after_submit(&mut flight, answer, &POLICY, at(10));
    assert_telling(&flight, &change, Kind::InvalidInput, Charged::No);
    assert_eq!(flight.attempt, 0);
}

#[test]
fn deferrals_grow_to_a_minute_and_obey_what_fal_asks_for() {
    let wait = |tries: u32, retry_after: Option<u64>| {
        let mut flight = flight(Phase::Submitting);
        flight.tries = tries;
        let mut failure = failed(Kind::RateLimited, Remedy::RetryStep, Charged::No);
        failure.retry_after = retry_after.map(Duration::from_secs);
        let moment = Moment {
            random: 0.999,
            ..at(10)
        };
        let change = after_submit(&mut flight, Submitted::Refused(failure), &POLICY, moment);
        match change.write {
            Some(Write::Later { wait, .. }) => wait.as_secs_f64().round(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        [wait(0, None), wait(1, None), wait(2, None)],
        [2.0, 4.0, 8.0]
    );
    assert_eq!([wait(9, None), wait(u32::MAX - 1, None)], [60.0, 60.0]);
    assert_eq!([wait(0, Some(90)), wait(9, Some(90))], [90.0, 90.0]);
}

#[test]
fn a_submit_of_unknown_outcome_is_an_attempt_and_waits_two_seconds() {
    let mut flight = flight(Phase::Submitting);
    let answer = Submitted::Unknown(failed(Kind::Unavailable, Remedy::TryAnew, Charged::Unknown));
    let moment = Moment {
        random: 0.0,
        ..at(10)
    };
    let change = after_submit(&mut flight, answer, &POLICY, moment);
    assert_eq!((flight.attempt, flight.charged), (1, Charged::Unknown));
    assert_eq!(
        (set(&change, "attempt"), set(&change, "charged")),
        (Some("1"), Some("unknown"))
    );
    assert_eq!(set(&change, "doubt"), Some("submit"));
    assert!(matches!(&change.write, Some(Write::Later { wait, .. }) if *wait >= UNKNOWN_WAIT));
    assert!(matches!(
        change.say,
        Say::Retrying {
            kind: Kind::Unavailable,
            ..
        }
    ));
}

#[test]
fn an_unknown_submit_with_no_attempt_left_ends_unavailable_and_unknown() {
    for via in [Via::Queue, Via::Direct] {
        let mut last = flight(Phase::Submitting);
        last.via = via;
        last.attempt = if via == Via::Queue { 2 } else { 0 };
        let unknown = failed(Kind::Unavailable, Remedy::TryAnew, Charged::Unknown);
        let change = match via {
            Via::Queue => after_submit(&mut last, Submitted::Unknown(unknown), &POLICY, at(10)),
            Via::Direct => after_direct(&mut last, Directed::Unknown(unknown), &one_file(), at(10)),
        };
        assert_telling(&last, &change, Kind::Unavailable, Charged::Unknown);
        assert!(last.attempt <= last.max_attempts);
    }
}

#[test]
fn the_repeat_of_an_unknown_submit_is_counted_once_and_clears_the_doubt_in_the_same_write() {
    let mut flight = flight(Phase::Submitting);
    flight.doubt = Doubt::Submit;
    let change = before_resubmit(&mut flight);
    assert_eq!(flight.doubt, Doubt::None);
    assert!(deletes(&change, "doubt"));
    assert!(matches!(
        change.write,
        Some(Write::Save {
            count: Some("resubmitted_after_unknown"),
            ..
        })
    ));
    assert_eq!((change.say, change.next), (Say::SubmittedAgain, Next::Now));
}

// ---- polling ----

#[test]
fn a_running_request_is_asked_again_and_nothing_is_written() {
    let mut flight = flight(Phase::Polling);
    flight.step_tries = 4;
    flight.missing = Some((2, CAME));
    let change = after_poll(&mut flight, Polled::InProgress, 1, &POLICY, at(5000));
    assert_eq!(change.write, None);
    assert!(matches!(change.next, Next::In(_)));
    assert_eq!((flight.step_tries, flight.missing), (0, None));
    assert_eq!(flight.running_at, Some(at(5000).now));
}

#[test]
fn completed_is_fetched_at_once_even_past_every_limit() {
    let mut flight = flight(Phase::Polling);
    flight.running_at = Some(CAME);
    let change = after_poll(
        &mut flight,
        Polled::Completed,
        1,
        &POLICY,
        at(i64::from(u32::MAX)),
    );
    assert_eq!(
        (flight.phase, change.next, change.write),
        (Phase::Collecting, Next::Now, None)
    );
}

#[test]
fn waiting_in_fals_queue_has_its_own_limit() {
    let in_queue = || Polled::InQueue { position: Some(9) };
    let mut waits = flight(Phase::Polling);
    let change = after_poll(&mut waits, in_queue(), 1, &POLICY, at(1000 + 3_600_000));
    assert!(waits.cancelling.is_none() && matches!(change.next, Next::In(_)));
    let change = after_poll(&mut waits, in_queue(), 1, &POLICY, at(1000 + 3_600_001));
    assert_eq!(change.next, Next::Now);
    assert_eq!(waits.cancelling.unwrap().kind, Kind::Timeout);
    assert!(cancel_is_due(&waits));
}

#[test]
fn a_generation_is_timed_from_its_first_in_progress_and_on_in_the_queue() {
    for (own, limit_ms) in [(None, 600_000), (Some(Duration::from_secs(5)), 5000)] {
        let mut runs = flight(Phase::Polling);
        runs.timeout = own;
        // A long wait in fal's queue does not count.
        after_poll(&mut runs, Polled::InProgress, 1, &POLICY, at(3_000_000));
        let back = || Polled::InQueue { position: None };
        after_poll(&mut runs, back(), 1, &POLICY, at(3_000_000 + limit_ms));
        assert!(runs.cancelling.is_none());
        after_poll(&mut runs, back(), 1, &POLICY, at(3_000_001 + limit_ms));
        assert_eq!(runs.cancelling.map(|wish| wish.kind), Some(Kind::Timeout));
    }
}

#[test]
fn a_404_is_believed_after_three_over_fifteen_seconds() {
    let mut flight = flight(Phase::Polling);
    for ms in [10_000, 17_500, 24_999] {
        let change = after_poll(&mut flight, Polled::Missing, 1, &POLICY, at(ms));
        assert_eq!(
            change,
            Change::quiet(Next::In(Duration::from_millis(7500))),
            "{ms}"
        );
    }
    // No answer is no word about the job: it neither counts nor lets the others be forgotten.
    after_poll(&mut flight, Polled::Failed(again()), 1, &POLICY, at(24_999));
    let change = after_poll(&mut flight, Polled::Missing, 1, &POLICY, at(25_000));
    assert_telling(&flight, &change, Kind::Unavailable, Charged::Yes);
}

#[test]
fn two_404s_are_no_proof_however_far_apart_and_any_word_about_the_job_forgets_them() {
    let mut patient = flight(Phase::Polling);
    after_poll(&mut patient, Polled::Missing, 1, &POLICY, at(10_000));
    after_poll(&mut patient, Polled::Missing, 1, &POLICY, at(90_000));
    assert_eq!(patient.phase, Phase::Polling);
    after_poll(&mut patient, Polled::InProgress, 1, &POLICY, at(91_000));
    assert_eq!(patient.missing, None);
}

#[test]
fn a_lost_paid_request_is_generated_again_only_where_the_job_allows_it_and_an_attempt_is_left() {
    for (repay, attempt, anew) in [(false, 1, false), (true, 1, true), (true, 3, false)] {
        for phase in [Phase::Polling, Phase::Collecting] {
            let mut lost = flight(phase);
            (lost.repay, lost.attempt) = (repay, attempt);
            lost.missing = Some((2, at(2000).now));
            let change = if phase == Phase::Polling {
                after_poll(&mut lost, Polled::Missing, 1, &POLICY, at(17_000))
            } else {
                let none = FoundSummary::default();
                after_collect(&mut lost, Collected::Missing, &none, &POLICY, at(17_000))
            };
            assert_eq!(lost.charged, Charged::Yes);
            if anew {
                assert!(matches!(change.write, Some(Write::Later { .. })));
                assert_eq!(set(&change, "tried"), Some("request-1"));
                assert_eq!(set(&change, "charged"), Some("yes"));
                assert!(deletes(&change, "request_id"));
            } else {
                assert_telling(&lost, &change, Kind::Unavailable, Charged::Yes);
            }
        }
    }
}

/// An operator was told that the retry is free: whatever fal has lost or failed, and whatever the job would
/// otherwise allow.
#[test]
fn a_retry_that_was_to_be_free_submits_nothing() {
    let free = |phase| {
        let mut flight = flight(phase);
        // As the claim of a retried job gives it: attempt 0, with all attempts left.
        (flight.free, flight.repay, flight.attempt) = (true, true, 0);
        flight
    };
    let assert_ended = |flight: &Flight, change: &Change, kind, charged| {
        assert_telling(flight, change, kind, charged);
        let text = set(change, "error").unwrap();
        assert!(
            text.ends_with("this retry was to be free, so nothing new was submitted"),
            "{text}"
        );
        assert!(text.chars().count() <= 300, "{text}");
    };
    let none = FoundSummary::default();
    let mut lost = free(Phase::Polling);
    lost.missing = Some((2, at(2000).now));
    let change = after_poll(&mut lost, Polled::Missing, 1, &POLICY, at(17_000));
    assert_ended(&lost, &change, Kind::Unavailable, Charged::Yes);

    let mut gone = free(Phase::Collecting);
    gone.missing = Some((2, at(2000).now));
    let change = after_collect(&mut gone, Collected::Missing, &none, &POLICY, at(17_000));
    assert_ended(&gone, &change, Kind::Unavailable, Charged::Yes);

    let mut broken = free(Phase::Collecting);
    broken.verdicts = VERDICTS;
    let mut failure = failed(Kind::Timeout, Remedy::TryAnew, Charged::Unknown);
    failure.text = "\u{e9}".repeat(300);
    let change = after_collect(
        &mut broken,
        Collected::Failed(failure),
        &none,
        &POLICY,
        at(17_000),
    );
    assert_ended(&broken, &change, Kind::Timeout, Charged::Unknown);

    // Even where Redis forgot that there is a request.
    let mut bare = free(Phase::Submitting);
    let change = before_submit(&mut bare, at(17_000)).expect("an end");
    assert_ended(&bare, &change, Kind::Unavailable, Charged::No);
}

#[test]
fn a_failed_look_repeats_the_step_with_growing_waits_and_says_nothing_about_the_job() {
    let mut flight = flight(Phase::Polling);
    let mut waits = Vec::new();
    for _ in 0..12 {
        let moment = Moment {
            random: 0.999,
            ..at(i64::from(u32::MAX))
        };
        let change = after_poll(&mut flight, Polled::Failed(again()), 1, &POLICY, moment);
        let Next::In(wait) = change.next else {
            panic!("{change:?}")
        };
        waits.push(wait.as_secs_f64().round() as u64);
        assert_eq!(change.write, None);
    }
    assert_eq!(waits, [0, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30]);
    assert_eq!(
        (flight.phase, flight.cancelling),
        (Phase::Polling, None),
        "never by silence"
    );
    let mut asked = again();
    asked.retry_after = Some(Duration::from_secs(77));
    let change = after_poll(&mut flight, Polled::Failed(asked), 1, &POLICY, at(0));
    assert_eq!(change.next, Next::In(Duration::from_secs(77)));
}

// ---- cancelling ----

#[test]
fn what_fal_says_to_a_cancel() {
    let wish = || {
        let mut flight = flight(Phase::Polling);
        let change = begin_cancel(
            &mut flight,
            Kind::Timeout,
            "not finished after 5 s",
            at(5000),
        );
        // Before fal is told: a successor must know why the request is gone.
        let written = ["kind", "error", "cancelling"].map(|name| set(&change, name));
        let since = at(5000).now.0.to_string();
        let expected = ["timeout", "not finished after 5 s", since.as_str()].map(Some);
        assert_eq!((written, change.next), (expected, Next::Now));
        flight
    };
    let mut gone = wish();
    let change = after_cancel(&mut gone, Cancelled::Removed, at(5100));
    assert_telling(&gone, &change, Kind::Timeout, Charged::No);
    assert_eq!(set(&change, "error"), Some("not finished after 5 s"));

    let mut unknown = wish();
    let change = after_cancel(&mut unknown, Cancelled::Missing, at(5100));
    assert_telling(&unknown, &change, Kind::Timeout, Charged::Unknown);

    let mut late = wish();
    let change = after_cancel(&mut late, Cancelled::AlreadyCompleted, at(5100));
    assert_eq!((late.phase, change.next), (Phase::Collecting, Next::Now));

    let mut asked = wish();
    let change = after_cancel(&mut asked, Cancelled::Requested, at(5100));
    assert_eq!((asked.phase, change.write), (Phase::Polling, None));
    assert_eq!(asked.cancelling.unwrap().asked_at, Some(at(5100).now));
    assert!(!cancel_is_due(&asked));
}

#[test]
fn who_asks_for_a_cancel_before_the_submit_pays_nothing_and_is_told() {
    for (doubt, charged) in [
        (Doubt::None, Charged::No),
        (Doubt::Submit, Charged::Unknown),
    ] {
        let mut flight = flight(Phase::Submitting);
        (flight.cancel_asked, flight.doubt) = (true, doubt);
        let change = cancel_unsubmitted(&mut flight, at(1));
        assert_telling(&flight, &change, Kind::Cancelled, charged);
    }
    let mut alone = flight(Phase::Submitting);
    (alone.cancel_asked, alone.target) = (true, None);
    let change = cancel_unsubmitted(&mut alone, at(1));
    assert_eq!(end_state(&change), Some(EndState::Cancelled));
    assert_eq!(events(&change), ["cancelled"]);
    assert_eq!(field(&patch(&change).events[0], "kind"), Some("cancelled"));
}

#[test]
fn a_cancel_that_came_during_the_submit_follows_its_answer() {
    let refused = failed(Kind::RateLimited, Remedy::RetryStep, Charged::No);
    for (answer, charged) in [
        (Submitted::Refused(refused), Charged::No),
        (Submitted::Unknown(again()), Charged::Unknown),
    ] {
        let mut flight = flight(Phase::Submitting);
        flight.cancel_asked = true;
        let change = after_submit(&mut flight, answer, &POLICY, at(1));
        assert_telling(&flight, &change, Kind::Cancelled, charged);
    }
    let mut flight = flight(Phase::Submitting);
    flight.cancel_asked = true;
    let change = after_submit(&mut flight, accepted("r"), &POLICY, at(1));
    assert!(matches!(change.write, Some(Write::Submitted { .. })));
    assert_eq!((flight.phase, flight.cancel_asked), (Phase::Polling, true));
}

#[test]
fn a_cancel_looks_first_and_what_is_done_is_delivered_without_one() {
    for (answer, in_queue) in [
        (Polled::InQueue { position: Some(3) }, true),
        (Polled::InProgress, false),
        (Polled::Missing, false),
    ] {
        let mut flight = flight(Phase::Polling);
        flight.cancel_asked = true;
        let change = after_poll(&mut flight, answer.clone(), 1, &POLICY, at(2000));
        assert_eq!(set(&change, "kind"), Some("cancelled"), "{answer:?}");
        assert!(set(&change, "cancelling").is_some() && cancel_is_due(&flight));
        assert_eq!(flight.cancelling.unwrap().in_queue, in_queue, "{answer:?}");
    }
    let mut done = flight(Phase::Polling);
    done.cancel_asked = true;
    let change = after_poll(&mut done, Polled::Completed, 1, &POLICY, at(2000));
    assert_eq!((done.phase, change.write), (Phase::Collecting, None));
    // Asked while a time-out is being cancelled already: one is enough.
    let mut late = flight(Phase::Polling);
    late.cancelling = cancelling(Kind::Timeout, Some(1000));
    late.cancel_asked = true;
    let change = after_poll(&mut late, Polled::InProgress, 1, &POLICY, at(2000));
    assert_eq!(change.write, None);
}

#[test]
fn what_waited_in_fals_queue_when_it_was_cancelled_was_never_charged() {
    for (last, charged) in [
        (Polled::InQueue { position: None }, Charged::No),
        (Polled::InProgress, Charged::Unknown),
    ] {
        // 202 for what waits: whether it was taken out or stopped, only what comes next tells.
        let told = || {
            let mut flight = flight(Phase::Polling);
            flight.cancel_asked = true;
            after_poll(&mut flight, last.clone(), 1, &POLICY, at(2000));
            after_cancel(&mut flight, Cancelled::Requested, at(2100));
            flight
        };
        let mut gone = told();
        let change = after_poll(&mut gone, Polled::Missing, 1, &POLICY, at(2600));
        assert_telling(&gone, &change, Kind::Cancelled, charged);

        let mut stopped = told();
        stopped.phase = Phase::Collecting;
        let answer = Collected::Failed(failed(Kind::Cancelled, Remedy::Final, Charged::Unknown));
        let none = FoundSummary::default();
        let change = after_collect(&mut stopped, answer, &none, &POLICY, at(2600));
        assert_telling(&stopped, &change, Kind::Cancelled, charged);
        let mut expired = told();
        after_poll(&mut expired, Polled::Completed, 1, &POLICY, at(2600));
        let change = after_collect(&mut expired, Collected::Missing, &none, &POLICY, at(2700));
        assert_telling(&expired, &change, Kind::Cancelled, Charged::Unknown);
        // A runner took it in between.
        let mut ran = told();
        after_poll(&mut ran, Polled::InProgress, 1, &POLICY, at(2600));
        let change = after_poll(&mut ran, Polled::Missing, 1, &POLICY, at(4600));
        assert_telling(&ran, &change, Kind::Cancelled, Charged::Unknown);
    }
}

#[test]
fn a_job_to_be_cancelled_is_never_submitted_anew() {
    let mut flight = flight(Phase::Collecting);
    (flight.cancel_asked, flight.verdicts) = (true, VERDICTS);
    let answer = Collected::Failed(failed(Kind::Unavailable, Remedy::TryAnew, Charged::No));
    let none = FoundSummary::default();
    let change = after_collect(&mut flight, answer, &none, &POLICY, at(6000));
    assert_telling(&flight, &change, Kind::Cancelled, Charged::No);
}

#[test]
fn a_redelivery_ends_with_one_event_of_the_first_job_and_without_a_dead_letter() {
    let receipt = Receipt {
        message_ids: vec![9],
        file_ids: vec!["f".to_owned()],
        ..Receipt::default()
    };
    let broken = failed(Kind::ChatUnreachable, Remedy::Final, Charged::No);
    for failed in [None, Some(&broken)] {
        let mut flight = flight(Phase::Delivering);
        flight.redelivers = Some(Box::new(Redelivers::parse(
            "first".to_owned(),
            r#"["f"]"#,
            "",
        )));
        let change = redelivered(&mut flight, &receipt, failed);
        assert_eq!(end_state(&change), Some(EndState::Done));
        assert_eq!(events(&change), ["redelivered"]);
        let event = &patch(&change).events[0];
        let told = ["job", "message_ids", "file_ids", "kind"].map(|name| field(event, name));
        let kind = failed.map(|_| "chat_unreachable");
        assert_eq!(told, [Some("first"), Some("[9]"), Some(r#"["f"]"#), kind]);
        assert_eq!(set(&change, "kind"), kind);
        assert!(flight.closing && deletes(&change, "result"));
    }
}

#[test]
fn what_a_failed_delivery_left_in_the_chat_is_kept() {
    let receipt = Receipt {
        message_ids: vec![9],
        file_ids: vec!["f".to_owned()],
        file_kinds: vec!["0:photo".to_owned()],
        ..Receipt::default()
    };
    for target in [true, false] {
        let mut flight = flight(Phase::Delivering);
        if !target {
            flight.target = None;
        }
        let failed = failed(Kind::Telegram, Remedy::Final, Charged::No);
        let change = keep_what_went(fail(&mut flight, failed, at(1)), &receipt);
        assert_eq!(set(&change, "file_ids"), Some(r#"["f"]"#));
        assert_eq!(set(&change, "file_kinds"), Some(r#"["0:photo"]"#));
    }
    let mut flight = flight(Phase::Delivering);
    let nothing = failed(Kind::Telegram, Remedy::Final, Charged::No);
    let change = keep_what_went(fail(&mut flight, nothing, at(1)), &Receipt::default());
    assert_eq!(set(&change, "file_ids"), None);
}

#[test]
fn a_request_told_to_stop_has_sixty_seconds_and_a_result_of_that_time_is_delivered() {
    for answer in [
        Polled::InProgress,
        Polled::InQueue { position: None },
        Polled::Failed(again()),
    ] {
        let mut flight = flight(Phase::Polling);
        flight.cancelling = cancelling(Kind::Timeout, Some(5000));
        flight.failure = Some((Kind::Timeout, "too long".to_owned()));
        let change = after_poll(&mut flight, answer.clone(), 1, &POLICY, at(64_999));
        assert_eq!(change.write, None, "{answer:?}");
        let change = after_poll(&mut flight, answer, 1, &POLICY, at(65_000));
        assert_telling(&flight, &change, Kind::Timeout, Charged::Unknown);
    }
    let mut done = flight(Phase::Collecting);
    done.cancelling = cancelling(Kind::Timeout, Some(5000));
    let answer = Collected::Output(output(None));
    let change = after_collect(&mut done, answer, &one_file(), &POLICY, at(70_000));
    assert_eq!(
        (done.phase, done.cancelling, done.failure),
        (Phase::Delivering, None, None)
    );
    assert_eq!(set(&change, "charged"), Some("yes"));
}

#[test]
fn a_499_or_a_404_after_our_cancel_ends_the_job_as_what_the_cancel_was_for() {
    for kind in [Kind::Timeout, Kind::Cancelled] {
        let mut told = flight(Phase::Collecting);
        told.cancelling = cancelling(kind, Some(5000));
        let answer = Collected::Failed(failed(Kind::Cancelled, Remedy::Final, Charged::Unknown));
        let none = FoundSummary::default();
        let change = after_collect(&mut told, answer, &none, &POLICY, at(6000));
        assert_telling(&told, &change, kind, Charged::Unknown);

        let mut gone = flight(Phase::Polling);
        gone.cancelling = cancelling(kind, Some(5000));
        let change = after_poll(&mut gone, Polled::Missing, 1, &POLICY, at(6000));
        assert_telling(&gone, &change, kind, Charged::Unknown);
    }
    // Cancelled by somebody else: not at our wish.
    let mut other = flight(Phase::Collecting);
    let answer = Collected::Failed(failed(Kind::Cancelled, Remedy::Final, Charged::Unknown));
    let none = FoundSummary::default();
    let change = after_collect(&mut other, answer, &none, &POLICY, at(6000));
    assert_telling(&other, &change, Kind::Unavailable, Charged::Unknown);
}

/// fal refuses the cancel every time: the status is looked at in turns, so a result is not missed, and
/// a minute later the job ends all the same.
#[test]
fn a_cancel_that_fal_never_takes_neither_hides_a_result_nor_lasts_for_ever() {
    let mut flight = flight(Phase::Polling);
    flight.running_at = Some(at(0).now);
    after_poll(&mut flight, Polled::InProgress, 1, &POLICY, at(600_001));
    let (mut now, mut polls) = (600_001, 0);
    while flight.phase == Phase::Polling {
        assert!(now < 600_001 + 90_000, "still at it");
        let change = if cancel_is_due(&flight) {
            after_cancel(&mut flight, Cancelled::Failed(again()), at(now))
        } else {
            polls += 1;
            after_poll(&mut flight, Polled::InProgress, 1, &POLICY, at(now))
        };
        now += match change.next {
            Next::In(wait) => wait.as_millis() as i64,
            Next::Now => 0,
            Next::Transfer | Next::Over => panic!("{change:?}"),
        };
        assert!(polls < 100, "not a hot loop");
    }
    assert!(now >= 660_001 && polls > 5);
    assert_eq!(
        (flight.phase, flight.charged),
        (Phase::Telling, Charged::Unknown)
    );
}

#[test]
fn while_fal_is_away_a_cancel_is_neither_given_up_nor_believed() {
    let mut flight = flight(Phase::Polling);
    begin_cancel(&mut flight, Kind::Timeout, "too long", at(5000));
    let mut asked = [0, 0];
    for minute in 1..200 {
        let now = at(minute * 60_000);
        let change = if cancel_is_due(&flight) {
            asked[0] += 1;
            after_cancel(&mut flight, Cancelled::Failed(again()), now)
        } else {
            asked[1] += 1;
            after_poll(&mut flight, Polled::Failed(again()), 1, &POLICY, now)
        };
        assert!(matches!(change.next, Next::In(_)), "{change:?}");
    }
    assert_eq!(
        (flight.phase, asked[0] > 90, asked[1] > 90),
        (Phase::Polling, true, true)
    );
    // Back, and still running: it is told to stop before it is judged.
    after_poll(&mut flight, Polled::InProgress, 1, &POLICY, at(20_000_000));
    assert!(flight.phase == Phase::Polling && cancel_is_due(&flight));
}

// ---- collecting ----

#[test]
fn a_result_is_recorded_with_the_intent_to_deliver_it() {
    let mut flight = flight(Phase::Collecting);
    flight.tries = 2;
    let answer = Collected::Output(output(Some("1.5")));
    let change = after_collect(&mut flight, answer, &one_file(), &POLICY, at(9000));
    assert!(matches!(
        change.write,
        Some(Write::Save { large: None, .. })
    ));
    assert_eq!(change.next, Next::Now);
    assert_eq!(set(&change, "phase"), Some("delivering"));
    assert_eq!(set(&change, "charged"), Some("yes"));
    assert_eq!(set(&change, "units"), Some("1.5"));
    assert_eq!(set(&change, "result"), flight.result.as_deref());
    assert!(patch(&change).stamp == Some("completed_at"));
    assert!(deletes(&change, "crashes") && deletes(&change, "error") && deletes(&change, "kind"));
    let [event] = &patch(&change).events[..] else {
        panic!("{change:?}")
    };
    assert_eq!(
        (event.name, event.since),
        ("completed", flight.submitted_at)
    );
    for (name, value) in [
        ("job", "job-1"),
        ("user", "42"),
        ("model", "fal-ai/flux/dev"),
        ("attempt", "1"),
        ("meta", r#"{"order":1}"#),
        ("request_id", "request-1"),
        ("charged", "yes"),
        ("units", "1.5"),
        ("files", r#"["https://fal.media/a.png"]"#),
    ] {
        assert_eq!(field(event, name), Some(value), "{name}");
    }
}

#[test]
fn a_result_fetched_a_second_time_is_neither_summed_up_nor_told_again() {
    let mut flight = flight(Phase::Collecting);
    flight.completed_at = Some(at(8000).now);
    flight.units = Some("1.5".to_owned());
    flight.rung = r#"{"i":1}"#.to_owned();
    let answer = Collected::Output(output(Some("1.5")));
    let change = after_collect(&mut flight, answer, &one_file(), &POLICY, at(90_000));
    assert_eq!(
        (set(&change, "units"), events(&change).len()),
        (Some("1.5"), 0)
    );
    assert_eq!(
        flight.completed_at,
        Some(at(8000).now),
        "its delivery has waited since then"
    );
    assert!(patch(&change).stamp != Some("completed_at"));
    assert_eq!(flight.rung, r#"{"i":1}"#, "and goes on where it stood");
}

#[test]
fn without_a_chat_a_result_ends_the_job_with_completed_and_done_in_one_write() {
    let mut flight = flight(Phase::Collecting);
    flight.target = None;
    let answer = Collected::Output(output(Some("2")));
    let change = after_collect(&mut flight, answer, &one_file(), &POLICY, at(9000));
    assert_eq!(end_state(&change), Some(EndState::Done));
    assert_eq!(events(&change), ["completed", "done"]);
    let done = &patch(&change).events[1];
    assert_eq!(done.since, Some(CAME));
    assert_eq!(field(done, "charged"), Some("yes"));
    assert_eq!(field(done, "files"), Some(r#"["https://fal.media/a.png"]"#));
    assert!(flight.closing && change.next == Next::Over);
}

#[test]
fn a_large_result_goes_to_its_own_key_once_and_only_when_the_delivery_is_parked() {
    let mut large = flight(Phase::Collecting);
    let json = format!("{{\"text\":\"{}\"}}", "x".repeat(LARGE));
    let answer = Collected::Output(Output { json, units: None });
    let change = after_collect(&mut large, answer, &one_file(), &POLICY, at(9000));
    assert_eq!(set(&change, "result"), None);
    assert!(matches!(
        save_large(&mut large),
        Some(Write::Save { large: Some(_), .. })
    ));
    assert_eq!(save_large(&mut large), None);
    let mut small = flight(Phase::Collecting);
    after_collect(
        &mut small,
        Collected::Output(output(None)),
        &one_file(),
        &POLICY,
        at(9000),
    );
    assert_eq!(save_large(&mut small), None);
}

#[test]
fn black_pictures_and_empty_results_are_paid_failures() {
    let flagged = FoundSummary {
        all_flagged: true,
        ..one_file()
    };
    for (found, kind) in [
        (flagged, Kind::ContentPolicy),
        (FoundSummary::default(), Kind::NoOutput),
    ] {
        let mut flight = flight(Phase::Collecting);
        let answer = Collected::Output(output(Some("1")));
        let change = after_collect(&mut flight, answer, &found, &POLICY, at(9000));
        assert_telling(&flight, &change, kind, Charged::Yes);
        assert_eq!(set(&change, "units"), Some("1"));
    }
    // Whoever wants no delivery takes any JSON.
    let mut flight = flight(Phase::Collecting);
    flight.target = None;
    let none = FoundSummary::default();
    let change = after_collect(
        &mut flight,
        Collected::Output(output(None)),
        &none,
        &POLICY,
        at(9000),
    );
    assert_eq!(end_state(&change), Some(EndState::Done));
}

#[test]
fn a_result_that_is_never_ready_ends_at_the_time_limit_of_a_running_one() {
    let mut flight = flight(Phase::Collecting);
    let (mut now, mut reads) = (2000, 0);
    while flight.phase != Phase::Telling {
        reads += 1;
        assert!(now < 2000 + 700_000, "without end");
        let change = match flight.phase {
            _ if cancel_is_due(&flight) => after_cancel(&mut flight, Cancelled::Requested, at(now)),
            Phase::Polling => after_poll(&mut flight, Polled::Completed, 1, &POLICY, at(now)),
            _ => {
                let none = FoundSummary::default();
                after_collect(&mut flight, Collected::NotYet, &none, &POLICY, at(now))
            }
        };
        if let Next::In(wait) = change.next {
            now += wait.as_millis() as i64;
        }
    }
    assert_eq!(
        flight.failure.as_ref().map(|(kind, _)| *kind),
        Some(Kind::Timeout)
    );
    assert!(reads < 3000);
}

#[test]
fn an_unreadable_result_is_asked_for_a_bounded_number_of_times_and_was_paid() {
    let mut flight = flight(Phase::Collecting);
    let bad = || Collected::Failed(failed(Kind::BadAnswer, Remedy::RetryStep, Charged::Unknown));
    for _ in 0..BAD_ANSWERS {
        let none = FoundSummary::default();
        let change = after_collect(&mut flight, bad(), &none, &POLICY, at(9000));
        assert!(matches!(change.next, Next::In(_)), "{change:?}");
    }
    let none = FoundSummary::default();
    let change = after_collect(&mut flight, bad(), &none, &POLICY, at(9000));
    assert_telling(&flight, &change, Kind::BadAnswer, Charged::Yes);
}

#[test]
fn a_failed_generation_is_tried_anew_once_more_at_most() {
    for (attempt, max_attempts, wish, anew) in [
        (1, 3, false, true),
        (2, 3, false, false),
        (1, 1, false, false),
        (1, 20, false, true),
        (2, 20, false, false),
        (1, 3, true, false),
    ] {
        let mut flight = flight(Phase::Collecting);
        (flight.attempt, flight.max_attempts) = (attempt, max_attempts);
        flight.verdicts = VERDICTS;
        flight.cancelling = wish.then(|| cancelling(Kind::Timeout, Some(5000)).unwrap());
        let mut failure = failed(Kind::Unavailable, Remedy::TryAnew, Charged::No);
        failure.units = Some("0.5".to_owned());
        let none = FoundSummary::default();
        let answer = Collected::Failed(failure);
        let change = after_collect(&mut flight, answer, &none, &POLICY, at(9000));
        let name = format!("{attempt} of {max_attempts}, cancelling: {wish}");
        assert_eq!(
            matches!(change.write, Some(Write::Later { .. })),
            anew,
            "{name}"
        );
        assert_eq!(set(&change, "units"), Some("0.5"), "{name}");
        assert_eq!(flight.charged, Charged::No, "{name}");
        if anew {
            assert_eq!(set(&change, "tried"), Some("request-1"), "{name}");
            let event = &patch(&change).events[0];
            assert_eq!(field(event, "request_id"), Some("request-1"), "{name}");
        }
    }
}

#[test]
fn a_result_that_asks_for_a_new_payment_is_read_again_before_it_is_believed() {
    let mut flight = flight(Phase::Collecting);
    let none = FoundSummary::default();
    let verdict = || Collected::Failed(failed(Kind::Unavailable, Remedy::TryAnew, Charged::No));
    for _ in 0..VERDICTS {
        let change = after_collect(&mut flight, verdict(), &none, &POLICY, at(9000));
        assert_eq!(change.write, None);
        assert!(matches!(change.next, Next::In(wait) if wait < Duration::from_secs(2)));
        assert_eq!((flight.phase, flight.attempt), (Phase::Collecting, 1));
    }
    let change = after_collect(&mut flight, verdict(), &none, &POLICY, at(9000));
    assert!(matches!(change.write, Some(Write::Later { .. })));
}

#[test]
fn former_requests_are_kept_in_their_order() {
    let mut flight = flight(Phase::Collecting);
    flight.tried = "a b".to_owned();
    flight.verdicts = VERDICTS;
    let answer = Collected::Failed(failed(Kind::Unavailable, Remedy::TryAnew, Charged::No));
    let none = FoundSummary::default();
    let change = after_collect(&mut flight, answer, &none, &POLICY, at(9000));
    assert_eq!(set(&change, "tried"), Some("a b request-1"));
}

// ---- direct ----

#[test]
fn a_direct_call_is_an_attempt_whenever_it_may_have_run() {
    let direct = || {
        let mut flight = flight(Phase::Submitting);
        flight.via = Via::Direct;
        flight
    };
    let mut good = direct();
    let id = Some(RequestId("d".into()));
    let answer = Directed::Output(output(Some("1")), id);
    let change = after_direct(&mut good, answer, &one_file(), at(2000));
    assert_eq!((good.phase, good.attempt), (Phase::Delivering, 1));
    assert_eq!(set(&change, "request_id"), Some("d"));
    assert_eq!(set(&change, "attempt"), Some("1"));
    assert!(good.order.is_none() && good.entry.is_none());

    let mut refused = direct();
    let failure = failed(Kind::RateLimited, Remedy::RetryStep, Charged::No);
    let change = after_direct(
        &mut refused,
        Directed::Failed(failure),
        &one_file(),
        at(2000),
    );
    assert!(matches!(change.write, Some(Write::Later { .. })));
    assert_eq!(refused.attempt, 0);

    let mut anew = direct();
    let failure = || failed(Kind::Unavailable, Remedy::TryAnew, Charged::No);
    let change = after_direct(
        &mut anew,
        Directed::Failed(failure()),
        &one_file(),
        at(2000),
    );
    assert!(matches!(change.write, Some(Write::Later { .. })));
    assert_eq!(anew.attempt, 1);
    let change = after_direct(
        &mut anew,
        Directed::Failed(failure()),
        &one_file(),
        at(2000),
    );
    assert_telling(&anew, &change, Kind::Unavailable, Charged::No);
    assert_eq!(anew.attempt, 2);
}

// ---- telling and the end ----

#[test]
fn a_chat_that_cannot_be_reached_is_not_told() {
    let mut flight = flight(Phase::Delivering);
    flight.charged = Charged::Yes;
    let change = fail(
        &mut flight,
        failure(Kind::ChatUnreachable, "blocked", Charged::No),
        at(9000),
    );
    assert_eq!(end_state(&change), Some(EndState::Dead));
    assert_eq!(
        (set(&change, "told"), set(&change, "charged")),
        (None, Some("yes"))
    );
    assert_eq!(events(&change), ["failed"]);
}

#[test]
fn the_end_says_kind_error_charge_time_and_whether_the_user_was_told() {
    for (kind, told, state, name) in [
        (Kind::Timeout, Some(true), EndState::Dead, "failed"),
        (
            Kind::Cancelled,
            Some(false),
            EndState::Cancelled,
            "cancelled",
        ),
        (Kind::Expired, None, EndState::Dead, "failed"),
    ] {
        let mut flight = flight(Phase::Telling);
        flight.failure = Some((kind, "why".to_owned()));
        flight.charged = Charged::Unknown;
        flight.units = Some("3".to_owned());
        let change = end_failed(&mut flight, told);
        assert_eq!(end_state(&change), Some(state));
        assert_eq!(
            set(&change, "told"),
            told.map(|told| if told { "yes" } else { "no" })
        );
        let [event] = &patch(&change).events[..] else {
            panic!("{change:?}")
        };
        assert_eq!((event.name, event.since), (name, Some(CAME)));
        for (field_name, value) in [
            ("kind", kind.as_str()),
            ("error", "why"),
            ("charged", "unknown"),
            ("units", "3"),
            ("request_id", "request-1"),
            ("attempt", "1"),
        ] {
            assert_eq!(field(event, field_name), Some(value), "{field_name}");
        }
        assert!(flight.closing);
    }
}

#[test]
fn delivery_and_end_are_one_write() {
    let mut flight = flight(Phase::Delivering);
    (flight.charged, flight.completed_at) = (Charged::Yes, Some(at(9000).now));
    let receipt = Receipt {
        message_ids: vec![11, 12],
        file_ids: vec!["f".to_owned()],
        file_kinds: vec!["0:photo".to_owned()],
        files: vec!["https://fal.media/a.png".to_owned()],
        migrated_to: Some(-1009),
    };
    let change = delivered(&mut flight, &receipt);
    assert_eq!(end_state(&change), Some(EndState::Done));
    assert_eq!(events(&change), ["delivered", "done"]);
    for event in &patch(&change).events {
        assert_eq!(field(event, "message_ids"), Some("[11,12]"));
        assert_eq!(field(event, "file_ids"), Some(r#"["f"]"#));
    }
    let moved = field(&patch(&change).events[0], "migrated_to");
    assert_eq!(moved, Some("-1009"));
    assert_eq!(patch(&change).events[0].since, Some(at(9000).now));
    assert_eq!(field(&patch(&change).events[1], "charged"), Some("yes"));
    assert_eq!(set(&change, "message_ids"), Some("[11,12]"));
    assert_eq!(set(&change, "file_kinds"), Some(r#"["0:photo"]"#));
    assert_eq!(set(&change, "sent_to"), Some(r#"{"chat_id":7}"#));
}

#[test]
fn progress_of_a_delivery_settles_its_doubt_and_counts_a_second_send() {
    for again in [false, true] {
        let mut flight = flight(Phase::Delivering);
        flight.doubt = Doubt::Send;
        let change = delivery_progress(&mut flight, r#"{"s":1}"#.to_owned(), again);
        assert_eq!(
            (flight.doubt, set(&change, "rung")),
            (Doubt::None, Some(r#"{"s":1}"#))
        );
        assert!(deletes(&change, "doubt"));
        let counted = again.then_some("resent_after_unknown");
        assert!(matches!(change.write, Some(Write::Save { count, .. }) if count == counted));
        assert_eq!(change.say == Say::SentAgain, again);
        assert!(!deletes(&change, "crashes"), "its owner has only begun");
    }
    let mut flight = flight(Phase::Delivering);
    let change = delivery_went_on(&mut flight, r#"{"s":1}"#.to_owned());
    assert_eq!(set(&change, "rung"), Some(r#"{"s":1}"#));
    assert!(deletes(&change, "doubt") && deletes(&change, "crashes"));
}

// ---- every phase with every answer ----

#[derive(Clone, Debug)]
enum Answer {
    Submitted(Submitted),
    Polled(Polled),
    Cancelled(Cancelled),
    Collected(Collected, FoundSummary),
    Directed(Directed, FoundSummary),
    Told(bool),
    Delivered,
    Refused(Kind),
}

/// Every failure that an answer can carry.
fn failures() -> Vec<Failure> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for remedy in [Remedy::Final, Remedy::RetryStep, Remedy::TryAnew] {
            for charged in [Charged::No, Charged::Unknown, Charged::Yes] {
                let units = (charged == Charged::Yes).then(|| "1".to_owned());
                all.push(Failure {
                    units,
                    ..failed(kind, remedy, charged)
                });
            }
        }
    }
    all
}

/// The answers that a flight may get now.
fn answers(flight: &Flight) -> Vec<Answer> {
    let mut all = Vec::new();
    let found = [
        one_file(),
        FoundSummary::default(),
        FoundSummary {
            all_flagged: true,
            ..one_file()
        },
    ];
    match flight.phase {
        Phase::Submitting if flight.via == Via::Direct => {
            for found in found {
                let good = Directed::Output(output(Some("1")), Some(RequestId("d".into())));
                all.push(Answer::Directed(good, found));
            }
            for failure in failures() {
                let none = FoundSummary::default();
                all.push(Answer::Directed(
                    Directed::Failed(failure.clone()),
                    none.clone(),
                ));
                all.push(Answer::Directed(Directed::Unknown(failure), none));
            }
        }
        Phase::Submitting => {
            all.push(Answer::Submitted(accepted(&format!(
                "request-{}",
                flight.attempt + 1
            ))));
            for failure in failures() {
                // What is refused costs nothing: the border of `fal` sees to it.
                let free = Failure {
                    charged: Charged::No,
                    units: None,
                    ..failure.clone()
                };
                all.push(Answer::Submitted(Submitted::Refused(free)));
                all.push(Answer::Submitted(Submitted::Unknown(failure)));
            }
        }
        Phase::Polling if cancel_is_due(flight) => {
            all.extend([
                Answer::Cancelled(Cancelled::Requested),
                Answer::Cancelled(Cancelled::Removed),
                Answer::Cancelled(Cancelled::AlreadyCompleted),
                Answer::Cancelled(Cancelled::Missing),
                Answer::Cancelled(Cancelled::Failed(again())),
            ]);
        }
        Phase::Polling => {
            all.extend([
                Answer::Polled(Polled::InQueue { position: Some(1) }),
                Answer::Polled(Polled::InProgress),
                Answer::Polled(Polled::Completed),
                Answer::Polled(Polled::Missing),
                Answer::Polled(Polled::Failed(again())),
            ]);
        }
        Phase::Collecting => {
            for found in found {
                all.push(Answer::Collected(
                    Collected::Output(output(Some("1"))),
                    found,
                ));
            }
            let none = FoundSummary::default();
            all.push(Answer::Collected(Collected::NotYet, none.clone()));
            all.push(Answer::Collected(Collected::Missing, none.clone()));
            for failure in failures() {
                all.push(Answer::Collected(Collected::Failed(failure), none.clone()));
            }
        }
        Phase::Delivering => {
            all.push(Answer::Delivered);
            all.extend(Kind::ALL.map(Answer::Refused));
        }
        Phase::Telling => all.extend([Answer::Told(true), Answer::Told(false)]),
    }
    all
}

fn decide(flight: &mut Flight, answer: Answer, now: Moment) -> Change {
    match answer {
        Answer::Submitted(answer) => after_submit(flight, answer, &POLICY, now),
        Answer::Polled(answer) => after_poll(flight, answer, 1, &POLICY, now),
        Answer::Cancelled(answer) => after_cancel(flight, answer, now),
        Answer::Collected(answer, found) => after_collect(flight, answer, &found, &POLICY, now),
        Answer::Directed(answer, found) => after_direct(flight, answer, &found, now),
        Answer::Told(told) => end_failed(flight, Some(told)),
        Answer::Delivered => delivered(flight, &Receipt::default()),
        Answer::Refused(kind) => fail(flight, failure(kind, "refused", Charged::No), now),
    }
}

struct Before {
    phase: Phase,
    attempt: u32,
    charged: Charged,
    units: f64,
    request: Option<RequestId>,
    target: bool,
}

impl Before {
    fn of(flight: &Flight) -> Before {
        Before {
            phase: flight.phase,
            attempt: flight.attempt,
            charged: flight.charged,
            units: units(flight),
            request: flight.request.clone(),
            target: flight.target.is_some(),
        }
    }
}

fn units(flight: &Flight) -> f64 {
    flight
        .units
        .as_deref()
        .map_or(0.0, |units| units.parse().unwrap())
}

/// What must hold after every decision.
fn assert_lawful(before: &Before, flight: &Flight, change: &Change, what: &str) {
    assert!(
        flight.attempt <= flight.max_attempts,
        "{what}: paid too often"
    );
    assert!(
        flight.attempt <= before.attempt + 1,
        "{what}: two attempts at once"
    );
    assert!(
        flight.charged >= before.charged,
        "{what}: charged got better"
    );
    assert!(units(flight) >= before.units, "{what}: units got fewer");
    if flight.attempt > before.attempt {
        assert_eq!(
            before.phase,
            Phase::Submitting,
            "{what}: an attempt without a submit"
        );
    }
    match &change.write {
        None => {
            assert!(matches!(change.next, Next::Now | Next::In(_)), "{what}");
            assert!(
                matches!(flight.phase, Phase::Polling | Phase::Collecting),
                "{what}: a phase that nobody recorded"
            );
            assert!(!flight.closing);
        }
        Some(Write::Submitted {
            request, attempt, ..
        }) => {
            assert_eq!(flight.request.as_ref(), Some(request), "{what}");
            assert_eq!(
                (*attempt, flight.phase),
                (flight.attempt, Phase::Polling),
                "{what}"
            );
        }
        Some(Write::Save { patch, .. }) => {
            assert!(!flight.closing, "{what}");
            assert!(
                !patch.events.iter().any(is_end),
                "{what}: an end while it lives"
            );
            let phase = patch.set.iter().find(|(name, _)| *name == "phase");
            assert_eq!(
                phase.map(|(_, word)| word.as_str()),
                Some(flight.phase.as_str()),
                "{what}"
            );
            if flight.phase == Phase::Telling {
                assert!(before.target, "{what}: told to nobody");
                assert!(flight.failure.is_some(), "{what}");
                assert!(
                    set(change, "kind").is_some() && set(change, "error").is_some(),
                    "{what}"
                );
            }
        }
        Some(Write::Later { known, patch, .. }) => {
            assert_eq!(change.next, Next::Over, "{what}");
            assert!(
                flight.attempt < flight.max_attempts,
                "{what}: nothing left to try"
            );
            assert!(
                flight.cancelling.is_none(),
                "{what}: a wish to end it is forgotten"
            );
            assert_eq!(known, &before.request, "{what}");
            if let Some(old) = &before.request {
                let tried = set(change, "tried").unwrap_or_default();
                assert!(
                    tried.split(' ').any(|id| id == &*old.0),
                    "{what}: {old} is lost"
                );
                assert!(deletes(change, "request_id"), "{what}");
            }
            assert_eq!(
                set(change, "charged"),
                Some(flight.charged.as_str()),
                "{what}"
            );
            assert_eq!(
                set(change, "attempt"),
                Some(flight.attempt.to_string().as_str()),
                "{what}"
            );
            let doubt = set(change, "doubt") == Some("submit");
            assert!(doubt != deletes(change, "doubt"), "{what}");
            let [event] = &patch.events[..] else {
                panic!("{what}: {change:?}")
            };
            assert_eq!(event.name, "retrying", "{what}");
            assert!(
                field(event, "kind").is_some() && field(event, "error").is_some(),
                "{what}"
            );
        }
        Some(Write::End { state, patch }) => {
            assert_eq!(change.next, Next::Over, "{what}");
            assert!(flight.closing, "{what}");
            let ends: Vec<_> = patch.events.iter().filter(|event| is_end(event)).collect();
            let [end] = ends[..] else {
                panic!("{what}: ends {ends:?}")
            };
            let name = match state {
                EndState::Done => "done",
                EndState::Dead => "failed",
                EndState::Cancelled => "cancelled",
            };
            assert_eq!(end.name, name, "{what}");
            assert_eq!(
                patch.events.last().map(|event| event.name),
                Some(name),
                "{what}: it is last"
            );
            assert_eq!(
                field(end, "charged"),
                Some(flight.charged.as_str()),
                "{what}"
            );
            assert_eq!(end.since, Some(flight.queued_at), "{what}");
            assert_eq!(
                field(end, "kind").is_some(),
                *state != EndState::Done,
                "{what}"
            );
            if *state == EndState::Done {
                assert_eq!(flight.charged, Charged::Yes, "{what}: a result is paid");
            } else if before.target && before.phase != Phase::Telling {
                let kind = flight.failure.as_ref().map(|(kind, _)| *kind);
                assert_eq!(
                    kind,
                    Some(Kind::ChatUnreachable),
                    "{what}: ended without being told"
                );
            }
        }
    }
    assert!(
        !format!("{change:?}").contains("secret"),
        "{what}: a prompt got out"
    );
}

fn is_end(event: &Event) -> bool {
    matches!(event.name, "done" | "failed" | "cancelled")
}

/// Every state that one decision may find, as far as decisions look at it.
fn states() -> Vec<(String, Box<dyn Fn() -> Flight>)> {
    let mut all: Vec<(String, Box<dyn Fn() -> Flight>)> = Vec::new();
    let wishes = [
        None,
        cancelling(Kind::Timeout, None),
        cancelling(Kind::Cancelled, None),
        cancelling(Kind::Timeout, Some(9000)),
        cancelling(Kind::Cancelled, Some(-100_000)),
    ];
    for phase in [
        Phase::Submitting,
        Phase::Polling,
        Phase::Collecting,
        Phase::Delivering,
        Phase::Telling,
    ] {
        for (attempt, max) in [(0, 1), (0, 3), (1, 3), (2, 3), (1, 1), (3, 3)] {
            let submitting = phase == Phase::Submitting;
            if (submitting && attempt == max) || (!submitting && attempt == 0) {
                continue;
            }
            for bits in 0..64_u32 {
                let [target, repay, direct, doubt, charged, tired] =
                    [0, 1, 2, 3, 4, 5].map(|bit| bits >> bit & 1 == 1);
                for (number, wish) in wishes.into_iter().enumerate() {
                    let working = matches!(phase, Phase::Polling | Phase::Collecting);
                    if (wish.is_some() && !working) || (direct && phase != Phase::Submitting) {
                        continue;
                    }
                    let name = format!("{phase:?} {attempt}/{max} bits {bits:06b} wish {number}");
                    all.push((
                        name,
                        Box::new(move || {
                            let mut flight = flight(phase);
                            (flight.attempt, flight.max_attempts) = (attempt, max);
                            flight.repay = repay;
                            flight.cancelling = wish;
                            if !target {
                                flight.target = None;
                            }
                            if direct {
                                flight.via = Via::Direct;
                            }
                            if doubt {
                                flight.doubt = Doubt::Submit;
                            }
                            if charged {
                                flight.charged = Charged::Unknown;
                            }
                            if tired {
                                flight.step_tries = BAD_ANSWERS + 1; // odd: a cancel has just failed
                                flight.missing = Some((2, at(-20_000).now));
                                flight.running_at = Some(at(-700_000).now);
                            }
                            if phase == Phase::Delivering {
                                flight.charged = Charged::Yes;
                            }
                            if phase == Phase::Telling {
                                flight.failure = Some((Kind::Timeout, "why".to_owned()));
                            }
                            flight
                        }),
                    ));
                }
            }
        }
    }
    all
}

#[test]
fn every_state_with_every_answer_is_lawful() {
    let mut decisions = 0;
    for (name, state) in states() {
        for answer in answers(&state()) {
            let mut flight = state();
            let before = Before::of(&flight);
            let what = format!("{name}, {answer:?}");
            let change = decide(&mut flight, answer, at(10_000));
            assert_lawful(&before, &flight, &change, &what);
            decisions += 1;
        }
    }
    assert!(decisions > 50_000, "{decisions}");
}

/// What a claim makes of the record that `later` wrote.
fn claimed_again(old: &Flight, change: &Change) -> Flight {
    let mut flight = flight(Phase::Submitting);
    flight.attempt = set(change, "attempt").unwrap().parse().unwrap();
    flight.max_attempts = old.max_attempts;
    flight.tries = set(change, "tries").unwrap().parse().unwrap();
    flight.charged = Charged::parse(set(change, "charged").unwrap()).unwrap();
    flight.units = set(change, "units").map(str::to_owned);
    flight.tried = set(change, "tried").map_or(old.tried.clone(), str::to_owned);
    flight.doubt = Doubt::parse(set(change, "doubt").unwrap_or_default());
    (flight.repay, flight.via) = (old.repay, old.via);
    if old.target.is_none() {
        flight.target = None;
    }
    flight
}

/// Whole lives with random answers: each ends, once, and pays no more often than it may.
#[test]
fn every_life_ends_whatever_is_answered() {
    let seed = 7;
    let mut random = fastrand::Rng::with_seed(seed);
    for life in 0..3000 {
        let mut flight = flight(Phase::Submitting);
        flight.max_attempts = random.u32(1..=4);
        flight.repay = random.bool();
        if random.bool() {
            flight.target = None;
        }
        if random.u8(..) < 30 {
            flight.via = Via::Direct;
        }
        let (mut now, mut accepted, mut trail) = (0_i64, 0, Vec::new());
        loop {
            let what = format!("seed {seed}, life {life}: {trail:?}");
            assert!(trail.len() < 2000, "{what}: never ends");
            let moment = Moment {
                random: random.f64(),
                ..at(now)
            };
            let early = match flight.phase {
                Phase::Submitting => before_submit(&mut flight, moment),
                _ => None,
            };
            let before = Before::of(&flight);
            let change = match early {
                Some(change) => change,
                None => {
                    if flight.phase == Phase::Submitting && flight.doubt == Doubt::Submit {
                        before_resubmit(&mut flight);
                    }
                    let mut all = answers(&flight);
                    let answer = all.swap_remove(random.usize(..all.len()));
                    trail.push(format!("{answer:?}").chars().take(40).collect::<String>());
                    accepted += u32::from(matches!(
                        answer,
                        Answer::Submitted(Submitted::Accepted(_) | Submitted::Unknown(_))
                            | Answer::Directed(Directed::Output(..) | Directed::Unknown(_), _)
                    ));
                    let change = decide(&mut flight, answer, moment);
                    assert_lawful(&before, &flight, &change, &what);
                    change
                }
            };
            now += match (&change.write, change.next) {
                (Some(Write::End { .. }), _) => break,
                (Some(Write::Later { wait, .. }), _) => {
                    flight = claimed_again(&flight, &change);
                    wait.as_millis() as i64
                }
                (_, Next::In(wait)) => wait.as_millis() as i64,
                (_, Next::Now) => 1,
                (_, Next::Transfer | Next::Over) => panic!("{what}: {change:?}"),
            };
        }
        assert!(accepted <= flight.max_attempts, "life {life}: {trail:?}");
    }
}
