//! Turns of messages, silence, and chats that cannot be reached.

use super::*;
use crate::store::rate::{Ask, Silence, Turn, Verb};

/// What the rates here are told in. Nobody waits for it, and it is so long that the time which a slow machine needs
/// between two calls is little beside it.
const SECOND: Duration = Duration::from_secs(20);
const TOKEN: &str = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw";

fn bot(bench: &Bench) -> Instance {
    let one = bench.instance();
    one.store.set_bot(TOKEN);
    one
}

/// One message of a bot that may send thirty a second, to a private chat.
fn to(chat: &str) -> Ask<'_> {
    Ask {
        chat,
        messages: 1,
        bot: Some((30, SECOND)),
        gap: SECOND,
        burst: 3,
    }
}

/// In those of this test.
fn seconds(wait: Duration) -> f64 {
    wait.as_secs_f64() / SECOND.as_secs_f64()
}

impl Instance {
    fn turn(&self, ask: &Ask<'_>, verb: Verb) -> Turn {
        self.session.rate(ask, verb).expect("answers")
    }

    fn wait(&self, ask: &Ask<'_>) -> f64 {
        seconds(self.turn(ask, Verb::Take).wait)
    }

    fn job_to_7(&self, bench: &Bench, id: &str) {
        bench.push(&job(id, r#""telegram":{"chat_id":7}"#));
        self.intake();
    }

    /// Claims a job that must not be paid for.
    fn claim_unpaid(&self, id: &str) {
        let flight = self.claim_one();
        assert_eq!((flight.id.as_str(), flight.phase), (id, Phase::Telling));
        assert!(flight.untold, "nobody tries to tell it");
        let (kind, _) = flight.failure.as_ref().expect("why");
        assert_eq!(kind.as_str(), "chat_unreachable");
        assert_eq!(flight.charged, Charged::No);
    }
}

#[test]
fn a_bot_sends_its_burst_at_once_and_then_at_its_rate_in_the_order_of_the_asking() {
    let bench = Bench::start();
    let one = bot(&bench);
    let mut last = 0.0;
    let (mut waits, mut times) = (Vec::new(), Vec::new());
    for chat in 0..300 {
        let wait = one.wait(&to(&chat.to_string()));
        waits.push(wait);
        let ms = wait * SECOND.as_millis() as f64;
        times.push(bench.now() as f64 + ms);
    }
    for (number, wait) in waits.iter().enumerate() {
        // Redis's clock went on meanwhile.
        assert!(*wait > last - 0.2, "{number}: {wait} after {last}");
        last = *wait;
    }
    // Two spans may hold a burst and a half at the start, from then on it is thirty a second.
    let at_once = waits.iter().filter(|wait| **wait == 0.0).count();
    assert!((20..=60).contains(&at_once), "{at_once}");
    assert!((7.0..10.1).contains(&last), "{last}");
    // Then at no moment more: no second begins with all of its own.
    times.sort_by(f64::total_cmp);
    for some in times[90..].windows(15) {
        let ms = some[14] - some[0];
        assert!(ms > SECOND.as_millis() as f64 / 10.0, "{times:?}");
    }
}

#[test]
fn a_chat_takes_three_at_once_and_then_one_a_second_and_each_is_told_its_own_time() {
    let bench = Bench::start();
    let one = bot(&bench);
    let waits: Vec<f64> = (0..10).map(|_| one.wait(&to("7"))).collect();
    assert_eq!(waits[..3], [0.0; 3]);
    for (number, wait) in waits.iter().enumerate().skip(3) {
        let right = number as f64 - 2.0;
        assert!((right - 0.5..=right).contains(wait), "{waits:?}");
    }
}

#[test]
fn five_hundred_results_of_one_chat_take_no_place_from_another() {
    let bench = Bench::start();
    let one = bot(&bench);
    for _ in 0..500 {
        one.wait(&to("7"));
    }
    for other in 100..110 {
        assert_eq!(one.wait(&to(&other.to_string())), 0.0, "{other}");
    }
}

#[test]
fn an_album_takes_as_many_places_as_it_has_items() {
    let bench = Bench::start();
    let one = bot(&bench);
    let album = Ask {
        messages: 10,
        ..to("7")
    };
    assert_eq!(one.wait(&album), 0.0, "a full bucket lets it pass");
    let wait = one.wait(&to("7"));
    assert!((7.5..=8.0).contains(&wait), "{wait}");
}

#[test]
fn a_time_that_was_given_stays_good_unless_it_is_long_past_or_telegram_wants_silence() {
    let bench = Bench::start();
    let one = bot(&bench);
    let before = bench.dump();
    assert_eq!(
        one.turn(&to("7"), Verb::Keep(Duration::ZERO)).wait,
        Duration::ZERO
    );
    assert_eq!(bench.dump(), before, "it takes no other place");
    for _ in 0..3 {
        one.wait(&to("7"));
    }
    let late = one.turn(&to("7"), Verb::Keep(5 * SECOND));
    assert!(late.wait > SECOND / 2, "a new one: {late:?}");
    let other = one.turn(&to("8"), Verb::Hold(10 * SECOND));
    assert_eq!((other.silence, other.began), (Silence::Chat, true));
    assert_eq!(
        one.turn(&to("7"), Verb::Keep(Duration::ZERO)).wait,
        Duration::ZERO
    );
    let held = one.turn(&to("8"), Verb::Keep(Duration::ZERO));
    assert!(held.wait > 10 * SECOND, "behind the first one: {held:?}");
}

#[test]
fn silence_in_a_chat_is_said_once_and_then_one_message_comes_after_the_other() {
    let bench = Bench::start();
    let (one, two) = (bot(&bench), bot(&bench));
    let first = one.turn(&to("7"), Verb::Hold(5 * SECOND));
    assert_eq!((first.silence, first.began), (Silence::Chat, true));
    let again = one.turn(&to("7"), Verb::Hold(3 * SECOND));
    assert_eq!((again.silence, again.began), (Silence::Chat, false));
    let waits = [first.wait, again.wait, two.turn(&to("7"), Verb::Take).wait];
    for (number, wait) in waits.iter().enumerate() {
        let right = 5.0 + number as f64;
        let wait = seconds(*wait);
        assert!((right - 0.5..=right).contains(&wait), "{waits:?}");
    }
    assert_eq!(two.wait(&to("8")), 0.0, "no other chat waits");
}

/// Two calls within a true second; once more where the machine stood still between them, and Redis forgot the first.
fn at_once(bench: &Bench, mut calls: impl FnMut() -> Turn) -> Turn {
    for _ in 0..10 {
        let began = bench.now();
        let turn = calls();
        if bench.now() - began < 1000 {
            return turn;
        }
        for key in bench.ask::<Vec<String>>(&format!("KEYS {NS}:rate:*")) {
            bench.ask::<u64>(&format!("DEL {key}"));
        }
    }
    panic!("each time a second between two calls");
}

#[test]
fn two_chats_within_a_second_silence_the_bot_for_the_longer_time() {
    let bench = Bench::start();
    let (one, two) = (bot(&bench), bot(&bench));
    let second = at_once(&bench, || {
        one.turn(&to("7"), Verb::Hold(20 * SECOND));
        two.turn(&to("8"), Verb::Hold(5 * SECOND))
    });
    assert_eq!((second.silence, second.began), (Silence::Bot, true));
    let third = one.turn(&to("9"), Verb::Take);
    assert!(third.wait > 19 * SECOND, "{third:?}");
    assert_eq!((third.silence, third.began), (Silence::Bot, false));
}

#[test]
fn without_limits_of_our_own_only_silence_makes_a_message_wait() {
    let bench = Bench::start();
    let one = bot(&bench);
    let free = Ask {
        bot: None,
        ..to("7")
    };
    let before = bench.dump();
    for _ in 0..50 {
        assert_eq!(one.wait(&free), 0.0);
    }
    assert_eq!(bench.dump(), before);
    assert!(!one.store.may_be_silence());
    one.turn(&free, Verb::Hold(5 * SECOND));
    assert!(one.wait(&free) > 4.0);
    assert!(one.store.may_be_silence());
}

#[test]
fn a_daemon_without_limits_hears_of_anothers_silence_with_its_next_write() {
    let bench = Bench::start();
    let (one, two) = (bot(&bench), bot(&bench));
    two.job_to_7(&bench, "a");
    let mut flight = two.claim_one();
    one.turn(&to("7"), Verb::Hold(60 * SECOND));
    assert!(!two.store.may_be_silence());
    let write = Write::Save {
        patch: Patch::default(),
        count: None,
        large: None,
    };
    assert_eq!(two.write(&mut flight, &write), Written::Ok);
    assert!(two.store.may_be_silence());
}

// ---- signs of life

#[test]
fn a_progress_edit_takes_its_chats_time_from_nobody_and_says_when_there_is_room() {
    let bench = Bench::start();
    let one = bot(&bench);
    for _ in 0..3 {
        assert_eq!(one.turn(&to("7"), Verb::Try).wait, Duration::ZERO);
    }
    let before = bench.dump();
    let full = one.turn(&to("7"), Verb::Try);
    assert!(full.wait > SECOND / 2 && full.wait <= SECOND, "{full:?}");
    assert_eq!((full.silence, full.began), (Silence::None, false));
    for _ in 0..9 {
        one.turn(&to("7"), Verb::Try);
    }
    assert_eq!(bench.dump(), before, "who may not go takes no place");
    // What did go counts for the messages after it, and only in its chat.
    let wait = one.wait(&to("7"));
    assert!((0.3..=1.0).contains(&wait), "{wait}");
    assert_eq!(one.turn(&to("8"), Verb::Try).wait, Duration::ZERO);
}

#[test]
fn a_chat_action_counts_for_the_bot_alone() {
    let bench = Bench::start();
    let one = bot(&bench);
    for _ in 0..10 {
        assert_eq!(one.turn(&to("7"), Verb::Act).wait, Duration::ZERO);
    }
    let waits: Vec<f64> = (0..3).map(|_| one.wait(&to("7"))).collect();
    assert_eq!(waits, [0.0; 3]);
    assert_eq!(one.turn(&to("7"), Verb::Act).wait, Duration::ZERO);
}

#[test]
fn signs_leave_half_of_the_bots_places_to_results() {
    let bench = Bench::start();
    let one = bot(&bench);
    // One span, so long that this test lies within it.
    let chat = |number: usize| (number + 100).to_string();
    let of = |chat: &'static str| Ask {
        bot: Some((30, 3600 * SECOND)),
        ..to(chat)
    };
    for number in 0..15 {
        let (verb, chat) = (
            [Verb::Try, Verb::Act][number % 2],
            chat(number).leak() as &str,
        );
        assert_eq!(one.turn(&of(chat), verb).wait, Duration::ZERO, "{number}");
    }
    let before = bench.dump();
    for verb in [Verb::Try, Verb::Act] {
        let none = one.turn(&of("9"), verb);
        assert!(none.wait > Duration::ZERO, "{none:?}");
        assert_eq!(none.silence, Silence::None);
    }
    assert_eq!(bench.dump(), before);
    let at_once = (0..15).filter(|number| one.wait(&of(chat(200 + number).leak())) == 0.0);
    assert_eq!(at_once.count(), 15, "the other half");
}

#[test]
fn in_silence_no_sign_goes_out_and_says_of_whom_it_is_wanted() {
    let bench = Bench::start();
    let (one, two) = (bot(&bench), bot(&bench));
    one.turn(&to("7"), Verb::Hold(20 * SECOND));
    for verb in [Verb::Try, Verb::Act] {
        let held = two.turn(&to("7"), verb);
        assert!(
            held.wait > 19 * SECOND && held.wait <= 20 * SECOND + SECOND,
            "{held:?}"
        );
        assert_eq!((held.silence, held.began), (Silence::Chat, false));
        let other = two.turn(&to("8"), verb);
        assert_eq!((other.wait, other.silence), (Duration::ZERO, Silence::None));
    }
    at_once(&bench, || {
        one.turn(&to("7"), Verb::Hold(20 * SECOND));
        one.turn(&to("8"), Verb::Hold(5 * SECOND))
    });
    for verb in [Verb::Try, Verb::Act] {
        let held = two.turn(&to("9"), verb);
        assert!(held.wait > 18 * SECOND, "{held:?}");
        assert_eq!(held.silence, Silence::Bot);
    }
}

#[test]
fn without_limits_of_our_own_only_silence_keeps_a_sign_back() {
    let bench = Bench::start();
    let one = bot(&bench);
    let free = Ask {
        bot: None,
        ..to("7")
    };
    let before = bench.dump();
    for verb in [Verb::Try, Verb::Act] {
        assert_eq!(one.turn(&free, verb).wait, Duration::ZERO);
    }
    assert_eq!(bench.dump(), before);
    one.turn(&free, Verb::Hold(5 * SECOND));
    for verb in [Verb::Try, Verb::Act] {
        assert!(one.turn(&free, verb).wait > 4 * SECOND);
    }
}

#[test]
fn bots_share_nothing_and_no_key_holds_a_token_or_stays_for_ever() {
    let bench = Bench::start();
    let (one, two) = (bot(&bench), bench.instance());
    two.store.set_bot("9876543:other");
    for _ in 0..4 {
        one.wait(&to("7"));
    }
    one.turn(&to("7"), Verb::Hold(5 * SECOND));
    one.session.mark_unreachable("7").expect("answers");
    assert_eq!(two.wait(&to("7")), 0.0);
    let keys: Vec<String> = bench.ask(&format!("KEYS {NS}:rate:*"));
    assert!(keys.len() >= 5, "{keys:?}");
    for key in keys {
        assert!(
            !key.contains("AAHdq") && !key.contains("110201543"),
            "{key}"
        );
        let ttl: i64 = bench.ask(&format!("TTL {key}"));
        assert!((0..=3600).contains(&ttl), "{key}: {ttl}");
    }
}

#[test]
fn a_clock_that_is_set_back_makes_nobody_wait_until_it_is_there_again() {
    let bench = Bench::start();
    let one = bot(&bench);
    for chat in ["7", "8"] {
        for _ in 0..3 {
            one.wait(&to(chat));
        }
    }
    one.turn(&to("8"), Verb::Hold(5 * SECOND));
    // As it looks once the clock has gone an hour back.
    let keys: Vec<String> = bench.ask(&format!("KEYS {NS}:rate:*"));
    for key in keys {
        if bench.ask::<String>(&format!("TYPE {key}")) == "hash" {
            for field in ["held", "full", "now", "any", "at", "till"] {
                let at: Option<f64> = bench.ask(&format!("HGET {key} {field}"));
                if let Some(at) = at.filter(|at| *at > 0.0) {
                    let ahead = at + 3_600_000.0;
                    bench.ask::<i64>(&format!("HSET {key} {field} {ahead}"));
                }
            }
        }
    }
    assert!(one.wait(&to("7")) <= 1.0);
    let held = one.wait(&to("8"));
    assert!((3.0..=6.0).contains(&held), "{held}");
}

#[test]
fn a_job_of_a_chat_that_cannot_be_reached_is_not_paid_for() {
    let bench = Bench::start();
    let one = bot(&bench);
    one.session.mark_unreachable("7").expect("answers");
    one.job_to_7(&bench, "a");
    one.proxy.lose_an_answer();
    one.claim_unpaid("a");
    assert_eq!(bench.field("a", "told").as_deref(), Some("no"));
}

#[test]
fn a_chat_is_not_out_of_reach_for_longer_because_the_clock_was_set_back() {
    let bench = Bench::start();
    let one = bot(&bench);
    one.session.mark_unreachable("7").expect("answers");
    let key: Vec<String> = bench.ask(&format!("KEYS {NS}:rate:*:unreachable:7"));
    bench.ask::<i64>(&format!("EXPIRE {} 14400", key[0]));
    one.job_to_7(&bench, "a");
    one.claim_unpaid("a");
    let left: i64 = bench.ask(&format!("TTL {}", key[0]));
    assert!((3500..=3600).contains(&left), "{left}");
}

#[test]
fn a_job_that_is_paid_already_is_delivered_also_where_nobody_was_reached() {
    let bench = Bench::start();
    let one = bot(&bench);
    one.job_to_7(&bench, "a");
    let mut flight = one.claim_one();
    assert_eq!(one.submitted(&mut flight, "r-1"), Written::Ok);
    one.session.mark_unreachable("7").expect("answers");
    assert_eq!(one.session.give_back(&[&flight]), Ok(1));
    assert_eq!(one.claim_one().phase, Phase::Polling);
}

#[test]
fn whoever_is_reached_again_may_pay_again() {
    let bench = Bench::start();
    let one = bot(&bench);
    one.job_to_7(&bench, "paid");
    let mut flight = one.claim_one();
    one.session.mark_unreachable("7").expect("answers");
    one.job_to_7(&bench, "a");
    one.claim_unpaid("a");
    assert_eq!(one.end(&mut flight, EndState::Done), Written::Ok);
    one.job_to_7(&bench, "b");
    assert_eq!(one.claim_one().phase, Phase::Submitting);
}

#[test]
fn a_mark_that_others_made_is_known_by_the_next_beat_and_an_own_one_at_once() {
    let bench = Bench::start();
    let (one, two) = (bot(&bench), bot(&bench));
    let marked = || bench.ask::<Vec<String>>("KEYS *:unreachable:7").len();
    let deliver = |id: &str, mark: &dyn Fn()| {
        one.job_to_7(&bench, id);
        let mut flight = one.claim_one();
        mark();
        assert_eq!(one.end(&mut flight, EndState::Done), Written::Ok);
        marked()
    };
    let by_the_other = || two.session.mark_unreachable("7").expect("answers");
    assert!(!one.beat().marked);
    assert_eq!(
        deliver("own", &|| one
            .session
            .mark_unreachable("7")
            .expect("answers")),
        0
    );
    bench.ask::<u64>(&format!("DEL {}", one.store.unreachable()));
    assert!(!one.beat().marked);
    let told = deliver("told", &|| {
        by_the_other();
        assert!(one.beat().marked);
    });
    assert_eq!(told, 0);
    bench.ask::<u64>(&format!("DEL {}", one.store.unreachable()));
    // And a beat that found none is believed for a while alone.
    assert!(!one.beat().marked);
    assert_eq!(one.store.marks(), "");
    let till = Instant::now() + 10 * SECOND;
    while one.store.marks().is_empty() && Instant::now() < till {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(one.store.marks(), one.store.unreachable());
    assert_eq!(deliver("late", &by_the_other), 0);
}

#[test]
fn a_failure_that_was_not_told_shows_nothing_about_the_chat() {
    let bench = Bench::start();
    let one = bot(&bench);
    one.job_to_7(&bench, "a");
    let mut flight = one.claim_one();
    one.session.mark_unreachable("7").expect("answers");
    assert_eq!(one.end(&mut flight, EndState::Dead), Written::Ok);
    one.job_to_7(&bench, "b");
    one.claim_unpaid("b");
}

#[test]
fn a_failure_that_was_told_shows_that_the_chat_can_be_reached() {
    let bench = Bench::start();
    let one = bot(&bench);
    one.job_to_7(&bench, "a");
    let mut flight = one.claim_one();
    one.session.mark_unreachable("7").expect("answers");
    let mut write = ending(&flight, EndState::Dead);
    if let Write::End { patch, .. } = &mut write {
        patch.set.push(("told", "yes".to_owned()));
    }
    assert_eq!(one.write(&mut flight, &write), Written::Ok);
    one.job_to_7(&bench, "b");
    assert_eq!(one.claim_one().phase, Phase::Submitting);
}

/// Marks the chat of `job_to_7`, clearly after what came in: a worker knows Redis's time to a few milliseconds.
fn mark_later(bench: &Bench, one: &Instance) {
    let came_in = bench.now();
    while bench.now() <= came_in + 20 {}
    one.session.mark_unreachable("7").expect("answers");
}

#[test]
fn a_telling_of_the_mark_itself_shows_nothing_about_the_chat() {
    let bench = Bench::start();
    let one = bot(&bench);
    let with_status = r#""telegram":{"chat_id":7,"status_message_id":310}"#;
    bench.push(&job("a", with_status));
    one.intake();
    mark_later(&bench, &one);
    let mut flight = one.claim_one();
    assert_eq!(flight.phase, Phase::Telling);
    let mut write = ending(&flight, EndState::Dead);
    if let Write::End { patch, .. } = &mut write {
        patch.set.retain(|(name, _)| *name != "kind"); // the claim has said it
        patch.set.push(("told", "yes".to_owned()));
    }
    assert_eq!(one.write(&mut flight, &write), Written::Ok);
    one.job_to_7(&bench, "b");
    one.claim_unpaid("b");
}

#[test]
fn a_status_message_that_came_after_the_mark_says_more_than_it() {
    let bench = Bench::start();
    let one = bot(&bench);
    let with_status = r#""telegram":{"chat_id":7,"status_message_id":310}"#;
    // No number, and nothing that only looks like it.
    let without =
        r#""telegram":{"chat_id":7,"status_message_id":null},"meta":{"status_message_id":310}"#;
    bench.push(&job("before", with_status));
    one.intake();
    mark_later(&bench, &one);
    let marked = bench.now();
    while bench.now() <= marked + 20 {} // see `mark_later`
    bench.push(&job("after", with_status));
    bench.push(&job("plain", without));
    one.intake();
    // It may have been sent before the user left. Telling it is free.
    let told = one.claim_one();
    assert_eq!((told.id.as_str(), told.phase), ("before", Phase::Telling));
    assert!(!told.untold);
    assert_eq!(
        told.failure.map(|(kind, _)| kind.as_str()),
        Some("chat_unreachable")
    );
    let paid = one.claim_one();
    assert_eq!((paid.id.as_str(), paid.phase), ("after", Phase::Submitting));
    one.claim_unpaid("plain");
    // A later refusal says more again.
    bench.push(&job("then", with_status));
    one.intake();
    mark_later(&bench, &one);
    assert_eq!(one.claim_one().phase, Phase::Telling);
}

#[test]
fn a_mark_of_an_older_version_has_no_time_and_holds_for_all() {
    let bench = Bench::start();
    let one = bot(&bench);
    one.session.mark_unreachable("7").expect("answers");
    let keys: Vec<String> = bench.ask(&format!("KEYS {NS}:rate:*:unreachable:7"));
    bench.ask::<()>(&format!("SET {} 1 EX 3600", keys[0]));
    bench.push(&job(
        "a",
        r#""telegram":{"chat_id":7,"status_message_id":310}"#,
    ));
    one.intake();
    let flight = one.claim_one();
    assert_eq!((flight.phase, flight.untold), (Phase::Telling, false));
    // What is no mark of ours is one all the same, as it was to that version, and stops nobody's claim.
    bench.ask::<i64>(&format!("DEL {}", keys[0]));
    bench.ask::<i64>(&format!("LPUSH {} x", keys[0]));
    one.job_to_7(&bench, "b");
    one.claim_unpaid("b");
}

#[test]
fn after_its_time_a_chat_is_tried_again() {
    let bench = Bench::start();
    let one = bot(&bench);
    one.session.mark_unreachable("7").expect("answers");
    let keys: Vec<String> = bench.ask(&format!("KEYS {NS}:rate:*:unreachable:7"));
    assert_eq!(keys.len(), 1);
    bench.ask::<i64>(&format!("PEXPIRE {} 1", keys[0]));
    while bench.ask::<i64>(&format!("EXISTS {}", keys[0])) == 1 {}
    one.job_to_7(&bench, "a");
    assert_eq!(one.claim_one().phase, Phase::Submitting);
}

#[test]
fn a_record_that_does_not_name_its_chat_is_claimed_as_ever() {
    let bench = Bench::start();
    let one = bot(&bench);
    one.session.mark_unreachable("7").expect("answers");
    one.job_to_7(&bench, "a");
    assert_eq!(bench.field("a", "chat").as_deref(), Some("7"));
    bench.ask::<i64>(&format!("HDEL {NS}:job:a chat"));
    let mut flight = one.claim_one();
    assert_eq!(flight.phase, Phase::Submitting);
    assert_eq!(one.end(&mut flight, EndState::Done), Written::Ok);
}

#[test]
fn a_full_redis_gives_turns_all_the_same() {
    let bench = Bench::start();
    let one = bot(&bench);
    one.wait(&to("7"));
    bench.ask::<()>("CONFIG SET maxmemory 1mb");
    bench.ask::<()>("CONFIG SET maxmemory-policy noeviction");
    for _ in 0..3 {
        one.wait(&to("7"));
    }
    assert!(one.wait(&to("7")) > 0.5);
}
