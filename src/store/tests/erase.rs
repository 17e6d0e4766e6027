//! Before and after of a delete in every state, and that of a user nothing is left but bare ids.

use super::super::*;
use super::bench::*;
use super::fair::{bring, line, of, set, slots};
use crate::job::flight::Doubt;

fn id(name: &str) -> JobId {
    JobId::new(name).expect("an id")
}

fn delete(bench: &Bench, name: &str) -> Delete {
    bench
        .view()
        .delete(&id(name), false)
        .expect("answers")
        .delete
}

/// What is left of a job: the names of the fields of its record.
fn left(bench: &Bench, name: &str) -> Vec<String> {
    bench.record(name).into_keys().collect()
}

fn whose(jobs: &[&str], user: Option<&str>) -> Belongings {
    Belongings {
        jobs: jobs.iter().map(|name| (*name).to_owned()).collect(),
        user: user.map(str::to_owned),
        ..Belongings::default()
    }
}

#[test]
fn of_an_ended_job_the_bare_id_is_left_for_a_day_and_its_lpush_is_a_duplicate() {
    let bench = Bench::start();
    let one = bench.instance();
    for (name, state) in [
        ("done", EndState::Done),
        ("dead", EndState::Dead),
        ("c", EndState::Cancelled),
    ] {
        bench.push(&job(name, r#""user_id":"u","meta":{"o":1}"#));
        one.intake();
        let mut flight = one.claim_one();
        assert_eq!(one.end(&mut flight, state), Written::Ok);
        let before = bench.dump();
        let looked = bench.view().delete(&id(name), true).expect("answers");
        assert_eq!(
            (looked.delete, looked.state.as_str()),
            (Delete::Ok, state.as_str())
        );
        assert!(looked.since.0 > 0 && looked.charged == "unknown");
        assert_eq!(bench.dump(), before, "a look changes nothing");
        assert_eq!(delete(&bench, name), Delete::Ok);
        let mut fields = left(&bench, name);
        fields.retain(|field| field != "kind");
        assert_eq!(fields, ["charged", "seq", "state", "token", "v"], "{name}");
        assert_eq!(bench.state(name), state.as_str());
        assert_eq!(bench.ttl(&format!("job:{name}")), 86_400);
        assert_eq!(bench.ttl(&format!("spec:{name}")), -2);
        // Twice is once; a repeat of its end is known as one, and an entry of the same id is no payment.
        assert_eq!(delete(&bench, name), Delete::Bare);
        let write = ending(&flight, state);
        assert_eq!(
            one.session.write(&flight, flight.seq, &write),
            Ok(Written::Ok)
        );
        one.session.reassert_ended().expect("answers");
        bench.push(&job(name, ""));
        assert_eq!(one.intake().marks, "u");
        assert_eq!(bench.state(name), state.as_str());
        assert_eq!(
            retry_of(&bench, name),
            (state == EndState::Dead).then_some(Retry::Bare)
        );
    }
    assert_eq!(bench.ask::<u64>("ZCARD t:dead"), 0);
    assert_eq!(delete(&bench, "nobody"), Delete::Gone);
    assert!(bench.record("nobody").is_empty());
    assert!(one.audit_all(&bench, 100).is_empty());
}

fn retry_of(bench: &Bench, name: &str) -> Option<Retry> {
    let tried = bench.view().retry(&[id(name)], false).expect("answers");
    Some(tried[0].retry).filter(|retry| *retry == Retry::Bare)
}

#[test]
fn what_waits_leaves_every_place_and_its_life_ends_with_an_event_of_nobody() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(&job("n", r#""not_before":4000000000,"user_id":"u""#));
    bench.push(&job("a", r#""meta":{"o":1}"#));
    bench.push(&job("u", r#""priority":"high""#));
    one.intake();
    // One that waits for a new submit, and of whose last one nobody knows what became of it.
    let mut unsure = one.claim_one();
    unsure.doubt = Doubt::Submit;
    let mut write = retrying(&unsure, Duration::from_secs(50));
    if let Write::Later { patch, .. } = &mut write {
        patch.set.push(("doubt", "submit".to_owned()));
        patch.del.retain(|field| *field != "doubt");
    }
    assert_eq!(one.write(&mut unsure, &write), Written::Ok);
    // One whose result waits for its delivery, and one whose user is to be told.
    let held = undelivered(&bench, &one, "d");
    assert_eq!(one.session.give_back(&[&held]), Ok(1));
    bench.push(r#"{"id":"t","model":"a/b","input":null,"telegram":{"chat_id":7}}"#);
    one.intake();
    assert_eq!(bench.ready("resume"), ["d", "t"]);

    let cases = [
        ("n", "cancelled", "no"),
        ("a", "cancelled", "no"),
        ("u", "cancelled", "unknown"),
        ("d", "cancelled", "yes"),
        ("t", "failed", "no"),
    ];
    for (name, event, charged) in cases {
        assert_eq!(delete(&bench, name), Delete::Ok, "{name}");
        let (last, fields) = bench.events().pop().expect("events");
        assert_eq!((last.as_str(), fields["job"].as_str()), (event, name));
        assert_eq!(fields["charged"], charged, "{name}");
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["at", "attempt", "charged", "error", "event", "job", "kind"]
        );
        assert_eq!(left(&bench, name), ["charged", "kind", "state", "v"]);
        assert_eq!(bench.ttl(&format!("job:{name}")), 86_400);
    }
    for key in bench.dump().keys() {
        let word = key.split(':').nth(1).unwrap_or_default();
        let gone = [
            "ready", "later", "spec", "result", "turns", "waiting", "user", "at_fal",
        ];
        assert!(!gone.contains(&word), "{key} is left");
    }
    // A request id that comes late is nobody's, and makes nobody of it.
    let write = accepted(&mut unsure, "late");
    assert_eq!(one.write(&mut unsure, &write), Written::Cancel);
    assert!(one.claim(9).is_empty());
    assert!(one.audit_all(&bench, 100).is_empty());
}

fn undelivered(bench: &Bench, one: &Instance, name: &str) -> Flight {
    bench.push(&job(
        name,
        r#""priority":"high","user_id":"u","telegram":{"chat_id":7}"#,
    ));
    one.intake();
    let mut flight = one.claim_one();
    assert_eq!(flight.id.as_str(), name);
    one.submitted(&mut flight, "r");
    let write = completed(&mut flight);
    assert_eq!(one.write(&mut flight, &write), Written::Ok);
    flight
}

#[test]
fn what_a_worker_holds_or_fal_runs_is_to_be_cancelled_first() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    bench.push(&job("s", ""));
    bench.push(&job("p", ""));
    one.intake();
    let mut flights = one.claim(2);
    let mut polling = flights.pop().expect("two");
    assert_eq!(one.submitted(&mut polling, "r"), Written::Ok);
    bench.push(&job("newer", ""));
    one.intake();
    bench.ask::<()>("HSET t:job:newer v 2");
    let before = bench.dump();
    for name in ["s", "p"] {
        assert_eq!(delete(&bench, name), Delete::Running, "{name}");
    }
    assert_eq!(delete(&bench, "newer"), Delete::Newer);
    assert_eq!(bench.dump(), before);
    // Its owner died: what is at fal stays, what was never sent is nobody's.
    one.dies_with(&two, true, Some(&[]));
    assert_eq!(
        (bench.ready("resume"), bench.state("s")),
        (vec!["p".into()], "queued".into())
    );
    assert_eq!(delete(&bench, "p"), Delete::Running);
    assert_eq!(delete(&bench, "s"), Delete::Ok);
    bench.ask::<()>("HSET t:job:newer v 1");
    let claimed = two.claim(9);
    let names: Vec<&str> = claimed.iter().map(|flight| flight.id.as_str()).collect();
    assert_eq!(names, ["p", "newer"]);
    // Who believed in his claim of what is gone is told so, whatever he writes.
    let write = retrying(&flights[0], Duration::from_secs(1));
    assert_eq!(
        one.session.write(&flights[0], 1, &write),
        Ok(Written::Stale)
    );
    assert_eq!(two.session.give_back(&[&flights[0]]), Ok(0));
    assert!(two.audit_all(&bench, 100).is_empty());
}

#[test]
fn a_line_keeps_its_order_and_a_slot_goes_to_the_next() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_concurrency", "1");
    set(&bench, "model_limits", "a/*=1");
    one.session.apply_limits(9).expect("answers");
    one.session.apply_limits(9).expect("answers");
    bring(&bench, &one, "a", 4, "");
    let mut first = one.claim_one();
    assert!(one.claim(9).is_empty());
    assert_eq!(line(&bench, "default", "a"), ["a2", "a3", "a4"]);
    assert_eq!(delete(&bench, "a3"), Delete::Ok);
    assert_eq!(line(&bench, "default", "a"), ["a2", "a4"]);
    // One of another user waits for the model; it goes, and its turn with it.
    bring(&bench, &one, "b", 2, "");
    assert!(one.claim(9).is_empty());
    assert_eq!(bench.field("b1", "behind").as_deref(), Some("a/*"));
    assert_eq!(delete(&bench, "b1"), Delete::Ok);
    assert!(one.audit_all(&bench, 100).is_empty());
    // A paid one that nobody holds lets go of its slot and its place at fal.
    assert_eq!(one.submitted(&mut first, "r"), Written::Ok);
    let write = completed(&mut first);
    assert_eq!(one.write(&mut first, &write), Written::Ok);
    assert_eq!(one.session.give_back(&[&first]), Ok(1));
    assert_eq!(slots(&bench, "a"), ["a1"]);
    assert_eq!(delete(&bench, "a1"), Delete::Ok);
    assert!(slots(&bench, "a").is_empty());
    let next = one.claim(9);
    assert_eq!(next.len(), 1, "the model has one place");
    assert_eq!(next[0].id.as_str(), "b2");
    assert!(one.audit_all(&bench, 100).is_empty());
    assert_eq!(delete(&bench, "a2"), Delete::Ok);
    assert_eq!(delete(&bench, "a4"), Delete::Ok);
    let keys: Vec<String> = bench.ask(&format!("KEYS {NS}:wait*"));
    assert!(keys.is_empty(), "{keys:?}");
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn without_memory_a_delete_goes_through() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(&job("a", r#""user_id":"u""#));
    bench.push(&job("b", r#""user_id":"u""#));
    one.intake();
    bench.oom();
    assert_eq!(delete(&bench, "b"), Delete::Ok);
    assert_eq!(delete(&bench, "a"), Delete::Ok);
    bench.memory_back();
    assert!(bench.ready("default").is_empty());
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn of_a_user_no_trace_is_found_anywhere_but_bare_ids() {
    let bench = Bench::start();
    let one = bench.instance();
    one.store.set_bot("42:secret");
    let him = |id: &str, more: &str| of("hans-7", id, more);
    set(&bench, "user_rate", "1/60000");
    set(&bench, "user_concurrency", "2");
    for _ in 0..3 {
        one.session.apply_limits(9).expect("answers");
    }
    bench.push(&him(
        "one",
        r#""meta":{"who":"hans"},"input_files":{"x":"FILE-1"}"#,
    ));
    bench.push(&him("two", r#""priority":"high""#));
    bench.push(&him("three", ""));
    bench.push(&of("hans-77", "other", ""));
    one.intake();
    let mut flight = one.claim_one();
    assert_eq!(flight.id.as_str(), "two");
    assert_eq!(one.end(&mut flight, EndState::Dead), Written::Ok);
    bench.ask::<()>("SET t:upload:bot:FILE-1 url");
    bench.ask::<()>("SET t:upload:bot:FILE-2 url");
    bench.ask::<()>("SET t:rate:bot:unreachable:hans-7 1");
    bench.ask::<()>("SET t:rate:bot:unreachable:hans-77 1");
    bench.ask::<()>("HSET t:rate:bot:chat:hans-7 full 1");
    // Held back by his rate, and not read yet.
    assert!(
        one.claim(9)
            .iter()
            .all(|flight| flight.id.as_str() == "other")
    );
    assert!(bench.later().contains(&"one".to_owned()));
    for n in 0..60 {
        bench.push(&him(&format!("unread-{n}"), ""));
        bench.push(&of("hans-77", &format!("stays-{n}"), ""));
    }
    bench.push(r#"{"id":"broken","user_id":"hans-7","model":"a/b"}"#);
    // An event of a job of which no record is left.
    bench.ask::<()>("XADD t:events * event done job long-gone user hans-7 at 1");

    let mut view = bench.view();
    assert_eq!(view.unread_of_user("hans-7", true), Ok(61));
    assert_eq!(view.unread_of_user("hans-7", false), Ok(61));
    assert_eq!(bench.ask::<u64>("LLEN t:inbox"), 60);
    let jobs = view.jobs_of_user("hans-7").expect("answers");
    let names: Vec<String> = jobs.iter().map(JobId::to_string).collect();
    assert_eq!(names, ["one", "three", "two"]);
    let mut all = whose(&["one", "two", "three"], Some("hans-7"));
    for job in &jobs {
        all.files.extend(view.input_files(job).expect("answers"));
        assert_eq!(view.delete(job, false).expect("answers").delete, Delete::Ok);
    }
    assert_eq!(all.files.iter().collect::<Vec<_>>(), ["FILE-1"]);
    let counted = view.erase_events(&all, UnixMs(0), true).expect("answers");
    let erased = view.erase_events(&all, UnixMs(0), false).expect("answers");
    assert_eq!(counted, erased);
    assert_eq!(erased["long-gone"], 1);
    assert_eq!(erased["two"], 3, "queued, started, failed");
    view.erase_belongings(&all).expect("answers");

    for (key, content) in bench.dump() {
        let about_him = |text: &str| text.replace("hans-77", "").contains("hans");
        assert!(!about_him(&key) && !about_him(&content), "{key}: {content}");
        assert!(!content.contains("FILE-1"), "{key}");
    }
    assert_eq!(
        bench.ask::<Vec<String>>("KEYS t:upload:*"),
        ["t:upload:bot:FILE-2"]
    );
    assert_eq!(
        bench.events_of("one"),
        ["cancelled"],
        "the last words of a life stay"
    );
    assert!(bench.events_of("two").is_empty());
    assert_eq!(bench.events_of("other"), ["queued", "started"]);
    assert_eq!(bench.ask::<u64>("EXISTS t:rate:bot:unreachable:hans-77"), 1);
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn what_another_namespace_keeps_below_ours_is_not_taken_for_a_users_jobs() {
    let bench = Bench::start();
    bench.ask::<()>("XADD t:job:events * event queued job x user u");
    bench.ask::<()>("HSET t:job:job:x state done user u redelivers mine");
    let mut view = bench.view();
    assert!(matches!(view.jobs_of_user("u"), Err(Fault::Refused(_))));
    let mine = ["mine".to_owned()].into_iter().collect();
    assert_eq!(view.redeliveries_of(&mine), Ok(Vec::new()));
}

#[test]
fn a_long_stream_is_walked_through_in_pages_and_only_theirs_goes() {
    let bench = Bench::start();
    bench.redis_eval(
        "for n = 1, 5500 do redis.call('XADD', 't:events', '*', 'event', 'queued', 'job', \
         n % 3 == 0 and 'mine' or 'other', 'model', 'a/b', 'at', 1) end",
    );
    let mut view = bench.view();
    let erased = view.erase_events(&whose(&["mine"], None), UnixMs(0), false);
    assert_eq!(erased.expect("answers")["mine"], 1833);
    assert_eq!(bench.ask::<u64>("XLEN t:events"), 5500 - 1833);
    assert!(bench.events_of("mine").is_empty());
}

#[test]
fn a_persons_pause_outlasts_a_workers_and_is_lifted_by_a_person() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(&job("a", ""));
    one.intake();
    let mut view = bench.view();
    let pause = |name: &str| bench.ask::<Option<String>>(&format!("HGET t:paused {name}"));
    let trouble = || {
        one.session
            .pause("no_balance", "w~1", Duration::from_secs(30))
            .expect("answers")
    };
    assert_eq!(view.resume().expect("answers"), None);
    // A worker's ends by itself; a person's takes its place and does not, whatever workers meet.
    trouble();
    assert!(bench.ttl("paused") > 0);
    view.hold("repairs", "me@here", None).expect("answers");
    trouble();
    assert_eq!(
        (pause("reason").as_deref(), bench.ttl("paused")),
        (Some("repairs"), -1)
    );
    assert_eq!(pause("until"), None);
    assert!(one.claim(1).is_empty());
    // Said again it begins no anew, and a short one is as much a person's.
    let since = pause("since");
    view.hold("still", "you@here", Some(Duration::from_secs(9)))
        .expect("answers");
    assert_eq!(pause("since"), since);
    assert!((1..=9).contains(&bench.ttl("paused")));
    trouble();
    assert_eq!(pause("reason").as_deref(), Some("still"));
    assert_eq!(one.session.unpause("still"), Ok(false), "it is no worker's");
    bench.ask::<()>("DEL t:bell");
    let was = view.resume().expect("answers").expect("paused");
    assert_eq!(
        (was.reason.as_str(), was.by.as_str(), was.person),
        ("still", "you@here", true)
    );
    assert_eq!(bench.ask::<u64>("LLEN t:bell"), 1, "a puller is woken");
    assert_eq!(one.claim(1).len(), 1);
    trouble();
    assert!(!view.resume().expect("answers").expect("paused").person);
    assert_eq!(view.resume().expect("answers"), None);
}
