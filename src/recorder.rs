//! The step file, a flight recorder: what each thread is doing, kept where SIGKILL cannot take it. The
//! next process of this host learns from it which steps were executing, so that only those jobs are
//! charged a crash, and finds what a step had brought and Redis had not taken yet: above all a request
//! id, whose loss would be a second payment (design section 4).
//!
//! One file a process: a header, and a slot a thread. Before a step the thread notes its job, right
//! before something is paid or sent that it is about to, and when it knows what came of it the write for
//! Redis itself, as Redis will get it. What Redis does not take goes into a journal beside it, since the
//! thread goes on with other jobs. Some slots are spare: a thread whose last write waits for those of others leaves its
//! slot to it and takes one of them. Nothing is synced to the disk: it survives the process, not the power. So a
//! file of another boot says what was, and nothing by what it does not say.
//!
//! The file is locked as long as its process lives: the lock is the surest sign that it is gone. What the
//! writes mean is not known here.

mod left;
mod place;
#[cfg(test)]
mod tests;

pub(crate) use left::{Left, is_held, left_behind, store_of};
pub(crate) use place::{check, prepare};

use crate::report;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs::{File, FileTimes, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Format of the file; a process leaves files of another format alone.
const FORMAT: u32 = 1;
/// Bytes of the header, and of each slot. A slot is mostly a hole: only what was written takes room.
const HEADER: usize = 16 << 10;
const SLOT: usize = 16 << 10;
/// Length and checksum in front of each header, slot and journal entry.
const FRAME: usize = 8;
/// The checksum: zlib's CRC-32. A frame is a hundred bytes or two, for which a small table does.
static SUM: crc::Crc<u32, crc::Table<1>> =
    crc::Crc::<u32, crc::Table<1>>::new(&crc::CRC_32_ISO_HDLC);
/// Bytes of the journal above which only what a payment or a message brought goes into it.
const JOURNAL: u64 = 64 << 20;
/// Instances of one process that its file remembers: it takes a new name after each takeover of itself.
const NAMES: usize = 32;
/// Slots beside those of the threads, for last writes that wait for company.
const SPARE: usize = 64;
/// Ends of the two files' names.
const STEPS: &str = "steps";
const WRITES: &str = "writes";

/// Who wrote a file, and for which Redis.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    format: u32,
    /// Random id of the store; empty until Redis first answered.
    pub(crate) store: String,
    /// Where that Redis is, without its password.
    pub(crate) address: String,
    /// Names of the process in Redis, the latest last.
    pub(crate) instances: Vec<String>,
    slots: usize,
    /// Something could not be written: what stands in no slot may have happened all the same.
    #[serde(default)]
    broken: bool,
    /// The boot of the machine that it was written in, see [`this_boot`]; an older program named none.
    #[serde(default)]
    boot: String,
}

/// A write that Redis may not have taken: the script by name, and the command byte for byte.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    pub(crate) script: String,
    pub(crate) packed: Vec<u8>,
}

/// The recorder of this process; a switched-off one takes everything and keeps nothing.
#[derive(Debug)]
pub(crate) struct Recorder(Option<Open>);

#[derive(Debug)]
struct Open {
    path: PathBuf,
    /// Locked until the process ends.
    file: File,
    header: Mutex<Header>,
    journal: Mutex<Journal>,
    /// Writes in the journal that Redis has not taken: mostly none, and then nobody locks it.
    waiting: AtomicUsize,
    closed: AtomicBool,
    /// It passes for whole and is not: that could not be written into it, nor could it be removed.
    unsaid: AtomicBool,
    /// Slots that nobody uses.
    spare: Mutex<Vec<usize>>,
}

#[derive(Debug)]
struct Journal {
    /// Open from the start: when it is needed there may be no descriptor left.
    file: File,
    len: u64,
    /// Tokens and numbers of what is in it and Redis has not taken.
    waiting: HashSet<(String, u32)>,
}

/// A thread's hand on its slot.
#[derive(Debug)]
pub(crate) struct Slot {
    recorder: Arc<Recorder>,
    number: Cell<usize>,
    /// What stands in it now; empty: nothing.
    frame: RefCell<Vec<u8>>,
}

