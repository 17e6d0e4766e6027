//! Who runs when: start, quiet, stop and hard stop, the order of the threads, signals, and what the
//! service manager is told. No call to fal or Telegram and no decision about a job is made here.

mod answer;
mod guard;
mod health;
mod keeper;
mod listen;
mod metrics;
mod page;
mod pool;
mod process;
mod scheduler;
mod status;

use crate::config::{Config, Listen, SecretKind};
use crate::fal::{Fal, FalUrls};
use crate::http::{FileHosts, Http, HttpSettings};
use crate::job::flight::Flight;
use crate::job::state::{Policy, save_large};
use crate::recorder::{self, Recorder};
use crate::report::{self, At, Refusals};
use crate::steps::gate::Gate;
use crate::steps::pull::Blocker;
use crate::steps::rotation::{self, Rotation};
use crate::steps::signs::Signs;
use crate::steps::{self, Cancels, LastFlush, Lease, Tools, Worker};
use crate::store::{Access, Defaults, Denied, Fault, Keep, Session, Store};
use crate::telegram::Telegram;
use crate::telegram::limits::Rate;
use crate::telegram::plan::{DeliveryMode, TransferLimits};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use guard::{Guard, Leave};
use health::{Failed, Seen};
use keeper::Keeper;
use listen::{Asked, Page};
use page::Board;
use pool::{Engine, Moved};
use scheduler::Stage;
use status::StatusLine;
use std::collections::HashSet;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Stack of the daemon's threads: a step needs little, and the pages it never touches cost nothing.
const STACK: usize = 512 << 10;
/// Stack of the thread behind `--listen`: it reads requests of at most 8 KiB and prints figures.
const LISTEN_STACK: usize = 256 << 10;
/// How long intake waits for an inbox entry at a time.
const INBOX_BLOCK: Duration = Duration::from_secs(5);
/// Between two looks at the files of secrets.
const SECRETS: Duration = Duration::from_secs(1);
/// After sockets are shut, broken steps end within this time.
const AFTER_HARD_STOP: Duration = Duration::from_millis(500);

