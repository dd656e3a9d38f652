//! What is wrong with an RDB file. Invariant: each is one sentence that says what, and where there is a place, where.

use thiserror::Error;

/// Why a file can't be read, or not any further.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FileError {
    /// It does not begin as an RDB does; what it looks like instead.
    #[error("it is not an RDB file, but {0}")]
    NotRdb(&'static str),
    /// Its version is not among those that are read.
    #[error(
        "its version {0} is not known to this version of Slotferry, which reads REDIS0006 to REDIS0015, VALKEY080 and VALKEY081"
    )]
    Version(String),
    /// An opcode or a type that can't be read.
    #[error("byte {offset} is {what}")]
    Unknown {
        /// What stands there.
        what: String,
        /// Where it stands.
        offset: u64,
    },
    /// Bytes that break a rule of the format.
    #[error("it is damaged at byte {offset}: {what}")]
    Malformed {
        /// The rule.
        what: &'static str,
        /// Where it is broken.
        offset: u64,
    },
    /// It ends before its end marker.
    #[error("it ends early, at byte {offset}")]
    Truncated {
        /// How long it is.
        offset: u64,
    },
}
