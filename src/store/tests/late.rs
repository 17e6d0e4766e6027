//! Jobs that wait beyond their `expires_at` where nobody comes for them: the audit sends them to be told.

use super::super::*;
use super::bench::*;
use super::fair::{bring, ids, line, of, set};
use crate::job::Phase;
use crate::job::failure::Kind;
use std::collections::BTreeMap;

/// The time of these jobs is over.
fn is_over(bench: &Bench, ids: &[&str]) {
    for id in ids {
        bench.ask::<u64>(&format!("HSET {NS}:job:{id} expires_at 1"));
    }
}

/// What a claim brings while pulling is paused.
fn paid(one: &Instance) -> Vec<Flight> {
    let claim = one.session.claim(50, true).expect("claims");
    claim.jobs.into_iter().map(|flight| *flight).collect()
}

/// What the audit sent to be told; it mended nothing.
fn told(bench: &Bench, one: &Instance) -> Vec<String> {
    assert_eq!(one.audit_all(bench, 500), BTreeMap::new());
    let flights = paid(one);
    for flight in &flights {
        assert_eq!(flight.phase, Phase::Telling, "{}", flight.id);
        let kind = flight.failure.as_ref().map(|(kind, _)| *kind);
        assert_eq!(kind, Some(Kind::Expired), "{}", flight.id);
    }
    let mut told = ids(&flights);
    for mut flight in flights {
        assert_eq!(one.end(&mut flight, EndState::Dead), Written::Ok);
    }
    told.sort();
    told
}

#[test]
fn what_is_too_old_is_told_while_nobody_may_begin_it_and_turns_pass() {
    let bench = Bench::start();
    let one = bench.instance();
    bring(&bench, &one, "u", 4, "");
    for id in ["alone", "young"] {
        bench.push(&job(id, ""));
    }
    one.intake();
    is_over(&bench, &["u1", "u3", "alone"]);
    assert_eq!(told(&bench, &one), ["alone", "u1", "u3"]);
    assert_eq!(bench.ready("default"), ["young", "u2"]);
    assert_eq!(line(&bench, "default", "u"), ["u4"]);
    assert_eq!(bench.ask::<String>("HGET t:turns:default u"), "u2");
    is_over(&bench, &["u2", "u4"]);
    assert_eq!(told(&bench, &one), ["u2", "u4"]);
    assert_eq!(bench.ask::<u64>("EXISTS t:turns:default"), 0);
    assert_eq!(ids(&one.claim(8)), ["young"]);
}

#[test]
fn one_who_waits_for_a_slot_or_a_place_of_its_model_is_told_as_well() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_concurrency", "1");
    set(&bench, "model_limits", "a/b=1");
    bench.push(&of("u", "busy", ""));
    bench.push(&of("u", "line", ""));
    bench.push(&of("v", "behind", ""));
    one.intake();
    assert_eq!(ids(&one.claim(8)), ["busy"]);
    assert_eq!(bench.state("line"), "waiting");
    assert!(bench.field("behind", "behind").is_some());
    is_over(&bench, &["busy", "line", "behind"]);
    assert_eq!(told(&bench, &one), ["behind", "line"]);
    assert_eq!(bench.state("busy"), "running", "it is in somebody's hands");
    for left in ["waiters", "turns:default", "waiting:default:u"] {
        assert_eq!(bench.ask::<u64>(&format!("EXISTS t:{left}")), 0, "{left}");
    }
}

#[test]
fn what_is_paid_or_of_a_newer_version_or_has_time_is_left_where_it_is() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    for id in ["paid", "newer", "young", "gone"] {
        bench.push(&job(id, r#""max_attempts":3"#));
    }
    one.intake();
    let mut flights = two.claim(1);
    two.submitted(&mut flights[0], "r1");
    two.dies(&one, true);
    assert_eq!(bench.ready("resume"), ["paid"]);
    bench.ask::<u64>("HSET t:job:newer v 9");
    is_over(&bench, &["paid", "newer", "gone"]);
    bench.ask::<u64>("LREM t:ready:default 1 gone");
    one.audit_all(&bench, 500);
    assert_eq!(bench.ready("resume"), ["paid"]);
    assert_eq!(bench.ready("default"), ["newer", "young"]);
    assert_eq!(bench.state("gone"), "queued", "it stands nowhere");
    assert_eq!(paid(&one)[0].phase, Phase::Polling);
}

#[test]
fn a_night_of_them_comes_a_few_at_a_time_and_only_from_the_head_of_a_long_line() {
    let bench = Bench::start();
    let one = bench.instance();
    let names: Vec<String> = (0..2040).map(|n| format!("j{n:04}")).collect();
    for name in &names {
        bench.push(&job(name, ""));
    }
    while one.intake().left > 0 {}
    is_over(&bench, &["j2030"]);
    assert_eq!(told(&bench, &one), [""; 0], "more than 2000 go before it");
    let mut night: Vec<&str> = names.iter().map(String::as_str).take(40).collect();
    is_over(&bench, &night);
    night.push("j2030"); // which comes nearer with each of them
    let mut all = Vec::new();
    while all.len() < night.len() {
        let some = told(&bench, &one);
        assert!((1..=16).contains(&some.len()), "{}", some.len());
        all.extend(some);
    }
    all.sort();
    assert_eq!(all, night);
}
