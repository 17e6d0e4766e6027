//! How commands show things to people: plain tables, spans and times, and data of jobs as harmless text.

use crate::job::UnixMs;
use crate::report;
use crate::store::view::{EventView, field};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::Value;
use std::time::Duration;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A span as people read it: two units at most.
pub(super) fn short(span: Duration) -> String {
    if span < Duration::from_secs(10) {
        return format!("{:.1}s", span.as_secs_f64());
    }
    let s = span.as_secs();
    let two = |large: u64, of: &str, small: u64, rest: &str| match small {
        0 => format!("{large}{of}"),
        _ => format!("{large}{of} {small}{rest}"),
    };
    match s {
        0..60 => format!("{s}s"),
        60..3600 => two(s / 60, "m", s % 60, "s"),
        3600..86_400 => two(s / 3600, "h", s % 3600 / 60, "m"),
        _ => two(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

pub(super) fn clock(ms: i64) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_millis(ms.max(0).unsigned_abs());
    humantime::format_rfc3339_millis(at).to_string()
}

/// Data of a job on a terminal: control characters as what they are.
pub(super) fn visible(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if report::misleads(c) {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}

/// JSON in a line of its own: what its strings may hold and a terminal would obey is escaped.
pub(super) fn json_line(value: &Value) -> String {
    let mut line = String::new();
    for c in value.to_string().chars() {
        if report::misleads(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                line += &format!("\\u{unit:04x}");
            }
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

/// Rows under their heads, two spaces between columns, nothing wrapped: a row stays a line. What is longer than
/// `width` is cut, with a mark.
pub(super) fn columns(heads: &[&str], rows: &[Vec<String>], width: usize) -> String {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(heads.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        // Numbers stand under each other by their ends.
        let mut cells = rows.iter().filter_map(|row| row.get(place));
        let is_number = |cell: &String| cell == "-" || cell.parse::<u64>().is_ok();
        if cells.clone().any(|cell| cell != "-") && cells.all(is_number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines = table.to_string();
    lines
        .lines()
        .map(|line| format!("{}\n", cut(line.trim_end(), width)))
        .collect()
}

/// At most so many columns of a terminal; a mark stands for the rest.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let kept = text.chars().take_while(|c| {
        let broad = c.width().unwrap_or(0);
        let fits = broad <= left;
        left = left.saturating_sub(broad);
        fits
    });
    kept.collect::<String>() + "…"
}

/// What an event says beside its time, name, job, user and model, in words. Where a file lies, and `meta`, are
/// left to those who ask for them.
pub(super) fn event_words(event: &EventView) -> String {
    let of = |name: &str| {
        Some(field(event, name))
            .filter(|value| !value.is_empty())
            .map(visible)
    };
    let mut parts: Vec<String> = Vec::new();
    if let Some(attempt) = of("attempt").filter(|attempt| attempt != "0") {
        parts.push(format!("attempt {attempt}"));
    }
    if let Some(state) = of("state") {
        parts.push(format!("the first one is {state}"));
    }
    match (of("kind"), of("error")) {
        (Some(kind), Some(error)) => parts.push(format!("{kind}: {error}")),
        (Some(text), None) | (None, Some(text)) => parts.push(text),
        (None, None) => {}
    }
    if let Ok(ms) = field(event, "ms").parse::<u64>() {
        parts.push(format!("took {}", short(Duration::from_millis(ms))));
    }
    if let Some(charged) = of("charged") {
        parts.push(match charged.as_str() {
            "no" => "not charged".to_owned(),
            "yes" => "charged".to_owned(),
            _ => "charged: unknown".to_owned(),
        });
    }
    if let Some(units) = of("units") {
        parts.push(format!("{units} units"));
    }
    if let Ok(files) = serde_json::from_str::<Vec<serde_json::Value>>(field(event, "files")) {
        parts.push(if files.len() == 1 {
            "1 file".to_owned()
        } else {
            format!("{} files", files.len())
        });
    }
    if let Some(ids) = of("message_ids").filter(|ids| ids != "[]") {
        parts.push(format!("messages {ids}"));
    }
    if let Some(request) = of("request_id") {
        parts.push(format!("request {request}"));
    }
    let said = [
        "event",
        "job",
        "user",
        "model",
        "at",
        "attempt",
        "state",
        "kind",
        "error",
        "ms",
        "charged",
        "units",
        "files",
        "message_ids",
        "file_ids",
        "request_id",
        "meta",
    ];
    let (_, fields) = event;
    let others = fields
        .iter()
        .filter(|(name, _)| !said.contains(&name.as_str()));
    parts.extend(others.map(|(name, value)| format!("{} {}", visible(name), visible(value))));
    parts.join(", ")
}

/// Columns to print in: the terminal's, or what a page of text has.
pub(super) fn width() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col >= 20 => usize::from(size.ws_col).min(160),
        _ => 100,
    }
}

/// Rows of the terminal.
pub(super) fn height() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row >= 2 => usize::from(size.ws_row),
        _ => 24,
    }
}

