//! Random walks: a small model in memory says what each call must do, Redis must agree after each step.
//! Answers are lost and originals come late on the way; neither may show.

use super::super::view::View;
use super::super::*;
use super::bench::*;
use crate::job::Phase;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

const LISTS: [&str; 4] = ["resume", "high", "default", "low"];

#[derive(Clone, Debug, PartialEq)]
enum Place {
    Ready(usize),
    Later,
    /// Number of the instance, token.
    Claim(usize, String),
    Ended(&'static str),
}

#[derive(Clone, Debug)]
struct Job {
    list: usize,
    max_attempts: u32,
    place: Place,
    phase: Option<Phase>,
    request: Option<String>,
    tried: Vec<String>,
    attempt: u32,
    crashes: u32,
    /// Its first `not_before` is still to come.
    first: bool,
    /// The last owner's, until there is a new one.
    token: String,
    duplicates: usize,
    submits: usize,
    started: bool,
    /// Its owner, or the next one, is to cancel it.
    asked: bool,
    /// It was cancelled before it was paid for.
    cancelled: bool,
}

struct Model {
    rng: Rng,
    bench: Bench,
    view: View,
    instances: Vec<Instance>,
    jobs: BTreeMap<String, Job>,
    lists: [VecDeque<String>; 4],
    later: BTreeSet<String>,
    inbox: VecDeque<(String, String)>,
    taken: Vec<VecDeque<(String, String)>>,
    held: Vec<Vec<Flight>>,
    /// Flights of owners that are none any more.
    ghosts: Vec<(usize, Flight)>,
    requests: u32,
    pushed: u32,
    history: VecDeque<String>,
    takeovers: usize,
    counted: u64,
    /// What was planted, by kind.
    repairs: BTreeMap<String, u64>,
    seen: BTreeMap<String, usize>,
}

#[test]
fn random_walks_agree_with_the_model() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let steps = number("FAL_WORKER_MODEL_STEPS").unwrap_or(10_000);
    let seed = number("FAL_WORKER_MODEL_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed {seed}: FAL_WORKER_MODEL_SEED={seed} FAL_WORKER_MODEL_STEPS={steps}");
    // A run of its own for every few thousand steps: what has ended piles up.
    let mut left = steps;
    for run in 0.. {
        let mut model = Model::new(seed.wrapping_add(run));
        let now = left.min(5000);
        for step in 0..now {
            model.step();
            model.check(step);
        }
        model.check_events();
        eprintln!("after {now} steps: {:?}", model.seen);
        left -= now;
        if left == 0 {
            return;
        }
    }
}

