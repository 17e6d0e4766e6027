//! Who may see the pages of a worker: on loopback by its address, elsewhere with a token.

use crate::support::{Daemon, SOON, World, eventually};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

const TOKEN: &str = "a-token-of-some-length-9464";

fn port(daemon: &Daemon) -> u16 {
    daemon.wait_log(" ready ");
    let log = daemon.log_text();
    let address = log.split(" listen=").nth(1).unwrap();
    let address = address.split_whitespace().next().unwrap();
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// Status, head and body.
fn get(port: u16, path: &str, headers: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

#[test]
fn another_address_is_refused_without_a_token_and_asks_for_it_with_one() {
    let mut world = World::new();
    let mut daemon = world.spawn(&["--listen", "0.0.0.0:0"], &[]);
    assert_eq!(daemon.wait_exit(SOON), Some(78));
    let log = daemon.log_text();
    let named =
        log.contains("--listen (FAL_WORKER_LISTEN)") && log.contains("FAL_WORKER_LISTEN_TOKEN");
    assert!(log.lines().count() == 1 && named, "{log}");

    let variables = [("FAL_WORKER_LISTEN_TOKEN", TOKEN), ("RUST_LOG", "debug")];
    let daemon = world.spawn(&["--listen", "0.0.0.0:0"], &variables);
    let port = port(&daemon);
    for path in ["/metrics", "/", "/nothing"] {
        let (status, head, body) = get(port, path, "Host: worker.example\r\n");
        assert_eq!((status, &*body), (401, "a token is needed\n"));
        assert!(
            head.contains("\r\nWWW-Authenticate: Basic realm=\"fal-worker\""),
            "{head}"
        );
        assert!(head.contains("\r\nWWW-Authenticate: Bearer\r\n"), "{head}");
    }
    // Balancers and probes carry no secrets: they learn that all is well, and no more.
    assert_eq!(get(port, "/healthz", "").2, "ok\n");
    assert_eq!(get(port, "/readyz", "").0, 200);
    let bearer = format!("Host: worker.example\r\nAuthorization: Bearer {TOKEN}\r\n");
    let (status, _, metrics) = get(port, "/metrics", &bearer);
    assert!(
        status == 200 && metrics.contains("\nfal_worker_in_flight 0\n"),
        "{metrics}"
    );
    // On a busy machine its threads take a moment to begin.
    eventually(
        SOON,
        || get(port, "/healthz", &bearer).2,
        |health| health.contains("pulling: yes\n"),
    );
    // As `curl -u any:token` and browsers send it.
    let basic = "Authorization: Basic YW55OmEtdG9rZW4tb2Ytc29tZS1sZW5ndGgtOTQ2NA==\r\n";
    assert_eq!(get(port, "/metrics", basic).0, 200);
    let wrong = "Authorization: Bearer a-token-of-some-length-9465\r\n";
    assert_eq!(get(port, "/metrics", wrong).0, 401);

    // Redis gone: without the token nobody learns why.
    world.kill_redis();
    let (_, _, said) = eventually(
        SOON,
        || get(port, "/healthz", ""),
        |(status, ..)| *status == 503,
    );
    assert_eq!(said, "not ok\n");
    assert!(
        get(port, "/healthz", &bearer)
            .2
            .contains("redis: no answer for ")
    );
    world.sandbox.redis.restart().unwrap();
    assert!(!daemon.log_text().contains(TOKEN) && !metrics.contains(TOKEN));
}

#[test]
fn the_token_comes_from_a_file_or_a_credential_too() {
    let mut world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("listen-token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let (file, folder) = (file.to_str().unwrap(), folder.path().to_str().unwrap());
    for variable in [
        ("FAL_WORKER_LISTEN_TOKEN_FILE", file),
        ("CREDENTIALS_DIRECTORY", folder),
    ] {
        // A token that is set is asked for on loopback too.
        let mut daemon = world.spawn(&["--listen", "127.0.0.1:0"], &[variable]);
        let port = port(&daemon);
        assert_eq!(get(port, "/metrics", "").0, 401, "{variable:?}");
        let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
        assert_eq!(get(port, "/metrics", &bearer).0, 200, "{variable:?}");
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[test]
fn a_name_that_anybody_may_point_here_is_not_served_without_a_token() {
    let mut world = World::new();
    let daemon = world.daemon(&["--listen", "127.0.0.1:0"]);
    let port = port(&daemon);
    for (host, status) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        (format!("rebound.example:{port}"), 421),
        ("localhost.rebound.example".to_owned(), 421),
    ] {
        let said = get(port, "/metrics", &format!("Host: {host}\r\n"));
        assert_eq!(said.0, status, "{host}");
        assert_eq!(said.2.contains("fal_worker_"), status == 200, "{host}");
    }
}
