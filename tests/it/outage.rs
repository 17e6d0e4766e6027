//! A service that is away, as a whole: the work at the other goes on at its time (bulkheads), nobody dies
//! of it, and what the service itself says, however badly, is no outage (breakers; design section 2).

use crate::support::proxy::{Flow, Proxy};
use crate::support::tap::{At, Side, Tap};
use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule, RuleId};
use fal_worker::sandbox::media;
use fal_worker::sandbox::telegram::Kind;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What is still punctual on a machine that is busy. Stuck behind a service that is away it would be seconds: a look
/// at a status hangs for ten, a call of Telegram for thirty.
const PUNCTUAL: Duration = Duration::from_secs(1);

fn median(mut spans: Vec<Duration>) -> Duration {
    assert!(!spans.is_empty());
    spans.sort();
    spans[spans.len() / 2]
}

/// A daemon that says when each delayed delivery is due.
fn talkative(world: &mut World, threads: &str, rate: &str) -> Daemon {
    let more = ["--threads", threads, "--telegram-rate", rate];
    let daemon = world.spawn(&more, &[("RUST_LOG", "debug")]);
    daemon.wait_log(" ready ");
    daemon
}

/// When each parked delivery is due, in milliseconds since 1970, by job: from the daemon's log.
fn due_times(daemon: &Daemon) -> BTreeMap<String, i128> {
    let field = |line: &str, name: &str| {
        let behind = line.split(&format!(" {name}=")).nth(1)?;
        Some(behind.split_whitespace().next()?.to_owned())
    };
    let log = daemon.log_text();
    let waits = log.lines().filter(|line| line.contains("delivery waits"));
    waits
        .map(|line| {
            let stamp = line.split_whitespace().next().unwrap();
            let at = humantime::parse_rfc3339_weak(stamp).unwrap();
            let at = at.duration_since(UNIX_EPOCH).unwrap().as_millis() as i128;
            let wait: i128 = field(line, "in_ms").unwrap().parse().unwrap();
            (field(line, "job").unwrap(), at + wait)
        })
        .collect()
}

