//! Several jobs that do one work side by side, as one: what they are at one instant.
//!
//! Invariant: figures are sums; a job that has finished hides no other's state.

use std::collections::BTreeMap;

use crate::job::control::State;
use crate::job::supervisor::Snapshot;

impl Snapshot {
    /// One snapshot of several jobs; none of no job.
    pub fn merged(parts: Vec<Self>) -> Option<Self> {
        let mut by_primary: BTreeMap<String, u64> = BTreeMap::new();
        for (node, keys) in parts.iter().flat_map(|part| &part.keys_by_primary) {
            *by_primary.entry(node.clone()).or_default() += keys;
        }
        let mut parts = parts.into_iter();
        let mut all = parts.next()?;
        for part in parts {
            if all.reason.is_empty() || part.state == State::Paused {
                all.reason = part.reason;
            }
            if rank(part.state) > rank(all.state) {
                all.state = part.state;
            }
            all.counts.merge(&part.counts);
            all.moved += part.moved;
            all.ask += part.ask;
            for (total, more) in all.retries.iter_mut().zip(part.retries) {
                total.1 += more.1;
            }
            all.buffered_bytes += part.buffered_bytes;
            all.engine_cpu += part.engine_cpu;
        }
        all.keys_by_primary = by_primary.into_iter().collect();
        Some(all)
    }
}

/// Of several states, the one that ranks first is told.
fn rank(state: State) -> u8 {
    match state {
        State::Finished => 0,
        State::Connecting => 1,
        State::Waiting => 2,
        State::Running => 3,
        State::Paused => 4,
        State::Draining => 5,
    }
}
