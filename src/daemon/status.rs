//! The line that `systemctl status` shows: what this worker does now, what waits, and how fast it goes. Told
//! by the keeper every few seconds, and only where a service manager listens. The text is pure.

use super::health::{Pulling, Seen};
use crate::report;
use crate::store::Depths;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Pace of the line.
const EVERY: Duration = Duration::from_secs(3);
/// Jobs are counted over this long.
const RECENT: Duration = Duration::from_secs(60);

/// Jobs that have ended by a moment, since the start of the process.
#[derive(Clone, Copy, Debug)]
struct Ended {
    at: Instant,
    done: u64,
    failed: u64,
}

/// When the line is due, and what its rate is made of.
#[derive(Debug)]
pub(crate) struct StatusLine {
    due: Instant,
    /// The oldest first: one a line, back to the last one that is older than [`RECENT`].
    ended: VecDeque<Ended>,
}

impl StatusLine {
    /// `None`: there is nobody to tell.
    pub(crate) fn new(now: Instant) -> Option<StatusLine> {
        std::env::var_os("NOTIFY_SOCKET")?;
        Some(StatusLine {
            due: now,
            ended: VecDeque::from([Ended::now(now)]),
        })
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }

    /// The line, which is due again after a while.
    pub(crate) fn line(&mut self, seen: &Seen, depths: Option<Depths>, now: Instant) -> String {
        self.due = now + EVERY;
        self.ended.push_back(Ended::now(now));
        let old = |ended: &Ended| now.saturating_duration_since(ended.at) >= RECENT;
        while self.ended.get(1).is_some_and(old) {
            self.ended.pop_front();
        }
        let (first, last) = (self.ended[0], self.ended[self.ended.len() - 1]);
        text(seen, depths, first, last)
    }
}

impl Ended {
    fn now(at: Instant) -> Ended {
        let counters = report::counters();
        Ended {
            at,
            done: counters.done.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
        }
    }
}

fn text(seen: &Seen, depths: Option<Depths>, first: Ended, last: Ended) -> String {
    let reasons = seen.reasons(last.at);
    let state = match seen.pulling {
        _ if !reasons.is_empty() => reasons.join("; "),
        _ if seen.life.is_paused() => "paused".to_owned(),
        Pulling::Yes => "pulling jobs".to_owned(),
        Pulling::Busy => "every thread is in a step".to_owned(),
        Pulling::Full => "full, pulls no more for now".to_owned(),
        Pulling::FalIsAway => "fal is away".to_owned(),
        Pulling::BotRefused => "telegram refuses the bot, pulls nothing new".to_owned(),
    };
    let waits = depths.map(|depths| {
        // Those behind their users' turns are counted by a walk that takes several looks.
        let more = if depths.lines.is_none() { "+" } else { "" };
        let later = match depths.later {
            0 => String::new(),
            later => format!(", {later} for later"),
        };
        let ready: u64 = depths
            .ready
            .iter()
            .chain(&depths.lines)
            .map(|waiting| waiting.jobs)
            .sum();
        format!(", {}{more} queued{later}", depths.inbox + ready)
    });
    let span = last.at.saturating_duration_since(first.at);
    let (done, failed) = (last.done - first.done, last.failed - first.failed);
    let rate = (done + failed) as f64 / span.as_secs_f64().max(1.0);
    format!(
        "{state}: {} in flight{}; last {} s: {done} done, {failed} failed, {rate:.1} jobs/s",
        seen.in_flight,
        waits.unwrap_or_default(),
        span.as_secs(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::health::Life;
    use super::*;
    use crate::store::Waiting;

    fn seen(pulling: Pulling, now: Instant) -> Seen {
        let mut life = Life::default();
        life.ready(now);
        life.beat(now, false, false);
        Seen {
            life,
            started: now,
            lease: Duration::from_secs(30),
            away: None,
            full: None,
            pulling,
            in_flight: 12,
        }
    }

    fn ended(at: Instant, done: u64, failed: u64) -> Ended {
        Ended { at, done, failed }
    }

    #[test]
    fn the_line_says_what_is_done_what_waits_and_how_fast() {
        let zero = Instant::now();
        let now = zero + Duration::from_secs(50);
        let waiting = |jobs| Waiting {
            jobs,
            ..Waiting::default()
        };
        let depths = Depths {
            inbox: 40,
            later: 2,
            ready: [0, 10, 90, 0].map(waiting),
            lines: Some(waiting(200)),
            ..Depths::default()
        };
        let (first, last) = (ended(zero, 100, 1), ended(now, 190, 11));
        assert_eq!(
            text(&seen(Pulling::Yes, now), Some(depths.clone()), first, last),
            "pulling jobs: 12 in flight, 340 queued, 2 for later; last 50 s: 90 done, 10 failed, 2.0 jobs/s"
        );
        let depths = Depths {
            later: 0,
            lines: None,
            ..depths
        };
        assert_eq!(
            text(&seen(Pulling::FalIsAway, now), Some(depths), last, last),
            "fal is away: 12 in flight, 140+ queued; last 0 s: 0 done, 0 failed, 0.0 jobs/s"
        );
        let mut away = seen(Pulling::Yes, now - Duration::from_secs(12));
        away.away = Some((
            now - Duration::from_secs(12),
            "connection refused".to_owned(),
        ));
        assert_eq!(
            text(&away, None, first, last),
            "redis: no answer for 12 s (connection refused): 12 in flight; last 50 s: 90 done, 10 failed, 2.0 jobs/s"
        );
    }

    #[test]
    fn it_looks_back_over_a_minute() {
        let zero = Instant::now();
        let mut line = StatusLine {
            due: zero,
            ended: VecDeque::from([ended(zero, 0, 0)]),
        };
        let mut text = String::new();
        for second in (0..300).step_by(3) {
            let now = zero + Duration::from_secs(second);
            assert!(line.is_due(now));
            text = line.line(&seen(Pulling::Yes, now), None, now);
            assert!(!line.is_due(now + Duration::from_secs(2)));
        }
        assert!(text.contains("; last 60 s: "), "{text}");
        assert!(line.ended.len() < 25);
    }
}
