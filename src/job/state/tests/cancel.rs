//! A job is to end before it is done, at somebody's wish or at its time limit. fal's word decides what that
//! costs and whether there is a result after all; so each test walks a wish through what fal may say to it.

use super::*;

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
    seen_in_queue(&mut gone, true);
    let change = after_cancel(&mut gone, Cancelled::Removed, at(5100));
    assert_telling(&gone, &change, Kind::Timeout, Charged::No);
    assert_eq!(set(&change, "error"), Some("not finished after 5 s"));

    let mut late = wish();
    let change = after_cancel(&mut late, Cancelled::AlreadyCompleted, at(5100));
    assert_eq!((late.phase, change.next), (Phase::Collecting, Next::Now));

    let mut asked = wish();
    let change = after_cancel(&mut asked, Cancelled::Requested, at(5100));
    assert_eq!((asked.phase, change.write), (Phase::Polling, None));
    assert_eq!(asked.cancelling.unwrap().asked_at, Some(at(5100).now));
    assert!(!cancel_is_due(&asked));
}

/// What runs goes on, and is billed, whatever the cancel's answer claims.
#[test]
fn only_what_waited_in_fals_queue_is_free_because_it_was_removed() {
    let mut runs = flight(Phase::Polling);
    begin_cancel(&mut runs, Kind::Cancelled, "why", at(5000));
    let change = after_cancel(&mut runs, Cancelled::Removed, at(5100));
    assert_eq!((runs.phase, change.write), (Phase::Polling, None));
    assert_eq!(runs.cancelling.unwrap().asked_at, Some(at(5100).now));
    let change = after_poll(&mut runs, Polled::Missing, 1, &POLICY, at(5600));
    assert_telling(&runs, &change, Kind::Cancelled, Charged::Unknown);
}

/// So soon after its submit fal may not know it yet.
#[test]
fn a_request_unknown_to_its_cancel_is_looked_at_before_that_is_believed() {
    let mut young = flight(Phase::Polling);
    begin_cancel(&mut young, Kind::Cancelled, "why", at(5000));
    let change = after_cancel(&mut young, Cancelled::Missing, at(5100));
    assert_eq!((change.write, change.next), (None, Next::Now));
    assert!(!cancel_is_due(&young), "first a look");
    // It is there: told again, after a moment.
    let change = after_poll(&mut young, Polled::InProgress, 1, &POLICY, at(5200));
    assert_eq!(change.next, Next::In(Duration::from_secs(2)));
    assert!(cancel_is_due(&young));
    let mut lost = flight(Phase::Polling);
    begin_cancel(&mut lost, Kind::Cancelled, "why", at(5000));
    let mut ended = None;
    for ms in [5_000, 12_500, 20_000] {
        assert!(ended.is_none() && cancel_is_due(&lost), "{ms}");
        let mut change = after_cancel(&mut lost, Cancelled::Missing, at(ms));
        if change.write.is_none() {
            change = after_poll(&mut lost, Polled::Missing, 1, &POLICY, at(ms));
        }
        ended = change.write.is_some().then_some(change);
    }
    let change = ended.expect("believed by now");
    assert_telling(&lost, &change, Kind::Cancelled, Charged::Unknown);
    // Nor is a cancel that fal does not know asked for ever, though the status says that the request is there.
    let mut runs = flight(Phase::Polling);
    begin_cancel(&mut runs, Kind::Cancelled, "why", at(5000));
    for ms in [5_000, 12_500] {
        after_cancel(&mut runs, Cancelled::Missing, at(ms));
        let change = after_poll(&mut runs, Polled::InProgress, 1, &POLICY, at(ms));
        assert_eq!(change.write, None);
    }
    let change = after_cancel(&mut runs, Cancelled::Missing, at(20_000));
    assert_telling(&runs, &change, Kind::Cancelled, Charged::Unknown);
    // Nor do three in a row count, or more, that came within seconds of the submit.
    let mut soon = flight(Phase::Polling);
    begin_cancel(&mut soon, Kind::Cancelled, "why", at(5000));
    for ms in [5_000, 7_500, 10_000, 19_999] {
        assert!(cancel_is_due(&soon), "{ms}");
        let change = after_cancel(&mut soon, Cancelled::Missing, at(ms));
        assert_eq!((change.write, change.next), (None, Next::Now), "{ms}");
        assert_eq!(soon.phase, Phase::Polling, "{ms}");
        let change = after_poll(&mut soon, Polled::InProgress, 1, &POLICY, at(ms));
        assert_eq!(change.write, None, "{ms}");
    }
    let change = after_cancel(&mut soon, Cancelled::Missing, at(20_000));
    assert_telling(&soon, &change, Kind::Cancelled, Charged::Unknown);
}