#[test]
fn with_fal_in_a_black_hole_deliveries_go_out_at_their_time() {
    const DELIVERIES: i64 = 40;
    let mut world = World::new();
    let proxy = Proxy::to(&world.sandbox.fal.queue_url());
    world.fal_url = Some(format!("http://{}", proxy.address()));
    // Results that wait for their turn, two a second.
    let daemon = talkative(&mut world, "4", "2/1s");
    let chat = |number: i64| 660_000 + number;
    let late: Vec<String> = (0..DELIVERIES).map(|n| format!("late-{n}")).collect();
    let entries: Vec<String> = (0..DELIVERIES)
        .map(|n| job(&late[n as usize]).chat(chat(n)).json())
        .collect();
    world.push_all(&entries);
    for id in &late {
        world.wait_field(id, "charged", "yes");
    }
    // Now fal takes connections and requests, and never answers: every poll hangs.
    world.sandbox.fal.set_slots(0);
    let hanging: Vec<String> = (0..6).map(|n| format!("hang-{n}")).collect();
    let polled: Vec<String> = hanging.iter().map(|id| job(id).json()).collect();
    world.push_all(&polled);
    for id in &hanging {
        world.wait_submitted(id);
    }
    let began = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as i128;
    proxy.stall(Flow::Requests);
    proxy.stall(Flow::Answers);
    world.wait_ended(&late, SOON);
    let due = due_times(&daemon);
    let mut lateness = Vec::new();
    for entry in world.sandbox.telegram.journal() {
        let number = entry.chat.unwrap_or(0) - 660_000;
        let sent = entry.unix_ms as i128 - entry.took.as_millis() as i128;
        // The first ones did not wait.
        let due = due.get(&late[number as usize]).copied().unwrap_or(0);
        if due > began + 1000 {
            lateness.push(Duration::from_millis((sent - due).max(0) as u64));
        }
    }
    assert!(
        lateness.len() >= 10,
        "{} were due while fal was away",
        lateness.len()
    );
    let (middle, worst) = (median(lateness.clone()), lateness.iter().max().unwrap());
    println!(
        "fal black-holed: {} deliveries, lateness median {middle:?}, worst {worst:?}",
        lateness.len()
    );
    proxy.flow();
    world.sandbox.fal.set_slots(1000);
    assert!(middle < PUNCTUAL, "median {middle:?}, all {lateness:?}");
    assert!(*worst < PUNCTUAL * 5, "all {lateness:?}");
    let states = world.wait_ended(&hanging, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    assert_eq!(world.sandbox.fal.totals().submits as i64, DELIVERIES + 6);
    world.assert_no_violations();
}

#[test]
fn with_telegram_in_a_black_hole_submits_polls_and_ends_go_on_at_their_time() {
    let mut world = World::new();
    let proxy = Proxy::to(&world.sandbox.telegram.url());
    world.telegram_url = Some(format!("http://{}", proxy.address()));
    let _daemon = world.daemon(&["--threads", "4"]);
    proxy.stall(Flow::Requests);
    // Results to be sent by URL, texts to be sent, failures to be told: all kinds of calls hang.
    let chatting: Vec<String> = (0..12).map(|n| format!("chat-{n}")).collect();
    let entries: Vec<String> = chatting
        .iter()
        .enumerate()
        .map(|(number, id)| {
            let model = ["fal-ai/flux/dev", "fal-ai/any-llm", "fal-ai/bad-input"][number % 3];
            job(id).model(model).chat(500 + number as i64).json()
        })
        .collect();
    world.push_all(&entries);
    for id in &chatting {
        let done = |record: &BTreeMap<String, String>| {
            record
                .get("phase")
                .is_some_and(|phase| phase == "delivering" || phase == "telling")
        };
        eventually(SOON, || world.record(id), done);
    }
    let mut submit_lag = Vec::new();
    let mut end_lag = Vec::new();
    for number in 0..30 {
        let id = format!("other-{number}");
        let pushed = Instant::now();
        world.push(job(&id).json());
        world.wait_state(&id, "done");
        let submit = world
            .sandbox
            .fal
            .submits_for(&format!("prompt of {id}."))
            .remove(0);
        submit_lag.push(submit.at.saturating_duration_since(pushed));
        let record = world.record(&id);
        let at = |field: &str| record[field].parse::<u64>().unwrap();
        // A poll after some 50 ms, the result, the end.
        end_lag.push(Duration::from_millis(at("ended_at") - at("submitted_at")));
    }
    let (submit, end) = (median(submit_lag.clone()), median(end_lag.clone()));
    println!(
        "telegram black-holed: push to submit median {submit:?}, submit to end median {end:?}"
    );
    assert!(submit < PUNCTUAL, "median {submit:?}: {submit_lag:?}");
    assert!(end < PUNCTUAL * 2, "median {end:?}: {end_lag:?}");
    proxy.flow();
    world.wait_ended(&chatting, SOON);
    assert_eq!(world.sandbox.telegram.duplicates(), []);
    world.assert_clean();
}

/// fal answers nobody for so long, while jobs wait, are at fal and come in.
fn outage(long: Duration, fault: Fault) {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "8"]);
    world.sandbox.fal.set_slots(0);
    let at_fal: Vec<String> = (0..20).map(|n| format!("paid-{n}")).collect();
    world.push_all(&at_fal.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    for id in &at_fal {
        world.wait_submitted(id);
    }
    let kind = format!("{fault:?}");
    let away = world.sandbox.faults.add(Rule::always("fal.*", fault));
    let began = Instant::now();
    world.sandbox.fal.set_slots(1000);
    let waiting: Vec<String> = (0..40).map(|n| format!("new-{n}")).collect();
    world.push_all(&waiting.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    // In a black hole five time-outs come late.
    eventually(SOON * 3, || daemon.logged("fal lost"), |lost| *lost == 1);
    let cut_off = world
        .sandbox
        .faults
        .fired_by_endpoint()
        .get("fal.submit")
        .copied()
        .unwrap_or(0);
    // A steady trickle of new jobs.
    let mut ids = [at_fal, waiting].concat();
    eventually(
        long + SOON,
        || {
            let id = format!("trickle-{}", ids.len());
            world.push(job(&id).json());
            ids.push(id);
            began.elapsed()
        },
        |elapsed| {
            std::thread::sleep(long / 20); // the pace of the trickle
            *elapsed >= long
        },
    );
    let submits = world
        .sandbox
        .faults
        .fired_by_endpoint()
        .get("fal.submit")
        .copied()
        .unwrap_or(0);
    let (down, asked) = (daemon.logged("fal lost"), world.sandbox.faults.fired(away));
    world.sandbox.faults.clear();
    world.wait_ended(&ids, SOON * 2);
    let mut attempts = 0;
    for id in &ids {
        let record = world.record(id);
        assert_eq!(record["state"], "done", "{record:?}");
        attempts += record["attempt"].parse::<u64>().unwrap();
        assert_eq!(submits_of(&world, id), 1, "{id}");
    }
    let lost = attempts - ids.len() as u64;
    println!(
        "{kind} for {long:?}: {} jobs, {asked} calls met it, {submits} submits cut off, {lost} attempts lost",
        ids.len()
    );
    // Those under way when the breaker opened, and no other.
    assert_eq!(submits, lost);
    assert!(
        submits <= cut_off + 6,
        "{submits} submits, {cut_off} before fal was lost"
    );
    assert!(lost <= 11, "{lost} attempts");
    assert_eq!(world.counted("resubmitted_after_unknown"), lost);
    assert_eq!((down, daemon.logged("fal back")), (1, 1));
    assert_eq!(daemon.logged("job failed"), 0);
    world.assert_clean();
}

#[test]
fn in_an_outage_no_job_dies_and_only_submits_cut_off_before_it_was_noticed_cost_an_attempt() {
    outage(Duration::from_secs(12), Fault::ResetBeforeRead);
}

#[test]
#[ignore = "ten minutes: a total outage of fal, its gateway's page for everything"]
fn in_ten_minutes_of_outage_no_job_dies() {
    outage(Duration::from_secs(600), Fault::Html502);
}

#[test]
#[ignore = "ten minutes: a total outage of fal, a black hole"]
fn in_ten_minutes_of_silence_no_job_dies() {
    outage(Duration::from_secs(600), Fault::Hang(700_000));
}

/// So many exchanges meet this rule from here on, which are none of these.
fn asked_on(world: &World, rule: RuleId, times: u32) {
    let fired = || world.sandbox.faults.fired(rule);
    let before = fired();
    eventually(SOON, fired, |now| *now >= before + times);
}

/// Five failures in a row show an outage; a job that is alone has three attempts, which used to be spent in seven
/// seconds.
#[test]
fn a_job_that_is_alone_outlives_an_outage_of_fal_at_the_cost_of_one_attempt() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "4"]);
    let away = world
        .sandbox
        .faults
        .add(Rule::always("fal.*", Fault::Html502));
    world.push(job("alone").json());
    daemon.wait_log("fal lost");
    // Half a second, one, two, four: beyond its next submit.
    asked_on(&world, away, 4);
    let submits = world.sandbox.faults.fired_by_endpoint()["fal.submit"];
    assert_eq!(submits, 1, "each may have to be paid");
    world.sandbox.faults.clear();
    let record = world.wait_state("alone", "done");
    assert_eq!(record["attempt"], "2", "{record:?}");
    assert_eq!(submits_of(&world, "alone"), 1);
    world.assert_clean();
}

