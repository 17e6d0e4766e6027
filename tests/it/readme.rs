//! README is a promise: its snippets run, its table of flags is the program's, its journal is real.

use crate::support::{SOON, World, eventually, job};
use fal_worker::config::{Flag, RUN_FLAGS, STORE_FLAGS, Unset};
use fal_worker::sandbox::telegram::Kind;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn readme() -> String {
    fs::read_to_string(repository().join("README.md")).unwrap()
}

/// Text from this heading to the next of its level.
fn section(heading: &str) -> String {
    let text = readme();
    let start = text
        .find(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("README has no section {heading:?}"));
    let rest = &text[start + 4..];
    rest[..rest.find("\n## ").unwrap_or(rest.len())].to_owned()
}

/// What a link calls a heading: "Flags of `run`" is `flags-of-run`.
fn slug(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let text: String = heading.to_lowercase().chars().filter(kept).collect();
    text.replace(' ', "-")
}

/// The fenced blocks of a section in this language (empty: none named), less their indentation.
fn blocks(heading: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Option<(String, Vec<String>)> = None;
    for line in section(heading).lines() {
        let fence = line.trim_start().strip_prefix("```").map(str::to_owned);
        open = match (open, fence) {
            (None, Some(language)) => Some((language, Vec::new())),
            (Some((its, lines)), Some(_)) => {
                if its == language {
                    found.push(lines.join("\n"));
                }
                None
            }
            (Some((its, mut lines)), None) => {
                lines.push(line.to_owned());
                Some((its, lines))
            }
            (None, None) => None,
        };
    }
    assert!(!found.is_empty(), "no {language} block in {heading:?}");
    found
}

// ---- the snippets ----

/// Python with `redis` from PyPI, as README tells a bot's author to install it. Made once, and kept in the
/// target folder for the next run.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readme-venv");
        let python = folder.join("bin/python");
        let whole = folder.join("whole");
        let works = |python: &Path| {
            let import = Command::new(python).args(["-c", "import redis"]).output();
            import.is_ok_and(|output| output.status.success())
        };
        if whole.exists() && works(&python) {
            return python;
        }
        let _ = fs::remove_dir_all(&folder);
        let run = |what: &str, command: &mut Command| {
            let output = command
                .stdin(Stdio::null())
                .output()
                .unwrap_or_else(|error| panic!("README's Python snippets need {what}: {error}"));
            assert!(
                output.status.success(),
                "README's Python snippets need {what}, which failed:\n{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        };
        run(
            "a virtual environment (package python3-venv)",
            Command::new("python3").args(["-m", "venv"]).arg(&folder),
        );
        run(
            "the package `redis` from PyPI (is PyPI out of reach?)",
            Command::new(&python).args(["-m", "pip", "install", "--quiet", "redis"]),
        );
        fs::write(&whole, "").unwrap();
        python
    })
}

