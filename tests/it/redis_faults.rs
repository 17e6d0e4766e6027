//! What is special to one fault of Redis: single answers that are lost, writes that it could not take, data
//! that it forgot (design section 3). `redis_matrix.rs` crosses all faults with all moments.

use crate::support::fair::works_at_once;
use crate::support::load::{
    assert_load_ended, assert_load_ended_with, assert_shown, in_full_swing, parked, push_load,
    taking, while_it_lasts,
};
use crate::support::proxy::{Flow, Proxy};
use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::redis::RedisOptions;
use std::time::{Duration, Instant};

fn said_once(daemon: &Daemon) {
    daemon.wait_log("redis back after_s=");
    assert_eq!(daemon.logged("redis lost"), 1, "{}", daemon.log_text());
    assert_eq!(
        daemon.logged("redis back after_s="),
        1,
        "{}",
        daemon.log_text()
    );
}

#[test]
fn a_start_that_finds_no_redis_names_its_address_and_no_password() {
    let mut world = World::new();
    world.redis_url = Some("redis://:hush-hush@127.0.0.1:1/0".to_owned());
    let mut daemon = world.spawn(&["--threads", "4"], &[]);
    daemon.wait_log("redis lost reason=\"nothing usable at 127.0.0.1:1 yet: ");
    assert!(!daemon.log_text().contains("hush"), "{}", daemon.log_text());
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn an_end_that_redis_could_not_take_is_written_when_it_is_back_and_nothing_is_sent_again() {
    let (mut world, daemon) = World::running();
    let hold = world.sandbox.telegram.hold("tg.sendphoto");
    world.push(job("a").chat(7).json());
    assert!(hold.wait_arrived(1, SOON));
    world.kill_redis();
    daemon.wait_log("redis lost");
    hold.release();
    // Its end is now in memory alone.
    world.sandbox.redis.restart().unwrap();
    daemon.wait_log("redis back");
    world.wait_state("a", "done");
    works_at_once(&mut world, "after");
    // Long enough for the comparison of claims to bring it back, if it were left there.
    let claims = format!("fal:claims:{}", daemon.instance());
    eventually(
        SOON,
        || world.redis::<usize>(&["HLEN", &claims]),
        |left| *left == 0,
    );
    assert_eq!(world.sandbox.telegram.messages(7).len(), 1);
    assert_eq!(daemon.logged("a claim whose answer was lost goes back"), 0);
    world.assert_clean();
}

#[test]
fn a_result_that_redis_could_not_take_is_fetched_meanwhile_and_delivered_once_it_is_back() {
    let (mut world, daemon) = World::running();
    let hold = world.sandbox.fal.hold("fal.status");
    world.push(job("a").chat(7).json());
    assert!(hold.wait_arrived(1, SOON));
    world.kill_redis();
    daemon.wait_log("redis lost");
    hold.release();
    // Results vanish at fal: they are read while Redis is away, but nothing is sent.
    eventually(
        SOON,
        || world.sandbox.fal.totals().results,
        |results| *results == 1,
    );
    world.sandbox.redis.restart().unwrap();
    world.wait_state("a", "done");
    assert_eq!(world.sandbox.fal.totals().results, 1);
    let sent = world.sandbox.telegram.journal();
    assert_eq!((sent.len(), submits_of(&world, "a")), (1, 1));
    let names: Vec<_> = world
        .events_of("a")
        .into_iter()
        .map(|event| event["event"].clone())
        .collect();
    assert_eq!(
        names,
        [
            "queued",
            "started",
            "submitted",
            "completed",
            "delivered",
            "done"
        ]
    );
    world.assert_clean();
}

#[test]
fn a_request_id_that_redis_could_not_take_is_written_when_it_is_back_and_not_paid_again() {
    let (mut world, daemon) = World::running();
    taking(&world, 300, 300);
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    world.kill_redis();
    daemon.wait_log("redis lost");
    hold.release();
    world.sandbox.redis.restart().unwrap();
    world.wait_state("a", "done");
    assert_eq!(submits_of(&world, "a"), 1);
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
    let names: Vec<_> = world
        .events_of("a")
        .into_iter()
        .map(|event| event["event"].clone())
        .collect();
    assert_eq!(
        names,
        ["queued", "started", "submitted", "completed", "done"]
    );
    world.assert_clean();
}

#[test]
fn connections_killed_while_idle_and_under_load_lose_nothing() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "8"]);
    let kill = |world: &mut World| world.redis::<u64>(&["CLIENT", "KILL", "TYPE", "normal"]);
    for round in 0..3 {
        // At first the daemon may not have opened them all.
        eventually(SOON, || kill(&mut world), |killed| *killed > 1);
        works_at_once(&mut world, &format!("idle{round}"));
    }
    taking(&world, 20, 600);
    let ids = push_load(&mut world, 60);
    for round in 1..=5 {
        in_full_swing(&mut world, 12 + 50 * round);
        kill(&mut world);
    }
    assert_load_ended_with(&mut world, &ids, 3);
    works_at_once(&mut world, "after");
    let said = || {
        let lost = daemon.logged("redis lost");
        (lost, daemon.logged("redis back after_s="))
    };
    eventually(SOON, said, |(lost, back)| lost == back);
}

