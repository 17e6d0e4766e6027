//! The way of a line to stderr: look, filter, and the last look for secrets.

use super::flood::{Flood, Held, Sort};
use super::line::{self, Fields, Shown};
use super::outlet::{self, Outlet};
use anstream::{AutoStream, ColorChoice};
use env_logger::Target;
use env_logger::fmt::Formatter;
use log::{Level, LevelFilter, Log, Metadata, Record};
use memchr::memmem::Finder;
use std::io::{self, IsTerminal, Write};
use std::os::linux::fs::MetadataExt;
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

/// Look of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `<6>job done …`: the journal has a clock and reads the priority.
    Journal,
    /// Time and level in colour.
    Terminal,
    /// `2026-01-02T03:04:05.678Z INFO job done …`.
    Plain,
    /// One object a line: `{"ts":…,"level":…,"message":…, fields}`.
    Json,
    /// [`Style::Json`] with the journal's priority in front, which the journal takes off again.
    JsonJournal,
}

impl Style {
    /// What fits to where stderr goes.
    pub fn detect() -> Style {
        if stderr_is_journal() {
            Style::Journal
        } else if io::stderr().is_terminal() {
            Style::Terminal
        } else {
            Style::Plain
        }
    }

    /// JSON, wherever stderr goes.
    pub fn json() -> Style {
        if stderr_is_journal() {
            Style::JsonJournal
        } else {
            Style::Json
        }
    }

    /// One of the two that give objects.
    pub fn is_json(self) -> bool {
        match self {
            Style::Json | Style::JsonJournal => true,
            Style::Journal | Style::Terminal | Style::Plain => false,
        }
    }
}

/// systemd names the device and inode of the journal's socket, so that a shell started from a service,
/// whose stderr goes elsewhere, is not taken for one.
fn stderr_is_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else {
        return !io::stderr().is_terminal();
    };
    stream.to_str() == Some(&format!("{}:{}", stderr.st_dev(), stderr.st_ino()))
}

/// The style in force; until logging begins lines are built for [`Style::Plain`].
static STYLE: OnceLock<Style> = OnceLock::new();

/// Texts that no line may hold, the longest first. Written at start, read by every line.
static HIDDEN: RwLock<Vec<Hidden>> = RwLock::new(Vec::new());

/// A secret, and the means to find it. Each line is looked through several times: what a search prepares is
/// prepared once.
struct Hidden {
    text: String,
    finder: Finder<'static>,
}

/// Keeps a flood of lines out of the log.
static FLOOD: Flood = Flood::new();

/// Records of this target are lines built here: in JSON already the members of an object.
const BUILT: &str = "fal_worker::report";

/// Starts logging to stderr at `info`, or as RUST_LOG says. A second call does nothing.
pub fn init_logging(style: Style) {
    let filter = std::env::var("RUST_LOG")
        .ok()
        .filter(|filter| !filter.trim().is_empty());
    let style = *STYLE.get_or_init(|| style);
    let color = style == Style::Terminal && AutoStream::choice(&io::stderr()) != ColorChoice::Never;
    let logger = env_logger::Builder::new()
        .filter_level(LevelFilter::Info)
        .parse_filters(filter.as_deref().unwrap_or("info"))
        .format(move |out, record| write_record(out, style, color, record))
        .target(Target::Pipe(Box::new(Outlet::stderr())))
        .build();
    let most = logger.filter();
    if log::set_boxed_logger(Box::new(Gate(logger))).is_ok() {
        log::set_max_level(most);
    }
}

/// Never to be shown again in any line, whoever writes it. Takes one secret, or the part of one that is
/// enough to act with. Under four characters it is not one, and would black out half of the log.
pub fn hide(secret: &str) {
    if secret.chars().count() < 4 {
        return;
    }
    let mut hidden = HIDDEN.write().unwrap_or_else(PoisonError::into_inner);
    if !hidden.iter().any(|known| known.text == secret) {
        hidden.push(Hidden {
            text: secret.to_owned(),
            finder: Finder::new(secret).into_owned(),
        });
        // The longest first: a part must not be cut out of a whole that would then stay.
        hidden.sort_unstable_by_key(|known| std::cmp::Reverse(known.text.len()));
    }
}

/// The text with each hidden secret blacked out: for whatever is shown elsewhere than in a line.
pub fn without_secrets(mut text: String) -> String {
    let hidden = HIDDEN.read().unwrap_or_else(PoisonError::into_inner);
    for secret in &*hidden {
        if secret.finder.find(text.as_bytes()).is_some() {
            text = text.replace(&secret.text, "***");
        }
    }
    text
}

