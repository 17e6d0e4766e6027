//! fal as the worker sees it: the queue, direct calls, uploads and the file host.
//!
//! It exists to be strict: it follows section 12 of the API notes, counts every submit (each one is money)
//! and notes whatever a correct client never does. It parses for itself and knows no type of the worker.
//! Time passes without a thread: what happened since the last request is worked out when one comes.

mod headers;
mod queue;
mod serve;
mod storage;

pub use storage::UploadSeen;

use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::SandboxError;
use super::faults::{Barriers, Faults, Hold};
use super::http::{Payload, Server, Stop, find, lock};
use super::media::{self, Fingerprint};
use queue::{Phase, State};
use serve::{Port, Role, parts};

/// How a model ends a request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// So many PNG files.
    Images(u32),
    /// One image (`image`) of so many bytes with a JPEG head of 3000 × 2000.
    BigImage(u64),
    /// One MP4.
    Video,
    /// One MP4 of so many bytes, made while it is sent.
    HugeVideo(u64),
    /// One MP3 in an `audio_url` object.
    Audio,
    /// `{"output": …}` without files.
    Text(String),
    /// This output. In its strings `{files}` becomes `http://HOST/files/<request id>` and `{request_id}` the id;
    /// the file host makes a file for any name under it, by extension.
    Json(Value),
    /// One image as a `data:image/png;base64,` URI, as with `sync_mode`.
    DataUri(Vec<u8>),
    /// COMPLETED, and this from the result call.
    Error {
        /// Status of the result.
        status: u16,
        /// Body of the result.
        body: Value,
        /// Headers of the result, e.g. `X-Fal-Retryable`.
        headers: Vec<(String, String)>,
        /// Whether the status call has `error` and `error_type` too.
        with_error_field: bool,
    },
    /// Stays IN_PROGRESS.
    Never,
    /// Accepted, and unknown (404) from then on.
    Disappear,
    /// IN_PROGRESS, back to IN_QUEUE, IN_PROGRESS again, then one PNG.
    CrashThenRetry,
}

impl Outcome {
    /// An error without headers and without the status fields.
    pub fn error(status: u16, body: Value) -> Outcome {
        Outcome::Error {
            status,
            body,
            headers: Vec::new(),
            with_error_field: false,
        }
    }
}

/// What a model does.
#[derive(Clone, Debug)]
pub struct Script {
    /// Shortest time on a runner.
    pub generation_min: Duration,
    /// Longest time on a runner; the time is drawn evenly between the two.
    pub generation_max: Duration,
    /// How it ends.
    pub outcome: Outcome,
    /// Width and height of the PNGs.
    pub image_size: (u32, u32),
    /// All outputs are black and flagged in `has_nsfw_concepts`.
    pub nsfw: bool,
    /// `x-fal-billable-units` of the result.
    pub units: String,
    /// Refuses every submit with this.
    pub fail_submit: Option<(u16, Value)>,
    /// Whether a cancel stops a running request (result 499); else it completes all the same.
    pub heeds_cancel: bool,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            generation_min: Duration::from_millis(20),
            generation_max: Duration::from_millis(20),
            outcome: Outcome::Images(1),
            image_size: (64, 64),
            nsfw: false,
            units: "1".into(),
            fail_submit: None,
            heeds_cancel: false,
        }
    }
}

impl Script {
    /// A model that ends like this after 20 ms.
    pub fn new(outcome: Outcome) -> Script {
        Script {
            outcome,
            ..Script::default()
        }
    }

    /// Sets the time on a runner.
    pub fn taking(mut self, generation: Duration) -> Script {
        self.generation_min = generation;
        self.generation_max = generation;
        self
    }

    /// Sets the range of times on a runner.
    pub fn taking_between(mut self, shortest: Duration, longest: Duration) -> Script {
        self.generation_min = shortest;
        self.generation_max = longest;
        self
    }
}

/// One accepted submit, as the ledger has it now.
#[derive(Clone, Debug)]
pub struct SubmitEntry {
    /// The id it was given.
    pub request_id: String,
    /// The full model id of the path.
    pub model: String,
    /// When it was accepted.
    pub at: Instant,
    /// The same in milliseconds since 1970.
    pub unix_ms: u64,
    /// The body as it came.
    pub input: Arc<[u8]>,
    /// `content-type`, `accept`, `user-agent`, and all that begin with `x-fal-` or `x-app-fal-`.
    pub headers: Vec<(String, String)>,
    /// The decoded query.
    pub query: Vec<(String, String)>,
    /// Whether it came over the direct URL.
    pub direct: bool,
    /// When a runner took it (last time).
    pub started: Option<Instant>,
    /// When it ended.
    pub completed: Option<Instant>,
    /// Whether a cancel was accepted.
    pub cancelled: bool,
    /// Whether it ended with a good output, which is what is billed.
    pub billed: bool,
    /// Looks: status calls, and result calls before the end.
    pub polls: u32,
    /// Of these, calls for the result.
    pub early: u32,
    /// When the last of them came, or the call that brought the result without a look that found the end.
    pub polled: Option<Instant>,
    /// Whether a status call has said that it ended, so that its result was a call behind that.
    pub status_found_end: bool,
    /// Result calls after the end.
    pub fetches: u32,
}

