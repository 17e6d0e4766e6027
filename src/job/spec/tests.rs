//! Tests of contract section 1; the corpus is shared with the tests of the whole intake.

use super::*;

mod fuzz;

#[path = "../../../tests/it/hostile.rs"]
mod hostile;

/// 2026-10-01, so that the contract's example lies ahead.
const NOW: UnixMs = UnixMs(1_790_812_800_000);

fn good(entry: &str) -> Spec {
    parse(entry.as_bytes(), Some(NOW))
        .unwrap_or_else(|invalid| panic!("{}: {entry}", invalid.error))
}

fn bad(entry: &str) -> Box<Invalid> {
    parse(entry.as_bytes(), Some(NOW)).expect_err(entry)
}

/// An error that any log and any event can carry.
fn assert_presentable(error: &str, case: &str) {
    assert!(
        error.chars().count() <= 300,
        "{case}: {} characters",
        error.chars().count()
    );
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202e}');
    assert!(!error.contains(breaks), "{case}: {error:?}");
    assert!(error.contains(": "), "{case}: {error}");
}

#[test]
fn every_hostile_entry_is_refused_by_the_name_of_its_field() {
    let entries = hostile::entries();
    assert!(entries.len() >= 80, "{}", entries.len());
    for (name, entry, field) in entries {
        let Err(invalid) = parse(&entry, Some(NOW)) else {
            panic!("{name}: taken")
        };
        let Invalid { error, .. } = &*invalid;
        assert!(error.starts_with(&format!("{field}: ")), "{name}: {error}");
        assert_presentable(error, name);
        assert!(!error.contains(hostile::SECRET), "{name} echoes: {error}");
        assert!(
            !error.contains("found an object") || field != "(entry)",
            "{name}: {error}"
        );
    }
}

