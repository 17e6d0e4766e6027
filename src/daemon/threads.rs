//! What the threads beside the pool do: intake, the watch on secrets, the keeper's loop.

use super::health::Seen;
use super::keeper::Keeper;
use super::pool::Engine;
use super::status::StatusLine;
use super::{INBOX_BLOCK, notify, one_line};
use crate::config::SecretKind;
use crate::report::{self, At, Refusals};
use crate::steps::pull::Blocker;
use crate::steps::{self, Tools, Worker, rotation};
use crate::store::{Denied, Fault};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two looks at the files of secrets.
const SECRETS: Duration = Duration::from_secs(1);

/// Moves inbox entries into records until told to end.
pub(super) fn intake_thread(
    tools: Arc<Tools>,
    engine: &Engine,
    ends: &AtomicBool,
    client: &AtomicU64,
) {
    let worker = Worker::new(tools, None);
    let store = worker.tools.store.clone();
    let mut blocker = Blocker::new(INBOX_BLOCK);
    let mut heard: Option<Vec<u8>> = None;
    let refusals = Refusals::new("redis refused an intake", "redis takes entries again");
    let came = || engine.liveness.note(|life, now| life.inbox_came(now));
    let failed = |at| engine.liveness.note(|life, now| life.inbox_failed(now, at));
    let mut turn = |at: &mut At| {
        let taken = match heard.take() {
            // Nothing else lay in `taken`, or the fence of the batch says so.
            Some(entry) => steps::intake::batch(&worker, vec![entry.into()]),
            None => steps::intake::intake(&worker),
        };
        match &taken {
            Ok(_) => {
                engine.liveness.note(|life, now| life.inbox_asked(now));
                refusals.taken(At::Asking);
                *at = At::Waiting;
            }
            Err(_) => failed(At::Asking),
        }
        let began = Instant::now();
        match taken {
            Ok(done) if done.left > 0 => came(),
            Ok(_) => match blocker.hear_inbox(&store, INBOX_BLOCK, client) {
                Ok(entry) => {
                    came();
                    heard = entry;
                    refusals.taken(At::Waiting);
                }
                Err(Fault::Refused(why)) => {
                    failed(At::Waiting);
                    refusals.refused(&why, At::Waiting, || worker.session.in_the_way(&why));
                    pause(ends, Duration::from_secs(1));
                }
                Err(Fault::Away(why) | Fault::Unable(why)) => {
                    failed(At::Waiting);
                    if !ends.load(Ordering::Acquire) {
                        store.health.waited_in_vain(&why, began);
                    }
                    pause(ends, Duration::from_millis(100));
                }
            },
            Err(denied) => {
                if let Denied::Fault(Fault::Refused(why)) = &denied {
                    refusals.refused(why, At::Asking, || worker.session.in_the_way(why));
                    pause(ends, Duration::from_secs(1));
                }
                pause(ends, Duration::from_millis(100));
            }
        }
    };
    while !ends.load(Ordering::Acquire) {
        let mut at = At::Asking;
        let turned = std::panic::AssertUnwindSafe(|| turn(&mut at));
        if std::panic::catch_unwind(turned).is_err() {
            // The hook has logged the place; the entries still lie in `taken`.
            failed(at);
            pause(ends, Duration::from_secs(1));
        }
    }
}

/// Looks at the files of secrets until the process ends.
pub(super) fn secrets_thread(tools: Arc<Tools>, engine: &Engine) {
    let worker = Worker::new(tools, None);
    loop {
        std::thread::sleep(SECRETS);
        let seen = std::panic::AssertUnwindSafe(|| {
            let waits = worker.tools.telegram_outage.since().is_some();
            if rotation::look(&worker).contains(&SecretKind::BotToken) && waits {
                engine.scheduler.hurry_deliveries();
            }
        });
        // The hook has logged it; the next look may do better.
        let _ = std::panic::catch_unwind(seen);
    }
}

/// A thread of its own may wait; it looks up often enough to end quickly.
fn pause(ends: &AtomicBool, long: Duration) {
    let began = Instant::now();
    while !ends.load(Ordering::Acquire) {
        let left = long.saturating_sub(began.elapsed());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
}

/// Beats until told to end. Without Redis it tries more often.
pub(super) fn keeper_thread(mut keeper: Keeper, ends: &Receiver<()>, look: &dyn Fn() -> Seen) {
    let watchdog = sd_notify::watchdog_enabled();
    let mut status = StatusLine::new(Instant::now());
    let mut wait = keeper.pace();
    let mut pinged = Instant::now();
    let refusals = Refusals::new("redis refused a beat", "redis takes beats again");
    loop {
        match ends.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return keeper.last_words(),
        }
        let beaten = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| keeper.once()));
        wait = match &beaten {
            Ok(Ok(())) => {
                refusals.taken(At::Asking);
                keeper.pace()
            }
            Ok(Err(fault)) => {
                // A Redis that is away has its own line.
                if let Fault::Refused(why) = fault {
                    refusals.refused(why, At::Asking, || keeper.in_the_way(why));
                }
                Duration::from_millis(100)
            }
            Err(_) => keeper.pace(),
        };
        if let Some(every) = watchdog
            // Often, since one beat may hang in a Redis that does not answer for many seconds.
            && pinged.elapsed() * 6 >= every
            && keeper.is_well()
        {
            pinged = Instant::now();
            notify(&[sd_notify::NotifyState::Watchdog]);
        }
        report::tell_held_back(false);
        let now = Instant::now();
        if let Some(status) = status.as_mut().filter(|status| status.is_due(now)) {
            let depths = matches!(beaten, Ok(Ok(()))).then(|| keeper.depths());
            let seen = look();
            let line = status.line(&seen, depths.flatten(), now);
            if !seen.life.is_stopping() {
                notify(&[sd_notify::NotifyState::Status(&one_line(line))]);
            }
        }
    }
}