#[test]
fn a_delivery_that_is_alone_outlives_an_outage_of_telegram_with_one_send_in_doubt() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "4"]);
    let away = world
        .sandbox
        .faults
        .add(Rule::always("tg.*", Fault::Html502));
    world.push(job("alone").chat(4711).json());
    daemon.wait_log("telegram lost");
    asked_on(&world, away, 4);
    let sent = world.sandbox.faults.fired_by_endpoint();
    assert_eq!(sent["tg.sendphoto"], 1, "each may have gone out: {sent:?}");
    world.sandbox.faults.clear();
    world.wait_state("alone", "done");
    assert_eq!(world.sandbox.telegram.messages(4711).len(), 1);
    world.assert_clean();
}

fn own_500(headers: Vec<(String, String)>) -> Fault {
    Fault::Answer {
        status: 500,
        content_type: "application/json".into(),
        headers,
        body: br#"{"detail":"Internal Server Error"}"#.to_vec(),
    }
}

#[test]
fn a_500_in_fals_own_name_is_no_outage_and_one_without_it_is() {
    for (named, lost) in [(true, 0), (false, 1)] {
        let mut world = World::new();
        let daemon = world.daemon(&["--threads", "4"]);
        let id = ("x-fal-request-id".to_owned(), "0198".to_owned());
        let fault = own_500(if named { vec![id] } else { Vec::new() });
        let rule = Rule::always("fal.status", fault).for_requests_with("case/sick/");
        let rule = world.sandbox.faults.add(rule);
        world.sandbox.fal.model("case/sick", Script::default());
        let ids: Vec<String> = (0..8).map(|n| format!("sick-{n}")).collect();
        let entries: Vec<String> = ids
            .iter()
            .map(|id| job(id).model("case/sick").json())
            .collect();
        world.push_all(&entries);
        // With nobody between them these are well over five in a row.
        if named {
            eventually(SOON, || world.sandbox.faults.fired(rule), |n| *n >= 20);
        } else {
            daemon.wait_log("fal lost");
        }
        assert_eq!(daemon.logged("fal lost"), lost, "named: {named}");
        world.sandbox.faults.clear();
        let states = world.wait_ended(&ids, SOON);
        assert!(states.iter().all(|state| state == "done"), "{states:?}");
        world.assert_clean();
    }
}

