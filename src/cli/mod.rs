//! Every command with its arguments, and the way to the code that does it. Exit codes are those of
//! contract section 5.

mod admin;
mod check;
mod delete;
mod enqueue;
mod events;
mod jobs;
mod operate;
mod pause;
mod retry;
mod shell;
mod show;
mod status;
mod table;
mod why;

use crate::config::{Config, Environment, RunArgs, StoreArgs, StoreConfig};
use crate::daemon::{self, StartError};
use crate::report;
use crate::sandbox::{demo, loadtest};
use clap::error::ErrorKind;
use clap::{Args as _, FromArgMatches as _, Parser, Subcommand};
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The command did not do all it was asked.
pub(crate) const INCOMPLETE: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;
/// A service did not answer.
pub(crate) const UNAVAILABLE: u8 = 69;
/// A fault of our own.
const INTERNAL: u8 = 70;
/// The configuration is wrong.
const CONFIGURATION: u8 = 78;

/// Runs image and video jobs from Redis on fal.ai and delivers them to Telegram.
#[derive(Debug, Parser)]
#[command(name = "fal-worker", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the worker until a signal stops it
    Run(RunArgs),
    /// Put jobs into the inbox: one JSON a line from FILE or standard input, or one built from flags
    Enqueue(EnqueueArgs),
    /// Show queues, workers and what happened lately
    Status(StatusArgs),
    /// List jobs by state, user, model, kind, age or meta, the newest first
    Jobs(JobsArgs),
    /// Show one job: its record and its timeline
    Show(ShowArgs),
    /// Say why a job is not done: what blocks it, its place in line, when it likely ends
    Why(WhyArgs),
    /// Show what happened, and what happens: the stream of events
    Events(EventsArgs),
    /// End jobs before their result is there: a worker cancels at fal what has been sent to it
    Cancel(CancelArgs),
    /// Send the result of an ended job again, free, from the files that Telegram keeps
    Redeliver(RedeliverArgs),
    /// Say whether this configuration works: what was tried, what was found, what to do
    Check(check::CheckArgs),
    /// Give dead letters a new life: from their result where it is known, else by a new, paid request
    Retry(retry::RetryArgs),
    /// Delete jobs with all their traces; the bare id stays known for a day
    Delete(delete::DeleteArgs),
    /// Stop taking new jobs, on all workers
    Pause(pause::PauseArgs),
    /// End a pause, whoever made it
    Resume(pause::ResumeArgs),
    /// Print a script that completes commands and flags in a shell
    Completions(shell::CompletionsArgs),
    /// Print the manual page
    Man,
    /// Try everything on this machine: private redis, stand-ins of fal and Telegram, 24 jobs
    Demo,
    /// Measure how many users this machine holds: a step for each number of users, against the stand-ins
    Loadtest(LoadtestArgs),
}

/// Arguments of `loadtest`.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadtestArgs {
    /// Numbers of users, each of whom keeps one job going
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "10,30,50,200,1000",
        value_parser = clap::value_parser!(u64).range(1..=100_000))]
    users: Vec<u64>,
    /// How long fal generates
    #[arg(long, value_name = "D", default_value = "10s", value_parser = humantime::parse_duration)]
    generation: Duration,
    /// How long a call to fal or Telegram takes
    #[arg(long, value_name = "D", default_value = "80ms", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// The same of a submit, where it differs
    #[arg(long, value_name = "D", value_parser = humantime::parse_duration)]
    submit_latency: Option<Duration>,
    /// The same of a message with a picture, where it differs
    #[arg(long, value_name = "D", value_parser = humantime::parse_duration)]
    send_latency: Option<Duration>,
    /// Threads of the worker
    #[arg(long, value_name = "N", default_value = "32",
        value_parser = clap::value_parser!(u64).range(1..=512))]
    threads: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `enqueue`.
#[derive(Debug, clap::Args)]
pub(crate) struct EnqueueArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// File with one job a line; `-` or nothing: standard input
    #[arg(value_name = "FILE", conflicts_with = "model")]
    file: Option<PathBuf>,
    /// Build one job: its model, such as fal-ai/flux/dev
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// The model's input, a JSON object
    #[arg(long, value_name = "JSON", requires = "model")]
    input: Option<String>,
    /// Chat that gets the result: a number, or @name
    #[arg(
        long,
        value_name = "CHAT",
        requires = "model",
        allow_hyphen_values = true
    )]
    chat: Option<String>,
    /// Follow the jobs to their end; exit 1 unless all are done
    #[arg(long)]
    wait: bool,
    /// After each hundred jobs wait up to 3 s for N replicas to have them: a failover then loses none of
    /// them. Exit 1 where fewer answered
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    wait_replicas: Option<u32>,
}

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Keep a screen fresh until Ctrl-C: pace, models and last errors too; on a pipe print anew every two seconds
    #[arg(long)]
    watch: bool,
    /// Show what each thread of each worker does, and since when: asked of the workers, who have two seconds
    #[arg(long)]
    threads: bool,
}

