//! A whole store as a file that people can read, and back again: records of an earlier format, kept as a
//! fixture. Values are written by type, not as Redis's own dumps, which a version of Redis may not read. Times
//! are moved when they are read, as if the store had been written now.

use super::World;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// Bytes of the step file's header and of each of its slots, and what stands before the text in each.
const BLOCK: usize = 16 << 10;
const FRAME: usize = 8;

/// Everything in Redis but what lives for seconds only.
pub fn dump(world: &mut World) -> Value {
    let mut keys: Vec<String> = world.redis(&["KEYS", "*"]);
    keys.retain(|key| !key.starts_with("fal:rate:") && key != "fal:bell" && key != "fal:audit");
    keys.sort();
    let mut all = Map::new();
    for key in keys {
        let kind: String = world.redis(&["TYPE", &key]);
        let value = match kind.as_str() {
            "string" => json!(world.redis::<String>(&["GET", &key])),
            "list" => json!(world.redis::<Vec<String>>(&["LRANGE", &key, "0", "-1"])),
            "set" => json!(world.redis::<Vec<String>>(&["SMEMBERS", &key])),
            "hash" => json!(world.redis::<Vec<(String, String)>>(&["HGETALL", &key])),
            "zset" => {
                json!(world.redis::<Vec<(String, String)>>(&[
                    "ZRANGE",
                    &key,
                    "0",
                    "-1",
                    "WITHSCORES"
                ]))
            }
            "stream" => {
                json!(world.redis::<Vec<(String, Vec<String>)>>(&["XRANGE", &key, "-", "+"]))
            }
            other => panic!("{key} is a {other}"),
        };
        let ttl: i64 = world.redis(&["PTTL", &key]);
        all.insert(key, json!({"type": kind, "ttl_ms": ttl, "value": value}));
    }
    json!(all)
}

/// Writes it into an empty Redis; `moved_ms`: how much later than then now is.
pub fn restore(world: &mut World, store: &Value, moved_ms: i64) {
    for (key, about) in store.as_object().unwrap() {
        let (kind, value) = (about["type"].as_str().unwrap(), &about["value"]);
        let texts = |value: &Value| -> Vec<String> {
            let list = value.as_array().unwrap().iter();
            list.map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        let later = |text: &str| (text.parse::<f64>().unwrap() as i64 + moved_ms).to_string();
        let mut commands: Vec<Vec<String>> = Vec::new();
        let mut command = |head: &[&str], rest: Vec<String>| {
            let head = head.iter().map(|word| (*word).to_owned());
            commands.push(head.chain(rest).collect());
        };
        match kind {
            "string" => command(&["SET", key], vec![value.as_str().unwrap().to_owned()]),
            "list" => command(&["RPUSH", key], texts(value)),
            "set" => command(&["SADD", key], texts(value)),
            "hash" => {
                for pair in value.as_array().unwrap() {
                    let pair = texts(pair);
                    let is_time = pair[0].ends_with("_at") || pair[0] == "since";
                    let said = if is_time {
                        later(&pair[1])
                    } else {
                        pair[1].clone()
                    };
                    command(&["HSET", key], vec![pair[0].clone(), said]);
                }
            }
            "zset" => {
                for pair in value.as_array().unwrap() {
                    let pair = texts(pair);
                    command(&["ZADD", key], vec![later(&pair[1]), pair[0].clone()]);
                }
            }
            "stream" => {
                for entry in value.as_array().unwrap() {
                    let id = entry[0].as_str().unwrap();
                    command(&["XADD", key, id], texts(&entry[1]));
                }
            }
            other => panic!("{key} is a {other}"),
        }
        for command in commands {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let _: redis::Value = world.redis(&words);
        }
        if let Some(ttl) = about["ttl_ms"].as_i64().filter(|ttl| *ttl > 0) {
            let _: u64 = world.redis(&["PEXPIRE", key, &ttl.to_string()]);
        }
    }
}

/// The texts in a step file, by their place, and those of the journal beside it: what lies between is holes.
pub fn dump_steps(world: &World) -> Value {
    let files = world.step_files().into_iter().map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let bytes = fs::read(&path).unwrap();
        let journal = name.ends_with("writes");
        let (mut texts, mut at) = (Vec::new(), 0);
        while at + FRAME <= bytes.len() {
            let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            if length > 0 {
                let text = bytes[at + FRAME..at + FRAME + length].iter();
                // Byte for character: the writes in it are binary to the file.
                texts.push(json!([
                    at,
                    text.map(|byte| char::from(*byte)).collect::<String>()
                ]));
            }
            at += if journal { FRAME + length } else { BLOCK };
        }
        (name, json!({"bytes": bytes.len(), "texts": texts}))
    });
    Value::Object(files.collect())
}

/// Writes the files again, each text with its length and checksum before it.
pub fn restore_steps(folder: &Path, files: &Value) {
    use std::os::unix::fs::PermissionsExt;
    let private = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir_all(folder).unwrap();
    private(folder.parent().unwrap(), 0o700);
    private(folder, 0o700);
    for (name, about) in files.as_object().unwrap() {
        let mut bytes = vec![0_u8; about["bytes"].as_u64().unwrap() as usize];
        for text in about["texts"].as_array().unwrap() {
            let at = text[0].as_u64().unwrap() as usize;
            let characters = text[1].as_str().unwrap().chars();
            let text: Vec<u8> = characters.map(|c| u8::try_from(c).unwrap()).collect();
            bytes[at..at + 4].copy_from_slice(&(text.len() as u32).to_le_bytes());
            bytes[at + 4..at + FRAME].copy_from_slice(&crc32fast::hash(&text).to_le_bytes());
            bytes[at + FRAME..at + FRAME + text.len()].copy_from_slice(&text);
        }
        fs::write(folder.join(name), bytes).unwrap();
        private(&folder.join(name), 0o600);
    }
}
