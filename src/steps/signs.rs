//! Signs of life: while a job runs its chat shows that something is being sent, or its status message
//! says how far it is. Best effort by one thread of its own: steps only leave word here, so a Telegram
//! that hangs delays no poll and no delivery. What goes out is never repeated, tells the breaker
//! nothing and can fail no job; of what is wished while the thread is busy only the last is shown.
//!
//! One thing here is no best effort: no progress text may stand where the result stood. So a delivery
//! asks [`Signs::end`] first: nothing new begins after it, and it waits until the edit under way has its
//! answer. After one of unknown outcome it waits until the server cannot carry it out any more, and a
//! job that came from another owner waits [`LATE`], since that one may have died inside an edit.

use super::gate::Service;
use super::{Tools, Worker};
use crate::job::Phase;
use crate::job::flight::Flight;
use crate::job::spec::{ChatId, SendAs, Target};
use crate::job::state::Next;
use crate::job::words::Shown;
use crate::report;
use crate::store::rate::Silence;
use crate::telegram::refusal::Refusal;
use crate::telegram::{Call, Method};
use serde_json::{Map, Value};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A job that is quicker needs no sign.
const AFTER: Duration = Duration::from_secs(3);
/// A chat action is seen for 5 s (telegram-api section 7).
const ACTION_EVERY: Duration = Duration::from_millis(4500);
/// Between two progress texts of one message, and of one private chat: they share its limits with the
/// results (telegram-api section 5).
const EDIT_EVERY: Duration = Duration::from_secs(5);
/// The same in a group, which has 20 messages and edits a minute.
const EDIT_EVERY_IN_A_GROUP: Duration = Duration::from_secs(10);
/// Time limit of a chat action.
const ACTION_LIMIT: Duration = Duration::from_secs(5);
/// And of a progress edit, above the 8 s for which the server holds a request over its limits: what it
/// has not done when they are over it never does.
const EDIT_LIMIT: Duration = Duration::from_secs(10);
/// How long a job of another owner is given: an edit of that one may still be on its way.
const LATE: Duration = Duration::from_secs(2);
/// Before a delivery asks again whether the edit under way is over.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Silence of all signs while Telegram cannot be reached, or wants silence.
const PAUSE: Duration = Duration::from_secs(5);
/// Silence in a chat that takes nothing.
const GONE: Duration = Duration::from_secs(3600);

/// Names a job here: the address of its flight's `alive`, which nothing else has as long as we know it.
type Key = usize;

/// The signs of one process. Off, or for a job without a chat, every call returns at once.
#[derive(Debug)]
pub(crate) struct Signs {
    on: bool,
    inner: Mutex<Inner>,
    /// For the thread: there is something earlier to do.
    bell: Condvar,
    /// For deliveries: an edit is over.
    over: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: HashMap<Key, Watched>,
    /// When each is due; void where the job says otherwise.
    due: BinaryHeap<Reverse<(Instant, Key)>>,
    /// Chats that get none before this.
    silent: HashMap<ChatId, Instant>,
    /// Nobody gets one before this.
    all_silent: Option<Instant>,
    /// The message whose edit is under way.
    editing: Option<(ChatId, i64)>,
    /// How many jobs were known when the dead were last sorted out.
    swept: usize,
    closed: bool,
}

/// A job that gets signs.
#[derive(Debug)]
struct Watched {
    /// Gone with the flight.
    alive: Weak<()>,
    epoch: u64,
    chat: ChatId,
    form: Form,
    due: Option<Instant>,
}

#[derive(Debug)]
enum Form {
    Action {
        thread: Option<i64>,
        word: &'static str,
    },
    Status(Status),
}

#[derive(Debug)]
struct Status {
    message: i64,
    lang: crate::job::Lang,
    markup: Option<Value>,
    not_before: Instant,
    wanted: Option<Shown>,
    shown: Option<Shown>,
    /// No more of them.
    closed: bool,
    /// After this an edit of unknown outcome cannot come any more, or Telegram takes edits again.
    certain_at: Option<Instant>,
}

