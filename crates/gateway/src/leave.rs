//! Cleans up after clients that are gone: leaves queues in their name, and releases grants that no
//! client knows of.
//!
//! Each cleanup is retried until it is answered, or until its acquire has ended by itself. Cleanups
//! take no capacity from clients: a cancel goes with the short operations, and the number of
//! cleanups at the same time is bounded.

use crate::core::{Cleanup, Next as After};
use crate::leaving::{LeftBehind, Next};
use crate::limits::{DRAIN_MAX, LEAVE_PAUSE, LEAVE_TIMEOUT_MS, LEAVES_AT_ONCE};
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
    let (after, answer) = try_once(&router, &mut left.cleanup).await;
    left.place = None;
    if after == After::Done {
        return None;
    }
    let name = left.cleanup.name();
    tracing::debug!(name, ?answer, "an acquire whose client is gone has not ended yet");
    Some((left, tries + 1))
}

/// Ends a wait while the gateway ends: tries again until it is answered, for at most [`DRAIN_MAX`].
pub(crate) async fn end_now(router: &Router, mut cleanup: Cleanup) {
    let ended = async {
        while try_once(router, &mut cleanup).await.0 != After::Done {
            tokio::time::sleep(LEAVE_PAUSE.0).await;
        }
    };
    if tokio::time::timeout(DRAIN_MAX, ended).await.is_err() {
        let name = cleanup.name();
        tracing::debug!(name, "a wait could not be ended within the drain: its own time ends it");
    }
}

/// Makes one try, with all that follows at once, and returns its last answer.
async fn try_once(router: &Router, cleanup: &mut Cleanup) -> (After, Answer) {
    loop {
        let answer = router.serve_own(cleanup, LEAVE_TIMEOUT_MS).await;
        if let Answer::CancelWait(cancelled) = &answer
            && cancelled.grant.is_some()
        {
            router.metrics.unseen_grants.inc();
        }
        match cleanup.on_answer(&answer, router.now_ms()) {
            After::AtOnce => {}
            after => return (after, answer),
        }
    }
}
