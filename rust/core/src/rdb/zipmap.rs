//! Zipmaps: small hashes of Redis before 2.6, which servers still load.
//!
//! Invariant: pairs are read up to the end mark, which must be the last byte. Format: Redis `zipmap.c`:
//! `pairs (1; 254 or more: count them) | pairs | 0xFF`, each pair `length, key, length, free (1), value, free
//! bytes`; a length is one byte, or 0xFE and 4 bytes (LE).

use crate::rdb::cursor::Cursor;
use crate::rdb::element::Element;
use crate::rdb::error::Malformed;

const TRUNCATED: Malformed = Malformed("a zipmap ends early");
const WIDE_LENGTH: u8 = 0xfe;
const END: u8 = 0xff;

/// Fields and values of a zipmap in turn; not to be asked again after the end or an error.
#[derive(Debug)]
pub(crate) struct Zipmap<'a> {
    cursor: Cursor<'a>,
    is_value_next: bool,
}

impl<'a> Zipmap<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        // The count is a hint: from 254 pairs on it is not kept.
        cursor.byte().ok_or(TRUNCATED)?;
        Ok(Self {
            cursor,
            is_value_next: false,
        })
    }

    fn read_entry(&mut self) -> Result<Option<Element<'a>>, Malformed> {
        let first = self.cursor.byte().ok_or(TRUNCATED)?;
        if first == END {
            return self.check_end().map(|()| None);
        }
        let bytes = if self.is_value_next {
            self.read_value(first)
        } else {
            self.read_key(first)
        };
        self.is_value_next = !self.is_value_next;
        bytes.map(|bytes| Some(Element::Bytes(bytes))).ok_or(TRUNCATED)
    }

    fn read_key(&mut self, first: u8) -> Option<&'a [u8]> {
        let length = self.read_length(first)?;
        self.cursor.take(length)
    }

    fn read_value(&mut self, first: u8) -> Option<&'a [u8]> {
        let length = self.read_length(first)?;
        let free = self.cursor.byte()?;
        let value = self.cursor.take(length)?;
        self.cursor.take(usize::from(free))?;
        Some(value)
    }

    fn read_length(&mut self, first: u8) -> Option<usize> {
        if first == WIDE_LENGTH {
            Some(u32::from_le_bytes(self.cursor.array()?) as usize)
        } else {
            Some(usize::from(first))
        }
    }

    fn check_end(&self) -> Result<(), Malformed> {
        if self.cursor.is_at_end() {
            Ok(())
        } else {
            Err(Malformed("a zipmap goes on after its end mark"))
        }
    }
}

impl<'a> Iterator for Zipmap<'a> {
    type Item = Result<Element<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_entry().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(bytes: &[u8]) -> Result<Vec<Element<'_>>, Malformed> {
        Zipmap::new(bytes)?.collect()
    }

    #[test]
    fn reads_pairs_and_skips_free_bytes() {
        // The example of zipmap.c: "foo" => "bar", "hello" => "world", with two bytes free after "world".
        let packed = b"\x02\x03foo\x03\x00bar\x05hello\x05\x02world\x00\x00\xff";
        let expected = [&b"foo"[..], b"bar", b"hello", b"world"].map(Element::Bytes);
        assert_eq!(unpack(packed), Ok(expected.to_vec()));
    }

    #[test]
    fn reads_wide_lengths() {
        let wide = vec![b'w'; 300];
        let packed = [&b"\x01\xfe\x2c\x01\x00\x00"[..], &wide, b"\x01\x00v\xff"].concat();
        assert_eq!(
            unpack(&packed),
            Ok(vec![Element::Bytes(&wide), Element::Bytes(b"v")])
        );
    }

    #[test]
    fn refuses_damage() {
        let sound = b"\x01\x03foo\x03\x01bar\x00\xff";
        for end in 0..sound.len() {
            assert!(unpack(&sound[..end]).is_err(), "cut at {end}");
        }
        assert!(unpack(b"\x00\xff\x00").is_err());
    }
}
