//! Faults and barriers: how a test makes a stand-in misbehave, and stops it at an exact place.
//!
//! Kept apart from the stand-ins so that every endpoint of both misbehaves in the same words, and so
//! that a seed repeats a run.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::http::{Gate, Payload, Request, Response, Sending, Stop, lock};

/// One way to misbehave. "Acting" is what the endpoint does: a job accepted, a message stored.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Waits, then acts and answers as usual.
    DelayMs(u64),
    /// Acts at once, then answers as usual after so many milliseconds.
    LateAnswer(u64),
    /// Closes when the head is read: nothing is acted on. With a filter that only the body can match, the
    /// body is read first.
    ResetBeforeRead,
    /// Acts, then closes without an answer.
    ResetAfterActing,
    /// Answers this without acting.
    Answer {
        /// Status code.
        status: u16,
        /// Content type; left out when empty.
        content_type: String,
        /// Further headers.
        headers: Vec<(String, String)>,
        /// Body.
        body: Vec<u8>,
    },
    /// Acts, then answers this.
    AnswerAfterActing {
        /// Status code.
        status: u16,
        /// Content type; left out when empty.
        content_type: String,
        /// Further headers.
        headers: Vec<(String, String)>,
        /// Body.
        body: Vec<u8>,
    },
    /// A gateway's page, without acting: it did not reach the service.
    Html502,
    /// A gateway's page, after acting: the service was reached and was only too slow.
    Html504,
    /// Acts; head with the full length, half of the body, close.
    Truncated,
    /// Acts; status 200 and no body.
    Empty200,
    /// Does not act; no answer for so many milliseconds, then close.
    Hang(u64),
    /// Acts; the body comes one byte every 100 ms.
    SlowBody,
    /// Acts; status 200 and a body of so many zero bytes.
    Huge(u64),
    /// Reads the request's body at so many bytes a second (bodies with a length only), then goes on as usual.
    /// Decided by the head: a filter sees only the path.
    SlowRead(u64),
}

impl Fault {
    /// A JSON answer without acting.
    pub fn json(status: u16, body: &serde_json::Value) -> Fault {
        Fault::Answer {
            status,
            content_type: "application/json".into(),
            headers: Vec::new(),
            body: body.to_string().into_bytes(),
        }
    }

    /// A refusal in Telegram's envelope, without acting.
    pub fn telegram(code: u16, description: &str) -> Fault {
        let body = serde_json::json!({"ok": false, "error_code": code, "description": description});
        Fault::json(code, &body)
    }

    /// Telegram's 429 with `retry_after` and its header, without acting.
    pub fn telegram_429(retry_after_s: u64) -> Fault {
        let body = serde_json::json!({
            "ok": false,
            "error_code": 429,
            "description": format!("Too Many Requests: retry after {retry_after_s}"),
            "parameters": {"retry_after": retry_after_s},
        });
        Fault::Answer {
            status: 429,
            content_type: "application/json".into(),
            headers: vec![("Retry-After".into(), retry_after_s.to_string())],
            body: body.to_string().into_bytes(),
        }
    }
}

/// When to misbehave how.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `fal.submit`, `fal.status`, `fal.result`, `fal.cancel`, `fal.direct`, `fal.initiate`, `fal.put`, `file` (also
    /// `file.worker`, and `file.telegram` for fetches of the Telegram stand-in), `tg.sendphoto`, …; or `fal.*`, `tg.*`, `*`.
    pub endpoint: String,
    /// What to do.
    pub fault: Fault,
    /// How often, 0.0 to 1.0.
    pub chance: f64,
    /// At most so many times.
    pub times: Option<u32>,
    /// Only requests whose path, query or body contain this.
    pub filter: Option<String>,
}

impl Rule {
    /// A rule that always fires.
    pub fn always(endpoint: &str, fault: Fault) -> Rule {
        Rule {
            endpoint: endpoint.into(),
            fault,
            chance: 1.0,
            times: None,
            filter: None,
        }
    }

    /// A rule that fires for the first `times` requests.
    pub fn first(times: u32, endpoint: &str, fault: Fault) -> Rule {
        Rule {
            times: Some(times),
            ..Rule::always(endpoint, fault)
        }
    }

    /// A rule that fires by chance.
    pub fn sometimes(chance: f64, endpoint: &str, fault: Fault) -> Rule {
        Rule {
            chance,
            ..Rule::always(endpoint, fault)
        }
    }

