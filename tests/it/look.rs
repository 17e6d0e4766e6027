//! The commands that only look, on a live system of two workers: `status`, `jobs`, `show`, `events`.

use crate::support::{Daemon, SOON, World, eventually, job};
use fal_worker::sandbox::fal::Script;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const MODEL: &str = "fal-ai/flux/dev";
/// What no command shows unless it is asked for.
const PROMPT: &str = "prompt of ";

fn two(world: &mut World) -> (Daemon, Daemon) {
    (
        world.daemon(&["--threads", "4"]),
        world.daemon(&["--threads", "4"]),
    )
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn text(world: &World, args: &[&str]) -> String {
    let output = world.cli(args).output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{args:?}: {}{}",
        out(&output),
        err(&output)
    );
    out(&output)
}

#[track_caller]
fn lines(world: &World, args: &[&str]) -> Vec<Value> {
    let text = text(world, args);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[track_caller]
fn ids(world: &World, args: &[&str]) -> Vec<String> {
    let rows = lines(world, &[&["jobs", "--json"], args].concat());
    rows.iter()
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect()
}

/// Lines of a child's output as they come.
fn reader(child: &mut Child) -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

fn code(child: &mut Child) -> Option<i32> {
    eventually(SOON, || child.try_wait().unwrap(), Option::is_some)
        .unwrap()
        .code()
}

// ---- status

#[test]
fn threads_say_what_they_do_and_since_when() {
    let mut world = World::new();
    let (one, two) = two(&mut world);
    let hold = world.sandbox.fal.hold("fal.submit");
    for n in 1..=2 {
        world.push(job(&format!("held{n}")).json());
    }
    assert!(hold.wait_arrived(2, SOON));
    let both = [one.instance(), two.instance()];
    // A worker that stands still for as long as its answer is waited for is left out.
    let ask = || -> Value {
        let args = ["status", "--threads", "--json"];
        let output = world.cli(&args).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let status = eventually(SOON, ask, |status| {
        (both.iter()).all(|instance| status["threads"][instance].is_array())
    });
    let mut busy = Vec::new();
    for instance in both {
        let threads = status["threads"][&instance].as_array().unwrap();
        // Four of the pool, four that move files, intake and the keeper.
        assert_eq!(threads.len(), 10, "{status}");
        for thread in threads
            .iter()
            .filter(|thread| thread["step"] == "submitting")
        {
            assert!(
                thread["thread"].as_str().unwrap().starts_with("pool-"),
                "{thread}"
            );
            assert!(thread["for_ms"].is_u64(), "{thread}");
            busy.push(thread["job"].as_str().unwrap().to_owned());
        }
    }
    busy.sort();
    assert_eq!(busy, ["held1", "held2"]);
    let ask = || {
        let output = world.cli(&["status", "--threads"]).output().unwrap();
        out(&output)
    };
    let page = eventually(SOON, ask, |page| !page.contains("did not answer"));
    for part in [
        &one.instance(),
        &two.instance(),
        "submitting",
        "held2",
        "intake",
        " idle",
    ] {
        assert!(page.contains(part), "{part} is not in:\n{page}");
    }
    // Nobody asks any more: nothing is left to be answered.
    let worker = format!("fal:worker:{}", one.instance());
    eventually(
        SOON,
        || world.redis::<Option<String>>(&["HGET", &worker, "asked"]),
        Option::is_none,
    );
    hold.release();
    for n in 1..=2 {
        world.wait_state(&format!("held{n}"), "done");
    }
    world.assert_clean();
}

#[test]
fn watch_on_a_pipe_prints_anew_and_ends_cleanly() {
    let mut world = World::new();
    let _two = two(&mut world);
    let mut child = world
        .cli(&["status", "--watch", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = reader(&mut child);
    for _ in 0..2 {
        let line = lines.recv_timeout(SOON).unwrap();
        let status: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(status["workers"].as_array().unwrap().len(), 2, "{status}");
    }
    signal(&child, "INT");
    assert_eq!(code(&mut child), Some(0));
}

/// A program in a terminal of this size, and what it drew there until Ctrl-C.
fn in_a_terminal(
    world: &World,
    args: &str,
    size: (u16, u16),
    until: &str,
) -> (String, Option<i32>) {
    let (rows, columns) = size;
    let program = env!("CARGO_BIN_EXE_fal-worker");
    let command = format!("stty rows {rows} cols {columns}; exec {program} {args}");
    let mut child = Command::new("script")
        .args(["-qefc", &command, "/dev/null"])
        .env("REDIS_URL", world.sandbox.redis.url())
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script of util-linux");
    let mut drawn = Vec::new();
    let mut stdout = child.stdout.take().unwrap();
    let mut buffer = [0; 4096];
    let mut asked = false;
    loop {
        let n = stdout.read(&mut buffer).unwrap_or(0);
        if n == 0 {
            break;
        }
        drawn.extend_from_slice(&buffer[..n]);
        if !asked && String::from_utf8_lossy(&drawn).contains(until) {
            asked = true;
            child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
        }
    }
    let code = code(&mut child);
    (String::from_utf8_lossy(&drawn).into_owned(), code)
}

#[test]
fn the_screen_fits_its_terminal_and_leaves_it_as_it_was() {
    let mut world = World::new();
    let _two = two(&mut world);
    for n in 1..=4 {
        world.push(job(&format!("good{n}")).json());
    }
    world.push(job("bad").model("fal-ai/refuses").json());
    world.wait_state("bad", "dead");
    for n in 1..=4 {
        world.wait_state(&format!("good{n}"), "done");
    }
    let (drawn, code) = in_a_terminal(&world, "status --watch", (40, 130), "LAST ERRORS");
    assert_eq!(code, Some(0), "{drawn}");
    for part in [
        "\x1b[?1049h",
        "QUEUE",
        "in flight",
        "a minute",
        "WORKER",
        MODEL,
        "content_policy",
        "bad",
    ] {
        assert!(drawn.contains(part), "{part:?} is not in {drawn:?}");
    }
    assert!(
        drawn.trim_end().ends_with("\x1b[?25h\x1b[?1049l"),
        "{drawn:?}"
    );
    let (drawn, code) = in_a_terminal(&world, "status --watch", (10, 50), "lines more");
    assert_eq!(code, Some(0), "{drawn}");
    let frame = drawn.split("\x1b[H").nth(1).unwrap();
    assert_eq!(
        frame
            .split("\x1b[J")
            .next()
            .unwrap()
            .matches("\r\n")
            .count(),
        9,
        "{frame:?}"
    );
    world.assert_clean();
}

// ---- jobs

#[test]
fn jobs_are_found_by_state_user_model_kind_age_and_meta() {
    let mut world = World::new();
    world.sandbox.fal.model(
        "fal-ai/slow",
        Script::default().taking(Duration::from_secs(3600)),
    );
    let _two = two(&mut world);
    let (now, _): (u64, u64) = world.redis(&["TIME"]);
    world.push(
        job("d1")
            .with("user_id", "ann")
            .with("meta", json!({"order": 8812, "shop": "north"}))
            .json(),
    );
    world.push(
        job("d2")
            .with("user_id", "bob")
            .with("meta", json!({"order": 1}))
            .json(),
    );
    world.push(
        job("x1")
            .with("user_id", "ann")
            .model("fal-ai/refuses")
            .json(),
    );
    world.push(job("r1").model("fal-ai/slow").json());
    world.push(job("n1").with("not_before", now + 3600).json());
    world.wait_state("d1", "done");
    world.wait_state("d2", "done");
    world.wait_state("x1", "dead");
    world.wait_submitted("r1");
    world.wait_state("n1", "later");
    for (args, found) in [
        (&["--state", "done"][..], &["d1", "d2"][..]),
        (&["--state", "dead"], &["x1"]),
        (&["--state", "running"], &["r1"]),
        (&["--state", "later"], &["n1"]),
        (&["--state", "queued"], &[]),
        (&["--user", "ann"], &["d1", "x1"]),
        (&["--user", "ann", "--state", "dead"], &["x1"]),
        (&["--model", "fal-ai/s*"], &["r1"]),
        (&["--kind", "content_policy"], &["x1"]),
        (&["--meta", "order"], &["d1", "d2"]),
        (&["--meta", "order=8812"], &["d1"]),
        (&["--meta", "shop=south"], &[]),
        (&["--older", "1h"], &[]),
        (&["--newer", "1h"], &["d1", "d2", "n1", "r1", "x1"]),
    ] {
        let mut ids = ids(&world, args);
        ids.sort();
        assert_eq!(ids, found, "{args:?}");
    }
    let row = lines(
        &world,
        &["jobs", "--json", "--user", "ann", "--state", "done"],
    )
    .remove(0);
    assert_eq!(
        (&row["meta"]["order"], &row["attempt"]),
        (&json!(8812), &json!(1))
    );
    assert!(row["queued_at"].as_i64() > Some(0), "{row}");
    assert!(!row.to_string().contains(PROMPT), "{row}");

    let output = world.cli(&["jobs", "--limit", "2"]).output().unwrap();
    let page = out(&output);
    assert_eq!(page.lines().count(), 3, "{page}");
    assert!(page.starts_with("ID "), "{page}");
    assert!(
        err(&output).contains("only the newest 2 are shown"),
        "{}",
        err(&output)
    );
    let output = world.cli(&["jobs", "--state", "waiting"]).output().unwrap();
    assert_eq!(
        (out(&output).as_str(), err(&output).as_str()),
        ("", "no job fits\n")
    );
    assert_eq!(
        world
            .cli(&["jobs", "--state", "lost"])
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
    assert_eq!(
        world
            .cli(&["jobs", "--model", "a b"])
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn a_thousand_jobs_are_listed_the_newest_first() {
    let mut world = World::new();
    let _two = two(&mut world);
    let entries: Vec<String> = (0..1000).map(|n| job(&format!("j{n}")).json()).collect();
    world.push_all(&entries);
    let names: Vec<String> = (0..1000).map(|n| format!("j{n}")).collect();
    world.wait_ended(&names, SOON * 2);
    let rows = lines(&world, &["jobs", "--json", "--limit", "1000"]);
    assert_eq!(rows.len(), 1000);
    let times: Vec<i64> = rows
        .iter()
        .map(|row| row["queued_at"].as_i64().unwrap())
        .collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    let newest = lines(&world, &["jobs", "--json", "--limit", "5"]);
    assert_eq!(newest[..], rows[..5]);
}

// ---- show

#[test]
fn show_tells_a_jobs_life_in_words() {
    let mut world = World::new();
    let (one, two) = two(&mut world);
    let entry = job("a")
        .chat(7)
        .with("meta", json!({"order": "<b>\u{1b}[31m"}))
        .json();
    world.push(&entry);
    world.wait_state("a", "done");
    world.push(job("b").model("fal-ai/refuses").json());
    world.wait_state("b", "dead");
    let page = text(&world, &["show", "a"]);
    for part in [
        "job a",
        "state",
        "done",
        "attempt",
        "1 of 3",
        "request_id",
        "TIME (UTC)",
        "AFTER",
        "queued",
        "started",
        "submitted",
        "completed",
        "delivered",
        "messages [",
        "1 file",
        "1 units",
        "charged",
        "took ",
        "+0.",
    ] {
        assert!(page.contains(part), "{part:?} is not in:\n{page}");
    }
    let worker = world.record("a")["worker"].clone();
    assert!([one.instance(), two.instance()].contains(&worker));
    assert!(page.contains(&worker), "{page}");
    // What matters stands first, and neither the prompt nor where the file lies is told.
    let place = |part: &str| page.find(part).unwrap();
    assert!(
        place("\nstate ") < place("\nmodel ") && place("\nmodel ") < place("\ntoken "),
        "{page}"
    );
    assert!(
        !page.contains(PROMPT) && !page.contains("http") && !page.contains('\u{1b}'),
        "{page}"
    );
    let json = lines(&world, &["show", "a", "--json"]).remove(0);
    assert!(!json.to_string().contains("http"), "{json}");
    assert!(
        text(&world, &["show", "a", "--spec"]).contains("file http"),
        "no file"
    );
    let page = text(&world, &["show", "b"]);
    assert!(
        page.contains("content_policy: ") && page.contains("not charged"),
        "{page}"
    );
    let hold = world.sandbox.telegram.hold("tg.sendmessage");
    world.push(job("c").model("no-path").chat(7).json());
    assert!(hold.wait_arrived(1, SOON));
    let page = text(&world, &["show", "c"]);
    assert!(
        page.contains("failed, follows once its user is told"),
        "{page}"
    );
    hold.release();
}

// ---- events

#[test]
fn events_are_filtered_bounded_and_readable() {
    let mut world = World::new();
    let _two = two(&mut world);
    world.push(
        job("a")
            .with("user_id", 42)
            .with("meta", json!({"order": 1}))
            .json(),
    );
    world.push(job("b").model("fal-ai/refuses").json());
    world.wait_state("a", "done");
    world.wait_state("b", "dead");
    let names = |args: &[&str]| -> Vec<String> {
        let events = lines(&world, &[&["events", "--json"], args].concat());
        events
            .iter()
            .map(|event| event["event"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(&["--job", "a"]),
        ["queued", "started", "submitted", "completed", "done"]
    );
    assert_eq!(names(&["--user", "42"]), names(&["--job", "a"]));
    assert_eq!(names(&["--kind", "content_policy"]), ["failed"]);
    assert_eq!(names(&["--event", "done"]), ["done"]);
    assert_eq!(
        names(&["--job", "a", "--limit", "2"]),
        ["completed", "done"]
    );
    assert_eq!(names(&["--since", "1h"]).len(), 9);
    assert_eq!(names(&["--job", "nobody"]), [] as [&str; 0]);
    let page = text(&world, &["events"]);
    assert_eq!(page.lines().count(), 9, "{page}");
    for part in [
        "submitted",
        "  a  ",
        "user 42",
        "attempt 1",
        "content_policy: ",
        "not charged",
    ] {
        assert!(page.contains(part), "{part:?} is not in:\n{page}");
    }
    assert!(!page.contains(PROMPT) && !page.contains("http"), "{page}");
    let event = lines(&world, &["events", "--json", "--event", "done"]).remove(0);
    assert_eq!(event["meta"], "{\"order\":1}");
}

#[test]
fn a_name_that_there_is_not_is_refused_before_anything_is_asked() {
    for (args, all) in [
        (
            &["jobs", "--kind", "nope"][..],
            &["unavailable", "timeout"][..],
        ),
        (
            &["retry", "--all-dead", "--kind", "nope"],
            &["unavailable", "timeout"],
        ),
        (
            &["events", "--kind", "nope"],
            &["content_policy", "expired"],
        ),
        (
            &["events", "--event", "nope"],
            &["queued", "failed", "taken_over"],
        ),
        (
            &["events", "--follow", "--event", "Failed"],
            &["queued", "failed", "taken_over"],
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_fal-worker"))
            .args(args)
            .env_clear()
            .env("REDIS_URL", "redis://127.0.0.1:1/0")
            .output()
            .unwrap();
        let said = err(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        let word = args.last().unwrap();
        assert!(said.contains(&format!("{word:?} is no ")), "{said}");
        for name in all {
            assert!(said.contains(name), "{args:?}: {said}");
        }
    }
}

#[test]
fn events_are_followed_across_an_outage_without_loss_or_repeat() {
    let mut world = World::new();
    let _two = two(&mut world);
    world.push(job("before").json());
    world.wait_state("before", "done");
    let mut child = world
        .cli(&[
            "events", "--follow", "--json", "--event", "done", "--limit", "1",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = reader(&mut child);
    let next = || -> String {
        let line = lines.recv_timeout(SOON).unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        event["job"].as_str().unwrap().to_owned()
    };
    assert_eq!(next(), "before");
    world.push(job("then").json());
    assert_eq!(next(), "then");
    world.kill_redis();
    world.sandbox.redis.restart().unwrap();
    for n in 1..=5 {
        world.push(job(&format!("after{n}")).json());
        world.wait_state(&format!("after{n}"), "done");
    }
    let seen: Vec<String> = (1..=5).map(|_| next()).collect();
    assert_eq!(seen, ["after1", "after2", "after3", "after4", "after5"]);
    assert!(lines.try_recv().is_err(), "an event came twice");
    signal(&child, "INT");
    assert_eq!(code(&mut child), Some(0));
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(
        said.contains("redis lost (") && said.contains("redis is back after "),
        "{said}"
    );
}

#[test]
fn a_follower_ends_when_nobody_reads_it() {
    let mut world = World::new();
    let (_one, _two) = two(&mut world);
    let mut child = world
        .cli(&["events", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(code(&mut child), Some(0));
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "");
}

#[test]
fn events_of_a_namespace_in_one_slot_are_read_too() {
    let mut world = World::new();
    let (_one, _two) = (
        world.daemon(&["--threads", "2", "--namespace", "{fal}"]),
        world.daemon(&["--threads", "2", "--namespace", "{fal}"]),
    );
    let _: u64 = world.redis(&["LPUSH", "{fal}:inbox", &job("a").json()]);
    let args = [
        "events",
        "--namespace",
        "{fal}",
        "--json",
        "--event",
        "done",
    ];
    let seen = eventually(SOON, || lines(&world, &args), |events| events.len() == 1);
    assert_eq!(seen[0]["job"], "a");
    let args = ["jobs", "--namespace", "{fal}", "--json"];
    assert_eq!(lines(&world, &args)[0]["id"], "a");
    let args = ["why", "--namespace", "{fal}", "--json", "a"];
    assert_eq!(lines(&world, &args)[0]["reason"], "done");
}

#[test]
fn a_redis_that_is_away_ends_each_with_69() {
    for args in [
        &["jobs"][..],
        &["why", "a"],
        &["events"],
        &["events", "--follow"],
        &["status", "--threads"],
        &["status", "--watch"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_fal-worker"))
            .args(args)
            .env_clear()
            .env("REDIS_URL", "redis://127.0.0.1:1/0")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(69), "{args:?}: {}", err(&output));
        assert_eq!(
            err(&output).lines().count(),
            1,
            "{args:?}: {}",
            err(&output)
        );
    }
}
