//! How the Redis is set that a start meets: what no waiting mends ends it with one line and 78, and what
//! would cost jobs one day is said once.

use crate::support::proxy::Proxy;
use crate::support::{Daemon, SOON, World, eventually, job};

const EVICTS: &str = "WARN  redis may evict keys";
const NO_AOF: &str = "WARN  redis has no AOF";

/// The one line of a start that was refused.
fn refusal(daemon: &mut Daemon) -> String {
    let code = daemon.wait_exit(SOON);
    let log = daemon.log_text();
    assert_eq!(code, Some(78), "{log}");
    let lines: Vec<&str> = log.lines().collect();
    assert!(
        lines.len() == 1 && lines[0].contains("configuration refused: --redis-url: "),
        "{log}"
    );
    lines[0].to_owned()
}

#[test]
fn a_redis_that_is_too_old_is_one_clear_line_and_exit_78() {
    let mut world = World::new();
    let about: String = world.redis(&["INFO", "server"]);
    let (_, version) = about.split_once("redis_version:").unwrap();
    let version = version.lines().next().unwrap().trim();
    let old = format!("5{}", &version[1..]);
    let proxy = Proxy::to(&world.sandbox.redis.url());
    proxy.say_instead(
        &format!("redis_version:{version}"),
        &format!("redis_version:{old}"),
    );
    world.redis_url = Some(format!("redis://{}", proxy.address()));
    let mut daemon = world.spawn(&["--threads", "2"], &[]);
    let line = refusal(&mut daemon);
    assert!(line.contains(&old) && line.contains("6.0.16"), "{line}");
    // Nothing was written into a Redis that cannot be worked with.
    assert_eq!(world.redis::<u64>(&["DBSIZE"]), 0);
}

#[test]
fn a_database_that_is_not_there_is_one_clear_line_and_exit_78() {
    let mut world = World::new();
    let url = format!("{}/99", world.sandbox.redis.url());
    world.redis_url = Some(url.clone());
    let mut daemon = world.spawn(&["--threads", "2"], &[]);
    let line = refusal(&mut daemon);
    assert!(line.contains("database"), "{line}");
    // The commands say so too.
    let status = world.cli(&["status"]).env("REDIS_URL", &url).output();
    assert_eq!(status.unwrap().status.code(), Some(78));
}

#[test]
fn a_redis_with_clients_enough_is_waited_for_in_any_database() {
    let mut world = World::new();
    let url = world.sandbox.redis.url();
    world.redis_url = Some(format!("{url}/1"));
    // This test's own connection is the one that is let in.
    let _: String = world.redis(&["CONFIG", "SET", "maxclients", "1"]);
    let daemon = world.spawn(&["--threads", "2"], &[]);
    daemon.wait_log("redis lost");
    let _: String = world.redis(&["CONFIG", "SET", "maxclients", "1000"]);
    daemon.wait_log(" ready ");
}

#[test]
fn a_redis_that_evicts_or_keeps_nothing_is_told_of_once_at_the_start() {
    let mut world = World::new();
    let _: String = world.redis(&["CONFIG", "SET", "appendonly", "no"]);
    let _: String = world.redis(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let daemon = world.daemon(&["--threads", "2"]);
    let log = daemon.log_text();
    assert_eq!(daemon.logged("WARN"), 2, "{log}");
    let hint = |warning: &str| {
        let line = log.lines().find(|line| line.contains(warning));
        line.unwrap_or_else(|| panic!("no {warning}: {log}"))
            .split_once(" hint=")
            .unwrap()
            .1
    };
    assert!(hint(EVICTS).contains("maxmemory-policy noeviction"));
    assert!(hint(NO_AOF).contains("appendonly yes"));
    // Not again where it comes back.
    world.sandbox.redis.restart().unwrap();
    let _: String = world.redis(&["CONFIG", "SET", "appendonly", "no"]);
    daemon.wait_log("redis back");
    world.push(job("after").json());
    world.wait_state("after", "done");
    assert_eq!((daemon.logged(EVICTS), daemon.logged(NO_AOF)), (1, 1));
}

#[test]
fn a_redis_that_is_set_well_gets_no_warning() {
    let (mut world, daemon) = World::running();
    assert_eq!(daemon.logged("WARN"), 0, "{}", daemon.log_text());
    // To ask was one call; the others are one for each connection.
    let calls = |world: &mut World| -> i64 {
        let stats: String = world.redis(&["INFO", "ALL"]);
        let number = |name: &str| -> i64 {
            let behind = stats.lines().find_map(|line| line.strip_prefix(name));
            let digits = behind.unwrap().split(',').next().unwrap();
            digits.trim().parse().unwrap()
        };
        // One may be opened at any time: when two threads ask at once for the first time.
        number("cmdstat_info:calls=") - number("total_connections_received:")
    };
    world.wait_idle();
    let before = calls(&mut world);
    let beats = |world: &mut World| {
        let instance: Vec<String> = world.redis(&["ZRANGE", "fal:workers", "0", "0", "WITHSCORES"]);
        instance[1].clone()
    };
    let mut last = beats(&mut world);
    for _ in 0..3 {
        last = eventually(SOON, || beats(&mut world), |beat| *beat != last);
    }
    assert_eq!(calls(&mut world), before + 1, "this test's own alone");
}
