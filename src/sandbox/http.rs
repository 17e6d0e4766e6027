//! The small HTTP/1.1 server under the stand-ins.
//!
//! It exists because the stand-ins must be able to misbehave exactly: close after the head, cut an
//! answer in half, drip bytes, or hold an answer back. A server library would smooth these over.
//! Plain threads, one a connection: the load is a worker's connection pool, not the internet.
//! Nothing here knows fal, Telegram or the worker's own HTTP client.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Largest head (request line and headers) that is read: beyond it the answer is 431.
const HEAD_LIMIT: usize = 64 << 10;
/// Largest body that is read unless the handler asks for less: beyond it the answer is 413.
pub const BODY_LIMIT: u64 = 64 << 20;
/// Answers up to this size leave in one write together with their head.
const ONE_WRITE: usize = 256 << 10;

/// A lock that goes on after a panic elsewhere: a failed assertion in one test thread must not turn
/// into a second failure in a connection thread.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends waits: every pause in the stand-ins goes through one of these, so that dropping a server never
/// waits for a scripted delay.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<StopInner>);

#[derive(Debug, Default)]
struct StopInner {
    raised: AtomicBool,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Stop {
    /// Wakes all sleepers; later sleeps return at once.
    pub fn raise(&self) {
        let _guard = lock(&self.0.lock);
        self.0.raised.store(true, Ordering::SeqCst);
        self.0.bell.notify_all();
    }

    /// Whether [`Stop::raise`] was called.
    pub fn raised(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }

    /// Sleeps for `span`; false when the sleep was cut short by [`Stop::raise`].
    pub fn sleep(&self, span: Duration) -> bool {
        let until = Instant::now() + span;
        let mut guard = lock(&self.0.lock);
        while !self.raised() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let waited = self.0.bell.wait_timeout(guard, left);
            guard = waited.map_or_else(|e| e.into_inner().0, |pair| pair.0);
        }
        false
    }
}

/// One request as it came over the wire.
#[derive(Debug, Default)]
pub struct Request {
    /// The method in capitals.
    pub method: String,
    /// The path, percent-encoded as sent, without the query.
    pub path: String,
    /// The decoded pairs of the query string, in order.
    pub query: Vec<(String, String)>,
    /// Header names in lower case, with their values, in order.
    pub headers: Vec<(String, String)>,
    /// The body, decoded when it was chunked.
    pub body: Vec<u8>,
    /// The announced length, if there was one (known before the body is read).
    pub content_length: Option<u64>,
}

impl Request {
    /// The first value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// The first value of a query parameter.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// Whether `text` occurs in the path, the query or the first 64 KiB of the body.
    pub fn mentions(&self, text: &str) -> bool {
        self.path.contains(text)
            || self.query.iter().any(|(_, value)| value.contains(text))
            || find(
                &self.body[..self.body.len().min(64 << 10)],
                text.as_bytes(),
                0,
            )
            .is_some()
    }
}

/// The bytes of an answer.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Held in memory.
    Bytes(Vec<u8>),
    /// Held in memory and shared with the ledger.
    Shared(Arc<[u8]>),
    /// `head`, then zeros up to `len`: written piece by piece, never held whole.
    Padded {
        /// The first bytes.
        head: Vec<u8>,
        /// Total length.
        len: u64,
    },
}

impl Payload {
    /// Total length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::Shared(bytes) => bytes.len() as u64,
            Payload::Padded { head, len } => (*len).max(head.len() as u64),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn head(&self) -> &[u8] {
        match self {
            Payload::Bytes(bytes) => bytes,
            Payload::Shared(bytes) => bytes,
            Payload::Padded { head, .. } => head,
        }
    }
}

