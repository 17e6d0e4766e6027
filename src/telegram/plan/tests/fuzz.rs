//! Any progress from a record, any result, any refusals: the ladder neither panics nor walks in circles,
//! and no call carries more text than Telegram takes.

use super::kind::is_http;
use super::*;
use crate::fuzz::{Outcome, Target as Fuzz, hold};
use crate::job::spec;
use crate::telegram::refusal::classify;
use crate::telegram::text::{self, CAPTION, MESSAGE};

/// The input: lines of progress, job, result, and then outcomes, one a line: nothing for a success,
/// `?` for one that nobody knows, `-` for one that was not sent, else a status and a description.
fn any_delivery(input: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (recorded, entry, result) = (line(), line(), line());
    let started = Progress::parse(recorded).unwrap_or_default();
    let back = Progress::parse(&started.to_text());
    hold!(
        back.as_ref() == Some(&started),
        "written and read it is another: {back:?}"
    );

    let target = match spec::parse(entry.as_bytes(), None) {
        Ok(spec) => spec.telegram.unwrap_or_else(target),
        Err(invalid) => invalid.tell.unwrap_or_else(target),
    };
    let mut items: Vec<Item> = Vec::new();
    for part in result.split('\u{1}') {
        items.push(match part.split_once(' ') {
            Some((url, rest)) if url.contains("://") || url.starts_with("data:") => {
                let mut rest = rest.split(' ');
                let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
                Item::File(File {
                    url: url.to_owned(),
                    content_type: rest.next().map(str::to_owned),
                    size: number(rest.next()),
                    width: number(rest.next()).map(|n| n as u32),
                    height: number(rest.next()).map(|n| n as u32),
                    name: rest.next().map(str::to_owned),
                    duration_s: None,
                    held: None,
                })
            }
            _ => Item::Text(part.to_owned()),
        });
    }
    items.truncate(12);
    let host = |url: &str| !url.contains("forbidden");
    let delivery = match input.len() % 3 {
        0 => DeliveryMode::Auto,
        1 => DeliveryMode::Upload,
        _ => DeliveryMode::Url,
    };
    let parcel = Parcel {
        items: &items,
        target: &target,
        lang: target.lang.unwrap_or_default(),
        words: Words::built_in(),
        delivery,
        limits: TransferLimits::PUBLIC,
        may_fetch: &host,
        ping_due: input.len().is_multiple_of(2),
    };
    let mut p = match resumed_in_doubt(&parcel, &started) {
        Ok((progress, _)) => progress,
        Err(_) => return Ok("given up".to_owned()),
    };
    let mut walked = Vec::new();
    // Every item may take its texts, every rung of it some repeats: a bound that no honest walk reaches, but for
    // what is not sent, and an edit that nobody knows of, which are tried again as long as the delivery may take.
    let again = |line: &&str| matches!(*line, "-" | "?");
    for _ in 0..4000 + text.split('\n').filter(again).count() {
        let op = next(&parcel, &p);
        hold!(
            is_finished(&parcel, &p) == (op == Op::Finished),
            "finished, or not: {op:?}"
        );
        let call = match op {
            Op::Finished => {
                let last: String = walked.into_iter().collect();
                return Ok(format!("finished {last}"));
            }
            Op::Call(call) => call,
            Op::Upload {
                call,
                url,
                file_name,
                ..
            } => {
                hold!(is_http(&url) || is_data(&url), "fetched from {url}");
                hold!(is_data(&url) || host(&url), "fetched from {url}");
                hold!((1..=60).contains(&file_name.len()), "named {file_name:?}");
                if url.contains("away") {
                    p = match after_download(&parcel, &p, DownloadProblem::Exhausted) {
                        After::Go(progress) => progress,
                        _ => return Ok("no file".to_owned()),
                    };
                    continue;
                }
                p = fetched(&parcel, &p, 1);
                call
            }
            Op::UploadAlbum { call, files, .. } => {
                hold!((2..=10).contains(&files.len()), "{} files", files.len());
                for Piece { url, file_name, .. } in &files {
                    hold!(is_http(url) || is_data(url), "fetched from {url}");
                    hold!(is_data(url) || host(url), "fetched from {url}");
                    hold!((1..=60).contains(&file_name.len()), "named {file_name:?}");
                }
                let here = files.iter().take_while(|file| !file.url.contains("away"));
                p = match here.count() {
                    0 => match after_download(&parcel, &p, DownloadProblem::Exhausted) {
                        After::Go(progress) => progress,
                        _ => return Ok("no file".to_owned()),
                    },
                    got => fetched(&parcel, &p, got),
                };
                if let Op::UploadAlbum { files: now, .. } = next(&parcel, &p) {
                    hold!(now.len() <= files.len(), "an album grew");
                }
                call
            }
        };
        fits(&call)?;
        if walked.len() < 6 {
            walked.push(call.method.as_str().chars().nth(4).unwrap_or('-'));
        }
        let editing = call.method.is_edit();
        let outcome = match line() {
            "" => Ok(Sent {
                messages: 1,
                message_ids: vec![7],
                file_ids: vec!["F".to_owned()],
                file_kinds: vec!["photo"],
            }),
            "?" => Err(Refusal::Unknown("reset".to_owned())),
            "-" => Err(Refusal::NotSent("refused".to_owned())),
            said => {
                let (status, text) = said.split_once(' ').unwrap_or(("400", said));
                let status = status.parse().unwrap_or(400);
                let body = json!({"ok": false, "error_code": status, "description": text});
                Err(classify(status, None, body.to_string().as_bytes(), editing))
            }
        };
        p = match after(&parcel, &p, outcome, 0.5) {
            After::Go(progress)
            | After::Without { progress, .. }
            | After::Wait { progress, .. }
            | After::Unknown { progress, .. } => progress,
            After::Failed(failure) => return Ok(format!("failed {:?}", failure.kind)),
            After::OperatorTrouble(_) => return Ok("operator".to_owned()),
        };
        let back = Progress::parse(&p.to_text());
        hold!(
            back.as_ref() == Some(&p),
            "written and read it is another: {back:?}"
        );
    }
    Err("walks in circles".to_owned())
}

