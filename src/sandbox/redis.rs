//! A private redis-server as a child process.
//!
//! Tests and the load test need a Redis that they may kill, freeze and restart; nobody's real one will
//! do. It keeps its append-only file in a folder of its own, so a restart finds what was written.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::{SandboxError, is_interrupted};

const SETPRIV: &str = "/usr/bin/setpriv";
/// Names another server program for the tests: an older or newer Redis, Valkey (`tests/servers`).
const SERVER_VARIABLE: &str = "FAL_WORKER_TEST_REDIS_SERVER";

/// How the child is started.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// The program; `redis-server` is looked up in `PATH`. By default what `FAL_WORKER_TEST_REDIS_SERVER`
    /// names, if it is set.
    pub program: String,
    /// Listen on a socket file in the private folder instead of a port.
    pub unix_socket: bool,
    /// Keep an append-only file (`appendfsync everysec`); without it a restart is empty.
    pub append_only: bool,
    /// Further arguments, e.g. `["--maxmemory", "10mb"]`.
    pub extra: Vec<String>,
    /// Further variables of its environment.
    pub variables: Vec<(String, String)>,
    /// How long it may take to answer PING.
    pub ready_within: Duration,
}

impl Default for RedisOptions {
    fn default() -> RedisOptions {
        RedisOptions {
            program: std::env::var(SERVER_VARIABLE)
                .ok()
                .filter(|program| !program.is_empty())
                .unwrap_or_else(|| "redis-server".into()),
            unix_socket: false,
            append_only: true,
            extra: Vec::new(),
            variables: Vec::new(),
            ready_within: Duration::from_secs(10),
        }
    }
}

/// A running (or killed) redis-server. Dropping it kills the process and removes the folder.
#[derive(Debug)]
pub struct RedisChild {
    options: RedisOptions,
    folder: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
    /// Dropping it ends the thread that spawned the child, see [`spawn_from_own_thread`].
    nurse: Option<mpsc::Sender<()>>,
}

impl RedisChild {
    /// Starts it and waits until it answers.
    pub fn start(options: RedisOptions) -> Result<RedisChild, SandboxError> {
        let folder = tempfile::Builder::new()
            .prefix("fal-worker-redis-")
            .tempdir()
            .map_err(SandboxError::Folder)?;
        let mut redis = RedisChild {
            options,
            folder,
            port: 0,
            child: None,
            nurse: None,
        };
        // The port is free when it is chosen and may be taken when Redis binds it: a clash ends the child.
        let mut attempts = 5;
        loop {
            if !redis.options.unix_socket {
                redis.port = free_port().map_err(SandboxError::Listen)?;
            }
            match redis.spawn() {
                Err(SandboxError::RedisEnded(_)) if attempts > 1 => attempts -= 1,
                other => return other.map(|()| redis),
            }
        }
    }

    /// The URL for a client: `redis://127.0.0.1:PORT` or `unix:///…/redis.sock`.
    pub fn url(&self) -> String {
        if self.options.unix_socket {
            format!("unix://{}", self.socket().display())
        } else {
            format!("redis://127.0.0.1:{}", self.port)
        }
    }

