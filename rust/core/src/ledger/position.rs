//! A place in a source's stream of commands.
//!
//! Invariant: offsets of two histories are never compared.

/// A place in a stream of commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The history that the offset counts in.
    pub id: String,
    /// So many bytes of it came before.
    pub offset: u64,
    /// The database that is selected there.
    pub database: u32,
}
