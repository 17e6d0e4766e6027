//! What goes over the wire, read by a listener that knows nothing of the client.

use super::*;
use crate::http::{HttpSettings, Spooled};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

mod fuzz;

/// Answers each connection's one request with the next of `answers`, and hands out what it read.
fn listener(
    answers: Vec<(&'static str, &'static str)>,
) -> (String, mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (seen, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for (status, body) in answers {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let at = head.len();
                reader.read_line(&mut head).unwrap();
                if let Some(value) = head[at..]
                    .to_ascii_lowercase()
                    .strip_prefix("content-length:")
                {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body_in = vec![0; length];
            reader.read_exact(&mut body_in).unwrap();
            seen.send((head, String::from_utf8(body_in).unwrap()))
                .unwrap();
            // A status may bring its own, with other headers.
            let length = match status.contains("content-length") {
                true => String::new(),
                false => format!("content-length: {}\r\n", body.len()),
            };
            let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{length}\r\n");
            reader
                .get_mut()
                .write_all((head + body).as_bytes())
                .unwrap();
        }
    });
    (base, requests)
}

fn fal(queue: String, run: String) -> Fal {
    let http = Http::new(HttpSettings {
        threads: 1,
        plain_http: Vec::new(),
    });
    let urls = FalUrls {
        queue,
        run,
        storage: "http://127.0.0.1:1".into(),
    };
    Fal::new(http, urls, "id:secret")
}

/// The request line and the headers by name, in lower case but for their values.
fn parts(head: &str) -> (String, Vec<(String, String)>) {
    let mut lines = head.trim_end().lines();
    let first = lines.next().unwrap().to_owned();
    let mut headers: Vec<_> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .filter(|(name, _)| !["host", "user-agent", "content-length"].contains(&name.as_str()))
        .collect();
    headers.sort();
    (first, headers)
}

const AUTH: (&str, &str) = ("authorization", "Key id:secret");
const ACCEPT: (&str, &str) = ("accept", "application/json");

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

#[test]
fn a_submit_carries_the_input_byte_for_byte_and_only_the_switches_that_were_set() {
    let accepted = "{\"request_id\":\"764c\",\"queue_position\":1}";
    let (base, requests) = listener(vec![("200 OK", accepted), ("200 OK", accepted)]);
    let fal = fal(base + "/gate", String::new());
    let model = Model("fal-ai/flux/dev".into());
    let input = "{ \"seed\": 15860307465884635512,\"p\":\"\\u00e4 ü\" , \"n\":1.0 }";
    let mut switches = FalSwitches::default();
    let start_deadline = Duration::from_millis(900);
    let order = Order {
        model: &model,
        input,
        start_deadline,
        switches: &switches,
    };
    assert!(matches!(fal.submit(&order), Submitted::Accepted(_)));
    let (head, body) = requests.recv().unwrap();
    assert_eq!(body, input);
    let (line, headers) = parts(&head);
    assert_eq!(line, "POST /gate/fal-ai/flux/dev HTTP/1.1");
    let json = ("content-type", "application/json");
    assert_eq!(
        headers,
        pairs(&[ACCEPT, AUTH, json, ("x-fal-request-timeout", "2")])
    );

    switches = FalSwitches {
        low_priority: Some(true),
        store_io: Some(false),
        fallback: Some(false),
        object_lifetime_s: Some(3600),
        runner_hint: Some("warm 7".into()),
    };
    let start_deadline = Duration::from_millis(61_900);
    let order = Order {
        model: &model,
        input,
        start_deadline,
        switches: &switches,
    };
    assert!(matches!(fal.submit(&order), Submitted::Accepted(_)));
    let (_, headers) = parts(&requests.recv().unwrap().0);
    let expected = pairs(&[
        ACCEPT,
        AUTH,
        json,
        ("x-app-fal-disable-fallback", "1"),
        (
            "x-fal-object-lifecycle-preference",
            "{\"expiration_duration_seconds\":3600}",
        ),
        ("x-fal-queue-priority", "low"),
        ("x-fal-request-timeout", "61"),
        ("x-fal-runner-hint", "warm 7"),
        ("x-fal-store-io", "0"),
    ]);
    assert_eq!(headers, expected);
}

