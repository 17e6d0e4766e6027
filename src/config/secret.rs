//! Secrets and where they come from. A value leaves only through [`Secret::expose`]; no error, no
//! `Debug` and no `Display` shows it.

use super::rotate::{SecretFile, SecretKind, Source};
use super::{ConfigError, Environment};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Text that must not be seen: prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one request that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Of a pair what stands behind the colon: it alone is enough to act with, whatever became of the colon
    /// in a URL.
    pub fn part(&self) -> Option<&str> {
        self.0.split_once(':').map(|(_, part)| part)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Cuts one line end, as editors and `echo` leave it.
pub(super) fn less_one_newline(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// A secret with the place it was found in, for errors about its form.
pub(super) struct Found {
    pub text: Secret,
    /// e.g. `FAL_KEY` or `FAL_KEY_FILE (/etc/fal-worker/fal-key)`.
    pub place: String,
    /// The file it was read from.
    pub file: Option<PathBuf>,
}

impl Found {
    /// Where it is, to be looked at again.
    pub(super) fn source(&self, what: SecretKind) -> Source {
        let file = self.file.as_ref();
        Source {
            what,
            place: self.place.clone(),
            file: file.map(|path| SecretFile::new(what, &self.place, path, &self.text)),
        }
    }
}

/// Reads a secret from the one of its three places that is set: `variable`, the file that
/// `<variable>_FILE` names, or the systemd credential. `None`: it is nowhere.
/// `typed` is a fourth source that beats the variable but not the others: a flag.
pub(super) fn find(
    env: &Environment,
    variable: &str,
    credential: &str,
    typed: Option<&str>,
) -> Result<Option<Found>, ConfigError> {
    let file_variable = format!("{variable}_FILE");
    let direct = match typed {
        Some(flag) => Some(flag.to_owned()),
        None => env.get(variable).map(|_| variable.to_owned()),
    };
    let file = env.get(&file_variable).map(PathBuf::from);
    let credential_path = env
        .get("CREDENTIALS_DIRECTORY")
        .map(|folder| Path::new(folder).join(credential))
        .filter(|path| fs::symlink_metadata(path).is_ok());

    let sources: Vec<String> = [
        direct.clone(),
        file.as_ref().map(|_| file_variable.clone()),
        credential_path
            .as_ref()
            .map(|_| format!("credential {credential}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if let [first, second, ..] = &sources[..] {
        return Err(ConfigError(format!(
            "{first}: {second} is set too; exactly one of them may be"
        )));
    }

    let (text, place, file) = if let Some(path) = file {
        let place = format!("{file_variable} ({})", path.display());
        (read(&file_variable, &path)?, place, Some(path))
    } else if let Some(path) = credential_path {
        let name = format!("credential {credential}");
        let place = format!("{name} ({})", path.display());
        (read(&name, &path)?, place, Some(path))
    } else if typed.is_none()
        && let Some(value) = env.get(variable)
    {
        match value.to_str() {
            Some(text) => (text.to_owned(), variable.to_owned(), None),
            None => return Err(ConfigError(format!("{variable}: not valid UTF-8"))),
        }
    } else {
        return Ok(None);
    };
    if text.is_empty() {
        return Err(ConfigError(format!("{place}: empty")));
    }
    Ok(Some(Found {
        text: Secret(text),
        place,
        file,
    }))
}

/// Far over any key or URL: the path may name a device or the wrong file.
const MAX_FILE: u64 = 16 * 1024;

pub(super) fn read(name: &str, path: &Path) -> Result<String, ConfigError> {
    use std::io::Read as _;
    let refuse = |why: &dyn fmt::Display| {
        ConfigError(format!(
            "{name}: cannot read {}: {why}",
            path.display().to_string().escape_debug()
        ))
    };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| refuse(&error))?;
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| refuse(&error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(refuse(&"over 16 KiB, that is no secret of ours"));
    }
    // The error of from_utf8 would carry the bytes.
    let text = String::from_utf8(bytes).map_err(|_| refuse(&"not valid UTF-8"))?;
    Ok(less_one_newline(&text).to_owned())
}

/// fal's key is a pair, `<id>:<secret>` in visible ASCII (fal-api section 1): it becomes a header.
pub(super) fn fal_key(found: Found) -> Result<Secret, ConfigError> {
    let key = found.text.expose();
    let pair = key
        .split_once(':')
        .is_some_and(|(id, secret)| !id.is_empty() && !secret.is_empty());
    // `<` and `>` are in no key, but in the example of one.
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"<>".contains(&byte);
    if pair && key.bytes().all(plain) {
        return Ok(found.text);
    }
    Err(ConfigError(format!(
        "{}: a fal key looks like <id>:<secret>, visible ASCII without spaces",
        found.place
    )))
}

/// `^[1-9][0-9]{0,16}:[A-Za-z0-9_-]{30,64}$` (telegram-api section 1): it becomes part of URLs.
pub(super) fn bot_token(found: Found) -> Result<Secret, ConfigError> {
    let fits = found
        .text
        .expose()
        .split_once(':')
        .is_some_and(|(id, secret)| {
            (1..=17).contains(&id.len())
                && !id.starts_with('0')
                && id.bytes().all(|byte| byte.is_ascii_digit())
                && (30..=64).contains(&secret.len())
                && secret
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        });
    if fits {
        return Ok(found.text);
    }
    Err(ConfigError(format!(
        "{}: a bot token looks like <number>:<30 to 64 letters, digits, _ or ->, as BotFather gives it",
        found.place
    )))
}

/// At least as hard to guess as sixteen random characters; visible ASCII without spaces, since it becomes a
/// header.
pub(super) fn listen_token(found: Found) -> Result<Secret, ConfigError> {
    let token = found.text.expose();
    if (16..=256).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(found.text);
    }
    Err(ConfigError(format!(
        "{}: a token for --listen is 16 to 256 visible ASCII characters without spaces, such as \
         `openssl rand -hex 24` prints",
        found.place
    )))
}
