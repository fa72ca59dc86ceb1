//! The topology: nodes, the members of shards, jobs, the level, and settings.
//!
//! Intent and fact stand apart: a shard has the members that are *wanted*, and those that its own
//! log says it *has*. The types say what holds at all times, and [`Topology::check`] checks it. This
//! module knows nothing of commands.

use crate::why::Why;
use routing::{AddressVersion, NodeId, SLOTS, ShardId};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// How many changes a topology has seen. 0 is the topology before the cluster was founded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

impl Version {
    /// The version of the next change.
    pub fn next(self) -> Version {
        Version(self.0 + 1)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a replica's life on its node. It rises, and is about the second of its birth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Birth(pub u32);

/// One life of a replica of a shard: from its creation on a node until it is destroyed there.
///
/// A replica that comes back to a node after it was removed has forgotten its votes. So it has
/// another birth, and is another member to Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// The node.
    pub node: NodeId,
    /// The birth, which no other life of the shard on this node has.
    pub birth: Birth,
}

/// The number of a job. Jobs are numbered from 1, and a number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId(pub u64);

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The random id of an operator's request, so that a repeated request starts one job only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u128);

/// The random name of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreId(pub [u8; 16]);

/// The topology of one cluster.
///
/// - The version rises by one with each change, and with nothing else.
/// - Every slot has an owner, which is one of the shards.
/// - A node is never forgotten, so a removed id is never used again.
/// - No shard wants, has or waits for a life on a removed node.
/// - At version 0 all is empty.
///
/// ```
/// use palisade_topology::{Command, Proposal, Seed, Topology, Version};
/// use routing::{ClusterConfig, NodeId, ShardId};
///
/// let config = ClusterConfig::dev(4, 3, 7400).unwrap();
/// let mut topology = Topology::default();
/// let seed = Command::Bootstrap { seed: Seed::of(&config) };
/// topology.apply(&Proposal::new(1_700_000_000, seed)).unwrap();
///
/// let shard = topology.shard(ShardId(2)).unwrap();
/// assert_eq!(shard.wanted.members.len(), 3);
/// assert!(shard.is_settled());
/// assert_eq!(topology.version(), Version(1));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    pub(crate) version: Version,
    pub(crate) cluster: Cluster,
    /// The owners of all slots in order, each with the number of neighbouring slots it owns.
    pub(crate) slots: Vec<(u32, ShardId)>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) shards: BTreeMap<ShardId, Shard>,
    pub(crate) jobs: BTreeMap<JobId, Job>,
}

/// What concerns the cluster as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The id of the cluster. It never changes.
    pub id: [u8; 16],
    /// How often the topology was founded. It rises if a lost one is built again.
    pub generation: u64,
    /// The level of formats and commands that is active. It never falls.
    pub level: u32,
    /// Settings.
    pub settings: Settings,
    /// The number of the last job.
    pub last_job: u64,
    /// The version with which this generation began. 0 in the first one.
    pub begun: Version,
    /// The highest id that a node may have had before the topology was built again. A joining node
    /// takes a higher one. 0 in the first generation.
    pub former_ids: NodeId,
}

/// Settings of the cluster that an operator may change while it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// After how long without a report a node's replicas are replaced. `None` is never.
    pub repair_after_s: Option<u64>,
    /// Most bytes of snapshots that a node sends per second.
    pub snapshot_bytes_per_s: u64,
    /// Whether plans rest. Facts are recorded nevertheless.
    pub paused: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { repair_after_s: None, snapshot_bytes_per_s: 64 << 20, paused: false }
    }
}

/// One node.
///
/// - A removed node stays removed.
/// - `last_birth` is at least the birth of every life on the node that the topology knows of, and
///   at least the node's incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `host:port` at which other processes dial the node.
    pub address: String,
    /// Failure zone. A node without one is a zone of its own.
    pub zone: Option<String>,
    /// What the node may be used for.
    pub state: NodeState,
    /// The start of the node that told what stands here. The default is the cluster file's.
    pub start: AddressVersion,
    /// The name of its data directory, once the node has told it.
    pub store: Option<StoreId>,
    /// The levels that its program knows, once the node has told them.
    pub levels: Option<Levels>,
    /// The version of its program, for people.
    pub binary: String,
    /// The highest birth on this node.
    pub last_birth: Birth,
    /// The version of the topology at which it told of its present data directory. A life that was
    /// wanted last before that may have been on a lost one.
    pub directory_since: Version,
}

impl Node {
    /// A node that has told nothing of itself.
    pub(crate) fn untold(address: String, zone: Option<String>, state: NodeState) -> Node {
        Node {
            address,
            zone,
            state,
            start: AddressVersion::default(),
            store: None,
            levels: None,
            binary: String::new(),
            last_birth: Birth(0),
            directory_since: Version(0),
        }
    }

