//! From the bytes of a file to its items: keys with their values as they are, and what stands between them.
//!
//! Invariant: a value is looked at once, however its bytes are cut, a large one from its beginning again; nothing is kept of the file but the name of the last
//! whole key. A value above the limit is told; then it is passed over, or given out in parts.

use std::borrow::Cow;

use crc::{Digest, Table};

use crate::rdb::file::cut::Passing;
use crate::rdb::file::error::FileError;
use crate::rdb::file::head::{self, Head};
use crate::rdb::file::item::{Checksum, Item, Key, Large, Step};
use crate::rdb::file::known::{HEADER, SLOT_IMPORT, unknown, version_of};
use crate::rdb::file::layout;
use crate::rdb::file::walk::Walk;
use crate::rdb::footer::checksum;
use crate::rdb::lzf;
use crate::rdb::type_byte::FIRST_VALKEY_VERSION;

const SLOT_INFO: u8 = 244;
const FUNCTION: u8 = 245;
const MODULE_AUX: u8 = 247;
const IDLE: u8 = 248;
const FREQUENCY: u8 = 249;
const AUX: u8 = 250;
const RESIZE: u8 = 251;
const EXPIRY_MS: u8 = 252;
const EXPIRY_S: u8 = 253;
const SELECT: u8 = 254;
const END: u8 = 255;

/// Bytes of what stands before a key's type, each part of it once, and then some.
const MOST_ATTRIBUTES: usize = 64;

/// What is known of the key that is being read.
#[derive(Debug, Default)]
struct Entry {
    expires_at: Option<u64>,
    idle: Option<u64>,
    frequency: Option<u8>,
    /// Once the value has begun: where the name and the value stand, from the entry's first byte.
    value: Option<(u8, usize, usize)>,
    /// Bytes of it that were looked at.
    looked: usize,
}

/// Reads one file, from front to back.
pub struct FileReader {
    /// Bytes that a value may have, and a name or a text beside the keys.
    limit: usize,
    text_limit: usize,
    version: Option<u16>,
    /// Where what is given next stands in the file.
    pub(super) offset: u64,
    checksum: Digest<'static, u64, Table<16>>,
    pub(super) walk: Walk,
    entry: Entry,
    pub(super) passing: Option<Passing>,
    is_over: bool,
    pub(super) keys: u64,
    pub(super) last_key: Vec<u8>,
}

/// A part that is not whole yet, or what is wrong with it.
type Part<T> = Result<Option<T>, FileError>;

