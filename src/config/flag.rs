//! The flags themselves: one table that feeds the command line, the help, the variables and README's
//! table. What a value means is not decided here.
//!
//! Values are kept as text, by where they came from: clap reads the variables only to show them in the
//! help, since it takes an empty variable for a set one and cannot say afterwards who gave a value
//! (the password of `--redis-url` is fine in the variable and refused in the flag).

use super::ConfigError;
use crate::job::gathered;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// What holds when neither flag nor variable is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// This text, read as if it had been typed.
    Means(&'static str),
    /// Something worked out from the rest or the machine, in words.
    WorkedOut(&'static str),
}

/// One flag of the command line with its variable (contract section 5).
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// What stands for the value in the help.
    pub value: &'static str,
    /// What holds without it.
    pub unset: Unset,
    /// What it does, for the operator.
    pub help: &'static str,
    /// May be given several times; its variable takes commas.
    pub repeatable: bool,
}

impl Flag {
    const fn new(
        name: &'static str,
        variable: &'static str,
        value: &'static str,
        unset: Unset,
        help: &'static str,
    ) -> Flag {
        Flag {
            name,
            variable,
            value,
            unset,
            help,
            repeatable: false,
        }
    }

    const fn repeatable(mut self) -> Flag {
        self.repeatable = true;
        self
    }

    /// The start of every error about it.
    pub(super) fn refuse(&self, what: impl std::fmt::Display) -> ConfigError {
        ConfigError(format!("--{} ({}): {what}", self.name, self.variable))
    }

    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name)
            .long(self.name)
            .value_name(self.value)
            // Bytes, so that a broken variable is our error with its name, not clap's without.
            .value_parser(value_parser!(OsString))
            .env(self.variable)
            // A group's id is one; where no number may stand our own error says so, with the flag's name.
            .allow_negative_numbers(true)
            // A URL may hold a password, also one given in the wrong place.
            .hide_env_values(true)
            .action(if self.repeatable {
                ArgAction::Append
            } else {
                ArgAction::Set
            });
        match self.unset {
            Unset::Means(text) => arg.help(self.help).default_value(text),
            Unset::WorkedOut(words) => arg.help(format!("{} [default: {words}]", self.help)),
        }
    }
}

use Unset::{Means, WorkedOut};

/// The flags that say which Redis: of every command that talks to it.
pub static STORE_FLAGS: &[Flag] = &[
    Flag::new(
        "redis-url",
        "REDIS_URL",
        "URL",
        Means("redis://127.0.0.1:6379/0"),
        "Redis: redis://[user@]host:port/db, rediss:// for TLS, redis+unix:///path?db=N, \
         redis-sentinel://host,host,host/name/db, redis-cluster://host,host. A password is \
         refused here, since others see it in the process list: put the whole URL into REDIS_URL, into \
         a file named by REDIS_URL_FILE, or into the systemd credential redis-url",
    ),
    Flag::new(
        "redis-ca",
        "FAL_WORKER_REDIS_CA",
        "FILE",
        WorkedOut("the system's certificates"),
        "For rediss://: PEM file of the certificates that sign the server's; also the systemd credential \
         redis-ca",
    ),
    Flag::new(
        "redis-cert",
        "FAL_WORKER_REDIS_CERT",
        "FILE",
        WorkedOut("none"),
        "For rediss://: PEM file of the certificate that Redis wants to see from us, with --redis-key; also \
         the systemd credential redis-cert",
    ),
    Flag::new(
        "redis-key",
        "FAL_WORKER_REDIS_KEY",
        "FILE",
        WorkedOut("none"),
        "PEM file of the private key of --redis-cert, unencrypted, readable by the service alone; also the \
         systemd credential redis-key",
    ),
    Flag::new(
        "namespace",
        "FAL_WORKER_NAMESPACE",
        "NS",
        Means("fal"),
        "First part of every Redis key; bots that share a Redis take different ones",
    ),
    Flag::new(
        "inbox",
        "FAL_WORKER_INBOX",
        "KEY",
        WorkedOut("NS:inbox"),
        "Redis list that producers push jobs to",
    ),
];

