//! The wire: answers from fixtures, and forms as a server reads them from a socket.

use super::*;
use crate::http::Headers;
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

mod fuzz;

fn answer(status: u16, body: &str) -> Answer {
    Answer {
        status,
        headers: Headers::default(),
        body: body.as_bytes().to_vec(),
    }
}

#[test]
fn escapes_are_read_before_a_token_is_struck_out() {
    for (json, plain) in [
        (r"\u0041b\u003a c", "Ab: c"),
        (r"\\u0041", r"\\u0041"),
        (r"\\\u0041", r"\\A"),
        (
            r"\u0022 \u005C \u000a \u0430 \u00e9",
            r"\u0022 \u005C \u000a \u0430 \u00e9",
        ),
        (r"\u00", r"\u00"),
        (r"\u00zz \u00é", r"\u00zz \u00é"),
        ("\\u0041\\", "A\\"),
    ] {
        assert_eq!(without_escapes(json), plain, "{json}");
    }
    let body = r#"{"ok":false,"error_code":404,"description":"/bot7:\u0073ecret-token"}"#;
    let refusal = read(&answer(404, body), Method::SendPhoto, "7:secret-token");
    let text = refusal.unwrap_err().to_string();
    assert!(!text.contains("secret") && text.contains("***"), "{text}");
}

