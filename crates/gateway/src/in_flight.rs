//! The operations of one client that are not answered yet, and what becomes of its waits when it is lost.
//!
//! A client that loses its stream may come back, here or at another gateway, with the same request ids: its waiting acquires
//! keep their place for a grace period. The same request from elsewhere takes the place over, which ends the wait here.
//! What still waits after the grace leaves its queue.

use crate::router::Router;
use client::mux::Answer;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;
use wire::v1::operation::Op;
use wire::v1::{Operation, OperationResult};

/// A number of our own for each operation: clients may choose theirs badly.
type Key = u64;
type Running = FuturesUnordered<BoxFuture<'static, (Key, OperationResult)>>;
type Waiting = BTreeMap<Key, Wait>;

/// An acquire that may be in a queue.
#[derive(Clone, Debug)]
struct Wait {
    name: String,
    request_id: Vec<u8>,
    /// The client chose no id, so that nobody but this gateway can ever take up what comes of it.
    ours: bool,
}

/// * `waiting` holds exactly the waiting acquires among what is running, `scans` the lists and histories.
/// * Dropped while any of them run, it keeps those for the grace period, unless the gateway itself is ending.
pub(crate) struct InFlight {
    router: Arc<Router>,
    ending: watch::Receiver<bool>,
    abandoned: Arc<AtomicBool>,
    running: Running,
    waiting: Waiting,
    scans: BTreeSet<Key>,
    next_key: Key,
}

impl InFlight {
    pub(crate) fn new(router: Arc<Router>, ending: watch::Receiver<bool>) -> InFlight {
        InFlight {
            router,
            ending,
            abandoned: Arc::default(),
            running: Running::new(),
            waiting: Waiting::new(),
            scans: BTreeSet::new(),
            next_key: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    /// How many of them may be in a queue.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many of them are lists and histories.
    pub(crate) fn scans(&self) -> usize {
        self.scans.len()
    }

    /// Begins to serve an operation.
    pub(crate) fn push(&mut self, mut operation: Operation) {
        let key = self.next_key;
        self.next_key += 1;
        if operation.op.as_ref().is_some_and(is_scan) {
            self.scans.insert(key);
        }
        if let Some(Op::Acquire(acquire)) = &mut operation.op
            && acquire.wait_ms > 0
        {
            let ours = acquire.request_id.is_empty();
            if ours {
                acquire.request_id = rand::random::<[u8; wire::limits::REQUEST_ID_BYTES]>().to_vec();
            }
            let wait = Wait { name: acquire.name.clone(), request_id: acquire.request_id.clone(), ours };
            self.waiting.insert(key, wait);
        }
        let (router, abandoned, id) = (self.router.clone(), self.abandoned.clone(), operation.id);
        self.router.metrics.in_flight.inc();
        self.running.push(Box::pin(async move {
            let answer = router.serve(operation, &abandoned).await;
            (key, OperationResult { id, result: Some(answer) })
        }));
    }

    /// The next answer; `None` if nothing runs.
    pub(crate) async fn next(&mut self) -> Option<OperationResult> {
        let (key, result) = self.running.next().await?;
        self.router.metrics.in_flight.dec();
        self.waiting.remove(&key);
        self.scans.remove(&key);
        Some(result)
    }
}

/// Its answer can be large.
pub(crate) fn is_scan(op: &Op) -> bool {
    matches!(op, Op::List(_) | Op::History(_))
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
        let (running, waiting) = (std::mem::take(&mut self.running), std::mem::take(&mut self.waiting));
        self.router.metrics.in_flight.sub(running.len() as i64);
        if waiting.is_empty() || *self.ending.borrow() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(keep(self.router.clone(), self.ending.clone(), running, waiting));
    }
}

/// Lets lost waits run for the grace period, then takes them out of their queues.
///
/// What is granted meanwhile is let go only if its id is ours: see [`Router::leave_queue`].
async fn keep(router: Arc<Router>, mut ending: watch::Receiver<bool>, mut running: Running, mut waiting: Waiting) {
    let grace = tokio::time::sleep(router.waiter_grace());
    tokio::pin!(grace);
    while !waiting.is_empty() {
        tokio::select! {
            Some((key, result)) = running.next() => {
                if let (Some(wait), Some(Answer::Grant(grant))) = (waiting.remove(&key), result.result) {
                    router.metrics.unseen_grants.inc();
                    if wait.ours {
                        let router = router.clone();
                        tokio::spawn(async move { router.let_go(grant).await });
                    }
                }
            }
            () = &mut grace => break,
            _ = ending.wait_for(|ending| *ending) => return,
        }
    }
    router.metrics.waits_left.inc_by(waiting.len() as u64);
    let leave = |wait: Wait| {
        let router = router.clone();
        async move {
            let granted = router.leave_queue(wait.name, wait.request_id).await;
            if let Some(grant) = granted.filter(|_| wait.ours) {
                router.let_go(grant).await;
            }
        }
    };
    join_all(waiting.into_values().map(leave)).await;
}
