//! Connections that wait for their next request. ureq's own pool compares the hosts of all idle connections
//! with each other, twice a request and under its lock: a twentieth of a job's CPU with 32 threads. So ureq
//! is told to keep none, and what it lets go of comes back here: it asks whether a connection is open as the
//! last thing before it puts it away, and a connection that was asked and not used since is fit for another
//! request. Any other one is closed when ureq drops it, as ever.

use super::socket::Trace;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use ureq::Error;
use ureq::http::Uri;
use ureq::http::uri::Scheme;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// Idle connections older than this are not used again: the gateways of fal and Telegram close theirs
/// sooner or later, and a close that crosses a submit on the wire makes its outcome unknown.
const IDLE_AGE: Duration = Duration::from_secs(60);

/// A connection and where it leads.
struct Kept<T> {
    transport: T,
    tls: bool,
    authority: Box<str>,
    /// When it was last given back.
    since: Instant,
}

impl<T> Kept<T> {
    fn leads_to(&self, uri: &Uri) -> bool {
        self.tls == (uri.scheme() == Some(&Scheme::HTTPS))
            && uri
                .authority()
                .is_some_and(|to| *self.authority == *to.as_str())
    }

    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= IDLE_AGE
    }
}

/// All idle connections in the order in which they were given back. Of one place there are never more than were
/// in use there at once, since one is opened only where none is idle.
struct Shelf<T> {
    kept: Mutex<VecDeque<Box<Kept<T>>>>,
    most: usize,
}

impl<T: Transport> Shelf<T> {
    fn new(most: usize) -> Arc<Shelf<T>> {
        Arc::new(Shelf {
            kept: Mutex::default(),
            most,
        })
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Box<Kept<T>>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that leads there and is open and silent, the last one used: so those that a burst left over grow old.
    fn take(&self, uri: &Uri, now: Instant) -> Option<Box<Kept<T>>> {
        loop {
            let mut one = {
                let mut kept = self.kept();
                let at = kept.iter().rposition(|one| one.leads_to(uri))?;
                kept.remove(at)?
            };
            // Not under the lock: it asks the socket.
            if !one.is_old(now) && Trace::is_silent(&mut one.transport) {
                return Some(one);
            }
        }
    }

    fn put(&self, mut one: Box<Kept<T>>, now: Instant) {
        one.since = now;
        let mut gone = Vec::new(); // closed once the lock is free
        let mut kept = self.kept();
        while kept.len() >= self.most || kept.front().is_some_and(|one| one.is_old(now)) {
            gone.extend(kept.pop_front());
        }
        kept.push_back(one);
        drop(kept);
    }
}

/// Gives an idle connection, or opens one.
pub(super) struct Reusing<C: Connector> {
    open: C,
    shelf: Arc<Shelf<C::Out>>,
}

impl<C: Connector> Reusing<C> {
    /// `open` opens; at most `most` are kept.
    pub(super) fn new(open: C, most: usize) -> Reusing<C> {
        Reusing {
            open,
            shelf: Shelf::new(most),
        }
    }
}

impl<C: Connector> fmt::Debug for Reusing<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reusing")
    }
}

impl<C: Connector> Connector for Reusing<C> {
    type Out = Lent<C::Out>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        let now = Instant::now();
        let kept = match self.shelf.take(details.uri, now) {
            Some(kept) => kept,
            None => {
                let Some(transport) = self.open.connect(details, chained)? else {
                    return Ok(None);
                };
                Box::new(Kept {
                    transport,
                    tls: details.needs_tls(),
                    // A copy: the URL that it is a part of may hold a secret.
                    authority: details.uri.authority().map_or("", |to| to.as_str()).into(),
                    since: now,
                })
            }
        };
        Ok(Some(Lent {
            kept: Some(kept),
            shelf: self.shelf.clone(),
            fit: false,
        }))
    }
}

/// A connection that serves a request, and goes back when it is dropped if it is fit for another.
pub(super) struct Lent<T: Transport> {
    /// `None` only while it is dropped.
    kept: Option<Box<Kept<T>>>,
    shelf: Arc<Shelf<T>>,
    /// It was found open and has not been used since.
    fit: bool,
}

impl<T: Transport> Lent<T> {
    fn used(&mut self) -> &mut T {
        self.fit = false;
        let kept = self.kept.as_mut();
        &mut kept.expect("taken away only when dropped").transport
    }
}

impl<T: Transport> fmt::Debug for Lent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lent")
    }
}

impl<T: Transport> Transport for Lent<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.used().buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.used().transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.used().await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.fit = self.used().is_open();
        self.fit
    }

    fn is_tls(&self) -> bool {
        self.kept
            .as_ref()
            .is_some_and(|kept| kept.transport.is_tls())
    }
}

