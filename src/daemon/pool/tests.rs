//! The engine with a fal and a Redis that refuse every connection: what threads do with flights needs
//! neither.

use super::*;
use crate::fal::{Fal, FalUrls};
use crate::http::{FileHosts, Http, HttpSettings};
use crate::job::UnixMs;
use crate::job::flight::sample::named;
use crate::job::flight::{EndState, Patch, Write};
use crate::job::schedule::PollBounds;
use crate::job::spec;
use crate::job::state::Policy;
use crate::job::{Lang, Phase};
use crate::steps::gate::Gate;
use crate::steps::{Lease, Tools};
use crate::store::{Access, Defaults, Keep, Process, Store};
use crate::telegram::plan::{DeliveryMode, TransferLimits};
use redis::IntoConnectionInfo;
use std::sync::{Arc, LazyLock};
use std::thread;

/// A gate that lets everybody in.
static GATE: LazyLock<Gate> = LazyLock::new(|| Gate::new(100_000));

/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:1";

fn tools() -> Arc<Tools> {
    let http = Http::new(HttpSettings {
        threads: 2,
        plain_http: Vec::new(),
    });
    let access = Access {
        redis: format!("redis://{NOBODY}/")
            .into_connection_info()
            .unwrap()
            .into(),
        namespace: "fal".to_owned(),
        inbox: "fal:inbox".to_owned(),
        connections: 4,
    };
    let keep = Keep {
        done: Duration::from_secs(60),
        dead: Duration::from_secs(60),
        events_max: 100,
    };
    let urls = FalUrls {
        queue: format!("http://{NOBODY}"),
        run: format!("http://{NOBODY}"),
        storage: format!("http://{NOBODY}"),
    };
    let lease = Lease::new(Duration::from_secs(30));
    lease.renewed(Lease::clock_ms(), UnixMs(0));
    Arc::new(Tools {
        store: Store::new(&access, keep, Process::default()).unwrap(),
        fal: Fal::new(http.clone(), urls, "a:b"),
        http,
        telegram: None,
        policy: Policy {
            poll: PollBounds {
                min: Duration::from_millis(250),
                max: Duration::from_secs(5),
            },
            job_timeout: Duration::from_secs(600),
            queue_timeout: Duration::from_secs(3600),
        },
        defaults: Defaults {
            max_attempts: 3,
            max_wait: None,
        },
        model_timeouts: Vec::new(),
        delivery: DeliveryMode::Auto,
        delivery_timeout: Duration::from_secs(60),
        transfer_limits: TransferLimits::PUBLIC,
        telegram_rate: None,
        file_hosts: FileHosts::new::<&str>(&[]).unwrap(),
        lang: Lang::En,
        words: Default::default(),
        signs: crate::steps::signs::Signs::new(false),
        admin_chat: None,
        rotation: crate::steps::rotation::Rotation::new(&[], None),
        lease,
        gate: crate::steps::gate::Gate::new(4),
        recorder: Arc::new(crate::recorder::Recorder::off()),
        cancels: steps::Cancels::default(),
        state: None,
        fal_outage: report::Outage::new("fal"),
        submit_outage: report::Outage::new("fal"),
        direct_outage: report::Outage::new("fal"),
        telegram_outage: report::Outage::new("telegram"),
        inputs: Default::default(),
        in_flight: AtomicU64::new(0),
        finds_window: AtomicBool::new(false),
        paces: Default::default(),
        minutes: Default::default(),
        together: Default::default(),
        done: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    })
}

fn worker(tools: &Arc<Tools>, moves_bytes: bool) -> Worker {
    Worker {
        moves_bytes,
        ..Worker::new(tools.clone(), None)
    }
}

/// An engine that pulls nothing.
fn engine() -> (Engine, Moved) {
    let (engine, moved) = Engine::new(2, 1, 100);
    match engine.scheduler.next(&mut 0, &GATE, || ()) {
        Work::Pull(permit, _) => permit.park(Duration::from_secs(3600)),
        Work::Step(..) | Work::Writes(_) | Work::Stop => unreachable!(),
    }
    (engine, moved)
}

/// A flight whose next step panics: fal is not there, and the count of tries has no number left.
fn bomb(id: &str) -> Box<Flight> {
    let mut flight = named(id, Phase::Polling);
    flight.step_tries = u32::MAX;
    flight
}

#[test]
fn a_panic_in_a_step_is_the_end_of_that_flight_here_and_of_nothing_else() {
    let (tools, (engine, _moved)) = (tools(), engine());
    let worker = worker(&tools, false);
    engine.scheduler.came(2, 0);
    engine.run(&worker, 0, bomb("bomb"), None);
    assert_eq!(engine.scheduler.in_flight(), 1);
    assert!(engine.desks.snapshots().is_empty());
    // The same thread goes on with the next one.
    engine.run(&worker, 0, named("good", Phase::Polling), None);
    let parked = engine.scheduler.snapshots();
    assert_eq!(parked.len(), 1);
    assert_eq!(parked[0].id.as_str(), "good");
}

