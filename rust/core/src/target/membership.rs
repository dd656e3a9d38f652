//! Who is written to: a node of the target's cluster, and never the source.
//!
//! Invariant: at an address of the target a server gets a login and questions, and nothing else before it has shown by
//! its identity that it is a node of the target's cluster and neither the source nor a server that shares the source's
//! data, whoever named the address (CLUSTER SLOTS, MOVED, ASK).

use crate::error::ErrorKind;
use crate::event::Side;
use crate::job::engine::Engine;
use crate::net;
use crate::net::{Address, Connection, HandshakeError, Identity, Question};

/// Why a server is not written to.
#[derive(Debug, PartialEq, Eq)]
enum Mismatch {
    /// It is the source.
    Source,
    /// Source and it have one history of data: one is the other's replica.
    SourceData,
    /// It is no node of a cluster.
    NoNode,
    /// It is a node of another cluster.
    OtherCluster,
}

impl Engine {
    /// Open a connection to a node of the target. A server that is none is lost as a node that does not answer is: a
    /// fresh topology may name another. One that is the source ends the job.
    pub async fn open_target(&self, address: &Address) -> Result<(Connection, Identity), HandshakeError> {
        let access = self.login(Side::Target).current();
        let (connection, found) = net::open(address, &access, Question::Node).await?;
        let spec = &self.spec;
        let source = (spec.source_run_id.as_str(), spec.source_replication_id.as_str());
        let what = match mismatch(&found, source, &self.target_nodes.borrow()) {
            None => return Ok((connection, found)),
            Some(Mismatch::Source) => "is the source itself",
            Some(Mismatch::SourceData) => "shares its data with the source (one is a replica of the other)",
            Some(Mismatch::NoNode) => return Err(lost("the server is not a node of a cluster")),
            Some(Mismatch::OtherCluster) => return Err(lost("the server belongs to another cluster")),
        };
        self.stop(
            ErrorKind::TargetIsSource,
            format!("the target's node {address} {what}: it was not written to"),
        );
        Err(lost(&format!("the server {what}")))
    }
}

fn lost(what: &str) -> HandshakeError {
    HandshakeError::Lost(what.to_owned())
}

/// Compare a server with the source (its `run_id` and replication id) and with the nodes of the target's cluster, as
/// far as these are known.
fn mismatch(found: &Identity, source: (&str, &str), nodes: &[String]) -> Option<Mismatch> {
    let same = |one: &str, other: &str| !one.is_empty() && one == other;
    if same(&found.run_id, source.0) {
        Some(Mismatch::Source)
    } else if same(&found.replication_id, source.1) {
        Some(Mismatch::SourceData)
    } else if !found.is_cluster_node {
        Some(Mismatch::NoNode)
    } else if !nodes.is_empty() && !found.known_nodes.iter().any(|node| nodes.contains(node)) {
        Some(Mismatch::OtherCluster)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(run_id: &str, replication_id: &str, known: &[&str]) -> Identity {
        Identity {
            run_id: run_id.to_owned(),
            replication_id: replication_id.to_owned(),
            is_cluster_node: true,
            known_nodes: known.iter().map(|&id| id.to_owned()).collect(),
        }
    }

    #[test]
    fn only_a_node_of_the_cluster_is_written_to() {
        let members = ["a".to_owned(), "b".to_owned()];
        let judged = |found: &Identity| mismatch(found, ("source", "history"), &members);
        assert_eq!(judged(&node("other", "h", &["b", "c"])), None);
        assert_eq!(judged(&node("source", "h", &["a"])), Some(Mismatch::Source));
        assert_eq!(
            judged(&node("other", "history", &["a"])),
            Some(Mismatch::SourceData)
        );
        assert_eq!(judged(&node("other", "h", &["c"])), Some(Mismatch::OtherCluster));
        assert_eq!(judged(&node("other", "h", &[])), Some(Mismatch::OtherCluster));
        let standalone = Identity {
            is_cluster_node: false,
            ..node("other", "h", &["a"])
        };
        assert_eq!(judged(&standalone), Some(Mismatch::NoNode));
    }

    #[test]
    fn what_is_not_known_is_not_compared() {
        assert_eq!(mismatch(&node("", "", &[]), ("", ""), &[]), None);
    }
}
