//! Several files of one result: as albums where they may go together, each file once, whatever is refused
//! or cut off on the way; and what a file turns out to be when it is here.

use crate::support::{SOON, World, eventually, job};
use fal_worker::sandbox::fal::{Outcome, Script};
use fal_worker::sandbox::faults::{Fault, Rule};
use fal_worker::sandbox::media;
use fal_worker::sandbox::telegram::{Kind, Message};
use serde_json::{Value, json};
use std::time::Duration;

const CHAT: i64 = 78_001;

/// A model whose result is this JSON (`{files}`: the folder of its files).
fn model(world: &World, name: &str, output: Value) {
    let script = Script::new(Outcome::Json(output));
    world.sandbox.fal.model(name, script);
}

fn messages(world: &World) -> Vec<Message> {
    world.sandbox.telegram.messages(CHAT)
}

/// Albums and single messages of the chat in order, each by its kinds.
fn groups(world: &World) -> Vec<Vec<Kind>> {
    let mut groups: Vec<(Option<String>, Vec<Kind>)> = Vec::new();
    for message in messages(world) {
        match groups.last_mut() {
            Some((group, kinds)) if group.is_some() && *group == message.media_group => {
                kinds.push(message.kind);
            }
            _ => groups.push((message.media_group, vec![message.kind])),
        }
    }
    groups.into_iter().map(|(_, kinds)| kinds).collect()
}

/// The calls for the chat that reached the methods: method, status, how many files came along.
fn calls(world: &World) -> Vec<(String, u16, usize)> {
    let journal = world.sandbox.telegram.journal();
    journal
        .iter()
        .filter(|entry| entry.chat == Some(CHAT))
        .map(|entry| (entry.method.clone(), entry.status, entry.parts.len()))
        .collect()
}

fn call(method: &str, status: u16, parts: usize) -> (String, u16, usize) {
    (method.to_owned(), status, parts)
}

#[test]
fn four_pictures_are_one_album_by_their_urls_with_the_caption_once() {
    let (mut world, _daemon) = World::running();
    world.push(
        job("four")
            .model("fal-ai/flux/schnell")
            .chat(CHAT)
            .telegram("caption", "<i>four</i>")
            .telegram("parse_mode", "HTML")
            .telegram("has_spoiler", true)
            .json(),
    );
    let record = world.wait_state("four", "done");
    assert_eq!(groups(&world), [vec![Kind::Photo; 4]]);
    assert_eq!(calls(&world), [call("sendmediagroup", 200, 0)]);
    let messages = messages(&world);
    let captioned: Vec<_> = messages.iter().filter(|m| !m.text.is_empty()).collect();
    assert_eq!(captioned.len(), 1, "{messages:#?}");
    assert_eq!(
        (captioned[0].text.as_str(), captioned[0].entities.len()),
        ("four", 1)
    );
    for (number, message) in messages.iter().enumerate() {
        let name = format!("/{number}.png");
        assert!(message.spoiler && message.via_url().unwrap().ends_with(&name));
    }
    let ids: Vec<i64> = messages.iter().map(|message| message.id).collect();
    assert_eq!(record["message_ids"], json!(ids).to_string());
    let files: Vec<String> = serde_json::from_str(&record["file_ids"]).unwrap();
    assert_eq!(files.len(), 4);
    world.assert_clean();
}

#[test]
fn eleven_pictures_are_two_albums_and_none_is_left_alone() {
    let (mut world, _daemon) = World::running();
    let eleven = Script::new(Outcome::Images(11));
    world.sandbox.fal.model("fal-ai/eleven", eleven);
    world.push(job("a").model("fal-ai/eleven").chat(CHAT).json());
    world.wait_state("a", "done");
    assert_eq!(groups(&world), [vec![Kind::Photo; 6], vec![Kind::Photo; 5]]);
    world.assert_clean();
}

#[test]
fn several_kinds_in_one_result_go_with_their_like_and_in_order() {
    let (mut world, _daemon) = World::running();
    let file = |name: &str| json!({"url": format!("{{files}}/{name}")});
    let output = json!({
        "a": {"deep": [file("0.png"), file("1.mp4")], "image": file("2.jpg")},
        "b_gif": file("3.gif"),
        "c": [file("4.mp3"), file("5.mp3")],
        "d_file": file("6.pdf"),
        "e": [[file("7.zip")]],
        "text": "not told: there are files",
    });
    model(&world, "fal-ai/kinds", output);
    world.push(job("kinds").model("fal-ai/kinds").chat(CHAT).json());
    let record = world.wait_state("kinds", "done");
    let (p, v, g, a, d) = (
        Kind::Photo,
        Kind::Video,
        Kind::Animation,
        Kind::Audio,
        Kind::Document,
    );
    assert_eq!(
        groups(&world),
        [vec![p, v, p], vec![g], vec![a, a], vec![d, d]]
    );
    assert_eq!(record["message_ids"], "[1,2,3,4,5,6,7,8]");
    world.assert_clean();
}