impl FileReader {
    /// Reads a file and keeps no value, name or text of more than `limit` bytes in one piece.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            text_limit: limit,
            version: None,
            offset: 0,
            checksum: checksum(),
            walk: Walk::default(),
            entry: Entry::default(),
            passing: None,
            is_over: false,
            keys: 0,
            last_key: Vec::new(),
        }
    }

    /// Keep names, and texts beside the keys, of up to `limit` bytes.
    #[must_use]
    pub fn with_texts(mut self, limit: usize) -> Self {
        self.text_limit = limit;
        self
    }

    /// Where what is to be given next stands in the file: between two items, a border of keys.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The RDB version of the file; 0 before it has begun.
    pub fn version(&self) -> u16 {
        self.version.unwrap_or(0)
    }

    /// How many whole keys there were, and the name of the last one.
    pub fn last_key(&self) -> (u64, &[u8]) {
        (self.keys, &self.last_key)
    }

    /// The file has no more bytes than `left`, which were given and not used. Returns `Truncated` where it is not over.
    pub fn finish(&self, left: usize) -> Result<(), FileError> {
        let offset = self.offset + left as u64;
        match self.version {
            None if offset == 0 => Err(FileError::NotRdb("empty")),
            None => Err(FileError::NotRdb("a file of less than nine bytes")),
            Some(_) if self.is_over => Ok(()),
            Some(_) => Err(FileError::Truncated { offset }),
        }
    }

    /// Take the next item from `data`, which begins where the last step has ended.
    pub fn next<'a>(&mut self, data: &'a [u8]) -> Result<Step<'a>, FileError> {
        if self.version.is_none() {
            return self.header(data);
        }
        if self.is_over {
            return Ok(Step::More(0));
        }
        if self.passing.is_some() {
            return self.pass(data);
        }
        self.item(data)
    }

    fn header(&mut self, data: &[u8]) -> Result<Step<'static>, FileError> {
        let Some(magic) = data.first_chunk::<HEADER>() else {
            return Ok(Step::More(0));
        };
        let version = version_of(magic)?;
        self.version = Some(version);
        self.use_up(magic);
        Ok(Step::Item(HEADER, Item::Header(version)))
    }

    /// Take note of bytes that are done with.
    #[inline]
    pub(super) fn use_up(&mut self, bytes: &[u8]) {
        self.checksum.update(bytes);
        self.offset += bytes.len() as u64;
    }

    fn done<'a>(&mut self, data: &[u8], size: usize, item: Item<'a>) -> Step<'a> {
        self.use_up(&data[..size]);
        Step::Item(size, item)
    }

    pub(super) fn is_valkey(&self) -> bool {
        self.version() >= FIRST_VALKEY_VERSION
    }

    pub(super) fn malformed(&self, what: &'static str, at: usize) -> FileError {
        FileError::Malformed {
            what,
            offset: self.offset + at as u64,
        }
    }

    /// An item that begins at the first byte of `data`.
    fn item<'a>(&mut self, data: &'a [u8]) -> Result<Step<'a>, FileError> {
        if self.entry.looked > 0 {
            return self.key(data);
        }
        let Some(&opcode) = data.first() else {
            return Ok(Step::More(0));
        };
        let whole = match opcode {
            END => return Ok(self.end(data)),
            SELECT => self
                .length(data, 1)?
                .map(|(number, at)| (at, Item::Database(number))),
            RESIZE => self.sizes(data)?,
            AUX => self.field(data)?,
            FUNCTION => self
                .text(data, 1, "a library")?
                .map(|(code, at)| (at, Item::Library(code))),
            SLOT_INFO => self.lengths(data, 3)?.map(|at| (at, Item::Hint)),
            MODULE_AUX => return Ok(self.begin_passing(data, layout::MODULE_AUX, Item::ModuleData)),
            SLOT_IMPORT if self.is_valkey() => {
                return Ok(self.begin_passing(data, layout::SLOT_IMPORT, Item::Hint));
            }
            _ => return self.key(data),
        };
        Ok(match whole {
            Some((size, item)) => self.done(data, size, item),
            None => Step::More(0),
        })
    }

    fn end(&mut self, data: &[u8]) -> Step<'static> {
        let Some(stored) = data.get(1..).and_then(|rest| rest.first_chunk()) else {
            return Step::More(0);
        };
        let stored = u64::from_le_bytes(*stored);
        self.use_up(&data[..1]);
        let computed = std::mem::replace(&mut self.checksum, checksum()).finalize();
        self.offset += size_of::<u64>() as u64;
        self.is_over = true;
        let checksum = match stored {
            0 => Checksum::Absent,
            stored if stored == computed => Checksum::Right,
            stored => Checksum::Wrong { stored, computed },
        };
        Step::Item(1 + size_of::<u64>(), Item::End(checksum))
    }

    fn sizes(&self, data: &[u8]) -> Part<(usize, Item<'static>)> {
        let Some((keys, at)) = self.length(data, 1)? else {
            return Ok(None);
        };
        let with_expiry = self.length(data, at)?;
        Ok(with_expiry.map(|(_, at)| (at, Item::Size(keys))))
    }

    fn field<'a>(&self, data: &'a [u8]) -> Part<(usize, Item<'a>)> {
        let Some((name, at)) = self.text(data, 1, "a field")? else {
            return Ok(None);
        };
        let value = self.text(data, at, "a field")?;
        Ok(value.map(|(value, at)| (at, Item::Field(name, value))))
    }

    fn lengths(&self, data: &[u8], count: usize) -> Part<usize> {
        let mut at = 1;
        for _ in 0..count {
            match self.length(data, at)? {
                Some((_, next)) => at = next,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// The length at `at`, and where what follows begins.
    fn length(&self, data: &[u8], at: usize) -> Part<(u64, usize)> {
        let read =
            head::length(data.get(at..).unwrap_or_default()).map_err(|what| self.malformed(what, at))?;
        Ok(read.map(|(length, size)| (length, at + size)))
    }

    /// The string at `at`, decompressed, and where what follows begins.
    fn text<'a>(&self, data: &'a [u8], at: usize, of: &'static str) -> Part<(Cow<'a, [u8]>, usize)> {
        let head = head::read(data.get(at..).unwrap_or_default()).map_err(|what| self.malformed(what, at))?;
        let Some((head, size)) = head else {
            return Ok(None);
        };
        let start = at + size;
        let (length, plain) = match head {
            Head::Plain(length) => (length, length),
            Head::Integer(length) => (length.into(), length.into()),
            Head::Compressed(length, plain) => (length, plain),
        };
        if length.max(plain) > self.text_limit as u64 {
            return Err(FileError::Unknown {
                what: format!("{of} of {plain} bytes, more than can be kept"),
                offset: self.offset + at as u64,
            });
        }
        let Some(bytes) = data.get(start..start + length as usize) else {
            return Ok(None);
        };
        let text = match (head, bytes) {
            (Head::Compressed(..), bytes) => lzf::decompress(bytes, plain as usize)
                .map_err(|_| self.malformed("a compressed string can't be decompressed", at))?
                .into(),
            (Head::Integer(_), &[a]) => number(i8::from_le_bytes([a])),
            (Head::Integer(_), &[a, b]) => number(i16::from_le_bytes([a, b])),
            (Head::Integer(_), &[a, b, c, d]) => number(i32::from_le_bytes([a, b, c, d])),
            (_, bytes) => bytes.into(),
        };
        Ok(Some((text, start + length as usize)))
    }

    /// A key, from its expiry on.
    #[inline]
    fn key<'a>(&mut self, data: &'a [u8]) -> Result<Step<'a>, FileError> {
        while self.entry.value.is_none() {
            if !self.attribute(data)? {
                return Ok(Step::More(0));
            }
        }
        let Some((type_byte, name_at, value_at)) = self.entry.value else {
            return Ok(Step::More(0));
        };
        let at = self.entry.looked;
        let (passed, is_over) = self
            .walk
            .walk(&data[at..])
            .map_err(|what| self.malformed(what, at))?;
        self.entry.looked += passed;
        let end = self.entry.looked;
        if end - value_at > self.limit || (!is_over && data.len() - value_at > self.limit) {
            return self.leave_large(data, type_byte, name_at, value_at);
        }
        if !is_over {
            return Ok(Step::More(0));
        }
        let Some((name, _)) = self.text(data, name_at, "a key")? else {
            return Ok(Step::More(0));
        };
        let entry = std::mem::take(&mut self.entry);
        self.keys += 1;
        self.last_key.clear();
        self.last_key.extend_from_slice(&name);
        let key = Key {
            name,
            expires_at: entry.expires_at,
            idle: entry.idle,
            frequency: entry.frequency,
            type_byte,
            value: &data[value_at..end],
        };
        Ok(self.done(data, end, Item::Key(key)))
    }

    /// A value is larger than the limit: it is begun with again, to be passed over or given out in parts.
    fn leave_large<'a>(
        &mut self,
        data: &'a [u8],
        type_byte: u8,
        name_at: usize,
        value_at: usize,
    ) -> Result<Step<'a>, FileError> {
        let Some((name, _)) = self.text(data, name_at, "a key")? else {
            return Ok(Step::More(0));
        };
        let large = Large {
            name: name.into_owned(),
            expires_at: std::mem::take(&mut self.entry).expires_at,
            type_byte,
            bytes: 0,
        };
        self.walk
            .begin(layout::of(type_byte, self.is_valkey()).unwrap_or_default());
        self.passing = Some(Passing::Value(large.clone()));
        Ok(self.done(data, value_at, Item::Large(large)))
    }

    /// The next of what stands before a key's value; false where it is not whole.
    fn attribute(&mut self, data: &[u8]) -> Result<bool, FileError> {
        let at = self.entry.looked;
        if at > MOST_ATTRIBUTES {
            return Err(self.malformed("a key's expiry and use are told again and again", at));
        }
        let Some((&byte, rest)) = data.get(at..).unwrap_or_default().split_first() else {
            return Ok(false);
        };
        let next = at + 1;
        self.entry.looked = match byte {
            EXPIRY_MS => {
                let Some(bytes) = rest.first_chunk() else {
                    return Ok(false);
                };
                // A negative one lies before the epoch.
                self.entry.expires_at = Some(i64::from_le_bytes(*bytes).max(1).cast_unsigned());
                next + bytes.len()
            }
            EXPIRY_S => {
                let Some(bytes) = rest.first_chunk() else {
                    return Ok(false);
                };
                let seconds = i64::from(i32::from_le_bytes(*bytes)).max(0);
                self.entry.expires_at = Some((seconds * 1000).max(1).cast_unsigned());
                next + bytes.len()
            }
            IDLE => {
                let Some((seconds, next)) = self.length(data, next)? else {
                    return Ok(false);
                };
                self.entry.idle = Some(seconds);
                next
            }
            FREQUENCY => {
                let Some(&frequency) = rest.first() else {
                    return Ok(false);
                };
                self.entry.frequency = Some(frequency);
                next + 1
            }
            type_byte => return self.begin_value(data, type_byte, at),
        };
        Ok(true)
    }

    /// The type at `at` and the name behind it; false where they are not whole.
    fn begin_value(&mut self, data: &[u8], type_byte: u8, at: usize) -> Result<bool, FileError> {
        let Some(pieces) = layout::of(type_byte, self.is_valkey()) else {
            return Err(FileError::Unknown {
                what: unknown(type_byte, self.version()),
                offset: self.offset + at as u64,
            });
        };
        let Some(value_at) = self.name_end(data, at + 1)? else {
            return Ok(false);
        };
        self.walk.begin(pieces);
        self.entry.value = Some((type_byte, at + 1, value_at));
        self.entry.looked = value_at;
        Ok(true)
    }

    /// Where a key's name ends, without decompressing it.
    fn name_end(&self, data: &[u8], at: usize) -> Part<usize> {
        let head = head::read(data.get(at..).unwrap_or_default()).map_err(|what| self.malformed(what, at))?;
        let length = match head {
            // What it is decompressed to is checked with the name itself.
            Some((Head::Plain(length) | Head::Compressed(length, _), size)) => (length, size),
            Some((Head::Integer(length), size)) => (length.into(), size),
            None => return Ok(None),
        };
        if length.0 > self.text_limit as u64 {
            return Err(FileError::Unknown {
                what: format!("the name of a key of {} bytes, more than can be kept", length.0),
                offset: self.offset + at as u64,
            });
        }
        let end = at + length.1 + length.0 as usize;
        Ok((end <= data.len()).then_some(end))
    }
}

fn number(number: impl itoa::Integer) -> Cow<'static, [u8]> {
    Cow::Owned(itoa::Buffer::new().format(number).into())
}
