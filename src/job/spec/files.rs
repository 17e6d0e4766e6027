//! `input_files`: which members of `input` are filled with files that users sent to the bot, and how
//! their URLs get into it. The input is never parsed into values and written again, since that would
//! change numbers: members are put in as text, and everything else stays byte for byte.

use super::fields::{Checked, Field, clipped, type_name};
use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Files of one job at most.
const MAX_FILES: usize = 10;
const RULE: &str = "at most 10 files a job";
const MAX_NAME: usize = 64;
const MAX_ID: usize = 256;

/// The files of one job, in the order in which they were named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputFiles(Vec<Member>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    name: String,
    list: bool,
    ids: Vec<String>,
}

impl InputFiles {
    /// Reads the field and checks it against the `input` that it fills.
    pub(super) fn read(field: Field<'_>, input: &RawValue) -> Checked<InputFiles> {
        let Some(raw) = field.given() else {
            return Ok(InputFiles::default());
        };
        let Some(pairs) = pairs(raw.get()) else {
            return field.refused("an object");
        };
        // Before any search: of each member a search goes through the whole input, and there may be as many of them as
        // an entry has room for. Each has a file or more, or is refused.
        if pairs.len() > MAX_FILES {
            return field.wrong(RULE, "more than 10");
        }
        let taken = match pairs.is_empty() {
            true => Vec::new(),
            false => self::pairs(input.get()).unwrap_or_default(),
        };
        let mut members: Vec<Member> = Vec::new();
        for (key, value) in pairs {
            let name = text(key).filter(|name| {
                (1..=MAX_NAME).contains(&name.len())
                    && name
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
            });
            let Some(name) = name else {
                return field.wrong("members of 1-64 of [A-Za-z0-9_-]", "another name");
            };
            let wrong = |what: &str| Err(clipped(format!("input_files.{name}: {what}")));
            if members.iter().any(|member| member.name == name) {
                return wrong("given twice");
            }
            let filled = |(key, value): &(&RawValue, &RawValue)| {
                value.get() != "null" && text(key).as_deref() == Some(&*name)
            };
            if taken.iter().any(filled) {
                return wrong("input has it already");
            }
            let (list, ids) = match value.get().as_bytes().first() {
                Some(b'"') => (false, vec![value]),
                Some(b'[') => match serde_json::from_str::<Vec<&RawValue>>(value.get()) {
                    Ok(ids) if (1..=MAX_FILES).contains(&ids.len()) => (true, ids),
                    Ok(ids) => {
                        return wrong(&format!("expected 1 to 10 file ids, found {}", ids.len()));
                    }
                    Err(_) => return wrong("expected a list of file ids"),
                },
                _ => {
                    let found = type_name(value);
                    return wrong(&format!(
                        "expected a file id or a list of them, found {found}"
                    ));
                }
            };
            let ids: Option<Vec<String>> = ids.into_iter().map(file_id).collect();
            let Some(ids) = ids else {
                return wrong("expected file ids of 1-256 of [A-Za-z0-9_-], found another value");
            };
            let name = name.into_owned();
            members.push(Member { name, list, ids });
        }
        let files = InputFiles(members);
        match files.len() {
            0..=MAX_FILES => Ok(files),
            many => field.wrong(RULE, &many.to_string()),
        }
    }

