//! What fal says and does not say, at every call: what is an attempt, what is charged, what is asked
//! again, and what pauses everybody (design section 4 and 5, fal-api section 8).

use crate::support::proxy::Proxy;
use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn fault(status: u16, headers: &[(&str, &str)], body: &Value) -> Fault {
    Fault::Answer {
        status,
        content_type: "application/json".into(),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
        body: body.to_string().into_bytes(),
    }
}

/// The fault meets the first submit of this job.
fn at_submit(world: &World, id: &str, fault: Fault) {
    let rule = Rule::first(1, "fal.submit", fault);
    world
        .sandbox
        .faults
        .add(rule.for_requests_with(&format!("prompt of {id}.")));
}

/// The fault meets `times` calls of an endpoint for a model of this name, which paths contain.
fn at_model(world: &World, times: u32, endpoint: &str, model: &str, fault: Fault) {
    world
        .sandbox
        .faults
        .add(Rule::first(times, endpoint, fault).for_requests_with(model));
}

/// Pushes a job of a model of its own, `case/<id>`, that behaves like this.
fn push_case(world: &mut World, id: &str, script: Script, timeout_s: Option<u32>) {
    let model = format!("case/{id}");
    world.sandbox.fal.model(&model, script);
    let mut entry = job(id).model(&model);
    if let Some(timeout_s) = timeout_s {
        entry = entry.with("timeout_s", timeout_s);
    }
    world.push(entry.json());
}

/// State, kind, charged, attempt.
fn verdict(record: &BTreeMap<String, String>) -> [&str; 4] {
    ["state", "kind", "charged", "attempt"].map(|name| record.get(name).map_or("", String::as_str))
}

fn wait_verdict(world: &mut World, id: &str, expected: [&str; 4]) -> BTreeMap<String, String> {
    let record = world.wait_state(id, expected[0]);
    assert_eq!(verdict(&record), expected, "{id}: {record:#?}");
    record
}

fn running() -> (World, Daemon) {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "8"]);
    (world, daemon)
}

#[test]
fn a_submit_that_fal_refused_for_now_uses_no_attempt_and_waits_as_told() {
    let (mut world, daemon) = running();
    let limit = json!({"detail": "Reached concurrent requests limit of 20", "type": "concurrent_requests_limit"});
    at_submit(&world, "busy", fault(429, &[("Retry-After", "4")], &limit));
    let pushed = Instant::now();
    world.push(job("busy").with("max_attempts", 1).json());
    wait_verdict(&mut world, "busy", ["done", "", "yes", "1"]);
    assert!(
        pushed.elapsed() >= Duration::from_secs(4),
        "{:?}",
        pushed.elapsed()
    );
    assert_eq!(submits_of(&world, "busy"), 1);
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
    assert_eq!(daemon.logged("job retrying job=busy"), 1);
    world.assert_clean();
}

#[test]
fn a_submit_of_unknown_outcome_waits_is_an_attempt_and_is_counted() {
    let broken = json!({"detail": "Internal Server Error"});
    // Name, fault, submits that fal saw.
    let cases: Vec<(&str, Fault, usize)> = vec![
        ("e500", fault(500, &[], &broken), 1),
        ("e408", fault(408, &[], &broken), 1),
        ("html502", Fault::Html502, 1),
        ("html504", Fault::Html504, 2),
        ("reset", Fault::ResetAfterActing, 2),
        ("empty", Fault::Empty200, 2),
        ("noid", fault(200, &[], &json!({"status": "IN_QUEUE"})), 1),
        (
            "toobig",
            Fault::Answer {
                status: 200,
                content_type: "application/json".into(),
                headers: Vec::new(),
                body: vec![b' '; 300 << 10],
            },
            1,
        ),
    ];
    let (mut world, daemon) = running();
    let mut pushed = BTreeMap::new();
    for (id, fault, _) in &cases {
        at_submit(&world, id, fault.clone());
        pushed.insert(*id, Instant::now());
        world.push(job(id).json());
    }
    for (id, _, submits) in &cases {
        let record = world.wait_state(id, "done");
        assert_eq!(
            (record["attempt"].as_str(), record["charged"].as_str()),
            ("2", "yes"),
            "{id}"
        );
        let seen = world.sandbox.fal.submits_for(&format!("prompt of {id}."));
        assert_eq!(seen.len(), *submits, "{id}");
        let waited = seen.last().unwrap().at.duration_since(pushed[id]);
        assert!(
            waited >= Duration::from_secs(2),
            "{id} was submitted again after {waited:?}"
        );
        let retry: Vec<_> = world
            .events_of(id)
            .into_iter()
            .filter(|event| event["event"] == "retrying")
            .collect();
        assert_eq!(retry.len(), 1, "{id}");
        assert_eq!(
            (retry[0]["charged"].as_str(), retry[0]["kind"].as_str()),
            ("unknown", "unavailable"),
            "{id}"
        );
    }
    assert_eq!(
        world.counted("resubmitted_after_unknown"),
        cases.len() as u64
    );
    assert_eq!(daemon.logged("submitted again after unknown"), cases.len());
    world.assert_clean();
}

