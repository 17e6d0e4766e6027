//! The long version of `tests/it/load.rs`, on the release build: `tests/load`.

#[path = "../it/support/backlog.rs"]
mod backlog;

use backlog::{Load, Report};
use std::time::Duration;

fn main() {
    let numbers: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let number = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let (jobs, entries, threads) = (
        number(0, 100_000),
        number(1, 1_000_000),
        number(2, 16) as u32,
    );
    let long = Duration::from_secs(1800);
    println!("{}", Report::HEAD);
    let mut rows = Vec::new();
    if jobs > 0 {
        rows.push(Load::start().jobs(jobs, threads, long));
        println!("{}", rows[0].row());
    }
    if entries > 0 {
        rows.push(Load::start().inbox(entries, threads, long));
        println!("{}", rows[rows.len() - 1].row());
    }
    for report in rows {
        println!(
            "{}: {} events in the stream at the end",
            report.what, report.events
        );
    }
}