/// The flags of `run` beside [`STORE_FLAGS`].
pub static RUN_FLAGS: &[Flag] = &[
    Flag::new(
        "threads",
        "FAL_WORKER_THREADS",
        "N",
        Means("32"),
        "Threads that submit, poll and deliver, 1 to 512. A job in fal's hands holds none, so 32 carry \
         thousands",
    ),
    Flag::new(
        "transfer-threads",
        "FAL_WORKER_TRANSFER_THREADS",
        "N",
        Means("4"),
        "Threads that download and upload files, 1 to 512",
    ),
    Flag::new(
        "max-in-flight",
        "FAL_WORKER_MAX_IN_FLIGHT",
        "N",
        Means("2000"),
        "Jobs this process holds at once; the rest waits in Redis",
    ),
    Flag::new(
        "redis-connections",
        "FAL_WORKER_REDIS_CONNECTIONS",
        "N",
        WorkedOut("50, or threads + transfer threads + 4 if that is more"),
        "Most connections to Redis; at least threads + transfer threads + 4",
    ),
    Flag::new(
        "name",
        "FAL_WORKER_NAME",
        "NAME",
        WorkedOut("the host name"),
        "Name of this worker in status and log: 1 to 64 of A-Z a-z 0-9 . _ -",
    ),
    Flag::new(
        "fal-url",
        "FAL_WORKER_FAL_URL",
        "URL",
        Means("https://queue.fal.run"),
        "Base URL of fal's queue; may carry a path",
    ),
    Flag::new(
        "fal-run-url",
        "FAL_WORKER_FAL_RUN_URL",
        "URL",
        Means("https://fal.run"),
        "Base URL of fal's direct calls",
    ),
    Flag::new(
        "fal-storage-url",
        "FAL_WORKER_FAL_STORAGE_URL",
        "URL",
        Means("https://rest.fal.ai"),
        "Base URL of fal's file storage",
    ),
    Flag::new(
        "telegram-url",
        "FAL_WORKER_TELEGRAM_URL",
        "URL",
        Means("https://api.telegram.org"),
        "Base URL of the Bot API, without /bot<token>",
    ),
    Flag::new(
        "file-host",
        "FAL_WORKER_FILE_HOSTS",
        "HOST",
        WorkedOut("fal.media and its subdomains, storage.googleapis.com"),
        "One more host whose files are fetched, and sent to Telegram as URLs: HOST, HOST:PORT, or .HOST \
         for its subdomains. Adds to the default; repeatable, the variable takes commas",
    )
    .repeatable(),
    Flag::new(
        "delivery",
        "FAL_WORKER_DELIVERY",
        "MODE",
        Means("auto"),
        "How files reach Telegram: auto (by URL where Telegram takes it, else upload), upload, url",
    ),
    Flag::new(
        "telegram-rate",
        "FAL_WORKER_TELEGRAM_RATE",
        "N/D",
        Means("30/1s"),
        "Messages and edits of the bot in a time, over all workers that share it; beside that 1/s in a \
         chat and 20/min in a group. off: no limits of our own (Telegram's 429 is obeyed all the same)",
    ),
    Flag::new(
        "delivery-timeout",
        "FAL_WORKER_DELIVERY_TIMEOUT",
        "D",
        Means("6h"),
        "How long a result waits for a Telegram that is away",
    ),
    Flag::new(
        "poll-min",
        "FAL_WORKER_POLL_MIN",
        "D",
        Means("250ms"),
        "Shortest time between two looks at one request, at least 50ms; equal to --poll-max: fixed \
         polling",
    ),
    Flag::new(
        "poll-max",
        "FAL_WORKER_POLL_MAX",
        "D",
        Means("5s"),
        "Longest time between two looks at one request. fal may forget a result after 6 minutes",
    ),
    Flag::new(
        "job-timeout",
        "FAL_WORKER_JOB_TIMEOUT",
        "D",
        Means("10m"),
        "How long a generation may run, 1s to 24h, unless the job says otherwise",
    ),
    Flag::new(
        "model-timeout",
        "FAL_WORKER_MODEL_TIMEOUTS",
        "PATTERN=D",
        WorkedOut("none"),
        "--job-timeout for the models that match, such as fal-ai/veo*=30m; the first one given that matches \
         counts; repeatable, the variable takes commas",
    )
    .repeatable(),
    Flag::new(
        "fal-queue-timeout",
        "FAL_WORKER_FAL_QUEUE_TIMEOUT",
        "D",
        Means("1h"),
        "How long a request may wait in fal's own queue",
    ),
    Flag::new(
        "max-wait",
        "FAL_WORKER_MAX_WAIT",
        "D",
        Means("24h"),
        "A job that was not submitted this long after it came in ends unpaid as expired; off: no limit",
    ),
    Flag::new(
        "max-attempts",
        "FAL_WORKER_MAX_ATTEMPTS",
        "N",
        Means("3"),
        "How often one job may be paid for, 1 to 20, unless the job says otherwise",
    ),
    Flag::new(
        "user-concurrency",
        "FAL_WORKER_USER_CONCURRENCY",
        "N",
        Means("off"),
        "Jobs of one user that run at once, on all workers together; off: any number",
    ),
    Flag::new(
        "user-rate",
        "FAL_WORKER_USER_RATE",
        "N/D",
        Means("off"),
        "Jobs of one user that begin within a time, such as 20/1h; what is over that gets a time of its \
         own. off: any number",
    ),
    Flag::new(
        "fal-concurrency",
        "FAL_WORKER_FAL_CONCURRENCY",
        "N",
        Means("off"),
        "Requests that the account runs at once: all workers together keep so many at fal and two more, and \
         the rest waits here, in its order; auto: found out from what fal shows; off: any number",
    ),
    Flag::new(
        "model-limit",
        "FAL_WORKER_MODEL_LIMITS",
        "PATTERN=N",
        WorkedOut("none"),
        "Requests of the models that match at fal at once, on all workers together, such as fal-ai/veo*=2; \
         the first one given that matches counts; repeatable, the variable takes commas; off: none",
    )
    .repeatable(),
    Flag::new(
        "fair",
        "FAL_WORKER_FAIR",
        "SWITCH",
        Means("on"),
        "on: within a priority users take turns; off: first in, first out",
    ),
    Flag::new(
        "low-after",
        "FAL_WORKER_LOW_AFTER",
        "D",
        Means("10m"),
        "A job of priority low that waited this long counts as default; off: never",
    ),
    Flag::new(
        "lease",
        "FAL_WORKER_LEASE",
        "D",
        Means("30s"),
        "A worker silent for this long is taken for dead and its jobs go to others, 3s to 10m",
    ),
    Flag::new(
        "keep-done",
        "FAL_WORKER_KEEP_DONE",
        "D",
        Means("24h"),
        "How long the record of a done or cancelled job is kept; 0: not at all",
    ),
    Flag::new(
        "keep-dead",
        "FAL_WORKER_KEEP_DEAD",
        "D",
        Means("30d"),
        "How long the record of a dead job is kept; 0: not at all",
    ),
    Flag::new(
        "events-max",
        "FAL_WORKER_EVENTS_MAX",
        "N",
        Means("100000"),
        "The event stream is trimmed near this many entries",
    ),
    Flag::new(
        "plain-http",
        "FAL_WORKER_PLAIN_HTTP",
        "HOST",
        WorkedOut("none; loopback needs no leave"),
        "A host that may be spoken to without TLS, such as a Bot API server in a container; repeatable, \
         the variable takes commas",
    )
    .repeatable(),
    Flag::new(
        "shutdown-timeout",
        "FAL_WORKER_SHUTDOWN_TIMEOUT",
        "D",
        Means("10s"),
        "On SIGTERM steps under way get this long to end; keep systemd's TimeoutStopSec above it",
    ),
    Flag::new(
        "listen",
        "FAL_WORKER_LISTEN",
        "ADDR",
        Means("127.0.0.1:9464"),
        "Address of the page for people (/), /metrics, /healthz and /readyz, such as 127.0.0.1:9464; port 0: any free one; off: none. \
         One that is not loopback needs a token (FAL_WORKER_LISTEN_TOKEN, _FILE or credential listen-token). \
         A taken default is one warning, a taken address given here ends the start",
    ),
    Flag::new(
        "log-format",
        "FAL_WORKER_LOG_FORMAT",
        "F",
        Means("auto"),
        "auto (journal under systemd, colours on a terminal, plain otherwise) or json",
    ),
    Flag::new(
        "state-dir",
        "FAL_WORKER_STATE_DIR",
        "DIR",
        WorkedOut(
            "$STATE_DIRECTORY (set by systemd), $XDG_STATE_HOME/fal-worker or /var/tmp/fal-worker-<uid>",
        ),
        "Where the step file lies, from which the next process learns what a killed one was doing, so that \
         it need not pay or send again; off: none",
    ),
    Flag::new(
        "lang",
        "FAL_WORKER_LANG",
        "L",
        Means("en"),
        "Language of the built-in texts where a job names none: en or ru",
    ),
    Flag::new(
        "messages",
        "FAL_WORKER_MESSAGES",
        "FILE",
        WorkedOut("the built-in texts"),
        "Texts of your own in place of those that users read, TOML or JSON: [en] timeout = \"...\". Checked \
         at start",
    ),
    Flag::new(
        "progress",
        "FAL_WORKER_PROGRESS",
        "MODE",
        Means("on"),
        "on: while a job runs its chat shows that something is being sent, or its status message says how \
         far it is; off: neither",
    ),
    Flag::new(
        "admin-chat",
        "FAL_WORKER_ADMIN_CHAT",
        "ID",
        Means("off"),
        "Chat that is told of an empty balance or a refused fal key; off: nobody",
    ),
];

