//! Request ids: recorded once, adopted when they come late, cancelled when nobody needs them.

use super::*;
use crate::job::flight::Doubt;

#[test]
fn a_request_id_is_recorded_once_and_names_its_event() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(&job("a", r#""user_id":"u","meta":[1]"#));
    one.intake();
    let mut flight = one.claim_one();
    let write = Write::Submitted {
        request: written("r1"),
        path: Some("a/b/requests/r1".to_owned()),
        attempt: 1,
        event: flight.event("submitted"),
    };
    flight.request = Some(written("r1"));
    assert_eq!(one.write(&mut flight, &write), Written::Ok);
    assert_eq!(one.session.write(&flight, 1, &write), Ok(Written::Ok));
    let record = bench.record("a");
    for (name, value) in [
        ("request_id", "r1"),
        ("phase", "polling"),
        ("attempt", "1"),
        ("seq", "1"),
        ("path", "a/b/requests/r1"),
    ] {
        assert_eq!(record[name], value);
    }
    let events = bench.events();
    assert_eq!(events.len(), 3);
    let fields = &events[2].1;
    for (name, value) in [
        ("event", "submitted"),
        ("job", "a"),
        ("user", "u"),
        ("model", "a/b"),
        ("attempt", "1"),
        ("request_id", "r1"),
        ("meta", "[1]"),
    ] {
        assert_eq!(fields[name], value);
    }
    assert_eq!(fields["at"], record["submitted_at"]);
    // A second request of the same owner: the recorded one wins, the other is noted once.
    for _ in 0..2 {
        assert_eq!(one.submitted(&mut flight, "r2"), Written::Other);
    }
    assert_eq!(bench.field("a", "tried").as_deref(), Some("r2"));
    assert_eq!(bench.events().len(), 3);
}

#[test]
fn a_late_request_id_is_adopted_while_its_job_waits() {
    // (how the job is taken away from its owner, where it waits then, attempts counted)
    type Way = fn(&Bench, &Instance, &Instance, &Flight);
    let ways: [(&str, Way, i32); 3] = [
        (
            "queued, given back",
            |_, one, _, flight| {
                one.session.give_back(&[flight]).expect("given");
            },
            1,
        ),
        (
            "later",
            |_, one, two, _| {
                one.dies(two, false);
            },
            1,
        ),
        (
            "queued, due again",
            |bench, one, two, _| {
                one.dies(two, false);
                bench.an_hour_passes();
                two.session.promote(9).expect("promotes");
            },
            1,
        ),
    ];
    for (name, way, attempt) in ways {
        let bench = Bench::start();
        let (one, two) = (bench.instance(), bench.instance());
        fill(&bench, &one, &["a", "b"]);
        let mut flight = one.claim_one();
        way(&bench, &one, &two, &flight);
        one.proxy.lose_an_answer();
        // Somebody else goes on with it: the late owner drops the job.
        assert_eq!(one.submitted(&mut flight, "r1"), Written::Stale, "{name}");
        assert!(one.proxy.is_passing());
        assert_eq!(bench.ready("resume"), ["a"], "{name}");
        assert!(
            !bench.ready("default").contains(&"a".to_owned()) && bench.later().is_empty(),
            "{name}"
        );
        let record = bench.record("a");
        assert_eq!(
            (record["state"].as_str(), record["phase"].as_str()),
            ("queued", "polling"),
            "{name}"
        );
        assert_eq!(record["attempt"], attempt.to_string(), "{name}");
        assert!(
            !record.contains_key("doubt") && !record.contains_key("due_at"),
            "{name}"
        );
        assert_eq!(
            bench
                .events_of("a")
                .iter()
                .filter(|event| *event == "submitted")
                .count(),
            1
        );
        let new = two.claim_one();
        assert_eq!(
            (new.id.as_str(), new.phase, new.request),
            ("a", Phase::Polling, Some(written("r1"))),
            "{name}"
        );
    }
}

/// `two` owns `a` and is about to submit it; the late request id `r1` of `one` has just come.
pub(super) fn adopted_under_a_new_owner(bench: &Bench) -> (Instance, Instance, Flight) {
    let (one, two) = (bench.instance(), bench.instance());
    fill(bench, &one, &["a"]);
    let mut old = one.claim_one();
    one.dies(&two, false);
    bench.an_hour_passes();
    two.session.promote(9).expect("promotes");
    let new = two.claim_one();
    assert_eq!(
        (new.phase, new.doubt, new.attempt),
        (Phase::Submitting, Doubt::Submit, 1)
    );
    assert_eq!(one.submitted(&mut old, "r1"), Written::Stale);
    assert_eq!(bench.field("a", "request_id").as_deref(), Some("r1"));
    assert_eq!(
        bench.field("a", "token"),
        Some(new.token.0.to_string()),
        "the owner stays"
    );
    (one, two, new)
}

#[test]
fn a_new_owner_learns_of_a_late_request_id_with_any_write_and_writes_nothing() {
    type Make = fn(&mut Flight) -> Write;
    let writes: [(&str, Make); 4] = [
        ("before a resubmit", |_| Write::Save {
            patch: Patch::default().set("phase", "submitting").del(&["doubt"]),
            count: Some("counted"),
            large: None,
        }),
        ("telling", |flight| Write::Save {
            patch: Patch::default()
                .set("phase", "telling")
                .set("kind", "invalid_input")
                .event(flight.event("x")),
            count: Some("counted"),
            large: None,
        }),
        ("later", |flight| retrying(flight, Duration::from_secs(5))),
        ("end", |flight| ending(flight, EndState::Dead)),
    ];
    for (name, make) in writes {
        let bench = Bench::start();
        let (_one, two, mut new) = adopted_under_a_new_owner(&bench);
        let before = bench.dump();
        let write = make(&mut new);
        two.proxy.lose_an_answer();
        assert_eq!(two.write(&mut new, &write), Written::Adopted, "{name}");
        assert_eq!(bench.dump(), before, "{name}");
        // Whoever takes over now polls; and so does the owner, whose writes count again.
        assert_eq!(
            bench.field("a", "phase").as_deref(),
            Some("polling"),
            "{name}"
        );
        new.request = Some(written("r1"));
        let save = completed(&mut new);
        assert_eq!(two.write(&mut new, &save), Written::Ok, "{name}");
        assert_eq!(two.end(&mut new, EndState::Done), Written::Ok, "{name}");
        assert_eq!(bench.state("a"), "done");
    }
}

#[test]
fn a_new_owners_own_request_loses_against_the_late_one_and_is_noted() {
    let bench = Bench::start();
    let (_one, two, mut new) = adopted_under_a_new_owner(&bench);
    two.proxy.lose_an_answer();
    assert_eq!(two.submitted(&mut new, "r2"), Written::Other);
    let record = bench.record("a");
    assert_eq!(
        (record["request_id"].as_str(), record["tried"].as_str()),
        ("r1", "r2")
    );
}

#[test]
fn a_late_request_id_nobody_needs_is_to_be_cancelled() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    let mut old = one.claim_one();
    one.dies(&two, false);
    bench.an_hour_passes();
    two.session.promote(9).expect("promotes");
    let mut new = two.claim_one();
    two.submitted(&mut new, "r2");
    for _ in 0..2 {
        assert_eq!(one.submitted(&mut old, "r1"), Written::Cancel);
    }
    assert_eq!(bench.field("a", "tried").as_deref(), Some("r1"));
    assert_eq!(bench.field("a", "request_id").as_deref(), Some("r2"));
    // While its user is told, and when the record has been forgotten by an owner of an old identity.
    let telling = Write::Save {
        patch: Patch::default().set("phase", "telling"),
        count: None,
        large: None,
    };
    two.write(&mut new, &telling);
    assert_eq!(one.submitted(&mut old, "r3"), Written::Cancel);
    bench.ask::<()>("DEL t:job:a");
    one.store.rename();
    assert_eq!(one.submitted(&mut old, "r1"), Written::Gone);
    assert!(!one.store.health.forgot());
    assert_eq!(bench.ask::<u64>("EXISTS t:job:a"), 0);
}

