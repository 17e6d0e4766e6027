//! Secrets that change while the daemon runs: no restart, no job lost, nothing shown, and what cannot be used
//! leaves the old one in place.

use crate::support::{Daemon, SOON, World, eventually, job};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const NEW_KEY: &str = "new-key-id:new-key-secret-1234";
/// The sandbox's bot, another secret.
const NEW_TOKEN: &str = "7000000001:BBanotherSecretOfTheSameBot_0123456789";
const OTHER_BOT: &str = "7000000002:CCsecretOfAnotherBotAltogether_0123456";
/// A pause for a refused key is 30 s, and so is the wait for a refused token.
const BEFORE_THEY_END: Duration = Duration::from_secs(15);

/// A world whose secrets lie in files, with one daemon that is ready.
struct Rotating {
    world: World,
    daemon: Daemon,
    folder: PathBuf,
}

impl Rotating {
    fn start() -> Rotating {
        let world = World::new();
        let url = world.sandbox.redis.url();
        Rotating::in_world(world, &url)
    }

    fn in_world(mut world: World, url: &str) -> Rotating {
        let folder = world.folder.path().join("secrets");
        fs::create_dir(&folder).unwrap();
        let put = |name: &str, text: &str| {
            write(&folder.join(name), text);
            folder.join(name).display().to_string()
        };
        let key = put("fal-key", &world.sandbox.fal.key());
        let token = put("token", &world.sandbox.telegram.token());
        let url = put("redis-url", url);
        let files = [
            ("FAL_KEY", ""),
            ("FAL_KEY_FILE", &key),
            ("TELEGRAM_BOT_TOKEN", ""),
            ("TELEGRAM_BOT_TOKEN_FILE", &token),
            ("REDIS_URL", ""),
            ("REDIS_URL_FILE", &url),
        ];
        let daemon = world.spawn(&["--threads", "4"], &files);
        eventually(SOON, || daemon.log_text(), |log| log.contains(" ready "));
        Rotating {
            world,
            daemon,
            folder,
        }
    }

    fn change(&self, name: &str, text: &str) {
        write(&self.folder.join(name), text);
    }

    fn wait_log(&self, words: &str) -> String {
        let log = || self.daemon.log_text();
        eventually(SOON, log, |log| log.contains(words))
    }

    /// How often a line says this.
    fn said(&self, words: &str) -> usize {
        self.daemon.log_text().matches(words).count()
    }

    fn runs_a_job(&mut self, id: &str) {
        self.world.push(job(id).chat(7).json());
        self.world.wait_state(id, "done");
    }
}

/// As a careful program replaces a file.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, format!("{text}\n")).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn a_new_fal_key_is_taken_without_a_restart_and_without_a_pause() {
    let mut all = Rotating::start();
    all.runs_a_job("before");
    all.change("fal-key", NEW_KEY);
    all.world.sandbox.fal.set_key(NEW_KEY);
    // Refused with the old key at first, or the change was seen before: both go on at once.
    all.runs_a_job("after");
    let log = all.wait_log("secret read again what=fal-key");
    for trouble in ["paused", "job retrying", "job failed", "new-key-secret"] {
        assert!(!log.contains(trouble), "{trouble}: {log}");
    }
    assert_eq!(all.world.record("after")["attempt"], "1");
    all.world.assert_clean();
}

#[test]
fn a_secret_that_was_read_again_stands_in_no_line_whoever_brings_it_there() {
    let mut all = Rotating::start();
    all.change("fal-key", NEW_KEY);
    all.world.sandbox.fal.set_key(NEW_KEY);
    all.wait_log("secret read again what=fal-key");
    all.world
        .push(job("quotes").chat(7).with("user_id", NEW_KEY).json());
    all.world.wait_state("quotes", "done");
    let log = all.wait_log("job done job=quotes");
    assert!(!log.contains("new-key-secret"), "{log}");
}

#[test]
fn a_pause_for_a_refused_key_ends_soon_after_the_new_one_is_there() {
    let mut all = Rotating::start();
    all.world.sandbox.fal.set_key(NEW_KEY);
    all.world.push(job("refused").json());
    let paused = |world: &mut World| world.redis::<bool>(&["EXISTS", "fal:paused"]);
    eventually(SOON, || paused(&mut all.world), |paused| *paused);
    all.world.push(job("waits").json());
    let began = Instant::now();
    all.change("fal-key", NEW_KEY);
    all.world.wait_state("waits", "done");
    let took = began.elapsed();
    assert!(took < BEFORE_THEY_END, "{took:?}");
    assert!(!paused(&mut all.world));
    // What was refused itself has a time of its own.
    let ended = all.world.wait_ended(&["refused".to_owned()], 2 * SOON);
    assert_eq!(ended, ["done"]);
    assert_eq!(all.world.record("refused")["attempt"], "1");
    all.world.assert_clean();
}

