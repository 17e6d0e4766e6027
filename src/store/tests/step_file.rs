//! What a step file says of a worker that died, to whoever sweeps up behind it.

use super::*;

#[test]
fn a_step_file_tells_who_perhaps_paid_who_had_begun_and_who_had_not() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(
        &bench,
        &one,
        &["acting", "begun", "idle1", "idle2", "waits"],
    );
    let flights = one.claim(4);
    let steps = [(&flights[0].token, true), (&flights[1].token, false)];
    assert_eq!(one.dies_with(&two, true, Some(&steps)), 4);

    let acting = bench.record("acting");
    assert_eq!(
        (acting["state"].as_str(), acting["doubt"].as_str()),
        ("later", "submit")
    );
    assert_eq!(
        (acting["attempt"].as_str(), acting["charged"].as_str()),
        ("1", "unknown")
    );
    assert_eq!(acting["crashes"], "1");
    // All others go back unpaid, in their old order.
    assert_eq!(bench.ready("default"), ["begun", "idle1", "idle2", "waits"]);
    for (id, crashes) in [("begun", Some("1")), ("idle1", None), ("idle2", None)] {
        let record = bench.record(id);
        assert_eq!(record["attempt"], "0", "{id}");
        assert!(!record.contains_key("charged") && !record.contains_key("doubt"));
        assert_eq!(record.get("crashes").map(String::as_str), crashes, "{id}");
    }
}

#[test]
fn what_a_step_file_says_is_known_to_whoever_sweeps_up() {
    let bench = Bench::start();
    let (one, two, three) = (bench.instance(), bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    one.claim_one();
    let (name, nobody) = (one.name(), steps_text(&[]));
    let buried = (two.session).bury(&name, 0, Duration::ZERO, true, Some(&nobody));
    assert_eq!(buried, Ok(true));
    assert_eq!(three.session.take_back(&name), Ok(1));
    assert_eq!(bench.ready("default"), ["a"]);
    assert_eq!(bench.field("a", "attempt").as_deref(), Some("0"));
}

#[test]
fn what_a_step_file_says_proves_nothing_where_its_owner_said_so_under_any_of_its_names() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a", "b"]);
    one.claim_one();
    assert_eq!(one.session.tell_torn(), Ok(()));
    one.dies_with(&two, true, Some(&[]));
    assert_eq!(bench.field("a", "attempt").as_deref(), Some("1"));

    one.store.rename();
    one.session.beat(0, 0, 0, None).expect("answers");
    one.claim_one();
    one.dies_with(&two, true, Some(&[]));
    assert_eq!(bench.field("b", "attempt").as_deref(), Some("1"));
}

#[test]
fn a_send_is_in_doubt_only_where_it_was_under_way() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["sending", "parked"]);
    let mut flights = one.claim(2);
    for flight in &mut flights {
        one.submitted(flight, flight.id.as_str().to_owned().as_str());
        let write = completed(flight);
        assert_eq!(one.write(flight, &write), Written::Ok);
    }
    let steps = [(&flights[0].token, true)];
    one.dies_with(&two, true, Some(&steps));
    assert_eq!(bench.field("sending", "doubt").as_deref(), Some("send"));
    assert_eq!(bench.field("parked", "doubt"), None);
    assert_eq!(bench.field("parked", "crashes"), None);
    assert_eq!(bench.ready("resume").len(), 2);
}

#[test]
fn the_third_crash_of_an_executing_step_ends_the_job_whatever_its_phase_and_progress_resets_the_count()
 {
    for phase in ["submitting", "polling", "delivering"] {
        let bench = Bench::start();
        let mut one = bench.instance();
        fill(&bench, &one, &["a"]);
        let mut flight = one.claim_one();
        if phase != "submitting" {
            one.submitted(&mut flight, "r1");
        }
        if phase == "delivering" {
            let write = completed(&mut flight);
            assert_eq!(one.write(&mut flight, &write), Written::Ok);
        }
        for crash in 1..=3 {
            let two = bench.instance();
            one.dies_with(&two, true, Some(&[(&flight.token, false)]));
            assert_eq!(
                bench.field("a", "crashes").as_deref(),
                Some(crash.to_string().as_str())
            );
            if crash == 2 {
                assert_eq!(bench.state("a"), "later", "it comes back alone");
                bench.an_hour_passes();
                two.session.promote(9).expect("promotes");
            }
            one = two;
            flight = one.claim_one();
        }
        assert_eq!(flight.phase, Phase::Telling, "{phase}");
        let failure = flight.failure.as_ref().map(|(kind, _)| kind.as_str());
        assert_eq!(failure, Some("crashed"), "{phase}");
        let charged = match phase {
            "submitting" => Charged::No,
            "polling" => Charged::Unknown,
            _ => Charged::Yes,
        };
        assert_eq!(flight.charged, charged, "{phase}");
        assert!(!flight.untold);
    }
    // A request id is progress.
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    let flight = one.claim_one();
    one.dies_with(&two, true, Some(&[(&flight.token, false)]));
    let mut flight = two.claim_one();
    two.submitted(&mut flight, "r1");
    assert_eq!(bench.field("a", "crashes"), None);
}

