//! How commands show things to people: plain tables, spans and times, and data of jobs as harmless text.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use std::time::Duration;

pub(super) fn plain_table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(heads.iter().copied());
    table
}

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
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}

/// Columns to print in: the terminal's, or what a page of text has.
pub(super) fn width() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col >= 20 => usize::from(size.ws_col).min(160),
        _ => 100,
    }
}

/// The time of day, UTC.
pub(super) fn time_of_day(ms: i64) -> String {
    clock(ms).get(11..19).unwrap_or_default().to_owned()
}
