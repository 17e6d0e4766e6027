//! What the operator asks for: flags, variables and secrets become one [`Config`] that cannot be wrong,
//! or one line that says which of them is. Nothing reads the environment after this, and no thread
//! meets a bad value at night (contract section 5).

mod flag;
mod messages;
mod rotate;
mod secret;
mod server;
#[cfg(test)]
mod tests;
mod tls;
mod url;

pub use flag::{
    Environment, Flag, RUN_FLAGS, RunArgs, SECRET_VARIABLES, STORE_FLAGS, StoreArgs, Unset,
};
pub use rotate::{Fresh, SecretFile, SecretKind, Source};
pub use secret::Secret;
pub use server::{Node, Server, Way, slot};
pub use url::{BaseUrl, RedisUrl};

use crate::job::Lang;
use crate::job::pattern::Pattern;
use crate::job::schedule::PollBounds;
use crate::job::spec::ChatId;
use crate::job::words::Words;
use flag::Typed;
use secret::Found;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Everything `run` needs, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// First half of the instance's name: 1-64 of `[A-Za-z0-9._-]`.
    pub name: String,
    /// Which Redis, and where in it.
    pub store: StoreConfig,
    /// Most connections to Redis; enough for every thread.
    pub redis_connections: u32,
    /// How many threads of which kind.
    pub threads: Threads,
    /// What a job may take, where it does not say so itself.
    pub limits: Limits,
    /// How often fal is asked.
    pub poll: PollBounds,
    /// Where requests go.
    pub urls: Urls,
    /// How files reach Telegram.
    pub delivery: DeliveryMode,
    /// How long a silent worker counts as alive, 3 s to 10 min.
    pub lease: Duration,
    /// What is kept of ended jobs.
    pub retention: Retention,
    /// What was given of the values that hold for all workers, as `fal:config` has them: name and value.
    pub shared: Vec<(&'static str, String)>,
    /// From the signal to the hard stop.
    pub shutdown_timeout: Duration,
    /// Where the step file lies; `None`: there is none.
    pub state: Option<StateDir>,
    /// Where health is told; `None`: nowhere.
    pub listen: Option<Listen>,
    /// Look of the log.
    pub log_format: LogFormat,
    /// Language where a job names none.
    pub lang: Lang,
    /// Messages of the bot; `None`: no limit of our own.
    pub telegram_rate: Option<Rate>,
    /// What users read.
    pub messages: Words,
    /// Whether users are shown that something happens before the result is there.
    pub progress: bool,
    /// Who is told of trouble with the account.
    pub admin_chat: Option<ChatId>,
    /// fal's key, `<id>:<secret>`.
    pub fal_key: Secret,
    /// The bot's token; without it a job with `telegram` fails unpaid, and the start warns once.
    pub bot_token: Option<Secret>,
    /// Where key, token and the URL of Redis were found.
    pub sources: Vec<Source>,
}

/// Which Redis, and where in it: all that the commands beside `run` need.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The server. Prints without its password.
    pub redis: RedisUrl,
    /// Where its URL was found.
    pub redis_source: Source,
    /// First part of every key: 1-64 visible ASCII, no space.
    pub namespace: String,
    /// The list that producers push to.
    pub inbox: String,
}

/// Numbers of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads {
    /// Run the steps, 1-512.
    pub pool: usize,
    /// Move bytes of files, 1-512.
    pub transfer: usize,
}

/// Bounds of jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Jobs one process holds.
    pub max_in_flight: usize,
    /// Payments for one job, 1-20.
    pub max_attempts: u32,
    /// Time in progress at fal.
    pub job_timeout: Duration,
    /// Time in progress at fal of the models that match, the first one first.
    pub model_timeouts: Vec<(Pattern, Duration)>,
    /// Time in fal's queue.
    pub fal_queue_timeout: Duration,
    /// Time from coming in to the submit; `None`: any.
    pub max_wait: Option<Duration>,
    /// Time a result waits for Telegram.
    pub delivery_timeout: Duration,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Urls {
    /// fal's queue.
    pub fal: BaseUrl,
    /// fal's direct calls.
    pub fal_run: BaseUrl,
    /// fal's storage.
    pub fal_storage: BaseUrl,
    /// The Bot API, without `/bot<token>`.
    pub telegram: BaseUrl,
    /// Where files may come from.
    pub file_hosts: Vec<String>,
    /// Hosts that may be spoken to without TLS, beside loopback.
    pub plain_http: Vec<String>,
}

