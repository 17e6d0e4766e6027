//! How long a model's generations take, learnt from those that ended, and when to look at the next one.
//! Pure: times and random numbers are arguments.
//!
//! A look costs a request; between two looks a finished job waits half the interval. Where a request that
//! still runs ends with hazard h (chance a second), the sum of looks and `PRICE` times the delay is least
//! with intervals of `sqrt(2 / (PRICE h))`. So nothing else needs a rule of its own: before the earliest
//! likely finish the hazard is small and the first look far, around the likely one looks are close, between
//! two populations (two sizes of picture) they are far again, and what is late beyond all that was seen
//! is looked at ever more rarely. All of it stays within the bounds of the operator.
//!
//! What takes less than the shortest interval is beyond that rule. Its first look, which no other precedes, comes
//! when nearly all of its kind have ended: right behind the submit, if they take no time at all.

use super::schedule::{PollBounds, poll_wait};
use super::window::Heard;
use super::{UnixMs, answer::Polled};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Looks that a second of a user's waiting is worth.
const PRICE: f32 = 24.0;
/// Generations remembered of a model.
pub(crate) const SAMPLES: usize = 32;
/// The newest of them count in full, as many as are measured at once; those before them less and less, so
/// that ten others push what was known before down to a sixth.
const FORGET: f32 = 0.75;
/// Weight of "it may take anything", in generations.
const DOUBT: f32 = 0.25;
/// How widely that doubt lies around the median: by this, in ln t, it falls to a third.
const DOUBT_WIDTH: f32 = 1.5;
/// Models that a worker remembers, and Redis.
pub(crate) const MODELS: usize = 1000;
/// Models told and asked about in one exchange with Redis.
const EXCHANGED: usize = 50;
/// The first edge of the table, ms.
const SHORTEST: f32 = 50.0;
/// Bounds of what is learnt, ms. No clock here tells less than the first.
const LEAST: u32 = 1;
const LONGEST: f32 = 7_200_000.0;
/// Nearly all of a kind.
const NEARLY_ALL: f32 = 0.9;
/// Steps of the table: this many to a factor of e, up to two hours.
const STEPS_PER_E: f32 = 16.0;
const STEPS: usize = 192;
/// fal runs at most so many requests of an account at once (more by contract).
const AT_ONCE: f64 = 40.0;
/// Generations whose time is measured at once: chosen at their submit, since of a burst the short ones end
/// first, and whoever learnt from every end would know nothing but its last, the longest.
const MEASURED: usize = 8;

/// What is known of one model.
#[derive(Clone, PartialEq)]
pub struct Pace {
    /// Times of generations, ms, the newest last; never empty.
    samples: Vec<u32>,
    /// By when nearly all have ended, ms.
    nearly_all: u32,
    /// Looks that are due until an age, at the edges of the table.
    due: Box<[f32; STEPS + 1]>,
}

impl Pace {
    /// From times in ms, the newest last; `None` without any.
    pub(crate) fn new(mut samples: Vec<u32>) -> Option<Pace> {
        let surplus = samples.len().saturating_sub(SAMPLES);
        samples.drain(..surplus);
        if samples.is_empty() {
            return None;
        }
        let mut all: Vec<_> = weighted(&samples).collect();
        Some(Pace {
            nearly_all: part(&mut all, NEARLY_ALL).unwrap_or(LONGEST as u32),
            due: table(&samples),
            samples,
        })
    }

    /// Reads what Redis holds: times in ms, separated by spaces. What is no time is left out.
    pub fn parse(text: &str) -> Option<Pace> {
        let words = text.split_ascii_whitespace().rev().take(SAMPLES);
        let mut samples: Vec<u32> = words
            .filter_map(|word| word.parse().ok())
            .filter(|ms| (LEAST..=LONGEST as u32).contains(ms))
            .collect();
        samples.reverse();
        Pace::new(samples)
    }

    /// How long a generation likely takes: the median, the newest counting most.
    pub fn likely(&self) -> Duration {
        self.likely_beyond(Duration::ZERO)
    }

    /// How long one likely takes in all that has run for this long already.
    pub fn likely_beyond(&self, age: Duration) -> Duration {
        let age_ms = age.as_millis() as u64;
        let mut longer = Vec::with_capacity(self.samples.len());
        longer.extend(weighted(&self.samples).filter(|(ms, _)| u64::from(*ms) > age_ms));
        // Nothing took so long yet: half as long again.
        match median(&mut longer) {
            Some(ms) => Duration::from_millis(u64::from(ms)),
            None => age.mul_f64(1.5),
        }
    }

