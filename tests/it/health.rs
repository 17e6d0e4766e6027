//! `/healthz` and `/readyz`: they say that the worker does its work while it does, name what does not,
//! and cost a daemon nothing whoever asks.

use crate::support::fair::{eventually_in_fair_time, one_is_quick};
use crate::support::proxy::{Flow, Proxy};
use crate::support::{Daemon, SOON, World, eventually, job};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Health is back within this time after its reason is gone, as work is.
const AT_ONCE: Duration = Duration::from_secs(4);
/// A port of its own for each daemon.
const ANY: &str = "127.0.0.1:0";

/// A daemon that tells its health, and where.
fn listening(world: &mut World) -> (Daemon, String) {
    let daemon = world.daemon(&["--threads", "4", "--listen", ANY]);
    let address = address(&daemon, " ready ");
    (daemon, address)
}

/// What the first line with this text says of `listen`.
fn address(daemon: &Daemon, text: &str) -> String {
    daemon.wait_log(text);
    let log = daemon.log_text();
    let line = log.lines().find(|line| line.contains(text)).unwrap();
    let behind = line.split(" listen=").nth(1);
    let behind = behind.unwrap_or_else(|| panic!("no address in {line}"));
    behind.split_whitespace().next().unwrap().to_owned()
}

/// Status and body.
type Said = (u16, String);

fn get(address: &str, path: &str) -> Said {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    ask(address, request.as_bytes()).unwrap_or_else(|error| panic!("GET {path}: {error}"))
}

/// Sends something and reads the whole answer.
fn ask(address: &str, request: &[u8]) -> std::io::Result<Said> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(request)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(std::io::ErrorKind::UnexpectedEof)?;
    assert!(head.contains("\r\nContent-Type: text/plain; charset=utf-8"));
    assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Ok((status, body.to_owned()))
}

#[track_caller]
fn healthy_within(address: &str, within: Duration) {
    let health = || get(address, "/healthz");
    eventually_in_fair_time(within, health, |(status, _)| *status == 200);
}

/// Waits until health names a reason that begins so; gives the whole body.
#[track_caller]
fn wait_reason(address: &str, start: &str) -> String {
    let health = || get(address, "/healthz");
    let named =
        |(status, body): &Said| *status == 503 && body.lines().any(|line| line.starts_with(start));
    eventually(SOON, health, named).1
}

// ---- well

#[test]
fn an_idle_worker_is_healthy_and_ready_and_tells_what_it_saw() {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world);
    assert_eq!(get(&address, "/readyz"), (200, "ready\n".to_owned()));
    // On a busy machine its threads take a moment to begin.
    let pulls = |(status, body): &Said| *status == 200 && body.contains("pulling: yes\n");
    let (_, body) = eventually(SOON, || get(&address, "/healthz"), pulls);
    let names: Vec<&str> = body
        .lines()
        .map(|line| line.split(':').next().unwrap())
        .collect();
    let expected = [
        "ok",
        "in flight",
        "pulling",
        "last pull",
        "last look at the inbox",
        "last beat",
    ];
    assert_eq!(names, expected, "{body}");
}

#[test]
fn a_worker_under_load_is_healthy_all_the_time() {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world);
    let ids: Vec<String> = (0..200).map(|n| format!("h{n}")).collect();
    let entries: Vec<String> = ids.iter().map(|id| job(id).json()).collect();
    // None ends before many of them are in flight.
    world.sandbox.fal.set_slots(0);
    world.push_all(&entries);
    let look = || {
        let (status, body) = get(&address, "/healthz");
        assert_eq!(status, 200, "{body}");
        let line = body
            .lines()
            .find_map(|line| line.strip_prefix("in flight: "));
        line.unwrap().parse::<usize>().unwrap()
    };
    eventually(SOON, look, |in_flight| *in_flight > 10);
    world.sandbox.fal.set_slots(1000);
    let ended = |world: &mut World| {
        world
            .events()
            .iter()
            .filter(|e| e["event"] == "done")
            .count()
    };
    let health = || {
        look();
        ended(&mut world)
    };
    eventually(SOON, health, |done| *done == 200);
}