/// Why the daemon could not run.
#[derive(Debug)]
pub enum StartError {
    /// A mistake in the configuration: exit 78.
    Config(String),
    /// Anything else: exit 70.
    Internal(String),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Config(text) | StartError::Internal(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for StartError {}

/// Runs until a signal ends it. `started`: when the process began, for the line `ready`.
pub fn run(config: &Config, started: Instant) -> Result<(), StartError> {
    let signals = signals()?;
    let tools = Arc::new(tools(config)?);
    let threads = config.threads;
    let (engine, moved) = Engine::new(threads.pool, threads.transfer, config.limits.max_in_flight);
    let engine = Arc::new(engine);
    let me = process::own(&config.name, threads.pool);
    let listen = listen(config, &tools, &engine, started)?;
    let address = config.store.redis.to_string();
    let mut keeper = Keeper::new(
        tools.clone(),
        engine.clone(),
        me,
        threads.pool,
        &address,
        config.shared.clone(),
    );

    if tools.telegram.is_none() {
        report::warning(
            "no bot token is set: jobs with `telegram` fail before their submit",
            &[],
        );
    }
    if !first_beat(&mut keeper, &tools, &signals)? {
        report::stopped(0, 0);
        return Ok(());
    }
    warn_of_settings(&keeper);
    if let Err(fault) = keeper.take_from_the_dead() {
        let why = fault.to_string();
        report::warning(
            "could not look for a predecessor's jobs, the lease will tell",
            &[("why", &why.as_str())],
        );
    }

    // A thread that cannot be started ends the process: nothing may have been submitted by then.
    engine.scheduler.close();
    let crew = Crew::start(
        &tools,
        &engine,
        &moved,
        keeper,
        threads.pool,
        threads.transfer,
        started,
    )?;
    engine.scheduler.open();
    let identity = tools.store.identity();
    engine.liveness.note(|life, now| life.ready(now));
    report::ready(&report::Ready {
        instance: &identity.instance,
        version: env!("CARGO_PKG_VERSION"),
        threads: threads.pool,
        transfer_threads: threads.transfer,
        redis: &config.store.redis.to_string(),
        redis_version: Some(&tools.store.health.version()),
        namespace: &config.store.namespace,
        inbox: &config.store.inbox,
        start_ms: started.elapsed().as_millis() as u64,
        listen: listen.as_deref(),
    });
    notify(&[
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::Status("pulling jobs"),
    ]);

    let reason = until_told(&signals, &tools);
    // Before the line `stopping`: a job pushed after that line must be left to another daemon.
    engine.scheduler.set_stage(Stage::Quiet);
    engine.liveness.note(|life, _| life.stopping());
    notify(&[
        sd_notify::NotifyState::Stopping,
        sd_notify::NotifyState::Status("stopping: what is in hand goes back to redis"),
    ]);
    report::stopping(reason, engine.scheduler.in_flight());
    let deadline = Instant::now() + config.shutdown_timeout;
    crew.stop(&tools, &engine, &moved, deadline);
    Ok(())
}

/// Waits for the signal to end. One beat of the keeper may be many calls of a slow Redis: as long as they come
/// to an end the watchdog hears of it from here too.
fn until_told(signals: &Receiver<&'static str>, tools: &Tools) -> &'static str {
    let health = &tools.store.health;
    let look = sd_notify::watchdog_enabled().map_or(Duration::MAX, |every| every / 6);
    let mut seen = health.probes();
    loop {
        match signals.recv_timeout(look) {
            Ok(reason) => return reason,
            Err(RecvTimeoutError::Disconnected) => return "signals are gone",
            Err(RecvTimeoutError::Timeout) => {
                if seen != health.probes() {
                    seen = health.probes();
                    notify(&[sd_notify::NotifyState::Watchdog]);
                }
            }
        }
    }
}

/// Tells health from here on, before Redis has answered and until the process ends. Gives the address.
fn listen(
    config: &Config,
    tools: &Arc<Tools>,
    engine: &Arc<Engine>,
    started: Instant,
) -> Result<Option<String>, StartError> {
    let Some(Listen {
        address,
        given,
        token,
    }) = config.listen.clone()
    else {
        return Ok(None);
    };
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?.to_string();
        Ok((listener, address))
    });
    let (listener, address) = match bound {
        Ok(bound) => bound,
        Err(error) if given => {
            return Err(StartError::Config(format!(
                "--listen (FAL_WORKER_LISTEN): {address}: {error}"
            )));
        }
        Err(error) => {
            let (address, why) = (address.to_string(), error.to_string());
            report::warning(
                "no health pages: the default address cannot be had",
                &[("listen", &address), ("why", &why)],
            );
            return Ok(None);
        }
    };
    report::debug("listening", &[("listen", &address)]);
    report::metrics::prepare();
    engine.queues.show();
    let board = Arc::new(Board::new(tools.store.clone()));
    let reader = board.clone();
    spawn("page".to_owned(), move || reader.run())?;
    let (tools, engine, guard) = (tools.clone(), engine.clone(), Guard::new(token));
    let threads = (config.threads.pool, config.threads.transfer);
    let page = move |asked: &Asked<'_>| {
        let page = || match asked.path {
            // Not through `without_secrets`: the state is stripped where it is made, and the page must stay byte
            // for byte what the hashes in its Content-Security-Policy cover.
            "/" => Some(page::page()),
            "/state.json" => Some(board.tell(Instant::now())),
            path => page(path, &tools, &engine, started, threads),
        };
        match guard.admit(asked) {
            Leave::All => page(),
            Leave::StatusOnly => page().map(Page::status_only),
            Leave::No(instead) => Some(instead),
        }
    };
    let serve = move || listen::serve(&listener, &page);
    spawn_with("listen".to_owned(), LISTEN_STACK, serve)?;
    Ok(Some(address))
}

/// The answer for one of the plain-text paths; `None`: there is no such path.
fn page(
    path: &str,
    tools: &Tools,
    engine: &Engine,
    started: Instant,
    threads: (usize, usize),
) -> Option<Page> {
    let now = Instant::now();
    let seen = || seen(tools, engine, started);
    let status = |well: bool| if well { 200 } else { 503 };
    let words = |(well, text)| Page::text(status(well), report::without_secrets(text));
    Some(match path {
        "/healthz" => words(seen().health(now)),
        "/readyz" => words(seen().readiness(now)),
        "/metrics" => Page {
            content_type: metrics::CONTENT_TYPE,
            ..Page::text(200, metrics::page(tools, engine, &seen(), threads))
        },
        _ => return None,
    })
}

