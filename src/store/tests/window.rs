//! The submit window and the limits of models: never passed, nobody blocked behind another's limit, and every way
//! out makes room.

use super::super::*;
use super::bench::*;
use super::fair::{bring, ids, of, set};
use crate::job::Phase;
use crate::job::window::{Seen, Window};
use std::collections::BTreeMap;

pub(super) const VIDEO: &str = "fal-ai/veo3/fast";

fn apply(one: &Instance) {
    for _ in 0..1000 {
        if one.session.apply_limits(3).expect("answers") {
            assert!(!one.beat().limits_changed);
            return;
        }
    }
    panic!("it comes to no end");
}

pub(super) fn at_fal(bench: &Bench, pattern: &str) -> Vec<String> {
    let tail = if pattern.is_empty() { "" } else { ":" };
    let mut ids: Vec<String> = bench.ask(&format!("SMEMBERS {NS}:at_fal{tail}{pattern}"));
    ids.sort();
    ids
}

/// An entry for a model whose generations take long.
pub(super) fn video(id: &str, more: &str) -> String {
    let entry = job(id, more);
    let model = entry.split(r#""model":""#).nth(1).expect("a model");
    let model = model.split('"').next().expect("its end");
    entry.replace(
        &format!(r#""model":"{model}""#),
        &format!(r#""model":"{VIDEO}""#),
    )
}

fn come(bench: &Bench, one: &Instance, entries: &[String]) {
    for entry in entries {
        bench.push(entry);
    }
    while one.intake().left > 0 {}
}

fn rings(bench: &Bench) -> u64 {
    bench.ask("LLEN t:bell")
}

fn empty(bench: &Bench) {
    bench.ask::<()>("DEL t:bell");
}

#[test]
fn all_workers_together_keep_the_window_and_two_more_at_fal_and_nobody_is_woken_for_the_rest() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    set(&bench, "fal_concurrency", "2");
    apply(&one);
    bring(&bench, &one, "u", 9, "");
    let mut first = one.claim(3);
    assert_eq!((first.len(), two.claim(9).len()), (3, 1));
    let claim = two.session.claim(9, false).expect("claims");
    assert!(claim.jobs.is_empty() && !claim.more);
    assert_eq!(rings(&bench), 0);
    assert!(!one.beat().waiting, "that is no reason to wake somebody");
    assert_eq!(rings(&bench), 0);
    assert_eq!(at_fal(&bench, "").len(), 4);
    // The result is there: its delivery needs no place.
    one.submitted(&mut first[0], "r1");
    assert!(two.claim(9).is_empty());
    let write = completed(&mut first[0]);
    one.write(&mut first[0], &write);
    assert_eq!(rings(&bench), 1);
    assert!(one.beat().waiting);
    assert_eq!(two.claim(9).len(), 1);
    assert_eq!(one.end(&mut first[0], EndState::Done), Written::Ok);
    assert!(two.claim(9).is_empty());
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn whichever_way_a_job_leaves_fal_its_place_is_the_next_ones() {
    for way in [
        "done",
        "completed",
        "dead",
        "later",
        "given back",
        "disowned",
        "died",
        "died idle",
        "crashed",
        "crashed out",
    ] {
        let bench = Bench::start();
        let (one, two) = (bench.instance(), bench.instance());
        set(&bench, "model_limits", "fal-ai/veo*=1");
        apply(&one);
        come(&bench, &one, &[video("a", ""), video("b", "")]);
        let mut flight = one.claim_one();
        assert!(two.claim(9).is_empty(), "{way}");
        assert_eq!(
            (bench.field("b", "behind").as_deref(), rings(&bench)),
            (Some("fal-ai/veo*"), 0)
        );
        match way {
            "done" => drop(one.end(&mut flight, EndState::Done)),
            "dead" => drop(one.end(&mut flight, EndState::Dead)),
            "completed" => {
                one.submitted(&mut flight, "r1");
                let write = completed(&mut flight);
                one.write(&mut flight, &write);
            }
            "later" => {
                let later = retrying(&flight, Duration::from_secs(5));
                one.write(&mut flight, &later);
            }
            "given back" => drop(one.session.give_back(&[&flight])),
            "disowned" => drop(one.session.disown("a", &flight.token.0)),
            "died" => drop(one.dies(&two, true)),
            "died idle" => drop(one.dies_with(&two, true, Some(&[]))),
            "crashed" => drop(one.session.crash(&flight.id, &flight.token)),
            _ => {
                bench.ask::<()>("HSET t:job:a crashes 2 phase telling");
                drop(one.session.crash(&flight.id, &flight.token));
            }
        }
        assert!(rings(&bench) > 0, "{way}");
        assert!(at_fal(&bench, "").is_empty(), "{way}");
        assert!(!bench.record("a").contains_key("at_fal"), "{way}");
        // What waits for a place comes before what went back to the front of its priority.
        let claimed = two.claim(9);
        let new = claimed.iter().filter(|flight| flight.id.as_str() == "b");
        assert_eq!(new.count(), 1, "{way}");
        assert_eq!(at_fal(&bench, "fal-ai/veo*"), ["b"], "{way}");
        assert!(two.audit_all(&bench, 100).is_empty(), "{way}");
    }
}

#[test]
fn a_model_that_is_full_blocks_nobody_and_its_users_take_turns() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "model_limits", "*veo*=1,fal-ai/none=1");
    apply(&one);
    let by = |user: &str, id: &str| video(id, &format!(r#""user_id":"{user}""#));
    let mut entries: Vec<String> = (1..=5).map(|n| by("a", &format!("a{n}"))).collect();
    entries.push(of("a", "picture", ""));
    entries.push(by("b", "b1"));
    entries.push(video("nobody", ""));
    come(&bench, &one, &entries);
    let mut order = Vec::new();
    let mut held = one.claim(9);
    assert_eq!(ids(&held), ["a1", "picture"]);
    assert_eq!(bench.state("a3"), "waiting");
    assert!(one.audit_all(&bench, 100).is_empty());
    for _ in 0..9 {
        let Some(mut flight) = held.pop() else { break };
        one.end(&mut flight, EndState::Done);
        if flight.model.as_ref().map(|model| model.as_str()) == Some(VIDEO) {
            order.push(flight.id.to_string());
        }
        held.extend(one.claim(9));
        let videos = held
            .iter()
            .filter(|flight| flight.model.as_ref().map(|model| model.as_str()) == Some(VIDEO));
        assert!(videos.count() <= 1);
    }
    assert_eq!(order, ["a1", "b1", "nobody", "a2", "a3", "a4", "a5"]);
    for key in bench.dump().keys() {
        let left = ["ready", "waiting", "turns", "at_fal"].map(|word| format!("{NS}:{word}"));
        assert!(
            !left.iter().any(|left| key.starts_with(left)),
            "{key} is left"
        );
    }
}

#[test]
fn a_pattern_given_twice_is_one_limit_and_nobody_claims_in_vain() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "model_limits", "fal-ai/veo*=1,fal-ai/veo*=2");
    apply(&one);
    let all = ["a", "b", "c"].map(|id| video(id, ""));
    come(&bench, &one, &all);
    let mut running = one.claim_one();
    for _ in 0..3 {
        let claim = one.session.claim(9, false).expect("claims");
        assert!(claim.jobs.is_empty() && !claim.more);
    }
    let there = "model:default:fal-ai/veo*";
    assert_eq!(bench.ready(there), ["b", "c"]);
    assert_eq!(rings(&bench), 0);
    one.end(&mut running, EndState::Done);
    assert_eq!(ids(&one.claim(9)), ["b"]);
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn a_place_of_a_model_serves_its_higher_priority_first() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "model_limits", "fal-ai/veo*=1");
    apply(&one);
    come(&bench, &one, &[video("first", "")]);
    let mut flight = one.claim_one();
    let prio = |id: &str, p: &str| video(id, &format!(r#""priority":"{p}""#));
    come(
        &bench,
        &one,
        &[prio("l", "low"), prio("d", "default"), prio("h", "high")],
    );
    assert!(one.claim(9).is_empty());
    let mut order = Vec::new();
    for _ in 0..3 {
        one.end(&mut flight, EndState::Done);
        flight = one.claim_one();
        order.push(flight.id.to_string());
    }
    assert_eq!(order, ["h", "d", "l"]);
}

#[test]
fn whose_time_is_over_while_its_model_has_no_place_is_told_all_the_same() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "model_limits", "fal-ai/veo*=1");
    apply(&one);
    come(&bench, &one, &[video("running", "")]);
    let _running = one.claim_one();
    let waits = |id: &str, p: &str| {
        let more = format!(r#""priority":"{p}","expires_at":4000000000"#);
        video(id, &more)
    };
    let all = [
        waits("l", "low"),
        waits("d1", "default"),
        waits("d2", "default"),
        waits("h", "high"),
    ];
    come(&bench, &one, &all);
    assert!(one.claim(9).is_empty());
    for id in ["l", "d1", "h"] {
        bench.ask::<()>(&format!("HSET t:job:{id} expires_at 1"));
    }
    let mut told = Vec::new();
    for (n, ids_of_all, left) in [(2, vec!["h", "d1"], true), (9, vec!["l"], false)] {
        let claim = one.session.claim(n, false).expect("claims");
        assert_eq!(claim.more, left);
        let flights = claim.jobs.into_iter().map(|flight| *flight);
        let flights: Vec<Flight> = flights.collect();
        assert_eq!(ids(&flights), ids_of_all);
        told.extend(flights);
    }
    for flight in &mut told {
        assert_eq!(flight.phase, Phase::Telling);
        assert_eq!(bench.field(flight.id.as_str(), "behind"), None);
        let kind = bench.field(flight.id.as_str(), "kind");
        assert_eq!(kind.as_deref(), Some("expired"));
    }
    assert!(one.claim(9).is_empty(), "d2 has time");
    assert_eq!(at_fal(&bench, ""), ["running"]);
    assert!(one.audit_all(&bench, 100).is_empty());
    for flight in &mut told {
        assert_eq!(one.end(flight, EndState::Dead), Written::Ok);
    }
    assert_eq!(bench.ready("model:default:fal-ai/veo*"), ["d2"]);
}

#[test]
fn of_those_whose_time_is_over_one_goes_before_high_and_the_others_after_all_priorities() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "model_limits", "fal-ai/veo*=1");
    apply(&one);
    let late = ["l1", "l2", "l3", "l4"].map(|id| video(id, ""));
    come(&bench, &one, &[video("running", "")]);
    come(&bench, &one, &late);
    let _running = one.claim_one();
    assert!(one.claim(9).is_empty());
    for id in ["l1", "l2", "l3", "l4"] {
        bench.ask::<()>(&format!("HSET t:job:{id} expires_at 1"));
    }
    let urgent = job("urgent", r#""priority":"high""#);
    come(&bench, &one, &[urgent, job("other", "")]);
    let claim = one.session.claim(2, false).expect("claims");
    let found: Vec<String> = claim.jobs.iter().map(|job| job.id.to_string()).collect();
    assert_eq!(
        (found, claim.more),
        (vec!["l1".into(), "urgent".into()], true)
    );
    assert_eq!(ids(&one.claim(3)), ["l2", "other", "l3"]);
    assert_eq!(ids(&one.claim(3)), ["l4"]);
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn what_comes_back_to_a_model_that_is_full_stands_before_those_that_never_began() {
    for user in ["", r#""user_id":"a""#] {
        let bench = Bench::start();
        let one = bench.instance();
        set(&bench, "model_limits", "fal-ai/veo*=1");
        apply(&one);
        let all = ["a", "b", "c", "d"].map(|id| video(id, user));
        come(&bench, &one, &all);
        let flight = one.claim_one();
        assert!(one.claim(9).is_empty());
        one.session.give_back(&[&flight]).expect("given");
        let mut order = vec!["a".to_owned()];
        let mut held = one.claim_one();
        assert!(one.claim(9).is_empty());
        loop {
            order.push(held.id.to_string());
            assert!(one.audit_all(&bench, 100).is_empty());
            one.end(&mut held, EndState::Done);
            match one.claim(9).pop() {
                Some(next) => held = next,
                None => break,
            }
        }
        assert_eq!(order, ["a", "b", "a", "c", "d"], "{user}");
    }
}

/// Each claim brings one, which ends at once: where the window has room for no more.
fn one_by_one(one: &Instance) -> Vec<String> {
    let mut order = Vec::new();
    while let Some(mut flight) = one.claim(1).pop() {
        order.push(flight.id.to_string());
        one.end(&mut flight, EndState::Done);
    }
    order
}

#[test]
fn in_a_window_smaller_than_a_models_limit_its_backlog_and_the_rest_take_turns() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "model_limits", "fal-ai/veo*=1,x/y=1");
    apply(&one);
    let other = |id: &str| job(id, "").replace("a/b", "x/y");
    come(&bench, &one, &[video("v0", ""), other("x0")]);
    let _held = one.claim(2);
    let mut entries: Vec<String> = (1..=6).map(|n| video(&format!("v{n}"), "")).collect();
    entries.extend((1..=2).map(|n| other(&format!("x{n}"))));
    come(&bench, &one, &entries);
    assert!(one.claim(9).is_empty());
    set(&bench, "model_limits", "fal-ai/veo*=9,x/y=9");
    set(&bench, "fal_concurrency", "1");
    apply(&one);
    // One that comes for a model with a backlog stands behind that.
    come(
        &bench,
        &one,
        &[job("p1", ""), video("v7", ""), job("p2", ""), job("p3", "")],
    );
    assert_eq!(
        one_by_one(&one),
        [
            "v1", "p1", "x1", "v2", "p2", "x2", "p3", "v3", "v4", "v5", "v6", "v7"
        ]
    );
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn what_is_paid_passes_the_window_and_is_counted_at_once() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    set(&bench, "fal_concurrency", "1");
    set(&bench, "model_limits", "*=1");
    apply(&one);
    bring(&bench, &one, "u", 1, "");
    let mut flight = one.claim_one();
    one.submitted(&mut flight, "r1");
    one.session.give_back(&[&flight]).expect("given");
    assert_eq!(
        at_fal(&bench, "").len(),
        1,
        "fal runs it between two owners too"
    );
    assert!(two.audit_all(&bench, 100).is_empty());
    bench.ask::<()>("DEL t:at_fal t:at_fal:*");
    for place in ["g1", "g2", "g3"] {
        bench.ask::<()>(&format!("SADD t:at_fal {place}"));
        bench.ask::<()>(&format!("SADD t:at_fal:* {place}"));
    }
    let flights = two.claim(9);
    assert_eq!((flights.len(), flights[0].phase), (1, Phase::Polling));
    assert_eq!(at_fal(&bench, "").len(), 4);
    two.dies(&one, true);
    assert_eq!(at_fal(&bench, "").len(), 4);
    assert_eq!(one.claim(9).len(), 1);
}

