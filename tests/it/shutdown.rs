//! The end of a daemon: quick, whole, and without a payment or a message in doubt.

use crate::support::fair::one_is_quick;
use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule, RuleId};
use fal_worker::sandbox::telegram::Kind;
use std::time::{Duration, Instant};

/// Generous: the machine is shared, and stands still at times. The contract's own limit is `--shutdown-timeout`, ten
/// seconds, and what waits for something that never comes takes all of them, or longer.
const QUICK: Duration = Duration::from_secs(7);

/// Ends it and gives the exit code and how long it took.
fn stopped(daemon: &mut Daemon, signal: &str) -> (Option<i32>, Duration) {
    let began = Instant::now();
    daemon.signal(signal);
    (daemon.wait_exit(SOON), began.elapsed())
}

/// A job that Telegram makes wait. It is given back once the daemon begins no step any more: that shows
/// how far a stop has come.
fn park_one(world: &mut World) -> RuleId {
    let refusal = Fault::telegram_429(60);
    let rule = Rule::always("tg.sendphoto", refusal).for_requests_with("880001");
    let rule = world.sandbox.faults.add(rule);
    world.push(job("parked").chat(880_001).json());
    eventually(
        SOON,
        || world.sandbox.faults.fired(rule),
        |fired| *fired == 1,
    );
    rule
}

/// Sends SIGTERM and waits until what is parked was given back.
fn begin_stop(world: &mut World, daemon: &Daemon) {
    daemon.signal("TERM");
    world.wait_state("parked", "queued");
}

fn submitted(world: &mut World) -> usize {
    let events = world.events();
    events
        .iter()
        .filter(|event| event["event"] == "submitted")
        .count()
}

fn assert_nothing_is_owned(world: &mut World) {
    for pattern in ["fal:claims:*", "fal:taken:*"] {
        let left: Vec<String> = world.redis(&["KEYS", pattern]);
        assert!(left.is_empty(), "left over: {left:?}");
    }
    assert_eq!(world.redis::<u64>(&["ZCARD", "fal:workers"]), 0);
}

#[test]
fn an_idle_daemon_ends_within_a_second() {
    let mut world = World::new();
    one_is_quick(Duration::from_secs(1), || {
        let mut daemon = world.daemon(&["--threads", "4"]);
        let (code, took) = stopped(&mut daemon, "TERM");
        assert_eq!(code, Some(0));
        let log = daemon.log_text();
        assert!(log.contains("stopping"), "{log}");
        assert!(log.contains("stopped given_back=0 cut_off=0"), "{log}");
        assert_nothing_is_owned(&mut world);
        took
    });
}

#[test]
fn interrupt_and_hangup_end_it_like_terminate() {
    for signal in ["INT", "HUP"] {
        let (mut world, mut daemon) = World::running();
        world.push(job("one").json());
        world.wait_state("one", "done");
        let (code, _) = stopped(&mut daemon, signal);
        assert_eq!(code, Some(0), "SIG{signal}");
        daemon.wait_log("stopped given_back=0 cut_off=0");
        assert_nothing_is_owned(&mut world);
        world.assert_clean();
    }
}

#[test]
fn parked_jobs_are_given_back_at_once_and_finished_by_the_next_daemon_without_a_second_payment() {
    let (mut world, mut daemon) = World::running();
    // No runner is free: nothing can end before the stop.
    world.sandbox.fal.set_slots(0);
    let ids: Vec<String> = (0..150).map(|number| format!("p{number}")).collect();
    let entries: Vec<String> = ids
        .iter()
        .enumerate()
        .map(|(number, id)| {
            let job = job(id);
            if number.is_multiple_of(2) {
                job.chat(300 + number as i64).json()
            } else {
                job.json()
            }
        })
        .collect();
    world.push_all(&entries);
    eventually(SOON, || submitted(&mut world), |count| *count == 150);

    let (code, took) = stopped(&mut daemon, "TERM");
    assert_eq!(code, Some(0));
    assert!(took < QUICK, "{took:?}");
    daemon.wait_log("stopped given_back=150 cut_off=0");
    assert_nothing_is_owned(&mut world);
    assert_eq!(world.redis::<u64>(&["LLEN", "fal:ready:resume"]), 150);
    for id in &ids {
        let record = world.record(id);
        assert_eq!(record["state"], "queued", "{record:?}");
        assert_eq!(record["phase"], "polling", "{record:?}");
        assert_eq!(record["attempt"], "1", "{record:?}");
        let request = &record["request_id"];
        assert!(world.sandbox.fal.request(request).is_some(), "{record:?}");
    }

    world.sandbox.fal.set_slots(1000);
    let _next = world.daemon(&["--threads", "4"]);
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    assert_eq!(world.sandbox.fal.totals().submits, 150);
    assert_eq!(world.sandbox.telegram.duplicates(), []);
    assert_eq!(world.sandbox.telegram.visible_files().len(), 75);
    for event in world.events() {
        assert!(
            !matches!(event["event"].as_str(), "taken_over" | "retrying"),
            "{event:?}"
        );
    }
    world.assert_clean();
}