fn seen(tools: &Tools, engine: &Engine, started: Instant) -> Seen {
    Seen {
        life: engine.liveness.life(),
        started,
        lease: tools.lease.length(),
        away: tools.store.health.away(),
        full: tools.store.health.full(),
        pulling: engine.pulling(&tools.gate),
        in_flight: engine.scheduler.in_flight(),
    }
}

/// Warns once, at start, of settings of Redis that can lose jobs: eviction, no AOF. A Redis that does not reveal
/// its settings is used without a warning.
fn warn_of_settings(keeper: &Keeper) {
    let settings = match keeper.settings() {
        Ok(settings) => settings,
        Err(fault) => {
            let why = fault.to_string();
            return report::debug("redis does not tell its settings", &[("why", &why)]);
        }
    };
    if settings.evicts() {
        report::warning(
            "redis may evict keys, and jobs with them",
            &[
                ("maxmemory_policy", &settings.policy),
                ("hint", &"redis-cli CONFIG SET maxmemory-policy noeviction"),
            ],
        );
    }
    if settings.has_no_aof() {
        let hint = "redis-cli CONFIG SET appendonly yes, then CONFIG REWRITE; not by a restart, which would begin empty";
        report::warning(
            "redis has no AOF: its crash loses jobs, paid ones too",
            &[("hint", &hint)],
        );
    }
}

/// Beats until Redis answers (`true`), or until a stop is asked for (`false`). A Redis that is away is waited for;
/// what waiting cannot mend (a wrong password, a Redis too old) is a mistake in the configuration.
fn first_beat(
    keeper: &mut Keeper,
    tools: &Tools,
    signals: &Receiver<&'static str>,
) -> Result<bool, StartError> {
    loop {
        match keeper.once() {
            Ok(()) => return Ok(true),
            Err(Fault::Refused(why)) => {
                return Err(StartError::Config(format!(
                    "--redis-url: redis refused: {why}"
                )));
            }
            Err(Fault::Away(why) | Fault::Unable(why)) => {
                if let Some(unfit) = tools.store.health.unfit() {
                    return Err(StartError::Config(format!("--redis-url: {unfit}: {why}")));
                }
                let why = tools.store.health.away().map(|(_, why)| why);
                let line = one_line(format!("waiting for redis: {}", why.unwrap_or_default()));
                notify(&[
                    sd_notify::NotifyState::Status(&line),
                    sd_notify::NotifyState::ExtendTimeoutUsec(30_000_000),
                ]);
            }
        }
        match signals.recv_timeout(Duration::from_millis(250)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
    }
}

fn tools(config: &Config) -> Result<Tools, StartError> {
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
    let keep = Keep {
        done: config.retention.done,
        dead: config.retention.dead,
        events: config.retention.events_max,
    };
    let me = process::own(&config.name, config.threads.pool);
    let store = Store::new(&access, keep, me)
        .map_err(|fault| StartError::Config(format!("--redis-url: {fault}")))?;
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
        delivery: match config.delivery {
            crate::config::DeliveryMode::Auto => DeliveryMode::Auto,
            crate::config::DeliveryMode::Upload => DeliveryMode::Upload,
            crate::config::DeliveryMode::Url => DeliveryMode::Url,
        },
        delivery_timeout: config.limits.delivery_timeout,
        transfer_limits: TransferLimits::of(config.urls.telegram.as_str()),
        telegram_rate: config.telegram_rate.map(|rate| Rate {
            messages: rate.number,
            per: rate.per,
        }),
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
        telegram_outage: report::Outage::new("telegram"),
        inputs: Default::default(),
        in_flight: AtomicU64::new(0),
        finds_window: AtomicBool::new(false),
        paces: Default::default(),
        minutes: Default::default(),
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

/// The first signal asks for a graceful stop; a second one ends the process at once.
fn signals() -> Result<Receiver<&'static str>, StartError> {
    let (send, receive) = crossbeam_channel::bounded(1);
    let count = AtomicUsize::new(0);
    ctrlc::set_handler(move || {
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            let _ = send.try_send("signal");
        } else {
            std::process::exit(130);
        }
    })
    .map_err(|error| StartError::Internal(format!("cannot handle signals: {error}")))?;
    Ok(receive)
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(states);
}

