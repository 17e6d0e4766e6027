//! Killed where money is spent, from the claim to the result: the next owner asks for what was paid, and
//! pays again only where nobody can know whether it was; then that is counted.

use super::*;
use fal_worker::sandbox::media;
use fal_worker::sandbox::telegram::Kind;
use serde_json::json;

#[test]
fn killed_before_the_submit_is_answered_the_next_owner_waits_two_seconds_and_counts() {
    let (mut world, mut daemon) = World::running();
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    daemon.kill();
    let killed = Instant::now();
    hold.release();

    let next = world.daemon(&[]);
    let record = world.wait_state("a", "done");
    let submits = world.sandbox.fal.submits_for("prompt of a.");
    assert_eq!(submits.len(), 2);
    let waited = submits[1].at.duration_since(killed);
    assert!(
        waited >= Duration::from_secs(2),
        "paid again after {waited:?}"
    );
    assert_eq!(
        (record["attempt"].as_str(), record["charged"].as_str()),
        ("2", "yes")
    );
    assert_eq!(world.counted("resubmitted_after_unknown"), 1);
    assert_eq!(next.logged("submitted again after unknown"), 1);
    world.assert_clean_after_kills();
}

#[test]
fn killed_between_fals_acceptance_and_its_record_a_second_payment_is_counted() {
    let (mut world, tap, mut daemon) = tapped(&[]);
    tap.stop_at(At::Label("submitted"), Side::Before);
    world.push(job("a").json());
    kill_at(&tap, &mut daemon);
    assert_eq!(submits_of(&world, "a"), 1);
    assert!(!world.record("a").contains_key("request_id"));

    let next = world.daemon(&[]);
    let record = world.wait_state("a", "done");
    let again = world.counted("resubmitted_after_unknown");
    let submits = world.sandbox.fal.submits_for("prompt of a.");
    assert_eq!(submits.len() as u64, 1 + again);
    assert_eq!(next.logged("submitted again after unknown") as u64, again);
    assert_eq!(
        record["request_id"],
        submits.last().expect("one").request_id
    );
    world.assert_clean_after_kills();
}

#[test]
fn killed_in_the_last_submit_or_a_direct_call_the_job_ends_charged_unknown() {
    let (mut world, mut daemon) = World::running();
    let submit = world.sandbox.fal.hold("fal.submit");
    let direct = world.sandbox.fal.hold("fal.direct");
    world.push(job("last").with("max_attempts", 1).json());
    world.push(job("direct").with("via", "direct").json());
    assert!(submit.wait_arrived(1, SOON) && direct.wait_arrived(1, SOON));
    daemon.kill();
    submit.release();
    direct.release();

    let _next = world.daemon(&[]);
    for id in ["last", "direct"] {
        let record = world.wait_state(id, "dead");
        assert_eq!(
            (record["kind"].as_str(), record["charged"].as_str()),
            ("unavailable", "unknown")
        );
        assert_eq!(submits_of(&world, id), 1);
    }
    world.assert_clean_after_kills();
}

