//! The result: recorded together with the intent to deliver it, or what it means that there is none.

use super::*;

/// How often a result is asked for again although its cancel was asked for: some seconds.
const CANCEL_TRIES: u32 = 3;
/// How many failures of fal's own in place of the result are believed, where its status called the request failed.
pub(super) const IN_PLACE: u32 = 3;
/// And for how long they are asked again where it did not: no result is kept at fal for longer.
pub(super) const KEPT_AT_FAL: Duration = Duration::from_secs(3600);

/// After fetching the result. `found`: what lies in the output, if it is one.
pub fn after_collect(
    flight: &mut Flight,
    answer: Collected,
    found: &FoundSummary,
    policy: &Policy,
    moment: Moment,
) -> Change {
    match answer {
        Collected::Output(output) => output_there(flight, output, found, moment),
        Collected::NotYet => {
            // COMPLETED, then "still in progress": fal put it back on another runner. It is as good as
            // that word of the status: so it too ends at the time limit.
            flight.phase = Phase::Polling;
            flight.in_place = None;
            let mut change = after_poll(flight, Polled::InProgress, 0, policy, moment);
            if let Next::In(wait) = &mut change.next {
                *wait = (*wait).clamp(Duration::from_millis(250), Duration::from_secs(1));
            }
            change
        }
        Collected::Missing => missing(
            flight,
            "the result expired at fal before it was read",
            moment,
        ),
        // A form of its URL that fal does not know: the one that it always knows is asked.
        Collected::Failed(failed)
            if failed.spoke
                && failed.remedy == Remedy::RetryStep
                && flight.path.take().is_some() =>
        {
            Change::quiet(Next::Now)
        }
        Collected::Failed(failed) => {
            let mut failed = believed(flight, failed, moment);
            if let (Some(cancelling), Kind::Cancelled) = (flight.cancelling, failed.kind) {
                failed.kind = cancelling.kind;
                failed.text = cancel_text(flight, cancelling.kind);
                if cancelling.in_queue && failed.units.is_none() {
                    failed.charged = Charged::No;
                }
                return fail(flight, failed, moment);
            }
            if failed.kind == Kind::Cancelled {
                failed.kind = Kind::Unavailable; // cancelled by somebody else: not by us
            }
            match failed.remedy {
                Remedy::Final => fail(flight, failed, moment),
                Remedy::RetryStep
                    if failed.kind == Kind::BadAnswer && flight.step_tries >= BAD_ANSWERS =>
                {
                    failed.charged = Charged::Yes;
                    fail(flight, failed, moment)
                }
                Remedy::RetryStep => match unwanted(flight, moment) {
                    // That a good result had begun to come is known, whatever comes after.
                    Some(kind) => stopped(flight, kind, perhaps(failed.charged), moment),
                    // No result is kept at fal for so long.
                    None if flight.step_tries >= WORDLESS
                        && is_overdue(flight, false, policy, moment) =>
                    {
                        failed.charged = perhaps(failed.charged);
                        fail(flight, failed, moment)
                    }
                    None => {
                        if flight.cancel_asked {
                            failed.retry_after = None; // who wants its end does not wait as told
                        }
                        retry_step(flight, &failed, moment)
                    }
                },
                // A new submit is a new payment, and asking again is free: a hiccup of fal's own front may
                // look like the end of a request whose result is there.
                Remedy::TryAnew if flight.cancelling.is_none() && flight.verdicts < VERDICTS => {
                    flight.verdicts += 1;
                    retry_step(flight, &failed, moment)
                }
                Remedy::TryAnew if flight.free && flight.cancelling.is_none() => {
                    fail(flight, but_stays_free(failed), moment)
                }
                // fal has tried up to ten times itself by then: at most one more of ours.
                Remedy::TryAnew
                    if flight.attempt < flight.max_attempts.min(2)
                        && flight.cancelling.is_none() =>
                {
                    flight.charge(&failed);
                    later(flight, failed, None, moment)
                }
                Remedy::TryAnew => fail(flight, failed, moment),
            }
        }
    }
}

/// What fal itself says in place of the result, though not in a form that says whose failure it is, may pass: it is
/// asked again. But where the status said that the request failed this is how, and no trouble of fal's front lasts
/// for as long as a result is kept: then it is the job's own.
fn believed(flight: &mut Flight, failed: Failure, moment: Moment) -> Failure {
    // Charged for, though unreadable: a good result, by a slow line.
    let is_in_place = failed.spoke
        && failed.kind == Kind::Unavailable
        && failed.remedy == Remedy::RetryStep
        && failed.charged != Charged::Yes;
    if !is_in_place {
        return failed;
    }
    let began = flight.completed_at.unwrap_or(moment.now);
    let in_place = flight.in_place.get_or_insert_with(|| {
        Box::new(InPlace {
            times: 0,
            since: began,
            last: failed.clone(),
        })
    });
    in_place.times += 1;
    in_place.last = failed.clone();
    let (kind, remedy, charged) = match flight.broke {
        Some((kind, remedy)) if in_place.times >= IN_PLACE => (kind, remedy, failed.charged),
        _ if in_place.since.until(moment.now) >= KEPT_AT_FAL => {
            (failed.kind, Remedy::Final, perhaps(failed.charged))
        }
        _ => return failed,
    };
    flight.verdicts = VERDICTS; // it was asked again already
    Failure {
        kind,
        remedy,
        charged,
        ..failed
    }
}

/// Nobody said that the request failed: a front that was in trouble for long may have hidden a good result.
pub(super) fn perhaps(charged: Charged) -> Charged {
    charged.max(Charged::Unknown)
}