#[test]
fn a_submit_under_way_is_waited_for_and_its_request_id_kept() {
    let (mut world, mut daemon) = World::running();
    let parked = park_one(&mut world);
    let held = world.sandbox.fal.hold("fal.submit");
    world.push(job("paid").chat(7).json());
    assert!(held.wait_arrived(1, SOON));
    begin_stop(&mut world, &daemon);
    held.release();
    assert_eq!(daemon.wait_exit(SOON), Some(0));
    assert!(daemon.log_text().contains("cut_off=0"));
    let record = world.record("paid");
    assert_eq!(record["state"], "queued", "{record:?}");
    assert!(record.contains_key("request_id"), "{record:?}");
    assert_nothing_is_owned(&mut world);

    world.sandbox.faults.remove(parked);
    world.end_silence();
    let _next = world.daemon(&["--threads", "4"]);
    let record = world.wait_state("paid", "done");
    assert_eq!(record["attempt"], "1");
    assert_eq!(submits_of(&world, "paid"), 1);
    assert_eq!(world.sandbox.telegram.messages(7).len(), 1);
    world.wait_state("parked", "done");
    world.assert_clean();
}

#[test]
fn a_poll_under_way_is_not_waited_for() {
    let (mut world, mut daemon) = World::running();
    let held = world.sandbox.fal.hold("fal.status");
    world.push(job("polled").json());
    assert!(held.wait_arrived(1, SOON));
    let (code, took) = stopped(&mut daemon, "TERM");
    assert_eq!(code, Some(0));
    assert!(took < QUICK, "{took:?}");
    assert!(
        daemon.log_text().contains("stopped given_back=1 cut_off=0"),
        "{}",
        daemon.log_text()
    );
    assert_nothing_is_owned(&mut world);
    held.release();
    let _next = world.daemon(&["--threads", "4"]);
    world.wait_state("polled", "done");
    assert_eq!(submits_of(&world, "polled"), 1);
    world.assert_clean();
}

#[test]
fn a_send_under_way_is_waited_for_and_not_repeated() {
    let (mut world, mut daemon) = World::running();
    let parked = park_one(&mut world);
    let held = world.sandbox.telegram.hold("tg.sendphoto");
    world.push(job("sent").chat(7).json());
    assert!(held.wait_arrived(1, SOON));
    begin_stop(&mut world, &daemon);
    held.release();
    assert_eq!(daemon.wait_exit(SOON), Some(0));
    world.sandbox.faults.remove(parked);
    world.end_silence();
    let _next = world.daemon(&["--threads", "4"]);
    world.wait_state("sent", "done");
    assert_eq!(world.sandbox.telegram.messages(7).len(), 1);
    world.wait_state("parked", "done");
    assert_eq!(world.sandbox.telegram.sends_count(), 2);
    world.assert_clean();
}

#[test]
fn a_direct_call_under_way_is_waited_for() {
    let (mut world, mut daemon) = World::running();
    park_one(&mut world);
    let held = world.sandbox.fal.hold("fal.direct");
    world.push(job("direct").with("via", "direct").json());
    assert!(held.wait_arrived(1, SOON));
    begin_stop(&mut world, &daemon);
    held.release();
    assert_eq!(daemon.wait_exit(SOON), Some(0));
    assert!(
        daemon.log_text().contains("cut_off=0"),
        "{}",
        daemon.log_text()
    );
    assert_eq!(world.state("direct"), "done");
    assert_eq!(submits_of(&world, "direct"), 1);
    world.assert_no_violations();
}

