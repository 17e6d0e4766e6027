//! From an HTTP request to named arguments and files, by the rules of the Bot API server.
//!
//! It is its own room because a client gets multipart wrong in ways that only a parser with no mercy shows.

use serde_json::Value;

use crate::sandbox::http::{Request, decode_pairs, find, percent_decode};

/// All arguments of a request together.
const ARGUMENTS_LIMIT: usize = 1 << 20;
/// Heads of all parts together.
const HEADS_LIMIT: usize = 256 << 10;
/// Files of a request.
const FILES_LIMIT: usize = 50;

/// A file part; its bytes stay in the request.
#[derive(Debug)]
pub struct Upload<'a> {
    /// Name of the part.
    pub part: String,
    /// The `filename` of the part.
    pub file_name: String,
    /// Its content.
    pub bytes: &'a [u8],
}

/// The arguments of one call. Of equal names the first wins, the query string before the body.
#[derive(Debug, Default)]
pub struct Call<'a> {
    arguments: Vec<(String, Value)>,
    /// The file parts.
    pub files: Vec<Upload<'a>>,
    /// What a correct client would not have sent, for the list of violations.
    pub complaints: Vec<String>,
}

impl Call<'_> {
    /// An argument as text: numbers, booleans and objects of a JSON body as their JSON text; `""` when missing.
    pub fn text(&self, name: &str) -> String {
        match self.native(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }

    /// An argument that may be JSON text or the thing itself: `None` when missing or empty, `Err` when the text does
    /// not parse.
    pub fn object(&self, name: &str) -> Option<Result<Value, ()>> {
        match self.native(name)? {
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => Some(serde_json::from_str(text).map_err(|_| ())),
            other => Some(Ok(other.clone())),
        }
    }

    /// `true`, `yes`, `1` in any case; all else is false.
    pub fn flag(&self, name: &str) -> bool {
        matches!(
            self.text(name).to_ascii_lowercase().as_str(),
            "true" | "yes" | "1"
        )
    }

    /// An integer argument.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.text(name).trim().parse().ok()
    }

    /// The part of this name.
    pub fn file(&self, part: &str) -> Option<&Upload<'_>> {
        self.files.iter().find(|file| file.part == part)
    }

    /// All arguments as one object, for the journal.
    pub fn journal(&self) -> Value {
        // The first wins: later ones of the same name do not overwrite.
        let mut map = serde_json::Map::new();
        for (name, value) in &self.arguments {
            map.entry(name.as_str()).or_insert_with(|| value.clone());
        }
        Value::Object(map)
    }

    fn native(&self, name: &str) -> Option<&Value> {
        self.arguments
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value)
    }

    fn add(&mut self, name: String, text: String) {
        self.arguments.push((name, Value::String(text)));
    }
}

/// Reads a request; `Err` is the status of an empty answer after which the connection is closed.
pub fn read(request: &Request) -> Result<Call<'_>, u16> {
    let mut call = Call::default();
    for (name, value) in &request.query {
        call.add(name.clone(), value.clone());
    }
    if request
        .header("content-encoding")
        .is_some_and(|coding| coding != "identity")
    {
        return Err(415);
    }
    let full = request.header("content-type").unwrap_or("");
    let kind = full
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    match kind.as_str() {
        _ if request.body.is_empty() => {}
        "application/json" => read_json(&request.body, &mut call),
        "application/x-www-form-urlencoded" => {
            let text = String::from_utf8_lossy(&request.body);
            for (name, value) in decode_pairs(&text) {
                call.add(name, value);
            }
        }
        "multipart/form-data" => {
            let boundary = boundary(full).ok_or(400u16)?;
            read_multipart(&request.body, &boundary, &mut call)?;
        }
        other => call.complaints.push(format!(
            "content-type: a body of type \"{other}\" is not looked at"
        )),
    }
    for (at, file) in call.files.iter().enumerate() {
        let again = call.files[..at].iter().any(|other| other.part == file.part);
        if again || !file.part.is_ascii() {
            let text = format!("part-name: \"{}\" is not ASCII, or there twice", file.part);
            call.complaints.push(text);
        }
    }
    let total: usize = call
        .arguments
        .iter()
        .map(|(name, value)| name.len() + size_of_value(value))
        .sum();
    if total > ARGUMENTS_LIMIT || call.files.len() > FILES_LIMIT {
        return Err(413);
    }
    Ok(call)
}

fn size_of_value(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        other => other.to_string().len(),
    }
}

/// A broken body is not refused: here all of its arguments are missing (the real server keeps those before the break).
fn read_json(body: &[u8], call: &mut Call<'_>) {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(map)) => call.arguments.extend(map),
        _ => call
            .complaints
            .push("broken-json: the body is no JSON object".into()),
    }
}

fn boundary(content_type: &str) -> Option<String> {
    let at = content_type.to_ascii_lowercase().find("boundary=")?;
    let value = content_type[at + 9..]
        .split(';')
        .next()?
        .trim()
        .trim_matches('"');
    (1..=70).contains(&value.len()).then(|| value.to_owned())
}

