//! The one shared HTTP client: every setting spelled out, because ureq's defaults do not fit a daemon
//! (3 idle connections a host, 256 KiB of buffers a connection, ten redirects, a proxy from the
//! environment, a resolver thread for each request). It knows sockets and limits and no service: what
//! an answer means is decided above. Its most important promise is the line between "certainly not
//! sent" and "may have been sent", since a submit that may have been sent may have been paid.
//!
//! No text made here holds a URL, a path, a query or a header: Telegram's URLs hold the bot token.

mod download;
mod headers;
mod hosts;
mod idle;
mod resolver;
mod socket;
#[cfg(test)]
mod tests;

pub(crate) use download::disk;
pub use download::{DownloadError, DownloadRules, Spooled, spool_data_uri};
pub use headers::Headers;
pub use hosts::FileHosts;
pub(crate) use hosts::Place;

use crate::report;
use idle::Reusing;
use resolver::{CachingResolver, Unasked};
use socket::{Limits, Sockets, Trace};
use std::cell::Cell;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use ureq::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use ureq::http::{HeaderName, HeaderValue, Method, Uri};
use ureq::unversioned::transport::{Connector, RustlsConnector};
use ureq::{Agent, AsSendBody, SendBody, Timeout};

/// What a connection sends goes through so much. ureq zeroes 128 KiB each way by default.
const OUTPUT: usize = 16 << 10;
/// And what comes: it holds any head that we accept. fal's own headers may take 16 KB, those of gateways on the way
/// come on top; and a submit whose answer has too long a head was paid for.
const INPUT: usize = 20 << 10;

/// Room for the headers that most requests have: a map for more takes a piece of memory so large that the
/// allocator has no quick way to it.
const HEADERS: usize = 6;

/// No exchange takes longer.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// HTTP statuses, and 0 for no answer.
const STATUSES: usize = 1000;

thread_local! {
    static EXCHANGES: Cell<u64> = const { Cell::new(0) };
}

/// Exchanges and downloads that this thread has made so far: whether a step spoke to anybody.
pub(crate) fn exchanges_here() -> u64 {
    EXCHANGES.get()
}

/// Which service a request goes to: names metrics and chooses no behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// fal's queue, direct and storage APIs.
    Fal,
    /// The Bot API.
    Telegram,
    /// Files of results.
    Files,
}

impl Service {
    /// Every service, in the order of the enum.
    pub const ALL: [Service; 3] = [Service::Fal, Service::Telegram, Service::Files];

    /// The word of the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Service::Fal => "fal",
            Service::Telegram => "telegram",
            Service::Files => "files",
        }
    }
}

/// How long an exchange can take that has this limit in all: the eighth is what a socket's own limit may exceed it by.
pub(crate) const fn longest(total: Duration) -> Duration {
    Duration::from_nanos((total.as_nanos() / 8 * 9) as u64)
}

/// Bounds of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Name look-up, and then TCP and TLS together: each at most this long.
    pub connect: Duration,
    /// The whole exchange, the answer's body included (may be overrun by an eighth).
    pub total: Duration,
    /// Longest answer body.
    pub max_bytes: u64,
}

/// What a request carries.
pub enum Body<'a> {
    /// Nothing (POST and PUT say `Content-Length: 0`).
    Empty,
    /// Bytes in memory.
    Bytes {
        /// `Content-Type`.
        content_type: &'a str,
        /// The body.
        bytes: &'a [u8],
    },
    /// Exactly `len` bytes from a reader, in constant memory; a reader that ends early breaks the
    /// request off, what it has beyond `len` is not read.
    Stream {
        /// `Content-Type`.
        content_type: &'a str,
        /// `Content-Length`.
        len: u64,
        /// Where the bytes come from.
        reader: &'a mut dyn Read,
    },
}