#[test]
fn status_result_and_cancel_go_to_the_recorded_path_or_the_stem() {
    let answers = vec![("202 Accepted", "{\"status\":\"IN_PROGRESS\"}"); 5];
    let (base, requests) = listener(answers);
    let fal = fal(base, String::new());
    let model = Model("fal-ai/flux/dev".into());
    let request = RequestId("764c".into());
    let at = |path| Handle {
        request: &request,
        path,
    };
    assert_eq!(fal.status(&model, at(None)), Polled::InProgress);
    assert_eq!(
        fal.status(&model, at(Some("/a/b/requests/9"))),
        Polled::InProgress
    );
    assert_eq!(
        fal.status(&model, at(Some("@evil.example/x"))),
        Polled::InProgress
    );
    fal.result(&model, at(None));
    assert_eq!(
        fal.cancel(&model, at(Some("/a/b/requests/9"))),
        Cancelled::Requested
    );
    let seen: Vec<_> = requests
        .iter()
        .take(5)
        .map(|(head, body)| (parts(&head), body))
        .collect();
    let lines: Vec<_> = seen.iter().map(|((line, _), _)| line.as_str()).collect();
    let expected = [
        "GET /fal-ai/flux/requests/764c/status HTTP/1.1",
        "GET /a/b/requests/9/status HTTP/1.1",
        "GET /fal-ai/flux/requests/764c/status HTTP/1.1",
        "GET /fal-ai/flux/requests/764c HTTP/1.1",
        "PUT /a/b/requests/9/cancel HTTP/1.1",
    ];
    assert_eq!(lines, expected);
    for ((line, headers), body) in &seen {
        assert_eq!(
            (headers, body.as_str()),
            (&pairs(&[ACCEPT, AUTH]), ""),
            "{line}"
        );
    }
}

#[test]
fn a_direct_call_goes_to_the_other_host_and_the_probe_costs_nothing() {
    let (queue, probes) = listener(vec![
        ("404 Not Found", "{\"status\":\"NOT_FOUND\"}"),
        ("401 Unauthorized", "{}"),
    ]);
    let (run, calls) = listener(vec![("200 OK", "{\"image\":{}}")]);
    let fal = fal(queue, run);
    assert_eq!(fal.probe(), Probe::KeyGood);
    assert_eq!(fal.probe(), Probe::KeyRefused);
    assert_eq!(fal.probe(), Probe::Away); // nobody answers any more
    let line = parts(&probes.recv().unwrap().0).0;
    assert!(
        line.starts_with("GET /fal-ai/flux/requests/") && line.ends_with("/status HTTP/1.1"),
        "{line}"
    );
    let model = Model("fal-ai/flux/dev".into());
    let switches = FalSwitches {
        low_priority: Some(true),
        ..FalSwitches::default()
    };
    let order = Order {
        model: &model,
        input: "{}",
        start_deadline: Duration::from_secs(9),
        switches: &switches,
    };
    let directed = fal.direct(&order, Duration::from_secs(5));
    assert!(matches!(directed, Directed::Output(..)), "{directed:?}");
    let (line, headers) = parts(&calls.recv().unwrap().0);
    assert_eq!(line, "POST /fal-ai/flux/dev HTTP/1.1");
    assert!(
        !headers
            .iter()
            .any(|(name, _)| name == "x-fal-queue-priority"),
        "{headers:?}"
    );
}

/// Its URL goes into the input, from which fal, or anybody's model, reads it.
#[test]
fn a_file_goes_to_the_storage_only_where_its_own_url_is_good_too() {
    let (to, puts) = listener(vec![("200 OK", "")]);
    let good = "https://v3.fal.media/files/a.png";
    let urls = [
        "http://",
        "ftp://v3.fal.media/a.png",
        "https://v3.fal.media/a\\u0022b.png",
        "https://key@v3.fal.media/a.png",
        good,
    ];
    let announced = urls.map(|url| {
        let body = format!("{{\"upload_url\":\"{to}/put\",\"file_url\":\"{url}\"}}");
        ("200 OK", &*body.leak())
    });
    let (storage, _announced) = listener(announced.to_vec());
    let mut fal = fal(String::new(), String::new());
    fal.urls.storage = storage;
    for url in urls {
        let mut file = Spooled {
            file: tempfile::tempfile().unwrap(),
            len: 0,
            content_type: None,
            head: Vec::new(),
        };
        let stored = fal.store_file(&mut file, "a.png", "image/png");
        if url == good {
            assert_eq!(stored.as_deref(), Ok(good));
            assert!(puts.recv().unwrap().0.starts_with("PUT /put "));
            continue;
        }
        let failure = stored.expect_err(url);
        let expected = "fal's storage gave an answer that cannot be used";
        assert_eq!(failure.text, expected, "{url}");
        assert!(puts.try_recv().is_err(), "{url}: nothing is sent");
    }
}

