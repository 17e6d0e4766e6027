//! Before and after of a retry, in every state, by two at once, and with what comes late of the old life.

use super::super::view::View;
use super::super::*;
use super::bench::*;
use super::fair::{bring, line, set, slots};
use crate::job::Phase;

fn ids(names: &[&str]) -> Vec<JobId> {
    let id = |name: &&str| JobId::new(name).expect("an id");
    names.iter().map(id).collect()
}

fn retry(bench: &Bench, names: &[&str]) -> Vec<Retry> {
    let tried = bench.view().retry(&ids(names), false).expect("answers");
    tried.into_iter().map(|one| one.retry).collect()
}

/// A job that failed before fal had it, as `kind`.
fn dead(bench: &Bench, one: &Instance, id: &str, more: &str) -> Flight {
    bench.push(&job(id, more));
    one.intake();
    let mut flight = one.claim_one();
    assert_eq!(one.end(&mut flight, EndState::Dead), Written::Ok);
    flight
}

/// A job whose result was there and could not be delivered.
fn undelivered(bench: &Bench, one: &Instance, id: &str) -> Flight {
    bench.push(&job(id, r#""telegram":{"chat_id":7}"#));
    one.intake();
    let mut flight = one.claim_one();
    assert_eq!(one.submitted(&mut flight, &format!("r-{id}")), Written::Ok);
    let mut write = completed(&mut flight);
    if let Write::Save { patch, .. } = &mut write {
        patch.set.push(("echoes", "[1]".to_owned()));
    }
    assert_eq!(one.write(&mut flight, &write), Written::Ok);
    let Write::End { state, mut patch } = ending(&flight, EndState::Dead) else {
        unreachable!("an end");
    };
    patch.set.retain(|(name, _)| *name != "kind");
    let patch = patch.set("kind", "telegram").set("error", "no");
    assert_eq!(
        one.write(&mut flight, &Write::End { state, patch }),
        Written::Ok
    );
    flight
}

#[test]
fn a_dead_letter_comes_in_once_more_and_nothing_of_its_old_life_but_its_requests_is_left() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(&job(
        "a",
        r#""user_id":"u","meta":{"o":1},"priority":"high""#,
    ));
    one.intake();
    let mut flight = one.claim_one();
    assert_eq!(one.submitted(&mut flight, "r-1"), Written::Ok);
    for (field, value) in [
        ("crashes", "2"),
        ("rung", "x"),
        ("told", "yes"),
        ("rated", "1"),
    ] {
        bench.ask::<()>(&format!("HSET t:job:a {field} {value}"));
    }
    let token = flight.token.0.clone();
    assert_eq!(one.end(&mut flight, EndState::Dead), Written::Ok);
    assert_eq!(bench.ask::<Vec<String>>("ZRANGE t:dead 0 -1"), ["a"]);
    let before = bench.dump();
    let looked = bench.view().retry(&ids(&["a"]), true).expect("answers");
    assert_eq!(
        (
            looked[0].retry,
            looked[0].kind.as_str(),
            looked[0].charged.as_str()
        ),
        (Retry::Generate, "unavailable", "unknown")
    );
    assert_eq!(bench.dump(), before, "a look changes nothing");

    let first_queued = bench.field("a", "queued_at").expect("a time");
    assert_eq!(retry(&bench, &["a"]), [Retry::Generate]);
    let mut after = bench.record("a");
    let mut take = |name: &str| after.remove(name);
    let now = bench.now();
    for name in ["queued_at", "retried_at"] {
        let at: i64 = take(name).and_then(|at| at.parse().ok()).expect(name);
        assert!((now - 5000..=now).contains(&at), "{name}");
    }
    let expires: i64 = take("expires_at")
        .and_then(|at| at.parse().ok())
        .expect("an end");
    assert!(
        (expires - now - 86_400_000).abs() < 5000,
        "a day where nobody said else"
    );
    assert_eq!(take("first_queued_at"), Some(first_queued));
    assert_eq!(
        (take("past"), take("tried")),
        (Some(token.to_string()), Some("r-1".to_owned()))
    );
    let left: Vec<_> = after
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let expected = [
        ("attempt", "0"),
        ("life", "2"),
        ("max_attempts", "3"),
        ("meta", r#"{"o":1}"#),
        ("model", "a/b"),
        ("priority", "high"),
        ("state", "queued"),
        ("user", "u"),
        ("v", "1"),
    ];
    assert_eq!(left, expected);
    assert_eq!((bench.ttl("job:a"), bench.ttl("spec:a")), (-1, -1));
    assert_eq!(bench.ready("high"), ["a"]);
    assert_eq!(bench.ask::<u64>("ZCARD t:dead"), 0);
    assert_eq!(
        bench.events_of("a"),
        ["queued", "started", "submitted", "failed", "queued"]
    );
    let (_, queued) = bench.events().pop().expect("events");
    assert_eq!(
        (queued["life"].as_str(), queued["meta"].as_str()),
        ("2", r#"{"o":1}"#)
    );

    // Twice is once: whoever comes second finds it open, also when it has begun.
    let before = bench.dump();
    assert_eq!(retry(&bench, &["a"]), [Retry::Open]);
    assert_eq!(bench.dump(), before);
    let mut flight = one.claim_one();
    assert_eq!(
        (flight.attempt, flight.charged),
        (0, crate::job::Charged::No)
    );
    assert_eq!(retry(&bench, &["a"]), [Retry::Open]);
    assert_eq!(one.submitted(&mut flight, "r-2"), Written::Ok);
    assert_eq!(one.end(&mut flight, EndState::Done), Written::Ok);
    let ends = bench.events_of("a");
    assert_eq!(&ends[5..], ["started", "submitted", "done"]);
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn two_operators_at_once_make_one_new_life_of_each() {
    let bench = Bench::start();
    let one = bench.instance();
    let names: Vec<String> = (0..120).map(|n| format!("j{n}")).collect();
    for name in &names {
        dead(&bench, &one, name, "");
    }
    let ids: Vec<JobId> = names.iter().filter_map(|name| JobId::new(name)).collect();
    let revived = std::thread::scope(|scope| {
        let operators: Vec<_> = [(); 3]
            .into_iter()
            .map(|()| {
                let (ids, mut view) = (&ids, bench.view());
                scope.spawn(move || {
                    let tried = view.retry(ids, false).expect("answers");
                    tried.iter().filter(|one| one.retry.revives()).count()
                })
            })
            .collect();
        let counts = operators
            .into_iter()
            .map(|operator| operator.join().expect("ends"));
        counts.sum::<usize>()
    });
    assert_eq!(revived, 120);
    assert_eq!(
        bench.ready("default"),
        names,
        "in the order in which they were named"
    );
    for name in &names {
        assert_eq!(
            bench.events_of(name),
            ["queued", "started", "failed", "queued"]
        );
        assert_eq!(bench.field(name, "life").as_deref(), Some("2"));
    }
    assert_eq!(bench.ask::<u64>("ZCARD t:dead"), 0);
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn what_is_known_of_a_result_is_not_paid_for_again() {
    let bench = Bench::start();
    let one = bench.instance();
    undelivered(&bench, &one, "known");
    // Its result was too large for the record.
    undelivered(&bench, &one, "large");
    undelivered(&bench, &one, "old");
    for id in ["large", "old"] {
        bench.ask::<()>(&format!("HDEL t:job:{id} result"));
    }
    bench.ask::<()>(&format!(
        "HSET t:job:old completed_at {}",
        bench.now() - 3_700_000
    ));
    let left = bench.view().retry(&ids(&["known"]), true).expect("answers");
    assert_eq!(left[0].messages, 0);
    bench.ask::<()>("HSET t:job:known message_ids [5,6]");
    let left = bench.view().retry(&ids(&["known"]), true).expect("answers");
    assert_eq!(left[0].messages, 2);

    let tried = retry(&bench, &["known", "large", "old"]);
    assert_eq!(tried, [Retry::Deliver, Retry::Fetch, Retry::Generate]);
    assert_eq!(bench.ready("resume"), ["known", "large"]);
    assert_eq!(bench.ready("default"), ["old"]);
    for id in ["known", "large"] {
        let record = bench.record(id);
        let word = |name: &str| record.get(name).map(String::as_str);
        let request = format!("r-{id}");
        assert_eq!(word("request_id"), Some(request.as_str()), "{id}");
        assert_eq!(
            word("charged"),
            Some("unknown"),
            "{id}: it was paid for before"
        );
        for gone in [
            "units",
            "kind",
            "error",
            "token",
            "ended_at",
            "message_ids",
            "tried",
        ] {
            assert_eq!(word(gone), None, "{id} {gone}");
        }
        // It says what of the known result is no part of it; one that is read anew is looked through anew.
        let known = (id == "known").then_some("[1]");
        assert_eq!(word("echoes"), known, "{id}");
    }
    // The time that a result may wait for Telegram begins anew.
    let at: i64 = bench
        .field("known", "completed_at")
        .and_then(|at| at.parse().ok())
        .expect("a time");
    assert!(bench.now() - at < 5000);
    let mut flights = one.claim(9);
    let phases: Vec<_> = flights.iter().map(|flight| flight.phase).collect();
    assert_eq!(
        phases,
        [Phase::Delivering, Phase::Collecting, Phase::Submitting]
    );
    assert!(flights[0].result.is_some() && flights[0].target.is_some());
    assert_eq!(flights[0].echoes, "[1]");
    let free: Vec<_> = flights.iter().map(|flight| flight.free).collect();
    assert_eq!(free, [true, true, false], "as it was said");
    assert_eq!(flights[2].tried, "r-old");
    for flight in &mut flights {
        assert_eq!(one.end(flight, EndState::Done), Written::Ok);
    }

    // So it is with all that failed after fal's part, and with nothing else.
    for (id, kind, completed, word) in [
        ("crash", "crashed", true, Retry::Fetch),
        ("crash-before", "crashed", false, Retry::Fetch),
        ("sent", "telegram", true, Retry::Fetch),
        ("file", "file_too_big", true, Retry::Fetch),
        ("file-before", "file_too_big", false, Retry::Fetch),
        ("unread", "bad_answer", false, Retry::Fetch),
        ("blocked", "chat_unreachable", true, Retry::Fetch),
        // It was given up before there was a result.
        ("blocked-before", "chat_unreachable", false, Retry::Generate),
        ("late", "timeout", false, Retry::Generate),
    ] {
        undelivered(&bench, &one, id);
        bench.ask::<()>(&format!("HSET t:job:{id} kind {kind}"));
        bench.ask::<()>(&format!("HDEL t:job:{id} result"));
        if !completed {
            bench.ask::<()>(&format!("HDEL t:job:{id} completed_at"));
        }
        assert_eq!(retry(&bench, &[id]), [word], "{id}: {kind}");
        let mut flight = one.claim_one();
        let phase = match (word, completed) {
            (Retry::Generate, _) => Phase::Submitting,
            (_, true) => Phase::Collecting,
            (_, false) => Phase::Polling,
        };
        assert_eq!(flight.phase, phase, "{id}: {kind}");
        assert_eq!(flight.free, word == Retry::Fetch, "{id}: {kind}");
        assert_eq!(one.end(&mut flight, EndState::Done), Written::Ok);
    }
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn only_a_request_that_is_known_and_stands_in_fals_queue_is_fetched() {
    for (was, word, tried) in [
        ("HSET t:job:a path p/r-a", Retry::Fetch, None),
        (
            "HSET t:job:a path p/r-a kind bad_answer",
            Retry::Fetch,
            None,
        ),
        (
            "HSET t:job:a kind bad_answer via direct",
            Retry::Generate,
            Some("r-a"),
        ),
        ("HSET t:job:a via direct", Retry::Generate, Some("r-a")),
        ("HDEL t:job:a request_id", Retry::Generate, None),
        (
            "HSET t:job:a kind unavailable tried r-a",
            Retry::Generate,
            Some("r-a"),
        ),
    ] {
        let bench = Bench::start();
        let one = bench.instance();
        undelivered(&bench, &one, "a");
        bench.ask::<()>("HDEL t:job:a result");
        bench.ask::<()>(was);
        assert_eq!(retry(&bench, &["a"]), [word], "{was}");
        assert_eq!(bench.field("a", "tried").as_deref(), tried, "{was}");
        let path = (word == Retry::Fetch).then_some("p/r-a");
        assert_eq!(
            bench.field("a", "free").is_some(),
            word == Retry::Fetch,
            "{was}"
        );
        assert_eq!(bench.field("a", "path").as_deref(), path, "{was}");
    }
}

#[test]
fn that_a_retry_is_free_outlives_its_owner_and_a_redis_that_forgot_and_ends_with_the_next_retry() {
    let bench = Bench::start();
    let one = bench.instance();
    undelivered(&bench, &one, "a");
    bench.ask::<()>("HDEL t:job:a result");
    assert_eq!(retry(&bench, &["a"]), [Retry::Fetch]);
    assert!(one.claim_one().free);
    let two = bench.instance();
    one.dies(&two, true);
    let mut flight = two.claim_one();
    assert!(flight.free, "taken over");
    let claims = format!("t:claims:{}", two.store.identity().instance);
    bench.ask::<()>(&format!("DEL t:job:a {claims}"));
    let lost = two.session.reassert(&[super::remembered(&flight)]);
    assert_eq!(lost.expect("answers"), []);
    assert_eq!(
        bench.field("a", "free").as_deref(),
        Some("1"),
        "re-asserted"
    );
    // fal's own word that there is nothing: the next retry is a paid one.
    assert_eq!(two.end(&mut flight, EndState::Dead), Written::Ok);
    assert_eq!(retry(&bench, &["a"]), [Retry::Generate]);
    assert_eq!(bench.field("a", "free"), None);
    assert!(!two.claim_one().free);
}

#[test]
fn what_has_no_new_life_says_why_and_stays_as_it_is() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(r#"{"id":"bad","model":"a/b","input":null}"#);
    one.intake();
    for (id, state) in [("done", EndState::Done), ("cancelled", EndState::Cancelled)] {
        bench.push(&job(id, ""));
        one.intake();
        let mut flight = one.claim_one();
        assert_eq!(one.end(&mut flight, state), Written::Ok);
    }
    dead(&bench, &one, "newer", "");
    bench.ask::<()>("HSET t:job:newer v 2");
    dead(&bench, &one, "lost", "");
    bench.ask::<()>("DEL t:spec:lost");
    dead(&bench, &one, "again", "");
    bench.ask::<()>("HSET t:job:again redelivers done");
    let keeps_nothing = bench.instance_keeping(Keep {
        dead: Duration::ZERO,
        ..KEEP
    });
    dead(&bench, &keeps_nothing, "bare", "");
    bench.push(&job("waits", ""));
    one.intake();
    let cases = [
        ("bad", Retry::Invalid),
        ("done", Retry::Done),
        ("cancelled", Retry::Cancelled),
        ("newer", Retry::Newer),
        ("lost", Retry::Bare),
        ("again", Retry::Redelivery),
        ("bare", Retry::Bare),
        ("waits", Retry::Open),
        ("nobody", Retry::Gone),
    ];
    let before = bench.dump();
    for (id, expected) in cases {
        assert_eq!(retry(&bench, &[id]), [expected], "{id}");
    }
    assert_eq!(bench.dump(), before);
}

#[test]
fn it_takes_its_users_turn_and_the_time_that_the_workers_were_told() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_concurrency", "1");
    set(&bench, "max_wait", "60000");
    one.session.apply_limits(9).expect("answers");
    bring(&bench, &one, "a", 1, r#""priority":"low""#);
    let mut first = one.claim_one();
    bench.ask::<()>("HSET t:job:a1 priority default aged_at 1");
    assert_eq!(one.end(&mut first, EndState::Dead), Written::Ok);
    bring(&bench, &one, "a", 3, r#""priority":"low""#);
    let running = one.claim_one();
    assert_eq!(running.id.as_str(), "a2");
    // It had come in as `low` and aged; now it comes in as `low` once more, behind the others.
    assert_eq!(retry(&bench, &["a1"]), [Retry::Generate]);
    assert_eq!(line(&bench, "low", "a"), ["a3", "a1"]);
    assert_eq!(bench.state("a1"), "waiting");
    let expires: i64 = bench
        .field("a1", "expires_at")
        .and_then(|at| at.parse().ok())
        .expect("an end");
    assert!((expires - bench.now() - 60_000).abs() < 5000);
    let mut flight = running;
    for next in ["a3", "a1"] {
        assert_eq!(one.end(&mut flight, EndState::Done), Written::Ok);
        flight = one.claim_one();
        assert_eq!(flight.id.as_str(), next);
        assert_eq!(slots(&bench, "a"), [next]);
    }
    assert_eq!(one.end(&mut flight, EndState::Dead), Written::Ok);
    set(&bench, "max_wait", "0");
    assert_eq!(retry(&bench, &["a1"]), [Retry::Generate]);
    assert_eq!(bench.field("a1", "expires_at"), None, "off");
    assert_eq!(bench.field("a1", "life").as_deref(), Some("3"));
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn no_late_write_of_the_old_life_touches_the_new_one() {
    let bench = Bench::start();
    let one = bench.instance();
    let old = dead(&bench, &one, "a", "");
    let end = Write::End {
        state: EndState::Dead,
        patch: Patch::default().set("kind", "unavailable"),
    };
    assert_eq!(retry(&bench, &["a"]), [Retry::Generate]);
    let before = bench.dump();
    // The writes of its owner, made again as a successor makes what the step file holds.
    let later = retrying(&old, Duration::from_secs(1));
    let save = Write::Save {
        patch: Patch::default().set("phase", "telling"),
        count: None,
        large: None,
    };
    for write in [end, later, save] {
        for seq in [old.seq, old.seq + 1] {
            assert_eq!(
                one.session.write(&old, seq, &write),
                Ok(Written::Stale),
                "{write:?}"
            );
        }
    }
    // Nor does what an instance remembers of its ends, where Redis forgot other things.
    one.session.reassert_ended().expect("answers");
    assert_eq!(bench.dump(), before);
    // A request of the old life: nobody needs it, and nobody takes it for the new one's.
    let mut flight = Flight { seq: 9, ..old };
    let write = accepted(&mut flight, "late");
    assert_eq!(one.session.write(&flight, 10, &write), Ok(Written::Cancel));
    assert_eq!(bench.field("a", "request_id"), None);
    assert_eq!(bench.ready("default"), ["a"]);

    // One of the new life is taken up all the same.
    let mut owner = one.claim_one();
    let write = accepted(&mut owner, "r-2");
    let two = bench.instance();
    one.dies(&two, true);
    assert_eq!(bench.state("a"), "later");
    assert_eq!(one.session.write(&owner, 1, &write), Ok(Written::Stale));
    assert_eq!(bench.field("a", "request_id").as_deref(), Some("r-2"));
    assert!(two.audit_all(&bench, 100).is_empty());
}

#[test]
fn a_request_of_the_new_life_is_not_lost_with_a_claim_that_redis_forgot() {
    for asserts in [false, true] {
        let bench = Bench::start();
        let one = bench.instance();
        dead(&bench, &one, "a", "");
        assert_eq!(retry(&bench, &["a"]), [Retry::Generate]);
        let mut flight = one.claim_one();
        // The claim was in the tail that Redis lost.
        let claims = format!("t:claims:{}", one.store.identity().instance);
        bench.ask::<()>(&format!("HDEL {claims} a"));
        bench.ask::<()>("HDEL t:job:a token seq worker phase started_at");
        bench.ask::<()>("HSET t:job:a state queued");
        bench.ask::<()>("RPUSH t:ready:default a");
        if asserts {
            let mut fields = flight.fields();
            fields.retain(|(name, _)| *name != "started_at"); // no snapshot holds it
            let held = Remembered {
                id: flight.id.clone(),
                token: flight.token.clone(),
                seq: flight.seq,
                entry: flight.entry.clone(),
                gives_way: false,
                fields,
            };
            let lost = one.session.reassert_flights(&[held]);
            assert_eq!(lost.expect("answers"), []);
        }
        let write = accepted(&mut flight, "r-2");
        let written = one.session.write(&flight, 1, &write).expect("answers");
        let expected = if asserts { Written::Ok } else { Written::Stale };
        assert_eq!(written, expected, "and never: cancel it");
        assert_eq!(bench.field("a", "request_id").as_deref(), Some("r-2"));
    }
}

#[test]
fn a_new_life_that_redis_forgot_is_written_down_again() {
    for ended in [false, true] {
        let bench = Bench::start();
        let one = bench.instance();
        let old = dead(&bench, &one, "a", "");
        let told = |name: &str| bench.field("a", name).expect("it is there");
        let lost = format!(
            "HSET t:job:a v 1 state dead kind unavailable request_id r-1 model {} token {} seq {} queued_at {} ended_at {}",
            told("model"),
            old.token.0,
            told("seq"),
            told("queued_at"),
            told("ended_at")
        );
        let before = old.queued_at;
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(retry(&bench, &["a"]), [Retry::Generate]);
        let mut flight = one.claim_one();
        assert!(flight.queued_at > before);
        assert_eq!(one.submitted(&mut flight, "r-2"), Written::Ok);
        if ended {
            assert_eq!(one.end(&mut flight, EndState::Done), Written::Ok);
        }
        let claims = format!("t:claims:{}", one.store.identity().instance);
        for word in ["DEL t:job:a", &lost, "EXPIRE t:job:a 99", "ZADD t:dead 1 a"] {
            bench.ask::<()>(word);
        }
        if !ended {
            bench.ask::<()>("EXPIRE t:spec:a 99");
        }
        bench.ask::<()>(&format!("HDEL {claims} a"));
        // The old life's end is remembered as well, and is not written over the new one.
        if ended {
            one.session.reassert_ended().expect("answers");
            assert_eq!(bench.state("a"), "done");
        } else {
            let held = super::remembered(&flight);
            let lost = one.session.reassert(&[held]).expect("answers");
            assert_eq!(lost, []);
            assert_eq!(bench.state("a"), "running");
            assert_eq!((bench.ttl("job:a"), bench.ttl("spec:a")), (-1, -1));
            assert_eq!(bench.field("a", "ended_at"), None);
            assert_eq!(one.end(&mut flight, EndState::Done), Written::Ok);
        }
        assert_eq!(bench.field("a", "request_id").as_deref(), Some("r-2"));
        assert_eq!(bench.field("a", "tried").as_deref(), Some("r-1"));
        assert_eq!(bench.field("a", "kind"), None);
        assert_eq!(bench.field("a", "life").as_deref(), Some("2"));
        assert_eq!(bench.field("a", "past"), Some(old.token.0.to_string()));
        assert!(bench.ask::<Vec<String>>("ZRANGE t:dead 0 -1").is_empty());
    }
}

#[test]
fn who_had_a_dead_job_before_does_not_revive_it_though_the_clock_was_set_back_since() {
    let bench = Bench::start();
    let one = bench.instance();
    let old = dead(&bench, &one, "a", "");
    bench.ask::<()>(&format!(
        "HSET t:job:a token another ended_at {}",
        old.queued_at.0 - 5000
    ));
    let before = bench.dump();
    let lost = one.session.reassert(&[super::remembered(&old)]);
    assert_eq!(lost, Ok(vec![old.id.clone()]));
    assert_eq!(bench.dump(), before);
}

#[test]
fn a_retry_of_what_its_chat_could_not_be_sent_is_tried_in_spite_of_that() {
    let bench = Bench::start();
    let one = bench.instance();
    one.store.set_bot("42:secret");
    one.session.mark_unreachable("7").expect("answers");
    bench.push(&job("a", r#""telegram":{"chat_id":7}"#));
    one.intake();
    let mut flight = one.claim_one();
    assert_eq!(flight.phase, Phase::Telling, "not paid for");
    assert_eq!(one.end(&mut flight, EndState::Dead), Written::Ok);
    assert_eq!(retry(&bench, &["a"]), [Retry::Generate]);
    assert_eq!(one.claim_one().phase, Phase::Submitting);
}

#[test]
fn without_memory_nothing_happens() {
    let bench = Bench::start();
    let one = bench.instance();
    dead(&bench, &one, "a", "");
    let before = bench.dump();
    bench.oom();
    assert!(bench.view().retry(&ids(&["a"]), false).is_err());
    bench.memory_back();
    assert_eq!(bench.dump(), before);
    assert_eq!(retry(&bench, &["a"]), [Retry::Generate]);
}

#[test]
fn all_dead_letters_are_read_oldest_first_with_what_they_are_chosen_by() {
    let bench = Bench::start();
    let one = bench.instance();
    for n in 0..30 {
        dead(&bench, &one, &format!("j{n}"), r#""user_id":"u""#);
        bench.ask::<()>(&format!("ZADD t:dead {} j{n}", 1000 - n));
    }
    let mut view: View = bench.view();
    let letters = view.dead_letters().expect("answers");
    let names: Vec<String> = letters.iter().map(|letter| letter.id.to_string()).collect();
    let expected: Vec<String> = (0..30).rev().map(|n| format!("j{n}")).collect();
    assert_eq!(names, expected);
    let one = &letters[0];
    assert_eq!(
        (one.kind.as_str(), one.model.as_str(), one.user.as_str()),
        ("unavailable", "a/b", "u")
    );
}
