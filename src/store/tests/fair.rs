//! Users take turns within a priority; what waits behind a turn is never forgotten, whatever comes between.

use super::super::*;
use super::bench::*;

/// As `job`, of a user.
pub(super) fn of(user: &str, id: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    job(id, &format!(r#""user_id":"{user}"{comma}{more}"#))
}

/// Ids of a user's line in the order they are served.
pub(super) fn line(bench: &Bench, priority: &str, user: &str) -> Vec<String> {
    let mut ids: Vec<String> = bench.ask(&format!("LRANGE {NS}:waiting:{priority}:{user} 0 -1"));
    ids.reverse();
    ids
}

pub(super) fn slots(bench: &Bench, user: &str) -> Vec<String> {
    let mut ids: Vec<String> = bench.ask(&format!("SMEMBERS {NS}:user:{user}:running"));
    ids.sort();
    ids
}

pub(super) fn set(bench: &Bench, name: &str, value: &str) {
    bench.ask::<()>(&format!("HSET {NS}:config {name} {value}"));
}

/// Jobs `<user>1` to `<user>n` come in.
pub(super) fn bring(bench: &Bench, one: &Instance, user: &str, n: usize, more: &str) {
    for number in 1..=n {
        bench.push(&of(user, &format!("{user}{number}"), more));
    }
    while one.intake().left > 0 {}
}

pub(super) fn ids(flights: &[Flight]) -> Vec<String> {
    flights.iter().map(|flight| flight.id.to_string()).collect()
}

/// Every claim from now on, one job a claim, each ended at once.
fn order(one: &Instance) -> Vec<String> {
    let mut order = Vec::new();
    loop {
        let flights = one.claim(1);
        order.extend(ids(&flights));
        let Some(mut flight) = flights.into_iter().next() else {
            return order;
        };
        assert_eq!(one.end(&mut flight, EndState::Done), Written::Ok);
    }
}

fn nothing_left(bench: &Bench) {
    for key in bench.dump().keys() {
        let word = key.split(':').nth(1).unwrap_or_default();
        assert!(
            !["waiting", "turns", "waiters", "user", "ready"].contains(&word),
            "{key} is left"
        );
    }
}

#[test]
fn each_of_fifty_users_starts_within_three_turns_beside_ten_thousand_jobs_of_one() {
    let bench = Bench::start();
    let one = bench.instance();
    bring(&bench, &one, "heavy", 10_000, "");
    assert_eq!(bench.ready("default"), ["heavy1"]);
    assert_eq!(bench.state("heavy2"), "waiting");
    for user in 0..50 {
        bench.push(&of(&format!("u{user}"), &format!("light{user}"), ""));
    }
    one.intake();
    let mut turns = 0;
    let mut started = 0;
    for _ in 0..60 {
        for id in ids(&one.claim(8)) {
            turns += usize::from(id.starts_with("heavy"));
            started += usize::from(id.starts_with("light"));
            assert!(started == 50 || turns <= 3, "{started} after {turns} turns");
        }
    }
    assert_eq!(started, 50);
}

#[test]
fn the_jobs_of_one_user_alone_come_in_their_order_and_as_many_a_claim_as_are_asked_for() {
    let bench = Bench::start();
    let one = bench.instance();
    bring(&bench, &one, "a", 20, "");
    let claim = one.session.claim(8, false).expect("claims");
    assert_eq!((claim.jobs.len(), claim.more), (8, true));
    let mut order: Vec<String> = claim.jobs.iter().map(|job| job.id.to_string()).collect();
    order.extend(ids(&one.claim(12)));
    let expected: Vec<String> = (1..=20).map(|number| format!("a{number}")).collect();
    assert_eq!(order, expected);
    assert_eq!(bench.ask::<u64>("EXISTS t:bell"), 0);
    assert!(!one.beat().waiting);
}

#[test]
fn users_take_turns_within_a_priority_and_priorities_stay_strict() {
    let bench = Bench::start();
    let one = bench.instance();
    bring(&bench, &one, "a", 3, "");
    bring(&bench, &one, "b", 2, "");
    bring(&bench, &one, "h", 2, r#""priority":"high""#);
    bring(&bench, &one, "l", 2, r#""priority":"low""#);
    bench.push(&job("nobody1", ""));
    bench.push(&job("nobody2", ""));
    one.intake();
    // Who has no user stands in the list with each of his jobs.
    let expected = [
        "h1", "h2", "a1", "b1", "nobody1", "nobody2", "a2", "b2", "a3", "l1", "l2",
    ];
    assert_eq!(order(&one), expected);
    nothing_left(&bench);
}

#[test]
fn without_turns_first_in_is_first_out() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "fair", "off");
    bring(&bench, &one, "a", 3, "");
    bring(&bench, &one, "b", 2, "");
    assert_eq!(order(&one), ["a1", "a2", "a3", "b1", "b2"]);
    nothing_left(&bench);
}

#[test]
fn turning_turns_off_strands_nobody_and_keeps_each_users_order() {
    let bench = Bench::start();
    let one = bench.instance();
    bring(&bench, &one, "a", 3, "");
    set(&bench, "fair", "off");
    bench.push(&of("a", "a4", ""));
    bench.push(&of("b", "b1", ""));
    bench.push(&of("b", "b2", ""));
    one.intake();
    assert_eq!(order(&one), ["a1", "b1", "b2", "a2", "a3", "a4"]);
    nothing_left(&bench);
}

#[test]
fn what_comes_back_stands_in_front_and_moves_nobodys_turn() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    bring(&bench, &one, "a", 4, "");
    let flights = one.claim(1);
    one.session.give_back(&[&flights[0]]).expect("given");
    assert_eq!(bench.ready("default"), ["a1", "a2"]);
    let mut flight = one.claim_one();
    assert_eq!(flight.id.as_str(), "a1");
    assert_eq!(
        line(&bench, "default", "a"),
        ["a3", "a4"],
        "a2 has the turn still"
    );
    let later = retrying(&flight, Duration::from_secs(5));
    one.write(&mut flight, &later);
    bench.an_hour_passes();
    one.session.promote(9).expect("promotes");
    assert_eq!(bench.ready("default"), ["a1", "a2"]);
    // After a death too.
    assert_eq!(ids(&one.claim(2)), ["a1", "a2"]);
    assert_eq!(one.dies_with(&two, true, Some(&[])), 2);
    assert_eq!(bench.ready("default"), ["a1", "a2", "a3"]);
    assert!(slots(&bench, "a").is_empty());
    assert_eq!(order(&two), ["a1", "a2", "a3", "a4"]);
    nothing_left(&bench);
}

#[test]
fn a_first_not_before_comes_into_its_users_line() {
    let bench = Bench::start();
    let one = bench.instance();
    for number in 1..=3 {
        let id = format!("n{number}");
        bench.push(&of("a", &id, r#""not_before":4000000000"#));
    }
    bring(&bench, &one, "a", 2, "");
    bring(&bench, &one, "b", 2, "");
    bench.an_hour_passes();
    one.session.promote(9).expect("promotes");
    assert_eq!(line(&bench, "default", "a"), ["a2", "n1", "n2", "n3"]);
    assert_eq!(bench.state("n1"), "waiting");
    assert_eq!(order(&one), ["a1", "b1", "a2", "b2", "n1", "n2", "n3"]);
}

#[test]
fn a_late_request_id_takes_a_waiting_job_and_a_turn_out_of_their_places() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    bring(&bench, &one, "a", 3, "");
    let mut lost = one.claim_one();
    // The owner counts as dead; the job waits for its next submit and then behind a full set of slots.
    assert_eq!(one.dies(&two, true), 1);
    set(&bench, "user_concurrency", "1");
    let _busy = two.claim_one();
    bench.an_hour_passes();
    two.session.promote(9).expect("promotes");
    assert!(two.claim(3).is_empty());
    assert_eq!(bench.state("a1"), "waiting");
    assert_eq!(one.submitted(&mut lost, "r"), Written::Stale);
    assert_eq!(
        (bench.state("a1"), bench.ready("resume")),
        ("queued".into(), vec!["a1".into()])
    );
    assert_eq!(line(&bench, "default", "a"), ["a3"]);
    // Paid ones pass every limit.
    assert_eq!(slots(&bench, "a"), ["a1", "a2"]);
    assert_eq!(ids(&two.claim(3)), ["a1"]);
    assert_eq!(slots(&bench, "a"), ["a1", "a2"]);
}

#[test]
fn a_request_id_of_a_claim_that_redis_forgot_leaves_its_turn_to_the_users_next() {
    let bench = Bench::start();
    let one = bench.instance();
    bring(&bench, &one, "a", 2, "");
    let mut lost = one.claim_one();
    bench.ask::<()>("FLUSHALL");
    let two = bench.instance();
    bring(&bench, &two, "a", 2, "");
    assert_eq!(one.submitted(&mut lost, "r"), Written::Stale);
    assert_eq!(bench.ready("default"), ["a2"]);
    assert_eq!(order(&two), ["a1", "a2"]);
    nothing_left(&bench);
}

#[test]
fn low_counts_as_default_after_its_time_and_takes_its_users_turn_there() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "low_after", "60000");
    bring(&bench, &one, "l", 3, r#""priority":"low""#);
    bring(&bench, &one, "a", 3, "");
    for id in ["l1", "l2"] {
        bench.ask::<()>(&format!("HINCRBY t:job:{id} queued_at -61000"));
    }
    assert_eq!(order(&one), ["a1", "l1", "a2", "l2", "a3", "l3"]);
    nothing_left(&bench);
    // Off: strict.
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "low_after", "0");
    bring(&bench, &one, "l", 1, r#""priority":"low""#);
    bring(&bench, &one, "a", 2, "");
    bench.ask::<()>("HSET t:job:l1 queued_at 1");
    assert_eq!(order(&one), ["a1", "a2", "l1"]);
}

#[test]
fn a_stream_of_default_jobs_does_not_starve_low_ones() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "low_after", "60000");
    for n in 0..5 {
        bench.push(&job(&format!("l{n}"), r#""priority":"low""#));
    }
    one.intake();
    for n in 0..5 {
        bench.ask::<()>(&format!("HINCRBY t:job:l{n} queued_at -61000"));
    }
    let mut low = 0;
    for n in 0..40 {
        // More come in than are served.
        bench.push(&job(&format!("d{n}a"), ""));
        bench.push(&job(&format!("d{n}b"), ""));
        one.intake();
        low += usize::from(one.claim_one().id.as_str().starts_with('l'));
    }
    assert_eq!(low, 5);
}

#[test]
fn a_stream_of_default_jobs_behind_the_limit_of_their_model_does_not_starve_low_ones() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "low_after", "60000");
    set(&bench, "model_limits", "a/b=1");
    while !one.session.apply_limits(50).expect("answers") {}
    bench.push(&job("first", ""));
    one.intake();
    let mut held = one.claim_one();
    bring(&bench, &one, "l", 3, r#""priority":"low""#);
    for id in ["l4", "l5"] {
        bench.push(&job(id, r#""priority":"low""#));
    }
    one.intake();
    assert!(one.claim(9).is_empty());
    assert_eq!(bench.ready("model:low:a/b"), ["l1", "l4", "l5"]);
    assert!(one.audit_all(&bench, 100).is_empty());
    for n in 1..=5 {
        bench.ask::<()>(&format!("HINCRBY t:job:l{n} queued_at -61000"));
    }
    let mut low = Vec::new();
    for n in 0..40 {
        // More come in than are served, and each is looked at while there is no place.
        bench.push(&job(&format!("d{n}a"), ""));
        bench.push(&job(&format!("d{n}b"), ""));
        one.intake();
        assert!(one.claim(9).is_empty());
        if n < 5 {
            assert!(one.audit_all(&bench, 100).is_empty());
        }
        one.end(&mut held, EndState::Done);
        held = one.claim_one();
        if held.id.as_str().starts_with('l') {
            low.push(held.id.to_string());
        }
    }
    assert_eq!(low, ["l1", "l4", "l5", "l2", "l3"]);
    assert_eq!(bench.field("l3", "priority").as_deref(), Some("default"));
}

#[test]
fn the_audit_mends_turns_that_nobody_has_and_lines_that_nobody_calls() {
    let bench = Bench::start();
    let one = bench.instance();
    let ends = |n: u64| std::collections::BTreeMap::from([("turn".to_owned(), n)]);
    bring(&bench, &one, "a", 3, "");
    bring(&bench, &one, "b", 3, "");
    assert!(one.audit_all(&bench, 100).is_empty(), "all is well");
    // The turn is lost.
    bench.ask::<()>("LREM t:ready:default 0 b1");
    bench.ask::<()>("HSET t:job:b1 state done");
    bench.ask::<()>("EXPIRE t:job:b1 100");
    bench.ask::<()>("DEL t:spec:b1");
    assert_eq!(one.audit_all(&bench, 100), ends(1));
    // The note of it is lost.
    bench.ask::<()>("LREM t:ready:default 0 a1");
    bench.ask::<()>("HSET t:job:a1 state done");
    bench.ask::<()>("EXPIRE t:job:a1 100");
    bench.ask::<()>("DEL t:spec:a1");
    bench.ask::<()>("HDEL t:turns:default a");
    assert_eq!(one.audit_all(&bench, 100), ends(1));
    assert_eq!(order(&one), ["b2", "a2", "b3", "a3"]);
    nothing_left(&bench);
}

#[test]
fn a_waiting_record_that_stands_in_no_line_is_put_there_again() {
    let bench = Bench::start();
    let one = bench.instance();
    bring(&bench, &one, "a", 3, "");
    bench.ask::<()>("LREM t:waiting:default:a 0 a2");
    one.audit_all(&bench, 100);
    bench.audit_was(AUDIT_PATIENCE * 2);
    let mended = one.audit();
    assert_eq!(mended.get("unlisted"), Some(&1), "{mended:?}");
    assert_eq!(order(&one), ["a1", "a2", "a3"]);
}

/// CPU of Redis so far, us.
fn redis_cpu(bench: &Bench) -> f64 {
    let text: String = bench.ask("INFO cpu");
    let used = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok())
            .expect("a number")
    };
    (used("used_cpu_user:") + used("used_cpu_sys:")) * 1e6
}

