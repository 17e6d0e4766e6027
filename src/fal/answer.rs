//! What an answer of fal means: pure, from the wire into the domain's words (fal-api sections 3-6, 8).
//! Two questions are kept apart all the way down. Is this fal's own word about the job, or a fault on
//! the way to it (HTML, nothing, a bare 502)? And has fal certainly not charged, or can nobody know?

use super::Probe;
use super::members::{self, Members};
use crate::http::{Answer, Broken, Headers, Place, Torn};
use crate::job::answer::{Accepted, Cancelled, Collected, Directed, Output, Polled, Submitted};
use crate::job::failure::{Failure, Kind, Remedy};
use crate::job::spec::Model;
use crate::job::{Charged, RequestId};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::Duration;

/// What an exchange brought.
pub(super) type Wire = Result<Answer, Broken>;

/// Longest text of a failure, characters.
const TEXT: usize = 300;
/// Longest part of it that fal worded, characters: it may quote the input.
const MESSAGE: usize = 200;
/// Longest body that can be a word about the request in place of its result.
const LONGEST_STATUS: usize = 4 << 10;
/// A longer `Retry-After` is not believed.
const LONGEST_WAIT_S: u64 = 3600;

/// What Windows tools put before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The answer with a body that can be read: without a mark of the byte order before it and without zeros behind it,
/// and with a mark in the place of what is no UTF-8. What is paid for is not to be lost to one odd byte.
pub(super) fn legible(mut answer: Answer) -> Answer {
    let body = &mut answer.body;
    let is_text = |byte: &u8| *byte != 0 && !byte.is_ascii_whitespace();
    let end = body.iter().rposition(is_text).map_or(0, |at| at + 1);
    if body[end..].contains(&0) {
        body.truncate(end);
    }
    let start = body.len() - body.trim_ascii_start().len();
    if body[start..].starts_with(BYTE_ORDER_MARK) {
        body.drain(..start + BYTE_ORDER_MARK.len());
    }
    if std::str::from_utf8(body).is_err() {
        *body = String::from_utf8_lossy(body).into_owned().into_bytes();
    }
    answer
}

