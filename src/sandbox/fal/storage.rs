//! Uploads: announced with the key, put without it, by the letter of section 7.

use std::sync::Arc;

use serde_json::json;

use super::queue::uuid;
use super::serve::detail;
use super::{FalStandIn, Shared};
use crate::sandbox::http::{Request, Response, find, lock};
use crate::sandbox::media::{self, Fingerprint};

/// One announced upload, as the ledger has it now.
#[derive(Clone, Debug)]
pub struct UploadSeen {
    /// As it was announced.
    pub file_name: String,
    /// As it was announced.
    pub content_type: String,
    /// Where it is served.
    pub url: String,
    /// What was put there last; `None`: nothing yet.
    pub content: Option<Fingerprint>,
    /// How often something was put there.
    pub puts: u32,
}

impl FalStandIn {
    /// Every announced upload, oldest first.
    pub fn uploads(&self) -> Vec<UploadSeen> {
        lock(&self.shared.announced).clone()
    }
}

impl Shared {
    /// `POST /storage/upload/initiate`, with the key.
    pub(super) fn initiate(&self, request: &Request) -> Response {
        if request.path.trim_end_matches('/') != "/storage/upload/initiate" {
            return detail(404, "Not Found");
        }
        if request.method != "POST" {
            return self.wrong_method(request);
        }
        if let Some(refusal) = self.refuse_key(request, "storage") {
            return refusal;
        }
        if request.query("storage_type") != Some("fal-cdn-v3") {
            self.violation("storage: initiate without storage_type=fal-cdn-v3".into());
        }
        let input = match self.json_input(request) {
            Ok(input) => input,
            Err(refusal) => return refusal,
        };
        let (Some(file_name), Some(content_type)) =
            (input["file_name"].as_str(), input["content_type"].as_str())
        else {
            self.violation("storage: initiate without file_name and content_type".into());
            return detail(422, "file_name and content_type are required");
        };
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        };
        let name: String = file_name.chars().map(plain).collect();
        let id = uuid(&mut lock(&self.state).rng);
        let url = format!("http://{}/uploads/{id}/{name}", self.urls().1);
        lock(&self.announced).push(UploadSeen {
            file_name: file_name.to_owned(),
            content_type: content_type.to_owned(),
            url: url.clone(),
            content: None,
            puts: 0,
        });
        Response::json(
            200,
            json!({"upload_url": format!("{url}?signature={id}"), "file_url": url}).to_string(),
        )
    }

    /// `PUT` to the announced URL: its type must be the announced one, and nobody's secret in it.
    pub(super) fn put(&self, request: &Request) -> Response {
        let mut announced = lock(&self.announced);
        let upload = announced
            .iter_mut()
            .find(|upload| upload.url.ends_with(&request.path));
        let Some(upload) = upload else {
            return detail(403, "SignatureDoesNotMatch");
        };
        let content_type = request.header("content-type").unwrap_or_default();
        if content_type != upload.content_type {
            self.violation(format!(
                "storage: announced as {}, put as {content_type:?}",
                upload.content_type
            ));
            return detail(403, "SignatureDoesNotMatch");
        }
        if request.content_length.is_none() {
            self.violation("storage: put without a length".into());
        }
        // All of it: a token may stand far behind the head that `watch` looks at.
        let secrets = lock(&self.secrets);
        if secrets
            .iter()
            .any(|secret| find(&request.body, secret.as_bytes(), 0).is_some())
        {
            self.violation("foreign-secret: in an uploaded file".into());
        }
        upload.puts += 1;
        upload.content = Some(media::fingerprint(&request.body));
        let stored = (content_type.to_owned(), Arc::from(request.body.as_slice()));
        lock(&self.uploads).insert(request.path.clone(), stored);
        Response::new(200, "", "")
    }
}