/// Taken for a claim whose answer was lost, it would go back as if nobody had ever begun it: in a
/// submit that would be a payment that nobody counts.
#[test]
fn a_crash_that_redis_could_not_be_told_of_is_remembered() {
    let (tools, (engine, _moved)) = (tools(), engine());
    let worker = worker(&tools, false);
    engine.scheduler.came(1, 0);
    engine.run(&worker, 0, bomb("bomb"), None);
    let held = engine.tell_crashes(&worker.session);
    assert_eq!(held, [Token("token-of-bomb".into())]);
}

#[test]
fn a_panic_beside_the_steps_is_the_end_of_that_flight_here_and_not_of_the_thread() {
    let (tools, (engine, _moved)) = (tools(), engine());
    let (no_desk, worker) = (99, worker(&tools, true));
    engine.scheduler.came(2, 0);
    for id in ["a", "b"] {
        engine.run(&worker, no_desk, named(id, Phase::Polling), None);
    }
    let held = engine.tell_crashes(&worker.session);
    assert_eq!(
        held,
        ["a", "b"].map(|id| Token(format!("token-of-{id}").into()))
    );
    assert_eq!(engine.scheduler.in_flight(), 0);
}

#[test]
fn a_pool_thread_outlives_panics_in_steps() {
    let (tools, (engine, _moved)) = (tools(), engine());
    let engine = Arc::new(engine);
    engine.scheduler.came(4, 0);
    for number in 0..3 {
        engine
            .scheduler
            .park(bomb(&format!("bomb-{number}")), Instant::now());
    }
    engine.scheduler.park(
        named("good", Phase::Polling),
        Instant::now() + Duration::from_millis(50),
    );
    let pool = {
        let (engine, worker) = (engine.clone(), worker(&tools, false));
        thread::spawn(move || {
            engine.pool_thread(
                &worker,
                0,
                &Mutex::new(Blocker::new(Duration::from_secs(1))),
            );
        })
    };
    let until = Instant::now() + Duration::from_secs(10);
    while engine.scheduler.in_flight() > 1 {
        assert!(Instant::now() < until && !pool.is_finished());
        thread::sleep(Duration::from_millis(2));
    }
    engine.scheduler.set_stage(Stage::Stop);
    pool.join()
        .expect("the thread lives until it is told to end");
    assert_eq!(engine.scheduler.drain().len(), 1);
}

#[test]
fn writes_that_redis_does_not_take_stay_with_their_flights() {
    let (tools, (engine, _moved)) = (tools(), engine());
    let worker = worker(&tools, false);
    engine.scheduler.came(2, 0);
    let joined = ["a", "b"].map(|id| {
        let mut flight = named(id, Phase::Delivering);
        let write = Write::End {
            state: EndState::Done,
            patch: Patch::default(),
        };
        flight.closing = true;
        flight.unsaved.push_back((7, write));
        steps::together::Waiting::nothing().of(flight)
    });
    engine.write_together(&worker, 0, joined.into());
    assert_eq!(engine.scheduler.in_flight(), 2);
    assert!(engine.desks.snapshots().is_empty());
    let left = engine.scheduler.drain();
    let unsaved = left
        .iter()
        .all(|flight| flight.unsaved.len() == 1 && flight.closing);
    assert!(left.len() == 2 && unsaved);
}

#[test]
fn after_the_stop_nothing_is_begun_and_what_arrives_is_there_to_be_given_back() {
    let (tools, (engine, _moved)) = (tools(), engine());
    let worker = worker(&tools, false);
    engine.scheduler.set_stage(Stage::Stop);
    engine.run(&worker, 0, bomb("never-begun"), None);
    let drained = engine.scheduler.drain();
    assert_eq!(drained.len(), 1);
    assert!(drained[0].untouched && drained[0].step_tries == u32::MAX);
    assert!(engine.desks.snapshots().is_empty());
}

#[test]
fn a_flight_goes_to_the_transfer_threads_and_stays_visible_on_its_way() {
    let (tools, (engine, moved)) = (tools(), engine());
    engine.scheduler.came(1, 0);
    let mut direct = named("direct", Phase::Submitting);
    direct.via = crate::job::spec::Via::Direct;
    direct.target = None;
    direct.order.as_mut().unwrap().in_line = true; // as its record says already
    engine.run(&worker(&tools, false), 0, direct, None);
    let waiting = (moved.direct.len(), moved.files.len(), moved.inputs.len());
    assert_eq!(waiting, (1, 0, 0));
    assert_eq!(engine.scheduler.snapshots().len(), 1);
    // At the stop it is in the channel still: the thread that gets it begins nothing.
    engine.scheduler.set_stage(Stage::Stop);
    let flight = moved.for_thread(0, 1).recv().unwrap();
    engine.run(&worker(&tools, true), 2, flight, None);
    assert_eq!(engine.scheduler.snapshots().len(), 1);
    assert_eq!(engine.scheduler.drain().len(), 1);
}