/// States of the contract.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum State {
    /// In a ready list.
    Queued,
    /// For a time: backoff, not_before, a rate.
    Later,
    /// Behind others of its user, a slot, a limit of its model.
    Waiting,
    /// In the hands of a worker.
    Running,
    /// Delivered.
    Done,
    /// Failed.
    Dead,
    /// Ended by request.
    Cancelled,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Later => "later",
            State::Waiting => "waiting",
            State::Running => "running",
            State::Done => "done",
            State::Dead => "dead",
            State::Cancelled => "cancelled",
        }
    }
}

/// Arguments of `jobs`.
#[derive(Debug, clap::Args)]
pub(crate) struct JobsArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Only jobs in this state
    #[arg(long, value_name = "STATE")]
    state: Option<State>,
    /// Only jobs of this user
    #[arg(long, value_name = "USER", allow_hyphen_values = true)]
    user: Option<String>,
    /// Only jobs of this model, or of a pattern such as fal-ai/flux*
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Only jobs that failed, or were deferred, for this reason
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only jobs that came in longer ago than this, such as 10m or 2h
    #[arg(long, value_name = "D", value_parser = humantime::parse_duration)]
    older: Option<Duration>,
    /// Only jobs that came in within this time
    #[arg(long, value_name = "D", value_parser = humantime::parse_duration)]
    newer: Option<Duration>,
    /// Only jobs whose meta has this member, or this member with this value
    #[arg(long, value_name = "KEY[=VALUE]")]
    meta: Option<String>,
    /// Show so many at most
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    limit: u64,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Arguments of `events`.
#[derive(Debug, clap::Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Go on with what comes, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Only events of this job
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// Only events of this user's jobs
    #[arg(long, value_name = "USER", allow_hyphen_values = true)]
    user: Option<String>,
    /// Only events with this kind of error
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only events of this name, such as failed
    #[arg(long, value_name = "EVENT")]
    event: Option<String>,
    /// Only events of this last time, such as 10m: all of them
    #[arg(long, value_name = "D", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// The newest N; 100 unless --since is given, and 10 before those that are followed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=100_000))]
    limit: Option<u64>,
    /// Print one JSON object a line, with every field
    #[arg(long)]
    json: bool,
}

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Id of the job
    id: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print the job as it was pushed too, its input included
    #[arg(long)]
    spec: bool,
}

/// Arguments of `why`.
#[derive(Debug, clap::Args)]
pub(crate) struct WhyArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Id of the job
    id: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `cancel`.
#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Ids of the jobs
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Arguments of `redeliver`.
#[derive(Debug, clap::Args)]
pub(crate) struct RedeliverArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Id of the job
    id: String,
    /// Send it to this chat instead: a number, or @name
    #[arg(long, value_name = "CHAT", allow_hyphen_values = true)]
    chat: Option<String>,
}

/// Runs the process's command line. `started`: when the process began.
pub fn main(started: Instant) -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let env = Environment::of_process();
    let run_args = match run_alone(&args) {
        Some(run_args) => run_args,
        None => match all_commands(&args, &env) {
            ControlFlow::Continue(run_args) => run_args,
            ControlFlow::Break(code) => return code,
        },
    };
    // The last call here, and every other command behind a single one: where the program is put together, what the
    // last call leads to is laid first. So the daemon's code lies together, without the commands' between, and an
    // idle daemon has fewer pages of it in memory.
    run(&run_args, &args, &env, started)
}

/// What was typed after `run`, read without the other commands: their definitions are memory that a daemon would
/// keep. `None`: another command, or what the whole command line has to answer, such as `--help` or a mistake.
fn run_alone(args: &[OsString]) -> Option<RunArgs> {
    let words = args
        .get(1..)
        .filter(|words| words.first().is_some_and(|word| word == "run"))?;
    let command = RunArgs::augment_args(clap::Command::new("run"));
    let matches = command.try_get_matches_from(words).ok()?;
    RunArgs::from_arg_matches(&matches).ok()
}

