//! Counters that the engine adds to and anybody reads: atomics on one side, one snapshot on the other.
//!
//! Invariant: an outcome is added after its key was counted as scanned, and a snapshot reads the outcomes
//! first: so what is settled never exceeds what was scanned.

use std::sync::atomic::{AtomicU64, Ordering};

/// How a key ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Written to the target by this job.
    Migrated,
    /// The target had the same value already.
    Unchanged,
    /// The target had a value, and the policy is to leave it.
    Skipped,
    /// Its TTL passed on the way.
    Expired,
    /// It was gone before it could be read.
    Vanished,
    /// Its slot stayed unavailable: to be taken up by the next run.
    Pending,
    /// Given up, with a recorded failure.
    Failed,
}

/// How many keys ended how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "each field is an `Outcome` of the same name, described there"
)]
pub struct Counts {
    pub scanned: u64,
    pub migrated: u64,
    pub unchanged: u64,
    pub skipped: u64,
    pub expired: u64,
    pub vanished: u64,
    pub pending: u64,
    pub failed: u64,
    pub bytes: u64,
}

impl Counts {
    /// Count `keys` more keys that ended as `outcome`.
    #[inline]
    pub fn add(&mut self, outcome: Outcome, keys: u64) {
        *match outcome {
            Outcome::Migrated => &mut self.migrated,
            Outcome::Unchanged => &mut self.unchanged,
            Outcome::Skipped => &mut self.skipped,
            Outcome::Expired => &mut self.expired,
            Outcome::Vanished => &mut self.vanished,
            Outcome::Pending => &mut self.pending,
            Outcome::Failed => &mut self.failed,
        } += keys;
    }

    /// Add another count to this one.
    pub fn merge(&mut self, other: &Self) {
        self.scanned += other.scanned;
        self.migrated += other.migrated;
        self.unchanged += other.unchanged;
        self.skipped += other.skipped;
        self.expired += other.expired;
        self.vanished += other.vanished;
        self.pending += other.pending;
        self.failed += other.failed;
        self.bytes += other.bytes;
    }

    /// How many keys have an outcome.
    pub fn settled(&self) -> u64 {
        self.migrated
            + self.unchanged
            + self.skipped
            + self.expired
            + self.vanished
            + self.pending
            + self.failed
    }
}

/// Why a command is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// The slot or its node served nothing at that time.
    Unavailable,
    /// The node took no more writes.
    Full,
    /// A connection was lost before its reply had come.
    ConnectionLost,
}

impl RetryReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Unavailable, Self::Full, Self::ConnectionLost];

    /// What it is called in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Full => "full",
            Self::ConnectionLost => "connection_lost",
        }
    }
}

/// The live counters of one job.
#[derive(Debug, Default)]
pub struct Progress {
    scanned: AtomicU64,
    outcomes: [AtomicU64; 7],
    bytes: AtomicU64,
    /// MOVED redirects followed.
    pub moved: AtomicU64,
    /// ASK redirects followed.
    pub ask: AtomicU64,
    retries: [AtomicU64; RetryReason::ALL.len()],
    /// Bytes of keys and payloads held.
    pub buffered: AtomicU64,
    /// CPU time of the engine's thread in microseconds.
    pub cpu_micros: AtomicU64,
}

impl Progress {
    /// Count `keys` keys as scanned.
    pub fn scan(&self, keys: u64) {
        self.scanned.fetch_add(keys, Ordering::Release);
    }

    /// Count `keys` keys that ended as `outcome`, with `bytes` of payloads written.
    pub fn settle(&self, outcome: Outcome, keys: u64, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.outcomes[outcome as usize].fetch_add(keys, Ordering::Release);
    }

    /// Count a MOVED that was followed.
    pub fn add_moved(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// Count an ASK that was followed.
    pub fn add_ask(&self) {
        self.ask.fetch_add(1, Ordering::Relaxed);
    }

    /// Count commands that are sent again.
    pub fn add_retries(&self, reason: RetryReason, commands: u64) {
        self.retries[reason as usize].fetch_add(commands, Ordering::Relaxed);
    }

    /// How many commands were sent again for this reason.
    pub fn retries(&self, reason: RetryReason) -> u64 {
        self.retries[reason as usize].load(Ordering::Relaxed)
    }

    /// All counts at one instant.
    pub fn counts(&self) -> Counts {
        let [migrated, unchanged, skipped, expired, vanished, pending, failed] =
            [0, 1, 2, 3, 4, 5, 6].map(|outcome: usize| self.outcomes[outcome].load(Ordering::Acquire));
        Counts {
            migrated,
            unchanged,
            skipped,
            expired,
            vanished,
            pending,
            failed,
            bytes: self.bytes.load(Ordering::Relaxed),
            scanned: self.scanned.load(Ordering::Acquire),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_own_count() {
        let progress = Progress::default();
        let mut counts = Counts::default();
        for (number, outcome) in [
            Outcome::Migrated,
            Outcome::Unchanged,
            Outcome::Skipped,
            Outcome::Expired,
            Outcome::Vanished,
            Outcome::Pending,
            Outcome::Failed,
        ]
        .into_iter()
        .enumerate()
        {
            let keys = 1 << number;
            progress.scan(keys);
            progress.settle(outcome, keys, 0);
            counts.add(outcome, keys);
            counts.scanned += keys;
        }
        assert_eq!(progress.counts(), counts);
        assert_eq!(counts.settled(), counts.scanned);
    }
}
