//! The files and texts in a result (fal-api section 7). Models agree on little more than "an object with
//! a `url`", so the JSON is walked in document order instead of by a list of names. Members are taken
//! apart level by level and never turned into numbers: seeds exceed 2^63, and a result must not be lost
//! to a `1e400` beside its picture.

use super::members::{self, Members};
use crate::job::answer::{File, Item, is_data};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

/// Deeper than this nothing is looked for.
const DEPTH: usize = 128;
/// Levels of a result in which texts are looked for.
const TEXT_DEPTH: usize = 8;
/// Files, and texts, that are taken from one result: a broken one may name a million, which no chat wants and no
/// worker has the memory for. At one a second, which is Telegram's limit for a chat, so many take seventeen minutes.
const MOST: usize = 1000;
/// So many files are looked through one by one.
const FEW: usize = 16;
/// Longest URL that is not a `data:` URI: HTTP libraries take up to 65,534 bytes.
const LONGEST_URL: usize = 60 << 10;

/// What a result holds.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Found {
    /// Files in document order, or texts if there are no files.
    pub items: Vec<Item>,
    /// Every output was replaced by a black image: a content policy, though a 200 and charged.
    pub all_flagged: bool,
    /// It names more than is sure to be an output: there may be an echo of the input among it.
    pub may_echo: bool,
}

/// Finds what is to be delivered.
pub fn outputs(json: &str) -> Found {
    outputs_but(json, &[])
}

/// The same without what [`echoes`] has found.
pub fn outputs_but(json: &str, echoes: &[u32]) -> Found {
    let Some(members) = Members::read(json) else {
        return Found::default();
    };
    let mut walk = Walk::of(&members);
    walk.leave_out(echoes);
    let bare = walk.bare;
    let (files, several) = walk.done();
    let (items, may_echo) = match files.is_empty() {
        false => {
            let may_echo = several || bare && !texts(&members).is_empty();
            (files.into_iter().map(Item::File).collect(), may_echo)
        }
        true => (texts(&members), false),
    };
    Found {
        items,
        all_flagged: all_flagged(&members),
        may_echo,
    }
}

/// Which of the files that a result names, counted in document order, are of the job's own input: models echo
/// `image_url` and such. `more`: URLs that were put into the input. By their numbers, which are short, and mean
/// the same to whoever reads the result later.
pub fn echoes(json: &str, input: &str, more: Vec<String>) -> Vec<u32> {
    let Some(members) = Members::read(json) else {
        return Vec::new();
    };
    let mut urls: HashSet<String> = more.into_iter().collect();
    if let Some(raw) = raw(input) {
        urls_in(raw, 0, &mut urls);
    }
    let walk = Walk::of(&members);
    let echoed = walk.files.iter().map(|met| urls.contains(&met.file.url));
    let echoed: Vec<bool> = echoed.collect();
    let first = walk.files.iter().map(|met| met.number).zip(0..);
    let mut all: Vec<u32> = first
        .chain(walk.again)
        .filter(|(_, which)| echoed[*which])
        .map(|(number, _)| number)
        .collect();
    all.sort_unstable();
    all
}

fn raw(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok()
}

fn list(raw: &RawValue) -> Option<Vec<&RawValue>> {
    if raw.get().starts_with('[') {
        serde_json::from_str(raw.get()).ok()
    } else {
        None
    }
}

fn text(raw: &RawValue) -> Option<String> {
    members::text(raw).map(Cow::into_owned)
}

/// A text to be shown: half a character, where a model cut its text in two, costs no more than itself.
fn shown(raw: &RawValue) -> Option<String> {
    text(raw).or_else(|| members::lossy(raw))
}

/// What a part of the result is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Main,
    /// A thumbnail, a configuration: delivered only if there is nothing else.
    Side,
}

/// A file, where it was met first.
struct Met {
    /// Its place among all that is named, doubles too.
    number: u32,
    role: Role,
    file: File,
}

struct Walk {
    /// Each URL once.
    files: Vec<Met>,
    /// Where it was named again: its number, and which of the files it is.
    again: Vec<(u32, usize)>,
    named: u32,
    /// Which file has a URL, by a hash of it: only where there are more than a few.
    by_hash: HashMap<u64, usize>,
    hasher: RandomState,
    /// One of them is a string, as what is echoed mostly is.
    bare: bool,
}

impl Walk {
    fn of(members: &Members) -> Walk {
        let mut walk = Walk {
            files: Vec::with_capacity(1), // as in most results
            again: Vec::new(),
            named: 0,
            by_hash: HashMap::new(),
            hasher: RandomState::new(),
            bare: false,
        };
        walk.members(members, Role::Main, 0);
        walk
    }

