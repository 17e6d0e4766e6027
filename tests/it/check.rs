//! `check` against real servers: every trouble an operator can have is named with what to do, and no secret
//! with it.

use crate::support::World;
use fal_worker::sandbox::redis::RedisOptions;
use serde_json::Value;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Where nobody listens.
const NOWHERE: &str = "redis://127.0.0.1:1/0";

/// `check` with the flags and variables of this world's daemons.
fn command(world: &World, more: &[&str], variables: &[(&str, &str)]) -> Command {
    let run = world.command(more);
    let mut check = Command::new(run.get_program());
    check.arg("check").args(run.get_args().skip(1)).env_clear();
    let given = run.get_envs();
    check.envs(given.filter_map(|(name, value)| Some((name, value?))));
    check.envs(variables.iter().copied());
    check
}

fn output(world: &World, command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    for secret in [world.sandbox.fal.key(), world.sandbox.telegram.token()] {
        let (_, part) = secret.split_once(':').unwrap();
        assert!(!said.contains(part), "{said}");
    }
    assert!(!said.contains("s3cret"), "{said}");
    output
}

/// Exit code and the lines by name.
struct Checked {
    code: i32,
    json: Value,
}

impl Checked {
    fn of(world: &World, more: &[&str], variables: &[(&str, &str)]) -> Checked {
        let more = [more, &["--json"]].concat();
        let output = output(world, &mut command(world, &more, variables));
        let json: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let code = output.status.code().unwrap();
        assert_eq!(json["exit"], code, "{json:#}");
        Checked { code, json }
    }

    fn line(&self, name: &str) -> &Value {
        let lines = self.json["lines"].as_array().unwrap();
        let line = lines.iter().find(|line| line["check"] == name);
        line.unwrap_or_else(|| panic!("no line {name}: {:#}", self.json))
    }

    fn verdict(&self, name: &str) -> &str {
        self.line(name)["verdict"].as_str().unwrap()
    }

    /// Names of the lines that are not ok.
    fn bad(&self, verdict: &str) -> Vec<&str> {
        let lines = self.json["lines"].as_array().unwrap();
        let bad = lines.iter().filter(|line| line["verdict"] == verdict);
        bad.map(|line| line["check"].as_str().unwrap()).collect()
    }
}