/// So many in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub number: u32,
    /// In this time.
    pub per: Duration,
}

/// How files reach Telegram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeliveryMode {
    /// By URL where Telegram takes it, else by upload.
    #[default]
    Auto,
    /// Always by upload.
    Upload,
    /// Never by upload (but for what has no URL): by URL, else a text with the link.
    Url,
}

/// How long records stay after their end. Zero: of a job only the bare id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Records of done and cancelled jobs.
    pub done: Duration,
    /// Records of dead jobs.
    pub dead: Duration,
    /// Entries of the event stream, about.
    pub events_max: u64,
}

/// The folder of the step file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    /// Where.
    pub path: PathBuf,
    /// The service manager made it, where it may be a link.
    pub managed: bool,
}

/// Where pages are served for those who watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// A loopback address, or any with a token.
    pub address: SocketAddr,
    /// By flag or variable, so that a taken port is a mistake.
    pub given: bool,
    /// What guests have to say.
    pub token: Option<Secret>,
}

/// Look of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Journal under systemd, colours on a terminal, plain otherwise.
    Auto,
    /// One JSON object a line.
    Json,
}

/// Which setting is wrong, and what it should be: one line that begins with the flag or the variable and
/// never holds a secret. The process ends with code 78.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

fn texts(hosts: &[url::Host]) -> Vec<String> {
    hosts.iter().map(ToString::to_string).collect()
}

impl Config {
    /// Checks what was typed and what the environment says. A flag beats its variable.
    pub fn load(args: &RunArgs, env: &Environment) -> Result<Config, ConfigError> {
        env.refuse_unknown()?;
        let read = Reader {
            typed: &args.0,
            env,
        };

        let threads = read.threads()?;
        let redis_connections = read.redis_connections(threads)?;
        let poll = read.poll()?;
        let urls = read.urls()?;
        let limits = read.limits()?;
        let retention = read.retention()?;
        let shared = read.shared()?;
        let delivery = [
            ("auto", DeliveryMode::Auto),
            ("upload", DeliveryMode::Upload),
            ("url", DeliveryMode::Url),
        ];
        let formats = [("auto", LogFormat::Auto), ("json", LogFormat::Json)];
        let langs = [("en", Lang::En), ("ru", Lang::Ru)];
        let store = read.store()?;
        let mut sources = vec![store.redis_source.clone()];
        let (fal_key, bot_token) = read.secrets(&mut sources)?;
        Ok(Config {
            name: read
                .optional("name", name)?
                .unwrap_or_else(|| name_from(&host_name())),
            store,
            redis_connections,
            threads,
            limits,
            poll,
            urls,
            delivery: read.value("delivery", |text| one_of(text, &delivery))?,
            telegram_rate: read.value("telegram-rate", |text| limit(text, telegram_rate))?,
            lease: read.value("lease", |text| duration(text, 3 * SECOND..=600 * SECOND))?,
            retention,
            shared,
            shutdown_timeout: read.value("shutdown-timeout", |text| {
                duration(text, Duration::from_millis(100)..=HOUR)
            })?,
            state: read.state_dir()?,
            listen: read.listen()?,
            log_format: read.value("log-format", |text| one_of(text, &formats))?,
            lang: read.value("lang", |text| one_of(text, &langs))?,
            messages: read
                .optional("messages", messages::load)?
                .unwrap_or_default(),
            progress: read.value("progress", |text| {
                one_of(text, &[("on", true), ("off", false)])
            })?,
            admin_chat: read.value("admin-chat", |text| limit(text, chat))?,
            fal_key,
            bot_token,
            sources,
        })
    }