    /// The part of generations that take no longer than this.
    fn ended_by(&self, age: Duration) -> f32 {
        let age_ms = (age.as_millis() as u64).max(u64::from(LEAST));
        let (mut ended, mut all) = (0.0, 0.0);
        for (ms, weight) in weighted(&self.samples) {
            all += weight;
            if u64::from(ms) <= age_ms {
                ended += weight;
            }
        }
        ended / all
    }

    /// Between which two times eight of ten generations end, of those that have run for this long already; where
    /// none took so long yet, up to twice as long again. Whole times, not what is left of them.
    pub fn spread_beyond(&self, age: Duration) -> (Duration, Duration) {
        let age_ms = age.as_millis() as u64;
        let mut longer = Vec::with_capacity(self.samples.len());
        longer.extend(weighted(&self.samples).filter(|(ms, _)| u64::from(*ms) > age_ms));
        let ms = |ms: u32| Duration::from_millis(u64::from(ms));
        match (part(&mut longer, 0.1), part(&mut longer, 0.9)) {
            (Some(from), Some(to)) => (ms(from), ms(to)),
            _ => (age, age * 2),
        }
    }

    /// How many generations it was learnt from.
    pub fn known(&self) -> usize {
        self.samples.len()
    }

    /// Until the next look of a rhythm, which goes on whatever other looks there were: at every whole number
    /// of looks that are due, and `phase`. `None`: not within two hours.
    fn wait(&self, age: Duration, phase: f64) -> Option<Duration> {
        let age_ms = age.as_secs_f64() * 1000.0;
        let goal = (self.due_until(age_ms) + 0.5 - phase).ceil() + phase;
        let at = self.due.partition_point(|due| f64::from(*due) < goal);
        if at > STEPS {
            return None;
        }
        let (from, to) = (edge(at.saturating_sub(1)), edge(at));
        let (low, high) = (self.due[at.saturating_sub(1)], self.due[at]);
        let part = (goal - f64::from(low)) / f64::from((high - low).max(f32::EPSILON));
        let then = from + part.clamp(0.0, 1.0) * (to - from);
        Some(Duration::from_secs_f64((then - age_ms).max(0.0) / 1000.0))
    }

    fn due_until(&self, age_ms: f64) -> f64 {
        let place = place(age_ms as f32);
        if place >= STEPS as f32 {
            return f64::from(self.due[STEPS]);
        }
        let at = place as usize;
        let (from, to) = (edge(at), edge(at + 1));
        let part = ((age_ms - from) / (to - from)).clamp(0.0, 1.0);
        let (low, high) = (self.due[at], self.due[at + 1]);
        f64::from(low) + part * f64::from(high - low)
    }
}

/// Without the table: it follows from the times.
impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pace").field(&self.samples).finish()
    }
}

/// Where a time lies in the table, in steps.
fn place(ms: f32) -> f32 {
    (libm::logf(ms.max(SHORTEST) / SHORTEST) * STEPS_PER_E).min(STEPS as f32)
}

/// An edge of the table, ms.
fn edge(step: usize) -> f64 {
    f64::from(SHORTEST) * libm::exp(step as f64 / f64::from(STEPS_PER_E))
}

/// The times, each with its weight.
fn weighted(samples: &[u32]) -> impl Iterator<Item = (u32, f32)> + '_ {
    let mut weight = 1.0;
    samples.iter().rev().enumerate().map(move |(age, ms)| {
        if age >= MEASURED {
            weight *= FORGET;
        }
        (*ms, weight)
    })
}

fn median(of: &mut [(u32, f32)]) -> Option<u32> {
    part(of, 0.5)
}

/// The time that this part of the weight does not exceed.
fn part(of: &mut [(u32, f32)], part: f32) -> Option<u32> {
    of.sort_unstable_by_key(|(ms, _)| *ms);
    let goal = of.iter().map(|(_, weight)| weight).sum::<f32>() * part;
    let mut sum = 0.0;
    of.iter()
        .find(|(_, weight)| {
            sum += weight;
            sum >= goal
        })
        .map(|(ms, _)| *ms)
}

