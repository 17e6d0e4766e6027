//! The page of metrics: counts and gauges as they stand, in Prometheus's text (contract section 7). Whoever
//! asks for it costs the jobs nothing: counts are atomics, and what stands in Redis the keeper reads on its
//! tick, often only while somebody asks. No name of a series comes from a user, a job or its input, but for
//! a bounded number of models.

use super::health::{Pulling, Seen};
use super::pool::Engine;
use crate::report;
use crate::report::metrics;
use crate::steps::Tools;
use crate::store::Depths;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder as _, GaugeVec, IntCounterVec, Opts, TextEncoder};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the page is sent as.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Pace of reading the queues while somebody asks, and while nobody does.
const OFTEN: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(30);
/// Whoever asked so lately will ask again: Prometheus does every minute or so.
const ASKED: Duration = Duration::from_secs(150);
/// What is older says nothing of now, and is left out.
const STALE: Duration = Duration::from_secs(60);

static PROCESS: LazyLock<ProcessCollector> = LazyLock::new(ProcessCollector::for_self);

/// The queues as the keeper last saw them.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    /// Somebody can ask.
    shown: AtomicBool,
    seen: Mutex<Option<(Instant, Depths)>>,
    asked: Mutex<Option<Instant>>,
}

fn recent(at: Option<Instant>, within: Duration) -> bool {
    at.is_some_and(|at| at.elapsed() < within)
}

impl Queues {
    /// There is a page from now on.
    pub(crate) fn show(&self) {
        self.shown.store(true, Relaxed);
    }

    /// Time between two looks; `None`: nobody could see what they find.
    pub(crate) fn pace(&self) -> Option<Duration> {
        if !self.shown.load(Relaxed) {
            return None;
        }
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        Some(if recent(asked, ASKED) { OFTEN } else { SELDOM })
    }

    /// The keeper looked.
    pub(crate) fn note(&self, depths: Depths) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some((Instant::now(), depths));
    }

    /// Somebody asks.
    pub(crate) fn ask(&self) -> Option<Depths> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, depths) = seen.as_ref()?;
        recent(Some(*at), STALE).then(|| depths.clone())
    }
}

/// Families, collected one by one.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn counts<'a>(
        &mut self,
        (name, help): (&str, &str),
        labels: &[&str],
        rows: impl IntoIterator<Item = (Vec<&'a str>, u64)>,
    ) {
        let counts = IntCounterVec::new(Opts::new(name, help), labels).expect("names are valid");
        for (values, count) in rows {
            counts.with_label_values(&values).inc_by(count);
        }
        self.0.extend(counts.collect());
    }

    fn count(&mut self, name: &str, help: &str, count: &AtomicU64) {
        self.counts((name, help), &[], [(vec![], count.load(Relaxed))]);
    }

    fn gauges<'a>(
        &mut self,
        (name, help): (&str, &str),
        label: &str,
        rows: impl IntoIterator<Item = (&'a str, f64)>,
    ) {
        let gauges = GaugeVec::new(Opts::new(name, help), &[label]).expect("names are valid");
        for (value, gauge) in rows {
            gauges.with_label_values(&[value]).set(gauge);
        }
        self.0.extend(gauges.collect());
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        let gauge = GaugeVec::new(Opts::new(name, help), &[]).expect("names are valid");
        let none: [&str; 0] = [];
        gauge.with_label_values(&none).set(value);
        self.0.extend(gauge.collect());
    }
}

/// The whole page. `threads`: of the pool, and of transfers.
pub(crate) fn page(tools: &Tools, engine: &Engine, seen: &Seen, threads: (usize, usize)) -> String {
    let mut all = Families::default();
    moments(&mut all);
    traffic(&mut all, tools);
    if let Some(depths) = engine.queues.ask() {
        queues(&mut all, &depths);
    }
    state(&mut all, tools, engine, seen, threads);
    let mut families = all.0;
    families.extend(metrics::families());
    families.extend(PROCESS.collect());
    families.retain(|family| !family.get_metric().is_empty());
    families.sort_unstable_by(|a, b| a.name().cmp(b.name()));
    // Only what comes from outside can hold a secret. In the whole page a short one, such as the password
    // `redis`, would black out names and numbers, and no scrape could be read any more.
    let metrics = families.iter_mut().flat_map(|family| family.mut_metric());
    for label in metrics.flat_map(|metric| metric.mut_label()) {
        let value = report::without_secrets(label.value().to_owned());
        label.set_value(value);
    }
    let mut text = Vec::new();
    match TextEncoder::new().encode(&families, &mut text) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) => format!("# {error}\n"),
    }
}

