//! Intsets: sets of integers. Invariant: the string holds exactly the integers that the header announces.
//!
//! Format: Redis `intset.c`: `width (4, LE: 2, 4 or 8) | count (4, LE) | integers (LE)`.

use crate::rdb::cursor::Cursor;
use crate::rdb::element::Element;
use crate::rdb::error::Malformed;

const TRUNCATED: Malformed = Malformed("an intset ends early");

/// The members of an intset, in ascending order.
#[derive(Debug)]
pub(crate) struct Intset<'a> {
    integers: std::slice::ChunksExact<'a, u8>,
}

impl<'a> Intset<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let width = u32::from_le_bytes(cursor.array().ok_or(TRUNCATED)?) as usize;
        let count = u32::from_le_bytes(cursor.array().ok_or(TRUNCATED)?) as usize;
        if !matches!(width, 2 | 4 | 8) {
            return Err(Malformed("an intset has an unknown width"));
        }
        let integers = cursor.take_rest();
        if count.checked_mul(width) != Some(integers.len()) {
            return Err(Malformed("an intset's length is not that of its string"));
        }
        Ok(Self {
            integers: integers.chunks_exact(width),
        })
    }
}

impl<'a> Iterator for Intset<'a> {
    type Item = Result<Element<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let chunk = self.integers.next()?;
        // The sign is spread over the bytes that the width leaves out.
        let negative = chunk.last().is_some_and(|high| high & 0x80 != 0);
        let mut bytes = [if negative { 0xff } else { 0 }; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        Some(Ok(Element::Int(i64::from_le_bytes(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(bytes: &[u8]) -> Result<Vec<Element<'_>>, Malformed> {
        Intset::new(bytes)?.collect()
    }

    #[test]
    fn reads_every_width() {
        assert_eq!(
            unpack(b"\x02\0\0\0\x02\0\0\0\xff\xff\x01\x00"),
            Ok(vec![Element::Int(-1), Element::Int(1)])
        );
        assert_eq!(
            unpack(b"\x04\0\0\0\x01\0\0\0\x00\x00\x00\x80"),
            Ok(vec![Element::Int(i64::from(i32::MIN))])
        );
        assert_eq!(
            unpack(b"\x08\0\0\0\x01\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f"),
            Ok(vec![Element::Int(i64::MAX)])
        );
    }

    #[test]
    fn refuses_damage() {
        let sound = b"\x02\0\0\0\x02\0\0\0\xff\xff\x01\x00";
        for end in 0..sound.len() {
            assert!(unpack(&sound[..end]).is_err(), "cut at {end}");
        }
        assert!(unpack(b"\x03\0\0\0\x00\0\0\0").is_err());
        assert!(unpack(b"\x00\0\0\0\x00\0\0\0").is_err());
        assert!(unpack(b"\x08\0\0\0\xff\xff\xff\xff").is_err());
    }
}
