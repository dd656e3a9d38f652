//! An RDB as the source, from a file or as a live source's snapshot: its bytes, and the keys that are made of them.
//!
//! Invariant: what enters the books is what the RDB has from the mark on, each key once, at a border of keys; it is read
//! from its beginning in each run, so that its checksum covers all of it. A snapshot has no mark but its end.

mod input;
mod large;
mod pages;
mod reader;
mod snapshot;

use std::path::PathBuf;

pub use input::{Beginning, look};
pub(crate) use reader::FileSource;

/// Where an RDB comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A file.
    Path(PathBuf),
    /// The standard input.
    Stdin,
    /// A live source makes it now.
    Snapshot,
}

/// An RDB that a job reads instead of asking a server for its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// Where it comes from.
    pub input: Input,
    /// How messages name it.
    pub name: String,
    /// Its size in bytes and the time of its last change in ns, as they were when the job was made; none: not known.
    pub stamp: Option<(u64, i64)>,
    /// The database whose keys are taken.
    pub database: u64,
    /// A wrong checksum is told and no error.
    pub ignores_checksum: bool,
    /// The time in ms since the epoch when the job was made, the target's or of a live source its own: what has expired by
    /// then is not written.
    pub now: u64,
}

impl FileSpec {
    /// The snapshot of a source that is named so.
    pub(crate) fn snapshot(source: &str, database: u32, now: u64) -> Self {
        Self {
            input: Input::Snapshot,
            name: format!("the snapshot of {source}"),
            stamp: None,
            database: database.into(),
            ignores_checksum: false,
            now,
        }
    }

    fn is_snapshot(&self) -> bool {
        self.input == Input::Snapshot
    }
}