#[test]
fn a_late_request_id_of_one_that_waits_for_a_place_takes_it_out_there() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    set(&bench, "model_limits", "fal-ai/veo*=1");
    apply(&one);
    let by_a = r#""user_id":"a""#;
    come(&bench, &one, &[video("late", by_a)]);
    let mut late = one.claim_one();
    one.dies_with(&two, true, Some(&[]));
    come(
        &bench,
        &two,
        &[video("x", ""), video("y", by_a), video("z", by_a)],
    );
    bench.ask::<()>("LREM t:ready:default 1 late");
    bench.ask::<()>("LPUSH t:ready:default late");
    let x = two.claim_one();
    assert_eq!(x.id.as_str(), "x");
    assert!(two.claim(9).is_empty());
    assert!(bench.field("late", "behind").is_some());
    one.submitted(&mut late, "r1");
    assert_eq!(bench.ready("resume"), ["late"]);
    assert_eq!(at_fal(&bench, "fal-ai/veo*"), ["late", "x"], "at once");
    assert!(bench.field("late", "behind").is_none());
    assert_eq!(ids(&two.claim(9)), ["late"]);
    assert_eq!(at_fal(&bench, "fal-ai/veo*"), ["late", "x"]);
    assert!(two.audit_all(&bench, 100).is_empty());
}

