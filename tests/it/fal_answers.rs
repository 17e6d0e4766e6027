//! fal-api section 8, row by row, through the whole worker: what an answer of fal at each call means for
//! the job, its price and its attempts, and whether fal is asked again.

use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

type Headers = &'static [(&'static str, &'static str)];

/// One answer and what becomes of the job that met it.
struct Row {
    name: String,
    fault: Fault,
    /// State, kind, charged, attempts.
    end: [&'static str; 4],
    /// Requests that fal accepted.
    submits: usize,
}

fn answer(status: u16, headers: Headers, body: impl ToString) -> Fault {
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

/// A type as fal says it: as a model's error or as a request error.
fn typed(kind: &str, as_request_error: bool) -> Value {
    if as_request_error {
        json!({"detail": "text", "error_type": kind})
    } else {
        json!({"detail": [{"loc": ["body", "x"], "msg": "m", "type": kind, "input": "SECRET"}]})
    }
}

fn row(name: &str, fault: Fault, end: [&'static str; 4], submits: usize) -> Row {
    let name = name.replace([' ', '.'], "_");
    Row {
        name,
        fault,
        end,
        submits,
    }
}

/// A gateway's.
fn page(status: u16) -> Fault {
    Fault::Answer {
        status,
        content_type: "text/html".into(),
        headers: Vec::new(),
        body: b"<html><center>nginx</center></html>".to_vec(),
    }
}

/// Pushes a job for each row, which meets its answer `times` times at `endpoint`, and checks all ends.
fn run(
    endpoint: &str,
    times: Option<u32>,
    rows: &[Row],
    shape: impl Fn(crate::support::Job) -> crate::support::Job,
) -> (World, Daemon) {
    let mut world = World::new();
    let mut entries = Vec::new();
    for row in rows {
        let model = format!("case/{}", row.name);
        world.sandbox.fal.model(&model, Script::default());
        // Paths of submits end with the model, those of requests go on.
        let filter = match endpoint {
            "fal.submit" | "fal.direct" => format!("prompt of {}.", row.name),
            _ => format!("{model}/"),
        };
        let rule = Rule {
            times,
            ..Rule::always(endpoint, row.fault.clone())
        };
        world.sandbox.faults.add(rule.for_requests_with(&filter));
        entries.push(shape(job(&row.name).model(&model)).json());
    }
    let daemon = world.daemon(&["--threads", "8"]);
    world.push_all(&entries);
    let mut wrong = Vec::new();
    for row in rows {
        let record = world.wait_state(&row.name, row.end[0]);
        let end = ["state", "kind", "charged", "attempt"]
            .map(|name| record.get(name).map_or("", String::as_str));
        let submits = submits_of(&world, &row.name);
        if end != row.end || submits != row.submits {
            wrong.push(format!(
                "{}: {end:?}, {submits} submits; should be {:?}, {}",
                row.name, row.end, row.submits
            ));
        }
        if record
            .get("error")
            .is_some_and(|error| error.contains("SECRET"))
        {
            wrong.push(format!("{} echoes the input", row.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    world.assert_clean();
    (world, daemon)
}

#[test]
fn every_row_of_the_table_of_errors_ends_a_job_as_it_should_at_the_result() {
    const NO: Headers = &[("X-Fal-Needs-Retry", "0")];
    const NOT: Headers = &[("X-Fal-Retryable", "false")];
    const USER: Headers = &[("X-Fal-Request-Timeout-Type", "user")];
    const FREE: Headers = &[("x-fal-billable-units", "0")];
    const PAID: Headers = &[("x-fal-billable-units", "2.5")];
    let once = |kind: &'static str, charged: &'static str| ["dead", kind, charged, "1"];
    // Of fal's own failures one more submit of ours, no further one.
    let twice = |kind: &'static str, charged: &'static str| ["dead", kind, charged, "2"];
    let mut rows = Vec::new();
    for (number, (status, word, kind)) in [
        (504, "request_timeout", "timeout"),
        (504, "startup_timeout", "timeout"),
        (503, "runner_scheduling_failure", "unavailable"),
        (503, "runner_connection_timeout", "unavailable"),
        (503, "runner_disconnected", "unavailable"),
        (503, "runner_connection_refused", "unavailable"),
        (503, "runner_connection_error", "unavailable"),
        (502, "runner_incomplete_response", "unavailable"),
        (500, "runner_server_error", "unavailable"),
        (500, "internal_error", "unavailable"),
        (500, "internal_server_error", "unavailable"),
        (504, "generation_timeout", "timeout"),
        (500, "downstream_service_error", "unavailable"),
        (500, "downstream_service_unavailable", "unavailable"),
    ]
    .into_iter()
    .enumerate()
    {
        let body = typed(word, number % 2 == 0);
        rows.push(row(
            &format!("{status} {word}"),
            answer(status, &[], body),
            twice(kind, "no"),
            2,
        ));
    }
    let body = typed("downstream_service_error", false);
    rows.push(row(
        "400 downstream",
        answer(400, FREE, body.clone()),
        twice("unavailable", "no"),
        2,
    ));
    rows.push(row(
        "400 downstream unmetered",
        answer(400, &[], body),
        twice("unavailable", "unknown"),
        2,
    ));
    // The header says that it is of no use.
    for (number, (status, word, kind)) in [
        (500, "internal_server_error", "unavailable"),
        (504, "generation_timeout", "timeout"),
        (500, "downstream_service_error", "unavailable"),
        (500, "downstream_service_unavailable", "unavailable"),
    ]
    .into_iter()
    .enumerate()
    {
        let headers = if number % 2 == 0 { NO } else { NOT };
        let name = format!("{status} {word} no more");
        rows.push(row(
            &name,
            answer(status, headers, typed(word, false)),
            once(kind, "no"),
            1,
        ));
    }
    // The start deadline that we gave.
    for word in ["startup_timeout", "request_timeout"] {
        let fault = answer(504, USER, typed(word, true));
        rows.push(row(
            &format!("504 user {word}"),
            fault,
            once("timeout", "no"),
            1,
        ));
    }
    for word in ["client_cancelled", "client_disconnected"] {
        let fault = answer(499, &[], typed(word, true));
        rows.push(row(
            &format!("499 {word}"),
            fault,
            once("unavailable", "unknown"),
            1,
        ));
    }
    rows.push(row(
        "400 bad_request",
        answer(400, FREE, typed("bad_request", true)),
        once("invalid_input", "no"),
        1,
    ));
    for (number, word) in [
        "image_too_small",
        "image_too_large",
        "image_load_error",
        "file_download_error",
        "face_detection_error",
        "file_too_large",
        "feature_not_supported",
        "invalid_archive",
        "archive_file_count_below_minimum",
        "archive_file_count_exceeds_maximum",
        "audio_duration_too_long",
        "audio_duration_too_short",
        "video_duration_too_long",
        "video_duration_too_short",
        "unsupported_audio_format",
        "unsupported_image_format",
        "unsupported_video_format",
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "multiple_of",
        "sequence_too_short",
        "sequence_too_long",
        "one_of",
        "missing",
        "value_error",
        "value_error.missing",
        "string_type",
        "literal_error",
        "enum",
        "json_invalid",
        "invalid_request",
        "image_aspect_ratio_error",
        "partner_validation_failed",
        "a_type_not_seen_before",
    ]
    .into_iter()
    .enumerate()
    {
        let (headers, charged): (Headers, _) =
            [(FREE, "no"), (PAID, "yes"), (&[] as Headers, "unknown")][number % 3];
        let fault = answer(422, headers, typed(word, false));
        rows.push(row(
            &format!("422 {word}"),
            fault,
            once("invalid_input", charged),
            1,
        ));
    }
    let policy = typed("content_policy_violation", false);
    rows.push(row(
        "422 policy",
        answer(422, PAID, policy.clone()),
        once("content_policy", "yes"),
        1,
    ));
    let several = json!({"detail": [typed("missing", false)["detail"][0], policy["detail"][0]]});
    rows.push(row(
        "422 policy among others",
        answer(422, FREE, several),
        once("content_policy", "no"),
        1,
    ));
    let words = json!({"detail": "Rejected: flagged as NSFW"});
    rows.push(row(
        "422 policy in words",
        answer(422, FREE, words),
        once("content_policy", "no"),
        1,
    ));
    rows.push(row(
        "422 text",
        answer(422, &[], json!({"detail": "No"})),
        once("invalid_input", "unknown"),
        1,
    ));
    rows.push(row(
        "422 no_media",
        answer(422, FREE, typed("no_media_generated", false)),
        once("no_output", "no"),
        1,
    ));
    rows.push(row(
        "418 of an app",
        answer(418, FREE, json!({"detail": "teapot"})),
        once("invalid_input", "no"),
        1,
    ));
    rows.push(row(
        "405",
        answer(405, &[], json!({"detail": "Method Not Allowed"})),
        once("bad_answer", "unknown"),
        1,
    ));
    let path = json!({"detail": "Path /x not found"});
    rows.push(row(
        "404 of the app",
        answer(404, FREE, path),
        once("invalid_input", "no"),
        1,
    ));
    run("fal.result", None, &rows, |job| job);
}

#[test]
fn what_says_nothing_about_the_job_is_asked_again_at_status_and_result() {
    const BUSY: Headers = &[("Retry-After", "1")];
    let done = ["done", "", "yes", "1"];
    let text = |text: &str| json!({"detail": text});
    let locked = text(
        "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing.",
    );
    let page = |status, title: &str| Fault::Answer {
        status,
        content_type: "text/html".into(),
        headers: Vec::new(),
        body: format!("<html><center>{title}</center><hr>nginx</html>").into_bytes(),
    };
    let rows = || {
        vec![
            row(
                "401",
                answer(401, &[], text("invalid key credentials")),
                done,
                1,
            ),
            row("402", answer(402, &[], text("pay")), done, 1),
            row("403 locked", answer(403, &[], &locked), done, 1),
            row("403", answer(403, &[], text("Access denied")), done, 1),
            row("403 page", page(403, "403 Forbidden"), done, 1),
            row("408", answer(408, &[], text("x")), done, 1),
            row("409", answer(409, &[], text("x")), done, 1),
            row(
                "429",
                answer(429, &[], typed("concurrent_requests_limit", true)),
                done,
                1,
            ),
            row(
                "429 with its time",
                answer(429, BUSY, text("Queue length limit reached")),
                done,
                1,
            ),
            row("429 page", page(429, "429 Too Many Requests"), done, 1),
            row("500 page", page(500, "500"), done, 1),
            row("500 empty", answer(500, &[], ""), done, 1),
            row("502 page", Fault::Html502, done, 1),
            row("503 page", page(503, "503"), done, 1),
            row("504 page", page(504, "504"), done, 1),
            row("520 page", page(520, "520"), done, 1),
            row("200 page", page(200, "please log in"), done, 1),
            row("200 empty", answer(200, &[], ""), done, 1),
            row("200 cut short", Fault::Truncated, done, 1),
            row("reset before", Fault::ResetBeforeRead, done, 1),
            row("reset after", Fault::ResetAfterActing, done, 1),
        ]
    };
    for endpoint in ["fal.status", "fal.result"] {
        // Two at a time: four silent answers in a row are one less than what counts as an outage, whose end
        // would be found by one question at a time.
        for rows in rows().chunks(2) {
            let (world, _daemon) = run(endpoint, Some(2), rows, |job| job);
            assert_eq!(world.sandbox.fal.totals().submits, rows.len() as u64);
        }
    }
}

#[test]
fn every_row_of_the_table_of_errors_ends_a_job_as_it_should_at_the_submit() {
    const USER: Headers = &[("X-Fal-Request-Timeout-Type", "user")];
    let text = |text: &str| json!({"detail": text});
    let refused = |kind: &'static str| ["dead", kind, "no", "0"];
    // A payment that may have happened, the last that the job may make.
    let unknown = ["dead", "unavailable", "unknown", "1"];
    let rows = [
        row(
            "400",
            answer(400, &[], typed("bad_request", true)),
            refused("invalid_input"),
            0,
        ),
        row(
            "401",
            answer(
                401,
                &[],
                text(
                    "Cannot access application \"x\". Authentication is required to access this application.",
                ),
            ),
            refused("auth"),
            0,
        ),
        row(
            "403",
            answer(403, &[], text("Access denied")),
            refused("auth"),
            0,
        ),
        row(
            "404",
            answer(404, &[], text("Application \"x\" not found")),
            refused("invalid_input"),
            0,
        ),
        row(
            "405",
            answer(405, &[], text("Method Not Allowed")),
            refused("bad_answer"),
            0,
        ),
        row("413 page", page(413), refused("invalid_input"), 0),
        row(
            "418",
            answer(418, &[], text("teapot")),
            refused("invalid_input"),
            0,
        ),
        row(
            "422 policy",
            answer(422, &[], typed("content_policy_violation", false)),
            refused("content_policy"),
            0,
        ),
        row(
            "422",
            answer(422, &[], typed("missing", false)),
            refused("invalid_input"),
            0,
        ),
        row(
            "499",
            answer(499, &[], typed("client_disconnected", true)),
            refused("unavailable"),
            0,
        ),
        row(
            "504 user",
            answer(504, USER, typed("startup_timeout", true)),
            refused("timeout"),
            0,
        ),
        row("408", answer(408, &[], text("x")), unknown, 0),
        row(
            "500",
            answer(500, &[], typed("internal_error", true)),
            unknown,
            0,
        ),
        row("502", Fault::Html502, unknown, 0),
        row(
            "503",
            answer(503, &[], typed("runner_disconnected", true)),
            unknown,
            0,
        ),
        row(
            "504",
            answer(504, &[], typed("request_timeout", true)),
            unknown,
            0,
        ),
        row("200 page", answer(200, &[], "<html>"), unknown, 0),
        row("200 empty", Fault::Empty200, unknown, 1),
        row(
            "302",
            answer(302, &[("location", "/elsewhere")], ""),
            unknown,
            0,
        ),
        // Its head names the request.
        row("cut short", Fault::Truncated, ["done", "", "yes", "1"], 1),
        row("reset after", Fault::ResetAfterActing, unknown, 1),
    ];
    run("fal.submit", None, &rows, |job| job.with("max_attempts", 1));
}

#[test]
fn a_submit_that_is_limited_waits_its_time_unpaid_with_and_without_being_told_how_long() {
    const TOLD: Headers = &[("Retry-After", "3")];
    const DATE: Headers = &[("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT")];
    let limit = || typed("concurrent_requests_limit", true);
    let done = ["done", "", "yes", "1"];
    let rows = [
        row("told", answer(429, TOLD, limit()), done, 1),
        row("untold", answer(429, &[], limit()), done, 1),
        row("dated", answer(429, DATE, limit()), done, 1),
        row("page", answer(429, &[], "<html>"), done, 1),
        row("empty", answer(429, &[], ""), done, 1),
    ];
    let began = Instant::now();
    let (mut world, _daemon) = run("fal.submit", Some(1), &rows, |job| {
        job.with("max_attempts", 1)
    });
    for row in &rows {
        let events = world.events_of(&row.name);
        let retries: Vec<_> = events
            .iter()
            .filter(|event| event["event"] == "retrying")
            .collect();
        assert_eq!(retries.len(), 1, "{}", row.name);
        assert_eq!(
            (retries[0]["kind"].as_str(), retries[0]["charged"].as_str()),
            ("rate_limited", "no")
        );
    }
    let told = &world.sandbox.fal.submits_for("prompt of told.")[0];
    assert!(told.at.duration_since(began) >= Duration::from_secs(3));
}

#[test]
fn a_submit_refused_without_a_word_about_the_job_is_made_again_and_uses_no_attempt() {
    let done = ["done", "", "yes", "1"];
    let rows = [
        row("409", answer(409, &[], json!({"detail": "x"})), done, 1),
        row("404 page", page(404), done, 1),
        row("400 empty", answer(400, &[], ""), done, 1),
    ];
    let (mut world, _daemon) = run("fal.submit", Some(1), &rows, |job| {
        job.with("max_attempts", 1)
    });
    for row in &rows {
        let mut events = world.events_of(&row.name);
        events.retain(|event| event["event"] == "retrying");
        let told: Vec<_> = (events.iter())
            .map(|event| (event["kind"].as_str(), event["charged"].as_str()))
            .collect();
        assert_eq!(told, [("unavailable", "no")], "{}", row.name);
    }
}

#[test]
fn a_gateway_that_lost_its_way_to_fal_costs_a_backlog_nothing() {
    let mut world = World::new();
    let lost = Rule::always(
        "fal.*",
        Fault::Answer {
            status: 404,
            content_type: "text/html".into(),
            headers: Vec::new(),
            body: b"<html><center>404 Not Found</center><hr>nginx</html>".to_vec(),
        },
    );
    let lost = world.sandbox.faults.add(lost);
    let ids: Vec<String> = (0..40).map(|number| format!("backlog-{number}")).collect();
    world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    let daemon = world.daemon(&["--threads", "8"]);
    daemon.wait_log("fal lost");
    // The breaker is open: a question now and then, not one for each job and each of its tries. Nothing is to happen
    // in this span, so there is nothing to wait for.
    std::thread::sleep(Duration::from_secs(3));
    let asked = world.sandbox.faults.fired(lost);
    assert!(asked < 40, "{asked}");
    world.sandbox.faults.clear();
    for id in &ids {
        let record = world.wait_state(id, "done");
        assert_eq!(record["attempt"], "1", "{id}");
    }
    assert_eq!(world.sandbox.fal.totals().submits, 40);
    world.assert_clean();
}

#[test]
fn a_direct_call_ends_its_job_by_the_same_table_and_in_doubt_is_never_repeated() {
    let text = |text: &str| json!({"detail": text});
    const FREE: Headers = &[("x-fal-billable-units", "0")];
    let rows = [
        row(
            "422",
            answer(422, FREE, typed("missing", false)),
            ["dead", "invalid_input", "no", "0"],
            0,
        ),
        row(
            "policy",
            answer(422, &[], typed("content_policy_violation", false)),
            ["dead", "content_policy", "unknown", "1"],
            0,
        ),
        row(
            "404",
            answer(404, &[], text("Application \"x\" not found")),
            ["dead", "invalid_input", "no", "0"],
            0,
        ),
        row(
            "403",
            answer(403, &[], text("Access denied")),
            ["dead", "auth", "no", "0"],
            0,
        ),
        row(
            "500 own",
            answer(500, &[], typed("internal_error", true)),
            ["dead", "unavailable", "no", "2"],
            0,
        ),
        row(
            "502",
            Fault::Html502,
            ["dead", "unavailable", "unknown", "1"],
            0,
        ),
        row(
            "cut short",
            Fault::Truncated,
            ["dead", "unavailable", "unknown", "1"],
            1,
        ),
        row(
            "reset before",
            Fault::ResetBeforeRead,
            ["dead", "unavailable", "unknown", "1"],
            0,
        ),
        row(
            "reset after",
            Fault::ResetAfterActing,
            ["dead", "unavailable", "unknown", "1"],
            1,
        ),
        row(
            "200 page",
            answer(200, &[], "<html>"),
            ["dead", "unavailable", "unknown", "1"],
            0,
        ),
        row(
            "200 of a model",
            answer(200, &[("x-fal-request-id", "0198")], "<html>"),
            ["dead", "bad_answer", "yes", "1"],
            0,
        ),
        row(
            "200 billed",
            answer(200, &[("x-fal-billable-units", "1")], "<html>"),
            ["dead", "bad_answer", "yes", "1"],
            0,
        ),
    ];
    run("fal.direct", None, &rows, |job| job.with("via", "direct"));
}

#[test]
fn a_result_without_anything_to_deliver_is_no_output_and_paid() {
    let (mut world, _daemon) = World::running();
    world.sandbox.fal.model(
        "case/nothing",
        Script::new(Outcome::Json(json!({"seed": 1}))),
    );
    world.push(job("chat").model("case/nothing").chat(5).json());
    world.push(job("events").model("case/nothing").json());
    let record = world.wait_state("chat", "dead");
    assert_eq!(
        (record["kind"].as_str(), record["charged"].as_str()),
        ("no_output", "yes")
    );
    // A bot that reads the events alone gets what there is.
    world.wait_state("events", "done");
    world.assert_clean();
}

fn peak_kib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn answers_of_a_hundred_megabytes_are_not_taken_into_memory() {
    let (mut world, daemon) = World::running();
    world.push(job("before").chat(1).json());
    world.wait_state("before", "done");
    let before = peak_kib(&daemon);
    const HUGE: Fault = Fault::Huge(100 << 20);
    for endpoint in ["submit", "status", "result", "cancel"] {
        let model = format!("case/{endpoint}");
        let never = Script {
            heeds_cancel: true,
            ..Script::new(Outcome::Never)
        };
        let script = if endpoint == "cancel" {
            never
        } else {
            Script::default()
        };
        world.sandbox.fal.model(&model, script);
        let rule = Rule::first(2, &format!("fal.{endpoint}"), HUGE);
        world
            .sandbox
            .faults
            .add(rule.for_requests_with(&format!("case/{endpoint}")));
        world.push(job(endpoint).model(&model).with("timeout_s", 1).json());
    }
    world
        .sandbox
        .faults
        .add(Rule::first(2, "tg.sendmessage", HUGE));
    world.push(job("words").model("fal-ai/any-llm").chat(2).json());
    let verdicts = [
        ("submit", "done", ""),
        ("status", "done", ""),
        ("result", "dead", "bad_answer"),
        ("cancel", "dead", "timeout"),
        ("words", "done", ""),
    ];
    for (id, state, kind) in verdicts {
        let record = world.wait_state(id, state);
        assert_eq!(
            record.get("kind").map_or("", String::as_str),
            kind,
            "{record:?}"
        );
    }
    let grown = peak_kib(&daemon) - before;
    println!("answers of 100 MB: peak memory {before} KiB before, {grown} KiB more after");
    // The result alone may be read up to its limit of 16 MiB; these lengths are announced.
    assert!(grown < 20 << 10, "{grown} KiB");
}

#[test]
fn a_byte_at_a_time_holds_one_thread_for_no_longer_than_the_time_limit_of_the_call() {
    let (mut world, daemon) = World::running();
    let slow = Rule::first(1, "fal.status", Fault::SlowBody).for_requests_with("case/slow/");
    let slow = world.sandbox.faults.add(slow);
    world.sandbox.fal.model("case/slow", Script::default());
    world.push(job("slow").model("case/slow").json());
    eventually(SOON, || world.sandbox.faults.fired(slow), |n| *n == 1);
    let began = Instant::now();
    // Meanwhile the others go on as if nothing was: twenty of them, unless the machine is very slow.
    let mut meanwhile = 0;
    while meanwhile < 20 && world.state("slow") == "running" {
        let id = format!("quick-{meanwhile}");
        world.push(job(&id).json());
        world.wait_state(&id, "done");
        meanwhile += 1;
    }
    assert!(meanwhile >= 5, "{meanwhile} in {:?}", began.elapsed());
    // Ten seconds for a status (design section 5), and an eighth for the body.
    world.wait_state("slow", "done");
    let took = began.elapsed();
    println!("a status of one byte a tenth of a second: given up and asked again after {took:?}");
    assert!(took >= Duration::from_secs(8), "{took:?}");
    // Not read to its end, which says that the request is over: that would be one look.
    let slow = &world.sandbox.fal.submits_for("prompt of slow.")[0];
    assert!(slow.polls > 1, "{slow:?}");
    assert_eq!(submits_of(&world, "slow"), 1);
    assert_eq!(daemon.logged("fal lost"), 0);
    world.assert_clean();
}
