//! Deliver: the plan says which call comes next, this makes it, and records what it left in the chat
//! before the next one goes out. Telling a failure is the same with a text of our own.

mod deadline;
mod files;

pub(super) use deadline::kept_out;

use super::collect::{file_urls, outputs};
use super::{Worker, job, rotation};
use crate::http::{DownloadError, DownloadRules, Spooled, spool_data_uri};
use crate::job::answer::{File, Held, Item, is_data};
use crate::job::failure::{Failure, Kind, Remedy};
use crate::job::flight::{Doubt, Flight, ResultIn};
use crate::job::spec::{Ping, Target};
use crate::job::state::{self, Next, Receipt};
use crate::job::{Charged, Phase};
use crate::report;
use crate::store::Fault;
use crate::store::rate::chat_name;
use crate::telegram::plan::{self, After, DownloadProblem, Op, Parcel, Progress};
use crate::telegram::refusal::Refusal;
use crate::telegram::{Call, Telegram, Upload};
use std::sync::Arc;
use std::time::Duration;

/// A job that took longer than this ends with a sound.
const PING_AFTER: Duration = Duration::from_secs(30);
/// How long one file may stay unreachable before the user gets its link instead; at most half of the
/// time that the whole delivery has, so that the link still goes out.
const DOWNLOAD_PATIENCE: Duration = Duration::from_secs(600);

/// What a call, or the try to make one, came to.
enum Outcome {
    After(Box<After>),
    /// Bytes move next: on a transfer thread.
    Transfer,
    /// The same again after this time.
    Again(Duration),
}

/// Sends the result.
pub(super) fn deliver(worker: &Worker, flight: &mut Flight) -> Next {
    flight.untouched = false;
    let (Some(target), Some(telegram)) = (flight.target.clone(), &worker.tools.telegram) else {
        return deliver_to_nobody(worker, flight);
    };
    let json = match result(worker, flight) {
        Ok(json) => json,
        Err(next) => return next,
    };
    let mut items = found(flight, &json);
    if let Some(redelivers) = &flight.redelivers {
        with_held(&mut items, &redelivers.held);
        if items.is_empty() {
            let text = "neither a file nor a text of it is known any more".to_owned();
            return worker.fail(flight, final_failure(Kind::NoOutput, text));
        }
    }
    let now = worker.tools.store.now();
    flight.completed_at.get_or_insert(now);
    if deadline::is_over(worker, flight, now) {
        let progress = Progress::parse(&flight.rung).unwrap_or_default();
        let limit = worker.tools.delivery_timeout.as_secs();
        let why = flight.no_room.take();
        let why = why.map_or(String::new(), |why| format!(": {why}"));
        let text = format!("not delivered within {limit} s{why}");
        if plan::is_there(&items, &progress) {
            // Only what comes after the result is open: a rest of its caption, the old status message, a sound.
            if progress.item < items.len() {
                went_without(flight, &text);
            }
            return finish(worker, flight, progress, &items);
        }
        return give_up(worker, flight, final_failure(Kind::Telegram, text));
    }
    let ping_due = match target.ping {
        Ping::Always => true,
        Ping::Never => false,
        Ping::Auto => flight.wanted_at.until(now) > PING_AFTER,
    };
    let may_fetch = |url: &str| worker.tools.file_hosts.allows(url);
    let parcel = worker.parcel(&items, &target, &may_fetch, ping_due);
    match go_on(worker, flight, telegram, &parcel) {
        // Telegram may want more silence than there is time.
        Step::Go(Next::In(wait)) => Next::In(deadline::at_most(worker, flight, wait)),
        Step::Go(next) => next,
        Step::Finished(progress) => finish(worker, flight, progress, &items),
        Step::Failed(failure) => give_up(worker, flight, failure),
    }
}

/// All of the result is in the chat.
fn finish(worker: &Worker, flight: &mut Flight, progress: Progress, items: &[Item]) -> Next {
    reached(worker, &progress);
    let receipt = receipt(progress, file_urls(items));
    let change = if flight.redelivers.is_some() {
        state::redelivered(flight, &receipt, None)
    } else {
        state::delivered(flight, &receipt)
    };
    worker.record(flight, change)
}

