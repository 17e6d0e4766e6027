//! Where our requests may go: base URLs, hosts of files, Redis. Errors here never repeat the text, since
//! a URL may hold a password, also in the wrong place.

use super::secret::Secret;
use super::server::{self, Server, Way, joined};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisResult, TlsCertificates};
use std::fmt;
use std::net::IpAddr;
use ureq::http::Uri;

/// Base URL of an API: `http` or `https`, host in lower case, perhaps port and path, no trailing slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(String);

impl BaseUrl {
    /// As it goes before a path that begins with `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks a base URL. Plain `http` only to loopback and to the hosts in `plain`.
    pub(super) fn parse(text: &str, plain: &[Host]) -> Result<BaseUrl, String> {
        if text.contains(['?', '#']) {
            return Err("a base URL has no query and no fragment".into());
        }
        let whole = Whole::parse(text)?;
        if !whole.tls && !may_be_plain(&whole.host, whole.port, plain) {
            return Err(format!(
                "plain http only goes to loopback; write https://, or name the host: --plain-http {}",
                whole.host
            ));
        }
        let path = whole.path.trim_end_matches('/');
        let is_token =
            |part: &str| part.starts_with("bot") && (part.contains(':') || part.contains('%'));
        if path.split('/').any(is_token) {
            return Err("give the base without /bot<token>; the token has its own variable".into());
        }
        Ok(BaseUrl(whole.origin() + path))
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The parts of an absolute `http` or `https` URL that has no user in it.
struct Whole {
    tls: bool,
    /// Lower case; IPv6 in brackets.
    host: String,
    port: Option<u16>,
    path: String,
}

impl Whole {
    fn parse(text: &str) -> Result<Whole, String> {
        let no_url = || "not a URL like https://host/path".to_owned();
        // What ureq will parse the request's URL with, so that both mean the same host.
        let uri: Uri = text.parse().map_err(|_| no_url())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(no_url()),
        };
        let authority = uri.authority().ok_or_else(no_url)?;
        if authority.as_str().contains('@') {
            return Err("a user or password is not allowed in it".into());
        }
        let host = authority.host().to_ascii_lowercase();
        let port = match &authority.as_str()[host.len()..] {
            "" => None,
            port => Some(port_of(port.strip_prefix(':').unwrap_or_default()).ok_or_else(no_url)?),
        };
        if !is_host(&host) {
            return Err(no_url());
        }
        Ok(Whole {
            tls,
            host,
            port,
            path: uri.path().to_owned(),
        })
    }

    /// `https://host[:port]`, lower case.
    fn origin(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        match self.port {
            Some(port) => format!("{scheme}://{}:{port}", self.host),
            None => format!("{scheme}://{}", self.host),
        }
    }
}

fn port_of(text: &str) -> Option<u16> {
    text.parse()
        .ok()
        .filter(|port| *port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_host(host: &str) -> bool {
    match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(address) => matches!(address.parse(), Ok(IpAddr::V6(_))),
        None => {
            (1..=253).contains(&host.len())
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
                && host.split('.').all(|label| !label.is_empty())
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

fn may_be_plain(host: &str, port: Option<u16>, plain: &[Host]) -> bool {
    is_loopback(host)
        || plain
            .iter()
            .any(|named| named.covers(host, port.unwrap_or(80)))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.below { "." } else { "" };
        match self.port {
            Some(port) => write!(f, "{dot}{}:{port}", self.name),
            None => write!(f, "{dot}{}", self.name),
        }
    }
}

/// `HOST`, `HOST:PORT`, or `.HOST` for the hosts below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// Lower case; IPv6 in brackets; without the dot.
    name: String,
    /// `None`: any.
    port: Option<u16>,
    below: bool,
}

impl Host {
    pub(super) fn parse(text: &str) -> Result<Host, String> {
        let refuse =
            || format!("{text:?} is no host: write HOST, HOST:PORT or .HOST, without https://");
        let lower = text.to_ascii_lowercase();
        let (below, rest) = match lower.strip_prefix('.') {
            Some(rest) => (true, rest),
            None => (false, &lower[..]),
        };
        let (name, port) = match rest.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => {
                (name, Some(port_of(port).ok_or_else(refuse)?))
            }
            _ => (rest, None),
        };
        if !is_host(name) || (below && port.is_some()) {
            return Err(refuse());
        }
        Ok(Host {
            name: name.to_owned(),
            port,
            below,
        })
    }

    /// A host that is meant exactly, as `--plain-http` takes it.
    pub(super) fn parse_exact(text: &str) -> Result<Host, String> {
        Host::parse(text)
            .ok()
            .filter(|host| !host.below)
            .ok_or_else(|| format!("{text:?} is no host: write HOST or HOST:PORT, without http://"))
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        self.name == host && self.port.is_none_or(|own| own == port)
    }
}

/// Which Redis, with its password. Prints without it.
#[derive(Clone)]
pub struct RedisUrl {
    info: ConnectionInfo,
    way: Way,
    shown: String,
    /// Every password in it, as it is and as the URL spells it, which may differ by percent signs.
    secrets: Vec<Secret>,
}

impl RedisUrl {
    /// The server, and how it is found.
    pub fn server(&self) -> Server {
        Server {
            info: self.info.clone(),
            way: self.way.clone(),
        }
    }

    /// The password, if there is one.
    pub fn password(&self) -> Option<&str> {
        self.info.redis_settings().password()
    }

    /// Every text in it that nobody may see: for `report::hide`.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(Secret::expose)
    }

    /// Whether both lead to the same database of the same server, as whoever it may be.
    pub fn is_same_place(&self, other: &RedisUrl) -> bool {
        let place = |url: &RedisUrl| {
            let db = url.info.redis_settings().db();
            let kind = std::mem::discriminant(url.info.addr());
            (kind, url.server().to_string(), db)
        };
        place(self) == place(other)
    }

    /// Whether it is reached by TLS.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self.info.addr(), ConnectionAddr::TcpTls { .. })
    }