#[test]
fn a_last_submit_of_unknown_outcome_and_every_direct_one_end_charged_unknown() {
    let (mut world, _daemon) = running();
    for id in ["last", "direct"] {
        at_submit(&world, id, Fault::Html504);
    }
    let rule = Rule::first(1, "fal.direct", Fault::Html504);
    world.sandbox.faults.add(rule);
    world.push(job("last").with("max_attempts", 1).json());
    world.push(job("direct").with("via", "direct").json());
    for id in ["last", "direct"] {
        wait_verdict(&mut world, id, ["dead", "unavailable", "unknown", "1"]);
        assert_eq!(submits_of(&world, id), 1, "{id}");
    }
    world.assert_clean();
}

#[test]
fn a_refusal_by_a_fal_that_is_half_away_ends_no_job() {
    let (mut world, daemon) = running();
    let refusal = fault(403, &[], &json!({"detail": "Access denied"}));
    for (endpoint, fault) in [("fal.submit", refusal), ("fal.status", Fault::Html502)] {
        world.sandbox.faults.add(Rule::always(endpoint, fault));
    }
    let ids: Vec<String> = (0..3).map(|n| format!("half-{n}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    for id in &ids {
        let record = || world.record(id);
        eventually(SOON, record, |record| record.contains_key("tries"));
    }
    world.sandbox.faults.clear();
    let states = world.wait_ended(&ids, Duration::from_secs(90));
    assert_eq!(states, ["done"; 3], "{}", daemon.log_text());
    for id in &ids {
        assert_eq!(verdict(&world.record(id)), ["done", "", "yes", "1"], "{id}");
    }
    world.assert_clean();
}

#[test]
fn what_would_be_too_old_when_fal_begins_it_is_not_begun() {
    let (mut world, _daemon) = running();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let entry = job("soon").with("expires_at", now.as_secs() + 20);
    world.push(entry.json());
    world.push(job("any").json());
    let mut deadline = |id: &str| -> f64 {
        world.wait_state(id, "done");
        let submits = world.sandbox.fal.submits_for(&format!("prompt of {id}."));
        let mut headers = submits[0].headers.iter();
        let (_, value) = headers
            .find(|(name, _)| name == "x-fal-request-timeout")
            .unwrap();
        value.parse().unwrap()
    };
    let (soon, any) = (deadline("soon"), deadline("any"));
    assert!(soon <= 21.0 && any > 60.0, "{soon} {any}");
}

#[test]
fn a_gateway_in_front_of_direct_calls_ends_a_few_jobs_and_not_a_backlog() {
    let (mut world, daemon) = running();
    let rule = Rule::always("fal.direct", Fault::Html502);
    world.sandbox.faults.add(rule);
    let ids: Vec<String> = (0..30).map(|n| format!("d{n}")).collect();
    let entries = ids.iter().map(|id| job(id).with("via", "direct").json());
    world.push_all(&entries.collect::<Vec<_>>());
    // Each has had its turn: it has ended in doubt, or waits.
    eventually(
        SOON,
        || {
            let of = |id: &String| world.record(id);
            ids.iter().map(of).collect::<Vec<_>>()
        },
        |records| {
            let had = |record: &BTreeMap<String, String>| {
                record.contains_key("ended_at") || record.contains_key("tries")
            };
            records.iter().all(had)
        },
    );
    daemon.wait_log("fal takes no direct calls reason=");
    // What goes into fal's queue goes on.
    world.push(job("queued").json());
    world.wait_state("queued", "done");
    eventually(
        SOON,
        || String::from_utf8(world.cli(&["status"]).output().unwrap().stdout).unwrap(),
        |text| text.contains("FAL TAKES NO DIRECT CALLS since "),
    );
    world.sandbox.faults.clear();
    let states = world.wait_ended(&ids, Duration::from_secs(150));
    let dead = states.iter().filter(|state| *state == "dead").count();
    println!("{dead} of 30 ended in doubt");
    assert!((5..15).contains(&dead), "{dead} of 30");
    assert_eq!(
        daemon.logged("fal takes no direct calls"),
        1,
        "{}",
        daemon.log_text()
    );
    assert_eq!(daemon.logged("fal takes direct calls again"), 1);
    assert_eq!(daemon.logged("fal lost"), 0);
    for (id, state) in ids
        .iter()
        .zip(&states)
        .filter(|(_, state)| *state == "done")
    {
        let record = world.record(id);
        assert_eq!(verdict(&record), [state, "", "yes", "1"], "{id}");
    }
    world.assert_clean();
}

#[test]
fn a_direct_call_that_failed_is_named_as_fal_names_it() {
    let (mut world, daemon) = running();
    let policy = json!({"detail": [{"loc": [], "msg": "m", "type": "content_policy_violation"}]});
    let named = [("x-fal-request-id", "0198-direct")];
    let refusal = fault(422, &named, &policy);
    world
        .sandbox
        .faults
        .add(Rule::first(1, "fal.direct", refusal));
    world.push(job("direct").with("via", "direct").json());
    let record = world.wait_state("direct", "dead");
    assert_eq!(record["request_id"], "0198-direct");
    let events = world.events_of("direct");
    assert_eq!(events.last().unwrap()["request_id"], "0198-direct");
    daemon.wait_log("request=0198-direct"); // the line comes after the record
    assert_eq!(daemon.logged("request=0198-direct"), 1);
    world.assert_clean();
}

#[test]
fn a_direct_call_that_takes_too_long_is_a_timeout_by_its_own_limit_or_the_operators() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "8", "--job-timeout", "1s"]);
    let slow = Script::default().taking(Duration::from_secs(4));
    world.sandbox.fal.model("case/slow", slow);
    let call = |id: &str| job(id).model("case/slow").with("via", "direct");
    world.push(call("operators").json());
    world.push(call("its-own").with("timeout_s", 2).json());
    world.push(call("longer").with("timeout_s", 60).json());
    for id in ["operators", "its-own"] {
        wait_verdict(&mut world, id, ["dead", "timeout", "unknown", "1"]);
        assert_eq!(submits_of(&world, id), 1, "{id}");
    }
    wait_verdict(&mut world, "longer", ["done", "", "yes", "1"]);
    world.assert_clean();
}

