//! fal-worker: a synchronous thread-pool worker for slow, paid, remote calls.
//!
//! The map of the crate. A module imports only from layers below its own and from its own folder:
//!
//! | layer | modules | what it may know |
//! |---|---|---|
//! | 7 command line | `main`, [`cli`] | everything |
//! | 6 sandbox | [`sandbox`] | stand-ins know nothing of ours |
//! | 5 threads | [`daemon`] | who runs when |
//! | 4 steps | [`steps`] | one exchange each; no threads, no channels |
//! | 3 clients, store | [`fal`], [`telegram`], [`store`], `recorder` | one service each, not each other |
//! | 2 HTTP | [`http`] | sockets and limits; no service |
//! | 1 in and out | [`config`], [`report`] | what the operator says and reads |
//! | 0 domain | [`job`] | nothing of ours: no clock, socket, thread or randomness |

pub mod cli;
pub mod config;
pub mod daemon;
pub mod fal;
pub mod http;
pub mod job;
mod recorder;
pub mod report;
pub mod sandbox;
pub mod steps;
pub mod store;
pub mod telegram;

/// The mutator behind the fuzz targets among the unit tests: no part of what is shipped.
#[cfg(test)]
#[path = "../tests/fuzz/mod.rs"]
mod fuzz;
