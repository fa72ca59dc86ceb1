//! What the topology asks of a node: which replicas come and go, which wishes the groups that are
//! led there get, and what the node reports.
//!
//! * A replica comes because the topology wants its life there, and goes once the topology says
//!   that this life is out. A replica that is neither wanted nor out stays: its group may need its
//!   vote.
//! * What a node knows of a group decides nothing, because a replica that leaves its group is often
//!   not told so.
//! * A life begins only if the topology that wants it knows the node's data directory. A re-seed
//!   takes its incarnation without the topology, so a life that was wanted before may have a higher
//!   birth, and may have voted on the lost directory. With the record of a re-seeded directory, the
//!   topology replaces each such life by one that the node never had.
//!
//! Hosts and simulators act by this. It knows nothing of how replicas begin and end, and of the way
//! by which a topology comes.

use crate::api::{Member, Role, Status};
use crate::parts::group::{Wanted, WantedError};
use crate::planted_bugs;
use routing::{NodeId, ShardId};
use std::collections::BTreeMap;
use storage::Lives;
use topology::plan::{self, ReplicaReport};
use topology::{Birth, Life, Members, StoreId, Topology, Version};

/// A replica that comes to a node, or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostingStep {
    /// The replica with this birth comes.
    Host(ShardId, Birth),
    /// The replica with this birth goes, with its data.
    Unhost(ShardId, Birth),
}

/// The steps from the lives on node `own` to those that the topology says. Lives of shards that it
/// does not know are left alone: a program of a later version may have put them there.
///
/// A life that the group has and that is not wanted is not begun. If it is not here, it was on a
/// lost directory, or it never began: the group can go on without it.
pub fn hosting_steps(
    topology: &Topology,
    own: NodeId,
    lives: &BTreeMap<ShardId, Lives>,
) -> Vec<HostingStep> {
    let hosted = |shard: &ShardId| lives.get(shard).and_then(|lives| lives.hosted).map(Birth);
    let is_out = |shard: &ShardId, birth: Birth| {
        let life = Life { node: own, birth };
        let is_wanted = topology.shard(*shard).is_some_and(|known| known.wanted.has(&life));
        planted_bugs::is_out(topology.is_out(*shard, life), is_wanted)
    };
    let here = lives.keys().filter_map(|shard| Some((*shard, hosted(shard)?)));
    let go = here.filter(|(shard, birth)| is_out(shard, *birth));
    let wanted = topology
        .shards()
        .iter()
        .filter_map(|(shard, known)| Some((*shard, *known.wanted.members.get(&own)?)));
    // A former life that is not out is waited for. A later one is that of a re-seeded directory.
    let come = wanted.filter(|(shard, birth)| {
        hosted(shard).is_none_or(|here| here < *birth && is_out(shard, here))
    });
    let go = go.map(|(shard, birth)| HostingStep::Unhost(shard, birth));
    go.chain(come.map(|(shard, birth)| HostingStep::Host(shard, birth))).collect()
}

/// The wish of the topology for a group that has taken the wish of this version, if it is later.
///
/// A group that never had a wish has the members of the founding. So a cluster whose topology
/// nobody has changed writes no wishes.
///
/// # Errors
/// [`WantedError`] if the topology wants members that cannot be.
pub fn wish_due(
    topology: &Topology,
    shard: ShardId,
    taken: Version,
) -> Result<Option<Wanted>, WantedError> {
    let founding = Version::default().next();
    let Some(known) = topology.shard(shard) else { return Ok(None) };
    if known.wanted.version <= taken.max(founding) {
        return Ok(None);
    }
    let members = known.wanted.lives().map(|life| (life.node, life.birth.0));
    Wanted::new(known.wanted.version.0, members).map(Some)
}

/// What the topology says of a node's data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The name of the directory. `None`: no node with this id has told it yet.
    pub store: Option<StoreId>,
    /// The version of the topology at which a re-seeded directory was recorded, else 0.
    pub since: Version,
}

/// A life of a replica that the topology wants on a node. All fields are of one version of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WantedLife {
    /// The birth.
    pub birth: u32,
    /// The version of the topology that last changed the wanted members of the shard.
    pub version: Version,
    /// The generation of the topology. 0 is the first one, too.
    pub generation: u64,
    /// The data directory of the node.
    pub directory: Recorded,
}

