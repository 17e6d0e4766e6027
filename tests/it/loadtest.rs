//! `loadtest` measures what it says: few users are held, more than the threads can serve are not, and it
//! says how many threads they would need.

use serde_json::Value;
use std::process::{Command, Stdio};

/// One step, as JSON; and what it said on its way.
fn step(args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_fal-worker"))
        .args(["loadtest", "--json"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    let mut answer: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}"));
    assert_eq!(answer["telegram_rate"], "off", "{answer}");
    assert_eq!(answer["fal_at_once"], "any", "{answer}");
    answer["steps"][0].take()
}

#[test]
fn few_users_are_held() {
    let args = ["--users", "4", "--threads", "8"];
    let more = ["--generation", "1s", "--latency", "20ms"];
    let slower = ["--submit-latency", "200ms", "--send-latency", "100ms"];
    // A machine that stands still holds nobody: a measurement into which that fell is made again.
    let step = (0..3)
        .map(|_| step(&[&args[..], &more, &slower].concat()))
        .find(|step| step["verdict"] != "too many")
        .expect("held in one of three measurements");
    assert_eq!(step["users"], 4);
    assert_eq!(step["failed"], 0);
    assert!(step["jobs_per_s"].as_f64().unwrap() > 1.0, "{step}");
    // A submit, a result and a message, each as slow as it was said.
    assert!(step["wait_s"]["p50"].as_f64().unwrap() >= 0.32, "{step}");
    assert!(step["threads_needed"].as_u64().unwrap() <= 8, "{step}");
}

#[test]
fn more_users_than_the_threads_can_serve_are_too_many() {
    let args = ["--users", "200", "--threads", "2", "--generation", "1s"];
    let more = ["--latency", "50ms", "--send-latency", "300ms"];
    let step = step(&[&args[..], &more].concat());
    assert_eq!(step["verdict"], "too many", "{step}");
    assert_eq!(step["failed"], 0);
    let needed = step["threads_needed"].as_u64().unwrap();
    assert!(needed > 10, "{step}");
}

/// Calls that take longer than the generation: what is measured is whole rounds of them.
#[test]
fn one_thread_that_four_users_keep_busy_is_not_said_to_hold_them() {
    let args = ["--users", "4", "--threads", "1"];
    let more = ["--generation", "1s", "--latency", "500ms"];
    let step = step(&[&args[..], &more].concat());
    assert_eq!(step["verdict"], "too many", "{step}");
    assert_eq!(step["failed"], 0);
    assert!(step["threads_needed"].as_u64().unwrap() > 1, "{step}");
}