/// Text for the service manager, which reads one assignment a line: a status must hold no line break.
fn one_line(text: String) -> String {
    report::without_secrets(text).replace(char::is_control, " ")
}

/// All threads of a running daemon.
struct Crew {
    pool: Vec<JoinHandle<()>>,
    transfers: Vec<JoinHandle<()>>,
    intake: JoinHandle<()>,
    keeper: JoinHandle<()>,
    /// Told to end: intake first, the keeper last of all.
    intake_ends: Arc<AtomicBool>,
    intake_client: Arc<AtomicU64>,
    keeper_ends: Sender<()>,
}

impl Crew {
    fn start(
        tools: &Arc<Tools>,
        engine: &Arc<Engine>,
        moved: &Moved,
        keeper: Keeper,
        pool_threads: usize,
        transfer_threads: usize,
        started: Instant,
    ) -> Result<Crew, StartError> {
        let blocker = Arc::new(Mutex::new(Blocker::new(INBOX_BLOCK)));
        let mut pool = Vec::new();
        for desk in 0..pool_threads {
            let (tools, engine, blocker) = (tools.clone(), engine.clone(), blocker.clone());
            pool.push(spawn(format!("pool-{desk}"), move || {
                let slot = tools.recorder.slot(desk);
                let worker = Worker::new(tools, Some(slot));
                engine.pool_thread(&worker, desk, &blocker);
            })?);
        }
        let mut transfers = Vec::new();
        for number in 0..transfer_threads {
            let moved = moved.for_thread(number, transfer_threads);
            let (tools, engine) = (tools.clone(), engine.clone());
            transfers.push(spawn(format!("transfer-{number}"), move || {
                let slot = tools.recorder.slot(pool_threads + number);
                let worker = Worker {
                    moves_bytes: true,
                    ..Worker::new(tools, Some(slot))
                };
                engine.transfer_thread(&worker, pool_threads + number, &moved);
            })?);
        }
        let intake_ends = Arc::new(AtomicBool::new(false));
        let intake_client = Arc::new(AtomicU64::new(0));
        let intake = {
            let (tools, ends, client) = (tools.clone(), intake_ends.clone(), intake_client.clone());
            let engine = engine.clone();
            spawn("intake".to_owned(), move || {
                intake_thread(tools, &engine, &ends, &client)
            })?
        };
        if tools.signs.is_on() {
            let tools = tools.clone();
            // Nobody waits for its end: what it does is no job's, and its last call has a time limit.
            spawn("signs".to_owned(), move || {
                let worker = Worker::new(tools, None);
                let tools = &worker.tools;
                while let Some(sign) = tools.signs.next(tools) {
                    tools.signs.perform(&worker, &sign);
                }
            })?;
        }
        if tools.rotation.is_on() {
            let (tools, engine) = (tools.clone(), engine.clone());
            // Nobody waits for the end of this thread either. It is one of its own, since a disk may hang and the
            // keeper may not.
            spawn("secrets".to_owned(), move || secrets_thread(tools, &engine))?;
        }
        let (keeper_ends, ends) = crossbeam_channel::bounded(0);
        let (keepers_tools, keepers_engine) = (tools.clone(), engine.clone());
        let look = move || seen(&keepers_tools, &keepers_engine, started);
        let keeper = spawn("keeper".to_owned(), move || {
            keeper_thread(keeper, &ends, &look)
        })?;
        Ok(Crew {
            pool,
            transfers,
            intake,
            keeper,
            intake_ends,
            intake_client,
            keeper_ends,
        })
    }

