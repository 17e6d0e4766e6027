//! Mutation of text that is JSON, or has JSON in it, or is markup: values change their type, grow huge,
//! nest deeply, are doubled, dropped, swapped with those of another input; strings get half surrogates,
//! direction marks, broken UTF-8. One change in four knows no grammar.

use fastrand::Rng;

/// Inputs longer than this are rare.
const LONG: usize = 8 << 10;
/// And never longer than this.
const LONGEST: usize = 3 << 20;

/// Values that parsers have stumbled over.
const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "1",
    "-1",
    "7",
    "0.5",
    "-1.5",
    "1e400",
    "-1e999",
    "1E-7",
    "600.0",
    "2147483647",
    "2147483648",
    "4294967296",
    "4503599627370495",
    "-4503599627370496",
    "9007199254740993",
    "253402300799",
    "253402300800",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "18446744073709551616",
    "99999999999999999999999999999999999999",
    "01",
    "+1",
    "1.",
    ".5",
    "NaN",
    "0x10",
    r#""""#,
    r#"" ""#,
    r#""a""#,
    r#""0""#,
    r#""-1""#,
    r#""\u0000""#,
    r#""\ud800""#,
    r#""\udc00\ud800""#,
    r#""\ud83d\ude00""#,
    "\"😀\"",
    "\"\u{202e}\"",
    "\"\u{2028}\"",
    "\"e\u{301}\"",
    "\"👨\u{200d}👩\u{200d}👧\"",
    r#""\n\r\t\u001b[31m""#,
    r#""\u0069d""#,
    "\"\u{feff}\"",
    "\"..\"",
    "\"%2e%2e\"",
    "\"@name\"",
    "\"1e3\"",
    r#""https://v3.fal.media/files/a/cat.png""#,
    r#""http://127.0.0.1:6379/""#,
    r#""https://fal.media@evil/x.png""#,
    r#""file:///etc/passwd""#,
    r#""javascript:alert(1)//.png""#,
    r#""ftp://fal.media/a.png""#,
    r#""//fal.media/a""#,
    r#""data:image/png;base64,AAAA""#,
    r#""DATA:,x""#,
    r#""HTTPS://V3.FAL.MEDIA/a.MP4?x#y""#,
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "[0,1]",
    r#"[{}]"#,
    r#"{"":null}"#,
    r#"{"url":"https://v3.fal.media/a.png"}"#,
];

/// Pieces for the inside of strings, and for markup.
const PIECES: &[&str] = &[
    "<b>",
    "</b>",
    "<a href=\"x\">",
    "<br>",
    "<",
    ">",
    "&lt;",
    "&#x1F600;",
    "&#0;",
    "&",
    "*",
    "_",
    "__",
    "~",
    "||",
    "`",
    "```",
    "[",
    "](",
    ")",
    "![",
    "\\",
    "\\\\",
    "\"",
    "'",
    "\n",
    "\r\n",
    " ",
    "\t",
    "\u{0}",
    "\u{7f}",
    "\u{85}",
    "\u{2028}",
    "\u{202e}",
    "\u{200d}",
    "\u{fe0f}",
    "\u{301}",
    "😀",
    "👨\u{200d}👩\u{200d}👧",
    "ж",
    "\u{feff}",
    "\u{e000}",
    "\u{10ffff}",
    "\\u0000",
    "\\ud800",
    "\\udfff",
    "\\u0041",
    "..",
    "/",
    "%2e",
    "@",
    "://",
    ":",
    ";",
    ",",
    "?",
    "#",
    "*/",
    "{",
    "}",
    "]",
    "-",
    "0",
    "9999999999",
    "e",
];

/// What no UTF-8 decoder takes.
const BROKEN: &[&[u8]] = &[
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"\x80",
    b"\xfe\xfe\xff\xff",
];

/// A place in a text.
#[derive(Clone, Copy)]
struct Span {
    from: usize,
    to: usize,
    is_key: bool,
}

/// Makes inputs out of inputs.
pub(super) struct Mutator {
    random: Rng,
    words: Vec<String>,
}

