//! The page of metrics: what it says is what happened, alerts and dashboard speak of what it says, and whoever
//! asks for it disturbs nobody.

use crate::support::{Daemon, SOON, World, eventually, job};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Every name of contract section 7, without what histograms put behind it.
const NAMES: [&str; 18] = [
    "fal_worker_jobs_total",
    "fal_worker_in_flight",
    "fal_worker_queue_depth",
    "fal_worker_threads_busy",
    "fal_worker_step_seconds",
    "fal_worker_job_seconds",
    "fal_worker_http_requests_total",
    "fal_worker_http_connections_total",
    "fal_worker_polls_total",
    "fal_worker_redis_errors_total",
    "fal_worker_retries_total",
    "fal_worker_repairs_total",
    "fal_worker_takeovers_total",
    "fal_worker_resubmitted_after_unknown_total",
    "fal_worker_resent_after_unknown_total",
    "fal_worker_billable_units_total",
    "fal_worker_oldest_job_seconds",
    "fal_worker_info",
];
/// And of the standard ones.
const STANDARD: [&str; 7] = [
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
];

fn listening(world: &mut World, more: &[&str]) -> (Daemon, String) {
    let flags = [&["--threads", "4", "--listen", "127.0.0.1:0"], more].concat();
    let daemon = world.daemon(&flags);
    let log = daemon.log_text();
    let address = log.split(" listen=").nth(1).unwrap();
    let address = address.split_whitespace().next().unwrap().to_owned();
    (daemon, address)
}

fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {address}\r\nAccept: text/plain\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{head}"
    );
    body.to_owned()
}

/// Value by series, as it is written: `name{label="value"}`.
type Series = BTreeMap<String, f64>;

fn series(text: &str) -> Series {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    lines
        .map(|line| pair(line).unwrap_or_else(|| panic!("not a sample: {line}")))
        .collect()
}

/// The sum of all series of this name.
fn sum(series: &Series, name: &str) -> f64 {
    let named = series
        .iter()
        .filter(|(key, _)| key.split('{').next() == Some(name));
    named.map(|(_, value)| value).sum()
}

fn event(series: &Series, name: &str) -> f64 {
    series[&format!("fal_worker_jobs_total{{event=\"{name}\"}}")]
}

/// Names of families, from their types.
fn families(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let pair = |line: &str| {
        let (name, kind) = line.split_once(' ').unwrap();
        (name.to_owned(), kind.to_owned())
    };
    types.map(pair).collect()
}

// ---- what it says

