//! Writes of several jobs at once, last ones and results: each is what it would be by itself, or is left undone.

use super::fair::set;
use super::*;
use std::collections::BTreeMap;

/// Long enough that nothing but the record says that the id was used.
const LONG: Keep = Keep {
    done: Duration::from_secs(2 * 86_400),
    ..KEEP
};

fn together(one: &Instance, flights: &mut [Flight]) -> Vec<bool> {
    all_at_once(one, flights, |flight| ending(flight, EndState::Done))
}

/// A result, as it is written before its delivery.
fn result(flight: &mut Flight) -> Write {
    let mut save = completed(flight);
    if let Write::Save { count, .. } = &mut save {
        *count = None;
    }
    save
}

fn all_at_once(
    one: &Instance,
    flights: &mut [Flight],
    make: impl Fn(&mut Flight) -> Write,
) -> Vec<bool> {
    let writes: Vec<_> = flights
        .iter_mut()
        .map(|flight| {
            let write = make(flight);
            (flight.number(&write), write)
        })
        .collect();
    let session = &one.session;
    let parts: Vec<_> = (flights.iter().zip(&writes))
        .map(|(flight, (seq, write))| session.prepare(flight, *seq, write).into_part())
        .collect();
    let ends: Vec<_> = (flights.iter().zip(&writes).zip(&parts))
        .map(|((flight, (seq, write)), part)| (flight, *seq, write, part))
        .collect();
    session.write_together(&ends)
}

