//! A counting tap: proxies in front of Redis, fal and Telegram that understand what passes. Each write of
//! the protocol and each exchange over HTTP gets the next number and a label (`claim`, `submit`,
//! `sendphoto`), so that a test can stop the worker's world at exactly one of them: the request held back
//! before it arrives, or its answer held back after it was carried out.
//!
//! What time alone brings has no number (beats, pings, claims and takes that find nothing, the second and
//! later looks at one status), so that two runs of the same jobs count the same.

use super::World;
use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// On which side of a write or an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The request never arrived.
    Before,
    /// It was carried out, and its answer never seen.
    After,
}

/// What to stop at.
#[derive(Clone, Debug)]
pub enum At {
    /// The write or exchange of this number, counted from 1.
    Number(usize),
    /// The first with this label.
    Label(&'static str),
}

/// What is held now.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its number.
    pub number: usize,
    /// Its label.
    pub label: String,
}

/// The proxies; everything ends when it is dropped.
pub struct Tap {
    shared: Arc<Shared>,
    addresses: [SocketAddr; 5],
    acceptors: Vec<JoinHandle<()>>,
}

/// What stands behind a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Redis,
    FalQueue,
    FalRun,
    Files,
    Telegram,
}

const SERVICES: [Service; 5] = [
    Service::Redis,
    Service::FalQueue,
    Service::FalRun,
    Service::Files,
    Service::Telegram,
];

struct Shared {
    stop: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    /// Names of the scripts by their SHA-1.
    scripts: BTreeMap<String, String>,
    /// Looks whether a claim or a take has something to find.
    eyes: Mutex<redis::Connection>,
}

#[derive(Default)]
struct State {
    counting: bool,
    labels: Vec<String>,
    wanted: Option<(At, Side, bool)>,
    held: Option<Held>,
    /// Nothing passes any more, in no direction and on no connection.
    frozen: bool,
    /// Connections of an earlier epoch are dead.
    epoch: u64,
    links: Vec<(TcpStream, TcpStream)>,
    statuses: HashSet<String>,
    /// Beats wait.
    beats_stalled: bool,
}

/// One request as it came, and how it counts.
struct Request {
    bytes: Vec<u8>,
    label: Option<String>,
    /// It blocks until there is something: it counts when it brings something, and its request changes
    /// nothing before that.
    blocks: bool,
    /// It says that its instance lives.
    beats: bool,
}