#[test]
fn a_second_signal_ends_it_at_once_with_130() {
    let (mut world, mut daemon) = World::running();
    let held = world.sandbox.fal.hold("fal.submit");
    world.push(job("stuck").json());
    assert!(held.wait_arrived(1, SOON));
    daemon.signal("TERM");
    daemon.wait_log("stopping");
    let (code, took) = stopped(&mut daemon, "TERM");
    assert_eq!(code, Some(130));
    assert!(took < QUICK, "{took:?}");
}

#[test]
fn what_does_not_end_within_the_shutdown_timeout_is_cut_off_and_the_exit_is_still_0() {
    let mut world = World::new();
    let mut daemon = world.daemon(&["--threads", "4", "--shutdown-timeout", "1s"]);
    let held = world.sandbox.fal.hold("fal.submit");
    world.push(job("stuck").json());
    assert!(held.wait_arrived(1, SOON));
    let (code, took) = stopped(&mut daemon, "TERM");
    assert_eq!(code, Some(0));
    assert!(
        (Duration::from_millis(700)..QUICK).contains(&took),
        "{took:?}"
    );
    let log = daemon.log_text();
    let last = log.lines().last().unwrap_or("");
    assert!(last.contains(" WARN ") && last.contains("stopped"), "{log}");
    assert!(last.contains("cut_off=1"), "{log}");
}

#[test]
fn a_stop_that_a_silent_redis_holds_up_ends_with_what_is_known_of_it() {
    let mut world = World::new();
    let mut daemon = world.daemon(&["--threads", "4", "--shutdown-timeout", "1s"]);
    park_one(&mut world);
    world.sandbox.redis.pause().unwrap();
    let (code, took) = stopped(&mut daemon, "TERM");
    world.sandbox.redis.resume().unwrap();
    assert_eq!(code, Some(0));
    assert!(took < QUICK, "{took:?}");
    let log = daemon.log_text();
    let last = log.lines().last().unwrap_or("");
    assert!(last.contains("stopped given_back=0 cut_off=1"), "{log}");
}

#[test]
fn a_job_in_a_step_that_redis_does_not_take_back_counts_as_left() {
    let (mut world, mut daemon) = World::running();
    let held = world.sandbox.fal.hold("fal.status");
    world.push(job("polled").json());
    assert!(held.wait_arrived(1, SOON));
    world.kill_redis();
    daemon.signal("TERM");
    daemon.wait_log("jobs could not be given back, their lease will tell jobs=1");
    assert_eq!(daemon.wait_exit(SOON), Some(0));
    assert!(!world.step_files().is_empty());
    world.sandbox.redis.restart().unwrap();
}

#[test]
fn claimed_jobs_not_yet_begun_are_given_back_unpaid_and_in_their_order() {
    let mut world = World::new();
    let held = world.sandbox.fal.hold("fal.submit");
    let mut daemon = world.daemon(&["--threads", "8"]);
    for number in 0..5 {
        world.push(job(&format!("blocker-{number}")).json());
        assert!(held.wait_arrived(number + 1, SOON));
    }
    // Four are claimed; the first takes the last place that the bulkhead gives to fal.
    world.push_all(&[
        job("a").json(),
        job("b").json(),
        job("c").json(),
        job("d").json(),
    ]);
    assert!(held.wait_arrived(6, SOON));
    world.wait_state("d", "running");
    daemon.signal("TERM");
    daemon.wait_log("stopping");
    let waiting: Vec<String> = eventually(
        SOON,
        || world.redis(&["LRANGE", "fal:ready:default", "0", "-1"]),
        |waiting: &Vec<String>| waiting.len() == 3,
    );
    held.release();
    assert_eq!(daemon.wait_exit(SOON), Some(0));
    assert_eq!(waiting, ["d", "c", "b"], "the right end is served first");
    for id in ["b", "c", "d"] {
        let record = world.record(id);
        assert_eq!(record["state"], "queued");
        assert_eq!(record["attempt"], "0");
        assert_eq!(submits_of(&world, id), 0);
    }
    assert_nothing_is_owned(&mut world);
    let _next = world.daemon(&["--threads", "4"]);
    for id in ["a", "b", "c", "d", "blocker-4"] {
        world.wait_state(id, "done");
        assert_eq!(submits_of(&world, id), 1);
    }
}

