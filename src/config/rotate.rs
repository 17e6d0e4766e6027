//! Secrets that change while the process runs: a file is looked at again, and read when it is another one.
//! What was in the environment at start stays, for nobody can change it from outside.

use super::secret::{self, Found, Secret};
use super::{ConfigError, RedisUrl};
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Which of the secrets it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// fal's key.
    FalKey,
    /// The bot's token.
    BotToken,
    /// The URL of Redis, with its password.
    RedisUrl,
}

impl SecretKind {
    /// The word of log lines: also the name of the systemd credential.
    pub fn as_str(self) -> &'static str {
        match self {
            SecretKind::FalKey => "fal-key",
            SecretKind::BotToken => "telegram-bot-token",
            SecretKind::RedisUrl => "redis-url",
        }
    }
}

/// Where a secret was found. Its `Debug` leaves the place out: configurations that mean the same print the
/// same.
#[derive(Clone)]
pub struct Source {
    /// Which one.
    pub what: SecretKind,
    /// In words: `FAL_KEY`, or `FAL_KEY_FILE (/etc/fal-worker/fal-key)`.
    pub place: String,
    /// The file, which may change; `None`: a variable or a flag, which cannot.
    pub file: Option<SecretFile>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what.as_str())
    }
}

/// A secret that was read again, of the right form.
#[derive(Clone, Debug)]
pub enum Fresh {
    /// fal's key.
    FalKey(Secret),
    /// The bot's token.
    BotToken(Secret),
    /// The URL of Redis.
    RedisUrl(Box<RedisUrl>),
}

impl Fresh {
    /// Every text in it that no log line may hold: for `report::hide`.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Fresh::FalKey(secret) | Fresh::BotToken(secret) => {
                [Some(secret.expose()), secret.part()]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            Fresh::RedisUrl(url) => url.secrets().collect(),
        }
    }
}

