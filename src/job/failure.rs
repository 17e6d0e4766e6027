//! What went wrong, in the domain's own words. `fal` and `telegram` translate every answer into
//! these types, so that the state machine never sees an HTTP error.

use super::Charged;
use std::time::Duration;

/// `kind` of an error (contract section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The entry breaks a rule of contract section 1.
    InvalidJob,
    /// fal 422 and other refusals of the input.
    InvalidInput,
    /// fal's content checker said no.
    ContentPolicy,
    /// The fal account is locked or empty.
    NoBalance,
    /// A key was refused.
    Auth,
    /// 429 of fal.
    RateLimited,
    /// 5xx, network, a lost result.
    Unavailable,
    /// Too long at fal, or in fal's queue.
    Timeout,
    /// A result without anything to deliver.
    NoOutput,
    /// An answer that makes no sense.
    BadAnswer,
    /// A file over every limit.
    FileTooBig,
    /// The chat cannot be reached.
    ChatUnreachable,
    /// Telegram refused the delivery.
    Telegram,
    /// The job crashed the worker too often.
    Crashed,
    /// Cancelled by request.
    Cancelled,
    /// Too old to be paid for.
    Expired,
}

impl Kind {
    /// Every kind, for tables and tests.
    pub const ALL: [Kind; 16] = [
        Kind::InvalidJob,
        Kind::InvalidInput,
        Kind::ContentPolicy,
        Kind::NoBalance,
        Kind::Auth,
        Kind::RateLimited,
        Kind::Unavailable,
        Kind::Timeout,
        Kind::NoOutput,
        Kind::BadAnswer,
        Kind::FileTooBig,
        Kind::ChatUnreachable,
        Kind::Telegram,
        Kind::Crashed,
        Kind::Cancelled,
        Kind::Expired,
    ];

    /// The word of the record, the events and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::InvalidJob => "invalid_job",
            Kind::InvalidInput => "invalid_input",
            Kind::ContentPolicy => "content_policy",
            Kind::NoBalance => "no_balance",
            Kind::Auth => "auth",
            Kind::RateLimited => "rate_limited",
            Kind::Unavailable => "unavailable",
            Kind::Timeout => "timeout",
            Kind::NoOutput => "no_output",
            Kind::BadAnswer => "bad_answer",
            Kind::FileTooBig => "file_too_big",
            Kind::ChatUnreachable => "chat_unreachable",
            Kind::Telegram => "telegram",
            Kind::Crashed => "crashed",
            Kind::Cancelled => "cancelled",
            Kind::Expired => "expired",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// What helps against a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing: tell the user.
    Final,
    /// The same request again, later (network, 5xx, 429).
    RetryStep,
    /// A new submit, paid again, counted against `max_attempts`.
    TryAnew,
}

/// One failure, as the core sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The contract's word for it.
    pub kind: Kind,
    /// What helps.
    pub remedy: Remedy,
    /// For the operator: at most 300 characters, never fal's echo of the input, no URL with a secret.
    pub text: String,
    /// Whether fal charges for the request that failed.
    pub charged: Charged,
    /// fal's billable units, as the header's decimal text.
    pub units: Option<String>,
    /// The service asked to wait this long (`Retry-After`).
    pub retry_after: Option<Duration>,
    /// The service itself answered, however badly: it is there. Not a time-out, a broken connection or
    /// a gateway in front of it.
    pub spoke: bool,
    /// fal could not fetch a file that the input names.
    pub unfetched: bool,
}

impl Failure {
    /// One that the service itself reported: without units, and without a time to wait.
    pub fn new(kind: Kind, remedy: Remedy, charged: Charged, text: impl Into<String>) -> Failure {
        Failure {
            kind,
            remedy,
            text: text.into(),
            charged,
            units: None,
            retry_after: None,
            spoke: true,
            unfetched: false,
        }
    }
}
