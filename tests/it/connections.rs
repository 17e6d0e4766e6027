//! Connections to fal and Telegram: opened once a thread, then reused; one that the server closed while
//! idle costs nothing. With TLS the same, against a private CA in `SSL_CERT_FILE`; its handshake failures are in
//! `outage` and `telegram_faults`.

use crate::support::certificates::Authority;
use crate::support::tls_front::{Goodbye, TlsFront};
use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use rustls::SupportedProtocolVersion;
use std::time::Duration;

const THREADS: u64 = 4;

#[test]
fn at_steady_load_all_but_one_of_a_thousand_requests_go_over_a_reused_connection() {
    let (mut world, daemon) = World::running();
    let fal = &world.sandbox.fal;
    fal.set_generation(Duration::ZERO, Duration::ZERO);
    let ids: Vec<String> = (0..1500).map(|number| format!("job-{number}")).collect();
    let jobs: Vec<String> = ids.iter().map(|id| job(id).json()).collect();
    world.push_all(&jobs);
    world.wait_ended(&ids, 2 * SOON);

    let (opened, totals) = (world.sandbox.fal.connections(), world.sandbox.fal.totals());
    let requests = totals.submits + totals.polls + totals.results;
    assert_eq!(totals.submits, 1500);
    assert!(opened.queue <= THREADS, "{opened:?}");
    assert!(opened.queue * 1000 <= requests, "{opened:?} {totals:?}");
    drop(daemon);
    world.assert_clean();
}

#[test]
fn connections_that_both_servers_closed_while_idle_cost_no_error_and_no_second_submit_or_message() {
    let (mut world, daemon) = World::running();
    for round in 0..5 {
        let ids: Vec<String> = (0..4).map(|number| format!("{round}-{number}")).collect();
        for id in &ids {
            world.push(job(id).chat(7).json());
        }
        assert_eq!(world.wait_ended(&ids, SOON), ["done"; 4]);
        for id in &ids {
            assert_eq!(submits_of(&world, id), 1, "{id}");
        }
        world.sandbox.fal.close_connections();
        world.sandbox.telegram.close_connections();
    }
    assert_eq!(daemon.logged("retrying"), 0);
    assert_eq!(daemon.logged("lost"), 0);
    let sends = world.sandbox.telegram.journal();
    let photos = sends.iter().filter(|send| send.method == "sendphoto");
    assert_eq!(photos.count(), 20);
    drop(daemon);
    world.assert_clean();
}

/// A world whose fal and Telegram speak TLS alone, and a daemon of 4 threads that is ready.
struct Sealed {
    world: World,
    daemon: Daemon,
    fal: TlsFront,
    telegram: TlsFront,
}