/// A submit runs nothing, so its 500 is never the job's own: each one more might be paid for once more.
#[test]
fn a_fal_that_answers_submits_with_500_in_its_own_name_is_away_and_no_job_dies() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "4"]);
    let id = ("x-fal-request-id".to_owned(), "0198".to_owned());
    let rules = ["fal.submit", "fal.status"].map(|endpoint| {
        let rule = Rule::always(endpoint, own_500(vec![id.clone()]));
        world.sandbox.faults.add(rule)
    });
    let ids: Vec<String> = (0..20).map(|n| format!("j{n}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    daemon.wait_log("fal lost");
    let fired = |at: usize| world.sandbox.faults.fired(rules[at]);
    let probes = fired(1);
    eventually(SOON, || fired(1), |n| *n >= probes + 3);
    let submits = fired(0);
    assert!(submits <= 8, "{submits} submits"); // five, and those under way with the fifth
    assert_eq!(daemon.logged("job failed"), 0);
    world.sandbox.faults.clear();
    assert_eq!(world.wait_ended(&ids, SOON), ["done"; 20]);
    assert_eq!(
        world.counted("resubmitted_after_unknown"),
        u64::from(submits)
    );
    world.assert_clean();
}

/// Each submit that fails may be paid for. While what is at fal is read well one at a time asks whether fal takes
/// requests again, and the rest wait unpaid.
#[test]
fn a_fal_that_takes_no_submits_while_reads_go_well_is_asked_by_one_submit_at_a_time() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "4"]);
    world.sandbox.fal.set_slots(0);
    let at_fal: Vec<String> = (0..8).map(|n| format!("paid-{n}")).collect();
    world.push_all(&at_fal.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    for id in &at_fal {
        world.wait_submitted(id);
    }
    let rule = world
        .sandbox
        .faults
        .add(Rule::always("fal.submit", Fault::Html502));
    let faults = world.sandbox.faults.clone();
    let fired = || u64::from(faults.fired(rule));
    let ids: Vec<String> = (0..20).map(|n| format!("new-{n}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    daemon.wait_log("fal takes no jobs");
    let (before, noticed) = (fired(), Instant::now());
    assert!(before <= 8, "{before} submits"); // five, and those under way with the fifth
    world.sandbox.fal.set_slots(1000);
    assert_eq!(world.wait_ended(&at_fal, SOON), ["done"; 8]);
    let after = eventually(SOON, fired, |n| *n >= before + 2);
    // Half a second, one, two: the doubling begins when the breaker opens.
    let (asked, time) = (after - before, noticed.elapsed());
    assert!(asked <= 3 + time.as_secs(), "{asked} in {time:?}");
    let owned = world.claims(&daemon.instance()).len();
    assert!(owned <= 8, "{owned} in hand: the rest waits in Redis");
    // With no poll between five of them: its free probe knows better.
    assert!(daemon.logged("fal lost") <= 1);
    world.sandbox.faults.clear();
    assert_eq!(world.wait_ended(&ids, SOON), ["done"; 20]);
    assert_eq!(world.counted("resubmitted_after_unknown"), fired());
    assert_eq!(daemon.logged("fal takes jobs again"), 1);
    world.assert_clean();
}

/// A look at the result in the place of one at the status has ten seconds, and a result may be megabytes.
#[test]
fn results_that_come_slowly_are_no_outage_of_fal() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "8"]);
    let script = Script::default().taking(Duration::from_millis(4500));
    world.sandbox.fal.model("case/large", script);
    // Asked while it ran, answered when it was there, and then by a slow line: five in a row.
    let faults = &world.sandbox.faults;
    let held = faults.add(Rule::first(5, "fal.result", Fault::DelayMs(5000)));
    let slow = faults.add(Rule::first(5, "fal.result", Fault::SlowBody));
    let ids: Vec<String> = (0..5).map(|n| format!("large-{n}")).collect();
    let entries: Vec<String> = ids
        .iter()
        .map(|id| job(id).model("case/large").json())
        .collect();
    world.push_all(&entries);
    let states = world.wait_ended(&ids, SOON * 2);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    let fired = [held, slow].map(|rule| world.sandbox.faults.fired(rule));
    assert_eq!(fired, [5, 5]);
    assert_eq!(daemon.logged("fal lost"), 0, "{}", daemon.log_text());
    for id in &ids {
        assert_eq!(submits_of(&world, id), 1, "{id}");
        // Cut off, and then fetched with the time that a result has.
        let request = world.record(id)["request_id"].clone();
        assert_eq!(
            world.sandbox.fal.request(&request).unwrap().fetches,
            2,
            "{id}"
        );
    }
    world.assert_clean();
}

