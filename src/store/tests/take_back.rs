//! Jobs that come back: to the front or the back, from a crash, from an owner that is gone.

use super::*;
use crate::job::flight::Doubt;

// ---- front and back

#[test]
fn unpaid_jobs_come_back_to_the_front_and_a_first_not_before_to_the_back() {
    let bench = Bench::start();
    let one = bench.instance();
    for id in ["n1", "n2", "n3"] {
        bench.push(&job(id, r#""not_before":4000000000"#));
    }
    fill(&bench, &one, &["d1", "d2", "d3", "d4"]);
    let mut flights = one.claim(2);
    assert_eq!(
        one.session.give_back(&flights.iter().collect::<Vec<_>>()),
        Ok(2)
    );
    assert_eq!(
        bench.ready("default"),
        ["d1", "d2", "d3", "d4"],
        "in their old order"
    );
    flights = one.claim(2);
    for flight in &mut flights {
        let later = retrying(flight, Duration::from_secs(5));
        assert_eq!(one.write(flight, &later), Written::Ok);
    }
    fill(&bench, &one, &["h1"]);
    bench.an_hour_passes(); // the order of `later`: d1, d2, n1, n2, n3
    one.proxy.lose_an_answer();
    one.session.promote(9).expect("promotes");
    assert_eq!(
        bench.ready("default"),
        ["d1", "d2", "d3", "d4", "n1", "n2", "n3"]
    );
    assert_eq!(
        one.claim_one().id.as_str(),
        "h1",
        "nothing unpaid passes a high job"
    );
    assert_eq!(
        (bench.field("n1", "not_before"), bench.field("n1", "due_at")),
        (None, None)
    );
    assert!(!one.beat().due);
}

#[test]
fn what_is_paid_comes_back_to_resume_with_all_that_is_known() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    one.submitted(&mut flight, "r1");
    flight.phase = Phase::Collecting;
    flight.running_at = Some(UnixMs(5));
    flight.doubt = Doubt::Send;
    one.proxy.lose_an_answer();
    one.session.give_back(&[&flight]).expect("given");
    assert_eq!(bench.ready("resume"), ["a"], "once");
    let again = one.claim_one();
    assert_eq!(
        (again.phase, again.running_at, again.doubt, again.seq),
        (Phase::Collecting, Some(UnixMs(5)), Doubt::Send, 0)
    );
    assert_eq!(again.request, Some(written("r1")));
}

#[test]
fn promote_passes_over_what_is_no_longer_waiting() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    bench.ask::<()>("ZADD t:later 1 a");
    bench.ask::<()>("ZADD t:later 1 ghost");
    assert_eq!(one.session.promote(9), Ok(0));
    assert!(bench.later().is_empty());
    assert_eq!(bench.ready("default"), ["a"]);
    assert_eq!(bench.ask::<u64>("EXISTS t:job:ghost"), 0);
}

// ---- crashes and takeovers

