//! The file of `--messages`: texts of the operator's own in place of the built-in ones, checked as a
//! whole at start, so that no user ever meets a half-written sentence. TOML, or JSON of the same shape:
//! a table a language, in it a text a name.

use crate::job::words::{Words, language};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::fs::File;
use std::io::Read as _;

/// A file that is longer is something else.
const LONGEST: u64 = 1 << 20;

/// Reads and checks the file. An error names the file, the place in it and what is allowed there.
pub(super) fn load(path: &str) -> Result<Words, String> {
    let name = super::quoted(path);
    let text = read(path).map_err(|why| format!("cannot read {name}: {why}"))?;
    parse(path, &text).map_err(|what| format!("{name}: {what}"))
}

fn read(path: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LONGEST {
        return Err("it is longer than 1 MiB".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("it is not valid UTF-8 at byte {at}")
    })?;
    Ok(text
        .strip_prefix('\u{feff}')
        .map_or_else(|| text.clone(), str::to_owned))
}

/// By its extension; where that says nothing, by its first character: no TOML begins with a brace.
fn parse(path: &str, text: &str) -> Result<Words, String> {
    let lower = path.to_lowercase();
    let is_json = lower.ends_with(".json")
        || (!lower.ends_with(".toml") && text.trim_start().starts_with('{'));
    let node: Node = if is_json {
        serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?
    } else {
        toml::from_str(text).map_err(|error| no_toml(text, &error))?
    };
    words(node)
}

/// One line, with the place as people count: the error's own text draws the line of the file below it.
fn no_toml(text: &str, error: &toml::de::Error) -> String {
    let what: Vec<&str> = error.message().split_whitespace().collect();
    let what = what.join(" ");
    let before = error.span().and_then(|span| text.get(..span.start));
    match before {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default();
            let column = column.chars().count() + 1;
            format!("no TOML: {what} at line {line} column {column}")
        }
        None => format!("no TOML: {what}"),
    }
}

fn words(node: Node) -> Result<Words, String> {
    let Node::Table(languages) = node else {
        return Err(format!(
            "it holds {}, not a table for each language",
            node.named()
        ));
    };
    let mut words = Words::default();
    let mut seen: Vec<(String, String)> = Vec::new();
    for (lang, texts) in languages {
        language(&lang)?;
        let Node::Table(texts) = texts else {
            return Err(format!(
                "[{lang}] is {}, not a table of texts",
                texts.named()
            ));
        };
        for (name, text) in texts {
            let Node::Text(text) = text else {
                // Its name first: of a wrong name the type does not matter.
                Words::default().replace(&lang, &name, "x")?;
                return Err(format!(
                    "[{lang}] {name}: a text is wanted, not {}",
                    text.named()
                ));
            };
            words.replace(&lang, &name, &text)?;
            let place = (lang.clone(), name);
            if seen.contains(&place) {
                return Err(format!("[{lang}] {}: it stands there twice", place.1));
            }
            seen.push(place);
        }
    }
    Ok(words)
}

/// What stands somewhere in the file, of either format; a name that stands twice stands twice here too.
enum Node {
    Text(String),
    Table(Vec<(String, Node)>),
    Other(&'static str),
}

impl Node {
    fn named(&self) -> &'static str {
        match self {
            Node::Text(_) => "a text",
            Node::Table(_) => "a table",
            Node::Other(name) => name,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(AnyNode)
    }
}

struct AnyNode;

impl<'de> Visitor<'de> for AnyNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a table")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Other("true or false"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Node::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry::<String, Node>()? {
            pairs.push(pair);
        }
        Ok(Node::Table(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::failure::Kind;
    use crate::job::words::Shown;
    use crate::job::{JobId, Lang};

    fn loaded(name: &str, text: &[u8]) -> Result<Words, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        load(path.to_str().unwrap())
    }

    #[test]
    fn toml_and_json_of_one_meaning_are_one() {
        let toml = "[en]\ntimeout = \"Too slow, {job}.\"\n[ru]\nqueued = \"Место {place}\"\n";
        let json = r#"{"en": {"timeout": "Too slow, {job}."}, "ru": {"queued": "Место {place}"}}"#;
        let words = loaded("words.toml", toml.as_bytes()).unwrap();
        for (name, text) in [
            ("words.json", json),
            ("WORDS.JSON", json),
            ("words", json),
            ("words.txt", toml),
            ("words", &format!("\u{feff}{toml}")),
        ] {
            assert_eq!(loaded(name, text.as_bytes()).unwrap(), words, "{name}");
        }
        let job = JobId::new("a").unwrap();
        let said = words.failure(Lang::En, Kind::Timeout, &job, "");
        assert_eq!(said, "Too slow, a.");
        let said = words.progress(Lang::Ru, Shown::Queued { place: 2 });
        assert_eq!(said, "Место 2");
        assert_eq!(loaded("empty.toml", b"").unwrap(), Words::default());
    }

    #[test]
    fn a_file_that_is_wrong_is_one_line_with_file_place_and_what_is_allowed() {
        let big = vec![b'#'; (1 << 20) + 1];
        #[rustfmt::skip]
        let table: [(&str, &[u8], &str); 20] = [
            ("a.toml", b"[de]\nready = \"x\"", "[de] is none of en, ru"),
            ("a.toml", b"ready = \"x\"", "[ready] is none of en, ru"),
            ("a.toml", b"en = \"x\"", "[en] is a text, not a table of texts"),
            ("a.toml", b"[en]\nredy = \"x\"", "[en] has \"redy\", which is none of "),
            ("a.toml", b"[en]\nredy = 1", "[en] has \"redy\", which is none of "),
            ("a.toml", b"[en]\nready = 1", "[en] ready: a text is wanted, not a number"),
            ("a.toml", b"[en]\nready = [\"x\"]", "[en] ready: a text is wanted, not a list"),
            ("a.toml", b"[en]\nready = true", "[en] ready: a text is wanted, not true or false"),
            ("a.toml", b"[en.ready]\na = \"x\"", "[en] ready: a text is wanted, not a table"),
            ("a.toml", b"[en]\nready = 1979-05-27", "[en] ready: a text is wanted, not a"),
            ("a.toml", b"[en]\nready = \"\"", "[en] ready: it is empty"),
            ("a.toml", b"[en]\nready = \"x\"\nready = \"y\"", "at line 3 column 1"),
            ("a.toml", b"[en]\nready = \"x", "at line 2 column "),
            ("a.toml", b"{\"en\":{}}", "no TOML: "),
            ("a.json", b"[en]", "no JSON: "),
            ("a.json", b"{\"en\":{\"ready\":\"x\",\"ready\":\"y\"}}", "[en] ready: it stands there twice"),
            ("a.json", b"{\"en\":{\"ready\":null}}", "[en] ready: a text is wanted, not null"),
            ("a.json", b"[]", "it holds a list, not a table for each language"),
            ("a.toml", b"[en]\nready = \"\xff\"", "it is not valid UTF-8 at byte 14"),
            ("a.toml", &big, "it is longer than 1 MiB"),
        ];
        for (name, text, says) in table {
            let error = loaded(name, text).expect_err(says);
            assert!(error.contains(says), "{error}");
            assert!(error.contains('/') && !error.contains('\n'), "{error}");
        }
        for gone in ["/no/such/file", "/"] {
            let error = load(gone).unwrap_err();
            assert!(error.starts_with("cannot read \"/"), "{error}");
        }
    }
}
