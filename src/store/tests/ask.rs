//! Before and after of a question to a worker, and the place of a job in line on a real Redis.

use super::super::view::{THREADS, View};
use super::super::*;
use super::bench::*;
use super::fair::set;

#[test]
fn a_worker_is_asked_once_and_what_nobody_asks_costs_no_call() {
    let bench = Bench::start();
    let one = bench.instance();
    let mut view = bench.view();
    assert_eq!(one.beat().asked, [] as [&str; 0]);
    let name = one.name();
    let at = view.ask_worker(&name, THREADS).unwrap().unwrap();
    view.ask_worker(&name, THREADS).unwrap().unwrap();
    view.ask_worker(&name, "job-1").unwrap().unwrap();
    assert_eq!(view.answer_of(&name, at).unwrap(), None);
    let asked = one.beat().asked;
    assert_eq!(asked, ["*", "job-1"]);
    // What comes while it answers stays for the next beat.
    view.ask_worker(&name, "job-2").unwrap().unwrap();
    one.session.answer(&asked, r#"{"threads":[]}"#).unwrap();
    let said = view.answer_of(&name, at).unwrap().unwrap();
    assert!(said["threads"].is_array(), "{said}");
    let asked = one.beat().asked;
    assert_eq!(asked, ["*", "job-1", "job-2"]);
    one.session.answer(&asked, "{}").unwrap();
    assert_eq!(one.beat().asked, [] as [&str; 0]);
    let later = crate::job::UnixMs(bench.now() + 1000);
    assert_eq!(view.answer_of(&name, later).unwrap(), None, "an old answer");
}

#[test]
fn without_memory_people_may_still_ask_and_pause() {
    let bench = Bench::start();
    let one = bench.instance();
    let (name, mut view) = (one.name(), bench.view());
    bench.oom();
    let at = view.ask_worker(&name, THREADS).unwrap().unwrap();
    let asked = one.beat().asked;
    view.ask_worker(&name, "job-1").unwrap().unwrap();
    one.session.answer(&asked, "{}").unwrap();
    assert!(view.answer_of(&name, at).unwrap().is_some());
    view.hold("full", "me@here", None).unwrap();
    assert_eq!(view.paused().unwrap().unwrap().reason, "full");
    view.hold("full", "me@here", Some(Duration::from_secs(9)))
        .unwrap();
    assert!(view.resume().unwrap().is_some());
    bench.memory_back();
}

#[test]
fn nobody_asks_the_dead_or_makes_a_worker_of_a_name() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    let (name, mut view) = (one.name(), bench.view());
    one.dies(&two, true);
    assert_eq!(view.ask_worker(&name, THREADS), Ok(None));
    assert_eq!(view.ask_worker("nobody~00000000", THREADS), Ok(None));
    assert_eq!(
        bench.ask::<u64>(&format!("EXISTS {NS}:worker:nobody~00000000")),
        0
    );
    // Many questions fill no hash.
    let name = two.name();
    for n in 0..500 {
        view.ask_worker(&name, &format!("a-job-with-a-long-name-{n}"))
            .unwrap();
    }
    assert!(two.beat().asked.len() < 200);
}

fn place(view: &mut View, bench: &Bench, id: &str) -> (u64, u64, bool) {
    let record = bench.record(id);
    let job = JobId::new(id).unwrap();
    let user = record.get("user").map(String::as_str);
    let behind = record.get("behind").map(String::as_str);
    let place = view
        .place_of(&job, &record["priority"], behind, user)
        .unwrap()
        .unwrap();
    (place.ahead(), place.own, place.for_slot)
}

#[test]
fn a_place_in_line_is_the_order_in_which_claims_come() {
    let bench = Bench::start();
    let one = bench.instance();
    for (user, n) in [("a", 5), ("b", 2), ("c", 3)] {
        for n in 1..=n {
            bench.push(&job(
                &format!("{user}{n}"),
                &format!(r#""user_id":"{user}""#),
            ));
        }
    }
    bench.push(&job("alone", ""));
    bench.push(&job("h1", r#""user_id":"a","priority":"high""#));
    bench.push(&job("h2", r#""user_id":"a","priority":"high""#));
    bench.push(&job("l1", r#""user_id":"a","priority":"low""#));
    one.intake();
    let mut view = bench.view();
    let ids = [
        "a1", "a2", "a3", "a4", "a5", "b1", "b2", "c1", "c2", "c3", "alone", "h1", "h2", "l1",
    ];
    let said: Vec<(u64, &str)> = ids
        .iter()
        .map(|id| (place(&mut view, &bench, id).0, *id))
        .collect();
    let mut claimed = Vec::new();
    loop {
        let some = one.claim(1);
        if some.is_empty() {
            break;
        }
        claimed.extend(some.into_iter().map(|flight| flight.id.to_string()));
    }
    for (place, id) in said {
        assert_eq!(
            claimed[place as usize], id,
            "said {place}; claimed {claimed:?}"
        );
    }
}

#[test]
fn who_waits_for_a_slot_is_told_so() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_concurrency", "1");
    for n in 1..=4 {
        bench.push(&job(&format!("a{n}"), r#""user_id":"a""#));
    }
    one.intake();
    let first = one.claim_one();
    assert_eq!(first.id.as_str(), "a1");
    one.claim(4);
    let mut view = bench.view();
    let said: Vec<_> = ["a2", "a3", "a4"]
        .iter()
        .map(|id| place(&mut view, &bench, id))
        .collect();
    assert_eq!(said, [(0, 0, true), (1, 1, true), (2, 2, true)]);
    let user = view.user("a").unwrap();
    assert_eq!((user.running, user.slots), (vec!["a1".to_owned()], 1));
}
