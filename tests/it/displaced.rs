//! A string under a key of ours, as somebody makes by his own `SET`: what it costs, whom it does not stop, and
//! that a person hears of it.

use crate::support::{Daemon, SOON, World, eventually, job};
use fal_worker::sandbox::fal::Script;
use std::time::Duration;

const WHY: &str = "a string lies in the place of a key of ours";

/// A daemon with a job at fal that takes for ever.
fn with_a_long_job() -> (World, Daemon) {
    let (mut world, daemon) = World::running();
    world.not_audited(WHY);
    let script = Script {
        generation_min: Duration::from_secs(3600),
        generation_max: Duration::from_secs(3600),
        heeds_cancel: true,
        ..Script::default()
    };
    world.sandbox.fal.model("fal-ai/slow", script);
    world.push(job("long").model("fal-ai/slow").json());
    world.wait_submitted("long");
    (world, daemon)
}

/// Jobs that are due in a moment, and wait for it.
fn due_soon(world: &mut World, ids: &[&str]) {
    let due = world.redis::<(u64, u64)>(&["TIME"]).0 + 2;
    for id in ids {
        world.push(job(id).chat(7).with("not_before", due).json());
    }
    for id in ids {
        world.wait_state(id, "later");
    }
}

/// A cancel of a running job is a duty that comes behind others of the keeper.
fn the_keeper_does_what_comes_later(world: &mut World) {
    let command = world.cli(&["cancel", "long"]).output().unwrap();
    assert!(command.status.success(), "{command:?}");
    world.wait_state("long", "cancelled");
}

#[test]
fn a_record_that_is_none_stops_neither_what_is_due_beside_it_nor_the_keeper_and_is_told_of_once() {
    let (mut world, daemon) = with_a_long_job();
    due_soon(&mut world, &["displaced", "beside"]);
    let _: String = world.redis(&["SET", "fal:job:displaced", "mine"]);
    world.wait_state("beside", "done");
    the_keeper_does_what_comes_later(&mut world);
    daemon.wait_log(" repaired kind=displaced count=1");
    let told = "another type lies under its key job=displaced key=fal:job:displaced ";
    assert_eq!(daemon.logged(told), 1, "{}", daemon.log_text());
    let left: String = world.redis(&["GET", "fal:job:displaced"]);
    assert_eq!(left, "mine");
    let entry: String = world.redis(&["GET", "fal:spec:displaced"]);
    assert!(entry.contains("prompt of displaced."), "{entry}");
    assert_eq!(daemon.logged("redis refuse"), 0, "{}", daemon.log_text());
}

#[test]
fn a_worker_starts_where_the_record_of_what_is_due_is_none() {
    let mut world = World::new();
    world.not_audited(WHY);
    let _: String = world.redis(&["SET", "fal:job:displaced", "mine"]);
    let _: u64 = world.redis(&["ZADD", "fal:later", "1", "displaced"]);
    let _daemon = world.daemon(&["--threads", "2"]);
    world.push(job("a").chat(7).json());
    world.wait_state("a", "done");
}

#[test]
fn a_duty_that_redis_refuses_is_told_of_once_and_those_behind_it_are_done() {
    let (mut world, daemon) = with_a_long_job();
    due_soon(&mut world, &["due"]);
    let _: String = world.redis(&["SET", "fal:ready:default", "mine"]);
    let told = "redis refuses a duty of the keeper duty=promote ";
    daemon.wait_log(told);
    the_keeper_does_what_comes_later(&mut world);
    let log = daemon.log_text();
    let line = log.lines().find(|line| line.contains(told)).unwrap();
    assert!(
        line.contains("WRONGTYPE") && line.contains(" key=fal:ready:default holds=string"),
        "{line}"
    );
    assert_eq!(daemon.logged(told), 1, "{log}");
    let _: u64 = world.redis(&["DEL", "fal:ready:default"]);
    world.wait_state("due", "done");
}

#[test]
fn a_beat_that_redis_refuses_is_told_of_once_and_so_is_its_end() {
    let (mut world, daemon) = World::running();
    world.not_audited(WHY);
    world.wait_idle();
    let _: String = world.redis(&["SET", "fal:workers", "mine"]);
    daemon.wait_log("redis refused a beat ");
    let refused = |world: &mut World| -> u64 {
        let stats: String = world.redis(&["INFO", "errorstats"]);
        let mut counts = stats
            .lines()
            .filter_map(|line| line.strip_prefix("errorstat_WRONGTYPE:count="));
        counts
            .next()
            .map_or(0, |count| count.trim().parse().unwrap())
    };
    let before = refused(&mut world);
    eventually(SOON, || refused(&mut world), |now| *now >= before + 8);
    let log = daemon.log_text();
    assert!(log.contains(" key=fal:workers holds=string "), "{log}");
    let _: u64 = world.redis(&["DEL", "fal:workers"]);
    daemon.wait_log("redis takes beats again after_s=");
    assert_eq!(daemon.logged("redis refused a beat"), 1, "{log}");
}

#[test]
fn an_entry_whose_record_would_lie_under_a_foreign_key_is_a_dead_letter_and_stops_nobody() {
    let mut world = World::new();
    world.not_audited(WHY);
    let _: String = world.redis(&["SET", "fal:job:bad", "mine"]);
    let entries = ["g1", "g2", "bad", "bad", "g3"].map(|id| job(id).chat(7).json());
    // All of them are there before anybody looks: one batch.
    world.push_all(&entries);
    let daemon = world.daemon(&["--threads", "2"]);
    for id in ["g1", "g2", "g3"] {
        world.wait_state(id, "done");
    }
    let failed = |world: &mut World| {
        let mut events = world.events();
        events.retain(|event| event["event"] == "failed");
        events
    };
    let failed = eventually(SOON, || failed(&mut world), |failed| failed.len() == 2);
    for event in &failed {
        assert_eq!(event["kind"], "invalid_job");
        assert_eq!(
            event["error"],
            "id: expected a record or nothing under fal:job:bad, found another type"
        );
        let id = event["job"].clone();
        assert!(id.starts_with("j-"), "{id}");
        let record = world.record(&id);
        assert!(record["raw"].contains("prompt of bad."), "{record:?}");
        assert_eq!(
            (record["state"].as_str(), record["user"].as_str()),
            ("dead", "7")
        );
    }
    let left: String = world.redis(&["GET", "fal:job:bad"]);
    assert_eq!(left, "mine");
    assert_eq!(world.events_of("g2").len(), world.events_of("g1").len());
    assert!(
        world
            .events()
            .iter()
            .all(|event| event["event"] != "duplicate")
    );
    assert_eq!(daemon.logged("redis refused"), 0, "{}", daemon.log_text());
    world.assert_clean();
}