/// Whether nothing of JSON begins in it: a page, or no body at all. Under a good status too a gateway's, which says
/// nothing about the request; fal keeps what was asked for.
pub(super) fn is_a_page(answer: &Answer) -> bool {
    !matches!(answer.body.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// Such a page in the place of an answer: to be asked again.
fn page(answer: &Answer) -> Failure {
    Failure {
        retry_after: retry_after(answer),
        spoke: fal_spoke(answer.status, &answer.headers, false),
        ..again(
            Kind::Unavailable,
            &words_for(answer.status, None, "", "", false),
        )
    }
}

/// A submit whose answer broke off behind a good head that names the request is accepted: without that name it
/// would be submitted, and paid for, once more.
pub(super) fn named(sent: Result<Answer, Torn>) -> Wire {
    sent.or_else(|torn| {
        let head = torn
            .head
            .filter(|head| (200..300).contains(&head.status) && id_in_head(head).is_some());
        head.map(|head| *head).ok_or(torn.broken)
    })
}

/// A submit's answer. Certainly not accepted: nothing was sent, and every 4xx but 408; anything else
/// without an id may have been accepted (design section 4).
pub(super) fn submitted(wire: Wire, base: &str, model: &Model) -> Submitted {
    let answer = match wire.map(legible) {
        Ok(answer) => answer,
        Err(Broken::NotSent(text)) => {
            return Submitted::Refused(plain(
                Kind::Unavailable,
                Remedy::RetryStep,
                Charged::No,
                &text,
            ));
        }
        Err(Broken::TooBig { status }) => Answer {
            status,
            ..Answer::default()
        },
        Err(broken) => {
            return Submitted::Unknown(Failure {
                spoke: began_to_answer(&broken),
                ..lost(&broken.to_string())
            });
        }
    };
    let body = Body::read(&answer.body);
    if (200..300).contains(&answer.status) {
        return match accepted(&answer, &body, base, model) {
            Some(accepted) => Submitted::Accepted(accepted),
            None => Submitted::Unknown(lost(&format!(
                "{} without a readable request id",
                answer.status
            ))),
        };
    }
    match refused(&answer) {
        Some(failure) => Submitted::Refused(failure),
        None => {
            let text = classify(answer.status, &answer.headers, &answer.body).text;
            Submitted::Unknown(Failure {
                retry_after: retry_after(&answer),
                // A result's 5xx may be the job's own. A submit runs nothing: its 5xx is fal's trouble, in whatever
                // name, and each submit more may be a payment more.
                spoke: answer.status < 500 && fal_spoke(answer.status, &answer.headers, false),
                ..lost(&text)
            })
        }
    }
}

/// The refusal of something that was to be begun; `None` when it may have begun all the same.
fn refused(answer: &Answer) -> Option<Failure> {
    let certain = matches!(answer.status, 400..=407 | 409..=499)
        || user_deadline(answer.status, &answer.headers);
    let failure = certain.then(|| classify(answer.status, &answer.headers, &answer.body))?;
    let (kind, remedy) = match failure.kind {
        Kind::RateLimited | Kind::NoBalance => (failure.kind, Remedy::RetryStep),
        // Not a repeat: whether it is the account's key or this one model, the probe tells the caller.
        Kind::Auth => (Kind::Auth, Remedy::Final),
        // A gateway's page too: the input will not become smaller.
        _ if answer.status == 413 && failure.remedy == Remedy::RetryStep => {
            (Kind::InvalidInput, Remedy::Final)
        }
        // A page, or 409: nothing was accepted, and nothing was said about the job. An outage of a gateway is
        // not to end a whole backlog as if its inputs were bad.
        kind if failure.remedy == Remedy::RetryStep => (kind, Remedy::RetryStep),
        Kind::Cancelled => (Kind::Unavailable, Remedy::Final),
        kind => (kind, Remedy::Final),
    };
    Some(Failure {
        kind,
        remedy,
        charged: Charged::No,
        ..failure
    })
}

/// Something may have been accepted: the next submit is a new payment.
fn lost(text: &str) -> Failure {
    plain(Kind::Unavailable, Remedy::TryAnew, Charged::Unknown, text)
}

fn accepted(answer: &Answer, body: &Body, base: &str, model: &Model) -> Option<Accepted> {
    let in_body = body
        .text("request_id")
        .or_else(|| body.number("request_id"));
    let in_url = || {
        let mut urls = ["status_url", "response_url"].into_iter();
        urls.find_map(|name| id_in_url(&body.text(name)?))
    };
    let id = in_body.filter(|id| is_id(id)).map(Cow::into_owned);
    let id = id.or_else(in_url);
    let request = RequestId(id.or_else(|| id_in_head(answer).map(str::to_owned))?.into());
    let stem = stem_path(model, &request);
    // Nearly always it is the stem form, letter by letter: then there is nothing to look at.
    let is_usual = |url: &str| {
        let path = url.strip_prefix(base)?.strip_prefix(&*stem)?;
        Some(path == "/status")
    };
    let path = body
        .text("status_url")
        .filter(|url| is_usual(url) != Some(true))
        .and_then(|url| below(base, &url))
        .filter(|path| *path != stem);
    Some(Accepted {
        path,
        position: body.position(),
        request,
    })
}

fn id_in_head(head: &Answer) -> Option<&str> {
    head.header("x-fal-request-id").filter(|id| is_id(id))
}

/// Of `…/requests/{id}`, alone or with one of the suffixes that fal names (fal-api section 2).
fn id_in_url(url: &str) -> Option<String> {
    let (before, path) = url.rsplit_once("/requests/")?;
    let path = path.strip_suffix('/').unwrap_or(path);
    let suffixes = ["/status", "/response"];
    let id = suffixes.iter().find_map(|end| path.strip_suffix(end));
    let id = id.unwrap_or(path);
    let is_http = before.starts_with("https://") || before.starts_with("http://");
    let is_known = is_http && is_id(id) && id.bytes().all(is_plain_byte);
    is_known.then(|| id.to_owned())
}

/// One that means the same in a URL and outside of it.
fn is_plain_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Opaque, but it becomes part of a URL.
fn is_id(id: &str) -> bool {
    (1..=200).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_graphic())
        && id != "."
        && id != ".."
}

/// The path of a request below the base, built from the model's stem (fal-api section 2).
pub(super) fn stem_path(model: &Model, request: &RequestId) -> String {
    let (stem, id) = (model.stem(), &request.0);
    if id.bytes().all(is_plain_byte) {
        return ["/", stem, "/requests/", id].concat();
    }
    let mut path = format!("/{stem}/requests/");
    for byte in id.bytes() {
        match is_plain_byte(byte) {
            true => path.push(byte.into()),
            false => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

/// The path that a status URL has below the base, without `/status`; `None` when it points elsewhere.
fn below(base: &str, status_url: &str) -> Option<String> {
    if Place::of(base)? != Place::of(status_url)? {
        return None;
    }
    let path = |url: &str| {
        let after = url.find("://")? + 3;
        let at = url[after..].find('/').map_or(url.len(), |at| after + at);
        Some(url[at..].to_owned())
    };
    let (prefix, path) = (path(base)?, path(status_url)?);
    let path = path.strip_prefix(&prefix)?;
    let path = path
        .strip_suffix('/')
        .unwrap_or(path)
        .strip_suffix("/status")?;
    is_plain_path(path).then(|| path.to_owned())
}

/// A path that cannot leave the base it is put below.
pub(super) fn is_plain_path(path: &str) -> bool {
    path.len() <= 600
        && path.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|part| {
                !matches!(part, "" | "." | "..")
                    && part
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-._~%:@+,=".contains(&b))
                    && !part.to_ascii_lowercase().contains("%2")
            })
        })
}

/// A look at the status. What is not a clear answer says nothing about the job.
pub(super) fn polled(wire: Wire) -> Polled {
    let answer = match read(wire) {
        Ok(answer) => answer,
        Err(failure) => return Polled::Failed(failure),
    };
    let body = Body::read(&answer.body);
    match (answer.status, body.text("status").as_deref()) {
        (404, _) if !is_a_gateways(&answer) => Polled::Missing,
        (200..300, Some("IN_QUEUE")) => Polled::InQueue {
            position: body.position(),
        },
        (200..300, Some("COMPLETED")) => match broke(&answer, &body) {
            Some((kind, remedy)) => Polled::Broke { kind, remedy },
            None => Polled::Completed,
        },
        (200..300, Some(_)) => Polled::InProgress,
        (200..300, None) if is_a_page(&answer) => Polled::Failed(page(&answer)),
        (200..300, None) => Polled::Failed(Failure {
            spoke: true,
            ..again(Kind::BadAnswer, "a status that cannot be read")
        }),
        _ => Polled::Failed(step_only(&answer)),
    }
}

/// What a COMPLETED says of a request that failed.
fn broke(answer: &Answer, body: &Body) -> Option<(Kind, Remedy)> {
    let word = body.text("error_type").filter(|word| !word.is_empty());
    let text = body.text("error").filter(|text| !text.is_empty());
    if word.is_none() && text.is_none() {
        return None;
    }
    let head = Head {
        status: answer.status,
        headers: &answer.headers,
    };
    Some(match word.as_deref().and_then(by_type) {
        Some((kind, anew)) => (kind, remedy_of(anew, &head)),
        None => (Kind::Unavailable, Remedy::Final),
    })
}

/// A result: the model's own answer, whatever its code.
pub(super) fn collected(wire: Wire) -> Collected {
    let answer = match wire {
        // "yes once fal gave a 200 result": it is there, and no repeat makes it smaller.
        Err(Broken::TooBig { status: 200..300 }) => return Collected::Failed(too_big()),
        Err(broken @ Broken::Unfinished { status: 200..300 }) => {
            return Collected::Failed(Failure {
                charged: Charged::Yes,
                spoke: true,
                ..again(Kind::Unavailable, &broken.to_string())
            });
        }
        wire => match read(wire) {
            Ok(answer) => answer,
            Err(failure) => return Collected::Failed(failure),
        },
    };
    let short = may_speak_of_the_request(&answer.body).then(|| Body::read(&answer.body));
    let runs = |body: &Body| is_still_running(answer.status, body);
    if short.as_ref().is_some_and(runs) {
        return Collected::NotYet;
    }
    let is_accepted = answer.status == 202;
    let is_object = short.is_some_and(|body| body.is_object());
    match answer.status {
        // What was metered was run: then it is the model's own, however odd.
        200..300 if is_a_page(&answer) && units(&answer.headers).is_none() => {
            Collected::Failed(page(&answer))
        }
        200..300 => match output(answer, is_object) {
            // fal says 202 of what is not done. A model's own has something in it.
            Ok(output) if is_accepted && super::outputs(&output.json).items.is_empty() => {
                Collected::NotYet
            }
            Ok(output) => Collected::Output(output),
            Err(failure) => Collected::Failed(Failure {
                remedy: Remedy::RetryStep,
                ..failure
            }),
        },
        404 if is_a_gateways(&answer) => Collected::Failed(step_only(&answer)),
        404 if !is_the_models_404(&answer) => Collected::Missing,
        _ => Collected::Failed(of_the_job(&answer)),
    }
}

/// A metered answer is the job's own, whatever its code: it stands in fal's store and a repeat brings the same.
/// Its 401 is no word about our key, and its 429 none about our pace.
fn of_the_job(answer: &Answer) -> Failure {
    let mut failure = classify(answer.status, &answer.headers, &answer.body);
    if answer.status >= 500 && failure.remedy == Remedy::RetryStep && failure.spoke {
        failure.charged = Charged::No; // fal's own, in whatever form: it bills none
    }
    let is_metered = units(&answer.headers).is_some();
    if !is_metered || !(400..500).contains(&answer.status) || failure.remedy != Remedy::RetryStep {
        return failure;
    }
    Failure {
        kind: match answer.status {
            408 | 409 | 429 => Kind::Unavailable,
            _ => Kind::InvalidInput,
        },
        remedy: Remedy::Final,
        retry_after: None,
        spoke: true,
        ..failure
    }
}

fn too_big() -> Failure {
    let text = "the result is longer than allowed";
    Failure {
        spoke: true,
        ..plain(Kind::BadAnswer, Remedy::Final, Charged::Yes, text)
    }
}

/// Whether it can be anything but a result: it is short, and one of the two names stands in it, or perhaps
/// one that is escaped. A glance, since most have neither and are read for what is in them.
fn may_speak_of_the_request(body: &[u8]) -> bool {
    let text = std::str::from_utf8(body).unwrap_or_default();
    text.len() <= LONGEST_STATUS
        && (text.contains("detail") || text.contains("status") || text.contains('\\'))
}

/// "Request is still in progress" was seen under 200, 202, 400 and 422, and a status in place of a result. Its word
/// alone could be a model's, but for 202, which is the code of that status.
fn is_still_running(code: u16, body: &Body) -> bool {
    let says = body
        .text("detail")
        .is_some_and(|text| text.to_ascii_lowercase().contains("still in progress"));
    let status = body.text("status");
    let stands = matches!(status.as_deref(), Some("IN_QUEUE" | "IN_PROGRESS"))
        && (code == 202 || body.has("request_id"));
    says || stands
}

/// "Path /x not found" comes from the app, through the result, with units (fal-api section 8); an
/// unknown or expired id has neither.
fn is_the_models_404(answer: &Answer) -> bool {
    let body = Body::read(&answer.body);
    body.has("detail")
        && (answer.header(UNITS).is_some()
            || body
                .text("detail")
                .is_some_and(|text| text.starts_with("Path ")))
}

/// A 2xx body as output: a JSON object, nothing more is asked. `is_object`: that is known already.
fn output(answer: Answer, is_object: bool) -> Result<Output, Failure> {
    let units = units(&answer.headers);
    let failure = |text: &str| Failure {
        spoke: true,
        ..plain(Kind::BadAnswer, Remedy::Final, Charged::Yes, text)
    };
    let json = String::from_utf8(answer.body)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    let looks_like_one =
        || json.trim_start().starts_with('{') && serde_json::from_str::<&RawValue>(&json).is_ok();
    if !is_object && !looks_like_one() {
        return Err(Failure {
            units,
            ..failure("the result is not a JSON object")
        });
    }
    Ok(Output { json, units })
}

/// A cancel's answer. That the request is out of fal's queue, and so never runs, is believed where fal says it
/// alone (fal-api section 6); any other good answer means that fal was asked.
pub(super) fn cancelled(wire: Wire) -> Cancelled {
    let answer = match read(wire) {
        Ok(answer) => answer,
        Err(failure) => return Cancelled::Failed(failure),
    };
    let body = Body::read(&answer.body);
    let success = body.raw("success").map(RawValue::get);
    let is_silent = answer.body.trim_ascii().is_empty();
    match (answer.status, body.text("status").as_deref()) {
        (_, Some("ALREADY_COMPLETED")) => Cancelled::AlreadyCompleted,
        (200..300, _) if is_a_page(&answer) && !is_silent => Cancelled::Failed(page(&answer)),
        (200..300, _) if success == Some("false") => Cancelled::Failed(Failure {
            spoke: true,
            ..again(Kind::BadAnswer, "fal said that it did not cancel")
        }),
        (202, _) | (200..300, Some("CANCELLATION_REQUESTED")) => Cancelled::Requested,
        (200..300, Some("OK")) => Cancelled::Removed,
        (200..300, None) if success == Some("true") => Cancelled::Removed,
        (200..300, _) => Cancelled::Requested,
        (404, _) if !is_a_gateways(&answer) => Cancelled::Missing,
        _ => Cancelled::Failed(step_only(&answer)),
    }
}

/// A direct call's answer. Nobody can ask again, so a fault on the way is an unknown outcome.
pub(super) fn directed(wire: Wire) -> Directed {
    let answer = match wire.map(legible) {
        Ok(answer) => answer,
        Err(Broken::NotSent(text)) => {
            let failure = plain(Kind::Unavailable, Remedy::RetryStep, Charged::No, &text);
            return Directed::Failed(failure, None);
        }
        Err(Broken::TooBig { status: 200..300 }) => return Directed::Failed(too_big(), None),
        // The generation itself was waited for: its time is over, whatever became of it.
        Err(broken @ (Broken::TimedOut(_) | Broken::Unfinished { .. })) => {
            let failure = Failure {
                kind: Kind::Timeout,
                ..lost(&broken.to_string())
            };
            return Directed::Unknown(failure, None);
        }
        Err(broken) => {
            let failure = Failure {
                spoke: began_to_answer(&broken),
                ..lost(&broken.to_string())
            };
            return Directed::Unknown(failure, None);
        }
    };
    let id = id_in_head(&answer).map(|id| RequestId(id.into()));
    // What was billed was run.
    let ran = units(&answer.headers).is_some_and(|units| !is_zero(&units));
    if (200..300).contains(&answer.status) {
        let page = is_a_page(&answer).then(|| page(&answer));
        if let Some(page) = page.filter(|page| !page.spoke && !ran) {
            return Directed::Unknown(lost(&page.text), id); // a gateway's, which says nothing
        }
        return match output(answer, false) {
            Ok(output) => Directed::Output(output, id),
            Err(failure) => Directed::Failed(failure, id),
        };
    }
    if !ran && let (401..=404 | 413 | 429, Some(failure)) = (answer.status, refused(&answer)) {
        return Directed::Failed(failure, None); // there is no request
    }
    let failure = of_the_job(&answer);
    match failure.remedy {
        // fal's own word about the job: it ran, or it ended at the start deadline.
        Remedy::Final | Remedy::TryAnew => Directed::Failed(failure, id),
        Remedy::RetryStep => {
            let failure = Failure {
                retry_after: failure.retry_after,
                spoke: failure.spoke,
                ..lost(&failure.text)
            };
            Directed::Unknown(failure, id)
        }
    }
}

/// The free look at the key.
pub(super) fn probed(wire: Wire) -> Probe {
    let Ok(answer) = wire.map(legible) else {
        return Probe::Away;
    };
    match answer.status {
        // Nobody behind the gateway has looked at the key, or is there.
        401 | 403 | 404 if is_a_gateways(&answer) => Probe::Away,
        401 => Probe::KeyRefused,
        403 if classify(403, &answer.headers, &answer.body).kind == Kind::Auth => Probe::KeyRefused,
        // A locked account has a good key.
        200..300 | 400 | 403 | 404 | 422 => Probe::KeyGood,
        _ => Probe::Away,
    }
}

/// An answer to a question that may be asked again at will.
fn read(wire: Wire) -> Result<Answer, Failure> {
    match wire.map(legible) {
        Ok(answer) => Ok(answer),
        Err(Broken::TooBig { status }) if status >= 300 => Ok(Answer {
            status,
            ..Answer::default()
        }),
        Err(broken) => Err(Failure {
            spoke: began_to_answer(&broken),
            ..again(Kind::Unavailable, &broken.to_string())
        }),
    }
}

fn again(kind: Kind, text: &str) -> Failure {
    plain(kind, Remedy::RetryStep, Charged::Unknown, text)
}

/// The answer to a question about a job that says nothing about it.
fn step_only(answer: &Answer) -> Failure {
    let failure = classify(answer.status, &answer.headers, &answer.body);
    Failure {
        remedy: Remedy::RetryStep,
        charged: Charged::Unknown,
        units: None,
        spoke: fal_spoke(
            answer.status,
            &answer.headers,
            Body::read(&answer.body).is_object(),
        ),
        ..failure
    }
}

fn plain(kind: Kind, remedy: Remedy, charged: Charged, text: &str) -> Failure {
    Failure {
        spoke: false,
        ..Failure::new(kind, remedy, charged, clean(text, TEXT))
    }
}

/// Whether fal itself gave this answer: what is no 5xx and has its JSON, or bears its request id. A
/// gateway in front of it has neither.
fn fal_spoke(status: u16, headers: &Headers, json: bool) -> bool {
    let head = Head { status, headers };
    (status < 500 && json) || head.header("x-fal-request-id").is_some()
}

/// Whether a refusal is no word of fal's about what was asked for: a page, as a gateway gives it that has lost its
/// way to fal. fal's own has its JSON, its request id or its units; one that is empty has none.
fn is_a_gateways(answer: &Answer) -> bool {
    !Body::read(&answer.body).is_object()
        && answer.header("x-fal-request-id").is_none()
        && answer.header(UNITS).is_none()
}

/// Of what did not come whole: a good head is fal's, however slow the line is by which its body comes.
fn began_to_answer(broken: &Broken) -> bool {
    matches!(
        broken,
        Broken::Unfinished { status: 200..300 } | Broken::TooBig { status: 200..300 }
    )
}

const UNITS: &str = "x-fal-billable-units";

/// Whether the same request may be made again, by the last column of fal-api section 8.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Anew {
    /// Never.
    No,
    /// A new submit.
    Yes,
    /// Unless `X-Fal-Needs-Retry` or `X-Fal-Retryable` says no.
    ByHeader,
}

