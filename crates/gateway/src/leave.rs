//! Cleans up after clients that are gone: leaves queues in their name, and releases grants that no
//! client knows of.
//!
//! Each cleanup is retried until it is answered, or until its acquire has ended by itself. Cleanups
//! take no capacity from clients: a cancel goes with the short operations, and the number of
//! cleanups at the same time is bounded.

use crate::core::Next as After;
use crate::leaving::{LeftBehind, Next};
use crate::limits::{LEAVE_PAUSE, LEAVE_TIMEOUT_MS, LEAVES_AT_ONCE};
use crate::router::Router;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use link::mux::Answer;
use routing::ShardId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The cleanups of one shard.
#[derive(Debug, Default)]
struct Lane {
    running: usize,
    waiting: VecDeque<Next>,
}

impl Lane {
    fn begin(&mut self) -> Option<Next> {
        if self.running >= LEAVES_AT_ONCE {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.running += 1;
        Some(next)
    }
}

/// Runs cleanups until the gateway ends. At that point its own clients go on elsewhere with their
/// places, so nothing of theirs is cleaned up.
///
/// Each shard has its own lane. Tries on a shard without a leader take long, and in a common lane
/// they would hold up the cleanups of all other shards.
pub(crate) async fn work(
    router: Arc<Router>,
    mut left: LeftBehind,
    mut ending: watch::Receiver<bool>,
) {
    let mut running = FuturesUnordered::new();
    let mut lanes: BTreeMap<ShardId, Lane> = BTreeMap::new();
    let mut later: BTreeMap<(Instant, u64), Next> = BTreeMap::new();
    let mut number = 0;
    loop {
        let due = later.first_key_value().map(|((due, _), _)| *due);
        let next = tokio::select! {
            _ = ending.wait_for(|ending| *ending) => return,
            Some((shard, again)) = running.next() => {
                let lane = lanes.entry(shard).or_default();
                lane.running -= 1;
                running.extend(lane.begin().map(|next| on(shard, router.clone(), next)));
                match again {
                    Some((one, tries)) => {
                        number += 1;
                        later.insert((Instant::now() + pause(tries), number), (one, tries));
                    }
                    None => router.leaving.done(),
                }
                continue;
            }
            Some(next) = left.recv() => next,
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let Some((_, next)) = later.pop_first() else { continue };
                next
            }
        };
        let shard = router.directory.route(next.0.cleanup.name()).shard;
        let lane = lanes.entry(shard).or_default();
        lane.waiting.push_back(next);
        running.extend(lane.begin().map(|next| on(shard, router.clone(), next)));
    }
}

async fn on(shard: ShardId, router: Arc<Router>, next: Next) -> (ShardId, Option<Next>) {
    (shard, leave(router, next).await)
}

/// The n-th pause: doubling, and spread at random so that cleanups that began together do not come
/// back together.
fn pause(tries: u32) -> Duration {
    let (first, longest) = LEAVE_PAUSE;
    (first * (1 << tries.min(10))).min(longest).mul_f64(rand::random_range(0.5..1.0))
}

/// Makes one try. Returns the cleanup if another try is due.
async fn leave(router: Arc<Router>, (mut left, tries): Next) -> Option<Next> {
    loop {
        let answer = router.serve_own(&left.cleanup, LEAVE_TIMEOUT_MS).await;
        if let Answer::CancelWait(cancelled) = &answer
            && cancelled.grant.is_some()
        {
            router.metrics.unseen_grants.inc();
        }
        let after = left.cleanup.on_answer(&answer, router.now_ms());
        left.place = None;
        match after {
            After::AtOnce => {}
            After::Done => return None,
            After::Later => {
                let name = left.cleanup.name();
                tracing::debug!(name, ?answer, "an acquire whose client is gone has not ended yet");
                return Some((left, tries + 1));
            }
        }
    }
}
