//! What a process that is gone left behind.

use super::{Command, FORMAT, FRAME, HEADER, Header, SLOT, STEPS, SUM, WRITES, offset, this_boot};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Files that nobody asked for this long belong to a Redis that is no more.
const OLD: Duration = Duration::from_secs(30 * 86_400);
/// Ids of ended jobs are known for a day: older writes may meet another job of the same id.
const STALE: Duration = Duration::from_secs(20 * 3600);

/// The files of a process that is gone. They are ours, by their lock, until this is dropped.
#[derive(Debug)]
pub(crate) struct Left {
    path: PathBuf,
    _locked: Option<File>,
    pub(crate) header: Header,
    /// Tokens of the claims whose step was executing, and whether it was paying or sending.
    pub(crate) executing: Vec<(String, bool)>,
    /// Writes that Redis may not have taken, in their order.
    pub(crate) commands: Vec<Command>,
    /// Some slot could not be read, or written, or the journal is gone: then nothing may be concluded from what stands
    /// in no slot.
    pub(crate) torn: bool,
    /// Whether it was written in this boot; an older program did not say. The last of one of another boot may never
    /// have reached the disk. And if it is a copy, as of a disk that was cloned or of a backup, whoever wrote it may
    /// live elsewhere, without a lock that we could see.
    pub(crate) of_this_boot: Option<bool>,
    /// So long ago that what it says may be about other jobs of the same ids.
    pub(crate) stale: bool,
    /// Why it could not be read: of all the rest only the names in the header hold then, and its process may live.
    pub(crate) unread: Option<io::Error>,
}

impl Left {
    /// Everything in it is in Redis: it is not needed any more.
    pub(crate) fn remove(self) -> io::Result<()> {
        super::remove(&self.path)
    }

    /// By its name it is this instance's, and nothing else is known of it.
    fn unread(path: PathBuf, why: io::Error) -> Left {
        let instance = path.file_stem().unwrap_or_default().to_string_lossy();
        Left {
            header: Header {
                instances: vec![instance.into_owned()],
                ..Header::default()
            },
            path,
            _locked: None,
            executing: Vec::new(),
            commands: Vec::new(),
            torn: true,
            of_this_boot: None,
            stale: false,
            unread: Some(why),
        }
    }
}

/// Files in `folder` of processes that are gone, for this store. What is locked is somebody's who lives,
/// or is being read by another successor. One that cannot be read is given with the reason: what the others
/// say is needed all the same.
pub(crate) fn left_behind(folder: &Path, store: &str) -> io::Result<Vec<Left>> {
    let mut all = Vec::new();
    for path in step_files(folder)? {
        match look_into(&path, store) {
            Ok(left) => all.extend(left),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // gone meanwhile
            Err(error) => all.push(Left::unread(path, error)),
        }
    }
    Ok(all)
}

fn look_into(path: &Path, store: &str) -> io::Result<Option<Left>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let about = file.metadata()?;
    // Locked after another successor had read and removed it: that file is nobody's any more.
    if about.nlink() == 0 {
        return Ok(None);
    }
    match read_header(&file) {
        Some(header) if header.format == FORMAT && header.store == store => {
            return Ok(Some(read(path.to_owned(), file, header)?));
        }
        // A process that never reached Redis has nothing to tell.
        Some(header) if header.format == FORMAT && header.store.is_empty() => {
            super::remove(path)?;
        }
        _ if is_older(&about, OLD) => super::remove(path)?,
        Some(_) => {}
        None => return Err(io::ErrorKind::InvalidData.into()),
    }
    Ok(None)
}

/// The store that a Redis at this address had when a process of this host last worked for it: for a Redis
/// that forgot its own id.
pub(crate) fn store_of(folder: &Path, address: &str) -> Option<String> {
    let mut newest: Option<(SystemTime, String)> = None;
    for path in step_files(folder).ok()? {
        let Ok(file) = File::open(&path) else {
            continue;
        };
        let Some(header) = read_header(&file) else {
            continue;
        };
        let Ok(changed) = file.metadata().and_then(|about| about.modified()) else {
            continue;
        };
        if header.address == address
            && !header.store.is_empty()
            && newest.as_ref().is_none_or(|(at, _)| *at < changed)
        {
            newest = Some((changed, header.store));
        }
    }
    newest.map(|(_, store)| store)
}

