//! The route table: the shard map and the addresses of all nodes, as one process knows them.
//!
//! Processes learn of the cluster from their own files and from each other, in any order. So each
//! part of a route table has a version, and a part is replaced only by a newer one:
//!
//! ```text
//! part                             version                           set by
//! map, set of nodes, their zones   edition of the map                each new map or topology
//! address of a node                the node's incarnation and start  the node itself
//! ```
//!
//! The module knows nothing of the way by which reports travel.

use crate::address::Address;
use crate::config::{ClusterConfig, NODE_ID_MAX, NodeConfig};
use crate::ids::{NodeId, ShardId};
use crate::map::{MapError, Replicas, ShardMap};
use crate::planted_bugs;
use std::collections::BTreeMap;

/// The longest address of a node, in bytes.
const ADDRESS_BYTES_MAX: usize = 300;

/// The cluster as one process knows it: slots, shards, members, addresses.
///
/// - Every node with a replica is a member.
/// - A merge never takes an older part, so the order of reports does not matter.
/// - Two route tables with the same version of a part have the same part. The exception is the lowest
///   version of an address, which is that of a cluster file. It never replaces another address.
///
/// ```
/// use palisade_routing::{AddressVersion, ClusterConfig, NodeId, RouteTable};
///
/// let known = RouteTable::of(&ClusterConfig::dev(4, 3, 7400).unwrap());
/// let second_start = AddressVersion { incarnation: 0, starts: 2 };
/// let moved = known.with_address(NodeId(2), "10.0.0.9:7400", second_start).unwrap();
///
/// let merged = known.merged(&moved).unwrap();
/// assert_eq!(merged.address(NodeId(2)), Some("10.0.0.9:7400"));
/// assert!(merged.merged(&known).is_none(), "a cluster file is older than any report");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTable {
    map: ShardMap,
    members: BTreeMap<NodeId, Member>,
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `host:port` at which other processes dial the node.
    pub address: String,
    /// The version of `address`.
    pub address_version: AddressVersion,
    /// Failure zone. A node without one is a zone of its own.
    pub zone: Option<String>,
}

impl From<&NodeConfig> for Member {
    /// As a cluster file has it.
    fn from(node: &NodeConfig) -> Member {
        Member {
            address: node.address.clone(),
            address_version: AddressVersion::default(),
            zone: node.zone.clone(),
        }
    }
}

/// The version of a node's address: the start of the node that announced it.
///
/// A node listens at one address from start to end, and each start has a higher version than the
/// one before. A re-seeded node counts its starts from 1 again, so its incarnation decides first.
/// The default is the version of an address from a cluster file. No start has it, because starts
/// are counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressVersion {
    /// The incarnation of the node's data directory.
    pub incarnation: u64,
    /// The number of starts of the data directory, with the one that announced the address.
    pub starts: u64,
}

/// The reason why values from outside make no route table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteTableError {
    /// The slots and shards make no map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A replica is on a node that is no member.
    #[error("shard {shard} has a replica on node {node}, which is no member")]
    UnknownNode {
        /// The shard of the replica.
        shard: ShardId,
        /// The node.
        node: NodeId,
    },
    /// A member's id cannot be a node's.
    #[error("a member has id {0}: the ids of nodes are 1 to {NODE_ID_MAX}")]
    NodeId(NodeId),
    /// Two members have one id.
    #[error("node {0} is a member twice")]
    TwoMembers(NodeId),
    /// A member has an address that cannot be dialled.
    #[error("node {0} has an address that cannot be dialled")]
    Address(NodeId),
}

impl RouteTable {
    /// The route table that a cluster file describes. The configuration must have been validated.
    pub fn of(config: &ClusterConfig) -> RouteTable {
        let members = config.nodes.iter().map(|node| (node.id, Member::from(node))).collect();
        RouteTable { map: config.shard_map(), members }
    }

    /// A route table from parts that came from outside.
    ///
    /// # Errors
    /// [`RouteTableError`] if the parts do not fit each other.
    pub fn new(
        map: ShardMap,
        listed: impl IntoIterator<Item = (NodeId, Member)>,
    ) -> Result<RouteTable, RouteTableError> {
        let mut members = BTreeMap::new();
        for (node, member) in listed {
            if !(1..=NODE_ID_MAX).contains(&node.0) {
                return Err(RouteTableError::NodeId(node));
            }
            if !can_be_dialled(&member.address) {
                return Err(RouteTableError::Address(node));
            }
            if members.insert(node, member).is_some() {
                return Err(RouteTableError::TwoMembers(node));
            }
        }
        check_nodes(&map, &members)?;
        Ok(RouteTable { map, members })
    }

