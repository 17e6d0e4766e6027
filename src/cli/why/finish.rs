//! When a job likely ends: a span from what its model's generations took, what stands before it and how quick
//! the last minutes were; or an honest word why nobody can know. Pure.

use super::super::table::{short, time_of_day};
use super::facts::Facts;
use crate::job::UnixMs;
use std::time::Duration;

/// Fetching a result and sending it, at least and at most as long as all goes well.
const DELIVERY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// After this a silent worker's jobs are taken over, unless `--lease` says otherwise.
pub(super) const LEASE: Duration = Duration::from_secs(30);

/// The likely end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Finish {
    /// It has ended.
    Over,
    /// Between these times, and from what that follows.
    Between(UnixMs, UnixMs, String),
    /// It cannot be known, and why.
    Unknown(String),
}

impl Finish {
    /// As a sentence; empty for one that is over.
    pub(crate) fn sentence(&self, now: UnixMs) -> String {
        match self {
            Finish::Over => String::new(),
            Finish::Unknown(why) => format!("When it ends cannot be known: {why}."),
            Finish::Between(from, to, basis) => {
                let wait = |at: &UnixMs| short(now.until(*at));
                format!(
                    "Likely done in {} to {} ({} to {} UTC): {basis}.",
                    wait(from),
                    wait(to),
                    time_of_day(from.0),
                    time_of_day(to.0)
                )
            }
        }
    }
}

fn after(now: UnixMs, wait: Duration) -> UnixMs {
    UnixMs(
        now.0
            .saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
    )
}

fn between(facts: &Facts, from: Duration, to: Duration, basis: String) -> Finish {
    let end = |wait, delivery| after(facts.now, wait + delivery);
    Finish::Between(end(from, DELIVERY.0), end(to, DELIVERY.1), basis)
}

/// Whole generations of its model, from what is known of it.
fn generation(facts: &Facts) -> Result<(Duration, Duration, String), String> {
    let Some(pace) = &facts.pace else {
        return Err(format!(
            "no generation of {} has ended yet, so nobody knows how long one takes",
            facts.model()
        ));
    };
    let (from, to) = pace.spread_beyond(Duration::ZERO);
    let known = match pace.known() {
        1 => "the one generation".to_owned(),
        n => format!("the last {n} generations"),
    };
    let took = if from == to {
        short(from)
    } else {
        format!("{} to {}", short(from), short(to))
    };
    Ok((
        from,
        to,
        format!("{known} of {} took {took}", facts.model()),
    ))
}

/// Jobs that ended a minute: the whole of the last minutes in which any did, and the best of them.
pub(super) fn ends_a_minute(minutes: &[(u64, u64)]) -> Option<(f64, f64)> {
    let ends: Vec<u64> = minutes.iter().map(|(done, failed)| done + failed).collect();
    let first = ends.iter().position(|n| *n > 0)?;
    let active = &ends[first..];
    let all: u64 = active.iter().sum();
    let best = active.iter().copied().max()?;
    Some((all as f64 / active.len() as f64, best as f64))
}

/// A job that is not submitted: it begins after `hold` at the earliest, and waits its turn then.
pub(super) fn unsubmitted(facts: &Facts, hold: Duration, ahead: Option<u64>) -> Finish {
    let generation = match generation(facts) {
        Ok(generation) => generation,
        Err(why) => return Finish::Unknown(why),
    };
    match wait_in_line(facts, ahead, (generation.0, generation.1)) {
        Ok((from, to, basis)) => {
            let basis = match basis {
                Some(basis) => format!("{}, and {basis}", generation.2),
                None => generation.2,
            };
            between(
                facts,
                hold + from + generation.0,
                hold + to + generation.1,
                basis,
            )
        }
        Err(why) => Finish::Unknown(why),
    }
}

type Wait = (Duration, Duration, Option<String>);

