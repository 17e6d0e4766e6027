//! A TCP proxy that misbehaves on demand: it holds what flows in one direction, cuts connections, goes
//! silent, and refuses new ones. For Redis and for HTTP alike: it knows bytes only.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Which way bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Answers,
}

/// The proxy; everything ends when it is dropped.
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    target: Mutex<SocketAddr>,
    stop: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    links: Vec<Link>,
    next: u64,
    refusing: bool,
    listening: bool,
    /// Everything in these directions waits, on old and new connections.
    stalled: [bool; 2],
    /// A piece with this text waits, and all behind it on its connection.
    watch: Option<(Flow, Vec<u8>)>,
    /// Not only the first such piece, but the first of each connection.
    watch_on: bool,
    /// What answers say in place of something as long.
    instead: Option<(Vec<u8>, Vec<u8>)>,
    /// Connections with something held by `watch`.
    held: Vec<u64>,
}

struct Link {
    number: u64,
    client: TcpStream,
    server: TcpStream,
    cut: bool,
    /// Nothing flows in either direction any more, and nothing is closed.
    frozen: bool,
}

impl Proxy {
    /// Listens on a loopback port and passes everything to `target` (`host:port`, or a URL's part of it).
    pub fn to(target: &str) -> Proxy {
        Proxy::on(Ipv4Addr::LOCALHOST, target)
    }

