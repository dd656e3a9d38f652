//! An RDB file as the source: its bytes, decompressed in a thread of their own, and the keys that are made of them.
//!
//! Invariant: what enters the books is what the file has from the mark on, each key once, at a border of keys; the file is
//! read from its beginning in each run, so that its checksum covers all of it.

mod input;
mod pages;
mod reader;

use std::path::PathBuf;

pub use input::{Beginning, look};
pub(crate) use reader::FileSource;

/// An RDB file that a job reads instead of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// Where it is; none: it comes from the standard input.
    pub path: Option<PathBuf>,
    /// How messages name it.
    pub name: String,
    /// Its size in bytes and the time of its last change in ns, as they were when the job was made; none: not known.
    pub stamp: Option<(u64, i64)>,
    /// The database whose keys are taken.
    pub database: u64,
    /// A wrong checksum is told and no error.
    pub ignores_checksum: bool,
    /// The target's time in ms since the epoch when the job was made: what has expired by then is not written.
    pub target_now: u64,
}
