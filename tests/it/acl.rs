//! The least rights in Redis that are enough: the rule in README is exactly what the scripts and the commands
//! of the program use, and a real Redis with that rule refuses nothing in a load with everything in it.

use crate::support::load::{in_full_swing, push_load, taking};
use crate::support::{SOON, World, eventually, job};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The words of one of README's two rules, as `ACL SETUSER` takes them.
fn rule(user: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(path).unwrap();
    let begin = format!("redis-cli ACL SETUSER {user} ");
    let (_, behind) = readme.split_once(&begin).expect("README has the rule");
    let (rule, _) = behind.split_once("```").unwrap();
    let words = rule.split_whitespace().filter(|word| *word != "\\");
    words
        .map(|word| word.trim_matches('\'').to_owned())
        .collect()
}

/// Rights of the rule: `evalsha`, `client|id`.
fn rights(user: &str) -> BTreeSet<String> {
    let rule = rule(user);
    let rights = rule.iter().filter_map(|word| word.strip_prefix('+'));
    rights.map(str::to_owned).collect()
}

fn sources(ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            // The stand-ins have a Redis of their own.
            let other = ["sandbox", "sandbox.rs", "tests", "tests.rs"];
            if path
                .file_name()
                .is_some_and(|name| other.iter().any(|other| name == *other))
            {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().unwrap().ends_with(ending) {
                found.push(fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

/// Every command that the program sends, and every one that its scripts call.
fn used() -> BTreeSet<String> {
    // Words that stand quoted in the scripts and are options or answers, not commands.
    const OTHERS: [&str; 17] = [
        "NX",
        "XX",
        "PX",
        "EX",
        "GT",
        "LT",
        "COUNT",
        "MATCH",
        "MAXLEN",
        "LIMIT",
        "WITHSCORES",
        "BEFORE",
        "AFTER",
        "KEEPTTL",
        "RANK",
        "OOM",
        "WRONGTYPE",
    ];
    // Redis selects a database other than 0 by it.
    let mut used = BTreeSet::from(["select".to_owned()]);
    for script in sources(".lua") {
        for line in script.lines().map(|line| line.split("--").next().unwrap()) {
            let quoted = line.split('\'').skip(1).step_by(2);
            let commands = quoted.filter(|word| {
                word.len() > 1
                    && word.bytes().all(|byte| byte.is_ascii_uppercase())
                    && !OTHERS.contains(word)
            });
            used.extend(commands.map(str::to_lowercase));
        }
    }
    for text in sources(".rs") {
        for (at, _) in text.match_indices("cmd(\"") {
            let behind = &text[at + 5..];
            let (command, behind) = behind.split_once('"').unwrap();
            let command = command.to_lowercase();
            let container = [
                "client", "script", "config", "xinfo", "memory", "acl", "latency", "cluster",
            ];
            let first = behind
                .trim_start_matches(')')
                .trim_start()
                .strip_prefix(".arg(\"")
                .and_then(|behind| behind.split('"').next());
            used.insert(match first {
                Some(first) if container.contains(&&*command) => {
                    format!("{command}|{}", first.to_lowercase())
                }
                _ => command,
            });
        }
    }
    used
}

#[test]
fn the_rule_in_readme_grants_what_is_used_and_nothing_else() {
    let (granted, mut used) = (rights("fal-worker"), used());
    used.remove("sentinel"); // sentinels have users of their own
    let missing: Vec<_> = used.difference(&granted).collect();
    let needless: Vec<_> = granted.difference(&used).collect();
    assert!(
        missing.is_empty() && needless.is_empty(),
        "missing in README's rule: {missing:?}; granted and used by nothing: {needless:?}"
    );
    let keys: Vec<_> = rule("fal-worker")
        .into_iter()
        .filter(|word| word.starts_with('~'))
        .collect();
    assert_eq!(keys, ["~fal:*"]);
}

/// Makes the user of a rule and gives its URL.
fn grant(world: &mut World, user: &str) -> String {
    let rule = rule(user);
    let mut words = vec!["ACL", "SETUSER", user];
    words.extend(rule.iter().map(String::as_str));
    let _: String = world.redis(&words);
    let port = world.sandbox.redis.port();
    format!("redis://{user}:PASSWORD@127.0.0.1:{port}/3")
}

#[test]
fn a_user_of_these_rights_is_refused_nothing() {
    let mut world = World::new();
    // Database 0 is what the tests look into; the rights are the same in all.
    let url = grant(&mut world, "fal-worker").replace("/3", "/0");
    world.redis_url = Some(url.clone());
    let limits = [
        "--threads",
        "8",
        "--lease",
        "3s",
        "--user-concurrency",
        "2",
        "--user-rate",
        "1000/1s",
        "--fal-concurrency",
        "auto",
        "--model-limit",
        "fal-ai/veo*=2",
        "--progress",
        "on",
        "--telegram-rate",
        "1000/1s",
    ];
    let mut first = world.daemon(&limits);
    let other_host = ["--threads", "8", "--lease", "3s", "--state-dir", "off"];
    let second = world.daemon(&other_host);
    world.as_if_on_another_host(&first.instance());
    taking(&world, 20, 1500);
    let ids = push_load(&mut world, 60);
    in_full_swing(&mut world, 120);
    let _: String = world.redis(&["SCRIPT", "FLUSH"]);
    first.kill();
    second.wait_log("took over");
    let states = world.wait_ended(&ids, 2 * SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");

    // A person's commands.
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs();
    world.push(job("tomorrow").with("not_before", now + 86_400).json());
    world.wait_state("tomorrow", "later");
    world.push(r#"{"id":"no-model"}"#);
    world.wait_state("no-model", "dead");
    let command = |args: &[&str], code: i32| {
        let output = world.cli(args).env("REDIS_URL", &url).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(!text.contains("NOPERM"), "{args:?}: {text}");
    };
    command(&["status"], 0);
    command(&["show", "r0", "--spec"], 0);
    command(&["redeliver", "r1"], 0);
    command(
        &[
            "enqueue",
            "--wait",
            "--model",
            "fal-ai/flux/dev",
            "--input",
            "{}",
        ],
        0,
    );
    command(&["cancel", "tomorrow"], 0);

    // Redis forgets: what the worker knows is written again.
    // Long enough that none ends before: of a job that was over nothing would be written again.
    taking(&world, 6000, 8000);
    let again: Vec<String> = (0..10).map(|n| format!("again-{n}")).collect();
    world.push_all(&again.iter().map(|id| job(id).json()).collect::<Vec<_>>());
    for id in &again {
        world.wait_submitted(id);
    }
    let _: String = world.redis(&["FLUSHALL"]);
    for id in &again {
        world.wait_submitted(id);
    }
    let states = world.wait_ended(&again, 2 * SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    drop(second);

    let refused: Vec<redis::Value> = world.redis(&["ACL", "LOG"]);
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(!world.logs().contains("NOPERM"));
}

#[test]
fn a_bot_needs_two_commands_and_two_keys() {
    let mut world = World::new();
    let url = grant(&mut world, "bot").replace("/3", "/0");
    let mut bot = redis::Client::open(url).unwrap().get_connection().unwrap();
    let entry = job("a").json();
    let pushed: Result<u64, _> = redis::cmd("LPUSH")
        .arg("fal:inbox")
        .arg(entry)
        .query(&mut bot);
    assert_eq!(pushed, Ok(1));
    let mut read = redis::cmd("XREAD");
    read.arg(&["STREAMS", "fal:events", "0"]);
    assert!(read.query::<redis::Value>(&mut bot).is_ok());
    for words in [
        &["GET", "fal:spec:a"][..],
        &["LRANGE", "fal:inbox", "0", "-1"],
        &["LPUSH", "fal:bell", "1"],
    ] {
        let refused = redis::cmd(words[0])
            .arg(&words[1..])
            .query::<redis::Value>(&mut bot);
        let error = refused.expect_err("a bot may not").to_string();
        assert!(
            error.contains("permission") || error.contains("NOPERM"),
            "{words:?}: {error}"
        );
    }
    let _: u64 = world.redis(&["DEL", "fal:inbox"]);
}

/// Whoever gives rights may forget one, and give it a moment later.
#[test]
fn a_right_that_was_missing_for_a_moment_costs_no_job() {
    let mut world = World::new();
    let url = grant(&mut world, "fal-worker").replace("/3", "/0");
    world.redis_url = Some(url);
    let daemon = world.daemon(&["--threads", "4"]);
    for right in ["set", "hset"] {
        let off: String = world.redis(&["ACL", "SETUSER", "fal-worker", &format!("-{right}")]);
        assert_eq!(off, "OK");
        let ids: Vec<String> = (0..5).map(|n| format!("{right}-{n}")).collect();
        let _: String = world.redis(&["ACL", "LOG", "RESET"]);
        world.push_all(&ids.iter().map(|id| job(id).json()).collect::<Vec<_>>());
        eventually(SOON, || refusals(&mut world), |n| *n > 0);
        let _: String = world.redis(&["ACL", "SETUSER", "fal-worker", &format!("+{right}")]);
        let states = world.wait_ended(&ids, 3 * SOON);
        assert_eq!(states, ["done"; 5], "{right}: {}", daemon.log_text());
    }
    assert_eq!(world.sandbox.fal.totals().submits, 10);
    assert_eq!(world.counted("resubmitted_after_unknown"), 0);
}

/// Commands that Redis has refused for a missing right, of one kind each.
fn refusals(world: &mut World) -> usize {
    let log: Vec<redis::Value> = world.redis(&["ACL", "LOG"]);
    log.len()
}
