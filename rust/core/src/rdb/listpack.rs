//! Listpacks: the packed encoding of small collections since Redis 7.0, and of every stream node.
//!
//! Invariant: entries are read up to the end mark, which must be the last byte. Format: Redis `listpack.c`:
//! `total bytes (4, LE) | elements (2, LE; 65535: count them) | entries | 0xFF`, each entry
//! `encoding and data | their length (1 to 5 bytes, for walking backwards)`.

use crate::rdb::announced::Announced;
use crate::rdb::cursor::Cursor;
use crate::rdb::element::Element;
use crate::rdb::error::Malformed;

const TRUNCATED: Malformed = Malformed("a listpack ends early");
const END: u8 = 0xff;

/// The elements of a listpack, in order; not to be asked again after the end or an error.
#[derive(Debug)]
pub(crate) struct Listpack<'a> {
    cursor: Cursor<'a>,
    announced: Announced,
    read: usize,
}

impl<'a> Listpack<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let total = u32::from_le_bytes(cursor.array().ok_or(TRUNCATED)?);
        let count = u16::from_le_bytes(cursor.array().ok_or(TRUNCATED)?);
        if total as usize != bytes.len() {
            return Err(Malformed("a listpack's length is not that of its string"));
        }
        Ok(Self {
            cursor,
            announced: Announced::new(count),
            read: 0,
        })
    }

    fn read_entry(&mut self) -> Result<Option<Element<'a>>, Malformed> {
        let start = self.cursor.position();
        let first = self.cursor.byte().ok_or(TRUNCATED)?;
        if first == END {
            return self.check_end().map(|()| None);
        }
        let element = read_element(first, &mut self.cursor)?;
        let backwards = length_of_length(self.cursor.position() - start);
        self.cursor.take(backwards).ok_or(TRUNCATED)?;
        self.read += 1;
        Ok(Some(element))
    }

    fn check_end(&self) -> Result<(), Malformed> {
        if !self.cursor.is_at_end() {
            return Err(Malformed("a listpack goes on after its end mark"));
        }
        if self.announced.allows(self.read) {
            Ok(())
        } else {
            Err(Malformed("a listpack's count is not that of its entries"))
        }
    }
}

impl<'a> Iterator for Listpack<'a> {
    type Item = Result<Element<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_entry().transpose()
    }
}

fn read_element<'a>(first: u8, cursor: &mut Cursor<'a>) -> Result<Element<'a>, Malformed> {
    parse_element(first, cursor).ok_or(TRUNCATED)?
}

/// Returns `None` where the bytes run out.
fn parse_element<'a>(first: u8, cursor: &mut Cursor<'a>) -> Option<Result<Element<'a>, Malformed>> {
    let element = match first {
        0x00..=0x7f => Element::Int(i64::from(first)),
        0x80..=0xbf => Element::Bytes(cursor.take(usize::from(first & 0x3f))?),
        0xc0..=0xdf => {
            // 13 bits, two's complement: moved to the top of an i16 and back to spread the sign
            let bits = u16::from_be_bytes([first, cursor.byte()?]) << 3;
            Element::Int(i64::from(bits.cast_signed() >> 3))
        }
        0xe0..=0xef => {
            let length = u16::from_be_bytes([first & 0x0f, cursor.byte()?]);
            Element::Bytes(cursor.take(usize::from(length))?)
        }
        0xf0 => {
            let length = u32::from_le_bytes(cursor.array()?);
            Element::Bytes(cursor.take(length as usize)?)
        }
        0xf1 => Element::Int(i16::from_le_bytes(cursor.array()?).into()),
        0xf2 => {
            let [low, middle, high] = cursor.array()?;
            Element::Int((i32::from_le_bytes([0, low, middle, high]) >> 8).into())
        }
        0xf3 => Element::Int(i32::from_le_bytes(cursor.array()?).into()),
        0xf4 => Element::Int(i64::from_le_bytes(cursor.array()?)),
        _ => return Some(Err(Malformed("a listpack entry has an unknown encoding"))),
    };
    Some(Ok(element))
}

/// How many bytes the length of an entry takes behind it, at seven bits a byte.
fn length_of_length(length: usize) -> usize {
    match length {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        2_097_152..=268_435_455 => 4,
        _ => 5,
    }
}

/// Packs elements into a listpack.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    body: Vec<u8>,
    count: usize,
}

impl Writer {
    pub(crate) fn integer(&mut self, number: i64) {
        let start = self.body.len();
        match (i8::try_from(number), i16::try_from(number), i32::try_from(number)) {
            (Ok(tiny @ 0..), ..) => self.body.push(tiny.cast_unsigned()),
            (_, Ok(short), _) => {
                self.body.push(0xf1);
                self.body.extend_from_slice(&short.to_le_bytes());
            }
            (.., Ok(long)) => {
                self.body.push(0xf3);
                self.body.extend_from_slice(&long.to_le_bytes());
            }
            _ => {
                self.body.push(0xf4);
                self.body.extend_from_slice(&number.to_le_bytes());
            }
        }
        self.close(start);
    }