fn fits(call: &Call) -> Result<(), String> {
    let parsed = call.args.get("parse_mode").and_then(Value::as_str);
    let mode = |word: Option<&str>| match word {
        Some("HTML") => Some(ParseMode::Html),
        Some("MarkdownV2") => Some(ParseMode::MarkdownV2),
        Some("Markdown") => Some(ParseMode::Markdown),
        _ => None,
    };
    if let Some(message) = call.args.get("text").and_then(Value::as_str) {
        let plain = text::plain(message, mode(parsed));
        hold!(
            text::units(plain.trim()) <= MESSAGE,
            "a text of {} units",
            text::units(&plain)
        );
    }
    let media = call.args.get("media");
    if let Some(album) = media.and_then(Value::as_array) {
        hold!(
            (2..=10).contains(&album.len()),
            "an album of {}",
            album.len()
        );
        let captions = album.iter().filter(|one| one.get("caption").is_some());
        hold!(captions.count() <= 1, "several captions");
        hold!(
            !call.args.contains_key("reply_markup"),
            "a keyboard under an album"
        );
        let of = |kind: &str| album.iter().filter(|one| one["type"] == kind).count();
        hold!(of("animation") == 0, "an animation in an album");
        for alone in ["document", "audio"] {
            hold!([0, album.len()].contains(&of(alone)), "{alone}s are mixed");
        }
    }
    let media = media
        .filter(|media| media.is_object())
        .and_then(Value::as_object);
    let holder = media.unwrap_or(&call.args);
    if let Some(caption) = holder.get("caption").and_then(Value::as_str) {
        let plain = text::plain(
            caption,
            mode(holder.get("parse_mode").and_then(Value::as_str)),
        );
        // What the server counts; a caption that is longer in UTF-16 only is tried whole first.
        hold!(
            plain.trim().chars().count() <= CAPTION,
            "a caption of {} characters",
            plain.chars().count()
        );
        let cut = caption.ends_with('…');
        hold!(
            !cut || text::units(caption) <= CAPTION || plain.len() > CAPTION,
            "cut to {}",
            caption.len()
        );
    }
    let by_url = ["photo", "video", "animation", "audio", "document"];
    let urls = by_url
        .iter()
        .filter_map(|name| call.args.get(*name))
        .chain(media.and_then(|m| m.get("media")));
    for url in urls
        .filter_map(Value::as_str)
        .filter(|url| *url != ATTACHED)
    {
        hold!(
            is_http(url) && !url.contains("forbidden"),
            "Telegram is to fetch {url}"
        );
    }
    Ok(())
}

