use super::*;
use crate::job::flight::Write;
use crate::job::flight::sample::named;
use crate::steps::gate::Service;
use crate::steps::together::Waiting;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;

/// A gate that lets everybody in.
static GATE: LazyLock<Gate> = LazyLock::new(|| Gate::new(100_000));

const MS: Duration = Duration::from_millis(1);

fn scheduler(threads: usize) -> Scheduler {
    Scheduler::new(threads, 1000)
}

/// A scheduler whose permit is out of the way.
fn without_permit(threads: usize) -> Scheduler {
    let scheduler = scheduler(threads);
    scheduler.lock().permit = None;
    scheduler
}

fn step(work: Work<'_>) -> Box<Flight> {
    match work {
        Work::Step(flight, _) => flight,
        Work::Pull(..) => panic!("a pull instead of a step"),
        Work::Writes(_) => panic!("writes instead of a step"),
        Work::Stop => panic!("a stop instead of a step"),
    }
}

fn permit(work: Work<'_>) -> (Permit<'_>, Duration) {
    match work {
        Work::Pull(permit, block) => (permit, block),
        Work::Step(flight, _) => panic!("{} instead of a pull", flight.id),
        Work::Writes(_) => panic!("writes instead of a pull"),
        Work::Stop => panic!("a stop instead of a pull"),
    }
}

fn name(work: Work<'_>) -> String {
    match work {
        Work::Step(flight, _) => flight.id.to_string(),
        Work::Pull(permit, _) => {
            permit.park(Duration::from_secs(60));
            "pull".to_owned()
        }
        Work::Writes(joined) => format!("{} writes", joined.len()),
        Work::Stop => "stop".to_owned(),
    }
}

// ---- the order of turns ----

#[test]
fn finishing_steps_come_before_polls_and_claimed_jobs_in_turns_before_a_pull() {
    let scheduler = scheduler(2);
    let past = Instant::now() - MS;
    scheduler.claimed([named("claimed", Phase::Submitting)].into_iter());
    scheduler.park(named("poll", Phase::Polling), past);
    scheduler.park(named("submit", Phase::Submitting), past);
    scheduler.park(named("tell", Phase::Telling), past);
    scheduler.park(named("deliver", Phase::Delivering), past);
    scheduler.park(named("collect", Phase::Collecting), past);
    let mut closing = named("closing", Phase::Polling);
    closing.closing = true;
    scheduler.park(closing, past - MS);
    let mut turn = 0;
    let order: Vec<_> = (0..8)
        .map(|_| {
            turn = 0; // no turn is an eighth one
            name(scheduler.next(&mut turn, &GATE, || ()))
        })
        .collect();
    assert_eq!(
        order,
        [
            "closing", "tell", "deliver", "poll", "claimed", "submit", "collect", "pull"
        ]
    );
}

#[test]
fn within_a_heap_the_earlier_due_goes_first_and_equals_keep_their_order() {
    let scheduler = without_permit(1);
    let now = Instant::now();
    for (id, ago) in [("c", 1), ("a", 3), ("b", 2), ("d", 1), ("e", 1)] {
        scheduler.park(named(id, Phase::Polling), now - MS * ago);
    }
    let order: String = (0..5)
        .map(|_| step(scheduler.next(&mut 0, &GATE, || ())).id.to_string())
        .collect();
    assert_eq!(order, "abcde");
}

#[test]
fn claimed_jobs_keep_the_order_of_their_claim() {
    let scheduler = without_permit(1);
    scheduler.claimed(
        ["high", "default", "low"]
            .map(|id| named(id, Phase::Submitting))
            .into_iter(),
    );
    let order: Vec<_> = (0..3)
        .map(|_| step(scheduler.next(&mut 0, &GATE, || ())).id.to_string())
        .collect();
    assert_eq!(order, ["high", "default", "low"]);
}

#[test]
fn of_eight_turns_one_pulls_however_many_steps_are_due() {
    let scheduler = scheduler(2);
    let past = Instant::now() - MS;
    for number in 0..100 {
        scheduler.park(named(&format!("f{number}"), Phase::Delivering), past);
    }
    let (mut turn, mut pulls) = (0, 0);
    for _ in 0..64 {
        match scheduler.next(&mut turn, &GATE, || ()) {
            Work::Pull(permit, _) => {
                pulls += 1;
                drop(permit);
            }
            Work::Step(flight, _) => scheduler.park(flight, past),
            Work::Writes(_) | Work::Stop => panic!(),
        }
    }
    assert_eq!(pulls, 8);
}

