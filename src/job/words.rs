//! What users read in their chat: the built-in texts, in each language the contract knows.
//!
//! They stand apart from the operator's error texts because nothing of ours may show in them: no
//! model, no service, no code, no money (whether a failure was charged is the bot's business, by the
//! event's `charged`). They are plain text, to be sent without a parse mode.

use super::Lang;
use super::failure::Kind;

/// The short reply after an edit that made no sound (contract section 1, `telegram.ping`).
pub fn ready(lang: Lang) -> &'static str {
    match lang {
        Lang::En => "Ready",
        Lang::Ru => "Готово",
    }
}

/// Why there is no result, and what the user can do now.
pub fn failure_text(kind: Kind, lang: Lang) -> &'static str {
    let (en, ru) = match kind {
        Kind::InvalidJob => (
            "Sorry, this request could not be processed. Please start again; if it repeats, write to the bot's support.",
            "К сожалению, этот запрос не удалось обработать. Начните заново; если повторится, напишите в поддержку бота.",
        ),
        Kind::InvalidInput => (
            "Sorry, these settings or files did not fit. Please change the request and try again.",
            "К сожалению, такие параметры или файлы не подходят. Измените запрос и попробуйте снова.",
        ),
        Kind::ContentPolicy => (
            "Sorry, this request is not allowed by the content rules. Please change the text or the picture and try again.",
            "К сожалению, запрос не прошёл проверку содержания. Измените текст или картинку и попробуйте снова.",
        ),
        Kind::NoBalance | Kind::Auth => (
            "Sorry, generation is not available right now. Please try again later.",
            "К сожалению, генерация сейчас недоступна. Попробуйте позже.",
        ),
        Kind::RateLimited => (
            "Sorry, there are too many requests right now. Please try again in a few minutes.",
            "К сожалению, сейчас слишком много запросов. Попробуйте через несколько минут.",
        ),
        Kind::Unavailable => (
            "Sorry, generation failed because of a temporary fault. Please try again in a few minutes.",
            "К сожалению, из-за временного сбоя ничего не получилось. Попробуйте через несколько минут.",
        ),
        Kind::Timeout => (
            "Sorry, this took too long and was stopped. Please try again later or with a simpler request.",
            "К сожалению, это заняло слишком много времени и было остановлено. Попробуйте позже или упростите запрос.",
        ),
        Kind::NoOutput => (
            "Sorry, there is nothing to show for this request. Please change it and try again.",
            "К сожалению, по этому запросу ничего не получилось. Измените его и попробуйте снова.",
        ),
        Kind::BadAnswer => (
            "Sorry, the result could not be read. Please try again later.",
            "К сожалению, результат не удалось прочитать. Попробуйте позже.",
        ),
        Kind::FileTooBig => (
            "Sorry, the file is too big to be sent here. Please try a smaller size or a shorter length.",
            "К сожалению, файл слишком большой для отправки сюда. Попробуйте меньший размер или длительность.",
        ),
        Kind::ChatUnreachable => (
            "Sorry, the result could not be sent to this chat. Please check that the bot may write here.",
            "К сожалению, результат не удалось отправить в этот чат. Проверьте, что бот может сюда писать.",
        ),
        Kind::Telegram => (
            "Sorry, the result could not be sent. Please try again later.",
            "К сожалению, результат не удалось отправить. Попробуйте позже.",
        ),
        Kind::Crashed => (
            "Sorry, something went wrong with this request. Please try again; if it repeats, write to the bot's support.",
            "К сожалению, с этим запросом что-то пошло не так. Попробуйте снова; если повторится, напишите в поддержку бота.",
        ),
        Kind::Cancelled => ("The request was cancelled.", "Запрос отменён."),
        Kind::Expired => (
            "Sorry, this request waited too long and was not started. Please send it again.",
            "К сожалению, запрос ждал слишком долго и не был начат. Отправьте его снова.",
        ),
    };
    match lang {
        Lang::En => en,
        Lang::Ru => ru,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_short_plain_text_in_each_language() {
        for kind in Kind::ALL {
            let (en, ru) = (failure_text(kind, Lang::En), failure_text(kind, Lang::Ru));
            assert!(en.is_ascii(), "{kind:?}: {en}");
            let latin = |c: char| c.is_ascii_alphabetic();
            assert!(!ru.contains(latin), "{kind:?}: {ru}");
            for text in [en, ru] {
                assert!((10..=160).contains(&text.chars().count()), "{kind:?}");
                assert!(text.ends_with('.'), "{kind:?}: {text}");
                assert!(
                    !text.contains(['<', '>', '&', '_', '*', '`', '[', '\n']),
                    "{kind:?}"
                );
            }
        }
    }

    #[test]
    fn no_text_shows_what_is_behind_the_bot() {
        for kind in Kind::ALL {
            let text = failure_text(kind, Lang::En).to_lowercase();
            for inner in [
                "fal", "redis", "worker", "model", "api", "key", "balance", "paid", "http",
            ] {
                let shown = text
                    .split(|c: char| !c.is_alphabetic())
                    .any(|word| word == inner);
                assert!(!shown, "{kind:?} shows {inner}: {text}");
            }
        }
    }

    #[test]
    fn the_ping_is_the_contracts_word() {
        assert_eq!((ready(Lang::En), ready(Lang::Ru)), ("Ready", "Готово"));
    }
}