impl<T: Transport> Drop for Lent<T> {
    fn drop(&mut self) {
        if self.fit
            && let Some(kept) = self.kept.take()
        {
            self.shelf.put(kept, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};
    use ureq::unversioned::transport::LazyBuffers;

    /// Knows its number, and is open until it is said not to be.
    struct Fake {
        number: u32,
        open: Arc<AtomicBool>,
        buffers: LazyBuffers,
    }

    impl fmt::Debug for Fake {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{}", self.number)
        }
    }

    impl Transport for Fake {
        fn buffers(&mut self) -> &mut dyn Buffers {
            &mut self.buffers
        }

        fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
            Ok(())
        }

        fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
            match self.open.load(Ordering::Relaxed) {
                true => Err(io::Error::from(io::ErrorKind::WouldBlock).into()),
                false => Ok(false),
            }
        }

        fn is_open(&mut self) -> bool {
            self.open.load(Ordering::Relaxed)
        }
    }

    /// Gives one back that leads there.
    fn put(shelf: &Shelf<Fake>, url: &str, number: u32, now: Instant) -> Arc<AtomicBool> {
        let open = Arc::new(AtomicBool::new(true));
        let transport = Fake {
            number,
            open: open.clone(),
            buffers: LazyBuffers::new(16, 16),
        };
        let (scheme, authority) = url.split_once("://").unwrap();
        let kept = Kept {
            transport,
            tls: scheme == "https",
            authority: authority.into(),
            since: now,
        };
        shelf.put(Box::new(kept), now);
        open
    }

    fn take(shelf: &Shelf<Fake>, url: &'static str, now: Instant) -> Option<u32> {
        let kept = shelf.take(&Uri::from_static(url), now);
        kept.map(|kept| kept.transport.number)
    }

    #[test]
    fn the_last_one_of_its_own_place_is_given() {
        let (shelf, now) = (Shelf::new(9), Instant::now());
        for (number, url) in [
            (1, "https://a"),
            (2, "https://a"),
            (3, "http://a"),
            (4, "https://a:444"),
            (5, "https://b"),
        ] {
            put(&shelf, url, number, now);
        }
        for (url, number) in [
            ("https://a/x?y", Some(2)),
            ("https://a/", Some(1)),
            ("https://a/", None),
            ("https://u@b/", None),
            ("http://a/", Some(3)),
            ("https://a:444/", Some(4)),
            ("https://b/", Some(5)),
        ] {
            assert_eq!(take(&shelf, url, now), number, "{url}");
        }
    }

    #[test]
    fn what_is_old_or_closed_is_not_given_and_the_oldest_makes_room() {
        let (shelf, now) = (Shelf::new(2), Instant::now());
        let later = now + Duration::from_secs(1);
        put(&shelf, "https://a", 1, now);
        put(&shelf, "https://a", 2, now);
        let open = put(&shelf, "https://a", 3, later);
        assert_eq!(shelf.kept().len(), 2);
        open.store(false, Ordering::Relaxed);
        assert_eq!(take(&shelf, "https://a/", later), Some(2));
        assert_eq!(take(&shelf, "https://a/", later), None);

        put(&shelf, "https://a", 4, now);
        assert_eq!(take(&shelf, "https://a/", now + IDLE_AGE), None);
        put(&shelf, "https://a", 5, now);
        put(&shelf, "https://b", 6, now + IDLE_AGE);
        assert_eq!(shelf.kept().len(), 1);
    }

    #[test]
    fn only_what_was_found_open_and_not_used_since_comes_back() {
        let (shelf, now) = (Shelf::new(2), Instant::now());
        let lend = || Lent {
            kept: shelf.take(&Uri::from_static("https://a/"), now),
            shelf: shelf.clone(),
            fit: false,
        };
        for (number, after, back) in [
            (
                1,
                (|lent| assert!(lent.is_open())) as fn(&mut Lent<Fake>),
                true,
            ),
            (2, |_| {}, false),
            (
                3,
                |lent| {
                    lent.is_open();
                    lent.buffers();
                },
                false,
            ),
            (
                4,
                |lent| {
                    lent.kept
                        .as_ref()
                        .unwrap()
                        .transport
                        .open
                        .store(false, Ordering::Relaxed);
                    lent.is_open();
                },
                false,
            ),
        ] {
            put(&shelf, "https://a", number, now);
            let mut lent = lend();
            after(&mut lent);
            drop(lent);
            assert_eq!(take(&shelf, "https://a/", now).is_some(), back, "{number}");
        }
    }
}