/// Reads the whole command line, and does what it says unless that is `run`.
#[inline(never)]
fn all_commands(args: &[OsString], env: &Environment) -> ControlFlow<ExitCode, RunArgs> {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let is_help = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            let is_run = args.get(1).is_some_and(|word| word == "run");
            let style = wanted_style(args, env);
            if is_run && !is_help && style.is_json() {
                report::init_logging(style);
                report::refused(&in_one_line(&error));
            } else {
                admin::taken(error.print());
            }
            return ControlFlow::Break(admin::exit(match (is_help, is_run) {
                (true, _) => 0,
                // systemd must not restart into the same mistake.
                (false, true) => CONFIGURATION,
                (false, false) => USAGE,
            }));
        }
    };
    ControlFlow::Break(admin::exit(match cli.command {
        Command::Run(args) => return ControlFlow::Continue(args),
        Command::Enqueue(args) => {
            with_store(&args.store, env, &|store| enqueue::enqueue(&args, store))
        }
        Command::Status(args) => {
            with_store(&args.store, env, &|store| status::status(&args, store))
        }
        Command::Jobs(args) => with_store(&args.store, env, &|store| jobs::jobs(&args, store)),
        Command::Show(args) => with_store(&args.store, env, &|store| show::show(&args, store)),
        Command::Events(args) => {
            with_store(&args.store, env, &|store| events::events(&args, store))
        }
        Command::Why(args) => with_store(&args.store, env, &|store| why::why(&args, store)),
        Command::Cancel(args) => {
            with_store(&args.store, env, &|store| operate::cancel(&args, store))
        }
        Command::Redeliver(args) => {
            with_store(&args.store, env, &|store| operate::redeliver(&args, store))
        }
        Command::Check(args) => check::check(&args, env),
        Command::Retry(args) => with_store(args.store(), env, &|store| retry::retry(&args, store)),
        Command::Delete(args) => {
            with_store(args.store(), env, &|store| delete::delete(&args, store))
        }
        Command::Pause(args) => {
            with_store(args.store(), env, &|store| pause::pause(&args, store, env))
        }
        Command::Resume(args) => {
            with_store(args.store(), env, &|store| pause::resume(&args, store))
        }
        Command::Completions(args) => shell::completions(&args),
        Command::Man => shell::man(),
        Command::Demo => demo::run(),
        Command::Loadtest(args) => loadtest::run(&loadtest::Options {
            submit_latency: args.submit_latency.unwrap_or(args.latency),
            send_latency: args.send_latency.unwrap_or(args.latency),
            users: args.users,
            generation: args.generation,
            latency: args.latency,
            threads: args.threads,
            json: args.json,
        }),
    }))
}

/// What is wrong with a command line, without the usage below it.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// The look of the log that is asked for, before anything else of the settings is known to be right: the line that
/// says what is wrong is read by whatever reads the rest.
fn wanted_style(args: &[OsString], env: &Environment) -> report::Style {
    let mut wanted = env.get("FAL_WORKER_LOG_FORMAT");
    for (place, arg) in args.iter().enumerate() {
        wanted = match arg
            .to_str()
            .and_then(|arg| arg.strip_prefix("--log-format"))
        {
            Some("") => args.get(place + 1).map(OsString::as_os_str),
            Some(value) if value.starts_with('=') => Some(OsStr::new(&value[1..])),
            Some(_) | None => wanted,
        };
    }
    match wanted.is_some_and(|wanted| wanted == "json") {
        true => report::Style::json(),
        false => report::Style::detect(),
    }
}

/// `typed`: the whole command line, as it came.
fn run(args: &RunArgs, typed: &[OsString], env: &Environment, started: Instant) -> ExitCode {
    let config = match Config::load(args, env) {
        Ok(config) => config,
        Err(error) => {
            report::init_logging(wanted_style(typed, env));
            report::refused(&error);
            return ExitCode::from(CONFIGURATION);
        }
    };
    report::init_logging(match config.log_format {
        crate::config::LogFormat::Auto => report::Style::detect(),
        crate::config::LogFormat::Json => report::Style::json(),
    });
    for secret in config.secrets() {
        report::hide(secret);
    }
    report::install_panic_hook();
    check::allow_files(&config);
    match daemon::run(&config, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Config(why)) => {
            report::refused(&why);
            ExitCode::from(CONFIGURATION)
        }
        Err(StartError::Internal(why)) => {
            report::not_started(&why);
            ExitCode::from(INTERNAL)
        }
    }
}

fn with_store(args: &StoreArgs, env: &Environment, command: &dyn Fn(&StoreConfig) -> u8) -> u8 {
    match StoreConfig::load(args, env) {
        Ok(store) => command(&store),
        Err(error) => {
            eprintln!("fal-worker: {error}");
            CONFIGURATION
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_is_read_alone_as_it_is_among_all_commands() {
        for (line, is_read) in [
            ("run", true),
            ("run --threads 8 --listen off", true),
            (
                "run --threads=8 --file-host a.example --file-host b.example",
                true,
            ),
            ("run --redis-url=", true),
            ("run --threads 8 --threads 9", false),
            ("run --threads", false),
            ("run --thread 8", false),
            ("run --no-such-flag", false),
            ("run word", false),
            ("run --help", false),
            ("run -h", false),
            ("run --version", false),
            ("run -V", false),
            ("run help", false),
            ("--version", false),
            ("status", false),
            ("", false),
        ] {
            let args: Vec<OsString> = std::iter::once("fal-worker")
                .chain(line.split_whitespace())
                .map(OsString::from)
                .collect();
            let alone = run_alone(&args).map(|args| format!("{args:?}"));
            let among = match Cli::try_parse_from(&args).map(|cli| cli.command) {
                Ok(Command::Run(args)) => Some(format!("{args:?}")),
                Ok(_) | Err(_) => None,
            };
            assert_eq!(alone, among, "{line}");
            assert_eq!(alone.is_some(), is_read, "{line}");
        }
        assert!(run_alone(&[]).is_none());
    }
}