#[test]
fn what_waits_for_a_place_of_its_model_is_cancelled_unpaid_and_the_others_keep_their_turns() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "model_limits", "fal-ai/veo*=1");
    apply(&one);
    let by_a = r#""user_id":"a""#;
    let all = ["a1", "a2", "a3", "a4"].map(|id| video(id, by_a));
    come(&bench, &one, &all);
    let mut running = one.claim_one();
    while one.session.claim(9, false).expect("claims").more {}
    for id in ["a3", "a2"] {
        let id = JobId::new(id).expect("an id");
        let said = bench.view().cancel(&id).expect("answers").0;
        assert!(matches!(said, Cancel::Ended), "{said:?}");
        assert_eq!(bench.field(id.as_str(), "behind"), None);
    }
    let mut told = one.claim(9);
    assert_eq!(ids(&told), ["a3", "a2"]);
    for flight in &mut told {
        assert_eq!(flight.phase, Phase::Telling);
        one.end(flight, EndState::Cancelled);
    }
    assert!(one.audit_all(&bench, 100).is_empty());
    one.end(&mut running, EndState::Done);
    assert_eq!(ids(&one.claim(9)), ["a4"]);
}

#[test]
fn limits_set_changed_and_removed_count_what_runs_and_let_those_go_who_wait() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    let all: Vec<String> = (1..=9).map(|n| video(&format!("v{n}"), "")).collect();
    come(&bench, &one, &all);
    let mut held = one.claim(2);
    held.extend(two.claim(1));
    assert!(
        at_fal(&bench, "").is_empty(),
        "without a limit nothing is counted"
    );
    set(&bench, "model_limits", "fal-ai/veo*=3");
    assert!(one.beat().limits_changed);
    apply(&one);
    assert_eq!(at_fal(&bench, "fal-ai/veo*"), ["v1", "v2", "v3"]);
    assert!(one.claim(9).is_empty());
    set(&bench, "fal_concurrency", "3");
    set(&bench, "model_limits", "*=4");
    apply(&two);
    assert!(at_fal(&bench, "fal-ai/veo*").is_empty());
    assert_eq!(one.claim(9).len(), 1, "the new limit has a place");
    bench.ask::<()>("HDEL t:config model_limits");
    apply(&two);
    assert_eq!(one.claim(9).len(), 1, "the window has one");
    set(&bench, "fal_concurrency", "0");
    apply(&two);
    assert_eq!(one.claim(9).len(), 4);
    assert!(one.audit_all(&bench, 100).is_empty());
    assert!(at_fal(&bench, "").is_empty());
}