#[test]
fn where_workers_die_without_a_job_too_each_such_death_gives_it_one_more_crash() {
    let bench = Bench::start();
    let mut one = bench.instance();
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    let mut crashes = 0;
    while flight.phase != Phase::Telling {
        let two = bench.instance();
        if crashes < 4 {
            // One that had no job at all.
            bench.instance().dies_with(&two, true, Some(&[]));
        }
        one.dies_with(&two, true, Some(&[(&flight.token, false)]));
        crashes += 1;
        bench.an_hour_passes();
        two.session.promote(9).expect("promotes");
        one = two;
        flight = one.claim_one();
    }
    // Of the four other deaths one came before its first crash.
    assert_eq!(crashes, 3 + 3);
    assert_eq!(bench.field("a", "crashes").as_deref(), Some("6"));
}

#[test]
fn after_progress_only_the_deaths_since_the_next_crash_count() {
    let bench = Bench::start();
    let mut one = bench.instance();
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    let crash = |one: &mut Instance, flight: &mut Flight| {
        let two = bench.instance();
        one.dies_with(&two, true, Some(&[(&flight.token, false)]));
        bench.an_hour_passes();
        two.session.promote(9).expect("promotes");
        *one = two;
        *flight = one.claim_one();
    };
    crash(&mut one, &mut flight);
    for _ in 0..4 {
        bench.instance().dies_with(&one, true, Some(&[]));
    }
    one.submitted(&mut flight, "r1");
    for _ in 0..3 {
        assert_eq!(flight.phase, Phase::Polling);
        crash(&mut one, &mut flight);
    }
    assert_eq!(flight.phase, Phase::Telling);
}

#[test]
fn jobs_that_were_executing_in_two_crashes_in_a_row_come_back_one_by_one() {
    let bench = Bench::start();
    let mut one = bench.instance();
    fill(&bench, &one, &["a", "b", "idle"]);
    for _ in 0..2 {
        let flights = one.claim(3);
        assert_eq!(flights.len(), 3);
        let guilty = flights.iter().filter(|flight| flight.id.as_str() != "idle");
        let steps: Vec<_> = guilty.map(|flight| (&flight.token, false)).collect();
        let two = bench.instance();
        one.dies_with(&two, true, Some(&steps));
        one = two;
    }
    assert_eq!(bench.ready("default"), ["idle"]);
    let due = |id| bench.ask::<i64>(&format!("ZSCORE t:later {id}"));
    assert_eq!((due("a") - due("b")).abs(), 500);
    bench.an_hour_passes();
    one.session.promote(9).expect("promotes");
    assert_eq!(one.claim(3).len(), 3);
}