/// How an answer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Whole, and the connection stays open.
    Whole,
    /// Whole, then the connection is closed.
    WholeThenClose,
    /// Head with the full length, half of the body, then the connection is closed.
    HalfThenClose,
    /// Head at once, body one byte every 100 ms.
    Dripping,
    /// Not at all: the connection is closed.
    Nothing,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Value of `Content-Type`; left out when empty.
    pub content_type: Cow<'static, str>,
    /// Further headers.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The body.
    pub body: Payload,
    /// How it leaves.
    pub sending: Sending,
}

impl Response {
    /// An answer with a body of the given type.
    pub fn new(
        status: u16,
        content_type: impl Into<Cow<'static, str>>,
        body: impl Into<Vec<u8>>,
    ) -> Response {
        Response {
            status,
            content_type: content_type.into(),
            headers: Vec::new(),
            body: Payload::Bytes(body.into()),
            sending: Sending::Whole,
        }
    }

    /// A JSON answer.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Response {
        Response::new(status, "application/json", body)
    }

    /// A status without a body, after which the connection is closed.
    pub fn refusal(status: u16) -> Response {
        Response {
            sending: Sending::WholeThenClose,
            ..Response::new(status, "", "")
        }
    }

    /// No answer: the connection is closed.
    pub fn nothing() -> Response {
        Response {
            sending: Sending::Nothing,
            ..Response::new(500, "", "")
        }
    }

    /// Adds a header.
    pub fn with_header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
    ) -> Response {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
    }
}

/// What to do with a request of which only the head was read.
#[derive(Debug)]
pub enum Gate {
    /// Read the body and hand the request over.
    ReadBody,
    /// The same, at so many bytes a second.
    ReadBodySlowly(u64),
    /// Close at once: unread bytes make the kernel send a reset.
    Close,
    /// Answer without reading the body, then close.
    Answer(Response),
}

/// Answers requests; called from many threads.
pub trait Handler: Send + Sync + 'static {
    /// Called when the head is read and the body is not.
    fn gate(&self, _head: &Request) -> Gate {
        Gate::ReadBody
    }

    /// Largest body that is read.
    fn body_limit(&self) -> u64 {
        BODY_LIMIT
    }

    /// Called with the whole request.
    fn answer(&self, request: &Request) -> Response;
}

impl<F: Fn(&Request) -> Response + Send + Sync + 'static> Handler for F {
    fn answer(&self, request: &Request) -> Response {
        self(request)
    }
}

/// A server on a loopback port of its own. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: Stop,
    open: Mutex<HashMap<u64, Arc<TcpStream>>>,
    opened: AtomicU64,
    requests: AtomicU64,
}

impl Server {
    /// Listens on 127.0.0.1 on a free port. `stop` is raised when the server is dropped; handlers sleep on it.
    pub fn start(name: &str, stop: Stop, handler: Arc<dyn Handler>) -> io::Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            stop,
            open: Mutex::new(HashMap::new()),
            opened: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        });
        let for_acceptor = shared.clone();
        let name = name.to_owned();
        let acceptor = std::thread::Builder::new()
            .name(format!("{name}-accept"))
            .spawn(move || accept(&name, &listener, &for_acceptor, &handler))?;
        Ok(Server {
            address,
            shared,
            acceptor: Some(acceptor),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// Requests read so far (heads that parsed).
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Closes every open connection, as a restart of a gateway does; the listener stays.
    pub fn close_connections(&self) {
        for stream in lock(&self.shared.open).values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.raise();
        // The acceptor blocks in accept(2): one connection of our own wakes it.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.close_connections();
    }
}

fn accept(name: &str, listener: &TcpListener, shared: &Arc<Shared>, handler: &Arc<dyn Handler>) {
    for (number, stream) in (0u64..).zip(listener.incoming()) {
        if shared.stop.raised() {
            return;
        }
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: a pause keeps this from spinning.
            shared.stop.sleep(Duration::from_millis(10));
            continue;
        };
        shared.opened.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        lock(&shared.open).insert(number, stream.clone());
        let (shared, handler) = (shared.clone(), handler.clone());
        let spawned = std::thread::Builder::new()
            .name(format!("{name}-{number}"))
            .stack_size(512 << 10)
            .spawn(move || {
                serve(&stream, &shared, handler.as_ref());
                let _ = stream.shutdown(Shutdown::Both);
                lock(&shared.open).remove(&number);
            });
        if spawned.is_err() {
            // The stream's last owner went with the closure, so the peer sees a close.
            continue;
        }
    }
}

