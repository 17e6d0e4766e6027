//! What holds after every decision, whatever is answered: first every state with every answer it may get, then
//! whole lives at random. The other files say what a decision is; here stands what none may be.

use super::*;

#[derive(Clone, Debug)]
enum Answer {
    Submitted(Submitted),
    Polled(Polled),
    Cancelled(Cancelled),
    Collected(Collected, FoundSummary),
    Directed(Directed, FoundSummary),
    Told(bool),
    Delivered,
    Refused(Kind),
}

/// Every failure that an answer can carry.
fn failures() -> Vec<Failure> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for remedy in [Remedy::Final, Remedy::RetryStep, Remedy::TryAnew] {
            for charged in [Charged::No, Charged::Unknown, Charged::Yes] {
                let units = (charged == Charged::Yes).then(|| "1".to_owned());
                all.push(Failure {
                    units,
                    ..failed(kind, remedy, charged)
                });
            }
        }
    }
    all
}

/// The answers that a flight may get now.
fn answers(flight: &Flight) -> Vec<Answer> {
    let mut all = Vec::new();
    let found = [
        one_file(),
        FoundSummary::default(),
        FoundSummary {
            all_flagged: true,
            ..one_file()
        },
    ];
    match flight.phase {
        Phase::Submitting if flight.via == Via::Direct => {
            for found in found {
                let good = Directed::Output(output(Some("1")), Some(RequestId("d".into())));
                all.push(Answer::Directed(good, found));
            }
            for failure in failures() {
                let none = FoundSummary::default();
                all.push(Answer::Directed(
                    Directed::Failed(failure.clone(), Some(RequestId("d".into()))),
                    none.clone(),
                ));
                all.push(Answer::Directed(Directed::Unknown(failure, None), none));
            }
        }
        Phase::Submitting => {
            all.push(Answer::Submitted(accepted(&format!(
                "request-{}",
                flight.attempt + 1
            ))));
            for failure in failures() {
                // What is refused costs nothing: the border of `fal` sees to it.
                let free = Failure {
                    charged: Charged::No,
                    units: None,
                    ..failure.clone()
                };
                all.push(Answer::Submitted(Submitted::Refused(free)));
                all.push(Answer::Submitted(Submitted::Unknown(failure)));
            }
        }
        Phase::Polling if cancel_is_due(flight) => {
            all.extend([
                Answer::Cancelled(Cancelled::Requested),
                Answer::Cancelled(Cancelled::Removed),
                Answer::Cancelled(Cancelled::AlreadyCompleted),
                Answer::Cancelled(Cancelled::Missing),
                Answer::Cancelled(Cancelled::Failed(again())),
            ]);
        }
        Phase::Polling => {
            all.extend([
                Answer::Polled(Polled::InQueue { position: Some(1) }),
                Answer::Polled(Polled::InProgress),
                Answer::Polled(Polled::Completed),
                Answer::Polled(Polled::Broke {
                    kind: Kind::Timeout,
                    remedy: Remedy::TryAnew,
                }),
                Answer::Polled(Polled::Broke {
                    kind: Kind::Unavailable,
                    remedy: Remedy::Final,
                }),
                Answer::Polled(Polled::Missing),
                Answer::Polled(Polled::Failed(again())),
            ]);
        }
        Phase::Collecting => {
            for found in found {
                all.push(Answer::Collected(
                    Collected::Output(output(Some("1"))),
                    found,
                ));
            }
            let none = FoundSummary::default();
            all.push(Answer::Collected(Collected::NotYet, none.clone()));
            all.push(Answer::Collected(Collected::Missing, none.clone()));
            for failure in failures() {
                all.push(Answer::Collected(Collected::Failed(failure), none.clone()));
            }
        }
        Phase::Delivering => {
            all.push(Answer::Delivered);
            all.extend(Kind::ALL.map(Answer::Refused));
        }
        Phase::Telling => all.extend([Answer::Told(true), Answer::Told(false)]),
    }
    all
}