    /// How many files there are in all.
    pub fn len(&self) -> usize {
        self.0.iter().map(|member| member.ids.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each file: how an error names it (`image_url`, `image_urls[1]`), and its id.
    pub fn files(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().flat_map(|member| {
            let ids = member.ids.iter().enumerate();
            ids.map(|(number, id)| {
                let name = &member.name;
                let place = if member.list {
                    format!("{name}[{number}]")
                } else {
                    name.clone()
                };
                (place, id.as_str())
            })
        })
    }

    /// The input with its members filled; `urls` in the order of [`InputFiles::files`]. Every other byte
    /// stays as it was.
    pub fn fill(&self, input: &str, urls: &[String]) -> String {
        let there = pairs(input).unwrap_or_default();
        let (mut fresh, mut nulls, mut at) = (String::new(), Vec::new(), 0);
        for member in &self.0 {
            let urls = urls.get(at..at + member.ids.len()).unwrap_or_default();
            at += member.ids.len();
            let value = if member.list {
                serde_json::to_string(urls)
            } else {
                serde_json::to_string(urls.first().map_or("", String::as_str))
            };
            let value = value.unwrap_or_default();
            // A null in its place is replaced: beside it the member would stand twice.
            let places = there.iter().filter(|(key, value)| {
                value.get() == "null" && text(key).as_deref() == Some(&*member.name)
            });
            let places: Vec<usize> = places
                .map(|(_, null)| null.get().as_ptr() as usize - input.as_ptr() as usize)
                .collect();
            if places.is_empty() {
                let comma = if fresh.is_empty() { "" } else { "," };
                fresh.push_str(&format!("{comma}\"{}\":{value}", member.name));
            }
            nulls.extend(places.into_iter().map(|place| (place, value.clone())));
        }
        if !fresh.is_empty() && !there.is_empty() {
            fresh.push(',');
        }
        nulls.sort_unstable();
        let mut out = format!("{{{fresh}");
        let mut from = 1;
        for (place, value) in nulls {
            out.push_str(&input[from..place]);
            out.push_str(&value);
            from = place + "null".len();
        }
        out + &input[from..]
    }
}

/// A string's text; `None` for what is no Unicode text.
fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let quoted = raw.get();
    match quoted.get(1..quoted.len() - 1) {
        Some(plain) if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
        _ => serde_json::from_str::<String>(quoted).ok().map(Cow::Owned),
    }
}

fn file_id(raw: &RawValue) -> Option<String> {
    let id = text(raw).filter(|_| raw.get().starts_with('"'))?;
    let fits = (1..=MAX_ID).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    fits.then(|| id.into_owned())
}

/// Keys and values of an object as they are written, values skipped without recursion.
fn pairs(json: &str) -> Option<Vec<(&RawValue, &RawValue)>> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(&'de RawValue, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    serde_json::Deserializer::from_str(json)
        .deserialize_map(Pairs)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn files(members: &[(&str, bool, usize)]) -> InputFiles {
        let member = |(name, list, n): &(&str, bool, usize)| Member {
            name: (*name).to_owned(),
            list: *list,
            ids: vec!["id".to_owned(); *n],
        };
        InputFiles(members.iter().map(member).collect())
    }

    fn urls(n: usize) -> Vec<String> {
        (0..n).map(|n| format!("https://f/{n}")).collect()
    }

    #[test]
    fn members_are_put_in_and_every_other_byte_stays() {
        let one = files(&[("image_url", false, 1)]);
        let two = files(&[("a", true, 2), ("b", false, 1)]);
        let rows = [
            ("{}", &one, r#"{"image_url":"https://f/0"}"#),
            ("{ \n}", &one, "{\"image_url\":\"https://f/0\" \n}"),
            (
                r#"{"seed":18446744073709551615,"x":1.0e+2}"#,
                &one,
                r#"{"image_url":"https://f/0","seed":18446744073709551615,"x":1.0e+2}"#,
            ),
            (
                r#"{"x":1, "image_url" : null ,"y":-0}"#,
                &one,
                r#"{"x":1, "image_url" : "https://f/0" ,"y":-0}"#,
            ),
            (
                r#"{"image_url":null,"i\u006dage_url":null}"#,
                &one,
                r#"{"image_url":"https://f/0","i\u006dage_url":"https://f/0"}"#,
            ),
            (
                r#"{"in":{"image_url":null}}"#,
                &one,
                r#"{"image_url":"https://f/0","in":{"image_url":null}}"#,
            ),
            (
                r#"{"b":null,"n":null}"#,
                &two,
                r#"{"a":["https://f/0","https://f/1"],"b":"https://f/2","n":null}"#,
            ),
            (
                r#"{"b":null,"a":null}"#,
                &two,
                r#"{"b":"https://f/2","a":["https://f/0","https://f/1"]}"#,
            ),
        ];
        for (input, files, expected) in rows {
            assert_eq!(files.fill(input, &urls(files.len())), expected);
        }
    }

    /// Some object with odd numbers, strings and spaces.
    fn object(random: &mut fastrand::Rng, depth: u32) -> String {
        let space = |random: &mut fastrand::Rng| " \n\t"[..random.usize(..3)].to_owned();
        let mut out = format!("{{{}", space(random));
        for number in 0..random.usize(..5) {
            if number > 0 {
                out.push(',');
            }
            let value = match random.u32(..7) {
                0 => random.u64(..).to_string(),
                1 => format!("-{}.{}e-{}", random.u8(..), random.u64(..), random.u8(..)),
                2 => format!("{}.000", random.u128(..)),
                3 => "null".to_owned(),
                4 => r#""\ud83d\ude00 \"{}[],:null image""#.to_owned(),
                5 if depth < 4 => object(random, depth + 1),
                _ => format!("[1,{}E5,[]]", random.u64(..)),
            };
            let key = ["image", "k", "é", r"\u0069mage2", "null"][random.usize(..5)];
            out.push_str(&format!("\"{key}\"{}:{value}", space(random)));
        }
        out + &space(random) + "}"
    }

    /// What is left of an object's text without the member that was put in.
    #[test]
    fn numbers_and_spaces_of_any_input_are_untouched() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let file = files(&[("put_in", false, 1)]);
        for _ in 0..2000 {
            let input = object(&mut random, 0);
            let filled = file.fill(&input, &urls(1));
            let rest = filled.replacen("\"put_in\":\"https://f/0\"", "", 1);
            let rest = rest.replacen("{,", "{", 1);
            assert_eq!(rest, input, "seed {seed}");
            let whole: Result<Value, _> = serde_json::from_str(&filled);
            // Numbers beyond f64 are no values of this parser, but they are JSON.
            let whole = whole.map(|value| value["put_in"] == "https://f/0");
            let raw = serde_json::from_str::<&RawValue>(&filled).is_ok();
            assert!(raw && whole.unwrap_or(true), "seed {seed}: {filled}");
        }
    }

    #[test]
    fn nulls_in_place_of_members_are_replaced_and_nothing_else() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let file = files(&[("image", true, 1), ("image2", false, 1)]);
        for _ in 0..2000 {
            let input = object(&mut random, 0);
            let filled = file.fill(&input, &urls(2));
            let (before, after) = (pairs(&input).unwrap(), pairs(&filled).unwrap());
            let ours = |key: &RawValue| matches!(text(key).as_deref(), Some("image" | "image2"));
            let others = |pairs: &[(&RawValue, &RawValue)]| -> Vec<String> {
                let others = pairs.iter().filter(|(key, _)| !ours(key));
                others.map(|(key, value)| format!("{key}{value}")).collect()
            };
            assert_eq!(others(&before), others(&after), "seed {seed}");
            for name in ["image", "image2"] {
                let there = after
                    .iter()
                    .filter(|(key, _)| text(key).as_deref() == Some(name));
                assert!(there.count() >= 1, "seed {seed}: {filled}");
            }
        }
    }
}