/// The looks due until each edge: the square root of the hazard, summed. The density of times is a bell in
/// ln t around each sample and a wide, heavy-tailed one around their median.
fn table(samples: &[u32]) -> Box<[f32; STEPS + 1]> {
    let mut sorted: Vec<(u32, f32)> = weighted(samples).collect();
    let middle = place(median(&mut sorted).unwrap_or(1) as f32);
    let known: f32 = sorted.iter().map(|(_, weight)| weight).sum();
    let whole = known + DOUBT;

    // Width by Silverman's rule, from the spread of the middle half: one outlier does not widen all.
    let at = |part: usize| place(sorted[(sorted.len() - 1) * part / 4].0 as f32);
    let spread = (at(3) - at(1)) / 1.34 / STEPS_PER_E;
    let width = (0.9 * spread * libm::powf(sorted.len() as f32, -0.2)).clamp(0.05, 0.3);
    let reach = 2.45 * width * STEPS_PER_E; // a triangle as wide as a bell of that deviation

    let mut chance = [0.0_f32; STEPS];
    for (ms, weight) in &sorted {
        let centre = place(*ms as f32);
        let first = (centre - reach).max(0.0) as usize;
        let last = ((centre + reach) as usize).min(STEPS - 1);
        let height = |step: usize| (1.0 - ((step as f32 + 0.5) - centre).abs() / reach).max(0.0);
        let sum: f32 = (first..=last).map(height).sum();
        if sum > 0.0 {
            for (step, chance) in chance.iter_mut().enumerate().take(last + 1).skip(first) {
                *chance += weight / whole / sum * height(step);
            }
        }
    }
    let fall = DOUBT_WIDTH * STEPS_PER_E;
    let doubt = DOUBT / whole / (2.0 * fall);
    let mut due = Box::new([0.0; STEPS + 1]);
    let (mut left, mut sum) = (1.0_f32, 0.0_f32);
    let widen = libm::expf(1.0 / STEPS_PER_E);
    let mut seconds = SHORTEST / 1000.0 * (widen - 1.0);
    let mut doubted = doubt * libm::expf(-middle / fall);
    let (rise, drop) = (libm::expf(1.0 / fall), libm::expf(-1.0 / fall));
    for step in 0..STEPS {
        let here = chance[step] + doubted;
        let still = (left - here / 2.0).max(1e-6);
        sum += (PRICE / 2.0 * here * seconds / still).sqrt();
        due[step + 1] = sum;
        left = (left - here).max(1e-6);
        seconds *= widen;
        doubted *= if (step as f32) < middle { rise } else { drop };
    }
    due
}

/// What the looks at one request have shown, and what is known of its model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Watch {
    /// What was known of its model when it began.
    pub(crate) pace: Option<Arc<Pace>>,
    /// Its place in the rhythm of looks, in 0.0..1.0, drawn at its first look.
    phase: Option<f64>,
    /// Jobs in the hands of this process when it was last looked at.
    pub(crate) in_flight: usize,
    /// Its time is to be learnt.
    measured: bool,
    /// How long it took, once it has ended.
    pub(crate) took: Option<Duration>,
    /// The last look that found it in fal's queue.
    queued: Option<UnixMs>,
    /// When it began to run, as far as the looks can tell.
    began: Option<UnixMs>,
    /// The last look that found it not finished.
    looked: Option<UnixMs>,
    /// How many stood before it in fal's queue then, where fal said so.
    ahead: Option<u32>,
}

impl Watch {
    /// Whether it wants to know of its model: its submit was another worker's. Any other keeps the rhythm it
    /// began with: of a burst whose rhythm changed under it, many would look at the same moment.
    pub(crate) fn asks(&self) -> bool {
        self.phase.is_none()
    }

    /// What was last heard of it, for the submit window.
    pub(crate) fn heard(&self) -> Heard {
        match (self.began, self.queued) {
            (Some(_), _) => Heard::Runs,
            (None, Some(_)) => Heard::Queued,
            (None, None) => Heard::Nothing,
        }
    }

    /// Whether the next look had better ask for the result than for the status: what has ended is there one
    /// exchange sooner. Where it was seen running that costs nothing, since the refusal says as much as a
    /// status would; where not, more of its kind must have ended by now than not.
    pub(crate) fn may_have_ended(&self, submitted: UnixMs, now: UnixMs) -> bool {
        match (self.began, self.queued, &self.pace) {
            (Some(_), _, _) => true,
            (None, None, Some(pace)) => pace.ended_by(submitted.until(now)) > 0.5,
            (None, _, _) => false,
        }
    }

    /// Whether a look found it running, and none since in the queue.
    pub(crate) fn runs(&self) -> bool {
        self.began.is_some()
    }

    /// How many stand before it in fal's queue, as far as fal said.
    pub(crate) fn ahead(&self) -> Option<u32> {
        self.ahead.filter(|_| self.heard() == Heard::Queued)
    }

    /// Redis's clock was set.
    pub(crate) fn follow_clock(&mut self, by: i64) {
        let spans = [&mut self.queued, &mut self.began, &mut self.looked];
        for at in spans.into_iter().flatten() {
            at.0 += by;
        }
    }