#[test]
fn a_refused_connection_uses_no_attempt_and_is_said_once() {
    let mut world = World::new();
    let proxy = Proxy::to(&world.sandbox.fal.queue_url());
    world.fal_url = Some(format!("http://{}", proxy.address()));
    let daemon = world.daemon(&["--threads", "4"]);
    proxy.refuse(true);
    let ids: Vec<String> = (0..4).map(|n| format!("c{n}")).collect();
    let entries: Vec<_> = ids
        .iter()
        .map(|id| job(id).with("max_attempts", 1).json())
        .collect();
    world.push_all(&entries);
    for id in &ids {
        world.wait_state(id, "later");
    }
    daemon.wait_log("fal lost");
    proxy.refuse(false);
    world.wait_ended(&ids, SOON);
    for id in &ids {
        let record = world.record(id);
        assert_eq!(
            (record["state"].as_str(), record["attempt"].as_str()),
            ("done", "1")
        );
    }
    assert_eq!(
        (
            daemon.logged("fal lost"),
            daemon.logged("fal back after_s=")
        ),
        (1, 1)
    );
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
    world.assert_clean();
}

#[test]
fn a_connection_cut_while_polling_asks_again_and_pays_nothing() {
    let mut world = World::new();
    let proxy = Proxy::to(&world.sandbox.fal.queue_url());
    world.fal_url = Some(format!("http://{}", proxy.address()));
    let _daemon = world.daemon(&["--threads", "4"]);
    let hold = world.sandbox.fal.hold("fal.status");
    world.push(job("a").json());
    assert!(hold.wait_arrived(1, SOON));
    proxy.cut();
    hold.release();
    world.wait_state("a", "done");
    assert_eq!(submits_of(&world, "a"), 1);
    world.assert_clean();
}

