//! What workers learnt of models, on a real Redis.

use super::bench::*;
use crate::job::pace::{MODELS, SAMPLES};

fn told(model: &str, times: &[u32]) -> Vec<(String, Vec<u32>)> {
    vec![(model.to_owned(), times.to_vec())]
}

#[test]
fn what_two_workers_learnt_is_added_up_and_bounded() {
    let bench = Bench::start();
    let (one, two) = (bench.instance(), bench.instance());
    let share = |of: &Instance, times: &[u32]| of.session.share_paces(&told("a/b", times)).unwrap();
    assert_eq!(share(&one, &[1000, 1100]), ["1000 1100"]);
    assert_eq!(share(&two, &[2000]), ["1000 1100 2000"]);
    assert_eq!(share(&one, &[]), ["1000 1100 2000"], "only asked");
    let pace = one.session.pace_of("a/b").unwrap().expect("known");
    assert_eq!(pace.likely().as_millis(), 1100);
    assert_eq!(one.session.pace_of("a/c").unwrap(), None);

    let many: Vec<u32> = (1..=100).map(|time| time * 1000).collect();
    let kept = share(&two, &many).remove(0);
    assert_eq!(kept.split(' ').count(), SAMPLES);
    assert!(kept.ends_with(" 99000 100000"), "{kept}");
    // An answer that is lost costs nothing but a repeat.
    one.proxy.lose_an_answer();
    assert!(share(&one, &[7000])[0].ends_with(" 7000"));
    let all = one.session.paces().unwrap();
    assert_eq!((all.len(), all[0].0.as_str()), (1, "a/b"));
}

#[test]
fn of_too_many_models_the_oldest_go_and_what_no_worker_wrote_is_harmless() {
    let bench = Bench::start();
    let one = bench.instance();
    let old = |number: usize| format!("HSET t:models old/{number} {number}");
    bench.ask_all(&(0..MODELS).map(old).collect::<Vec<_>>());
    one.session.share_paces(&told("a/b", &[1000])).unwrap();
    let left = bench.ask::<usize>("HLEN t:models");
    assert!((MODELS - MODELS / 10..=MODELS).contains(&left), "{left}");
    assert!(!bench.ask::<bool>("HEXISTS t:models old/0"));
    assert!(bench.ask::<bool>("HEXISTS t:models a/b"));

    for garbage in ["x", "\u{0}", "1795000000", &"9".repeat(10_000)] {
        bench.ask::<()>(&format!("HSET t:models a/b {garbage}"));
        let known = one.session.share_paces(&told("a/b", &[5])).unwrap();
        assert_eq!(known, ["5"], "{garbage:.20}");
    }

    bench.ask_all(&(0..2 * MODELS).map(old).collect::<Vec<_>>());
    assert!(
        one.session.paces().unwrap().is_empty(),
        "not read, learnt anew"
    );
    bench.ask::<()>("SET t:models text");
    assert!(one.session.paces().is_err());
}
