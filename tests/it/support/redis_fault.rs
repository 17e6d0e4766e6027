//! Faults of Redis, a function each: what begins it, how long it lasts, what ends it, and what the daemon
//! says of it. `redis_matrix.rs` crosses them with moments. A new fault is a function here and a line there.

use super::proxy::{Flow, Proxy};
use super::{Daemon, SOON, World, eventually};
use fal_worker::sandbox::redis::{RedisChild, RedisOptions};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// What the daemon's log says of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// `redis lost` once and `redis back` once, with about the length of the outage.
    Outage,
    /// No `redis lost`: Redis is there, it only takes no new work.
    Full,
    /// Nothing: it was over before a call could fail.
    Nothing,
    /// One pair at most: whether a call fails depends on what was under way.
    OnceAtMost,
}

/// One fault.
pub struct Fault {
    pub name: &'static str,
    /// Between its begin and its end; zero where both are one moment.
    pub lasts: Duration,
    pub said: Said,
    /// Redis forgets writes that it had answered.
    pub forgets: bool,
    /// More arguments for the server.
    pub server: &'static [&'static str],
    /// The daemon reaches Redis through a proxy.
    pub proxied: bool,
    /// The server's wall clock can be set.
    pub clock: bool,
    /// A second server follows the first.
    pub replica: bool,
    pub begin: fn(&mut Scene),
    pub end: fn(&mut Scene),
}

impl Fault {
    fn new(name: &'static str, begin: fn(&mut Scene)) -> Fault {
        Fault {
            name,
            lasts: Duration::ZERO,
            said: Said::Outage,
            forgets: false,
            server: &[],
            proxied: false,
            clock: false,
            replica: false,
            begin,
            end: |_| {},
        }
    }

    fn lasting(mut self, ms: u64, end: fn(&mut Scene)) -> Fault {
        self.lasts = Duration::from_millis(ms);
        self.end = end;
        self
    }
}

/// A world in which a fault can happen.
pub struct Scene {
    pub world: World,
    proxy: Option<Proxy>,
    clock: Option<Clock>,
    replica: Option<RedisChild>,
    /// Connections that only keep a command waiting.
    kept: Vec<TcpStream>,
}

impl Scene {
    pub fn of(fault: &Fault) -> Scene {
        let clock = fault.clock.then(Clock::new);
        let options = RedisOptions {
            extra: known_to_the_server(fault.server),
            variables: clock.as_ref().map(Clock::variables).unwrap_or_default(),
            ..RedisOptions::default()
        };
        let mut world = World::with(options);
        let proxy = fault.proxied.then(|| Proxy::to(&world.sandbox.redis.url()));
        if let Some(proxy) = &proxy {
            world.redis_url = Some(format!("redis://{}/0", proxy.address()));
        }
        let replica = fault.replica.then(|| follower(&world));
        Scene {
            world,
            proxy,
            clock,
            replica,
            kept: Vec::new(),
        }
    }

    /// Waits until pull and intake both wait in a blocking command.
    pub fn wait_idle(&mut self) {
        eventually(
            SOON,
            || self.world.redis::<String>(&["CLIENT", "LIST"]),
            |clients| clients.contains("cmd=brpop ") && clients.contains("cmd=brpoplpush "),
        );
    }

    fn ok(&mut self, words: &[&str]) {
        let _: redis::Value = self.world.redis(words);
    }

    /// Sends a command without waiting for its answer.
    fn send(&mut self, line: &str) {
        let address = ("127.0.0.1", self.world.sandbox.redis.port());
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        self.kept.push(stream);
    }

    fn wait_answering(&self) {
        eventually(
            Duration::from_secs(61) + SOON,
            || self.world.sandbox.redis.ask(&["PING"]).unwrap_or_default(),
            |answer| answer.starts_with("+PONG"),
        );
    }

    /// All connections but the test's own.
    fn kill_connections(&mut self) {
        self.ok(&["CLIENT", "KILL", "TYPE", "normal"]);
    }
}