    /// Gives a birth that is higher than all before on this node: the second of wall time, or one
    /// more than the last. `None` once all are used up.
    pub(crate) fn give_birth(&mut self, wall_s: u64) -> Option<Birth> {
        let next = self.last_birth.0.checked_add(1)?;
        // A second past 32 bits (the year 2106) is no birth, and counting on is one.
        self.last_birth = Birth(next.max(u32::try_from(wall_s).unwrap_or(0)));
        Some(self.last_birth)
    }
}

/// What a node may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// It may get replicas and lead.
    Serving,
    /// It keeps its replicas, gets no new ones, and is no shard's preferred leader.
    Draining,
    /// As `Draining`, and its replicas are moved away.
    Leaving,
    /// It is out of the cluster for good.
    Removed,
}

/// The levels of formats and commands that a program knows, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// The lowest.
    pub min: u32,
    /// The highest.
    pub max: u32,
}

impl Levels {
    /// Whether a program with these levels can take part at `level`.
    pub fn contains(self, level: u32) -> bool {
        (self.min..=self.max).contains(&level)
    }
}

/// One shard: one Raft group.
///
/// - It wants at least one member, at most one on a node, and none on a removed node.
/// - A life that it has is wanted, or is among `leaving`.
/// - A wanted life is never among `leaving`. A life that was in one of them and is in neither is out,
///   and never comes back.
/// - The preferred leader is a wanted member on a serving node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The members with which the group began.
    pub founders: BTreeMap<NodeId, Birth>,
    /// The members that the group should have.
    pub wanted: Wanted,
    /// The members that the group has, as its own log says.
    pub is: Members,
    /// Lives that are not wanted any more, until it is certain that the group will never have them
    /// again: with the version of the topology at which each was last wanted no more.
    pub leaving: BTreeMap<Life, Version>,
    /// The member that should lead, if there is one.
    pub preference: Option<Preference>,
}

/// The members that a group should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The version of the topology that wanted them.
    pub version: Version,
    /// The members.
    pub members: BTreeMap<NodeId, Birth>,
}

/// The members that a group has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The index in the group's log at which this configuration was applied, or a later one at which
    /// it still held: after a restart, that at which the replica began.
    pub conf_index: u64,
    /// The version of the wanted members that the group had taken by then.
    pub taken: Version,
    /// Those with a vote.
    pub voters: BTreeSet<Life>,
    /// Those without.
    pub learners: BTreeSet<Life>,
}

impl Members {
    /// All members.
    pub fn lives(&self) -> impl Iterator<Item = Life> + '_ {
        self.voters.iter().chain(&self.learners).copied()
    }

    /// Whether this life is a member.
    pub fn has(&self, life: &Life) -> bool {
        self.voters.contains(life) || self.learners.contains(life)
    }
}

/// The member that should lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preference {
    /// The member's node.
    pub node: NodeId,
    /// The node that was preferred before.
    pub from: Option<NodeId>,
    /// When it became preferred, in seconds of wall time.
    pub at_s: u64,
}

impl Wanted {
    /// The wanted lives.
    pub fn lives(&self) -> impl Iterator<Item = Life> + '_ {
        self.members.iter().map(|(node, birth)| Life { node: *node, birth: *birth })
    }

    /// Whether this life is wanted.
    pub fn has(&self, life: &Life) -> bool {
        self.members.get(&life.node) == Some(&life.birth)
    }
}

impl Shard {
    /// Whether the group has exactly the members that are wanted, all with a vote.
    pub fn is_settled(&self) -> bool {
        self.is.learners.is_empty() && self.wanted.lives().eq(self.is.voters.iter().copied())
    }

    /// Whether the group may have a life on this node, now or later.
    pub fn concerns(&self, node: NodeId) -> bool {
        self.wanted.members.contains_key(&node) || self.leaving.keys().any(|life| life.node == node)
    }

    /// The life that a node has if it is wanted: the one that is wanted there already, or the newest
    /// that may still be there. `None`: it needs a birth that the node never had.
    ///
    /// How it goes wrong if a node that is wanted again always gets another life: a group of one on
    /// node 1 shall move to node 2, and back before it has begun. Its only member cannot make room
    /// for another life on the same node, so the group never has the members that are wanted.
    ///
    /// A life is kept until it is out ([`Topology::is_out`]), because until then no host has
    /// destroyed it. Its votes are known, unless they were on a data directory that is lost:
    ///
    /// - A birth below the incarnation of the present directory is of a former one.
    /// - A birth equal to it is on the present one. The re-seed began with it.
    /// - A higher one is of a former directory if it was wanted no more before the re-seed, because a
    ///   clock may have been slow.
    pub(crate) fn life_on(&self, id: NodeId, node: &Node) -> Option<Birth> {
        if let Some(birth) = self.wanted.members.get(&id) {
            return Some(*birth);
        }
        let leaving = self.leaving.iter().filter(|(life, _)| life.node == id);
        let (newest, dropped) = leaving.max_by_key(|(life, _)| life.birth)?;
        let is_on_present = match u64::from(newest.birth.0).cmp(&node.start.incarnation) {
            Ordering::Less => false,
            Ordering::Equal => true,
            Ordering::Greater => *dropped > node.directory_since,
        };
        is_on_present.then_some(newest.birth)
    }

