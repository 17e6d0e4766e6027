//! Every error text of the table against what is done about it: on a fresh photo, on an album, and on an
//! edit. The rows are those of `tests/fixtures/telegram/errors.tsv`, which name their class.

use super::*;
use crate::telegram::refusal::classify;

const ROWS: &str = include_str!("../../../../tests/fixtures/telegram/errors.tsv");

/// What is done, in words.
fn action(parcel: &Parcel<'_>, refusal: Refusal) -> String {
    let start = Progress::default();
    let call = next(parcel, &start);
    let same = |progress: &Progress| match next(parcel, progress) == call {
        true => "the same".to_owned(),
        false => describe(&next(parcel, progress)),
    };
    match after(parcel, &start, Err(refusal), 0.0) {
        After::Go(progress) => same(&progress),
        After::Without { .. } => "the file goes without it".to_owned(),
        After::Wait {
            progress,
            for_,
            counted,
        } => {
            let bound = if counted { "a few times " } else { "" };
            format!("{bound}after {} s {}", for_.as_secs(), same(&progress))
        }
        After::Unknown {
            progress,
            wait,
            resend,
        } => {
            let counted = if resend { ", counted" } else { "" };
            format!("after {} s {}{counted}", wait.as_secs(), same(&progress))
        }
        After::Failed(failure) => format!("ends as {}", failure.kind.as_str()),
        After::OperatorTrouble(_) => "all sends wait".to_owned(),
    }
}

/// For a photo sent by its URL with everything a job can wish for.
fn for_a_photo(class: &str) -> String {
    let calls = match class {
        "A" => "ends as chat_unreachable",
        "F" => "all sends wait",
        "bug" => "ends as telegram",
        "unknown" | "broke" => "after 5 s the same, counted",
        "already sent" => "finished",
        // What is not meant for a send is a 400 that nobody knows: one rung.
        "UrlRefused" | "AlbumRefused" | "gone" | "other" => "sendPhoto up +cap +mode +kb +re +th",
        "PhotoRefused" | "MediaRefused" | "KindForbidden" => {
            "sendDocument up +cap +mode +kb +re +th"
        }
        "TooBig" => "sendMessage link +kb +re +th",
        "FileEmpty" => "a few times after 1 s the same",
        "AlbumAgain" => "a few times after 2 s the same",
        "ParseError" | "Entities" | "TextTooLong" | "CaptionTooLong" => {
            "sendPhoto url +cap +kb +re +th"
        }
        "TextEmpty" => "the same",
        "ReplyGone" => "sendPhoto url +cap +mode +kb +th",
        "ThreadGone" => "sendPhoto url +cap +mode +kb +re",
        "MarkupRefused" => "sendPhoto url +cap +mode +re +th",
        "Migrated(-1001234567890)" => "sendPhoto url +cap +mode +kb +th @-1001234567890",
        wait => {
            let seconds = wait.split(' ').nth(1).unwrap_or_else(|| panic!("{wait}"));
            return format!("after {seconds} s the same");
        }
    };
    calls.to_owned()
}

/// For an album of two photos by URL, without a keyboard.
fn for_an_album(class: &str) -> String {
    let calls = match class {
        "held 11" => "after 11 s the same, counted",
        "UrlRefused" => "sendMediaGroup pp up +cap +mode +re +th",
        "AlbumAgain" => "a few times after 1 s the same",
        "PhotoRefused" | "MediaRefused" | "KindForbidden" | "TooBig" | "FileEmpty"
        | "AlbumRefused" | "gone" | "other" | "bug" | "TextEmpty" | "MarkupRefused" => {
            "sendPhoto url +re +th"
        }
        "ParseError" | "Entities" | "TextTooLong" | "CaptionTooLong" => {
            "sendMediaGroup pp url +cap +re +th"
        }
        "ReplyGone" => "sendMediaGroup pp url +cap +mode +th",
        "ThreadGone" => "sendMediaGroup pp url +cap +mode +re",
        "Migrated(-1001234567890)" => "sendMediaGroup pp url +cap +mode +th @-1001234567890",
        class => return for_a_photo(class),
    };
    calls.to_owned()
}

