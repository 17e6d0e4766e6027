//! What was let go of in the last seconds, for a Redis that forgets it: ends, and submits that may be paid. Thousands
//! of ends a second pass through here and stay for seconds: as pieces of memory of their own they would be spread over
//! the allocator, so they lie one behind the other in few large pieces, each of which is used again once all in it is
//! old.

use super::pack::{Pack, Unpack};
use super::wire::Args;
use crate::job::flight::EndState;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an end is remembered, the time left out in which Redis is away (see `Health::steady_now`).
pub(super) const REMEMBERED: Duration = Duration::from_secs(10);
/// Most that the remembered ends take, about: a job without a chat ends with its result, which may have
/// many MiB. Redis loses its last second or two; thousands of ends a second still fit that.
const BYTES: usize = 24 << 20;
/// One piece of memory: some fifty ends. An end that is larger has a piece of its own.
const CHUNK: usize = 64 << 10;
/// What the lengths of one end's parts take at most, and its numbers.
const HEADS: usize = 64;

/// How a claim was closed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Closed {
    /// The job ended.
    Ended(EndState),
    /// It waits for its next submit, and the one before may be paid.
    Waits,
}

impl Closed {
    const ALL: [Closed; 4] = [
        Closed::Ended(EndState::Done),
        Closed::Ended(EndState::Dead),
        Closed::Ended(EndState::Cancelled),
        Closed::Waits,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Closed::Ended(state) => state.as_str(),
            Closed::Waits => "later",
        }
    }
}

/// One end, as it can be written down again.
#[derive(Clone, Copy, Debug)]
pub(super) struct End<'a> {
    pub(super) id: &'a str,
    pub(super) token: &'a str,
    pub(super) seq: u32,
    pub(super) closed: Closed,
    /// What the record had before, or what is to be said of a job that waits: names and values in turn, packed. As
    /// they go over the wire they would take a third more.
    pub(super) fields: &'a [u8],
    pub(super) patch: Args<'a>,
}

impl<'a> End<'a> {
    /// Most that it takes.
    fn room(&self) -> usize {
        let texts = self.id.len() + self.token.len();
        HEADS + texts + self.fields.len() + self.patch.bytes().len()
    }

    fn write(&self, after_ms: u32, to: &mut Pack) {
        for number in [after_ms, self.seq, self.patch.count() as u32] {
            to.add_bytes(&number.to_be_bytes());
        }
        for text in [self.id, self.token, self.closed.as_str()] {
            to.add(text);
        }
        to.add_bytes(self.fields);
        to.add_bytes(self.patch.bytes());
    }

    /// The next one, with its time.
    fn read(from: &mut Unpack<'a>) -> Option<(u32, End<'a>)> {
        let mut number = || Some(u32::from_be_bytes(from.bytes()?.try_into().ok()?));
        let (after_ms, seq, patch) = (number()?, number()?, number()? as usize);
        let mut text = || std::str::from_utf8(from.bytes()?).ok();
        let (id, token, closed) = (text()?, text()?, text()?);
        let end = End {
            id,
            token,
            seq,
            closed: *Closed::ALL.iter().find(|known| known.as_str() == closed)?,
            fields: from.bytes()?,
            patch: Args::new(from.bytes()?, patch),
        };
        Some((after_ms, end))
    }

    /// The fields, one after the other.
    pub(super) fn each_field(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut from = Unpack(self.fields);
        let mut text = move || std::str::from_utf8(from.bytes()?).ok();
        std::iter::from_fn(move || Some((text()?, text()?)))
    }

    /// A field.
    pub(super) fn field(&self, named: &str) -> Option<&'a str> {
        let mut fields = self.each_field();
        fields.find_map(|(name, value)| (name == named).then_some(value))
    }
}

/// Ends of a short time, oldest first.
pub(super) struct Chunk {
    first: Instant,
    last: Instant,
    room: usize,
    ends: Pack,
}

