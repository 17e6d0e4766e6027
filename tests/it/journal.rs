//! The log when much goes wrong at once: it stays readable, and still names every job.

use crate::support::{SOON, World, eventually, job, said};
use fal_worker::sandbox::faults::{Fault, Rule};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

const JOBS: usize = 1000;

fn thousand(max_attempts: u32) -> (Vec<String>, Vec<String>) {
    let ids: Vec<String> = (0..JOBS).map(|n| format!("order-{n}")).collect();
    let entries = ids
        .iter()
        .map(|id| job(id).with("max_attempts", max_attempts).json());
    let entries = entries.collect();
    (ids, entries)
}

/// Lines of each second, by its time stamp, of those that a filter lets through.
fn by_second(log: &str, wanted: impl Fn(&str) -> bool) -> BTreeMap<&str, usize> {
    let mut seconds = BTreeMap::new();
    for line in log.lines().filter(|line| wanted(line)) {
        *seconds.entry(&line[..19]).or_default() += 1;
    }
    seconds
}

#[test]
fn while_fal_is_away_a_thousand_jobs_leave_a_few_lines() {
    let mut world = World::new();
    // A port that nobody listens on; one that was free a moment ago another test may have by now.
    world.fal_url = Some("http://127.0.0.1:1".to_owned());
    let mut daemon = world.daemon(&["--threads", "32"]);
    let (_, entries) = thousand(3);
    world.push_all(&entries);
    daemon.wait_log("fal lost");
    // What must not come cannot be waited for: ten seconds of an outage.
    let began = Instant::now();
    eventually(
        SOON,
        || began.elapsed(),
        |long| *long >= Duration::from_secs(10),
    );
    assert_eq!(daemon.stop(), Some(0));
    let log = daemon.log_text();
    let seconds = by_second(&log, |_| true);
    println!("fal refuses connections, {JOBS} jobs: {seconds:?}");
    assert_eq!(daemon.logged("fal lost"), 1);
    assert!(log.lines().count() < 100, "{log}");
    // After the first moment: nothing, but the words at the stop. Those that were under way tell their end first.
    let at = |line: &str| {
        let stamp = line.split(' ').next().unwrap();
        humantime::parse_rfc3339_weak(stamp).unwrap()
    };
    let known = log.lines().skip_while(|line| !line.contains("fal lost"));
    let known: Vec<&str> = known
        .take_while(|line| !line.contains(" stopping"))
        .collect();
    let moment = at(known[0]) + Duration::from_secs(3);
    let quiet = known.iter().filter(|line| at(line) > moment).count();
    assert!(quiet <= 20, "{quiet} lines: {seconds:?}");
}

#[test]
fn a_flood_of_failures_is_summarised_and_names_every_job() {
    let mut world = World::new();
    let sick = Fault::Answer {
        status: 408,
        content_type: "application/json".into(),
        // fal's own word, and no 5xx: no outage, but a submit of each job of which nobody knows what became of it.
        headers: vec![("x-fal-request-id".into(), "0198".into())],
        body: br#"{"detail":"Request Timeout"}"#.to_vec(),
    };
    world.sandbox.faults.add(Rule::always("fal.submit", sick));
    let mut daemon = world.daemon(&["--threads", "8"]);
    let (ids, entries) = thousand(2);
    let began = Instant::now();
    world.push_all(&entries);
    let states = world.wait_ended(&ids, Duration::from_secs(240));
    assert!(states.iter().all(|state| state == "dead"), "{states:?}");
    assert_eq!(daemon.stop(), Some(0));
    let log = daemon.log_text();
    let all: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    for sentence in [
        "job retrying",
        "submitted again after unknown",
        "job failed",
    ] {
        let said = said(&log, sentence);
        let named: BTreeSet<&str> = said.keys().copied().collect();
        assert_eq!(named, all, "{sentence}");
        assert!(said.values().all(|times| *times == 1), "{sentence}");
    }
    assert_eq!(
        said(&log, "job started").values().sum::<usize>(),
        2 * JOBS,
        "a job that comes back for its second attempt is started again"
    );
    let doubt = "submitted again after unknown";
    let warnings = |line: &str| line.contains(" WARN ") && !line.contains(doubt);
    let seconds = by_second(&log, warnings);
    let warnings: usize = seconds.values().sum();
    println!(
        "fal answers 408 to each of {JOBS} jobs, twice: {warnings} warnings in place of {}: {seconds:?}",
        2 * JOBS
    );
    // Two sorts: ten whole each, and the names of a thousand in lines of some eighty. On a slow machine it takes
    // longer: each five seconds more may have one whole and one of names.
    let spans = began.elapsed().as_secs() as usize / 5;
    assert!(warnings <= 20 + 2 * JOBS / 40 + 4 * spans, "{seconds:?}");
    // Of what may be paid twice each has a line of its own, up to a hundred a second.
    let doubts = by_second(&log, |line| line.contains(" WARN ") && line.contains(doubt));
    println!("{doubt}: {doubts:?}");
    assert!(doubts.values().sum::<usize>() >= JOBS / 2, "{doubts:?}");
    let held = log.lines().find(|line| {
        line.contains(
            " WARN  lines held back of=\"job failed\" kind=unavailable charged=unknown count=",
        )
    });
    assert!(held.is_some(), "{log}");
    assert!(log.lines().last().unwrap().contains(" stopped "), "{log}");
}

