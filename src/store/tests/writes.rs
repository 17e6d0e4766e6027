//! Writes of a job's owner, repeated, late or with an old token; and what they cost.

use super::*;

// ---- writes of the owner

/// Runs a whole life with one kind of trouble at every write; gives events, counters and the record.
fn life(
    state: EndState,
    trouble: fn(&Instance),
) -> (Vec<String>, Option<String>, Vec<(String, String)>) {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    flight.attempt = 0;
    trouble(&one);
    let later = retrying(&flight, Duration::from_secs(5));
    assert_eq!(one.write(&mut flight, &later), Written::Ok);
    one.proxy.release();
    bench.an_hour_passes();
    assert_eq!(one.session.promote(9), Ok(1));
    trouble(&one);
    let mut flight = one.claim_one();
    one.proxy.release();
    trouble(&one);
    assert_eq!(one.submitted(&mut flight, "r1"), Written::Ok);
    one.proxy.release();
    trouble(&one);
    let save = completed(&mut flight);
    assert_eq!(one.write(&mut flight, &save), Written::Ok);
    one.proxy.release();
    trouble(&one);
    assert_eq!(one.end(&mut flight, state), Written::Ok);
    one.proxy.release();
    assert_eq!(one.beat().claims, 0);
    let timeless = |(name, _): &(String, String)| {
        !name.ends_with("_at") && !matches!(name.as_str(), "token" | "worker")
    };
    let record: Vec<_> = bench.record("a").into_iter().filter(timeless).collect();
    assert_eq!(bench.ask::<u64>("EXISTS t:bell"), 0);
    (
        bench.events_of("a"),
        bench.ask("HGET t:stats counted"),
        record,
    )
}

/// A person with redis-cli may do that. What an event says is the bot's refund.
#[test]
fn where_the_events_are_of_another_type_nothing_is_written_and_the_repeat_writes_it_all() {
    let bench = Bench::start();
    let one = bench.instance();
    let spoilt = |spoilt: bool| {
        if spoilt {
            bench.ask::<()>("RENAME t:events saved");
            bench.ask::<()>("SET t:events x");
        } else {
            bench.ask::<()>("RENAME saved t:events");
        }
    };
    fill(&bench, &one, &["first"]); // so that there is a stream
    bench.push(&job("d", r#""max_attempts":3"#));
    spoilt(true);
    let entries = one.entries();
    assert!(one.session.intake(&entries, &DEFAULTS).is_err());
    assert_eq!(bench.record("d").len(), 0);
    spoilt(false);
    one.session.intake(&entries, &DEFAULTS).expect("takes in");
    one.claim(1);
    spoilt(true);
    assert!(one.session.claim(1, false).is_err());
    assert_eq!(bench.ready("default"), ["d"]);
    spoilt(false);
    let mut flight = one.claim_one();
    let mut told = vec!["queued", "started"];
    for (step, event) in ["submitted", "retrying", "submitted", "completed", "done"]
        .into_iter()
        .enumerate()
    {
        let write = match event {
            "submitted" => accepted(&mut flight, &format!("r{step}")),
            "retrying" => retrying(&flight, Duration::ZERO),
            "completed" => completed(&mut flight),
            _ => ending(&flight, EndState::Done),
        };
        let seq = flight.number(&write);
        let before = bench.record("d");
        spoilt(true);
        assert!(one.session.write(&flight, seq, &write).is_err(), "{event}");
        assert_eq!(bench.record("d"), before, "{event}");
        spoilt(false);
        let written = one.session.write(&flight, seq, &write).expect("answers");
        assert_eq!(written, Written::Ok, "{event}");
        told.push(event);
        assert_eq!(bench.events_of("d"), told);
        if event == "retrying" {
            one.session.promote(100).expect("answers");
            flight = one.claim_one();
        }
    }
}

#[test]
fn a_write_that_is_repeated_or_late_adds_no_event_and_no_count() {
    for state in [EndState::Done, EndState::Dead, EndState::Cancelled] {
        let calm = life(state, |_| {});
        assert_eq!(calm.0.len(), 6, "{:?}", calm.0);
        assert_eq!(calm.1.as_deref(), Some("1"));
        assert_eq!(
            life(state, |one| one.proxy.lose_an_answer()),
            calm,
            "answers lost: {state:?}"
        );
        assert_eq!(
            life(state, |one| one.proxy.hold_a_request()),
            calm,
            "originals late: {state:?}"
        );
    }
}

/// A worker's idea of Redis's clock may be ahead of it by a millisecond, and the clock may have been set back.
#[test]
fn what_began_ahead_of_redis_s_clock_took_no_time() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    flight.queued_at = UnixMs(bench.now() + 60_000);
    assert_eq!(one.end(&mut flight, EndState::Done), Written::Ok);
    let events = bench.events();
    assert_eq!(events.last().unwrap().1["ms"], "0");
}

#[test]
fn a_write_with_an_old_token_or_number_changes_nothing() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    let mut old = one.claim_one();
    one.session.give_back(&[&old]).expect("given");
    let mut new = two.claim_one();
    two.submitted(&mut new, "r");
    let before = bench.dump();
    let save = completed(&mut old);
    assert_eq!(one.write(&mut old, &save), Written::Stale);
    let later = retrying(&old, Duration::from_secs(5));
    assert_eq!(one.write(&mut old, &later), Written::Stale);
    assert_eq!(one.end(&mut old, EndState::Dead), Written::Stale);
    assert_eq!(one.session.give_back(&[&old]), Ok(0));
    assert_eq!(one.session.crash(&old.id, &old.token), Ok(0));
    assert_eq!(one.session.disown("a", &old.token.0), Ok(false));
    assert_eq!(bench.dump(), before);
    // And after the end.
    two.end(&mut new, EndState::Done);
    let before = bench.dump();
    let save = completed(&mut new);
    assert_eq!(two.write(&mut new, &save), Written::Stale);
    assert_eq!(one.submitted(&mut old, "late"), Written::Cancel);
    assert_eq!(bench.dump(), before);
}

