//! A pause for all workers: whose it is, what goes on in it, who ends it.

use crate::support::{SOON, World, eventually, job};
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

fn said(command: &mut Command) -> (String, i32) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    (text, output.status.code().unwrap())
}

fn paused_line(world: &World) -> String {
    let (text, _) = said(&mut world.cli(&["status"]));
    let line = text.lines().find(|line| line.starts_with("PAUSED"));
    line.unwrap_or_default().to_owned()
}

#[test]
fn a_pause_stops_all_workers_until_somebody_resumes_and_what_is_paid_goes_on() {
    let mut world = World::new();
    let workers = [(); 2].map(|()| world.daemon(&["--threads", "2"]));
    let hold = world.sandbox.fal.hold("fal.status");
    world.push(job("paid").json());
    world.wait_submitted("paid");
    let (text, code) = said(
        world
            .cli(&["pause", "--reason", "disk\nfull"])
            .env("USER", "eva"),
    );
    assert_eq!(
        (text.as_str(), code),
        (
            "paused until `resume`: no worker takes new jobs, and what fal has goes on\n",
            0
        )
    );
    world.push(job("new").json());
    hold.release();
    world.wait_state("paid", "done");
    world.wait_state("new", "queued");
    let (text, _) = said(&mut world.cli(&["status", "--json"]));
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["paused"]["reason"], "disk full");
    let by = status["paused"]["by"].as_str().unwrap();
    assert!(by.starts_with("eva@") && by.len() > 4, "{by}");
    assert_eq!(status["paused"]["until"], Value::Null);
    let line = paused_line(&world);
    let (head, reason) = line.split_once(" UTC: ").unwrap_or_default();
    assert_eq!(reason, "disk full", "{line}");
    assert!(
        head.starts_with(&format!("PAUSED by {by} since ")) && !head.contains("until"),
        "{line}"
    );
    for worker in &workers {
        worker.wait_log("pulling paused by=eva@");
    }
    let (text, code) = said(&mut world.cli(&["resume"]));
    assert_eq!(
        (text, code),
        (format!("resumed; it was paused by {by}: disk full\n"), 0)
    );
    world.wait_state("new", "done");
    for worker in &workers {
        worker.wait_log("pulling goes on");
    }
    assert_eq!(
        said(&mut world.cli(&["resume"])),
        ("nothing was paused\n".to_owned(), 0)
    );

    // For a time it ends by itself.
    let mut nobody = world.cli(&["pause", "--for", "1h", "--reason", "a test"]);
    assert_eq!(said(nobody.env("USER", "").env("LOGNAME", "")).1, 0);
    let line = paused_line(&world);
    let uid = std::fs::metadata("/proc/self").unwrap().uid();
    assert!(line.starts_with(&format!("PAUSED by uid {uid}@")), "{line}");
    let (_, until) = line.split_once(" UTC, until ").unwrap_or_default();
    assert!(until.ends_with(" UTC: a test"), "{line}");
    let (text, code) = said(&mut world.cli(&["pause", "--for", "2s", "--json"]));
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (line["outcome"].as_str(), line["for_ms"].as_u64(), code),
        (Some("paused"), Some(2000), 0)
    );
    // It may be over already, and has an end.
    let left: i64 = world.redis(&["PTTL", "fal:paused"]);
    assert!(left != -1 && left <= 2000, "{left}");
    world.push(job("waits").json());
    world.wait_state("waits", "done");
    assert!(!world.redis::<bool>(&["EXISTS", "fal:paused"]));
    for wrong in ["0s", "500d", "soon"] {
        assert_eq!(
            said(&mut world.cli(&["pause", "--for", wrong])).1,
            2,
            "{wrong}"
        );
    }
    world.assert_clean();
}

#[test]
fn an_empty_balance_does_not_end_a_persons_pause_and_a_person_may_end_a_workers() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "2"]);
    world.sandbox.fal.set_locked(true);
    world.push(job("a").json());
    let paused = |world: &mut World, name: &str| {
        let said: Option<String> = world.redis(&["HGET", "fal:paused", name]);
        said.unwrap_or_default()
    };
    eventually(
        SOON,
        || paused(&mut world, "reason"),
        |reason| reason.contains("no_balance"),
    );
    daemon.wait_log("reason=\"no_balance: ");
    let since = paused(&mut world, "since");
    let (text, _) = said(&mut world.cli(&["resume"]));
    assert!(text.contains("had paused by itself: no_balance"), "{text}");
    world.push(job("b").json());
    eventually(
        SOON,
        || paused(&mut world, "reason"),
        |reason| reason.contains("no_balance"),
    );
    // The same trouble, since the same time: it is told once.
    assert_eq!(paused(&mut world, "since"), since);
    assert_eq!(said(&mut world.cli(&["pause", "--reason", "we pay"])).1, 0);
    daemon.wait_log("reason=\"we pay\"");
    assert_eq!(daemon.logged("pulling paused"), 2);
    assert_eq!(
        (
            paused(&mut world, "reason").as_str(),
            world.redis::<i64>(&["TTL", "fal:paused"])
        ),
        ("we pay", -1)
    );
    world.sandbox.fal.set_locked(false);
    assert_eq!(said(&mut world.cli(&["resume"])).1, 0);
    // They wait their half minute, as after any refusal of the account.
    for id in ["a", "b"] {
        let hurried = |world: &mut World| {
            let _: u64 = world.redis(&["ZADD", "fal:later", "XX", "1", id]);
            world.state(id)
        };
        eventually(SOON, || hurried(&mut world), |state| state == "done");
    }
    world.assert_clean();
}