/// Why nobody waits any longer for a result that cannot be read: a cancel is not to hang on a hiccup, nor to be
/// put off for as long as fal's trouble lasts.
fn unwanted(flight: &mut Flight, moment: Moment) -> Option<Kind> {
    if flight.cancelling.is_none() && flight.cancel_asked && flight.step_tries >= CANCEL_TRIES {
        flight.failure = Some((Kind::Cancelled, CANCEL_ASKED.to_owned()));
        return Some(Kind::Cancelled);
    }
    grace_is_over(flight, moment)
}

/// After a direct call.
pub fn after_direct(
    flight: &mut Flight,
    answer: Directed,
    found: &FoundSummary,
    moment: Moment,
) -> Change {
    match answer {
        Directed::Output(output, request) => {
            flight.attempt = flight.attempt.saturating_add(1);
            flight.request = request;
            flight.order = None;
            flight.entry = None;
            output_there(flight, output, found, moment)
        }
        Directed::Unknown(failed, request) => {
            flight.request = request;
            unknown_submit(flight, failed, moment)
        }
        Directed::Failed(failed, request) => {
            flight.request = request;
            direct_failed(flight, failed, moment)
        }
    }
}

fn direct_failed(flight: &mut Flight, failed: Failure, moment: Moment) -> Change {
    match failed.remedy {
        Remedy::Final => {
            if failed.charged != Charged::No {
                flight.attempt = flight.attempt.saturating_add(1);
            }
            fail(flight, failed, moment)
        }
        Remedy::RetryStep => later(flight, failed, None, moment),
        Remedy::TryAnew => {
            flight.attempt = flight.attempt.saturating_add(1);
            if flight.attempt >= flight.max_attempts.min(2) {
                return fail(flight, failed, moment);
            }
            flight.charge(&failed);
            later(flight, failed, None, moment)
        }
    }
}

/// A good result: paid, whatever comes after.
fn output_there(
    flight: &mut Flight,
    output: Output,
    found: &FoundSummary,
    moment: Moment,
) -> Change {
    // Fetched once more, because a crash took a result that was not in the record: told and summed up
    // already.
    let again = flight.completed_at.is_some();
    flight.charged = Charged::Yes;
    if !again {
        flight.add_units(output.units.as_deref());
        flight.completed_at = Some(moment.now);
    }
    flight.step_tries = 0;
    flight.cancelling = None;
    flight.cancel_asked = false;
    flight.failure = None;
    if found.all_flagged {
        let failed = failure(
            Kind::ContentPolicy,
            "fal replaced every picture by a black one (nsfw)",
            Charged::Yes,
        );
        return fail(flight, failed, moment);
    }
    if found.items == 0 && flight.target.is_some() {
        let failed = failure(
            Kind::NoOutput,
            "the result holds nothing that can be delivered",
            Charged::Yes,
        );
        return fail(flight, failed, moment);
    }
    let json: Arc<str> = output.json.into();
    let large = json.len() > LARGE;
    flight.result = Some(json.clone());
    flight.result_in = match large && flight.target.is_some() {
        true => ResultIn::Memory,
        false => ResultIn::Record,
    };
    flight.phase = Phase::Delivering;
    let mut event = flight
        .event("completed")
        .with("charged", flight.charged.as_str());
    event.since = flight.submitted_at;
    if let Some(request) = &flight.request {
        event = event.with("request_id", &*request.0);
    }
    if let Some(units) = &flight.units {
        event = event.with("units", units.clone());
    }
    if !found.files.is_empty() {
        event = event.with("files", json_list(&found.files));
    }
    let mut patch = Patch::default()
        .set("charged", flight.charged.as_str())
        .set_some("units", flight.units.clone())
        // A direct call has no write of its own for it; else Redis's own stamp stands.
        .set_some(
            "submitted_at",
            flight
                .submitted_at
                .filter(|_| flight.via == Via::Direct)
                .map(|at| at.0.to_string()),
        )
        .set_some(
            "echoes",
            Some(&*flight.echoes).filter(|text| !text.is_empty()),
        )
        .del(&["error", "kind", "crashes", "cancelling"]);
    if flight.via == Via::Direct || flight.target.is_none() {
        // Else the submit's own write said both, and a save says them to a Redis that forgot it.
        patch = patch.set("attempt", flight.attempt.to_string()).set_some(
            "request_id",
            flight.request.as_ref().map(|request| &*request.0),
        );
    }
    if !again {
        patch = patch.stamp("completed_at").event(event);
    }
    if !large || flight.target.is_none() {
        // Without a chat the record is the only place where a bot finds it.
        patch = patch.set("result", json.to_string());
    }
    if flight.target.is_some() {
        // The intent to deliver goes with the result: from here on a message may have gone out.
        let patch = patch.set("phase", Phase::Delivering.as_str());
        return Change::save(patch, Next::Now);
    }
    let done = ending(flight, "done").with("files", json_list(&found.files));
    flight.closing = true;
    Change::write(
        Write::End {
            state: EndState::Done,
            patch: patch.event(done),
        },
        Next::Over,
    )
}

/// Puts a result too large for the record into its own key, before a delivery is parked or its files move.
pub fn save_large(flight: &mut Flight) -> Option<Write> {
    if flight.result_in != ResultIn::Memory {
        return None;
    }
    let large = flight.result.clone()?;
    flight.result_in = ResultIn::OwnKey;
    Some(Write::Save {
        patch: Patch::default(),
        count: None,
        large: Some(large),
    })
}