    /// Whether a life is out, as far as the topology has heard of the group
    /// ([`Topology::is_out`]).
    fn has_no(&self, life: Life) -> bool {
        let is_older = |other: Life| other.node == life.node && other.birth <= life.birth;
        !self.wanted.lives().chain(self.leaving.keys().copied()).any(is_older)
    }
}

/// A change that takes many steps. The controller plans them, so a job survives every process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The request that started it.
    pub request: RequestId,
    /// What is to be done.
    pub kind: JobKind,
    /// How it stands.
    pub state: JobState,
    /// How far it is.
    pub progress: Progress,
    /// Why it does not go on now.
    pub why: Option<Why>,
}

/// What a job is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Take leaderships and preferences away from a node, so that it can be stopped.
    Drain {
        /// The node.
        node: NodeId,
    },
    /// Let a draining or leaving node serve again.
    Undrain {
        /// The node.
        node: NodeId,
    },
    /// Put a new node in the place of an old one, and remove the old one for good.
    ReplaceNode {
        /// The node that goes.
        old: NodeId,
        /// The node that comes.
        new: NodeId,
    },
    /// Move all replicas of a node elsewhere, and remove it for good.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// Change the number of members.
    Replicas {
        /// The number.
        count: u32,
        /// Of this shard only, or of all shards with slots.
        shard: Option<ShardId>,
    },
    /// Even out replicas or leaderships over the nodes.
    Rebalance {
        /// What is evened out.
        what: Balance,
    },
}

/// What a rebalance evens out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// The number of replicas of each node.
    Members,
    /// The load of the shards that each node leads.
    Leaders,
}

impl JobKind {
    /// The nodes that the job changes. Two jobs never change one node at a time.
    pub fn nodes(&self) -> Vec<NodeId> {
        match *self {
            JobKind::Drain { node } | JobKind::Undrain { node } | JobKind::RemoveNode { node } => {
                vec![node]
            }
            JobKind::ReplaceNode { old, new } => vec![old, new],
            JobKind::Replicas { .. } | JobKind::Rebalance { .. } => Vec::new(),
        }
    }
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// The controller works on it.
    Running,
    /// All is done.
    Done,
    /// An operator ended it. What was done stays done.
    Cancelled,
}

/// How far a job is, in shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Shards that are done.
    pub done: u32,
    /// Shards in all.
    pub total: u32,
}

impl Topology {
    /// The version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the cluster was founded.
    pub fn is_founded(&self) -> bool {
        self.version > Version(0)
    }

    /// What concerns the cluster as a whole.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The owners of all slots in order, each with the number of neighbouring slots it owns.
    pub fn slots(&self) -> &[(u32, ShardId)] {
        &self.slots
    }

    /// All nodes, removed ones too.
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// The nodes that are not removed.
    pub fn present(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        let is_present = |node: &Node| node.state != NodeState::Removed;
        self.nodes.iter().filter(move |(_, node)| is_present(node)).map(|(id, node)| (*id, node))
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// All shards, the one of the topology itself ([`routing::META`]) too.
    pub fn shards(&self) -> &BTreeMap<ShardId, Shard> {
        &self.shards
    }

    /// The shard with this id.
    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        self.shards.get(&id)
    }

    /// Whether a replica with this life is out for good, so that it may be destroyed.
    ///
    /// That takes a configuration without the life, and the certainty that the group will not take
    /// it in by an older wish: the group has taken a wish that is newer than the last one for it. A
    /// replica of a re-seeded node may be unknown here and yet a member, so a life counts as out
    /// only if no older one on its node is left.
    ///
    /// In a topology that was built again, the group must also have taken a wish of this generation.
    /// How it goes wrong otherwise:
    ///
    /// 1. The lost group moves a shard from nodes 1, 2, 3 to nodes 4, 8, 9, at version 59.
    /// 2. Nodes 4, 8, 9 are away. The topology is built again from a copy of version 58.
    /// 3. They come back, and find their replicas neither wanted nor leaving. Each destroys its own,
    ///    and no copy of the shard is left.
    pub fn is_out(&self, id: ShardId, life: Life) -> bool {
        let has_told = |shard: &&Shard| shard.is.taken >= self.cluster.begun;
        self.shard(id).filter(has_told).is_some_and(|shard| shard.has_no(life))
    }

