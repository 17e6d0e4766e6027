//! A Redis that forgets, or has no room: what is held is written again, what is paid goes through.

use super::requests::adopted_under_a_new_owner;
use super::*;
use crate::job::flight::Doubt;
use std::collections::BTreeMap;

// ---- a Redis that forgets

#[test]
fn the_ends_of_the_last_seconds_are_remembered_within_a_bound() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let flight = one.claim_one();
    let remembered = |result: usize, times: usize| {
        for _ in 0..times {
            let mut write = ending(&flight, EndState::Done);
            if let Write::End { patch, .. } = &mut write {
                patch.set.push(("result", "x".repeat(result)));
            }
            let call = one.session.prepare(&flight, 2, &write);
            one.store
                .remember_closed(&flight, 2, &write, call.patch_args());
        }
        one.store.ended.lock().unwrap().size(Instant::now())
    };
    let (ends, bytes) = remembered(10, 3000);
    assert_eq!(ends, 3000, "{bytes} bytes");
    let (ends, bytes) = remembered(4 << 20, 20);
    assert!(
        ends >= 4 && bytes < 25 << 20,
        "{ends} ends of {bytes} bytes"
    );
    // One that is larger than all is still remembered.
    let (ends, bytes) = remembered(30 << 20, 1);
    assert_eq!(ends, 1, "{bytes} bytes");
}

#[test]
fn the_latest_ends_are_written_again_first_and_those_that_redis_kept_cost_next_to_nothing() {
    let bench = Bench::start();
    let one = bench.instance();
    let ids: Vec<String> = (0..100).map(|n| format!("job-{n}")).collect();
    fill(
        &bench,
        &one,
        &ids.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let mut flights = one.claim(100);
    assert_eq!(flights.len(), 100);
    for flight in &mut flights {
        assert_eq!(one.end(flight, EndState::Done), Written::Ok);
    }
    let id = |n: usize| flights[n].id.as_str();
    for forgotten in [3, 50, 98] {
        bench.ask::<u64>(&format!("DEL {NS}:job:{}", id(forgotten)));
    }
    bench.ask::<u64>(&format!("DEL {NS}:events"));
    let before = bench.scripts_run();
    one.session.reassert_ended().expect("answers");
    let calls = bench.scripts_run() - before;
    let events = bench.events().into_iter();
    let again: Vec<String> = events.map(|(_, event)| event["job"].clone()).collect();
    assert_eq!(again, [id(98), id(50), id(3)]);
    for n in 0..100 {
        assert_eq!(bench.state(id(n)), "done", "{n}");
    }
    // One for each eight, and one for each that was forgotten.
    assert!((4..=20).contains(&calls), "{calls}");
}

#[test]
fn after_a_flush_all_that_is_held_and_all_that_just_ended_is_written_again() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["new", "polls", "ended", "dead"]);
    let mut flights = one.claim(4);
    for (flight, request) in flights.iter_mut().skip(1).zip(["r1", "r2", "r3"]) {
        one.submitted(flight, request);
    }
    let save = completed(&mut flights[2]);
    one.write(&mut flights[2], &save);
    one.end(&mut flights[2], EndState::Done);
    one.end(&mut flights[3], EndState::Dead);
    let before: Vec<_> = ["new", "polls"].map(|id| bench.record(id)).to_vec();
    bench.ask::<()>("FLUSHALL");
    bench.ask::<()>("SCRIPT FLUSH");
    // The first write sees it, before any beat does.
    assert!(!one.store.health.forgot());
    let save = completed(&mut flights[1]);
    flights[1].seq += 1;
    assert_eq!(one.session.write(&flights[1], 2, &save), Ok(Written::Gone));
    assert!(one.store.health.forgot());
    assert_eq!(one.session.claim(1, false).unwrap_err(), Denied::Settling);
    flights[1].seq -= 1;
    flights[1].phase = Phase::Polling;
    assert!(one.beat().fresh);
    let held: Vec<Remembered> = flights[..2].iter().map(remembered).collect();
    for _ in 0..2 {
        one.proxy.lose_an_answer();
        assert_eq!(one.session.reassert(&held), Ok(vec![]));
    }
    for (id, old) in ["new", "polls"].iter().zip(&before) {
        let now = bench.record(id);
        for name in [
            "v",
            "state",
            "token",
            "worker",
            "phase",
            "attempt",
            "request_id",
            "model",
            "max_attempts",
        ] {
            assert_eq!(now.get(name), old.get(name), "{id}.{name}");
        }
        assert_eq!(bench.ttl(&format!("job:{id}")), -1);
    }
    assert_eq!(
        bench.ask::<String>("GET t:spec:new"),
        job("new", r#""priority":"default""#)
    );
    for (id, state, event, ttl) in [
        ("ended", "done", "done", 3600),
        ("dead", "dead", "failed", 7200),
    ] {
        assert_eq!(bench.state(id), state);
        assert_eq!(bench.events_of(id), [event], "once");
        assert_eq!(bench.ttl(&format!("job:{id}")), ttl);
    }
    assert_eq!(one.beat().claims, 2);
    one.store.health.set_forgot(false);
    assert_eq!(one.session.write(&flights[1], 2, &save), Ok(Written::Ok));
}

