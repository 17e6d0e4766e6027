//! The fragment of redis.conf that is shipped: a real server takes it and does as it says, and a worker on it
//! loses nothing when it is killed.

use crate::support::{SOON, World, job};
use fal_worker::sandbox::redis::RedisOptions;
use std::fs;
use std::path::Path;

/// Settings of the fragment: name and value, and the comment in front.
fn settings(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim);
    let settings = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    settings
        .map(|line| {
            let (name, value) = line.split_once(' ').unwrap();
            (name.to_owned(), value.trim_matches('"').to_owned())
        })
        .collect()
}

/// As `CONFIG GET` writes it.
fn in_bytes(value: &str) -> String {
    match value.strip_suffix("mb").map(str::parse::<u64>) {
        Some(Ok(mb)) => (mb << 20).to_string(),
        _ => value.to_owned(),
    }
}

#[test]
fn a_real_server_takes_the_fragment_and_a_worker_on_it_survives_its_death() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/redis-fal-worker.conf");
    let text = fs::read_to_string(&path).unwrap();
    let mut world = World::with(RedisOptions {
        append_only: false, // what the fragment says counts
        extra: vec!["--include".to_owned(), path.to_str().unwrap().to_owned()],
        ..RedisOptions::default()
    });
    let settings = settings(&text);
    assert!(settings.len() >= 12, "{settings:?}");
    for (name, value) in &settings {
        let said: Vec<String> = world.redis(&["CONFIG", "GET", name]);
        assert_eq!(said, [name.clone(), in_bytes(value)], "{name}");
    }
    for must in [
        "appendonly yes",
        "appendfsync everysec",
        "maxmemory-policy noeviction",
    ] {
        let (name, value) = must.split_once(' ').unwrap();
        assert!(
            settings.contains(&(name.to_owned(), value.to_owned())),
            "{must}"
        );
    }
    // Each line has its reason in front of it.
    let mut explained = false;
    for line in text.lines() {
        match line.trim() {
            "" => explained = false,
            comment if comment.starts_with('#') => explained = true,
            setting => assert!(explained, "{setting} has no reason"),
        }
    }

    let _daemon = world.daemon(&["--threads", "4"]);
    let _: u64 = world.redis(&["HSET", "fal:paused", "reason", "test"]);
    world.push(job("kept").chat(7).json());
    world.wait_state("kept", "queued");
    world.kill_redis();
    world.sandbox.redis.restart().unwrap();
    assert_eq!(world.state("kept"), "queued");
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    world.wait_ended(&["kept".to_owned()], SOON);
    world.assert_clean();
}
