//! A backlog is worked off in bounded memory, and Redis has time for others meanwhile. What is asserted
//! is the shape (nothing grows with the backlog, no command holds Redis up); `tests/load` has the figures.

use crate::support::backlog::{Load, Report, percentile};
use std::time::Duration;

/// How long others may wait for Redis.
const LONGEST_MS: f64 = 50.0;
/// Nothing waits for it when all is well; a slow machine may take minutes.
const WITHIN: Duration = Duration::from_secs(300);

fn assert_polite(report: &Report) {
    println!("{}\n{}", Report::HEAD, report.row());
    // One script can be held up by the machine, hundreds cannot.
    assert!(report.script_us < 20_000.0, "{}", report.row());
    for (what, waited) in [("PING", &report.ping), ("LPUSH", &report.lpush)] {
        assert!(
            waited.len() > 100,
            "{what} was asked {} times",
            waited.len()
        );
        // The figure to reach is 50 ms at the most; on a machine that does other things as well only the
        // median says something about Redis.
        let usual = percentile(waited, 0.5);
        assert!(usual < LONGEST_MS, "{what}\n{}", report.row());
    }
}

#[test]
fn an_inbox_of_fifty_thousand_is_taken_in_at_bounded_memory_while_redis_answers_others() {
    let small = Load::start().inbox(5_000, 4, WITHIN);
    let large = Load::start().inbox(50_000, 4, WITHIN);
    assert_polite(&large);
    let more = large.daemon_kib.saturating_sub(small.daemon_kib);
    assert!(
        more < 4 << 10,
        "ten times the inbox took {more} KiB more\n{}\n{}",
        small.row(),
        large.row()
    );
    // Beside its input, a waiting job takes less than 1.2 KiB.
    let each = (large.redis_peak - large.redis_pushed) / large.number;
    assert!(each < 1229, "{each} bytes a waiting job");
}

#[test]
fn five_thousand_jobs_at_once_are_done_at_bounded_memory_while_redis_answers_others() {
    let report = Load::start().jobs(5_000, 8, WITHIN);
    assert_polite(&report);
    // Two thousand in flight, and the ends of the last ten seconds, which have a bound of their own.
    assert!(
        report.daemon_kib < report.daemon_idle_kib + (40 << 10),
        "{}",
        report.row()
    );
}
