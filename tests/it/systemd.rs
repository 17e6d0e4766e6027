//! The unit file: systemd itself says whether it is right and how much of the machine it leaves open.

use fal_worker::config::{Flag, RUN_FLAGS, SECRET_VARIABLES, STORE_FLAGS, Unset};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The unit with the program of this build in it. The folder goes away with the value.
fn unit() -> (tempfile::TempDir, PathBuf) {
    let text = fs::read_to_string(repository().join("systemd/fal-worker.service")).unwrap();
    let installed = "ExecStart=/usr/local/bin/fal-worker ";
    assert!(text.contains(installed), "the unit starts another program");
    let built = format!("ExecStart={} ", env!("CARGO_BIN_EXE_fal-worker"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fal-worker.service");
    fs::write(&path, text.replace(installed, &built)).unwrap();
    (folder, path)
}

/// `None`, after a word to the terminal, where there is no systemd.
fn systemd_analyze(test: &str, args: &[&str], unit: &Path) -> Option<Output> {
    match Command::new("systemd-analyze")
        .args(args)
        .arg(unit)
        .output()
    {
        Ok(output) => Some(output),
        Err(error) => {
            // Not `eprintln!`: the test runner would keep it to itself.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED {test}: systemd-analyze cannot be run ({error}); `apt-get install systemd` brings it"
            );
            None
        }
    }
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn systemd_finds_nothing_to_say_about_the_unit() {
    let (_folder, unit) = unit();
    let Some(output) = systemd_analyze(
        "systemd_finds_nothing_to_say_about_the_unit",
        &["verify", "--man=no"],
        &unit,
    ) else {
        return;
    };
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(said(&output), "");
}

#[test]
fn the_service_leaves_at_most_1_3_of_10_open() {
    let (_folder, unit) = unit();
    let Some(output) = systemd_analyze(
        "the_service_leaves_at_most_1_3_of_10_open",
        // In tenths.
        &["security", "--offline=true", "--threshold=13", "--no-pager"],
        &unit,
    ) else {
        return;
    };
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn the_example_of_settings_names_every_variable_with_its_default() {
    let text = fs::read_to_string(repository().join("systemd/fal-worker.env.example")).unwrap();
    let lines: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('='))
        .filter(|(name, _)| !name.contains(' '))
        .collect();
    let flags: Vec<&Flag> = STORE_FLAGS.iter().chain(RUN_FLAGS).collect();
    for flag in &flags {
        let shown = lines
            .iter()
            .find(|(name, _)| *name == flag.variable)
            .unwrap_or_else(|| panic!("{} is missing", flag.variable));
        if let Unset::Means(default) = flag.unset {
            assert_eq!(shown.1, default, "{}", flag.variable);
        }
    }
    for name in SECRET_VARIABLES {
        assert!(lines.iter().any(|(shown, _)| *shown == name), "{name}");
    }
    for (name, _) in lines {
        if name.starts_with("FAL_WORKER_") {
            let known = flags.iter().any(|flag| flag.variable == name);
            assert!(
                known || SECRET_VARIABLES.contains(&name),
                "{name} is no setting of this version"
            );
        }
    }
}
