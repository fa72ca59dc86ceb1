//! The death of nodes: their threads end, followers notice the silence, one follower is elected,
//! and the gateway finds the new leader.
//!
//! The model leaves out split votes and nodes that come back.

use crate::agenda::Ns;
use crate::group::{NodeIx, ShardIx};
use crate::world::{Event, World};

/// While a shard has no leader, a gateway asks again after this time.
const RETRY_NS: f64 = 50e6;
/// Round trips from the first candidate's timeout to its first committed entry: the question
/// whether it may stand, the vote, the entry.
const ROUND_TRIPS: u64 = 3;
/// Syncs of an election: the vote and the entry are each on disk before they count.
const SYNCS: u64 = 2;

impl World {
    /// Ends these nodes, all at one moment.
    pub(crate) fn die(&mut self, nodes: &[NodeIx]) {
        for node in nodes {
            self.end_threads(*node);
        }
        for shard in 0..self.groups.len() {
            if self.groups[shard].leader.is_some_and(|leader| !self.nodes[leader].alive) {
                let orphaned = self.groups[shard].orphaned();
                self.wait_for_leader(shard, orphaned);
                if let Some((delay, node)) = self.election(shard) {
                    self.agenda.after(delay, Event::Elected(shard, node));
                }
            }
        }
    }

    /// The time until an election ends, and the elected node; `None` without a quorum.
    fn election(&mut self, shard: ShardIx) -> Option<(Ns, NodeIx)> {
        let replicas = self.groups[shard].replicas.clone();
        let alive: Vec<NodeIx> =
            replicas.iter().copied().filter(|node| self.nodes[*node].alive).collect();
        if alive.len() < planner::quorum(replicas.len() as u32) as usize {
            return None;
        }
        let (ticks, tick_ns) = (self.setting.election_ticks, self.setting.tick_ns as f64);
        // All followers heard the same last heartbeat.
        let silent = self.random.between(0.0, self.setting.heartbeat_ticks);
        let timeouts =
            alive.into_iter().map(|node| (self.random.between(ticks, 2.0 * ticks), node));
        let (timeout, node) = timeouts.min_by(|left, right| left.0.total_cmp(&right.0))?;
        let sync_ns = SYNCS * self.sync_ns();
        let noticed = ((timeout - silent).max(0.0) * tick_ns) as Ns;
        Some((noticed + ROUND_TRIPS * 2 * self.setting.link_ns + sync_ns, node))
    }

    pub(crate) fn elected(&mut self, shard: ShardIx, node: NodeIx) {
        self.groups[shard].elected(node);
        let asked_again = self.random.between(0.0, RETRY_NS) as Ns;
        self.served_again[shard] = Some(self.agenda.now() + asked_again);
        self.agenda.after(asked_again, Event::Retry(shard));
    }
}
