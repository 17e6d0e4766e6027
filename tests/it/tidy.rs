//! The source itself: which room may import which, what may not be linked, what may not be left lying
//! about. The layers are those of `src/lib.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Rooms by layer, the lowest first; a room imports from lower layers and from itself.
const LAYERS: [&[&str]; 8] = [
    &["job"],
    &["config", "report"],
    &["http"],
    &["fal", "telegram", "store", "recorder"],
    &["steps"],
    &["daemon"],
    &["sandbox"],
    &["cli", "main", "lib"],
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder with this ending, by their path from the repository.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![repository().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().unwrap().ends_with(ending) {
                let text = fs::read_to_string(&path).unwrap();
                let name = path.strip_prefix(repository()).unwrap();
                found.push((name.to_str().unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} in {folder}");
    found.sort();
    found
}

fn is_test_file(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/")
}

/// Code without comments and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// `src/http/socket.rs` -> `http`.
fn room_of(name: &str) -> &str {
    let inside = name.strip_prefix("src/").unwrap();
    let room = inside.split('/').next().unwrap();
    room.strip_suffix(".rs").unwrap_or(room)
}

fn layer_of(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

/// What follows each `crate::` in the code: the room, and what is taken from it.
fn imports(code: &str) -> impl Iterator<Item = (&str, &str)> {
    code.match_indices("crate::")
        .filter(|(at, _)| {
            // Not `fal_worker_crate::`, not `$crate::`.
            !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$')
        })
        .map(|(at, prefix)| {
            let rest = &code[at + prefix.len()..];
            let end = rest.find([';', ',', '(', ')', ' ', '\n', '<', '>']);
            let path = &rest[..end.unwrap_or(rest.len())];
            let room = path.split("::").next().unwrap();
            (room, path)
        })
}

#[test]
fn every_room_stands_in_the_layer_table() {
    for (name, _) in files("src", ".rs") {
        let room = room_of(&name);
        assert!(
            layer_of(room).is_some(),
            "{name}: `{room}` has no layer: see the table in src/lib.rs"
        );
    }
    // And the table that people read says the same.
    let (_, map) = files("src", "lib.rs").remove(0);
    for (layer, rooms) in LAYERS.iter().enumerate() {
        let row = map
            .lines()
            .find(|line| line.starts_with(&format!("//! | {layer} ")))
            .unwrap_or_else(|| panic!("src/lib.rs has no row for layer {layer}"));
        for room in rooms.iter().filter(|room| **room != "lib") {
            assert!(
                row.contains(&format!("`{room}`")),
                "`{room}` is not in: {row}"
            );
        }
    }
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for (name, text) in files("src", ".rs") {
        if is_test_file(&name) {
            continue;
        }
        let own = room_of(&name);
        for (room, path) in imports(&code(&text)) {
            if room == own {
                continue;
            }
            let Some(layer) = layer_of(room) else {
                wrong.push(format!("{name}: crate::{path}: write one `use` a room"));
                continue;
            };
            if layer >= layer_of(own).unwrap() {
                wrong.push(format!(
                    "{name} imports crate::{path}, which is not below it"
                ));
            }
            // The stand-ins share nothing with what they test; demo and load test may read the store, and the latter
            // count the threads that the gate lets in.
            let read_only = path.starts_with("store::view") || path == "store::Fault";
            let may = match name.as_str() {
                "src/sandbox/demo.rs" => read_only,
                "src/sandbox/loadtest.rs" => read_only || path == "steps::gate",
                _ => false,
            };
            if own == "sandbox" && !may {
                wrong.push(format!(
                    "{name} imports crate::{path}: a stand-in knows nothing of ours"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_check_of_imports_sees_what_it_must() {
    let text = "use crate::http::Http;\n// crate::sandbox\nlet x = crate::config::X(crate::report);\n\
                use crate::{a, b};\n#[cfg(test)]\nmod tests {\n    use crate::daemon;\n}\n";
    let code = code(text);
    let seen: Vec<_> = imports(&code).map(|(room, _)| room).collect();
    assert_eq!(seen, ["http", "config", "report", "{a"]);
    assert_eq!(layer_of("{a"), None);
}

#[test]
fn no_asynchronous_runtime_is_linked() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "-e", "normal", "--prefix", "none", "--locked"])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(
        tree.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.contains("ureq v"), "{tree}");
    for line in tree.lines() {
        let package = line.split(' ').next().unwrap();
        let runtime = [
            "tokio",
            "async-std",
            "smol",
            "futures-executor",
            "async-executor",
        ];
        assert!(!runtime.contains(&package), "linked: {line}");
    }
}

#[test]
fn nothing_is_left_lying_about() {
    let leftovers = [
        concat!("todo", "!("),
        concat!("dbg", "!("),
        concat!("unimplemented", "!("),
        concat!("un", "safe {"),
        concat!("un", "safe fn"),
        concat!("un", "safe impl"),
    ];
    for (name, text) in [files("src", ".rs"), files("tests", ".rs")].concat() {
        for leftover in leftovers {
            assert!(!text.contains(leftover), "{name}: {leftover}");
        }
    }
}

#[test]
fn every_file_says_why_it_exists() {
    for (name, text) in [files("src", ".rs"), files("tests", ".rs")].concat() {
        let first = text.lines().next().unwrap_or_default();
        // A module of unit tests belongs to the file that it tests.
        if !name.starts_with("src/") || !is_test_file(&name) {
            assert!(first.starts_with("//! "), "{name} begins with: {first}");
        }
    }
}

/// Whether this code has the method `caller` (`Session::take`), and it names this script.
fn calls(code: &str, caller: &str, script: &str) -> bool {
    let Some((owner @ ("Session" | "View"), method)) = caller.split_once("::") else {
        return false;
    };
    let script = format!("scripts.{script}");
    code.split("\nimpl ")
        .filter_map(|block| block.strip_prefix(owner)?.strip_prefix(" {"))
        .flat_map(|methods| methods.split("\n    }\n"))
        .filter(|code| {
            let starts = ["(", "<"].map(|open| format!("fn {method}{open}"));
            starts.iter().any(|start| code.contains(start))
        })
        .any(|code| {
            let mut names = code.split(&script).skip(1);
            names.any(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
}

#[test]
fn the_check_of_callers_sees_what_it_must() {
    let code = "\nimpl Session {\n    fn take(&self) {\n        scripts.take_back\n    }\n\n    \
                fn give<T>() {\n        scripts.give\n    }\n}\n\nimpl View {\n    fn ask() {\n        \
                scripts.ask\n    }\n}\n";
    for (caller, script) in [("Session::give", "give"), ("View::ask", "ask")] {
        assert!(calls(code, caller, script), "{caller}");
    }
    for (caller, script) in [
        ("Session::take", "take"),
        ("Session::ask", "ask"),
        ("Store::give", "give"),
        ("Session::giv", "give"),
        ("give", "give"),
    ] {
        assert!(!calls(code, caller, script), "{caller}");
    }
}

#[test]
fn every_script_has_its_head() {
    let (_, loader) = files("src/store", "script.rs").remove(0);
    let store: Vec<String> = files("src/store", ".rs")
        .into_iter()
        .filter(|(name, _)| !is_test_file(name))
        .map(|(_, text)| code(&text))
        .collect();
    for (name, text) in files("src/store/lua", ".lua") {
        let stem = name
            .rsplit('/')
            .next()
            .unwrap()
            .strip_suffix(".lua")
            .unwrap();
        let head: Vec<&str> = text
            .lines()
            .take_while(|line| line.starts_with("--"))
            .collect();
        assert!(
            head.first()
                .is_some_and(|line| line.starts_with(&format!("-- {stem}: "))),
            "{name} does not begin with its name"
        );
        // Pieces that stand in front of others or behind them have neither keys nor a caller of their own.
        let part = [": shared by ", ": put in front of ", ": the rest of "];
        if part.iter().any(|words| head[0].contains(words)) {
            continue;
        }
        for part in ["KEYS", "ARGV", "GIVES", "CALLER"] {
            let said = head
                .iter()
                .any(|line| line.starts_with(&format!("-- {part} ")));
            assert!(said, "{name} has no {part}");
        }
        let callers = head.iter().find_map(|line| line.strip_prefix("-- CALLER "));
        for caller in callers.unwrap_or_default().split(", ") {
            assert!(
                store.iter().any(|text| calls(text, caller, stem)),
                "{name}: CALLER {caller} does not call it"
            );
        }
        assert!(
            loader.contains(&format!("{stem}.lua")) || loader.contains(&format!("\"{stem}\"")),
            "{name} is loaded by nobody"
        );
    }
}

#[test]
fn no_file_holds_a_path_of_the_machine_it_was_written_on() {
    let places = [
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
    ];
    let mut texts = [
        files("src", ""),
        files("tests", ".rs"),
        files("systemd", ""),
    ]
    .concat();
    for name in ["README.md", "Cargo.toml", "tests/run", ".ci/run"] {
        texts.push((
            name.to_owned(),
            fs::read_to_string(repository().join(name)).unwrap(),
        ));
    }
    for (name, text) in texts {
        for place in places {
            assert!(!text.contains(place), "{name} holds {place}");
        }
    }
}