/// Otherwise all threads run dry and wait for the next claim.
#[test]
fn while_more_waits_in_redis_the_next_claim_comes_before_the_last_claimed_job() {
    let scheduler = scheduler(8); // the next claim is due when one is left
    let order = |more: bool| -> Vec<_> {
        scheduler.claimed(
            ["a", "b", "c"]
                .map(|id| named(id, Phase::Submitting))
                .into_iter(),
        );
        scheduler.left_behind(more);
        let mut order = Vec::new();
        for _ in 0..4 {
            match scheduler.next(&mut 0, &GATE, || ()) {
                Work::Pull(permit, _) => {
                    order.push("pull".to_owned());
                    // It brought nothing: what is claimed already begins all the same.
                    scheduler.left_behind(false);
                    drop(permit);
                }
                work => order.push(name(work)),
            }
        }
        order
    };
    assert_eq!(order(true), ["a", "b", "pull", "c"]);
    assert_eq!(order(false), ["a", "b", "c", "pull"]);
}

/// What is claimed and not begun waits for us while another worker might begin it: a bigger claim has to be
/// worth that.
#[test]
fn claims_bring_more_only_while_what_they_brought_is_begun_at_once_and_more_waits() {
    let scheduler = scheduler(8);
    let now = Instant::now();
    // At once, and were this thread to stand still before it pulls.
    let at_once = now + Duration::from_secs(3600);
    let pull = |came: Instant, more: bool| {
        scheduler.left_behind(more);
        scheduler.lock().came = Some(came);
        drop(permit(scheduler.next(&mut 0, &GATE, || ())));
        scheduler.claim_size()
    };
    assert_eq!(scheduler.claim_size(), 4, "nothing is known yet");
    assert_eq!(pull(at_once, true), 8);
    assert_eq!(pull(at_once, false), 4, "it was all there is");
    assert_eq!(pull(at_once, true), 8);
    assert_eq!(pull(now - BRISK - MS, true), 4, "they had to wait");
    for _ in 1..LONG_BRISK {
        assert_eq!(pull(at_once, true), 8);
    }
    assert_eq!(pull(at_once, true), 16, "it goes on");
    assert_eq!(pull(now - BRISK - MS, true), 4);
    for (threads, calm, brisk) in [(1, 1, 1), (2, 1, 2), (32, 8, 16), (512, 8, 16)] {
        let scheduler = Scheduler::new(threads, 1000);
        assert_eq!(scheduler.claim_size(), calm);
        scheduler.lock().brisk = 1;
        assert_eq!(scheduler.claim_size(), brisk);
        scheduler.came(1, INPUT_BYTES / 4);
        assert_eq!(scheduler.claim_size(), calm, "large inputs");
    }
}

#[test]
fn while_claims_are_used_up_at_once_the_next_one_is_begun_with_half_of_one_left() {
    let scheduler = scheduler(8);
    scheduler.lock().brisk = 1;
    let jobs = (0..6).map(|number| named(&format!("{number}"), Phase::Submitting));
    scheduler.claimed(jobs);
    scheduler.left_behind(true);
    let order: Vec<_> = (0..3)
        .map(|_| name(scheduler.next(&mut 0, &GATE, || ())))
        .collect();
    assert_eq!(order, ["0", "1", "pull"]);
}

/// A pull without room asks Redis for what is paid alone: an exchange a claim that brings nothing.
#[test]
fn no_claim_comes_early_where_there_is_no_room_for_it() {
    let scheduler = scheduler(128); // an eighth of it is more than may be claimed and not begun
    scheduler.claimed((0..9).map(|number| named(&number.to_string(), Phase::Submitting)));
    scheduler.left_behind(true);
    let order: Vec<_> = (0..3)
        .map(|_| name(scheduler.next(&mut 0, &GATE, || ())))
        .collect();
    assert_eq!(order, ["0", "1", "pull"]);
}

#[test]
fn a_thread_says_that_it_is_idle_before_it_waits_and_without_the_lock() {
    let scheduler = Arc::new(without_permit(2));
    let said = Arc::new(AtomicUsize::new(0));
    scheduler.claimed([named("a", Phase::Submitting)].into_iter());
    let idle = || {
        said.fetch_add(1, Ordering::SeqCst);
        assert!(scheduler.inner.try_lock().is_ok(), "under the lock");
        scheduler.claimed([named("b", Phase::Submitting)].into_iter());
    };
    assert_eq!(name(scheduler.next(&mut 0, &GATE, idle)), "a");
    assert_eq!(said.load(Ordering::SeqCst), 0, "it went on at once");
    // What came while it said so is not slept over.
    assert_eq!(name(scheduler.next(&mut 0, &GATE, idle)), "b");
    assert_eq!(said.load(Ordering::SeqCst), 1);
}

/// Or a step file that outlives a stop, since Redis was away, would charge a parked job a crash.
#[test]
fn a_thread_says_that_it_is_idle_before_it_ends() {
    let scheduler = without_permit(2);
    let said = AtomicUsize::new(0);
    scheduler.park(named("a", Phase::Polling), Instant::now() - MS);
    scheduler.set_stage(Stage::Stop);
    let idle = || {
        said.fetch_add(1, Ordering::SeqCst);
        assert!(scheduler.inner.try_lock().is_ok(), "under the lock");
    };
    assert_eq!(name(scheduler.next(&mut 0, &GATE, idle)), "stop");
    assert_eq!(said.load(Ordering::SeqCst), 1);
}

