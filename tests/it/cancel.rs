//! Cancels from another process than the daemon: in every place a job can be, with every answer of fal's,
//! and across the death of who was to carry them out.

use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::media;
use fal_worker::sandbox::telegram::Kind;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CHAT: i64 = 77_101;
const TOLD: &str = "The request was cancelled.";

/// A person's command, running.
fn start(world: &World, ids: &[&str]) -> Child {
    let mut command = world.cli(&["cancel"]);
    command
        .args(ids)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn cancel(world: &World, ids: &[&str]) -> (String, i32) {
    said(start(world, ids))
}

fn said(child: Child) -> (String, i32) {
    let output: Output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    (text, output.status.code().unwrap())
}

/// A line for each of these jobs, which have ended; `asked` is the time of Redis before the command. It looks for
/// five seconds: of a job whose end took longer, on a slow machine, it can only say that it has asked.
#[track_caller]
fn assert_told(world: &mut World, asked: u64, command: (String, i32), told: &[(&str, &str)]) {
    let (text, code) = command;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), told.len(), "{text}");
    let mut failed = false;
    for (line, (id, word)) in lines.iter().zip(told) {
        // It may look right before the end, when that can be foreseen.
        let delivering = "too late: its outcome is on its way to the chat";
        let is_late = word.starts_with("too late: ") && *line == format!("{id} {delivering}");
        if is_late || *line == format!("{id} {word}") {
            failed |= *word != "cancelled";
            continue;
        }
        let slow = format!("{id} asked: its worker stops it as soon as it can");
        let took = end_of(world, id)["at"].parse::<u64>().unwrap() - asked;
        assert!(*line == slow && took > 4900, "after {took} ms: {text}");
    }
    assert_eq!(code, i32::from(failed), "{text}");
}

fn redis_ms(world: &mut World) -> u64 {
    let (seconds, micros): (u64, u64) = world.redis(&["TIME"]);
    seconds * 1000 + micros / 1000
}

/// Its one last event.
#[track_caller]
fn end_of(world: &mut World, id: &str) -> BTreeMap<String, String> {
    let mut events = world.events_of(id);
    events.retain(|event| matches!(event["event"].as_str(), "done" | "failed" | "cancelled"));
    assert_eq!(events.len(), 1, "{events:#?}");
    events.remove(0)
}

#[track_caller]
fn was_cancelled(world: &mut World, id: &str, charged: &str) {
    let record = world.wait_state(id, "cancelled");
    let end = end_of(world, id);
    let told = ["event", "kind", "charged", "error"].map(|name| end[name].as_str());
    assert_eq!(
        told,
        ["cancelled", "cancelled", charged, "cancelled by request"],
        "{id}"
    );
    assert_eq!(record["charged"], charged, "{id}");
    assert!(!record.contains_key("cancel_asked"), "{record:?}");
}

fn texts(world: &World, chat: i64) -> Vec<String> {
    let messages = world.sandbox.telegram.messages(chat);
    messages.into_iter().map(|message| message.text).collect()
}

fn never(heeds_cancel: bool) -> Script {
    Script {
        heeds_cancel,
        ..Script::new(Outcome::Never)
    }
}

fn wait_running(world: &World, id: &str) {
    eventually(
        SOON,
        || world.sandbox.fal.submits_for(&format!("prompt of {id}.")),
        |submits| submits.iter().any(|submit| submit.started.is_some()),
    );
}

/// Waits until the command has reached Redis.
fn wait_asked(world: &mut World, id: &str) {
    eventually(
        SOON,
        || world.record(id),
        |record| record.contains_key("cancel_asked"),
    );
}

/// A daemon that pulls nothing new.
fn paused() -> (World, Daemon) {
    let (mut world, daemon) = World::running();
    let _: u64 = world.redis(&["HSET", "fal:paused", "reason", "test"]);
    (world, daemon)
}

