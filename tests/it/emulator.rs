//! A conversation with an implementation of the Bot API that is not ours: `lo-bot-api-emulator` from PyPI
//! models fewer methods and is stricter about their arguments. Where Python or the package cannot be had,
//! the test says so and passes.

use crate::support::{SOON, World, eventually, job};
use fal_worker::http::{Http, HttpSettings};
use fal_worker::telegram::{Call, Method, Telegram, Upload};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

const PACKAGE: &str = "lo-bot-api-emulator==0.3.6";

/// The emulator as a child; ended with the test.
struct Emulator {
    child: Child,
    url: String,
    journal: PathBuf,
    /// It ends when nobody reads what it says.
    _says: Lines<BufReader<ChildStdout>>,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request, from its journal.
#[derive(Debug)]
struct Request {
    method: String,
    fields: Vec<String>,
    status: u64,
}

impl Emulator {
    /// `Err`: why it cannot be had here.
    fn start(folder: &Path) -> Result<Emulator, String> {
        let program = installed()?;
        let journal = folder.join("emulator.journal");
        let mut child = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", "0", "--journal"])
            .arg(&journal)
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        // It says where it listens, or ends.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, after) = line.split_once("Running on ")?;
            after.split_whitespace().next().map(str::to_owned)
        });
        match url {
            Some(url) => Ok(Emulator {
                child,
                url,
                journal,
                _says: lines,
            }),
            None => {
                let _ = child.kill();
                let status = child.wait();
                Err(format!("it ended at once: {status:?}"))
            }
        }
    }

    fn requests(&self) -> Vec<Request> {
        let text = fs::read_to_string(&self.journal).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines
            .map(|line: Value| Request {
                method: line["method"].as_str().unwrap_or_default().to_owned(),
                fields: line["fields"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|field| field.as_str().map(str::to_owned))
                    .collect(),
                status: line["status"].as_u64().unwrap_or(0),
            })
            .collect()
    }
}

/// The program in a virtual environment that is kept between runs.
fn installed() -> Result<PathBuf, String> {
    static DONE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    DONE.get_or_init(install).clone()
}

fn install() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator-venv");
    let (program, whole) = (folder.join("bin/lo-bot-api-emulator"), folder.join("whole"));
    if whole.exists() && program.exists() {
        return Ok(program);
    }
    let _ = fs::remove_dir_all(&folder);
    let run = |command: &mut Command| {
        let output = command.stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    run(Command::new(folder.join("bin/python")).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "1",
        "--timeout",
        "15",
        PACKAGE,
    ]))?;
    fs::write(whole, "").map_err(|error| error.to_string())?;
    Ok(program)
}

/// `None`: it cannot be had here, which is said past the capture of what a passing test prints.
fn emulator(folder: &Path) -> Option<Emulator> {
    let started = Emulator::start(folder);
    started
        .map_err(|why| {
            let _ = writeln!(
                std::io::stderr(),
                "skipped: {PACKAGE} cannot be had here: {why}"
            );
        })
        .ok()
}

/// Documents go with an argument that it does not model, and an album needs several files: our client
/// alone, with the calls made here.
#[test]
fn a_foreign_implementation_takes_a_document_and_an_album_of_our_client() {
    let folder = tempfile::tempdir().unwrap();
    let Some(emulator) = emulator(folder.path()) else {
        return;
    };
    let http = Http::new(HttpSettings {
        threads: 1,
        plain_http: Vec::new(),
    });
    let token = format!("123456:{}", "A".repeat(35));
    let telegram = Telegram::new(http, emulator.url.clone(), token);
    let call = |method, args: Value, part| Call {
        method,
        args: args.as_object().unwrap().clone(),
        file_part: Some(part),
        by_url: false,
    };
    let mut bytes: [&[u8]; 2] = [b"%PDF-1.4 one", b"%PDF-1.4 two"];
    let [one, two] = &mut bytes;
    fn file<'a>(reader: &'a mut &[u8], file_name: &'a str) -> Upload<'a> {
        Upload {
            len: reader.len() as u64,
            reader,
            file_name,
            content_type: "application/pdf",
        }
    }
    let args = json!({"chat_id": 7, "document": "attach://f0", "caption": "a"});
    let sent = telegram.perform(
        &call(Method::SendDocument, args, "f0"),
        Some(file(&mut &one[..], "a.pdf")),
    );
    assert_eq!(sent.unwrap().file_ids.len(), 1);
    let media = json!([
        {"type": "document", "media": "attach://f0", "caption": "both"},
        {"type": "document", "media": "attach://f1"},
    ]);
    let args = json!({"chat_id": 7, "media": media});
    let album = call(Method::SendMediaGroup, args, "f0");
    let sent = telegram
        .perform_with(&album, vec![file(one, "a.pdf"), file(two, "b.pdf")])
        .unwrap();
    assert_eq!((sent.message_ids.len(), sent.file_ids.len()), (2, 2));
    let requests = eventually(SOON, || emulator.requests(), |all| all.len() >= 2);
    let methods: Vec<&str> = requests.iter().map(|one| one.method.as_str()).collect();
    assert_eq!(methods, ["sendDocument", "sendMediaGroup"]);
}

#[test]
fn a_foreign_implementation_takes_what_the_worker_sends() {
    let mut world = World::new();
    let Some(emulator) = emulator(world.folder.path()) else {
        return;
    };
    world.telegram_url = Some(emulator.url.clone());
    let _daemon = world.daemon(&["--threads", "4", "--delivery", "upload"]);
    let keyboard = json!({"inline_keyboard": [[{"text": "Again", "callback_data": "again"}]]});
    let entries = [
        job("text").model("fal-ai/any-llm").chat(7).json(),
        job("photo")
            .chat(7)
            .telegram("caption", "<b>Done</b>")
            .telegram("parse_mode", "HTML")
            .telegram("reply_markup", keyboard)
            .json(),
        job("video")
            .model("fal-ai/kling-video/v2/master/text-to-video")
            .chat(7)
            .json(),
    ];
    for (entry, id) in entries.iter().zip(["text", "photo", "video"]) {
        world.push(entry);
        let record = world.wait_state(id, "done");
        assert!(!record["message_ids"].is_empty(), "{record:?}");
    }
    let requests = eventually(SOON, || emulator.requests(), |all| all.len() >= 3);
    let methods: Vec<&str> = requests.iter().map(|one| one.method.as_str()).collect();
    assert_eq!(methods, ["sendMessage", "sendPhoto", "sendVideo"]);
    assert!(requests.iter().all(|one| one.status == 200), "{requests:?}");
    let photo = &requests[1].fields;
    for field in ["caption", "chat_id", "parse_mode", "reply_markup"] {
        assert!(photo.iter().any(|name| name == field), "{photo:?}");
    }
}