#[test]
fn the_keyboard_of_an_album_stands_under_a_text_that_replies_to_it() {
    let (mut world, _daemon) = World::running();
    let keyboard = json!({"inline_keyboard": [[{"text": "Again", "callback_data": "again"}]]});
    world.push(
        job("four")
            .model("fal-ai/flux/schnell")
            .chat(CHAT)
            .telegram("reply_markup", keyboard)
            .telegram("lang", "ru")
            .json(),
    );
    world.wait_state("four", "done");
    let messages = messages(&world);
    assert_eq!(groups(&world), [vec![Kind::Photo; 4], vec![Kind::Text]]);
    assert_eq!(messages[4].text, "Готово");
    assert!(messages[4].keyboard.is_some());
    assert_eq!(messages[4].reply_to, Some(messages[0].id));
    world.assert_clean();
}

#[test]
fn an_album_is_uploaded_in_one_request_with_every_file_in_its_place() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "2", "--delivery", "upload"]);
    let output = json!({"images": [
        {"url": "{files}/0.png"}, {"url": "{files}/1.mp4"},
        {"url": format!("data:image/png;base64,{}", media::base64(&media::png(8, 8, Some(3))))},
    ]});
    model(&world, "fal-ai/three", output);
    world.push(
        job("three")
            .model("fal-ai/three")
            .chat(CHAT)
            .telegram("caption", "up")
            .json(),
    );
    world.wait_state("three", "done");
    assert_eq!(calls(&world), [call("sendmediagroup", 200, 3)]);
    let messages = messages(&world);
    assert_eq!(
        groups(&world),
        [vec![Kind::Photo, Kind::Video, Kind::Photo]]
    );
    let done = world.events_of("three").pop().unwrap();
    let files: Vec<String> = serde_json::from_str(&done["files"]).unwrap();
    for number in 0..2 {
        let seen = messages[number].file.as_ref().unwrap().fingerprint;
        let sent = world.sandbox.fal.fingerprint_of(&files[number]);
        assert_eq!(Some(seen), sent, "file {number}");
    }
    assert_eq!(messages[2].file.as_ref().unwrap().dimensions, Some((8, 8)));
    world.assert_clean();
}

#[test]
fn an_album_whose_urls_telegram_cannot_fetch_is_uploaded() {
    let (mut world, _daemon) = World::running();
    let page = Rule::always("file.telegram", Fault::Html502);
    world.sandbox.faults.add(page);
    world.push(job("four").model("fal-ai/flux/schnell").chat(CHAT).json());
    world.wait_state("four", "done");
    assert_eq!(
        calls(&world),
        [
            call("sendmediagroup", 400, 0),
            call("sendmediagroup", 200, 4)
        ]
    );
    assert_eq!(groups(&world), [vec![Kind::Photo; 4]]);
    assert_eq!(world.counted("resent_after_unknown"), 0);
    world.assert_clean();
}

#[test]
fn a_file_that_is_no_picture_ends_its_album_and_each_goes_its_own_way() {
    let (mut world, _daemon) = World::running();
    let image =
        |name: &str| json!({"url": format!("{{files}}/{name}"), "content_type": "image/png"});
    let output = json!({"images": [image("0.png"), image("1.bin"), image("2.png")]});
    model(&world, "fal-ai/odd", output);
    world.push(job("odd").model("fal-ai/odd").chat(CHAT).json());
    world.wait_state("odd", "done");
    assert_eq!(
        calls(&world),
        [
            call("sendmediagroup", 400, 0),
            call("sendmediagroup", 400, 3),
            call("sendphoto", 200, 1),
            call("sendphoto", 400, 1),
            call("senddocument", 200, 1),
            call("sendphoto", 200, 1),
        ]
    );
    assert!(world.sandbox.telegram.duplicates().is_empty());
    world.assert_clean();
}