#[test]
fn what_no_worker_has_read_yet_is_not_called_unknown() {
    let mut world = World::new();
    world.push(job("unread").json());
    for command in ["cancel", "delete", "show"] {
        let output = world.cli(&[command, "unread"]).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(
            text.contains("unread is no job yet: it lies in the inbox"),
            "{command}: {text}"
        );
        assert_eq!(output.status.code(), Some(1), "{command}");
    }
}

#[test]
fn what_waits_ends_at_once_unpaid_and_its_user_is_told_also_while_pulling_is_paused() {
    let (mut world, _daemon) = paused();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let tomorrow = now.as_secs() + 86_400;
    world.push_all(&[
        job("chat").chat(CHAT).json(),
        job("alone").with("priority", "high").json(),
        job("tomorrow").with("not_before", tomorrow).json(),
        job("stays").json(),
    ]);
    world.wait_state("stays", "queued");
    world.wait_state("tomorrow", "later");
    let (text, code) = cancel(&world, &["chat", "alone", "tomorrow"]);
    assert_eq!(
        (text.as_str(), code),
        ("chat cancelled\nalone cancelled\ntomorrow cancelled\n", 0)
    );
    for id in ["chat", "alone", "tomorrow"] {
        was_cancelled(&mut world, id, "no");
    }
    assert_eq!(texts(&world, CHAT), [TOLD]);
    assert_eq!(world.record("chat")["told"], "yes");
    assert_eq!(world.sandbox.fal.totals().submits, 0);

    let (text, code) = cancel(&world, &["chat", "nobody", "not an id"]);
    assert_eq!(
        text,
        "chat has ended before: cancelled\nnobody is not known\n\
         not an id is no id: 1-128 of letters, digits and . _ : -\n"
    );
    assert_eq!(code, 1);
    assert_eq!(world.state("stays"), "queued");
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    world.wait_state("stays", "done");
    world.assert_clean();
}

#[test]
fn without_a_worker_a_job_is_not_run_any_more_and_the_next_worker_ends_it() {
    let (mut world, mut daemon) = paused();
    world.push(job("a").chat(CHAT).json());
    world.wait_state("a", "queued");
    daemon.stop();
    let output = world.cli(&["cancel", "--json", "a"]).output().unwrap();
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&line["id"], &line["outcome"], &line["done"]),
        (&json!("a"), &json!("asked"), &json!(true))
    );
    assert_eq!(output.status.code(), Some(0));
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    let _daemon = world.daemon(&[]);
    was_cancelled(&mut world, "a", "no");
    assert_eq!(texts(&world, CHAT), [TOLD]);
    assert_eq!(world.sandbox.fal.totals().submits, 0);
    world.assert_clean();
}

#[test]
fn a_cancel_during_the_submit_follows_its_answer() {
    let (mut world, _daemon) = World::running();
    world.sandbox.fal.model("fal-ai/flux/dev", never(true));
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").chat(CHAT).json());
    assert!(hold.wait_arrived(1, SOON));
    let asked = redis_ms(&mut world);
    let command = start(&world, &["a"]);
    world.wait_field("a", "state", "running");
    wait_asked(&mut world, "a");
    hold.release();
    was_cancelled(&mut world, "a", "no");
    assert_told(&mut world, asked, said(command), &[("a", "cancelled")]);
    assert_eq!(submits_of(&world, "a"), 1);
    assert_eq!(world.sandbox.fal.totals().cancels, 1);
    world.assert_clean();
}

