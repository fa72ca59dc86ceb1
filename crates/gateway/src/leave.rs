//! Cleans up after clients that are gone: leaves queues in their name, and releases grants that no
//! client knows of.
//!
//! Each cleanup is retried until it is answered, or until its acquire has ended by itself. Cleanups
//! take no capacity from clients: a cancel goes with the short operations, and the number of
//! cleanups at the same time is bounded.

use crate::limits::{LEAVE_MISSES, LEAVE_PAUSE, LEAVE_TIMEOUT_MS, LEAVES_AT_ONCE, LEAVES_MAX};
use crate::router::{NEVER, Router};
use crate::share::WaitPlace;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use link::mux::Answer;
use routing::ShardId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use wire::ErrorClass;
use wire::internal::v1::CancelWait;
use wire::internal::v1::operation::Op;
use wire::internal::v1::operation_result::Result as RoutedAnswer;
use wire::limits::{DEFAULT_TIMEOUT_MS, DEFAULT_TTL_MS, REQUEST_ID_BYTES};
use wire::v1::{AcquireRequest, CancelWaitResponse, Grant, ReleaseRequest};

/// One acquire of a client that is gone.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) name: String,
    pub(crate) request_id: Vec<u8>,
    /// This gateway chose the request id, so no client can ever take up the grant.
    pub(crate) ours: bool,
    /// The release to send, if the acquire was granted.
    pub(crate) granted: Option<ReleaseRequest>,
    /// How many more times the acquire is looked for if it is in no queue.
    pub(crate) misses: u32,
    /// The time by which the acquire has ended by itself.
    pub(crate) until: Instant,
    /// The place of a wait. It is held until the first try to leave the queue has ended, and no
    /// longer. Without a leader all tries may fail for as long as the wait, and the place is needed
    /// for clients that live.
    pub(crate) place: Option<WaitPlace>,
}

impl Left {
    /// Records an acquire that is not known to be granted.
    pub(crate) fn of(
        acquire: &AcquireRequest,
        timeout_ms: u32,
        ours: bool,
        place: Option<WaitPlace>,
    ) -> Left {
        let ttl_ms = if acquire.ttl_ms == 0 { DEFAULT_TTL_MS } else { acquire.ttl_ms };
        let timeout_ms = if timeout_ms == 0 { DEFAULT_TIMEOUT_MS } else { timeout_ms };
        let all_ms = u64::from(acquire.wait_ms) + u64::from(timeout_ms) + u64::from(ttl_ms);
        Left {
            name: acquire.name.clone(),
            request_id: acquire.request_id.clone(),
            ours,
            granted: None,
            misses: if ours { 0 } else { LEAVE_MISSES },
            until: Instant::now() + Duration::from_millis(all_ms),
            place,
        }
    }
}

/// The release of a grant that no client took up. It names the session's own life, because the
/// session need not be told that the grant ended.
pub(crate) fn release(grant: Grant) -> ReleaseRequest {
    let Grant { resource_name: name, fencing_token, session_life, .. } = grant;
    ReleaseRequest { name, fencing_token, session_life }
}

/// The queue that takes acquires of clients that are gone.
#[derive(Clone, Debug)]
pub(crate) struct Leaving {
    queue: mpsc::UnboundedSender<Next>,
    count: Arc<AtomicUsize>,
}

/// The other end of [`Leaving`].
pub(crate) type LeftBehind = mpsc::UnboundedReceiver<Next>;

impl Leaving {
    pub(crate) fn new() -> (Leaving, LeftBehind) {
        let (queue, left) = mpsc::unbounded_channel(); // at most LEAVES_MAX
        (Leaving { queue, count: Arc::default() }, left)
    }

    /// Queues an acquire for cleanup. Above [`LEAVES_MAX`] it is dropped, and ends by its own time.
    ///
    /// If the first try has to queue behind others, the acquire's place is given back at once,
    /// because its turn may be minutes away.
    pub(crate) fn push(&self, mut left: Left) {
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        if before >= LEAVES_MAX {
            self.count.fetch_sub(1, Ordering::Relaxed);
            tracing::debug!(name = %left.name, "too much is left behind: its own time ends this");
            return;
        }
        if before >= LEAVES_AT_ONCE {
            left.place = None;
        }
        let _ = self.queue.send((left, 0)); // the gateway ends
    }

