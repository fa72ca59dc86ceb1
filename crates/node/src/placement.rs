//! Returns leadership to the replicas that the topology prefers, gently.

use crate::context::Context;
use crate::draining::should_lead_nothing;
use crate::limits::{PLACEMENT_EVERY, PLACEMENT_PATIENCE};
use routing::{NodeId, ShardId};
use shard::{Input, Status};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The shards that should be handed over, and the time since when.
///
/// * At most one shard is handed over per look, so that a node that comes back is not overwhelmed.
/// * A shard is handed over only to a replica that has been caught up for [`PLACEMENT_PATIENCE`]
///   without a break.
#[derive(Debug, Default)]
struct Wishes {
    since: BTreeMap<ShardId, Instant>,
}

impl Wishes {
    /// Returns a shard to hand over, and its next leader. `led` are the shards led here;
    /// `preferred` names the node that should lead a shard.
    fn look(
        &mut self,
        now: Instant,
        patience: Duration,
        me: NodeId,
        led: &[Status],
        preferred: impl Fn(ShardId) -> Option<NodeId>,
    ) -> Option<(ShardId, NodeId)> {
        let wanted: BTreeMap<ShardId, NodeId> = led
            .iter()
            .filter_map(|status| Some((status, preferred(status.shard)?)))
            .filter(|(status, to)| *to != me && status.caught_up.contains(to))
            .map(|(status, to)| (status.shard, to))
            .collect();
        self.since.retain(|shard, _| wanted.contains_key(shard));
        for shard in wanted.keys() {
            self.since.entry(*shard).or_insert(now);
        }
        let ripe = |shard: &ShardId| now.duration_since(self.since[shard]) >= patience;
        let (shard, to) = wanted.into_iter().find(|(shard, _)| ripe(shard))?;
        self.since.remove(&shard); // a shard that does not move must ripen again
        Some((shard, to))
    }
}

/// Places leaders until the future is dropped.
pub(crate) async fn place_leaders(context: Arc<Context>) {
    let mut wishes = Wishes::default();
    let mut every = tokio::time::interval(PLACEMENT_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if should_lead_nothing(&context.cluster.now(), context.id) {
            continue; // `draining.rs` does not wait
        }
        let view = context.view.now();
        let led = context.board.led();
        if let Some((shard, to)) =
            wishes.look(Instant::now(), PLACEMENT_PATIENCE, context.id, &led, |shard| {
                view.preferred_leader(shard)
            })
        {
            tracing::info!(%shard, %to, "handing leadership to the preferred replica");
            context.host.input(shard, Input::Transfer { to });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(shard: u32, caught_up: &[u64]) -> Status {
        let caught_up = caught_up.iter().map(|id| NodeId(*id)).collect();
        Status { shard: ShardId(shard), caught_up, ..Status::default() }
    }

    #[test]
    fn a_shard_moves_only_to_a_replica_that_stays_caught_up() {
        let mut wishes = Wishes::default();
        let start = Instant::now();
        let mut look = |at_s: u64, led: &[Status]| {
            let now = start + Duration::from_secs(at_s);
            wishes.look(now, Duration::from_secs(3), NodeId(1), led, |_| Some(NodeId(2)))
        };
        assert_eq!(look(0, &[led(0, &[1, 2])]), None);
        assert_eq!(look(2, &[led(0, &[1])]), None, "it fell behind");
        assert_eq!(look(4, &[led(0, &[1, 2])]), None, "the patience starts anew");
        assert_eq!(look(7, &[led(0, &[1, 2])]), Some((ShardId(0), NodeId(2))));
        assert_eq!(look(8, &[led(0, &[1, 2])]), None, "not at once again");
    }

    #[test]
    fn one_shard_at_a_time() {
        let mut wishes = Wishes::default();
        let start = Instant::now();
        let both = [led(0, &[1, 2]), led(1, &[1, 2])];
        let mut look = |at_s: u64, led: &[Status]| {
            let now = start + Duration::from_secs(at_s);
            wishes.look(now, Duration::from_secs(3), NodeId(1), led, |_| Some(NodeId(2)))
        };
        assert_eq!(look(0, &both), None);
        assert_eq!(look(3, &both), Some((ShardId(0), NodeId(2))));
        assert_eq!(look(4, &both), Some((ShardId(1), NodeId(2))));
    }

    #[test]
    fn what_is_in_place_stays() {
        let mut wishes = Wishes::default();
        let start = Instant::now();
        for at_s in 0..10 {
            let now = start + Duration::from_secs(at_s);
            let moved =
                wishes.look(now, Duration::from_secs(3), NodeId(1), &[led(0, &[1, 2])], |_| {
                    Some(NodeId(1))
                });
            assert_eq!(moved, None);
        }
    }
}
