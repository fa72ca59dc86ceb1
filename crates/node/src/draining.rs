//! Hands leaderships away from a node that is drained or removed, at once.
//!
//! Ordinary placement moves one shard in a second, and only to a replica that has been caught up for a
//! while (`placement.rs`). A drained node is about to be stopped, so an operator waits for it. It hands
//! over [`DRAINED_AT_ONCE`] shards at a time, each as soon as another replica can lead it:
//!
//! * To the replica that the topology prefers, because the plan has spread the load. A shard without
//!   such a preference waits for one for [`PREFERENCE_MAX`], and then goes to any other replica on a
//!   serving node.
//! * META goes last, because the plans come from its leader: a new leader first waits for reports.
//!
//! How leadership is handed over without a failed operation, `parts/handover.rs` in `shard` tells. The
//! module knows nothing of the verb that waits for the end.

use crate::context::Context;
use crate::limits::{
    DRAIN_LOOK_EVERY, DRAINED_AT_ONCE, HANDOVER_TRY, PREFERENCE_MAX, STATUS_EVERY_MS,
};
use routing::{META, NodeId, ShardId};
use shard::{Input, Status};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use topology::{NodeState, Topology};

/// Whether the topology wants the node to lead nothing.
pub(crate) fn should_lead_nothing(topology: &Topology, node: NodeId) -> bool {
    let state = topology.node(node).map(|node| node.state);
    matches!(state, Some(NodeState::Draining | NodeState::Leaving))
}

/// Hands leaderships away whenever this node should lead nothing, until the future is dropped.
pub(crate) async fn lead_nothing_when_drained(context: Arc<Context>) {
    loop {
        context.cluster.once(|topology| should_lead_nothing(topology, context.id)).await;
        tracing::info!("this node is drained or removed: handing its leaderships over");
        let mut asked = Asked::default();
        loop {
            let topology = context.cluster.now();
            if !should_lead_nothing(&topology, context.id) {
                break; // it serves again
            }
            let led = context.board.led();
            for (shard, to) in asked.look(Instant::now(), context.id, &led, &topology) {
                tracing::info!(%shard, %to, "handing leadership over, because this node is drained");
                context.host.input(shard, Input::Transfer { to });
            }
            let is_idle = led.is_empty();
            let idle = Duration::from_millis(STATUS_EVERY_MS); // nothing is known earlier
            tokio::time::sleep(if is_idle { idle } else { DRAIN_LOOK_EVERY }).await;
        }
    }
}

/// A shard that is led here and should not be.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    since: Instant,
    /// When a replica was asked last.
    asked: Option<Instant>,
    tries: usize,
}

/// The shards that are led here, and which replicas were asked to take over.
///
/// * At most [`DRAINED_AT_ONCE`] are handed over at a time. A replica that does not take over within
///   [`HANDOVER_TRY`] is followed by another one.
#[derive(Debug, Default)]
struct Asked {
    shards: BTreeMap<ShardId, Leaving>,
}

