//! Results as fal gives them, and some that a hostile or sloppy model could.

use super::*;

macro_rules! wire {
    ($name:literal) => {
        include_str!(concat!("../../../tests/fixtures/fal/", $name, ".json"))
    };
}

fn files(found: Found) -> Vec<File> {
    found
        .items
        .into_iter()
        .map(|item| match item {
            Item::File(file) => file,
            Item::Text(text) => panic!("a text: {text}"),
        })
        .collect()
}

fn urls(json: &str) -> Vec<String> {
    files(outputs(json)).into_iter().map(|file| file.url).collect()
}

fn beyond(json: &str, input: &str) -> Found {
    outputs_but(json, &echoes(json, input, Vec::new()))
}

fn some_texts(list: &[&str]) -> Vec<Item> {
    list.iter().map(|text| Item::Text(text.to_string())).collect()
}

#[test]
fn files_come_in_document_order_with_what_is_known_of_them() {
    let found = outputs(wire!("result_images"));
    assert!(!found.all_flagged);
    let kind = |kind: &str| Some(kind.to_owned());
    let expected = [
        File {
            url: "https://v3b.fal.media/files/b/0aa5147c/H2ObCPe8jInMs8v6WWm9m.png".into(),
            content_type: kind("image/png"),
            width: Some(1024),
            height: Some(1024),
            ..File::default()
        },
        File { url: "https://v3b.fal.media/files/b/0aa5147c/second.jpg?x=1".into(), content_type: kind("image/jpeg"), width: Some(512), ..File::default() },
    ];
    assert_eq!(files(found), expected);
    let video = File {
        url: "https://v3b.fal.media/files/b/0a86742f/9rVJ_output.mp4".into(),
        content_type: kind("video/mp4"),
        name: Some("output.mp4".into()),
        size: Some(3_012_345),
        width: Some(1280),
        height: Some(720),
        duration_s: Some(5),
        held: None,
    };
    assert_eq!(files(outputs(wire!("result_video"))), [video]);
    let audio = &files(outputs(wire!("result_audio")))[0];
    assert_eq!((audio.content_type.as_deref(), audio.name.as_deref()), (Some("audio/wav"), Some("z.wav")));
    assert_eq!(files(outputs(wire!("result_image")))[0].size, Some(4_404_019));
}

#[test]
fn members_are_not_sorted_by_name() {
    let json = r#"{"z":{"url":"https://a/1"},"a":{"url":"https://a/2"},"m_url":"https://a/3","b":[{"url":"https://a/4"}]}"#;
    assert_eq!(urls(json), ["https://a/1", "https://a/2", "https://a/3", "https://a/4"]);
}

#[test]
fn doubles_and_side_files_are_left_out() {
    let base = "https://v3.fal.media/files";
    assert_eq!(urls(wire!("result_mesh")), [format!("{base}/e/m.glb"), format!("{base}/e/m.obj")]);
    assert_eq!(urls(wire!("result_lora")), [format!("{base}/l/w.safetensors")]);
    assert_eq!(urls(r#"{"thumbnail":{"url":"https://a/t.png"}}"#), ["https://a/t.png"]);
}

#[test]
fn a_result_of_a_million_names_takes_neither_the_time_nor_the_memory_of_its_square() {
    let many = |n: usize, of: fn(usize) -> String| {
        let list: Vec<_> = (0..n).map(of).collect();
        format!(r#"{{"urls":["{}"],"output":[]}}"#, list.join(r#"",""#))
    };
    assert_eq!(urls(&many(100_000, |_| "https://a/1".into())), ["https://a/1"]);
    let in_pairs = urls(&many(80, |n| format!("https://a/{}", n / 2)));
    let each: Vec<_> = (0..40).map(|n| format!("https://a/{n}")).collect();
    assert_eq!(in_pairs, each);
    assert_eq!(urls(&many(100_000, |n| format!("https://a/{n}"))).len(), MOST);
    let texts = many(200_000, |n| format!("text {n}")).replace("urls", "output");
    assert_eq!(outputs(&texts).items.len(), MOST);
    // Doubles have their numbers still.
    let json = many(80, |n| format!("https://a/{}", n / 2));
    let input = r#"{"image_url":"https://a/0","mask_url":"https://a/30"}"#;
    assert_eq!(echoes(&json, input, Vec::new()), [0, 1, 60, 61]);
    assert_eq!(files(outputs_but(&json, &[0, 1, 60, 61])).len(), 38);
}

#[test]
fn echoes_of_the_input_are_no_outputs() {
    let json = r#"{"prompt":"https://a/1","actual_prompt":{"url":"https://a/2"},"input":{"image_url":"https://a/3"},
        "input_image":{"url":"https://a/4"},"inputs":["https://a/5"],"logs":[{"url":"https://a/6"}],
        "status_url":"https://a/7","image_url":"https://a/8","image":{"url":"https://a/9"}}"#;
    assert_eq!(urls(json), ["https://a/8", "https://a/9"]);
    let input = r#"{"image_url":"https:\/\/a/8","loras":[{"path":"https://a/x"}]}"#;
    let found = files(beyond(json, input));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].url, "https://a/9");
    assert_eq!(beyond(json, "no JSON"), outputs(json));
    assert_eq!(echoes(json, input, Vec::new()), [0]);
    assert_eq!(echoes(json, "{}", vec!["https://a/9".to_owned()]), [1]);
    assert_eq!(outputs_but(json, &[7]), outputs(json));
    // What stands behind an echo comes into view: a file of the side, a text.
    let side = r#"{"image_url":"https://a/8","preview":{"url":"https://a/p.png"}}"#;
    assert_eq!(files(beyond(side, input))[0].url, "https://a/p.png");
    let text = r#"{"image_url":"https://a/8","images":["https://a/8"],"output":"a cat"}"#;
    assert_eq!(echoes(text, input, Vec::new()), [0, 1]);
    assert_eq!(beyond(text, input).items, some_texts(&["a cat"]));
}

