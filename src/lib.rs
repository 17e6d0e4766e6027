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
//!
//! Words that all modules use:
//!
//! | word | meaning |
//! |---|---|
//! | entry | the JSON text of a job, as a producer pushed it |
//! | record | the Redis hash `<ns>:job:<id>`: all that is stored about a job, but for its entry and a large result |
//! | instance | a process under its name in Redis; once taken over it goes on under a new name and the next `epoch` |
//! | beat, lease | an instance's heartbeat; one that is silent for a lease counts as dead, and others take its jobs |
//! | claim | an instance's ownership of a job, named by a token; each write shows it, or brings a paid request's id |
//! | flight | a claimed job in the memory of this process ([`job::flight`]) |
//! | phase, step | where a flight stands; one exchange with fal or Telegram and the write of what it brought |
//! | bell | the list that wakes the blocked puller: it says that something is ready, not what |
//! | permit | the right to pull; there is one in a process |
//! | desk | where a thread shows which flight it is working on, for the keeper and the stop |
//! | gate, place | bulkhead and circuit breaker of the services; one step's place inside a service |
//! | rung | how far a delivery has come on its ladder of fallbacks, as the record stores it |
//! | turn | of a user: his place among those who wait (`--fair`); of a message: when Telegram's limits let it out |
//! | in doubt | the last owner may have submitted or sent something that no record shows |
//! | telling | the phase in which the user is told why the job failed |

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
