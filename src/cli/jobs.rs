//! `jobs`: a list of jobs by state, user, model, kind, age and `meta`, as a table with stable columns or one JSON
//! object a line.

use super::admin::{away, kind, open, say};
use super::table::{columns, json_line, short, visible};
use super::{JobsArgs, USAGE};
use crate::config::StoreConfig;
use crate::job::UnixMs;
use crate::job::pattern::Pattern;
use crate::store::view::{FIELDS, Row};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Fields that are numbers.
const NUMBERS: [&str; 4] = ["attempt", "queued_at", "due_at", "ended_at"];

/// `jobs`.
pub(super) fn jobs(args: &JobsArgs, store: &StoreConfig) -> u8 {
    match list(args, store) {
        Ok(code) | Err(code) => code,
    }
}

fn list(args: &JobsArgs, store: &StoreConfig) -> Result<u8, u8> {
    let model = match args
        .model
        .as_deref()
        .map(|model| (model, Pattern::new(model)))
    {
        None => None,
        Some((_, Some(pattern))) => Some(pattern),
        Some((model, None)) => {
            eprintln!(
                "fal-worker: --model {model:?}: expected a model, or a pattern such as fal-ai/flux*"
            );
            return Err(USAGE);
        }
    };
    let kind = kind(args.kind.as_deref())?;
    let mut view = open(store)?;
    let now = view.now().map_err(|fault| away(&fault))?;
    let state = args.state.as_ref().map(|state| state.as_str());
    let fits = |row: &Row| {
        model
            .as_ref()
            .is_none_or(|model| model.matches(row.get("model")))
            && args
                .user
                .as_deref()
                .is_none_or(|user| row.get("user") == user)
            && kind.is_none_or(|kind| row.get("kind") == kind.as_str())
            && args
                .meta
                .as_deref()
                .is_none_or(|meta| has_meta(row.get("meta"), meta))
            && is_of_age(row, now, args.older, args.newer)
    };
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let found = view.jobs(state, most, fits).map_err(|fault| away(&fault))?;
    let mut out = String::new();
    if args.json {
        for row in &found.rows {
            out += &json_line(&as_json(row));
        }
    } else if !found.rows.is_empty() {
        out = table(&found.rows, now);
    }
    let read = say(&out);
    if read && found.rows.is_empty() && !args.json {
        eprintln!("no job fits");
    }
    if read && found.cut {
        eprintln!(
            "only the newest {} are shown: there are more (--limit)",
            found.rows.len()
        );
    }
    Ok(0)
}

fn table(rows: &[Row], now: UnixMs) -> String {
    let heads = [
        "ID", "STATE", "STEP", "KIND", "MODEL", "USER", "PRIORITY", "ATTEMPT", "CHARGED", "AGE",
    ];
    let or_dash = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            visible(text)
        }
    };
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let age = row.at("queued_at").map(|at| short(at.until(now)));
            let of = |name: &str| or_dash(row.get(name));
            vec![
                visible(&row.id),
                of("state"),
                // It ends as `done` whatever came of it: what it was shows that it is no job.
                match row.get("redelivers") {
                    "" => of("phase"),
                    _ => "redeliver".to_owned(),
                },
                of("kind"),
                of("model"),
                of("user"),
                of("priority"),
                of("attempt"),
                of("charged"),
                age.unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    columns(&heads, &rows, usize::MAX)
}

/// Every field that the record has; `meta` as it was given.
fn as_json(row: &Row) -> Value {
    let mut all: Map<String, Value> = Map::new();
    all.insert("id".to_owned(), json!(row.id));
    for name in FIELDS {
        let text = row.get(name);
        if text.is_empty() {
            continue;
        }
        let value = if NUMBERS.contains(&name) {
            text.parse::<i64>()
                .map_or_else(|_| json!(text), |number| json!(number))
        } else if matches!(name, "meta" | "message_ids") {
            serde_json::from_str(text).unwrap_or_else(|_| json!(text))
        } else {
            json!(text)
        };
        all.insert(name.to_owned(), value);
    }
    Value::Object(all)
}

/// By when it came in; one of which only the id is kept has no age.
fn is_of_age(row: &Row, now: UnixMs, older: Option<Duration>, newer: Option<Duration>) -> bool {
    if older.is_none() && newer.is_none() {
        return true;
    }
    let Some(at) = row.at("queued_at") else {
        return false;
    };
    let age = at.until(now);
    older.is_none_or(|older| age >= older) && newer.is_none_or(|newer| age <= newer)
}

/// `KEY`: it has this member; `KEY=VALUE`: with this value, a text or what JSON writes for it.
fn has_meta(meta: &str, wanted: &str) -> bool {
    let Ok(Value::Object(meta)) = serde_json::from_str(meta) else {
        return false;
    };
    if meta.contains_key(wanted) {
        return true;
    }
    let mut cuts = wanted.match_indices('=').map(|(at, _)| at);
    // A key may hold the sign too.
    cuts.any(|at| {
        let (key, value) = (&wanted[..at], &wanted[at + 1..]);
        match meta.get(key) {
            Some(Value::String(text)) => text == value,
            Some(other) => serde_json::to_string(other).is_ok_and(|text| text == value),
            None => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meta_is_matched_by_key_or_by_value() {
        let meta = r#"{"order":8812,"shop":"north","a=b":"c","deep":{"x":1},"none":null}"#;
        for (wanted, fits) in [
            ("order", true),
            ("order=8812", true),
            ("order=881", false),
            ("shop=north", true),
            ("shop=\"north\"", false),
            ("a=b", true),
            ("a=b=c", true),
            ("a=c", false),
            ("deep={\"x\":1}", true),
            ("none", true),
            ("none=null", true),
            ("missing", false),
            ("missing=", false),
        ] {
            assert_eq!(has_meta(meta, wanted), fits, "{wanted}");
        }
        assert!(!has_meta("", "order"));
        assert!(!has_meta("[1]", "0"));
    }
}
