//! Bytes that look like media, and how to recognise them.
//!
//! The fal stand-in makes files here, the Telegram stand-in looks at them as the real one does: by
//! magic number and header, never by name. No compression crate: pixels go into stored blocks.

/// What an uploaded or fetched file is, by content: two equal fingerprints are the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// A 64-bit hash of the bytes.
    pub hash: u64,
    /// How many bytes.
    pub len: u64,
}

/// Fingerprint of some bytes. Not cryptographic: it tells the sandbox's own files apart.
pub fn fingerprint(bytes: &[u8]) -> Fingerprint {
    let mix = |hash: u64, word: u64| {
        (hash ^ word)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(29)
    };
    let mut hash = 0x5151_7A4D_0000_0001;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        hash = mix(
            hash,
            u64::from_le_bytes(word.try_into().unwrap_or_default()),
        );
    }
    for byte in words.remainder() {
        hash = mix(hash, u64::from(*byte));
    }
    Fingerprint {
        hash: mix(hash, bytes.len() as u64),
        len: bytes.len() as u64,
    }
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 {
                0xEDB8_8320 ^ (c >> 1)
            } else {
                c >> 1
            };
            bit += 1;
        }
        table[i] = c;
        i += 1;
    }
    table
};

fn crc32(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(u32::MAX, |crc, byte| {
        CRC_TABLE[((crc ^ u32::from(*byte)) & 0xFF) as usize] ^ (crc >> 8)
    })
}

fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b) = (1u32, 0u32);
    // 5552 is the most that cannot overflow 32 bits before the remainder is taken.
    for piece in bytes.chunks(5552) {
        for byte in piece {
            a += u32::from(*byte);
            b += a;
        }
        a %= 65521;
        b %= 65521;
    }
    (b << 16) | a
}

/// A valid 8-bit RGB PNG whose colours depend on `seed`; all black for `None`.
pub fn png(width: u32, height: u32, seed: Option<u64>) -> Vec<u8> {
    let row = 1 + width as usize * 3;
    let mut pixels = vec![0u8; row * height as usize];
    if let Some(seed) = seed {
        let [r, g, b, dx, dy, ..] = seed.to_le_bytes();
        for (y, line) in pixels.chunks_exact_mut(row).enumerate() {
            for (x, pixel) in line[1..].chunks_exact_mut(3).enumerate() {
                pixel[0] = r.wrapping_add((x as u8).wrapping_mul(dx | 1));
                pixel[1] = g.wrapping_add((y as u8).wrapping_mul(dy | 1));
                pixel[2] = b;
            }
        }
        // The whole seed in the first pixels: no two seeds give the same file.
        let end = pixels.len().min(9);
        for (pixel, byte) in pixels[1..end].iter_mut().zip(seed.to_le_bytes()) {
            *pixel = byte;
        }
    }
    let mut zlib = vec![0x78, 0x01];
    let mut blocks = pixels.chunks(65535).peekable();
    while let Some(block) = blocks.next() {
        let len = block.len() as u16;
        zlib.push(u8::from(blocks.peek().is_none()));
        zlib.extend_from_slice(&len.to_le_bytes());
        zlib.extend_from_slice(&(!len).to_le_bytes());
        zlib.extend_from_slice(block);
    }
    zlib.extend_from_slice(&adler32(&pixels).to_be_bytes());

    let mut head = Vec::with_capacity(13);
    head.extend_from_slice(&width.to_be_bytes());
    head.extend_from_slice(&height.to_be_bytes());
    head.extend_from_slice(&[8, 2, 0, 0, 0]);
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", head.as_slice()), (b"IDAT", &zlib), (b"IEND", &[])] {
        out.extend_from_slice(&(data.len() as u32).to_be_bytes());
        out.extend_from_slice(kind);
        out.extend_from_slice(data);
        out.extend_from_slice(&crc32(&[kind, data]).to_be_bytes());
    }
    out
}