#[test]
fn scripts_flushed_while_idle_and_under_load_are_loaded_again() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "8"]);
    let flush = |world: &mut World| world.redis::<String>(&["SCRIPT", "FLUSH"]);
    flush(&mut world);
    works_at_once(&mut world, "idle");
    taking(&world, 20, 400);
    let ids = push_load(&mut world, 60);
    for round in 1..=5 {
        in_full_swing(&mut world, 5 + 50 * round);
        flush(&mut world);
    }
    assert_load_ended_with(&mut world, &ids, 1);
    assert_eq!(daemon.logged("WARN"), 0, "{}", daemon.log_text());
}

#[test]
fn redis_emptied_while_jobs_are_being_written_none_in_flight_is_dropped() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "8"]);
    // Results come in all the time: writes meet the empty Redis before a beat does.
    taking(&world, 300, 5000);
    // None runs before all are there, however long that takes.
    world.sandbox.fal.set_slots(0);
    let ids = push_load(&mut world, 60);
    for id in &ids {
        eventually(SOON, || submits_of(&world, id), |seen| *seen == 1);
    }
    world.sandbox.fal.set_slots(1000);
    eventually(
        SOON,
        || world.sandbox.fal.totals().results,
        |results| *results >= 3,
    );
    // Ended records are gone with everything else; jobs still in flight must end.
    let in_flight: Vec<String> = ids
        .iter()
        .filter(|id| world.state(id) == "running")
        .cloned()
        .collect();
    assert!(in_flight.len() > 20);
    let _: String = world.redis(&["FLUSHALL"]);
    let states = world.wait_ended(&in_flight, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    assert_eq!(world.sandbox.fal.totals().submits, 60);
    assert_shown(&world, &ids, 0);
    drop(daemon);
}

#[test]
fn redis_emptied_during_a_submit_the_request_is_kept_and_not_paid_again() {
    let (mut world, daemon) = World::running();
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    let _: String = world.redis(&["FLUSHALL"]);
    hold.release();
    let record = world.wait_state("a", "done");
    assert_eq!(
        (submits_of(&world, "a"), record["attempt"].as_str()),
        (1, "1")
    );
    let submit = world.sandbox.fal.submits().remove(0);
    assert!(!submit.cancelled);
    drop(daemon);
}

#[test]
fn redis_restarted_without_its_data_the_jobs_in_flight_end_and_are_not_paid_again() {
    let mut world = World::with(RedisOptions {
        append_only: false,
        ..RedisOptions::default()
    });
    let daemon = world.daemon(&["--threads", "8"]);
    let ids = parked(&mut world, 60);
    world.sandbox.redis.restart().unwrap();
    daemon.wait_log("redis forgot writes, they were made again");
    assert_load_ended(&mut world, &ids);
    assert_eq!(world.sandbox.fal.totals().submits, 60);
    works_at_once(&mut world, "after");
}

