//! Before and after of what people ask of a live system: a cancel in every state, a redelivery.

use super::super::view::View;
use super::super::*;
use super::bench::*;
use super::fair::{bring, line, of, set, slots};
use crate::job::Phase;
use crate::job::flight::Doubt;
use crate::job::spec::Target;

impl Bench {
    pub(super) fn view(&self) -> View {
        let info = redis::IntoConnectionInfo::into_connection_info(self.redis.url());
        View::open(&info.expect("a URL").into(), NS, &format!("{NS}:inbox")).expect("connects")
    }

    fn cancel(&self, id: &str) -> Cancel {
        let id = JobId::new(id).expect("an id");
        self.view().cancel(&id).expect("answers").0
    }

    fn has(&self, id: &str, field: &str) -> bool {
        self.field(id, field).is_some()
    }
}

/// A job in the hands of `one`, in this phase; in all but the first it has a request.
fn held(bench: &Bench, one: &Instance, id: &str, phase: Phase) -> Flight {
    bench.push(&job(id, ""));
    one.intake();
    let mut flight = one.claim_one();
    if phase == Phase::Submitting {
        return flight;
    }
    assert_eq!(one.submitted(&mut flight, &format!("r-{id}")), Written::Ok);
    if phase == Phase::Delivering {
        let write = completed(&mut flight);
        assert_eq!(one.write(&mut flight, &write), Written::Ok);
    }
    flight
}

