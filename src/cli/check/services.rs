//! fal and Telegram: whether they answer and take key and token, asked of what costs nothing; and what was set
//! where.

use super::{Line, PATIENCE, Verdict};
use crate::config::{Config, SecretKind, Source};
use crate::fal::{self, Fal, FalUrls, Probe};
use crate::http::{Http, HttpSettings};
use crate::telegram::refusal::Refusal;
use crate::telegram::{self, Telegram};
use std::time::{Duration, SystemTime};

/// Clocks further apart than this spoil TLS and signed URLs sooner or later.
const CLOCK: Duration = Duration::from_secs(10);
const PUBLIC: &str = "https://api.telegram.org";

/// Where key, token and URL come from, and what is set beside them.
pub(super) fn settings(config: &Config) -> Vec<Line> {
    let mut lines = vec![Line::new(
        "configuration",
        "flags and variables of run",
        format!(
            "valid; worker {}, namespace {}, inbox {}, {} + {} threads, {} jobs in flight",
            config.name,
            config.store.namespace,
            config.store.inbox,
            config.threads.pool,
            config.threads.transfer,
            config.limits.max_in_flight
        ),
    )];
    for source in &config.sources {
        lines.push(sourced(config, source));
    }
    lines
}

fn sourced(config: &Config, source: &Source) -> Line {
    let (name, what, length) = match source.what {
        SecretKind::FalKey => (
            "secret-fal-key",
            "fal key",
            Some(config.fal_key.expose().len()),
        ),
        SecretKind::BotToken => (
            "secret-bot-token",
            "bot token",
            config.bot_token.as_ref().map(|token| token.expose().len()),
        ),
        SecretKind::RedisUrl => (
            "secret-redis-url",
            "URL of Redis",
            config.store.redis.password().map(str::len),
        ),
    };
    let size = match length {
        None => "without a password",
        Some(0..16) => "short",
        Some(16..128) => "of usual length",
        Some(_) => "long",
    };
    let change = match (&source.file, length) {
        (Some(_), _) => "; a change of the file is taken while running",
        (None, Some(_)) => "; a change needs a restart",
        (None, None) => "",
    };
    let found = format!("{}, {size}{change}", source.place);
    Line::new(name, format!("where the {what} comes from"), found)
}

/// In place of the lines below.
pub(super) fn not_asked(_: &Config) -> Vec<Line> {
    let line = |name, who: &str| Line::new(name, format!("ask {who}"), "not asked (--offline)");
    vec![line("fal", "fal"), line("telegram", "Telegram")]
}

/// Asks both at once.
pub(super) fn lines(config: &Config) -> Vec<Line> {
    let http = Http::new(HttpSettings {
        threads: 2,
        plain_http: config.urls.plain_http.clone(),
    });
    let urls = FalUrls {
        queue: config.urls.fal.as_str().to_owned(),
        run: config.urls.fal_run.as_str().to_owned(),
        storage: config.urls.fal_storage.as_str().to_owned(),
    };
    let fal = Fal::new(http.clone(), urls, config.fal_key.expose());
    let base = config.urls.telegram.as_str();
    let bot = config
        .bot_token
        .as_ref()
        .map(|token| Telegram::new(http, base.to_owned(), token.expose().to_owned()));
    let (key, bot) = std::thread::scope(|scope| {
        let bot = scope.spawn(|| bot.map(|bot| bot.look(PATIENCE)));
        let key = fal.look(PATIENCE);
        (key, bot.join().unwrap_or_default())
    });
    let mut lines = vec![judge_fal(config.urls.fal.as_str(), &key)];
    let mut dates = vec![("fal", key.date, key.took)];
    match bot {
        None => lines.push(no_bot()),
        Some(bot) => {
            lines.push(judge_telegram(base, &bot));
            dates.push(("Telegram", bot.date, bot.took));
        }
    }
    lines.extend(clock(&dates, SystemTime::now()));
    lines
}

fn ms(took: Duration) -> String {
    format!("in {} ms", took.as_millis())
}

fn judge_fal(url: &str, look: &fal::Look) -> Line {
    let tried = format!("the key at {url}: status of a request that does not exist, free");
    let said = format!("{} {}", look.said, ms(look.took));
    match look.probe {
        Probe::KeyGood => Line::new(
            "fal",
            tried,
            format!("the key is taken ({said}); the balance does not show"),
        ),
        Probe::KeyRefused => Line::new("fal", tried, format!("the key is refused ({said})")).is(
            Verdict::Fail,
            "put a valid key into its source (fal.ai, dashboard, keys)",
        ),
        Probe::Away => Line::new("fal", tried, format!("no clear answer: {said}")).is(
            Verdict::Away,
            "network, firewall, DNS or --fal-url; nothing is known of the key. run waits for fal",
        ),
    }
}

fn no_bot() -> Line {
    Line::new("telegram", "the bot token", "none is set").is(
        Verdict::Warn,
        "a job with `telegram` fails before its submit: set TELEGRAM_BOT_TOKEN_FILE, or send none",
    )
}

