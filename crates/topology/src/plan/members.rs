//! Which members shards should have: what may be wished, where replicas go, repairs, and META.
//!
//! Every wish passes [`Round::wish`], so no plan leaves a shard fewer heard-of voters than a quorum.
//! This module knows nothing of jobs.

use super::Round;
use super::counts::Counts;
use super::steps::steps;
use crate::command::Command;
use crate::state::*;
use crate::why::Why;
use routing::{META, NodeId, ShardId};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// How many replicas are on their way to one node at a time.
const INCOMING_MAX: usize = 2;

impl Round<'_> {
    /// Wants these members of a shard, if its group can get there safely now.
    ///
    /// - The group is settled, so that one change is over before the next begins. Otherwise the wish
    ///   must give up a wanted node that is not heard of, because the group may wait for it in vain.
    /// - Every step has a quorum of voters that are heard of.
    /// - New members are heard of, and not too many replicas are on their way to them.
    pub(super) fn wish(&mut self, id: ShardId, members: BTreeSet<NodeId>) -> Result<(), Why> {
        let Some(shard) = self.topology.shard(id) else { return Ok(()) };
        if shard.wanted.members.keys().eq(&members) {
            return Ok(());
        }
        if self.topology.is_unheard(shard) {
            return Err(Why::NoLeader { shard: id }); // what it has may be known no more
        }
        let given_up = shard.wanted.members.keys().filter(|node| !members.contains(node));
        let gives_up_silent = given_up.clone().any(|node| !self.is_heard(*node));
        if let Some(node) = self.in_the_way(shard)
            && !gives_up_silent
        {
            return Err(Why::Changing { shard: id, node });
        }
        // A birth that is not given yet will be above all others.
        let birth = |id: &NodeId| shard.life_on(*id, self.topology.node(*id)?);
        let life =
            |node: &NodeId| Life { node: *node, birth: birth(node).unwrap_or(Birth(u32::MAX)) };
        let lives = members.iter().map(life).collect();
        steps(id, &shard.is, &lives, |node| self.is_heard(node))?;
        let Some((leader, _)) = self.reports.leader(id, self.now_ms) else {
            return Err(Why::NoLeader { shard: id });
        };
        for node in members.iter().filter(|node| !shard.wanted.members.contains_key(node)) {
            if !self.is_serving(*node) {
                return Err(Why::NotServing { node: *node });
            }
            // A group without a leader sends nothing, so it takes no turn.
            let incoming = self.counts.incoming.get(node).into_iter().flatten();
            let senders: Vec<NodeId> = incoming
                .filter_map(|shard| Some(self.reports.leader(*shard, self.now_ms)?.0))
                .collect();
            if senders.len() >= INCOMING_MAX || senders.contains(&leader) {
                return Err(Why::Turn { shard: id, node: *node });
            }
        }
        self.plan(Command::Want { shard: id, members });
        self.counts = Counts::of(&self.topology);
        Ok(())
    }

    /// A node for which a group that is not settled has a change to make.
    fn in_the_way(&self, shard: &Shard) -> Option<NodeId> {
        let comes = shard.wanted.lives().find(|life| !shard.is.voters.contains(life));
        let goes = || shard.is.lives().find(|life| !shard.wanted.has(life));
        comes.or_else(goes).map(|life| life.node)
    }

    /// Why a group that is not settled does not get on, if the reports show it.
    pub(super) fn stuck(&self, id: ShardId) -> Option<Why> {
        let shard = self.topology.shard(id)?;
        let node = self.in_the_way(shard)?;
        let wanted = shard.wanted.lives().collect();
        let path = steps(id, &shard.is, &wanted, |node| self.is_heard(node));
        let leader = || self.reports.leader(id, self.now_ms);
        match path {
            Err(why) => Some(why),
            Ok(_) if leader().is_none() => Some(Why::NoLeader { shard: id }),
            Ok(_) => Some(Why::Changing { shard: id, node }),
        }
    }

    /// The node that should take one more replica beside `members`: in the zone with the fewest of
    /// them, then the one with the fewest replicas of all, then the one with the lowest id.
    pub(super) fn choose(&self, members: &BTreeSet<NodeId>) -> Option<NodeId> {
        let replicas = |node: &NodeId| self.counts.replicas.get(node).copied().unwrap_or(0);
        self.able()
            .filter(|node| !members.contains(node))
            .min_by_key(|node| (self.beside(*node, members), replicas(node), *node))
    }

    pub(super) fn is_serving(&self, node: NodeId) -> bool {
        self.topology.node(node).is_some_and(|node| node.state == NodeState::Serving)
    }

    /// The nodes that can take replicas.
    pub(super) fn able(&self) -> impl Iterator<Item = NodeId> + '_ {
        let serving = self.topology.nodes().iter();
        let serving = serving.filter(|(_, node)| node.state == NodeState::Serving);
        serving.map(|(id, _)| *id).filter(|id| self.is_heard(*id))
    }

    /// How many of `members`, without the node itself, are in the zone of the node.
    pub(super) fn beside(&self, node: NodeId, members: &BTreeSet<NodeId>) -> usize {
        let zone = |id: &NodeId| self.topology.node(*id).and_then(|node| node.zone.as_deref());
        let Some(own) = zone(&node) else { return 0 };
        members.iter().filter(|other| **other != node && zone(other) == Some(own)).count()
    }

    /// These members, grown or shrunk to `count`. `None` if there are too few nodes.
    ///
    /// Of those that go, first are nodes that are not heard of or not serving, then those in the
    /// fullest zone, then those with most replicas.
    pub(super) fn resized(
        &self,
        id: ShardId,
        mut members: BTreeSet<NodeId>,
        count: usize,
    ) -> Option<BTreeSet<NodeId>> {
        let able: BTreeSet<NodeId> = self.able().collect();
        let replicas = &self.counts.replicas;
        let preference = self.topology.shard(id).and_then(|shard| shard.preference);
        let leader = preference.map(|preference| preference.node);
        while members.len() > count {
            let worst = members.iter().copied().max_by_key(|node| {
                let load = replicas.get(node);
                let is_unable = !able.contains(node);
                (is_unable, self.beside(*node, &members), Some(*node) != leader, load, *node)
            });
            members.retain(|node| Some(*node) != worst);
        }
        while members.len() < count {
            members.insert(self.choose(&members)?);
        }
        Some(members)
    }

    /// The members with another in the place of `old`: `new` if it is given and free. `old` itself is
    /// not chosen again, because it is leaving or not heard of.
    pub(super) fn replaced(
        &self,
        id: ShardId,
        old: NodeId,
        new: Option<NodeId>,
    ) -> Result<BTreeSet<NodeId>, Why> {
        let shard = self.topology.shard(id);
        let mut members: BTreeSet<NodeId> =
            shard.iter().flat_map(|shard| shard.wanted.members.keys().copied()).collect();
        members.remove(&old);
        let new = new.filter(|node| !members.contains(node));
        let new = new.or_else(|| self.choose(&members));
        members.insert(new.ok_or(Why::NoRoom { shard: id })?);
        Ok(members)
    }

    /// Replaces the replicas of a node that has been silent for long, if the settings say so.
    ///
    /// - One node at a time: a node whose replicas are on their way out goes first, and the next one
    ///   waits until the groups have their new members.
    /// - Not if a third of the nodes is silent: then it is rather the network, or this controller.
    /// - A node that waits for either is named.
    pub(super) fn repair(&mut self) {
        let Some(after_s) = self.topology.cluster().settings.repair_after_s else { return };
        let silent: Vec<NodeId> = self
            .topology
            .present()
            .map(|(node, _)| node)
            .filter(|node| !self.is_heard(*node))
            .collect();
        let is_due = |node: &NodeId| {
            self.reports.silent_ms(*node, self.now_ms) / 1_000 >= after_s
                && !self.topology.running().any(|(_, job)| job.kind.nodes().contains(node))
        };
        let concerned =
            |node: &NodeId| self.topology.shards().values().any(|shard| shard.concerns(*node));
        let has_begun = |node: NodeId| {
            let shards = self.topology.shards().values();
            shards.flat_map(|shard| shard.leaving.keys()).any(|life| life.node == node)
        };
        // A node for which a group is at work elsewhere. One without a leader would hold up all others.
        let at_work = |node: NodeId| {
            self.topology.shards().iter().find_map(|(id, shard)| {
                let is_led = || self.reports.leader(*id, self.now_ms).is_some();
                let other = self.in_the_way(shard).filter(|_| !shard.concerns(node))?;
                is_led().then_some(other)
            })
        };
        let due = || silent.iter().copied().filter(|node| is_due(node) && concerned(node));
        let nodes = self.topology.present().count();
        if silent.len() * 3 >= nodes {
            let why = Why::ManySilent { silent: silent.len() as u32, nodes: nodes as u32 };
            let why = due().next().map(|_| why);
            self.plan.stalls.extend(why);
            return;
        }
        let free = due().filter(|node| has_begun(*node) || at_work(*node).is_none());
        let dead = free.min_by_key(|node| (Reverse(has_begun(*node)), *node));
        let waits = due().filter(|node| Some(*node) != dead);
        let waits: Vec<Why> = waits
            .filter_map(|node| {
                Some(Why::OneAtATime { node, other: dead.or_else(|| at_work(node))? })
            })
            .collect();
        self.plan.stalls.extend(waits);
        let Some(dead) = dead else { return };
        for id in self.wanting(dead) {
            let done = self.replaced(id, dead, None).and_then(|members| self.wish(id, members));
            self.plan.stalls.extend(done.err());
        }
    }

    /// The shards that want a replica on the node.
    pub(super) fn wanting(&self, node: NodeId) -> Vec<ShardId> {
        let shards = self.topology.shards().iter();
        let wanting = shards.filter(|(_, shard)| shard.wanted.members.contains_key(&node));
        wanting.map(|(id, _)| *id).collect()
    }

    /// Whether a job removes this node, and no other shard than META has a replica there any more.
    fn is_nearly_out(&self, id: NodeId) -> bool {
        let removes = |job: &Job| match job.kind {
            JobKind::RemoveNode { node } | JobKind::ReplaceNode { old: node, .. } => node == id,
            _ => false,
        };
        let is_leaving = self.topology.node(id).map(|node| node.state) == Some(NodeState::Leaving);
        let mut shards = self.topology.shards().iter();
        is_leaving
            && self.topology.running().any(|(_, job)| removes(job))
            && !shards.any(|(shard, known)| *shard != META && known.concerns(id))
    }

    /// Gives META five members on five nodes or more, three on three or more, and else one.
    ///
    /// A node counts until META is all that is left on it, because a removal that waits or was
    /// cancelled must not cost META members.
    pub(super) fn size_meta(&mut self) {
        let Some(meta) = self.topology.shard(META) else { return };
        let present = self.topology.present().map(|(id, _)| id);
        let count = match present.filter(|node| !self.is_nearly_out(*node)).count() {
            5.. => 5,
            3.. => 3,
            _ => 1,
        };
        let members: BTreeSet<NodeId> = meta.wanted.members.keys().copied().collect();
        // With some nodes down or draining there may be too few: then as many as there are.
        let able = self.able().chain(members.iter().copied()).collect::<BTreeSet<_>>().len();
        let Some(resized) = self.resized(META, members.clone(), count.min(able)) else { return };
        let done = match resized == members {
            true => self.pass_over_silent(META, None),
            false => self.wish(META, resized),
        };
        self.plan.stalls.extend(done.err());
    }
}
