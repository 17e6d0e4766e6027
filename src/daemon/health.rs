//! Whether the process does its work, from what its threads were last seen to bring back. That they live
//! proves nothing: "connected, healthy, consuming nothing" is what job systems are blamed for most. Pure:
//! what was seen and the time go in, reasons come out. Asking for it calls nobody, least of all Redis.

use crate::job::{JobId, Phase};
use crate::report::At;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Redis away for less than this is a reconnect, not news.
const AWAY: Duration = Duration::from_secs(2);
/// Five beats; or the lease, if that is shorter, since others judge us by it.
const BEAT: Duration = Duration::from_secs(5);
/// A blocked call comes back after 5 s; on a dead connection it is given up after 7, and the next one comes
/// back after 5 more. That mends itself, so nobody is alarmed.
const ROUND: Duration = Duration::from_secs(15);
/// A lost ring of the bell costs a second, a dead connection seven: both mend themselves.
const BACKLOG: Duration = Duration::from_secs(10);
/// The permit to pull lay about for longer: all threads were in steps.
const UNUSED: Duration = Duration::from_secs(1);
/// Redis counts as away once a call has waited in vain: its silence began so much earlier at most.
const IN_VAIN: Duration = Duration::from_secs(10);

/// How far the daemon is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ready {
    /// Redis has not answered yet.
    #[default]
    NotYet,
    /// The start is done, and the line `ready` says so.
    Yes,
    /// The stop was asked for.
    Stopping,
}

/// A thread that is in one step for longer than any step takes.
#[derive(Clone, Debug)]
pub(crate) struct Stuck {
    pub(crate) thread: String,
    pub(crate) phase: Phase,
    pub(crate) job: JobId,
    pub(crate) since: Instant,
}

/// The rounds of one thread that asks Redis, waits in a blocking call where there is nothing, and asks
/// again.
#[derive(Clone, Debug, Default)]
struct Round {
    came: Option<Instant>,
    /// Since when an answer is waited for.
    waits: Option<Instant>,
    /// Since when asking has failed.
    unasked: Option<Instant>,
    /// The last wait failed.
    unheard: bool,
}

impl Round {
    /// After a round that failed the clock runs on.
    fn begins(&mut self, now: Instant) {
        if !self.has_failed() {
            self.waits = Some(now);
        }
    }

    /// The call that does not block was answered: after an outage that is enough, since the wait behind it
    /// may be long. But where the wait alone had failed, only a wait proves anything; a moment without
    /// Redis that the failure itself brought about, here or in another thread, is no outage.
    fn asked(&mut self, now: Instant) {
        if let Some(since) = self.unasked.take()
            && (!self.unheard || now - since >= AWAY)
        {
            self.unheard = false;
            self.waits = Some(now);
        }
    }

    fn came(&mut self, now: Instant) {
        (self.unasked, self.unheard) = (None, false);
        (self.came, self.waits) = (Some(now), Some(now));
    }

    fn failed(&mut self, now: Instant, at: At) {
        match at {
            At::Asking => self.unasked = self.unasked.or(Some(now)),
            At::Waiting => self.unheard = true,
        }
    }

    fn has_failed(&self) -> bool {
        self.unheard || self.unasked.is_some()
    }
}

/// What keeper, puller and intake last did; each says so itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    ready: Ready,
    beat: Option<Instant>,
    stuck: Option<Stuck>,
    paused: bool,
    /// Since when each beat has found jobs that are ready to be claimed.
    backlog: Option<Instant>,
    inbox: Round,
    pull: Round,
    /// When a claim last brought a job, or could not ask for one.
    served: Option<Instant>,
}

impl Life {
    pub(crate) fn ready(&mut self, now: Instant) {
        self.ready = Ready::Yes;
        self.inbox.begins(now);
        self.pull.begins(now);
    }

    pub(crate) fn stopping(&mut self) {
        self.ready = Ready::Stopping;
    }

