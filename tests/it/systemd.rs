//! The unit files: systemd itself says whether they are right and how much of the machine they leave open. What
//! they do under a systemd that runs is for `tests/systemd`.

use fal_worker::config::{Flag, RUN_FLAGS, SECRET_VARIABLES, STORE_FLAGS, Unset};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The units as they are shipped, and the name that each is loaded by.
const UNITS: [(&str, &str); 2] = [
    ("fal-worker.service", "fal-worker.service"),
    ("fal-worker@.service", "fal-worker@shop.service"),
];

fn shipped(file: &str) -> String {
    fs::read_to_string(repository().join("systemd").join(file)).unwrap()
}

/// A unit with the program of this build in it. The folder goes away with the value.
fn unit((file, name): (&str, &str)) -> (tempfile::TempDir, PathBuf) {
    let text = shipped(file);
    let installed = "ExecStart=/usr/local/bin/fal-worker ";
    assert!(text.contains(installed), "the unit starts another program");
    let built = format!("ExecStart={} ", env!("CARGO_BIN_EXE_fal-worker"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
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
fn systemd_finds_nothing_to_say_about_the_units() {
    for each in UNITS {
        let (_folder, unit) = unit(each);
        let Some(output) = systemd_analyze(
            "systemd_finds_nothing_to_say_about_the_units",
            &["verify", "--man=no"],
            &unit,
        ) else {
            return;
        };
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(said(&output), "");
    }
}

#[test]
fn the_services_leave_at_most_1_3_of_10_open() {
    for each in UNITS {
        let (_folder, unit) = unit(each);
        let Some(output) = systemd_analyze(
            "the_services_leave_at_most_1_3_of_10_open",
            // In tenths.
            &["security", "--offline=true", "--threshold=13", "--no-pager"],
            &unit,
        ) else {
            return;
        };
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// README's fenced blocks in this language, less their indentation.
fn readme_blocks(language: &str) -> Vec<String> {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    let blocks = readme.split(fence.as_str()).skip(1);
    let bodies = blocks.map(|rest| rest.split("```").next().unwrap());
    let lines = bodies.map(|body| body.lines().map(str::trim).collect::<Vec<_>>().join("\n"));
    lines.collect()
}

/// The values of one setting in a unit and its drop-ins, as systemd adds them up: an empty one clears the list.
fn added_up(name: &str, texts: &[&str]) -> Vec<String> {
    let mut list = Vec::new();
    let lines = texts.iter().flat_map(|text| text.lines());
    for line in lines {
        match line
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('='))
        {
            Some("") => list.clear(),
            Some(value) => list.push(value.to_owned()),
            None => {}
        }
    }
    list
}

/// An update replaces the unit: what README has changed of it is a drop-in.
#[test]
fn readme_changes_the_unit_by_drop_ins_and_they_do_what_it_says() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    for wrong in [
        "before the `LoadCredential",
        "`LoadCredential` line in the unit",
    ] {
        assert!(
            !readme.contains(wrong),
            "README has the unit edited: {wrong}"
        );
    }
    let drop_ins = readme_blocks("ini");
    let unit_text = shipped("fal-worker.service");
    let credentials = |drop_in: &str| added_up("LoadCredential", &[&unit_text, drop_in]);
    let key = "fal-key:/etc/fal-worker/fal-key";
    let token = "telegram-bot-token:/etc/fal-worker/telegram-bot-token";
    let url = "redis-url:/etc/fal-worker/redis-url";
    let [no_bot, password] = &drop_ins[..] else {
        panic!("two drop-ins: {drop_ins:?}");
    };
    assert_eq!(credentials(no_bot), [key]);
    assert_eq!(credentials(password), [key, token, url]);
    // And systemd takes them.
    for drop_in in &drop_ins {
        let (folder, unit) = unit(UNITS[0]);
        let beside = folder.path().join("fal-worker.service.d");
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("override.conf"), drop_in).unwrap();
        let Some(output) = systemd_analyze(
            "readme_changes_the_unit_by_drop_ins_and_they_do_what_it_says",
            &["verify", "--man=no"],
            &unit,
        ) else {
            return;
        };
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(said(&output), "", "{drop_in}");
    }
}

/// `check` sees what the service sees only under the same conditions.
#[test]
fn readme_checks_under_the_conditions_of_the_unit() {
    let blocks = readme_blocks("sh");
    let command = blocks.iter().find(|block| block.contains("systemd-run"));
    let command = command.expect("a command that checks the service");
    let command = command.replace("\\\n", " ");
    let words: Vec<&str> = command.split_whitespace().collect();
    let given: Vec<&str> = words
        .windows(2)
        .filter(|pair| pair[0] == "-p")
        .map(|pair| pair[1])
        .collect();
    let unit = shipped("fal-worker.service");
    let settings: Vec<&str> = unit.lines().collect();
    // The name of the unit, which DynamicUser takes.
    let own = "User=fal-worker";
    for each in &given {
        assert!(
            settings.contains(each) || *each == own,
            "the unit has no {each}"
        );
    }
    // What `check` looks at: secrets, settings, the step file, temporary files, open files.
    let looked_at = [
        "DynamicUser=",
        "StateDirectory",
        "EnvironmentFile=",
        "Environment=",
        "LoadCredential=",
        "LimitNOFILE=",
        "PrivateTmp=",
    ];
    let needed = settings.iter();
    for line in needed.filter(|line| looked_at.iter().any(|name| line.starts_with(name))) {
        assert!(given.contains(line), "README's check has no -p {line}");
    }
}

#[test]
fn the_template_is_the_service_but_for_what_an_instance_has_of_its_own() {
    let settings = |file: &str| -> Vec<String> {
        let text = shipped(file);
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with("# "));
        lines.map(str::to_owned).collect()
    };
    let (service, template) = (settings(UNITS[0].0), settings(UNITS[1].0));
    let own: Vec<&String> = template.iter().filter(|line| line.contains("%i")).collect();
    let only_here = ["Environment=FAL_WORKER_LISTEN=off"];
    for line in &template {
        let known = own.contains(&line)
            || only_here.contains(&line.as_str())
            || line == "#"
            || service.contains(line);
        assert!(known, "the service has no {line}");
    }
    for line in &service {
        let taken = template.contains(line) || line == "#";
        // Its counterpart: the same with a name in it.
        let named = |own: &&String| {
            let without = own.replace("-%i", "").replace("/%i", "").replace(" %i", "");
            without == *line
        };
        assert!(taken || own.iter().any(named), "the template has no {line}");
    }
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
