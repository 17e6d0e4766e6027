//! Limits of a user: his slots and his rate, and a random walk of all limits together.

use super::super::*;
use super::bench::*;
use super::fair::{bring, ids, line, of, set, slots};
use super::window::{VIDEO, at_fal};
use crate::job::Phase;
use crate::job::spec::{ChatId, Target};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// One page after the other until a change is applied to all who wait.
fn apply(one: &Instance) {
    for _ in 0..1000 {
        if one.session.apply_limits(3).expect("answers") {
            assert!(!one.beat().limits_changed);
            return;
        }
    }
    panic!("it comes to no end");
}

/// When a user's rate is all there again.
fn bucket(bench: &Bench, user: &str) -> Option<f64> {
    let text: Option<String> = bench.ask(&format!("GET {NS}:rate:user:{user}"));
    text?.split(' ').next()?.parse().ok()
}

// ---- slots

#[test]
fn a_user_runs_as_many_as_he_may_on_all_workers_and_his_next_starts_when_one_ends() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    set(&bench, "user_concurrency", "2");
    bring(&bench, &one, "a", 5, "");
    bring(&bench, &one, "b", 1, "");
    let mut a1 = one.claim_one();
    assert_eq!(ids(&two.claim(9)), ["b1", "a2"]);
    assert!(one.claim(9).is_empty());
    assert_eq!(bench.ask::<u64>("EXISTS t:bell"), 0);
    assert!(
        bench.ready("default").is_empty(),
        "nothing is looked at in vain"
    );
    assert_eq!(line(&bench, "default", "a"), ["a3", "a4", "a5"]);
    assert_eq!(bench.state("a3"), "waiting");
    assert_eq!(bench.field("a3", "attempt").as_deref(), Some("0"));
    one.submitted(&mut a1, "r1");
    assert!(two.claim(9).is_empty(), "at fal it uses its slot still");
    assert_eq!(one.end(&mut a1, EndState::Done), Written::Ok);
    assert_eq!(bench.ask::<u64>("LLEN t:bell"), 1, "somebody is told");
    assert_eq!(ids(&two.claim(9)), ["a3"]);
    assert!(one.claim(9).is_empty());
    assert_eq!(slots(&bench, "a"), ["a2", "a3"]);
    assert_eq!(bench.events_of("a4"), ["queued"]);
}

