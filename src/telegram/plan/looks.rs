//! What a file turns out to be once it is here: its bytes speak louder than its name, its host and fal.
//! The type is told by the first bytes (`infer`), the shape by the picture's header, which the caller read.

use super::kind::media_type;
use crate::job::answer::{File, Item};

/// What was seen of a file that was fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looks<'a> {
    /// Its first bytes, some hundred of them.
    pub head: &'a [u8],
    /// Bytes.
    pub len: u64,
    /// Width and height as a picture's header says.
    pub shape: Option<(u32, u32)>,
}

/// The items of a result with what was seen of one of them in the place of what was said.
pub fn seen(items: &mut [Item], index: usize, looks: &Looks<'_>) {
    let Some(Item::File(file)) = items.get_mut(index) else {
        return;
    };
    file.size = Some(looks.len);
    if let Some(media) = type_of(file, looks.head) {
        file.content_type = Some(media.to_owned());
    }
    if let Some((width, height)) = looks.shape {
        (file.width, file.height) = (Some(width), Some(height));
    }
}

/// The type by the bytes, where it says more than fal does, or contradicts it.
fn type_of(file: &File, head: &[u8]) -> Option<&'static str> {
    let seen = match infer::get(head)?.mime_type() {
        "audio/m4a" => "audio/mp4",
        "audio/x-wav" => "audio/wav",
        "audio/x-flac" => "audio/flac",
        "video/x-m4v" => "video/mp4",
        other => other,
    };
    let Some(said) = media_type(file) else {
        return Some(seen);
    };
    let family = |media: &str| media.split('/').next().unwrap_or_default().to_owned();
    let (was, is) = (family(&said), family(seen));
    let telling = matches!(is.as_str(), "image" | "audio" | "video");
    // One container, two families: only who wrote it knows whether there are pictures in it.
    let container = |media: &str| {
        ["mp4", "ogg", "webm", "quicktime"]
            .iter()
            .any(|c| media.ends_with(c))
    };
    let same_box = container(&said) && container(seen) && was != "image";
    let lies = telling && (was != is || was == "image") && !same_box && said != seen;
    lies.then_some(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, what fal says, URL, bytes, the type that takes its place.
    type Row<'a> = (&'a str, Option<&'a str>, &'a str, &'a [u8], Option<&'a str>);

    #[test]
    fn bytes_speak_where_fal_says_nothing_or_something_else() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x08\0\0\0\x08";
        let jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF\0";
        let gif = b"GIF89a\x08\0\x08\0";
        let mp4 = b"\0\0\0\x18ftypisom\0\0\x02\0isomiso2";
        let m4a = b"\0\0\0\x18ftypM4A \0\0\x02\0isomiso2";
        let mp3 = b"ID3\x04\0\0\0\0\0\0";
        let zip = b"PK\x03\x04\x14\0\0\0\x08\0";
        let webp = b"RIFF\x24\0\0\0WEBPVP8 ";
        #[rustfmt::skip]
        let table: [Row; 17] = [
            ("nothing said", None, "https://h/x", png, Some("image/png")),
            ("octets", Some("application/octet-stream"), "https://h/x", mp4, Some("video/mp4")),
            ("a name alone", None, "https://h/x.mp3", mp4, Some("video/mp4")),
            ("right", Some("image/png"), "https://h/x", png, None),
            ("another picture", Some("image/png"), "https://h/x.png", jpeg, Some("image/jpeg")),
            ("an animation", Some("image/png"), "https://h/x.png", gif, Some("image/gif")),
            ("webp by a png name", None, "https://h/x.png", webp, Some("image/webp")),
            ("a video in a picture's clothes", Some("image/png"), "https://h/x", mp4, Some("video/mp4")),
            ("music in a video's clothes", Some("video/mp4"), "https://h/x", mp3, Some("audio/mpeg")),
            ("sound in a box of videos", Some("audio/mp4"), "https://h/x", mp4, None),
            ("a video in a box of sound", Some("video/mp4"), "https://h/x", m4a, None),
            ("a video of another box", Some("video/quicktime"), "https://h/x.mov", mp4, None),
            ("a zip that is a model", Some("model/vnd.usdz+zip"), "https://h/x", zip, None),
            ("a zip of nothing said", None, "https://h/x", zip, Some("application/zip")),
            ("a text", Some("text/plain"), "https://h/x", b"hello", None),
            ("unknown bytes", None, "https://h/x", b"hello", None),
            ("nothing", None, "https://h/x", b"", None),
        ];
        for (name, said, url, head, wanted) in table {
            let file = File {
                url: url.into(),
                content_type: said.map(str::to_owned),
                ..File::default()
            };
            assert_eq!(type_of(&file, head), wanted, "{name}");
        }
    }

    #[test]
    fn what_was_seen_takes_the_place_of_what_was_said() {
        let said = File {
            url: "https://h/x.png".into(),
            size: Some(3),
            width: Some(7),
            ..File::default()
        };
        let mut items = [Item::File(said.clone()), Item::Text("t".into())];
        let looks = Looks {
            head: b"GIF89a\x08\0\x09\0",
            len: 99,
            shape: Some((8, 9)),
        };
        seen(&mut items, 0, &looks);
        seen(&mut items, 1, &looks);
        seen(&mut items, 2, &looks);
        let wanted = File {
            content_type: Some("image/gif".into()),
            size: Some(99),
            width: Some(8),
            height: Some(9),
            ..said
        };
        assert_eq!(items, [Item::File(wanted), Item::Text("t".into())]);
    }
}