#[test]
fn a_limit_that_changes_while_another_is_applied_counts_what_all_workers_have_at_fal() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    come(&bench, &one, &[video("a", ""), video("b", "")]);
    one.claim_one();
    two.claim_one();
    set(&bench, "model_limits", "fal-ai/veo*=1");
    assert_eq!(one.session.apply_limits(3), Ok(false));
    set(&bench, "model_limits", "fal-ai/*=1");
    apply(&one);
    assert_eq!(at_fal(&bench, "fal-ai/*"), ["a", "b"]);
    assert!(at_fal(&bench, "fal-ai/veo*").is_empty());
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn leaks_at_fal_and_before_a_limit_are_mended() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "fal_concurrency", "1");
    set(&bench, "model_limits", "fal-ai/veo*=1");
    apply(&one);
    let all: Vec<String> = (1..=4).map(|n| video(&format!("v{n}"), "")).collect();
    come(&bench, &one, &all);
    for key in ["t:at_fal", "t:at_fal:fal-ai/veo*"] {
        bench.ask::<()>(&format!("SADD {key} ghost"));
    }
    assert!(one.claim(9).is_empty());
    empty(&bench);
    let mended = one.audit_all(&bench, 100);
    assert_eq!(mended, BTreeMap::from([("at_fal".to_owned(), 1)]));
    assert!(rings(&bench) > 0);
    assert_eq!(ids(&one.claim(9)), ["v1"]);
    // One that is missing is counted again.
    bench.ask::<()>("DEL t:at_fal t:at_fal:fal-ai/veo*");
    let mended = one.audit_all(&bench, 100);
    assert_eq!(mended, BTreeMap::from([("at_fal".to_owned(), 1)]));
    assert_eq!(at_fal(&bench, "fal-ai/veo*"), ["v1"]);
    // Who waits for a limit that nobody knows goes.
    bench.redis_eval(
        "redis.call('HDEL', 't:config', 'model_limits', 'applied:model_limits')
         redis.call('HDEL', 't:config', 'fal_concurrency', 'applied:fal_concurrency')",
    );
    let mended = one.audit_all(&bench, 100);
    assert_eq!(mended.get("model_line"), Some(&3), "{mended:?}");
    assert_eq!(one.claim(9).len(), 3);
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn a_redis_that_forgot_hears_of_the_places_again() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "fal_concurrency", "9");
    bring(&bench, &one, "a", 2, "");
    let mut flights = one.claim(2);
    one.submitted(&mut flights[0], "r1");
    let write = completed(&mut flights[0]);
    one.write(&mut flights[0], &write);
    bench.ask::<()>("FLUSHALL");
    set(&bench, "fal_concurrency", "9");
    one.beat();
    let held: Vec<Remembered> = flights.iter().map(super::remembered).collect();
    assert_eq!(one.session.reassert(&held), Ok(vec![]));
    assert_eq!(at_fal(&bench, ""), ["a2"]);
}

