//! An owner that is stopped, is taken over, and goes on: it finds out before it pays, sends or writes
//! anything more, whatever it was about to do; and what it did without knowing is put to use or undone.

use super::*;
use crate::support::redis_fault::{Scene, clock_a_day_ahead};

/// A daemon with a lease of three seconds that holds these jobs, and then another one that may judge it.
fn two_with_short_leases(world: &mut World, jobs: &[crate::support::Job]) -> (Daemon, Daemon) {
    two_with_leases_of("3s", world, jobs)
}

fn two_with_leases_of(
    lease: &str,
    world: &mut World,
    jobs: &[crate::support::Job],
) -> (Daemon, Daemon) {
    let more = ["--lease", lease, "--threads", "4"];
    let old = world.daemon(&more);
    let entries: Vec<String> = jobs.iter().map(|entry| entry.json()).collect();
    world.push_all(&entries);
    let claims = |world: &mut World| world.claims(&old.instance()).len();
    eventually(SOON, || claims(world), |held| *held == jobs.len());
    let new = world.daemon(&more);
    (old, new)
}

#[test]
fn frozen_for_less_than_its_lease_an_owner_goes_on_as_if_nothing_was() {
    let mut world = World::new();
    // In the midst of a job, however long the other one takes to start.
    let poll = world.sandbox.fal.hold("fal.status");
    let (old, new) = two_with_leases_of("15s", &mut world, &[job("a").chat(7)]);
    assert!(poll.wait_arrived(1, SOON));
    old.signal("STOP");
    // Two beats and more of the other one: it has noticed the silence, and it is no death. Most of the lease is left
    // to a test that stands still.
    let beat = |world: &mut World| world.redis::<f64>(&["ZSCORE", "fal:workers", &new.instance()]);
    let first = beat(&mut world);
    eventually(SOON, || beat(&mut world), |now| *now > first + 2500.0);
    old.signal("CONT");
    poll.release();
    world.wait_state("a", "done");
    assert_eq!(new.logged("took over") + old.logged("took over"), 0);
    assert_eq!((submits_of(&world, "a"), files_in(&world, 7)), (1, 1));
    world.assert_clean_after_kills();
}

#[test]
fn frozen_beyond_its_lease_an_owner_neither_writes_nor_pays_nor_sends_again() {
    let mut world = World::new();
    taking(&world, 1500);
    let sends = world
        .sandbox
        .telegram
        .hold_matching("tg.sendphoto", "\"chat_id\":8");
    world.sandbox.fal.model("case/poll", Script::default());
    let polls = world.sandbox.fal.hold_matching("fal.status", "case/poll");
    let jobs = [job("poll").chat(7).model("case/poll"), job("send").chat(8)];
    let (old, mut new) = two_with_short_leases(&mut world, &jobs);
    let owner = world.record("poll")["worker"].clone();
    assert_eq!(owner, old.instance());
    // One of its jobs is inside a send, the other inside a poll: that it is not paid or sent twice is
    // nobody's luck.
    assert!(polls.wait_arrived(1, SOON));
    assert!(sends.wait_arrived(1, SOON));
    old.signal("STOP");
    sends.release();
    polls.release();
    new.wait_log("took over");
    world.wait_ended(&["poll".into(), "send".into()], SOON);
    let before = world.record("send");

    old.signal("CONT");
    old.wait_log("this instance was taken over, it goes on under a new identity");
    assert_eq!(world.record("send"), before);
    // It is alive and works under its new name.
    assert_eq!(new.stop(), Some(0));
    world.push(job("later").chat(9).json());
    let record = world.wait_state("later", "done");
    assert_ne!(record.get("worker"), Some(&owner));
    assert_eq!(world.sandbox.fal.totals().submits, 3);
    assert_eq!((files_in(&world, 7), files_in(&world, 9)), (1, 1));
    assert_eq!(files_in(&world, 8), 2);
    assert_eq!(world.counted("resent_after_unknown"), 1);
    world.assert_clean_after_kills();
}

