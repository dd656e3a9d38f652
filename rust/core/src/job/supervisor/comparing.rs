//! What a job that follows is asked by who compares both sides.
//!
//! Invariant: an answer is the engine's own, of a moment behind the question.

use std::sync::mpsc;
use std::time::Duration;

use super::{COMMAND_PATIENCE, Job};
use crate::error::{Error, ErrorKind, Result};
use crate::job::control::{Command, Doubts};

/// Whether large keys are compared ahead is asked again and again.
const AHEAD_PATIENCE: Duration = Duration::from_secs(1);

impl Job {
    /// A comparison begins: what it has to look at. Fails with `Usage` when no stream is followed.
    pub fn begin_comparison(&self) -> Result<Doubts> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.shared.command(Command::BeginComparison(sender));
        receiver
            .recv_timeout(COMMAND_PATIENCE)
            .map_err(|_| Error::new(ErrorKind::Usage, "the job follows no source now"))
    }

    /// Compare large keys that are followed by their elements while writes flow, from now on; how many are not compared
    /// yet, or none where no stream is followed.
    pub fn compare_ahead(&self) -> usize {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.shared.command(Command::CompareAhead(sender));
        receiver.recv_timeout(AHEAD_PATIENCE).unwrap_or_default()
    }

    /// Writes are stopped, and all is clean: the keys that are proven to be equal, of those that were compared ahead; none
    /// if that takes longer than `timeout`. No key is compared ahead any more.
    pub fn compare_at_fence(&self, timeout: Duration) -> Vec<Vec<u8>> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.shared.command(Command::CompareAtFence(sender));
        receiver.recv_timeout(timeout).unwrap_or_default()
    }

    /// The comparison is over, and these keys of the source differ.
    pub fn end_comparison(&self, differing: Vec<Vec<u8>>) {
        self.shared.command(Command::EndComparison(differing));
    }
}