fn run_python(world: &World, code: &str) -> Output {
    let script = world.folder.path().join("snippet.py");
    fs::write(&script, code).unwrap();
    Command::new(python())
        .arg(script)
        .env("REDIS_URL", world.sandbox.redis.url())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// In a shell where `redis-cli` speaks to the test's Redis and `fal-worker` is the program under test.
fn run_shell(world: &World, code: &str) -> Output {
    let commands = format!(
        "redis-cli() {{ command redis-cli -p {} \"$@\"; }}\nfal-worker() {{ '{}' \"$@\"; }}\nset -eu\n",
        world.sandbox.redis.port(),
        env!("CARGO_BIN_EXE_fal-worker")
    );
    Command::new("bash")
        .args(["-c", &(commands + code)])
        .env("REDIS_URL", world.sandbox.redis.url())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_python_producer_gets_a_picture_into_the_chat() {
    let (mut world, _daemon) = World::running();
    let snippet = blocks("Put a job in", "python").remove(0);
    let status = world.sandbox.telegram.plant_message(43, Kind::Text, false);
    let more =
        format!("\norder_picture(order=1, chat_id=43, prompt=\"x\", status_message_id={status})\n");
    succeeded(&run_python(&world, &(snippet + &more)));

    let record = world.wait_state("order-8812", "done");
    assert_eq!(record["meta"], r#"{"order": 8812}"#);
    let messages = world.sandbox.telegram.messages(42);
    assert_eq!(messages.len(), 1, "{messages:#?}");
    assert_eq!(
        (messages[0].kind, &*messages[0].text),
        (Kind::Photo, "Done")
    );
    world.wait_state("order-1", "done");
    let messages = world.sandbox.telegram.messages(43);
    assert_eq!(messages.len(), 1, "{messages:#?}");
    assert_eq!((messages[0].id, messages[0].kind), (status, Kind::Photo));
    world.assert_clean();
}

#[test]
fn the_shell_producers_get_a_picture_into_the_chat() {
    let (mut world, _daemon) = World::running();
    let snippets = blocks("Put a job in", "sh");
    assert_eq!(snippets.len(), 2);
    for snippet in &snippets {
        succeeded(&run_shell(&world, snippet));
    }
    world.wait_state("order-8813", "done");
    // The second waits for its job itself.
    assert_eq!(world.sandbox.telegram.messages(42).len(), 2);
    world.assert_clean();
}

#[test]
fn the_refund_rule_pays_back_what_was_not_charged_and_nothing_else() {
    let (mut world, _daemon) = World::running();
    let order = |id: &str| job(id).with("meta", serde_json::json!({"order": id}));
    world.sandbox.telegram.block(9);
    world.push(order("good").chat(7).json());
    world.push(order("refused").model("fal-ai/refuses").chat(7).json());
    world.push(order("paid").chat(9).json());
    world.push(r#"{"id":"broken","model":"a/b","input":1}"#);
    let ids = ["good", "refused", "paid", "broken"].map(str::to_owned);
    world.wait_ended(&ids, SOON);
    assert_eq!(world.record("paid")["charged"], "yes");

    let driver = "
import sys
refunded, ended = [], 0
def remember(last_id):
    global ended
    ended += r.xrange('fal:events', last_id, last_id)[0][1]['event'] in ('done', 'failed')
    if ended == 4:
        print(json.dumps(sorted(refunded)))
        sys.exit(0)
follow('0', lambda job, meta: refunded.append([job, meta]), remember)
";
    let snippet = blocks("Read the outcome", "python").remove(0);
    let output = run_python(&world, &(snippet + driver));
    succeeded(&output);
    let refunded: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!([["broken", null], ["refused", {"order": "refused"}]]);
    assert_eq!(refunded, expected);
}

// ---- what it says of the program ----

#[test]
fn the_table_of_flags_is_the_programs() {
    let text = section("Flags of `run`");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let flags: Vec<&Flag> = STORE_FLAGS.iter().chain(RUN_FLAGS).collect();
    let names = |flag: &&Flag| format!("`--{} {}`", flag.name, flag.value);
    let shown: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(shown, flags.iter().map(names).collect::<Vec<_>>());
    for (row, flag) in rows.iter().zip(&flags) {
        assert_eq!(row.len(), 4, "{row:?}");
        assert_eq!(row[1], format!("`{}`", flag.variable), "{}", flag.name);
        let default = match flag.unset {
            Unset::Means(text) => format!("`{text}`"),
            Unset::WorkedOut(words) => words.to_owned(),
        };
        assert_eq!(row[2], default, "{}", flag.name);
        let says_so = row[3].contains("repeatable");
        assert_eq!(says_so, flag.repeatable, "{}", flag.name);
    }
}

#[test]
fn the_example_of_texts_is_taken_and_every_text_stands_in_the_table() {
    let example = blocks("What users see", "toml").remove(0);
    let mut world = World::new();
    let path = world.folder.path().join("words.toml");
    fs::write(&path, example).unwrap();
    let _daemon = world.daemon(&["--threads", "4", "--messages", path.to_str().unwrap()]);
    // The program's own list of names, from its refusal of another.
    fs::write(&path, "[en]\nno_such_text = \"x\"").unwrap();
    let mut refused = world.spawn(&["--messages", path.to_str().unwrap()], &[]);
    assert_eq!(refused.wait_exit(SOON), Some(78));
    let log = refused.log_text();
    let names = log.trim().split("none of ").nth(1).unwrap_or(&log);
    let (table, kinds) = (section("What users see"), section("Read the outcome"));
    for name in names.split(", ").map(|name| name.trim_matches('"')) {
        let shown = format!("`{name}`");
        assert!(table.contains(&shown) || kinds.contains(&shown), "{name}");
    }
}

#[test]
fn the_commands_that_look_run_as_they_stand() {
    let (mut world, _daemon) = World::running();
    let meta = serde_json::json!({"order": 8812});
    world.push(job("order-8812").with("meta", meta).json());
    world.wait_state("order-8812", "done");
    let blocks = blocks("Commands", "sh");
    let commands = blocks.iter().find(|block| block.contains("fal-worker why"));
    // A worker that stands still for as long as its answer is waited for is left out, and `status` says so.
    let output = eventually(
        SOON,
        || run_shell(&world, commands.unwrap()),
        |output| output.status.success(),
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    for part in [
        "order-8812 is done.",
        "job order-8812",
        "\"order\":8812",
        "keeper",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}\n{said}");
    }
}

#[test]
fn every_command_and_no_other_is_described() {
    let help = Command::new(env!("CARGO_BIN_EXE_fal-worker"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let listed = help
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("Options:")
        .next()
        .unwrap();
    let mut commands: Vec<&str> = listed
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    let text = section("Commands");
    let mut described: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|line| line.split(['`', ' ']).next().unwrap())
        .collect();
    commands.sort_unstable();
    described.sort_unstable();
    assert_eq!(described, commands);
}

/// A line's sentence and its keys, in order.
fn shape(line: &str) -> (String, Vec<String>) {
    let (mut sentence, mut keys, mut quoted) = (Vec::new(), Vec::new(), false);
    for word in line.split(' ') {
        let opens = word.matches('"').count() - word.matches("\\\"").count();
        if !quoted {
            match word.split_once('=') {
                Some((key, _)) => keys.push(key.to_owned()),
                None => sentence.push(word),
            }
        }
        quoted ^= opens % 2 == 1;
    }
    (sentence.join(" "), keys)
}

#[test]
fn the_journal_shown_has_the_lines_of_the_real_one() {
    let mut world = World::new();
    let mut daemon = world.daemon(&["--threads", "4", "--listen", "127.0.0.1:0"]);
    world.push(job("a").chat(42).json());
    world.push(job("b").model("fal-ai/refuses").chat(43).json());
    world.wait_ended(&["a".to_owned(), "b".to_owned()], SOON);
    world.kill_redis();
    daemon.wait_log("redis lost");
    world.sandbox.redis.restart().unwrap();
    daemon.wait_log("redis back");
    assert_eq!(daemon.stop(), Some(0));

    let real: BTreeMap<String, Vec<String>> = daemon
        .log_text()
        .lines()
        .map(|line| shape(line[30..].trim_start())) // behind time and level
        .collect();
    let shown = blocks("Read the journal", "").remove(0);
    for line in shown.lines() {
        let (sentence, keys) = shape(line);
        assert_eq!(real.get(&sentence), Some(&keys), "{line}\n{real:#?}");
    }
}

#[test]
fn the_two_commands_exist_and_the_build_machine_runs_the_same() {
    assert_eq!(
        blocks("Try it", "sh"),
        ["sudo apt-get install -y redis-server && cargo run --release -- demo"]
    );
    assert_eq!(blocks("Test it", "sh"), ["tests/run"]);
    for script in ["tests/run", ".ci/run"] {
        let mode = fs::metadata(repository().join(script))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o111, 0o111, "{script} is not executable");
    }
    let ci = fs::read_to_string(repository().join(".ci/run")).unwrap();
    let commands: Vec<&str> = ci.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(
        commands.len() == 1 && commands[0].contains("tests/run"),
        "{commands:?}"
    );
}

#[test]
fn every_file_that_it_names_is_there() {
    let text = readme();
    let linked = text
        .split("](")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap());
    let linked = linked.filter(|target| !target.starts_with('#') && !target.starts_with("http"));
    let installed = text
        .split_whitespace()
        .filter(|word| word.starts_with("systemd/"))
        .map(|word| word.trim_matches(['`', ',', '.']));
    let mut files: Vec<&str> = linked.chain(installed).collect();
    files.sort_unstable();
    files.dedup();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        assert!(repository().join(file).exists(), "{file}");
    }
}

#[test]
fn every_link_within_it_leads_to_a_heading() {
    let text = readme();
    let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
    let headings: Vec<String> = headings.map(slug).collect();
    let links = text.split("](#").skip(1);
    let links: Vec<&str> = links.filter_map(|rest| rest.split(')').next()).collect();
    assert!(links.len() > 20, "{links:?}");
    for link in links {
        assert!(
            headings.iter().any(|heading| heading == link),
            "#{link} is none of {headings:?}"
        );
    }
}

#[test]
fn the_demo_runs_as_it_says() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_fal-worker"));
    let output = demo.arg("demo").stdin(Stdio::null()).output().unwrap();
    succeeded(&output);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("24 jobs in"), "{said}");
    assert!(said.contains("20 done, 4 failed as they must"), "{said}");
}
