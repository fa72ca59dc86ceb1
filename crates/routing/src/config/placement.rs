//! Placement: the nodes of each shard, and the preferred leader among them.
//!
//! The same file gives the same answer, whatever the order of its nodes. The replicas of a shard
//! are on distinct nodes. This module knows nothing of load: all shards count alike.

use super::{ClusterConfig, NodeConfig};
use crate::ids::{MapVersion, NodeId, ShardId};
use crate::map::{Replicas, ShardMap};
use std::collections::{BTreeMap, VecDeque};

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

struct Placer {
    nodes: Vec<Candidate>,
    zones: Vec<ZoneLoad>,
    /// Number of replicas of all shards together.
    replicas_total: u64,
}

struct Candidate {
    id: NodeId,
    /// Index in `zones`.
    zone: usize,
    replicas: u64,
}

struct ZoneLoad {
    nodes: u64,
    replicas: u64,
}

impl Placer {
    fn new(nodes: &[NodeConfig], replicas_total: u64) -> Placer {
        let mut by_zone: BTreeMap<Zone<'_>, Vec<NodeId>> = BTreeMap::new();
        for node in nodes {
            by_zone.entry(node.zone()).or_default().push(node.id);
        }
        let zones =
            by_zone.values().map(|ids| ZoneLoad { nodes: ids.len() as u64, replicas: 0 }).collect();
        let in_zone = |(zone, ids): (usize, Vec<NodeId>)| {
            ids.into_iter().map(move |id| Candidate { id, zone, replicas: 0 })
        };
        let mut nodes: Vec<Candidate> =
            by_zone.into_values().enumerate().flat_map(in_zone).collect();
        nodes.sort_by_key(|node| node.id);
        Placer { nodes, zones, replicas_total }
    }

    /// Places the next shard, of the `shards_left` that are not placed yet.
    fn place(&mut self, replicas: usize, shards_left: u64) -> Vec<NodeId> {
        let nodes_total = self.nodes.len() as i128;
        // Each zone's share of this shard if all nodes end with the same load, times `denominator`.
        let denominator = nodes_total * i128::from(shards_left);
        let shares: Vec<i128> = (self.zones.iter())
            .map(|zone| {
                let all = i128::from(self.replicas_total) * i128::from(zone.nodes);
                (all - nodes_total * i128::from(zone.replicas)).max(0)
            })
            .collect();
        let mut of_zone = vec![0i128; self.zones.len()];
        let mut taken = vec![false; self.nodes.len()];
        let mut placed = Vec::with_capacity(replicas);
        for _ in 0..replicas {
            // The choice goes by these criteria, in this order:
            //
            // 1. The least loaded node, which keeps all nodes within one replica of each other.
            // 2. A zone that has not yet had its share of this shard, so that large zones are not
            //    left over for the last shards.
            // 3. The zone that this shard uses least.
            // 4. The zone with the largest rest of its share.
            let best = (0..self.nodes.len()).filter(|at| !taken[*at]).min_by_key(|at| {
                let (node, zone) = (&self.nodes[*at], self.nodes[*at].zone);
                let has_its_share = of_zone[zone] >= shares[zone] / denominator;
                let to_come = shares[zone] - of_zone[zone] * denominator;
                (node.replicas, has_its_share, of_zone[zone], -to_come, node.id)
            });
            let best = best.expect("validated: a shard has no more replicas than there are nodes");
            taken[best] = true;
            let node = &mut self.nodes[best];
            node.replicas += 1;
            of_zone[node.zone] += 1;
            self.zones[node.zone].replicas += 1;
            placed.push(node.id);
        }
        placed.sort();
        placed
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