/// Every error type that fal names and whose meaning does not follow from the status alone.
const TYPES: &[(&str, Kind, Anew)] = &[
    ("request_timeout", Kind::Timeout, Anew::Yes),
    ("startup_timeout", Kind::Timeout, Anew::Yes),
    ("runner_scheduling_failure", Kind::Unavailable, Anew::Yes),
    ("runner_connection_timeout", Kind::Unavailable, Anew::Yes),
    ("runner_disconnected", Kind::Unavailable, Anew::Yes),
    ("runner_connection_refused", Kind::Unavailable, Anew::Yes),
    ("runner_connection_error", Kind::Unavailable, Anew::Yes),
    ("runner_incomplete_response", Kind::Unavailable, Anew::Yes),
    ("runner_server_error", Kind::Unavailable, Anew::Yes),
    ("internal_error", Kind::Unavailable, Anew::Yes),
    ("client_cancelled", Kind::Cancelled, Anew::No),
    ("client_disconnected", Kind::Cancelled, Anew::No),
    ("bad_request", Kind::InvalidInput, Anew::No),
    ("internal_server_error", Kind::Unavailable, Anew::ByHeader),
    ("generation_timeout", Kind::Timeout, Anew::ByHeader),
    (
        "downstream_service_error",
        Kind::Unavailable,
        Anew::ByHeader,
    ),
    (
        "downstream_service_unavailable",
        Kind::Unavailable,
        Anew::ByHeader,
    ),
    ("content_policy_violation", Kind::ContentPolicy, Anew::No),
    ("no_media_generated", Kind::NoOutput, Anew::No),
];

