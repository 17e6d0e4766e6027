//! What must never be seen: fal's key and the bot's token anywhere, whatever goes wrong and however much
//! is logged; prompts and captions in a line at info or above, or in an event.

use crate::support::{SOON, World, job};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use redis::Value;
use serde_json::json;

/// Stands in prompts and captions.
const WORDS: &str = "nobody-may-read-this";

/// The parts of key and token that are enough to act with.
fn secrets(world: &World) -> Vec<String> {
    [world.sandbox.fal.key(), world.sandbox.telegram.token()]
        .iter()
        .map(|whole| whole.split_once(':').unwrap().1.to_owned())
        .collect()
}

/// Everything Redis holds: key, and its value as bytes.
fn all_of_redis(world: &mut World) -> Vec<(String, Vec<u8>)> {
    let keys: Vec<String> = world.redis(&["KEYS", "*"]);
    let mut all = Vec::new();
    for key in keys {
        let kind: String = world.redis(&["TYPE", &key]);
        let words: &[&str] = match kind.as_str() {
            "string" => &["GET", &key],
            "list" => &["LRANGE", &key, "0", "-1"],
            "hash" => &["HGETALL", &key],
            "set" => &["SMEMBERS", &key],
            "zset" => &["ZRANGE", &key, "0", "-1"],
            "stream" => &["XRANGE", &key, "-", "+"],
            "none" => continue, // ran out since KEYS
            other => panic!("{key} is a {other}"),
        };
        let value: Value = world.redis(words);
        let mut bytes = Vec::new();
        flatten(&value, &mut bytes);
        all.push((key, bytes));
    }
    all
}

fn flatten(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::BulkString(bytes) => out.extend(bytes),
        Value::SimpleString(text) => out.extend(text.bytes()),
        Value::Array(values) | Value::Set(values) => {
            values.iter().for_each(|value| flatten(value, out));
        }
        Value::Map(pairs) => pairs.iter().for_each(|(key, value)| {
            flatten(key, out);
            flatten(value, out);
        }),
        Value::Int(_) | Value::Nil => {}
        other => panic!("an answer of another kind: {other:?}"),
    }
    out.push(b'\n');
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

/// Answers with a redirect, which a client that follows it blindly takes key or token to.
fn redirect(to: &str) -> Fault {
    Fault::Answer {
        status: 302,
        content_type: "text/plain".into(),
        headers: vec![("Location".into(), to.into())],
        body: b"elsewhere".to_vec(),
    }
}