#[test]
fn an_end_is_remembered_through_an_outage_however_long_it_is() {
    for (away_s, ago_s, remembered) in [(0, 15, false), (600, 601, true), (600, 615, false)] {
        let bench = Bench::start();
        let one = bench.instance();
        fill(&bench, &one, &["a"]);
        let mut flight = one.claim_one();
        one.submitted(&mut flight, "r1");
        bench.redis_eval("redis.call('RESTORE', 't:kept', 0, redis.call('DUMP', 't:job:a'))");
        one.end(&mut flight, EndState::Done);
        one.store
            .ended
            .lock()
            .unwrap()
            .age(Duration::from_secs(ago_s));
        let health = &one.store.health;
        health.lost("gone", Instant::now() - Duration::from_secs(away_s));
        health.back(Instant::now());
        assert!(!health.is_away());
        // It comes back without the end.
        bench.ask::<()>("RENAME t:kept t:job:a");
        one.beat();
        assert_eq!(one.session.reassert(&[]), Ok(vec![]));
        let state = if remembered { "done" } else { "running" };
        assert_eq!(
            bench.state("a"),
            state,
            "away for {away_s} s, ended {ago_s} s ago"
        );
    }
}

#[test]
fn a_claim_that_nobody_knows_after_redis_forgot_goes_on_in_doubt_and_not_as_new() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["new", "sends", "polls", "other"]);
    let mut flights = one.claim(4);
    one.submitted(&mut flights[1], "r1");
    let save = completed(&mut flights[1]);
    one.write(&mut flights[1], &save);
    one.submitted(&mut flights[2], "r2");
    one.session.give_back(&[&flights[3]]).expect("given");
    let others = two.claim_one();
    assert_eq!(others.id.as_str(), "other");
    let lost = |flight: &Flight| {
        let (id, token) = (flight.id.as_str(), &*flight.token.0);
        one.session.lost_sight_of(id, token).expect("answers")
    };
    let lost: Vec<bool> = flights.iter().map(lost).collect();
    assert_eq!(lost, [true, true, true, false]);
    // It may have been submitted: an attempt, and possibly a payment.
    assert_eq!(bench.state("new"), "later");
    let field = |id, name| bench.field(id, name);
    assert_eq!(field("new", "doubt").as_deref(), Some("submit"));
    assert_eq!(field("new", "attempt").as_deref(), Some("1"));
    assert_eq!(field("new", "charged").as_deref(), Some("unknown"));
    assert_eq!(field("sends", "doubt").as_deref(), Some("send"));
    assert_eq!(field("polls", "doubt"), None);
    let mut resume = bench.ready("resume");
    resume.sort();
    assert_eq!(resume, ["polls", "sends"]);
    for id in ["new", "sends", "polls"] {
        assert_eq!(field(id, "crashes"), None, "nobody crashed");
    }
    assert_eq!(bench.state("other"), "running");
}