/// A slot that holds a write until Redis has it, while its thread goes on with another one. One that is dropped stays
/// as it is until the process ends: a successor makes the write once more, which changes nothing.
#[derive(Debug)]
pub(crate) struct Held {
    recorder: Arc<Recorder>,
    number: usize,
}

/// This boot of this machine, as the kernel names it; empty where that cannot be read.
pub(crate) fn this_boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

impl Recorder {
    /// `--state-dir off`.
    pub(crate) fn off() -> Recorder {
        Recorder(None)
    }

    /// Whether anything is kept.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether all could be written so far: where ours could not, neither could those of others, who may not
    /// even have been able to say so.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.as_ref().is_some_and(|open| {
            let header = open.header.lock().unwrap_or_else(PoisonError::into_inner);
            !header.broken
        })
    }

    /// Makes the file of this process in `folder` and locks it. It gets its name only then: nobody ever
    /// sees it unlocked while we live.
    pub(crate) fn open(
        folder: &Path,
        instance: &str,
        address: &str,
        slots: usize,
    ) -> io::Result<Recorder> {
        let path = folder.join(format!("{instance}.{STEPS}"));
        let fresh = folder.join(format!("{instance}.new"));
        let file = create(&fresh)?;
        let made = Recorder::fill(file, &fresh, path, instance, address, slots + SPARE);
        if made.is_err() {
            let _ = std::fs::remove_file(&fresh); // a full disk still takes an empty one
            let _ = remove(&folder.join(format!("{instance}.{STEPS}")));
        }
        made
    }

    fn fill(
        file: File,
        fresh: &Path,
        path: PathBuf,
        instance: &str,
        address: &str,
        slots: usize,
    ) -> io::Result<Recorder> {
        file.try_lock()?;
        let header = Header {
            format: FORMAT,
            store: String::new(),
            address: address.to_owned(),
            instances: vec![instance.to_owned()],
            slots,
            broken: false,
            boot: this_boot(),
        };
        let spare = slots - SPARE..slots;
        write_header(&file, &header)?;
        std::fs::rename(fresh, &path)?;
        let journal = Journal {
            file: create(&path.with_extension(WRITES))?,
            len: 0,
            waiting: HashSet::new(),
        };
        Ok(Recorder(Some(Open {
            path,
            file,
            header: Mutex::new(header),
            journal: Mutex::new(journal),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            unsaid: AtomicBool::new(false),
            spare: Mutex::new(spare.collect()),
        })))
    }

    /// Notes which store this process works for, and as whom: both may change while it runs.
    pub(crate) fn belongs_to(&self, store: &str, instance: &str) {
        let Some(open) = &self.0 else { return };
        let mut header = open.header.lock().unwrap_or_else(PoisonError::into_inner);
        let known = header.instances.iter().any(|name| name == instance);
        if header.store == store && known {
            return;
        }
        header.store = store.to_owned();
        if !known {
            header.instances.push(instance.to_owned());
        }
        if header.instances.len() > NAMES {
            header.instances.remove(1); // the first is the file's own name
        }
        let written = write_header(&open.file, &header);
        drop(header);
        open.note(written);
    }

    /// The slot of one thread.
    pub(crate) fn slot(self: &Arc<Recorder>, number: usize) -> Slot {
        Slot {
            recorder: self.clone(),
            number: Cell::new(number),
            frame: RefCell::new(Vec::with_capacity(1024)),
        }
    }

    /// Keeps a write that Redis did not take until it does, unless it is kept: the slot is needed for other jobs.
    /// `always`: it says what a payment or a message brought, and is kept however large the journal has grown.
    pub(crate) fn keep(&self, token: &str, seq: u32, command: &Command, always: bool) {
        let Some(open) = &self.0 else { return };
        let mut journal = open.journal();
        let this = (token.to_owned(), seq);
        if open.closed.load(Ordering::Relaxed)
            || (journal.len > JOURNAL && !always)
            || journal.waiting.contains(&this)
        {
            return;
        }
        let written = journal.append(command);
        if open.note(written) {
            journal.waiting.insert(this);
            open.waiting.store(journal.waiting.len(), Ordering::Release);
        }
    }

    /// Redis took this write, or everything of this claim is done with (`seq` none).
    pub(crate) fn settled(&self, token: &str, seq: Option<u32>) {
        let Some(open) = &self.0 else { return };
        if open.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut journal = open.journal();
        match seq {
            Some(seq) => {
                journal.waiting.remove(&(token.to_owned(), seq));
            }
            None => journal.waiting.retain(|(other, _)| other != token),
        }
        open.waiting.store(journal.waiting.len(), Ordering::Release);
        if journal.waiting.is_empty() {
            journal.len = 0;
            open.note(journal.file.set_len(0));
        }
    }

    /// To be called now and then: an idle worker writes neither file, nor a busy one the journal while Redis is there,
    /// and old files are cleared away by other programs. Where one was removed all the same, no successor will find
    /// what is written into it from here on.
    pub(crate) fn touch(&self) {
        let Some(open) = &self.0 else { return };
        let journal = open.journal();
        if open.closed.load(Ordering::Relaxed) {
            return;
        }
        let now = SystemTime::now();
        let read = FileTimes::new().set_accessed(now);
        // When the step file was last written means something, see `Left.stale`. A file system that keeps no times
        // takes no notes away.
        let _ = open.file.set_times(read);
        let _ = journal.file.set_times(read.set_modified(now));
        let is_there = |file: &File, why: &str| match file.metadata()?.nlink() {
            0 => Err(io::Error::other(why)),
            _ => Ok(()),
        };
        let there = is_there(&open.file, "it was removed");
        open.note(there.and_then(|()| is_there(&journal.file, "its journal was removed")));
    }

    /// A step ended in a way that neither Redis nor a slot will tell of: from here on no slot proves that
    /// nothing was paid or sent.
    pub(crate) fn lost_a_step(&self) {
        if let Some(open) = &self.0 {
            open.spoil();
        }
    }

    /// Whether a successor would believe a file that cannot say any more what happens. Before anything is paid
    /// or sent Redis must know that: see [`Recorder::said`].
    pub(crate) fn is_unsaid(&self) -> bool {
        (self.0.as_ref()).is_some_and(|open| open.unsaid.load(Ordering::Acquire))
    }

    /// Redis knows.
    pub(crate) fn said(&self) {
        if let Some(open) = &self.0 {
            open.unsaid.store(false, Ordering::Release);
        }
    }

    /// After a stop that gave everything back: unless Redis has not taken something, the files go. What
    /// threads note from here on is lost: they only look at requests whose jobs are not ours any more.
    pub(crate) fn close(&self) {
        let Some(open) = &self.0 else { return };
        let journal = open.journal();
        if journal.waiting.is_empty() {
            let _ = open.remove();
        }
    }
}

