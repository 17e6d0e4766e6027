//! Redis: whether it answers, keeps what it is given, lets us do our work, and holds nothing of others in our
//! place. What it said is asked by the store; what it means is decided here, without a connection.

use super::super::table::visible;
use super::memory::Need;
use super::{Line, PATIENCE, Verdict, mb};
use crate::config::Config;
use crate::store::inspect::{Inspection, inspect};
use crate::store::settings::{evicts, is_too_old};
use crate::store::view::{SILENT, View, WorkerView};
use crate::store::{FORMAT, Fault, tls_refusal};
use std::collections::BTreeMap;
use std::time::Duration;

/// A trip longer than this shows in every job, and one beyond the second in how many there can be.
const SLOW: Duration = Duration::from_millis(5);
const VERY_SLOW: Duration = Duration::from_millis(50);
/// Clocks further apart than this spoil `not_before` and `expires_at`, which producers write by theirs.
const CLOCK_MS: i64 = 5000;
/// Less than this holds few jobs.
const SMALL: u64 = 64 << 20;

pub(super) fn lines(config: &Config) -> Vec<Line> {
    let store = &config.store;
    let (server, place) = (store.redis.server(), store.redis.to_string());
    let found = match inspect(&server, &store.namespace, &store.inbox) {
        Ok(found) => found,
        Err(fault) => return vec![unreachable(&place, &fault)],
    };
    let workers = View::open(&server, &store.namespace, &store.inbox)
        .and_then(|mut view| view.status())
        .map(|status| status.workers);
    judge(config, &found, &workers.unwrap_or_default())
}

fn unreachable(place: &str, fault: &Fault) -> Line {
    let line = Line::new("redis", format!("connect to {place}"), fault.to_string());
    let text = fault.to_string();
    if [
        "WRONGPASS",
        "NOAUTH",
        "AuthenticationFailed",
        "authentication",
        "NOPERM",
    ]
    .iter()
    .any(|word| text.contains(word))
    {
        return line.is(
            Verdict::Fail,
            "correct user and password in REDIS_URL, REDIS_URL_FILE or the credential redis-url",
        );
    }
    if tls_refusal(&text).is_some() {
        return line.is(
            Verdict::Fail,
            "correct the certificates, or the host in --redis-url: no waiting mends it, run ends with 78",
        );
    }
    match fault {
        Fault::Away(_) | Fault::Unable(_) => line.is(
            Verdict::Away,
            format!(
                "nothing usable within {} s: start Redis, or correct --redis-url; run waits for it",
                PATIENCE.as_secs()
            ),
        ),
        Fault::Refused(_) => line.is(Verdict::Fail, "Redis says why"),
    }
}

fn judge(config: &Config, found: &Inspection, workers: &[WorkerView]) -> Vec<Line> {
    let mut lines = vec![
        reached(config, found),
        version(found),
        role(found),
        cluster(config, found),
        policy(found),
        maxmemory(found),
        persistence(found),
        last_write(found),
        clock(found),
        connections(Need::of(config).redis, found, workers.len() as u64),
        rights(found),
        types(found),
        formats(found),
        names(workers),
    ];
    // What could not be asked is told among the rights.
    if found.info.is_empty() {
        lines.retain(|line| {
            matches!(
                line.name,
                "redis"
                    | "redis-clock"
                    | "redis-rights"
                    | "redis-types"
                    | "redis-format"
                    | "workers"
            )
        });
    }
    lines
}

fn reached(config: &Config, found: &Inspection) -> Line {
    let trip = found.round_trip;
    let text = format!(
        "connected in {:.1} ms, a round trip takes {:.2} ms",
        found.connect.as_secs_f64() * 1e3,
        trip.as_secs_f64() * 1e3
    );
    let line = Line::new("redis", format!("connect to {}", config.store.redis), text);
    if found.said("loading") == "1" {
        return line.is(Verdict::Away, "it is loading its data: wait");
    }
    if trip >= VERY_SLOW {
        return line.is(
            Verdict::Warn,
            "far too slow: a job takes 4 to 7 trips, and each holds a thread; put Redis near the workers",
        );
    }
    line.warn_if(
        trip >= SLOW,
        "slow: a job takes 4 to 7 trips; put Redis near the workers, or take more --threads",
    )
}

