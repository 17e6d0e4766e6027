//! Before and after of every script, on a real Redis, through the typed methods. `bench` starts it and
//! can lose an answer or bring a request late; `audit` plants leaks; `model` walks at random.

mod ask;
mod audit;
mod bench;
mod cancel;
mod cost;
mod erase;
mod fair;
mod fuzz;
mod limits;
mod minutes;
mod model;
mod paces;
mod rate;
mod retry;
mod window;

use super::*;
use crate::job::{Charged, Phase};
use bench::*;

fn written(request: &str) -> RequestId {
    RequestId(request.into())
}

// ---- intake

#[test]
fn intake_makes_records_in_the_order_of_priorities_and_a_not_before_waits() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(&job("l", r#""priority":"low""#));
    bench.push(&job("d1", r#""user_id":42,"meta":{"o":1}"#));
    bench.push(&job("d2", r#""expires_at":1795003600"#));
    bench.push(&job("h", r#""priority":"high""#));
    bench.push(&job("n", r#""not_before":4000000000"#));
    bench.push(r#"{"id":"bad","model":"a/b","input":null}"#);
    bench.push(r#"{"id":"told","model":"a/b","input":null,"telegram":{"chat_id":7}}"#);
    bench.push(&job("h", ""));
    let done = one.intake();
    assert_eq!(
        (done.made, done.dead, done.duplicates, done.left),
        (5, 2, 1, 0)
    );
    assert_eq!(bench.ready("default"), ["d1", "d2"]);
    assert_eq!(
        (bench.ready("high"), bench.ready("low")),
        (vec!["h".into()], vec!["l".into()])
    );
    assert_eq!(
        (bench.ready("resume"), bench.later()),
        (vec!["told".into()], vec!["n".into()])
    );
    for id in ["l", "d1", "d2", "h", "n", "bad", "told"] {
        assert_eq!(bench.field(id, "v").as_deref(), Some("1"), "{id}");
        let forever = if id == "bad" {
            KEEP.dead.as_secs() as i64
        } else {
            -1
        };
        assert_eq!(bench.ttl(&format!("job:{id}")), forever, "{id}");
    }
    assert_eq!(
        bench.ask::<String>("GET t:spec:d1"),
        job("d1", r#""user_id":42,"meta":{"o":1}"#)
    );
    assert_eq!(bench.ttl("spec:d1"), -1);
    assert_eq!(
        bench.field("d2", "expires_at").as_deref(),
        Some("1795003600000")
    );
    assert_eq!(bench.field("n", "due_at").as_deref(), Some("4000000000000"));
    assert_eq!(bench.events_of("bad"), ["failed"]);
    assert!(bench.events_of("told").is_empty());
    assert_eq!(bench.events_of("h"), ["queued", "duplicate"]);
    let (_, queued) = &bench.events()[1];
    assert_eq!(
        (queued["user"].as_str(), queued["meta"].as_str()),
        ("42", r#"{"o":1}"#)
    );
    assert_eq!(bench.ask::<u64>("LLEN t:bell"), 1);
    assert_eq!(bench.ask::<u64>(&format!("LLEN t:taken:{}", one.name())), 0);
}

#[test]
fn a_batch_taken_in_twice_or_late_is_taken_in_once() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(&job("a", ""));
    bench.push(r#"{"model":"a/b","input":{}}"#);
    one.proxy.lose_an_answer(); // of the take
    let entries = one.entries();
    assert_eq!(entries.len(), 2);
    one.proxy.lose_an_answer();
    let done = one.session.intake(&entries, &DEFAULTS).expect("known");
    assert_eq!(done.made, 0, "the repeat did nothing");
    assert_eq!(bench.ready("default").len(), 2);

    // A call that comes after its own repeat, while new entries lie there.
    bench.push(r#"{"model":"a/b","input":{}}"#);
    let entries = one.entries();
    one.proxy.hold_a_request();
    assert_eq!(
        one.session
            .intake(&entries, &DEFAULTS)
            .expect("repeated")
            .made,
        1
    );
    bench.push(r#"{"model":"a/b","input":{}}"#);
    assert_eq!(one.entries().len(), 1);
    assert_eq!(one.proxy.release(), 1);
    assert_eq!(bench.ready("default").len(), 3, "the late call did nothing");
    assert_eq!(one.intake().made, 1);
    assert_eq!(bench.ready("default").len(), 4);
}

#[test]
fn intake_does_nothing_when_other_entries_lie_at_the_right_end() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(&job("a", ""));
    bench.push(&job("b", ""));
    let entries = one.entries();
    let taken = format!("{NS}:taken:{}", one.name());
    bench.ask::<()>(&format!("RPUSH {taken} other"));
    let before = bench.dump();
    let done = one.session.intake(&entries, &DEFAULTS).expect("answers");
    assert_eq!((done.made, done.left), (0, 1), "it is to look again");
    assert_eq!(bench.dump(), before);
    bench.ask::<()>(&format!("DEL {taken}"));
    assert_eq!(
        one.session
            .intake(&entries, &DEFAULTS)
            .expect("answers")
            .made,
        0
    );
    assert!(bench.ready("default").is_empty());
}

#[test]
fn who_is_buried_or_not_registered_neither_takes_in_nor_claims() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    bench.push(&job("a", ""));
    bench.push(&job("b", ""));
    let entries = one.entries();
    one.dies(&two, true);
    // The unread entries lie in the inbox again, in their old order.
    let inbox: Vec<String> = bench.ask("LRANGE t:inbox 0 -1");
    assert_eq!(inbox, [job("b", ""), job("a", "")]);
    let before = bench.dump();
    assert_eq!(one.session.take(9, 999).unwrap_err(), Denied::Buried);
    assert_eq!(
        one.session.intake(&entries, &DEFAULTS).unwrap_err(),
        Denied::Buried
    );
    assert_eq!(one.session.claim(1, false).unwrap_err(), Denied::Buried);
    assert_eq!(one.session.beat(0, 0, 0, None), Ok(None));
    one.store.rename();
    assert_eq!(one.session.take(9, 999).unwrap_err(), Denied::Unregistered);
    assert_eq!(
        one.session.intake(&entries, &DEFAULTS).unwrap_err(),
        Denied::Unregistered
    );
    assert_eq!(
        one.session.claim(1, false).unwrap_err(),
        Denied::Unregistered
    );
    assert_eq!(bench.dump(), before);
    one.beat();
    assert_eq!(one.intake().made, 2);
    assert_eq!(bench.ready("default"), ["a", "b"]);
}

#[test]
fn a_valid_job_takes_the_place_of_an_invalid_one_also_when_only_the_bare_id_is_left() {
    for (keep, chat) in [
        (7200, ""),
        (7200, r#","telegram":{"chat_id":7}"#),
        (0, ""),
        (0, r#","telegram":{"chat_id":7}"#),
    ] {
        let bench = Bench::start();
        let dead = Duration::from_secs(keep);
        let one = bench.instance_keeping(Keep { dead, ..KEEP });
        let bad = format!(r#"{{"id":"x","model":"a/b","input":null{chat}}}"#);
        bench.push(&bad);
        one.intake();
        if !chat.is_empty() {
            let mut flight = one.claim_one();
            assert_eq!(flight.phase, Phase::Telling);
            let end = Write::End {
                state: EndState::Dead,
                patch: Patch::default()
                    .set("kind", "invalid_job")
                    .event(flight.event("failed")),
            };
            assert_eq!(one.write(&mut flight, &end), Written::Ok);
        }
        assert_eq!(bench.events_of("x"), ["failed"], "{keep}{chat}");
        assert_eq!(bench.ttl("job:x"), if keep == 0 { 86400 } else { 7200 });
        bench.push(&bad);
        assert_eq!(one.intake().duplicates, 1);
        bench.push(&job("x", ""));
        assert_eq!(one.intake().made, 1, "{keep}{chat}");
        assert_eq!(
            (bench.state("x").as_str(), bench.ttl("job:x")),
            ("queued", -1)
        );
        assert_eq!(bench.ask::<u64>("ZCARD t:dead"), 0);
    }
}

// ---- claim

fn fill(bench: &Bench, one: &Instance, ids: &[&str]) {
    for id in ids {
        let priority = match &id[..1] {
            "h" => "high",
            "l" => "low",
            _ => "default",
        };
        bench.push(&job(id, &format!(r#""priority":"{priority}""#)));
    }
    one.intake();
}

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

fn flight_of(mut claim: Claim) -> Flight {
    *claim.jobs.remove(0)
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
        assert_eq!(one.intake().duplicates, 1, "{state:?}");
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

// ---- request ids

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
        assert_eq!(
            one.submitted(&mut flight, "r2"),
            Written::Other(written("r1"))
        );
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
fn adopted_under_a_new_owner(bench: &Bench) -> (Instance, Instance, Flight) {
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
        assert_eq!(
            two.write(&mut new, &write),
            Written::Adopted(written("r1")),
            "{name}"
        );
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
    assert_eq!(two.submitted(&mut new, "r2"), Written::Other(written("r1")));
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
    let buried = two
        .session
        .bury(&name, 0, Duration::ZERO, true, None)
        .expect("answers");
    assert_eq!(buried.map(|(jobs, _)| jobs), Some(1));
    assert_eq!(
        three.session.bury(&name, 0, Duration::ZERO, true, None),
        Ok(None)
    );
    assert_eq!(two.session.take_back(&name), Ok(1));
}

#[test]
fn a_retry_moves_the_request_id_to_tried() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a"]);
    let mut flight = one.claim_one();
    one.submitted(&mut flight, "r1");
    let later = retrying(&flight, Duration::from_secs(5));
    assert_eq!(one.write(&mut flight, &later), Written::Ok);
    let record = bench.record("a");
    assert_eq!(
        (record["state"].as_str(), record["tried"].as_str()),
        ("later", "r1")
    );
    assert!(!record.contains_key("request_id") && !record.contains_key("phase"));
    let due: i64 = record["due_at"].parse().expect("a time");
    assert_eq!(bench.ask::<i64>("ZSCORE t:later a"), due);
    assert_eq!(one.beat().claims, 0);
}

// ---- step files

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
    assert!(buried.expect("answers").is_some());
    assert_eq!(three.session.take_back(&name), Ok(1));
    assert_eq!(bench.ready("default"), ["a"]);
    assert_eq!(bench.field("a", "attempt").as_deref(), Some("0"));
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
        (32_000..33_000).contains(&wait),
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
        Ok(None)
    );
    assert_eq!(
        two.session.bury(&name, at - 1, Duration::ZERO, false, None),
        Ok(None),
        "it has beaten since"
    );
    assert_eq!(
        two.session
            .bury("nobody~00000000", 0, Duration::ZERO, true, None),
        Ok(None)
    );
    assert_eq!(two.session.take_back(&name), Ok(0));
    assert_eq!(bench.dump(), before);
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
    assert_eq!(two.intake().made, 1);
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
        events: 1000,
        ..KEEP
    });
    let many = "for i = 1, 60000 do redis.call('XADD', 't:events', '*', 'event', 'x') end";
    bench.redis_eval(many);
    one.session.trim().expect("trims");
    let left = bench.ask::<u64>("XLEN t:events");
    assert!((1000..1200).contains(&left), "{left} events are left");
}

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
            one.store.remember_closed(&flight, 2, &write, &call);
        }
        one.store.ended.lock().unwrap().size()
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

fn remembered(flight: &Flight) -> Remembered {
    let mut fields = flight.fields();
    if flight.phase == Phase::Submitting {
        fields.push(("phase", "submitting".to_owned()));
    }
    Remembered {
        id: flight.id.clone(),
        token: flight.token.clone(),
        seq: flight.seq,
        entry: flight.entry.clone(),
        fields,
    }
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
    assert_eq!(
        two.session.write(&new, 1, &write),
        Ok(Written::Other(written("r1")))
    );
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

// ---- beats

#[test]
fn a_beat_registers_and_says_what_a_keeper_must_know() {
    let bench = Bench::start();
    let one = bench.instance();
    let beat = one.beat();
    assert!(!beat.fresh && !beat.paused && !beat.cancels && !beat.due && !beat.waiting);
    for queue in ["resume", "high", "default", "low"] {
        let list = format!("t:ready:{queue}");
        bench.ask::<()>(&format!("LPUSH {list} x"));
        assert!(one.beat().waiting, "{queue}");
        bench.ask::<()>(&format!("DEL {list}"));
    }
    assert_eq!(
        (beat.claims, beat.oldest.map(|(who, _)| who)),
        (0, Some(one.name()))
    );
    assert_eq!(
        one.session.process_of(&one.name()).expect("answers").name,
        "w"
    );
    one.proxy.lose_an_answer();
    one.session.beat(2, 1, 5, None).expect("answers");
    let minute = one.store.now().0 / 60_000 % 60;
    assert_eq!(
        bench.ask::<Vec<u64>>(&format!("HMGET t:stats done:{minute} failed:{minute}")),
        [2, 1]
    );
    let run = beat.run;
    bench.ask::<()>("FLUSHALL");
    let beat = one.beat();
    assert!(beat.fresh);
    assert_eq!(
        beat.run, run,
        "made by the instance, so it takes more than one beat to differ"
    );
    assert_eq!(bench.ttl(&format!("worker:{}", one.name())), -1);
}

#[test]
fn a_beat_costs_an_idle_redis_eight_commands_and_says_each_thing_as_soon_as_it_is_so() {
    let bench = Bench::start();
    let one = bench.instance();
    let commands = || {
        let stats: String = bench.ask("INFO stats");
        let number = stats.split("total_commands_processed:").nth(1);
        let number = number.and_then(|rest| rest.split_whitespace().next());
        number
            .and_then(|number| number.parse::<u64>().ok())
            .expect("a number")
    };
    let before = commands();
    let beat = one.beat();
    // Redis counts what a script calls, the script, and the look at the number.
    assert_eq!(commands() - before, 8 + 1);
    assert!(!beat.finds_window);

    let name = one.name();
    for (word, undo) in [
        ("HSET t:paused reason x", "DEL t:paused"),
        (
            &format!("HSET t:cancels:{name} a token"),
            &*format!("DEL t:cancels:{name}"),
        ),
        (
            &format!("HSET t:claims:{name} a token"),
            &*format!("DEL t:claims:{name}"),
        ),
        ("ZADD t:later 1 a", "DEL t:later"),
        (
            "RPUSH t:ready:model:high:a/* a",
            "DEL t:ready:model:high:a/*",
        ),
    ] {
        fair::set(&bench, "model_limits", "a/*=1");
        bench.ask::<()>(word);
        let beat = one.beat();
        let said = [
            beat.paused,
            beat.cancels,
            beat.claims == 1,
            beat.due,
            beat.waiting,
        ];
        assert_eq!(
            said.iter().filter(|said| **said).count(),
            1,
            "{word}: {said:?}"
        );
        bench.ask::<()>(undo);
    }
    fair::set(&bench, "fal_concurrency", "auto");
    assert!(one.beat().finds_window);
    // What is in flight is known although most beats do not write it.
    let in_flight = || bench.ask::<String>(&format!("HGET t:worker:{name} in_flight"));
    for number in [3, 3, 0] {
        one.session.beat(0, 0, number, None).expect("answers");
        assert_eq!(in_flight(), number.to_string());
    }
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
    let away = |denied: Denied| matches!(denied, Denied::Fault(Fault::Away(_)));
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
    bench.memory_back();
    assert_eq!(bench.state("a"), "done");
    assert_eq!(bench.field("g", "doubt").as_deref(), Some("submit"));
    assert_eq!(bench.ready("resume"), ["f"]);
    assert_eq!(
        two.session
            .intake(&entries, &DEFAULTS)
            .expect("takes in")
            .made,
        1
    );
}

// ---- connections

#[test]
fn a_call_whose_connection_broke_is_not_repeated_on_one_that_lay_idle_meanwhile() {
    let bench = Bench::start();
    let one = bench.instance();
    let open = || link::check_out(&one.store.pool, &one.store.health, None).expect("connects");
    drop((open(), open())); // idle, beside the one that the session keeps
    assert!(bench.ask::<u64>("CLIENT KILL TYPE normal") >= 3);
    let answer = one.session.command(&redis::cmd("PING"));
    assert!(answer.is_ok() && !one.store.health.is_away(), "{answer:?}");
}

// ---- words of errors

#[test]
fn what_redis_6_says_inside_a_script_is_understood_too() {
    let error = |text: &str| {
        redis::parse_redis_value(format!("-{text}\r\n").as_bytes())
            .and_then(Value::extract_error)
            .expect_err("an error")
    };
    let wrapped = |inner: &str| {
        error(&format!(
            "ERR Error running script (call to f_{}): @user_script:50: @user_script: 50: {inner}",
            "0".repeat(40)
        ))
    };
    for (error, away, breaks) in [
        (
            error("OOM command not allowed when used memory > 'maxmemory'."),
            true,
            false,
        ),
        (
            wrapped("-OOM command not allowed when used memory > 'maxmemory'."),
            true,
            false,
        ),
        (
            error("READONLY You can't write against a read only replica."),
            true,
            true,
        ),
        (
            wrapped("-READONLY You can't write against a read only replica."),
            true,
            true,
        ),
        (
            wrapped("-MISCONF Redis is configured to save RDB snapshots"),
            true,
            false,
        ),
        (
            error("LOADING Redis is loading the dataset in memory"),
            true,
            false,
        ),
        (error("ERR max number of clients reached"), true, false),
        (error("MOVED 3999 127.0.0.1:6381"), true, true),
        (error("ASK 3999 127.0.0.1:6381"), true, false),
        (error("TRYAGAIN Multiple keys request"), true, false),
        (error("CLUSTERDOWN The cluster is down"), true, true),
        (error("UNBLOCKED force unblock"), true, true),
        (error("WRONGTYPE Operation against a key"), false, false),
        (
            wrapped("Script attempted to access a non local key"),
            false,
            false,
        ),
    ] {
        let fault = link::fault(&error);
        assert_eq!(matches!(fault, Fault::Away(_)), away, "{fault}");
        assert_eq!(link::breaks(&error), breaks, "{fault}");
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
