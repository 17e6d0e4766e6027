//! Text as Telegram counts it: cutting, splitting, and taking markup away. It knows no method and no
//! message; `plan` says what is cut and why. Everything is counted in UTF-16 units, which are never
//! fewer than the code points the server counts (telegram-api section 3), so a cut is always safe.
//! Markup is never cut: whoever must shorten a marked-up text takes its plain form first.

use crate::job::spec::ParseMode;

/// Longest caption, UTF-16 units after parsing.
pub const CAPTION: usize = 1024;
/// Longest message text, UTF-16 units after parsing.
pub const MESSAGE: usize = 4096;

/// Length in UTF-16 units.
pub fn units(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// Whether it has at most `max` units; of a long one not all of it is counted.
pub fn fits(text: &str, max: usize) -> bool {
    // No unit takes more bytes.
    text.len() <= max.saturating_mul(3) && units(text) <= max
}

/// The text, trimmed, in at most `max` units; what was cut shows as `…`.
pub fn cut(text: &str, max: usize) -> String {
    let text = text.trim();
    if units(text) <= max {
        return text.to_owned();
    }
    let end = fitting(text, max.saturating_sub(1));
    format!("{}…", text[..end].trim_end())
}

/// The text in pieces of at most `max` units, broken at a line end where that wastes no more than
/// half a piece, else at white space, else between characters. No piece is empty; a text of nothing
/// but white space gives none.
pub fn split(text: &str, max: usize) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((piece, behind)) = first_piece(rest, max) {
        pieces.push(piece.to_owned());
        rest = behind;
    }
    pieces
}

/// The first of the pieces that [`split`] gives, and the text behind it, which is the end of this one but for
/// white space. `None`: there is no piece.
pub fn first_piece(text: &str, max: usize) -> Option<(&str, &str)> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    let end = fitting(text, max.max(2));
    if end == text.len() {
        return Some((text, ""));
    }
    // A break right behind the window is as good as one inside it.
    let next = text[end..].chars().next().map_or(0, char::len_utf8);
    let window = &text[..end + next];
    let line = window.rfind('\n').filter(|at| *at >= end / 2);
    let at = line
        .or_else(|| window.rfind(char::is_whitespace))
        .filter(|at| *at > 0)
        .unwrap_or(end);
    Some((text[..at].trim_end(), text[at..].trim_start()))
}

/// Bytes of the longest beginning within `max` units that ends between two characters as a reader
/// sees them (at least one character, so that callers always get on).
fn fitting(text: &str, max: usize) -> usize {
    let mut used = 0;
    let mut end = text.len();
    for (at, c) in text.char_indices() {
        used += c.len_utf16();
        if used > max {
            end = at;
            break;
        }
    }
    if end == 0 {
        return text.chars().next().map_or(0, char::len_utf8);
    }
    // An accent or a joined emoji goes over whole; a text of nothing else is cut all the same.
    let mut whole = end;
    for _ in 0..16 {
        let next = text[whole..].chars().next();
        let Some(last) = text[..whole].chars().next_back() else {
            return end;
        };
        if whole == text.len() || !(last == '\u{200d}' || next.is_some_and(continues)) {
            return if whole == 0 { end } else { whole };
        }
        whole -= last.len_utf8();
    }
    end
}

/// Whether a character belongs to the one before it.
fn continues(c: char) -> bool {
    matches!(c, '\u{200d}' | '\u{300}'..='\u{36f}' | '\u{20d0}'..='\u{20ff}' | '\u{fe00}'..='\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}')
}

/// The text without its markup, entities decoded. What is no valid markup stays as it was written,
/// since this is also what a user sees after a parse error.
pub fn plain(text: &str, markup: Option<ParseMode>) -> String {
    match markup {
        None => text.to_owned(),
        Some(ParseMode::Html) => strip_html(text),
        Some(ParseMode::MarkdownV2) => strip_markdown(text, Dialect::V2),
        Some(ParseMode::Markdown) => strip_markdown(text, Dialect::Legacy),
    }
}

/// A plain text written so that the parse mode gives it back unchanged.
pub fn escape(text: &str, markup: ParseMode) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match markup {
            ParseMode::Html => match c {
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '&' => out.push_str("&amp;"),
                other => out.push(other),
            },
            ParseMode::MarkdownV2 => {
                if "\\_*[]()~`>#+-=|{}.!".contains(c) {
                    out.push('\\');
                }
                out.push(c);
            }
            ParseMode::Markdown => {
                if "_*`[".contains(c) {
                    out.push('\\');
                }
                out.push(c);
            }
        }
    }
    out
}

