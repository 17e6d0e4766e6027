//! Translation between what scripts take and give and the domain's types.

use super::pack::{Pack, Unpack};
use super::rate::chat_name;
use super::wire::Words;
use super::{Audit, Beat, Claim, Defaults, Denied, Entry, Fault, Store, read};
use crate::job::failure::Kind;
use crate::job::flight::{Cancelling, Doubt, Flight, Order, Redelivers, Token};
use crate::job::inputs::Brought;
use crate::job::pace::Watch;
use crate::job::spec::{self, Model, Spec, Target, Via};
use crate::job::{Charged, JobId, Phase, Priority, RequestId, UnixMs};
use redis::Value;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// One job as a claim gives it.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) id: JobId,
    pub(crate) token: Token,
    epoch: u64,
    spec: String,
    /// Few enough to be searched: a map would hash each name twice.
    fields: Vec<(String, String)>,
}

/// Reads the answer of the audit.
pub(crate) fn audit(value: Value) -> Result<Audit, Fault> {
    let mut parts = read::<Vec<Value>>(value)?.into_iter();
    let mut next = || parts.next().unwrap_or(Value::Nil);
    let (_word, wait): (String, u64) = (read(next())?, read(next())?);
    let mut repairs = Vec::new();
    while let Ok(kind) = read(next()) {
        repairs.push((kind, read(next())?));
    }
    Ok(Audit {
        wait: Duration::from_millis(wait),
        repairs,
    })
}

/// Reads the answer of a claim.
pub(crate) fn claim(value: Value, epoch: u64, store: &Store) -> Result<Claim, Denied> {
    let mut parts: Vec<Value> = read(value)?;
    if parts.len() < 4 {
        return Err(Fault::Refused("claim gave too little".to_owned()).into());
    }
    let mut jobs = parts.split_off(4).into_iter();
    let deferred: u64 = read(parts.pop().unwrap_or(Value::Nil))?;
    let now: i64 = read(parts.pop().unwrap_or(Value::Nil))?;
    let more: u8 = read(parts.pop().unwrap_or(Value::Nil))?;
    let word: String = read(parts.pop().unwrap_or(Value::Nil))?;
    match word.as_str() {
        "ok" => {}
        "buried" => return Err(Denied::Buried),
        "settling" => return Err(Denied::Settling),
        _ => return Err(Denied::Unregistered),
    }
    store.learn_time(now);
    let mut claim = Claim {
        jobs: Vec::with_capacity(jobs.len()),
        more: more & 1 == 1,
        newer: more & 2 == 2,
        deferred,
        now: UnixMs(now),
    };
    if let Some(packed) = jobs.next() {
        let packed: Vec<u8> = read(packed)?;
        let mut unpack = Unpack(&packed);
        let strange = || Fault::Refused("claim gave what nobody packed".to_owned());
        for _ in 0..unpack.array().ok_or_else(strange)? {
            let spec = jobs.next().unwrap_or(Value::Nil);
            let job = claimed(&mut unpack, spec, epoch).ok_or_else(strange)?;
            claim.jobs.extend(job);
        }
    }
    Ok(claim)
}

/// Reads one job; `Some(None)`: its id is none. `None`: it is not packed as a claim does it.
fn claimed(unpack: &mut Unpack<'_>, spec: Value, epoch: u64) -> Option<Option<Claimed>> {
    // A record is data from outside: what is not UTF-8 in it must not stop the others.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let parts = unpack.array()?;
    let (id, token) = (unpack.bytes().map(text)?, unpack.bytes().map(text)?);
    let mut fields: Vec<(String, String)> = Vec::with_capacity(32);
    // What the record said, and what the claim changed in it.
    for part in 2..parts {
        for _ in 0..unpack.array()? / 2 {
            let (name, value) = (unpack.bytes().map(text)?, unpack.bytes().map(text)?);
            let known = fields
                .iter_mut()
                .find(|(known, _)| part > 2 && *known == name);
            match known {
                Some((_, old)) => *old = value,
                None => fields.push((name, value)),
            }
        }
    }
    let spec = match spec {
        Value::BulkString(spec) => {
            String::from_utf8(spec).unwrap_or_else(|error| text(error.as_bytes()))
        }
        _ => String::new(),
    };
    Some(JobId::new(&id).map(|id| Claimed {
        id,
        token: Token(token.into()),
        epoch,
        spec,
        fields,
    }))
}

