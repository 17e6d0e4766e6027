//! Who we are to the machine, and whether the process behind another instance is gone: only then may
//! its jobs be taken before its lease has lapsed.

use crate::recorder;
use crate::store::Process;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// This process as an instance describes itself. What cannot be read stays empty, and an empty field
/// never counts as "the same host".
pub(crate) fn own(name: &str, threads: usize, lease: Duration) -> Process {
    let pid = std::process::id();
    Process {
        name: name.to_owned(),
        boot: recorder::this_boot(),
        pid_namespace: fs::read_link("/proc/self/ns/pid")
            .map(|link| link.to_string_lossy().into_owned())
            .unwrap_or_default(),
        pid,
        started: start_time(pid).unwrap_or(None).unwrap_or(0),
        threads,
        lease,
    }
}

/// Whether `other` ran on this boot of this machine, in this PID namespace, and its process is no more.
/// A process that cannot be looked at counts as alive.
pub(crate) fn is_gone(me: &Process, other: &Process) -> bool {
    let same_place = !me.boot.is_empty()
        && !me.pid_namespace.is_empty()
        && me.boot == other.boot
        && me.pid_namespace == other.pid_namespace;
    if !same_place || other.pid == 0 || other.started == 0 {
        return false;
    }
    match start_time(other.pid) {
        Ok(Some(started)) => started != other.started,
        Ok(None) => true,
        Err(_) => false,
    }
}

/// Start time of a process in clock ticks since boot; `None` when there is no such process.
fn start_time(pid: u32) -> Result<Option<u64>, io::Error> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound && shows_all(Path::new("/proc")) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // The name in parentheses may hold anything; fields count from behind it. 22nd of all, state is 3rd.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let mut fields = behind.split_whitespace();
    let state = fields.next();
    if state == Some("Z") || state == Some("X") {
        return Ok(None); // dead, only not yet reaped
    }
    Ok(fields.nth(18).and_then(|ticks| ticks.parse().ok()))
}

/// Whether processes of other users show here: with `hidepid=2` they look as if they were no more. One that never
/// ends tells.
fn shows_all(proc: &Path) -> bool {
    proc.join("1/stat").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_not_gone() {
        let me = own("a", 1, Duration::from_secs(30));
        assert!(me.started > 0);
        assert!(!is_gone(&me, &me));
    }

    #[test]
    fn where_processes_may_be_hidden_a_missing_one_is_not_known_to_be_gone() {
        assert!(shows_all(Path::new("/proc")));
        assert!(!shows_all(tempfile::tempdir().unwrap().path()));
    }

    #[test]
    fn an_ended_child_is_gone_and_so_is_a_pid_with_another_start_time() {
        let me = own("a", 1, Duration::from_secs(30));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let other = Process {
            pid: child.id(),
            started: 1,
            ..me.clone()
        };
        child.wait().unwrap();
        assert!(is_gone(&me, &other));
        assert!(is_gone(
            &me,
            &Process {
                started: me.started + 1,
                ..me.clone()
            }
        ));
    }

    #[test]
    fn another_host_boot_or_namespace_is_never_judged() {
        let me = own("a", 1, Duration::from_secs(30));
        let gone = Process {
            started: me.started + 1,
            ..me.clone()
        };
        assert!(!is_gone(
            &me,
            &Process {
                boot: "other".into(),
                ..gone.clone()
            }
        ));
        assert!(!is_gone(
            &me,
            &Process {
                pid_namespace: "pid:[1]".into(),
                ..gone.clone()
            }
        ));
        assert!(!is_gone(
            &me,
            &Process {
                started: 0,
                ..gone.clone()
            }
        ));
        assert!(!is_gone(
            &Process {
                boot: String::new(),
                ..me.clone()
            },
            &Process {
                boot: String::new(),
                ..gone
            }
        ));
    }
}