#[test]
fn a_delivery_that_waits_for_telegram_is_given_back_with_its_result() {
    let (mut world, mut daemon) = World::running();
    let away = world
        .sandbox
        .faults
        .add(Rule::always("tg.sendphoto", Fault::telegram_429(30)));
    world.push(job("waits").chat(7).json());
    eventually(
        SOON,
        || world.sandbox.faults.fired(away),
        |fired| *fired == 1,
    );
    let (code, took) = stopped(&mut daemon, "TERM");
    assert_eq!(code, Some(0));
    assert!(took < QUICK, "{took:?}");
    let record = world.record("waits");
    assert_eq!(record["state"], "queued", "{record:?}");
    assert_eq!(record["phase"], "delivering", "{record:?}");
    world.sandbox.faults.clear();
    world.end_silence();
    let _next = world.daemon(&["--threads", "4"]);
    world.wait_state("waits", "done");
    assert_eq!(submits_of(&world, "waits"), 1);
    assert_eq!(world.sandbox.fal.totals().results, 1, "the result was kept");
    assert_eq!(world.sandbox.telegram.messages(7).len(), 1);
    world.assert_clean();
}

#[test]
fn entries_that_come_while_it_stops_wait_in_the_inbox_for_the_next_daemon() {
    let (mut world, mut daemon) = World::running();
    let held = world.sandbox.fal.hold("fal.submit");
    world.push(job("first").json());
    assert!(held.wait_arrived(1, SOON));
    daemon.signal("TERM");
    daemon.wait_log("stopping");
    world.push(job("second").json());
    held.release();
    assert_eq!(daemon.wait_exit(SOON), Some(0));
    assert_eq!(submits_of(&world, "second"), 0);
    assert_nothing_is_owned(&mut world);
    let _next = world.daemon(&["--threads", "4"]);
    world.wait_state("first", "done");
    world.wait_state("second", "done");
    world.assert_clean();
}

#[test]
fn a_stop_between_the_messages_of_one_result_repeats_none_of_them() {
    let (mut world, mut daemon) = World::running();
    let parked = park_one(&mut world);
    let status = world.sandbox.telegram.plant_message(7, Kind::Text, false);
    let held = world
        .sandbox
        .telegram
        .hold_matching("tg.sendmediagroup", "/0.png");
    let twelve = Script::new(Outcome::Images(12));
    world.sandbox.fal.model("fal-ai/twelve", twelve);
    world.push(
        job("twelve")
            .model("fal-ai/twelve")
            .chat(7)
            .telegram("status_message_id", status)
            .json(),
    );
    assert!(held.wait_arrived(1, SOON));
    begin_stop(&mut world, &daemon);
    held.release();
    assert_eq!(daemon.wait_exit(SOON), Some(0));
    let record = world.record("twelve");
    assert_eq!(record["state"], "queued", "{record:?}");
    assert_eq!(record["phase"], "delivering", "{record:?}");

    world.sandbox.faults.remove(parked);
    world.end_silence();
    let _next = world.daemon(&["--threads", "4"]);
    let record = world.wait_state("twelve", "done");
    let messages = world.sandbox.telegram.messages(7);
    let ids: Vec<i64> = messages.iter().map(|message| message.id).collect();
    assert_eq!(ids.len(), 12, "{messages:#?}");
    assert!(!ids.contains(&status));
    assert_eq!(record["message_ids"], serde_json::json!(ids).to_string());
    world.wait_state("parked", "done");
    assert_eq!(world.sandbox.telegram.sends_count(), 13);
    world.assert_clean();
}

#[test]
fn an_upload_under_way_is_waited_for_and_not_repeated() {
    let (mut world, mut daemon) = World::running();
    let parked = park_one(&mut world);
    let held = world.sandbox.telegram.hold("tg.sendphoto");
    world.push(job("big").model("fal-ai/big").chat(7).json());
    assert!(held.wait_arrived(1, SOON));
    begin_stop(&mut world, &daemon);
    held.release();
    assert_eq!(daemon.wait_exit(SOON), Some(0));
    assert!(
        daemon.log_text().contains("cut_off=0"),
        "{}",
        daemon.log_text()
    );
    world.sandbox.faults.remove(parked);
    world.end_silence();
    let _next = world.daemon(&["--threads", "4"]);
    world.wait_state("big", "done");
    world.wait_state("parked", "done");
    assert_eq!(world.sandbox.telegram.sends_count(), 2);
    world.assert_clean();
}

