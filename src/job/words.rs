//! What users read in their chat: the built-in texts, in each language the contract knows, and the
//! operator's own in their place (`--messages`).
//!
//! They stand apart from the operator's error texts because nothing of ours may show in them: no
//! model, no service, no code, no money (whether a failure was charged is the bot's business, by the
//! event's `charged`). They are plain text, to be sent without a parse mode, so nothing that is filled
//! in can become markup.

use super::failure::Kind;
use super::inputs::OF_A_FILE;
use super::{JobId, Lang};
use std::collections::BTreeMap;

/// Longest text of the operator's own, characters.
pub const LONGEST: usize = 1000;
/// Longest name of a field that is shown.
const LONGEST_FIELD: usize = 64;

/// One text that a user may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Why there is no result.
    Failure(Kind),
    /// The short reply after an edit that made no sound (contract section 1, `telegram.ping`).
    Ready,
    /// Stands before the link to a file that could not be sent.
    Link,
    /// In place of a result that shows nothing.
    Empty,
    /// The request waits behind others.
    Queued,
    /// The request is being worked on.
    Started,
    /// The result is on its way.
    Uploading,
}

/// Those beside the failures, by their names in the file.
const OTHERS: [(&str, Word); 6] = [
    ("ready", Word::Ready),
    ("link", Word::Link),
    ("empty", Word::Empty),
    ("queued", Word::Queued),
    ("started", Word::Started),
    ("uploading", Word::Uploading),
];

impl Word {
    /// Every text there is, the failures first.
    pub fn all() -> impl Iterator<Item = Word> {
        let failures = Kind::ALL.into_iter().map(Word::Failure);
        failures.chain(OTHERS.into_iter().map(|(_, word)| word))
    }

    /// Its name in the file: a failure's kind, or a word of its own.
    pub fn name(self) -> &'static str {
        if let Word::Failure(kind) = self {
            return kind.as_str();
        }
        let found = OTHERS.iter().find(|(_, word)| *word == self);
        found.map_or("", |(name, _)| name)
    }

    /// What may be filled in.
    fn blanks(self) -> &'static [Blank] {
        match self {
            Word::Failure(_) => &[Blank::Kind, Blank::Job, Blank::Field],
            Word::Queued => &[Blank::Place],
            Word::Ready | Word::Link | Word::Empty | Word::Started | Word::Uploading => &[],
        }
    }

    fn built_in(self, lang: Lang) -> &'static str {
        let (en, ru) = match self {
            Word::Failure(kind) => failure_texts(kind),
            Word::Ready => ("Ready", "Готово"),
            Word::Link => ("The file is here:", "Файл здесь:"),
            Word::Empty => ("(empty)", "(пусто)"),
            Word::Queued => (
                "Waiting in line, place {place}.",
                "Вы в очереди, место {place}.",
            ),
            Word::Started => ("Your request is being worked on.", "Запрос выполняется."),
            Word::Uploading => ("Sending the result.", "Отправляю результат."),
        };
        match lang {
            Lang::En => en,
            Lang::Ru => ru,
        }
    }
}

/// A place in a text that is filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blank {
    Kind,
    Job,
    Field,
    Place,
}

impl Blank {
    fn name(self) -> &'static str {
        match self {
            Blank::Kind => "kind",
            Blank::Job => "job",
            Blank::Field => "field",
            Blank::Place => "place",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Said(String),
    Filled(Blank),
}

/// The texts of one daemon: the built-in ones, but for those that the operator has put in their place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Words {
    own: BTreeMap<(&'static str, &'static str), Vec<Piece>>,
}

static BUILT_IN: Words = Words {
    own: BTreeMap::new(),
};