#[test]
fn under_load_every_name_is_there_and_its_figures_are_those_of_the_stream() {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world, &["--user-rate", "1/4s"]);
    let user = "user-of-the-test";
    let mut entries = Vec::new();
    for n in 0..150 {
        let own = job(&format!("m{n}")).with("user_id", 1000 + n);
        entries.push(own.chat(1000 + n).json());
    }
    for n in 0..10 {
        let refused = job(&format!("r{n}")).with("user_id", 5000 + n);
        entries.push(refused.model("fal-ai/refuses").json());
    }
    // Two of these wait for the rate (were the entries read seconds apart, they need not), one is known already, and
    // one breaks a rule.
    for n in 0..3 {
        entries.push(job(&format!("same{n}")).with("user_id", user).json());
    }
    entries.push(job("m0").json());
    entries.push(r#"{"id":"broken","model":"a/b","input":1}"#.to_owned());
    world.push_all(&entries);

    // Guests ask all the while, one of them without reading what he asked for.
    let stop = AtomicBool::new(false);
    let mut slow = TcpStream::connect(&address).unwrap();
    write!(slow, "GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let (scrapes, seen_in_flight) = std::thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let (mut before, mut scrapes, mut in_flight) = (Series::new(), 0, 0.0_f64);
            while !stop.load(Ordering::Relaxed) {
                let text = scrape(&address);
                let kinds = families(&text);
                let now = series(&text);
                for (name, value) in &before {
                    let family = name.split('{').next().unwrap();
                    if kinds.get(family).is_some_and(|kind| kind == "counter") {
                        assert!(now[name] >= *value, "{name} fell from {value}");
                    }
                }
                in_flight = in_flight.max(now["fal_worker_in_flight"]);
                (before, scrapes) = (now, scrapes + 1);
            }
            (scrapes, in_flight)
        });
        let ends = |world: &mut World| {
            let end = |name: &str| matches!(name, "done" | "failed");
            (world.events().iter()).filter(|e| end(&e["event"])).count()
        };
        let all = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(SOON, || ends(&mut world), |ends| *ends == 164);
        }));
        stop.store(true, Ordering::Relaxed);
        let seen = scraper.join().unwrap();
        all.unwrap();
        seen
    });
    assert!(scrapes > 5, "{scrapes}");
    assert!(seen_in_flight > 4.0, "{seen_in_flight}");

    // The queues are read on the keeper's tick.
    let dead = r#"fal_worker_queue_depth{queue="dead"}"#;
    let text = eventually(
        SOON,
        || scrape(&address),
        |text| {
            let now = series(text);
            now.get(dead) == Some(&11.0) && now["fal_worker_in_flight"] == 0.0
        },
    );
    let kinds = families(&text);
    for name in NAMES.iter().chain(&STANDARD) {
        assert!(kinds.contains_key(*name), "{name} is missing in:\n{text}");
    }
    let now = series(&text);
    let mut written: BTreeMap<String, f64> = BTreeMap::new();
    for event in world.events() {
        *written.entry(event["event"].clone()).or_default() += 1.0;
    }
    for (name, count) in &written {
        assert_eq!(event(&now, name), *count, "{name} of {written:?}");
    }
    assert_eq!(
        sum(&now, "fal_worker_jobs_total"),
        written.values().sum::<f64>()
    );
    for (name, count) in [
        ("queued", 163.0),
        ("done", 153.0),
        ("failed", 11.0),
        ("duplicate", 1.0),
        ("deferred", 2.0),
        ("started", 163.0),
        ("delivered", 150.0),
    ] {
        assert_eq!(event(&now, name), count, "{name}");
    }

    // Histograms count what the counters count, and their buckets rise.
    let of_model =
        |what: &str| now[&format!("fal_worker_job_seconds_{what}{{model=\"fal-ai/flux/dev\"}}")];
    assert_eq!(of_model("count"), 153.0);
    assert!(of_model("sum") > 0.0);
    assert!(
        !text.contains("fal-ai/refuses"),
        "a model that did nothing has no series"
    );
    let step =
        |what: &str, step: &str| now[&format!("fal_worker_step_seconds_{what}{{step=\"{step}\"}}")];
    assert_eq!(step("count", "poll"), now["fal_worker_polls_total"]);
    assert!(now["fal_worker_polls_total"] >= 153.0);
    assert!(step("count", "submit") >= event(&now, "submitted"));
    assert!(step("count", "deliver") >= 150.0);
    // What ended well is mostly found by a look; what failed is always collected.
    assert!(step("count", "poll") + step("count", "collect") >= 153.0);
    assert!(step("count", "collect") >= 3.0);
    for (name, kind) in &kinds {
        if kind == "histogram" {
            buckets_rise(&now, name);
        }
    }
    let stage =
        |stage: &str| now[&format!("fal_worker_job_stage_seconds_count{{stage=\"{stage}\"}}")];
    assert_eq!((stage("queue"), stage("generation")), (153.0, 153.0));

    // What the stand-ins saw was asked for.
    let of = |service: &str, code: &str| {
        let name =
            format!("fal_worker_http_requests_total{{code=\"{code}\",service=\"{service}\"}}");
        now.get(&name).copied().unwrap_or_default()
    };
    // A submit and a result at least: the result may be the first look.
    assert!(of("fal", "200") + of("fal", "202") >= 2.0 * 153.0, "{text}");
    assert!(of("telegram", "200") >= 150.0);
    assert!(sum(&now, "fal_worker_http_connections_total") >= 2.0);
    assert_eq!(now[r#"fal_worker_service_up{service="redis"}"#], 1.0);
    assert_eq!(
        (now["fal_worker_ready"], now["fal_worker_healthy"]),
        (1.0, 1.0)
    );
    assert_eq!(now[r#"fal_worker_threads{pool="steps"}"#], 4.0);
    assert_eq!(now["fal_worker_workers"], 1.0);
    assert_eq!(now["fal_worker_redis_errors_total"], 0.0);
    let version = format!(
        "fal_worker_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(now[&version], 1.0);

    let (key, token) = (world.sandbox.fal.key(), world.sandbox.telegram.token());
    let secret = key.split_once(':').unwrap().1;
    for hidden in [
        &*key,
        &*token,
        secret,
        user,
        "prompt of",
        "same0",
        "\"m17\"",
        "1017",
    ] {
        assert!(!text.contains(hidden), "{hidden} is in:\n{text}");
    }
    drop(slow);
    promtool(
        "metrics of a worker under load",
        &["check", "metrics"],
        Some(&text),
    );
}

fn buckets_rise(series: &Series, family: &str) {
    let mut by_series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let start = format!("{family}_bucket{{");
    for (name, value) in series {
        let Some(labels) = name.strip_prefix(&start) else {
            continue;
        };
        let (others, le) = labels.split_once("le=\"").unwrap();
        let le = le.trim_end_matches("\"}").parse().unwrap(); // +Inf is one
        let others = others.trim_end_matches(',').to_owned();
        by_series.entry(others).or_default().push((le, *value));
    }
    assert!(!by_series.is_empty(), "{family} has no buckets");
    for (labels, mut buckets) in by_series {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(
            buckets.is_sorted_by(|a, b| a.1 <= b.1),
            "{family}{labels}: {buckets:?}"
        );
        let count = series[&format!("{family}_count{{{labels}}}")];
        assert_eq!(buckets.last().unwrap().1, count, "{family}{labels}");
    }
}

#[test]
fn what_waits_is_counted_where_it_waits_and_grows_older() {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world, &[]);
    let _: u64 = world.redis(&["HSET", "fal:paused", "reason", "test"]);
    // Of one user's ten jobs one has the turn; three have no user.
    let mut entries: Vec<String> = (0..10)
        .map(|n| job(&format!("a{n}")).with("user_id", 7).json())
        .collect();
    entries.extend((0..3).map(|n| job(&format!("b{n}")).with("priority", "high").json()));
    let later = std::time::SystemTime::now() + Duration::from_secs(3600);
    let later = later
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    entries.push(job("c").with("not_before", later).json());
    world.push_all(&entries);
    let depth = |now: &Series, queue: &str| {
        let name = format!("fal_worker_queue_depth{{queue=\"{queue}\"}}");
        now.get(&name).copied().unwrap_or(-1.0)
    };
    let oldest = |now: &Series, queue: &str| {
        now[&format!("fal_worker_oldest_job_seconds{{queue=\"{queue}\"}}")]
    };
    let expected = [
        ("inbox", 0.0),
        ("resume", 0.0),
        ("high", 3.0),
        ("default", 1.0),
        ("low", 0.0),
        ("waiting", 9.0),
        ("later", 1.0),
        ("dead", 0.0),
    ];
    let all_right = |now: &Series| {
        expected
            .iter()
            .all(|(queue, jobs)| depth(now, queue) == *jobs)
    };
    let now = eventually(SOON, || series(&scrape(&address)), all_right);
    assert_eq!(now["fal_worker_paused"], 1.0);
    for queue in ["high", "default", "waiting"] {
        let age = oldest(&now, queue);
        assert!(age > 0.0 && age < 60.0, "{queue}: {age}");
    }
    assert_eq!(oldest(&now, "low"), 0.0);
    let before = oldest(&now, "waiting");
    eventually(
        SOON,
        || oldest(&series(&scrape(&address)), "waiting"),
        |age| *age > before,
    );
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    world.wait_ended(&(0..10).map(|n| format!("a{n}")).collect::<Vec<_>>(), SOON);
    let empty = |now: &Series| depth(now, "waiting") == 0.0 && oldest(now, "waiting") == 0.0;
    eventually(SOON, || series(&scrape(&address)), empty);
}

#[test]
fn a_redis_that_died_is_seen_and_old_figures_do_not_stay() {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world, &[]);
    world.kill_redis();
    let gone = |now: &Series| {
        now[r#"fal_worker_service_up{service="redis"}"#] == 0.0
            && now["fal_worker_ready"] == 0.0
            && now["fal_worker_redis_errors_total"] > 0.0
    };
    let now = eventually(SOON, || series(&scrape(&address)), gone);
    assert!(now["fal_worker_outages_total"] >= 1.0);
    world.sandbox.redis.restart().unwrap();
    let back = |now: &Series| now["fal_worker_ready"] == 1.0;
    eventually(SOON, || series(&scrape(&address)), back);
}

#[test]
fn an_idle_worker_that_is_scraped_asks_redis_less_than_three_times_a_second() {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world, &[]);
    scrape(&address);
    // Beside those that run inside of a script, and those of the test.
    let trips = |world: &mut World| -> u64 {
        let info: String = world.redis(&["INFO", "commandstats"]);
        let of = |name: &str| {
            let start = format!("cmdstat_{name}:calls=");
            let line = info.lines().find_map(|line| line.strip_prefix(&start));
            line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
        };
        of("evalsha") + of("brpop") + of("brpoplpush")
    };
    world.wait_idle();
    let (began, before) = (Instant::now(), trips(&mut world));
    while began.elapsed() < Duration::from_secs(12) {
        scrape(&address);
        std::thread::park_timeout(Duration::from_millis(200)); // its length is what is measured
    }
    let trips = (trips(&mut world) - before) as f64 / began.elapsed().as_secs_f64();
    assert!(trips < 3.0, "{trips} round trips a second");
}

// ---- who speaks of it

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs promtool; says so where there is none.
fn promtool(test: &str, args: &[&str], input: Option<&str>) -> Option<Output> {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(repository());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            // Not `eprintln!`: the test runner would keep it to itself.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED {test}: promtool cannot be run ({error}); `apt-get install prometheus` brings it"
            );
            return None;
        }
    };
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(input.unwrap_or_default().as_bytes())
        .unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "promtool {args:?}: {said}");
    if input.is_some() {
        assert_eq!(said, "", "promtool {args:?}");
    }
    Some(output)
}

