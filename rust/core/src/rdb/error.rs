//! What can be wrong with a DUMP payload. Invariant: an error never quotes the value, only says what and where.

use thiserror::Error;

use crate::rdb::type_byte::newer_type;

/// Why a payload was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// Too short to hold a type byte and the footer.
    #[error("the payload has {length} bytes, fewer than a type byte and a footer of 10 bytes")]
    TooShort {
        /// Bytes of the whole payload.
        length: usize,
    },
    /// The bytes were changed on the way, or are no DUMP payload.
    #[error("the payload's CRC64 is {computed:016x}, but its footer says {stored:016x}")]
    Checksum {
        /// What the footer says.
        stored: u64,
        /// What the bytes give.
        computed: u64,
    },
    /// The value breaks the rules of its encoding.
    #[error("the payload is damaged at byte {offset}: {what}")]
    Malformed {
        /// Which rule is broken.
        what: &'static str,
        /// Where in the payload; inside a packed or compressed string, where that string begins.
        offset: usize,
    },
    /// A value type that this version of Slotferry can't look into.
    #[error(
        "value type {type_byte} of RDB version {rdb_version} can't be read here: it is {}",
        newer_type(*type_byte, *rdb_version).unwrap_or("not known to this version of Slotferry")
    )]
    Unsupported {
        /// The payload's first byte.
        type_byte: u8,
        /// The version in its footer.
        rdb_version: u16,
    },
    /// The value would take too much memory to decode.
    #[error("the decoded value would take more than {limit} bytes of memory")]
    TooLarge {
        /// The limit that was to be held.
        limit: usize,
    },
}

/// A broken rule inside a packed encoding, whose place in the payload only the caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl Malformed {
    /// Adds the place in the payload.
    pub(crate) fn at(self, offset: usize) -> PayloadError {
        PayloadError::Malformed { what: self.0, offset }
    }
}