/// One request.
pub struct Request<'a> {
    /// For the counters.
    pub service: Service,
    /// GET, POST, PUT or DELETE.
    pub method: &'static str,
    /// Absolute, `https://`, or `http://` to loopback or to a host the operator named.
    pub url: &'a str,
    /// Beyond those of the body; names in lower case.
    pub headers: &'a [(&'static str, &'a str)],
    /// What it carries.
    pub body: Body<'a>,
    /// Its limits.
    pub bounds: Bounds,
}

/// An answer of any status (3xx, 4xx and 5xx are answers, not errors), wholly read.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }
}

/// No whole answer. The texts never hold a URL, a path, a query or a header.
#[derive(Clone, Debug, PartialEq)]
pub enum Broken {
    /// DNS, connect or TLS failed, or not one byte left this machine: certainly nothing was sent.
    NotSent(String),
    /// Sent at least in part; no answer, or a broken one: the outcome is unknown.
    Unknown(String),
    /// Time ran out after the request may have been sent.
    TimedOut(String),
    /// Time ran out within the body of an answer: somebody is there, and the line is slow.
    Unfinished {
        /// HTTP status of the answer.
        status: u16,
    },
    /// A whole head came but the body is over `max_bytes` (status is known).
    TooBig {
        /// HTTP status of the answer.
        status: u16,
    },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::NotSent(text) | Broken::Unknown(text) | Broken::TimedOut(text) => {
                f.write_str(text)
            }
            Broken::Unfinished { status } => {
                write!(f, "answer {status} did not come whole in time")
            }
            Broken::TooBig { status } => write!(f, "answer {status} is longer than allowed"),
        }
    }
}

/// No whole answer, with what had come of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Torn {
    /// How it broke.
    pub broken: Broken,
    /// Status and headers, where the break came after a whole head: an answer without a body. Boxed, since it is rare.
    pub head: Option<Box<Answer>>,
}

impl From<Broken> for Torn {
    fn from(broken: Broken) -> Torn {
        Torn { broken, head: None }
    }
}

/// What the client is made from.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// All threads that may be inside an exchange at once (pool and transfers): as many idle
    /// connections are kept a host, so that under steady load none is opened anew.
    pub threads: usize,
    /// Hosts beside loopback that may be spoken to without TLS (`--plain-http`): HOST or HOST:PORT.
    pub plain_http: Vec<String>,
}

/// The one shared client. A clone shares the agent, its idle connections, its resolver and its counters. No
/// lock is held while connecting, while an idle socket is probed, or during a look-up.
#[derive(Clone)]
pub struct Http {
    agent: Agent,
    resolver: CachingResolver,
    shared: Arc<Shared>,
}

struct Shared {
    plain_http: Vec<String>,
    closed: Arc<AtomicBool>,
    opened: Arc<[AtomicU64; 3]>,
    /// By service and status; statuses beyond three digits do not exist.
    requests: Vec<AtomicU64>,
}