    fn meet(&mut self, role: Role, file: File) {
        let number = self.named;
        self.named += 1;
        if self.files.len() < FEW {
            let known = self.files.iter().position(|met| met.file.url == file.url);
            match known {
                Some(which) => self.again.push((number, which)),
                None => self.files.push(Met { number, role, file }),
            }
            return;
        }
        if self.by_hash.is_empty() {
            let hashes = self
                .files
                .iter()
                .map(|met| self.hasher.hash_one(&met.file.url));
            self.by_hash.extend(hashes.zip(0..));
        }
        let hash = self.hasher.hash_one(&file.url);
        let known = self.by_hash.get(&hash).copied();
        match known.filter(|&which| self.files[which].file.url == file.url) {
            Some(which) => self.again.push((number, which)),
            None if self.files.len() < MOST => {
                self.by_hash.insert(hash, self.files.len());
                self.files.push(Met { number, role, file });
            }
            None => {}
        }
    }

    fn members(&mut self, members: &Members, role: Role, depth: usize) {
        if let Some(file) = file(members) {
            self.meet(role, file);
        }
        for (key, raw) in members.iter() {
            if key != "url" && !is_echo(key) {
                let role = if is_side(key) { Role::Side } else { role };
                self.value(key, raw, role, depth + 1);
            }
        }
    }

    /// `key`: the member's name, for lists the name of the list.
    fn value(&mut self, key: &str, raw: &RawValue, role: Role, depth: usize) {
        if depth > DEPTH {
            return;
        }
        if let Some(members) = Members::of(raw) {
            self.members(&members, role, depth);
        } else if let Some(list) = list(raw) {
            for raw in list {
                self.value(key, raw, role, depth + 1);
            }
        } else if names_a_file(key)
            && let Some(url) = text(raw).filter(|url| is_url(url))
        {
            let file = finished(File {
                url,
                ..File::default()
            });
            self.meet(role, file);
            self.bare = true;
        }
    }

    fn leave_out(&mut self, numbers: &[u32]) {
        self.files.retain(|met| !numbers.contains(&met.number));
    }

    /// The files, and whether there are several, wanted or not.
    fn done(self) -> (Vec<File>, bool) {
        let several = self.files.len() > 1;
        let has_main = self.files.iter().any(|met| met.role == Role::Main);
        let wanted = if has_main { Role::Main } else { Role::Side };
        let wanted = self.files.into_iter().filter(|met| met.role == wanted);
        (wanted.map(|met| met.file).collect(), several)
    }
}

/// Names under which a bare string is a file.
fn names_a_file(key: &str) -> bool {
    const NAMES: &[&str] = &[
        "url", "urls", "image", "images", "video", "videos", "audio", "audios", "file", "files",
        "gif", "mesh", "output", "outputs",
    ];
    NAMES.contains(&key)
        || key.ends_with("_url")
        || key.ends_with("_urls")
        || key.ends_with("_file")
}

/// What models repeat of the input, and what fal adds around a result.
fn is_echo(key: &str) -> bool {
    let named = matches!(
        key,
        "input"
            | "inputs"
            | "arguments"
            | "parameters"
            | "params"
            | "request"
            | "logs"
            | "metrics"
            | "timings"
            | "detail"
            | "status_url"
            | "response_url"
            | "cancel_url"
            | "webhook_url"
    );
    named || key.ends_with("prompt") || key.ends_with("prompts") || key.starts_with("input_")
}

fn is_side(key: &str) -> bool {
    key.contains("thumbnail")
        || key == "config_file"
        || key == "preview"
        || key.ends_with("_preview")
}

fn starts(text: &str, scheme: &str) -> bool {
    text.get(..scheme.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(scheme))
}

fn is_http(text: &str) -> bool {
    starts(text, "https://") || starts(text, "http://")
}