#[test]
fn redis_that_lost_everything_during_an_outage_gets_each_unsaved_write() {
    let mut world = World::with(RedisOptions {
        append_only: false,
        ..RedisOptions::default()
    });
    let daemon = world.daemon(&["--threads", "8"]);
    let sends = world
        .sandbox
        .telegram
        .hold_matching("tg.sendphoto", "\"chat_id\":7");
    let submits = world
        .sandbox
        .fal
        .hold_matching("fal.submit", "prompt of paid.");
    world.push_all(&[job("sent").chat(7).json(), job("paid").chat(8).json()]);
    assert!(sends.wait_arrived(1, SOON) && submits.wait_arrived(1, SOON));
    world.kill_redis();
    daemon.wait_log("redis lost");
    sends.release();
    submits.release();
    eventually(
        SOON,
        || world.sandbox.telegram.journal().len(),
        |sent| *sent == 1,
    );
    world.sandbox.redis.restart().unwrap();
    let paid = world.wait_state("paid", "done");
    world.wait_state("sent", "done");
    assert_eq!(
        (submits_of(&world, "sent"), submits_of(&world, "paid")),
        (1, 1)
    );
    assert_eq!(paid["attempt"], "1");
    for chat in [7, 8] {
        assert_eq!(
            world.sandbox.telegram.messages(chat).len(),
            1,
            "chat {chat}"
        );
    }
    let claims = format!("fal:claims:{}", daemon.instance());
    eventually(
        SOON,
        || world.redis::<usize>(&["HLEN", &claims]),
        |left| *left == 0,
    );
    world.assert_clean();
}

#[test]
fn a_wrong_password_at_start_is_one_clear_line_and_exit_78() {
    let mut world = World::new();
    let _: String = world.redis(&["CONFIG", "SET", "requirepass", "right-password"]);
    let address = format!("127.0.0.1:{}/0", world.sandbox.redis.port());
    for url in [
        format!("redis://{address}"),
        format!("redis://:wrong-password@{address}"),
    ] {
        world.redis_url = Some(url.clone());
        let mut daemon = world.spawn(&[], &[]);
        assert_eq!(daemon.wait_exit(SOON), Some(78), "{}", daemon.log_text());
        let log = daemon.log_text();
        let errors: Vec<&str> = log.lines().collect();
        assert!(
            errors.len() == 1 && errors[0].contains("--redis-url"),
            "{log}"
        );
        assert!(
            errors[0].contains("password") && !log.contains("wrong-password"),
            "{log}"
        );
        // The commands say so too: no Redis is away.
        let status = world.cli(&["status"]).env("REDIS_URL", &url).output();
        let status = status.unwrap();
        let said = String::from_utf8(status.stderr).unwrap();
        assert_eq!(status.status.code(), Some(78), "{said}");
        assert!(said.starts_with("fal-worker: Redis refused: "), "{said}");
    }
    world.redis_url = Some(format!("redis://:right-password@{address}"));
    let daemon = world.daemon(&[]);
    assert!(!daemon.log_text().contains("right-password"));
}

#[test]
fn redis_away_at_start_is_said_once_and_waited_for() {
    let mut world = World::new();
    world.kill_redis();
    let daemon = world.spawn(&[], &[]);
    daemon.wait_log("redis lost");
    while_it_lasts(Duration::from_secs(1));
    assert_eq!(daemon.logged(" ready "), 0);
    world.sandbox.redis.restart().unwrap();
    daemon.wait_log(" ready ");
    said_once(&daemon);
    works_at_once(&mut world, "after");
}

/// A world whose daemon talks to Redis through a proxy.
fn proxied(threads: &str) -> (World, Daemon, Proxy) {
    let mut world = World::new();
    let proxy = Proxy::to(&world.sandbox.redis.url());
    world.redis_url = Some(format!("redis://{}/0", proxy.address()));
    let daemon = world.daemon(&["--threads", threads]);
    (world, daemon, proxy)
}

#[test]
fn a_lost_answer_of_a_claim_loses_no_job() {
    let (mut world, daemon, proxy) = proxied("4");
    proxy.hold_with(Flow::Answers, "fresh"); // only the claim of a new job says so
    world.push(job("lost").json());
    proxy.wait_held(SOON);
    assert_eq!(world.state("lost"), "running");
    proxy.cut_held();
    world.wait_state("lost", "done");
    assert_eq!(submits_of(&world, "lost"), 1);
    works_at_once(&mut world, "after");
    drop(daemon);
    world.assert_clean();
}

