//! What all daemons of one bot share about its sends: their times within Telegram's limits, the silence
//! that Telegram asked for, and the chats that cannot be reached. Keys below `rate:<bot>`, where the bot
//! is a short hash: two bots on one namespace share nothing, and no key holds a token.

use super::*;
use crate::job::spec::ChatId;

/// How long a chat that cannot be reached is remembered, unless something arrives there.
const UNREACHABLE: Duration = Duration::from_secs(3600);

/// How long it is believed that there is no such chat, after a beat (ms): of these there is one a second.
const BELIEVED: u64 = 3000;

/// Who sends.
#[derive(Debug)]
pub(crate) struct Bot {
    /// The start of its keys.
    keys: String,
    /// Until when Telegram may want silence of anybody, as far as this process knows (uptime, ms).
    silence: AtomicU64,
    /// Until when it is believed that no chat is unreachable (uptime, ms).
    unmarked: AtomicU64,
}

/// What a send asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ask<'a> {
    /// Chat id or `@name`.
    pub(crate) chat: &'a str,
    /// Messages.
    pub(crate) messages: u32,
    /// Messages of the bot in a span; `None`: no limits of our own.
    pub(crate) bot: Option<(u32, Duration)>,
    /// Time a message takes in this chat.
    pub(crate) gap: Duration,
    /// Messages there at once.
    pub(crate) burst: u32,
}

/// Why it asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verb {
    /// For a time.
    Take,
    /// Whether the time given before, so long ago, is still good.
    Keep(Duration),
    /// Telegram wants silence so long; for the time after it.
    Hold(Duration),
    /// For now or not at all: an edit that may be left out.
    Try,
    /// The same for a chat action, which counts for the bot alone.
    Act,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Turn {
    /// Its time comes then; zero: now.
    pub(crate) wait: Duration,
    /// Telegram wants silence of ...
    pub(crate) silence: Silence,
    /// That silence began with this call.
    pub(crate) began: bool,
}

/// Of whom Telegram wants silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Nobody.
    None,
    /// In this chat.
    Chat,
    /// In all chats.
    Bot,
}

impl Store {
    /// Names the bot, once, at the start: by its token, of which only a hash of the public part is kept.
    pub(crate) fn set_bot(&self, token: &str) {
        let id = token.split_once(':').map_or(token, |(id, _)| id);
        let _ = self.bot.set(Bot {
            keys: format!("{}:rate:{}", self.keys.namespace, &script::digest(id)[..12]),
            silence: AtomicU64::new(0),
            unmarked: AtomicU64::new(0),
        });
    }

    /// The start of the keys of unreachable chats, and the key that lives while there are any; `""` without a bot.
    pub(super) fn unreachable(&self) -> String {
        let bot = self.bot.get();
        bot.map_or_else(String::new, |bot| format!("{}:unreachable", bot.keys))
    }

    /// The same, where there may be any: `""` for a while after a beat that found none. What another worker marked
    /// since, and was reached again since, stays marked until the next message that arrives there.
    pub(super) fn marks(&self) -> String {
        let now = u64::try_from(self.uptime_ms()).unwrap_or(0);
        let bot = (self.bot.get()).filter(|bot| bot.unmarked.load(Ordering::Relaxed) <= now);
        bot.map_or_else(String::new, |_| self.unreachable())
    }

    /// A beat, or what was done just now, says whether there are chats that cannot be reached.
    pub(super) fn heard_of_marks(&self, marked: bool) {
        let Some(bot) = self.bot.get() else { return };
        let till = match marked {
            true => 0,
            false => u64::try_from(self.uptime_ms()).unwrap_or(0) + BELIEVED,
        };
        bot.unmarked.store(till, Ordering::Relaxed);
    }

    /// The key that lives while Telegram wants silence of anybody; `""` without a bot.
    pub(super) fn silence(&self) -> String {
        let bot = self.bot.get();
        bot.map_or_else(String::new, |bot| format!("{}:bot", bot.keys))
    }