impl Chunk {
    fn new(room: usize, now: Instant) -> Chunk {
        Chunk {
            first: now,
            last: now,
            room,
            ends: Pack::with_capacity(room),
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.ends.as_bytes().len() + bytes <= self.room
    }

    /// Those of its ends that are remembered at this moment.
    pub(super) fn ends(&self, now: Instant) -> impl Iterator<Item = End<'_>> {
        let mut from = Unpack(self.ends.as_bytes());
        let all = std::iter::from_fn(move || End::read(&mut from));
        let at = |after_ms: u32| self.first + Duration::from_millis(after_ms.into());
        all.filter(move |(after_ms, _)| !is_old(at(*after_ms), now))
            .map(|(_, end)| end)
    }
}

fn is_old(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) > REMEMBERED
}

/// All of them, oldest first. Nothing is held before something ends.
#[derive(Default)]
pub(super) struct Ended {
    chunks: VecDeque<Arc<Chunk>>,
    bytes: usize,
    /// An empty one.
    spare: Option<Chunk>,
}

impl Ended {
    pub(super) fn push(&mut self, end: &End<'_>, now: Instant) {
        self.drop_old(now);
        let bytes = end.room();
        // One that somebody reads is left as it is.
        let last = self.chunks.back_mut().and_then(Arc::get_mut);
        if !last.is_some_and(|last| last.has_room(bytes)) {
            self.add_chunk(bytes.max(CHUNK), now);
        }
        if let Some(last) = self.chunks.back_mut().and_then(Arc::get_mut) {
            let after = now.saturating_duration_since(last.first);
            end.write(after.as_millis() as u32, &mut last.ends);
            last.last = now;
        }
    }

    /// What is remembered of at this moment, to be read without the lock.
    pub(super) fn chunks(&self) -> Vec<Arc<Chunk>> {
        self.chunks.iter().cloned().collect()
    }