/// Jobs under way, of which one has a large result and another one of a chat that counts as out of reach.
fn lives(bench: &Bench) -> (Instance, Vec<Flight>) {
    let one = bench.instance_keeping(LONG);
    one.store.set_bot("1:a");
    for id in ["a", "b", "c"] {
        bench.push(&job(id, r#""user_id":5,"telegram":{"chat_id":7}"#));
    }
    one.intake();
    let mut flights = one.claim(3);
    for (number, flight) in flights.iter_mut().enumerate() {
        one.submitted(flight, &format!("r{number}"));
        let mut save = completed(flight);
        if let Write::Save { large, .. } = &mut save
            && number == 0
        {
            *large = Some("{}".into());
        }
        one.write(flight, &save);
    }
    one.session.mark_unreachable("7").expect("answers");
    (one, flights)
}

/// What there is, less times and names that differ from run to run.
fn left(bench: &Bench) -> Vec<(String, String)> {
    let timeless = |fields: BTreeMap<String, String>| {
        let stays = |name: &str| {
            !name.ends_with("_at") && !matches!(name, "at" | "ms" | "token" | "worker")
        };
        let fields: BTreeMap<_, _> = fields.into_iter().filter(|(name, _)| stays(name)).collect();
        format!("{fields:?}")
    };
    let mut out = Vec::new();
    for key in bench.ask::<Vec<String>>(&format!("KEYS {NS}:*")) {
        let kind: String = bench.ask(&format!("TYPE {key}"));
        if key.starts_with(&format!("{NS}:job:")) {
            let text = timeless(bench.ask(&format!("HGETALL {key}")));
            let ttl = bench.ttl(&key[NS.len() + 1..]);
            out.push((key, format!("{text} for {ttl} s")));
        } else if kind == "hash" && key.contains(":claims:") {
            out.push((
                "claims".to_owned(),
                bench.ask::<Vec<String>>(&format!("HKEYS {key}")).join(" "),
            ));
        } else {
            let name = key.split(':').take(2).collect::<Vec<_>>().join(":");
            out.push((name, kind));
        }
    }
    let mut events: Vec<_> = bench
        .events()
        .into_iter()
        .map(|(_, fields)| timeless(fields))
        .collect();
    events.sort();
    out.extend(events.into_iter().map(|text| ("event".to_owned(), text)));
    out.sort();
    out
}

#[test]
fn what_several_leave_at_once_is_what_each_leaves_by_itself() {
    let alone = {
        let bench = Bench::start();
        let (one, mut flights) = lives(&bench);
        for flight in &mut flights {
            assert_eq!(one.end(flight, EndState::Done), Written::Ok);
        }
        left(&bench)
    };
    let bench = Bench::start();
    let (one, mut flights) = lives(&bench);
    assert_eq!(together(&one, &mut flights), [true; 3]);
    assert_eq!(left(&bench), alone);
    assert!(
        alone
            .iter()
            .all(|(name, _)| !name.contains(":spec") && !name.contains(":result"))
    );
    assert_eq!(one.store.ended.lock().unwrap().size(Instant::now()).0, 3);
    assert_eq!(one.beat().claims, 0);
}

#[test]
fn results_of_several_at_once_are_what_each_is_by_itself() {
    let submitted = |bench: &Bench| {
        let one = bench.instance_keeping(LONG);
        fill(bench, &one, &["a", "b"]);
        let mut flights = one.claim(2);
        for flight in &mut flights {
            assert_eq!(one.submitted(flight, "r"), Written::Ok);
        }
        (one, flights)
    };
    let alone = {
        let bench = Bench::start();
        let (one, mut flights) = submitted(&bench);
        for flight in &mut flights {
            let write = result(flight);
            assert_eq!(one.write(flight, &write), Written::Ok);
        }
        left(&bench)
    };
    let bench = Bench::start();
    let (one, mut flights) = submitted(&bench);
    one.proxy.lose_an_answer(); // the repeat adds nothing
    assert_eq!(all_at_once(&one, &mut flights, result), [true; 2]);
    assert_eq!(left(&bench), alone);
    // Each goes on by itself.
    for flight in &mut flights {
        assert_eq!(one.end(flight, EndState::Done), Written::Ok);
    }
}

#[test]
fn a_result_that_is_not_as_most_are_is_left_undone_and_the_others_are_not() {
    let bench = Bench::start();
    let one = bench.instance();
    fill(&bench, &one, &["a", "b", "c", "d"]);
    let mut flights = one.claim(4);
    for flight in &mut flights {
        one.submitted(flight, "r");
    }
    flights[0].token = Token("another".into());
    bench.ask::<u64>(&format!("HDEL {NS}:job:b request_id"));
    bench.ask::<u64>(&format!("HSET {NS}:job:c request_id another"));
    let stand = all_at_once(&one, &mut flights, result);
    assert_eq!(stand, [false, false, false, true]);
    let phase = |id: &str| bench.field(id, "phase").unwrap_or_default();
    assert_eq!(
        ["a", "b", "c", "d"].map(phase)[2..],
        ["polling", "delivering"]
    );
    assert_eq!(bench.events_of("b"), ["queued", "started", "submitted"]);
    // By itself it says why, and of a Redis that forgot it the submit is said again.
    let write = result(&mut flights[1]);
    let seq = flights[1].seq;
    assert_eq!(one.session.write(&flights[1], seq, &write), Ok(Written::Ok));
    assert_eq!(bench.field("b", "request_id").as_deref(), Some("r"));
    let write = result(&mut flights[2]);
    let seq = flights[2].seq;
    assert_eq!(
        one.session.write(&flights[2], seq, &write),
        Ok(Written::Adopted)
    );
}

#[test]
fn results_come_whole_into_a_redis_without_memory() {
    let bench = Bench::start();
    let one = bench.instance();
    one.store.set_bot("1:a");
    fill(&bench, &one, &["a", "b"]);
    let mut flights = one.claim(2);
    for flight in &mut flights {
        one.submitted(flight, "r");
    }
    bench.oom();
    assert_eq!(all_at_once(&one, &mut flights, result), [true; 2]);
    bench.memory_back();
    assert_eq!(bench.field("b", "phase").as_deref(), Some("delivering"));
}

#[test]
fn a_repeat_adds_nothing_whether_an_answer_was_lost_or_came_late() {
    let bench = Bench::start();
    let (one, mut flights) = lives(&bench);
    one.proxy.lose_an_answer();
    assert_eq!(together(&one, &mut flights), [true; 3]);
    let done = |bench: &Bench| {
        bench
            .events()
            .iter()
            .filter(|(name, _)| name == "done")
            .count()
    };
    assert_eq!(done(&bench), 3);
    // By itself too.
    let write = ending(&flights[0], EndState::Done);
    let again = one.session.write(&flights[0], flights[0].seq, &write);
    assert_eq!((again, done(&bench)), (Ok(Written::Ok), 3));
}

#[test]
fn what_is_not_as_most_are_is_left_undone_and_the_others_are_not() {
    let bench = Bench::start();
    let one = bench.instance_keeping(LONG);
    fill(&bench, &one, &["a", "b", "c", "d"]);
    let mut flights = one.claim(4);
    flights[0].token = Token("another".into());
    flights[1].request = None;
    bench.ask::<u64>(&format!("HSET {NS}:job:b request_id brought-late"));
    bench.ask::<u64>(&format!("DEL {NS}:job:c"));
    assert_eq!(together(&one, &mut flights), [false, false, false, true]);
    assert_eq!(
        [bench.state("a"), bench.state("b"), bench.state("d")],
        ["running", "running", "done"]
    );
    assert_eq!(bench.events_of("a"), ["queued", "started"]);
    assert_eq!(one.beat().claims, 3);
}

#[test]
fn who_holds_a_place_that_others_wait_for_ends_by_itself() {
    let bench = Bench::start();
    let one = bench.instance_keeping(LONG);
    set(&bench, "user_concurrency", "1");
    one.session.apply_limits(9).expect("answers");
    for id in ["a", "b"] {
        bench.push(&job(id, r#""user_id":5"#));
    }
    one.intake();
    let mut flights = one.claim(2);
    assert_eq!(flights.len(), 1);
    assert_eq!(together(&one, &mut flights), [false]);
    assert_eq!(bench.state("a"), "running");
    let short = bench.instance(); // and one whose record goes before the day is over
    fill(&bench, &short, &["c"]);
    let mut flights = short.claim(1);
    assert_eq!(together(&short, &mut flights), [false]);
    assert_eq!(short.end(&mut flights[0], EndState::Done), Written::Ok);
}

#[test]
fn a_redis_without_memory_takes_them_and_one_with_a_spoilt_key_takes_none() {
    let bench = Bench::start();
    let (one, mut flights) = lives(&bench);
    bench.oom();
    assert_eq!(together(&one, &mut flights), [true; 3]);
    bench.memory_back();
    let bench = Bench::start();
    let (one, mut flights) = lives(&bench);
    bench.ask::<()>("RENAME t:events saved");
    bench.ask::<()>("SET t:events x");
    assert_eq!(together(&one, &mut flights), [false; 3]);
    assert_eq!(["a", "b", "c"].map(|id| bench.state(id)), ["running"; 3]);
    bench.ask::<()>("RENAME saved t:events");
    for flight in &flights {
        let write = ending(flight, EndState::Done);
        assert_eq!(
            one.session.write(flight, flight.seq, &write),
            Ok(Written::Ok)
        );
    }
    let done = bench
        .events()
        .iter()
        .filter(|(name, _)| name == "done")
        .count();
    assert_eq!(done, 3);
}
