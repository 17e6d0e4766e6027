//! Leaks of every kind, planted by hand under a running daemon: its audit mends and counts them, and
//! finds nothing where only daemons were at work (design section 3.8).

use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::Script;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Two ticks of the audit; and as much again, since the machine may be slow.
const TWO_TICKS: Duration = Duration::from_secs(20);

fn repairs(world: &mut World) -> BTreeMap<String, u64> {
    let stats: BTreeMap<String, String> = world.redis(&["HGETALL", "fal:stats"]);
    let repairs = stats.into_iter().filter_map(|(name, count)| {
        let kind = name.strip_prefix("repairs:")?.to_owned();
        Some((kind, count.parse().unwrap()))
    });
    repairs.collect()
}

/// A command as a person types it, whatever it answers.
fn by_hand(world: &mut World, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let _: redis::Value = world.redis(&words);
}

/// Waits until so much has been mended, and until the daemon has said so.
fn wait_mended(world: &mut World, daemon: &Daemon, kinds: &[(&str, u64)], within: Duration) {
    let expected: BTreeMap<String, u64> = kinds
        .iter()
        .map(|(kind, count)| ((*kind).to_owned(), *count))
        .collect();
    eventually(within, || repairs(world), |now| *now == expected);
    for (kind, _) in kinds {
        daemon.wait_log(&format!(" repaired kind={kind} count="));
    }
}

/// The audit has been through the whole store so many times more.
fn wait_audits(world: &mut World, audits: usize) {
    for _ in 0..audits {
        let at = |world: &mut World| {
            let fields: (Option<u64>, Option<u64>) =
                world.redis(&["HMGET", "fal:audit", "at", "open"]);
            fields
        };
        let (before, _) = at(world);
        let walked = |(now, open): &(Option<u64>, Option<u64>)| *now > before && open.is_none();
        eventually(SOON, || at(world), walked);
    }
}

fn taking(world: &World, generation: Duration) {
    let script = Script::default().taking(generation);
    world.sandbox.fal.model("fal-ai/flux/dev", script);
}

#[test]
fn what_stands_in_a_wrong_place_is_mended_and_counted_within_two_ticks() {
    let (mut world, daemon) = World::running();
    world.may_mend("leaks are planted");
    taking(&world, Duration::from_secs(3600));
    world.push(job("held").json());
    let request = world.wait_submitted("held");
    let soon = format!("{}", world.redis::<(u64, u64)>(&["TIME"]).0 + 3600);
    world.push(
        job("tomorrow")
            .with("not_before", soon.parse::<u64>().unwrap())
            .json(),
    );
    world.wait_state("tomorrow", "later");
    let planted = Instant::now();
    let instance = daemon.instance();
    for line in [
        "LPUSH fal:ready:low nobody",
        "ZADD fal:later 4000000000000 nobody",
        "ZREM fal:later tomorrow",
        &format!("HDEL fal:claims:{instance} held"),
        &format!("HSET fal:claims:{instance} nobody token"),
        "HSET fal:job:over v 1 state done",
    ] {
        by_hand(&mut world, line);
    }
    let kinds = [
        ("claim", 1),
        ("expiry", 1),
        ("later", 1),
        ("stale_claim", 1),
        ("unscheduled", 1),
    ];
    // A puller may take the id that is nobody's before the audit does.
    let counted = |world: &mut World| {
        let mut all = repairs(world);
        all.remove("ready");
        all
    };
    let expected: BTreeMap<String, u64> = kinds
        .iter()
        .map(|(kind, n)| ((*kind).to_owned(), *n))
        .collect();
    eventually(TWO_TICKS, || counted(&mut world), |now| *now == expected);
    eprintln!("mended after {:?}", planted.elapsed());
    for (kind, _) in kinds {
        daemon.wait_log(&format!(" repaired kind={kind} count=1"));
    }
    // The walk may have been past this list when the id was put there: then it is the next one's.
    eventually(
        TWO_TICKS,
        || world.redis::<u64>(&["EXISTS", "fal:ready:low"]),
        |lists| *lists == 0,
    );
    // The job that was put back never left its owner's hands.
    let record = world.record("held");
    assert_eq!(
        (record["state"].as_str(), record["request_id"].as_str()),
        ("running", request.as_str())
    );
    assert!(daemon.instance() == instance && daemon.logged("goes back") == 0);
    assert_eq!(submits_of(&world, "held"), 1);
    assert!(world.findings().is_empty());
    wait_audits(&mut world, 1);
    assert_eq!(counted(&mut world), expected, "and nothing more");
}

