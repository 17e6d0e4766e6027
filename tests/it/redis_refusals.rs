//! A Redis that refuses claims or intake until somebody has looked: one line when it begins, with the reason
//! and what is in the way, and one when it is over.

use crate::support::{Daemon, SOON, World, eventually, job};

/// Calls that Redis refused so far for this reason.
fn refused(world: &mut World, word: &str) -> u64 {
    let stats: String = world.redis(&["INFO", "errorstats"]);
    let sign = format!("errorstat_{word}:count=");
    let count = stats.lines().find_map(|line| line.strip_prefix(&sign));
    count.map_or(0, |count| count.trim().parse().unwrap())
}

/// Waits until Redis has refused a few more calls.
fn goes_on(world: &mut World, word: &str) {
    let before = refused(world, word);
    eventually(SOON, || refused(world, word), |now| *now >= before + 8);
}

fn line_with(daemon: &Daemon, text: &str) -> String {
    let log = daemon.log_text();
    let line = log.lines().find(|line| line.contains(text));
    line.unwrap_or_else(|| panic!("no {text}: {log}"))
        .to_owned()
}

#[test]
fn a_key_in_the_way_of_claims_is_named_once_and_its_end_is_told() {
    let (mut world, daemon) = World::running();
    world.wait_idle();
    let _: String = world.redis(&["SET", "fal:ready:high", "mine"]);
    world.push(job("a").chat(7).json());
    daemon.wait_log("redis refused a claim");
    goes_on(&mut world, "WRONGTYPE");
    let line = line_with(&daemon, "redis refused a claim");
    assert!(
        line.contains("WRONGTYPE") && line.contains(" key=fal:ready:high holds=string "),
        "{line}"
    );
    assert!(line.contains("fal-worker check"), "{line}");
    assert_eq!(daemon.logged("redis refused a claim"), 1);
    let _: u64 = world.redis(&["DEL", "fal:ready:high"]);
    world.wait_state("a", "done");
    daemon.wait_log("redis takes claims again after_s=");
    assert_eq!(daemon.logged("redis takes claims again"), 1);
    assert_eq!(daemon.logged("redis refused a claim"), 1);
    world.assert_clean();
}

#[test]
fn a_key_in_the_place_of_the_inbox_is_named_once_and_its_end_is_told() {
    let (mut world, daemon) = World::running();
    world.wait_idle();
    let _: String = world.redis(&["SET", "fal:inbox", "mine"]);
    daemon.wait_log("redis refused an intake");
    goes_on(&mut world, "WRONGTYPE");
    let line = line_with(&daemon, "redis refused an intake");
    assert!(line.contains(" key=fal:inbox holds=string "), "{line}");
    assert_eq!(daemon.logged("redis refused an intake"), 1);
    let _: u64 = world.redis(&["DEL", "fal:inbox"]);
    daemon.wait_log("redis takes entries again after_s=");
    world.push(job("a").chat(7).json());
    world.wait_state("a", "done");
    assert_eq!(daemon.logged("redis takes entries again"), 1);
    world.assert_clean();
}

#[test]
fn rights_that_are_taken_away_are_told_once_and_so_is_their_return() {
    let mut world = World::new();
    let rule = ["ACL", "SETUSER", "few", "on", ">s3cret", "~fal:*", "+@all"];
    let _: String = world.redis(&rule);
    let url = world.sandbox.redis.url();
    world.redis_url = Some(url.replace("redis://", "redis://few:s3cret@"));
    let daemon = world.daemon(&["--threads", "2"]);
    world.wait_idle();
    let _: String = world.redis(&["ACL", "SETUSER", "few", "-evalsha"]);
    world.push(job("a").chat(7).json());
    // Each of them once it has waited for the last time.
    for what in ["redis refused a claim", "redis refused an intake"] {
        daemon.wait_log(what);
    }
    goes_on(&mut world, "NOPERM");
    for what in ["redis refused a claim", "redis refused an intake"] {
        assert_eq!(daemon.logged(what), 1, "{}", daemon.log_text());
        assert!(line_with(&daemon, what).contains("evalsha"));
    }
    let _: String = world.redis(&["ACL", "SETUSER", "few", "+evalsha"]);
    world.wait_state("a", "done");
    for what in ["redis takes claims again", "redis takes entries again"] {
        daemon.wait_log(what);
        assert_eq!(daemon.logged(what), 1, "{}", daemon.log_text());
    }
    world.assert_clean();
}

#[test]
fn who_may_not_wait_is_told_of_once_while_his_claims_go_well() {
    let mut world = World::new();
    let rule = ["ACL", "SETUSER", "few", "on", ">s3cret", "~fal:*", "+@all"];
    let _: String = world.redis(&rule);
    let url = world.sandbox.redis.url();
    world.redis_url = Some(url.replace("redis://", "redis://few:s3cret@"));
    let daemon = world.daemon(&["--threads", "2"]);
    world.wait_idle();
    let _: String = world.redis(&["ACL", "SETUSER", "few", "-brpop"]);
    daemon.wait_log("redis refused a claim");
    for id in ["a", "b", "c"] {
        world.push(job(id).chat(7).json());
        world.wait_state(id, "done");
    }
    goes_on(&mut world, "NOPERM");
    assert_eq!(daemon.logged("redis refused a claim"), 1);
    assert_eq!(daemon.logged("redis takes claims again"), 0);
    let _: String = world.redis(&["ACL", "SETUSER", "few", "+brpop"]);
    daemon.wait_log("redis takes claims again after_s=");
    world.assert_clean();
}
