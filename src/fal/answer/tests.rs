//! Tables: one row a wire answer, most of them seen at fal (fal-api section 8).

use super::*;
use Charged as C;
use Kind as K;
use Remedy as R;

macro_rules! wire {
    ($name:literal) => {
        include_str!(concat!("../../../tests/fixtures/fal/", $name, ".json"))
    };
}

const BASE: &str = "https://queue.fal.run";
const HTML: &str = "<html><center>nginx</center></html>";

fn model(name: &str) -> Model {
    Model(name.into())
}

fn headers(list: &[(&str, &str)]) -> Headers {
    list.iter().copied().collect()
}

fn say(status: u16, list: &[(&str, &str)], body: &str) -> Wire {
    Ok(Answer { status, headers: headers(list), body: body.as_bytes().to_vec() })
}

fn typed(kind: &str) -> String {
    format!(r#"{{"detail":[{{"loc":["body","x"],"msg":"m","type":"{kind}","input":"SECRET"}}]}}"#)
}

fn request_error(kind: &str) -> String {
    format!(r#"{{"detail":"text","error_type":"{kind}"}}"#)
}

#[test]
fn every_row_of_the_table_of_errors_has_its_meaning() {
    let unavailable: Vec<(u16, &str)> = vec![
        (503, "runner_scheduling_failure"),
        (503, "runner_connection_timeout"),
        (503, "runner_disconnected"),
        (503, "runner_connection_refused"),
        (503, "runner_connection_error"),
        (502, "runner_incomplete_response"),
        (500, "runner_server_error"),
        (500, "internal_error"),
        (500, "internal_server_error"),
        (400, "downstream_service_error"),
        (500, "downstream_service_error"),
        (500, "downstream_service_unavailable"),
    ];
    for (status, kind) in unavailable {
        for body in [typed(kind), request_error(kind)] {
            let failure = classify(status, &Headers::default(), body.as_bytes());
            let charged = if status >= 500 { C::No } else { C::Unknown };
            assert_eq!((failure.kind, failure.remedy, failure.charged), (K::Unavailable, R::TryAnew, charged), "{status} {body}");
        }
    }
    for (status, kind, remedy) in [(504, "request_timeout", R::TryAnew), (504, "startup_timeout", R::TryAnew), (504, "generation_timeout", R::TryAnew)] {
        let failure = classify(status, &Headers::default(), request_error(kind).as_bytes());
        assert_eq!((failure.kind, failure.remedy, failure.charged), (K::Timeout, remedy, C::No), "{kind}");
    }
    for kind in INPUT_TYPES.iter().copied().chain(["value_error.missing", "string_type", "int_parsing", "a_new_one"]) {
        let failure = classify(422, &Headers::default(), typed(kind).as_bytes());
        assert_eq!((failure.kind, failure.remedy, failure.charged), (K::InvalidInput, R::Final, C::Unknown), "{kind}");
    }
    for (status, kind, expected) in [
        (422, "content_policy_violation", K::ContentPolicy),
        (400, "content_policy_violation", K::ContentPolicy),
        (422, "no_media_generated", K::NoOutput),
        (499, "client_cancelled", K::Cancelled),
        (499, "client_disconnected", K::Cancelled),
        (400, "bad_request", K::InvalidInput),
    ] {
        let failure = classify(status, &Headers::default(), typed(kind).as_bytes());
        assert_eq!((failure.kind, failure.remedy), (expected, R::Final), "{status} {kind}");
    }
}

#[test]
fn statuses_texts_and_broken_bodies_have_their_meaning() {
    type Row<'a> = (&'a str, u16, &'a [(&'a str, &'a str)], &'a str, Kind, Remedy, Charged);
    let user = [("x-fal-request-timeout-type", "user")];
    let zero = [("x-fal-billable-units", "0")];
    let some = [("X-Fal-Billable-Units", "0.25")];
    let no_retry = [("x-fal-needs-retry", "0")];
    let not_retryable = [("X-Fal-Retryable", "false")];
    let retry = [("x-fal-needs-retry", "1")];
    let timed_out = wire!("error_request_timeout");
    let long_detail = r#"{"detail":"Input too long"}"#;
    let rows: &[Row] = &[
        ("start deadline", 504, &user, timed_out, K::Timeout, R::Final, C::No),
        ("start deadline, startup type", 504, &user, r#"{"detail":"x","error_type":"startup_timeout"}"#, K::Timeout, R::Final, C::No),
        ("start deadline, no body", 504, &user, "", K::Timeout, R::Final, C::No),
        ("processing too long", 504, &[], timed_out, K::Timeout, R::TryAnew, C::No),
        ("type in the header", 503, &[("x-fal-error-type", "runner_disconnected")], "{\"detail\":\"x\"}", K::Unavailable, R::TryAnew, C::No),
        ("header type, empty body", 504, &[("x-fal-error-type", "request_timeout")], "", K::Timeout, R::TryAnew, C::No),
        ("by header: no", 500, &no_retry, &typed("internal_server_error"), K::Unavailable, R::Final, C::No),
        ("by older header: no", 504, &not_retryable, &typed("generation_timeout"), K::Timeout, R::Final, C::No),
        ("by header: yes", 500, &retry, &typed("downstream_service_error"), K::Unavailable, R::TryAnew, C::No),
        ("500 with detail, no type", 500, &[], "{\"detail\":\"Internal Server Error\"}", K::Unavailable, R::TryAnew, C::No),
        ("500 with detail, header no", 500, &no_retry, "{\"detail\":\"boom\"}", K::Unavailable, R::Final, C::No),
        ("500 of a runner in plain text", 500, &zero, "Internal Server Error", K::Unavailable, R::TryAnew, C::No),
        ("500 that was billed", 500, &some, "{\"detail\":\"boom\"}", K::Unavailable, R::TryAnew, C::Yes),
        ("504 that was billed", 504, &some, timed_out, K::Timeout, R::TryAnew, C::Yes),
        ("504 with detail, no type", 504, &[], "{\"detail\":\"Gateway timeout\"}", K::Timeout, R::TryAnew, C::No),
        ("content policy", 422, &some, wire!("error_content_policy"), K::ContentPolicy, R::Final, C::Yes),
        ("content policy, free", 422, &zero, wire!("error_content_policy"), K::ContentPolicy, R::Final, C::No),
        ("content policy among several", 422, &[], wire!("error_several"), K::ContentPolicy, R::Final, C::Unknown),
        ("missing field", 422, &[("x-fal-billable-units", "0.00")], wire!("error_missing"), K::InvalidInput, R::Final, C::No),
        ("422 with a text", 422, &[], long_detail, K::InvalidInput, R::Final, C::Unknown),
        ("422 without detail", 422, &[], "{\"error\":\"Error\",\"message\":\"m\"}", K::InvalidInput, R::Final, C::Unknown),
        ("422 of a partner's checker", 422, &[], "{\"detail\":\"Rejected by the safety system\"}", K::ContentPolicy, R::Final, C::Unknown),
        ("400 of a partner's checker", 400, &[], "{\"detail\":\"Output was flagged: NSFW\"}", K::ContentPolicy, R::Final, C::Unknown),
        ("a text is no reason for a known type", 422, &[], r#"{"detail":[{"loc":[],"msg":"bad policy","type":"value_error"}]}"#, K::InvalidInput, R::Final, C::Unknown),
        ("units that are no number", 422, &[("x-fal-billable-units", "many")], long_detail, K::InvalidInput, R::Final, C::Unknown),
        ("detail as an object", 422, &[], r#"{"detail":{"msg":"m","type":"no_media_generated"}}"#, K::NoOutput, R::Final, C::Unknown),
        ("detail as texts", 422, &[], r#"{"detail":["a","b"]}"#, K::InvalidInput, R::Final, C::Unknown),
        ("empty detail", 422, &[], r#"{"detail":[]}"#, K::InvalidInput, R::Final, C::Unknown),
        ("null detail", 500, &[], r#"{"detail":null}"#, K::Unavailable, R::RetryStep, C::Unknown),
        ("older 401", 401, &[], r#"{"detail":"No user found for Key ID and Secret"}"#, K::Auth, R::RetryStep, C::Unknown),
        ("newer 401", 401, &[], r#"{"detail":"invalid key credentials"}"#, K::Auth, R::RetryStep, C::Unknown),
        (
            "401, form of the key",
            401,
            &[],
            r#"{"detail":"Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."}"#,
            K::Auth,
            R::RetryStep,
            C::Unknown,
        ),
        (
            "401, no key",
            401,
            &[],
            r#"{"detail":"Cannot access application \"fal-ai/flux\". Authentication is required to access this application."}"#,
            K::Auth,
            R::RetryStep,
            C::Unknown,
        ),
        ("403 balance", 403, &[], wire!("error_locked"), K::NoBalance, R::RetryStep, C::Unknown),
        ("403 top up", 403, &[], r#"{"detail":"User is locked. Reason: TOP_UP."}"#, K::NoBalance, R::RetryStep, C::Unknown),
        ("403 admin lock", 403, &[], r#"{"detail":"User is locked. Reason: Admin lock. Please contact support@fal.ai"}"#, K::NoBalance, R::RetryStep, C::Unknown),
        ("403 other", 403, &[], r#"{"detail":"Access denied"}"#, K::Auth, R::RetryStep, C::Unknown),
        ("402", 402, &[], "", K::NoBalance, R::RetryStep, C::Unknown),
        ("404 unknown app", 404, &[], r#"{"detail":"Application \"hailuo-ai\" not found"}"#, K::InvalidInput, R::Final, C::Unknown),
        ("405", 405, &[], r#"{"detail":"Method Not Allowed"}"#, K::BadAnswer, R::Final, C::Unknown),
        ("429 concurrency", 429, &[], wire!("error_concurrency"), K::RateLimited, R::RetryStep, C::Unknown),
        ("429 bare", 429, &[], "", K::RateLimited, R::RetryStep, C::Unknown),
        ("408", 408, &[], "", K::Unavailable, R::RetryStep, C::Unknown),
        ("409", 409, &[], "{\"detail\":\"x\"}", K::Unavailable, R::RetryStep, C::Unknown),
        ("499", 499, &[], r#"{"detail":"Request cancelled by the client."}"#, K::Cancelled, R::Final, C::Unknown),
        ("418 with detail", 418, &[], "{\"detail\":\"no\"}", K::InvalidInput, R::Final, C::Unknown),
        ("400 in HTML", 400, &[], HTML, K::Unavailable, R::RetryStep, C::Unknown),
        ("502 in HTML", 502, &[], HTML, K::Unavailable, R::RetryStep, C::Unknown),
        ("503 empty", 503, &[], "", K::Unavailable, R::RetryStep, C::Unknown),
        ("504 empty", 504, &[], "", K::Unavailable, R::RetryStep, C::Unknown),
        ("500 without detail", 500, &[], "{\"error\":\"x\"}", K::Unavailable, R::RetryStep, C::Unknown),
        ("JSON cut short", 503, &[], "{\"detail\":\"Requ", K::Unavailable, R::RetryStep, C::Unknown),
        ("422 cut short", 422, &[], "{\"detail\":[{\"loc\":", K::Unavailable, R::RetryStep, C::Unknown),
        ("a JSON list", 500, &[], "[1]", K::Unavailable, R::RetryStep, C::Unknown),
        ("a redirect", 302, &[], "", K::BadAnswer, R::Final, C::Unknown),
    ];
    for (name, status, list, body, kind, remedy, charged) in rows {
        let failure = classify(*status, &headers(list), body.as_bytes());
        let found = (failure.kind, failure.remedy, failure.charged);
        assert_eq!(found, (*kind, *remedy, *charged), "{name}");
        assert!(failure.text.starts_with(&format!("fal answered {status}")), "{name}: {}", failure.text);
        assert!(!failure.text.contains("SECRET"), "{name}: {}", failure.text);
    }
}

#[test]
fn texts_name_the_field_and_stay_short_single_line_and_without_the_input() {
    let text = |status, body: &str| classify(status, &Headers::default(), body.as_bytes()).text;
    assert_eq!(text(422, wire!("error_missing")), "fal answered 422 missing at body.prompt: Field required");
    assert_eq!(text(422, wire!("error_several")), "fal answered 422 content_policy_violation at body.images.1: flagged");
    assert_eq!(text(504, wire!("error_request_timeout")), "fal answered 504 request_timeout: Request timed out");
    assert_eq!(text(502, HTML), "fal answered 502 without JSON (a gateway's answer)");
    let long = format!(r#"{{"detail":[{{"loc":["{0}"],"type":"{0}","msg":"a\nb\u0007\u2028{0}"}}]}}"#, "ä".repeat(5000));
    let text = text(422, &long);
    assert!(text.chars().count() <= TEXT, "{}", text.chars().count());
    assert!(text.contains(": a b  ä") && text.ends_with('…'), "{text}");
    // fal's wording has a bound of its own, also where there would be room for more of it.
    for (length, shown) in [(200, "x".repeat(200)), (250, "x".repeat(199) + "…")] {
        let body = format!(r#"{{"detail":[{{"msg":"{}","type":"t"}}]}}"#, "x".repeat(length));
        let text = classify(422, &Headers::default(), body.as_bytes()).text;
        assert_eq!(text, format!("fal answered 422 t: {shown}"), "{length}");
    }
    let deep = format!(r#"{{"detail":[{{"msg":"m","type":"t","input":{}1{}}}]}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(classify(422, &Headers::default(), deep.as_bytes()).text, "fal answered 422 t: m");
}

#[test]
fn units_and_the_wish_to_wait_come_with_the_failure() {
    let list = headers(&[("x-fal-billable-units", "1.50"), ("retry-after", "7")]);
    let failure = classify(422, &list, b"{\"detail\":\"x\"}");
    assert_eq!((failure.units.as_deref(), failure.retry_after), (Some("1.50"), Some(Duration::from_secs(7))));
    for (value, expected) in [("999999", Some(3600)), ("0", Some(0)), ("-1", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)] {
        let failure = classify(429, &headers(&[("retry-after", value)]), b"");
        assert_eq!(failure.retry_after, expected.map(Duration::from_secs), "{value}");
    }
}

#[test]
fn a_submit_is_accepted_refused_or_unknown() {
    let refused = |kind, remedy| Some((false, kind, remedy, C::No));
    let unknown = Some((true, K::Unavailable, R::TryAnew, C::Unknown));
    let not_sent = || Err(Broken::NotSent("connect to x failed: refused".into()));
    let user = [("x-fal-request-timeout-type", "user")];
    let rows = [
        ("no connection", not_sent(), refused(K::Unavailable, R::RetryStep)),
        ("reset", Err(Broken::Unknown("x".into())), unknown),
        ("time-out", Err(Broken::TimedOut("x".into())), unknown),
        ("200 too long", Err(Broken::TooBig { status: 200 }), unknown),
        ("422 too long", Err(Broken::TooBig { status: 422 }), refused(K::Unavailable, R::RetryStep)),
        ("502 too long", Err(Broken::TooBig { status: 502 }), unknown),
        ("200 without an id", say(200, &[], "{\"status\":\"IN_QUEUE\"}"), unknown),
        ("200 cut short", say(200, &[], "{\"request_id\":\"76"), unknown),
        ("200 with an id that is none", say(200, &[], "{\"request_id\":\"a b\"}"), unknown),
        ("200 in HTML", say(200, &[], HTML), unknown),
        ("302", say(302, &[("location", "https://evil.example/")], ""), unknown),
        ("401", say(401, &[], "{\"detail\":\"invalid key credentials\"}"), refused(K::Auth, R::Final)),
        ("403", say(403, &[], "{\"detail\":\"Access denied\"}"), refused(K::Auth, R::Final)),
        ("401 in HTML", say(401, &[], HTML), refused(K::Unavailable, R::RetryStep)),
        ("403 in HTML", say(403, &[], HTML), refused(K::Unavailable, R::RetryStep)),
        ("403 empty", say(403, &[], ""), refused(K::Unavailable, R::RetryStep)),
        ("403 in HTML with an id", say(403, &[("x-fal-request-id", "764c")], HTML), refused(K::Auth, R::Final)),
        ("403 locked", say(403, &[], wire!("error_locked")), refused(K::NoBalance, R::RetryStep)),
        ("402", say(402, &[], ""), refused(K::NoBalance, R::RetryStep)),
        ("404", say(404, &[], "{\"detail\":\"Application \\\"x\\\" not found\"}"), refused(K::InvalidInput, R::Final)),
        ("429", say(429, &[("retry-after", "3")], ""), refused(K::RateLimited, R::RetryStep)),
        ("400", say(400, &[], &request_error("bad_request")), refused(K::InvalidInput, R::Final)),
        ("400 in HTML", say(400, &[], HTML), refused(K::Unavailable, R::RetryStep)),
        ("400 empty", say(400, &[], ""), refused(K::Unavailable, R::RetryStep)),
        ("404 in HTML", say(404, &[], HTML), refused(K::Unavailable, R::RetryStep)),
        ("405 in HTML", say(405, &[], HTML), refused(K::Unavailable, R::RetryStep)),
        ("400 as a text with its type", say(400, &[("x-fal-error-type", "bad_request")], "no"), refused(K::InvalidInput, R::Final)),
        ("405", say(405, &[], "{\"detail\":\"x\"}"), refused(K::BadAnswer, R::Final)),
        ("409", say(409, &[], "{\"detail\":\"x\"}"), refused(K::Unavailable, R::RetryStep)),
        ("413 in HTML", say(413, &[], HTML), refused(K::InvalidInput, R::Final)),
        ("422", say(422, &[("x-fal-billable-units", "1")], &typed("missing")), refused(K::InvalidInput, R::Final)),
        ("499", say(499, &[], ""), refused(K::Unavailable, R::Final)),
        ("408", say(408, &[], "{\"detail\":\"x\"}"), unknown),
        ("500", say(500, &[], "{\"detail\":\"x\"}"), unknown),
        ("502", say(502, &[], HTML), unknown),
        ("503", say(503, &[], &request_error("runner_disconnected")), unknown),
        ("504", say(504, &[], wire!("error_request_timeout")), unknown),
        ("504 of our own deadline", say(504, &user, wire!("error_request_timeout")), refused(K::Timeout, R::Final)),
    ];
    for (name, wire, expected) in rows {
        let found = match submitted(wire, BASE, &model("fal-ai/flux/dev")) {
            Submitted::Refused(f) => Some((false, f.kind, f.remedy, f.charged)),
            Submitted::Unknown(f) => Some((true, f.kind, f.remedy, f.charged)),
            Submitted::Accepted(_) => None,
        };
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn the_id_is_read_from_the_body_else_from_the_header() {
    let id = "764cabcf-b745-4b3e-ae38-1200304cf45b";
    let list = [("x-fal-request-id", id)];
    let position = |n| Some(n);
    for (name, wire, expected) in [
        ("body", say(200, &[("x-fal-request-id", "other")], wire!("submit")), position(0)),
        ("header", say(200, &list, "{}"), None),
        ("header, no id in the body", say(200, &list, "{\"request_id\":\"a b\",\"status_url\":\"https://queue.fal.run/login\"}"), None),
        ("header, body cut short", say(200, &list, "{\"request_id\":\"76"), None),
        ("header, no body", say(202, &list, ""), None),
    ] {
        let expected = Accepted { request: RequestId(id.into()), path: None, position: expected };
        assert_eq!(submitted(wire, BASE, &model("fal-ai/flux/dev")), Submitted::Accepted(expected), "{name}");
    }
}

#[test]
fn an_id_that_is_a_number_or_stands_in_a_url_alone_is_one() {
    let id = |body: &str| match submitted(say(200, &[], body), BASE, &model("fal-ai/flux/dev")) {
        Submitted::Accepted(accepted) => Some(accepted.request.0.to_string()),
        _ => None,
    };
    let status = |url: &str| id(&format!(r#"{{"status":"IN_QUEUE","status_url":"{url}"}}"#));
    let response = |url: &str| id(&format!(r#"{{"request_id":null,"status_url":7,"response_url":"{url}"}}"#));
    assert_eq!(id(r#"{"request_id":15860307465884635512}"#).as_deref(), Some("15860307465884635512"));
    for body in [r#"{"request_id":true}"#, r#"{"request_id":[1]}"#, r#"{"request_id":{}}"#, r#"{"request_id":""}"#] {
        assert_eq!(id(body), None, "{body}");
    }
    for (url, expected) in [
        ("https://queue.fal.run/fal-ai/flux/requests/764c/status", Some("764c")),
        ("https://queue.fal.run/fal-ai/flux/dev/requests/764c/status/", Some("764c")),
        ("https://queue.fal.run/fal-ai/flux/requests/764c/response", Some("764c")),
        ("https://queue.fal.run/fal-ai/flux/requests/764c", Some("764c")),
        ("https://queue.fal.run/fal-ai/flux/requests/764c/status?logs=1", None),
        ("https://queue.fal.run/fal-ai/flux/requests/7/64c/status", None),
        ("https://queue.fal.run/fal-ai/flux/requests/../status", None),
        ("https://queue.fal.run/fal-ai/flux/requests/%2e%2e/status", None),
        ("https://queue.fal.run/fal-ai/flux/requests//status", None),
        ("https://queue.fal.run/fal-ai/flux/764c/status", None),
        ("/fal-ai/flux/requests/764c/status", None),
        ("", None),
    ] {
        assert_eq!(status(url).as_deref(), expected, "status {url}");
        assert_eq!(response(url).as_deref(), expected, "response {url}");
    }
}

/// Without its name it would be paid for once more.
#[test]
fn a_submit_whose_answer_broke_behind_its_name_is_accepted() {
    let head = |status, id: &str| Some(Box::new(Answer { status, headers: headers(&[("x-fal-request-id", id)]), ..Answer::default() }));
    let breaks = || [Broken::Unknown("x".into()), Broken::Unfinished { status: 200 }, Broken::TooBig { status: 200 }];
    for broken in breaks() {
        let wire = named(Err(Torn { broken, head: head(200, "764c") }));
        let expected = Accepted { request: RequestId("764c".into()), path: None, position: None };
        assert_eq!(submitted(wire, BASE, &model("a/b")), Submitted::Accepted(expected));
    }
    for (name, head) in [("none", None), ("no id", head(200, "a b")), ("a refusal", head(422, "764c")), ("a gateway's", head(502, "764c"))] {
        for broken in breaks() {
            assert_eq!(named(Err(Torn { broken: broken.clone(), head: head.clone() })), Err(broken), "{name}");
        }
    }
}

#[test]
fn only_paths_below_the_configured_base_are_kept() {
    let kept = |base: &str, url: &str| {
        let body = format!(r#"{{"request_id":"764c","status_url":"{url}"}}"#);
        match submitted(say(200, &[], &body), base, &model("fal-ai/flux/dev")) {
            Submitted::Accepted(accepted) => accepted.path,
            other => panic!("{other:?}"),
        }
    };
    let Submitted::Accepted(other) = submitted(say(200, &[], wire!("submit_other_path")), BASE, &model("fal-ai/flux")) else { panic!("not accepted") };
    assert_eq!(other.path.as_deref(), Some("/fal-ai/other/requests/764c"));
    let rows = [
        (BASE, "https://queue.fal.run/fal-ai/flux/requests/764c/status", None),
        (BASE, "https://QUEUE.fal.run:443/fal-ai/flux/dev/requests/764c/status", Some("/fal-ai/flux/dev/requests/764c")),
        (BASE, "https://queue.fal.run/a/b/requests/764c/status/", Some("/a/b/requests/764c")),
        (BASE, "https://queue.fal.run/a/b/requests/764c", None),
        (BASE, "https://queue.fal.run/a/b/requests/764c/status?x=1", None),
        (BASE, "https://queue.fal.run/a/../b/status", None),
        (BASE, "https://queue.fal.run/a/%2e%2e/b/status", None),
        (BASE, "https://queue.fal.run//evil.example/status", None),
        (BASE, "https://queue.fal.run/status", None),
        (BASE, "https://queue.fal.run.evil.example/a/b/status", None),
        (BASE, "https://queue.fal.run@evil.example/a/b/status", None),
        (BASE, "http://queue.fal.run/a/b/status", None),
        (BASE, "https://queue.fal.run:8443/a/b/status", None),
        (BASE, "/a/b/status", None),
        ("http://127.0.0.1:8000/gate", "http://127.0.0.1:8000/gate/a/b/requests/1/status", Some("/a/b/requests/1")),
        ("http://127.0.0.1:8000/gate", "http://127.0.0.1:8000/gateway/a/b/requests/1/status", None),
        ("http://127.0.0.1:8000/gate", "http://127.0.0.1:8000/a/b/requests/1/status", None),
        ("http://127.0.0.1:8000/gate", "https://queue.fal.run/gate/a/b/requests/1/status", None),
    ];
    for (base, url, expected) in rows {
        assert_eq!(kept(base, url).as_deref(), expected, "{url} below {base}");
    }
}

#[test]
fn a_request_path_is_the_stem_and_an_id_that_cannot_leave_it() {
    for (name, id, expected) in [
        ("fal-ai/flux/dev", "764c", "/fal-ai/flux/requests/764c"),
        ("xai/grok-imagine-image/quality/edit", "1", "/xai/grok-imagine-image/requests/1"),
        ("workflows/me/my-flow", "1", "/workflows/me/my-flow/requests/1"),
        ("comfy/me/app/x", "1", "/comfy/me/app/requests/1"),
        ("a/b", "../x?y#z", "/a/b/requests/..%2Fx%3Fy%23z"),
    ] {
        assert_eq!(stem_path(&model(name), &RequestId(id.into())), expected);
    }
}

#[test]
fn a_status_is_clear_or_says_nothing() {
    let locked = wire!("error_locked");
    let failed = |kind| Err(kind);
    let rows = [
        ("queue", say(202, &[], wire!("status_in_queue")), Ok(Polled::InQueue { position: Some(2) })),
        ("queue, no position", say(200, &[], "{\"status\":\"IN_QUEUE\"}"), Ok(Polled::InQueue { position: None })),
        ("progress", say(202, &[], wire!("status_in_progress")), Ok(Polled::InProgress)),
        ("a new word", say(200, &[], "{\"status\":\"DREAMING\"}"), Ok(Polled::InProgress)),
        ("completed", say(200, &[], wire!("status_completed")), Ok(Polled::Completed)),
        ("completed with an error", say(200, &[], wire!("status_completed_error")), Ok(Polled::Broke { kind: K::Timeout, remedy: R::TryAnew })),
        ("completed with a text", say(200, &[], "{\"status\":\"COMPLETED\",\"error\":\"boom\"}"), Ok(Polled::Broke { kind: K::Unavailable, remedy: R::Final })),
        ("completed with no error", say(200, &[], "{\"status\":\"COMPLETED\",\"error\":null,\"error_type\":\"\"}"), Ok(Polled::Completed)),
        ("unknown id", say(404, &[], wire!("not_found")), Ok(Polled::Missing)),
        ("401", say(401, &[], "{}"), failed(K::Auth)),
        ("403 locked", say(403, &[], locked), failed(K::NoBalance)),
        ("405", say(405, &[], "{\"detail\":\"x\"}"), failed(K::BadAnswer)),
        ("422", say(422, &[], &typed("missing")), failed(K::InvalidInput)),
        ("429", say(429, &[], ""), failed(K::RateLimited)),
        ("500", say(500, &[], &request_error("internal_error")), failed(K::Unavailable)),
        ("502", say(502, &[], HTML), failed(K::Unavailable)),
        ("with a byte order mark", say(200, &[], "\r\n\u{feff}{\"status\":\"COMPLETED\"}\0\0"), Ok(Polled::Completed)),
        ("200 in HTML", say(200, &[], HTML), failed(K::Unavailable)),
        ("200 empty", say(200, &[], ""), failed(K::Unavailable)),
        ("200 with a text", say(200, &[], "\"IN_QUEUE\""), failed(K::Unavailable)),
        ("200 cut short", say(200, &[], " {\"status\":\"IN_"), failed(K::BadAnswer)),
        ("200 with a list", say(200, &[], "[]"), failed(K::BadAnswer)),
        ("reset", Err(Broken::Unknown("x".into())), failed(K::Unavailable)),
        ("no connection", Err(Broken::NotSent("x".into())), failed(K::Unavailable)),
        ("time-out", Err(Broken::TimedOut("x".into())), failed(K::Unavailable)),
        ("too long", Err(Broken::TooBig { status: 200 }), failed(K::Unavailable)),
    ];
    for (name, wire, expected) in rows {
        let found = match polled(wire) {
            Polled::Failed(failure) => {
                assert_eq!(failure.remedy, R::RetryStep, "{name}");
                Err(failure.kind)
            }
            clear => Ok(clear),
        };
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_result_is_the_output_byte_for_byte_or_a_reason() {
    let json = " {\"seed\": 15860307465884635512, \"x\":1e400, \"ü\": [1,2]}\n";
    let found = collected(say(200, &[("x-fal-billable-units", "1.5")], json));
    assert_eq!(found, Collected::Output(Output { json: json.into(), units: Some("1.5".into()) }));
    for (name, wire) in [
        ("400", say(400, &[], wire!("still_in_progress"))),
        ("422", say(422, &[], wire!("still_in_progress"))),
        ("202", say(202, &[], wire!("still_in_progress"))),
        ("200", say(200, &[], wire!("still_in_progress"))),
        ("a status", say(202, &[], wire!("status_in_progress"))),
        ("a bare status", say(202, &[], "{\"status\":\"IN_PROGRESS\"}")),
        ("a bare status of the queue", say(202, &[], "{\"status\":\"IN_QUEUE\",\"queue_position\":1}")),
        ("a status in other words", say(202, &[], "{\"status\":\"QUEUED\",\"response_url\":\"https://queue.fal.run/a/b/requests/1\"}")),
        ("nothing yet", say(202, &[], "{}")),
    ] {
        assert_eq!(collected(wire), Collected::NotYet, "{name}");
    }
    // The same words of a model, and its own 202, are a result.
    for (status, json) in [(200, r#"{"status":"IN_PROGRESS"}"#), (202, r#"{"status":"COMPLETED","image":{"url":"https://v3.fal.media/files/b/1.png"}}"#)] {
        let output = Output { json: json.into(), units: None };
        assert_eq!(collected(say(status, &[], json)), Collected::Output(output), "{status} {json}");
    }
    assert_eq!(collected(say(404, &[], wire!("not_found"))), Collected::Missing);
    let zero = [("x-fal-billable-units", "0")];
    let one = [("x-fal-billable-units", "1")];
    let id = [("x-fal-request-id", "0198")];
    let rows = [
        ("the model's 404", say(404, &zero, wire!("error_path_not_found")), K::InvalidInput, R::Final, C::No),
        ("its 404 without units", say(404, &[], wire!("error_path_not_found")), K::InvalidInput, R::Final, C::Unknown),
        ("content policy", say(422, &[], wire!("error_content_policy")), K::ContentPolicy, R::Final, C::Unknown),
        ("timed out", say(504, &[], wire!("error_request_timeout")), K::Timeout, R::TryAnew, C::No),
        ("gateway", say(502, &[], HTML), K::Unavailable, R::RetryStep, C::Unknown),
        ("key", say(401, &[], "{\"detail\":\"x\"}"), K::Auth, R::RetryStep, C::Unknown),
        ("its own 401", say(401, &one, "{\"detail\":\"x\"}"), K::InvalidInput, R::Final, C::Yes),
        ("its own 403", say(403, &zero, "{\"detail\":\"locked\"}"), K::InvalidInput, R::Final, C::No),
        ("its own 429", say(429, &zero, "{\"detail\":\"slow down\"}"), K::Unavailable, R::Final, C::No),
        ("its own 409", say(409, &one, "{\"detail\":\"x\"}"), K::Unavailable, R::Final, C::Yes),
        ("its own page", say(418, &one, HTML), K::InvalidInput, R::Final, C::Yes),
        ("a gateway's 429", say(429, &[], "{\"detail\":\"slow down\"}"), K::RateLimited, R::RetryStep, C::Unknown),
        ("a runner that died", say(502, &zero, HTML), K::Unavailable, R::TryAnew, C::No),
        ("lock", say(403, &[], wire!("error_locked")), K::NoBalance, R::RetryStep, C::Unknown),
        ("fal's 500 of no known form", say(500, &id, "{\"error\":\"Error\",\"message\":\"m\"}"), K::Unavailable, R::RetryStep, C::No),
        ("a 500 of nobody knows whom", say(500, &[], "{\"error\":\"Error\",\"message\":\"m\"}"), K::Unavailable, R::RetryStep, C::Unknown),
        ("fal's 422 as a text", say(422, &id, "Unprocessable Entity"), K::Unavailable, R::RetryStep, C::Unknown),
        ("200 by a slow line", Err(Broken::Unfinished { status: 200 }), K::Unavailable, R::RetryStep, C::Yes),
        ("200 in HTML", say(200, &[], HTML), K::Unavailable, R::RetryStep, C::Unknown),
        ("its own page under 200", say(200, &one, HTML), K::BadAnswer, R::RetryStep, C::Yes),
        ("200 cut short", say(200, &[], "{\"a\":"), K::BadAnswer, R::RetryStep, C::Yes),
        ("200 with a list", say(200, &[], "[1]"), K::BadAnswer, R::RetryStep, C::Yes),
        ("200 empty", say(200, &[], ""), K::Unavailable, R::RetryStep, C::Unknown),
        ("200 with a mark alone", say(200, &[], "\u{feff}\0"), K::Unavailable, R::RetryStep, C::Unknown),
        ("202 in HTML", say(202, &[], HTML), K::Unavailable, R::RetryStep, C::Unknown),
        ("200 too long", Err(Broken::TooBig { status: 200 }), K::BadAnswer, R::Final, C::Yes),
        ("reset", Err(Broken::Unknown("x".into())), K::Unavailable, R::RetryStep, C::Unknown),
        ("no connection", Err(Broken::NotSent("x".into())), K::Unavailable, R::RetryStep, C::Unknown),
    ];
    for (name, wire, kind, remedy, charged) in rows {
        let Collected::Failed(failure) = collected(wire) else { panic!("{name}: no failure") };
        assert_eq!((failure.kind, failure.remedy, failure.charged), (kind, remedy, charged), "{name}");
    }
}

#[test]
fn a_paid_result_is_not_lost_to_a_byte_that_is_no_text() {
    for (name, body, expected) in [
        ("mark before it", &b"\xef\xbb\xbf{\"a\":1}"[..], "{\"a\":1}"),
        ("mark behind a line break", b"\n\xef\xbb\xbf {\"a\":1}\n", " {\"a\":1}\n"),
        ("zeros behind it", b" {\"a\":1}\n\0\0\n", " {\"a\":1}"),
        ("half a character", b"{\"text\":\"caf\xe9\"}", "{\"text\":\"caf\u{fffd}\"}"),
        ("all three", b"\xef\xbb\xbf{\"text\":\"caf\xe9\"}\0", "{\"text\":\"caf\u{fffd}\"}"),
    ] {
        let wire = || Ok(Answer { status: 200, body: body.to_vec(), ..Answer::default() });
        let output = Output { json: expected.into(), units: None };
        assert_eq!(collected(wire()), Collected::Output(output.clone()), "{name}");
        assert_eq!(directed(wire()), Directed::Output(output, None), "{name}");
    }
}

#[test]
fn a_cancel_is_requested_done_too_late_or_unclear() {
    let rows = [
        ("202", say(202, &[], "{\"status\":\"CANCELLATION_REQUESTED\"}"), Some(Cancelled::Requested)),
        ("202, no body", say(202, &[], ""), Some(Cancelled::Requested)),
        ("200 asked", say(200, &[], "{\"status\":\"CANCELLATION_REQUESTED\"}"), Some(Cancelled::Requested)),
        ("200 ok", say(200, &[], "{\"status\":\"OK\"}"), Some(Cancelled::Removed)),
        ("200 success", say(200, &[], "{\"success\":true}"), Some(Cancelled::Removed)),
        ("200, no body", say(200, &[], ""), Some(Cancelled::Requested)),
        ("200 with no word", say(200, &[], "{}"), Some(Cancelled::Requested)),
        ("200 with another word", say(200, &[], "{\"status\":\"IN_PROGRESS\"}"), Some(Cancelled::Requested)),
        ("200 asked with success", say(200, &[], "{\"success\":true,\"status\":\"CANCELLATION_REQUESTED\"}"), Some(Cancelled::Requested)),
        ("200 cut short", say(200, &[], "{\"status\":\"O"), Some(Cancelled::Requested)),
        ("202 ok", say(202, &[], "{\"status\":\"OK\"}"), Some(Cancelled::Requested)),
        ("200 no success", say(200, &[], "{\"success\":false}"), None),
        ("202 no success", say(202, &[], "{\"success\": false, \"status\":\"OK\"}"), None),
        ("200 in HTML", say(200, &[], HTML), None),
        ("202 in HTML", say(202, &[], HTML), None),
        ("200 with a text", say(200, &[], "OK"), None),
        ("400", say(400, &[], "{\"status\":\"ALREADY_COMPLETED\"}"), Some(Cancelled::AlreadyCompleted)),
        ("404", say(404, &[], wire!("not_found")), Some(Cancelled::Missing)),
        ("400 other", say(400, &[], "{\"detail\":\"x\"}"), None),
        ("502", say(502, &[], HTML), None),
        ("reset", Err(Broken::Unknown("x".into())), None),
    ];
    for (name, wire, expected) in rows {
        match (cancelled(wire), expected) {
            (Cancelled::Failed(failure), None) => {
                assert_eq!(failure.remedy, R::RetryStep, "{name}")
            }
            (found, expected) => assert_eq!(Some(found), expected, "{name}"),
        }
    }
}

#[test]
fn a_direct_call_that_is_cut_off_stays_unknown() {
    let list = [("x-fal-request-id", "764c"), ("x-fal-billable-units", "1")];
    let output = Output { json: "{}".into(), units: Some("1".into()) };
    assert_eq!(directed(say(200, &list, "{}")), Directed::Output(output, Some(RequestId("764c".into()))));
    let rows = [
        ("no connection", Err(Broken::NotSent("x".into())), false, K::Unavailable, R::RetryStep, C::No),
        ("reset", Err(Broken::Unknown("x".into())), true, K::Unavailable, R::TryAnew, C::Unknown),
        ("time-out", Err(Broken::TimedOut("x".into())), true, K::Timeout, R::TryAnew, C::Unknown),
        ("time-out in the body", Err(Broken::Unfinished { status: 200 }), true, K::Timeout, R::TryAnew, C::Unknown),
        ("gateway", say(502, &[], HTML), true, K::Unavailable, R::TryAnew, C::Unknown),
        ("408", say(408, &[], "{\"detail\":\"x\"}"), true, K::Unavailable, R::TryAnew, C::Unknown),
        ("429", say(429, &[], wire!("error_concurrency")), false, K::RateLimited, R::RetryStep, C::No),
        ("429 that was billed", say(429, &list, "{\"detail\":\"x\"}"), false, K::Unavailable, R::Final, C::Yes),
        ("403 that was billed", say(403, &list, "{\"detail\":\"x\"}"), false, K::InvalidInput, R::Final, C::Yes),
        ("401", say(401, &[], "{}"), false, K::Auth, R::Final, C::No),
        ("403 locked", say(403, &[], wire!("error_locked")), false, K::NoBalance, R::RetryStep, C::No),
        ("403 page", say(403, &[], HTML), false, K::Unavailable, R::RetryStep, C::No),
        ("404", say(404, &[], "{\"detail\":\"x\"}"), false, K::InvalidInput, R::Final, C::No),
        ("404 page", say(404, &[], HTML), false, K::Unavailable, R::RetryStep, C::No),
        ("413 page", say(413, &[], HTML), false, K::InvalidInput, R::Final, C::No),
        ("422", say(422, &list, wire!("error_content_policy")), false, K::ContentPolicy, R::Final, C::Yes),
        ("500", say(500, &[], &request_error("internal_error")), false, K::Unavailable, R::TryAnew, C::No),
        ("start deadline", say(504, &[("x-fal-request-timeout-type", "user")], ""), false, K::Timeout, R::Final, C::No),
        ("200 in HTML", say(200, &[], HTML), true, K::Unavailable, R::TryAnew, C::Unknown),
        ("200 in HTML, billed", say(200, &list, HTML), false, K::BadAnswer, R::Final, C::Yes),
        ("200 in HTML of a model", say(200, &list[..1], HTML), false, K::BadAnswer, R::Final, C::Yes),
        ("200 too long", Err(Broken::TooBig { status: 200 }), false, K::BadAnswer, R::Final, C::Yes),
    ];
    for (name, wire, unknown, kind, remedy, charged) in rows {
        let (found, failure) = match directed(wire) {
            Directed::Unknown(failure, _) => (true, failure),
            Directed::Failed(failure, _) => (false, failure),
            other => panic!("{name}: {other:?}"),
        };
        let all = (found, failure.kind, failure.remedy, failure.charged);
        assert_eq!(all, (unknown, kind, remedy, charged), "{name}");
    }
}

#[test]
fn of_a_direct_call_in_doubt_it_is_known_whether_fal_itself_spoke() {
    let id = [("x-fal-request-id", "0198")];
    for (name, wire, spoke) in [
        ("page", say(502, &[], HTML), false),
        ("no word", say(503, &[], "{}"), false),
        ("page behind fal", say(503, &id, HTML), true),
        ("good page", say(200, &[], HTML), false),
        ("nothing", say(200, &[], ""), false),
        ("reset", Err(Broken::Unknown("x".into())), false),
    ] {
        let Directed::Unknown(failure, _) = directed(wire) else {
            panic!("{name}");
        };
        assert_eq!(failure.spoke, spoke, "{name}");
    }
}

/// Three of the status, or one of the cancel, would end a paid job that fal goes on with.
#[test]
fn a_gateways_404_is_no_word_about_the_request() {
    let id = [("x-fal-request-id", "0198")];
    let zero = [("x-fal-billable-units", "0")];
    for (name, list, body, known) in [
        ("page", &[][..], HTML, true),
        ("text", &[], "default backend - 404", true),
        ("list", &[], "[]", true),
        ("empty", &[], "", true),
        ("a line break", &[], "\n", true),
        ("empty with an id", &id, "", false),
        ("fal's", &[], wire!("not_found"), false),
        ("page with an id", &id, HTML, false),
        ("page with units", &zero, HTML, false),
    ] {
        let wire = || say(404, list, body);
        let fault = |failure: &Failure| !failure.spoke && (failure.kind, failure.remedy) == (K::Unavailable, R::RetryStep);
        assert_eq!(matches!(&polled(wire()), Polled::Failed(failure) if fault(failure)), known, "status: {name}");
        assert_eq!(matches!(polled(wire()), Polled::Missing), !known, "status: {name}");
        assert_eq!(matches!(&collected(wire()), Collected::Failed(failure) if fault(failure)), known, "result: {name}");
        assert_eq!(matches!(collected(wire()), Collected::Missing), !known, "result: {name}");
        assert_eq!(matches!(&cancelled(wire()), Cancelled::Failed(failure) if fault(failure)), known, "cancel: {name}");
        assert_eq!(matches!(cancelled(wire()), Cancelled::Missing), !known, "cancel: {name}");
        assert_eq!(probed(wire()) == Probe::Away, known, "probe: {name}");
    }
}

#[test]
fn a_direct_call_that_failed_is_named_as_fal_names_it_where_there_is_a_request() {
    let id = [("x-fal-request-id", "764c"), ("x-fal-billable-units", "0")];
    let gateway = [("x-fal-request-id", "764c")];
    let odd = [("x-fal-request-id", "a b")];
    for (name, wire, expected) in [
        ("422", say(422, &id, wire!("error_content_policy")), true),
        ("500", say(500, &id, &request_error("internal_error")), true),
        ("200 page", say(200, &id, HTML), true),
        ("502 page", say(502, &gateway, HTML), true),
        ("422 without one", say(422, &[], wire!("error_content_policy")), false),
        ("422 with one that is none", say(422, &odd, wire!("error_content_policy")), false),
        ("refused", say(429, &id, wire!("error_concurrency")), false),
        ("time-out", Err(Broken::TimedOut("x".into())), false),
    ] {
        let (Directed::Failed(_, found) | Directed::Unknown(_, found)) = directed(wire) else { panic!("{name}") };
        assert_eq!(found, expected.then(|| RequestId("764c".into())), "{name}");
    }
}

#[test]
fn the_probe_tells_a_refused_key_from_a_locked_account() {
    for (name, wire, expected) in [
        ("404", say(404, &[], wire!("not_found")), Probe::KeyGood),
        ("404 page", say(404, &[], HTML), Probe::Away),
        ("200", say(200, &[], wire!("status_in_queue")), Probe::KeyGood),
        ("401", say(401, &[], "{}"), Probe::KeyRefused),
        ("401 page", say(401, &[], HTML), Probe::Away),
        ("403 page", say(403, &[], HTML), Probe::Away),
        ("403", say(403, &[], "{\"detail\":\"Access denied\"}"), Probe::KeyRefused),
        ("403 locked", say(403, &[], wire!("error_locked")), Probe::KeyGood),
        ("429", say(429, &[], ""), Probe::Away),
        ("502", say(502, &[], HTML), Probe::Away),
        ("no connection", Err(Broken::NotSent("x".into())), Probe::Away),
    ] {
        assert_eq!(probed(wire), expected, "{name}");
    }
}

/// What the breaker is told (design section 2): a 5xx without a fal request id, a broken exchange and a
/// gateway's page are silence; whatever fal says itself is not.
#[test]
fn a_failure_says_whether_fal_itself_spoke() {
    let id = [("x-fal-request-id", "0198")];
    let broken = || Err(Broken::TimedOut("x".into()));
    let json = "{\"detail\":\"Internal Server Error\"}";
    let rows = [
        ("time-out", broken(), false),
        ("refused", Err(Broken::NotSent("x".into())), false),
        ("reset", Err(Broken::Unknown("x".into())), false),
        ("502 page", say(502, &[], HTML), false),
        ("502 page with an id", say(502, &id, HTML), true),
        ("500 without an id", say(500, &[], json), false),
        ("500 with an id", say(500, &id, json), true),
        ("503 empty", say(503, &[], ""), false),
        ("408 page", say(408, &[], HTML), false),
        ("403 page", say(403, &[], HTML), false),
        ("401", say(401, &[], "{\"detail\":\"invalid key credentials\"}"), true),
        ("408", say(408, &[], json), true),
        ("429", say(429, &[], wire!("error_concurrency")), true),
        ("200 page", say(200, &[], HTML), false),
        ("200 page with an id", say(200, &id, HTML), true),
        ("200 by a slow line", Err(Broken::Unfinished { status: 200 }), true),
        ("504 by a slow line", Err(Broken::Unfinished { status: 504 }), false),
        ("200 too long", Err(Broken::TooBig { status: 200 }), true),
    ];
    for (name, wire, spoke) in &rows {
        let Polled::Failed(failure) = polled(wire.clone()) else { panic!("{name}") };
        assert_eq!(failure.spoke, *spoke, "status: {name}");
        let Cancelled::Failed(failure) = cancelled(wire.clone()) else { continue };
        assert_eq!(failure.spoke, *spoke, "cancel: {name}");
    }
    let submits = [
        ("time-out", broken(), false),
        ("200 page", say(200, &[], HTML), false),
        ("500 without an id", say(500, &[], json), false),
        ("500 with an id", say(500, &id, json), false), // nothing of the job ran: the trouble is fal's
        ("408 with an id", say(408, &id, json), true),
        ("504 page", say(504, &[], HTML), false),
        ("200 by a slow line", Err(Broken::Unfinished { status: 200 }), true),
    ];
    for (name, wire, spoke) in submits {
        let Submitted::Unknown(failure) = submitted(wire, BASE, &model("a/b")) else { panic!("{name}") };
        assert_eq!(failure.spoke, spoke, "submit: {name}");
    }
    // Pages that refuse must open the breaker: else each job of a backlog asks for itself.
    for (name, wire, spoke) in [
        ("404 page", say(404, &[], HTML), false),
        ("400 page", say(400, &[], HTML), false),
        ("401 page", say(401, &[], HTML), false),
        ("403 page", say(403, &[], HTML), false),
        ("409", say(409, &[], json), true),
        ("404", say(404, &[], json), true),
    ] {
        let Submitted::Refused(failure) = submitted(wire, BASE, &model("a/b")) else { panic!("{name}") };
        assert_eq!(failure.spoke, spoke, "submit: {name}");
    }
    // What is final of an input is none of a result that is paid for.
    let Collected::Failed(failure) = collected(say(413, &[], HTML)) else { panic!("413") };
    assert_eq!((failure.kind, failure.remedy), (K::Unavailable, R::RetryStep));
    // A result that fal gives as the job's own failure is its word, with or without an id.
    let results = [
        ("500", say(500, &[], json), true),
        ("bare 502", say(502, &[], HTML), false),
        ("200 page", say(200, &[], HTML), false),
        ("200 empty", say(200, &[], ""), false),
        ("200 empty with an id", say(200, &id, ""), true),
        ("200 cut short", say(200, &[], "{\"a\":"), true),
        ("200 by a slow line", Err(Broken::Unfinished { status: 200 }), true),
    ];
    for (name, wire, spoke) in results {
        let Collected::Failed(failure) = collected(wire) else { panic!("{name}") };
        assert_eq!(failure.spoke, spoke, "result: {name}");
    }
}
