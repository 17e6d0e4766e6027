//! `pause` and `resume`: whether workers take new jobs. What is paid goes on all the same.

use super::admin::{away, open};
use super::operate::{print, tell};
use crate::config::{Environment, StoreArgs, StoreConfig, host_name};
use serde_json::json;
use std::time::Duration;

/// The longest reason, in characters.
const LONGEST: usize = 200;

/// Arguments of `pause`.
#[derive(Debug, clap::Args)]
pub(super) struct PauseArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Why, for whoever looks at `status`
    #[arg(long, value_name = "TEXT", default_value = "no reason given")]
    reason: String,
    /// How long, such as 10m; without it until somebody resumes
    #[arg(long = "for", value_name = "D", value_parser = span)]
    for_: Option<Duration>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl PauseArgs {
    pub(super) fn store(&self) -> &StoreArgs {
        &self.store
    }
}

/// Arguments of `resume`.
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl ResumeArgs {
    pub(super) fn store(&self) -> &StoreArgs {
        &self.store
    }
}

fn span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text)
        .map_err(|_| "expected a duration such as 30s, 10m or 24h".to_owned())?;
    let bounds = Duration::from_secs(1)..=Duration::from_secs(366 * 86_400);
    if bounds.contains(&span) {
        Ok(span)
    } else {
        Err("expected 1s to 366d".to_owned())
    }
}

/// `pause`: twice is the same as once, and the last one counts.
pub(super) fn pause(args: &PauseArgs, store: &StoreConfig, env: &Environment) -> u8 {
    let mut view = match open(store) {
        Ok(view) => view,
        Err(code) => return code,
    };
    let (reason, by) = (one_line(&args.reason), who(env));
    if let Err(fault) = view.hold(&reason, &by, args.for_) {
        return away(&fault);
    }
    let until = match args.for_ {
        Some(span) => format!("for {}", humantime::format_duration(span)),
        None => "until `resume`".to_owned(),
    };
    let text = format!("paused {until}: no worker takes new jobs, and what fal has goes on");
    if args.json {
        let ms = args.for_.map(|span| span.as_millis() as u64);
        let line = json!({"outcome": "paused", "reason": reason, "by": by, "for_ms": ms, "text": text, "done": true});
        print(true, &line);
    } else {
        tell(&text);
    }
    0
}

/// `resume`: where nothing is paused it is done already.
pub(super) fn resume(args: &ResumeArgs, store: &StoreConfig) -> u8 {
    let mut view = match open(store) {
        Ok(view) => view,
        Err(code) => return code,
    };
    let was = match view.resume() {
        Ok(was) => was,
        Err(fault) => return away(&fault),
    };
    let (word, text) = match &was {
        None => ("running", "nothing was paused".to_owned()),
        Some(was) if was.person => {
            let (by, reason) = (one_line(&was.by), one_line(&was.reason));
            (
                "resumed",
                format!("resumed; it was paused by {by}: {reason}"),
            )
        }
        Some(was) => {
            let (by, reason) = (one_line(&was.by), one_line(&was.reason));
            let text = format!(
                "resumed; {by} had paused by itself: {reason}. If that lasts, the next job pauses it again"
            );
            ("resumed", text)
        }
    };
    if args.json {
        let reason = was.as_ref().map(|was| one_line(&was.reason));
        let by = was.as_ref().map(|was| one_line(&was.by));
        let person = was.as_ref().map(|was| was.person);
        let line = json!({"outcome": word, "reason": reason, "by": by, "person": person, "text": text, "done": true});
        print(true, &line);
    } else {
        tell(&text);
    }
    0
}

/// Who types: as the environment says, else by the number that the system knows him by.
fn who(env: &Environment) -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| env.get(name)?.to_str());
    // A timer or a container may name nobody.
    let name = name.map_or_else(
        || format!("uid {}", rustix::process::getuid().as_raw()),
        str::to_owned,
    );
    one_line(&format!("{name}@{}", host_name().trim()))
}

fn one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(LONGEST).map(plain).collect()
}