#[test]
fn what_a_limit_puts_aside_says_so_once_in_its_life_and_a_full_window_is_none() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_concurrency", "1");
    set(&bench, "fal_concurrency", "1");
    set(&bench, "model_limits", "fal-ai/veo*=1");
    apply(&one);
    bring(&bench, &one, "a", 1, "");
    let mut first = one.claim_one();
    bench.push(&of("a", "a2", r#""meta":{"o":1}"#));
    one.intake();
    let claim = one.session.claim(9, false).expect("claims");
    assert_eq!((claim.jobs.len(), claim.deferred), (0, 1));
    assert_eq!(bench.events_of("a2"), ["queued", "deferred"]);
    let events = bench.events();
    let (_, said) = &events[events.len() - 1];
    let field = |name: &str| said.get(name).map(String::as_str);
    for (name, value) in [
        ("user", "a"),
        ("attempt", "0"),
        ("kind", "rate_limited"),
        ("model", "a/b"),
        ("meta", r#"{"o":1}"#),
    ] {
        assert_eq!(field(name), Some(value), "{name}");
    }
    one.end(&mut first, EndState::Done);
    let a2 = one.claim_one();
    one.session.give_back(&[&a2]).expect("given");
    let a2 = one.claim_one();
    assert_eq!(bench.events_of("a2"), ["queued", "deferred", "started"]);
    for id in ["v1", "v2", "v3"] {
        bench.push(&super::window::video(id, ""));
    }
    one.intake();
    // The window has room for two more: of the three one begins, one has no place of its model.
    assert_eq!(one.claim(9).len(), 1);
    assert_eq!(bench.events_of("v2"), ["queued", "deferred"]);
    assert_eq!(bench.events_of("v3"), ["queued", "deferred"]);
    bring(&bench, &one, "b", 1, "");
    bring(&bench, &one, "c", 1, "");
    assert_eq!(ids(&one.claim(9)), ["b1"]);
    assert_eq!(bench.events_of("c1"), ["queued"], "the queue itself");
    drop(a2);
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn whichever_way_a_job_leaves_its_owner_unpaid_its_slot_goes_to_the_next() {
    for way in [
        "done",
        "dead",
        "later",
        "given back",
        "disowned",
        "died",
        "crashed",
        "crashed out",
    ] {
        let bench = Bench::start();
        let (one, two) = (bench.instance(), bench.instance());
        set(&bench, "user_concurrency", "1");
        bring(&bench, &one, "a", 2, "");
        let mut flight = one.claim_one();
        assert!(two.claim(9).is_empty());
        match way {
            "done" => drop(one.end(&mut flight, EndState::Done)),
            "dead" => drop(one.end(&mut flight, EndState::Dead)),
            "later" => {
                let later = retrying(&flight, Duration::from_secs(5));
                one.write(&mut flight, &later);
            }
            "given back" => drop(one.session.give_back(&[&flight])),
            "disowned" => drop(one.session.disown("a1", &flight.token.0)),
            "died" => drop(one.dies(&two, true)),
            "crashed" => drop(one.session.crash(&flight.id, &flight.token)),
            _ => {
                bench.ask::<()>("HSET t:job:a1 crashes 2 phase telling");
                drop(one.session.crash(&flight.id, &flight.token));
            }
        }
        assert!(slots(&bench, "a").is_empty(), "{way}");
        let claimed = ids(&two.claim(9));
        // What went back stands in front.
        let expected = match way {
            "given back" | "disowned" => "a1",
            _ => "a2",
        };
        assert_eq!(claimed, [expected], "{way}");
        assert_eq!(slots(&bench, "a"), claimed, "{way}");
        assert!(two.audit_all(&bench, 100).is_empty(), "{way}");
    }
}

#[test]
fn what_its_crashes_end_while_fal_has_it_leaves_slot_and_place_to_others_while_it_is_told() {
    for how in ["panic", "death"] {
        let bench = Bench::start();
        let (one, two) = (bench.instance(), bench.instance());
        set(&bench, "user_concurrency", "1");
        set(&bench, "fal_concurrency", "9");
        apply(&one);
        bring(&bench, &one, "a", 2, "");
        let mut flight = one.claim_one();
        one.submitted(&mut flight, "r");
        bench.ask::<()>("HSET t:job:a1 crashes 2");
        match how {
            "panic" => drop(one.session.crash(&flight.id, &flight.token)),
            _ => drop(one.dies_with(&two, true, Some(&[(&flight.token, true)]))),
        }
        assert!(slots(&bench, "a").is_empty(), "{how}");
        assert!(at_fal(&bench, "").is_empty(), "{how}");
        assert_eq!(ids(&two.claim(9)), ["a1", "a2"], "{how}");
        assert_eq!(slots(&bench, "a"), ["a2"], "{how}");
        assert_eq!(at_fal(&bench, ""), ["a2"], "{how}");
    }
}

#[test]
fn what_is_paid_keeps_its_slot_between_two_owners_and_passes_every_limit() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    set(&bench, "user_concurrency", "1");
    bring(&bench, &one, "a", 2, "");
    let mut flight = one.claim_one();
    one.submitted(&mut flight, "r");
    one.session.give_back(&[&flight]).expect("given");
    assert_eq!(slots(&bench, "a"), ["a1"]);
    assert!(two.audit_all(&bench, 100).is_empty());
    assert_eq!(ids(&two.claim(9)), ["a1"]);
    two.dies(&one, true);
    assert_eq!(slots(&bench, "a"), ["a1"]);
    assert_eq!(ids(&one.claim(9)), ["a1"]);
    set(&bench, "user_rate", "1/3600000");
    bench.ask::<()>("SET t:rate:user:a 4000000000000");
    let flight = one.claim(9);
    assert!(flight.is_empty());
    assert_eq!(slots(&bench, "a"), ["a1"]);
}

#[test]
fn a_slot_freed_serves_the_users_higher_priority_first() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_concurrency", "1");
    bring(&bench, &one, "a", 3, "");
    let mut first = one.claim_one();
    bench.push(&of("a", "urgent", r#""priority":"high""#));
    one.intake();
    assert!(one.claim(9).is_empty());
    assert_eq!(bench.state("urgent"), "waiting");
    one.end(&mut first, EndState::Done);
    let mut next = one.claim(9);
    assert_eq!(ids(&next), ["urgent"]);
    one.end(&mut next[0], EndState::Done);
    assert_eq!(ids(&one.claim(9)), ["a2"]);
}

#[test]
fn a_limit_set_counts_what_runs_already_and_one_raised_or_removed_lets_those_go_who_wait() {
    let bench = Bench::start();
    let one = bench.instance();
    for user in ["a", "b", "c", "d", "e"] {
        bring(&bench, &one, user, 6, "");
    }
    let mut held = one.claim(15);
    assert!(slots(&bench, "a").is_empty(), "nobody asks for them");
    set(&bench, "user_concurrency", "2");
    assert!(one.beat().limits_changed);
    apply(&one);
    assert_eq!(slots(&bench, "a").len(), 3);
    assert!(one.claim(30).is_empty());
    for flight in held
        .iter_mut()
        .filter(|flight| flight.id.as_str().ends_with('1'))
    {
        one.end(flight, EndState::Done);
    }
    assert!(one.claim(30).is_empty(), "two of each run still");
    set(&bench, "user_concurrency", "3");
    apply(&one);
    assert_eq!(one.claim(30).len(), 5);
    bench.ask::<()>("HDEL t:config user_concurrency");
    apply(&one);
    assert_eq!(one.claim(30).len(), 10);
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn a_limit_that_is_raised_reaches_everybody_who_waits_page_after_page() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_concurrency", "1");
    apply(&one);
    for number in 0..60 {
        bring(&bench, &one, &format!("u{number}x"), 2, "");
    }
    let mut running = 0;
    while let now @ 1.. = one.claim(60).len() {
        running += now;
    }
    assert_eq!((running, bench.ask::<u64>("SCARD t:waiters")), (60, 60));
    set(&bench, "user_concurrency", "2");
    apply(&one);
    assert_eq!(bench.ask::<u64>("SCARD t:waiters"), 0);
    assert_eq!(bench.ready("default").len(), 60);
}

#[test]
fn first_in_first_out_holds_among_those_that_wait_for_a_slot() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "fair", "off");
    set(&bench, "user_concurrency", "1");
    bring(&bench, &one, "a", 3, "");
    bring(&bench, &one, "b", 1, "");
    let mut order = Vec::new();
    let mut held = Vec::new();
    for _ in 0..4 {
        for flight in one.claim(9) {
            order.push(flight.id.to_string());
            held.push(flight);
        }
        if let Some(mut flight) = held.pop() {
            one.end(&mut flight, EndState::Done);
        }
        if let Some(mut flight) = held.pop() {
            one.end(&mut flight, EndState::Done);
        }
    }
    assert_eq!(order, ["a1", "b1", "a2", "a3"]);
}

#[test]
fn a_slot_that_leaked_is_mended_and_its_waiter_goes() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_concurrency", "1");
    apply(&one);
    bench.ask::<()>("SADD t:user:a:running ghost");
    bring(&bench, &one, "a", 2, "");
    assert!(one.claim(9).is_empty());
    let mended = one.audit_all(&bench, 100);
    assert_eq!(mended, BTreeMap::from([("slot".to_owned(), 1)]));
    let flights = one.claim(9);
    assert_eq!(ids(&flights), ["a1"]);
    // One that is missing is written down again.
    bench.ask::<()>("DEL t:user:a:running");
    let mended = one.audit_all(&bench, 100);
    assert_eq!(mended, BTreeMap::from([("slot".to_owned(), 1)]));
    assert!(one.claim(9).is_empty());
}

