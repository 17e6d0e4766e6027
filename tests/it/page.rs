//! The page for people: what it says, what it costs, and what a real browser makes of it.

use crate::support::browser::Browser;
use crate::support::{Daemon, Job, SOON, World, eventually, job};
use fal_worker::sandbox::fal::{Outcome, Script};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A port of its own for each daemon.
const ANY: [&str; 2] = ["--listen", "127.0.0.1:0"];
/// Times between two reads of Redis, and how long a reader counts as one after his last question.
const PACE: Duration = Duration::from_secs(2);
/// Markup that would show, run or fetch something if it came into the page as such.
const MARKUP: &str =
    "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>";

/// A daemon with a page, and where.
fn with_page(world: &mut World, more: &[&str]) -> (Daemon, String) {
    let daemon = world.daemon(&[&ANY, more].concat());
    let log = daemon.log_text();
    let address = log.split(" listen=").nth(1).unwrap();
    let address = address.split_whitespace().next().unwrap().to_owned();
    (daemon, address)
}

/// Head and body of an answer.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    (head.to_owned(), body.to_owned())
}

fn told(address: &str) -> Value {
    serde_json::from_str(&get(address, "/state.json").1).unwrap()
}

/// Asks as a page does until the state is so.
#[track_caller]
fn wait_state(address: &str, right: impl Fn(&Value) -> bool) -> Value {
    let seen = eventually(SOON, || told(address), |told| right(&told["state"]));
    seen["state"].clone()
}

/// How often a command was asked for.
fn calls(world: &mut World, command: &str) -> u64 {
    let text: String = world.redis(&["INFO", "commandstats"]);
    let line = text.lines().find_map(|line| {
        let rest = line.strip_prefix("cmdstat_")?.strip_prefix(command)?;
        rest.strip_prefix(":calls=")?.split(',').next()
    });
    line.map_or(0, |number| number.parse().expect("a number"))
}

/// Models of some variety: quick and slow pictures, videos, and such that fail.
fn models(world: &World) {
    let millis = Duration::from_millis;
    let fal = &world.sandbox.fal;
    let between = |outcome: Outcome, shortest: u64, longest: u64| {
        Script::new(outcome).taking_between(millis(shortest), millis(longest))
    };
    let detail = |word: &str, status: u16| {
        let detail = [json!({"loc": ["body", "prompt"], "msg": "it cannot be so", "type": word})];
        Outcome::error(status, json!({"detail": detail}))
    };
    fal.model("fal-ai/flux/dev", between(Outcome::Images(1), 300, 1500));
    fal.model("fal-ai/flux/schnell", between(Outcome::Images(1), 50, 400));
    fal.model(
        "fal-ai/kling-video/v2.1/master/image-to-video",
        between(Outcome::Video, 3000, 9000),
    );
    fal.model(
        "fal-ai/minimax/speech-02-hd",
        between(Outcome::Audio, 500, 900),
    );
    fal.model("fal-ai/wrong", between(detail("missing", 422), 50, 200));
    fal.model(
        "fal-ai/strict",
        between(detail("content_policy_violation", 422), 50, 200),
    );
}

// ---- what it says

#[test]
fn the_page_is_one_text_that_may_fetch_nothing_but_its_own_state() {
    let mut world = World::new();
    let (_daemon, address) = with_page(&mut world, &[]);
    let (head, body) = get(&address, "/");
    assert!(body.starts_with("<!doctype html>"), "{body:.100}");
    assert!(body.trim_end().ends_with("</html>"));
    let says = |name: &str| {
        let line = head
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {name} in {head}"))
    };
    assert_eq!(says("Content-Type"), "text/html; charset=utf-8");
    assert_eq!(says("Cache-Control"), "no-store");
    assert_eq!(says("X-Content-Type-Options"), "nosniff");
    assert_eq!(says("Referrer-Policy"), "no-referrer");
    assert_eq!(says("X-Frame-Options"), "DENY");
    let policy: HashMap<&str, &str> = says("Content-Security-Policy")
        .split("; ")
        .map(|part| part.split_once(' ').unwrap())
        .collect();
    for (of, to) in [
        ("default-src", "'none'"),
        ("connect-src", "'self'"),
        ("base-uri", "'none'"),
        ("form-action", "'none'"),
        ("frame-ancestors", "'none'"),
        ("require-trusted-types-for", "'script'"),
    ] {
        assert_eq!(policy[of], to, "{of}");
    }
    for of in ["script-src", "style-src"] {
        assert!(policy[of].starts_with("'sha256-"), "{of}: {}", policy[of]);
    }
    let whole = says("Content-Security-Policy");
    assert!(!whole.contains("unsafe"), "{whole}");

    let (head, body) = get(&address, "/state.json");
    assert!(
        head.contains("\r\nContent-Type: application/json\r\n"),
        "{head}"
    );
    assert!(head.contains("\r\nCache-Control: no-store\r\n"), "{head}");
    assert!(serde_json::from_str::<Value>(&body).is_ok(), "{body}");
}

