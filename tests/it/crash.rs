//! Killed, restarted, frozen, taken over: nothing is lost, nothing is paid or shown twice unless it is
//! counted (design sections 3 and 4). Holds of the stand-ins, or a tap on the line, stop a job at the exact
//! place; each file below has one sort of crash, and what several of them use stands here.

mod at_fal;
mod at_random;
mod at_telegram;
mod frozen;
mod taken_over;

use crate::support::tap::{At, Side, Tap};
use crate::support::{Daemon, SOON, World, eventually, job, submits_of};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::telegram::Kind;
use std::time::{Duration, Instant};

const FLUX: &str = "fal-ai/flux/dev";

/// fal's generations of the default model take this long.
fn taking(world: &World, ms: u64) {
    let script = Script::default().taking(Duration::from_millis(ms));
    world.sandbox.fal.model(FLUX, script);
}

/// Messages with a file in a chat.
fn files_in(world: &World, chat: i64) -> usize {
    let messages = world.sandbox.telegram.messages(chat);
    messages
        .iter()
        .filter(|message| message.file.is_some())
        .count()
}

/// A world with one daemon of 4 threads behind a tap, which counts; later daemons go past it.
fn tapped(more: &[&str]) -> (World, Tap, Daemon) {
    let mut world = World::new();
    let tap = Tap::new(&world);
    tap.insert(&mut world, true);
    let daemon = world.daemon(&[&["--threads", "4"], more].concat());
    tap.insert(&mut world, false);
    world.wait_idle();
    tap.count();
    (world, tap, daemon)
}

/// Kills it at the first write or exchange of this name.
fn kill_at(tap: &Tap, daemon: &mut Daemon) {
    tap.wait_held(SOON);
    daemon.kill();
    tap.cut();
}