/// The type that says that a file of the input could not be had.
const UNFETCHED: &str = "file_download_error";

/// Types that say "the input is wrong", under whatever status.
const INPUT_TYPES: &[&str] = &[
    "image_too_small",
    "image_too_large",
    "image_load_error",
    UNFETCHED,
    "face_detection_error",
    "file_too_large",
    "feature_not_supported",
    "invalid_archive",
    "archive_file_count_below_minimum",
    "archive_file_count_exceeds_maximum",
    "audio_duration_too_long",
    "audio_duration_too_short",
    "video_duration_too_long",
    "video_duration_too_short",
    "unsupported_audio_format",
    "unsupported_image_format",
    "unsupported_video_format",
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "multiple_of",
    "sequence_too_short",
    "sequence_too_long",
    "one_of",
    "missing",
    "value_error",
    "literal_error",
    "enum",
    "json_invalid",
    "extra_forbidden",
    "invalid_request",
    "image_aspect_ratio_error",
    "partner_validation_failed",
];

fn by_type(word: &str) -> Option<(Kind, Anew)> {
    if let Some((_, kind, anew)) = TYPES.iter().find(|(known, ..)| *known == word) {
        return Some((*kind, *anew));
    }
    // pydantic's own families: value_error.missing, string_type, int_parsing, string_too_short, …
    let family = word.starts_with("value_error.")
        || ["_type", "_parsing", "_too_short", "_too_long"]
            .iter()
            .any(|end| word.ends_with(end));
    (INPUT_TYPES.contains(&word) || family).then_some((Kind::InvalidInput, Anew::No))
}

