//! Several daemons, one of them killed about every second while work comes in. The long version, with faults
//! of every neighbour, is the command `tests/chaos`.

use crate::support::kills::{Kills, kills, longest, median};
use std::time::Duration;

#[test]
fn three_daemons_killed_in_turn_lose_nothing_and_pay_again_only_for_submits_cut_off() {
    let given = std::env::var("FAL_WORKER_TEST_SEED").ok();
    let given = given.and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("killed in turn: FAL_WORKER_TEST_SEED={seed}");
    let killed = kills(Kills {
        seed,
        daemons: 3,
        jobs: 180,
        span: Duration::from_secs(7),
        step_file: true,
    });
    let judged = &killed.judged;
    eprintln!(
        "killed in turn: second submits {} of {} kills ({} jobs were inside an exchange, {} counted); \
         second sends {} ({} counted); work resumed after {:?} (median), {:?} at most; {:?} after the kill (median)",
        judged.paid_again,
        killed.kills,
        killed.inside,
        judged.paid_counted,
        judged.sent_again,
        judged.sent_counted,
        median(&killed.resumed),
        longest(&killed.resumed),
        median(&killed.since_kill),
    );
    assert!(killed.broken().is_empty(), "{:#?}", killed.broken());
    assert!(killed.kills >= 3, "too few kills to show anything");
}