enum Incoming {
    Whole { request: Request, keep_alive: bool },
    Answered(Response),
    Closed,
}

fn serve(stream: &TcpStream, shared: &Shared, handler: &dyn Handler) {
    let mut read = Vec::with_capacity(16 << 10);
    let mut write = Vec::with_capacity(16 << 10);
    loop {
        let incoming = read_request(stream, shared, &mut read, handler).unwrap_or(Incoming::Closed);
        match incoming {
            Incoming::Closed => return,
            Incoming::Answered(response) => {
                let _ = send(stream, shared, &mut write, &response, false, false);
                linger(stream);
                return;
            }
            Incoming::Whole {
                request,
                keep_alive,
            } => {
                let response = handler.answer(&request);
                let sent = send(
                    stream,
                    shared,
                    &mut write,
                    &response,
                    keep_alive,
                    request.method == "HEAD",
                );
                if !matches!(sent, Ok(true)) || shared.stop.raised() {
                    return;
                }
            }
        }
    }
}

/// After a refusal without reading the body: closing at once would reset the connection and destroy the
/// answer on its way, so what still comes is read away for a moment.
fn linger(mut stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
    let mut sink = [0u8; 16 << 10];
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until && matches!(stream.read(&mut sink), Ok(n) if n > 0) {}
}

fn read_request(
    stream: &TcpStream,
    shared: &Shared,
    buffer: &mut Vec<u8>,
    handler: &dyn Handler,
) -> io::Result<Incoming> {
    let (mut request, head_len, keep_alive, chunked) = loop {
        if !buffer.is_empty() {
            match parse_head(buffer) {
                Ok(Some(parsed)) => break parsed,
                Ok(None) if buffer.len() > HEAD_LIMIT => {
                    return Ok(Incoming::Answered(Response::refusal(431)));
                }
                Ok(None) => {}
                Err(status) => return Ok(Incoming::Answered(Response::refusal(status))),
            }
        }
        if fill(stream, buffer)? == 0 {
            return Ok(Incoming::Closed);
        }
    };
    buffer.drain(..head_len);
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let mut pace = None;
    match handler.gate(&request) {
        Gate::ReadBody => {}
        Gate::ReadBodySlowly(bytes_per_s) => pace = Some(bytes_per_s),
        Gate::Close => return Ok(Incoming::Closed),
        Gate::Answer(response) => return Ok(Incoming::Answered(response)),
    }
    let limit = handler.body_limit();
    if chunked {
        match read_chunked(stream, buffer, limit)? {
            Ok(body) => request.body = body,
            Err(status) => return Ok(Incoming::Answered(Response::refusal(status))),
        }
    } else if let Some(length) = request.content_length {
        if length > limit {
            return Ok(Incoming::Answered(Response::refusal(413)));
        }
        // A tenth of a second's worth at a time; the kernel's buffers hide some of it from the sender.
        let step = pace.map_or(length, |bytes_per_s| (bytes_per_s / 10).max(1));
        while (request.body.len() as u64) < length.saturating_sub(step) {
            if !read_body(stream, buffer, &mut request.body, step as usize)? {
                return Ok(Incoming::Answered(Response::refusal(400)));
            }
            shared.stop.sleep(Duration::from_millis(100));
        }
        let rest = length as usize - request.body.len();
        if !read_body(stream, buffer, &mut request.body, rest)? {
            return Ok(Incoming::Answered(Response::refusal(400)));
        }
    }
    Ok(Incoming::Whole {
        request,
        keep_alive,
    })
}