fn file(name: &str) -> PathBuf {
    repository().join(name)
}

/// Every series that an expression names: words that begin as ours or the standard ones do.
fn named_in(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let words = text.split(word);
    let ours = words.filter(|word| word.starts_with("fal_worker_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

/// Label and value of every matcher such as `queue="low"` or `event=~"done|failed"`, with its series.
fn matched_in(text: &str) -> Vec<(String, String, Vec<String>)> {
    let mut found = Vec::new();
    for name in named_in(text) {
        for rest in text.split(&name).skip(1) {
            let Some(labels) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
                continue;
            };
            for matcher in labels.0.split(", ") {
                let Some((label, value)) = matcher.split_once('=') else {
                    continue;
                };
                let value = value.trim_start_matches('~').trim_matches(['"', '\\']);
                let values = value.split('|').map(str::to_owned).collect();
                found.push((name.clone(), label.trim_end_matches('!').to_owned(), values));
            }
        }
    }
    found
}

/// What a worker serves that has done a job and has looked at its queues.
fn served() -> String {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world, &[]);
    world.push(job("one").chat(7).json());
    world.wait_state("one", "done");
    let has = |text: &String| {
        text.contains("fal_worker_queue_depth{") && text.contains("fal_worker_job_seconds_count")
    };
    eventually(SOON, || scrape(&address), has)
}

#[test]
fn alerts_and_dashboard_name_only_what_is_served() {
    let served = served();
    let now = series(&served);
    let rules = fs::read_to_string(file("systemd/fal-worker.rules.yml")).unwrap();
    let dashboard = fs::read_to_string(file("systemd/grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut expressions = vec![rules.clone()];
    expressions.extend(expressions_of(&dashboard));
    assert!(expressions.len() > 25, "{}", expressions.len());
    let names: BTreeSet<&str> = now.keys().filter_map(|key| key.split('{').next()).collect();
    for expression in &expressions {
        for name in named_in(expression) {
            assert!(
                names.contains(&*name),
                "{name} is served by nobody: {expression}"
            );
        }
        for (name, label, values) in matched_in(expression) {
            // Those that Prometheus adds.
            if matches!(&*label, "job" | "instance") {
                continue;
            }
            for value in values {
                let matcher = format!("{label}=\"{value}\"");
                let known =
                    |key: &&String| key.split('{').next() == Some(&name) && key.contains(&matcher);
                assert!(
                    now.keys().any(|key| known(&key)),
                    "{name}{{{matcher}}}: {expression}"
                );
            }
        }
    }
    // Both ways: what the contract names is watched by somebody.
    let spoken: BTreeSet<String> = expressions.iter().flat_map(|text| named_in(text)).collect();
    for name in NAMES {
        let heard = |spoken: &String| spoken.starts_with(name);
        let shown = spoken.iter().any(heard) || name == "fal_worker_info";
        assert!(shown, "{name} is in no alert and on no panel");
    }
    // And README explains all of them.
    let readme = fs::read_to_string(file("README.md")).unwrap();
    let section = readme.split("\n## Metrics\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let explained: BTreeSet<String> = named_in(section);
    let ours: BTreeSet<String> = families(&served).into_keys().collect();
    for name in ours.iter().filter(|name| name.starts_with("fal_worker_")) {
        assert!(explained.contains(name), "README does not explain {name}");
    }
    for name in explained
        .iter()
        .filter(|name| name.starts_with("fal_worker_"))
    {
        assert!(
            ours.contains(name),
            "README explains {name}, which nobody serves"
        );
    }
    // A dashboard that Grafana takes: panels have ids of their own and lie beside each other.
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), panels.len());
    let mut places = BTreeSet::new();
    for panel in panels {
        let at = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{panel}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(places.insert((x, y)), "{} lies on another", panel["title"]);
            }
        }
    }
    assert_eq!(dashboard["uid"], json!("fal-worker"));
}

