//! Which member of each shard should lead.
//!
//! The load of a node is that of the shards that it leads or is about to lead. A shard without a
//! preferred leader gets one, and a shard led by a node that is not serving gets another. Apart from
//! that, leadership moves only from a node that has much more than others, because each move costs a
//! pause. This module knows nothing of how leadership is handed over.

use super::Round;
use crate::command::Command;
use crate::state::*;
use routing::{NodeId, ShardId};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The load of a shard with no operations, in operations per second: heartbeats.
const GROUP_OPS: u64 = 10;
/// How long a node rests after a move of a leadership from it or to it.
const NODE_REST_MS: u64 = 3_000;

/// From which imbalance on leaderships move.
///
/// The imbalance is how far the busiest node is above the mean. What one move gains would be no
/// measure, because a node with many shards is never relieved much by the move of one.
#[derive(Clone, Copy, Debug)]
struct Bar {
    /// How far it is at least, in percent of the mean.
    percent: u64,
    /// And in operations per second.
    ops_per_s: u64,
    /// What a move gains at least.
    gain_ops_per_s: u64,
    /// How long the shard must have rested since its last move.
    shard_rest_ms: u64,
}

/// For moves that nobody asked for.
const BY_ITSELF: Bar =
    Bar { percent: 15, ops_per_s: 500, gain_ops_per_s: 50, shard_rest_ms: 300_000 };
/// For moves that an operator asked for.
const ON_REQUEST: Bar = Bar { percent: 5, ops_per_s: 1, gain_ops_per_s: 1, shard_rest_ms: 0 };