/// Without this each eighth turn would begin one job of its claim and hoard the others behind the
/// stream of due steps.
#[test]
fn an_endless_stream_of_due_steps_starves_no_claimed_job() {
    let scheduler = scheduler(2);
    let past = Instant::now() - MS;
    scheduler.park(named("busy", Phase::Delivering), past);
    scheduler.claimed((0..5).map(|number| named(&format!("new-{number}"), Phase::Submitting)));
    let (mut turn, mut begun, mut pulls) = (0, Vec::new(), 0);
    for _ in 0..48 {
        match scheduler.next(&mut turn, &GATE, || ()) {
            Work::Step(flight, _) if flight.id.as_str() == "busy" => scheduler.park(flight, past),
            Work::Step(flight, _) => begun.push(flight.id.to_string()),
            Work::Pull(permit, _) => {
                pulls += 1;
                drop(permit);
            }
            Work::Writes(_) | Work::Stop => panic!(),
        }
    }
    assert_eq!(begun, ["new-0", "new-1", "new-2", "new-3", "new-4"]);
    assert_eq!(pulls, 1);
}

// ---- the permit ----

#[test]
fn there_is_one_permit_and_it_comes_back_when_dropped() {
    let scheduler = scheduler(2);
    let (held, _) = permit(scheduler.next(&mut 0, &GATE, || ()));
    assert!(!scheduler.nobody_pulls());
    scheduler.park(named("a", Phase::Polling), Instant::now() - MS);
    // With the permit out every turn gives a step, the eighth too.
    let mut turn = 7;
    step(scheduler.next(&mut turn, &GATE, || ()));
    drop(held);
    assert!(scheduler.nobody_pulls());
    drop(permit(scheduler.next(&mut 0, &GATE, || ())));
}

#[test]
fn a_permit_survives_a_panic_and_does_not_come_back_at_once() {
    let scheduler = scheduler(2);
    let (held, _) = permit(scheduler.next(&mut 0, &GATE, || ()));
    let before = Instant::now();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _held = held;
        std::panic::resume_unwind(Box::new("a panic without its line in the log"));
    }));
    assert!(panicked.is_err());
    assert!(scheduler.nobody_pulls());
    let from = scheduler.lock().permit.unwrap();
    assert!((before + AFTER_PANIC..=Instant::now() + AFTER_PANIC).contains(&from));
}

#[test]
fn a_parked_permit_is_taken_when_its_time_has_come() {
    let scheduler = scheduler(2);
    permit(scheduler.next(&mut 0, &GATE, || ())).0.park(20 * MS);
    let began = Instant::now();
    drop(permit(scheduler.next(&mut 0, &GATE, || ())));
    assert!(began.elapsed() >= 19 * MS);
}