/// The time of day, UTC.
pub(super) fn time_of_day(ms: i64) -> String {
    clock(ms).get(11..19).unwrap_or_default().to_owned()
}

/// Minutes are enough: `22:52 UTC`, with the day where it is another than today's.
pub(super) fn moment(at: UnixMs, now: UnixMs) -> String {
    let (text, today) = (clock(at.0), clock(now.0));
    let (day, minute) = (text.get(..10), text.get(11..16).unwrap_or_default());
    match day {
        Some(day) if today.get(..10) != Some(day) => format!("{day} {minute} UTC"),
        _ => format!("{minute} UTC"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_two_units_at_most() {
        for (ms, text) in [
            (0, "0.0s"),
            (9_949, "9.9s"),
            (10_000, "10s"),
            (60_000, "1m"),
            (125_000, "2m 5s"),
            (3_600_000, "1h"),
            (3_725_000, "1h 2m"),
            (90_000_000, "1d 1h"),
        ] {
            assert_eq!(short(Duration::from_millis(ms)), text, "{ms}");
        }
    }

    #[test]
    fn a_moment_of_another_day_names_the_day() {
        let now = UnixMs(1_795_694_400_000); // 2026-11-26 12:00:00 UTC
        for (away, text) in [
            (-60_000, "11:59 UTC"),
            (600_000, "12:10 UTC"),
            (86_400_000, "2026-11-27 12:00 UTC"),
            (-12 * 3_600_000 - 1, "2026-11-25 23:59 UTC"),
        ] {
            assert_eq!(moment(UnixMs(now.0 + away), now), text, "{away}");
        }
    }

    #[test]
    fn a_text_is_cut_to_the_columns_it_takes() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
        assert_eq!(cut("貓貓貓", 6), "貓貓貓");
        assert_eq!(cut("貓貓貓", 5), "貓貓…");
        assert_eq!(cut("貓貓貓", 4), "貓…");
        assert_eq!(cut("abc", 0), "…");
    }

    #[test]
    fn rows_stay_lines_and_numbers_end_under_each_other() {
        let rows = [["a", "5"], ["bb", "120"], ["c", "-"]];
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect())
            .collect();
        let text = columns(&["ID", "N"], &rows, usize::MAX);
        assert_eq!(text, "ID    N\na     5\nbb  120\nc     -\n");
        assert!(
            columns(&["ID", "N"], &rows, 4)
                .lines()
                .all(|line| line.width() <= 4)
        );
    }

    #[test]
    fn control_characters_are_shown_as_what_they_are() {
        assert_eq!(visible("a\u{1b}[31m\nb貓"), "a\\u{1b}[31m\\nb貓");
        let value = serde_json::json!({"a": "\u{9b}2J\u{7f}\u{202e}\u{e0001}\n貓"});
        let line = json_line(&value);
        assert_eq!(
            line,
            "{\"a\":\"\\u009b2J\\u007f\\u202e\\udb40\\udc01\\n貓\"}\n"
        );
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read, value);
    }
}
