//! How far an upgrade of the cluster is, as a document: what each node runs, the active level, and
//! which groups have reached it.

use crate::v1::{ClusterStatusResponse, ClusterTopology, ShardStatus, TopologyNode};
use serde::Serialize;

/// The level of a build, or a group, of the time before levels.
const FIRST_LEVEL: u32 = 1;

/// An upgrade of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Upgrade {
    /// The version of the topology.
    pub version: u64,
    /// The level of formats and commands that is active.
    pub level: u32,
    /// The highest level that every node knows. `null` while a node has not told.
    pub level_of_all: Option<u32>,
    /// The nodes that are not removed, by id.
    pub nodes: Vec<Build>,
    /// The groups of shards, and last that of the topology.
    pub groups: Vec<GroupLevel>,
}

/// The program of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Build {
    /// The id of the node.
    pub node: u64,
    /// The version of its program; empty until the node has told it.
    pub binary: String,
    /// The lowest level that its program knows. `null` until the node has told it.
    pub level_min: Option<u32>,
    /// The highest.
    pub level_max: Option<u32>,
}

/// The level of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupLevel {
    /// The number of the shard. `null`: the group of the topology.
    pub shard: Option<u32>,
    /// The level that it has reached, as its leader says. `null` while no leader answers.
    pub level: Option<u32>,
    /// Whether it has reached the active level.
    pub reached: bool,
}

impl Upgrade {
    /// The document for a topology and the status of the replicas.
    pub fn new(topology: &ClusterTopology, status: &ClusterStatusResponse) -> Upgrade {
        let level = topology.level.max(FIRST_LEVEL);
        let present = topology.nodes.iter().filter(|node| node.state != "removed");
        let nodes: Vec<Build> = present.map(Build::from).collect();
        let group = |shard: Option<u32>, replicas: &mut dyn Iterator<Item = &ShardStatus>| {
            let leader = replicas.filter(|it| it.role == "leader").max_by_key(|it| it.term);
            let reached = leader.map(|leader| leader.level.max(FIRST_LEVEL));
            GroupLevel { shard, level: reached, reached: reached.is_some_and(|is| is >= level) }
        };
        let of_shard = |shard: u32| {
            group(Some(shard), &mut status.shards.iter().filter(|it| it.shard == shard))
        };
        let mut groups: Vec<GroupLevel> =
            topology.shards.iter().map(|known| of_shard(known.shard)).collect();
        groups.extend(topology.meta.iter().map(|_| group(None, &mut status.topology.iter())));
        Upgrade {
            version: topology.version,
            level,
            level_of_all: nodes.iter().map(|node| node.level_max).min().flatten(),
            nodes,
            groups,
        }
    }

    /// The highest level that any node knows.
    pub fn level_of_any(&self) -> u32 {
        self.nodes.iter().filter_map(|node| node.level_max).max().unwrap_or(self.level)
    }

    /// The nodes that do not know a level, or have not told.
    pub fn without(&self, level: u32) -> Vec<u64> {
        let lacks = |node: &&Build| node.level_max.is_none_or(|max| max < level);
        self.nodes.iter().filter(lacks).map(|node| node.node).collect()
    }

    /// The groups that have not reached the active level.
    pub fn below(&self) -> impl Iterator<Item = &GroupLevel> {
        self.groups.iter().filter(|group| !group.reached)
    }
}

impl From<&TopologyNode> for Build {
    fn from(node: &TopologyNode) -> Build {
        let told = |level: u32| (level != 0).then_some(level);
        Build {
            node: node.node,
            binary: node.binary.clone(),
            level_min: told(node.level_min),
            level_max: told(node.level_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::TopologyShard;

    fn node(node: u64, level_max: u32, state: &str) -> TopologyNode {
        let level_min = level_max.min(1);
        TopologyNode { node, level_min, level_max, state: state.into(), ..Default::default() }
    }

    fn replica(shard: u32, node: u64, role: &str, term: u64, level: u32) -> ShardStatus {
        ShardStatus { shard, node, role: role.into(), term, level, ..Default::default() }
    }

    fn topology(level: u32, nodes: Vec<TopologyNode>) -> ClusterTopology {
        let shard = |shard| TopologyShard { shard, ..Default::default() };
        ClusterTopology {
            level,
            nodes,
            shards: vec![shard(0), shard(1)],
            meta: Some(shard(u32::MAX - 1)),
            ..Default::default()
        }
    }

    #[test]
    fn the_level_of_all_is_what_the_oldest_program_knows() {
        let of = |nodes| Upgrade::new(&topology(1, nodes), &ClusterStatusResponse::default());
        let mixed = of(vec![node(1, 2, "serving"), node(2, 1, "draining"), node(3, 2, "serving")]);
        assert_eq!((mixed.level_of_all, mixed.level_of_any()), (Some(1), 2));
        assert_eq!(mixed.without(2), [2]);
        let removed = of(vec![node(1, 2, "serving"), node(2, 1, "removed")]);
        assert_eq!((removed.level_of_all, removed.nodes.len()), (Some(2), 1));
        let silent = of(vec![node(1, 2, "serving"), node(2, 0, "serving")]);
        assert_eq!((silent.level_of_all, silent.without(1)), (None, vec![2]));
    }

    #[test]
    fn a_group_has_reached_a_level_once_its_leader_says_so() {
        let status = ClusterStatusResponse {
            shards: vec![
                replica(0, 1, "leader", 4, 2),
                replica(0, 2, "follower", 4, 1),
                // It was deposed, and runs a build of the time before levels.
                replica(1, 1, "leader", 3, 2),
                replica(1, 2, "leader", 5, 0),
            ],
            topology: vec![replica(u32::MAX - 1, 1, "follower", 1, 2)],
            ..Default::default()
        };
        let upgrade = Upgrade::new(&topology(2, vec![node(1, 2, "serving")]), &status);
        let group = |shard, level, reached| GroupLevel { shard, level, reached };
        let expected = [
            group(Some(0), Some(2), true),
            group(Some(1), Some(1), false),
            group(None, None, false),
        ];
        assert_eq!(upgrade.groups, expected);
        assert_eq!(upgrade.below().count(), 2);
    }
}
