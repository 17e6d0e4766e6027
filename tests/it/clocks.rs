//! The worker's own clock decides nothing: under libfaketime the daemon's wall clock is an hour ahead,
//! an hour behind, or jumps while it works, and all ends as it does under the true one. Its monotonic
//! clocks stay true, as they do when somebody sets a machine's time. Log lines may show the wrong time.

use crate::support::*;
use fal_worker::sandbox::fal::Script;
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::telegram::Kind;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// What the daemon's wall clock does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Clock {
    True,
    Ahead,
    Behind,
    Jumping,
}

impl Clock {
    fn offset(self) -> &'static str {
        match self {
            Clock::True | Clock::Jumping => "+0",
            Clock::Ahead => "+3600",
            Clock::Behind => "-3600",
        }
    }
}

/// The library that fakes the clock, where it is installed (Debian: `faketime`).
fn faketime() -> Option<PathBuf> {
    let mut roots = vec![
        "/usr/lib".into(),
        "/usr/lib64".into(),
        "/usr/local/lib".into(),
    ];
    let below: Vec<PathBuf> = std::fs::read_dir("/usr/lib")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    roots.extend(below);
    let found = roots
        .into_iter()
        .map(|root: PathBuf| root.join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists());
    if found.is_none() {
        // Not `eprintln!`: the test runner would keep it to itself.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED clocks: libfaketime is not installed; `apt-get install faketime` brings it"
        );
    }
    found
}

/// A daemon whose wall clock reads a file that [`set`] writes.
fn daemon(
    world: &mut World,
    library: &std::path::Path,
    clock: Clock,
    more: &[&str],
) -> (Daemon, PathBuf) {
    let file = world
        .folder
        .path()
        .join(format!("clock-{}", fastrand::u64(..)));
    set(&file, clock.offset());
    let daemon = world.spawn(
        more,
        &[
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ],
    );
    eventually(SOON, || daemon.log_text(), |log| log.contains(" ready "));
    let wanted = match clock {
        Clock::True | Clock::Jumping => 0,
        Clock::Ahead => 3600,
        Clock::Behind => -3600,
    };
    let off = wrong_by(&daemon);
    assert!(
        (off - wanted).abs() < 300,
        "{clock:?}: its clock is off by {off} s"
    );
    (daemon, file)
}

/// Sets the wall clock of a daemon that runs: seconds from the true one.
fn set(file: &std::path::Path, offset: &str) {
    let next = file.with_extension("next");
    std::fs::write(&next, format!("{offset}\n")).unwrap();
    std::fs::rename(next, file).unwrap(); // whole at every moment
}

/// Seconds that the time of the last log line lies from the true time.
fn wrong_by(daemon: &Daemon) -> i64 {
    let log = daemon.log_text();
    let line = log.lines().last().unwrap();
    let stamp = line
        .trim_start_matches('[')
        .split([' ', ']'])
        .next()
        .unwrap();
    let said = humantime::parse_rfc3339(stamp).unwrap_or_else(|error| panic!("{error}: {line}"));
    let seconds = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs() as i64
    };
    seconds(said) - seconds(SystemTime::now())
}

fn redis_ms(world: &mut World) -> i64 {
    let (seconds, micros): (i64, i64) = world.redis(&["TIME"]);
    seconds * 1000 + micros / 1000
}

