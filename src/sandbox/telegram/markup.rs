//! Parse modes as the Bot API server reads them, down to the error texts.
//!
//! Apart from the methods because captions, texts and album items all pass through here, and because
//! limits count what is left after parsing.

use serde_json::{Value, json};

/// A text after parsing: white space at both ends is gone, as on the real server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formatted {
    /// The plain text.
    pub text: String,
    /// Its entities.
    pub entities: Vec<Entity>,
}

/// One entity; offset and length in UTF-16 units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    /// `bold`, `text_link`, …
    pub kind: &'static str,
    /// Where it begins.
    pub offset: usize,
    /// How long it is.
    pub length: usize,
    /// `url` or `language`.
    pub extra: Option<(&'static str, String)>,
}

impl Formatted {
    /// Entities as the Message object has them.
    pub fn entities_json(&self) -> Value {
        let one = |entity: &Entity| {
            let mut value =
                json!({"type": entity.kind, "offset": entity.offset, "length": entity.length});
            if let Some((name, text)) = &entity.extra {
                value[*name] = Value::from(text.as_str());
            }
            value
        };
        self.entities.iter().map(one).collect()
    }

    /// Length in code points, which is what the server's own check counts.
    pub fn characters(&self) -> usize {
        self.text.chars().count()
    }
}

/// Parses; the error is the description after `Bad Request: `.
pub fn parse(text: &str, mode: &str) -> Result<Formatted, String> {
    let mut reader = Reader {
        bytes: text.as_bytes(),
        text,
        at: 0,
        out: String::new(),
        units: 0,
        entities: Vec::new(),
    };
    let parsed = match mode.to_ascii_lowercase().as_str() {
        "" | "none" => {
            reader.push_str(text);
            Ok(())
        }
        "html" => reader.html(),
        "markdownv2" => reader.markdown_v2(),
        "markdown" => reader.markdown(),
        _ => return Err("unsupported parse_mode".into()),
    };
    parsed.map_err(|error| format!("can't parse entities: {error}"))?;
    Ok(trimmed(reader.out, reader.entities))
}

fn trimmed(out: String, mut entities: Vec<Entity>) -> Formatted {
    let text = out.trim();
    let cut = out[..out.len() - out.trim_start().len()]
        .encode_utf16()
        .count();
    let units = text.encode_utf16().count();
    for entity in &mut entities {
        let end = (entity.offset + entity.length)
            .saturating_sub(cut)
            .min(units);
        entity.offset = entity.offset.saturating_sub(cut).min(units);
        entity.length = end - entity.offset;
    }
    entities.retain(|entity| entity.length > 0);
    entities.sort_by_key(|entity| (entity.offset, std::cmp::Reverse(entity.length)));
    // The rest loses its formatting silently.
    entities.truncate(100);
    Formatted {
        text: text.to_owned(),
        entities,
    }
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    out: String,
    units: usize,
    entities: Vec<Entity>,
}

/// An element that is not closed yet.
struct Open {
    /// Tag name (HTML) or TDLib's name of the entity (Markdown).
    name: String,
    kind: &'static str,
    from_unit: usize,
    from_byte: usize,
    out_byte: usize,
    extra: Option<(&'static str, String)>,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn push_str(&mut self, text: &str) {
        self.out.push_str(text);
        self.units += text.encode_utf16().count();
    }

    /// Copies one character.
    fn copy(&mut self) {
        if let Some(c) = self.text[self.at..].chars().next() {
            self.out.push(c);
            self.units += c.len_utf16();
            self.at += c.len_utf8();
        }
    }

    fn skip_space(&mut self) {
        while self.peek(0).is_ascii_whitespace() {
            self.at += 1;
        }
    }

    fn close(&mut self, open: Open) {
        let length = self.units - open.from_unit;
        if length > 0 && !open.kind.is_empty() {
            self.entities.push(Entity {
                kind: open.kind,
                offset: open.from_unit,
                length,
                extra: open.extra,
            });
        }
    }

    fn html(&mut self) -> Result<(), String> {
        let mut stack: Vec<Open> = Vec::new();
        while self.at < self.bytes.len() {
            match self.peek(0) {
                b'&' => self.html_escape(),
                b'<' if self.peek(1) == b'/' => self.html_end(&mut stack)?,
                b'<' => self.html_start(&mut stack)?,
                _ => self.copy(),
            }
        }
        match stack.pop() {
            Some(open) => Err(format!(
                "Can't find end tag corresponding to start tag \"{}\"",
                open.name
            )),
            None => Ok(()),
        }
    }