#[test]
fn an_id_is_used_once_however_short_its_record_is_kept() {
    let short = |done: u64, dead: u64| Keep {
        done: Duration::from_secs(done),
        dead: Duration::from_secs(dead),
        ..KEEP
    };
    let states = [EndState::Done, EndState::Cancelled, EndState::Dead];
    for state in states {
        let bench = Bench::start();
        let one = bench.instance_keeping(short(3600, 7200));
        fill(&bench, &one, &["a"]);
        let mut flight = one.claim_one();
        one.submitted(&mut flight, "r");
        assert_eq!(one.end(&mut flight, state), Written::Ok);
        assert_eq!((bench.ttl("id:a"), bench.ttl("ids")), (86400, 86400));
        // Its time is over, also for the list of the dead.
        bench.ask::<()>("DEL t:job:a t:spec:a t:dead");
        bench.push(&job("b", ""));
        bench.push(&job("a", ""));
        assert_eq!(one.intake().marks, "mu", "{state:?}");
        let (_, told) = bench.events().pop().expect("an event");
        let said = |name: &str| told.get(name).map(String::as_str);
        assert_eq!(said("event"), Some("duplicate"));
        assert_eq!(
            (said("job"), said("state")),
            (Some("a"), Some(state.as_str()))
        );
        assert!(bench.record("a").is_empty());
    }
    // Where records stay for a day or not at all nothing more is written.
    for keep in [short(86400, 86400), short(0, 0)] {
        for state in states {
            let bench = Bench::start();
            let one = bench.instance_keeping(keep);
            fill(&bench, &one, &["a"]);
            let mut flight = one.claim_one();
            assert_eq!(one.end(&mut flight, state), Written::Ok);
            assert_eq!((bench.ttl("id:a"), bench.ttl("ids")), (-2, -2));
        }
    }
}

#[test]
fn ends_keep_what_the_contract_says() {
    let zero = Keep {
        done: Duration::ZERO,
        dead: Duration::ZERO,
        ..KEEP
    };
    for (keep, state, ttl, spec) in [
        (KEEP, EndState::Done, 3600, -2),
        (KEEP, EndState::Cancelled, 3600, -2),
        (KEEP, EndState::Dead, 7200, 7200),
        (zero, EndState::Done, 86400, -2),
        (zero, EndState::Cancelled, 86400, -2),
        (zero, EndState::Dead, 86400, -2),
    ] {
        let bench = Bench::start();
        let one = bench.instance_keeping(keep);
        fill(&bench, &one, &["a"]);
        let mut flight = one.claim_one();
        one.submitted(&mut flight, "r");
        let large = Write::Save {
            patch: Patch::default(),
            count: None,
            large: Some("{}".into()),
        };
        one.write(&mut flight, &large);
        assert_eq!(
            one.session.large_result(&flight.id),
            Ok(Some("{}".to_owned()))
        );
        assert_eq!(one.end(&mut flight, state), Written::Ok);
        assert_eq!(
            (
                bench.ttl("job:a"),
                bench.ttl("spec:a"),
                bench.ttl("result:a")
            ),
            (ttl, spec, -2),
            "{state:?}"
        );
        let record = bench.record("a");
        assert_eq!(
            (
                record["state"].as_str(),
                record["charged"].as_str(),
                record["v"].as_str()
            ),
            (state.as_str(), "unknown", "1")
        );
        assert_eq!(record.contains_key("model"), ttl != 86400);
        assert!(!record.contains_key("phase"));
        assert_eq!(
            bench.ask::<u64>("ZCARD t:dead"),
            u64::from(state == EndState::Dead && ttl == 7200)
        );
        bench.push(&job("a", ""));
        assert_eq!(one.intake().marks, "u", "{state:?}");
        let events = bench.events_of("a");
        assert_eq!(
            events
                .iter()
                .filter(|name| ["done", "failed", "cancelled"].contains(&name.as_str()))
                .count(),
            1
        );
    }
}

// ---- the price

#[test]
fn a_job_costs_at_most_seven_script_calls() {
    let bench = Bench::start();
    let one = bench.instance();
    assert!(one.claim(8).is_empty()); // every script but these is in the cache of a real daemon
    let warm = |id: &str| {
        bench.push(&job(id, ""));
        one.intake();
        let mut flight = one.claim_one();
        one.submitted(&mut flight, "r");
        let save = completed(&mut flight);
        one.write(&mut flight, &save);
        one.end(&mut flight, EndState::Done);
    };
    warm("a");
    let before = bench.scripts_run();
    warm("b");
    let calls = bench.scripts_run() - before;
    eprintln!("EVALSHA of one job: {calls}");
    assert!(calls <= 7, "{calls}");
}

#[test]
fn where_all_connections_were_cut_at_once_a_call_goes_on_with_a_fresh_one() {
    let bench = Bench::start();
    let one = bench.instance();
    let others: Vec<Session> = (0..3).map(|_| one.session.store().session()).collect();
    for session in others.iter().chain([&one.session]) {
        session.claims().expect("answers");
    }
    drop(others); // their connections lie in the pool
    assert!(bench.ask::<u64>("CLIENT KILL TYPE normal") >= 4);
    assert_eq!(one.session.claims(), Ok(Vec::new()));
}