#[test]
fn a_request_that_fal_lost_is_believed_after_three_times_and_fifteen_seconds() {
    let (mut world, _daemon) = running();
    let pushed = Instant::now();
    push_case(&mut world, "gone", Script::new(Outcome::Disappear), None);
    // Two 404s in a row and then an answer: a hiccup.
    at_model(
        &world,
        2,
        "fal.status",
        "case/hiccup",
        fault(404, &[], &json!({"status": "NOT_FOUND"})),
    );
    push_case(&mut world, "hiccup", Script::default(), None);
    wait_verdict(&mut world, "gone", ["dead", "unavailable", "yes", "1"]);
    assert!(
        pushed.elapsed() >= Duration::from_secs(15),
        "{:?}",
        pushed.elapsed()
    );
    wait_verdict(&mut world, "hiccup", ["done", "", "yes", "1"]);
    assert_eq!(
        (submits_of(&world, "gone"), submits_of(&world, "hiccup")),
        (1, 1)
    );
    world.assert_clean();
}

#[test]
fn what_the_result_call_says_decides_what_is_charged_and_whether_it_is_tried_again() {
    let (mut world, _daemon) = running();
    let broken = json!({"detail": "Internal Server Error", "error_type": "runner_server_error"});
    let error = |status, body: &Value, headers: &[(&str, &str)], with_error_field| {
        Script::new(Outcome::Error {
            status,
            body: body.clone(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            with_error_field,
        })
    };
    // The result expired at fal: believed after three over fifteen seconds; paid, and not paid again.
    at_model(
        &world,
        9,
        "fal.result",
        "case/expired",
        fault(404, &[], &json!({"status": "NOT_FOUND"})),
    );
    push_case(&mut world, "expired", Script::default(), None);
    // One 404 of a result that is there costs nothing but a look.
    at_model(
        &world,
        1,
        "fal.result",
        "case/hiccup",
        fault(404, &[], &json!({"status": "NOT_FOUND"})),
    );
    push_case(&mut world, "hiccup", Script::default(), None);
    // fal's own 500: one more attempt of ours.
    push_case(&mut world, "own500", error(500, &broken, &[], true), None);
    push_case(
        &mut world,
        "never_again",
        error(500, &broken, &[("X-Fal-Needs-Retry", "0")], true),
        None,
    );
    // A gateway's 502: the same call again.
    at_model(&world, 3, "fal.result", "case/bare502", Fault::Html502);
    push_case(&mut world, "bare502", Script::default(), None);
    // COMPLETED with an error of the input.
    let missing = json!({"detail": [{"loc": ["body", "prompt"], "msg": "Field required", "type": "missing", "input": {}}]});
    at_model(
        &world,
        1,
        "fal.result",
        "case/e422/",
        fault(422, &[], &missing),
    );
    push_case(&mut world, "e422", Script::default(), None);
    push_case(
        &mut world,
        "e422_free",
        error(422, &missing, &[("x-fal-billable-units", "0")], true),
        None,
    );
    let paid = fault(422, &[("x-fal-billable-units", "1.5")], &missing);
    at_model(&world, 1, "fal.result", "case/e422_paid/", paid);
    push_case(&mut world, "e422_paid", Script::default(), None);

    // The status calls it failed, and what stands in place of the result says no more.
    let nothing = json!({"error": "Error", "message": "m"});
    for (id, word, status) in [
        ("bare500", "something_new", 500),
        ("bare422", "something_new", 422),
        ("again500", "runner_server_error", 500),
    ] {
        let typed = json!({"detail": "x", "error_type": word});
        let in_place = match status {
            500 => fault(500, &[("x-fal-request-id", "0198")], &nothing),
            _ => Fault::Answer {
                status,
                content_type: "text/plain".into(),
                headers: vec![("x-fal-request-id".into(), "0198".into())],
                body: b"Unprocessable Entity".to_vec(),
            },
        };
        at_model(&world, 99, "fal.result", &format!("case/{id}/"), in_place);
        push_case(&mut world, id, error(500, &typed, &[], true), None);
    }

    wait_verdict(&mut world, "bare500", ["dead", "unavailable", "no", "1"]);
    wait_verdict(
        &mut world,
        "bare422",
        ["dead", "unavailable", "unknown", "1"],
    );
    wait_verdict(&mut world, "again500", ["dead", "unavailable", "no", "2"]);
    wait_verdict(&mut world, "expired", ["dead", "unavailable", "yes", "1"]);
    wait_verdict(&mut world, "hiccup", ["done", "", "yes", "1"]);
    wait_verdict(&mut world, "own500", ["dead", "unavailable", "no", "2"]);
    wait_verdict(&mut world, "bare502", ["done", "", "yes", "1"]);
    wait_verdict(
        &mut world,
        "e422",
        ["dead", "invalid_input", "unknown", "1"],
    );
    wait_verdict(
        &mut world,
        "e422_free",
        ["dead", "invalid_input", "no", "1"],
    );
    let paid = wait_verdict(
        &mut world,
        "e422_paid",
        ["dead", "invalid_input", "yes", "1"],
    );
    assert_eq!(paid["units"], "1.5");
    let last = world.wait_state("never_again", "dead");
    for (id, submits) in [("expired", 1), ("own500", 2), ("bare502", 1), ("e422", 1)] {
        assert_eq!(submits_of(&world, id), submits, "{id}");
    }
    assert_eq!(verdict(&last)[1..3], ["unavailable", "no"]);
    world.assert_clean();
}

#[test]
fn a_result_whose_failure_passes_is_read_again_and_not_paid_again() {
    let (mut world, _daemon) = running();
    let body = json!({"detail": "Internal Server Error"});
    at_model(
        &world,
        2,
        "fal.result",
        "case/hiccup",
        fault(500, &[], &body),
    );
    push_case(&mut world, "hiccup", Script::default(), None);
    let record = world.wait_state("hiccup", "done");
    assert_eq!(
        (record["attempt"].as_str(), record["charged"].as_str()),
        ("1", "yes")
    );
    assert_eq!(submits_of(&world, "hiccup"), 1);
    world.assert_clean();
}

#[test]
fn broken_answers_of_status_and_result_are_asked_for_again() {
    let (mut world, _daemon) = running();
    let garbage = |body: &[u8]| Fault::Answer {
        status: 200,
        content_type: "application/json".into(),
        headers: Vec::new(),
        body: body.to_vec(),
    };
    let faults = [
        ("truncated", Fault::Truncated),
        ("empty", Fault::Empty200),
        ("html", garbage(b"<html>")),
        ("list", garbage(b"[]")),
        ("utf8", garbage(b"{\"a\":\"\xff\"}")),
        ("reset", Fault::ResetAfterActing),
        (
            "e429",
            fault(
                429,
                &[("Retry-After", "1")],
                &json!({"detail": "slow down"}),
            ),
        ),
    ];
    for (name, fault) in &faults {
        for endpoint in ["status", "result"] {
            let id = format!("{name}_{endpoint}");
            at_model(
                &world,
                2,
                &format!("fal.{endpoint}"),
                &format!("case/{id}/"),
                fault.clone(),
            );
            push_case(&mut world, &id, Script::default(), None);
        }
    }
    at_model(
        &world,
        2,
        "fal.status",
        "case/huge_status/",
        Fault::Huge(1 << 20),
    );
    push_case(&mut world, "huge_status", Script::default(), None);
    at_model(
        &world,
        1,
        "fal.result",
        "case/huge_result/",
        Fault::Huge(17 << 20),
    );
    push_case(&mut world, "huge_result", Script::default(), None);

    for (name, _) in &faults {
        for endpoint in ["status", "result"] {
            let id = format!("{name}_{endpoint}");
            wait_verdict(&mut world, &id, ["done", "", "yes", "1"]);
            assert_eq!(submits_of(&world, &id), 1, "{id}");
        }
    }
    wait_verdict(&mut world, "huge_status", ["done", "", "yes", "1"]);
    wait_verdict(
        &mut world,
        "huge_result",
        ["dead", "bad_answer", "yes", "1"],
    );
}

#[test]
fn past_its_timeout_a_generation_is_cancelled_and_fals_next_answer_decides() {
    let (mut world, _daemon) = running();
    let slow = || Script::default().taking(Duration::from_millis(3500));
    let never = || Script::new(Outcome::Never);
    let heeds = |script: Script| Script {
        heeds_cancel: true,
        ..script
    };
    // 202, and the result is 499, with 0 units and without.
    push_case(&mut world, "heeds", heeds(never()), Some(1));
    let cancelled = json!({"detail": "Request cancelled by the client."});
    at_model(
        &world,
        1000, // also to looks that ask for the result: before a status says COMPLETED it means nothing
        "fal.result",
        "case/unmetered",
        fault(499, &[], &cancelled),
    );
    push_case(&mut world, "unmetered", heeds(never()), Some(1));
    // 202, and it completes all the same: paid, so delivered.
    push_case(&mut world, "goes_on", slow(), Some(1));
    // 400: too late.
    at_model(
        &world,
        1,
        "fal.cancel",
        "case/too_late/",
        fault(400, &[], &json!({"status": "ALREADY_COMPLETED"})),
    );
    push_case(&mut world, "too_late", slow(), Some(1));
    // 404 each time: fal does not know it.
    at_model(
        &world,
        1000,
        "fal.cancel",
        "case/unknown/",
        fault(404, &[], &json!({"status": "NOT_FOUND"})),
    );
    push_case(&mut world, "unknown", never(), Some(1));
    // 200: removed from the queue, in which it was not any more.
    at_model(
        &world,
        1,
        "fal.cancel",
        "case/removed/",
        fault(200, &[], &json!({"status": "OK"})),
    );
    push_case(&mut world, "removed", slow(), Some(1));
    // No answer at first.
    at_model(&world, 2, "fal.cancel", "case/stubborn/", Fault::Html502);
    push_case(&mut world, "stubborn", heeds(never()), Some(1));
    // Quick enough.
    push_case(
        &mut world,
        "quick",
        Script::default().taking(Duration::from_millis(300)),
        Some(1),
    );

    wait_verdict(&mut world, "quick", ["done", "", "yes", "1"]);
    wait_verdict(&mut world, "heeds", ["dead", "timeout", "no", "1"]);
    wait_verdict(&mut world, "unmetered", ["dead", "timeout", "unknown", "1"]);
    wait_verdict(&mut world, "goes_on", ["done", "", "yes", "1"]);
    wait_verdict(&mut world, "too_late", ["done", "", "yes", "1"]);
    wait_verdict(&mut world, "unknown", ["dead", "timeout", "unknown", "1"]);
    wait_verdict(&mut world, "removed", ["done", "", "yes", "1"]);
    wait_verdict(&mut world, "stubborn", ["dead", "timeout", "no", "1"]);
    for id in [
        "heeds", "goes_on", "too_late", "unknown", "removed", "stubborn",
    ] {
        assert_eq!(submits_of(&world, id), 1, "{id}");
    }
    world.assert_clean();
}

#[test]
fn waiting_too_long_in_fals_queue_is_a_timeout_that_nobody_pays() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--fal-queue-timeout", "2s"]);
    world.sandbox.fal.set_slots(0);
    world.push(job("a").json());
    wait_verdict(&mut world, "a", ["dead", "timeout", "no", "1"]);
    let submit = world.sandbox.fal.submits().remove(0);
    let deadline = submit
        .headers
        .iter()
        .find(|(name, _)| name == "x-fal-request-timeout");
    assert_eq!(deadline.map(|(_, value)| value.as_str()), Some("2"));
    assert!(submit.started.is_none());
    world.assert_clean();
}