#[test]
fn a_late_request_id_of_a_frozen_owner_is_adopted_or_else_cancelled_at_fal() {
    let mut world = World::new();
    // The first request of each never ends by itself, but heeds a cancel.
    let never = Script {
        heeds_cancel: true,
        ..Script::new(Outcome::Never)
    };
    world.sandbox.fal.model("case/again", never);
    taking(&world, 200);
    let hold = world.sandbox.fal.hold("fal.submit");
    let jobs = [job("adopted"), job("again").model("case/again")];
    let (old, new) = two_with_short_leases(&mut world, &jobs);
    assert!(hold.wait_arrived(2, SOON));
    old.signal("STOP");
    hold.release();
    new.wait_log("took over");
    // Both wait for a late id; one of them has waited long enough.
    world.wait_field("adopted", "state", "later");
    world.wait_field("again", "state", "later");
    world.sandbox.fal.model("case/again", Script::default());
    let _: u64 = world.redis(&["ZADD", "fal:later", "1", "again"]);
    world.wait_state("again", "done");
    assert_eq!(world.state("adopted"), "later");

    old.signal("CONT");
    let record = world.wait_state("adopted", "done");
    assert_eq!(
        (submits_of(&world, "adopted"), record["attempt"].as_str()),
        (1, "1")
    );
    let first = world.sandbox.fal.submits_for("prompt of again.").remove(0);
    eventually(
        SOON,
        || world.sandbox.fal.request(&first.request_id),
        |request| request.as_ref().is_some_and(|request| request.cancelled),
    );
    assert_eq!(submits_of(&world, "again"), 2);
    assert_eq!(world.counted("resubmitted_after_unknown"), 1);
    old.wait_log("a second request of one job was cancelled at fal");
    world.assert_clean_after_kills();
}

#[test]
fn a_late_request_id_beats_the_submit_that_its_new_owner_is_making() {
    let mut world = World::new();
    world.sandbox.fal.model("case/race", Script::default());
    let first = world.sandbox.fal.hold("fal.submit");
    let (old, _new) = two_with_short_leases(&mut world, &[job("race").model("case/race")]);
    assert!(first.wait_arrived(1, SOON));
    old.signal("STOP");
    first.release();
    world.wait_field("race", "state", "later");
    // The second request would never end by itself, but heeds a cancel.
    world.sandbox.fal.model(
        "case/race",
        Script {
            heeds_cancel: true,
            ..Script::new(Outcome::Never)
        },
    );
    let second = world.sandbox.fal.hold("fal.submit");
    let _: u64 = world.redis(&["ZADD", "fal:later", "1", "race"]);
    assert!(second.wait_arrived(1, SOON));

    old.signal("CONT");
    let recorded = world.wait_submitted("race");
    second.release();
    let record = world.wait_state("race", "done");
    let submits = world.sandbox.fal.submits_for("prompt of race.");
    assert_eq!(submits.len(), 2);
    assert_eq!(
        (recorded.as_str(), record["request_id"].as_str()),
        (submits[0].request_id.as_str(), recorded.as_str())
    );
    let needless = submits[1].request_id.clone();
    eventually(
        SOON,
        || world.sandbox.fal.request(&needless),
        |request| request.as_ref().is_some_and(|request| request.cancelled),
    );
    assert_eq!(world.counted("resubmitted_after_unknown"), 1);
    world.assert_clean_after_kills();
}

#[test]
fn an_entry_that_a_frozen_daemon_took_from_the_inbox_goes_back() {
    let mut world = World::new();
    let old = world.daemon(&["--lease", "3s"]);
    let clients = |world: &mut World| world.redis::<String>(&["CLIENT", "LIST"]);
    // It asks anew every five seconds: it must not be stopped between two questions.
    let asks = |line: &str| line.contains("cmd=brpoplpush") && line.contains(" idle=0 ");
    eventually(SOON, || clients(&mut world), |list| list.lines().any(asks));
    old.signal("STOP");
    let taken = format!("fal:taken:{}", old.instance());
    world.push(job("a").json());
    eventually(
        SOON,
        || world.redis::<usize>(&["LLEN", &taken]),
        |entries| *entries == 1,
    );
    let _new = world.daemon(&["--lease", "3s"]);
    world.wait_state("a", "done");
    old.signal("CONT");
    old.wait_log("this instance was taken over");
    world.push(job("b").json());
    world.wait_state("b", "done");
    assert_eq!(world.sandbox.fal.totals().submits, 2);
    let names: Vec<_> = world
        .events_of("a")
        .into_iter()
        .map(|event| event["event"].clone())
        .collect();
    assert_eq!(
        names,
        ["queued", "started", "submitted", "completed", "done"]
    );
    world.assert_clean_after_kills();
}

