//! `check`: whether this configuration works, before a user finds out. Each line says what was tried, what was
//! found and what to do; all of it is asked with the flags and the environment of `run`, costs nothing and
//! changes nothing. No secret is in any line.

mod machine;
mod memory;
mod redis;
mod services;

pub(super) use machine::allow_files;

use super::admin::say;
use super::{CONFIGURATION, INCOMPLETE, UNAVAILABLE};
use crate::config::{Config, Environment, RunArgs};
use crate::report;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::json;
use std::time::Duration;

/// A service that has not answered by then does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Width of the table where nobody says another.
const WIDTH: u16 = 120;

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Ask neither fal nor Telegram
    #[arg(long)]
    offline: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and will hurt one day.
    Warn,
    /// It does not work.
    Fail,
    /// A service did not answer in time: it fails too, but may be there in a moment.
    Away,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail | Verdict::Away => "fail",
        }
    }
}

/// One line.
#[derive(Clone, Debug)]
struct Line {
    /// A stable name, for programs.
    name: &'static str,
    tried: String,
    found: String,
    verdict: Verdict,
    /// What to do; empty: nothing.
    advice: String,
}

impl Line {
    fn new(name: &'static str, tried: impl Into<String>, found: impl Into<String>) -> Line {
        Line {
            name,
            tried: tried.into(),
            found: found.into(),
            verdict: Verdict::Ok,
            advice: String::new(),
        }
    }

    /// Without secrets, as far as `hide` knows them: before JSON's escapes could disguise one, and so that none,
    /// however common a word, is taken for a name of the form.
    fn fit_to_show(mut self, hide: impl Fn(String) -> String) -> Line {
        for text in [&mut self.tried, &mut self.found, &mut self.advice] {
            *text = hide(std::mem::take(text));
        }
        self
    }

    fn is(mut self, verdict: Verdict, advice: impl Into<String>) -> Line {
        self.verdict = verdict;
        self.advice = advice.into();
        self
    }

    fn warn_if(self, bad: bool, advice: impl Into<String>) -> Line {
        match bad {
            true if self.verdict == Verdict::Ok => self.is(Verdict::Warn, advice),
            _ => self,
        }
    }

    fn fail_if(self, bad: bool, advice: impl Into<String>) -> Line {
        match bad {
            true => self.is(Verdict::Fail, advice),
            false => self,
        }
    }
}

/// Runs it; gives the exit code.
pub(super) fn check(args: &CheckArgs, env: &Environment) -> u8 {
    let config = match Config::load(&args.run, env) {
        Ok(config) => config,
        Err(error) => {
            let line = Line::new(
                "configuration",
                "flags and variables of run",
                error.to_string(),
            )
            .is(Verdict::Fail, "correct it; nothing else was tried");
            show(args.json, vec![line], CONFIGURATION);
            return CONFIGURATION;
        }
    };
    for secret in config.secrets() {
        report::hide(secret);
    }
    let mut lines = services::settings(&config);
    lines.extend(machine::lines(&config));
    let (redis, services) = std::thread::scope(|scope| {
        let services = scope.spawn(|| match args.offline {
            true => services::not_asked(&config),
            false => services::lines(&config),
        });
        let redis = redis::lines(&config);
        (redis, services.join().unwrap_or_default())
    });
    lines.extend(redis);
    lines.extend(services);
    let code = code(&lines);
    show(args.json, lines, code);
    code
}

/// What certainly fails weighs more than what may answer in a moment.
fn code(lines: &[Line]) -> u8 {
    let any = |verdict| lines.iter().any(|line| line.verdict == verdict);
    match (any(Verdict::Fail), any(Verdict::Away)) {
        (true, _) => INCOMPLETE,
        (false, true) => UNAVAILABLE,
        (false, false) => 0,
    }
}