#[test]
fn an_empty_account_pauses_pulling_is_told_to_the_operator_once_and_fails_no_job() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "8", "--admin-chat", "4711"]);
    world.sandbox.fal.set_locked(true);
    let mut ids: Vec<String> = (0..12).map(|number| format!("first-{number}")).collect();
    let once = |id: &String| job(id).with("max_attempts", 1).json();
    world.push_all(&ids.iter().map(once).collect::<Vec<_>>());
    let paused =
        |world: &mut World| world.redis::<BTreeMap<String, String>>(&["HGETALL", "fal:paused"]);
    let said = eventually(
        SOON,
        || paused(&mut world),
        |paused| paused.contains_key("reason"),
    );
    assert!(said["reason"].contains("no_balance"), "{said:?}");
    let told = |world: &World| world.sandbox.telegram.messages(4711).len();
    eventually(SOON, || told(&world), |told| *told == 1);
    let states = |world: &mut World, ids: &[String]| -> Vec<String> {
        ids.iter().map(|id| world.state(id)).collect()
    };
    // Who asked waits, whoever did not is not pulled; nobody asks fal for what comes now.
    eventually(
        SOON,
        || states(&mut world, &ids),
        |states| {
            let waits = |state: &String| state == "later" || state == "queued";
            states.iter().all(waits)
        },
    );
    let asked = ids.iter().map(|id| world.record(id));
    let asked: Vec<_> = asked.filter(|record| record["state"] == "later").collect();
    assert!(!asked.is_empty());
    for record in asked {
        assert_eq!(
            (record["attempt"].as_str(), record["kind"].as_str()),
            ("0", "no_balance")
        );
    }
    world.push(job("second").json());
    world.wait_state("second", "queued");
    world.sandbox.fal.set_locked(false);
    // The pause runs out by itself: the first submit after it is the probe.
    ids.push("second".to_owned());
    let states = world.wait_ended(&ids, SOON * 3);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    for id in &ids {
        assert_eq!(world.record(id)["attempt"], "1");
        assert_eq!(submits_of(&world, id), 1);
    }
    assert_eq!(told(&world), 1, "once for all of them");
    assert!(
        world.sandbox.telegram.messages(4711)[0]
            .text
            .contains("paused")
    );
    assert_eq!(daemon.logged("job failed"), 0);
    world.assert_clean();
}