    /// Lets go of what is old, for the time when nothing ends.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.drop_old(now);
        if self.chunks.is_empty() {
            *self = Ended::default();
        }
    }

    fn drop_old(&mut self, now: Instant) {
        while self
            .chunks
            .front()
            .is_some_and(|chunk| is_old(chunk.last, now))
        {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        let Some(chunk) = self.chunks.pop_front() else {
            return;
        };
        self.bytes -= chunk.room;
        if chunk.room == CHUNK
            && let Some(mut chunk) = Arc::into_inner(chunk)
        {
            chunk.ends.clear();
            self.spare = Some(chunk);
        }
    }

    fn add_chunk(&mut self, room: usize, now: Instant) {
        while self.bytes + room > BYTES && !self.chunks.is_empty() {
            self.drop_first();
        }
        self.bytes += room;
        let chunk = match self.spare.take_if(|_| room == CHUNK) {
            Some(spare) => Chunk {
                first: now,
                last: now,
                ..spare
            },
            None => Chunk::new(room, now),
        };
        self.chunks.push_back(Arc::new(chunk));
    }

    /// As if all of it had ended so much earlier.
    #[cfg(test)]
    pub(super) fn age(&mut self, by: Duration) {
        for chunk in self.chunks.iter_mut().filter_map(Arc::get_mut) {
            chunk.first -= by;
            chunk.last -= by;
        }
    }

    /// How many ends, and the memory they lie in.
    #[cfg(test)]
    pub(super) fn size(&self, now: Instant) -> (usize, usize) {
        let ends = self.chunks.iter().map(|chunk| chunk.ends(now).count());
        let spare = self.spare.as_ref().map_or(0, |spare| spare.room);
        (ends.sum(), self.bytes + spare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end<'a>(id: &'a str, patch: &'a [u8]) -> End<'a> {
        End {
            id,
            token: "token",
            seq: 7,
            closed: Closed::Ended(EndState::Done),
            fields: b"\xa4meta\xa1m",
            patch: Args::new(patch, 3),
        }
    }

    fn ids(ended: &Ended, now: Instant) -> Vec<String> {
        let chunks = ended.chunks();
        let ends = chunks.iter().flat_map(|chunk| chunk.ends(now));
        ends.map(|end| end.id.to_owned()).collect()
    }

    #[test]
    fn an_end_is_read_as_it_was_written_whatever_its_size() {
        let now = Instant::now();
        let mut ended = Ended::default();
        let patches = [10, 300, 70_000, 3 << 20, 0].map(|size| vec![b'x'; size]);
        let mut paid = Pack::default();
        paid.pair("meta", "");
        paid.pair("request_id", "r1");
        for (number, patch) in patches.iter().enumerate() {
            ended.push(
                &End {
                    seq: number as u32,
                    closed: Closed::ALL[number % 4],
                    fields: [b"\xa4meta\xa1m", paid.as_bytes()][number % 2],
                    ..end("a", patch)
                },
                now,
            );
        }
        let chunks = ended.chunks();
        let ends: Vec<End<'_>> = chunks.iter().flat_map(|chunk| chunk.ends(now)).collect();
        assert_eq!(ends.len(), patches.len());
        for (number, (end, patch)) in ends.iter().zip(&patches).enumerate() {
            assert_eq!((end.id, end.token, end.seq), ("a", "token", number as u32));
            assert_eq!(end.field("request_id"), (number % 2 == 1).then_some("r1"));
            let fields: Vec<_> = end.each_field().collect();
            let expected = [&[("meta", "m")][..], &[("meta", ""), ("request_id", "r1")]];
            assert_eq!(fields, expected[number % 2]);
            assert_eq!(end.closed, Closed::ALL[number % 4]);
            assert_eq!(end.patch.count(), 3);
            assert_eq!(end.patch.bytes(), patch);
        }
    }

    #[test]
    fn its_memory_follows_what_ends_and_is_let_go_of_when_nothing_does() {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let mut ended = Ended::default();
        ended.forget_old(at(0));
        assert_eq!(ended.size(at(0)), (0, 0), "nothing before the first end");
        let patch = [b'x'; 900];
        let at_a_rate = |ended: &mut Ended, from_ms: u64, to_ms: u64, every_ms: u64| {
            let mut most = 0;
            for ms in (from_ms..to_ms).step_by(every_ms as usize) {
                ended.push(&end("a", &patch), at(ms));
                most = most.max(ended.size(at(ms)).1);
            }
            most
        };
        // A hundred a second: ten seconds of them are a megabyte, for ever.
        let most = at_a_rate(&mut ended, 0, 60_000, 10);
        assert!((1 << 20..1400 << 10).contains(&most), "{most} bytes");
        assert_eq!(ended.size(at(59_990)).0, 1001);
        // Ten times fewer: so is the memory soon.
        at_a_rate(&mut ended, 60_000, 75_000, 100);
        let (ends, bytes) = ended.size(at(75_000));
        assert!(ends <= 101 && bytes <= 5 * CHUNK, "{ends} in {bytes} bytes");
        // And without an end all of it goes.
        ended.forget_old(at(84_000));
        assert!(ended.size(at(84_000)).0 > 0);
        ended.forget_old(at(86_000));
        assert_eq!(ended.size(at(86_000)), (0, 0));
    }

    #[test]
    fn a_piece_is_used_again_but_never_while_somebody_reads_it() {
        let began = Instant::now();
        let mut ended = Ended::default();
        let place = |ended: &Ended| {
            let last = ended.chunks.back().expect("one");
            last.ends.as_bytes().as_ptr()
        };
        ended.push(&end("a", b""), began);
        let first = place(&ended);
        let later = began + REMEMBERED + Duration::from_secs(1);
        ended.push(&end("b", b""), later);
        assert_eq!(place(&ended), first);
        assert_eq!(ids(&ended, later), ["b"]);
        let reader = ended.chunks();
        ended.push(&end("c", b""), later);
        assert_eq!(ids(&ended, later), ["b", "c"]);
        assert_eq!(reader[0].ends(later).count(), 1);
        let much_later = later + REMEMBERED + Duration::from_secs(1);
        ended.push(&end("d", b""), much_later);
        assert_eq!(ids(&ended, much_later), ["d"]);
        assert_eq!(reader[0].ends(later).next().map(|end| end.id), Some("b"));
    }
}