    /// The map from slots to shards to replicas.
    pub fn map(&self) -> &ShardMap {
        &self.map
    }

    /// The address of a node; `None` if it is no member.
    pub fn address(&self, node: NodeId) -> Option<&str> {
        self.members.get(&node).map(|member| member.address.as_str())
    }

    /// All nodes, by id.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.members.iter().map(|(node, member)| (*node, member))
    }

    /// This route table with the newer parts of another one. Returns `None` if no part is newer.
    ///
    /// The map is taken as a whole, with the nodes and their zones. Of a node that both have, the
    /// address with the higher version is taken, from either side.
    pub fn merged(&self, news: &RouteTable) -> Option<RouteTable> {
        let is_newer = planted_bugs::is_newer(news.map.edition(), self.map.edition());
        let (base, other) = if is_newer { (news, self) } else { (self, news) };
        let mut merged = base.clone();
        let mut changed = is_newer;
        for (node, told) in &other.members {
            let Some(member) = merged.members.get_mut(node) else { continue };
            if planted_bugs::is_newer(told.address_version, member.address_version) {
                member.address.clone_from(&told.address);
                member.address_version = told.address_version;
                changed = true;
            }
        }
        changed.then_some(merged)
    }

    /// This route table with the address that a node announced. Returns `None` if the version is not
    /// newer, the node is no member, or the address cannot be dialled.
    pub fn with_address(
        &self,
        node: NodeId,
        address: &str,
        version: AddressVersion,
    ) -> Option<RouteTable> {
        let known = self.members.get(&node)?.address_version;
        if !planted_bugs::is_newer(version, known) || !can_be_dialled(address) {
            return None;
        }
        let mut with = self.clone();
        let member = with.members.get_mut(&node)?;
        member.address = address.to_owned();
        member.address_version = version;
        Some(with)
    }

    /// This route table with these nodes as well. A node that is a member already stays as it is.
    #[must_use]
    pub fn with_nodes(mut self, nodes: impl IntoIterator<Item = (NodeId, Member)>) -> RouteTable {
        for (node, member) in nodes {
            self.members.entry(node).or_insert(member);
        }
        self
    }

    /// This route table with the nodes and replicas of a version of the topology. Of a node that both
    /// have, the address with the higher version is taken. Returns `None` if nothing of it is newer.
    ///
    /// # Errors
    /// [`RouteTableError`] if the parts do not fit each other. A topology may have an address that
    /// cannot be dialled, as a cluster file may.
    pub fn as_of(
        &self,
        topology: u64,
        shards: impl IntoIterator<Item = (ShardId, Replicas)>,
        nodes: impl IntoIterator<Item = (NodeId, Member)>,
    ) -> Result<Option<RouteTable>, RouteTableError> {
        let mut map = self.map.clone().placed(topology, shards)?;
        let members: BTreeMap<NodeId, Member> = nodes.into_iter().collect();
        check_nodes(&map, &members)?;
        // Most changes of a topology move nothing. They make no new edition, which all would fetch.
        let zones = |members: &BTreeMap<NodeId, Member>| -> Vec<(NodeId, Option<String>)> {
            members.iter().map(|(node, member)| (*node, member.zone.clone())).collect()
        };
        if map.shards().eq(self.map.shards()) && zones(&members) == zones(&self.members) {
            map = self.map.clone();
        }
        Ok(self.merged(&RouteTable { map, members }))
    }

    /// This route table with another map, for the same nodes.
    ///
    /// # Errors
    /// [`RouteTableError::UnknownNode`] if the map has a replica on a node that is no member.
    pub fn with_map(&self, map: ShardMap) -> Result<RouteTable, RouteTableError> {
        RouteTable::new(map, self.members.clone())
    }
}

/// Whether every node with a replica is a member.
fn check_nodes(map: &ShardMap, members: &BTreeMap<NodeId, Member>) -> Result<(), RouteTableError> {
    for (shard, replicas) in map.shards() {
        if let Some(node) = replicas.nodes.iter().find(|node| !members.contains_key(node)) {
            return Err(RouteTableError::UnknownNode { shard, node: *node });
        }
    }
    Ok(())
}

/// Whether other processes can dial this address: it is `host:port`, and does not stand for every
/// address of a machine.
fn can_be_dialled(address: &str) -> bool {
    address.len() <= ADDRESS_BYTES_MAX
        && address.parse::<Address>().is_ok_and(|address| !address.is_unspecified())
}