    /// Quiet, stop, hard stop, with one deadline.
    fn stop(self, tools: &Arc<Tools>, engine: &Arc<Engine>, moved: &Moved, deadline: Instant) {
        let began = Instant::now();
        // So much of the time is kept for what broken steps still have to write.
        let after_hard_stop = AFTER_HARD_STOP.min(deadline.duration_since(began) / 4);
        let hard_stop = deadline - after_hard_stop;
        last_resort(tools.clone(), deadline + AFTER_HARD_STOP);
        let session = tools.store.session();
        let scheduler = &engine.scheduler;
        // Quiet: nothing new. The puller and intake are woken again and again, since an UNBLOCK that
        // comes before they block is lost.
        tools.signs.close();
        self.intake_ends.store(true, Ordering::Release);
        let quiet_by = hard_stop.min(began + Duration::from_secs(7));
        loop {
            for client in [
                engine.puller.load(Ordering::Acquire),
                self.intake_client.load(Ordering::Acquire),
            ] {
                if client != 0 {
                    let _ = session.unblock(client);
                }
            }
            if (scheduler.nobody_pulls() && self.intake.is_finished()) || Instant::now() >= quiet_by
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(20)); // the main thread: it has nothing else to do
        }

        // Stop: what is parked goes back at once, and so does what is in a step that pays and sends
        // nothing, without waiting for its thread; submits and sends are waited for.
        scheduler.set_stage(Stage::Stop);
        let mut returned = Returned::default();
        let mut shut = false;
        let mut cut_off = 0;
        let mut limit = hard_stop;
        loop {
            returned.give_back(tools, engine, moved, &session);
            // In this order: what is seen on a desk was counted as in flight before, and a claim that
            // has just ended has been counted before its permit came back.
            let quiet = scheduler.nobody_pulls();
            let in_flight = scheduler.in_flight();
            let let_go = engine.desks.snapshots().into_iter();
            let let_go = let_go.filter(|held| returned.let_go.contains(&*held.token.0));
            let busy = in_flight.saturating_sub(let_go.count());
            if busy == 0 && quiet {
                break;
            }
            if Instant::now() >= limit {
                if shut {
                    break;
                }
                // Hard stop: only now are sockets cut, since a broken submit is an unknown payment.
                shut = true;
                cut_off = busy;
                limit = Instant::now() + after_hard_stop;
                tools.http.shutdown();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        engine.tell_crashes(&session);

        // The keeper ends before our name goes off the list: a beat after that would put it back.
        drop(self.keeper_ends);
        let keeper_by = deadline.min(Instant::now() + AFTER_HARD_STOP);
        while !self.keeper.is_finished() && Instant::now() < keeper_by {
            std::thread::sleep(Duration::from_millis(1));
        }
        let held = session.leave();
        if held.is_err() {
            report::debug(
                "could not take our name off the list, the lease will tell",
                &[],
            );
        }
        // A claim whose answer was lost stays: the file says that nobody has begun it.
        if cut_off == 0 && returned.left == 0 && held == Ok(0) {
            tools.recorder.close();
        }
        let ended = self
            .pool
            .iter()
            .chain(&self.transfers)
            .chain([&self.keeper])
            .filter(|thread| thread.is_finished())
            .count();
        report::debug("threads ended", &[("threads", &(ended as u64))]);
        report::stopped(returned.count, cut_off);
    }
}

/// Ends the process at this moment, even while a call waits for a Redis that never answers.
fn last_resort(tools: Arc<Tools>, at: Instant) {
    let wait = move || {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        tools.http.shutdown();
        report::tell_held_back(true);
        report::warning("the stop took too long, the process ends all the same", &[]);
        std::process::exit(0);
    };
    if let Err(error) = spawn("last-resort".to_owned(), wait) {
        report::debug(
            "no time limit for the stop",
            &[("why", &error.to_string().as_str())],
        );
    }
}

/// What a stop has given back.
#[derive(Default)]
struct Returned {
    /// How many jobs.
    count: usize,
    /// How many could not be given back.
    left: usize,
    /// Tokens of flights that came back from the scheduler or the channel: done with.
    drained: HashSet<String>,
    /// Tokens of flights whose job has gone back while their thread is still in a step: what it writes
    /// is refused, and nobody waits for it.
    let_go: HashSet<String>,
}

impl Returned {
    /// Gives back everything that is parked, waits for a transfer thread or is in a repeatable step.
    fn give_back(&mut self, tools: &Arc<Tools>, engine: &Engine, moved: &Moved, session: &Session) {
        let mut flights = engine.scheduler.drain();
        flights.extend(moved.drain());
        if !flights.is_empty() {
            self.give_back_flights(tools, session, &mut flights);
        }
        for flight in &flights {
            engine.scheduler.over(&flight.id, 0);
            self.let_go.remove(&*flight.token.0);
            self.drained.insert(flight.token.0.to_string());
        }
        for held in engine.desks.snapshots() {
            let token = &*held.token.0;
            if !held.is_repeatable() || self.drained.contains(token) || self.let_go.contains(token)
            {
                continue;
            }
            let mut gave = session.disown(held.id.as_str(), token);
            if gave == Ok(false)
                && held.epoch == tools.store.identity().epoch
                && session.reassert_flights(&[held.remembered()]) == Ok(Vec::new())
            {
                gave = session.disown(held.id.as_str(), token);
            }
            if gave == Ok(true) {
                self.count += 1;
            }
            self.let_go.insert(held.token.0.to_string());
        }
    }