#[test]
fn a_claim_whose_answer_is_lost_twice_is_found_by_the_comparison_of_claims() {
    let (mut world, daemon, proxy) = proxied("4");
    proxy.hold_with(Flow::Answers, "fresh"); // only the claim of a new job says so
    world.push(job("lost").json());
    proxy.wait_held(SOON);
    proxy.refuse(true); // the repeat finds nobody
    proxy.cut();
    proxy.cut_held();
    daemon.wait_log("redis lost");
    proxy.refuse(false);
    world.wait_state("lost", "done");
    assert_eq!(
        (
            submits_of(&world, "lost"),
            world.record("lost")["attempt"].as_str()
        ),
        (1, "1")
    );
    daemon.wait_log("a claim whose answer was lost goes back");
    works_at_once(&mut world, "after");
    world.assert_clean();
}

#[test]
fn lost_answers_of_intake_lose_and_double_no_entry() {
    let (mut world, _daemon, proxy) = proxied("4");
    for id in ["x", "y", "z"] {
        // The answer of `take` brings the entry; later the claim brings it too.
        proxy.hold_with(Flow::Answers, &format!("prompt of {id}."));
        world.push(job(id).json());
        proxy.wait_held(SOON);
        proxy.cut_held();
        world.wait_state(id, "done");
    }
    assert_eq!(world.sandbox.fal.totals().submits, 3);
    world.assert_clean();
}

#[test]
fn a_lost_answer_of_the_end_ends_the_job_once() {
    let (mut world, daemon, proxy) = proxied("4");
    world.push(job("first").chat(7).json()); // Redis knows all scripts from here on
    world.wait_state("first", "done");
    let hold = world.sandbox.telegram.hold("tg.sendphoto");
    world.push(job("a").chat(7).json());
    assert!(hold.wait_arrived(1, SOON));
    // Everything that Redis says from here on is lost with its connection.
    proxy.stall(Flow::Answers);
    hold.release();
    world.wait_state("a", "done");
    proxy.cut();
    proxy.flow();
    works_at_once(&mut world, "after");
    assert_eq!(world.sandbox.telegram.messages(7).len(), 2);
    drop(daemon);
    world.assert_clean();
}

#[test]
fn connections_that_fall_silent_are_given_up_and_the_next_job_is_taken() {
    let (mut world, daemon, proxy) = proxied("4");
    works_at_once(&mut world, "before");
    proxy.freeze_open();
    let pushed = Instant::now();
    world.push(job("after").json());
    eventually(SOON, || world.state("after"), |state| state == "done");
    let took = pushed.elapsed();
    eprintln!("taken {took:?} after the connections fell silent");
    // BRPOP may block for 5 s, and its answer has some time beyond; then there is what the machine needs.
    assert!(took < Duration::from_secs(20), "took {took:?}");
    assert_eq!(daemon.logged("took over"), 0);
}

#[test]
fn one_connection_that_falls_silent_is_nobodys_death() {
    let mut world = World::new();
    // A connection gets two seconds; the rest of the lease is for a machine that stands still at times.
    let judge = world.daemon(&["--lease", "6s"]);
    let proxy = Proxy::to(&world.sandbox.redis.url());
    world.redis_url = Some(format!("redis://{}/0", proxy.address()));
    let daemon = world.daemon(&["--lease", "6s"]);
    let instance = daemon.instance();
    let beat = |world: &mut World| {
        world
            .redis::<Option<f64>>(&["ZSCORE", "fal:workers", &instance])
            .unwrap_or(f64::MAX)
    };
    // The judge needs a lease of beats of its own.
    let first = beat(&mut world);
    eventually(SOON, || beat(&mut world), |now| *now > first + 7000.0);
    proxy.freeze_open();
    let last = beat(&mut world);
    let next = eventually(SOON, || beat(&mut world), |now| *now > last);
    assert!(next - last < 6000.0, "no beat for {} ms", next - last);
    assert_eq!(judge.logged("took over"), 0);
}

