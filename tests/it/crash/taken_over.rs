//! Who takes the jobs of a dead daemon, how soon, and which: at once where it is known to be dead, only after
//! its lease where it may live.

use super::*;

/// Twenty jobs that one daemon holds while fal works on them; killed, and `next` starts.
fn twenty_parked(world: &mut World, daemon: &mut Daemon) -> Vec<String> {
    taking(world, 1500);
    let ids: Vec<String> = (0..20).map(|n| format!("p{n}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    for id in &ids {
        world.wait_submitted(id);
    }
    daemon.kill();
    ids
}

#[test]
fn after_a_kill_and_a_restart_on_the_same_host_work_resumes_at_once() {
    let (mut world, mut daemon) = World::running();
    let ids = twenty_parked(&mut world, &mut daemon);

    let started = Instant::now();
    let next = world.daemon(&[]);
    let log = next.log_text();
    let (before, _) = log.split_once(" ready ").unwrap();
    assert!(before.contains("took over"), "{log}");
    for id in &ids {
        let mine = next.instance();
        let owned = |record: &std::collections::BTreeMap<String, String>| {
            record["state"] == "done" || record.get("worker") == Some(&mine)
        };
        eventually(SOON, || world.record(id), owned);
    }
    // Else they would lie there for a lease, which is half a minute.
    let took = started.elapsed();
    assert!(took < Duration::from_secs(15), "took {took:?}");
    world.wait_ended(&ids, SOON);
    assert_eq!(world.sandbox.fal.totals().submits, 20);
    world.assert_clean_after_kills();
}

#[test]
fn a_living_daemon_takes_the_jobs_of_one_killed_on_its_host_before_the_lease_lapses() {
    let (mut world, mut daemon) = World::running();
    let other = world.daemon(&[]); // both with the usual lease of 30 s
    let ids = twenty_parked(&mut world, &mut daemon);
    let killed = Instant::now();
    other.wait_log("took over");
    assert!(
        killed.elapsed() < Duration::from_secs(20),
        "took {:?}",
        killed.elapsed()
    );
    world.wait_ended(&ids, SOON);
    assert_eq!(world.sandbox.fal.totals().submits, 20);
    world.assert_clean_after_kills();
}

#[test]
fn a_daemon_of_another_host_is_taken_over_within_its_lease_and_three_seconds() {
    // That is said of a machine that does not stand still meanwhile: of three times one is enough.
    let mut spans = Vec::new();
    let in_time = |took: &Duration| *took < Duration::from_secs(6);
    while spans.len() < 3 && !spans.last().is_some_and(in_time) {
        spans.push(on_another_host());
    }
    assert!(spans.last().is_some_and(in_time), "took {spans:?}");
}

/// Gives the time from the death to the takeover.
fn on_another_host() -> Duration {
    let mut world = World::new();
    let mut daemon = world.daemon(&["--lease", "3s"]);
    world.as_if_on_another_host(&daemon.instance());
    let ids = twenty_parked(&mut world, &mut daemon);
    let killed = Instant::now();
    // Another host has no step file of it.
    let other = world.daemon(&["--lease", "3s", "--state-dir", "off"]);
    other.wait_log("took over");
    let took = killed.elapsed();
    assert!(
        took >= Duration::from_secs(2),
        "a lease that had not lapsed: {took:?}"
    );
    world.wait_ended(&ids, SOON);
    assert_eq!(world.sandbox.fal.totals().submits, 20);
    let taken: Vec<_> = world
        .events()
        .into_iter()
        .filter(|e| e["event"] == "taken_over")
        .collect();
    assert_eq!(taken.len(), 1, "{taken:?}");
    world.assert_clean_after_kills();
    took
}

#[test]
fn two_daemons_of_one_name_never_share_claims_and_one_dies_alone() {
    let mut world = World::new();
    let mut one = world.daemon(&["--threads", "2"]);
    let two = world.daemon(&["--threads", "2"]);
    let (first, second) = (one.instance(), two.instance());
    assert!(first != second && first.starts_with("test~") && second.starts_with("test~"));

    let submits = world.sandbox.fal.hold("fal.submit");
    let statuses = world.sandbox.fal.hold("fal.status");
    let ids: Vec<String> = (0..8).map(|n| format!("t{n}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    assert!(submits.wait_arrived(2, SOON)); // one place at fal of each: both work
    let (of_one, of_two) = (world.claims(&first), world.claims(&second));
    assert!(!of_one.is_empty() && !of_two.is_empty());
    assert!(of_one.keys().all(|id| !of_two.contains_key(id)));
    submits.release();
    for id in &ids {
        // A job that its daemon has not begun yet waits behind the held polls.
        eventually(
            SOON,
            || submits_of(&world, id) == 1 || statuses.arrived() >= 2,
            |seen| *seen,
        );
    }
    one.signal("STOP"); // what it holds now is what it leaves
    let (of_one, of_two) = (world.claims(&first), world.claims(&second));
    one.kill();
    two.wait_log("took over");
    let after = world.claims(&second);
    assert!(
        of_two
            .iter()
            .all(|(id, token)| after.get(id) == Some(token)),
        "{of_two:?} {after:?}"
    );
    assert!(two.log_text().contains(&format!("jobs={}", of_one.len())));
    statuses.release();
    world.wait_ended(&ids, SOON);
    let again = world.counted("resubmitted_after_unknown");
    assert!(world.sandbox.fal.totals().submits <= 8 + again);
    world.assert_clean_after_kills();
}

#[test]
fn killed_between_burying_another_and_taking_his_jobs_they_wait_no_longer_for_it() {
    let mut world = World::new();
    let mut first = world.daemon(&["--threads", "4"]);
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    first.kill();
    hold.release();
    // Its successor dies with the instance marked dead and its claims still there.
    let tap = Tap::new(&world);
    tap.insert(&mut world, true);
    tap.count();
    tap.stop_at(At::Label("take_back"), Side::Before);
    let mut second = world.spawn(&[], &[]);
    tap.wait_held(SOON);
    second.kill();
    tap.cut();
    assert_eq!(world.state("a"), "running");
    tap.insert(&mut world, false);

    let began = Instant::now();
    let _third = world.daemon(&[]);
    world.wait_state("a", "done");
    // The two seconds of a submit whose owner is certainly dead, not the half minute of one that may live.
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(world.counted("resubmitted_after_unknown"), 1);
    world.assert_clean_after_kills();
}