fn version(found: &Inspection) -> Line {
    let (name, version) = match found.said("valkey_version") {
        "" => ("Redis", found.said("redis_version")),
        version => ("Valkey", version),
    };
    Line::new(
        "redis-version",
        "INFO server: 6.0.16 or newer, or Valkey",
        format!("{name} {version}"),
    )
    .fail_if(
        is_too_old(found.said("redis_version")),
        "install a newer one",
    )
}

fn role(found: &Inspection) -> Line {
    let role = found.said("role");
    let line = Line::new("redis-role", "INFO replication: a master", role);
    line.fail_if(
        role == "slave",
        format!(
            "a replica takes no writes: name its master, {}:{}",
            found.said("master_host"),
            found.said("master_port")
        ),
    )
}

fn cluster(config: &Config, found: &Inspection) -> Line {
    let on = found.said("cluster_enabled") == "1";
    let (namespace, inbox) = (&config.store.namespace, &config.store.inbox);
    let text = match on {
        true => format!("a cluster; namespace {namespace}, inbox {inbox}"),
        false => "no cluster".to_owned(),
    };
    let tag = |key: &str| {
        let (_, rest) = key.split_once('{')?;
        let (tag, _) = rest.split_once('}')?;
        (!tag.is_empty()).then(|| tag.to_owned())
    };
    let one_slot = tag(namespace).is_some() && tag(namespace) == tag(inbox);
    Line::new("redis-cluster", "INFO cluster: all keys in one slot", text).fail_if(
        on && !one_slot,
        "give the namespace braces: --namespace '{fal}', and the inbox the same ones",
    )
}

fn policy(found: &Inspection) -> Line {
    let policy = found.said("maxmemory_policy");
    let line = Line::new(
        "redis-eviction",
        "INFO memory: maxmemory-policy noeviction",
        policy,
    );
    let advice =
        "it throws keys away, and jobs with them: redis-cli CONFIG SET maxmemory-policy noeviction";
    match (evicts(policy), found.number("maxmemory")) {
        (false, _) => line,
        (true, Some(0)) => line.is(
            Verdict::Warn,
            format!("as soon as there is a maxmemory, {advice}"),
        ),
        (true, _) => line.is(Verdict::Fail, advice),
    }
}

fn maxmemory(found: &Inspection) -> Line {
    let used = found.number("used_memory").unwrap_or(0);
    let tried = "INFO memory: a maxmemory with room";
    let Some(most) = found.number("maxmemory").filter(|most| *most > 0) else {
        let text = format!("none; {} in use", mb(used));
        return Line::new("redis-memory", tried, text).is(
            Verdict::Warn,
            "without one the system kills Redis when memory ends: CONFIG SET maxmemory, at most three \
             quarters of what it may have; when it is full new jobs wait, paid ones go on",
        );
    };
    let text = format!("{} of {} in use", mb(used), mb(most));
    Line::new("redis-memory", tried, text)
        .warn_if(
            most < SMALL,
            "small: a waiting job takes about 2 KB and its input",
        )
        .warn_if(
            used > most / 10 * 8,
            "nearly full: raise it, or shorten --keep-done and --keep-dead",
        )
        .fail_if(used >= most, "full: Redis takes no new jobs; raise it")
}

fn persistence(found: &Inspection) -> Line {
    let fsync = found.appendfsync.as_deref().unwrap_or("");
    let text = match found.said("aof_enabled") {
        "1" if fsync.is_empty() => "AOF on, appendfsync may not be asked".to_owned(),
        "1" => format!("AOF on, appendfsync {fsync}"),
        _ => "AOF off".to_owned(),
    };
    let line = Line::new(
        "redis-aof",
        "INFO persistence: AOF, fsync each second",
        text,
    );
    if found.said("aof_enabled") != "1" {
        return line.is(
            Verdict::Warn,
            "a crash of Redis loses jobs and what was paid: redis-cli CONFIG SET appendonly yes, then CONFIG \
             REWRITE; not by a restart, which would begin empty",
        );
    }
    line.warn_if(
        fsync == "no",
        "a power cut may lose half a minute: redis-cli CONFIG SET appendfsync everysec",
    )
}