/// The end forgets that the chat its job names could not be reached; this does the same for the group that it has
/// become.
fn reached(worker: &Worker, progress: &Progress) {
    if let Some(chat) = progress.migrated_to {
        // Best effort: what is remembered ends by itself.
        let _ = worker.session.forget_unreachable(&chat.to_string());
    }
}

/// It ends without all of the result: what did go out stays in the chat, and in the record.
fn give_up(worker: &Worker, flight: &mut Flight, failure: Failure) -> Next {
    let progress = Progress::parse(&flight.rung).unwrap_or_default();
    if let (true, Some(target)) = (progress.edited, &mut flight.target) {
        // The status message holds the first part of the result: the failure of a later part is told in a
        // message of its own.
        Arc::make_mut(target).status_message_id = None;
    }
    worker.fail_with(flight, failure, &receipt(progress, Vec::new()))
}

/// Tells the user that it failed, for two minutes at most: a refund never waits for Telegram.
pub(super) fn tell(worker: &Worker, flight: &mut Flight) -> Next {
    let fresh = std::mem::replace(&mut flight.untouched, false);
    if flight.redelivers.is_some() {
        // It crashed too often; whose result it was has been told of that long ago.
        let (kind, text) = (flight.failure.clone()).unwrap_or((Kind::Crashed, String::new()));
        return give_up(worker, flight, final_failure(kind, text));
    }
    let now = worker.tools.store.now();
    flight.telling_at.get_or_insert(now);
    let (Some(target), Some(telegram)) = (flight.target.clone(), &worker.tools.telegram) else {
        let told = flight.target.is_some().then_some(false);
        let change = state::end_failed(flight, told);
        return worker.record(flight, change);
    };
    if deadline::is_told_no_more(worker, flight, fresh, now) {
        let change = state::end_failed(flight, Some(false));
        return worker.record(flight, change);
    }
    if fresh {
        deadline::give_a_moment(flight, now);
    }
    let (kind, error) = flight
        .failure
        .as_ref()
        .map_or((Kind::Unavailable, ""), |(kind, text)| (*kind, text));
    let lang = target.lang.unwrap_or(worker.tools.lang);
    let text = worker.tools.words.failure(lang, kind, &flight.id, error);
    let items = [Item::Text(text)];
    let target = plan::telling_target(&target);
    let parcel = worker.parcel(&items, &target, &|_| false, false);
    let told = match go_on(worker, flight, telegram, &parcel) {
        // Telegram may want more silence than there is time.
        Step::Go(Next::In(wait)) => {
            return Next::In(deadline::tell_at_most(worker, flight, wait));
        }
        Step::Go(next) => return next,
        Step::Finished(progress) => {
            reached(worker, &progress);
            true
        }
        Step::Failed(_) => false,
    };
    let change = state::end_failed(flight, Some(told));
    worker.record(flight, change)
}

fn receipt(progress: Progress, files: Vec<String>) -> Receipt {
    Receipt {
        message_ids: progress.message_ids,
        file_ids: progress.file_ids,
        file_kinds: progress.file_kinds,
        files,
        migrated_to: progress.migrated_to,
    }
}

/// Files that Telegram keeps take their place among the items. Where the result is not known any more, or
/// says less, they are all there is.
fn with_held(items: &mut Vec<Item>, held: &[(usize, Held)]) {
    for (place, held) in held {
        let held = Some(held.clone());
        match items.get_mut(*place) {
            Some(Item::File(file)) => file.held = held,
            Some(Item::Text(_)) | None => items.push(Item::File(File {
                held,
                ..File::default()
            })),
        }
    }
}

enum Step {
    Go(Next),
    Finished(Progress),
    Failed(Failure),
}

