//! Any answer of fal, and any result: no panic, no key in a text, no step below another base, nothing
//! to deliver but http and data.

use super::*;
use crate::fuzz::{self, Outcome, Target, hold};
use crate::http::{Broken, Place};
use crate::job::Charged;
use crate::job::answer::Item;
use crate::job::failure::{Failure, Kind, Remedy};

const KEY: &str = "1234-id:s3cr3t-of-the-account";
const BASE: &str = "https://queue.fal.run";

macro_rules! body {
    ($name:literal) => {
        include_str!(concat!("../../../tests/fixtures/fal/", $name, ".json"))
    };
}

fn bodies() -> Vec<&'static str> {
    vec![
        body!("error_concurrency"),
        body!("error_content_policy"),
        body!("error_locked"),
        body!("error_missing"),
        body!("error_path_not_found"),
        body!("error_request_timeout"),
        body!("error_several"),
        body!("not_found"),
        body!("status_completed"),
        body!("status_completed_error"),
        body!("status_in_progress"),
        body!("status_in_queue"),
        body!("still_in_progress"),
        body!("submit"),
        body!("submit_other_path"),
    ]
}

fn results() -> Vec<&'static str> {
    vec![
        body!("result_audio"),
        body!("result_flagged"),
        body!("result_image"),
        body!("result_images"),
        body!("result_lora"),
        body!("result_mesh"),
        body!("result_text"),
        body!("result_transcript"),
        body!("result_video"),
    ]
}

fn good_failure(failure: &Failure) -> Result<(), String> {
    let text = &failure.text;
    hold!(
        text.chars().count() <= 300,
        "{} characters: {text}",
        text.chars().count()
    );
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    hold!(!text.contains(breaks), "no single line: {text:?}");
    hold!(
        !text.contains("s3cr3t-of-the-account"),
        "the key is in: {text}"
    );
    hold!(!text.is_empty(), "no text");
    if let Some(units) = &failure.units {
        hold!(units.parse::<f64>().is_ok(), "units {units:?}");
    }
    if let Some(wait) = failure.retry_after {
        hold!(wait <= Duration::from_secs(3600), "{wait:?} of silence");
    }
    Ok(())
}

fn word(failure: &Failure) -> String {
    format!(
        "{:?} {:?} {:?} {}",
        failure.kind,
        failure.remedy,
        failure.charged,
        failure.units.is_some()
    )
}

