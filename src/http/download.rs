//! Files of results, streamed into unnamed temporary files: a 50 MB video costs 64 KiB of memory and
//! leaves nothing behind after a crash. A file's bytes move here and nowhere else; no key is ever sent,
//! and each hop of a redirect passes the list of hosts again.

use super::hosts::{self, FileHosts, Place};
use super::{Bounds, Broken, Call, Http, LONGEST, Service};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};
use ureq::http::Uri;

/// Redirects followed, by hand.
const REDIRECTS: u32 = 3;
/// How much of a file is kept beside it, to tell its type.
const HEAD: usize = 512;

/// A file that comes more slowly than this for longer than that stands in the way of the others: few threads fetch
/// files, and a byte now and then would hold one for as long as the longest file may take.
const SLOWEST_BYTES_PER_S: f64 = 16.0 * 1024.0;
const SLOW_FOR: Duration = Duration::from_secs(15);

/// Limits of a download.
#[derive(Clone, Copy, Debug)]
pub struct DownloadRules<'a> {
    /// Where files may come from.
    pub hosts: &'a FileHosts,
    /// Longest file.
    pub max_bytes: u64,
    /// Look-up, and TCP and TLS: each at most this long.
    pub connect: Duration,
    /// Longest silence.
    pub stall: Duration,
    /// The whole download with its redirects.
    pub total: Duration,
}

/// A file on disk without a name: gone when dropped.
#[derive(Debug)]
pub struct Spooled {
    /// At its beginning.
    pub file: File,
    /// Bytes.
    pub len: u64,
    /// Lower case, without parameters.
    pub content_type: Option<String>,
    /// The first 512 bytes, or all there are.
    pub head: Vec<u8>,
}

/// Why there is no file.
#[derive(Clone, Debug, PartialEq)]
pub enum DownloadError {
    /// This host (or what the URL has in its place) is not on the list.
    HostNotAllowed(String),
    /// 403, 404 or 410: expired or hidden.
    Gone(u16),
    /// Longer than allowed.
    TooBig {
        /// `max_bytes` of the rules.
        limit: u64,
    },
    /// It ended before the announced length.
    Short,
    /// A `data:` URI that is none: no repeat makes it one.
    Unreadable,
    /// The transfer broke.
    Broken(String),
    /// It came, and could not be kept: trouble of this machine, and of no host.
    Disk {
        /// The folder of temporary files (`TMPDIR`).
        folder: String,
        /// What the system says.
        why: String,
    },
    /// Another status that brings no file (also a redirect too many).
    Status(u16),
}

impl DownloadError {
    /// Whether the same download may succeed later.
    pub fn retryable(&self) -> bool {
        match self {
            DownloadError::Short | DownloadError::Broken(_) | DownloadError::Disk { .. } => true,
            DownloadError::Status(status) => matches!(status, 408 | 425 | 429 | 500..),
            DownloadError::HostNotAllowed(_)
            | DownloadError::Gone(_)
            | DownloadError::Unreadable
            | DownloadError::TooBig { .. } => false,
        }
    }
}

impl fmt::Display for DownloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DownloadError::HostNotAllowed(host) => write!(f, "files are not fetched from {host}"),
            DownloadError::Gone(status) => write!(f, "the file is gone ({status})"),
            DownloadError::TooBig { limit } => write!(f, "the file is over {limit} bytes"),
            DownloadError::Short => f.write_str("the file ended early"),
            DownloadError::Unreadable => f.write_str("the data URI cannot be read"),
            DownloadError::Broken(text) => f.write_str(text),
            DownloadError::Disk { folder, why } => {
                write!(
                    f,
                    "a temporary file could not be written in {folder}: {why}"
                )
            }
            DownloadError::Status(status) => write!(f, "the file's host answered {status}"),
        }
    }
}

impl Http {
    /// Fetches a file. For transfer threads: it may take long.
    pub fn download(&self, url: &str, rules: &DownloadRules) -> Result<Spooled, DownloadError> {
        let until = Instant::now() + rules.total.min(LONGEST);
        let mut url = url.to_owned();
        let mut last = 302;
        for _ in 0..=REDIRECTS {
            let (uri, place) = allowed(&url, rules.hosts)?;
            let bounds = Bounds {
                connect: rules.connect,
                total: rules.total,
                max_bytes: rules.max_bytes,
            };
            let call = Call {
                http: self,
                service: Service::Files,
                place: &place,
                bounds,
                stall: Some(rules.stall),
            };
            let response = call.send(get(uri), until).map_err(|broken| {
                self.count(Service::Files, 0);
                DownloadError::Broken(broken.to_string())
            })?;
            let status = response.status().as_u16();
            last = status;
            self.count(Service::Files, status);
            match status {
                200 => return receive(&call, response),
                301 | 302 | 303 | 307 | 308 => {
                    let location = response
                        .headers()
                        .get("location")
                        .and_then(|value| value.to_str().ok());
                    url = location
                        .and_then(|to| join(&url, to))
                        .ok_or(DownloadError::Status(status))?;
                    // A short body read to its end keeps the connection; a longer one is not worth it.
                    let _ = io::copy(
                        &mut response.into_body().as_reader().take(4 << 10),
                        &mut io::sink(),
                    );
                }
                403 | 404 | 410 => return Err(DownloadError::Gone(status)),
                _ => return Err(DownloadError::Status(status)),
            }
        }
        Err(DownloadError::Status(last))
    }
}

