//! What the last minutes of the stream of events tell: how long each model took, and what failed. Bounded: only
//! the newest events are kept, and a screen says from how long a time they are.

use crate::job::UnixMs;
use crate::store::Fault;
use crate::store::view::{EventView, View, field};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How far it looks back, and how many events it keeps.
const WINDOW: Duration = Duration::from_secs(5 * 60);
const MOST: usize = 5000;
/// Pages read of what came since the last look; beyond that it begins anew.
const PAGES: usize = 5;

/// One end, or one generation.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    at: i64,
    what: What,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    /// fal finished: model and ms.
    Generated(String, u64),
    /// The whole job: model and ms.
    Done(String, u64),
    /// It failed, or is tried again: model, job, kind, error.
    Failed(Failed),
}

/// One failure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failed {
    pub(crate) at: i64,
    pub(crate) event: String,
    pub(crate) job: String,
    pub(crate) model: String,
    pub(crate) kind: String,
    pub(crate) error: String,
}

/// One model's last minutes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ModelPace {
    pub(crate) model: String,
    pub(crate) done: usize,
    pub(crate) failed: usize,
    /// p50 and p99 of the generations, where any ended.
    pub(crate) generation: Option<(Duration, Duration)>,
    /// And from coming in to done.
    pub(crate) whole: Option<(Duration, Duration)>,
}

/// The newest events, as far as a screen needs them.
#[derive(Debug, Default)]
pub(crate) struct Lately {
    seen: VecDeque<Seen>,
    last: Option<String>,
}

impl Lately {
    /// Reads what came since the last look.
    pub(crate) fn refresh(&mut self, view: &mut View, now: UnixMs) -> Result<(), Fault> {
        let mut pages = 0;
        while let Some(last) = &self.last {
            let page = view.next_events(last)?;
            let Some((newest, _)) = page.last() else {
                break;
            };
            self.last = Some(newest.clone());
            self.add(&page);
            pages += 1;
            if pages == PAGES {
                self.last = None; // too much came: the newest are enough
            }
        }
        if self.last.is_none() {
            let since = UnixMs(now.0 - WINDOW.as_millis() as i64);
            let found = view.newest_events(Some(since), MOST, MOST, |_| true)?;
            self.seen.clear();
            self.add(&found.events);
            self.last = Some(found.last);
        }
        self.forget(now);
        Ok(())
    }

    pub(super) fn add(&mut self, events: &[EventView]) {
        self.seen.extend(events.iter().filter_map(seen));
        let surplus = self.seen.len().saturating_sub(MOST);
        self.seen.drain(..surplus);
    }

    pub(super) fn forget(&mut self, now: UnixMs) {
        let oldest = now.0 - WINDOW.as_millis() as i64;
        while self.seen.front().is_some_and(|seen| seen.at < oldest) {
            self.seen.pop_front();
        }
    }

    /// Models by how much ended of them, the most first.
    pub(crate) fn models(&self) -> Vec<ModelPace> {
        let mut times: BTreeMap<&str, (Vec<u64>, Vec<u64>, usize)> = BTreeMap::new();
        for seen in &self.seen {
            match &seen.what {
                What::Generated(model, ms) => times.entry(model).or_default().0.push(*ms),
                What::Done(model, ms) => times.entry(model).or_default().1.push(*ms),
                What::Failed(failed) if failed.event == "failed" => {
                    times.entry(&failed.model).or_default().2 += 1;
                }
                What::Failed(_) => {}
            }
        }
        let mut all: Vec<ModelPace> = times
            .into_iter()
            .map(|(model, (mut generated, mut whole, failed))| ModelPace {
                model: model.to_owned(),
                done: whole.len(),
                failed,
                generation: percentiles(&mut generated),
                whole: percentiles(&mut whole),
            })
            .collect();
        let ended = |model: &ModelPace| model.done + model.failed;
        all.sort_unstable_by(|a, b| ended(b).cmp(&ended(a)).then_with(|| a.model.cmp(&b.model)));
        all
    }

    /// The newest first.
    pub(crate) fn errors(&self) -> impl Iterator<Item = &Failed> {
        self.seen.iter().rev().filter_map(|seen| match &seen.what {
            What::Failed(failed) => Some(failed),
            _ => None,
        })
    }
}

fn seen(event: &EventView) -> Option<Seen> {
    let at = field(event, "at").parse().ok()?;
    let text = |name: &str| field(event, name).to_owned();
    let ms = || field(event, "ms").parse().ok();
    let what = match field(event, "event") {
        "completed" => What::Generated(text("model"), ms()?),
        "done" => What::Done(text("model"), ms()?),
        name @ ("failed" | "retrying") => What::Failed(Failed {
            at,
            event: name.to_owned(),
            job: text("job"),
            model: text("model"),
            kind: text("kind"),
            error: text("error"),
        }),
        _ => return None,
    };
    Some(Seen { at, what })
}

/// p50 and p99 by the nearest rank.
fn percentiles(ms: &mut [u64]) -> Option<(Duration, Duration)> {
    ms.sort_unstable();
    let rank = |percent: usize| {
        ms.get((ms.len() * percent).div_ceil(100).max(1) - 1)
            .copied()
    };
    Some((
        Duration::from_millis(rank(50)?),
        Duration::from_millis(rank(99)?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: i64, fields: &[(&str, &str)]) -> EventView {
        let at = ("at".to_owned(), at.to_string());
        let fields = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ("1-1".to_owned(), [at].into_iter().chain(fields).collect())
    }

    #[test]
    fn models_have_their_percentiles_and_old_events_are_forgotten() {
        let mut lately = Lately::default();
        lately.add(&[event(
            1000,
            &[("event", "done"), ("model", "old"), ("ms", "5")],
        )]);
        for n in 1..=100 {
            let ms = (n * 100).to_string();
            lately.add(&[
                event(
                    400_000,
                    &[("event", "completed"), ("model", "a"), ("ms", &ms)],
                ),
                event(400_001, &[("event", "done"), ("model", "a"), ("ms", &ms)]),
            ]);
        }
        let failed = [
            ("event", "failed"),
            ("model", "b"),
            ("job", "j"),
            ("kind", "timeout"),
            ("error", "why"),
        ];
        lately.add(&[event(400_002, &failed)]);
        lately.add(&[event(400_003, &[("event", "started"), ("model", "b")])]);
        lately.forget(UnixMs(400_003));
        let models = lately.models();
        assert_eq!(models.len(), 2, "{models:?}");
        let ms = Duration::from_millis;
        assert_eq!((models[0].model.as_str(), models[0].done), ("a", 100));
        assert_eq!(models[0].generation, Some((ms(5000), ms(9900))));
        assert_eq!(
            (models[1].done, models[1].failed, models[1].whole),
            (0, 1, None)
        );
        let errors: Vec<_> = lately.errors().map(|failed| failed.job.as_str()).collect();
        assert_eq!(errors, ["j"]);
    }

    #[test]
    fn percentiles_are_of_what_was_measured() {
        assert_eq!(percentiles(&mut []), None);
        let one = Duration::from_millis(7);
        assert_eq!(percentiles(&mut [7]), Some((one, one)));
    }

    #[test]
    fn it_keeps_no_more_than_it_may() {
        let mut lately = Lately::default();
        let many: Vec<_> = (0..MOST + 10)
            .map(|n| event(n as i64, &[("event", "done"), ("model", "a"), ("ms", "1")]))
            .collect();
        lately.add(&many);
        assert_eq!(lately.models()[0].done, MOST);
    }
}
