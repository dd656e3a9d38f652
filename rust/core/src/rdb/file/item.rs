//! What a file is made of, as it is handed over.
//!
//! Invariant: an item borrows from the bytes that it was read from; of a key, the payload is made of its bytes as they are.

use std::borrow::Cow;

use crate::rdb::footer::Footer;
use crate::rdb::type_byte::kind_name;

/// What comes next of a file.
#[derive(Debug)]
pub enum Step<'a> {
    /// So many bytes of what was given are done with, and there is no item yet; with 0, more has to be read.
    More(usize),
    /// An item, with which so many bytes are done with.
    Item(usize, Item<'a>),
}

/// What a file is made of.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// It begins: its RDB version.
    Header(u16),
    /// A field about the server that wrote it.
    Field(Cow<'a, [u8]>, Cow<'a, [u8]>),
    /// The code of a library of functions.
    Library(Cow<'a, [u8]>),
    /// Data of a module that belongs to no key, which is passed over.
    ModuleData,
    /// What is only of use to a server: sizes of tables, slots that are imported.
    Hint,
    /// The database of the keys that follow.
    Database(u64),
    /// How many keys the database has, as far as the file tells.
    Size(u64),
    /// A key with its value.
    Key(Key<'a>),
    /// A key begins whose value is larger than the limit: it is passed over, unless it is asked for in parts.
    Large(Large),
    /// A part of a large value.
    Part(Part),
    /// A large value is over, with what it was in all.
    LargeEnd(Large),
    /// The file is over.
    End(Checksum),
}

/// What the file's checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The file is as it was written.
    Right,
    /// It was written without one.
    Absent,
    /// It is not as it was written: what is stored, and what was found.
    Wrong {
        /// As it stands at the end of the file.
        stored: u64,
        /// As the bytes before give it.
        computed: u64,
    },
}

/// A part of a large value. What the parts have in common: each holds elements in the order of the file, each element once.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// Bytes of a string, and how many it has in all. Each part has as many as were asked for, but the last one.
    Text(Vec<u8>, u64),
    /// The body of a payload that holds some of the elements.
    Body(Vec<u8>),
    /// The body of a payload of a stream without its entries, which came before.
    Rest(Vec<u8>),
    /// Something that can't be cut is larger than the limit: no more parts come. So many bytes of it were seen.
    TooLarge(u64),
}

/// What is known of a key with a large value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Large {
    /// Its name.
    pub name: Vec<u8>,
    /// Milliseconds since the epoch.
    pub expires_at: Option<u64>,
    /// The type and encoding of its value.
    pub type_byte: u8,
    /// Bytes of its value, so far.
    pub bytes: u64,
}

/// A key as it stands in the file.
#[derive(Debug, PartialEq, Eq)]
pub struct Key<'a> {
    /// Its name.
    pub name: Cow<'a, [u8]>,
    /// Milliseconds since the epoch.
    pub expires_at: Option<u64>,
    /// Seconds since its last use.
    pub idle: Option<u64>,
    /// The logarithmic counter of its uses.
    pub frequency: Option<u8>,
    /// The type and encoding of its value.
    pub type_byte: u8,
    /// Its value, encoded.
    pub value: &'a [u8],
}

impl Key<'_> {
    /// Append what DUMP would give of the key, for a server of this RDB version.
    #[inline]
    pub fn append_payload(&self, out: &mut Vec<u8>, rdb_version: u16) {
        let start = out.len();
        out.push(self.type_byte);
        out.extend_from_slice(self.value);
        let footer = Footer::new(&out[start..], rdb_version);
        out.extend_from_slice(&footer.to_bytes());
    }

    /// What TYPE says of it.
    pub fn type_name(&self) -> &'static str {
        kind_name(self.type_byte)
    }
}