/// Freezes a daemon while the answer of this call waits for it, until another one has its job.
fn frozen_before(label: &'static str, entry: &str) -> (World, Tap, Daemon, Daemon) {
    let lease = ["--lease", "3s"];
    let (mut world, tap, old) = tapped(&lease);
    tap.hold_at(At::Label(label), Side::After);
    world.push(entry);
    tap.wait_held(SOON);
    old.signal("STOP");
    tap.release(); // the answer is there once it goes on
    let new = world.daemon(&lease);
    new.wait_log("took over");
    (world, tap, old, new)
}

/// It goes on, works under a new name, and has done nothing more for the old one.
fn thaw(world: &mut World, old: &Daemon, mut new: Daemon) {
    let before = world.record("a");
    old.signal("CONT");
    old.wait_log("this instance was taken over, it goes on under a new identity");
    assert_eq!(new.stop(), Some(0));
    world.push(job("later").chat(9).json());
    world.wait_state("later", "done");
    assert_eq!(world.record("a"), before);
}

#[test]
fn frozen_while_its_claim_is_answered_an_owner_does_not_submit() {
    let (mut world, _tap, old, new) = frozen_before("claim", &job("a").chat(7).json());
    // The other one waits long, since the frozen one may be submitting: not here.
    world.wait_field("a", "state", "later");
    let _: u64 = world.redis(&["ZADD", "fal:later", "1", "a"]);
    world.wait_state("a", "done");
    thaw(&mut world, &old, new);
    assert_eq!((submits_of(&world, "a"), files_in(&world, 7)), (1, 1));
    world.assert_clean_after_kills();
}

#[test]
fn frozen_while_it_records_a_result_an_owner_does_not_send() {
    // The first write after the submit: the result and the intent to deliver it.
    let (mut world, _tap, old, new) = frozen_before("save", &job("a").chat(7).json());
    world.wait_state("a", "done");
    thaw(&mut world, &old, new);
    assert_eq!((submits_of(&world, "a"), files_in(&world, 7)), (1, 1));
    world.assert_clean_after_kills();
}

#[test]
fn frozen_beyond_its_lease_right_before_a_submit_an_owner_does_not_submit() {
    let lease = ["--lease", "3s", "--threads", "8"];
    let mut world = World::new();
    let tap = Tap::new(&world);
    tap.insert(&mut world, true);
    let old = world.daemon(&lease);
    tap.insert(&mut world, false);
    // Six submits fill the bulkhead; three more jobs are claimed and not begun.
    let submits = world.sandbox.fal.hold("fal.submit");
    let first: Vec<String> = (0..5).map(|n| format!("blocker-{n}")).collect();
    for (n, id) in first.iter().enumerate() {
        world.push(job(id).json());
        assert!(submits.wait_arrived(n + 1, SOON));
    }
    let four = ["a", "b", "c", "d"];
    world.push_all(&four.map(|id| job(id).json()));
    assert!(submits.wait_arrived(6, SOON));
    let held = |world: &mut World| world.claims(&old.instance()).len();
    eventually(SOON, || held(&mut world), |held| *held == 9);
    old.signal("STOP");
    tap.stall_beats(true);
    // Mostly the first of the four, but threads race for the last place.
    let is_begun = |id: &&str| submits_of(&world, id) == 1;
    let (begun, waiting): (Vec<&str>, Vec<&str>) = four.into_iter().partition(is_begun);
    assert_eq!((begun.len(), waiting.len()), (1, 3));
    submits.release();
    let mut new = world.daemon(&lease);
    new.wait_log("took over");
    let taken = |world: &mut World| world.redis::<usize>(&["ZCARD", "fal:later"]);
    eventually(SOON, || taken(&mut world), |taken| *taken == 9);

    // It goes on and does not know yet: only the age of its last beat tells.
    old.signal("CONT");
    // Reads that the signal interrupted may count as a Redis that is away, which only a beat ends: then it
    // writes nothing before the beats are let through.
    let all_home = |world: &mut World| first.iter().all(|id| world.state(id) == "done");
    eventually(
        SOON,
        || all_home(&mut world) || old.logged("redis lost") > 0,
        |home| *home,
    );
    tap.stall_beats(false);
    old.wait_log("this instance was taken over, it goes on under a new identity");
    for id in &first {
        world.wait_state(id, "done"); // its late request id came home
    }
    for id in waiting {
        assert_eq!(
            (submits_of(&world, id), world.state(id)),
            (0, "later".into())
        );
        let _: u64 = world.redis(&["ZADD", "fal:later", "1", id]);
    }
    for id in four {
        world.wait_state(id, "done");
        assert_eq!(submits_of(&world, id), 1);
    }
    assert_eq!(new.stop(), Some(0));
    world.assert_clean_after_kills();
}