#[test]
fn a_500_in_telegrams_own_words_is_no_outage_and_a_gateways_page_is() {
    let own = Fault::telegram(500, "Internal Server Error: request aborted");
    for (fault, lost) in [(own, 0), (Fault::Html502, 1)] {
        let mut world = World::new();
        let daemon = world.daemon(&["--threads", "8"]);
        let kind = format!("{fault:?}");
        let rule = world
            .sandbox
            .faults
            .add(Rule::first(8, "tg.sendmessage", fault));
        let ids: Vec<String> = (0..8).map(|n| format!("t{n}")).collect();
        let entries: Vec<String> = (1..=8)
            .map(|n| {
                job(&ids[n - 1])
                    .model("fal-ai/any-llm")
                    .chat(n as i64)
                    .json()
            })
            .collect();
        world.push_all(&entries);
        if lost == 0 {
            eventually(SOON, || world.sandbox.faults.fired(rule), |n| *n == 8);
        } else {
            daemon.wait_log("telegram lost");
        }
        let states = world.wait_ended(&ids, SOON);
        assert!(states.iter().all(|state| state == "done"), "{states:?}");
        assert_eq!(daemon.logged("telegram lost"), lost, "{kind}");
        world.assert_clean();
    }
}

#[test]
fn cancels_that_fal_leaves_unanswered_count_towards_an_outage() {
    let mut world = World::new();
    let more = [
        "--threads",
        "8",
        "--poll-min",
        "300ms",
        "--poll-max",
        "300ms",
    ];
    let daemon = world.spawn(&more[..2], &[("FAL_WORKER_POLL_MAX", "1s")]);
    daemon.wait_log(" ready ");
    let stubborn = Script {
        heeds_cancel: true,
        ..Script::new(Outcome::Never)
    };
    world.sandbox.fal.model("case/never", stubborn);
    // Slow to fail: by then every look at a status that came before them was answered.
    for fault in [Fault::DelayMs(700), Fault::Html502] {
        world
            .sandbox
            .faults
            .add(Rule::first(6, "fal.cancel", fault));
    }
    let ids: Vec<String> = (0..6).map(|n| format!("c{n}")).collect();
    let entries: Vec<String> = ids
        .iter()
        .map(|id| job(id).model("case/never").with("timeout_s", 4).json())
        .collect();
    // They become overdue while a look is held; then all are told to stop at once. The first look, which
    // starts their clock, passes; what was seen running is asked for its result, soon enough on a slow machine too.
    let held = world.sandbox.fal.hold("fal.result");
    world.push_all(&entries);
    assert!(held.wait_arrived(6, SOON));
    let overdue = Instant::now() + Duration::from_millis(4200);
    eventually(SOON, Instant::now, |now| *now > overdue);
    held.release();
    daemon.wait_log("fal lost");
    world.wait_ended(&ids, SOON);
    for id in &ids {
        assert_eq!(world.record(id)["kind"], "timeout");
    }
    world.assert_clean();
}

