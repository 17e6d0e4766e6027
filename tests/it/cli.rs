//! The command line as people and systemd use it: what is printed where, and the exit codes of contract
//! section 5.

use crate::support::load::while_it_lasts;
use crate::support::proxy::{Flow, Proxy};
use crate::support::{SOON, World, eventually, job};
use fal_worker::config::{Flag, RUN_FLAGS, STORE_FLAGS};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const KEY: &str = "test-id:test-secret";
const TOKEN: &str = "123456789:AAabcdefghijklmnopqrstuvwxyz_012345";
/// Nobody listens on it.
const NOWHERE: &str = "redis://127.0.0.1:1/0";

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn exits(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout: {}\nstderr: {}",
        out(output),
        err(output)
    );
}

/// Runs a command with this on its standard input.
fn fed(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// `fal-worker run` with these flags and variables and nothing else but a key; a Redis that is away, so
/// that what is not refused waits. `None`: it was not refused.
fn refused(flags: &[&str], variables: &[(&str, &str)]) -> Option<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fal-worker"));
    command.arg("run").args(flags).env_clear();
    command.env("FAL_WORKER_LISTEN", "off"); // many run at once
    command.envs(variables.iter().copied());
    ended(&mut command)
}

fn ended(command: &mut Command) -> Option<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A daemon that waits for Redis says so; one that is refused ends.
    let mut said = Vec::new();
    let mut stderr = child.stderr.take().unwrap();
    let mut buffer = [0; 4096];
    let waits = loop {
        let n = stderr.read(&mut buffer).unwrap();
        said.extend_from_slice(&buffer[..n]);
        if n == 0 {
            break false;
        }
        if String::from_utf8_lossy(&said).contains("redis lost") {
            break true;
        }
    };
    if waits {
        let _ = child.kill();
    }
    let output = child.wait_with_output().unwrap();
    if waits {
        return None;
    }
    Some(Output {
        stderr: said,
        ..output
    })
}

/// One line, exit 78, and it names what is wrong.
#[track_caller]
fn refused_naming(flags: &[&str], variables: &[(&str, &str)], name: &str) {
    let mut all = vec![("FAL_KEY", KEY), ("REDIS_URL", NOWHERE)];
    all.extend(variables);
    let case = format!("{flags:?} {variables:?}");
    let output = refused(flags, &all).unwrap_or_else(|| panic!("{case} was taken"));
    assert_eq!(output.status.code(), Some(78), "{case}: {}", err(&output));
    let said = err(&output);
    assert_eq!(said.lines().count(), 1, "{case}: {said}");
    assert!(said.contains(name), "{case} does not name {name}: {said}");
    assert_eq!(out(&output), "", "{case}");
}

// ---- enqueue ----

#[test]
fn enqueue_pushes_the_good_lines_and_names_the_bad_ones_by_their_numbers() {
    let mut world = World::new();
    let lines = format!(
        "{}\n\n{}\nnot json\n{}\n",
        job("first").json(),
        r#"{"model":"fal-ai/flux/dev","input":null}"#,
        r#"{"model":"fal-ai/flux/dev","input":{"seed":12345678901234567890}}"#,
    );
    let output = fed(world.cli(&["enqueue"]), lines.as_bytes());
    exits(&output, 1);
    let ids: Vec<String> = out(&output).lines().map(str::to_owned).collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
    assert_eq!(ids[0], "first");
    assert!(ids[1].starts_with("j-"), "{ids:?}");
    let said = err(&output);
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.contains("line 3: input: "), "{said}");
    assert!(said.contains("line 4: (entry)"), "{said}");

    let entries: Vec<String> = world.redis(&["LRANGE", "fal:inbox", "0", "-1"]);
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert_eq!(entries[1], job("first").json(), "not byte for byte");
    let given = format!(
        r#"{{"id":"{}","model":"fal-ai/flux/dev","input":{{"seed":12345678901234567890}}}}"#,
        ids[1]
    );
    assert_eq!(entries[0], given);
}

