//! Each fault of Redis at each moment: idle in `BRPOP`, at full load, longer than the lease, and during a
//! stop. The daemon stays up, says it once, works on by itself, loses nothing and doubles nothing
//! uncounted (design section 3). `redis_faults.rs` has what is special to one fault.
//!
//! A line of the table is a fault of `support/redis_fault.rs` and its moments, which are functions here:
//! every pair is a test of its own. What was measured is printed: `--nocapture`, lines with `matrix:`.

use crate::support::fair::{eventually_in_fair_time, works_at_once};
use crate::support::load::{
    AT_ONCE, assert_load_ended, assert_load_ended_after_a_stop, in_full_swing, parked, push_load,
    taking, while_it_lasts,
};
use crate::support::redis_fault::{
    Fault, Said, Scene, after_s, clock_an_hour_ahead, clock_set_back_while_all_settle, emptied,
    failed_over_after_a_submit_in_doubt, failed_over_late_after_an_end,
};
use crate::support::{Daemon, SOON, eventually, job};
use fal_worker::sandbox::faults::{Fault as Answer, Rule};
use std::time::{Duration, Instant};

macro_rules! matrix {
    ($($fault:ident: $($moment:ident),+;)+) => { $(
        mod $fault {
            use crate::support::redis_fault::$fault as fault;
            $(#[test] fn $moment() { super::$moment(&fault()); })+
        }
    )+ };
    (#[$long:meta] $($fault:ident: $($moment:ident),+;)+) => { $(
        mod $fault {
            use crate::support::redis_fault::$fault as fault;
            $(#[test] #[$long] fn $moment() { super::$moment(&fault()); })+
        }
    )+ };
}

matrix! {
    killed_and_restarted: while_idle, at_full_load, longer_than_the_lease, before_sigterm, right_after_sigterm;
    asleep: while_idle, at_full_load, before_sigterm, right_after_sigterm;
    stopped: while_idle, at_full_load, longer_than_the_lease, before_sigterm, right_after_sigterm;
    connections_killed: while_idle, at_full_load, before_sigterm, right_after_sigterm;
    scripts_flushed: while_idle, at_full_load, before_sigterm, right_after_sigterm;
    out_of_memory: while_idle, at_full_load, longer_than_the_lease, before_sigterm, right_after_sigterm;
    no_more_clients: while_idle, at_full_load, before_sigterm, right_after_sigterm;
    read_only: while_idle, at_full_load, longer_than_the_lease, before_sigterm, right_after_sigterm;
    failed_over_with_a_lost_tail: while_idle, at_full_load, before_sigterm;
    clock_an_hour_ahead: while_idle, at_full_load, longer_than_the_lease, before_sigterm, right_after_sigterm;
    clock_an_hour_back: while_idle, at_full_load, longer_than_the_lease, before_sigterm, right_after_sigterm;
    emptied: while_idle, at_full_load, before_sigterm;
    loading: while_idle, at_full_load, before_sigterm, right_after_sigterm;
    wrong_password: while_idle, at_full_load, before_sigterm, right_after_sigterm;
    black_hole: while_idle, at_full_load, longer_than_the_lease, before_sigterm, right_after_sigterm;
}

matrix! {
    #[ignore = "takes minutes"]
    asleep_for_a_minute: while_idle, at_full_load, longer_than_the_lease, before_sigterm, right_after_sigterm;
    stopped_for_ten_seconds: while_idle, at_full_load, longer_than_the_lease, before_sigterm, right_after_sigterm;
}

#[test]
fn what_ended_in_the_lost_tail_of_a_late_failover_is_not_sent_again() {
    let fault = failed_over_late_after_an_end();
    let mut scene = Scene::of(&fault);
    let mut daemon = scene.world.daemon(&["--threads", "4"]);
    taking(&scene.world, 2000, 2000);
    scene.world.push(job("tail").chat(7).json());
    scene.world.wait_submitted("tail");
    strike(&mut scene, &fault);
    // It came back as a job at fal, and without its end.
    scene.world.wait_state("tail", "done");
    assert_eq!(scene.world.sandbox.telegram.sends_count(), 1);
    assert_eq!(scene.world.sandbox.fal.totals().submits, 1);
    assert_eq!(daemon.stop(), Some(0));
    scene.world.assert_clean();
}

#[test]
fn a_failover_that_forgets_a_submit_in_doubt_makes_no_second_payment_uncounted() {
    let fault = failed_over_after_a_submit_in_doubt();
    let mut scene = Scene::of(&fault);
    let rule = Rule::first(1, "fal.submit", Answer::ResetAfterActing);
    scene.world.sandbox.faults.add(rule);
    let mut daemon = scene.world.daemon(&["--threads", "4"]);
    let pause = [
        "HSET",
        "fal:paused",
        "reason",
        "a test",
        "by",
        "test",
        "since",
        "1",
        "person",
        "1",
    ];
    let _: usize = scene.world.redis(&pause);
    scene.world.push(job("doubt").chat(7).json());
    scene.world.wait_state("doubt", "queued");
    strike(&mut scene, &fault);
    // It was queued there until the worker came.
    daemon.wait_log("redis forgot writes, they were made again records=1");
    let _: usize = scene.world.redis(&["DEL", "fal:paused"]);
    scene.world.wait_state("doubt", "done");
    assert_eq!(scene.world.record("doubt")["attempt"], "2");
    assert_eq!(scene.world.sandbox.fal.totals().submits, 2);
    assert_eq!(scene.world.counted("resubmitted_after_unknown"), 1);
    assert_eq!(daemon.logged("submitted again after unknown"), 1);
    assert_eq!(daemon.stop(), Some(0));
}

/// What `--shutdown-timeout` is here, and how much later the process may end: the last resort's half second
/// and a slow machine. Who waited for the Redis that is away would never end.
const SHUTDOWN: Duration = Duration::from_secs(4);
const LATE: Duration = Duration::from_secs(6);

/// After a Redis that forgot, nobody pulls for two seconds: half of the time is gone before work may begin.
fn resumes_within(fault: &Fault) -> Duration {
    if fault.forgets {
        AT_ONCE + Duration::from_secs(2)
    } else {
        AT_ONCE
    }
}

/// Lets a fault happen; gives how long it lasted, and the moment of its end.
fn strike(scene: &mut Scene, fault: &Fault) -> (Duration, Instant) {
    let began = Instant::now();
    (fault.begin)(scene);
    while_it_lasts(fault.lasts);
    (fault.end)(scene);
    (began.elapsed(), Instant::now())
}

/// The daemon takes and ends the next job by itself.
fn while_idle(fault: &Fault) {
    let mut scene = Scene::of(fault);
    let mut daemon = scene.world.daemon(&["--threads", "4"]);
    works_at_once(&mut scene.world, "before");
    scene.wait_idle();
    let (outage, back) = strike(&mut scene, fault);
    scene.world.push(job("after").json());
    let state = |scene: &mut Scene| scene.world.state("after");
    eventually_in_fair_time(
        resumes_within(fault),
        || state(&mut scene),
        |state| state == "done",
    );
    let resumed = back.elapsed();
    assert_said(&mut daemon, fault, outage, "idle", resumed);
    assert_eq!(scene.world.sandbox.fal.totals().submits, 2);
    assert_eq!(daemon.stop(), Some(0));
    scene.world.assert_clean();
}

/// What was under way, waiting, or ready at fal meanwhile ends once, and nothing is paid again.
fn at_full_load(fault: &Fault) {
    let mut scene = Scene::of(fault);
    let mut daemon = scene.world.daemon(&["--threads", "8"]);
    let ids = load(&mut scene, fault);
    let (outage, back) = strike(&mut scene, fault);
    let events = |scene: &mut Scene| scene.world.redis::<usize>(&["XLEN", "fal:events"]);
    let before = events(&mut scene);
    // Where it was over at once, all may have ended before we looked.
    let open = |scene: &mut Scene| {
        let states = ids.iter().map(|id| scene.world.state(id));
        states.filter(|state| state != "done").count()
    };
    eventually_in_fair_time(
        resumes_within(fault),
        || (events(&mut scene), open(&mut scene)),
        |(now, open)| *now > before || *open == 0,
    );
    let resumed = back.elapsed();
    assert_load_ended(&mut scene.world, &ids);
    assert_eq!(scene.world.sandbox.fal.totals().submits, ids.len() as u64);
    assert_said(&mut daemon, fault, outage, "full load", resumed);
    works_at_once(&mut scene.world, "after");
    assert_eq!(daemon.stop(), Some(0));
    scene.world.assert_clean();
}

/// An outage that lapses every lease is nobody's death.
fn longer_than_the_lease(fault: &Fault) {
    let mut scene = Scene::of(fault);
    let args = ["--threads", "4", "--lease", "3s"];
    let mut daemons = [scene.world.daemon(&args), scene.world.daemon(&args)];
    taking(&scene.world, 500, 9000);
    let ids = push_load(&mut scene.world, 20);
    for id in &ids {
        scene.world.wait_submitted(id);
    }
    (fault.begin)(&mut scene);
    while_it_lasts(fault.lasts.max(Duration::from_secs(6)));
    (fault.end)(&mut scene);
    assert_load_ended(&mut scene.world, &ids);
    assert_eq!(scene.world.sandbox.fal.totals().submits, 20);
    for daemon in &mut daemons {
        assert!(daemon.is_running());
        assert_eq!(
            daemon.logged("took over") + daemon.logged("taken over"),
            0,
            "{}",
            daemon.log_text()
        );
    }
}

/// SIGTERM while it is on: exit 0 in time, and the next daemon finishes everything.
fn before_sigterm(fault: &Fault) {
    let mut scene = Scene::of(fault);
    let mut daemon = stoppable(&mut scene);
    let ids = load(&mut scene, fault);
    (fault.begin)(&mut scene);
    if fault.forgets {
        // What it forgot is known to this daemon alone, which has not noticed yet.
        (fault.end)(&mut scene);
    } else {
        while_it_lasts(fault.lasts.min(Duration::from_millis(500)));
    }
    let began = Instant::now();
    daemon.signal("TERM");
    assert_ends_in_time(&mut daemon, fault, "before SIGTERM", began);
    if !fault.forgets {
        (fault.end)(&mut scene);
    }
    assert_finished_by_the_next(scene, &ids);
}

/// It comes while the stop is under way.
fn right_after_sigterm(fault: &Fault) {
    let mut scene = Scene::of(fault);
    let mut daemon = stoppable(&mut scene);
    let ids = load(&mut scene, fault);
    let began = Instant::now();
    daemon.signal("TERM");
    (fault.begin)(&mut scene);
    assert_ends_in_time(&mut daemon, fault, "after SIGTERM", began);
    (fault.end)(&mut scene);
    assert_finished_by_the_next(scene, &ids);
}

/// Jobs in every phase; where Redis will forget, all of them in the daemon's hands.
fn load(scene: &mut Scene, fault: &Fault) -> Vec<String> {
    if fault.forgets {
        return parked(&mut scene.world, 40);
    }
    taking(&scene.world, 20, 1500);
    let ids = push_load(&mut scene.world, 60);
    in_full_swing(&mut scene.world, 150);
    ids
}

fn stoppable(scene: &mut Scene) -> Daemon {
    let timeout = format!("{}s", SHUTDOWN.as_secs());
    let args = ["--threads", "8", "--shutdown-timeout", &timeout];
    scene.world.daemon(&args)
}

fn assert_ends_in_time(daemon: &mut Daemon, fault: &Fault, moment: &str, began: Instant) {
    assert_eq!(daemon.wait_exit(SOON), Some(0), "{}", daemon.log_text());
    let took = began.elapsed();
    eprintln!("matrix: {}, {moment}: exit after {took:.1?}", fault.name);
    assert!(took < SHUTDOWN + LATE, "{took:?}\n{}", daemon.log_text());
}

fn assert_finished_by_the_next(mut scene: Scene, ids: &[String]) {
    let mut next = scene.world.daemon(&["--threads", "8"]);
    assert_load_ended_after_a_stop(&mut scene.world, ids);
    assert_eq!(next.stop(), Some(0));
}

fn assert_said(
    daemon: &mut Daemon,
    fault: &Fault,
    outage: Duration,
    moment: &str,
    resumed: Duration,
) {
    assert!(daemon.is_running());
    let log = || daemon.log_text();
    let lost = daemon.logged("redis lost");
    let said = after_s(daemon);
    eprintln!(
        "matrix: {}, {moment}: outage {outage:.1?}, lost {lost}, after_s {said:?}, resumed {resumed:.1?}",
        fault.name
    );
    assert_eq!(lost, said.len(), "{}", log());
    match fault.said {
        Said::Outage => {
            assert_eq!(lost, 1, "{}", log());
            let away = outage.as_secs_f64();
            // Seen a moment late, and over a moment late: on a slow machine it may be some seconds.
            assert!((away - 4.0..away + 8.0).contains(&said[0]), "{}", log());
        }
        Said::Full => {
            assert_eq!(lost, 0, "{}", log());
            let (full, again) = (
                daemon.logged("redis memory full"),
                daemon.logged("redis memory free again"),
            );
            assert!(full <= 1 && again == full, "{}", log());
        }
        Said::Nothing => assert_eq!(lost, 0, "{}", log()),
        Said::OnceAtMost => assert!(lost <= 1, "{}", log()),
    }
    assert_eq!(daemon.logged("took over"), 0, "{}", log());
}

#[test]
fn a_clock_set_an_hour_ahead_ends_no_generation_for_its_time_limit() {
    let fault = clock_an_hour_ahead();
    let mut scene = Scene::of(&fault);
    let mut daemon = scene
        .world
        .daemon(&["--threads", "4", "--poll-max", "100ms"]);
    taking(&scene.world, 4000, 4000);
    scene.world.push(job("running").chat(7).json());
    // fal has said that it runs: its ten minutes are counted from then.
    eventually(
        SOON,
        || scene.world.sandbox.fal.totals().polls,
        |seen| *seen >= 3,
    );
    strike(&mut scene, &fault);
    scene.world.wait_state("running", "done");
    assert!(!scene.world.sandbox.fal.submits().remove(0).cancelled);
    assert_eq!(scene.world.sandbox.fal.totals().submits, 1);
    assert_eq!(daemon.stop(), Some(0));
    scene.world.assert_clean();
}

#[test]
fn a_clock_set_back_while_all_settle_stops_nobody_until_it_is_there_again() {
    let fault = clock_set_back_while_all_settle();
    let mut scene = Scene::of(&fault);
    let args = ["--threads", "2", "--lease", "3s"];
    let mut daemons = [scene.world.daemon(&args), scene.world.daemon(&args)];
    works_at_once(&mut scene.world, "before");
    strike(&mut scene, &fault);
    scene.world.push(job("after").json());
    scene.world.wait_state("after", "done");
    assert_eq!(scene.world.sandbox.fal.totals().submits, 2);
    for daemon in &mut daemons {
        assert_eq!(daemon.stop(), Some(0));
    }
    scene.world.assert_clean();
}

#[test]
fn redis_emptied_during_a_stop_the_submit_under_way_is_kept() {
    let fault = emptied();
    let mut scene = Scene::of(&fault);
    // Its stop waits for the submit until we let it go.
    let args = ["--threads", "8", "--shutdown-timeout", "20s"];
    let mut daemon = scene.world.daemon(&args);
    let hold = scene.world.sandbox.fal.hold("fal.submit");
    scene.world.push(job("paid").chat(7).json());
    assert!(hold.wait_arrived(1, SOON));
    daemon.signal("TERM");
    daemon.wait_log("stopping");
    strike(&mut scene, &fault);
    hold.release();
    assert_eq!(daemon.wait_exit(SOON), Some(0));
    let record = scene.world.record("paid");
    assert!(record.contains_key("request_id"), "{record:?}");
    let _next = scene.world.daemon(&["--threads", "4"]);
    scene.world.wait_state("paid", "done");
    assert_eq!(scene.world.sandbox.fal.totals().submits, 1);
    assert_eq!(scene.world.sandbox.telegram.messages(7).len(), 1);
    scene.world.assert_clean();
}
