//! Hands all leaderships over before the node ends, while it still serves.
//!
//! How clients would notice the end otherwise:
//!
//! 1. A node that just ends leads until the others miss its heartbeats, and its shards serve
//!    nothing for an election timeout or two.
//! 2. A node that refuses operations while it still leads has them tried again and again until
//!    another replica leads.
//! 3. A gateway that has not heard of the new leaders sends operations to the old one, whose
//!    streams end before the answers come. They may or may not have been done.
//!
//! So the node serves until it leads nothing, and for a moment after that. Only then is anything
//! stopped.

use crate::context::Context;
use crate::limits::{HANDOVER_MAX, HANDOVER_TRY, LINGER};
use crate::view::View;
use routing::{NodeId, ShardId};
use shard::{Input, Status};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The period at which the handovers are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The replicas that were asked to take over, by shard: when last, and how many so far.
#[derive(Debug, Default)]
struct Asked {
    shards: BTreeMap<ShardId, (Instant, usize)>,
}

impl Asked {
    /// The shards to hand over now, each with its next leader. `led` are the shards led here.
    ///
    /// A replica that does not take over in [`HANDOVER_TRY`] is followed by another one. The shards
    /// of a node go to different nodes, so that none gets the load of all.
    fn look(
        &mut self,
        now: Instant,
        me: NodeId,
        led: &[Status],
        view: &View,
    ) -> Vec<(ShardId, NodeId)> {
        let mut moves = Vec::new();
        for status in led {
            let others: Vec<NodeId> =
                status.caught_up.iter().copied().filter(|node| *node != me).collect();
            let former = self.shards.get(&status.shard);
            let is_due = former.is_none_or(|(at, _)| now.duration_since(*at) >= HANDOVER_TRY);
            if others.is_empty() || !is_due {
                continue;
            }
            let tries = former.map_or(0, |(_, tries)| *tries);
            let preferred = view.preferred_leader(status.shard);
            let to = match preferred.filter(|node| tries == 0 && others.contains(node)) {
                Some(preferred) => preferred,
                None => others[(status.shard.0 as usize + tries) % others.len()],
            };
            self.shards.insert(status.shard, (now, tries + 1));
            moves.push((status.shard, to));
        }
        moves
    }

    /// Whether the successor of a shard that was handed over just now is not known here yet.
    /// Operations are kept for it until then. `leaderless` are the shards without a known leader.
    fn awaits_successor(&self, now: Instant, leaderless: &[u32]) -> bool {
        let mut asked = leaderless.iter().filter_map(|shard| self.shards.get(&ShardId(*shard)));
        asked.any(|(at, _)| now.duration_since(*at) < HANDOVER_TRY)
    }
}

/// The shards that this node leads and another replica could lead.
fn led(context: &Context) -> Vec<Status> {
    let mut led = context.board.led();
    led.retain(|status| status.members.iter().filter(|member| !member.learner).count() > 1);
    led
}

/// Hands all leaderships over. Returns a moment after this node leads nothing, or after
/// [`HANDOVER_MAX`].
pub(crate) async fn hand_over(context: &Context) {
    let (began, me) = (Instant::now(), context.id);
    let view = context.view.now();
    let count = led(context).len();
    tracing::info!(node = %me, shards = count, "handing leaderships over");
    context.host.stand_aside();
    let (mut asked, mut leads_nothing_since) = (Asked::default(), None);
    loop {
        let (now, led) = (Instant::now(), led(context));
        let leaderless = context.board.shards_where(|status| status.leader.is_none());
        if led.is_empty() && !asked.awaits_successor(now, &leaderless) {
            let since = *leads_nothing_since.get_or_insert(now);
            if now.duration_since(since) >= LINGER {
                let took_ms = since.duration_since(began).as_millis() as u64;
                tracing::info!(node = %me, shards = count, took_ms, "leads no shard any more");
                return;
            }
        } else {
            // A peer may hand leadership back here meanwhile, which is handed on like the others.
            leads_nothing_since = None;
        }
        if now.duration_since(began) >= HANDOVER_MAX {
            if !led.is_empty() {
                let shards: Vec<String> = led.iter().map(|led| led.shard.to_string()).collect();
                tracing::warn!(
                    node = %me,
                    shards = shards.join(", "),
                    "no other replica took over these shards: they have no leader until their next \
                     election. See whether the other nodes are up"
                );
            }
            return;
        }
        for (shard, to) in asked.look(now, me, &led, &view) {
            tracing::debug!(%shard, %to, "handing leadership over");
            context.host.input(shard, Input::Transfer { to });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::ClusterConfig;

    const ME: NodeId = NodeId(1);

    fn led(shard: u32, caught_up: &[u64]) -> Status {
        let caught_up = caught_up.iter().map(|id| NodeId(*id)).collect();
        Status { shard: ShardId(shard), caught_up, ..Status::default() }
    }

    /// Four shards on five nodes.
    fn view() -> View {
        View::of(&ClusterConfig::dev(4, 5, 20_000).unwrap())
    }

    #[test]
    fn the_shards_of_a_node_go_to_different_nodes() {
        let (view, now) = (view(), Instant::now());
        let all: Vec<Status> = (0..4).map(|shard| led(shard, &[1, 2, 3, 4, 5])).collect();
        let moves = Asked::default().look(now, ME, &all, &view);
        assert_eq!(moves.len(), 4);
        assert!(moves.iter().all(|(_, to)| *to != ME), "{moves:?}");
        let mine = |shard: &ShardId| view.preferred_leader(*shard) == Some(ME);
        for (shard, to) in moves.iter().filter(|(shard, _)| !mine(shard)) {
            assert_eq!(view.preferred_leader(*shard), Some(*to), "the preferred one");
        }
        let mut to: Vec<NodeId> = moves.iter().map(|(_, to)| *to).collect();
        to.sort_unstable();
        to.dedup();
        assert!(to.len() >= 3, "{moves:?}");
    }

    #[test]
    fn another_replica_is_asked_if_the_first_does_not_take_over() {
        let (view, start, mut asked) = (view(), Instant::now(), Asked::default());
        let mut look = |after: Duration, caught_up: &[u64]| {
            asked.look(start + after, ME, &[led(0, caught_up)], &view)
        };
        assert_eq!(look(Duration::ZERO, &[1]), [], "no other is caught up");
        let [(_, first)] = look(LOOK_EVERY, &[1, 2, 3])[..] else { panic!("it is due") };
        assert_eq!(look(2 * LOOK_EVERY, &[1, 2, 3]), [], "the first one has some time");
        let [(_, second)] = look(LOOK_EVERY + HANDOVER_TRY, &[1, 2, 3])[..] else {
            panic!("it is due")
        };
        assert_ne!(first, second);
    }

    #[test]
    fn a_node_waits_for_a_while_until_it_knows_its_successors() {
        let (view, start, mut asked) = (view(), Instant::now(), Asked::default());
        assert_eq!(asked.look(start, ME, &[led(2, &[1, 2])], &view).len(), 1);
        assert!(asked.awaits_successor(start, &[1, 2]));
        assert!(!asked.awaits_successor(start, &[]), "it is known");
        assert!(!asked.awaits_successor(start, &[1]), "that shard was led elsewhere before");
        assert!(!asked.awaits_successor(start + HANDOVER_TRY, &[2]), "it takes too long");
    }
}
