//! Tests of the topology: each rule by itself, and random commands in a model world.

mod again;
mod apply;
mod facts;
mod leaders;
mod members;
mod preview;
mod random;
mod rebuild;
mod records;
mod rest;
mod world;

use palisade_topology::*;
use routing::{AddressVersion, ClusterConfig, NodeId, ShardId};

/// A wall time, in seconds.
pub(crate) const NOW_S: u64 = 1_700_000_000;

/// A linear congruential generator: the same seed gives the same test.
pub(crate) struct Lcg(pub(crate) u64);

impl Lcg {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len() as u64) as usize]) }
    }
}

/// A cluster with this many nodes, in zones that take turns if there are any.
pub(crate) fn cluster(nodes: u64, shards: u32, replicas: u32, zones: u64) -> ClusterConfig {
    let mut yaml = format!("cluster: test\nshards: {shards}\nreplicas: {replicas}\nnodes:\n");
    for node in 1..=nodes {
        yaml += &format!("  - id: {node}\n    address: 10.0.0.{node}:7400\n");
        if zones > 0 {
            yaml += &format!("    zone: z{}\n", node % zones);
        }
    }
    yaml += "gateways:\n  - address: 10.0.1.1:7400\n";
    ClusterConfig::parse(&yaml).expect("a valid file").0
}

/// The topology of that cluster.
pub(crate) fn founded(nodes: u64, shards: u32, replicas: u32, zones: u64) -> Topology {
    let mut topology = Topology::default();
    let seed = Seed::of(&cluster(nodes, shards, replicas, zones));
    topology.apply(&Proposal::new(NOW_S, Command::Bootstrap { seed })).expect("founded");
    topology
}

pub(crate) fn nodes<const N: usize>(ids: [u64; N]) -> std::collections::BTreeSet<NodeId> {
    ids.map(NodeId).into()
}

/// Applies a command at [`NOW_S`]. Returns whether it changed anything.
pub(crate) fn apply(topology: &mut Topology, command: Command) -> Result<bool, Refusal> {
    let delta = topology.apply(&Proposal::new(NOW_S, command))?;
    Ok(delta.is_some())
}

/// What a node tells at this start of its first directory.
pub(crate) fn told(node: u64, starts: u64) -> NodeTold {
    NodeTold {
        node: NodeId(node),
        address: format!("10.0.0.{node}:7400"),
        zone: None,
        store: StoreId([node as u8; 16]),
        start: AddressVersion { incarnation: 0, starts },
        levels: Levels { min: 1, max: 2 },
        binary: "0.2.0".to_owned(),
    }
}

/// The lives that a shard wants.
pub(crate) fn wanted(topology: &Topology, shard: u32) -> Vec<Life> {
    topology.shard(ShardId(shard)).expect("the shard").wanted.lives().collect()
}