/// What no URL holds as it is.
fn is_no_part(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

fn is_url(text: &str) -> bool {
    if is_data(text) {
        return text.contains(',');
    }
    let plain = text.len() <= LONGEST_URL && !text.chars().any(is_no_part);
    plain && is_http(text) && text.len() > "https://".len()
}

/// A URL from where only one may stand: what it cannot hold, such as the blanks of a file's name, is encoded.
fn mended(text: String) -> Option<String> {
    if is_url(&text) {
        return Some(text);
    }
    let text = text.trim();
    let (_, rest) = text.split_once("://").filter(|_| is_http(text))?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let mut url = String::new();
    for c in text.chars().filter(|_| !host.contains(is_no_part)) {
        if is_no_part(c) {
            let bytes = c.to_string().into_bytes();
            url.extend(bytes.iter().map(|byte| format!("%{byte:02X}")));
        } else {
            url.push(c);
        }
    }
    is_url(&url).then_some(url)
}

/// An object with a string `url`.
fn file(members: &Members) -> Option<File> {
    let get = |keys: &[&str]| {
        members
            .iter()
            .find(|(key, _)| keys.contains(key))
            .map(|(_, raw)| raw)
    };
    let number = |keys: &[&str]| {
        let number: f64 = get(keys)?.get().parse().ok()?;
        (number.is_finite() && number >= 0.0).then(|| number.round())
    };
    let small = |keys: &[&str]| {
        number(keys)
            .filter(|n| *n <= f64::from(u32::MAX))
            .map(|n| n as u32)
    };
    let url = text(get(&["url"])?).and_then(mended)?;
    Some(finished(File {
        url,
        content_type: get(&["content_type", "contentType", "mime_type"]).and_then(text),
        name: get(&["file_name", "fileName", "filename"])
            .and_then(text)
            .and_then(|name| bare_name(&name)),
        size: get(&["file_size", "fileSize"]).and_then(|raw| raw.get().parse().ok()),
        width: small(&["width"]).filter(|n| *n > 0),
        height: small(&["height"]).filter(|n| *n > 0),
        duration_s: small(&["duration"]),
        held: None,
    }))
}

/// The last part of a path, without control characters.
fn bare_name(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last.chars().filter(|c| !c.is_control()).take(128).collect();
    (!clean.is_empty() && clean != "." && clean != "..").then_some(clean)
}

/// The content type: what fal says, in lower case and bare, else by the URL.
fn finished(mut file: File) -> File {
    let said = file.content_type.take().map(|kind| {
        kind.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    });
    let said = said.filter(|kind| kind.contains('/'));
    let vague = matches!(
        said.as_deref(),
        None | Some("application/octet-stream" | "binary/octet-stream")
    );
    file.content_type = if vague {
        by_url(&file.url).or(said)
    } else {
        said
    };
    file
}

fn by_url(url: &str) -> Option<String> {
    if is_data(url) {
        let about = url[5..].split([',', ';']).next().unwrap_or_default();
        return about.contains('/').then(|| about.to_ascii_lowercase());
    }
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    let extension = name.rsplit_once('.')?.1.to_ascii_lowercase();
    let kind = match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "svg" => "image/svg+xml",
        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "mov" => "video/quicktime",
        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "wav" => "audio/wav",
        "ogg" | "oga" | "opus" => "audio/ogg",
        "flac" => "audio/flac",
        "glb" => "model/gltf-binary",
        "zip" => "application/zip",
        "json" => "application/json",
        "txt" => "text/plain",
        _ => return None,
    };
    Some(kind.to_owned())
}

/// Texts of a result without files: those of the shallowest level that has any. A transcript beside its
/// pieces is one text, and an answer may lie as deep as `choices[0].message.content`.
fn texts(top: &Members) -> Vec<Item> {
    let mut level: Vec<Members> = vec![top.clone()];
    let (mut found, mut known) = (Vec::new(), HashSet::new());
    for _ in 0..TEXT_DEPTH {
        let mut below = Vec::new();
        let members = level.iter().flat_map(Members::iter);
        for (key, raw) in members.filter(|(key, _)| !is_echo(key)) {
            if names_a_text(key) {
                let listed = list(raw).unwrap_or_default().into_iter().filter_map(shown);
                let some = shown(raw).into_iter().chain(listed);
                for text in some.filter(|text| !text.trim().is_empty()) {
                    if found.len() < MOST && known.insert(text.clone()) {
                        found.push(text);
                    }
                }
            }
            let listed = list(raw)
                .unwrap_or_default()
                .into_iter()
                .filter_map(Members::of);
            below.extend(Members::of(raw).into_iter().chain(listed));
        }
        if !found.is_empty() || below.is_empty() {
            break;
        }
        level = below;
    }
    found.into_iter().map(Item::Text).collect()
}

/// Names under which a string is meant to be read.
fn names_a_text(key: &str) -> bool {
    const NAMES: &[&str] = &[
        "output",
        "outputs",
        "text",
        "texts",
        "result",
        "results",
        "response",
        "answer",
        "content",
        "caption",
        "captions",
        "description",
        "transcript",
        "transcription",
        "generated_text",
    ];
    NAMES.contains(&key)
}

fn all_flagged(members: &Members) -> bool {
    members.iter().any(|(key, raw)| {
        key == "has_nsfw_concepts"
            && match list(raw) {
                Some(flags) => !flags.is_empty() && flags.iter().all(|flag| flag.get() == "true"),
                None => raw.get() == "true",
            }
    })
}

/// Every URL in the input, wherever it stands: one level deeper than files are looked for, since those
/// are found by their object and these by the string in it.
fn urls_in(raw: &RawValue, depth: usize, urls: &mut HashSet<String>) {
    if depth > DEPTH + 1 {
        return;
    }
    if let Some(text) = text(raw) {
        urls.extend(mended(text));
    } else if let Some(members) = Members::of(raw) {
        members
            .iter()
            .for_each(|(_, raw)| urls_in(raw, depth + 1, urls));
    } else {
        list(raw)
            .unwrap_or_default()
            .into_iter()
            .for_each(|raw| urls_in(raw, depth + 1, urls));
    }
}

#[cfg(test)]
#[rustfmt::skip] // tables: one case a line
mod tests;
