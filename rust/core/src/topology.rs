//! Slot → primary.
//!
//! Invariant: a node keeps its number for the whole job; MOVED is applied at once, the control plane's
//! topology replaces the map whole.

use crate::error::{Error, ErrorKind, Result};
use crate::net::Address;
use crate::slot::SLOTS;

/// A node's number within one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u16);

impl NodeId {
    /// The number as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A run of slots and its primary: first slot, last slot, address.
pub type SlotRange = (u16, u16, Address);

/// Who owns each slot.
#[derive(Debug)]
pub struct Topology {
    owners: Box<[Option<NodeId>]>,
    nodes: Vec<Address>,
}

impl Topology {
    /// Build the map from ranges. A slot that no range covers has no owner.
    pub fn new(ranges: &[SlotRange]) -> Result<Self> {
        let mut topology = Self {
            owners: vec![None; usize::from(SLOTS)].into_boxed_slice(),
            nodes: Vec::new(),
        };
        topology.replace(ranges)?;
        Ok(topology)
    }

    /// Replace the map whole; nodes that were known keep their numbers. On an error nothing is changed.
    pub fn replace(&mut self, ranges: &[SlotRange]) -> Result<()> {
        check(ranges)?;
        self.owners.fill(None);
        for (first, last, address) in ranges {
            let node = self.node(address)?;
            self.owners[usize::from(*first)..=usize::from(*last)].fill(Some(node));
        }
        Ok(())
    }

    /// Apply a MOVED.
    pub fn patch(&mut self, slot: u16, address: &Address) -> Result<NodeId> {
        let node = self.node(address)?;
        self.owners[usize::from(slot)] = Some(node);
        Ok(node)
    }

    /// The number of the node at `address`, a new one if it was not known.
    pub fn node(&mut self, address: &Address) -> Result<NodeId> {
        if let Some(known) = self.find(address) {
            return Ok(known);
        }
        let number = u16::try_from(self.nodes.len()).map_err(|_| {
            Error::new(
                ErrorKind::TargetRefused,
                "the target names more than 65,536 nodes",
            )
        })?;
        self.nodes.push(address.clone());
        Ok(NodeId(number))
    }

    /// The number of the node at `address`, if it is known.
    pub fn find(&self, address: &Address) -> Option<NodeId> {
        let known = self.nodes.iter().position(|node| node == address)?;
        Some(NodeId(known as u16))
    }

    /// The slot's primary, if it has one.
    #[inline]
    pub fn owner(&self, slot: u16) -> Option<NodeId> {
        self.owners[usize::from(slot)]
    }

    /// Whether the node owns any slot.
    pub fn owns_any(&self, node: NodeId) -> bool {
        self.owners.contains(&Some(node))
    }

    /// Where the node is.
    pub fn address(&self, node: NodeId) -> &Address {
        &self.nodes[node.index()]
    }
}

/// Check the ranges before anything is changed by them.
pub fn check(ranges: &[SlotRange]) -> Result<()> {
    for (first, last, address) in ranges {
        if first > last || *last >= SLOTS {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "the slot range {first}-{last} of {address} is not within 0-{}",
                    SLOTS - 1
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address::tcp("127.0.0.1".to_owned(), port)
    }

    #[test]
    fn nodes_keep_their_numbers() {
        let mut topology = Topology::new(&[(0, 8191, at(1)), (8192, 16383, at(2))]).expect("valid");
        let two = topology.owner(16383).expect("owned");
        topology.replace(&[(0, 16383, at(2))]).expect("valid");
        assert_eq!(topology.owner(0), Some(two));
        assert_eq!(topology.address(two), &at(2));
    }

    #[test]
    fn moved_changes_one_slot() {
        let mut topology = Topology::new(&[(0, 16383, at(1))]).expect("valid");
        let three = topology.patch(7, &at(3)).expect("few nodes");
        assert_eq!(topology.owner(7), Some(three));
        assert_ne!(topology.owner(8), Some(three));
        assert!(topology.owns_any(three));
    }

    #[test]
    fn a_bad_range_changes_nothing() {
        let mut topology = Topology::new(&[(0, 16383, at(1))]).expect("valid");
        assert!(topology.replace(&[(0, 1, at(2)), (5, 16384, at(2))]).is_err());
        assert_eq!(topology.address(topology.owner(0).expect("owned")), &at(1));
    }
}
