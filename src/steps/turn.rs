//! When a message may go out: its turn among all messages of the bot, over all daemons, and what
//! Telegram's answer says about the next ones. A job that has to wait is parked with its turn.

use super::gate::Service;
use super::{REDIS_AWAY, Worker, job};
use crate::job::flight::{Flight, Turn};
use crate::report;
use crate::store::rate::{Ask, Silence, Verb, chat_name};
use crate::store::{self, Fault};
use crate::telegram::limits::ChatLimit;
use crate::telegram::refusal::{Refusal, Repair};
use crate::telegram::{Call, Method, Sent};
use std::time::Duration;

/// What Telegram itself holds back without a word: longer than that nobody waits to tell the operator.
const SWALLOWED: Duration = Duration::from_secs(8);

impl Worker {
    /// Whether this call may go out now; if not, how long to park the job before it asks again.
    pub(super) fn turn(&self, flight: &mut Flight, call: &Call) -> Result<(), Duration> {
        let store = &self.tools.store;
        let (chat, messages) = (call.chat(), call.messages());
        let verb = match flight.turn.take() {
            Some(turn) if turn.chat == chat && turn.messages == messages => {
                let now = store.now();
                let early = now.until(turn.at);
                if !early.is_zero() {
                    flight.turn = Some(turn);
                    return Err(early);
                }
                Verb::Keep(turn.at.until(now))
            }
            Some(_) | None => Verb::Take,
        };
        // Each write tells of silence, so before the first one of a claim nothing is known.
        let heard = flight.seq > 0 && !store.may_be_silence();
        if self.tools.telegram_rate.is_none() && heard {
            return Ok(());
        }
        match self.ask(&chat, messages, verb) {
            Ok(turn) if turn.wait.is_zero() => Ok(()),
            Ok(turn) => {
                let (job, in_ms) = (job(flight).job, turn.wait.as_millis() as u64);
                report::debug("delivery waits", &[("job", &job), ("in_ms", &in_ms)]);
                flight.turn = Some(Box::new(self.later(chat, messages, turn.wait)));
                Err(turn.wait)
            }
            Err(Fault::Away(_) | Fault::Unable(_)) => Err(REDIS_AWAY),
            // Telegram has its limits still: a paid result is not kept for ours.
            Err(Fault::Refused(why)) => {
                let job = job(flight);
                let fields: &[(&str, &dyn report::Value)] =
                    &[("job", &job.job), ("why", &why.as_str())];
                report::warning("redis gave a send no turn, it goes out at once", fields);
                Ok(())
            }
        }
    }

    /// The same once more for a call whose turn had come before something that took its time.
    pub(super) fn still_its_turn(&self, flight: &mut Flight, call: &Call) -> Result<(), Duration> {
        self.keep_turn(flight, call);
        self.turn(flight, call)
    }

    /// The turn of this call has come, and nothing has gone out.
    pub(super) fn keep_turn(&self, flight: &mut Flight, call: &Call) {
        flight.turn = Some(Box::new(self.later(
            call.chat(),
            call.messages(),
            Duration::ZERO,
        )));
    }

    /// How long the turn that the job has is away.
    pub(super) fn until_its_turn(&self, flight: &Flight) -> Option<Duration> {
        let turn = flight.turn.as_ref()?;
        Some(self.tools.store.now().until(turn.at))
    }

    /// Whether the operator may be told now, or why not. Nobody parks that.
    pub(super) fn may_tell_admin(&self, call: &Call) -> Result<(), String> {
        match self.ask(&call.chat(), call.messages(), Verb::Take) {
            Ok(turn) if turn.wait > SWALLOWED => {
                Err(format!("its turn would come in {} s", turn.wait.as_secs()))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Whether a sign of life has to wait, and how long, for whose sake: it takes only what nobody else wants
    /// now, and is dropped rather than kept waiting.
    pub(super) fn sign_must_wait(&self, call: &Call) -> Option<store::rate::Turn> {
        if self.tools.telegram_rate.is_none() && !self.tools.store.may_be_silence() {
            return None;
        }
        let verb = match call.method {
            Method::SendChatAction => Verb::Act,
            _ => Verb::Try,
        };
        let turn = self.ask(&call.chat(), 1, verb).ok()?;
        (!turn.wait.is_zero()).then_some(turn)
    }

    /// Notes whether Telegram is there, what its answer means for others, and what it refused.
    pub(super) fn note(&self, flight: &mut Flight, call: &Call, sent: &Result<Sent, Refusal>) {
        let refusal = sent.as_ref().err();
        self.telegram_heard(refusal);
        let Some(refusal) = refusal else { return };
        if let Refusal::Unknown(why) = refusal {
            self.look_whether_away(Service::Telegram { slow: false }, why);
        }
        if let (Some(wait), Some(target)) = (refusal.silence(), &flight.target) {
            self.tools.signs.silence(&target.chat, wait);
        }
        if let (Refusal::Unreachable(_), Some(target)) = (refusal, &flight.target) {
            // Of a group that moved on: what a claim looks for is the id that its jobs name.
            let named = chat_name(&target.chat);
            if named != call.chat() {
                let _ = self.session.mark_unreachable(&named);
            }
        }
        if let Some(wait) = self.heard(call, refusal) {
            flight.turn = Some(Box::new(self.later(call.chat(), call.messages(), wait)));
        }
        let (job, why) = (job(flight), refusal.to_string());
        let fields: &[(&str, &dyn report::Value)] = &[("job", &job.job), ("why", &why.as_str())];
        match refusal {
            // A mistake of the bot, that nobody sees in the chat; or a topic that is gone, so that it arrives elsewhere.
            Refusal::Bug(_)
            | Refusal::Repair(
                Repair::ParseError | Repair::Entities | Repair::MarkupRefused | Repair::ThreadGone,
            ) => {
                report::warning("telegram refused a call", fields);
            }
            _ => report::debug("telegram refused a call", fields),
        }
    }

    /// What a refusal means for all daemons: silence (then when this call's turn comes after it), or a chat
    /// that cannot be reached. Without Redis only this process knows.
    pub(super) fn heard(&self, call: &Call, refusal: &Refusal) -> Option<Duration> {
        let chat = call.chat();
        if let Refusal::Unreachable(_) = refusal {
            // Best effort: the next job of this chat will learn it, too.
            let _ = self.session.mark_unreachable(&chat);
        }
        let wait = refusal.silence()?.max(Duration::from_secs(1));
        let turn = self.ask(&chat, call.messages(), Verb::Hold(wait)).ok()?;
        if turn.began {
            let whom = match turn.silence {
                Silence::Bot => "all chats",
                Silence::Chat | Silence::None => &chat,
            };
            report::telegram_held(whom, wait);
        }
        Some(turn.wait)
    }

    fn ask(&self, chat: &str, messages: u32, verb: Verb) -> Result<store::rate::Turn, Fault> {
        let limit = ChatLimit::of(chat);
        let ask = Ask {
            chat,
            messages,
            bot: self.tools.telegram_rate.map(|rate| (rate.number, rate.per)),
            gap: limit.gap,
            burst: limit.burst,
        };
        self.session.rate(&ask, verb)
    }

    fn later(&self, chat: String, messages: u32, wait: Duration) -> Turn {
        let mut at = self.tools.store.now();
        at.0 += i64::try_from(wait.as_millis()).unwrap_or(0);
        Turn { chat, messages, at }
    }
}
