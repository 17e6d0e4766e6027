//! Intake: what lies in the inbox becomes records, once.

use super::*;
use crate::job::spec;

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
    assert_eq!((done.marks.as_str(), done.left), ("mmmmmdtu", 0));
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
    let bad = bench
        .events()
        .into_iter()
        .find(|(_, event)| event["job"] == "bad");
    assert_eq!(
        bad.expect("its end").1.get("ms").map(String::as_str),
        Some("0")
    );
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
    assert_eq!(done.marks, "", "the repeat did nothing");
    assert_eq!(bench.ready("default").len(), 2);

    // A call that comes after its own repeat, while new entries lie there.
    bench.push(r#"{"model":"a/b","input":{}}"#);
    let entries = one.entries();
    one.proxy.hold_a_request();
    assert_eq!(
        one.session
            .intake(&entries, &DEFAULTS)
            .expect("repeated")
            .marks,
        "m"
    );
    bench.push(r#"{"model":"a/b","input":{}}"#);
    assert_eq!(one.entries().len(), 1);
    assert_eq!(one.proxy.release(), 1);
    assert_eq!(bench.ready("default").len(), 3, "the late call did nothing");
    assert_eq!(one.intake().marks, "m");
    assert_eq!(bench.ready("default").len(), 4);
}

#[test]
fn a_batch_has_its_bounds_and_begins_with_what_lies_there_already() {
    let bench = Bench::start();
    let one = bench.instance();
    for id in ["a", "b", "c", "d"] {
        bench.push(&job(id, ""));
    }
    const MUCH: usize = 1 << 20;
    let two_and_a_bit = 2 * job("a", "").len() + 1;
    for (most, bytes, batch) in [
        (9, 1, "a"),
        (9, 1, "a"),
        (2, MUCH, "a b"),
        (9, 1, "a"),
        (1, MUCH, "a"),
        (9, two_and_a_bit, "a b c"),
        (9, two_and_a_bit, "a b c"),
        (9, MUCH, "a b c d"),
    ] {
        let raws = one.session.take(most, bytes).expect("takes");
        let ids: Vec<String> = raws
            .into_iter()
            .map(|taken| entry(taken).id.to_string())
            .collect();
        assert_eq!(ids.join(" "), batch, "{most} of {bytes} bytes");
    }
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
    assert_eq!(
        (done.marks.as_str(), done.left),
        ("", 1),
        "it is to look again"
    );
    assert_eq!(bench.dump(), before);
    bench.ask::<()>(&format!("DEL {taken}"));
    assert_eq!(
        one.session
            .intake(&entries, &DEFAULTS)
            .expect("answers")
            .marks,
        ""
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
    assert_eq!(one.intake().marks, "mm");
    assert_eq!(bench.ready("default"), ["a", "b"]);
}

#[test]
fn a_valid_job_takes_the_place_of_an_invalid_one_of_the_same_batch() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(r#"{"id":"x","model":"a/b","input":null,"telegram":{"chat_id":7}}"#);
    bench.push(&job("x", ""));
    assert_eq!(one.intake().marks, "tm");
    assert_eq!(bench.state("x"), "queued");
    assert_eq!(bench.ready("default"), ["x"]);
    // What lies there passes all limits and a pause.
    assert_eq!(bench.ready("resume"), Vec::<String>::new());
    let (name, failed) = &bench.events()[0];
    let ms = failed.get("ms").map(String::as_str);
    assert_eq!((name.as_str(), ms), ("failed", Some("0")));
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
        assert_eq!(one.intake().marks, "u");
        if keep > 0 {
            // Nor does its id outlive the record.
            assert_eq!(bench.ask::<u64>("EXISTS t:id:x"), 0);
        }
        bench.push(&job("x", ""));
        assert_eq!(one.intake().marks, "m", "{keep}{chat}");
        assert_eq!(
            (bench.state("x").as_str(), bench.ttl("job:x")),
            ("queued", -1)
        );
        assert_eq!(bench.ask::<u64>("ZCARD t:dead"), 0);
    }
}

fn bytes(length: usize, last: &str) -> String {
    format!("{}{last}", "x".repeat(length - last.len()))
}

#[test]
fn a_huge_entry_is_known_by_its_beginning_and_digest_and_only_that_very_one_is_buried() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.push(&bytes(spec::MAX_SALVAGE, ""));
    let largest = one.entries();
    assert_eq!((largest.len(), largest[0].cut.is_none()), (1, true));
    assert_eq!(largest[0].raw.len(), spec::MAX_SALVAGE);
    let done = one.session.intake(&largest, &DEFAULTS).expect("answers");
    assert_eq!((done.marks.as_str(), done.left), ("d", 0));

    bench.push(&bytes(spec::MAX_SALVAGE + 1, "a"));
    bench.push(&job("j", ""));
    let huge = one.entries();
    assert_eq!(huge.len(), 1, "a batch of its own");
    assert_eq!(huge[0].raw, "x".repeat(spec::EXCERPT_OF).as_bytes());
    let length = huge[0].cut.as_ref().map(|cut| cut.length);
    assert_eq!(length, Some(spec::MAX_SALVAGE as u64 + 1));

    // Another one of the same length and beginning lies there now.
    let taken = format!("{NS}:taken:{}", one.name());
    let other = bytes(spec::MAX_SALVAGE + 1, "b");
    bench.ask::<u64>(&format!("RPUSH {taken} {other}"));
    let done = one.session.intake(&huge, &DEFAULTS).expect("answers");
    assert_eq!(
        (done.marks.as_str(), done.left),
        ("", 1),
        "it is to look again"
    );
    assert_eq!(bench.ask::<u64>(&format!("LLEN {taken}")), 2);
    bench.ask::<String>(&format!("RPOP {taken}"));

    let done = one.session.intake(&huge, &DEFAULTS).expect("answers");
    assert_eq!((done.marks.as_str(), done.left), ("d", 1));
    let record = bench.record(huge[0].id.as_str());
    assert_eq!(
        record["error"],
        "(entry): expected one JSON object of at most 1 MiB, found 16777217 bytes"
    );
    assert_eq!(record["raw"], "x".repeat(4096));
    assert_eq!(bench.ask::<u64>(&format!("LLEN {taken}")), 0);
    assert_eq!(one.intake().marks, "m");
}