/// What the thread is to show now.
pub(crate) struct Sign {
    key: Key,
    /// Of the flight, which may end meanwhile: while this stands nothing else gets its address.
    _named: Weak<()>,
    epoch: u64,
    chat: ChatId,
    call: Call,
    /// `None`: a chat action.
    shows: Option<Shown>,
}

impl Signs {
    /// `on`: `--progress`, and there is a bot.
    pub(crate) fn new(on: bool) -> Signs {
        Signs {
            on,
            inner: Mutex::default(),
            bell: Condvar::new(),
            over: Condvar::new(),
        }
    }

    /// Whether there is anything for the thread to do.
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Nothing new goes out, the thread ends: the stop has begun, and jobs go to other owners.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_all();
        self.over.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- for steps ----

    /// A step begins: takes note of a job that is to get signs. `moves_bytes`: on a transfer thread.
    pub(super) fn meet(&self, flight: &mut Flight, moves_bytes: bool, tools: &Tools) {
        if !self.on || flight.alive.is_some() {
            return;
        }
        let Some(target) = &flight.target else { return };
        let status = target.status_message_id;
        // Nobody of this process has begun it: somebody else may have, and died.
        let inherited = flight.untouched && flight.phase != Phase::Submitting;
        let wanted = match (flight.phase, status) {
            (Phase::Polling | Phase::Collecting, _) => true,
            // Of a direct call, and of an upload.
            (Phase::Submitting, _) | (Phase::Delivering, None) => moves_bytes,
            (Phase::Delivering | Phase::Telling, Some(_)) => inherited,
            (Phase::Telling, None) => false,
        };
        if !wanted {
            return;
        }
        let now = Instant::now();
        let alive = Arc::new(());
        let form = match status {
            None => Form::Action {
                thread: target.message_thread_id.filter(|id| *id != 1),
                word: action(
                    target.send_as,
                    flight.model.as_ref().map_or("", |model| model.as_str()),
                ),
            },
            Some(message) => Form::Status(Status {
                message,
                lang: target.lang.unwrap_or(tools.lang),
                markup: markup(target),
                not_before: now + AFTER,
                wanted: (flight.phase == Phase::Submitting).then_some(Shown::Started),
                shown: None,
                closed: false,
                certain_at: inherited.then(|| now + LATE),
            }),
        };
        let due = match &form {
            Form::Action { .. } if inherited => Some(now),
            Form::Action { .. } => Some(now + AFTER),
            Form::Status(status) => status.wanted.map(|_| now + AFTER),
        };
        let key = Arc::as_ptr(&alive) as Key;
        let watched = Watched {
            alive: Arc::downgrade(&alive),
            epoch: flight.epoch,
            chat: target.chat.clone(),
            form,
            due: None,
        };
        flight.alive = Some(alive);
        let mut inner = self.lock();
        inner.sweep();
        inner.jobs.insert(key, watched);
        if let Some(due) = due {
            self.put(&mut inner, key, due);
        }
    }

    /// How far a job is, as its status message is to say.
    pub(super) fn show(&self, flight: &Flight, shown: Shown) {
        let Some(alive) = &flight.alive else { return };
        let target = flight.target.as_ref();
        if target.is_none_or(|target| target.status_message_id.is_none()) {
            return;
        }
        let key = Arc::as_ptr(alive) as Key;
        let mut inner = self.lock();
        let Some(Watched {
            form: Form::Status(status),
            due,
            ..
        }) = inner.jobs.get_mut(&key)
        else {
            return;
        };
        status.wanted = Some(shown);
        if !status.closed && due.is_none() && status.shown != status.wanted {
            let due = status.not_before.max(Instant::now());
            self.put(&mut inner, key, due);
        }
    }

    /// A step is over, and this comes next.
    pub(super) fn after_step(&self, flight: &mut Flight, next: Next) {
        if flight.alive.is_none() {
            return;
        }
        match (flight.phase, next) {
            (Phase::Delivering, Next::Transfer) => self.show(flight, Shown::Uploading),
            (Phase::Polling | Phase::Collecting, _) | (_, Next::Transfer | Next::Now) => {}
            // A status message may still be in doubt: `end` lets go of it.
            (Phase::Delivering | Phase::Telling, _) if is_status(flight) => {}
            (Phase::Submitting | Phase::Delivering | Phase::Telling, _) => flight.alive = None,
        }
    }

