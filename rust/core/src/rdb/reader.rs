//! Lengths and strings of the RDB format.
//!
//! Invariants: a length is believed only as far as bytes are there to back it, and what is decompressed or
//! kept is counted against a limit before it is allocated. Format: Redis `rdb.c`, `rdbLoadLenByRef` and
//! `rdbGenericLoadStringObject`.

use std::borrow::Cow;

use crate::rdb::cursor::Cursor;
use crate::rdb::element::Element;
use crate::rdb::error::{Malformed, PayloadError};
use crate::rdb::lzf;
use crate::rdb::packed::Packing;

const TRUNCATED: Malformed = Malformed("the value ends early");

/// What an element costs besides its bytes: its place in a collection and the allocator's own, roughly.
const ELEMENT_OVERHEAD: usize = 64;

/// Reads the value of a payload from front to back, within a limit of memory.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    cursor: Cursor<'a>,
    limit: usize,
    left: usize,
}

/// A length, or the mark of a string that is not stored plainly.
enum Length {
    Plain(u64),
    Special(u8),
}

/// A string of the payload, and where it began: for what is packed into it.
#[derive(Debug)]
pub(crate) struct Blob<'a> {
    bytes: Cow<'a, [u8]>,
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Reads `body`, type byte included, and keeps no more than `limit` bytes of it.
    pub(crate) fn new(body: &'a [u8], limit: usize) -> Self {
        Self {
            cursor: Cursor::new(body),
            limit,
            left: limit,
        }
    }

    /// The offset of what is read next, from the start of the payload.
    pub(crate) fn offset(&self) -> usize {
        self.cursor.position()
    }

    /// Makes an error of a rule that the bytes before this place break.
    pub(crate) fn malformed(&self, what: &'static str) -> PayloadError {
        Malformed(what).at(self.offset())
    }

    /// Checks that the value ends where the footer begins.
    pub(crate) fn finish(self) -> Result<(), PayloadError> {
        if self.cursor.is_at_end() {
            Ok(())
        } else {
            Err(self.malformed("bytes are left after the value"))
        }
    }

    pub(crate) fn byte(&mut self) -> Result<u8, PayloadError> {
        self.cursor.byte().ok_or_else(|| self.truncated())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], PayloadError> {
        self.cursor.array().ok_or_else(|| self.truncated())
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], PayloadError> {
        self.cursor.take(count).ok_or_else(|| self.truncated())
    }

    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        self.cursor.take_rest()
    }

    /// Reads a length or a count, which nothing backs yet.
    pub(crate) fn length(&mut self) -> Result<u64, PayloadError> {
        match self.length_or_special()? {
            Length::Plain(length) => Ok(length),
            Length::Special(_) => Err(self.malformed("a string stands where a length is due")),
        }
    }

    fn length_or_special(&mut self) -> Result<Length, PayloadError> {
        let first = self.byte()?;
        let low = first & 0x3f;
        Ok(match first {
            0x00..=0x3f => Length::Plain(low.into()),
            0x40..=0x7f => Length::Plain(u16::from_be_bytes([low, self.byte()?]).into()),
            0x80 => Length::Plain(u32::from_be_bytes(self.array()?).into()),
            0x81 => Length::Plain(u64::from_be_bytes(self.array()?)),
            0x82..=0xbf => return Err(self.malformed("a length has an unknown encoding")),
            0xc0..=0xff => Length::Special(low),
        })
    }

    /// Reads a string, borrowed where it is stored plainly.
    pub(crate) fn string(&mut self) -> Result<Blob<'a>, PayloadError> {
        let offset = self.offset();
        let bytes = match self.length_or_special()? {
            Length::Plain(length) => self.take(self.as_size(length)?)?.into(),
            Length::Special(0) => integer(i8::from_le_bytes(self.array()?)),
            Length::Special(1) => integer(i16::from_le_bytes(self.array()?)),
            Length::Special(2) => integer(i32::from_le_bytes(self.array()?)),
            Length::Special(3) => self.compressed(offset)?.into(),
            Length::Special(_) => return Err(self.malformed("a string has an unknown encoding")),
        };
        Ok(Blob { bytes, offset })
    }

    fn compressed(&mut self, offset: usize) -> Result<Vec<u8>, PayloadError> {
        let compressed = self.length()?;
        let length = self.length()?;
        let input = self.take(self.as_size(compressed)?)?;
        let length = self.as_size(length)?;
        self.spend(length)?;
        lzf::decompress(input, length).map_err(|malformed| malformed.at(offset))
    }

    /// Reads a string and keeps it.
    pub(crate) fn kept_string(&mut self) -> Result<Vec<u8>, PayloadError> {
        let blob = self.string()?;
        self.spend_element(blob.bytes.len())?;
        Ok(blob.bytes.into_owned())
    }

    /// Keeps an element of a packed string.
    pub(crate) fn keep(&mut self, element: Element<'_>) -> Result<Vec<u8>, PayloadError> {
        self.spend_element(element.max_len())?;
        Ok(element.to_vec())
    }

    /// Counts an element of `length` bytes that is about to be kept.
    pub(crate) fn spend_element(&mut self, length: usize) -> Result<(), PayloadError> {
        self.spend(length.saturating_add(ELEMENT_OVERHEAD))
    }

    fn spend(&mut self, count: usize) -> Result<(), PayloadError> {
        self.left = self
            .left
            .checked_sub(count)
            .ok_or(PayloadError::TooLarge { limit: self.limit })?;
        Ok(())
    }

    fn as_size(&self, length: u64) -> Result<usize, PayloadError> {
        usize::try_from(length).map_err(|_| self.truncated())
    }

    fn truncated(&self) -> PayloadError {
        TRUNCATED.at(self.offset())
    }
}

fn integer(number: impl itoa::Integer) -> Cow<'static, [u8]> {
    Cow::Owned(itoa::Buffer::new().format(number).into())
}

impl Blob<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes an error of a rule that this string breaks.
    pub(crate) fn malformed(&self, what: &'static str) -> PayloadError {
        Malformed(what).at(self.offset)
    }

    /// Reads what is packed into the string.
    pub(crate) fn elements(&self, packing: Packing) -> Result<PlacedElements<'_>, PayloadError> {
        let elements = packing
            .elements(&self.bytes)
            .map_err(|malformed| malformed.at(self.offset))?;
        Ok(PlacedElements {
            elements,
            offset: self.offset,
        })
    }
}

/// The elements of a packed string, with errors that say where the string stands in the payload.
pub(crate) struct PlacedElements<'a> {
    elements: crate::rdb::packed::Elements<'a>,
    offset: usize,
}

impl<'a> PlacedElements<'a> {
    /// Returns the next element where there has to be one.
    pub(crate) fn due(&mut self, what: &'static str) -> Result<Element<'a>, PayloadError> {
        self.next().unwrap_or(Err(Malformed(what).at(self.offset)))
    }

    /// Makes an error of a rule that the packed string breaks.
    pub(crate) fn malformed(&self, what: &'static str) -> PayloadError {
        Malformed(what).at(self.offset)
    }
}

impl<'a> Iterator for PlacedElements<'a> {
    type Item = Result<Element<'a>, PayloadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let element = self.elements.next()?;
        Some(element.map_err(|malformed| malformed.at(self.offset)))
    }
}