    /// Narrows the rule to requests that contain `text`.
    pub fn for_requests_with(mut self, text: &str) -> Rule {
        self.filter = Some(text.into());
        self
    }
}

/// Names a rule for [`Faults::fired`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(usize);

/// The rules in force; clones share them. All `DelayMs` rules that match are waited for, then the first
/// other rule that fires decides.
#[derive(Clone, Debug)]
pub struct Faults(Arc<FaultsInner>);

#[derive(Debug)]
struct FaultsInner {
    any: AtomicBool,
    state: Mutex<FaultState>,
}

#[derive(Debug)]
struct FaultState {
    rng: fastrand::Rng,
    rules: Vec<(Rule, u32, bool)>,
    fired_at: BTreeMap<String, u64>,
}

impl Faults {
    /// No rules yet; `seed` decides all chances.
    pub fn new(seed: u64) -> Faults {
        let state = FaultState {
            rng: fastrand::Rng::with_seed(seed),
            rules: Vec::new(),
            fired_at: BTreeMap::new(),
        };
        Faults(Arc::new(FaultsInner {
            any: AtomicBool::new(false),
            state: Mutex::new(state),
        }))
    }

    /// Starts the sequence of chances anew.
    pub fn set_seed(&self, seed: u64) {
        lock(&self.0.state).rng = fastrand::Rng::with_seed(seed);
    }

    /// Adds a rule.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut state = lock(&self.0.state);
        state.rules.push((rule, 0, true));
        self.0.any.store(true, Ordering::Release);
        RuleId(state.rules.len() - 1)
    }

    /// Ends a rule; its count stays.
    pub fn remove(&self, id: RuleId) {
        if let Some(rule) = lock(&self.0.state).rules.get_mut(id.0) {
            rule.2 = false;
        }
    }

    /// Ends all rules: the service is well again. Counts stay.
    pub fn clear(&self) {
        let mut state = lock(&self.0.state);
        state.rules.iter_mut().for_each(|rule| rule.2 = false);
        self.0.any.store(false, Ordering::Release);
    }

    /// How often a rule fired.
    pub fn fired(&self, id: RuleId) -> u32 {
        lock(&self.0.state).rules.get(id.0).map_or(0, |rule| rule.1)
    }

    /// How often any rule fired, by endpoint.
    pub fn fired_by_endpoint(&self) -> BTreeMap<String, u64> {
        lock(&self.0.state).fired_at.clone()
    }

    /// What to do with only the head read.
    pub(super) fn at_head(&self, endpoint: &str, head: &Request) -> Gate {
        match self.draw(endpoint, |rule| decided_at_head(rule, head)) {
            Some((_, Some(Fault::SlowRead(bytes_per_s)))) => Gate::ReadBodySlowly(bytes_per_s),
            Some((_, Some(_))) => Gate::Close,
            Some((_, None)) | None => Gate::ReadBody,
        }
    }

    /// Runs an endpoint under the rules.
    pub(super) fn around(
        &self,
        endpoint: &str,
        request: &Request,
        stop: &Stop,
        act: impl FnOnce() -> Response,
    ) -> Response {
        let drawn = self.draw(endpoint, |rule| {
            let over = matches!(rule.fault, Fault::SlowRead(_)) || decided_at_head(rule, request);
            !over
                && rule
                    .filter
                    .as_ref()
                    .is_none_or(|text| request.mentions(text))
        });
        let Some((delay, fault)) = drawn else {
            return act();
        };
        if !delay.is_zero() {
            stop.sleep(delay);
        }
        match fault {
            None => act(),
            Some(fault) => misbehave(fault, stop, act),
        }
    }

    /// The sum of delays and the first other fault, of the rules that pass `applies` and their chance.
    fn draw(
        &self,
        endpoint: &str,
        applies: impl Fn(&Rule) -> bool,
    ) -> Option<(Duration, Option<Fault>)> {
        if !self.0.any.load(Ordering::Acquire) {
            return None;
        }
        let mut guard = lock(&self.0.state);
        let state = &mut *guard;
        let mut delay = Duration::ZERO;
        let mut fault = None;
        for (rule, fired, active) in &mut state.rules {
            let spent = !*active || rule.times.is_some_and(|most| *fired >= most);
            if spent || !covers(&rule.endpoint, endpoint) || !applies(rule) {
                continue;
            }
            let is_delay = matches!(rule.fault, Fault::DelayMs(_));
            if (!is_delay && fault.is_some()) || state.rng.f64() >= rule.chance {
                continue;
            }
            *fired += 1;
            *state.fired_at.entry(endpoint.to_owned()).or_default() += 1;
            match &rule.fault {
                Fault::DelayMs(ms) => delay += Duration::from_millis(*ms),
                other => fault = Some(other.clone()),
            }
        }
        Some((delay, fault))
    }
}