#[test]
fn the_state_adds_up_what_two_workers_did_and_says_what_failed_and_why() {
    let mut world = World::new();
    models(&world);
    let (one, address) = with_page(&mut world, &["--threads", "4"]);
    let (two, other) = with_page(&mut world, &["--threads", "4"]);
    let mut ids = Vec::new();
    let mut push = |world: &mut World, number: usize, entry: Job| {
        let id = format!("p{number}");
        world.push(entry.with("id", id.as_str()).json());
        ids.push(id);
    };
    for number in 0..40 {
        let model = ["fal-ai/flux/dev", "fal-ai/flux/schnell"][number % 2];
        push(
            &mut world,
            number,
            job("").model(model).with("user_id", number),
        );
    }
    for (number, model) in [
        (40, "fal-ai/wrong"),
        (41, "fal-ai/wrong"),
        (42, "fal-ai/strict"),
    ] {
        push(&mut world, number, job("").model(model).with("user_id", 42));
    }
    world.push(r#"{"id": "p43", "model": "fal-ai/flux/dev", "input": null}"#);
    ids.push("p43".to_owned());
    world.wait_ended(&ids, SOON);

    let ended =
        |state: &Value| state["hour"]["sum"]["done"] == 40 && state["hour"]["sum"]["failed"] == 4;
    for address in [&address, &other] {
        let state = wait_state(address, |state| ended(state) && state["dead"] == 4);
        assert_eq!(state["day"]["sum"], state["hour"]["sum"]);
        assert_eq!(state["hour"]["done"].as_array().unwrap().len(), 60);
        let by_model: HashMap<&str, &Value> = state["models"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (row["model"].as_str().unwrap(), &row["hour"]))
            .collect();
        assert_eq!(by_model["fal-ai/flux/dev"]["done"], 20);
        assert_eq!(by_model["fal-ai/wrong"]["failed"], 2);
        assert_eq!(by_model["none"]["failed"], 1);
        let p99 = by_model["fal-ai/flux/dev"]["p99"].as_f64().unwrap();
        assert!((300.0..60_000.0).contains(&p99), "{p99}");
        let kinds = &state["dead_kinds"];
        assert_eq!(
            kinds,
            &json!({"invalid_input": 2, "content_policy": 1, "invalid_job": 1})
        );
        let failures = state["failures"].as_array().unwrap();
        assert_eq!(failures.len(), 4);
        let strict = failures.iter().find(|job| job["id"] == "p42").unwrap();
        assert_eq!(strict["kind"], "content_policy");
        assert_eq!(
            (&strict["model"], &strict["user"]),
            (&json!("fal-ai/strict"), &json!("42"))
        );
        let workers = state["workers"].as_array().unwrap();
        let names: Vec<&str> = (workers.iter())
            .map(|worker| worker["instance"].as_str().unwrap())
            .collect();
        for daemon in [&one, &two] {
            assert!(names.contains(&daemon.instance().as_str()), "{names:?}");
        }
    }
    for key in world.redis::<Vec<String>>(&["KEYS", "fal:minute:*"]) {
        let ttl: i64 = world.redis(&["TTL", &key]);
        assert!((80_000..=90_000).contains(&ttl), "{key}: {ttl}");
    }
    drop((one, two));
    world.assert_clean();
}

#[test]
fn what_is_in_flight_stands_there_by_model_and_phase_and_a_pause_with_its_reason() {
    let mut world = World::new();
    world
        .sandbox
        .fal
        .model("fal-ai/slow", Script::new(Outcome::Never));
    let (_daemon, address) = with_page(&mut world, &["--max-in-flight", "10"]);
    let entries: Vec<String> = (0..15)
        .map(|number| job(&format!("s{number}")).model("fal-ai/slow").json())
        .collect();
    world.push_all(&entries);
    // Its parts are read one after the other.
    let settled = |state: &Value| {
        state["in_flight"][0]["phases"]["polling"] == 10
            && state["running"]["polling"] == 10
            && state["queues"][3]["depth"] == 5
    };
    let state = wait_state(&address, settled);
    assert_eq!(state["in_flight"][0]["model"], "fal-ai/slow");
    let default = &state["queues"][3];
    assert_eq!(default["name"], "default");
    assert!(default["oldest_s"].as_f64().unwrap() < 60.0, "{default}");
    world.redis::<u64>(&[
        "HSET",
        "fal:paused",
        "reason",
        MARKUP,
        "by",
        "anna",
        "since",
        "1795000000000",
    ]);
    let state = wait_state(&address, |state| state["paused"].is_object());
    assert_eq!(state["paused"]["reason"], MARKUP);
    world.redis::<u64>(&["DEL", "fal:paused"]);
    world.not_audited("jobs are cut off");
}

#[test]
fn what_ended_right_before_an_orderly_stop_is_kept() {
    let mut world = World::new();
    let mut daemon = world.daemon(&["--threads", "4"]);
    world.push(job("a").json());
    world.wait_state("a", "done");
    assert_eq!(daemon.stop(), Some(0));
    let keys: Vec<String> = world.redis(&["KEYS", "fal:minute:*"]);
    assert_eq!(keys.len(), 1, "{keys:?}");
    let counts: String = world.redis(&["HGET", &keys[0], "fal-ai/flux/dev"]);
    assert!(counts.starts_with("1 0 0 "), "{counts}");
    world.assert_clean();
}

// ---- what it costs

#[test]
fn redis_is_read_only_while_somebody_asks_and_however_many_ask() {
    let mut world = World::new();
    // As few connections as are allowed.
    let (_daemon, address) = with_page(
        &mut world,
        &[
            "--threads",
            "4",
            "--transfer-threads",
            "2",
            "--redis-connections",
            "10",
        ],
    );
    world.wait_idle();
    // Nothing else of a daemon asks this.
    let reads = |world: &mut World| calls(world, "zrevrange");
    get(&address, "/");
    get(&address, "/healthz");
    assert_eq!(reads(&mut world), 0);
    wait_state(&address, Value::is_object);
    let (first, began) = (reads(&mut world), Instant::now());
    let mut longest = Duration::ZERO;
    while began.elapsed() < PACE * 3 {
        let asked = Instant::now();
        for _ in 0..20 {
            assert_eq!(told(&address)["fault"], Value::Null);
        }
        longest = longest.max(asked.elapsed());
    }
    // A read asks for the newest, and for those by kind when there are others.
    let more = reads(&mut world) - first;
    let most = (began.elapsed().as_secs_f64() / PACE.as_secs_f64()).ceil() as u64 + 1;
    assert!(
        (2..=most).contains(&more),
        "{more} reads in {:?}",
        began.elapsed()
    );
    // One after the other and each with a read of its own they would take forty.
    assert!(
        longest < Duration::from_secs(15),
        "twenty answers took {longest:?}"
    );

    // Nobody asks any more: within seconds nothing is read.
    let mut before = reads(&mut world);
    let mut since = Instant::now();
    let quiet = || {
        let now = reads(&mut world);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        since.elapsed()
    };
    eventually(SOON, quiet, |quiet| *quiet > PACE * 3);
}

// ---- Redis away

#[test]
fn without_redis_the_last_known_state_is_told_with_what_is_wrong_and_for_how_long() {
    let mut world = World::new();
    let (_daemon, address) = with_page(&mut world, &["--threads", "4"]);
    world.push(job("a").json());
    world.wait_state("a", "done");
    wait_state(&address, |state| state["hour"]["sum"]["done"] == 1);
    world.kill_redis();
    let lost = eventually(SOON, || told(&address), |told| told["fault"].is_object());
    let why = lost["fault"]["why"].as_str().unwrap();
    assert!(why.starts_with("Redis is away: "), "{why}");
    assert_eq!(lost["state"]["hour"]["sum"]["done"], 1, "the last known");
    // On a slow machine it is noticed late.
    let grown = |told: &Value| {
        told["age_ms"].as_u64() > Some(4000) && told["fault"]["for_ms"].as_u64() > Some(1000)
    };
    let later = eventually(SOON, || told(&address), grown);
    let (for_ms, age) = (later["fault"]["for_ms"].as_u64(), later["age_ms"].as_u64());
    assert!(for_ms <= age, "{later}");
    world.sandbox.redis.restart().unwrap();
    let back = eventually(SOON, || told(&address), |told| told["fault"].is_null());
    assert!(back["state"].is_object());
}

#[test]
fn a_redis_that_answers_nobody_holds_up_neither_the_page_nor_health() {
    let mut world = World::new();
    let (_daemon, address) = with_page(&mut world, &["--threads", "4"]);
    wait_state(&address, Value::is_object);
    world.sandbox.redis.pause().unwrap();
    let began = Instant::now();
    let mut spans = Vec::new();
    let ask = || {
        let asked = Instant::now();
        let told = told(&address);
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        stream.read_to_string(&mut String::new()).unwrap();
        spans.push(asked.elapsed());
        told
    };
    let lost = eventually(SOON, ask, |told| told["fault"].is_object());
    assert!(lost["state"].is_object());
    assert!(began.elapsed() > Duration::from_millis(500));
    // If they waited for Redis, there would be one or two answers, each after seconds. The machine may hold one up.
    spans.sort();
    let usual = spans[spans.len() / 2];
    assert!(usual < Duration::from_secs(1), "{spans:?}");
    world.sandbox.redis.resume().unwrap();
    eventually(SOON, || told(&address), |told| told["fault"].is_null());
}

// ---- in a browser

/// Records as no worker of ours would write them.
fn plant(world: &mut World) {
    world.not_audited("records are planted");
    let now: Vec<String> = world.redis(&["TIME"]);
    let now = format!("{}000", now[0]);
    let id = format!("id{MARKUP}");
    world.redis::<u64>(&[
        "HSET",
        &format!("fal:job:{id}"),
        "state",
        "dead",
        "v",
        "99",
        "model",
        &format!("model{MARKUP}"),
        "user",
        &format!("user{MARKUP}"),
        "kind",
        &format!("kind{MARKUP}"),
        "error",
        &format!("error{MARKUP}"),
        "charged",
        "no",
    ]);
    world.redis::<u64>(&["ZADD", "fal:dead", &now, &id]);
    let minute = (now.parse::<i64>().unwrap() / 60_000).to_string();
    world.redis::<u64>(&[
        "HSET",
        &format!("fal:minute:{minute}"),
        &format!("bucket{MARKUP}"),
        "3 1 0 40:3",
    ]);
    world.redis::<u64>(&[
        "HSET",
        "fal:paused",
        "reason",
        &format!("reason{MARKUP}"),
        "by",
        MARKUP,
        "since",
        &now,
    ]);
}

fn open(browser: &Browser, address: &str) {
    browser.open(&format!("http://{address}/"));
    let drawn = || browser.run("return document.querySelectorAll('.plot svg').length");
    eventually(SOON, drawn, |plots| *plots == 4);
}

#[test]
fn in_a_browser_markup_of_jobs_is_text_the_policy_holds_and_staleness_is_told() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let mut world = World::new();
    plant(&mut world);
    let (mut daemon, address) = with_page(&mut world, &["--threads", "4"]);
    browser.look(1280, 900, false, false);
    open(&browser, &address);
    let text = browser.text();
    for part in ["id", "model", "user", "kind", "error", "bucket", "reason"] {
        assert!(text.contains(&format!("{part}{MARKUP}")), "{part}: {text}");
    }
    assert_eq!(browser.run("return document.images.length"), 0);
    assert_eq!(browser.run("return document.scripts.length"), 1);
    let title = browser.run("return document.title");
    assert!(title.as_str().unwrap().ends_with("fal-worker"), "{title}");
    assert_eq!(browser.console(), Vec::<String>::new());

    // That an empty console means something: what the policy forbids shows there, and does nothing.
    browser.run(
        "document.body.append(Object.assign(document.createElement('img'), {src: '/healthz'}));
         const style = document.createElement('p'); style.setAttribute('style', 'color: red');",
    );
    let refused = eventually(SOON, || browser.console(), |console| !console.is_empty());
    assert!(
        refused[0].contains("Content Security Policy"),
        "{refused:?}"
    );
    let injects = "try { document.body.innerHTML = '<b>x</b>'; return 'done' } catch (error) { return error.name }";
    assert_eq!(browser.run(injects), "TypeError");
    eventually(SOON, || browser.console(), |console| !console.is_empty());

    let trouble = || browser.run("return document.getElementById('trouble').textContent");
    assert_eq!(trouble(), "");
    world.kill_redis();
    let says = |text: &'static str| {
        move |trouble: &Value| trouble.as_str().is_some_and(|said| said.contains(text))
    };
    let away = eventually(SOON, trouble, says("Redis is away"));
    assert!(says("What you see is as of ")(&away), "{away}");
    assert!(
        browser.text().contains("error<img"),
        "the last known state stays"
    );
    world.sandbox.redis.restart().unwrap();
    eventually(SOON, trouble, |trouble| *trouble == "");
    daemon.kill();
    eventually(SOON, trouble, says("The daemon does not answer"));
    assert_eq!(
        browser.run("return document.getElementById('main').className"),
        "old"
    );
}

