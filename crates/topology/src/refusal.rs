//! The reasons why a command is refused: what happened, and what to do next.
//!
//! A refusal is an outcome, the same on every replica, and a refused command changes nothing. It has
//! bytes, so that it reaches the process that proposed the command.

use crate::codec::tagged;
use crate::state::{JobId, Levels, Version};
use routing::{NodeId, ShardId};
use std::borrow::Cow;

/// The reason why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No cluster was founded yet.
    #[error("the topology is empty: wait until its first leader has founded the cluster")]
    NotFounded,
    /// The cluster was founded before.
    #[error("the cluster was founded before: its cluster file describes the beginning only")]
    AlreadyFounded,
    /// A seed breaks a rule.
    #[error("the seed makes no topology ({0}): check the cluster file with `palisade plan`")]
    Seed(Cow<'static, str>),
    /// Another change came between plan and command.
    #[error("the topology has changed since this plan ({planned} → {now}): plan again")]
    VersionMoved {
        /// The version of the plan.
        planned: Version,
        /// The present version.
        now: Version,
    },
    /// There is no such node.
    #[error("there is no node {0}: see `palisade cluster nodes`")]
    UnknownNode(NodeId),
    /// There is no such shard.
    #[error("there is no shard {0}: see `palisade cluster status`")]
    UnknownShard(ShardId),
    /// There is no such job, or it ended long ago.
    #[error("there is no job {0}: see `palisade cluster jobs`")]
    UnknownJob(JobId),
    /// The node was removed for good.
    #[error(
        "node {0} was removed from this cluster: wipe its data directory and join under a new id"
    )]
    Removed(NodeId),
    /// A node cannot have this id.
    #[error("{0} cannot be the id of a node: choose one from 1 to 4294967295")]
    NodeId(NodeId),
    /// An address cannot be dialled.
    #[error("node {node} has the address {address:?}, which cannot be dialled: give it host:port")]
    Address {
        /// The node.
        node: NodeId,
        /// The address.
        address: String,
    },
    /// A joiner has the address of another node.
    #[error(
        "node {other} has the address {address} already: start node {node} on an address of its own"
    )]
    AddressTaken {
        /// The joiner.
        node: NodeId,
        /// The address.
        address: String,
        /// The node that has it.
        other: NodeId,
    },
    /// Two data directories use one id.
    #[error(
        "node {0} has another data directory: start it on that one; if that is lost, wipe this one and start \
         it with --reseed; another machine needs another id to join"
    )]
    IdTaken(NodeId),
    /// A program does not know the active level.
    #[error(
        "level {level} is active, node {node} runs a build that knows {}: start the newer one",
        range(.min, .max)
    )]
    ActiveLevel {
        /// The node.
        node: NodeId,
        /// The active level.
        level: u32,
        /// The lowest level that the program knows.
        min: u32,
        /// The highest.
        max: u32,
    },
    /// A level cannot be activated, because nodes do not know it.
    #[error(
        "{} not told of level {level}: upgrade and start what is not upgraded yet, or remove it with \
         `remove-node`",
        have_nodes(.nodes)
    )]
    LevelUnknown {
        /// The level.
        level: u32,
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// A level never falls.
    #[error("level {active} is active and never falls to {level}: use programs that know it")]
    LevelFalls {
        /// The active level.
        active: u32,
        /// The level asked for.
        level: u32,
    },
    /// A node cannot be removed while a shard has, wants or waits for a life on it.
    #[error("node {node} still has a replica of shard {shard}: move it away with `remove-node`")]
    StillMember {
        /// The node.
        node: NodeId,
        /// The first such shard.
        shard: ShardId,
    },
    /// A node that is not serving gets no replicas and is not preferred.
    #[error("node {0} is being drained or removed: take it back with `undrain`, or choose another")]
    NotServing(NodeId),
    /// A shard needs members.
    #[error("shard {0} would have no members: name at least one node")]
    NoMembers(ShardId),
    /// A node has no births left.
    #[error("node {0} has no births left: replace it by a node with a new id")]
    NoBirths(NodeId),
    /// A fact contradicts itself.
    #[error("what was told of shard {shard} makes no group ({why}): report this as a bug")]
    NoGroup {
        /// The shard.
        shard: ShardId,
        /// The rule that it breaks.
        why: Cow<'static, str>,
    },
    /// A member is preferred that is not wanted.
    #[error("node {node} is no member of shard {shard}: choose one of its members")]
    NoMember {
        /// The shard.
        shard: ShardId,
        /// The node.
        node: NodeId,
    },
    /// A running job changes the same.
    #[error("job {0} is at work on the same: wait for it, or cancel it")]
    Busy(JobId),
    /// A node cannot be removed, because no other node can take one of its replicas.
    #[error(
        "node {node} cannot be removed, because no other serving node is free for its replica of \
         shard {shard}: add a node, take one back with `undrain`, or lower the replica count"
    )]
    NoRoom {
        /// The node.
        node: NodeId,
        /// The first such shard.
        shard: ShardId,
    },
    /// A group would need every voter that is heard of on its way to another number of members.
    #[error(
        "shard {shard} would have {voters} voters on the way, of which only {heard} are heard of and \
         all would have to answer: start the nodes that are down, or accept that with \
         `--accept-no-spare`"
    )]
    NoSpare {
        /// The first such shard.
        shard: ShardId,
        /// How many of its voters would be on nodes that report.
        heard: u32,
        /// How many voters it would have.
        voters: u32,
    },
    /// A node would be replaced by one of another zone.
    #[error(
        "node {old} is in zone {zone}, and node {new} is not: name a node of that zone, or accept \
         another one with `--other-zone`"
    )]
    OtherZone {
        /// The node that goes.
        old: NodeId,
        /// The node that comes.
        new: NodeId,
        /// The zone of the node that goes.
        zone: String,
    },
    /// Too many jobs run.
    #[error("{0} jobs run already: wait for one, or cancel one")]
    TooManyJobs(u32),
    /// A job's arguments make no sense.
    #[error("this job cannot be done: {0}")]
    Job(Cow<'static, str>),
    /// The job has ended.
    #[error("job {0} has ended: what it did stays done")]
    Ended(JobId),
    /// A setting has a value out of its range.
    #[error("this value cannot be set: {0}")]
    Setting(Cow<'static, str>),
}

fn range(min: &u32, max: &u32) -> Levels {
    Levels { min: *min, max: *max }
}

/// `node 3 has`, or `nodes 3 and 4 have`.
fn have_nodes(nodes: &[NodeId]) -> String {
    match nodes {
        [] => "some nodes have".to_owned(),
        [node] => format!("node {node} has"),
        [before @ .., last] => {
            let before: Vec<String> = before.iter().map(NodeId::to_string).collect();
            format!("nodes {} and {last} have", before.join(", "))
        }
    }
}

tagged!(Refusal {
    1 => NotFounded,
    2 => AlreadyFounded,
    3 => Seed(rule),
    4 => VersionMoved { planned, now },
    5 => UnknownNode(node),
    6 => UnknownShard(shard),
    7 => UnknownJob(job),
    8 => Removed(node),
    9 => NodeId(node),
    10 => Address { node, address },
    11 => AddressTaken { node, address, other },
    12 => IdTaken(node),
    13 => ActiveLevel { node, level, min, max },
    // 14 named only the first node that does not know a level.
    15 => LevelFalls { active, level },
    16 => StillMember { node, shard },
    17 => NotServing(node),
    18 => NoMembers(shard),
    19 => NoBirths(node),
    20 => NoGroup { shard, why },
    21 => NoMember { shard, node },
    22 => Busy(job),
    23 => TooManyJobs(jobs),
    24 => Job(why),
    25 => Ended(job),
    26 => Setting(why),
    27 => NoRoom { node, shard },
    28 => LevelUnknown { level, nodes },
    30 => NoSpare { shard, heard, voters },
    31 => OtherZone { old, new, zone },
});
