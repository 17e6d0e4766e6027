use super::super::faults::{Fault, Rule};
use super::super::http::raw::{self, Got};
use super::super::http::{Request, Response};
use super::*;
use serde_json::json;

struct Bot {
    telegram: TelegramStandIn,
    files: Server,
    served: Arc<AtomicU64>,
}

impl Bot {
    /// A bot, and a file host of its own: the path says what comes.
    fn new() -> Bot {
        let telegram = TelegramStandIn::start(Faults::new(1)).expect("starts");
        let served = Arc::new(AtomicU64::new(0));
        let count = served.clone();
        let handler = move |request: &Request| {
            count.fetch_add(1, Ordering::Relaxed);
            let big = |size| [media::jpeg_head(100, 100, 1), vec![0; size]].concat();
            match request.path.as_str() {
                "/a.png" => Response::new(200, "image/png", media::png(64, 64, Some(1))),
                "/b.png" => Response::new(200, "image/png", media::png(64, 64, Some(2))),
                "/text.png" => Response::new(200, "text/html", "<html>"),
                "/broken.png" => Response::new(200, "image/png", "no picture"),
                "/big.jpg" => Response::new(200, "image/jpeg", big(6 << 20)),
                "/v.mp4" => Response::new(200, "video/mp4", media::mp4_head(1)),
                "/d.pdf" => Response::new(200, "application/pdf; x=y", "%PDF-1.4"),
                "/moved.png" => {
                    Response::new(302, "", "").with_header("Location", "http://127.0.0.1:1/x.png")
                }
                _ => Response::new(404, "text/plain", "no"),
            }
        };
        let files = Server::start("files", Stop::default(), Arc::new(handler)).expect("starts");
        telegram.allow_fetch_host(&files.address().to_string());
        Bot {
            telegram,
            files,
            served,
        }
    }

    fn url(&self, file: &str) -> String {
        format!("{}/{file}", self.files.url())
    }

    fn method_url(&self, method: &str) -> String {
        format!(
            "{}/bot{}/{method}",
            self.telegram.url(),
            self.telegram.token()
        )
    }

    fn call(&self, method: &str, args: Value) -> Got {
        let headers = [("Content-Type", "application/json")];
        raw::call(
            &self.method_url(method),
            "POST",
            &headers,
            args.to_string().as_bytes(),
        )
        .expect("answer")
    }

    /// Expects success, returns the result.
    fn ok(&self, method: &str, args: Value) -> Value {
        let got = self.call(method, args);
        let json = got.json();
        assert_eq!(
            (got.status, &json["ok"]),
            (200, &json!(true)),
            "{method}: {json}"
        );
        json["result"].clone()
    }

    /// Expects a refusal, returns code and description.
    fn refused(&self, method: &str, args: Value) -> (u16, String) {
        refusal(&self.call(method, args))
    }