/// The same answer to each question that can be asked.
fn any_answer(input: &[u8]) -> Outcome {
    let (status, headers, body) = fuzz::answer(input);
    let mut answer = Answer {
        status,
        headers: headers.into_iter().collect(),
        body,
    };
    Key(format!("Key {KEY}")).blank(&mut answer);
    let as_it_came = answer::legible(answer.clone()).body;
    let wire = || match status {
        1 => Err(Broken::TimedOut("no answer in time".to_owned())),
        2 => Err(Broken::NotSent("connection refused".to_owned())),
        3 => Err(Broken::TooBig { status: 200 }),
        _ => Ok(answer.clone()),
    };
    let model = Model::new("fal-ai/flux/dev").unwrap();
    let mut words = Vec::new();

    match answer::submitted(wire(), BASE, &model) {
        Submitted::Accepted(accepted) => {
            let id = &accepted.request.0;
            hold!(id.bytes().all(|byte| byte.is_ascii_graphic()), "id {id:?}");
            hold!((1..=200).contains(&id.len()), "id of {} bytes", id.len());
            if let Some(path) = &accepted.path {
                hold!(answer::is_plain_path(path), "path {path:?}");
            }
            let path = accepted.path.clone();
            let path = path.unwrap_or_else(|| answer::stem_path(&model, &accepted.request));
            hold!(
                !path.contains("/../") && !path.contains(['?', '#', '\\']),
                "path {path:?}"
            );
            // What is asked next goes, with the key, to the same place and below the base.
            let url = format!("{BASE}{path}/status");
            hold!(Place::of(&url) == Place::of(BASE), "leads elsewhere: {url}");
            words.push(format!("accepted {}", accepted.path.is_some()));
        }
        Submitted::Refused(failure) => {
            good_failure(&failure)?;
            hold!(
                failure.charged == Charged::No,
                "refused and charged: {}",
                failure.text
            );
            hold!(
                !(200..300).contains(&status) || status < 100,
                "a {status} is a refusal"
            );
            words.push(word(&failure));
        }
        Submitted::Unknown(failure) => {
            good_failure(&failure)?;
            hold!(failure.charged == Charged::Unknown, "{:?}", failure.charged);
            hold!(failure.remedy == Remedy::TryAnew, "{:?}", failure.remedy);
            words.push("unknown".to_owned());
        }
    }
    match answer::polled(wire()) {
        Polled::Failed(failure) => {
            good_failure(&failure)?;
            hold!(
                failure.remedy == Remedy::RetryStep,
                "a status decides: {}",
                failure.text
            );
            words.push(word(&failure));
        }
        other => words.push(format!("{other:?}").chars().take(9).collect()),
    }
    match answer::collected(wire()) {
        Collected::Output(output) => {
            hold!((200..300).contains(&status), "a result under {status}");
            hold!(
                output.json.trim_start().starts_with('{'),
                "no object: {}",
                output.json
            );
            hold!(
                output.json.as_bytes() == as_it_came,
                "not as it came: {}",
                output.json
            );
            words.push("output".to_owned());
        }
        Collected::Failed(failure) => {
            good_failure(&failure)?;
            let final_word = failure.remedy != Remedy::RetryStep;
            hold!(
                !final_word || failure.kind != Kind::RateLimited,
                "a 429 ends a job"
            );
            words.push(word(&failure));
        }
        Collected::NotYet => words.push("not yet".to_owned()),
        Collected::Missing => words.push("missing".to_owned()),
    }
    match answer::cancelled(wire()) {
        Cancelled::Failed(failure) => {
            good_failure(&failure)?;
            hold!(failure.remedy == Remedy::RetryStep, "{:?}", failure.remedy);
        }
        other => words.push(format!("{other:?}").chars().take(9).collect()),
    }
    match answer::directed(wire()) {
        Directed::Output(output, _) => {
            hold!(
                output.json.as_bytes() == as_it_came,
                "not as it came: {}",
                output.json
            )
        }
        Directed::Failed(failure, _) => good_failure(&failure)?,
        Directed::Unknown(failure, _) => {
            good_failure(&failure)?;
            hold!(failure.charged == Charged::Unknown, "{:?}", failure.charged);
        }
    }
    words.push(format!("{:?}", answer::probed(wire())));
    Ok(words.join(", "))
}

fn any_result(input: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(input);
    let (json, echo) = text.split_once('\n').unwrap_or((&text, "{}"));
    let found = outputs(json);
    for item in &found.items {
        match item {
            Item::File(file) => {
                let url = file.url.to_ascii_lowercase();
                let known = ["https://", "http://", "data:"]
                    .iter()
                    .any(|scheme| url.starts_with(scheme));
                hold!(known, "to be delivered: {url}");
                let data = url.starts_with("data:");
                hold!(
                    data || !url.contains(|c: char| c.is_whitespace() || c.is_control()),
                    "{url:?}"
                );
                if let Some(name) = &file.name {
                    hold!(!name.contains(['/', '\\']) && name != "..", "name {name:?}");
                    hold!(!name.contains(char::is_control), "name {name:?}");
                    hold!((1..=128).contains(&name.chars().count()), "name {name:?}");
                }
                if let Some(kind) = &file.content_type {
                    hold!(
                        kind.contains('/') && *kind == kind.to_ascii_lowercase(),
                        "type {kind:?}"
                    );
                }
                hold!(
                    file.width != Some(0) && file.height != Some(0),
                    "a side of nothing"
                );
            }
            Item::Text(text) => hold!(!text.trim().is_empty(), "an empty text"),
        }
    }
    let files = |found: &Found| -> Vec<String> {
        let urls = found.items.iter().filter_map(|item| match item {
            Item::File(file) => Some(file.url.clone()),
            Item::Text(_) => None,
        });
        urls.collect()
    };
    let urls = files(&found);
    let mut once = urls.clone();
    once.sort();
    once.dedup();
    hold!(once.len() == urls.len(), "twice: {urls:?}");
    // What stands in the input is no output; of itself nothing is left.
    let rest = files(&outputs_but(json, &echoes(json, echo, Vec::new())));
    hold!(
        rest.iter().all(|url| !echoed(url, echo)),
        "echoes: {rest:?}"
    );
    hold!(
        files(&outputs_but(json, &echoes(json, json, Vec::new()))).is_empty(),
        "its own echo is an output"
    );
    let texts = found
        .items
        .iter()
        .filter(|item| matches!(item, Item::Text(_)))
        .count();
    Ok(format!(
        "{} {} {} {}",
        urls.len().min(6),
        texts.min(4),
        rest.len().min(4),
        found.all_flagged
    ))
}

