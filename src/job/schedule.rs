//! When to try again: backoff with full jitter, and when to ask fal for a status. Pure: elapsed times
//! and random numbers are arguments. `poll_wait` serves a model without any measured generation; the schedule
//! that learns is in `pace`.

use std::time::Duration;

/// Time limit of a submit: of its exchange, and so of when somebody else may repeat it.
pub(crate) const SUBMIT: Duration = Duration::from_secs(30);

/// Bounds of the wait between two polls of one job (`--poll-min`, `--poll-max`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollBounds {
    /// Never sooner, between two looks (unless it equals `max`: then polling is fixed).
    pub min: Duration,
    /// Never later.
    pub max: Duration,
}

/// Exponential backoff with full jitter: a random wait between a tenth and the whole of
/// `base * 2^tries`, the whole never above `cap`. `random` is in `0.0..1.0`.
pub(crate) fn backoff(tries: u32, base: Duration, cap: Duration, random: f64) -> Duration {
    let whole = base.saturating_mul(1 << tries.min(20)).min(cap);
    whole.mul_f64(0.1 + 0.9 * random)
}

/// How long until the next poll of a request that has been at fal for `elapsed`, with `in_flight`
/// jobs in this process: a quarter of the elapsed time, within the bounds, ten per cent of jitter so
/// that a burst does not poll in step. With many in flight the wait grows (4000 polls a second in all
/// are what a pool can carry: more would starve the submits), but `max` wins.
pub(crate) fn poll_wait(
    elapsed: Duration,
    in_flight: usize,
    bounds: &PollBounds,
    random: f64,
) -> Duration {
    let floor = Duration::from_secs_f64(in_flight as f64 / 4000.0);
    let wait = (elapsed / 4).max(bounds.min).max(floor).min(bounds.max);
    wait.mul_f64(0.9 + 0.2 * random)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: PollBounds = PollBounds {
        min: Duration::from_millis(250),
        max: Duration::from_secs(5),
    };

    #[test]
    fn polls_follow_a_quarter_of_the_elapsed_time_within_their_bounds() {
        let wait =
            |elapsed_ms| poll_wait(Duration::from_millis(elapsed_ms), 1, &BOUNDS, 0.5).as_millis();
        assert_eq!(wait(0), 250);
        assert_eq!(wait(4000), 1000);
        assert_eq!(wait(3_600_000), 5000);
    }

    #[test]
    fn many_in_flight_stretch_the_wait_but_never_beyond_the_maximum() {
        assert_eq!(
            poll_wait(Duration::ZERO, 5000, &BOUNDS, 0.5),
            Duration::from_millis(1250)
        );
        assert_eq!(
            poll_wait(Duration::ZERO, 1_000_000, &BOUNDS, 0.5),
            BOUNDS.max
        );
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        for step in 0..=100 {
            let wait =
                poll_wait(Duration::from_secs(4), 1, &BOUNDS, f64::from(step) / 100.0).as_millis();
            assert!((900..=1100).contains(&wait), "{wait}");
        }
    }

    #[test]
    fn equal_bounds_poll_at_a_fixed_pace() {
        let fixed = PollBounds {
            min: Duration::from_secs(1),
            max: Duration::from_secs(1),
        };
        assert_eq!(
            poll_wait(Duration::from_secs(100), 1, &fixed, 0.5),
            Duration::from_secs(1)
        );
        assert_eq!(
            poll_wait(Duration::ZERO, 1, &fixed, 0.5),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn backoff_doubles_up_to_its_cap_and_is_never_nothing() {
        let wait = |tries| {
            backoff(
                tries,
                Duration::from_millis(500),
                Duration::from_secs(30),
                1.0,
            )
            .as_millis()
        };
        assert_eq!(
            [wait(0), wait(1), wait(3), wait(9), wait(400)],
            [500, 1000, 4000, 30_000, 30_000]
        );
        assert_eq!(
            backoff(0, Duration::from_secs(1), Duration::from_secs(9), 0.0),
            Duration::from_millis(100)
        );
    }
}
