//! A job as the worker holds it in memory while it owns it, and the changes that are written for it.
//! A flight is moved through the scheduler or the transfers' channel, never shared: ownership proves
//! that one thread works it.

use super::answer::{Held, Item};
use super::failure::{Failure, Kind, Remedy};
use super::inputs::Brought;
use super::pace::Watch;
use super::spec::{FalSwitches, InputFiles, Model, Target, Via, Words};
use super::{Charged, JobId, Phase, Priority, RequestId, UnixMs};
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Who owns a claim: 64 random bits of the process and a counter, compared for equality only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub Arc<str>);

/// What may have happened when the last owner vanished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Doubt {
    /// Nothing unrecorded.
    #[default]
    None,
    /// A submit may have reached fal.
    Submit,
    /// A message may have reached the chat.
    Send,
}

impl Doubt {
    /// The record's word.
    pub(crate) fn word(self) -> Option<&'static str> {
        match self {
            Doubt::None => None,
            Doubt::Submit => Some("submit"),
            Doubt::Send => Some("send"),
        }
    }

    /// Reads the record's word.
    pub(crate) fn parse(word: &str) -> Doubt {
        match word {
            "submit" => Doubt::Submit,
            "send" => Doubt::Send,
            _ => Doubt::None,
        }
    }

    /// Whether a job that is given up before its submit has cost anything.
    pub(crate) fn charged(self) -> Charged {
        match self {
            Doubt::Submit => Charged::Unknown,
            Doubt::None | Doubt::Send => Charged::No,
        }
    }
}

/// What a submit needs; dropped once fal has it, and boxed, so that a parked job is small.
#[derive(Debug)]
pub struct Order {
    /// The model's input, byte for byte as it was pushed.
    pub input: Box<RawValue>,
    /// Switches sent as headers.
    pub switches: FalSwitches,
    /// Members of the input that are filled before the submit.
    pub files: InputFiles,
    /// How far that is.
    pub brought: Brought,
    /// The record says that it stands in line for a transfer thread, and so was not begun.
    pub in_line: bool,
}

/// A request at fal that we want ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelling {
    /// Why: `Timeout` or `Cancelled`.
    pub kind: Kind,
    /// When fal confirmed that it got the cancel; `None`: it is still to be sent.
    pub asked_at: Option<UnixMs>,
    /// When the wish arose.
    pub since: UnixMs,
    /// Cancels that failed while fal answered about the request itself.
    pub refused: u32,
    /// fal's last word was that it still waits in fal's queue: what ends there was never charged.
    pub in_queue: bool,
}

/// What fal itself says in place of a result, though not as it says that a job failed.
#[derive(Clone, Debug, PartialEq)]
pub struct InPlace {
    /// How often.
    pub times: u32,
    /// Since when.
    pub since: UnixMs,
    /// The last of them.
    pub last: Failure,
}

/// What a redelivery is of. It travels as a job of its own, in phase `delivering` from its first claim on,
/// so that it is as hard to lose or to double as any delivery; only its end is another.
#[derive(Clone, Debug, PartialEq)]
pub struct Redelivers {
    /// The job whose result is sent again.
    pub job: String,
    /// What Telegram keeps of it.
    pub held: Vec<(usize, Held)>,
}

impl Redelivers {
    /// Reads the lists of a record. An id without its kind keeps its place in the list.
    pub(crate) fn parse(job: String, ids: &str, kinds: &str) -> Redelivers {
        let list = |json: &str| serde_json::from_str::<Vec<String>>(json).unwrap_or_default();
        let kinds = list(kinds);
        let held = list(ids).into_iter().enumerate().map(|(place, id)| {
            let said = kinds.get(place).and_then(|word| word.split_once(':'));
            let item = said.and_then(|(item, _)| item.parse().ok());
            let kind = said.map_or("", |(_, kind)| kind).to_owned();
            (item.unwrap_or(place), Held { id, kind })
        });
        Redelivers {
            job,
            held: held.collect(),
        }
    }

    /// The lists again: ids, and their places and kinds.
    pub(crate) fn lists(&self) -> (String, String) {
        let ids: Vec<&str> = self.held.iter().map(|(_, held)| held.id.as_str()).collect();
        let kinds = self
            .held
            .iter()
            .map(|(item, held)| format!("{item}:{}", held.kind));
        let kinds: Vec<String> = kinds.collect();
        let text = |list| serde_json::to_string(&list).unwrap_or_default();
        (serde_json::to_string(&ids).unwrap_or_default(), text(kinds))
    }
}