#[test]
fn a_reassert_never_overwrites_what_the_record_knows_better() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    let early = remembered(&flight);
    one.submitted(&mut flight, "r1");
    let before = bench.dump();
    assert_eq!(
        one.session.reassert(std::slice::from_ref(&early)),
        Ok(vec![])
    );
    assert_eq!(bench.dump(), before);
    // Another owner has it.
    one.session.give_back(&[&flight]).expect("given");
    let mut new = two.claim_one();
    let before = bench.dump();
    assert_eq!(
        one.session.reassert(&[remembered(&flight)]),
        Ok(vec![flight.id.clone()])
    );
    assert_eq!(bench.dump(), before);
    two.end(&mut new, EndState::Done);
    let before = bench.dump();
    assert_eq!(
        one.session.reassert(&[remembered(&flight)]),
        Ok(vec![flight.id.clone()])
    );
    assert_eq!(one.session.reassert(&[]), Ok(vec![]));
    assert_eq!(bench.dump(), before);
    one.dies(&two, true);
    assert_eq!(one.session.reassert(&[early]).unwrap_err(), Denied::Buried);
}

/// Whoever gives an unpaid job back and hears no answer gives it back again: it may have had an owner meanwhile.
#[test]
fn what_is_given_back_again_never_overwrites_what_another_owner_wrote_and_let_go_of() {
    for ended_by_a_cancel in [false, true] {
        let bench = Bench::start();
        let (one, two) = (bench.instance(), bench.instance());
        fill(&bench, &one, &["a"]);
        let old = one.claim_one();
        assert_eq!(one.session.give_back(&[&old]), Ok(1)); // whose answer is lost
        let mut new = two.claim_one();
        new.attempt = 1;
        let waits = retrying(&new, Duration::from_secs(50));
        assert_eq!(two.write(&mut new, &waits), Written::Ok);
        if ended_by_a_cancel {
            let cancelled = bench.view().cancel(&new.id).expect("answers");
            assert_eq!(cancelled.0, Cancel::Ended);
        }
        let before = bench.dump();
        assert_eq!(one.session.give_back(&[&old]), Ok(0));
        let gives_way = Remembered {
            gives_way: true,
            ..remembered(&old)
        };
        let lost = one.session.reassert(std::slice::from_ref(&gives_way));
        assert_eq!(lost, Ok(vec![old.id.clone()]));
        assert_eq!(one.session.give_back(&[&old]), Ok(0));
        assert_eq!(bench.dump(), before);
        // A Redis that knows nothing of it takes it all the same.
        bench.ask::<()>("DEL t:job:a t:later");
        assert_eq!(one.session.reassert(&[gives_way]), Ok(vec![]));
        assert_eq!(one.session.give_back(&[&old]), Ok(1));
        assert_eq!(bench.state("a"), "queued");
    }
}

#[test]
fn after_a_partial_rollback_the_owner_takes_his_job_out_of_the_queue() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a", "b"]);
    let save_state = |id: &str| bench.ask::<Vec<u8>>(&format!("DUMP t:job:{id}"));
    let (queued_a, queued_b) = (save_state("a"), save_state("b"));
    let mut a = one.claim_one();
    one.submitted(&mut a, "r1");
    let mut b = one.claim_one();
    one.submitted(&mut b, "r2");
    one.end(&mut b, EndState::Done);
    let restore = |id: &str, state: &[u8]| {
        let mut con = redis::Client::open(bench.redis.url())
            .and_then(|client| client.get_connection())
            .expect("connects");
        redis::cmd("RESTORE")
            .arg(format!("t:job:{id}"))
            .arg(0)
            .arg(state)
            .arg("REPLACE")
            .exec(&mut con)
            .expect("restores");
        bench.ask::<()>(&format!("LPUSH t:ready:default {id}"));
    };
    restore("a", &queued_a);
    restore("b", &queued_b);
    bench.ask::<()>(&format!("DEL t:claims:{}", one.name()));
    assert_eq!(one.session.reassert(&[remembered(&a)]), Ok(vec![]));
    assert_eq!(
        (
            bench.state("a").as_str(),
            bench.field("a", "request_id").as_deref()
        ),
        ("running", Some("r1"))
    );
    assert_eq!(bench.state("b"), "done");
    assert!(two.claim(9).is_empty(), "nobody pays again");
    assert_eq!(one.end(&mut a, EndState::Done), Written::Ok);
}

