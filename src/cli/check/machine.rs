//! This machine: memory, open files, folders, certificates, the address that is listened on.

use super::memory::Need;
use super::{Line, Verdict, mb};
use crate::config::Config;
use crate::recorder;
use crate::report;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// What step file and journal may grow to while Redis is away.
const STATE_SPACE: u64 = 64 << 20;
/// `f_type` of a file system in memory.
const TMPFS: u64 = 0x0102_1994;
/// Where distributions keep the bundle of roots.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

pub(super) fn lines(config: &Config) -> Vec<Line> {
    let need = Need::of(config);
    let folder = std::env::temp_dir();
    let in_memory = statfs(&folder).is_some_and(|(_, kind)| kind == TMPFS);
    let mut lines = vec![
        memory(need, limit(), in_memory),
        open_files(need),
        state(config),
        spool(need, &folder, in_memory),
    ];
    lines.extend(roots(config));
    lines.extend(listen(config));
    lines
}

/// Bytes that this process may take, and who says so.
fn limit() -> (u64, &'static str) {
    let total = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = total
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok())
        .map_or(u64::MAX, |kib| kib << 10);
    match cgroup_limit() {
        Some(limit) if limit < total => (limit, "the limit of its cgroup"),
        _ => (total, "the machine's memory"),
    }
}

/// The smallest limit of our group and those around it.
fn cgroup_limit() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mut folder = Path::new("/sys/fs/cgroup").join(own);
    let mut least = None;
    while folder.starts_with("/sys/fs/cgroup") {
        let limit = fs::read_to_string(folder.join("memory.max")).ok();
        let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
        least = [least, limit].into_iter().flatten().min();
        folder.pop();
    }
    least
}

fn memory(need: Need, (limit, whose): (u64, &str), spool_in_memory: bool) -> Line {
    let extra = if spool_in_memory { need.spool } else { 0 };
    let found = format!(
        "about {} with results of the usual size, at worst {} (each thread at fal reads 16 MiB at once){}; \
         {whose} is {}",
        mb(need.usual),
        mb(need.worst + extra),
        if spool_in_memory {
            ", temporary files in memory counted"
        } else {
            ""
        },
        mb(limit),
    );
    Line::new(
        "memory",
        "memory of threads, connections and jobs in flight",
        found,
    )
    .warn_if(
        need.worst + extra > limit,
        "enough unless many results are huge; else fewer --threads or a smaller --max-in-flight",
    )
    .fail_if(
        need.usual > limit,
        "fewer --threads, a smaller --max-in-flight, or a larger machine",
    )
}

fn open_files(need: Need) -> Line {
    let limit = getrlimit(Resource::Nofile).maximum; // a daemon raises its own
    let shown = limit.map_or("without a limit".to_owned(), |limit| limit.to_string());
    let found = format!("{shown}, {} may be needed", need.files);
    Line::new(
        "open-files",
        "open files (LimitNOFILE, ulimit -n) of this process",
        found,
    )
    .fail_if(
        limit.is_some_and(|limit| limit < need.files),
        more_files(need),
    )
}

fn more_files(need: Need) -> String {
    let files = need.files.next_power_of_two();
    format!("LimitNOFILE={files} in the unit, or ulimit -n")
}

/// Allows this process as many open files as it may have, where it may need more than it has, and says if that is
/// still too little.
pub(in crate::cli) fn allow_files(config: &Config) {
    let need = Need::of(config);
    let is_short = |limit: &Rlimit| limit.current.is_some_and(|files| files < need.files);
    let mut limit = getrlimit(Resource::Nofile);
    if is_short(&limit) {
        limit.current = limit.maximum;
        let _ = setrlimit(Resource::Nofile, limit);
    }
    let limit = getrlimit(Resource::Nofile);
    if is_short(&limit) {
        report::warning(
            "fewer files may be open than may be needed",
            &[
                ("limit", &limit.current.unwrap_or_default()),
                ("needed", &need.files),
                ("hint", &more_files(need)),
            ],
        );
    }
}

fn statfs(path: &Path) -> Option<(u64, u64)> {
    let about = rustix::fs::statfs(path).ok()?;
    #[allow(clippy::unnecessary_cast)] // their types differ by machine
    let (block, free, kind) = (
        about.f_bsize as u64,
        about.f_bavail as u64,
        about.f_type as u64,
    );
    Some((block.saturating_mul(free), kind))
}

fn state(config: &Config) -> Line {
    let Some(dir) = &config.state else {
        return Line::new("state-dir", "folder of the step file", "switched off").is(
            Verdict::Warn,
            "without it a crash right after a submit may pay twice: leave --state-dir out, or name a folder",
        );
    };
    let shown = dir.path.display();
    let tried = format!("folder of the step file: {shown}");
    let line = |found: String| Line::new("state-dir", tried.clone(), found);
    let advice = "give another --state-dir, or mend owner and mode (0700); a folder of the user who runs the worker";
    if fs::symlink_metadata(&dir.path).is_err() {
        let above = dir.path.ancestors().find(|above| above.exists());
        let writable = above
            .is_some_and(|above| rustix::fs::access(above, rustix::fs::Access::WRITE_OK).is_ok());
        return line("not there yet; run makes it".to_owned())
            .fail_if(!writable, format!("this user may not make it: {advice}"));
    }
    if let Err(why) = recorder::check(&dir.path, dir.managed) {
        return line(why).is(Verdict::Fail, advice);
    }
    // A file of no name: what it shows is that files can be made and locked there.
    let locks = tempfile::tempfile_in(&dir.path).map(|file| file.try_lock().is_ok());
    let free = statfs(&dir.path).map_or(0, |(free, _)| free);
    match locks {
        Err(error) => line(format!("no file can be made: {}", report::in_words(&error)))
            .is(Verdict::Fail, advice),
        Ok(false) => line("files cannot be locked there".to_owned())
            .is(Verdict::Fail, "put it on a local file system"),
        Ok(true) => line(format!("writable, locks, {} free", mb(free))).warn_if(
            free < STATE_SPACE,
            // A worker that finds none at its start goes without a step file as long as it runs.
            format!("make room: at least {}, then restart", mb(STATE_SPACE)),
        ),
    }
}