#[test]
fn an_operator_who_could_not_be_told_of_a_pause_is_told_soon_not_in_an_hour() {
    let mut world = World::new();
    let daemon = world.daemon(&["--admin-chat", "4711"]);
    world.sandbox.telegram.block(4711);
    world.sandbox.fal.set_locked(true);
    world.push(job("one").json());
    eventually(
        SOON,
        || daemon.logged("the admin chat could not be told"),
        |said| *said == 1,
    );
    let left = eventually(
        SOON,
        || world.redis::<i64>(&["TTL", "fal:told:no_balance"]),
        |left| *left <= 60,
    );
    assert!(left > 0, "nor at each job: {left}");
    let _: u64 = world.redis(&["DEL", "fal:told:no_balance"]);
    world.sandbox.fal.set_locked(false);
    world.wait_ended(&["one".to_owned()], SOON * 3);
    world.assert_clean();
}

#[test]
fn a_private_models_refusal_ends_that_job_alone_at_once_and_unpaid() {
    let (mut world, daemon) = running();
    let refusal = json!({"detail": "Cannot access application \"case/private\". Authentication is required to access this application."});
    let private = Script {
        fail_submit: Some((403, refusal)),
        ..Script::default()
    };
    push_case(&mut world, "private", private, None);
    world.push(job("other").json());
    wait_verdict(&mut world, "private", ["dead", "auth", "no", "0"]);
    wait_verdict(&mut world, "other", ["done", "", "yes", "1"]);
    assert_eq!(world.redis::<u64>(&["EXISTS", "fal:paused"]), 0);
    assert_eq!(daemon.logged("job failed job=private"), 1);
    world.assert_clean();
}

