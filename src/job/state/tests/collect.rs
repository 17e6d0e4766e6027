//! A result is recorded once, together with the intent to deliver it; and where there is none, fal is asked
//! again before anybody pays again.

use super::*;

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
fn a_result_settles_what_was_wished_and_tried_before_it_came() {
    let mut flight = flight(Phase::Collecting);
    (flight.cancel_asked, flight.step_tries) = (true, 3);
    let answer = Collected::Output(output(None));
    after_collect(&mut flight, answer, &one_file(), &POLICY, at(9000));
    assert_eq!((flight.cancel_asked, flight.step_tries), (false, 0));
    // What its cancel was for goes from the record too: a successor would go on to cancel.
    for chat in [true, false] {
        let mut flight = super::flight(Phase::Collecting);
        flight.cancelling = cancelling(Kind::Timeout, Some(5000));
        if !chat {
            flight.target = None;
        }
        let answer = Collected::Output(output(None));
        let change = after_collect(&mut flight, answer, &one_file(), &POLICY, at(9000));
        assert_eq!(flight.cancelling, None);
        for name in ["cancelling", "kind", "error"] {
            assert!(deletes(&change, name), "{name}, with a chat: {chat}");
        }
    }
}

#[test]
fn what_is_left_out_of_a_result_is_written_with_it_and_goes_with_it() {
    let mut flight = flight(Phase::Collecting);
    let answer = Collected::Output(output(None));
    let change = after_collect(&mut flight, answer, &one_file(), &POLICY, at(9000));
    assert_eq!(set(&change, "echoes"), None);
    let mut flight = super::flight(Phase::Collecting);
    flight.echoes = "[1]".to_owned();
    let answer = Collected::Output(output(None));
    let change = after_collect(&mut flight, answer, &one_file(), &POLICY, at(9000));
    assert_eq!(set(&change, "echoes"), Some("[1]"));
    assert!(flight.fields().contains(&("echoes", "[1]".to_owned())));
    let failed = failed(Kind::Unavailable, Remedy::TryAnew, Charged::Yes);
    let change = later(&mut flight, failed, None, at(9000));
    assert!(deletes(&change, "echoes") && deletes(&change, "result"));
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
fn without_a_chat_a_large_result_stands_in_the_record_the_only_place_where_a_bot_finds_it() {
    let mut flight = flight(Phase::Collecting);
    flight.target = None;
    let json = format!("{{\"text\":\"{}\"}}", "x".repeat(LARGE));
    let answer = Collected::Output(Output {
        json: json.clone(),
        units: None,
    });
    let change = after_collect(&mut flight, answer, &one_file(), &POLICY, at(9000));
    assert_eq!(end_state(&change), Some(EndState::Done));
    assert!(set(&change, "result") == Some(json.as_str()));
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
fn a_result_that_is_not_ready_though_it_was_said_to_be_is_asked_for_within_a_second() {
    let mut flight = flight(Phase::Collecting);
    for second in 2..300 {
        let none = FoundSummary::default();
        let now = at(second * 1000);
        let change = after_collect(&mut flight, Collected::NotYet, &none, &POLICY, now);
        let Next::In(wait) = change.next else {
            panic!("{change:?}")
        };
        let (least, most) = (Duration::from_millis(250), Duration::from_secs(1));
        assert!((least..=most).contains(&wait), "after {second} s: {wait:?}");
        assert_eq!((flight.phase, change.write), (Phase::Polling, None));
        flight.phase = Phase::Collecting;
    }
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

/// As fal says it with its request id, but without `detail`, type or units.
fn in_place(charged: Charged) -> Collected {
    Collected::Failed(failed(Kind::Unavailable, Remedy::RetryStep, charged))
}

#[test]
fn what_stands_in_place_of_a_result_that_the_status_called_failed_is_believed_at_the_third_time() {
    let none = FoundSummary::default();
    for (remedy, charged) in [
        (Remedy::Final, Charged::No),
        (Remedy::Final, Charged::Unknown),
        (Remedy::TryAnew, Charged::No),
    ] {
        let mut flight = flight(Phase::Polling);
        let kind = Kind::Timeout;
        after_poll(
            &mut flight,
            Polled::Broke { kind, remedy },
            1,
            &POLICY,
            at(5000),
        );
        assert_eq!(flight.phase, Phase::Collecting);
        for _ in 0..2 {
            let change = after_collect(&mut flight, in_place(charged), &none, &POLICY, at(6000));
            assert!(change.write.is_none() && matches!(change.next, Next::In(_)));
        }
        let change = after_collect(&mut flight, in_place(charged), &none, &POLICY, at(7000));
        match remedy {
            Remedy::TryAnew => assert!(matches!(change.write, Some(Write::Later { .. }))),
            _ => assert_telling(&flight, &change, kind, charged),
        }
        assert_eq!((flight.charged, flight.attempt), (charged, 1));
    }
}

#[test]
fn what_stands_in_place_of_a_result_is_asked_again_for_an_hour_and_is_then_the_end() {
    let none = FoundSummary::default();
    for charged in [Charged::No, Charged::Unknown] {
        let mut flight = flight(Phase::Polling);
        flight.repay = true; // nothing was lost
        after_poll(&mut flight, Polled::Completed, 1, &POLICY, at(5000));
        for ms in [5000, 9000, 60_000, 3_604_999] {
            let change = after_collect(&mut flight, in_place(charged), &none, &POLICY, at(ms));
            assert!(change.write.is_none(), "{ms}");
        }
        let change = after_collect(
            &mut flight,
            in_place(charged),
            &none,
            &POLICY,
            at(3_605_000),
        );
        // Nobody said that it failed.
        assert_telling(&flight, &change, Kind::Unavailable, Charged::Unknown);
    }
}

#[test]
fn fal_forgets_what_stood_in_place_of_a_result_and_no_result_was_lost() {
    let none = FoundSummary::default();
    let broke = Some((Kind::ContentPolicy, Remedy::Final));
    for (times, broke, repay, kind, charged) in [
        (3, None, false, Kind::Unavailable, Charged::Unknown),
        (3, broke, false, Kind::Unavailable, Charged::No),
        (3, broke, true, Kind::Unavailable, Charged::No),
        // The status's own word, of which nothing more is to be read.
        (2, broke, true, Kind::ContentPolicy, Charged::Unknown),
        (0, broke, true, Kind::ContentPolicy, Charged::Unknown),
        // A hiccup, and then the result was lost.
        (2, None, false, Kind::Unavailable, Charged::Yes),
    ] {
        let mut flight = flight(Phase::Collecting);
        flight.repay = repay;
        for _ in 0..times {
            after_collect(&mut flight, in_place(Charged::No), &none, &POLICY, at(4000));
        }
        flight.broke = broke;
        for ms in [9000, 17_000] {
            after_collect(&mut flight, Collected::Missing, &none, &POLICY, at(ms));
        }
        let change = after_collect(&mut flight, Collected::Missing, &none, &POLICY, at(25_000));
        assert_telling(&flight, &change, kind, charged);
    }
    // Nobody said that it failed, and whoever asked for it wants it again.
    let mut again = flight(Phase::Collecting);
    again.repay = true;
    for _ in 0..3 {
        after_collect(&mut again, in_place(Charged::No), &none, &POLICY, at(4000));
    }
    for ms in [9000, 17_000] {
        after_collect(&mut again, Collected::Missing, &none, &POLICY, at(ms));
    }
    let change = after_collect(&mut again, Collected::Missing, &none, &POLICY, at(25_000));
    assert!(
        matches!(change.write, Some(Write::Later { .. })),
        "{change:?}"
    );
}

#[test]
fn neither_silence_nor_a_limit_nor_a_slow_line_ever_is_what_stands_in_place_of_a_result() {
    let none = FoundSummary::default();
    let silent = Failure {
        spoke: false,
        ..again()
    };
    for answer in [
        silent,
        failed(Kind::RateLimited, Remedy::RetryStep, Charged::Unknown),
        failed(Kind::Auth, Remedy::RetryStep, Charged::Unknown),
        failed(Kind::Unavailable, Remedy::RetryStep, Charged::Yes),
    ] {
        let mut flight = flight(Phase::Collecting);
        flight.broke = Some((Kind::Unavailable, Remedy::Final));
        for hour in 0..5 {
            let (answer, now) = (Collected::Failed(answer.clone()), at(hour * 3_600_000));
            let change = after_collect(&mut flight, answer, &none, &POLICY, now);
            assert_eq!(change.write, None);
        }
        assert_eq!(flight.in_place, None);
    }
}

#[test]
fn a_result_that_nobody_can_read_ends_its_job_once_fal_keeps_none_for_so_long() {
    let looks = |ms: i64, charged: Charged| {
        let mut flight = flight(Phase::Collecting);
        for _ in 0..20 {
            let none = FoundSummary::default();
            let answer = failed(Kind::Unavailable, Remedy::RetryStep, charged);
            let answer = Collected::Failed(answer);
            let change = after_collect(&mut flight, answer, &none, &POLICY, at(ms));
            if change.write.is_some() {
                return Some((flight, change));
            }
        }
        None
    };
    for (said, charged) in [
        (Charged::Unknown, Charged::Unknown),
        // fal's own 500 in its place: nobody said that the request failed, so a good result may have stood behind it.
        (Charged::No, Charged::Unknown),
        // One that had begun to come.
        (Charged::Yes, Charged::Yes),
    ] {
        assert!(looks(7_801_000, said).is_none(), "{said:?}");
        let (flight, change) = looks(7_802_000, said).expect("an end");
        assert_telling(&flight, &change, Kind::Unavailable, charged);
    }
}