/// SIGKILL, and a restart with what the append-only file kept.
pub fn killed_and_restarted() -> Fault {
    Fault::new("killed and restarted", |scene| {
        scene.world.kill_redis();
    })
    .lasting(1500, |scene| scene.world.sandbox.redis.restart().unwrap())
}

/// `DEBUG SLEEP` beyond the limit for an answer.
pub fn asleep() -> Fault {
    Fault {
        server: &["--enable-debug-command", "local"],
        ..Fault::new("asleep", |scene| scene.send("DEBUG SLEEP 6.5"))
            .lasting(6000, |scene| scene.wait_answering())
    }
}

/// The same for a minute.
pub fn asleep_for_a_minute() -> Fault {
    Fault {
        server: &["--enable-debug-command", "local"],
        ..Fault::new("asleep for a minute", |scene| scene.send("DEBUG SLEEP 61"))
            .lasting(59_000, |scene| scene.wait_answering())
    }
}

/// SIGSTOP: the port still accepts, nothing answers.
pub fn stopped() -> Fault {
    Fault::new("stopped", |scene| {
        scene.world.sandbox.redis.pause().unwrap()
    })
    .lasting(6000, |scene| scene.world.sandbox.redis.resume().unwrap())
}

/// The same for ten seconds.
pub fn stopped_for_ten_seconds() -> Fault {
    Fault {
        lasts: Duration::from_secs(10),
        ..stopped()
    }
}

/// `CLIENT KILL TYPE normal`.
pub fn connections_killed() -> Fault {
    Fault {
        said: Said::Nothing,
        ..Fault::new("connections killed", Scene::kill_connections)
    }
}

/// `SCRIPT FLUSH`.
pub fn scripts_flushed() -> Fault {
    Fault {
        said: Said::Nothing,
        ..Fault::new("scripts flushed", |scene| scene.ok(&["SCRIPT", "FLUSH"]))
    }
}

/// `maxmemory` reached, with `noeviction`.
pub fn out_of_memory() -> Fault {
    Fault {
        said: Said::Full,
        ..Fault::new("out of memory", |scene| {
            scene.ok(&["CONFIG", "SET", "maxmemory", "1"]);
        })
        .lasting(1500, |scene| scene.ok(&["CONFIG", "SET", "maxmemory", "0"]))
    }
}

/// `max number of clients reached`: the test's own connection is the stranger who holds the last place.
pub fn no_more_clients() -> Fault {
    Fault::new("no more clients", |scene| {
        scene.ok(&["CONFIG", "SET", "maxclients", "1"]);
        scene.kill_connections();
    })
    .lasting(1500, |scene| {
        scene.ok(&["CONFIG", "SET", "maxclients", "1000"]);
    })
}

/// `READONLY`: for a while it is the replica of a master that is away.
pub fn read_only() -> Fault {
    Fault::new("read only", |scene| {
        scene.ok(&["REPLICAOF", "127.0.0.1", "1"])
    })
    .lasting(1500, |scene| scene.ok(&["REPLICAOF", "NO", "ONE"]))
}

/// A failover to a replica that never got the master's last writes.
pub fn failed_over_with_a_lost_tail() -> Fault {
    Fault {
        forgets: true,
        proxied: true,
        replica: true,
        ..Fault::new("failed over with a lost tail", |scene| {
            follow_no_more(scene);
            // This is what gets lost.
            super::load::while_it_lasts(Duration::from_millis(500));
            scene.world.kill_redis();
        })
        .lasting(1000, |scene| {
            let mut master = scene.replica.take().unwrap();
            let promoted = master.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
            assert!(promoted.starts_with("+OK"), "{promoted}");
            scene.proxy.as_ref().unwrap().retarget(&master.url());
            std::mem::swap(&mut scene.world.sandbox.redis, &mut master);
        })
    }
}

