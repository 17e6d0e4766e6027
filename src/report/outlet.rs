//! The end of a line's way: stderr, and whoever reads it there. A reader that stops (a collector that hangs, a
//! terminal held by Ctrl-S) must not stop the jobs, so a line that it does not take in time is dropped and counted.
//!
//! Global state, and why: lines are lost in the logger, which is one for the process, and told from elsewhere.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use rustix::termios::isatty;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long the first line waits for a reader that takes nothing; those behind it wait no more until it reads again.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a pipe that takes anything takes whole (Linux's PIPE_BUF), and a socket too. A terminal may take less.
const CHUNK: usize = 4096;
/// Between two tries where poll says that there is room and there is too little.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Lines lost so far, and how many of these were told.
static LOST: AtomicU64 = AtomicU64::new(0);
static TOLD: AtomicU64 = AtomicU64::new(0);

/// Lines of this process that nobody took.
pub(super) fn lost() -> u64 {
    LOST.load(Relaxed)
}

/// Has `tell` say how many lines were lost since it last could, if stderr is read again.
pub(super) fn tell_lost(tell: impl FnOnce(u64)) {
    let (lost, told) = (lost(), TOLD.load(Relaxed));
    if lost > told && takes(&io::stderr(), Duration::ZERO) {
        TOLD.store(lost, Relaxed);
        tell(lost - told);
    }
}

/// Where lines go, each in one `write`; it never waits for longer than [`PATIENCE`], and never fails for want of a
/// reader.
pub(super) struct Outlet<W> {
    to: W,
    patience: Duration,
    lost: &'static AtomicU64,
    /// The reader takes nothing.
    stuck: bool,
    /// The last line that was begun has no end.
    cut: bool,
}

impl Outlet<Stderr> {
    /// Of this process.
    pub(super) fn stderr() -> Outlet<Stderr> {
        let to = match reopened(io::stderr()) {
            Some(own) => Stderr::Own(own),
            None => Stderr::Shared(io::stderr()),
        };
        Outlet::new(to, PATIENCE, &LOST)
    }
}

/// Where lines of this process go.
pub(super) enum Stderr {
    /// Opened anew, so that no write blocks.
    Own(File),
    /// As whoever started the process gave it: others write there too, so how it blocks is not ours to change.
    Shared(io::Stderr),
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stderr::Own(file) => file.write(bytes),
            Stderr::Shared(stderr) => stderr.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stderr::Own(file) => file.flush(),
            Stderr::Shared(stderr) => stderr.flush(),
        }
    }
}

impl AsFd for Stderr {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stderr::Own(file) => file.as_fd(),
            Stderr::Shared(stderr) => stderr.as_fd(),
        }
    }
}

/// The same terminal or named pipe once more, by a name of its own that does not block: poll says that a terminal has
/// room where it has some, and a write of more would wait for a reader. `None`: it is neither, or is another user's.
fn reopened(shared: impl AsFd) -> Option<File> {
    let shared = shared.as_fd();
    let kind = FileType::from_raw_mode(fstat(shared).ok()?.st_mode);
    if kind != FileType::Fifo && !isatty(shared) {
        return None;
    }
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = File::options();
    options.append(true).custom_flags(flags.bits() as i32);
    options
        .open(format!("/proc/self/fd/{}", shared.as_raw_fd()))
        .ok()
}

impl<W: Write + AsFd> Outlet<W> {
    fn new(to: W, patience: Duration, lost: &'static AtomicU64) -> Outlet<W> {
        Outlet {
            to,
            patience,
            lost,
            stuck: false,
            cut: false,
        }
    }