impl Words {
    /// Those of the program itself.
    pub fn built_in() -> &'static Words {
        &BUILT_IN
    }

    /// Puts `text` in place of one of them. `lang` and `name` as they stand in the file; an error says
    /// where and what is allowed, in one line.
    pub fn replace(&mut self, lang: &str, name: &str, text: &str) -> Result<(), String> {
        let lang = language(lang)?;
        let place = format!("[{}] {name}", lang.as_str());
        let Some(word) = Word::all().find(|word| word.name() == name) else {
            let names: Vec<_> = Word::all().map(Word::name).collect();
            return Err(format!(
                "[{}] has {}, which is none of {}",
                lang.as_str(),
                quoted(name),
                names.join(", ")
            ));
        };
        let pieces = pieces(text, word.blanks()).map_err(|what| format!("{place}: {what}"))?;
        self.own.insert((lang.as_str(), word.name()), pieces);
        Ok(())
    }

    /// The short reply after an edit.
    pub fn ready(&self, lang: Lang) -> String {
        self.say(lang, Word::Ready, |_| String::new())
    }

    /// A file that could not be sent, as a text. The link always stands at the end.
    pub fn link(&self, lang: Lang, url: &str) -> String {
        format!("{} {url}", self.say(lang, Word::Link, |_| String::new()))
    }

    /// In place of a link that no message holds.
    pub fn link_too_long(&self, lang: Lang) -> &'static str {
        match lang {
            Lang::En => {
                "The file is ready, but it cannot be sent here, and its link is too long for a message."
            }
            Lang::Ru => {
                "Файл готов, но отправить его сюда нельзя, а ссылка на него слишком длинная для сообщения."
            }
        }
    }

    /// In place of what shows nothing.
    pub fn empty(&self, lang: Lang) -> String {
        self.say(lang, Word::Empty, |_| String::new())
    }

    /// Why there is no result. `error`: the text that was recorded for the operator, of which the user
    /// reads at most the name of a field.
    pub fn failure(&self, lang: Lang, kind: Kind, job: &JobId, error: &str) -> String {
        // These two speak of a result; what came of a file of the user's own is another thing to him.
        let to_user = match kind {
            Kind::FileTooBig if error.starts_with(OF_A_FILE) => Kind::InvalidInput,
            Kind::Telegram if error.starts_with(OF_A_FILE) => Kind::Unavailable,
            _ => kind,
        };
        self.say(lang, Word::Failure(to_user), |blank| match blank {
            Blank::Kind => kind.as_str().to_owned(),
            Blank::Job => job.to_string(),
            Blank::Field => field(to_user, error).to_owned(),
            Blank::Place => String::new(),
        })
    }

    /// How far a request is.
    pub fn progress(&self, lang: Lang, shown: Shown) -> String {
        match shown {
            Shown::Queued { place } => self.say(lang, Word::Queued, |_| place.to_string()),
            Shown::Started => self.say(lang, Word::Started, |_| String::new()),
            Shown::Uploading => self.say(lang, Word::Uploading, |_| String::new()),
        }
    }

    fn say(&self, lang: Lang, word: Word, fill: impl Fn(Blank) -> String) -> String {
        let built_in;
        let pieces = match self.own.get(&(lang.as_str(), word.name())) {
            Some(own) => own,
            None => {
                let text = word.built_in(lang);
                if !text.contains('{') {
                    return text.to_owned();
                }
                built_in = pieces(text, word.blanks()).unwrap_or_default();
                &built_in
            }
        };
        let piece = |piece: &Piece| match piece {
            Piece::Said(text) => text.clone(),
            Piece::Filled(blank) => fill(*blank),
        };
        pieces.iter().map(piece).collect()
    }
}

/// What a status message says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It waits; 1 is next.
    Queued {
        /// Its place.
        place: u64,
    },
    /// It is being worked on.
    Started,
    /// Its result is on its way.
    Uploading,
}

/// Checks the name of a language's table.
pub fn language(name: &str) -> Result<Lang, String> {
    Lang::parse(name).ok_or_else(|| format!("[{}] is none of en, ru", plain(name)))
}