#[test]
fn a_permit_parked_for_room_comes_back_as_soon_as_a_flight_is_over() {
    let scheduler = Arc::new(Scheduler::new(2, 1));
    scheduler.came(1, 0);
    permit(scheduler.next(&mut 0, &GATE, || ()))
        .0
        .park_for_room(Duration::from_secs(30));
    let waits = {
        let scheduler = scheduler.clone();
        thread::spawn(move || drop(permit(scheduler.next(&mut 0, &GATE, || ()))))
    };
    thread::sleep(20 * MS);
    assert!(!waits.is_finished());
    let began = Instant::now();
    scheduler.over(&named("a", Phase::Polling).token, 0);
    waits.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn room_that_came_before_the_permit_was_parked_is_not_missed() {
    let scheduler = Scheduler::new(2, 1);
    scheduler.came(1, 0);
    let (held, _) = permit(scheduler.next(&mut 0, &GATE, || ()));
    assert_eq!(scheduler.rooms().0, 0);
    scheduler.over(&named("a", Phase::Polling).token, 0); // while the puller asks for paid jobs
    held.park_for_room(Duration::from_secs(30));
    assert!(scheduler.lock().permit.unwrap() <= Instant::now());
}

// ---- room ----

#[test]
fn room_is_what_the_limit_leaves_and_paid_jobs_may_exceed_it_by_a_tenth() {
    let scheduler = Scheduler::new(2, 25);
    assert_eq!(scheduler.rooms(), (25, 28));
    scheduler.came(25, 0);
    assert_eq!(scheduler.rooms(), (0, 3));
    scheduler.came(3, 0);
    assert_eq!(scheduler.rooms(), (0, 0));
    assert_eq!(Scheduler::new(1, 1).rooms(), (1, 2));
}

#[test]
fn inputs_of_sixteen_mebibytes_leave_room_for_paid_jobs_alone() {
    let scheduler = scheduler(2);
    scheduler.came(1, INPUT_BYTES);
    assert_eq!(scheduler.rooms(), (0, 1099));
    scheduler.holds(1, 0);
    assert_eq!(scheduler.rooms(), (999, 1099));
    scheduler.over(&named("a", Phase::Polling).token, INPUT_BYTES - 1);
    assert_eq!(
        (
            scheduler.rooms(),
            scheduler.input_bytes.load(Ordering::SeqCst)
        ),
        ((1000, 1100), 0)
    );
}

// ---- the block of a pull ----

#[test]
fn one_thread_blocks_no_longer_than_its_next_step_allows() {
    let block = |prepare: &dyn Fn(&Scheduler)| {
        let scheduler = scheduler(1);
        prepare(&scheduler);
        permit(scheduler.next(&mut 7, &GATE, || ())).1
    };
    assert_eq!(block(&|_| {}), BLOCK);
    assert_eq!(
        block(&|s| s.park(named("a", Phase::Polling), Instant::now() + 100 * MS)),
        Duration::ZERO
    );
    assert_eq!(
        block(&|s| s.park(named("a", Phase::Polling), Instant::now() - MS)),
        Duration::ZERO
    );
    let due = Instant::now() + 4000 * MS;
    let soon = block(&|s| s.park(named("a", Phase::Polling), due));
    let left = due.saturating_duration_since(Instant::now());
    assert!(soon + 150 * MS >= left && soon <= 3850 * MS, "{soon:?}");
    assert_eq!(
        block(&|s| s.park(named("a", Phase::Polling), Instant::now() + 60_000 * MS)),
        BLOCK
    );
    // What comes back from a transfer has nobody else either.
    let moving = block(&|s| s.transferring(Snapshot::of(&named("a", Phase::Delivering))));
    assert_eq!(moving, Duration::ZERO);
}

#[test]
fn of_two_threads_none_relies_on_the_other_while_it_pulls() {
    // The other one waits as a leader.
    let block = |prepare: &dyn Fn(&Scheduler)| {
        let scheduler = scheduler(2);
        prepare(&scheduler);
        scheduler.lock().leader_until = Some(Instant::now() + 60_000 * MS);
        permit(scheduler.next(&mut 7, &GATE, || ())).1
    };
    assert_eq!(block(&|_| {}), BLOCK);
    let due = Instant::now() + 4000 * MS;
    let soon = block(&|s| s.park(named("a", Phase::Polling), due));
    let left = due.saturating_duration_since(Instant::now());
    assert!(soon + 150 * MS >= left && soon <= 3850 * MS, "{soon:?}");
    let moving = block(&|s| s.transferring(Snapshot::of(&named("a", Phase::Delivering))));
    assert_eq!(moving, 500 * MS);
}

#[test]
fn a_place_that_was_given_back_in_the_midst_of_a_step_is_found() {
    for (phase, told) in [
        (Phase::Submitting, false),
        (Phase::Polling, false),
        (Phase::Polling, true),
    ] {
        // One place at fal, and it is taken.
        let gate: &'static Gate = Box::leak(Box::new(Gate::new(3)));
        let taken = gate.enter_to_submit(Instant::now()).unwrap();
        let scheduler = Arc::new(without_permit(3));
        scheduler.claimed([named("a", phase)].into_iter());
        let (found, finds) = mpsc::channel();
        {
            let scheduler = scheduler.clone();
            thread::spawn(move || {
                let _ = found.send(name(scheduler.next(&mut 0, gate, || ())));
            });
        }
        assert!(finds.recv_timeout(50 * MS).is_err(), "there is no place");
        drop(taken); // and mostly nobody says so
        if told {
            scheduler.place_is_free();
        }
        assert_eq!(finds.recv_timeout(20_000 * MS).as_deref(), Ok("a"));
    }
}

/// New jobs would take each place that comes free while it is away, and what fal has finished would never be seen.
#[test]
fn a_poll_that_finds_no_place_at_fal_keeps_its_turn_and_keeps_no_delivery_waiting() {
    let gate = Gate::new(3); // one place
    let taken = gate.enter_to_submit(Instant::now());
    let scheduler = without_permit(3);
    scheduler.claimed([named("new", Phase::Submitting)].into_iter());
    let past = Instant::now() - 100 * MS;
    scheduler.park(named("result", Phase::Collecting), past - MS);
    scheduler.park(named("poll", Phase::Polling), past);
    scheduler.park(named("deliver", Phase::Delivering), past + MS);
    let next = || scheduler.next(&mut 0, &gate, || ());
    assert_eq!(name(next()), "deliver");
    scheduler.take_late();
    let look = |now| {
        let inner = scheduler.lock();
        (inner.earliest_step(&gate, now), inner.ready(&gate, now))
    };
    let now = Instant::now();
    assert_eq!(look(now), (Some(now + CROWDED), false), "nobody is woken");
    assert!(scheduler.lock().due(&gate, now).is_none());
    drop(taken);
    assert_eq!(look(now), (Some(past - MS), true));
    for id in ["result", "new", "poll"] {
        let Work::Step(flight, place) = next() else {
            panic!("a step");
        };
        assert_eq!(flight.id.as_str(), id);
        assert!(place.is_some() && !gate.has_place(Service::Fal), "{id}");
    }
    assert!(scheduler.take_late() >= 100 * MS, "it is as late as it is");
}

#[test]
fn what_redis_has_not_taken_yet_goes_there_before_it_asks_for_a_place() {
    let gate = Gate::new(3);
    let _taken = gate.enter_to_submit(Instant::now());
    let scheduler = without_permit(3);
    let mut flight = named("a", Phase::Polling);
    let write = Write::Save {
        patch: Default::default(),
        count: None,
        large: None,
    };
    flight.unsaved.push_back((1, write));
    scheduler.park(flight, Instant::now() - MS);
    let Work::Step(_, place) = scheduler.next(&mut 0, &gate, || ()) else {
        panic!("a step");
    };
    assert!(place.is_none());
}

#[test]
fn nobody_pulls_before_the_scheduler_is_open() {
    let scheduler = Arc::new(scheduler(2));
    scheduler.close();
    let (found, finds) = mpsc::channel();
    {
        let scheduler = scheduler.clone();
        thread::spawn(move || {
            let _ = found.send(name(scheduler.next(&mut 0, &GATE, || ())));
        });
    }
    assert!(finds.recv_timeout(50 * MS).is_err());
    scheduler.open();
    assert_eq!(finds.recv_timeout(20_000 * MS).as_deref(), Ok("pull"));
}

// ---- stages ----

/// All others may be in exchanges that hang: what becomes due must not wait for the bell.
#[test]
fn with_all_others_busy_a_pull_blocks_no_longer_than_the_next_step_allows() {
    let scheduler = Arc::new(scheduler(4));
    let soon = Instant::now() + 4000 * MS;
    scheduler.park(named("a", Phase::Delivering), soon);
    let (alone, block) = permit(scheduler.next(&mut 0, &GATE, || ()));
    assert!(block <= 3850 * MS, "{block:?}");
    // With one that waits for what is due it may block as long as it likes. The leader is woken by nothing
    // here, so the permit is this thread's.
    alone.park(Duration::from_secs(3600));
    assert_eq!(scheduler.drain().len(), 1);
    let far = Instant::now() + Duration::from_secs(3600);
    scheduler.park(named("far", Phase::Delivering), far);
    let leader = {
        let scheduler = scheduler.clone();
        thread::spawn(move || name(scheduler.next(&mut 0, &GATE, || ())))
    };
    while scheduler.lock().leader_until.is_none() {
        thread::yield_now();
    }
    scheduler.lock().permit = Some(Instant::now());
    let (_permit, block) = permit(scheduler.next(&mut 0, &GATE, || ()));
    assert_eq!(block, BLOCK);
    scheduler.park(named("b", Phase::Delivering), Instant::now());
    assert_eq!(leader.join().unwrap(), "b");
}

#[test]
fn quiet_begins_nothing_new_and_goes_on_with_what_is_due() {
    let scheduler = scheduler(2);
    scheduler.claimed([named("new", Phase::Submitting)].into_iter());
    scheduler.park(named("due", Phase::Polling), Instant::now() - MS);
    scheduler.set_stage(Stage::Quiet);
    let mut turn = 7;
    assert_eq!(
        step(scheduler.next(&mut turn, &GATE, || ())).id.as_str(),
        "due"
    );
    scheduler.park(named("soon", Phase::Polling), Instant::now() + 10 * MS);
    assert_eq!(
        step(scheduler.next(&mut turn, &GATE, || ())).id.as_str(),
        "soon"
    );
    assert_eq!(scheduler.drain().len(), 1);
}

#[test]
fn a_stage_never_goes_back() {
    let scheduler = scheduler(1);
    scheduler.set_stage(Stage::Stop);
    scheduler.set_stage(Stage::Quiet);
    assert_eq!(scheduler.stage(), Stage::Stop);
    scheduler.park(named("due", Phase::Polling), Instant::now() - MS);
    assert!(matches!(scheduler.next(&mut 0, &GATE, || ()), Work::Stop));
}

#[test]
fn a_stop_ends_every_waiting_thread_and_leaves_all_flights_to_be_drained() {
    let scheduler = Arc::new(without_permit(8));
    scheduler.park(
        named("later", Phase::Polling),
        Instant::now() + Duration::from_secs(60),
    );
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let scheduler = scheduler.clone();
            thread::spawn(move || matches!(scheduler.next(&mut 0, &GATE, || ()), Work::Stop))
        })
        .collect();
    thread::sleep(20 * MS);
    scheduler.park(
        named("finishing", Phase::Delivering),
        Instant::now() + Duration::from_secs(60),
    );
    scheduler.set_stage(Stage::Stop);
    for thread in threads {
        assert!(thread.join().unwrap());
    }
    scheduler.claimed([named("new", Phase::Submitting)].into_iter());
    let mut drained: Vec<_> = scheduler
        .drain()
        .iter()
        .map(|flight| flight.id.to_string())
        .collect();
    drained.sort();
    assert_eq!(drained, ["finishing", "later", "new"]);
    assert!(scheduler.drain().is_empty());
}