#[test]
fn a_pause_of_a_person_stays_whatever_key_comes() {
    let mut all = Rotating::start();
    let _: u64 = all
        .world
        .redis(&["HSET", "fal:paused", "reason", "auth: mine", "by", "me"]);
    all.world.sandbox.fal.set_key(NEW_KEY);
    all.change("fal-key", NEW_KEY);
    all.wait_log("secret read again what=fal-key");
    // What it does with a new key it has done once it looks at another one.
    all.change("fal-key", "broken");
    all.wait_log("secret not taken");
    assert!(all.world.redis::<bool>(&["EXISTS", "fal:paused"]));
    let _: u64 = all.world.redis(&["DEL", "fal:paused"]);
    all.runs_a_job("after");
}

#[test]
fn results_that_wait_for_a_refused_token_go_out_with_the_new_one() {
    let mut all = Rotating::start();
    all.runs_a_job("before");
    all.world.sandbox.telegram.set_token(NEW_TOKEN);
    all.world.push(job("refused").chat(7).json());
    all.wait_log("telegram lost");
    let began = Instant::now();
    all.change("token", NEW_TOKEN);
    all.world.wait_state("refused", "done");
    let took = began.elapsed();
    assert!(took < BEFORE_THEY_END, "{took:?}");
    let log = all.wait_log("telegram back");
    assert!(
        log.contains("secret read again what=telegram-bot-token"),
        "{log}"
    );
    assert!(!log.contains("anotherSecretOfTheSameBot"), "{log}");
    assert_eq!(all.world.record("refused")["attempt"], "1");
    all.world.assert_clean();
}

#[test]
fn another_bots_token_is_refused_and_the_old_one_stays() {
    let mut all = Rotating::start();
    all.change("token", OTHER_BOT);
    let log = all.wait_log("secret not taken");
    assert!(log.contains("another bot's: restart"), "{log}");
    assert!(!log.contains("secretOfAnotherBot"), "{log}");
    all.runs_a_job("after");
    all.world.assert_clean();
}

#[test]
fn what_cannot_be_used_is_said_once_and_the_old_secret_stays() {
    let mut all = Rotating::start();
    all.change("fal-key", "");
    all.wait_log("what=fal-key");
    fs::remove_file(all.folder.join("token")).unwrap();
    all.wait_log("what=telegram-bot-token");
    let url = all.world.sandbox.redis.url();
    let elsewhere = url.replace("redis://127.0.0.1", "redis://:hidden-pw@127.0.0.2");
    assert_ne!(url, elsewhere);
    all.change("redis-url", &elsewhere);
    let log = all.wait_log("another Redis: restart");
    assert!(!log.contains("hidden-pw"), "{log}");
    all.runs_a_job("one");
    all.runs_a_job("two");
    for what in ["fal-key", "telegram-bot-token", "redis-url"] {
        assert_eq!(all.said(&format!("what={what}")), 1, "{what}");
    }
    // And what is well again is taken.
    all.world.sandbox.fal.set_key(NEW_KEY);
    all.change("fal-key", NEW_KEY);
    all.runs_a_job("three");
    all.world.assert_clean();
}

#[test]
fn redis_changes_its_password_and_the_worker_follows() {
    let mut world = World::new();
    let url = world.sandbox.redis.url();
    let with = |password: &str| url.replace("redis://", &format!("redis://worker:{password}@"));
    let rules = [
        "ACL",
        "SETUSER",
        "worker",
        "on",
        ">old-password",
        "~*",
        "&*",
        "+@all",
    ];
    let _: String = world.redis(&rules);
    let mut all = Rotating::in_world(world, &with("old-password"));
    all.runs_a_job("before");
    let _: String = all
        .world
        .redis(&["ACL", "SETUSER", "worker", "resetpass", ">new-password"]);
    let _: u64 = all.world.redis(&["CLIENT", "KILL", "USER", "worker"]);
    all.wait_log("redis lost");
    all.world.push(job("meanwhile").chat(7).json());
    all.change("redis-url", &with("new-password"));
    all.world.wait_state("meanwhile", "done");
    let log = all.wait_log("redis back");
    assert!(log.contains("secret read again what=redis-url"), "{log}");
    assert!(!log.contains("new-password"), "{log}");
    all.world.assert_clean();
}

#[test]
fn secrets_of_the_environment_start_no_thread_and_stay() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "4"]);
    let threads = || -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
            .collect()
    };
    // Each gives itself its name once it runs, and has the program's until then.
    let has_names = |names: &Vec<String>| {
        let named = |name: &str| names.iter().any(|one| one.trim() == name);
        named("keeper")
            && names
                .iter()
                .filter(|one| one.trim() == "fal-worker")
                .count()
                == 1
    };
    let names = eventually(SOON, threads, has_names);
    assert!(
        !names.iter().any(|name| name.trim() == "secrets"),
        "{names:?}"
    );
}