/// For the status message turned into a photo.
fn for_an_edit(class: &str) -> String {
    let calls = match class {
        "unknown" | "broke" => "after 5 s the same",
        "superseded" => "a few times after 2 s the same",
        "not modified" | "already sent" => "finished",
        "EditGone" | "EditRefused" | "NoCaptionInMessage" => "sendPhoto url +cap +mode +kb +re +th",
        // Media cannot be refused for that, but if it is: the caption is where a text would go.
        "NoTextInMessage" => "the same",
        "UrlRefused" => "editMessageMedia photo up +cap +mode +kb",
        "PhotoRefused" | "MediaRefused" | "KindForbidden" => {
            "editMessageMedia document up +cap +mode +kb"
        }
        "TooBig" => "editMessageText link +kb",
        "ParseError" | "Entities" | "TextTooLong" | "CaptionTooLong" => {
            "editMessageMedia photo url +cap +kb"
        }
        "MarkupRefused" => "editMessageMedia photo url +cap +mode",
        "ReplyGone" | "ThreadGone" => "the same",
        "Migrated(-1001234567890)" => "sendPhoto url +cap +mode +kb +th @-1001234567890",
        "AlbumRefused" | "gone" | "other" => "sendPhoto up +cap +mode +kb +re +th",
        class => return for_a_photo(class),
    };
    calls.to_owned()
}

#[test]
fn every_error_text_leads_to_its_action_on_a_send_an_album_and_an_edit() {
    let (one, two) = ([photo()], [photo(), photo()]);
    let edit = rich();
    let fresh = Target {
        status_message_id: None,
        ..rich()
    };
    let plain = Target {
        reply_markup: None,
        ..fresh.clone()
    };
    let mut seen = 0;
    let rows = ROWS
        .lines()
        .filter(|row| !row.is_empty() && !row.starts_with('#'));
    for row in rows {
        let columns: Vec<&str> = row.split('\t').collect();
        let [name, status, text, class] = columns[..] else {
            panic!("not four columns: {row}")
        };
        let status: u16 = status.parse().unwrap();
        let body = match text {
            "-" => String::new(),
            "html" => "<html><title>Bad</title></html>".to_owned(),
            text => {
                let (text, parameters) = text.split_once(" | ").unwrap_or((text, "null"));
                let parameters: Value = serde_json::from_str(parameters).unwrap();
                json!({"ok": false, "error_code": status, "description": text, "parameters": parameters})
                    .to_string()
            }
        };
        let (only_edit, class) = match class.strip_prefix("edit ") {
            Some(class) => (true, class),
            None => (false, class),
        };
        let refusal = |editing| classify(status, None, body.as_bytes(), editing);
        if !only_edit {
            let done = action(&parcel(&one, &fresh), refusal(false));
            assert_eq!(done, for_a_photo(class), "a photo, row {name}: {text}");
            let done = action(&parcel(&two, &plain), refusal(false));
            assert_eq!(done, for_an_album(class), "an album, row {name}: {text}");
            if text.starts_with("Bad Request: ") && status == 400 && text.len() < 90 {
                // As one of its items brings it.
                let (bare, parameters) = text.split_once(" | ").unwrap_or((text, "null"));
                let wrapped = format!(
                    "Bad Request: failed to send message #2 with the error message \"{bare}\""
                );
                let parameters: Value = serde_json::from_str(parameters).unwrap();
                let body = json!({"ok": false, "error_code": 400, "description": wrapped, "parameters": parameters});
                let refusal = classify(400, None, body.to_string().as_bytes(), false);
                let wanted = match class.strip_prefix("wait ") {
                    Some(seconds) => {
                        let seconds: u64 = seconds.parse().unwrap();
                        format!("after {} s the same, counted", seconds.max(5))
                    }
                    None => for_an_album(class),
                };
                let done = action(&parcel(&two, &plain), refusal);
                if !text.contains("failed to send message") {
                    assert_eq!(done, wanted, "inside an album, row {name}: {text}");
                }
            }
        }
        // A send's "MESSAGE_ID_INVALID" means the reply.
        if name != "send_id_invalid" {
            let done = action(&parcel(&one, &edit), refusal(true));
            assert_eq!(done, for_an_edit(class), "an edit, row {name}: {text}");
        }
        seen += 1;
    }
    assert!(seen > 150, "only {seen} rows were read");
}