fn spool(need: Need, folder: &Path, in_memory: bool) -> Line {
    let tried = format!("temporary files (TMPDIR): {}", folder.display());
    if let Err(error) = tempfile::tempfile() {
        return Line::new(
            "tmpdir",
            tried,
            format!("no file can be made: {}", report::in_words(&error)),
        )
        .is(
            Verdict::Fail,
            "set TMPDIR to a folder that this user may write to",
        );
    }
    let free = statfs(folder).map_or(0, |(free, _)| free);
    let found = format!(
        "writable, {} free, at worst {} are needed{}",
        mb(free),
        mb(need.spool),
        if in_memory { "; it lies in memory" } else { "" }
    );
    Line::new("tmpdir", tried, found).warn_if(
        free < need.spool,
        "make room, set TMPDIR to a larger disk, or take fewer --transfer-threads",
    )
}

/// Only where something goes over TLS.
fn roots(config: &Config) -> Option<Line> {
    let urls = [&config.urls.fal, &config.urls.telegram];
    if !urls.iter().any(|url| url.as_str().starts_with("https://")) {
        return None;
    }
    let advice = "apt-get install ca-certificates, or let SSL_CERT_FILE name a bundle in PEM";
    let count = |path: &Path| {
        let text = fs::read(path).map_err(|error| report::in_words(&error))?;
        let mark = b"-----BEGIN CERTIFICATE-----";
        Ok(text.windows(mark.len()).filter(|part| part == mark).count())
    };
    if let Some(path) = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from) {
        let tried = format!("TLS roots in SSL_CERT_FILE: {}", path.display());
        return Some(match count(&path) {
            Ok(0) => {
                Line::new("tls-roots", tried, "no certificate in it").is(Verdict::Fail, advice)
            }
            Ok(number) => Line::new("tls-roots", tried, format!("{number} certificates")),
            Err::<usize, String>(why) => {
                Line::new("tls-roots", tried, format!("cannot be read: {why}"))
                    .is(Verdict::Fail, "correct SSL_CERT_FILE, or unset it")
            }
        });
    }
    let tried = "TLS roots of this system";
    let found = BUNDLES.iter().find_map(|path| {
        let number = count(Path::new(path)).ok().filter(|number| *number > 0)?;
        Some(format!("{number} certificates in {path}"))
    });
    Some(match found {
        Some(found) => Line::new("tls-roots", tried, found),
        None => Line::new("tls-roots", tried, "no bundle found").is(Verdict::Fail, advice),
    })
}

/// A worker that runs holds it: then nothing can be said.
fn listen(config: &Config) -> Option<Line> {
    let listen = config.listen.as_ref()?;
    let tried = format!("address of the health pages: {}", listen.address);
    Some(match TcpListener::bind(listen.address) {
        Ok(_) => Line::new("listen", tried, "free"),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            Line::new("listen", tried, format!("{error}")).is(
                Verdict::Warn,
                "fine if this very worker runs already; a second one on this machine needs a --listen of its own",
            )
        }
        // Not this machine's, or a port that this user may not have: run ends with it, where it is given.
        Err(error) => Line::new("listen", tried, format!("{error}"))
            .is(Verdict::Warn, "correct --listen, or switch it off")
            .fail_if(listen.given, "correct --listen, or switch it off"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, RunArgs};

    const NEED: Need = Need {
        usual: 60 << 20,
        worst: 400 << 20,
        spool: 200 << 20,
        files: 300,
        redis: 52,
    };

    #[test]
    fn memory_is_judged_by_the_limit() {
        let verdict = |limit: u64, spooled| memory(NEED, (limit << 20, "x"), spooled).verdict;
        assert_eq!(verdict(1000, false), Verdict::Ok);
        assert_eq!(verdict(500, false), Verdict::Ok);
        assert_eq!(
            verdict(500, true),
            Verdict::Warn,
            "the spool lies in memory"
        );
        assert_eq!(verdict(300, false), Verdict::Warn);
        assert_eq!(verdict(50, false), Verdict::Fail);
    }

    #[test]
    fn an_address_that_cannot_be_had_fails_unless_a_worker_has_it() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().unwrap().to_string();
        for (address, verdict) in [
            (&*taken, Verdict::Warn),
            // For documentation alone, so nobody's.
            ("192.0.2.1:9464", Verdict::Fail),
        ] {
            let env = [
                ("FAL_KEY", "id:secret"),
                ("FAL_WORKER_LISTEN_TOKEN", "0123456789abcdef"),
            ];
            let env: Environment = env.into_iter().collect();
            let args = RunArgs::typed([("listen", address)]);
            let config = Config::load(&args, &env).expect("valid");
            assert_eq!(listen(&config).unwrap().verdict, verdict, "{address}");
        }
    }

    #[test]
    fn a_file_that_is_no_bundle_is_told() {
        assert!(limit().0 > 0);
        assert!(statfs(Path::new("/proc")).is_some());
    }
}
