//! Translation between what scripts take and give and the domain's types.

use super::pack::{Pack, Unpack};
use super::rate::chat_name;
use super::wire::Words;
use super::{Audit, Beat, Claim, Cut, Defaults, Denied, Entry, Fault, Store, Taken, read};
use crate::job::failure::Kind;
use crate::job::flight::{
    Cancelling, Doubt, Flight, LARGE_RESULT, Order, Passing, Redelivers, ResultIn, Token,
};
use crate::job::inputs::{Brought, OF_A_FILE};
use crate::job::pace::Watch;
use crate::job::spec::{self, Model, Spec, Target, Via};
use crate::job::{Charged, JobId, Phase, Priority, RequestId, UnixMs};
use redis::Value;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What a claim says of one job: names and values, in the order of the record. Few enough to be searched, and
/// where the answer has them: copies of all would be most of what a claim costs us.
struct Fields<'a>(Vec<(&'a [u8], Cow<'a, str>)>);

/// Room for what most records say.
const FIELDS: usize = 24;

impl<'a> Fields<'a> {
    /// Reads them; later parts change what earlier ones say.
    fn read(unpack: &mut Unpack<'a>, parts: usize) -> Option<Fields<'a>> {
        let mut fields: Vec<(&[u8], Cow<str>)> = Vec::with_capacity(FIELDS);
        for part in 0..parts {
            for _ in 0..unpack.array()? / 2 {
                let (name, value) = (unpack.bytes()?, text(unpack.bytes()?));
                let known = fields
                    .iter_mut()
                    .find(|(known, _)| part > 0 && *known == name);
                match known {
                    Some((_, old)) => *old = value,
                    None => fields.push((name, value)),
                }
            }
        }
        Some(Fields(fields))
    }

    fn take(&mut self, name: &str) -> Option<Cow<'a, str>> {
        let at = self
            .0
            .iter()
            .position(|(known, _)| *known == name.as_bytes())?;
        Some(self.0.swap_remove(at).1)
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.take(name).map(Cow::into_owned)
    }

    fn ms(&mut self, name: &str) -> Option<UnixMs> {
        self.take(name)?.parse().ok().map(UnixMs)
    }

    fn number(&mut self, name: &str) -> Option<u32> {
        self.take(name)?.parse().ok()
    }
}

/// A record is data from outside: what is not UTF-8 in it must not stop the others.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Reads the answer of the audit.
pub(crate) fn audit(value: Value) -> Result<Audit, Fault> {
    let mut parts = read::<Vec<Value>>(value)?.into_iter();
    let mut next = || parts.next().unwrap_or(Value::Nil);
    let wait = read(next())?;
    let mut repairs = Vec::new();
    while let Ok(kind) = read(next()) {
        repairs.push((kind, read(next())?));
    }
    Ok(Audit {
        wait: Duration::from_millis(wait),
        repairs,
    })
}

/// Reads one entry of those that a take gives.
pub(crate) fn taken(value: Value) -> Result<Taken, Fault> {
    if !matches!(value, Value::Array(_)) {
        return Ok(read::<Vec<u8>>(value)?.into());
    }
    let (length, digest, raw) = read(value)?;
    Ok(Taken {
        raw,
        cut: Some(Cut { length, digest }),
    })
}

/// Reads the answer of a claim.
///
/// `tokens`: those that the call gave, in their order.
pub(crate) fn claim(
    value: Value,
    tokens: &[Token],
    epoch: u64,
    store: &Store,
) -> Result<Claim, Denied> {
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
        "ok" | "fresh" => {}
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
        for place in 0..unpack.array().ok_or_else(strange)? {
            let spec = spec_text(jobs.next().unwrap_or(Value::Nil));
            let job = if word == "fresh" {
                (tokens.get(place)).and_then(|token| fresh(&mut unpack, token, now, &spec, epoch))
            } else {
                claimed(&mut unpack, &spec, epoch)
            };
            let job = job.ok_or_else(strange)?;
            claim.jobs.extend(job);
        }
    }
    Ok(claim)
}

fn spec_text(spec: Value) -> String {
    match spec {
        Value::BulkString(spec) => {
            String::from_utf8(spec).unwrap_or_else(|error| text(error.as_bytes()).into_owned())
        }
        _ => String::new(),
    }
}

/// Reads one job; `Some(None)`: its id is none. `None`: it is not packed as a claim does it.
fn claimed(unpack: &mut Unpack<'_>, spec: &str, epoch: u64) -> Option<Option<Box<Flight>>> {
    let parts = unpack.array()?;
    let (id, token) = (text(unpack.bytes()?), text(unpack.bytes()?));
    // What the record said, and what the claim changed in it.
    let fields = Fields::read(unpack, parts.saturating_sub(2))?;
    let token = Token(token.into());
    Some(JobId::new(&id).map(|id| {
        let mut flight = flight(id, token, epoch, spec, fields);
        flight.passing.note(LARGE_RESULT); // an owner before this one may have put it there
        Box::new(flight)
    }))
}