/// Every flag there is: the only `FAL_WORKER_*` variables that may be set are these.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    STORE_FLAGS.iter().chain(RUN_FLAGS)
}

/// What the help of `run` says below the flags.
const SECRETS: &str = "\
Secrets have no flag; exactly one source of each may be set:
  fal key (required):  FAL_KEY, FAL_KEY_FILE, or systemd credential fal-key
  bot token:           TELEGRAM_BOT_TOKEN, TELEGRAM_BOT_TOKEN_FILE, or credential telegram-bot-token
  Redis, if not above: REDIS_URL, REDIS_URL_FILE, or credential redis-url
  token of --listen:   FAL_WORKER_LISTEN_TOKEN, FAL_WORKER_LISTEN_TOKEN_FILE, or credential listen-token
RUST_LOG sets what is logged [default: info].
A flag beats its variable; an empty variable counts as unset.";

/// What was typed: texts by flag.
pub(super) type Typed = BTreeMap<&'static str, Vec<OsString>>;

/// What was typed after `run`: unchecked. [`Config::load`](super::Config::load) reads it.
#[derive(Clone, Debug, Default)]
pub struct RunArgs(pub(super) Typed);

/// What was typed after a command that only needs Redis: unchecked.
/// [`StoreConfig::load`](super::StoreConfig::load) reads it.
#[derive(Clone, Debug, Default)]
pub struct StoreArgs(pub(super) Typed);