/// Telegram's tags, and those of ordinary HTML that people write by mistake. Anything else in angle
/// brackets is text (`<3`, `<lora:x:0.8>`) and must survive.
#[rustfmt::skip]
const TAGS: [&str; 37] = [
    "a", "b", "blockquote", "br", "center", "code", "del", "div", "em", "font", "h1", "h2", "h3",
    "h4", "h5", "h6", "hr", "i", "img", "ins", "li", "ol", "p", "pre", "s", "small", "span",
    "strike", "strong", "sub", "sup", "tg-emoji", "tg-spoiler", "tg-time", "u", "ul", "mark",
];

fn strip_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '&']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let skipped = if rest.starts_with('<') {
            tag(rest)
                .inspect(|(_, line_break)| out.extend(line_break.then_some('\n')))
                .map(|(length, _)| length)
        } else {
            entity(rest).map(|(length, c)| {
                out.push(c);
                length
            })
        };
        let length = skipped.unwrap_or_else(|| {
            out.push_str(&rest[..1]);
            1
        });
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// Length of the tag the text begins with, and whether it stands for a line break.
fn tag(text: &str) -> Option<(usize, bool)> {
    let inner = &text[1..];
    let closing = inner.starts_with('/');
    let inner = inner.strip_prefix('/').unwrap_or(inner);
    let name_len = inner
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .unwrap_or(inner.len());
    let (name, tail) = inner.split_at(name_len);
    let name = name.to_ascii_lowercase();
    let known = TAGS.contains(&name.as_str()) || (closing && name.is_empty());
    if !known || !tail.starts_with(|c: char| c.is_whitespace() || c == '>' || c == '/') {
        return None;
    }
    let mut quote = None;
    for (at, c) in tail.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, '>') => {
                let length = text.len() - tail.len() + at + 1;
                return Some((length, name == "br" || (closing && name == "p")));
            }
            // Another tag begins: this one never ended. It also keeps the work linear.
            (None, '<') => return None,
            (None | Some(_), _) => {}
        }
    }
    None
}

/// Length of the entity the text begins with, and the character it means: the four that Telegram
/// decodes and numbers.
fn entity(text: &str) -> Option<(usize, char)> {
    let end = text.bytes().take(12).position(|b| b == b';')?;
    let name = &text[1..end];
    let c = match name {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        other => {
            let number = other.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code).filter(|c| *c != '\0')?
        }
    };
    Some((end + 1, c))
}

#[derive(Clone, Copy, PartialEq)]
enum Dialect {
    V2,
    Legacy,
}