/// A claim whose submit has an unknown outcome lets go of its job.
fn waits_in_doubt(one: &Instance, flight: &mut Flight, attempt: u32) {
    flight.attempt = attempt;
    flight.charged = Charged::Unknown;
    flight.doubt = Doubt::Submit;
    let mut write = retrying(flight, Duration::from_secs(5));
    if let Write::Later { patch, .. } = &mut write {
        patch.del.retain(|name| *name != "doubt");
        patch.set.push(("doubt", "submit".to_owned()));
        patch.set.push(("charged", "unknown".to_owned()));
    }
    assert_eq!(one.write(flight, &write), Written::Ok);
}

#[test]
fn a_submit_that_may_be_paid_is_not_forgotten_with_the_job_that_waits() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    bench.redis_eval("redis.call('RESTORE', 't:kept', 0, redis.call('DUMP', 't:job:a'))");
    let mut flight = one.claim_one();
    waits_in_doubt(&one, &mut flight, 1);
    assert_eq!(one.session.reassert(&[]), Ok(vec![]));
    let known = bench.record("a");
    // It comes back as nobody had claimed it yet.
    bench.ask::<()>("RENAME t:kept t:job:a");
    bench.ask::<i64>("ZREM t:later a");
    bench.ask::<i64>("LPUSH t:ready:default a");
    for repeated in [false, true] {
        if repeated {
            one.proxy.lose_an_answer();
        }
        assert_eq!(one.session.reassert(&[]), Ok(vec![]));
        for name in ["state", "attempt", "charged", "doubt", "queued_at", "model"] {
            let now = bench.field("a", name);
            assert_eq!(now.as_ref(), known.get(name), "{name}");
        }
        let due: i64 = bench.ask("ZSCORE t:later a");
        assert_eq!(bench.field("a", "due_at"), Some(due.to_string()));
        let wait = due - bench.now();
        assert!((1000..=5000).contains(&wait), "{wait}");
    }
    assert_eq!(one.store.health.written_again(), 1);
    // Where it still stands in its list nobody takes it before its time.
    assert!(one.claim(1).is_empty());
    bench.an_hour_passes();
    assert_eq!(one.session.promote(9), Ok(1));
    let again = one.claim_one();
    assert_eq!((again.attempt, again.doubt), (1, Doubt::Submit));
    assert_eq!(again.charged, Charged::Unknown);
}

