//! The reasons why a job should not begin as things stand, although the topology permits it.
//!
//! An objection is for the operator, before the job is proposed. So it may look at reports, which the
//! topology does not, and the operator may take the risk ([`Accepted`]). A job that has begun is
//! never ended for it: what does not go on waits, and says why. This module knows nothing of how
//! members are chosen.

use super::steps::{Step, quorum, steps};
use super::{Reports, Round};
use crate::refusal::Refusal;
use crate::state::*;
use routing::{META, NodeId, ShardId};
use std::collections::BTreeSet;

/// The risks that an operator takes with a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// On its way a group may need every voter that is heard of.
    pub no_spare: bool,
    /// A replica may go to another zone.
    pub other_zone: bool,
}

/// The reason why this job should not begin now.
///
/// ```
/// use palisade_topology::plan::{Accepted, Reports, objection};
/// use palisade_topology::{Command, JobKind, Proposal, Seed, Topology};
/// use routing::{ClusterConfig, NodeId};
///
/// let mut topology = Topology::default();
/// let seed = Command::Bootstrap { seed: Seed::of(&ClusterConfig::dev(2, 3, 7400).unwrap()) };
/// topology.apply(&Proposal::new(1_700_000_000, seed)).unwrap();
/// let reports = Reports { since_ms: 0, nodes: Default::default() };
/// let drain = JobKind::Drain { node: NodeId(1) };
/// assert_eq!(objection(&topology, &reports, 0, &drain, Accepted::default()), None);
/// ```
pub fn objection(
    topology: &Topology,
    reports: &Reports,
    now_ms: u64,
    kind: &JobKind,
    accepted: Accepted,
) -> Option<Refusal> {
    match *kind {
        JobKind::Replicas { count, shard } if !accepted.no_spare => {
            let mut round = Round::new(topology, reports, now_ms);
            round.record_facts();
            let mut shards = topology.shards().keys().copied();
            let is_meant = |id: &ShardId| *id != META && shard.is_none_or(|only| only == *id);
            shards.find_map(|id| is_meant(&id).then(|| round.no_spare(id, count as usize))?)
        }
        JobKind::ReplaceNode { old, new } if !accepted.other_zone => {
            let zone = |node| Some(topology.node(node)?.zone.as_deref());
            let (left, comes) = (zone(old)??, zone(new)?);
            let zone = left.to_owned();
            (comes != Some(left)).then_some(Refusal::OtherZone { old, new, zone })
        }
        _ => None,
    }
}

impl Round<'_> {
    /// The refusal of another number of members, if the group would need each voter that is heard of
    /// on its way, because others are silent.
    fn no_spare(&self, id: ShardId, count: usize) -> Option<Refusal> {
        let shard = self.topology.shard(id)?;
        let members: BTreeSet<NodeId> = shard.wanted.members.keys().copied().collect();
        if members.len() == count {
            return None;
        }
        let birth = |id: &NodeId| shard.life_on(*id, self.topology.node(*id)?);
        let life = |node: NodeId| Life { node, birth: birth(&node).unwrap_or(Birth(u32::MAX)) };
        let wanted = self.resized(id, members, count)?.into_iter().map(life).collect();
        let way = steps(id, &shard.is, &wanted, |node| self.is_heard(node)).ok()?;
        let mut voters = shard.is.voters.clone();
        way.into_iter().find_map(|step| {
            match step {
                Step::Add(_) => return None,
                Step::Promote(life) => voters.insert(life),
                Step::Remove(life) => voters.remove(&life),
            };
            let heard = voters.iter().filter(|life| self.is_heard(life.node)).count();
            let all = voters.len();
            (heard < all && heard == quorum(all)).then_some(Refusal::NoSpare {
                shard: id,
                heard: heard as u32,
                voters: all as u32,
            })
        })
    }
}