enum Token<'a> {
    Text(&'a str),
    /// Goes away if another one of the same kind closes it.
    Mark(&'static str),
    /// `[` of a link; goes away if the link is complete.
    Open(&'static str),
    Gone,
}

/// Pairs of markers go, a lone one stays: `2 * 3` and `snake_case` are text that somebody forgot to
/// escape. One pass over the text and one over its tokens.
fn strip_markdown(text: &str, dialect: Dialect) -> String {
    let v2 = dialect == Dialect::V2;
    let mut tokens: Vec<Token<'_>> = Vec::new();
    let mut opens: Vec<usize> = Vec::new();
    // Once a closing fence, tick or bracket is not found it will not be found later either.
    let (mut fences, mut ticks, mut brackets) = (true, true, true);
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let line_start = at == 0 || text.as_bytes()[at - 1] == b'\n';
        let mut length = c.len_utf8();
        if c == '\\' && escaped(&rest[1..], dialect) {
            tokens.push(Token::Text(&rest[1..2]));
            length = 2;
        } else if fences && rest.starts_with("```") {
            match rest[3..].find("```") {
                Some(end) => {
                    code(&mut tokens, without_language(&rest[3..3 + end]), dialect);
                    length = end + 6;
                }
                None => {
                    fences = false;
                    length = 3;
                    tokens.push(Token::Text(&rest[..3]));
                }
            }
        } else if ticks && c == '`' {
            match unescaped(&rest[1..], '`', dialect) {
                Some(end) => {
                    code(&mut tokens, &rest[1..1 + end], dialect);
                    length = end + 2;
                }
                None => {
                    ticks = false;
                    tokens.push(Token::Text(&rest[..1]));
                }
            }
        } else if v2 && line_start && (c == '>' || rest.starts_with("**>")) {
            length = if c == '>' { 1 } else { 3 };
        } else if c == '[' || (v2 && rest.starts_with("![")) {
            opens.push(tokens.len());
            tokens.push(Token::Open(if c == '[' { "[" } else { "![" }));
            length = if c == '[' { 1 } else { 2 };
        } else if brackets && rest.starts_with("](") && !opens.is_empty() {
            match unescaped(&rest[2..], ')', dialect) {
                Some(end) => {
                    if let Some(open) = opens.pop() {
                        tokens[open] = Token::Gone;
                    }
                    length = end + 3;
                }
                None => {
                    brackets = false;
                    tokens.push(Token::Text(&rest[..1]));
                }
            }
        } else if let Some(mark) = mark(rest, dialect).filter(|mark| !inside_word(text, at, mark)) {
            tokens.push(Token::Mark(mark));
            length = mark.len();
        } else {
            tokens.push(Token::Text(&rest[..length]));
        }
        at += length;
    }
    drop_pairs(&mut tokens);
    tokens
        .iter()
        .map(|token| match token {
            Token::Text(text) => text,
            Token::Mark(text) | Token::Open(text) => text,
            Token::Gone => "",
        })
        .collect()
}

fn drop_pairs(tokens: &mut [Token<'_>]) {
    const KINDS: [&str; 5] = ["*", "_", "__", "~", "||"];
    let mut waiting = [None::<usize>; KINDS.len()];
    for at in 0..tokens.len() {
        let Token::Mark(mark) = &tokens[at] else {
            continue;
        };
        let Some(kind) = KINDS.iter().position(|kind| kind == mark) else {
            continue;
        };
        match waiting[kind].take() {
            Some(first) => {
                tokens[first] = Token::Gone;
                tokens[at] = Token::Gone;
            }
            None => waiting[kind] = Some(at),
        }
    }
}

fn mark(text: &str, dialect: Dialect) -> Option<&'static str> {
    let marks: &[&'static str] = match dialect {
        Dialect::V2 => &["__", "||", "*", "_", "~"],
        Dialect::Legacy => &["*", "_"],
    };
    marks.iter().copied().find(|mark| text.starts_with(mark))
}

/// `_` between two letters or digits: a file name or a variable, in the eyes of whoever wrote it.
fn inside_word(text: &str, at: usize, mark: &str) -> bool {
    let before = text[..at].chars().next_back();
    let after = text[at + mark.len()..].chars().next();
    mark == "_"
        && before.is_some_and(char::is_alphanumeric)
        && after.is_some_and(char::is_alphanumeric)
}

/// Whether what follows a backslash is escaped by it.
fn escaped(text: &str, dialect: Dialect) -> bool {
    match dialect {
        Dialect::V2 => text.starts_with(|c: char| ('\u{1}'..='\u{7e}').contains(&c)),
        Dialect::Legacy => text.starts_with(['_', '*', '`', '[']),
    }
}

/// Place of the first `wanted` that no backslash escapes.
fn unescaped(text: &str, wanted: char, dialect: Dialect) -> Option<usize> {
    let mut skip = false;
    for (at, c) in text.char_indices() {
        if skip {
            skip = false;
        } else if c == '\\' && dialect == Dialect::V2 {
            skip = true;
        } else if c == wanted {
            return Some(at);
        }
    }
    None
}

/// Code is literal but for the backslashes of MarkdownV2.
fn code<'a>(tokens: &mut Vec<Token<'a>>, text: &'a str, dialect: Dialect) {
    let mut rest = text;
    while dialect == Dialect::V2
        && let Some(at) = rest.find('\\')
    {
        let tail = &rest[at + 1..];
        tokens.push(Token::Text(&rest[..at]));
        if tail.starts_with(['\\', '`']) {
            tokens.push(Token::Text(&tail[..1]));
            rest = &tail[1..];
        } else {
            tokens.push(Token::Text("\\"));
            rest = tail;
        }
    }
    tokens.push(Token::Text(rest));
}