    /// Every text that no log line may hold, wholes before their parts: for `report::hide`.
    pub fn secrets(&self) -> Vec<&str> {
        let pairs = [Some(&self.fal_key), self.bot_token.as_ref()];
        let pairs = || pairs.into_iter().flatten();
        let wholes = pairs().map(Secret::expose);
        let parts = pairs().filter_map(Secret::part);
        let listen = self.listen.as_ref();
        let listen = listen.and_then(|listen| Some(listen.token.as_ref()?.expose()));
        let all = wholes.chain(parts).chain(listen);
        all.chain(self.store.secrets()).collect()
    }
}

impl StoreConfig {
    /// As [`Config::load`], for a command that only needs Redis.
    pub fn load(args: &StoreArgs, env: &Environment) -> Result<StoreConfig, ConfigError> {
        env.refuse_unknown()?;
        Reader {
            typed: &args.0,
            env,
        }
        .store()
    }

    /// Every text that no log line may hold: for `report::hide`.
    pub fn secrets(&self) -> Vec<&str> {
        self.redis.secrets().collect()
    }
}

fn flag(name: &str) -> &'static Flag {
    flag::all()
        .find(|flag| flag.name == name)
        .expect("every flag that is read is in the table")
}

/// Takes each setting from the first place that has it: flag, variable, default.
struct Reader<'a> {
    typed: &'a Typed,
    env: &'a Environment,
}

