//! HTTP for those who watch: one thread, a few connections at a time, one request each. It knows bytes
//! and limits; what a page says is the caller's affair. Slow, broken and greedy guests cost others
//! nothing: no read or write blocks, and each guest goes after two seconds at the latest. Nothing here has
//! to be ended: the thread goes with the process and keeps no stop waiting.

use httparse::Status;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// From a connection to its end.
const LONGEST: Duration = Duration::from_secs(2);
/// Bytes of a request.
const REQUEST: usize = 8 << 10;
/// Header lines of a request.
const HEADERS: usize = 64;
/// Connections at a time; one more sends the oldest away.
const GUESTS: usize = 16;
/// After an accept that failed: out of files, most likely.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// What a page says.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Page {
    fn error(status: u16) -> Page {
        Page {
            status,
            text: format!("{}\n", reason(status)),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let (status, text) = (self.status, &self.text);
        let allow = if status == 405 { "Allow: GET\r\n" } else { "" };
        format!(
            "HTTP/1.1 {status} {}\r\n{allow}Content-Type: text/plain; charset=utf-8\r\n\
             Cache-Control: no-store\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            reason(status),
            text.len()
        )
        .into_bytes()
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

struct Guest {
    stream: TcpStream,
    request: Vec<u8>,
    answered: bool,
    over: bool,
    until: Instant,
}

/// Answers for as long as the process lives. `page`: what a path says, `None` where there is nothing. The
/// listener does not block.
pub(crate) fn serve(listener: &TcpListener, page: &dyn Fn(&str) -> Option<Page>) {
    let mut guests: Vec<Guest> = Vec::new();
    loop {
        let now = Instant::now();
        guests.retain(|guest| !guest.over && guest.until > now);
        let wait = guests
            .first() // the oldest
            .map(|guest| guest.until.saturating_duration_since(now))
            .and_then(|wait| Timespec::try_from(wait).ok());
        let mut watched = vec![PollFd::new(listener, PollFlags::IN)];
        watched.extend((guests.iter()).map(|guest| PollFd::new(&guest.stream, PollFlags::IN)));
        if poll(&mut watched, wait.as_ref()).is_err() {
            continue; // a signal
        }
        let said: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (guest, _) in guests.iter_mut().zip(&said[1..]).filter(|(_, said)| **said) {
            guest.hear(page);
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
    /// Reads what has come and answers once the request is whole. What comes after it is thrown away: a
    /// connection that is closed with something unread in it may lose the answer.
    fn hear(&mut self, page: &dyn Fn(&str) -> Option<Page>) {
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
            // It is far smaller than what an empty socket takes without blocking.
            let sent = self.stream.write_all(&page.bytes());
            self.over = sent
                .and_then(|()| self.stream.shutdown(Shutdown::Write))
                .is_err();
        }
    }
}

/// The answer to what has come of a request so far; `None`: there is more to come.
fn answer(request: &[u8], page: &dyn Fn(&str) -> Option<Page>) -> Option<Page> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(Status::Partial) if request.len() < REQUEST => None,
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => Some(Page::error(431)),
        Err(_) => Some(Page::error(400)),
        Ok(Status::Complete(_)) if parsed.method != Some("GET") => Some(Page::error(405)),
        Ok(Status::Complete(_)) => {
            let target = parsed.path.unwrap_or_default();
            let path = target.split('?').next().unwrap_or_default();
            Some(page(path).unwrap_or_else(|| Page::error(404)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: &str) -> Option<u16> {
        let page = |path: &str| {
            (path == "/healthz").then(|| Page {
                status: 200,
                text: "ok\n".to_owned(),
            })
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
        let page = Page {
            status: 503,
            text: "stopping\n".to_owned(),
        };
        assert_eq!(
            String::from_utf8(page.bytes()).unwrap(),
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Cache-Control: no-store\r\nContent-Length: 9\r\nConnection: close\r\n\r\nstopping\n"
        );
        let refused = String::from_utf8(Page::error(405).bytes()).unwrap();
        assert!(refused.contains("\r\nAllow: GET\r\n"), "{refused}");
    }
}