#[test]
fn what_is_huge_goes_from_the_dead_to_the_heir_and_not_to_whoever_waits_at_the_inbox() {
    for late in [false, true] {
        let bench = Bench::start();
        let (one, two) = (bench.instance(), bench.instance());
        let taken = format!("{NS}:taken:{}", two.name());
        let entries = [job("a", ""), bytes(spec::MAX_SALVAGE + 1, ""), job("b", "")];
        // Moved there before it was marked dead, or by a call that came after that.
        if late {
            two.dies(&one, true);
        }
        for entry in &entries {
            bench.ask::<u64>(&format!("LPUSH {taken} {}", entry.replace(' ', "")));
        }
        bench.push(&job("mine", ""));
        let mine = one.entries();
        if late {
            one.session.take_back(&two.name()).expect("answers");
        } else {
            two.dies(&one, true);
        }
        let inbox: Vec<String> = bench.ask(&format!("LRANGE {NS}:inbox 0 -1"));
        assert_eq!(inbox, [job("b", ""), job("a", "")]);
        assert_eq!(bench.ask::<u64>(&format!("EXISTS {taken}")), 0);
        // A batch that was read before is still the right end.
        let done = one.session.intake(&mine, &DEFAULTS).expect("answers");
        assert_eq!((done.marks.as_str(), done.left), ("m", 2));
        assert_eq!(one.intake().marks, "d");
        let rest = one.intake();
        assert_eq!((rest.marks.as_str(), rest.left), ("mm", 0));
    }
}
