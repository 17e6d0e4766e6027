//! A string under the key of a record, as a bot makes by its own `SET`: it costs that job, and nobody else.

use super::audit::found;
use super::*;

fn displace(bench: &Bench, id: &str) {
    bench.ask::<()>(&format!("SET {NS}:job:{id} mine"));
}

/// Jobs with a first `not_before`, one that waits for its backoff and one whose result is paid, all due.
fn all_due(bench: &Bench, one: &Instance) {
    for id in ["n1", "n2", "n3"] {
        bench.push(&job(id, r#""not_before":4000000000,"user_id":7"#));
    }
    fill(bench, one, &["tried", "paid"]);
    for mut flight in one.claim(2) {
        let wait = Duration::from_secs(60);
        if flight.id.as_str() == "paid" {
            one.submitted(&mut flight, "r1");
            let write = Write::Later {
                wait,
                known: flight.request.clone(),
                patch: Patch::default(),
            };
            assert_eq!(one.write(&mut flight, &write), Written::Ok);
        } else {
            let write = retrying(&flight, wait);
            assert_eq!(one.write(&mut flight, &write), Written::Ok);
        }
    }
    bench.an_hour_passes();
}

#[test]
fn what_is_due_is_moved_whole_beside_an_id_whose_record_is_none_and_that_one_is_taken_off_and_counted()
 {
    for displaced in ["n1", "n2", "n3", "tried", "paid"] {
        let bench = Bench::start();
        let one = bench.instance();
        all_due(&bench, &one);
        displace(&bench, displaced);
        let moved = one.session.promote(500);
        assert_eq!(moved, Ok(4), "{displaced}");
        let others = |ids: &[&str]| -> Vec<String> {
            let ids = ids.iter().filter(|id| **id != displaced);
            ids.map(|id| (*id).to_owned()).collect()
        };
        let line: Vec<String> = bench.ask(&format!("LRANGE {NS}:waiting:default:7 0 -1"));
        let mut unpaid = bench.ready("default");
        unpaid.extend(line.into_iter().rev());
        assert_eq!(unpaid, others(&["tried", "n1", "n2", "n3"]), "{displaced}");
        assert_eq!(bench.ready("resume"), others(&["paid"]), "{displaced}");
        assert_eq!(bench.later(), Vec::<String>::new(), "{displaced}");
        assert_eq!(bench.repairs(), found(&[("displaced", 1)]));
        assert_eq!(
            bench.ask::<String>(&format!("GET {NS}:job:{displaced}")),
            "mine"
        );
        assert_eq!(one.session.promote(500), Ok(0));
    }
}

#[test]
fn a_batch_with_an_id_whose_record_is_none_is_left_whole_and_says_which_it_is() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["known"]);
    displace(&bench, "x");
    for id in ["a", "known", "x", "b", "x"] {
        bench.push(&job(id, ""));
    }
    let mut entries = one.entries();
    let before = bench.dump();
    for _ in 0..2 {
        let done = one.session.intake(&entries, &DEFAULTS).expect("answers");
        assert_eq!((done.displaced, done.left), (vec![2, 4], 1));
        assert_eq!(bench.dump(), before);
    }
    entries[2].id = made_id();
    entries[4].id = made_id();
    let done = one.session.intake(&entries, &DEFAULTS).expect("answers");
    assert_eq!((done.marks.as_str(), done.left), ("mummm", 0));
    assert_eq!(bench.events_of("known"), ["queued", "duplicate"]);
    assert_eq!(bench.ask::<String>(&format!("GET {NS}:job:x")), "mine");
}

#[test]
fn a_ready_list_that_is_none_refuses_what_is_due_before_anything_has_moved() {
    let bench = Bench::start();
    let one = bench.instance();
    all_due(&bench, &one);
    bench.ask::<()>(&format!("SET {NS}:ready:low mine"));
    let before = bench.dump();
    let refused = one.session.promote(500).expect_err("it is no list");
    assert!(matches!(refused, Fault::Refused(_)), "{refused:?}");
    assert_eq!(bench.dump(), before);
    bench.ask::<u64>(&format!("DEL {NS}:ready:low"));
    assert_eq!(one.session.promote(500), Ok(5));
}

#[test]
fn changed_limits_reach_all_who_wait_beside_an_id_whose_record_is_none() {
    let bench = Bench::start();
    let one = bench.instance();
    let rate = |value: &str| {
        let values = [("user_rate", value.to_owned())];
        one.session.configure(&values, false).expect("configures");
    };
    rate("1/3600000");
    while !one.session.apply_limits(500).expect("applies") {}
    for id in ["a", "b", "c", "d"] {
        bench.push(&job(id, r#""user_id":7"#));
        one.intake();
    }
    assert_eq!(one.claim(4).len(), 1);
    assert_eq!(bench.later(), ["b", "c", "d"]);
    displace(&bench, "b");
    rate("9/1000");
    while !one.session.apply_limits(500).expect("applies") {}
    let line: Vec<String> = bench.ask(&format!("LRANGE {NS}:waiting:default:7 0 -1"));
    assert_eq!(
        (bench.ready("default"), line),
        (vec!["c".to_owned()], vec!["d".to_owned()])
    );
}

#[test]
fn limits_that_come_up_count_what_runs_beside_a_job_whose_record_is_none() {
    for (name, value, counted) in [
        ("user_concurrency", "1", "user:7:running"),
        ("fal_concurrency", "5", "at_fal"),
    ] {
        let bench = Bench::start();
        let one = bench.instance();
        for id in ["a", "b", "c"] {
            bench.push(&job(id, r#""user_id":7"#));
            one.intake();
        }
        assert_eq!(one.claim(3).len(), 3);
        displace(&bench, "b");
        let values = [(name, value.to_owned())];
        one.session.configure(&values, false).expect("configures");
        while !one.session.apply_limits(500).expect("applies") {}
        let mut ids: Vec<String> = bench.ask(&format!("SMEMBERS {NS}:{counted}"));
        ids.sort();
        assert_eq!(ids, ["a", "c"], "{name}");
    }
}

#[test]
fn jobs_of_the_dead_are_taken_back_beside_one_whose_record_is_none() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    fill(&bench, &one, &["a", "b", "c"]);
    for mut flight in two.claim(3) {
        let request = format!("r-{}", flight.id);
        two.submitted(&mut flight, &request);
    }
    displace(&bench, "b");
    assert_eq!(two.dies(&one, true), 3);
    let mut resume = bench.ready("resume");
    resume.sort();
    assert_eq!(resume, ["a", "c"]);
    assert_eq!(
        bench.ask::<u64>(&format!("EXISTS {NS}:claims:{}", two.name())),
        0
    );
}

#[test]
fn jobs_are_given_back_beside_one_whose_record_is_none_and_its_claim_is_let_go() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b", "c"]);
    let flights = one.claim(3);
    displace(&bench, "b");
    let all: Vec<&Flight> = flights.iter().collect();
    one.session.give_back(&all).expect("gives");
    assert_eq!(bench.ready("default"), ["a", "c"]);
    assert_eq!(one.session.claims(), Ok(Vec::new()));
}