impl Mutator {
    pub(super) fn new(seed: u64, words: Vec<String>) -> Mutator {
        Mutator {
            random: Rng::with_seed(seed),
            words,
        }
    }

    /// A mutation of one of them, or a mixture of two.
    pub(super) fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut text = self.one(corpus);
        let other = self.one(corpus);
        let changes = 1 + self.random.usize(..4).min(self.random.usize(..4));
        for _ in 0..changes {
            let places = spans(&text);
            if places.is_empty() || self.random.u8(..4) == 0 {
                self.change_bytes(&mut text);
            } else {
                self.change_value(&mut text, &places, &other);
            }
            let most = if self.random.u16(..2000) == 0 {
                LONGEST
            } else {
                LONG
            };
            text.truncate(most);
        }
        text
    }

    fn one(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        match corpus.len() {
            0 => Vec::new(),
            some => corpus[self.random.usize(..some)].clone(),
        }
    }

    fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.random.usize(..list.len())]
    }

    fn word(&mut self) -> String {
        if self.words.is_empty() {
            return "x".to_owned();
        }
        self.words[self.random.usize(..self.words.len())].clone()
    }

    /// A value out of the air, or of another input.
    fn value(&mut self, other: &[u8]) -> Vec<u8> {
        match self.random.u8(..16) {
            0..6 => self.pick(VALUES).as_bytes().to_vec(),
            6..9 => format!("\"{}\"", self.word()).into_bytes(),
            9..13 => match spans(other) {
                places if places.is_empty() => b"null".to_vec(),
                places => {
                    let place = places[self.random.usize(..places.len())];
                    other[place.from..place.to].to_vec()
                }
            },
            13 => {
                let piece = self.pick(PIECES).replace(['"', '\\', '\n', '\r'], "");
                format!("\"{}\"", piece.repeat(self.length())).into_bytes()
            }
            14 => {
                let digits = self.length();
                "9".repeat(digits).into_bytes()
            }
            _ => {
                let value = self.pick(VALUES);
                let many = vec![value; self.length().min(5000)];
                format!("[{}]", many.join(",")).into_bytes()
            }
        }
    }

    /// Mostly short, now and then around a limit, rarely huge.
    fn length(&mut self) -> usize {
        match self.random.u8(..32) {
            0..20 => self.random.usize(..40),
            20..24 => 120 + self.random.usize(..20),
            24..26 => 250 + self.random.usize(..60),
            26..29 => 1015 + self.random.usize(..20),
            29..31 => 4080 + self.random.usize(..30),
            _ => self.random.usize(..30_000),
        }
    }

    fn change_value(&mut self, text: &mut Vec<u8>, places: &[Span], other: &[u8]) {
        let at = self.random.usize(..places.len());
        let place = places[at];
        // A member with its key, if there is one right before it.
        let key = at
            .checked_sub(1)
            .map(|at| places[at])
            .filter(|key| key.is_key);
        let from = key
            .filter(|_| !place.is_key)
            .map_or(place.from, |key| key.from);
        match self.random.u8(..20) {
            0..6 if !place.is_key => {
                let value = self.value(other);
                text.splice(place.from..place.to, value);
            }
            6 | 7 => {
                // Gone, with a comma if one follows.
                let comma = text[place.to..].first() == Some(&b',');
                text.drain(from..place.to + usize::from(comma));
            }
            8 | 9 if !place.is_key => {
                let mut twice = text[from..place.to].to_vec();
                twice.push(b',');
                text.splice(from..from, twice);
            }
            10 => {
                // Two values change places.
                let second = places[self.random.usize(..places.len())];
                let (a, b) = if place.from < second.from {
                    (place, second)
                } else {
                    (second, place)
                };
                if a.to <= b.from {
                    let (first, last) = (text[a.from..a.to].to_vec(), text[b.from..b.to].to_vec());
                    text.splice(b.from..b.to, first);
                    text.splice(a.from..a.to, last);
                }
            }
            11 => {
                let deep = match self.random.u8(..8) {
                    0 => 20_000,
                    1..3 => 126 + self.random.usize(..5),
                    _ => self.random.usize(..12),
                };
                let (open, close) = if self.random.bool() {
                    ("[", "]")
                } else {
                    ("{\"url\":", "}")
                };
                text.splice(place.to..place.to, close.repeat(deep).into_bytes());
                text.splice(place.from..place.from, open.repeat(deep).into_bytes());
            }
            12..15 if text[place.from] == b'"' => {
                let inside = place.from + 1..place.to.max(place.from + 2) - 1;
                let at = inside.start + self.random.usize(..inside.len() + 1);
                let piece = if self.random.bool() {
                    self.word()
                } else {
                    self.pick(PIECES).to_owned()
                };
                let times = if self.random.u8(..4) == 0 {
                    self.length()
                } else {
                    1
                };
                text.splice(at..at, piece.repeat(times).into_bytes());
            }
            15 if place.is_key => {
                text.splice(
                    place.from..place.to,
                    format!("\"{}\"", self.word()).into_bytes(),
                );
            }
            16 if place.is_key => {
                // The same name, written otherwise.
                if let Some(first) = text
                    .get(place.from + 1)
                    .copied()
                    .filter(u8::is_ascii_lowercase)
                {
                    let escaped = format!("\\u{first:04x}").into_bytes();
                    text.splice(place.from + 1..place.from + 2, escaped);
                }
            }
            _ => {
                // One member more; in a list it is out of place, which is a test as well.
                let value = self.value(other);
                let mut member = format!("\"{}\":", self.word()).into_bytes();
                member.extend(value);
                member.push(b',');
                text.splice(from..from, member);
            }
        }
    }

    fn change_bytes(&mut self, text: &mut Vec<u8>) {
        let at = self.random.usize(..=text.len());
        let until = (at + self.random.usize(..16)).min(text.len());
        match self.random.u8(..10) {
            0 if at < text.len() => text[at] ^= 1 << self.random.u8(..8),
            1 => drop(text.drain(at..until)),
            2 => text.truncate(at),
            3 => {
                let piece = text[at..until].to_vec();
                text.splice(at..at, piece);
            }
            4 => {
                let broken = self.pick(BROKEN);
                text.splice(at..at, broken.iter().copied());
            }
            5 | 6 => {
                let word = self.word();
                text.splice(at..at, word.into_bytes());
            }
            7 => {
                let times = self.length();
                let piece = self.pick(PIECES).repeat(times);
                text.splice(at..at, piece.into_bytes());
            }
            _ => {
                let piece = self.pick(PIECES);
                text.splice(at..at, piece.bytes());
            }
        }
    }
}

/// The keys and values in a text, in the order of their beginnings, whatever stands around them.
fn spans(text: &[u8]) -> Vec<Span> {
    let (mut found, mut open, mut at) = (Vec::new(), Vec::new(), 0);
    while at < text.len() {
        let from = at;
        match text[at] {
            b'{' | b'[' => {
                open.push(at);
                at += 1;
            }
            b'}' | b']' => {
                at += 1;
                if let Some(from) = open.pop() {
                    found.push(Span {
                        from,
                        to: at,
                        is_key: false,
                    });
                }
            }
            b'"' => {
                at += 1;
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(text.len());
                let next = text[at..].iter().find(|byte| !byte.is_ascii_whitespace());
                found.push(Span {
                    from,
                    to: at,
                    is_key: next == Some(&b':'),
                });
            }
            b'0'..=b'9' | b'-' | b'a'..=b'z' => {
                while at < text.len()
                    && (text[at].is_ascii_alphanumeric() || b"+-.".contains(&text[at]))
                {
                    at += 1;
                }
                found.push(Span {
                    from,
                    to: at,
                    is_key: false,
                });
            }
            _ => at += 1,
        }
    }
    found.sort_by_key(|span| (span.from, std::cmp::Reverse(span.to)));
    found
}