#[test]
#[ignore = "a measurement: run it alone, with --nocapture"]
fn what_turns_cost_redis() {
    const JOBS: usize = 8000;
    println!("CPU of Redis, us a job, the best of 7 rounds: intake, claims of 8, end");
    for users in ["without a user", "of as many users", "of one user"] {
        let mut best = [[f64::MAX; 3]; 2];
        for _ in 0..7 {
            for (fair, best) in ["off", "on"].iter().zip(&mut best) {
                let bench = Bench::start();
                let one = bench.instance();
                set(&bench, "fair", fair);
                for n in 0..JOBS {
                    bench.push(&match users {
                        "without a user" => job(&format!("j{n}"), ""),
                        "of one user" => of("heavy", &format!("j{n}"), ""),
                        _ => of(&format!("u{n}"), &format!("j{n}"), ""),
                    });
                }
                let before = redis_cpu(&bench);
                while one.intake().left > 0 {}
                let came = redis_cpu(&bench);
                let mut flights = Vec::new();
                while flights.len() < JOBS {
                    flights.extend(one.claim(8));
                }
                let claimed = redis_cpu(&bench);
                for flight in &mut flights {
                    one.end(flight, EndState::Done);
                }
                let ended = redis_cpu(&bench);
                let now = [came - before, claimed - came, ended - claimed];
                for (best, now) in best.iter_mut().zip(now) {
                    *best = best.min(now / JOBS as f64);
                }
            }
        }
        for (name, [intake, claim, end]) in ["FIFO", "fair"].iter().zip(best) {
            let all = intake + claim + end;
            println!("{users:<17} {name}: {intake:.1} + {claim:.1} + {end:.1} = {all:.1}");
        }
    }
}
