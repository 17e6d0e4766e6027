//! Redis over a Unix socket: the same load, the same outages, the same commands.

use crate::support::fair::works_at_once;
use crate::support::load::{assert_load_ended, in_full_swing, push_load, taking};
use crate::support::{SOON, World, eventually};
use fal_worker::sandbox::redis::RedisOptions;

#[test]
fn over_a_unix_socket_a_load_survives_a_killed_redis_and_ends_once() {
    let mut world = World::with(RedisOptions {
        unix_socket: true,
        ..RedisOptions::default()
    });
    let socket = world
        .sandbox
        .redis
        .url()
        .replace("unix://", "redis+unix://");
    world.redis_url = Some(format!("{socket}?db=0"));
    let mut daemon = world.daemon(&["--threads", "8"]);
    taking(&world, 20, 1500);
    let ids = push_load(&mut world, 60);
    in_full_swing(&mut world, 120);
    world.kill_redis();
    let lost = || daemon.logged("redis lost");
    eventually(SOON, lost, |lost| *lost == 1);
    world.sandbox.redis.restart().unwrap();
    assert_load_ended(&mut world, &ids);
    assert_eq!(world.sandbox.fal.totals().submits, 60);
    works_at_once(&mut world, "after");
    let clients: String = world.redis(&["CLIENT", "LIST"]);
    assert!(
        clients.lines().all(|line| line.contains("redis.sock:0")),
        "{clients}"
    );
    let status = world
        .cli(&["status"])
        .env("REDIS_URL", format!("{socket}?db=0"))
        .output();
    let status = status.unwrap();
    assert!(status.status.success());
    assert!(String::from_utf8_lossy(&status.stdout).contains("redis+unix:///"));
    assert_eq!(daemon.stop(), Some(0));
}