#[test]
fn a_redis_that_forgot_hears_of_the_slots_again() {
    let bench = Bench::start();
    let one = bench.instance();
    bring(&bench, &one, "a", 2, "");
    let flights = one.claim(2);
    let held: Vec<Remembered> = flights.iter().map(super::remembered).collect();
    bench.ask::<()>("FLUSHALL");
    one.beat();
    set(&bench, "user_concurrency", "2");
    assert_eq!(one.session.reassert(&held), Ok(vec![]));
    assert_eq!(slots(&bench, "a"), ["a1", "a2"]);
    // What is told already needs none.
    bench.ask::<()>("FLUSHALL");
    one.beat();
    set(&bench, "user_concurrency", "2");
    let mut told = held.clone();
    told[0].fields.push(("phase", "telling".to_owned()));
    assert_eq!(one.session.reassert(&told), Ok(vec![]));
    assert_eq!(slots(&bench, "a"), ["a2"]);
    // And when the limit is known again only afterwards.
    bench.ask::<()>("FLUSHALL");
    one.beat();
    assert_eq!(one.session.reassert(&held), Ok(vec![]));
    assert!(slots(&bench, "a").is_empty());
    set(&bench, "user_concurrency", "2");
    apply(&one);
    assert_eq!(slots(&bench, "a"), ["a1", "a2"]);
}

#[test]
fn slots_are_kept_while_they_are_limited_and_jobs_that_an_older_version_claimed_leave_none_behind()
{
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    bring(&bench, &one, "a", 4, "");
    set(&bench, "user_concurrency", "2");
    apply(&one);
    let mut limited = one.claim(2);
    assert_eq!(slots(&bench, "a"), ["a1", "a2"]);
    // Switched off, what has a slot keeps it to its end, and the next ones take none.
    bench.ask::<()>("HDEL t:config user_concurrency");
    apply(&one);
    let mut free = one.claim(2);
    assert_eq!((free.len(), slots(&bench, "a").len()), (2, 2));
    one.end(&mut limited[0], EndState::Done);
    assert_eq!(slots(&bench, "a"), ["a2"]);
    // A version that always kept the set, and no field: who ends its jobs was their owner, or has claimed them.
    bench.ask::<()>("SADD t:user:a:running a3");
    one.submitted(&mut free[0], "r");
    assert_eq!(one.dies(&two, true), 3);
    for mut flight in two.claim(9) {
        two.end(&mut flight, EndState::Done);
    }
    assert!(slots(&bench, "a").is_empty());
}

#[test]
fn a_limit_set_while_jobs_run_is_applied_by_whoever_goes_on_with_it_and_counts_each_once() {
    let bench = Bench::start();
    let all = [bench.instance(), bench.instance(), bench.instance()];
    bring(&bench, &all[0], "a", 9, "");
    let mut held: Vec<Vec<Flight>> = all.iter().map(|one| one.claim(2)).collect();
    set(&bench, "user_concurrency", "3");
    assert_eq!(all[0].session.apply_limits(50), Ok(false));
    // Between two of its calls one ends, counted or not.
    all[0].end(&mut held[0].remove(0), EndState::Done);
    apply(&all[1]);
    assert_eq!(slots(&bench, "a").len(), 5);
    assert!(all[1].claim(9).is_empty());
    let (mut begun, mut ended) = (0, 1);
    for (one, flights) in all.iter().zip(&mut held) {
        for flight in flights {
            one.end(flight, EndState::Done);
            let mut next = one.claim(9);
            begun += next.len();
            assert!(slots(&bench, "a").len() <= 3.max(5 - ended));
            ended += 1;
            for flight in &mut next {
                one.end(flight, EndState::Done);
            }
        }
    }
    assert_eq!(begun, 3, "those that waited");
    assert!(all[2].audit_all(&bench, 100).is_empty());
}