impl Reader<'_> {
    fn value<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let flag = flag(name);
        match (self.texts(flag)?.pop(), flag.unset) {
            (Some(text), _) => parse(&text),
            (None, Unset::Means(text)) => parse(text),
            (None, Unset::WorkedOut(_)) => unreachable!("--{name} has no default to read"),
        }
        .map_err(|what| flag.refuse(what))
    }

    fn optional<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let flag = flag(name);
        let text = self.texts(flag)?.pop();
        text.map(|text| parse(&text))
            .transpose()
            .map_err(|what| flag.refuse(what))
    }

    fn list<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        let flag = flag(name);
        let texts = self.texts(flag)?;
        let parts = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
        parts
            .map(parse)
            .collect::<Result<_, _>>()
            .map_err(|what| flag.refuse(what))
    }

    fn threads(&self) -> Result<Threads, ConfigError> {
        Ok(Threads {
            pool: self.value("threads", |text| whole(text, 1..=512))? as usize,
            transfer: self.value("transfer-threads", |text| whole(text, 1..=512))? as usize,
        })
    }

    /// Most connections to Redis: enough for these threads.
    fn redis_connections(&self, threads: Threads) -> Result<u32, ConfigError> {
        // Each thread holds one at most; intake, keeper, the blocked pull and one to spare.
        let needed = threads.pool as u64 + threads.transfer as u64 + 4;
        let connections = self
            .optional("redis-connections", |text| match whole(text, 1..=10_000)? {
                fits if fits >= needed => Ok(fits),
                given => Err(format!(
                    "{given} is too few: threads + transfer threads + 4 are {needed}"
                )),
            })?
            .unwrap_or(needed.max(50));
        Ok(connections as u32)
    }

    fn poll(&self) -> Result<PollBounds, ConfigError> {
        let poll = PollBounds {
            min: self.value("poll-min", |text| {
                duration(text, Duration::from_millis(50)..=LONGEST)
            })?,
            max: self.value("poll-max", |text| {
                duration(text, Duration::from_millis(50)..=LONGEST)
            })?,
        };
        if poll.min > poll.max {
            let (min, max) = (
                humantime::format_duration(poll.min),
                humantime::format_duration(poll.max),
            );
            return Err(
                flag("poll-min").refuse(format!("{min} is more than --poll-max, which is {max}"))
            );
        }
        Ok(poll)
    }

    fn urls(&self) -> Result<Urls, ConfigError> {
        let plain = self.list("plain-http", url::Host::parse_exact)?;
        let base = |name| self.value(name, |text| BaseUrl::parse(text, &plain));
        Ok(Urls {
            fal: base("fal-url")?,
            fal_run: base("fal-run-url")?,
            fal_storage: base("fal-storage-url")?,
            telegram: base("telegram-url")?,
            file_hosts: texts(&self.list("file-host", url::Host::parse)?),
            plain_http: texts(&plain),
        })
    }

    fn limits(&self) -> Result<Limits, ConfigError> {
        Ok(Limits {
            max_in_flight: self.value("max-in-flight", |text| whole(text, 1..=1_000_000))? as usize,
            max_attempts: self.value("max-attempts", |text| whole(text, 1..=20))? as u32,
            // As a job's own `timeout_s`.
            job_timeout: self.value("job-timeout", job_time)?,
            model_timeouts: self.list("model-timeout", |text| {
                let (pattern, span) = text.split_once('=').ok_or_else(|| {
                    format!(
                        "{} is not a PATTERN=D such as fal-ai/veo*=30m",
                        quoted(text)
                    )
                })?;
                let fits = Pattern::new(pattern)
                    .ok_or_else(|| format!("{} is no pattern of models", quoted(pattern)))?;
                Ok((fits, job_time(span)?))
            })?,
            fal_queue_timeout: self.value("fal-queue-timeout", some_time)?,
            max_wait: self.value("max-wait", |text| limit(text, some_time))?,
            delivery_timeout: self.value("delivery-timeout", some_time)?,
        })
    }

    fn retention(&self) -> Result<Retention, ConfigError> {
        let keep = |text: &str| duration(text, Duration::ZERO..=LONGEST);
        Ok(Retention {
            done: self.value("keep-done", keep)?,
            dead: self.value("keep-dead", keep)?,
            events_max: self.value("events-max", |text| whole(text, 1..=1_000_000_000))?,
        })
    }

    /// What was given of the values that hold for all workers.
    fn shared(&self) -> Result<Vec<(&'static str, String)>, ConfigError> {
        let shared = [
            (
                "user_concurrency",
                self.optional("user-concurrency", |text| {
                    let slots = limit(text, |text| whole(text, 1..=1_000_000))?;
                    Ok(slots.unwrap_or(0).to_string())
                })?,
            ),
            (
                "user_rate",
                self.optional("user-rate", |text| {
                    Ok(match limit(text, user_rate)? {
                        Some(rate) => format!("{}/{}", rate.number, rate.per.as_millis()),
                        None => "0/0".to_owned(),
                    })
                })?,
            ),
            (
                "fal_concurrency",
                self.optional("fal-concurrency", |text| match text {
                    "auto" => Ok(text.to_owned()),
                    text => {
                        let most = limit(text, |text| whole(text, 1..=1000))?;
                        Ok(most.unwrap_or(0).to_string())
                    }
                })?,
            ),
            ("model_limits", self.model_limits()?),
            (
                "fair",
                self.optional("fair", |text| {
                    one_of(text, &[("on", "on"), ("off", "off")]).map(str::to_owned)
                })?,
            ),
            (
                "low_after",
                self.optional("low-after", |text| {
                    let after = limit(text, some_time)?.unwrap_or_default();
                    Ok(after.as_millis().to_string())
                })?,
            ),
            // Read by the command `retry`, which has no other way to know what the workers were told.
            (
                "max_wait",
                self.optional("max-wait", |text| {
                    let most = limit(text, some_time)?.unwrap_or_default();
                    Ok(most.as_millis().to_string())
                })?,
            ),
        ];
        Ok(shared
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect())
    }

    /// fal's key and the bot's token. Where they were found goes to `sources`.
    fn secrets(&self, sources: &mut Vec<Source>) -> Result<(Secret, Option<Secret>), ConfigError> {
        let mut sourced = |what, found: Found| {
            sources.push(found.source(what));
            found
        };
        let fal_key = match secret::find(self.env, "FAL_KEY", "fal-key", None)? {
            Some(found) => secret::fal_key(sourced(SecretKind::FalKey, found))?,
            None => {
                return Err(ConfigError(
                    "FAL_KEY: missing; set it, or FAL_KEY_FILE, or the systemd credential fal-key"
                        .into(),
                ));
            }
        };
        let bot_token = secret::find(self.env, "TELEGRAM_BOT_TOKEN", "telegram-bot-token", None)?
            .map(|found| secret::bot_token(sourced(SecretKind::BotToken, found)))
            .transpose()?;
        Ok((fal_key, bot_token))
    }

    /// `PATTERN=N,PATTERN=N` in the order given; `off` or `0` for none. Of a pattern given twice the first counts.
    fn model_limits(&self) -> Result<Option<String>, ConfigError> {
        let all = self.list("model-limit", |text| {
            if matches!(text, "off" | "0") {
                return Ok(None);
            }
            let refuse = || {
                let text = quoted(text);
                format!("{text} is neither a PATTERN=N such as fal-ai/veo*=2 nor off")
            };
            let (pattern, most) = text.split_once('=').ok_or_else(refuse)?;
            if Pattern::new(pattern).is_none() {
                return Err(format!("{} is no pattern of models", quoted(pattern)));
            }
            Ok(Some(format!("{pattern}={}", whole(most, 1..=1000)?)))
        })?;
        if all.is_empty() {
            return Ok(None);
        }
        if all.len() > 1 && all.contains(&None) {
            return Err(flag("model-limit").refuse("off stands alone"));
        }
        let pattern = |limit: &str| limit.split('=').next().map(str::to_owned);
        let mut kept: Vec<String> = Vec::new();
        for limit in all.into_iter().flatten() {
            if !kept.iter().any(|other| pattern(other) == pattern(&limit)) {
                kept.push(limit);
            }
        }
        Ok(Some(match kept.is_empty() {
            true => "off".to_owned(),
            false => kept.join(","),
        }))
    }

    /// Not generic and not inlined: compiled once, not once for each type that is parsed.
    #[inline(never)]
    fn texts(&self, flag: &Flag) -> Result<Vec<String>, ConfigError> {
        let values = match self.typed.get(flag.name) {
            Some(values) => values.iter().map(|value| value.as_os_str()).collect(),
            None => Vec::from_iter(self.env.get(flag.variable)),
        };
        let texts = values
            .into_iter()
            .map(|value| value.to_str().map(str::to_owned));
        texts
            .collect::<Option<_>>()
            .ok_or_else(|| flag.refuse("not valid UTF-8"))
    }

    fn store(&self) -> Result<StoreConfig, ConfigError> {
        let (redis, redis_source) = self.redis()?;
        let redis = self.with_certificates(redis)?;
        let namespace = self.value("namespace", |text| key_part(text, 64))?;
        let inbox = self.optional("inbox", |text| inbox(text, &namespace))?;
        let inbox = inbox.unwrap_or_else(|| format!("{namespace}:inbox"));
        if let Way::Cluster { .. } = redis.server().way {
            one_slot(&namespace, &inbox)?;
        }
        Ok(StoreConfig {
            redis,
            redis_source,
            namespace,
            inbox,
        })
    }

    /// Whoever can reach an address that is no loopback one has to know the token.
    fn listen(&self) -> Result<Option<Listen>, ConfigError> {
        let token = secret::find(self.env, "FAL_WORKER_LISTEN_TOKEN", "listen-token", None)?
            .map(secret::listen_token)
            .transpose()?;
        let Some(address) = self.value("listen", |text| {
            let address = limit(text, address)?;
            match address.filter(|address| token.is_none() && !address.ip().is_loopback()) {
                None => Ok(address),
                Some(address) => Err(format!(
                    "{address} is no loopback address, so it wants a token: FAL_WORKER_LISTEN_TOKEN, \
                     FAL_WORKER_LISTEN_TOKEN_FILE or the systemd credential listen-token"
                )),
            }
        })?
        else {
            return Ok(None);
        };
        let given = self.optional("listen", |_| Ok(()))?.is_some();
        Ok(Some(Listen {
            address,
            given,
            token,
        }))
    }

    /// The flag, its variable, what systemd made, or a place of the user's own.
    fn state_dir(&self) -> Result<Option<StateDir>, ConfigError> {
        let folder = |path: PathBuf, managed| Some(StateDir { path, managed });
        let given = self.optional("state-dir", |text| match text {
            "off" => Ok(None),
            text if text.starts_with('/') => Ok(folder(text.into(), false)),
            text => Err(format!("{} is no absolute path", quoted(text))),
        })?;
        if let Some(given) = given {
            return Ok(given);
        }
        // Several are separated by colons, the unit's first one is the service's own.
        if let Some(made) = self.env.get("STATE_DIRECTORY") {
            let made = made.to_string_lossy();
            let first = made.split(':').next().unwrap_or_default();
            return Ok(folder(first.into(), true));
        }
        Ok(match self.env.get("XDG_STATE_HOME").map(PathBuf::from) {
            Some(home) if home.is_absolute() => folder(home.join("fal-worker"), false),
            _ => {
                let user = rustix::process::geteuid().as_raw();
                folder(format!("/var/tmp/fal-worker-{user}").into(), false)
            }
        })
    }

    /// The one flag that is half a secret: its password may come from anywhere but the command line.
    fn redis(&self) -> Result<(RedisUrl, Source), ConfigError> {
        let flag = flag("redis-url");
        let typed = self.typed.contains_key(flag.name).then_some("--redis-url");
        if let Some(found) = secret::find(self.env, flag.variable, flag.name, typed)? {
            let source = found.source(SecretKind::RedisUrl);
            let place = if found.place == flag.variable {
                "--redis-url (REDIS_URL)".to_owned()
            } else {
                found.place
            };
            return RedisUrl::parse(found.text.expose())
                .map(|url| (url, source))
                .map_err(|what| ConfigError(format!("{place}: {what}")));
        }
        let redis = self.value(flag.name, RedisUrl::parse)?;
        if typed.is_some() && redis.secrets().next().is_some() {
            return Err(flag.refuse(
                "every user of this machine can read a password on the command line; put the URL into the \
                 variable REDIS_URL, a file named by REDIS_URL_FILE, or the systemd credential redis-url",
            ));
        }
        let place = typed.unwrap_or("the default").to_owned();
        let source = Source {
            what: SecretKind::RedisUrl,
            place,
            file: None,
        };
        Ok((redis, source))
    }
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Ten years: longer is a typing error, and sums with a clock must not overflow.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