fn last_write(found: &Inspection) -> Line {
    let states = [
        ("aof_last_write_status", "AOF write"),
        ("aof_last_bgrewrite_status", "AOF rewrite"),
        ("rdb_last_bgsave_status", "snapshot"),
    ];
    let bad: Vec<_> = states
        .iter()
        .filter(|(name, _)| !matches!(found.said(name), "ok" | ""))
        .map(|(_, what)| *what)
        .collect();
    let text = match bad.is_empty() {
        true => "the last ones went well".to_owned(),
        false => format!("failed: {}", bad.join(", ")),
    };
    Line::new("redis-disk", "INFO persistence: last writes to disk", text).fail_if(
        !bad.is_empty(),
        "room, owner and mode of Redis's folder; its log says why. It may refuse writes until it succeeds",
    )
}

fn clock(found: &Inspection) -> Line {
    let ahead = found.clock_ahead_ms;
    let way = if ahead < 0 { "behind" } else { "ahead of" };
    let text = format!("{:.3} s {way} ours", ahead.unsigned_abs() as f64 / 1e3);
    Line::new("redis-clock", "TIME: Redis's clock beside this machine's", text).warn_if(
        ahead.abs() > CLOCK_MS,
        "set both by NTP: all times of jobs are Redis's, while producers write not_before and expires_at by \
         their own",
    )
}

fn connections(need: u64, found: &Inspection, living: u64) -> Line {
    let open = found.number("connected_clients").unwrap_or(0);
    let all = need * living.max(1);
    let text = |most: &str| {
        let workers = living.max(1);
        format!("{most}, {open} in use; {workers} workers as this one need {all}")
    };
    let tried = "INFO clients: maxclients for all workers";
    let Some(most) = found.number("maxclients") else {
        return Line::new("redis-clients", tried, text("not told"));
    };
    Line::new("redis-clients", tried, text(&most.to_string()))
        .warn_if(
            all > most / 10 * 8,
            "little is left for bots and others: raise it",
        )
        .fail_if(
            all > most,
            "raise maxclients (and Redis's own LimitNOFILE), or lower --redis-connections",
        )
}

fn rights(found: &Inspection) -> Line {
    let tried = "the commands of the worker, on a key of the check's own";
    if found.forbidden.is_empty() {
        let line = Line::new("redis-rights", tried, "all are allowed");
        return match &found.no_writes {
            None => line,
            Some(why) => Line::new("redis-rights", tried, why.clone()).is(
                Verdict::Fail,
                "Redis takes no writes now; see the lines about role, memory and disk",
            ),
        };
    }
    let names: Vec<_> = (found.forbidden.iter().map(|(name, _)| name.as_str())).collect();
    let text = match found.forbidden.iter().all(|(_, why)| why.contains("key")) {
        true => "its user may not use these keys".to_owned(),
        false => format!("its user may not call {}", names.join(", ")),
    };
    Line::new("redis-rights", tried, text).is(
        Verdict::Fail,
        "ACL SETUSER: the commands named, and the keys of namespace and inbox (~fal:*)",
    )
}

fn types(found: &Inspection) -> Line {
    let tried = "TYPE of the worker's keys";
    let of = |(key, is, right): &(String, String, &str)| format!("{key} is a {is}, not a {right}");
    let strange: Vec<_> = found.foreign.iter().map(of).collect();
    match strange.is_empty() {
        true => Line::new("redis-types", tried, "as they should be"),
        false => Line::new("redis-types", tried, strange.join("; ")).is(
            Verdict::Fail,
            "another program uses these names: rename its keys, or give this worker a --namespace",
        ),
    }
}

fn formats(found: &Inspection) -> Line {
    let (seen, newer, newest) = found.records;
    let text = match newer {
        0 => format!("{seen} records looked at, none is newer"),
        newer => format!("{newer} of {seen} records have format {newest}"),
    };
    Line::new(
        "redis-format",
        format!("format of the records: {FORMAT} or older"),
        text,
    )
    .warn_if(
        newer > 0,
        "a newer version was here: this one leaves those jobs alone; install the newer one",
    )
}

