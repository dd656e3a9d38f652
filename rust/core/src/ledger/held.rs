//! What waits for a barrier before it may be recorded.
//!
//! Invariant: only what was there when a barrier began is confirmed by it; what one could not confirm waits for
//! the next.

use crate::ledger::checkpoint::Checkpoint;

/// Books that wait for a barrier.
#[derive(Debug)]
pub(crate) struct Held {
    /// What the barrier under way is to confirm.
    candidate: Checkpoint,
    /// What may be recorded.
    confirmed: Checkpoint,
}

impl Held {
    /// Where the job starts needs no barrier.
    pub fn new(start: Checkpoint) -> Self {
        Self {
            candidate: start.clone(),
            confirmed: start,
        }
    }

    /// The next barrier is to confirm this too; returns whether it has anything to confirm.
    pub fn add(&mut self, fresh: Checkpoint) -> bool {
        self.candidate.add(fresh);
        !self.is_confirmed()
    }

    /// The barrier holds.
    pub fn confirm(&mut self) {
        let rest = self.candidate.without_keys();
        self.confirmed.add(std::mem::replace(&mut self.candidate, rest));
    }

    pub fn is_confirmed(&self) -> bool {
        let Self { candidate, confirmed } = self;
        candidate.marks == confirmed.marks
            && candidate.counts == confirmed.counts
            && candidate.follow == confirmed.follow
            && candidate.has_no_keys()
    }

    pub fn confirmed(&self) -> &Checkpoint {
        &self.confirmed
    }

    /// Take what may be recorded; marks and counts stay known.
    pub fn take_confirmed(&mut self) -> Checkpoint {
        let rest = self.confirmed.without_keys();
        std::mem::replace(&mut self.confirmed, rest)
    }
}