fn whole(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let (least, most) = (range.start(), range.end());
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        format!(
            "{} is not a whole number from {least} to {most}",
            quoted(text)
        )
    })
}

fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|_| {
        format!(
            "{} is not a duration such as 500ms, 30s, 10m or 24h",
            quoted(text)
        )
    })?;
    if span < *range.start() {
        let least = humantime::format_duration(*range.start());
        return Err(format!("{} is too short, at least {least}", quoted(text)));
    }
    if span > *range.end() {
        let hours = range.end().as_secs() / 3600;
        let most = if hours > 24 {
            format!("{}d", hours / 24)
        } else {
            short(*range.end())
        };
        return Err(format!("{} is too long, at most {most}", quoted(text)));
    }
    Ok(span)
}

fn some_time(text: &str) -> Result<Duration, String> {
    duration(text, SECOND..=LONGEST)
}

fn job_time(text: &str) -> Result<Duration, String> {
    duration(text, SECOND..=24 * HOUR)
}

/// Without humantime's "1day" for 24h.
fn short(span: Duration) -> String {
    match span.as_secs() {
        seconds if seconds >= 3600 => format!("{}h", seconds / 3600),
        seconds if seconds >= 60 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

/// `off` and `0` switch a limit off.
fn limit<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    match text {
        "off" | "0" | "0s" => Ok(None),
        text => parse(text).map(Some),
    }
}

/// `30/1s`: so many, up to `most`, in a time within `spans`.
fn rate(
    text: &str,
    example: &str,
    most: u64,
    spans: RangeInclusive<Duration>,
) -> Result<Rate, String> {
    let Some((number, per)) = text.split_once('/') else {
        return Err(format!(
            "{} is neither a number in a time such as {example} nor off",
            quoted(text)
        ));
    };
    Ok(Rate {
        number: whole(number, 1..=most)? as u32,
        per: duration(per, spans)?,
    })
}

fn telegram_rate(text: &str) -> Result<Rate, String> {
    rate(text, "30/1s", 10_000, Duration::from_millis(100)..=HOUR)
}

fn user_rate(text: &str) -> Result<Rate, String> {
    rate(text, "20/1h", 1_000_000, SECOND..=366 * 24 * HOUR)
}

fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        format!("{} is none of {}", quoted(text), words.join(", "))
    })
}