#[test]
fn any_delivery_ends_within_a_bound_and_within_telegrams_limits() {
    let contract = r#"{"model":"a/b","input":{},"telegram":{"chat_id":42,"status_message_id":310,"message_thread_id":7,"reply_to_message_id":305,"send_as":"auto","caption":"<b>Done</b> &amp; dusted","parse_mode":"HTML","reply_markup":{"inline_keyboard":[[{"text":"Again","callback_data":"again"}]]},"ping":"always","lang":"ru"}}"#;
    let plain = r#"{"model":"a/b","input":{},"telegram":{"chat_id":-100123,"caption":"a *caption* of some length","parse_mode":"MarkdownV2","send_as":"photo"}}"#;
    let photo = "https://v3.fal.media/files/a/cat.png image/png 100000 640 480 cat.png";
    let files = format!(
        "{photo}\u{1}https://v3.fal.media/files/a/away.mp4 video/mp4 60000000\u{1}data:image/png;base64,AAAA image/png\u{1}a text"
    );
    let album = [
        "a.png image/png",
        "b.mp4 video/mp4",
        "away.png image/png",
        "c.pdf application/pdf",
    ]
    .map(|one| format!("https://v3.fal.media/files/{one}"))
    .join("\u{1}");
    let album = format!("{album}\u{1}{album}\u{1}{album}").replace(".mp4", ".png");
    let long = format!("https://forbidden.example/{}.bin x/y", "long".repeat(300));
    let rows = include_str!("../../../../tests/fixtures/telegram/errors.tsv");
    let refusals: Vec<String> = rows
        .lines()
        .filter(|row| !row.starts_with('#'))
        .filter_map(|row| {
            let mut columns = row.split('\t').skip(1);
            Some(format!(
                "{} {}",
                columns.next()?,
                columns.next()?.split(" | ").next()?
            ))
        })
        .collect();
    let mut seeds = Vec::new();
    for (number, rows) in refusals.chunks(3).enumerate() {
        let job = [contract, plain][number % 2];
        let result = [photo, &files, &long, "only a text", &album][number % 5];
        seeds.push(format!("\n{job}\n{result}\n{}", rows.join("\n")));
    }
    let progress = r#"{"i":0,"p":1,"w":"f","e":"c","c":"c","pl":true,"nr":true,"nt":true,"nm":true,"x":true,"o":true,"ch":-100,"s":2,"r":1,"t":3,"l":311,"ed":true,"d":true,"g":true,"m":[1,2],"f":["A"]}"#;
    seeds.push(format!(
        "{progress}\n{contract}\n{files}\n?\n-\n429 Too Many Requests: retry after 3"
    ));
    let pinned = r#"{"i":0,"a":2,"al":1,"nu":3,"k":true,"s":1}"#;
    seeds.push(format!(
        "{pinned}\n{contract}\n{album}\n?\n400 Bad Request: group send failed"
    ));
    seeds.push(format!(
        "{{\"i\":1}}\n{contract}\n{}\n?\n?\n?",
        "word ".repeat(2000)
    ));
    Fuzz::new("delivery")
        .seeds(seeds)
        .words([
            "\n?",
            "\n-",
            "\n\n",
            "\u{1}",
            "data:,x a/b",
            " image/png",
            "https://forbidden.example/a ",
            "away",
        ])
        .words([
            "i",
            "a",
            "al",
            "nu",
            "k",
            "p",
            "b",
            "w",
            "e",
            "c",
            "pl",
            "ed",
            "d",
            "g",
            "s",
            "r",
            "caption",
            "parse_mode",
            "send_as",
        ])
        .words(refusals)
        .run(any_delivery);
}