#[test]
fn frozen_beyond_its_lease_right_before_a_send_an_owner_does_not_send() {
    let (mut world, tap, old) = tapped(&["--lease", "3s"]);
    let silence = Rule::first(1, "tg.sendphoto", Fault::telegram_429(2));
    let silence = world.sandbox.faults.add(silence);
    world.push(job("a").chat(7).json());
    let fired = || world.sandbox.faults.fired(silence);
    eventually(SOON, fired, |fired| *fired == 1);
    // Parked with its result; the send is due when it goes on.
    old.signal("STOP");
    tap.stall_beats(true);
    let new = world.daemon(&["--lease", "3s"]);
    new.wait_log("took over");
    world.wait_state("a", "done");
    assert_eq!(files_in(&world, 7), 1);

    old.signal("CONT");
    // Time enough to send: it takes note that Redis does not answer its beats.
    old.wait_log("redis lost");
    tap.stall_beats(false);
    thaw(&mut world, &old, new);
    assert_eq!((submits_of(&world, "a"), files_in(&world, 7)), (1, 1));
    world.assert_clean_after_kills();
}

#[test]
fn frozen_beyond_its_lease_while_it_asks_for_its_turn_an_owner_does_not_send() {
    let lease = ["--lease", "3s", "--telegram-rate", "30/1s"];
    let (mut world, tap, old) = tapped(&lease);
    tap.hold_at(At::Label("rate"), Side::After);
    world.push(job("a").chat(7).json());
    tap.wait_held(SOON);
    old.signal("STOP");
    tap.stall_beats(true);
    tap.release(); // the answer, that it may send now, is there once it goes on
    let new = world.daemon(&lease);
    new.wait_log("took over");
    world.wait_state("a", "done");
    assert_eq!(files_in(&world, 7), 1);

    old.signal("CONT");
    old.wait_log("redis lost");
    tap.stall_beats(false);
    thaw(&mut world, &old, new);
    assert_eq!((submits_of(&world, "a"), files_in(&world, 7)), (1, 1));
    world.assert_clean_after_kills();
}

#[test]
fn frozen_beyond_its_lease_inside_an_edit_an_owner_leaves_one_result_and_writes_nothing() {
    let lease = ["--lease", "3s"];
    let (mut world, tap, old) = tapped(&lease);
    let status = world.sandbox.telegram.plant_message(7, Kind::Text, false);
    tap.hold_at(At::Label("editmessagemedia"), Side::Before);
    world.push(
        job("a")
            .chat(7)
            .telegram("status_message_id", status)
            .json(),
    );
    tap.wait_held(SOON);
    old.signal("STOP");
    let new = world.daemon(&lease);
    new.wait_log("took over");
    world.wait_state("a", "done");
    tap.release(); // the old edit arrives after the new one
    thaw(&mut world, &old, new);
    let messages = world.sandbox.telegram.messages(7);
    assert_eq!((messages.len(), messages[0].id), (1, status));
    assert!(messages[0].file.is_some());
    world.assert_clean_after_kills();
}