#[test]
fn an_adopted_request_id_that_comes_once_more_leaves_its_new_owners_work_alone() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    let mut old = one.claim_one();
    one.dies(&two, false);
    bench.an_hour_passes();
    two.session.promote(9).expect("promotes");
    let mut new = two.claim_one();
    let write = accepted(&mut old, "r1");
    assert_eq!(one.session.write(&old, 9, &write), Ok(Written::Stale));
    new.request = Some(written("r1"));
    let save = completed(&mut new);
    assert_eq!(two.write(&mut new, &save), Written::Ok);
    let before = bench.dump();
    assert_eq!(one.session.write(&old, 9, &write), Ok(Written::Stale));
    assert_eq!(bench.dump(), before);
}

#[test]
fn a_late_request_id_never_brings_back_a_job_that_is_over_or_is_told() {
    for state in [EndState::Done, EndState::Dead, EndState::Cancelled] {
        let bench = Bench::start();
        let (one, two) = (bench.instance(), bench.instance());
        fill(&bench, &one, &["a"]);
        let mut old = one.claim_one();
        one.session.give_back(&[&old]).expect("given");
        let mut new = two.claim_one();
        let telling = Write::Save {
            patch: Patch::default().set("phase", "telling"),
            count: None,
            large: None,
        };
        assert_eq!(two.write(&mut new, &telling), Written::Ok);
        for is_over in [false, true] {
            if is_over {
                assert_eq!(two.end(&mut new, state), Written::Ok);
            }
            let before = bench.dump();
            assert_eq!(one.submitted(&mut old, "r1"), Written::Cancel);
            assert_eq!(bench.dump(), before, "{state:?}");
        }
    }
}