/// Makes a flight of a claimed job. What the record does not say has the value of a new job.
pub(crate) fn flight(claimed: Claimed) -> Flight {
    let Claimed {
        id,
        token,
        epoch,
        spec: text,
        mut fields,
    } = claimed;
    let mut take = |name: &str| {
        let at = fields.iter().position(|(known, _)| known == name)?;
        Some(fields.swap_remove(at).1)
    };
    let entry: Option<Arc<str>> = (!text.is_empty()).then(|| text.as_str().into());
    // A stored entry was checked when it came in: the rules on times are not asked again.
    let parsed: Option<Spec> = (!text.is_empty())
        .then(|| spec::parse(text.as_bytes(), None).ok())
        .flatten();
    let ms = |value: Option<String>| value.and_then(|value| value.parse().ok()).map(UnixMs);
    let number = |value: Option<String>| value.and_then(|value| value.parse::<u32>().ok());
    let request = take("request_id")
        .filter(|id| !id.is_empty())
        .map(|id| RequestId(id.into()));
    let result: Option<Arc<str>> = take("result").map(Into::into);
    // Whatever the phase says or does not say: what is paid is never submitted again.
    let phase = match take("phase").and_then(|word| Phase::parse(&word)) {
        Some(Phase::Submitting) | None if result.is_some() => Phase::Delivering,
        Some(Phase::Submitting) | None if request.is_some() => Phase::Polling,
        Some(phase) => phase,
        None => Phase::Submitting,
    };
    let queued_at = ms(take("queued_at")).unwrap_or_default();
    let not_before = parsed.as_ref().and_then(|spec| spec.not_before);
    let kind = take("kind").and_then(|word| Kind::parse(&word));
    let error = take("error").unwrap_or_default();
    let units = take("units");
    let told_to = take("tell").and_then(|tell| Target::from_tell_json(&tell));
    let mut flight = Flight {
        id,
        token,
        seq: number(take("seq")).unwrap_or(0),
        epoch,
        phase,
        model: take("model").and_then(|model| Model::new(&model).ok()),
        user: take("user").map(Arc::from),
        meta: take("meta"),
        priority: take("priority")
            .and_then(|word| Priority::parse(&word))
            .unwrap_or_default(),
        attempt: number(take("attempt")).unwrap_or(0),
        max_attempts: number(take("max_attempts")).unwrap_or(1),
        via: parsed.as_ref().map(|spec| spec.via).unwrap_or_default(),
        timeout: parsed
            .as_ref()
            .and_then(|spec| spec.timeout_s)
            .map(|s| Duration::from_secs(u64::from(s))),
        repay: parsed.as_ref().is_some_and(|spec| spec.repay),
        free: take("free").is_some(),
        request,
        path: take("path"),
        tried: take("tried").unwrap_or_default(),
        result,
        found: Vec::new(),
        result_unsaved: false,
        failure: kind.map(|kind| (kind, error)),
        charged: take("charged")
            .and_then(|word| Charged::parse(&word))
            .unwrap_or_default(),
        units_told: units
            .as_deref()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0),
        units,
        queued_at,
        wanted_at: not_before.filter(|at| *at > queued_at).unwrap_or(queued_at),
        started_at: ms(take("started_at")),
        submitted_at: ms(take("submitted_at")),
        completed_at: ms(take("completed_at")),
        expires_at: ms(take("expires_at")),
        running_at: ms(take("running_at")),
        watch: Watch::default(),
        rung: take("rung").unwrap_or_default(),
        telling_at: ms(take("telling_at")),
        untold: take("told").as_deref() == Some("no"),
        tries: number(take("tries")).unwrap_or(0),
        doubt: take("doubt")
            .map(|word| Doubt::parse(&word))
            .unwrap_or_default(),
        target: None,
        order: None,
        entry: None,
        step_tries: 0,
        verdicts: 0,
        missing: None,
        // Told to stop, perhaps: whether fal heard it, its answer to another cancel tells.
        cancelling: ms(take("cancelling"))
            .filter(|_| matches!(phase, Phase::Polling | Phase::Collecting))
            .map(|since| Cancelling {
                kind: kind.unwrap_or(Kind::Timeout),
                asked_at: None,
                since,
                refused: 0,
                in_queue: false,
            }),
        cancel_asked: take("cancel_asked").is_some(),
        redelivers: None,
        untouched: true,
        unsaved: VecDeque::new(),
        closing: false,
        clock_set_by: None,
        turn: None,
        unfetched_since: None,
        alive: None,
    };
    let inputs = take("inputs").unwrap_or_default();
    if take("via").as_deref() == Some("direct") {
        flight.via = Via::Direct;
    }
    match parsed {
        Some(spec) => {
            flight.target = spec.telegram.map(Arc::new);
            if phase == Phase::Submitting {
                flight.order = Some(Order {
                    input: spec.input,
                    switches: spec.fal,
                    brought: Brought::parse(&inputs, spec.files.len()),
                    files: spec.files,
                });
                flight.entry = entry;
            }
        }
        None => flight.target = told_to.map(Arc::new),
    }
    if let Some(job) = take("redelivers") {
        let list = |field: Option<String>| field.unwrap_or_default();
        let (ids, kinds) = (list(take("file_ids")), list(take("file_kinds")));
        flight.redelivers = Some(Box::new(Redelivers::parse(job, &ids, &kinds)));
        flight.target = take("sent_to")
            .and_then(|to| Target::from_resend_json(&to))
            .map(Arc::new);
    }
    if phase == Phase::Submitting {
        flight.failure = None; // why it came back; its next outcome says why it failed
    }
    flight
}

