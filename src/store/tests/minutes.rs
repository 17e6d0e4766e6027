//! Buckets of minutes, on a real Redis.

use super::*;
use crate::job::minutes::{Ended, Minute, OTHER, Tally};
use std::collections::BTreeMap;

/// A minute of now: buckets lie around it.
const NOW: i64 = 29_916_666;

fn at(minute: i64) -> UnixMs {
    UnixMs(minute * 60_000 + 5)
}

fn done(ms: u64) -> Ended {
    Ended::Done(Duration::from_millis(ms))
}

fn tell(of: &Instance, tally: &mut Tally) {
    let (batch, minutes) = tally.batch().expect("something ended");
    of.session.add_minutes(batch, &minutes).unwrap();
    tally.confirm(batch);
}

fn told(of: &Instance, from: i64, to: i64) -> BTreeMap<i64, Minute> {
    let mut view = of.store.view().unwrap();
    view.minutes(from, to).unwrap().into_iter().collect()
}

#[test]
fn what_two_workers_counted_is_added_up_and_goes_after_a_day() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    let (mut first, mut second) = (Tally::default(), Tally::default());
    for ms in [100, 200, 300] {
        first.count(at(NOW), Some("a/b"), done(ms));
        second.count(at(NOW), Some("a/b"), done(ms * 100));
    }
    first.count(at(NOW - 1), Some("a/c"), Ended::Failed);
    second.count(at(NOW), Some("a/c"), Ended::Cancelled);
    second.count(at(NOW), None, Ended::Failed);
    tell(&one, &mut first);
    tell(&two, &mut second);
    first.count(at(NOW), Some("a/b"), done(100));
    tell(&one, &mut first);

    let minutes = told(&one, NOW - 10, NOW + 10);
    assert_eq!(minutes.keys().copied().collect::<Vec<_>>(), [NOW - 1, NOW]);
    let of = |minute: i64, model: &str| minutes[&minute][model].clone();
    assert_eq!(of(NOW - 1, "a/c").failed, 1);
    assert_eq!((of(NOW, "a/c").cancelled, of(NOW, "none").failed), (1, 1));
    let both = of(NOW, "a/b");
    assert_eq!(both.done, 7);
    let ms = |part: f64| both.delay(part).unwrap().as_millis();
    assert!((100..=360).contains(&ms(0.5)), "{}", ms(0.5));
    assert!((25_000..=36_000).contains(&ms(0.99)), "{}", ms(0.99));
    for minute in [NOW - 1, NOW] {
        let ttl = bench.ttl(&format!("minute:{minute}"));
        assert!((89_990..=90_000).contains(&ttl), "{ttl}");
    }
}

#[test]
fn a_batch_whose_answer_was_lost_counts_once() {
    let bench = Bench::start();
    let one = bench.instance();
    let mut tally = Tally::default();
    tally.count(at(NOW), Some("a/b"), done(5));
    one.proxy.lose_an_answer();
    tell(&one, &mut tally);
    assert_eq!(told(&one, NOW, NOW)[&NOW]["a/b"].done, 1);
    // And one that nobody confirmed, told again in the next round.
    tally.count(at(NOW), Some("a/b"), done(5));
    let (batch, minutes) = tally.batch().unwrap();
    one.session.add_minutes(batch, &minutes).unwrap();
    tell(&one, &mut tally);
    assert_eq!(told(&one, NOW, NOW)[&NOW]["a/b"].done, 2);
}

#[test]
fn a_bucket_is_bounded_and_what_no_worker_wrote_is_harmless() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    for (instance, prefix) in [(&one, "a"), (&two, "b")] {
        let mut tally = Tally::default();
        for model in 0..40 {
            let name = format!("{prefix}/{model}");
            tally.count(at(NOW), Some(&name), Ended::Failed);
        }
        tell(instance, &mut tally);
    }
    let minute = told(&one, NOW, NOW).remove(&NOW).unwrap();
    assert_eq!((minute.len(), minute[OTHER].failed), (51, 30));

    let key = format!("t:minute:{NOW}");
    for garbage in ["x", "1e9", "5:5:5", &"9".repeat(10_000)] {
        bench.ask::<()>(&format!("HSET {key} a/0 {garbage}"));
        let mut tally = Tally::default();
        for _ in 0..3 {
            tally.count(at(NOW), Some("a/0"), done(1000));
        }
        // A worker's numbers begin again when it does.
        bench.ask::<()>(&format!("HDEL t:worker:{} minutes", one.name()));
        tell(&one, &mut tally);
        let known = told(&one, NOW, NOW)[&NOW]["a/0"].clone();
        assert_eq!(known.done, 3, "{garbage:.20}");
    }
    bench.ask::<()>(&format!("SET {key} text"));
    assert!(one.store.view().unwrap().minutes(NOW, NOW).is_err());
    let mut tally = Tally::default();
    tally.count(at(NOW), Some("a/0"), done(1000));
    let (batch, minutes) = tally.batch().unwrap();
    assert!(one.session.add_minutes(batch + 100, &minutes).is_err());
    // The keeper goes on all the same, and its connection is good.
    assert!(told(&one, NOW + 1, NOW + 2).is_empty());
}

#[test]
fn an_instance_that_redis_forgot_is_not_made_up() {
    let bench = Bench::start();
    let one = bench.instance();
    bench.ask::<()>("FLUSHALL");
    let mut tally = Tally::default();
    tally.count(at(NOW), Some("a/b"), Ended::Failed);
    tell(&one, &mut tally);
    assert!(!bench.ask::<bool>(&format!("EXISTS t:worker:{}", one.name())));
    assert_eq!(told(&one, NOW, NOW)[&NOW]["a/b"].failed, 1);
}