#[test]
fn a_panic_is_a_crash_and_the_third_ends_the_job() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(&job("a", r#""max_attempts":9"#));
    one.intake();
    for crashes in 1..=2 {
        let flight = one.claim_one();
        one.proxy.lose_an_answer();
        one.session
            .crash(&flight.id, &flight.token)
            .expect("answers");
        let record = bench.record("a");
        assert_eq!(
            (record["state"].as_str(), record["doubt"].as_str()),
            ("later", "submit")
        );
        assert_eq!(
            (record["crashes"].as_str(), record["attempt"].as_str()),
            (crashes.to_string().as_str(), crashes.to_string().as_str())
        );
        assert_eq!(record["charged"], "unknown");
        bench.an_hour_passes();
        one.session.promote(9).expect("promotes");
    }
    let flight = one.claim_one();
    assert_eq!(one.session.crash(&flight.id, &flight.token), Ok(3));
    let record = bench.record("a");
    assert_eq!(
        (
            record["phase"].as_str(),
            record["kind"].as_str(),
            record["attempt"].as_str()
        ),
        ("telling", "crashed", "3")
    );
    assert_eq!(bench.ready("resume"), ["a"]);
}

#[test]
fn a_job_whose_files_were_on_their_way_has_not_been_submitted() {
    let inputs = |text: &str| Write::Save {
        patch: Patch::default().set("inputs", text),
        count: None,
        large: None,
    };
    for how in ["panic", "death", "silence", "acting"] {
        let bench = Bench::start();
        let (one, two) = (bench.instance(), bench.instance());
        fill(&bench, &one, &["a"]);
        let mut flight = one.claim_one();
        one.write(&mut flight, &inputs("uploading"));
        match how {
            "panic" => assert_eq!(one.session.crash(&flight.id, &flight.token), Ok(1)),
            "death" => assert_eq!(one.dies_with(&two, true, None), 1),
            "silence" => assert_eq!(one.dies_with(&two, false, None), 1),
            // Redis forgot the write that came before the submit.
            _ => assert_eq!(one.dies_with(&two, true, Some(&[(&flight.token, true)])), 1),
        }
        let sent = how == "acting";
        let doubt = bench.field("a", "doubt");
        assert_eq!(doubt.as_deref(), sent.then_some("submit"), "{how}");
        bench.an_hour_passes();
        two.session.promote(9).expect("promotes");
        let flight = two.claim_one();
        assert_eq!(flight.attempt, u32::from(sent), "{how}");
        assert_eq!(flight.phase, Phase::Submitting, "{how}");
    }
    // All are there: the submit may have gone out.
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    one.write(&mut flight, &inputs("uploading"));
    one.write(&mut flight, &inputs(r#"{"at":1,"urls":[]}"#));
    one.dies_with(&two, true, None);
    assert_eq!(bench.field("a", "doubt").as_deref(), Some("submit"));
}

#[test]
fn a_panic_outside_a_submit_uses_no_attempt() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    one.submitted(&mut flight, "r1");
    for crashes in 1..=2 {
        assert_eq!(one.session.crash(&flight.id, &flight.token), Ok(crashes));
        let record = bench.record("a");
        assert_eq!(
            (
                record["state"].as_str(),
                record["phase"].as_str(),
                record["attempt"].as_str()
            ),
            ("queued", "polling", "1")
        );
        flight = one.claim_one();
    }
    assert_eq!(one.session.crash(&flight.id, &flight.token), Ok(3));
    let told = one.claim_one();
    assert_eq!(
        (told.phase, told.charged),
        (Phase::Telling, Charged::Unknown)
    );
    assert_eq!(
        told.failure.as_ref().map(|(kind, _)| kind.as_str()),
        Some("crashed")
    );
    assert_eq!(told.request, Some(written("r1")));
    // Telling fails too: it ends untold instead of turning for ever.
    assert_eq!(one.session.crash(&told.id, &told.token), Ok(4));
    let record = bench.record("a");
    assert_eq!(
        (
            record["state"].as_str(),
            record["kind"].as_str(),
            record["told"].as_str()
        ),
        ("dead", "crashed", "no")
    );
    assert_eq!((bench.ttl("job:a"), bench.ttl("spec:a")), (7200, 7200));
    assert_eq!(bench.ask::<Vec<String>>("ZRANGE t:dead 0 -1"), ["a"]);
    assert_eq!(
        bench.events_of("a").last().map(String::as_str),
        Some("failed")
    );
    assert_eq!(one.beat().claims, 0);
    assert_eq!(one.session.crash(&told.id, &told.token), Ok(0));
}

#[test]
fn what_a_delivery_left_in_the_chat_is_known_beyond_the_crash_that_ends_it() {
    const RUNG: &str = r#"{"i":1,"ed":true,"m":[5,6],"f":["A"],"fk":["0:photo"],"new":{"x":1}}"#;
    for how in ["panic", "death"] {
        let bench = Bench::start();
        let (one, two) = (bench.instance(), bench.instance());
        let status = r#""telegram":{"chat_id":7,"status_message_id":5}"#;
        for id in ["parts", "nothing", "torn", "again"] {
            bench.push(&job(id, status));
        }
        one.intake();
        let mut flights = one.claim(4);
        for flight in &mut flights {
            one.submitted(flight, "r");
            let save = completed(flight);
            one.write(flight, &save);
        }
        for (id, rung) in [
            ("parts", RUNG),
            ("nothing", r#"{"w":"u"}"#),
            ("torn", "{"),
            ("again", RUNG),
        ] {
            bench.ask::<()>(&format!("HSET t:job:{id} rung {rung} crashes 2"));
        }
        bench.ask::<()>(r#"HSET t:job:again redelivers parts file_ids ["A","B"]"#);
        if how == "panic" {
            for flight in &flights {
                assert_eq!(one.session.crash(&flight.id, &flight.token), Ok(3));
            }
        } else {
            let acting: Vec<_> = flights.iter().map(|flight| (&flight.token, true)).collect();
            assert_eq!(one.dies_with(&two, true, Some(&acting)), 4);
        }
        // A redelivery says itself what went out, and still knows what it was to send.
        let again = bench.record("again");
        assert_eq!(again["phase"], "telling", "{how}");
        assert_eq!(again["rung"], RUNG, "{how}");
        assert_eq!(again["file_ids"], r#"["A","B"]"#, "{how}");
        assert!(!again.contains_key("message_ids"), "{how}: {again:?}");
        let parts = bench.record("parts");
        assert!(!parts.contains_key("rung"), "{how}: {parts:?}");
        let left =
            ["phase", "message_ids", "file_ids", "file_kinds"].map(|name| parts[name].as_str());
        assert_eq!(
            left,
            ["telling", "[5,6]", r#"["A"]"#, r#"["0:photo"]"#],
            "{how}"
        );
        for id in ["nothing", "torn"] {
            assert_eq!(bench.field(id, "message_ids"), None, "{how} {id}");
        }
        // Nobody writes over what is there.
        for flight in two.claim(4) {
            if flight.redelivers.is_some() {
                assert_eq!(flight.rung, RUNG);
                continue;
            }
            let status = flight
                .target
                .as_ref()
                .and_then(|target| target.status_message_id);
            let spared = flight.id.as_str() == "parts";
            assert_eq!(
                (flight.phase, status),
                (Phase::Telling, (!spared).then_some(5)),
                "{how}"
            );
        }
    }
}

#[test]
fn what_is_over_by_its_crashes_starts_its_telling_without_doubt_and_keeps_its_cost() {
    // (phase, its cost before, after)
    for (phase, before, after) in [
        ("polling", "no", Charged::Unknown),
        ("delivering", "yes", Charged::Yes),
        ("telling", "no", Charged::No),
    ] {
        for how in ["panic", "death"] {
            let bench = Bench::start();
            let (one, two) = (bench.instance(), bench.instance());
            bench.push(&job("a", r#""telegram":{"chat_id":7}"#));
            one.intake();
            let mut flight = one.claim_one();
            one.submitted(&mut flight, "r1");
            bench.ask::<()>(&format!(
                "HSET t:job:a phase {phase} charged {before} doubt send crashes 2"
            ));
            match how {
                "panic" => drop(one.session.crash(&flight.id, &flight.token)),
                _ => drop(one.dies_with(&two, true, Some(&[(&flight.token, true)]))),
            }
            assert_eq!(bench.field("a", "doubt"), None, "{phase} {how}");
            if phase == "telling" && how == "panic" {
                let (_, said) = bench.events().pop().expect("an event");
                assert_eq!((&*said["event"], &*said["charged"]), ("failed", before));
                assert_eq!(said["request_id"], "r1");
                continue;
            }
            let told = two.claim_one();
            assert_eq!(
                (told.phase, told.charged, told.doubt),
                (Phase::Telling, after, Doubt::None),
                "{phase} {how}"
            );
        }
    }
}

#[test]
fn what_was_cancelled_and_cannot_be_told_ends_cancelled() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let flight = one.claim_one();
    bench.ask::<()>("HSET t:job:a phase telling kind cancelled crashes 2");
    assert_eq!(one.session.crash(&flight.id, &flight.token), Ok(3));
    assert_eq!(bench.state("a"), "cancelled");
    assert_eq!(bench.events_of("a"), ["queued", "started", "cancelled"]);
    assert_eq!(bench.ask::<u64>("ZCARD t:dead"), 0);
}

#[test]
fn who_has_lost_a_job_neither_gives_it_back_nor_breaks_it_off() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    let old = one.claim_one();
    one.session.give_back(&[&old]).expect("given");
    let mut new = two.claim_one();
    // In the submit, and with a request id.
    for _ in 0..2 {
        let before = bench.dump();
        assert_eq!(one.session.give_back(&[&old]), Ok(0));
        assert_eq!(one.session.crash(&old.id, &old.token), Ok(0));
        assert_eq!(bench.dump(), before);
        two.submitted(&mut new, "r1");
    }
}

#[test]
fn what_goes_back_unpaid_stands_in_its_own_priority() {
    for how in ["given back", "idle", "begun"] {
        let bench = Bench::start();
        let (one, two) = (bench.instance(), bench.instance());
        fill(&bench, &one, &["h", "d", "l"]);
        let flights = one.claim(3);
        let begun: Vec<_> = flights.iter().map(|one| (&one.token, false)).collect();
        match how {
            "given back" => drop(one.session.give_back(&flights.iter().collect::<Vec<_>>())),
            "idle" => drop(one.dies_with(&two, true, Some(&[]))),
            _ => drop(one.dies_with(&two, true, Some(&begun))),
        }
        for (list, id) in [("high", "h"), ("default", "d"), ("low", "l")] {
            assert_eq!(bench.ready(list), [id], "{how}");
        }
    }
}

#[test]
fn progress_forgets_crashes() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let flight = one.claim_one();
    one.session
        .crash(&flight.id, &flight.token)
        .expect("answers");
    bench.an_hour_passes();
    one.session.promote(9).expect("promotes");
    let mut flight = one.claim_one();
    one.submitted(&mut flight, "r1");
    assert_eq!(bench.field("a", "crashes"), None);
    one.session
        .crash(&flight.id, &flight.token)
        .expect("answers");
    let mut flight = one.claim_one();
    let save = completed(&mut flight);
    one.write(&mut flight, &save);
    assert_eq!(bench.field("a", "crashes"), None);
    one.session
        .crash(&flight.id, &flight.token)
        .expect("answers");
    assert_eq!(
        one.claim_one().doubt,
        Doubt::Send,
        "a message may have gone out"
    );
}

#[test]
fn a_takeover_counts_unknown_submits_and_lets_the_rest_go_on() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    bench.push(&job("polls", ""));
    bench.push(&job("sends", ""));
    bench.push(&job("fresh", ""));
    bench.push(&job("last", r#""max_attempts":1"#));
    bench.push(&job("direct", r#""via":"direct""#));
    one.intake();
    let mut flights = one.claim(5);
    assert_eq!(one.submitted(&mut flights[0], "r0"), Written::Ok);
    assert_eq!(one.submitted(&mut flights[1], "r1"), Written::Ok);
    let save = completed(&mut flights[1]);
    one.write(&mut flights[1], &save);
    let now = one.store.now().0;
    assert_eq!(one.dies(&two, false), 5);
    let mut resumed = bench.ready("resume");
    resumed.sort();
    assert_eq!(resumed, ["direct", "last", "polls", "sends"]);
    assert_eq!(bench.later(), ["fresh"]);
    let wait = bench.ask::<i64>("ZSCORE t:later fresh") - now;
    assert!(
        (34_000..35_500).contains(&wait),
        "he may still be sending: {wait}"
    );
    let fresh = bench.record("fresh");
    assert_eq!(
        (
            fresh["attempt"].as_str(),
            fresh["charged"].as_str(),
            fresh["crashes"].as_str(),
            fresh["doubt"].as_str()
        ),
        ("1", "unknown", "1", "submit")
    );
    for id in ["last", "direct"] {
        let record = bench.record(id);
        assert_eq!(
            (
                record["phase"].as_str(),
                record["kind"].as_str(),
                record["charged"].as_str()
            ),
            ("telling", "unavailable", "unknown"),
            "{id}"
        );
    }
    assert_eq!(
        (
            bench.field("polls", "attempt"),
            bench.field("polls", "crashes")
        ),
        (Some("1".into()), None)
    );
    assert_eq!(bench.field("sends", "doubt").as_deref(), Some("send"));
    // A repeat moves nothing; the takeover was announced once.
    assert_eq!(two.session.take_back(&one.name()), Ok(0));
    let events = bench.events();
    let takeovers: Vec<_> = events
        .iter()
        .filter(|(name, _)| name == "taken_over")
        .collect();
    assert_eq!(takeovers.len(), 1);
    let fields = &takeovers[0].1;
    assert_eq!(
        (
            fields["jobs"].as_str(),
            fields["instance"].as_str(),
            fields["by"].as_str(),
            fields["cause"].as_str()
        ),
        ("5", one.name().as_str(), two.name().as_str(), "lapsed")
    );
    assert_eq!(bench.ttl(&format!("worker:{}", one.name())), 86400);
}

#[test]
fn who_is_surely_gone_sends_no_more_so_his_submit_is_soon_repeated() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    one.claim_one();
    let now = bench.now();
    one.dies(&two, true);
    let wait = bench.ask::<i64>("ZSCORE t:later a") - now;
    assert!((2000..10_000).contains(&wait), "{wait}");
}

#[test]
fn ten_cut_off_submits_end_a_job() {
    let bench = Bench::start();
    let heir = bench.instance();
    bench.push(&job("a", r#""max_attempts":20"#));
    heir.intake();
    for _ in 0..10 {
        let one = bench.instance();
        one.claim_one();
        one.dies(&heir, true);
        bench.an_hour_passes();
        heir.session.promote(9).expect("promotes");
    }
    let record = bench.record("a");
    assert_eq!(
        (
            record["kind"].as_str(),
            record["phase"].as_str(),
            record["attempt"].as_str()
        ),
        ("crashed", "telling", "10")
    );
    assert_eq!(bench.ready("resume"), ["a"]);
}

#[test]
fn thousands_of_claims_are_taken_back_in_batches_without_a_rest() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    const JOBS: usize = 6000;
    for n in 0..JOBS {
        bench.push(&job(&format!("a{n}"), ""));
    }
    while one.intake().left > 0 {}
    let mut claimed = 0;
    while claimed < JOBS {
        claimed += one.claim(60).len();
    }
    assert_eq!(one.dies(&two, true), JOBS);
    assert_eq!(one.session.claims().expect("answers").len(), 0);
    assert_eq!(bench.later().len(), JOBS);
    while two.session.promote(500).expect("promotes") > 0 {}
    bench.an_hour_passes();
    while two.session.promote(500).expect("promotes") > 0 {}
    assert_eq!(bench.ready("default").len(), JOBS);
}

#[test]
fn who_lives_is_not_buried_and_his_jobs_are_not_taken() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    one.claim_one();
    let name = one.name();
    let (_, at) = two
        .session
        .instances()
        .expect("answers")
        .into_iter()
        .find(|(who, _)| *who == name)
        .expect("lives");
    let before = bench.dump();
    assert_eq!(
        two.session
            .bury(&name, at, Duration::from_secs(30), false, None),
        Ok(false)
    );
    assert_eq!(
        two.session.bury(&name, at - 1, Duration::ZERO, false, None),
        Ok(false),
        "it has beaten since"
    );
    assert_eq!(
        two.session
            .bury("nobody~00000000", 0, Duration::ZERO, true, None),
        Ok(false)
    );
    assert_eq!(two.session.take_back(&name), Ok(0));
    assert_eq!(bench.dump(), before);
}

#[test]
fn a_silent_instance_is_judged_by_its_own_lease_where_that_is_longer() {
    for (own, judges, silent_s, buried) in [
        (60, 3, 10, false),
        (60, 3, 61, true),
        (3, 60, 10, false),
        (3, 60, 61, true),
        (0, 3, 2, false), // of a version that does not say
        (0, 3, 4, true),
    ] {
        let bench = Bench::start();
        let one = bench.instance_with_lease(Duration::from_secs(own));
        let two = bench.instance_with_lease(Duration::from_secs(judges));
        if own == 0 {
            bench.ask::<()>(&format!("HDEL t:worker:{} lease", one.name()));
        }
        fill(&bench, &one, &["a"]);
        one.claim_one();
        let at = bench.now() - silent_s * 1000;
        bench.ask::<()>(&format!("ZADD t:workers {at} {}", one.name()));
        let said = two
            .session
            .bury(&one.name(), at, Duration::from_secs(judges), false, None)
            .expect("answers");
        let case = format!("own {own} s, the judge's {judges} s, silent for {silent_s} s");
        assert_eq!(said, buried, "{case}");
    }
}

#[test]
fn a_job_that_found_a_new_owner_is_not_taken_back_from_him() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    let old = one.claim_one();
    let claims = format!("{NS}:claims:{}", one.name());
    one.session.give_back(&[&old]).expect("given");
    let new = two.claim_one();
    bench.ask::<()>(&format!("HSET {claims} a {}", old.token.0));
    one.dies(&two, true);
    assert_eq!(bench.field("a", "token"), Some(new.token.0.to_string()));
    assert_eq!(bench.state("a"), "running");
    assert_eq!(bench.ask::<u64>(&format!("EXISTS {claims}")), 0);
}

#[test]
fn who_leaves_is_gone_for_good_and_loses_nothing() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    let flight = one.claim_one();
    bench.push(&job("b", ""));
    assert_eq!(one.entries().len(), 1);
    assert_eq!(one.session.leave(), Ok(1), "it still holds a job");
    assert_eq!(bench.ask::<u64>("LLEN t:inbox"), 1);
    assert_eq!(one.beat().claims, 1);
    one.session.give_back(&[&flight]).expect("given");
    one.proxy.lose_an_answer();
    assert_eq!(one.session.leave(), Ok(0));
    // A beat and a claim that were still on their way do not bring it back.
    assert_eq!(one.session.beat(0, 0, 0, None), Ok(None));
    assert_eq!(one.session.claim(1, false).unwrap_err(), Denied::Buried);
    let living = two.session.instances().expect("answers");
    assert_eq!(living.len(), 1);
    assert!(bench.ttl(&format!("worker:{}", one.name())) > 0);
    // What its blocked BRPOPLPUSH still moved goes back to the inbox.
    bench.ask::<()>(&format!("RPOPLPUSH t:inbox t:taken:{}", one.name()));
    for dead in two.session.gone(Duration::from_secs(600)).expect("answers") {
        two.session.take_back(&dead).expect("answers");
    }
    assert_eq!(two.intake().marks, "m");
    assert!(bench.events().iter().all(|(name, _)| name != "taken_over"));
    two.session.trim().expect("trims");
    assert_eq!(
        two.session
            .gone(Duration::from_secs(600))
            .expect("answers")
            .len(),
        1
    );
}

#[test]
fn a_trim_brings_the_stream_to_its_bound_however_many_events_have_come() {
    let bench = Bench::start();
    let one = bench.instance_keeping(Keep {
        events_max: 1000,
        ..KEEP
    });
    let many = "for i = 1, 60000 do redis.call('XADD', 't:events', '*', 'event', 'x') end";
    bench.redis_eval(many);
    one.session.trim().expect("trims");
    let left = bench.ask::<u64>("XLEN t:events");
    assert!((1000..1200).contains(&left), "{left} events are left");
}

#[test]
fn a_submit_may_take_all_of_its_time_before_somebody_repeats_it() {
    assert!(WAIT_MAYBE_ALIVE > Duration::from_secs(30) * 9 / 8);
    assert!(WAIT_MAYBE_ALIVE < Duration::from_secs(36));
}