/// Reads once and appends; 0 at the end of the stream.
fn fill(mut stream: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let old = buffer.len();
    buffer.resize(old + (8 << 10), 0);
    let got = loop {
        match stream.read(&mut buffer[old..]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other,
        }
    };
    buffer.truncate(old + got.as_ref().map_or(0, |n| *n));
    got
}

type Head = (Request, usize, bool, bool);

/// The head if it is complete; `Err` is the status to refuse with.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, u16> {
    let mut slots = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Request::new(&mut slots);
    let head_len = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::Version) => return Err(505),
        Err(httparse::Error::TooManyHeaders) => return Err(431),
        Err(_) => return Err(400),
    };
    let (path, query) = split_target(parsed.path.unwrap_or("/"));
    let mut request = Request {
        method: parsed.method.unwrap_or("").to_owned(),
        path,
        query,
        ..Request::default()
    };
    let mut keep_alive = parsed.version == Some(1);
    let mut chunked = false;
    request.headers.reserve(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = header.name.to_ascii_lowercase();
        let value = String::from_utf8_lossy(header.value).into_owned();
        match name.as_str() {
            "content-length" => {
                let length = value.trim().parse::<u64>().map_err(|_| 400u16)?;
                if request
                    .content_length
                    .is_some_and(|earlier| earlier != length)
                {
                    return Err(400);
                }
                request.content_length = Some(length);
            }
            "transfer-encoding" => {
                if !value.eq_ignore_ascii_case("chunked") {
                    return Err(501);
                }
                chunked = true;
            }
            "connection" if value.eq_ignore_ascii_case("close") => keep_alive = false,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => keep_alive = true,
            _ => {}
        }
        request.headers.push((name, value));
    }
    Ok(Some((request, head_len, keep_alive, chunked)))
}

fn split_target(target: &str) -> (String, Vec<(String, String)>) {
    match target.split_once('?') {
        None => (target.to_owned(), Vec::new()),
        Some((path, query)) => (path.to_owned(), decode_pairs(query)),
    }
}

/// Decodes `a=b&c=d`, with `+` as a space.
pub(super) fn decode_pairs(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(name, true), percent_decode(value, true))
        })
        .collect()
}

/// Decodes `%41`; leaves broken escapes as they are.
pub(super) fn percent_decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let hex = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'%' => match (hex(i + 1), hex(i + 2)) {
                (Some(high), Some(low)) => {
                    out.push((high * 16 + low) as u8);
                    i += 2;
                }
                _ => out.push(b'%'),
            },
            b'+' if plus_is_space => out.push(b' '),
            other => out.push(other),
        }
        i += 1;
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

fn read_body(
    stream: &TcpStream,
    buffer: &mut Vec<u8>,
    body: &mut Vec<u8>,
    length: usize,
) -> io::Result<bool> {
    let ready = length.min(buffer.len());
    body.reserve_exact(length);
    body.extend_from_slice(&buffer[..ready]);
    buffer.drain(..ready);
    let rest = (length - ready) as u64;
    Ok(rest == 0 || stream.take(rest).read_to_end(body)? as u64 == rest)
}

/// As the Bot API server reads them: size lines of at most 8 digits, no extensions, no trailers.
fn read_chunked(
    stream: &TcpStream,
    buffer: &mut Vec<u8>,
    limit: u64,
) -> io::Result<Result<Vec<u8>, u16>> {
    let mut body = Vec::new();
    loop {
        let line_end = loop {
            if let Some(at) = find(buffer, b"\r\n", 0) {
                break at;
            }
            if buffer.len() > 10 || fill(stream, buffer)? == 0 {
                return Ok(Err(400));
            }
        };
        let size = std::str::from_utf8(&buffer[..line_end])
            .ok()
            .filter(|digits| digits.len() <= 8);
        let Some(size) = size.and_then(|digits| usize::from_str_radix(digits, 16).ok()) else {
            return Ok(Err(400));
        };
        buffer.drain(..line_end + 2);
        if (body.len() + size) as u64 > limit {
            return Ok(Err(413));
        }
        if !read_body(stream, buffer, &mut body, size)? {
            return Ok(Err(400));
        }
        while buffer.len() < 2 {
            if fill(stream, buffer)? == 0 {
                return Ok(Err(400));
            }
        }
        if !buffer.starts_with(b"\r\n") {
            return Ok(Err(400));
        }
        buffer.drain(..2);
        if size == 0 {
            return Ok(Ok(body));
        }
    }
}