#[test]
fn what_is_remembered_of_a_job_that_waited_disturbs_nobody_who_knows_as_much() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    let ids = [
        "claimed", "waits", "polls", "ended", "retried", "deleted", "line", "late-id", "direct",
    ];
    fill(&bench, &one, &ids);
    for mut flight in one.claim(ids.len()) {
        waits_in_doubt(&one, &mut flight, 1);
    }
    let nothing_changes = |what: &str| {
        let before = bench.dump();
        assert_eq!(one.session.reassert(&[]), Ok(vec![]));
        assert_eq!(bench.dump(), before, "{what}");
    };
    nothing_changes("all of them wait");
    bench.an_hour_passes();
    assert_eq!(one.session.promote(9), Ok(ids.len()));
    nothing_changes("none waits any longer");
    let mut theirs: BTreeMap<_, _> = (two.claim(ids.len()).into_iter())
        .map(|flight| (flight.id.to_string(), flight))
        .collect();
    let mut of = |id: &str| theirs.remove(id).expect("claimed");
    waits_in_doubt(&two, &mut of("waits"), 2);
    two.submitted(&mut of("polls"), "r1");
    two.end(&mut of("ended"), EndState::Done);
    for id in ["retried", "deleted"] {
        two.end(&mut of(id), EndState::Dead);
    }
    // As if they had never been claimed; but of a life that nobody knew.
    let retried = [JobId::new("retried").expect("an id")];
    bench.view().retry(&retried, false).expect("retries");
    assert_eq!(bench.field("retried", "attempt").as_deref(), Some("0"));
    bench.ask::<()>("DEL t:job:deleted");
    // One that came back as it was before, in somebody's hands.
    bench.ask::<()>("HSET t:job:claimed attempt 0");
    nothing_changes("each is somebody else's");
    // In nobody's hands, under an attempt that nobody counted; but it is paid, so no submit is to come: with a late id
    // that has been written into it, or with the result of a direct call, which may have no id.
    for (id, paid) in [("late-id", "request_id r2"), ("direct", "phase delivering")] {
        bench.ask::<()>(&format!("HDEL t:job:{id} doubt worker phase"));
        bench.ask::<()>(&format!(
            "HSET t:job:{id} state queued attempt 0 charged no {paid}"
        ));
        nothing_changes(id);
    }

    // What waits in the line of its user keeps its place there.
    bench.ask::<()>("HSET t:job:line state waiting attempt 0 charged no");
    bench.ask::<()>("HDEL t:job:line doubt worker phase");
    assert_eq!(one.session.reassert(&[]), Ok(vec![]));
    assert_eq!(bench.state("line"), "waiting");
    assert_eq!(bench.field("line", "doubt").as_deref(), Some("submit"));
}

#[test]
fn a_reassert_puts_a_job_among_the_claims_whether_its_record_was_lost_or_not() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let held = [remembered(&one.claim_one())];
    let claims = format!("{NS}:claims:{}", one.name());
    for lost in [
        format!("DEL {claims}"),
        format!("DEL {claims} {NS}:job:a"),
        // It waited already, in a past that has come back.
        format!("HSET {NS}:job:a state later due_at 5 token old"),
    ] {
        bench.ask::<()>(&lost);
        assert_eq!(one.session.reassert(&held), Ok(vec![]), "{lost}");
        assert_eq!(one.beat().claims, 1, "{lost}");
        assert_eq!(bench.state("a"), "running", "{lost}");
        assert_eq!(bench.field("a", "due_at"), None, "{lost}");
    }
}

#[test]
fn what_waits_paid_under_another_request_is_not_written_over() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    one.submitted(&mut flight, "r1");
    one.session.give_back(&[&flight]).expect("given");
    bench.ask::<()>("HSET t:job:a token another");
    let before = bench.dump();
    flight.request = Some(written("r2"));
    let lost = one.session.reassert(&[remembered(&flight)]);
    assert_eq!(lost, Ok(vec![flight.id.clone()]));
    assert_eq!(bench.dump(), before);
}

#[test]
fn a_submit_that_a_reassert_overtook_is_recorded_with_its_path_and_its_event() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    let mut write = accepted(&mut flight, "r1");
    if let Write::Submitted { path, .. } = &mut write {
        *path = Some("a/b/requests/r1".to_owned());
    }
    bench.ask::<()>("DEL t:job:a");
    assert_eq!(one.session.reassert(&[remembered(&flight)]), Ok(vec![]));
    assert_eq!(bench.field("a", "phase").as_deref(), Some("polling"));
    for _ in 0..2 {
        assert_eq!(one.session.write(&flight, 1, &write), Ok(Written::Ok));
        assert_eq!(bench.events_of("a"), ["queued", "started", "submitted"]);
        let path = bench.field("a", "path");
        assert_eq!(path.as_deref(), Some("a/b/requests/r1"));
    }
}

#[test]
fn a_redis_that_forgot_a_submit_hears_of_it_with_the_next_write() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    one.submitted(&mut flight, "r1");
    bench.ask::<()>("HSET t:job:a attempt 0 seq 0 phase submitting");
    bench.ask::<()>("HDEL t:job:a request_id");
    let save = completed(&mut flight);
    assert_eq!(one.write(&mut flight, &save), Written::Ok);
    assert_eq!(bench.field("a", "request_id").as_deref(), Some("r1"));
    assert_eq!(bench.field("a", "attempt").as_deref(), Some("1"));
}

