//! Recover: what a process of this host left in its step file when it died goes to Redis, before its jobs
//! get another owner. So a request id that fal had given is never forgotten, and nothing that was sent is
//! sent again because only its record was missing.

use super::Tools;
use super::gate::Service;
use crate::fal::Handle;
use crate::job::answer::Cancelled;
use crate::job::spec::Model;
use crate::recorder::Left;
use crate::report;
use crate::store::{Fault, Paid, Replayed, Session};

/// What came of the writes of a dead process.
pub(crate) struct Made {
    /// Each could be made: what one that could not would have said is not known to anybody, so its job must not
    /// pass for idle.
    pub(crate) whole: bool,
    /// Requests at fal that nobody needs.
    pub(crate) needless: Vec<Paid>,
}

/// Makes its writes again, as the dead owner, whose tokens still stand. An error means that Redis is away:
/// the file stays, and all of it is done once more.
pub(crate) fn replay(session: &Session, left: &Left) -> Result<Made, Fault> {
    let mut made = Made {
        whole: true,
        needless: Vec::new(),
    };
    if left.stale {
        let (writes, instance) = (left.commands.len() as u64, left.header.instances.first());
        let instance = instance.map_or("", String::as_str);
        report::warning(
            "a step file is too old, its writes are not made again",
            &[("instance", &instance), ("writes", &writes)],
        );
        made.whole = false;
        return Ok(made);
    }
    for command in &left.commands {
        match session.replay(&command.script, &command.packed) {
            Ok(Replayed::Settled | Replayed::Gone(None)) => {}
            Ok(Replayed::Cancel(paid)) => made.needless.push(paid),
            Ok(Replayed::Gone(Some(paid))) => {
                let (job, request) = (paid.job.as_str(), &*paid.request.0);
                report::warning(
                    "redis does not know the job of a paid request any more",
                    &[("job", &job), ("request", &request)],
                );
            }
            Ok(Replayed::Unknown) => {
                made.whole = false;
                let script = command.script.as_str();
                report::warning(
                    "a write of another version could not be made again",
                    &[("script", &script)],
                );
            }
            Err(Fault::Refused(why)) => {
                made.whole = false;
                let (script, why) = (command.script.as_str(), why.as_str());
                report::warning(
                    "redis refused a write of a dead process",
                    &[("script", &script), ("why", &why)],
                );
            }
            Err(away) => return Err(away),
        }
    }
    Ok(made)
}

/// Ends requests that nobody needs, as long as fal answers: a courtesy, for which a dead one is not waited for again
/// and again.
pub(crate) fn cancel(tools: &Tools, needless: &[Paid]) {
    for paid in needless {
        let Some(model) = (paid.model.as_deref()).and_then(|text| Model::new(text).ok()) else {
            continue;
        };
        if tools.gate.is_open(Service::Fal) {
            return;
        }
        let handle = Handle {
            request: &paid.request,
            path: paid.path.as_deref(),
        };
        let answer = tools.fal.cancel(&model, handle);
        super::record::say_cancelled(&paid.job, &paid.request, &answer);
        if matches!(answer, Cancelled::Failed(_)) {
            return;
        }
    }
}