/// Room for what most events say, most writes change and most records hold.
const EVENT_FIELDS: usize = 12;
const PATCH_FIELDS: usize = 8;
const FIELDS: usize = 24;

/// Results above this many bytes do not go into the record but into a key of their own, and only when
/// the delivery is parked or given back.
pub(crate) const LARGE: usize = 64 * 1024;

/// Fields that come and go within a life. Asking Redis to delete one that is not there costs it a walk through
/// the record, and mostly none of them is.
const PASSING: [&str; 14] = [
    "tried",
    "error",
    "kind",
    "crashes",
    "cancelling",
    "doubt",
    "tries",
    "inputs",
    "rung",
    "due_at",
    "telling_at",
    "echoes",
    "waits",
    LARGE_RESULT,
];

/// Not a field but a key of its own, which passes like one: the large result.
pub(crate) const LARGE_RESULT: &str = "large result";

/// Which of the passing fields the record may have.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Passing(u16);

impl Passing {
    /// Notes that the record has this field from now on.
    pub(crate) fn note(&mut self, name: &str) {
        if let Some(at) = PASSING.iter().position(|passing| *passing == name) {
            self.0 |= 1 << at;
        }
    }

    /// Whether it may have the field: always of one that does not pass.
    pub(crate) fn may_have(self, name: &str) -> bool {
        let at = PASSING.iter().position(|passing| *passing == name);
        at.is_none_or(|at| self.0 & 1 << at != 0)
    }
}

/// Where a result lies, beside the memory of who delivers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResultIn {
    /// In the record.
    #[default]
    Record,
    /// Nowhere: it is too large for the record.
    Memory,
    /// In its own key, or in the write that puts it there.
    OwnKey,
}

/// One job in the hands of this process.
#[derive(Debug)]
pub struct Flight {
    /// The job's id.
    pub id: JobId,
    /// This claim's token.
    pub token: Token,
    /// Number of the last write of this claim.
    pub seq: u32,
    /// Which passing fields the record may have, so that only those are deleted.
    pub passing: Passing,
    /// Which identity of this process claimed it: after a takeover of ourselves older ones are dropped.
    pub epoch: u64,
    /// Where it stands.
    pub phase: Phase,
    /// The model; `None` only for an invalid job that has none.
    pub model: Option<Model>,
    /// Whom limits count.
    pub user: Option<Arc<str>>,
    /// Copied into every event.
    pub meta: Option<String>,
    /// Its queue.
    pub priority: Priority,
    /// Paid, or perhaps paid, submits so far.
    pub attempt: u32,
    /// How many there may be.
    pub max_attempts: u32,
    /// Queue or direct call.
    pub via: Via,
    /// Limit of a running generation, if the job has its own.
    pub timeout: Option<Duration>,
    /// Generate again when a paid result was lost at fal.
    pub repay: bool,
    /// This life came of a retry that was said to be free: it may not submit anything.
    pub free: bool,
    /// fal's id of the request under way.
    pub request: Option<RequestId>,
    /// Path of the request at fal, unless it is the stem form.
    pub path: Option<String>,
    /// Former request ids, separated by spaces.
    pub tried: String,
    /// fal's JSON.
    pub result: Option<Arc<str>>,
    /// Which of the files that it names are the input's own and no part of it: a JSON list of their numbers, written
    /// with the result, so that whoever delivers it counts the same items. Empty: none, or nobody has looked.
    pub echoes: String,
    /// What was found in it, for the delivery that begins at once; empty: to be found again.
    pub(crate) found: Vec<Item>,
    /// Where else the result lies.
    pub result_in: ResultIn,
    /// Why it failed.
    pub failure: Option<(Kind, String)>,
    /// Worst of all attempts.
    pub charged: Charged,
    /// Sum of all attempts, as decimal text.
    pub units: Option<String>,
    /// Of these, as many were counted already, by this process or by an owner before it.
    pub units_told: f64,
    /// When it came in.
    pub queued_at: UnixMs,
    /// When it might run at the earliest, else `queued_at`.
    pub wanted_at: UnixMs,
    /// When a worker first took it.
    pub started_at: Option<UnixMs>,
    /// When fal accepted the request under way.
    pub submitted_at: Option<UnixMs>,
    /// When the result was there.
    pub completed_at: Option<UnixMs>,
    /// Not to be paid for after this.
    pub expires_at: Option<UnixMs>,
    /// When fal first said that it runs.
    pub running_at: Option<UnixMs>,
    /// What the looks at this request have shown, for the pace of the next ones.
    pub(crate) watch: Watch,
    /// Progress of the delivery, in the delivery's own words.
    pub rung: String,
    /// When telling the failure began.
    pub telling_at: Option<UnixMs>,
    /// Telling the failure crashed earlier owners: the job ends without it.
    pub untold: bool,
    /// Consecutive deferrals of the submit.
    pub tries: u32,
    /// What the last owner may have done.
    pub doubt: Doubt,
    /// Where the result goes.
    pub target: Option<Arc<Target>>,
    /// What to submit; `None` after the submit.
    pub order: Option<Box<Order>>,
    /// The entry as it was pushed, for a Redis that forgot; dropped after the submit.
    pub entry: Option<Arc<str>>,