fn show(as_json: bool, lines: Vec<Line>, code: u8) {
    let lines = lines.into_iter();
    let lines: Vec<Line> = lines
        .map(|line| line.fit_to_show(report::without_secrets))
        .collect();
    let text = match as_json {
        true => as_object(&lines, code),
        false => as_table(&lines),
    };
    say(&format!("{text}\n"));
}

fn as_object(lines: &[Line], code: u8) -> String {
    let worst = |word| lines.iter().any(|line| line.verdict.as_str() == word);
    let verdict = ["fail", "warn"].into_iter().find(|word| worst(*word));
    let line = |line: &Line| {
        json!({
            "check": line.name,
            "verdict": line.verdict.as_str(),
            "tried": line.tried,
            "found": line.found,
            "do": line.advice,
        })
    };
    let lines: Vec<_> = lines.iter().map(line).collect();
    json!({"verdict": verdict.unwrap_or("ok"), "exit": code, "lines": lines}).to_string()
}

fn as_table(lines: &[Line]) -> String {
    let width = std::env::var("COLUMNS").ok();
    let width = width.and_then(|text| text.parse().ok());
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width.filter(|width| *width >= 60).unwrap_or(WIDTH))
        .set_header(["", "tried", "found", "what to do"]);
    for line in lines {
        let cell = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
        table.add_row([
            line.verdict.as_str().to_owned(),
            cell(&line.tried),
            cell(&line.found),
            cell(&line.advice),
        ]);
    }
    let count = |word: &str| {
        let of = |line: &&Line| line.verdict.as_str() == word;
        lines.iter().filter(of).count()
    };
    let (failed, warned) = (count("fail"), count("warn"));
    let trimmed: Vec<String> = (table.lines())
        .map(|line| line.trim_end().to_owned())
        .collect();
    let sum = match (failed, warned) {
        (0, 0) => "all is well".to_owned(),
        _ => format!("{failed} failed, {warned} to look at"),
    };
    format!("{}\n\n{sum}", trimmed.join("\n"))
}

/// A number of bytes for people.
fn mb(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_certainly_fails_decides_the_exit() {
        let line = |verdict| Line::new("x", "", "").is(verdict, "");
        let of = |verdicts: &[Verdict]| {
            let lines: Vec<_> = verdicts.iter().map(|verdict| line(*verdict)).collect();
            code(&lines)
        };
        assert_eq!(of(&[Verdict::Ok, Verdict::Warn]), 0);
        assert_eq!(of(&[Verdict::Ok, Verdict::Away]), UNAVAILABLE);
        assert_eq!(of(&[Verdict::Away, Verdict::Fail]), INCOMPLETE);
    }

    #[test]
    fn a_secret_is_hidden_whatever_it_looks_like_and_spoils_no_form() {
        for secret in ["verdict", "check", "fail", r#"a"b\c"#] {
            let hide = |text: String| text.replace(secret, "***");
            let found = format!("redis://:{secret}@host refuses");
            let line = Line::new("redis", "look", found).is(Verdict::Fail, "mend it");
            let lines = [line.fit_to_show(hide)];
            let json = as_object(&lines, 1);
            let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            assert_eq!(json["lines"][0]["check"], "redis", "{secret}");
            assert_eq!(json["lines"][0]["verdict"], "fail", "{secret}");
            assert_eq!(json["lines"][0]["found"], "redis://:***@host refuses");
            let table = as_table(&lines);
            assert!(
                table.contains(":***@host") && table.ends_with("1 failed, 0 to look at"),
                "{table}"
            );
        }
    }

    #[test]
    fn the_table_keeps_each_line_and_forges_none() {
        let lines = [
            Line::new("a", "one", "fine"),
            Line::new("b", "two", "odd\nok  three").is(Verdict::Warn, "mend it"),
        ];
        let text = as_table(&lines);
        assert!(text.contains("oddok  three"), "{text}");
        assert!(text.ends_with("0 failed, 1 to look at"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&as_object(&lines, 0)).unwrap();
        assert_eq!(json["verdict"], "warn");
        assert_eq!(json["lines"][1]["do"], "mend it");
    }
}
