//! The topology, built again from what nodes know, after its group was lost for ever.
//!
//! The group of the topology is lost if the directories of a majority of its members are gone. What it
//! kept is intent. The facts are elsewhere: each group has its members in its own log, and each node
//! keeps the last topology that it knew. So a new topology is the latest kept one with the facts that
//! nodes report, and a new group of its own:
//!
//! ```text
//! kept by nodes        57   58   58   55          the latest one counts
//! reports of nodes     members, births, addresses  as facts, through the same gatekeeper
//!                       │
//!                       ▼
//! generation 2, version 58 + 1,048,576: META on nodes 4⁹ 5⁹ 6⁹
//! ```
//!
//! * The version is far above each that the lost group can have reached unheard. Groups and nodes
//!   take a later version only, so nothing of the old group is taken after that.
//! * Each group of locks is to have the members that the copy wants, until its leader has told what it
//!   has. Until then no replica counts as out, because the lost group may have moved it there.
//! * Births and ids are above all that are known, so no life and no node begins twice.
//! * What contradicts itself is an [`Obstacle`]: nothing is built. What is gone is a [`Loss`]: it is
//!   shown, and the rest is built.
//!
//! The module knows nothing of how nodes are asked, and of what keeps the old group from serving.

use crate::codec::record;
use crate::command::{Command, Proposal};
use crate::plan::{Report, Role};
use crate::refusal::Refusal;
use crate::state::*;
use routing::{META, NodeId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// How far the version rises. No group makes so many changes that no node which answers has heard of.
const VERSIONS: u64 = 1 << 20;

/// How far new ids are above those that are known. No more nodes join without one that answers
/// hearing of it.
const IDS: u64 = 1_000;

/// What a node tells when the topology is to be built again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The node and its replicas.
    pub report: Report,
    /// The last topology that it kept. Version 0: none.
    pub kept: Topology,
    /// The highest generation that it knows of or was promised for.
    pub generation: u64,
    /// The node that leads META, as its replica of META hears.
    pub leader: Option<NodeId>,
    /// The highest birth of all replicas that its data directory ever had.
    pub last_birth: Birth,
}

record!(Told { report, kept, generation, leader, last_birth });

/// A topology that was built again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// The topology. Its group has exactly its founders.
    pub topology: Topology,
    /// What it lacks.
    pub losses: Vec<Loss>,
}

/// The reason why no topology is built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// There is nothing to begin with.
    #[error(
        "no node that answers has kept a topology: start the nodes that were in the cluster for longer"
    )]
    NothingKept,
    /// The group of the topology is not lost.
    #[error(
        "node {leader} leads the group of the topology, as node {node} hears, so it is not lost: see \
         `palisade cluster status`"
    )]
    Led {
        /// The node that tells it.
        node: NodeId,
        /// The leader.
        leader: NodeId,
    },
    /// A majority of the group of the topology still works.
    #[error(
        "{} of {voters} voters of the group of the topology work, which is a majority, so it will have \
         a leader once they reach each other: see `palisade cluster status`; if that never comes, stop \
         one of them for good and name it with `--lost`", in_words(.working)
    )]
    Working {
        /// The nodes of its voters that work.
        working: Vec<NodeId>,
        /// The number of its voters.
        voters: u32,
    },
    /// A node of the cluster does not answer.
    #[error(
        "node {node} at {address} does not answer: start it, or say with `--lost {node}` that it is \
         gone for good"
    )]
    Silent {
        /// The node.
        node: NodeId,
        /// Its address, as far as it is known.
        address: String,
    },
    /// A node that is said to be gone answers.
    #[error(
        "node {0} answers, so it is not lost: leave out `--lost {0}`, or stop that node for good"
    )]
    NotLost(NodeId),
    /// No node has this id.
    #[error("there is no node {0} that could be lost: see `palisade cluster nodes`")]
    Unknown(NodeId),
    /// Two nodes have kept different topologies of one version.
    #[error(
        "nodes {one} and {other} have kept two different topologies of version {version}: stop the one \
         that is not of this cluster, and name it as lost"
    )]
    Contradiction {
        /// A node.
        one: NodeId,
        /// Another node.
        other: NodeId,
        /// The version.
        version: Version,
    },
    /// Two replicas tell different members at one place of one log.
    #[error(
        "nodes {one} and {other} tell different members of shard {shard} at entry {index} of its log: \
         stop the one with the damaged data, and name it as lost"
    )]
    Members {
        /// The shard.
        shard: ShardId,
        /// A node.
        one: NodeId,
        /// Another node.
        other: NodeId,
        /// The place in the log.
        index: u64,
    },
    /// A group has a member on a node that no kept topology has.
    #[error(
        "shard {shard} has a member on node {node}, which no kept topology has: start node {node}, or say \
         with `--lost {node}` that it is gone for good"
    )]
    UnknownMember {
        /// The shard.
        shard: ShardId,
        /// The node.
        node: NodeId,
    },
    /// A replica is of a shard that no kept topology has.
    #[error(
        "node {node} has a replica of shard {shard}, which no kept topology has: start the nodes that \
         know it, or stop this one and name it as lost"
    )]
    UnknownShard {
        /// The node.
        node: NodeId,
        /// The shard.
        shard: ShardId,
    },
    /// What a node tells does not fit.
    #[error("what node {node} tells does not fit the kept topology: {refusal}")]
    Fact {
        /// The node.
        node: NodeId,
        /// The reason.
        refusal: Refusal,
    },
    /// The result breaks a rule of topologies.
    #[error("what the nodes tell makes no topology ({0}): report this with the output")]
    Unsound(&'static str),
    /// No node can have the group of the topology.
    #[error("no node that answers can found the group of the topology: start nodes that serve")]
    NoFounder,
}