    /// Consecutive failures of the present step.
    pub step_tries: u32,
    /// How often the result said that a new submit is worth it.
    pub verdicts: u32,
    /// What the status said of a request that it called failed.
    pub broke: Option<(Kind, Remedy)>,
    /// Failures of fal's own that stood in place of the result.
    pub in_place: Option<Box<InPlace>>,
    /// Consecutive 404s of the status, and when the first came.
    pub missing: Option<(u32, UnixMs)>,
    /// A cancel under way.
    pub cancelling: Option<Cancelling>,
    /// Somebody asked for its end, and it has not been begun.
    pub cancel_asked: bool,
    /// It is no job but the redelivery of one.
    pub redelivers: Option<Box<Redelivers>>,
    /// Nobody has begun the first step of this claim.
    pub untouched: bool,
    /// Writes that Redis has not taken yet, oldest first, with their numbers.
    pub unsaved: VecDeque<(u32, Write)>,
    /// The last write of the claim is in `unsaved`: nothing else is to be done.
    pub closing: bool,
    /// By how much Redis's clock had been set when its times were last looked at, ms.
    pub clock_set_by: Option<i64>,
    /// When its next message may go out.
    pub turn: Option<Box<Turn>>,
    /// Since when the file that is next cannot be fetched.
    pub unfetched_since: Option<UnixMs>,
    /// Why this machine cannot keep that file, where it is not the file's host that does not give it.
    pub no_room: Option<Box<str>>,
    /// Since when this owner's tries to deliver came to nothing.
    pub in_vain_since: Option<UnixMs>,
    /// While it lives, the chat is shown signs of life.
    pub alive: Option<Arc<()>>,
}

/// A place among the messages of the bot and of the chat.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// The chat.
    pub chat: String,
    /// Messages.
    pub messages: u32,
    /// Not before.
    pub at: UnixMs,
}

/// One event of the stream; the script adds `at`, and `ms` counted from `since`.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name (contract section 2).
    pub name: &'static str,
    /// Start of the time it reports.
    pub since: Option<UnixMs>,
    /// Its fields.
    pub fields: Vec<(&'static str, String)>,
}

impl Event {
    /// Adds a field.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Event {
        self.fields.push((name, value.into()));
        self
    }
}

/// Fields and events written in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patch {
    /// Fields to set.
    pub set: Vec<(&'static str, String)>,
    /// A field to set to Redis's time.
    pub stamp: Option<&'static str>,
    /// Fields to delete.
    pub del: Vec<&'static str>,
    /// Events to add.
    pub events: Vec<Event>,
}

impl Patch {
    /// Sets a field.
    pub(crate) fn set(mut self, name: &'static str, value: impl Into<String>) -> Patch {
        if self.set.is_empty() {
            self.set.reserve(PATCH_FIELDS);
        }
        self.set.push((name, value.into()));
        self
    }

    /// Sets a field when there is a value.
    pub(crate) fn set_some(self, name: &'static str, value: Option<impl Into<String>>) -> Patch {
        match value {
            Some(value) => self.set(name, value),
            None => self,
        }
    }

    /// Stamps a field with Redis's time: one of a patch.
    pub(crate) fn stamp(mut self, name: &'static str) -> Patch {
        debug_assert!(self.stamp.is_none(), "{name} beside {:?}", self.stamp);
        self.stamp = Some(name);
        self
    }

    /// Deletes fields.
    pub(crate) fn del(mut self, names: &[&'static str]) -> Patch {
        self.del.extend_from_slice(names);
        self
    }

    /// Adds an event.
    pub(crate) fn event(mut self, event: Event) -> Patch {
        self.events.push(event);
        self
    }
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndState {
    /// The result was delivered (or there was nobody to deliver to).
    Done,
    /// It failed.
    Dead,
    /// It was cancelled.
    Cancelled,
}

impl EndState {
    /// What the word of a record's state means; `None`: that life goes on.
    pub(crate) fn parse(state: &str) -> Option<EndState> {
        [EndState::Done, EndState::Dead, EndState::Cancelled]
            .into_iter()
            .find(|end| end.as_str() == state)
    }

    /// The record's word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            EndState::Done => "done",
            EndState::Dead => "dead",
            EndState::Cancelled => "cancelled",
        }
    }
}

