//! What the world remembers of META: its questions, what was acknowledged, and each state that any
//! replica had.

use crate::checker::plans::LifeJudge;
use routing::{NodeId, ShardId};
use shard::{Founders, Ticket, TopologyNews};
use std::collections::{BTreeMap, BTreeSet};
use topology::{JobId, Seed, Topology, Version};

/// For each shard the members that it shall have, and the leader that it should have.
pub(crate) type Places = BTreeMap<ShardId, (BTreeSet<NodeId>, Option<NodeId>)>;

/// A question of the world to a replica of META.
pub(crate) struct Asked {
    pub node: u64,
    pub what: Question,
}

pub(crate) enum Question {
    /// A proposal.
    Change,
    /// A linearizable read, for a copy of this version. By now this version was acknowledged.
    Read { known: Version, acknowledged: Version },
    /// A proposal of the controller on that node.
    Planned,
    /// An order of an operator: a job, or something else.
    Order { is_job: bool },
    /// This node wants to join.
    Join { node: u64 },
}

/// What the world remembers of META.
pub(crate) struct Meta {
    /// The first topology.
    pub seed: Seed,
    pub asked: BTreeMap<Ticket, Asked>,
    /// The highest version that a proposal was answered with.
    pub acknowledged: Version,
    /// The hash of the state at each version, as first seen.
    pub hashes: BTreeMap<Version, u64>,
    /// The copy of each node's host, by the news of its replica.
    pub copies: BTreeMap<u64, Topology>,
    /// A copy that follows by linearizable reads.
    pub reader: Topology,
    /// The newest topology that any replica has applied.
    pub newest: Topology,
    pub lives: LifeJudge,
    /// The members and leaders when each job began.
    pub places: BTreeMap<JobId, Places>,
    /// Until then no replica hears another one.
    pub silent_until_us: u64,
    /// From this time on, leaders of shard 0 found META.
    pub founded_from_us: u64,
    /// Its founders, as the first node was told.
    pub founders: Option<Founders>,
    /// The nodes that were told since their start.
    pub told: BTreeSet<u64>,
}

impl Meta {
    pub(crate) fn new(seed: Seed, founded_from_us: u64) -> Meta {
        Meta {
            seed,
            asked: BTreeMap::new(),
            acknowledged: Version::default(),
            hashes: BTreeMap::new(),
            copies: BTreeMap::new(),
            reader: Topology::default(),
            newest: Topology::default(),
            lives: LifeJudge::default(),
            places: BTreeMap::new(),
            silent_until_us: 0,
            founded_from_us,
            founders: None,
            told: BTreeSet::new(),
        }
    }

    /// A node has stopped, and answers nothing that it was asked.
    pub(crate) fn forget(&mut self, node: u64) {
        self.copies.remove(&node);
        self.told.remove(&node);
        self.asked.retain(|_, asked| asked.node != node);
    }

    /// Notes the state at its version. Returns whether another one was seen there before.
    pub(crate) fn differs(&mut self, topology: &Topology) -> bool {
        let hash = topology.state_hash();
        *self.hashes.entry(topology.version()).or_insert(hash) != hash
    }
}

/// Brings a copy up to date.
///
/// # Errors
/// If a change is missing.
pub(crate) fn follow(copy: &mut Topology, news: TopologyNews) -> Result<(), topology::Gap> {
    match news {
        TopologyNews::Deltas(deltas) => deltas.iter().try_for_each(|delta| copy.follow(delta)),
        TopologyNews::All(all) => {
            *copy = *all;
            Ok(())
        }
    }
}
