//! What may be recorded as done, as it is handed over: marks, counts, and keys that did not end well.
//!
//! Invariant: a later checkpoint is added to an earlier one without anything of either being lost.

use std::sync::Arc;

use crate::ledger::position::Position;
use crate::ledger::progress::Counts;
use crate::ledger::unsettled::{Failure, FailureKind, Pending};

/// How far a partition is accounted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The partition's index.
    pub index: u32,
    /// Where SCAN goes on.
    pub cursor: u64,
    /// Whether the whole partition is done.
    pub done: bool,
}

/// How far a source is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowMark {
    /// Everything before it is written.
    pub position: Position,
    /// Whether that holds only once a comparison has settled what is not known.
    pub in_doubt: bool,
    /// Keys of which it does not hold, or holds for a reason, which is behind them: they are recorded among the
    /// positions of large keys.
    pub apart: Arc<[(Vec<u8>, String)]>,
}

/// All that may be recorded as done, taken at one instant.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// A mark for each partition.
    pub marks: Vec<Mark>,
    /// Cumulative counts of the pages below the marks.
    pub counts: Counts,
    /// Failures since the last checkpoint.
    pub failures: Vec<Failure>,
    /// Pending keys since the last checkpoint.
    pub pending: Vec<Pending>,
    /// What was given up of keys that are written, since the last checkpoint; of no page, and so perhaps twice.
    pub notes: Vec<Failure>,
    /// How far keys are copied in parts that are not settled: the whole list each time.
    pub big_positions: Vec<(Vec<u8>, String)>,
    /// Keys that were handed over by name and are settled since the last checkpoint.
    pub resolved: Vec<Vec<u8>>,
    /// How far the source is followed, where it is.
    pub follow: Option<FollowMark>,
}

impl Checkpoint {
    /// Take over a later one: its marks and counts stand, its lists come behind ours.
    pub(crate) fn add(&mut self, later: Self) {
        self.marks = later.marks;
        self.counts = later.counts;
        let is_resolved = |failure: &Failure| later.resolved.contains(&failure.key);
        self.failures
            .retain(|failure| failure.kind != FailureKind::Collision || !is_resolved(failure));
        self.failures.extend(later.failures);
        self.pending.extend(later.pending);
        self.notes.extend(later.notes);
        self.resolved.extend(later.resolved);
        self.follow = later.follow;
    }

    /// Bytes of the failures, notes and pending keys.
    pub(crate) fn weight(&self) -> usize {
        let failures = self.failures.iter().chain(&self.notes).map(Failure::weight);
        failures.chain(self.pending.iter().map(Pending::weight)).sum()
    }

    /// Its marks, counts and place in the source's stream alone.
    pub(crate) fn without_keys(&self) -> Self {
        Self {
            marks: self.marks.clone(),
            counts: self.counts,
            follow: self.follow.clone(),
            ..Self::default()
        }
    }

    pub(crate) fn has_no_keys(&self) -> bool {
        self.failures.is_empty() && self.pending.is_empty() && self.resolved.is_empty()
    }
}