#[test]
fn redis_that_comes_back_with_older_data_gets_what_the_workers_know() {
    let mut world = World::new();
    let _daemons = [
        world.daemon(&["--threads", "4"]),
        world.daemon(&["--threads", "4"]),
    ];
    taking(&world, 3000, 3000);
    let pause: &[&str] = &["HSET", "fal:paused", "reason", "test"];
    let _: u64 = world.redis(pause);
    let ids: Vec<String> = (0..8).map(|n| format!("old{n}")).collect();
    let entries: Vec<_> = (0..8).map(|n| job(&ids[n]).chat(1000 + n as i64)).collect();
    let quick = job("quick").model("fal-ai/flux/schnell").chat(2000);
    world.push_all(
        &entries
            .iter()
            .chain([&quick])
            .map(|entry| entry.json())
            .collect::<Vec<_>>(),
    );
    for id in ids.iter().map(String::as_str).chain(["quick"]) {
        world.wait_state(id, "queued");
    }
    // What Redis will remember: all of them wait, unpaid.
    let (folder, saved) = (
        world.sandbox.redis.folder().to_owned(),
        world.folder.path().join("aof"),
    );
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let done = std::process::Command::new("cp")
            .arg("-rT")
            .args([from, to])
            .status();
        assert!(done.unwrap().success());
    };
    copy(&folder.join("appendonlydir"), &saved);
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    for id in &ids {
        world.wait_submitted(id);
    }
    world.wait_state("quick", "done");

    world.kill_redis();
    std::fs::remove_dir_all(folder.join("appendonlydir")).unwrap();
    copy(&saved, &folder.join("appendonlydir"));
    world.sandbox.redis.restart().unwrap();
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    world.wait_state("quick", "done");
    world.wait_ended(&ids, SOON);
    assert_eq!(world.sandbox.fal.totals().submits, 9);
    for n in 0..8 {
        assert_eq!(world.sandbox.telegram.messages(1000 + n).len(), 1);
    }
    assert_eq!(world.sandbox.telegram.messages(2000).len(), 4);
    works_at_once(&mut world, "after");
    world.assert_clean();
}

#[test]
fn a_full_redis_takes_what_is_paid_and_makes_the_rest_wait() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "8"]);
    let ids = parked(&mut world, 30);
    // One more waits to be claimed, so that claims are refused all the time.
    let _: u64 = world.redis(&["HSET", "fal:paused", "reason", "test"]);
    world.push(job("new").json());
    world.wait_state("new", "queued");
    let _: String = world.redis(&["CONFIG", "SET", "maxmemory", "1"]);
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    daemon.wait_log("redis memory full reason=");
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    assert_eq!(world.state("new"), "queued");
    // Full is not away: nothing that is paid is held back for it.
    assert_eq!(daemon.logged("redis lost"), 0);
    let _: String = world.redis(&["CONFIG", "SET", "maxmemory", "0"]);
    world.wait_state("new", "done");
    daemon.wait_log("redis memory free again after_s=");
    assert_eq!(daemon.logged("redis refused"), 0, "{}", daemon.log_text());
    assert_load_ended_with(&mut world, &ids, 1);
    works_at_once(&mut world, "after");
    assert_eq!(daemon.logged("took over"), 0);
}

#[test]
fn redis_emptied_twice_the_jobs_that_ended_just_before_are_known_again() {
    let (mut world, daemon) = World::running();
    world.push(job("a").chat(7).json());
    world.wait_state("a", "done");
    for times in 1..=2 {
        let _: String = world.redis(&["FLUSHALL"]);
        eventually(
            SOON,
            || daemon.logged("redis forgot writes"),
            |seen| *seen == times,
        );
        assert_eq!(world.state("a"), "done", "emptied {times} times");
    }
    // So an LPUSH of the same id is still a duplicate, not a payment.
    world.push(job("a").chat(7).json());
    eventually(
        SOON,
        || world.events_of("a"),
        |seen| seen.iter().any(|e| e["event"] == "duplicate"),
    );
    assert_eq!(
        (
            submits_of(&world, "a"),
            world.sandbox.telegram.messages(7).len()
        ),
        (1, 1)
    );
}
