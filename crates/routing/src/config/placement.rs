//! Placement: the nodes of each shard, and the preferred leader among them.
//!
//! The same file gives the same answer, whatever the order of its nodes. The replicas of a shard
//! are on distinct nodes. This module knows nothing of load: all shards count alike.

use super::{ClusterConfig, NodeConfig};
use crate::ids::{MapVersion, NodeId, ShardId};
use crate::map::{Replicas, ShardMap};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Version of the map that a cluster file describes. Later versions come from moves of slots and
/// nodes.
const FIRST_VERSION: MapVersion = MapVersion(1);

impl ClusterConfig {
    /// The map of version 1 that this file describes. The configuration must have been validated.
    pub fn shard_map(&self) -> ShardMap {
        let shards = if self.placement.is_empty() { self.spread() } else { self.explicit() };
        ShardMap::even(FIRST_VERSION, shards)
    }

    fn explicit(&self) -> BTreeMap<ShardId, Replicas> {
        let replicas =
            |nodes: &[NodeId]| Replicas { nodes: nodes.to_vec(), preferred_leader: nodes[0] };
        self.placement.iter().map(|placed| (placed.shard, replicas(&placed.nodes))).collect()
    }

    /// Spreads replicas and leaders over the nodes.
    ///
    /// - Two nodes differ by at most one replica.
    /// - Within that, a shard is spread over the zones as evenly as a choice shard by shard can. If
    ///   all zones have the same number of nodes, the spread is exactly even.
    /// - No other choice of leaders has fewer leaders on the node with the most.
    fn spread(&self) -> BTreeMap<ShardId, Replicas> {
        let mut placer =
            Placer::new(&self.nodes, u64::from(self.shards) * u64::from(self.replicas));
        let placed: Vec<Vec<NodeId>> = (0..self.shards)
            .map(|shard| placer.place(self.replicas as usize, u64::from(self.shards - shard)))
            .collect();
        let leaders = balanced_leaders(&placed);
        let replicas = placed
            .into_iter()
            .zip(leaders)
            .map(|(nodes, leader)| Replicas { nodes, preferred_leader: leader });
        (0..).map(ShardId).zip(replicas).collect()
    }
}

/// The zone of a node. A node without a zone name is a zone of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Zone<'a> {
    Named(&'a str),
    Own(NodeId),
}

impl NodeConfig {
    pub(super) fn zone(&self) -> Zone<'_> {
        self.zone.as_deref().map_or(Zone::Own(self.id), Zone::Named)
    }
}

/// Places shards one after the other, each replica on the best node that the shard has none on.
///
/// The best node is the first by these criteria, in this order:
///
/// 1. The least loaded node, which keeps all nodes within one replica of each other.
/// 2. A zone that has not yet had its share of this shard, so that large zones are not left over
///    for the last shards.
/// 3. The zone that this shard uses least.
/// 4. The zone with the largest rest of its share.
/// 5. The node with the lowest id.
///
/// Criteria 2 to 4 are the same for all nodes of a zone, and for all zones of one [`Load`] that the
/// shard does not use yet. So only the best node of each load is compared, and of each zone in use.
/// A cluster of 12,000 nodes without zones has two or three loads.
struct Placer {
    zones: Vec<Zoned>,
    /// All zones that the shard does not use yet, by their load, each with its best node.
    by_load: BTreeMap<Load, BTreeSet<(Candidate, usize)>>,
    nodes_total: i128,
    /// Number of replicas of all shards together.
    replicas_total: i128,
}

/// The nodes and the replicas of a zone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    nodes: u64,
    replicas: u64,
}

/// A node on which the shard has no replica. The first of a zone is its best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    replicas: u64,
    id: NodeId,
}

struct Zoned {
    load: Load,
    /// All of its nodes, but for those that the shard uses.
    candidates: BTreeSet<Candidate>,
}

/// A zone that the shard uses.
struct Used {
    zone: usize,
    /// The share of the zone as it was before the shard.
    share: i128,
    /// Its nodes that the shard uses, with this replica.
    taken: Vec<Candidate>,
}

impl Placer {
    fn new(nodes: &[NodeConfig], replicas_total: u64) -> Placer {
        let mut by_zone: BTreeMap<Zone<'_>, BTreeSet<Candidate>> = BTreeMap::new();
        for node in nodes {
            let candidate = Candidate { replicas: 0, id: node.id };
            by_zone.entry(node.zone()).or_default().insert(candidate);
        }
        let zoned = |candidates: BTreeSet<Candidate>| Zoned {
            load: Load { nodes: candidates.len() as u64, replicas: 0 },
            candidates,
        };
        let mut placer = Placer {
            zones: by_zone.into_values().map(zoned).collect(),
            by_load: BTreeMap::new(),
            nodes_total: nodes.len() as i128,
            replicas_total: i128::from(replicas_total),
        };
        (0..placer.zones.len()).for_each(|zone| placer.list(zone));
        placer
    }

