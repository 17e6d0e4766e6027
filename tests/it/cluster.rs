//! A Redis Cluster: the keys have one slot, so one master serves them. The slot moves, the master restarts.

use crate::support::load::{
    assert_load_ended, assert_load_ended_with, in_full_swing, push_load, taking, while_it_lasts,
    works_at_once,
};
use crate::support::topology::{Cluster, ask, works_at_once_on_another_model};
use crate::support::{Daemon, SOON, World, eventually};
use std::process::Output;
use std::time::{Duration, Instant};

const IN_SLOT: [&str; 2] = ["--namespace", "{fal}"];

/// The servers first: what is declared last is dropped first, and the world looks at them in the end.
fn started() -> (Cluster, World) {
    let cluster = Cluster::start();
    let mut world = World::new();
    world.namespace = "{fal}";
    world.redis_url = Some(cluster.url());
    world.look_at(&cluster.node_url(cluster.owner("{fal}")));
    (cluster, world)
}

fn cli(world: &World, cluster: &Cluster, args: &[&str]) -> Output {
    let mut command = world.cli(args);
    command
        .env("REDIS_URL", cluster.url())
        .env("FAL_WORKER_NAMESPACE", "{fal}");
    command.output().unwrap()
}

#[test]
fn the_slot_moves_under_load_and_every_job_is_done_once() {
    slot_moves_under_load(60, 1, (300, 1500));
}

#[test]
#[ignore = "takes a minute"]
fn the_slot_moves_ten_times_under_load() {
    slot_moves_under_load(3000, 10, (500, 10_000));
}

fn slot_moves_under_load(jobs: usize, rounds: usize, generation: (u64, u64)) {
    let (cluster, mut world) = started();
    let daemons = [
        world.daemon(&[&IN_SLOT[..], &["--threads", "8"]].concat()),
        world.daemon(&[&IN_SLOT[..], &["--threads", "8"]].concat()),
    ];
    let shown = format!("redis={} ", cluster.url());
    assert_eq!(daemons[0].logged(&shown), 1, "{}", daemons[0].log_text());
    // What people ask finds the slot the same way; wherever the first node sends it.
    let out = cli(&world, &cluster, &["status", "--json"]);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains(r#""instance":"test~"#), "{out:?}");
    let out = cli(
        &world,
        &cluster,
        &["enqueue", "--model", "fal-ai/flux/dev", "--wait"],
    );
    assert_eq!(out.status.code(), Some(0), "{out:?}");

    taking(&world, generation.0, generation.1);
    let ids = push_load(&mut world, jobs);
    in_full_swing(&mut world, jobs);
    let slot = cluster.slot("{fal}");
    for round in 1..=rounds {
        let from = cluster.owner("{fal}");
        let to = (from + 1) % 3;
        const MOVES: &str = "redis lost reason=\"the slot of our keys is being moved";
        let away = |daemon: &Daemon| {
            let (lost, back) = (daemon.logged("redis lost"), daemon.logged("redis back"));
            lost != back
        };
        eventually(SOON, || daemons.iter().any(away), |away| !away);
        let before: Vec<usize> = daemons.iter().map(|daemon| daemon.logged(MOVES)).collect();
        let began = Instant::now();
        cluster.begin_move(slot, from, to);
        // Half of the keys here, half there: what a script meets in the middle of a move.
        let keys: u64 = world.redis(&["DBSIZE"]);
        let mut moved = 0;
        while (moved as u64) < keys / 2 {
            moved += cluster.move_keys(slot, from, to, 10);
        }
        for (daemon, before) in daemons.iter().zip(&before) {
            eventually(SOON, || daemon.logged(MOVES), |lost| lost > before);
        }
        let out = cli(&world, &cluster, &["enqueue", "--model", "fal-ai/flux/dev"]);
        assert_eq!(out.status.code(), Some(69), "{out:?}");
        while_it_lasts(Duration::from_millis(500));
        let rest = Instant::now();
        loop {
            let n = cluster.move_keys(slot, from, to, 100);
            if n == 0 {
                break;
            }
            moved += n;
        }
        cluster.end_move(slot, to);
        world.look_at(&cluster.node_url(to));
        let ended = Instant::now();
        eventually(SOON, || daemons.iter().any(away), |away| !away);
        eprintln!(
            "round {round}: {moved} keys moved in {:?} (the second half in {:?}), both are back {:?} after it",
            ended - began,
            ended - rest,
            ended.elapsed()
        );
        if round < rounds {
            while_it_lasts(Duration::from_secs(1)); // some work between two moves
        }
    }
    assert_load_ended_with(&mut world, &ids, 1);
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
    works_at_once_on_another_model(&mut world);
    world.assert_clean();
}

/// What the key that never exists is for: without it a script whose own keys are all here still runs, and
/// stops at the first one that has gone.
#[test]
fn while_the_slot_moves_a_script_that_names_a_missing_key_does_not_begin() {
    let cluster = Cluster::start();
    let (slot, from) = (cluster.slot("{fal}"), cluster.owner("{fal}"));
    let port = cluster.nodes[from].port();
    let half = "redis.call('SET', KEYS[1], 'half done') return redis.call('GET', ARGV[1])";
    let _: String = ask(port, &["SET", "{fal}:a", "before"]).unwrap();
    cluster.begin_move(slot, from, (from + 1) % 3);
    let run = |keys: &[&str]| {
        let count = keys.len().to_string();
        let words = [&["EVAL", half, &count], keys, &["{fal}:gone"]].concat();
        let refused = ask::<Option<String>>(port, &words).expect_err("a key is missing");
        let value: String = ask(port, &["GET", "{fal}:a"]).unwrap();
        (refused.code().unwrap_or_default().to_owned(), value)
    };
    let (word, value) = run(&["{fal}:a", "{fal}:never"]);
    assert!(word == "ASK" || word == "TRYAGAIN", "{word}");
    assert_eq!(value, "before");
    let (word, value) = run(&["{fal}:a"]);
    assert_eq!((&*word, &*value), ("ERR", "half done"));
}

#[test]
fn a_master_that_restarts_under_load_costs_no_job() {
    let (mut cluster, mut world) = started();
    let daemon = world.daemon(&[&IN_SLOT[..], &["--threads", "8"]].concat());
    taking(&world, 300, 1500);
    let ids = push_load(&mut world, 40);
    in_full_swing(&mut world, 40);
    let node = cluster.owner("{fal}");
    let _: String = world.redis(&["CONFIG", "SET", "appendfsync", "always"]);
    cluster.nodes[node].kill();
    daemon.wait_log("redis lost");
    cluster.nodes[node].restart().unwrap();
    cluster.wait_ok();
    daemon.wait_log("redis back");
    assert_load_ended(&mut world, &ids);
    works_at_once(&mut world, "after");
    world.assert_clean();
}

#[test]
fn what_cannot_lie_in_one_slot_is_refused_at_start() {
    let mut world = World::new();
    world.redis_url = Some("redis-cluster://127.0.0.1:1".to_owned());
    for (flags, says) in [
        (
            &[][..],
            "--namespace (FAL_WORKER_NAMESPACE): in a Redis Cluster all keys must have one slot",
        ),
        (
            &["--namespace", "{fal}", "--inbox", "jobs"][..],
            "--inbox (FAL_WORKER_INBOX): \"jobs\" has another slot of the cluster than the namespace",
        ),
    ] {
        let mut daemon = world.spawn(flags, &[]);
        assert_eq!(daemon.wait_exit(SOON), Some(78));
        assert!(daemon.log_text().contains(says), "{}", daemon.log_text());
    }
}
