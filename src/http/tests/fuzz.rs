//! Any URL, and any bytes in place of an HTTP answer.

use super::*;
use crate::fuzz::{Outcome, Target, hold};
use crate::http::download::{join, media_type};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A link in a result: allowed only if a plain reading of it says the same host.
fn any_url(input: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(input);
    let (url, to) = text.split_once('\n').unwrap_or((&text, ""));
    let hosts = FileHosts::new::<&str>(&[])?;
    let mut words = vec![media_type(url).is_some().to_string()];
    for url in [Some(url.to_owned()), join(url, to)].into_iter().flatten() {
        let Some(place) = Place::of(&url) else {
            hold!(!hosts.allows(&url), "allowed, and not understood: {url}");
            hold!(hosts::plain_place(&url).is_none(), "no plain one: {url}");
            words.push("no place".to_owned());
            continue;
        };
        // What the client underneath will connect to.
        let uri: ureq::http::Uri = url.parse().map_err(|_| format!("two readings of {url}"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        hold!(
            host.eq_ignore_ascii_case(&place.host),
            "{host} and {} in {url}",
            place.host
        );
        let port = uri.port_u16().unwrap_or(if place.tls { 443 } else { 80 });
        hold!(
            port == place.port,
            "port {port} and {} in {url}",
            place.port
        );
        if let Some(seen) = hosts::plain_place(&url) {
            hold!(seen == place.seen(), "{seen:?} and {place:?} in {url}");
        }
        if hosts.allows(&url) {
            let rest = url.split_once("://").map_or("", |(_, rest)| rest);
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let authority = rest[..end].to_ascii_lowercase();
            // `:0443` says the same.
            let name = match authority.split_once(':') {
                Some((name, port)) if port.parse() == Ok(443_u16) => name,
                _ => &authority,
            };
            let known = name == "fal.media"
                || name.ends_with(".fal.media")
                || name == "storage.googleapis.com";
            hold!(known && place.tls, "allowed: {url}");
        }
        words.push(format!("{} {}", place.tls, hosts.allows(&url)));
    }
    if url
        .get(..5)
        .is_some_and(|head| head.eq_ignore_ascii_case("data:"))
    {
        match spool_data_uri(url, 4096) {
            Ok(file) => {
                hold!(
                    file.len <= 4096 && file.len <= url.len() as u64,
                    "{} bytes",
                    file.len
                );
                words.push("data".to_owned());
            }
            Err(error) => words.push(format!("{error:?}").chars().take(6).collect()),
        }
    }
    Ok(words.join(" "))
}

#[test]
fn any_url_leads_where_a_plain_reading_of_it_says() {
    Target::new("url")
        .seeds([
            "https://v3.fal.media/files/a/cat.png\n/other",
            "https://fal.media:443/a?b#c\n//storage.googleapis.com/x",
            "http://127.0.0.1:8080/a\nhttps://evil.example/",
            "https://user@fal.media/\n..",
            "https://[::1]:443/\n?q",
            "HTTPS://V3.FAL.MEDIA./a\n#x",
            "https://storage.googleapis.com/falserverless/a.png\ndata:x",
            "data:image/png;base64,iVBORw0KGgo=",
            "data:text/plain;charset=x,a%20b%zz",
            "data:,",
        ])
        .words([
            "https://",
            "fal.media",
            ".fal.media",
            "@",
            ":443",
            ":",
            "\\",
            "//",
            "?",
            "#",
            "%2e",
            "[::1]",
            "\n",
        ])
        .words([
            "evil.example",
            "localhost",
            "127.0.0.1",
            ";base64",
            ",",
            "=",
            "data:",
            "storage.googleapis.com",
        ])
        .run(any_url);
}

/// A server that answers every request with what `said` holds, as it is, and hangs up.
fn server(said: Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                if !reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                    break;
                }
            }
            let bytes = said.lock().unwrap().clone();
            let _ = reader.get_mut().write_all(&bytes);
        }
    });
    address
}

#[test]
fn any_bytes_for_an_answer_are_an_answer_or_an_error_in_words_of_our_own() {
    const MOST: u64 = 4096;
    let said = Arc::new(Mutex::new(Vec::new()));
    let url = format!("http://{}/a", server(said.clone()));
    let http = Http::new(HttpSettings {
        threads: 1,
        plain_http: Vec::new(),
    });
    let any_bytes = |input: &[u8]| -> Outcome {
        *said.lock().unwrap() = input.to_vec();
        let started = Instant::now();
        let answer = http.exchange(Request {
            service: Service::Fal,
            method: "GET",
            url: &url,
            headers: &[],
            body: Body::Empty,
            bounds: Bounds {
                connect: SECOND * 5,
                total: SECOND * 20,
                max_bytes: MOST,
            },
        });
        hold!(
            started.elapsed() < SECOND * 30,
            "took {:?}",
            started.elapsed()
        );
        match answer {
            Ok(answer) => {
                hold!(
                    answer.body.len() as u64 <= MOST,
                    "{} bytes",
                    answer.body.len()
                );
                hold!(answer.status >= 100, "status {}", answer.status);
                Ok(format!(
                    "{} {}",
                    answer.status / 100,
                    answer.headers.len().min(9)
                ))
            }
            Err(broken) => {
                let text = broken.to_string();
                hold!(!text.contains("s3cr3t"), "quotes the answer: {text}");
                hold!(text.len() < 200, "{} bytes: {text}", text.len());
                Ok(text.chars().filter(|c| c.is_ascii_alphabetic()).collect())
            }
        }
    };
    Target::new("http-answer")
        .one_in(20) // each is a connection of its own
        .seed("HTTP/1.1 200 OK\r\ncontent-length: 11\r\nx-s: s3cr3t\r\n\r\n{\"a\":\"b\"}\r\n")
        .seed("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nyou\r\n0\r\n\r\n")
        .seed("HTTP/1.0 404 Not Found\r\nserver: x\r\n\r\nuntil the end")
        .seed("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/s3cr3t\r\ncontent-length: 0\r\n\r\n")
        .seed("HTTP/1.1 204 No Content\r\nconnection: close\r\nset-cookie: s3cr3t\r\n\r\n")
        .seed("HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-encoding: gzip\r\n\r\n<html>")
        .words(["HTTP/1.1 ", "HTTP/1.0 ", "HTTP/2 ", "\r\n", "\r\n\r\n", "content-length: ", "chunked", "transfer-encoding: "])
        .words(["ffffffffffffffff\r\n", "-1", "0\r\n\r\n", "18446744073709551615", "4097", "connection: keep-alive\r\n"])
        .run(any_bytes);
}