/// The first bytes of a JPEG with true dimensions and a comment that carries `seed`; no picture in it.
pub fn jpeg_head(width: u16, height: u16, seed: u64) -> Vec<u8> {
    let mut out = vec![0xFF, 0xD8];
    out.extend_from_slice(b"\xFF\xE0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00");
    out.extend_from_slice(b"\xFF\xFE\x00\x0A");
    out.extend_from_slice(&seed.to_be_bytes());
    out.extend_from_slice(b"\xFF\xC0\x00\x11\x08");
    out.extend_from_slice(&height.to_be_bytes());
    out.extend_from_slice(&width.to_be_bytes());
    out.extend_from_slice(b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01");
    out.extend_from_slice(b"\xFF\xDA\x00\x0C\x03\x01\x00\x02\x11\x03\x11\x00\x3F\x00");
    out
}

/// The first bytes of an MP4: an `ftyp` box and a `free` box that carries `seed`.
pub fn mp4_head(seed: u64) -> Vec<u8> {
    let mut out = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp41\x00\x00\x00\x10free".to_vec();
    out.extend_from_slice(&seed.to_be_bytes());
    out
}

/// The first bytes of an MP3: an empty ID3 tag, a frame head, and `seed`.
pub fn mp3_head(seed: u64) -> Vec<u8> {
    let mut out = b"ID3\x04\x00\x00\x00\x00\x00\x00\xFF\xFB\x90\x00".to_vec();
    out.extend_from_slice(&seed.to_be_bytes());
    out.resize(417 + 10, 0);
    out
}

/// A GIF of one frame with `seed` in a comment.
pub fn gif(width: u16, height: u16, seed: u64) -> Vec<u8> {
    let mut out = b"GIF89a".to_vec();
    out.extend_from_slice(&width.to_le_bytes());
    out.extend_from_slice(&height.to_le_bytes());
    out.extend_from_slice(b"\x80\x00\x00\x00\x00\x00\xFF\xFF\xFF!\xFE\x08");
    out.extend_from_slice(&seed.to_be_bytes());
    out.extend_from_slice(b"\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;");
    out
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for piece in bytes.chunks(3) {
        let word = piece
            .iter()
            .fold(0u32, |word, byte| (word << 8) | u32::from(*byte))
            << (8 * (3 - piece.len()));
        for i in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= piece.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    out
}

/// What a file is by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// PNG with its dimensions.
    Png(u32, u32),
    /// JPEG with its dimensions.
    Jpeg(u32, u32),
    /// GIF with its dimensions.
    Gif(u32, u32),
    /// WebP with its dimensions.
    Webp(u32, u32),
    /// MP4 or another file that starts with an `ftyp` box.
    Mp4,
    /// MPEG audio.
    Mp3,
    /// PDF.
    Pdf,
    /// ZIP.
    Zip,
    /// Anything else.
    Unknown,
}

impl Looks {
    /// Dimensions, of a picture.
    pub fn dimensions(self) -> Option<(u32, u32)> {
        match self {
            Looks::Png(w, h) | Looks::Jpeg(w, h) | Looks::Gif(w, h) | Looks::Webp(w, h) => {
                Some((w, h))
            }
            Looks::Mp4 | Looks::Mp3 | Looks::Pdf | Looks::Zip | Looks::Unknown => None,
        }
    }

    /// The usual media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Looks::Png(..) => "image/png",
            Looks::Jpeg(..) => "image/jpeg",
            Looks::Gif(..) => "image/gif",
            Looks::Webp(..) => "image/webp",
            Looks::Mp4 => "video/mp4",
            Looks::Mp3 => "audio/mpeg",
            Looks::Pdf => "application/pdf",
            Looks::Zip => "application/zip",
            Looks::Unknown => "application/octet-stream",
        }
    }
}

/// Looks at the first bytes of a file. A picture whose head is broken is `Unknown`.
pub fn look(bytes: &[u8]) -> Looks {
    shape(bytes).unwrap_or(Looks::Unknown)
}

fn shape(bytes: &[u8]) -> Option<Looks> {
    let be = |at: usize| -> Option<u32> {
        Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    let le16 = |at: usize| -> Option<u32> {
        Some(u32::from(*bytes.get(at)?) | u32::from(*bytes.get(at + 1)?) << 8)
    };
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        let sound = bytes.get(12..16)? == b"IHDR" && be(29)? == crc32(&[bytes.get(12..29)?]);
        return sound.then(|| Some(Looks::Png(be(16)?, be(20)?)))?;
    }
    if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        return Some(Looks::Gif(le16(6)?, le16(8)?));
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12)? == b"WEBP" {
        return webp(bytes);
    }
    if bytes.starts_with(&[0xFF, 0xD8, 0xFF]) {
        return jpeg(bytes);
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        return Some(Looks::Mp4);
    }
    if bytes.starts_with(b"ID3") || (bytes.first() == Some(&0xFF) && bytes.get(1)? & 0xE0 == 0xE0) {
        return Some(Looks::Mp3);
    }
    if bytes.starts_with(b"%PDF-") {
        return Some(Looks::Pdf);
    }
    bytes.starts_with(b"PK\x03\x04").then_some(Looks::Zip)
}