impl Round<'_> {
    /// Prefers a leader where none is preferred, or where a node leads that should not.
    ///
    /// All leaderships of a node that should not lead get their next leaders in one plan. How many
    /// of them move at a time is up to that node.
    pub(super) fn place_leaders(&mut self) {
        let shards: Vec<ShardId> = self.topology.shards().keys().copied().collect();
        let mut loads = self.leader_loads();
        for id in shards {
            let leader = self.leader(id);
            let leaves = leader.is_some_and(|node| !self.is_serving(node));
            let next = match () {
                () if leaves && self.successor(id).is_none() => self.best(id, leader, &loads),
                () if leaves || self.preferred(id).is_some() => None,
                // The present leader, so that nothing moves, or else the best.
                () => {
                    let stays = leader.filter(|node| self.wants(id, *node));
                    stays.or_else(|| self.best(id, None, &loads))
                }
            };
            let Some(node) = next else { continue };
            if let Some(load) = loads.get_mut(&node).filter(|_| leader != next) {
                *load += self.ops(id);
            }
            self.plan(Command::Prefer { shard: id, node });
        }
    }

    /// Moves leaderships from a node that has much more than others.
    pub(super) fn relieve_the_busiest(&mut self) {
        self.even_out(BY_ITSELF);
    }

    /// Evens out leaderships, because an operator asked for it. Returns whether none is left to move
    /// or on its way.
    pub(super) fn even_out_leaders(&mut self) -> bool {
        self.even_out(ON_REQUEST)
    }

    fn even_out(&mut self, bar: Bar) -> bool {
        let mut is_even = self.moving().is_none();
        while let Some((shard, to)) = self.best_move(bar) {
            is_even = false;
            let planned = self.plan.commands.len();
            if self.has_rested(shard, to, bar) {
                self.plan(Command::Prefer { shard, node: to });
            }
            if self.plan.commands.len() == planned {
                break;
            }
        }
        is_even
    }

    /// The first shard whose leadership is on its way.
    pub(super) fn moving(&self) -> Option<ShardId> {
        let is_moving =
            |id: &ShardId| self.successor(*id).is_some_and(|to| self.leader(*id) != Some(to));
        self.topology.shards().keys().copied().find(is_moving)
    }

    /// The move that relieves the busiest node most, if that node is far enough above the mean.
    ///
    /// A move gains how much the higher of the two nodes has less afterwards. At least half of the
    /// load that moves is gained, so no move is near to its own reversal.
    fn best_move(&self, bar: Bar) -> Option<(ShardId, NodeId)> {
        let loads = self.leader_loads();
        let (busiest, load) = loads.iter().max_by_key(|(node, load)| (**load, **node))?;
        let mean = loads.values().sum::<u64>() / loads.len() as u64;
        let above = load - mean;
        if above < bar.ops_per_s || above * 100 < mean * bar.percent {
            return None;
        }
        // Among equal moves the one to the node with the least load, so that no node is filled up.
        let mut best: Option<((u64, Reverse<u64>), ShardId, NodeId)> = None;
        for (id, shard) in self.topology.shards() {
            let is_calm = self.leader(*id) == Some(*busiest)
                && self.preferred(*id) == Some(*busiest)
                && self.is_calm(shard, bar.shard_rest_ms);
            if !is_calm {
                continue;
            }
            let ops = self.ops(*id);
            for to in self.candidates(*id).filter(|to| to != busiest) {
                let others = loads.get(&to).copied().unwrap_or(0);
                let highest = (load - ops).max(others + ops);
                let relief = load.saturating_sub(highest);
                let gains = relief >= bar.gain_ops_per_s && relief * 2 >= ops;
                let gain = (relief, Reverse(others));
                if gains && best.is_none_or(|(most, _, _)| gain > most) {
                    best = Some((gain, *id, to));
                }
            }
        }
        best.map(|(_, shard, to)| (shard, to))
    }

    /// Whether the shard's preference is old enough. A time in the future is of a clock that was
    /// wrong, and counts as old once it is as far away.
    fn is_calm(&self, shard: &Shard, rest_ms: u64) -> bool {
        let is_old =
            |leader: Preference| self.now_ms.abs_diff(leader.at_s.saturating_mul(1_000)) >= rest_ms;
        shard.preference.is_none_or(is_old)
    }

    /// Whether neither node of this move took part in another one lately.
    fn has_rested(&self, id: ShardId, to: NodeId, bar: Bar) -> bool {
        let from = self.preferred(id);
        let takes_part = |node: NodeId| node == to || Some(node) == from;
        let is_fresh = |shard: &Shard| !self.is_calm(shard, NODE_REST_MS);
        let moved = |shard: &Shard| {
            // A preference without a node before it moved nothing.
            let preference = shard.preference.filter(|leader| leader.from.is_some());
            preference.is_some_and(|leader| {
                takes_part(leader.node) || leader.from.is_some_and(takes_part)
            })
        };
        let shard = self.topology.shard(id);
        shard.is_some_and(|shard| self.is_calm(shard, bar.shard_rest_ms))
            && !self.topology.shards().values().any(|shard| is_fresh(shard) && moved(shard))
    }

    /// The load of what each serving node leads or is about to lead.
    fn leader_loads(&self) -> BTreeMap<NodeId, u64> {
        let mut loads: BTreeMap<NodeId, u64> = self.able().map(|node| (node, 0)).collect();
        for id in self.topology.shards().keys() {
            let leads = self.successor(*id).or_else(|| self.leader(*id));
            if let Some(load) = leads.and_then(|node| loads.get_mut(&node)) {
                *load += self.ops(*id);
            }
        }
        loads
    }

    fn ops(&self, id: ShardId) -> u64 {
        let leader = self.reports.leader(id, self.now_ms);
        // Bounded, so that no report can overflow a sum.
        GROUP_OPS + leader.map_or(0, |(_, replica)| replica.ops_per_s.min(u64::from(u32::MAX)))
    }

    pub(super) fn leader(&self, id: ShardId) -> Option<NodeId> {
        self.reports.leader(id, self.now_ms).map(|(node, _)| node)
    }

    fn preferred(&self, id: ShardId) -> Option<NodeId> {
        self.topology.shard(id)?.preference.map(|leader| leader.node)
    }

    /// The preferred leader, if it can take the lead.
    fn successor(&self, id: ShardId) -> Option<NodeId> {
        self.preferred(id).filter(|node| self.candidates(id).any(|able| able == *node))
    }

    fn wants(&self, id: ShardId, node: NodeId) -> bool {
        let shard = self.topology.shard(id);
        shard.is_some_and(|shard| shard.wanted.members.contains_key(&node))
    }

    /// The members that could lead: wanted voters on serving nodes that are level.
    fn candidates(&self, id: ShardId) -> impl Iterator<Item = NodeId> + '_ {
        let shard = self.topology.shard(id);
        let lives = shard
            .into_iter()
            .flat_map(|shard| shard.wanted.lives().filter(|life| shard.is.voters.contains(life)));
        lives
            .filter(move |life| self.reports.is_level(id, *life, self.now_ms))
            .map(|life| life.node)
            .filter(|node| self.is_serving(*node))
    }

    /// The member with the least load that could lead.
    fn best(
        &self,
        id: ShardId,
        not: Option<NodeId>,
        loads: &BTreeMap<NodeId, u64>,
    ) -> Option<NodeId> {
        let others = self.candidates(id).filter(|node| Some(*node) != not);
        others.min_by_key(|node| (loads.get(node).copied().unwrap_or(0), *node))
    }
}