    /// Append a string of less than 4 GB.
    pub(crate) fn string(&mut self, bytes: &[u8]) {
        let start = self.body.len();
        match u16::try_from(bytes.len()) {
            Ok(short @ ..0x40) => self.body.push(0x80 | short as u8),
            Ok(middle @ ..0x1000) => self.body.extend_from_slice(&(0xe000 | middle).to_be_bytes()),
            _ => {
                self.body.push(0xf0);
                self.body.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            }
        }
        self.body.extend_from_slice(bytes);
        self.close(start);
    }

    /// Write the length of the entry that began at `start` behind it: seven bits a byte, the lowest last,
    /// and all but the first byte marked.
    fn close(&mut self, start: usize) {
        let length = self.body.len() - start;
        for place in (0..length_of_length(length)).rev() {
            let mark = if place + 1 == length_of_length(length) {
                0
            } else {
                0x80
            };
            self.body.push((length >> (7 * place)) as u8 & 0x7f | mark);
        }
        self.count += 1;
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        const HEADER: usize = 6;
        let total = HEADER + self.body.len() + 1;
        let mut packed = Vec::with_capacity(total);
        packed.extend_from_slice(&(total as u32).to_le_bytes());
        let count = u16::try_from(self.count).unwrap_or(u16::MAX);
        packed.extend_from_slice(&count.to_le_bytes());
        packed.extend_from_slice(&self.body);
        packed.push(END);
        packed
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let strings = [0, 1, 63, 64, 127, 4095, 4096, 20_000].map(|length| vec![b's'; length]);
        let numbers = [
            0,
            1,
            127,
            128,
            -1,
            32_767,
            -32_769,
            i64::from(i32::MAX) + 1,
            i64::MIN,
        ];
        let mut writer = Writer::default();
        let mut expected = Vec::new();
        for string in &strings {
            writer.string(string);
            expected.push(Element::Bytes(string));
        }
        for number in numbers {
            writer.integer(number);
            expected.push(Element::Int(number));
        }
        assert_eq!(unpack(&writer.finish()), Ok(expected));
    }

    #[test]
    fn lengths_behind_entries_are_written_as_servers_do() {
        // lpEncodeBacklen of an entry of 302 bytes: 302 = 2 * 128 + 46.
        let mut writer = Writer::default();
        writer.string(&[b's'; 300]);
        let packed = writer.finish();
        assert_eq!(packed[packed.len() - 3..], [0x02, 0xae, END]);
    }

    /// Packs entries that are already encoded, with their backward lengths.
    pub(crate) fn pack(entries: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        for entry in entries {
            body.extend_from_slice(entry);
            // The value of the backward length does not matter here, only how many bytes it takes.
            body.extend(std::iter::repeat_n(0, length_of_length(entry.len())));
        }
        let mut packed = ((body.len() + 7) as u32).to_le_bytes().to_vec();
        packed.extend_from_slice(&(entries.len() as u16).to_le_bytes());
        packed.extend_from_slice(&body);
        packed.push(END);
        packed
    }

    fn unpack(bytes: &[u8]) -> Result<Vec<Element<'_>>, Malformed> {
        Listpack::new(bytes)?.collect()
    }

    #[test]
    fn reads_every_integer_encoding() {
        let packed = pack(&[
            b"\x7f",
            b"\xc0\x00",
            b"\xdf\xff",
            b"\xd0\x00",
            b"\xcf\xff",
            b"\xf1\x00\x80",
            b"\xf2\xff\xff\xff",
            b"\xf2\xff\xff\x7f",
            b"\xf3\x00\x00\x00\x80",
            b"\xf4\xff\xff\xff\xff\xff\xff\xff\x7f",
        ]);
        let numbers = [
            127,
            0,
            -1,
            -4096,
            4095,
            -32_768,
            -1,
            8_388_607,
            i64::from(i32::MIN),
            i64::MAX,
        ];
        assert_eq!(unpack(&packed), Ok(numbers.map(Element::Int).to_vec()));
    }

    #[test]
    fn reads_every_string_encoding() {
        let middle = vec![b'm'; 300];
        let long = vec![b'l'; 20_000];
        let packed = pack(&[
            b"\x82hi",
            &[&b"\xe1\x2c"[..], &middle].concat(),
            &[&b"\xf0\x20\x4e\x00\x00"[..], &long].concat(),
        ]);
        assert_eq!(
            unpack(&packed),
            Ok(vec![
                Element::Bytes(b"hi"),
                Element::Bytes(&middle),
                Element::Bytes(&long)
            ])
        );
    }

    #[test]
    fn counts_entries_where_the_header_does_not() {
        let mut packed = pack(&[b"\x01", b"\x02"]);
        packed[4..6].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(unpack(&packed).map(|elements| elements.len()), Ok(2));
    }

    #[test]
    fn refuses_damage() {
        let sound = pack(&[b"\x01", b"\x82hi"]);
        for end in 0..sound.len() {
            assert!(unpack(&sound[..end]).is_err(), "cut at {end}");
        }
        let mut wrong_count = sound.clone();
        wrong_count[4] = 3;
        assert!(unpack(&wrong_count).is_err());
        let mut early_end = sound.clone();
        early_end[6] = END;
        assert!(unpack(&early_end).is_err());
        let mut unknown = sound;
        unknown[6] = 0xf5;
        assert!(unpack(&unknown).is_err());
    }
}