#[test]
fn direct_calls_that_wait_for_a_transfer_thread_are_given_back_unpaid() {
    let mut world = World::new();
    let mut daemon = world.daemon(&["--threads", "4", "--transfer-threads", "1"]);
    let parked = park_one(&mut world);
    let held = world.sandbox.fal.hold("fal.direct");
    let ids = ["d0", "d1", "d2", "d3"];
    for (number, id) in ids.iter().enumerate() {
        world.push(job(id).with("via", "direct").json());
        if number == 0 {
            assert!(held.wait_arrived(1, SOON));
        }
    }
    for id in ids {
        world.wait_state(id, "running");
    }
    begin_stop(&mut world, &daemon);
    held.release();
    assert_eq!(daemon.wait_exit(SOON), Some(0));
    let log = daemon.log_text();
    assert!(log.contains("stopped given_back=4 cut_off=0"), "{log}");
    assert_eq!(world.state("d0"), "done");
    for id in &ids[1..] {
        let record = world.record(id);
        assert_eq!(record["state"], "queued", "{record:?}");
        assert_eq!(record["attempt"], "0", "{record:?}");
    }
    assert_eq!(world.sandbox.fal.totals().submits, 2);
    assert_nothing_is_owned(&mut world);
    world.sandbox.faults.remove(parked);
    world.end_silence();
    let _next = world.daemon(&["--threads", "4"]);
    for id in ids {
        world.wait_state(id, "done");
        assert_eq!(submits_of(&world, id), 1);
    }
    world.wait_state("parked", "done");
    world.assert_clean();
}

#[test]
fn a_large_result_that_waits_for_telegram_is_kept_in_a_key_of_its_own_and_deleted_at_the_end() {
    let (mut world, mut daemon) = World::running();
    let picture = fal_worker::sandbox::media::png(300, 300, Some(5));
    let script = Script::new(Outcome::DataUri(picture));
    world.sandbox.fal.model("fal-ai/inline", script);
    world
        .sandbox
        .faults
        .add(Rule::always("tg.sendphoto", Fault::telegram_429(30)));
    world.push(job("large").model("fal-ai/inline").chat(7).json());
    let key = ["STRLEN", "fal:result:large"];
    let kept = eventually(SOON, || world.redis::<u64>(&key), |kept| *kept > 0);
    assert!(kept > 300_000, "{kept}");
    assert!(!world.record("large").contains_key("result"));
    let (code, took) = stopped(&mut daemon, "TERM");
    assert_eq!(code, Some(0));
    assert!(took < QUICK, "{took:?}");
    assert_eq!(world.redis::<u64>(&key), kept);
    world.sandbox.faults.clear();
    world.end_silence();
    let _next = world.daemon(&["--threads", "4"]);
    world.wait_state("large", "done");
    assert_eq!(world.redis::<u64>(&key), 0);
    assert_eq!(world.sandbox.fal.totals().results, 1);
    assert_eq!(world.sandbox.telegram.messages(7).len(), 1);
    world.assert_clean();
}

#[test]
fn a_submit_that_the_hard_stop_broke_is_repeated_later_and_counted_as_unknown() {
    let mut world = World::new();
    let mut daemon = world.daemon(&["--threads", "4", "--shutdown-timeout", "1s"]);
    let held = world.sandbox.fal.hold("fal.submit");
    world.push(job("broken").json());
    assert!(held.wait_arrived(1, SOON));
    assert_eq!(daemon.stop(), Some(0));
    held.release();
    let next = world.daemon(&["--threads", "4"]);
    let record = world.wait_state("broken", "done");
    assert_eq!(record["attempt"], "2", "{record:?}");
    assert_eq!(submits_of(&world, "broken"), 2, "the one window: counted");
    assert!(
        next.log_text().contains("submitted again after unknown"),
        "{}",
        next.log_text()
    );
    world.assert_clean();
}