/// Whether the text is a member of the input, by another reading of it than that under test.
fn echoed(url: &str, echo: &str) -> bool {
    fn holds(value: &serde_json::Value, url: &str) -> bool {
        match value {
            serde_json::Value::String(text) => text == url,
            serde_json::Value::Array(list) => list.iter().any(|value| holds(value, url)),
            serde_json::Value::Object(members) => members.values().any(|value| holds(value, url)),
            _ => false,
        }
    }
    serde_json::from_str(echo).is_ok_and(|value| holds(&value, url))
}

#[test]
fn any_answer_of_fal_has_a_meaning_and_no_key_in_its_text() {
    let plain = bodies().into_iter().chain(results());
    let statuses = [
        200, 202, 400, 401, 402, 403, 404, 405, 408, 409, 422, 429, 499, 500, 502, 503, 504,
    ];
    let headers = [
        ("x-fal-request-id", "019a-b"),
        ("x-fal-billable-units", "1.5"),
        ("x-fal-error-type", "runner_disconnected"),
        ("x-fal-request-timeout-type", "user"),
        ("x-fal-needs-retry", "0"),
        ("retry-after", "7"),
    ];
    let seeds = plain.enumerate().flat_map(|(number, body)| {
        let some = &headers[number % headers.len()..];
        statuses.map(|status| fuzz::wire(status, some, body))
    });
    let echo = format!(r#"{{"detail":"Invalid key Key {KEY}","x":"{KEY}"}}"#);
    Target::new("fal-answer")
        .seeds(seeds)
        .seed(fuzz::wire(401, &[("x-fal-error-type", KEY)], &echo))
        .seed(fuzz::wire(422, &[], &echo.replace("s3c", "\\u00733c")))
        .seed(fuzz::wire(1, &[], ""))
        .seed(fuzz::wire(2, &[], ""))
        .seed(fuzz::wire(3, &[], ""))
        .seed(fuzz::wire(200, &[], "\u{feff}{\"a\":1}\0"))
        .seed(fuzz::wire(502, &[], "<html>bad gateway</html>"))
        .words([
            "request_id",
            "status_url",
            "queue_position",
            "status",
            "detail",
            "error_type",
            "type",
            "loc",
        ])
        .words([
            "msg",
            "message",
            "input",
            "ctx",
            "IN_QUEUE",
            "IN_PROGRESS",
            "COMPLETED",
            "ALREADY_COMPLETED",
        ])
        .words([
            "CANCELLATION_REQUESTED",
            "Request is still in progress",
            "Path /x not found",
            "value_error.x",
        ])
        .words([
            "content_policy_violation",
            "internal_server_error",
            "User is locked",
            "balance",
            KEY,
            "\\u0073",
        ])
        .words([
            "https://queue.fal.run/fal-ai/flux/requests/",
            "/status",
            "x-fal-request-id: ",
            "\nretry-after: ",
        ])
        .run(any_answer);
}

#[test]
fn any_result_gives_files_of_known_schemes_and_never_an_echo_of_the_input() {
    let echo = r#"{"prompt":"a cat","image_url":"https://v3.fal.media/files/in/cat.png","images":[{"url":"https://v3.fal.media/files/b/1.png"}]}"#;
    let seeds = results().into_iter().chain(bodies());
    Target::new("fal-result")
        .seeds(seeds.map(|body| format!("{}\n{echo}", body.replace('\n', " "))))
        .words([
            "url", "urls", "image", "images", "video", "audio", "file", "files", "output",
            "outputs", "text",
        ])
        .words([
            "content_type",
            "file_name",
            "file_size",
            "width",
            "height",
            "duration",
            "thumbnail",
            "preview",
        ])
        .words([
            "has_nsfw_concepts",
            "prompt",
            "image_url",
            "https://v3.fal.media/files/in/cat.png",
            "data:a/b,",
        ])
        .words([
            "image/png",
            "video/mp4",
            "application/octet-stream",
            "x_file",
            "config_file",
            "results",
        ])
        .run(any_result);
}
