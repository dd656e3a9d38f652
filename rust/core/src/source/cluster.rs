//! A source that is a node of a cluster: it answers for its slots alone, and slots may leave it.
//!
//! Invariant: a key is never taken for gone because its slot is another node's by now, or on its way there. It is left
//! pending, to be read by name from whoever owns the slot then.

use crate::ledger::books::PageId;
use crate::ledger::unsettled::Pending;
use crate::reply::{is_elsewhere, why_elsewhere};
use crate::slot::{SLOTS, key_slot};
use crate::source::reader::SourceReader;

/// What the engine has to know of such a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterNode {
    /// Its SCAN goes from slot to slot, and its cursors name them (Redis from 7.4 on, Valkey from 8 on).
    pub scans_by_slot: bool,
    /// Only keys of these slots are taken; none: all that it brings.
    pub only: Option<SlotSet>,
}

/// A set of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotSet(Vec<bool>);

impl SlotSet {
    /// The slots of these ranges; what is no slot is left out.
    pub fn new(ranges: &[(u16, u16)]) -> Self {
        let mut slots = vec![false; usize::from(SLOTS)];
        for &(first, last) in ranges {
            let end = usize::from(last.min(SLOTS - 1)) + 1;
            slots[usize::from(first).min(end)..end].fill(true);
        }
        Self(slots)
    }

    /// Whether the slot of this key is one of them.
    pub fn has(&self, key: &[u8]) -> bool {
        self.0[usize::from(key_slot(key))]
    }
}

impl SourceReader {
    /// Whether this error is a redirect of a cluster that the source belongs to.
    #[cold]
    pub(crate) fn is_redirect(&self, error: &[u8]) -> bool {
        self.engine.spec.source_cluster.is_some() && is_elsewhere(error)
    }

    /// A key is left to whoever owns its slot.
    #[cold]
    pub(crate) fn leave_to_owner(&self, page: PageId, key: &[u8], slot: u16, error: &[u8]) {
        let reason = why_elsewhere(error);
        let key = key.to_vec();
        self.engine.park(page, Pending { key, slot, reason });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_slots() {
        let set = SlotSet::new(&[(0, 1), (12_182, 12_182), (16_383, u16::MAX), (20_000, 30_000)]);
        assert!(set.has(b"foo"), "slot 12182");
        assert!(!set.has(b"bar"), "slot 5061");
        assert_eq!(set.0.iter().filter(|&&slot| slot).count(), 4);
    }
}
