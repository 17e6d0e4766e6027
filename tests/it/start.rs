//! A start that cannot be finished: nothing is paid for by a daemon that is about to end.

use crate::support::{SOON, World, eventually, job, submits_of};
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

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

#[test]
fn a_daemon_that_cannot_start_the_threads_of_its_pool_of_connections_says_so() {
    let mut world = World::new();
    // There is room for one thread with so large a stack, which is the one that waits for signals, and no second.
    let mut daemon = world.spawn_with_large_stacks(&["--threads", "2"], 512, 850);
    assert_eq!(daemon.wait_exit(SOON), Some(70), "{}", daemon.log_text());
    let log = daemon.log_text();
    let said = "ERROR not started: cannot start the threads that open connections to Redis: ";
    assert!(log.contains(said) && !log.contains("panic"), "{log}");
}

#[test]
fn whatever_number_of_threads_a_user_may_have_no_start_panics() {
    // Only root may become somebody who has no threads yet.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut world = World::new();
    // Above ours may lie a folder that is root's alone.
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("fal-worker");
    std::fs::copy(env!("CARGO_BIN_EXE_fal-worker"), &program).unwrap();
    let mut codes = BTreeMap::new();
    for threads in 1..=20 {
        let mut daemon = world.spawn_with_few_threads(&program, &["--threads", "2"], threads);
        let code = eventually(
            SOON,
            || (daemon.ended(), daemon.logged(" ready ")),
            |(ended, ready)| ended.is_some() || *ready > 0,
        );
        let log = daemon.log_text();
        match code {
            // A container may have no other users.
            (Some(_), _) if log.starts_with("setpriv: ") => return,
            (Some(code), _) => {
                assert_eq!(code, Some(70), "{threads}: {log}");
                let why = "Resource temporarily unavailable (os error 11)";
                assert!(
                    log.contains("ERROR not started: cannot "),
                    "{threads}: {log}"
                );
                assert!(log.contains(why), "{threads}: {log}");
                assert!(!log.contains("panic"), "{threads}: {log}");
            }
            (None, _) => {
                daemon.stop();
            }
        }
        codes.insert(threads, code.0);
    }
    assert!(codes[&1].is_some() && codes[&20].is_none(), "{codes:?}");
}
