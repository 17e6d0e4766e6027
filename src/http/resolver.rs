//! Names to addresses, remembered. ureq asks its resolver for each request, also on kept connections, and
//! its own one starts a thread each time when there is a time limit. So it is given one that knows nothing
//! ([`Unasked`]), and who opens a connection asks here. An address is fresh for a minute; after that it is
//! served while one thread looks it up again, until that has failed for an hour: so a DNS server that is slow or
//! away stops nothing that worked before, however long ago a kept connection last needed it. One that nobody needed
//! for long may have moved: it waits a second for the new answer, and is served if none comes.

use super::socket::Trace;
use crossbeam_channel::{Receiver, Sender};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Error, Timeout, config::Config};

/// How long an answer is used without asking again.
const FRESH: Duration = Duration::from_secs(60);
/// How old it may be to be used before the new answer is there; how long ago asking again failed, for that to be the
/// same trouble as now.
const OLD: Duration = Duration::from_secs(600);
/// How long an older one waits for that.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it is used from the first time on that asking again failed.
const STALE: Duration = Duration::from_secs(3600);
/// Pause after a failed refresh.
const RETRY: Duration = Duration::from_secs(5);
/// ureq takes no more addresses than this.
const MOST: usize = 16;
/// Names that are remembered. A result may name any host below one that is allowed.
const NAMES: usize = 256;
/// Threads that look up names at a time of which no address is known.
const FIRST: usize = 8;

type LookUp = dyn Fn(&str) -> Option<Vec<IpAddr>> + Send + Sync;
type Clock = dyn Fn() -> Instant + Send + Sync;
type Work = Box<dyn FnOnce() + Send>;

/// The resolver; a clone shares its memory. The lock is held for the memory only, never in a look-up.
#[derive(Clone)]
pub(super) struct CachingResolver(Arc<Inner>);

struct Inner {
    look_up: Box<LookUp>,
    clock: Box<Clock>,
    /// Starts a thread of this name.
    spawn: fn(&str, Work) -> io::Result<()>,
    memory: Mutex<Memory>,
    changed: Condvar,
}

#[derive(Default)]
struct Memory {
    names: HashMap<String, Name>,
    /// Feeds the refreshing thread; made with it, on first need.
    refresh: Option<Sender<String>>,
    /// How many threads look up a name each.
    first: usize,
    closed: bool,
}

/// What is known of one host name.
#[derive(Default)]
struct Name {
    found: Option<Found>,
    /// When its addresses were last wanted.
    used: Option<Instant>,
    /// A look-up is under way: nobody starts a second one.
    looking: bool,
    /// Look-ups finished, so that a waiter can tell that its one has failed.
    finished: u64,
}

struct Found {
    addrs: Vec<IpAddr>,
    at: Instant,
    ask_again: Instant,
    /// When asking again failed first and last, since it was found.
    failed: Option<(Instant, Instant)>,
}

impl Found {
    /// Since when asking again fails. What failed long ago says nothing of now: nobody has asked since.
    fn failing(&self, now: Instant) -> Option<Instant> {
        let (first, last) = self.failed?;
        (now < last + OLD).then_some(first)
    }

    fn serves(&self, now: Instant) -> bool {
        self.failing(now).is_none_or(|since| now < since + STALE)
    }

    fn fails(&mut self, now: Instant) {
        self.ask_again = now + RETRY;
        self.failed = Some((self.failing(now).unwrap_or(now), now));
    }
}

impl Memory {
    /// Whether this name cannot be had without a thread that looks it up.
    fn needs_thread(&self, host: &str, now: Instant) -> bool {
        let served = |name: &Name| name.found.as_ref().is_some_and(|found| found.serves(now));
        let name = self.names.get(host);
        name.is_none_or(|name| !name.looking && !served(name))
    }