    /// Right after the submit, or a look that found it in the queue or running: when to look (again).
    pub(crate) fn next_look(
        &mut self,
        seen: Option<&Polled>,
        submitted: UnixMs,
        bounds: &PollBounds,
        (now, random): (UnixMs, f64),
    ) -> Duration {
        let ahead = match seen {
            Some(Polled::InQueue { position }) => {
                (self.queued, self.began) = (Some(now), None);
                self.ahead = position.and_then(|position| u32::try_from(position).ok());
                Some(position.unwrap_or(0))
            }
            Some(_) => {
                // In the queue at one look and running at the next: on average it began between them.
                self.began.get_or_insert(match self.queued {
                    Some(queued) => between(queued, now),
                    None => submitted,
                });
                None
            }
            None => None,
        };
        let first = self.looked.is_none() && seen.is_none();
        if seen.is_some() {
            self.looked = Some(now);
        }
        // Equal jobs of one burst have random places in the rhythm, and keep them: who only added to the last
        // look would bring together again all that wait for the same steep place.
        let phase = *self.phase.get_or_insert(random);
        let elapsed = submitted.until(now);
        let Some(pace) = self.pace.as_deref().filter(|_| bounds.min < bounds.max) else {
            // A burst begins at random places of the first interval.
            let burst = if first { self.in_flight.min(100) } else { 0 };
            let jitter = if burst > 0 { 0.5 } else { random };
            let wait = poll_wait(elapsed, self.in_flight, bounds, jitter);
            let later = 1.0 + random * burst as f64 / 100.0;
            return wait.mul_f64(later).min(bounds.max.mul_f64(1.1));
        };
        let wait = match ahead {
            Some(ahead) => {
                // As if it began now, behind those ahead of it; the longer it has stood the less it hurries.
                let turns = (ahead as f64 / AT_ONCE).min(1e6);
                let others = pace.likely().mul_f64(turns);
                let begun = pace.wait(Duration::ZERO, phase);
                let begun = begun.unwrap_or(bounds.max).max(elapsed / 10);
                begun.saturating_add(others).mul_f64(0.9 + 0.2 * random)
            }
            None => {
                let age = self.began.unwrap_or(submitted).until(now);
                pace.wait(age, phase).unwrap_or(bounds.max)
            }
        };
        // As with nothing known, it grows with what is in flight: at 5000 a pool could not carry more.
        let crowd = Duration::from_secs_f64(self.in_flight as f64 / 4000.0);
        let (spread, burst) = (
            0.9 + 0.2 * random,
            (self.in_flight as f64 / 1000.0).min(1.0),
        );
        let jitter = spread + 0.8 * burst * random;
        let least = bounds.min.max(crowd).mul_f64(jitter);
        let early = if first {
            burst * (random * 1e4).fract()
        } else {
            0.0
        };
        let most = bounds.max.mul_f64(spread - 0.8 * early);
        let wait = wait.max(least).min(most);
        if !first {
            return wait;
        }
        // Nor does a crowd put it off: it would be no smaller for waiting, and each such look ends a job.
        let ended = Duration::from_millis(u64::from(pace.nearly_all));
        wait.min(ended.mul_f64(jitter))
    }

    /// It has ended, well or not: how long it took is the middle of what the looks leave open. Not where they
    /// leave open more than any schedule does: fal, or this worker, was away.
    pub(crate) fn ended(&mut self, submitted: UnixMs, bounds: &PollBounds, now: UnixMs) {
        let began = match self.queued {
            None => Some(self.began.unwrap_or(submitted)),
            Some(_) => self.began,
        };
        let Some(began) = began.filter(|_| std::mem::take(&mut self.measured)) else {
            return;
        };
        let running = self.looked.unwrap_or(began).max(began);
        let open = running.until(now);
        if open <= bounds.max * 2 {
            let took = began.until(between(running, now));
            // With no look before, the shortest times would be found at the pace of halves, each of which the
            // jitter and the slow ones among them half undo.
            let is_short = self.looked.is_none() && open < bounds.min;
            self.took = Some(if is_short { took / 2 } else { took });
        }
    }
}

fn between(a: UnixMs, b: UnixMs) -> UnixMs {
    UnixMs(a.0 + (b.0 - a.0) / 2)
}

/// What this worker knows of all models.
#[derive(Debug, Default)]
pub(crate) struct Paces {
    models: HashMap<String, Known>,
    /// Counts uses, to forget the model that was not used for longest.
    uses: u64,
}