#[test]
fn what_no_thread_works_on_has_a_snapshot_and_a_transfer_until_it_is_parked_or_over() {
    let scheduler = without_permit(2);
    scheduler.claimed([named("a", Phase::Submitting)].into_iter());
    scheduler.park(named("b", Phase::Polling), Instant::now());
    scheduler.transferring(Snapshot::of(&named("c", Phase::Delivering)));
    scheduler.transferring(Snapshot::of(&named("d", Phase::Delivering)));
    let names = || {
        let mut names: Vec<_> = scheduler
            .snapshots()
            .iter()
            .map(|held| held.id.to_string())
            .collect();
        names.sort();
        names.join("")
    };
    assert_eq!(names(), "abcd");
    scheduler.over(&named("c", Phase::Delivering).token, 0);
    scheduler.park(named("d", Phase::Delivering), Instant::now());
    assert_eq!(names(), "abd");
}

#[test]
fn the_end_of_one_flight_leaves_another_of_the_same_job_in_the_transfer_line() {
    let scheduler = without_permit(2);
    let flight = |token: &str| {
        let mut flight = named("a", Phase::Delivering);
        flight.token = Token(token.into());
        flight
    };
    let tokens = || {
        let mut tokens: Vec<_> = scheduler.tokens().into_iter().map(|it| it.0).collect();
        tokens.sort();
        tokens.join(" ")
    };
    for token in ["old", "older", "new"] {
        scheduler.transferring(Snapshot::of(&flight(token)));
    }
    assert_eq!(tokens(), "new old older");
    scheduler.over(&flight("older").token, 0);
    assert_eq!(tokens(), "new old");
    assert_eq!(scheduler.snapshots().len(), 2);
    assert!(scheduler.transfers_since("a").is_some());
    // One that is parked is seen where it is parked.
    scheduler.park(flight("old"), Instant::now());
    scheduler.drain();
    assert_eq!(tokens(), "new");
}

