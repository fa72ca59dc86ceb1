//! Raft's id of a replica: its node, and its birth there.
//!
//! A replica that lost its log has forgotten votes and acknowledgements. It comes back under
//! another id, so that they do not count for it (`parts/membership.rs`). The same holds for a
//! replica that was removed with its log and is wanted on its node again. So each life of a replica
//! has a **birth** that no earlier life on its node had:
//!
//! * A replica of the bootstrapped cluster has the incarnation of its node's data directory, which
//!   rises with each re-seed.
//! * A replica that comes to a node later has the birth of the wish that names it
//!   (`parts/group.rs`).
//!
//! Both are one count of 32 bits, so a new one must be above all of either kind. In this crate
//! "incarnation" means either. This knows nothing of how a replica gets its birth.

use routing::NodeId;

/// Raft's id of a replica: the node in the low 32 bits, the birth in the high ones.
///
/// A cluster is bootstrapped with incarnation 0, so its ids are those of its nodes. For example,
/// node 3 is `0x0000_0000_0000_0003` at first and `0x0000_0001_0000_0003` after a re-seed.
pub(crate) fn peer_id(node: NodeId, incarnation: u32) -> u64 {
    assert!(
        node.0 <= u64::from(u32::MAX),
        "node {node} has no peer id: the cluster file allows numbers up to {}",
        u32::MAX
    );
    node.0 | u64::from(incarnation) << 32
}

/// The node of a replica.
pub(crate) fn node_of(peer_id: u64) -> NodeId {
    NodeId(peer_id & u64::from(u32::MAX))
}

/// The birth of a replica: see the head of this module.
pub(crate) fn incarnation_of(peer_id: u64) -> u32 {
    (peer_id >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_which_node_and_which_incarnation() {
        for (node, incarnation, id) in [
            (7, 0, 7),
            (7, 1, 7 | 1 << 32),
            (u64::from(u32::MAX), u32::MAX, u64::MAX),
            (1, 1_767_225_600, 1_767_225_600 << 32 | 1),
        ] {
            assert_eq!(peer_id(NodeId(node), incarnation), id);
            assert_eq!((node_of(id), incarnation_of(id)), (NodeId(node), incarnation));
        }
    }
}
