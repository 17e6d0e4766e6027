//! A file is fetched to be uploaded, and turns out to be another one than was said, too large, or gone: what
//! goes then, and that it is never what the ladder had left behind.

use super::albums::{at_home, fresh, items};
use super::*;

#[test]
fn what_cannot_be_downloaded_is_sent_as_a_link() {
    let target = target();
    let (items, data) = (
        [photo()],
        [Item::File(file("data:image/png;base64,AAAA", "image/png"))],
    );
    let at = Progress {
        way: Way::Upload,
        ..Progress::default()
    };
    for problem in [
        DownloadProblem::Gone,
        DownloadProblem::TooBig,
        DownloadProblem::HostNotAllowed,
        DownloadProblem::Exhausted,
    ] {
        let After::Go(progress) = after_download(&parcel(&items, &target), &at, problem) else {
            panic!()
        };
        assert_eq!(
            describe(&next(&parcel(&items, &target), &progress)),
            "editMessageText link"
        );
        assert!(matches!(
            after_download(&parcel(&data, &target), &at, problem),
            After::Failed(_)
        ));
    }
    // A photo that turns out to be large goes as a document, with the same file.
    for (size, wanted) in [(10 << 20, "photo"), ((10 << 20) + 1, "document")] {
        let mut items = items.clone();
        let looks = Looks {
            len: size,
            ..Looks::default()
        };
        seen(&mut items, 0, &looks);
        let progress = fetched(&parcel(&items, &target), &at, 1);
        assert_eq!(
            describe(&next(&parcel(&items, &target), &progress)),
            format!("editMessageMedia {wanted} up")
        );
    }
    // Its own data has no link.
    assert_eq!(
        fails(
            &parcel(&data, &target),
            vec![fall(Cause::TooBig)],
            &["editMessageMedia photo up"]
        ),
        Kind::FileTooBig
    );
}

#[test]
fn data_that_is_too_large_or_none_fails_as_what_it_is() {
    let (data, target) = (items("I"), fresh());
    let at = Progress::default();
    for (problem, kind) in [
        (DownloadProblem::TooBig, Kind::FileTooBig),
        (DownloadProblem::Gone, Kind::BadAnswer),
        (DownloadProblem::Exhausted, Kind::BadAnswer),
    ] {
        let After::Failed(failure) = after_download(&parcel(&data, &target), &at, problem) else {
            panic!()
        };
        assert_eq!(failure.kind, kind, "{problem:?}");
    }
}

#[test]
fn what_was_refused_as_a_photo_stays_a_document_whatever_it_turns_out_to_be() {
    let (items, target) = ([photo()], target());
    let refused = Progress {
        way: Way::Document,
        ..Progress::default()
    };
    let progress = fetched(&parcel(&items, &target), &refused, 1);
    assert_eq!(progress.way, Way::Document);
}

#[test]
fn the_files_at_hand_are_those_that_are_sent_though_they_could_go_by_url() {
    // The third cannot, and so all are fetched; then it cannot be had, or the second neither.
    let (items, target) = (items("PPB"), fresh());
    let parcel = at_home(&items, &target);
    let album = Progress {
        album: 3,
        ..Progress::default()
    };
    for (got, wanted) in [(2, "sendMediaGroup pp up"), (1, "sendPhoto up")] {
        let progress = fetched(&parcel, &album, got);
        assert_eq!(describe(&next(&parcel, &progress)), wanted, "{got}");
    }
}

/// A file as it turns out to be: its bytes, how many, and its shape.
type Here<'a> = (&'a [u8], u64, (u32, u32));

/// What is sent once these files are here.
fn here(parcel: &Parcel<'_>, at: &Progress, files: &[Here]) -> (Progress, Op) {
    let mut items = parcel.items.to_vec();
    for (number, (head, len, shape)) in files.iter().enumerate() {
        let looks = Looks {
            head,
            len: *len,
            shape: Some(*shape),
        };
        seen(&mut items, at.item + number, &looks);
    }
    let parcel = Parcel {
        items: &items,
        ..*parcel
    };
    let progress = fetched(&parcel, at, files.len());
    let op = next(&parcel, &progress);
    (progress, op)
}

