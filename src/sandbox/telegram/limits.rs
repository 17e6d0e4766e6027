//! Rate limits: token buckets of the bot and of each chat.
//!
//! Pure (the time is an argument), so that a minute of sending is tested in a microsecond.

use std::time::{Duration, Instant};

/// Rates and bursts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Of the whole bot: a second, and burst.
    pub bot: Rate,
    /// Of a private chat.
    pub chat: Rate,
    /// Of a group or channel.
    pub group: Rate,
    /// Waits up to this are held instead of refused.
    pub swallow: Duration,
}

/// So many a second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens a second; infinite means no limit.
    pub per_second: f64,
    /// Tokens at the start and at most.
    pub burst: f64,
}

impl Rate {
    const NONE: Rate = Rate {
        per_second: f64::INFINITY,
        burst: f64::INFINITY,
    };
}

impl Limits {
    /// No limits.
    pub fn off() -> Limits {
        Limits {
            bot: Rate::NONE,
            chat: Rate::NONE,
            group: Rate::NONE,
            swallow: Duration::from_secs(8),
        }
    }

    /// As section 5 has them: 30 a second, 1 a second, 20 a minute; waits up to 8 s are swallowed.
    pub fn real() -> Limits {
        Limits {
            bot: Rate {
                per_second: 30.0,
                burst: 30.0,
            },
            chat: Rate {
                per_second: 1.0,
                burst: 3.0,
            },
            group: Rate {
                per_second: 1.0 / 3.0,
                burst: 20.0,
            },
            swallow: Duration::from_secs(8),
        }
    }

    /// The same, `factor` times as generous: tests do not want to wait for minutes.
    pub fn scaled(self, factor: f64) -> Limits {
        let scale = |rate: Rate| Rate {
            per_second: rate.per_second * factor,
            burst: rate.burst,
        };
        let (bot, chat, group) = (scale(self.bot), scale(self.chat), scale(self.group));
        Limits {
            bot,
            chat,
            group,
            swallow: self.swallow.div_f64(factor),
        }
    }
}

/// One bucket. It may go below zero: who takes then waits until it is full enough again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// Tokens spent and not yet grown back.
    spent: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// How long `n` tokens would have to wait now.
    pub(super) fn wait(&mut self, rate: Rate, n: f64, now: Instant) -> Duration {
        if rate.per_second.is_infinite() {
            return Duration::ZERO;
        }
        let since = self
            .at
            .map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.spent = (self.spent - since * rate.per_second).max(0.0);
        self.at = Some(now);
        let missing = self.spent + n - rate.burst.max(n);
        Duration::from_secs_f64((missing / rate.per_second).max(0.0))
    }

    /// Takes `n` tokens.
    pub(super) fn take(&mut self, n: f64) {
        self.spent += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_takes_twenty_at_once_and_then_one_in_three_seconds() {
        let (mut bucket, rate, now) = (Bucket::default(), Limits::real().group, Instant::now());
        for _ in 0..20 {
            assert_eq!(bucket.wait(rate, 1.0, now), Duration::ZERO);
            bucket.take(1.0);
        }
        let wait = bucket.wait(rate, 1.0, now).as_secs_f64();
        assert!((wait - 3.0).abs() < 0.01, "{wait}");
        assert_eq!(
            bucket.wait(rate, 1.0, now + Duration::from_millis(3001)),
            Duration::ZERO
        );
    }

    #[test]
    fn an_album_takes_as_many_as_it_has_items() {
        let (mut bucket, rate, now) = (Bucket::default(), Limits::real().chat, Instant::now());
        assert_eq!(
            bucket.wait(rate, 10.0, now),
            Duration::ZERO,
            "a full bucket lets a large album pass"
        );
        bucket.take(10.0);
        let wait = bucket.wait(rate, 1.0, now).as_secs_f64();
        assert!((wait - 8.0).abs() < 0.01, "{wait}");
    }

    #[test]
    fn no_limit_never_waits() {
        let mut bucket = Bucket::default();
        bucket.take(1e9);
        assert_eq!(
            bucket.wait(Limits::off().bot, 1.0, Instant::now()),
            Duration::ZERO
        );
        assert_eq!(Limits::real().scaled(10.0).chat.per_second, 10.0);
    }
}