/// Writes an answer; true when the connection may be used again.
fn send(
    mut stream: &TcpStream,
    shared: &Shared,
    buffer: &mut Vec<u8>,
    response: &Response,
    keep_alive: bool,
    head_only: bool,
) -> io::Result<bool> {
    if response.sending == Sending::Nothing {
        return Ok(false);
    }
    let keep_alive = keep_alive && response.sending != Sending::WholeThenClose;
    let length = response.body.len();
    buffer.clear();
    write!(
        buffer,
        "HTTP/1.1 {} {}\r\n",
        response.status,
        reason(response.status)
    )?;
    if !response.content_type.is_empty() {
        write!(buffer, "Content-Type: {}\r\n", response.content_type)?;
    }
    write!(buffer, "Content-Length: {length}\r\n")?;
    for (name, value) in &response.headers {
        write!(buffer, "{name}: {value}\r\n")?;
    }
    buffer.extend_from_slice(if keep_alive {
        b"\r\n"
    } else {
        b"Connection: close\r\n\r\n"
    });
    if head_only {
        stream.write_all(buffer)?;
        return Ok(keep_alive);
    }
    match response.sending {
        Sending::Whole | Sending::WholeThenClose => {
            write_payload(stream, shared, buffer, &response.body, length)?
        }
        Sending::HalfThenClose => {
            write_payload(stream, shared, buffer, &response.body, length / 2)?;
            return Ok(false);
        }
        Sending::Dripping => {
            stream.write_all(buffer)?;
            for at in 0..length {
                if !shared.stop.sleep(Duration::from_millis(100)) {
                    return Ok(false);
                }
                stream.write_all(&[response.body.head().get(at as usize).copied().unwrap_or(0)])?;
            }
        }
        Sending::Nothing => return Ok(false),
    }
    Ok(keep_alive)
}