/// Writes one line: a sentence and its fields, in their order. `report` alone uses it at info and above,
/// where lines that come too fast are held back (see `flood`), unless debug is asked for.
pub fn line(level: Level, sentence: &str, fields: &Fields<'_>) {
    if !log::log_enabled!(target: BUILT, level) {
        return;
    }
    if level > Level::Info || log::log_enabled!(target: BUILT, Level::Debug) {
        return write_line(level, sentence, fields);
    }
    let field = |name: &str| {
        let (_, value) = fields.iter().find(|(key, _)| *key == name)?;
        match value.shown() {
            Shown::Text(text) => Some(text),
            Shown::Number(_) | Shown::Absent => None,
        }
    };
    let sort = Sort {
        level,
        sentence: sentence.to_owned(),
        kind: field("kind").map(Into::into),
        charged: field("charged").map(Into::into),
    };
    let (passes, told) = FLOOD.passes(&sort, field("job").as_deref(), Instant::now());
    if let Some(held) = told {
        tell(&held);
    }
    if passes {
        write_line(level, sentence, fields);
    }
}

/// Tells what was held back of lines that came too fast, and how many lines nobody took. Called every second or so,
/// since the last of a flood has no line behind it; with `all` also what would have to wait for the end of its span.
pub fn tell_held_back(all: bool) {
    let now = Instant::now();
    let told = if all {
        FLOOD.rest(now)
    } else {
        FLOOD.over(now)
    };
    told.iter().for_each(tell);
    outlet::tell_lost(|count| write_line(Level::Warn, "log lines lost", &[("count", &count)]));
}

/// Lines that nobody took: whoever reads stderr had stopped.
pub fn lines_lost() -> u64 {
    outlet::lost()
}

/// `lines held back`: so many of one sort, and the jobs they were about.
fn tell(held: &Held) {
    let sort = &held.sort;
    let jobs = Some(held.jobs.as_str()).filter(|jobs| !jobs.is_empty());
    write_line(
        sort.level,
        "lines held back",
        &[
            ("of", &sort.sentence),
            ("kind", &sort.kind),
            ("charged", &sort.charged),
            ("count", &held.count),
            ("within_s", &held.within),
            ("jobs", &jobs),
        ],
    );
}

fn write_line(level: Level, sentence: &str, fields: &Fields<'_>) {
    let json = STYLE.get().is_some_and(|style| style.is_json());
    let build = if json {
        line::json_members
    } else {
        line::logfmt
    };
    log::log!(target: BUILT, level, "{}", build(sentence, fields, without_secrets));
}

/// Panics become one line like all others.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let at = panic
            .location()
            .map(|at| format!("{}:{}", at.file(), at.line()));
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let message = text.unwrap_or("(no text)");
        super::COUNTERS
            .panics
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        write_line(
            Level::Error,
            "panic in",
            &[
                ("thread", &thread.name().unwrap_or("(unnamed)")),
                ("at", &at),
                ("message", &message),
            ],
        );
    }));
}

/// Lets the libraries speak only of trouble, whatever RUST_LOG says: below that ureq prints URLs, and
/// Telegram's hold the bot token.
struct Gate(env_logger::Logger);

const CAPPED: [&str; 4] = ["ureq", "rustls", "redis", "r2d2"];

pub(super) fn passes(metadata: &Metadata<'_>) -> bool {
    metadata.level() <= Level::Warn
        || !CAPPED
            .iter()
            .any(|library| metadata.target().starts_with(library))
}

impl Log for Gate {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        passes(metadata) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if passes(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

fn write_record(
    out: &mut Formatter,
    style: Style,
    color: bool,
    record: &Record<'_>,
) -> io::Result<()> {
    let level = record.level();
    let built = record.target() == BUILT;
    let body = body(style, record.target(), record.args().to_string(), built);
    match style {
        Style::Journal => writeln!(out, "<{}>{body}", priority(level)),
        Style::Plain => {
            let ts = now();
            writeln!(out, "{ts} {level:<5} {body}")
        }
        Style::Terminal => {
            let ts = now();
            let (on, off) = if color { painted(level) } else { ("", "") };
            writeln!(out, "{ts} {on}{level:<5}{off} {body}")
        }
        Style::Json | Style::JsonJournal => {
            if style == Style::JsonJournal {
                write!(out, "<{}>", priority(level))?;
            }
            let (ts, level) = (now(), level.as_str().to_ascii_lowercase());
            writeln!(out, "{{\"ts\":\"{ts}\",\"level\":\"{level}\",{body}}}")
        }
    }
}

/// The time of a line, `2026-05-01T12:00:00.000Z`.
fn now() -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_millis(SystemTime::now())
}

/// What stands behind time and level, without a secret and without anything that breaks the line.
pub(super) fn body(style: Style, target: &str, message: String, built: bool) -> String {
    let body = match (style.is_json(), built) {
        (_, true) => message,
        (false, false) => line::escaped(&without_secrets(message)),
        (true, false) => format!(
            "\"message\":{},\"target\":{}",
            line::json_text(&without_secrets(message)),
            line::json_text(target)
        ),
    };
    without_secrets(body)
}

/// What turns a level's colour on, and off again. Written here: env_logger's own colours take each line apart
/// once more on its way out, also where there is no terminal.
fn painted(level: Level) -> (&'static str, &'static str) {
    let on = match level {
        Level::Error => "\x1b[31m",
        Level::Warn => "\x1b[33m",
        Level::Info => "\x1b[32m",
        Level::Debug => "\x1b[34m",
        Level::Trace => "\x1b[36m",
    };
    (on, "\x1b[0m")
}

/// syslog's numbers, as systemd reads them.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