impl Tap {
    /// Stands in front of everything that daemons of this world talk to, and loads the scripts, so that no
    /// call meets a Redis that does not know its script.
    pub fn new(world: &World) -> Tap {
        let sandbox = &world.sandbox;
        let mut eyes = super::connect(&sandbox.redis.url());
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
            scripts: load_scripts(&mut eyes),
            eyes: Mutex::new(eyes),
        });
        let targets = [
            host_port(&sandbox.redis.url()),
            host_port(&sandbox.fal.queue_url()),
            host_port(&sandbox.fal.run_url()),
            host_port(&sandbox.fal.file_host()),
            host_port(&sandbox.telegram.url()),
        ];
        let mut acceptors = Vec::new();
        let addresses = std::array::from_fn(|at| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            let (shared, service, target) = (shared.clone(), SERVICES[at], targets[at]);
            acceptors.push(std::thread::spawn(move || {
                shared.accept(&listener, service, target);
            }));
            address
        });
        Tap {
            shared,
            addresses,
            acceptors,
        }
    }

    /// Daemons that are started from now on talk through the tap, or not.
    pub fn insert(&self, world: &mut World, inserted: bool) {
        let url = |service: Service| {
            let at = SERVICES.iter().position(|other| *other == service)?;
            let scheme = if service == Service::Redis {
                "redis"
            } else {
                "http"
            };
            inserted.then(|| format!("{scheme}://{}", self.addresses[at]))
        };
        world.redis_url = url(Service::Redis);
        world.fal_url = url(Service::FalQueue);
        world.run_url = url(Service::FalRun);
        world.telegram_url = url(Service::Telegram);
    }

    /// `127.0.0.1:PORT` of the file host behind the tap.
    pub fn file_host(&self) -> String {
        self.addresses[3].to_string()
    }

    /// Counts from 1 again, from now on.
    pub fn count(&self) {
        let mut state = self.shared.lock();
        state.counting = true;
        state.labels.clear();
        state.statuses.clear();
    }

    /// Counts no more; gives the label of each number.
    pub fn counted(&self) -> Vec<String> {
        let mut state = self.shared.lock();
        state.counting = false;
        state.labels.clone()
    }

    /// Stops everything at this point: nothing passes any more until [`Tap::cut`] or [`Tap::release`].
    pub fn stop_at(&self, at: At, side: Side) {
        self.shared.lock().wanted = Some((at, side, true));
    }

    /// Holds this one request or answer alone.
    pub fn hold_at(&self, at: At, side: Side) {
        self.shared.lock().wanted = Some((at, side, false));
    }

    /// Beats wait here from now on, or flow again: an instance does not learn that it was taken over.
    pub fn stall_beats(&self, stall: bool) {
        self.shared.lock().beats_stalled = stall;
        self.shared.changed.notify_all();
    }

    /// What is held now.
    pub fn held(&self) -> Option<Held> {
        self.shared.lock().held.clone()
    }

    /// Whether the wanted number was given out, and the answer that is to be held is still on its way.
    pub fn is_near(&self) -> bool {
        let state = self.shared.lock();
        let given = |number: &usize| state.labels.len() >= *number;
        matches!(&state.wanted, Some((At::Number(number), Side::After, _)) if given(number))
    }

    /// Waits until something is held.
    #[track_caller]
    pub fn wait_held(&self, within: Duration) -> Held {
        let until = Instant::now() + within;
        let mut state = self.shared.lock();
        loop {
            if let Some(held) = &state.held {
                return held.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "nothing was held within {within:?}; wanted {:?}, seen {:?}",
                state.wanted,
                state.labels
            );
            state = self.shared.wait(state, left);
        }
    }

    /// Lets go of what is held, and of everything.
    pub fn release(&self) {
        let mut state = self.shared.lock();
        state.wanted = None;
        state.held = None;
        state.frozen = false;
        self.shared.changed.notify_all();
    }

    /// Ends all connections: what is held never arrives.
    pub fn cut(&self) {
        let mut state = self.shared.lock();
        state.epoch += 1;
        state.counting = false;
        for (client, server) in state.links.drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
        drop(state);
        self.release();
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.cut();
        for (acceptor, address) in self.acceptors.drain(..).zip(self.addresses) {
            let _ = TcpStream::connect(address); // wakes it
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, at_most);
        waited.map_or_else(|error| error.into_inner().0, |pair| pair.0)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener, service: Service, target: SocketAddr) {
        for client in listener.incoming() {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else {
                continue; // dropping the client resets it
            };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let mut state = self.lock();
            let epoch = state.epoch;
            let copy = |stream: &TcpStream| stream.try_clone().unwrap();
            state.links.push((copy(&client), copy(&server)));
            drop(state);
            let shared = self.clone();
            std::thread::spawn(move || {
                let _ = shared.serve(service, epoch, &client, &server);
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    }

    /// One request and its answer after the other, until one of the two ends it.
    fn serve(
        &self,
        service: Service,
        epoch: u64,
        mut client: &TcpStream,
        mut server: &TcpStream,
    ) -> Result<()> {
        let mut from_client = BufReader::new(client.try_clone()?);
        let mut from_server = BufReader::new(server.try_clone()?);
        loop {
            let request = match service {
                Service::Redis => self.redis_request(&mut from_client)?,
                _ => self.http_request(service, &mut from_client)?,
            };
            let mut number = match &request.label {
                Some(label) if !request.blocks => self.number(label),
                _ => 0,
            };
            self.pass(epoch, number, Side::Before)?;
            let mut state = self.lock();
            while request.beats && state.beats_stalled && state.epoch == epoch {
                state = self.wait(state, Duration::from_secs(1));
            }
            drop(state);
            server.write_all(&request.bytes)?;
            let answer = match service {
                Service::Redis => resp_value(&mut from_server)?,
                _ => http_message(&mut from_server)?.1,
            };
            let brought = !answer.starts_with(b"*-1") && !answer.starts_with(b"$-1");
            if let (true, true, Some(label)) = (request.blocks, brought, &request.label) {
                number = self.number(label);
            }
            self.pass(epoch, number, Side::After)?;
            client.write_all(&answer)?;
        }
    }

    /// The next number; 0 while nothing is counted.
    fn number(&self, label: &str) -> usize {
        let mut state = self.lock();
        if !state.counting || state.frozen {
            return 0;
        }
        state.labels.push(label.to_owned());
        state.labels.len()
    }

    /// Waits as long as this must not pass; an error when its connection was cut meanwhile.
    fn pass(&self, epoch: u64, number: usize, side: Side) -> Result<()> {
        let mut state = self.lock();
        let label = number.checked_sub(1).map(|at| state.labels[at].clone());
        let found = match (&state.wanted, &label) {
            (Some((at, wanted, _)), Some(label)) if *wanted == side && !state.frozen => match at {
                At::Number(other) => *other == number,
                At::Label(other) => other == label,
            },
            _ => false,
        };
        if found {
            let (_, _, freezes) = state.wanted.take().unwrap();
            state.frozen = freezes;
            state.held = label.map(|label| Held { number, label });
            self.changed.notify_all();
        }
        let mine = |state: &State| {
            found
                && state
                    .held
                    .as_ref()
                    .is_some_and(|held| held.number == number)
        };
        while state.epoch == epoch && (state.frozen || mine(&state)) {
            state = self.wait(state, Duration::from_secs(1));
        }
        if state.epoch == epoch {
            return Ok(());
        }
        Err(Error::from(ErrorKind::ConnectionAborted))
    }

    fn redis_request(&self, from: &mut impl BufRead) -> Result<Request> {
        let bytes = resp_value(from)?;
        let words = words(&bytes);
        let word = |at: usize| String::from_utf8_lossy(words.get(at).copied().unwrap_or(b""));
        let name = word(0).to_ascii_uppercase();
        let blocks = matches!(name.as_str(), "BRPOP" | "BRPOPLPUSH");
        let mut beats = false;
        let label = match name.as_str() {
            "BRPOP" => Some("bell".to_owned()),
            "BRPOPLPUSH" => Some("inbox".to_owned()),
            "SET" | "DEL" => Some(name.to_ascii_lowercase()),
            "EVALSHA" => {
                let label = self.scripts.get(word(1).as_ref()).cloned();
                beats = label.as_deref() == Some("beat");
                let key = |at: usize| word(2 + at).into_owned();
                let finds = match label.as_deref() {
                    Some("beat") => false,
                    Some("claim") => (1..=4).any(|at| self.holds("LLEN", &key(at))),
                    Some("take") => (1..=2).any(|at| self.holds("LLEN", &key(at))),
                    Some("take_back") => self.holds("HLEN", &key(1)) || self.holds("LLEN", &key(7)),
                    _ => true,
                };
                label.filter(|_| finds)
            }
            _ => None,
        };
        Ok(Request {
            bytes,
            label,
            blocks,
            beats,
        })
    }

    fn holds(&self, length: &str, key: &str) -> bool {
        let mut eyes = self.eyes.lock().unwrap_or_else(PoisonError::into_inner);
        redis::cmd(length)
            .arg(key)
            .query::<u64>(&mut eyes)
            .is_ok_and(|length| length > 0)
    }

    fn http_request(&self, service: Service, from: &mut impl BufRead) -> Result<Request> {
        let (first, bytes) = http_message(from)?;
        let mut parts = first.split(' ');
        let (method, target) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let path = target.split('?').next().unwrap_or_default();
        let label = match service {
            Service::FalQueue if method == "POST" => "submit",
            Service::FalQueue if path.ends_with("/status") => "status",
            Service::FalQueue if path.ends_with("/cancel") => "cancel",
            Service::FalQueue => "result",
            Service::FalRun => "direct",
            Service::Files => "download",
            Service::Telegram | Service::Redis => path.rsplit('/').next().unwrap_or_default(),
        };
        // How often a status is asked for is a matter of time; the first look is there in every run.
        let counts = label != "status" || self.lock().statuses.insert(path.to_owned());
        Ok(Request {
            bytes,
            label: counts.then(|| label.to_ascii_lowercase()),
            blocks: false,
            beats: false,
        })
    }
}

/// `host:port` of a URL.
fn host_port(url: &str) -> SocketAddr {
    let behind = url.split("://").last().unwrap_or(url);
    let behind = behind.rsplit('@').next().unwrap_or(behind);
    behind
        .split('/')
        .next()
        .unwrap_or(behind)
        .parse()
        .unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// Loads every script that the store is built with; gives their names by SHA-1.
fn load_scripts(con: &mut redis::Connection) -> BTreeMap<String, String> {
    let rooms = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store");
    let list = std::fs::read_to_string(format!("{rooms}/script.rs")).unwrap();
    let mut scripts = BTreeMap::new();
    // Lines like `save: ["head", "owned", "save"],`.
    for line in list.lines() {
        let Some((name, files)) = line.trim().split_once(": [\"") else {
            continue;
        };
        let files = files.trim_end_matches(['"', ']', ',']);
        let code: String = files
            .split("\", \"")
            .map(|file| {
                let text = std::fs::read_to_string(format!("{rooms}/lua/{file}.lua"));
                let text = text.unwrap_or_else(|error| panic!("{file}.lua: {error}"));
                // Sent without comments and indents, line by line.
                let lines = text.lines().map(str::trim_start);
                let sent = lines.map(|line| if line.starts_with("--") { "" } else { line });
                sent.flat_map(|line| [line, "\n"]).collect::<String>()
            })
            .collect();
        let sha = redis::cmd("SCRIPT")
            .arg("LOAD")
            .arg(code)
            .query::<String>(con);
        scripts.insert(sha.unwrap(), name.to_owned());
    }
    assert!(scripts.len() > 10, "script.rs does not read as it did");
    scripts
}

/// A line with its end.
fn line(from: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(Error::from(ErrorKind::UnexpectedEof));
    }
    Ok(line)
}

fn exactly(from: &mut impl Read, count: usize, into: &mut Vec<u8>) -> Result<()> {
    let got = from.take(count as u64).read_to_end(into)?;
    if got == count {
        return Ok(());
    }
    Err(Error::from(ErrorKind::UnexpectedEof))
}

/// One value of Redis's protocol, a command or an answer, as bytes.
fn resp_value(from: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut missing = 1_i64;
    while missing > 0 {
        missing -= 1;
        let head = line(from)?;
        let length = std::str::from_utf8(&head[1..]).unwrap_or("").trim().parse();
        let length = length.unwrap_or(-1_i64);
        let kind = head[0];
        bytes.extend(head);
        match kind {
            b'$' if length >= 0 => exactly(from, length as usize + 2, &mut bytes)?,
            b'*' => missing += length.max(0),
            _ => {}
        }
    }
    Ok(bytes)
}

/// The words of a command.
fn words(bytes: &[u8]) -> Vec<&[u8]> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        let head = &bytes[at..at + end];
        at += end + 1;
        if head.first() == Some(&b'$') {
            let length = std::str::from_utf8(&head[1..]).unwrap_or("").trim().parse();
            let length = length.unwrap_or(0);
            words.push(&bytes[at..at + length]);
            at += length + 2;
        }
    }
    words
}

