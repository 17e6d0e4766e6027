//! Connections to fal and Telegram: opened once a thread, then reused; one that the server closed while
//! idle costs nothing. (TLS is the same client; its handshake failures are in `outage` and `telegram_faults`.)

use crate::support::{SOON, World, job, submits_of};
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