    fn give_back_flights(
        &mut self,
        tools: &Arc<Tools>,
        session: &Session,
        flights: &mut [Box<Flight>],
    ) {
        let worker = Worker::new(tools.clone(), None);
        let (mut whole, mut unsaved): (Vec<&Flight>, usize) = (Vec::new(), 0);
        for flight in flights.iter_mut() {
            // What Redis has not taken yet is worth a last try; so is a result that lives only in memory.
            if let Some(write) = save_large(flight).filter(|_| !flight.closing) {
                let seq = flight.number(&write);
                flight.unsaved.push_back((seq, write));
            }
            match worker.last_flush(flight) {
                LastFlush::Ours => whole.push(flight),
                // It has ended, or is another's: nothing of it goes back.
                LastFlush::Over => {}
                LastFlush::Unsaved => unsaved += 1,
            }
        }
        let (why, left) = match give_back_all(session, &whole) {
            Ok(number) => {
                self.count += number;
                (
                    "redis did not take what is known of them".to_owned(),
                    unsaved,
                )
            }
            Err(fault) => (fault.to_string(), flights.len()),
        };
        self.left += left;
        if left > 0 {
            report::warning(
                "jobs could not be given back, their lease will tell",
                &[("jobs", &(left as u64)), ("why", &why.as_str())],
            );
        }
    }
}

/// Gives back; what Redis has forgotten, which the keeper has no time left to notice, is written down
/// again first.
fn give_back_all(session: &Session, flights: &[&Flight]) -> Result<usize, Fault> {
    let given = session.give_back(flights)?;
    let epoch = session.store().identity().epoch;
    let remembered: Vec<_> = flights
        .iter()
        .filter(|flight| flight.epoch == epoch)
        .map(|flight| steps::Snapshot::of(flight).remembered())
        .collect();
    if given == flights.len() || remembered.is_empty() {
        return Ok(given);
    }
    match session.reassert(&remembered) {
        Ok(_) => Ok(given + session.give_back(flights)?),
        Err(Denied::Fault(fault)) => Err(fault),
        Err(Denied::Buried | Denied::Unregistered | Denied::Settling) => Ok(given),
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    spawn_with(name, STACK, body)
}

fn spawn_with(
    name: String,
    stack: usize,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    Builder::new()
        .name(name.clone())
        .stack_size(stack)
        .spawn(body)
        .map_err(|error| StartError::Internal(format!("cannot start thread {name}: {error}")))
}

/// Moves inbox entries into records until told to end.
fn intake_thread(tools: Arc<Tools>, engine: &Engine, ends: &AtomicBool, client: &AtomicU64) {
    let worker = Worker::new(tools, None);
    let store = worker.tools.store.clone();
    let mut blocker = Blocker::new(INBOX_BLOCK);
    let pause = Pause::default();
    let mut heard: Option<Vec<u8>> = None;
    let refusals = Refusals::new("redis refused an intake", "redis takes entries again");
    let came = || engine.liveness.note(|life, now| life.inbox_came(now));
    let failed = |at| engine.liveness.note(|life, now| life.inbox_failed(now, at));
    while !ends.load(Ordering::Acquire) {
        let entry = heard.take();
        let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match entry {
            // Nothing else lay in `taken`, or the fence of the batch says so.
            Some(entry) => steps::intake::batch(&worker, vec![entry]),
            None => steps::intake::intake(&worker),
        }));
        match &taken {
            Ok(Ok(_)) => {
                engine.liveness.note(|life, now| life.inbox_asked(now));
                refusals.taken(At::Asking);
            }
            Ok(Err(_)) | Err(_) => failed(Failed::Asking),
        }
        let began = Instant::now();
        match taken {
            Ok(Ok(done)) if done.left > 0 => came(),
            Ok(Ok(_)) => match blocker.hear_inbox(&store, INBOX_BLOCK, client) {
                Ok(entry) => {
                    came();
                    heard = entry;
                    refusals.taken(At::Waiting);
                }
                Err(Fault::Refused(why)) => {
                    failed(Failed::Waiting);
                    refusals.refused(&why, At::Waiting, || worker.session.in_the_way(&why));
                    pause.wait(ends, Duration::from_secs(1));
                }
                Err(Fault::Away(why) | Fault::Unable(why)) => {
                    failed(Failed::Waiting);
                    if !ends.load(Ordering::Acquire) {
                        store.health.waited_in_vain(&why, began);
                    }
                    pause.wait(ends, Duration::from_millis(100));
                }
            },
            Ok(Err(denied)) => {
                if let Denied::Fault(Fault::Refused(why)) = &denied {
                    refusals.refused(why, At::Asking, || worker.session.in_the_way(why));
                    pause.wait(ends, Duration::from_secs(1));
                }
                pause.wait(ends, Duration::from_millis(100));
            }
            // The hook has logged the place; the entries still lie in `taken`.
            Err(_) => pause.wait(ends, Duration::from_secs(1)),
        }
    }
}

