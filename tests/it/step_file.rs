//! The step file: what a killed worker was doing, and what it knew and Redis did not, is known to the next
//! process of its host (design section 4).

use crate::support::load::{assert_shown, push_load, taking, while_it_lasts};
use crate::support::proxy::{Flow, Proxy};
use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

const FOUR: [&str; 2] = ["--threads", "4"];

#[test]
fn a_request_id_that_redis_never_got_outlives_its_worker() {
    let (mut world, _) = killed_with_an_id_of_its_own();
    let mut next = world.daemon(&FOUR);
    let record = world.wait_state("a", "done");
    assert_eq!(
        (record["attempt"].as_str(), record["charged"].as_str()),
        ("1", "yes")
    );
    assert_eq!(submits_of(&world, "a"), 1);
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
    let submitted: Vec<_> = (world.events_of("a").into_iter())
        .filter(|event| event["event"] == "submitted")
        .collect();
    assert_eq!(submitted.len(), 1, "{submitted:?}");
    assert_eq!(submitted[0]["request_id"], record["request_id"]);
    assert_eq!(next.stop(), Some(0));
    assert!(world.step_files().is_empty(), "{:?}", world.step_files());
    world.assert_clean_after_kills();
}

/// Jobs whose last write waits for those of others, by the slots beyond those of the threads.
fn waiting_ends(file: &Path, threads: usize) -> Vec<String> {
    const PLACE: usize = 16 << 10; // of the header and of each slot
    let bytes = fs::read(file).unwrap();
    let mut jobs = Vec::new();
    for slot in bytes.chunks(PLACE).skip(1 + threads) {
        let Some(head) = slot.get(..8) else { continue };
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let text = String::from_utf8_lossy(slot.get(8..8 + len).unwrap_or_default());
        if let Some(id) = text
            .strip_prefix("wend\n")
            .and_then(|it| it.split("fal:job:").nth(1))
        {
            jobs.push(id.split('\r').next().unwrap().to_owned());
        }
    }
    jobs
}

