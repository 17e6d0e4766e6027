//! The real worker as a child process, pointed at the stand-ins, and what the kernel says about it: what
//! `demo`, `loadtest` and the benches start and measure.

use super::Sandbox;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Of util-linux: gives a child a signal when its parent dies.
const SETPRIV: &str = "/usr/bin/setpriv";
/// Linux counts a process's time in hundredths of a second, whatever the kernel's own tick is.
const TICK: Duration = Duration::from_millis(10);

/// How the worker is to be started.
#[derive(Debug)]
pub struct WorkerCommand {
    command: Command,
}

impl WorkerCommand {
    /// `program run` for these stand-ins, without `--listen`, a state folder or a log; all else as by
    /// default. Whatever ends us, the worker does not outlive it.
    pub fn new(program: &Path, sandbox: &Sandbox) -> WorkerCommand {
        let mut command = if Path::new(SETPRIV).exists() {
            let mut command = Command::new(SETPRIV);
            command.args(["--pdeathsig", "TERM"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .args(["run", "--listen", "off"])
            .args(["--redis-url", &sandbox.redis.url()])
            .args(["--fal-url", &sandbox.fal.queue_url()])
            .args(["--fal-run-url", &sandbox.fal.run_url()])
            .args(["--fal-storage-url", &sandbox.fal.storage_url()])
            .args(["--telegram-url", &sandbox.telegram.url()])
            .args(["--file-host", &sandbox.fal.file_host()])
            .env_clear()
            .env("FAL_KEY", sandbox.fal.key())
            .env("TELEGRAM_BOT_TOKEN", sandbox.telegram.token())
            .env("FAL_WORKER_STATE_DIR", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        WorkerCommand { command }
    }

    /// More flags of `run`.
    pub fn flags<S: AsRef<std::ffi::OsStr>>(mut self, flags: impl IntoIterator<Item = S>) -> Self {
        self.command.args(flags);
        self
    }

    /// A variable of its environment.
    pub fn variable(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// The folder of its step file.
    pub fn state(self, folder: &Path) -> Self {
        self.variable("FAL_WORKER_STATE_DIR", folder)
    }

    /// Where its log goes.
    pub fn log(mut self, log: impl Into<Stdio>) -> Self {
        self.command.stderr(log);
        self
    }

    /// Starts it.
    pub fn start(mut self) -> io::Result<WorkerChild> {
        self.command.spawn().map(WorkerChild)
    }
}

/// The running worker; killed when dropped.
#[derive(Debug)]
pub struct WorkerChild(Child);

impl WorkerChild {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it runs still.
    pub fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// What it has used so far.
    pub fn usage(&self) -> io::Result<Usage> {
        Usage::of(self.0.id())
    }

    /// SIGTERM, and SIGKILL where that takes more than twelve seconds.
    pub fn stop(&mut self) {
        let pid = self.0.id().to_string();
        let asked = Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .is_ok_and(|status| status.success());
        let deadline = Instant::now() + Duration::from_secs(12);
        while asked && self.is_running() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for WorkerChild {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a process has used, as `/proc` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all its threads, those that ended too; exact to a hundredth of a second.
    pub cpu: Duration,
    /// Resident memory now, KiB.
    pub resident_kib: u64,
    /// The most it has been, KiB.
    pub peak_kib: u64,
    /// Threads now.
    pub threads: u64,
    /// How often a thread of those that live waited for something: each is a wake-up later.
    pub waits: u64,
}

impl Usage {
    /// Of a process that exists.
    pub fn of(pid: u32) -> io::Result<Usage> {
        let broken = || io::Error::other("/proc says something new");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in brackets may hold blanks; after it the state is field 3.
        let fields = stat.rsplit_once(')').ok_or_else(broken)?.1;
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u32>().ok();
        let cpu = ticks().zip(ticks()).map(|(user, system)| user + system);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let mut waits = 0;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = std::fs::read_to_string(task?.path().join("status")).unwrap_or_default();
            waits += number(&status, "voluntary_ctxt_switches:").unwrap_or(0);
        }
        Ok(Usage {
            cpu: TICK * cpu.ok_or_else(broken)?,
            resident_kib: number(&status, "VmRSS:").ok_or_else(broken)?,
            peak_kib: number(&status, "VmHWM:").ok_or_else(broken)?,
            threads: number(&status, "Threads:").ok_or_else(broken)?,
            waits,
        })
    }
}

/// The number behind a name at the beginning of a line.
fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().trim_end_matches(" kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_this_process_has_used() {
        let used = Usage::of(std::process::id()).expect("/proc");
        assert!(used.resident_kib > 500 && used.peak_kib >= used.resident_kib);
        assert!(used.threads >= 1);
        let deadline = Instant::now() + Duration::from_secs(30);
        while Usage::of(std::process::id()).expect("/proc").cpu < used.cpu + TICK {
            assert!(Instant::now() < deadline, "work takes no time");
            std::hint::black_box((0..10_000).sum::<u64>());
        }
    }
}
