//! A JSON object taken apart one level deep, in document order (a `serde_json::Value` would sort its
//! members), whatever they hold: an echoed input may have numbers and depths that no fixed type survives.
//! Names are borrowed from the text unless they are escaped in it: every answer of fal passes here.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Members of one object, as they stand in it.
#[derive(Clone)]
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// What most objects of a result have at most.
const USUAL: usize = 8;

impl<'a> Members<'a> {
    /// Of the whole text, which must be one object.
    pub(super) fn read(json: &'a str) -> Option<Members<'a>> {
        serde_json::from_str(json).ok()
    }

    /// The same of bytes that may not even be UTF-8.
    pub(super) fn of_bytes(json: &'a [u8]) -> Option<Members<'a>> {
        Members::read(std::str::from_utf8(json).ok()?) // seen once, not at each text in it
    }

    /// Of one value; `None` if it is no object.
    pub(super) fn of(raw: &'a RawValue) -> Option<Members<'a>> {
        raw.get()
            .starts_with('{')
            .then(|| Members::read(raw.get()))?
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, raw)| (&**name, *raw))
    }

    /// The last of this name: what is given twice means what was said last.
    pub(super) fn last(&self, name: &str) -> Option<&'a RawValue> {
        let of_that_name = |(key, _): &&(Cow<str>, _)| key == name;
        self.0.iter().rfind(of_that_name).map(|(_, raw)| *raw)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Collect)
    }
}

struct Collect;

impl<'de> Visitor<'de> for Collect {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(USUAL);
        while let Some((Text(name), value)) = map.next_entry()? {
            members.push((name, value));
        }
        Ok(Members(members))
    }
}

/// A string, read; `None` if it is none.
pub(super) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let is_string = raw.get().starts_with('"');
    let text: Text = is_string.then(|| serde_json::from_str(raw.get()).ok())??;
    Some(text.0)
}

/// The same, with a mark in place of each half of a character, which no Rust string can hold.
pub(super) fn lossy(raw: &RawValue) -> Option<String> {
    let is_string = raw.get().starts_with('"');
    let Lossy(text) = is_string.then(|| serde_json::from_str(raw.get()).ok())??;
    Some(text)
}

struct Lossy(String);

impl<'de> Deserialize<'de> for Lossy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_bytes(Halves)
    }
}

struct Halves;

impl Visitor<'_> for Halves {
    type Value = Lossy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        // Such a half comes as three bytes, none of which is text.
        let text = String::from_utf8_lossy(bytes);
        Ok(Lossy(text.replace("\u{fffd}\u{fffd}\u{fffd}", "\u{fffd}")))
    }
}

/// serde's own `Cow` is never borrowed.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Borrow)
    }
}

struct Borrow;

impl<'de> Visitor<'de> for Borrow {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_in_the_order_of_the_text_and_their_names_are_read() {
        let members = Members::read(r#" {"b":1e400,"\u0061":[ 1 ],"b":null} "#).unwrap();
        let shown: Vec<_> = members
            .iter()
            .map(|(name, raw)| (name, raw.get()))
            .collect();
        assert_eq!(shown, [("b", "1e400"), ("a", "[ 1 ]"), ("b", "null")]);
        assert_eq!(members.last("b").map(RawValue::get), Some("null"));
        assert!(members.last("c").is_none());
    }

    #[test]
    fn a_string_is_borrowed_where_nothing_in_it_is_escaped() {
        let of = |json| text(serde_json::from_str::<&RawValue>(json).unwrap());
        assert!(matches!(of(r#""plain ä""#), Some(Cow::Borrowed("plain ä"))));
        assert_eq!(of(r#""\u0061\n""#).as_deref(), Some("a\n"));
        for other in [r#""\ud800""#, "1", "null", "{}"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn half_a_character_costs_no_more_than_itself() {
        let of = |json| lossy(serde_json::from_str::<&RawValue>(json).unwrap());
        let cut = r#""cut \ud83d\u0021 \ud83d\ude00 ä\udc00""#;
        assert_eq!(of(cut).as_deref(), Some("cut \u{fffd}! 😀 ä\u{fffd}"));
        for other in ["1", "null", "{}", "[65]"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_object_has_no_members() {
        for text in ["", "[]", "1", "\"{}\"", "{", "{}x", r#"{"\ud800":1}"#] {
            assert!(Members::read(text).is_none(), "{text}");
        }
        assert!(Members::of_bytes(b"{\"a\":\"\xff\"}").is_none());
    }
}