#[test]
fn where_no_window_is_set_no_job_leaves_a_trace_of_it() {
    let bench = Bench::start();
    let one = bench.instance();
    bring(&bench, &one, "a", 2, "");
    let mut flight = one.claim_one();
    assert!(!bench.record("a1").contains_key("at_fal"));
    one.end(&mut flight, EndState::Done);
    assert_eq!(bench.ask::<u64>("EXISTS t:at_fal t:window"), 0);
}

#[test]
fn a_window_that_is_found_out_is_decided_once_a_second_from_what_all_see() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    set(&bench, "fal_concurrency", "auto");
    assert!(one.beat().finds_window);
    bring(&bench, &one, "u", 9, "");
    assert_eq!(one.claim(9).len(), 4, "the first window of an account");
    let seen = |running, queued| Seen {
        running,
        queued,
        unknown: 1,
        ran: None,
    };
    let told = one.session.tell_seen(seen(2, 0), None).expect("answers");
    assert_eq!((told.window, told.decide), (None, Some((seen(2, 0), 4))));
    let told = two.session.tell_seen(seen(3, 1), None).expect("answers");
    assert_eq!(told.decide, None, "another has this second");
    bench.ask::<()>("HDEL t:window at");
    let told = two.session.tell_seen(seen(3, 1), None).expect("answers");
    let (all, places) = told.decide.expect("a turn");
    assert_eq!((all.running, all.queued, all.unknown), (5, 1, 2));
    assert_eq!(places, 4);
    empty(&bench);
    let window = Window {
        size: 6,
        slots: 5,
        calm: 1,
    };
    two.session.resize_window(window).expect("answers");
    assert_eq!(rings(&bench), 1, "there is more room");
    assert_eq!(two.claim(9).len(), 2);
    // A store that forgot takes the window of whoever knew it.
    bench.ask::<()>("DEL t:window");
    let told = one
        .session
        .tell_seen(seen(2, 0), Some(window))
        .expect("answers");
    assert_eq!(told.window, Some(window));
    // Whoever is silent is not counted.
    let old = bench.now() - 5000;
    bench.redis_eval(&format!(
        "redis.call('HSET', 't:window', 'seen:other', '9 9 9 {old}') redis.call('HDEL', 't:window', 'at')"
    ));
    let told = one.session.tell_seen(seen(2, 0), None).expect("answers");
    assert_eq!(told.decide, Some((seen(2, 0), 6)));
}