    /// The same on another address of this machine.
    pub fn on(own: Ipv4Addr, target: &str) -> Proxy {
        let listener = TcpListener::bind((own, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: Mutex::new(address_in(target)),
            stop: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        shared.lock().listening = true;
        let acceptor = {
            let shared = shared.clone();
            std::thread::spawn(move || shared.accept(listener, address))
        };
        Proxy {
            shared,
            address,
            acceptor: Some(acceptor),
        }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// New connections lead elsewhere from here on, as after a failover.
    pub fn retarget(&self, target: &str) {
        *self.shared.target.lock().unwrap() = address_in(target);
    }

    /// Holds everything in one direction until [`Proxy::flow`].
    pub fn stall(&self, direction: Flow) {
        self.shared.lock().stalled[direction as usize] = true;
    }

    /// Lets everything flow again that [`Proxy::stall`] held.
    pub fn flow(&self) {
        self.shared.lock().stalled = [false; 2];
        self.shared.changed.notify_all();
    }

    /// The connections of this moment go silent for good and stay open; new ones work: a black hole.
    pub fn freeze_open(&self) {
        for link in &mut self.shared.lock().links {
            link.frozen = true;
        }
    }

    /// Holds the first piece that contains `text`, with all behind it on that connection.
    pub fn hold_with(&self, direction: Flow, text: &str) {
        let mut state = self.shared.lock();
        state.watch = Some((direction, text.as_bytes().to_vec()));
        state.watch_on = false;
    }

    /// From here on answers say `instead` where the server says `text`. As long, since Redis counts bytes.
    pub fn say_instead(&self, text: &str, instead: &str) {
        assert_eq!(text.len(), instead.len());
        self.shared.lock().instead = Some((text.into(), instead.into()));
    }

    /// Holds each connection from its first piece on that contains `text`.
    pub fn hold_each_with(&self, direction: Flow, text: &str) {
        let mut state = self.shared.lock();
        state.watch = Some((direction, text.as_bytes().to_vec()));
        state.watch_on = true;
    }

    /// Waits until something is held by [`Proxy::hold_with`].
    #[track_caller]
    pub fn wait_held(&self, within: Duration) {
        let until = Instant::now() + within;
        let mut state = self.shared.lock();
        while state.held.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nothing was held within {within:?}");
            state = self.shared.wait(state, left);
        }
    }

    /// Lets go what [`Proxy::hold_with`] held.
    pub fn pass_held(&self) {
        let mut state = self.shared.lock();
        state.watch = None;
        state.held.clear();
        self.shared.changed.notify_all();
    }

    /// Cuts the connections that hold something: it never arrives.
    pub fn cut_held(&self) {
        let mut state = self.shared.lock();
        state.watch = None;
        let held = std::mem::take(&mut state.held);
        for link in &mut state.links {
            if held.contains(&link.number) {
                link.cut();
            }
        }
        self.shared.changed.notify_all();
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        let mut state = self.shared.lock();
        state.links.iter_mut().for_each(Link::cut);
        self.shared.changed.notify_all();
    }

    /// New connections are refused from here on (the port is closed), or taken again.
    pub fn refuse(&self, refuse: bool) {
        let mut state = self.shared.lock();
        state.refusing = refuse;
        while state.listening == refuse {
            state = self.shared.wait(state, Duration::from_secs(1));
        }
    }
}

fn address_in(target: &str) -> SocketAddr {
    let address = target.rsplit('/').next().unwrap_or(target);
    address.parse().unwrap()
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.cut();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Link {
    fn cut(&mut self) {
        self.cut = true;
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
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

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn accept(self: &Arc<Self>, listener: TcpListener, address: SocketAddr) {
        let mut listener = Some(listener);
        while !self.stopping() {
            let refusing = self.lock().refusing;
            if refusing {
                listener = None;
            } else if listener.is_none() {
                listener = TcpListener::bind(address).ok();
            }
            if let Some(open) = &listener {
                open.set_nonblocking(true).unwrap();
                if let Ok((client, _)) = open.accept() {
                    self.link(client);
                    continue;
                }
            }
            let mut state = self.lock();
            state.listening = listener.is_some();
            self.changed.notify_all();
            drop(self.wait(state, Duration::from_millis(1)));
        }
    }

    fn link(self: &Arc<Self>, client: TcpStream) {
        let target = *self.target.lock().unwrap();
        let Ok(server) = TcpStream::connect(target) else {
            return; // dropping the client resets it
        };
        client.set_nonblocking(false).unwrap();
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        let copy = |stream: &TcpStream| stream.try_clone().unwrap();
        state.links.push(Link {
            number,
            client: copy(&client),
            server: copy(&server),
            cut: false,
            frozen: false,
        });
        drop(state);
        for (from, to, direction) in [
            (copy(&client), copy(&server), Flow::Requests),
            (server, client, Flow::Answers),
        ] {
            let shared = self.clone();
            std::thread::spawn(move || shared.pump(number, from, to, direction));
        }
    }

    fn pump(&self, number: u64, mut from: TcpStream, mut to: TcpStream, direction: Flow) {
        let mut piece = vec![0; 64 << 10];
        let mut tail = Vec::new();
        while let Ok(got) = from.read(&mut piece) {
            if got == 0 || !self.may_pass(number, direction, &mut tail, &piece[..got]) {
                break;
            }
            if direction == Flow::Answers {
                self.replace(&mut piece[..got]);
            }
            if to.write_all(&piece[..got]).is_err() {
                break;
            }
        }
        let mut state = self.lock();
        if let Some(link) = state.links.iter_mut().find(|link| link.number == number) {
            link.cut();
        }
        state.links.retain(|link| link.number != number);
        self.changed.notify_all();
    }

    /// What is cut in two by the end of a piece stays as it is: an answer of a few hundred bytes is not.
    fn replace(&self, piece: &mut [u8]) {
        let state = self.lock();
        let Some((text, instead)) = &state.instead else {
            return;
        };
        for at in 0..piece.len() {
            if piece[at..].starts_with(text) {
                piece[at..at + instead.len()].copy_from_slice(instead);
            }
        }
    }

    /// Waits as long as this piece must not pass; false when its connection was cut meanwhile.
    fn may_pass(&self, number: u64, direction: Flow, tail: &mut Vec<u8>, piece: &[u8]) -> bool {
        let mut state = self.lock();
        tail.extend_from_slice(piece);
        let watched = state.watch.as_ref().is_some_and(|(way, text)| {
            *way == direction && tail.windows(text.len()).any(|window| window == text)
        });
        let keep = tail.len().saturating_sub(256);
        tail.drain(..keep);
        if watched {
            if !state.watch_on {
                state.watch = None;
            }
            state.held.push(number);
            self.changed.notify_all();
        }
        loop {
            let Some(link) = state.links.iter().find(|link| link.number == number) else {
                return false;
            };
            if link.cut || self.stopping() {
                return false;
            }
            let waits = link.frozen
                || state.stalled[direction as usize]
                || (watched && state.held.contains(&number));
            if !waits {
                return true;
            }
            state = self.wait(state, Duration::from_millis(50));
        }
    }
}