    /// Something of the job's own is about to go out to its chat: no more signs. `Some`: not before this
    /// time has passed; ask again then.
    pub(super) fn end(&self, flight: &mut Flight) -> Option<Duration> {
        let alive = flight.alive.as_ref()?;
        let key = Arc::as_ptr(alive) as Key;
        let mut guard = self.lock();
        let inner = &mut *guard;
        if let Some(watched) = inner.jobs.get_mut(&key)
            && let Form::Status(status) = &mut watched.form
        {
            watched.due = None;
            status.closed = true;
            let editing = inner.editing.as_ref();
            if editing.is_some_and(|(chat, id)| *chat == watched.chat && *id == status.message) {
                return Some(LOOK_AGAIN);
            }
            let left = status
                .certain_at
                .map(|at| at.saturating_duration_since(Instant::now()));
            if let Some(left) = left.filter(|left| !left.is_zero()) {
                return Some(left);
            }
        }
        inner.jobs.remove(&key);
        drop(guard);
        flight.alive = None;
        None
    }

    /// The same for a transfer thread that has a file in hand: waits itself, as long as an edit may take,
    /// or until the stop. Without a status message the signs go on while the file moves.
    pub(super) fn end_before_upload(&self, flight: &mut Flight) -> Option<Duration> {
        if !is_status(flight) {
            return None;
        }
        let deadline = Instant::now() + EDIT_LIMIT * 2;
        loop {
            let wait = self.end(flight)?;
            let inner = self.lock();
            let left = deadline.saturating_duration_since(Instant::now());
            if inner.closed || left.is_zero() {
                return Some(wait);
            }
            drop(self.over.wait_timeout(inner, wait.min(left)));
        }
    }

    /// Telegram wants silence in this chat.
    pub(super) fn silence(&self, chat: &ChatId, wait: Duration) {
        if self.on {
            self.lock().silence(chat, Instant::now() + wait);
        }
    }

    fn put(&self, inner: &mut Inner, key: Key, due: Instant) {
        let first = inner.due.peek().map(|Reverse((due, _))| *due);
        if inner.put(key, due) && first.is_none_or(|first| due < first) {
            self.bell.notify_one();
        }
    }

    // ---- for the thread ----

