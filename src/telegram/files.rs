//! Files that users sent to the bot: from their id to bytes in an unnamed temporary file. The URL of a file
//! holds the bot's token, so it never leaves this room, no redirect of it is followed, and no error holds it.

use super::refusal::{Cause, Refusal, classify};
use super::{
    CONNECT, JSON_CALL, SLOWEST_BYTES_PER_S, Telegram, UPLOAD_BASE, first, json_in, no_answer,
    quote, without_token,
};
use crate::http::{Body, Bounds, DownloadError, Place, Service, Spooled};
use crate::report;
use rustix::io::Errno;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path};
use std::time::Duration;

/// Longest silence of a download.
const STALL: Duration = Duration::from_secs(30);
/// How much of a file tells its type.
const HEAD: u64 = 512;

/// Why a file did not come.
#[derive(Clone, Debug, PartialEq)]
pub enum NoFile {
    /// The id is none, or is another bot's.
    Wrong,
    /// It may be gone, or only not there now: Telegram has one text for both.
    Missing,
    /// Over the limit.
    TooBig,
    /// Not before this time.
    Wait(Duration),
    /// Telegram, or what is in front of it, did not answer or broke.
    Away(Refusal),
    /// Token, server or disk: the operator's trouble.
    Operator(String),
    /// Its server names a file of this machine that cannot be taken.
    Local(String),
    /// This machine cannot keep or open it now.
    Disk(String),
}

/// Where a file is.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// For [`Telegram::fetch_file`].
    pub path: String,
    /// Bytes, where Telegram says so.
    pub size: Option<u64>,
}

/// A file on its way.
#[derive(Debug)]
pub struct Fetched {
    /// Its bytes.
    pub file: Spooled,
    /// Extension of its name at Telegram, lower case; empty when it has none.
    pub extension: String,
}

impl Telegram {
    /// The public half of the token, which says whose ids are meant.
    pub fn bot(&self) -> &str {
        &self.bot
    }

    /// Where a file is. Free, and may be asked again.
    pub fn find_file(&self, file_id: &str, max_bytes: u64) -> Result<Found, NoFile> {
        let token = self.token();
        let url = format!("{}/bot{token}/getFile", self.base());
        let args = json!({ "file_id": file_id }).to_string();
        let body = Body::Bytes {
            content_type: "application/json",
            bytes: args.as_bytes(),
        };
        let answer = match self.exchange(&url, body, JSON_CALL) {
            Ok(answer) => {
                self.note(answer.status, &token);
                answer
            }
            Err(broken) => return Err(NoFile::Away(no_answer(broken, &token, false))),
        };
        let json: Option<Value> = first(json_in(&String::from_utf8_lossy(&answer.body)));
        if let Some(json) = &json
            && json["ok"] == true
        {
            let size = json["result"]["file_size"].as_u64();
            if size.is_some_and(|size| size > max_bytes) {
                return Err(NoFile::TooBig);
            }
            // A file that Telegram has no path for is not there (its page: "may be absent").
            let path = json["result"]["file_path"].as_str();
            let path = path.ok_or(NoFile::Missing)?.to_owned();
            return Ok(Found { path, size });
        }
        let said = json.as_ref().and_then(|json| json["description"].as_str());
        let said = said.unwrap_or_default().to_lowercase();
        let said = said.strip_prefix("bad request: ").unwrap_or(&said);
        if said.ends_with("the file is temporarily unavailable") {
            return Err(NoFile::Missing);
        }
        let wrong = [
            "invalid file_id",
            "wrong file_id",
            "wrong file identifier",
            "wrong remote file identifier specified",
            "file_id not specified",
        ];
        if wrong.iter().any(|text| said.starts_with(text)) {
            return Err(NoFile::Wrong);
        }
        let text = without_token(&String::from_utf8_lossy(&answer.body), &token);
        let refusal = classify(
            answer.status,
            answer.header("retry-after"),
            text.as_bytes(),
            false,
        );
        Err(match refusal {
            Refusal::FallBack(Cause::TooBig) => NoFile::TooBig,
            Refusal::RetryAfter { wait } => NoFile::Wait(wait),
            Refusal::Operator(text) => NoFile::Operator(text),
            away @ (Refusal::Unknown(_) | Refusal::Broke(_) | Refusal::NotSent(_)) => {
                NoFile::Away(away)
            }
            // Nor does a page tell of a file.
            Refusal::Other400(text) if json.is_none() => NoFile::Away(Refusal::Broke(text)),
            // A text that is not known yet: looked at a few times, like one that may pass.
            _ => NoFile::Missing,
        })
    }