/// The same by sentinels that take their time, longer than an end is remembered while Redis answers; the job
/// `tail` ends in what is lost.
pub fn failed_over_late_after_an_end() -> Fault {
    Fault {
        name: "failed over late after an end",
        lasts: Duration::from_secs(12),
        begin: |scene| {
            follow_no_more(scene);
            scene.world.wait_state("tail", "done");
            scene.world.kill_redis();
        },
        ..failed_over_with_a_lost_tail()
    }
}

/// The replica knows the job `doubt` only as one that waits behind a pause; what is lost is its submit, whose answer
/// was lost too, and that it waits for another one.
pub fn failed_over_after_a_submit_in_doubt() -> Fault {
    Fault {
        name: "failed over after a submit in doubt",
        begin: |scene| {
            follow_no_more(scene);
            let _: usize = scene.world.redis(&["DEL", "fal:paused"]);
            scene.world.wait_state("doubt", "later");
            scene.world.kill_redis();
        },
        ..failed_over_with_a_lost_tail()
    }
}

/// The replica has all up to this moment, however busy the machine is, and nothing that comes after.
fn follow_no_more(scene: &mut Scene) {
    let _: String = scene.world.redis(&["SET", "replicated", "1"]);
    let reached: usize = scene.world.redis(&["WAIT", "1", "10000"]);
    assert_eq!(reached, 1, "the replica lags");
    let _: usize = scene.world.redis(&["DEL", "replicated"]);
    let replica = scene.replica.as_ref().unwrap();
    let link = replica.ask(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    assert!(link.starts_with("+OK"), "{link}");
}

/// Its clock is set an hour ahead.
pub fn clock_an_hour_ahead() -> Fault {
    Fault {
        said: Said::OnceAtMost,
        clock: true,
        ..Fault::new("clock an hour ahead", |scene| {
            scene.clock.as_ref().unwrap().set(3600);
        })
    }
}

/// Marks that Redis keeps for a day are gone.
pub fn clock_a_day_ahead() -> Fault {
    Fault {
        clock: true,
        ..Fault::new("clock a day ahead", |scene| {
            scene.clock.as_ref().unwrap().set(25 * 3600);
        })
    }
}

/// Its clock is set back by an hour.
pub fn clock_an_hour_back() -> Fault {
    Fault {
        said: Said::OnceAtMost,
        clock: true,
        ..Fault::new("clock an hour back", |scene| {
            scene.clock.as_ref().unwrap().set(-3600);
        })
    }
}

/// It starts anew, and its clock is set back by three hours while nobody pulls: not all have written down again
/// what they hold. There have to be several daemons.
pub fn clock_set_back_while_all_settle() -> Fault {
    Fault {
        clock: true,
        ..Fault::new("clock set back while all settle", |scene| {
            scene.world.kill_redis();
            scene.world.sandbox.redis.restart().unwrap();
            scene.wait_answering();
            eventually(
                SOON,
                || scene.world.redis::<usize>(&["EXISTS", "fal:settling"]),
                |there| *there == 1,
            );
            scene.clock.as_ref().unwrap().set(-3 * 3600);
        })
    }
}

/// `FLUSHALL`.
pub fn emptied() -> Fault {
    Fault {
        said: Said::Nothing,
        forgets: true,
        ..Fault::new("emptied", |scene| scene.ok(&["FLUSHALL"]))
    }
}

/// `LOADING`: a restart with a data set that takes seconds to load.
pub fn loading() -> Fault {
    Fault {
        server: &[
            "--key-load-delay",
            "500",
            "--loading-process-events-interval-bytes",
            "1024",
        ],
        ..Fault::new("loading", |scene| {
            let padding: Vec<String> = (0..3000).map(|n| format!("padding:{n}")).collect();
            let mut words = vec![
                "EVAL",
                "for i = 1, #KEYS do redis.call('SET', KEYS[i], i) end",
                "3000",
            ];
            words.extend(padding.iter().map(String::as_str));
            scene.ok(&words);
            scene.world.kill_redis();
        })
        .lasting(1, |scene| scene.world.sandbox.redis.restart().unwrap())
    }
}

/// The password is changed while the daemon runs, and changed back.
pub fn wrong_password() -> Fault {
    Fault::new("wrong password", |scene| {
        scene.ok(&["CONFIG", "SET", "requirepass", "another"]);
        scene.kill_connections();
    })
    .lasting(1500, |scene| {
        scene.ok(&["CONFIG", "SET", "requirepass", ""]);
    })
}

/// Nothing flows any more, on old and new connections alike; then all of it arrives.
pub fn black_hole() -> Fault {
    Fault {
        proxied: true,
        ..Fault::new("black hole", |scene| {
            let proxy = scene.proxy.as_ref().unwrap();
            proxy.stall(Flow::Requests);
            proxy.stall(Flow::Answers);
        })
        .lasting(6500, |scene| scene.proxy.as_ref().unwrap().flow())
    }
}

/// Redis 6 has no switch for `DEBUG`, which is always allowed there, and looks up often enough while it loads.
fn known_to_the_server(arguments: &[&str]) -> Vec<String> {
    static OLD: OnceLock<bool> = OnceLock::new();
    let old = *OLD.get_or_init(|| {
        let about = Command::new(RedisOptions::default().program)
            .arg("--version")
            .output();
        about.is_ok_and(|about| String::from_utf8_lossy(&about.stdout).contains(" v=6."))
    });
    let new = [
        "--enable-debug-command",
        "--loading-process-events-interval-bytes",
    ];
    let pairs = arguments
        .chunks(2)
        .filter(|pair| !old || !new.contains(&pair[0]));
    pairs.flatten().map(|&word| word.to_owned()).collect()
}

/// A second server that has all of the first one's data.
fn follower(world: &World) -> RedisChild {
    let port = world.sandbox.redis.port().to_string();
    let extra = [
        "--replicaof",
        "127.0.0.1",
        &port,
        "--repl-diskless-sync-delay",
        "0",
    ];
    let replica = RedisChild::start(RedisOptions {
        extra: extra.iter().map(|&word| word.into()).collect(),
        ..RedisOptions::default()
    })
    .unwrap_or_else(|error| panic!("{error}"));
    eventually(
        SOON,
        || replica.ask(&["INFO", "replication"]).unwrap_or_default(),
        |about| about.contains("master_link_status:up"),
    );
    replica
}

/// A wall clock that can be set, for one server.
struct Clock {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Clock {
    fn new() -> Clock {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jump");
        std::fs::write(&path, 0i64.to_ne_bytes()).unwrap();
        Clock {
            _folder: folder,
            path,
        }
    }

    fn set(&self, seconds: i64) {
        let file = std::fs::File::options().write(true).open(&self.path);
        file.unwrap()
            .write_all_at(&seconds.to_ne_bytes(), 0)
            .unwrap();
    }

    fn variables(&self) -> Vec<(String, String)> {
        let library = clock_library().display().to_string();
        let path = self.path.display().to_string();
        vec![
            ("LD_PRELOAD".into(), library),
            ("CLOCK_JUMP_FILE".into(), path),
        ]
    }
}

/// Compiled once a run, with the C compiler that Rust links with.
fn clock_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (made, library) = (
            folder.join(format!("clock-{}.so", std::process::id())),
            folder.join("clock.so"),
        );
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/clock.c");
        let done = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .arg(&made)
            .arg(source)
            .status();
        assert!(done.is_ok_and(|status| status.success()), "cc {source}");
        std::fs::rename(&made, &library).unwrap();
        library
    })
}

/// Values of `after_s` in the lines `redis back`.
pub fn after_s(daemon: &Daemon) -> Vec<f64> {
    let log = daemon.log_text();
    let values = log.split("redis back after_s=").skip(1);
    values
        .map(|rest| rest.split_whitespace().next().unwrap().parse().unwrap())
        .collect()
}
