//! Our own TCP transport below ureq, for four reasons. It knows how many bytes of the current request
//! the kernel took, which is the only certain ground for "nothing was sent". It can be read without
//! waiting, by which `idle` learns what came on an idle connection: ureq's own probe takes the session tickets
//! of TLS 1.3 for garbage and drops a good connection. It sends head and body in one write, with time limits set again
//! only when they changed (together a sixth less CPU a request with TLS). And it keeps the time limits: for
//! limits of a request's own ureq copies its settings twice a request, and for TLS builds them anew
//! (hundreds of root certificates read from disk) for each connection.

use super::Service;
use super::resolver::CachingResolver;
use rustix::net::RecvFlags;
use std::cell::Cell;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, ShutdownHandle,
    Transport,
};
use ureq::{Error, Timeout};

thread_local! {
    static TRACE: Trace = const {
        Trace {
            service: Cell::new(Service::Fal),
            limits: Cell::new(None),
            connect_until: Cell::new(None),
            opening: Cell::new(false),
            ready: Cell::new(false),
            sent: Cell::new(0),
            received: Cell::new(0),
            looks: Cell::new(false),
        }
    };
}

/// Time limits of an exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The end of all of it.
    pub(super) until: Instant,
    /// The look-up; then TCP and TLS together.
    pub(super) connect: Duration,
    /// The longest silence of the peer.
    pub(super) stall: Option<Duration>,
}

/// What the current exchange of this thread may take and what it did on the wire. ureq runs a request
/// wholly on the calling thread, and its errors do not tell a failed handshake from a lost answer.
pub(super) struct Trace {
    service: Cell<Service>,
    limits: Cell<Option<Limits>>,
    /// While one is under way: when it has to be over.
    connect_until: Cell<Option<Instant>>,
    /// A new connection was begun.
    opening: Cell<bool>,
    /// It is connected, TLS included.
    ready: Cell<bool>,
    /// Bytes the kernel took; from zero again once a new connection is ready.
    sent: Cell<u64>,
    received: Cell<u64>,
    /// Only what is there is read, for no exchange.
    looks: Cell<bool>,
}

impl Trace {
    /// A new exchange of this thread begins.
    pub(super) fn begin(service: Service, limits: Limits) {
        TRACE.with(|trace| {
            trace.service.set(service);
            trace.limits.set(Some(limits));
            trace.connect_until.set(None);
            trace.opening.set(false);
            trace.ready.set(false);
            trace.sent.set(0);
            trace.received.set(0);
            trace.looks.set(false);
        });
    }

    /// Whether all is silent on an idle connection: its peer has neither closed it nor said anything that nobody
    /// asked for. What TLS has to say to itself is read on the way: only then is it known to be no more than that.
    pub(super) fn is_silent(transport: &mut impl Transport) -> bool {
        TRACE.with(|trace| trace.looks.set(true));
        let came = transport.await_input(NextTimeout::default());
        TRACE.with(|trace| trace.looks.set(false));
        matches!(came, Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// How long a look-up may take.
    pub(super) fn look_up_limit(now: Instant) -> Duration {
        let limits = TRACE.with(|trace| trace.limits.get());
        limits.map_or(Duration::ZERO, |limits| {
            limits
                .connect
                .min(limits.until.saturating_duration_since(now))
        })
    }

    /// A new connection is begun, of this service; when it has to be ready.
    fn connects(now: Instant) -> (Service, Instant) {
        TRACE.with(|trace| {
            trace.opening.set(true);
            trace.ready.set(false);
            let limits = trace.limits.get();
            let until = limits.map_or(now, |limits| limits.until.min(now + limits.connect));
            trace.connect_until.set(Some(until));
            (trace.service.get(), until)
        })
    }

    /// When what is under way has to be over, and what is said if it is not. Outside of an exchange
    /// nothing may wait.
    fn end(now: Instant) -> (Instant, Timeout) {
        TRACE.with(
            |trace| match (trace.connect_until.get(), trace.limits.get()) {
                (Some(until), _) => (until, Timeout::Connect),
                (None, Some(limits)) => (limits.until, Timeout::Global),
                (None, None) => (now, Timeout::Global),
            },
        )
    }

    fn longest_silence() -> Option<Duration> {
        TRACE.with(|trace| trace.limits.get())?.stall
    }

    /// Certain: not one byte of the request left this machine.
    pub(super) fn nothing_sent() -> bool {
        TRACE.with(|trace| trace.sent.get() == 0 || (trace.opening.get() && !trace.ready.get()))
    }

    /// A new connection was begun and did not become ready.
    pub(super) fn not_connected() -> bool {
        TRACE.with(|trace| trace.opening.get() && !trace.ready.get())
    }

    /// A kept connection was used and not one byte came back.
    pub(super) fn met_a_closed_one() -> bool {
        TRACE.with(|trace| !trace.opening.get() && trace.received.get() == 0)
    }
}

/// Last link of the chain: the connection is ready, so what is sent from now on is the request.
#[derive(Debug)]
pub(super) struct Ready;

impl<In: Transport> Connector<In> for Ready {
    type Out = In;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<In>, Error> {
        TRACE.with(|trace| {
            trace.ready.set(chained.is_some());
            trace.connect_until.set(None);
            trace.sent.set(0);
            trace.received.set(0);
        });
        Ok(chained)
    }
}

/// Opens TCP connections.
pub(super) struct Sockets {
    pub(super) resolver: CachingResolver,
    pub(super) closed: Arc<AtomicBool>,
    pub(super) opened: Arc<[AtomicU64; 3]>,
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sockets")
    }
}

impl<In: Transport> Connector<In> for Sockets {
    type Out = Either<In, Socket>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if let Some(chained) = chained {
            return Ok(Some(Either::A(chained)));
        }
        let addrs = self.resolver.resolve(details.uri)?;
        let (service, until) = Trace::connects(Instant::now());
        let stream = Arc::new(self.open(&addrs, until)?);
        self.opened[service as usize].fetch_add(1, Ordering::Relaxed);
        stream.set_nodelay(true)?;
        // Two steps: coercing Weak<TcpStream> inside the call would need its type spelled out.
        let handle: Weak<TcpStream> = Arc::downgrade(&stream);
        (details.register_shutdown)(handle as Weak<dyn ShutdownHandle>)?;
        let config = details.config;
        Ok(Some(Either::B(Socket {
            stream,
            buffers: Corked {
                inner: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
                pending: 0,
            },
            read_limit: None,
            write_limit: None,
            ended: false,
            cut: None,
        })))
    }
}