#[test]
fn a_request_whose_looks_fal_refuses_can_be_cancelled() {
    let refused = || Polled::Failed(again());
    let mut asked = flight(Phase::Polling);
    asked.cancel_asked = true;
    let change = after_poll(&mut asked, refused(), 1, &POLICY, at(2000));
    assert_eq!(set(&change, "kind"), Some("cancelled"));
    // Its cancel is refused as well: it is waited for a minute, and no longer.
    let mut ms = 2000;
    let change = loop {
        assert!(ms < 90_000, "for ever");
        let change = match cancel_is_due(&asked) {
            true => after_cancel(&mut asked, Cancelled::Failed(again()), at(ms)),
            false => after_poll(&mut asked, refused(), 1, &POLICY, at(ms)),
        };
        match change.next {
            Next::In(wait) if change.write.is_none() => ms += wait.as_millis() as i64,
            _ => break change,
        }
    };
    assert!(ms > 60_000, "{ms}");
    assert_telling(&asked, &change, Kind::Cancelled, Charged::Unknown);
    // While fal is away nobody knows what a cancel would do.
    let mut away = flight(Phase::Polling);
    away.cancel_asked = true;
    let change = after_poll(&mut away, Polled::Failed(silence()), 1, &POLICY, at(2000));
    assert_eq!((change.write, away.cancelling), (None, None));
}

#[test]
fn a_wish_begins_with_its_first_word_to_fal_whatever_failed_before() {
    let mut flight = flight(Phase::Polling);
    flight.step_tries = 3;
    let change = begin_cancel(&mut flight, Kind::Timeout, "too long", at(5000));
    assert!(cancel_is_due(&flight), "not only after another look");
    assert_eq!(set(&change, "phase"), Some("polling"));
    // Then the looks, too, begin anew.
    flight.step_tries = 4;
    after_cancel(&mut flight, Cancelled::Requested, at(5100));
    assert_eq!(flight.step_tries, 0);
}

#[test]
fn what_had_ended_before_it_was_cancelled_is_not_told_to_stop_again() {
    let mut late = flight(Phase::Polling);
    begin_cancel(&mut late, Kind::Timeout, "too long", at(5000));
    after_cancel(&mut late, Cancelled::AlreadyCompleted, at(5100));
    let none = FoundSummary::default();
    after_collect(&mut late, Collected::NotYet, &none, &POLICY, at(5200));
    assert!(!cancel_is_due(&late));
}