// ---- rate

#[test]
fn ten_thousand_jobs_at_twenty_an_hour_are_looked_at_twice_each() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_rate", "20/3600000");
    bring(&bench, &one, "a", 10_000, "");
    let mut begun = 0;
    let mut claims = 0;
    loop {
        let claim = one.session.claim(8, false).expect("claims");
        begun += claim.jobs.len();
        claims += 1;
        if !claim.more {
            break;
        }
    }
    assert_eq!(begun, 20);
    assert!(claims < 200, "{claims} calls");
    assert_eq!(bench.ask::<u64>("ZCARD t:later"), 9980);
    // Each has a time of its own, three minutes apart, in the old order.
    let due: Vec<(String, i64)> = bench.ask("ZRANGE t:later 0 -1 WITHSCORES");
    assert_eq!((due[0].0.as_str(), due[9979].0.as_str()), ("a21", "a10000"));
    let wait = due[0].1 - bench.now();
    assert!((120_000..=180_000).contains(&wait), "{wait}");
    for pair in due.windows(2) {
        assert!((pair[1].1 - pair[0].1 - 180_000).abs() <= 1);
    }
    let record = bench.record("a21");
    assert_eq!(
        (record["state"].as_str(), record["attempt"].as_str()),
        ("later", "0")
    );
    assert!(!record.contains_key("started_at"));
    assert_eq!(bench.events_of("a10000"), ["queued", "deferred"]);
    // When it has come, nobody asks again: one claim each.
    bench.redis_eval(
        "for _, id in ipairs(redis.call('ZRANGE', 't:later', 0, -1, 'WITHSCORES')) do
           if not tonumber(id) then redis.call('ZADD', 't:later', 1 + tonumber(string.sub(id, 2)), id) end
         end",
    );
    let before = bucket(&bench, "a");
    loop {
        let moved = one.session.promote(500).expect("promotes");
        let mut left = moved;
        while left > 0 {
            let n = one.claim(8).len();
            assert!(n > 0, "each that came back begins");
            begun += n;
            left -= n;
        }
        if moved == 0 {
            break;
        }
    }
    assert_eq!(begun, 10_000);
    assert_eq!(bucket(&bench, "a"), before, "charged once");
    assert_eq!(bench.ask::<u64>("ZCARD t:rate:held"), 0);
}

#[test]
fn a_clock_that_was_set_back_takes_nobodys_rate() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_rate", "5/60000");
    bring(&bench, &one, "a", 1, "");
    assert_eq!(one.claim(9).len(), 1);
    // As if all of it had been an hour later, by a clock that is right again.
    let text: String = bench.ask(&format!("GET {NS}:rate:user:a"));
    let later: Vec<String> = text
        .split(' ')
        .map(|time| (time.parse::<f64>().expect("a time") + 3_600_000.0).to_string())
        .collect();
    bench.redis_eval(&format!(
        "redis.call('SET', '{NS}:rate:user:a', '{}')",
        later.join(" ")
    ));
    bring(&bench, &one, "a", 6, "");
    assert_eq!(one.claim(9).len(), 4, "as many as are left of five");
}

#[test]
fn neither_a_retry_nor_a_crash_nor_a_return_is_charged_again() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    set(&bench, "user_rate", "2/3600000");
    bring(&bench, &one, "a", 3, "");
    let mut flights = one.claim(9);
    assert_eq!(ids(&flights), ["a1", "a2"]);
    let before = bucket(&bench, "a");
    let later = retrying(&flights[0], Duration::from_secs(5));
    one.write(&mut flights[0], &later);
    one.session.give_back(&[&flights[1]]).expect("given");
    assert_eq!(ids(&one.claim(9)), ["a2"]);
    one.dies(&two, true);
    bench.redis_eval("redis.call('ZADD', 't:later', 'XX', 1, 'a1', 1, 'a2')");
    two.session.promote(9).expect("promotes");
    let mut again = ids(&two.claim(9));
    again.sort();
    assert_eq!(again, ["a1", "a2"]);
    assert_eq!(bucket(&bench, "a"), before);
    assert_eq!(bench.state("a3"), "later");
    let deferred = bench
        .events()
        .into_iter()
        .filter(|(name, _)| name == "deferred");
    let deferred: Vec<_> = deferred.map(|(_, fields)| fields).collect();
    assert_eq!(deferred.len(), 1);
    assert_eq!(
        (deferred[0]["job"].as_str(), deferred[0]["kind"].as_str()),
        ("a3", "rate_limited")
    );
    assert_eq!(deferred[0]["attempt"], "0");
}

