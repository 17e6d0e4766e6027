//! Any entry: no panic, an error that names its field, a job that holds what was pushed.

use super::*;
use crate::fuzz::{Outcome, Target as Fuzz, hold};

/// Fields whose error may show the word that was found.
const ENUMERATIONS: [&str; 7] = [
    "priority",
    "via",
    "fal.priority",
    "telegram.send_as",
    "telegram.parse_mode",
    "telegram.ping",
    "telegram.lang",
];

fn any_entry(entry: &[u8]) -> Outcome {
    hold!(raw_excerpt(entry).len() <= MAX_EXCERPT, "a long excerpt");
    match parse(entry, Some(NOW)) {
        Ok(spec) => taken(entry, &spec),
        Err(invalid) => refused(entry, &invalid),
    }
}

fn taken(entry: &[u8], spec: &Spec) -> Outcome {
    let text = std::str::from_utf8(entry).map_err(|_| "taken, and no UTF-8".to_owned())?;
    hold!(entry.len() <= MAX_ENTRY, "taken with {} bytes", entry.len());
    let input = spec.input.get();
    hold!(
        text.contains(input),
        "the input is not what was pushed: {input}"
    );
    hold!(
        input.starts_with('{') && input.ends_with('}'),
        "no object: {input}"
    );
    hold!(Model::new(spec.model.as_str()).is_ok(), "{:?}", spec.model);
    hold!(
        spec.model.as_str().starts_with(spec.model.stem()),
        "{:?}",
        spec.model
    );
    let kept = [
        spec.meta.as_ref(),
        spec.telegram
            .as_ref()
            .and_then(|to| to.reply_markup.as_ref()),
        spec.telegram
            .as_ref()
            .and_then(|to| to.status_markup.as_ref()),
    ];
    for raw in kept.into_iter().flatten() {
        hold!(text.contains(raw.get()), "not as it was pushed: {raw}");
    }
    if let Some(user) = &spec.user {
        hold!((1..=128).contains(&user.len()), "user {user:?}");
        hold!(!user.contains(char::is_control), "user {user:?}");
    }
    // Read again from the record, when time has gone on, and after it was written anew: the same job.
    let again =
        parse(entry, None).map_err(|invalid| format!("later refused: {}", invalid.error))?;
    hold!(
        format!("{again:?}") == format!("{spec:?}"),
        "read differently later: {again:?}"
    );
    let rebuilt = rebuilt(spec);
    if rebuilt.len() <= MAX_ENTRY {
        let again = parse(rebuilt.as_bytes(), Some(NOW)).map_err(|invalid| {
            format!("refused when written anew: {}\n{rebuilt}", invalid.error)
        })?;
        hold!(
            format!("{again:?}") == format!("{spec:?}"),
            "written anew it differs: {rebuilt}"
        );
    }
    let told = spec.telegram.as_ref().map(Target::to_tell_json);
    if let (Some(told), Some(to)) = (told, &spec.telegram) {
        let back =
            Target::from_tell_json(&told).ok_or_else(|| format!("cannot be told: {told}"))?;
        hold!(
            back.chat == to.chat && back.lang == to.lang,
            "told elsewhere: {told}"
        );
        hold!(
            back.status_message_id == to.status_message_id,
            "told elsewhere: {told}"
        );
    }
    Ok(format!(
        "taken {:?} {:?} {} {}",
        spec.priority,
        spec.via,
        spec.telegram.is_some(),
        spec.meta.is_some()
    ))
}

fn refused(entry: &[u8], invalid: &Invalid) -> Outcome {
    let error = &invalid.error;
    let (field, wrong) = error
        .split_once(": ")
        .ok_or_else(|| format!("no field in: {error}"))?;
    let known = |shape: &Shape| {
        let name = field.strip_prefix(shape.prefix);
        name.is_some_and(|name| shape.names.contains(&name))
    };
    hold!(
        field == "(entry)"
            || field.starts_with("input_files.")
            || [JOB, FAL, TELEGRAM].iter().any(known),
        "no field: {error}"
    );
    hold!(
        error.chars().count() <= 300,
        "{} characters: {error}",
        error.chars().count()
    );
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202e}');
    hold!(!error.contains(breaks), "no single line: {error:?}");
    // The name of a file is the bot's own, and is what the error has to name.
    let said = match field.starts_with("input_files.") {
        true => wrong,
        false => error.as_str(),
    };
    hold!(
        ENUMERATIONS.contains(&field) || !said.contains(hostile::SECRET),
        "echoes the input: {error}"
    );
    if let Some(model) = &invalid.model {
        hold!(Model::new(model).is_ok(), "model {model:?}");
    }
    if let Some(user) = &invalid.user {
        hold!((1..=128).contains(&user.len()), "user {user:?}");
    }
    if let Some(meta) = &invalid.meta {
        let text = String::from_utf8_lossy(entry);
        hold!(
            text.contains(meta.get()),
            "meta is not what was pushed: {meta}"
        );
    }
    if let Some(to) = &invalid.tell {
        let told = to.to_tell_json();
        let back =
            Target::from_tell_json(&told).ok_or_else(|| format!("cannot be told: {told}"))?;
        hold!(back.chat == to.chat, "told elsewhere: {told}");
    }
    // Numbers differ in every error; what was expected, and what kind of thing was found, does not.
    let found = wrong.rsplit_once("found ").map_or("", |(_, found)| found);
    let found: String = found
        .chars()
        .filter(|c| c.is_ascii_alphabetic())
        .take(12)
        .collect();
    Ok(format!(
        "{field} {found} {} {}",
        invalid.id.is_some(),
        invalid.tell.is_some()
    ))
}

