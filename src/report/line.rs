//! One line from a sentence and its fields, so that no job can forge another: whatever could end a line,
//! turn its direction or pass for a field is escaped.

use crate::job::failure::Kind;
use crate::job::{Charged, JobId, Phase, RequestId};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

/// A value as it goes into a line.
pub enum Shown<'a> {
    /// Text: quoted where it needs it.
    Text(Cow<'a, str>),
    /// A number: bare in JSON too.
    Number(String),
    /// The field is left out.
    Absent,
}

/// What may stand behind a key.
pub trait Value {
    /// How it is shown.
    fn shown(&self) -> Shown<'_>;
}

impl Value for str {
    fn shown(&self) -> Shown<'_> {
        Shown::Text(Cow::Borrowed(self))
    }
}

impl Value for String {
    fn shown(&self) -> Shown<'_> {
        Shown::Text(Cow::Borrowed(self))
    }
}

impl<V: Value + ?Sized> Value for &V {
    fn shown(&self) -> Shown<'_> {
        (**self).shown()
    }
}

/// `None` leaves the field out.
impl<V: Value> Value for Option<V> {
    fn shown(&self) -> Shown<'_> {
        self.as_ref().map_or(Shown::Absent, Value::shown)
    }
}

/// Seconds, to the millisecond: its key ends in `_s`.
impl Value for Duration {
    fn shown(&self) -> Shown<'_> {
        Shown::Number(format!("{:.3}", self.as_secs_f64()))
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Value for $number {
            fn shown(&self) -> Shown<'_> {
                Shown::Number(self.to_string())
            }
        }
    )*};
}
numbers!(u16 u32 u64 usize i32 i64);

macro_rules! words {
    ($($word:ty: $as_str:expr;)*) => {$(
        impl Value for $word {
            fn shown(&self) -> Shown<'_> {
                let as_str: fn(&$word) -> &str = $as_str;
                Shown::Text(Cow::Borrowed(as_str(self)))
            }
        }
    )*};
}
words! {
    JobId: |id| id.as_str();
    RequestId: |id| &id.0;
    Kind: |kind| kind.as_str();
    Charged: |charged| charged.as_str();
    Phase: |phase| phase.as_str();
}

/// Fields in the order they are to appear.
pub type Fields<'a> = [(&'a str, &'a dyn Value)];

/// Longest value, characters: a line stays readable, and under what the journal takes in one piece.
const LONGEST: usize = 1000;
/// What most fields take with their names.
const USUAL: usize = 40;

/// A text, cut, with every secret blacked out by `hide` before an escape could disguise it.
fn prepared(text: &str, hide: impl Fn(String) -> String) -> String {
    let mut cut: String = hide(text.to_owned());
    if let Some((end, _)) = cut.char_indices().nth(LONGEST) {
        cut.truncate(end);
        cut.push('…');
    }
    cut
}

/// `sentence key=value key="a value"`.
pub(super) fn logfmt(
    sentence: &str,
    fields: &Fields<'_>,
    hide: impl Fn(String) -> String,
) -> String {
    let mut line = String::with_capacity(sentence.len() + fields.len() * USUAL);
    escape(sentence, &mut line);
    for (key, value) in fields {
        let shown = match value.shown() {
            Shown::Absent => continue,
            Shown::Number(number) => number,
            Shown::Text(text) => quoted(prepared(&text, &hide)),
        };
        for part in [" ", key, "=", &shown] {
            line.push_str(part);
        }
    }
    line
}

/// `"message":"sentence","key":"value"`: the members of an object whose braces and head the logger adds.
pub(super) fn json_members(
    sentence: &str,
    fields: &Fields<'_>,
    hide: impl Fn(String) -> String,
) -> String {
    let mut line = format!("\"message\":{}", json_text(&prepared(sentence, &hide)));
    for (key, value) in fields {
        let own = if ["ts", "level", "message", "target"].contains(key) {
            "field_"
        } else {
            ""
        };
        match value.shown() {
            Shown::Absent => {}
            Shown::Number(number) => {
                write!(line, ",\"{own}{key}\":{number}").expect("into a String")
            }
            Shown::Text(text) => {
                let text = json_text(&prepared(&text, &hide));
                write!(line, ",\"{own}{key}\":{text}").expect("into a String");
            }
        }
    }
    line
}

/// A JSON string, with what JSON would let through but a terminal or a viewer obeys escaped as well.
pub(super) fn json_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if misleads(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("into a String");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A value: bare if it is one word that cannot be taken for anything else, else in quotes.
fn quoted(text: String) -> String {
    let plain =
        |c: char| !matches!(c, ' ' | '=' | '"' | '\\') && !c.is_whitespace() && !misleads(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    // A backslash is doubled here, and only here: inside quotes an escape is ours, never the job's.
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped(&text))
}

/// Text with everything that misleads as `\n`, `\t`, `\u{…}`.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    escape(text, &mut out);
    out
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if misleads(c) => write!(out, "\\u{{{:x}}}", c as u32).expect("into a String"),
            c => out.push(c),
        }
    }
}

/// Ends a line, moves the cursor, turns the writing direction or cannot be seen.
pub fn misleads(c: char) -> bool {
    c.is_control() // also U+0085 and the other C1 codes, which terminals obey
        || matches!(
            c,
            '\u{2028}' | '\u{2029}' // line and paragraph separators
                | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}
