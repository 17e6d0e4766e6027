use super::super::faults::{Fault, Rule};
use super::super::http::raw::{self, Got};
use super::serve::{Target, target};
use super::*;

const MODEL: &str = "fal-ai/flux/dev";

struct Client {
    fal: FalStandIn,
    auth: String,
}

impl Client {
    fn new() -> Client {
        let fal = FalStandIn::start(Faults::new(1), 1).expect("starts");
        let auth = format!("Key {}", fal.key());
        Client { fal, auth }
    }

    fn call(&self, method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Got {
        let mut all = vec![("Authorization", self.auth.as_str())];
        all.extend_from_slice(headers);
        raw::call(url, method, &all, body.as_bytes()).expect("an answer")
    }

    fn post(&self, model: &str, headers: &[(&str, &str)], body: &str) -> Got {
        let mut all = vec![("Content-Type", "application/json")];
        all.extend_from_slice(headers);
        self.call(
            "POST",
            &format!("{}/{model}", self.fal.queue_url()),
            &all,
            body,
        )
    }

    fn submit(&self, model: &str) -> Value {
        let got = self.post(model, &[], r#"{"prompt":"a cat"}"#);
        assert_eq!(got.status, 200, "{}", got.text());
        got.json()
    }

    fn get(&self, url: &Value) -> Got {
        self.call("GET", url.as_str().expect("a URL"), &[], "")
    }

    fn finish(&self, submitted: &Value) -> Got {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.get(&submitted["status_url"]);
            if status.json()["status"] == "COMPLETED" {
                assert_eq!(status.status, 200);
                return self.get(&submitted["response_url"]);
            }
            assert_eq!(status.status, 202);
            assert!(Instant::now() < until, "{}", status.text());
        }
    }
}

#[test]
fn a_request_goes_from_submit_to_a_file_that_is_a_picture() {
    let client = Client::new();
    let submitted = client.submit(MODEL);
    let id = submitted["request_id"].as_str().expect("id");
    let stem = format!("{}/fal-ai/flux/requests/{id}", client.fal.queue_url());
    assert_eq!(submitted["response_url"], stem);
    assert_eq!(submitted["cancel_url"], format!("{stem}/cancel"));
    assert_eq!(
        (&submitted["status"], &submitted["queue_position"]),
        (&json!("IN_QUEUE"), &json!(0))
    );

    let result = client.finish(&submitted);
    assert_eq!(
        (result.status, result.header("x-fal-billable-units")),
        (200, Some("1"))
    );
    assert_eq!(result.header("x-fal-request-id"), Some(id));
    let output = result.json();
    assert!(output["seed"].as_u64().expect("a u64") > 1 << 63);
    let url = output["images"][0]["url"].as_str().expect("url");
    assert!(url.contains(&format!("/files/{id}/0.png")), "{url}");

    let file = raw::call(url, "GET", &[], b"").expect("answer");
    assert_eq!(
        (file.status, file.header("Content-Type")),
        (200, Some("image/png"))
    );
    assert_eq!(media::look(&file.body), media::Looks::Png(64, 64));
    assert_eq!(
        client.fal.fingerprint_of(url),
        Some(media::fingerprint(&file.body))
    );
    let head = raw::call(url, "HEAD", &[], b"").expect("answer");
    assert_eq!(
        head.header("Content-Length"),
        Some(file.body.len().to_string().as_str())
    );

    let entry = client.fal.request(id).expect("in the ledger");
    assert_eq!(
        (entry.model.as_str(), &*entry.input),
        (MODEL, br#"{"prompt":"a cat"}"#.as_slice())
    );
    assert!(entry.polls >= 1 && entry.fetches == 1 && entry.billed && !entry.cancelled);
    assert!(entry.status_found_end && entry.polled >= entry.completed);
    assert_eq!(client.fal.submits_for("a cat").len(), 1);
    assert!(client.fal.submits_for("a dog").is_empty());
    assert_eq!(client.fal.violations(), Vec::<String>::new());
}

#[test]
fn a_result_that_no_status_call_found_is_told_apart() {
    let client = Client::new();
    let submitted = client.submit(MODEL);
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.get(&submitted["response_url"]).status != 200 {
        assert!(Instant::now() < deadline, "no result");
    }
    let id = submitted["request_id"].as_str().expect("id");
    let entry = client.fal.request(id).expect("in the ledger");
    assert!(!entry.status_found_end && entry.polled >= entry.completed);
}

#[test]
fn two_requests_never_share_a_file() {
    let client = Client::new();
    let prints: Vec<_> = (0..2)
        .map(|_| {
            let output = client.finish(&client.submit("fal-ai/flux/schnell")).json();
            let urls = output["images"].as_array().expect("images").clone();
            urls.iter()
                .map(|i| client.fal.fingerprint_of(i["url"].as_str().expect("url")))
                .collect::<Vec<_>>()
        })
        .collect();
    let all: HashSet<_> = prints
        .concat()
        .into_iter()
        .map(|print| print.expect("a file"))
        .collect();
    assert_eq!(all.len(), 8);
}

#[test]
fn the_key_is_checked_with_the_services_words() {
    let client = Client::new();
    let url = format!("{}/{MODEL}", client.fal.queue_url());
    let no_key = "Cannot access application \"fal-ai/flux\". Authentication is required to access this application.";
    let cases = [
        (None, no_key),
        (
            Some("Key abc"),
            "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'.",
        ),
        (Some("Key a:b"), "invalid key credentials"),
        (
            Some("Bearer sandbox-key-id:sandbox-key-secret"),
            "invalid key credentials",
        ),
    ];
    for (value, text) in cases {
        let headers: Vec<_> = value
            .iter()
            .map(|value| ("Authorization", *value))
            .collect();
        for (method, url) in [
            ("POST", url.clone()),
            (
                "GET",
                format!("{}/fal-ai/flux/requests/x/status", client.fal.queue_url()),
            ),
        ] {
            let got = raw::call(&url, method, &headers, b"{}").expect("answer");
            assert_eq!(
                (got.status, got.json()["detail"].as_str()),
                (401, Some(text)),
                "{value:?} {method}"
            );
            assert!(got.header("x-fal-request-id").is_some());
        }
    }
    assert!(client.fal.submits().is_empty());
}

#[test]
fn a_submit_must_be_a_json_object_to_a_known_app() {
    let client = Client::new();
    let url = format!("{}/{MODEL}", client.fal.queue_url());
    assert_eq!(
        client.call("POST", &url, &[], "{}").status,
        422,
        "no content type"
    );
    for body in ["", "[]", "{\"a\":", "\"x\""] {
        let got = client.post(MODEL, &[], body);
        assert_eq!(
            (got.status, &got.json()["detail"][0]["type"]),
            (422, &json!("json_invalid")),
            "{body}"
        );
    }
    assert_eq!(client.call("GET", &url, &[], "").status, 405);
    let unknown = client.post("fal-ai/hailuo-ai/x", &[], "{}");
    assert_eq!(
        (unknown.status, unknown.json()),
        (
            404,
            json!({"detail": "Application \"hailuo-ai\" not found"})
        )
    );
    for timeout in ["0.1", "abc", "-1"] {
        let got = client.post(MODEL, &[("X-Fal-Request-Timeout", timeout)], "{}");
        assert_eq!(
            (got.status, &got.json()["error_type"]),
            (400, &json!("bad_request")),
            "{timeout}"
        );
    }
    assert!(client.fal.submits().is_empty());
    let kinds = client.fal.violations();
    assert!(
        kinds.iter().any(|v| v.starts_with("405:"))
            && kinds.iter().any(|v| v.starts_with("content-type:"))
    );
}

#[test]
fn a_wrapped_input_is_accepted_and_flagged() {
    let client = Client::new();
    assert_eq!(
        client
            .post(MODEL, &[], r#"{"input":{"prompt":"x"}}"#)
            .status,
        200
    );
    assert!(client.fal.violations()[0].starts_with("wrapper:"));
}

#[test]
fn sub_paths_wrong_methods_wrong_stems_and_unknown_ids_are_refused() {
    let client = Client::new();
    client
        .fal
        .set_generation(Duration::from_secs(60), Duration::from_secs(60));
    let id = client.submit(MODEL)["request_id"]
        .as_str()
        .expect("id")
        .to_owned();
    let base = client.fal.queue_url();
    let cases = [
        ("GET", format!("{base}/{MODEL}/requests/{id}/status"), 405),
        ("GET", format!("{base}/{MODEL}/requests/{id}"), 405),
        ("PUT", format!("{base}/{MODEL}/requests/{id}/cancel"), 405),
        (
            "POST",
            format!("{base}/fal-ai/flux/requests/{id}/status"),
            405,
        ),
        (
            "POST",
            format!("{base}/fal-ai/flux/requests/{id}/cancel"),
            405,
        ),
        (
            "GET",
            format!("{base}/fal-ai/flux/requests/{id}/response"),
            405,
        ),
        (
            "GET",
            format!("{base}/fal-ai/kling-video/requests/{id}/status"),
            404,
        ),
        (
            "GET",
            format!("{base}/fal-ai/flux/requests/nobody/status"),
            404,
        ),
        ("GET", format!("{base}/fal-ai/flux/requests/nobody"), 404),
        (
            "PUT",
            format!("{base}/fal-ai/flux/requests/nobody/cancel"),
            404,
        ),
    ];
    for (method, url, status) in cases {
        let got = client.call(method, &url, &[], "");
        assert_eq!(got.status, status, "{method} {url}");
        if status == 404 {
            assert_eq!(got.json(), json!({"status": "NOT_FOUND"}));
        }
    }
    assert_eq!(
        client
            .call(
                "GET",
                &format!("{base}/fal-ai/flux/requests/{id}/status/"),
                &[],
                ""
            )
            .status,
        202
    );
}

#[test]
fn namespaces_have_three_parts_in_their_stem() {
    let path = ["workflows", "me", "flow", "sub", "requests", "1"];
    assert_eq!(target(&path), Target::SubPath);
    let path = ["comfy", "me", "app", "requests", "1", "status"];
    assert_eq!(
        target(&path),
        Target::Request {
            stem: "comfy/me/app".into(),
            id: "1",
            tail: &["status"]
        }
    );
    assert_eq!(target(&["one"]), Target::Nonsense);
    assert_eq!(
        target(&["a", "b", "c"]),
        Target::Submit { stem: "a/b".into() }
    );
}

#[test]
fn a_result_before_the_end_is_400_and_status_keys_follow_the_state() {
    let client = Client::new();
    client.fal.model(
        "fal-ai/slow",
        Script::default().taking(Duration::from_secs(60)),
    );
    client.fal.set_slots(1);
    let (first, second) = (client.submit("fal-ai/slow"), client.submit("fal-ai/slow"));
    let third = client
        .post("fal-ai/slow", &[("X-Fal-Queue-Priority", "low")], "{}")
        .json();
    let fourth = client.submit("fal-ai/slow");
    let status = |job: &Value| client.get(&job["status_url"]).json();
    let running = status(&first);
    assert_eq!(
        (
            &running["status"],
            running.get("logs"),
            running.get("queue_position")
        ),
        (&json!("IN_PROGRESS"), Some(&Value::Null), None)
    );
    let places: Vec<_> = [&second, &third, &fourth]
        .map(|job| status(job)["queue_position"].clone())
        .into();
    assert_eq!(
        places,
        [json!(0), json!(2), json!(1)],
        "low priority stands behind"
    );
    let with_logs = format!("{}?logs=1", first["status_url"].as_str().expect("url"));
    assert_eq!(
        client.call("GET", &with_logs, &[], "").json()["logs"][0]["level"],
        "INFO"
    );
    let early = client.get(&first["response_url"]);
    assert_eq!(
        (early.status, early.json()),
        (400, json!({"detail": "Request is still in progress"}))
    );
    client.fal.set_pending_code(202);
    assert_eq!(client.get(&first["response_url"]).status, 202);
    assert_eq!(
        (
            client.fal.totals().running_now,
            client.fal.totals().queued_now
        ),
        (1, 3)
    );
}

#[test]
fn a_slot_that_frees_goes_to_the_next_at_that_moment() {
    let client = Client::new();
    client.fal.model(
        "fal-ai/quick",
        Script::default().taking(Duration::from_millis(300)),
    );
    client.fal.set_slots(1);
    for _ in 0..3 {
        client.submit("fal-ai/quick");
    }
    let until = Instant::now() + Duration::from_secs(30);
    while client.fal.totals().billed < 3 {
        assert!(Instant::now() < until, "{:?}", client.fal.submits());
        std::thread::sleep(Duration::from_millis(5)); // a look at a condition, with a deadline
    }
    let entries = client.fal.submits();
    for pair in entries.windows(2) {
        // Where the machine stood still for so long that a submit came later it begins at once.
        let free = pair[0].completed.map(|completed| completed.max(pair[1].at));
        assert_eq!(pair[1].started, free, "no gap though nobody asked");
    }
}

#[test]
fn cancel_has_an_answer_for_each_state() {
    let client = Client::new();
    client.fal.model(
        "fal-ai/heeds",
        Script {
            heeds_cancel: true,
            ..Script::default().taking(Duration::from_secs(60))
        },
    );
    client.fal.model(
        "fal-ai/deaf",
        Script::default().taking(Duration::from_millis(400)),
    );
    let cancel =
        |job: &Value| client.call("PUT", job["cancel_url"].as_str().expect("url"), &[], "");

    let deaf = client.submit("fal-ai/deaf");
    let got = cancel(&deaf);
    assert_eq!(
        (got.status, got.json()),
        (202, json!({"status": "CANCELLATION_REQUESTED"}))
    );
    assert_eq!(
        client.finish(&deaf).status,
        200,
        "it completes and is billed all the same"
    );
    let late = cancel(&deaf);
    assert_eq!(
        (late.status, late.json()),
        (400, json!({"status": "ALREADY_COMPLETED"}))
    );

    client.fal.set_slots(1);
    let (running, queued) = (client.submit("fal-ai/heeds"), client.submit("fal-ai/heeds"));
    assert_eq!(cancel(&queued).status, 200);
    let status = client.get(&queued["status_url"]).json();
    assert_eq!(
        (&status["status"], &status["error_type"]),
        (&json!("COMPLETED"), &json!("client_cancelled"))
    );
    client.fal.set_cancelled_answer(CancelledAnswer::NotFound);
    assert_eq!(client.get(&queued["status_url"]).status, 404);
    assert_eq!(cancel(&running).status, 202);
    let result = client.finish(&running);
    assert_eq!(
        (result.status, result.json()),
        (499, json!({"detail": "Request cancelled by the client."}))
    );
    let entries = client.fal.submits();
    assert!(entries[2].started.is_none() && entries[2].cancelled && !entries[2].billed);
    assert!(entries[0].cancelled && entries[0].billed);
}

#[test]
fn a_start_deadline_ends_a_waiting_request_and_not_a_running_one() {
    let client = Client::new();
    client.fal.model(
        "fal-ai/slow",
        Script::default().taking(Duration::from_millis(400)),
    );
    client.fal.set_slots(1);
    let timeout = [("X-Fal-Request-Timeout", "0.15")];
    let (first, second) = (
        client.post("fal-ai/slow", &timeout, "{}").json(),
        client.post("fal-ai/slow", &timeout, "{}").json(),
    );
    let late = client.finish(&second);
    assert_eq!(
        (late.status, late.header("X-Fal-Request-Timeout-Type")),
        (504, Some("user"))
    );
    assert_eq!(client.finish(&first).status, 200);
}

#[test]
fn scripted_failures_come_from_the_result() {
    let client = Client::new();
    let cases = [
        (
            "fal-ai/refuses",
            422,
            json!("content_policy_violation"),
            false,
        ),
        ("fal-ai/bad-input", 422, json!("missing"), false),
        ("fal-ai/breaks", 500, Value::Null, true),
        ("fal-ai/flux/no-such-path", 404, Value::Null, false),
    ];
    for (model, status, kind, with_error) in cases {
        let submitted = client.submit(model);
        let result = client.finish(&submitted);
        assert_eq!(
            (result.status, &result.json()["detail"][0]["type"]),
            (status, &kind),
            "{model}"
        );
        assert_eq!(result.header("x-fal-billable-units"), Some("0"), "{model}");
        let completed = client.get(&submitted["status_url"]).json();
        assert_eq!(completed.get("error").is_some(), with_error, "{model}");
    }
    assert_eq!(client.fal.totals().billed, 0);
    client.fal.model(
        "fal-ai/closed",
        Script {
            fail_submit: Some((429, json!({"detail": "no"}))),
            ..Script::default()
        },
    );
    assert_eq!(client.post("fal-ai/closed", &[], "{}").status, 429);
    assert!(
        client
            .fal
            .submits()
            .iter()
            .all(|entry| entry.model != "fal-ai/closed")
    );
}

#[test]
fn every_default_model_gives_its_kind_of_output() {
    let client = Client::new();
    let output = |model: &str| client.finish(&client.submit(model)).json();
    let file =
        |url: &Value| raw::call(url.as_str().expect("url"), "GET", &[], b"").expect("answer");
    let video = file(&output("fal-ai/kling-video/v2/master/text-to-video")["video"]["url"]);
    assert_eq!(
        (media::look(&video.body), video.header("Content-Type")),
        (media::Looks::Mp4, Some("video/mp4"))
    );
    let audio = file(&output("fal-ai/f5-tts")["audio_url"]["url"]);
    assert_eq!(
        (media::look(&audio.body), audio.header("Content-Type")),
        (media::Looks::Mp3, Some("audio/mpeg"))
    );
    assert_eq!(output("fal-ai/any-llm")["output"], "An answer in words.");
    assert_eq!(output("fal-ai/nsfw")["has_nsfw_concepts"], json!([true]));
    let inline = output("fal-ai/inline");
    assert!(
        inline["images"][0]["url"]
            .as_str()
            .expect("url")
            .starts_with("data:image/png;base64,iVBORw0KGgo")
    );
    let big = file(&output("fal-ai/big")["image"]["url"]);
    assert_eq!(
        (big.body.len(), media::look(&big.body)),
        (7 << 20, media::Looks::Jpeg(3000, 2000))
    );
    let huge = output("fal-ai/huge")["video"]["url"].clone();
    let head = raw::call(huge.as_str().expect("url"), "HEAD", &[], b"").expect("answer");
    assert_eq!(head.header("Content-Length"), Some("62914560"));
    assert_eq!(file(&huge).body.len(), 60 << 20);
}

#[test]
fn crashing_disappearing_and_endless_requests() {
    let client = Client::new();
    client.fal.model(
        "fal-ai/crashes",
        Script::new(Outcome::CrashThenRetry).taking(Duration::from_millis(300)),
    );
    client.fal.set_slots(1);
    let crashing = client.submit("fal-ai/crashes");
    client.fal.model(
        "fal-ai/slow",
        Script::default().taking(Duration::from_secs(3)),
    );
    client.submit("fal-ai/slow");
    // It runs, and then it is back behind the other, which takes long enough to be seen.
    let until = Instant::now() + Duration::from_secs(30);
    while client.get(&crashing["status_url"]).json()["status"] != "IN_QUEUE" {
        assert!(Instant::now() < until, "not back behind the other");
        std::thread::sleep(Duration::from_millis(5)); // a look at a condition, with a deadline
    }
    assert_eq!(client.finish(&crashing).status, 200);
    let gone = client.submit("fal-ai/disappears");
    assert_eq!(client.get(&gone["status_url"]).status, 404);
    assert_eq!(client.fal.totals().submits, 3);
    let never = client.submit("fal-ai/never");
    assert_eq!(
        client.get(&never["status_url"]).json()["status"],
        "IN_PROGRESS"
    );
    client.fal.forget(never["request_id"].as_str().expect("id"));
    assert_eq!(client.get(&never["status_url"]).status, 404);
    assert_eq!(client.fal.totals().running_now, 0);
}

#[test]
fn a_locked_account_cannot_submit_and_can_poll() {
    let client = Client::new();
    let before = client.submit(MODEL);
    client.fal.set_locked(true);
    let refused = client.post(MODEL, &[], "{}");
    assert_eq!(refused.status, 403);
    assert!(
        refused.json()["detail"]
            .as_str()
            .expect("text")
            .starts_with("User is locked. Reason: Exhausted balance.")
    );
    assert_eq!(client.finish(&before).status, 200);
    client.fal.set_locked(false);
    assert_eq!(client.post(MODEL, &[], "{}").status, 200);
}

#[test]
fn results_vanish_and_large_ones_sooner() {
    let client = Client::new();
    client
        .fal
        .set_result_keeping(Duration::from_secs(60), Duration::ZERO);
    let (small, large) = (client.submit(MODEL), client.submit("fal-ai/inline"));
    assert_eq!(client.finish(&small).status, 200);
    let until = Instant::now() + Duration::from_secs(30);
    while client.get(&large["status_url"]).status != 404 {
        assert!(Instant::now() < until, "the large one is still there");
        std::thread::sleep(Duration::from_millis(5)); // a look at a condition, with a deadline
    }
    client
        .fal
        .set_result_keeping(Duration::ZERO, Duration::ZERO);
    assert_eq!(client.get(&small["response_url"]).status, 404);
}

#[test]
fn a_direct_call_answers_the_output_and_refuses_over_the_limit() {
    let client = Client::new();
    let url = format!("{}/{MODEL}", client.fal.run_url());
    let json_type = [("Content-Type", "application/json")];
    let got = client.call("POST", &url, &json_type, r#"{"prompt":"x"}"#);
    assert_eq!(
        (got.status, got.header("x-fal-billable-units")),
        (200, Some("1"))
    );
    assert!(got.json()["images"][0]["url"].is_string());
    assert!(client.fal.submits()[0].direct);
    client.fal.set_slots(0);
    let refused = client.call("POST", &url, &json_type, "{}");
    assert_eq!(
        (refused.status, &refused.json()["type"]),
        (429, &json!("concurrent_requests_limit"))
    );
    assert_eq!(refused.header("X-Fal-needs-retry"), Some("1"));
    assert_eq!(client.call("GET", &url, &[], "").status, 405);
}

#[test]
fn a_key_on_the_file_host_is_a_leak() {
    let client = Client::new();
    let output = client.finish(&client.submit(MODEL)).json();
    let url = output["images"][0]["url"].as_str().expect("url");
    assert!(client.fal.key_leaks().is_empty());
    client.call("GET", url, &[], "");
    assert_eq!(client.fal.key_leaks().len(), 1);
    client.fal.expire_files(
        output["images"][0]["url"]
            .as_str()
            .expect("url")
            .split('/')
            .nth(4)
            .expect("id"),
    );
    assert_eq!(raw::call(url, "GET", &[], b"").expect("answer").status, 404);
}

#[test]
fn an_upload_is_announced_and_then_served() {
    let client = Client::new();
    let url = format!(
        "{}/storage/upload/initiate?storage_type=fal-cdn-v3",
        client.fal.storage_url()
    );
    let body = r#"{"file_name":"in.png","content_type":"image/png"}"#;
    let announced = client
        .call("POST", &url, &[("Content-Type", "application/json")], body)
        .json();
    let put = announced["upload_url"].as_str().expect("url");
    assert_eq!(
        raw::call(put, "PUT", &[("Content-Type", "image/png")], b"bytes")
            .expect("answer")
            .status,
        200
    );
    let file = raw::call(
        announced["file_url"].as_str().expect("url"),
        "GET",
        &[],
        b"",
    )
    .expect("answer");
    assert_eq!(
        (file.text().as_str(), file.header("Content-Type")),
        ("bytes", Some("image/png"))
    );
    assert_eq!(
        raw::call(&put.replace("signature=", "signature=x"), "PUT", &[], b"")
            .expect("answer")
            .status,
        405
    );
}

#[test]
fn a_submit_that_is_reset_after_acting_is_in_the_ledger() {
    let client = Client::new();
    client
        .fal
        .shared
        .faults
        .add(Rule::first(1, "fal.submit", Fault::ResetAfterActing));
    client
        .fal
        .shared
        .faults
        .add(Rule::first(1, "fal.status", Fault::Html502));
    let headers = [
        ("Authorization", client.auth.as_str()),
        ("Content-Type", "application/json"),
    ];
    let url = format!("{}/{MODEL}", client.fal.queue_url());
    assert!(raw::call(&url, "POST", &headers, b"{}").is_none());
    assert_eq!(client.fal.totals().submits, 1);
    let second = client.submit(MODEL);
    let gateway = client.get(&second["status_url"]);
    assert!(
        gateway.status == 502
            && gateway.text().contains("nginx")
            && gateway.header("x-fal-request-id").is_none()
    );
    assert_eq!(client.finish(&second).status, 200);
}

#[test]
fn a_held_submit_has_acted() {
    let client = Client::new();
    let hold = client.fal.hold("fal.submit");
    std::thread::scope(|scope| {
        let held = scope.spawn(|| client.submit(MODEL));
        assert!(hold.wait_arrived(1, Duration::from_secs(5)));
        assert_eq!(client.fal.totals().submits, 1);
        assert!(!held.is_finished());
        hold.release();
        held.join().expect("answers");
    });
}

#[test]
fn outputs_of_any_shape_can_name_files() {
    let client = Client::new();
    let shape = json!({"model_mesh": {"url": "{files}/m.glb"}, "doc": ["{files}/a.pdf"], "id": "{request_id}"});
    client
        .fal
        .model("fal-ai/any", Script::new(Outcome::Json(shape)));
    let output = client.finish(&client.submit("fal-ai/any")).json();
    assert_eq!(output["id"].as_str().expect("id").len(), 36);
    for (url, kind) in [
        (&output["model_mesh"]["url"], "application/octet-stream"),
        (&output["doc"][0], "application/pdf"),
    ] {
        let file = raw::call(url.as_str().expect("url"), "GET", &[], b"").expect("answer");
        assert_eq!(
            (file.status, file.header("Content-Type")),
            (200, Some(kind))
        );
    }
}

#[test]
fn a_poll_after_the_result_and_a_foreign_secret_are_violations() {
    let client = Client::new();
    client.fal.watch_for_secret("7:TOKEN");
    let submitted = client.submit(MODEL);
    client.finish(&submitted);
    client.get(&submitted["status_url"]);
    client.post(MODEL, &[], r#"{"prompt":"7:TOKEN"}"#);
    let found = client.fal.violations();
    assert!(
        found[0].starts_with("poll-after-result:") && found[1].starts_with("foreign-secret:"),
        "{found:?}"
    );
}

#[test]
fn headers_of_a_submit_have_their_forms() {
    let client = Client::new();
    let direct = format!("{}/{MODEL}", client.fal.run_url());
    let lifecycle = "X-Fal-Object-Lifecycle-Preference";
    let refused = [
        ("X-Fal-Request-Timeout", "soon"),
        ("X-Fal-Queue-Priority", "high"),
        ("X-Fal-Queue-Priority", "Low"),
        ("X-Fal-Retry-Config", "3"),
        ("X-Fal-Retry-Config", "{\"timeout\":"),
        (lifecycle, "3600"),
        (lifecycle, "{\"expiration_duration_seconds\":\"3600\"}"),
        (lifecycle, "{\"expiration_duration_seconds\":-1}"),
        (lifecycle, "{\"initial_acl\":\"private\"}"),
        ("X-Fal-Tags", "no value"),
        ("X-Fal-Tags", "Key=1"),
        (
            "X-Fal-Tags",
            "a=1,b=2,c=3,d=4,e=5,f=6,g=7,h=8,i=9,j=10,k=11",
        ),
    ];
    for (name, value) in refused {
        let header = [("Content-Type", "application/json"), (name, value)];
        for got in [
            client.post(MODEL, &header[1..], "{}"),
            client.call("POST", &direct, &header, "{}"),
        ] {
            assert_eq!(
                (
                    got.status,
                    &got.json()["error_type"],
                    got.header("X-Fal-Error-Type")
                ),
                (400, &json!("bad_request"), Some("bad_request")),
                "{name}: {value}"
            );
        }
    }
    assert!(client.fal.submits().is_empty());
    assert_eq!(client.fal.violations(), Vec::<String>::new());

    for (name, value) in [
        ("X-Fal-Request-Timeout", "1.5"),
        ("X-Fal-Queue-Priority", "low"),
        ("X-Fal-Retry-Config", "{\"timeout\":{\"retries\":0}}"),
        (
            lifecycle,
            "{\"expiration_duration_seconds\":null,\"initial_acl\":{}}",
        ),
        (lifecycle, "{\"expiration_duration_seconds\":3600}"),
        ("X-Fal-Tags", "team=a b,env=x"),
        ("X-Fal-No-Retry", "yes"),
        ("X-Fal-Store-IO", "0"),
        ("X-App-Fal-Disable-Fallback", "true"),
        ("X-Fal-Runner-Hint", "any"),
    ] {
        let got = client.post(MODEL, &[(name, value)], "{}");
        assert_eq!(got.status, 200, "{name}: {value}");
    }
    assert_eq!(client.fal.violations(), Vec::<String>::new());
}

#[test]
fn headers_that_mean_nothing_to_fal_are_noted() {
    let client = Client::new();
    for (name, value) in [
        ("X-Fal-Request-Start-Timeout", "5"),
        ("X-Fal-Store-IO", "false"),
        ("X-Fal-No-Retry", "0"),
        ("X-App-Fal-Disable-Fallback", "on"),
    ] {
        let got = client.post(MODEL, &[(name, value)], "{}");
        assert_eq!(got.status, 200, "{name}");
        let last = client.fal.violations().pop().unwrap_or_default();
        let expected = format!("header: {}: {value}", name.to_ascii_lowercase());
        assert_eq!(last, expected);
    }
}
