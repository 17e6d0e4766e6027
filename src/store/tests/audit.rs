//! Leaks planted by hand, and what the audit makes of them: mended when it must be, and above all left
//! alone when somebody may still be at work.

use super::*;
use std::collections::BTreeMap;

/// A tick of the audit: what it has seen, it saw five seconds ago.
fn tick(bench: &Bench, one: &Instance) -> BTreeMap<String, u64> {
    bench.audit_was(AUDIT_TICK);
    one.audit()
}

pub(super) fn found(kinds: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let own = |(kind, count): &(&str, u64)| ((*kind).to_owned(), *count);
    kinds.iter().map(own).collect()
}

/// Nothing is found now, nor a minute later.
fn is_well(bench: &Bench, one: &Instance) {
    assert_eq!(tick(bench, one), found(&[]));
    bench.audit_was(Duration::from_secs(120));
    assert_eq!(one.audit(), found(&[]));
}

#[test]
fn a_store_that_only_our_scripts_wrote_has_nothing_to_mend() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["h", "d1", "d2", "d3", "d4", "l", "l2"]);
    bench.push(&job("n", r#""not_before":4000000000"#));
    bench.push(r#"{"id":"bad","model":"a/b","input":null}"#);
    bench.push(r#"{"id":"told","model":"a/b","input":null,"telegram":{"chat_id":7}}"#);
    one.intake();
    let mut flights = one.claim(4);
    flights.append(&mut two.claim(1));
    one.submitted(&mut flights[1], "r1");
    one.end(&mut flights[2], EndState::Done);
    one.end(&mut flights[3], EndState::Dead);
    bench.push(&job("unread", ""));
    two.entries();
    is_well(&bench, &one);
    two.dies(&one, true);
    is_well(&bench, &one);
    assert_eq!(bench.repairs(), found(&[]));
}

#[test]
fn a_running_job_that_is_not_in_the_claims_of_its_living_owner_is_put_back_there() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a", "b", "c"]);
    let flights = two.claim(3);
    let claims = two.session.claims().expect("answers");
    bench.ask::<u64>(&format!("HDEL {NS}:claims:{} a", two.name()));
    bench.ask::<u64>(&format!("HSET {NS}:claims:{} b other", two.name()));
    assert_eq!(one.audit(), found(&[("claim", 2)]));
    let now = two.session.claims().expect("answers");
    let set = |claims: Vec<(String, String)>| claims.into_iter().collect::<BTreeMap<_, _>>();
    assert_eq!(set(now), set(claims));
    for mut flight in flights {
        assert_eq!(two.end(&mut flight, EndState::Done), Written::Ok);
    }
    is_well(&bench, &one);
    assert_eq!(bench.repairs(), found(&[("claim", 2)]));
}

#[test]
fn a_running_job_of_nobody_is_ready_again_at_the_second_look() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["paid", "new"]);
    let mut paid = two.claim_one();
    two.submitted(&mut paid, "r1");
    two.claim_one();
    // Nobody has judged it dead: it may be about to write itself down again.
    bench.ask::<u64>(&format!("ZREM {NS}:workers {}", two.name()));
    assert_eq!(one.audit(), found(&[]));
    assert_eq!(bench.state("paid"), "running");
    assert_eq!(tick(&bench, &one), found(&[("owner", 2)]));
    assert_eq!(bench.ready("resume"), ["paid"]);
    assert_eq!(bench.ask::<u64>(&format!("EXISTS {NS}:bell")), 1);
    let record = bench.record("new");
    assert_eq!(
        (record["state"].as_str(), record["doubt"].as_str()),
        ("later", "submit")
    );
    // It may believe in its lease, and a submit takes its time: only then is there another one.
    let due: i64 = record["due_at"].parse().expect("a time");
    let wait = Duration::from_millis(u64::try_from(due - bench.now()).expect("to come"));
    assert!(
        wait > LEASE + WAIT_MAYBE_ALIVE - Duration::from_secs(5),
        "{wait:?}"
    );
    assert_eq!(
        bench.ask::<u64>(&format!("EXISTS {NS}:claims:{}", two.name())),
        0
    );
    assert_eq!(two.end(&mut paid, EndState::Done), Written::Stale);
    is_well(&bench, &one);
}