#[test]
fn what_one_daemon_gives_back_another_finishes_at_once() {
    let (mut world, mut one) = World::running();
    world.sandbox.fal.set_slots(0);
    let ids: Vec<String> = (0..30).map(|number| format!("h{number}")).collect();
    let entries: Vec<String> = ids.iter().map(|id| job(id).json()).collect();
    world.push_all(&entries);
    eventually(SOON, || submitted(&mut world), |count| *count == 30);
    let two = world.daemon(&["--threads", "4"]);
    world.sandbox.fal.set_slots(1000);
    assert_eq!(one.stop(), Some(0));
    let stopped = Instant::now();
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    // Sooner than any lease, which is thirty seconds: nobody waited for a death.
    assert!(
        stopped.elapsed() < Duration::from_secs(20),
        "{:?}",
        stopped.elapsed()
    );
    let done = |daemon: &Daemon| daemon.log_text().matches(" job done ").count();
    assert_eq!(done(&one) + done(&two), 30);
    assert_eq!(world.sandbox.fal.totals().submits, 30);
    world.assert_clean();
}

#[test]
fn a_thousand_jobs_in_flight_are_given_back_within_a_second_and_never_paid_again() {
    let mut world = World::new();
    world.sandbox.fal.set_slots(0);
    let ids: Vec<String> = (0..1000).map(|number| format!("k{number}")).collect();
    let entries: Vec<String> = ids.iter().map(|id| job(id).json()).collect();
    let mut daemon = world.daemon(&["--threads", "16"]);
    world.push_all(&entries);
    eventually(SOON, || world.sandbox.fal.totals().submits, |n| *n == 1000);
    let mut spans = Vec::new();
    for round in 0..5 {
        // All of them are this daemon's.
        let held = format!("fal:claims:{}", daemon.instance());
        eventually(
            SOON,
            || world.redis::<u64>(&["HLEN", &held]),
            |held| *held == 1000,
        );
        let (code, took) = stopped(&mut daemon, "TERM");
        assert_eq!(code, Some(0));
        let log = daemon.log_text();
        assert!(
            log.contains("stopped given_back=1000 cut_off=0"),
            "round {round}: {}",
            log.lines().last().unwrap_or("")
        );
        assert_nothing_is_owned(&mut world);
        assert_eq!(world.redis::<u64>(&["LLEN", "fal:ready:resume"]), 1000);
        spans.push(took);
        daemon = world.daemon(&["--threads", "16"]);
    }
    spans.sort();
    println!("SIGTERM to exit with 1000 jobs in flight: {spans:?}");
    // The figure to reach is a second; a busy machine is given more.
    assert!(spans[2] < QUICK, "{spans:?}");
    world.sandbox.fal.set_slots(10_000);
    let states = world.wait_ended(&ids, SOON * 2);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    assert_eq!(world.sandbox.fal.totals().submits, 1000, "paid once each");
    for event in world.events() {
        assert!(
            !matches!(event["event"].as_str(), "taken_over" | "retrying"),
            "{event:?}"
        );
    }
    world.assert_clean();
}

#[test]
fn stuck_in_every_kind_of_step_it_ends_at_the_shutdown_timeout() {
    let mut world = World::new();
    let more = ["--threads", "8", "--shutdown-timeout", "1s"];
    let mut daemon = world.daemon(&more);
    let places = [
        ("fal.submit", "held-submit"),
        ("fal.result", "case/fetched/"),
        ("fal.direct", "held-direct"),
    ];
    let mut holds: Vec<_> = places
        .iter()
        .map(|(endpoint, text)| world.sandbox.fal.hold_matching(endpoint, text))
        .collect();
    for method in ["tg.sendphoto", "tg.editmessagemedia", "tg.senddocument"] {
        holds.push(world.sandbox.telegram.hold(method));
    }
    world.sandbox.fal.model("case/fetched", Script::default());
    let status = world.sandbox.telegram.plant_message(2, Kind::Text, false);
    world.push_all(&[
        job("held-submit").json(),
        job("fetched").model("case/fetched").json(),
        job("held-direct").with("via", "direct").json(),
        job("sent").chat(1).json(),
        job("edited")
            .chat(2)
            .telegram("status_message_id", status)
            .json(),
        job("document")
            .model("fal-ai/big")
            .chat(3)
            .telegram("send_as", "document")
            .json(),
    ]);
    for hold in &holds {
        assert!(hold.wait_arrived(1, SOON));
    }
    let (code, took) = stopped(&mut daemon, "TERM");
    assert_eq!(code, Some(0));
    assert!(took < QUICK, "{took:?}");
    let last = daemon.log_text();
    let last = last.lines().last().unwrap_or("");
    // The look at the result was not waited for; five exchanges were cut, and what came of them is known.
    assert!(last.contains("cut_off=5"), "{last}");
    assert_nothing_is_owned(&mut world);
    drop(holds);
    let _next = world.daemon(&["--threads", "8"]);
    let ends = [
        ("held-submit", "done", "2"),
        ("fetched", "done", "1"),
        ("held-direct", "dead", "1"),
        ("sent", "done", "1"),
        ("edited", "done", "1"),
        ("document", "done", "1"),
    ];
    for (id, state, attempt) in ends {
        let record = world.wait_state(id, state);
        assert_eq!(record["attempt"], attempt, "{record:?}");
    }
    assert_eq!(world.counted("resubmitted_after_unknown"), 1);
    assert_eq!(world.counted("resent_after_unknown"), 2, "not the edit");
    assert_eq!(world.sandbox.telegram.messages(2).len(), 1);
    assert_eq!(world.record("held-direct")["charged"], "unknown");
    world.assert_clean_after_kills();
}