fn name(text: &str) -> Result<String, String> {
    if (1..=64).contains(&text.len()) && text.bytes().all(is_name_byte) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not 1 to 64 of A-Z a-z 0-9 . _ -",
        quoted(text)
    ))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

/// What this machine calls itself; empty where it does not say.
pub(crate) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default()
}

/// A valid name from any host name.
fn name_from(host: &str) -> String {
    let valid = |c: char| {
        if c.is_ascii() && is_name_byte(c as u8) {
            c
        } else {
            '-'
        }
    };
    match host.trim() {
        "" => "worker".to_owned(),
        host => host.chars().take(64).map(valid).collect(),
    }
}

fn key_part(text: &str, longest: usize) -> Result<String, String> {
    if (1..=longest).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{} is not 1 to {longest} visible ASCII characters without spaces",
        quoted(text)
    ))
}

/// First words of our own keys behind the namespace (contract sections 2 and 4).
pub(crate) const OWN_KEYS: [&str; 38] = [
    "taken", "ready", "bell", "spec", "result", "at_fal", "later", "waiting", "waiters", "user",
    "workers", "worker", "claims", "cancels", "dead", "config", "stats", "models", "paused",
    "store", "run", "settling", "rate", "events", "job", "gone", "audit", "suspects", "upload",
    "turns", "window", "never", "newer", "minute", "told", "check", "id", "ids",
];