    /// The file that [`Telegram::find_file`] found. For transfer threads.
    pub fn fetch_file(&self, found: &Found, max_bytes: u64) -> Result<Fetched, NoFile> {
        let path = found.path.as_str();
        let name = path.rsplit('/').next().unwrap_or_default();
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let extension = extension.to_ascii_lowercase();
        let file = if path.starts_with('/') {
            self.local_file(path, max_bytes)?
        } else {
            self.remote_file(path, max_bytes)?
        };
        let broke = |text: String| Err(NoFile::Away(Refusal::Broke(text)));
        if is_page(&file, &extension) {
            return broke("a page came in place of the file".to_owned());
        }
        // An answer without a length ends wherever its connection does.
        if let Some(size) = found.size.filter(|size| *size != file.len) {
            return broke(format!("{} bytes came of a file of {size}", file.len));
        }
        Ok(Fetched { file, extension })
    }

    fn remote_file(&self, path: &str, max_bytes: u64) -> Result<Spooled, NoFile> {
        let odd = || {
            let text = "its path cannot be read".to_owned();
            NoFile::Away(Refusal::Broke(text))
        };
        let path = escaped(path).ok_or_else(odd)?;
        let token = self.token();
        let url = format!("{}/file/bot{token}/{path}", self.base());
        let bounds = Bounds {
            connect: CONNECT,
            total: UPLOAD_BASE + Duration::from_secs(max_bytes / SLOWEST_BYTES_PER_S),
            max_bytes,
        };
        let fetched = self.http.fetch(Service::Telegram, &url, bounds, STALL);
        fetched.map_err(|error| match error {
            DownloadError::TooBig { .. } => NoFile::TooBig,
            DownloadError::Gone(_) => NoFile::Missing,
            DownloadError::Status(401) => {
                self.note(401, &token);
                NoFile::Operator("the token is refused".to_owned())
            }
            disk @ DownloadError::Disk { .. } => NoFile::Disk(disk.to_string()),
            other => NoFile::Away(Refusal::Broke(quote(&other.to_string(), &token))),
        })
    }

    /// A server that was started with `--local` names a file of its own folder, `<folder>/<token>/…`. It is
    /// believed only on this machine, only below a folder of this bot, and only for a plain file: whatever is
    /// read here becomes public.
    fn local_file(&self, path: &str, max_bytes: u64) -> Result<Spooled, NoFile> {
        let refused = |why: &str| Err(NoFile::Local(why.to_owned()));
        if !Place::of(self.base()).is_some_and(|place| place.is_loopback()) {
            return refused("the Bot API server names a file of another machine");
        }
        let path = Path::new(path);
        let own = |part: &str| {
            part.strip_prefix(self.bot())
                .is_some_and(|rest| rest.starts_with([':', '~']))
        };
        let mut parts = path.components();
        let climbs = parts.clone().any(|part| part == Component::ParentDir);
        if climbs || !parts.any(|part| part.as_os_str().to_str().is_some_and(own)) {
            return refused("the Bot API server names a file that is not in this bot's folder");
        }
        match spool(path, max_bytes) {
            Ok(Some(file)) => Ok(file),
            Ok(None) => Err(NoFile::TooBig),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NoFile::Missing),
            Err(error) => {
                let why = report::in_words(&error);
                let why = format!("the file of the local Bot API server cannot be read: {why}");
                // These pass: too many files are open, there is no memory, the disk has trouble.
                let passes = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO];
                let code = Errno::from_io_error(&error);
                Err(match code.is_some_and(|code| passes.contains(&code)) {
                    true => NoFile::Disk(why),
                    false => NoFile::Local(why),
                })
            }
        }
    }

    fn base(&self) -> &str {
        self.base_url.trim_end_matches('/')
    }
}

