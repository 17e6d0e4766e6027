//! A JSON object taken apart into its known fields without reading their values, and the few checks
//! on one value. It is apart from `spec` because the names and the wording of every error come from
//! here: `<field path>: expected <rule>, found <what>`, one line, never more than 300 characters, and
//! of the entry itself only numbers and words of an enumeration, clipped.

use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// A value, or the whole error line.
pub(super) type Checked<T> = Result<T, String>;

const MAX_ERROR: usize = 300;
const MAX_ECHO: usize = 32;
/// Room for the known fields of one object.
const MAX_FIELDS: usize = 16;

/// The known fields of an object, and what stands before their names in errors.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) prefix: &'static str,
    pub(super) names: &'static [&'static str],
}

/// Where the known fields of one object lie.
pub(super) struct Fields<'a> {
    shape: Shape,
    values: [Option<&'a RawValue>; MAX_FIELDS],
    twice: Option<&'static str>,
}

impl<'a> Fields<'a> {
    /// Takes `text`, which must be one JSON object and nothing else, apart.
    pub(super) fn read(text: &'a str, shape: Shape) -> serde_json::Result<Fields<'a>> {
        debug_assert!(shape.names.len() <= MAX_FIELDS);
        let fields = Fields {
            shape,
            values: [None; MAX_FIELDS],
            twice: None,
        };
        let mut json = serde_json::Deserializer::from_str(text);
        let fields = json.deserialize_map(fields)?;
        json.end()?;
        Ok(fields)
    }

    /// A known field, given or not.
    pub(super) fn get(&self, key: &'static str) -> Field<'a> {
        let place = self.shape.names.iter().position(|known| *known == key);
        debug_assert!(place.is_some(), "{key} is not among the known fields");
        Field {
            prefix: self.shape.prefix,
            key,
            raw: place.and_then(|place| self.values[place]),
        }
    }

    /// Refuses the object if a known field was given twice.
    pub(super) fn no_twice(&self) -> Checked<()> {
        match self.twice {
            Some(key) => Err(self.get(key).named("given twice")),
            None => Ok(()),
        }
    }
}

/// The pass over the keys. Values are skipped by serde_json without recursion.
impl<'de> Visitor<'de> for Fields<'de> {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut seen = [false; MAX_FIELDS];
        while let Some(key) = map.next_key::<&RawValue>()? {
            let Some(place) = self.shape.names.iter().position(|known| names(key, known)) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value::<&RawValue>()?;
            if seen[place] {
                self.twice = self.twice.or(Some(self.shape.names[place]));
                // Two different values: no one knows which was meant, so a dead letter keeps neither.
                self.values[place] = self.values[place].filter(|first| first.get() == value.get());
            } else {
                self.values[place] = Some(value);
            }
            seen[place] = true;
        }
        Ok(self)
    }
}

/// Whether a key, as written in the JSON, is this name; it may be escaped.
fn names(key: &RawValue, name: &str) -> bool {
    let quoted = key.get();
    match quoted.get(1..quoted.len() - 1) {
        Some(plain) if !plain.contains('\\') => plain == name,
        // A key that is no Unicode text (a lone surrogate) is an unknown one.
        _ => serde_json::from_str::<Cow<'_, str>>(quoted).is_ok_and(|key| key == name),
    }
}

/// One field with its name.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    prefix: &'static str,
    key: &'static str,
    raw: Option<&'a RawValue>,
}

impl<'a> Field<'a> {
    /// Its value; null counts as not given.
    pub(super) fn given(self) -> Option<&'a RawValue> {
        self.raw.filter(|raw| raw.get() != "null")
    }

    /// An error line with the field's path in front.
    pub(super) fn named(self, wrong: &str) -> String {
        clipped(format!("{}{}: {wrong}", self.prefix, self.key))
    }

    /// The error for a value that is what `found` says.
    pub(super) fn wrong<T>(self, expected: &str, found: &str) -> Checked<T> {
        Err(self.named(&format!("expected {expected}, found {found}")))
    }

    /// The error that shows a number, and of anything else only its type.
    pub(super) fn refused<T>(self, expected: &str) -> Checked<T> {
        match self.raw {
            None => self.wrong(expected, "nothing"),
            Some(raw) if type_name(raw) == "a number" => {
                self.wrong(expected, &clip(raw.get(), MAX_ECHO))
            }
            Some(raw) => self.wrong(expected, type_name(raw)),
        }
    }

    /// A string, unescaped.
    pub(super) fn string(self, expected: &str) -> Checked<Option<Cow<'a, str>>> {
        let Some(raw) = self.given() else {
            return Ok(None);
        };
        let text = raw.get();
        if !text.starts_with('"') {
            return self.refused(expected);
        }
        let inner = &text[1..text.len() - 1];
        if !inner.contains('\\') {
            return Ok(Some(Cow::Borrowed(inner)));
        }
        match serde_json::from_str::<String>(text) {
            Ok(text) => Ok(Some(Cow::Owned(text))),
            Err(_) => self.wrong(expected, "a string with half a surrogate pair"),
        }
    }

    /// An integer within bounds, both included.
    pub(super) fn integer(self, least: i64, most: i64) -> Checked<Option<i64>> {
        let Some(raw) = self.given() else {
            return Ok(None);
        };
        match integer_text(raw).and_then(|text| text.parse().ok()) {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => self.refused(&format!("an integer from {least} to {most}")),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(self) -> Checked<Option<bool>> {
        match self.given().map(RawValue::get) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => self.refused("true or false"),
        }
    }

    /// One word of an enumeration, spelled exactly.
    pub(super) fn word<T: Copy>(self, words: &[(&'static str, T)]) -> Checked<Option<T>> {
        let list = || {
            words
                .iter()
                .map(|(word, _)| *word)
                .collect::<Vec<_>>()
                .join(", ")
        };
        if self.given().is_some_and(|raw| !raw.get().starts_with('"')) {
            return self.refused(&format!("one of {}", list()));
        }
        let Some(text) = self.string("a string")? else {
            return Ok(None);
        };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => self.wrong(
                &format!("one of {}", list()),
                &format!("{:?}", clip(&text, MAX_ECHO)),
            ),
        }
    }

    /// An object, taken apart.
    pub(super) fn object(self, shape: Shape) -> Checked<Option<Fields<'a>>> {
        let Some(raw) = self.given() else {
            return Ok(None);
        };
        match Fields::read(raw.get(), shape) {
            Ok(fields) => Ok(Some(fields)),
            Err(_) => self.refused("an object"),
        }
    }
}

/// The digits of a JSON integer; `None` for every other value, also `600.0` and `6e2`.
pub(super) fn integer_text(raw: &RawValue) -> Option<&str> {
    let text = raw.get();
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.bytes().all(|b| b.is_ascii_digit()).then_some(text)
}

/// The JSON type of a value.
pub(super) fn type_name(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// Cuts an error to its longest length.
pub(super) fn clipped(error: String) -> String {
    match clip(&error, MAX_ERROR) {
        Cow::Borrowed(_) => error,
        Cow::Owned(short) => short,
    }
}

/// At most `most` characters, the last of them an ellipsis where something was cut.
fn clip(text: &str, most: usize) -> Cow<'_, str> {
    if text.chars().nth(most).is_none() {
        return Cow::Borrowed(text);
    }
    let kept = text.chars().take(most - 1);
    Cow::Owned(kept.chain(std::iter::once('…')).collect())
}