#[test]
fn what_waits_in_fals_queue_is_taken_out_of_it_and_costs_nothing() {
    let (mut world, _daemon) = World::running();
    world.sandbox.fal.set_slots(1);
    world.sandbox.fal.model("fal-ai/slow", never(true));
    world.push(job("first").model("fal-ai/slow").json());
    wait_running(&world, "first");
    world.push_all(&[job("a").chat(CHAT).json(), job("b").json()]);
    let request = world.wait_submitted("a");
    world.wait_submitted("b");
    // Taken out, and fal says 200; told only that it was heard (202), and then it is gone.
    let heard = Fault::json(202, &json!({"status": "CANCELLATION_REQUESTED"}));
    let gone = world.record("b")["request_id"].clone();
    let rule = Rule::first(1, "fal.cancel", heard).for_requests_with(&gone);
    let rule = world.sandbox.faults.add(rule);
    let asked = redis_ms(&mut world);
    let command = start(&world, &["a", "b"]);
    was_cancelled(&mut world, "a", "no");
    eventually(
        SOON,
        || world.sandbox.faults.fired(rule),
        |fired| *fired == 1,
    );
    world.sandbox.fal.forget(&gone);
    was_cancelled(&mut world, "b", "no");
    let told = [("a", "cancelled"), ("b", "cancelled")];
    assert_told(&mut world, asked, said(command), &told);
    let entry = world.sandbox.fal.request(&request).unwrap();
    assert!(entry.cancelled && entry.started.is_none());
    assert_eq!(texts(&world, CHAT), [TOLD]);
    assert_eq!(cancel(&world, &["first"]).1, 0);
    world.assert_clean();
}

#[test]
fn what_runs_is_stopped_where_its_app_can_and_delivered_where_it_completes_all_the_same() {
    let (mut world, _daemon) = World::running();
    let fal = &world.sandbox.fal;
    fal.model("fal-ai/stops", never(true));
    // Long enough that fal hears of the cancel before its end, on a slow machine too.
    let goes_on = Script::default().taking(Duration::from_secs(4));
    fal.model("fal-ai/goes-on", goes_on);
    world.push_all(&[
        job("stops").model("fal-ai/stops").chat(CHAT).json(),
        job("goes-on").model("fal-ai/goes-on").chat(CHAT + 1).json(),
    ]);
    wait_running(&world, "stops");
    wait_running(&world, "goes-on");
    for id in ["stops", "goes-on"] {
        world.wait_submitted(id);
    }
    let asked = redis_ms(&mut world);
    let command = start(&world, &["stops", "goes-on"]);
    eventually(SOON, || world.sandbox.fal.totals().cancels, |n| *n == 2);
    // Asked again is asked once: and this one looks until it is over.
    let again = redis_ms(&mut world);
    let second = start(&world, &["goes-on"]);
    was_cancelled(&mut world, "stops", "no");
    world.wait_state("goes-on", "done");
    let late = ("goes-on", "too late: it ended done");
    assert_told(
        &mut world,
        asked,
        said(command),
        &[("stops", "cancelled"), late],
    );
    assert_told(&mut world, again, said(second), &[late]);
    let done = end_of(&mut world, "goes-on");
    assert_eq!(
        (done["event"].as_str(), done["charged"].as_str()),
        ("done", "yes")
    );
    assert_eq!(texts(&world, CHAT), [TOLD]);
    assert_eq!(world.sandbox.telegram.messages(CHAT + 1).len(), 1);
    assert!(world.sandbox.telegram.messages(CHAT + 1)[0].file.is_some());
    assert_eq!(world.sandbox.fal.totals().cancels, 2);
    world.assert_clean();
}

#[test]
fn what_has_completed_meanwhile_is_delivered_and_never_cancelled_at_fal() {
    let (mut world, _daemon) = World::running();
    let look = world.sandbox.fal.hold("fal.status");
    let send = world.sandbox.telegram.hold("tg.sendphoto");
    world.push(job("a").chat(CHAT).json());
    assert!(look.wait_arrived(1, SOON));
    eventually(
        SOON,
        || world.sandbox.fal.submits(),
        |submits| submits[0].completed.is_some(),
    );
    let command = start(&world, &["a"]);
    wait_asked(&mut world, "a");
    look.release();
    // During the delivery it is too late, and said so.
    assert!(send.wait_arrived(1, SOON));
    let late = "a too late: its outcome is on its way to the chat\n";
    assert_eq!(cancel(&world, &["a"]), (late.to_owned(), 1));
    send.release();
    assert_eq!(said(command).1, 1);
    world.wait_state("a", "done");
    assert_eq!(end_of(&mut world, "a")["event"], "done");
    assert_eq!(world.sandbox.fal.totals().cancels, 0);
    let over = "a has ended before: done\n";
    assert_eq!(cancel(&world, &["a"]), (over.to_owned(), 1));
    world.assert_clean();
}