/// One write of the owner; each is one script call, and may be repeated.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// fal's request id: never refused.
    Submitted {
        /// The id.
        request: RequestId,
        /// Its path, unless the stem form.
        path: Option<String>,
        /// The attempt it is.
        attempt: u32,
        /// Fields of the event.
        event: Event,
    },
    /// Progress.
    Save {
        /// What changes.
        patch: Patch,
        /// Counter of `stats` to raise.
        count: Option<&'static str>,
        /// A result for the key of its own.
        large: Option<Arc<str>>,
    },
    /// The job waits for a new submit.
    Later {
        /// How long at least.
        wait: Duration,
        /// The request id the owner knows.
        known: Option<RequestId>,
        /// What changes.
        patch: Patch,
    },
    /// The job ends.
    End {
        /// How.
        state: EndState,
        /// What changes.
        patch: Patch,
    },
}

impl Write {
    /// Names of the events that it adds to the stream.
    pub(crate) fn events(&self) -> impl Iterator<Item = &'static str> {
        let (own, patch) = match self {
            Write::Submitted { event, .. } => (Some(event), None),
            Write::Save { patch, .. } | Write::Later { patch, .. } | Write::End { patch, .. } => {
                (None, Some(patch))
            }
        };
        let more = patch.into_iter().flat_map(|patch| &patch.events);
        own.into_iter().chain(more).map(|event| event.name)
    }

    /// Whether the claim is over once this is written.
    pub(crate) fn closes(&self) -> bool {
        matches!(self, Write::Later { .. } | Write::End { .. })
    }
}

impl Flight {
    /// Bytes that it keeps in memory and that grow with its input or its result: the entry with the input inside
    /// it, and a result that lies nowhere else.
    pub(crate) fn bytes(&self) -> usize {
        let entry = self.entry.as_ref().map_or(0, |entry| entry.len() * 2);
        let result = self.result.as_ref().map_or(0, |result| result.len());
        match self.result_in {
            ResultIn::Memory => entry + result,
            ResultIn::Record | ResultIn::OwnKey => entry,
        }
    }

    /// Nothing of it is paid, nor perhaps paid by this owner: a submit of which that is not known ends the claim.
    pub(crate) fn is_unpaid(&self) -> bool {
        self.phase == Phase::Submitting && self.request.is_none()
    }

    /// Lets a result go that its own key holds: of hundreds that wait for Telegram none is to stay in memory.
    pub(crate) fn shed_result(&mut self) {
        if self.result_in == ResultIn::OwnKey && self.unsaved.is_empty() {
            self.result = None;
            self.found = Vec::new();
        }
    }

    /// Gives the write its number.
    pub(crate) fn number(&mut self, write: &Write) -> u32 {
        if let Write::Save { patch, large, .. } = write {
            let names = patch.set.iter().map(|(name, _)| *name);
            let large = large.as_ref().map(|_| LARGE_RESULT);
            for name in names.chain(patch.stamp).chain(large) {
                self.passing.note(name);
            }
        }
        self.seq += 1;
        self.seq
    }

    /// Redis's clock was set, by so many milliseconds in all while this process ran: spans that have begun
    /// go on as if it had not been. A moment that a user named stays what it is.
    pub(crate) fn follow_clock(&mut self, set_by: i64) {
        let by = set_by - self.clock_set_by.replace(set_by).unwrap_or(set_by);
        if by == 0 {
            return;
        }
        self.wanted_at.0 += by;
        let spans = [
            &mut self.submitted_at,
            &mut self.completed_at,
            &mut self.running_at,
            &mut self.telling_at,
            &mut self.unfetched_since,
            &mut self.in_vain_since,
        ];
        for at in spans.into_iter().flatten() {
            at.0 += by;
        }
        self.watch.follow_clock(by);
        if let Some((_, at)) = &mut self.missing {
            at.0 += by;
        }
        if let Some(in_place) = &mut self.in_place {
            in_place.since.0 += by;
        }
        if let Some(turn) = &mut self.turn {
            turn.at.0 += by;
        }
        if let Some(cancelling) = &mut self.cancelling {
            cancelling.since.0 += by;
            if let Some(at) = &mut cancelling.asked_at {
                at.0 += by;
            }
        }
    }