fn decided_at_head(rule: &Rule, head: &Request) -> bool {
    let in_path = |text: &String| head.path.contains(text.as_str());
    let early = matches!(rule.fault, Fault::ResetBeforeRead | Fault::SlowRead(_));
    early && rule.filter.as_ref().is_none_or(in_path)
}

/// Whether a rule's endpoint names `endpoint`: the same, a family (`tg.*`), a parent (`file`), or `*`.
fn covers(pattern: &str, endpoint: &str) -> bool {
    let below = |parent: &str| {
        endpoint
            .strip_prefix(parent)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    pattern == "*" || pattern == endpoint || below(pattern.strip_suffix(".*").unwrap_or(pattern))
}

fn misbehave(fault: Fault, stop: &Stop, act: impl FnOnce() -> Response) -> Response {
    let written = |status, content_type, headers: Vec<(String, String)>, body: Vec<u8>| Response {
        headers: headers
            .into_iter()
            .map(|(name, value)| (Cow::Owned(name), value))
            .collect(),
        ..Response::new(status, Cow::<'static, str>::Owned(content_type), body)
    };
    match fault {
        Fault::DelayMs(ms) => {
            stop.sleep(Duration::from_millis(ms));
            act()
        }
        Fault::LateAnswer(ms) => {
            let response = act();
            stop.sleep(Duration::from_millis(ms));
            response
        }
        Fault::ResetBeforeRead => Response::nothing(),
        // Over when the body was read.
        Fault::SlowRead(_) => act(),
        Fault::ResetAfterActing => {
            act();
            Response::nothing()
        }
        Fault::Answer {
            status,
            content_type,
            headers,
            body,
        } => written(status, content_type, headers, body),
        Fault::AnswerAfterActing {
            status,
            content_type,
            headers,
            body,
        } => {
            act();
            written(status, content_type, headers, body)
        }
        Fault::Html502 => gateway_page(502, "502 Bad Gateway"),
        Fault::Html504 => {
            act();
            gateway_page(504, "504 Gateway Time-out")
        }
        Fault::Truncated => Response {
            sending: Sending::HalfThenClose,
            ..act()
        },
        Fault::Empty200 => {
            act();
            Response::new(200, "application/json", "")
        }
        Fault::Hang(ms) => {
            stop.sleep(Duration::from_millis(ms));
            Response::nothing()
        }
        Fault::SlowBody => Response {
            sending: Sending::Dripping,
            ..act()
        },
        Fault::Huge(bytes) => {
            let response = act();
            Response {
                status: 200,
                body: Payload::Padded {
                    head: Vec::new(),
                    len: bytes,
                },
                ..response
            }
        }
    }
}

fn gateway_page(status: u16, title: &str) -> Response {
    let page = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
         <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    );
    Response::new(status, "text/html", page)
}

/// The barriers of one stand-in.
#[derive(Clone, Debug, Default)]
pub(super) struct Barriers(Arc<BarriersInner>);

#[derive(Debug, Default)]
struct BarriersInner {
    count: AtomicUsize,
    holds: Mutex<Vec<Arc<HoldInner>>>,
}

#[derive(Debug)]
struct HoldInner {
    endpoint: String,
    filter: Option<String>,
    state: Mutex<HoldState>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct HoldState {
    arrived: usize,
    released: bool,
}

/// Holds answers back while it lives: requests to the endpoint act, arrive here, and are answered after
/// [`Hold::release`]. That is how a test kills the worker at an exact place.
#[derive(Debug)]
pub struct Hold {
    inner: Arc<HoldInner>,
    barriers: Barriers,
}

impl Barriers {
    pub(super) fn hold(&self, endpoint: &str, filter: Option<&str>) -> Hold {
        let inner = Arc::new(HoldInner {
            endpoint: endpoint.to_owned(),
            filter: filter.map(str::to_owned),
            state: Mutex::default(),
            bell: Condvar::new(),
        });
        lock(&self.0.holds).push(inner.clone());
        self.0.count.fetch_add(1, Ordering::Release);
        Hold {
            inner,
            barriers: self.clone(),
        }
    }

    /// Called after acting and before answering.
    pub(super) fn pass(&self, endpoint: &str, request: &Request) {
        if self.0.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let matching = |hold: &&Arc<HoldInner>| {
            covers(&hold.endpoint, endpoint)
                && hold
                    .filter
                    .as_ref()
                    .is_none_or(|text| request.mentions(text))
        };
        let found: Vec<_> = lock(&self.0.holds)
            .iter()
            .filter(matching)
            .cloned()
            .collect();
        for hold in found {
            let mut state = lock(&hold.state);
            state.arrived += 1;
            hold.bell.notify_all();
            while !state.released {
                state = hold.bell.wait(state).unwrap_or_else(|e| e.into_inner());
            }
        }
    }

    /// Lets everything through: the stand-in ends.
    pub(super) fn release_all(&self) {
        for hold in lock(&self.0.holds).drain(..) {
            release(&hold);
        }
        self.0.count.store(0, Ordering::Release);
    }
}

impl Hold {
    /// Requests that arrived so far, answered or not.
    pub fn arrived(&self) -> usize {
        lock(&self.inner.state).arrived
    }

    /// Waits until `n` requests have arrived; false when `deadline` passes first.
    pub fn wait_arrived(&self, n: usize, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        let mut state = lock(&self.inner.state);
        while state.arrived < n {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.inner.bell.wait_timeout(state, left);
            state = waited.map_or_else(|e| e.into_inner().0, |pair| pair.0);
        }
        true
    }

    /// Answers what was held, and holds nothing more.
    pub fn release(&self) {
        let mut holds = lock(&self.barriers.0.holds);
        if let Some(at) = holds.iter().position(|hold| Arc::ptr_eq(hold, &self.inner)) {
            holds.remove(at);
            self.barriers.0.count.fetch_sub(1, Ordering::Release);
        }
        drop(holds);
        release(&self.inner);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

fn release(hold: &HoldInner) {
    lock(&hold.state).released = true;
    hold.bell.notify_all();
}

#[cfg(test)]
mod tests {
    use super::super::http::raw;
    use super::super::http::{Handler, Server};
    use super::*;

    struct Counting {
        faults: Faults,
        barriers: Barriers,
        stop: Stop,
        acted: AtomicUsize,
    }

    impl Handler for Counting {
        fn gate(&self, head: &Request) -> Gate {
            self.faults.at_head("fal.submit", head)
        }

        fn answer(&self, request: &Request) -> Response {
            self.faults.around("fal.submit", request, &self.stop, || {
                self.acted.fetch_add(1, Ordering::SeqCst);
                self.barriers.pass("fal.submit", request);
                Response::json(200, r#"{"ok":true}"#)
            })
        }
    }

    struct Bench {
        server: Server,
        counting: Arc<Counting>,
    }

    fn bench(rules: Vec<Rule>) -> Bench {
        let stop = Stop::default();
        let counting = Arc::new(Counting {
            faults: Faults::new(7),
            barriers: Barriers::default(),
            stop: stop.clone(),
            acted: AtomicUsize::new(0),
        });
        rules.into_iter().for_each(|rule| {
            counting.faults.add(rule);
        });
        Bench {
            server: Server::start("bench", stop, counting.clone()).expect("starts"),
            counting,
        }
    }

    impl Bench {
        fn post(&self, body: &str) -> Option<raw::Got> {
            raw::call(
                &format!("{}/m/x", self.server.url()),
                "POST",
                &[],
                body.as_bytes(),
            )
        }

        fn acted(&self) -> usize {
            self.counting.acted.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn each_fault_acts_or_does_not_act_as_it_says() {
        let page = |acts: bool| (Some(if acts { 504 } else { 502 }), acts);
        let answer = || (418, "text/plain".to_owned(), Vec::new(), b"tea".to_vec());
        let (status, content_type, headers, body) = answer();
        let plain = Fault::Answer {
            status,
            content_type,
            headers,
            body,
        };
        let (status, content_type, headers, body) = answer();
        let acting = Fault::AnswerAfterActing {
            status,
            content_type,
            headers,
            body,
        };
        let cases = [
            (Fault::DelayMs(1), (Some(200), true)),
            (Fault::LateAnswer(1), (Some(200), true)),
            (Fault::ResetBeforeRead, (None, false)),
            (Fault::ResetAfterActing, (None, true)),
            (plain, (Some(418), false)),
            (acting, (Some(418), true)),
            (Fault::Html502, page(false)),
            (Fault::Html504, page(true)),
            (Fault::Truncated, (Some(200), true)),
            (Fault::Empty200, (Some(200), true)),
            (Fault::Hang(5), (None, false)),
            (Fault::Huge(100_000), (Some(200), true)),
        ];
        for (fault, expected) in cases {
            let name = format!("{fault:?}");
            let bench = bench(vec![Rule::first(1, "fal.*", fault)]);
            let got = bench.post("{}").map(|got| got.status);
            assert_eq!((got, bench.acted() == 1), expected, "{name}");
            assert_eq!(
                bench.post("{}").map(|got| got.status),
                Some(200),
                "{name} fires once"
            );
        }
    }

    #[test]
    fn bodies_of_truncated_empty_and_huge_answers_have_the_promised_lengths() {
        for (fault, length) in [
            (Fault::Truncated, 5),
            (Fault::Empty200, 0),
            (Fault::Huge(300_000), 300_000),
        ] {
            let bench = bench(vec![Rule::always("*", fault.clone())]);
            assert_eq!(
                bench.post("{}").expect("answer").body.len(),
                length,
                "{fault:?}"
            );
        }
    }

    #[test]
    fn a_filter_on_the_body_picks_the_request() {
        let rule =
            Rule::always("fal.submit", Fault::ResetBeforeRead).for_requests_with("\"chat\":7");
        let bench = bench(vec![rule]);
        assert!(bench.post(r#"{"chat":7}"#).is_none());
        assert!(bench.post(r#"{"chat":8}"#).is_some());
        assert_eq!(bench.acted(), 1);
    }

    #[test]
    fn a_slow_reader_takes_its_time_with_the_body() {
        let bench = bench(vec![Rule::first(1, "*", Fault::SlowRead(50))]);
        let began = Instant::now();
        assert_eq!(
            bench.post("twenty bytes of body").map(|got| got.status),
            Some(200)
        );
        assert!(began.elapsed() >= Duration::from_millis(300));
    }

    #[test]
    fn a_seed_repeats_the_same_faults() {
        let run = |seed| {
            let bench = bench(vec![Rule::sometimes(0.5, "fal.submit", Fault::Html502)]);
            bench.counting.faults.set_seed(seed);
            (0..40)
                .map(|_| bench.post("{}").expect("answer").status)
                .collect::<Vec<_>>()
        };
        let first = run(1);
        assert_eq!(first, run(1));
        assert_ne!(first, run(2));
        assert!(first.contains(&200) && first.contains(&502));
    }

    #[test]
    fn a_rule_counts_and_can_be_cleared() {
        let bench = bench(vec![]);
        let id = bench
            .counting
            .faults
            .add(Rule::first(2, "*", Fault::telegram_429(3)));
        let statuses: Vec<_> = (0..3)
            .map(|_| bench.post("").expect("answer").status)
            .collect();
        assert_eq!(statuses, [429, 429, 200]);
        assert_eq!(bench.counting.faults.fired(id), 2);
        assert_eq!(bench.counting.faults.fired_by_endpoint()["fal.submit"], 2);
        bench.counting.faults.add(Rule::always("*", Fault::Html502));
        bench.counting.faults.clear();
        assert_eq!(bench.post("").expect("answer").status, 200);
    }

    #[test]
    fn patterns_cover_families_and_parents_only() {
        assert!(
            covers("*", "tg.getme")
                && covers("tg.*", "tg.getme")
                && covers("file", "file.telegram")
        );
        assert!(!covers("fal.*", "file.worker") && !covers("tg.send", "tg.sendphoto"));
    }

    #[test]
    fn a_hold_lets_the_endpoint_act_and_keeps_the_answer() {
        let bench = bench(vec![]);
        let hold = bench.counting.barriers.hold("fal.submit", Some("mine"));
        std::thread::scope(|scope| {
            let held = scope.spawn(|| bench.post("mine").expect("answer").status);
            assert!(hold.wait_arrived(1, Duration::from_secs(5)));
            assert_eq!(bench.acted(), 1);
            assert_eq!(bench.post("other").expect("answer").status, 200);
            assert!(!held.is_finished());
            assert!(!hold.wait_arrived(2, Duration::from_millis(20)));
            hold.release();
            assert_eq!(held.join().expect("joins"), 200);
        });
        assert_eq!(bench.post("mine").expect("answer").status, 200);
    }
}
