//! The stand-in's own GET client: by-URL sends really fetch the file.
//!
//! Loopback and plain HTTP only, from hosts that were allowed: a test that names another host learns of it.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use crate::sandbox::http::lock;

/// A fetched file.
#[derive(Debug)]
pub(super) struct Fetched {
    /// Media type without parameters, lower case.
    pub(super) content_type: String,
    /// All of it.
    pub(super) bytes: Vec<u8>,
}

/// Why there is no file: all of these are "failed to get HTTP URL content" to the bot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Not an allowed host, not plain HTTP.
    NotAllowed,
    /// Connection failed, broke or was too slow.
    Broken,
    /// Another status than 200.
    Status(u16),
    /// Larger than the limit.
    TooBig,
}

/// Keeps idle connections.
#[derive(Debug, Default)]
pub(super) struct Fetcher {
    allowed: Mutex<HashSet<String>>,
    idle: Mutex<HashMap<String, Vec<TcpStream>>>,
}

impl Fetcher {
    pub(super) fn allow(&self, host: &str) {
        lock(&self.allowed).insert(host.to_owned());
    }

    /// Fetches, following up to three redirects.
    pub(super) fn get(&self, url: &str, limit: u64) -> Result<Fetched, Trouble> {
        let mut url = url.to_owned();
        for _ in 0..4 {
            let rest = url.strip_prefix("http://").ok_or(Trouble::NotAllowed)?;
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if !lock(&self.allowed).contains(host) {
                return Err(Trouble::NotAllowed);
            }
            let path = if path.is_empty() { "/" } else { path };
            match self.once(host, path, limit)? {
                Step::Here(file) => return Ok(file),
                Step::Redirect(to) => url = to,
            }
        }
        Err(Trouble::Status(302))
    }

    fn once(&self, host: &str, path: &str, limit: u64) -> Result<Step, Trouble> {
        let idle = lock(&self.idle).get_mut(host).and_then(Vec::pop);
        if let Some(stream) = idle {
            // A kept connection may have been closed meanwhile: then a fresh one decides.
            match self.exchange(stream, host, path, limit) {
                Err(Trouble::Broken) => {}
                other => return other,
            }
        }
        let stream = TcpStream::connect(host).map_err(|_| Trouble::Broken)?;
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        self.exchange(stream, host, path, limit)
    }

    fn exchange(
        &self,
        mut stream: TcpStream,
        host: &str,
        path: &str,
        limit: u64,
    ) -> Result<Step, Trouble> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: TelegramBot (like TwitterBot)\r\n\r\n"
        );
        stream
            .write_all(request.as_bytes())
            .map_err(|_| Trouble::Broken)?;
        let mut bytes = Vec::with_capacity(32 << 10);
        let head = loop {
            let old = bytes.len();
            bytes.resize(old + (16 << 10), 0);
            let got = stream.read(&mut bytes[old..]).unwrap_or(0);
            bytes.truncate(old + got);
            if got == 0 || old > 64 << 10 {
                return Err(Trouble::Broken);
            }
            if let Some(head) = parse_head(&bytes)? {
                break head;
            }
        };
        let mut body = bytes.split_off(head.length);
        let length = head.content_length.ok_or(Trouble::Broken)?;
        if matches!(head.status, 301 | 302 | 303 | 307 | 308) {
            return head
                .location
                .map(Step::Redirect)
                .ok_or(Trouble::Status(head.status));
        }
        if head.status != 200 {
            return Err(Trouble::Status(head.status));
        }
        if length > limit {
            return Err(Trouble::TooBig);
        }
        let left = length.saturating_sub(body.len() as u64);
        body.reserve_exact(left as usize);
        let read = (&mut stream)
            .take(left)
            .read_to_end(&mut body)
            .map_err(|_| Trouble::Broken)?;
        if read as u64 != left {
            return Err(Trouble::Broken);
        }
        if !head.close {
            let mut idle = lock(&self.idle);
            let kept = idle.entry(host.to_owned()).or_default();
            if kept.len() < 64 {
                kept.push(stream);
            }
        }
        Ok(Step::Here(Fetched {
            content_type: head.content_type,
            bytes: body,
        }))
    }
}

enum Step {
    Here(Fetched),
    Redirect(String),
}

struct Head {
    status: u16,
    length: usize,
    content_type: String,
    content_length: Option<u64>,
    location: Option<String>,
    close: bool,
}

fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Trouble> {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut slots);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Trouble::Broken),
    };
    let value = |name: &str| {
        let header = parsed
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    let content_type = value("content-type").unwrap_or("");
    Ok(Some(Head {
        status: parsed.code.unwrap_or(0),
        length,
        content_type: content_type
            .split(';')
            .next()
            .unwrap_or("")
            .trim()
            .to_ascii_lowercase(),
        content_length: value("content-length").and_then(|text| text.parse().ok()),
        location: value("location").map(str::to_owned),
        close: value("connection").is_some_and(|text| text.eq_ignore_ascii_case("close")),
    }))
}