impl Sockets {
    /// Tries the addresses in order. Each but the last gets half of what is left, so that one dead
    /// address (IPv6 without a route that says so) does not use up the time of the others.
    fn open(&self, addrs: &[SocketAddr], until: Instant) -> Result<TcpStream, Error> {
        let mut last = Error::HostNotFound;
        for (place, addr) in addrs.iter().enumerate() {
            if self.closed.load(Ordering::SeqCst) {
                return Err(io::Error::from(io::ErrorKind::NotConnected).into());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout(Timeout::Connect));
            }
            let share = if place + 1 == addrs.len() {
                left
            } else {
                left / 2
            };
            last = match TcpStream::connect_timeout(addr, share.max(Duration::from_millis(1))) {
                Ok(stream) => return Ok(stream),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    Error::Timeout(Timeout::Connect)
                }
                Err(error) => Error::Io(error),
            };
        }
        Err(last)
    }
}

/// Output that is collected until the peer's answer is waited for.
#[derive(Debug)]
struct Corked {
    inner: LazyBuffers,
    pending: usize,
}

/// A peer that takes no buffer of ours for so long is gone, however much time a large upload has.
const TAKES_NOTHING: Duration = Duration::from_secs(30);
/// With less room than this left, what is pending is sent.
const MIN_ROOM: usize = 2 << 10;

impl Buffers for Corked {
    fn output(&mut self) -> &mut [u8] {
        &mut self.inner.output()[self.pending..]
    }

    fn input(&self) -> &[u8] {
        self.inner.input()
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.inner.input_append_buf()
    }

    fn input_appended(&mut self, amount: usize) {
        self.inner.input_appended(amount);
    }

    fn input_consume(&mut self, amount: usize) {
        self.inner.input_consume(amount);
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        let (tmp, output) = self.inner.tmp_and_output();
        (tmp, &mut output[self.pending..])
    }

    fn can_use_input(&self) -> bool {
        self.inner.can_use_input()
    }
}

/// One TCP connection.
pub(super) struct Socket {
    /// Shared (weakly) with ureq's shutdown, which may end it while this thread reads.
    stream: Arc<TcpStream>,
    buffers: Corked,
    read_limit: Option<Duration>,
    write_limit: Option<Duration>,
    ended: bool,
    /// The peer takes no more. It may have answered before it closed: a body that is too long for it, say.
    cut: Option<io::Error>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Socket")
    }
}

