//! What a RESTORE says of a key: the form in which keys go from what reads the source to what writes the target.
//!
//! Invariant: borrows everything; a payload is not copied before it is encoded.

/// How cold or hot a key is, by the policy of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Seconds since its last use (OBJECT IDLETIME).
    IdleTime,
    /// The logarithmic counter of its uses (OBJECT FREQ).
    Frequency,
}

/// The arguments of an encoded RESTORE.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restore<'a> {
    /// Its place among the keys of its page.
    pub number: u32,
    /// Its name at the target.
    pub key: &'a [u8],
    /// Milliseconds since the epoch; 0: does not expire.
    pub expires_at: u64,
    /// As DUMP gives it.
    pub payload: &'a [u8],
    /// The payload is none, but the bytes of a string that is to be SET.
    pub is_string: bool,
    /// The RDB version to put into the payload's footer in place of its own.
    pub rdb_version: Option<u16>,
    /// How cold or hot it is, where that is carried over.
    pub eviction: Option<(Eviction, u64)>,
}
