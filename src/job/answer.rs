//! What fal answered, in the domain's own words: the input of the state machine. `fal` makes these
//! values, `job::state` decides on them; neither an HTTP status nor a header passes this border.

use super::RequestId;
use super::failure::{Failure, Kind, Remedy};

/// What a submit came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Submitted {
    /// fal has it: paid from here on.
    Accepted(Accepted),
    /// fal certainly does not have it: no attempt is used. The remedy says whether it may be sent again.
    Refused(Failure),
    /// fal may have it: an attempt, and possibly a payment.
    Unknown(Failure),
}

/// A request in fal's hands.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// fal's name for it.
    pub request: RequestId,
    /// Path below the base URL for status, result and cancel, without `/status`, when the answer's
    /// URLs point to the configured base and differ from the stem form; `None`: build the stem form.
    pub path: Option<String>,
    /// Requests ahead of it, if fal said so.
    pub position: Option<u64>,
}

/// What a look at the status brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Polled {
    /// It waits in fal's queue.
    InQueue {
        /// Requests ahead of it.
        position: Option<u64>,
    },
    /// It runs (also any word we do not know).
    InProgress,
    /// It ended, well or not: only the result tells.
    Completed,
    /// It ended, and the status says that it failed. The result, which says more, should say so too.
    Broke {
        /// Of which kind.
        kind: Kind,
        /// What helps.
        remedy: Remedy,
    },
    /// 404: fal does not know it. Lost only after several of these.
    Missing,
    /// No answer about the job; says nothing about it. Remedy is always to retry the step.
    Failed(Failure),
}

/// What fetching the result brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Collected {
    /// The model's output.
    Output(Output),
    /// "Request is still in progress", under whatever status.
    NotYet,
    /// 404: expired or unknown.
    Missing,
    /// The job's own failure, or (remedy: retry the step) a fault on the way.
    Failed(Failure),
}

/// A good result.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// fal's JSON, byte for byte but for what is no text: a mark of the byte order, zeros at the end, what is no UTF-8.
    pub json: String,
    /// Billable units, as the header's decimal text.
    pub units: Option<String>,
}

/// What a cancel came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Cancelled {
    /// Accepted (any 2xx that does not say more); a running one may still complete.
    Requested,
    /// Taken out of fal's queue, in so many words: it never runs.
    Removed,
    /// Too late: read the result.
    AlreadyCompleted,
    /// fal does not know it.
    Missing,
    /// No answer; remedy is to retry the step.
    Failed(Failure),
}

/// What a direct call came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Directed {
    /// The model's output, with the id from the answer's header if there was one.
    Output(Output, Option<RequestId>),
    /// The job's own failure, with the id as above, or a refusal before anything ran.
    Failed(Failure, Option<RequestId>),
    /// Cut off: fal may have run it, and nobody can ask. A gateway of fal's may have named it.
    Unknown(Failure, Option<RequestId>),
}

/// One thing to deliver, found in a result.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A file at a URL.
    File(File),
    /// Plain text.
    Text(String),
}

/// A file of a result (fal-api section 7). Everything but the URL may be missing.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct File {
    /// `https://…`, `http://…` or a `data:` URI.
    pub url: String,
    /// As fal says, lower case, without parameters.
    pub content_type: Option<String>,
    /// File name as fal says.
    pub name: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// Pixels.
    pub width: Option<u32>,
    /// Pixels.
    pub height: Option<u32>,
    /// Seconds, rounded.
    pub duration_s: Option<u32>,
    /// Telegram has it already.
    pub held: Option<Held>,
}

/// Whether a URL holds its file itself, however its scheme is written.
pub(crate) fn is_data(url: &str) -> bool {
    url.get(..5)
        .is_some_and(|head| head.eq_ignore_ascii_case("data:"))
}

/// A file that Telegram keeps: sent again for free, also after fal's is gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Telegram's id of it.
    pub id: String,
    /// The member of a message that it came in (`photo`, `video` and so on), as which alone it can be sent
    /// again; empty where that was not noted.
    pub kind: String,
}