/// One call of a delivery.
fn go_on(worker: &Worker, flight: &mut Flight, telegram: &Telegram, parcel: &Parcel<'_>) -> Step {
    // A record of a newer version may say what we cannot read: then from the start, and counted.
    let known = Progress::parse(&flight.rung);
    let mut progress = known.clone().unwrap_or_default();
    if flight.doubt == Doubt::Send || known.is_none() {
        let (settled, resent) = match plan::resumed_in_doubt(parcel, &progress) {
            Ok(resumed) => resumed,
            Err(failure) => match plan::without(parcel, &progress) {
                Some(progress) => {
                    went_without(flight, &failure.text);
                    (progress, false)
                }
                None => return Step::Failed(failure),
            },
        };
        let change = state::delivery_progress(flight, settled.to_text(), resent);
        return Step::Go(worker.record(flight, change));
    }
    if plan::is_finished(parcel, &progress) {
        return over(worker, flight, parcel, progress);
    }
    if let Err(next) = worker.may_act(flight) {
        return Step::Go(park(worker, flight, next));
    }
    let after = match act(worker, flight, telegram, parcel, &mut progress) {
        Outcome::Transfer => return Step::Go(park(worker, flight, Next::Transfer)),
        Outcome::Again(wait) => return Step::Go(park(worker, flight, Next::In(wait))),
        Outcome::After(after) => *after,
    };
    if let After::Without { failure, .. } = &after {
        went_without(flight, &failure.text);
    }
    match after {
        After::Go(progress) | After::Without { progress, .. } => {
            flight.step_tries = 0;
            (flight.unfetched_since, flight.no_room) = (None, None);
            flight.in_vain_since = None;
            if plan::is_finished(parcel, &progress) {
                return over(worker, flight, parcel, progress);
            }
            let change = state::delivery_went_on(flight, progress.to_text());
            Step::Go(worker.record(flight, change))
        }
        After::Wait { progress, for_, .. } => {
            deadline::in_vain(worker, flight);
            flight.rung = progress.to_text();
            let for_ = worker.until_its_turn(flight).unwrap_or(for_);
            let (job, in_ms) = (job(flight).job, for_.as_millis() as u64);
            report::debug("delivery waits", &[("job", &job), ("in_ms", &in_ms)]);
            Step::Go(park(worker, flight, Next::In(for_)))
        }
        After::Unknown {
            progress,
            wait,
            resend,
        } => {
            deadline::in_vain(worker, flight);
            let mut change = state::delivery_progress(flight, progress.to_text(), resend);
            change.next = Next::In(wait);
            let next = worker.record(flight, change);
            Step::Go(park(worker, flight, next))
        }
        After::Failed(failure) => Step::Failed(failure),
        After::OperatorTrouble(text) => {
            deadline::in_vain(worker, flight);
            // Whoever could be told by this bot cannot be: the journal has it.
            let wait = if rotation::has_new_bot_token(worker) {
                rotation::RENEWED
            } else {
                worker.tools.telegram_outage.failed(&text);
                rotation::REFUSED
            };
            Step::Go(park(worker, flight, Next::In(wait)))
        }
    }
}

/// Nothing is left to send.
fn over(worker: &Worker, flight: &mut Flight, parcel: &Parcel<'_>, progress: Progress) -> Step {
    let Some(failure) = plan::lost(parcel.items, &progress) else {
        return Step::Finished(progress);
    };
    let is_file = |item: &Item| matches!(item, Item::File(_));
    if failure.kind == Kind::ChatUnreachable && parcel.items.iter().any(is_file) {
        // It takes neither: whatever is generated for it is paid for nothing.
        let chat = chat_name(&parcel.target.chat);
        let _ = worker.session.mark_unreachable(&chat);
    }
    flight.rung = progress.to_text(); // what went out is remembered
    Step::Failed(failure)
}

/// The file is in the chat, and what should follow it there is not.
fn went_without(flight: &Flight, why: &str) {
    report::warning(
        "a text could not follow its file",
        &[("job", &flight.id.as_str()), ("why", &why)],
    );
}

/// Makes the call.
fn act(
    worker: &Worker,
    flight: &mut Flight,
    telegram: &Telegram,
    parcel: &Parcel<'_>,
    progress: &mut Progress,
) -> Outcome {
    let sent = match plan::next(parcel, progress) {
        Op::Finished => return Outcome::After(Box::new(After::Go(progress.clone()))),
        Op::Call(call) => {
            if let Some(wait) = worker.tools.signs.end(flight) {
                return Outcome::Again(wait);
            }
            if let Err(wait) = worker.turn(flight, &call) {
                return Outcome::Again(wait);
            }
            if let Err(wait) = still_may_act(worker, flight, &call) {
                return Outcome::Again(wait);
            }
            let sent = telegram.perform(&call, None);
            worker.note(flight, &call, &sent);
            sent
        }
        Op::Upload { .. } | Op::UploadAlbum { .. } if !worker.moves_bytes => {
            return Outcome::Transfer;
        }
        op @ (Op::Upload { .. } | Op::UploadAlbum { .. }) => {
            return upload(worker, flight, telegram, parcel, progress, &op);
        }
    };
    Outcome::After(Box::new(plan::after(
        parcel,
        progress,
        sent,
        fastrand::f64(),
    )))
}

