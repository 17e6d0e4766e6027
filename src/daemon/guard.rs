//! Who may see the pages. On loopback whoever is on this machine may; but a browser on it can be led here by
//! a foreign page whose name it was made to believe is loopback, and the name in `Host` tells. Where a token
//! is set it is asked for, whatever the address. Health is told without it, for load balancers and probes
//! carry no secrets; but then in one word, since reasons name jobs. Pure.

use super::listen::{Asked, Page};
use crate::config::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::net::IpAddr;
use subtle::ConstantTimeEq as _;

/// Pages whose status everybody may see.
const STATUS: [&str; 2] = ["/healthz", "/readyz"];

/// What a guest may see.
#[derive(Debug)]
pub(crate) enum Leave {
    /// Everything.
    All,
    /// Whether all is well.
    StatusOnly,
    /// This, instead of what he asked for.
    No(Page),
}

/// The token, if there is one.
#[derive(Debug)]
pub(crate) struct Guard {
    token: Option<Secret>,
}

impl Guard {
    /// Without a token the address is a loopback one, as the configuration has seen to.
    pub(crate) fn new(token: Option<Secret>) -> Guard {
        Guard { token }
    }

    /// What this guest may see.
    pub(crate) fn admit(&self, asked: &Asked<'_>) -> Leave {
        let Some(token) = &self.token else {
            return if asked.header("host").all(is_no_name) {
                Leave::All
            } else {
                let why = "this page is served for its address and localhost only: a name that anybody may \
                           point here needs a token (FAL_WORKER_LISTEN_TOKEN)\n";
                Leave::No(Page::text(421, why.to_owned()))
            };
        };
        let mut given = asked.header("authorization");
        let right = match (given.next(), given.next()) {
            (Some(given), None) => is_right(given, token),
            (_, _) => false,
        };
        if right {
            Leave::All
        } else if STATUS.contains(&asked.path) {
            Leave::StatusOnly
        } else {
            let mut page = Page::text(401, "a token is needed\n".to_owned());
            page.headers = vec![
                // A browser asks for a name, which may be anything, and a password.
                (
                    "WWW-Authenticate",
                    "Basic realm=\"fal-worker\", charset=\"UTF-8\"",
                ),
                ("WWW-Authenticate", "Bearer"),
            ];
            Leave::No(page)
        }
    }
}

/// Whether nobody but this machine can make others believe in it: an address, or a name that every resolver
/// keeps for loopback. (RFC 6761; no `Host` at all comes from no browser.)
fn is_no_name(host: &str) -> bool {
    let host = host.trim();
    let bare = match host.strip_prefix('[') {
        Some(six) => match six.split_once(']') {
            Some((six, port)) if is_port(port) => return six.parse::<IpAddr>().is_ok(),
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((bare, port)) if is_port(&format!(":{port}")) => bare,
            Some(_) => return false,
            None => host,
        },
    };
    let bare = bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase();
    bare == "localhost" || bare.ends_with(".localhost") || bare.parse::<IpAddr>().is_ok()
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || text
            .strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok())
}

/// Of `Authorization`: `Bearer <token>`, or `Basic` with any name and the token as the password. The time that
/// it takes tells no more than the token's length.
fn is_right(given: &str, token: &Secret) -> bool {
    let Some((scheme, rest)) = given.trim().split_once(' ') else {
        return false;
    };
    let rest = rest.trim();
    let said = if scheme.eq_ignore_ascii_case("bearer") {
        rest.as_bytes().to_vec()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = STANDARD.decode(rest).unwrap_or_default();
        match pair.iter().position(|byte| *byte == b':') {
            Some(colon) => pair[colon + 1..].to_vec(),
            None => return false,
        }
    } else {
        return false;
    };
    said.ct_eq(token.expose().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::super::listen::answer;
    use super::*;

    /// Status of the answer, and its body.
    fn asks(guard: &Guard, path: &str, headers: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\n{headers}\r\n");
        let page = |asked: &Asked<'_>| match guard.admit(asked) {
            Leave::All => Some(Page::text(200, "all".to_owned())),
            Leave::StatusOnly => Some(Page::text(200, "status".to_owned())),
            Leave::No(page) => Some(page),
        };
        let page = answer(request.as_bytes(), &page).expect("it is whole");
        (page.status, page.text)
    }

    #[test]
    fn without_a_token_only_addresses_and_localhost_are_names_of_this_place() {
        let guard = Guard::new(None);
        for host in [
            "127.0.0.1:9464",
            "localhost:9464",
            "LOCALHOST",
            "localhost.:1",
            "[::1]:9464",
            "[::1]",
            "::1",
            "a.localhost:80",
            "192.168.1.5:9464",
            "10.0.0.1",
        ] {
            // A bare IPv6 address is no valid Host, and nobody sends one.
            let expected = if host == "::1" { 421 } else { 200 };
            assert_eq!(
                asks(&guard, "/metrics", &format!("Host: {host}\r\n")).0,
                expected,
                "{host}"
            );
        }
        for host in [
            "evil.example",
            "evil.example:9464",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "[::1].evil.example",
            "127.0.0.1:9464@evil.example",
            "",
            "localhost:x",
            "\u{e9}",
        ] {
            assert_eq!(
                asks(&guard, "/metrics", &format!("Host: {host}\r\n")).0,
                421,
                "{host}"
            );
            assert_eq!(
                asks(&guard, "/healthz", &format!("Host: {host}\r\n")).0,
                421,
                "{host}"
            );
        }
        assert_eq!(asks(&guard, "/metrics", "").0, 200);
        assert_eq!(
            asks(
                &guard,
                "/metrics",
                "Host: localhost\r\nHost: evil.example\r\n"
            )
            .0,
            421
        );
    }

    #[test]
    fn with_a_token_it_is_asked_for_and_status_alone_is_told_without_it() {
        let token = "0123456789abcdef";
        let guard = Guard::new(Some(Secret::new(token)));
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        let right = [
            format!("Bearer {token}"),
            format!("bearer  {token} "),
            basic(&format!("anyone:{token}")),
            basic(&format!(":{token}")),
        ];
        for given in right {
            let headers = format!("Host: evil.example\r\nAuthorization: {given}\r\n");
            for path in ["/metrics", "/", "/healthz"] {
                assert_eq!(
                    asks(&guard, path, &headers),
                    (200, "all".to_owned()),
                    "{given}"
                );
            }
        }
        let wrong = [
            String::new(),
            token.to_owned(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            format!("Bearer {}", &token[1..]),
            format!("Bearer {token}0"),
            format!("Bearer {token} {token}"),
            format!("Token {token}"),
            format!("Basic {token}"),
            basic(token),
            basic(&format!("{token}:")),
            basic(&format!("a:{token}:b")),
        ];
        for given in wrong {
            let headers = format!("Authorization: {given}\r\n");
            for path in ["/metrics", "/", "/healthz/x"] {
                let (status, text) = asks(&guard, path, &headers);
                assert_eq!(status, 401, "{given}");
                assert!(!text.contains(token));
            }
            for path in ["/healthz", "/readyz"] {
                assert_eq!(
                    asks(&guard, path, &headers),
                    (200, "status".to_owned()),
                    "{given}"
                );
            }
        }
        let twice = format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n");
        assert_eq!(asks(&guard, "/metrics", &twice).0, 401);
    }
}