    /// Whether the leader of a group has told nothing since the topology was built again. Then the
    /// wish of the shard is the one of a kept copy, and the lost group may have made later ones.
    pub(crate) fn is_unheard(&self, shard: &Shard) -> bool {
        shard.wanted.version <= self.cluster.begun
    }

    /// The jobs that run, and the last ones that ended.
    pub fn jobs(&self) -> &BTreeMap<JobId, Job> {
        &self.jobs
    }

    /// The jobs that run, oldest first.
    pub fn running(&self) -> impl Iterator<Item = (JobId, &Job)> {
        let is_running = |job: &Job| job.state == JobState::Running;
        self.jobs.iter().filter(move |(_, job)| is_running(job)).map(|(id, job)| (*id, job))
    }

    /// The job that a request started.
    pub fn job_of(&self, request: RequestId) -> Option<JobId> {
        self.jobs.iter().find(|(_, job)| job.request == request).map(|(id, _)| *id)
    }

    /// Checks what the types say. Every state that commands lead to passes.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        let rule = |holds: bool, says: &'static str| if holds { Ok(()) } else { Err(says) };
        if !self.is_founded() {
            return rule(*self == Topology::default(), "version 0 is empty");
        }
        let owned: u64 = self.slots.iter().map(|(slots, _)| u64::from(*slots)).sum();
        let is_owner = |(slots, shard): &(u32, ShardId)| {
            *slots > 0 && *shard != routing::META && self.shards.contains_key(shard)
        };
        rule(owned == u64::from(SLOTS), "every slot has an owner")?;
        rule(self.slots.iter().all(is_owner), "owners of slots are shards")?;
        rule(!self.nodes.contains_key(&NodeId(0)), "nodes are numbered from 1")?;
        rule(self.cluster.begun <= self.version, "no generation begins in the future")?;
        let last = self.jobs.last_key_value().map_or(0, |(id, _)| id.0);
        rule(last <= self.cluster.last_job, "no job is numbered past the last one")?;
        for shard in self.shards.values() {
            self.check_shard(shard)?;
        }
        let incarnation = |node: &Node| node.start.incarnation <= u64::from(node.last_birth.0);
        rule(self.nodes.values().all(incarnation), "no incarnation is past the last birth")?;
        let is_lost = |life: Life| {
            let node = self.nodes.get(&life.node);
            node.is_some_and(|node| u64::from(life.birth.0) < node.start.incarnation)
        };
        let wanted = self.shards.values().flat_map(|shard| shard.wanted.lives());
        rule(!wanted.into_iter().any(is_lost), "no wanted life was on a lost directory")?;
        let is_past = |node: &Node| node.directory_since <= self.version;
        rule(self.nodes.values().all(is_past), "no directory is of the future")
    }

    fn check_shard(&self, shard: &Shard) -> Result<(), &'static str> {
        let rule = |holds: bool, says: &'static str| if holds { Ok(()) } else { Err(says) };
        let lives = || shard.wanted.lives().chain(shard.leaving.keys().copied());
        let was_given = |life: Life| {
            self.nodes.get(&life.node).is_some_and(|node| life.birth <= node.last_birth)
        };
        let is_removed = |life: Life| {
            let node = self.nodes.get(&life.node);
            node.is_some_and(|node| node.state == NodeState::Removed)
        };
        let is_accounted =
            |life: Life| shard.wanted.has(&life) || shard.leaving.contains_key(&life);
        rule(!shard.wanted.members.is_empty(), "a shard wants members")?;
        rule(lives().all(was_given), "a life is on a node, with a birth that was given")?;
        rule(!shard.wanted.lives().any(is_removed), "no life is wanted on a removed node")?;
        rule(shard.is.lives().all(is_accounted), "a member is wanted or leaving")?;
        rule(
            !shard.leaving.keys().any(|life| shard.wanted.has(life)),
            "no leaving life is wanted",
        )?;
        rule(!shard.is.voters.is_empty(), "a shard has voters")?;
        rule(shard.is.voters.is_disjoint(&shard.is.learners), "no learner votes")?;
        rule(shard.wanted.version <= self.version, "no wish is of the future")?;
        rule(shard.is.taken <= self.version, "no wish was taken before it was made")?;
        let is_able = |preference: Preference| {
            shard.wanted.members.contains_key(&preference.node)
                && self.nodes.get(&preference.node).map(|node| node.state)
                    == Some(NodeState::Serving)
        };
        rule(shard.preference.is_none_or(is_able), "the preferred leader is a serving member")
    }
}