    /// Waits for the next sign that is due; `None` at the stop.
    pub(crate) fn next(&self, tools: &Tools) -> Option<Sign> {
        let mut inner = self.lock();
        loop {
            if inner.closed {
                return None;
            }
            let now = Instant::now();
            let until = match inner.all_silent.filter(|until| *until > now) {
                Some(until) => Some(until),
                None => match inner.due.peek() {
                    Some(Reverse((due, _))) if *due <= now => {
                        if let Some(sign) = inner.take(now, tools) {
                            return Some(sign);
                        }
                        continue;
                    }
                    Some(Reverse((due, _))) => Some(*due),
                    None => None,
                },
            };
            inner = match until {
                Some(until) => {
                    let wait = until.saturating_duration_since(now);
                    let waited = self.bell.wait_timeout(inner, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .bell
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Shows it.
    pub(crate) fn perform(&self, worker: &Worker, sign: &Sign) {
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| send(worker, sign)));
        let outcome = outcome.unwrap_or(Outcome::Unknown); // the hook has logged the panic
        let mut inner = self.lock();
        inner.settle(sign, outcome, began, Instant::now());
        drop(inner);
        self.over.notify_all();
    }
}

/// Sends it, if it may go out now.
fn send(worker: &Worker, sign: &Sign) -> Outcome {
    let tools = &worker.tools;
    let Some(telegram) = &tools.telegram else {
        return Outcome::Never;
    };
    if tools.gate.is_open(Service::Telegram { slow: false }) {
        return Outcome::NotNow;
    }
    if let Some(turn) = worker.sign_must_wait(&sign.call) {
        return Outcome::Later(turn.wait, turn.silence);
    }
    // Only now, since that question takes its time.
    if sign.epoch != tools.store.identity().epoch {
        return Outcome::Never;
    }
    if !may_act(tools) {
        return Outcome::NotNow;
    }
    let limit = match sign.shows {
        None => ACTION_LIMIT,
        Some(_) => EDIT_LIMIT,
    };
    let answer = telegram.perform_within(&sign.call, limit);
    if let Err(refusal) = &answer {
        worker.heard(&sign.call, refusal);
    }
    Outcome::of(answer.map(|_| ()))
}

/// As for everything that goes out: nobody can have taken our jobs.
fn may_act(tools: &Tools) -> bool {
    let health = &tools.store.health;
    !health.is_away() && !health.forgot() && tools.lease.is_fresh()
}

fn is_status(flight: &Flight) -> bool {
    let target = flight.target.as_ref();
    target.is_some_and(|target| target.status_message_id.is_some())
}

/// What became of a sign.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Shown,
    /// It may be, or may come to be.
    Unknown,
    /// It was not, for a reason that passes.
    NotNow,
    /// It was not; Telegram wants silence.
    Silence(Duration),
    /// It was not: what others send, or silence that Telegram asked them for, leaves no room yet.
    Later(Duration, Silence),
    /// The chat takes nothing.
    Gone,
    /// This job's never will.
    Never,
}

impl Outcome {
    fn of(answer: Result<(), Refusal>) -> Outcome {
        let refusal = match answer {
            Ok(()) | Err(Refusal::NotModified) => return Outcome::Shown,
            Err(refusal) => refusal,
        };
        let why = refusal.to_string();
        report::debug("a sign of life was not shown", &[("why", &why.as_str())]);
        match refusal {
            Refusal::RetryAfter { wait } | Refusal::AlbumHeld { wait } => Outcome::Silence(wait),
            Refusal::Unknown(_) | Refusal::Broke(_) => Outcome::Unknown,
            Refusal::NotSent(_) | Refusal::Operator(_) => Outcome::NotNow,
            Refusal::Unreachable(_) => Outcome::Gone,
            Refusal::NotModified
            | Refusal::Gone
            | Refusal::AlreadySent(_)
            | Refusal::EditSuperseded
            | Refusal::FallBack(_)
            | Refusal::Repair(_)
            | Refusal::Bug(_)
            | Refusal::Other400(_) => Outcome::Never,
        }
    }
}

impl Inner {
    fn put(&mut self, key: Key, due: Instant) -> bool {
        let Some(watched) = self.jobs.get_mut(&key) else {
            return false;
        };
        watched.due = Some(due);
        self.due.push(Reverse((due, key)));
        true
    }

    fn silence(&mut self, chat: &ChatId, until: Instant) {
        if self.silent.len() >= 1000 {
            let now = Instant::now();
            self.silent.retain(|_, until| *until > now);
        }
        let known = self.silent.entry(chat.clone()).or_insert(until);
        *known = until.max(*known);
    }

    fn silence_all(&mut self, until: Instant) {
        self.all_silent = Some(self.all_silent.map_or(until, |known| known.max(until)));
    }

    /// Forgets jobs whose flights are gone, now and then: each costs its share of one look.
    fn sweep(&mut self) {
        if self.jobs.len() > 2 * self.swept + 64 {
            self.jobs.retain(|_, job| job.alive.strong_count() > 0);
            self.swept = self.jobs.len();
        }
    }

    /// Takes the first that is due, if it still is.
    fn take(&mut self, now: Instant, tools: &Tools) -> Option<Sign> {
        let Reverse((due, key)) = self.due.pop()?;
        let watched = self.jobs.get_mut(&key)?;
        if watched.due != Some(due) {
            return None; // an older word of the same job
        }
        if watched.alive.strong_count() == 0 {
            self.jobs.remove(&key);
            return None;
        }
        watched.due = None;
        if let Some(until) = self.silent.get(&watched.chat).filter(|until| **until > now) {
            let until = *until;
            self.put(key, until);
            return None;
        }
        let mut args = Map::new();
        let chat = match &watched.chat {
            ChatId::Id(id) => Value::from(*id),
            ChatId::Name(name) => Value::from(name.as_str()),
        };
        args.insert("chat_id".into(), chat);
        let (method, shows) = match &mut watched.form {
            Form::Action { thread, word } => {
                args.insert("action".into(), (*word).into());
                if let Some(thread) = thread {
                    args.insert("message_thread_id".into(), (*thread).into());
                }
                (Method::SendChatAction, None)
            }
            Form::Status(status) => {
                let wanted = status.wanted.filter(|_| !status.closed)?;
                let text = tools.words.progress(status.lang, wanted);
                let before = status
                    .shown
                    .map(|shown| tools.words.progress(status.lang, shown));
                if before.as_ref() == Some(&text) {
                    status.shown = Some(wanted); // in other words, or in a text of one's own, the same
                    return None;
                }
                args.insert("message_id".into(), status.message.into());
                args.insert("text".into(), text.into());
                if let Some(markup) = &status.markup {
                    args.insert("reply_markup".into(), markup.clone());
                }
                self.editing = Some((watched.chat.clone(), status.message));
                (Method::EditMessageText, Some(wanted))
            }
        };
        let call = Call {
            method,
            args,
            file_part: None,
            by_url: false,
        };
        Some(Sign {
            key,
            _named: watched.alive.clone(),
            epoch: watched.epoch,
            chat: watched.chat.clone(),
            call,
            shows,
        })
    }

    /// Draws the conclusions.
    fn settle(&mut self, sign: &Sign, outcome: Outcome, began: Instant, now: Instant) {
        if sign.shows.is_some() {
            self.editing = None;
        }
        match outcome {
            Outcome::Shown | Outcome::Never => {}
            Outcome::Unknown | Outcome::NotNow => self.silence_all(now + PAUSE),
            // It is this chat's limit or the bot's, which the answer does not say.
            Outcome::Silence(wait) => {
                self.silence(&sign.chat, now + wait);
                self.silence_all(now + wait.min(PAUSE));
            }
            Outcome::Later(wait, Silence::Chat) => self.silence(&sign.chat, now + wait),
            Outcome::Later(wait, Silence::Bot) => self.silence_all(now + wait.min(PAUSE)),
            // The bot's places come back with every span; a chat's own bucket is nothing to other chats.
            Outcome::Later(wait, Silence::None) => match sign.shows {
                Some(_) => self.silence(&sign.chat, now + wait),
                None => self.silence_all(now + wait.min(PAUSE)),
            },
            // Whoever remembers chats that cannot be reached learns of it here.
            Outcome::Gone => self.silence(&sign.chat, now + GONE),
        }
        if sign.shows.is_some() && outcome == Outcome::Shown {
            let pause = match &sign.chat {
                ChatId::Id(1..) => EDIT_EVERY,
                ChatId::Id(_) | ChatId::Name(_) => EDIT_EVERY_IN_A_GROUP,
            };
            self.silence(&sign.chat, began + pause);
        }
        let Some(watched) = self.jobs.get_mut(&sign.key) else {
            return;
        };
        let again = match (&mut watched.form, outcome) {
            (_, Outcome::Never | Outcome::Gone) => {
                if let Form::Status(status) = &mut watched.form {
                    status.closed = true;
                }
                None
            }
            (Form::Action { .. }, _) => Some(began + ACTION_EVERY),
            (Form::Status(status), Outcome::Unknown) => {
                status.closed = true;
                status.certain_at = status.certain_at.max(Some(began + EDIT_LIMIT));
                None
            }
            (Form::Status(status), Outcome::Shown) => {
                status.shown = sign.shows;
                status.not_before = began + EDIT_EVERY;
                (status.wanted != status.shown).then_some(status.not_before)
            }
            (Form::Status(status), Outcome::Silence(wait)) => {
                // The result too: asking earlier makes it longer.
                status.certain_at = status.certain_at.max(Some(now + wait));
                Some(now + PAUSE)
            }
            // Of `Later` the result waits for nothing: it asks for its own turn.
            (Form::Status(_), Outcome::NotNow | Outcome::Later(..)) => Some(now + PAUSE),
        };
        let closed = matches!(&watched.form, Form::Status(status) if status.closed);
        if let Some(due) = again.filter(|_| !closed) {
            self.put(sign.key, due);
        }
    }
}

/// What the chat shows before the result is known: by what is wished for, else by the model's name.
fn action(send_as: SendAs, model: &str) -> &'static str {
    match send_as {
        SendAs::Photo => "upload_photo",
        SendAs::Video | SendAs::Animation => "upload_video",
        SendAs::Document | SendAs::Audio => "upload_document",
        SendAs::Auto => {
            let has = |words: &[&str]| words.iter().any(|word| model.contains(word));
            if has(&["video"]) {
                "upload_video"
            } else if has(&["audio", "music", "speech", "tts"]) {
                "upload_document"
            } else if has(&["llm", "whisper", "ocr"]) {
                "typing"
            } else {
                "upload_photo"
            }
        }
    }
}

/// The keyboard that stays under progress texts: an edit drops what it does not name.
fn markup(target: &Target) -> Option<Value> {
    let raw = target.status_markup.as_deref()?;
    serde_json::from_str(raw.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_action_is_that_of_the_wish_or_of_the_models_name() {
        for (send_as, model, expected) in [
            (SendAs::Auto, "fal-ai/flux/dev", "upload_photo"),
            (SendAs::Auto, "fal-ai/kling-video/v2", "upload_video"),
            (SendAs::Auto, "fal-ai/f5-tts", "upload_document"),
            (SendAs::Auto, "fal-ai/any-llm", "typing"),
            (SendAs::Auto, "", "upload_photo"),
            (SendAs::Document, "fal-ai/kling-video/v2", "upload_document"),
            (SendAs::Animation, "fal-ai/flux/dev", "upload_video"),
            (SendAs::Audio, "fal-ai/flux/dev", "upload_document"),
            (SendAs::Photo, "fal-ai/any-llm", "upload_photo"),
        ] {
            assert_eq!(action(send_as, model), expected, "{send_as:?} {model}");
        }
    }

    #[test]
    fn only_what_left_no_doubt_counts_as_shown_or_not() {
        let of = |refusal| Outcome::of(Err(refusal));
        assert_eq!(Outcome::of(Ok(())), Outcome::Shown);
        assert_eq!(of(Refusal::NotModified), Outcome::Shown);
        assert_eq!(of(Refusal::Unknown("x".into())), Outcome::Unknown);
        assert_eq!(of(Refusal::Broke("x".into())), Outcome::Unknown);
        assert_eq!(of(Refusal::NotSent("x".into())), Outcome::NotNow);
        assert_eq!(of(Refusal::Unreachable("x".into())), Outcome::Gone);
        assert_eq!(of(Refusal::EditSuperseded), Outcome::Never);
        let wait = Duration::from_secs(7);
        assert_eq!(of(Refusal::RetryAfter { wait }), Outcome::Silence(wait));
    }

    #[test]
    fn jobs_whose_flights_are_gone_do_not_pile_up() {
        let mut inner = Inner::default();
        let now = Instant::now();
        let living: Vec<Arc<()>> = (0..10).map(|_| Arc::new(())).collect();
        let mut known = Vec::new();
        for n in 0..1000 {
            let gone = Arc::new(());
            let alive = living.get(n).unwrap_or(&gone);
            inner.sweep();
            let watched = Watched {
                alive: Arc::downgrade(alive),
                epoch: 0,
                chat: ChatId::Id(n as i64 + 1),
                form: Form::Action {
                    thread: None,
                    word: "typing",
                },
                due: None,
            };
            let key = Arc::as_ptr(alive) as Key;
            inner.jobs.insert(key, watched);
            inner.put(key, now);
            known.push(inner.jobs.len());
        }
        assert!(known.iter().all(|jobs| *jobs <= 100), "{known:?}");
        let kept = living.iter().filter(|alive| {
            let key = Arc::as_ptr(alive) as Key;
            inner.jobs.contains_key(&key)
        });
        assert_eq!(kept.count(), 10);
    }
}