#[test]
fn a_delivery_rolled_back_to_resume_is_not_made_twice() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a", "b"]);
    let mut states = Vec::new();
    for request in ["r1", "r2"] {
        let mut flight = one.claim_one();
        one.submitted(&mut flight, request);
        one.session.give_back(&[&flight]).expect("given");
        states.push(bench.ask::<Vec<u8>>(&format!("DUMP t:job:{}", flight.id)));
        // Not served while the other one is made.
        bench.ask::<()>("DEL t:ready:resume");
    }
    for id in ["a", "b"] {
        bench.ask::<()>(&format!("LPUSH t:ready:resume {id}"));
    }
    let (a, mut b) = (two.claim_one(), two.claim_one());
    two.end(&mut b, EndState::Done);
    for (id, state) in ["a", "b"].iter().zip(&states) {
        let mut con = redis::Client::open(bench.redis.url())
            .and_then(|client| client.get_connection())
            .expect("connects");
        redis::cmd("RESTORE")
            .arg(format!("t:job:{id}"))
            .arg(0)
            .arg(state.as_slice())
            .arg("REPLACE")
            .exec(&mut con)
            .expect("restores");
        bench.ask::<()>(&format!("LPUSH t:ready:resume {id}"));
    }
    assert_eq!(two.session.reassert(&[remembered(&a)]), Ok(vec![]));
    assert_eq!(
        (bench.state("a").as_str(), bench.state("b").as_str()),
        ("running", "done")
    );
    assert!(one.claim(9).is_empty());
}

#[test]
fn of_two_request_ids_the_recorded_one_survives_a_reassert() {
    let bench = Bench::start();
    let (_one, two, mut new) = adopted_under_a_new_owner(&bench);
    let write = accepted(&mut new, "r2"); // not written yet
    new.seq = 1;
    assert_eq!(two.session.reassert(&[remembered(&new)]), Ok(vec![]));
    assert_eq!(bench.field("a", "request_id").as_deref(), Some("r1"));
    assert_eq!(two.session.write(&new, 1, &write), Ok(Written::Other));
}

#[test]
fn an_end_that_a_reassert_overtook_still_ends_the_job() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b"]);
    let (mut a, mut b) = (one.claim_one(), one.claim_one());
    // Decided, numbered, not written: Redis was away. Then the keeper re-asserts what memory says.
    let end = ending(&a, EndState::Done);
    a.seq += 1;
    let later = retrying(&b, Duration::from_secs(5));
    b.seq += 1;
    assert_eq!(
        one.session.reassert(&[remembered(&a), remembered(&b)]),
        Ok(vec![])
    );
    for _ in 0..2 {
        assert_eq!(one.session.write(&a, 1, &end), Ok(Written::Ok));
        assert_eq!(one.session.write(&b, 1, &later), Ok(Written::Ok));
    }
    assert_eq!(
        (bench.state("a").as_str(), bench.state("b").as_str()),
        ("done", "later")
    );
    assert_eq!(bench.events_of("a"), ["queued", "started", "done"]);
    assert_eq!(one.beat().claims, 0);
}

#[test]
fn ends_are_kept_for_the_next_try_when_redis_fails_in_the_middle() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b"]);
    for _ in 0..2 {
        let mut flight = one.claim_one();
        one.end(&mut flight, EndState::Done);
    }
    bench.ask::<()>("FLUSHALL");
    one.beat();
    bench
        .redis
        .ask(&["SET", "t:claims:x", "1"])
        .expect("answers");
    bench.ask::<()>(&format!("SET t:claims:{} 1", one.name())); // the wrong type: every row fails
    assert!(one.session.reassert(&[]).is_err());
    bench.ask::<()>(&format!("DEL t:claims:{}", one.name()));
    assert_eq!(one.session.reassert(&[]), Ok(vec![]));
    assert_eq!(
        (bench.state("a").as_str(), bench.state("b").as_str()),
        ("done", "done")
    );
}