/// Refusals of other providers that are passed through as mere text.
const REFUSALS: &[&str] = &["safety", "policy", "flagged", "nsfw", "moderation"];

/// What an answer that is not 2xx means, as the result of a job (fal-api section 8). The remedy is to
/// repeat the step when it is not fal's word about the job.
fn classify(status: u16, headers: &Headers, body: &[u8]) -> Failure {
    let answer = Head { status, headers };
    let body = Body::read(body);
    let detail = body.detail();
    let words = [
        body.text("error_type"),
        answer.header("x-fal-error-type").map(Cow::Borrowed),
        detail.as_ref().and_then(|detail| detail.kind.clone()),
        body.text("type"),
    ];
    let known = words.iter().flatten().find_map(|word| by_type(word));
    let word = words.iter().flatten().next().map(|word| &**word);
    let unfetched = words.iter().flatten().any(|word| word == UNFETCHED);
    let message = detail
        .as_ref()
        .map(|detail| &*detail.message)
        .unwrap_or_default();
    let units = units(headers);
    // Its own word has a JSON `detail`, or a type we know, or was metered by a runner.
    let fals_own = detail.is_some() || known.is_some() || units.is_some();
    let (kind, remedy) = match known {
        _ if user_deadline(status, headers) => (Kind::Timeout, Remedy::Final),
        Some((kind, anew)) => (kind, remedy_of(anew, &answer)),
        None => by_status(&answer, message, fals_own, body.is_object()),
    };
    let charged = match &units {
        // fal bills no 5xx, by its documents; where it says that it did, that counts.
        Some(units) if !is_zero(units) => Charged::Yes,
        Some(_) => Charged::No,
        None if fals_own && status >= 500 || user_deadline(status, headers) => Charged::No,
        None => Charged::Unknown,
    };
    let place = detail
        .as_ref()
        .map(|detail| detail.place.as_str())
        .unwrap_or_default();
    let text = words_for(status, word, place, message, body.is_object());
    Failure {
        kind,
        remedy,
        text,
        charged,
        units,
        retry_after: wait(answer.header("retry-after")),
        // Its word about a job is taken for its own.
        spoke: remedy != Remedy::RetryStep || fal_spoke(status, headers, body.is_object()),
        unfetched,
    }
}

