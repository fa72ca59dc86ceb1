//! Cleans up after clients that are gone: leaves queues in their name, and releases grants that no
//! client knows of.
//!
//! Each cleanup is retried until it is answered, or until its acquire has ended by itself. Cleanups
//! take no capacity from clients: a cancel goes with the short operations, and the number of
//! cleanups at the same time is bounded.

use crate::core::{Cleanup, Next as After};
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
/// places, so nothing of theirs is cleaned up. Only acquires that no client can come back to are
/// ended, until [`Leaving::close`](crate::leaving::Leaving::close) and the last of them.
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
    let (mut number, mut is_ending) = (0, false);
    loop {
        let due = later.first_key_value().map(|((due, _), _)| *due);
        let is_idle = running.is_empty() && later.is_empty();
        let next = tokio::select! {
            biased;
            _ = ending.wait_for(|ending| *ending), if !is_ending => {
                is_ending = true;
                let stays = |next: &Next| stays(&router, next);
                lanes.values_mut().for_each(|lane| lane.waiting.retain(stays));
                later.retain(|_, next| stays(next));
                continue;
            }
            Some((shard, again)) = running.next() => {
                let lane = lanes.entry(shard).or_default();
                lane.running -= 1;
                running.extend(lane.begin().map(|next| on(shard, router.clone(), next)));
                match again {
                    Some(next) if is_ending && !stays(&router, &next) => {}
                    Some((one, tries)) => {
                        number += 1;
                        later.insert((Instant::now() + pause(tries), number), (one, tries));
                    }
                    None => router.leaving.done(),
                }
                continue;
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let Some((_, next)) = later.pop_first() else { continue };
                next
            }
            Some(next) = left.recv() => next,
            () = router.leaving.closed(), if is_ending && is_idle => return,
        };
        if is_ending && !stays(&router, &next) {
            continue;
        }
        let shard = router.directory.route(next.0.cleanup.name()).shard;
        let lane = lanes.entry(shard).or_default();
        lane.waiting.push_back(next);
        running.extend(lane.begin().map(|next| on(shard, router.clone(), next)));
    }
}

/// Whether a cleanup is made while the gateway ends. One that is not counts as ended.
fn stays(router: &Router, (left, _): &Next) -> bool {
    let stays = left.cleanup.is_ours();
    if !stays {
        router.leaving.done();
    }
    stays
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
    // A grant would show the session and the token of a client.
    let code = answer.error_code();
    tracing::debug!(name, ?code, "an acquire whose client is gone has not ended yet");
    Some((left, tries + 1))
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
