//! The submit is where money is spent: what keeps a job from it, which answers are an attempt, and when the
//! next one may follow. A direct call stands here too: to the bill it is a submit, whatever else it brings.

use super::*;
use crate::job::pace::Pace;
use std::sync::Arc;

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
fn files_that_cannot_be_brought_to_fal_cost_nothing_and_what_passes_is_waited_for() {
    for remedy in [Remedy::RetryStep, Remedy::TryAnew] {
        let mut waits = flight(Phase::Submitting);
        let away = failed(Kind::Unavailable, remedy, Charged::Unknown);
        let change = inputs_failed(&mut waits, away, at(10));
        assert!(matches!(change.next, Next::In(_)), "{change:?}");
        assert_eq!((change.write, waits.phase), (None, Phase::Submitting));
        assert_eq!((waits.attempt, waits.charged), (0, Charged::No));
    }
    // A file that is perhaps gone is asked for again by the one who counts how often it was.
    let mut missing = flight(Phase::Submitting);
    missing.tries = 3;
    let failure = failed(Kind::InvalidInput, Remedy::RetryStep, Charged::No);
    let change = inputs_failed(&mut missing, failure, at(10));
    assert!(matches!(change.next, Next::In(_)), "{change:?}");
    // Only the operator ends these: the job is let go meanwhile.
    for kind in [Kind::NoBalance, Kind::Auth] {
        let mut rests = flight(Phase::Submitting);
        let failure = failed(kind, Remedy::RetryStep, Charged::No);
        let change = inputs_failed(&mut rests, failure, at(10));
        let Some(Write::Later { wait, .. }) = &change.write else {
            panic!("{change:?}")
        };
        assert!(*wait >= Duration::from_secs(30), "{kind:?}: {wait:?}");
        assert_eq!((rests.attempt, rests.charged), (0, Charged::No));
    }
    let mut gone = flight(Phase::Submitting);
    let failure = failed(Kind::InvalidInput, Remedy::Final, Charged::No);
    let change = inputs_failed(&mut gone, failure, at(10));
    assert_telling(&gone, &change, Kind::InvalidInput, Charged::No);
}