    fn done(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An acquire in flight. If it is dropped before the answer, its client is gone.
#[derive(Debug)]
pub(crate) struct Unanswered {
    leaving: Leaving,
    left: Option<Left>,
}

impl Unanswered {
    /// Tracks an acquire without a request id, and gives it one. No client can ever take up its
    /// grant, because only this gateway knows the id.
    ///
    /// `None` if the client sent an id, because it may come back with it.
    pub(crate) fn of(
        acquire: &mut AcquireRequest,
        timeout_ms: u32,
        leaving: &Leaving,
    ) -> Option<Unanswered> {
        if !acquire.request_id.is_empty() {
            return None;
        }
        acquire.request_id = rand::random::<[u8; REQUEST_ID_BYTES]>().to_vec();
        let left = Left::of(acquire, timeout_ms, true, None);
        Some(Unanswered { leaving: leaving.clone(), left: Some(left) })
    }

    /// Ends the tracking. If the answer leaves the outcome open, the acquire is cleaned up too:
    /// without an id its client cannot retry.
    pub(crate) fn answered(mut self, answer: Option<&Answer>) {
        if !answer.is_some_and(is_unknown) {
            self.left = None;
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(left) = self.left.take() {
            self.leaving.push(left);
        }
    }
}

/// Whether an answer leaves the outcome of the operation open.
pub(crate) fn is_unknown(answer: &Answer) -> bool {
    matches!(answer, Answer::Error(error) if error.class() == ErrorClass::Unknown)
}

/// A cleanup, and how many tries it had.
type Next = (Left, u32);

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
        let shard = router.map.route(&next.0.name).shard;
        let lane = lanes.entry(shard).or_default();
        lane.waiting.push_back(next);
        running.extend(lane.begin().map(|next| on(shard, router.clone(), next)));
    }
}

async fn on(shard: ShardId, router: Arc<Router>, (left, tries): Next) -> (ShardId, Option<Next>) {
    (shard, leave(router, left, tries).await)
}

/// The n-th pause: doubling, and spread at random so that cleanups that began together do not come
/// back together.
fn pause(tries: u32) -> Duration {
    let (first, longest) = LEAVE_PAUSE;
    (first * (1 << tries.min(10))).min(longest).mul_f64(rand::random_range(0.5..1.0))
}

/// Makes one try. Returns the cleanup if another try is due.
async fn leave(router: Arc<Router>, mut left: Left, tries: u32) -> Option<Next> {
    let failed = match &left.granted {
        None => {
            // If the client may come back, its retry must not find the request ended for good.
            let cancel = CancelWait {
                name: left.name.clone(),
                request_id: left.request_id.clone(),
                abandoned: !left.ours,
            };
            match router.by_name(Op::CancelWait(cancel), LEAVE_TIMEOUT_MS, &NEVER).await {
                // The cancel may have overtaken the acquire.
                Ok(RoutedAnswer::CancelWait(CancelWaitResponse {
                    cancelled: false,
                    grant: None,
                })) if left.misses > 0 => {
                    left.misses -= 1;
                    left.place = None;
                    return Some((left, tries + 1));
                }
                Ok(RoutedAnswer::CancelWait(cancelled)) => {
                    let grant = cancelled.grant?;
                    router.metrics.unseen_grants.inc();
                    if !left.ours {
                        // The grant may be in use: the client may have taken up its request through
                        // another gateway.
                        return None;
                    }
                    left.granted = Some(release(grant));
                    left.place = None;
                    return Box::pin(leave(router, left, tries)).await;
                }
                Ok(_) => return None,
                Err(error) => error,
            }
        }
        Some(release) => {
            match router.by_name(Op::Release(release.clone()), LEAVE_TIMEOUT_MS, &NEVER).await {
                Ok(_) => return None,
                Err(error) => error,
            }
        }
    };
    let again = matches!(failed.class(), ErrorClass::Retry | ErrorClass::Unknown)
        && Instant::now() < left.until;
    left.place = None;
    tracing::debug!(name = %left.name, error = %failed, again, "an acquire whose client is gone is not ended yet");
    again.then_some((left, tries + 1))
}