#[test]
fn a_sound_configuration_is_told_line_by_line_and_nothing_is_changed() {
    let mut world = World::new();
    let _: String = world.redis(&["CONFIG", "SET", "maxmemory", "1gb"]);
    let checked = Checked::of(&world, &[], &[]);
    assert_eq!(
        (checked.code, checked.bad("fail")),
        (0, vec![]),
        "{:#}",
        checked.json
    );
    for (name, text) in [
        ("configuration", "namespace fal"),
        (
            "secret-fal-key",
            "FAL_KEY, of usual length; a change needs a restart",
        ),
        ("secret-redis-url", "REDIS_URL, without a password"),
        ("memory", "at worst"),
        ("open-files", "may be needed"),
        ("state-dir", "run makes it"),
        ("redis-version", "Redis "),
        ("redis-aof", "AOF on"),
        ("redis-eviction", "noeviction"),
        ("redis-rights", "all are allowed"),
        ("fal", "the key is taken (HTTP 404"),
        ("telegram", "@sandbox_bot"),
    ] {
        let line = checked.line(name);
        assert_eq!(line["verdict"], "ok", "{line}");
        assert!(line["found"].as_str().unwrap().contains(text), "{line}");
    }
    // On a busy machine the trip may take as long as is warned of.
    let found = checked.line("redis")["found"].as_str().unwrap();
    assert!(found.contains("a round trip takes"), "{found}");
    assert_eq!(world.redis::<u64>(&["DBSIZE"]), 0);
    assert!(!world.state_dir().exists());
    assert!(world.sandbox.fal.submits().is_empty());
    // For people: the same lines as a table.
    let output = output(&world, &mut command(&world, &[], &[]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.lines().next().unwrap().contains("what to do"),
        "{text}"
    );
    assert!(text.contains("@sandbox_bot"), "{text}");
    println!("{text}");
}

#[test]
fn a_refused_key_and_a_refused_token_are_named_unless_nobody_is_asked() {
    let world = World::new();
    let wrong = [
        ("FAL_KEY", "wrong-id:wrong-s3cret-wrong"),
        (
            "TELEGRAM_BOT_TOKEN",
            "7000000001:s3cret-s3cret-s3cret-s3cret-1234",
        ),
    ];
    let checked = Checked::of(&world, &[], &wrong);
    assert_eq!(
        (checked.code, checked.bad("fail")),
        (1, vec!["fal", "telegram"])
    );
    assert!(
        checked.line("telegram")["found"]
            .as_str()
            .unwrap()
            .contains("401")
    );
    let checked = Checked::of(&world, &["--offline"], &wrong);
    assert_eq!(checked.code, 0, "{:#}", checked.json);
    assert_eq!(checked.line("fal")["found"], "not asked (--offline)");
}

#[test]
fn who_does_not_answer_is_waited_for_five_seconds_and_is_exit_69() {
    let world = World::new();
    let checked = Checked::of(&world, &[], &[("REDIS_URL", NOWHERE)]);
    assert_eq!((checked.code, checked.bad("fail")), (69, vec!["redis"]));
    // Takes connections and says nothing.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hole.local_addr().unwrap();
    let redis = format!("redis://:s3cret@{address}/0");
    let began = Instant::now();
    let flags = ["--offline", "--redis-connections", "50"];
    let silent = Checked::of(&world, &flags, &[("REDIS_URL", &redis)]);
    let took = began.elapsed();
    assert_eq!((silent.code, silent.bad("fail")), (69, vec!["redis"]));
    // Its client alone would wait three times as long.
    assert!(took < Duration::from_secs(14), "{took:?}");
    let mut world = world;
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hole.local_addr().unwrap();
    let web = format!("http://{address}");
    world.fal_url = Some(web.clone());
    world.telegram_url = Some(web);
    let guests = std::thread::spawn(move || {
        let [first, second] = [(); 2].map(|()| hole.accept().unwrap().0);
        (is_waiting(&first), first, second)
    });
    let began = Instant::now();
    let silent = Checked::of(&world, &[], &[]);
    let took = began.elapsed();
    assert_eq!(
        (silent.code, silent.bad("fail")),
        (69, vec!["fal", "telegram"])
    );
    // A worker would give fal ten seconds, and Telegram thirty.
    assert!(took < Duration::from_secs(11), "{took:?}");
    let _last = [(); 2].map(|()| TcpStream::connect(address)); // had nobody come, it would wait for ever
    let (both_at_once, ..) = guests.join().unwrap();
    assert!(both_at_once, "the second came when the first had gone");
}

/// Whether who sent this is still there, and waits for an answer.
fn is_waiting(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

#[test]
fn a_wrong_setting_is_one_line_and_exit_78() {
    let world = World::new();
    let checked = Checked::of(&world, &["--threads", "0"], &[]);
    assert_eq!(
        (checked.code, checked.bad("fail")),
        (78, vec!["configuration"])
    );
    let found = checked.line("configuration")["found"].as_str().unwrap();
    assert!(found.contains("--threads"), "{found}");
    let checked = Checked::of(&world, &[], &[("FAL_KEY", "s3cret")]);
    assert_eq!(checked.code, 78);
    // A wrong password is no outage.
    let url = world
        .sandbox
        .redis
        .url()
        .replace("redis://", "redis://nobody:s3cret@");
    let checked = Checked::of(&world, &["--offline"], &[("REDIS_URL", &url)]);
    assert_eq!(
        (checked.code, checked.bad("fail")),
        (1, vec!["redis"]),
        "{:#}",
        checked.json
    );
}

#[test]
fn a_redis_that_evicts_forgets_or_takes_no_writes_is_named() {
    let mut world = World::with(RedisOptions {
        append_only: false,
        ..RedisOptions::default()
    });
    world.not_audited("a replica of nobody");
    let _: String = world.redis(&["CONFIG", "SET", "maxmemory", "100mb"]);
    let _: String = world.redis(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let _: String = world.redis(&["CONFIG", "SET", "maxclients", "40"]);
    let checked = Checked::of(&world, &["--offline"], &[]);
    assert_eq!(checked.code, 1);
    assert_eq!(checked.bad("fail"), ["redis-eviction", "redis-clients"]);
    assert_eq!(checked.verdict("redis-aof"), "warn");
    let _: String = world.redis(&["REPLICAOF", "127.0.0.1", "1"]);
    let checked = Checked::of(&world, &["--offline"], &[]);
    assert_eq!(checked.verdict("redis-role"), "fail");
    let found = checked.line("redis-rights")["found"].as_str().unwrap();
    assert!(found.contains("READONLY"), "{found}");
}

#[test]
fn a_password_that_redis_refuses_is_no_redis_that_is_away() {
    let mut world = World::new();
    let _: String = world.redis(&["CONFIG", "SET", "requirepass", "right"]);
    let address = format!("127.0.0.1:{}/0", world.sandbox.redis.port());
    for url in [
        format!("redis://:s3cret@{address}"),
        format!("redis://{address}"),
    ] {
        let checked = Checked::of(&world, &["--offline"], &[("REDIS_URL", &url)]);
        assert_eq!((checked.code, checked.verdict("redis")), (1, "fail"));
        let found = checked.line("redis")["found"].as_str().unwrap();
        assert!(found.starts_with("Redis refused: "), "{found}");
    }
}

#[test]
fn commands_and_keys_that_its_user_may_not_use_are_named() {
    let mut world = World::new();
    let url = world.sandbox.redis.url();
    let checked = |world: &mut World, rules: &[&str]| {
        let user = ["ACL", "SETUSER", "few", "reset", "on", ">s3cret"];
        let _: String = world.redis(&[&user, rules].concat());
        let url = url.replace("redis://", "redis://few:s3cret@");
        Checked::of(world, &["--offline"], &[("REDIS_URL", &url)])
    };
    let found = |checked: &Checked| checked.line("redis-rights")["found"].to_string();
    let all = checked(&mut world, &["~fal:*", "+@all", "-config"]);
    assert_eq!(all.code, 0, "{:#}", all.json);
    let few = checked(
        &mut world,
        &["~fal:*", "+@all", "-xadd", "-client|unblock", "-hset"],
    );
    assert_eq!((few.code, few.bad("fail")), (1, vec!["redis-rights"]));
    let text = found(&few);
    assert!(
        text.contains("CLIENT") && text.contains("XADD") && text.contains("HSET"),
        "{text}"
    );
    let other = checked(&mut world, &["~other:*", "+@all"]);
    assert_eq!(other.code, 1);
    assert!(
        found(&other).contains("may not use these keys"),
        "{}",
        found(&other)
    );
    assert_eq!(world.redis::<u64>(&["DBSIZE"]), 0);
}

#[test]
fn keys_of_others_and_records_of_a_newer_version_are_named() {
    let mut world = World::new();
    world.not_audited("keys of another program");
    let _: String = world.redis(&["SET", "fal:later", "mine"]);
    let _: u64 = world.redis(&["HSET", "fal:job:a", "state", "queued", "v", "9"]);
    let checked = Checked::of(&world, &["--offline"], &[]);
    assert_eq!(
        (checked.code, checked.bad("fail")),
        (1, vec!["redis-types"])
    );
    assert_eq!(
        checked.line("redis-types")["found"],
        "fal:later is a string, not a zset"
    );
    assert_eq!(checked.verdict("redis-format"), "warn");
}

#[test]
fn two_workers_of_one_name_and_too_few_open_files_are_named() {
    let mut world = World::new();
    let (_one, _two) = (
        world.daemon(&["--threads", "4"]),
        world.daemon(&["--threads", "4"]),
    );
    let checked = Checked::of(&world, &["--offline"], &[]);
    assert_eq!(checked.verdict("workers"), "warn", "{:#}", checked.json);
    assert!(
        checked.line("redis-clients")["found"]
            .to_string()
            .contains("2 workers")
    );
    assert!(
        checked.line("state-dir")["found"]
            .to_string()
            .contains("writable")
    );
    let check = command(&world, &["--offline", "--json"], &[]);
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]);
    limited.arg(check.get_program()).args(check.get_args());
    limited.env_clear().envs(
        check
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let output = output(&world, &mut limited);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("LimitNOFILE=512 in the unit"), "{text}");
}
