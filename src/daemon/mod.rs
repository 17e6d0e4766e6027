//! Who runs when: start, the order of the threads, signals, and what the service manager is told; the end is in
//! `stop`. No call to fal or Telegram and no decision about a job is made here.

mod answer;
mod canceller;
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
mod stop;
mod threads;
mod tools;

use crate::config::{Config, Listen};
use crate::report;
use crate::steps::pull::Blocker;
use crate::steps::{Tools, Worker};
use crate::store::Fault;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use guard::{Guard, Leave};
use health::Seen;
use keeper::Keeper;
use listen::{Asked, Page};
use page::Board;
use pool::{Engine, Moved};
use scheduler::Stage;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use threads::{intake_thread, keeper_thread, secrets_thread};

/// Stack of the daemon's threads: a step needs little, and the pages it never touches cost nothing.
const STACK: usize = 512 << 10;
/// Stack of the thread behind `--listen`: it reads requests of at most 8 KiB and prints figures.
const LISTEN_STACK: usize = 256 << 10;
/// How long intake waits for an inbox entry at a time.
const INBOX_BLOCK: Duration = Duration::from_secs(5);

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
    let tools = Arc::new(tools::from_config(config)?);
    let threads = config.threads;
    let (engine, moved) = Engine::new(threads.pool, threads.transfer, config.limits.max_in_flight);
    let engine = Arc::new(engine);
    let me = process::own(&config.name, threads.pool, config.lease);
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
                    "redis refused: {why}; `fal-worker check` says what is missing"
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
    .map_err(|error| {
        // Its words leave out what the system said.
        let why = match error {
            ctrlc::Error::System(error) => error.to_string(),
            other => other.to_string(),
        };
        StartError::Internal(format!("cannot handle signals: {why}"))
    })?;
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
