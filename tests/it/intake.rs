//! What comes in: whatever somebody pushes ends as a checked job or as a dead letter that names the
//! broken field, and neither stops nor forges anything.

use crate::hostile;
use crate::support::{SOON, World, eventually, job, said};
use fal_worker::job::spec::raw_excerpt;
use std::collections::BTreeMap;

/// Entries that are told: their chat can be read, whatever else is wrong.
fn has_readable_chat(entry: &[u8], field: &str) -> bool {
    let text = String::from_utf8_lossy(entry);
    text.contains(r#""telegram":{"chat_id":42,"#)
        && field != "telegram.chat_id"
        && field != "(entry)"
}

/// Every line begins with `2026-01-02T03:04:05.678Z LEVEL `.
fn assert_unforged(log: &str) {
    for line in log.lines() {
        let (time, rest) = line.split_once(' ').unwrap_or((line, ""));
        let shape: String = time
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000Z", "a forged line: {line}");
        let level = rest.trim_start().split(' ').next().unwrap_or("");
        assert!(
            ["ERROR", "WARN", "INFO", "DEBUG"].contains(&level),
            "a forged line: {line}"
        );
    }
}

#[test]
fn every_hostile_entry_becomes_a_dead_letter_and_stops_no_other_job() {
    let (mut world, mut daemon) = World::running();
    let mut bad = hostile::entries();
    let mut entries: Vec<Vec<u8>> = Vec::new();
    let mut good = Vec::new();
    for (number, (_, entry, _)) in bad.iter_mut().enumerate() {
        // Some have a valid id, and the same: then the second would be a duplicate of the first.
        if let Ok(text) = std::str::from_utf8(entry) {
            let own = format!(r#""id":"hostile-{number}""#);
            *entry = text.replace(r#""id":"a""#, &own).into_bytes();
        }
        entries.push(entry.clone());
        if number.is_multiple_of(10) {
            let id = format!("good-{number}");
            entries.push(job(&id).chat(77).json().into_bytes());
            good.push(id);
        }
    }
    world.push_all(&entries);
    let states = world.wait_ended(&good, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");

    // Dead letters have made ids: their number tells when the last has ended.
    let failed = eventually(
        SOON,
        || {
            let events = world.events();
            let ended = |event: &BTreeMap<String, String>| event["event"] == "failed";
            events.into_iter().filter(ended).collect::<Vec<_>>()
        },
        |failed| failed.len() >= bad.len(),
    );
    assert_eq!(failed.len(), bad.len());
    for event in &failed {
        assert_eq!(event["kind"], "invalid_job", "{event:?}");
        assert_eq!(event["charged"], "no", "{event:?}");
        assert_eq!(event["attempt"], "0", "{event:?}");
        assert!(event["error"].chars().count() <= 300, "{event:?}");
        let events = world.events_of(&event["job"]);
        assert_eq!(events.len(), 1, "more than `failed`: {events:?}");
    }

    // Each entry's text leads to its letter, and the letter names the entry's field.
    let mut letters: BTreeMap<String, Vec<BTreeMap<String, String>>> = BTreeMap::new();
    for event in &failed {
        let record = world.record(&event["job"]);
        assert_eq!(record["state"], "dead", "{record:?}");
        assert_eq!(record["kind"], "invalid_job", "{record:?}");
        assert_eq!(record["error"], event["error"], "{record:?}");
        assert!(record["raw"].len() <= 4096, "{}", event["error"]);
        assert!(!record["error"].contains(hostile::SECRET), "{record:?}");
        letters
            .entry(record["raw"].clone())
            .or_default()
            .push(record);
    }
    let mut to_tell = 0;
    for (name, entry, field) in &bad {
        let found = letters.get_mut(&raw_excerpt(entry));
        let found = found.unwrap_or_else(|| panic!("{name}: no letter with its text"));
        let at = found
            .iter()
            .position(|record| record["error"].starts_with(&format!("{field}:")));
        let at = at.unwrap_or_else(|| panic!("{name}: {field} is not named: {found:?}"));
        let record = found.swap_remove(at);
        if has_readable_chat(entry, field) {
            to_tell += 1;
            assert_eq!(
                record.get("told").map(String::as_str),
                Some("yes"),
                "{name}"
            );
        }
    }
    assert!(to_tell > 30, "the corpus has lost its chats: {to_tell}");
    let told = failed
        .iter()
        .filter(|event| {
            world
                .record(&event["job"])
                .get("told")
                .is_some_and(|told| told == "yes")
        })
        .count();
    let journal = world.sandbox.telegram.journal();
    let calls: Vec<_> = journal
        .iter()
        .filter(|call| call.method == "sendmessage")
        .collect();
    assert_eq!(calls.len(), told, "each user is told once");
    assert!(calls.iter().all(|call| call.status == 200));
    assert_eq!(world.sandbox.telegram.messages(77).len(), good.len());

    // What was held back of so many lines is told at the latest when it stops.
    assert_eq!(daemon.stop(), Some(0));
    let log = daemon.log_text();
    assert!(!log.contains("panic"), "{log}");
    assert!(!log.contains(hostile::SECRET), "the log tells an input");
    assert_unforged(&log);
    let told = said(&log, "job failed");
    for event in &failed {
        let job = event["job"].as_str();
        assert_eq!(told.get(job), Some(&1), "{job}");
    }
    assert_eq!(world.redis::<u64>(&["ZCARD", "fal:dead"]), bad.len() as u64);
    world.assert_clean();
}

#[test]
fn tricky_entries_that_break_no_rule_are_taken_as_they_are() {
    let mut world = World::new();
    let _: u64 = world.redis(&["HSET", "fal:paused", "reason", "test"]);
    let good = hostile::good_entries();
    let entries: Vec<&Vec<u8>> = good.iter().map(|(_, entry)| entry).collect();
    world.push_all(&entries);
    let daemon = world.daemon(&["--threads", "2"]);
    let events = eventually(SOON, || world.events(), |events| events.len() >= good.len());
    // Some of them carry the same id.
    for event in &events {
        assert!(
            matches!(event["event"].as_str(), "queued" | "duplicate"),
            "{event:?}"
        );
    }
    let specs: Vec<String> = world.redis(&["KEYS", "fal:spec:*"]);
    let mut kept: Vec<Vec<u8>> = specs.iter().map(|key| world.redis(&["GET", key])).collect();
    let queued = events.iter().filter(|event| event["event"] == "queued");
    assert_eq!(kept.len(), queued.count());
    kept.retain(|spec| !entries.contains(&spec));
    assert!(kept.is_empty(), "an entry was changed");
    assert_unforged(&daemon.log_text());
}

#[test]
fn what_is_no_json_object_is_told_to_nobody_and_named_entry() {
    let (mut world, _daemon) = World::running();
    world.push(r#"[{"id":"a","telegram":{"chat_id":42}}]"#);
    let events = eventually(SOON, || world.events(), |events| !events.is_empty());
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["event"], "failed");
    assert!(
        events[0]["error"].starts_with("(entry): "),
        "{:?}",
        events[0]
    );
    assert!(events[0]["job"].starts_with("j-"), "{:?}", events[0]);
    assert!(world.sandbox.telegram.journal().is_empty());
    world.assert_clean();
}

#[test]
fn a_broken_job_with_a_status_message_turns_it_into_the_reason() {
    use fal_worker::sandbox::telegram::Kind;
    let (mut world, _daemon) = World::running();
    let status = world.sandbox.telegram.plant_message(42, Kind::Text, false);
    world.push(
        job("broken")
            .chat(42)
            .telegram("status_message_id", status)
            .telegram("lang", "ru")
            .with("input", serde_json::Value::Null)
            .json(),
    );
    let record = world.wait_state("broken", "dead");
    assert_eq!(record["error"], "input: expected an object, found null");
    let messages = world.sandbox.telegram.messages(42);
    assert_eq!(messages.len(), 1, "{messages:#?}");
    assert_eq!(messages[0].id, status);
    assert_eq!(
        messages[0].text,
        "К сожалению, этот запрос не удалось обработать. Начните заново; если повторится, напишите в поддержку бота."
    );
    world.assert_clean();
}

#[test]
fn no_field_of_a_job_can_forge_a_line_of_the_log() {
    let (mut world, daemon) = World::running();
    let evil = "x\n2026-01-01T00:00:00.000Z INFO job done job=forged\r\u{2028}\u{1b}[2J";
    world.push(
        job("evil")
            .chat(9)
            .telegram("caption", evil)
            .with("meta", evil)
            .with("input", serde_json::json!({"prompt": evil}))
            .json(),
    );
    world.push(job("evil-user").with("user_id", evil).json());
    world.push(job("evil-priority").with("priority", evil).json());
    world.wait_state("evil", "done");
    world.wait_state("evil-user", "dead");
    world.wait_state("evil-priority", "dead");
    let log = daemon.log_text();
    assert_unforged(&log);
    assert!(!log.contains('\u{1b}') && !log.contains('\u{2028}'));
    world.assert_clean();
}

#[test]
fn a_backlog_of_large_entries_comes_in_whole_and_in_order() {
    let mut world = World::new();
    let entries: Vec<String> = (0..12)
        .map(|number| {
            let image = "A".repeat(900_000);
            format!(
                r#"{{"id":"large-{number}","model":"fal-ai/flux/dev","input":{{"prompt":"{number}","image":"{image}"}}}}"#
            )
        })
        .collect();
    world.push_all(&entries);
    let _daemon = world.daemon(&["--threads", "1", "--max-in-flight", "1"]);
    let ids: Vec<String> = (0..12).map(|number| format!("large-{number}")).collect();
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    let order: Vec<String> = world
        .sandbox
        .fal
        .submits()
        .iter()
        .map(|submit| {
            let input: serde_json::Value = serde_json::from_slice(&submit.input).unwrap();
            format!("large-{}", input["prompt"].as_str().unwrap())
        })
        .collect();
    assert_eq!(order, ids);
    world.assert_clean();
}

#[test]
fn an_entry_larger_than_the_memory_of_a_worker_is_a_dead_letter() {
    let mut world = World::new();
    let huge = format!(
        r#"{{"id":"huge","model":"a/b","input":{{"image":"{}"}}}}"#,
        "A".repeat(80 << 20)
    );
    world.push(&huge);
    world.push(job("small").chat(7).json());
    let daemon = world.spawn_in_little_memory(&["--threads", "2"], 200);
    world.wait_state("small", "done");
    let events = world.events();
    let failed: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "failed")
        .collect();
    assert_eq!(failed.len(), 1, "{events:?}");
    let error = format!(
        "(entry): expected one JSON object of at most 1 MiB, found {} bytes",
        huge.len()
    );
    assert_eq!(failed[0]["error"], error);
    let record = world.record(&failed[0]["job"]);
    assert_eq!(record["raw"], huge[..4096]);
    assert_eq!(daemon.logged(" ready "), 1, "{}", daemon.log_text());
    world.assert_clean();
}

#[test]
fn a_huge_entry_that_comes_while_a_worker_waits_is_a_dead_letter_too() {
    let (mut world, _daemon) = World::running();
    world.wait_idle();
    let huge = "A".repeat(20 << 20);
    world.push(&huge);
    world.push(job("small").chat(7).json());
    world.wait_state("small", "done");
    let events = world.events();
    let failed: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "failed")
        .collect();
    assert_eq!(failed.len(), 1, "{events:?}");
    assert!(
        failed[0]["error"].ends_with(" found 20971520 bytes"),
        "{failed:?}"
    );
    world.assert_clean();
}