/// Connections accepted, by port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Of [`FalStandIn::queue_url`].
    pub queue: u64,
    /// Of [`FalStandIn::run_url`].
    pub run: u64,
    /// Of [`FalStandIn::storage_url`].
    pub storage: u64,
    /// Of [`FalStandIn::file_host`].
    pub files: u64,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Accepted submits, direct calls included.
    pub submits: u64,
    /// Looks: status calls of any outcome, and result calls that came too early.
    pub polls: u64,
    /// Result calls of any other outcome.
    pub results: u64,
    /// Cancel calls, of any outcome.
    pub cancels: u64,
    /// Files served, whole or not.
    pub files: u64,
    /// Requests that wait in the queue now.
    pub queued_now: u64,
    /// Requests on a runner now.
    pub running_now: u64,
    /// Requests that ended with a good output.
    pub billed: u64,
}

/// What status and result say of a request that was cancelled while it waited (undocumented at fal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelledAnswer {
    /// 404.
    NotFound,
    /// COMPLETED with `error_type` `client_cancelled`, result 499.
    Completed,
}

/// The running stand-in.
#[derive(Debug)]
pub struct FalStandIn {
    shared: Arc<Shared>,
    queue: Server,
    run: Server,
    storage: Server,
    files: Server,
}

#[derive(Debug)]
struct Shared {
    /// The last one is accepted.
    keys: Mutex<Vec<String>>,
    faults: Faults,
    barriers: Barriers,
    stop: Stop,
    /// Set once, after the ports are known.
    urls: OnceLock<Urls>,
    pending_code: AtomicU64,
    locked: AtomicBool,
    looks: AtomicU64,
    result_calls: AtomicU64,
    cancel_calls: AtomicU64,
    file_calls: AtomicU64,
    answers: AtomicU64,
    secrets: Mutex<Vec<String>>,
    key_leaks: Mutex<Vec<String>>,
    violations: Mutex<Vec<String>>,
    uploads: Mutex<HashMap<String, Stored>>,
    announced: Mutex<Vec<UploadSeen>>,
    gone_files: Mutex<HashSet<String>>,
    state: Mutex<State>,
}

/// An uploaded file: media type and bytes.
type Stored = (String, Arc<[u8]>);

#[derive(Debug)]
struct Urls {
    queue: String,
    file_host: String,
}

impl FalStandIn {
    /// Starts the four ports with the default models; `seed` decides request ids and generation times.
    pub fn start(faults: Faults, seed: u64) -> Result<FalStandIn, SandboxError> {
        let stop = Stop::default();
        let shared = Arc::new(Shared {
            keys: Mutex::new(vec!["sandbox-key-id:sandbox-key-secret".into()]),
            faults,
            barriers: Barriers::default(),
            stop: stop.clone(),
            urls: OnceLock::new(),
            pending_code: AtomicU64::new(400),
            locked: AtomicBool::new(false),
            looks: AtomicU64::new(0),
            result_calls: AtomicU64::new(0),
            cancel_calls: AtomicU64::new(0),
            file_calls: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            secrets: Mutex::default(),
            key_leaks: Mutex::default(),
            violations: Mutex::default(),
            uploads: Mutex::default(),
            announced: Mutex::default(),
            gone_files: Mutex::default(),
            state: Mutex::new(State {
                models: default_models(),
                rng: fastrand::Rng::with_seed(seed),
                jobs: Vec::new(),
                by_id: HashMap::new(),
                normal: VecDeque::new(),
                low: VecDeque::new(),
                next_ticket: 0,
                slots: 1_000_000,
                running: 0,
                billed: 0,
                events: BinaryHeap::new(),
                next_event: 0,
                clock: Instant::now(),
                keep: Duration::from_secs(3600),
                keep_large: Duration::from_secs(360),
                cancelled_answer: CancelledAnswer::Completed,
            }),
        });
        let start = |name, role| {
            let port = Arc::new(Port {
                shared: shared.clone(),
                role,
            });
            Server::start(name, stop.clone(), port).map_err(SandboxError::Listen)
        };
        let queue = start("fal-queue", Role::Queue)?;
        let run = start("fal-run", Role::Run)?;
        let storage = start("fal-storage", Role::Storage)?;
        let files = start("fal-files", Role::Files)?;
        let urls = Urls {
            queue: queue.url(),
            file_host: files.address().to_string(),
        };
        let _ = shared.urls.set(urls);
        Ok(FalStandIn {
            shared,
            queue,
            run,
            storage,
            files,
        })
    }