/// Takes a text apart. `{{` and `}}` stand for braces.
fn pieces(text: &str, allowed: &[Blank]) -> Result<Vec<Piece>, String> {
    let length = text.chars().count();
    if length > LONGEST {
        return Err(format!(
            "{length} characters are too many, at most {LONGEST}"
        ));
    }
    if let Some(bad) = text.chars().find(|c| c.is_control() && *c != '\n') {
        return Err(format!(
            "{} is in it; of the control characters only the line feed is allowed",
            bad.escape_default()
        ));
    }
    let choice = || match allowed {
        [] => "it takes no placeholder; a brace is written {{ or }}".to_owned(),
        allowed => {
            let names: Vec<_> = allowed
                .iter()
                .map(|blank| format!("{{{}}}", blank.name()))
                .collect();
            format!(
                "allowed are {}; a brace is written {{{{ or }}}}",
                names.join(", ")
            )
        }
    };
    let mut pieces = Vec::new();
    let mut said = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        said += &rest[..at];
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix(brace) {
            said += brace;
            rest = behind;
            continue;
        }
        let name = match rest.split_once('}') {
            Some((name, behind)) if brace == "{" => {
                rest = behind;
                name
            }
            _ => return Err(format!("a {brace} without its other half; {}", choice())),
        };
        let Some(blank) = allowed.iter().find(|blank| blank.name() == name) else {
            return Err(format!("{{{}}} is unknown; {}", plain(name), choice()));
        };
        pieces.push(Piece::Said(std::mem::take(&mut said)));
        pieces.push(Piece::Filled(*blank));
    }
    said += rest;
    pieces.push(Piece::Said(said));
    pieces.retain(|piece| *piece != Piece::Said(String::new()));
    let says = |piece: &Piece| matches!(piece, Piece::Said(text) if !text.trim().is_empty());
    if !pieces.iter().any(says) {
        return Err("it is empty; a text needs words of its own".to_owned());
    }
    Ok(pieces)
}

/// The field that an error names, if it is the user's or the producer's to mend: of `input: expected…`
/// and of `fal answered 422 missing at body.prompt: …`. Only what looks like a field's path is shown.
fn field(kind: Kind, error: &str) -> &str {
    if !matches!(kind, Kind::InvalidJob | Kind::InvalidInput) {
        return "";
    }
    let head = error.split_once(": ").map_or("", |(head, _)| head);
    let path = match head.strip_prefix("fal answered ") {
        Some(answer) => answer.rsplit_once(" at ").map_or("", |(_, place)| place),
        None => head,
    };
    let path = match path.strip_prefix("body") {
        Some("") => "",
        Some(inside) => inside.strip_prefix('.').unwrap_or(path),
        None => path,
    };
    let fits = (1..=LONGEST_FIELD).contains(&path.len())
        && path
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-[]".contains(&b));
    if fits { path } else { "" }
}

/// A name in an error: one line, and not the whole of a wrong paste.
fn plain(text: &str) -> String {
    let start: String = text.chars().take(40).collect();
    let more = if start.len() < text.len() { "…" } else { "" };
    format!("{}{more}", start.escape_debug())
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", plain(text))
}