/// Arguments of one entry for the intake script, in its order.
pub(crate) fn entry_args(cmd: &mut Words, entry: &Entry, defaults: &Defaults) {
    let id = entry.id.as_str();
    let at = |time: Option<UnixMs>| time.map(|at| at.0.to_string()).unwrap_or_default();
    let (mut who, mut fields) = (Pack::with_capacity(256), Pack::with_capacity(256));
    who.pair("job", id);
    let mut both = |name, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            who.pair(name, value);
            fields.pair(name, value);
        }
    };
    match &entry.verdict {
        Ok(spec) => {
            both("user", spec.user.as_deref());
            both("model", Some(spec.model.as_str()));
            both("meta", spec.meta.as_ref().map(|meta| meta.get()));
            let attempts = spec.max_attempts.unwrap_or(defaults.max_attempts);
            fields.pair("priority", spec.priority.as_str());
            fields.pair("max_attempts", &attempts.to_string());
            if spec.via == Via::Direct {
                fields.pair("via", "direct");
            }
            if let Some(to) = &spec.telegram {
                fields.pair("chat", &chat_name(&to.chat));
            }
            cmd.arg(&entry.raw).arg("job").arg(id);
            cmd.arg(spec.user.as_deref().unwrap_or(""))
                .arg(spec.priority.as_str());
            cmd.arg(at(spec.not_before))
                .arg(at(spec.expires_at))
                .arg("");
        }
        Err(invalid) => {
            both("user", invalid.user.as_deref());
            both("model", invalid.model.as_deref());
            both("meta", invalid.meta.as_ref().map(|meta| meta.get()));
            fields.pair("kind", "invalid_job");
            fields.pair("error", &invalid.error);
            fields.pair("charged", "no");
            fields.pair("priority", "default");
            fields.pair("raw", &spec::raw_excerpt(&entry.raw));
            let tell = (invalid.tell.as_ref()).map(Target::to_tell_json);
            cmd.arg(&entry.raw).arg("bad").arg(id);
            cmd.arg(invalid.user.as_deref().unwrap_or(""))
                .arg(&invalid.error);
            cmd.arg("").arg("").arg(tell.unwrap_or_default());
        }
    }
    cmd.arg(who.as_bytes()).arg(fields.as_bytes());
}

/// Reads the answer of a beat; with Redis's time.
pub(crate) fn beat(value: Value) -> Result<(Option<Beat>, i64), Fault> {
    let mut parts = read::<Vec<Value>>(value)?.into_iter();
    let mut part = || parts.next().unwrap_or(Value::Nil);
    let word: String = read(part())?;
    let now: i64 = read(part())?;
    if word != "ok" {
        return Ok((None, now));
    }
    let run: String = read(part())?;
    let fresh: u8 = read(part())?;
    let paused: u8 = read(part())?;
    let claims: usize = read(part())?;
    let cancels: u8 = read(part())?;
    let due: u8 = read(part())?;
    let who: Option<String> = read(part())?;
    let when: Option<i64> = read(part())?;
    let store: Option<String> = read(part())?;
    let waiting: u8 = read(part())?;
    let changed: u8 = read(part())?;
    let auto: u8 = read(part())?;
    let asked: String = read(part())?;
    let beat = Beat {
        run,
        fresh: fresh == 1,
        paused: paused == 1,
        claims,
        cancels: cancels == 1,
        due: due == 1,
        oldest: who.zip(when),
        store: store.filter(|store| !store.is_empty()),
        waiting: waiting > 0,
        limits_changed: changed > 0,
        finds_window: auto > 0,
        asked: asked.split_ascii_whitespace().map(str::to_owned).collect(),
    };
    Ok((Some(beat), now))
}