/// Those of the list whose beats come. The others hang or are dead, which nobody but a living worker finds out.
fn names(workers: &[WorkerView]) -> Line {
    let (silent, living): (Vec<_>, Vec<_>) =
        (workers.iter()).partition(|worker| worker.beat_age >= SILENT);
    let mut by_name = BTreeMap::<&str, usize>::new();
    for worker in &living {
        let name = worker
            .instance
            .rsplit_once('~')
            .map_or("", |(name, _)| name);
        *by_name.entry(name).or_default() += 1;
    }
    let twice: Vec<_> = (by_name.iter().filter(|(_, number)| **number > 1))
        .map(|(name, number)| format!("{number} are called {name}"))
        .collect();
    let mut parts = vec![format!("{} workers live", living.len())];
    parts.extend(twice.iter().cloned());
    parts.extend(silent.iter().map(|worker| {
        let silent = worker.beat_age.as_secs();
        format!("{} is silent for {silent} s", visible(&worker.instance))
    }));
    Line::new("workers", "living workers of this namespace", parts.join(", "))
        .warn_if(
            living.is_empty() && !silent.is_empty(),
            "no job is done: look why (journalctl -u fal-worker), or start one, which goes on with their jobs",
        )
        .warn_if(
            !silent.is_empty(),
            "it hangs, cannot reach Redis, or is dead; then another takes over its jobs after the lease",
        )
        .warn_if(
            !twice.is_empty(),
            "they work, but log and status cannot tell them apart: a --name for each. Was one started twice?",
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, RunArgs};

    fn config(flags: &[(&str, &str)]) -> Config {
        let env: Environment = [("FAL_KEY", "id:secret")].into_iter().collect();
        Config::load(&RunArgs::typed(flags.iter().copied()), &env).expect("valid")
    }

    fn healthy() -> Inspection {
        let info = [
            ("redis_version", "7.0.15"),
            ("role", "master"),
            ("loading", "0"),
            ("cluster_enabled", "0"),
            ("maxmemory_policy", "noeviction"),
            ("maxmemory", "1073741824"),
            ("used_memory", "1000000"),
            ("aof_enabled", "1"),
            ("aof_last_write_status", "ok"),
            ("rdb_last_bgsave_status", "ok"),
            ("maxclients", "10000"),
            ("connected_clients", "5"),
        ];
        Inspection {
            info: info.map(|(name, value)| (name.into(), value.into())).into(),
            appendfsync: Some("everysec".into()),
            ..Inspection::default()
        }
    }

    /// Name of a line, what `INFO` says otherwise, and the verdict.
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], Verdict);

    /// The verdict of one line when these values differ.
    fn with(name: &str, values: &[(&str, &str)]) -> (Verdict, String) {
        let mut found = healthy();
        for (name, value) in values {
            found.info.insert((*name).into(), (*value).into());
        }
        of(name, &config(&[]), &found, &[])
    }

    fn of(
        name: &str,
        config: &Config,
        found: &Inspection,
        workers: &[WorkerView],
    ) -> (Verdict, String) {
        let lines = judge(config, found, workers);
        let line = lines
            .into_iter()
            .find(|line| line.name == name)
            .expect(name);
        assert_eq!(
            line.advice.is_empty(),
            line.verdict == Verdict::Ok,
            "{line:?}"
        );
        (line.verdict, line.found)
    }

    fn worker(instance: &str) -> WorkerView {
        WorkerView {
            instance: instance.into(),
            version: String::new(),
            threads: 4,
            in_flight: 0,
            beat_age: Duration::ZERO,
        }
    }

    #[test]
    fn a_healthy_redis_has_no_line_to_look_at() {
        let lines = judge(&config(&[]), &healthy(), &[worker("a~1"), worker("b~2")]);
        for line in lines {
            assert_eq!(line.verdict, Verdict::Ok, "{line:?}");
        }
    }

    #[test]
    fn each_trouble_has_its_verdict() {
        use Verdict::{Away, Fail, Ok, Warn};
        let rows: &[Row] = &[
            ("redis-version", &[("redis_version", "6.0.15")], Fail),
            ("redis-version", &[("redis_version", "6.0.16")], Ok),
            ("redis-version", &[("redis_version", "8.2.0")], Ok),
            (
                "redis-version",
                &[("valkey_version", "8.1.0"), ("redis_version", "7.2.4")],
                Ok,
            ),
            ("redis-role", &[("role", "slave")], Fail),
            (
                "redis-eviction",
                &[("maxmemory_policy", "allkeys-lru")],
                Fail,
            ),
            (
                "redis-eviction",
                &[("maxmemory_policy", "allkeys-lru"), ("maxmemory", "0")],
                Warn,
            ),
            ("redis-memory", &[("maxmemory", "0")], Warn),
            ("redis-memory", &[("maxmemory", "10000000")], Warn),
            ("redis-memory", &[("used_memory", "1000000000")], Warn),
            ("redis-memory", &[("used_memory", "1073741824")], Fail),
            ("redis-aof", &[("aof_enabled", "0")], Warn),
            ("redis-disk", &[("aof_last_write_status", "err")], Fail),
            ("redis-disk", &[("rdb_last_bgsave_status", "err")], Fail),
            ("redis-clients", &[("maxclients", "60")], Warn),
            ("redis-clients", &[("maxclients", "50")], Fail),
            ("redis-cluster", &[("cluster_enabled", "1")], Fail),
            ("redis", &[("loading", "1")], Away),
        ];
        for (name, values, verdict) in rows {
            assert_eq!(with(name, values).0, *verdict, "{name} {values:?}");
        }
    }

    #[test]
    fn what_run_ends_with_is_no_service_that_may_answer_in_a_moment() {
        for (text, verdict) in [
            ("connection refused", Verdict::Away),
            ("invalid peer certificate: UnknownIssuer", Verdict::Fail),
            ("WRONGPASS invalid username-password pair", Verdict::Fail),
        ] {
            let line = unreachable("rediss://h", &Fault::Away(text.to_owned()));
            assert_eq!(line.verdict, verdict, "{line:?}");
        }
    }

    #[test]
    fn valkey_is_named() {
        let (_, text) = with(
            "redis-version",
            &[("valkey_version", "8.1.0"), ("redis_version", "7.2.4")],
        );
        assert_eq!(text, "Valkey 8.1.0");
    }

    #[test]
    fn braces_make_one_slot_of_a_cluster() {
        let mut found = healthy();
        found.info.insert("cluster_enabled".into(), "1".into());
        let cluster = |flags: &[(&str, &str)]| of("redis-cluster", &config(flags), &found, &[]).0;
        assert_eq!(cluster(&[("namespace", "{fal}")]), Verdict::Ok);
        assert_eq!(
            cluster(&[("namespace", "{fal}"), ("inbox", "inbox")]),
            Verdict::Fail
        );
        assert_eq!(cluster(&[("namespace", "{}")]), Verdict::Fail);
    }

    #[test]
    fn a_worker_that_does_not_beat_is_not_counted_among_the_living() {
        let silent = WorkerView {
            beat_age: Duration::from_secs(52),
            ..worker("a~1")
        };
        let workers = |workers: &[WorkerView]| of("workers", &config(&[]), &healthy(), workers);
        assert_eq!(
            workers(std::slice::from_ref(&silent)),
            (
                Verdict::Warn,
                "0 workers live, a~1 is silent for 52 s".into()
            )
        );
        // The next one of its name is not a second one.
        assert_eq!(
            workers(&[silent, worker("a~2")]),
            (
                Verdict::Warn,
                "1 workers live, a~1 is silent for 52 s".into()
            )
        );
        assert_eq!(workers(&[]), (Verdict::Ok, "0 workers live".into()));
    }

    #[test]
    fn what_is_strange_in_the_store_is_named() {
        let mut found = healthy();
        found.forbidden = vec![("XADD".into(), "NOPERM no permissions to run".into())];
        found.foreign = vec![("fal:later".into(), "list".into(), "zset")];
        found.records = (10, 2, 3);
        found.clock_ahead_ms = -9000;
        found.round_trip = Duration::from_millis(7);
        let of = |name| of(name, &config(&[]), &found, &[worker("a~1"), worker("a~2")]);
        assert_eq!(
            of("redis-rights"),
            (Verdict::Fail, "its user may not call XADD".into())
        );
        assert_eq!(
            of("redis-types"),
            (Verdict::Fail, "fal:later is a list, not a zset".into())
        );
        assert_eq!(
            of("redis-format"),
            (Verdict::Warn, "2 of 10 records have format 3".into())
        );
        assert_eq!(
            of("redis-clock"),
            (Verdict::Warn, "9.000 s behind ours".into())
        );
        assert_eq!(
            of("workers"),
            (Verdict::Warn, "2 workers live, 2 are called a".into())
        );
        assert_eq!(of("redis").0, Verdict::Warn);
    }
}
