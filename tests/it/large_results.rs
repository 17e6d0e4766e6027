//! Results that are too large for a record: where they lie while they wait, and what is left of them when
//! the worker is gone.

use crate::support::{SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use std::collections::HashSet;
use std::time::Duration;

/// A model whose picture comes inside its result.
fn inline(world: &World, side: u32) {
    let picture = fal_worker::sandbox::media::png(side, side, Some(5));
    let script = Script::new(Outcome::DataUri(picture));
    world.sandbox.fal.model("case/inline", script);
}

fn push(world: &mut World, number: usize) -> Vec<String> {
    let ids: Vec<String> = (0..number)
        .map(|number| format!("large-{number}"))
        .collect();
    let entry = |(number, id): (usize, &String)| {
        let chat = 7_000 + i64::try_from(number).unwrap();
        job(id).model("case/inline").chat(chat).json()
    };
    let entries: Vec<String> = ids.iter().enumerate().map(entry).collect();
    world.push_all(&entries);
    ids
}

fn kept(world: &mut World) -> usize {
    world.redis::<Vec<String>>(&["KEYS", "fal:result:*"]).len()
}

fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.unwrap().parse::<u64>().unwrap() >> 10
}

#[test]
fn results_that_redis_cannot_take_fill_no_memory_beyond_a_limit() {
    const NUMBER: usize = 32;
    let mut world = World::new();
    inline(&world, 1000);
    world.sandbox.fal.set_slots(0);
    let daemon = world.daemon(&["--threads", "8"]);
    let ids = push(&mut world, NUMBER);
    for id in &ids {
        world.wait_submitted(id);
    }
    world.sandbox.redis.pause().unwrap();
    daemon.wait_log("redis lost");
    world.sandbox.fal.set_slots(1000);
    let fal = &world.sandbox.fal;
    eventually(SOON, || fal.totals().results, |n| *n >= 15);
    // Nothing more is to happen in this span, so there is nothing to wait for.
    std::thread::sleep(Duration::from_secs(3));
    let (fetched, resident) = (fal.totals().results, resident_mib(daemon.pid()));
    assert!(fetched <= 26, "{fetched} results in {resident} MiB"); // 64 MiB are 16, and one a thread
    world.sandbox.redis.resume().unwrap();
    let states = world.wait_ended(&ids, SOON * 2);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    assert_eq!(world.sandbox.fal.totals().submits, NUMBER as u64);
    println!("{fetched} results fetched meanwhile, {resident} MiB resident");
}

#[test]
fn results_that_wait_for_telegram_do_not_lie_in_memory() {
    let mut world = World::new();
    inline(&world, 600);
    let held = Rule::always("tg.sendphoto", Fault::telegram_429(3_600));
    world.sandbox.faults.add(held);
    let mut daemon = world.daemon(&["--threads", "4"]);
    push(&mut world, 150);
    eventually(SOON * 3, || kept(&mut world), |kept| *kept == 150);
    let all: Vec<String> = world.redis(&["KEYS", "fal:result:*"]);
    let bytes: u64 = all
        .iter()
        .map(|key| world.redis::<u64>(&["STRLEN", key]))
        .sum();
    assert!(bytes > 180 << 20, "{bytes}");
    let resident = eventually(SOON, || resident_mib(daemon.pid()), |mib| *mib < 90);
    println!("{} MiB of results, {resident} MiB resident", bytes >> 20);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn while_telegram_is_away_results_lie_in_redis_and_outlive_their_worker() {
    let mut world = World::new();
    inline(&world, 300);
    world
        .sandbox
        .faults
        .add(Rule::always("tg.*", Fault::ResetBeforeRead));
    let mut daemon = world.daemon(&["--threads", "4"]);
    let ids = push(&mut world, 30);
    eventually(SOON, || kept(&mut world), |kept| *kept == ids.len());
    daemon.wait_log("telegram lost");
    daemon.kill();
    world.sandbox.faults.clear();
    for id in &ids {
        let request = world.record(id).remove("request_id").unwrap();
        world.sandbox.fal.forget(&request);
    }
    let _next = world.daemon(&["--threads", "4"]);
    let states: HashSet<String> = world.wait_ended(&ids, SOON * 2).into_iter().collect();
    assert_eq!(states, HashSet::from(["done".to_owned()]));
    world.assert_clean_after_kills();
}

#[test]
fn a_result_that_waits_for_a_thread_that_uploads_it_outlives_its_worker_and_fals_memory() {
    let mut world = World::new();
    inline(&world, 300);
    let mut daemon = world.daemon(&["--threads", "4", "--transfer-threads", "2"]);
    let held = world.sandbox.telegram.hold("tg.sendphoto");
    let ids = push(&mut world, 12);
    for id in &ids {
        world.wait_field(id, "phase", "delivering");
    }
    // All are in Redis but what is being uploaded at this moment, and that too.
    assert!(held.wait_arrived(1, SOON));
    eventually(SOON, || kept(&mut world), |kept| *kept == ids.len());
    daemon.kill();
    held.release();
    for id in &ids {
        let request = world.record(id).remove("request_id").unwrap();
        world.sandbox.fal.forget(&request);
    }
    let _next = world.daemon(&["--threads", "4"]);
    let states: HashSet<String> = world.wait_ended(&ids, SOON).into_iter().collect();
    assert_eq!(states, HashSet::from(["done".to_owned()]));
    for id in &ids {
        assert_eq!(submits_of(&world, id), 1, "{id}");
    }
    assert_eq!(kept(&mut world), 0);
    world.assert_clean_after_kills();
}