fn remedy_of(anew: Anew, answer: &Head) -> Remedy {
    match anew {
        Anew::No => Remedy::Final,
        Anew::Yes => Remedy::TryAnew,
        Anew::ByHeader if answer.says_no_retry() => Remedy::Final,
        Anew::ByHeader => Remedy::TryAnew,
    }
}

/// By the status, when no type is known.
fn by_status(answer: &Head, message: &str, fals_own: bool, json: bool) -> (Kind, Remedy) {
    let says = |words: &[&str]| {
        let message = message.to_ascii_lowercase();
        words.iter().any(|word| message.contains(word))
    };
    let is_fals = json || fals_own || answer.header("x-fal-request-id").is_some();
    match answer.status {
        // A page of what stands in front of fal, as a firewall's: nobody has looked at the key, and a backlog is not to
        // end for it.
        401 | 403 if !is_fals => (Kind::Unavailable, Remedy::RetryStep),
        401 => (Kind::Auth, Remedy::RetryStep),
        402 => (Kind::NoBalance, Remedy::RetryStep),
        403 if says(&["locked", "balance", "top_up"]) => (Kind::NoBalance, Remedy::RetryStep),
        403 => (Kind::Auth, Remedy::RetryStep),
        404 if json => (Kind::InvalidInput, Remedy::Final),
        405 if json => (Kind::BadAnswer, Remedy::Final),
        408 | 409 => (Kind::Unavailable, Remedy::RetryStep),
        429 => (Kind::RateLimited, Remedy::RetryStep),
        499 => (Kind::Cancelled, Remedy::Final),
        400..500 if !json => (Kind::Unavailable, Remedy::RetryStep),
        400..500 if says(REFUSALS) => (Kind::ContentPolicy, Remedy::Final),
        400..500 => (Kind::InvalidInput, Remedy::Final),
        504 if fals_own => (Kind::Timeout, remedy_of(Anew::ByHeader, answer)),
        500.. if fals_own => (Kind::Unavailable, remedy_of(Anew::ByHeader, answer)),
        500.. => (Kind::Unavailable, Remedy::RetryStep),
        // 1xx, 2xx, 3xx: nothing that a job is to answer with.
        _ => (Kind::BadAnswer, Remedy::Final),
    }
}

