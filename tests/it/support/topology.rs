//! More than one Redis: a master with replicas under sentinels, and the masters of a cluster. Real servers,
//! on loopback, that die with the test.

use super::load::AT_ONCE;
use super::{SOON, World, eventually, job};
use fal_worker::sandbox::fal::Script;
use fal_worker::sandbox::redis::{RedisChild, RedisOptions};
use redis::{Connection, FromRedisValue};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The name that sentinels know the master under.
pub const MASTER: &str = "main";

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// One command for one server.
pub fn ask<T: FromRedisValue>(port: u16, words: &[&str]) -> redis::RedisResult<T> {
    redis::cmd(words[0])
        .arg(&words[1..])
        .query(&mut connection(port)?)
}

fn connection(port: u16) -> redis::RedisResult<Connection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    let con = client.get_connection_with_timeout(SOON)?;
    con.set_read_timeout(Some(SOON))?;
    Ok(con)
}

/// A new job is taken and ended at once; of a model whose times nobody has learnt yet.
pub fn works_at_once_on_another_model(world: &mut World) {
    let quick = Script::default().taking(Duration::from_millis(20));
    world.sandbox.fal.model("fal-ai/quick", quick);
    world.push(job("after").model("fal-ai/quick").json());
    eventually(AT_ONCE, || world.state("after"), |state| state == "done");
}

/// A server process of the tests' own; killed when it is dropped, or when the test is.
struct Sentinel(Child);

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A master with two replicas. The master is at first the Redis of the world.
pub struct Sentinels {
    pub ports: Vec<u16>,
    replicas: Vec<RedisChild>,
    running: Vec<Sentinel>,
    folder: tempfile::TempDir,
    first: u16,
}

/// How servers of this file are started: a replica is served at once, not after five seconds.
pub fn options(extra: &[&str]) -> RedisOptions {
    let quick = ["--repl-diskless-sync-delay", "0"];
    RedisOptions {
        extra: quick.iter().chain(extra).map(|s| (*s).to_owned()).collect(),
        ..RedisOptions::default()
    }
}

impl Sentinels {
    /// Starts the replicas, not yet the sentinels; the world's Redis must have been started with [`options`].
    pub fn of(world: &World) -> Sentinels {
        let first = world.sandbox.redis.port();
        let replica = || {
            let master = first.to_string();
            RedisChild::start(options(&["--replicaof", "127.0.0.1", &master])).unwrap()
        };
        let sentinels = Sentinels {
            ports: (0..3).map(|_| free_port()).collect(),
            replicas: vec![replica(), replica()],
            running: Vec::new(),
            folder: tempfile::tempdir().unwrap(),
            first,
        };
        eventually(
            SOON,
            || ask::<u32>(first, &["WAIT", "2", "1000"]).unwrap_or(0),
            |have| *have == 2,
        );
        sentinels
    }

    /// The URL for a daemon, with the first port first.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = (self.ports.iter())
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        format!("redis-sentinel://{}/{MASTER}/0", hosts.join(","))
    }

    /// Starts three sentinels and waits until they know the replicas and one another.
    pub fn start(&mut self) {
        for port in self.ports.clone() {
            let file = self.folder.path().join(format!("sentinel-{port}.conf"));
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir {folder}\nlogfile {folder}/sentinel-{port}.log\n\
                 sentinel monitor {MASTER} 127.0.0.1 {first} 2\n\
                 sentinel down-after-milliseconds {MASTER} 2000\n\
                 sentinel failover-timeout {MASTER} 6000\n\
                 sentinel parallel-syncs {MASTER} 2\n",
                folder = self.folder.path().display(),
                first = self.first,
            );
            fs::write(&file, text).unwrap();
            self.running.push(Sentinel(spawn_sentinel(&file)));
        }
        for port in self.ports.clone() {
            let knows = |words: &[&str]| {
                let found: redis::RedisResult<Vec<Vec<String>>> = ask(port, words);
                found.map_or(0, |all| all.len())
            };
            let both = || {
                (
                    knows(&["SENTINEL", "SENTINELS", MASTER]),
                    knows(&["SENTINEL", "REPLICAS", MASTER]),
                )
            };
            eventually(SOON, both, |both| *both == (2, 2));
        }
    }

    /// The port that sentinels name now.
    pub fn master(&self) -> u16 {
        let named = |port: &u16| {
            let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER];
            ask::<(String, u16)>(*port, &words).ok()
        };
        self.ports
            .iter()
            .find_map(named)
            .map_or(0, |(_, port)| port)
    }

    /// Waits until another one than `old` is the master and takes writes; the world looks there then.
    pub fn follow(&self, world: &mut World, old: u16) -> u16 {
        let port = eventually(SOON, || self.master(), |port| *port != old && *port != 0);
        let role =
            || ask::<redis::Value>(port, &["ROLE"]).map_or(String::new(), |r| format!("{r:?}"));
        eventually(SOON, role, |role| role.contains("master"));
        world.look_at(&format!("redis://127.0.0.1:{port}"));
        port
    }

    /// From now on servers and sentinels each want a password.
    pub fn lock(&self, servers: &str, sentinels: &str) {
        for port in &self.ports {
            let words = ["SENTINEL", "SET", MASTER, "auth-pass", servers];
            let _: String = ask(*port, &words).unwrap();
            let password = format!(">{sentinels}");
            let words = ["ACL", "SETUSER", "default", "resetpass", &password];
            let _: String = ask(*port, &words).unwrap();
        }
        let replicas = self.replicas.iter().map(RedisChild::port);
        for port in replicas.chain([self.first]) {
            let words = [
                "CONFIG",
                "SET",
                "masterauth",
                servers,
                "requirepass",
                servers,
            ];
            let _: String = ask(port, &words).unwrap();
        }
    }

    /// From now on no replica gets anything from this master, which goes on serving.
    pub fn cut_replication(&self, port: u16) {
        for replica in &self.replicas {
            let words = ["CONFIG", "SET", "masteruser", "nobody", "masterauth", "x"];
            let _: String = ask(replica.port(), &words).unwrap();
        }
        let _: u64 = ask(port, &["CLIENT", "KILL", "TYPE", "replica"]).unwrap();
        let connected = || ask::<String>(port, &["INFO", "replication"]).unwrap_or_default();
        eventually(SOON, connected, |info| info.contains("connected_slaves:0"));
    }

    /// Whoever listens on this port is killed by SIGKILL.
    pub fn kill(&mut self, world: &mut World, port: u16) {
        let replica = self.replicas.iter_mut().find(|one| one.port() == port);
        replica.unwrap_or(&mut world.sandbox.redis).kill();
    }

    /// Starts the killed one again, and waits until it is a replica that has everything.
    pub fn revive(&mut self, world: &mut World, port: u16) {
        let replica = self.replicas.iter_mut().find(|one| one.port() == port);
        replica
            .unwrap_or(&mut world.sandbox.redis)
            .restart()
            .unwrap();
        let about = |port| ask::<String>(port, &["INFO", "replication"]).unwrap_or_default();
        eventually(
            SOON,
            // On a busy machine sentinels may have changed their minds meanwhile.
            || about(self.master()),
            |info| info.matches("state=online").count() == 2,
        );
    }
}