// ---- waking ----

#[test]
fn an_earlier_flight_wakes_the_leader_and_one_without_a_leader_wakes_somebody() {
    thread::scope(|scope| {
        for threads in [1, 3] {
            scope.spawn(move || wakes(threads));
        }
    });
}

fn wakes(threads: usize) {
    let scheduler = Arc::new(without_permit(threads));
    let (send, ran) = mpsc::channel();
    for _ in 0..threads {
        let (scheduler, send) = (scheduler.clone(), send.clone());
        thread::spawn(move || {
            let mut turn = 0;
            while let Work::Step(flight, _) = scheduler.next(&mut turn, &GATE, || ()) {
                send.send((flight.id.to_string(), Instant::now())).unwrap();
            }
        });
    }
    thread::sleep(10 * MS); // all of them wait, without a leader
    let park = |id: &str, after: Duration| {
        let due = Instant::now() + after;
        scheduler.park(named(id, Phase::Polling), due);
        due
    };
    let next = || {
        ran.recv_timeout(Duration::from_secs(20))
            .expect("nobody leads any more")
    };
    // Now there is one, who waits for this: what does not wake him waits for it too.
    let far = park("far", Duration::from_secs(5));
    for round in 0..20 {
        let id = format!("near-{round}");
        park(&id, (round % 4) * 2 * MS);
        let (ran, at) = next();
        assert!(ran == id && at < far, "{threads} threads: a lost wake-up");
    }
    let (id, at) = next();
    assert!(id == "far" && at >= far);
    scheduler.set_stage(Stage::Stop);
}

#[test]
fn who_takes_work_wakes_another_for_what_is_left() {
    let scheduler = Arc::new(without_permit(4));
    let (send, ran) = mpsc::channel();
    let gate = Arc::new(std::sync::Barrier::new(5));
    let serve = |number: usize| {
        let (scheduler, send, gate) = (scheduler.clone(), send.clone(), gate.clone());
        thread::spawn(move || {
            if number == 3 {
                // The one that pulled: it asks for work next, and the other three are woken by those
                // who take it.
                let flights = (0..4).map(|number| named(&format!("{number}"), Phase::Submitting));
                scheduler.claimed(flights);
            }
            if let Work::Step(flight, _) = scheduler.next(&mut 0, &GATE, || ()) {
                send.send(flight.id.to_string()).unwrap();
                gate.wait(); // a long step: this thread serves nobody else
            }
        });
    };
    (0..3).for_each(serve);
    thread::sleep(10 * MS);
    serve(3);
    for _ in 0..4 {
        ran.recv_timeout(Duration::from_secs(20))
            .expect("a claimed job waits beside an idle thread");
    }
    gate.wait();
}