#[test]
fn a_restarted_redis_is_not_claimed_from_before_the_keeper_has_re_asserted() {
    let mut bench = Bench::start();
    let one = bench.instance();
    assert!(!one.store.health.forgot());
    bench.redis.restart().expect("restarts");
    let bench = bench; // its own connection is gone too; only the instance's matters
    // The very connection that the claim opens shows the new run id.
    assert_eq!(one.session.claim(1, false).unwrap_err(), Denied::Settling);
    assert!(one.store.health.forgot());
    drop(bench);
}

// ---- out of memory

#[test]
fn without_memory_intake_and_claim_change_nothing_and_what_is_paid_or_ended_goes_through() {
    let bench = Bench::start();
    let (one, two, three) = (bench.instance(), bench.instance(), bench.instance());
    fill(&bench, &one, &["a", "b", "c", "d", "e", "f", "g"]);
    let mut flights = one.claim(5);
    let mut fresh = three.claim_one();
    bench.push(&job("x", ""));
    let entries = two.entries();
    bench.push(&job("y", ""));
    let gone = three.claim_one();
    assert_eq!(gone.id.as_str(), "g");
    bench.oom();
    let before = bench.dump();
    let away = |denied: Denied| matches!(denied, Denied::Fault(Fault::Unable(_)));
    assert!(away(two.session.claim(1, false).unwrap_err()));
    assert!(away(two.session.intake(&entries, &DEFAULTS).unwrap_err()));
    assert!(away(two.session.take(100, 1 << 20).unwrap_err()));
    assert_eq!(bench.dump(), before);

    assert!(
        two.session
            .beat(1, 0, 0, None)
            .expect("a full Redis is nobody's death")
            .is_some()
    );
    assert_eq!(one.submitted(&mut flights[0], "r1"), Written::Ok);
    let save = completed(&mut flights[0]);
    assert_eq!(one.write(&mut flights[0], &save), Written::Ok);
    assert_eq!(one.end(&mut flights[0], EndState::Done), Written::Ok);
    let later = retrying(&flights[1], Duration::from_secs(5));
    assert_eq!(one.write(&mut flights[1], &later), Written::Ok);
    assert_eq!(one.session.give_back(&[&flights[2]]), Ok(1));
    assert_eq!(one.session.crash(&flights[3].id, &flights[3].token), Ok(1));
    assert_eq!(one.session.reassert(&[remembered(&flights[4])]), Ok(vec![]));
    flights[4].seq += 1; // as a record that knows less
    assert_eq!(one.session.reassert(&[remembered(&flights[4])]), Ok(vec![]));
    assert_eq!(three.submitted(&mut fresh, "r2"), Written::Ok);
    assert_eq!(three.dies(&two, true), 2);
    assert_eq!(three.submitted(&mut fresh, "r2"), Written::Stale);
    // Nor does the keeper stand still, with all that comes after these.
    assert_eq!(two.session.settle(Duration::from_millis(1)), Ok(()));
    let seen = crate::job::window::Seen::default();
    two.session.tell_seen(seen, None).expect("answers");
    let window = crate::job::window::Window {
        size: 6,
        slots: 5,
        calm: 1,
    };
    assert_eq!(two.session.resize_window(window), Ok(()));
    bench.ask::<()>("CONFIG SET maxmemory 0");
    bench.ask::<()>("HSET t:config user_concurrency 3");
    bench.oom();
    assert!(two.session.apply_limits(3).is_ok());
    bench.memory_back();
    assert_eq!(bench.state("a"), "done");
    assert_eq!(bench.field("g", "doubt").as_deref(), Some("submit"));
    assert_eq!(bench.ready("resume"), ["f"]);
    assert_eq!(
        two.session
            .intake(&entries, &DEFAULTS)
            .expect("takes in")
            .marks,
        "m"
    );
}
