//! What each running job does next, how far it is, and why it does not go on.
//!
//! A job has no state of its own: what is left to do is seen from the topology and the reports. So a
//! new controller goes on where the last one stopped. This module knows nothing of how members and
//! leaders are chosen.

use super::steps::quorum;
use super::{LEVEL_LAG_ENTRIES, Round};
use crate::command::Command;
use crate::state::*;
use crate::why::{Lack, Unready, Why};
use routing::{META, NodeId, ShardId};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// How a job stands after its part of a plan.
#[derive(Default)]
struct Standing {
    /// Shards that are left.
    left: u32,
    why: Option<Why>,
    is_done: bool,
}

impl Standing {
    fn done() -> Standing {
        Standing { is_done: true, ..Standing::default() }
    }

    /// Counts a shard that is left. The first reason is kept.
    fn left(&mut self, why: Option<Why>) {
        self.left += 1;
        self.why = self.why.take().or(why);
    }
}

impl Round<'_> {
    /// Plans for each job, oldest first. They share the limits of what goes on at a time.
    pub(super) fn work_on_jobs(&mut self) {
        let running: Vec<(JobId, Job)> =
            self.topology.running().map(|(id, job)| (id, job.clone())).collect();
        for (id, job) in running {
            let standing = match job.kind {
                JobKind::Drain { node } => self.drain(node),
                JobKind::Undrain { node } => self.undrain(node),
                JobKind::ReplaceNode { old, new } => self.empty(old, Some(new)),
                JobKind::RemoveNode { node } => self.empty(node, None),
                JobKind::Replicas { count, shard } => self.resize(count as usize, shard),
                JobKind::Rebalance { what: Balance::Members } => self.even_out_members(),
                JobKind::Rebalance { what: Balance::Leaders } => {
                    let is_done = self.even_out_leaders();
                    let why = self.moving().map(|id| match self.leader(id) {
                        Some(node) => Why::Leads { shard: id, node },
                        None => Why::NoLeader { shard: id },
                    });
                    Standing { is_done, why: why.filter(|_| !is_done), left: 0 }
                }
            };
            let total = job.progress.total.max(standing.left);
            let progress = Progress { done: total - standing.left, total };
            let Standing { why, is_done, .. } = standing;
            let why = why.map(|why| why.at_level(self.topology.level()));
            self.plan(Command::JobProgress { job: id, progress, why, is_done });
        }
    }

    /// Takes leaderships away from a node, and waits until all its shards can do without it.
    fn drain(&mut self, node: NodeId) -> Standing {
        if self.topology.node(node).map(|node| node.state) == Some(NodeState::Serving) {
            self.plan(Command::SetNodeState { node, state: NodeState::Draining });
        }
        let mut standing = Standing::default();
        for id in self.hosting(node) {
            // What keeps a leadership here is most often what makes the node needed.
            let why = match self.leader(id) {
                None => Some(Why::NoLeader { shard: id }),
                Some(leader) => {
                    let leads = || (leader == node).then_some(Why::Leads { shard: id, node });
                    self.needs(id, node).or_else(leads)
                }
            };
            if why.is_some() {
                standing.left(why);
            }
        }
        standing.is_done = standing.left == 0;
        standing
    }

    /// Why a shard would have no quorum of level voters without a node, if so. Nodes that are drained may
    /// be stopped at any time, so they do not count.
    fn needs(&self, id: ShardId, node: NodeId) -> Option<Why> {
        let voters = &self.topology.shard(id)?.is.voters;
        if !voters.iter().any(|life| life.node == node) {
            return None;
        }
        let others = voters.iter().filter(|life| life.node != node);
        let is_level = |life: &&Life| {
            self.reports.is_level(id, **life, self.now_ms)
                && !self.reports.is_behind(id, life.node, self.now_ms)
        };
        let (level, others): (Vec<&Life>, Vec<&Life>) = others.partition(is_level);
        // Of two drains under way, each would wait for the other.
        let is_under_way = |node: NodeId| {
            self.topology.running().any(|(_, job)| job.kind == JobKind::Drain { node })
        };
        let is_drained = |id: NodeId| {
            let node = self.topology.node(id);
            node.is_some_and(|node| node.state == NodeState::Draining) && !is_under_way(id)
        };
        let drained: Vec<NodeId> =
            level.iter().map(|life| life.node).filter(|node| is_drained(*node)).collect();
        if level.len() - drained.len() >= quorum(voters.len()) {
            return None;
        }
        if let Some(node) = drained.first().filter(|_| level.len() >= quorum(voters.len())) {
            return Some(Why::NotServing { node: *node });
        }
        if others.is_empty() {
            return Some(Why::TooFew { shard: id, node, voters: voters.len() as u32 });
        }
        let others = others.into_iter().map(|life| self.unready(id, *life)).collect();
        Some(Why::Unready { shard: id, node, others })
    }

    /// What a voter that is not level lacks.
    fn unready(&self, id: ShardId, life: Life) -> Unready {
        let node = life.node;
        let report = self.reports.nodes.get(&node).filter(|_| self.is_heard(node));
        let lack = match report.map(|report| report.replicas.get(&id)) {
            None => Lack::Down,
            Some(Some(replica)) if replica.birth == life.birth => {
                // Its node has died, and its last report is of the time before.
                let is_silent = replica.lag_entries <= LEVEL_LAG_ENTRIES
                    && self.reports.is_behind(id, node, self.now_ms);
                match is_silent {
                    true => Lack::Down,
                    false => Lack::Entries { entries: roughly(replica.lag_entries) },
                }
            }
            Some(_) => Lack::Replica,
        };
        Unready { node, lack }
    }

    fn undrain(&mut self, node: NodeId) -> Standing {
        self.plan(Command::SetNodeState { node, state: NodeState::Serving });
        Standing::done()
    }

    /// Moves all replicas of a node elsewhere, and removes it once none is left.
    fn empty(&mut self, node: NodeId, new: Option<NodeId>) -> Standing {
        self.plan(Command::SetNodeState { node, state: NodeState::Leaving });
        let mut standing = Standing::default();
        let hosting = self.hosting(node);
        for id in hosting {
            let is_wanted = self.wanting_has(id, node);
            let wished = match is_wanted {
                true => self.replaced(id, node, new).and_then(|members| self.wish(id, members)),
                false => self.pass_over_silent(id, new),
            };
            let why = wished.err().or_else(|| self.stuck(id));
            standing.left(why);
        }
        for id in self.unheard_on(node) {
            standing.left(Some(Why::NoLeader { shard: id }));
        }
        if standing.left == 0 {
            self.plan(Command::SetNodeState { node, state: NodeState::Removed });
            standing.is_done = true;
        }
        standing
    }

    /// The shards with a replica on the node that no kept topology has there, while their groups have
    /// told nothing since the topology was built again.
    fn unheard_on(&self, node: NodeId) -> Vec<ShardId> {
        let replicas =
            self.reports.nodes.get(&node).into_iter().flat_map(|one| one.replicas.keys());
        let is_unheard = |id: &ShardId| {
            let shard = self.topology.shard(*id);
            shard.is_some_and(|shard| self.topology.is_unheard(shard) && !shard.concerns(node))
        };
        replicas.copied().filter(is_unheard).collect()
    }

    /// Wants another node in the place of one that died while it came. Only the one that the operator
    /// has named is waited for.
    pub(super) fn pass_over_silent(
        &mut self,
        id: ShardId,
        named: Option<NodeId>,
    ) -> Result<(), Why> {
        let shard = self.topology.shard(id);
        let coming = shard
            .into_iter()
            .flat_map(|shard| shard.wanted.lives().filter(|life| !shard.is.voters.contains(life)));
        let silent = coming.map(|life| life.node).find(|node| !self.is_heard(*node));
        let Some(node) = silent else { return Ok(()) };
        if named == Some(node) {
            return Err(Why::Silent { node });
        }
        match self.replaced(id, node, named) {
            Ok(members) => self.wish(id, members),
            Err(_) => Err(Why::Silent { node }),
        }
    }

    fn wanting_has(&self, id: ShardId, node: NodeId) -> bool {
        let shard = self.topology.shard(id);
        shard.is_some_and(|shard| shard.wanted.members.contains_key(&node))
    }

    /// The shards that may have a replica on the node.
    fn hosting(&self, node: NodeId) -> Vec<ShardId> {
        let shards = self.topology.shards().iter().filter(|(_, shard)| shard.concerns(node));
        shards.map(|(id, _)| *id).collect()
    }

    /// Gives shards another number of members.
    fn resize(&mut self, count: usize, only: Option<ShardId>) -> Standing {
        let mut standing = Standing::default();
        let shards = self.topology.shards().keys().copied();
        let chosen = shards.filter(|id| *id != META && only.is_none_or(|only| only == *id));
        for id in chosen.collect::<Vec<_>>() {
            let Some(shard) = self.topology.shard(id) else { continue };
            if shard.wanted.members.len() == count {
                if !shard.is_settled() {
                    let passed = self.pass_over_silent(id, None);
                    standing.left(passed.err().or_else(|| self.stuck(id)));
                }
                continue;
            }
            let members: BTreeSet<NodeId> = shard.wanted.members.keys().copied().collect();
            let resized = self.resized(id, members, count).ok_or(Why::NoRoom { shard: id });
            let wished = resized.and_then(|members| self.wish(id, members));
            standing.left(wished.err().or_else(|| self.stuck(id)));
        }
        standing.is_done = standing.left == 0;
        standing
    }

    /// Moves replicas from nodes with many to nodes with few, where no zone gets fuller than the one
    /// that the replica leaves.
    fn even_out_members(&mut self) -> Standing {
        let mut standing = Standing::default();
        let shards = self.topology.shards().iter();
        let unsettled = shards.filter(|(id, shard)| **id != META && !shard.is_settled());
        let unsettled = unsettled.map(|(id, _)| *id);
        for id in unsettled.collect::<Vec<_>>() {
            let passed = self.pass_over_silent(id, None);
            standing.left(passed.err().or_else(|| self.stuck(id)));
        }
        while let Some((id, members)) = self.evening_move() {
            let planned = self.plan.commands.len();
            match self.wish(id, members) {
                Ok(()) if self.plan.commands.len() == planned => {
                    standing.left(None); // it was refused, and would be again
                    break;
                }
                Ok(()) => standing.left(None),
                Err(why) => {
                    standing.left(Some(why));
                    break;
                }
            }
        }
        standing.is_done = standing.left == 0;
        standing
    }

    /// A move of one replica that brings the fullest and the emptiest node nearer to each other.
    fn evening_move(&self) -> Option<(ShardId, BTreeSet<NodeId>)> {
        let replicas = |node: &NodeId| self.counts.replicas.get(node).copied().unwrap_or(0);
        let mut nodes: Vec<NodeId> = self.able().collect();
        nodes.sort_by_key(|node| (Reverse(replicas(node)), *node));
        let pairs = nodes.iter().flat_map(|from| nodes.iter().rev().map(move |to| (*from, *to)));
        let uneven = pairs.filter(|(from, to)| replicas(from) >= replicas(to) + 2);
        for (from, to) in uneven {
            for id in self.wanting(from).into_iter().filter(|id| *id != META) {
                let Some(shard) = self.topology.shard(id) else { continue };
                let mut members: BTreeSet<NodeId> = shard.wanted.members.keys().copied().collect();
                members.remove(&from);
                let fits = !members.contains(&to)
                    && self.beside(to, &members) <= self.beside(from, &members);
                if shard.is_settled() && fits {
                    members.insert(to);
                    return Some((id, members));
                }
            }
        }
        None
    }
}

/// The number with one significant digit. A job that waits would otherwise be written anew, and raise
/// the version, with each report.
fn roughly(entries: u64) -> u64 {
    let unit = 10u64.pow(entries.checked_ilog10().unwrap_or(0));
    entries / unit * unit
}

#[cfg(test)]
mod tests {
    use super::roughly;

    #[test]
    fn a_rough_number_stays_while_the_exact_one_falls() {
        let rough = [0, 7, 10, 1_999, 2_000, 40_211, u64::MAX].map(roughly);
        assert_eq!(rough, [0, 7, 10, 1_000, 2_000, 40_000, 10_000_000_000_000_000_000]);
    }
}