fn decide(flight: &mut Flight, answer: Answer, now: Moment) -> Change {
    match answer {
        Answer::Submitted(answer) => after_submit(flight, answer, &POLICY, now),
        Answer::Polled(answer) => after_poll(flight, answer, 1, &POLICY, now),
        Answer::Cancelled(answer) => after_cancel(flight, answer, now),
        Answer::Collected(answer, found) => after_collect(flight, answer, &found, &POLICY, now),
        Answer::Directed(answer, found) => after_direct(flight, answer, &found, now),
        Answer::Told(told) => end_failed(flight, Some(told)),
        Answer::Delivered => delivered(flight, &Receipt::default()),
        Answer::Refused(kind) => fail(flight, failure(kind, "refused", Charged::No), now),
    }
}

struct Before {
    phase: Phase,
    attempt: u32,
    charged: Charged,
    units: f64,
    request: Option<RequestId>,
    target: bool,
}

impl Before {
    fn of(flight: &Flight) -> Before {
        Before {
            phase: flight.phase,
            attempt: flight.attempt,
            charged: flight.charged,
            units: units(flight),
            request: flight.request.clone(),
            target: flight.target.is_some(),
        }
    }
}

fn units(flight: &Flight) -> f64 {
    flight
        .units
        .as_deref()
        .map_or(0.0, |units| units.parse().unwrap())
}

/// What must hold after every decision.
fn assert_lawful(before: &Before, flight: &Flight, change: &Change, what: &str) {
    assert!(
        flight.attempt <= flight.max_attempts,
        "{what}: paid too often"
    );
    assert!(
        flight.attempt <= before.attempt + 1,
        "{what}: two attempts at once"
    );
    assert!(
        flight.charged >= before.charged,
        "{what}: charged got better"
    );
    assert!(units(flight) >= before.units, "{what}: units got fewer");
    if flight.attempt > before.attempt {
        assert_eq!(
            before.phase,
            Phase::Submitting,
            "{what}: an attempt without a submit"
        );
    }
    match &change.write {
        None => {
            assert!(matches!(change.next, Next::Now | Next::In(_)), "{what}");
            assert!(
                matches!(flight.phase, Phase::Polling | Phase::Collecting),
                "{what}: a phase that nobody recorded"
            );
            assert!(!flight.closing);
        }
        Some(Write::Submitted {
            request, attempt, ..
        }) => {
            assert_eq!(flight.request.as_ref(), Some(request), "{what}");
            assert_eq!(
                (*attempt, flight.phase),
                (flight.attempt, Phase::Polling),
                "{what}"
            );
        }
        Some(Write::Save { patch, .. }) => {
            assert!(!flight.closing, "{what}");
            assert!(
                !patch.events.iter().any(is_end),
                "{what}: an end while it lives"
            );
            let phase = patch.set.iter().find(|(name, _)| *name == "phase");
            assert_eq!(
                phase.map(|(_, word)| word.as_str()),
                Some(flight.phase.as_str()),
                "{what}"
            );
            if flight.phase == Phase::Telling {
                assert!(before.target, "{what}: told to nobody");
                assert!(flight.failure.is_some(), "{what}");
                assert!(
                    set(change, "kind").is_some() && set(change, "error").is_some(),
                    "{what}"
                );
            }
        }
        Some(Write::Later { known, patch, .. }) => {
            assert_eq!(change.next, Next::Over, "{what}");
            assert!(
                flight.attempt < flight.max_attempts,
                "{what}: nothing left to try"
            );
            assert!(
                flight.cancelling.is_none(),
                "{what}: a wish to end it is forgotten"
            );
            // A direct call's id comes with the answer that it failed.
            assert!(
                known == &before.request || flight.via == Via::Direct,
                "{what}"
            );
            if let Some(old) = known {
                let tried = set(change, "tried").unwrap_or_default();
                assert!(
                    tried.split(' ').any(|id| id == &*old.0),
                    "{what}: {old} is lost"
                );
                assert!(deletes(change, "request_id"), "{what}");
            }
            assert_eq!(
                set(change, "charged"),
                Some(flight.charged.as_str()),
                "{what}"
            );
            assert_eq!(
                set(change, "attempt"),
                Some(flight.attempt.to_string().as_str()),
                "{what}"
            );
            let doubt = set(change, "doubt") == Some("submit");
            assert!(doubt != deletes(change, "doubt"), "{what}");
            let [event] = &patch.events[..] else {
                panic!("{what}: {change:?}")
            };
            assert_eq!(event.name, "retrying", "{what}");
            assert!(
                field(event, "kind").is_some() && field(event, "error").is_some(),
                "{what}"
            );
        }
        Some(Write::End { state, patch }) => {
            assert_eq!(change.next, Next::Over, "{what}");
            assert!(flight.closing, "{what}");
            let ends: Vec<_> = patch.events.iter().filter(|event| is_end(event)).collect();
            let [end] = ends[..] else {
                panic!("{what}: ends {ends:?}")
            };
            let name = match state {
                EndState::Done => "done",
                EndState::Dead => "failed",
                EndState::Cancelled => "cancelled",
            };
            assert_eq!(end.name, name, "{what}");
            assert_eq!(
                patch.events.last().map(|event| event.name),
                Some(name),
                "{what}: it is last"
            );
            assert_eq!(
                field(end, "charged"),
                Some(flight.charged.as_str()),
                "{what}"
            );
            assert_eq!(end.since, Some(flight.queued_at), "{what}");
            assert_eq!(
                field(end, "kind").is_some(),
                *state != EndState::Done,
                "{what}"
            );
            if *state == EndState::Done {
                assert_eq!(flight.charged, Charged::Yes, "{what}: a result is paid");
            } else if before.target && before.phase != Phase::Telling {
                let kind = flight.failure.as_ref().map(|(kind, _)| *kind);
                assert_eq!(
                    kind,
                    Some(Kind::ChatUnreachable),
                    "{what}: ended without being told"
                );
            }
        }
    }
    assert!(
        !format!("{change:?}").contains("secret"),
        "{what}: a prompt got out"
    );
}