fn wait_in_line(
    facts: &Facts,
    ahead: Option<u64>,
    generation: (Duration, Duration),
) -> Result<Wait, String> {
    let place = facts.place.as_ref();
    let own = place.map_or(0, |place| place.own);
    if let Some(user) = &facts.user
        && let (Some(rate), Some(left)) = (&user.rate, user.left)
        && own >= left
    {
        return Err(format!(
            "--user-rate {rate} lets {left} more of its user's jobs begin at once, and {own} come before it"
        ));
    }
    let own_slots = facts.user.as_ref().map_or(0, |user| user.slots);
    // `ahead` jobs through so many slots, one of which falls free within a generation.
    let through = |ahead: u64, slots: u64, whose: String| -> Wait {
        let rounds = u32::try_from(ahead / slots.max(1)).unwrap_or(u32::MAX);
        let from = generation.0.saturating_mul(rounds);
        let to = generation.1.saturating_mul(rounds.saturating_add(1));
        (from, to, Some(whose))
    };
    if place.is_some_and(|place| place.for_slot) && own_slots > 0 {
        let whose = format!("its user may have {own_slots} at once");
        return Ok(through(own, own_slots, whose));
    }
    let Some(ahead) = ahead else {
        return Ok((Duration::ZERO, Duration::from_secs(2), None));
    };
    if facts.get("behind").is_some()
        && let Some(limit) = facts.limit.as_ref().filter(|limit| limit.most > 0)
    {
        let whose = format!("{} of {} run at once", limit.most, limit.pattern);
        return Ok(through(ahead, limit.most, whose));
    }
    let is_full = facts.window.is_some_and(|(now, most)| now >= most);
    if ahead == 0 && !is_full {
        return Ok((Duration::ZERO, Duration::from_secs(2), None));
    }
    match (ends_a_minute(&facts.minutes), facts.window) {
        (Some((usual, best)), _) if usual > 0.0 => {
            let minutes = |rate: f64| Duration::from_secs_f64(ahead as f64 / rate * 60.0);
            let basis = format!("jobs ended at {usual:.1} a minute lately");
            let more = if is_full {
                generation.1
            } else {
                Duration::from_secs(2)
            };
            // Those before it may end slower than the last ones did: half as long again.
            Ok((
                minutes(best),
                minutes(usual).mul_f64(1.5) + more,
                Some(basis),
            ))
        }
        (_, Some((_, most))) if most > 0 => {
            let whose = format!("{most} requests may be at fal at once");
            Ok(through(ahead, most, whose))
        }
        _ => Err(format!(
            "{ahead} stand before it, and nothing has ended in the last minutes that would show the pace"
        )),
    }
}

/// A request that fal has. `running`: for how long it runs; `None`: nobody knows that it does, and it was
/// submitted so long ago. `ahead`: its place in fal's queue.
pub(super) fn at_fal(
    facts: &Facts,
    hold: Duration,
    runs: Option<Duration>,
    in_fals_queue: Option<Option<u64>>,
) -> Finish {
    let (from, to, basis) = match generation(facts) {
        Ok(generation) => generation,
        Err(why) => return Finish::Unknown(why),
    };
    match in_fals_queue {
        Some(None) => {
            return Finish::Unknown(
                "it waits in fal's own queue, and fal does not say where".into(),
            );
        }
        Some(Some(ahead)) => {
            let turns = u32::try_from(ahead).unwrap_or(u32::MAX).saturating_add(1);
            let basis = format!("{basis}, and fal says {ahead} stand before it there");
            return between(facts, hold + from, hold + to.saturating_mul(turns), basis);
        }
        None => {}
    }
    let age = runs.unwrap_or_default();
    let Some(pace) = &facts.pace else {
        return Finish::Unknown("nothing is known of its model".into());
    };
    let (from, to) = pace.spread_beyond(age);
    let beyond = from == age;
    let left = |whole: Duration| hold + whole.saturating_sub(age);
    let basis = if beyond {
        format!(
            "{basis}; this one has run for {} already, so the guess is poor",
            short(age)
        )
    } else {
        format!("{basis}, this one is {} old", short(age))
    };
    between(facts, left(from), left(to), basis)
}

/// Its result is there, or its failure is to be told.
pub(super) fn delivery(facts: &Facts, hold: Duration, basis: &str) -> Finish {
    between(facts, hold, hold, basis.to_owned())
}