#[test]
fn in_json_each_line_is_an_object_with_the_same_keys() {
    let mut world = World::new();
    let mut daemon = world.spawn(&["--threads", "4", "--log-format", "json"], &[]);
    let (ids, entries) = thousand(3);
    // None of them is a job: two hundred lines of one sort.
    let broken = entries[..200]
        .iter()
        .map(|entry| entry.replace("fal-ai", ""));
    world.push_all(&broken.collect::<Vec<_>>());
    world.push(job("good").chat(7).json());
    world.wait_ended(&ids[..200], SOON);
    world.wait_state("good", "done");
    assert_eq!(daemon.stop(), Some(0));
    let log = daemon.log_text();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    for line in &lines {
        for key in ["ts", "level", "message"] {
            assert!(line[key].is_string(), "{line}");
        }
    }
    let of = |message: &'static str| lines.iter().filter(move |line| line["message"] == message);
    let held = of("lines held back").map(|line| {
        assert_eq!(line["of"], "job failed", "{line}");
        assert_eq!(line["kind"], "invalid_job", "{line}");
        assert_eq!(line["charged"], "no", "{line}");
        assert!(line["within_s"].is_number(), "{line}");
        let jobs = line["jobs"].as_str().unwrap().split(' ').count() as u64;
        assert_eq!(line["count"].as_u64(), Some(jobs), "{line}");
        jobs
    });
    let held: u64 = held.sum();
    assert!(held > 0, "{log}");
    assert_eq!(held + of("job failed").count() as u64, 200);
    let done = of("job done").next().unwrap();
    assert_eq!(
        (done["level"].as_str(), done["job"].as_str()),
        (Some("info"), Some("good"))
    );
    assert!(done["total_ms"].is_number(), "{done}");
}

/// Both ends of a named pipe in which nothing has room.
fn full_pipe(world: &World) -> (std::path::PathBuf, File) {
    let path = world.folder.path().join("log");
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let mut pipe = File::options();
    pipe.read(true).write(true);
    pipe.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    let mut pipe = pipe.open(&path).unwrap();
    while pipe.write(&[b'.'; 4096]).is_ok() {}
    (path, pipe)
}

#[test]
fn a_reader_of_the_log_that_stops_stops_no_job() {
    let mut world = World::new();
    let (path, mut pipe) = full_pipe(&world);
    let mut daemon = world.spawn_logging_to(&path, &["--threads", "2"]);
    let ids: Vec<String> = (0..20).map(|number| format!("unread-{number}")).collect();
    let entries: Vec<String> = ids.iter().map(|id| job(id).json()).collect();
    world.push_all(&entries);
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");

    // It reads again: what comes from now on is there, and how much was lost is said.
    world.push(job("read").json());
    let mut read = String::new();
    let mut read_on = || {
        let mut some = [0; 4096];
        match pipe.read(&mut some) {
            Ok(count) => read.push_str(std::str::from_utf8(&some[..count]).unwrap()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        read.clone()
    };
    eventually(SOON, &mut read_on, |read| read.contains("log lines lost"));
    world.push(job("read-too").json());
    eventually(SOON, &mut read_on, |read| {
        read.contains("job done job=read-too")
    });
    assert_eq!(daemon.stop(), Some(0));
    let read = eventually(SOON, &mut read_on, |read| read.contains(" stopped "));
    let lost = read.lines().find(|line| line.contains("log lines lost"));
    let (_, count) = lost.unwrap().rsplit_once("count=").unwrap();
    // Of each job its begin and of most of them their end: that line comes after the record says so, and those of the
    // last jobs may find a reader again.
    assert!(
        count.parse::<usize>().unwrap() > ids.len() + ids.len() / 2,
        "{count}"
    );
}

#[test]
fn a_daemon_whose_log_nobody_reads_stops_when_it_is_told() {
    let mut world = World::new();
    let (path, _pipe) = full_pipe(&world);
    let mut daemon = world.spawn_logging_to(&path, &[]);
    world.push(job("only").json());
    let states = world.wait_ended(&["only".to_owned()], SOON);
    assert_eq!(states, ["done"]);
    assert_eq!(daemon.stop(), Some(0));
}