    /// The port; 0 with a socket file.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the append-only file.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process, unless it was killed.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGKILL, as a power cut; written data stays in the folder.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.nurse = None;
    }

    /// Starts it again on the same port and folder; kills it before if it runs.
    pub fn restart(&mut self) -> Result<(), SandboxError> {
        self.kill();
        let until = Instant::now() + self.options.ready_within;
        loop {
            // The port may still be in use for a moment after the kill.
            match self.spawn() {
                Err(SandboxError::RedisEnded(_)) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }

    /// SIGSTOP: the port still accepts, nothing answers.
    pub fn pause(&self) -> Result<(), SandboxError> {
        self.signal("-STOP")
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<(), SandboxError> {
        self.signal("-CONT")
    }

    /// Sends one command (its words) and gives back the raw answer up to 64 KiB: enough for PING, INFO, DBSIZE
    /// and CONFIG without a client library.
    pub fn ask(&self, words: &[&str]) -> io::Result<String> {
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        let limit = Some(Duration::from_secs(2));
        if self.options.unix_socket {
            let stream = UnixStream::connect(self.socket())?;
            stream.set_read_timeout(limit)?;
            converse(stream, &text)
        } else {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_read_timeout(limit)?;
            converse(stream, &text)
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    fn signal(&self, signal: &str) -> Result<(), SandboxError> {
        let pid = self
            .pid()
            .ok_or_else(|| SandboxError::RedisEnded("it was killed before".into()))?;
        let status = Command::new("kill")
            .arg(signal)
            .arg(pid.to_string())
            .status()
            .map_err(SandboxError::Signal)?;
        if status.success() {
            Ok(())
        } else {
            Err(SandboxError::Signal(io::Error::other("kill failed")))
        }
    }

    fn spawn(&mut self) -> Result<(), SandboxError> {
        let log = self.folder.path().join("redis.log");
        let out = std::fs::File::create(&log).map_err(SandboxError::Folder)?;
        let errors = out.try_clone().map_err(SandboxError::Folder)?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(out).stderr(errors);
        let (mut child, nurse) =
            spawn_from_own_thread(command).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => SandboxError::NoRedis,
                _ => SandboxError::Spawn(error),
            })?;
        let until = Instant::now() + self.options.ready_within;
        loop {
            if self
                .ask(&["PING"])
                .is_ok_and(|answer| answer.starts_with("+PONG"))
                && self.is_ours(&child)
            {
                self.child = Some(child);
                self.nurse = Some(nurse);
                return Ok(());
            }
            if let Ok(Some(status)) = child.try_wait() {
                // setpriv says 127 for a program it cannot find.
                if status.code() == Some(127) {
                    return Err(SandboxError::NoRedis);
                }
                return Err(SandboxError::RedisEnded(last_lines(&log)));
            }
            let interrupted = is_interrupted();
            if interrupted || Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                return Err(match interrupted {
                    true => SandboxError::Interrupted,
                    false => SandboxError::RedisSilent(self.options.ready_within),
                });
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Whether the answer came from our child and not from another server that took the port first.
    fn is_ours(&self, child: &Child) -> bool {
        self.ask(&["INFO", "server"])
            .is_ok_and(|info| info.contains(&format!("process_id:{}\r", child.id())))
    }

    /// With setpriv the child dies with us, even when we are killed with SIGKILL and no `Drop` runs.
    fn command(&self) -> Command {
        let mut command = if Path::new(SETPRIV).exists() {
            let mut command = Command::new(SETPRIV);
            command.args(["--pdeathsig", "KILL", &self.options.program]);
            command
        } else {
            Command::new(&self.options.program)
        };
        command.args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--daemonize",
            "no",
            "--appendfsync",
            "everysec",
        ]);
        command.args([
            "--appendonly",
            if self.options.append_only {
                "yes"
            } else {
                "no"
            },
        ]);
        command.arg("--dir").arg(self.folder.path());
        if self.options.unix_socket {
            command
                .args(["--port", "0"])
                .arg("--unixsocket")
                .arg(self.socket());
        } else {
            command.args(["--port", &self.port.to_string()]);
        }
        command.args(&self.options.extra);
        command.envs(
            self.options
                .variables
                .iter()
                .map(|(name, value)| (name, value)),
        );
        command
    }
}

impl Drop for RedisChild {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The death signal that setpriv asks for comes when the *thread* that spawned the child ends, not the
/// process. So a thread of its own spawns and then waits until the sender is dropped; else a Redis started
/// in a helper thread would die with that thread.
pub fn spawn_from_own_thread(mut command: Command) -> io::Result<(Child, mpsc::Sender<()>)> {
    let (nurse, until) = mpsc::channel::<()>();
    let (born, child) = mpsc::channel();
    std::thread::Builder::new()
        .name("nurse".into())
        .spawn(move || {
            if born.send(command.spawn()).is_ok() {
                let _ = until.recv();
            }
        })?;
    let child = child
        .recv()
        .map_err(|_| io::Error::other("the spawning thread ended"))??;
    Ok((child, nurse))
}

/// One that no other of this process ever had: a daemon whose Redis is away asks at its port again and again,
/// and would take the jobs of whoever got that port meanwhile.
fn free_port() -> io::Result<u16> {
    static HAD: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut had = HAD.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        if had.insert(port) {
            return Ok(port);
        }
    }
}

fn converse(mut stream: impl Read + Write, text: &str) -> io::Result<String> {
    stream.write_all(text.as_bytes())?;
    let mut bytes = Vec::new();
    let mut piece = [0u8; 4096];
    loop {
        let got = stream.read(&mut piece)?;
        bytes.extend_from_slice(&piece[..got]);
        if got == 0 || bytes.len() > 64 << 10 || is_whole(&bytes) {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

/// Whether a simple or bulk answer is complete; arrays count as complete with their first piece.
fn is_whole(bytes: &[u8]) -> bool {
    if bytes.first() != Some(&b'$') {
        return bytes.ends_with(b"\r\n");
    }
    let text = String::from_utf8_lossy(bytes);
    let Some((head, rest)) = text[1..].split_once("\r\n") else {
        return false;
    };
    head.parse::<usize>()
        .map_or(true, |length| rest.len() >= length + 2)
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> RedisChild {
        RedisChild::start(RedisOptions::default()).expect("redis-server is installed")
    }

    #[test]
    fn what_was_written_survives_a_kill_and_a_restart_on_the_same_port() {
        let mut redis = start();
        let (port, pid) = (redis.port(), redis.pid());
        assert_eq!(redis.ask(&["SET", "k", "v"]).expect("answers"), "+OK\r\n");
        redis.kill();
        assert!(redis.ask(&["PING"]).is_err() && redis.pid().is_none());
        redis.restart().expect("restarts");
        assert_eq!(redis.ask(&["GET", "k"]).expect("answers"), "$1\r\nv\r\n");
        assert!(redis.port() == port && redis.pid() != pid);
    }

    #[test]
    fn a_paused_server_accepts_and_says_nothing_until_it_is_resumed() {
        let redis = start();
        redis.pause().expect("stops");
        let refused = redis.ask(&["PING"]).expect_err("silence");
        assert!(
            matches!(
                refused.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ),
            "{refused}"
        );
        redis.resume().expect("goes on");
        assert_eq!(redis.ask(&["PING"]).expect("answers"), "+PONG\r\n");
    }

    #[test]
    fn a_socket_file_works_and_dropping_ends_the_process() {
        let options = RedisOptions {
            unix_socket: true,
            append_only: false,
            ..RedisOptions::default()
        };
        let redis = RedisChild::start(options).expect("starts");
        assert!(redis.url().starts_with("unix:///") && redis.port() == 0);
        assert_eq!(redis.ask(&["PING"]).expect("answers"), "+PONG\r\n");
        let (pid, folder) = (redis.pid().expect("runs"), redis.folder().to_owned());
        drop(redis);
        assert!(!Path::new(&format!("/proc/{pid}")).exists() && !folder.exists());
    }

    #[test]
    fn a_server_started_in_a_thread_outlives_that_thread() {
        let redis = std::thread::spawn(start).join().expect("starts");
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(redis.ask(&["PING"]).expect("answers"), "+PONG\r\n");
    }

    #[test]
    fn a_missing_program_tells_how_to_install_it() {
        let options = RedisOptions {
            program: "redis-server-of-nobody".into(),
            ..RedisOptions::default()
        };
        let error = RedisChild::start(options).expect_err("not there");
        assert!(
            error
                .to_string()
                .contains("sudo apt-get install -y redis-server"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_argument_shows_what_redis_said() {
        let options = RedisOptions {
            extra: vec!["--no-such-thing".into(), "1".into()],
            ..RedisOptions::default()
        };
        let error = RedisChild::start(options).expect_err("refused").to_string();
        assert!(
            error.contains("no-such-thing") || error.contains("directive"),
            "{error}"
        );
    }
}