#[test]
fn a_late_request_id_brings_the_attempt_that_it_was() {
    for how in ["given back", "died", "another's by now"] {
        let bench = Bench::start();
        let (one, two) = (bench.instance(), bench.instance());
        bench.push(&job("a", r#""max_attempts":9"#));
        one.intake();
        bench.ask::<()>("HSET t:job:a attempt 4");
        let mut old = one.claim_one();
        match how {
            "given back" => drop(one.session.give_back(&[&old])),
            "died" => drop(one.dies(&two, true)),
            _ => {
                one.dies(&two, true);
                bench.an_hour_passes();
                two.session.promote(9).expect("promotes");
                two.claim_one();
            }
        }
        let write = Write::Submitted {
            request: written("r1"),
            path: Some("a/b/requests/r1".to_owned()),
            attempt: 5,
            event: old.event("submitted"),
        };
        assert_eq!(one.write(&mut old, &write), Written::Stale);
        assert_eq!(bench.field("a", "attempt").as_deref(), Some("5"), "{how}");
        let path = bench.field("a", "path");
        assert_eq!(path.as_deref(), Some("a/b/requests/r1"), "{how}");
    }
}

#[test]
fn every_request_id_that_comes_too_late_is_noted_wherever_the_job_waits() {
    for state in ["queued", "later", "waiting", "running"] {
        let bench = Bench::start();
        let one = bench.instance();
        fill(&bench, &one, &["a"]);
        let mut flight = one.claim_one();
        one.submitted(&mut flight, "r1");
        bench.ask::<()>(&format!("HSET t:job:a state {state} token another"));
        bench.oom();
        for request in ["r2", "r3"] {
            assert_eq!(one.submitted(&mut flight, request), Written::Cancel);
        }
        bench.memory_back();
        let tried = bench.field("a", "tried");
        assert_eq!(tried.as_deref(), Some("r2 r3"), "{state}");
    }
}

#[test]
fn what_has_a_request_id_is_paid_whatever_phase_its_record_names() {
    for how in ["panic", "death", "silence", "given back", "due again"] {
        let bench = Bench::start();
        let (one, two) = (bench.instance(), bench.instance());
        fill(&bench, &one, &["a"]);
        let mut flight = one.claim_one();
        if how == "due again" {
            let later = retrying(&flight, Duration::from_secs(5));
            assert_eq!(one.write(&mut flight, &later), Written::Ok);
        }
        bench.ask::<()>("HSET t:job:a request_id r1 expires_at 1");
        match how {
            "panic" => drop(one.session.crash(&flight.id, &flight.token)),
            "death" => drop(one.dies_with(&two, true, Some(&[(&flight.token, true)]))),
            "silence" => drop(one.dies(&two, false)),
            "given back" => drop(one.session.give_back(&[&flight])),
            _ => {
                bench.an_hour_passes();
                two.session.promote(9).expect("promotes");
            }
        }
        assert_eq!(bench.ready("resume"), ["a"], "{how}");
        let again = two.claim_one();
        assert_eq!(
            (again.phase, again.attempt, again.request),
            (Phase::Polling, 0, Some(written("r1"))),
            "{how}"
        );
    }
}

#[test]
fn a_noted_request_id_survives_the_writes_of_an_owner_who_does_not_know_it() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    let mut old = one.claim_one();
    one.dies(&two, false);
    bench.an_hour_passes();
    two.session.promote(9).expect("promotes");
    let mut new = two.claim_one();
    new.tried = "r0".to_owned();
    two.submitted(&mut new, "r2");
    assert_eq!(one.submitted(&mut old, "r1"), Written::Cancel);
    let lives = two.session.reassert(&[remembered(&new)]);
    assert_eq!(lives, Ok(vec![]));
    two.session.give_back(&[&new]).expect("given");
    assert_eq!(bench.field("a", "tried").as_deref(), Some("r1 r0"));
    let mut again = two.claim_one();
    again.tried = "r0".to_owned(); // as if `r1` had been noted after this claim
    let later = retrying(&again, Duration::from_secs(5));
    assert_eq!(two.write(&mut again, &later), Written::Ok);
    assert_eq!(bench.field("a", "tried").as_deref(), Some("r1 r0 r2"));
    // A late original of the owner's own write does not bring back what was given up.
    let late = remembered(&new);
    assert_eq!(two.submitted(&mut new, "r2"), Written::Cancel);
    assert_eq!(two.session.reassert(&[late]), Ok(vec![new.id.clone()]));
    assert_eq!(bench.state("a"), "later");
}

#[test]
fn who_buried_and_did_not_hear_the_answer_goes_on_with_the_claims() {
    let bench = Bench::start();
    let (one, two, three) = (bench.instance(), bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    one.claim_one();
    let name = one.name();
    two.proxy.lose_an_answer();
    let bury = |who: &Instance| who.session.bury(&name, 0, Duration::ZERO, true, None);
    assert_eq!(bury(&two), Ok(true));
    assert_eq!(bury(&three), Ok(false));
    assert_eq!(two.session.take_back(&name), Ok(1));
}

#[test]
fn a_retry_moves_the_request_id_to_tried() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    one.submitted(&mut flight, "r1");
    let before = bench.now();
    let later = retrying(&flight, Duration::from_secs(5));
    assert_eq!(one.write(&mut flight, &later), Written::Ok);
    let record = bench.record("a");
    assert_eq!(
        (record["state"].as_str(), record["tried"].as_str()),
        ("later", "r1")
    );
    assert!(!record.contains_key("request_id") && !record.contains_key("phase"));
    let due: i64 = record["due_at"].parse().expect("a time");
    assert!(due >= before + 5000, "{due} is no wait after {before}");
    assert_eq!(bench.ask::<i64>("ZSCORE t:later a"), due);
    assert_eq!(one.beat().claims, 0);
}
