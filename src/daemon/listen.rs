//! HTTP for those who watch: one thread, a few connections at a time, one request each. It knows bytes
//! and limits; what a page says is the caller's affair. Slow, broken and greedy guests cost others
//! nothing: no read or write blocks, and each guest goes after two seconds without a whole request, ten after
//! it, or when the next one needs his place. Nothing here has to be ended: the thread goes with the process
//! and keeps no stop waiting.

use httparse::Status;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// From a connection to the end of its request.
const LONGEST: Duration = Duration::from_secs(2);
/// From there to the answer's last byte: a page over a mobile line takes its time.
const ANSWERED_IN: Duration = Duration::from_secs(10);
/// Bytes of a request.
const REQUEST: usize = 8 << 10;
/// Header lines of a request.
const HEADERS: usize = 64;
/// Connections at a time; one more sends the oldest away.
const GUESTS: usize = 16;
/// After an accept that failed: out of files, most likely.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// What plain words are sent as.
const TEXT: &str = "text/plain; charset=utf-8";

/// What somebody wants to see.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// Without the query.
    pub(crate) path: &'a str,
    headers: &'a [httparse::Header<'a>],
}

impl<'a> Asked<'a> {
    /// Values of a header, each time it stands there; what is no text is empty.
    pub(crate) fn header(&self, name: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        let named = (self.headers.iter()).filter(move |one| one.name.eq_ignore_ascii_case(name));
        named.map(|one| std::str::from_utf8(one.value).unwrap_or_default())
    }
}

/// What a page says.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    /// Beside those that every answer has; neither name nor value holds a line break.
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) text: String,
}

impl Page {
    /// Plain words.
    pub(crate) fn text(status: u16, text: String) -> Page {
        Page {
            status,
            content_type: TEXT,
            headers: Vec::new(),
            text,
        }
    }

    /// What is left of it for those who may only know whether all is well.
    pub(crate) fn status_only(self) -> Page {
        let word = if self.status == 200 { "ok" } else { "not ok" };
        Page::text(self.status, format!("{word}\n"))
    }

    fn error(status: u16) -> Page {
        Page {
            headers: match status {
                405 => vec![("Allow", "GET")],
                _ => Vec::new(),
            },
            ..Page::text(status, format!("{}\n", reason(status)))
        }
    }