impl Model {
    fn new(seed: u64) -> Model {
        let bench = Bench::start();
        let view = bench.view();
        let instances: Vec<Instance> = (0..3).map(|_| bench.instance()).collect();
        Model {
            rng: Rng::with_seed(seed),
            bench,
            view,
            instances,
            jobs: BTreeMap::new(),
            lists: Default::default(),
            later: BTreeSet::new(),
            inbox: VecDeque::new(),
            taken: vec![VecDeque::new(); 3],
            held: vec![Vec::new(), Vec::new(), Vec::new()],
            ghosts: Vec::new(),
            requests: 0,
            pushed: 0,
            history: VecDeque::new(),
            takeovers: 0,
            counted: 0,
            repairs: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    fn note(&mut self, what: &str, more: String) {
        *self.seen.entry(what.to_owned()).or_default() += 1;
        self.history.push_back(format!("{what} {more}"));
        if self.history.len() > 40 {
            self.history.pop_front();
        }
    }

    /// Some of the time the next call of this instance meets a lost answer or a late original.
    fn trouble(&mut self, who: usize, may_be_late: bool) {
        let proxy = self.instances[who].proxy.clone();
        match self.rng.u8(..10) {
            0 | 1 => proxy.lose_an_answer(),
            2 if may_be_late => proxy.hold_a_request(),
            _ => return,
        }
        self.note("trouble", format!("for {who}"));
    }

    fn step(&mut self) {
        // A fault that met no call must not meet one that is never late.
        for one in &self.instances {
            one.proxy.pass();
        }
        let who = self.rng.usize(..3);
        match self.rng.u8(..100) {
            0..12 => self.push(),
            12..18 => self.intake(who),
            18..32 => self.claim(who),
            32..70 => self.own(who),
            70..82 => self.ghost(),
            82..87 => self.promote(who),
            87 => self.give_back(who),
            88 => self.cancel(),
            89..91 => self.crash(who),
            91..93 => self.disown(who),
            93..95 => self.take_over(who),
            95..97 => self.reassert(who),
            97 => self.audit(who),
            98 => self.plant(who),
            _ => {
                let late: usize = self.instances.iter().map(|one| one.proxy.release()).sum();
                self.note("late", late.to_string());
            }
        }
    }

    fn push(&mut self) {
        let live = self
            .jobs
            .values()
            .filter(|job| !matches!(job.place, Place::Ended(_)))
            .count();
        if live > 30 {
            return;
        }
        let known: Vec<&String> = self.jobs.keys().collect();
        let id = match self.rng.u8(..5) {
            0 if !known.is_empty() => known[self.rng.usize(..known.len())].clone(),
            _ => {
                self.pushed += 1;
                format!("j{}", self.pushed)
            }
        };
        let list = self.rng.usize(1..4);
        let not_before = self.rng.u8(..5) == 0;
        let more = format!(
            r#""priority":"{}","max_attempts":{}{}"#,
            LISTS[list],
            self.rng.u8(1..4),
            if not_before {
                r#","not_before":4000000000"#
            } else {
                ""
            }
        );
        let entry = job(&id, &more);
        self.bench.push(&entry);
        self.note("push", entry.clone());
        self.inbox.push_back((id, entry));
    }

    fn intake(&mut self, who: usize) {
        self.trouble(who, false);
        let entries = self.instances[who].entries();
        let mut all = std::mem::take(&mut self.taken[who]);
        all.append(&mut self.inbox);
        assert_eq!(entries.len(), all.len());
        if self.rng.u8(..4) == 0 {
            self.note("take", format!("by {who}"));
            self.taken[who] = all;
            return;
        }
        if entries.is_empty() {
            return;
        }
        self.note("intake", format!("by {who}: {}", entries.len()));
        self.trouble(who, true);
        self.instances[who]
            .session
            .intake(&entries, &DEFAULTS)
            .expect("takes in");
        for (entry, (id, _)) in entries.iter().zip(all) {
            let spec = entry.verdict.as_ref().expect("valid");
            if let Some(job) = self.jobs.get_mut(&id) {
                job.duplicates += 1;
                continue;
            }
            let list = LISTS
                .iter()
                .position(|name| *name == spec.priority.as_str())
                .expect("a list");
            let first = spec.not_before.is_some();
            if first {
                self.later.insert(id.clone());
            } else {
                self.lists[list].push_back(id.clone());
            }
            let job = Job {
                list,
                max_attempts: spec.max_attempts.unwrap_or(3),
                place: if first {
                    Place::Later
                } else {
                    Place::Ready(list)
                },
                phase: None,
                request: None,
                tried: Vec::new(),
                attempt: 0,
                crashes: 0,
                first,
                token: String::new(),
                duplicates: 0,
                submits: 0,
                started: false,
                asked: false,
                cancelled: false,
            };
            self.jobs.insert(id, job);
        }
    }

    fn claim(&mut self, who: usize) {
        let (n, paid) = (self.rng.usize(1..4), self.rng.u8(..5) == 0);
        self.trouble(who, true);
        let claim = self.instances[who].session.claim(n, paid).expect("claims");
        let lists = if paid { 1 } else { 4 };
        let mut expected = Vec::new();
        for (number, list) in self.lists.iter_mut().take(lists).enumerate() {
            while expected.len() < n
                && let Some(id) = list.pop_front()
            {
                expected.push((id, number));
            }
        }
        let got: HashSet<&str> = claim.jobs.iter().map(|job| job.id.as_str()).collect();
        let ids: HashSet<&str> = expected.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(got, ids, "{:?}", self.history);
        let more = self.lists.iter().take(lists).any(|list| !list.is_empty());
        assert_eq!(claim.more, more);
        let drop = self.rng.u8(..8) == 0; // nobody ever hears of it: a stranger in the claims
        self.note("claim", format!("by {who}: {expected:?} dropped {drop}"));
        for flight in claim.jobs {
            let job = self.jobs.get_mut(flight.id.as_str()).expect("known");
            let phase = job.phase.unwrap_or(if job.request.is_some() {
                Phase::Polling
            } else {
                Phase::Submitting
            });
            assert_eq!(flight.phase, phase);
            assert_eq!(
                flight.request.as_ref().map(|request| &*request.0),
                job.request.as_deref()
            );
            assert_eq!((flight.attempt, flight.seq), (job.attempt, 0));
            job.phase = Some(phase);
            job.started |= phase != Phase::Telling;
            job.token = flight.token.0.to_string();
            job.place = Place::Claim(who, flight.token.0.to_string());
            if !drop {
                self.held[who].push(*flight);
            }
        }
    }

    fn new_request(&mut self) -> String {
        self.requests += 1;
        format!("r{}", self.requests)
    }

    /// A step of an owner.
    fn own(&mut self, who: usize) {
        let busy: Vec<usize> = (0..3).filter(|who| !self.held[*who].is_empty()).collect();
        if busy.is_empty() {
            return;
        }
        let who = busy[who % busy.len()];
        let place = self.rng.usize(..self.held[who].len());
        let mut flight = self.held[who].swap_remove(place);
        let id = flight.id.to_string();
        let request = self.new_request();
        let mut next = self.jobs[&id].clone();
        let adopts = flight.request.is_none() && next.request.is_some();
        let dice = self.rng.u8(..10);
        let (what, write) = match flight.phase {
            Phase::Submitting if dice < 6 => ("submitted", accepted(&mut flight, &request)),
            Phase::Submitting if dice < 8 && flight.attempt + 1 < flight.max_attempts => {
                flight.attempt += 1; // of unknown outcome
                ("later", retrying(&flight, Duration::from_secs(5)))
            }
            Phase::Submitting if dice < 9 => ("later", retrying(&flight, Duration::from_secs(5))),
            Phase::Submitting => ("end", ending(&flight, EndState::Dead)),
            Phase::Polling | Phase::Collecting if dice < 7 => ("completed", completed(&mut flight)),
            Phase::Polling | Phase::Collecting if dice < 9 => {
                ("later", retrying(&flight, Duration::from_secs(5)))
            }
            Phase::Polling | Phase::Collecting => ("end", ending(&flight, EndState::Cancelled)),
            Phase::Delivering => ("end", ending(&flight, EndState::Done)),
            Phase::Telling => ("end", ending(&flight, EndState::Dead)),
        };
        self.note(what, format!("of {id} by {who}, {:?}", flight.request));
        self.trouble(who, true);
        let written = self.instances[who].write(&mut flight, &write);
        let adopted = next.request.clone().map(|id| RequestId(id.into()));
        if adopts {
            // A late request id is there: nothing but this is said, nothing is written.
            self.note("adopted under an owner", id.clone());
            let mut said = Written::Adopted;
            if what == "submitted" {
                next.tried.push(request);
                said = Written::Other;
            }
            assert_eq!(written, said, "{:?}", self.history);
            flight.request = adopted;
            flight.phase = Phase::Polling;
            flight.attempt = flight.attempt.max(1);
            self.held[who].push(flight);
        } else {
            assert_eq!(written, Written::Ok, "{:?}", self.history);
            match (what, &write) {
                ("submitted", _) => {
                    next.request = Some(request);
                    next.attempt = flight.attempt;
                    next.phase = Some(Phase::Polling);
                    next.crashes = 0;
                    next.submits += 1;
                    self.held[who].push(flight);
                }
                ("completed", _) => {
                    next.phase = Some(Phase::Delivering);
                    next.crashes = 0;
                    self.counted += 1;
                    self.held[who].push(flight);
                }
                ("later", _) => {
                    next.tried.extend(next.request.take());
                    next.attempt = flight.attempt;
                    next.phase = None;
                    next.place = Place::Later;
                    self.later.insert(id.clone());
                }
                (_, Write::End { state, .. }) => next.place = Place::Ended(state.as_str()),
                _ => unreachable!("four kinds of writes"),
            }
        }
        self.jobs.insert(id, next);
    }

    /// Somebody who is not the owner any more writes.
    fn ghost(&mut self) {
        if self.ghosts.is_empty() {
            return;
        }
        // Rare by itself, and the hardest: a late request id while somebody else is about to submit.
        let rival = self.ghosts.iter().position(|(_, flight)| {
            let job = &self.jobs[flight.id.as_str()];
            let submits = job.phase == Some(Phase::Submitting) && job.request.is_none();
            flight.phase == Phase::Submitting && submits && matches!(job.place, Place::Claim(..))
        });
        let place = match rival {
            Some(rival) if self.rng.bool() => rival,
            _ => self.rng.usize(..self.ghosts.len()),
        };
        let (who, mut flight) = self.ghosts.swap_remove(place);
        let id = flight.id.to_string();
        let mut next = self.jobs[&id].clone();
        if flight.phase == Phase::Submitting && flight.request.is_none() && self.rng.u8(..3) > 0 {
            let request = self.new_request();
            let write = accepted(&mut flight, &request);
            self.trouble(who, true);
            let written = self.instances[who].write(&mut flight, &write);
            let ended = matches!(next.place, Place::Ended(_));
            let elsewhere = next.phase.is_some_and(|phase| phase != Phase::Submitting);
            self.note(
                "late request",
                format!("{request} of {id}: {written:?}, was {:?}", next.place),
            );
            if next.request.is_some() || ended || elsewhere {
                assert_eq!(written, Written::Cancel, "{:?}", self.history);
                if !ended && next.request.is_some() {
                    next.tried.push(request);
                }
            } else {
                assert_eq!(written, Written::Stale, "adopted: {:?}", self.history);
                next.attempt = if next.token == *flight.token.0 {
                    flight.attempt
                } else {
                    next.attempt.max(1)
                };
                next.request = Some(request);
                next.phase = Some(Phase::Polling);
                next.crashes = 0;
                next.submits += 1;
                if !matches!(next.place, Place::Claim(..)) {
                    self.later.remove(&id);
                    for list in &mut self.lists {
                        list.retain(|other| *other != id);
                    }
                    self.lists[0].push_front(id.clone());
                    next.place = Place::Ready(0);
                    next.first = false;
                }
            }
            self.jobs.insert(id, next);
        } else {
            let session = &self.instances[who].session;
            match self.rng.u8(..5) {
                0 => assert_eq!(session.give_back(&[&flight]), Ok(0)),
                1 => assert_eq!(session.crash(&flight.id, &flight.token), Ok(0)),
                2 => {
                    let write = completed(&mut flight);
                    assert_eq!(
                        self.instances[who].write(&mut flight, &write),
                        Written::Stale
                    );
                }
                3 => {
                    let write = retrying(&flight, Duration::from_secs(5));
                    assert_eq!(
                        self.instances[who].write(&mut flight, &write),
                        Written::Stale
                    );
                }
                _ => assert_eq!(
                    self.instances[who].end(&mut flight, EndState::Dead),
                    Written::Stale
                ),
            }
            self.note("old token", id);
        }
    }

    /// Where an owner's job goes that he returns as it stands.
    fn returned(&mut self, id: &str) {
        let job = self.jobs.get_mut(id).expect("known");
        if job.phase == Some(Phase::Submitting) && job.request.is_none() {
            job.phase = None;
            job.place = Place::Ready(job.list);
            self.lists[job.list].push_front(id.to_owned());
        } else {
            job.place = Place::Ready(0);
            self.lists[0].push_back(id.to_owned());
        }
    }

    fn give_back(&mut self, who: usize) {
        let flights = std::mem::take(&mut self.held[who]);
        self.note("give back", format!("{} by {who}", flights.len()));
        self.trouble(who, true);
        self.instances[who]
            .session
            .give_back(&flights.iter().collect::<Vec<_>>())
            .expect("gives");
        let mut order: Vec<Flight> = flights.into_iter().rev().collect();
        order.sort_by_key(|flight| std::cmp::Reverse(flight.queued_at));
        for flight in order {
            let id = flight.id.to_string();
            // After two submits it knows of more attempts than the record.
            self.jobs.get_mut(&id).expect("known").attempt = flight.attempt;
            self.returned(&id);
            self.ghosts.push((who, flight));
        }
    }

    fn requeue(&mut self, id: &str, limit: u32) {
        let job = self.jobs.get_mut(id).expect("known");
        if job.phase == Some(Phase::Submitting) && job.request.is_none() {
            job.attempt += 1;
            job.crashes += 1;
            if job.crashes >= limit || job.attempt >= job.max_attempts {
                job.phase = Some(Phase::Telling);
                job.place = Place::Ready(0);
                self.lists[0].push_back(id.to_owned());
            } else {
                job.phase = None;
                job.place = Place::Later;
                self.later.insert(id.to_owned());
            }
        } else {
            job.place = Place::Ready(0);
            self.lists[0].push_back(id.to_owned());
        }
    }

    fn crash(&mut self, who: usize) {
        if self.held[who].is_empty() {
            return;
        }
        let place = self.rng.usize(..self.held[who].len());
        let flight = self.held[who].swap_remove(place);
        let id = flight.id.to_string();
        self.note("crash", format!("{id} of {who}"));
        self.trouble(who, true);
        self.instances[who]
            .session
            .crash(&flight.id, &flight.token)
            .expect("answers");
        let job = self.jobs.get_mut(&id).expect("known");
        if job.phase == Some(Phase::Submitting) && job.request.is_none() {
            self.requeue(&id, 3);
        } else {
            job.crashes += 1;
            if job.crashes >= 3 && job.phase == Some(Phase::Telling) {
                job.place = Place::Ended(if job.cancelled { "cancelled" } else { "dead" });
            } else {
                if job.crashes >= 3 {
                    job.phase = Some(Phase::Telling);
                }
                job.place = Place::Ready(0);
                self.lists[0].push_back(id);
            }
        }
        self.ghosts.push((who, flight));
    }

    /// A person wants a job ended, whatever it is doing.
    fn cancel(&mut self) {
        let all: Vec<&String> = self.jobs.keys().collect();
        if all.is_empty() {
            return;
        }
        let id = all[self.rng.usize(..all.len())].clone();
        let wish = JobId::new(&id).expect("an id");
        let (said, _) = self.view.cancel(&wish).expect("answers");
        self.note("cancel", format!("{id}: {said:?}"));
        let job = self.jobs.get_mut(&id).expect("known");
        let owned = matches!(job.place, Place::Claim(..));
        let expected = match (&job.place, job.phase) {
            (Place::Ended(_), _) => Cancel::Over,
            (_, Some(Phase::Telling)) if job.cancelled => Cancel::Asked,
            (_, Some(Phase::Delivering | Phase::Telling)) => Cancel::Late,
            _ if owned || job.request.is_some() => {
                job.asked = true;
                Cancel::Asked
            }
            _ => {
                (job.asked, job.cancelled, job.first, job.crashes) = (false, true, false, 0);
                job.phase = Some(Phase::Telling);
                job.place = Place::Ready(0);
                self.later.remove(&id);
                for list in &mut self.lists {
                    list.retain(|other| *other != id);
                }
                self.lists[0].push_back(id);
                Cancel::Ended
            }
        };
        assert_eq!(said, expected, "{:?}", self.history);
    }

    /// As the keeper gives back claims that memory does not know.
    fn disown(&mut self, who: usize) {
        let known: HashSet<String> = self.held[who]
            .iter()
            .map(|flight| flight.token.0.to_string())
            .collect();
        for (id, token) in self.instances[who].session.claims().expect("answers") {
            if known.contains(&token) {
                continue;
            }
            self.trouble(who, true);
            self.instances[who]
                .session
                .disown(&id, &token)
                .expect("answers");
            self.note("disown", format!("{id} of {who}"));
            self.returned(&id);
        }
    }

    fn promote(&mut self, who: usize) {
        self.bench.an_hour_passes();
        let order = self.bench.later();
        assert_eq!(order.iter().cloned().collect::<BTreeSet<_>>(), self.later);
        self.note("promote", format!("{order:?}"));
        self.trouble(who, false);
        self.instances[who].session.promote(500).expect("promotes");
        for id in order.iter().rev() {
            let job = self.jobs.get_mut(id).expect("known");
            if !job.first {
                job.place = Place::Ready(job.list);
                self.lists[job.list].push_front(id.clone());
            }
        }
        for id in &order {
            let job = self.jobs.get_mut(id).expect("known");
            if std::mem::take(&mut job.first) {
                job.place = Place::Ready(job.list);
                self.lists[job.list].push_back(id.clone());
            }
        }
        self.later.clear();
    }

    fn take_over(&mut self, who: usize) {
        let heir = (who + 1 + self.rng.usize(..2)) % 3;
        let process_gone = self.rng.bool();
        let claims = self.instances[who].session.claims().expect("answers");
        let lease = if process_gone {
            Duration::from_secs(60)
        } else {
            Duration::ZERO
        };
        let name = self.instances[who].name();
        let (_, at) = self.instances[heir]
            .session
            .instances()
            .expect("answers")
            .into_iter()
            .find(|(instance, _)| *instance == name)
            .expect("it lives");
        self.trouble(heir, true);
        assert!(
            self.instances[heir]
                .session
                .bury(&name, at, lease, process_gone, None)
                .expect("answers")
        );
        self.trouble(heir, true);
        self.instances[heir]
            .session
            .take_back(&name)
            .expect("answers");
        self.note("take over", format!("{who} by {heir}: {claims:?}"));
        self.takeovers += 1;
        let before = self.lists[0].len();
        for (id, _) in claims {
            self.requeue(&id, 10);
        }
        // The order of the claims is nobody's promise.
        let now = self.bench.ready("resume");
        let mut expected: Vec<String> = self.lists[0].iter().cloned().collect();
        let mut seen = now.clone();
        expected[before..].sort();
        seen[before..].sort();
        assert_eq!(seen, expected, "{:?}", self.history);
        self.lists[0] = now.into();
        while let Some(entry) = self.taken[who].pop_back() {
            self.inbox.push_front(entry);
        }
        let flights = std::mem::take(&mut self.held[who]);
        self.ghosts
            .extend(flights.into_iter().map(|flight| (who, flight)));
        self.instances[who].store.rename();
        assert!(self.instances[who].beat().fresh);
    }

    fn reassert(&mut self, who: usize) {
        // Where memory has had an answer that the record does not show, it knows of more attempts.
        for flight in &self.held[who] {
            let seq = self.bench.field(flight.id.as_str(), "seq");
            if seq != Some(flight.seq.to_string()) {
                self.jobs
                    .get_mut(flight.id.as_str())
                    .expect("known")
                    .attempt = flight.attempt;
            }
        }
        let held: Vec<Remembered> = self.held[who].iter().map(super::remembered).collect();
        // Not late: a late one may put a job that waits into the claims again, until the keeper gives it back.
        self.trouble(who, false);
        assert_eq!(
            self.instances[who].session.reassert(&held),
            Ok(vec![]),
            "{:?}",
            self.history
        );
        self.note("reassert", format!("{} of {who}", held.len()));
    }

    /// The daemon's own audit finds nothing in a store that only scripts wrote, whenever it comes.
    fn audit(&mut self, who: usize) {
        self.bench.audit_was(match self.rng.u8(..3) {
            0 => AUDIT_GAP,
            1 => AUDIT_TICK,
            _ => AUDIT_PATIENCE * 2,
        });
        self.trouble(who, false);
        let page = [100, 1000][self.rng.usize(..2)];
        let audit = self.instances[who].session.audit_pages(LEASE, page);
        assert!(audit.is_ok(), "{audit:?}");
        self.note("audit", format!("by {who}"));
        assert_eq!(self.bench.repairs(), self.repairs, "{:?}", self.history);
    }

    /// Something goes wrong that no script does, and is mended.
    fn plant(&mut self, who: usize) {
        let of = |wanted: fn(&Place) -> bool, rng: &mut Rng| {
            let all: Vec<(&String, &Job)> = self
                .jobs
                .iter()
                .filter(|(_, job)| wanted(&job.place))
                .collect();
            (!all.is_empty()).then(|| {
                let (id, job) = all[rng.usize(..all.len())];
                (id.clone(), job.place.clone())
            })
        };
        let (kind, leak) = match self.rng.u8(..6) {
            0 => ("ready", format!("LPUSH {NS}:ready:high nobody")),
            1 => ("later", format!("ZADD {NS}:later 1 nobody")),
            2 => {
                let name = self.instances[who].name();
                ("stale_claim", format!("HSET {NS}:claims:{name} nobody t"))
            }
            3 => match of(|place| matches!(place, Place::Claim(..)), &mut self.rng) {
                Some((id, Place::Claim(owner, _))) => {
                    let name = self.instances[owner].name();
                    ("claim", format!("HDEL {NS}:claims:{name} {id}"))
                }
                _ => return,
            },
            4 => match of(|place| *place == Place::Later, &mut self.rng) {
                Some((id, _)) => ("unscheduled", format!("ZREM {NS}:later {id}")),
                None => return,
            },
            _ => match of(|place| matches!(place, Place::Ready(_)), &mut self.rng) {
                Some((id, Place::Ready(list))) => {
                    self.lists[list].retain(|other| *other != id);
                    self.lists[list].push_front(id.clone());
                    (
                        "unlisted",
                        format!("LREM {NS}:ready:{} 0 {id}", LISTS[list]),
                    )
                }
                _ => return,
            },
        };
        self.note("plant", leak.clone());
        self.bench.ask::<u64>(&leak);
        *self.repairs.entry(kind.to_owned()).or_default() += 1;
        let page = [100, 1000][self.rng.usize(..2)];
        // Two walks, and then some ticks for the searches: five in each.
        for _ in 0..2 {
            self.instances[who].audit_all(&self.bench, page);
        }
        for _ in 0..20 {
            if self.bench.repairs() == self.repairs {
                return;
            }
            self.bench.audit_was(AUDIT_PATIENCE * 2);
            self.instances[who].audit();
        }
        let now = self.bench.repairs();
        panic!("{now:?}, not {:?}: {:#?}", self.repairs, self.history);
    }

    /// Redis says the same as the model.
    fn check(&self, step: u64) {
        let fail = |what: &str| -> String { format!("step {step}, {what}: {:#?}", self.history) };
        // What has ended does not change any more, or it is seen a little later.
        let jobs: Vec<(&String, &Job)> = self
            .jobs
            .iter()
            .filter(|(_, job)| !matches!(job.place, Place::Ended(_)) || step.is_multiple_of(50))
            .collect();
        // All in one round trip: they are what a run of ten thousand steps takes its time for.
        let lists = LISTS.map(|name| format!("LRANGE {NS}:ready:{name} 0 -1"));
        let mut commands = lists.to_vec();
        commands.push(format!("ZRANGE {NS}:later 0 -1"));
        commands.push(format!("LLEN {NS}:bell"));
        let names = self.instances.iter().map(Instance::name);
        commands.extend(names.map(|name| format!("HGETALL {NS}:claims:{name}")));
        commands.extend(jobs.iter().map(|(id, _)| format!("HGETALL {NS}:job:{id}")));
        let mut answers = self.bench.ask_all(&commands);
        let mut next = || answers.next().expect("an answer a command");
        for (list, name) in self.lists.iter().zip(LISTS) {
            let mut ids: Vec<String> = read(next()).expect("a list");
            ids.reverse();
            let expected: Vec<String> = list.iter().cloned().collect();
            assert_eq!(ids, expected, "{}", fail(name));
        }
        let later: BTreeSet<String> = read(next()).expect("a set");
        assert_eq!(later, self.later, "{}", fail("later"));
        assert!(read::<u64>(next()).expect("a number") <= 64);
        let mut claims = BTreeMap::new();
        for who in 0..self.instances.len() {
            for (id, token) in read::<BTreeMap<String, String>>(next()).expect("a hash") {
                assert_eq!(
                    claims.insert(id, (who, token)),
                    None,
                    "{}",
                    fail("two owners")
                );
            }
        }
        for (id, job) in jobs {
            let record: BTreeMap<String, String> = read(next()).expect("a hash");
            let state = match &job.place {
                Place::Ready(_) => "queued",
                Place::Later => "later",
                Place::Claim(..) => "running",
                Place::Ended(state) => state,
            };
            let told = |name: &str| fail(&format!("{id}.{name} {record:?} {job:?}"));
            assert_eq!(
                (record["state"].as_str(), record["v"].as_str()),
                (state, "1"),
                "{}",
                told("state")
            );
            if let Place::Claim(who, token) = &job.place {
                assert_eq!(
                    claims.remove(id),
                    Some((*who, token.clone())),
                    "{}",
                    told("claim")
                );
                assert_eq!(&record["token"], token, "{}", told("token"));
            }
            let ended = matches!(job.place, Place::Ended(_));
            let phase = job
                .phase
                .filter(|_| !ended)
                .map(|phase| phase.as_str().to_owned());
            assert_eq!(record.get("phase"), phase.as_ref(), "{}", told("phase"));
            assert_eq!(
                record.get("request_id"),
                job.request.as_ref(),
                "{}",
                told("request_id")
            );
            let tried: Vec<&str> = record
                .get("tried")
                .map_or(Vec::new(), |tried| tried.split(' ').collect());
            let both =
                |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
            assert_eq!(
                both(tried.clone()).len(),
                tried.len(),
                "{}",
                told("tried twice")
            );
            assert_eq!(
                both(tried),
                job.tried.iter().cloned().collect(),
                "{}",
                told("tried")
            );
            assert_eq!(
                record["attempt"],
                job.attempt.to_string(),
                "{}",
                told("attempt")
            );
            let crashes = record.get("crashes").map_or("0", String::as_str);
            assert_eq!(crashes, job.crashes.to_string(), "{}", told("crashes"));
            assert_eq!(
                record.contains_key("cancel_asked"),
                job.asked && !ended,
                "{}",
                told("cancel_asked")
            );
            assert_eq!(
                record.contains_key("due_at"),
                job.place == Place::Later,
                "{}",
                told("due_at")
            );
        }
        assert!(claims.is_empty(), "{} {claims:?}", fail("claims of nobody"));
    }

    /// What is checked once: the stream, counts and expiries.
    fn check_events(&self) {
        let counted: Option<u64> = self.bench.ask("HGET t:stats counted");
        assert_eq!(counted.unwrap_or(0), self.counted);
        let mut of: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for (name, fields) in self.bench.events() {
            let job = fields.get("job").cloned().unwrap_or_default();
            *of.entry(job).or_default().entry(name).or_default() += 1;
        }
        let takeovers = of
            .get("")
            .and_then(|names| names.get("taken_over"))
            .copied()
            .unwrap_or(0);
        assert_eq!(takeovers, self.takeovers);
        for (id, job) in &self.jobs {
            let count = |name: &str| of[id].get(name).copied().unwrap_or(0);
            assert_eq!(count("queued"), 1, "{id}");
            assert_eq!(count("started"), usize::from(job.started), "{id}");
            assert_eq!(count("submitted"), job.submits, "{id}");
            assert_eq!(count("duplicate"), job.duplicates, "{id}");
            let ended = matches!(job.place, Place::Ended(_));
            assert_eq!(
                count("done") + count("failed") + count("cancelled"),
                usize::from(ended),
                "{id}"
            );
            assert_eq!(self.bench.ttl(&format!("job:{id}")) > 0, ended, "{id}");
            let spec = self.bench.ttl(&format!("spec:{id}"));
            let expected = match job.place {
                Place::Ended("dead") => spec > 0,
                Place::Ended(_) => spec == -2,
                _ => spec == -1,
            };
            assert!(expected, "{id}: {spec}");
        }
    }
}