#[test]
fn an_upload_is_cut_to_what_its_files_turn_out_to_be() {
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    const GIF: &[u8] = b"GIF89a";
    const MP4: &[u8] = b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2";
    let target = fresh();
    let ok = (8, 8);
    #[rustfmt::skip]
    let table: Vec<(&str, Vec<Here>, &str)> = vec![
        ("as said", vec![(PNG, 9, ok), (PNG, 9, ok), (PNG, 9, ok)], "sendMediaGroup ppp up"),
        ("one is a video", vec![(PNG, 9, ok), (MP4, 9, ok), (PNG, 9, ok)], "sendMediaGroup pvp up"),
        ("the last is a large photo", vec![(PNG, 9, ok), (PNG, 9, ok), (PNG, 11 << 20, ok)], "sendMediaGroup pp up"),
        ("the second is narrow", vec![(PNG, 9, ok), (PNG, 9, (21, 1)), (PNG, 9, ok)], "sendPhoto up"),
        ("the first is narrow", vec![(PNG, 9, (21, 1)), (PNG, 9, ok), (PNG, 9, ok)], "sendDocument up"),
        ("all are narrow", vec![(PNG, 9, (21, 1)); 3], "sendMediaGroup ddd up"),
        ("the first moves", vec![(GIF, 9, ok), (PNG, 9, ok), (PNG, 9, ok)], "sendAnimation up"),
        ("two fit", vec![(MP4, 24_000_000, ok), (MP4, 24_000_000, ok), (MP4, 24_000_000, ok)], "sendMediaGroup vv up"),
        ("one fits", vec![(MP4, 40_000_000, ok), (MP4, 40_000_000, ok)], "sendVideo up"),
        ("one came", vec![(PNG, 9, ok)], "sendPhoto up"),
    ];
    for (name, files, wanted) in table {
        let items = items("III");
        let parcel = at_home(&items, &target);
        let (progress, op) = here(&parcel, &Progress::default(), &files);
        assert_eq!(describe(&op), wanted, "{name}");
        if let Op::UploadAlbum {
            files: pieces,
            max_bytes,
            ..
        } = &op
        {
            let sum: u64 = files[..pieces.len()].iter().map(|file| file.1).sum();
            assert!(sum <= *max_bytes && *max_bytes < 50_000_000, "{name}");
        }
        // In doubt, it is the same again, from the files as they are then.
        let After::Unknown {
            progress: again, ..
        } = after(&parcel, &progress, Err(unknown()), 0.0)
        else {
            panic!("{name}")
        };
        let again = Progress::parse(&again.to_text()).unwrap();
        if let Op::UploadAlbum { files: pieces, .. } = next(&parcel, &again) {
            let (_, repeated) = here(&parcel, &again, &files[..pieces.len()]);
            assert_eq!(repeated, op, "{name}");
        }
    }
    // Known sizes are minded before anything is fetched.
    let videos: Vec<Item> = (0..3)
        .map(|n| {
            Item::File(File {
                size: Some(23_000_000),
                ..file(&format!("https://v3.fal.media/{n}.mp4"), "video/mp4")
            })
        })
        .collect();
    finishes(
        &at_home(&videos, &target),
        vec![],
        &["sendMediaGroup vv up", "sendVideo up"],
    );
}

#[test]
fn a_file_of_an_album_that_cannot_be_had_goes_as_a_link_alone() {
    let (items, target) = (items("BBB"), fresh());
    let parcel = at_home(&items, &target);
    for progress in [
        Progress::default(),
        Progress {
            album: 3,
            no_url: 3,
            ..Progress::default()
        },
    ] {
        let After::Go(progress) = after_download(&parcel, &progress, DownloadProblem::Gone) else {
            panic!()
        };
        assert_eq!(describe(&next(&parcel, &progress)), "sendMessage link");
        let After::Go(progress) = after(&parcel, &progress, Ok(Sent::default()), 0.0) else {
            panic!()
        };
        assert_eq!(describe(&next(&parcel, &progress)), "sendMediaGroup pp up");
    }
}