impl Socket {
    fn flush(&mut self) -> Result<(), Error> {
        let amount = std::mem::take(&mut self.buffers.pending);
        if amount == 0 || self.cut.is_some() {
            return Ok(());
        }
        let mut left = Left::new(Some(TAKES_NOTHING))?;
        let mut rest = &self.buffers.inner.output()[..amount];
        while !rest.is_empty() {
            if let Some(limit) = left.to_set(self.write_limit) {
                self.stream.set_write_timeout(Some(limit))?;
                self.write_limit = Some(limit);
            }
            match (&*self.stream).write(rest) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(n) => {
                    TRACE.with(|trace| trace.sent.set(trace.sent.get() + n as u64));
                    rest = &rest[n..];
                }
                Err(error) if is_closed(&error) => {
                    (self.cut, self.ended) = (Some(error), true);
                    return Ok(());
                }
                Err(error) => left.after(error)?,
            }
        }
        Ok(())
    }

    /// After a write that failed: what was answered before it, else that failure.
    fn last_words(&mut self) -> Result<bool, Error> {
        match self.look() {
            Ok(true) => Ok(true),
            Ok(false) | Err(_) => {
                let why = self
                    .cut
                    .as_ref()
                    .map_or(io::ErrorKind::BrokenPipe, io::Error::kind);
                Err(io::Error::from(why).into())
            }
        }
    }

    /// Reads what is there.
    fn look(&mut self) -> Result<bool, Error> {
        let free = self.buffers.input_append_buf();
        let amount = rustix::net::recv(&self.stream, free, RecvFlags::DONTWAIT);
        let (amount, _) = amount.map_err(io::Error::from)?;
        self.buffers.input_appended(amount);
        self.ended |= amount == 0;
        Ok(amount > 0)
    }
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    /// Only notes that there is more to send: ureq always reads after writing, TLS handshakes too.
    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        self.buffers.pending += amount;
        if self.buffers.output().len() < MIN_ROOM {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        if TRACE.with(|trace| trace.looks.get()) {
            return self.look();
        }
        self.flush()?;
        if self.cut.is_some() {
            return self.last_words();
        }
        let mut left = Left::new(Trace::longest_silence())?;
        let amount = loop {
            if let Some(limit) = left.to_set(self.read_limit) {
                self.stream.set_read_timeout(Some(limit))?;
                self.read_limit = Some(limit);
            }
            match (&*self.stream).read(self.buffers.input_append_buf()) {
                Ok(amount) => break amount,
                Err(error) => left.after(error)?,
            }
        };
        self.buffers.input_appended(amount);
        self.ended |= amount == 0;
        TRACE.with(|trace| trace.received.set(trace.received.get() + amount as u64));
        Ok(amount > 0)
    }

    /// Asked when a connection is given back. What has come since is looked for when it is taken out.
    fn is_open(&mut self) -> bool {
        !self.ended
    }
}

/// What is left of the time for one read or write. Setting a socket's own limit costs a system call, and
/// exchanges of different lengths take turns on a connection: a limit that is set already will do unless it
/// is more than an eighth too long, or so short that waking up for it would cost more.
struct Left {
    limit: Duration,
    until: Instant,
    /// What has ended when it is over.
    reason: Timeout,
}

impl Left {
    fn new(silence: Option<Duration>) -> Result<Left, Error> {
        let now = Instant::now();
        let (mut until, mut reason) = Trace::end(now);
        if until <= now {
            return Err(Error::Timeout(reason));
        }
        if let Some(silence) = silence
            && now + silence < until
        {
            (until, reason) = (now + silence, Timeout::PerRead);
        }
        let limit = (until - now).max(Duration::from_millis(1));
        Ok(Left {
            limit,
            until,
            reason,
        })
    }

    /// What the socket's limit has to be now, if `set` will not do.
    fn to_set(&self, set: Option<Duration>) -> Option<Duration> {
        (!fits(set, self.limit)).then_some(self.limit)
    }

    /// Whether to go on after an error: it was a signal, or a limit shorter than ours.
    fn after(&mut self, error: io::Error) -> Result<(), Error> {
        if error.kind() != io::ErrorKind::Interrupted && !is_timeout(&error) {
            return Err(error.into());
        }
        let now = Instant::now();
        if self.until <= now {
            return Err(Error::Timeout(self.reason));
        }
        self.limit = (self.until - now).max(Duration::from_millis(1));
        Ok(())
    }
}

/// Whether a limit that is set will do for the one that is wanted.
fn fits(set: Option<Duration>, wanted: Duration) -> bool {
    set.is_some_and(|set| set <= super::longest(wanted) && set >= wanted / 16)
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_is_set_again_only_when_it_no_longer_fits() {
        let ms = Duration::from_millis;
        for (set, wanted, fit) in [
            (Some(ms(1000)), ms(999), true),
            (Some(ms(1000)), ms(889), true),
            (Some(ms(1000)), ms(800), false),
            (Some(ms(1000)), ms(1001), true),
            (Some(ms(1000)), ms(16_000), true),
            (Some(ms(1000)), ms(16_100), false),
            (None, ms(5), false),
        ] {
            assert_eq!(fits(set, wanted), fit, "{set:?} for {wanted:?}");
        }
    }
}