/// One of each kind of job that has to do with time; what became of them, to be compared.
fn story(library: &std::path::Path, clock: Clock) -> Vec<String> {
    let mut world = World::new();
    let quick = Script::default().taking(Duration::from_millis(300));
    world.sandbox.fal.model("quick/model", quick);
    let slow = Script {
        heeds_cancel: true,
        ..Script::default().taking(Duration::from_secs(600))
    };
    world.sandbox.fal.model("slow/model", slow);
    for chat in [1, 2, 3] {
        world.sandbox.telegram.add_chat(chat);
    }
    let status = world.sandbox.telegram.plant_message(3, Kind::Text, false);
    let began = redis_ms(&mut world);
    let now = began / 1000;
    let jobs = [
        job("plain").chat(1),
        job("soon").with("not_before", now + 3).chat(2),
        // An hour's error would start it, and end these.
        job("in half an hour")
            .with("id", "in-half-an-hour")
            .with("not_before", now + 1800),
        job("valid").with("expires_at", now + 1800),
        job("waits")
            .with("not_before", now + 2)
            .with("expires_at", now + 1800),
        job("too-old").with("expires_at", now - 1),
        job("limited").model("slow/model").with("timeout_s", 2),
        // No ping: it took no thirty seconds.
        job("edited").chat(3).telegram("status_message_id", status),
        job("unclear"),
    ]
    .map(|job| {
        if job.json().contains("slow/model") {
            job
        } else {
            job.model("quick/model")
        }
    });
    // A submit of unknown outcome waits two seconds before its repeat.
    let rule = Rule::first(1, "fal.submit", Fault::ResetAfterActing);
    world
        .sandbox
        .faults
        .add(rule.for_requests_with("prompt of unclear."));
    let (mut worker, file) = daemon(&mut world, library, clock, &["--threads", "4"]);
    world.push_all(&jobs.map(|job| job.json()));
    let ids = [
        "plain", "soon", "valid", "waits", "too-old", "limited", "edited", "unclear",
    ]
    .map(str::to_owned);
    let mut jumps = ["+3600", "-3600", "+86400", "-86400", "+0"].iter().cycle();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let states: Vec<String> = ids.iter().map(|id| world.state(id)).collect();
        if states
            .iter()
            .all(|state| state == "done" || state == "dead")
        {
            break;
        }
        assert!(Instant::now() < deadline, "{clock:?}: {states:?}");
        if clock == Clock::Jumping {
            set(&file, jumps.next().unwrap());
        }
        std::thread::sleep(Duration::from_millis(50)); // between two looks, and two jumps
    }
    let ended = redis_ms(&mut world);

    // All times are Redis's.
    let events = world.events();
    assert!(events.len() > 20, "{}", events.len());
    for event in &events {
        let at: i64 = event["at"].parse().unwrap();
        assert!((began..=ended).contains(&at), "{clock:?}: {event:?}");
        let ms: i64 = event.get("ms").map_or(0, |ms| ms.parse().unwrap());
        assert!((0..=ended - began).contains(&ms), "{clock:?}: {event:?}");
    }
    let mut outcome = Vec::new();
    for id in &ids {
        let record = world.record(id);
        for name in [
            "queued_at",
            "started_at",
            "submitted_at",
            "completed_at",
            "ended_at",
        ] {
            if let Some(at) = record.get(name) {
                let at: i64 = at.parse().unwrap();
                assert!((began..=ended).contains(&at), "{clock:?}: {id} {name} {at}");
            }
        }
        let field = |name: &str| record.get(name).cloned().unwrap_or_default();
        outcome.push(format!(
            "{id}: {} {} {} attempt {} submits {}",
            field("state"),
            field("kind"),
            field("charged"),
            field("attempt"),
            submits_of(&world, id)
        ));
    }
    let submitted =
        |world: &mut World, id: &str| -> i64 { world.record(id)["submitted_at"].parse().unwrap() };
    for (id, not_before) in [("soon", now + 3), ("waits", now + 2)] {
        let late = submitted(&mut world, id) - not_before * 1000;
        assert!(
            (0..20_000).contains(&late),
            "{clock:?}: {id} submitted {late} ms after its time"
        );
    }
    let limited = world.record("limited");
    let ran = limited["ended_at"].parse::<i64>().unwrap()
        - limited["submitted_at"].parse::<i64>().unwrap();
    assert!(
        (2000..20_000).contains(&ran),
        "{clock:?}: timed out after {ran} ms"
    );
    outcome.push(format!(
        "in-half-an-hour: {}",
        world.state("in-half-an-hour")
    ));
    for chat in [1, 2, 3] {
        outcome.push(format!(
            "chat {chat}: {} messages",
            world.sandbox.telegram.messages(chat).len()
        ));
    }
    outcome.push(format!(
        "counted {}",
        world.counted("resubmitted_after_unknown")
    ));
    // It is waited for half a minute: a clock that decided would be wrong by more.
    assert_eq!(worker.stop(), Some(0), "{clock:?}");
    world.assert_no_violations();
    outcome
}