impl RunArgs {
    /// As if these had been typed: `[("threads", "8")]`.
    pub fn typed<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> RunArgs {
        RunArgs(typed(all(), pairs))
    }
}

impl StoreArgs {
    /// As if these had been typed: `[("namespace", "shop")]`.
    pub fn typed<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> StoreArgs {
        StoreArgs(typed(STORE_FLAGS.iter(), pairs))
    }
}

fn typed<'a>(
    flags: impl Iterator<Item = &'static Flag>,
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Typed {
    let flags: Vec<_> = flags.collect();
    let mut typed = Typed::new();
    for (name, value) in pairs {
        let flag = flags.iter().find(|flag| flag.name == name);
        let name = flag
            .unwrap_or_else(|| panic!("there is no flag --{name}"))
            .name;
        typed.entry(name).or_default().push(value.into());
    }
    typed
}

/// Keeps what stood on the command line, and leaves variables and defaults to `config`.
fn from_command_line(flags: impl Iterator<Item = &'static Flag>, matches: &ArgMatches) -> Typed {
    let typed =
        flags.filter(|flag| matches.value_source(flag.name) == Some(ValueSource::CommandLine));
    gathered(typed.map(|flag| {
        let values = matches.get_many::<OsString>(flag.name);
        (flag.name, values.into_iter().flatten().cloned().collect())
    }))
}

impl FromArgMatches for RunArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(RunArgs(from_command_line(all(), matches)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(from_command_line(all(), matches));
        Ok(())
    }
}

impl Args for RunArgs {
    fn augment_args(command: Command) -> Command {
        command.args(all().map(Flag::arg)).after_help(SECRETS)
    }

    fn augment_args_for_update(command: Command) -> Command {
        RunArgs::augment_args(command)
    }
}

impl FromArgMatches for StoreArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(StoreArgs(from_command_line(STORE_FLAGS.iter(), matches)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0
            .extend(from_command_line(STORE_FLAGS.iter(), matches));
        Ok(())
    }
}

impl Args for StoreArgs {
    fn augment_args(command: Command) -> Command {
        command.args(STORE_FLAGS.iter().map(Flag::arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        StoreArgs::augment_args(command)
    }
}

/// The environment as it was at start, without what is empty; each value less one trailing newline.
/// Tests make their own instead of changing the process's.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// A copy of the process's.
    pub fn of_process() -> Environment {
        std::env::vars_os().collect()
    }

    /// The value, if it is set to more than nothing.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// A `FAL_WORKER_*` variable that this version does not know would be a wish silently ignored.
    pub(super) fn refuse_unknown(&self) -> Result<(), ConfigError> {
        for name in self.0.keys() {
            let name = name.to_string_lossy();
            let known =
                all().any(|flag| flag.variable == name) || SECRET_VARIABLES.contains(&&*name);
            if name.starts_with("FAL_WORKER_") && !known {
                let name = name.escape_debug();
                return Err(ConfigError(format!(
                    "{name}: this version has no such setting; correct or remove the variable"
                )));
            }
        }
        Ok(())
    }
}

/// Variables of ours that have no flag, since others see those in the list of processes.
pub const SECRET_VARIABLES: [&str; 2] = ["FAL_WORKER_LISTEN_TOKEN", "FAL_WORKER_LISTEN_TOKEN_FILE"];

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        let pairs = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), without_newline(value.into())));
        Environment(gathered(pairs.filter(|(_, value)| !value.is_empty())))
    }
}

fn without_newline(value: OsString) -> OsString {
    match value.to_str() {
        Some(text) => super::secret::less_one_newline(text).into(),
        None => value, // refused where it is read, by name
    }
}