    fn upload(&self, method: &str, args: &[(&str, &str)], files: &[(&str, &str, &[u8])]) -> Got {
        let mut body = Vec::new();
        for (name, value) in args {
            body.extend_from_slice(
                format!(
                    "--BOUND\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
                )
                .as_bytes(),
            );
        }
        for (part, name, bytes) in files {
            let head = format!(
                "--BOUND\r\nContent-Disposition: form-data; name=\"{part}\"; filename=\"{name}\"\r\n\r\n"
            );
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(bytes);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--BOUND--\r\n");
        let headers = [("Content-Type", "multipart/form-data; boundary=BOUND")];
        raw::call(&self.method_url(method), "POST", &headers, &body).expect("answer")
    }
}

fn refusal(got: &Got) -> (u16, String) {
    let json = got.json();
    assert_eq!(
        (json["ok"].as_bool(), json["error_code"].as_u64()),
        (Some(false), Some(u64::from(got.status))),
        "{json}"
    );
    (
        got.status,
        json["description"].as_str().expect("text").to_owned(),
    )
}

fn bad_request(text: &str) -> (u16, String) {
    (400, format!("Bad Request: {text}"))
}

#[test]
fn the_envelope_the_token_and_the_method_name() {
    let bot = Bot::new();
    assert_eq!(bot.ok("GETME", json!({}))["username"], "sandbox_bot");
    assert_eq!(bot.ok("test/getMe", json!({}))["is_bot"], true);
    assert_eq!(
        bot.refused("nothing", json!({})),
        (404, "Not Found: method not found".into())
    );
    let at = |path: &str| {
        refusal(
            &raw::call(&format!("{}{path}", bot.telegram.url()), "GET", &[], b"").expect("answer"),
        )
    };
    assert_eq!(
        at("/bot7000000001:AAother/getMe"),
        (401, "Unauthorized".into())
    );
    assert_eq!(
        at("/botabc/getMe"),
        (401, "Unauthorized: invalid token specified".into())
    );
    assert_eq!(at("/getMe"), (404, "Not Found".into()));
    let other = raw::call(&bot.method_url("getMe"), "PUT", &[], b"").expect("answer");
    assert_eq!((other.status, other.body.len()), (501, 0));
}

#[test]
fn three_kinds_of_bodies_and_the_query_mean_the_same() {
    let bot = Bot::new();
    bot.ok(
        "sendMessage",
        json!({"chat_id": 5, "text": "json", "disable_notification": "yes"}),
    );
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    raw::call(
        &bot.method_url("sendMessage"),
        "POST",
        &form,
        b"chat_id=5&text=form+%26",
    )
    .expect("answer");
    assert_eq!(
        bot.upload("sendMessage", &[("chat_id", "5"), ("text", "parts")], &[])
            .status,
        200
    );
    raw::call(
        &format!("{}?chat_id=5&text=query", bot.method_url("sendMessage")),
        "POST",
        &form,
        b"text=body",
    )
    .expect("a");
    let texts: Vec<_> = bot
        .telegram
        .messages(5)
        .into_iter()
        .map(|message| message.text)
        .collect();
    assert_eq!(texts, ["json", "form &", "parts", "query"]);
    assert!(bot.telegram.messages(5)[0].silent);
    let broken = raw::call(
        &bot.method_url("sendMessage"),
        "POST",
        &[("Content-Type", "application/json")],
        b"{\"te",
    );
    assert_eq!(
        refusal(&broken.expect("answer")),
        bad_request("message text is empty")
    );
    let cut = raw::call(
        &bot.method_url("sendMessage"),
        "POST",
        &[("Content-Type", "multipart/form-data")],
        b"x",
    );
    let cut = cut.expect("answer");
    assert_eq!((cut.status, cut.body.len()), (400, 0));
}

#[test]
fn the_journal_has_arguments_and_parts_and_never_the_token() {
    let bot = Bot::new();
    let picture = media::png(16, 16, Some(3));
    bot.upload(
        "sendPhoto",
        &[("chat_id", "5"), ("caption", "c")],
        &[("photo", "p.png", &picture)],
    );
    bot.refused("sendPhoto", json!({"chat_id": 5}));
    let journal = bot.telegram.journal();
    assert_eq!(journal.len(), 2);
    let first = &journal[0];
    assert_eq!(
        (first.method.as_str(), first.chat, first.status),
        ("sendphoto", Some(5), 200)
    );
    assert_eq!(
        (&first.args["caption"], first.message_ids.as_slice()),
        (&json!("c"), [1].as_slice())
    );
    assert_eq!(first.parts[0].fingerprint, media::fingerprint(&picture));
    assert_eq!(
        journal[1].description,
        "Bad Request: there is no photo in the request"
    );
    assert!(!format!("{journal:?}{:?}", bot.telegram.messages(5)).contains(&bot.telegram.token()));
}

#[test]
fn a_bad_tag_hides_a_wrong_chat_and_a_wrong_chat_hides_a_long_caption() {
    let bot = Bot::new();
    let args = |chat: &str, caption: &str| json!({"chat_id": chat, "photo": bot.url("a.png"), "caption": caption, "parse_mode": "HTML"});
    let long = "x".repeat(1025);
    assert_eq!(
        bot.refused("sendPhoto", args("-1", "<br>")),
        bad_request("can't parse entities: Unsupported start tag \"br\" at byte offset 0")
    );
    assert_eq!(
        bot.refused("sendPhoto", args("-1", &long)),
        bad_request("chat not found")
    );
    assert_eq!(
        bot.refused("sendPhoto", args("", &long)),
        bad_request("chat_id is empty")
    );
    assert_eq!(
        bot.refused("sendPhoto", args("5", &long)),
        bad_request("message caption is too long")
    );
    let marked = format!("<b>{}</b>", "x".repeat(1024));
    bot.ok("sendPhoto", args("5", &marked));
    let text = |n: usize| bot.call("sendMessage", json!({"chat_id": 5, "text": "é".repeat(n)}));
    assert_eq!(text(4096).status, 200);
    assert_eq!(refusal(&text(4097)), bad_request("message is too long"));
    assert_eq!(refusal(&text(16385)), bad_request("text is too long"));
    assert_eq!(
        bot.refused("sendMessage", json!({"chat_id": 5, "text": " \n"})),
        bad_request("text must be non-empty")
    );
}

#[test]
fn a_photo_by_url_is_fetched_and_its_outcome_is_remembered() {
    let bot = Bot::new();
    let sent = bot.ok(
        "sendPhoto",
        json!({"chat_id": 5, "photo": bot.url("a.png")}),
    );
    assert_eq!(sent["photo"][1]["width"], 64);
    let message = bot.telegram.messages(5).remove(0);
    assert_eq!(message.via_url(), Some(bot.url("a.png").as_str()));
    assert_eq!(
        message.file.expect("file").fingerprint,
        media::fingerprint(&media::png(64, 64, Some(1)))
    );
    bot.ok(
        "sendPhoto",
        json!({"chat_id": 6, "photo": bot.url("a.png")}),
    );
    assert_eq!(
        bot.served.load(Ordering::Relaxed),
        1,
        "the second comes from the cache"
    );

    let cases = [
        ("gone.png", "failed to get HTTP URL content"),
        ("big.jpg", "failed to get HTTP URL content"),
        ("moved.png", "failed to get HTTP URL content"),
        ("text.png", "wrong type of the web page content"),
        ("broken.png", "IMAGE_PROCESS_FAILED"),
    ];
    for (file, text) in cases {
        let args = json!({"chat_id": 5, "photo": bot.url(file)});
        assert_eq!(
            bot.refused("sendPhoto", args.clone()),
            bad_request(text),
            "{file}"
        );
        let before = bot.served.load(Ordering::Relaxed);
        assert_eq!(
            bot.refused("sendPhoto", args),
            bad_request("wrong type of the web page content"),
            "{file} again"
        );
        assert_eq!(
            bot.served.load(Ordering::Relaxed),
            before,
            "{file}: failures are remembered too"
        );
    }
    assert_eq!(bot.telegram.sends_count(), 2);
}

#[test]
fn by_url_each_method_takes_its_types_only() {
    let bot = Bot::new();
    let wrong = bad_request("wrong type of the web page content");
    bot.ok(
        "sendDocument",
        json!({"chat_id": 5, "document": bot.url("d.pdf")}),
    );
    assert_eq!(
        bot.refused(
            "sendDocument",
            json!({"chat_id": 5, "document": bot.url("b.png")})
        ),
        wrong
    );
    bot.ok(
        "sendVideo",
        json!({"chat_id": 5, "video": bot.url("v.mp4")}),
    );
    bot.ok(
        "sendAnimation",
        json!({"chat_id": 5, "animation": bot.url("v.mp4")}),
    );
    assert_eq!(
        bot.refused(
            "sendAudio",
            json!({"chat_id": 5, "audio": bot.url("v.mp4")})
        ),
        wrong
    );
    let cases = [
        (
            "ftp://x.y/z",
            "invalid file HTTP URL specified: Unsupported URL protocol",
        ),
        (
            "http:///x.png",
            "invalid file HTTP URL specified: URL host is empty",
        ),
        (
            "notanid",
            "wrong remote file identifier specified: can't unserialize it. Wrong last symbol",
        ),
    ];
    for (value, text) in cases {
        assert_eq!(
            bot.refused("sendPhoto", json!({"chat_id": 5, "photo": value})),
            bad_request(text),
            "{value}"
        );
    }
    let host = bot.refused(
        "sendPhoto",
        json!({"chat_id": 5, "photo": "http://127.0.0.1:1/a.png"}),
    );
    assert_eq!(host, bad_request("failed to get HTTP URL content"));
    assert!(
        bot.telegram
            .violations()
            .iter()
            .any(|v| v.starts_with("fetch-host:"))
    );
}

#[test]
fn uploads_are_checked_by_content_and_size() {
    let bot = Bot::new();
    let photo = |bytes: &[u8]| {
        bot.upload(
            "sendPhoto",
            &[("chat_id", "5")],
            &[("photo", "p.jpg", bytes)],
        )
    };
    assert_eq!(photo(&media::png(64, 64, Some(1))).status, 200);
    assert_eq!(
        refusal(&photo(b"not a picture")),
        bad_request("IMAGE_PROCESS_FAILED")
    );
    assert_eq!(refusal(&photo(b"")), bad_request("file must be non-empty"));
    assert_eq!(
        refusal(&photo(&media::jpeg_head(9000, 1001, 1))),
        bad_request("PHOTO_INVALID_DIMENSIONS")
    );
    assert_eq!(
        refusal(&photo(&media::jpeg_head(2100, 100, 1))),
        bad_request("PHOTO_INVALID_DIMENSIONS")
    );
    let large = [media::jpeg_head(100, 100, 1), vec![0; 10 << 20]].concat();
    let text = format!(
        "file of size {} bytes is too big for a photo; the maximum size is 10485760 bytes",
        large.len()
    );
    assert_eq!(refusal(&photo(&large)), bad_request(&text));
    let as_document = bot.upload(
        "sendDocument",
        &[("chat_id", "5")],
        &[("document", "p.jpg", &large)],
    );
    assert_eq!(as_document.status, 200);
    bot.telegram.set_body_limit(1000);
    assert_eq!(
        refusal(&photo(&vec![0; 2000])),
        (413, "Request Entity Too Large".into())
    );
}

#[test]
fn a_part_is_found_by_attach_and_a_file_id_keeps_its_kind() {
    let bot = Bot::new();
    let picture = media::png(64, 64, Some(1));
    let sent = bot
        .upload(
            "sendPhoto",
            &[("chat_id", "5"), ("photo", "attach://f0")],
            &[("f0", "a.png", &picture)],
        )
        .json();
    let id = sent["result"]["photo"][1]["file_id"].clone();
    bot.ok("sendPhoto", json!({"chat_id": 6, "photo": id}));
    assert_eq!(
        bot.telegram.messages(6)[0].file,
        bot.telegram.messages(5)[0].file
    );
    let refused = bot.refused("sendDocument", json!({"chat_id": 6, "document": id}));
    assert_eq!(
        refused,
        bad_request("can't use file of type Photo as Document")
    );
    let missing = bot.upload(
        "sendPhoto",
        &[("chat_id", "5"), ("photo", "attach://f9")],
        &[("f0", "a.png", &picture)],
    );
    assert_eq!(
        refusal(&missing),
        bad_request("there is no photo in the request")
    );
    assert_eq!(
        bot.ok("getFile", json!({"file_id": id}))["file_size"],
        picture.len()
    );
}

#[test]
fn a_gif_document_becomes_an_animation_unless_kept_as_a_file() {
    let bot = Bot::new();
    let gif = media::gif(10, 10, 1);
    bot.upload(
        "sendDocument",
        &[("chat_id", "5")],
        &[("document", "a.gif", &gif)],
    );
    let keep = [("chat_id", "5"), ("disable_content_type_detection", "true")];
    bot.upload("sendDocument", &keep, &[("document", "a.gif", &gif)]);
    let kinds: Vec<_> = bot
        .telegram
        .messages(5)
        .iter()
        .map(|message| message.kind)
        .collect();
    assert_eq!(kinds, [Kind::Animation, Kind::Document]);
}

#[test]
fn an_album_is_stored_whole_or_not_at_all() {
    let bot = Bot::new();
    let item = |file: &str| json!({"type": "photo", "media": bot.url(file)});
    let sent = bot.ok(
        "sendMediaGroup",
        json!({"chat_id": 5, "media": [item("a.png"), item("b.png")]}),
    );
    assert_eq!(sent[0]["media_group_id"], sent[1]["media_group_id"]);
    assert_eq!(
        (&sent[0]["message_id"], &sent[1]["message_id"]),
        (&json!(1), &json!(2))
    );
    let failed = bot.refused(
        "sendMediaGroup",
        json!({"chat_id": 5, "media": [item("a.png"), item("gone.png")]}),
    );
    assert_eq!(
        failed,
        bad_request("failed to send message #2 with the error message \"WEBPAGE_CURL_FAILED\"")
    );
    assert_eq!(bot.telegram.messages(5).len(), 2);
    let single = bot.ok(
        "sendMediaGroup",
        json!({"chat_id": 6, "media": json!([item("a.png")]).to_string()}),
    );
    assert!(
        single.as_array().is_some_and(|list| list.len() == 1)
            && single[0].get("media_group_id").is_none()
    );
    assert_eq!(bot.telegram.sends_count(), 3);
}

#[test]
fn an_album_can_be_cut_and_an_id_can_be_zero() {
    let bot = Bot::new();
    let item = |file: &str| json!({"type": "photo", "media": bot.url(file)});
    let album = json!({"chat_id": 5, "media": [item("a.png"), item("b.png")]});
    bot.telegram.cut_next_album(1);
    let (code, text) = bot.refused("sendMediaGroup", album.clone());
    let inner =
        "failed to send message #2 with the error message \"Too Many Requests: retry after 3\"";
    assert_eq!((code, text), bad_request(inner));
    assert_eq!(bot.telegram.messages(5).len(), 1);
    bot.ok("sendMediaGroup", album);
    assert_eq!(
        bot.telegram.duplicates().len(),
        1,
        "the first item is there twice now"
    );
    bot.telegram.hide_next_id();
    assert_eq!(
        bot.ok(
            "sendVideo",
            json!({"chat_id": 6, "video": bot.url("v.mp4")})
        )["message_id"],
        0
    );
    assert_eq!(bot.telegram.messages(6)[0].id, 1);
}

#[test]
fn wrong_albums_are_refused_with_the_servers_words() {
    let bot = Bot::new();
    let item = |kind: &str| json!({"type": kind, "media": bot.url("a.png")});
    let many: Vec<_> = (0..11).map(|_| item("photo")).collect();
    let cases = [
        (json!([]), "there are no messages to send"),
        (json!(many), "too many messages to send as an album"),
        (json!({"a": 1}), "expected an Array of InputMedia"),
        (json!("[{"), "can't parse media JSON object"),
        (
            json!([item("photo"), item("document")]),
            "document can't be mixed with other media types",
        ),
        (
            json!([item("audio"), item("photo")]),
            "audio can't be mixed with other media types",
        ),
        (
            json!([item("animation")]),
            "can't parse InputMedia: type \"animation\" can't be used in sendMediaGroup",
        ),
        (
            json!([{"type": "photo", "media": "attach://f0"}]),
            "can't parse InputMedia: media not found",
        ),
    ];
    for (media, text) in cases {
        assert_eq!(
            bot.refused("sendMediaGroup", json!({"chat_id": 5, "media": media})),
            bad_request(text)
        );
    }
}

#[test]
fn a_text_becomes_a_photo_and_never_a_text_again() {
    let bot = Bot::new();
    let keyboard = json!({"inline_keyboard": [[{"text": "Stop", "callback_data": "s"}]]});
    let status = bot.ok(
        "sendMessage",
        json!({"chat_id": 5, "text": "generating…", "reply_markup": keyboard}),
    );
    let media = json!({"type": "photo", "media": bot.url("a.png"), "caption": "<b>done</b>", "parse_mode": "HTML"});
    let edit = json!({"chat_id": 5, "message_id": status["message_id"], "media": media});
    let edited = bot.ok("editMessageMedia", edit.clone());
    assert_eq!(
        (&edited["message_id"], &edited["caption"]),
        (&json!(1), &json!("done"))
    );
    assert!(
        edited["edit_date"].is_number() && edited.get("reply_markup").is_none(),
        "the keyboard is dropped"
    );
    let message = bot.telegram.messages(5).remove(0);
    assert_eq!(
        (message.kind, message.edits, message.keyboard),
        (Kind::Photo, 1, None)
    );

    let (code, text) = bot.refused("editMessageMedia", edit);
    assert!(
        code == 400
            && text
                .starts_with("Bad Request: message is not modified: specified new message content")
    );
    let args = json!({"chat_id": 5, "message_id": 1, "text": "x"});
    assert_eq!(
        bot.refused("editMessageText", args),
        bad_request("there is no text in the message to edit")
    );
    bot.ok(
        "editMessageCaption",
        json!({"chat_id": 5, "message_id": 1, "caption": "new"}),
    );
    assert_eq!(bot.telegram.messages(5)[0].text, "new");
    assert_eq!(
        (bot.telegram.sends_count(), bot.telegram.edits_count()),
        (1, 2)
    );
}

#[test]
fn the_same_bytes_uploaded_again_are_a_new_file_and_a_changed_message() {
    let bot = Bot::new();
    let id = bot.telegram.plant_message(5, Kind::Text, false).to_string();
    let picture = media::png(64, 64, Some(1));
    let args = [
        ("chat_id", "5"),
        ("message_id", &id),
        ("media", r#"{"type":"photo","media":"attach://f0"}"#),
    ];
    for _ in 0..2 {
        assert_eq!(
            bot.upload("editMessageMedia", &args, &[("f0", "a.png", &picture)])
                .status,
            200
        );
    }
    let message = bot.telegram.messages(5).remove(0);
    assert_eq!((message.edits, message.upload_name()), (2, Some("a.png")));
    assert_eq!(bot.telegram.duplicates(), Vec::new());
}

#[test]
fn edits_are_refused_as_section_six_says() {
    let bot = Bot::new();
    let media = json!({"type": "photo", "media": bot.url("a.png")});
    let edit = |id: i64| json!({"chat_id": 5, "message_id": id, "media": media});
    let with_keyboard = bot.telegram.plant_message(5, Kind::Text, true);
    assert_eq!(
        bot.refused("editMessageMedia", edit(with_keyboard)),
        bad_request("message media can't be edited")
    );
    let text = json!({"chat_id": 5, "message_id": with_keyboard, "text": "x"});
    assert_eq!(
        bot.refused("editMessageText", text),
        bad_request("message can't be edited")
    );
    let plain = bot.telegram.plant_message(5, Kind::Text, false);
    bot.telegram.older_than_7_11(true);
    let old = bad_request("there is no media in the message to edit");
    assert_eq!(bot.refused("editMessageMedia", edit(plain)), old);
    bot.telegram.older_than_7_11(false);
    let caption = json!({"chat_id": 5, "message_id": plain, "caption": "x"});
    assert_eq!(
        bot.refused("editMessageCaption", caption),
        bad_request("there is no caption in the message to edit")
    );
    let mut keyboard = edit(plain);
    keyboard["reply_markup"] = json!({"remove_keyboard": true});
    assert_eq!(
        bot.refused("editMessageMedia", keyboard),
        bad_request("inline keyboard expected")
    );
    bot.telegram.remove_message(5, plain);
    assert_eq!(
        bot.refused("editMessageMedia", edit(plain)),
        bad_request("message to edit not found")
    );
    let long = json!({"type": "photo", "media": bot.url("a.png"), "caption": "x".repeat(1025)});
    let photo = bot.telegram.plant_message(5, Kind::Photo, false);
    let args = json!({"chat_id": 5, "message_id": photo, "media": long});
    assert_eq!(
        bot.refused("editMessageMedia", args),
        bad_request("message caption is too long")
    );
    let args = json!({"chat_id": 5, "message_id": photo, "caption": "x".repeat(1025)});
    assert_eq!(
        bot.refused("editMessageCaption", args),
        bad_request("MEDIA_CAPTION_TOO_LONG")
    );
}

#[test]
fn an_album_item_stays_in_its_family() {
    let bot = Bot::new();
    let item = json!({"type": "photo", "media": bot.url("a.png")});
    bot.ok(
        "sendMediaGroup",
        json!({"chat_id": 5, "media": [item, item]}),
    );
    let edit = |media: Value| {
        bot.call(
            "editMessageMedia",
            json!({"chat_id": 5, "message_id": 1, "media": media}),
        )
    };
    let document = json!({"type": "document", "media": bot.url("d.pdf")});
    assert_eq!(
        refusal(&edit(document)),
        bad_request("can't change media type in the album")
    );
    assert_eq!(
        edit(json!({"type": "video", "media": bot.url("v.mp4")})).status,
        200
    );
}

#[test]
fn the_older_of_two_edits_under_way_is_cancelled() {
    let bot = Bot::new();
    let id = bot.telegram.plant_message(5, Kind::Text, false);
    // The older one waits for its rate limit while the newer one comes.
    bot.telegram.set_limits(Limits {
        chat: Rate {
            per_second: 0.5,
            burst: 1.0,
        },
        ..Limits::off()
    });
    bot.ok(
        "sendMessage",
        json!({"chat_id": 5, "text": "takes the burst"}),
    );
    std::thread::scope(|scope| {
        let older = scope.spawn(|| {
            bot.refused(
                "editMessageText",
                json!({"chat_id": 5, "message_id": id, "text": "old"}),
            )
        });
        let until = Instant::now() + Duration::from_secs(30);
        let is_there = || {
            lock(&bot.telegram.shared.state).chats[&5]
                .edits
                .contains_key(&id)
        };
        while !is_there() {
            assert!(Instant::now() < until, "the older one never came");
            std::thread::sleep(Duration::from_millis(5)); // a look at a condition, with a deadline
        }
        bot.ok(
            "editMessageText",
            json!({"chat_id": 5, "message_id": id, "text": "new"}),
        );
        assert_eq!(
            older.join().expect("joins"),
            bad_request("canceled by new edit message request")
        );
    });
    assert_eq!(bot.telegram.messages(5)[0].text, "new");
}

#[test]
fn dead_chats_answer_as_they_do_and_are_watched() {
    let bot = Bot::new();
    bot.telegram.block(5);
    let item = json!({"type": "photo", "media": bot.url("a.png")});
    let blocked = (403, "Forbidden: bot was blocked by the user".to_owned());
    assert_eq!(
        bot.refused("sendMessage", json!({"chat_id": 5, "text": "x"})),
        blocked
    );
    assert!(bot.telegram.violations().is_empty());
    let album = bot.refused(
        "sendMediaGroup",
        json!({"chat_id": 5, "media": [item, item]}),
    );
    assert_eq!(
        album,
        bad_request("failed to send message #1 with the error message \"USER_IS_BLOCKED\"")
    );
    assert!(bot.telegram.violations()[0].starts_with("dead-chat:"));
    bot.telegram.kick(-1_000_000_000_001);
    let kicked = bot.refused(
        "sendMessage",
        json!({"chat_id": -1_000_000_000_001i64, "text": "x"}),
    );
    assert_eq!(
        kicked,
        (
            403,
            "Forbidden: bot was kicked from the supergroup chat".into()
        )
    );
    let id = bot.telegram.plant_message(5, Kind::Text, false);
    bot.ok(
        "editMessageText",
        json!({"chat_id": 5, "message_id": id, "text": "y"}),
    );
    bot.telegram.edits_fail_when_blocked(true);
    assert_eq!(
        bot.refused(
            "editMessageText",
            json!({"chat_id": 5, "message_id": id, "text": "z"})
        ),
        blocked
    );
    bot.telegram.unblock(5);
    bot.ok("sendMessage", json!({"chat_id": 5, "text": "x"}));
}

#[test]
fn chats_threads_replies_rights_and_migration() {
    let bot = Bot::new();
    let send = |args: Value| bot.call("sendMessage", args);
    for chat in [
        json!(0),
        json!(-7),
        json!(10_000_000),
        json!("@name"),
        json!("abc"),
    ] {
        assert_eq!(
            refusal(&send(json!({"chat_id": chat, "text": "x"}))),
            bad_request("chat not found"),
            "{chat}"
        );
    }
    bot.telegram.add_chat(-7);
    assert_eq!(
        send(json!({"chat_id": -7, "text": "x"})).json()["result"]["chat"]["type"],
        "group"
    );
    let thread = json!({"chat_id": -7, "text": "x", "message_thread_id": 9});
    assert_eq!(
        refusal(&send(thread.clone())),
        bad_request("message thread not found")
    );
    bot.telegram.add_topic(-7, 9);
    assert_eq!(send(thread).status, 200);
    let reply = |id: i64, may: bool| json!({"chat_id": -7, "text": "x", "reply_parameters": {"message_id": id, "allow_sending_without_reply": may}});
    assert_eq!(
        refusal(&send(reply(99, false))),
        bad_request("message to be replied not found")
    );
    assert!(
        send(reply(99, true)).json()["result"]
            .get("reply_to_message")
            .is_none()
    );
    assert_eq!(
        send(reply(1, true)).json()["result"]["reply_to_message"]["message_id"],
        1
    );
    bot.telegram.forbid(-7, Kind::Photo);
    let photo = bot.refused(
        "sendPhoto",
        json!({"chat_id": -7, "photo": bot.url("a.png")}),
    );
    assert_eq!(
        photo,
        bad_request("not enough rights to send photos to the chat")
    );
    bot.telegram.migrate(-7, -1_000_000_000_007);
    let moved = send(json!({"chat_id": -7, "text": "x"})).json();
    assert_eq!(
        moved["parameters"]["migrate_to_chat_id"],
        -1_000_000_000_007i64
    );
    assert_eq!(
        send(json!({"chat_id": -1_000_000_000_007i64, "text": "x"})).status,
        200
    );
}

#[test]
fn keyboards_are_checked_in_form_and_in_content() {
    let bot = Bot::new();
    let with = |markup: Value| {
        bot.call(
            "sendMessage",
            json!({"chat_id": 5, "text": "x", "reply_markup": markup}),
        )
    };
    let button = |button: Value| json!({"inline_keyboard": [[button]]});
    let cases = [
        (json!("{"), "can't parse reply keyboard markup JSON object"),
        (json!([1]), "object expected as reply markup"),
        (
            button(json!({"callback_data": "x"})),
            "can't parse inline keyboard button: Can't find field \"text\"",
        ),
        (
            button(json!({"text": "x"})),
            "can't parse inline keyboard button: Text buttons are unallowed in the inline keyboard",
        ),
        (
            button(json!({"text": "x", "callback_data": "я".repeat(33)})),
            "BUTTON_DATA_INVALID",
        ),
        (
            button(json!({"text": "x", "callback_data": "a", "url": "https://a.example/"})),
            "BUTTON_TYPE_INVALID",
        ),
        (
            button(json!({"text": "x", "callback_data": "a", "switch_inline_query": ""})),
            "BUTTON_TYPE_INVALID",
        ),
        (
            button(json!({"text": "x", "url": "nothing"})),
            "inline keyboard button URL 'nothing' is invalid: Wrong HTTP URL",
        ),
    ];
    for (markup, text) in cases {
        assert_eq!(refusal(&with(markup)), bad_request(text));
    }
    let good = button(json!({"text": "x", "callback_data": "я".repeat(32)}));
    assert_eq!(
        with(json!(good.to_string())).json()["result"]["reply_markup"],
        good
    );
    assert_eq!(with(json!({"force_reply": true})).status, 200);
    assert!(bot.telegram.messages(5)[1].reply_keyboard);
}

#[test]
fn deleting_and_chat_actions() {
    let bot = Bot::new();
    for text in ["a", "b", "c"] {
        bot.ok("sendMessage", json!({"chat_id": 5, "text": text}));
    }
    assert_eq!(
        bot.ok("deleteMessage", json!({"chat_id": 5, "message_id": 1})),
        true
    );
    let again = bot.refused("deleteMessage", json!({"chat_id": 5, "message_id": 1}));
    assert_eq!(again, bad_request("message to delete not found"));
    assert_eq!(
        bot.ok(
            "deleteMessages",
            json!({"chat_id": 5, "message_ids": [1, 2, 77]})
        ),
        true
    );
    assert_eq!(bot.telegram.messages(5).len(), 1);
    assert_eq!(
        bot.ok(
            "sendChatAction",
            json!({"chat_id": 5, "action": "upload_photo"})
        ),
        true
    );
    let wrong = bot.refused("sendChatAction", json!({"chat_id": 5, "action": "dance"}));
    assert_eq!(wrong, bad_request("wrong parameter action in request"));
    bot.ok("sendMessage", json!({"chat_id": 5, "text": "d"}));
    assert_eq!(
        bot.telegram.messages(5)[1].id,
        4,
        "ids are never used twice"
    );
}

#[test]
fn short_waits_are_held_and_long_ones_are_429_that_grow_when_ignored() {
    let bot = Bot::new();
    let rate = Rate {
        per_second: 0.5,
        burst: 1.0,
    };
    bot.telegram.set_limits(Limits {
        chat: rate,
        swallow: Duration::from_secs(3),
        ..Limits::off()
    });
    let send = || bot.call("sendMessage", json!({"chat_id": 5, "text": "x"}));
    send();
    let began = Instant::now();
    assert_eq!(send().status, 200);
    assert!(
        began.elapsed() >= Duration::from_millis(150),
        "held for the bucket"
    );
    bot.telegram.set_limits(Limits {
        chat: Rate {
            per_second: 0.25,
            burst: 1.0,
        },
        ..bot_limits()
    });
    let refused = send();
    let after = refused.json()["parameters"]["retry_after"]
        .as_u64()
        .expect("seconds");
    assert_eq!(
        (refused.status, refused.header("Retry-After")),
        (429, Some(after.to_string().as_str()))
    );
    assert_eq!(
        refusal(&refused).1,
        format!("Too Many Requests: retry after {after}")
    );
    let longer = send().json()["parameters"]["retry_after"]
        .as_u64()
        .expect("seconds");
    assert!(longer > after, "{longer} {after}");
    assert!(bot.telegram.violations()[0].starts_with("too-early:"));
    assert_eq!(
        bot.call("sendMessage", json!({"chat_id": 6, "text": "x"}))
            .status,
        200,
        "another chat goes on"
    );
}

fn bot_limits() -> Limits {
    Limits {
        swallow: Duration::from_millis(300),
        ..Limits::off()
    }
}

#[test]
fn faults_and_barriers_know_the_method_and_the_chat() {
    let bot = Bot::new();
    let faults = &bot.telegram.shared.faults;
    faults.add(
        Rule::first(1, "tg.sendmessage", Fault::telegram_429(7)).for_requests_with("\"chat_id\":6"),
    );
    let send = |chat: i64| bot.call("sendMessage", json!({"chat_id": chat, "text": "x"}));
    assert_eq!(
        (send(5).status, send(6).status, send(6).status),
        (200, 429, 200)
    );
    faults.add(Rule::first(1, "tg.*", Fault::ResetAfterActing));
    let headers = [("Content-Type", "application/json")];
    let lost = raw::call(
        &bot.method_url("sendMessage"),
        "POST",
        &headers,
        br#"{"chat_id":7,"text":"x"}"#,
    );
    assert!(lost.is_none());
    assert_eq!(
        bot.telegram.messages(7).len(),
        1,
        "stored, though nobody was told"
    );

    let hold = bot.telegram.hold("tg.sendmessage");
    std::thread::scope(|scope| {
        let held = scope.spawn(|| send(8).status);
        assert!(hold.wait_arrived(1, Duration::from_secs(5)));
        assert_eq!(
            (bot.telegram.messages(8).len(), held.is_finished()),
            (1, false)
        );
        drop(hold);
        assert_eq!(held.join().expect("joins"), 200);
    });
}

#[test]
fn what_only_a_wrong_client_does_is_noted() {
    let bot = Bot::new();
    bot.telegram.watch_for_secret("fal-secret");
    bot.refused("sendPhoto", json!({"chat_id": 5}));
    bot.ok("sendMessage", json!({"chat_id": 5, "text": "fal-secret"}));
    raw::call(
        &bot.method_url("getMe"),
        "POST",
        &[("Expect", "100-continue")],
        b"",
    )
    .expect("answer");
    raw::call(
        &bot.method_url("getMe"),
        "POST",
        &[("Content-Type", "text/plain")],
        b"x",
    )
    .expect("answer");
    let kinds: Vec<_> = bot
        .telegram
        .violations()
        .iter()
        .map(|v| v.split(':').next().unwrap_or("").to_owned())
        .collect();
    assert_eq!(
        kinds,
        ["bad-request", "foreign-secret", "expect", "content-type"]
    );
}

#[test]
fn deletions_have_the_limits_of_any_call() {
    let bot = Bot::new();
    for chat in [5, 5, 5, 5, 6, 6] {
        bot.telegram.plant_message(chat, Kind::Text, false);
    }
    let limited = |per_second: f64, burst: f64| {
        let chat = Rate { per_second, burst };
        bot.telegram.set_limits(Limits {
            chat,
            ..bot_limits()
        });
    };
    limited(0.25, 2.0);
    bot.ok("deleteMessage", json!({"chat_id": 5, "message_id": 1}));
    let two = json!({"chat_id": 5, "message_ids": [2, 99]});
    bot.ok("deleteMessages", two);
    for (method, args) in [
        ("deleteMessage", json!({"chat_id": 5, "message_id": 3})),
        (
            "deleteMessages",
            json!({"chat_id": 5, "message_ids": [3, 4]}),
        ),
    ] {
        let (code, text) = bot.refused(method, args);
        assert_eq!(code, 429, "{method}");
        assert!(
            text.starts_with("Too Many Requests: retry after "),
            "{text}"
        );
    }
    assert_eq!(
        bot.telegram.messages(5).len(),
        2,
        "what is refused does nothing"
    );

    // A short wait is held, as for a send.
    bot.telegram.set_limits(Limits {
        chat: Rate {
            per_second: 0.5,
            burst: 1.0,
        },
        ..Limits::off()
    });
    bot.ok("deleteMessage", json!({"chat_id": 6, "message_id": 1}));
    let began = Instant::now();
    bot.ok("deleteMessage", json!({"chat_id": 6, "message_id": 2}));
    assert!(began.elapsed() >= Duration::from_millis(100));
}

#[test]
fn a_public_chat_is_found_by_its_name() {
    let bot = Bot::new();
    bot.telegram.add_public_chat(-1_000_000_000_042, "news");
    let sent = bot.ok("sendMessage", json!({"chat_id": "@news", "text": "x"}));
    assert_eq!(sent["chat"]["id"], -1_000_000_000_042i64);
    bot.ok(
        "editMessageText",
        json!({"chat_id": "@news", "message_id": sent["message_id"], "text": "y"}),
    );
    assert_eq!(bot.telegram.messages(-1_000_000_000_042)[0].text, "y");
    // Never a user, and no other name.
    for chat in ["@new", "news", "@5", "@"] {
        let refused = bot.refused("sendMessage", json!({"chat_id": chat, "text": "x"}));
        assert_eq!(refused, bad_request("chat not found"), "{chat}");
    }
}

#[test]
fn the_type_of_an_upload_follows_its_name_and_odd_names_are_noted() {
    let bot = Bot::new();
    let picture = media::png(8, 8, Some(1));
    let send = |name: &str| {
        let files = [("document", name, picture.as_slice())];
        let args = [("chat_id", "5")];
        let got = bot.upload("sendDocument", &args, &files);
        got.json()["result"]["document"]["mime_type"].clone()
    };
    assert_eq!(send("a.png"), "image/png");
    assert_eq!(bot.telegram.violations(), Vec::<String>::new());
    assert_eq!(send("a.bin"), "application/octet-stream");
    assert_eq!(send("a.MP4"), "video/mp4");
    assert_eq!(send("кот.png"), "image/png");
    let long = format!("{}.png", "x".repeat(60));
    assert_eq!(send(&long), "image/png");
    let found = bot.telegram.violations();
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(
        found.iter().all(|text| text.starts_with("file-name: ")),
        "{found:?}"
    );

    // Of a photo the content decides.
    let photo = [("photo", "a.webp", picture.as_slice())];
    bot.upload("sendPhoto", &[("chat_id", "5")], &photo);
    assert_eq!(bot.telegram.violations().len(), 4);
    let parts = [("f", "a.png", picture.as_slice()), ("f", "b.png", &picture)];
    bot.upload(
        "sendDocument",
        &[("chat_id", "5"), ("document", "attach://f")],
        &parts,
    );
    assert!(bot.telegram.violations()[4].starts_with("part-name: "));
}

#[test]
fn only_what_is_seen_can_be_hidden_behind_a_spoiler() {
    let bot = Bot::new();
    let (picture, video) = (media::png(8, 8, Some(1)), media::mp4_head(1));
    for (number, (method, part, name, bytes, hidden)) in [
        ("sendPhoto", "photo", "a.png", &picture, true),
        ("sendVideo", "video", "a.mp4", &video, true),
        ("sendAnimation", "animation", "a.mp4", &video, true),
        ("sendDocument", "document", "a.png", &picture, false),
        ("sendAudio", "audio", "a.mp3", &media::mp3_head(1), false),
    ]
    .into_iter()
    .enumerate()
    {
        let args = [("chat_id", "5"), ("has_spoiler", "true")];
        let got = bot.upload(method, &args, &[(part, name, bytes.as_slice())]);
        assert_eq!(got.status, 200, "{method}");
        let message = &bot.telegram.messages(5)[number];
        assert_eq!(message.spoiler, hidden, "{method}");
        let shown = got.json()["result"]["has_media_spoiler"].clone();
        assert_eq!(shown.as_bool().unwrap_or(false), hidden, "{method}");
    }
    assert_eq!(
        bot.telegram.violations(),
        [
            "ignored: has_spoiler of sendDocument",
            "ignored: has_spoiler of sendAudio"
        ]
    );
}