#[test]
fn an_instance_that_is_back_at_the_second_look_keeps_its_jobs() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    let mut flight = two.claim_one();
    for _ in 0..2 {
        bench.ask::<u64>(&format!("ZREM {NS}:workers {}", two.name()));
        assert_eq!(one.audit(), found(&[]));
        two.beat();
        // That it was missed once is forgotten as soon as it is seen.
        assert_eq!(tick(&bench, &one), found(&[]));
        bench.audit_was(AUDIT_TICK);
    }
    assert_eq!(two.end(&mut flight, EndState::Done), Written::Ok);
}

#[test]
fn the_claims_of_the_buried_are_left_to_take_back_and_what_is_in_no_claim_is_not() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a", "b"]);
    for mut flight in two.claim(2) {
        let request = format!("r-{}", flight.id);
        two.submitted(&mut flight, &request);
    }
    let (name, at) = one
        .session
        .instances()
        .expect("answers")
        .into_iter()
        .find(|(name, _)| *name == two.name())
        .expect("lives");
    assert_eq!(one.session.bury(&name, at, LEASE, true, None), Ok(true));
    bench.ask::<u64>(&format!("HDEL {NS}:claims:{name} b"));
    assert_eq!(one.audit(), found(&[]));
    assert_eq!(tick(&bench, &one), found(&[("owner", 1)]));
    assert_eq!(
        (bench.state("a").as_str(), bench.ready("resume")),
        ("running", vec!["b".to_owned()])
    );
    assert_eq!(one.session.take_back(&name), Ok(1));
    is_well(&bench, &one);
}

#[test]
fn a_claim_without_its_running_record_is_taken_off() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a", "b", "c", "d"]);
    let mut flights = one.claim(2);
    one.end(&mut flights[0], EndState::Done);
    let held = flights[1].token.0.to_string();
    // Ended, still waiting, somebody else's, unknown; and one of an instance that nobody knows.
    for (instance, id, token) in [
        (one.name(), "a", "t1"),
        (one.name(), "c", "t2"),
        (two.name(), "b", held.as_str()),
        (two.name(), "e", "t3"),
        ("x~1".to_owned(), "d", "t4"),
    ] {
        bench.ask::<u64>(&format!("HSET {NS}:claims:{instance} {id} {token}"));
    }
    assert_eq!(one.audit(), found(&[("stale_claim", 5)]));
    assert_eq!(one.session.claims(), Ok(vec![("b".to_owned(), held)]));
    assert_eq!(two.beat().claims, 0);
    is_well(&bench, &one);
}

#[test]
fn an_id_in_a_ready_list_that_does_not_wait_there_is_taken_out() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b", "l"]);
    let _a = one.claim_one();
    for (list, id) in [
        ("high", "nobody"),
        ("default", "a"),
        ("low", "b"),
        ("resume", "l"),
        ("default", "b"),
    ] {
        bench.ask::<u64>(&format!("LPUSH {NS}:ready:{list} {id}"));
    }
    // Where it stands in the wrong list only, it comes into the right one.
    bench.ask::<u64>(&format!("LREM {NS}:ready:low 0 l"));
    assert_eq!(one.audit(), found(&[("ready", 5)]));
    assert_eq!(
        (bench.ready("high").len(), bench.ready("resume").len()),
        (0, 0)
    );
    assert_eq!(bench.ready("default"), ["b"]);
    assert_eq!(tick(&bench, &one), found(&[("unlisted", 1)]));
    assert_eq!(bench.ready("low"), ["l"]);
    is_well(&bench, &one);
}

#[test]
fn a_waiting_job_that_is_in_no_list_is_searched_for_after_a_minute_and_served_first() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b", "c", "paid"]);
    let mut flights = one.claim(4);
    one.submitted(&mut flights[3], "r1");
    one.session
        .give_back(&flights.iter().collect::<Vec<_>>())
        .expect("gives");
    bench.ask::<u64>(&format!("LREM {NS}:ready:default 0 b"));
    bench.ask::<u64>(&format!("DEL {NS}:ready:resume"));
    bench.ask::<u64>(&format!("DEL {NS}:bell"));
    assert_eq!(one.audit(), found(&[]));
    bench.audit_was(Duration::from_secs(50));
    assert_eq!(one.audit(), found(&[]));
    bench.audit_was(Duration::from_secs(11));
    assert_eq!(one.audit(), found(&[("unlisted", 2)]));
    assert_eq!(
        (bench.ready("default"), bench.ready("resume")),
        (
            vec!["b".into(), "a".into(), "c".into()],
            vec!["paid".into()]
        )
    );
    assert_eq!(bench.ask::<u64>(&format!("EXISTS {NS}:bell")), 1);
    is_well(&bench, &one);
}