/// A day as a bot has it, in the buckets that workers write.
fn a_day(world: &mut World) {
    let now: Vec<String> = world.redis(&["TIME"]);
    let this = now[0].parse::<i64>().unwrap() / 60;
    let mut random = fastrand::Rng::with_seed(11);
    let models = [
        ("fal-ai/flux/dev", 18.0, 52.0),
        ("fal-ai/flux/schnell", 25.0, 44.0),
        ("fal-ai/kling-video/v2.1/master/image-to-video", 3.0, 66.0),
        ("fal-ai/minimax/speech-02-hd", 2.0, 47.0),
        ("fal-ai/recraft/v3/text-to-image", 5.0, 54.0),
    ];
    for back in 2..24 * 60 {
        let minute = this - back;
        let hour = (minute % 1440) as f64 / 60.0;
        // Evenings are busy; between five and six in the past fal was away for a while.
        let busy = 0.25 + 0.75 * (0.5 - 0.5 * ((hour - 4.0) / 24.0 * std::f64::consts::TAU).cos());
        let outage = (330..352).contains(&back);
        for (model, rate, class) in models {
            let done = if outage {
                0
            } else {
                (rate * busy * (0.5 + random.f64())).round() as u64
            };
            let failed = if outage {
                (rate * 0.3) as u64
            } else {
                u64::from(random.f64() < 0.02 * rate)
            };
            let cancelled = u64::from(random.f64() < 0.03);
            let mut counts = format!("{done} {failed} {cancelled}");
            let mut classes: HashMap<u8, u64> = HashMap::new();
            for _ in 0..done {
                let late = if (352..400).contains(&back) { 9.0 } else { 0.0 };
                let tail = if random.f64() < 0.03 {
                    6.0 * random.f64()
                } else {
                    0.0
                };
                let spread = 3.0 * (random.f64() + random.f64() - 1.0);
                *classes
                    .entry((class + spread + tail + late) as u8)
                    .or_default() += 1;
            }
            for (class, number) in classes {
                counts.push_str(&format!(" {class}:{number}"));
            }
            if done + failed + cancelled > 0 {
                world.redis::<u64>(&["HSET", &format!("fal:minute:{minute}"), model, &counts]);
            }
        }
    }
}