impl Asked {
    /// The shards to hand over now, each with its next leader. `led` are those led by node `me`.
    fn look(
        &mut self,
        now: Instant,
        me: NodeId,
        led: &[Status],
        topology: &Topology,
    ) -> Vec<(ShardId, NodeId)> {
        self.shards.retain(|shard, _| led.iter().any(|status| status.shard == *shard));
        let is_fresh = |leaving: &Leaving| {
            leaving.asked.is_some_and(|asked| now.duration_since(asked) < HANDOVER_TRY)
        };
        let under_way = self.shards.values().filter(|leaving| is_fresh(leaving)).count();
        let able = |status: &Status| -> Vec<NodeId> {
            let is_able = |node: &NodeId| {
                let known = topology.node(*node);
                *node != me && known.is_some_and(|known| known.state == NodeState::Serving)
            };
            status.successors.iter().copied().filter(is_able).collect()
        };
        let others_go = led.iter().any(|status| status.shard != META && !able(status).is_empty());
        let mut moves = Vec::new();
        for status in led {
            let shard = status.shard;
            let leaving = self.shards.entry(shard);
            let leaving = leaving.or_insert(Leaving { since: now, asked: None, tries: 0 });
            let able = able(status);
            let waits = is_fresh(leaving) || able.is_empty() || (shard == META && others_go);
            if waits || under_way + moves.len() >= DRAINED_AT_ONCE {
                continue;
            }
            let preference = topology.shard(shard).and_then(|shard| shard.preference);
            let preferred = preference.map(|preferred| preferred.node);
            let to = match preferred.filter(|node| leaving.tries == 0 && able.contains(node)) {
                Some(preferred) => preferred,
                None if now.duration_since(leaving.since) < PREFERENCE_MAX => continue,
                None => able[(shard.0 as usize + leaving.tries) % able.len()],
            };
            (leaving.asked, leaving.tries) = (Some(now), leaving.tries + 1);
            moves.push((shard, to));
        }
        moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::founded_from;
    use routing::ClusterConfig;
    use topology::{Command, Proposal};

    const ME: NodeId = NodeId(1);

    fn led(shard: ShardId, successors: &[u64]) -> Status {
        let successors = successors.iter().map(|id| NodeId(*id)).collect();
        Status { shard, successors, ..Status::default() }
    }

    fn apply(topology: &mut Topology, command: Command) {
        topology.apply(&Proposal::new(1_800_000_000, command)).unwrap();
    }

    /// Twelve shards and META on three nodes. Node 1 is drained, and all prefer node 2.
    fn drained() -> Topology {
        let mut topology = founded_from(&ClusterConfig::dev(12, 3, 20_000).unwrap());
        let state = NodeState::Draining;
        apply(&mut topology, Command::SetNodeState { node: ME, state });
        for shard in topology.shards().keys().copied().collect::<Vec<_>>() {
            apply(&mut topology, Command::Prefer { shard, node: NodeId(2) });
        }
        topology
    }

    #[test]
    fn only_a_node_that_is_drained_or_removed_should_lead_nothing() {
        let mut topology = drained();
        assert!(should_lead_nothing(&topology, ME));
        assert!(!should_lead_nothing(&topology, NodeId(2)));
        assert!(!should_lead_nothing(&topology, NodeId(9)), "no node of the topology");
        let state = NodeState::Leaving;
        apply(&mut topology, Command::SetNodeState { node: ME, state });
        assert!(should_lead_nothing(&topology, ME));
    }

    #[test]
    fn four_shards_go_at_a_time_at_once_and_meta_goes_last() {
        let (topology, now) = (drained(), Instant::now());
        let mut left: Vec<ShardId> = topology.shards().keys().copied().collect();
        assert_eq!((left.len(), left.last()), (13, Some(&META)));
        let (mut asked, mut rounds) = (Asked::default(), Vec::new());
        while !left.is_empty() {
            let led: Vec<Status> = left.iter().map(|shard| led(*shard, &[2, 3])).collect();
            let moves = asked.look(now, ME, &led, &topology);
            assert!(moves.iter().all(|(_, to)| *to == NodeId(2)), "the preferred one: {moves:?}");
            assert_eq!(asked.look(now, ME, &led, &topology), [], "four are under way");
            let moved = moves.iter().map(|(shard, _)| *shard).collect::<Vec<_>>();
            left.retain(|shard| !moved.contains(shard));
            rounds.push(moved);
        }
        assert_eq!(rounds.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4, 1]);
        assert_eq!(rounds[3], [META]);
    }

    #[test]
    fn another_replica_on_a_serving_node_is_asked_if_the_preferred_one_does_not_take_over() {
        let (mut topology, start) = (drained(), Instant::now());
        let mut asked = Asked::default();
        let of = |successors: &[u64]| [led(ShardId(0), successors)];
        assert_eq!(asked.look(start, ME, &of(&[]), &topology), [], "none is caught up");
        let first = asked.look(start, ME, &of(&[2, 3]), &topology);
        assert_eq!(first, [(ShardId(0), NodeId(2))]);
        let later = start + PREFERENCE_MAX.max(HANDOVER_TRY);
        let state = NodeState::Draining;
        apply(&mut topology, Command::SetNodeState { node: NodeId(2), state });
        let second = asked.look(later, ME, &of(&[2, 3]), &topology);
        assert_eq!(second, [(ShardId(0), NodeId(3))], "node 2 is drained, too");
        // Once the shard has moved, it is forgotten.
        assert_eq!(asked.look(later, ME, &[], &topology), []);
        assert!(asked.shards.is_empty());
    }

    #[test]
    fn a_shard_waits_a_moment_for_its_preference() {
        let mut topology = founded_from(&ClusterConfig::dev(1, 3, 20_000).unwrap());
        let state = NodeState::Draining;
        let preferred = topology.shard(ShardId(0)).unwrap().preference.unwrap().node;
        apply(&mut topology, Command::SetNodeState { node: preferred, state });
        let (mut asked, start) = (Asked::default(), Instant::now());
        let others: Vec<u64> = (1..=3).filter(|id| NodeId(*id) != preferred).collect();
        let led = [led(ShardId(0), &others)];
        assert_eq!(asked.look(start, preferred, &led, &topology), []);
        let soon = start + PREFERENCE_MAX - Duration::from_millis(1);
        assert_eq!(asked.look(soon, preferred, &led, &topology), []);
        assert_eq!(asked.look(start + PREFERENCE_MAX, preferred, &led, &topology).len(), 1);
    }
}