#[test]
fn the_names_of_the_corpus_are_unique() {
    let mut names: Vec<_> = hostile::entries()
        .into_iter()
        .map(|(name, ..)| name)
        .collect();
    names.extend(hostile::good_entries().into_iter().map(|(name, _)| name));
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn every_tricky_but_valid_entry_is_taken_now_and_later() {
    let entries = hostile::good_entries();
    assert!(entries.len() >= 25, "{}", entries.len());
    for (name, entry) in entries {
        for now in [Some(NOW), None, Some(UnixMs(i64::MAX))] {
            if let Err(invalid) = parse(&entry, now) {
                panic!("{name}: {}", invalid.error);
            }
        }
    }
}

#[test]
fn no_nesting_overflows_a_small_stack() {
    let run = || {
        for (name, entry, _) in hostile::entries() {
            assert!(parse(&entry, Some(NOW)).is_err(), "{name}");
        }
        for (name, entry) in hostile::good_entries() {
            assert!(parse(&entry, Some(NOW)).is_ok(), "{name}");
        }
    };
    let thread = std::thread::Builder::new().stack_size(128 << 10).spawn(run);
    thread.expect("a thread starts").join().expect("no panic");
}

#[test]
fn the_input_stays_byte_for_byte() {
    for (name, json) in hostile::GOOD_INPUTS {
        let spec = good(&format!("{{\"input\" : {json} , \"model\":\"a/b\"}}"));
        assert_eq!(spec.input.get(), json, "{name}");
    }
    let spaced = "{ \"a\" :\n[ 1 ,\t2 ] }";
    assert_eq!(
        good(&format!(r#"{{"model":"a/b","input":{spaced}}}"#))
            .input
            .get(),
        spaced
    );
}

#[test]
fn the_contracts_example_is_read_completely() {
    let spec = good(hostile::EXAMPLE);
    assert_eq!(spec.id, JobId::new("order-8812"));
    assert_eq!(spec.model.as_str(), "fal-ai/flux/dev");
    assert_eq!(spec.user.as_deref(), Some("42"));
    assert_eq!(
        (spec.timeout_s, spec.max_attempts, spec.repay),
        (Some(600), Some(3), false)
    );
    assert_eq!(spec.not_before, Some(UnixMs(1_795_000_000_000)));
    assert_eq!(spec.expires_at, Some(UnixMs(1_795_003_600_000)));
    assert_eq!((spec.priority, spec.via), (Priority::Default, Via::Queue));
    let fal = FalSwitches {
        low_priority: Some(false),
        store_io: Some(false),
        fallback: Some(false),
        object_lifetime_s: Some(86_400),
        runner_hint: None,
    };
    assert_eq!(spec.fal, fal);
    assert_eq!(
        spec.meta.as_ref().map(|meta| meta.get()),
        Some(r#"{"order": 8812}"#)
    );
    let target = spec.telegram.expect("a target");
    assert_eq!(target.chat, ChatId::Id(42));
    assert_eq!(target.status_message_id, Some(310));
    assert_eq!(target.message_thread_id, Some(7));
    assert_eq!(target.reply_to_message_id, Some(305));
    assert_eq!(target.caption.as_deref(), Some("<b>Done</b>"));
    assert_eq!(target.parse_mode, Some(ParseMode::Html));
    let keyboard = r#"{"inline_keyboard": [[{"text": "Again", "callback_data": "again"}]]}"#;
    assert_eq!(
        target.reply_markup.as_ref().map(|markup| markup.get()),
        Some(keyboard)
    );
    assert_eq!(
        (target.send_as, target.ping, target.lang),
        (SendAs::Auto, Ping::Auto, Some(Lang::Ru))
    );
}

#[test]
fn files_of_the_input_are_read_in_their_order() {
    let spec = good(
        r#"{"model":"a/b","input":{"image_url":null,"x":{"mask":1}},
        "input_files":{"image_url":"AgACAgIAAx0-_","mask":["b","a"]}}"#,
    );
    let files: Vec<(String, &str)> = spec.files.files().collect();
    let named = |place: &str, id| (place.to_owned(), id);
    assert_eq!(
        files,
        [
            named("image_url", "AgACAgIAAx0-_"),
            named("mask[0]", "b"),
            named("mask[1]", "a")
        ]
    );
    for none in ["{}", "null"] {
        let spec = good(&format!(
            r#"{{"model":"a/b","input":{{"a":1}},"input_files":{none}}}"#
        ));
        assert!(spec.files.is_empty());
    }
}

/// Each of them may be a whole entry: whatever it is made of, it is read at a pace of its own length.
#[test]
fn no_entry_of_a_mebibyte_takes_long_to_read() {
    let many = |length: usize, piece: &dyn Fn(usize) -> String| -> String {
        let (mut out, mut number) = (String::new(), 0);
        while out.len() < length {
            let comma = if number == 0 { "" } else { "," };
            out.push_str(&format!("{comma}{}", piece(number)));
            number += 1;
        }
        out
    };
    let (half, most) = (MAX_ENTRY / 2 - 200, MAX_ENTRY - 400);
    let file = |number: usize| format!(r#""m{number:x}":"x""#);
    let entries = [
        // Members to be filled, and as many that are there.
        format!(
            r#""input":{{{}}},"input_files":{{{}}}"#,
            many(half, &|number| format!(r#""i{number:x}":0"#)),
            many(half, &file)
        ),
        format!(
            r#""input":{{{}}},"input_files":{{{}}}"#,
            many(most, &|number| format!(r#""\u0069{number:x}":0"#)),
            many(20, &file)
        ),
        format!(
            r#""input":{{}},"input_files":{{"a":[{}]}}"#,
            many(most, &|_| r#""x""#.to_owned())
        ),
        // Keys of the entry that are unknown, escaped, and given again and again.
        format!(r#""input":{{}},{}"#, many(most, &file)),
        format!(
            r#""input":{{}},{}"#,
            many(most, &|_| r#""\u006det":0"#.to_owned())
        ),
        format!(
            r#""input":{{}},{}"#,
            many(most, &|_| r#""meta":0"#.to_owned())
        ),
        format!(
            r#""input":{{}},"telegram":{{"chat_id":7,{}}}"#,
            many(most, &|_| r#""caption":"x""#.to_owned())
        ),
        format!(
            r#""input":{{"a":{}{}}}"#,
            "[".repeat(half),
            "]".repeat(half)
        ),
    ];
    for entry in entries {
        let entry = format!(r#"{{"model":"a/b",{entry}}}"#);
        let start = &entry[..80];
        assert!(
            (MAX_ENTRY - 500..=MAX_ENTRY).contains(&entry.len()),
            "{start}: {}",
            entry.len()
        );
        let began = std::time::Instant::now();
        let _ = parse(entry.as_bytes(), None);
        let took = began.elapsed();
        println!("{took:?} {start}");
        assert!(took < std::time::Duration::from_secs(9), "{took:?} {start}");
    }
}

#[test]
fn the_keyboard_of_a_status_message_is_kept_apart_from_the_results() {
    let spec = good(
        r#"{"model":"a/b","input":{},"telegram":{"chat_id":1,"status_message_id":2,
        "status_markup":{"inline_keyboard": []}}}"#,
    );
    let target = spec.telegram.expect("a target");
    let kept = target.status_markup.as_ref().map(|markup| markup.get());
    assert_eq!(kept, Some(r#"{"inline_keyboard": []}"#));
    assert!(target.reply_markup.is_none());
    let wrong = r#"{"model":"a/b","input":{},"telegram":{"chat_id":1,"status_markup":[]}}"#;
    let error = parse(wrong.as_bytes(), None).unwrap_err().error;
    let expected = "telegram.status_markup: expected an object, found an array";
    assert_eq!(error, expected);
}

#[test]
fn values_other_than_the_defaults_arrive() {
    let spec = good(
        r#"{"model":"a/b","input":{},"priority":"low","via":"direct","repay":true,
        "fal":{"priority":"low","store_io":true,"fallback":true,"object_lifetime_s":1,"runner_hint":"a-1"},
        "telegram":{"chat_id":"@durov","send_as":"animation","parse_mode":"MarkdownV2","ping":"never",
        "disable_notification":true,"protect_content":true,"has_spoiler":true,"lang":"en"}}"#,
    );
    assert_eq!(
        (spec.priority, spec.via, spec.repay),
        (Priority::Low, Via::Direct, true)
    );
    assert_eq!(
        spec.user.as_deref(),
        Some("@durov"),
        "without a user the chat counts"
    );
    let FalSwitches {
        low_priority,
        store_io,
        fallback,
        object_lifetime_s,
        runner_hint,
    } = spec.fal;
    assert_eq!(
        (low_priority, store_io, fallback),
        (Some(true), Some(true), Some(true))
    );
    assert_eq!(
        (object_lifetime_s, runner_hint.as_deref()),
        (Some(1), Some("a-1"))
    );
    let target = spec.telegram.expect("a target");
    assert!(target.disable_notification && target.protect_content && target.has_spoiler);
    assert_eq!(target.chat, ChatId::Name("@durov".into()));
    assert_eq!(
        (target.send_as, target.ping, target.lang),
        (SendAs::Animation, Ping::Never, Some(Lang::En))
    );
    assert_eq!(target.parse_mode.map(ParseMode::as_str), Some("MarkdownV2"));
}

#[test]
fn a_user_is_its_text_however_it_is_written() {
    let digits = "9".repeat(128);
    for (json, user) in [
        ("42", "42"),
        (r#""42""#, "42"),
        (r#""\u00342""#, "42"),
        ("-42", "-42"),
        ("-0", "0"),
        ("18446744073709551616", "18446744073709551616"),
        (digits.as_str(), digits.as_str()),
        (r#""Ünï""#, "Ünï"),
        ("null", "7"),
    ] {
        let spec = good(&format!(
            r#"{{"model":"a/b","input":{{}},"user_id":{json},"telegram":{{"chat_id":7}}}}"#
        ));
        assert_eq!(spec.user.as_deref(), Some(user), "{json}");
    }
    assert_eq!(good(r#"{"model":"a/b","input":{}}"#).user, None);
}

#[test]
fn errors_say_what_was_expected_and_what_was_found() {
    let model = r#""model":"a/b""#;
    for (entry, error) in [
        (
            format!(r#"{{{model},"input":null}}"#),
            "input: expected an object, found null",
        ),
        (
            format!("{{{model}}}"),
            "input: expected an object, found nothing",
        ),
        (
            format!(r#"{{{model},"input":[1]}}"#),
            "input: expected an object, found an array",
        ),
        (
            r#"{"model":7,"input":{}}"#.into(),
            "model: expected owner/name, found 7",
        ),
        (
            r#"{"model":"a/b?c","input":{}}"#.into(),
            "model: expected owner/name of [A-Za-z0-9._-], at most 256 bytes, found '?' in it",
        ),
        (
            format!(r#"{{{model},"input":{{}},"timeout_s":600.0}}"#),
            "timeout_s: expected an integer from 1 to 86400, found 600.0",
        ),
        (
            format!(r#"{{{model},"input":{{}},"priority":"urgent\n"}}"#),
            r#"priority: expected one of high, default, low, found "urgent\n""#,
        ),
        (
            format!(r#"{{{model},"input":{{}},"input_files":["a"]}}"#),
            "input_files: expected an object, found an array",
        ),
        (
            format!(r#"{{{model},"input":{{"a":1}},"input_files":{{"a":"x"}}}}"#),
            "input_files.a: input has it already",
        ),
        (
            format!(r#"{{{model},"input":{{"\u0061":[]}},"input_files":{{"a":"x"}}}}"#),
            "input_files.a: input has it already",
        ),
        (
            format!(r#"{{{model},"input":{{}},"input_files":{{"a":"x","a":"y"}}}}"#),
            "input_files.a: given twice",
        ),
        (
            format!(r#"{{{model},"input":{{}},"input_files":{{"a.b":"x"}}}}"#),
            "input_files: expected members of 1-64 of [A-Za-z0-9_-], found another name",
        ),
        (
            format!(r#"{{{model},"input":{{}},"input_files":{{"a":{{"url":"x"}}}}}}"#),
            "input_files.a: expected a file id or a list of them, found an object",
        ),
        (
            format!(r#"{{{model},"input":{{}},"input_files":{{"a":null}}}}"#),
            "input_files.a: expected a file id or a list of them, found null",
        ),
        (
            format!(r#"{{{model},"input":{{}},"input_files":{{"a":[]}}}}"#),
            "input_files.a: expected 1 to 10 file ids, found 0",
        ),
        (
            format!(r#"{{{model},"input":{{}},"input_files":{{"a":["x",7]}}}}"#),
            "input_files.a: expected file ids of 1-256 of [A-Za-z0-9_-], found another value",
        ),
        (
            format!(r#"{{{model},"input":{{}},"input_files":{{"a":"https://x/y"}}}}"#),
            "input_files.a: expected file ids of 1-256 of [A-Za-z0-9_-], found another value",
        ),
        (
            format!(
                r#"{{{model},"input":{{}},"input_files":{{"a":["x","x","x","x","x","x"],"b":["x","x","x","x","x"]}}}}"#
            ),
            "input_files: expected at most 10 files a job, found 11",
        ),
        (
            format!(
                r#"{{{model},"input":{{}},"input_files":{{"a":"x","b":"x","c":"x","d":"x","e":"x","f":"x","g":"x","h":"x","i":"x","j":"x","k":"x"}}}}"#
            ),
            "input_files: expected at most 10 files a job, found more than 10",
        ),
        (
            format!(r#"{{{model},"input":{{}},"telegram":{{"chat_id":1,"chat_id":1}}}}"#),
            "telegram.chat_id: given twice",
        ),
        (
            format!(r#"{{{model},"input":{{}},"not_before":1795000000000}}"#),
            "not_before: expected Unix seconds at most 366 days ahead, found 1795000000000",
        ),
        (
            format!(r#"{{{model},"input":{{}},"telegram":{{"chat_id":0}}}}"#),
            r#"telegram.chat_id: expected an integer of 52 bits other than 0, or "@name", found 0"#,
        ),
        (
            "[]".into(),
            "(entry): expected one JSON object of at most 1 MiB, found an array",
        ),
        (
            "{\"a\":nan}".into(),
            "(entry): expected one JSON object of at most 1 MiB, found broken JSON (expected ident at line 1 column 7)",
        ),
    ] {
        assert_eq!(bad(&entry).error, error);
    }
}

#[test]
fn times_are_bounded_by_the_clock_only_when_one_is_given() {
    let days = |n: i64| NOW.0 / 1000 + n * 86_400;
    for field in ["not_before", "expires_at"] {
        let entry = |s: i64| format!(r#"{{"model":"a/b","input":{{}},"{field}":{s}}}"#);
        good(&entry(days(366)));
        let late = entry(days(366) + 1);
        assert!(bad(&late).error.starts_with(field), "{late}");
        assert!(
            parse(late.as_bytes(), None).is_ok(),
            "a job read again years later is the same job"
        );
        assert!(parse(entry(MAX_TIME_S + 1).as_bytes(), None).is_err());
    }
}

#[test]
fn what_is_readable_of_an_invalid_job_is_kept() {
    let telegram = r#""telegram":{"chat_id":-100,"status_message_id":310,"message_thread_id":7,
        "lang":"ru","caption":5,"ping":"never"}"#;
    let invalid = bad(&format!(
        r#"{{"id":"a","model":"a/b","input":null,"user_id":"u","meta":{{"o":1}},{telegram}}}"#
    ));
    assert_eq!(invalid.id, JobId::new("a"));
    assert_eq!(invalid.model.as_deref(), Some("a/b"));
    assert_eq!(invalid.user.as_deref(), Some("u"));
    assert_eq!(
        invalid.meta.as_ref().map(|meta| meta.get()),
        Some(r#"{"o":1}"#)
    );
    let tell = invalid.tell.expect("a chat");
    assert_eq!(tell.chat, ChatId::Id(-100));
    assert_eq!(
        (tell.status_message_id, tell.message_thread_id),
        (Some(310), Some(7))
    );
    assert_eq!(
        (tell.lang, tell.ping, tell.caption),
        (Some(Lang::Ru), Ping::Auto, None)
    );
}

#[test]
fn what_is_not_valid_on_its_own_is_not_kept() {
    let meta = "m".repeat(5000);
    let invalid = bad(&format!(
        r#"{{"id":"a b","model":"flux","user_id":1.5,"meta":"{meta}",
        "telegram":{{"chat_id":7,"status_message_id":0,"message_thread_id":"7","lang":"de"}}}}"#
    ));
    assert!(invalid.id.is_none() && invalid.model.is_none() && invalid.user.is_none());
    assert!(invalid.meta.is_none());
    let tell = invalid.tell.expect("the chat itself is fine");
    assert_eq!(tell.to_tell_json(), r#"{"chat_id":7}"#);
}

#[test]
fn a_key_given_twice_costs_only_itself() {
    let rest = r#""model":"a/b","input":{},"telegram":{"chat_id":7,"lang":"en","lang":"ru"}"#;
    let invalid = bad(&format!(r#"{{"id":"a","id":"b",{rest}}}"#));
    assert_eq!(invalid.error, "id: given twice");
    assert_eq!(invalid.id, None, "nobody knows which one was meant");
    assert_eq!(invalid.user.as_deref(), Some("7"));
    let tell = invalid.tell.expect("the chat is clear");
    assert_eq!((tell.chat, tell.lang), (ChatId::Id(7), None));
    let same = bad(&format!(r#"{{"id":"a","id":"a",{rest}}}"#));
    assert_eq!(same.id, JobId::new("a"), "both mean the same");
    let two =
        r#"{"id":"a","model":"a/b","input":{},"telegram":{"chat_id":7},"telegram":{"chat_id":8}}"#;
    assert!(
        bad(two).tell.is_none(),
        "never to a chat that was perhaps not meant"
    );
}

#[test]
fn an_over_long_entry_still_tells_its_user_and_a_broken_one_nobody() {
    let image = "A".repeat(MAX_ENTRY);
    let long = format!(
        r#"{{"id":"a","model":"a/b","input":{{"image":"{image}"}},"telegram":{{"chat_id":7}}}}"#
    );
    let invalid = bad(&long);
    assert_eq!(
        invalid.error,
        format!(
            "(entry): expected at most 1 MiB, found {} bytes",
            long.len()
        )
    );
    assert_eq!(invalid.id, JobId::new("a"));
    assert_eq!(invalid.tell.map(|tell| tell.chat), Some(ChatId::Id(7)));

    let invalid = bad(&long[..long.len() - 1]);
    assert!(invalid.id.is_none() && invalid.model.is_none() && invalid.tell.is_none());
    let endless = vec![b' '; MAX_SALVAGE + 1];
    assert!(
        parse(&endless, None)
            .expect_err("too long")
            .error
            .starts_with("(entry): ")
    );
}

#[test]
fn a_model_is_parts_between_slashes_of_which_none_is_empty_or_dots() {
    for good in [
        "a/b",
        "fal-ai/flux/dev",
        "a/.b",
        "A_1/b.c-d",
        "a/b..c",
        "a/...",
    ] {
        assert_eq!(Model::new(good).unwrap().as_str(), good);
    }
    for wrong in [
        "", "/", "a", "a/", "/a", "a//b", "a/..", "./a", "a/./b", "a b/c", "é/a",
    ] {
        assert!(Model::new(wrong).is_err(), "{wrong:?}");
    }
    let long = "a/".to_owned() + &"b".repeat(MAX_MODEL - 2);
    assert!(Model::new(&long).is_ok());
    assert!(Model::new(&(long + "b")).is_err());
}

#[test]
fn the_stem_is_owner_and_alias_below_an_optional_namespace() {
    for (model, stem) in [
        ("fal-ai/flux", "fal-ai/flux"),
        ("fal-ai/flux/dev", "fal-ai/flux"),
        (
            "xai/grok-imagine-image/quality/edit",
            "xai/grok-imagine-image",
        ),
        ("workflows/me/my-flow", "workflows/me/my-flow"),
        ("comfy/me/app/x", "comfy/me/app"),
        ("workflows/me", "workflows/me"),
        ("workflowsx/me/a", "workflowsx/me"),
        ("fal-ai/workflows/a", "fal-ai/workflows"),
    ] {
        assert_eq!(Model::new(model).expect(model).stem(), stem);
    }
}

#[test]
fn a_tell_survives_its_way_through_redis() {
    for json in [
        r#"{"chat_id":-100123,"status_message_id":310,"message_thread_id":7,"lang":"ru"}"#,
        r#"{"chat_id":"@durov"}"#,
        r#"{"chat_id":42,"lang":"en"}"#,
    ] {
        assert_eq!(
            Target::from_tell_json(json).expect(json).to_tell_json(),
            json
        );
    }
    let whole = good(hostile::EXAMPLE).telegram.expect("a target");
    let kept = r#"{"chat_id":42,"status_message_id":310,"message_thread_id":7,"lang":"ru"}"#;
    assert_eq!(whole.to_tell_json(), kept);
    for unreadable in ["", "{}", "null", "[]", r#"{"chat_id":0}"#, r#"{"chat_id":"#] {
        assert!(Target::from_tell_json(unreadable).is_none(), "{unreadable}");
    }
}

#[test]
fn an_excerpt_is_short_text_whatever_the_bytes() {
    assert_eq!(raw_excerpt(b""), "");
    assert_eq!(raw_excerpt(b"a\xffb"), "a\u{fffd}b");
    assert_eq!(raw_excerpt(&[b'x'; 5000]), "x".repeat(4096));
    for lead in 0..4 {
        let text = format!("{}{}", "x".repeat(lead), "😀".repeat(2000));
        let excerpt = raw_excerpt(text.as_bytes());
        assert!(
            text.starts_with(&excerpt) && (4093..=4096).contains(&excerpt.len()),
            "{lead}"
        );
    }
    let broken = raw_excerpt(&[0xff; 5000]);
    assert!(broken.len() <= 4096 && broken.chars().all(|c| c == '\u{fffd}'));
    let cut = raw_excerpt(&"яя".as_bytes()[..3]);
    assert_eq!(cut, "я\u{fffd}");
}

/// Pieces that mutations put in: JSON's own marks, edges, and what breaks other parsers.
const PIECES: [&[u8]; 32] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"0",
    b"-",
    b"e9",
    b".5",
    b"\n",
    b"\0",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\xd1\x8f",
    b"\xe2\x80\xa8",
    b"\"id\":",
    b"\"model\":",
    b"\"input\":{}",
    b"\"telegram\":",
    b"\"chat_id\":",
    b"99999999999999999999",
    b"\"caption\":",
    b"NaN",
    b"\"\\u0069d\":1",
    b"..",
    b" ",
];

fn mutate(random: &mut fastrand::Rng, entry: &mut Vec<u8>) {
    for _ in 0..random.usize(1..4) {
        let at = random.usize(0..=entry.len());
        let end = (at + random.usize(0..12)).min(entry.len());
        match random.u8(0..6) {
            0 => drop(entry.drain(at..end)),
            1 => entry.truncate(if random.u8(0..4) == 0 {
                at
            } else {
                entry.len()
            }),
            2 if at < entry.len() => entry[at] = random.u8(..),
            3 => {
                let copy = entry[at..end].to_vec();
                let to = random.usize(0..=entry.len());
                entry.splice(to..to, copy);
            }
            4 => {
                entry.splice(
                    at..end,
                    random.choice(PIECES).into_iter().flatten().copied(),
                );
            }
            _ => {
                entry.splice(at..at, random.choice(PIECES).into_iter().flatten().copied());
            }
        }
    }
}

#[test]
fn no_mutation_of_a_valid_job_brings_a_panic_or_an_ugly_error() {
    let seed = 0x5eed_0fa1;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut seeds: Vec<_> = hostile::good_entries()
        .into_iter()
        .map(|(_, entry)| entry)
        .collect();
    seeds.retain(|entry| entry.len() <= 2000);
    let (mut taken, mut named) = (0, 0);
    for round in 0..200_000 {
        let mut entry = seeds[random.usize(0..seeds.len())].clone();
        mutate(&mut random, &mut entry);
        match parse(&entry, Some(NOW)) {
            Ok(spec) => {
                taken += 1;
                assert!(
                    spec.input.get().starts_with('{'),
                    "seed {seed}, round {round}"
                );
                let text = std::str::from_utf8(&entry).expect("valid jobs are text");
                assert!(
                    text.contains(spec.input.get()),
                    "seed {seed}, round {round}"
                );
                let user = spec.user.unwrap_or_default();
                assert!(
                    user.len() <= 128 && !user.contains(char::is_control),
                    "seed {seed}, round {round}"
                );
            }
            Err(invalid) => {
                named += usize::from(!invalid.error.starts_with("(entry)"));
                assert_presentable(&invalid.error, &format!("seed {seed}, round {round}"));
                assert!(
                    !invalid.error.contains("found an object")
                        || !invalid.error.starts_with("(entry)")
                );
                if let Some(tell) = invalid.tell {
                    assert!(Target::from_tell_json(&tell.to_tell_json()).is_some());
                }
            }
        }
    }
    assert!(
        taken > 10_000 && named > 10_000,
        "{taken} taken, {named} named: the mutations miss the point"
    );
}

#[test]
fn a_member_that_means_nothing_is_named() {
    for (entry, names) in [
        (
            r#"{"model":"a/b","input":{"any":1},"meta":{"any":1}}"#,
            &[][..],
        ),
        (
            r#"{"model":"a/b","input":{},"telegran":{"chat_id":1},"prio":1}"#,
            &["prio", "telegran"],
        ),
        (
            r#"{"telegram":{"chat_id":1,"chat":2},"fal":{"Priority":"low"}}"#,
            &["telegram.chat", "fal.Priority"],
        ),
        (r#"{"telegram":null,"fal":[1]}"#, &[]),
        ("nonsense", &[]),
    ] {
        assert_eq!(ignored(entry.as_bytes()), names, "{entry}");
    }
}