    /// Makes room for a name that is new: the one goes that nobody has wanted for longest.
    fn meet(&mut self, host: &str) {
        if self.names.contains_key(host) {
            return;
        }
        if self.names.len() >= NAMES {
            let idle = self.names.iter().filter(|(_, name)| !name.looking);
            let oldest = idle.min_by_key(|(_, name)| name.used);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                self.names.remove(&oldest);
            }
        }
        self.names.insert(host.to_owned(), Name::default());
    }
}

impl CachingResolver {
    pub(super) fn new() -> CachingResolver {
        let look_up = |host: &str| {
            let addrs = (host, 0).to_socket_addrs().ok()?;
            Some(addrs.map(|addr| addr.ip()).collect())
        };
        CachingResolver::with(Box::new(look_up), Box::new(Instant::now))
    }

    fn with(look_up: Box<LookUp>, clock: Box<Clock>) -> CachingResolver {
        CachingResolver(Arc::new(Inner {
            look_up,
            clock,
            spawn: |name, work| {
                let thread = std::thread::Builder::new().name(name.into());
                thread.spawn(work).map(drop)
            },
            memory: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// A connect failed: the address may have moved, so the next use looks it up again (in the background).
    pub(super) fn suspect(&self, host: &str) {
        if let Some(Name {
            found: Some(found), ..
        }) = self.0.lock().names.get_mut(host)
        {
            let soon = (self.0.clock)().max(found.at + RETRY);
            found.ask_again = found.ask_again.min(soon);
        }
    }

    /// Ends all waiting, now and later.
    pub(super) fn close(&self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }

    /// Addresses of a name. Only a name never found, or looked for in vain for an hour, is waited for; one
    /// found long ago a little.
    fn addrs(&self, host: &str, limit: Duration) -> Result<Vec<IpAddr>, Error> {
        let now = (self.0.clock)();
        let mut memory = self.0.lock();
        let until = Instant::now() + limit;
        while !memory.closed && memory.first >= FIRST && memory.needs_thread(host, now) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout(Timeout::Resolve));
            }
            let waited = self.0.changed.wait_timeout(memory, left);
            memory = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if memory.closed {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        }
        memory.meet(host);
        let Memory {
            names,
            refresh,
            first,
            ..
        } = &mut *memory;
        let Some(name) = names.get_mut(host) else {
            return Err(Error::HostNotFound);
        };
        name.used = Some(now);
        let known = name.found.as_ref().filter(|found| found.serves(now));
        let old = known.map(|found| found.addrs.clone());
        if let Some(found) = known
            && (found.failing(now).is_some() || now < found.at + OLD)
        {
            if now >= found.ask_again && !name.looking {
                let sender = refresh.get_or_insert_with(|| Inner::refresher(&self.0));
                name.looking = sender.send(host.to_owned()).is_ok();
            }
            return old.ok_or(Error::HostNotFound);
        }
        let until = old
            .as_ref()
            .map_or(until, |_| until.min(Instant::now() + PATIENCE));
        let before = name.finished;
        if !name.looking {
            // A thread of its own, since getaddrinfo knows no time limit; one a name, and only here.
            let (inner, asked) = (self.0.clone(), host.to_owned());
            let work = Box::new(move || inner.ask(&asked, 1));
            if *first >= FIRST {
                return old.ok_or(Error::HostNotFound);
            }
            if let Err(error) = (self.0.spawn)("dns-first", work) {
                // Not the name's fault, nor that of whoever set it.
                let why = format!("no thread for the look-up: {error}");
                return old.ok_or(Error::Other(why.into()));
            }
            name.looking = true;
            *first += 1;
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return old.ok_or(Error::Timeout(Timeout::Resolve));
            }
            let waited = self.0.changed.wait_timeout(memory, left);
            memory = waited.unwrap_or_else(PoisonError::into_inner).0;
            if memory.closed {
                return Err(io::Error::from(io::ErrorKind::NotConnected).into());
            }
            match memory.names.get(host) {
                Some(name) if name.finished == before => {}
                Some(Name {
                    found: Some(found), ..
                }) if found.serves(now) => return Ok(found.addrs.clone()),
                _ => return old.ok_or(Error::HostNotFound),
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One look-up, on whatever thread, and its result into memory. `first`: how many threads end with it.
    fn ask(&self, host: &str, first: usize) {
        let answer = (self.look_up)(host).filter(|addrs| !addrs.is_empty());
        let now = (self.clock)();
        let mut memory = self.lock();
        memory.first = memory.first.saturating_sub(first);
        if let Some(name) = memory.names.get_mut(host) {
            name.looking = false;
            name.finished += 1;
            match (answer, &mut name.found) {
                (Some(mut addrs), found) => {
                    addrs.truncate(MOST);
                    *found = Some(Found {
                        addrs,
                        at: now,
                        ask_again: now + FRESH,
                        failed: None,
                    });
                }
                (None, Some(found)) => found.fails(now),
                (None, None) => {}
            }
        }
        drop(memory);
        self.changed.notify_all();
    }

    /// Starts the one refreshing thread; it ends with the last clone of the resolver.
    fn refresher(inner: &Arc<Inner>) -> Sender<String> {
        let (sender, names): (Sender<String>, Receiver<String>) = crossbeam_channel::unbounded();
        let spawn = inner.spawn;
        let inner: Weak<Inner> = Arc::downgrade(inner);
        let work = Box::new(move || {
            for host in names {
                let Some(inner) = inner.upgrade() else { return };
                inner.ask(&host, 0);
            }
        });
        // Without a thread the channel is closed and `send` fails: the stale address goes on being used.
        let _ = spawn("dns", work);
        sender
    }
}

impl CachingResolver {
    /// Addresses of a URL's host, within the limits of this thread's exchange.
    pub(super) fn resolve(&self, uri: &Uri) -> Result<Vec<SocketAddr>, Error> {
        let default = if uri.scheme_str() == Some("http") {
            80
        } else {
            443
        };
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let port = uri.port_u16().unwrap_or(default);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let limit = Trace::look_up_limit(Instant::now());
        let found = self.addrs(&host.to_ascii_lowercase(), limit)?;
        Ok(found
            .into_iter()
            .map(|ip| SocketAddr::new(ip, port))
            .collect())
    }
}

/// What ureq asks: no address, at no cost.
#[derive(Debug)]
pub(super) struct Unasked;

impl Resolver for Unasked {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

impl fmt::Debug for CachingResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachingResolver")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const LIMIT: Duration = Duration::from_secs(20);

    /// A resolver whose clock is set by hand, whose look-ups are counted, and fail while `away` is set.
    struct Counted {
        resolver: CachingResolver,
        asked: Arc<AtomicU32>,
        away: Arc<AtomicU32>,
        ahead: Arc<Mutex<Duration>>,
    }

    impl Counted {
        fn new() -> Counted {
            let (asked, away) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
            let (count, gone) = (asked.clone(), away.clone());
            let look_up = move |_: &str| {
                count.fetch_add(1, Ordering::SeqCst);
                (gone.load(Ordering::SeqCst) == 0).then(|| vec![ONE])
            };
            let (clock, ahead) = clock();
            Counted {
                resolver: CachingResolver::with(Box::new(look_up), clock),
                asked,
                away,
                ahead,
            }
        }

        fn addrs(&self) -> Result<Vec<IpAddr>, Error> {
            self.resolver.addrs("a.test", LIMIT)
        }

        fn pass(&self, time: Duration) {
            *self.ahead.lock().unwrap() += time;
        }

        fn asked(&self) -> u32 {
            self.asked.load(Ordering::SeqCst)
        }

        fn set_away(&self, away: bool) {
            self.away.store(away.into(), Ordering::SeqCst);
        }

        /// One use that asks again, to the end of its look-up.
        fn serves_and_asks(&self) {
            let finished = || self.resolver.0.lock().names["a.test"].finished;
            let before = finished();
            assert_eq!(self.addrs().unwrap(), [ONE]);
            eventually("it is asked for again", || finished() > before);
        }
    }

    fn clock() -> (Box<Clock>, Arc<Mutex<Duration>>) {
        let ahead = Arc::new(Mutex::new(Duration::ZERO));
        let (began, passed) = (Instant::now(), ahead.clone());
        let clock = move || began + *passed.lock().unwrap();
        (Box::new(clock), ahead)
    }

    fn eventually(what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_fresh_name_is_looked_up_once() {
        let names = Counted::new();
        for _ in 0..10 {
            assert_eq!(names.addrs().unwrap(), [ONE]);
        }
        assert_eq!(names.asked(), 1);
    }

    #[test]
    fn a_stale_name_is_served_while_its_refresh_fails_for_an_hour() {
        let names = Counted::new();
        names.addrs().unwrap();
        names.set_away(true);
        names.pass(FRESH);
        let first = (STALE.as_secs() / 300) as u32;
        for _ in 0..first {
            names.serves_and_asks();
            names.pass(Duration::from_secs(300));
        }
        let gone = names.addrs();
        assert!(matches!(gone, Err(Error::HostNotFound)), "{gone:?}");
        names.set_away(false);
        assert_eq!(names.addrs().unwrap(), [ONE]);
        assert_eq!(names.asked(), 1 + first + 2);
    }

    #[test]
    fn two_outages_hours_apart_are_two() {
        let names = Counted::new();
        names.addrs().unwrap();
        names.set_away(true);
        names.pass(FRESH);
        names.serves_and_asks();
        // Nobody needs it meanwhile, and then there is trouble again: it has not failed all the time.
        names.pass(5 * STALE);
        names.serves_and_asks();
        names.pass(RETRY);
        names.serves_and_asks();
        names.set_away(false);
        names.pass(RETRY);
        names.serves_and_asks();
        assert_eq!(names.asked(), 5);
    }

    #[test]
    fn a_name_that_kept_connections_did_not_need_for_hours_outlives_an_outage_too() {
        let names = Counted::new();
        names.addrs().unwrap();
        names.set_away(true);
        names.pass(5 * STALE);
        names.serves_and_asks();
        assert_eq!(names.asked(), 2);
    }

    #[test]
    fn a_name_that_moved_while_nobody_needed_it_is_found_where_it_is() {
        let moved = Arc::new(AtomicU32::new(0));
        let (place, silent) = (moved.clone(), Arc::new(Mutex::new(())));
        let hangs = silent.clone();
        let look_up = move |_: &str| {
            drop(hangs.lock());
            let last = 1 + place.load(Ordering::SeqCst) as u8;
            Some(vec![IpAddr::from([10, 0, 0, last])])
        };
        let (clock, ahead) = clock();
        let resolver = CachingResolver::with(Box::new(look_up), clock);
        assert_eq!(resolver.addrs("a.test", LIMIT).unwrap(), [ONE]);
        moved.store(1, Ordering::SeqCst);
        let hangs = silent.lock().unwrap();
        *ahead.lock().unwrap() += 5 * STALE;
        let old = resolver.addrs("a.test", LIMIT);
        assert_eq!(old.unwrap(), [ONE], "no answer for {PATIENCE:?}");
        drop(hangs);
        let two = IpAddr::from([10, 0, 0, 2]);
        eventually("it is found where it is", || {
            resolver.addrs("a.test", LIMIT).unwrap() == [two]
        });
    }

    #[test]
    fn a_first_look_up_that_hangs_costs_its_time_limit_and_one_thread() {
        let (asked, wait) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(())));
        let held = wait.lock().unwrap();
        let (count, gate) = (asked.clone(), wait.clone());
        let look_up = move |_: &str| {
            count.fetch_add(1, Ordering::SeqCst);
            drop(gate.lock());
            Some(vec![ONE])
        };
        let resolver = CachingResolver::with(Box::new(look_up), clock().0);
        for _ in 0..3 {
            let result = resolver.addrs("slow.test", Duration::from_millis(20));
            assert!(
                matches!(result, Err(Error::Timeout(Timeout::Resolve))),
                "{result:?}"
            );
        }
        drop(held);
        assert_eq!(resolver.addrs("slow.test", LIMIT).unwrap(), [ONE]);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failed_first_look_up_is_an_error_and_asked_again_next_time() {
        let names = Counted::new();
        names.set_away(true);
        let missing = names.addrs();
        assert!(matches!(missing, Err(Error::HostNotFound)), "{missing:?}");
        names.set_away(false);
        assert_eq!(names.addrs().unwrap(), [ONE]);
        assert_eq!(names.asked(), 2);
    }

    #[test]
    fn a_look_up_for_which_there_is_no_thread_says_so_and_blames_no_name() {
        let mut names = Counted::new();
        let spawn = |names: &mut Counted, with| {
            Arc::get_mut(&mut names.resolver.0).expect("ours").spawn = with
        };
        let works = names.resolver.0.spawn;
        spawn(&mut names, |_, _| Err(io::ErrorKind::WouldBlock.into()));
        let none = names.addrs().expect_err("nobody looks").to_string();
        assert!(none.contains("no thread for the look-up: "), "{none}");
        // An address that is known, however old, is used.
        spawn(&mut names, works);
        assert_eq!(names.addrs().unwrap(), [ONE]);
        eventually("its thread ends", || {
            Arc::get_mut(&mut names.resolver.0).is_some()
        });
        spawn(&mut names, |_, _| Err(io::ErrorKind::WouldBlock.into()));
        names.pass(OLD);
        assert_eq!(names.addrs().unwrap(), [ONE]);
        assert_eq!(names.asked(), 1);
    }

    #[test]
    fn closing_ends_a_look_up_that_is_waited_for() {
        let wait = Arc::new(Mutex::new(()));
        let held = wait.lock().unwrap();
        let gate = wait.clone();
        let look_up = move |_: &str| {
            drop(gate.lock());
            None
        };
        let resolver = CachingResolver::with(Box::new(look_up), clock().0);
        let waiting = resolver.clone();
        let thread = std::thread::spawn(move || waiting.addrs("slow.test", LIMIT));
        resolver.close();
        assert!(thread.join().unwrap().is_err());
        drop(held);
    }

    #[test]
    fn of_thousands_of_names_the_latest_used_are_kept() {
        let names = Counted::new();
        names.addrs().unwrap();
        for number in 0..2000 {
            names.pass(Duration::from_millis(1));
            names
                .resolver
                .addrs(&format!("{number}.test"), LIMIT)
                .unwrap();
            names.pass(Duration::from_millis(1));
            names.addrs().unwrap();
        }
        assert_eq!(names.asked(), 2001);
        assert!(names.resolver.0.lock().names.len() <= 256);
    }

    #[test]
    fn look_ups_that_hang_take_a_few_threads_and_no_known_name_waits() {
        let (asked, wait) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(())));
        let (count, gate) = (asked.clone(), wait.clone());
        let look_up = move |host: &str| {
            if host != "a.test" {
                count.fetch_add(1, Ordering::SeqCst);
                drop(gate.lock());
            }
            Some(vec![ONE])
        };
        let (clock, ahead) = clock();
        let resolver = CachingResolver::with(Box::new(look_up), clock);
        assert_eq!(resolver.addrs("a.test", LIMIT).unwrap(), [ONE]);
        let held = wait.lock().unwrap();
        let short = Duration::from_millis(1);
        for number in 0..500 {
            assert!(resolver.addrs(&format!("{number}.test"), short).is_err());
        }
        assert!(asked.load(Ordering::SeqCst) <= 8);
        assert!(resolver.0.lock().names.len() <= 256);
        for age in [FRESH, OLD] {
            *ahead.lock().unwrap() += age;
            let began = Instant::now();
            assert_eq!(resolver.addrs("a.test", LIMIT).unwrap(), [ONE]);
            assert!(began.elapsed() < LIMIT, "{age:?}");
        }
        // As soon as they are over there is a thread for the next.
        drop(held);
        eventually("a new name is found", || {
            resolver.addrs("b.test", LIMIT).is_ok()
        });
    }
}
