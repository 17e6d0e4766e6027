//! Any answer of Telegram and any text: no panic, no token in a refusal, no text over the limit.

use super::*;
use crate::fuzz::{self, Outcome, Target, hold};
use crate::job::spec::ParseMode;
use crate::telegram::refusal::Repair;
use std::collections::BTreeMap;

const TOKEN: &str = "1234567:AAF-the-token_of-the-bot";

fn any_answer(input: &[u8]) -> Outcome {
    let (status, headers, body) = fuzz::answer(input);
    let answer = Answer {
        status,
        headers: headers.into_iter().collect(),
        body,
    };
    if let Ok(text) = std::str::from_utf8(&answer.body)
        && let Some(sent) = usual(text)
    {
        hold!(any(text) == Some(sent), "two readings of {text}");
    }
    let mut words = Vec::new();
    for method in [Method::SendPhoto, Method::EditMessageText] {
        match read(&answer, method, TOKEN) {
            Ok(sent) => {
                let text = String::from_utf8_lossy(&answer.body);
                let json: BTreeMap<String, &RawValue> =
                    first(json_in(&text)).ok_or("success without JSON")?;
                hold!(json["ok"].get() == "true", "success without ok");
                hold!(!sent.message_ids.contains(&0), "a message 0");
                words.push(format!(
                    "sent {} {}",
                    sent.message_ids.len().min(3),
                    sent.file_ids.len().min(3)
                ));
            }
            Err(refusal) => {
                let text = refusal.to_string();
                hold!(
                    !text.contains("AAF-the-token_of-the-bot"),
                    "the token is in: {text}"
                );
                hold!(
                    text.chars().count() <= 340,
                    "{} characters",
                    text.chars().count()
                );
                hold!(!text.contains(char::is_control), "no single line: {text:?}");
                if let Refusal::RetryAfter { wait } = refusal {
                    hold!(wait <= Duration::from_secs(86_400), "{wait:?} of silence");
                }
                hold!(
                    !matches!(refusal, Refusal::NotSent(_)),
                    "an answer came, and nothing was sent?"
                );
                words.push(match refusal {
                    Refusal::FallBack(cause) => format!("{cause:?}"),
                    Refusal::Repair(Repair::Migrated(_)) => "migrated".to_owned(),
                    Refusal::Repair(repair) => format!("{repair:?}"),
                    other => format!("{other:?}").chars().take(10).collect(),
                });
            }
        }
    }
    Ok(words.join(", "))
}

/// The first byte chooses limit and markup.
fn any_text(input: &[u8]) -> Outcome {
    let (choice, rest) = input
        .split_first()
        .map_or((0, input), |(first, rest)| (*first, rest));
    let text = String::from_utf8_lossy(rest);
    let max = [3, 4, 7, 64, text::CAPTION, text::MESSAGE][usize::from(choice) % 6];
    let mode = [
        None,
        Some(ParseMode::Html),
        Some(ParseMode::MarkdownV2),
        Some(ParseMode::Markdown),
    ][usize::from(choice) / 6 % 4];

    let plain = text::plain(&text, mode);
    hold!(
        plain.len() <= text.len(),
        "markup taken away makes it longer"
    );
    let cut = text::cut(&plain, max);
    hold!(
        text::units(&cut) <= max,
        "{} units of {max}: {cut:?}",
        text::units(&cut)
    );
    match cut.strip_suffix('…') {
        Some(kept) if cut != plain.trim() => {
            hold!(plain.trim().starts_with(kept), "not its beginning: {cut:?}");
            // An accent stays with its letter where there is a whole character to cut at before it.
            let next = plain.trim()[kept.len()..].chars().next();
            let joins = |c: char| matches!(c, '\u{200d}' | '\u{fe0f}' | '\u{301}');
            let mut before = kept.chars().rev();
            let whole = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            let torn = next.is_some_and(joins) && whole(before.next()) && whole(before.next());
            hold!(!torn, "torn before {next:?}: {cut:?}");
        }
        _ => hold!(cut == plain.trim(), "changed without a cut: {cut:?}"),
    }
    let pieces = text::split(&plain, max);
    for piece in &pieces {
        hold!(
            text::units(piece) <= max,
            "a piece of {} units of {max}",
            text::units(piece)
        );
        hold!(!piece.trim().is_empty(), "an empty piece");
    }
    let bare = |text: &str| {
        text.chars()
            .filter(|c| !c.is_whitespace())
            .collect::<String>()
    };
    hold!(bare(&pieces.concat()) == bare(&plain), "split loses a word");
    if let Some(mode) = mode {
        let back = text::plain(&text::escape(&text, mode), Some(mode));
        hold!(back == text, "escaped it comes back as {back:?}");
    }
    Ok(format!(
        "{max} {mode:?} {} {} {}",
        cut.ends_with('…'),
        pieces.len().min(5),
        plain != text
    ))
}