fn expressions_of(dashboard: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match dashboard {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(text) if name == "expr" => found.push(text.clone()),
                    other => found.extend(expressions_of(other)),
                }
            }
        }
        Value::Array(items) => found.extend(items.iter().flat_map(expressions_of)),
        _ => {}
    }
    found
}

#[test]
fn promtool_takes_the_alerts_and_they_come_when_they_should() {
    let test = "promtool_takes_the_alerts_and_they_come_when_they_should";
    let rules = [
        "check",
        "rules",
        "--lint-fatal",
        "systemd/fal-worker.rules.yml",
    ];
    promtool(test, &rules, None);
    promtool(test, &["test", "rules", "tests/alerts.test.yml"], None);
}

#[test]
fn every_expression_of_the_dashboard_is_valid() {
    let dashboard = fs::read_to_string(file("systemd/grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    // As recording rules, which promtool checks; Grafana puts its variables in.
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    for (number, expression) in expressions_of(&dashboard).iter().enumerate() {
        let expression = expression.replace("$job", "j").replace("$instance", "i");
        let expression = serde_json::to_string(&expression).unwrap();
        rules.push_str(&format!(
            "  - record: panel:{number}\n    expr: {expression}\n"
        ));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dashboard.yml");
    fs::write(&path, rules).unwrap();
    let path = path.to_str().unwrap();
    promtool(
        "every_expression_of_the_dashboard_is_valid",
        &["check", "rules", path],
        None,
    );
}

#[test]
fn a_password_that_is_an_everyday_word_blacks_out_no_name() {
    let mut world = World::new();
    let _: String = world.redis(&["CONFIG", "SET", "requirepass", "redis"]);
    let port = world.sandbox.redis.port();
    world.redis_url = Some(format!("redis://:redis@127.0.0.1:{port}/0"));
    let (_daemon, address) = listening(&mut world, &[]);
    let text = scrape(&address);
    assert!(text.contains("\nfal_worker_redis_errors_total "), "{text}");
    assert!(!text.contains("fal_worker_***"), "{text}");
}
