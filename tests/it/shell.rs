//! Completions in a real shell, and the manual page as `man` reads it.

use std::io::Write;
use std::process::{Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_fal-worker");

fn said(command: &mut Command) -> (String, i32) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    (text, output.status.code().unwrap())
}

/// What bash offers for the last of these words.
fn offered(script: &std::path::Path, words: &[&str]) -> Vec<String> {
    let code = format!(
        "source {} || exit 9\n\
         complete=$(complete -p fal-worker) || exit 8\n\
         complete=${{complete#* -F }}\n\
         COMP_WORDS=({})\nCOMP_CWORD={}\n\
         ${{complete%% *}} fal-worker '{}' '{}'\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        script.display(),
        words
            .iter()
            .map(|word| format!("'{word}'"))
            .collect::<Vec<_>>()
            .join(" "),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let output = Command::new("bash")
        .args(["--norc", "-c", &code])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut offered: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    offered.sort();
    offered
}

#[test]
fn completions_work_in_a_real_bash_and_are_read_by_the_other_shells() {
    let folder = tempfile::tempdir().unwrap();
    let mut scripts = Vec::new();
    for shell in ["bash", "zsh", "fish"] {
        let (text, code) = said(
            Command::new(PROGRAM)
                .args(["completions", shell])
                .env_clear(),
        );
        assert_eq!(code, 0, "{shell}");
        let path = folder.path().join(shell);
        std::fs::write(&path, text).unwrap();
        scripts.push((shell, path));
    }
    let bash = &scripts[0].1;
    assert_eq!(
        offered(bash, &["fal-worker", "re"]),
        ["redeliver", "resume", "retry"]
    );
    assert_eq!(
        offered(bash, &["fal-worker", "retry", "--all"]),
        ["--all-dead"]
    );
    assert_eq!(offered(bash, &["fal-worker", "completions", "z"]), ["zsh"]);
    let flags = offered(bash, &["fal-worker", "run", "--poll"]);
    assert_eq!(flags, ["--poll-max", "--poll-min"]);
    // Every command that the help lists is offered.
    let (help, _) = said(Command::new(PROGRAM).arg("--help").env_clear());
    let listed = help
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("Options:")
        .next()
        .unwrap();
    let all = offered(bash, &["fal-worker", ""]);
    for line in listed
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
    {
        let command = line.split_whitespace().next().unwrap().to_owned();
        assert!(all.contains(&command), "{command}: {all:?}");
    }
    for (shell, path) in &scripts[1..] {
        let flag = if *shell == "zsh" {
            "-n"
        } else {
            "--no-execute"
        };
        match Command::new(shell).arg(flag).arg(path).output() {
            Ok(output) => assert!(
                output.status.success() && output.stderr.is_empty(),
                "{output:?}"
            ),
            Err(_) => eprintln!("no {shell} here: its script is not read"),
        }
    }
    let (text, code) = said(
        Command::new(PROGRAM)
            .args(["completions", "csh"])
            .env_clear(),
    );
    assert!(code == 2 && text.contains("csh"), "{code} {text}");
}

/// Gives a page to a program; its words of both kinds.
fn read_by(program: &str, args: &[&str], page: &str) -> Option<(String, String)> {
    let mut child = Command::new(program)
        .args(args)
        .env("MANWIDTH", "100")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(page.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Some((text(output.stdout), text(output.stderr)))
}

#[test]
fn the_manual_page_is_read_without_a_warning_and_names_every_command_and_flag() {
    let (page, code) = said(Command::new(PROGRAM).arg("man").env_clear());
    assert_eq!(code, 0);
    for (program, args) in [
        ("man", &["--warnings", "-l", "-"][..]),
        ("mandoc", &["-Tlint", "-Wwarning"]),
    ] {
        match read_by(program, args, &page) {
            Some((shown, complaints)) => {
                // It carries the version and no date.
                let complaints: Vec<&str> = (complaints.lines())
                    .chain(shown.lines().filter(|_| program == "mandoc"))
                    .filter(|line| !line.contains("missing date"))
                    .collect();
                assert_eq!(complaints, [""; 0], "{program}");
                if program == "mandoc" {
                    continue;
                }
                let plain: String = shown.split('\u{8}').collect();
                for word in [
                    "retry",
                    "--all-dead",
                    "--poll-min",
                    "FAL_WORKER_POLL_MIN",
                    "EXIT STATUS",
                    "FAL_KEY_FILE",
                ] {
                    assert!(plain.contains(word), "{word}");
                }
            }
            None => eprintln!("no {program} here: the page is not read by it"),
        }
    }
    let (help, _) = said(Command::new(PROGRAM).arg("--help").env_clear());
    let listed = help
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("Options:")
        .next()
        .unwrap();
    for line in listed
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
    {
        let command = line.split_whitespace().next().unwrap();
        assert!(
            command == "help" || page.contains(&format!(".SS {command}\n")),
            "{command}"
        );
    }
}