#[test]
fn a_request_at_fal_is_cancelled_by_whoever_owns_it_next_when_its_owner_dies() {
    let mut world = World::new();
    let mut owner = world.daemon(&["--threads", "4"]);
    world.sandbox.fal.model("fal-ai/flux/dev", never(true));
    world.push(job("a").chat(CHAT).json());
    wait_running(&world, "a");
    world.wait_submitted("a");
    owner.signal("STOP"); // it never hears of it
    let command = start(&world, &["a"]);
    wait_asked(&mut world, "a");
    owner.kill();
    let _heir = world.daemon(&["--threads", "4"]);
    was_cancelled(&mut world, "a", "no");
    assert_eq!(said(command).1, 0);
    assert_eq!(
        (submits_of(&world, "a"), texts(&world, CHAT)),
        (1, vec![TOLD.to_owned()])
    );
    assert_eq!(world.sandbox.fal.totals().billed, 0);
    world.assert_clean();
}

#[test]
fn a_submit_whose_owner_died_is_never_repeated_once_its_cancel_was_asked() {
    let mut world = World::new();
    let mut owner = world.daemon(&["--threads", "4"]);
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("a").chat(CHAT).json());
    assert!(hold.wait_arrived(1, SOON));
    let mut command = start(&world, &["a"]);
    wait_asked(&mut world, "a");
    // Nobody asks again: what stands in the record must do.
    command.kill().unwrap();
    command.wait().unwrap();
    owner.kill();
    hold.release();
    let _heir = world.daemon(&["--threads", "4"]);
    // Nobody knows whether fal has it.
    was_cancelled(&mut world, "a", "unknown");
    assert!(submits_of(&world, "a") <= 1);
    assert_eq!(texts(&world, CHAT), [TOLD]);
    world.assert_clean();
}

#[test]
fn of_two_daemons_each_cancels_what_it_owns() {
    let mut world = World::new();
    let _one = world.daemon(&["--threads", "2"]);
    let _two = world.daemon(&["--threads", "2"]);
    world.sandbox.fal.model("fal-ai/flux/dev", never(true));
    let ids: Vec<String> = (0..8).map(|n| format!("job-{n}")).collect();
    let entries: Vec<String> = ids.iter().map(|id| job(id).json()).collect();
    world.push_all(&entries);
    for id in &ids {
        world.wait_submitted(id);
        wait_running(&world, id);
    }
    let names: Vec<&str> = ids.iter().map(String::as_str).collect();
    let asked = redis_ms(&mut world);
    let command = cancel(&world, &names);
    for id in &ids {
        was_cancelled(&mut world, id, "no");
    }
    let told: Vec<(&str, &str)> = names.iter().map(|id| (*id, "cancelled")).collect();
    assert_told(&mut world, asked, command, &told);
    let totals = world.sandbox.fal.totals();
    assert_eq!(
        (totals.submits, totals.cancels, totals.running_now),
        (8, 8, 0)
    );
    world.assert_clean();
}