/// The reason why a life may not begin on a data directory yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotYet {
    /// The topology knows another data directory of the node, or none and this one is re-seeded.
    #[error(
        "the topology does not have the data directory with which this node runs: wait until the leader of the topology's \
         group has recorded it"
    )]
    NotRecorded,
    /// The life may have been on a directory that is lost.
    #[error(
        "a replica with birth {birth} may have voted on a data directory before incarnation {incarnation}: wait until \
         the topology wants a later one"
    )]
    OnLostDirectory {
        /// The birth of the life that was to begin.
        birth: u32,
        /// The incarnation of the node's directory.
        incarnation: u32,
    },
}

impl WantedLife {
    /// The life of a shard that the topology wants on a node, if it does.
    pub fn of(topology: &Topology, shard: ShardId, node: NodeId) -> Option<WantedLife> {
        let wanted = &topology.shard(shard)?.wanted;
        let birth = wanted.members.get(&node)?.0;
        let node = topology.node(node)?;
        let directory = Recorded { store: node.store, since: node.directory_since };
        let (version, generation) = (wanted.version, topology.cluster().generation);
        Some(WantedLife { birth, version, generation, directory })
    }

    /// Checks that no replica with this life can have been on another directory than the present
    /// one, `own` of this incarnation.
    ///
    /// How it goes wrong without the check:
    ///
    /// 1. The topology wants a life with birth 900 on a node. It votes.
    /// 2. The directory is lost. The peers that answer the re-seed do not have the shard, and the
    ///    clock of the node is slow. So the new directory has incarnation 800.
    /// 3. Birth 900 is above that, and begins for a second time.
    ///
    /// # Errors
    /// [`NotYet`]: the life may have been on another directory.
    pub fn check(&self, own: StoreId, incarnation: u32) -> Result<(), NotYet> {
        let is_recorded = self.directory.store == Some(own);
        let is_first = incarnation == 0 && self.directory.store.is_none();
        if !is_recorded && !is_first {
            return Err(NotYet::NotRecorded);
        }
        // The re-seed itself gave the life with its own incarnation as birth.
        let is_later = self.birth > incarnation && self.version >= self.directory.since;
        if self.birth == incarnation || is_later {
            return Ok(());
        }
        Err(NotYet::OnLostDirectory { birth: self.birth, incarnation })
    }
}

/// The report of a replica with this status, which applies so many operations per second.
///
/// What the topology takes for members decides which replicas are destroyed. So a leader whose
/// members are not durable in the group ([`Status::members_durable`]) tells them with index and
/// version 0, which the topology does not take.
pub fn replica_report(status: &Status, ops_per_s: u64) -> ReplicaReport {
    let leads = status.role == Role::Leader;
    let mut members = Members::default();
    if !leads || status.members_durable {
        members.conf_index = status.conf_index;
        members.taken = Version(status.wanted.as_ref().map_or(0, Wanted::version));
    }
    for member in &status.members {
        let life = Life { node: member.node, birth: Birth(member.incarnation) };
        match member.learner {
            true => members.learners.insert(life),
            false => members.voters.insert(life),
        };
    }
    let own = Life { node: status.node, birth: Birth(status.incarnation) };
    let role = match () {
        () if leads => plan::Role::Leader,
        () if members.voters.contains(&own) => plan::Role::Follower,
        () => plan::Role::Learner,
    };
    ReplicaReport {
        birth: own.birth,
        role,
        term: status.term,
        lag_entries: status.behind_entries(),
        members,
        ops_per_s: if leads { ops_per_s } else { 0 },
    }
}

impl Status {
    /// On a leader: the nodes of voters that do not answer, or lack entries of more than two ticks ago.
    /// Elsewhere none.
    pub fn behind_voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        let leads = self.role == Role::Leader;
        let voters = self.members.iter().filter(move |member| leads && !member.learner);
        voters.map(|member| member.node).filter(|node| !self.caught_up.contains(node))
    }

    /// The entries that the replica knows to lack.
    pub fn behind_entries(&self) -> u64 {
        self.told_committed_index.saturating_sub(self.applied_index)
    }

    /// Whether the replica hears of its group's entries, as far as it knows.
    ///
    /// A replica without a vote does not notice that its leader is silent, because it never calls
    /// an election. It may have been removed from its group.
    pub fn hears_its_group(&self) -> bool {
        let own = (self.node, self.incarnation);
        let is_me = |member: &Member| (member.node, member.incarnation) == own && !member.learner;
        self.leader.is_some() && self.members.iter().any(is_me)
    }
}

#[cfg(test)]
mod tests;
