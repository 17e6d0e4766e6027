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

#[test]
fn a_daemon_allows_itself_the_open_files_it_may_need_and_says_where_it_may_not() {
    let mut world = World::new();
    let mut daemon = world.spawn_with_few_files(&["--threads", "4"], 40, 4096);
    daemon.wait_log(" ready ");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = files.unwrap().split_whitespace().collect();
    assert_eq!(words[3..5], ["4096", "4096"], "{limits}");
    let warning = "fewer files may be open than may be needed";
    assert_eq!(daemon.logged(warning), 0);
    assert_eq!(daemon.stop(), Some(0));

    let short = world.spawn_with_few_files(&["--threads", "4"], 40, 40);
    short.wait_log(&format!("{warning} limit=40 "));
    short.wait_log(" ready ");
    assert_eq!(short.logged(warning), 1);
}