impl Http {
    /// Makes the client. Nothing is connected or looked up yet, and no thread is started.
    pub fn new(settings: HttpSettings) -> Http {
        // Hosts: the queue, fal.run or storage, Telegram, two CDN hosts.
        let idle = settings.threads.max(1) * 5;
        let tls = ureq::tls::TlsConfig::builder()
            .provider(ureq::tls::TlsProvider::Rustls)
            .root_certs(ureq::tls::RootCerts::PlatformVerifier)
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(false) // see `may_speak_plain`
            .ip_family(ureq::config::IpFamily::Any)
            .tls_config(tls)
            .proxy(None)
            .no_delay(true)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::Never)
            .save_redirect_history(false)
            .user_agent(concat!("fal-worker/", env!("CARGO_PKG_VERSION")))
            .accept("")
            .accept_encoding("")
            .max_response_header_size(INPUT)
            .input_buffer_size(INPUT)
            .output_buffer_size(OUTPUT)
            .max_idle_connections(0) // see `idle`
            .build();
        let shared = Arc::new(Shared {
            plain_http: settings.plain_http,
            closed: Arc::default(),
            opened: Arc::default(),
            requests: (0..Service::ALL.len() * STATUSES)
                .map(|_| AtomicU64::new(0))
                .collect(),
        });
        let resolver = CachingResolver::new();
        let sockets = Sockets {
            resolver: resolver.clone(),
            closed: shared.closed.clone(),
            opened: shared.opened.clone(),
        };
        let opening = ().chain(sockets).chain(RustlsConnector::default()).chain(socket::Ready);
        Http {
            agent: Agent::with_parts(config, Reusing::new(opening, idle), Unasked),
            resolver,
            shared,
        }
    }

    /// One request and its whole answer. Redirects are not followed. A request other than POST that
    /// met a connection closed by the server while idle is repeated once on a new one.
    pub fn exchange(&self, request: Request<'_>) -> Result<Answer, Broken> {
        self.exchange_or_head(request).map_err(|torn| torn.broken)
    }

    /// The same, with the head of an answer whose body did not come whole: what stands in it may have been paid for.
    pub fn exchange_or_head(&self, request: Request<'_>) -> Result<Answer, Torn> {
        let service = request.service;
        let result = self.perform(request);
        let code = match &result {
            Ok(answer) => answer.status,
            Err(Torn {
                broken: Broken::TooBig { status },
                ..
            }) => *status,
            Err(_) => 0,
        };
        self.count(service, code);
        result
    }

    /// Requests so far by service and HTTP status; status 0: no answer.
    pub fn counts(&self) -> Vec<(Service, u16, u64)> {
        let counts = self.shared.requests.iter().enumerate();
        counts
            .map(|(at, count)| {
                let service = Service::ALL[at / STATUSES];
                (
                    service,
                    (at % STATUSES) as u16,
                    count.load(Ordering::Relaxed),
                )
            })
            .filter(|(_, _, count)| *count > 0)
            .collect()
    }

    /// Connections opened so far, by service.
    pub fn connections(&self) -> Vec<(Service, u64)> {
        let opened = &self.shared.opened;
        Service::ALL
            .iter()
            .map(|service| (*service, opened[*service as usize].load(Ordering::Relaxed)))
            .collect()
    }

    /// Ends all sockets, for the hard stop and for good: exchanges under way break off within a
    /// millisecond (a TCP connect under way within its limit), later ones are `NotSent`.
    pub fn shutdown(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.resolver.close();
        self.agent.clone().shutdown();
    }

    fn count(&self, service: Service, code: u16) {
        EXCHANGES.set(EXCHANGES.get() + 1);
        let at = service as usize * STATUSES + usize::from(code).min(STATUSES - 1);
        self.shared.requests[at].fetch_add(1, Ordering::Relaxed);
    }

    fn perform(&self, request: Request<'_>) -> Result<Answer, Torn> {
        let Request {
            service,
            method,
            url,
            headers,
            body,
            bounds,
        } = request;
        let uri: Option<Uri> = url.parse().ok();
        let place = uri.as_ref().and_then(Place::of_uri);
        let (Some(uri), Some(place)) = (uri, place) else {
            return Err(Broken::NotSent("the URL is not valid".into()).into());
        };
        if !place.tls && !hosts::may_speak_plain(&place, &self.shared.plain_http) {
            let text = format!("plain http to {} is not allowed", place.host);
            return Err(Broken::NotSent(text).into());
        }
        let until = Instant::now() + bounds.total.min(LONGEST);
        // Made anew for a repeat, which is rare: a copy for each request would cost more.
        let head = Head {
            method,
            uri: &uri,
            headers,
            content_type: match &body {
                Body::Bytes { content_type, .. } | Body::Stream { content_type, .. } => {
                    Some(*content_type)
                }
                Body::Empty => None,
            },
        };
        let call = Call {
            http: self,
            service,
            place: &place,
            bounds,
            stall: None,
        };
        match body {
            Body::Stream { len, reader, .. } => {
                let mut exact = Exactly { reader, left: len };
                let mut request = head.before(SendBody::from_reader(&mut exact))?;
                request.headers_mut().insert(CONTENT_LENGTH, len.into());
                call.answer(request, until)
            }
            Body::Empty | Body::Bytes { .. } => {
                let bytes = match body {
                    Body::Bytes { bytes, .. } => Some(bytes),
                    _ => matches!(method, "POST" | "PUT" | "PATCH").then_some(&[][..]),
                };
                let send = || match bytes {
                    Some(bytes) => call.answer(head.before(bytes)?, until),
                    None => call.answer(head.before(())?, until),
                };
                let first = send();
                // RFC 9110 section 9.2.2: what is idempotent may be repeated when a kept connection
                // turns out to be closed. A submit never: it may have arrived.
                if method != "POST"
                    && matches!(&first, Err(torn) if matches!(torn.broken, Broken::Unknown(_)))
                    && Trace::met_a_closed_one()
                {
                    return match send() {
                        // The first one may have arrived.
                        Err(torn) if matches!(torn.broken, Broken::NotSent(_)) => first,
                        second => second,
                    };
                }
                first
            }
        }
    }
}

