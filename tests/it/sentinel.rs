//! A master that dies for good: three sentinels name another one, and the daemons go on there with all that
//! a replica had, and with all that they themselves know.

use crate::support::fair::{works_at_once, works_at_once_on_another_model};
use crate::support::load::{assert_load_ended_after_a_stop, in_full_swing, push_load, taking};
use crate::support::topology::{Sentinels, options};
use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::Script;
use std::time::{Duration, Instant};

/// The servers first: what is declared last is dropped first, and the world looks at them in the end.
fn started() -> (Sentinels, World) {
    let mut world = World::with(options(&[]));
    let mut sentinels = Sentinels::of(&world);
    sentinels.start();
    world.redis_url = Some(sentinels.url());
    (sentinels, world)
}

/// All that was written so far stands in both replicas.
fn replicated(world: &mut World) {
    eventually(
        SOON,
        || world.redis::<u32>(&["WAIT", "2", "1000"]),
        |have| *have == 2,
    );
}

/// The daemon was without Redis, and is not any more.
fn is_back(daemon: &Daemon) {
    let times = || (daemon.logged("redis lost"), daemon.logged("redis back"));
    eventually(SOON, times, |(lost, back)| *lost > 0 && lost == back);
}

#[test]
fn a_start_without_sentinels_waits_and_says_so_once() {
    let mut world = World::with(options(&[]));
    let mut sentinels = Sentinels::of(&world);
    world.redis_url = Some(
        sentinels
            .url()
            .replacen("://", "://:hush-1@", 1)
            .replace("/main/0", "/main/0?sentinel_password=hush-2"),
    );
    // Passwords that nobody asks for would be an error of its own: here nobody answers yet.
    let mut refused = world.spawn(&["--threads", "2"], &[]);
    refused.wait_log("redis lost reason=\"nothing usable at the master main of the sentinels ");
    assert_eq!(refused.stop(), Some(0));
    assert!(
        !refused.log_text().contains("hush"),
        "{}",
        refused.log_text()
    );

    world.redis_url = Some(sentinels.url());
    let daemon = world.spawn(&["--threads", "2"], &[]);
    daemon.wait_log("redis lost reason=");
    sentinels.start();
    daemon.wait_log(" ready ");
    let shown = format!("redis={} ", sentinels.url());
    daemon.wait_log(&shown);
    assert_eq!(daemon.logged("redis lost"), 1, "{}", daemon.log_text());
    // What people ask finds the master the same way.
    world.push(job("a").json());
    world.wait_state("a", "done");
    let out = world
        .cli(&["show", "a"])
        .env("REDIS_URL", sentinels.url())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && text.contains("done"), "{text}");
    world.assert_clean();
}

#[test]
fn servers_and_sentinels_have_passwords_of_their_own() {
    let (sentinels, mut world) = started();
    sentinels.lock("pw-of-servers", "pw-of-sentinels");
    let url = |server: &str, sentinel: &str| {
        let url = sentinels.url().replacen("://", &format!("://{server}"), 1);
        url + sentinel
    };
    for (server, sentinel) in [
        (":pw-of-servers@", ""),
        (":pw-of-servers@", "?sentinel_password=pw-of-servers"),
        ("", "?sentinel_password=pw-of-sentinels"),
        (":pw-of-sentinels@", "?sentinel_password=pw-of-sentinels"),
    ] {
        world.redis_url = Some(url(server, sentinel));
        let mut daemon = world.spawn(&["--threads", "2"], &[]);
        let code = daemon.wait_exit(SOON);
        let log = daemon.log_text();
        assert_eq!(code, Some(78), "{server} {sentinel}: {log}");
        assert!(log.contains("redis refused user or password"), "{log}");
        assert!(!log.contains("pw-of"), "{log}");
    }
    world.redis_url = Some(url(":pw-of-servers@", "?sentinel_password=pw-of-sentinels"));
    let daemon = world.daemon(&["--threads", "2"]);
    daemon.wait_log(&format!("redis={} ", url(":***@", "")));
    world.push(job("a").json());
    world.wait_state("a", "done");
    assert!(!world.logs().contains("pw-of"), "{}", world.logs());
    world.assert_clean();
}

#[test]
fn a_failover_under_load_loses_nothing_that_was_replicated() {
    failover_under_load(60, 1, (300, 1500));
}

#[test]
#[ignore = "takes two minutes"]
fn five_failovers_under_load_lose_nothing_that_was_replicated() {
    failover_under_load(2000, 5, (1000, 20_000));
}