    fn html_escape(&mut self) {
        match decode_escape(&self.text[self.at..]) {
            Some((c, used)) => {
                self.out.push(c);
                self.units += c.len_utf16();
                self.at += used;
            }
            None => self.copy(),
        }
    }

    fn html_start(&mut self, stack: &mut Vec<Open>) -> Result<(), String> {
        let begin = self.at;
        self.at += 1;
        while !self.peek(0).is_ascii_whitespace() && self.peek(0) != b'>' {
            if self.at >= self.bytes.len() {
                return Err(format!("Unclosed start tag at byte offset {begin}"));
            }
            self.at += 1;
        }
        let name = self.text[begin + 1..self.at].to_ascii_lowercase();
        let kind = match name.as_str() {
            "b" | "strong" => "bold",
            "i" | "em" => "italic",
            "u" | "ins" => "underline",
            "s" | "strike" | "del" => "strikethrough",
            "a" => "text_link",
            "code" => "code",
            "pre" => "pre",
            "blockquote" => "blockquote",
            "tg-spoiler" | "span" => "spoiler",
            "tg-emoji" => "custom_emoji",
            "tg-time" => "date_time",
            _ => {
                return Err(format!(
                    "Unsupported start tag \"{name}\" at byte offset {begin}"
                ));
            }
        };
        let attributes = self.html_attributes(&name, begin)?;
        let value = |wanted: &str| {
            attributes
                .iter()
                .find(|(n, _)| n == wanted)
                .map(|(_, v)| v.clone())
        };
        let mut open = Open {
            kind,
            from_unit: self.units,
            from_byte: begin,
            out_byte: self.out.len(),
            extra: None,
            name: name.clone(),
        };
        match name.as_str() {
            "span" if value("class").as_deref() != Some("tg-spoiler") => {
                return Err(format!(
                    "Tag \"span\" must have class \"tg-spoiler\" at byte offset {begin}"
                ));
            }
            "a" => open.extra = value("href").map(|url| ("url", url)),
            "blockquote" if value("expandable").is_some() => open.kind = "expandable_blockquote",
            "code" if stack.last().is_some_and(|outer| outer.name == "pre") => {
                let language = value("class")
                    .and_then(|class| class.strip_prefix("language-").map(str::to_owned));
                if let (Some(language), Some(outer)) = (language, stack.last_mut()) {
                    outer.extra = Some(("language", language));
                    open.kind = "";
                }
            }
            _ => {}
        }
        stack.push(open);
        Ok(())
    }

    fn html_attributes(
        &mut self,
        tag: &str,
        begin: usize,
    ) -> Result<Vec<(String, String)>, String> {
        let unclosed = || format!("Unclosed start tag \"{tag}\" at byte offset {begin}");
        let mut found = Vec::new();
        loop {
            self.skip_space();
            if self.at >= self.bytes.len() {
                return Err(unclosed());
            }
            if self.peek(0) == b'>' {
                self.at += 1;
                return Ok(found);
            }
            let from = self.at;
            while self.at < self.bytes.len()
                && !self.peek(0).is_ascii_whitespace()
                && !matches!(self.peek(0), b'=' | b'>' | b'/' | b'"' | b'\'')
            {
                self.at += 1;
            }
            if self.at == from {
                return Err(format!(
                    "Empty attribute name in the tag \"{tag}\" at byte offset {begin}"
                ));
            }
            let name = self.text[from..self.at].to_ascii_lowercase();
            self.skip_space();
            if self.peek(0) != b'=' {
                if name == "expandable" {
                    found.push((name, String::new()));
                    continue;
                }
                if self.at >= self.bytes.len() {
                    return Err(unclosed());
                }
                return Err(format!(
                    "Expected equal sign in declaration of an attribute of the tag \"{tag}\" at byte offset {begin}"
                ));
            }
            self.at += 1;
            self.skip_space();
            let value = self.html_value().ok_or_else(unclosed)?;
            found.push((name, value));
        }
    }