#[test]
fn other_refusals_of_a_submit_are_final_and_unpaid() {
    let (mut world, _daemon) = running();
    let cases = [
        ("e400", 400, "invalid_input"),
        ("e404", 404, "invalid_input"),
        ("e422", 422, "invalid_input"),
    ];
    for (id, status, _) in cases {
        let script = Script {
            fail_submit: Some((status, json!({"detail": "No"}))),
            ..Script::default()
        };
        push_case(&mut world, id, script, None);
    }
    for (id, _, kind) in cases {
        wait_verdict(&mut world, id, ["dead", kind, "no", "0"]);
    }
    world.assert_clean();
}

#[test]
#[ignore = "over a minute: a request that is told to stop may go on that long"]
fn after_a_cancel_silence_of_a_minute_ends_the_job_charged_unknown() {
    let (mut world, _daemon) = running();
    push_case(&mut world, "deaf", Script::new(Outcome::Never), Some(1));
    let state = |world: &mut World| world.state("deaf");
    eventually(
        Duration::from_secs(90),
        || state(&mut world),
        |state| state == "dead",
    );
    wait_verdict(&mut world, "deaf", ["dead", "timeout", "unknown", "1"]);
    world.assert_clean();
}

#[test]
fn a_slow_fal_leaves_what_waits_in_redis_where_others_and_high_jobs_can_have_it() {
    let mut world = World::new();
    let held = world.sandbox.fal.hold("fal.submit");
    let daemon = world.daemon(&["--threads", "4"]);
    let ids: Vec<String> = (0..100).map(|n| format!("slow-{n}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    assert!(held.wait_arrived(2, SOON)); // all that may be at fal at once
    world.push(job("urgent").with("priority", "high").json());
    eventually(SOON, || world.state("urgent"), |state| !state.is_empty());
    // A thread is free all the time, and asks for work again and again; it must not hoard.
    let waits = |world: &mut World| world.redis::<u64>(&["LLEN", "fal:ready:default"]);
    let seen = Instant::now();
    eventually(
        SOON,
        || (waits(&mut world), seen.elapsed()),
        |(_, elapsed)| *elapsed > Duration::from_millis(1500),
    );
    let claims = world.claims(&daemon.instance()).len();
    assert!(claims <= 8, "{claims} jobs are claimed");
    held.release();
    world.wait_state("urgent", "done");
    let events = world.events();
    let ahead = |word: &str| {
        let mut of_it = events.iter().filter(|event| event["event"] == word);
        of_it.position(|event| event["job"] == "urgent").unwrap()
    };
    // The next claim brings it. From there on threads race, on a busy machine each as it may.
    assert!(ahead("started") <= claims, "{claims}: {}", ahead("started"));
    assert!(ahead("submitted") < 50, "{}", ahead("submitted"));
    world.wait_ended(&ids, SOON);
    world.assert_clean();
}

#[test]
fn work_goes_on_at_once_when_fal_is_back_after_an_outage() {
    let mut world = World::new();
    world
        .sandbox
        .faults
        .add(Rule::always("fal.submit", Fault::Hang(300)));
    let daemon = world.daemon(&["--threads", "8"]);
    let ids: Vec<String> = (0..20).map(|n| format!("out-{n}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    daemon.wait_log("fal lost");
    world.sandbox.faults.clear();
    let lost = Instant::now();
    daemon.wait_log("fal back");
    let submits = || world.sandbox.fal.submits().len();
    eventually(SOON, submits, |submits| *submits > 0);
    // At the next look, which is ten seconds away at most, and not by the waits of the jobs, which grow to a minute.
    assert!(
        lost.elapsed() < Duration::from_secs(15),
        "{:?}",
        lost.elapsed()
    );
    world.wait_ended(&ids, SOON);
    let states: Vec<String> = ids.iter().map(|id| world.state(id)).collect();
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    world.assert_clean_after_kills();
}

#[test]
fn a_deadline_that_passed_during_an_outage_of_fal_is_decided_by_its_next_answer() {
    let (mut world, daemon) = running();
    // The first answer, that they run, comes when fal is away: so it says nothing more before their deadline.
    let looks = world.sandbox.fal.hold("fal.status");
    let script = Script::default().taking(Duration::from_secs(2));
    push_case(&mut world, "ready", script, Some(3));
    let heeds = Script {
        heeds_cancel: true,
        ..Script::new(Outcome::Never)
    };
    push_case(&mut world, "runs", heeds, Some(3));
    for id in ["ready", "runs"] {
        world.wait_submitted(id);
    }
    assert!(looks.wait_arrived(2, SOON));
    let began = Instant::now();
    world
        .sandbox
        .faults
        .add(Rule::always("fal.*", Fault::Html502));
    looks.release();
    daemon.wait_log("fal lost");
    eventually(
        SOON,
        || began.elapsed(),
        |elapsed| *elapsed > Duration::from_millis(3500),
    );
    // Silence decides nothing.
    for id in ["ready", "runs"] {
        assert_eq!(world.state(id), "running", "{id}");
    }
    world.sandbox.faults.clear();
    wait_verdict(&mut world, "ready", ["done", "", "yes", "1"]);
    wait_verdict(&mut world, "runs", ["dead", "timeout", "no", "1"]);
    world.assert_clean();
}

#[test]
#[ignore = "half a minute: the time limit of a submit"]
fn a_submit_that_is_not_answered_in_time_is_of_unknown_outcome() {
    let (mut world, _daemon) = running();
    at_submit(&world, "slow", Fault::Hang(120_000));
    let pushed = Instant::now();
    world.push(job("slow").json());
    let state = |world: &mut World| world.state("slow");
    eventually(
        Duration::from_secs(60),
        || state(&mut world),
        |state| state == "done",
    );
    wait_verdict(&mut world, "slow", ["done", "", "yes", "2"]);
    assert!(pushed.elapsed() >= Duration::from_secs(32));
    assert_eq!(world.counted("resubmitted_after_unknown"), 1);
    world.assert_clean();
}