#[test]
fn a_name_that_does_not_resolve_uses_no_attempt() {
    let mut world = World::new();
    world.fal_url = Some("http://nohost.invalid".into());
    let daemon = world.daemon(&["--threads", "4", "--plain-http", "nohost.invalid"]);
    certainly_not_accepted(&mut world, daemon);
}

#[test]
fn a_failed_tls_handshake_uses_no_attempt() {
    // A port that speaks plain HTTP, where TLS is expected.
    let mut world = World::new();
    let plain = world.sandbox.fal.queue_url().replace("http://", "https://");
    world.fal_url = Some(plain);
    let daemon = world.daemon(&["--threads", "4"]);
    certainly_not_accepted(&mut world, daemon);
}

/// The one attempt of each job is still there when fal can be reached again, by another daemon.
fn certainly_not_accepted(world: &mut World, mut daemon: Daemon) {
    let ids: Vec<String> = (0..8).map(|n| format!("n{n}")).collect();
    let entries: Vec<String> = ids
        .iter()
        .map(|id| job(id).with("max_attempts", 1).json())
        .collect();
    world.push_all(&entries);
    daemon.wait_log("fal lost");
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(daemon.logged("fal lost"), 1);
    for id in &ids {
        let record = world.record(id);
        assert_eq!(record["attempt"], "0", "{record:?}");
        assert!(
            matches!(record["state"].as_str(), "queued" | "later"),
            "{record:?}"
        );
    }
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
    world.fal_url = None;
    let _next = world.daemon(&["--threads", "4"]);
    for id in &ids {
        let record = world.wait_state(id, "done");
        assert_eq!(
            (record["attempt"].as_str(), submits_of(world, id)),
            ("1", 1)
        );
    }
    world.assert_clean();
}

/// Of three threads one may be inside fal. The first job's is, until fal has answered; its write to Redis is
/// no exchange with fal.
#[test]
fn while_a_slow_redis_takes_an_answer_of_fal_its_place_there_is_anothers() {
    let mut world = World::new();
    let tap = Tap::new(&world);
    tap.insert(&mut world, true);
    let _daemon = world.daemon(&["--threads", "3"]);
    world.wait_idle();
    tap.count();
    tap.hold_at(At::Label("submitted"), Side::Before);
    world.push(job("a").json());
    tap.wait_held(SOON);
    world.push(job("b").json());
    let submits = || world.sandbox.fal.totals().submits;
    eventually(SOON, submits, |number| *number == 2);
    // Not only since the first write was given up and made again.
    assert_eq!(world.record("a")["phase"], "submitting");
    tap.release();
    world.wait_state("a", "done");
    world.wait_state("b", "done");
    world.assert_clean();
}