/// What a claim tells of a job that was never claimed before, in its order; the id follows.
const FRESH: [&str; 6] = [
    "queued_at",
    "expires_at",
    "max_attempts",
    "user",
    "model",
    "meta",
];

/// The same of a job that was never claimed before.
fn fresh(
    unpack: &mut Unpack<'_>,
    token: &Token,
    now: i64,
    spec: &str,
    epoch: u64,
) -> Option<Option<Box<Flight>>> {
    if unpack.array()? != FRESH.len() + 1 {
        return None;
    }
    let mut fields: Vec<(&[u8], Cow<str>)> = Vec::with_capacity(FRESH.len() + 1);
    for name in FRESH {
        if let Some(value) = unpack.bytes_or_false()? {
            fields.push((name.as_bytes(), text(value)));
        }
    }
    let mut digits = itoa::Buffer::new();
    fields.push((b"started_at", digits.format(now).into()));
    let id = text(unpack.bytes()?);
    let fields = Fields(fields);
    Some(JobId::new(&id).map(|id| Box::new(flight(id, token.clone(), epoch, spec, fields))))
}

/// Makes a flight of a claimed job. `text`: its entry, empty where that is gone. What the record does not say
/// has the value of a new job.
fn flight(id: JobId, token: Token, epoch: u64, text: &str, mut fields: Fields<'_>) -> Flight {
    let mut passing = Passing::default();
    for (name, _) in &fields.0 {
        passing.note(std::str::from_utf8(name).unwrap_or_default());
    }
    let entry: Option<Arc<str>> = (!text.is_empty()).then(|| text.into());
    // A stored entry was checked when it came in: the rules on times are not asked again.
    let parsed: Option<Spec> = (!text.is_empty())
        .then(|| spec::parse(text.as_bytes(), None).ok())
        .flatten();
    let request = fields
        .take("request_id")
        .filter(|id| !id.is_empty())
        .map(|id| RequestId(id.into()));
    let result: Option<Arc<str>> = fields.take("result").map(|json| Arc::from(&*json));
    // Whatever the phase says or does not say: what is paid is never submitted again.
    let phase = match fields.take("phase").and_then(|word| Phase::parse(&word)) {
        Some(Phase::Submitting) | None if result.is_some() => Phase::Delivering,
        Some(Phase::Submitting) | None if request.is_some() => Phase::Polling,
        Some(phase) => phase,
        None => Phase::Submitting,
    };
    let queued_at = fields.ms("queued_at").unwrap_or_default();
    let not_before = parsed.as_ref().and_then(|spec| spec.not_before);
    let kind = fields.take("kind").and_then(|word| Kind::parse(&word));
    let error = fields.text("error").unwrap_or_default();
    let units = fields.text("units");
    let told_to = fields
        .take("tell")
        .and_then(|tell| Target::from_tell_json(&tell));
    let mut flight = Flight {
        id,
        token,
        seq: fields.number("seq").unwrap_or(0),
        passing,
        epoch,
        phase,
        model: fields
            .take("model")
            .and_then(|model| Model::new(&model).ok()),
        user: fields.take("user").map(|user| Arc::from(&*user)),
        meta: fields.text("meta"),
        priority: fields
            .take("priority")
            .and_then(|word| Priority::parse(&word))
            .unwrap_or_default(),
        attempt: fields.number("attempt").unwrap_or(0),
        max_attempts: fields.number("max_attempts").unwrap_or(1),
        via: parsed.as_ref().map(|spec| spec.via).unwrap_or_default(),
        timeout: parsed
            .as_ref()
            .and_then(|spec| spec.timeout_s)
            .map(|s| Duration::from_secs(u64::from(s))),
        repay: parsed.as_ref().is_some_and(|spec| spec.repay),
        free: fields.take("free").is_some(),
        request,
        path: fields.text("path"),
        tried: fields.text("tried").unwrap_or_default(),
        result,
        echoes: fields.text("echoes").unwrap_or_default(),
        found: Vec::new(),
        result_in: ResultIn::Record,
        failure: kind.map(|kind| (kind, error)),
        charged: fields
            .take("charged")
            .and_then(|word| Charged::parse(&word))
            .unwrap_or_default(),
        units_told: units
            .as_deref()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0),
        units,
        queued_at,
        wanted_at: not_before.filter(|at| *at > queued_at).unwrap_or(queued_at),
        started_at: fields.ms("started_at"),
        submitted_at: fields.ms("submitted_at"),
        completed_at: fields.ms("completed_at"),
        expires_at: fields.ms("expires_at"),
        running_at: fields.ms("running_at"),
        watch: Watch::default(),
        rung: fields.text("rung").unwrap_or_default(),
        telling_at: fields.ms("telling_at"),
        untold: fields.take("told").as_deref() == Some("no"),
        tries: fields.number("tries").unwrap_or(0),
        doubt: fields
            .take("doubt")
            .map(|word| Doubt::parse(&word))
            .unwrap_or_default(),
        target: None,
        order: None,
        entry: None,
        step_tries: 0,
        verdicts: 0,
        broke: None,
        in_place: None,
        missing: None,
        // Told to stop, perhaps: whether fal heard it, its answer to another cancel tells.
        cancelling: fields
            .ms("cancelling")
            .filter(|_| matches!(phase, Phase::Polling | Phase::Collecting))
            .map(|since| Cancelling {
                kind: kind.unwrap_or(Kind::Timeout),
                asked_at: None,
                since,
                refused: 0,
                in_queue: false,
            }),
        cancel_asked: fields.take("cancel_asked").is_some(),
        redelivers: None,
        untouched: true,
        unsaved: VecDeque::new(),
        closing: false,
        clock_set_by: None,
        turn: None,
        unfetched_since: None,
        no_room: None,
        in_vain_since: None,
        alive: None,
    };
    let inputs = fields.take("inputs").unwrap_or_default();
    if fields.take("via").as_deref() == Some("direct") {
        flight.via = Via::Direct;
    }
    let why = flight.failure.as_ref().map_or("", |(_, why)| why);
    let waited_for_files = why.starts_with(OF_A_FILE);
    match parsed {
        Some(spec) => {
            flight.target = spec.telegram.map(Arc::new);
            if phase == Phase::Submitting {
                flight.order = Some(Box::new(Order {
                    input: spec.input,
                    switches: spec.fal,
                    brought: Brought {
                        is_told: waited_for_files,
                        ..Brought::parse(&inputs, spec.files.len())
                    },
                    files: spec.files,
                    in_line: false,
                }));
                flight.entry = entry;
            }
        }
        None => flight.target = told_to.map(Arc::new),
    }
    if let Some(job) = fields.text("redelivers") {
        let list = |field: Option<String>| field.unwrap_or_default();
        let (ids, kinds) = (
            list(fields.text("file_ids")),
            list(fields.text("file_kinds")),
        );
        flight.redelivers = Some(Box::new(Redelivers::parse(job, &ids, &kinds)));
        flight.target = fields
            .take("sent_to")
            .and_then(|to| Target::from_resend_json(&to))
            .map(Arc::new);
    }
    if phase == Phase::Telling {
        spare_what_went(&mut flight, fields.take("message_ids").as_deref());
    }
    if phase == Phase::Submitting {
        flight.failure = None; // why it came back; its next outcome says why it failed
    }
    flight
}