    /// Writes all of it in pieces that do not block. False: the reader does not take the rest.
    fn pass(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        let mut began = Instant::now();
        while !bytes.is_empty() {
            let patience = match self.stuck {
                true => Duration::ZERO,
                false => self.patience.saturating_sub(began.elapsed()),
            };
            self.stuck = !takes(&self.to, patience);
            if self.stuck {
                return Ok(false);
            }
            match self.to.write(&bytes[..bytes.len().min(CHUNK)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.cut = true;
                    began = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stuck = patience.is_zero();
                    if self.stuck {
                        return Ok(false);
                    }
                    std::thread::sleep(LOOK_AGAIN.min(patience));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl<W: Write + AsFd> Write for Outlet<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if (!self.cut || self.pass(b"\n")?) && self.pass(line)? {
            self.cut = false;
        } else {
            self.lost.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Whether it takes bytes without blocking, or will within so long. What cannot be asked, and what is broken, is left
/// to the write, which says why.
fn takes(to: &impl AsFd, within: Duration) -> bool {
    let mut asked = [PollFd::new(to, PollFlags::OUT)];
    let within = Timespec::try_from(within).expect("a second");
    loop {
        match poll(&mut asked, Some(&within)) {
            Ok(0) => return false,
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, pipe};

    /// More than the tests' patience: a line that blocks is found out by the deadline of whoever runs them.
    const PATIENCE: Duration = Duration::from_millis(50);

    fn outlet() -> (PipeReader, Outlet<PipeWriter>, &'static AtomicU64) {
        let (reader, writer) = pipe().expect("a pipe");
        let lost = Box::leak(Box::new(AtomicU64::new(0)));
        (reader, Outlet::new(writer, PATIENCE, lost), lost)
    }

    /// Writes lines until one is lost. Gives how many were not.
    fn fill(outlet: &mut Outlet<PipeWriter>, lost: &AtomicU64, line: &[u8]) -> usize {
        let before = lost.load(Relaxed);
        (0..)
            .take_while(|_| {
                outlet.write_all(line).expect("a reader is there");
                lost.load(Relaxed) == before
            })
            .count()
    }

    #[test]
    fn a_reader_that_stops_costs_lines_and_one_wait() {
        let (_reader, mut outlet, lost) = outlet();
        let taken = fill(&mut outlet, lost, &[b'x'; 1000]);
        assert!(taken >= 10, "{taken}");
        let began = Instant::now();
        let more: u32 = 1000;
        for _ in 0..more {
            outlet.write_all(b"more\n").expect("no error");
        }
        assert_eq!(lost.load(Relaxed), 1 + u64::from(more));
        assert!(began.elapsed() < PATIENCE * more / 2, "each line waits");
    }

    #[test]
    fn a_terminal_that_nobody_reads_blocks_no_line_of_whatever_length() {
        for length in [100, 150, 200, 500, 5000] {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
            grantpt(&master).expect("ours");
            unlockpt(&master).expect("ours");
            let name = ptsname(&master, Vec::new()).expect("a name");
            let mut shared = File::options();
            shared
                .write(true)
                .custom_flags(OFlags::NOCTTY.bits() as i32);
            let shared = shared.open(name.to_str().expect("text")).expect("it");
            let own = reopened(&shared).expect("a terminal");
            let lost: &AtomicU64 = Box::leak(Box::new(AtomicU64::new(0)));
            let mut outlet = Outlet::new(own, PATIENCE, lost);
            for _ in 0..2_000 {
                outlet.write_all(&vec![b'x'; length]).expect("it is there");
            }
            assert!(lost.load(Relaxed) > 0, "{length}");
        }
    }

    #[test]
    fn only_a_terminal_or_a_named_pipe_is_opened_anew() {
        let file = tempfile::tempfile().expect("a file");
        assert!(reopened(&file).is_none());
        let (_reader, writer) = pipe().expect("a pipe");
        assert!(reopened(&writer).is_some());
        assert!(reopened(File::open("/dev/null").expect("it")).is_none());
    }

    #[test]
    fn a_reader_that_is_slow_loses_nothing() {
        let (reader, mut outlet, lost) = outlet();
        outlet.patience = Duration::from_secs(30);
        let writer = std::thread::spawn(move || {
            for number in 0..20_000 {
                writeln!(outlet, "line {number}").expect("a reader is there");
            }
        });
        let read = BufReader::with_capacity(512, reader).lines();
        let read: Vec<String> = read.map(|line| line.expect("text")).collect();
        writer.join().expect("no panic");
        assert_eq!(lost.load(Relaxed), 0);
        assert!(
            read.iter().eq(&(0..20_000)
                .map(|number| format!("line {number}"))
                .collect::<Vec<_>>())
        );
    }

    #[test]
    fn what_was_cut_off_does_not_run_into_the_next_line() {
        let (mut reader, mut outlet, lost) = outlet();
        let long = vec![b'x'; 3 * CHUNK];
        let whole = fill(&mut outlet, lost, &long);
        let mut some = vec![0; long.len() * whole];
        reader.read_exact(&mut some).expect("what was taken");
        outlet.write_all(b"next\n").expect("a reader is there");
        drop(outlet);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("text");
        let (cut, next) = rest.split_once('\n').expect("two lines");
        assert!(cut.len() < long.len(), "{}", cut.len());
        assert!(!cut.is_empty(), "the test is of a line that was begun");
        assert_eq!((next, lost.load(Relaxed)), ("next\n", 1));
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error_not_a_wait() {
        let (reader, mut outlet, lost) = outlet();
        drop(reader);
        let error = outlet.write_all(b"line\n").expect_err("nobody is there");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(lost.load(Relaxed), 0);
    }
}
