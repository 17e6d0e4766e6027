//! A job that takes the process down with it: only the job whose step was executing is charged a crash,
//! the third makes it a dead letter, and no job that was parked at the time goes with it.

use crate::support::{Daemon, SOON, World, job, submits_of};
use fal_worker::sandbox::fal::Script;
use fal_worker::sandbox::faults::Hold;
use std::time::Duration;

/// A daemon with a step file.
fn with_step_file(world: &mut World) -> Daemon {
    world.daemon(&["--threads", "4"])
}

/// Twenty jobs whose requests wait at fal, parked at long distances.
fn parked(world: &mut World) -> Vec<String> {
    let slow = Script::default().taking(Duration::from_secs(3600));
    world.sandbox.fal.model("case/slow", slow);
    let ids: Vec<String> = (0..20).map(|n| format!("parked-{n}")).collect();
    let entries: Vec<String> = ids
        .iter()
        .map(|id| job(id).model("case/slow").chat(830_000).json())
        .collect();
    world.push_all(&entries);
    for id in &ids {
        world.wait_submitted(id);
    }
    ids
}

/// Three times: the step of the one job is held at the stand-in, and the process is killed in it. Nothing
/// else of this job may happen in between.
fn kill_in_its_step_three_times(world: &mut World, hold: impl Fn(&World) -> Hold, entry: &str) {
    let mut daemon = with_step_file(world);
    let ids = parked(world);
    let mut held = hold(world);
    world.push(entry);
    for kills in 1..=3 {
        assert!(held.wait_arrived(1, SOON), "kill {kills}");
        daemon.kill();
        drop(held);
        held = hold(world);
        daemon = with_step_file(world);
    }
    let record = world.wait_state("poison", "dead");
    assert_eq!(record["kind"], "crashed", "{record:?}");
    assert_eq!(record["crashes"], "3", "{record:?}");
    drop(held);
    for id in &ids {
        let record = world.wait_state(id, "running");
        // One whose status was just being asked when the process died is charged too, but not to the end.
        let crashes = record.get("crashes").map(String::as_str);
        assert!(matches!(crashes, None | Some("1" | "2")), "{record:?}");
        assert_eq!(
            (record["attempt"].as_str(), submits_of(world, id)),
            ("1", 1)
        );
    }
    drop(daemon);
    // What fal has of them is good: it only has to end.
    let requests: Vec<String> = ids
        .iter()
        .map(|id| world.record(id)["request_id"].clone())
        .collect();
    assert_eq!(requests.len(), 20);
}

#[test]
fn a_job_whose_look_at_the_status_kills_the_process_three_times_is_dead_and_takes_nobody_with_it() {
    let mut world = World::new();
    world.sandbox.fal.model("case/poison", Script::default());
    kill_in_its_step_three_times(
        &mut world,
        |world| {
            world
                .sandbox
                .fal
                .hold_matching("fal.status", "case/poison/")
        },
        &job("poison").model("case/poison").json(),
    );
    assert_eq!(submits_of(&world, "poison"), 1);
    // It was at fal: nobody knows whether it cost anything.
    assert_eq!(world.record("poison")["charged"], "unknown");
}

#[test]
fn a_job_whose_send_kills_the_process_three_times_is_dead_and_takes_nobody_with_it() {
    let mut world = World::new();
    kill_in_its_step_three_times(
        &mut world,
        |world| world.sandbox.telegram.hold("tg.sendphoto"),
        &job("poison").chat(830_001).json(),
    );
    assert_eq!(submits_of(&world, "poison"), 1);
    assert_eq!(world.record("poison")["charged"], "yes");
}

#[test]
fn three_kills_while_everything_is_parked_charge_nobody_a_crash_and_all_jobs_are_done() {
    let mut world = World::new();
    world.sandbox.fal.set_slots(0);
    let mut daemon = with_step_file(&mut world);
    let ids: Vec<String> = (0..20).map(|n| format!("p{n}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    for id in &ids {
        world.wait_submitted(id);
    }
    for _ in 0..3 {
        daemon.kill();
        daemon = with_step_file(&mut world);
    }
    world.sandbox.fal.set_slots(100);
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    assert_eq!(world.sandbox.fal.totals().submits, 20);
    world.assert_clean_after_kills();
}

#[test]
fn without_a_step_file_three_kills_in_its_polls_give_no_job_up() {
    let mut world = World::new();
    world.sandbox.fal.model("case/poison", Script::default());
    let flags = ["--threads", "4", "--state-dir", "off"];
    let mut daemon = world.daemon(&flags);
    let mut held = world
        .sandbox
        .fal
        .hold_matching("fal.status", "case/poison/");
    world.push(job("a").model("case/poison").json());
    for _ in 0..4 {
        assert!(held.wait_arrived(1, SOON));
        daemon.kill();
        drop(held);
        held = world
            .sandbox
            .fal
            .hold_matching("fal.status", "case/poison/");
        daemon = world.daemon(&flags);
    }
    drop(held);
    let record = world.wait_state("a", "done");
    assert_eq!(
        (record["attempt"].as_str(), submits_of(&world, "a")),
        ("1", 1)
    );
    world.assert_clean_after_kills();
}