#[test]
fn without_a_step_file_what_was_claimed_and_not_begun_counts_as_perhaps_paid() {
    let off = ["--threads", "4", "--state-dir", "off"];
    let mut world = World::new();
    let mut daemon = world.daemon(&off);
    // All places at fal are taken by submits: what else is claimed has not been begun.
    let hold = world.sandbox.fal.hold("fal.submit");
    let ids: Vec<String> = (0..12).map(|n| format!("b{n}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    assert!(hold.wait_arrived(2, SOON));
    daemon.kill();
    hold.release();

    let _next = world.daemon(&off);
    world.wait_ended(&ids, SOON);
    let submits = world.sandbox.fal.totals().submits;
    let again = world.counted("resubmitted_after_unknown");
    assert!(again >= 2, "{again}");
    assert!(submits <= 12 + again, "{submits} submits, {again} counted");
    world.assert_clean_after_kills();
}

/// Claimed by the dozen, they wait for the few threads that make such calls.
#[test]
fn without_a_step_file_a_direct_call_that_stood_in_line_was_not_made() {
    let off = ["--threads", "4", "--state-dir", "off"];
    let mut world = World::new();
    let mut daemon = world.daemon(&off);
    let hold = world.sandbox.fal.hold("fal.direct");
    let ids: Vec<String> = (0..12).map(|n| format!("d{n}")).collect();
    let entries = ids.iter().map(|id| job(id).with("via", "direct").json());
    world.push_all(&entries.collect::<Vec<_>>());
    assert!(hold.wait_arrived(2, SOON));
    wait_in_line(&mut world, &ids, 10);
    daemon.kill();
    hold.release();

    let _next = world.daemon(&off);
    let states = world.wait_ended(&ids, SOON);
    let dead = states.iter().filter(|state| *state == "dead").count();
    assert_eq!(dead, 2, "those that were called: {states:?}");
    assert_eq!(world.sandbox.fal.totals().submits, 12);
    for (id, _) in ids
        .iter()
        .zip(&states)
        .filter(|(_, state)| *state == "done")
    {
        let record = world.record(id);
        assert_eq!((&*record["attempt"], &*record["charged"]), ("1", "yes"));
        assert!(!record.contains_key("crashes"), "{record:?}");
    }
    world.assert_clean_after_kills();
}

#[test]
fn without_a_step_file_a_job_whose_files_stood_in_line_has_used_no_attempt() {
    let off = ["--threads", "4", "--state-dir", "off"];
    let mut world = World::new();
    let mut daemon = world.daemon(&off);
    let hold = world.sandbox.telegram.hold("tg.getfile");
    let ids: Vec<String> = (0..12).map(|n| format!("f{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        let name = format!("file_{n}.jpg");
        let picture = media::png(8, 8, Some(n as u64));
        let file = world
            .sandbox
            .telegram
            .user_file(Kind::Photo, &name, picture);
        let entry = job(id).with("max_attempts", 1);
        world.push(entry.with("input_files", json!({"image_url": file})).json());
    }
    assert!(hold.wait_arrived(2, SOON));
    wait_in_line(&mut world, &ids, 8); // four threads bring files
    daemon.kill();
    hold.release();

    let _next = world.daemon(&off);
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    assert_eq!(world.sandbox.fal.totals().submits, 12);
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
    world.assert_clean_after_kills();
}

fn wait_in_line(world: &mut World, ids: &[String], least: usize) {
    eventually(
        SOON,
        || {
            let waits = ids.iter().map(|id| world.record(id).contains_key("waits"));
            waits.filter(|waits| *waits).count()
        },
        |n| *n >= least,
    );
}

#[test]
fn killed_after_the_request_id_is_recorded_a_job_is_never_paid_twice() {
    for endpoint in ["fal.status", "fal.result"] {
        let (mut world, mut daemon) = World::running();
        let hold = world.sandbox.fal.hold(endpoint);
        world.push(job("a").json());
        world.wait_submitted("a");
        assert!(hold.wait_arrived(1, SOON), "{endpoint}");
        daemon.kill();
        hold.release();

        let _next = world.daemon(&[]);
        let record = world.wait_state("a", "done");
        assert_eq!(submits_of(&world, "a"), 1, "{endpoint}");
        assert_eq!(record["attempt"], "1", "{endpoint}");
        assert_eq!(world.counted("resubmitted_after_unknown"), 0, "{endpoint}");
        world.assert_clean_after_kills();
    }
}

#[test]
fn killed_again_and_again_while_polling_a_paid_job_is_never_given_up() {
    // Without a step file nobody can tell whose step it was: then only submits are charged a crash.
    let flags = ["--threads", "4", "--state-dir", "off"];
    let mut world = World::new();
    let mut daemon = world.daemon(&flags);
    taking(&world, 3_600_000); // longer than twelve starts take anywhere
    world.push(job("a").with("max_attempts", 1).json());
    let request = world.wait_submitted("a");
    for _ in 0..12 {
        daemon.kill();
        daemon = world.daemon(&flags);
        let mine = daemon.instance();
        world.wait_field("a", "worker", &mine);
    }
    let record = world.record("a");
    assert_eq!(
        (record["state"].as_str(), record["request_id"].as_str()),
        ("running", request.as_str())
    );
    assert!(
        record.get("crashes").is_none_or(|crashes| crashes == "0"),
        "{record:?}"
    );
    assert_eq!(submits_of(&world, "a"), 1);
}

#[test]
fn killed_after_fal_was_told_to_stop_the_next_owner_knows_that_it_was_us() {
    let (mut world, mut daemon) = World::running();
    let never = Script {
        heeds_cancel: true,
        ..Script::new(Outcome::Never)
    };
    world.sandbox.fal.model("case/slow", never);
    let hold = world.sandbox.fal.hold("fal.cancel");
    let entry = job("a").model("case/slow").with("timeout_s", 1);
    world.push(entry.chat(7).json());
    assert!(hold.wait_arrived(1, SOON));
    daemon.kill();
    hold.release();

    let _next = world.daemon(&[]);
    let record = world.wait_state("a", "dead");
    assert_eq!(
        ["kind", "charged", "told"].map(|name| record[name].as_str()),
        ["timeout", "no", "yes"],
        "{record:#?}"
    );
    assert!(!record.contains_key("cancelling"), "{record:#?}");
    assert_eq!(submits_of(&world, "a"), 1);
    world.assert_clean_after_kills();
}

#[test]
fn a_result_that_expired_at_fal_while_no_worker_ran_is_paid_again_only_where_the_job_allows_it() {
    let (mut world, mut daemon) = World::running();
    let short = Duration::from_millis(1);
    world.sandbox.fal.set_result_keeping(short, short);
    let hold = world.sandbox.fal.hold("fal.status");
    world.push(job("kept").json());
    world.push(job("again").with("repay", true).json());
    for id in ["kept", "again"] {
        world.wait_submitted(id);
    }
    assert!(hold.wait_arrived(1, SOON));
    daemon.kill();
    hold.release();
    let first = world.record("again")["request_id"].clone();
    let done = |id: &str| {
        let request = world.sandbox.fal.request(id);
        request.is_some_and(|request| request.completed.is_some_and(|at| at.elapsed() > short))
    };
    for submit in world.sandbox.fal.submits() {
        eventually(SOON, || done(&submit.request_id), |done| *done);
    }

    let _next = world.daemon(&[]);
    let kept = world.wait_state("kept", "dead");
    assert_eq!(
        ["kind", "charged", "attempt"].map(|name| kept[name].as_str()),
        ["unavailable", "yes", "1"]
    );
    assert_eq!(submits_of(&world, "kept"), 1);
    // The other one's last look may come a little later: not before it may results be kept again.
    eventually(
        SOON,
        || world.record("again"),
        |record| record.contains_key("tried"),
    );
    let hour = Duration::from_secs(3600);
    world.sandbox.fal.set_result_keeping(hour, hour);
    let again = world.wait_state("again", "done");
    assert_eq!(
        ["tried", "charged", "attempt"].map(|name| again[name].as_str()),
        [first.as_str(), "yes", "2"]
    );
    assert_eq!(submits_of(&world, "again"), 2);
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
    world.assert_clean_after_kills();
}

#[test]
fn a_deadline_that_passed_while_no_worker_ran_is_decided_by_fals_next_answer() {
    let (mut world, mut daemon) = World::running();
    let heeds = Script {
        heeds_cancel: true,
        ..Script::new(Outcome::Never)
    };
    let ready = Script::default().taking(Duration::from_millis(1200));
    world.sandbox.fal.model("case/ready", ready);
    world.sandbox.fal.model("case/runs", heeds);
    for id in ["ready", "runs"] {
        let entry = job(id).model(&format!("case/{id}"));
        world.push(entry.with("timeout_s", 1).json());
        let request = world.wait_submitted(id);
        let polls = || world.sandbox.fal.request(&request).map(|seen| seen.polls);
        eventually(SOON, polls, |polls| polls.is_some_and(|polls| polls > 0));
    }
    daemon.kill();
    let ready = world.record("ready")["request_id"].clone();
    let over = || world.sandbox.fal.request(&ready).unwrap().completed;
    eventually(SOON, over, |at| at.is_some());

    let _next = world.daemon(&[]);
    let record = world.wait_state("ready", "done");
    assert_eq!(record["charged"], "yes");
    let record = world.wait_state("runs", "dead");
    assert_eq!(
        ["kind", "charged"].map(|name| record[name].as_str()),
        ["timeout", "no"]
    );
    assert_eq!(world.sandbox.fal.totals().submits, 2);
    world.assert_clean_after_kills();
}