    /// Places the next shard, of the `shards_left` that are not placed yet.
    fn place(&mut self, replicas: usize, shards_left: u64) -> Vec<NodeId> {
        // Each zone's share of this shard if all nodes end with the same load, times `denominator`.
        let denominator = self.nodes_total * i128::from(shards_left);
        let key = |node: &Candidate, share: i128, used: i128| {
            let has_its_share = used >= share / denominator;
            (node.replicas, has_its_share, used, used * denominator - share, node.id)
        };
        let mut in_use: Vec<Used> = Vec::new();
        for _ in 0..replicas {
            let unused = self.by_load.iter().filter_map(|(load, zones)| {
                let (node, zone) = zones.first()?;
                Some((key(node, self.share(*load), 0), *zone))
            });
            let used = in_use.iter().filter_map(|used| {
                let node = self.zones[used.zone].candidates.first()?;
                Some((key(node, used.share, used.taken.len() as i128), used.zone))
            });
            let (_, zone) = (unused.chain(used).min())
                .expect("validated: a shard has no more replicas than there are nodes");
            if in_use.iter().all(|used| used.zone != zone) {
                self.unlist(zone);
                let share = self.share(self.zones[zone].load);
                in_use.push(Used { zone, share, taken: Vec::new() });
            }
            let used = in_use.iter_mut().find(|used| used.zone == zone).expect("added above");
            let node = self.zones[zone].candidates.pop_first().expect("it was the best node");
            used.taken.push(Candidate { replicas: node.replicas + 1, ..node });
        }
        let mut placed = Vec::with_capacity(replicas);
        for Used { zone, taken, .. } in in_use {
            placed.extend(taken.iter().map(|node| node.id));
            self.zones[zone].load.replicas += taken.len() as u64;
            self.zones[zone].candidates.extend(taken);
            self.list(zone);
        }
        placed.sort();
        placed
    }

    /// The replicas that a zone of this load gets yet, times the number of all nodes.
    fn share(&self, load: Load) -> i128 {
        let all = self.replicas_total * i128::from(load.nodes);
        (all - self.nodes_total * i128::from(load.replicas)).max(0)
    }

    /// Puts a zone into `by_load`.
    fn list(&mut self, zone: usize) {
        let Zoned { load, candidates } = &self.zones[zone];
        let best = *candidates.first().expect("a zone has a node");
        self.by_load.entry(*load).or_default().insert((best, zone));
    }

    /// Takes a zone out of `by_load`. Its load and its best node are as when it was put in.
    fn unlist(&mut self, zone: usize) {
        let Zoned { load, candidates } = &self.zones[zone];
        let best = *candidates.first().expect("a zone has a node");
        let zones = self.by_load.get_mut(load).expect("the zone is listed");
        zones.remove(&(best, zone));
        if zones.is_empty() {
            self.by_load.remove(load);
        }
    }
}

/// Chooses a leader for each shard from its replicas. The maximum of leaders per node is as small
/// as possible, then the number of nodes at the next count, and so on.
fn balanced_leaders(shards: &[Vec<NodeId>]) -> Vec<NodeId> {
    let mut led: BTreeMap<NodeId, usize> = shards.iter().flatten().map(|node| (*node, 0)).collect();
    let mut leaders = Vec::with_capacity(shards.len());
    for replicas in shards {
        let leader =
            *replicas.iter().min_by_key(|node| (led[node], **node)).expect("a shard has replicas");
        *led.entry(leader).or_default() += 1;
        leaders.push(leader);
    }
    // The greedy choice may be suboptimal. A chain of shards that leads from one node to another
    // with at least two leaders less is an improvement: each shard of the chain moves its leader
    // one step on. Without such a chain the choice is optimal.
    while let Some(chain) = improvement(shards, &leaders, &led) {
        for (shard, to) in chain {
            let from = std::mem::replace(&mut leaders[shard], to);
            *led.entry(from).or_default() -= 1;
            *led.entry(to).or_default() += 1;
        }
    }
    leaders
}

/// Finds such a chain: shards with their new leaders, last of the chain first.
fn improvement(
    shards: &[Vec<NodeId>],
    leaders: &[NodeId],
    led: &BTreeMap<NodeId, usize>,
) -> Option<Vec<(usize, NodeId)>> {
    let least = *led.values().min()?;
    let mut leads: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    for (shard, leader) in leaders.iter().enumerate() {
        leads.entry(*leader).or_default().push(shard);
    }
    for (start, most) in led.iter().filter(|(_, count)| **count >= least + 2) {
        // Breadth-first search. `from` holds the shard by which each node was reached.
        let mut from: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut queue = VecDeque::from([*start]);
        while let Some(node) = queue.pop_front() {
            if led[&node] + 2 <= *most {
                let (mut chain, mut to) = (Vec::new(), node);
                while to != *start {
                    let shard = from[&to];
                    chain.push((shard, to));
                    to = leaders[shard];
                }
                return Some(chain);
            }
            for shard in leads.get(&node).into_iter().flatten() {
                for next in shards[*shard].iter().filter(|next| **next != *start) {
                    if !from.contains_key(next) {
                        from.insert(*next, *shard);
                        queue.push_back(*next);
                    }
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