#[test]
fn searches_in_long_lists_are_few_and_begin_with_the_jobs_that_should_have_been_served() {
    let bench = Bench::start();
    let one = bench.instance();
    let many: Vec<String> = (0..700).map(|n| format!("d{n}")).collect();
    for ids in many.chunks(100) {
        fill(
            &bench,
            &one,
            &ids.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
    for (n, id) in many.iter().enumerate() {
        bench.ask::<u64>(&format!("HSET {NS}:job:{id} queued_at {}", 1000 + n));
    }
    for id in ["d0", "d1", "d2", "d3", "d4", "d5", "d6"] {
        bench.ask::<u64>(&format!("LREM {NS}:ready:default 0 {id}"));
    }
    assert_eq!(one.audit_all(&bench, 2000), found(&[]));
    let suspects: Vec<String> = bench.ask(&format!("ZRANGE {NS}:suspects 0 -1"));
    assert!(
        (7..60).contains(&suspects.len()),
        "{} of 700",
        suspects.len()
    );
    for n in 0..7 {
        assert!(suspects.contains(&format!("d{n}")), "{suspects:?}");
    }
    // Sure suspects first or not: all of them are searched for, five a tick.
    let mut mended = 0;
    bench.audit_was(Duration::from_secs(55));
    for _ in 0..suspects.len().div_ceil(5) {
        let now = tick(&bench, &one).get("unlisted").copied().unwrap_or(0);
        assert!(now <= 5);
        mended += now;
    }
    assert_eq!(mended, 7);
    assert_eq!(bench.ready("default").len(), 700);
}

#[test]
fn what_later_and_dead_list_without_reason_is_taken_off_and_a_record_without_its_time_gets_one() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(&job("n", r#""not_before":4000000000"#));
    bench.push(&job("m", r#""not_before":4000000000"#));
    bench.push(&job("q", ""));
    one.intake();
    let now = bench.now();
    bench.ask::<u64>(&format!("ZADD {NS}:later 1 nobody 2 q"));
    bench.ask::<u64>(&format!(
        "ZADD {NS}:dead {now} nobody {now} q 1 long-forgotten"
    ));
    bench.ask::<u64>(&format!("ZREM {NS}:later n m"));
    bench.ask::<u64>(&format!("HDEL {NS}:job:m due_at"));
    assert_eq!(
        one.audit(),
        found(&[("dead", 2), ("later", 2), ("unscheduled", 2)])
    );
    assert_eq!(bench.later(), ["m", "n"]);
    let due: i64 = bench.ask(&format!("ZSCORE {NS}:later n"));
    assert_eq!(due, 4_000_000_000_000);
    // Trimmed before its time came to be counted: the record of a dead job is forgotten by itself.
    assert_eq!(bench.ask::<u64>(&format!("ZCARD {NS}:dead")), 0);
    is_well(&bench, &one);
}

#[test]
fn what_has_ended_gets_an_expiry_and_what_lives_has_none() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b", "q"]);
    let mut flights = one.claim(2);
    one.end(&mut flights[0], EndState::Done);
    one.end(&mut flights[1], EndState::Dead);
    for key in ["job:a", "job:b", "spec:b"] {
        bench.ask::<u64>(&format!("PERSIST {NS}:{key}"));
    }
    bench.ask::<()>(&format!("SET {NS}:result:a big"));
    bench.ask::<u64>(&format!("EXPIRE {NS}:job:q 100"));
    assert_eq!(one.audit(), found(&[("expiry", 5)]));
    let ttl = |key: &str| bench.ttl(key);
    assert_eq!((ttl("job:a"), ttl("result:a")), (3600, 3600));
    assert_eq!(
        (ttl("job:b"), ttl("spec:b"), ttl("job:q")),
        (7200, 7200, -1)
    );
    is_well(&bench, &one);
}

#[test]
fn a_spec_or_result_of_no_record_is_deleted_at_the_second_look() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    for key in ["spec:x", "result:x", "spec:back", "result:a"] {
        bench.ask::<()>(&format!("SET {NS}:{key} {{}}"));
    }
    bench.ask::<()>(&format!("SET {NS}:spec:fading {{}} EX 100"));
    assert_eq!(one.audit(), found(&[]));
    assert_eq!(
        bench.ask::<u64>(&format!("EXISTS {NS}:spec:x {NS}:result:x")),
        2
    );
    bench.ask::<u64>(&format!("HSET {NS}:job:back state running v 2"));
    assert_eq!(tick(&bench, &one), found(&[("orphan", 2)]));
    assert_eq!(
        bench.ask::<u64>(&format!("EXISTS {NS}:spec:x {NS}:result:x")),
        0
    );
    let left = format!("EXISTS {NS}:spec:back {NS}:result:a {NS}:spec:fading {NS}:spec:a");
    assert_eq!(bench.ask::<u64>(&left), 4);
    is_well(&bench, &one);
}

#[test]
fn unread_entries_of_nobody_go_back_to_the_inbox_in_their_order() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    bench.push(&job("a", ""));
    bench.push(&job("b", ""));
    let entries = two.entries();
    bench.ask::<u64>(&format!("ZREM {NS}:workers {}", two.name()));
    assert_eq!(one.audit(), found(&[]));
    assert_eq!(tick(&bench, &one), found(&[("taken", 2)]));
    // Its own intake comes late, and finds nothing.
    assert_eq!(
        two.session
            .intake(&entries, &DEFAULTS)
            .expect("answers")
            .marks,
        ""
    );
    assert_eq!(one.intake().marks, "mm");
    assert_eq!(bench.ready("default"), ["a", "b"]);
    is_well(&bench, &one);
    // What one that was buried still moves is no leak: take_back comes again.
    let frozen = bench.instance();
    frozen.dies(&one, true);
    bench.ask::<u64>(&format!("LPUSH {NS}:taken:{} x", frozen.name()));
    is_well(&bench, &one);
}

#[test]
fn what_a_newer_version_wrote_is_left_alone() {
    let bench = Bench::start();
    let one = bench.instance();
    for (id, state) in [
        ("r", "running"),
        ("q", "queued"),
        ("l", "later"),
        ("d", "done"),
        ("w", "waiting"),
    ] {
        bench.ask::<u64>(&format!(
            "HSET {NS}:job:{id} v 2 state {state} worker x~1 token t"
        ));
        bench.ask::<u64>(&format!("LPUSH {NS}:ready:high {id}"));
        bench.ask::<u64>(&format!("ZADD {NS}:later 4000000000000 {id}"));
        bench.ask::<u64>(&format!("ZADD {NS}:dead 4000000000000 {id}"));
        bench.ask::<u64>(&format!("HSET {NS}:claims:x~2 {id} t"));
        bench.ask::<()>(&format!("SET {NS}:spec:{id} {{}}"));
    }
    // A state that this version does not know, and a record that is none.
    bench.ask::<u64>(&format!("HSET {NS}:job:s v 1 state parked"));
    bench.ask::<()>(&format!("SET {NS}:job:text x"));
    let dump = || {
        let mut all = bench.dump();
        all.retain(|key, _| {
            !key.ends_with(":audit") && !key.ends_with(":suspects") && !key.contains(":worker:")
        });
        all
    };
    let before = dump();
    is_well(&bench, &one);
    is_well(&bench, &one);
    assert_eq!(dump(), before);
}

#[test]
fn a_namespace_below_one_of_our_words_is_not_ours() {
    let bench = Bench::start();
    let one = bench.instance();
    for word in ["job", "spec", "result"] {
        bench.ask::<String>(&format!("XADD {NS}:{word}:events * event queued"));
        bench.ask::<u64>(&format!("HSET {NS}:{word}:job:a v 1 state queued"));
        bench.ask::<u64>(&format!("HSET {NS}:{word}:job:b v 1 state done"));
        bench.ask::<()>(&format!("SET {NS}:{word}:spec:a x"));
    }
    let count = bench.ask::<u64>("DBSIZE");
    is_well(&bench, &one);
    is_well(&bench, &one);
    assert_eq!(
        bench.ask::<u64>("DBSIZE"),
        count + 1,
        "only the audit's own key"
    );
    assert_eq!(bench.ttl("job:job:b"), -1);
}

#[test]
fn keepers_take_turns_and_nobody_audits_what_is_not_written_down_again_yet() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    bench.ask::<u64>(&format!("LPUSH {NS}:ready:high nobody"));
    one.session
        .settle(Duration::from_secs(60))
        .expect("answers");
    let skipped = one.session.audit(LEASE).expect("answers");
    assert_eq!((skipped.wait, skipped.repairs.len()), (AUDIT_TICK, 0));
    one.session.settled().expect("answers");
    assert_eq!(one.audit(), found(&[("ready", 1)]));
    bench.ask::<u64>(&format!("LPUSH {NS}:ready:high nobody"));
    let early = two.session.audit(LEASE).expect("answers");
    assert!(
        early.wait > Duration::from_secs(1) && early.wait < AUDIT_TICK,
        "{early:?}"
    );
    assert!(early.repairs.is_empty());
    assert_eq!(tick(&bench, &two), found(&[("ready", 1)]));
    // A clock that was an hour ahead, and is right again.
    bench.ask::<u64>(&format!("LPUSH {NS}:ready:high nobody"));
    bench.ask::<u64>(&format!(
        "HSET {NS}:audit at 4000000000000 due 4000000005000"
    ));
    bench.ask::<u64>(&format!("ZADD {NS}:suspects 4000000000000 a"));
    assert_eq!(two.audit(), found(&[("ready", 1)]));
    assert_eq!(bench.ask::<u64>(&format!("EXISTS {NS}:suspects")), 0);
}

#[test]
fn after_a_clock_that_was_ahead_nobody_dead_seems_alive_and_no_backoff_is_longer() {
    const HOUR: i64 = 3_600_000;
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    bench.push(&job("own", r#""not_before":4000000000"#));
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    let later = retrying(&flight, Duration::from_secs(5));
    one.write(&mut flight, &later);
    let due = |id: &str| -> f64 { bench.ask(&format!("ZSCORE {NS}:later {id}")) };
    let (was, own) = (due("a"), due("own"));
    // As that clock wrote them, at the same moment.
    bench.ask::<f64>(&format!("ZINCRBY {NS}:later {HOUR} a"));
    bench.ask::<f64>(&format!("ZINCRBY {NS}:workers {HOUR} {}", two.name()));
    let at = bench.now() + HOUR;
    bench.ask::<u64>(&format!("HSET {NS}:audit at {at} due {at}"));
    one.audit();
    let beat: f64 = bench.ask(&format!("ZSCORE {NS}:workers {}", two.name()));
    assert!(beat <= bench.now() as f64, "its silence counts from here");
    let late = due("a") - was;
    assert!(
        (0.0..5000.0).contains(&late),
        "{late} ms later than it was due"
    );
    assert_eq!(bench.field("a", "due_at"), Some(due("a").to_string()));
    assert_eq!(due("own"), own, "the bot's own time stays");
}

#[test]
fn after_a_clock_that_was_ahead_only_a_persons_pause_is_longer() {
    const HOUR: i64 = 3_600_000;
    let bench = Bench::start();
    let one = bench.instance();
    let half_a_minute = Duration::from_secs(30);
    let pause = || {
        let paused = one.session.pause("no_balance: locked", "me", half_a_minute);
        paused.expect("pauses");
    };
    // As that clock wrote them; and the audit was here since.
    let set_back = || {
        bench.ask::<i64>(&format!("PEXPIRE {NS}:paused {}", HOUR + 30_000));
        for (key, field) in [
            ("paused", "since"),
            ("paused", "until"),
            ("stats", "pause:until"),
        ] {
            if bench.ask::<u64>(&format!("HEXISTS {NS}:{key} {field}")) == 1 {
                bench.ask::<i64>(&format!("HINCRBY {NS}:{key} {field} {HOUR}"));
            }
        }
        let at = bench.now() + HOUR;
        bench.ask::<u64>(&format!("HSET {NS}:audit at {at} due {at}"));
        one.audit();
    };
    pause();
    set_back();
    assert_eq!(bench.ttl("paused"), 30);
    let left = bench.ask::<i64>(&format!("HGET {NS}:paused until")) - bench.now();
    assert!((20_000..=30_000).contains(&left), "{left}");
    let since = |bench: &Bench| bench.ask::<i64>(&format!("HGET {NS}:paused since"));
    assert!(since(&bench) <= bench.now());
    // The next one of this kind did not begin in a time that is yet to come.
    bench.ask::<()>(&format!("DEL {NS}:paused"));
    pause();
    assert!(since(&bench) <= bench.now());

    bench
        .view()
        .hold("moving", "anna", Some(half_a_minute))
        .expect("holds");
    set_back();
    assert_eq!(bench.ttl("paused"), 3630);
}

#[test]
fn a_full_redis_refuses_the_audit_as_a_whole() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.ask::<u64>(&format!("LPUSH {NS}:ready:high nobody"));
    bench.oom();
    let before = bench.dump();
    let refused = one.session.audit(LEASE).expect("no outage");
    assert_eq!((refused.wait, refused.repairs.len()), (AUDIT_TICK, 0));
    assert_eq!(bench.dump(), before);
    bench.memory_back();
    assert_eq!(one.audit(), found(&[("ready", 1)]));
}

#[test]
fn a_large_store_is_walked_page_by_page_by_whoever_comes() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    let many: Vec<String> = (0..600).map(|n| format!("d{n}")).collect();
    for ids in many.chunks(100) {
        fill(
            &bench,
            &one,
            &ids.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
    for _ in 0..3 {
        one.claim(50);
    }
    assert_eq!(one.audit_all(&bench, 40), found(&[]));
    let calls: u64 = bench.ask(&format!("HGET {NS}:audit pages"));
    assert!(calls >= 12, "{calls} calls");
    // It rests as long as it walked.
    let due: i64 = bench.ask(&format!("HGET {NS}:audit due"));
    let rest = due - bench.now();
    let full = 1000 * i64::try_from(calls).expect("few");
    assert!(
        (full - 5000..=full).contains(&rest),
        "{rest} ms after {calls} calls"
    );

    // Whatever is planted is found within one walk, though two keepers share it.
    bench.ask::<u64>(&format!("HDEL {NS}:claims:{} d7 d77", one.name()));
    for place in ["d300", "d450", "d599"] {
        bench.ask::<i64>(&format!(
            "LINSERT {NS}:ready:default BEFORE {place} nobody-{place}"
        ));
    }
    bench.ask::<u64>(&format!("HSET {NS}:audit due 0"));
    let mut all = BTreeMap::new();
    for call in 0..1000 {
        let keeper = if call % 2 == 0 { &one } else { &two };
        for (kind, count) in keeper
            .session
            .audit_pages(LEASE, 40)
            .expect("answers")
            .repairs
        {
            *all.entry(kind).or_default() += count;
        }
        if bench.ask::<u64>(&format!("HEXISTS {NS}:audit open")) == 0 {
            break;
        }
        bench.audit_was(AUDIT_GAP);
    }
    assert_eq!(all, found(&[("claim", 2), ("ready", 3)]));
    assert_eq!(two.audit_all(&bench, 40), found(&[]));
}

#[test]
#[ignore = "a measurement: run it alone, with --nocapture"]
fn what_a_call_costs_redis_in_a_store_of_a_hundred_thousand_jobs() {
    let bench = Bench::start();
    let one = bench.instance();
    let fill = "for n = 1, 100000 do redis.call('HSET', KEYS[1] .. n, 'v', 1, 'state', 'queued', 'priority', \
        'default', 'queued_at', n, 'model', 'a/b', 'attempt', 0) redis.call('SET', KEYS[2] .. n, '{}') \
        redis.call('LPUSH', KEYS[3], n) end";
    let mut eval = Cmd::new();
    eval.arg("EVAL").arg(fill).arg(3);
    for key in ["job:", "spec:", "ready:default"] {
        eval.arg(format!("{NS}:{key}"));
    }
    one.session.command(&eval).expect("fills");
    // Its CPU time, not the clock's: the machine may be busy.
    let cost = |bench: &Bench| -> f64 {
        let stats: String = bench.ask("INFO cpu");
        let seconds = |name: &str| -> f64 {
            let line = stats.lines().find_map(|line| line.strip_prefix(name));
            line.expect("it is there").trim().parse().expect("seconds")
        };
        1000.0 * (seconds("used_cpu_user:") + seconds("used_cpu_sys:"))
    };
    let before = cost(&bench);
    assert_eq!(one.audit_all(&bench, AUDIT_PAGE), found(&[]));
    let after = cost(&bench);
    let walked = bench.ask::<u64>(&format!("HGET {NS}:audit pages"));
    let a_call = (after - before) / walked as f64;
    eprintln!("a walk of {walked} calls: {a_call:.1} ms of Redis's CPU a call");
    for _ in 0..10 {
        bench.audit_was(AUDIT_PATIENCE);
        assert_eq!(one.audit(), found(&[]));
    }
    let a_call = (cost(&bench) - after) / 10.0;
    eprintln!("ten calls with searches: {a_call:.1} ms a call");
}