fn spawn_sentinel(file: &Path) -> Child {
    let program = RedisOptions::default().program;
    let setpriv = Path::new("/usr/bin/setpriv");
    let mut command = if setpriv.exists() {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL", &program]);
        command
    } else {
        Command::new(program)
    };
    command
        .arg(file)
        .arg("--sentinel")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Three masters that share the slots.
pub struct Cluster {
    pub nodes: Vec<RedisChild>,
}

impl Cluster {
    /// Starts them and lets redis-cli make a cluster of them.
    pub fn start() -> Cluster {
        let start = || {
            // The bus would be at port + 10000, which the system may not have.
            let bus = free_port();
            let node = RedisChild::start(options(&[
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "2000",
                "--cluster-port",
                &bus.to_string(),
            ]))
            .unwrap();
            let name = format!("127.0.0.1:{}@{bus}", node.port());
            (node, name)
        };
        let (nodes, names): (Vec<_>, Vec<_>) = (0..3).map(|_| start()).unzip();
        let made = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&names)
            .arg("--cluster-yes")
            .output()
            .expect("redis-cli is installed");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stdout)
        );
        let cluster = Cluster { nodes };
        cluster.wait_ok();
        cluster
    }

    /// Waits until every node says that all slots are served.
    pub fn wait_ok(&self) {
        for node in &self.nodes {
            let state = || ask::<String>(node.port(), &["CLUSTER", "INFO"]).unwrap_or_default();
            eventually(SOON, state, |state| state.contains("cluster_state:ok"));
        }
    }

    /// The URL for a daemon: the first two nodes.
    pub fn url(&self) -> String {
        let ports: Vec<u16> = self.nodes.iter().map(RedisChild::port).collect();
        format!(
            "redis-cluster://127.0.0.1:{},127.0.0.1:{}",
            ports[0], ports[1]
        )
    }

    /// The slot of a key.
    pub fn slot(&self, key: &str) -> u16 {
        ask(self.nodes[0].port(), &["CLUSTER", "KEYSLOT", key]).unwrap()
    }

    /// Which node serves the slot of a key.
    pub fn owner(&self, key: &str) -> usize {
        let serves = |node: &RedisChild| ask::<u64>(node.port(), &["EXISTS", key]).is_ok();
        let found = self.nodes.iter().position(serves);
        found.expect("somebody serves it")
    }

    /// The URL of one node, for the test itself.
    pub fn node_url(&self, node: usize) -> String {
        format!("redis://127.0.0.1:{}", self.nodes[node].port())
    }

    fn id(&self, node: usize) -> String {
        ask(self.nodes[node].port(), &["CLUSTER", "MYID"]).unwrap()
    }

    /// Announces that a slot moves.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let words = ["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.id(from)];
        let _: String = ask(self.nodes[to].port(), &words).unwrap();
        let words = ["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.id(to)];
        let _: String = ask(self.nodes[from].port(), &words).unwrap();
    }

    /// Moves up to so many keys; how many there were.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize, most: usize) -> usize {
        let port = self.nodes[from].port();
        let slot = slot.to_string();
        let words = ["CLUSTER", "GETKEYSINSLOT", &slot, &most.to_string()];
        let keys: Vec<String> = ask(port, &words).unwrap();
        if !keys.is_empty() {
            let target = self.nodes[to].port().to_string();
            let mut words = vec!["MIGRATE", "127.0.0.1", &target, "", "0", "5000", "KEYS"];
            words.extend(keys.iter().map(String::as_str));
            let _: String = ask(port, &words).unwrap();
        }
        keys.len()
    }

    /// Says to all, the new owner first, that the slot has moved.
    pub fn end_move(&self, slot: u16, to: usize) {
        let (slot, id) = (slot.to_string(), self.id(to));
        let words = ["CLUSTER", "SETSLOT", &slot, "NODE", &id];
        let first = std::iter::once(&self.nodes[to]);
        for node in first.chain(&self.nodes) {
            let _: String = ask(node.port(), &words).unwrap();
        }
    }
}
