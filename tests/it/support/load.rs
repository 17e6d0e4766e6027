//! Load of three kinds of jobs, and what must be true of it at its end, whatever happened meanwhile.

use super::{SOON, World, eventually, job};
use fal_worker::sandbox::fal::Script;
use fal_worker::sandbox::telegram::Kind;
use std::time::{Duration, Instant};

/// An idle worker takes a new job within this time after an outage is over.
pub const AT_ONCE: Duration = Duration::from_secs(4);

/// fal's generations of the default model take between so many milliseconds.
pub fn taking(world: &World, least: u64, most: u64) {
    let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
    let script = Script::default().taking_between(least, most);
    world.sandbox.fal.model("fal-ai/flux/dev", script);
}

/// Load: so many jobs of three kinds in turn; chats count from 1000.
pub fn push_load(world: &mut World, jobs: usize) -> Vec<String> {
    let ids: Vec<String> = (0..jobs).map(|n| format!("r{n}")).collect();
    let entries: Vec<String> = (0..jobs)
        .map(|n| {
            let (entry, chat) = (job(&ids[n]).with("max_attempts", 20), 1000 + n as i64);
            match n % 3 {
                0 => {
                    let status = world
                        .sandbox
                        .telegram
                        .plant_message(chat, Kind::Text, false);
                    entry
                        .chat(chat)
                        .telegram("status_message_id", status)
                        .telegram("ping", "never") // a long outage is no reason to expect two messages
                        .json()
                }
                1 => entry.chat(chat).json(),
                _ => entry.json(),
            }
        })
        .collect();
    world.push_all(&entries);
    ids
}

/// All ended well, and whatever was paid or shown twice is counted.
pub fn assert_load_ended(world: &mut World, ids: &[String]) {
    let states = world.wait_ended(ids, Duration::from_secs(60));
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    let again = world.counted("resubmitted_after_unknown");
    let resent = world.counted("resent_after_unknown");
    let submits = world.sandbox.fal.totals().submits;
    assert!(
        submits <= ids.len() as u64 + again,
        "{submits} submits, {again} counted"
    );
    assert_shown(world, ids, resent);
    world.assert_clean();
}

pub fn assert_shown(world: &World, ids: &[String], resent: u64) {
    let mut extra = 0;
    for (n, id) in ids.iter().enumerate() {
        let visible = world.sandbox.telegram.messages(1000 + n as i64).len() as u64;
        match n % 3 {
            0 => assert_eq!(visible, 1, "messages of {id}"),
            1 => {
                assert!(visible >= 1, "{id} was never delivered");
                extra += visible - 1;
            }
            _ => assert_eq!(visible, 0),
        }
    }
    assert!(
        extra <= resent,
        "{extra} messages too many, {resent} counted"
    );
}

/// Waits until the load is in full swing: about so many events were written.
pub fn in_full_swing(world: &mut World, events: usize) {
    eventually(
        SOON,
        || world.redis::<usize>(&["XLEN", "fal:events"]),
        |seen| *seen >= events,
    );
}

/// The idle daemon takes and ends a new job at once.
pub fn works_at_once(world: &mut World, id: &str) {
    let pushed = Instant::now();
    world.push(job(id).json());
    let state = |world: &mut World| world.state(id);
    eventually(AT_ONCE, || state(world), |state| state == "done");
    eprintln!("{id}: done {:?} after its push", pushed.elapsed());
}

/// Lets a fault last: its length is what is tested.
pub fn while_it_lasts(length: Duration) {
    let until = Instant::now() + length;
    while let Some(left) = until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        std::thread::park_timeout(left);
    }
}

/// As [`assert_load_ended`], with jobs beside the load.
pub fn assert_load_ended_with(world: &mut World, ids: &[String], beside: u64) {
    let states = world.wait_ended(ids, Duration::from_secs(60));
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    assert_eq!(
        world.sandbox.fal.totals().submits,
        ids.len() as u64 + beside
    );
    let resent = world.counted("resent_after_unknown");
    assert_shown(world, ids, resent);
    world.assert_clean();
}

/// Jobs parked with their request at fal.
pub fn parked(world: &mut World, jobs: usize) -> Vec<String> {
    taking(world, 2000, 3000);
    let ids = push_load(world, jobs);
    for id in &ids {
        world.wait_submitted(id);
    }
    ids
}

/// The same where a daemon was stopped without a Redis that takes what it knows: its successor may look at
/// the status of a request whose result the other had read, and pay or send again what is counted.
pub fn assert_load_ended_after_a_stop(world: &mut World, ids: &[String]) {
    let states = world.wait_ended(ids, Duration::from_secs(60));
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    let again = world.counted("resubmitted_after_unknown");
    let resent = world.counted("resent_after_unknown");
    let submits = world.sandbox.fal.totals().submits;
    assert!(
        submits <= ids.len() as u64 + again,
        "{submits} submits, {again} counted"
    );
    assert_shown(world, ids, resent);
    world.assert_clean_after_kills();
}