    /// A quoted or bare attribute value; `None` at the end of the text.
    fn html_value(&mut self) -> Option<String> {
        let quote = self.peek(0);
        if !matches!(quote, b'"' | b'\'') {
            let from = self.at;
            while self.peek(0).is_ascii_alphanumeric() || matches!(self.peek(0), b'.' | b'-') {
                self.at += 1;
            }
            let ends = self.peek(0).is_ascii_whitespace() || self.peek(0) == b'>';
            return ends.then(|| self.text[from..self.at].to_ascii_lowercase());
        }
        self.at += 1;
        let mut value = String::new();
        while self.at < self.bytes.len() && self.peek(0) != quote {
            match decode_escape(&self.text[self.at..]) {
                Some((c, used)) if self.peek(0) == b'&' => {
                    value.push(c);
                    self.at += used;
                }
                _ => {
                    let c = self.text[self.at..].chars().next()?;
                    value.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
        if self.at >= self.bytes.len() {
            return None;
        }
        self.at += 1;
        Some(value)
    }

    fn html_end(&mut self, stack: &mut Vec<Open>) -> Result<(), String> {
        let begin = self.at;
        let Some(open) = stack.pop() else {
            return Err(format!("Unexpected end tag at byte offset {begin}"));
        };
        self.at += 2;
        while self.at < self.bytes.len()
            && !self.peek(0).is_ascii_whitespace()
            && self.peek(0) != b'>'
        {
            self.at += 1;
        }
        let name = self.text[begin + 2..self.at].to_ascii_lowercase();
        self.skip_space();
        if self.peek(0) != b'>' {
            return Err(format!("Unclosed end tag at byte offset {begin}"));
        }
        self.at += 1;
        if !name.is_empty() && name != open.name {
            return Err(format!(
                "Unmatched end tag at byte offset {begin}, expected \"</{}>\", found \"</{name}>\"",
                open.name
            ));
        }
        self.close_link(open);
        Ok(())
    }

    /// A link without `href` points to its own text.
    fn close_link(&mut self, mut open: Open) {
        if open.kind == "text_link" && open.extra.as_ref().is_none_or(|(_, url)| url.is_empty()) {
            open.extra = Some(("url", self.out[open.out_byte..].to_owned()));
        }
        self.close(open);
    }

    fn markdown_v2(&mut self) -> Result<(), String> {
        let mut stack: Vec<Open> = Vec::new();
        while self.at < self.bytes.len() {
            let c = self.peek(0);
            if c == b'\\' && (1..=126).contains(&self.peek(1)) {
                self.at += 1;
                self.copy();
                continue;
            }
            let inner = stack.last().map_or("", |open| open.name.as_str());
            let in_code = matches!(inner, "Code" | "Pre" | "PreCode");
            let reserved = if in_code {
                b"`".as_slice()
            } else {
                b"_*[]()~`>#+-=|{}.!\n".as_slice()
            };
            if !reserved.contains(&c) {
                self.copy();
                continue;
            }
            let rest = &self.bytes[self.at..];
            let ends = match inner {
                "Bold" => c == b'*',
                "Italic" => c == b'_' && self.peek(1) != b'_',
                "Underline" => rest.starts_with(b"__"),
                "Strikethrough" => c == b'~',
                "Spoiler" => rest.starts_with(b"||"),
                "Code" => c == b'`',
                "Pre" | "PreCode" => rest.starts_with(b"```"),
                "TextUrl" | "CustomEmoji" => c == b']',
                "BlockQuote" => c == b'\n' && self.peek(1) != b'>',
                _ => false,
            };
            match stack.pop() {
                Some(open) if ends => self.markdown_v2_end(open)?,
                other => {
                    stack.extend(other);
                    if in_code {
                        self.copy();
                    } else {
                        self.markdown_v2_start(&mut stack)?;
                    }
                }
            }
        }
        while let Some(open) = stack.pop() {
            if open.name != "BlockQuote" {
                return Err(format!(
                    "Can't find end of {} entity at byte offset {}",
                    open.name, open.from_byte
                ));
            }
            self.close(open);
        }
        Ok(())
    }

    fn markdown_v2_start(&mut self, stack: &mut Vec<Open>) -> Result<(), String> {
        let c = self.peek(0);
        let rest = &self.bytes[self.at..];
        let line_start = self.at == 0 || self.bytes[self.at - 1] == b'\n';
        let in_quote = stack.iter().any(|open| open.name == "BlockQuote");
        let (name, kind, used) = match c {
            b'\n' => {
                self.copy();
                return Ok(());
            }
            b'>' if line_start && in_quote => {
                self.at += 1;
                return Ok(());
            }
            b'>' if line_start => ("BlockQuote", "blockquote", 1),
            b'_' if self.peek(1) == b'_' => ("Underline", "underline", 2),
            b'_' => ("Italic", "italic", 1),
            b'*' => ("Bold", "bold", 1),
            b'~' => ("Strikethrough", "strikethrough", 1),
            b'|' if self.peek(1) == b'|' => ("Spoiler", "spoiler", 2),
            b'[' => ("TextUrl", "text_link", 1),
            b'!' if self.peek(1) == b'[' => ("CustomEmoji", "custom_emoji", 2),
            b'`' if rest.starts_with(b"```") => ("Pre", "pre", 3),
            b'`' => ("Code", "code", 1),
            _ => {
                let c = char::from(c);
                return Err(format!(
                    "Character '{c}' is reserved and must be escaped with the preceding '\\'"
                ));
            }
        };
        let mut open = Open {
            name: name.into(),
            kind,
            from_unit: self.units,
            from_byte: self.at,
            out_byte: self.out.len(),
            extra: None,
        };
        self.at += used;
        if name == "Pre" {
            let line = self.text[self.at..].lines().next().unwrap_or("");
            let is_language =
                !line.is_empty() && !line.contains(['`', ' ']) && self.peek(line.len()) == b'\n';
            if is_language {
                open.extra = Some(("language", line.to_owned()));
                self.at += line.len() + 1;
            } else if self.peek(0) == b'\n' {
                self.at += 1;
            }
        }
        stack.push(open);
        Ok(())
    }

    fn markdown_v2_end(&mut self, mut open: Open) -> Result<(), String> {
        self.at += match open.name.as_str() {
            "Underline" | "Spoiler" => 2,
            "Pre" | "PreCode" => 3,
            // The line feed after a quote belongs to the text.
            "BlockQuote" => 0,
            _ => 1,
        };
        if matches!(open.name.as_str(), "TextUrl" | "CustomEmoji") {
            if self.peek(0) == b'(' {
                let begin = self.at;
                self.at += 1;
                let mut url = String::new();
                while self.peek(0) != b')' {
                    if self.at >= self.bytes.len() {
                        return Err(format!("Can't find end of a URL at byte offset {begin}"));
                    }
                    if self.peek(0) == b'\\' && (1..=126).contains(&self.peek(1)) {
                        self.at += 1;
                    }
                    let Some(c) = self.text[self.at..].chars().next() else {
                        break;
                    };
                    url.push(c);
                    self.at += c.len_utf8();
                }
                self.at += 1;
                open.extra = Some(("url", url));
            }
            self.close_link(open);
        } else {
            let quote = open.name == "BlockQuote";
            self.close(open);
            if quote {
                self.copy();
            }
        }
        Ok(())
    }

    fn markdown(&mut self) -> Result<(), String> {
        while self.at < self.bytes.len() {
            let c = self.peek(0);
            if c == b'\\' && matches!(self.peek(1), b'_' | b'*' | b'`' | b'[') {
                self.at += 1;
                self.copy();
                continue;
            }
            if !matches!(c, b'_' | b'*' | b'`' | b'[') {
                self.copy();
                continue;
            }
            let begin = self.at;
            let pre = self.bytes[begin..].starts_with(b"```");
            let (kind, mark) = match c {
                b'_' => ("italic", "_"),
                b'*' => ("bold", "*"),
                b'[' => ("text_link", "]"),
                _ if pre => ("pre", "```"),
                _ => ("code", "`"),
            };
            let from = begin + if pre { 3 } else { 1 };
            let Some(length) = self.text[from..].find(mark) else {
                return Err(format!(
                    "Can't find end of the entity starting at byte offset {begin}"
                ));
            };
            let mut open = Open {
                name: String::new(),
                kind,
                from_unit: self.units,
                from_byte: begin,
                out_byte: self.out.len(),
                extra: None,
            };
            let inner = self.text[from..from + length].to_owned();
            self.push_str(&inner);
            self.at = from + length + mark.len();
            if kind == "text_link"
                && self.peek(0) == b'('
                && let Some(end) = self.text[self.at..].find(')')
            {
                open.extra = Some(("url", self.text[self.at + 1..self.at + end].to_owned()));
                self.at += end + 1;
            }
            self.close_link(open);
        }
        Ok(())
    }
}

/// `&lt; &gt; &amp; &quot;` and numbers; anything else is kept as it is.
fn decode_escape(text: &str) -> Option<(char, usize)> {
    let body = text.strip_prefix('&')?;
    for (name, c) in [("lt", '<'), ("gt", '>'), ("amp", '&'), ("quot", '"')] {
        if let Some(rest) = body.strip_prefix(name) {
            return Some((c, 1 + name.len() + usize::from(rest.starts_with(';'))));
        }
    }
    let number = body.strip_prefix('#')?;
    let (digits, radix, lead) = match number.strip_prefix(['x', 'X']) {
        Some(hex) => (hex, 16, 3),
        None => (number, 10, 2),
    };
    let length = digits
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(digits.len());
    let code = u32::from_str_radix(&digits[..length], radix)
        .ok()
        .filter(|code| *code != 0)?;
    let ends = usize::from(digits[length..].starts_with(';'));
    Some((char::from_u32(code)?, lead + length + ends))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_errors_have_the_servers_words() {
        let cases = [
            ("a <br> b", "Unsupported start tag \"br\" at byte offset 2"),
            ("1 <2", "Unclosed start tag at byte offset 2"),
            ("1 < 2 > 1", "Unsupported start tag \"\" at byte offset 2"),
            (
                "<b>bold",
                "Can't find end tag corresponding to start tag \"b\"",
            ),
            (
                "<b>x</i>",
                "Unmatched end tag at byte offset 4, expected \"</b>\", found \"</i>\"",
            ),
            ("x</b>", "Unexpected end tag at byte offset 1"),
            (
                "<span>x</span>",
                "Tag \"span\" must have class \"tg-spoiler\" at byte offset 0",
            ),
            ("<b>x</b", "Unclosed end tag at byte offset 4"),
            (
                "<a href>x</a>",
                "Expected equal sign in declaration of an attribute of the tag \"a\" at byte offset 0",
            ),
            (
                "<a href=\"x>y</a>",
                "Unclosed start tag \"a\" at byte offset 0",
            ),
        ];
        for (text, error) in cases {
            assert_eq!(
                parse(text, "HTML"),
                Err(format!("can't parse entities: {error}")),
                "{text}"
            );
        }
    }

    #[test]
    fn html_is_stripped_and_entities_count_utf16_units() {
        let parsed =
            parse(" 😀 <b>a &lt;i&gt; <i>b</i></> R&D &#128512;\n", "html").expect("parses");
        assert_eq!(parsed.text, "😀 a <i> b R&D 😀");
        assert_eq!(parsed.characters(), 15);
        let spans: Vec<_> = parsed
            .entities
            .iter()
            .map(|e| (e.kind, e.offset, e.length))
            .collect();
        assert_eq!(spans, [("bold", 3, 7), ("italic", 9, 1)]);
        let link = parse("<a href=\"https://x.y/?a=1&amp;b=2\">go</a>", "HTML").expect("parses");
        assert_eq!(link.entities_json()[0]["url"], "https://x.y/?a=1&b=2");
        let code = parse(
            "<pre><code class=\"language-rust\">let</code></pre>",
            "HTML",
        )
        .expect("parses");
        assert_eq!(
            code.entities_json(),
            json!([{"type": "pre", "offset": 0, "length": 3, "language": "rust"}])
        );
    }

    #[test]
    fn markdown_v2_refuses_reserved_characters_and_open_entities() {
        let cases = [
            (
                "a.b",
                "Character '.' is reserved and must be escaped with the preceding '\\'",
            ),
            (
                "hi!",
                "Character '!' is reserved and must be escaped with the preceding '\\'",
            ),
            (
                "a | b",
                "Character '|' is reserved and must be escaped with the preceding '\\'",
            ),
            ("x *bold", "Can't find end of Bold entity at byte offset 2"),
            ("`code", "Can't find end of Code entity at byte offset 0"),
            ("[a](http", "Can't find end of a URL at byte offset 3"),
        ];
        for (text, error) in cases {
            assert_eq!(
                parse(text, "MarkdownV2"),
                Err(format!("can't parse entities: {error}")),
                "{text}"
            );
        }
        let parsed =
            parse(r"*b _i_* \. `a.b!` [t](http://x/\)) ||s||", "markdownv2").expect("parses");
        assert_eq!(parsed.text, "b i . a.b! t s");
        let kinds: Vec<_> = parsed.entities.iter().map(|e| e.kind).collect();
        assert_eq!(kinds, ["bold", "italic", "code", "text_link", "spoiler"]);
    }

    #[test]
    fn other_modes_are_plain_legacy_or_refused() {
        assert_eq!(parse("<b>.", "").expect("plain").text, "<b>.");
        assert_eq!(
            parse("*b* [x](http://y)", "Markdown").expect("legacy").text,
            "b x"
        );
        let error = "can't parse entities: Can't find end of the entity starting at byte offset 2";
        assert_eq!(parse("a _b", "markdown"), Err(error.into()));
        assert_eq!(parse("x", "bbcode"), Err("unsupported parse_mode".into()));
    }
}
