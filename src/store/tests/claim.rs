//! Claims: who gets which jobs in what order, and the bell that says that there are some.

use super::*;

#[test]
fn claims_serve_priorities_strictly_and_first_in_first_out() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["l1", "d1", "d2", "h1", "h2", "l2"]);
    let claim = one.session.claim(3, false).expect("claims");
    assert!(claim.more);
    let mut order: Vec<String> = claim.jobs.iter().map(|job| job.id.to_string()).collect();
    order.extend(one.claim(9).iter().map(|flight| flight.id.to_string()));
    assert_eq!(order, ["h1", "h2", "d1", "d2", "l1", "l2"]);
    assert_eq!(
        bench.ask::<u64>("EXISTS t:bell"),
        0,
        "the lists are empty: silence"
    );
    assert_eq!(one.beat().claims, 6);
    for id in order {
        let record = bench.record(&id);
        assert_eq!(record["state"], "running");
        assert_eq!(
            (record["phase"].as_str(), record["worker"].as_str()),
            ("submitting", one.name().as_str())
        );
        assert_eq!(bench.events_of(&id), ["queued", "started"]);
    }
}

#[test]
fn a_claim_whose_answer_was_lost_gives_the_same_jobs_under_the_same_tokens() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b", "c"]);
    one.proxy.lose_an_answer();
    let flights = one.claim(2);
    assert!(one.proxy.is_passing());
    assert_eq!(flights.len(), 2);
    assert_eq!(
        (flights[0].model.is_some(), flights[0].order.is_some()),
        (true, true)
    );
    for flight in &flights {
        assert_eq!(
            bench.field(flight.id.as_str(), "token"),
            Some(flight.token.0.to_string())
        );
        assert_eq!(bench.events_of(flight.id.as_str()), ["queued", "started"]);
    }
    assert_eq!(one.session.claims().expect("answers").len(), 2);
    assert_eq!(bench.ready("default"), ["c"]);
}

#[test]
fn a_repeated_claim_that_finds_one_job_more_gives_no_token_twice() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b"]);
    // A claim looks at 64 ids, so that it is at its end before it comes to `b`; its repeat begins behind them, as if
    // `b` had come in only now.
    for _ in 0..63 {
        bench.ask::<()>("LINSERT t:ready:default BEFORE a ghost");
    }
    one.proxy.lose_an_answer();
    let flights = one.claim(2);
    assert!(one.proxy.is_passing());
    let ids: Vec<&str> = flights.iter().map(|flight| flight.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_ne!(flights[0].token, flights[1].token);
    for flight in &flights {
        let id = flight.id.as_str();
        let token = flight.token.0.to_string();
        assert_eq!(bench.field(id, "token"), Some(token), "{id}");
        assert_eq!(bench.events_of(id), ["queued", "started"]);
    }
    assert_eq!(one.session.claims().expect("answers").len(), 2);
}

#[test]
fn a_claim_that_comes_after_its_own_repeat_takes_nothing() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b"]);
    one.proxy.hold_a_request();
    let flight = one.claim_one();
    assert_eq!(flight.id.as_str(), "a");
    assert_eq!(one.proxy.release(), 1);
    // `b` under the token of `a` would be a stranger that looks like an acquaintance.
    assert_eq!(bench.ready("default"), ["b"]);
    assert_eq!(one.session.claims().expect("answers").len(), 1);
    // Nor after a later claim.
    one.proxy.hold_a_request();
    let none = one.session.claim(1, true).expect("repeated");
    assert!(none.jobs.is_empty());
    fill(&bench, &one, &["c"]);
    assert_eq!(one.claim_one().id.as_str(), "b");
    assert_eq!(one.proxy.release(), 1);
    assert_eq!(bench.ready("default"), ["c"]);
}

#[test]
fn what_is_no_record_takes_none_of_those_that_are_claimed_with_it() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b", "c", "d"]);
    bench.ask::<()>("DEL t:job:b");
    bench.ask::<()>("SET t:job:b x");
    bench.ask::<()>("DEL t:job:c");
    let flights = one.claim(4);
    assert_eq!(flights.len(), 2);
    assert_eq!((flights[0].id.as_str(), flights[1].id.as_str()), ("a", "d"));
    assert_eq!(one.session.claims().expect("answers").len(), 2);
    assert!(bench.ready("default").is_empty());
}