#[derive(Debug, Default)]
struct Known {
    pace: Option<Arc<Pace>>,
    /// Learnt since Redis was last told, ms.
    fresh: Vec<u32>,
    /// Submitted since Redis was last asked what others learnt.
    asks: bool,
    used: u64,
    /// When Redis was last told and asked, or it came here, in uses.
    told: u64,
    /// Measurements that may begin, and when they were last counted.
    room: f64,
    counted: UnixMs,
}

impl Paces {
    /// What is known of a model.
    pub(crate) fn of(&self, model: &str) -> Option<Arc<Pace>> {
        self.models.get(model)?.pace.clone()
    }

    /// A request of this model was accepted: how it is to be watched.
    pub(crate) fn begin(&mut self, model: &str, now: UnixMs) -> Watch {
        let known = self.known(model);
        known.asks = true;
        let usual = (known.pace.as_ref()).map_or(Duration::from_secs(10), |pace| pace.likely());
        let since = known.counted.until(now).as_secs_f64();
        let more = MEASURED as f64 * since / usual.as_secs_f64().max(0.05);
        known.room = (known.room + more).min(MEASURED as f64);
        known.counted = now;
        let measured = known.room >= 1.0;
        if measured {
            known.room -= 1.0;
        }
        Watch {
            pace: known.pace.clone(),
            measured,
            ..Watch::default()
        }
    }

    /// A generation of this model took so long.
    pub(crate) fn learn(&mut self, model: &str, took: Duration) {
        let ms = took.as_millis().clamp(u128::from(LEAST), LONGEST as u128) as u32;
        let known = self.known(model);
        if known.fresh.len() < SAMPLES {
            known.fresh.push(ms);
        } else {
            known.fresh.rotate_left(1);
            known.fresh[SAMPLES - 1] = ms;
        }
        let old = known.pace.as_ref().map(|pace| pace.samples.as_slice());
        let samples = old
            .unwrap_or_default()
            .iter()
            .copied()
            .chain([ms])
            .collect();
        known.pace = Pace::new(samples).map(Arc::new);
    }

    /// What Redis is to be told and asked: some models, each with what was learnt since (perhaps nothing). Those
    /// whose turn is longest ago come first: where more are in use than one exchange takes, each has its turn.
    pub(crate) fn take_news(&mut self) -> Vec<(String, Vec<u32>)> {
        let due =
            (self.models.iter_mut()).filter(|(_, known)| known.asks || !known.fresh.is_empty());
        let mut due: Vec<_> = due.collect();
        if due.len() > EXCHANGED {
            due.select_nth_unstable_by_key(EXCHANGED, |(_, known)| known.told);
            due.truncate(EXCHANGED);
        }
        self.uses += 1; // behind whatever has come here so far
        due.into_iter()
            .map(|(model, known)| {
                known.asks = false;
                known.told = self.uses;
                (model.clone(), std::mem::take(&mut known.fresh))
            })
            .collect()
    }

    /// Redis was told, and this is what all have learnt of the model. What was learnt meanwhile is added.
    pub(crate) fn heard(&mut self, model: &str, text: &str) {
        let theirs = Pace::parse(text).map_or(Vec::new(), |theirs| theirs.samples);
        let known = self.known(model);
        let ours = (known.pace.as_ref()).map_or(Vec::new(), |ours| ours.samples.clone());
        let samples = [theirs, known.fresh.clone()].concat();
        if samples.len() < ours.len() {
            // Redis forgot: it is told again.
            known.fresh = ours;
        } else {
            known.pace = Pace::new(samples).map(Arc::new);
        }
    }

    /// Redis could not be told: next time.
    pub(crate) fn untold(&mut self, told: Vec<(String, Vec<u32>)>) {
        for (model, mut learnt) in told {
            let known = self.known(&model);
            learnt.append(&mut known.fresh);
            learnt.drain(..learnt.len().saturating_sub(SAMPLES));
            known.fresh = learnt;
            known.asks = true;
        }
    }

    fn known(&mut self, model: &str) -> &mut Known {
        self.uses += 1;
        if !self.models.contains_key(model) {
            if self.models.len() >= MODELS {
                let oldest = self.models.iter().min_by_key(|(_, known)| known.used);
                if let Some(oldest) = oldest.map(|(model, _)| model.clone()) {
                    self.models.remove(&oldest);
                }
            }
            let new = Known {
                room: MEASURED as f64,
                told: self.uses,
                ..Known::default()
            };
            self.models.insert(model.to_owned(), new);
        }
        let known = self.models.get_mut(model).expect("put there above");
        known.used = self.uses;
        known
    }
}

#[cfg(test)]
mod tests;