/// What a topology that was built again lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// Changes of the lost group that no node which answers has heard of.
    #[error(
        "changes after version {0}, which no node has kept: members and addresses are told again, jobs \
         and settings are not"
    )]
    Changes(Version),
    /// A node is said to be gone.
    #[error(
        "node {0} is counted as lost and stays in the topology: put another in its place with `palisade \
         cluster replace-node {0} NEW`"
    )]
    Node(NodeId),
    /// A node of which nothing is known but that it is a member of a group is said to be gone.
    #[error("node {0} is counted as removed: no node that answers has kept more of it than its id")]
    Gone(NodeId),
    /// A node that was removed answers.
    #[error("node {0} was removed and answers: it stays removed, so wipe its directory")]
    Removed(NodeId),
    /// A shard has no majority of its voters.
    #[error(
        "shard {shard}: of its voters on {} only {heard} answer, so it serves nothing until more of \
         them come back with their data", in_words(.voters)
    )]
    Quorum {
        /// The shard.
        shard: ShardId,
        /// The nodes of its voters.
        voters: Vec<NodeId>,
        /// How many of them have told of their replica.
        heard: u32,
    },
    /// The wish for the members of a shard.
    #[error(
        "the wish for the members of shard {shard}, which was changed after version {kept}: the \
         members that it has are wanted"
    )]
    Wish {
        /// The shard.
        shard: ShardId,
        /// The version that was kept.
        kept: Version,
    },
}

fn in_words(nodes: &[NodeId]) -> String {
    let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    format!("{} {}", if ids.len() == 1 { "node" } else { "nodes" }, ids.join(", "))
}

/// The generation after all that nodes know of.
pub fn next_generation(told: &BTreeMap<NodeId, Told>) -> u64 {
    let known = |told: &Told| told.generation.max(told.kept.cluster.generation);
    told.values().map(known).max().unwrap_or(0).saturating_add(1)
}

/// The nodes with their addresses that are in a kept topology, have told nothing, and are not named as
/// lost. All of them must answer.
pub fn awaited(told: &BTreeMap<NodeId, Told>, lost: &BTreeSet<NodeId>) -> BTreeMap<NodeId, String> {
    let Some((_, latest)) = latest(told) else { return BTreeMap::new() };
    let silent = latest.present().filter(|(id, _)| !told.contains_key(id) && !lost.contains(id));
    silent.map(|(id, node)| (id, node.address.clone())).collect()
}

/// The latest kept topology, with a node that has kept it.
fn latest(told: &BTreeMap<NodeId, Told>) -> Option<(NodeId, &Topology)> {
    let kept = told.iter().map(|(node, told)| (*node, &told.kept));
    kept.filter(|(_, kept)| kept.is_founded()).max_by_key(|(node, kept)| {
        (kept.cluster.generation, kept.version, std::cmp::Reverse(*node))
    })
}