/// Gets the files of an upload and makes the call.
fn upload(
    worker: &Worker,
    flight: &mut Flight,
    telegram: &Telegram,
    parcel: &Parcel<'_>,
    progress: &mut Progress,
    op: &Op,
) -> Outcome {
    let (Some((pieces, max_bytes)), Op::Upload { call, .. } | Op::UploadAlbum { call, .. }) =
        (files::wanted(op), op)
    else {
        return Outcome::After(Box::new(After::Go(progress.clone())));
    };
    if let Err(wait) = worker.turn(flight, call) {
        return Outcome::Again(wait);
    }
    let mut here = match files::load(worker, flight, parcel, progress, &pieces, max_bytes) {
        Ok(here) => here,
        Err(outcome) => return outcome,
    };
    flight.no_room = None;
    // What they turned out to be may choose another rung; the files at hand stay the right ones.
    let parcel = &Parcel {
        items: &here.items,
        ..*parcel
    };
    *progress = plan::fetched(parcel, progress, here.files.len());
    let op = plan::next(parcel, progress);
    let (Some((pieces, max_bytes)), Op::Upload { call, .. } | Op::UploadAlbum { call, .. }) =
        (files::wanted(&op), &op)
    else {
        return Outcome::After(Box::new(After::Go(progress.clone())));
    };
    here.files.truncate(pieces.len());
    if here.files.iter().map(|file| file.len).sum::<u64>() > max_bytes {
        let after = plan::after_download(parcel, progress, DownloadProblem::TooBig);
        return Outcome::After(Box::new(after));
    }
    if let Some(wait) = worker.tools.signs.end_before_upload(flight) {
        return Outcome::Again(wait);
    }
    if let Err(wait) = worker.still_its_turn(flight, call) {
        return Outcome::Again(wait);
    }
    if let Err(wait) = still_may_act(worker, flight, call) {
        return Outcome::Again(wait);
    }
    let uploads = here
        .files
        .iter_mut()
        .zip(&pieces)
        .map(|(file, piece)| Upload {
            len: file.len,
            reader: &mut file.file,
            file_name: &piece.file_name,
            content_type: &piece.content_type,
        });
    let uploads = uploads.collect();
    let sent = telegram.perform_with(call, uploads);
    worker.note(flight, call, &sent);
    let after = plan::after(parcel, progress, sent, fastrand::f64());
    Outcome::After(Box::new(after))
}

/// The turn, asked of Redis, and a download take their time: the lease is looked at again right before a
/// call goes out, and that it does is noted. Where it may not, its turn stays with the job.
fn still_may_act(worker: &Worker, flight: &mut Flight, call: &Call) -> Result<(), Duration> {
    let may = worker.may_act(flight);
    may.and_then(|()| worker.about_to_act(flight))
        .map_err(|next| {
            worker.keep_turn(flight, call);
            match next {
                Next::In(wait) => wait,
                _ => super::REDIS_AWAY,
            }
        })
}

/// How long the download of these files may take, all together: as long as the largest allowed, where the size of
/// one is not known. What fal says of a size may be wrong by half.
fn transfer_time<'a>(mut files: impl Iterator<Item = &'a Item>, max_bytes: u64) -> Duration {
    let size = files.try_fold(0u64, |sum, item| match item {
        Item::File(file) => Some(sum.saturating_add(file.size?)),
        Item::Text(_) => Some(sum),
    });
    let bytes = size.map_or(max_bytes, |size| size.saturating_mul(2).min(max_bytes));
    Duration::from_secs(60 + bytes / (128 << 10))
}