/// Why there is no result, and what the user can do now.
fn failure_texts(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::InvalidJob => (
            "Sorry, this request could not be processed. Please start again; if it repeats, write to the bot's support.",
            "К сожалению, этот запрос не удалось обработать. Начните заново; если повторится, напишите в поддержку бота.",
        ),
        Kind::InvalidInput => (
            "Sorry, these settings or files did not fit. Please change the request and try again.",
            "К сожалению, такие параметры или файлы не подходят. Измените запрос и попробуйте снова.",
        ),
        Kind::ContentPolicy => (
            "Sorry, this request is not allowed by the content rules. Please change the text or the picture and try again.",
            "К сожалению, запрос не прошёл проверку содержания. Измените текст или картинку и попробуйте снова.",
        ),
        Kind::NoBalance | Kind::Auth => (
            "Sorry, generation is not available right now. Please try again later.",
            "К сожалению, генерация сейчас недоступна. Попробуйте позже.",
        ),
        Kind::RateLimited => (
            "Sorry, there are too many requests right now. Please try again in a few minutes.",
            "К сожалению, сейчас слишком много запросов. Попробуйте через несколько минут.",
        ),
        Kind::Unavailable => (
            "Sorry, generation failed because of a temporary fault. Please try again in a few minutes.",
            "К сожалению, из-за временного сбоя ничего не получилось. Попробуйте через несколько минут.",
        ),
        Kind::Timeout => (
            "Sorry, this took too long and was stopped. Please try again later or with a simpler request.",
            "К сожалению, это заняло слишком много времени и было остановлено. Попробуйте позже или упростите запрос.",
        ),
        Kind::NoOutput => (
            "Sorry, there is nothing to show for this request. Please change it and try again.",
            "К сожалению, по этому запросу ничего не получилось. Измените его и попробуйте снова.",
        ),
        Kind::BadAnswer => (
            "Sorry, the result could not be read. Please try again later.",
            "К сожалению, результат не удалось прочитать. Попробуйте позже.",
        ),
        Kind::FileTooBig => (
            "Sorry, the file is too big to be sent here. Please try a smaller size or a shorter length.",
            "К сожалению, файл слишком большой для отправки сюда. Попробуйте меньший размер или длительность.",
        ),
        Kind::ChatUnreachable => (
            "Sorry, the result could not be sent to this chat. Please check that the bot may write here.",
            "К сожалению, результат не удалось отправить в этот чат. Проверьте, что бот может сюда писать.",
        ),
        Kind::Telegram => (
            "Sorry, the result could not be sent. Please try again later.",
            "К сожалению, результат не удалось отправить. Попробуйте позже.",
        ),
        Kind::Crashed => (
            "Sorry, something went wrong with this request. Please try again; if it repeats, write to the bot's support.",
            "К сожалению, с этим запросом что-то пошло не так. Попробуйте снова; если повторится, напишите в поддержку бота.",
        ),
        Kind::Cancelled => ("The request was cancelled.", "Запрос отменён."),
        Kind::Expired => (
            "Sorry, this request waited too long and was not started. Please send it again.",
            "К сожалению, запрос ждал слишком долго и не был начат. Отправьте его снова.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_short_plain_text_in_each_language() {
        for kind in Kind::ALL {
            let (en, ru) = failure_texts(kind);
            assert!(en.is_ascii(), "{kind:?}: {en}");
            let latin = |c: char| c.is_ascii_alphabetic();
            assert!(!ru.contains(latin), "{kind:?}: {ru}");
            for text in [en, ru] {
                assert!((10..=160).contains(&text.chars().count()), "{kind:?}");
                assert!(text.ends_with('.'), "{kind:?}: {text}");
                assert!(
                    !text.contains(['<', '>', '&', '_', '*', '`', '[', '\n']),
                    "{kind:?}"
                );
            }
        }
    }

    #[test]
    fn no_text_shows_what_is_behind_the_bot() {
        for kind in Kind::ALL {
            let text = failure_texts(kind).0.to_lowercase();
            for inner in [
                "fal", "redis", "worker", "model", "api", "key", "balance", "paid", "http",
            ] {
                let shown = text
                    .split(|c: char| !c.is_alphabetic())
                    .any(|word| word == inner);
                assert!(!shown, "{kind:?} shows {inner}: {text}");
            }
        }
    }

    #[test]
    fn the_ping_is_the_contracts_word() {
        let words = Words::built_in();
        let said = (words.ready(Lang::En), words.ready(Lang::Ru));
        assert_eq!(said, ("Ready".to_owned(), "Готово".to_owned()));
    }

    #[test]
    fn every_built_in_text_keeps_the_rules_for_ones_own() {
        for lang in [Lang::En, Lang::Ru] {
            let mut words = Words::default();
            for word in Word::all() {
                let text = word.built_in(lang);
                words.replace(lang.as_str(), word.name(), text).unwrap();
            }
            for (word, shown) in [
                ("place 3", Shown::Queued { place: 3 }),
                ("worked on", Shown::Started),
                ("Sending", Shown::Uploading),
            ] {
                let said = words.progress(lang, shown);
                assert_eq!(said, Words::built_in().progress(lang, shown));
                assert!(lang == Lang::Ru || said.contains(word), "{said}");
            }
            let url = words.link(lang, "https://v3.fal.media/a.png");
            assert!(url.ends_with(": https://v3.fal.media/a.png"), "{url}");
        }
    }

    fn failure(text: &str, kind: Kind, error: &str) -> String {
        let mut words = Words::default();
        words.replace("en", kind.as_str(), text).unwrap();
        let job = JobId::new("order-1").unwrap();
        words.failure(Lang::En, kind, &job, error)
    }

    #[test]
    fn a_text_of_ones_own_is_filled_in_and_the_other_language_stays() {
        let said = failure("{{{job}}} {kind}: no.", Kind::Timeout, "");
        assert_eq!(said, "{order-1} timeout: no.");
        let mut words = Words::default();
        words.replace("ru", "queued", "Ещё {place}").unwrap();
        let shown = Shown::Queued { place: 12 };
        assert_eq!(words.progress(Lang::Ru, shown), "Ещё 12");
        assert_eq!(
            words.progress(Lang::En, shown),
            "Waiting in line, place 12."
        );
    }

    #[test]
    fn the_field_is_the_one_that_the_error_names_and_nothing_else_of_it() {
        #[rustfmt::skip]
        let table = [
            (Kind::InvalidJob, "input: expected an object, found null", "input"),
            (Kind::InvalidJob, "telegram.chat_id: expected an integer", "telegram.chat_id"),
            (Kind::InvalidJob, "(entry): expected one JSON object", ""),
            (Kind::InvalidJob, "the model in the record of this job cannot be read", ""),
            (Kind::InvalidInput, "fal answered 422 string_too_long at body.prompt: String should", "prompt"),
            (Kind::InvalidInput, "fal answered 422 missing at body.images.0.url: Field required", "images.0.url"),
            (Kind::InvalidInput, "fal answered 422 missing at body: Field required", ""),
            (Kind::InvalidInput, "fal answered 422 json_invalid at bodyguard: no", "bodyguard"),
            (Kind::InvalidInput, "fal answered 422: look at https://fal.ai: x", ""),
            (Kind::InvalidInput, "fal answered 422 x at https://fal.ai/a: no", ""),
            (Kind::InvalidInput, "fal answered 400: bad", ""),
            (Kind::InvalidInput, "fal answered 422 missing at <b>bold</b>: no", ""),
            (Kind::InvalidInput, "input_files.image_url: too big", "input_files.image_url"),
            (Kind::Timeout, "input: expected", ""),
            (Kind::Unavailable, "fal answered 500 x at body.prompt: y", ""),
        ];
        for (kind, error, expected) in table {
            assert_eq!(field(kind, error), expected, "{error}");
            assert_eq!(
                failure("[{field}]", kind, error),
                format!("[{expected}]"),
                "{error}"
            );
        }
        let long = format!("{}: wrong", "x".repeat(65));
        assert_eq!(field(Kind::InvalidJob, &long), "");
    }

    #[test]
    fn of_a_file_that_the_user_sent_nothing_is_said_as_if_it_were_a_result() {
        let job = JobId::new("order-1").unwrap();
        let says = |kind, error| Words::default().failure(Lang::En, kind, &job, error);
        for (kind, like) in [
            (Kind::FileTooBig, Kind::InvalidInput),
            (Kind::Telegram, Kind::Unavailable),
        ] {
            let text = says(kind, "input_files.image_url: the file is over 20 MB");
            assert_eq!(text, says(like, ""));
            assert_ne!(text, says(kind, "the file is over 50 MB"));
        }
        let mut words = Words::default();
        words
            .replace("en", "invalid_input", "Kind {kind}, {field}")
            .unwrap();
        let text = words.failure(Lang::En, Kind::FileTooBig, &job, "input_files.a: too big");
        assert_eq!(text, "Kind file_too_big, input_files.a");
    }

    #[test]
    fn what_no_user_should_read_is_refused_with_its_place_and_what_is_allowed() {
        let long = "x".repeat(1001);
        #[rustfmt::skip]
        let table = [
            ("de", "timeout", "x", "[de] is none of en, ru"),
            ("en", "timeuot", "x", "[en] has \"timeuot\", which is none of invalid_job, "),
            ("en", "timeout", "", "[en] timeout: it is empty"),
            ("en", "timeout", " \n ", "[en] timeout: it is empty"),
            ("en", "timeout", "{job}", "[en] timeout: it is empty"),
            ("en", "timeout", &long, "[en] timeout: 1001 characters are too many, at most 1000"),
            ("en", "timeout", "{place}!", "[en] timeout: {place} is unknown; allowed are {kind}, {job}, {field}; "),
            ("ru", "queued", "{job}!", "[ru] queued: {job} is unknown; allowed are {place}; "),
            ("en", "ready", "{job}!", "[en] ready: {job} is unknown; it takes no placeholder"),
            ("en", "timeout", "a { b", "[en] timeout: a { without its other half"),
            ("en", "timeout", "a } b {job}", "[en] timeout: a } without its other half"),
            ("en", "timeout", "a {} b", "[en] timeout: {} is unknown"),
            ("en", "timeout", "a\u{0}b", "[en] timeout: \\u{0} is in it"),
        ];
        for (lang, name, text, start) in table {
            let error = Words::default().replace(lang, name, text).unwrap_err();
            assert!(error.starts_with(start), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let just = format!("{}{{job}}", "я".repeat(995));
        Words::default().replace("ru", "timeout", &just).unwrap();
    }
}