    /// Base of submit, status, result and cancel.
    pub fn queue_url(&self) -> String {
        self.queue.url()
    }

    /// Base of direct calls.
    pub fn run_url(&self) -> String {
        self.run.url()
    }

    /// Base of uploads.
    pub fn storage_url(&self) -> String {
        self.storage.url()
    }

    /// `127.0.0.1:PORT` of the file host.
    pub fn file_host(&self) -> String {
        self.files.address().to_string()
    }

    /// The one key that is accepted, `id:secret`.
    pub fn key(&self) -> String {
        self.shared.key()
    }

    /// Another key is accepted from now on, and that one alone.
    pub fn set_key(&self, key: &str) {
        lock(&self.shared.keys).push(key.to_owned());
    }

    /// Sets (or adds) a model by its full id.
    pub fn model(&self, model: &str, script: Script) {
        lock(&self.shared.state)
            .models
            .insert(model.to_owned(), Arc::new(script));
    }

    /// Changes the generation time of every model.
    pub fn set_generation(&self, shortest: Duration, longest: Duration) {
        for script in lock(&self.shared.state).models.values_mut() {
            let script = Arc::make_mut(script);
            script.generation_min = shortest;
            script.generation_max = longest;
        }
    }

    /// How many requests may be IN_PROGRESS; the others wait. Default 1 000 000.
    pub fn set_slots(&self, slots: usize) {
        let mut state = lock(&self.shared.state);
        state.advance(Instant::now());
        state.slots = slots;
        state.fill_slots();
    }

    /// Locks the account: submits get 403, status and results go on.
    pub fn set_locked(&self, locked: bool) {
        self.shared.locked.store(locked, Ordering::Relaxed);
    }

    /// The code of "Request is still in progress" from the result call. Default 400.
    pub fn set_pending_code(&self, code: u16) {
        self.shared
            .pending_code
            .store(u64::from(code), Ordering::Relaxed);
    }

    /// How long results are kept, and results of 10 KB and more. Default 1 h and 6 min.
    pub fn set_result_keeping(&self, keep: Duration, keep_large: Duration) {
        let mut state = lock(&self.shared.state);
        state.keep = keep;
        state.keep_large = keep_large;
    }

    /// What is said of requests cancelled while they waited. Default COMPLETED with 499.
    pub fn set_cancelled_answer(&self, answer: CancelledAnswer) {
        lock(&self.shared.state).cancelled_answer = answer;
    }

    /// The files of a request are gone (404).
    pub fn expire_files(&self, request_id: &str) {
        lock(&self.shared.gone_files).insert(request_id.to_owned());
    }

    /// Forgets a request: 404 from then on.
    pub fn forget(&self, request_id: &str) {
        let mut guard = lock(&self.shared.state);
        let state = &mut *guard;
        state.advance(Instant::now());
        let Some(at) = state.by_id.get(request_id).copied() else {
            return;
        };
        match state.jobs[at].phase {
            Phase::Queued => state.leave_queue(at),
            Phase::Running => state.running -= 1,
            Phase::Done(_) | Phase::Gone => {}
        }
        state.jobs[at].phase = Phase::Gone;
        state.fill_slots();
    }

    /// A text that must never arrive here (a violation if it does), e.g. a bot's token.
    pub fn watch_for_secret(&self, secret: &str) {
        lock(&self.shared.secrets).push(secret.to_owned());
    }

    /// Holds the answers of an endpoint back until released: `fal.submit`, `fal.status`, `fal.result`, `fal.cancel`,
    /// `fal.direct`, `fal.initiate`, `fal.put`, `file`.
    pub fn hold(&self, endpoint: &str) -> Hold {
        self.shared.barriers.hold(endpoint, None)
    }

    /// Holds only requests whose path, query or body contain `text`.
    pub fn hold_matching(&self, endpoint: &str, text: &str) -> Hold {
        self.shared.barriers.hold(endpoint, Some(text))
    }

    /// Every accepted submit, oldest first.
    pub fn submits(&self) -> Vec<SubmitEntry> {
        self.collect(|_| true)
    }

    /// Accepted submits whose input contains a text.
    pub fn submits_for(&self, input_contains: &str) -> Vec<SubmitEntry> {
        self.collect(|entry| find(&entry.input, input_contains.as_bytes(), 0).is_some())
    }

    /// One request by its id.
    pub fn request(&self, request_id: &str) -> Option<SubmitEntry> {
        self.collect(|entry| entry.request_id == request_id).pop()
    }