#[test]
fn a_lost_claim_does_not_give_what_went_back_meanwhile() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    let flight = one.claim_one();
    assert_eq!(one.session.disown("a", &flight.token.0), Ok(true));
    assert_eq!(one.session.disown("a", &flight.token.0), Ok(false));
    assert_eq!(bench.ready("default"), ["a"]);
    assert_eq!(
        (bench.field("a", "phase"), bench.field("a", "worker")),
        (None, None)
    );
    let other = two.claim_one();
    assert_ne!(other.token, flight.token);
    assert_eq!(one.session.disown("a", &flight.token.0), Ok(false));
    assert_eq!(bench.field("a", "token"), Some(other.token.0.to_string()));
}

#[test]
fn paused_or_full_only_what_is_paid_is_claimed_and_settling_stops_all() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b"]);
    let mut flight = one.claim_one();
    one.submitted(&mut flight, "r");
    one.session.give_back(&[&flight]).expect("given");
    assert_eq!(bench.ready("resume"), ["a"]);
    one.session
        .settle(Duration::from_secs(60))
        .expect("settles");
    assert_eq!(one.session.claim(2, false).unwrap_err(), Denied::Settling);
    one.session.settled().expect("settled");
    one.session
        .pause("no money", "me", Duration::from_secs(60))
        .expect("pauses");
    assert!(one.beat().paused);
    let claim = one.session.claim(2, false).expect("claims");
    assert_eq!((claim.jobs.len(), claim.more), (1, false));
    let again = flight_of(claim);
    assert_eq!(
        (again.phase, again.request.clone()),
        (Phase::Polling, Some(written("r")))
    );
    one.session.give_back(&[&again]).expect("given");
    bench.ask::<()>("DEL t:paused");
    let claim = one.session.claim(2, true).expect("claims");
    assert_eq!((claim.jobs.len(), claim.more), (1, false));
    assert_eq!(bench.ready("default"), ["b"]);
}

#[test]
fn a_settling_that_a_clock_ahead_began_lasts_no_longer_than_any_other() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let looks: [(&str, &dyn Fn()); 2] = [
        ("claim", &|| {
            let denied = one.session.claim(1, false).unwrap_err();
            assert_eq!(denied, Denied::Settling);
        }),
        ("audit", &|| assert!(one.audit().is_empty())),
    ];
    for (whole, most) in [(5000, 5000), (2000, 2000), (0, 2000)] {
        for (who, look) in &looks {
            bench.ask::<()>("DEL t:settling");
            match whole {
                // One of a version that did not say how long it is.
                0 => bench.ask::<()>("SET t:settling 1"),
                ms => one
                    .session
                    .settle(Duration::from_millis(ms))
                    .expect("settles"),
            }
            // As it looks once the clock has gone three hours back.
            let set: i64 = bench.ask("PEXPIRE t:settling 10800000");
            assert_eq!(set, 1);
            look();
            let left: i64 = bench.ask("PTTL t:settling");
            assert!((1..=most).contains(&left), "{who}, {whole}: {left} ms");
        }
    }
    bench.ask::<()>("DEL t:settling");
    assert_eq!(one.claim_one().id.as_str(), "a");
}

#[test]
fn a_pause_ends_by_itself_and_a_persons_pause_is_not_shortened() {
    let bench = Bench::start();
    let one = bench.instance();
    one.session
        .pause("x", "me", Duration::from_secs(30))
        .expect("pauses");
    assert_eq!(bench.ttl("paused"), 30);
    let fields: std::collections::BTreeMap<String, String> = bench.ask("HGETALL t:paused");
    let time = |name: &str| fields[name].parse::<i64>().expect("a time");
    assert_eq!(time("until") - time("since"), 30_000);
    bench.ask::<()>("DEL t:paused");
    bench.ask::<()>("HSET t:paused reason holidays by anna since 1");
    one.session
        .pause("x", "me", Duration::from_secs(30))
        .expect("pauses");
    assert_eq!(bench.ttl("paused"), -1);
    assert_eq!(bench.ask::<String>("HGET t:paused by"), "anna");
}

