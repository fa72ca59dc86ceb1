//! The topology and its jobs as documents: what the cluster should be, and what is being done.

use crate::v1::{self, ClusterTopology, JobSpec, TopologyNode, TopologyShard};
use serde::Serialize;

/// The topology of a cluster.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Topology {
    /// Rises by one with each change.
    pub version: u64,
    /// The level of formats and commands that is active.
    pub level: u32,
    /// All nodes, by id. Removed ones too, because their ids are never used again.
    pub nodes: Vec<Planned>,
    /// The shards of locks, by number.
    pub shards: Vec<Group>,
    /// The group that keeps the topology.
    pub meta: Option<Group>,
    /// The jobs that run, and the last ones that ended.
    pub jobs: Vec<Job>,
    /// What an operator has set for the whole cluster.
    pub settings: Settings,
}

/// What an operator has set for the whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Settings {
    /// After how many seconds without a sign of a node its replicas are replaced. `null`: never.
    pub repair_after_s: Option<u64>,
    /// Whether jobs and repairs rest.
    pub paused: bool,
}

/// A node as the topology has it.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "TopologyNode"))]
pub struct Planned {
    /// The id of the node.
    pub node: u64,
    /// The address at which other processes find it.
    pub address: String,
    /// Its zone; empty if it has none.
    pub zone: String,
    /// `serving`, `draining`, `leaving` or `removed`.
    pub state: String,
    /// The version of its program; empty until the node has told it.
    pub binary: String,
    /// How many shards of locks should have a replica on it.
    pub replicas: usize,
    /// How many shards of locks should be led by it.
    pub preferred_by: usize,
}

/// The members of one shard.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Group {
    /// The number of the shard.
    pub shard: u32,
    /// The nodes of the members that it should have.
    pub wanted: Vec<u64>,
    /// The nodes of the members with a vote that it has.
    pub voters: Vec<u64>,
    /// The nodes of members on their way in.
    pub learners: Vec<u64>,
    /// The node that should lead it. `null` if none is preferred.
    pub preferred_leader: Option<u64>,
    /// Whether it has exactly the members that are wanted, all with a vote.
    pub settled: bool,
}

/// A change of the topology that takes many steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Job {
    /// Its number.
    pub job: u64,
    /// `DRAIN`, `UNDRAIN`, `REPLACE_NODE`, `REMOVE_NODE`, `REPLICAS` or `REBALANCE_…`.
    pub kind: &'static str,
    /// The node that it is about. `null` if it is about none.
    pub node: Option<u64>,
    /// With `REPLACE_NODE`: the node that comes.
    pub new_node: Option<u64>,
    /// With `REPLICAS`: the number of members.
    pub replicas: Option<u32>,
    /// With `REPLICAS`: the only shard. `null`: all shards.
    pub shard: Option<u32>,
    /// `running`, `done` or `cancelled`.
    pub state: String,
    /// Shards that are done.
    pub done: u32,
    /// Shards in all.
    pub total: u32,
    /// Why it does not go on now; empty if it does, or has ended.
    pub why: String,
}

impl From<&ClusterTopology> for Topology {
    fn from(told: &ClusterTopology) -> Topology {
        let node = |node: &TopologyNode| {
            let has = |shard: &&TopologyShard| shard.wanted.contains(&node.node);
            let prefers = |shard: &&TopologyShard| shard.preferred_leader == node.node;
            Planned {
                node: node.node,
                address: node.address.clone(),
                zone: node.zone.clone(),
                state: node.state.clone(),
                binary: node.binary.clone(),
                replicas: told.shards.iter().filter(has).count(),
                preferred_by: told.shards.iter().filter(prefers).count(),
            }
        };
        Topology {
            version: told.version,
            level: told.level,
            nodes: told.nodes.iter().map(node).collect(),
            shards: told.shards.iter().map(Group::from).collect(),
            meta: told.meta.as_ref().map(Group::from),
            jobs: told.jobs.iter().map(Job::from).collect(),
            settings: told.settings.as_ref().map(Settings::from).unwrap_or_default(),
        }
    }
}

impl From<&TopologyShard> for Group {
    fn from(shard: &TopologyShard) -> Group {
        Group {
            shard: shard.shard,
            wanted: shard.wanted.clone(),
            voters: shard.voters.clone(),
            learners: shard.learners.clone(),
            preferred_leader: some(shard.preferred_leader),
            settled: shard.is_settled,
        }
    }
}

impl From<&v1::ClusterSettings> for Settings {
    fn from(told: &v1::ClusterSettings) -> Settings {
        Settings { repair_after_s: some(told.repair_after_s), paused: told.paused }
    }
}

impl From<&v1::Job> for Job {
    fn from(job: &v1::Job) -> Job {
        let spec = job.spec.unwrap_or_default();
        let JobSpec { node, new_node, replicas, shard, .. } = spec;
        Job {
            job: job.job,
            kind: job_kind_name(spec.kind()),
            node: some(node),
            new_node: some(new_node),
            replicas: (replicas != 0).then_some(replicas),
            shard,
            state: job.state.clone(),
            done: job.done,
            total: job.total,
            why: job.why.clone(),
        }
    }
}

/// The name of a kind of job: `REPLACE_NODE`.
fn job_kind_name(kind: v1::JobKind) -> &'static str {
    let name = kind.as_str_name();
    name.strip_prefix("JOB_KIND_").unwrap_or(name)
}

fn some(id: u64) -> Option<u64> {
    (id != 0).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_the_count_of_its_shards() {
        let shard = |shard, wanted: &[u64], preferred_leader| TopologyShard {
            shard,
            wanted: wanted.to_vec(),
            preferred_leader,
            ..TopologyShard::default()
        };
        let node = |node| TopologyNode { node, ..TopologyNode::default() };
        let told = ClusterTopology {
            nodes: vec![node(1), node(2)],
            shards: vec![shard(0, &[1, 2], 2), shard(1, &[2, 3], 0)],
            meta: Some(shard(9, &[1], 1)),
            ..ClusterTopology::default()
        };
        let topology = Topology::from(&told);
        let counts = |node: &Planned| (node.node, node.replicas, node.preferred_by);
        assert_eq!(topology.nodes.iter().map(counts).collect::<Vec<_>>(), [(1, 1, 0), (2, 2, 1)]);
        assert_eq!(topology.shards[1].preferred_leader, None);
    }

    #[test]
    fn a_job_has_the_fields_of_its_kind() {
        let spec = JobSpec {
            kind: v1::JobKind::ReplaceNode.into(),
            node: 3,
            new_node: 9,
            ..JobSpec::default()
        };
        let job = v1::Job { job: 12, spec: Some(spec), done: 7, total: 12, ..Default::default() };
        let job = Job::from(&job);
        assert_eq!((job.kind, job.node, job.new_node), ("REPLACE_NODE", Some(3), Some(9)));
        assert_eq!((job.replicas, job.shard, job.done), (None, None, 7));
    }
}