/// The first line of a request or an answer, and all its bytes.
fn http_message(from: &mut impl BufRead) -> Result<(String, Vec<u8>)> {
    let first = line(from)?;
    let mut bytes = first.clone();
    let first = String::from_utf8_lossy(&first).trim().to_owned();
    let (mut length, mut chunked) = (None, false);
    loop {
        let header = line(from)?;
        bytes.extend(&header);
        let text = String::from_utf8_lossy(&header).trim().to_ascii_lowercase();
        if text.is_empty() {
            break;
        }
        if let Some(value) = text.strip_prefix("content-length:") {
            length = value.trim().parse::<usize>().ok();
        }
        chunked |= text.starts_with("transfer-encoding:") && text.contains("chunked");
    }
    let answers = first.starts_with("HTTP/");
    if chunked {
        loop {
            let size = line(from)?;
            bytes.extend(&size);
            let text = String::from_utf8_lossy(&size);
            let size = text.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).unwrap_or(0);
            exactly(from, size + 2, &mut bytes)?; // the last is empty, and has no trailers here
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = length {
        exactly(from, length, &mut bytes)?;
    } else if answers && !first.contains(" 204") && !first.contains(" 304") {
        from.read_to_end(&mut bytes)?;
    }
    Ok((first, bytes))
}