/// Builds the topology of this generation from what nodes tell. `lost` are the nodes that an operator
/// says are gone for good.
///
/// # Errors
/// All [`Obstacle`]s, at least one.
pub fn rebuild(
    told: &BTreeMap<NodeId, Told>,
    lost: &BTreeSet<NodeId>,
    generation: u64,
    wall_s: u64,
) -> Result<Rebuilt, Vec<Obstacle>> {
    let Some((from, base)) = latest(told) else { return Err(vec![Obstacle::NothingKept]) };
    let mut obstacles = refusals(told, lost, (from, base));
    let mut building = Building::new(told, base, generation, wall_s);
    building.remove_unknown(lost);
    obstacles.extend(building.take_facts());
    if !obstacles.is_empty() {
        return Err(obstacles);
    }
    let kept = lost.iter().filter(|node| base.node(**node).is_some());
    building.losses.extend(kept.map(|node| Loss::Node(*node)));
    building.raise_births();
    building.begin(base);
    building.found_meta(base)?;
    let Building { topology, losses, .. } = building;
    topology.check().map_err(|rule| vec![Obstacle::Unsound(rule)])?;
    Ok(Rebuilt { topology, losses })
}

/// What must not be, whatever the facts are.
fn refusals(
    told: &BTreeMap<NodeId, Told>,
    lost: &BTreeSet<NodeId>,
    (from, base): (NodeId, &Topology),
) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    for (node, one) in told {
        let leads = one.report.replicas.get(&META).is_some_and(|meta| meta.role == Role::Leader);
        let leader = if leads { Some(*node) } else { one.leader };
        obstacles.extend(leader.map(|leader| Obstacle::Led { node: *node, leader }));
        let is_same = (one.kept.cluster.generation, one.kept.version)
            == (base.cluster.generation, base.version);
        if is_same && one.kept != *base {
            let version = base.version;
            obstacles.push(Obstacle::Contradiction { one: from, other: *node, version });
        }
    }
    let voters = base.shard(META).map(|meta| &meta.is.voters).into_iter().flatten();
    let (voters, working): (u32, Vec<NodeId>) =
        voters.fold((0, Vec::new()), |(all, mut working), life| {
            // A replica that has failed, or was given up, is not among those that a node tells.
            let replica = told.get(&life.node).and_then(|told| told.report.replicas.get(&META));
            working
                .extend(replica.filter(|replica| replica.birth == life.birth).map(|_| life.node));
            (all + 1, working)
        });
    if working.len() > voters as usize / 2 {
        obstacles.push(Obstacle::Working { working, voters });
    }
    for node in lost {
        if told.contains_key(node) {
            obstacles.push(Obstacle::NotLost(*node));
        } else if base.node(*node).is_none() && !members(told).contains(node) {
            obstacles.push(Obstacle::Unknown(*node));
        }
    }
    let silent = awaited(told, lost).into_iter();
    obstacles.extend(silent.map(|(node, address)| Obstacle::Silent { node, address }));
    obstacles
}

/// The nodes on which groups have members, as their replicas tell.
fn members(told: &BTreeMap<NodeId, Told>) -> BTreeSet<NodeId> {
    let replicas = told.values().flat_map(|told| told.report.replicas.values());
    replicas.flat_map(|replica| replica.members.lives()).map(|life| life.node).collect()
}

/// The highest id that a node may have.
fn former_ids(told: &BTreeMap<NodeId, Told>) -> NodeId {
    let of =
        |told: &Told| told.kept.nodes.keys().copied().chain([told.kept.cluster.former_ids]).max();
    let known = told.iter().flat_map(|(node, told)| [Some(*node), of(told)]).flatten();
    let highest = known.chain(members(told)).max();
    NodeId(highest.map_or(0, |id| id.0).saturating_add(IDS))
}

/// A topology in the making.
struct Building<'a> {
    topology: Topology,
    /// What the nodes tell that are not removed.
    told: BTreeMap<NodeId, &'a Told>,
    wall_s: u64,
    losses: Vec<Loss>,
}

