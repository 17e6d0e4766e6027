//! Where we may connect to: pure rules about URLs. Links in results come from a remote side, so files
//! are fetched from an allow-list alone, and what looks odd (user info, a trailing dot) is refused
//! rather than understood: two parsers that understand an odd URL differently are how such lists fall.

use std::net::IpAddr;
use ureq::http::Uri;

/// Scheme, host and port of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// `https`.
    pub(crate) tls: bool,
    /// Lower case; IPv6 without brackets.
    pub(crate) host: String,
    /// The scheme's own when the URL names none.
    pub(crate) port: u16,
}

impl Place {
    /// `None` for whatever is no plain `http(s)://host[:port]…`.
    pub(crate) fn of(url: &str) -> Option<Place> {
        Place::of_uri(&url.parse().ok()?)
    }

    /// The same of a URL that was taken apart.
    pub(super) fn of_uri(uri: &Uri) -> Option<Place> {
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?.as_str();
        if authority.contains('@') {
            return None;
        }
        let (host, port) = split(authority)?;
        let port = match port {
            Some(port) => port,
            None => Place::default_port(tls),
        };
        Some(Place { tls, host, port })
    }

    pub(super) fn seen(&self) -> Seen<'_> {
        (self.tls, &self.host, self.port)
    }

    fn default_port(tls: bool) -> u16 {
        if tls { 443 } else { 80 }
    }

    /// This machine.
    pub(crate) fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }
}

/// Host and port of `host`, `host:port`, `[v6]`, `[v6]:port`; `None` when the host is no valid name.
fn split(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, rest)
        }
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            let (host, rest) = authority.split_at(end);
            if !is_name(host) {
                return None;
            }
            (host, rest)
        }
    };
    let port = match rest.strip_prefix(':') {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().ok()?),
        None if rest.is_empty() => None,
        _ => return None,
    };
    Some((host.to_ascii_lowercase(), port))
}

/// Labels of letters, digits, `-` and `_`, a dot between two of them. In one pass: each request asks it.
fn is_name(host: &str) -> bool {
    let mut last = b'.';
    for byte in host.bytes() {
        let fits = match byte {
            b'.' => last != b'.',
            b'-' | b'_' => true,
            _ => byte.is_ascii_alphanumeric(),
        };
        if !fits {
            return false;
        }
        last = byte;
    }
    last != b'.'
}

/// A place that is read where it stands: TLS or not, host, port.
pub(super) type Seen<'a> = (bool, &'a str, u16);

/// The place of a URL as nearly all are: a scheme, a name in small letters, perhaps a port, `/`, and then
/// only what no two readings differ about. `None`: it has to be taken apart.
pub(super) fn plain_place(url: &str) -> Option<Seen<'_>> {
    let (tls, rest) = match url.split_once("://")? {
        ("https", rest) => (true, rest),
        ("http", rest) => (false, rest),
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find('/')?);
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            (host, port.parse().ok()?)
        }
        Some(_) => return None,
        None => (authority, Place::default_port(tls)),
    };
    let small = |b: u8| !b.is_ascii_uppercase();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.');
    let fits = url.len() < 2048 && is_name(host) && host.bytes().all(small);
    (fits && path.bytes().all(plain)).then_some((tls, host, port))
}

/// Plain http: to loopback, or to a host the operator named (HOST or HOST:PORT).
pub(super) fn may_speak_plain(place: &Place, named: &[String]) -> bool {
    place.is_loopback()
        || named.iter().any(|entry| {
            split(entry).is_some_and(|(host, port)| {
                host == place.host && port.is_none_or(|port| port == place.port)
            })
        })
}

/// Hosts that files are fetched from, and whose URLs Telegram may be given.
#[derive(Clone, Debug)]
pub struct FileHosts(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    host: String,
    /// `.host`: its subdomains (and not itself).
    below: bool,
    port: Option<u16>,
    /// Named with `--file-host`: any port unless one is given, and plain http too.
    named: bool,
}

impl FileHosts {
    /// `fal.media` with its subdomains and `storage.googleapis.com`, on https and its own port, and the
    /// operator's `extra` ones: HOST (any port), HOST:PORT, or `.HOST` for its subdomains. The error
    /// names the entry that cannot be read.
    pub fn new<S: AsRef<str>>(extra: &[S]) -> Result<FileHosts, String> {
        let known = |host: &str, below| Rule {
            host: host.into(),
            below,
            port: None,
            named: false,
        };
        let mut rules = vec![
            known("fal.media", false),
            known("fal.media", true),
            known("storage.googleapis.com", false),
        ];
        for entry in extra {
            let entry = entry.as_ref().trim();
            let (below, rest) = match entry.strip_prefix('.') {
                Some(rest) => (true, rest),
                None => (false, entry),
            };
            let (host, port) = split(rest).ok_or_else(|| {
                format!("{entry:?} is no host: expected HOST, HOST:PORT or .HOST")
            })?;
            rules.push(Rule {
                host,
                below,
                port,
                named: true,
            });
        }
        Ok(FileHosts(rules))
    }

    /// Whether files may be fetched from this URL. Each file is asked about several times.
    pub fn allows(&self, url: &str) -> bool {
        match plain_place(url) {
            Some(seen) => self.cover(seen),
            None => Place::of(url).is_some_and(|place| self.allow(&place)),
        }
    }

    pub(super) fn allow(&self, place: &Place) -> bool {
        self.cover(place.seen())
    }

    fn cover(&self, seen: Seen<'_>) -> bool {
        self.0.iter().any(|rule| rule.covers(seen))
    }
}