#[test]
fn each_answer_of_fal_to_a_cancel_comes_to_an_end() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "8"]);
    let status = |word: &str| json!({"status": word});
    let ok = Fault::json(200, &json!({"success": true}));
    let completed = Fault::json(400, &status("ALREADY_COMPLETED"));
    let page_404 = Fault::Answer {
        status: 404,
        content_type: "text/html".into(),
        headers: Vec::new(),
        body: b"<html><center>404 Not Found</center><hr>nginx</html>".to_vec(),
    };
    // Name, answers before the stand-in's own, whether the app stops, how it ends, charged.
    let cases = [
        // It runs, and goes on.
        ("ok", Some(ok), false, "done", "yes"),
        ("completed", Some(completed), false, "done", "yes"),
        (
            "not-found",
            Some(Fault::json(404, &status("NOT_FOUND"))),
            true,
            "cancelled",
            "no",
        ),
        (
            "broken",
            Some(Fault::json(500, &json!({"detail": "x"}))),
            true,
            "cancelled",
            "no",
        ),
        ("gateway", Some(Fault::Html502), true, "cancelled", "no"),
        ("lost-way", Some(page_404), true, "cancelled", "no"),
        (
            "reset",
            Some(Fault::ResetBeforeRead),
            true,
            "cancelled",
            "no",
        ),
        (
            "lost",
            Some(Fault::ResetAfterActing),
            true,
            "cancelled",
            "no",
        ),
    ];
    for (name, fault, stops, _, _) in &cases {
        let script = if *stops {
            never(true)
        } else {
            Script::default().taking(Duration::from_secs(3))
        };
        let model = format!("fal-ai/{name}");
        world.sandbox.fal.model(&model, script);
        if let Some(fault) = fault {
            let rule = Rule::first(1, "fal.cancel", fault.clone());
            world.sandbox.faults.add(rule.for_requests_with(&model));
        }
        world.push(job(name).model(&model).json());
    }
    for (name, ..) in &cases {
        world.wait_submitted(name);
        wait_running(&world, name);
    }
    let names: Vec<&str> = cases.iter().map(|(name, ..)| *name).collect();
    cancel(&world, &names);
    for (name, _, _, state, charged) in &cases {
        let record = world.wait_state(name, state);
        assert_eq!(record["charged"], *charged, "{name}: {record:?}");
        assert_eq!(submits_of(&world, name), 1, "{name}");
        end_of(&mut world, name);
    }
    world.assert_clean();
}

#[test]
fn a_cancel_while_its_files_are_on_their_way_to_fal_pays_nothing() {
    let (mut world, _daemon) = World::running();
    let file = media::png(8, 8, Some(1));
    let file = (world.sandbox.telegram).user_file(Kind::Photo, "file_1.jpg", file);
    let uploads = world.sandbox.fal.hold("fal.put");
    let files = json!({"image_url": file});
    world.push(job("a").chat(CHAT).with("input_files", files).json());
    assert!(uploads.wait_arrived(1, SOON));
    let command = start(&world, &["a"]);
    wait_asked(&mut world, "a");
    // Its owner learns of it with a beat.
    let unheeded = |world: &mut World| world.redis::<Vec<String>>(&["KEYS", "fal:cancels:*"]);
    eventually(SOON, || unheeded(&mut world), |keys| keys.is_empty());
    uploads.release();
    let (text, code) = said(command);
    assert_eq!(code, 0, "{text}");
    was_cancelled(&mut world, "a", "no");
    assert_eq!(submits_of(&world, "a"), 0);
    assert_eq!(texts(&world, CHAT), [TOLD]);
    world.assert_clean();
}

#[test]
fn a_cancel_in_a_users_line_leaves_the_line_in_order() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "4", "--user-concurrency", "1"]);
    world.sandbox.fal.model("fal-ai/never", never(true));
    let of_one = |id: &str| job(id).chat(CHAT).with("user_id", "u1");
    world.push(of_one("a").model("fal-ai/never").json());
    wait_running(&world, "a");
    world.push_all(&["b", "c", "d"].map(|id| of_one(id).json()));
    for id in ["b", "c", "d"] {
        world.wait_state(id, "waiting");
    }
    for id in ["b", "d"] {
        assert_eq!(cancel(&world, &[id]).1, 0, "{id}");
        was_cancelled(&mut world, id, "no");
    }
    assert_eq!(
        (world.state("c"), submits_of(&world, "c")),
        ("waiting".into(), 0)
    );
    assert_eq!(cancel(&world, &["c", "a"]).1, 0);
    was_cancelled(&mut world, "c", "no");
    world.wait_state("a", "cancelled");
    world.push(of_one("e").json());
    world.wait_state("e", "done");
    assert_eq!(submits_of(&world, "b") + submits_of(&world, "c"), 0);
    let left: Vec<String> = world.redis(&["KEYS", "fal:wait*"]);
    assert!(left.is_empty(), "{left:?}");
    world.assert_clean();
}