    /// No browser guesses another type, and no other site's page may embed what is said here.
    fn bytes(&self) -> Vec<u8> {
        let (status, text) = (self.status, &self.text);
        let own = self.headers.iter();
        let own: String = own
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        format!(
            "HTTP/1.1 {status} {}\r\n{own}Content-Type: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
            reason(status),
            self.content_type,
            text.len()
        )
        .into_bytes()
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

struct Guest {
    stream: TcpStream,
    request: Vec<u8>,
    /// What of the answer has not gone out yet.
    answer: Vec<u8>,
    answered: bool,
    over: bool,
    until: Instant,
}

/// Answers for as long as the process lives. `page`: what is said to a request, `None` where there is
/// nothing. The listener does not block.
pub(crate) fn serve(listener: &TcpListener, page: &dyn Fn(&Asked<'_>) -> Option<Page>) {
    let mut guests: Vec<Guest> = Vec::new();
    loop {
        let now = Instant::now();
        guests.retain(|guest| !guest.over && guest.until > now);
        let wait = guests
            .iter()
            .map(|guest| guest.until.saturating_duration_since(now))
            .min()
            .and_then(|wait| Timespec::try_from(wait).ok());
        let mut watched = vec![PollFd::new(listener, PollFlags::IN)];
        watched.extend((guests.iter()).map(|guest| PollFd::new(&guest.stream, guest.waits_for())));
        if poll(&mut watched, wait.as_ref()).is_err() {
            continue; // a signal
        }
        let said: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (guest, _) in guests.iter_mut().zip(&said[1..]).filter(|(_, said)| **said) {
            if guest.answer.is_empty() {
                guest.hear(page);
            } else {
                guest.tell();
            }
        }
        if said[0] {
            accept(listener, &mut guests);
        }
    }
}

fn accept(listener: &TcpListener, guests: &mut Vec<Guest>) {
    match listener.accept() {
        Ok((stream, _)) => {
            if stream.set_nonblocking(true).is_err() {
                return;
            }
            if guests.len() >= GUESTS {
                guests.remove(0);
            }
            guests.push(Guest {
                stream,
                request: Vec::new(),
                answer: Vec::new(),
                answered: false,
                over: false,
                until: Instant::now() + LONGEST,
            });
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(_) => std::thread::sleep(AFTER_ERROR), // this thread's own time
    }
}

impl Guest {
    fn waits_for(&self) -> PollFlags {
        if self.answer.is_empty() {
            PollFlags::IN
        } else {
            PollFlags::OUT
        }
    }

    /// Reads what has come and answers once the request is whole. What comes after it is thrown away: a
    /// connection that is closed with something unread in it may lose the answer.
    fn hear(&mut self, page: &dyn Fn(&Asked<'_>) -> Option<Page>) {
        let mut piece = [0; 2048];
        let got = match self.stream.read(&mut piece) {
            Ok(0) => {
                self.over = true;
                return;
            }
            Ok(got) => got,
            Err(error) => {
                self.over = error.kind() != ErrorKind::WouldBlock;
                return;
            }
        };
        if self.answered {
            return;
        }
        self.request.extend_from_slice(&piece[..got]);
        if let Some(page) = answer(&self.request, page) {
            self.answered = true;
            self.request = Vec::new();
            self.answer = page.bytes();
            self.until = Instant::now() + ANSWERED_IN;
            self.tell();
        }
    }

    /// Sends what the socket takes at this moment.
    fn tell(&mut self) {
        while !self.answer.is_empty() {
            match self.stream.write(&self.answer) {
                Ok(sent) => drop(self.answer.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.over = true;
                    return;
                }
            }
        }
        self.answer = Vec::new();
        self.until = Instant::now() + LONGEST;
        self.over = self.stream.shutdown(Shutdown::Write).is_err();
    }
}

/// The answer to what has come of a request so far; `None`: there is more to come.
pub(crate) fn answer(request: &[u8], page: &dyn Fn(&Asked<'_>) -> Option<Page>) -> Option<Page> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(Status::Partial) if request.len() < REQUEST => None,
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => Some(Page::error(431)),
        Err(_) => Some(Page::error(400)),
        Ok(Status::Complete(_)) if parsed.method != Some("GET") => Some(Page::error(405)),
        Ok(Status::Complete(_)) => {
            let target = parsed.path.unwrap_or_default();
            let asked = Asked {
                path: target.split('?').next().unwrap_or_default(),
                headers: parsed.headers,
            };
            // A crash, which its hook has logged, is one guest's: the thread has others.
            let page = catch_unwind(AssertUnwindSafe(|| page(&asked)));
            Some(page.map_or_else(
                |_| Page::error(500),
                |page| page.unwrap_or_else(|| Page::error(404)),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: &str) -> Option<u16> {
        let page = |asked: &Asked<'_>| {
            assert_ne!(asked.path, "/crash");
            (asked.path == "/healthz").then(|| Page::text(200, "ok\n".to_owned()))
        };
        answer(request.as_bytes(), &page).map(|page| page.status)
    }

    #[test]
    fn a_request_is_answered_once_it_is_whole() {
        let whole = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 0..whole.len() {
            assert_eq!(status(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(status(whole), Some(200));
        let long = format!("GET /healthz HTTP/1.1\r\nA: {}\r\n", "a".repeat(REQUEST));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS + 1));
        for (request, expected) in [
            ("GET /healthz?verbose=1 HTTP/1.0\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\n\r\n", 404),
            ("GET /metrics HTTP/1.1\r\n\r\n", 404),
            ("GET /healthz/ HTTP/1.1\r\n\r\n", 404),
            ("POST /healthz HTTP/1.1\r\nContent-Length: 9\r\n\r\n", 405),
            ("HEAD /healthz HTTP/1.1\r\n\r\n", 405),
            ("\x16\x03\x01\x02\x00\x01", 400),
            ("GET /healthz SPDY/9\r\n\r\n", 400),
            (&long, 431),
            (&many, 431),
        ] {
            assert_eq!(status(request), Some(expected), "{request:.40}");
        }
    }

    #[test]
    fn an_answer_says_its_length_and_that_it_is_the_last() {
        let page = Page::text(503, "stopping\n".to_owned());
        assert_eq!(
            String::from_utf8(page.bytes()).unwrap(),
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
             Cross-Origin-Resource-Policy: same-origin\r\nContent-Length: 9\r\n\
             Connection: close\r\n\r\nstopping\n"
        );
        let refused = String::from_utf8(Page::error(405).bytes()).unwrap();
        assert!(refused.contains("\r\nAllow: GET\r\n"), "{refused}");
    }

    #[test]
    fn a_page_larger_than_the_socket_takes_at_once_arrives_whole() {
        let (listener, address) = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            (listener, address)
        };
        // More than both ends of a connection on loopback hold.
        let size = 24 << 20;
        std::thread::spawn(move || {
            serve(&listener, &|asked| match asked.path {
                "/large" => Some(Page::text(200, "x".repeat(size))),
                _ => Some(Page::text(200, "small\n".to_owned())),
            });
        });
        let ask = |path: &str| {
            let mut stream = TcpStream::connect(address).unwrap();
            (stream.set_read_timeout(Some(Duration::from_secs(20)))).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\n\r\n").unwrap();
            stream
        };
        let mut large = ask("/large");
        // Nobody waits for the one who does not read yet.
        for _ in 0..3 {
            let mut said = String::new();
            ask("/small").read_to_string(&mut said).unwrap();
            assert!(said.ends_with("\r\n\r\nsmall\n"), "{said}");
        }
        let mut said = Vec::new();
        large.read_to_end(&mut said).unwrap();
        let body = said
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap()
            + 4;
        assert_eq!(said.len() - body, size);
    }

    #[test]
    fn a_page_that_crashes_costs_its_guest_the_page() {
        assert_eq!(status("GET /crash HTTP/1.1\r\n\r\n"), Some(500));
    }
}