    /// Redis took a beat, and said whether jobs are ready to be claimed.
    pub(crate) fn beat(&mut self, now: Instant, paused: bool, waiting: bool) {
        self.beat = Some(now);
        self.paused = paused;
        let since = self.backlog.unwrap_or(now);
        self.backlog = (waiting && !paused).then_some(since);
    }

    /// The stop was asked for.
    pub(crate) fn is_stopping(&self) -> bool {
        self.ready == Ready::Stopping
    }

    /// Whether the last beat found that nothing new is to be pulled.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(crate) fn stuck(&mut self, stuck: Option<Stuck>) {
        self.stuck = stuck;
    }

    /// Intake asked what it has taken already.
    pub(crate) fn inbox_asked(&mut self, now: Instant) {
        self.inbox.asked(now);
    }

    /// Its wait for the inbox came back, or there was more without one.
    pub(crate) fn inbox_came(&mut self, now: Instant) {
        self.inbox.came(now);
    }

    /// Since when intake waits for the inbox, or for Redis.
    pub(crate) fn inbox_waits(&self) -> Option<Instant> {
        self.inbox.waits
    }

    pub(crate) fn inbox_failed(&mut self, now: Instant, at: At) {
        self.inbox.failed(now, at);
    }

    /// A thread goes to pull.
    pub(crate) fn pull_begins(&mut self, now: Instant) {
        let pull = &mut self.pull;
        if !pull.has_failed() && pull.waits.is_none_or(|since| now - since > UNUSED) {
            self.served = Some(now);
        }
        pull.begins(now);
    }

    /// A claim was answered.
    pub(crate) fn pull_asked(&mut self, now: Instant) {
        self.pull.asked(now);
    }

    /// The pull was answered, or had a reason not to ask. `served`: it brought a job, or could not ask for one.
    pub(crate) fn pull_came(&mut self, now: Instant, served: bool) {
        self.pull.came(now);
        if served {
            self.served = Some(now);
        }
    }

    pub(crate) fn pull_failed(&mut self, now: Instant, at: At) {
        self.pull.failed(now, at);
    }
}

/// [`Life`] behind a lock: keeper, puller, intake and the start write it, the health pages read it.
#[derive(Debug, Default)]
pub(crate) struct Liveness(Mutex<Life>);

impl Liveness {
    pub(crate) fn note(&self, what: impl FnOnce(&mut Life, Instant)) {
        what(
            &mut self.0.lock().unwrap_or_else(PoisonError::into_inner),
            Instant::now(),
        );
    }

    pub(crate) fn life(&self) -> Life {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Why new jobs are or are not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pulling {
    /// They are asked for.
    Yes,
    /// No thread is free to ask.
    Busy,
    /// As many are held as may be.
    Full,
    /// fal is away: they wait in Redis.
    FalIsAway,
    /// Telegram refuses the bot: they wait in Redis, too.
    BotRefused,
}

/// All that is known at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) life: Life,
    pub(crate) started: Instant,
    pub(crate) lease: Duration,
    /// Since when Redis is away, and why.
    pub(crate) away: Option<(Instant, String)>,
    /// Since when its memory is full.
    pub(crate) full: Option<Instant>,
    pub(crate) pulling: Pulling,
    pub(crate) in_flight: usize,
}

impl Seen {
    /// What `/healthz` says, and whether all is well.
    pub(crate) fn health(&self, now: Instant) -> (bool, String) {
        let reasons = self.reasons(now);
        if reasons.is_empty() {
            (true, self.facts(now))
        } else {
            (false, lines(&reasons))
        }
    }

    /// What `/readyz` says, and whether jobs are taken.
    pub(crate) fn readiness(&self, now: Instant) -> (bool, String) {
        let reason = match self.life.ready {
            Ready::Stopping => Some("stopping".to_owned()),
            Ready::Yes => self.away(now).map(|(_, reason)| reason),
            Ready::NotYet => {
                let away = self.away(now).map(|(_, reason)| reason);
                Some(away.unwrap_or_else(|| "starting".to_owned()))
            }
        };
        let ready = reason.is_none();
        (
            ready,
            lines(&[reason.unwrap_or_else(|| "ready".to_owned())]),
        )
    }