/// Walks the segments to the frame head.
fn jpeg(bytes: &[u8]) -> Option<Looks> {
    let be16 = |at: usize| -> Option<u32> {
        Some(u32::from(*bytes.get(at)?) << 8 | u32::from(*bytes.get(at + 1)?))
    };
    let mut at = 2;
    loop {
        if *bytes.get(at)? != 0xFF {
            return None;
        }
        let marker = *bytes.get(at + 1)?;
        match marker {
            0xFF => at += 1,
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                return Some(Looks::Jpeg(be16(at + 7)?, be16(at + 5)?));
            }
            0xD9 | 0xDA => return None,
            _ => at += 2 + be16(at + 2)? as usize,
        }
    }
}

fn webp(bytes: &[u8]) -> Option<Looks> {
    let le24 = |at: usize| -> Option<u32> {
        Some(
            u32::from(*bytes.get(at)?)
                | u32::from(*bytes.get(at + 1)?) << 8
                | u32::from(*bytes.get(at + 2)?) << 16,
        )
    };
    match bytes.get(12..16)? {
        b"VP8X" => Some(Looks::Webp(le24(24)? + 1, le24(27)? + 1)),
        b"VP8 " => Some(Looks::Webp(le24(26)? & 0x3FFF, (le24(27)? >> 8) & 0x3FFF)),
        b"VP8L" => {
            let bits = u64::from(le24(21)?) | u64::from(*bytes.get(24)?) << 24;
            Some(Looks::Webp(
                (bits & 0x3FFF) as u32 + 1,
                ((bits >> 14) & 0x3FFF) as u32 + 1,
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_match_published_values() {
        assert_eq!(crc32(&[b"1234", b"56789"]), 0xCBF4_3926);
        assert_eq!(adler32(b"Wikipedia"), 0x11E6_0398);
        assert_eq!(base64(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
        assert_eq!(base64(b"Man"), "TWFu");
    }

    #[test]
    fn a_png_is_whole_and_no_two_seeds_give_the_same() {
        let one = png(64, 64, Some(1));
        assert_eq!(look(&one), Looks::Png(64, 64));
        assert!(one.ends_with(b"IEND\xAE\x42\x60\x82"));
        assert_ne!(fingerprint(&one), fingerprint(&png(64, 64, Some(2))));
        // Over 65535 bytes of pixels there are several stored blocks, the last one marked.
        let large = png(200, 200, Some(3));
        assert_eq!((large[43], large[43 + 5 + 65535]), (0, 1));
    }

    #[test]
    fn made_files_look_like_what_they_are() {
        assert_eq!(look(&jpeg_head(3000, 2000, 9)), Looks::Jpeg(3000, 2000));
        assert_eq!(look(&mp4_head(1)), Looks::Mp4);
        assert_eq!(look(&mp3_head(1)), Looks::Mp3);
        assert_eq!(look(&gif(4, 5, 1)), Looks::Gif(4, 5));
        assert_eq!(
            look(b"RIFF\x00\x00\x00\x00WEBPVP8X\x0A\0\0\0\0\0\0\0\x3F\0\0\x1F\0\0"),
            Looks::Webp(64, 32)
        );
    }

    #[test]
    fn broken_pictures_are_unknown() {
        let mut bad = png(8, 8, Some(1));
        bad[18] ^= 1;
        assert_eq!(
            look(&bad),
            Looks::Unknown,
            "the checksum of the head is looked at"
        );
        assert_eq!(look(&jpeg_head(1, 1, 1)[..12]), Looks::Unknown);
        assert_eq!(look(b"<svg/>"), Looks::Unknown);
        assert_eq!(look(b""), Looks::Unknown);
    }
}