#[test]
fn an_album_over_the_servers_limit_is_sent_singly() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "2", "--delivery", "upload"]);
    // Room for one of the pictures, not for four.
    world.sandbox.telegram.set_body_limit(20_000);
    world.push(job("four").model("fal-ai/flux/schnell").chat(CHAT).json());
    world.wait_state("four", "done");
    assert_eq!(groups(&world), vec![vec![Kind::Photo]; 4]);
    world.assert_clean();
}

#[test]
fn a_429_of_one_item_is_a_doubt_and_the_same_album_goes_once_more_after_its_time() {
    let (mut world, daemon) = World::running();
    world.sandbox.telegram.cut_next_album(2);
    world.push(job("four").model("fal-ai/flux/schnell").chat(CHAT).json());
    let record = world.wait_state("four", "done");
    assert_eq!(groups(&world), [vec![Kind::Photo; 2], vec![Kind::Photo; 4]]);
    assert_eq!(record["message_ids"], "[3,4,5,6]");
    assert_eq!(world.counted("resent_after_unknown"), 1);
    assert_eq!(daemon.logged("sent again after unknown"), 1);
    let journal = world.sandbox.telegram.journal();
    let at: Vec<_> = journal.iter().map(|entry| entry.at).collect();
    assert!(at[1] - at[0] > Duration::from_millis(2900), "{journal:#?}");
    world.assert_clean();
}

#[test]
fn a_429_of_the_whole_album_is_waited_out_and_nothing_is_counted() {
    let (mut world, _daemon) = World::running();
    let limited = Rule::first(1, "tg.sendmediagroup", Fault::telegram_429(1));
    world.sandbox.faults.add(limited);
    world.push(job("four").model("fal-ai/flux/schnell").chat(CHAT).json());
    world.wait_state("four", "done");
    assert_eq!(groups(&world), [vec![Kind::Photo; 4]]);
    assert_eq!(world.counted("resent_after_unknown"), 0);
    world.assert_clean();
}

#[test]
fn a_group_that_failed_twice_is_sent_singly() {
    let (mut world, _daemon) = World::running();
    let failed = Fault::telegram(400, "Bad Request: group send failed");
    let failed = Rule::first(2, "tg.sendmediagroup", failed);
    let failed = world.sandbox.faults.add(failed);
    world.push(job("four").model("fal-ai/flux/schnell").chat(CHAT).json());
    world.wait_state("four", "done");
    assert_eq!(world.sandbox.faults.fired(failed), 2);
    assert_eq!(groups(&world), vec![vec![Kind::Photo]; 4]);
    world.assert_clean();
}

#[test]
fn an_album_whose_answer_is_lost_is_the_same_album_again_and_counted() {
    let (mut world, _daemon) = World::running();
    let lost = Rule::first(1, "tg.sendmediagroup", Fault::ResetAfterActing);
    world.sandbox.faults.add(lost);
    world.push(job("four").model("fal-ai/flux/schnell").chat(CHAT).json());
    let record = world.wait_state("four", "done");
    assert_eq!(groups(&world), [vec![Kind::Photo; 4], vec![Kind::Photo; 4]]);
    assert_eq!(record["message_ids"], "[5,6,7,8]");
    assert_eq!(world.counted("resent_after_unknown"), 1);
    world.assert_clean();
}

#[test]
fn killed_between_album_and_deletion_the_next_owner_deletes_the_status_message_and_sends_nothing() {
    let (mut world, mut daemon) = World::running();
    let status = world
        .sandbox
        .telegram
        .plant_message(CHAT, Kind::Text, false);
    // The deletion never reaches Telegram.
    let hang = Rule::first(1, "tg.deletemessage", Fault::Hang(60_000));
    let hang = world.sandbox.faults.add(hang);
    let entry = job("four").model("fal-ai/flux/schnell").chat(CHAT);
    world.push(entry.telegram("status_message_id", status).json());
    eventually(SOON, || world.sandbox.faults.fired(hang), |n| *n == 1);
    daemon.kill();
    assert_eq!(messages(&world).len(), 5);

    let _next = world.daemon(&[]);
    let record = world.wait_state("four", "done");
    let left = messages(&world);
    assert_eq!(left.len(), 4, "{left:#?}");
    assert!(left.iter().all(|message| message.id != status));
    assert_eq!(world.sandbox.telegram.sends_count(), 4);
    assert_eq!(record["message_ids"], "[2,3,4,5]");
    assert_eq!(world.counted("resent_after_unknown"), 0);
    world.assert_clean_after_kills();
}