#[test]
fn a_job_whose_time_would_come_after_its_end_takes_nobodys_time() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_rate", "1/3600000");
    bring(&bench, &one, "a", 3, "");
    let soon = bench.now() + 60_000;
    bench.ask::<()>(&format!("HSET t:job:a2 expires_at {soon}"));
    assert_eq!(ids(&one.claim(9)), ["a1"]);
    let due: Vec<(String, i64)> = bench.ask("ZRANGE t:later 0 -1 WITHSCORES");
    assert_eq!(due[0], ("a2".to_owned(), soon + 1));
    assert_eq!(due[1].0, "a3");
    assert!(due[1].1 - bench.now() <= 3_600_000, "{due:?}");
    bench.ask::<()>("HSET t:job:a2 expires_at 5");
    bench.ask::<()>("ZADD t:later 6 a2");
    one.session.promote(9).expect("promotes");
    let told = one.claim_one();
    assert_eq!((told.id.as_str(), told.phase), ("a2", Phase::Telling));
    assert!(!slots(&bench, "a").contains(&"a2".to_owned()));
}

#[test]
fn a_rate_that_is_changed_or_removed_counts_for_those_who_have_a_time_already() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_rate", "1/3600000");
    apply(&one);
    bring(&bench, &one, "a", 9, "");
    bring(&bench, &one, "b", 9, "");
    assert_eq!(one.claim(30).len(), 2);
    assert_eq!(bench.ask::<u64>("ZCARD t:rate:held"), 16);
    set(&bench, "user_rate", "4/3600000");
    assert!(one.beat().limits_changed);
    apply(&one);
    // An hour's worth is used up in full: what was reserved is given back, what was begun is not.
    let claimed = ids(&one.claim(30));
    assert!(claimed.len() <= 6, "{claimed:?}");
    assert!(bench.ask::<u64>("ZCARD t:rate:held") >= 10);
    bench.ask::<()>("HDEL t:config user_rate");
    apply(&one);
    assert_eq!(bench.ask::<u64>("ZCARD t:rate:held"), 0);
    let rest = one.claim(30).len();
    assert_eq!(claimed.len() + rest, 16);
    let deferred = bench
        .events()
        .into_iter()
        .filter(|(name, _)| name == "deferred");
    assert_eq!(deferred.count(), 16, "once a job");
}

#[test]
fn who_set_what_is_known_and_a_store_that_forgot_takes_the_old_values_only_where_it_has_none() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    let values = [
        ("user_concurrency", "2".to_owned()),
        ("fair", "off".to_owned()),
    ];
    assert_eq!(one.session.configure(&values, false), Ok(vec![]));
    assert_eq!(
        bench.ask::<String>("HGET t:config user_concurrency:by"),
        one.name()
    );
    let at: i64 = bench.ask("HGET t:config fair:at");
    assert!((bench.now() - at).abs() < 60_000);
    let other = [("user_concurrency", "5".to_owned())];
    let old = two.session.configure(&other, false).expect("answers");
    assert_eq!(
        old,
        [Overruled {
            name: "user_concurrency".into(),
            before: "2".into(),
            by: one.name()
        }]
    );
    bench.ask::<()>("HDEL t:config fair");
    assert_eq!(one.session.configure(&values, true), Ok(vec![]));
    assert_eq!(bench.ask::<String>("HGET t:config user_concurrency"), "5");
    assert_eq!(bench.ask::<String>("HGET t:config fair"), "off");
}

// ---- all together, at random

const USERS: [&str; 4] = ["", "a", "b", "c:running"];
const PRIORITIES: [&str; 3] = ["high", "default", "low"];
/// Limited by their model.
const VIDEOS: &str = "fal-ai/veo*";
/// Begun at once by one user.
const BURST: usize = 12;

struct Walk {
    rng: Rng,
    bench: Bench,
    instances: Vec<Instance>,
    held: Vec<Vec<Flight>>,
    pushed: usize,
    redelivered: usize,
    requests: usize,
    ended: usize,
    limit: usize,
    /// The submit window (with its overhang), and how many videos may be at fal; 0: any number.
    window: usize,
    videos: usize,
    history: Vec<String>,
}