    fn collect(&self, wanted: impl Fn(&SubmitEntry) -> bool) -> Vec<SubmitEntry> {
        let mut state = lock(&self.shared.state);
        state.advance(Instant::now());
        state
            .jobs
            .iter()
            .map(|job| &job.entry)
            .filter(|entry| wanted(entry))
            .cloned()
            .collect()
    }

    /// Totals.
    pub fn totals(&self) -> Totals {
        let mut state = lock(&self.shared.state);
        state.advance(Instant::now());
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            submits: state.jobs.len() as u64,
            polls: load(&self.shared.looks),
            results: load(&self.shared.result_calls),
            cancels: load(&self.shared.cancel_calls),
            files: load(&self.shared.file_calls),
            queued_now: (state.normal.len() + state.low.len()) as u64,
            running_now: state.running as u64,
            billed: state.billed,
        }
    }

    /// Connections accepted, by port.
    pub fn connections(&self) -> Connections {
        Connections {
            queue: self.queue.connections(),
            run: self.run.connections(),
            storage: self.storage.connections(),
            files: self.files.connections(),
        }
    }

    /// Closes all open connections of all ports.
    pub fn close_connections(&self) {
        [&self.queue, &self.run, &self.storage, &self.files]
            .iter()
            .for_each(|server| server.close_connections());
    }

    /// Requests to the file host that carried a key: must be empty.
    pub fn key_leaks(&self) -> Vec<String> {
        lock(&self.shared.key_leaks).clone()
    }

    /// What a correct client never does, each with its kind before the colon: `405`, `wrapper`, `content-type`,
    /// `no-key`, `key-leak`, `storage`, `wrong-stem`, `poll-after-result`, `foreign-secret`, `expect`.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.shared.violations).clone()
    }

    /// The fingerprint of a file by its URL or path: tells which job an upload to Telegram belongs to.
    pub fn fingerprint_of(&self, url: &str) -> Option<Fingerprint> {
        let path = &url[url.find("/files/")?..];
        let [_, id, name] = parts(path)[..] else {
            return None;
        };
        let (_, payload) = self.shared.made_file(id, name)?;
        Some(match payload {
            Payload::Bytes(bytes) => media::fingerprint(&bytes),
            Payload::Shared(bytes) => media::fingerprint(&bytes),
            Payload::Padded { mut head, len } => {
                head.resize(len as usize, 0);
                media::fingerprint(&head)
            }
        })
    }
}

impl Drop for FalStandIn {
    fn drop(&mut self) {
        self.shared.stop.raise();
        self.shared.barriers.release_all();
    }
}

fn default_models() -> HashMap<String, Arc<Script>> {
    let refused = json!({"detail": [{
        "loc": ["body", "prompt"],
        "msg": "The content could not be processed because it contained material flagged by a content checker.",
        "type": "content_policy_violation",
        "url": "https://docs.fal.ai/errors/#content_policy_violation",
        "input": {"prompt": "echo of the user's words"},
    }]});
    let missing = json!({"detail": [{"loc": ["body", "prompt"], "msg": "Field required", "type": "missing", "input": {}}]});
    let broken = json!({"detail": "Internal Server Error", "error_type": "runner_server_error"});
    let models = [
        ("fal-ai/flux/dev", Script::new(Outcome::Images(1))),
        ("fal-ai/flux/schnell", Script::new(Outcome::Images(4))),
        (
            "fal-ai/kling-video/v2/master/text-to-video",
            Script::new(Outcome::Video),
        ),
        ("fal-ai/f5-tts", Script::new(Outcome::Audio)),
        (
            "fal-ai/any-llm",
            Script::new(Outcome::Text("An answer in words.".into())),
        ),
        (
            "fal-ai/nsfw",
            Script {
                nsfw: true,
                ..Script::default()
            },
        ),
        ("fal-ai/refuses", Script::new(Outcome::error(422, refused))),
        (
            "fal-ai/bad-input",
            Script::new(Outcome::error(422, missing)),
        ),
        (
            "fal-ai/breaks",
            Script::new(Outcome::Error {
                status: 500,
                body: broken,
                headers: vec![("X-Fal-Error-Type".into(), "runner_server_error".into())],
                with_error_field: true,
            }),
        ),
        ("fal-ai/never", Script::new(Outcome::Never)),
        ("fal-ai/crashes", Script::new(Outcome::CrashThenRetry)),
        ("fal-ai/disappears", Script::new(Outcome::Disappear)),
        (
            "fal-ai/inline",
            Script::new(Outcome::DataUri(media::png(64, 64, Some(7)))),
        ),
        ("fal-ai/big", Script::new(Outcome::BigImage(7 << 20))),
        ("fal-ai/huge", Script::new(Outcome::HugeVideo(60 << 20))),
    ];
    models
        .into_iter()
        .map(|(name, script)| (name.to_owned(), Arc::new(script)))
        .collect()
}

#[cfg(test)]
mod tests;
