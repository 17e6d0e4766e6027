//! No room for temporary files on the worker's own machine: what is paid waits for it, and a person reads which
//! folder it is and what the system says.

use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::media;
use fal_worker::sandbox::telegram::Kind;
use serde_json::{Value, json};
use std::path::PathBuf;

/// A daemon whose temporary folder is not there.
fn without_folder(world: &mut World, more: &[&str]) -> (Daemon, PathBuf) {
    let folder = world.folder.path().join("spool");
    let variables = [("TMPDIR", folder.to_str().unwrap())];
    let more = [&["--threads", "4"], more].concat();
    let daemon = world.spawn(&more, &variables);
    daemon.wait_log(" ready ");
    (daemon, folder)
}

fn model(world: &World, name: &str, output: Value) {
    let script = Script::new(Outcome::Json(output));
    world.sandbox.fal.model(name, script);
}

/// A result without a link that could go out in its place.
fn inline() -> Value {
    let data = media::base64(&media::png(8, 8, Some(5)));
    json!({"images": [{"url": format!("data:image/png;base64,{data}")}]})
}

#[test]
fn a_file_waits_until_it_can_be_written_and_the_log_says_where_and_why_not() {
    let mut world = World::new();
    let (daemon, folder) = without_folder(&mut world, &["--delivery", "upload"]);
    model(
        &world,
        "case/link",
        json!({"images": [{"url": "{files}/a.png"}]}),
    );
    model(&world, "case/inline", inline());
    world.push(job("link").model("case/link").chat(826_001).json());
    world.push(job("inline").model("case/inline").chat(826_002).json());
    for id in ["link", "inline"] {
        let line = format!(
            "WARN  a temporary file could not be written job={id} folder={} why=\"No such file or directory (os error 2)\"",
            folder.display()
        );
        daemon.wait_log(&line);
    }
    assert_eq!(daemon.logged("a file could not be fetched"), 0);
    assert!(world.sandbox.telegram.messages(826_001).is_empty());

    std::fs::create_dir(&folder).unwrap();
    for (id, chat) in [("link", 826_001), ("inline", 826_002)] {
        world.wait_state(id, "done");
        let messages = world.sandbox.telegram.messages(chat);
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert_eq!(messages[0].kind, Kind::Photo, "{id}");
        assert_eq!(submits_of(&world, id), 1, "{id}");
    }
    world.assert_clean();
}

#[test]
fn what_could_be_written_nowhere_for_the_time_of_a_delivery_is_delivered_later_and_not_paid_again()
{
    let mut world = World::new();
    let more = ["--delivery", "upload", "--delivery-timeout", "6s"];
    let (_daemon, folder) = without_folder(&mut world, &more);
    model(
        &world,
        "case/link",
        json!({"images": [{"url": "{files}/a.png"}]}),
    );
    model(&world, "case/inline", inline());
    world.push(job("inline").model("case/inline").chat(826_012).json());
    world.push(job("link").model("case/link").chat(826_011).json());

    // Whoever has a link gets it in time; nothing can stand for the other one.
    world.wait_state("link", "done");
    let messages = world.sandbox.telegram.messages(826_011);
    assert!(
        messages.len() == 1 && messages[0].text.contains("/a.png"),
        "{messages:?}"
    );
    let record = world.wait_state("inline", "dead");
    assert_eq!(record["kind"], "telegram");
    assert_eq!(record["charged"], "yes");
    let error = format!(
        "not delivered within 6 s: a temporary file could not be written in {}: No such file or directory (os error 2)",
        folder.display()
    );
    assert_eq!(record["error"], error);

    std::fs::create_dir(&folder).unwrap();
    assert!(world.cli(&["retry", "inline"]).status().unwrap().success());
    world.wait_state("inline", "done");
    let messages = world.sandbox.telegram.messages(826_012);
    let photos = messages
        .iter()
        .filter(|message| message.kind == Kind::Photo);
    assert_eq!(photos.count(), 1, "{messages:?}");
    for id in ["link", "inline"] {
        assert_eq!(submits_of(&world, id), 1, "{id}");
    }
}

#[test]
fn a_full_disk_is_told_as_one() {
    let mut world = World::new();
    let more = [
        "--threads",
        "4",
        "--delivery",
        "upload",
        "--delivery-timeout",
        "4s",
    ];
    let daemon = world.spawn_on_a_full_disk(&more, 1 << 20);
    daemon.wait_log(" ready ");
    let answer = Fault::Answer {
        status: 200,
        content_type: "image/png".into(),
        headers: Vec::new(),
        body: [media::png(8, 8, Some(1)), vec![0; 2 << 20]].concat(),
    };
    world
        .sandbox
        .faults
        .add(Rule::always("file.worker", answer));
    model(
        &world,
        "case/large",
        json!({"images": [{"url": "{files}/large.png"}]}),
    );
    world.push(job("large").model("case/large").chat(826_021).json());
    daemon.wait_log("a temporary file could not be written job=large folder=/");
    daemon.wait_log("why=\"File too large (os error 27)\"");
    world.wait_state("large", "done");
    let messages = world.sandbox.telegram.messages(826_021);
    assert!(
        messages.len() == 1 && messages[0].text.contains("/large.png"),
        "{messages:?}"
    );
    assert_eq!(submits_of(&world, "large"), 1);
}

#[test]
fn the_file_of_a_user_waits_for_the_disk_unpaid() {
    let mut world = World::new();
    let (_daemon, folder) = without_folder(&mut world, &[]);
    model(&world, "case/none", json!({"output": "seen"}));
    let bytes = media::png(8, 8, Some(9));
    let file = world
        .sandbox
        .telegram
        .user_file(Kind::Photo, "file_9.jpg", bytes);
    let entry = job("user").model("case/none").chat(826_031);
    world.push(entry.with("input_files", json!({"image_url": file})).json());
    let expected = format!(
        "input_files.image_url: a temporary file could not be written in {}: No such file or directory (os error 2)",
        folder.display()
    );
    eventually(
        SOON,
        || world.events_of("user"),
        |events| {
            events
                .iter()
                .any(|event| event.get("error") == Some(&expected))
        },
    );
    assert_eq!(submits_of(&world, "user"), 0);

    std::fs::create_dir(&folder).unwrap();
    world.wait_state("user", "done");
    assert_eq!(submits_of(&world, "user"), 1);
    world.assert_clean();
}