impl Journal {
    fn append(&mut self, command: &Command) -> io::Result<()> {
        let mut frame = Vec::with_capacity(command.packed.len() + 64);
        frame_of(
            &mut frame,
            &[command.script.as_bytes(), b"\n", &command.packed],
        );
        self.file.write_all_at(&frame, self.len)?;
        self.len += frame.len() as u64;
        Ok(())
    }
}

impl Open {
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spare(&self) -> MutexGuard<'_, Vec<usize>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on this slot says nothing.
    fn clear(&self, slot: usize) {
        self.note(self.file.write_all_at(&[0; FRAME], offset(slot)));
    }

    /// From here on there is no file.
    fn remove(&self) -> io::Result<()> {
        self.closed.store(true, Ordering::Relaxed);
        remove(&self.path)
    }

    /// Says once that the file cannot be written; work goes on, as it would without one. The file says so
    /// too, before the step goes on: a slot that kept its old note would pass a payment off as never made.
    fn note(&self, written: io::Result<()>) -> bool {
        match written {
            Ok(()) => true,
            Err(error) => {
                if self.spoil() {
                    let (path, why) = (self.path.display().to_string(), error.to_string());
                    report::warning(
                        "the step file cannot be written, a crash may cost more",
                        &[("file", &path.as_str()), ("why", &why.as_str())],
                    );
                }
                false
            }
        }
    }