/// Threads take and park for a while, with pulls in between, until each flight has run often; none may on two
/// threads at once, and none later than a busy machine explains.
#[test]
fn many_threads_lose_no_flight_run_none_twice_and_oversleep_for_none() {
    for threads in [1, 2, 8] {
        let scheduler = Arc::new(scheduler(threads));
        let running: Arc<Vec<AtomicBool>> =
            Arc::new((0..200).map(|_| AtomicBool::new(false)).collect());
        let runs: Arc<Vec<AtomicUsize>> = Arc::new((0..200).map(|_| AtomicUsize::new(0)).collect());
        let (pulls, pulling) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let until = Instant::now() + Duration::from_millis(1200);
        let born = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (scheduler, running, runs) = (scheduler.clone(), running.clone(), runs.clone());
                let (pulls, pulling, born) = (pulls.clone(), pulling.clone(), born.clone());
                thread::spawn(move || {
                    let mut random = fastrand::Rng::with_seed(thread as u64);
                    let mut turn = 0;
                    loop {
                        match scheduler.next(&mut turn, &GATE, || ()) {
                            Work::Step(flight, _) => {
                                let number: usize = flight.id.as_str()[1..].parse().unwrap();
                                assert!(
                                    !running[number].swap(true, Ordering::AcqRel),
                                    "two at once"
                                );
                                runs[number].fetch_add(1, Ordering::Relaxed);
                                if random.u8(..) == 0 {
                                    thread::sleep(MS);
                                }
                                running[number].store(false, Ordering::Release);
                                let wait = Duration::from_micros(random.u64(0..6000));
                                scheduler.park(flight, Instant::now() + wait);
                            }
                            Work::Pull(permit, _) => {
                                assert_eq!(pulling.fetch_add(1, Ordering::AcqRel), 0, "two pull");
                                pulls.fetch_add(1, Ordering::Relaxed);
                                let first = born.fetch_add(4, Ordering::Relaxed);
                                if first < 200 {
                                    scheduler.came(4, 0);
                                    scheduler.claimed((first..first + 4).map(|number| {
                                        let phase = if number % 3 == 0 {
                                            Phase::Delivering
                                        } else {
                                            Phase::Polling
                                        };
                                        named(&format!("f{number}"), phase)
                                    }));
                                }
                                pulling.fetch_sub(1, Ordering::AcqRel);
                                permit.park(2 * MS);
                            }
                            Work::Writes(_) => panic!("nothing ends here"),
                            Work::Stop => return,
                        }
                    }
                })
            })
            .collect();
        let fewest = || runs.iter().map(|runs| runs.load(Ordering::Relaxed)).min();
        // A probe from outside, as a transfer thread parks. How late it is itself says how busy the machine is.
        let (mut worst, mut busy) = (Duration::ZERO, Duration::ZERO);
        let deadline = until + Duration::from_secs(30);
        let enough = || fewest() >= Some(10) && pulls.load(Ordering::Relaxed) >= 50;
        while Instant::now() < until || (!enough() && Instant::now() < deadline) {
            let before = Instant::now();
            thread::sleep(5 * MS);
            let earliest = scheduler.lock().earliest_step(&GATE, Instant::now());
            busy = busy.max(before.elapsed());
            if let Some(due) = earliest {
                worst = worst.max(Instant::now().saturating_duration_since(due));
            }
        }
        scheduler.set_stage(Stage::Stop);
        for worker in workers {
            worker.join().unwrap();
        }
        let left: HashSet<_> = scheduler
            .drain()
            .iter()
            .map(|flight| flight.id.to_string())
            .collect();
        assert_eq!(left.len(), 200, "{threads} threads");
        let fewest = fewest();
        assert!(
            fewest >= Some(10),
            "{threads} threads: one ran {fewest:?} times"
        );
        assert!(pulls.load(Ordering::Relaxed) >= 50, "{threads} threads");
        assert!(
            worst < 700 * MS + 4 * busy,
            "{threads} threads: {worst:?} late, a sleep of 5 ms took {busy:?}"
        );
    }
}

/// Leaders come and go while others park earlier and later flights: nobody may sleep over one.
#[test]
fn a_flight_parked_from_outside_is_served_in_time_however_the_leader_changes() {
    let scheduler = Arc::new(without_permit(4));
    let began = Instant::now();
    let (send, ran) = mpsc::channel();
    for _ in 0..4 {
        let (scheduler, send) = (scheduler.clone(), send.clone());
        thread::spawn(move || {
            let mut turn = 0;
            while let Work::Step(flight, _) = scheduler.next(&mut turn, &GATE, || ()) {
                let _ = send.send(flight.id.to_string());
            }
        });
    }
    let mut random = fastrand::Rng::with_seed(3);
    let mut parked = 0;
    while began.elapsed() < Duration::from_millis(1500) {
        for _ in 0..random.usize(1..6) {
            let due = Instant::now() + Duration::from_micros(random.u64(0..20_000));
            scheduler.park(named(&format!("f{parked}"), Phase::Polling), due);
            parked += 1;
        }
        // Sometimes all are idle and without a leader, sometimes none is.
        thread::sleep(Duration::from_micros(random.u64(0..30_000)));
    }
    // Nothing is parked any more that would make up for a lost wake-up: what is slept over now is so for ever.
    let mut seen = HashSet::new();
    for _ in 0..parked {
        let id = ran
            .recv_timeout(Duration::from_secs(20))
            .expect("a lost wake-up");
        assert!(seen.insert(id), "one ran twice");
    }
    scheduler.set_stage(Stage::Stop);
}
#[test]
fn paid_jobs_pass_a_new_one_that_waits_for_fal() {
    let scheduler = scheduler(2);
    let gate = Gate::new(4);
    for _ in 0..5 {
        gate.failed(Service::Fal, None, Instant::now());
    }
    scheduler.claimed([named("new", Phase::Submitting)].into_iter());
    scheduler.claimed([named("paid", Phase::Delivering)].into_iter());
    assert_eq!(name(scheduler.next(&mut 0, &gate, || ())), "paid");
}