/// What nearly all requests send or accept.
const JSON: &str = "application/json";

/// A request but for its body.
struct Head<'a> {
    method: &'static str,
    uri: &'a Uri,
    headers: &'a [(&'static str, &'a str)],
    content_type: Option<&'a str>,
}

impl Head<'_> {
    fn before<B>(&self, body: B) -> Result<ureq::http::Request<B>, Broken> {
        let value = |text| match text {
            JSON => Ok(HeaderValue::from_static(JSON)), // the others are copied
            _ => HeaderValue::from_str(text).map_err(|_| {
                Broken::NotSent("a header holds characters that HTTP does not allow".into())
            }),
        };
        // Not ureq's builder: it moves the whole request for each part of it.
        let mut request = ureq::http::Request::new(body);
        *request.method_mut() = Method::from_bytes(self.method.as_bytes())
            .map_err(|_| Broken::NotSent("there is no such method".into()))?;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.reserve(HEADERS);
        for (name, text) in self.headers {
            headers.append(HeaderName::from_static(name), value(text)?);
        }
        if let Some(content_type) = self.content_type {
            headers.insert(CONTENT_TYPE, value(content_type)?);
        }
        Ok(request)
    }
}

/// What one run of ureq needs beside the request.
struct Call<'a> {
    http: &'a Http,
    service: Service,
    place: &'a Place,
    bounds: Bounds,
    stall: Option<Duration>,
}