impl Rule {
    fn covers(&self, (tls, host, port): Seen<'_>) -> bool {
        let host = match host.strip_suffix(&self.host) {
            Some(before) if self.below => before.len() > 1 && before.ends_with('.'),
            Some(before) => before.is_empty(),
            None => false,
        };
        let port = match self.port {
            Some(known) => known == port,
            None => self.named || port == Place::default_port(tls),
        };
        host && port && (tls || self.named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_labels_with_one_dot_between_two() {
        for name in ["a", "fal.media", "v3.fal.media", "x-_9.Y", "127.0.0.1"] {
            assert!(is_name(name), "{name}");
        }
        for odd in [
            "", ".", ".a", "a.", "a..b", "a b", "a/b", "é.a", "a@b", "a\n",
        ] {
            assert!(!is_name(odd), "{odd:?}");
        }
    }

    #[test]
    fn files_come_from_the_known_hosts_alone() {
        let hosts = FileHosts::new(&[
            "127.0.0.1:9000",
            "cdn.example",
            ".partner.example",
            "[::1]:7",
        ])
        .unwrap();
        let rows = [
            ("https://fal.media/files/a.png", true),
            ("https://v3b.fal.media/files/b/x.png?y=1", true),
            ("https://V3.FAL.media/files/x.png", true),
            ("https://storage.googleapis.com/b/x.png", true),
            ("https://v3.fal.media:443/x", true),
            ("https://v3.fal.media:8443/x", false),
            ("http://v3.fal.media/x", false),
            ("https://evilfal.media/x", false),
            ("https://fal.media.evil.example/x", false),
            ("https://.fal.media/x", false),
            ("https://fal.media./x", false),
            ("https://sub.storage.googleapis.com/x", false),
            ("https://fal.media@evil.example/x", false),
            ("https://fal.media:x@evil.example/x", false),
            ("https://fal.media%40evil.example/x", false),
            ("https://fal.media\\@evil.example/x", false),
            ("https://evil.example\\.fal.media/x", false),
            ("https://evil.example#.fal.media/x", false),
            ("https://evil.example?.fal.media/x", false),
            ("https:fal.media/x", false),
            ("//fal.media/x", false),
            ("ftp://fal.media/x", false),
            ("file:///etc/passwd", false),
            ("data:image/png;base64,AAAA", false),
            ("", false),
            ("http://127.0.0.1:9000/x", true),
            ("https://127.0.0.1:9000/x", true),
            ("http://127.0.0.1:9001/x", false),
            ("http://127.1:9000/x", false),
            ("http://localhost:9000/x", false),
            ("http://169.254.169.254/latest", false),
            ("http://cdn.example/x", true),
            ("https://cdn.example:8443/x", true),
            ("https://a.cdn.example/x", false),
            ("https://a.partner.example/x", true),
            ("https://partner.example/x", false),
            ("http://[::1]:7/x", true),
            ("http://[::1]:8/x", false),
            ("https://[::1%25eth0]:7/x", false),
        ];
        for (url, allowed) in rows {
            assert_eq!(hosts.allows(url), allowed, "{url}");
        }
    }

    #[test]
    fn a_plain_url_is_read_as_one_that_is_taken_apart() {
        let rows = [
            ("https://v3.fal.media/files/b/Cat-1_x.png", true),
            ("https://fal.media/", true),
            ("https://127.0.0.1/a", true),
            ("https://a_b-c.example//..", true),
            ("http://fal.media/a", true),
            ("https://v3.fal.media:443/a", true),
            ("http://127.0.0.1:65535/a.png", true),
            ("http://127.0.0.1:080/a.png", true),
            ("http://127.0.0.1:65536/a.png", false),
            ("http://127.0.0.1:/a.png", false),
            ("http://127.0.0.1:+80/a.png", false),
            ("http://127.0.0.1:80:80/a.png", false),
            ("https://fal.media", false),
            ("https://V3.fal.media/a", false),
            ("https://v3.fal.media@evil.example/a", false),
            ("https://v3.fal.media:x@evil.example/a", false),
            ("https://v3.fal.media:1@evil.example/a", false),
            ("https://v3.fal.media/a?b", false),
            ("https://v3.fal.media/a b", false),
            ("https://v3.fal.media?/a", false),
            ("https://.fal.media/a", false),
            ("https://fal.media./a", false),
            ("https://[::1]/a", false),
            ("https:///a", false),
            ("ftp://fal.media/a", false),
            ("HTTPS://fal.media/a", false),
        ];
        for (url, is_plain) in rows {
            let seen = plain_place(url);
            assert_eq!(seen.is_some(), is_plain, "{url}");
            if let Some(seen) = seen {
                assert_eq!(Place::of(url).expect(url).seen(), seen);
            }
        }
        let long = format!("https://fal.media/{}", "a".repeat(70_000));
        assert_eq!((plain_place(&long), Place::of(&long)), (None, None));
    }

    #[test]
    fn a_host_that_cannot_be_read_is_named() {
        for bad in [
            "",
            ".",
            "a b",
            "https://x",
            "x:y",
            "x:99999",
            "a@b",
            "[::1",
            "x/y",
        ] {
            let error = FileHosts::new(&[bad]).unwrap_err();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn plain_http_goes_to_loopback_and_to_named_hosts_only() {
        let named = ["bot-api".to_owned(), "other:8081".to_owned()];
        for (url, may) in [
            ("http://127.0.0.1:8080", true),
            ("http://localhost:1/x", true),
            ("http://[::1]:1", true),
            ("http://bot-api:8081", true),
            ("http://other:8081", true),
            ("http://other:8082", false),
            ("http://queue.fal.run", false),
        ] {
            let place = Place::of(url).expect(url);
            assert_eq!(may_speak_plain(&place, &named), may, "{url}");
        }
    }
}
