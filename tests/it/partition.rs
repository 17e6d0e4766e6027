//! Two hosts and a network between them that breaks: network namespaces with a cable each to Redis and one to
//! fal and Telegram. One host is cut off from Redis, or from everything, for longer than its lease, in the middle
//! of a load; the other takes its jobs over; the cable is plugged in again and late packets still arrive.
//!
//! Needs root and `ip` (Debian's iproute2): `tests/partition` runs it, and says where it cannot.

use crate::support::load::{assert_shown, in_full_swing, push_load, taking, while_it_lasts};
use crate::support::proxy::Proxy;
use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::faults::{Fault, Rule};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LEASE: Duration = Duration::from_secs(3);

/// Runs `ip` and gives what it complained about.
fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "ip {words}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => Err(format!("ip: {error}")),
    }
}

/// One host: a namespace, a cable to Redis and one to the services. Dropped, all of it goes.
struct Host {
    name: String,
    redis: Cable,
    services: Cable,
    open: Vec<Proxy>,
}

/// A pair of interfaces; the outer end keeps its address while it is down.
struct Cable {
    outer: String,
    address: Ipv4Addr,
}

impl Cable {
    fn plug(&self, state: &str) {
        ip(&format!("link set {} {state}", self.outer)).unwrap();
    }
}

impl Host {
    fn new(number: u8) -> Result<Host, String> {
        let pid = std::process::id();
        let name = format!("fal-worker-{pid}-{number}");
        ip(&format!("netns add {name}"))?;
        // From here on it is cleaned up by `Drop`, whatever fails.
        let mut host = Host {
            redis: Cable {
                outer: format!("fwr{number}-{}", pid % 100_000),
                address: Ipv4Addr::new(10, 213, number, 1),
            },
            services: Cable {
                outer: format!("fws{number}-{}", pid % 100_000),
                address: Ipv4Addr::new(10, 213, number, 5),
            },
            name,
            open: Vec::new(),
        };
        for cable in [&host.redis, &host.services] {
            let Cable { outer, address } = cable;
            let inner = format!("in-{}", &outer[2..]);
            let [.., last] = address.octets();
            let theirs = format!("10.213.{number}.{}", last + 1);
            let name = &host.name;
            ip(&format!("link add {outer} type veth peer name {inner}"))?;
            ip(&format!("link set {inner} netns {name}"))?;
            ip(&format!("addr add {address}/30 dev {outer}"))?;
            ip(&format!("link set {outer} up"))?;
            ip(&format!("-n {name} addr add {theirs}/30 dev {inner}"))?;
            ip(&format!("-n {name} link set {inner} up"))?;
        }
        ip(&format!("-n {} link set lo up", host.name))?;
        host.open.clear();
        Ok(host)
    }

    /// A daemon of this host, with a state folder of its own.
    fn daemon(&mut self, world: &mut World) -> Daemon {
        let redis = Proxy::on(self.redis.address, &world.sandbox.redis.url());
        world.redis_url = Some(format!("redis://{}/0", redis.address()));
        let service = |url: String, open: &mut Vec<Proxy>| {
            let proxy = Proxy::on(self.services.address, &url);
            let behind = url.trim_start_matches("http://");
            let path = behind.find('/').map_or("", |at| &behind[at..]);
            let url = format!("http://{}{path}", proxy.address());
            open.push(proxy);
            url
        };
        world.fal_url = Some(service(world.sandbox.fal.queue_url(), &mut self.open));
        world.telegram_url = Some(service(world.sandbox.telegram.url(), &mut self.open));
        self.open.push(redis);
        let state = world.folder.path().join(&self.name);
        let ours = world.command(&[
            "--threads",
            "8",
            "--lease",
            "3s",
            "--plain-http",
            &self.services.address.to_string(),
            "--state-dir",
            state.to_str().unwrap(),
        ]);
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(ours.get_program())
            .args(ours.get_args())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(
                ours.get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let daemon = world.spawn_command(command);
        daemon.wait_log(" ready ");
        // Processes of one machine know of each other; those of two hosts do not.
        world.as_if_on_another_host(&daemon.instance());
        daemon
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.open.clear();
        for cable in [&self.redis, &self.services] {
            let _ = ip(&format!("link del {}", cable.outer));
        }
        let _ = ip(&format!("netns del {}", self.name));
    }
}

/// `None`, after a word to the terminal, where namespaces cannot be made.
fn two_hosts() -> Option<[Host; 2]> {
    let hosts = Host::new(1).and_then(|one| Ok([one, Host::new(2)?]));
    hosts
        .inspect_err(|why| {
            let why = why.trim();
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: network namespaces need root and iproute2 ({why})"
            );
        })
        .ok()
}

