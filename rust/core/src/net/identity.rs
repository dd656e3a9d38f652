//! Which server it is that answers at an address, by what it says of itself.
//!
//! Invariant: an address is never taken for an identity: it may be announced wrongly, translated, or taken over by
//! another server. What tells servers apart: `run_id` (a process), `master_replid` (a history of data, which a
//! primary shares with its replicas), and the ids of the nodes that a node knows (a cluster). Sources: INFO, CLUSTER
//! SLOTS (Redis Cluster specification).

use std::collections::HashSet;

use crate::resp::Tree;

/// How much a server is asked of itself when a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Nothing.
    Nothing,
    /// Which process it is.
    Process,
    /// Which process, which history of data, and which cluster.
    Node,
}

/// What a server says of itself, as far as it was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The process; empty where it does not tell.
    pub run_id: String,
    /// The history of data: a primary and its replicas have one in common. Empty where it does not tell.
    pub replication_id: String,
    /// Whether it runs as a node of a cluster.
    pub is_cluster_node: bool,
    /// The ids of the nodes that serve slots as it knows, replicas included.
    pub known_nodes: HashSet<String>,
}

impl Identity {
    /// Take over what a section of INFO says.
    pub(crate) fn take_info(&mut self, text: &[u8]) {
        for line in String::from_utf8_lossy(text).lines() {
            match line.split_once(':') {
                Some(("run_id", value)) => value.trim().clone_into(&mut self.run_id),
                Some(("master_replid", value)) => value.trim().clone_into(&mut self.replication_id),
                Some(("redis_mode" | "server_mode", value)) => {
                    self.is_cluster_node |= value.trim() == "cluster";
                }
                _ => {}
            }
        }
    }

    /// Take over the ids of a CLUSTER SLOTS reply: `[first, last, [host, port, id, …], …]` a range.
    pub(crate) fn take_slots(&mut self, ranges: &[Tree]) {
        for node in ranges.iter().flat_map(|range| range.elements().iter().skip(2)) {
            let id = node.elements().get(2).and_then(Tree::text);
            if let Some(id) = id.and_then(|id| std::str::from_utf8(id).ok())
                && !self.known_nodes.contains(id)
            {
                self.known_nodes.insert(id.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_info_and_cluster_slots_say() {
        let mut identity = Identity::default();
        identity.take_info(b"# Server\r\nredis_version:7.0.15\r\nredis_mode:cluster\r\nrun_id:abc\r\n");
        identity.take_info(b"# Replication\r\nrole:master\r\nmaster_replid:def\r\nmaster_replid2:000\r\n");
        let text = |text: &str| Tree::Text(text.as_bytes().to_vec());
        let node = |id: &str| {
            Tree::Array(vec![
                text("h"),
                Tree::Integer(1),
                text(id),
                Tree::Array(Vec::new()),
            ])
        };
        let range =
            |nodes: Vec<Tree>| Tree::Array([vec![Tree::Integer(0), Tree::Integer(1)], nodes].concat());
        identity.take_slots(&[
            range(vec![node("one"), node("two")]),
            range(vec![node("one")]),
            Tree::Nil,
        ]);
        let nodes = ["one".to_owned(), "two".to_owned()];
        assert_eq!(identity.known_nodes, HashSet::from(nodes));
        assert!(identity.is_cluster_node);
        assert_eq!(
            (identity.run_id.as_str(), identity.replication_id.as_str()),
            ("abc", "def")
        );
    }
}
