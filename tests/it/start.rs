//! A start that cannot be finished: nothing is paid for by a daemon that is about to end.

use crate::support::{SOON, World, eventually, job, submits_of};
use std::collections::BTreeMap;

#[test]
fn a_daemon_that_cannot_start_all_its_threads_takes_no_job_and_says_why() {
    let mut world = World::new();
    let ids: Vec<String> = (0..20).map(|number| format!("j{number}")).collect();
    let entries: Vec<String> = ids.iter().map(|id| job(id).json()).collect();
    // Ready to be claimed by the first thread that asks.
    let mut usual = world.daemon(&["--threads", "2"]);
    assert!(world.cli(&["pause"]).status().unwrap().success());
    world.push_all(&entries);
    eventually(
        SOON,
        || world.redis::<usize>(&["LLEN", "fal:ready:default"]),
        |ready| *ready == ids.len(),
    );
    usual.stop();
    assert!(world.cli(&["resume"]).status().unwrap().success());

    let mut said_why = 0;
    for _ in 0..5 {
        let mut daemon = world.spawn_in_little_memory(&["--threads", "500"], 200);
        let code = daemon.wait_exit(SOON);
        let log = daemon.log_text();
        assert!(
            !log.contains(" ready ") && !log.contains("job started"),
            "{log}"
        );
        // Where the stacks leave nothing at all, a thread may end the process before it is told of.
        if code.is_some() {
            assert_eq!(code, Some(70), "{log}");
            assert!(
                log.contains("ERROR not started: cannot start thread "),
                "{log}"
            );
            said_why += 1;
        }
    }
    assert!(said_why > 0);
    assert_eq!(world.sandbox.fal.totals().submits, 0);

    let _daemon = world.daemon(&["--threads", "4"]);
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    for id in &ids {
        assert_eq!(submits_of(&world, id), 1, "{id}");
    }
    // Nor was any of it laid to a job.
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
    let owned =
        |event: &&BTreeMap<String, String>| event["event"] == "taken_over" && event["jobs"] != "0";
    assert_eq!(world.events().iter().filter(owned).count(), 0);
    world.assert_clean();
}