fn read_multipart<'a>(body: &'a [u8], boundary: &str, call: &mut Call<'a>) -> Result<(), u16> {
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    let first = &delimiter[2..];
    // What stands before the first boundary is skipped.
    let mut at = if body.starts_with(first) {
        first.len()
    } else {
        find(body, &delimiter, 0).ok_or(400u16)? + delimiter.len()
    };
    let mut heads = 0;
    loop {
        if body[at..].starts_with(b"--") {
            return Ok(());
        }
        if !body[at..].starts_with(b"\r\n") {
            return Err(400);
        }
        // Searched from the line feed before the head, so that a part without a head is seen as such.
        let head_end = find(body, b"\r\n\r\n", at).ok_or(400u16)?;
        let head = body.get(at + 2..head_end).ok_or(400u16)?;
        heads += head.len();
        if heads > HEADS_LIMIT {
            return Err(431);
        }
        let start = head_end + 4;
        // An empty part: its delimiter may begin with the line feed that ended the head.
        let end = find(body, &delimiter, start - 2).ok_or(400u16)?;
        let content = body.get(start..end).unwrap_or(&[]);
        at = end + delimiter.len();
        let disposition = disposition(head).ok_or(400u16)?;
        let name = disposition.name.ok_or(400u16)?;
        match disposition.file_name {
            Some(file_name) => call.files.push(Upload {
                part: name,
                file_name,
                bytes: content,
            }),
            None => call.add(name, String::from_utf8_lossy(content).into_owned()),
        }
    }
}

struct Disposition {
    name: Option<String>,
    file_name: Option<String>,
}

fn disposition(head: &[u8]) -> Option<Disposition> {
    let head = String::from_utf8_lossy(head);
    let line = head.lines().find(|line| {
        line.to_ascii_lowercase()
            .starts_with("content-disposition:")
    })?;
    let mut rest = line.split_once(':')?.1.trim().strip_prefix("form-data;")?;
    let mut found = Disposition {
        name: None,
        file_name: None,
    };
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = quoted(after.trim_start())?;
        match key
            .trim()
            .trim_start_matches(';')
            .trim()
            .to_ascii_lowercase()
            .as_str()
        {
            "name" => found.name = Some(percent_decode(&value, false)),
            "filename" => found.file_name = Some(percent_decode(&value, false)),
            // `filename*` is ignored, as are all others.
            _ => {}
        }
        rest = after;
    }
    Some(found)
}

/// A quoted (with `\` escapes) or bare value, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let Some(inner) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return Some((text[..end].trim().to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &inner[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(content_type: &str, body: &[u8]) -> Request {
        Request {
            headers: vec![("content-type".into(), content_type.into())],
            query: vec![("chat_id".into(), "1".into())],
            body: body.to_vec(),
            ..Request::default()
        }
    }

    #[test]
    fn the_query_wins_over_the_body_and_native_values_become_text() {
        let request = request(
            "application/json; charset=utf-8",
            br#"{"chat_id":2,"n":[1,2],"yes":true,"null":null}"#,
        );
        let call = read(&request).expect("reads");
        assert_eq!(
            (call.text("chat_id"), call.text("n"), call.flag("yes")),
            ("1".into(), "[1,2]".into(), true)
        );
        assert_eq!(call.text("null"), "");
        assert_eq!(call.journal()["chat_id"], "1");
    }

    #[test]
    fn multipart_parts_with_a_file_name_are_files_and_others_are_arguments() {
        let body = b"--B\r\nContent-Disposition: form-data; name=\"caption\"\r\n\r\nhi\r\n\
            --B\r\nContent-Type: image/png\r\ncontent-disposition: form-data; name=\"f0\"; filename=\"a%25\\\"b.png\"\r\n\r\n\
            \x00\r\n--Bx\xFF\r\n--B\r\nContent-Disposition: form-data; name=\"empty\"; filename=\"e\"\r\n\r\n\r\n--B--\r\n";
        // `--Bx` inside a file is not a boundary only when the boundary is longer; use one that does not occur.
        let body = String::from_utf8_lossy(body).replace("--Bx", "--X");
        let request = request("multipart/form-data; boundary=B", body.as_bytes());
        let call = read(&request).expect("reads");
        assert_eq!(call.text("caption"), "hi");
        let file = call.file("f0").expect("is there");
        assert_eq!(file.file_name, "a%\"b.png");
        assert!(file.bytes.starts_with(b"\x00\r\n--X"));
        assert_eq!(call.file("empty").map(|file| file.bytes.len()), Some(0));
    }

    #[test]
    fn a_broken_multipart_body_is_refused_with_its_status() {
        let good = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n--B--\r\n";
        let cases = [
            ("multipart/form-data", good.to_owned(), 400),
            (
                "multipart/form-data; boundary=B",
                good.replace("--B--", "--"),
                400,
            ),
            (
                "multipart/form-data; boundary=B",
                good.replace(" name=\"a\"", ""),
                400,
            ),
            (
                "multipart/form-data; boundary=B",
                good.replace("form-data;", "attachment;"),
                400,
            ),
            (
                "multipart/form-data; boundary=B",
                good.replace("\r\nx\r\n", &format!("\r\n{}\r\n", "x".repeat(1 << 20))),
                413,
            ),
        ];
        for (content_type, body, status) in cases {
            let request = request(content_type, body.as_bytes());
            assert_eq!(
                read(&request).map(|_| ()).expect_err("refused"),
                status,
                "{content_type}"
            );
        }
    }

    #[test]
    fn unknown_types_and_broken_json_leave_the_arguments_missing() {
        for (content_type, body) in [("text/plain", "chat=2"), ("application/json", "{\"a\":1")] {
            let request = request(content_type, body.as_bytes());
            let call = read(&request).expect("reads");
            assert_eq!((call.text("a").as_str(), call.complaints.len()), ("", 1));
        }
    }
}
