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
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
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
