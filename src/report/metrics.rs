//! Figures for machines: how long steps and jobs take, and what they bill. Counts of moments are atomics
//! ([`super::Counters`]); what is here has to be sorted into buckets, and by a handful of names. Everything is
//! made once: a step looks nothing up, and a job one thing, at its end. No name of a series comes from a
//! user, a job's id or its input; models are as many as [`MODELS`], the others are one.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, CounterVec, Histogram, HistogramOpts, HistogramVec, Opts};
use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};
use std::time::Duration;

/// Models with series of their own; one more is `other`. Each has twenty lines of text.
pub const MODELS: usize = 100;
/// The name of the models over that number.
const OTHER: &str = "other";

/// Upper bounds for one exchange, seconds.
const STEP: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];
/// For what users wait for.
const JOB: &[f64] = &[
    0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 21600.0,
];
/// For its parts, of which some are short.
const STAGE: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
];

/// One kind of exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Submits, or calls fal directly; brings files of the input before that.
    Submit,
    /// Asks how far a request is.
    Poll,
    /// Fetches a result.
    Collect,
    /// Sends it.
    Deliver,
    /// Tells a user of a failure.
    Tell,
    /// Ends a request at fal.
    Cancel,
}

impl Step {
    /// In the order of the enum.
    pub const ALL: [Step; 6] = [
        Step::Submit,
        Step::Poll,
        Step::Collect,
        Step::Deliver,
        Step::Tell,
        Step::Cancel,
    ];

    /// The word of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Submit => "submit",
            Step::Poll => "poll",
            Step::Collect => "collect",
            Step::Deliver => "deliver",
            Step::Tell => "tell",
            Step::Cancel => "cancel",
        }
    }
}

/// Parts of a job's time.
const STAGES: [&str; 3] = ["queue", "generation", "delivery"];

struct Figures {
    step_seconds: HistogramVec,
    steps: [Histogram; Step::ALL.len()],
    stage_seconds: HistogramVec,
    stages: [Histogram; STAGES.len()],
    job_seconds: HistogramVec,
    units: CounterVec,
    models: RwLock<HashMap<String, OfModel>>,
}

struct OfModel {
    seconds: Histogram,
    units: Counter,
}

static FIGURES: LazyLock<Figures> = LazyLock::new(|| {
    let histograms = |name: &str, help: &str, label: &str, buckets: &[f64]| {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        HistogramVec::new(opts, &[label]).expect("names and buckets are valid")
    };
    let step_seconds = histograms(
        "fal_worker_step_seconds",
        "Time of steps that spoke to fal or Telegram, with the write of their outcome.",
        "step",
        STEP,
    );
    let stage_seconds = histograms(
        "fal_worker_job_stage_seconds",
        "Time of jobs done: until the submit, at fal, from the result to the last message.",
        "stage",
        STAGE,
    );
    let job_seconds = histograms(
        "fal_worker_job_seconds",
        "Time of jobs done, from coming in to their end.",
        "model",
        JOB,
    );
    let units = Opts::new(
        "fal_worker_billable_units_total",
        "Units that fal says it billed for jobs of this worker.",
    );
    let units = CounterVec::new(units, &["model"]).expect("names are valid");
    Figures {
        steps: Step::ALL.map(|step| step_seconds.with_label_values(&[step.as_str()])),
        stages: STAGES.map(|stage| stage_seconds.with_label_values(&[stage])),
        step_seconds,
        stage_seconds,
        job_seconds,
        units,
        models: RwLock::default(),
    }
});

impl Figures {
    /// Used under the lock: a copy would be counted on one place of memory by all threads.
    fn of(&self, model: &str, note: impl FnOnce(&OfModel)) {
        let known = self.models.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(of) = known.get(model) {
            return note(of);
        }
        let model = if known.len() < MODELS { model } else { OTHER };
        drop(known);
        let mut known = self.models.write().unwrap_or_else(PoisonError::into_inner);
        // Between the two locks another may have come; one more than the number harms nobody.
        let made = known.entry(model.to_owned()).or_insert_with(|| OfModel {
            seconds: self.job_seconds.with_label_values(&[model]),
            units: self.units.with_label_values(&[model]),
        });
        note(made);
    }
}

/// Makes all series that need no model, so that they are there before the first step.
pub fn prepare() {
    LazyLock::force(&FIGURES);
}

/// A step spoke to a service and has ended.
pub fn step_took(step: Step, took: Duration) {
    FIGURES.steps[step as usize].observe(took.as_secs_f64());
}

/// A job of this model is done.
pub(super) fn job_took(model: &str, spent: &super::Spent) {
    let seconds = |ms: u64| ms as f64 / 1000.0;
    if let Some(ms) = spent.total_ms {
        FIGURES.of(model, |of| of.seconds.observe(seconds(ms)));
    }
    let parts = [spent.queue_ms, spent.gen_ms, spent.deliver_ms];
    for (stage, ms) in FIGURES.stages.iter().zip(parts) {
        if let Some(ms) = ms {
            stage.observe(seconds(ms));
        }
    }
}

/// fal billed so many units more; what is no number above zero is nothing.
pub fn billed(model: &str, units: f64) {
    if units.is_finite() && units > 0.0 {
        FIGURES.of(model, |of| of.units.inc_by(units));
    }
}

/// All of it, for the page.
pub fn families() -> Vec<MetricFamily> {
    let figures = &*FIGURES;
    let all: [&dyn Collector; 4] = [
        &figures.step_seconds,
        &figures.stage_seconds,
        &figures.job_seconds,
        &figures.units,
    ];
    all.iter().flat_map(|one| one.collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "a measurement: run it alone, with --nocapture"]
    fn what_a_step_costs() {
        const STEPS: u32 = 1_000_000;
        for threads in [1, 4] {
            let began = std::time::Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        for _ in 0..STEPS {
                            let step = std::time::Instant::now();
                            step_took(Step::Poll, step.elapsed());
                        }
                    });
                }
            });
            println!("{threads} threads: {:?} a step", began.elapsed() / STEPS);
        }
    }

    #[test]
    fn models_over_the_bound_are_one() {
        for n in 0..3 * MODELS {
            billed(&format!("bound/{n}"), 1.0);
        }
        billed("bound/none", f64::NAN);
        billed("bound/none", -1.0);
        let units = FIGURES.units.collect();
        let series = units[0].get_metric();
        assert!(series.len() <= MODELS + 1, "{}", series.len());
        let of = |name: &str| {
            let named = |label: &&prometheus::proto::Metric| label.get_label()[0].value() == name;
            series
                .iter()
                .find(named)
                .map(|one| one.get_counter().get_value())
        };
        assert_eq!(of("bound/0"), Some(1.0));
        assert!(of(OTHER).is_some_and(|others| others >= 2.0 * MODELS as f64));
        assert_eq!(of("bound/none"), None);
    }
}