/// Of a job that ends while others do, Redis hears a moment later, together with those.
#[test]
fn an_end_that_waits_for_others_outlives_its_worker() {
    let mut world = World::new();
    let flags = ["--threads", "8", "--transfer-threads", "1"];
    taking(&world, 0, 0);
    let ids = push_load(&mut world, 1500);
    let mut killed = 0;
    let mut waited = Vec::new();
    while waited.is_empty() {
        let mut daemon = world.daemon(&flags);
        let file = world.step_file(&daemon.instance(), "steps");
        let waiting = || waiting_ends(&file, 9);
        eventually(SOON, waiting, |ids| !ids.is_empty());
        daemon.kill();
        killed += 1;
        waited = waiting();
        // What lies in a slot may have come to Redis right before the kill.
        waited.retain(|id| world.state(id) != "done");
        assert!(killed < 20, "no end waits in full swing");
    }
    let _last = world.daemon(&flags);
    let states = world.wait_ended(&ids, 2 * SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    for id in &waited {
        let number: i64 = id[1..].parse().unwrap();
        let shown = world.sandbox.telegram.messages(1000 + number).len();
        assert_eq!(shown, 1, "{id}: what its last owner knew was lost");
        let done = world.events_of(id).into_iter();
        assert_eq!(
            done.filter(|event| event["event"] == "done").count(),
            1,
            "{id}"
        );
    }
    let resent = world.counted("resent_after_unknown");
    assert!(
        resent <= 8 * killed,
        "{resent} sent again after {killed} kills"
    );
    assert_shown(&world, &ids, resent);
    world.assert_clean_after_kills();
}

#[test]
fn a_step_file_is_found_though_the_answer_to_the_first_beat_was_lost() {
    let mut world = World::new();
    let proxy = Proxy::to(&world.sandbox.redis.url());
    world.redis_url = Some(format!("redis://{}/0", proxy.address()));
    proxy.hold_with(Flow::Answers, "test~"); // a beat tells the name of the most silent instance: ours
    let mut daemon = world.spawn(&FOUR, &[]);
    proxy.wait_held(SOON);
    proxy.cut_held();
    daemon.wait_log(" ready ");
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    world.kill_redis();
    hold.release();
    let polls = |world: &World| world.sandbox.fal.totals().polls;
    eventually(SOON, || polls(&world), |polls| *polls > 0);
    daemon.kill();
    world.sandbox.redis.restart().unwrap();

    world.redis_url = None;
    let mut next = world.daemon(&FOUR);
    world.wait_state("a", "done");
    assert_eq!(submits_of(&world, "a"), 1);
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
    assert_eq!(next.stop(), Some(0));
    assert!(world.step_files().is_empty(), "{:?}", world.step_files());
    world.assert_clean_after_kills();
}

#[test]
fn a_message_whose_delivery_redis_never_got_is_not_sent_again() {
    let (mut world, mut daemon) = World::running();
    world.sandbox.telegram.add_chat(7);
    let hold = world.sandbox.telegram.hold("tg.sendphoto");
    world.push(job("a").chat(7).json());
    assert!(hold.wait_arrived(1, SOON));
    world.kill_redis();
    hold.release();
    let writes = |world: &World| {
        let files = world.step_files();
        let lens = files
            .iter()
            .filter(|path| path.extension().is_some_and(|end| end == "writes"));
        lens.map(|path| fs::metadata(path).map_or(0, |about| about.len()))
            .sum::<u64>()
    };
    eventually(SOON, || writes(&world), |bytes| *bytes > 0);
    daemon.kill();
    // What lies there is read by people too: no key, no token, no prompt.
    for path in world.step_files() {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        let (key, token) = (world.sandbox.fal.key(), world.sandbox.telegram.token());
        for secret in [key.as_str(), token.as_str(), "prompt of a."] {
            assert!(!text.contains(secret), "{path:?} holds {secret}");
        }
    }
    world.sandbox.redis.restart().unwrap();

    let _next = world.daemon(&FOUR);
    world.wait_state("a", "done");
    assert_eq!(world.sandbox.telegram.sends_count(), 1);
    assert_eq!(world.counted("resent_after_unknown"), 0);
    world.assert_clean_after_kills();
}

#[test]
fn of_the_jobs_in_hand_only_those_inside_a_submit_count_as_perhaps_paid() {
    let (mut world, mut daemon) = World::running();
    let hold = world.sandbox.fal.hold("fal.submit");
    let ids: Vec<String> = (0..12).map(|n| format!("b{n}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    // Two are inside, as many as of four threads may be; more are claimed and wait for a place.
    assert!(hold.wait_arrived(2, SOON));
    daemon.kill();
    hold.release();

    let _next = world.daemon(&FOUR);
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    assert_eq!(world.counted("resubmitted_after_unknown"), 2);
    let attempts: Vec<_> = ids
        .iter()
        .map(|id| world.record(id)["attempt"].clone())
        .collect();
    assert_eq!(
        attempts.iter().filter(|attempt| *attempt == "2").count(),
        2,
        "{attempts:?}"
    );
    world.assert_clean_after_kills();
}

#[test]
fn a_living_daemon_of_the_host_reads_the_file_of_a_killed_one_too() {
    let mut world = World::new();
    let mut first = world.daemon(&FOUR);
    let hold = world.sandbox.fal.hold("fal.submit");
    let ids: Vec<String> = (0..6).map(|n| format!("c{n}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    assert!(hold.wait_arrived(2, SOON));
    let second = world.daemon(&FOUR);
    first.kill();
    hold.release();
    second.wait_log("took over");
    world.wait_ended(&ids, SOON);
    assert_eq!(world.counted("resubmitted_after_unknown"), 2);
    let gone = world.step_file(&first.instance(), "steps");
    eventually(SOON, || gone.exists(), |exists| !exists);
    world.assert_clean_after_kills();
}

#[test]
fn bots_that_share_a_host_never_read_each_others_files() {
    let (mut world, mut daemon) = World::running();
    let mut other = World::new();
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    daemon.kill();
    hold.release();
    let folder = world.state_dir();
    let shared = ["--state-dir", folder.to_str().unwrap()];
    let mut stranger = other.daemon(&shared);
    assert_eq!(stranger.stop(), Some(0));
    assert!(world.step_file(&daemon.instance(), "steps").exists());
    let _next = world.daemon(&FOUR);
    world.wait_state("a", "done");
    assert_eq!(world.counted("resubmitted_after_unknown"), 1);
    world.assert_clean_after_kills();
    other.assert_clean();
}

#[test]
fn a_paid_request_whose_job_redis_forgot_meanwhile_is_named_in_the_log() {
    let (mut world, mut daemon) = World::running();
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    world.kill_redis();
    hold.release();
    eventually(
        SOON,
        || world.sandbox.fal.totals().polls,
        |polls| *polls > 0,
    );
    daemon.kill();
    world.sandbox.redis.restart().unwrap();
    let _: String = world.redis(&["FLUSHALL"]);

    let next = world.daemon(&FOUR);
    let request = world.sandbox.fal.submits()[0].request_id.clone();
    next.wait_log(&format!(
        "does not know the job of a paid request any more job=a request={request}"
    ));
    assert_eq!(world.redis::<u64>(&["EXISTS", "fal:store"]), 1);
}

#[test]
fn a_frozen_daemon_keeps_its_file_and_is_judged_by_its_lease() {
    let mut world = World::new();
    world
        .sandbox
        .fal
        .set_generation(Duration::from_secs(60), Duration::from_secs(60));
    let short = ["--threads", "4", "--lease", "3s"];
    let first = world.daemon(&short);
    world.push(job("a").json());
    let request = world.wait_submitted("a");
    first.signal("STOP");
    let second = world.daemon(&short);
    second.wait_log("took over");
    world.wait_field("a", "worker", &second.instance());
    for daemon in [&first, &second] {
        assert!(world.step_file(&daemon.instance(), "steps").exists());
    }
    first.signal("CONT");
    first.wait_log("was taken over");
    assert_eq!(world.record("a")["request_id"], request);
    assert_eq!(submits_of(&world, "a"), 1);
}

#[test]
fn a_clean_stop_leaves_no_file_and_a_bad_folder_is_78() {
    let (mut world, mut daemon) = World::running();
    world.push(job("a").json());
    world.wait_state("a", "done");
    assert!(world.step_file(&daemon.instance(), "steps").exists());
    assert_eq!(daemon.stop(), Some(0));
    assert!(world.step_files().is_empty());

    let link = world.folder.path().join("link");
    std::os::unix::fs::symlink(world.state_dir(), &link).unwrap();
    let output = world
        .command(&["--state-dir", link.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("--state-dir (FAL_WORKER_STATE_DIR): ") && said.contains("is a link"),
        "{said}"
    );
}

#[test]
fn a_submit_that_a_full_disk_left_unnoted_counts_as_perhaps_paid() {
    let mut world = World::new();
    // The header fits, and no slot does.
    let mut daemon = world.spawn_on_a_full_disk(&FOUR, 16 << 10);
    daemon.wait_log(" ready ");
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    daemon.wait_log("the step file cannot be written");
    daemon.kill();
    hold.release();

    let _next = world.daemon(&FOUR);
    world.wait_state("a", "done");
    assert_eq!(submits_of(&world, "a"), 2);
    assert_eq!(world.counted("resubmitted_after_unknown"), 1);
    world.assert_clean_after_kills();
}

#[test]
fn a_message_whose_write_another_version_cannot_make_again_counts_as_perhaps_sent() {
    let (mut world, mut daemon) = World::running();
    world.sandbox.telegram.add_chat(7);
    let hold = world.sandbox.telegram.hold("tg.sendphoto");
    world.push(job("a").chat(7).json());
    assert!(hold.wait_arrived(1, SOON));
    world.kill_redis();
    hold.release();
    let journal = |world: &World| {
        let mut files = world.step_files().into_iter();
        files.find(|path| {
            path.extension().is_some_and(|end| end == "writes")
                && fs::metadata(path).is_ok_and(|about| about.len() > 0)
        })
    };
    let journal = eventually(SOON, || journal(&world), Option::is_some).unwrap();
    daemon.kill();
    // Its one write: length, checksum, the script's name, a line feed, the command.
    let mut bytes = fs::read(&journal).unwrap();
    assert!(bytes[8..].starts_with(b"end\n"), "{bytes:?}");
    bytes[8..11].copy_from_slice(b"fin");
    let sum = crc32fast::hash(&bytes[8..]);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    fs::write(&journal, bytes).unwrap();
    world.sandbox.redis.restart().unwrap();

    let next = world.daemon(&FOUR);
    next.wait_log("of another version could not be made again");
    world.wait_state("a", "done");
    assert_eq!(world.sandbox.telegram.sends_count(), 2);
    assert_eq!(world.counted("resent_after_unknown"), 1);
    world.assert_clean_after_kills();
}

#[test]
fn a_claim_whose_answer_was_lost_at_the_stop_was_never_begun() {
    let (mut world, mut daemon) = World::running();
    let (mine, token) = (daemon.instance(), "0123456789abcdef-0");
    // What a claim leaves whose answer nobody got; so late that the keeper cannot give it back any more.
    let spec = job("a").json();
    let _: String = world.redis(&["SET", "fal:spec:a", &spec]);
    let record = [
        "HSET",
        "fal:job:a",
        "v",
        "1",
        "state",
        "running",
        "phase",
        "submitting",
        "token",
        token,
        "seq",
        "0",
        "worker",
        &mine,
        "model",
        "fal-ai/flux/dev",
        "priority",
        "default",
        "attempt",
        "0",
        "max_attempts",
        "1",
        "queued_at",
        "1",
        "life",
        "1",
    ];
    let _: u64 = world.redis(&record);
    let _: u64 = world.redis(&["HSET", &format!("fal:claims:{mine}"), "a", token]);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(world.claims(&mine).len(), 1);

    let _next = world.daemon(&FOUR);
    let record = world.wait_state("a", "done");
    assert_eq!(record["attempt"], "1");
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
}

#[test]
fn while_needless_requests_of_a_dead_worker_are_cancelled_beats_go_on_and_a_stop_does_not_wait() {
    let mut world = World::new();
    world.not_audited("the test ends jobs by hand");
    let mut first = world.daemon(&FOUR);
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push_all(&[job("a").json(), job("b").json()]);
    assert!(hold.wait_arrived(2, SOON));
    let mut second = world.daemon(&FOUR);
    second.signal("STOP");
    world.kill_redis();
    hold.release();
    let dead = world.step_file(&first.instance(), "steps");
    let known = |world: &World| {
        let file = String::from_utf8_lossy(&fs::read(&dead).unwrap()).into_owned();
        let journal = fs::read(dead.with_extension("writes")).unwrap();
        let both = file + &String::from_utf8_lossy(&journal);
        let submits = world.sandbox.fal.submits();
        (submits.iter())
            .filter(|one| both.contains(&one.request_id))
            .count()
    };
    eventually(SOON, || known(&world), |ids| *ids == 2);
    first.kill();
    world.sandbox.redis.restart().unwrap();
    for id in ["a", "b"] {
        let record = format!("fal:job:{id}");
        let _: u64 = world.redis(&["HSET", &record, "state", "cancelled"]);
        let _: u64 = world.redis(&["HDEL", &format!("fal:claims:{}", first.instance()), id]);
    }

    let hold = world.sandbox.fal.hold("fal.cancel");
    second.signal("CONT");
    assert!(hold.wait_arrived(1, SOON));
    let mine = second.instance();
    let mut beat = || world.redis::<f64>(&["ZSCORE", "fal:workers", &mine]);
    let before = beat();
    // The cancel is given up after ten seconds: whoever waited for it would beat again then.
    eventually(Duration::from_secs(8), &mut beat, |now| {
        *now > before + 1500.0
    });
    second.wait_log("took over");
    let began = Instant::now();
    assert_eq!(second.stop(), Some(0));
    // Else it would take the ten seconds that a stop has.
    assert!(began.elapsed() < Duration::from_secs(8));
    assert!(second.logged(" stopped ") == 1 && dead.exists());

    hold.release();
    let third = world.daemon(&FOUR);
    for id in ["a", "b"] {
        third.wait_log(&format!(
            "a second request of one job was cancelled at fal job={id}"
        ));
    }
    eventually(SOON, || dead.exists(), |exists| !exists);
}

/// A daemon that was killed while only its step file knew the request id of job `a`; Redis is there again.
fn killed_with_an_id_of_its_own() -> (World, String) {
    let (mut world, mut daemon) = World::running();
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    world.kill_redis();
    hold.release();
    // It goes on with the request, so it knows the id; only Redis does not.
    let polls = |world: &World| world.sandbox.fal.totals().polls;
    eventually(SOON, || polls(&world), |polls| *polls > 0);
    daemon.kill();
    world.sandbox.redis.restart().unwrap();
    (world, daemon.instance())
}

/// A link that ends nowhere, in the place of this file.
fn make_unreadable(path: &Path) {
    let _ = fs::rename(path, path.with_extension("aside"));
    std::os::unix::fs::symlink(path, path).unwrap();
}

#[test]
fn beside_a_step_file_that_cannot_be_read_the_others_are() {
    let (mut world, dead) = killed_with_an_id_of_its_own();
    // As if another process had been killed too, whose journal cannot be read: length, checksum, header.
    let other = dead.replace("test~", "rest~");
    let mut bytes = fs::read(world.step_file(&dead, "steps")).unwrap();
    let end = 8 + u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..end].to_vec()).unwrap();
    bytes.truncate(8);
    bytes.extend(header.replace(&dead, &other).bytes());
    let sum = crc32fast::hash(&bytes[8..]);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    fs::write(world.step_file(&other, "steps"), bytes).unwrap();
    make_unreadable(&world.step_file(&other, "writes"));

    let _next = world.daemon(&FOUR);
    world.wait_state("a", "done");
    assert_eq!(submits_of(&world, "a"), 1);
    world.assert_clean_after_kills();
}

#[test]
fn whose_step_file_cannot_be_read_is_not_taken_over_before_it_can() {
    let (mut world, dead) = killed_with_an_id_of_its_own();
    let journal = world.step_file(&dead, "writes");
    make_unreadable(&journal);

    let next = world.daemon(&FOUR);
    // Some looks later.
    while_it_lasts(Duration::from_secs(3));
    assert_eq!(world.claims(&dead).len(), 1, "{}", next.log_text());
    fs::rename(journal.with_extension("aside"), &journal).unwrap();
    world.wait_state("a", "done");
    assert_eq!(submits_of(&world, "a"), 1);
    assert_eq!(next.logged("cannot be read"), 0);
    world.assert_clean_after_kills();
}

#[test]
fn after_a_lease_the_jobs_of_an_unreadable_step_file_are_taken_without_it() {
    let (mut world, dead) = killed_with_an_id_of_its_own();
    make_unreadable(&world.step_file(&dead, "steps"));

    let next = world.daemon(&["--threads", "4", "--lease", "3s"]);
    next.wait_log("cannot be read");
    next.wait_log("took over");
    world.wait_state("a", "done");
    assert_eq!(submits_of(&world, "a"), 2);
    assert_eq!(world.counted("resubmitted_after_unknown"), 1);
    assert_eq!(next.logged("cannot be read"), 1, "{}", next.log_text());
    world.assert_clean_after_kills();
}

/// A step file as if it had been written before this machine was started, or on another one.
fn of_another_boot(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let end = 8 + u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..end].to_vec()).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let other = header.replace(boot.trim(), &"0".repeat(boot.trim().len()));
    assert_ne!(header, other);
    bytes[8..end].copy_from_slice(other.as_bytes());
    let sum = crc32fast::hash(&bytes[8..end]);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn after_a_power_cut_a_submit_that_stands_in_no_slot_counts_as_perhaps_paid() {
    let mut world = World::new();
    let lease = ["--threads", "4", "--lease", "3s"];
    let mut daemon = world.daemon(&lease);
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").with("max_attempts", 1).json());
    assert!(hold.wait_arrived(1, SOON));
    daemon.kill();
    hold.release();
    // What it noted last never reached the disk.
    let (dead, header) = (daemon.instance(), 16 << 10);
    let file = world.step_file(&dead, "steps");
    let slots = fs::OpenOptions::new().write(true).open(&file).unwrap();
    slots.set_len(header).unwrap();
    of_another_boot(&file);
    world.as_if_on_another_host(&dead);

    let next = world.daemon(&lease);
    let record = world.wait_state("a", "dead");
    let said = ["kind", "charged", "attempt"].map(|name| record[name].as_str());
    assert_eq!(said, ["unavailable", "unknown", "1"], "{}", next.log_text());
    assert_eq!(submits_of(&world, "a"), 1);
    assert!(!file.exists());
    world.assert_clean_after_kills();
}

#[test]
fn after_a_power_cut_what_the_file_does_say_is_known() {
    let (mut world, dead) = killed_with_an_id_of_its_own();
    of_another_boot(&world.step_file(&dead, "steps"));
    world.as_if_on_another_host(&dead);
    let mark = format!("fal:worker:{dead}");
    let _: u64 = world.redis(&["HSET", &mark, "lease", "3000"]);

    let next = world.daemon(&["--threads", "4", "--lease", "3s"]);
    next.wait_log("took over");
    world.wait_state("a", "done");
    assert_eq!(submits_of(&world, "a"), 1);
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
    world.assert_clean_after_kills();
}

#[test]
fn a_copy_of_the_folder_of_a_worker_that_lives_buries_nobody() {
    let mut world = World::new();
    let lease = ["--threads", "4", "--lease", "3s"];
    let daemon = world.daemon(&lease);
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    // As a disk that was cloned, or put back from a backup, on another machine.
    let copy = world.folder.path().join("copy");
    let inner = copy.join("fal");
    fs::create_dir_all(&inner).unwrap();
    for folder in [&copy, &inner] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    for path in world.step_files() {
        fs::copy(&path, inner.join(path.file_name().unwrap())).unwrap();
    }
    of_another_boot(&inner.join(format!("{}.steps", daemon.instance())));
    world.as_if_on_another_host(&daemon.instance());

    let other = world.daemon(&[&lease[..], &["--state-dir", copy.to_str().unwrap()]].concat());
    // Longer than a lease, and than the time between two looks at the folder.
    while_it_lasts(Duration::from_secs(6));
    hold.release();
    world.wait_state("a", "done");
    assert_eq!(submits_of(&world, "a"), 1);
    assert_eq!(other.logged("took over"), 0, "{}", other.log_text());
    assert_eq!(daemon.logged("new identity"), 0, "{}", daemon.log_text());
    world.assert_clean();
}

#[test]
fn a_submit_whose_journal_was_cleared_away_counts_as_perhaps_paid() {
    let (mut world, mut daemon) = World::running();
    // Long ago: it is written only while Redis is away.
    fs::remove_file(world.step_file(&daemon.instance(), "writes")).unwrap();
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").with("max_attempts", 1).json());
    assert!(hold.wait_arrived(1, SOON));
    world.kill_redis();
    hold.release();
    let polls = |world: &World| world.sandbox.fal.totals().polls;
    eventually(SOON, || polls(&world), |polls| *polls > 0);
    daemon.kill();
    world.sandbox.redis.restart().unwrap();

    let _next = world.daemon(&FOUR);
    world.wait_state("a", "dead");
    assert_eq!(submits_of(&world, "a"), 1);
    world.assert_clean_after_kills();
}

/// Room on the disk of a daemon that may fill it later.
const ROOM: usize = 64 << 20;

/// From now on no file of this daemon grows beyond so many bytes.
fn leave_room(daemon: &Daemon, bytes: usize) {
    let limit = Rlimit {
        current: Some(bytes as u64),
        maximum: Some(ROOM as u64),
    };
    prlimit(Pid::from_raw(daemon.pid() as i32), Resource::Fsize, limit).unwrap();
}

#[test]
fn a_step_file_that_can_neither_be_written_nor_removed_proves_nothing() {
    let mut world = World::new();
    let mut daemon = world.spawn_on_a_full_disk(&FOUR, ROOM);
    daemon.wait_log(" ready ");
    world.push(job("before").json());
    world.wait_state("before", "done");
    let dead = daemon.instance();
    // As on a file system that has become read-only: nothing can be written, and nothing goes.
    let journal = world.step_file(&dead, "writes");
    let _ = fs::remove_file(&journal);
    fs::create_dir(&journal).unwrap();
    leave_room(&daemon, 0);
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    daemon.kill();
    hold.release();
    fs::remove_dir(&journal).unwrap();
    assert!(world.step_file(&dead, "steps").exists());

    let _next = world.daemon(&FOUR);
    world.wait_state("a", "done");
    assert_eq!(submits_of(&world, "a"), 2);
    assert_eq!(world.counted("resubmitted_after_unknown"), 1);
    world.assert_clean_after_kills();
}

#[test]
fn what_a_full_disk_did_not_keep_is_kept_at_the_stop_if_it_has_room_again() {
    let mut world = World::new();
    let mut daemon = world.spawn_on_a_full_disk(&FOUR, ROOM);
    daemon.wait_log(" ready ");
    // The header fits, and nothing else.
    let steps = fs::read(world.step_file(&daemon.instance(), "steps")).unwrap();
    let header = 8 + u32::from_le_bytes(steps[..4].try_into().unwrap()) as usize;
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    leave_room(&daemon, header);
    world.kill_redis();
    hold.release();
    let polls = |world: &World| world.sandbox.fal.totals().polls;
    eventually(SOON, || polls(&world), |polls| *polls > 0);
    leave_room(&daemon, ROOM);
    assert_eq!(daemon.stop(), Some(0));
    world.sandbox.redis.restart().unwrap();

    let _next = world.daemon(&FOUR);
    world.wait_state("a", "done");
    assert_eq!(submits_of(&world, "a"), 1);
    world.assert_clean_after_kills();
}

#[test]
fn request_ids_outlive_a_stop_in_which_nothing_can_be_opened() {
    let mut world = World::new();
    let mut daemon = world.spawn_with_few_files(&["--threads", "8"], 18, 18);
    daemon.wait_log(" ready ");
    let ids: Vec<String> = (0..60).map(|number| format!("f{number}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    let submits = |world: &World| world.sandbox.fal.totals().submits;
    eventually(SOON, || submits(&world), |submits| *submits >= 20);
    assert_eq!(daemon.stop(), Some(0));

    let _next = world.daemon(&FOUR);
    world.wait_ended(&ids, SOON);
    let again = world.counted("resubmitted_after_unknown");
    assert_eq!((submits(&world), again), (60, 0), "{}", world.logs());
    world.assert_clean_after_kills();
}