impl Http {
    /// Fetches a file from a service that the operator configured: no redirect is followed, since the URL
    /// may hold a token. That a file is gone is the service's word, and no page's of what stands in front of
    /// it. For transfer threads. Longest silence: `stall`.
    pub fn fetch(
        &self,
        service: Service,
        url: &str,
        bounds: Bounds,
        stall: Duration,
    ) -> Result<Spooled, DownloadError> {
        let not_valid = || DownloadError::HostNotAllowed("a URL that is not valid".into());
        let uri: Uri = url.parse().map_err(|_| not_valid())?;
        let place = Place::of_uri(&uri).ok_or_else(not_valid)?;
        if !place.tls && !hosts::may_speak_plain(&place, &self.shared.plain_http) {
            return Err(DownloadError::HostNotAllowed(place.host));
        }
        let call = Call {
            http: self,
            service,
            place: &place,
            bounds,
            stall: Some(stall),
        };
        let until = Instant::now() + bounds.total.min(LONGEST);
        let response = call.send(get(uri), until).map_err(|broken| {
            self.count(service, 0);
            DownloadError::Broken(broken.to_string())
        })?;
        let status = response.status().as_u16();
        self.count(service, status);
        let kind = response.headers().get("content-type");
        let kind = kind.and_then(|value| media_type(value.to_str().ok()?));
        let is_page = kind.as_deref() == Some("text/html");
        match status {
            200 => receive(&call, response),
            403 | 404 | 410 if !is_page => Err(DownloadError::Gone(status)),
            _ => Err(DownloadError::Status(status)),
        }
    }
}

fn allowed(url: &str, hosts: &FileHosts) -> Result<(Uri, Place), DownloadError> {
    let uri: Option<Uri> = url.parse().ok();
    let place = uri.as_ref().and_then(Place::of_uri);
    match (uri, place) {
        (Some(uri), Some(place)) if hosts.allow(&place) => Ok((uri, place)),
        (_, Some(place)) => Err(DownloadError::HostNotAllowed(place.host)),
        (_, None) => Err(DownloadError::HostNotAllowed(
            "a URL that is not valid".into(),
        )),
    }
}

fn get(uri: Uri) -> ureq::http::Request<()> {
    let mut request = ureq::http::Request::new(());
    *request.uri_mut() = uri;
    request
}

/// Where a redirect leads: absolute, or relative to the page it came from.
pub(super) fn join(from: &str, to: &str) -> Option<String> {
    let to = to.split('#').next().unwrap_or_default().trim();
    let after_scheme = from.find("://")? + 3;
    let path_at = from[after_scheme..]
        .find('/')
        .map_or(from.len(), |at| after_scheme + at);
    let (origin, path) = from.split_at(path_at);
    let has_scheme = to
        .find(':')
        .is_some_and(|at| !to[..at].contains(['/', '?']));
    if to.is_empty() {
        None
    } else if has_scheme {
        Some(to.to_owned())
    } else if to.starts_with("//") {
        Some(format!("{}{to}", &from[..after_scheme - 2]))
    } else if to.starts_with('/') {
        Some(format!("{origin}{to}"))
    } else {
        let path = path.split('?').next().unwrap_or_default();
        let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
        Some(format!("{origin}{folder}{to}"))
    }
}

fn receive(
    call: &Call,
    response: ureq::http::Response<ureq::Body>,
) -> Result<Spooled, DownloadError> {
    let limit = call.bounds.max_bytes;
    let header = |name| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let content_type = header("content-type").and_then(media_type);
    let mut body = response.into_body();
    if body
        .content_length()
        .is_some_and(|announced| announced > limit)
    {
        return Err(DownloadError::TooBig { limit });
    }
    let mut spool = Spool::new(limit)?;
    let mut reader = body.as_reader();
    let mut buffer = vec![0; 64 << 10];
    let began = Instant::now();
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return spool.finish(content_type),
            Ok(n) => {
                spool.write(&buffer[..n])?;
                if is_too_slow(spool.len, began.elapsed()) {
                    let text = format!("the file comes too slowly: {} bytes so far", spool.len);
                    return Err(DownloadError::Broken(text));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(match ureq::Error::from(error) {
                    ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        DownloadError::Short
                    }
                    error => match call.broken(error) {
                        Broken::TimedOut(text) | Broken::NotSent(text) | Broken::Unknown(text) => {
                            DownloadError::Broken(text)
                        }
                        broken @ Broken::Unfinished { .. } => {
                            DownloadError::Broken(broken.to_string())
                        }
                        Broken::TooBig { .. } => DownloadError::TooBig { limit },
                    },
                });
            }
        }
    }
}

