//! The shape of a run: how many nodes there are, which of them found the groups, and by whose order
//! members move.

use super::state::members::MovedBy;
use crate::rng::Rng;
use routing::NodeId;

/// * The nodes with the highest ids are not `listed` in the cluster file. They may join.
pub(crate) struct Shape {
    pub moved_by: MovedBy,
    /// The nodes of the cluster file.
    pub listed: u64,
    /// All nodes that there can be.
    pub nodes: u64,
    /// The nodes that every group is bootstrapped on.
    pub founders: Vec<NodeId>,
}

impl Shape {
    pub(crate) fn choose(rng: &mut Rng) -> Shape {
        let founders = if rng.percent(55) { 3 } else { 5 };
        let moved_by = match rng.below(100) {
            0..35 => MovedBy::Nobody,
            35..68 => MovedBy::World,
            _ => MovedBy::Topology,
        };
        // Where members move, three nodes or all five found the groups.
        let (listed, nodes) = match moved_by {
            MovedBy::Nobody => (founders, founders),
            MovedBy::World => (5, 5),
            MovedBy::Topology => {
                let listed = if rng.percent(30) { founders } else { 5 };
                (listed, if listed == 3 { 6 } else { listed + rng.range(1, 2) })
            }
        };
        Shape { moved_by, listed, nodes, founders: (1..=founders).map(NodeId).collect() }
    }
}