/// A cluster carries out a script only where all its keys have one slot.
fn one_slot(namespace: &str, inbox: &str) -> Result<(), ConfigError> {
    if server::hash_tag(namespace).is_none() {
        return Err(flag("namespace").refuse(
            "in a Redis Cluster all keys must have one slot: put braces around it, such as --namespace '{fal}'",
        ));
    }
    if slot(inbox) != slot(namespace) {
        return Err(flag("inbox").refuse(format!(
            "{} has another slot of the cluster than the namespace: write the namespace's braces into it, \
             such as '{{{}}}:my-inbox'",
            quoted(inbox),
            server::hash_tag(namespace).unwrap_or_default()
        )));
    }
    Ok(())
}

fn inbox(text: &str, namespace: &str) -> Result<String, String> {
    let key = key_part(text, 256)?;
    let own = key
        .strip_prefix(namespace)
        .and_then(|rest| rest.strip_prefix(':'));
    let own = own.and_then(|rest| rest.split(':').next());
    if own.is_some_and(|word| OWN_KEYS.contains(&word)) {
        return Err(format!(
            "{} is a key that the worker itself uses",
            quoted(text)
        ));
    }
    Ok(key)
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{} is neither an address such as 127.0.0.1:9464 or [::1]:9464 nor off",
            quoted(text)
        )
    })
}

/// A chat id of at most 52 bits, or the `@name` of a public one.
fn chat(text: &str) -> Result<ChatId, String> {
    let refuse = || {
        format!(
            "{} is neither a chat id such as 42 or -100123 nor an @name nor off",
            quoted(text)
        )
    };
    if let Some(name) = text.strip_prefix('@') {
        let fits = (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        return if fits {
            Ok(ChatId::Name(text.to_owned()))
        } else {
            Err(refuse())
        };
    }
    let id = text
        .parse()
        .ok()
        .filter(|id: &i64| *id != 0 && id.unsigned_abs() < 1 << 52);
    id.map(ChatId::Id).ok_or_else(refuse)
}

/// A value in an error: one line, and not the whole of a wrong paste.
fn quoted(text: &str) -> String {
    if text.is_empty() {
        return "an empty value".to_owned();
    }
    let start: String = text.chars().take(40).collect();
    let more = if start.len() < text.len() { "…" } else { "" };
    format!("\"{}{more}\"", start.escape_debug())
}