/// What happened so far.
fn moments(all: &mut Families) {
    let counters = report::counters();
    let events = report::EVENTS.iter().zip(&counters.events);
    all.counts(
        ("fal_worker_jobs_total", "Events that this worker wrote."),
        &["event"],
        events.map(|(name, count)| (vec![*name], count.load(Relaxed))),
    );
    let kinds = crate::job::failure::Kind::ALL.iter();
    all.counts(
        (
            "fal_worker_retries_total",
            "Steps and submits that are done again, by why.",
        ),
        &["kind"],
        kinds.map(|kind| {
            let count = counters.retries_of(*kind).load(Relaxed);
            (vec![kind.as_str()], count)
        }),
    );
    // The one that is always there: an alert on a series that does not exist never comes.
    let mut repairs = BTreeMap::from([("orphan".to_owned(), 0)]);
    let by_kind = &counters.repairs_by_kind;
    repairs.extend(
        by_kind
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone(),
    );
    all.counts(
        (
            "fal_worker_repairs_total",
            "Leaks in Redis that the audit mended.",
        ),
        &["kind"],
        (repairs.iter()).map(|(kind, count)| (vec![kind.as_str()], *count)),
    );
    for (name, help, count) in [
        (
            "fal_worker_polls_total",
            "Questions to fal how far a request is.",
            &counters.polls,
        ),
        (
            "fal_worker_redis_errors_total",
            "Calls on Redis that failed, and connections that could not be opened.",
            &counters.redis_errors,
        ),
        (
            "fal_worker_takeovers_total",
            "Dead workers whose jobs this one took over.",
            &counters.takeovers,
        ),
        (
            "fal_worker_resubmitted_after_unknown_total",
            "Submits repeated after one of unknown outcome: each may be a second payment.",
            &counters.resubmitted_after_unknown,
        ),
        (
            "fal_worker_resent_after_unknown_total",
            "Sends repeated after one of unknown outcome: each may be a second message.",
            &counters.resent_after_unknown,
        ),
        (
            "fal_worker_outages_total",
            "Times that Redis, fal or Telegram went away.",
            &counters.outages,
        ),
        (
            "fal_worker_panics_total",
            "Crashes of steps, caught.",
            &counters.panics,
        ),
    ] {
        all.count(name, help, count);
    }
    all.counts(
        (
            "fal_worker_log_lines_lost_total",
            "Lines of the log that nobody took, since its reader had stopped.",
        ),
        &[],
        [(vec![], report::lines_lost())],
    );
}

/// Statuses that tell something by themselves; the others are told by their class.
const CODES: [(u16, &str); 20] = [
    (0, "none"),
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (204, "204"),
    (206, "206"),
    (400, "400"),
    (401, "401"),
    (402, "402"),
    (403, "403"),
    (404, "404"),
    (408, "408"),
    (409, "409"),
    (413, "413"),
    (422, "422"),
    (429, "429"),
    (500, "500"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
];

/// A status as a label: one of few, whatever servers say.
fn code(status: u16) -> &'static str {
    let named = CODES.iter().find(|(number, _)| *number == status);
    match (named, status / 100) {
        (Some((_, label)), _) => label,
        (None, 1) => "1xx",
        (None, 2) => "2xx",
        (None, 3) => "3xx",
        (None, 4) => "4xx",
        (None, 5) => "5xx",
        (None, _) => "other",
    }
}

/// HTTP as a client.
fn traffic(all: &mut Families, tools: &Tools) {
    let mut requests = BTreeMap::new();
    for service in crate::http::Service::ALL {
        requests.insert((service.as_str(), "none"), 0);
    }
    for (service, status, count) in tools.http.counts() {
        *requests
            .entry((service.as_str(), code(status)))
            .or_default() += count;
    }
    all.counts(
        (
            "fal_worker_http_requests_total",
            "Requests by status; none: no answer.",
        ),
        &["service", "code"],
        requests
            .iter()
            .map(|((service, code), count)| (vec![*service, *code], *count)),
    );
    let connections = tools.http.connections();
    all.counts(
        ("fal_worker_http_connections_total", "Connections opened."),
        &["service"],
        connections
            .iter()
            .map(|(service, count)| (vec![service.as_str()], *count)),
    );
}

