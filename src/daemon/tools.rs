//! From a checked configuration to the tools that all steps share. Nothing is connected yet.

use super::{StartError, process};
use crate::config::Config;
use crate::fal::{Fal, FalUrls};
use crate::http::{FileHosts, Http, HttpSettings};
use crate::job::state::Policy;
use crate::recorder::{self, Recorder};
use crate::report;
use crate::steps::gate::Gate;
use crate::steps::rotation::Rotation;
use crate::steps::signs::Signs;
use crate::steps::{Cancels, Lease, Tools};
use crate::store::{Access, Defaults, NoStore, Store};
use crate::telegram::Telegram;
use crate::telegram::plan::TransferLimits;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

/// Makes the tools, with the step file among them.
pub(super) fn from_config(config: &Config) -> Result<Tools, StartError> {
    let http = Http::new(HttpSettings {
        threads: config.threads.pool + config.threads.transfer,
        plain_http: config.urls.plain_http.clone(),
    });
    let access = Access {
        redis: config.store.redis.server(),
        namespace: config.store.namespace.clone(),
        inbox: config.store.inbox.clone(),
        connections: config.redis_connections,
    };
    let me = process::own(&config.name, config.threads.pool, config.lease);
    let store = Store::new(&access, config.retention, me).map_err(|error| match error {
        NoStore::Redis(fault) => StartError::Config(format!("--redis-url: {fault}")),
        NoStore::Threads(error) => StartError::Internal(format!(
            "cannot start the threads that open connections to Redis: {error}"
        )),
    })?;
    if let Some(token) = &config.bot_token {
        store.set_bot(token.expose());
    }
    let urls = FalUrls {
        queue: config.urls.fal.as_str().to_owned(),
        run: config.urls.fal_run.as_str().to_owned(),
        storage: config.urls.fal_storage.as_str().to_owned(),
    };
    let telegram = config.bot_token.as_ref().map(|token| {
        Telegram::new(
            http.clone(),
            config.urls.telegram.as_str().to_owned(),
            token.expose().to_owned(),
        )
    });
    let (state, recorder) = step_file(config, &store)?;
    let file_hosts = FileHosts::new(&config.urls.file_hosts)
        .map_err(|why| StartError::Config(format!("--file-host: {why}")))?;
    Ok(Tools {
        store,
        fal: Fal::new(http.clone(), urls, config.fal_key.expose()),
        http,
        telegram,
        policy: Policy {
            poll: config.poll,
            job_timeout: config.limits.job_timeout,
            queue_timeout: config.limits.fal_queue_timeout,
        },
        defaults: Defaults {
            max_attempts: config.limits.max_attempts,
            max_wait: config.limits.max_wait,
        },
        model_timeouts: config.limits.model_timeouts.clone(),
        delivery: config.delivery,
        delivery_timeout: config.limits.delivery_timeout,
        transfer_limits: TransferLimits::of(config.urls.telegram.as_str()),
        telegram_rate: config.telegram_rate,
        file_hosts,
        lang: config.lang,
        words: config.messages.clone(),
        signs: Signs::new(config.progress && config.bot_token.is_some()),
        admin_chat: config.admin_chat.clone(),
        rotation: Rotation::new(&config.sources, Some(&config.store.redis)),
        lease: Lease::new(config.lease),
        gate: Gate::new(config.threads.pool),
        recorder: Arc::new(recorder),
        cancels: Cancels::default(),
        state,
        fal_outage: report::Outage::new("fal"),
        submit_outage: report::Outage::in_words("fal", ["takes no jobs", "takes jobs again"]),
        direct_outage: report::Outage::in_words(
            "fal",
            ["takes no direct calls", "takes direct calls again"],
        ),
        telegram_outage: report::Outage::new("telegram"),
        inputs: Default::default(),
        in_flight: AtomicU64::new(0),
        finds_window: AtomicBool::new(false),
        paces: Default::default(),
        minutes: Default::default(),
        together: Default::default(),
        done: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    })
}

/// The folder of the step files, and ours in it. A folder that is not safe is a mistake in the
/// configuration; a disk that is full is not, and work goes on without a file.
fn step_file(config: &Config, store: &Store) -> Result<(Option<PathBuf>, Recorder), StartError> {
    let Some(dir) = &config.state else {
        return Ok((None, Recorder::off()));
    };
    let folder = recorder::prepare(&dir.path, dir.managed, &config.store.namespace)
        .map_err(|why| StartError::Config(format!("--state-dir (FAL_WORKER_STATE_DIR): {why}")))?;
    let address = config.store.redis.to_string();
    let slots = config.threads.pool + config.threads.transfer;
    match Recorder::open(&folder, &store.identity().instance, &address, slots) {
        Ok(recorder) => Ok((Some(folder), recorder)),
        Err(error) => {
            let (folder_text, why) = (folder.display().to_string(), error.to_string());
            report::warning(
                "the step file cannot be made, a crash may cost more",
                &[("folder", &folder_text.as_str()), ("why", &why.as_str())],
            );
            Ok((Some(folder), Recorder::off()))
        }
    }
}