#[test]
#[ignore = "needs root: tests/partition"]
fn a_host_cut_off_for_longer_than_its_lease_is_taken_over_and_comes_back() {
    let Some(mut hosts) = two_hosts() else { return };
    let mut world = World::new();
    let daemons: Vec<Daemon> = hosts
        .iter_mut()
        .map(|host| host.daemon(&mut world))
        .collect();
    let (mut ids, mut beside) = (Vec::new(), 0);
    // Who is cut off, and from what.
    let rounds = [
        (0, "redis"),
        (1, "everything"),
        (0, "everything"),
        (1, "redis"),
    ];
    for (round, (cut, from)) in rounds.into_iter().enumerate() {
        let (lost, other) = (&daemons[cut], &daemons[1 - cut]);
        taking(&world, 50, 4000);
        let more: Vec<String> = match round {
            // Chats and status messages in the first round, and in the others a stream that only fal sees.
            0 => push_load(&mut world, 150),
            _ => (0..150).map(|n| format!("round-{round}-{n}")).collect(),
        };
        if round > 0 {
            world.push_all(&more.iter().map(|id| job(id).json()).collect::<Vec<_>>());
        }
        ids.extend(more);
        let events = world.redis::<usize>(&["XLEN", "fal:events"]);
        in_full_swing(&mut world, events + 150);
        let (overs, news) = (other.logged("took over"), lost.logged("new identity"));
        let outages = lost.logged("redis lost");
        // Right before the cut: these are inside their submits, whose answers take a while.
        let late = world
            .sandbox
            .faults
            .add(Rule::always("fal.submit", Fault::LateAnswer(400)));
        let inside: Vec<String> = (0..24).map(|n| format!("inside-{round}-{n}")).collect();
        let seen = world.sandbox.fal.totals().submits;
        world.push_all(&inside.iter().map(|id| job(id).json()).collect::<Vec<_>>());
        ids.extend(inside);
        eventually(
            SOON,
            || world.sandbox.fal.totals().submits,
            |now| *now >= seen + 8,
        );
        let began = Instant::now();
        hosts[cut].redis.plug("down");
        if from == "everything" {
            hosts[cut].services.plug("down");
        }
        eventually(SOON, || other.logged("took over"), |now| *now > overs);
        let took = began.elapsed();
        assert!(took < LEASE + Duration::from_secs(12), "{took:?}");
        while_it_lasts(Duration::from_secs(2)); // what it still had to do at fal and Telegram, it does now
        hosts[cut].redis.plug("up");
        hosts[cut].services.plug("up");
        world.sandbox.faults.remove(late);
        eventually(SOON, || lost.logged("new identity"), |now| *now > news);
        eprintln!(
            "partition: host {cut} without {from}: taken over after {took:.1?}, back after {:.1?}",
            began.elapsed()
        );
        assert!(lost.logged("redis lost") > outages, "{}", lost.log_text());
        let states = world.wait_ended(&ids, 3 * SOON);
        assert!(states.iter().all(|state| state == "done"), "{states:?}");
        // The one that came back works, as soon as it is the one whom the bell wakes.
        taking(&world, 0, 100);
        let (done, until) = (lost.logged("job done"), Instant::now() + SOON);
        while lost.logged("job done") == done {
            assert!(
                Instant::now() < until,
                "it takes nothing:\n{}",
                lost.log_text()
            );
            let after: Vec<String> = (0..8).map(|n| format!("after-{}", n + beside)).collect();
            world.push_all(&after.iter().map(|id| job(id).json()).collect::<Vec<_>>());
            world.wait_ended(&after, SOON);
            beside += 8;
        }
        // What it calls itself from now on.
        let log = lost.log_text();
        let (_, new) = log.rsplit_once(" new=").unwrap();
        let instance = new.split_whitespace().next().unwrap().to_owned();
        world.as_if_on_another_host(&instance);
    }
    let again = world.counted("resubmitted_after_unknown");
    let submits = world.sandbox.fal.totals().submits;
    let jobs = ids.len() as u64 + beside;
    eprintln!(
        "partition: {jobs} jobs, {submits} submits, {again} of them counted as perhaps paid twice"
    );
    assert!(
        submits <= jobs + again,
        "{submits} submits for {jobs}, {again} counted"
    );
    assert!(
        ids.iter()
            .all(|id| !id.starts_with("round") || submits_of(&world, id) >= 1)
    );
    let resent = world.counted("resent_after_unknown");
    assert_shown(&world, &ids[..150], resent);
    for mut daemon in daemons {
        assert_eq!(daemon.stop(), Some(0));
    }
    world.assert_clean_after_kills();
}