/// Every kind of trouble that writes an error somewhere, one job each: names of the jobs that must be
/// done, and of those that must fail.
fn trouble(world: &mut World) -> (Vec<String>, Vec<String>) {
    let (fal, telegram, faults) = (
        &world.sandbox.fal,
        &world.sandbox.telegram,
        &world.sandbox.faults,
    );
    let files = format!("http://{}/files/stolen/x.png", fal.file_host());
    let token = telegram.token();
    // fal repeats what it was sent: the input in `detail`.
    let echo = json!({"detail": [{"loc": ["body", "prompt"], "msg": "flagged", "type": "value_error",
        "input": {"prompt": WORDS}}]});
    fal.model("test/echo", Script::new(Outcome::error(422, echo)));
    let refuses = json!({"detail": "may not use this"});
    fal.model(
        "test/refuses",
        Script {
            fail_submit: Some((400, refuses)),
            ..Script::default()
        },
    );
    fal.model("test/result-moved", Script::default());
    fal.model(
        "test/moved",
        Script::new(Outcome::Json(
            json!({"images": [{"url": "{files}/moved.png", "content_type": "image/png"}]}),
        )),
    );
    fal.model(
        "test/elsewhere",
        Script::new(Outcome::Json(json!({"images": [{"url": "https://files.example/a.png", "content_type": "image/png"}]}))),
    );
    let on =
        |endpoint: &str, text: &str, fault| Rule::first(1, endpoint, fault).for_requests_with(text);
    faults.add(on("fal.submit", "of submit-lost.", Fault::ResetBeforeRead));
    faults.add(on("fal.submit", "of submit-moved.", redirect(&files)));
    faults.add(on("fal.submit", "of submit-html.", Fault::Html502));
    faults.add(Rule::first(2, "fal.status", redirect(&files)));
    faults.add(Rule::first(2, "fal.status", Fault::ResetAfterActing));
    faults.add(on("fal.result", "test/result-moved", redirect(&files)));
    faults.add(Rule::first(1, "fal.result", Fault::Truncated));
    faults.add(on(
        "file.worker",
        "moved.png",
        redirect("http://198.51.100.1/a.png"),
    ));
    // Telegram repeats its own URL, as a gateway's page does, and what it could not parse.
    let page = |status| Fault::Answer {
        status,
        content_type: "text/html".into(),
        headers: Vec::new(),
        body: format!("<html>/bot{token}/sendPhoto: {WORDS}</html>").into_bytes(),
    };
    faults.add(on("tg.*", "tg-page", page(502)));
    faults.add(on("tg.*", "tg-reset", Fault::ResetAfterActing));
    faults.add(on("tg.*", "tg-moved", redirect(&files)));
    faults.add(on("tg.*", "tg-limit", Fault::telegram_429(1)));
    faults.add(on(
        "tg.*",
        "tg-parse",
        Fault::telegram(400, &format!("Bad Request: can't parse entities: Unsupported start tag \"{WORDS}\" at byte offset 0")),
    ));
    faults.add(on(
        "tg.*",
        "tg-quotes",
        Fault::telegram(400, &format!("Bad Request: /bot{token}/sendPhoto is odd")),
    ));
    telegram.block(99);

    let prompt = |id: &str| json!({"prompt": format!("{WORDS} of {id}.")});
    let mut done = Vec::new();
    let mut entries = Vec::new();
    for id in [
        "good",
        "submit-lost",
        "submit-moved",
        "submit-html",
        "tg-page",
        "tg-reset",
        "tg-limit",
        "tg-parse",
        "tg-quotes",
    ] {
        let entry = job(id)
            .with("input", prompt(id))
            .chat(7)
            .telegram("caption", format!("{WORDS} {id}"))
            .telegram(
                "send_as",
                if id == "tg-reset" { "document" } else { "auto" },
            );
        entries.push(entry.json());
        done.push(id.to_owned());
    }
    for (id, model) in [
        ("moved", "test/moved"),
        ("elsewhere", "test/elsewhere"),
        ("big", "fal-ai/big"),
    ] {
        let entry = job(id)
            .model(model)
            .with("input", prompt(id))
            .chat(8)
            .telegram("caption", WORDS);
        entries.push(entry.json());
        done.push(id.to_owned());
    }
    entries.push(
        job("direct")
            .with("via", "direct")
            .with("input", prompt("direct"))
            .json(),
    );
    done.push("direct".to_owned());

    // Telegram refuses the bot, as far as one can tell: a person is waited for. It ends with the daemon.
    let waits = job("tg-moved").with("input", prompt("tg-moved")).chat(7);
    entries.push(
        waits
            .telegram("caption", format!("{WORDS} tg-moved"))
            .json(),
    );

    let mut failed = Vec::new();
    for (id, model, chat) in [
        ("echo", "test/echo", 7),
        ("refuses", "test/refuses", 7),
        ("breaks", "fal-ai/breaks", 7),
        ("blocked", "fal-ai/flux/dev", 99),
        ("result-moved", "test/result-moved", 7),
    ] {
        let entry = job(id)
            .model(model)
            .with("input", prompt(id))
            .chat(chat)
            .telegram("caption", format!("{WORDS} {id}"));
        entries.push(entry.json());
        failed.push(id.to_owned());
    }
    entries.push(format!(r#"{{"id":"bad","model":"a/b","input":"{WORDS}","telegram":{{"chat_id":7,"caption":"{WORDS}"}}}}"#));
    failed.push("bad".to_owned());
    world.push_all(&entries);
    (done, failed)
}

fn run_at(level: Option<&str>) {
    let mut world = World::new();
    let variables: Vec<(&str, &str)> = level.map(|level| ("RUST_LOG", level)).into_iter().collect();
    let mut daemon = world.spawn(&["--threads", "4", "--admin-chat", "7"], &variables);
    let (done, failed) = trouble(&mut world);
    let ids = [done.clone(), failed.clone()].concat();
    let states = world.wait_ended(&ids, SOON * 3);
    assert_eq!(daemon.stop(), Some(0));

    let log = daemon.log_text();
    let redis = all_of_redis(&mut world);
    for secret in secrets(&world) {
        for line in log.lines() {
            assert!(!line.contains(&secret), "a secret in the log: {line}");
        }
        for (key, value) in &redis {
            assert!(!holds(value, &secret), "a secret in {key}");
        }
    }
    for line in log
        .lines()
        .filter(|line| !line.contains(" DEBUG ") && !line.contains(" TRACE "))
    {
        assert!(
            !line.contains(WORDS),
            "a prompt or caption in the log: {line}"
        );
    }
    let events = redis.iter().find(|(key, _)| key == "fal:events").unwrap();
    assert!(!holds(&events.1, WORDS), "a prompt or caption in an event");
    for id in &ids {
        let error = world.record(id).remove("error").unwrap_or_default();
        assert!(!error.contains(WORDS), "{id}: {error}");
    }
    assert_eq!(world.sandbox.fal.key_leaks(), Vec::<String>::new());
    // And each of them really happened.
    for (id, state) in ids.iter().zip(states) {
        let expected = if done.contains(id) { "done" } else { "dead" };
        assert_eq!(state, expected, "{id}: {:?}", world.record(id));
    }
    world.assert_no_violations();
}

#[test]
fn no_secret_and_no_prompt_shows_at_the_usual_level() {
    run_at(None);
}

#[test]
fn no_secret_shows_at_debug() {
    run_at(Some("debug"));
}

#[test]
fn no_secret_shows_at_trace() {
    run_at(Some("trace"));
}

#[test]
fn no_secret_shows_when_the_key_is_refused() {
    let mut world = World::new();
    let wrong = "wrong-id:wrong-key-that-nobody-may-see";
    let mut daemon = world.spawn(
        &["--threads", "4"],
        &[("FAL_KEY", wrong), ("RUST_LOG", "trace")],
    );
    world.push(job("a").chat(7).json());
    daemon.wait_log("job retrying");
    assert_eq!(daemon.stop(), Some(0));
    assert!(!daemon.log_text().contains("wrong-key-that-nobody-may-see"));
    for (key, value) in all_of_redis(&mut world) {
        assert!(!holds(&value, "wrong-key-that-nobody-may-see"), "{key}");
    }
}

#[test]
fn a_fal_that_quotes_the_key_does_not_get_it_into_a_record_an_event_or_a_chat() {
    let mut world = World::new();
    let key = world.sandbox.fal.key();
    let secret = key.split_once(':').unwrap().1.to_owned();
    let quoting = json!({"detail": format!("Key {key} may not use this model")});
    world.sandbox.fal.model(
        "test/submit",
        Script {
            fail_submit: Some((400, quoting.clone())),
            ..Script::default()
        },
    );
    world
        .sandbox
        .fal
        .model("test/result", Script::new(Outcome::error(422, quoting)));
    let mut daemon = world.spawn(&["--threads", "4", "--admin-chat", "7"], &[]);
    world.push(job("a").model("test/submit").chat(7).json());
    world.push(job("b").model("test/result").chat(7).json());
    world.wait_ended(&["a".to_owned(), "b".to_owned()], SOON);
    // Then the account's own trouble, of which the admin chat is told.
    let locked = json!({"detail": format!("User is locked. Key {key}")});
    let fault = Fault::json(403, &locked);
    world.sandbox.faults.add(Rule::always("fal.submit", fault));
    world.push(job("c").chat(7).json());
    daemon.wait_log("job retrying job=c");
    assert_eq!(daemon.stop(), Some(0));
    assert!(!daemon.log_text().contains(&secret));
    for (key, value) in all_of_redis(&mut world) {
        assert!(!holds(&value, &secret), "the key is in {key}");
    }
    world.assert_no_violations();
}