#[test]
fn any_answer_of_telegram_has_a_class_and_no_token_in_its_text() {
    let rows = include_str!("../../../tests/fixtures/telegram/errors.tsv");
    let refusals = rows.lines().filter(|row| !row.starts_with('#')).filter_map(|row| {
        let mut columns = row.split('\t').skip(1);
        let (status, text) = (columns.next()?.parse().ok()?, columns.next()?);
        let (text, parameters) = text.split_once(" | ").unwrap_or((text, "{}"));
        let text = json!(text);
        let body = format!(r#"{{"ok":false,"error_code":{status},"description":{text},"parameters":{parameters}}}"#);
        Some(fuzz::wire(status, &[("retry-after", "5")], &body))
    });
    let sent = [
        include_str!("../../../tests/fixtures/telegram/sent_photo.json"),
        include_str!("../../../tests/fixtures/telegram/sent_animation.json"),
        include_str!("../../../tests/fixtures/telegram/sent_album.json"),
        include_str!("../../../tests/fixtures/telegram/sent_scheduled.json"),
        include_str!("../../../tests/fixtures/telegram/sent_text.json"),
        include_str!("../../../tests/fixtures/telegram/true.json"),
    ];
    let echo = format!(
        r#"{{"ok":false,"error_code":404,"description":"Not Found: /bot{TOKEN}/sendPhoto"}}"#
    );
    Target::new("telegram-answer")
        .seeds(refusals)
        .seeds(sent.map(|body| fuzz::wire(200, &[], body)))
        .seed(fuzz::wire(404, &[], &echo))
        .seed(fuzz::wire(400, &[], r#"{"ok":false,"description":"Bad Request: failed to send message #2 with the error message \"chat not found\""}"#))
        .words(["ok", "result", "error_code", "description", "parameters", "retry_after", "migrate_to_chat_id"])
        .words(["message_id", "photo", "video", "animation", "file_id", "width", "height", "Bad Request: "])
        .words(["Forbidden: ", "chat not found", "retry after 7", "FLOOD_WAIT_9", "can't parse entities", TOKEN])
        .words(["with the error message \"", "failed to send message #", "400", "403", "429", "500"])
        .run(any_answer);
}

#[test]
fn any_text_is_cut_and_split_within_its_limit_and_loses_no_word() {
    let seeds = [
        "\u{4}<b>Done</b> &amp; <a href=\"https://x/?a>b\">there</a>",
        "\u{b}*bold* _it_ __under__ ~gone~ ||hid|| 1\\.5 [text](https://x/\\)y) ```rust\nlet a;\n```",
        "\u{11}*b* \\_ `code` [t](u) plain",
        "\u{2}one two\nthree four e\u{301}e\u{301} 👨\u{200d}👩\u{200d}👧 😀😀",
        "\u{9}I <3 <lora:cat:0.8> you < me &#x41; &#xD800;",
    ];
    let long = seeds.map(|seed| {
        let at = seed.char_indices().nth(1).map_or(0, |(at, _)| at);
        format!("{}{}", seed, format!(" {}", &seed[at..]).repeat(40))
    });
    Target::new("telegram-text")
        .seeds(seeds)
        .seeds(long)
        .words([
            "<b>", "</b>", "<i", "&lt;", "&#", "```", "**>", "](", "\\", "__", "||", " ", "\n",
            "😀", "\u{301}",
        ])
        .run(any_text);
}
