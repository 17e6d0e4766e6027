//! A look at a request that is paid already: how long it may take, and how much it needs until the request
//! is believed lost. Silence of fal is never enough; and what is lost is paid again only where that was allowed.

use super::*;
use crate::job::pace::Paces;

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
fn how_long_a_generation_took_is_learnt_unless_it_was_told_to_stop() {
    for wish in [None, cancelling(Kind::Timeout, Some(1600))] {
        let mut flight = flight(Phase::Submitting);
        flight.watch = Paces::default().begin("fal-ai/flux/dev", at(1000).now);
        after_submit(&mut flight, accepted("r"), &POLICY, at(1000));
        after_poll(&mut flight, Polled::InProgress, 37, &POLICY, at(1500));
        assert_eq!(flight.watch.in_flight, 37, "the more, the rarer the looks");
        flight.cancelling = wish;
        after_poll(&mut flight, Polled::Completed, 37, &POLICY, at(1700));
        assert_eq!(flight.watch.took.is_some(), wish.is_none(), "{wish:?}");
    }
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
fn what_ran_and_was_put_back_into_the_queue_is_not_ended_by_the_limit_of_those_that_never_ran() {
    let mut back = flight(Phase::Polling);
    after_poll(&mut back, Polled::InProgress, 1, &POLICY, at(3_500_000));
    let in_queue = Polled::InQueue { position: None };
    after_poll(&mut back, in_queue, 1, &POLICY, at(1000 + 3_600_001));
    assert_eq!(back.cancelling, None);
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
fn a_failed_look_repeats_the_step_with_growing_waits_and_says_nothing_about_the_job() {
    let mut flight = flight(Phase::Polling);
    let mut waits = Vec::new();
    for _ in 0..12 {
        let moment = Moment {
            random: 0.999,
            ..at(7_000_000)
        };
        let change = after_poll(&mut flight, Polled::Failed(silence()), 1, &POLICY, moment);
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
    asked.retry_after = Some(Duration::from_secs(47));
    let change = after_poll(&mut flight, Polled::Failed(asked), 1, &POLICY, at(0));
    assert_eq!(change.next, Next::In(Duration::from_secs(47)));
}

/// A job is not to hang, and hold its user's slot, for as long as the trouble lasts.
#[test]
fn what_fal_says_nothing_of_for_longer_than_it_may_take_is_told_to_stop() {
    let looks = |spoke: bool, ms: i64| {
        let mut flight = flight(Phase::Polling);
        for _ in 0..20 {
            let answer = Polled::Failed(if spoke { again() } else { silence() });
            let change = after_poll(&mut flight, answer, 1, &POLICY, at(ms));
            if flight.cancelling.is_some() {
                return Some(change);
            }
            assert_eq!(change.write, None);
        }
        None
    };
    // Submitted at one second; an hour in fal's queue and ten minutes of running are allowed.
    assert_eq!(looks(true, 4_201_000), None);
    let change = looks(true, 4_202_000).expect("told to stop");
    assert_eq!(set(&change, "kind"), Some("timeout"));
    assert!(set(&change, "error").is_some_and(|text| text.ends_with("became of it: why")));
    // Where nobody spoke for fal its result may lie there for another hour.
    assert_eq!(looks(false, 7_801_000), None);
    assert!(looks(false, 7_802_000).is_some());
}

/// Answers may name a form of the URLs that fal itself does not serve.
#[test]
fn urls_that_fal_does_not_know_are_left_for_the_form_that_it_always_knows() {
    let named = |phase| {
        let mut named = flight(phase);
        named.path = Some("/fal-ai/flux/dev/requests/r1".to_owned());
        named
    };
    let none = FoundSummary::default();
    for answer in [Polled::Missing, Polled::Failed(again())] {
        let mut polls = named(Phase::Polling);
        let change = after_poll(&mut polls, answer, 1, &POLICY, at(2000));
        assert_eq!((&polls.path, change), (&None, Change::quiet(Next::Now)));
        assert_eq!((polls.missing, polls.step_tries), (None, 0), "not counted");
    }
    for answer in [Collected::Missing, Collected::Failed(again())] {
        let mut collects = named(Phase::Collecting);
        let change = after_collect(&mut collects, answer, &none, &POLICY, at(2000));
        assert_eq!((&collects.path, change), (&None, Change::quiet(Next::Now)));
    }
    // Silence says nothing about a path.
    let mut away = named(Phase::Polling);
    after_poll(&mut away, Polled::Failed(silence()), 1, &POLICY, at(2000));
    assert!(away.path.is_some());
}

/// fal forgets a large result six minutes after its end.
#[test]
fn no_look_at_what_is_paid_is_put_off_for_longer_than_a_minute() {
    let asked = || Failure {
        retry_after: Some(Duration::from_secs(3600)),
        ..again()
    };
    let minute = Next::In(Duration::from_secs(60));
    let mut polls = flight(Phase::Polling);
    let change = after_poll(&mut polls, Polled::Failed(asked()), 1, &POLICY, at(0));
    assert_eq!(change.next, minute);
    let mut cancels = flight(Phase::Polling);
    cancels.cancelling = cancelling(Kind::Timeout, None);
    let change = after_cancel(&mut cancels, Cancelled::Failed(asked()), at(0));
    assert_eq!(change.next, minute);
    let mut collects = flight(Phase::Collecting);
    let (answer, none) = (Collected::Failed(asked()), FoundSummary::default());
    let change = after_collect(&mut collects, answer, &none, &POLICY, at(0));
    assert_eq!(change.next, minute);
    // What is not paid yet waits as long as it was told to.
    let mut brings = flight(Phase::Submitting);
    let change = inputs_failed(&mut brings, asked(), at(0));
    let hour = Duration::from_secs(3600);
    assert!(matches!(change.write, Some(Write::Later { wait, .. }) if wait >= hour));
}

#[test]
fn no_luck_makes_a_failed_look_a_hot_loop() {
    let mut flight = flight(Phase::Polling);
    let unlucky = Moment {
        random: 0.0,
        ..at(2000)
    };
    let change = after_poll(&mut flight, Polled::Failed(again()), 1, &POLICY, unlucky);
    assert!(matches!(change.next, Next::In(wait) if wait >= Duration::from_millis(100)));
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