#[test]
fn a_paused_queue_with_jobs_in_it_is_healthy_and_says_so() {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world);
    let _: u64 = world.redis(&["HSET", "fal:paused", "reason", "test"]);
    world.push(job("waits").json());
    world.wait_state("waits", "queued");
    let health = || get(&address, "/healthz");
    let paused = |(status, body): &Said| *status == 200 && body.contains("pulling: paused\n");
    eventually(SOON, health, paused);
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    world.wait_state("waits", "done");
    let pulls = |(status, body): &Said| *status == 200 && body.contains("pulling: yes\n");
    eventually(SOON, health, pulls);
}

// ---- not well

#[test]
fn a_redis_that_died_is_named_until_it_is_back() {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world);
    world.kill_redis();
    let body = wait_reason(&address, "redis: no answer for ");
    assert_eq!(body.lines().count(), 1, "{body}");
    assert!(body.contains("refused"), "{body}");
    let (status, body) = get(&address, "/readyz");
    assert!(
        status == 503 && body.starts_with("redis: no answer for "),
        "{body}"
    );
    world.sandbox.redis.restart().unwrap();
    healthy_within(&address, AT_ONCE);
    eventually_in_fair_time(
        AT_ONCE,
        || get(&address, "/readyz").0,
        |status| *status == 200,
    );
}

#[test]
fn a_redis_that_hangs_is_named_until_it_goes_on() {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world);
    world.sandbox.redis.pause().unwrap();
    wait_reason(&address, "redis: no answer for ");
    world.sandbox.redis.resume().unwrap();
    healthy_within(&address, AT_ONCE);
}

#[test]
fn a_redis_that_is_away_at_start_is_named_and_waited_for() {
    let mut world = World::new();
    world.kill_redis();
    let daemon = world.spawn(&["--listen", ANY], &[("RUST_LOG", "debug")]);
    let address = address(&daemon, "listening");
    let body = wait_reason(&address, "redis: no answer since start (");
    assert_eq!(body.lines().count(), 1, "{body}");
    let (status, body) = get(&address, "/readyz");
    assert!(
        status == 503 && body.starts_with("redis: no answer since start"),
        "{body}"
    );
    world.sandbox.redis.restart().unwrap();
    healthy_within(&address, AT_ONCE);
    daemon.wait_log(" ready ");
    eventually(SOON, || get(&address, "/readyz").0, |status| *status == 200);
}

/// A daemon that reaches Redis through a proxy.
fn proxied(world: &mut World) -> (Daemon, String, Proxy) {
    let proxy = Proxy::to(&world.sandbox.redis.url());
    world.redis_url = Some(format!("redis://{}/0", proxy.address()));
    let (daemon, address) = listening(world);
    (daemon, address, proxy)
}

/// Swallows each blocking command of this kind, as a broken middlebox would, until `right` likes what
/// health says; beats and all other calls pass.
#[track_caller]
fn swallow(
    world: &mut World,
    (proxy, address): (&Proxy, &str),
    command: &str,
    right: impl Fn(&Said) -> bool,
) -> String {
    proxy.hold_each_with(Flow::Requests, command);
    world.push(job("before").json()); // what waits comes back, and the next one hangs
    eventually(SOON, || get(address, "/healthz"), right).1
}

#[test]
fn pulls_and_looks_at_the_inbox_that_never_come_back_are_named_while_beats_go_on() {
    let mut world = World::new();
    let (_daemon, address, proxy) = proxied(&mut world);
    let named = |(status, body): &Said| {
        let mut lines = body.lines();
        let mut is = |start| lines.next().is_some_and(|line| line.starts_with(start));
        *status == 503 && is("pull: no pull came back for ") && is("intake: no look ")
    };
    let body = swallow(&mut world, (&proxy, &address), "\r\nBRPOP", named);
    assert_eq!(body.lines().count(), 2, "{body}");
    // It heals itself once they get through.
    proxy.cut_held();
    healthy_within(&address, SOON);
    world.push(job("after").json());
    eventually_in_fair_time(AT_ONCE, || world.state("after"), |state| state == "done");
}