#[test]
fn messages_are_read_leniently() {
    let table = [
        (
            "photo",
            include_str!("../../tests/fixtures/telegram/sent_photo.json"),
            vec![311],
            vec!["BIG"],
        ),
        (
            "animation",
            include_str!("../../tests/fixtures/telegram/sent_animation.json"),
            vec![312],
            vec!["ANIM"],
        ),
        (
            "album",
            include_str!("../../tests/fixtures/telegram/sent_album.json"),
            vec![313, 314],
            vec!["P1", "V2"],
        ),
        (
            "scheduled",
            include_str!("../../tests/fixtures/telegram/sent_scheduled.json"),
            vec![],
            vec!["V0"],
        ),
        (
            "true",
            include_str!("../../tests/fixtures/telegram/true.json"),
            vec![],
            vec![],
        ),
        (
            "text",
            include_str!("../../tests/fixtures/telegram/sent_text.json"),
            vec![315],
            vec![],
        ),
        (
            "nothing known",
            r#"{"ok":true,"result":{"photo":[],"message_id":"x"}}"#,
            vec![],
            vec![],
        ),
        ("no result", r#"{"ok":true}"#, vec![], vec![]),
        (
            "lists in the place of objects",
            r#"{"ok":true,"result":[[5],{"message_id":6,"document":["x"],"sticker":{"file_id":1e400}}]}"#,
            vec![6],
            vec![],
        ),
    ];
    for (name, body, ids, files) in table {
        let sent = read(&answer(200, body), Method::SendPhoto, "1:s").expect(name);
        assert_eq!(sent.message_ids, ids, "{name}");
        assert_eq!(sent.file_ids, files, "{name}");
    }
}

#[test]
fn messages_are_counted_by_the_answer_and_not_by_what_is_known_of_them() {
    for (result, messages) in [
        (r#"[{"message_id":0},{"message_id":5},{"date":1}]"#, 3),
        (r#"[{"message_id":0,"video":{"file_id":"V"}},[5],null]"#, 3),
        (r#"[{"message_id":0}]"#, 1),
        (r#"{"message_id":0}"#, 1),
        ("[]", 0),
        ("true", 0),
    ] {
        let body = format!(r#"{{"ok":true,"result":{result}}}"#);
        let sent = read(&answer(200, &body), Method::SendMediaGroup, "1:s");
        assert_eq!(sent.expect(result).messages, messages, "{result}");
    }
}

#[test]
fn a_message_as_documented_is_read_in_one_go_and_as_any_other_would_be() {
    for (name, body) in [
        (
            "photo",
            include_str!("../../tests/fixtures/telegram/sent_photo.json"),
        ),
        (
            "animation",
            include_str!("../../tests/fixtures/telegram/sent_animation.json"),
        ),
        (
            "text",
            include_str!("../../tests/fixtures/telegram/sent_text.json"),
        ),
    ] {
        let sent = usual(body);
        assert!(sent.is_some(), "{name}");
        assert_eq!(sent, any(body), "{name}");
    }
    // These are for the other way, which knows what to make of them.
    for odd in [
        r#"{"ok":false,"result":{"message_id":5}}"#,
        r#"{"ok":true,"result":[5,null,null,null,null,null,null,null,null]}"#,
        r#"{"ok":true,"result":{"message_id":5,"video":["x",1,1]}}"#,
        r#"{"ok":true,"result":{"message_id":5,"photo":[{"file_id":"\u0061"}]}}"#,
        r#"{"ok":true,"result":{"message_id":5,"photo":[{"file_id":"a","width":1.5}]}}"#,
        r#"{"ok":true,"result":true}"#,
        r#"{"ok":true}"#,
    ] {
        assert_eq!(usual(odd), None, "{odd}");
    }
}

#[test]
fn the_body_counts_before_the_status() {
    assert_eq!(
        read(
            &answer(502, r#"{"ok":true,"result":true}"#),
            Method::SendPhoto,
            "1:s"
        ),
        Ok(Sent::default())
    );
    let refused =
        r#"{"ok":false,"error_code":403,"description":"Forbidden: bot was blocked by the user"}"#;
    assert!(matches!(
        read(&answer(200, refused), Method::SendPhoto, "1:s"),
        Err(Refusal::Unreachable(_))
    ));
    // No success that anybody would give.
    for other in [
        r#"[true,{"message_id":5}]"#,
        r#"{"ok":1}"#,
        r#"{"ok":false,"ok":true}"#,
    ] {
        let refused = read(&answer(200, other), Method::SendPhoto, "1:s");
        assert!(refused.is_err(), "{other}: {refused:?}");
    }
    // Cut short, after it was carried out or not.
    assert!(matches!(
        read(
            &answer(200, r#"{"ok":true,"resu"#),
            Method::SendPhoto,
            "1:s"
        ),
        Err(Refusal::Unknown(_))
    ));
    let mut slow = answer(429, "");
    slow.headers = [("Retry-After", "4")].into_iter().collect();
    let wait = Duration::from_secs(4);
    assert_eq!(
        read(&slow, Method::SendPhoto, "1:s"),
        Err(Refusal::RetryAfter { wait })
    );
}

#[test]
fn what_a_gateway_puts_around_an_answer_changes_nothing() {
    let sent = include_str!("../../tests/fixtures/telegram/sent_photo.json").trim();
    let refused =
        r#"{"ok":false,"error_code":403,"description":"Forbidden: bot was blocked by the user"}"#;
    for (before, behind) in [
        ("\u{feff}", ""),
        ("\r\n\u{feff} ", "\n"),
        ("", "<!-- served by a gateway -->"),
        ("", "\0"),
        ("\u{feff}", "{}"),
    ] {
        let around = |body: &str| answer(200, &format!("{before}{body}{behind}"));
        let told = read(&around(sent), Method::SendPhoto, "1:s");
        assert_eq!(told.expect("sent").message_ids, [311], "{behind}");
        let told = read(&around(refused), Method::SendPhoto, "1:s");
        assert!(matches!(told, Err(Refusal::Unreachable(_))), "{behind}");
    }
}

#[test]
fn a_success_that_cannot_be_read_was_one_and_a_page_may_not_have_been() {
    let typed = |status: u16, kind: &str, body: &str| Answer {
        headers: [("Content-Type", kind)].into_iter().collect(),
        ..answer(status, body)
    };
    let cut = r#"{"ok":true,"result":{"message_id":311,"ph"#;
    let spoilt = r#"{"ok":true,"result":{"message_id":311,,}}"#;
    let json = "Application/JSON; charset=utf-8";
    for body in [cut, spoilt, "\u{feff}{", r#"{"ok":tr"#] {
        let told = read(&typed(200, json, body), Method::SendPhoto, "1:s");
        assert!(matches!(told, Err(Refusal::AlreadySent(_))), "{body}");
        // The same once more does no harm, and then it is known.
        let told = read(&typed(200, json, body), Method::EditMessageText, "1:s");
        assert!(matches!(told, Err(Refusal::Unknown(_))), "{body}");
    }
    for (status, kind, body) in [
        (200, json, ""),
        (200, json, "<html>"),
        (200, json, r#"{"error":"denied"}"#),
        (200, json, r#"{"ok":false,"error_code":4"#),
        (200, "text/html", "<html>"),
        (200, "text/html", cut),
        (502, json, cut),
    ] {
        let told = read(&typed(status, kind, body), Method::SendPhoto, "1:s");
        assert!(matches!(told, Err(Refusal::Unknown(_))), "{kind} {body}");
    }
}

#[test]
fn a_fresh_send_whose_answer_breaks_off_behind_its_head_is_out() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    let json = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n";
    let failed = "HTTP/1.1 502 X\r\ncontent-type: application/json\r\n";
    let half = "content-length: 100\r\n\r\n{\"ok\":true,";
    let chunk = "transfer-encoding: chunked\r\n\r\nff\r\n{\"ok\":tr";
    let long = "content-length: 4000000\r\n\r\n{\"ok\":tr";
    let (photo, edit) = (Method::SendPhoto, Method::EditMessageMedia);
    let rows = [
        (json, half, photo, true),
        (json, "content-length: 100\r\n\r\n", photo, true),
        (json, chunk, photo, true),
        (json, long, photo, true),
        // Once more it does no harm, and then it is known.
        (json, half, edit, false),
        (page, half, photo, false),
        (failed, half, photo, false),
        ("HTTP/1.1 200 OK\r\ncontent-ty", "", photo, false),
    ];
    let answers = rows.map(|(head, body, ..)| [head, body].concat());
    std::thread::spawn(move || {
        for answer in answers {
            let (peer, _) = listener.accept().expect("a peer");
            let mut peer = BufReader::new(peer);
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                peer.read_line(&mut line).expect("a line");
            }
            peer.read_exact(&mut [0; 2]).expect("the body");
            let mut peer = peer.into_inner();
            peer.write_all(answer.as_bytes()).expect("written");
        }
    });
    let http = Http::new(crate::http::HttpSettings {
        threads: 1,
        plain_http: Vec::new(),
    });
    let telegram = Telegram::new(http, base, "7:secret-secret".to_owned());
    for (head, body, method, is_out) in rows {
        let call = Call {
            method,
            args: Map::new(),
            file_part: None,
            by_url: false,
        };
        let told = telegram.perform(&call, None);
        let expected = match told {
            Err(Refusal::AlreadySent(_)) => is_out,
            Err(Refusal::Unknown(_)) => !is_out,
            _ => false,
        };
        assert!(expected, "{method:?} {head}{body}: {told:?}");
    }
}

#[test]
fn an_echoed_token_is_struck_out_even_at_the_cut() {
    let token = "123456:AAsecretsecretsecretsecretsecretsec";
    for filler in [0, 280, 290] {
        let text = format!(
            "Bad Request: {}/bot{token}/sendPhoto bot123456%3A{}",
            "x".repeat(filler),
            &token[7..]
        );
        let body = json!({"ok": false, "error_code": 400, "description": text}).to_string();
        let Err(Refusal::Other400(text)) = read(&answer(400, &body), Method::SendPhoto, token)
        else {
            panic!()
        };
        assert!(!text.contains("AAs"), "{text}");
    }
    assert_eq!(without_token("abc", ""), "abc");
}

/// A tiny parser of its own: parts as (headers, content).
fn parts(body: &[u8], boundary: &str) -> Vec<(String, Vec<u8>)> {
    let find = |hay: &[u8], needle: &[u8]| hay.windows(needle.len()).position(|w| w == needle);
    let first = format!("--{boundary}\r\n");
    assert!(body.starts_with(first.as_bytes()));
    let (mut rest, mut parts) = (&body[first.len()..], Vec::new());
    let border = format!("\r\n--{boundary}");
    loop {
        let blank = find(rest, b"\r\n\r\n").expect("headers end");
        let headers = String::from_utf8(rest[..blank].to_vec()).expect("headers are text");
        rest = &rest[blank + 4..];
        let end = find(rest, border.as_bytes()).expect("a part ends");
        parts.push((headers, rest[..end].to_vec()));
        rest = &rest[end + border.len()..];
        if rest == b"--\r\n" {
            return parts;
        }
        rest = rest.strip_prefix(b"\r\n").expect("a border ends its line");
    }
}

#[test]
fn a_form_on_the_wire_has_its_exact_length_and_every_part() {
    let args = json!({
        "chat_id": -100, "has_spoiler": true, "caption": "Готово \"—\"\r\n--x",
        "media": {"type": "photo", "media": "attach://f0"},
    });
    let args = args.as_object().expect("an object");
    let file: Vec<u8> = (0..300_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let form = Form::new(args, "f0", "cat \"1\".png\r\nX: y", "image/png");
    let boundary = form
        .content_type
        .split_once("boundary=")
        .expect("a boundary")
        .1;
    assert!((1..=70).contains(&boundary.len()));

    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut out =
        TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (inside, _) = listener.accept().expect("a peer");
    let server = std::thread::spawn(move || {
        let mut inside = BufReader::new(inside);
        let mut line = String::new();
        inside.read_line(&mut line).expect("a line");
        let length: usize = line
            .trim_start_matches("Content-Length: ")
            .trim()
            .parse()
            .expect("a length");
        let mut body = Vec::new();
        inside.read_to_end(&mut body).expect("a body");
        (length, body)
    });
    write!(out, "Content-Length: {}\r\n", form.len(file.len() as u64)).expect("written");
    // More bytes than announced must not get out either.
    let mut source = file.as_slice().chain(&b"surplus"[..]);
    io::copy(&mut form.reader(&mut source, file.len() as u64), &mut out).expect("copied");
    drop(out);
    let (length, body) = server.join().expect("the server ends");

    assert_eq!(length, body.len());
    let parts = parts(&body, boundary);
    let value = |name: &str| {
        let wanted = format!("Content-Disposition: form-data; name=\"{name}\"");
        let part = parts.iter().find(|(headers, _)| *headers == wanted);
        String::from_utf8_lossy(&part.unwrap_or_else(|| panic!("no part {name}")).1).into_owned()
    };
    assert_eq!(value("chat_id"), "-100");
    assert_eq!(value("has_spoiler"), "true");
    assert_eq!(value("caption"), "Готово \"—\"\r\n--x");
    assert_eq!(
        serde_json::from_str::<Value>(&value("media")).expect("JSON"),
        args["media"]
    );
    let (headers, content) = parts.last().expect("the file");
    assert_eq!(
        headers,
        "Content-Disposition: form-data; name=\"f0\"; filename=\"cat__1_.png__X__y\"\r\nContent-Type: image/png"
    );
    assert!(content == &file, "the file's bytes differ");
    assert_eq!(parts.len(), 5);
}

#[test]
fn a_file_that_ends_early_breaks_the_request_off() {
    let form = Form::new(&Map::new(), "photo", "a.png", "image/png\r\nX: y");
    assert!(
        String::from_utf8_lossy(&form.head)
            .contains("Content-Type: application/octet-stream\r\n\r\n")
    );
    let mut short: &[u8] = b"abc";
    let error = io::copy(&mut form.reader(&mut short, 4), &mut io::sink()).expect_err("too short");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn file_names_are_made_safe() {
    let long = "x".repeat(100);
    for (given, wanted) in [
        ("cat.png", "cat.png".to_owned()),
        ("../../etc/пароль", "etc".to_owned()),
        ("фото.jpg", "jpg".to_owned()),
        ("", "file".to_owned()),
        (&format!("{long}.webp"), format!("{}.webp", "x".repeat(55))),
        (&long, "x".repeat(60)),
    ] {
        let safe = safe_name(given);
        assert_eq!(safe, wanted, "{given}");
        assert!((1..=60).contains(&safe.len()));
    }
}