/// The block without the language named behind its fence.
fn without_language(block: &str) -> &str {
    match block.split_once('\n') {
        Some((first, code))
            if first
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+#-_.".contains(&b)) =>
        {
            code
        }
        Some(_) | None => block,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_counts_utf16_units_and_never_breaks_a_character() {
        assert_eq!(cut("  short ", 10), "short");
        assert_eq!(cut("abcdef", 4), "abc…");
        // Each of these is two units: three of them and the dots do not fit into six.
        assert_eq!(cut("😀😀😀😀", 6), "😀😀…");
        for max in 1..40 {
            let text = "aé😀 e\u{301}👨\u{200d}👩\u{200d}👧 ".repeat(4);
            assert!(units(&cut(&text, max)) <= max.max(3), "{max}");
        }
    }

    #[test]
    fn a_cut_keeps_joined_characters_together() {
        assert_eq!(cut("ae\u{301}xyz", 3), "a…");
        assert_eq!(cut("ab👨\u{200d}👩\u{200d}👧", 6), "ab…");
    }

    #[test]
    fn a_split_loses_no_word_and_keeps_every_piece_within_the_limit() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..300 {
            let text: String = (0..random.usize(0..400))
                .map(|_| {
                    *random
                        .choice(&['a', 'ж', '😀', ' ', '\n', 'b', '.'])
                        .unwrap_or(&'a')
                })
                .collect();
            let max = random.usize(2..50);
            let pieces = split(&text, max);
            let bare = |s: &str| s.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            assert_eq!(bare(&pieces.concat()), bare(&text), "seed {seed}");
            for piece in &pieces {
                assert!(
                    units(piece) <= max && !piece.trim().is_empty(),
                    "seed {seed}: {piece:?}"
                );
            }
        }
    }

    #[test]
    fn a_split_prefers_line_ends_then_spaces() {
        assert_eq!(split("one two\nthree four", 12), ["one two", "three four"]);
        assert_eq!(split("one two three", 9), ["one two", "three"]);
        assert_eq!(split("one two three", 7), ["one two", "three"]);
        assert_eq!(split("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(split(" \n ", 3), Vec::<String>::new());
    }

    #[test]
    fn html_is_stripped_and_decoded_and_other_angle_brackets_stay() {
        let table = [
            (
                "<b>Done</b> &amp; <a href=\"https://x/?a>b\">there</a>",
                "Done & there",
            ),
            (
                "I <3 <lora:cat:0.8> you < me",
                "I <3 <lora:cat:0.8> you < me",
            ),
            ("a<br>b<br/>c", "a\nb\nc"),
            ("<i>open", "open"),
            ("<b unfinished", "<b unfinished"),
            (
                "&lt;b&gt; &#39;&#x41;&nbsp; &#0; &#xD800; & &;",
                "<b> 'A&nbsp; &#0; &#xD800; & &;",
            ),
            (
                "<tg-spoiler>x</tg-spoiler><SPAN class='tg-spoiler'>y</>",
                "xy",
            ),
            ("привет <b>мир</b> <", "привет мир <"),
        ];
        for (given, wanted) in table {
            assert_eq!(plain(given, Some(ParseMode::Html)), wanted, "{given}");
        }
    }

    #[test]
    fn markdown_is_stripped_in_pairs() {
        let table = [
            (
                "*bold* _it_ __under__ ~gone~ ||hid||",
                "bold it under gone hid",
            ),
            (r"1\.5 \* 2\_3", "1.5 * 2_3"),
            ("2 * 3 and snake_case_name", "2 * 3 and snake_case_name"),
            ("[text](https://x/\\)y) [no link] ](", "text [no link] ]("),
            ("![👍](tg://emoji?id=5)!", "👍!"),
            ("```rust\nlet a = `b`;\n```", "let a = `b`;\n"),
            ("`a*b\\`c` `open", "a*b`c `open"),
            (">quote\n**>more", "quote\nmore"),
            ("ends with \\", "ends with \\"),
        ];
        for (given, wanted) in table {
            assert_eq!(plain(given, Some(ParseMode::MarkdownV2)), wanted, "{given}");
        }
        assert_eq!(
            plain(r"*b* \_ \. ~x~ [t](u)", Some(ParseMode::Markdown)),
            r"b _ \. ~x~ t"
        );
    }

    #[test]
    fn what_is_escaped_comes_back_as_it_was() {
        let text = "a <b> & *c* _d_ [e](f) ~g~ `h` \\ i_j ||k|| > # + - = { } . ! ж";
        for mode in [ParseMode::Html, ParseMode::MarkdownV2, ParseMode::Markdown] {
            assert_eq!(plain(&escape(text, mode), Some(mode)), text, "{mode:?}");
        }
    }

    #[test]
    fn stripping_any_text_ends_and_never_panics() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let bits = [
            "<", ">", "b", "/", "&", "lt;", "#", "*", "_", "`", "```", "[", "](", ")", "\\", "ж",
            "😀", "\n", "\"", "||", "!",
        ];
        for _ in 0..2000 {
            let text: String = (0..random.usize(0..40))
                .map(|_| bits[random.usize(..bits.len())])
                .collect();
            for mode in [ParseMode::Html, ParseMode::MarkdownV2, ParseMode::Markdown] {
                assert!(
                    plain(&text, Some(mode)).len() <= text.len(),
                    "seed {seed}: {text:?}"
                );
            }
        }
    }
}