/// Calls of the worker's scripts so far.
fn script_calls(world: &mut World) -> u64 {
    let text: String = world.redis(&["INFO", "commandstats"]);
    let calls = (text.lines()).find_map(|line| {
        line.strip_prefix("cmdstat_evalsha:calls=")?
            .split(',')
            .next()
    });
    calls.map_or(0, |number| number.parse().expect("a number"))
}

#[test]
fn polls_that_come_back_during_a_stop_cost_no_look_at_what_ended_before_it() {
    let mut world = World::new();
    world
        .sandbox
        .fal
        .model("case/polled", Script::new(Outcome::Never));
    let looks = (world.sandbox.fal).hold_matching("fal.status", "case/polled");
    let send = world.sandbox.telegram.hold("tg.sendphoto");
    let mut daemon = world.daemon(&["--threads", "8"]);
    world.push(job("sent").chat(7).json());
    assert!(send.wait_arrived(1, SOON));
    for id in ["p0", "p1", "p2"] {
        world.push(job(id).model("case/polled").json());
    }
    assert!(looks.wait_arrived(3, SOON));
    let quick = Script::default().taking(Duration::from_millis(1));
    world.sandbox.fal.model("case/quick", quick);
    let ids: Vec<String> = (0..300).map(|n| format!("q{n}")).collect();
    let entry = |id: &String| job(id).model("case/quick").json();
    world.push_all(&ids.iter().map(entry).collect::<Vec<_>>());
    world.wait_ended(&ids, SOON);

    let before = script_calls(&mut world);
    daemon.signal("TERM");
    for id in ["p0", "p1", "p2"] {
        world.wait_state(id, "queued");
    }
    looks.release();
    // All but the send are back.
    let key = format!("fal:worker:{}", daemon.instance());
    let in_flight = |world: &mut World| world.redis::<Option<u64>>(&["HGET", &key, "in_flight"]);
    eventually(SOON, || in_flight(&mut world), |n| *n == Some(1));
    send.release();
    assert_eq!(daemon.wait_exit(SOON), Some(0));
    let calls = script_calls(&mut world) - before;
    assert!(calls < 200, "{calls} calls");
    daemon.wait_log("stopped given_back=3 cut_off=0");
    assert_eq!(world.state("sent"), "done");
}

#[test]
fn what_redis_forgot_right_before_a_stop_is_written_down_again_ends_too() {
    let (mut world, mut daemon) = World::running();
    park_one(&mut world);
    world.wait_field("parked", "phase", "delivering");
    world.push(job("ended").chat(7).json());
    world.wait_state("ended", "done");
    let _: String = world.redis(&["FLUSHALL"]);
    assert_eq!(daemon.stop(), Some(0));
    let record = world.record("parked");
    let said = ["state", "phase"].map(|name| record[name].as_str());
    assert_eq!(said, ["queued", "delivering"]);
    assert_eq!(world.record("ended")["state"], "done");
    assert_nothing_is_owned(&mut world);
}