#[test]
fn random_walks_never_pass_a_limit_and_never_leave_a_free_slot_idle() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seed = number("FAL_WORKER_LIMITS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let steps = number("FAL_WORKER_LIMITS_STEPS").unwrap_or(500);
    eprintln!("FAL_WORKER_LIMITS_SEED={seed} FAL_WORKER_LIMITS_STEPS={steps}");
    let mut left = steps;
    for run in 0.. {
        let mut walk = Walk::new(seed.wrapping_add(run));
        for _ in 0..left.min(500) {
            walk.step();
            walk.check();
        }
        walk.drain();
        left -= left.min(500);
        if left == 0 {
            return;
        }
    }
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let bench = Bench::start();
        let instances: Vec<Instance> = (0..3).map(|_| bench.instance()).collect();
        set(&bench, "user_rate", &format!("{BURST}/36000000"));
        set(&bench, "low_after", "30");
        apply(&instances[0]);
        Walk {
            rng: Rng::with_seed(seed),
            bench,
            instances,
            held: vec![Vec::new(), Vec::new(), Vec::new()],
            pushed: 0,
            redelivered: 0,
            requests: 0,
            ended: 0,
            limit: 0,
            window: 0,
            videos: 0,
            history: Vec::new(),
        }
    }

    fn note(&mut self, what: String) {
        self.history.push(what);
        let surplus = self.history.len().saturating_sub(30);
        self.history.drain(..surplus);
    }

    fn step(&mut self) {
        for one in &self.instances {
            one.proxy.pass();
        }
        let who = self.rng.usize(..3);
        if self.rng.u8(..4) == 0 {
            self.instances[who].proxy.lose_an_answer();
        }
        match self.rng.u8(..111) {
            0..15 => self.push(who),
            15..40 => self.claim(who),
            40..80 => self.own(who),
            80..85 => {
                self.note(format!("promote by {who}"));
                self.bench.an_hour_passes();
                self.instances[who].session.promote(5).expect("promotes");
            }
            85..89 => {
                self.note(format!("give back by {who}"));
                let n = self.rng.usize(..=self.held[who].len());
                let back: Vec<Flight> = self.held[who].drain(..n).collect();
                let back: Vec<&Flight> = back.iter().collect();
                self.instances[who].session.give_back(&back).expect("given");
            }
            89..92 => self.crash(who),
            92..94 => {
                self.note(format!("{who} dies"));
                self.instances[who].proxy.pass();
                let heir = (who + 1) % 3;
                self.instances[heir].proxy.pass();
                let steps = self.rng.bool().then_some(&[][..]);
                self.instances[who].dies_with(&self.instances[heir], true, steps);
                self.held[who].clear();
                self.instances[who].store.rename();
                self.instances[who].beat();
            }
            94..97 => {
                self.limit = self.rng.usize(..4);
                let window = self.rng.usize(..4);
                self.window = if window == 0 { 0 } else { window + 2 };
                self.videos = self.rng.usize(..3);
                self.note(format!(
                    "limit {}, window {}, videos {}",
                    self.limit, self.window, self.videos
                ));
                set(&self.bench, "user_concurrency", &self.limit.to_string());
                set(&self.bench, "fal_concurrency", &window.to_string());
                let videos = match self.videos {
                    0 => "off".to_owned(),
                    n => format!("{VIDEOS}={n}"),
                };
                set(&self.bench, "model_limits", &videos);
                apply(&self.instances[who]);
            }
            97..105 => self.cancel(),
            105..108 => self.redeliver(),
            _ => {
                self.note("audit".to_owned());
                self.instances[who].proxy.pass();
                self.instances[who].audit_all(&self.bench, 100);
                self.bench.audit_was(AUDIT_PATIENCE * 2);
                self.instances[who].audit();
                assert_eq!(self.bench.repairs(), BTreeMap::new(), "{:#?}", self.history);
            }
        }
    }

    fn some_job(&mut self) -> JobId {
        let number = self.rng.usize(1..=self.pushed.max(1));
        JobId::new(&format!("j{number}")).expect("an id")
    }

    fn cancel(&mut self) {
        let id = self.some_job();
        let said = self.bench.view().cancel(&id).expect("answers");
        self.note(format!("cancel {id}: {said:?}"));
    }

    fn redeliver(&mut self) {
        let id = self.some_job();
        let again = JobId::new(&format!("again-{}", self.redelivered + 1)).expect("an id");
        let mut view = self.bench.view();
        let said = view
            .redeliver(&id, &again, &Target::to_chat(ChatId::Id(7)))
            .expect("answers");
        self.note(format!("redeliver {id} as {again}: {said:?}"));
        self.redelivered += usize::from(said == Redeliver::Ok);
    }

    fn push(&mut self, who: usize) {
        for _ in 0..self.rng.usize(1..5) {
            self.pushed += 1;
            let (user, p) = (USERS[self.rng.usize(..4)], PRIORITIES[self.rng.usize(..3)]);
            let id = format!("j{}", self.pushed);
            let mut more = format!(r#""priority":"{p}","max_attempts":3"#);
            if self.rng.u8(..6) == 0 {
                more += r#","not_before":4000000000"#;
            }
            let mut entry = if user.is_empty() {
                job(&id, &more)
            } else {
                of(user, &id, &more)
            };
            if self.rng.bool() {
                entry = entry.replace(r#""a/b""#, &format!(r#""{VIDEO}""#));
            }
            self.note(format!("push {entry}"));
            self.bench.push(&entry);
        }
        self.instances[who].intake();
    }

    fn claim(&mut self, who: usize) {
        let before: BTreeMap<&str, BTreeSet<String>> = USERS
            .iter()
            .map(|user| (*user, slots(&self.bench, user).into_iter().collect()))
            .collect();
        let n = self.rng.usize(1..6);
        let places =
            |pattern| -> BTreeSet<String> { at_fal(&self.bench, pattern).into_iter().collect() };
        let (all_before, videos_before) = (places(""), places(VIDEOS));
        let claim = self.instances[who].session.claim(n, false);
        let claim = claim.expect("claims");
        let (all, videos) = (places(""), places(VIDEOS));
        let flights: Vec<Flight> = claim.jobs.into_iter().map(|flight| *flight).collect();
        self.note(format!("claim by {who}: {:?}", ids(&flights)));
        let told = |what: String| format!("{what}: {:#?}", self.history);
        let begun = |before: &BTreeSet<String>, after: &BTreeSet<String>| {
            flights.iter().any(|flight| {
                let id = flight.id.as_str();
                flight.phase == Phase::Submitting && after.contains(id) && !before.contains(id)
            })
        };
        if self.window > 0 && begun(&all_before, &all) {
            assert!(
                all.len() <= self.window,
                "{}",
                told(format!("at fal {all:?}"))
            );
        }
        if self.videos > 0 && begun(&videos_before, &videos) {
            assert!(
                videos.len() <= self.videos,
                "{}",
                told(format!("videos {videos:?}"))
            );
        }
        // Nothing is left idle: with room for more, and nothing more to come, whoever is ready has been taken.
        if flights.len() < n && !claim.more {
            let open = self.window == 0 || all.len() < self.window;
            for p in PRIORITIES {
                let ready = self.bench.ready(p);
                assert!(
                    !open || ready.is_empty(),
                    "{}",
                    told(format!("{p} {ready:?} idle"))
                );
                let ready = self.bench.ready(&format!("model:{p}:{VIDEOS}"));
                let place = open && (self.videos == 0 || videos.len() < self.videos);
                assert!(
                    !place || ready.is_empty(),
                    "{}",
                    told(format!("{ready:?} idle"))
                );
            }
        }
        for user in USERS.iter().filter(|user| !user.is_empty()) {
            let new = flights.iter().filter(|flight| {
                flight.user.as_deref() == Some(*user) && !before[*user].contains(flight.id.as_str())
            });
            let unpaid = new.clone().any(|flight| flight.phase == Phase::Submitting);
            let after = slots(&self.bench, user).len();
            assert!(
                self.limit == 0 || !unpaid || after <= self.limit,
                "{user} has {after} of {}: {:#?}",
                self.limit,
                self.history
            );
        }
        self.held[who].extend(flights);
    }

    fn own(&mut self, who: usize) {
        if self.held[who].is_empty() {
            return;
        }
        let place = self.rng.usize(..self.held[who].len());
        let mut flight = self.held[who].swap_remove(place);
        let one = &self.instances[who];
        let id = flight.id.to_string();
        let dice = self.rng.u8(..10);
        let (what, written, over) = match flight.phase {
            Phase::Submitting if dice < 6 => {
                self.requests += 1;
                let request = format!("r{}", self.requests);
                ("submitted", one.submitted(&mut flight, &request), false)
            }
            Phase::Submitting if dice < 8 => {
                let write = retrying(&flight, Duration::from_secs(5));
                ("later", one.write(&mut flight, &write), true)
            }
            Phase::Polling if dice < 2 => {
                let write = retrying(&flight, Duration::from_secs(5));
                ("later", one.write(&mut flight, &write), true)
            }
            Phase::Polling if dice < 5 => {
                let write = completed(&mut flight);
                ("completed", one.write(&mut flight, &write), false)
            }
            _ => {
                self.ended += 1;
                ("end", one.end(&mut flight, EndState::Done), true)
            }
        };
        assert_eq!(written, Written::Ok, "{what} {id}: {:#?}", self.history);
        self.note(format!("{what} {id} by {who}"));
        if !over {
            self.held[who].push(flight);
        }
    }

    fn crash(&mut self, who: usize) {
        let Some(flight) = self.held[who].pop() else {
            return;
        };
        self.note(format!("crash {}", flight.id));
        // A repeat whose first answer was lost says `stale`, and the job has left all the same.
        self.instances[who]
            .session
            .crash(&flight.id, &flight.token)
            .expect("answers");
        let state = self.bench.state(flight.id.as_str());
        self.ended += usize::from(state == "dead");
    }

    fn check(&self) {
        let told = |what: String| format!("{what}: {:#?}", self.history);
        let keys: Vec<String> = self.bench.ask(&format!("KEYS {NS}:job:*"));
        if keys.is_empty() {
            return;
        }
        let commands: Vec<String> = keys.iter().map(|key| format!("HGETALL {key}")).collect();
        let records: BTreeMap<String, BTreeMap<String, String>> = keys
            .iter()
            .map(|key| key[NS.len() + 5..].to_owned())
            .zip(
                self.bench
                    .ask_all(&commands)
                    .map(|value| read(value).expect("a hash")),
            )
            .collect();
        let field = |id: &str, name: &str| {
            records
                .get(id)
                .and_then(|record| record.get(name))
                .map(String::as_str)
        };
        let paid = |id: &str| {
            field(id, "request_id").is_some()
                || field(id, "phase").is_some_and(|phase| phase != "submitting")
        };
        let slots: BTreeMap<&str, BTreeSet<String>> = USERS
            .iter()
            .map(|user| (*user, slots(&self.bench, user).into_iter().collect()))
            .collect();
        let mut queued = BTreeSet::new();
        let mut waiting = BTreeSet::new();
        let mut held = BTreeSet::new();
        let behind = PRIORITIES.map(|p| format!("model:{p}:{VIDEOS}"));
        for p in PRIORITIES
            .into_iter()
            .chain(behind.iter().map(String::as_str))
        {
            let list = self.bench.ready(p);
            let turns: BTreeMap<String, String> =
                self.bench.ask(&format!("HGETALL {NS}:turns:{p}"));
            for id in &list {
                assert_eq!(field(id, "state"), Some("queued"), "{}", told(id.clone()));
                assert!(queued.insert(id.clone()), "{}", told(id.clone()));
            }
            for user in USERS.iter().filter(|user| !user.is_empty()) {
                let new = list.iter().filter(|id| {
                    let came_back = ["started_at", "deferred_at"]
                        .iter()
                        .any(|name| field(id, name).is_some());
                    field(id, "user") == Some(*user) && !came_back
                });
                assert!(
                    new.count() <= 1,
                    "{}",
                    told(format!("{user} stands twice in {p} {list:?}"))
                );
                let full = self.limit > 0 && slots[*user].len() >= self.limit;
                let wait = line(&self.bench, p, user);
                for id in &wait {
                    assert_eq!(field(id, "state"), Some("waiting"), "{}", told(id.clone()));
                    assert!(waiting.insert(id.clone()), "{}", told(id.clone()));
                }
                match turns.get(*user).map(String::as_str) {
                    None => assert!(wait.is_empty(), "{}", told(format!("{p} {user} is idle"))),
                    Some("") => {
                        held.insert((*user).to_owned());
                        assert!(
                            full,
                            "{}",
                            told(format!("{p} {user} waits for a free slot"))
                        );
                    }
                    Some(id) => assert!(
                        list.iter().any(|other| other == id),
                        "{}",
                        told(format!("{p} {id}"))
                    ),
                }
            }
        }
        let waiters: BTreeSet<String> = self.bench.ask(&format!("SMEMBERS {NS}:waiters"));
        assert_eq!(waiters, held, "{}", told("waiters".into()));
        queued.extend(self.bench.ready("resume"));
        let mut begun: BTreeMap<&str, usize> = BTreeMap::new();
        for (id, record) in &records {
            let state = record["state"].as_str();
            assert_eq!(
                state == "queued",
                queued.contains(id),
                "{}",
                told(format!("{id} {record:?}"))
            );
            assert_eq!(
                state == "waiting",
                waiting.contains(id),
                "{}",
                told(format!("{id} {record:?}"))
            );
            if record.contains_key("rated") && !record.contains_key("deferred_at") {
                *begun.entry(&record["user"]).or_default() += 1;
            }
            if let Some(user) = record.get("user") {
                let uses = slots[user.as_str()].contains(id);
                assert_eq!(uses, record.contains_key("slot"), "{}", told(id.clone()));
                match state {
                    "running" => assert!(
                        uses || self.limit == 0 || record["phase"] == "telling",
                        "{}",
                        told(id.clone())
                    ),
                    "queued" | "later" => {
                        assert!(!uses || paid(id), "{}", told(format!("{id} {record:?}")))
                    }
                    _ => assert!(!uses, "{}", told(format!("{id} {record:?}"))),
                }
            }
        }
        assert!(
            begun.values().all(|n| *n <= BURST),
            "{}",
            told(format!("{begun:?}"))
        );
        let settled_phase = |phase: &str| ["delivering", "telling"].contains(&phase);
        let (all, videos) = (at_fal(&self.bench, ""), at_fal(&self.bench, VIDEOS));
        for id in &all {
            let state = field(id, "state").unwrap_or_default();
            let phase = field(id, "phase").unwrap_or("submitting");
            let right = state == "running" || ["queued", "later"].contains(&state) && paid(id);
            assert!(
                right && !settled_phase(phase),
                "{}",
                told(format!("at fal {id}"))
            );
        }
        for (id, record) in &records {
            let phase = record.get("phase").map_or("submitting", String::as_str);
            let counted = record.get("at_fal").map(String::as_str);
            let runs = record["state"] == "running" && !settled_phase(phase);
            if self.window > 0 && runs {
                assert!(
                    counted.is_some(),
                    "{}",
                    told(format!("{id} is not counted"))
                );
            }
            assert_eq!(counted.is_some(), all.contains(id), "{}", told(id.clone()));
            let video = counted == Some(VIDEOS);
            assert_eq!(video, videos.contains(id), "{}", told(id.clone()));
        }
        let held: Vec<String> = self.bench.ask(&format!("ZRANGE {NS}:rate:held 0 -1"));
        for id in held {
            assert_eq!(field(&id, "state"), Some("later"), "{}", told(id.clone()));
        }
    }

    /// Everything comes to its end, and nothing is left behind.
    fn drain(&mut self) {
        for one in &self.instances {
            one.proxy.pass();
        }
        for _ in 0..self.pushed * 20 {
            self.bench.an_hour_passes();
            self.instances[0].session.promote(50).expect("promotes");
            for who in 0..3 {
                self.claim(who);
                while let Some(mut flight) = self.held[who].pop() {
                    let written = self.instances[who].end(&mut flight, EndState::Done);
                    assert_eq!(written, Written::Ok);
                    self.ended += 1;
                }
            }
            let claims: usize = self.instances.iter().map(|one| one.beat().claims).sum();
            if claims > 0 {
                for one in &self.instances {
                    for (id, token) in one.session.claims().expect("answers") {
                        one.session.disown(&id, &token).expect("answers");
                    }
                }
            }
            if self.ended == self.pushed + self.redelivered {
                break;
            }
        }
        assert_eq!(
            self.ended,
            self.pushed + self.redelivered,
            "{:#?}",
            self.history
        );
        for key in self.bench.dump().keys() {
            let word = key.split(':').nth(1).unwrap_or_default();
            assert!(
                ![
                    "waiting", "turns", "waiters", "user", "ready", "later", "at_fal"
                ]
                .contains(&word),
                "{key} is left: {:#?}",
                self.history
            );
        }
    }
}