/// A 504 because the start deadline that *we* gave has passed: it never ran.
fn user_deadline(status: u16, headers: &Headers) -> bool {
    let head = Head { status, headers };
    status == 504
        && head
            .header("x-fal-request-timeout-type")
            .is_some_and(|kind| kind.eq_ignore_ascii_case("user"))
}

struct Head<'a> {
    status: u16,
    headers: &'a Headers,
}

impl Head<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(str::trim)
    }

    fn says_no_retry(&self) -> bool {
        ["x-fal-needs-retry", "x-fal-retryable"]
            .iter()
            .filter_map(|name| self.header(name))
            .next()
            .is_some_and(|value| value == "0" || value.eq_ignore_ascii_case("false"))
    }
}

fn retry_after(answer: &Answer) -> Option<Duration> {
    wait(answer.header("retry-after"))
}

/// Seconds only: fal documents no `Retry-After` at all, and a date would need a clock.
pub(super) fn wait(header: Option<&str>) -> Option<Duration> {
    let seconds: u64 = header?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(LONGEST_WAIT_S)))
}

/// The header's decimal text, if it is one.
fn units(headers: &Headers) -> Option<String> {
    let head = Head { status: 0, headers };
    let text = head.header(UNITS)?;
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let points = text.bytes().filter(|b| *b == b'.').count();
    let fits = digits > 0 && points <= 1 && digits + points == text.len() && text.len() <= 40;
    fits.then(|| text.to_owned())
}