#[test]
fn a_connection_that_falls_silent_once_is_mended_before_it_is_news() {
    let mut world = World::new();
    let (_daemon, address, proxy) = proxied(&mut world);
    proxy.hold_with(Flow::Requests, "$5\r\nBRPOP\r\n");
    world.push(job("before").json()); // the pull that waits comes back, and the next one hangs
    proxy.wait_held(SOON);
    let until = Instant::now() + Duration::from_secs(13);
    while Instant::now() < until {
        let (status, body) = get(&address, "/healthz");
        assert_eq!(status, 200, "{body}");
        std::thread::park_timeout(Duration::from_millis(100)); // its length is what is tested
    }
    world.push(job("after").json());
    world.wait_state("after", "done");
}

#[test]
fn jobs_that_nobody_can_claim_are_named() {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world);
    // A list that is none: claims are refused, and beats find it.
    let _: String = world.redis(&["SET", "fal:ready:low", "no list"]);
    wait_reason(&address, "backlog: jobs wait and nothing was claimed for ");
    let _: u64 = world.redis(&["DEL", "fal:ready:low"]);
    healthy_within(&address, AT_ONCE);
}

#[test]
fn a_full_redis_is_named() {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world);
    let _: u64 = world.redis(&["HSET", "fal:paused", "reason", "test"]);
    world.push(job("waits").json());
    world.wait_state("waits", "queued");
    let _: String = world.redis(&["CONFIG", "SET", "maxmemory", "1"]);
    let _: u64 = world.redis(&["DEL", "fal:paused"]);
    wait_reason(&address, "redis: its memory is full for ");
    let _: String = world.redis(&["CONFIG", "SET", "maxmemory", "0"]);
    world.wait_state("waits", "done");
    healthy_within(&address, AT_ONCE);
}

#[test]
fn no_secret_is_in_an_answer() {
    let mut world = World::new();
    let password = "right-password-1";
    let _: String = world.redis(&["CONFIG", "SET", "requirepass", password]);
    let port = world.sandbox.redis.port();
    world.redis_url = Some(format!("redis://:{password}@127.0.0.1:{port}/0"));
    let (_daemon, address) = listening(&mut world);
    let mut said = vec![get(&address, "/healthz"), get(&address, "/readyz")];
    // The connection of the test itself stays.
    let _: String = world.redis(&["CONFIG", "SET", "requirepass", "another-password"]);
    let _: u64 = world.redis(&["CLIENT", "KILL", "TYPE", "normal"]);
    let body = wait_reason(&address, "redis: no answer for ");
    assert!(body.to_lowercase().contains("password"), "{body}");
    said.extend([get(&address, "/healthz"), get(&address, "/readyz")]);
    let (key, token) = (world.sandbox.fal.key(), world.sandbox.telegram.token());
    for (_, body) in said {
        for secret in [password, &key, &token] {
            assert!(!body.contains(secret), "{body}");
        }
    }
}

// ---- the address

#[test]
fn a_default_port_that_is_taken_is_one_warning_and_a_given_one_ends_the_start() {
    let mut world = World::new();
    // If this fails somebody else has it, which serves as well.
    let _taken = TcpListener::bind("127.0.0.1:9464");
    let mut daemon = world.spawn(&[], &[("FAL_WORKER_LISTEN", "")]);
    daemon.wait_log(" ready ");
    world.push(job("works").json());
    world.wait_state("works", "done");
    assert_eq!(daemon.stop(), Some(0));
    let log = daemon.log_text();
    let warnings = log.lines().filter(|line| line.contains("127.0.0.1:9464"));
    let warnings: Vec<&str> = warnings.collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains("no health pages"),
        "{log}"
    );
    assert!(!log.contains(" listen=127.0.0.1:0"), "{log}");

    let taken = TcpListener::bind(ANY).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let no_flag: &[&str] = &[];
    for (flags, variable) in [
        (&["--listen", &address][..], "off"),
        (no_flag, address.as_str()),
    ] {
        let mut daemon = world.spawn(flags, &[("FAL_WORKER_LISTEN", variable)]);
        assert_eq!(daemon.wait_exit(SOON), Some(78));
        let log = daemon.log_text();
        let named = log.lines().count() == 1 && log.contains("--listen") && log.contains(&address);
        assert!(named, "{log}");
    }
}