#[test]
fn all_workers_know_when_the_latest_that_ran_was_submitted_but_not_in_a_time_to_come() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    let tell = |who: &Instance, ran: Option<i64>| {
        let seen = Seen {
            ran: ran.map(UnixMs),
            ..Seen::default()
        };
        let told = who.session.tell_seen(seen, None).expect("answers");
        told.ran.map(|ran| ran.0)
    };
    assert_eq!(tell(&one, None), None);
    assert_eq!(tell(&one, Some(2000)), Some(2000));
    assert_eq!(tell(&two, None), Some(2000));
    assert_eq!(tell(&two, Some(1000)), Some(2000));
    assert_eq!(tell(&two, Some(3000)), Some(3000));
    // The clock was set back.
    let ahead = bench.now() + 100_000;
    bench.ask::<()>(&format!("HSET t:window ran {ahead}"));
    assert_eq!(tell(&one, Some(4000)), Some(4000));
    assert_eq!(tell(&one, Some(ahead)), None);
    assert_eq!(tell(&two, Some(5000)), Some(5000));
}

#[test]
fn patterns_mean_in_redis_what_they_mean_in_the_worker() {
    let bench = Bench::start();
    let one = bench.instance();
    let mut number = 0;
    for (pattern, fits) in [
        ("fal-ai/veo3/fast", true),
        ("fal-ai/veo*", true),
        ("*", true),
        ("*/fast", true),
        ("*veo*fa*", true),
        ("fal-ai/*/*st", true),
        ("**t", true),
        ("fal-ai/veo3", false),
        ("veo*", false),
        ("*veo", false),
        ("fal-ai/veo3/fast*t", false),
        ("fal-ai.veo*", false),
        ("*fast*veo*", false),
        ("*veo*o3*", false),
    ] {
        set(&bench, "model_limits", &format!("{pattern}=1000"));
        apply(&one);
        number += 1;
        come(&bench, &one, &[video(&format!("v{number}"), "")]);
        let mut flight = one.claim_one();
        let counted = bench.field(flight.id.as_str(), "at_fal");
        assert_eq!(counted.as_deref() == Some(pattern), fits, "{pattern}");
        let known = crate::job::pattern::Pattern::new(pattern).expect("a pattern");
        assert_eq!(known.matches(VIDEO), fits, "{pattern}");
        one.end(&mut flight, EndState::Done);
    }
}