#[test]
fn the_input_is_worth_a_look_only_where_an_echo_would_leave_something() {
    for (json, may) in [
        (r#"{"images":[{"url":"https://a/1"}],"seed":7,"prompt":"a cat"}"#, false),
        (r#"{"image":{"url":"https://a/1"},"description":"a cat"}"#, false),
        (r#"{"image_url":"https://a/1"}"#, false),
        (r#"{"image_url":"https://a/1","image":{"url":"https://a/1"}}"#, false),
        (r#"{"output":"a cat"}"#, false),
        (r#"{"image_url":"https://a/1","output":"a cat"}"#, true),
        (r#"{"image_url":"https://a/1","image":{"url":"https://a/2"}}"#, true),
        (r#"{"image_url":"https://a/1","preview":{"url":"https://a/2"}}"#, true),
        ("no JSON", false),
    ] {
        assert_eq!(outputs(json).may_echo, may, "{json}");
    }
}

#[test]
fn strings_are_files_under_the_names_of_files_alone() {
    let json = r#"{"video":"https://a/1.mp4","images":["https://a/2.png","no url"],"audio_url":"https://a/3.mp3",
        "image_urls":["https://a/4.png"],"homepage":"https://a/5","license":["https://a/6"],"output":"https://a/7.png"}"#;
    assert_eq!(urls(json), ["https://a/1.mp4", "https://a/2.png", "https://a/3.mp3", "https://a/4.png", "https://a/7.png"]);
    let kinds: Vec<_> = files(outputs(json)).into_iter().map(|file| file.content_type.unwrap()).collect();
    assert_eq!(kinds, ["video/mp4", "image/png", "audio/mpeg", "image/png", "image/png"]);
}

#[test]
fn only_http_and_data_urls_are_files() {
    for url in ["ftp://a/x", "file:///etc/passwd", "javascript:x", "//a/x", "https://", "https://a b/", "data:image/png", "", "x"] {
        let json = format!(r#"{{"image":{{"url":"{url}"}},"image_url":"{url}"}}"#);
        assert_eq!(outputs(&json), Found::default(), "{url}");
    }
    let file = files(outputs(r#"{"images":[{"url":"data:image/PNG;base64,AAAA","content_type":null}]}"#)).remove(0);
    assert_eq!((file.url.as_str(), file.content_type.as_deref()), ("data:image/PNG;base64,AAAA", Some("image/png")));
    assert_eq!(urls(r#"{"image":{"url":"HTTPS://A/x.png"}}"#), ["HTTPS://A/x.png"]);
}

#[test]
fn types_are_guessed_only_where_fal_says_nothing_of_use() {
    for (url, said, expected) in [
        ("https://a/x.PNG", "null", Some("image/png")),
        ("https://a/x.mp4?sig=a.b", "null", Some("video/mp4")),
        ("https://a/x.mp4", "\"application/octet-stream\"", Some("video/mp4")),
        ("https://a/x.bin", "\"application/octet-stream\"", Some("application/octet-stream")),
        ("https://a/x.png", "\"Image/JPEG; q=1\"", Some("image/jpeg")),
        ("https://a/x.png", "\"png\"", Some("image/png")),
        ("https://a/x.png", "7", Some("image/png")),
        ("https://a.b/x", "null", None),
    ] {
        let json = format!(r#"{{"f":{{"url":"{url}","content_type":{said}}}}}"#);
        assert_eq!(files(outputs(&json))[0].content_type.as_deref(), expected, "{url} {said}");
    }
}

#[test]
fn texts_count_only_where_there_is_no_file() {
    assert_eq!(outputs(wire!("result_text")).items, some_texts(&["a caption"]));
    let cut = r#"{"output": "a long answer \ud83d"}"#;
    assert_eq!(outputs(cut).items, some_texts(&["a long answer \u{fffd}"]));
    assert_eq!(outputs(wire!("result_transcript")).items, some_texts(&["hello world"]));
    let both = r#"{"outputs":["a","b","a"," "],"text":"c","output":null}"#;
    assert_eq!(outputs(both).items, some_texts(&["a", "b", "c"]));
    let file = r#"{"output":"a caption","image":{"url":"https://a/x.png"}}"#;
    assert_eq!(urls(file), ["https://a/x.png"]);
}

#[test]
fn texts_are_those_of_the_shallowest_level_that_has_any() {
    for (json, expected) in [
        (r#"{"output":{"text":"a"}}"#, &["a"][..]),
        (r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"a"}}]}"#, &["a"]),
        (r#"{"results":[{"text":"a"},{"text":"b"},{"text":"a"}]}"#, &["a", "b"]),
        (r#"{"data":{"text":"a","chunks":[{"text":"a piece"}]}}"#, &["a"]),
        (r#"{"a":{"b":{"text":"deep"}},"text":"a"}"#, &["a"]),
        (r#"{"input":{"text":"an echo"},"prompt":{"text":"an echo"},"logs":[{"text":"a log"}]}"#, &[]),
        (r#"{"label":"cat","score":0.9,"embedding":[1,2],"has_nsfw_concepts":[false]}"#, &[]),
        (r#"{"text":7,"output":null,"answer":{},"content":[[]]}"#, &[]),
    ] {
        assert_eq!(outputs(json).items, some_texts(expected), "{json}");
    }
}

#[test]
fn a_result_is_flagged_when_all_of_it_is() {
    assert!(outputs(wire!("result_flagged")).all_flagged);
    for (flags, all) in [("[true,true]", true), ("[true,false]", false), ("[]", false), ("null", false), ("true", true)] {
        assert_eq!(outputs(&format!(r#"{{"has_nsfw_concepts":{flags}}}"#)).all_flagged, all, "{flags}");
    }
}

#[test]
fn odd_numbers_and_names_do_not_hide_a_file() {
    let json = r#"{"seed":123456789012345678901234567890,"x":1e400,"y":-1e-400,
        "image":{"url":"https://a/x.png","width":1e400,"height":-5,"file_size":1.5,"duration":"long","file_name":"../../a\u0000\nb.png"}}"#;
    let expected = File { url: "https://a/x.png".into(), content_type: Some("image/png".into()), name: Some("ab.png".into()), ..File::default() };
    assert_eq!(files(outputs(json)), [expected]);
    for nothing in ["", "null", "[]", "[{\"url\":\"https://a/x\"}]", "{", "{\"a\":", "{}", "\u{1F600}"] {
        assert_eq!(outputs(nothing), Found::default(), "{nothing}");
    }
}

#[test]
fn depth_is_bounded_and_needs_little_stack() {
    let nest = |levels: usize, open: &str, close: &str| format!("{{\"a\":{}{{\"url\":\"https://a/x\"}}{}}}", open.repeat(levels), close.repeat(levels));
    let work = move || {
        for (open, close) in [("[", "]"), ("{\"b\":", "}")] {
            assert_eq!(urls(&nest(120, open, close)).len(), 1, "{open}");
            assert_eq!(urls(&nest(200, open, close)).len(), 0, "{open}");
            assert_eq!(urls(&nest(100_000, open, close)).len(), 0, "{open}");
        }
    };
    // As much as a pool thread has.
    std::thread::Builder::new().stack_size(256 << 10).spawn(work).unwrap().join().unwrap();
}

#[test]
fn what_a_url_cannot_hold_is_encoded_where_only_a_url_may_stand() {
    for (given, url) in [
        ("https://h.fal.media/files/a b.png", "https://h.fal.media/files/a%20b.png"),
        (" https://h.fal.media/a.png\n", "https://h.fal.media/a.png"),
        ("https://h.fal.media/\u{a0}\u{7}.png?x=1 2", "https://h.fal.media/%C2%A0%07.png?x=1%202"),
    ] {
        let result = serde_json::json!({"images": [{"url": given}]}).to_string();
        assert_eq!(urls(&result), [url], "{given}");
        let input = serde_json::json!({"image": {"url": given}}).to_string();
        assert_eq!(echoes(&result, &input, Vec::new()), [0], "an echo stays one: {given}");
    }
    // Elsewhere it may be a sentence.
    let spoken = r#"{"output": "https://h.fal.media/a.png is yours"}"#;
    assert_eq!(outputs(spoken).items, some_texts(&["https://h.fal.media/a.png is yours"]));
}

#[test]
fn a_url_may_be_as_long_as_a_request_can_carry() {
    let url = |length: usize| format!("https://h.fal.media/a.png?{}", "y".repeat(length));
    for (url, found) in [(url(9_000), 1), (url(65_000), 0)] {
        let result = serde_json::json!({"images": [{"url": url}]}).to_string();
        assert_eq!(urls(&result).len(), found, "{} bytes", url.len());
    }
}