#[test]
fn bytes_decide_where_type_and_name_say_nothing_or_lie() {
    let (mut world, _daemon) = World::running();
    let png = media::base64(&media::png(8, 8, Some(1)));
    let octets = format!("data:application/octet-stream;base64,{png}");
    model(&world, "fal-ai/octets", json!({"image": {"url": octets}}));
    let lie = json!({"image": {"url": "{files}/0.mp4", "content_type": "image/png"}});
    model(&world, "fal-ai/lie", lie);
    world.push(job("octets").model("fal-ai/octets").chat(1).json());
    world.push(job("lie").model("fal-ai/lie").chat(2).json());
    for id in ["octets", "lie"] {
        world.wait_state(id, "done");
    }
    let kind = |chat| {
        let messages = world.sandbox.telegram.messages(chat);
        assert_eq!(messages.len(), 1, "{messages:#?}");
        let name = messages[0].upload_name().unwrap_or_default().to_owned();
        (messages[0].kind, name)
    };
    assert_eq!(kind(1), (Kind::Photo, "photo.png".to_owned()));
    assert_eq!(kind(2), (Kind::Video, "0.mp4".to_owned()));
    world.assert_clean();
}

#[test]
fn a_picture_out_of_shape_is_uploaded_as_a_document_at_once_by_its_header() {
    let mut world = World::new();
    let _daemon = world.daemon(&["--threads", "2", "--delivery", "upload"]);
    let script = Script {
        image_size: (2100, 100),
        ..Script::new(Outcome::Json(json!({"image": {"url": "{files}/0.png"}})))
    };
    world.sandbox.fal.model("fal-ai/narrow", script);
    world.push(job("narrow").model("fal-ai/narrow").chat(CHAT).json());
    world.wait_state("narrow", "done");
    assert_eq!(calls(&world), [call("senddocument", 200, 1)]);
    world.assert_clean();
}

#[test]
fn an_own_server_gets_files_beyond_the_public_limit_by_upload() {
    let (mut world, _daemon) = World::running();
    world.sandbox.telegram.set_body_limit(100_000_000);
    world.push(job("huge").model("fal-ai/huge").chat(CHAT).json());
    world.wait_state("huge", "done");
    assert_eq!(calls(&world), [call("sendvideo", 200, 1)]);
    let size = messages(&world)[0].file.as_ref().unwrap().fingerprint.len;
    assert_eq!(size, 60 << 20);
    world.assert_clean();
}

#[test]
fn a_result_with_neither_file_nor_text_is_no_output_and_nested_texts_are_told() {
    let (mut world, _daemon) = World::running();
    model(
        &world,
        "fal-ai/scores",
        json!({"label": "cat", "score": 0.9}),
    );
    let chat = json!({"choices": [{"message": {"role": "assistant", "content": "Hello."}}]});
    model(&world, "fal-ai/chat", chat);
    world.push(job("scores").model("fal-ai/scores").chat(1).json());
    world.push(job("chat").model("fal-ai/chat").chat(2).json());
    let record = world.wait_state("scores", "dead");
    assert_eq!(record["kind"], "no_output");
    world.wait_state("chat", "done");
    assert_eq!(world.sandbox.telegram.messages(2)[0].text, "Hello.");
    world.assert_clean();
}

#[test]
fn eight_uploads_of_fifty_megabytes_at_once_need_less_than_64_mib_of_memory() {
    let mut world = World::new();
    let daemon = world.daemon(&["--threads", "4", "--transfer-threads", "16"]);
    let video = Script::new(Outcome::HugeVideo(49_900_000));
    world.sandbox.fal.model("fal-ai/long", video);
    // Their answers are held back until all eight are uploaded whole.
    let hold = world.sandbox.telegram.hold("tg.sendvideo");
    let ids: Vec<String> = (0..8).map(|n| format!("v{n}")).collect();
    for (number, id) in ids.iter().enumerate() {
        let chat = 79_001 + number as i64;
        world.push(job(id).model("fal-ai/long").chat(chat).json());
    }
    assert!(hold.wait_arrived(8, SOON * 4));
    hold.release();
    let states = world.wait_ended(&ids, SOON);
    assert!(states.iter().all(|state| state == "done"), "{states:?}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most = most.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let most = most.expect("VmHWM");
    println!("eight uploads at once: {most} KiB at most");
    assert!(most < 64 << 10, "{most} KiB");
    world.assert_clean();
}
