//! The phases in which only Telegram is spoken to, and the write that ends a life: what it tells the record
//! and the stream about what is in the chat, whether the user was told, and what was paid.

use super::*;
use crate::job::flight::Redelivers;

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
    let files = field(&patch(&change).events[1], "files");
    assert_eq!(files, Some(r#"["https://fal.media/a.png"]"#));
    for name in ["rung", "error", "kind"] {
        assert!(deletes(&change, name), "{name} of a job that is done");
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
        assert_eq!(set(&change, "error"), failed.map(|_| "why"));
        assert_eq!(set(&change, "charged"), Some("no"), "sent again for free");
        assert_eq!(event.since, Some(CAME));
        assert!(flight.closing && deletes(&change, "result"));
    }
}

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
fn a_failure_is_told_from_its_beginning_whatever_was_under_way() {
    let mut flight = flight(Phase::Delivering);
    (flight.rung, flight.doubt) = (r#"{"i":1}"#.to_owned(), Doubt::Send);
    (flight.cancel_asked, flight.step_tries) = (true, 3);
    let failed = failed(Kind::Telegram, Remedy::Final, Charged::No);
    let change = fail(&mut flight, failed, at(9000));
    // Else the telling would go on at the rung of the delivery, as one that may have been sent.
    assert_eq!((flight.rung.as_str(), flight.doubt), ("", Doubt::None));
    assert_eq!((flight.cancel_asked, flight.step_tries), (false, 0));
    assert_eq!(flight.telling_at, Some(at(9000).now));
    for name in ["rung", "doubt", "crashes", "cancelling"] {
        assert!(deletes(&change, name), "{name}");
    }
    let said = ["error", "attempt"].map(|name| set(&change, name));
    assert_eq!(said, ["why", "1"].map(Some));
    let change = end_failed(&mut flight, Some(true));
    for name in ["rung", "telling_at", "cancelling"] {
        assert!(deletes(&change, name), "{name}");
    }
}

#[test]
fn a_job_that_waits_to_be_told_of_is_small() {
    let mut flight = flight(Phase::Submitting);
    let failed = failed(Kind::InvalidInput, Remedy::Final, Charged::No);
    fail(&mut flight, failed, at(9000));
    assert!(flight.order.is_none() && flight.entry.is_none());
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
