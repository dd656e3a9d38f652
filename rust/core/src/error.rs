//! What ends a job, or keeps one from starting.
//!
//! Invariant: a message is one sentence that names the node, slot or key, and never a secret; the kind says
//! what the user can do about it.

use std::fmt;

/// What kind of trouble it is, grouped by what helps against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The source could not be reached within the retry limit; a resume can go on.
    SourceLost,
    /// The source answers with another `run_id`: cursors taken from it are void.
    SourceChanged,
    /// The source rejects the connection: credentials, rights, or no RESP.
    SourceRefused,
    /// The source's database was emptied or swapped while it was followed.
    SourceFlushed,
    /// The target could not be reached within the retry limit; a resume can go on.
    TargetLost,
    /// A node of the target may have lost acknowledged writes that no replica had confirmed: the next job
    /// starts at the last checkpoint.
    TargetFailedOver,
    /// An address of the target leads to the source, or to a server that shares the source's data.
    TargetIsSource,
    /// A node of the target answers with another `run_id`: the cursor taken from it is void.
    TargetChanged,
    /// The target takes no writes (OOM, MISCONF) and did not recover within the retry limit.
    TargetFull,
    /// The target rejects the connection: credentials, rights, or one failure for every key.
    TargetRefused,
    /// The job was cancelled.
    Interrupted,
    /// An argument makes no sense.
    Usage,
    /// A bug of ours.
    Internal,
}

impl ErrorKind {
    /// The kind's name as the control plane knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SourceLost => "source_lost",
            Self::SourceChanged => "source_changed",
            Self::SourceRefused => "source_refused",
            Self::SourceFlushed => "source_flushed",
            Self::TargetLost => "target_lost",
            Self::TargetFailedOver => "target_failed_over",
            Self::TargetIsSource => "target_is_source",
            Self::TargetChanged => "target_changed",
            Self::TargetFull => "target_full",
            Self::TargetRefused => "target_refused",
            Self::Interrupted => "interrupted",
            Self::Usage => "usage",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An error of a job: a kind and one sentence.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of trouble it is.
    pub kind: ErrorKind,
    /// One sentence for the user.
    pub message: String,
}

impl Error {
    /// Make an error of `kind` with `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// An argument that makes no sense.
pub(crate) fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}

/// A result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;