fn is_too_slow(len: u64, took: Duration) -> bool {
    took > SLOW_FOR && (len as f64) < took.as_secs_f64() * SLOWEST_BYTES_PER_S
}

/// `Image/PNG; charset=x` → `image/png`; `None` when it is no media type.
pub(super) fn media_type(text: &str) -> Option<String> {
    let kind = text
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let fits = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    let (main, sub) = kind.split_once('/')?;
    (fits(main) && fits(sub)).then_some(kind)
}

/// A temporary file being filled.
struct Spool {
    file: File,
    len: u64,
    limit: u64,
    head: Vec<u8>,
}

impl Spool {
    fn new(limit: u64) -> Result<Spool, DownloadError> {
        let file = tempfile::tempfile().map_err(disk)?;
        Ok(Spool {
            file,
            len: 0,
            limit,
            head: Vec::with_capacity(HEAD),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DownloadError> {
        self.len += bytes.len() as u64;
        if self.len > self.limit {
            return Err(DownloadError::TooBig { limit: self.limit });
        }
        let missing = (HEAD - self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..missing]);
        self.file.write_all(bytes).map_err(disk)
    }

    fn finish(mut self, content_type: Option<String>) -> Result<Spooled, DownloadError> {
        self.file.seek(SeekFrom::Start(0)).map_err(disk)?;
        Ok(Spooled {
            file: self.file,
            len: self.len,
            content_type,
            head: self.head,
        })
    }
}

/// A temporary file cannot be made, written or read.
pub(crate) fn disk(error: io::Error) -> DownloadError {
    DownloadError::Disk {
        folder: std::env::temp_dir().display().to_string(),
        why: error.to_string(),
    }
}

/// The content of a `data:[<type>][;…][;base64],…` URI (models give them with `sync_mode`), as if it had
/// been downloaded.
pub fn spool_data_uri(uri: &str, max_bytes: u64) -> Result<Spooled, DownloadError> {
    let broken = || DownloadError::Unreadable;
    let scheme = uri.get(..5).ok_or_else(broken)?;
    if !scheme.eq_ignore_ascii_case("data:") {
        return Err(broken());
    }
    let (about, data) = uri[5..].split_once(',').ok_or_else(broken)?;
    let (about, base64) = match about
        .len()
        .checked_sub(7)
        .and_then(|at| Some((about.get(..at)?, about.get(at..)?)))
    {
        Some((about, mark)) if mark.eq_ignore_ascii_case(";base64") => (about, true),
        _ => (about, false),
    };
    let mut spool = Spool::new(max_bytes)?;
    let mut buffer = Vec::with_capacity(48 << 10);
    if base64 {
        let data = data.as_bytes();
        let bare = data
            .strip_suffix(b"==")
            .or_else(|| data.strip_suffix(b"="))
            .unwrap_or(data);
        if bare.len() < data.len() && data.len() % 4 != 0 {
            return Err(broken());
        }
        for chunk in bare.chunks(64 << 10) {
            buffer.clear();
            decode(chunk, &mut buffer).ok_or_else(broken)?;
            spool.write(&buffer)?;
        }
    } else {
        for chunk in percent_chunks(data.as_bytes()) {
            buffer.clear();
            unescape(chunk, &mut buffer).ok_or_else(broken)?;
            spool.write(&buffer)?;
        }
    }
    spool.finish(media_type(about))
}

/// Strict base64 without padding: no other character, no leftover bits. Chunks that are not the last
/// have to be a multiple of four long.
fn decode(text: &[u8], into: &mut Vec<u8>) -> Option<()> {
    for four in text.chunks(4) {
        let mut bits = 0u32;
        for byte in four {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let (bytes, leftover) = match four.len() {
            4 => (3, 0),
            3 => (2, 2),
            2 => (1, 4),
            _ => return None,
        };
        if bits & ((1 << leftover) - 1) != 0 {
            return None;
        }
        let bits = (bits >> leftover) << (8 * (3 - bytes));
        into.extend_from_slice(&bits.to_be_bytes()[1..=bytes]);
    }
    Some(())
}

/// Pieces of a bounded length that cut no `%xx` in two.
fn percent_chunks(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let mut end = text.len().min(32 << 10);
        if end < text.len()
            && let Some(back) = text[..end].iter().rev().take(2).position(|b| *b == b'%')
        {
            end -= back + 1;
        }
        let (piece, rest) = text.split_at(end);
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

fn unescape(text: &[u8], into: &mut Vec<u8>) -> Option<()> {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        into.push(match byte {
            b'%' => {
                let mut digit = || char::from(*bytes.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => *byte,
        });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(mut spooled: Spooled) -> Vec<u8> {
        let mut bytes = Vec::new();
        spooled.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, spooled.len);
        assert_eq!(spooled.head, bytes[..bytes.len().min(HEAD)]);
        bytes
    }

    #[test]
    fn a_file_that_only_trickles_is_given_up_and_a_slow_one_is_not() {
        let kib = |n: u64| n << 10;
        for (len, took_s, slow) in [
            (1, 15, false),
            (1, 16, true),
            (kib(255), 16, true),
            (kib(256), 16, false),
            (kib(16 * 3600), 3600, false),
            (kib(16 * 3600) - 1, 3600, true),
        ] {
            let took = Duration::from_secs(took_s);
            assert_eq!(is_too_slow(len, took), slow, "{len} in {took:?}");
        }
    }

    #[test]
    fn data_uris_are_read_strictly() {
        type Row<'a> = (&'a str, Option<(&'a [u8], Option<&'a str>)>);
        let rows: [Row; 19] = [
            (
                "data:image/png;base64,aGVsbG8=",
                Some((b"hello", Some("image/png"))),
            ),
            (
                "data:image/png;base64,aGVsbG8",
                Some((b"hello", Some("image/png"))),
            ),
            (
                "DATA:Image/PNG;BASE64,aGVsbG8h",
                Some((b"hello!", Some("image/png"))),
            ),
            (
                "data:text/plain;charset=utf-8;base64,aA==",
                Some((b"h", Some("text/plain"))),
            ),
            ("data:;base64,aGk=", Some((b"hi", None))),
            ("data:,a%20b%C3%A4", Some(("a bä".as_bytes(), None))),
            (
                "data:image/svg+xml,%3Csvg/%3E",
                Some((b"<svg/>", Some("image/svg+xml"))),
            ),
            ("data:image/png;base64,", Some((b"", Some("image/png")))),
            ("data:image/png;base64,aGVsbG8==", None),
            ("data:image/png;base64,aGVsbG9=", None),
            ("data:image/png;base64,a", None),
            ("data:image/png;base64,aG Vs", None),
            ("data:image/png;base64,aG-_", None),
            ("data:image/png;base64,aä==", None),
            ("data:,%2", None),
            ("data:,%zz", None),
            ("data:image/png", None),
            ("https://x/y,z", None),
            ("", None),
        ];
        for (uri, expected) in rows {
            let found = spool_data_uri(uri, 1 << 20).ok().map(|spooled| {
                let content_type = spooled.content_type.clone();
                (content(spooled), content_type)
            });
            let expected = expected.map(|(bytes, kind)| (bytes.to_vec(), kind.map(str::to_owned)));
            assert_eq!(found, expected, "{uri}");
        }
    }

    #[test]
    fn long_data_uris_come_through_whole_or_not_at_all() {
        let whole: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
        let mut text = String::new();
        for three in whole.chunks(3) {
            let mut bits = [0; 4];
            bits[1..=three.len()].copy_from_slice(three);
            let bits = u32::from_be_bytes(bits);
            for place in 0..=three.len() {
                let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
                text.push(alphabet[(bits >> (18 - 6 * place) & 63) as usize] as char);
            }
        }
        let uri = format!("data:video/mp4;base64,{text}");
        assert!(content(spool_data_uri(&uri, 200_000).unwrap()) == whole);
        assert_eq!(
            spool_data_uri(&uri, 199_999).unwrap_err(),
            DownloadError::TooBig { limit: 199_999 }
        );
        let escaped: String = whole.iter().map(|byte| format!("%{byte:02x}")).collect();
        assert!(content(spool_data_uri(&format!("data:,{escaped}"), 200_000).unwrap()) == whole);
    }

    #[test]
    fn redirects_lead_where_a_browser_would_go() {
        let from = "https://a.example:8/x/y?z=/1";
        for (to, expected) in [
            ("https://b.example/q", Some("https://b.example/q")),
            ("//b.example/q", Some("https://b.example/q")),
            ("/q?r", Some("https://a.example:8/q?r")),
            ("q", Some("https://a.example:8/x/q")),
            ("q?u=http://c", Some("https://a.example:8/x/q?u=http://c")),
            ("javascript:x", Some("javascript:x")),
            ("/q#frag", Some("https://a.example:8/q")),
            ("", None),
        ] {
            assert_eq!(join(from, to).as_deref(), expected, "{to}");
        }
        assert_eq!(
            join("https://a.example", "q").as_deref(),
            Some("https://a.example/q")
        );
    }
}