#[test]
fn nobody_listens_where_it_is_off() {
    let mut world = World::new();
    let daemon = world.daemon(&["--listen", "off"]);
    let sockets = std::fs::read_to_string(format!("/proc/{}/net/tcp", daemon.pid())).unwrap();
    let own: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?;
            Some(inode.trim_end_matches(']').to_owned())
        })
        .collect();
    assert!(!own.is_empty());
    let listens = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[3] == "0A" && own.iter().any(|inode| inode == fields[9])
    };
    assert_eq!(sockets.lines().skip(1).find(listens), None);
}

// ---- guests

#[test]
fn what_is_not_there_or_not_http_is_refused_and_hurts_nobody() {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world);
    let huge = format!("GET /healthz HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(20_000));
    let garbage: Vec<u8> = (0..3000u32).map(|n| (n * 37 % 256) as u8).collect();
    for (request, status) in [
        (&b"GET /nothing HTTP/1.1\r\n\r\n"[..], 404),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"GET /healthz?x=1 HTTP/1.0\r\n\r\n", 200),
        (
            b"POST /healthz HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
            405,
        ),
        (b"DELETE /readyz HTTP/1.1\r\n\r\n", 405),
        (huge.as_bytes(), 431),
        (&garbage, 400),
        (b"\r\n\r\n\r\nGET\r\n\r\n", 400),
    ] {
        let said = ask(&address, request);
        let start = String::from_utf8_lossy(&request[..request.len().min(30)]);
        assert_eq!(said.map(|said| said.0).ok(), Some(status), "{start:?}");
    }
    assert_eq!(get(&address, "/healthz").0, 200);
}

#[test]
fn guests_that_say_nothing_more_keep_nobody_waiting_and_are_sent_away() {
    let mut world = World::new();
    let (_daemon, address) = listening(&mut world);
    let mut slow: Vec<TcpStream> = (0..50)
        .map(|n| {
            let mut stream = TcpStream::connect(&address).unwrap();
            let start = &b"GET /healthz HTTP/1.1\r\n"[..n % 20];
            stream.write_all(start).unwrap();
            stream
        })
        .collect();
    let asked = Instant::now();
    assert_eq!(get(&address, "/healthz").0, 200);
    // One after the other they would take two seconds each, and together over a minute.
    assert!(
        asked.elapsed() < Duration::from_secs(20),
        "{:?}",
        asked.elapsed()
    );
    for stream in &mut slow {
        stream.set_read_timeout(Some(SOON)).unwrap();
        match stream.read(&mut [0; 64]) {
            Ok(got) => assert_eq!(got, 0),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    world.push(job("works").json());
    world.wait_state("works", "done");
}

// ---- the stop

#[test]
fn a_half_sent_request_delays_no_stop() {
    let mut world = World::new();
    // Who waited for it would take the two seconds that it is given.
    one_is_quick(Duration::from_secs(1), || {
        let (mut daemon, address) = listening(&mut world);
        let mut half = TcpStream::connect(&address).unwrap();
        half.write_all(b"GET /hea").unwrap();
        let began = Instant::now();
        assert_eq!(daemon.stop(), Some(0));
        let took = began.elapsed();
        daemon.wait_log("stopped given_back=0 cut_off=0");
        took
    });
}

#[test]
fn a_worker_that_stops_is_not_ready_and_says_so_to_the_end() {
    let mut world = World::new();
    let (mut daemon, address) = listening(&mut world);
    let hold = world.sandbox.fal.hold("fal.submit");
    world.push(job("paid").json());
    assert!(hold.wait_arrived(1, SOON));
    daemon.signal("TERM");
    let stopping = (503, "stopping\n".to_owned());
    eventually(SOON, || get(&address, "/readyz"), |said| *said == stopping);
    // Everything but the submit has been stopped by now.
    daemon.wait_log("stopping");
    let (status, body) = get(&address, "/healthz");
    assert!(
        status == 200 && body.contains("pulling: no, stopping\n"),
        "{body}"
    );
    hold.release();
    assert_eq!(daemon.wait_exit(SOON), Some(0));
    assert!(TcpStream::connect(&address).is_err());
}
