//! Redis by TLS with certificates of one's own: a private CA, and a certificate that Redis wants to see from
//! us. A real redis-server with `--tls-auth-clients yes`; what is wrong is said in words that name the setting.

use crate::support::certificates::{Authority, Pair};
use crate::support::fair::works_at_once;
use crate::support::load::{assert_load_ended, in_full_swing, push_load, taking};
use crate::support::{Daemon, SOON, World, eventually};
use fal_worker::sandbox::redis::RedisOptions;
use std::process::Output;

/// A world whose daemons reach Redis by TLS alone.
struct Guarded {
    world: World,
    ours: Authority,
    client: Pair,
    folder: tempfile::TempDir,
    port: u16,
}

fn guarded() -> Guarded {
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let server = ours.server(&["127.0.0.1"]);
    let client = ours.client();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let extra = [
        ["--tls-port", &port.to_string()],
        ["--tls-cert-file", &server.cert],
        ["--tls-key-file", &server.key],
        ["--tls-ca-cert-file", &ours.file()],
        ["--tls-auth-clients", "yes"],
        ["--tcp-backlog", "100"],
    ];
    let options = RedisOptions {
        extra: extra.concat().iter().map(ToString::to_string).collect(),
        ..RedisOptions::default()
    };
    let mut world = World::with(options);
    world.redis_url = Some(format!("rediss://127.0.0.1:{port}/0"));
    Guarded {
        world,
        ours,
        client,
        folder,
        port,
    }
}

impl Guarded {
    fn daemon(&mut self, more: &[&str]) -> Daemon {
        let (ca, client) = (self.ours.file(), self.client.clone());
        let mut args = with(&ca, &client);
        args.extend(more);
        self.world.daemon(&args)
    }

    /// A command that finds the same Redis by its variables.
    fn cli(&self, args: &[&str], ca: &str) -> Output {
        let mut command = self.world.cli(args);
        command
            .env("REDIS_URL", self.world.redis_url.as_deref().unwrap())
            .env("FAL_WORKER_REDIS_CA", ca)
            .env("FAL_WORKER_REDIS_CERT", &self.client.cert)
            .env("FAL_WORKER_REDIS_KEY", &self.client.key);
        command.output().unwrap()
    }
}

fn with<'a>(ca: &'a str, client: &'a Pair) -> Vec<&'a str> {
    #[rustfmt::skip]
    let args = ["--redis-ca", ca, "--redis-cert", &client.cert, "--redis-key", &client.key];
    args.to_vec()
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(text).unwrap()
}

/// No line of the file behind the flag stands in what was said.
fn assert_hidden(said: &str, key: &str) {
    let secret = std::fs::read_to_string(key).unwrap();
    for line in secret.lines() {
        assert!(line.starts_with("-----") || !said.contains(line), "{said}");
    }
}

#[test]
fn a_load_ends_once_and_cut_connections_come_back() {
    let mut guarded = guarded();
    let mut daemon = guarded.daemon(&["--threads", "8"]);
    let world = &mut guarded.world;
    taking(world, 20, 1500);
    let ids = push_load(world, 60);
    in_full_swing(world, 100);
    let cut: u64 = world.redis(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert!(cut > 3, "{cut}");
    assert_load_ended(world, &ids);
    works_at_once(world, "after");
    // TLS is all that it spoke: the port without it saw this test alone.
    let through =
        |clients: &str, port: u16| clients.matches(&format!("laddr=127.0.0.1:{port} ")).count();
    let clients = eventually(
        SOON,
        || world.redis::<String>(&["CLIENT", "LIST"]),
        |clients| through(clients, guarded.port) > 3,
    );
    let plain = world.sandbox.redis.port();
    assert_eq!(through(&clients, plain), 1, "{clients}");
    assert_eq!(daemon.stop(), Some(0));
    assert_hidden(&daemon.log_text(), &guarded.client.key);
}

#[test]
fn commands_take_the_same_certificates() {
    let mut guarded = guarded();
    let ca = guarded.ours.file();
    let build = ["enqueue", "--model", "fal-ai/flux/dev", "--input", "{}"];
    let output = guarded.cli(&build, &ca);
    assert!(output.status.success(), "{}", said(&output));
    let status = guarded.cli(&["status", "--json"], &ca);
    assert!(status.status.success(), "{}", said(&status));
    assert!(
        said(&status).contains("rediss://127.0.0.1"),
        "{}",
        said(&status)
    );
    let other = Authority::new(guarded.folder.path(), "other").file();
    let refused = guarded.cli(&["status"], &other);
    assert_eq!(refused.status.code(), Some(69), "{}", said(&refused));
    assert!(said(&refused).contains("--redis-ca"), "{}", said(&refused));
    let _: u64 = guarded.world.redis(&["DEL", "fal:inbox"]);
}

#[test]
fn certificates_that_do_not_fit_end_the_start_and_are_named() {
    let mut guarded = guarded();
    let strangers = Authority::new(guarded.folder.path(), "strangers");
    let (ours, other) = (guarded.ours.file(), strangers.file());
    let (client, stranger) = (guarded.client.clone(), strangers.client());
    let mixed = Pair {
        cert: client.cert.clone(),
        key: stranger.key.clone(),
    };
    #[rustfmt::skip]
    let cases = [
        ("another CA than the server's", with(&other, &client), "--redis-ca"),
        ("the system's CAs", with(&ours, &client)[2..].to_vec(), "--redis-ca"),
        ("no certificate of ours", with(&ours, &client)[..2].to_vec(), "--redis-cert"),
        ("one that another CA signed", with(&ours, &stranger), "--redis-cert"),
        ("the key of another one", with(&ours, &mixed), "--redis-key is not the key"),
    ];
    for (case, args, word) in cases {
        let mut daemon = guarded.world.spawn(&args, &[]);
        let code = daemon.wait_exit(SOON);
        let log = daemon.log_text();
        assert_eq!(code, Some(78), "{case}: {log}");
        assert!(log.contains(word), "{case}: {log}");
        assert_eq!(log.lines().count(), 1, "{case}: {log}");
        assert_hidden(&log, &client.key);
        assert_hidden(&log, &stranger.key);
    }
    // Another name than the certificate's.
    guarded.world.redis_url = Some(format!("rediss://localhost:{}/0", guarded.port));
    let mut daemon = guarded.world.spawn(&with(&ours, &client), &[]);
    let (code, log) = (daemon.wait_exit(SOON), daemon.log_text());
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("for another host"), "{log}");
}

#[test]
fn systemd_credentials_serve_as_well() {
    let mut guarded = guarded();
    let folder = tempfile::tempdir().unwrap();
    for (name, file) in [
        ("redis-ca", &guarded.ours.file()),
        ("redis-cert", &guarded.client.cert),
        ("redis-key", &guarded.client.key),
    ] {
        std::fs::copy(file, folder.path().join(name)).unwrap();
    }
    let credentials = [("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap())];
    let daemon = guarded.world.spawn(&["--threads", "4"], &credentials);
    daemon.wait_log(" ready ");
    works_at_once(&mut guarded.world, "a");
    let ca = guarded.ours.file();
    let mut twice = guarded.world.spawn(&["--redis-ca", &ca], &credentials);
    assert_eq!(twice.wait_exit(SOON), Some(78));
    assert!(
        twice.log_text().contains("credential redis-ca is set too"),
        "{}",
        twice.log_text()
    );
}