/// The job written anew, every field of it.
fn rebuilt(spec: &Spec) -> String {
    let mut members = Vec::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            members.push(format!("\"{name}\":{value}"));
        }
    };
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let word = |word: &str| Some(format!("\"{word}\""));
    let seconds = |at: Option<UnixMs>| at.map(|at| (at.0 / 1000).to_string());
    put("id", spec.id.as_ref().map(|id| quoted(id.as_str())));
    put("model", Some(quoted(spec.model.as_str())));
    put("input", Some(spec.input.get().to_owned()));
    put("user_id", spec.user.as_deref().map(quoted));
    put("priority", word(spec.priority.as_str()));
    put("timeout_s", spec.timeout_s.map(|n| n.to_string()));
    put("max_attempts", spec.max_attempts.map(|n| n.to_string()));
    put("repay", Some(spec.repay.to_string()));
    put("not_before", seconds(spec.not_before));
    put("expires_at", seconds(spec.expires_at));
    put(
        "via",
        word(if spec.via == Via::Direct {
            "direct"
        } else {
            "queue"
        }),
    );
    let ids: Vec<String> = (spec.files.files()).map(|(_, id)| id.to_owned()).collect();
    put(
        "input_files",
        (!ids.is_empty()).then(|| spec.files.fill("{}", &ids)),
    );
    put("meta", spec.meta.as_ref().map(|raw| raw.get().to_owned()));
    let mut fal = Vec::new();
    let mut put_fal = |name: &str, value: Option<String>| {
        fal.extend(value.map(|value| format!("\"{name}\":{value}")));
    };
    let low = |low| if low { "\"low\"" } else { "\"normal\"" }.to_owned();
    put_fal("priority", spec.fal.low_priority.map(low));
    put_fal("store_io", spec.fal.store_io.map(|on| on.to_string()));
    put_fal("fallback", spec.fal.fallback.map(|on| on.to_string()));
    put_fal(
        "object_lifetime_s",
        spec.fal.object_lifetime_s.map(|n| n.to_string()),
    );
    put_fal("runner_hint", spec.fal.runner_hint.as_deref().map(quoted));
    put("fal", Some(format!("{{{}}}", fal.join(","))));
    put(
        "telegram",
        spec.telegram.as_ref().map(|to| target_again(to, quoted)),
    );
    format!("{{{}}}", members.join(","))
}

fn target_again(to: &Target, quoted: impl Fn(&str) -> String) -> String {
    let mut members = Vec::new();
    let mut put = |name: &str, value: Option<String>| {
        members.extend(value.map(|value| format!("\"{name}\":{value}")));
    };
    let number = |id: Option<i64>| id.map(|id| id.to_string());
    put("chat_id", Some(serde_json::to_string(&to.chat).unwrap()));
    put("status_message_id", number(to.status_message_id));
    put("message_thread_id", number(to.message_thread_id));
    put("reply_to_message_id", number(to.reply_to_message_id));
    put(
        "send_as",
        Some(format!("{:?}", to.send_as).to_lowercase()).map(|word| quoted(&word)),
    );
    put("caption", to.caption.as_deref().map(&quoted));
    put(
        "parse_mode",
        to.parse_mode.map(|mode| quoted(mode.as_str())),
    );
    put(
        "reply_markup",
        to.reply_markup.as_ref().map(|raw| raw.get().to_owned()),
    );
    put(
        "status_markup",
        to.status_markup.as_ref().map(|raw| raw.get().to_owned()),
    );
    put(
        "disable_notification",
        Some(to.disable_notification.to_string()),
    );
    put("protect_content", Some(to.protect_content.to_string()));
    put("has_spoiler", Some(to.has_spoiler.to_string()));
    put(
        "ping",
        Some(format!("{:?}", to.ping).to_lowercase()).map(|word| quoted(&word)),
    );
    put("lang", to.lang.map(|lang| quoted(lang.as_str())));
    format!("{{{}}}", members.join(","))
}

#[test]
fn any_entry_is_a_job_as_it_was_pushed_or_an_error_that_names_a_field() {
    let hostile = hostile::entries().into_iter().map(|(_, entry, _)| entry);
    let good = hostile::good_entries().into_iter().map(|(_, entry)| entry);
    Fuzz::new("job")
        .seeds(hostile.filter(|entry| entry.len() <= 8 << 10))
        .seeds(good.filter(|entry| entry.len() <= 8 << 10))
        .words([JOB, FAL, TELEGRAM].iter().flat_map(|shape| shape.names))
        .words([
            "high",
            "low",
            "default",
            "queue",
            "direct",
            "normal",
            "HTML",
            "MarkdownV2",
            "Markdown",
        ])
        .words([
            "auto",
            "photo",
            "always",
            "never",
            "en",
            "ru",
            "@channel",
            "owner/name",
            "a/../b",
        ])
        .run(any_entry);
}