fn sealed(versions: &[&'static SupportedProtocolVersion]) -> Sealed {
    let mut world = World::new();
    let authority = Authority::new(world.folder.path(), "private");
    let pair = authority.server(&["127.0.0.1"]);
    let (queue, bot) = (world.sandbox.fal.queue_url(), world.sandbox.telegram.url());
    let fal = TlsFront::to(&queue, &pair, versions);
    let telegram = TlsFront::to(&bot, &pair, versions);
    world.fal_url = Some(fal.url(&queue));
    world.telegram_url = Some(telegram.url(&bot));
    let daemon = world.spawn(&["--threads", "4"], &[("SSL_CERT_FILE", &authority.file())]);
    daemon.wait_log(" ready ");
    Sealed {
        world,
        daemon,
        fal,
        telegram,
    }
}

#[test]
fn with_tls_all_but_one_of_a_thousand_requests_go_over_a_reused_connection_too() {
    let Sealed {
        mut world,
        daemon,
        fal,
        telegram,
    } = sealed(rustls::ALL_VERSIONS);
    world
        .sandbox
        .fal
        .set_generation(Duration::ZERO, Duration::ZERO);
    let ids: Vec<String> = (0..2200).map(|number| format!("job-{number}")).collect();
    let chat = |number: usize| 1000 + number as i64;
    let jobs: Vec<String> = (0..2200)
        .map(|number| match number {
            0..100 => job(&ids[number]).chat(chat(number)).json(),
            _ => job(&ids[number]).json(),
        })
        .collect();
    world.push_all(&jobs);
    let states = world.wait_ended(&ids, 3 * SOON);
    assert!(states.iter().all(|state| state == "done"));

    let totals = world.sandbox.fal.totals();
    let requests = totals.submits + totals.polls + totals.results;
    let (opened, sends) = (fal.handshakes(), telegram.handshakes());
    eprintln!("tls: {requests} requests to fal over {opened} connections; {sends} to Telegram");
    assert_eq!(totals.submits, 2200);
    assert!((1..=THREADS).contains(&opened), "{opened}");
    assert!(opened * 1000 <= requests, "{opened} for {requests}");
    // Its transfer threads talk to Telegram as well.
    assert!((1..=THREADS + 4).contains(&sends), "{sends}");
    drop(daemon);
    world.assert_clean();
}

fn closed_while_idle(versions: &[&'static SupportedProtocolVersion]) {
    let Sealed {
        mut world,
        daemon,
        fal,
        telegram,
    } = sealed(versions);
    for round in 0..6 {
        let ids: Vec<String> = (0..4).map(|number| format!("{round}-{number}")).collect();
        for id in &ids {
            world.push(job(id).chat(7).json());
        }
        assert_eq!(world.wait_ended(&ids, SOON), ["done"; 4]);
        for id in &ids {
            assert_eq!(submits_of(&world, id), 1, "{id}");
        }
        let goodbye = [Goodbye::Said, Goodbye::Unsaid][round % 2];
        fal.close_connections(goodbye);
        telegram.close_connections(goodbye);
    }
    assert!(fal.handshakes() >= 6 && telegram.handshakes() >= 6);
    let log = daemon.log_text();
    for word in ["retrying", "lost", "again"] {
        assert_eq!(daemon.logged(word), 0, "{word}: {log}");
    }
    let sends = world.sandbox.telegram.journal();
    let photos = sends.iter().filter(|send| send.method == "sendphoto");
    assert_eq!(photos.count(), 24);
    drop(daemon);
    world.assert_clean();
}

#[test]
fn tls_1_3_connections_that_both_servers_closed_while_idle_cost_nothing() {
    closed_while_idle(&[&rustls::version::TLS13]);
}

#[test]
fn tls_1_2_connections_that_both_servers_closed_while_idle_cost_nothing() {
    closed_while_idle(&[&rustls::version::TLS12]);
}

/// As a broken gateway does it. What has come by itself answers no request, and TLS does not hide it.
#[test]
fn an_answer_that_comes_again_over_tls_is_not_that_of_the_next_message() {
    let Sealed {
        mut world,
        daemon,
        fal: _fal,
        telegram,
    } = sealed(rustls::ALL_VERSIONS);
    telegram.say_all_twice();
    for number in 1..=3 {
        let id = format!("job-{number}");
        world.push(job(&id).chat(7).json());
        assert_eq!(world.wait_ended(std::slice::from_ref(&id), SOON), ["done"]);
        assert_eq!(world.record(&id)["message_ids"], format!("[{number}]"));
        eventually(SOON, || telegram.has_said_all(), |all| *all);
    }
    drop(daemon);
    world.assert_clean();
}

#[test]
fn what_tls_says_to_itself_on_an_idle_connection_does_not_end_it() {
    let Sealed {
        mut world,
        daemon,
        fal: _fal,
        telegram,
    } = sealed(&[&rustls::version::TLS13]);
    for number in 1..=3 {
        let id = format!("job-{number}");
        world.push(job(&id).chat(7).json());
        assert_eq!(world.wait_ended(&[id], SOON), ["done"]);
        assert_eq!(telegram.handshakes(), 1, "{number}");
        telegram.renew_keys();
    }
    drop(daemon);
    world.assert_clean();
}