#[test]
fn a_cancel_ends_a_job_whose_result_cannot_be_read_but_not_at_the_first_hiccup() {
    let none = FoundSummary::default();
    let limited = || {
        Collected::Failed(Failure {
            retry_after: Some(Duration::from_secs(60)),
            ..failed(Kind::RateLimited, Remedy::RetryStep, Charged::Unknown)
        })
    };
    let mut asked = flight(Phase::Collecting);
    asked.cancel_asked = true;
    for tries in 1..=3 {
        let change = after_collect(&mut asked, limited(), &none, &POLICY, at(2000));
        assert_eq!((change.write, asked.step_tries), (None, tries));
        assert!(matches!(change.next, Next::In(wait) if wait < Duration::from_secs(5)));
    }
    let change = after_collect(&mut asked, limited(), &none, &POLICY, at(2000));
    assert_telling(&asked, &change, Kind::Cancelled, Charged::Unknown);
    assert_eq!(set(&change, "error"), Some("cancelled by request"));
    // That a result had begun to come is known, by this answer or an earlier one.
    let mut slow = flight(Phase::Collecting);
    (slow.cancel_asked, slow.step_tries) = (true, 3);
    let broken_off = failed(Kind::Unavailable, Remedy::RetryStep, Charged::Yes);
    let answer = Collected::Failed(broken_off);
    let change = after_collect(&mut slow, answer, &none, &POLICY, at(2000));
    assert_telling(&slow, &change, Kind::Cancelled, Charged::Yes);
    // A time-out that fal knows of has its minute.
    let mut late = flight(Phase::Collecting);
    late.cancelling = cancelling(Kind::Timeout, Some(1000));
    late.step_tries = 9;
    let change = after_collect(&mut late, limited(), &none, &POLICY, at(50_000));
    assert_eq!(change.write, None);
    let change = after_collect(&mut late, limited(), &none, &POLICY, at(62_000));
    assert_telling(&late, &change, Kind::Timeout, Charged::Unknown);
    // Nobody asked: it is paid, so it is asked for on and on.
    let mut wanted = flight(Phase::Collecting);
    wanted.step_tries = 99;
    let change = after_collect(&mut wanted, limited(), &none, &POLICY, at(2000));
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
fn a_cancel_that_failed_may_be_heeded_later_when_the_request_runs() {
    for failed_cancel in [Cancelled::Failed(again()), Cancelled::Missing] {
        let mut flight = flight(Phase::Polling);
        flight.cancel_asked = true;
        let in_queue = Polled::InQueue { position: None };
        after_poll(&mut flight, in_queue, 1, &POLICY, at(2000));
        after_cancel(&mut flight, failed_cancel, at(2100));
        flight.phase = Phase::Collecting;
        let answer = Collected::Failed(failed(Kind::Cancelled, Remedy::Final, Charged::Unknown));
        let none = FoundSummary::default();
        let change = after_collect(&mut flight, answer, &none, &POLICY, at(40_000));
        assert_telling(&flight, &change, Kind::Cancelled, Charged::Unknown);
    }
}

#[test]
fn what_waited_in_fals_queue_until_its_limit_was_never_charged() {
    let in_queue = || Polled::InQueue { position: None };
    for (ran, charged) in [(false, Charged::No), (true, Charged::Unknown)] {
        let (mut late, mut over) = (flight(Phase::Polling), 1000 + 3_600_001);
        if ran {
            // Put back by fal: how far a runner got with it is not said.
            after_poll(&mut late, Polled::InProgress, 1, &POLICY, at(2000));
            over = 2000 + 600_001;
        }
        after_poll(&mut late, in_queue(), 1, &POLICY, at(over));
        after_cancel(&mut late, Cancelled::Requested, at(over + 100));
        let change = after_poll(&mut late, Polled::Missing, 1, &POLICY, at(over + 600));
        assert_telling(&late, &change, Kind::Timeout, charged);
    }
}

#[test]
fn a_request_that_fal_bills_was_charged_though_it_was_last_seen_in_the_queue() {
    let mut flight = flight(Phase::Polling);
    flight.cancel_asked = true;
    let in_queue = Polled::InQueue { position: None };
    after_poll(&mut flight, in_queue, 1, &POLICY, at(2000));
    after_cancel(&mut flight, Cancelled::Requested, at(2100));
    flight.phase = Phase::Collecting;
    let billed = Failure {
        units: Some("1".to_owned()),
        ..failed(Kind::Cancelled, Remedy::Final, Charged::Yes)
    };
    let none = FoundSummary::default();
    let change = after_collect(
        &mut flight,
        Collected::Failed(billed),
        &none,
        &POLICY,
        at(2600),
    );
    assert_telling(&flight, &change, Kind::Cancelled, Charged::Yes);
    assert_eq!(set(&change, "units"), Some("1"));
}

#[test]
fn a_request_that_is_lost_before_fal_could_be_told_to_stop_ends_as_what_the_cancel_was_for() {
    for kind in [Kind::Timeout, Kind::Cancelled] {
        let mut lost = flight(Phase::Polling);
        // Nobody wants it any more: not even where it may be paid again.
        (lost.repay, lost.cancelling) = (true, cancelling(kind, None));
        lost.missing = Some((2, at(2000).now));
        let change = after_poll(&mut lost, Polled::Missing, 1, &POLICY, at(17_000));
        assert_telling(&lost, &change, kind, Charged::Unknown);
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
        told.failure = Some((kind, "not finished after 5 s".to_owned()));
        let answer = Collected::Failed(failed(Kind::Cancelled, Remedy::Final, Charged::Unknown));
        let none = FoundSummary::default();
        let change = after_collect(&mut told, answer, &none, &POLICY, at(6000));
        assert_telling(&told, &change, kind, Charged::Unknown);
        // Ours says more than fal's, which only says that it was cancelled.
        assert_eq!(set(&change, "error"), Some("not finished after 5 s"));

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
            after_cancel(&mut flight, Cancelled::Failed(silence()), now)
        } else {
            asked[1] += 1;
            after_poll(&mut flight, Polled::Failed(silence()), 1, &POLICY, now)
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