/// It would stand in the error of a record and an event once the escapes are read.
#[test]
fn a_key_is_struck_out_of_an_answer_that_spells_it_with_escapes() {
    let secret = "s3cr3t-of/the-account";
    let key = Key(format!("Key 1234-id:{secret}"));
    let all: String = secret.bytes().map(|b| format!("\\u{b:04X}")).collect();
    let long = "x".repeat(180);
    for (name, spelled) in [
        ("plain", secret.to_owned()),
        ("one letter", secret.replacen('s', "\\u0073", 1)),
        ("the last letter", format!("{}\\u0074", &secret[..20])),
        ("every letter", all),
        ("a slash", secret.replace('/', "\\/")),
    ] {
        for (before, after) in [
            ("", ""),
            ("Key 1234-id:", " is wrong"),
            ("\\\\", "\\\\u0073"),
            (&*long, ""), // cut in its middle, where a text is at its longest
        ] {
            let text = |it: &str| format!("{{\"detail\":\"{before}{it}{after}\"}}");
            let mut answer = Answer {
                status: 422,
                body: text(&spelled).into_bytes(),
                ..Answer::default()
            };
            key.blank(&mut answer);
            let body = String::from_utf8(answer.body.clone()).unwrap();
            assert_eq!(body, text("***"), "{name}");
            let Polled::Failed(failure) = answer::polled(Ok(answer)) else {
                panic!("{name}")
            };
            assert!(!failure.text.contains("s3cr"), "{name}: {}", failure.text);
        }
    }
    let mut odd = Answer {
        body: [b"\xff ", secret.as_bytes()].concat(),
        ..Answer::default()
    };
    key.blank(&mut odd);
    assert_eq!(String::from_utf8_lossy(&odd.body), "\u{fffd} ***");
    // Neither an escaped backslash nor half an escape is a letter of it; all else stays as it is.
    for other in [
        r"\\u00733cr3t-of/the-account",
        r"\u+0733cr3t-of/the-account",
        r"\u01733cr3t-of/the-account",
        "\\",
        "\\u00",
    ] {
        let mut answer = Answer {
            body: other.into(),
            ..Answer::default()
        };
        key.blank(&mut answer);
        assert_eq!(answer.body, other.as_bytes(), "{other}");
    }
}

/// The listener closes behind its half of a body, which was to be longer.
#[test]
fn a_submit_whose_answer_is_cut_off_behind_a_head_that_names_it_is_not_unknown() {
    let cut = "200 OK\r\nx-fal-request-id: 764c\r\ncontent-length: 99";
    let nameless = "200 OK\r\ncontent-length: 99";
    let (queue, requests) = listener(vec![(cut, "{\"req"), (nameless, "{\"req")]);
    let fal = fal(queue, String::new());
    let model = Model("a/b".into());
    let order = Order {
        model: &model,
        input: "{}",
        start_deadline: Duration::from_secs(9),
        switches: &FalSwitches::default(),
    };
    let Submitted::Accepted(accepted) = fal.submit(&order) else {
        panic!("not accepted")
    };
    assert_eq!(&*accepted.request.0, "764c");
    assert!(matches!(fal.submit(&order), Submitted::Unknown(_)));
    assert_eq!(requests.iter().count(), 2);
}

#[test]
fn a_redirect_does_not_take_the_key_along() {
    let (queue, requests) = listener(vec![("302 Found\r\nlocation: http://127.0.0.1:1/", "")]);
    let fal = fal(queue, String::new());
    let model = Model("a/b".into());
    let order = Order {
        model: &model,
        input: "{}",
        start_deadline: Duration::from_secs(9),
        switches: &FalSwitches::default(),
    };
    assert!(matches!(fal.submit(&order), Submitted::Unknown(_)));
    assert_eq!(requests.iter().count(), 1);
}