    /// An event of this job with the fields that every event has.
    pub(crate) fn event(&self, name: &'static str) -> Event {
        let mut fields = Vec::with_capacity(EVENT_FIELDS);
        fields.push(("job", self.id.as_str().to_owned()));
        if let Some(user) = &self.user {
            fields.push(("user", user.to_string()));
        }
        if let Some(model) = &self.model {
            fields.push(("model", model.as_str().to_owned()));
        }
        fields.push(("attempt", self.attempt.to_string()));
        if let Some(meta) = &self.meta {
            fields.push(("meta", meta.clone()));
        }
        Event {
            name,
            since: None,
            fields,
        }
    }

    /// Adds what a failed or lost request cost: the worst of all attempts, the sum of all units.
    pub(crate) fn charge(&mut self, failure: &Failure) {
        self.charged = self.charged.max(failure.charged);
        self.add_units(failure.units.as_deref());
    }

    /// Adds billable units.
    pub(crate) fn add_units(&mut self, units: Option<&str>) {
        let (Some(more), before) = (units, self.units.as_deref()) else {
            return;
        };
        self.units = Some(match before {
            None => more.to_owned(),
            Some(before) => match (before.parse::<f64>(), more.parse::<f64>()) {
                (Ok(a), Ok(b)) => format!("{}", ((a + b) * 1e6).round() / 1e6),
                _ => more.to_owned(),
            },
        });
    }

    /// What people asked of it: a cancel, a free retry, a redelivery. For [`Flight::fields`] and for whoever keeps less.
    pub(crate) fn asked_for(&self) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        if self.cancel_asked {
            out.push(("cancel_asked", "1".to_owned()));
        }
        if self.free {
            out.push(("free", "1".to_owned()));
        }
        if let Some(redelivers) = &self.redelivers {
            let (ids, kinds) = redelivers.lists();
            out.push(("redelivers", redelivers.job.clone()));
            out.push(("file_ids", ids));
            out.push(("file_kinds", kinds));
            if let Some(target) = &self.target {
                out.push(("sent_to", target.to_resend_json(Words::Kept)));
            }
        }
        out
    }

    /// All that the record should say of this flight: for a give-back, and for a Redis that forgot.
    pub(crate) fn fields(&self) -> Vec<(&'static str, String)> {
        let mut out: Vec<(&'static str, String)> = Vec::with_capacity(FIELDS);
        self.each_field(|name, value| out.push((name, value.to_owned())));
        out
    }

    /// The same, told one by one.
    pub(crate) fn each_field(&self, mut tell: impl FnMut(&'static str, &str)) {
        let mut digits = itoa::Buffer::new();
        tell("priority", self.priority.as_str());
        tell("attempt", digits.format(self.attempt));
        tell("max_attempts", digits.format(self.max_attempts));
        tell("queued_at", digits.format(self.queued_at.0));
        tell("charged", self.charged.as_str());
        let inputs = (self.order.as_ref()).and_then(|order| order.brought.to_text());
        let small = |json: &&str| json.len() <= LARGE;
        let texts = [
            ("model", self.model.as_ref().map(|model| model.as_str())),
            ("user", self.user.as_deref()),
            ("meta", self.meta.as_deref()),
            ("request_id", self.request.as_ref().map(|id| &*id.0)),
            ("path", self.path.as_deref()),
            ("units", self.units.as_deref()),
            ("kind", self.failure.as_ref().map(|(kind, _)| kind.as_str())),
            ("error", self.failure.as_ref().map(|(_, text)| &**text)),
            ("tried", Some(&*self.tried).filter(|text| !text.is_empty())),
            ("rung", Some(&*self.rung).filter(|text| !text.is_empty())),
            ("result", self.result.as_deref().filter(small)),
            (
                "echoes",
                Some(&*self.echoes).filter(|text| !text.is_empty()),
            ),
            ("inputs", inputs.as_deref()),
            ("via", (self.via == Via::Direct).then_some("direct")),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                tell(name, text);
            }
        }
        let times = [
            ("started_at", self.started_at),
            ("submitted_at", self.submitted_at),
            ("completed_at", self.completed_at),
            ("expires_at", self.expires_at),
            ("running_at", self.running_at),
            ("telling_at", self.telling_at),
            ("cancelling", self.cancelling.map(|wish| wish.since)),
        ];
        for (name, at) in times {
            if let Some(at) = at {
                tell(name, digits.format(at.0));
            }
        }
        if self.phase != Phase::Submitting {
            tell("phase", self.phase.as_str());
        }
        for (name, text) in self.asked_for() {
            tell(name, &text);
        }
    }
}

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
