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

/// Makes its writes again, as the dead owner, whose tokens still stand. An error means that Redis is away:
/// the file stays, and all of it is done once more. Gives whether each could be made: what one that could
/// not would have said is not known to anybody, so its job must not pass for idle.
pub(crate) fn replay(tools: &Tools, session: &Session, left: &Left) -> Result<bool, Fault> {
    if left.stale {
        let (writes, instance) = (left.commands.len() as u64, left.header.instances.first());
        let instance = instance.map_or("", String::as_str);
        report::warning(
            "a step file is too old, its writes are not made again",
            &[("instance", &instance), ("writes", &writes)],
        );
        return Ok(false);
    }
    let (mut fal_answers, mut whole) = (!tools.gate.is_open(Service::Fal), true);
    for command in &left.commands {
        match session.replay(&command.script, &command.packed) {
            Ok(Replayed::Settled | Replayed::Gone(None)) => {}
            Ok(Replayed::Cancel(paid)) => fal_answers = fal_answers && cancel(tools, &paid),
            Ok(Replayed::Gone(Some(paid))) => {
                let (job, request) = (paid.job.as_str(), &*paid.request.0);
                report::warning(
                    "redis does not know the job of a paid request any more",
                    &[("job", &job), ("request", &request)],
                );
            }
            Ok(Replayed::Unknown) => {
                whole = false;
                let script = command.script.as_str();
                report::warning(
                    "a write of another version could not be made again",
                    &[("script", &script)],
                );
            }
            Err(Fault::Refused(why)) => {
                whole = false;
                let (script, why) = (command.script.as_str(), why.as_str());
                report::warning(
                    "redis refused a write of a dead process",
                    &[("script", &script), ("why", &why)],
                );
            }
            Err(away) => return Err(away),
        }
    }
    Ok(whole)
}

/// A second request of one job, ended at fal if fal is quick enough. Gives whether fal answered: the
/// keeper asks, and must not wait for a dead one again and again.
fn cancel(tools: &Tools, paid: &Paid) -> bool {
    let Some(model) = paid.model.as_deref().and_then(|text| Model::new(text).ok()) else {
        return true;
    };
    let answer = tools.fal.cancel(
        &model,
        Handle {
            request: &paid.request,
            path: paid.path.as_deref(),
        },
    );
    super::record::say_cancelled(&paid.job, &paid.request, &answer);
    !matches!(answer, Cancelled::Failed(_))
}
