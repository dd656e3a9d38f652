//! Ziplists: the packed encoding of small collections before Redis 7.0.
//!
//! Invariant: entries are read up to the end mark, which must be the last byte. Format: Redis `ziplist.c`:
//! `total bytes (4, LE) | offset of the last entry (4, LE) | entries (2, LE; 65535: count them) | entries |
//! 0xFF`, each entry `length of the one before (1, or 0xFE and 4) | encoding | data`.

use crate::rdb::announced::Announced;
use crate::rdb::cursor::Cursor;
use crate::rdb::element::Element;
use crate::rdb::error::Malformed;

const TRUNCATED: Malformed = Malformed("a ziplist ends early");
const END: u8 = 0xff;
const WIDE_PREVIOUS_LENGTH: u8 = 0xfe;

/// The elements of a ziplist, in order; not to be asked again after the end or an error.
#[derive(Debug)]
pub(crate) struct Ziplist<'a> {
    cursor: Cursor<'a>,
    announced: Announced,
    read: usize,
}

impl<'a> Ziplist<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let total = u32::from_le_bytes(cursor.array().ok_or(TRUNCATED)?);
        let _last_entry: [u8; 4] = cursor.array().ok_or(TRUNCATED)?;
        let count = u16::from_le_bytes(cursor.array().ok_or(TRUNCATED)?);
        if total as usize != bytes.len() {
            return Err(Malformed("a ziplist's length is not that of its string"));
        }
        Ok(Self {
            cursor,
            announced: Announced::new(count),
            read: 0,
        })
    }

    fn read_entry(&mut self) -> Result<Option<Element<'a>>, Malformed> {
        match self.cursor.byte().ok_or(TRUNCATED)? {
            END => return self.check_end().map(|()| None),
            WIDE_PREVIOUS_LENGTH => {
                self.cursor.take(4).ok_or(TRUNCATED)?;
            }
            _ => {}
        }
        self.read += 1;
        parse_element(&mut self.cursor).ok_or(TRUNCATED)?.map(Some)
    }

    fn check_end(&self) -> Result<(), Malformed> {
        if !self.cursor.is_at_end() {
            return Err(Malformed("a ziplist goes on after its end mark"));
        }
        if self.announced.allows(self.read) {
            Ok(())
        } else {
            Err(Malformed("a ziplist's count is not that of its entries"))
        }
    }
}

impl<'a> Iterator for Ziplist<'a> {
    type Item = Result<Element<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_entry().transpose()
    }
}

/// Returns `None` where the bytes run out.
fn parse_element<'a>(cursor: &mut Cursor<'a>) -> Option<Result<Element<'a>, Malformed>> {
    let first = cursor.byte()?;
    let element = match first {
        0x00..=0x3f => Element::Bytes(cursor.take(usize::from(first))?),
        0x40..=0x7f => {
            let length = u16::from_be_bytes([first & 0x3f, cursor.byte()?]);
            Element::Bytes(cursor.take(usize::from(length))?)
        }
        0x80..=0xbf => {
            let length = u32::from_be_bytes(cursor.array()?);
            Element::Bytes(cursor.take(length as usize)?)
        }
        0xc0 => Element::Int(i16::from_le_bytes(cursor.array()?).into()),
        0xd0 => Element::Int(i32::from_le_bytes(cursor.array()?).into()),
        0xe0 => Element::Int(i64::from_le_bytes(cursor.array()?)),
        0xf0 => {
            let [low, middle, high] = cursor.array()?;
            Element::Int((i32::from_le_bytes([0, low, middle, high]) >> 8).into())
        }
        0xfe => Element::Int(i8::from_le_bytes(cursor.array()?).into()),
        0xf1..=0xfd => Element::Int(i64::from(first & 0x0f) - 1),
        _ => return Some(Err(Malformed("a ziplist entry has an unknown encoding"))),
    };
    Some(Ok(element))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(entries: &[&[u8]]) -> Vec<u8> {
        let body = entries.concat();
        let mut packed = ((body.len() + 11) as u32).to_le_bytes().to_vec();
        packed.extend_from_slice(&[0; 4]);
        packed.extend_from_slice(&(entries.len() as u16).to_le_bytes());
        packed.extend_from_slice(&body);
        packed.push(END);
        packed
    }

    fn unpack(bytes: &[u8]) -> Result<Vec<Element<'_>>, Malformed> {
        Ziplist::new(bytes)?.collect()
    }

    #[test]
    fn reads_every_integer_encoding() {
        let packed = pack(&[
            b"\x00\xf1",
            b"\x02\xfd",
            b"\x02\xfe\x80",
            b"\x03\xc0\xff\x7f",
            b"\x04\xf0\x00\x00\x80",
            b"\x05\xd0\x00\x00\x00\x80",
            b"\x06\xe0\xff\xff\xff\xff\xff\xff\xff\x7f",
        ]);
        let numbers = [0, 12, -128, 32_767, -8_388_608, i64::from(i32::MIN), i64::MAX];
        assert_eq!(unpack(&packed), Ok(numbers.map(Element::Int).to_vec()));
    }

    #[test]
    fn reads_every_string_encoding() {
        let middle = vec![b'm'; 300];
        let packed = pack(&[
            b"\x00\x02hi",
            &[&b"\x04\x41\x2c"[..], &middle].concat(),
            &[&b"\xfe\x2f\x01\x00\x00\x80\x00\x00\x01\x2c"[..], &middle].concat(),
        ]);
        assert_eq!(
            unpack(&packed),
            Ok(vec![
                Element::Bytes(b"hi"),
                Element::Bytes(&middle),
                Element::Bytes(&middle)
            ])
        );
    }

    #[test]
    fn refuses_damage() {
        let sound = pack(&[b"\x00\xf2", b"\x02\x02hi"]);
        for end in 0..sound.len() {
            assert!(unpack(&sound[..end]).is_err(), "cut at {end}");
        }
        let mut wrong_count = sound.clone();
        wrong_count[8] = 1;
        assert!(unpack(&wrong_count).is_err());
        let mut unknown = sound;
        unknown[11] = 0xff;
        assert!(unpack(&unknown).is_err());
    }
}