fn failover_under_load(jobs: usize, rounds: usize, generation: (u64, u64)) {
    let (mut sentinels, mut world) = started();
    let more = ["--threads", "8", "--lease", "5s"];
    let daemons = [world.daemon(&more), world.daemon(&more)];
    taking(&world, generation.0, generation.1);
    let ids = push_load(&mut world, jobs);
    replicated(&mut world);
    in_full_swing(&mut world, jobs);
    let mut port = world.sandbox.redis.port();
    for round in 1..=rounds {
        let killed = Instant::now();
        sentinels.kill(&mut world, port);
        let old = port;
        port = sentinels.follow(&mut world, old);
        eprintln!("round {round}: a new master after {:?}", killed.elapsed());
        for daemon in &daemons {
            is_back(daemon);
        }
        eprintln!("round {round}: both are back after {:?}", killed.elapsed());
        if round < rounds {
            sentinels.revive(&mut world, old);
            port = sentinels.master();
            world.look_at(&format!("redis://127.0.0.1:{port}"));
        }
    }
    assert_load_ended_after_a_stop(&mut world, &ids);
    works_at_once_on_another_model(&mut world);
    for daemon in &daemons {
        eprintln!(
            "{} lines `redis lost`, {} takeovers, {} records written again",
            daemon.logged("redis lost"),
            daemon.logged("took over"),
            daemon.logged("written again"),
        );
    }
    let submits = world.sandbox.fal.totals().submits;
    let again = world.counted("resubmitted_after_unknown");
    eprintln!("{submits} submits of {} jobs, {again} counted", jobs + 1);
}

#[test]
fn what_no_replica_had_is_written_again_by_whoever_knows_it() {
    let (mut sentinels, mut world) = started();
    let port = world.sandbox.redis.port();
    let slow = Script::default().taking(Duration::from_secs(6));
    world.sandbox.fal.model("fal-ai/slow", slow);
    let daemon = world.daemon(&["--threads", "4"]);
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("at-fal").model("fal-ai/slow").chat(7).json());
    world.push(job("ended").chat(8).json());
    assert!(hold.wait_arrived(2, SOON));
    replicated(&mut world);

    // From here on only this master and the worker know.
    sentinels.cut_replication(port);
    hold.release();
    let request = world.wait_submitted("at-fal");
    world.wait_state("ended", "done");
    let out = world
        .cli(&[
            "enqueue",
            "--wait-replicas",
            "1",
            "--model",
            "fal-ai/flux/dev",
        ])
        .env("REDIS_URL", sentinels.url())
        .output()
        .unwrap();
    let (ids, says) = (
        String::from_utf8_lossy(&out.stdout).into_owned(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    );
    assert_eq!(out.status.code(), Some(1), "{says}");
    assert!(
        ids.starts_with("j-") && says.contains("0 of 1 replicas"),
        "{says}"
    );
    world.wait_state(ids.trim(), "done");

    sentinels.kill(&mut world, port);
    sentinels.follow(&mut world, port);
    is_back(&daemon);
    let record = world.wait_state("at-fal", "done");
    assert_eq!(record["request_id"], request);
    world.wait_state("ended", "done");
    for (id, chat) in [("at-fal", 7), ("ended", 8)] {
        assert_eq!(submits_of(&world, id), 1, "{id} was paid twice");
        let messages = world.sandbox.telegram.messages(chat).len();
        assert_eq!(messages, 1, "messages of {id}");
    }
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
    assert_eq!(world.counted("resent_after_unknown"), 0);
    works_at_once(&mut world, "after");
    world.assert_clean();
}

#[test]
fn enqueue_waits_for_replicas_and_says_which_jobs_they_lack() {
    let (_sentinels, mut world) = started();
    let enqueue = |world: &World, replicas: &str| {
        world
            .cli(&[
                "enqueue",
                "--wait-replicas",
                replicas,
                "--model",
                "fal-ai/flux/dev",
            ])
            .output()
            .unwrap()
    };
    let out = enqueue(&world, "2");
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let out = enqueue(&world, "3");
    let says = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        says.contains("the last 1 jobs are pushed, but 2 of 3 replicas"),
        "{says}"
    );
    assert!(out.stdout.starts_with(b"j-"), "the id is printed");
    assert_eq!(world.redis::<u64>(&["LLEN", "fal:inbox"]), 2);
}