#[test]
fn a_wall_clock_an_hour_off_or_jumping_changes_no_outcome() {
    let Some(library) = faketime() else { return };
    let clocks = [Clock::True, Clock::Ahead, Clock::Behind, Clock::Jumping];
    let told: Vec<Vec<String>> = std::thread::scope(|scope| {
        let library = &library;
        let running = clocks.map(|clock| scope.spawn(move || story(library, clock)));
        let joined = running.into_iter().map(|one| one.join());
        joined
            .map(|one| one.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    assert!(
        told[0].contains(&"plain: done  yes attempt 1 submits 1".to_owned()),
        "{:#?}",
        told[0]
    );
    assert!(
        told[0].contains(&"too-old: dead expired no attempt 0 submits 0".to_owned()),
        "{:#?}",
        told[0]
    );
    assert!(
        told[0].contains(&"in-half-an-hour: later".to_owned()),
        "{:#?}",
        told[0]
    );
    for (clock, outcome) in clocks.iter().zip(&told) {
        assert_eq!(*outcome, told[0], "{clock:?}");
    }
}

#[test]
fn two_daemons_two_hours_apart_take_nothing_from_each_other_while_both_live() {
    let Some(library) = faketime() else { return };
    let mut world = World::new();
    let slow = Duration::from_secs(10);
    world.sandbox.fal.set_generation(slow, slow);
    // A longer lease than one of them stands still for; a clock that decided would end it at once. And each holds
    // half of the jobs, however late the other one comes.
    let flags = ["--threads", "2", "--lease", "5s", "--max-in-flight", "12"];
    let (ahead, ahead_file) = daemon(&mut world, &library, Clock::Ahead, &flags);
    let (behind, _) = daemon(&mut world, &library, Clock::Behind, &flags);
    // Of other hosts: only the lease speaks for them.
    for worker in [&ahead, &behind] {
        world.as_if_on_another_host(&worker.instance());
    }
    let ids: Vec<String> = (0..24).map(|n| format!("p{n}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    eventually(
        SOON,
        || [&ahead, &behind].map(|worker| world.claims(&worker.instance()).len()),
        |held| *held == [12, 12],
    );
    set(&ahead_file, "-7200"); // and one of them is set back while it holds jobs
    let states = world.wait_ended(&ids, Duration::from_secs(60));
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    let taken: Vec<_> = world
        .events()
        .into_iter()
        .filter(|event| event["event"] == "taken_over")
        .collect();
    assert!(taken.is_empty(), "{taken:?}");
    assert_eq!(world.sandbox.fal.totals().submits, 24);
    world.assert_clean();
}

#[test]
fn a_keeper_with_a_wrong_clock_takes_over_after_the_lease_and_not_before() {
    let Some(library) = faketime() else { return };
    for clock in [Clock::Ahead, Clock::Behind] {
        let mut world = World::new();
        world
            .sandbox
            .fal
            .set_generation(Duration::from_secs(3), Duration::from_secs(3));
        let flags = ["--threads", "2", "--lease", "4s"];
        let mut first = world.daemon(&flags);
        let ids: Vec<String> = (0..6).map(|n| format!("k{n}")).collect();
        world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
        for id in &ids {
            world.wait_submitted(id);
        }
        world.as_if_on_another_host(&first.instance());
        let (_second, _) = daemon(&mut world, &library, clock, &flags);
        let beat = |world: &mut World| -> i64 {
            world.redis::<Vec<(String, f64)>>(&["ZRANGE", "fal:workers", "0", "0", "WITHSCORES"])[0]
                .1 as i64
        };
        first.kill();
        let last_beat = beat(&mut world);
        let taken = eventually(
            SOON,
            || {
                world
                    .events()
                    .into_iter()
                    .find(|event| event["event"] == "taken_over")
            },
            Option::is_some,
        );
        let after = taken.unwrap()["at"].parse::<i64>().unwrap() - last_beat;
        assert!(
            after >= 4000,
            "{clock:?}: taken over {after} ms after the last beat"
        );
        assert!(
            after < 15_000,
            "{clock:?}: taken over {after} ms after the last beat"
        );
        world.wait_ended(&ids, SOON);
        assert_eq!(world.sandbox.fal.totals().submits, 6, "{clock:?}");
        world.assert_clean_after_kills();
    }
}