impl<'a> Building<'a> {
    fn new(
        told: &'a BTreeMap<NodeId, Told>,
        base: &Topology,
        generation: u64,
        wall_s: u64,
    ) -> Building<'a> {
        let mut topology = base.clone();
        let taken = told.values().flat_map(|told| told.report.replicas.values());
        let taken = taken.map(|replica| replica.members.taken);
        let kept = told.values().map(|told| told.kept.version);
        topology.version.0 = taken.chain(kept).max().unwrap_or_default().0.saturating_add(VERSIONS);
        topology.cluster.generation = generation;
        topology.cluster.begun = Version(0); // what nodes tell is no word of their groups' leaders
        topology.cluster.former_ids = former_ids(told);
        let is_removed =
            |id: &NodeId| base.node(*id).is_some_and(|node| node.state == NodeState::Removed);
        let (removed, present): (Vec<_>, Vec<_>) =
            told.iter().partition(|(node, _)| is_removed(node));
        let mut losses = vec![Loss::Changes(base.version)];
        losses.extend(removed.into_iter().map(|(node, _)| Loss::Removed(*node)));
        let told = present.into_iter().map(|(node, told)| (*node, told)).collect();
        Building { topology, told, wall_s, losses }
    }

    /// Counts the lost nodes that no kept topology has as removed. Their lives leave their groups.
    fn remove_unknown(&mut self, lost: &BTreeSet<NodeId>) {
        for id in lost {
            if self.topology.nodes.contains_key(id) {
                continue;
            }
            let node = Node::untold(String::new(), None, NodeState::Removed);
            self.topology.nodes.insert(*id, node);
            self.losses.push(Loss::Gone(*id));
            self.let_leave(*id);
        }
    }

    /// Lets each life leave that groups have on a node.
    fn let_leave(&mut self, id: NodeId) {
        let replicas = self.told.values().flat_map(|told| &told.report.replicas);
        for (shard, replica) in replicas {
            let Some(shard) = self.topology.shards.get_mut(shard) else { continue };
            let Some(node) = self.topology.nodes.get_mut(&id) else { return };
            for life in replica.members.lives().filter(|life| life.node == id) {
                node.last_birth = node.last_birth.max(life.birth);
                shard.leaving.insert(life, shard.wanted.version);
            }
        }
    }

    fn apply(&mut self, node: NodeId, command: Command) -> Option<Obstacle> {
        let applied = self.topology.apply(&Proposal::new(self.wall_s, command));
        applied.err().map(|refusal| Obstacle::Fact { node, refusal })
    }

    /// Takes what nodes tell of themselves and of their groups.
    fn take_facts(&mut self) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        let told: Vec<(NodeId, &Told)> = self.told.iter().map(|(id, one)| (*id, *one)).collect();
        for (node, one) in &told {
            let fact = Command::NodeIs { told: one.report.told.clone() };
            obstacles.extend(self.apply(*node, fact));
            let of_locks = one.report.replicas.keys().filter(|shard| **shard != META);
            let unknown = of_locks.filter(|shard| self.topology.shard(**shard).is_none());
            let unknown =
                unknown.map(|shard| Obstacle::UnknownShard { node: *node, shard: *shard });
            obstacles.extend(unknown.collect::<Vec<_>>());
        }
        let shards = self.topology.shards.keys().copied().filter(|shard| *shard != META);
        for shard in shards.collect::<Vec<_>>() {
            obstacles.extend(self.take_members(shard, &told));
        }
        obstacles
    }

    /// Takes the latest members that a replica of the shard tells.
    fn take_members(&mut self, shard: ShardId, told: &[(NodeId, &Told)]) -> Option<Obstacle> {
        let kept = self.topology.shard(shard)?.wanted.version;
        let place = |members: &Members| (members.taken, members.conf_index);
        let told = told.iter();
        let told = told.filter_map(|(node, one)| Some((*node, one.report.replicas.get(&shard)?)));
        let mut latest: Option<(NodeId, &Members)> = None;
        for (node, replica) in told {
            let members = &replica.members;
            match latest {
                Some((one, known)) if place(known) == place(members) && known != members => {
                    let (other, index) = (node, members.conf_index);
                    return Some(Obstacle::Members { shard, one, other, index });
                }
                Some((_, known)) if place(known) >= place(members) => {}
                _ => latest = Some((node, members)),
            }
        }
        let Some((node, members)) = latest else {
            self.tell_quorum(shard);
            return None;
        };
        let obstacle = match self.apply(node, Command::Is { shard, members: members.clone() }) {
            Some(Obstacle::Fact { refusal: Refusal::UnknownNode(node), .. }) => {
                Some(Obstacle::UnknownMember { shard, node })
            }
            obstacle => obstacle,
        };
        if members.taken > kept && obstacle.is_none() {
            self.losses.push(Loss::Wish { shard, kept });
        }
        self.tell_quorum(shard);
        obstacle
    }

    /// Tells whether a shard has lost its quorum.
    fn tell_quorum(&mut self, id: ShardId) {
        let Some(shard) = self.topology.shard(id) else { return };
        let has_told = |life: &&Life| {
            let told = self.told.get(&life.node).and_then(|told| told.report.replicas.get(&id));
            told.is_some_and(|replica| replica.birth == life.birth)
        };
        let heard = shard.is.voters.iter().filter(has_told).count();
        if heard <= shard.is.voters.len() / 2 {
            let voters = shard.is.voters.iter().map(|life| life.node).collect();
            self.losses.push(Loss::Quorum { shard: id, voters, heard: heard as u32 });
        }
    }

    /// Raises the last birth of each node above all that are known, and to the present second: the lost
    /// group may have given births that no node which answers has heard of.
    fn raise_births(&mut self) {
        let now = u32::try_from(self.wall_s).unwrap_or(0);
        for (id, node) in &mut self.topology.nodes {
            node.last_birth.0 = node.last_birth.0.max(now);
            for told in self.told.values() {
                let kept = told.kept.node(*id).map(|node| node.last_birth);
                let members = told.report.replicas.values().flat_map(|told| told.members.lives());
                let births = members.filter(|life| life.node == *id).map(|life| life.birth);
                let own = (told.report.told.node == *id).then_some(told.last_birth);
                let highest = births.chain(own).chain(kept).max();
                node.last_birth = node.last_birth.max(highest.unwrap_or_default());
            }
        }
    }

    /// Begins the generation. Each wish has the version of the kept copy, by which a group tells that
    /// it has taken a later one.
    fn begin(&mut self, base: &Topology) {
        self.topology.cluster.begun = self.topology.version;
        for (id, shard) in &mut self.topology.shards {
            let kept = base.shard(*id).map(|kept| kept.wanted.version);
            shard.wanted.version = kept.unwrap_or(shard.wanted.version);
        }
    }

    /// Founds META anew on nodes that answer: five of five or more, three of three or more, else one.
    /// They are spread over zones, and members of the former group go first.
    fn found_meta(&mut self, base: &Topology) -> Result<(), Vec<Obstacle>> {
        let is_able = |id: &NodeId| {
            let node = self.topology.node(*id);
            node.is_some_and(|node| node.state == NodeState::Serving)
        };
        let mut able: Vec<NodeId> = self.told.keys().copied().filter(is_able).collect();
        if able.is_empty() {
            able = self.told.keys().copied().collect();
        }
        let count = match able.len() {
            5.. => 5,
            3.. => 3,
            _ => 1,
        };
        let zone = |id: &NodeId| self.topology.node(*id).and_then(|node| node.zone.clone());
        let was_member =
            |id: &NodeId| base.shard(META).is_some_and(|meta| meta.wanted.members.contains_key(id));
        let mut chosen: Vec<NodeId> = Vec::new();
        while chosen.len() < count {
            let beside = |id: &NodeId| {
                let own = zone(id);
                own.map_or(0, |own| {
                    chosen.iter().filter(|id| zone(id).as_ref() == Some(&own)).count()
                })
            };
            let left = able.iter().filter(|id| !chosen.contains(id));
            let next = left.min_by_key(|id| (beside(id), !was_member(id), **id)).copied();
            chosen.push(next.ok_or_else(|| vec![Obstacle::NoFounder])?);
        }
        self.topology.version = self.topology.version.next();
        let version = self.topology.version;
        let mut founders: BTreeMap<NodeId, Birth> = BTreeMap::new();
        for id in &chosen {
            let node = self.topology.nodes.get_mut(id).ok_or_else(|| vec![Obstacle::NoFounder])?;
            let birth = node.give_birth(self.wall_s).ok_or_else(|| {
                vec![Obstacle::Fact { node: *id, refusal: Refusal::NoBirths(*id) }]
            })?;
            founders.insert(*id, birth);
        }
        let voters = founders.iter().map(|(node, birth)| Life { node: *node, birth: *birth });
        let is = Members { taken: version, voters: voters.collect(), ..Members::default() };
        let serving = chosen.iter().find(|id| {
            self.topology.node(**id).is_some_and(|node| node.state == NodeState::Serving)
        });
        let preference =
            serving.map(|node| Preference { node: *node, from: None, at_s: self.wall_s });
        let wanted = Wanted { version, members: founders.clone() };
        let leaving = BTreeMap::new();
        self.topology.shards.insert(META, Shard { founders, wanted, is, leaving, preference });
        Ok(())
    }
}