    /// Forbids conclusions from what stands in no slot. True the first time.
    fn spoil(&self) -> bool {
        let mut header = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut header.broken, true) {
            return false;
        }
        // Its place on the disk is taken already, mostly also where nothing more fits. Where a file system became
        // read-only the file does not go either, and is read when that is over.
        if write_header(&self.file, &header).is_err() && self.remove().is_err() {
            self.unsaid.store(true, Ordering::Release);
        }
        true
    }
}

impl Slot {
    /// A step of this job begins: nothing is paid or sent yet.
    pub(crate) fn begin(&self, token: &str, id: &str) {
        self.write(&[b"b", token.as_bytes(), b"\n", id.as_bytes()]);
    }

    /// The next thing that happens is a payment or a message: its outcome is unknown from here on.
    pub(crate) fn act(&self, token: &str, id: &str) {
        self.write(&[b"a", token.as_bytes(), b"\n", id.as_bytes()]);
    }

    /// What came of it, as the write that Redis will get. One that is too long for the slot is left out:
    /// the step then counts as cut off.
    pub(crate) fn brought(&self, script: &str, packed: &[u8]) {
        if packed.len() + script.len() + 2 + FRAME <= SLOT {
            self.write(&[b"w", script.as_bytes(), b"\n", packed]);
        }
    }

    /// The thread has nothing in hand.
    pub(crate) fn idle(&self) {
        if let Some(open) = &self.recorder.0 {
            let mut frame = self.frame.borrow_mut();
            if frame.is_empty() {
                return; // it says so
            }
            frame.clear();
            open.clear(self.number.get());
        }
    }

    /// Leaves its slot, where that holds a write, to this write, and goes on with a spare one. `None`: it holds none,
    /// or there is no spare one.
    pub(crate) fn hand_over(&self) -> Option<Held> {
        let open = self.recorder.0.as_ref()?;
        let mut frame = self.frame.borrow_mut();
        if frame.get(FRAME) != Some(&b'w') {
            return None;
        }
        let spare = open.spare().pop()?;
        frame.clear();
        Some(Held {
            recorder: self.recorder.clone(),
            number: self.number.replace(spare),
        })
    }

    fn write(&self, parts: &[&[u8]]) {
        if let Some(open) = &self.recorder.0 {
            let mut frame = self.frame.borrow_mut();
            if says(&frame, parts) {
                return; // it stands there
            }
            frame_of(&mut frame, parts);
            open.note(open.file.write_all_at(&frame, offset(self.number.get())));
        }
    }

    /// Whether the last note says that something is being paid or sent.
    pub(crate) fn is_acting(&self) -> bool {
        self.recorder.is_on() && self.frame.borrow().get(FRAME) == Some(&b'a')
    }
}

impl Held {
    /// Redis has it, or the journal: the slot is anybody's.
    pub(crate) fn release(&self) {
        if let Some(open) = &self.recorder.0 {
            open.clear(self.number);
            open.spare().push(self.number);
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// Removes a step file, its journal first: one without its file would be nobody's.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path.with_extension(WRITES)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    std::fs::remove_file(path)
}

fn offset(slot: usize) -> u64 {
    (HEADER + slot * SLOT) as u64
}

fn write_header(file: &File, header: &Header) -> io::Result<()> {
    let text = serde_json::to_vec(header)?;
    let mut frame = Vec::new();
    frame_of(&mut frame, &[&text]);
    if frame.len() > HEADER {
        return Err(io::Error::other("the header of the step file is too long"));
    }
    file.write_all_at(&frame, 0)
}

/// Whether a frame holds just this.
fn says(frame: &[u8], parts: &[&[u8]]) -> bool {
    let mut rest = frame.get(FRAME..).unwrap_or_default();
    for part in parts {
        match rest.strip_prefix(*part) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
    rest.is_empty() && !frame.is_empty()
}

/// Length, checksum, payload.
fn frame_of(frame: &mut Vec<u8>, parts: &[&[u8]]) {
    frame.clear();
    frame.extend_from_slice(&[0; FRAME]);
    for part in parts {
        frame.extend_from_slice(part);
    }
    let len = (frame.len() - FRAME) as u32;
    let sum = SUM.checksum(&frame[FRAME..]);
    frame[..4].copy_from_slice(&len.to_le_bytes());
    frame[4..FRAME].copy_from_slice(&sum.to_le_bytes());
}