fn judge_telegram(url: &str, look: &telegram::Look) -> Line {
    let tried = format!("getMe at {url}");
    let local = url != PUBLIC;
    let line = |found: String| Line::new("telegram", tried.clone(), found);
    match (&look.bot, look.status) {
        (Ok(Some(name)), _) => line(format!("the bot is @{name} ({})", ms(look.took))),
        (Ok(None), _) => line(format!("the token is taken ({})", ms(look.took))),
        (Err(refusal), Some(status @ (401 | 404))) => {
            let advice = match (status, local) {
                (401, false) => {
                    "the token is revoked or mistyped: take the one BotFather shows now"
                }
                (401, true) => {
                    "the token is wrong, or the bot has not left the public server: call logOut there once"
                }
                (_, false) => {
                    "no such bot: the token is mistyped, or --telegram-url has a path too many"
                }
                (_, true) => "no Bot API there: correct --telegram-url (without /bot<token>)",
            };
            line(format!("HTTP {status}: {refusal}")).is(Verdict::Fail, advice)
        }
        (Err(Refusal::NotSent(why) | Refusal::Unknown(why) | Refusal::Broke(why)), _) => line(
            format!("no answer: {why}"),
        )
        .is(
            Verdict::Away,
            match local {
                true => {
                    "start the Bot API server, or correct --telegram-url; results wait meanwhile"
                }
                false => "network, firewall or DNS; results wait for Telegram meanwhile",
            },
        ),
        (Err(Refusal::RetryAfter { wait }), _) => {
            line(format!("it wants silence for {} s", wait.as_secs())).is(
                Verdict::Warn,
                "wait; somebody sends too much with this token",
            )
        }
        (Err(refusal), _) => line(refusal.to_string()).is(Verdict::Fail, "Telegram says why"),
    }
}

/// Our clock beside those of who answered, whose `Date` is in whole seconds.
fn clock(dates: &[(&str, Option<String>, Duration)], now: SystemTime) -> Option<Line> {
    let mut worst: Option<(Duration, &str, &str)> = None;
    for (who, date, took) in dates {
        let Some(theirs) = date
            .as_deref()
            .and_then(|date| httpdate::parse_http_date(date).ok())
        else {
            continue;
        };
        // Asked at the same time; the later one may have come a while ago.
        let (apart, way) = match now.duration_since(theirs) {
            Ok(apart) => (
                apart.saturating_sub(Duration::from_secs(1) + *took),
                "ahead of",
            ),
            Err(error) => (error.duration(), "behind"),
        };
        if worst.is_none_or(|(most, _, _)| apart > most) {
            worst = Some((apart, way, who));
        }
    }
    let (apart, way, who) = worst?;
    let found = match apart < Duration::from_secs(1) {
        true => "as theirs".to_owned(),
        false => format!("{} s {way} {who}'s", apart.as_secs()),
    };
    Some(
        Line::new(
            "clock",
            "this machine's clock by the Date of their answers",
            found,
        )
        .warn_if(apart > CLOCK, "set it by NTP: timedatectl set-ntp true"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(bot: Result<Option<String>, Refusal>, status: Option<u16>) -> telegram::Look {
        telegram::Look {
            bot,
            status,
            date: None,
            took: Duration::from_millis(3),
        }
    }

    #[test]
    fn each_answer_of_telegram_says_what_to_do() {
        let refused = || Err(Refusal::Operator("Unauthorized".into()));
        let rows = [
            (
                look(Ok(Some("my_bot".into())), Some(200)),
                Verdict::Ok,
                "@my_bot",
            ),
            (look(refused(), Some(401)), Verdict::Fail, "401"),
            (look(refused(), Some(404)), Verdict::Fail, "404"),
            (
                look(Err(Refusal::NotSent("refused".into())), None),
                Verdict::Away,
                "refused",
            ),
            (
                look(Err(Refusal::Broke("HTTP 500".into())), Some(500)),
                Verdict::Away,
                "500",
            ),
        ];
        for (look, verdict, text) in rows {
            let line = judge_telegram(PUBLIC, &look);
            assert_eq!(line.verdict, verdict, "{line:?}");
            assert!(line.found.contains(text), "{line:?}");
            assert_eq!(line.advice.is_empty(), verdict == Verdict::Ok);
        }
        let local = judge_telegram("http://127.0.0.1:8081", &look(refused(), Some(401)));
        assert!(local.advice.contains("logOut"), "{local:?}");
    }

    #[test]
    fn a_clock_is_judged_by_who_answered() {
        let then = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let of = |date: &str, now: SystemTime| {
            clock(&[("fal", Some(date.to_owned()), Duration::ZERO)], now)
        };
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let at = |seconds: u64| of(date, then + Duration::from_secs(seconds)).unwrap();
        assert_eq!(at(1).verdict, Verdict::Ok);
        assert_eq!(at(20).verdict, Verdict::Warn);
        assert_eq!(at(20).found, "19 s ahead of fal's");
        let before = of(date, then - Duration::from_secs(60)).unwrap();
        assert_eq!(
            (before.verdict, &*before.found),
            (Verdict::Warn, "60 s behind fal's")
        );
        assert!(of("yesterday", then).is_none() && clock(&[], then).is_none());
    }
}