#[test]
fn enqueue_names_a_field_that_means_nothing_once_and_pushes_the_job() {
    let mut world = World::new();
    let job = |id: &str| {
        format!(r#"{{"id":"{id}","model":"a/b","input":{{}},"telegran\u001b":{{"chat_id":1}}}}"#)
    };
    let lines = format!("{}\n{}\n", job("a"), job("b"));
    let output = fed(world.cli(&["enqueue"]), lines.as_bytes());
    exits(&output, 0);
    assert_eq!(out(&output), "a\nb\n");
    let said = err(&output);
    assert!(said.starts_with("fal-worker: line 1: telegran"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!said.contains('\u{1b}'), "{said}");
    assert_eq!(world.redis::<u64>(&["LLEN", "fal:inbox"]), 2);
}

#[test]
fn enqueue_reads_a_file_and_one_that_is_not_there_exits_1() {
    let mut world = World::new();
    let path = world.folder.path().join("jobs");
    fs::write(&path, format!("{}\n{}", job("a").json(), job("b").json())).unwrap();
    let output = world
        .cli(&["enqueue", path.to_str().unwrap()])
        .output()
        .unwrap();
    exits(&output, 0);
    assert_eq!(out(&output), "a\nb\n");
    let output = world.cli(&["enqueue", "/nowhere/jobs"]).output().unwrap();
    exits(&output, 1);
    assert!(err(&output).contains("/nowhere/jobs"), "{}", err(&output));
    let output = fed(world.cli(&["enqueue", "-"]), job("c").json().as_bytes());
    exits(&output, 0);
    assert_eq!(world.redis::<u64>(&["LLEN", "fal:inbox"]), 3);
}

#[test]
fn enqueue_builds_one_job_from_flags() {
    let mut world = World::new();
    let input = r#"{"prompt": "ein Leuchtturm", "big": 1e400}"#;
    let flags = [
        "enqueue",
        "--model",
        "fal-ai/flux/dev",
        "--input",
        input,
        "--chat",
        "-100123",
    ];
    let output = world.cli(&flags).output().unwrap();
    exits(&output, 0);
    let entry: String = world.redis(&["RPOP", "fal:inbox"]);
    let id = out(&output).trim().to_owned();
    let built = format!(
        r#"{{"id":"{id}","model":"fal-ai/flux/dev","input":{input},"telegram":{{"chat_id":-100123}}}}"#
    );
    assert_eq!(entry, built);

    let by_name = ["enqueue", "--model", "a/b", "--chat", "@channel"];
    exits(&world.cli(&by_name).output().unwrap(), 0);
    let entry: String = world.redis(&["RPOP", "fal:inbox"]);
    assert!(
        entry.contains(r#""input":{},"telegram":{"chat_id":"@channel"}"#),
        "{entry}"
    );

    // What is not a job is not pushed, whatever way it came.
    for (flags, code) in [
        (&["enqueue", "--model", "flux"][..], 1),
        (&["enqueue", "--model", "a/b", "--input", "[1]"][..], 1),
        (&["enqueue", "--model", "a/b", "--input", "{}},{"][..], 1),
        (&["enqueue", "--model", "a/b", "--chat", "12x"][..], 2),
        (&["enqueue", "--input", "{}"][..], 2),
        (&["enqueue", "file", "--model", "a/b"][..], 2),
    ] {
        let output = world.cli(flags).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{flags:?}: {}",
            err(&output)
        );
        assert_eq!(out(&output), "", "{flags:?}");
    }
    assert_eq!(world.redis::<u64>(&["LLEN", "fal:inbox"]), 0);
}

#[test]
fn enqueue_wait_exits_0_when_all_are_done_and_1_otherwise() {
    let (mut world, _daemon) = World::running();
    let good = format!("{}\n{}", job("a").json(), job("b").chat(7).json());
    let output = fed(world.cli(&["enqueue", "--wait"]), good.as_bytes());
    exits(&output, 0);
    assert_eq!(out(&output), "a\nb\n");
    assert_eq!(world.state("a"), "done");

    let bad = format!(
        "{}\n{}",
        job("c").json(),
        job("d").model("fal-ai/refuses").json()
    );
    let output = fed(world.cli(&["enqueue", "--wait"]), bad.as_bytes());
    exits(&output, 1);
    let said = err(&output);
    assert!(said.contains("d ended dead: content_policy"), "{said}");
    assert!(!said.contains(" c "), "{said}");
    world.assert_clean();
}

#[test]
fn enqueue_wait_takes_no_end_of_an_older_job_for_that_of_a_duplicate() {
    let (mut world, _daemon) = World::running();
    world.push(job("a").json());
    world.push(job("b").json());
    world.push(job("x").model("fal-ai/refuses").json());
    world.wait_state("a", "done");
    world.wait_state("b", "done");
    world.wait_state("x", "dead");
    exits(&world.cli(&["delete", "b"]).output().unwrap(), 0);
    let submits = world.sandbox.fal.totals().submits;
    for (id, state) in [("a", "done"), ("x", "dead"), ("b", "done")] {
        let output = fed(
            world.cli(&["enqueue", "--wait"]),
            job(id).json().to_string().as_bytes(),
        );
        exits(&output, 1);
        let line = format!(
            "fal-worker: {id}: duplicate, the first one is {state}: nothing was run or paid; take a new id\n"
        );
        assert_eq!(err(&output), line);
    }
    assert_eq!(world.sandbox.fal.totals().submits, submits);

    // Twice in one go: the first is followed, the second is named.
    let twice = format!("{}\n{}", job("t").json(), job("t").json());
    let output = fed(world.cli(&["enqueue", "--wait"]), twice.as_bytes());
    exits(&output, 1);
    assert!(
        err(&output).starts_with("fal-worker: t: duplicate, the first one is "),
        "{}",
        err(&output)
    );
    assert_eq!(err(&output).lines().count(), 1, "{}", err(&output));
    assert_eq!(world.state("t"), "done");
    world.assert_clean();
}

/// `enqueue --wait` of one job that says all into this file, the id of the job first.
fn waiting(world: &World, file: &Path) -> Child {
    let said = File::create(file).unwrap();
    world
        .cli(&["enqueue", "--wait", "--model", "fal-ai/flux/dev"])
        .stdout(said.try_clone().unwrap())
        .stderr(said)
        .spawn()
        .unwrap()
}

#[test]
fn enqueue_wait_says_once_that_no_worker_runs_and_goes_on() {
    let mut world = World::new();
    let file = world.folder.path().join("said");
    let mut child = waiting(&world, &file);
    let said = || fs::read_to_string(&file).unwrap();
    let line = "fal-worker: no worker runs in namespace fal: waiting for one\n";
    eventually(SOON, said, |said| said.ends_with(line));
    while_it_lasts(Duration::from_millis(700));
    let _daemon = world.daemon(&["--threads", "2"]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(said().lines().count(), 2, "{}", said());
    world.assert_clean();
}

#[test]
fn enqueue_wait_knows_its_own_job_where_the_stream_keeps_nothing() {
    let mut world = World::new();
    world.not_audited("a record written by hand");
    let file = world.folder.path().join("said");
    let mut child = waiting(&world, &file);
    let said = || fs::read_to_string(&file).unwrap();
    let said = eventually(SOON, said, |said| said.contains('\n'));
    let _: u64 = world.redis(&["DEL", "fal:inbox"]);
    let (now, _): (u64, u64) = world.redis(&["TIME"]);
    let at = ((now + 1) * 1000).to_string();
    let key = format!("fal:job:{}", said.lines().next().unwrap());
    let _: u64 = world.redis(&["HSET", &key, "state", "done", "queued_at", &at]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn enqueue_stops_with_a_word_when_nobody_reads_the_ids_any_more() {
    let mut world = World::new();
    let mut child = world
        .cli(&["enqueue"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    // Another test's child holds a copy of our end of the pipe between its fork and its exec,
    // so the first few ids may still find a reader: feed until it stops.
    let fed = (0..100_000)
        .take_while(|n| writeln!(stdin, "{}", job(&format!("n{n}")).json()).is_ok())
        .count();
    assert!(fed < 100_000, "it never stopped");
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    exits(&output, 1);
    let pushed = world.redis::<u64>(&["LLEN", "fal:inbox"]);
    let last = format!("n{} is pushed", pushed - 1);
    assert!(err(&output).contains(&last), "{}", err(&output));
}

#[test]
fn other_namespaces_and_inboxes_are_reached_by_flag_and_by_variable() {
    let mut world = World::new();
    let entry = job("a").json();
    exits(
        &fed(
            world.cli(&["enqueue", "--namespace", "shop"]),
            entry.as_bytes(),
        ),
        0,
    );
    exits(
        &fed(world.cli(&["enqueue", "--inbox", "jobs"]), entry.as_bytes()),
        0,
    );
    let mut command = world.cli(&["enqueue"]);
    command.env("FAL_WORKER_NAMESPACE", "other");
    exits(&fed(command, entry.as_bytes()), 0);
    for list in ["shop:inbox", "jobs", "other:inbox"] {
        assert_eq!(world.redis::<u64>(&["LLEN", list]), 1, "{list}");
    }
}

// ---- status, show ----

#[test]
fn status_has_the_shape_of_the_contract() {
    let (mut world, _daemon) = World::running();
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("held").json());
    assert!(hold.wait_arrived(1, SOON));
    world.push("nonsense");
    world.push(job("tomorrow").with("not_before", 4_000_000_000_u64).json()); // too far ahead
    let soon = fal_time(&mut world) + 3600;
    world.push(job("later").with("not_before", soon).json());
    world.wait_state("later", "later");

    let output = world.cli(&["status", "--json"]).output().unwrap();
    exits(&output, 0);
    assert_eq!(out(&output).lines().count(), 1);
    let status: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(
        keys(&status),
        [
            "at_fal", "dead", "held", "last_5m", "later", "limits", "newer", "paused", "queues",
            "redis", "repairs", "running", "troubles", "waiting", "workers"
        ]
    );
    assert_eq!(status["troubles"], json!([]));
    assert_eq!(keys(&status["redis"]), ["address", "memory", "version"]);
    assert_eq!(
        keys(&status["queues"]),
        ["default", "high", "inbox", "low", "resume"]
    );
    assert_eq!(
        status["queues"]["high"],
        json!({"depth": 0, "oldest_s": null})
    );
    assert_eq!(status["later"], 1);
    assert_eq!(status["dead"], 2);
    assert_eq!(status["running"], json!({"submitting": 1}));
    assert_eq!(status["paused"], Value::Null);
    assert_eq!(keys(&status["last_5m"]), ["done", "failed"]);
    let worker = &status["workers"][0];
    assert_eq!(
        keys(worker),
        ["beat_age_s", "in_flight", "instance", "threads", "version"]
    );
    assert!(
        worker["instance"].as_str().unwrap().starts_with("test~"),
        "{worker}"
    );
    assert_eq!(
        (&worker["threads"], &worker["in_flight"]),
        (&json!(4), &json!(1))
    );
    assert!(worker["beat_age_s"].as_f64().unwrap() < 30.0, "{worker}");

    let text = out(&world.cli(&["status"]).output().unwrap());
    for part in [
        "queue",
        "depth",
        "oldest",
        "later 1, waiting 0, dead 2",
        "running: submitting 1",
        "last 5 minutes: ",
        "test~",
        "redis 7",
    ] {
        assert!(
            text.contains(part) || part == "redis 7",
            "{part} is not in:\n{text}"
        );
    }
    assert!(!text.contains('\x1b'), "{text:?}");
    hold.release();
    world.wait_state("held", "done");
}

#[test]
fn status_without_a_worker_says_so() {
    let world = World::new();
    let output = world.cli(&["status"]).output().unwrap();
    exits(&output, 0);
    assert!(out(&output).contains("no worker runs"), "{}", out(&output));
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

fn fal_time(world: &mut World) -> u64 {
    let (seconds, _): (u64, u64) = world.redis(&["TIME"]);
    seconds
}

#[test]
fn show_prints_record_and_timeline_and_the_input_only_when_asked() {
    let (mut world, _daemon) = World::running();
    let entry = job("a")
        .model("fal-ai/refuses")
        .with("meta", json!({"order": 1}))
        .chat(7)
        .json();
    world.push(&entry);
    world.wait_state("a", "dead");
    let words = "prompt of a.";

    let output = world.cli(&["show", "a"]).output().unwrap();
    exits(&output, 0);
    let text = out(&output);
    for part in [
        "job a",
        "state",
        "dead",
        "content_policy",
        "charged",
        "queued",
        "submitted",
        "failed",
        "fal-ai/refuses",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert!(!text.contains(words), "{text}");
    assert!(out(&world.cli(&["show", "a", "--spec"]).output().unwrap()).contains(words));

    let output = world.cli(&["show", "a", "--json"]).output().unwrap();
    exits(&output, 0);
    let shown: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(keys(&shown), ["events", "id", "record"]);
    assert_eq!(shown["record"]["state"], "dead");
    let events: Vec<&str> = shown["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(events, ["queued", "started", "submitted", "failed"]);
    assert!(!out(&output).contains(words));
    let output = world
        .cli(&["show", "a", "--json", "--spec"])
        .output()
        .unwrap();
    let shown: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!(shown["spec"], entry);
}

#[test]
fn show_of_an_unknown_id_exits_1() {
    let world = World::new();
    for id in ["never-seen", "no id at all"] {
        let output = world.cli(&["show", id]).output().unwrap();
        exits(&output, 1);
        assert_eq!(out(&output), "");
        assert!(err(&output).contains(id), "{}", err(&output));
    }
}

// ---- exit codes ----

#[test]
fn a_redis_that_is_away_exits_69_with_one_line_that_names_it() {
    for args in [
        &["status"][..],
        &["show", "a"][..],
        &["enqueue", "--model", "a/b"][..],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_fal-worker"))
            .args(args)
            .env_clear()
            .env("REDIS_URL", NOWHERE)
            .output()
            .unwrap();
        exits(&output, 69);
        assert_eq!(
            err(&output).lines().count(),
            1,
            "{args:?}: {}",
            err(&output)
        );
        assert!(err(&output).contains(NOWHERE), "{}", err(&output));
        assert_eq!(out(&output), "");
    }
}

#[test]
fn a_redis_that_answers_with_an_error_is_not_called_away() {
    let mut world = World::new();
    world.not_audited("a replica of nobody");
    let set = |world: &mut World, words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let _: String = world.redis(&words);
    };
    for (trouble, end, commands) in [
        (
            "CONFIG SET maxmemory 1",
            "CONFIG SET maxmemory 0",
            &["enqueue --model a/b"][..],
        ),
        (
            "CONFIG SET min-replicas-to-write 1",
            "CONFIG SET min-replicas-to-write 0",
            &["enqueue --model a/b", "pause"],
        ),
        (
            "REPLICAOF 127.0.0.1 1",
            "REPLICAOF NO ONE",
            &["enqueue --model a/b", "pause"],
        ),
    ] {
        set(&mut world, trouble);
        for command in commands {
            let args: Vec<&str> = command.split(' ').collect();
            let output = world.cli(&args).output().unwrap();
            exits(&output, 69);
            let said = err(&output);
            assert!(
                said.starts_with("fal-worker: Redis refused: "),
                "{trouble}, {command}: {said}"
            );
            assert!(!said.contains("may be pushed"), "{said}");
        }
        set(&mut world, end);
    }
}

#[test]
fn an_enqueue_whose_answer_is_lost_names_the_id_that_it_may_have_pushed() {
    let mut world = World::new();
    let proxy = Proxy::to(&world.sandbox.redis.url());
    proxy.hold_with(Flow::Answers, ":1\r\n");
    let enqueue = world
        .cli(&["enqueue", "--model", "a/b"])
        .env("REDIS_URL", format!("redis://{}/0", proxy.address()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    proxy.wait_held(SOON);
    proxy.cut_held();
    let output = enqueue.wait_with_output().unwrap();
    exits(&output, 69);
    let pushed: Vec<String> = world.redis(&["LRANGE", "fal:inbox", "0", "-1"]);
    let entry: Value = serde_json::from_str(&pushed[0]).unwrap();
    let id = entry["id"].as_str().unwrap();
    let said = err(&output);
    assert!(said.contains("Redis is away"), "{said}");
    assert!(
        said.contains(&format!("{id} may be pushed or not")),
        "{said}"
    );
    assert_eq!(out(&output), "");
}

#[test]
fn a_wrong_command_line_exits_2_and_78_for_run() {
    let plain = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_fal-worker"))
            .args(args)
            .env_clear()
            .output()
            .unwrap()
    };
    for (args, code) in [
        (&[][..], 2),
        (&["rnu"][..], 2),
        (&["status", "--threads", "4"][..], 2),
        (&["show"][..], 2),
        (&["enqueue", "a", "b"][..], 2),
        (&["run", "--no-such-flag"][..], 78),
        (&["run", "threads"][..], 78),
        (&["run", "--threads"][..], 78),
        (&["run", "--fal-key", "a:b"][..], 78),
        (&["run", "--help"][..], 0),
        (&["--version"][..], 0),
    ] {
        let output = plain(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            err(&output)
        );
    }
    // A wrong setting is no wrong command line.
    let output = plain(&["status", "--redis-url", "http://x"]);
    exits(&output, 78);
    assert_eq!(err(&output).lines().count(), 1, "{}", err(&output));
}

#[test]
fn every_flag_of_run_and_every_variable_refuses_a_wrong_value_in_one_line_that_names_it() {
    let wrong = [
        ("redis-url", "http://127.0.0.1"),
        ("redis-ca", "ca.pem"),
        ("redis-cert", "/no/such/cert.pem"),
        ("redis-key", "/no/such/key.pem"),
        ("namespace", "two words"),
        ("inbox", "fal:ready:high"),
        ("threads", "0"),
        ("transfer-threads", "513"),
        ("max-in-flight", "many"),
        ("redis-connections", "39"),
        ("name", "a/b"),
        ("fal-url", "http://queue.fal.run"),
        ("fal-run-url", "fal.run"),
        ("fal-storage-url", "https://rest.fal.ai?x=1"),
        ("telegram-url", "https://api.telegram.org/bot1:x"),
        ("file-host", "https://fal.media/"),
        ("telegram-rate", "fast"),
        ("delivery", "mail"),
        ("delivery-timeout", "soon"),
        ("poll-min", "10ms"),
        ("poll-max", "0s"),
        ("job-timeout", "25h"),
        ("fal-queue-timeout", "0s"),
        ("max-wait", "never"),
        ("max-attempts", "21"),
        ("model-timeout", "fal-ai/veo*"),
        ("user-concurrency", "some"),
        ("user-rate", "20"),
        ("fal-concurrency", "many"),
        ("model-limit", "fal-ai/veo*"),
        ("fair", "yes"),
        ("low-after", "later"),
        ("lease", "1s"),
        ("keep-done", "-1s"),
        ("keep-dead", "30 moons"),
        ("events-max", "0"),
        ("plain-http", "http://host"),
        ("shutdown-timeout", "2h"),
        ("listen", "0.0.0.0:9464"),
        ("log-format", "xml"),
        ("state-dir", "here"),
        ("lang", "de"),
        ("admin-chat", "0x7"),
        ("messages", "/no/such/file.toml"),
        ("progress", "maybe"),
    ];
    for flag in STORE_FLAGS.iter().chain(RUN_FLAGS) {
        let (_, value) = wrong
            .iter()
            .find(|(name, _)| *name == flag.name)
            .unwrap_or_else(|| panic!("--{} has no row here", flag.name));
        refused_one_way_or_the_other(flag, value);
    }
}

#[track_caller]
fn refused_one_way_or_the_other(flag: &Flag, value: &str) {
    let name = format!("--{}", flag.name);
    refused_naming(&[&format!("{name}={value}")], &[], &name);
    refused_naming(&[], &[(flag.variable, value)], flag.variable);
}

#[test]
fn a_negative_number_is_a_value_and_no_flag() {
    for flag in ["--threads", "--events-max", "--fal-concurrency"] {
        refused_naming(&[flag, "-1"], &[], &format!("{flag} ("));
    }
    // A group's id, as its administrator copies it: what is refused is what stands after it.
    let group = ["--admin-chat", "-1001234567890", "--threads", "0"];
    refused_naming(&group, &[], "--threads (");
}

#[test]
fn the_line_that_says_what_is_wrong_is_json_where_the_log_is() {
    let json = ("FAL_WORKER_LOG_FORMAT", "json");
    let key = ("FAL_KEY", KEY);
    for (flags, variables, name) in [
        (&[][..], &[json][..], "FAL_KEY: missing"),
        (&["--threads", "0"], &[json, key], "--threads"),
        (&["--log-format=json", "--threads=0"], &[key], "--threads"),
        (
            &["--threads=0", "--log-format", "json"],
            &[key, ("FAL_WORKER_LOG_FORMAT", "auto")],
            "--threads",
        ),
        (&["--no-such-flag"], &[json, key], "--no-such-flag"),
    ] {
        let case = format!("{flags:?} {variables:?}");
        let output = refused(flags, variables).unwrap_or_else(|| panic!("{case} was taken"));
        exits(&output, 78);
        let said = err(&output);
        assert_eq!(said.lines().count(), 1, "{case}: {said}");
        let line: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{case}: {said}"));
        assert_eq!(line["level"], "error", "{case}: {said}");
        let message = line["message"].as_str().unwrap();
        assert!(
            message.starts_with("configuration refused: ") && message.contains(name),
            "{case}: {said}"
        );
    }
    // The flag beats the variable, and JSON is nobody's default.
    for flags in [&["--log-format", "auto"][..], &["--log-format=xml"]] {
        let output = refused(flags, &[json]).expect("refused");
        assert!(!err(&output).starts_with('{'), "{}", err(&output));
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    refused_naming(&["--poll-min", "6s"], &[], "--poll-min");
    refused_naming(
        &["--threads", "64", "--redis-connections", "50"],
        &[],
        "--redis-connections",
    );
    refused_naming(
        &["--redis-url", "redis://:password@127.0.0.1:1/0"],
        &[],
        "--redis-url",
    );
    refused_naming(&[], &[("REDIS_URL", "redis-sentinel://a,b")], "REDIS_URL");
    refused_naming(&[], &[("REDIS_URL", "redis-cluster://a,b")], "--namespace");
}

#[test]
fn a_setting_that_this_version_does_not_know_is_refused_by_every_command() {
    for name in [
        "FAL_WORKER_MODEL_LIMIT",
        "FAL_WORKER_THREAD",
        "FAL_WORKER_FAL_CONCURENCY",
        "FAL_WORKER_",
    ] {
        refused_naming(&[], &[(name, "1")], name);
        let output = Command::new(env!("CARGO_BIN_EXE_fal-worker"))
            .arg("status")
            .env_clear()
            .env(name, "1")
            .output()
            .unwrap();
        exits(&output, 78);
        assert!(err(&output).contains(name), "{}", err(&output));
    }
    // Empty is not set.
    let empty = [
        ("FAL_KEY", KEY),
        ("REDIS_URL", NOWHERE),
        ("FAL_WORKER_LISTEN", ""),
        ("FAL_WORKER_THREADS", ""),
    ];
    assert!(refused(&[], &empty).is_none());
}

#[test]
fn a_wrong_password_for_redis_exits_78() {
    let mut world = World::new();
    let _: String = world.redis(&["CONFIG", "SET", "requirepass", "right"]);
    let wrong = format!("redis://:wrong@127.0.0.1:{}/0", world.sandbox.redis.port());
    let mut command = world.command(&[]);
    let twice = ["--redis-url", NOWHERE, "--redis-url", NOWHERE];
    let output = command.args(twice).output().unwrap();
    exits(&output, 78); // given twice
    let output = Command::new(env!("CARGO_BIN_EXE_fal-worker"))
        .arg("run")
        .env_clear()
        .envs([("FAL_KEY", KEY), ("REDIS_URL", &wrong)])
        .output()
        .unwrap();
    exits(&output, 78);
    let said = err(&output);
    assert!(
        said.contains("configuration refused: --redis-url"),
        "{said}"
    );
    assert!(!said.contains("wrong@"), "{said}");
}

// ---- output that is not taken ----

#[test]
fn a_command_whose_output_is_not_taken_says_so_in_one_line_and_exits_1() {
    let (mut world, _daemon) = World::running();
    world.sandbox.telegram.add_chat(7);
    world.push(job("a").chat(7).json());
    world.wait_state("a", "done");
    for line in [
        "status",
        "status --json",
        "status --watch",
        "jobs",
        "show a",
        "events",
        "events --json --follow",
        "why a",
        "redeliver a",
        "pause --reason test",
        "resume --json",
        "retry --all-dead",
        "cancel a",
        "delete a a --dry-run",
        "check --offline",
        "man",
        "completions bash",
        "--version",
        "help status",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = world.cli(&args);
        let secrets = [("FAL_KEY", KEY), ("TELEGRAM_BOT_TOKEN", TOKEN)];
        let child = command.envs(secrets).stdout(full).stderr(Stdio::piped());
        let output = child.spawn().unwrap().wait_with_output().unwrap();
        exits(&output, 1);
        let said = err(&output);
        let whole = "fal-worker: its output is not taken: No space left on device (os error 28)\n";
        assert_eq!(said, whole, "{line}");
    }
}

#[test]
fn a_reader_who_has_seen_enough_ends_a_command_without_a_word() {
    let world = World::new();
    for line in ["status", "events --follow", "completions bash"] {
        let args: Vec<&str> = line.split(' ').collect();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = world.cli(&args);
        let child = command.stdout(writer).stderr(Stdio::piped());
        let output = child.spawn().unwrap().wait_with_output().unwrap();
        exits(&output, i32::from(line == "completions bash"));
        assert_eq!(err(&output), "", "{line}");
    }
}

// ---- demo, loadtest ----

/// `fal-worker` with both its outputs piped; the reader of the first is dropped at once.
fn unread(args: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fal-worker"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    child.wait_with_output().unwrap()
}

#[test]
fn demo_and_loadtest_end_with_a_word_when_nobody_reads_what_they_print() {
    let loadtest = ["loadtest", "--users", "1", "--json"];
    let short = ["--generation", "100ms", "--latency", "0s"];
    for args in [&["demo"][..], &[&loadtest[..], &short].concat()] {
        let output = unread(args);
        exits(&output, 1);
        let said = err(&output);
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert!(said.contains("its output is not taken"), "{args:?}: {said}");
    }
}

#[test]
fn loadtest_shows_the_steps_that_were_done_when_it_is_interrupted() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fal-worker"))
        .args(["loadtest", "--users", "1,2,3", "--generation", "1s"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A line for each step that is done.
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    stderr.read_line(&mut said).unwrap();
    assert!(said.starts_with("1 users: "), "{said}");
    let pid = child.id().to_string();
    let killed = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(killed.success());
    stderr.read_to_string(&mut said).unwrap();
    let output = child.wait_with_output().unwrap();
    exits(&output, 1);
    assert!(
        said.ends_with("fal-worker loadtest: interrupted\n"),
        "{said}"
    );
    let shown = out(&output);
    let rows = shown.lines().filter(|line| line.starts_with('│'));
    let rows: Vec<&str> = rows.collect();
    assert_eq!(rows.len(), 2, "{shown}"); // with the head
    assert!(rows[1].starts_with("│     1 ┆"), "{shown}");
}

#[test]
fn demo_and_loadtest_hear_a_signal_while_redis_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (hangs, born) = (folder.path().join("hangs"), folder.path().join("born"));
    let script = format!("#!/bin/sh\n: >{}\nexec sleep 60\n", born.display());
    fs::write(&hangs, script).unwrap();
    fs::set_permissions(&hangs, PermissionsExt::from_mode(0o755)).unwrap();
    for command in ["demo", "loadtest"] {
        let child = Command::new(env!("CARGO_BIN_EXE_fal-worker"))
            .arg(command)
            .env("FAL_WORKER_TEST_REDIS_SERVER", &hangs)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        eventually(SOON, || born.exists(), |born| *born);
        fs::remove_file(&born).unwrap();
        let asked = Instant::now();
        let pid = child.id().to_string();
        let killed = Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(killed.success());
        let output = child.wait_with_output().unwrap();
        exits(&output, 1);
        assert_eq!(err(&output), format!("fal-worker {command}: interrupted\n"));
        // Without a look at the signal: ten seconds and thirty.
        assert!(asked.elapsed() < Duration::from_secs(8), "{command}");
    }
}

// ---- secrets ----

#[test]
fn each_secret_comes_from_a_variable_a_file_or_a_credential_and_only_from_one() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("{text}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (variable, credential, value) in [
        ("FAL_KEY", "fal-key", KEY),
        ("TELEGRAM_BOT_TOKEN", "telegram-bot-token", TOKEN),
        ("REDIS_URL", "redis-url", NOWHERE),
    ] {
        let file_variable = format!("{variable}_FILE");
        let file = write("secret", value);
        let needed: Vec<(&str, &str)> = [("FAL_KEY", KEY), ("REDIS_URL", NOWHERE)]
            .into_iter()
            .filter(|(name, _)| *name != variable)
            .collect();
        let taken = |more: &[(&str, &str)]| refused(&[], &[&needed[..], more].concat());

        let from_file = (file_variable.as_str(), file.as_str());
        assert!(taken(&[(variable, value)]).is_none(), "{variable}");
        assert!(taken(&[from_file]).is_none(), "{file_variable}");
        write(credential, value);
        let from_credential = ("CREDENTIALS_DIRECTORY", place);
        assert!(
            taken(&[from_credential]).is_none(),
            "credential {credential}"
        );

        for two in [
            [(variable, value), from_file],
            [(variable, value), from_credential],
            [from_file, from_credential],
        ] {
            let output = taken(&two).unwrap_or_else(|| panic!("{two:?} were taken"));
            exits(&output, 78);
            let said = err(&output);
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(
                said.contains(variable) || said.contains(credential),
                "{said}"
            );
            assert!(!said.contains(value), "{said}");
        }
        fs::remove_file(folder.path().join(credential)).unwrap();
        let output = taken(&[(&file_variable, "/nowhere/secret")]).expect("refused");
        exits(&output, 78);
        assert!(err(&output).contains(&file_variable), "{}", err(&output));
    }
}

#[test]
fn a_missing_or_misshapen_secret_is_refused_without_being_shown() {
    let output = refused(&[], &[("REDIS_URL", NOWHERE)]).expect("refused");
    exits(&output, 78);
    assert!(err(&output).contains("FAL_KEY"), "{}", err(&output));
    for (name, value) in [
        ("FAL_KEY", "not-a-pair-but-secret"),
        ("FAL_KEY", "id:with space"),
        ("TELEGRAM_BOT_TOKEN", "12345:too-short-but-secret"),
    ] {
        let output = refused(
            &[],
            &[("FAL_KEY", KEY), ("REDIS_URL", NOWHERE), (name, value)],
        );
        let output = output.unwrap_or_else(|| panic!("{name}={value} was taken"));
        exits(&output, 78);
        assert!(err(&output).contains(name), "{}", err(&output));
        assert!(!err(&output).contains(value), "{}", err(&output));
    }
}