#[test]
fn an_id_that_is_nobodys_is_taken_out_of_a_list_that_nobody_pulls_from() {
    let (mut world, daemon) = World::running();
    world.may_mend("leaks are planted");
    by_hand(&mut world, "HSET fal:paused reason test");
    world.push(job("waits").json());
    world.wait_state("waits", "queued");
    for line in [
        "LPUSH fal:ready:high nobody",
        "RPUSH fal:ready:low waits",
        "HSET fal:job:over v 1 state done ended_at 1",
        "RPUSH fal:ready:default over",
    ] {
        by_hand(&mut world, line);
    }
    wait_mended(
        &mut world,
        &daemon,
        &[("expiry", 1), ("ready", 3)],
        TWO_TICKS,
    );
    assert!(world.findings().is_empty());
    by_hand(&mut world, "DEL fal:paused");
    world.wait_state("waits", "done");
}

#[test]
fn what_belongs_to_nobody_is_ready_again_and_deleted_at_the_second_look_and_ends_once() {
    let (mut world, mut other) = World::running();
    world.may_mend("leaks are planted");
    taking(&world, Duration::from_secs(5));
    let ids: Vec<String> = (0..12).map(|n| format!("p{n}")).collect();
    let entries: Vec<String> = ids.iter().map(|id| job(id).json()).collect();
    world.push_all(&entries);
    for id in &ids {
        world.wait_submitted(id);
    }
    // It is gone as nobody should be: without a trace of its death.
    other.signal("STOP");
    let lost = other.instance();
    let held = world.claims(&lost).len() as u64;
    for line in [
        &format!("ZREM fal:workers {lost}"),
        &format!("DEL fal:worker:{lost}"),
        "SET fal:spec:nobody {}",
        "SET fal:result:nobody {}",
    ] {
        by_hand(&mut world, line);
    }
    let unread = job("unread").json();
    let _: u64 = world.redis(&["LPUSH", "fal:taken:nobody~1", &unread]);
    other.kill();
    assert!(held > 0, "it held nothing");
    let daemon = world.daemon(&["--threads", "4"]);
    wait_mended(
        &mut world,
        &daemon,
        &[("orphan", 2), ("owner", held), ("taken", 1)],
        TWO_TICKS,
    );
    let all: Vec<String> = ids.into_iter().chain(["unread".to_owned()]).collect();
    let states = world.wait_ended(&all, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    for id in &all {
        assert_eq!(submits_of(&world, id), 1, "{id} was paid again");
    }
    world.assert_clean_after_kills();
}

#[test]
fn a_job_in_no_list_is_served_once_its_minute_is_over() {
    let (mut world, daemon) = World::running();
    world.may_mend("a leak is planted");
    plant_unlisted(&mut world);
    wait_suspected(&mut world);
    // The walk of a minute ago has seen it.
    by_hand(&mut world, "ZADD fal:suspects 1 unlisted");
    wait_mended(&mut world, &daemon, &[("unlisted", 1)], TWO_TICKS);
    world.wait_state("unlisted", "done");
    assert_eq!(submits_of(&world, "unlisted"), 1);
    world.assert_clean();
}

#[test]
#[ignore = "waits for more than a minute"]
fn a_job_in_no_list_is_served_within_two_minutes() {
    let (mut world, daemon) = World::running();
    world.may_mend("a leak is planted");
    plant_unlisted(&mut world);
    let planted = Instant::now();
    wait_mended(
        &mut world,
        &daemon,
        &[("unlisted", 1)],
        Duration::from_secs(120),
    );
    world.wait_state("unlisted", "done");
    eprintln!("served after {:?}", planted.elapsed());
}

fn plant_unlisted(world: &mut World) {
    let entry = job("unlisted").json();
    let _: u64 = world.redis(&[
        "HSET",
        "fal:job:unlisted",
        "v",
        "1",
        "state",
        "queued",
        "model",
        "fal-ai/flux/dev",
        "priority",
        "default",
        "attempt",
        "0",
        "life",
        "1",
        "queued_at",
        "1700000000000",
        "max_attempts",
        "3",
    ]);
    let _: String = world.redis(&["SET", "fal:spec:unlisted", &entry]);
}

fn wait_suspected(world: &mut World) {
    let suspects =
        |world: &mut World| world.redis::<Vec<String>>(&["ZRANGE", "fal:suspects", "0", "-1"]);
    eventually(SOON, || suspects(world), |now| now == &["unlisted"]);
}

#[test]
fn a_full_redis_is_asked_for_no_repair_and_gets_it_when_it_has_room() {
    let (mut world, daemon) = World::running();
    world.may_mend("a leak is planted");
    by_hand(&mut world, "ZADD fal:later 4000000000000 nobody");
    by_hand(&mut world, "CONFIG SET maxmemory 1");
    let before = repairs(&mut world);
    type Beats = Vec<(String, f64)>;
    let last = |world: &mut World| {
        let beats: Beats = world.redis(&["ZRANGE", "fal:workers", "0", "-1", "WITHSCORES"]);
        beats[0].1
    };
    let since = last(&mut world);
    eventually(SOON, || last(&mut world), |at| *at > since + 6000.0);
    assert_eq!(repairs(&mut world), before);
    assert_eq!(daemon.logged("redis refuses a duty"), 0);
    by_hand(&mut world, "CONFIG SET maxmemory 0");
    wait_mended(&mut world, &daemon, &[("later", 1)], TWO_TICKS);
}

#[test]
fn where_only_daemons_were_at_work_nothing_was_ever_mended() {
    let mut world = World::new();
    let script =
        Script::default().taking_between(Duration::from_millis(20), Duration::from_secs(9));
    world.sandbox.fal.model("fal-ai/flux/dev", script);
    let daemons: Vec<Daemon> = (0..2)
        .map(|_| world.daemon(&["--threads", "4", "--lease", "3s"]))
        .collect();
    let [mut killed, frozen] = <[Daemon; 2]>::try_from(daemons).ok().unwrap();
    let ids: Vec<String> = (0..200).map(|n| format!("c{n}")).collect();
    let entries: Vec<String> = ids
        .iter()
        .map(|id| job(id).with("max_attempts", 20).with("user_id", 7).json())
        .collect();
    world.push_all(&entries);
    eventually(
        SOON,
        || world.redis::<usize>(&["XLEN", "fal:events"]),
        |seen| *seen > 400,
    );
    killed.kill();
    let _restarted = world.daemon(&["--threads", "4", "--lease", "3s"]);
    wait_audits(&mut world, 1);
    // On a machine that stood still for a lease one may have been taken over before.
    let taken = |world: &mut World| world.redis::<u64>(&["ZCARD", "fal:gone"]);
    let before = taken(&mut world);
    frozen.signal("STOP");
    eventually(SOON, || taken(&mut world), |gone| *gone > before);
    frozen.signal("CONT");
    let states = world.wait_ended(&ids, Duration::from_secs(60));
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    wait_audits(&mut world, 2);
    assert_eq!(repairs(&mut world), BTreeMap::new());
    world.assert_clean_after_kills();
}

#[test]
fn the_auditor_of_the_tests_sees_what_was_planted() {
    let mut world = World::new();
    world.not_audited("every line plants something");
    let all: &[(&str, &str)] = &[
        (
            "HSET fal:job:a v 1 state running worker w~1 token t phase polling",
            "its owner's claim is",
        ),
        ("HSET fal:claims:w~1 a t", "nobody will take it back"),
        ("HSET fal:claims:w~2 a t", "is claimed by"),
        ("HSET fal:claims:w~1 a other", "its owner's claim is"),
        (
            "HSET fal:job:b v 1 state queued",
            "queued for default, but it stands in []",
        ),
        (
            "RPUSH fal:ready:high b",
            "queued for default, but it stands in [\"high\"]",
        ),
        (
            "RPUSH fal:ready:default b b",
            "it stands in [\"default\", \"default\", \"high\"]",
        ),
        (
            "RPUSH fal:ready:low nobody",
            "ready:low holds nobody, which is None",
        ),
        ("RPUSH fal:ready:strange b", "a list that nobody knows"),
        ("HSET fal:job:c v 1 state later", "later, but at no time"),
        (
            "ZADD fal:later 1 b",
            "later holds b, which is Some(\"queued\")",
        ),
        (
            "HSET fal:job:d v 1 state dead ended_at 1 phase telling",
            "not on the list of the dead",
        ),
        ("ZADD fal:dead 1 c", "dead holds c"),
        ("EXPIRE fal:job:c 100", "it will vanish under its owner"),
        ("SET fal:spec:d x", "the spec of a job that is over"),
        ("SET fal:result:nobody x", "its job is not known"),
        ("ZADD fal:workers 1 w~3", "w~3 lives, but it says of itself"),
        ("HSET fal:worker:w~4 name x", "not alive, and kept for ever"),
        ("HINCRBY fal:stats repairs:claim 1", "the audit mended"),
        ("SET fal:rubbish:x 1", "a key that nobody knows"),
    ];
    assert_eq!(world.findings(), Vec::<String>::new());
    for (line, finding) in all {
        by_hand(&mut world, line);
        let now = world.findings();
        assert!(
            now.iter().any(|text| text.contains(finding)),
            "{line}: {now:#?}"
        );
    }
}