/// A file with a secret, and how it was when it was last read.
#[derive(Clone, Debug)]
pub struct SecretFile {
    what: SecretKind,
    place: String,
    path: PathBuf,
    /// `None`: it could not be looked at.
    seen: Option<Stamp>,
    /// It looks different, and may still be written to: it is read once it looks the same twice.
    changing: Option<Option<Stamp>>,
    /// What was last in it, good or bad; `None`: it could not be read.
    last: Option<Secret>,
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl SecretFile {
    pub(super) fn new(what: SecretKind, place: &str, path: &Path, text: &Secret) -> SecretFile {
        SecretFile {
            what,
            place: place.to_owned(),
            path: path.to_owned(),
            seen: stamp(path),
            changing: None,
            last: Some(text.clone()),
        }
    }

    /// Which secret it holds.
    pub fn what(&self) -> SecretKind {
        self.what
    }

    /// What is new in it: the secret, or once why it cannot be used. `at_once`: the one in use was refused, so
    /// it is read whatever it looks like; else only when it has changed and nobody writes to it any more.
    pub fn look(&mut self, at_once: bool) -> Option<Result<Fresh, ConfigError>> {
        let now = stamp(&self.path);
        if !at_once {
            if now == self.seen {
                self.changing = None;
                return None;
            }
            if self.changing.replace(now) != Some(now) {
                return None;
            }
        }
        self.changing = None;
        self.seen = now;
        if now.is_none() && fs::metadata(&self.path).is_ok_and(|about| !about.is_file()) {
            return None; // a pipe gives its secret once, and would be waited for
        }
        let text = secret::read(&self.place, &self.path);
        let fresh = text.as_ref().ok().map(Secret::new);
        if fresh == self.last {
            return None; // touched, or as unusable as before
        }
        self.last = fresh;
        Some(text.and_then(|text| self.checked(text)))
    }

    fn checked(&self, text: String) -> Result<Fresh, ConfigError> {
        let place = self.place.clone();
        if text.is_empty() {
            return Err(ConfigError(format!("{place}: empty")));
        }
        let found = Found {
            text: Secret::new(text),
            place,
            file: None,
        };
        match self.what {
            SecretKind::FalKey => secret::fal_key(found).map(Fresh::FalKey),
            SecretKind::BotToken => secret::bot_token(found).map(Fresh::BotToken),
            SecretKind::RedisUrl => RedisUrl::parse(found.text.expose())
                .map(|url| Fresh::RedisUrl(Box::new(url)))
                .map_err(|what| ConfigError(format!("{}: {what}", found.place))),
        }
    }
}

/// Of a plain file, through links: a mounted secret is changed by turning one.
fn stamp(path: &Path) -> Option<Stamp> {
    let about = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some(Stamp {
        device: about.dev(),
        inode: about.ino(),
        size: about.size(),
        modified: (about.mtime(), about.mtime_nsec()),
        changed: (about.ctime(), about.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const OLD: &str = "old-id:old-secret";
    const NEW: &str = "new-id:new-secret";

    fn watched(folder: &tempfile::TempDir) -> (PathBuf, SecretFile) {
        let path = folder.path().join("key");
        fs::write(&path, OLD).unwrap();
        let file = SecretFile::new(SecretKind::FalKey, "FAL_KEY_FILE", &path, &Secret::new(OLD));
        (path, file)
    }

    fn key(fresh: Option<Result<Fresh, ConfigError>>) -> String {
        match fresh {
            Some(Ok(Fresh::FalKey(key))) => key.expose().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    /// Replaced as a careful program does, so that the inode tells whatever the clock's grain.
    fn replace(path: &Path, text: &str) {
        let other = path.with_extension("new");
        fs::write(&other, text).unwrap();
        fs::rename(other, path).unwrap();
    }

    #[test]
    fn a_changed_file_is_read_once_it_looks_the_same_twice() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut file) = watched(&folder);
        assert!(file.look(false).is_none());
        replace(&path, "new-id:new-sec");
        assert!(file.look(false).is_none(), "it may be half written");
        replace(&path, &format!("{NEW}\n"));
        assert!(file.look(false).is_none(), "and it was");
        assert_eq!(key(file.look(false)), NEW);
        assert!(file.look(false).is_none(), "said once");
        replace(&path, NEW);
        assert!(file.look(false).is_none());
        assert!(file.look(false).is_none(), "another file, the same secret");
    }

    #[test]
    fn a_refusal_has_it_read_at_once_and_whatever_it_looks_like() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut file) = watched(&folder);
        assert!(file.look(true).is_none(), "still the same");
        replace(&path, NEW);
        file.seen = stamp(&path); // as where the clock of a file system is coarse
        assert!(file.look(false).is_none());
        assert_eq!(key(file.look(true)), NEW);
    }

    #[test]
    fn a_link_that_is_turned_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("one"), OLD).unwrap();
        fs::write(at("two"), NEW).unwrap();
        symlink(at("one"), at("key")).unwrap();
        let mut file = SecretFile::new(SecretKind::FalKey, "x", &at("key"), &Secret::new(OLD));
        symlink(at("two"), at("turned")).unwrap();
        fs::rename(at("turned"), at("key")).unwrap();
        assert!(file.look(false).is_none());
        assert_eq!(key(file.look(false)), NEW);
    }

    #[test]
    fn what_cannot_be_used_is_said_once_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut file) = watched(&folder);
        for (broken, why) in [
            ("", "empty"),
            ("no pair with s3cret in it", "looks like"),
            ("<id>:<s3cret>", "looks like"),
        ] {
            replace(&path, broken);
            assert!(file.look(false).is_none());
            let error = file.look(false).unwrap().unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("s3cret"), "{error}");
            assert!(file.look(false).is_none() && file.look(true).is_none());
        }
        fs::remove_file(&path).unwrap();
        assert!(file.look(false).is_none());
        let error = file.look(false).unwrap().unwrap_err().to_string();
        assert!(error.contains("cannot read"), "{error}");
        assert!(file.look(false).is_none() && file.look(true).is_none());
        replace(&path, NEW);
        assert!(file.look(false).is_none());
        assert_eq!(key(file.look(false)), NEW);
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mut file) = watched(&folder);
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(file.look(true).is_none());
    }

    #[test]
    fn all_texts_of_a_secret_are_known_to_be_hidden() {
        let fresh = Fresh::FalKey(Secret::new(NEW));
        assert_eq!(fresh.texts(), [NEW, "new-secret"]);
        let url = RedisUrl::parse("redis://me:a%40b@host/0").unwrap();
        assert_eq!(Fresh::RedisUrl(Box::new(url)).texts(), ["a%40b", "a@b"]);
    }
}