/// Where the status message holds a part of the result, a failure is told in a message of its own.
fn spare_what_went(flight: &mut Flight, message_ids: Option<&str>) {
    let went: Vec<i64> = message_ids
        .and_then(|ids| serde_json::from_str(ids).ok())
        .unwrap_or_default();
    if let Some(target) = &mut flight.target
        && target
            .status_message_id
            .is_some_and(|id| went.contains(&id))
    {
        Arc::make_mut(target).status_message_id = None;
    }
}

/// Arguments of one entry for the intake script, in its order.
pub(crate) fn entry_args(cmd: &mut Words, entry: &Entry, defaults: &Defaults) {
    let id = entry.id.as_str();
    let at = |time: Option<UnixMs>| time.map(|at| at.0.to_string()).unwrap_or_default();
    let (mut who, mut fields) = (Pack::with_capacity(256), Pack::with_capacity(256));
    let mut row = Pack::with_capacity(640);
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
            for text in [
                id,
                spec.user.as_deref().unwrap_or(""),
                spec.priority.as_str(),
                "job",
                &at(spec.not_before),
                &at(spec.expires_at),
                "",
            ] {
                row.add(text);
            }
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
            for text in [
                id,
                invalid.user.as_deref().unwrap_or(""),
                &invalid.error,
                "bad",
                "",
                "",
                tell.as_deref().unwrap_or(""),
            ] {
                row.add(text);
            }
        }
    }
    row.add_bytes(who.as_bytes());
    row.add_bytes(fields.as_bytes());
    if let Some(cut) = &entry.cut {
        row.add(&cut.digest);
    }
    cmd.arg(&entry.raw).arg(row.as_bytes());
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
    let marked: u8 = read(part())?;
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
        marked: marked > 0,
    };
    Ok((Some(beat), now))
}