fn is_end(event: &Event) -> bool {
    matches!(event.name, "done" | "failed" | "cancelled")
}

/// Every state that one decision may find, as far as decisions look at it.
fn states() -> Vec<(String, Box<dyn Fn() -> Flight>)> {
    let mut all: Vec<(String, Box<dyn Fn() -> Flight>)> = Vec::new();
    let wishes = [
        None,
        cancelling(Kind::Timeout, None),
        cancelling(Kind::Cancelled, None),
        cancelling(Kind::Timeout, Some(9000)),
        cancelling(Kind::Cancelled, Some(-100_000)),
    ];
    for phase in [
        Phase::Submitting,
        Phase::Polling,
        Phase::Collecting,
        Phase::Delivering,
        Phase::Telling,
    ] {
        for (attempt, max) in [(0, 1), (0, 3), (1, 3), (2, 3), (1, 1), (3, 3)] {
            let submitting = phase == Phase::Submitting;
            if (submitting && attempt == max) || (!submitting && attempt == 0) {
                continue;
            }
            for bits in 0..64_u32 {
                let [target, repay, direct, doubt, charged, tired] =
                    [0, 1, 2, 3, 4, 5].map(|bit| bits >> bit & 1 == 1);
                for (number, wish) in wishes.into_iter().enumerate() {
                    let working = matches!(phase, Phase::Polling | Phase::Collecting);
                    if (wish.is_some() && !working) || (direct && phase != Phase::Submitting) {
                        continue;
                    }
                    let name = format!("{phase:?} {attempt}/{max} bits {bits:06b} wish {number}");
                    all.push((
                        name,
                        Box::new(move || {
                            let mut flight = flight(phase);
                            (flight.attempt, flight.max_attempts) = (attempt, max);
                            flight.repay = repay;
                            flight.cancelling = wish;
                            if !target {
                                flight.target = None;
                            }
                            if direct {
                                flight.via = Via::Direct;
                            }
                            if doubt {
                                flight.doubt = Doubt::Submit;
                            }
                            if charged {
                                flight.charged = Charged::Unknown;
                            }
                            if tired {
                                flight.step_tries = BAD_ANSWERS + 1; // odd: a cancel has just failed
                                flight.missing = Some((2, at(-20_000).now));
                                flight.running_at = Some(at(-700_000).now);
                            }
                            if phase == Phase::Delivering {
                                flight.charged = Charged::Yes;
                            }
                            if phase == Phase::Telling {
                                flight.failure = Some((Kind::Timeout, "why".to_owned()));
                            }
                            flight
                        }),
                    ));
                }
            }
        }
    }
    all
}