#[test]
fn a_job_whose_telling_kills_its_owners_ends_untold() {
    let bench = Bench::start();
    let mut one = bench.instance();
    bench.push(r#"{"id":"a","model":"a/b","input":null,"telegram":{"chat_id":7}}"#);
    one.intake();
    let mut flight = one.claim_one();
    for _ in 0..3 {
        assert!(!flight.untold);
        let two = bench.instance();
        one.dies_with(&two, true, Some(&[(&flight.token, true)]));
        bench.an_hour_passes();
        two.session.promote(9).expect("promotes");
        one = two;
        flight = one.claim_one();
    }
    assert!(flight.untold && flight.phase == Phase::Telling);
    let failure = flight.failure.as_ref().map(|(kind, _)| kind.as_str());
    assert_eq!(failure, Some("invalid_job"), "what it failed of before");
}

#[test]
fn writes_of_a_dead_process_are_made_again_and_change_nothing_twice() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a", "b"]);
    let mut flights = one.claim(2);
    let packed = |flight: &mut Flight, write: &Write| {
        flight.seq += 1;
        one.session.prepare(flight, flight.seq, write).to_bytes()
    };
    let submitted = accepted(&mut flights[0], "r1");
    let (script, bytes) = packed(&mut flights[0], &submitted);
    for _ in 0..2 {
        assert_eq!(two.session.replay(script, &bytes), Ok(Replayed::Settled));
        assert_eq!(bench.field("a", "request_id").as_deref(), Some("r1"));
        assert_eq!(bench.events_of("a"), ["queued", "started", "submitted"]);
    }
    // What follows the word in an answer differs from script to script.
    let saved = completed(&mut flights[0]);
    let (script, bytes) = packed(&mut flights[0], &saved);
    assert_eq!(script, "save");
    for _ in 0..2 {
        assert_eq!(two.session.replay(script, &bytes), Ok(Replayed::Settled));
        assert_eq!(bench.field("a", "phase").as_deref(), Some("delivering"));
    }
    let ended = ending(&flights[0], EndState::Done);
    let (script, bytes) = packed(&mut flights[0], &ended);
    assert_eq!(script, "end");
    for _ in 0..2 {
        assert_eq!(two.session.replay(script, &bytes), Ok(Replayed::Settled));
        assert_eq!(bench.state("a"), "done");
    }
    // Even after somebody else has begun anew: then it is to be cancelled.
    let submitted = accepted(&mut flights[1], "r2");
    let (script, bytes) = packed(&mut flights[1], &submitted);
    one.dies(&two, true);
    bench.an_hour_passes();
    two.session.promote(9).expect("promotes");
    let mut again: Vec<Flight> = two.claim(2);
    let b = again.iter_mut().find(|flight| flight.id.as_str() == "b");
    assert_eq!(two.submitted(b.expect("claimed"), "r3"), Written::Ok);
    let Ok(Replayed::Cancel(paid)) = two.session.replay(script, &bytes) else {
        panic!("a second request is to be cancelled");
    };
    assert_eq!((paid.job.as_str(), &*paid.request.0), ("b", "r2"));
    assert_eq!(
        paid.model.as_deref(),
        again[0].model.as_ref().map(|model| model.as_str())
    );
    // And without a record it is said whose it was.
    bench.ask::<()>("DEL t:job:b");
    let gone = two.session.replay(script, &bytes);
    assert_eq!(gone, Ok(Replayed::Gone(Some(paid))));
}

#[test]
fn a_write_of_another_version_is_made_with_its_own_script_or_if_it_is_paid_with_ours() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    let write = accepted(&mut flight, "r1");
    let (script, bytes) = one.session.prepare(&flight, 1, &write).to_bytes();
    let text = String::from_utf8(bytes).expect("text");
    let sha = text.split("\r\n").nth(4).expect("a sha").to_owned();
    let strange = text.replace(&sha, &"0".repeat(40)).into_bytes();
    assert_eq!(two.session.replay(script, &strange), Ok(Replayed::Settled));
    assert_eq!(bench.field("a", "request_id").as_deref(), Some("r1"));
    assert_eq!(two.session.replay("save", &strange), Ok(Replayed::Unknown));
    assert_eq!(
        two.session.replay("of the future", &strange),
        Ok(Replayed::Unknown)
    );
    assert_eq!(
        two.session.replay(script, b"*1\r\n$99"),
        Ok(Replayed::Unknown)
    );
}

#[test]
fn what_has_ended_under_its_token_is_never_begun_again_whatever_number_its_owner_thinks_of() {
    for state in [EndState::Done, EndState::Dead, EndState::Cancelled] {
        let bench = Bench::start();
        let one = bench.instance();
        fill(&bench, &one, &["a"]);
        let mut flight = one.claim_one();
        one.submitted(&mut flight, "r1");
        let before = flight.seq;
        assert_eq!(one.end(&mut flight, state), Written::Ok);
        let ends = bench.events_of("a");
        // A write that was put behind the end has counted on.
        flight.seq = before + 5;
        assert_eq!(one.session.reassert(&[remembered(&flight)]), Ok(vec![]));
        assert_eq!(bench.state("a"), state.as_str());
        assert_eq!(bench.events_of("a"), ends);
        assert_eq!(one.beat().claims, 0);
    }
}