#[test]
fn what_waits_unpaid_is_told_of_next_and_stands_nowhere_else_whoever_asks_how_often() {
    let bench = Bench::start();
    let one = bench.instance();
    let waiting = [
        ("a", r#""priority":"high""#),
        ("b", ""),
        ("c", r#""priority":"low""#),
        ("n", r#""not_before":4000000000"#),
    ];
    for (id, more) in waiting {
        bench.push(&job(id, more));
    }
    bench.push(&job("stays", ""));
    // One that waits for a new submit, and of whose last one nobody knows what became of it.
    bench.push(&job("u", r#""priority":"high""#));
    one.intake();
    let other = one.claim_one();
    assert_eq!(other.id.as_str(), "a");
    assert_eq!(one.session.give_back(&[&other]), Ok(1));
    let mut flights = one.claim(2);
    let mut unsure = flights.pop().expect("two");
    assert_eq!(one.session.give_back(&[&flights[0]]), Ok(1));
    unsure.doubt = Doubt::Submit;
    let mut write = retrying(&unsure, Duration::from_secs(50));
    if let Write::Later { patch, .. } = &mut write {
        patch.set.push(("charged", "unknown".to_owned()));
        patch.set.push(("doubt", "submit".to_owned()));
        patch.del.retain(|field| *field != "doubt");
    }
    assert_eq!(one.write(&mut unsure, &write), Written::Ok);
    assert_eq!(bench.later(), ["u", "n"]);

    let ids = ["a", "b", "c", "n", "u"];
    for id in ids {
        assert_eq!(bench.cancel(id), Cancel::Ended, "{id}");
        let before = bench.record(id);
        assert_eq!(bench.cancel(id), Cancel::Asked, "{id}");
        assert_eq!(bench.record(id), before, "{id}: twice is once");
        let word = |name: &str| before.get(name).map(String::as_str);
        assert_eq!(word("state"), Some("queued"), "{id}");
        assert_eq!(
            (word("phase"), word("kind")),
            (Some("telling"), Some("cancelled")),
            "{id}"
        );
        for gone in ["due_at", "not_before", "doubt", "cancel_asked"] {
            assert_eq!(word(gone), None, "{id} {gone}");
        }
    }
    assert_eq!(bench.ready("resume"), ids);
    assert_eq!(bench.ready("default"), ["stays"]);
    assert!(bench.ready("high").is_empty() && bench.ready("low").is_empty());
    assert!(bench.later().is_empty());
    assert_eq!(bench.field("u", "charged").as_deref(), Some("unknown"));
    assert!(bench.ask::<u64>("LLEN t:bell") > 0);

    // Its late request id is nobody's any more; the next owner has nothing to submit.
    let write = accepted(&mut unsure, "late");
    assert_eq!(one.write(&mut unsure, &write), Written::Cancel);
    let flights = one.claim(5);
    assert_eq!(flights.len(), 5);
    for mut flight in flights {
        assert_eq!(flight.phase, Phase::Telling);
        let kind = flight.failure.as_ref().map(|(kind, _)| *kind);
        assert_eq!(kind, Some(crate::job::failure::Kind::Cancelled));
        assert_eq!(one.end(&mut flight, EndState::Cancelled), Written::Ok);
        assert_eq!(bench.cancel(flight.id.as_str()), Cancel::Over);
    }
    assert_eq!(bench.cancel("nobody"), Cancel::Gone);
    assert_eq!(bench.cancel("stays"), Cancel::Ended);
}

#[test]
fn the_last_of_a_users_line_leaves_no_turn_behind_and_the_others_keep_theirs() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_concurrency", "1");
    one.session.apply_limits(9).expect("answers");
    bring(&bench, &one, "a", 3, "");
    bench.push(&of("a", "ah", r#""priority":"high""#));
    let mut first = one.claim_one();
    one.intake();
    assert!(one.claim(9).is_empty());
    assert_eq!(line(&bench, "default", "a"), ["a2", "a3"]);
    assert_eq!(line(&bench, "high", "a"), ["ah"]);
    assert_eq!(bench.cancel("a3"), Cancel::Ended);
    assert_eq!(bench.cancel("a2"), Cancel::Ended);
    let left = |word: &str| bench.ask::<Vec<String>>(&format!("KEYS {NS}:{word}*"));
    assert_eq!(left("waiters").len(), 1, "one waits still");
    assert_eq!(bench.cancel("ah"), Cancel::Ended);
    for word in ["waiting", "turns", "waiters"] {
        assert!(left(word).is_empty(), "{word}");
    }
    // They are told and ended beside the one that uses his slot, and nothing is to be mended.
    for mut flight in one.claim(9) {
        assert_eq!(flight.phase, Phase::Telling);
        assert_eq!(one.end(&mut flight, EndState::Cancelled), Written::Ok);
    }
    assert_eq!(slots(&bench, "a"), ["a1"]);
    assert!(one.audit_all(&bench, 100).is_empty());
    bring(&bench, &one, "b", 1, "");
    bench.push(&of("a", "a4", ""));
    one.intake();
    assert_eq!(one.claim(9).len(), 1, "b1 alone");
    assert_eq!(one.end(&mut first, EndState::Done), Written::Ok);
    assert_eq!(one.claim_one().id.as_str(), "a4");
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn a_redelivery_to_a_user_at_his_limit_goes_out_and_gives_his_slots_back() {
    let bench = Bench::start();
    let one = bench.instance();
    set(&bench, "user_concurrency", "1");
    one.session.apply_limits(9).expect("answers");
    bring(&bench, &one, "a", 3, "");
    let mut flight = one.claim_one();
    one.submitted(&mut flight, "r");
    let write = completed(&mut flight);
    one.write(&mut flight, &write);
    assert_eq!(one.end(&mut flight, EndState::Done), Written::Ok);
    bench.ask::<()>(r#"HSET t:job:a1 file_ids ["A"] file_kinds ["0:photo"]"#);
    let second = one.claim_one();
    assert_eq!(second.id.as_str(), "a2");
    assert_eq!(redeliver(&bench, "a1", "again"), Redeliver::Ok);
    let mut again = one.claim_one();
    assert_eq!(again.id.as_str(), "again");
    // Over the limit by one, as all that is paid; nothing new begins before both are over.
    assert_eq!(slots(&bench, "a"), ["a2", "again"]);
    assert_eq!(one.session.give_back(&[&again]), Ok(1));
    assert!(one.audit_all(&bench, 100).is_empty());
    let flights = one.claim(9);
    assert_eq!(flights.len(), 1);
    again = flights.into_iter().next().expect("it again");
    assert_eq!(one.end(&mut again, EndState::Done), Written::Ok);
    assert_eq!(slots(&bench, "a"), ["a2"]);
    assert!(one.claim(9).is_empty());
    assert_eq!(one.session.give_back(&[&second]), Ok(1));
    assert_eq!(one.claim_one().id.as_str(), "a2");
    assert!(one.audit_all(&bench, 100).is_empty());
}

#[test]
fn what_is_owned_is_marked_and_its_owner_learns_it_with_his_next_beat() {
    let bench = Bench::start();
    let one = bench.instance();
    let cases = [
        ("s", Phase::Submitting, Cancel::Asked),
        ("p", Phase::Polling, Cancel::Asked),
        ("d", Phase::Delivering, Cancel::Late),
    ];
    let mut flights = Vec::new();
    for (id, phase, expected) in cases {
        let flight = held(&bench, &one, id, phase);
        let before = bench.record(id);
        assert_eq!(bench.cancel(id), expected, "{id}");
        assert_eq!(bench.cancel(id), expected, "{id}: twice");
        let mut after = bench.record(id);
        assert_eq!(
            after.remove("cancel_asked").is_some(),
            expected == Cancel::Asked,
            "{id}"
        );
        assert_eq!(after, before, "{id}");
        flights.push(flight);
    }
    assert!(one.beat().cancels);
    let mut asked = one.session.cancels().expect("answers");
    asked.sort();
    let token = |at: usize| flights[at].token.0.to_string();
    assert_eq!(
        asked,
        [("p".to_owned(), token(1)), ("s".to_owned(), token(0))]
    );
    assert!(bench.ttl(&format!("cancels:{}", one.name())) > 0);
    one.proxy.lose_an_answer();
    one.session.cancels_heeded(&asked).expect("answers");
    assert!(!one.beat().cancels);
    // The owner's own writes go through; its end takes the mark along.
    let mut flight = flights.remove(1);
    assert_eq!(one.end(&mut flight, EndState::Cancelled), Written::Ok);
    assert!(!bench.has("p", "cancel_asked"));
}

#[test]
fn a_mark_outlives_its_owner_a_give_back_and_a_redis_that_forgot() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    held(&bench, &one, "p", Phase::Polling);
    held(&bench, &one, "s", Phase::Submitting);
    for id in ["p", "s"] {
        assert_eq!(bench.cancel(id), Cancel::Asked);
    }
    // The submit of one that died is of unknown outcome: it waits, and a late id is still taken up.
    one.dies(&two, true);
    assert_eq!(bench.later(), ["s"]);
    let flight = two.claim_one();
    assert_eq!(
        (flight.id.as_str(), flight.phase, flight.cancel_asked),
        ("p", Phase::Polling, true)
    );
    assert_eq!(two.session.give_back(&[&flight]), Ok(1));
    assert_eq!(bench.cancel("p"), Cancel::Asked, "queued, and paid");
    assert_eq!(bench.ready("resume"), ["p"]);
    let flight = two.claim_one();
    assert!(flight.cancel_asked);

    bench.ask::<()>("DEL t:job:p");
    let remembered = remembered_whole(&flight);
    assert_eq!(two.session.reassert(&[remembered]), Ok(vec![]));
    assert!(bench.has("p", "cancel_asked"));

    bench.an_hour_passes();
    two.session.promote(10).expect("promotes");
    let flight = two.claim_one();
    assert_eq!(
        (flight.id.as_str(), flight.phase, flight.cancel_asked),
        ("s", Phase::Submitting, true)
    );
}

fn remembered_whole(flight: &Flight) -> Remembered {
    Remembered {
        id: flight.id.clone(),
        token: flight.token.clone(),
        seq: flight.seq,
        entry: None,
        gives_way: false,
        fields: flight.fields(),
    }
}

#[test]
fn a_late_request_id_of_a_job_to_be_cancelled_is_adopted_and_its_owner_cancels_it() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    let mut ghost = held(&bench, &one, "s", Phase::Submitting);
    assert_eq!(bench.cancel("s"), Cancel::Asked);
    one.dies(&two, true);
    let write = accepted(&mut ghost, "r");
    assert_eq!(one.write(&mut ghost, &write), Written::Stale, "adopted");
    let flight = two.claim_one();
    assert_eq!(
        (flight.phase, flight.cancel_asked, flight.request),
        (Phase::Polling, true, Some(RequestId("r".into())))
    );
}

#[test]
fn a_cancel_goes_through_without_memory_and_leaves_alone_what_is_newer() {
    let bench = Bench::start();
    let one = bench.instance();
    held(&bench, &one, "p", Phase::Polling);
    bench.push(&job("q", ""));
    bench.push(&job("new", ""));
    one.intake();
    bench.ask::<()>("HSET t:job:new v 999");
    let before = bench.dump();
    assert_eq!(bench.cancel("new"), Cancel::Newer);
    assert_eq!(bench.dump(), before);
    bench.oom();
    assert_eq!(
        (bench.cancel("p"), bench.cancel("q")),
        (Cancel::Asked, Cancel::Ended)
    );
    bench.memory_back();
    assert_eq!(bench.ready("resume"), ["q"]);
    assert!(bench.has("p", "cancel_asked"));
}

// ---- redeliver

const TO: &str = r#"{"chat_id":7,"protect_content":true}"#;

fn to() -> Target {
    Target::from_resend_json(TO).expect("a target")
}

fn redeliver(bench: &Bench, id: &str, as_: &str) -> Redeliver {
    let (id, as_) = (JobId::new(id), JobId::new(as_));
    let (id, as_) = (id.expect("an id"), as_.expect("an id"));
    bench.view().redeliver(&id, &as_, &to()).expect("answers")
}

#[test]
fn a_redelivery_is_a_delivery_of_its_own_whatever_becomes_of_the_first_record() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    let mut flight = held(&bench, &one, "d", Phase::Delivering);
    assert_eq!(redeliver(&bench, "d", "r1"), Redeliver::Open);
    assert_eq!(redeliver(&bench, "nobody", "r1"), Redeliver::Gone);
    assert_eq!(one.end(&mut flight, EndState::Done), Written::Ok);
    for (field, value) in [
        ("result", r#"{"images":[]}"#),
        ("file_ids", r#"["A","B"]"#),
        ("file_kinds", r#"["0:photo","2:video"]"#),
        ("meta", r#"{"o":1}"#),
        ("attempt", "2"),
    ] {
        bench.ask::<()>(&format!("HSET t:job:d {field} {value}"));
    }
    let before = bench.record("d");
    assert_eq!(redeliver(&bench, "d", "r1"), Redeliver::Ok);
    let made = bench.record("r1");
    assert_eq!(redeliver(&bench, "d", "r1"), Redeliver::Ok, "once more");
    assert_eq!((bench.record("r1"), bench.record("d")), (made, before));
    assert_eq!(bench.ready("resume"), ["r1"]);
    bench.ask::<()>("DEL t:job:d");

    let flight = one.claim_one();
    let whole = |flight: &Flight| {
        let redelivers = flight.redelivers.as_ref().expect("it is one");
        let held: Vec<String> = redelivers
            .held
            .iter()
            .map(|(item, held)| format!("{item} {} {}", held.kind, held.id))
            .collect();
        assert_eq!(redelivers.job, "d");
        assert_eq!(held, ["0 photo A", "2 video B"]);
        let target = flight.target.as_ref().expect("a chat");
        assert!(target.protect_content);
        assert_eq!(flight.phase, Phase::Delivering);
        assert_eq!(flight.attempt, 2, "what was paid for it");
        assert_eq!(flight.meta.as_deref(), Some(r#"{"o":1}"#));
        assert!(flight.request.is_none() && flight.result.is_some());
    };
    whole(&flight);
    // A Redis that forgot it, and an owner that died: it is all there again.
    bench.ask::<()>("DEL t:job:r1");
    assert_eq!(
        one.session.reassert(&[remembered_whole(&flight)]),
        Ok(vec![])
    );
    one.dies(&two, true);
    let flight = two.claim_one();
    whole(&flight);
    assert_eq!(flight.doubt, Doubt::Send, "it may have gone out");
    assert!(bench.events_of("r1").is_empty(), "no life of its own");
}

#[test]
fn of_what_nothing_is_known_any_more_nothing_is_sent_again() {
    let bench = Bench::start();
    let one = bench.instance();
    let mut flight = held(&bench, &one, "a", Phase::Polling);
    assert_eq!(one.end(&mut flight, EndState::Dead), Written::Ok);
    let mut flight = held(&bench, &one, "b", Phase::Delivering);
    assert_eq!(one.end(&mut flight, EndState::Done), Written::Ok);
    bench.ask::<()>("HDEL t:job:b result");
    bench.ask::<()>("HSET t:job:b file_ids []");
    let before = bench.dump();
    for id in ["a", "b"] {
        assert_eq!(redeliver(&bench, id, "r"), Redeliver::Nothing, "{id}");
    }
    bench.ask::<()>("HSET t:job:b file_ids [\"A\"]");
    bench.oom();
    let id = JobId::new("b").expect("an id");
    let again = JobId::new("r").expect("an id");
    assert!(bench.view().redeliver(&id, &again, &to()).is_err());
    bench.memory_back();
    bench.ask::<()>("HSET t:job:b file_ids []");
    assert_eq!(bench.dump(), before, "a full Redis refuses it whole");
}