/// Whether something in front of Telegram answered in its place: by what it calls its answer, since what is in
/// a user's file is the user's business, a page that calls itself one included.
fn is_page(file: &Spooled, extension: &str) -> bool {
    let called = file.content_type.as_deref();
    called == Some("text/html")
        && !matches!(extension, "html" | "htm" | "xhtml")
        && file.head.trim_ascii_start().starts_with(b"<")
}

/// Opens a plain file as it is; `None`: it is too big.
fn spool(path: &Path, max_bytes: u64) -> io::Result<Option<Spooled>> {
    // Not through a link, and not waiting for whoever writes into a pipe.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut file: File = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if about.len() > max_bytes {
        return Ok(None);
    }
    let mut head = Vec::new();
    (&mut file).take(HEAD).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(Some(Spooled {
        file,
        len: about.len(),
        content_type: None,
        head,
    }))
}

/// A relative path for a URL; `None` for one that leads out of its folder.
fn escaped(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    for (number, part) in path.split('/').enumerate() {
        if matches!(part, "" | "." | "..") {
            return None;
        }
        if number > 0 {
            out.push('/');
        }
        for byte in part.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(byte.into());
            } else {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Http, HttpSettings};
    use std::fs;
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::os::unix::fs::symlink;

    fn at(path: &str, size: Option<u64>) -> Found {
        Found {
            path: path.to_owned(),
            size,
        }
    }

    fn telegram(base: &str) -> Telegram {
        let http = Http::new(HttpSettings {
            threads: 1,
            plain_http: Vec::new(),
        });
        Telegram::new(http, base.to_owned(), "7:secret-secret".to_owned())
    }

    #[test]
    fn a_path_cannot_leave_its_folder_nor_change_the_url() {
        for (path, expected) in [
            ("photos/file_1.jpg", Some("photos/file_1.jpg")),
            ("docs/a b?c#ä.pdf", Some("docs/a%20b%3Fc%23%C3%A4.pdf")),
            ("../getMe", None),
            ("a/../b", None),
            ("a//b", None),
            ("", None),
        ] {
            assert_eq!(escaped(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn only_plain_files_of_this_bots_folder_on_this_machine_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("7:secret-secret");
        fs::create_dir_all(own.join("photos")).unwrap();
        let named = |name: &str| own.join(name).to_str().unwrap().to_owned();
        fs::write(named("photos/a.JPG"), b"bytes").unwrap();
        fs::write(folder.path().join("foreign"), b"secret").unwrap();
        symlink(folder.path().join("foreign"), named("link")).unwrap();
        let pipe = std::process::Command::new("mkfifo")
            .arg(named("pipe"))
            .status();
        assert!(pipe.unwrap().success());
        let local = telegram("http://127.0.0.1:8081");
        let mut got = local
            .fetch_file(&at(&named("photos/a.JPG"), None), 5)
            .unwrap();
        let mut bytes = Vec::new();
        got.file.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(
            (bytes.as_slice(), got.extension.as_str()),
            (&b"bytes"[..], "jpg")
        );
        assert_eq!(got.file.head, b"bytes");
        let too_big = local
            .fetch_file(&at(&named("photos/a.JPG"), None), 4)
            .unwrap_err();
        assert_eq!(too_big, NoFile::TooBig);
        let none = local
            .fetch_file(&at(&named("photos/b.jpg"), None), 5)
            .unwrap_err();
        assert_eq!(none, NoFile::Missing);
        let climbing = named("../foreign");
        let foreign = folder.path().join("foreign").to_str().unwrap().to_owned();
        for path in [
            &named("link"),
            &named("pipe"),
            &named("photos"),
            &climbing,
            &foreign,
        ] {
            let refused = local.fetch_file(&at(path, None), 100).unwrap_err();
            assert!(matches!(refused, NoFile::Local(_)), "{path}: {refused:?}");
            assert!(!format!("{refused:?}").contains("secret-secret"));
        }
        let far = telegram("https://bots.example").fetch_file(&at(&named("photos/a.JPG"), None), 5);
        assert!(matches!(far, Err(NoFile::Local(_))), "{far:?}");
    }

    /// A server that gives one answer after the other, each on a connection of its own that it then closes.
    fn serving(answers: &[&str]) -> Telegram {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut peer, _) = listener.accept().unwrap();
                let mut asked = Vec::new();
                let mut buffer = [0; 4096];
                // A question without a body, or one that comes with its head or right behind it.
                while !asked.ends_with(b"\r\n\r\n") && !asked.ends_with(b"}") {
                    let n = peer.read(&mut buffer).unwrap();
                    asked.extend_from_slice(&buffer[..n]);
                }
                peer.write_all(answer.as_bytes()).unwrap();
            }
        });
        telegram(&base)
    }

    fn is_away(got: &Result<Fetched, NoFile>) -> bool {
        matches!(got, Err(NoFile::Away(_)))
    }

    #[test]
    fn a_file_that_came_short_is_none() {
        let found = r#"{"ok":true,"result":{"file_id":"x","file_size":10,"file_path":"a/b.png"}}"#;
        let found = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{found}",
            found.len()
        );
        let open = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
        let (half, whole) = (format!("{open}01234"), format!("{open}0123456789"));
        let telegram = serving(&[&found, &half, &whole, &half]);
        let found = telegram.find_file("x", 100).unwrap();
        assert_eq!(found, at("a/b.png", Some(10)));
        let got = telegram.fetch_file(&found, 100);
        assert!(is_away(&got), "{got:?}");
        assert_eq!(telegram.fetch_file(&found, 100).unwrap().file.len, 10);
        // Where nothing is said of its size it is what came.
        let got = telegram.fetch_file(&at("a/b.png", None), 100).unwrap();
        assert_eq!(got.file.len, 5);
    }

    #[test]
    fn a_page_is_no_word_of_telegrams_about_a_file() {
        let answer = |status: &str, kind: &str, body: &str| {
            format!(
                "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
        };
        let page = "\n<!-- a gateway --><html></html>";
        let gone = r#"{"ok":false,"error_code":404,"description":"Not Found"}"#;
        for (status, kind, body, path, expected) in [
            (
                "200 OK",
                "text/html; charset=utf-8",
                page,
                "a/b.pdf",
                "away",
            ),
            ("403 Forbidden", "text/html", page, "a/b.png", "away"),
            ("404 Not Found", "text/html", page, "a/b.png", "away"),
            (
                "404 Not Found",
                "application/json",
                gone,
                "a/b.png",
                "missing",
            ),
            // A user's own, and a file that a server only calls so.
            ("200 OK", "text/html", page, "a/b.html", "here"),
            ("200 OK", "text/html", "\u{89}PNG", "a/b.png", "here"),
        ] {
            let telegram = serving(&[&answer(status, kind, body)]);
            let got = match telegram.fetch_file(&at(path, None), 1000) {
                Ok(_) => "here",
                Err(NoFile::Missing) => "missing",
                Err(NoFile::Away(_)) => "away",
                Err(other) => panic!("{other:?}"),
            };
            assert_eq!(got, expected, "{status} {kind} {path}");
        }
        let telegram = serving(&[&answer("400 Bad Request", "text/html", page)]);
        let got = telegram.find_file("x", 1000);
        assert!(matches!(got, Err(NoFile::Away(_))), "{got:?}");
    }
}
