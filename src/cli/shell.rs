//! What a shell and `man` are told of the commands: made from the definitions that read the command line, so that
//! neither can say anything else.

use super::admin::say;
use super::{Cli, INCOMPLETE};
use crate::config::STORE_FLAGS;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use std::io::{self, Write};

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// For which shell: bash, zsh or fish
    #[arg(value_name = "SHELL", hide_possible_values = true, value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

/// `completions`: a script for the shell, on standard output.
pub(super) fn completions(args: &CompletionsArgs) -> u8 {
    let shell = match args.shell.as_str() {
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => Shell::Bash,
    };
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fal-worker", &mut out);
    if shell == Shell::Bash {
        // The crate takes the hyphen of our name for a space in the names of its states, in one of two places,
        // so that none of a command's flags would be offered.
        let text = String::from_utf8_lossy(&out);
        out = text
            .replace("fal__subcmd__worker", "fal__worker")
            .into_bytes();
    }
    put(&out)
}

/// `man`: one page with all commands, on standard output.
pub(super) fn man() -> u8 {
    match page() {
        Ok(page) => put(&page),
        Err(error) => {
            eprintln!("fal-worker: {error}");
            INCOMPLETE
        }
    }
}

fn put(text: &[u8]) -> u8 {
    // Whoever wanted less of it has closed the pipe.
    match say(&String::from_utf8_lossy(text)) {
        true => 0,
        false => INCOMPLETE,
    }
}

fn page() -> io::Result<Vec<u8>> {
    // Its own `help` would say of each command what every manual page says of itself.
    let cli = Cli::command().disable_help_subcommand(true);
    let whole = Man::new(cli.clone());
    let mut out = Vec::new();
    // By hand: the crate leaves out what is empty, and the version would stand where the date belongs.
    let version = env!("CARGO_PKG_VERSION");
    writeln!(
        out,
        ".TH FAL-WORKER 1 \"\" \"fal-worker {version}\" \"User Commands\""
    )?;
    whole.render_name_section(&mut out)?;
    let mut roff = Roff::default();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([
        bold("fal-worker"),
        roman(" "),
        italic("command"),
        roman(" ..."),
    ]);
    roff.control("SH", ["COMMANDS"]);
    roff.to_writer(&mut out)?;
    for command in cli.get_subcommands().filter(|one| !one.is_hide_set()) {
        add(&mut out, command)?;
    }
    let mut roff = Roff::default();
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXITS {
        roff.control("TP", []);
        roff.text([bold(*code)]);
        roff.text([roman(*meaning)]);
    }
    roff.to_writer(&mut out)?;
    Ok(out)
}

/// What contract section 5 says of them.
const EXITS: &[(&str, &str)] = &[
    ("0", "all was done"),
    ("1", "the command did not do all it was asked"),
    (
        "2",
        "the command line is wrong (of run: 78, so that systemd does not start it again)",
    ),
    ("69", "a service did not answer within 5 s"),
    ("70", "a fault of fal-worker itself"),
    ("78", "the configuration is wrong"),
    ("130", "ended by a second signal"),
];

/// One command: as a part of the page what would else be a page of its own.
fn add(out: &mut Vec<u8>, command: &Command) -> io::Result<()> {
    let name = command.get_name();
    let mut command = (command.clone())
        .bin_name(format!("fal-worker {name}"))
        .disable_help_flag(true);
    let mut about = command.get_about().map(|about| format!("{about}."));
    if name != "run"
        && command
            .get_arguments()
            .any(|arg| arg.get_id() == STORE_FLAGS[0].name)
    {
        // Once is enough.
        for flag in STORE_FLAGS {
            command = command.mut_arg(flag.name, |arg| arg.hide(true));
        }
        let flags: Vec<String> = STORE_FLAGS
            .iter()
            .map(|flag| format!("--{}", flag.name))
            .collect();
        about = about.map(|about| format!("{about} Takes {} as run does.", flags.join(", ")));
    }
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let usage = usage.strip_prefix("fal-worker ").unwrap_or(usage);
    let mut roff = Roff::default();
    roff.control("SS", [name]);
    roff.text([bold("fal-worker"), roman(format!(" {usage}"))]);
    if let Some(about) = about {
        roff.control("PP", []);
        roff.text([roman(about)]);
    }
    roff.to_writer(out)?;
    let more = command.get_after_help().map(ToString::to_string);
    let mut options = Vec::new();
    Man::new(command).render_options_section(&mut options)?;
    without_heading(out, &options);
    let mut roff = Roff::default();
    for part in more.iter().flat_map(|more| more.split("\n\n")) {
        roff.control("PP", []);
        for (place, line) in part.lines().enumerate() {
            if place > 0 {
                roff.control("br", []);
            }
            roff.text([roman(line.trim())]);
        }
    }
    roff.to_writer(out)
}

/// Nor with the crate's empty lines between two breaks, which mandoc warns of.
fn without_heading(out: &mut Vec<u8>, part: &[u8]) {
    let mut broken = false;
    for line in part.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".SH ") {
            continue;
        }
        if broken && (line == b"\n" || line == b".br\n") {
            continue;
        }
        broken = line == b".br\n";
        out.extend_from_slice(line);
    }
}