fn fetch(
    worker: &Worker,
    url: &str,
    max_bytes: u64,
    total: Duration,
) -> Result<Spooled, DownloadError> {
    if is_data(url) {
        return spool_data_uri(url, max_bytes);
    }
    let rules = DownloadRules {
        hosts: &worker.tools.file_hosts,
        max_bytes,
        connect: Duration::from_secs(10),
        stall: Duration::from_secs(30),
        total,
    };
    worker.tools.http.download(url, &rules)
}

/// A page in place of a picture is its host's trouble, whatever the status said. Sent as a file it would
/// be the user's.
pub(super) fn no_page(file: Spooled, content_type: &str) -> Result<Spooled, DownloadError> {
    let is_media = ["image/", "video/", "audio/"]
        .iter()
        .any(|family| content_type.starts_with(family));
    let head = file.head.trim_ascii_start();
    let begins = |with: &[u8]| {
        head.get(..with.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(with))
    };
    if is_media && (begins(b"<!doctype html") || begins(b"<html")) {
        let text = "a page came in place of the file";
        return Err(DownloadError::Broken(text.to_owned()));
    }
    Ok(file)
}

/// How long a file that does not come is still waited for, from its first failure on.
fn patience_left(worker: &Worker, flight: &mut Flight) -> Duration {
    let now = worker.tools.store.now();
    let first = *flight.unfetched_since.get_or_insert(now);
    let patience = DOWNLOAD_PATIENCE.min(worker.tools.delivery_timeout / 2);
    patience.saturating_sub(first.until(now))
}

fn not_fetched(
    worker: &Worker,
    flight: &mut Flight,
    parcel: &Parcel<'_>,
    progress: &Progress,
    error: &DownloadError,
) -> Outcome {
    let why = error.to_string();
    let mut left = patience_left(worker, flight);
    flight.no_room = None;
    if let DownloadError::Disk {
        folder,
        why: system,
    } = error
    {
        let (job, folder, system) = (job(flight).job, folder.as_str(), system.as_str());
        report::warning(
            "a temporary file could not be written",
            &[("job", &job), ("folder", &folder), ("why", &system)],
        );
        flight.no_room = Some(why.into());
        if !plan::has_link(parcel, progress) {
            // It is here, paid for, and nothing can stand for it: the same wait as for a Telegram that is away.
            deadline::in_vain(worker, flight);
            left = Duration::MAX;
        }
    } else {
        report::warning(
            "a file could not be fetched",
            &[("job", &job(flight).job), ("why", &why.as_str())],
        );
    }
    if error.retryable() && !left.is_zero() {
        let wait = crate::job::schedule::backoff(
            flight.step_tries,
            Duration::from_millis(500),
            Duration::from_secs(30),
            worker.moment().random,
        );
        flight.step_tries = flight.step_tries.saturating_add(1);
        return Outcome::Again(wait.min(left));
    }
    (flight.unfetched_since, flight.no_room) = (None, None);
    let problem = match error {
        DownloadError::HostNotAllowed(_) => DownloadProblem::HostNotAllowed,
        DownloadError::TooBig { .. } => DownloadProblem::TooBig,
        DownloadError::Gone(_) => DownloadProblem::Gone,
        _ if error.retryable() => DownloadProblem::Exhausted,
        _ => DownloadProblem::Gone,
    };
    Outcome::After(Box::new(plan::after_download(parcel, progress, problem)))
}

/// Before a delivery waits, for its time or for a thread that moves its files, a result that lives only in
/// memory goes to Redis. What lies there is not kept here meanwhile.
fn park(worker: &Worker, flight: &mut Flight, next: Next) -> Next {
    let next = match next {
        Next::In(_) | Next::Transfer => match state::save_large(flight) {
            Some(write) => {
                let change = state::Change {
                    write: Some(write),
                    next,
                    say: state::Say::Nothing,
                };
                worker.record(flight, change)
            }
            None => next,
        },
        Next::Now | Next::Over => return next,
    };
    if matches!(next, Next::In(_) | Next::Transfer) {
        flight.shed_result();
    }
    next
}

