//! Several strings in one argument of a script, or in one answer: MessagePack, which scripts read and write
//! with `cmsgpack`. To Redis and to us each string of its own costs several times as much. Only what scripts
//! use of it stands here, strings and arrays: less than a library for all of it takes to be called.

/// Strings one behind the other.
#[derive(Debug, Default)]
pub(super) struct Pack(Vec<u8>);

impl Pack {
    /// With room for so many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Pack {
        Pack(Vec::with_capacity(bytes))
    }

    /// Adds one.
    pub(super) fn add(&mut self, text: &str) {
        self.add_bytes(text.as_bytes());
    }

    /// Adds one that may be a pack itself.
    pub(super) fn add_bytes(&mut self, text: &[u8]) {
        let len = text.len();
        match len {
            0..32 => self.0.push(0xa0 | len as u8),
            32..0x100 => self.0.extend([0xd9, len as u8]),
            0x100..0x1_0000 => {
                self.0.push(0xda);
                self.0.extend((len as u16).to_be_bytes());
            }
            _ => {
                self.0.push(0xdb);
                self.0
                    .extend(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
            }
        }
        self.0.extend_from_slice(text);
    }

    /// Adds a name and its value.
    pub(super) fn pair(&mut self, name: &str, value: &str) {
        self.add(name);
        self.add(value);
    }

    /// The argument.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes all out again, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// What a script packed, read from its front.
#[derive(Debug)]
pub(super) struct Unpack<'a>(pub(super) &'a [u8]);

impl<'a> Unpack<'a> {
    /// An array begins here: of so many values. `None`: something else does.
    pub(super) fn array(&mut self) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        match first {
            0x90..=0x9f => Some(usize::from(first & 0x0f)),
            0xdc => self.length::<2>(),
            0xdd => self.length::<4>(),
            _ => None,
        }
    }

    /// The next string, or `Some(None)` where false stands.
    pub(super) fn bytes_or_false(&mut self) -> Option<Option<&'a [u8]>> {
        match self.0.split_first() {
            Some((0xc2, rest)) => {
                self.0 = rest;
                Some(None)
            }
            _ => self.bytes().map(Some),
        }
    }

    /// The next string.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        let len = match first {
            0xa0..=0xbf => usize::from(first & 0x1f),
            0xd9 => self.length::<1>()?,
            0xda => self.length::<2>()?,
            0xdb => self.length::<4>()?,
            _ => return None,
        };
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(text)
    }

    fn length<const N: usize>(&mut self) -> Option<usize> {
        let (digits, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        let number = |sum: usize, digit: &u8| sum << 8 | usize::from(*digit);
        Some(digits.iter().fold(0, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_every_length_are_read_back_and_a_cut_one_is_none() {
        let texts = [0, 1, 31, 32, 255, 256, 65_535, 65_536]
            .map(|len| "ж".repeat(len / 2) + &"x".repeat(len % 2));
        let mut pack = Pack::default();
        for text in &texts {
            pack.add(text);
        }
        let mut unpack = Unpack(pack.as_bytes());
        for text in &texts {
            assert_eq!(unpack.bytes(), Some(text.as_bytes()));
        }
        assert_eq!((unpack.bytes(), unpack.array()), (None, None));
        for text in &texts {
            let mut pack = Pack::default();
            pack.add(text);
            let whole = pack.as_bytes();
            assert_eq!(Unpack(&whole[..whole.len() - 1]).bytes(), None);
        }
    }

    #[test]
    fn what_is_no_string_is_none_and_so_is_what_is_no_array() {
        assert_eq!(Unpack(&[0xc0]).bytes(), None);
        assert_eq!(Unpack(&[0xc0]).bytes_or_false(), None);
        let mut unpack = Unpack(&[0xc2, 0xa1, b'x', 0xc2]);
        let mut next = || unpack.bytes_or_false();
        assert_eq!(
            [next(), next(), next(), next()],
            [Some(None), Some(Some(&b"x"[..])), Some(None), None]
        );
        assert_eq!(Unpack(&[0xa0]).array(), None);
        assert_eq!(Unpack(&[0x93]).array(), Some(3));
        assert_eq!(Unpack(&[0xdc, 1, 2]).array(), Some(258));
        assert_eq!(Unpack(&[0xdd, 0, 1, 0, 0]).array(), Some(65_536));
    }
}