#[test]
fn a_place_at_fal_that_a_failure_frees_is_taken_at_once_though_its_thread_goes_on_at_telegram() {
    let mut world = World::new();
    let refused = json!({"detail": [{"loc": ["body", "x"], "msg": "m", "type": "missing"}]});
    let script = Script::new(Outcome::error(422, refused));
    world.sandbox.fal.model("case/refused", script);
    let _daemon = world.daemon(&["--threads", "4"]);
    let mut waits = Vec::new();
    for round in 0..7 {
        let results = world.sandbox.fal.hold("fal.result");
        let told = world.sandbox.telegram.hold("tg.sendmessage");
        let failing = [format!("f{round}-0"), format!("f{round}-1")];
        for id in &failing {
            world.push(job(id).model("case/refused").chat(5).json());
        }
        assert!(results.wait_arrived(2, SOON)); // all that may be at fal
        let waiting = format!("w{round}");
        world.push(job(&waiting).json());
        world.wait_state(&waiting, "running");
        let freed = Instant::now();
        results.release();
        let prompt = format!("prompt of {waiting}.");
        let submit = eventually(
            SOON,
            || world.sandbox.fal.submits_for(&prompt).pop(),
            |submit| submit.is_some(),
        );
        waits.push(submit.unwrap().at.saturating_duration_since(freed));
        assert!(told.wait_arrived(2, SOON));
        told.release();
        for id in &failing {
            world.wait_state(id, "dead");
        }
        world.wait_state(&waiting, "done");
    }
    let middle = median(waits.clone());
    println!("a freed place at fal is taken after a median of {middle:?}");
    // By itself a puller looks every half second. A busy machine needs some tens of milliseconds for the way.
    assert!(middle < Duration::from_millis(120), "{waits:?}");
    world.assert_clean();
}

#[test]
fn what_a_worker_cut_off_from_fal_has_not_begun_is_another_workers() {
    let mut world = World::new();
    let proxy = Proxy::to(&world.sandbox.fal.queue_url());
    world.fal_url = Some(format!("http://{}", proxy.address()));
    let cut_off = world.daemon(&["--threads", "8"]);
    let hold = world.sandbox.fal.hold("fal.submit");
    let ids: Vec<String> = (0..40).map(|n| format!("j{n}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    // Six places at fal, and four more claimed.
    let running = |world: &mut World| {
        let states = ids.iter().map(|id| world.state(id));
        states.filter(|state| state == "running").count()
    };
    eventually(SOON, || running(&mut world), |n| *n >= 10);
    proxy.refuse(true);
    proxy.cut();
    cut_off.wait_log("fal lost");
    drop(hold);
    world.fal_url = None;
    let _other = world.daemon(&["--threads", "8"]);
    assert_eq!(world.wait_ended(&ids, SOON), ["done"; 40]);
    assert!(!cut_off.log_text().contains("fal back"));
}

/// Transfers wait in a channel that nobody can look into: what of them is unpaid goes back once its turn comes.
#[test]
fn what_waits_for_a_transfer_of_a_worker_cut_off_from_fal_is_another_workers() {
    let mut world = World::new();
    let proxy = Proxy::to(&world.sandbox.fal.queue_url());
    world.fal_url = Some(format!("http://{}", proxy.address()));
    let cut_off = world.daemon(&["--threads", "8"]);
    let hold = world.sandbox.fal.hold("fal.put");
    let bytes = media::png(8, 8, Some(1));
    let telegram = &world.sandbox.telegram;
    let picture = telegram.user_file(Kind::Photo, "file_1.jpg", bytes);
    let with_file = job("f").with("input_files", json!({"image_url": picture}));
    world.push(with_file.json());
    assert!(hold.wait_arrived(1, SOON));
    proxy.refuse(true);
    proxy.cut();
    // Somebody has to notice.
    world.push_all(&["a", "b", "c", "d", "e", "g"].map(|id| job(id).json()));
    cut_off.wait_log("fal lost");
    world.push(job("direct").with("via", "direct").json());
    drop(hold);
    world.fal_url = None;
    let _other = world.daemon(&["--threads", "8"]);
    let ids = ["a", "b", "c", "d", "e", "f", "g", "direct"].map(str::to_owned);
    assert_eq!(world.wait_ended(&ids, SOON), ["done"; 8]);
    assert!(!cut_off.log_text().contains("fal back"));
    assert_eq!(submits_of(&world, "f"), 1);
}