fn is_zero(units: &str) -> bool {
    units.bytes().all(|b| b == b'0' || b == b'.')
}

/// The operator's words: `422 content_policy_violation at body.prompt: …`. Built from named fields
/// alone, since `input` and `ctx` echo what the user wrote.
fn words_for(status: u16, word: Option<&str>, place: &str, message: &str, json: bool) -> String {
    let mut text = format!("fal answered {status}");
    if let Some(word) = word {
        text += &format!(" {}", clean(word, 60));
    }
    if !place.is_empty() {
        text += &format!(" at {}", clean(place, 60));
    }
    if !message.is_empty() {
        text += &format!(": {}", clean(message, MESSAGE));
    } else if !json {
        text += " without JSON (a gateway's answer)";
    }
    clean(&text, TEXT)
}

/// One line of at most `most` characters.
fn clean(text: &str, most: usize) -> String {
    let mut line: String = text
        .chars()
        .take(most)
        .map(|c| {
            if c.is_control() || is_line_break(c) {
                ' '
            } else {
                c
            }
        })
        .collect();
    if text.chars().nth(most).is_some() {
        line.pop();
        line.push('…');
    }
    line
}

fn is_line_break(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}

/// A JSON object, or something else.
struct Body<'a>(Option<Members<'a>>);

/// One entry of `detail`.
struct Detail<'a> {
    kind: Option<Cow<'a, str>>,
    place: String,
    message: Cow<'a, str>,
}

impl<'a> Body<'a> {
    fn read(bytes: &'a [u8]) -> Body<'a> {
        Body(Members::of_bytes(bytes))
    }

    fn is_object(&self) -> bool {
        self.0.is_some()
    }

    fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    fn raw(&self, key: &str) -> Option<&'a RawValue> {
        self.0.as_ref()?.last(key).filter(|raw| raw.get() != "null")
    }

    fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        members::text(self.raw(key)?)
    }

    /// A number as it is written.
    fn number(&self, key: &str) -> Option<Cow<'a, str>> {
        let text = self.raw(key)?.get();
        text.starts_with(|c: char| c.is_ascii_digit() || c == '-')
            .then_some(Cow::Borrowed(text))
    }

    fn position(&self) -> Option<u64> {
        self.raw("queue_position")?.get().parse().ok()
    }

    /// A text, an entry, or a list of either; of several a content policy wins, else the first.
    fn detail(&self) -> Option<Detail<'a>> {
        let raw = self.raw("detail")?;
        let list: Vec<&RawValue> = serde_json::from_str(raw.get()).unwrap_or_else(|_| vec![raw]);
        let mut entries: Vec<Detail<'a>> = list.into_iter().map(Detail::read).collect();
        let policy = entries
            .iter()
            .position(|entry| entry.kind.as_deref() == Some("content_policy_violation"));
        let chosen = policy.unwrap_or(0);
        (chosen < entries.len()).then(|| entries.swap_remove(chosen))
    }
}

impl<'a> Detail<'a> {
    fn read(raw: &'a RawValue) -> Detail<'a> {
        if let Some(message) = members::text(raw) {
            return Detail {
                kind: None,
                place: String::new(),
                message,
            };
        }
        let entry = Body::read(raw.get().as_bytes());
        let place: Vec<&RawValue> = entry
            .raw("loc")
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default();
        let place = place
            .iter()
            .map(|part| {
                serde_json::from_str(part.get())
                    .unwrap_or_else(|_| part.get().chars().take(20).collect())
            })
            .collect::<Vec<String>>()
            .join(".");
        let message = entry
            .text("msg")
            .or_else(|| entry.text("message"))
            .unwrap_or_default();
        Detail {
            kind: entry.text("type"),
            place,
            message,
        }
    }
}

#[cfg(test)]
#[rustfmt::skip] // tables: one case a line
mod tests;