#[test]
fn every_state_with_every_answer_is_lawful() {
    let mut decisions = 0;
    for (name, state) in states() {
        for answer in answers(&state()) {
            let mut flight = state();
            let before = Before::of(&flight);
            let what = format!("{name}, {answer:?}");
            let change = decide(&mut flight, answer, at(10_000));
            assert_lawful(&before, &flight, &change, &what);
            decisions += 1;
        }
    }
    assert!(decisions > 50_000, "{decisions}");
}

/// What a claim makes of the record that `later` wrote.
fn claimed_again(old: &Flight, change: &Change) -> Flight {
    let mut flight = flight(Phase::Submitting);
    flight.attempt = set(change, "attempt").unwrap().parse().unwrap();
    flight.max_attempts = old.max_attempts;
    flight.tries = set(change, "tries").unwrap().parse().unwrap();
    flight.charged = Charged::parse(set(change, "charged").unwrap()).unwrap();
    flight.units = set(change, "units").map(str::to_owned);
    flight.tried = set(change, "tried").map_or(old.tried.clone(), str::to_owned);
    flight.doubt = Doubt::parse(set(change, "doubt").unwrap_or_default());
    (flight.repay, flight.via) = (old.repay, old.via);
    if old.target.is_none() {
        flight.target = None;
    }
    flight
}

/// Whole lives with random answers: each ends, once, and pays no more often than it may.
#[test]
fn every_life_ends_whatever_is_answered() {
    let seed = 7;
    let mut random = fastrand::Rng::with_seed(seed);
    for life in 0..3000 {
        let mut flight = flight(Phase::Submitting);
        flight.max_attempts = random.u32(1..=4);
        flight.repay = random.bool();
        if random.bool() {
            flight.target = None;
        }
        if random.u8(..) < 30 {
            flight.via = Via::Direct;
        }
        let (mut now, mut accepted, mut trail) = (0_i64, 0, Vec::new());
        loop {
            let what = format!("seed {seed}, life {life}: {trail:?}");
            assert!(trail.len() < 2000, "{what}: never ends");
            let moment = Moment {
                random: random.f64(),
                ..at(now)
            };
            let early = match flight.phase {
                Phase::Submitting => before_submit(&mut flight, moment),
                _ => None,
            };
            let before = Before::of(&flight);
            let change = match early {
                Some(change) => change,
                None => {
                    if flight.phase == Phase::Submitting && flight.doubt == Doubt::Submit {
                        before_resubmit(&mut flight);
                    }
                    let mut all = answers(&flight);
                    let answer = all.swap_remove(random.usize(..all.len()));
                    trail.push(format!("{answer:?}").chars().take(40).collect::<String>());
                    accepted += u32::from(matches!(
                        answer,
                        Answer::Submitted(Submitted::Accepted(_) | Submitted::Unknown(_))
                            | Answer::Directed(Directed::Output(..) | Directed::Unknown(..), _)
                    ));
                    let change = decide(&mut flight, answer, moment);
                    assert_lawful(&before, &flight, &change, &what);
                    change
                }
            };
            now += match (&change.write, change.next) {
                (Some(Write::End { .. }), _) => break,
                (Some(Write::Later { wait, .. }), _) => {
                    flight = claimed_again(&flight, &change);
                    wait.as_millis() as i64
                }
                (_, Next::In(wait)) => wait.as_millis() as i64,
                (_, Next::Now) => 1,
                (_, Next::Transfer | Next::Over) => panic!("{what}: {change:?}"),
            };
        }
        assert!(accepted <= flight.max_attempts, "life {life}: {trail:?}");
    }
}