#[test]
fn who_stood_still_for_a_day_without_knowing_wakes_no_job_that_has_ended() {
    let fault = clock_a_day_ahead();
    let mut scene = Scene::of(&fault);
    let lease = ["--lease", "3s"];
    let old = scene.world.daemon(&lease);
    let looks = scene.world.sandbox.fal.hold("fal.status");
    scene.world.push(job("a").chat(7).json());
    assert!(looks.wait_arrived(1, SOON));
    old.signal("STOP");
    let new = scene.world.daemon(&lease);
    new.wait_log("took over");
    looks.release();
    scene.world.wait_state("a", "done");
    // Only Redis's clock knows: the machine was saved, and goes on.
    (fault.begin)(&mut scene);
    let mark = format!("fal:worker:{}", old.instance());
    let marked = |scene: &mut Scene| scene.world.redis::<usize>(&["EXISTS", &mark]);
    eventually(SOON, || marked(&mut scene), |marked| *marked == 0);
    old.signal("CONT");
    old.wait_log("this instance was taken over, it goes on under a new identity");
    scene.world.push(job("b").chat(8).json());
    scene.world.wait_state("b", "done");
    assert_eq!(old.logged("redis forgot"), 0, "{}", old.log_text());
    let state: Option<String> = scene.world.redis(&["HGET", "fal:job:a", "state"]);
    assert_ne!(state.as_deref(), Some("running"));
    assert_eq!(files_in(&scene.world, 7), 1);
}

/// As if another worker had judged it, and given way: its jobs are anybody's again, and so its own.
fn judged_dead(world: &mut World, instance: &str) {
    let script = "local now = redis.call('TIME')[1] * 1000
        redis.call('ZREM', 'fal:workers', ARGV[1])
        redis.call('HSET', 'fal:worker:' .. ARGV[1], 'dead', now, 'by', 'another', 'cause', 'lapsed')
        redis.call('EXPIRE', 'fal:worker:' .. ARGV[1], 86400)
        return redis.call('ZADD', 'fal:gone', now, ARGV[1])";
    assert_eq!(world.redis::<u64>(&["EVAL", script, "0", instance]), 1);
}

#[test]
fn a_job_that_its_old_owner_claimed_again_is_known_beside_the_old_flight_in_the_transfer_line() {
    let mut world = World::new();
    let refusal = Fault::telegram_429(300);
    let refused = Rule::always("tg.*", refusal).for_requests_with("880001");
    world.sandbox.faults.add(refused);
    let worker = world.daemon(&[
        "--lease",
        "3s",
        "--threads",
        "4",
        "--transfer-threads",
        "1",
        "--delivery",
        "upload",
    ]);
    // Its old flight stays to the end: with more flights than claims the worker looks at what it holds.
    world.push(job("parked").chat(880_001).json());
    worker.wait_log("telegram held");
    let downloads = world.sandbox.fal.hold("file.*");
    world.push(job("moves").chat(7).json());
    assert!(downloads.wait_arrived(1, SOON));
    world.push(job("waits").chat(8).json());
    world.wait_field("waits", "phase", "delivering");

    let old = worker.instance();
    judged_dead(&mut world, &old);
    worker.wait_log("this instance was taken over, it goes on under a new identity");
    let mut names = || world.redis::<Vec<String>>(&["ZRANGE", "fal:workers", "0", "-1"]);
    let new = eventually(SOON, &mut names, |names| names.len() == 1).remove(0);
    eventually(SOON, || world.claims(&new).len(), |held| *held == 3);
    let beat = |world: &mut World| world.redis::<f64>(&["ZSCORE", "fal:workers", &new]);
    // The new flights stand in line behind the old ones.
    let claimed = beat(&mut world);
    eventually(SOON, || beat(&mut world), |now| *now > claimed + 500.0);
    // Of its claims one is about to move bytes and one waits, after both old flights have ended.
    let again = world.sandbox.fal.hold("file.*");
    downloads.release();
    assert!(again.wait_arrived(1, SOON));
    // Every other beat it compares what it holds with its claims, and gives back what it has missed twice.
    let ended = beat(&mut world);
    eventually(SOON, || beat(&mut world), |now| *now > ended + 3500.0);
    let log = worker.log_text();
    assert!(
        !log.contains("a claim whose answer was lost goes back"),
        "{log}"
    );
    again.release();
    world.wait_ended(&["moves".into(), "waits".into()], SOON);
    assert_eq!((files_in(&world, 7), files_in(&world, 8)), (1, 1));
}