#[test]
#[ignore = "pictures for people: tests/page"]
fn pictures_of_the_page_under_load() {
    let Some(browser) = Browser::start() else {
        panic!("needs Chromium");
    };
    let folder = std::env::var_os("FAL_WORKER_PICTURES").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("page"));
    std::fs::create_dir_all(&folder).unwrap();
    let mut world = World::new();
    models(&world);
    let quiet = ["--threads", "4", "--max-in-flight", "25"];
    let (_daemon, address) = with_page(&mut world, &quiet);
    let shoot = |name: &str| {
        for (kind, width, height, phone) in
            [("desktop", 1280, 900, false), ("phone", 390, 844, true)]
        {
            for dark in [false, true] {
                browser.look(width, height, phone, dark);
                let wide = || {
                    browser.run("return document.querySelector('.plot svg').clientWidth - document.querySelector('.plot').clientWidth")
                };
                eventually(SOON, wide, |difference| *difference == 0);
                let over = browser.run("return document.documentElement.scrollWidth - innerWidth");
                assert_eq!(over, 0, "{name}: wider than a {kind}");
                let shade = if dark { "dark" } else { "light" };
                browser.shoot(false, &folder.join(format!("{name}-{kind}-{shade}.png")));
                browser.shoot(
                    true,
                    &folder.join(format!("{name}-{kind}-{shade}-whole.png")),
                );
            }
        }
    };
    browser.look(1280, 900, false, false);
    open(&browser, &address);
    shoot("empty");

    a_day(&mut world);
    plant(&mut world);
    world.redis::<u64>(&["DEL", "fal:paused"]);
    // What was read of the past is not read again: another worker's page, another past.
    let few = ["--threads", "4", "--max-in-flight", "25"];
    let (_second, address) = with_page(&mut world, &few);
    let (_third, _) = with_page(&mut world, &few);
    let video = "fal-ai/kling-video/v2.1/master/image-to-video";
    let kinds = [
        "fal-ai/flux/dev",
        video,
        "fal-ai/minimax/speech-02-hd",
        "fal-ai/flux/dev",
        video,
        "fal-ai/flux/schnell",
    ];
    let mut random = fastrand::Rng::with_seed(5);
    for number in 0..2400 {
        let priority = ["high", "default", "default", "low", "low"][random.usize(..5)];
        let model = match number % 300 {
            7 => "fal-ai/wrong",
            19 => "fal-ai/strict",
            _ => kinds[random.usize(..kinds.len())],
        };
        let entry = job(&format!("order-{}", 86_000 + number)).model(model);
        let user = random.u32(1000..1400);
        world.push(
            entry
                .with("user_id", user)
                .with("priority", priority)
                .json(),
        );
    }
    world.push(r#"{"id": "order-88901", "model": "flux", "input": {"prompt": "x"}}"#);
    world.push(
        r#"{"id": "order-88902", "model": "fal-ai/flux/dev", "input": {}, "timeout_s": "soon"}"#,
    );
    open(&browser, &address);
    let busy = |state: &Value| {
        let failed = state["dead"].as_u64() > Some(4);
        let phases = state["running"].as_object();
        failed && phases.is_some_and(|phases| phases.len() > 1)
    };
    wait_state(&address, busy);
    let rows = || browser.run("return document.querySelectorAll('#failures tbody tr').length");
    eventually(SOON, rows, |rows| rows.as_u64() > Some(4));
    shoot("busy");
    let now: Vec<String> = world.redis(&["TIME"]);
    let since = format!("{}000", now[0]);
    let reason = ["reason", "new prices go live", "by", "anna"];
    let paused = [&["HSET", "fal:paused", "since", &since], &reason[..]].concat();
    world.redis::<u64>(&paused);
    eventually(
        SOON,
        || browser.run("return document.getElementById('paused').hidden"),
        |hidden| *hidden == false,
    );
    assert_eq!(browser.console(), Vec::<String>::new());
    world.kill_redis();
    let trouble = || browser.run("return document.getElementById('trouble').hidden");
    eventually(SOON, trouble, |hidden| *hidden == false);
    shoot("away");
    println!("pictures in {}", folder.display());
}