/// Whether somebody has the file of this instance locked; `None`: there is none. It may bear an earlier name of its
/// process.
pub(crate) fn is_held(folder: &Path, instance: &str) -> Option<bool> {
    let holds = |path: PathBuf| {
        let file = File::open(path).ok()?;
        let is_its = |header: &Header| header.instances.iter().any(|name| name == instance);
        read_header(&file).filter(is_its)?;
        Some(file.try_lock().is_err())
    };
    step_files(folder).ok()?.into_iter().find_map(holds)
}

fn step_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == STEPS) {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

fn is_older(about: &fs::Metadata, than: Duration) -> bool {
    let age = |changed: SystemTime| changed.elapsed().unwrap_or_default();
    about.modified().is_ok_and(|changed| age(changed) > than)
}

fn read(path: PathBuf, file: File, header: Header) -> io::Result<Left> {
    let (journal, unread) = match read_journal(&path.with_extension(WRITES)) {
        Ok(journal) => (journal, None),
        Err(error) => (None, Some(error)),
    };
    let said = !header.boot.is_empty();
    let mut left = Left {
        path,
        executing: Vec::new(),
        torn: header.broken || journal.is_none(),
        commands: journal.unwrap_or_default(),
        of_this_boot: said.then(|| header.boot == this_boot()),
        stale: is_older(&file.metadata()?, STALE),
        header,
        _locked: None,
        unread,
    };
    for number in 0..left.header.slots {
        match read_slot(&file, number) {
            Ok(None) => {}
            Ok(Some(Note::Executing { token, acting })) => left.executing.push((token, acting)),
            Ok(Some(Note::Brought(command))) => left.commands.push(command),
            Err(_) => left.torn = true,
        }
    }
    left._locked = Some(file);
    Ok(left)
}

/// What a slot says.
#[derive(Debug, PartialEq)]
pub(super) enum Note {
    Executing { token: String, acting: bool },
    Brought(Command),
}

pub(super) fn read_slot(file: &File, number: usize) -> io::Result<Option<Note>> {
    let Some(payload) = read_frame(file, offset(number), SLOT)? else {
        return Ok(None);
    };
    let (kind, rest) = payload.split_first().ok_or(io::ErrorKind::InvalidData)?;
    match kind {
        b'b' | b'a' => {
            let token = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let token = String::from_utf8(token.to_vec());
            let token = token.map_err(|_| io::ErrorKind::InvalidData)?;
            let acting = *kind == b'a';
            Ok(Some(Note::Executing { token, acting }))
        }
        b'w' => Ok(Some(Note::Brought(command(rest)?))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn read_header(file: &File) -> Option<Header> {
    let payload = read_frame(file, 0, HEADER).ok()??;
    serde_json::from_slice(&payload).ok()
}

/// As many entries as are whole: the process may have died while it wrote the last one. `None`: there is no journal.
/// Only who died right after it had named its step file never had one: whatever else took it may have taken writes.
fn read_journal(path: &Path) -> io::Result<Option<Vec<Command>>> {
    let mut commands = Vec::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.metadata()?.len();
    let mut at = 0;
    while at + (FRAME as u64) < len {
        let most = usize::try_from(len - at).unwrap_or(usize::MAX);
        let Ok(Some(payload)) = read_frame(&file, at, most) else {
            break;
        };
        at += (FRAME + payload.len()) as u64;
        let Ok(command) = command(&payload) else {
            break;
        };
        commands.push(command);
    }
    Ok(Some(commands))
}

fn command(payload: &[u8]) -> io::Result<Command> {
    let at = payload.iter().position(|byte| *byte == b'\n');
    let at = at.ok_or(io::ErrorKind::InvalidData)?;
    let script = String::from_utf8(payload[..at].to_vec());
    Ok(Command {
        script: script.map_err(|_| io::ErrorKind::InvalidData)?,
        packed: payload[at + 1..].to_vec(),
    })
}

/// The payload of one frame of at most `most` bytes; none where nothing was written.
fn read_frame(file: &File, at: u64, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; FRAME];
    match file.read_exact_at(&mut head, at) {
        Ok(()) => {}
        // A slot that was never written, behind the end of the file.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let number = |from: usize| {
        u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]])
    };
    let (len, sum) = (number(0) as usize, number(4));
    if len == 0 {
        return Ok(None);
    }
    if len > most.saturating_sub(FRAME) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; len];
    file.read_exact_at(&mut payload, at + FRAME as u64)?;
    if SUM.checksum(&payload) != sum {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some(payload))
}