/// What all workers share, as Redis has it: every worker says the same, so take the largest, not the sum.
fn queues(all: &mut Families, depths: &Depths) {
    let ready = ["resume", "high", "default", "low"]
        .iter()
        .zip(&depths.ready);
    let waiting = ready.map(|(name, waiting)| (*name, *waiting));
    let waiting = waiting.chain(depths.lines.map(|lines| ("waiting", lines)));
    let waiting: Vec<_> = waiting.collect();
    let jobs = waiting.iter().map(|(name, waiting)| (*name, waiting.jobs));
    let others = [
        ("inbox", depths.inbox),
        ("later", depths.later),
        ("dead", depths.dead),
    ];
    all.gauges(
        (
            "fal_worker_queue_depth",
            "Jobs in Redis by where they wait; waiting: for their user's turn or slot, or a limit of their model.",
        ),
        "queue",
        jobs.chain(others).map(|(name, jobs)| (name, jobs as f64)),
    );
    all.gauges(
        (
            "fal_worker_oldest_job_seconds",
            "For how long the job that waits longest has been ready; 0: none waits.",
        ),
        "queue",
        (waiting.iter()).map(|(name, waiting)| (*name, waiting.oldest.as_secs_f64())),
    );
    all.gauge(
        "fal_worker_workers",
        "Workers that live, on all hosts.",
        depths.workers as f64,
    );
}

/// This process at this moment.
fn state(
    all: &mut Families,
    tools: &Tools,
    engine: &Engine,
    seen: &Seen,
    (pool, transfer): (usize, usize),
) {
    let now = Instant::now();
    all.gauge(
        "fal_worker_in_flight",
        "Jobs that this worker holds.",
        seen.in_flight as f64,
    );
    let (busy, moving) = engine.desks.busy(pool);
    let by_pool =
        |steps: usize, transfers: usize| [("steps", steps as f64), ("transfers", transfers as f64)];
    all.gauges(
        ("fal_worker_threads_busy", "Threads inside a step."),
        "pool",
        by_pool(busy, moving),
    );
    all.gauges(
        ("fal_worker_threads", "Threads there are."),
        "pool",
        by_pool(pool, transfer),
    );
    let one = |yes: bool| if yes { 1.0 } else { 0.0 };
    let telegram = tools.telegram.is_some();
    let services = [
        ("redis", Some(seen.away.is_none())),
        (
            "fal",
            Some(tools.fal_outage.since().is_none() && !tools.gate.refuses_submits(Instant::now())),
        ),
        (
            "telegram",
            telegram.then(|| tools.telegram_outage.since().is_none()),
        ),
    ];
    all.gauges(
        (
            "fal_worker_service_up",
            "1 while the service answers, 0 while it counts as away.",
        ),
        "service",
        services
            .into_iter()
            .filter_map(|(name, up)| Some((name, one(up?)))),
    );
    all.gauge(
        "fal_worker_ready",
        "What /readyz says: 1 while jobs are taken.",
        one(seen.readiness(now).0),
    );
    all.gauge(
        "fal_worker_healthy",
        "What /healthz says: 1 while all parts do their work.",
        one(seen.health(now).0),
    );
    let full = seen.pulling == Pulling::Full;
    all.gauge(
        "fal_worker_full",
        "1 while no new jobs are pulled because --max-in-flight are held.",
        one(full),
    );
    all.gauge(
        "fal_worker_paused",
        "1 while the queue is paused for all workers.",
        one(seen.life.is_paused()),
    );
    all.gauges(
        ("fal_worker_info", "Which version runs."),
        "version",
        [(env!("CARGO_PKG_VERSION"), 1.0)],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_one_of_few_labels() {
        let labels: std::collections::BTreeSet<_> = (0..1000).map(code).collect();
        assert!(labels.len() < 30, "{labels:?}");
        for (status, label) in [
            (0, "none"),
            (429, "429"),
            (418, "4xx"),
            (520, "5xx"),
            (999, "other"),
        ] {
            assert_eq!(code(status), label);
        }
    }

    #[test]
    fn queues_are_read_often_only_while_somebody_asks_and_not_shown_once_they_are_stale() {
        let queues = Queues::default();
        assert_eq!(queues.pace(), None);
        queues.show();
        assert_eq!(queues.pace(), Some(SELDOM));
        assert_eq!(queues.ask(), None);
        assert_eq!(queues.pace(), Some(OFTEN));
        queues.note(Depths {
            inbox: 3,
            ..Depths::default()
        });
        assert_eq!(queues.ask().map(|depths| depths.inbox), Some(3));
        let long_ago = |ago: Duration| Instant::now().checked_sub(ago).unwrap();
        let seen = queues.seen.lock().unwrap().take().unwrap().1;
        *queues.seen.lock().unwrap() = Some((long_ago(STALE), seen));
        *queues.asked.lock().unwrap() = Some(long_ago(ASKED));
        assert_eq!(queues.pace(), Some(SELDOM));
        assert_eq!(queues.ask(), None);
    }
}
