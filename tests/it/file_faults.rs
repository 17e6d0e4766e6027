//! File hosts in trouble: down, slow, lying about length or type, leading elsewhere. What is paid reaches
//! its user: as the file, or else as a text with its link.

use crate::support::{SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::telegram::Kind;
use serde_json::json;

fn answer(status: u16, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Fault {
    Fault::Answer {
        status,
        content_type: content_type.into(),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
        body: body.into(),
    }
}

/// A job whose one picture has this name and length, in a chat of its own.
fn push(world: &mut World, name: &str, size: Option<u64>, chat: i64) {
    let file = json!({"url": format!("{{files}}/{name}.png"), "content_type": "image/png", "file_size": size});
    let model = format!("case/{name}");
    let script = Script::new(Outcome::Json(json!({"images": [file]})));
    world.sandbox.fal.model(&model, script);
    world.push(job(name).model(&model).chat(chat).json());
}

/// What the user sees in the end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    /// The picture, its bytes those of fal.
    Photo,
    /// Its bytes as a plain file.
    Document,
    /// A text with its URL.
    Link,
}

/// Name, length that fal says, which fetch meets the fault how often, and what is seen.
type Row<'a> = (&'a str, Option<u64>, &'a str, Option<u32>, Fault, Seen);

/// One job a row.
fn check(more: &[&str], rows: &[Row<'_>]) {
    let mut world = World::new();
    let more = [&["--threads", "8"], more].concat();
    let _daemon = world.daemon(&more);
    for (number, (name, size, endpoint, times, fault, _)) in rows.iter().enumerate() {
        let rule = Rule {
            times: *times,
            ..Rule::always(endpoint, fault.clone())
        };
        world
            .sandbox
            .faults
            .add(rule.for_requests_with(&format!("/{name}.png")));
        push(&mut world, name, *size, 820_001 + number as i64);
    }
    let mut wrong = Vec::new();
    for (number, (name, .., expected)) in rows.iter().enumerate() {
        let state = |world: &mut World| world.state(name);
        let state = eventually(
            SOON * 3,
            || state(&mut world),
            |state| state == "done" || state == "dead",
        );
        let mut messages = world.sandbox.telegram.messages(820_001 + number as i64);
        let (Some(message), 0) = (messages.pop(), messages.len()) else {
            wrong.push(format!("{name}: {state}, not one message"));
            continue;
        };
        let fine = match expected {
            Seen::Link => {
                message.kind == Kind::Text && message.text.contains(&format!("/{name}.png"))
            }
            Seen::Document => message.kind == Kind::Document,
            Seen::Photo => {
                let files = world.events_of(name).pop().unwrap()["files"].clone();
                let files: Vec<String> = serde_json::from_str(&files).unwrap();
                let bytes = message.file.as_ref().map(|file| file.fingerprint);
                message.kind == Kind::Photo && bytes == world.sandbox.fal.fingerprint_of(&files[0])
            }
        };
        if !fine || state != "done" || submits_of(&world, name) != 1 {
            wrong.push(format!(
                "{name}: {state}, {expected:?} expected: {message:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(world.sandbox.telegram.duplicates(), []);
    world.assert_clean();
}

const PAGE: &[u8] = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>";

#[test]
fn what_telegram_cannot_fetch_by_its_url_the_worker_fetches_and_uploads() {
    const HOST: &str = "file.telegram";
    let png = "image/png";
    check(
        &[],
        &[
            (
                "t404",
                None,
                HOST,
                None,
                answer(404, "text/plain", &[], b"gone"),
                Seen::Photo,
            ),
            (
                "t403",
                None,
                HOST,
                None,
                answer(403, "text/plain", &[], b"no"),
                Seen::Photo,
            ),
            ("t500", None, HOST, None, Fault::Html502, Seen::Photo),
            (
                "tdown",
                None,
                HOST,
                None,
                Fault::ResetBeforeRead,
                Seen::Photo,
            ),
            ("tshort", None, HOST, None, Fault::Truncated, Seen::Photo),
            ("tempty", None, HOST, None, Fault::Empty200, Seen::Photo),
            ("tslow", None, HOST, None, Fault::Hang(5500), Seen::Photo),
            (
                "tpage",
                None,
                HOST,
                None,
                answer(200, "text/html", &[], PAGE),
                Seen::Photo,
            ),
            (
                "tpage-as-png",
                None,
                HOST,
                None,
                answer(200, png, &[], PAGE),
                Seen::Document,
            ),
            (
                "tlong",
                Some(100),
                HOST,
                None,
                Fault::Huge(6 << 20),
                Seen::Photo,
            ),
        ],
    );
}

#[test]
fn a_file_that_the_worker_has_to_fetch_is_fetched_again_or_else_sent_as_its_link() {
    const HOST: &str = "file.worker";
    let png = "image/png";
    check(
        &["--delivery", "upload"],
        &[
            // Passing troubles: once more, and the file is whole.
            (
                "w500",
                None,
                HOST,
                Some(1),
                answer(500, "text/plain", &[], b"x"),
                Seen::Photo,
            ),
            ("w502", None, HOST, Some(1), Fault::Html502, Seen::Photo),
            (
                "w429",
                None,
                HOST,
                Some(1),
                answer(429, "text/plain", &[], b"x"),
                Seen::Photo,
            ),
            (
                "wdown",
                None,
                HOST,
                Some(1),
                Fault::ResetBeforeRead,
                Seen::Photo,
            ),
            ("wshort", None, HOST, Some(1), Fault::Truncated, Seen::Photo),
            ("wempty", None, HOST, Some(1), Fault::Empty200, Seen::Photo),
            (
                "wslow",
                None,
                HOST,
                Some(1),
                Fault::DelayMs(3000),
                Seen::Photo,
            ),
            (
                "wpage",
                None,
                HOST,
                Some(1),
                answer(200, "text/html", &[], PAGE),
                Seen::Photo,
            ),
            (
                "wpage-as-png",
                None,
                HOST,
                Some(1),
                answer(200, png, &[], PAGE),
                Seen::Photo,
            ),
            // Final ones.
            (
                "w404",
                None,
                HOST,
                None,
                answer(404, "text/plain", &[], b"gone"),
                Seen::Link,
            ),
            (
                "w403",
                None,
                HOST,
                None,
                answer(403, "text/plain", &[], b"no"),
                Seen::Link,
            ),
            (
                "w410",
                None,
                HOST,
                None,
                answer(410, "text/plain", &[], b"gone"),
                Seen::Link,
            ),
            (
                "w204",
                None,
                HOST,
                None,
                answer(204, "", &[], b""),
                Seen::Link,
            ),
            // Leading elsewhere: once more on its own host, to nobody's, and in a circle.
            (
                "wnear",
                None,
                HOST,
                Some(1),
                answer(302, "", &[("Location", "wnear.png")], b""),
                Seen::Photo,
            ),
            (
                "waway",
                None,
                HOST,
                None,
                answer(
                    302,
                    "",
                    &[("Location", "http://files.example.org/x.png")],
                    b"",
                ),
                Seen::Link,
            ),
            (
                "wport",
                None,
                HOST,
                None,
                answer(307, "", &[("Location", "http://127.0.0.1:1/x.png")], b""),
                Seen::Link,
            ),
            (
                "wround",
                None,
                HOST,
                None,
                answer(302, "", &[("Location", "wround.png")], b""),
                Seen::Link,
            ),
            // Longer than fal said: too long for a photo.
            (
                "wlong",
                Some(100),
                HOST,
                None,
                Fault::Huge(11 << 20),
                Seen::Document,
            ),
            // A picture that is served under a wrong name is a picture.
            ("wtype", None, HOST, None, Fault::DelayMs(1), Seen::Photo),
        ],
    );
}

#[test]
fn a_file_host_that_stays_down_is_waited_for_half_of_the_delivery_time_then_the_user_gets_the_link()
{
    check(
        &["--delivery", "upload", "--delivery-timeout", "10s"],
        &[
            (
                "down",
                None,
                "file.worker",
                None,
                Fault::ResetBeforeRead,
                Seen::Link,
            ),
            (
                "page",
                None,
                "file.worker",
                None,
                answer(200, "text/html", &[], PAGE),
                Seen::Link,
            ),
        ],
    );
}

#[test]
fn a_file_host_that_comes_back_after_many_tries_gives_the_file_all_the_same() {
    let down = Fault::ResetBeforeRead;
    check(
        &["--delivery", "upload"],
        &[("back", None, "file.worker", Some(5), down, Seen::Photo)],
    );
}

#[test]
fn a_file_over_telegrams_limit_of_a_request_goes_as_its_link() {
    let mut world = World::new();
    world.sandbox.telegram.set_body_limit(3 << 20);
    let _daemon = world.daemon(&["--threads", "4", "--delivery", "upload"]);
    // fal says that it is small; it is not.
    world
        .sandbox
        .faults
        .add(Rule::always("file.worker", Fault::Huge(6 << 20)).for_requests_with("/liar.png"));
    push(&mut world, "liar", Some(1000), 821_001);
    world.wait_state("liar", "done");
    let messages = world.sandbox.telegram.messages(821_001);
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].kind, Kind::Text);
    assert!(messages[0].text.contains("/liar.png"));
    assert_eq!(submits_of(&world, "liar"), 1);
}

#[test]
fn a_file_host_that_hangs_holds_its_transfer_threads_and_nothing_else() {
    let mut world = World::new();
    let _daemon = world.daemon(&[
        "--threads",
        "4",
        "--transfer-threads",
        "4",
        "--delivery",
        "upload",
    ]);
    let hangs = world.sandbox.fal.hold_matching("file.worker", "/stuck.png");
    push(&mut world, "stuck", None, 822_001);
    assert!(hangs.wait_arrived(1, SOON));
    for number in 0..10 {
        let name = format!("free-{number}");
        push(&mut world, &name, None, 822_100 + number);
        world.wait_state(&name, "done");
    }
    assert_eq!(world.state("stuck"), "running");
    hangs.release();
    world.wait_state("stuck", "done");
    assert_eq!(
        world.sandbox.telegram.messages(822_001)[0].kind,
        Kind::Photo
    );
    world.assert_clean();
}

#[test]
fn a_file_of_a_foreign_host_is_warned_of_once_however_often_its_link_is_tried() {
    let (mut world, daemon) = World::running();
    let output = json!({"images": [{"url": "https://files.example.org/cat.png", "content_type": "image/png"}]});
    world
        .sandbox
        .fal
        .model("case/foreign", Script::new(Outcome::Json(output)));
    world
        .sandbox
        .faults
        .add(Rule::first(2, "tg.sendmessage", Fault::telegram_429(1)));
    world.push(job("foreign").model("case/foreign").chat(823_001).json());
    world.wait_state("foreign", "done");
    assert_eq!(
        daemon.logged("a file of a host that --file-host does not name"),
        1
    );
    world.assert_clean();
}

#[test]
fn direct_calls_that_hang_keep_no_file_waiting_and_files_that_hang_no_direct_call() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "4", "--delivery", "upload"]);
    let calls = world.sandbox.fal.hold("fal.direct");
    for number in 0..6 {
        let id = format!("direct-{number}");
        world.push(job(&id).with("via", "direct").json());
    }
    assert!(calls.wait_arrived(2, SOON));
    push(&mut world, "file", None, 824_001);
    world.wait_state("file", "done");
    calls.release();
    let files = world.sandbox.fal.hold("file.worker");
    for number in 0..6 {
        push(
            &mut world,
            &format!("stuck-{number}"),
            None,
            824_100 + number,
        );
    }
    assert!(files.wait_arrived(2, SOON));
    world.push(job("direct").with("via", "direct").json());
    world.wait_state("direct", "done");
    files.release();
    let ids: Vec<String> = (0..6).map(|number| format!("stuck-{number}")).collect();
    world.wait_ended(&ids, SOON);
    world.assert_clean();
}