#[test]
fn a_workers_pause_that_is_made_anew_began_with_the_first_one() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    let pause = |worker: &Instance, reason: &str| {
        let paused = worker.session.pause(reason, "me", Duration::from_secs(30));
        paused.expect("pauses");
        bench.ask::<i64>("HGET t:paused since")
    };
    let since = pause(&one, "no_balance: User is locked");
    // Its half minute is over, and another worker meets the same trouble a minute later.
    bench.ask::<()>("DEL t:paused");
    let lapse = |ms: i64| {
        let until = bench.ask::<i64>("HGET t:stats pause:until");
        bench.ask::<()>(&format!("HSET t:stats pause:until {}", until - ms));
        bench.ask::<()>(&format!("HSET t:stats pause:since {}", since - ms));
    };
    lapse(90_000);
    assert_eq!(pause(&two, "no_balance: Exhausted balance"), since - 90_000);
    // Another trouble is another pause, and so is the same one after a while.
    bench.ask::<()>("DEL t:paused");
    assert!(pause(&two, "auth: no") >= since);
    bench.ask::<()>("DEL t:paused");
    lapse(160_000);
    assert!(pause(&two, "auth: no") >= since);
}

#[test]
fn what_expired_is_told_and_not_paid_for() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b"]);
    bench.ask::<()>("HSET t:job:a expires_at 1000");
    let flight = one.claim_one();
    assert_eq!(flight.phase, Phase::Telling);
    assert_eq!(
        flight.failure.as_ref().map(|(kind, _)| kind.as_str()),
        Some("expired")
    );
    assert_eq!(bench.events_of("a"), ["queued"], "it never started");
    // Paid already: it goes on, however old.
    let mut paid = one.claim_one();
    one.submitted(&mut paid, "r");
    bench.ask::<()>("HSET t:job:b expires_at 1000");
    one.session.give_back(&[&paid]).expect("given");
    assert_eq!(one.claim_one().phase, Phase::Polling);
}

#[test]
fn a_record_of_a_newer_format_is_left_alone_and_one_without_stops_nobody() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b", "c"]);
    bench.ask::<()>("HSET t:job:a v 2");
    bench.ask::<()>("HDEL t:job:b v");
    let flights = one.claim(3);
    let ids: Vec<&str> = flights.iter().map(|flight| flight.id.as_str()).collect();
    assert_eq!(ids, ["b", "c"]);
    assert_eq!(
        (bench.state("a").as_str(), bench.later()),
        ("later", vec!["a".into()])
    );
    assert_eq!(bench.field("a", "token"), None);
}

#[test]
fn ids_twice_in_a_list_or_of_nobody_are_claimed_at_most_once() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    for id in ["a", "ghost", "a"] {
        bench.ask::<()>(&format!("LPUSH t:ready:high {id}"));
    }
    assert_eq!(one.claim(5).len(), 1);
    assert!(one.claim(5).is_empty());
    assert_eq!(bench.events_of("a"), ["queued", "started"]);
}

#[test]
fn the_bell_is_capped_and_rings_while_ids_wait() {
    let bench = Bench::start();
    let one = bench.instance();
    let ids: Vec<String> = (0..90).map(|n| format!("a{n}")).collect();
    fill(
        &bench,
        &one,
        &ids.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    for _ in 0..80 {
        one.claim(1);
        assert!(bench.ask::<u64>("LLEN t:bell") <= 64);
    }
    assert_eq!(bench.ask::<u64>("LLEN t:bell"), 64);
    bench.ask::<()>("DEL t:bell");
    one.beat();
    assert_eq!(bench.ask::<u64>("LLEN t:bell"), 1);
    one.claim(20);
    assert_eq!(bench.ask::<u64>("EXISTS t:bell"), 0);
    one.beat();
    assert_eq!(bench.ask::<u64>("EXISTS t:bell"), 0);
}
