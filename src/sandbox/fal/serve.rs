//! From a request to an answer, by the rules of section 12: keys, paths, states, outputs, files.
//!
//! Everything that a client can notice of fal is decided here; the queue decides only when.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::headers::Wishes;
use super::queue::{End, Event, Job, NewJob, Phase, State};
use super::{CancelledAnswer, Outcome, Script, Shared};
use crate::sandbox::http::{Gate, Handler, Payload, Request, Response, lock};
use crate::sandbox::media;

/// What a queue path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Submit {
        stem: String,
    },
    Request {
        stem: String,
        id: &'a str,
        tail: &'a [&'a str],
    },
    /// `requests` stands under a sub-path of the model.
    SubPath,
    Nonsense,
}

/// `[namespace/]owner/alias` is the stem; namespaces are `workflows` and `comfy`.
pub(super) fn target<'a>(parts: &'a [&'a str]) -> Target<'a> {
    let length = if matches!(parts.first(), Some(&("workflows" | "comfy"))) {
        3
    } else {
        2
    };
    if parts.len() < length || parts.iter().any(|part| part.is_empty()) {
        return Target::Nonsense;
    }
    let stem = parts[..length].join("/");
    match parts[length..].split_first() {
        Some((&"requests", [id, tail @ ..])) => Target::Request { stem, id, tail },
        _ if parts[length..].contains(&"requests") => Target::SubPath,
        _ => Target::Submit { stem },
    }
}

pub(super) fn parts(path: &str) -> Vec<&str> {
    path.trim_matches('/').split('/').collect()
}

pub(super) fn detail(status: u16, text: &str) -> Response {
    Response::json(status, json!({ "detail": text }).to_string())
}

pub(super) fn not_found() -> Response {
    Response::json(404, r#"{"status":"NOT_FOUND"}"#)
}

impl Shared {
    pub(super) fn urls(&self) -> (&str, &str) {
        self.urls.get().map_or(("", ""), |urls| {
            (urls.queue.as_str(), urls.file_host.as_str())
        })
    }

    pub(super) fn violation(&self, text: String) {
        let mut list = lock(&self.violations);
        // A bound: a client in a loop must not fill the memory of the test.
        if list.len() < 10_000 {
            list.push(text);
        }
    }

    pub(super) fn key(&self) -> String {
        lock(&self.keys).last().cloned().unwrap_or_default()
    }

    /// One that was ever accepted.
    fn carries_a_key(&self, request: &Request) -> bool {
        let keys = lock(&self.keys);
        keys.iter()
            .any(|key| in_headers(request, key) || request.mentions(key))
    }

    /// Section 12.1, word by word; `None` when the key is right.
    pub(super) fn refuse_key(&self, request: &Request, stem: &str) -> Option<Response> {
        let Some(value) = request.header("authorization") else {
            self.violation(format!("no-key: {} {}", request.method, request.path));
            return Some(detail(
                401,
                &format!(
                    "Cannot access application \"{stem}\". Authentication is required to access this application."
                ),
            ));
        };
        match value.strip_prefix("Key ") {
            Some(pair) if pair == self.key() => None,
            Some(pair) if !pair.contains(':') => Some(detail(
                401,
                "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'.",
            )),
            _ => Some(detail(401, "invalid key credentials")),
        }
    }

    pub(super) fn watch(&self, request: &Request) {
        let secrets = lock(&self.secrets);
        if secrets
            .iter()
            .any(|secret| request.mentions(secret) || in_headers(request, secret))
        {
            self.violation(format!("foreign-secret: {} to fal", request.method));
        }
        if request.header("expect").is_some() {
            self.violation("expect: Expect: 100-continue is never answered".into());
        }
    }

    /// 405 with a note: a correct client never sees it.
    pub(super) fn wrong_method(&self, request: &Request) -> Response {
        self.violation(format!("405: {} {}", request.method, request.path));
        detail(405, "Method Not Allowed")
    }

    /// The object in the body, or the refusal.
    pub(super) fn json_input(&self, request: &Request) -> Result<Value, Response> {
        let typed = request
            .header("content-type")
            .is_some_and(|value| value.starts_with("application/json"));
        if !typed {
            self.violation(format!(
                "content-type: submit to {} without application/json",
                request.path
            ));
        }
        match serde_json::from_slice::<Value>(&request.body) {
            Ok(Value::Object(map)) if typed => {
                if map.len() == 1 && map.get("input").is_some_and(Value::is_object) {
                    self.violation(format!("wrapper: body of {} is only {{\"input\":…}}", request.path));
                }
                Ok(Value::Object(map))
            }
            _ => Err(Response::json(
                422,
                json!({"detail": [{
                    "type": "json_invalid", "loc": ["body", 0], "msg": "JSON decode error", "input": {},
                    "ctx": {"error": "Expecting an object"},
                }]})
                .to_string(),
            )),
        }
    }

    pub(super) fn locked_out(&self) -> Option<Response> {
        let text = "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing.";
        self.locked
            .load(Ordering::Relaxed)
            .then(|| detail(403, text))
    }

    /// The script of a model; a known app without this path ends as `NoSuchPath`, an unknown app is refused.
    pub(super) fn script(
        &self,
        state: &State,
        model: &str,
        stem: &str,
    ) -> Result<(Arc<Script>, bool), Response> {
        if let Some(script) = state.models.get(model) {
            return Ok((script.clone(), true));
        }
        let known = state.models.iter().find(|(name, _)| {
            name.strip_prefix(stem)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        match known {
            Some((_, script)) => Ok((script.clone(), false)),
            None => {
                let alias = stem.rsplit('/').next().unwrap_or(stem);
                Err(detail(404, &format!("Application \"{alias}\" not found")))
            }
        }
    }

    pub(super) fn submit(&self, request: &Request, stem: &str) -> Response {
        if request.method != "POST" {
            return self.wrong_method(request);
        }
        if let Some(refusal) = self.refuse_key(request, stem).or_else(|| self.locked_out()) {
            return refusal;
        }
        let Wishes { start_within, low } = match self.wishes(request) {
            Ok(wishes) => wishes,
            Err(refusal) => return refusal,
        };
        if let Err(refusal) = self.json_input(request) {
            return refusal;
        }
        let model = request.path.trim_matches('/');
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.advance(Instant::now());
        let (script, path_known) = match self.script(state, model, stem) {
            Ok(found) => found,
            Err(refusal) => return refusal,
        };
        if let Some((status, body)) = &script.fail_submit {
            return Response::json(*status, body.to_string());
        }
        let most = request
            .query("fal_max_queue_length")
            .and_then(|text| text.parse::<usize>().ok());
        if most.is_some_and(|most| state.normal.len() + state.low.len() > most) {
            return detail(429, "Queue length limit reached");
        }
        let disappears = matches!(script.outcome, Outcome::Disappear);
        let at = state.accept(NewJob {
            request,
            model,
            stem,
            script,
            low,
            direct: false,
        });
        if disappears {
            state.jobs[at].phase = Phase::Gone;
        } else if !path_known {
            state.end(at, End::NoSuchPath);
        } else {
            state.enqueue(at);
            if let Some(span) = start_within {
                let deadline = state.clock + span;
                state.jobs[at].deadline = Some(deadline);
                state.schedule(deadline, Event::StartDeadline(at));
            }
        }
        // The answer says how many were ahead on arrival, before a free runner takes it.
        let position = if state.jobs[at].phase == Phase::Queued {
            state.position(at)
        } else {
            0
        };
        state.fill_slots();
        let id = state.jobs[at].entry.request_id.clone();
        drop(guard);
        let mut body = format!("{{\"status\":\"IN_QUEUE\",\"request_id\":\"{id}\",");
        self.write_urls(&mut body, stem, &id);
        let _ = write!(
            body,
            ",\"queue_position\":{position},\"logs\":null,\"metrics\":{{}}}}"
        );
        Response::json(200, body).with_header("x-fal-request-id", id)
    }

    pub(super) fn write_urls(&self, body: &mut String, stem: &str, id: &str) {
        let base = self.urls().0;
        let url = format!("{base}/{stem}/requests/{id}");
        let _ = write!(
            body,
            "\"response_url\":\"{url}\",\"status_url\":\"{url}/status\",\"cancel_url\":\"{url}/cancel\""
        );
    }

    pub(super) fn status(&self, request: &Request, stem: &str, id: &str) -> Response {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let logs = match request.query("logs") {
            None | Some("0" | "false") => false,
            Some("1" | "true") => true,
            Some(_) => {
                return Response::json(
                    422,
                    r#"{"detail":[{"type":"bool_parsing","loc":["query","logs"],"msg":"Input should be a valid boolean"}]}"#,
                );
            }
        };
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.advance(Instant::now());
        let Some(at) = self.find(state, stem, id) else {
            return not_found();
        };
        state.jobs[at].entry.polls += 1;
        state.jobs[at].entry.polled = Some(state.clock);
        state.jobs[at].entry.status_found_end |= matches!(state.jobs[at].phase, Phase::Done(_));
        let job = &state.jobs[at];
        // Whoever has read what failed may ask whether that was the end of it.
        if job.entry.fetches > 0 && job.entry.billed {
            self.violation(format!("poll-after-result: {id}"));
        }
        let mut body = String::with_capacity(512);
        let _ = match job.phase {
            Phase::Queued => {
                write!(
                    body,
                    "{{\"status\":\"IN_QUEUE\",\"queue_position\":{},",
                    state.position(at)
                )
            }
            Phase::Running => write!(body, "{{\"status\":\"IN_PROGRESS\","),
            Phase::Done(_) | Phase::Gone => write!(body, "{{\"status\":\"COMPLETED\","),
        };
        let _ = write!(body, "\"request_id\":\"{id}\",");
        self.write_urls(&mut body, stem, id);
        if job.phase != Phase::Queued {
            body.push_str(match logs {
                true => ",\"logs\":[{\"message\":\"Generating\",\"level\":\"INFO\",\"source\":\"USER\",\"timestamp\":\"2026-02-17T10:30:02.456Z\"}]",
                false => ",\"logs\":null",
            });
        }
        let mut code = 202;
        if let Phase::Done(end) = job.phase {
            code = 200;
            match error_fields(job, end) {
                Some((error, kind)) => {
                    let _ = write!(
                        body,
                        ",\"metrics\":{{}},\"error\":{error},\"error_type\":{kind}"
                    );
                }
                None => {
                    let seconds = job.generation.as_secs_f64();
                    let _ = write!(body, ",\"metrics\":{{\"inference_time\":{seconds}}}");
                }
            }
        }
        body.push('}');
        Response::json(code, body).with_header("x-fal-request-id", id)
    }

    /// A live request with this id under this stem.
    pub(super) fn find(&self, state: &State, stem: &str, id: &str) -> Option<usize> {
        let at = *state.by_id.get(id)?;
        let job = &state.jobs[at];
        if job.stem != stem {
            self.violation(format!("wrong-stem: {stem} for {id} of {}", job.stem));
            return None;
        }
        let hidden = match job.phase {
            Phase::Gone => true,
            Phase::Done(End::Cancelled) => {
                state.cancelled_answer == CancelledAnswer::NotFound && job.entry.started.is_none()
            }
            Phase::Done(end) => state.expired(job, || self.output(job, end).body.len() as usize),
            Phase::Queued | Phase::Running => false,
        };
        (!hidden && !job.entry.direct).then_some(at)
    }

    pub(super) fn result(&self, stem: &str, id: &str) -> Response {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.advance(Instant::now());
        let found = self.find(state, stem, id);
        let early = found.is_some_and(|at| !matches!(state.jobs[at].phase, Phase::Done(_)));
        let calls = if early {
            &self.looks
        } else {
            &self.result_calls
        };
        calls.fetch_add(1, Ordering::Relaxed);
        let Some(at) = found else {
            return not_found();
        };
        let Phase::Done(end) = state.jobs[at].phase else {
            let entry = &mut state.jobs[at].entry;
            entry.polls += 1;
            entry.early += 1;
            entry.polled = Some(state.clock);
            let code = self.pending_code.load(Ordering::Relaxed) as u16;
            return detail(code, "Request is still in progress")
                .with_header("x-fal-request-id", id);
        };
        let clock = state.clock;
        let entry = &mut state.jobs[at].entry;
        entry.fetches += 1;
        if entry.polled < entry.completed {
            entry.polled = Some(clock); // no look before this one has found its end
        }
        self.output(&state.jobs[at], end)
            .with_header("x-fal-request-id", id)
    }

    pub(super) fn cancel(&self, stem: &str, id: &str) -> Response {
        self.cancel_calls.fetch_add(1, Ordering::Relaxed);
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.advance(Instant::now());
        let Some(at) = self.find(state, stem, id) else {
            return not_found();
        };
        let response = match state.jobs[at].phase {
            Phase::Queued => {
                state.leave_queue(at);
                state.end(at, End::Cancelled);
                state.jobs[at].entry.cancelled = true;
                Response::json(200, r#"{"status":"OK"}"#)
            }
            Phase::Running => {
                state.jobs[at].entry.cancelled = true;
                if state.jobs[at].script.heeds_cancel {
                    state.finish(at, End::Cancelled);
                    state.fill_slots();
                }
                Response::json(202, r#"{"status":"CANCELLATION_REQUESTED"}"#)
            }
            Phase::Done(_) | Phase::Gone => {
                Response::json(400, r#"{"status":"ALREADY_COMPLETED"}"#)
            }
        };
        response.with_header("x-fal-request-id", id)
    }

    /// What the result call (or the direct call) answers.
    pub(super) fn output(&self, job: &Job, end: End) -> Response {
        let id = &job.entry.request_id;
        match end {
            End::AsScripted => {}
            End::StartDeadline => {
                return Response::json(
                    504,
                    r#"{"detail":"Request timed out","error_type":"startup_timeout"}"#,
                )
                .with_header("X-Fal-Request-Timeout-Type", "user")
                .with_header("X-Fal-Error-Type", "startup_timeout")
                .with_header("x-fal-billable-units", "0");
            }
            End::Cancelled => {
                return detail(499, "Request cancelled by the client.")
                    .with_header("x-fal-billable-units", "0");
            }
            End::NoSuchPath => {
                let path = job
                    .entry
                    .model
                    .strip_prefix(job.stem.as_str())
                    .unwrap_or("");
                return detail(404, &format!("Path {path} not found"))
                    .with_header("x-fal-billable-units", "0");
            }
        }
        let files = format!("http://{}/files/{id}", self.urls().1);
        let prompt = serde_json::from_slice::<Value>(&job.entry.input).ok();
        let prompt = prompt
            .and_then(|mut input| input.get_mut("prompt").map(Value::take))
            .unwrap_or(Value::Null);
        let script = &job.script;
        let (width, height) = script.image_size;
        let image = |i: u32| {
            json!({"url": format!("{files}/{i}.png"), "width": width, "height": height,
                   "content_type": "image/png", "file_name": null, "file_size": null})
        };
        let body = match &script.outcome {
            Outcome::Images(n) => json!({
                "images": (0..*n).map(image).collect::<Vec<_>>(),
                "timings": {"inference": job.generation.as_secs_f64()},
                "seed": job.seed,
                "has_nsfw_concepts": vec![script.nsfw; *n as usize],
                "prompt": prompt,
                "a_field_not_seen_before": {"nested": [1, 2]},
            }),
            Outcome::CrashThenRetry => {
                json!({"images": [image(0)], "seed": job.seed, "prompt": prompt})
            }
            Outcome::BigImage(bytes) => json!({"image": {
                "url": format!("{files}/0.jpg"), "content_type": "image/jpeg", "file_name": "0.jpg",
                "file_size": bytes, "width": 3000, "height": 2000}}),
            Outcome::Video => json!({"seed": 42, "actual_prompt": prompt, "video": {
                "url": format!("{files}/0.mp4"), "content_type": "video/mp4", "file_name": "output.mp4",
                "file_size": media::mp4_head(0).len(), "width": 1280, "height": 720, "duration": 5.04, "fps": 25}}),
            Outcome::HugeVideo(bytes) => json!({"video": {
                "url": format!("{files}/0.mp4"), "content_type": "video/mp4", "file_name": "output.mp4",
                "file_size": bytes}}),
            Outcome::Audio => json!({"audio_url": {
                "url": format!("{files}/0.mp3"), "content_type": "audio/mpeg", "file_name": "0.mp3",
                "file_size": media::mp3_head(0).len()}}),
            Outcome::Text(text) => {
                json!({"output": text, "reasoning": null, "partial": false, "error": null})
            }
            Outcome::Json(value) => filled(value, &files, id),
            Outcome::DataUri(bytes) => json!({"seed": job.seed, "images": [{
                "url": format!("data:image/png;base64,{}", media::base64(bytes)), "content_type": "image/png"}]}),
            Outcome::Error {
                status,
                body,
                headers,
                ..
            } => {
                let response = Response::json(*status, body.to_string());
                let response = response.with_header("x-fal-billable-units", "0");
                return headers.iter().fold(response, |r, (name, value)| {
                    r.with_header(name.clone(), value)
                });
            }
            Outcome::Never | Outcome::Disappear => json!({}),
        };
        Response::json(200, body.to_string())
            .with_header("x-fal-billable-units", script.units.as_str())
    }

    pub(super) fn direct(&self, request: &Request) -> Response {
        let path = parts(&request.path);
        let Target::Submit { stem } = target(&path) else {
            return detail(404, "Not Found");
        };
        if request.method != "POST" {
            return self.wrong_method(request);
        }
        if let Some(refusal) = self
            .refuse_key(request, &stem)
            .or_else(|| self.locked_out())
        {
            return refusal;
        }
        // Without a queue none of them changes anything here; their forms are the same.
        if let Err(refusal) = self.wishes(request) {
            return refusal;
        }
        if let Err(refusal) = self.json_input(request) {
            return refusal;
        }
        let model = path.join("/");
        let (at, span) = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            state.advance(Instant::now());
            let (script, path_known) = match self.script(state, &model, &stem) {
                Ok(found) => found,
                Err(refusal) => return refusal,
            };
            if let Some((status, body)) = &script.fail_submit {
                return Response::json(*status, body.to_string());
            }
            if state.running >= state.slots {
                let limit = state.slots;
                let body = json!({"detail": format!("Reached concurrent requests limit of {limit}"),
                    "type": "concurrent_requests_limit", "data": {"limit": limit}});
                return Response::json(429, body.to_string()).with_header("X-Fal-needs-retry", "1");
            }
            let never = matches!(script.outcome, Outcome::Never | Outcome::Disappear);
            let at = state.accept(NewJob {
                request,
                model: &model,
                stem: &stem,
                script,
                low: false,
                direct: true,
            });
            let job = &mut state.jobs[at];
            if !path_known {
                state.end(at, End::NoSuchPath);
                (at, Duration::ZERO)
            } else {
                job.phase = Phase::Running;
                job.entry.started = Some(state.clock);
                let span = if never {
                    Duration::from_secs(3600)
                } else {
                    job.generation
                };
                state.running += 1;
                (at, span)
            }
        };
        self.stop.sleep(span);
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.advance(Instant::now());
        if state.jobs[at].phase == Phase::Running {
            state.finish(at, End::AsScripted);
            state.fill_slots();
        }
        let job = &mut state.jobs[at];
        job.entry.fetches += 1;
        let Phase::Done(end) = job.phase else {
            return not_found();
        };
        let id = job.entry.request_id.clone();
        self.output(&state.jobs[at], end)
            .with_header("x-fal-request-id", id)
    }

    /// The file host: no key, GET and HEAD, PUT for announced uploads.
    pub(super) fn file(&self, request: &Request) -> Response {
        let named = |text: &str| Response::new(404, "text/plain", text);
        let path = parts(&request.path);
        match (request.method.as_str(), path.as_slice()) {
            ("PUT", ["uploads", id, _]) if request.query("signature") == Some(id) => {
                self.put(request)
            }
            ("GET" | "HEAD", ["uploads", ..]) => match lock(&self.uploads).get(&request.path) {
                Some((kind, bytes)) => Response {
                    body: Payload::Shared(bytes.clone()),
                    ..Response::new(200, kind.clone(), "")
                },
                None => named("no such upload"),
            },
            ("GET" | "HEAD", ["files", id, name]) => {
                self.file_calls.fetch_add(1, Ordering::Relaxed);
                match self.made_file(id, name) {
                    Some((kind, body)) => Response {
                        body,
                        ..Response::new(200, kind, "")
                    },
                    None => named("no such file"),
                }
            }
            ("GET" | "HEAD", _) => named("not found"),
            _ => self.wrong_method(request),
        }
    }

    /// A file of a finished request, made anew each time: the same bytes for the same path.
    pub(super) fn made_file(&self, id: &str, name: &str) -> Option<(&'static str, Payload)> {
        if lock(&self.gone_files).contains(id) {
            return None;
        }
        let (script, seed) = {
            let mut state = lock(&self.state);
            state.advance(Instant::now());
            let at = *state.by_id.get(id)?;
            let job = &state.jobs[at];
            if job.phase != Phase::Done(End::AsScripted) {
                return None;
            }
            (job.script.clone(), job.seed)
        };
        let (stem, extension) = name.rsplit_once('.')?;
        let number = stem.parse::<u32>().ok();
        match (&script.outcome, extension) {
            (Outcome::Images(n), "png") if number.is_some_and(|i| i < *n) => {}
            (Outcome::CrashThenRetry, "png") | (Outcome::BigImage(_), "jpg")
                if name.starts_with("0.") => {}
            (Outcome::Video | Outcome::HugeVideo(_), "mp4") | (Outcome::Audio, "mp3")
                if name.starts_with("0.") => {}
            (Outcome::Json(_), _) => {}
            _ => return None,
        }
        // One seed per file of a request.
        let seed = seed ^ media::fingerprint(name.as_bytes()).hash;
        let (width, height) = script.image_size;
        let padded = |head: Vec<u8>| match script.outcome {
            Outcome::BigImage(len) | Outcome::HugeVideo(len) => Payload::Padded { head, len },
            _ => Payload::Bytes(head),
        };
        Some(match extension {
            "png" => (
                "image/png",
                Payload::Bytes(media::png(width, height, (!script.nsfw).then_some(seed))),
            ),
            "jpg" | "jpeg" => ("image/jpeg", padded(media::jpeg_head(3000, 2000, seed))),
            "gif" => ("image/gif", padded(media::gif(64, 64, seed))),
            "mp4" => ("video/mp4", padded(media::mp4_head(seed))),
            "mp3" => ("audio/mpeg", padded(media::mp3_head(seed))),
            "pdf" => (
                "application/pdf",
                Payload::Bytes([b"%PDF-1.4\n".as_slice(), &seed.to_be_bytes()].concat()),
            ),
            "zip" => (
                "application/zip",
                Payload::Bytes([b"PK\x03\x04".as_slice(), &seed.to_be_bytes()].concat()),
            ),
            "svg" => (
                "image/svg+xml",
                Payload::Bytes(format!("<svg id=\"s{seed}\"/>").into_bytes()),
            ),
            _ => (
                "application/octet-stream",
                Payload::Bytes([b"BIN\0".as_slice(), &seed.to_be_bytes()].concat()),
            ),
        })
    }
}

/// `error` and `error_type` of a COMPLETED status, as JSON text.
pub(super) fn error_fields(job: &Job, end: End) -> Option<(String, String)> {
    let quoted = |text: &str| Value::from(text).to_string();
    match (end, &job.script.outcome) {
        (End::StartDeadline, _) => Some((quoted("Request timed out"), quoted("startup_timeout"))),
        (End::Cancelled, _) => Some((
            quoted("Request cancelled by the client."),
            quoted("client_cancelled"),
        )),
        (
            End::AsScripted,
            Outcome::Error {
                body,
                with_error_field: true,
                ..
            },
        ) => {
            let kind = body["error_type"]
                .as_str()
                .or_else(|| body["detail"][0]["type"].as_str());
            let text = body["detail"]
                .as_str()
                .or_else(|| body["detail"][0]["msg"].as_str());
            Some((
                quoted(text.unwrap_or("Invalid status code")),
                quoted(kind.unwrap_or("internal_error")),
            ))
        }
        (End::AsScripted | End::NoSuchPath, _) => None,
    }
}

pub(super) fn filled(value: &Value, files: &str, id: &str) -> Value {
    match value {
        Value::String(text) => {
            Value::String(text.replace("{files}", files).replace("{request_id}", id))
        }
        Value::Array(items) => items.iter().map(|item| filled(item, files, id)).collect(),
        Value::Object(map) => {
            let mut map = map.clone();
            for item in map.values_mut() {
                *item = filled(item, files, id);
            }
            Value::Object(map)
        }
        other => other.clone(),
    }
}

pub(super) fn in_headers(request: &Request, secret: &str) -> bool {
    request
        .headers
        .iter()
        .any(|(_, value)| value.contains(secret))
}

/// One port each, one handler each; the name picks the endpoint.
pub(super) struct Port {
    pub(super) shared: Arc<Shared>,
    pub(super) role: Role,
}

#[derive(Clone, Copy)]
pub(super) enum Role {
    Queue,
    Run,
    Storage,
    Files,
}

impl Port {
    pub(super) fn endpoint(&self, request: &Request) -> &'static str {
        match self.role {
            Role::Run => "fal.direct",
            Role::Storage => "fal.initiate",
            Role::Files if request.method == "PUT" => "fal.put",
            Role::Files
                if request
                    .header("user-agent")
                    .is_some_and(|agent| agent.starts_with("TelegramBot")) =>
            {
                "file.telegram"
            }
            Role::Files => "file.worker",
            Role::Queue => match target(&parts(&request.path)) {
                Target::Request {
                    tail: ["status"], ..
                } => "fal.status",
                Target::Request {
                    tail: ["cancel"], ..
                } => "fal.cancel",
                Target::Request { tail: [], .. } => "fal.result",
                _ => "fal.submit",
            },
        }
    }

    pub(super) fn act(&self, request: &Request) -> Response {
        let shared = &self.shared;
        shared.watch(request);
        match self.role {
            Role::Run => shared.direct(request),
            Role::Storage => shared.initiate(request),
            Role::Files => {
                if request.header("authorization").is_some() || shared.carries_a_key(request) {
                    lock(&shared.key_leaks).push(format!("{} {}", request.method, request.path));
                    shared.violation(format!(
                        "key-leak: {} {} on the file host",
                        request.method, request.path
                    ));
                }
                shared.file(request)
            }
            Role::Queue => self.queue(request),
        }
    }

    pub(super) fn queue(&self, request: &Request) -> Response {
        let shared = &self.shared;
        let path = parts(&request.path);
        let (stem, id, tail) = match target(&path) {
            Target::Submit { stem } => return shared.submit(request, &stem),
            Target::SubPath => return shared.wrong_method(request),
            Target::Nonsense => return detail(404, "Not Found"),
            Target::Request { stem, id, tail } => (stem, id, tail),
        };
        let wanted = if matches!(tail, ["cancel"]) {
            "PUT"
        } else {
            "GET"
        };
        if request.method != wanted {
            return shared.wrong_method(request);
        }
        if let Some(refusal) = shared.refuse_key(request, &stem) {
            return refusal;
        }
        match tail {
            ["status"] => shared.status(request, &stem, id),
            ["cancel"] => shared.cancel(&stem, id),
            [] => shared.result(&stem, id),
            _ => shared.wrong_method(request),
        }
    }
}

impl Handler for Port {
    fn gate(&self, head: &Request) -> Gate {
        self.shared.faults.at_head(self.endpoint(head), head)
    }

    fn answer(&self, request: &Request) -> Response {
        let shared = &self.shared;
        let endpoint = self.endpoint(request);
        shared.faults.around(endpoint, request, &shared.stop, || {
            let response = self.act(request);
            shared.barriers.pass(endpoint, request);
            let is_json = response.content_type == "application/json";
            if is_json && response.header("x-fal-request-id").is_none() {
                let number = shared.answers.fetch_add(1, Ordering::Relaxed);
                return response.with_header(
                    "x-fal-request-id",
                    format!("00000000-0000-4000-8000-{number:012x}"),
                );
            }
            response
        })
    }
}
