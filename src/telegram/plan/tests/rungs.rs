//! The ladder of one file: where it enters by what is known of it, what each refusal leads to, and where it
//! ends. No rung is tried that cannot hold, and none twice.

use super::*;
use crate::job::answer::Held;

#[test]
fn the_first_rung_follows_type_size_shape_host_and_mode() {
    let by = |content_type: &str, url: &str| file(url, content_type);
    let https = "https://v3.fal.media/f/x";
    #[rustfmt::skip]
    let table: Vec<(&str, File, SendAs, DeliveryMode, &str)> = vec![
        ("jpeg", by("image/jpeg", https), SendAs::Auto, DeliveryMode::Auto, "sendPhoto url"),
        ("webp", by("image/webp", https), SendAs::Auto, DeliveryMode::Auto, "sendPhoto url"),
        ("gif", by("image/gif", https), SendAs::Auto, DeliveryMode::Auto, "sendAnimation url"),
        ("svg", by("image/svg+xml", https), SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("avif", by("image/avif", https), SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("mp4", by("video/mp4", https), SendAs::Auto, DeliveryMode::Auto, "sendVideo url"),
        ("webm", by("video/webm", https), SendAs::Auto, DeliveryMode::Auto, "sendVideo up"),
        ("mp3", by("audio/mpeg", https), SendAs::Auto, DeliveryMode::Auto, "sendAudio url"),
        ("wav", by("audio/wav", https), SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("m4a", by("audio/mp4", https), SendAs::Auto, DeliveryMode::Auto, "sendAudio url"),
        ("zip", by("application/zip", https), SendAs::Auto, DeliveryMode::Auto, "sendDocument url"),
        ("gif as photo", by("image/gif", https), SendAs::Photo, DeliveryMode::Auto, "sendPhoto url"),
        ("pdf", by("application/pdf", https), SendAs::Auto, DeliveryMode::Auto, "sendDocument url"),
        ("json", by("application/json", https), SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("octets.png", by("application/octet-stream", "https://h/a.PNG?b=c.mp4#d"), SendAs::Auto, DeliveryMode::Auto, "sendPhoto url"),
        ("nothing", File { url: https.into(), ..File::default() }, SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("name", File { url: https.into(), name: Some("v.mp4".into()), ..File::default() }, SendAs::Auto, DeliveryMode::Auto, "sendVideo url"),
        ("as document", by("image/png", https), SendAs::Document, DeliveryMode::Auto, "sendDocument up"),
        ("as animation", by("video/mp4", https), SendAs::Animation, DeliveryMode::Auto, "sendAnimation url"),
        ("as photo", File { url: https.into(), ..File::default() }, SendAs::Photo, DeliveryMode::Auto, "sendPhoto up"),
        ("5 MB", File { size: Some(5_000_000), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendPhoto url"),
        ("6 MB", File { size: Some(6_000_000), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendPhoto up"),
        ("11 MB", File { size: Some(11_000_000), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("51 MB", File { size: Some(51_000_000), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendMessage link"),
        ("21 MB video", File { size: Some(21_000_000), ..by("video/mp4", https) }, SendAs::Auto, DeliveryMode::Auto, "sendVideo up"),
        ("too wide", File { width: Some(9000), height: Some(1001), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("too narrow", File { width: Some(2001), height: Some(100), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendDocument up"),
        ("just right", File { width: Some(2000), height: Some(100), ..by("image/png", https) }, SendAs::Auto, DeliveryMode::Auto, "sendPhoto url"),
        ("upload", by("image/png", https), SendAs::Auto, DeliveryMode::Upload, "sendPhoto up"),
        ("url", by("image/png", https), SendAs::Auto, DeliveryMode::Url, "sendPhoto url"),
        ("url, not taken", by("audio/wav", https), SendAs::Auto, DeliveryMode::Url, "sendMessage link"),
        ("data", by("image/png", "data:image/png;base64,AAAA"), SendAs::Auto, DeliveryMode::Url, "sendPhoto up"),
        ("data alone", File { url: "DATA:image/png;base64,AAAA".into(), ..File::default() }, SendAs::Auto, DeliveryMode::Auto, "sendPhoto up"),
        ("other host", by("image/png", "https://elsewhere.example/x"), SendAs::Auto, DeliveryMode::Auto, "sendMessage link"),
        ("no url", by("image/png", "ftp://h/x"), SendAs::Auto, DeliveryMode::Auto, "sendMessage"),
    ];
    for (name, file, send_as, delivery, wanted) in table {
        let (items, target) = (
            [Item::File(file)],
            Target {
                send_as,
                status_message_id: None,
                ..target()
            },
        );
        let may_fetch = |url: &str| !url.contains("elsewhere");
        let parcel = Parcel {
            delivery,
            may_fetch: &may_fetch,
            ..parcel(&items, &target)
        };
        assert_eq!(
            describe(&next(&parcel, &Progress::default())),
            wanted,
            "{name}"
        );
    }
}

#[test]
fn only_the_public_server_has_the_public_limits() {
    for (url, wanted) in [
        ("https://api.telegram.org", TransferLimits::PUBLIC),
        ("https://api.telegram.org/", TransferLimits::PUBLIC),
        ("https://API.telegram.org:443/x", TransferLimits::PUBLIC),
        ("http://127.0.0.1:8081", TransferLimits::LOCAL),
        ("https://bots.example/telegram", TransferLimits::LOCAL),
        ("https://api.telegram.org.example", TransferLimits::LOCAL),
    ] {
        assert_eq!(TransferLimits::of(url), wanted, "{url}");
    }
}

#[test]
fn sizes_that_make_no_sense_are_only_large() {
    let target = target();
    for (url, wanted) in [
        ("https://h/v.mp4", "editMessageText link"),
        ("data:video/mp4;base64,AA", "editMessageMedia video up"),
    ] {
        let items = [Item::File(File {
            size: Some(u64::MAX),
            ..file(url, "video/mp4")
        })];
        finishes(&parcel(&items, &target), vec![], &[wanted]);
    }
}

#[test]
fn the_ladder_of_a_file_is_walked_rung_by_rung() {
    let (items, target) = ([photo()], target());
    let parcel = parcel(&items, &target);
    let all = [
        "editMessageMedia photo url",
        "editMessageMedia photo up",
        "editMessageMedia document up",
        "editMessageText link",
    ];
    finishes(&parcel, vec![], &all[..1]);
    finishes(&parcel, vec![fall(Cause::UrlRefused)], &all[..2]);
    finishes(
        &parcel,
        vec![fall(Cause::UrlRefused), fall(Cause::PhotoRefused)],
        &all[..3],
    );
    finishes(
        &parcel,
        vec![
            fall(Cause::UrlRefused),
            fall(Cause::PhotoRefused),
            fall(Cause::TooBig),
        ],
        &all,
    );
    let to_the_end = vec![
        fall(Cause::UrlRefused),
        fall(Cause::UrlRefused),
        fall(Cause::UrlRefused),
    ];
    finishes(&parcel, to_the_end, &all);
    // Telegram has seen the bytes by itself: no use in showing them as a photo again.
    finishes(&parcel, vec![fall(Cause::PhotoRefused)], &[all[0], all[2]]);
    finishes(
        &parcel,
        vec![fall(Cause::KindForbidden), fall(Cause::KindForbidden)],
        &[all[0], all[2], all[3]],
    );
    finishes(&parcel, vec![fall(Cause::TooBig)], &[all[0], all[3]]);
    let empty = vec![
        fall(Cause::UrlRefused),
        fall(Cause::FileEmpty),
        fall(Cause::FileEmpty),
    ];
    finishes(&parcel, empty, &[all[0], all[1], all[1], all[3]]);
}

#[test]
fn a_document_is_uploaded_once_only() {
    let (items, target) = (
        [Item::File(file("https://h/a.pdf", "application/pdf"))],
        target(),
    );
    let calls = [
        "editMessageMedia document url",
        "editMessageMedia document up",
        "editMessageText link",
    ];
    finishes(
        &parcel(&items, &target),
        vec![fall(Cause::UrlRefused), fall(Cause::UrlRefused)],
        &calls,
    );
}

#[test]
fn delivery_by_url_alone_never_uploads() {
    let (items, target) = ([photo()], target());
    let parcel = Parcel {
        delivery: DeliveryMode::Url,
        ..parcel(&items, &target)
    };
    finishes(
        &parcel,
        vec![fall(Cause::UrlRefused)],
        &["editMessageMedia photo url", "editMessageText link"],
    );
}

#[test]
fn a_rung_on_record_is_left_where_the_file_may_not_be_fetched_or_uploaded_any_more() {
    let target = target();
    // Other settings than those it was recorded under.
    let items = [photo()];
    let forbidden = Parcel {
        may_fetch: &|_| false,
        ..parcel(&items, &target)
    };
    for way in [Way::Url, Way::Upload, Way::Document] {
        let recorded = Progress {
            way,
            ..Progress::default()
        };
        let call = describe(&next(&forbidden, &recorded));
        assert_eq!(call, "editMessageText link", "{way:?}");
    }
    // A size that is known only since it was fetched.
    let items = [Item::File(File {
        size: Some(51_000_000),
        ..file("https://h/a.png", "image/png")
    })];
    let parcel = parcel(&items, &target);
    let uploading = Progress {
        way: Way::Upload,
        ..Progress::default()
    };
    let refused = Err(fall(Cause::PhotoRefused));
    let After::Go(progress) = after(&parcel, &uploading, refused, 0.0) else {
        panic!()
    };
    assert_eq!(progress.way, Way::Link);
}

#[test]
fn a_link_that_is_refused_is_sent_once_more_without_its_preview() {
    let (items, target) = (
        [photo()],
        Target {
            status_message_id: None,
            ..target()
        },
    );
    let parcel = Parcel {
        may_fetch: &|_| false,
        ..parcel(&items, &target)
    };
    finishes(
        &parcel,
        vec![fall(Cause::UrlRefused)],
        &["sendMessage link", "sendMessage"],
    );
    assert_eq!(
        fails(
            &parcel,
            vec![other(), other()],
            &["sendMessage link", "sendMessage"]
        ),
        Kind::Telegram
    );
}

#[test]
fn a_chat_that_takes_nothing_is_given_up() {
    let (items, target) = ([photo()], target());
    let parcel = parcel(&items, &target);
    let kinds = vec![
        fall(Cause::KindForbidden),
        fall(Cause::KindForbidden),
        fall(Cause::KindForbidden),
    ];
    let calls = [
        "editMessageMedia photo url",
        "editMessageMedia document up",
        "editMessageText link",
    ];
    assert_eq!(fails(&parcel, kinds, &calls), Kind::ChatUnreachable);
    assert_eq!(
        fails(
            &parcel,
            vec![Refusal::Unreachable("blocked".into())],
            &calls[..1]
        ),
        Kind::ChatUnreachable
    );
    assert_eq!(
        fails(&parcel, vec![Refusal::Bug("no photo".into())], &calls[..1]),
        Kind::Telegram
    );
    let (_, end) = walk(&parcel, vec![Refusal::Operator("Unauthorized".into())]);
    assert!(matches!(end, End::Operator));
}

#[test]
fn a_file_that_telegram_has_goes_by_its_id_and_kind_and_only_then_down_the_ladder() {
    let held = |kind: &str, url: &str| {
        Item::File(File {
            held: Some(Held {
                id: "AgAC".into(),
                kind: kind.into(),
            }),
            ..file(url, "image/png")
        })
    };
    let target = Target {
        status_message_id: None,
        ..target()
    };
    let https = "https://v3.fal.media/files/a/cat.png";
    for (kind, method, field) in [
        ("photo", Method::SendPhoto, "photo"),
        ("video", Method::SendVideo, "video"),
        ("animation", Method::SendAnimation, "animation"),
        ("audio", Method::SendAudio, "audio"),
        ("document", Method::SendDocument, "document"),
        // Not noted: as it was sent at first, most likely.
        ("", Method::SendPhoto, "photo"),
    ] {
        let items = [held(kind, https)];
        let parcel = parcel(&items, &target);
        let Op::Call(call) = next(&parcel, &Progress::default()) else {
            panic!("{kind}: no call");
        };
        assert_eq!((call.method, &call.args[field]), (method, &json!("AgAC")));
        // Refused: as if Telegram did not have it, each rung once.
        let refused = Err(Refusal::FallBack(Cause::UrlRefused));
        let After::Go(progress) = after(&parcel, &Progress::default(), refused, 0.0) else {
            panic!("{kind}: no next rung");
        };
        assert_eq!(progress.way, Way::Url, "{kind}");
        let Op::Call(call) = next(&parcel, &progress) else {
            panic!("{kind}: no call");
        };
        assert_eq!(
            (call.method, &call.args["photo"]),
            (Method::SendPhoto, &json!(https))
        );
    }
    // Nothing but the id is known: there is no rung below it.
    let items = [held("photo", "")];
    let parcel = parcel(&items, &target);
    for refusal in [
        Refusal::FallBack(Cause::UrlRefused),
        Refusal::Other400("strange".into()),
    ] {
        let after = after(&parcel, &Progress::default(), Err(refusal), 0.0);
        assert!(matches!(after, After::Failed(_)), "{after:?}");
    }
}
