//! What each process knows of the cluster.

use super::network::Place;
use routing::{AddressVersion, Member, NodeId, RouteTable, ShardMap};
use std::collections::BTreeMap;

/// What every process knows of the cluster, and the newest version there is.
pub(crate) struct RouteTables {
    first: RouteTable,
    pub known: BTreeMap<Place, RouteTable>,
    pub newest: u64,
}

impl RouteTables {
    /// All processes begin with this map.
    pub(crate) fn new(map: ShardMap, nodes: &[NodeId]) -> RouteTables {
        let newest = map.version().0;
        let member = |node: &NodeId| {
            let address = format!("127.0.0.1:{}", 7_000 + node.0);
            (*node, Member { address, address_version: AddressVersion::default(), zone: None })
        };
        let first = RouteTable::new(map, nodes.iter().map(member)).expect("every node is a member");
        RouteTables { first, known: BTreeMap::new(), newest }
    }

    pub(crate) fn of(&self, place: Place) -> &RouteTable {
        self.known.get(&place).unwrap_or(&self.first)
    }

    pub(crate) fn version_at(&self, place: Place) -> u64 {
        self.of(place).map().version().0
    }

    /// A process that starts anew knows what all begin with.
    pub(crate) fn forget(&mut self, place: Place) {
        self.known.remove(&place);
    }
}