/// Looks at the files of secrets until the process ends.
fn secrets_thread(tools: Arc<Tools>, engine: &Engine) {
    let worker = Worker::new(tools, None);
    loop {
        std::thread::sleep(SECRETS);
        let seen = std::panic::AssertUnwindSafe(|| {
            let waits = worker.tools.telegram_outage.since().is_some();
            if rotation::look(&worker).contains(&SecretKind::BotToken) && waits {
                engine.scheduler.hurry_deliveries();
            }
        });
        // The hook has logged it; the next look may do better.
        let _ = std::panic::catch_unwind(seen);
    }
}

/// A thread of its own may wait; it looks up often enough to end quickly.
#[derive(Default)]
struct Pause(Mutex<()>, std::sync::Condvar);

impl Pause {
    fn wait(&self, ends: &AtomicBool, long: Duration) {
        let until = Instant::now() + long;
        while !ends.load(Ordering::Acquire) && Instant::now() < until {
            let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let step = until
                .saturating_duration_since(Instant::now())
                .min(Duration::from_millis(20));
            drop(self.1.wait_timeout(guard, step));
        }
    }
}

/// Beats until told to end. Without Redis it tries more often.
fn keeper_thread(mut keeper: Keeper, ends: &Receiver<()>, look: &dyn Fn() -> Seen) {
    let watchdog = sd_notify::watchdog_enabled();
    let mut status = StatusLine::new(Instant::now());
    let mut wait = keeper.pace();
    let mut pinged = Instant::now();
    loop {
        match ends.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return keeper.last_words(),
        }
        let beaten = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| keeper.once()));
        wait = match beaten {
            Ok(Ok(())) => keeper.pace(),
            Ok(Err(_)) => Duration::from_millis(100),
            Err(_) => keeper.pace(),
        };
        if let Some(every) = watchdog
            // Often, since one beat may hang in a Redis that does not answer for many seconds.
            && pinged.elapsed() * 6 >= every
            && keeper.is_well()
        {
            pinged = Instant::now();
            notify(&[sd_notify::NotifyState::Watchdog]);
        }
        report::tell_held_back(false);
        let now = Instant::now();
        if let Some(status) = status.as_mut().filter(|status| status.is_due(now)) {
            let depths = matches!(beaten, Ok(Ok(()))).then(|| keeper.depths());
            let seen = look();
            let line = status.line(&seen, depths.flatten(), now);
            if !seen.life.is_stopping() {
                notify(&[sd_notify::NotifyState::Status(&one_line(line))]);
            }
        }
    }
}