    /// The same Redis, with these certificates in place of the system's.
    pub(super) fn with_tls(mut self, certificates: &TlsCertificates) -> RedisResult<RedisUrl> {
        let client = redis::Client::build_with_tls(self.info, certificates.clone())?;
        self.info = client.get_connection_info().clone();
        Ok(self)
    }

    /// Checks the URL of a Redis.
    pub(super) fn parse(text: &str) -> Result<RedisUrl, String> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("only visible ASCII may stand in it; write the rest as %XX".into());
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let scheme = scheme.to_ascii_lowercase();
        if let Some(several) = server::several(&scheme, rest) {
            let server::Several { server, written } = several?;
            return Ok(RedisUrl::of(server.info, server.way, written));
        }
        let password_as_written = match &scheme[..] {
            "redis" | "rediss" => {
                if rest.contains(['?', '#']) {
                    return Err(
                        "no query and no fragment; in a password write ? as %3F and # as %23"
                            .into(),
                    );
                }
                let user = rest.rsplit_once('@').map(|(user, _)| user);
                user.and_then(|user| user.split_once(':'))
                    .map(|(_, password)| password)
            }
            "unix" | "redis+unix" => {
                let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
                if path.len() < 2 || !path.starts_with('/') || rest.contains('#') {
                    return Err("write redis+unix:///path/to/redis.sock?db=0".into());
                }
                let mut pairs = query.split('&').filter(|pair| !pair.is_empty());
                if pairs.any(|pair| !matches!(pair.split('=').next(), Some("db" | "user" | "pass")))
                {
                    return Err("behind the ? only db, user and pass are known".into());
                }
                query.split('&').find_map(|pair| pair.strip_prefix("pass="))
            }
            "" => return Err("not a URL like redis://host:6379/0".into()),
            _ => {
                return Err(
                    "this version supports redis://, rediss://, redis+unix://, unix://, redis-sentinel:// \
                     and redis-cluster:// (rediss-sentinel:// and rediss-cluster:// with TLS)"
                        .into(),
                );
            }
        };
        // The crate's texts are constants: they never repeat the URL.
        let info = text
            .into_connection_info()
            .map_err(|error| format!("cannot be used: {error}"))?;
        if info.redis_settings().db() < 0 {
            return Err("the number of the database is negative".into());
        }
        let written = password_as_written.map(str::to_owned);
        Ok(RedisUrl::of(info, Way::Fixed, written))
    }

    fn of(info: ConnectionInfo, way: Way, written: impl IntoIterator<Item = String>) -> RedisUrl {
        // CLIENT SETINFO at each connection would be two more commands, and two more rights to grant.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        let info = info.set_redis_settings(settings);
        let mut secrets: Vec<String> = written.into_iter().collect();
        secrets.extend(info.redis_settings().password().map(str::to_owned));
        if let Way::Sentinel { login, .. } = &way {
            secrets.extend(login.password().map(str::to_owned));
        }
        // Wholes before their parts, as `report::hide` wants them.
        secrets.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        RedisUrl {
            shown: shown(&info, &way),
            info,
            way,
            secrets: secrets
                .into_iter()
                .filter(|secret| !secret.is_empty())
                .map(Secret::new)
                .collect(),
        }
    }
}

/// Put together from what was understood, not by blacking out what was typed.
fn shown(info: &ConnectionInfo, way: &Way) -> String {
    let settings = info.redis_settings();
    let user = match (settings.username(), settings.password()) {
        (None, None) => String::new(),
        (user, password) => {
            let user: String = user.unwrap_or_default().escape_debug().collect();
            format!("{user}{}@", if password.is_some() { ":***" } else { "" })
        }
    };
    let db = settings.db();
    let tcp = |scheme: &str, host: &str, port: u16| {
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        format!("{scheme}://{user}{host}:{port}/{db}")
    };
    let s = match info.addr() {
        ConnectionAddr::TcpTls { .. } => "s",
        _ => "",
    };
    match way {
        Way::Fixed => {}
        Way::Sentinel { nodes, master, .. } => {
            return format!("redis{s}-sentinel://{user}{}/{master}/{db}", joined(nodes));
        }
        Way::Cluster { nodes } => return format!("redis{s}-cluster://{user}{}", joined(nodes)),
    }
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => tcp("redis", host, *port),
        ConnectionAddr::TcpTls { host, port, .. } => tcp("rediss", host, *port),
        ConnectionAddr::Unix(path) => format!("redis+unix://{user}{}?db={db}", path.display()),
        other => format!("{other}"),
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}
