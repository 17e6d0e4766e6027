//! One command as it goes over the wire, made in one piece: redis-rs's own builder keeps the words and
//! their places apart, and copies all of them once more to send them.

use redis::{RedisWrite, ToRedisArgs};
use std::cell::Cell;
use std::fmt;
use std::io;

/// Room in front for the number of words, which is known last: `*`, its digits, `\r\n`.
const HEAD: usize = 16;
/// What most commands take.
const ROOM: usize = 2048;
/// A larger piece of memory is not kept for the next command.
const SPARE: usize = 64 << 10;

thread_local! {
    /// What the last command of this thread was made in.
    static LAST: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A command that is being put together.
pub(crate) struct Words {
    /// `HEAD` bytes, of which the last are the head; then the words.
    bytes: Vec<u8>,
    /// Where the head begins.
    from: usize,
    count: usize,
}

impl Words {
    /// One without a word.
    pub(crate) fn new() -> Words {
        let mut bytes = LAST.take();
        bytes.clear();
        bytes.reserve(ROOM);
        bytes.resize(HEAD, 0);
        bytes[HEAD - 2..].copy_from_slice(b"\r\n");
        Words {
            bytes,
            from: HEAD,
            count: 0,
        }
    }

    /// Adds one word, or what a list has.
    pub(crate) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Words {
        arg.write_redis_args(self);
        self
    }

    /// Adds words that are packed already.
    pub(crate) fn packed_args(&mut self, args: Args<'_>) -> &mut Words {
        self.bytes.extend_from_slice(args.bytes);
        self.counts(args.count);
        self
    }

    /// Where the next word will stand.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            at: self.bytes.len(),
            count: self.count,
        }
    }

    /// All words since then.
    pub(crate) fn since(&self, mark: Mark) -> Args<'_> {
        Args {
            bytes: &self.bytes[mark.at..],
            count: self.count - mark.count,
        }
    }

    /// The whole command.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.from..]
    }

    fn counts(&mut self, more: usize) {
        self.count += more;
        let head = &mut self.bytes[..HEAD - 2];
        let at = write_digits(head, self.count) - 1;
        head[at] = b'*';
        self.from = at;
    }
}

/// Writes a number to the end of this; gives where it begins. Nearly all have one digit or two.
fn write_digits(room: &mut [u8], mut number: usize) -> usize {
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return at;
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        if self.bytes.capacity() <= SPARE {
            LAST.set(std::mem::take(&mut self.bytes));
        }
    }
}

impl RedisWrite for Words {
    fn write_arg(&mut self, arg: &[u8]) {
        // In few pieces: each costs more than the few bytes in it.
        let mut head = *b"                     \r\n";
        let digits = head.len() - 2;
        let at = write_digits(&mut head[..digits], arg.len()) - 1;
        head[at] = b'$';
        self.bytes.reserve(head.len() + arg.len() + 2);
        self.bytes.extend_from_slice(&head[at..]);
        self.bytes.extend_from_slice(arg);
        self.bytes.extend_from_slice(b"\r\n");
        self.counts(1);
    }

    fn writer_for_next_arg(&mut self) -> impl io::Write + '_ {
        Word {
            words: self,
            bytes: Vec::new(),
        }
    }
}

/// A word whose length is not known before it is there.
struct Word<'a> {
    words: &'a mut Words,
    bytes: Vec<u8>,
}

impl io::Write for Word<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Word<'_> {
    fn drop(&mut self) {
        self.words.write_arg(&self.bytes);
    }
}

/// A place in a command.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    at: usize,
    count: usize,
}

/// Words of a command, as they stand in it: they may go into another one.
#[derive(Clone, Copy)]
pub(crate) struct Args<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Args<'a> {
    /// What [`Args::bytes`] and [`Args::count`] said of others.
    pub(crate) fn new(bytes: &'a [u8], count: usize) -> Args<'a> {
        Args { bytes, count }
    }

    /// As they go over the wire.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many words there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

impl fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Args({} words)", self.count) // they may hold a prompt
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_command_is_the_same_as_that_of_redis_rs() {
        for count in [0, 1, 9, 10, 99, 100, 1000] {
            let (mut words, mut cmd) = (Words::new(), redis::Cmd::new());
            for number in 0..count {
                words.arg("word").arg(number).arg([b'x'; 300].as_slice());
                cmd.arg("word").arg(number).arg([b'x'; 300].as_slice());
            }
            let list = ["a", "", "\r\n", "é"];
            words.arg(&list[..]).arg(String::new()).arg(-5_i64).arg(0.5);
            cmd.arg(&list[..]).arg(String::new()).arg(-5_i64).arg(0.5);
            words.writer_for_next_arg().write_all(b"late").unwrap();
            cmd.writer_for_next_arg().write_all(b"late").unwrap();
            assert_eq!(words.bytes(), cmd.get_packed_command(), "{count}");
        }
    }

    #[test]
    fn kept_words_go_into_another_command() {
        let mut first = Words::new();
        first.arg("EVALSHA").arg("x");
        let mark = first.mark();
        first.arg("field").arg("value");
        let patch = first.since(mark);
        let mut other = Words::new();
        let mark = other.mark();
        other.arg(2).arg("é");
        let fields = other.since(mark);
        let mut second = Words::new();
        second.arg("SET").packed_args(patch).packed_args(fields);
        assert_eq!(
            String::from_utf8_lossy(second.bytes()),
            "*5\r\n$3\r\nSET\r\n$5\r\nfield\r\n$5\r\nvalue\r\n$1\r\n2\r\n$2\r\né\r\n"
        );
        assert!(!format!("{patch:?}").contains("value"));
    }
}
