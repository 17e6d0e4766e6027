//! Files that users sent to the bot: ids for `getFile`, and the bytes under `/file/bot<token>/<file_path>`,
//! or in a folder of this machine, as with `--local`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::check::{Refusal, bad};
use super::{FileSeen, Kind, Shared, TelegramStandIn};
use crate::sandbox::http::{Payload, Request, Response, lock};
use crate::sandbox::media;

/// What users sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// By file id.
    by_id: HashMap<String, UserFile>,
    /// The server runs with `--local` and keeps its files here.
    folder: Option<PathBuf>,
}

#[derive(Debug)]
struct UserFile {
    /// What `getFile` says.
    named: String,
    /// Where it is served.
    path: String,
    /// Its bytes, while the server has them.
    bytes: Option<Payload>,
}

impl Sent {
    /// `file_path` of `getFile`.
    pub(super) fn path_of(&self, file: &FileSeen) -> Result<String, Refusal> {
        match self.by_id.get(&file.file_id) {
            Some(UserFile { bytes: None, .. }) => {
                Err(bad("wrong file_id or the file is temporarily unavailable"))
            }
            Some(file) => Ok(file.named.clone()),
            None => Ok(format!(
                "{}s/file_{}",
                file.kind.field(),
                file.fingerprint.len
            )),
        }
    }
}

impl TelegramStandIn {
    /// A user sends a file to the bot; gives its id. `name`: as the server will call it, `file_1.jpg`.
    pub fn user_file(&self, kind: Kind, name: &str, bytes: Vec<u8>) -> String {
        self.user_payload(kind, name, Payload::Bytes(bytes))
    }

    /// One of so many bytes, zeros behind `head`, never whole in memory here.
    pub fn user_big_file(&self, kind: Kind, name: &str, head: Vec<u8>, len: u64) -> String {
        self.user_payload(kind, name, Payload::Padded { head, len })
    }

    fn user_payload(&self, kind: Kind, name: &str, payload: Payload) -> String {
        let fingerprint = match &payload {
            Payload::Bytes(bytes) => media::fingerprint(bytes),
            Payload::Shared(bytes) => media::fingerprint(bytes),
            Payload::Padded { head, len } => {
                let mut whole = head.clone();
                whole.resize(*len as usize, 0);
                media::fingerprint(&whole)
            }
        };
        let file = self.shared.register(FileSeen {
            file_id: String::new(),
            fingerprint,
            via_url: None,
            upload_name: Some(name.to_owned()),
            media_type: "application/octet-stream",
            dimensions: None,
            kind,
        });
        let mut state = lock(&self.shared.state);
        let mut path = format!("{}s/{name}", kind.field());
        if let (Some(folder), Payload::Bytes(bytes)) = (&state.sent.folder, &payload) {
            let place = folder.join(self.shared.token()).join(&path);
            let written = std::fs::create_dir_all(place.parent().unwrap_or(folder))
                .and_then(|()| std::fs::write(&place, bytes));
            debug_assert!(written.is_ok(), "{written:?}");
            path = place.display().to_string();
        }
        let entry = UserFile {
            named: path.clone(),
            path,
            bytes: Some(payload),
        };
        state.sent.by_id.insert(file.file_id.clone(), entry);
        file.file_id
    }

    /// The server no longer has a file: `getFile` says so.
    pub fn lose_user_file(&self, file_id: &str) {
        if let Some(file) = lock(&self.shared.state).sent.by_id.get_mut(file_id) {
            file.bytes = None;
        }
    }

    /// It names another path for a file from now on, where nothing is.
    pub fn misplace_user_file(&self, file_id: &str, path: &str) {
        if let Some(file) = lock(&self.shared.state).sent.by_id.get_mut(file_id) {
            path.clone_into(&mut file.named);
        }
    }

    /// What a file is, by its id.
    pub fn fingerprint_of_file(&self, file_id: &str) -> Option<media::Fingerprint> {
        let state = lock(&self.shared.state);
        state.files.get(file_id).map(|file| file.fingerprint)
    }

    /// As with `--local`: files of users lie in `<folder>/<token>/`, and `getFile` names them there.
    pub fn serve_locally(&self, folder: &Path) {
        lock(&self.shared.state).sent.folder = Some(folder.to_owned());
    }
}

impl Shared {
    /// `GET /file/bot<token>/<file_path>`.
    pub(super) fn download(&self, request: &Request) -> Response {
        self.watch(request);
        let unknown = |status| {
            let text = r#"{"ok":false,"error_code":404,"description":"Not Found"}"#;
            Response::json(status, text)
        };
        if request.method != "GET" {
            self.violation(format!("405: {} of a file", request.method));
            return unknown(405);
        }
        let rest = request.path.strip_prefix("/file/bot").unwrap_or_default();
        let Some(path) = rest
            .strip_prefix(&self.token())
            .and_then(|rest| rest.strip_prefix('/'))
        else {
            return unknown(401);
        };
        let state = lock(&self.state);
        let found = state.sent.by_id.values().find(|file| file.path == path);
        match found.and_then(|file| file.bytes.clone()) {
            Some(body) => Response {
                body,
                ..Response::new(200, "application/octet-stream", "")
            },
            None => unknown(404),
        }
    }
}