    /// Each part that does not do its work.
    pub(crate) fn reasons(&self, now: Instant) -> Vec<String> {
        let life = &self.life;
        let age = |at: Instant| now.saturating_duration_since(at);
        let mut reasons = Vec::new();
        let away = self.away(now).filter(|(silent, _)| *silent >= AWAY);
        let is_away = away.is_some();
        reasons.extend(away.map(|(_, reason)| reason));
        if let Some(since) = self.full.filter(|since| age(*since) >= AWAY) {
            let full = age(since).as_secs();
            reasons.push(format!(
                "redis: its memory is full for {full} s, new jobs wait"
            ));
        }
        if let Some(stuck) = &life.stuck {
            reasons.push(format!(
                "thread {}: {} job {} for {} s",
                stuck.thread,
                stuck.phase.as_str(),
                stuck.job.as_str(),
                age(stuck.since).as_secs()
            ));
        }
        if is_away {
            return reasons; // what follows would follow from it
        }
        let late = |at: Option<Instant>, limit: Duration| at.map(age).filter(|age| *age >= limit);
        if let Some(silent) = late(life.beat, BEAT.min(self.lease)) {
            reasons.push(format!("keeper: no beat for {} s", silent.as_secs()));
        }
        if life.ready != Ready::Yes {
            return reasons;
        }
        let idle = match self.pulling {
            Pulling::Yes | Pulling::Full => late(life.pull.waits, ROUND),
            Pulling::Busy | Pulling::FalIsAway | Pulling::BotRefused => None,
        };
        if let Some(silent) = idle {
            let silent = silent.as_secs();
            reasons.push(format!("pull: no pull came back for {silent} s"));
        }
        if let Some(silent) = late(life.inbox.waits, ROUND) {
            let silent = silent.as_secs();
            reasons.push(format!(
                "intake: no look at the inbox came back for {silent} s"
            ));
        }
        let since = match self.pulling {
            Pulling::Yes => life.backlog.max(life.backlog.and(life.served)),
            Pulling::Busy | Pulling::Full | Pulling::FalIsAway | Pulling::BotRefused => None,
        };
        if let Some(stands) = late(since, BACKLOG) {
            let stands = stands.as_secs();
            reasons.push(format!(
                "backlog: jobs wait and nothing was claimed for {stands} s"
            ));
        }
        reasons
    }

    /// How long Redis has been silent, and the reason in words.
    fn away(&self, now: Instant) -> Option<(Duration, String)> {
        let why = |why: &str| {
            if why.is_empty() {
                String::new()
            } else {
                format!(" ({why})")
            }
        };
        match (&self.away, self.life.beat) {
            (Some((lost, text)), Some(beat)) => {
                // A keeper that does not beat for a reason of its own says nothing about Redis.
                let said_little = lost.saturating_duration_since(beat) > IN_VAIN;
                let since = if said_little { *lost } else { beat };
                let silent = now.saturating_duration_since(since);
                let seconds = silent.as_secs();
                let reason = format!("redis: no answer for {seconds} s{}", why(text));
                Some((silent, reason))
            }
            (away, None) => {
                let text = away.as_ref().map_or("", |(_, text)| text);
                let reason = format!("redis: no answer since start{}", why(text));
                Some((now.saturating_duration_since(self.started), reason))
            }
            (None, Some(_)) => None,
        }
    }