    /// Telegram may want silence of somebody for so long.
    pub(super) fn heard_of_silence(&self, rest_ms: i64) {
        if let (Some(bot), Ok(rest @ 1..)) = (self.bot.get(), u64::try_from(rest_ms)) {
            let till = u64::try_from(self.uptime_ms()).unwrap_or(0) + rest;
            bot.silence.fetch_max(till, Ordering::Relaxed);
        }
    }

    /// Whether Telegram may want silence of somebody.
    pub(crate) fn may_be_silence(&self) -> bool {
        let now = u64::try_from(self.uptime_ms()).unwrap_or(0);
        let till = self
            .bot
            .get()
            .map(|bot| bot.silence.load(Ordering::Relaxed));
        till.is_some_and(|till| till > now)
    }
}

impl Session {
    /// Asks when a message may go out. Not to be repeated without need: each answer takes a place.
    pub(crate) fn rate(&self, ask: &Ask<'_>, verb: Verb) -> Result<Turn, Fault> {
        const NOW: Turn = Turn {
            wait: Duration::ZERO,
            silence: Silence::None,
            began: false,
        };
        let Some(bot) = self.store.bot.get() else {
            return Ok(NOW);
        };
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let (word, span) = match verb {
            Verb::Take => ("take", Duration::ZERO),
            Verb::Keep(late) => ("keep", late),
            Verb::Hold(silence) => ("hold", silence),
            Verb::Try => ("try", Duration::ZERO),
            Verb::Act => ("act", Duration::ZERO),
        };
        let (places, every) = ask.bot.unwrap_or((0, Duration::from_secs(1)));
        let (all, chat) = (
            self.store.silence(),
            format!("{}:chat:{}", bot.keys, ask.chat),
        );
        let call = Call::new(&self.store.scripts.rate, &[&all, &chat])
            .arg(word)
            .arg(ask.messages)
            .arg(places)
            .arg(ms(every))
            .arg(ms(ask.gap))
            .arg(ask.burst)
            .arg(ask.chat)
            .arg(ms(span))
            .arg(format!("{}:span:", bot.keys));
        let (wait, silence, began, rest): (u64, u8, u8, i64) = read(self.script(&call)?)?;
        self.store.heard_of_silence(rest);
        Ok(Turn {
            wait: Duration::from_millis(wait),
            silence: match silence {
                0 => Silence::None,
                1 => Silence::Chat,
                _ => Silence::Bot,
            },
            began: began == 1,
        })
    }

    /// Remembers for a while that nothing can be sent to this chat: its next jobs are not paid for.
    pub(crate) fn mark_unreachable(&self, chat: &str) -> Result<(), Fault> {
        if self.store.bot.get().is_none() {
            return Ok(());
        }
        // First the sign that there is such a chat at all, which lives as long as the last of them: a claim asks
        // for that one alone, and for chats only where it stands.
        let all = self.store.unreachable();
        let one = format!("{all}:{chat}");
        // Its time, since what the bot could send there later says more. Versions before this one set a 1.
        let now = self.store.now();
        for key in [&all, &one] {
            let mut cmd = redis::cmd("SET");
            cmd.arg(key).arg(now.0).arg("EX").arg(UNREACHABLE.as_secs());
            self.command(&cmd)?;
        }
        self.store.heard_of_marks(true);
        Ok(())
    }

    /// Something arrived in this chat.
    pub(crate) fn forget_unreachable(&self, chat: &str) -> Result<(), Fault> {
        if self.store.bot.get().is_none() {
            return Ok(());
        }
        let mut cmd = redis::cmd("DEL");
        cmd.arg(format!("{}:{chat}", self.store.unreachable()));
        self.command(&cmd).map(|_| ())
    }
}

/// A chat as records and keys name it: names of public chats know no case.
pub(crate) fn chat_name(chat: &ChatId) -> String {
    chat.to_string().to_lowercase()
}