/// The result: in memory, in its own key, or at fal once more.
fn result(worker: &Worker, flight: &mut Flight) -> Result<Arc<str>, Next> {
    if let Some(json) = &flight.result {
        return Ok(json.clone());
    }
    if flight.redelivers.is_some() {
        return Ok("".into()); // what Telegram keeps is all that is known
    }
    match worker.session.large_result(&flight.id) {
        Ok(Some(json)) => {
            flight.result_in = ResultIn::OwnKey;
            Ok(flight.result.insert(json.into()).clone())
        }
        Ok(None) => {
            flight.phase = Phase::Collecting;
            Err(Next::Now)
        }
        Err(Fault::Away(_) | Fault::Unable(_) | Fault::Refused(_)) => {
            Err(Next::In(super::REDIS_AWAY))
        }
    }
}

/// What the result holds: as the step before this one found it, else looked for again.
fn found(flight: &mut Flight, json: &str) -> Vec<Item> {
    match std::mem::take(&mut flight.found) {
        found if found.is_empty() => outputs(flight, json).items,
        found => found,
    }
}

/// No chat, or no bot token: what is paid ends with its files in the event.
fn deliver_to_nobody(worker: &Worker, flight: &mut Flight) -> Next {
    if flight.target.is_some() || flight.redelivers.is_some() {
        return worker.fail(
            flight,
            final_failure(Kind::Telegram, "no bot token is configured".to_owned()),
        );
    }
    let files = match flight.result.clone() {
        Some(json) => file_urls(&found(flight, &json)),
        None => Vec::new(),
    };
    let change = state::delivered(
        flight,
        &Receipt {
            files,
            ..Receipt::default()
        },
    );
    worker.record(flight, change)
}

fn final_failure(kind: Kind, text: String) -> Failure {
    Failure::new(kind, Remedy::Final, Charged::No, text)
}

impl Worker {
    /// Tells the operator's chat, once an hour for each kind of trouble, over all workers.
    pub(super) fn tell_admin(&self, kind: Kind, text: &str) {
        let (Some(chat), Some(telegram)) = (&self.tools.admin_chat, &self.tools.telegram) else {
            return;
        };
        if self.session.first_in_an_hour(kind.as_str()) != Ok(true) {
            return;
        }
        let items = [Item::Text(format!("fal-worker: pulling is paused. {text}"))];
        let target = Target::to_chat(chat.clone());
        let parcel = self.parcel(&items, &target, &|_| false, false);
        let Op::Call(call) = plan::next(&parcel, &Progress::default()) else {
            return;
        };
        let mut may_be_there = false;
        let sent = match self.may_tell_admin(&call) {
            Ok(()) => telegram.perform(&call, None).map_err(|refusal| {
                self.heard(&call, &refusal);
                may_be_there = matches!(
                    refusal,
                    Refusal::Unknown(_) | Refusal::Broke(_) | Refusal::AlreadySent(_)
                );
                refusal.to_string()
            }),
            Err(why) => Err(why),
        };
        if let Err(why) = sent {
            if !may_be_there {
                let _ = self.session.not_said(kind.as_str());
            }
            report::warning(
                "the admin chat could not be told",
                &[("why", &why.as_str())],
            );
        }
    }

    fn parcel<'a>(
        &'a self,
        items: &'a [Item],
        target: &'a Target,
        may_fetch: &'a dyn Fn(&str) -> bool,
        ping_due: bool,
    ) -> Parcel<'a> {
        Parcel {
            items,
            target,
            lang: target.lang.unwrap_or(self.tools.lang),
            words: &self.tools.words,
            delivery: self.tools.delivery,
            limits: self.tools.transfer_limits,
            may_fetch,
            ping_due,
        }
    }

    fn fail(&self, flight: &mut Flight, failure: Failure) -> Next {
        self.fail_with(flight, failure, &Receipt::default())
    }

    /// `receipt`: what is in the chat all the same.
    fn fail_with(&self, flight: &mut Flight, failure: Failure, receipt: &Receipt) -> Next {
        let change = if flight.redelivers.is_some() {
            flight.failure = Some((failure.kind, failure.text.clone()));
            state::redelivered(flight, receipt, Some(&failure))
        } else {
            let change = state::fail(flight, failure, self.moment());
            state::keep_what_went(change, receipt)
        };
        self.record(flight, change)
    }
}