    fn facts(&self, now: Instant) -> String {
        let ago = |at: Option<Instant>| match at {
            Some(at) => format!(
                "{:.1} s ago",
                (now.saturating_duration_since(at)).as_secs_f64()
            ),
            None => "none yet".to_owned(),
        };
        let pulling = match (self.life.ready, self.life.paused, self.pulling) {
            (Ready::NotYet, _, _) => "not yet",
            (Ready::Stopping, _, _) => "no, stopping",
            (Ready::Yes, true, _) => "paused",
            (Ready::Yes, false, Pulling::Yes) => "yes",
            (Ready::Yes, false, Pulling::Busy) => "every thread is in a step",
            (Ready::Yes, false, Pulling::Full) => "full",
            (Ready::Yes, false, Pulling::FalIsAway) => "fal is away",
            (Ready::Yes, false, Pulling::BotRefused) => "telegram refuses the bot",
        };
        lines(&[
            "ok".to_owned(),
            format!("in flight: {}", self.in_flight),
            format!("pulling: {pulling}"),
            format!("last pull: {}", ago(self.life.pull.came)),
            format!("last look at the inbox: {}", ago(self.life.inbox.came)),
            format!("last beat: {}", ago(self.life.beat)),
        ])
    }
}

fn lines(lines: &[String]) -> String {
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At this second of the test's own time; it starts at 100, so that there is a past.
    fn at(zero: Instant, second: u64) -> Instant {
        zero + Duration::from_secs(second)
    }

    /// A worker that is ready since second 100 and well at second 200.
    fn well(zero: Instant) -> Seen {
        let mut life = Life::default();
        life.ready(at(zero, 100));
        life.inbox_came(at(zero, 197));
        life.pull_begins(at(zero, 195));
        life.pull_came(at(zero, 196), false);
        life.pull_begins(at(zero, 196));
        life.beat(at(zero, 200), false, false);
        Seen {
            life,
            started: at(zero, 99),
            lease: Duration::from_secs(30),
            away: None,
            full: None,
            pulling: Pulling::Yes,
            in_flight: 3,
        }
    }

    type Change = Box<dyn Fn(&mut Seen)>;

    fn job(id: &str) -> JobId {
        JobId::new(id).unwrap()
    }

    #[test]
    fn each_part_that_does_not_do_its_work_is_named_and_nothing_else() {
        let zero = Instant::now();
        let t = move |second| at(zero, second);
        let lost = move |second: u64| Some((t(second), "connection refused".to_owned()));
        let change = |change: fn(&mut Seen, &dyn Fn(u64) -> Instant)| -> Change {
            Box::new(move |seen| change(seen, &t))
        };
        let away = |second: u64| -> Change { Box::new(move |seen| seen.away = lost(second)) };
        // What changed, the second at which it is asked, the reasons.
        let table: Vec<(&str, Change, u64, &[&str])> = vec![
            ("nothing", change(|_, _| {}), 200, &[]),
            ("a blocked pull and look", change(|_, _| {}), 204, &[]),
            ("redis went just now", away(201), 201, &[]),
            (
                "redis went",
                away(201),
                202,
                &["redis: no answer for 2 s (connection refused)"],
            ),
            (
                "redis is away for long, and with it all that asks it",
                away(201),
                212,
                &["redis: no answer for 12 s (connection refused)"],
            ),
            (
                "a call waited in vain for five seconds before",
                away(205),
                206,
                &["redis: no answer for 6 s (connection refused)"],
            ),
            (
                "redis never answered",
                change(|seen, t| {
                    seen.life = Life::default();
                    seen.started = t(190);
                }),
                200,
                &["redis: no answer since start"],
            ),
            (
                "it has hardly had the time to",
                change(|seen, t| {
                    seen.life = Life::default();
                    seen.started = t(199);
                }),
                200,
                &[],
            ),
            (
                "its memory is full",
                change(|seen, t| seen.full = Some(t(190))),
                200,
                &["redis: its memory is full for 10 s, new jobs wait"],
            ),
            (
                "a thread does not move, so the keeper does not beat",
                change(|seen, t| {
                    seen.life.stuck(Some(Stuck {
                        thread: "pool-3".to_owned(),
                        phase: Phase::Polling,
                        job: job("order-1"),
                        since: t(10),
                    }));
                    seen.life.beat(t(251), false, false);
                    seen.life.pull_came(t(255), false);
                    seen.life.inbox_came(t(255));
                }),
                260,
                &[
                    "thread pool-3: polling job order-1 for 250 s",
                    "keeper: no beat for 9 s",
                ],
            ),
            (
                "redis went, and the keeper had stopped long before",
                change(|seen, t| {
                    seen.life.beat(t(150), false, false);
                    seen.away = Some((t(195), String::new()));
                }),
                200,
                &["redis: no answer for 5 s"],
            ),
            (
                "no beat",
                change(|seen, _| seen.lease = Duration::from_secs(3)),
                203,
                &["keeper: no beat for 3 s"],
            ),
            (
                "the pull hangs",
                change(|seen, t| {
                    seen.life.beat(t(215), false, false);
                    seen.life.inbox_came(t(215));
                }),
                216,
                &["pull: no pull came back for 20 s"],
            ),
            (
                "pulls fail, again and again",
                change(|seen, t| {
                    for second in 197..216 {
                        seen.life.pull_failed(t(second), At::Asking);
                        seen.life.pull_begins(t(second));
                    }
                    seen.life.beat(t(215), false, false);
                    seen.life.inbox_came(t(215));
                }),
                216,
                &["pull: no pull came back for 20 s"],
            ),
            (
                "redis was away, and claim and take were answered just now",
                change(|seen, t| {
                    seen.life.pull_failed(t(203), At::Waiting);
                    seen.life.pull_failed(t(204), At::Asking);
                    seen.life.pull_begins(t(215));
                    seen.life.pull_asked(t(215));
                    seen.life.inbox_failed(t(204), At::Asking);
                    seen.life.inbox_asked(t(215));
                    seen.life.beat(t(215), false, false);
                }),
                216,
                &[],
            ),
            (
                "claims are answered but for moments, and no wait comes back",
                change(|seen, t| {
                    for second in [203, 210] {
                        seen.life.pull_failed(t(second), At::Waiting);
                        seen.life.pull_failed(t(second), At::Asking);
                        seen.life.pull_begins(t(second + 1));
                        seen.life.pull_asked(t(second + 1));
                        seen.life.inbox_failed(t(second), At::Waiting);
                        seen.life.inbox_asked(t(second));
                    }
                    seen.life.beat(t(215), false, false);
                }),
                216,
                &[
                    "pull: no pull came back for 20 s",
                    "intake: no look at the inbox came back for 19 s",
                ],
            ),
            (
                "one wait on a dead connection, the next one not yet over",
                change(|seen, t| {
                    seen.life.pull_failed(t(203), At::Waiting);
                    seen.life.pull_begins(t(203));
                    seen.life.pull_asked(t(203));
                    seen.life.beat(t(208), false, false);
                }),
                208,
                &[],
            ),
            (
                "every thread is in a step",
                change(|seen, t| {
                    seen.pulling = Pulling::Busy;
                    seen.life.beat(t(215), false, true);
                    seen.life.inbox_came(t(215));
                }),
                216,
                &[],
            ),
            (
                "one has just come free of a long step and pulls",
                change(|seen, t| {
                    seen.life.beat(t(190), false, true);
                    seen.life.beat(t(215), false, true);
                    seen.life.inbox_came(t(215));
                    seen.life.pull_begins(t(215));
                }),
                216,
                &[],
            ),
            (
                "fal is away, and a probe takes its time",
                change(|seen, t| {
                    seen.pulling = Pulling::FalIsAway;
                    seen.life.beat(t(215), false, true);
                    seen.life.inbox_came(t(215));
                }),
                216,
                &[],
            ),
            (
                "the look at the inbox hangs",
                change(|seen, t| {
                    seen.life.beat(t(215), false, false);
                    seen.life.pull_came(t(215), false);
                }),
                216,
                &["intake: no look at the inbox came back for 19 s"],
            ),
            (
                "jobs wait, and claims bring none",
                change(|seen, t| {
                    for second in 200..216 {
                        seen.life.pull_begins(t(second));
                        seen.life.beat(t(second), false, true);
                        seen.life.pull_came(t(second), false);
                    }
                    seen.life.inbox_came(t(215));
                }),
                215,
                &["backlog: jobs wait and nothing was claimed for 15 s"],
            ),
            (
                "jobs wait, and claims bring some",
                change(|seen, t| {
                    for second in 200..216 {
                        seen.life.pull_begins(t(second));
                        seen.life.beat(t(second), false, true);
                        seen.life.pull_came(t(second), second == 210);
                    }
                    seen.life.inbox_came(t(215));
                }),
                215,
                &[],
            ),
            (
                "other workers took them for a moment",
                change(|seen, t| {
                    for second in 200..216 {
                        seen.life.beat(t(second), false, second != 210);
                        seen.life.pull_came(t(second), false);
                    }
                    seen.life.inbox_came(t(215));
                }),
                215,
                &[],
            ),
            (
                "jobs wait, for it is paused",
                change(|seen, t| {
                    for second in 200..216 {
                        seen.life.beat(t(second), true, true);
                        seen.life.pull_came(t(second), false);
                    }
                    seen.life.inbox_came(t(215));
                }),
                215,
                &[],
            ),
            (
                "jobs wait, and as many are held as may be",
                change(|seen, t| {
                    seen.pulling = Pulling::Full;
                    for second in 200..216 {
                        seen.life.beat(t(second), false, true);
                        seen.life.pull_came(t(second), true);
                    }
                    seen.life.inbox_came(t(215));
                }),
                215,
                &[],
            ),
            (
                "the stop asks for no more jobs",
                change(|seen, t| {
                    seen.life.stopping();
                    seen.life.beat(t(240), false, true);
                }),
                240,
                &[],
            ),
        ];
        for (what, change, second, reasons) in table {
            let mut seen = well(zero);
            change(&mut seen);
            assert_eq!(seen.reasons(t(second)), reasons, "{what}");
            assert_eq!(seen.health(t(second)).0, reasons.is_empty(), "{what}");
        }
    }

    #[test]
    fn it_is_ready_from_its_word_to_its_stop_while_redis_answers() {
        let zero = Instant::now();
        let mut seen = well(zero);
        let says = |seen: &Seen| seen.readiness(at(zero, 200));
        assert_eq!(says(&seen), (true, "ready\n".to_owned()));
        seen.away = Some((at(zero, 200), "connection refused".to_owned()));
        let reason = "redis: no answer for 0 s (connection refused)\n";
        assert_eq!(says(&seen), (false, reason.to_owned()));
        seen.away = None;
        seen.life.stopping();
        assert_eq!(says(&seen), (false, "stopping\n".to_owned()));
        seen.life = Life::default();
        let reason = "redis: no answer since start\n";
        assert_eq!(says(&seen), (false, reason.to_owned()));
        seen.life.beat(at(zero, 200), false, false);
        assert_eq!(says(&seen), (false, "starting\n".to_owned()));
    }

    #[test]
    fn a_healthy_answer_tells_what_was_seen() {
        let zero = Instant::now();
        let mut seen = well(zero);
        let facts = "ok\nin flight: 3\npulling: yes\nlast pull: 4.0 s ago\n\
                     last look at the inbox: 3.0 s ago\nlast beat: 0.0 s ago\n";
        assert_eq!(seen.health(at(zero, 200)), (true, facts.to_owned()));
        for (pulling, words) in [
            (Pulling::Busy, "pulling: every thread is in a step\n"),
            (Pulling::Full, "pulling: full\n"),
            (Pulling::FalIsAway, "pulling: fal is away\n"),
            (Pulling::BotRefused, "pulling: telegram refuses the bot\n"),
        ] {
            seen.pulling = pulling;
            let (well, facts) = seen.health(at(zero, 200));
            assert!(well && facts.contains(words), "{facts}");
        }
        seen.life.beat(at(zero, 200), true, true);
        assert!(seen.health(at(zero, 200)).1.contains("pulling: paused\n"));
    }
}