#[test]
fn who_is_to_be_cancelled_comes_at_once_also_where_fal_is_away_and_nobody_else_does() {
    let scheduler = scheduler(2);
    let gate = Gate::new(4);
    for _ in 0..5 {
        gate.failed(Service::Fal, None, Instant::now());
    }
    let far = Instant::now() + Duration::from_secs(60);
    scheduler.park(named("other", Phase::Polling), far);
    scheduler.park(named("poll", Phase::Polling), far);
    scheduler.park(named("collect", Phase::Collecting), far);
    // Its result is there: nothing ends it any more.
    scheduler.park(named("deliver", Phase::Delivering), far);
    let new = ["unwanted", "new"].map(|id| named(id, Phase::Submitting));
    scheduler.claimed(new.into_iter());
    let wanted = ["unwanted", "poll", "collect", "deliver", "nobody"];
    let wanted = wanted.map(|id| Token(format!("token-of-{id}").into()));
    scheduler.hurry(&wanted.into());
    let mut turn = 0;
    let all = [(); 3].map(|()| name(scheduler.next(&mut turn, &gate, || ())));
    assert_eq!(all, ["poll", "collect", "unwanted"]);
    assert_eq!(name(scheduler.next(&mut turn, &gate, || ())), "pull");
}

#[test]
fn what_was_claimed_is_counted_as_it_is_put() {
    let scheduler = scheduler(2);
    let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let flights = (0..5).map(|number| match number {
            3 => panic!("of the third"),
            number => named(&number.to_string(), Phase::Submitting),
        });
        scheduler.claimed(flights);
    }));
    assert!(broken.is_err());
    let held = scheduler.snapshots().len();
    assert_eq!((held, scheduler.in_flight()), (3, 3));
}

// ---- writes that wait for each other ----

fn join(scheduler: &Scheduler, ids: std::ops::Range<usize>) {
    for number in ids {
        scheduler.join(Waiting::nothing().of(named(&format!("e{number}"), Phase::Delivering)));
    }
}

#[test]
fn writes_wait_for_each_other_until_there_are_enough_or_the_first_has_waited_long_enough() {
    let scheduler = without_permit(2);
    scheduler.came(100, 0);
    let next = || name(scheduler.next(&mut 1, &GATE, || ()));
    let began = Instant::now();
    join(&scheduler, 0..2);
    // What is due meanwhile goes first.
    scheduler.park(named("poll", Phase::Polling), began - MS);
    let (first, at) = (next(), began.elapsed());
    if at < COMPANY {
        assert_eq!(first, "poll");
        assert_eq!(next(), "2 writes");
        assert!(began.elapsed() >= COMPANY);
    }
    scheduler.park(named("late", Phase::Polling), Instant::now());
    join(&scheduler, 0..FULL);
    assert_eq!(next(), format!("{FULL} writes"));
}

#[test]
fn writes_do_not_wait_while_new_jobs_wait_for_their_places() {
    let scheduler = Scheduler::new(2, 3);
    scheduler.lock().permit = None;
    scheduler.came(3, 0);
    join(&scheduler, 0..1);
    let due = scheduler.lock().joined_due;
    assert!(due.is_some_and(|due| due <= Instant::now()));
    assert_eq!(name(scheduler.next(&mut 1, &GATE, || ())), "1 writes");
}

#[test]
fn a_write_that_waits_is_seen_and_can_be_drained() {
    let scheduler = without_permit(2);
    scheduler.came(2, 0);
    join(&scheduler, 0..2);
    assert_eq!(scheduler.snapshots().len(), 2);
    assert_eq!(scheduler.tokens().len(), 2);
    assert_eq!(scheduler.look_at("e1", |_, due| due.is_some()), Some(true));
    scheduler.set_stage(Stage::Stop);
    assert_eq!(scheduler.drain().len(), 2);
    assert_eq!(scheduler.snapshots().len(), 0);
    assert!(scheduler.lock().joined_due.is_none());
}