/// Writes the buffered head and the first `length` bytes of the payload.
fn write_payload(
    mut stream: &TcpStream,
    shared: &Shared,
    buffer: &mut Vec<u8>,
    payload: &Payload,
    length: u64,
) -> io::Result<()> {
    let known = payload.head();
    let known = &known[..known.len().min(length as usize)];
    if known.len() <= ONE_WRITE {
        buffer.extend_from_slice(known);
        stream.write_all(buffer)?;
    } else {
        stream.write_all(buffer)?;
        stream.write_all(known)?;
    }
    let zeros = [0u8; 64 << 10];
    let mut left = length - known.len() as u64;
    while left > 0 && !shared.stop.raised() {
        let piece = left.min(zeros.len() as u64) as usize;
        stream.write_all(&zeros[..piece])?;
        left -= piece as u64;
    }
    Ok(())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        499 => "Client Closed Request",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Time-out",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

/// First place of `needle` at or after `from` (Horspool: long needles in big uploads are skipped over).
pub(super) fn find(haystack: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    let last = needle.len().checked_sub(1)?;
    let mut skip = [needle.len(); 256];
    for (i, byte) in needle[..last].iter().enumerate() {
        skip[usize::from(*byte)] = last - i;
    }
    let mut at = from;
    while at + last < haystack.len() {
        if &haystack[at..=at + last] == needle {
            return Some(at);
        }
        at += skip[usize::from(haystack[at + last])];
    }
    None
}

#[cfg(test)]
pub(super) mod raw {
    //! A client that hides nothing: one socket, bytes out, bytes in.

    use super::*;

    /// What came back.
    #[derive(Debug)]
    pub struct Got {
        pub status: u16,
        pub headers: Vec<(String, String)>,
        pub body: Vec<u8>,
    }

    impl Got {
        pub fn header(&self, name: &str) -> Option<&str> {
            self.headers
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| v.as_str())
        }

        pub fn text(&self) -> String {
            String::from_utf8_lossy(&self.body).into_owned()
        }

        pub fn json(&self) -> serde_json::Value {
            serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {}", self.text()))
        }
    }

    pub fn connect(url: &str) -> TcpStream {
        let address = url
            .trim_start_matches("http://")
            .split('/')
            .next()
            .expect("host");
        let stream = TcpStream::connect(address).expect("connects");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("timeout");
        stream
    }

    /// Sends one request on an open connection and reads one answer; `None` when it was closed instead.
    pub fn exchange(
        mut stream: &TcpStream,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Got> {
        let mut out = format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        out.push_str("\r\n");
        let mut out = out.into_bytes();
        out.extend_from_slice(body);
        // A server may close before it has read everything; what counts is what it answered.
        let _ = stream.write_all(&out);
        read_answer(stream, method == "HEAD")
    }

    pub fn read_answer(mut stream: &TcpStream, head_only: bool) -> Option<Got> {
        let mut bytes = Vec::new();
        let (status, headers, head_len) = loop {
            let mut piece = [0u8; 4096];
            let got = stream.read(&mut piece).unwrap_or(0);
            if got == 0 {
                return None;
            }
            bytes.extend_from_slice(&piece[..got]);
            let mut slots = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Response::new(&mut slots);
            if let httparse::Status::Complete(n) = parsed.parse(&bytes).expect("a head") {
                let headers = parsed.headers.iter();
                let headers: Vec<_> = headers
                    .map(|h| {
                        (
                            h.name.to_owned(),
                            String::from_utf8_lossy(h.value).into_owned(),
                        )
                    })
                    .collect();
                break (parsed.code.expect("code"), headers, n);
            }
        };
        let length = headers
            .iter()
            .find(|(n, _)| n == "Content-Length")
            .map_or(0, |(_, v)| v.parse().expect("n"));
        let mut body = bytes.split_off(head_len);
        if !head_only && body.len() < length {
            let left = (length - body.len()) as u64;
            let _ = stream.take(left).read_to_end(&mut body);
        }
        Some(Got {
            status,
            headers,
            body,
        })
    }

    /// One request on a connection of its own.
    pub fn call(url: &str, method: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Got> {
        let rest = url.trim_start_matches("http://");
        let target = rest.find('/').map_or("/", |at| &rest[at..]);
        exchange(&connect(url), method, target, headers, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> Server {
        let handler = |request: &Request| {
            let mut body =
                format!("{} {} {:?} ", request.method, request.path, request.query).into_bytes();
            body.extend_from_slice(&request.body);
            Response::new(200, "text/plain", body)
        };
        Server::start("echo", Stop::default(), Arc::new(handler)).expect("starts")
    }

    #[test]
    fn one_connection_serves_many_requests_and_both_are_counted() {
        let server = echo();
        let stream = raw::connect(&server.url());
        for i in 0..3 {
            let got = raw::exchange(
                &stream,
                "POST",
                &format!("/a?n={i}&t=x%20y+z"),
                &[],
                b"body",
            )
            .expect("answer");
            assert_eq!(
                got.text(),
                format!("POST /a [(\"n\", \"{i}\"), (\"t\", \"x y z\")] body")
            );
        }
        assert_eq!((server.connections(), server.requests()), (1, 3));
    }

    #[test]
    fn pipelined_requests_are_answered_in_order() {
        let server = echo();
        let mut stream = raw::connect(&server.url());
        stream
            .write_all(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\nConnection: close\r\n\r\n")
            .expect("writes");
        let mut all = String::new();
        stream.read_to_string(&mut all).expect("reads");
        let (one, two) = (
            all.find("GET /1").expect("first"),
            all.find("GET /2").expect("second"),
        );
        assert!(one < two, "{all}");
    }

    #[test]
    fn a_chunked_body_is_put_together_and_a_chunk_extension_is_refused() {
        let server = echo();
        let mut stream = raw::connect(&server.url());
        let head = b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream
            .write_all(&[head.as_slice(), b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"].concat())
            .expect("writes");
        assert!(
            raw::read_answer(&stream, false)
                .expect("answer")
                .text()
                .ends_with(" abc0123456789")
        );
        stream
            .write_all(&[head.as_slice(), b"3;x=1\r\nabc\r\n0\r\n\r\n"].concat())
            .expect("writes");
        let refused = raw::read_answer(&stream, false).expect("answer");
        assert_eq!((refused.status, refused.body.len()), (400, 0));
    }

    #[test]
    fn a_head_request_gets_the_length_without_the_body() {
        let server = echo();
        let stream = raw::connect(&server.url());
        let got = raw::exchange(&stream, "HEAD", "/h", &[], b"").expect("answer");
        assert_eq!(got.header("Content-Length"), Some("11"));
        assert!(got.body.is_empty(), "{got:?}");
        let next = raw::exchange(&stream, "GET", "/next", &[], b"")
            .expect("the connection is still in step");
        assert!(next.text().starts_with("GET /next"));
    }

    #[test]
    fn a_body_over_the_limit_is_answered_before_it_is_read() {
        struct Small;
        impl Handler for Small {
            fn body_limit(&self) -> u64 {
                10
            }
            fn answer(&self, _: &Request) -> Response {
                Response::new(200, "", "")
            }
        }
        let server = Server::start("small", Stop::default(), Arc::new(Small)).expect("starts");
        let mut stream = raw::connect(&server.url());
        stream
            .write_all(b"POST / HTTP/1.1\r\nContent-Length: 11\r\n\r\n")
            .expect("writes");
        assert_eq!(
            raw::read_answer(&stream, false).expect("answer").status,
            413
        );
    }

    #[test]
    fn half_an_answer_announces_all_of_it() {
        let handler = |_: &Request| Response {
            sending: Sending::HalfThenClose,
            ..Response::new(200, "text/plain", vec![b'x'; 1000])
        };
        let server = Server::start("half", Stop::default(), Arc::new(handler)).expect("starts");
        let got = raw::call(&server.url(), "GET", &[], b"").expect("answer");
        assert_eq!(
            (got.header("Content-Length"), got.body.len()),
            (Some("1000"), 500)
        );
    }

    #[test]
    fn dropping_a_server_ends_connections_and_waits() {
        let stop = Stop::default();
        let for_handler = stop.clone();
        let handler = move |_: &Request| {
            for_handler.sleep(Duration::from_secs(60));
            Response::new(200, "", "late")
        };
        let server = Server::start("slow", stop, Arc::new(handler)).expect("starts");
        let mut waiting = raw::connect(&server.url());
        waiting
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .expect("writes");
        while server.requests() == 0 {
            std::thread::yield_now();
        }
        let began = Instant::now();
        drop(server);
        raw::read_answer(&waiting, false);
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn find_agrees_with_the_plain_search() {
        let hay = b"--xx--x--xxy\r\n--xxy--";
        for needle in [
            b"--xxy".as_slice(),
            b"x",
            b"\r\n--",
            b"zz",
            b"--xx--x--xxy\r\n--xxy--",
        ] {
            let plain = hay.windows(needle.len()).position(|w| w == needle);
            assert_eq!(find(hay, needle, 0), plain, "{needle:?}");
        }
    }
}