#[test]
fn half_of_the_transfer_threads_at_most_wait_in_direct_calls_or_for_files() {
    for threads in 1..=9 {
        let (engine, moved) = Engine::new(2, threads, 100);
        let mut serve = [0, 0, 0];
        for number in 0..threads {
            let mine = moved.for_thread(number, threads);
            wait_in_line(&engine, named("direct", Phase::Submitting));
            wait_in_line(&engine, named("result", Phase::Delivering));
            wait_in_line(&engine, with_files("input"));
            serve[0] += mine.direct.try_iter().count();
            serve[1] += mine.files.try_iter().count();
            serve[2] += mine.inputs.try_iter().count();
            moved.drain().for_each(drop);
        }
        assert_eq!(serve, [threads.div_ceil(2); 3], "{threads} threads");
    }
}

/// A flight two files of whose input are to be brought to fal.
fn with_files(id: &str) -> Box<Flight> {
    let mut flight = named(id, Phase::Submitting);
    let entry = br#"{"model":"a/b","input":{},"input_files":{"a":["x","y"]}}"#;
    flight.order.as_mut().unwrap().files = spec::parse(entry, None).unwrap().files;
    flight
}

fn wait_in_line(engine: &Engine, flight: Box<Flight>) {
    engine.line(&flight).send(flight).unwrap();
}

#[test]
fn results_are_moved_before_inputs_that_came_first_and_a_stop_finds_all_of_them() {
    for threads in [1, 2, 4] {
        let (engine, moved) = Engine::new(2, threads, 100);
        let mine = moved.for_thread(threads - 1, threads);
        let next = || mine.recv().map(|flight| flight.id.as_str().to_owned());
        for id in ["input-1", "input-2"] {
            wait_in_line(&engine, with_files(id));
        }
        assert_eq!(next().as_deref(), Some("input-1"));
        assert!(!engine.results_wait());
        for id in ["result-1", "result-2"] {
            wait_in_line(&engine, named(id, Phase::Delivering));
        }
        assert!(engine.results_wait());
        for expected in ["result-1", "result-2", "input-2"] {
            assert_eq!(next().as_deref(), Some(expected), "{threads} threads");
        }
        wait_in_line(&engine, named("direct", Phase::Submitting));
        wait_in_line(&engine, with_files("input"));
        wait_in_line(&engine, named("result", Phase::Delivering));
        assert_eq!(moved.drain().count(), 3);
    }
}

#[test]
fn a_step_whose_writes_redis_has_not_taken_is_nobody_elses_to_repeat() {
    let mut flight = named("a", Phase::Polling);
    assert!(Snapshot::of(&flight).is_repeatable());
    flight.unsaved.push_back((
        1,
        Write::End {
            state: EndState::Done,
            patch: Patch::default(),
        },
    ));
    assert!(!Snapshot::of(&flight).is_repeatable());
    for phase in [Phase::Submitting, Phase::Delivering, Phase::Telling] {
        assert!(
            !Snapshot::of(&named("a", phase)).is_repeatable(),
            "{phase:?}"
        );
    }
}

#[test]
fn without_redis_nothing_is_submitted_or_sent_and_looks_at_fal_go_on() {
    let tools = tools();
    let worker = worker(&tools, false);
    tools.store.health.lost("as if", std::time::Instant::now());
    let mut submit = named("a", Phase::Submitting);
    submit.target = None;
    assert!(matches!(
        steps::advance(&worker, &mut submit, None),
        Next::In(_)
    ));
    assert!(submit.untouched && submit.unsaved.is_empty());
    // No bot token in this engine: the end of the telling is made, and waits for Redis.
    let mut told = named("a", Phase::Telling);
    for _ in 0..2 {
        assert!(matches!(
            steps::advance(&worker, &mut told, None),
            Next::In(_)
        ));
        assert!(told.closing && told.unsaved.len() == 1);
    }
    assert_eq!(tools.http.counts(), []);
    let mut polled = named("a", Phase::Polling);
    let write = Write::Save {
        patch: Patch::default(),
        count: None,
        large: None,
    };
    polled.unsaved.push_back((1, write));
    assert!(matches!(
        steps::advance(&worker, &mut polled, None),
        Next::In(_)
    ));
    assert_eq!(
        (polled.step_tries, polled.unsaved.len()),
        (1, 1),
        "asked, and nothing dropped"
    );
}

#[test]
fn with_a_stale_lease_or_under_a_former_name_nothing_is_submitted() {
    let tools = tools();
    let worker = worker(&tools, false);
    let mut flight = named("a", Phase::Submitting);
    flight.target = None;
    tools.lease.renewed(Lease::clock_ms() - 20_001, UnixMs(0));
    assert!(matches!(
        steps::advance(&worker, &mut flight, None),
        Next::In(_)
    ));
    assert!(flight.untouched && flight.phase == Phase::Submitting);
    tools.lease.renewed(Lease::clock_ms(), UnixMs(0));
    tools.store.rename();
    assert_eq!(steps::advance(&worker, &mut flight, None), Next::Over);
    assert!(flight.untouched && flight.unsaved.is_empty());
}