#[test]
fn whose_files_wait_for_longer_than_a_moment_lets_go_of_its_place() {
    let away = || failed(Kind::Unavailable, Remedy::RetryStep, Charged::No);
    let mut waits = flight(Phase::Submitting);
    let mut steps = 0;
    let (wait, patch) = loop {
        let change = inputs_failed(&mut waits, away(), at(10));
        match (change.next, change.write) {
            (Next::In(wait), None) => assert!(wait <= Duration::from_secs(1)),
            (Next::Over, Some(Write::Later { wait, patch, .. })) => break (wait, patch),
            other => panic!("{other:?}"),
        }
        steps += 1;
        assert!(steps < 5);
    };
    assert!(wait >= Duration::from_secs(1));
    assert_eq!((waits.attempt, waits.charged), (0, Charged::No));
    let names: Vec<&str> = patch.events.iter().map(|event| event.name).collect();
    assert_eq!(names, ["retrying"]);
    // Its next owner gives it no second time before it lets go.
    let mut again = flight(Phase::Submitting);
    again.tries = waits.tries;
    let change = inputs_failed(&mut again, away(), at(10));
    assert!(
        matches!(change.write, Some(Write::Later { .. })),
        "{change:?}"
    );
    // So does one that is told when to come, and not all of them come then.
    let waits = [0.0, 0.9].map(|random| {
        let mut told = flight(Phase::Submitting);
        let failure = Failure {
            retry_after: Some(Duration::from_secs(7)),
            ..away()
        };
        let moment = Moment { random, ..at(10) };
        match inputs_failed(&mut told, failure, moment).write {
            Some(Write::Later { wait, .. }) => wait,
            other => panic!("{other:?}"),
        }
    });
    assert!(waits[0] >= Duration::from_secs(7) && waits[1] > waits[0]);
    // But its expiry is told in time, however long it is told to wait.
    let mut ends = flight(Phase::Submitting);
    ends.expires_at = Some(at(5000).now);
    let failure = Failure {
        retry_after: Some(Duration::from_secs(3600)),
        ..away()
    };
    let waits = match inputs_failed(&mut ends, failure, at(4000)).write {
        Some(Write::Later { wait, .. }) => wait,
        other => panic!("{other:?}"),
    };
    assert_eq!(waits, Duration::from_millis(1001));
    // Nobody wants it any more.
    let mut unwanted = flight(Phase::Submitting);
    (unwanted.tries, unwanted.cancel_asked) = (1, true);
    let change = inputs_failed(&mut unwanted, away(), at(10));
    assert_telling(&unwanted, &change, Kind::Cancelled, Charged::No);
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
fn an_accepted_submit_leaves_nothing_of_what_came_before_it() {
    let mut flight = flight(Phase::Submitting);
    // Of a request before this one, and of files that took several tries.
    (flight.step_tries, flight.running_at) = (3, Some(at(5).now));
    let answer = Submitted::Accepted(Accepted {
        request: RequestId("r".into()),
        path: Some("/p".to_owned()),
        position: None,
    });
    after_submit(&mut flight, answer, &POLICY, at(10));
    assert_eq!((flight.step_tries, flight.running_at), (0, None));
    assert_eq!(flight.path.as_deref(), Some("/p"), "where it is looked for");
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
fn while_a_new_submit_is_waited_for_the_record_says_why_and_nothing_of_the_request_before() {
    let mut flight = flight(Phase::Submitting);
    let answer = Submitted::Refused(failed(Kind::Unavailable, Remedy::RetryStep, Charged::No));
    let change = after_submit(&mut flight, answer, &POLICY, at(10));
    let why = ["kind", "error"].map(|name| set(&change, name));
    assert_eq!(why, ["unavailable", "why"].map(Some));
    // The next request is not to be taken for one of these.
    for name in [
        "request_id",
        "path",
        "result",
        "running_at",
        "submitted_at",
        "completed_at",
        "rung",
    ] {
        assert!(deletes(&change, name), "{name}");
    }
    assert_eq!(field(&patch(&change).events[0], "charged"), Some("no"));
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
fn repeats_of_unknown_submits_come_further_and_further_apart() {
    let least = |attempt| {
        let mut flight = flight(Phase::Submitting);
        (flight.attempt, flight.max_attempts) = (attempt, 9);
        let unknown = failed(Kind::Unavailable, Remedy::TryAnew, Charged::Unknown);
        let moment = Moment {
            random: 0.0,
            ..at(10)
        };
        let change = after_submit(&mut flight, Submitted::Unknown(unknown), &POLICY, moment);
        let Some(Write::Later { wait, .. }) = change.write else {
            panic!("{:?}", change.write);
        };
        wait.as_secs()
    };
    assert_eq!([0, 1, 2, 7].map(least), [2, 16, 60, 60]);
}

#[test]
fn of_a_submit_of_unknown_outcome_nobody_may_say_what_it_cost() {
    for said in [Charged::No, Charged::Yes] {
        let mut flight = flight(Phase::Submitting);
        let answer = Submitted::Unknown(failed(Kind::Unavailable, Remedy::TryAnew, said));
        let change = after_submit(&mut flight, answer, &POLICY, at(10));
        assert_eq!(set(&change, "charged"), Some("unknown"), "{said:?}");
    }
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
            Via::Direct => after_direct(
                &mut last,
                Directed::Unknown(unknown, None),
                &one_file(),
                at(10),
            ),
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
    assert_eq!(set(&change, "phase"), Some("submitting"));
    assert_eq!((change.say, change.next), (Say::SubmittedAgain, Next::Now));
}

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
        Directed::Failed(failure, None),
        &one_file(),
        at(2000),
    );
    assert!(matches!(change.write, Some(Write::Later { .. })));
    assert_eq!(refused.attempt, 0);

    let mut anew = direct();
    let failure = || failed(Kind::Unavailable, Remedy::TryAnew, Charged::No);
    let change = after_direct(
        &mut anew,
        Directed::Failed(failure(), None),
        &one_file(),
        at(2000),
    );
    assert!(matches!(change.write, Some(Write::Later { .. })));
    assert_eq!(anew.attempt, 1);
    let change = after_direct(
        &mut anew,
        Directed::Failed(failure(), None),
        &one_file(),
        at(2000),
    );
    assert_telling(&anew, &change, Kind::Unavailable, Charged::No);
    assert_eq!(anew.attempt, 2);
}

#[test]
fn a_direct_call_that_would_not_be_answered_is_let_go_unpaid_for_so_long_at_least() {
    let mut call = flight(Phase::Submitting);
    call.via = Via::Direct;
    let change = direct_must_wait(&mut call, Duration::from_secs(40), at(2000));
    let Some(Write::Later { wait, .. }) = &change.write else {
        panic!("{change:?}");
    };
    assert!(*wait >= Duration::from_secs(40), "{wait:?}");
    assert_eq!((call.attempt, call.charged), (0, Charged::No));
    // A person who wants none of it does not wait with it.
    call.cancel_asked = true;
    let change = direct_must_wait(&mut call, Duration::from_secs(40), at(2000));
    assert_telling(&call, &change, Kind::Cancelled, Charged::No);
}

#[test]
fn a_direct_call_that_failed_for_good_is_an_attempt_only_where_it_was_run() {
    for (charged, attempt) in [(Charged::No, 0), (Charged::Unknown, 1), (Charged::Yes, 1)] {
        let mut call = flight(Phase::Submitting);
        call.via = Via::Direct;
        let answer = Directed::Failed(failed(Kind::ContentPolicy, Remedy::Final, charged), None);
        let change = after_direct(&mut call, answer, &FoundSummary::default(), at(2000));
        assert_telling(&call, &change, Kind::ContentPolicy, charged);
        assert_eq!(call.attempt, attempt, "{charged:?}");
    }
}

#[test]
fn a_direct_call_brings_to_the_record_what_no_submit_wrote_there() {
    let mut call = flight(Phase::Submitting);
    (call.via, call.submitted_at) = (Via::Direct, Some(at(500).now));
    let answer = Directed::Output(output(None), Some(RequestId("d".into())));
    let change = after_direct(&mut call, answer, &one_file(), at(2000));
    let since = at(500).now.0.to_string();
    assert_eq!(set(&change, "submitted_at"), Some(since.as_str()));
    // Redis's own stamp of a submit is not written over.
    let mut queued = flight(Phase::Collecting);
    let answer = Collected::Output(output(None));
    let change = after_collect(&mut queued, answer, &one_file(), &POLICY, at(2000));
    assert_eq!(set(&change, "submitted_at"), None);
}

#[test]
fn a_direct_call_that_failed_is_named_in_its_record_and_its_last_event() {
    let id = || Some(RequestId("d".into()));
    let none = FoundSummary::default();
    let failure = || failed(Kind::ContentPolicy, Remedy::Final, Charged::Yes);
    let lost = failed(Kind::Unavailable, Remedy::TryAnew, Charged::Unknown);
    for answer in [
        Directed::Failed(failure(), id()),
        Directed::Unknown(lost, id()),
    ] {
        let mut told = flight(Phase::Submitting);
        told.via = Via::Direct;
        let change = after_direct(&mut told, answer.clone(), &none, at(2000));
        assert_eq!(set(&change, "request_id"), Some("d"));
        let mut alone = flight(Phase::Submitting);
        (alone.via, alone.target) = (Via::Direct, None);
        let change = after_direct(&mut alone, answer, &none, at(2000));
        assert_eq!(end_state(&change), Some(EndState::Dead));
        assert_eq!(set(&change, "request_id"), Some("d"));
        let event = patch(&change).events.last().unwrap();
        assert_eq!(field(event, "request_id"), Some("d"));
    }
    let mut anew = flight(Phase::Submitting);
    anew.via = Via::Direct;
    let failure = failed(Kind::Unavailable, Remedy::TryAnew, Charged::No);
    let change = after_direct(&mut anew, Directed::Failed(failure, id()), &none, at(2000));
    assert_eq!(set(&change, "tried"), Some("d"));
}