impl Call<'_> {
    /// Sends, and gives the answer with its body still to be read, on this thread and before its next
    /// exchange: the limits are this thread's.
    fn send<B: AsSendBody>(
        &self,
        request: ureq::http::Request<B>,
        until: Instant,
    ) -> Result<ureq::http::Response<ureq::Body>, Broken> {
        let limits = Limits {
            until,
            connect: self.bounds.connect,
            stall: self.stall,
        };
        Trace::begin(self.service, limits);
        self.http.agent.run(request).map_err(|error| {
            let broken = self.broken(error);
            if matches!(broken, Broken::NotSent(_)) {
                self.http.resolver.suspect(&self.place.host);
            }
            broken
        })
    }

    fn answer<B: AsSendBody>(
        &self,
        request: ureq::http::Request<B>,
        until: Instant,
    ) -> Result<Answer, Torn> {
        let response = self.send(request, until)?;
        let (head, body) = response.into_parts();
        let mut answer = Answer {
            status: head.status.as_u16(),
            headers: Headers::new(head.headers),
            body: Vec::new(),
        };
        match self.read(body, answer.status) {
            Ok(bytes) => {
                answer.body = bytes;
                Ok(answer)
            }
            Err(broken) => Err(Torn {
                broken,
                head: Some(Box::new(answer)),
            }),
        }
    }

    /// The body of an answer of this status.
    fn read(&self, mut body: ureq::Body, status: u16) -> Result<Vec<u8>, Broken> {
        let max = self.bounds.max_bytes;
        let announced = body.content_length().unwrap_or(0);
        if announced > max {
            return Err(Broken::TooBig { status });
        }
        let mut bytes = Vec::with_capacity(announced.min(64 << 10) as usize);
        // One byte beyond the limit tells "just fits" from "too big"; a body read to its end gives the
        // connection back to the pool.
        body.as_reader()
            .take(max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| match self.broken(ureq::Error::from(error)) {
                Broken::TimedOut(_) => Broken::Unfinished { status },
                broken => broken,
            })?;
        if bytes.len() as u64 > max {
            return Err(Broken::TooBig { status });
        }
        Ok(bytes)
    }

    /// Sorts an error of ureq by what certainly was not sent, and words it.
    fn broken(&self, error: ureq::Error) -> Broken {
        let host = &self.place.host;
        if Trace::nothing_sent() {
            let what = match error {
                ureq::Error::HostNotFound
                | ureq::Error::Timeout(Timeout::Resolve)
                | ureq::Error::Other(_) => "look-up of",
                _ if Trace::not_connected() => "connect to",
                _ => "sending to",
            };
            return Broken::NotSent(format!("{what} {host} failed: {}", reason(&error)));
        }
        match error {
            ureq::Error::Timeout(Timeout::PerRead) => {
                Broken::TimedOut(format!("{host} fell silent"))
            }
            ureq::Error::Timeout(_) => Broken::TimedOut(format!("no answer from {host} in time")),
            error => Broken::Unknown(format!(
                "exchange with {host} broke off: {}",
                reason(&error)
            )),
        }
    }
}

/// The kind of an error in words of our own: ureq's texts can hold a URL (`BadUri`) or a header.
fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => match error.kind() {
            // rustls puts its reasons ("invalid peer certificate: …") here; they name no URL.
            io::ErrorKind::InvalidData => match error.get_ref() {
                Some(inner) => format!("TLS: {inner}"),
                None => "invalid data".into(),
            },
            io::ErrorKind::UnexpectedEof => "connection closed".into(),
            io::ErrorKind::NotConnected => "the client is shut down".into(),
            io::ErrorKind::Other
                if error
                    .get_ref()
                    .is_some_and(|inner| inner.is::<SourceError>()) =>
            {
                "reading the bytes to send failed".into()
            }
            _ => report::in_words(error),
        },
        ureq::Error::Timeout(_) => "timed out".into(),
        ureq::Error::HostNotFound => "host not found".into(),
        // None of ureq's own: of the resolver.
        ureq::Error::Other(error) => error.to_string(),
        ureq::Error::Rustls(error) => format!("TLS: {error}"),
        ureq::Error::Tls(text) => format!("TLS: {text}"),
        ureq::Error::LargeResponseHeader(..) => "the answer's head is too long".into(),
        ureq::Error::Protocol(_) => "the answer is not valid HTTP".into(),
        ureq::Error::Http(_) | ureq::Error::BadUri(_) => "the request is not valid HTTP".into(),
        _ => "internal error of the HTTP client".into(),
    }
}

/// Gives exactly the announced number of bytes. ureq would ask a reader that ended early again and
/// again until the time is up.
struct Exactly<'a> {
    reader: &'a mut dyn Read,
    left: u64,
}

/// The source of a streamed body failed or ended early.
#[derive(Debug)]
struct SourceError(String);

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SourceError {}

impl Read for Exactly<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = buf
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        loop {
            match self.reader.read(&mut buf[..most]) {
                Ok(0) => return Err(io::Error::other(SourceError("ended early".into()))),
                Ok(n) => {
                    self.left -= n as u64;
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io::Error::other(SourceError(error.to_string()))),
            }
        }
    }
}
